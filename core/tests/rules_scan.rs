//! The protocol's rules for a scanner (1 to 5), each in a test of its name: where it begins, what it says, what it may
//! commit.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support {
    pub mod log;
    pub mod scanner;
}

use crashmonitor_core::commit::ScanCommit;
use crashmonitor_core::frame::{FRAME_BYTES_FLUSH, Kind, MESSAGE_BYTES_MAX};
use crashmonitor_core::ids::{Epoch, InputOffset, SourceId, TopicId};
use crashmonitor_core::record::Malformed;
use crashmonitor_core::scan::start::{
    AggregateProgress, Claim, DataLoss, Decision, Facts, LogRange, LossKind, OnDataLoss, Policy,
    StartingOffsets, WaitFor, decide,
};
use crashmonitor_core::scan::{ROUNDS_IN_FLIGHT_MAX, RoundId, Scanned};
use support::log::{INPUT, INPUT_AGAIN, REPARTITION, at};
use support::scanner::*;

const LATEST: Policy =
    Policy { starting_offsets: StartingOffsets::Latest, on_data_loss: OnDataLoss::Continue };
const FAIL: Policy = Policy { starting_offsets: StartingOffsets::Latest, on_data_loss: OnDataLoss::Fail };

/// A monitor that starts: nothing committed, two partitions with records 5 to 20 each.
fn facts(source: u32) -> Facts {
    let log = LogRange { start: InputOffset(5), end: InputOffset(20) };
    Facts {
        source: SourceId(source),
        committed: None,
        committed_first: None,
        logs: vec![log, log],
        topic: INPUT,
        log_topic: REPARTITION,
        aggregate: AggregateProgress::Fresh,
    }
}

fn metadata(epoch: u64, mark: Option<i64>, topic: TopicId) -> ScanCommit {
    ScanCommit { epoch: Epoch(epoch), mark: mark.map(at), topic, resolved: 2, log_topic: REPARTITION }
}

/// A monitor that has run: `source` committed `offset` under epoch 7 with mark 100.
fn resumed(source: u32, offset: u64) -> Facts {
    let committed = Some((InputOffset(offset), metadata(7, Some(100), INPUT).encode()));
    Facts {
        committed_first: committed.clone(),
        committed,
        aggregate: AggregateProgress::Advanced,
        ..facts(source)
    }
}

fn claim(from: u64, lost_to: u64, loss: Option<LossKind>, metadata: ScanCommit) -> Decision {
    let (from, lost_to) = (InputOffset(from), InputOffset(lost_to));
    Decision::Claim(Claim { source: SourceId(0), from, lost_to, metadata, loss })
}

// Rule 1: start.

#[test]
fn rule_11_a_repartition_topic_that_was_made_again_stops_the_scanner() {
    let present = TopicId([9; 16]);
    // Its commits went with it: the aggregate looks as if it had never run.
    let again = Facts { log_topic: present, aggregate: AggregateProgress::Fresh, ..resumed(0, 9) };
    let stop = DataLoss::OtherLog { source_id: SourceId(0), committed: REPARTITION, present };
    assert_eq!(decide(&again, LATEST), Decision::Stop(stop));
}

#[test]
fn rule_01_the_owner_of_partition_0_resolves_all_starting_positions() {
    for (starting_offsets, offset) in [(StartingOffsets::Latest, 20), (StartingOffsets::Earliest, 5)] {
        let resolved = [0, 1].map(|n| (SourceId(n), InputOffset(offset), metadata(0, None, INPUT)));
        let decision = decide(&facts(0), Policy { starting_offsets, ..LATEST });
        assert_eq!(decision, Decision::Resolve(resolved.to_vec()));
    }
}

#[test]
fn rule_01_the_others_wait_for_it() {
    assert_eq!(decide(&facts(1), LATEST), Decision::Wait(WaitFor::Resolution));
}

#[test]
fn rule_01_a_partition_that_the_metadata_do_not_show_yet_is_waited_for() {
    assert_eq!(decide(&facts(2), LATEST), Decision::Wait(WaitFor::Metadata));
}

#[test]
fn rule_01_a_missing_commit_of_a_monitor_that_has_run_is_no_reset() {
    let missing = |n| Decision::Stop(DataLoss::CommitMissing { source_id: SourceId(n) });
    for source in [0, 1] {
        let expired = Facts { aggregate: AggregateProgress::Advanced, ..facts(source) };
        assert_eq!(decide(&expired, LATEST), missing(source));
    }
    let lost_one = Facts { committed: None, ..resumed(1, 9) };
    assert_eq!(decide(&lost_one, LATEST), missing(1));
}

#[test]
fn rule_01_a_partition_first_seen_later_begins_at_offset_0() {
    let log = LogRange { start: InputOffset(0), end: InputOffset(20) };
    let mut added = Facts { committed: None, ..resumed(2, 9) };
    added.logs.push(log);
    let Decision::Claim(claim) = decide(&added, LATEST) else { panic!("it is new, not lost") };
    assert_eq!((claim.from, claim.lost_to, claim.loss), (InputOffset(0), InputOffset(0), None));
    assert_eq!(claim.metadata, metadata(1, None, INPUT), "its own epoch and mark, not those of partition 0");
}

#[test]
fn rule_01_retention_that_overtook_is_a_named_loss() {
    let expected = claim(3, 5, Some(LossKind::RetentionOvertook), metadata(8, Some(100), INPUT));
    assert_eq!(decide(&resumed(0, 3), LATEST), expected);
}

#[test]
fn rule_01_a_loss_stops_where_the_owner_says_fail() {
    let lost =
        |from, kind| Decision::Stop(DataLoss::Lost { source_id: SourceId(0), from: InputOffset(from), kind });
    assert_eq!(decide(&resumed(0, 3), FAIL), lost(3, LossKind::RetentionOvertook));
    let recreated = Facts { topic: INPUT_AGAIN, ..resumed(0, 9) };
    assert_eq!(decide(&recreated, FAIL), lost(9, LossKind::TopicRecreated));
}

#[test]
fn rule_01_a_log_shorter_than_what_was_read_stops() {
    let (committed, end) = (InputOffset(21), InputOffset(20));
    let stop = Decision::Stop(DataLoss::LogShrank { source_id: SourceId(0), committed, end });
    assert_eq!(decide(&resumed(0, 21), LATEST), stop);
    assert!(matches!(decide(&resumed(0, 20), LATEST), Decision::Claim(_)));
}

#[test]
fn rule_01_foreign_metadata_stops() {
    for committed in [Some((InputOffset(9), "kafka-connect".to_owned())), None] {
        let foreign = Some((InputOffset(9), String::new()));
        let facts = Facts { committed, committed_first: foreign, ..facts(1) };
        assert!(matches!(decide(&facts, LATEST), Decision::Stop(DataLoss::Metadata { .. })));
    }
}

#[test]
fn rule_11_nothing_is_claimed_before_the_aggregate_has_committed_its_beginning() {
    for facts in [facts(0), facts(1), resumed(0, 9)] {
        let facts = Facts { aggregate: AggregateProgress::Incomplete, ..facts };
        assert_eq!(decide(&facts, LATEST), Decision::Wait(WaitFor::Aggregate));
    }
}

// Rule 2: claim.

#[test]
fn rule_02_a_start_raises_the_epoch_and_goes_on_at_the_committed_offset_and_mark() {
    assert_eq!(decide(&resumed(0, 9), LATEST), claim(9, 9, None, metadata(8, Some(100), INPUT)));
}

#[test]
fn rule_02_the_first_start_claims_epoch_1() {
    let committed = Some((InputOffset(20), metadata(0, None, INPUT).encode()));
    let facts = Facts { committed: committed.clone(), committed_first: committed, ..facts(0) };
    assert_eq!(decide(&facts, LATEST), claim(20, 20, None, metadata(1, None, INPUT)));
}

#[test]
fn rule_02_a_recreated_topic_is_claimed_from_its_first_record() {
    let facts = Facts { topic: INPUT_AGAIN, ..resumed(0, 900) };
    let expected = claim(5, 5, Some(LossKind::TopicRecreated), metadata(8, Some(100), INPUT_AGAIN));
    assert_eq!(decide(&facts, LATEST), expected);
}

#[test]
fn rule_02_the_claim_goes_to_every_shard_before_any_record() {
    let mut scanner = Scanner::new(3);
    let mut claim = claim_of(0, 4, 7);
    claim.metadata.mark = Some(at(50));
    scanner.scan.claim(&claim, scanner.now);
    scanner.crash(0, 7, 60, "u");
    let frames = scanner.flush();
    for shard in 0..3 {
        let first = frames.iter().find(|frame| frame.shard == shard).unwrap();
        assert_eq!((first.kind, first.epoch, first.from, first.to), (Kind::Claim, 4, 7, 7));
        assert_eq!(first.mark, Some(at(50)), "the mark that was committed, not that of what was read since");
    }
}

#[test]
fn rule_02_a_source_is_read_when_its_claim_is_in_every_shard() {
    let mut scanner = Scanner::new(3);
    scanner.claim(0, 4, 7);
    let round = scanner.send();
    for _ in &round.messages {
        assert_eq!(scanner.scan.take_readable(), [], "a shard has not met the source yet");
        scanner.scan.acknowledged(round.id);
    }
    assert_eq!(scanner.scan.take_readable(), [(SourceId(0), InputOffset(7))]);
    assert_eq!(scanner.scan.take_readable(), [], "once");
}

#[test]
fn rule_02_only_its_own_round_makes_a_source_readable() {
    let mut scanner = Scanner::new(1);
    scanner.claim(0, 4, 7);
    let first = scanner.send();
    scanner.claim(1, 4, 9);
    scanner.scan.acknowledged(first.id);
    assert_eq!(scanner.scan.take_readable(), [(SourceId(0), InputOffset(7))], "1 is not even sent");
}

#[test]
fn rule_02_a_claim_after_a_loss_says_what_was_lost() {
    let mut scanner = Scanner::new(1);
    let lost_to = InputOffset(12);
    scanner.scan.claim(&Claim { lost_to, ..claim_of(0, 4, 7) }, scanner.now);
    let said: Vec<_> = scanner.flush().into_iter().map(|f| (f.kind, f.from, f.to)).collect();
    assert_eq!(said, [(Kind::Claim, 7, 7), (Kind::Lost, 7, 12)]);
    assert_eq!((scanner.view(0).next.0, scanner.committable()), (12, vec![(0, 12)]));
}

#[test]
fn rule_02_a_source_that_is_released_says_nothing_more() {
    let mut scanner = Scanner::claimed(2);
    scanner.crash(0, 0, 1, "u");
    scanner.crash(1, 0, 1, "u");
    let round = scanner.send();
    scanner.scan.release(SourceId(0));
    scanner.scan.acknowledged(round.id);
    assert_eq!(scanner.committable(), [(1, 1)]);
    assert_eq!(scanner.crash(0, 1, 1, "u"), Scanned::NotOwned);
    scanner.now = at(NOW + 1);
    assert!(scanner.flush().iter().all(|frame| frame.source == 1));
}

// Rule 3: the chain.

#[test]
fn rule_03_each_frame_begins_where_the_last_ended_for_every_shard() {
    let mut scanner = Scanner::new(3);
    scanner.claim(0, 1, 10);
    let mut ends = [10; 3];
    for (offset, user) in [(10, "a"), (14, "b"), (15, "c"), (16, "d")] {
        scanner.crash(0, offset, 1, user);
        for frame in scanner.flush() {
            let end = &mut ends[frame.shard as usize];
            assert_eq!((frame.from, frame.kind == Kind::Claim), (*end, frame.to == frame.from));
            *end = frame.to;
        }
    }
    assert_eq!(ends, [17; 3]);
}

#[test]
fn rule_03_a_record_that_the_reader_repeats_is_not_said_twice() {
    let mut scanner = Scanner::claimed(1);
    assert_eq!(scanner.crash(0, 0, 1, "u"), Scanned::Matched);
    assert_eq!(scanner.crash(0, 0, 1, "u"), Scanned::Repeated);
    assert_eq!(scanner.flush()[0].entries.len(), 1);
    assert_eq!(scanner.crash(0, 0, 1, "u"), Scanned::Repeated);
}

#[test]
fn rule_03_holes_at_the_end_are_covered() {
    let mut scanner = Scanner::claimed(1);
    scanner.crash(0, 0, 1, "u");
    scanner.scan.reached(SourceId(0), InputOffset(5));
    scanner.scan.reached(SourceId(0), InputOffset(3));
    let frame = &scanner.flush()[0];
    assert_eq!((frame.from, frame.to, scanner.committable()), (0, 5, vec![(0, 5)]));
}

#[test]
fn rule_03_what_was_read_before_a_loss_is_said_before_it_with_its_own_mark() {
    let mut scanner = Scanner::claimed(1);
    scanner.crash(0, 0, 10, "u");
    scanner.scan.lose(SourceId(0), InputOffset(8));
    scanner.crash(0, 8, 90, "u");
    let said: Vec<_> = scanner.flush().into_iter().map(|f| (f.kind, f.from, f.to, f.mark)).collect();
    let (first, last) = (Some(at(10)), Some(at(90)));
    assert_eq!(said, [(Kind::Records, 0, 1, first), (Kind::Lost, 1, 8, first), (Kind::Records, 8, 9, last)]);
    assert_eq!(scanner.committable(), [(0, 9)]);
}

#[test]
fn rule_03_a_loss_of_what_was_read_is_none() {
    let mut scanner = Scanner::claimed(1);
    scanner.pass(0, 0, 10);
    scanner.scan.lose(SourceId(0), InputOffset(1));
    assert_eq!(scanner.flush()[0].kind, Kind::Records);
}

#[test]
fn rule_03_malformed_and_empty_records_are_covered_by_the_chain() {
    let mut scanner = Scanner::claimed(1);
    assert_eq!(scanner.record(0, 0, None), Scanned::Empty);
    assert_eq!(scanner.record(0, 1, Some("no JSON")), Scanned::DeadLetter(Malformed::NotJson));
    assert_eq!(scanner.flush()[0].to, 2);
}

// Rule 4: commit.

#[test]
fn rule_04_a_commit_waits_for_the_acknowledgement_of_every_shard() {
    let mut scanner = Scanner::new(3);
    scanner.claim(0, 1, 0);
    scanner.flush();
    scanner.crash(0, 0, 1, "u");
    let round = scanner.send();
    for acknowledged in 0..round.messages.len() {
        assert_eq!(scanner.committable(), [], "{acknowledged} of {}", round.messages.len());
        scanner.scan.acknowledged(round.id);
    }
    assert_eq!(scanner.committable(), [(0, 1)]);
}

#[test]
fn rule_04_a_commit_waits_for_all_rounds_before_it() {
    let mut scanner = Scanner::claimed(1);
    scanner.crash(0, 0, 1, "u");
    let first = scanner.send();
    scanner.crash(0, 1, 1, "u");
    let second = scanner.send();
    scanner.scan.acknowledged(second.id);
    assert_eq!(scanner.committable(), []);
    scanner.scan.acknowledged(first.id);
    assert_eq!(scanner.committable(), [(0, 2)], "the last of a source is enough");
}

#[test]
fn rule_04_a_commit_waits_for_the_dead_letters_before_it() {
    let mut scanner = Scanner::claimed(1);
    scanner.record(0, 0, Some("no JSON"));
    let id = scanner.scan.await_dead_letter();
    let round = scanner.send();
    assert_eq!(id, round.id);
    scanner.scan.acknowledged(round.id);
    assert_eq!((scanner.committable(), scanner.scan.is_settled()), (vec![], false));
    scanner.scan.acknowledged(id);
    assert_eq!((scanner.committable(), scanner.scan.is_settled()), (vec![(0, 1)], true));
}

#[test]
fn rule_04_a_dead_letter_may_be_acknowledged_before_its_round_is_sent() {
    let mut scanner = Scanner::claimed(1);
    scanner.record(0, 0, Some("no JSON"));
    let id = scanner.scan.await_dead_letter();
    scanner.scan.acknowledged(id);
    assert_eq!(scanner.committable(), []);
    let round = scanner.send();
    scanner.scan.acknowledged(round.id);
    assert_eq!(scanner.committable(), [(0, 1)]);
}

#[test]
fn rule_04_a_commit_says_epoch_mark_and_topic() {
    let mut scanner = Scanner::new(1);
    scanner.claim(0, 4, 7);
    scanner.crash(0, 7, 60, "u");
    scanner.flush();
    let committable = scanner.scan.take_committable();
    let expected =
        ScanCommit { epoch: Epoch(4), mark: Some(at(60)), topic: INPUT, resolved: 1, log_topic: REPARTITION };
    assert_eq!(committable[0].metadata, expected);
}

#[test]
fn rule_04_nothing_moved_nothing_to_commit() {
    let mut scanner = Scanner::claimed(1);
    assert_eq!(scanner.committable(), [], "the claim was committed before it was sent");
    scanner.now = at(NOW + 1);
    assert_eq!((scanner.flush().len(), scanner.committable()), (1, vec![]));
}

#[test]
fn rule_04_at_most_so_many_rounds_are_in_flight() {
    let mut scanner = Scanner::claimed(1);
    for offset in 0..ROUNDS_IN_FLIGHT_MAX as u64 {
        assert!(!scanner.scan.is_saturated());
        scanner.crash(0, offset, 1, "u");
        scanner.send();
    }
    assert!(scanner.scan.is_saturated());
    scanner.crash(0, ROUNDS_IN_FLIGHT_MAX as u64, 1, "u");
    assert!(scanner.scan.flush(scanner.now, true).is_none());
    scanner.scan.acknowledged(RoundId(1));
    assert!(!scanner.scan.is_saturated());
    assert_eq!(heard(&scanner.send())[0].entries.len(), 1, "what was read in between is not forgotten");
}

// Rule 5: everybody speaks.

#[test]
fn rule_05_every_source_speaks_to_every_shard_once_a_second() {
    let mut scanner = Scanner::new(2);
    scanner.scan.set_source_count(2);
    (0..2).for_each(|source| scanner.claim(source, 1, 0));
    scanner.flush();
    scanner.now = scanner.now.plus_millis(999);
    assert_eq!(scanner.flush(), []);
    scanner.now = scanner.now.plus_millis(1);
    let spoke: Vec<_> = scanner.flush().into_iter().map(|f| (f.shard, f.source, f.from, f.to)).collect();
    assert_eq!(spoke, [(0, 0, 0, 0), (0, 1, 0, 0), (1, 0, 0, 0), (1, 1, 0, 0)]);
}

#[test]
fn rule_05_a_paused_source_and_a_busy_neighbour_do_not_silence_each_other() {
    let mut scanner = Scanner::claimed(2);
    scanner.pass(0, 0, 5_000);
    scanner.flush();
    scanner.scan.align(Some(at(0)));
    scanner.now = at(NOW + 1);
    scanner.crash(1, 0, 1, "u");
    let spoke: Vec<_> = scanner.flush().into_iter().map(|f| (f.source, f.mark)).collect();
    assert_eq!(spoke, [(0, Some(at(5_000))), (1, Some(at(1)))]);
}

#[test]
fn rule_05_frames_say_how_many_partitions_there_are_and_changes_at_once() {
    let mut scanner = Scanner::claimed(1);
    scanner.crash(0, 0, 1, "u");
    assert_eq!(scanner.flush()[0].sources, 1);
    scanner.scan.set_source_count(3);
    scanner.crash(0, 1, 1, "u");
    let round = scanner.scan.flush(scanner.now, false).unwrap();
    assert_eq!(heard(&round)[0].sources, 3);
}

#[test]
fn rule_05_matches_wait_no_longer_than_the_flush_interval() {
    let mut scanner = Scanner::claimed(1);
    scanner.crash(0, 0, NOW, "u");
    scanner.now = scanner.now.plus_millis(19);
    assert!(scanner.scan.flush(scanner.now, false).is_none());
    scanner.now = scanner.now.plus_millis(1);
    assert!(scanner.scan.flush(scanner.now, false).is_some());
}

#[test]
fn rule_07_matches_of_the_past_wait_for_a_tenth_of_its_age_up_to_a_quarter_second() {
    // While it waits, event time falls behind further.
    for (behind_ms, wait_ms) in [(0, 20), (150, 20), (1_000, 111), (2_000, 222), (3_600_000, 250)] {
        let mut scanner = Scanner::claimed(1);
        scanner.crash(0, 0, NOW, "u");
        scanner.now = at(NOW).plus_millis(behind_ms);
        scanner.flush();
        scanner.crash(0, 1, NOW, "u");
        let began = scanner.now;
        let waits = |ms: &i64| {
            scanner.now = began.plus_millis(*ms);
            scanner.pass(0, 1 + ms.unsigned_abs(), NOW);
            scanner.scan.flush(scanner.now, false).is_none()
        };
        assert_eq!((1..=300).take_while(waits).count() + 1, wait_ms, "{behind_ms} ms behind");
    }
}

#[test]
fn rule_07_matches_of_the_past_do_not_wait_for_records_that_do_not_come() {
    let mut scanner = Scanner::claimed(2);
    scanner.now = at(NOW).plus_millis(3_600_000);
    scanner.flush();
    scanner.crash(0, 0, NOW, "u");
    // Another source goes on for a while.
    for ms in 1..=100 {
        scanner.now = scanner.now.plus_millis(1);
        scanner.pass(1, ms, NOW);
        assert!(scanner.scan.flush(scanner.now, false).is_none(), "{ms}");
    }
    scanner.now = scanner.now.plus_millis(19);
    assert!(scanner.scan.flush(scanner.now, false).is_none());
    scanner.now = scanner.now.plus_millis(1);
    assert!(scanner.scan.flush(scanner.now, false).is_some());
}

#[test]
fn rule_05_a_clock_set_back_silences_nobody() {
    let mut scanner = Scanner::claimed(1);
    scanner.now = at(NOW - 3_600);
    scanner.crash(0, 0, 1, "u");
    assert!(scanner.scan.flush(scanner.now, false).is_some());
    scanner.now = at(NOW - 7_200);
    assert!(scanner.scan.flush(scanner.now, false).is_some());
}

// Limits.

#[test]
fn limit_a_frame_of_some_size_is_sent_at_once() {
    let mut scanner = Scanner::claimed(1);
    let user = "u".repeat(1_000);
    let mut offset = 0;
    while scanner.scan.flush(scanner.now, false).is_none() {
        scanner.crash(0, offset, 1, &user);
        offset += 1;
    }
    let bytes = usize::try_from(offset).unwrap() * 1_000;
    assert!((FRAME_BYTES_FLUSH - 2_000..FRAME_BYTES_FLUSH + 2_000).contains(&bytes), "{bytes}");
}

#[test]
fn limit_a_message_stays_below_what_a_broker_takes_and_frames_in_their_order() {
    let mut scanner = Scanner::claimed(9);
    let user = "u".repeat(1_000);
    for source in 0..9 {
        (0..120).for_each(|offset| assert_eq!(scanner.crash(source, offset, 1, &user), Scanned::Matched));
    }
    let round = scanner.send();
    assert!(round.messages.len() > 1);
    assert!(round.messages.iter().all(|(_, bytes)| bytes.len() < MESSAGE_BYTES_MAX + 1_024));
    let sources: Vec<u32> = heard(&round).into_iter().map(|frame| frame.source).collect();
    assert_eq!(sources, (0..9).collect::<Vec<_>>());
}
