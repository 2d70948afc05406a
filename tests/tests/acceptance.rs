//! The owner's four acceptance tests, on a real Kafka and with real workers, as the owner has set them: windows of
//! 10 s, 30 s of allowed lateness, more than 2 crashes.
//!
//! Event times lie in the past, and later records move event time on, so that nothing waits for the wall clock.

use crashmonitor_testbed::monitor::{Monitor, crash, record};
use crashmonitor_testbed::{Record, Worker, shared, until};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);

/// The input's partitions: the records of one user lie in all of them.
const PARTITIONS: i32 = 3;

/// 2026-01-11 14:42:50, the start of an interval.
const T: i64 = 1_768_142_570_000;

/// How far behind the highest event time the watermark stays: `maxOutOfOrderness`.
const BEHIND: i64 = 2_000;

/// `allowedLateness`.
const LATENESS: i64 = 30_000;

fn monitor(name: &str) -> (Monitor<'static>, Vec<Worker>) {
    let monitor = Monitor::new(shared::kafka(), name)
        .set("window.size", "10s")
        .set("window.allowedLateness", "30s")
        .set("window.maxOutOfOrderness", "2s")
        // No source is ever idle: only records move event time on.
        .set("window.idleTimeout", "1h")
        .set("countGreaterThan", 2);
    monitor.create_input(PARTITIONS);
    let workers = monitor.start_workers(1);
    (monitor, workers)
}

/// Moves event time on until the intervals that end at `time_ms` are complete.
fn complete(monitor: &Monitor<'_>, workers: &[Worker], time_ms: i64) {
    monitor.advance(time_ms + BEHIND);
    monitor.await_watermark(workers, time_ms, TIMEOUT);
}

/// What was written once the workers have ended, as (start of the interval, user, count).
fn results_at_end(monitor: &Monitor<'_>, workers: &[Worker]) -> Vec<(i64, String, u64)> {
    Monitor::stop(workers);
    monitor.results()
}

fn result(start_ms: i64, user: &str, count: u64) -> (i64, String, u64) {
    (start_ms, user.to_owned(), count)
}

#[test]
fn acceptance_1_filtering() {
    let (monitor, workers) = monitor("filtering");
    let mut log = Vec::new();
    for at in T..T + 3 {
        // Only a crash of severity High or Critical counts.
        log.push(record(at, "High", "high", "session crash after timeout"));
        log.push(record(at, "Critical", "critical", "the session CRASHED"));
        log.push(record(at, "Medium", "medium", "session crash after timeout"));
        log.push(record(at, "Low", "low", "session crash after timeout"));
        log.push(record(at, "high", "lower-case-severity", "session crash after timeout"));
        log.push(record(at, "High", "no-crash", "session ended after timeout"));
        log.push(record(at, "Critical", "crash-by-name", "session ended after timeout"));
    }
    monitor.spread(&log);
    complete(&monitor, &workers, T + 10_000);
    let expected = [result(T, "critical", 3), result(T, "high", 3)];
    assert_eq!(results_at_end(&monitor, &workers), expected);
}

#[test]
fn acceptance_2_windowing() {
    let (monitor, workers) = monitor("windowing");
    let at = |user: &str, times: [i64; 3]| times.map(|time| crash(time, user));
    let log = [
        at("first-and-last-instant", [T, T + 5_000, T + 9_999]),
        // The end belongs to the next interval: two here, one there.
        at("end-is-next", [T + 9_998, T + 9_999, T + 10_000]),
        at("one-before", [T - 1, T, T + 1]),
        at("next", [T + 10_000, T + 10_001, T + 19_999]),
        // Three within 10 s, but in no single interval.
        at("across", [T + 8_000, T + 12_000, T + 9_000]),
    ];
    // The order of arrival doesn't count: the next interval's records come first.
    let log: Vec<String> = log.into_iter().rev().flatten().collect();
    monitor.spread(&log);
    complete(&monitor, &workers, T + 20_000);
    let expected = [result(T, "first-and-last-instant", 3), result(T + 10_000, "next", 3)];
    assert_eq!(results_at_end(&monitor, &workers), expected);
}

#[test]
fn acceptance_3_threshold() {
    let (monitor, workers) = monitor("threshold");
    let log: Vec<String> = [("one", 1), ("two", 2), ("three", 3), ("four", 4)]
        .into_iter()
        .flat_map(|(user, count)| (0..count).map(move |n| crash(T + n, user)))
        .collect();
    monitor.spread(&log);
    complete(&monitor, &workers, T + 10_000);
    assert_eq!(results_at_end(&monitor, &workers), [result(T, "four", 4), result(T, "three", 3)]);
}

#[test]
fn acceptance_4_late_data() {
    let (monitor, workers) = monitor("late-data");
    monitor.spread(&["a", "a", "a", "b", "b"].map(|user| crash(T, user)));
    complete(&monitor, &workers, T + 10_000);
    await_results(&monitor, &[result(T, "a", 3)]);

    // The watermark is one millisecond short of 30 s beyond the interval's end: both users' records still count. What
    // was output is output again with the larger count, and who is above the threshold only now is output now.
    let last_chance = T + 10_000 + LATENESS - 1;
    complete(&monitor, &workers, last_chance);
    monitor.spread(&[crash(T + 9_999, "a"), crash(T, "b")]);
    await_results(&monitor, &[result(T, "a", 3), result(T, "a", 4), result(T, "b", 3)]);

    // 30 s beyond it, the interval is closed; the one behind it is not.
    complete(&monitor, &workers, T + 10_000 + LATENESS);
    monitor.spread(&[crash(T + 9_999, "a"), crash(T + 5_000, "b")]);
    monitor.spread(&["c"; 3].map(|user| crash(T + 10_000, user)));
    let expected = [result(T, "a", 3), result(T, "a", 4), result(T, "b", 3), result(T + 10_000, "c", 3)];
    await_results(&monitor, &expected);
    await_late_count(&workers[0], 2);
    assert_eq!(results_at_end(&monitor, &workers), expected);

    let mut late: Vec<(String, i64)> = monitor.late().iter().map(late_event).collect();
    late.sort();
    assert_eq!(late, [("a".to_owned(), T + 9_999), ("b".to_owned(), T + 5_000)]);
}

fn await_results(monitor: &Monitor<'_>, expected: &[(i64, String, u64)]) {
    until(&format!("the results {expected:?}"), TIMEOUT, || {
        let results = monitor.results();
        if results == expected { Ok(()) } else { Err(format!("{results:?}")) }
    });
}

/// Late records are seen to be ignored: in /status and in the metrics.
fn await_late_count(worker: &Worker, count: u64) {
    until(&format!("{count} late records in /status and /metrics"), TIMEOUT, || {
        let status = worker.status()["totals"]["late"].as_u64();
        let metric = worker.metric("crashmonitor_late_events_dropped_total");
        if (status, metric) == (Some(count), Some(count as f64)) {
            Ok(())
        } else {
            Err(format!("{status:?} and {metric:?}"))
        }
    });
}

fn late_event(record: &Record) -> (String, i64) {
    let value = record.json();
    let user = value["user_id"].as_str().expect("a late record names its user");
    assert_eq!(record.key_text(), user);
    assert_eq!(value["reason"], "window-closed");
    (user.to_owned(), value["timestamp"].as_i64().expect("a late record has its time"))
}
