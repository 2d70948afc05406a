//! What every fault under load needs: to know who owns what and that counting goes on, and an exact comparison at the end.
//!
//! Responsible for the end of such a test: the load ends, all windows close, workers end, and the output as committed is
//! held against a recomputation of everything in the input. Must never cause a fault, nor know of one.

use crashmonitor_bench::oracle::{Finding, Report, compare};
use std::time::Duration;

use crate::load::Load;
use crate::monitor::Monitor;
use crate::wait::{until, until_true};
use crate::worker::Worker;

/// How long anything may take. What is awaited comes within seconds, or a minute where a session or a late request has to
/// end first; the rest is for a machine that has other work too.
pub const TIMEOUT: Duration = Duration::from_secs(180);
/// So few results tell nothing.
const RESULTS_MIN: u64 = 100;

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Records in the input.
    pub records: u64,
    /// The results, held against the input.
    pub report: Report,
    /// Dropped late records; the load has none that may be dropped.
    pub late: usize,
}

impl Outcome {
    /// What the topics of a monitor say now.
    #[track_caller]
    pub fn of(monitor: &Monitor<'_>) -> Outcome {
        let oracle = monitor.recompute();
        let report = compare(&oracle.results(), &monitor.alerts());
        Outcome { records: oracle.tally().records, report, late: monitor.late().len() }
    }

    /// Results that are not there, or whose count is too low.
    pub fn lost(&self) -> usize {
        self.report.missing.len() + self.wrong(|got, expected| got < expected) + self.late
    }

    /// Results that are there once too often, or whose count is too high.
    pub fn doubled(&self) -> usize {
        let too_many = self.report.doubled.len() + self.report.unexpected.len();
        too_many + self.wrong(|got, expected| got >= expected)
    }

    /// Whether nothing is lost and nothing doubled, of enough to tell.
    ///
    /// # Errors
    /// What is not right.
    pub fn check(&self) -> Result<(), String> {
        let Outcome { report, late, .. } = self;
        match (report.is_right(), report.right > RESULTS_MIN, *late) {
            (true, true, 0) => Ok(()),
            (true, false, _) => Err(format!("too few results to tell: {report}")),
            _ => Err(format!("{report}\n{late} records were dropped as late")),
        }
    }

    fn wrong(&self, is_so: impl Fn(Option<u64>, Option<u64>) -> bool) -> usize {
        let is_so = |finding: &&Finding| is_so(finding.got.last().copied(), finding.expected);
        self.report.wrong.iter().filter(is_so).count()
    }
}

/// The sum of one of the totals in the workers' status; those that don't answer have none.
pub fn total(workers: &[Worker], name: &str) -> u64 {
    workers.iter().filter_map(|w| w.try_status().ok()).filter_map(|s| s["totals"][name].as_u64()).sum()
}

/// Waits until these workers together have written more.
#[track_caller]
pub fn await_more_results(workers: &[Worker]) {
    let before = total(workers, "results");
    until_true("further results", TIMEOUT, || total(workers, "results") > before);
}

/// How many input partitions and how many repartition partitions a worker owns.
pub fn owned(worker: &Worker) -> (usize, usize) {
    let status = worker.try_status().unwrap_or_default();
    let count = |stage: &str| status[stage].as_object().map_or(0, serde_json::Map::len);
    (count("input"), count("aggregate"))
}

/// Waits until a worker owns so many input partitions and so many repartition partitions.
#[track_caller]
pub fn await_owned(worker: &Worker, input: usize, aggregate: usize, timeout: Duration) {
    until(&format!("{} to own {input} and {aggregate} partitions", worker.name()), timeout, || {
        let owned = owned(worker);
        if owned == (input, aggregate) { Ok(()) } else { Err(format!("{owned:?}\n{}", worker.log_tail())) }
    });
}

/// Ends the load, has all windows close, ends the workers, and compares.
#[track_caller]
pub fn finish(monitor: &Monitor<'_>, load: Load, workers: &[Worker]) -> Outcome {
    let end_ms = end(monitor, load);
    monitor.await_closed(workers, end_ms, TIMEOUT);
    compare_all(monitor, workers)
}

/// Ends the load, and has event time go on. All results are due when the windows that end at the returned time are closed.
#[track_caller]
pub fn end(monitor: &Monitor<'_>, load: Load) -> i64 {
    let last_ms = load.finish();
    monitor.advance(last_ms + 60_000);
    last_ms + 10_000
}

/// Ends the workers, and compares, once all windows are closed.
#[track_caller]
pub fn compare_all(monitor: &Monitor<'_>, workers: &[Worker]) -> Outcome {
    // A transaction that a dead worker left open hides what is behind it until it times out.
    monitor.await_results(&monitor.expected(), TIMEOUT);
    Monitor::stop(workers);
    Monitor::assert_no_fallback(workers);
    Outcome::of(monitor)
}
