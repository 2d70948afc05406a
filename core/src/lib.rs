//! The decisions of CrashMonitor, as values in and values out.
//!
//! Responsible for what a record means, when a window is complete, what a frame says, what is written and what is
//! committed. Must never do I/O, read a clock, draw a random number or know Kafka, Redis or Kubernetes by more than
//! the words partition and offset: every function here gives the same answer to the same arguments.

pub mod aggregate;
pub mod aggregator;
pub mod codec;
pub mod commit;
pub mod config;
pub mod frame;
pub mod ids;
pub mod orphans;
pub mod output;
pub mod record;
pub mod recovery;
pub mod route;
pub mod scan;
pub mod snapshot;
pub mod status;
pub mod time;
