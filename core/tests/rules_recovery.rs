//! The rules of recovery and commits (6, 7, 8, 10, 11), each in a test of its name: every row of the table "Kafka is the
//! truth, the checkpoint store is a hint", and what a worker writes, commits and purges.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support {
    pub mod log;
}

use crashmonitor_core::aggregate::{Mode, Params, Partition};
use crashmonitor_core::aggregator::{Aggregator, Begin, Cadence, Recovery, Refused, Transaction};
use crashmonitor_core::codec;
use crashmonitor_core::commit::AggregateCommit;
use crashmonitor_core::ids::{LogOffset, Shard, TopicId};
use crashmonitor_core::recovery::{DataLoss, Decision, Facts, Stored, WithoutSnapshot, decide};
use crashmonitor_core::snapshot::{self, Identity, Snapshot};
use support::log::*;

const SHARD: Shard = Shard(0);

/// A log with windows open from offset 1 on, committed at 6; the log goes on to 7.
fn log() -> (Log, AggregateCommit) {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..2).crashes(1, "u").mark(1));
    for n in 2..6 {
        log.say(records(0, 1, n..n + 1).mark(n.cast_signed()));
    }
    let commit = log.commit();
    (log, commit)
}

fn facts(commit: &AggregateCommit, snapshot: Stored) -> Facts {
    Facts {
        committed: Some((LogOffset(6), commit.encode())),
        log_start: commit.o_low,
        log_end_before: LogOffset(7),
        log_end: LogOffset(7),
        log_topic: REPARTITION,
        snapshot,
    }
}

/// The log's snapshot as it was when `position` messages were applied.
fn snapshot_at(log: &Log, position: usize) -> Snapshot {
    let mut earlier = Log::new(Mode::Updates, 1);
    log.messages[..position].iter().for_each(|bytes| drop(earlier.append(bytes.clone()).effects()));
    snapshot::decode(&snapshot::encode(&identity(), &earlier.state), log.params).unwrap()
}

fn stored(snapshot: Snapshot) -> Stored {
    Stored::Snapshot(Box::new(snapshot))
}

fn replay(reason: WithoutSnapshot, commit: AggregateCommit) -> Decision {
    Decision::Replay { reason, until: LogOffset(6), commit }
}

// The table.

#[test]
fn recovery_stops_when_the_topic_was_made_again_under_a_running_worker() {
    let present = TopicId([9; 16]);
    let (_, commit) = log();
    let facts = Facts { committed: None, log_topic: present, ..facts(&commit, Stored::Nothing) };
    let stop = Decision::Stop(DataLoss::OtherTopic { committed: REPARTITION, present });
    assert_eq!(decide(facts, &identity(), &params(Mode::Updates)), stop);
}

#[test]
fn recovery_stops_when_what_was_written_was_written_under_other_settings() {
    let (log, commit) = log();
    let other_size = Params { window_ms: 5_000, ..log.params };
    for params in [params(Mode::Final), other_size] {
        let stop =
            DataLoss::OtherSettings { committed_window_ms: log.params.window_ms, committed_mode: "update" };
        assert_eq!(decide(facts(&commit, Stored::Nothing), &identity(), &params), Decision::Stop(stop));
    }
    let lateness = Params { allowed_lateness_ms: 1, ..log.params };
    let decision = decide(facts(&commit, Stored::Nothing), &identity(), &lateness);
    assert_eq!(decision, replay(WithoutSnapshot::Missing, commit), "the lateness may be changed");
}

#[test]
fn recovery_a_good_snapshot_is_loaded() {
    let (log, commit) = log();
    for position in [1, 4, 6] {
        let snapshot = snapshot_at(&log, position);
        let loaded = Decision::Load { snapshot: Box::new(snapshot.clone()), until: LogOffset(6), commit };
        assert_eq!(decide(facts(&commit, stored(snapshot)), &identity(), &params(Mode::Updates)), loaded);
    }
}

#[test]
fn recovery_without_a_snapshot_replays_from_o_low() {
    let (_, commit) = log();
    for (snapshot, reason) in [
        (Stored::Nothing, WithoutSnapshot::Missing),
        (Stored::Disabled, WithoutSnapshot::Disabled),
        (Stored::Unreachable, WithoutSnapshot::Unreachable),
        (Stored::Unreadable(codec::Error::Checksum), WithoutSnapshot::Unreadable),
        (Stored::Unreadable(codec::Error::Version(9)), WithoutSnapshot::Unreadable),
    ] {
        assert_eq!(
            decide(facts(&commit, snapshot), &identity(), &params(Mode::Updates)),
            replay(reason, commit)
        );
    }
}

#[test]
fn recovery_ignores_a_snapshot_ahead_of_the_committed_offset() {
    let (mut log, commit) = log();
    log.say(records(0, 1, 6..7).mark(5));
    let ahead = stored(snapshot_at(&log, 7));
    assert_eq!(
        decide(facts(&commit, ahead), &identity(), &params(Mode::Updates)),
        replay(WithoutSnapshot::Ahead, commit)
    );
}

#[test]
fn recovery_ignores_a_snapshot_ahead_of_the_committed_watermark() {
    let (log, mut commit) = log();
    let snapshot = snapshot_at(&log, 5);
    commit.watermark = snapshot.state.watermark().map(|watermark| watermark.plus_millis(-1));
    let decision = decide(facts(&commit, stored(snapshot)), &identity(), &params(Mode::Updates));
    assert_eq!(decision, replay(WithoutSnapshot::Ahead, commit));
}

#[test]
fn recovery_ignores_a_snapshot_that_closed_more_than_was_committed() {
    let (log, mut commit) = log();
    let snapshot = snapshot_at(&log, 5);
    // The lateness has grown since: what the snapshot dropped as closed is still open.
    commit.closed_through = snapshot.state.closed_through().map(|closed| closed.plus_millis(-1));
    let decision = decide(facts(&commit, stored(snapshot)), &identity(), &params(Mode::Updates));
    assert_eq!(decision, replay(WithoutSnapshot::Ahead, commit));
}

#[test]
fn recovery_ignores_a_snapshot_that_the_log_does_not_reach_back_to() {
    let (log, commit) = log();
    assert_eq!(commit.o_low, LogOffset(1));
    let mut facts = facts(&commit, stored(snapshot_at(&log, 0)));
    facts.log_start = LogOffset(1);
    assert_eq!(decide(facts, &identity(), &params(Mode::Updates)), replay(WithoutSnapshot::TooOld, commit));
}

#[test]
fn recovery_ignores_a_foreign_snapshot() {
    let (log, commit) = log();
    for identity in [
        Identity { monitor: "another".to_owned(), ..identity() },
        Identity { log_topic: TopicId([9; 16]), ..identity() },
        Identity { shard: Shard(1), ..identity() },
    ] {
        let foreign = Snapshot { identity, ..snapshot_at(&log, 4) };
        let decision = decide(facts(&commit, stored(foreign)), &self::identity(), &params(Mode::Updates));
        assert_eq!(decision, replay(WithoutSnapshot::Foreign, commit));
    }
}

#[test]
fn recovery_stops_when_the_log_is_truncated_and_no_snapshot_bridges_it() {
    let (log, commit) = log();
    let (log_start, needed) = (LogOffset(4), commit.o_low);
    for snapshot in [Stored::Nothing, Stored::Unreachable, stored(snapshot_at(&log, 3))] {
        let facts = Facts { log_start, ..facts(&commit, snapshot) };
        let stop = Decision::Stop(DataLoss::LogTruncated { log_start, needed });
        assert_eq!(decide(facts, &identity(), &params(Mode::Updates)), stop);
    }
    let facts = Facts { log_start, ..facts(&commit, stored(snapshot_at(&log, 4))) };
    assert!(
        matches!(decide(facts, &identity(), &params(Mode::Updates)), Decision::Load { .. }),
        "this one bridges it"
    );
}

// Rule 11: first start.

#[test]
fn rule_11_an_empty_log_without_a_commit_is_a_first_start() {
    assert_eq!(
        decide(empty_log(), &identity(), &params(Mode::Updates)),
        Decision::FirstStart { at: LogOffset(0) }
    );
}

#[test]
fn rule_11_a_first_start_that_somebody_else_finished_meanwhile_is_no_loss() {
    let (_, commit) = log();
    // Stopped between the answers: when it asked for the commit there was none, when it asked for the end there was a log.
    let facts = Facts { committed: None, log_end_before: LogOffset(0), ..facts(&commit, Stored::Nothing) };
    let decision = decide(facts, &identity(), &params(Mode::Updates));
    assert_eq!(decision, Decision::FirstStart { at: LogOffset(0) }, "the group refuses what it writes");
}

#[test]
fn rule_11_a_missing_commit_with_a_log_that_was_written_stops() {
    let (log, commit) = log();
    for (start, end) in [(0, 7), (7, 7)] {
        let mut facts = facts(&commit, stored(snapshot_at(&log, 4)));
        facts.committed = None;
        (facts.log_start, facts.log_end_before) = (LogOffset(start), LogOffset(end));
        let stop = Decision::Stop(DataLoss::CommitMissing { log_end: LogOffset(7) });
        assert_eq!(decide(facts, &identity(), &params(Mode::Updates)), stop);
    }
}

#[test]
fn rule_11_a_commit_beyond_the_logs_end_stops() {
    let (_, commit) = log();
    let facts = Facts { log_end: LogOffset(5), ..facts(&commit, Stored::Nothing) };
    let (committed, log_end) = (LogOffset(6), LogOffset(5));
    assert_eq!(
        decide(facts, &identity(), &params(Mode::Updates)),
        Decision::Stop(DataLoss::CommitBeyondEnd { committed, log_end })
    );
}

#[test]
fn rule_11_a_commit_for_another_topic_stops() {
    let (_, commit) = log();
    let committed = TopicId([9; 16]);
    let facts = facts(&AggregateCommit { log_topic: committed, ..commit }, Stored::Nothing);
    let stop = Decision::Stop(DataLoss::OtherTopic { committed, present: REPARTITION });
    assert_eq!(decide(facts, &identity(), &params(Mode::Updates)), stop);
}

#[test]
fn rule_11_foreign_metadata_stops() {
    let (_, commit) = log();
    let facts = Facts { committed: Some((LogOffset(6), String::new())), ..facts(&commit, Stored::Nothing) };
    assert!(matches!(
        decide(facts, &identity(), &params(Mode::Updates)),
        Decision::Stop(DataLoss::Metadata(_))
    ));
}

// The worker's shards.

fn aggregator() -> Aggregator {
    let cadence =
        Cadence { commit_interval_ms: 5_000, snapshot_interval_ms: 60_000, commit_drift_ms: 20_000 };
    Aggregator::new(params(Mode::Updates), cadence, identity().monitor, REPARTITION)
}

/// An aggregator that has decided on one shard by these facts.
fn begun(facts: Facts) -> (Aggregator, Begin) {
    let mut aggregator = aggregator();
    aggregator.assign(SHARD);
    let begin = aggregator.decide(SHARD, facts).unwrap();
    (aggregator, begin)
}

fn first_start() -> Aggregator {
    let facts = Facts {
        committed: None,
        log_start: LogOffset(0),
        log_end_before: LogOffset(0),
        log_end: LogOffset(0),
        log_topic: REPARTITION,
        snapshot: Stored::Nothing,
    };
    begun(facts).0
}

fn feed(aggregator: &mut Aggregator, log: &Log, from: u64) {
    for (offset, bytes) in (0..).zip(&log.messages).skip(usize::try_from(from).unwrap()) {
        aggregator.record(SHARD, LogOffset(offset), bytes).unwrap();
    }
}

fn commit(aggregator: &mut Aggregator) -> Transaction {
    let transaction = aggregator.transaction();
    aggregator.committed(at(0));
    transaction
}

/// One source, and a result of user `u` at message 2.
fn with_a_result() -> Log {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..3).crashes(1, "u").mark(1)).say(records(0, 1, 3..4).mark(12));
    log
}

#[test]
fn rule_11_the_first_transaction_commits_the_beginning() {
    let mut aggregator = first_start();
    assert!(aggregator.wants_commit(at(0)));
    let transaction = commit(&mut aggregator);
    let [(SHARD, LogOffset(0), first)] = transaction.offsets[..] else { panic!("{transaction:?}") };
    assert_eq!((first.o_low, first.watermark), (LogOffset(0), None));
    assert!(!aggregator.wants_commit(at(9_999)), "nothing has moved");
}

#[test]
fn rule_06_results_and_their_offsets_are_in_one_transaction() {
    let mut aggregator = first_start();
    commit(&mut aggregator);
    let log = with_a_result();
    feed(&mut aggregator, &log, 0);
    assert!(aggregator.wants_commit(at(0)));
    let transaction = aggregator.transaction();
    assert_eq!((transaction.results.len(), transaction.offsets[0].1), (1, LogOffset(3)));
    assert_eq!(transaction.offsets[0].2.watermark, Some(at(10)));
    aggregator.committed(at(0));
    assert_eq!(aggregator.transaction(), Transaction::default());
}

#[test]
fn rule_06_late_records_are_in_the_transaction_too() {
    let mut aggregator = first_start();
    commit(&mut aggregator);
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..1).mark(60)).say(records(0, 1, 1..2).crashes(1, "u"));
    feed(&mut aggregator, &log, 0);
    assert_eq!(aggregator.transaction().late.len(), 1);
}

#[test]
fn rule_06_with_nothing_to_write_offsets_are_committed_every_few_seconds() {
    let mut aggregator = first_start();
    commit(&mut aggregator);
    feed(&mut aggregator, &Log::claimed(Mode::Updates, 1), 0);
    assert!(!aggregator.wants_commit(at(4)));
    assert!(aggregator.wants_commit(at(5)));
    assert!(aggregator.wants_commit(at(-5)), "a clock that was set back stops nothing");
}

#[test]
fn rule_06_a_watermark_that_scanners_wait_for_is_committed_early() {
    let mut aggregator = first_start();
    commit(&mut aggregator);
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..1).mark(10));
    feed(&mut aggregator, &log, 0);
    assert!(aggregator.wants_commit(at(0)), "the first");
    commit(&mut aggregator);
    for (mark, wanted) in [(29, false), (30, true)] {
        let (fed, next) = (log.messages.len() as u64, log.next(0));
        log.say(records(0, 1, next..next + 1).mark(mark));
        feed(&mut aggregator, &log, fed);
        assert_eq!(aggregator.wants_commit(at(0)), wanted);
    }
}

#[test]
fn rule_07_an_aborted_transaction_throws_all_state_away() {
    let mut aggregator = first_start();
    let beginning = commit(&mut aggregator);
    let log = with_a_result();
    feed(&mut aggregator, &log, 0);
    aggregator.transaction();
    aggregator.aborted();
    assert_eq!((aggregator.undecided(), aggregator.live_state(SHARD)), (vec![SHARD], None));
    assert_eq!(aggregator.transaction(), Transaction::default());
    // From the offset that is committed, as after a crash: the result comes again, once.
    let (_, offset, commit) = beginning.offsets[0];
    let facts = Facts {
        committed: Some((offset, commit.encode())),
        log_start: LogOffset(0),
        log_end_before: LogOffset(3),
        log_end: LogOffset(3),
        log_topic: REPARTITION,
        snapshot: Stored::Nothing,
    };
    assert_eq!(aggregator.decide(SHARD, facts).unwrap().read_from, LogOffset(0));
    feed(&mut aggregator, &log, 0);
    assert_eq!(aggregator.transaction().results.len(), 1);
}

#[test]
fn rule_07_a_shard_that_is_taken_leaves_nothing_to_write() {
    for revoke in [Aggregator::revoke, Aggregator::assign] {
        let mut aggregator = first_start();
        commit(&mut aggregator);
        feed(&mut aggregator, &with_a_result(), 0);
        revoke(&mut aggregator, SHARD);
        assert!(!aggregator.wants_commit(at(60)));
        assert_eq!(aggregator.transaction(), Transaction::default(), "its next owner writes it");
    }
}

#[test]
fn rule_07_records_still_queued_of_a_shard_that_is_gone_are_ignored() {
    let mut aggregator = first_start();
    let log = with_a_result();
    aggregator.revoke(SHARD);
    feed(&mut aggregator, &log, 0);
    aggregator.assign(SHARD);
    feed(&mut aggregator, &log, 0);
    assert_eq!(aggregator.transaction(), Transaction::default());
}

#[test]
fn rule_08_a_shard_counts_when_its_muted_replay_has_reached_the_commit() {
    let mut log = with_a_result();
    let committed = log.commit();
    log.say(records(0, 1, 4..5).crashes(2, "u"));
    let facts = Facts {
        committed: Some((LogOffset(3), committed.encode())),
        log_start: LogOffset(0),
        log_end_before: LogOffset(4),
        log_end: LogOffset(4),
        log_topic: REPARTITION,
        snapshot: Stored::Unreachable,
    };
    let (mut aggregator, begin) = begun(facts);
    let recovery = Recovery::Replay(WithoutSnapshot::Unreachable);
    assert_eq!(begin, Begin { read_from: LogOffset(1), recovery });
    for offset in 1..3 {
        assert_eq!(aggregator.live_state(SHARD), None);
        assert_eq!(aggregator.transaction(), Transaction::default());
        aggregator.record(SHARD, LogOffset(offset), &log.messages[offset as usize]).unwrap();
    }
    assert_eq!(aggregator.live_state(SHARD).unwrap().watermark(), committed.watermark);
    feed(&mut aggregator, &log, 3);
    let results = aggregator.transaction().results;
    assert_eq!((results.len(), results[0].count), (1, 4));
}

#[test]
fn rule_08_a_snapshot_at_the_commit_needs_no_replay() {
    let (log, commit) = log();
    let (aggregator, begin) = begun(facts(&commit, stored(snapshot_at(&log, 6))));
    assert_eq!((begin.read_from, begin.recovery), (LogOffset(6), Recovery::Snapshot));
    assert_eq!(aggregator.live_state(SHARD), Some(&log.state));
}

#[test]
fn rule_08_a_reader_that_leaves_records_out_is_refused() {
    let mut aggregator = first_start();
    let log = with_a_result();
    let skipped = Refused::Skipped { shard: SHARD, expected: LogOffset(0), at: LogOffset(1) };
    assert_eq!(aggregator.record(SHARD, LogOffset(1), &log.messages[1]), Err(skipped));
    feed(&mut aggregator, &log, 0);
    assert_eq!(aggregator.record(SHARD, LogOffset(1), &log.messages[1]), Ok(()), "a repeat is none");
}

#[test]
fn rule_08_an_unknown_format_version_stops_and_is_not_skipped() {
    let mut aggregator = first_start();
    let mut bytes = Log::claimed(Mode::Updates, 1).messages[0].clone();
    bytes[3] = 9;
    let error = codec::Error::Version(9);
    let refused = Refused::Unreadable { shard: SHARD, at: LogOffset(0), error };
    assert_eq!(aggregator.record(SHARD, LogOffset(0), &bytes), Err(refused));
    assert_eq!(aggregator.live_state(SHARD).map(Partition::position), Some(LogOffset(0)));
}

#[test]
fn rule_10_purging_goes_only_up_to_the_o_low_of_a_confirmed_commit() {
    let mut aggregator = first_start();
    commit(&mut aggregator);
    let mut log = with_a_result();
    feed(&mut aggregator, &log, 0);
    let transaction = aggregator.transaction();
    let confirmed = aggregator.committed(at(0));
    assert_eq!(confirmed.purgeable, [(SHARD, transaction.offsets[0].2.o_low)]);
    assert_eq!(confirmed.purgeable, [(SHARD, LogOffset(1))], "the open window began there");
    let fed = log.messages.len() as u64;
    log.say(records(0, 1, 4..5).mark(90));
    feed(&mut aggregator, &log, fed);
    aggregator.transaction();
    aggregator.aborted();
    assert_eq!(aggregator.committed(at(0)).purgeable, []);
}

#[test]
fn checkpoint_snapshots_are_of_confirmed_states_and_taken_at_their_interval() {
    let mut aggregator = first_start();
    commit(&mut aggregator);
    let log = with_a_result();
    for (offset, now, taken) in [(0, 59, 0), (1, 60, 1), (2, 61, 0)] {
        aggregator.record(SHARD, LogOffset(offset), &log.messages[offset as usize]).unwrap();
        aggregator.transaction();
        let snapshots = aggregator.committed(at(now)).snapshots;
        assert_eq!(snapshots.len(), taken, "at {now}");
        for (_, bytes) in snapshots {
            let snapshot = snapshot::decode(&bytes, log.params).unwrap();
            assert_eq!((snapshot.identity, snapshot.state.position()), (identity(), LogOffset(offset + 1)));
        }
    }
}
