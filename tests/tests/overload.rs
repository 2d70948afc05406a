//! More than is comfortable: a backlog, very many users, users of every size, nothing but poison, nothing but crashes, and
//! more counts than there is memory for.
//!
//! Responsible for what must hold then: results are right, memory is what was said, the lag is shown, nothing ends and
//! nothing is dropped silently. `make overload` runs it with more: `CRASHMONITOR_OVERLOAD_USERS` says how many users, a
//! list, and prints what they take.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crashmonitor_bench::generator::{Generator, Options};
use crashmonitor_bench::kafka::Producer;
use crashmonitor_bench::load::{self as generated, Pace, Summary};
use crashmonitor_bench::oracle::{Counts, Query, compare};
use crashmonitor_core::record::USER_ID_BYTES_MAX;
use crashmonitor_testbed::load;
use crashmonitor_testbed::monitor::{Monitor, crash, now_ms};
use crashmonitor_testbed::{Kafka, Worker, shared, until};
use serde_json::Value;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(60);

/// The start of an interval in the past.
const T: i64 = 1_768_142_570_000;
const PARTITIONS: i32 = 4;
const MIB: u64 = 1 << 20;
/// What producers write at once when nobody looks.
const BATCH_BYTES: usize = 256 * 1024;
/// Some 25 records, of which one response has one batch for each partition: a worker that reads them takes long enough to be
/// looked at.
const SMALL_BATCH_BYTES: usize = 5_000;
/// What a worker takes beside its counts: records on their way in, results and snapshots on their way out, the program.
/// Half of the memory limit on Kubernetes.
const BESIDE_COUNTS_BYTES: u64 = 256 * MIB;

fn producer(monitor: &Monitor<'_>, batch_bytes: usize) -> Producer {
    load::producer(monitor, batch_bytes, Duration::from_secs(90))
}

/// Writes what the generator makes of these options, as fast as it goes.
fn generate(monitor: &Monitor<'_>, options: Options, records: u64, batch_bytes: usize) -> (Summary, Counts) {
    let generator = Generator::new(options).unwrap();
    let pace = Pace { records_max: Some(records), ..Pace::default() };
    let stop = AtomicBool::new(false);
    generated::run(&generator, &Query::default(), &pace, &mut producer(monitor, batch_bytes), &stop, |_| {})
        .unwrap()
}

fn status(worker: &Worker, what: &str, timeout: Duration, holds: impl Fn(&Value) -> bool) -> Value {
    until(what, timeout, || {
        assert!(worker.is_running(), "it ended\n{}", worker.log_tail());
        let status = worker.try_status()?;
        if holds(&status) { Ok(status) } else { Err(format!("{status}\n{}", worker.log_tail())) }
    })
}

/// Records that a worker has not read yet, by what it shows.
fn lag(status: &Value) -> u64 {
    let of_partitions = status["input"].as_object().unwrap().values();
    of_partitions.map(|partition| partition["lag"].as_u64().unwrap_or_default()).sum()
}

// ---- Many users ----

fn many_users(kafka: &Kafka, users: u64) {
    let timeout = TIMEOUT + Duration::from_millis(users / 20);
    let memory = format!("{}Mi", 64 + users / 5_000);
    let monitor = Monitor::new(kafka, "many-users").set("worker.stateMemoryMax", memory);
    monitor.create_input(PARTITIONS);
    let workers = monitor.start_workers(1);
    let worker = &workers[0];
    let before = worker.process().resident_bytes();
    let begun = Instant::now();
    let expected = load::write_users(&monitor, users, T);
    let shown = status(worker, "all users to be counted", timeout, |status| {
        status["state"]["counters"].as_u64() == Some(users)
    });
    let (estimated, resident) =
        (shown["state"]["bytes"].as_u64().unwrap(), worker.process().resident_bytes());
    let counted = begun.elapsed();
    monitor.advance(T + 100_000);
    let results = expected.len() as u64;
    let written = status(worker, "all results", timeout, |status| status["totals"]["results"] == results);
    assert_eq!(written["state"]["counters"], 0, "closed windows are dropped");
    assert_eq!(worker.metric("crashmonitor_counters"), Some(0.0));
    let most = worker.process().resident_bytes_max();
    println!(
        "{users} users: {} MiB before, {} MiB with all counted ({} bytes a user), {} MiB at most, with {results} results; \
         the estimate was {} MiB; counted in {:.1} s, all in {:.1} s",
        before / MIB,
        resident / MIB,
        resident.saturating_sub(before) / users,
        most / MIB,
        estimated / MIB,
        counted.as_secs_f64(),
        begun.elapsed().as_secs_f64(),
    );
    assert!(most <= estimated + BESIDE_COUNTS_BYTES, "{} MiB at most", most / MIB);
    Monitor::stop(&workers);
    let report = compare(&expected, &monitor.alerts());
    assert!(report.is_right(), "{report}");
}

#[test]
fn very_many_users_in_one_window_take_the_memory_that_was_said() {
    match std::env::var("CRASHMONITOR_OVERLOAD_USERS") {
        Err(_) => many_users(shared::kafka(), 100_000),
        Ok(sizes) => {
            let kafka = Kafka::builder().for_benchmarks().start();
            sizes.split(',').for_each(|users| many_users(&kafka, users.trim().parse().unwrap()));
        }
    }
}

#[test]
fn users_of_every_size_are_counted_or_dead_letters() {
    let monitor = Monitor::new(shared::kafka(), "sizes");
    monitor.create_input(PARTITIONS);
    let workers = monitor.start_workers(1);
    // The last ones are too long: by a byte, by a few, by very much.
    let too_long = [USER_ID_BYTES_MAX + 1, USER_ID_BYTES_MAX + 2, 4 * USER_ID_BYTES_MAX, 500_000];
    let sizes = (1..=USER_ID_BYTES_MAX).chain(too_long);
    let records: Vec<String> = sizes.flat_map(|size| vec![crash(T, &"x".repeat(size)); 3]).collect();
    monitor.spread(&records);
    let letters = 3 * too_long.len() as u64;
    status(&workers[0], "dead letters", TIMEOUT, |status| status["totals"]["deadLetters"] == letters);
    monitor.advance(T + 100_000);
    monitor.await_results(&monitor.expected(), TIMEOUT);
    assert_eq!(monitor.expected().len(), USER_ID_BYTES_MAX);
    Monitor::stop(&workers);
    assert_eq!(monitor.dead_letters().len() as u64, letters);
}

// ---- Much at once ----

/// Writes records before a worker starts, watches it catch up, and holds what it wrote against what it should have. Gives
/// the largest lag that it showed.
fn catches_up(name: &str, options: Options, records: u64, batch_bytes: usize) -> u64 {
    let settings = serde_json::json!({"max.partition.fetch.bytes": batch_bytes});
    let monitor = Monitor::new(shared::kafka(), name).set("kafka.config", settings);
    monitor.create_input(PARTITIONS);
    let seconds = i64::try_from(records / options.event_rate).unwrap();
    let start_ms = now_ms() - 3_600_000;
    let options = Options { start_ms, partitions: PARTITIONS.unsigned_abs(), ..options };
    let (summary, expected) = generate(&monitor, options, records, batch_bytes);
    monitor.advance(start_ms + seconds * 1_000 + 100_000);

    let worker = monitor.start_worker("0");
    let mut most = 0;
    let total = summary.records + PARTITIONS.unsigned_abs() as u64;
    until(&format!("{name}: all records to be read"), 2 * TIMEOUT, || {
        assert!(worker.is_running(), "it ended\n{}", worker.log_tail());
        let status = worker.try_status()?;
        let behind = lag(&status);
        if behind > most {
            most = behind;
            let metric = worker.metric("crashmonitor_lag_records_sum").unwrap_or_default();
            assert!(metric > 0.0 || worker.status()["totals"]["records"] == total, "the metric shows no lag");
        }
        if status["totals"]["records"] == total { Ok(()) } else { Err(status.to_string()) }
    });
    status(&worker, "no lag", TIMEOUT, |status| lag(status) == 0);
    monitor.await_results(&expected, 2 * TIMEOUT);
    let letters = worker.status()["totals"]["deadLetters"].as_u64().unwrap();
    assert_eq!(letters, summary.malformed, "each record that can't be read is told");
    let resident = worker.process().resident_bytes_max();
    println!(
        "{name}: {records} records, {} crashes, {letters} dead letters, {} results, {} MiB at most",
        summary.crash_events,
        expected.len(),
        resident / MIB
    );
    assert!(resident <= BESIDE_COUNTS_BYTES, "{} MiB", resident / MIB);
    Monitor::stop(&[worker]);
    assert!(compare(&expected, &monitor.alerts()).is_right());
    most
}

/// How many records: more where there is time.
fn records() -> u64 {
    if std::env::var_os("CRASHMONITOR_OVERLOAD_USERS").is_some() { 1_000_000 } else { 200_000 }
}

#[test]
fn a_backlog_in_which_every_record_is_a_crash_is_counted() {
    let options = Options {
        one_in: 1,
        severity_weights: [0, 0, 1, 1],
        event_rate: records() / 20,
        ..Options::default()
    };
    let lag = catches_up("all-crashes", options, records(), SMALL_BATCH_BYTES);
    assert!(lag > records() / 100, "a lag of {lag} was all that was shown");
}

#[test]
fn a_flood_of_poison_is_told_and_stops_nothing() {
    let options = Options { poison_share: 0.9, one_in: 2, event_rate: records() / 20, ..Options::default() };
    catches_up("poison", options, records(), BATCH_BYTES);
}

// ---- More than there is room for ----

#[test]
fn without_room_a_worker_reads_no_more_says_so_and_another_one_makes_room() {
    // The counts of one worker take a third more than it may have; those of two fit.
    let users = 14_000;
    let monitor = Monitor::new(shared::kafka(), "no-room").set("worker.stateMemoryMax", "1Mi");
    monitor.create_input(PARTITIONS);
    let full = monitor.start_worker("0");
    full.wait_ready(TIMEOUT);
    let expected = load::write_users(&monitor, users, T);
    let shown = status(&full, "no room", TIMEOUT, |status| {
        let reason = status["notReadyReason"].as_str().unwrap_or_default();
        status["ready"] == false && reason.starts_with("worker.stateMemoryMax: ")
    });
    let (bytes, bytes_max) = (&shown["state"]["bytes"], &shown["state"]["bytesMax"]);
    assert!(bytes.as_u64() >= bytes_max.as_u64() && bytes_max.as_u64() == Some(MIB), "{shown}");
    assert_eq!(full.metric("crashmonitor_state_bytes_max"), Some(MIB as f64));
    assert!(full.metric("crashmonitor_state_bytes") >= Some(MIB as f64));
    assert!(full.healthy(), "a restart would not help");
    // Event time stands still meanwhile, and with it everything that could be wrong.
    monitor.advance(T + 100_000);
    assert!(monitor.alerts().is_empty());
    let said = full.log().lines().filter(|line| line.contains("worker.stateMemoryMax: ")).count();
    assert_eq!(said, 1, "{}", full.log());

    let workers = [full, monitor.start_worker("1")];
    monitor.await_results(&expected, 2 * TIMEOUT);
    workers.iter().for_each(|worker| worker.wait_ready(TIMEOUT));
    Monitor::stop(&workers);
    assert!(compare(&expected, &monitor.alerts()).is_right());
}
