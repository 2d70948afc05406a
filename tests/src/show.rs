//! The monitor at work, seen from outside: what `make run`, `make demo` and `make bench-latency` share.
//!
//! Responsible for the query that all of them answer and for the names of its topics; its parts start services and load,
//! follow the results, and measure how long each took. Must never look into a worker for what can be seen from outside.

pub mod appended;
pub mod histogram;
pub mod load;
pub mod services;
pub mod summary;
pub mod truth;
pub mod view;
pub mod watch;

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
