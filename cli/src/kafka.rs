//! Kafka, as the person who calls reaches it.
//!
//! Responsible for where it is and who the person is there, and for reading a topic from an instant to its present end.
//! The settings of clients are the worker's. Must never join a group, commit, or wait for longer than [`SILENCE`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use crashmonitor_core::commit::AggregateCommit;
use crashmonitor_core::config::{Config, raw};
use crashmonitor_operator::api::CrashMonitor;
use crashmonitor_operator::validate::{Defaults, validate};
use crashmonitor_worker::kafka::client::Clients;
use crashmonitor_worker::kafka::log::{LogReader, Polled};
use crashmonitor_worker::kafka::topics::{Observer, Watermarks};
use crashmonitor_worker::kafka::{self, Health, Reachability};
use rdkafka::Message;
use rdkafka::message::BorrowedMessage;
use serde::de::DeserializeOwned;

use crate::Error;

/// The longest wait for an answer about topics and offsets.
const TIMEOUT: Duration = Duration::from_secs(15);
/// How long a reader waits for a record that must be there: longer than the brokers keep a transaction open.
const SILENCE: Duration = Duration::from_secs(30);
/// How often a waiting reader looks up.
pub const TICK: Duration = Duration::from_millis(100);

/// How Kafka is reached from here.
#[derive(Args, Debug, Clone, Default)]
pub struct Access {
    /// Brokers to begin with, if those of the resource can't be reached from here.
    #[arg(long, value_name = "HOST:PORT", help_heading = "Kafka")]
    pub brokers: Option<String>,
    /// YAML with the section `kafka` of a worker's configuration (docs/configuration.md): brokers, TLS, user and the
    /// file of the password, as they are on this machine.
    #[arg(long = "kafka", value_name = "FILE", help_heading = "Kafka")]
    pub file: Option<PathBuf>,
}

/// Which monitor, as far as Kafka goes.
pub enum Source {
    /// A resource.
    Resource(Box<CrashMonitor>),
    /// The configuration of workers that run by hand.
    File(Box<raw::Config>),
}

impl Source {
    /// Reads a worker's configuration.
    pub fn read(file: &Path) -> Result<Source, Error> {
        let raw = yaml(file, "--config", "give a worker's configuration, as in docs/configuration.md")?;
        Ok(Source::File(Box::new(raw)))
    }

    /// The resource, if there is one.
    pub fn resource(&self) -> Option<&CrashMonitor> {
        match self {
            Source::Resource(monitor) => Some(monitor),
            Source::File(_) => None,
        }
    }
}

/// The configuration of the monitor's workers, but with Kafka as it is reached from here.
fn config(source: &Source, access: &Access) -> Result<Config, Error> {
    let mut raw = match source {
        Source::Resource(monitor) => of_resource(monitor, access.file.is_some())?,
        Source::File(raw) => (**raw).clone(),
    };
    if let Some(file) = &access.file {
        let next = "give the section `kafka` as in docs/configuration.md, such as {bootstrapServers: \"kafka:9092\"}";
        raw.kafka = yaml(file, "--kafka", next)?;
    }
    if let Some(brokers) = &access.brokers {
        raw.kafka.bootstrap_servers.clone_from(brokers);
    }
    Config::from_raw(&raw).map_err(|e| Error::input(e.to_string(), "docs/configuration.md has each key"))
}

/// A file that a flag names.
fn yaml<T: DeserializeOwned>(file: &Path, flag: &str, next: &str) -> Result<T, Error> {
    let failed = |cause: String| Error::input(format!("{flag} {}: {cause}", file.display()), next);
    let text = std::fs::read_to_string(file).map_err(|e| failed(e.to_string()))?;
    serde_yaml::from_str(&text).map_err(|e| failed(e.to_string()))
}

/// What the pods have serves here too, unless it lies in Secrets: those are not read.
fn of_resource(monitor: &CrashMonitor, has_own_kafka: bool) -> Result<raw::Config, Error> {
    // The image is the operator's business, and nothing is started here.
    let defaults = Defaults {
        worker_image: Some("image".to_owned()),
        operator_namespace: String::new(),
        console: false,
    };
    let fix = "correct the resource; `kubectl crashmonitor status` says what the operator thinks of it";
    let checked = validate(monitor, &defaults)
        .map_err(|e| Error::failed(format!("the resource can't be used: {e}"), fix))?;
    if has_own_kafka || checked.secrets.iter().all(|mount| !mount.volume.starts_with("kafka-")) {
        return Ok(checked.config);
    }
    let brokers = &monitor.spec.kafka.bootstrap_servers;
    Err(Error::input(
        "this Kafka wants certificates or a password, which the workers have in Secrets",
        format!(
            "give --kafka FILE with the section `kafka` as in docs/configuration.md: bootstrapServers: \"{brokers}\", \
             and your own files under tls and authentication"
        ),
    ))
}

/// A Kafka, and what is asked of it.
pub struct Kafka {
    /// What the workers read.
    pub config: Config,
    health: Health,
    observer: Observer,
    reader: LogReader,
}

/// What a whole read of a topic gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Go on.
    Continue,
    /// Enough.
    Stop,
}

impl Kafka {
    /// Reads files and secrets, and builds clients. Nothing is connected yet.
    pub fn new(source: &Source, access: &Access) -> Result<Kafka, Error> {
        let config = config(source, access)?;
        let health = Health::new();
        let clients = Clients::new(&config, "kubectl-crashmonitor", &health);
        let wrong = |e: kafka::client::Error| Error::input(e.to_string(), "correct --kafka's file");
        let observer = clients.observer(config.aggregate_group()).map_err(wrong)?;
        let reader = clients.log_reader().map_err(wrong)?;
        Ok(Kafka { config, health, observer, reader })
    }

    /// The partitions of a topic and both their ends.
    pub fn ends(&self, topic: &str) -> Result<Vec<Watermarks>, Error> {
        let facts = self.observer.describe_topic(topic, TIMEOUT).map_err(|e| self.explain(&e))?;
        let Some(facts) = facts else {
            return Err(Error::failed(
                format!("there is no topic {topic} in this Kafka"),
                "look whether the brokers are the right ones; output topics are made when the first worker starts",
            ));
        };
        let partitions: Vec<i32> = (0..facts.partitions.cast_signed()).collect();
        self.observer.watermarks(topic, &partitions, TIMEOUT).map_err(|e| self.explain(&e))
    }

    /// Through when the windows of every user are closed, in epoch milliseconds; as the workers committed it.
    pub fn closed_through(&self) -> Result<i64, Error> {
        let topic = self.config.repartition_topic().as_str();
        let shards: Vec<i32> = (0..self.config.repartition.partitions.cast_signed()).collect();
        let committed = self.observer.committed(topic, &shards, TIMEOUT).map_err(|e| self.explain(&e))?;
        let mut closed = i64::MAX;
        for shard in committed {
            let none = || {
                Error::failed(
                    format!("no window of partition {} of {topic} is closed yet", shard.partition),
                    "wait until the monitor has run for longer than a window and spec.window.allowedLateness",
                )
            };
            let value = shard.value.ok_or_else(none)?;
            let commit = AggregateCommit::decode(&value.metadata).map_err(|e| {
                Error::failed(e.to_string(), "take a kubectl-crashmonitor of the workers' version")
            })?;
            closed = closed.min(commit.closed_through.ok_or_else(none)?.as_millis());
        }
        Ok(closed)
    }

    /// For each partition where to begin so that no record of this instant or later is missed, by Kafka's timestamps.
    pub fn since(
        &self,
        topic: &str,
        ends: &[Watermarks],
        time_ms: Option<i64>,
    ) -> Result<Vec<(i32, i64)>, Error> {
        let Some(time_ms) = time_ms else {
            return Ok(ends.iter().map(|ends| (ends.partition, ends.low)).collect());
        };
        let partitions: Vec<i32> = ends.iter().map(|ends| ends.partition).collect();
        let found = self.reader.offsets_since(topic, &partitions, time_ms.max(0), TIMEOUT);
        let found: BTreeMap<i32, Option<i64>> = found.map_err(|e| self.explain(&e))?.into_iter().collect();
        let start = |ends: &Watermarks| {
            let found = found.get(&ends.partition).copied().flatten();
            (ends.partition, found.unwrap_or(ends.high))
        };
        Ok(ends.iter().map(start).collect())
    }

    /// Gives each record from these offsets up to the present end, or what committed records there are of it.
    pub fn read(
        &self,
        topic: &str,
        from: &[(i32, i64)],
        ends: &[Watermarks],
        mut take: impl FnMut(&BorrowedMessage<'_>) -> Next,
    ) -> Result<(), Error> {
        let ends: BTreeMap<i32, i64> = ends.iter().map(|ends| (ends.partition, ends.high)).collect();
        let end_of = |partition: i32| ends.get(&partition).copied().unwrap_or(0);
        let mut open: BTreeMap<i32, i64> =
            from.iter().copied().filter(|&(partition, offset)| offset < end_of(partition)).collect();
        let offsets: Vec<(i32, i64)> = open.iter().map(|(&partition, &offset)| (partition, offset)).collect();
        self.begin(topic, &offsets)?;
        let mut heard = Instant::now();
        while !open.is_empty() {
            match self.reader.poll(TICK).map_err(|e| self.explain(&e))? {
                Polled::Record(message) => {
                    heard = Instant::now();
                    let (partition, offset) = (message.partition(), message.offset());
                    if offset < end_of(partition) && take(&message) == Next::Stop {
                        return Ok(());
                    }
                    if offset + 1 >= end_of(partition) {
                        open.remove(&partition);
                    }
                }
                // What is behind it belongs to a transaction that is open or aborted.
                Polled::End(partition) => {
                    heard = Instant::now();
                    open.remove(&partition);
                }
                Polled::Nothing if heard.elapsed() > SILENCE => {
                    let what = format!("reading {topic}: nothing came for {} s", SILENCE.as_secs());
                    return Err(self.unreachable(&what));
                }
                Polled::Nothing => {}
            }
        }
        Ok(())
    }

    /// Waits until all that is in a topic now is committed or aborted.
    pub fn await_transactions(&self, topic: &str) -> Result<(), Error> {
        let ends = self.ends(topic)?;
        let partitions: Vec<i32> = ends.iter().map(|ends| ends.partition).collect();
        let begun = Instant::now();
        loop {
            let stable =
                self.reader.stable_ends(topic, &partitions, TIMEOUT).map_err(|e| self.explain(&e))?;
            if ends.iter().zip(&stable).all(|(ends, (_, stable))| *stable >= ends.high) {
                return Ok(());
            }
            if begun.elapsed() > SILENCE {
                let what = format!("{topic} has had an open transaction for {} s", SILENCE.as_secs());
                return Err(Error::failed(
                    what,
                    "look for other writers of the topic; the workers' end within 15 s",
                ));
            }
            std::thread::sleep(TICK);
        }
    }

    /// Begins to follow a topic.
    pub fn begin(&self, topic: &str, from: &[(i32, i64)]) -> Result<(), Error> {
        self.reader.begin(topic, from).map_err(|e| self.explain(&e))
    }

    /// Waits a little for the next record of the topic that is followed.
    pub fn poll(&self) -> Result<Polled<'_>, Error> {
        self.reader.poll(TICK).map_err(|e| self.explain(&e))
    }

    fn explain(&self, error: &kafka::Error) -> Error {
        self.unreachable(&error.to_string())
    }

    /// A failure, with what librdkafka said of the connection.
    fn unreachable(&self, what: &str) -> Error {
        let brokers = &self.config.kafka.bootstrap_servers;
        match self.health.get() {
            Reachability::Failing { cause, text } => Error::failed(
                format!("Kafka at {brokers}: {cause}: {what}: {text}"),
                "from outside the cluster, --brokers names other addresses of the same Kafka; --kafka FILE your credentials",
            ),
            Reachability::Unknown | Reachability::Reachable => Error::failed(
                format!("Kafka at {brokers}: {what}"),
                "from outside the cluster, --brokers names other addresses of the same Kafka; they must lead to addresses \
                 that this machine reaches, too",
            ),
        }
    }
}
