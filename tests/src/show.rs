//! What `make run` and `make demo` share: the load that they show the monitor at work with, and how they print.
//!
//! Responsible for the query that both answer and for the names of its topics. Must never start a service or a worker.

pub mod load;
pub mod view;

/// The topic that the load is written to.
pub const INPUT: &str = "logs";
/// The topic that results are read from.
pub const OUTPUT: &str = "crash-alerts";
/// Partitions of the input.
pub const INPUT_PARTITIONS: u32 = 4;

/// Length of an interval.
pub const WINDOW_MS: i64 = 10_000;
/// How long late records count.
pub const ALLOWED_LATENESS_MS: i64 = 30_000;
/// How far the watermark stays behind the event time.
pub const MAX_OUT_OF_ORDERNESS_MS: i64 = 2_000;
/// A count must be greater than this to be a result.
pub const THRESHOLD: u64 = 2;
