//! What the worker and the operator have in common as processes.
//!
//! Responsible for keeping what is in a process's memory out of files, and for serving HTTP within bounds. Must never
//! know what either program does.

pub mod memory;
pub mod serve;
