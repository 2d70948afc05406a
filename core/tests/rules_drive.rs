//! The rules that lie in the order of effects (2, 4, 6, 7), each in a test of its name: what the loops do, and what they
//! do when something fails.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support {
    pub mod log;
    pub mod scanner;
}

use crashmonitor_core::aggregate::{COUNTER_BYTES, Mode};
use crashmonitor_core::aggregator::drive::{Drive, Effect, Event, HaltReason};
use crashmonitor_core::aggregator::{Aggregator, Cadence, Refused};
use crashmonitor_core::codec;
use crashmonitor_core::config::{OnDataLoss, StartingOffsets};
use crashmonitor_core::ids::{InputOffset, LogOffset, Shard, SourceId};
use crashmonitor_core::scan::drive as scan_drive;
use crashmonitor_core::scan::start::{AggregateProgress, Policy};
use crashmonitor_core::scan::{Input, Scan};
use crashmonitor_core::time::Clock;
use support::log::*;
use support::scanner;

const SHARD: Shard = Shard(0);

/// The group's metadata is a number here: its generation.
type Counting = Drive<u32>;

fn clock(seconds: i64) -> Clock {
    Clock { wall: at(seconds), steady_ms: seconds * 1_000 }
}

fn name(effect: &Effect<u32>) -> String {
    format!("{effect:?}").split([' ', '{', '(']).next().unwrap().to_owned()
}

fn counting() -> Counting {
    let cadence =
        Cadence { commit_interval_ms: 5_000, snapshot_interval_ms: 60_000, commit_drift_ms: 60_000 };
    Drive::new(Aggregator::new(params(Mode::Updates), cadence, identity().monitor, REPARTITION))
}

/// Carries out everything until nothing is left; `fails` says at which effect the world fails. Returns what was done.
fn carry_out(drive: &mut Counting, now: Clock, fails: &str) -> Vec<String> {
    let mut done = Vec::new();
    while let Some(effect) = drive.next(now) {
        let name = name(&effect);
        match effect {
            _ if name == fails => drive.failed(now),
            Effect::ReadFacts(shards) => {
                drop(drive.facts(shards.into_iter().map(|shard| (shard, empty_log())).collect()));
            }
            _ => drive.done(now),
        }
        done.push(name);
    }
    done
}

/// Owns the shard, has committed its beginning, and has counted a result that is not written yet.
fn with_a_result() -> Counting {
    let mut drive = counting();
    drive.follow(Event::Assigned { shards: vec![SHARD], membership: 1 }, clock(0));
    carry_out(&mut drive, clock(0), "");
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..3).crashes(1, "u").mark(1));
    log.say(records(0, 1, 3..4).mark(100));
    for (at, bytes) in (0..).zip(&log.messages) {
        drive.record(SHARD, LogOffset(at), bytes, clock(1)).unwrap();
    }
    drive
}

#[test]
fn rule_07_the_fence_comes_before_the_facts_and_the_facts_before_reading() {
    let mut drive = counting();
    drive.follow(Event::Assigned { shards: vec![SHARD], membership: 1 }, clock(0));
    let done = carry_out(&mut drive, clock(0), "");
    let recovery = ["Read", "MakeProducer", "ReadFacts", "Read"];
    let transaction = ["Begin", "Write", "SendOffsets", "AwaitWrites", "End", "Keep"];
    assert_eq!(done, [&recovery[..], &transaction].concat());
}

#[test]
fn rule_06_offsets_go_with_the_metadata_of_the_last_event() {
    let mut drive = with_a_result();
    // The group gives us nothing more, in a generation of its own.
    drive.follow(Event::Assigned { shards: Vec::new(), membership: 2 }, clock(1));
    while let Some(effect) = drive.next(clock(1)) {
        if let Effect::SendOffsets { membership, .. } = effect {
            assert_eq!(membership, 2);
            return;
        }
        drive.done(clock(1));
    }
    panic!("nothing was committed");
}

#[test]
fn rule_07_a_failure_at_any_step_of_a_transaction_takes_the_one_way_back() {
    for fails in ["Begin", "Write", "SendOffsets", "AwaitWrites", "End"] {
        let mut drive = with_a_result();
        let done = carry_out(&mut drive, clock(1), fails);
        assert_eq!(done.last_chunk(), Some(&["DropProducer".to_owned(), "Release".to_owned()]), "{fails}");
        assert_eq!(drive.views()[0].position, None, "no state is kept");
        let again = carry_out(&mut drive, clock(2), "");
        assert_eq!(again[..3], ["MakeProducer", "ReadFacts", "Read"], "{fails}");
    }
}

#[test]
fn rule_07_recovery_is_tried_again_after_a_growing_pause() {
    let mut drive = with_a_result();
    carry_out(&mut drive, clock(1), "End");
    assert!(drive.next(clock(1)).is_none(), "not at once");
    assert_eq!(carry_out(&mut drive, clock(2), "ReadFacts")[..2], ["MakeProducer", "ReadFacts"]);
    let mut waited = 2;
    while carry_out(&mut drive, clock(waited), "MakeProducer").is_empty() {
        waited += 1;
    }
    assert!(waited <= 7, "the pause has a bound");
}

#[test]
fn rule_07_what_is_taken_is_committed_first_and_then_released() {
    let mut drive = with_a_result();
    drive.follow(Event::Revoked { shards: vec![SHARD], membership: 2 }, clock(1));
    let done = carry_out(&mut drive, clock(1), "");
    assert_eq!(done, ["Begin", "Write", "SendOffsets", "AwaitWrites", "End", "Keep", "Release"]);
    assert!(drive.views().is_empty() && drive.owned().is_empty());
}

#[test]
fn rule_07_what_is_taken_is_released_though_its_transaction_fails() {
    let mut drive = with_a_result();
    drive.follow(Event::Revoked { shards: vec![SHARD], membership: 2 }, clock(1));
    let done = carry_out(&mut drive, clock(1), "SendOffsets");
    assert_eq!(done, ["Begin", "Write", "SendOffsets", "DropProducer", "Release"]);
    assert!(drive.owned().is_empty());
}

#[test]
fn rule_07_of_what_is_lost_nothing_is_written() {
    let mut drive = with_a_result();
    drive.follow(Event::Lost { shards: vec![SHARD] }, clock(1));
    assert_eq!(carry_out(&mut drive, clock(1), ""), ["Release"]);
}

#[test]
fn rule_07_who_leaves_finishes_and_begins_nothing_more() {
    let mut drive = with_a_result();
    drive.leave();
    let done = carry_out(&mut drive, clock(60), "");
    assert_eq!(done, ["Begin", "Write", "SendOffsets", "AwaitWrites", "End", "Keep"]);
    assert!(drive.next(clock(120)).is_none());
}

#[test]
fn rule_08_what_cant_be_read_halts_and_nothing_is_written_any_more() {
    let mut drive = with_a_result();
    let newer = b"CMF\x09 and the rest";
    assert!(drive.record(SHARD, LogOffset(3), newer, clock(1)).is_err());
    let Some(Effect::Halt { shard, reason }) = drive.next(clock(1)) else { panic!("it goes on") };
    let error = codec::Error::Version(9);
    let unreadable = HaltReason::Unreadable(Refused::Unreadable { shard: SHARD, at: LogOffset(3), error });
    assert_eq!((shard, reason), (SHARD, unreadable));
    drive.done(clock(1));
    drive.leave();
    assert!(drive.next(clock(60)).is_none());
}

// The scanner's.

fn scanning() -> scan_drive::Drive {
    let policy = Policy { starting_offsets: StartingOffsets::Earliest, on_data_loss: OnDataLoss::Continue };
    let mut drive = scan_drive::Drive::new(new_scan(), policy);
    drive.assigned([SourceId(0), SourceId(1)]);
    for source in 0..2 {
        drive.claimed(&scanner::claim_of(source, 1, 0), at(scanner::NOW));
    }
    send_and_acknowledge(&mut drive);
    let readable = drive.take_readable();
    assert_eq!((readable.len(), drive.reading(&readable)), (2, Vec::new()));
    drive
}

fn new_scan() -> Scan {
    let mut scan = Scan::new(scanner::params(1), scanner::matcher());
    scan.set_source_count(2);
    scan
}

fn send_and_acknowledge(drive: &mut scan_drive::Drive) {
    while let Some(round) = drive.scan().flush(at(scanner::NOW), true) {
        round.messages.iter().for_each(|_| drive.scan().acknowledged(round.id));
    }
}

fn read_one(drive: &mut scan_drive::Drive, source: u32, offset: u64) {
    let json = scanner::json(at(1), "u", "a crash");
    let (source, offset) = (SourceId(source), InputOffset(offset));
    let input = Input { source, offset, appended_at: None, value: Some(json.as_bytes()) };
    drive.scan().record(&input, at(scanner::NOW));
}

#[test]
fn rule_02_what_the_group_took_before_the_claim_was_answered_is_not_claimed() {
    let policy = Policy { starting_offsets: StartingOffsets::Earliest, on_data_loss: OnDataLoss::Continue };
    let mut drive = scan_drive::Drive::new(new_scan(), policy);
    drive.assigned([SourceId(0)]);
    assert_eq!(drive.give_up(&[SourceId(0)]), Vec::new());
    drive.claimed(&scanner::claim_of(0, 1, 0), at(scanner::NOW));
    assert!(drive.owned().is_empty() && drive.scan().flush(at(scanner::NOW), true).is_none());
}

#[test]
fn rule_04_a_position_is_committed_again_until_the_broker_takes_it() {
    let mut drive = scanning();
    read_one(&mut drive, 0, 0);
    send_and_acknowledge(&mut drive);
    assert_eq!(drive.positions().len(), 1);
    assert_eq!(drive.positions().len(), 1, "nobody has taken it");
    drive.committed(SourceId(0));
    assert!(drive.positions().is_empty());
}

#[test]
fn rule_04_a_position_of_a_source_that_is_gone_is_not_committed() {
    let mut drive = scanning();
    read_one(&mut drive, 0, 0);
    send_and_acknowledge(&mut drive);
    assert_eq!(drive.positions().len(), 1);
    assert_eq!(drive.give_up(&[SourceId(0)]), [SourceId(0)]);
    assert!(drive.positions().is_empty());
}

#[test]
fn rule_04_after_a_failure_every_source_is_claimed_again() {
    let mut drive = scanning();
    read_one(&mut drive, 0, 0);
    assert!(!drive.has_failed());
    drive.failed();
    // While a source is handed over: those that stay must not go on behind what did not arrive.
    assert_eq!(drive.give_up(&[SourceId(1)]), [SourceId(1)]);
    assert!(drive.has_failed());
    assert_eq!(drive.start_again(new_scan()), [SourceId(0)]);
    assert!(!drive.has_failed() && drive.owned().is_empty() && drive.positions().is_empty());
    assert_eq!(drive.unclaimed().iter().copied().collect::<Vec<_>>(), [SourceId(0)]);
}

#[test]
fn rule_04_a_commit_without_an_answer_is_fenced_before_the_next_claim() {
    let mut drive = scanning();
    drive.commit_unanswered();
    assert!(drive.has_failed() && drive.must_rejoin());
    drive.start_again(new_scan());
    // Nothing is claimed as the old member; the group gives everything to the new one.
    assert!(drive.unclaimed().is_empty() && drive.owned().is_empty());
    assert!(!drive.has_failed() && !drive.must_rejoin());
}

/// A loop may notice late that a source can't be read on: the group has taken it away since, or given it to somebody else.
#[test]
fn rule_04_a_source_that_is_not_ours_any_more_is_not_claimed_again() {
    let mut drive = scanning();
    assert_eq!(drive.give_up(&[SourceId(0)]), [SourceId(0)]);
    assert!(drive.claim_anew(&[SourceId(0)]).is_empty());
    assert!(drive.unclaimed().is_empty());
    assert_eq!(drive.claim_anew(&[SourceId(1)]), [SourceId(1)]);
    drive.commit_unanswered();
    drive.start_again(new_scan());
    assert!(drive.claim_anew(&[SourceId(1)]).is_empty());
    assert!(drive.unclaimed().is_empty());
}

#[test]
fn time_a_source_that_alignment_paused_before_it_was_read_is_paused_at_once() {
    let mut drive = scanning();
    let observed = scan_drive::Observed {
        input_topic: INPUT,
        sources: 2,
        aggregate: AggregateProgress::Advanced,
        watermark: Some(at(1)),
        ends: Vec::new(),
        ends_at: at(scanner::NOW),
    };
    let mut ahead = scanner::claim_of(0, 2, 0);
    ahead.metadata.mark = Some(at(10_000));
    assert_eq!(drive.claim_anew(&[SourceId(0)]), [SourceId(0)]);
    drive.claimed(&ahead, at(scanner::NOW));
    assert_eq!(drive.heed(&observed), scan_drive::Heeded::default(), "there is nothing to pause yet");
    send_and_acknowledge(&mut drive);
    let readable = drive.take_readable();
    assert_eq!(drive.reading(&readable), [SourceId(0)]);
    let caught_up = scan_drive::Observed { watermark: Some(at(9_990)), ..observed };
    assert_eq!(drive.heed(&caught_up).resume, [SourceId(0)]);
}

/// Two shards with the same log, and room for two counts.
fn with_little_room() -> (Counting, Log) {
    let cadence =
        Cadence { commit_interval_ms: 5_000, snapshot_interval_ms: 60_000, commit_drift_ms: 60_000 };
    let aggregator = Aggregator::new(params(Mode::Updates), cadence, identity().monitor, REPARTITION);
    let mut drive = Drive::new(aggregator.with_state_bytes_max(2 * COUNTER_BYTES));
    drive.follow(Event::Assigned { shards: vec![SHARD, Shard(1)], membership: 1 }, clock(0));
    carry_out(&mut drive, clock(0), "");
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..2).crash(0, 1, "a").crash(1, 1, "b").mark(1));
    log.say(records(0, 1, 2..3).crash(2, 1, "c").mark(1));
    (drive, log)
}

#[test]
fn without_room_nothing_is_read_and_nothing_is_lost() {
    let (mut drive, log) = with_little_room();
    let full = 2;
    for (at, bytes) in (0..full).zip(&log.messages) {
        drive.record(SHARD, LogOffset(at), bytes, clock(1)).unwrap();
    }
    let refused = drive.record(SHARD, LogOffset(full), &log.messages[2], clock(1)).unwrap_err();
    assert!(matches!(refused, Refused::Full(size) if size.counters == 2), "{refused:?}");
    assert!(refused.to_string().starts_with("worker.stateMemoryMax: 2 counts take "), "{refused}");
    // What was counted is committed, once; the state stays, and nothing is read.
    let done = carry_out(&mut drive, clock(10), "");
    assert_eq!(done, ["Release", "Begin", "Write", "SendOffsets", "AwaitWrites", "End", "Keep"]);
    assert_eq!(drive.views()[0].position, Some(LogOffset(full)));
    assert_eq!(drive.full(), Some(refused));
    assert!(carry_out(&mut drive, clock(20), "").is_empty());
}

#[test]
fn without_room_nothing_is_taken_over() {
    let (mut drive, log) = with_little_room();
    for (at, bytes) in (0..).zip(&log.messages) {
        let _ = drive.record(SHARD, LogOffset(at), bytes, clock(1));
    }
    carry_out(&mut drive, clock(10), "");
    drive.follow(Event::Assigned { shards: vec![Shard(2)], membership: 2 }, clock(11));
    assert_eq!(carry_out(&mut drive, clock(20), ""), ["Read"], "the group gets its answer");
}

#[test]
fn with_room_again_reading_goes_on_where_it_stopped() {
    let (mut drive, log) = with_little_room();
    drive.record(Shard(1), LogOffset(0), &log.messages[0], clock(1)).unwrap();
    for (at, bytes) in (0..).zip(&log.messages) {
        let _ = drive.record(SHARD, LogOffset(at), bytes, clock(1));
    }
    carry_out(&mut drive, clock(10), "");
    drive.follow(Event::Revoked { shards: vec![SHARD], membership: 2 }, clock(11));
    let mut read = Vec::new();
    while let Some(effect) = drive.next(clock(20)) {
        if let Effect::Read(starts) = effect {
            read.extend(starts);
        }
        drive.done(clock(20));
    }
    assert_eq!(read, [(Shard(1), LogOffset(1))]);
    assert_eq!(drive.full(), None);
    drive.record(Shard(1), LogOffset(1), &log.messages[1], clock(21)).unwrap();
}
