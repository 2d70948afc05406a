//! The worker beside what people use for the same job today.
//!
//! Responsible for the peers' programs, their passes and their table. Must never run two readers at once, and never
//! hide that a peer's results are not all right.
//!
//! # What is measured
//!
//! The catch-up of `catch_up`, on the same topic. In each run the bare fetch loop, the worker and every peer take turns.
//! A peer (`bench/peers`, whose headers have its settings) is a program that does the job three times in one JVM, each
//! time as another group and into another topic: the first pass is *cold*, the third *warm*. The clock of a pass runs
//! from when the peer says that all its tasks are ready to read, until a `read_committed` consumer has got the last
//! expected result. So neither the start of the JVM nor that of the job counts as time, as it does not for the worker.
//! Processor time does count them: that of the first pass has all since the start of the process, as the worker's has.
//!
//! A peer that loses results would never end: its pass ends when no more result came for a while, and the clock when
//! the last one came.

use clap::ValueEnum;
use crashmonitor_bench::oracle::{Alert, Report, compare, parse_alert};
use crashmonitor_testbed::home::Dir;
use crashmonitor_testbed::process::Process;
use crashmonitor_testbed::tools::{jars, root};
use crashmonitor_testbed::wait::try_until;
use crashmonitor_testbed::{Kafka, follow, kafka};
use rdkafka::message::Message;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::catch_up::{Figures, Reader, Shape, TIMEOUT, Topic, fill, row};
use super::plot::Spread;

/// Passes in one JVM.
const PASSES: usize = 3;
/// After so long without a result none is to come: far longer than commits and checkpoints are apart.
const QUIET: Duration = Duration::from_secs(15);
/// Compiling takes seconds, ending a job too.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// What a JVM older than 17 allowed, and these programs still do.
const OPEN_PACKAGES: [&str; 9] = [
    "java.lang",
    "java.lang.invoke",
    "java.lang.reflect",
    "java.net",
    "java.nio",
    "java.util",
    "java.util.concurrent",
    "sun.nio.ch",
    "sun.util.calendar",
];

/// What the worker is held against.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// Kafka Streams, `exactly_once_v2`, two threads.
    KafkaStreams,
    /// Flink's DataStream API, exactly once, parallelism 2.
    Flink,
    /// Spark Structured Streaming, `local[2]`.
    Spark,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Peer::KafkaStreams => "Kafka Streams",
            Peer::Flink => "Flink",
            Peer::Spark => "Spark",
        }
    }

    /// The class with its program, and the name of its source.
    fn class(self) -> &'static str {
        match self {
            Peer::KafkaStreams => "KafkaStreamsPeer",
            Peer::Flink => "FlinkPeer",
            Peer::Spark => "SparkPeer",
        }
    }

    /// Which sources it takes besides its own.
    fn sources(self) -> &'static [&'static str] {
        match self {
            Peer::KafkaStreams | Peer::Flink => &["Passes", "LogRecord", "Result"],
            Peer::Spark => &["Passes"],
        }
    }

    /// Where `scripts/fetch-peers` put its jars.
    fn jars(self) -> Result<PathBuf, String> {
        let name = match self {
            Peer::KafkaStreams => format!("kafka-streams-{}", kafka::VERSION),
            Peer::Flink => "flink-2.2.1".to_owned(),
            Peer::Spark => "spark-4.1.1".to_owned(),
        };
        jars(&name, "make bench-peers")
    }
}

/// A peer that is compiled.
struct Program {
    peer: Peer,
    class_path: String,
    _classes: Dir,
}

/// One pass of a peer.
struct Pass {
    figures: Figures,
    report: Report,
}

/// The figures of all runs, in their order.
struct Runs {
    bare: Vec<Figures>,
    worker: Vec<Figures>,
    peers: Vec<(Peer, Vec<[Pass; PASSES]>)>,
}

/// Fills a topic, has each reader read it `runs` times in turn, prints the figures.
pub fn run(records: u64, runs: u64, peers: &[Peer]) -> Result<(), String> {
    let programs = peers.iter().copied().map(compile).collect::<Result<Vec<Program>, String>>()?;
    println!(
        "peers: {records} records of about 207 bytes, no compression, 4 partitions, Kafka on the same cores"
    );
    let kafka = Kafka::builder().for_benchmarks().start();
    let topic = fill(&kafka, "catch-up-none", Shape::standard(records))?;
    println!("  {} results are expected", topic.expected.len());
    topic.warm_up()?;
    let peers = peers.iter().map(|&peer| (peer, Vec::new())).collect();
    let mut all = Runs { bare: Vec::new(), worker: Vec::new(), peers };
    for number in 0..runs {
        for (reader, figures) in [(Reader::Bare, &mut all.bare), (Reader::Direct, &mut all.worker)] {
            let run = topic.once(reader, number)?;
            println!("  run {number}, {:<25} {}", reader.name(), row(&run, records));
            figures.push(run);
        }
        for (program, (_, runs)) in programs.iter().zip(&mut all.peers) {
            runs.push(program.once(&topic, number)?);
        }
    }
    table(&all, &topic);
    ratios(&all);
    Ok(())
}

fn compile(peer: Peer) -> Result<Program, String> {
    let classes = Dir::new("peer-classes");
    let libs = peer.jars()?.join("*");
    let sources = root().join("bench/peers");
    let mut command = Command::new("javac");
    command.arg("-d").arg(classes.path()).arg("-cp").arg(&libs);
    for source in peer.sources().iter().chain([&peer.class()]) {
        command.arg(sources.join(format!("{source}.java")));
    }
    let process = Process::spawn("javac", &command, &classes.path().join("log"));
    let status = process.wait_exit(STEP_TIMEOUT);
    if !status.success() {
        return Err(format!("{} was not compiled: {status}\n{}", peer.name(), process.log_tail()));
    }
    let class_path = format!("{}:{}", classes.path().display(), libs.display());
    Ok(Program { peer, class_path, _classes: classes })
}

impl Program {
    /// All passes of one JVM.
    fn once(&self, topic: &Topic, run: u64) -> Result<[Pass; PASSES], String> {
        let dir = Dir::new("peer");
        let outputs: [String; PASSES] =
            std::array::from_fn(|pass| format!("{}-{run}-{pass}", self.peer.class()));
        for output in &outputs {
            topic.kafka.topics().create_topic(output, 1, &[]);
        }
        let mut command = Command::new("java");
        command.args(["-Xmx2g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]);
        command.arg(format!("-Djava.io.tmpdir={}", dir.path().display()));
        command.args(OPEN_PACKAGES.map(|package| format!("--add-opens=java.base/{package}=ALL-UNNAMED")));
        command.args(["-cp", &self.class_path, self.peer.class(), &topic.kafka.bootstrap(), &topic.name]);
        command.arg(dir.path()).args(&outputs).current_dir(dir.path());
        let process = Process::spawn(self.peer.name(), &command, &dir.path().join("log"));
        let mut passes = Vec::new();
        for (number, output) in outputs.iter().enumerate() {
            let pass = pass(topic, &process, dir.path(), number, output)
                .map_err(|error| format!("{}, pass {number}: {error}", self.peer.name()))?;
            let report = pass.report.to_string();
            let summary = report.lines().next().unwrap_or_default();
            let name = format!("{}, pass {number}", self.peer.name());
            println!("  run {run}, {name:<25} {}, {summary}", row(&pass.figures, topic.records));
            passes.push(pass);
        }
        passes.try_into().map_err(|_| "there is a pass for each output".to_owned())
    }
}

/// Has a running peer do one pass.
fn pass(topic: &Topic, process: &Process, dir: &Path, number: usize, output: &str) -> Result<Pass, String> {
    let order = |what: &str| {
        let file = dir.join(format!("{what}-{number}"));
        std::fs::write(&file, "").map_err(|error| format!("{}: {error}", file.display()))
    };
    let cpu_before = if number == 0 { Duration::ZERO } else { process.cpu_time() };
    order("begin")?;
    let last = last_result(topic, process, output)?;
    let resident_bytes_max = process.resident_bytes_max();
    order("over")?;
    let over = format!("pass {number} over");
    try_until(STEP_TIMEOUT, || if process.log().contains(&over) { Ok(()) } else { Err(()) })
        .map_err(|()| format!("it did not end\n{}", process.log_tail()))?;
    let reads = reads(&process.log(), number).ok_or("it did not say when it was ready")?;
    let seconds = last.at.duration_since(reads).map_err(|error| error.to_string())?.as_secs_f64();
    let cpu_seconds = last.cpu_time.saturating_sub(cpu_before).as_secs_f64();
    let records = topic.kafka.topics().read_decided(output);
    let alerts = records.iter().map(|record| alert(record.value.as_deref()));
    let report = compare(&topic.expected, &alerts.collect::<Result<Vec<Alert>, String>>()?);
    Ok(Pass { figures: Figures { seconds, cpu_seconds, resident_bytes_max }, report })
}

/// When a peer's last result could be read.
struct Last {
    at: SystemTime,
    seen: Instant,
    /// What it had used by then.
    cpu_time: Duration,
}

/// Waits for all expected results, or until no more come.
fn last_result(topic: &Topic, process: &Process, output: &str) -> Result<Last, String> {
    let consumer = follow::open(topic.kafka.topics().config(), output, 1)?;
    let mut pending = topic.expected.clone();
    let mut last: Option<Last> = None;
    let begun = Instant::now();
    while !pending.is_empty() {
        let Some(message) = consumer.poll(Duration::from_millis(20)) else {
            if let Some(last) = last.take_if(|last| last.seen.elapsed() > QUIET) {
                return Ok(last);
            }
            if !process.is_running() || begun.elapsed() > TIMEOUT {
                return Err(format!("{} results did not come\n{}", pending.len(), process.log_tail()));
            }
            continue;
        };
        let message = message.map_err(|error| error.to_string())?;
        let Alert { start_ms, user_id, count, .. } = alert(message.payload())?;
        let key = (start_ms, user_id);
        if pending.get(&key) == Some(&count) {
            pending.remove(&key);
        }
        last = Some(Last { at: SystemTime::now(), seen: Instant::now(), cpu_time: process.cpu_time() });
    }
    last.ok_or_else(|| "no result is expected".to_owned())
}

fn alert(value: Option<&[u8]>) -> Result<Alert, String> {
    parse_alert(value.unwrap_or_default()).map_err(|error| error.to_string())
}

/// When a pass was ready to read, by the peer's own word: the last, since it may have several tasks.
fn reads(log: &str, number: usize) -> Option<SystemTime> {
    let prefix = format!("pass {number} reads ");
    let last = log.lines().filter_map(|line| line.strip_prefix(&prefix)).next_back()?;
    Some(UNIX_EPOCH + Duration::from_millis(last.trim().parse().ok()?))
}

/// Medians with lowest and highest.
fn table(all: &Runs, topic: &Topic) {
    let million = topic.records as f64 / 1e6;
    println!();
    println!("| | million records/s | µs of CPU a record | MB resident at most | results |");
    println!("|---|---|---|---|---|");
    let line = |name: &str, runs: &[&Figures], results: &str| {
        let rate = shown(runs.iter().map(|run| million / run.seconds));
        let cpu = shown(runs.iter().map(|run| run.cpu_seconds / million));
        let resident = runs.iter().map(|run| run.resident_bytes_max).max().unwrap_or_default();
        println!("| {name} | {rate} | {cpu} | {} | {results} |", resident / 1_000_000);
    };
    line(Reader::Bare.name(), &all.bare.iter().collect::<Vec<_>>(), "");
    line(Reader::Direct.name(), &all.worker.iter().collect::<Vec<_>>(), "all right");
    for (peer, runs) in &all.peers {
        for (number, kind) in [(0, "cold"), (PASSES - 1, "warm")] {
            let figures: Vec<&Figures> = runs.iter().map(|run| &run[number].figures).collect();
            let reports: Vec<&Report> = runs.iter().map(|run| &run[number].report).collect();
            line(&format!("{}, {kind}", peer.name()), &figures, &verdict(&reports));
        }
    }
}

/// What was not right, and in how many of the runs.
fn verdict(reports: &[&Report]) -> String {
    let wrong = reports.iter().filter(|report| !report.is_right()).count();
    if wrong == 0 {
        return "all right".to_owned();
    }
    let most = |class: fn(&Report) -> usize| reports.iter().map(|report| class(report)).max().unwrap_or(0);
    format!(
        "not right in {wrong} of {}: at most {} missing, {} wrong, {} unexpected, {} doubled",
        reports.len(),
        most(|report| report.missing.len()),
        most(|report| report.wrong.len()),
        most(|report| report.unexpected.len()),
        most(|report| report.doubled.len()),
    )
}

/// How the worker stands to each, run by run.
fn ratios(all: &Runs) {
    println!();
    println!("| the worker to | records/s, as often | CPU a record, of it |");
    println!("|---|---|---|");
    let line = |name: &str, others: &[&Figures]| {
        let pairs = || all.worker.iter().zip(others);
        let rate = shown(pairs().map(|(worker, other)| other.seconds / worker.seconds));
        let cpu = shown(pairs().map(|(worker, other)| worker.cpu_seconds / other.cpu_seconds));
        println!("| {name} | {rate} | {cpu} |");
    };
    line(Reader::Bare.name(), &all.bare.iter().collect::<Vec<_>>());
    for (peer, runs) in &all.peers {
        for (number, kind) in [(0, "cold"), (PASSES - 1, "warm")] {
            let figures: Vec<&Figures> = runs.iter().map(|run| &run[number].figures).collect();
            line(&format!("{}, {kind}", peer.name()), &figures);
        }
    }
}

fn shown(values: impl Iterator<Item = f64>) -> String {
    Spread::of(values).shown(3)
}

#[cfg(test)]
mod tests {
    use super::{Report, reads, verdict};
    use crashmonitor_bench::oracle::Finding;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn a_pass_reads_when_its_last_task_does() {
        let log = "pass 0 reads 5\nWARN pass 1 reads 6\npass 1 reads 7\npass 1 reads 1500\npass 1 over\n";
        assert_eq!(reads(log, 1), Some(UNIX_EPOCH + Duration::from_millis(1500)));
        assert_eq!(reads(log, 2), None);
    }

    #[test]
    fn one_run_that_is_not_right_is_told() {
        let finding =
            Finding { start_ms: 0, user_id: "user_1000".to_owned(), expected: Some(3), got: Vec::new() };
        let right = Report { right: 2, ..Report::default() };
        let lossy = Report { right: 1, missing: vec![finding], ..Report::default() };
        assert_eq!(verdict(&[&right, &right]), "all right");
        let told = "not right in 1 of 2: at most 1 missing, 0 wrong, 0 unexpected, 0 doubled";
        assert_eq!(verdict(&[&right, &lossy]), told);
    }
}
