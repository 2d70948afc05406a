//! A topic read from its beginning to its end, several times, by each reader in turn.
//!
//! Responsible for the runs and their table. Must never start two runs at once.

use clap::Args;
use crashmonitor_bench::oracle::{Alert, Counts, compare, parse_alert};
use crashmonitor_testbed::home::Dir;
use crashmonitor_testbed::monitor::Monitor;
use crashmonitor_testbed::process::{Process, cpu_time_of_threads};
use crashmonitor_testbed::show::load::outcome;
use crashmonitor_testbed::wait::{until, until_true};
use crashmonitor_testbed::worker::{Builder, binary};
use crashmonitor_testbed::{Kafka, Worker, follow};
use rdkafka::message::Message;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::config;
use super::plot::Spread;

/// What `make bench` writes.
const PARTITIONS: u32 = 4;
/// A broker is warm when its just-in-time compiler takes less than this part of all processors while the topic is read.
const COMPILING_MAX: f64 = 0.04;
/// One that compiles after so many rounds of all readers will always do.
const WARM_UP_ROUNDS_MAX: u64 = 12;
/// A run that takes longer has failed.
pub(super) const TIMEOUT: Duration = Duration::from_secs(300);

/// How much is read, and how often, where a catch-up is measured at several points.
#[derive(Args)]
pub(super) struct Amount {
    /// Records of the standard load.
    #[arg(long, default_value_t = 5_000_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    pub(super) records: u64,
    /// Runs of each point.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) runs: u64,
}

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

/// What is in a topic.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Shape {
    pub(super) records: u64,
    pub(super) partitions: u32,
    pub(super) users: u32,
    /// The word is in one of so many records.
    pub(super) one_in: u32,
    /// Whether every record with the word is a crash; otherwise half of them are.
    pub(super) is_severe: bool,
    pub(super) record_bytes: u64,
    /// Without the fields that no monitor looks at.
    pub(super) is_lean: bool,
    pub(super) compression: String,
}

impl Shape {
    /// The load that everything is measured with, with so many records.
    pub(super) fn standard(records: u64) -> Shape {
        Shape {
            records,
            partitions: PARTITIONS,
            users: 1000,
            one_in: 200,
            is_severe: false,
            record_bytes: 207,
            is_lean: false,
            compression: "none".to_owned(),
        }
    }
}

/// A filled topic.
pub(super) struct Topic<'k> {
    pub(super) kafka: &'k Kafka,
    pub(super) name: String,
    pub(super) shape: Shape,
    pub(super) records: u64,
    /// Of all values.
    pub(super) value_bytes: u64,
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
        let shape = Shape { compression: compression.clone(), ..Shape::standard(records) };
        let topic = fill(&kafka, &format!("catch-up-{compression}"), shape)?;
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
        let of = |figure: &dyn Fn(&Figures) -> f64| Spread::of(runs.iter().map(figure)).shown(3);
        println!("  {}", reader.name());
        println!("    records/s, million:   {}", of(&|run| million / run.seconds));
        println!("    CPU a record, µs:     {}", of(&|run| run.cpu_seconds / million));
        println!("    resident at most, MB: {}", of(&|run| run.resident_bytes_max as f64 / 1e6));
    }
    let [direct, _, bare] = figures;
    let ratios = direct.iter().zip(bare).map(|(direct, bare)| bare.seconds / direct.seconds);
    println!("  direct to bare, records/s: {}", Spread::of(ratios).shown(2));
}

/// Writes a topic of this name, which is not there yet.
pub(super) fn fill<'k>(kafka: &'k Kafka, name: &str, shape: Shape) -> Result<Topic<'k>, String> {
    let dir = Dir::new("bench");
    let file = dir.path().join("expected");
    let mut command = Command::new(binary("crashmonitor-loadgen", "CRASHMONITOR_LOADGEN"));
    command.args(["--brokers", &kafka.bootstrap(), "--topic", name, "--rate", "0", "--quiet"]);
    command.args(["--create-topic", &shape.partitions.to_string()]);
    command.args(["--max-records", &shape.records.to_string(), "--users", &shape.users.to_string()]);
    command.args(["--one-in", &shape.one_in.to_string()]);
    command.args(["--record-bytes", &shape.record_bytes.to_string()]);
    command.args(["--compression", &shape.compression, "--event-rate", "100000"]);
    if shape.is_severe {
        command.args(["--severity-weights", "0,0,1,1"]);
    }
    if shape.is_lean {
        command.arg("--lean");
    }
    command.args(["--end-marker-after-ms", "60000", "--expected"]).arg(&file);
    let process = Process::spawn("loadgen", &command, &dir.path().join("log"));
    process.wait_exit(TIMEOUT);
    let (generated, expected) = outcome(&process, &file)?;
    if expected.is_empty() {
        return Err(format!("{shape:?}: no result is expected, so nobody could tell when all was read"));
    }
    let (name, records, value_bytes) = (name.to_owned(), shape.records, generated.value_bytes);
    Ok(Topic { kafka, name, shape, records, value_bytes, expected })
}

impl Topic<'_> {
    /// Has every reader read the topic until the broker's just-in-time compiler rests: a broker that has run for some
    /// minutes compiles nothing more, while the first runs would share their processors with it.
    pub(super) fn warm_up(&self) -> Result<(), String> {
        let broker = self.kafka.pid(0).ok_or("the broker does not run")?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let compiling = || {
            ["C1 Compiler", "C2 Compiler"]
                .map(|name| cpu_time_of_threads(broker, name))
                .iter()
                .sum::<Duration>()
        };
        for round in 1..=WARM_UP_ROUNDS_MAX {
            let (begun, before) = (Instant::now(), compiling());
            for reader in Reader::ALL {
                self.named(reader, &format!("warm-up-{round}"))?;
            }
            let spent = compiling().saturating_sub(before).as_secs_f64();
            let share = spent / begun.elapsed().as_secs_f64() / processors as f64;
            println!(
                "  warming up, round {round}: the broker's compiler takes {:.0} % of the machine",
                share * 100.0
            );
            if share < COMPILING_MAX {
                break;
            }
        }
        Ok(())
    }

    /// One run of a reader.
    pub(super) fn once(&self, reader: Reader, number: u64) -> Result<Figures, String> {
        self.named(reader, &number.to_string())
    }

    fn named(&self, reader: Reader, run: &str) -> Result<Figures, String> {
        match reader {
            Reader::Bare => self.bare(),
            Reader::Direct => self.worker(&format!("{}-direct-{run}", self.name), "Direct"),
            Reader::Librdkafka => self.worker(&format!("{}-librdkafka-{run}", self.name), "Librdkafka"),
        }
    }

    fn worker(&self, name: &str, reader: &str) -> Result<Figures, String> {
        self.workers(name, reader, 1)
    }

    /// A monitor of this name, of so many workers, reads all.
    pub(super) fn workers(&self, name: &str, reader: &str, count: usize) -> Result<Figures, String> {
        self.workers_by(name, reader, &vec![Worker::builder; count])
    }

    /// As [`Topic::workers`], with a worker for each of `builders`, which get its name.
    pub(super) fn workers_by(
        &self,
        name: &str,
        reader: &str,
        builders: &[impl Fn(&str) -> Builder],
    ) -> Result<Figures, String> {
        let mut workers: Vec<Worker> = Vec::new();
        for (number, builder) in builders.iter().enumerate() {
            let pod = format!("{name}-{number}");
            let builder = builder(&pod).env("POD_NAME", &pod).env("RUST_LOG", "info");
            let config = |admin| config(&self.kafka.bootstrap(), admin, name, &self.name, reader);
            workers.push(builder.start(config));
        }
        let output = format!("alerts-{name}");
        until_true("the output topic", TIMEOUT, || self.kafka.topics().partitions_of(&output).is_some());
        let consumer = follow::open(self.kafka.topics().config(), &output, 1)?;
        let mut alerts: Vec<Alert> = Vec::new();
        let begun = Instant::now();
        let mut last = SystemTime::now();
        while alerts.len() < self.expected.len() {
            if begun.elapsed() > TIMEOUT {
                let (found, expected) = (alerts.len(), self.expected.len());
                return Err(format!("{found} of {expected} results came\n{}", workers[0].log_tail()));
            }
            // librdkafka goes on by itself after an error; what never comes is told when the time is up.
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(20)) {
                let alert = parse_alert(message.payload().unwrap_or_default());
                alerts.push(alert.map_err(|error| error.to_string())?);
                last = SystemTime::now();
            }
        }
        let cpu_seconds = workers.iter().map(|worker| worker.process().cpu_time().as_secs_f64()).sum();
        let resident = workers.iter().map(|worker| worker.process().resident_bytes_max());
        let resident_bytes_max = resident.max().unwrap_or_default();
        let report = compare(&self.expected, &alerts);
        if !report.is_right() {
            return Err(format!("{name}: {report}"));
        }
        for worker in &workers {
            if reader == "Direct" && worker.log().contains("through librdkafka") {
                return Err(format!("{name} did not take the direct path\n{}", worker.log_tail()));
            }
        }
        let first = reads_since(&workers, self.shape.partitions as usize)?;
        Monitor::stop(&workers);
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

/// When the first worker had its last claim, by the workers' own logs: none of them has read a record before. There must
/// be one claim of each partition, for otherwise a rebalance came between, and nobody knows what was read when.
fn reads_since(workers: &[Worker], partitions: usize) -> Result<SystemTime, String> {
    let claims = until("all claims in the logs", TIMEOUT, || {
        let claims: Vec<Vec<String>> = workers.iter().map(|worker| claims_in(&worker.log())).collect();
        let count: usize = claims.iter().map(Vec::len).sum();
        if count >= partitions { Ok(claims) } else { Err(format!("{count} claims")) }
    });
    let count: usize = claims.iter().map(Vec::len).sum();
    if count > partitions {
        return Err(format!("{count} claims of {partitions} partitions: a rebalance came between"));
    }
    let first = claims.iter().filter_map(|claims| claims.iter().max()).min().ok_or("there is no claim")?;
    let first: jiff::Timestamp = first.parse().map_err(|error| format!("{first} in a log: {error}"))?;
    Ok(UNIX_EPOCH + Duration::from_micros(first.as_microsecond().unsigned_abs()))
}

/// The times of claims, with which their lines begin.
fn claims_in(log: &str) -> Vec<String> {
    let claims = log.lines().filter(|line| line.contains("claimed partition="));
    claims.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}
