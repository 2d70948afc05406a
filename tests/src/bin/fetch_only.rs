//! The bare fetch loop: what reading a topic costs when nothing is done with its records.
//!
//! Responsible for the limit that `crashmonitor-bench` holds the worker against: the worker's own fetch client, and a
//! search for the word in every value. Must never parse, count by user or write anything.

use clap::Parser;
use crashmonitor_core::config::Config;
use crashmonitor_core::ids::TopicId;
use crashmonitor_worker::fetch::Fetcher;
use crashmonitor_worker::kafka::Health;
use crashmonitor_worker::kafka::client::Clients;
use crashmonitor_worker::reader::Item;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Reads a topic from its beginning to its present end and says how long that took.
#[derive(Parser)]
struct Options {
    /// host:port, comma-separated.
    #[arg(long)]
    brokers: String,
    /// The topic.
    #[arg(long)]
    topic: String,
}

fn run(options: &Options) -> Result<(), String> {
    let config = Config::parse(&format!(
        "monitor: {{namespace: bench, name: fetch-only, uid: u}}\n\
         kafka: {{bootstrapServers: '{}'}}\ninput: {{topic: {}}}\n",
        options.brokers, options.topic
    ));
    let config = config.map_err(|error| error.to_string())?;
    let clients = Clients::new(&config, "fetch-only", &Health::new());
    let observer = clients.observer(config.scan_group()).map_err(|error| error.to_string())?;
    let facts = observer.describe_topic(&options.topic, TIMEOUT).map_err(|error| error.to_string())?;
    let facts = facts.ok_or("there is no such topic")?;
    let partitions: Vec<i32> = (0..facts.partitions.cast_signed()).collect();
    let ends = observer.high_watermarks(&options.topic, &partitions, TIMEOUT).map_err(|e| e.to_string())?;
    let mut pending: BTreeMap<i32, i64> = ends.into_iter().filter(|(_, end)| *end > 0).collect();

    let settings = clients.fetch_settings(0).map_err(|error| error.to_string())?;
    let mut fetcher = Fetcher::new(settings).map_err(|error| error.to_string())?;
    let word = memchr::memmem::Finder::new("crash");
    let (mut records, mut found) = (0u64, 0u64);
    let begun = Instant::now();
    let starts: Vec<(i32, i64)> = pending.keys().map(|&partition| (partition, 0)).collect();
    fetcher.start(TopicId(facts.topic_id), &starts);
    while !pending.is_empty() {
        fetcher.poll(TIMEOUT, &mut |item| {
            match item {
                Item::Record { value, .. } => {
                    records += 1;
                    found += u64::from(word.find(value.unwrap_or_default()).is_some());
                }
                Item::Reached { partition, offset } => {
                    if pending.get(&partition).is_some_and(|end| offset >= *end) {
                        pending.remove(&partition);
                    }
                }
                Item::OutOfRange { partition } => return Err(format!("partition {partition} is cut")),
                Item::Error { text, .. } => return Err(text),
                Item::Unsupported { reason } => return Err(reason),
            }
            Ok(())
        })?;
    }
    println!("seconds={:.4} records={records} found={found}", begun.elapsed().as_secs_f64());
    // Whoever measures looks at this process's time and memory now, and then ends it.
    std::thread::park();
    Ok(())
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fetch-only: {error}");
            ExitCode::FAILURE
        }
    }
}
