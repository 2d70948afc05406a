//! Measures the worker and the operator on this machine: `make bench` and the like.
//!
//! Responsible for the figures of a catch-up (a long topic is read from its beginning to its end) and of a steady load:
//! rate, processor time, memory, and whether every result was right; and of the same catch-up done by its peers. Must
//! never report a rate of a run of the worker whose results were not all right.
//!
//! # What is measured
//!
//! - *Catch-up*: Kafka on the same cores, 5 million un-keyed records of about 207 bytes in 4 partitions, one worker with
//!   one scan thread and an own monitor for each run. Three readers take turns: the worker with its direct path, the
//!   worker with librdkafka, and the bare fetch loop (`crashmonitor-fetch-only`), which is the limit. For the workers
//!   the clock runs from the worker's last `claimed` line, which comes
//!   before its first record is read, until a `read_committed` consumer has got the last expected result. End markers
//!   stand at the end of every partition, so that this is only possible when every partition was read to its end. Before
//!   the first run the topic is read a few times, until the broker's JVM is warm.
//! - *Peers* (`make bench-peers`): the same catch-up by programs of other stream processors, see `peers`.
//! - *Steady*: the generator writes 100,000 records/s for a while; memory is the highest resident size seen after the
//!   first third.
//! - *Latency* (`make bench-latency`): from the watermark to the readable result at several rates, see `latency`.
//! - *Recovery* (`make bench-recovery`): from `kill -9` to the next result, and to having very many counts, see `recovery`.
//! - *Scale* (`make bench-scale`): the catch-up over workers, partitions, users, crashes and record sizes, see `scale`.
//! - *Network* (`make bench-network`): the catch-up by workers behind links of limited bandwidth, see `network`.
//! - *Operator* (`make bench-operator`): with one monitor and with very many, see `operator`.
//! - *Profile* (`make bench-profile`): where the time of a worker goes meanwhile, see `profile`.
//!
//! What is named in place of the first ones leaves a page with a table, and a plot beside it; the profile a picture.
//!
//! Medians with the lowest and the highest of all runs. Other work on the machine makes them worse, never better.

mod catch_up;
mod latency;
mod network;
mod operator;
mod page;
mod peers;
mod plot;
mod profile;
mod recovery;
mod scale;
mod steady;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures the worker on this machine, by a catch-up and a steady load, unless something else is named.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Options {
    #[command(subcommand)]
    what: Option<What>,
    /// Records of the catch-up.
    #[arg(long, default_value_t = 5_000_000)]
    records: u64,
    /// Runs of the catch-up.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// Compressions of the catch-up's topics.
    #[arg(long, value_delimiter = ',', default_value = "none,lz4,zstd")]
    compressions: Vec<String>,
    /// Length of the steady load in seconds.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(6..))]
    seconds: u64,
    /// Only the worker beside these peers, or all, on a topic without compression.
    #[arg(long, value_enum, value_delimiter = ',', num_args = 0..=1, default_missing_value = "kafka-streams,flink,spark")]
    peers: Vec<peers::Peer>,
}

#[derive(Subcommand)]
enum What {
    /// From the watermark to the readable result.
    Latency {
        #[command(flatten)]
        what: latency::What,
        #[command(flatten)]
        out: Out,
    },
    /// From a crash of a worker to its next results, and to having very many counts again.
    Recovery {
        #[command(flatten)]
        what: recovery::What,
        #[command(flatten)]
        out: Out,
    },
    /// The catch-up by workers in network namespaces, behind links of limited bandwidth; as root.
    Network {
        #[command(flatten)]
        what: network::What,
        #[command(flatten)]
        out: Out,
    },
    /// Where a worker's time goes, by `perf record`.
    Profile {
        #[command(flatten)]
        what: profile::What,
    },
    /// The catch-up with more workers, partitions, users, crashes and larger records, one at a time.
    Scale {
        #[command(flatten)]
        what: scale::What,
        #[command(flatten)]
        out: Out,
    },
    /// The operator with few and with very many monitors.
    Operator {
        #[command(flatten)]
        what: operator::What,
        #[command(flatten)]
        out: Out,
    },
}

#[derive(clap::Args)]
struct Out {
    /// Where the page and its plot are written to.
    #[arg(long, value_name = "DIR", default_value = "docs/performance")]
    out: PathBuf,
}

fn run(options: &Options) -> Result<(), String> {
    if let Some(what) = &options.what {
        return match what {
            What::Latency { what, out } => latency::run(what, &out.out),
            What::Recovery { what, out } => recovery::run(what, &out.out),
            What::Network { what, out } => network::run(what, &out.out),
            What::Profile { what } => profile::run(what),
            What::Scale { what, out } => scale::run(what, &out.out),
            What::Operator { what, out } => operator::run(what, &out.out),
        };
    }
    if !options.peers.is_empty() {
        return peers::run(options.records, options.runs, &options.peers);
    }
    catch_up::run(options.records, options.runs, &options.compressions)?;
    steady::run(options.seconds)
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The worker's configuration for a monitor of its own.
fn config(kafka: &str, admin: std::net::SocketAddr, name: &str, input: &str, reader: &str) -> String {
    format!(
        "monitor: {{namespace: bench, name: {name}, uid: {name}}}\n\
         kafka: {{bootstrapServers: '{kafka}'}}\n\
         input: {{topic: {input}, startingOffsets: Earliest}}\n\
         window: {{idleTimeout: 5s}}\n\
         output: {{topic: alerts-{name}, mode: Updates, partitions: 1, replicationFactor: 1}}\n\
         repartition: {{partitions: 16, replicationFactor: 1}}\n\
         worker: {{adminListen: '{admin}', inputReader: {reader}}}\n"
    )
}
