//! Where a worker's time goes while it catches up.
//!
//! Responsible for one catch-up by a worker that `perf record` looks at, on a broker that is warm. Must never say anything of rates: what
//! records disturbs.

use crashmonitor_testbed::home::Dir;
use crashmonitor_testbed::{Kafka, Worker, until_true};
use std::path::PathBuf;

use super::catch_up::{Shape, TIMEOUT, fill};

/// By the stack itself, for optimised code keeps no frame pointers.
const PERF: &str = "--freq 499 --call-graph dwarf,4096 --quiet";

/// What to measure.
#[derive(clap::Args)]
pub struct What {
    /// Records of the load.
    #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    records: u64,
    /// The file that `perf record` writes.
    #[arg(long, value_name = "FILE")]
    record: PathBuf,
}

/// Profiles one run.
pub fn run(what: &What) -> Result<(), String> {
    println!("profile: {} records of about 207 bytes, no compression, 4 partitions", what.records);
    let kafka = Kafka::builder().for_benchmarks().start();
    let topic = fill(&kafka, "profile", Shape::standard(what.records))?;
    topic.warm_up()?;
    let file = what.record.display().to_string();
    let dir = Dir::new("profile");
    let written = dir.path().join("written");
    // The worker begins when perf has written its header, which it does when it looks at it.
    let script = format!(
        "rm -f '{file}'; (perf record {PERF} --pid $$ --output '{file}'; touch '{}') & \
         until [ -s '{file}' ]; do kill -0 $! || exit 1; sleep 0.05; done; exec \"$@\"",
        written.display()
    );
    let under = ["sh", "-c", &script, "sh"];
    topic.workers_by("profile", "Direct", &[|pod: &str| Worker::builder(pod).under(&under)])?;
    until_true("what was recorded", TIMEOUT, || written.exists());
    println!("all {} results were right; written to {file}", topic.expected.len());
    Ok(())
}
