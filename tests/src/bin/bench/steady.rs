//! A steady load for a while.
//!
//! Responsible for the worker's memory and processor time at 100,000 records/s. Must never count what the start takes.

use crashmonitor_testbed::home::Dir;
use crashmonitor_testbed::process::Process;
use crashmonitor_testbed::worker::binary;
use crashmonitor_testbed::{Kafka, Worker};
use std::process::Command;
use std::time::{Duration, Instant};

use super::config;

const INPUT: &str = "steady";
const RATE: u64 = 100_000;

/// Loads one worker for `seconds`, prints the figures.
pub fn run(seconds: u64) -> Result<(), String> {
    println!("steady: {RATE} records/s for {seconds} s, 4 partitions, one worker");
    let kafka = Kafka::builder().for_benchmarks().start();
    kafka.topics().create_topic(INPUT, 4, &[]);
    let worker = Worker::builder("steady")
        .env("POD_NAME", "steady")
        .start(|admin| config(&kafka.bootstrap(), admin, "steady", INPUT, "Direct"));
    worker.wait_ready(Duration::from_secs(60));
    let dir = Dir::new("bench");
    let mut command = Command::new(binary("crashmonitor-loadgen", "CRASHMONITOR_LOADGEN"));
    command.args(["--brokers", &kafka.bootstrap(), "--topic", INPUT, "--rate", &RATE.to_string()]);
    command.args(["--duration", &seconds.to_string(), "--quiet"]);
    let load = Process::spawn("loadgen", &command, &dir.path().join("log"));
    let begun = Instant::now();
    let warm = Duration::from_secs(seconds) / 3;
    let mut base = None;
    let mut resident_bytes_max = 0;
    while load.is_running() {
        std::thread::sleep(Duration::from_millis(50));
        if begun.elapsed() >= warm {
            base.get_or_insert_with(|| (Instant::now(), worker.process().cpu_time()));
            resident_bytes_max = resident_bytes_max.max(worker.process().resident_bytes());
        }
    }
    if !load.exited().is_some_and(|status| status.success()) {
        return Err(format!("the load generator failed\n{}", load.log_tail()));
    }
    let (since, cpu) = base.ok_or("the load ended before it was steady")?;
    let cpu = (worker.process().cpu_time() - cpu).as_secs_f64() / since.elapsed().as_secs_f64();
    println!("  resident at most, MB:   {:.0}", resident_bytes_max as f64 / 1e6);
    println!("  CPU, share of a core:   {cpu:.2}, {:.2} µs a record", cpu * 1e6 / RATE as f64);
    worker.stop(Duration::from_secs(30));
    Ok(())
}
