//! What a worker is told to do: read from YAML once, checked once, and never looked at in its raw form again.
//!
//! Responsible for the one schema that the operator renders ([`raw`]) and the worker reads ([`Config`]), for its
//! defaults, and for saying of a bad value which key it is, what is wrong and what to write instead, in one line.
//! Must never open a file, look at the environment or hold a secret: of a password it knows only where it lies.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::record::Rule;
pub use raw::{InputReader, Mechanism, OnDataLoss, OutputMode, StartingOffsets};
pub use validate::{OWNED_PREFIXES, OWNED_SETTINGS};

pub mod duration;
pub mod memory;
pub mod raw;
mod validate;

/// Why a configuration is refused: one line that names the key, the cause and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not YAML, an unknown key, or a value of the wrong type; the text names the key and the line.
    #[error("{0}")]
    Schema(String),
    /// A value that can be read but not used.
    #[error("{path}: {reason}")]
    Value {
        /// The key, from the top: `window.size`.
        path: String,
        /// The cause and what to do.
        reason: String,
    },
}

/// A Kafka topic's name that a broker accepts: 1 to 249 letters, digits, `.`, `_` and `-`, not `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicName(String);

impl TopicName {
    /// The name as Kafka knows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a Kafka consumer group.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupName(String);

impl GroupName {
    /// The name as Kafka knows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a secret lies. The secret itself is never part of a configuration, a log line or an error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Secret {
    /// The content of a file, without the line feed at its end.
    File(PathBuf),
    /// The value of an environment variable.
    Env(String),
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::File(path) => write!(f, "file {}", path.display()),
            Secret::Env(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// Which monitor the worker serves. Group, topic and Redis keys derive from it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Monitor {
    /// The Kubernetes namespace.
    pub namespace: String,
    /// The resource's name.
    pub name: String,
    /// Tells a resource from an earlier one of the same name; a snapshot of another uid is not used.
    pub uid: String,
}

/// How Kafka is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kafka {
    /// `host:port`, comma-separated.
    pub bootstrap_servers: String,
    /// Encryption; without it the connection is plain text.
    pub tls: Option<KafkaTls>,
    /// Who the worker is; without it, nobody.
    pub authentication: Option<Authentication>,
    /// Further librdkafka settings. None of them is one that the worker owns.
    pub settings: BTreeMap<String, String>,
}

/// Encryption towards Kafka.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KafkaTls {
    /// PEM files of the authorities to trust; none: those that the system trusts.
    pub ca_files: Vec<PathBuf>,
    /// The certificate to show to the broker.
    pub client: Option<ClientCertificate>,
}

/// A certificate and its key, both PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientCertificate {
    /// The certificate's file, with its chain.
    pub certificate_file: PathBuf,
    /// The private key's file.
    pub key_file: PathBuf,
}

/// SASL authentication towards Kafka.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Authentication {
    /// The SASL mechanism.
    pub mechanism: Mechanism,
    /// The user.
    pub username: String,
    /// Where the password lies.
    pub password: Secret,
}

/// The log that is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Input {
    /// The topic.
    pub topic: TopicName,
    /// Where a monitor that has never run begins.
    pub starting_offsets: StartingOffsets,
    /// What to do when retention has overtaken the reader.
    pub on_data_loss: OnDataLoss,
}

/// The windows and what makes them complete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Window {
    /// Length of a tumbling window.
    pub size: Duration,
    /// How long after a window's completion its late records still count.
    pub allowed_lateness: Duration,
    /// How far behind its running mark a source's watermark stays.
    pub max_out_of_orderness: Duration,
    /// How long a source must be silent to be idle.
    pub idle_timeout: Duration,
    /// How far ahead of the wall clock a record's timestamp may lie.
    pub max_future_skew: Duration,
    /// How far a source may run ahead of the global watermark before it is paused, in event time.
    pub max_drift: Duration,
}

/// Where the answers go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Output {
    /// The topic of the results.
    pub topic: TopicName,
    /// Whether a result is written as it changes or once.
    pub mode: OutputMode,
    /// The topic of records that came too late, if they are to be kept.
    pub late_topic: Option<TopicName>,
    /// The topic of records that can't be read, if they are to be kept.
    pub dead_letter_topic: Option<TopicName>,
    /// Partitions of an output topic that the worker creates.
    pub partitions: u32,
    /// Replicas of an output topic that the worker creates.
    pub replication_factor: u16,
}

/// The internal topic between the two stages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Repartition {
    /// Its partitions; they can't be changed later.
    pub partitions: u32,
    /// Its replicas.
    pub replication_factor: u16,
}

/// Snapshots of window state, which make recovery faster and nothing else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Time between two snapshots of a partition.
    pub interval: Duration,
    /// Where they are kept.
    pub redis: Redis,
}

/// How Redis is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redis {
    /// `redis://host:port/db` or, encrypted, `rediss://host:port/db`; without a password.
    pub url: String,
    /// Where the password lies.
    pub password: Option<Secret>,
    /// PEM files of the authorities to trust; none: the public ones.
    pub ca_files: Vec<PathBuf>,
}

/// The process itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Worker {
    /// Consumers of the input, each in a thread of its own.
    pub scan_threads: u16,
    /// What reads the input.
    pub input_reader: InputReader,
    /// Where `/healthz`, `/readyz`, `/metrics` and `/status` are served.
    pub admin_listen: SocketAddr,
    /// How long the group keeps a silent member.
    pub session_timeout: Duration,
    /// Time between two commits when there is nothing to write.
    pub commit_interval: Duration,
    /// Longest time that matches wait before they are sent on.
    pub flush_interval: Duration,
    /// Memory for counts, in bytes; `None`: as the memory of the process allows.
    pub state_bytes_max: Option<u64>,
    /// Whether `/status` names the users with most crashes.
    pub users_in_status: bool,
}

/// A configuration in which every value has been checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Which monitor this is.
    pub monitor: Monitor,
    /// How Kafka is reached.
    pub kafka: Kafka,
    /// What is read.
    pub input: Input,
    /// Which records are crashes.
    pub rule: Rule,
    /// When they are counted.
    pub window: Window,
    /// A user is output when the count of a window is greater than this.
    pub count_greater_than: u64,
    /// Where results go.
    pub output: Output,
    /// The topic between the stages.
    pub repartition: Repartition,
    /// Snapshots; `None`: none are kept.
    pub checkpoint: Option<Checkpoint>,
    /// The process itself.
    pub worker: Worker,
    scan_group: GroupName,
    aggregate_group: GroupName,
    repartition_topic: TopicName,
}

impl Config {
    /// Reads and checks YAML. The first mistake is returned.
    pub fn parse(yaml: &str) -> Result<Config, Error> {
        let raw: raw::Config =
            serde_yaml::from_str(yaml).map_err(|e| Error::Schema(e.to_string().replace('\n', " ")))?;
        Config::from_raw(&raw)
    }

    /// Checks what an operator has built. The first mistake is returned.
    pub fn from_raw(raw: &raw::Config) -> Result<Config, Error> {
        validate::config(raw)
    }

    /// The consumer group that reads the input.
    pub fn scan_group(&self) -> &GroupName {
        &self.scan_group
    }

    /// The consumer group that reads the repartition topic.
    pub fn aggregate_group(&self) -> &GroupName {
        &self.aggregate_group
    }

    /// The topic between the two stages, `crashmonitor.<namespace>.<name>.repartition`.
    pub fn repartition_topic(&self) -> &TopicName {
        &self.repartition_topic
    }

    /// The `transactional.id` of the aggregate in the pod `instance`: a restarted pod fences its predecessor.
    pub fn transactional_id(&self, instance: &str) -> String {
        format!("{}-{instance}", self.aggregate_group)
    }

    /// What every Redis key of this monitor begins with, `crashmonitor:<namespace>:<name>:`.
    pub fn snapshot_key_prefix(&self) -> String {
        format!("crashmonitor:{}:{}:", self.monitor.namespace, self.monitor.name)
    }
}
