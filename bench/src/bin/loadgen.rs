//! `crashmonitor-loadgen`: writes log records with a known truth to a Kafka topic.
//!
//! Arguments in, files and text out. Everything that decides anything is in the library.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use crashmonitor_bench::generator::{Generator, Options};
use crashmonitor_bench::kafka::{self, Compression, Config, Producer};
use crashmonitor_bench::load::{self, Pace, Progress};
use crashmonitor_bench::oracle::{Query, write_expected};

/// Something failed while running.
const EXIT_FAILED: u8 = 1;

/// The arguments ask for what can't be.
const EXIT_USAGE: u8 = 2;

/// Event rate of a run without any rate.
const EVENT_RATE_DEFAULT: u64 = 100_000;

/// Writes log records of a site whose sessions sometimes crash to a Kafka topic, in the form that CrashMonitor
/// reads, and says what a monitor must find in them. The same seed and options give the same records.
#[derive(Parser)]
#[command(name = "crashmonitor-loadgen", version)]
struct Args {
    /// Addresses host:port of some brokers, separated by commas.
    #[arg(long, default_value = "127.0.0.1:9092")]
    brokers: String,
    /// The topic to write to.
    #[arg(long)]
    topic: String,
    /// Create the topic with N partitions if it does not exist.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    create_topic: Option<u32>,
    /// Write to this many of the topic's partitions [default: all].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: Option<u32>,
    /// Records a second; 0 for as many as possible.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Stop after so many records.
    #[arg(long)]
    max_records: Option<u64>,
    /// Stop after so many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    duration: Option<Duration>,
    /// How to compress batches.
    #[arg(long, value_enum, default_value_t = Codec::None)]
    compression: Codec,
    /// Size of a batch in bytes, before compression.
    #[arg(long, default_value_t = 64 * 1024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    batch_bytes: u32,
    #[command(flatten)]
    records: RecordArgs,
    #[command(flatten)]
    query: QueryArgs,
    /// Write the results that a monitor must give to this file, as JSON lines {start_ms, user_id, crash_count}.
    #[arg(long, value_name = "FILE")]
    expected: Option<PathBuf>,
    /// At the end, write a record that matches nothing and is X ms younger than the last one into each partition, so
    /// that intervals complete at once. Waits until that time has come.
    #[arg(long, value_name = "X")]
    end_marker_after_ms: Option<u64>,
    /// No progress on standard error.
    #[arg(long)]
    quiet: bool,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Records")]
struct RecordArgs {
    /// All that is random is drawn from this.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of users: user_1000 and up.
    #[arg(long, default_value_t = 1000)]
    users: u32,
    /// The word that makes a crash.
    #[arg(long, default_value = "crash")]
    word: String,
    /// The word is in 1 of N records (0: in none).
    #[arg(long, value_name = "N", default_value_t = 200)]
    one_in: u32,
    /// How often a record is Low, Medium, High and Critical, relative to each other: 0,0,1,1 makes a crash of every record
    /// with the word.
    #[arg(long, value_name = "L,M,H,C", default_value = "1,1,1,1", value_parser = weights)]
    severity_weights: [u32; 4],
    /// Key records by their user instead of spreading them over the partitions.
    #[arg(long)]
    keyed: bool,
    /// Event time of the first record in epoch ms [default: now; with --rate 0 and --max-records so early that the
    /// last record, and the end marker, happen now].
    #[arg(long, value_name = "MS")]
    start_time: Option<i64>,
    /// Records in a second of event time [default: the rate, or 100000 if that is 0].
    #[arg(long)]
    event_rate: Option<u64>,
    /// Shift event times back at random by up to this many milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    disorder_ms: u64,
    /// Share of late records (0 to 1), which still count.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    late_share: f64,
    /// The most that late records are late; at most what the monitor allows.
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    late_by_max: u64,
    /// Share of records that are more than an hour late, which must not count.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    too_late_share: f64,
    /// Share of records that are malformed or empty.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    poison_share: f64,
    /// Share of records in unusual but valid JSON: escapes, other orders, duplicate keys, upper case.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    odd_share: f64,
    /// Size of a record's value in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 207)]
    record_bytes: usize,
    /// Leave out status and source_ip, which no monitor looks at: a record of 100 bytes has no room for them.
    #[arg(long)]
    lean: bool,
}

#[derive(clap::Args)]
#[command(next_help_heading = "What is expected of the monitor")]
struct QueryArgs {
    /// Length of an interval in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(i64).range(1..))]
    window_ms: i64,
    /// Users with more crashes than this in an interval are results.
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    count_greater_than: u64,
    /// The severities that count.
    #[arg(long, value_delimiter = ',', default_value = "High,Critical")]
    severities: Vec<String>,
    /// The word's case matters.
    #[arg(long)]
    case_sensitive: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::None => Self::None,
            Codec::Gzip => Self::Gzip,
            Codec::Snappy => Self::Snappy,
            Codec::Lz4 => Self::Lz4,
            Codec::Zstd => Self::Zstd,
        }
    }
}

/// An error and the exit code that goes with it.
struct Failure(u8, String);

impl From<kafka::Error> for Failure {
    fn from(error: kafka::Error) -> Self {
        Self(if error.is_usage() { EXIT_USAGE } else { EXIT_FAILED }, error.to_string())
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(code, message)) => {
            eprintln!("crashmonitor-loadgen: {message}");
            ExitCode::from(code)
        }
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    let usage = |message: String| Failure(EXIT_USAGE, message);
    let failed = |message: String| Failure(EXIT_FAILED, message);
    // Bad options are found before anything is touched; the partitions are known only from the topic.
    Generator::new(options(args, 1)).map_err(|error| usage(error.to_string()))?;
    let stop = stop_flag().map_err(|error| failed(format!("signals: {error}")))?;
    // Created before the load, so that a bad path costs nothing.
    let expected_file = match &args.expected {
        None => None,
        Some(path) => {
            let file = File::create(path).map_err(|error| usage(format!("{}: {error}", path.display())))?;
            Some((path, file))
        }
    };
    let mut producer = Producer::open(Config {
        brokers: args.brokers.clone(),
        topic: args.topic.clone(),
        partitions: args.partitions,
        create_partitions: args.create_topic,
        compression: args.compression.into(),
        batch_bytes: args.batch_bytes as usize,
        delivery_timeout: Duration::from_secs(120),
    })?;
    let options = options(args, producer.partitions());
    let generator = Generator::new(options).map_err(|error| usage(error.to_string()))?;
    let pace = Pace {
        rate: args.rate,
        records_max: args.max_records,
        duration: args.duration,
        end_marker_after_ms: args.end_marker_after_ms,
    };
    let report = |progress| {
        if !args.quiet {
            show(progress);
        }
    };
    let (summary, results) = load::run(&generator, &query(args), &pace, &mut producer, &stop, report)?;
    if let Some((path, file)) = expected_file {
        write_expected(&results, BufWriter::new(file))
            .map_err(|error| failed(format!("{}: {error}", path.display())))?;
    }
    let text = serde_json::to_string(&summary).map_err(|error| failed(error.to_string()))?;
    println!("{text}");
    Ok(())
}

/// Set by the first SIGINT or SIGTERM; the second one kills as usual.
fn stop_flag() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

fn options(args: &Args, partitions: u32) -> Options {
    let records = &args.records;
    let fallback = if args.rate > 0 { args.rate } else { EVENT_RATE_DEFAULT };
    let event_rate = records.event_rate.unwrap_or(fallback);
    Options {
        seed: records.seed,
        users: records.users,
        word: records.word.clone(),
        one_in: records.one_in,
        start_ms: records.start_time.unwrap_or_else(|| start_time_ms(args, event_rate)),
        event_rate,
        partitions,
        keyed: records.keyed,
        disorder_ms: records.disorder_ms,
        late_share: records.late_share,
        late_by_max_ms: records.late_by_max,
        too_late_share: records.too_late_share,
        poison_share: records.poison_share,
        odd_share: records.odd_share,
        record_bytes: records.record_bytes,
        severity_weights: records.severity_weights,
        lean: records.lean,
        ..Options::default()
    }
}

/// Now for a live run. A log that is written faster than it happens lies in the past: from the future, a
/// monitor would not take it.
fn start_time_ms(args: &Args, event_rate: u64) -> i64 {
    let span_ms = match args.max_records {
        Some(records) if args.rate == 0 => u128::from(records) * 1000 / u128::from(event_rate.max(1)),
        _ => 0,
    };
    let span_ms = i64::try_from(span_ms).unwrap_or(i64::MAX);
    let marker_ms = if args.rate == 0 { args.end_marker_after_ms.unwrap_or(0) } else { 0 };
    load::now_ms().saturating_sub(span_ms).saturating_sub_unsigned(marker_ms)
}

fn query(args: &Args) -> Query {
    Query {
        word: args.records.word.clone(),
        case_sensitive: args.query.case_sensitive,
        severities: args.query.severities.clone(),
        window_ms: args.query.window_ms,
        threshold: args.query.count_greater_than,
        ..Query::default()
    }
}

fn show(progress: Progress) {
    let Progress { elapsed, records, rate, behind_records } = progress;
    let seconds = elapsed.as_secs_f64();
    eprintln!("{seconds:7.1} s  {records:>12} records  {rate:>10.0} records/s  {behind_records:>9} behind");
}

fn weights(text: &str) -> Result<[u32; 4], String> {
    let weights: Result<Vec<u32>, _> = text.split(',').map(str::parse).collect();
    let weights = weights.map_err(|error| error.to_string())?;
    weights.try_into().map_err(|_| "not four numbers, one for each severity".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
