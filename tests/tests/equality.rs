//! However many workers read it, the output of a log without keys equals a recomputation of the whole log at once.
//!
//! The log has what makes a monitor's life hard: one user's records in all partitions, disorder, late records that
//! count and such that don't, records that nobody may count, and unusual JSON. Half of it is there before the workers
//! start, half comes while they run. What is compared is what a consumer reads that sees committed records only.

use crashmonitor_bench::generator::{Expected, Generator, Kind, Options, Tally};
use crashmonitor_bench::oracle::{Alert, Counts, Mode, Query, compare};
use crashmonitor_testbed::monitor::Monitor;
use crashmonitor_testbed::{NewRecord, Record, Worker, shared};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(90);

const PARTITIONS: i32 = 4;

/// Enough event time that most windows close while records still come.
const RECORDS: u64 = 24_000;

/// The first half is there before the workers; the second comes in so many parts while they run, each when event time
/// has come to the end of the part before. So late records meet a watermark that has moved.
const PARTS: u64 = 8;

/// `allowedLateness`: the most that the generator's late records are late.
const LATENESS_MS: u64 = 30_000;

fn options(seed: u64) -> Options {
    Options {
        seed,
        users: 20,
        one_in: 8,
        event_rate: 120,
        disorder_ms: 1_500,
        late_share: 0.2,
        late_by_max_ms: LATENESS_MS,
        too_late_share: 0.01,
        poison_share: 0.02,
        odd_share: 0.05,
        ..Options::default()
    }
}

/// A generated log and what the generator meant by it.
struct Log {
    generator: Generator,
    tally: Tally,
    results: Counts,
    /// The users of records that are too late, by index.
    too_late_users: BTreeMap<u64, String>,
    /// The highest event time.
    end_ms: i64,
}

impl Log {
    fn new(seed: u64) -> Log {
        let generator = Generator::new(options(seed)).expect("the options make sense");
        let mut expected = Expected::new(&Query::default());
        let mut too_late_users = BTreeMap::new();
        let mut value = Vec::new();
        for index in 0..RECORDS {
            let meta = generator.record(index, &mut value);
            expected.add(&meta);
            if meta.kind == Kind::TooLate {
                too_late_users.insert(index, format!("late_{index}"));
            }
        }
        let end_ms = generator.nominal_time_ms(RECORDS);
        let (tally, results) = (expected.tally().clone(), expected.results());
        Log { generator, tally, results, too_late_users, end_ms }
    }

    fn write_first_half(&self, monitor: &Monitor<'_>) {
        self.write(monitor, 0..RECORDS / 2);
    }

    /// Writes one of [`PARTS`] parts of the second half, when the workers have read what is before it.
    fn write_part(&self, monitor: &Monitor<'_>, workers: &[Worker], part: u64) {
        let at = |part| RECORDS / 2 + part * (RECORDS / 2 / PARTS);
        // `maxOutOfOrderness`, disorder, and the distance between partitions.
        let read_ms = self.generator.nominal_time_ms(at(part)) - 2_000 - 1_500 - 500;
        monitor.await_watermark(workers, read_ms, TIMEOUT);
        self.write(monitor, at(part)..at(part + 1));
    }

    fn write(&self, monitor: &Monitor<'_>, indices: Range<u64>) {
        let records: Vec<NewRecord> = indices.map(|index| self.record(index)).collect();
        monitor.produce(&records);
    }

    fn record(&self, index: u64) -> NewRecord {
        let mut value = Vec::new();
        let meta = self.generator.record(index, &mut value);
        let record = if meta.is_null() { NewRecord::tombstone() } else { NewRecord::new(value) };
        record.to(meta.partition.cast_signed())
    }
}

fn monitor(name: &str, mode: &str) -> Monitor<'static> {
    let monitor = Monitor::new(shared::kafka(), name)
        .set("output.mode", mode)
        .set("window.allowedLateness", format!("{LATENESS_MS}ms"))
        // No source is ever idle: only records move event time on.
        .set("window.idleTimeout", "1h");
    monitor.create_input(PARTITIONS);
    monitor
}

/// Moves event time on until everything is closed, ends the workers, judges what they have written, and gives it.
fn judge(monitor: &Monitor<'_>, workers: &[Worker], log: &Log) -> Vec<Alert> {
    let closed_ms = log.end_ms + 10_000;
    monitor.advance(closed_ms + LATENESS_MS.cast_signed() + 2_000);
    monitor.await_closed(workers, closed_ms, TIMEOUT);
    Monitor::stop(workers);
    Monitor::assert_no_fallback(workers);

    // Two independent opinions on what is right: the generator's, and a parse of what was really read back.
    let expected = monitor.expected();
    assert_eq!(expected, log.results);
    assert!(expected.len() > 150, "{} results prove little", expected.len());
    let alerts = monitor.alerts();
    let report = compare(&expected, &alerts);
    assert!(report.is_right(), "{report}");
    late_records_are_written_once(monitor, log);
    dead_letters_are_all_there(monitor, &log.tally);
    alerts
}

/// What was dropped is in the late topic exactly once: all that was too late in the second half. Of the first half some
/// may have been read before there was a watermark.
fn late_records_are_written_once(monitor: &Monitor<'_>, log: &Log) {
    let late = monitor.late();
    let users: BTreeSet<String> = late.iter().map(|record| record.key_text().to_owned()).collect();
    assert_eq!(users.len(), late.len(), "each has a user of its own, so none is there twice");
    let from = |index: u64| log.too_late_users.range(index..).map(|(_, user)| user.clone()).collect();
    assert!(users.is_subset(&from(0)), "only what was too late was dropped");
    let certain: BTreeSet<String> = from(RECORDS / 2);
    assert!(users.is_superset(&certain), "{:?} are missing", certain.difference(&users));
}

/// At least once, and a repeat can be told by its headers.
fn dead_letters_are_all_there(monitor: &Monitor<'_>, tally: &Tally) {
    let position = |record: &Record| {
        let header = |name| record.header(name).map(str::to_owned);
        (header("crashmonitor.partition"), header("crashmonitor.offset"))
    };
    let positions: BTreeSet<_> = monitor.dead_letters().iter().map(position).collect();
    assert_eq!(positions.len() as u64, tally.malformed);
}

/// What the workers have written, and how many results there must be.
fn equals_the_recomputation(monitor: Monitor<'_>, worker_count: usize) -> (Vec<Alert>, usize) {
    let log = Log::new(worker_count as u64);
    log.write_first_half(&monitor);
    let workers = monitor.start_workers(worker_count);
    (0..PARTS).for_each(|part| log.write_part(&monitor, &workers, part));
    (judge(&monitor, &workers, &log), log.results.len())
}

fn final_equals_the_recomputation(worker_count: usize) {
    let (alerts, _) = equals_the_recomputation(monitor("final", "Final"), worker_count);
    assert!(alerts.iter().all(|alert| alert.mode == Mode::Final));
}

/// That the counts of an interval and user strictly grow, and that the last one is right, is the report's judgement.
fn updates_equal_the_recomputation(worker_count: usize) {
    let (alerts, results) = equals_the_recomputation(monitor("updates", "Updates"), worker_count);
    assert!(alerts.iter().all(|alert| alert.mode == Mode::Update));
    assert!(alerts.len() > results, "late records have changed some results");
}

#[test]
fn final_results_of_1_worker_equal_the_recomputation() {
    final_equals_the_recomputation(1);
}

#[test]
fn final_results_of_2_workers_equal_the_recomputation() {
    final_equals_the_recomputation(2);
}

#[test]
fn final_results_of_4_workers_equal_the_recomputation() {
    final_equals_the_recomputation(4);
}

#[test]
fn final_results_of_2_workers_that_read_through_librdkafka_equal_the_recomputation() {
    equals_the_recomputation(monitor("final", "Final").set("worker.inputReader", "Librdkafka"), 2);
}

#[test]
fn updates_of_1_worker_grow_to_the_recomputation() {
    updates_equal_the_recomputation(1);
}

#[test]
fn updates_of_2_workers_grow_to_the_recomputation() {
    updates_equal_the_recomputation(2);
}

#[test]
fn updates_of_4_workers_grow_to_the_recomputation() {
    updates_equal_the_recomputation(4);
}

#[test]
fn workers_that_join_and_leave_change_nothing() {
    let log = Log::new(7);
    let monitor = monitor("scaling", "Final");
    log.write_first_half(&monitor);
    let mut workers = monitor.start_workers(1);
    for part in 0..PARTS {
        log.write_part(&monitor, &workers, part);
        match part {
            1 => workers.push(monitor.start_worker("joins")),
            3 => workers.push(monitor.start_worker("joins-too")),
            5 => Monitor::stop(&[workers.remove(0)]),
            _ => {}
        }
    }
    workers.iter().for_each(|worker| worker.wait_ready(TIMEOUT));
    judge(&monitor, &workers, &log);
}
