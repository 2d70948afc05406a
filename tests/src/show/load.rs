//! The load generator, as a process.
//!
//! Responsible for its arguments and for what it says at its end: a summary and the expected results. The generator's
//! options are kept, since the same options give the same records (`truth` makes use of that). Must never write a
//! record itself.

use super::{ALLOWED_LATENESS_MS, INPUT, INPUT_PARTITIONS, MAX_OUT_OF_ORDERNESS_MS, THRESHOLD, WINDOW_MS};
use crate::home::Dir;
use crate::process::Process;
use crate::worker::binary;
use crashmonitor_bench::generator::Options;
use crashmonitor_bench::oracle::{Counts, read_expected};
use rustix::process::Signal;
use serde::Deserialize;
use std::fmt::Display;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The end markers come so long after the last record that every interval completes, with some margin.
const END_MARKER_AFTER_MS: i64 = WINDOW_MS + MAX_OUT_OF_ORDERNESS_MS + 500;

/// What the generator says at its end. Times are epoch milliseconds.
#[derive(Clone, Debug, Deserialize)]
pub struct Generated {
    /// Records written, without end markers.
    pub records: u64,
    /// Of all values.
    pub value_bytes: u64,
    /// From the first record to the last acknowledgement.
    pub seconds: f64,
    /// Records a second over the whole run.
    pub records_per_second: f64,
    /// Records too late to count.
    pub too_late: u64,
    /// Records that must be reported as malformed.
    pub malformed: u64,
    /// Event time of the first record, before any shift.
    pub first_event_ms: i64,
    /// Event time of the last record, before any shift.
    pub last_event_ms: i64,
    /// Event time of the end markers, if they were written.
    pub end_marker_ms: Option<i64>,
    /// The most by which it was behind its rate.
    pub behind_ms_max: u64,
}

/// The running generator. Dropping it kills it.
pub struct Load {
    process: Process,
    expected: PathBuf,
    /// What it writes, but for the start time, which it chooses itself when it begins.
    pub options: Options,
}

impl Load {
    /// Starts it; it writes to the brokers at `bootstrap`.
    pub fn start(bootstrap: &str, dir: &Dir, options: Options, seconds: Option<u64>) -> Load {
        let expected = dir.path().join("expected.jsonl");
        let command = command(&options, bootstrap, seconds, &expected);
        let process = Process::spawn("the load generator", &command, &dir.path().join("log"));
        Load { process, expected, options }
    }

    /// Tells it to end early; it waits for what is not acknowledged yet.
    pub fn interrupt(&self) {
        self.process.signal(Signal::INT);
    }

    /// Whether it is still at work.
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// What it wrote and what a monitor must make of it, once it has ended.
    pub fn outcome(&self) -> Result<(Generated, Counts), String> {
        outcome(&self.process, &self.expected)
    }
}

/// What a generator that has ended wrote, by its own account, and what a monitor must make of it, by its file `expected`.
///
/// # Errors
/// It runs, it has failed, or either can't be read.
pub fn outcome(process: &Process, expected: &Path) -> Result<(Generated, Counts), String> {
    let failed = |what: &str| format!("the load generator {what}\n{}", process.log_tail());
    if !process.exited().is_some_and(|status| status.success()) {
        return Err(failed("failed"));
    }
    let log = process.log();
    let summary = log.lines().rev().find(|line| line.starts_with('{'));
    let summary = summary.ok_or_else(|| failed("wrote no summary"))?;
    let generated =
        serde_json::from_str(summary).map_err(|e| failed(&format!("wrote a strange summary: {e}")))?;
    let unreadable = |e: &dyn Display| format!("{}: {e}", expected.display());
    let file = File::open(expected).map_err(|e| unreadable(&e))?;
    let counts = read_expected(BufReader::new(file)).map_err(|e| unreadable(&e))?;
    Ok((generated, counts))
}

/// So many records a second: mostly ordinary ones, and enough of each other sort to be seen.
pub fn options(rate: u64) -> Options {
    Options {
        event_rate: rate,
        partitions: INPUT_PARTITIONS,
        disorder_ms: 1_500,
        late_share: 0.005,
        late_by_max_ms: ALLOWED_LATENESS_MS.unsigned_abs(),
        too_late_share: 0.000_2,
        poison_share: 0.000_5,
        odd_share: 0.01,
        ..Options::default()
    }
}

fn command(options: &Options, brokers: &str, seconds: Option<u64>, expected: &Path) -> Command {
    let mut command = Command::new(binary("crashmonitor-loadgen", "CRASHMONITOR_LOADGEN"));
    let mut set = |name: &str, value: String| {
        command.arg(format!("--{name}")).arg(value);
    };
    set("brokers", brokers.to_owned());
    set("topic", INPUT.to_owned());
    set("rate", options.event_rate.to_string());
    set("seed", options.seed.to_string());
    set("users", options.users.to_string());
    set("one-in", options.one_in.to_string());
    set("disorder-ms", options.disorder_ms.to_string());
    set("late-share", options.late_share.to_string());
    set("late-by-max", options.late_by_max_ms.to_string());
    set("too-late-share", options.too_late_share.to_string());
    set("poison-share", options.poison_share.to_string());
    set("odd-share", options.odd_share.to_string());
    set("record-bytes", options.record_bytes.to_string());
    set("window-ms", WINDOW_MS.to_string());
    set("count-greater-than", THRESHOLD.to_string());
    set("end-marker-after-ms", END_MARKER_AFTER_MS.to_string());
    set("expected", expected.display().to_string());
    if let Some(seconds) = seconds {
        set("duration", seconds.to_string());
    }
    command.arg("--quiet");
    command
}
