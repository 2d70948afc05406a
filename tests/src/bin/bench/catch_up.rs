//! A topic read from its beginning to its end, several times, by each reader in turn.
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

const PARTITIONS: u32 = 4;
/// After so many runs of each kind the broker's compiler has come to rest.
const WARM_UP_RUNS: u64 = 3;
/// A run that takes longer has failed.
pub(super) const TIMEOUT: Duration = Duration::from_secs(300);

/// What reads the topic.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    /// The worker, by its own fetch client.
    Direct,
    /// The worker, through librdkafka.
    Librdkafka,
    /// The fetch client and nothing behind it: the limit.
    Bare,
}

impl Reader {
    const ALL: [Reader; 3] = [Reader::Direct, Reader::Librdkafka, Reader::Bare];

    pub(super) fn name(self) -> &'static str {
        match self {
            Reader::Direct => "worker, direct",
            Reader::Librdkafka => "worker, librdkafka",
            Reader::Bare => "bare fetch loop",
        }
    }
}

/// What a run took.
pub(super) struct Figures {
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes_max: u64,
}

/// A filled topic.
pub(super) struct Topic<'k> {
    pub(super) kafka: &'k Kafka,
    pub(super) name: String,
    pub(super) records: u64,
    pub(super) expected: Counts,
}

/// For each compression: fills a topic once, has each reader read it `runs` times in turn, prints the figures.
pub fn run(records: u64, runs: u64, compressions: &[String]) -> Result<(), String> {
    for compression in compressions {
        println!(
            "catch-up: {records} records of about 207 bytes, compression {compression}, {PARTITIONS} partitions, \
             Kafka on the same cores"
        );
        let kafka = Kafka::builder().for_benchmarks().start();
        let topic = fill(&kafka, records, compression)?;
        println!("  {} results are expected", topic.expected.len());
        topic.warm_up()?;
        let mut figures: [Vec<Figures>; 3] = Default::default();
        for number in 0..runs {
            for (reader, figures) in Reader::ALL.into_iter().zip(&mut figures) {
                let run = topic.once(reader, number)?;
                println!("  run {number}, {:<18} {}", reader.name(), row(&run, records));
                figures.push(run);
            }
        }
        summary(&figures, records);
        println!("  all {} results of each run of a worker were right", topic.expected.len());
    }
    Ok(())
}

pub(super) fn row(run: &Figures, records: u64) -> String {
    format!(
        "{:6.2} s, {:.2} million records/s, {:.3} µs of CPU a record, {} MB resident",
        run.seconds,
        records as f64 / run.seconds / 1e6,
        run.cpu_seconds * 1e6 / records as f64,
        run.resident_bytes_max / 1_000_000,
    )
}

/// Medians with lowest and highest, and how the worker's direct path stands to the limit, run by run.
fn summary(figures: &[Vec<Figures>; 3], records: u64) {
    let million = records as f64 / 1e6;
    for (reader, runs) in Reader::ALL.into_iter().zip(figures) {
        let of = |figure: &dyn Fn(&Figures) -> f64| {
            let (median, low, high) = spread(runs.iter().map(figure).collect());
            format!("{median:.3} ({low:.3} to {high:.3})")
        };
        println!("  {}", reader.name());
        println!("    records/s, million:   {}", of(&|run| million / run.seconds));
        println!("    CPU a record, µs:     {}", of(&|run| run.cpu_seconds / million));
        println!("    resident at most, MB: {}", of(&|run| run.resident_bytes_max as f64 / 1e6));
    }
    let [direct, _, bare] = figures;
    let ratios = direct.iter().zip(bare).map(|(direct, bare)| bare.seconds / direct.seconds);
    let (median, low, high) = spread(ratios.collect());
    println!("  direct to bare, records/s: {median:.2} ({low:.2} to {high:.2})");
}

pub(super) fn fill<'k>(kafka: &'k Kafka, records: u64, compression: &str) -> Result<Topic<'k>, String> {
    let name = format!("catch-up-{compression}");
    let dir = Dir::new("bench");
    let file = dir.path().join("expected");
    let mut command = Command::new(binary("crashmonitor-loadgen", "CRASHMONITOR_LOADGEN"));
    command.args(["--brokers", &kafka.bootstrap(), "--topic", &name, "--rate", "0", "--quiet"]);
    command.args(["--create-topic", &PARTITIONS.to_string(), "--max-records", &records.to_string()]);
    command.args(["--compression", compression, "--event-rate", "100000"]);
    command.args(["--end-marker-after-ms", "60000", "--expected"]).arg(&file);
    let process = Process::spawn("loadgen", &command, &dir.path().join("log"));
    let status = process.wait_exit(TIMEOUT);
    if !status.success() {
        return Err(format!("the load generator ended with {status}\n{}", process.log_tail()));
    }
    let file = File::open(&file).map_err(|error| error.to_string())?;
    let expected = read_expected(BufReader::new(file)).map_err(|error| error.to_string())?;
    Ok(Topic { kafka, name, records, expected })
}

impl Topic<'_> {
    /// Has the topic read a few times before anything is measured. Else the first runs share their cores with the broker's
    /// just-in-time compiler, which a broker that has run for a minute needs no more.
    pub(super) fn warm_up(&self) -> Result<(), String> {
        for number in 0..WARM_UP_RUNS {
            self.bare()?;
            self.worker(&format!("{}-warm-up-{number}", self.name), "Direct")?;
        }
        Ok(())
    }

    /// One run of a reader.
    pub(super) fn once(&self, reader: Reader, number: u64) -> Result<Figures, String> {
        match reader {
            Reader::Bare => self.bare(),
            Reader::Direct => self.worker(&format!("{}-direct-{number}", self.name), "Direct"),
            Reader::Librdkafka => self.worker(&format!("{}-librdkafka-{number}", self.name), "Librdkafka"),
        }
    }

    fn worker(&self, name: &str, reader: &str) -> Result<Figures, String> {
        let worker = Worker::builder(name)
            .env("POD_NAME", name)
            .env("RUST_LOG", "info")
            .start(|admin| config(&self.kafka.bootstrap(), admin, name, &self.name, reader));
        let output = format!("alerts-{name}");
        until_true("the output topic", TIMEOUT, || self.kafka.topics().partitions_of(&output).is_some());
        let consumer = follow::open(self.kafka.topics().config(), &output, 1)?;
        let mut alerts: Vec<Alert> = Vec::new();
        let begun = Instant::now();
        let mut last = SystemTime::now();
        while alerts.len() < self.expected.len() {
            if begun.elapsed() > TIMEOUT {
                let (found, expected) = (alerts.len(), self.expected.len());
                return Err(format!("{found} of {expected} results came\n{}", worker.log_tail()));
            }
            if let Some(message) = consumer.poll(Duration::from_millis(20)) {
                let message = message.map_err(|error| error.to_string())?;
                let alert = parse_alert(message.payload().unwrap_or_default());
                alerts.push(alert.map_err(|error| error.to_string())?);
                last = SystemTime::now();
            }
        }
        let cpu_seconds = worker.process().cpu_time().as_secs_f64();
        let resident_bytes_max = worker.process().resident_bytes_max();
        let report = compare(&self.expected, &alerts);
        if !report.is_right() {
            return Err(format!("{name}: {report}"));
        }
        if reader == "Direct" && worker.log().contains("through librdkafka") {
            return Err(format!("{name} did not take the direct path\n{}", worker.log_tail()));
        }
        let first = last_claim(&worker, PARTITIONS as usize);
        worker.stop(Duration::from_secs(30));
        let seconds = last.duration_since(first).map_err(|error| error.to_string())?.as_secs_f64();
        Ok(Figures { seconds, cpu_seconds, resident_bytes_max })
    }

    fn bare(&self) -> Result<Figures, String> {
        let dir = Dir::new("bench");
        let mut command = Command::new(binary("crashmonitor-fetch-only", "CRASHMONITOR_FETCH_ONLY"));
        command.args(["--brokers", &self.kafka.bootstrap(), "--topic", &self.name]);
        let process = Process::spawn("fetch-only", &command, &dir.path().join("log"));
        let said = until("the bare loop's end", TIMEOUT, || {
            let log = process.log();
            match log.lines().find(|line| line.starts_with("seconds=")) {
                Some(line) => Ok(Ok(line.to_owned())),
                None if process.is_running() => Err("it runs".to_owned()),
                None => Ok(Err(process.log_tail())),
            }
        })?;
        let cpu_seconds = process.cpu_time().as_secs_f64();
        let resident_bytes_max = process.resident_bytes_max();
        let field = |name: &str| {
            said.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
        };
        let seconds = field("seconds").parse::<f64>().map_err(|error| format!("{said}: {error}"))?;
        // End markers are records too.
        if field("records").parse::<u64>().is_ok_and(|records| records < self.records) {
            return Err(format!("the bare loop read too few: {said}"));
        }
        Ok(Figures { seconds, cpu_seconds, resident_bytes_max })
    }
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
