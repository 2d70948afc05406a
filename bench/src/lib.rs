//! Load, and the truth about it: a deterministic generator of log records, an independent batch
//! recomputation of what a monitor must say about a log, the comparison of the two, and results as people read them.
//!
//! Nothing here may use `crashmonitor-core`: what judges the product must not share its mistakes.

pub mod generator;
pub mod kafka;
pub mod load;
pub mod oracle;
pub mod text;
