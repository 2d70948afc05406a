//! A topic read from its beginning to its end, several times.
//!
//! Responsible for the runs and their table. Must never start two runs at once.

use crashmonitor_bench::oracle::{Alert, Counts, compare, parse_alert, read_expected};
use crashmonitor_testbed::home::Dir;
use crashmonitor_testbed::process::Process;
use crashmonitor_testbed::wait::{until, until_true};
use crashmonitor_testbed::worker::binary;
use crashmonitor_testbed::{Kafka, Worker, follow};
use rdkafka::message::Message;
use std::fs::File;
use std::io::BufReader;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{config, spread};

const INPUT: &str = "catch-up";
const PARTITIONS: u32 = 4;
/// A run that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(300);

struct Figures {
    seconds: f64,
    cpu_seconds: f64,
    resident_bytes_max: u64,
}

/// Fills the topic once, reads it `runs` times, prints the figures.
pub fn run(records: u64, runs: u64) -> Result<(), String> {
    println!(
        "catch-up: {records} records of about 207 bytes, {PARTITIONS} partitions, Kafka on the same cores"
    );
    let kafka = Kafka::builder().for_benchmarks().start();
    let expected = fill(&kafka, records)?;
    println!("  {} results are expected", expected.len());
    let mut figures = Vec::new();
    for number in 0..runs {
        let run = once(&kafka, &expected, &format!("catch-up-{number}"))?;
        println!(
            "  run {number}: {:.2} s, {:.2} million records/s, {:.2} µs of CPU a record, {} MB resident",
            run.seconds,
            records as f64 / run.seconds / 1e6,
            run.cpu_seconds * 1e6 / records as f64,
            run.resident_bytes_max / 1_000_000,
        );
        figures.push(run);
    }
    let of = |figure: fn(&Figures) -> f64| spread(figures.iter().map(figure).collect());
    let (median, low, high) = of(|run| 1.0 / run.seconds);
    let million = records as f64 / 1e6;
    println!(
        "  records/s, million:     {:.2} ({:.2} to {:.2})",
        median * million,
        low * million,
        high * million
    );
    let (median, low, high) = of(|run| run.cpu_seconds);
    println!(
        "  CPU a record, µs:       {:.2} ({:.2} to {:.2})",
        median / million,
        low / million,
        high / million
    );
    let (median, low, high) = of(|run| run.resident_bytes_max as f64 / 1e6);
    println!("  resident at most, MB:   {median:.0} ({low:.0} to {high:.0})");
    println!("  all {} results of each of {runs} runs were right", expected.len());
    Ok(())
}

fn fill(kafka: &Kafka, records: u64) -> Result<Counts, String> {
    let dir = Dir::new("bench");
    let file = dir.path().join("expected");
    let mut command = Command::new(binary("crashmonitor-loadgen", "CRASHMONITOR_LOADGEN"));
    command.args(["--brokers", &kafka.bootstrap(), "--topic", INPUT, "--rate", "0", "--quiet"]);
    command.args(["--create-topic", &PARTITIONS.to_string(), "--max-records", &records.to_string()]);
    command.args(["--event-rate", "100000", "--end-marker-after-ms", "60000", "--expected"]).arg(&file);
    let process = Process::spawn("loadgen", &command, &dir.path().join("log"));
    let status = process.wait_exit(TIMEOUT);
    if !status.success() {
        return Err(format!("the load generator ended with {status}\n{}", process.log_tail()));
    }
    let file = File::open(&file).map_err(|error| error.to_string())?;
    read_expected(BufReader::new(file)).map_err(|error| error.to_string())
}

fn once(kafka: &Kafka, expected: &Counts, name: &str) -> Result<Figures, String> {
    let worker = Worker::builder(name)
        .env("POD_NAME", name)
        .env("RUST_LOG", "info")
        .start(|admin| config(&kafka.bootstrap(), admin, name, INPUT));
    let output = format!("alerts-{name}");
    until_true("the output topic", TIMEOUT, || kafka.topics().partitions_of(&output).is_some());
    let consumer = follow::open(kafka.topics().config(), &output, 1)?;
    let mut alerts: Vec<Alert> = Vec::new();
    let mut resident_bytes_max = 0;
    let begun = Instant::now();
    let mut last = SystemTime::now();
    while alerts.len() < expected.len() {
        if begun.elapsed() > TIMEOUT {
            return Err(format!(
                "{} of {} results came\n{}",
                alerts.len(),
                expected.len(),
                worker.log_tail()
            ));
        }
        resident_bytes_max = resident_bytes_max.max(worker.process().resident_bytes());
        if let Some(message) = consumer.poll(Duration::from_millis(20)) {
            let message = message.map_err(|error| error.to_string())?;
            let alert =
                parse_alert(message.payload().unwrap_or_default()).map_err(|error| error.to_string())?;
            alerts.push(alert);
            last = SystemTime::now();
        }
    }
    let cpu_seconds = worker.process().cpu_time().as_secs_f64();
    let report = compare(expected, &alerts);
    if !report.is_right() {
        return Err(format!("{name}: {report}"));
    }
    let first = last_claim(&worker, PARTITIONS as usize);
    worker.stop(Duration::from_secs(30));
    let seconds = last.duration_since(first).map_err(|error| error.to_string())?.as_secs_f64();
    Ok(Figures { seconds, cpu_seconds, resident_bytes_max })
}

/// When the last of `partitions` claims was made, by the worker's own log.
fn last_claim(worker: &Worker, partitions: usize) -> SystemTime {
    let stamps = until("all claims in the log", TIMEOUT, || {
        let log = worker.log();
        let claims = log.lines().filter(|line| line.contains("claimed partition="));
        let stamps: Vec<String> =
            claims.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect();
        if stamps.len() == partitions { Ok(stamps) } else { Err(format!("{} claims", stamps.len())) }
    });
    let last = stamps.iter().max().expect("there is a partition");
    let last: jiff::Timestamp = last.parse().expect("log lines begin with their time");
    UNIX_EPOCH + Duration::from_micros(last.as_microsecond().unsigned_abs())
}
