//! The configuration as it is written: plain fields with their defaults.
//!
//! Responsible for the names of the keys and for the defaults, and for nothing else: what the operator renders is a
//! value of these types, and what the worker reads must fit them. Must never decide whether a value makes sense.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

/// Where a monitor that has never run begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum StartingOffsets {
    /// With what is written from now on.
    #[default]
    Latest,
    /// With the oldest record there is.
    Earliest,
}

/// What to do when retention has overtaken the reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum OnDataLoss {
    /// Go on with the oldest record there is; the loss is counted and reported.
    #[default]
    Continue,
    /// Stop and say so.
    Fail,
}

/// What reads the input.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum InputReader {
    /// The worker itself, straight from the brokers; librdkafka where that can't be.
    #[default]
    Direct,
    /// Librdkafka.
    Librdkafka,
}

/// When a result is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum OutputMode {
    /// When the window completes, and again when a late record makes the count larger.
    #[default]
    Updates,
    /// Once, when no record can change it any more.
    Final,
}

/// How the worker proves who it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Mechanism {
    /// SASL/PLAIN.
    #[serde(rename = "plain")]
    Plain,
    /// SASL/SCRAM-SHA-256.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// SASL/SCRAM-SHA-512.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

/// A span of time as text. A bare number is taken as its text, so that the check can say what is missing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct DurationText(pub String);

impl From<&str> for DurationText {
    fn from(text: &str) -> DurationText {
        DurationText(text.to_string())
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DurationText, D::Error> {
        Scalar::deserialize(deserializer).map(|scalar| DurationText(scalar.to_string()))
    }
}

/// A YAML value without structure.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected text, a number or true/false")]
pub enum Scalar {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
}

impl std::fmt::Display for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Scalar::Bool(value) => write!(f, "{value}"),
            Scalar::Integer(value) => write!(f, "{value}"),
            Scalar::Float(value) => write!(f, "{value}"),
            Scalar::Text(value) => f.write_str(value),
        }
    }
}

/// The whole file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Which monitor the worker serves.
    pub monitor: Monitor,
    /// How Kafka is reached.
    pub kafka: Kafka,
    /// What is read.
    pub input: Input,
    /// Which records are crashes.
    #[serde(default, rename = "match")]
    pub rule: Match,
    /// When they are counted.
    #[serde(default)]
    pub window: Window,
    /// The threshold.
    #[serde(default = "count_greater_than")]
    pub count_greater_than: i64,
    /// Where results go.
    #[serde(default)]
    pub output: Output,
    /// The topic between the stages.
    #[serde(default)]
    pub repartition: Repartition,
    /// Snapshots; absent: none are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
    /// The process itself.
    #[serde(default)]
    pub worker: Worker,
}

fn count_greater_than() -> i64 {
    2
}

/// `monitor`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Monitor {
    /// The Kubernetes namespace.
    pub namespace: String,
    /// The resource's name.
    pub name: String,
    /// The resource's uid.
    pub uid: String,
}

/// `kafka`
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kafka {
    /// `host:port`, comma-separated.
    pub bootstrap_servers: String,
    /// Encryption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<KafkaTls>,
    /// Who the worker is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
    /// Further librdkafka settings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, Scalar>,
}

/// `kafka.tls`: present and not disabled means encrypted.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KafkaTls {
    /// `false` switches encryption off without removing the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// PEM files of the authorities to trust.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ca_files: Vec<String>,
    /// The client certificate's PEM file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<String>,
    /// Its key's PEM file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
}

/// `kafka.authentication`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Authentication {
    /// The SASL mechanism.
    #[serde(rename = "type")]
    pub mechanism: Mechanism,
    /// The user.
    pub username: String,
    /// The file that holds the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<String>,
    /// The environment variable that holds the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_env: Option<String>,
}

/// `input`
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Input {
    /// The topic.
    pub topic: String,
    /// The consumer group; default `crashmonitor.<namespace>.<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer_group: Option<String>,
    /// Where a monitor that has never run begins.
    #[serde(default)]
    pub starting_offsets: StartingOffsets,
    /// What to do when retention has overtaken the reader.
    #[serde(default)]
    pub on_data_loss: OnDataLoss,
}

/// `match`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Match {
    /// The word.
    pub contains: String,
    /// Whether its case matters.
    pub case_sensitive: bool,
    /// The severities that count.
    pub severities: Vec<String>,
}

impl Default for Match {
    fn default() -> Match {
        Match {
            contains: "crash".to_string(),
            case_sensitive: false,
            severities: vec!["High".to_string(), "Critical".to_string()],
        }
    }
}

/// `window`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Window {
    /// Length of a window.
    pub size: DurationText,
    /// How long late records count.
    pub allowed_lateness: DurationText,
    /// How far the watermark stays behind.
    pub max_out_of_orderness: DurationText,
    /// Silence that makes a source idle.
    pub idle_timeout: DurationText,
    /// How far ahead of the wall clock a timestamp may lie.
    pub max_future_skew: DurationText,
    /// How far a source may run ahead.
    pub max_drift: DurationText,
}

impl Default for Window {
    fn default() -> Window {
        Window {
            size: "10s".into(),
            allowed_lateness: "30s".into(),
            max_out_of_orderness: "2s".into(),
            idle_timeout: "30s".into(),
            max_future_skew: "10m".into(),
            max_drift: "10m".into(),
        }
    }
}

/// `output`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Output {
    /// The topic of the results.
    pub topic: String,
    /// When a result is written.
    pub mode: OutputMode,
    /// The topic of late records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late_topic: Option<String>,
    /// The topic of unreadable records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_topic: Option<String>,
    /// Partitions of a topic that is created.
    pub partitions: i64,
    /// Replicas of a topic that is created; default `repartition.replicationFactor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_factor: Option<i64>,
}

impl Default for Output {
    fn default() -> Output {
        Output {
            topic: "crash-alerts".to_string(),
            mode: OutputMode::default(),
            late_topic: None,
            dead_letter_topic: None,
            partitions: 4,
            replication_factor: None,
        }
    }
}

/// `repartition`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Repartition {
    /// Partitions.
    pub partitions: i64,
    /// Replicas.
    pub replication_factor: i64,
}

impl Default for Repartition {
    fn default() -> Repartition {
        Repartition { partitions: 16, replication_factor: 3 }
    }
}

/// `checkpoint`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Checkpoint {
    /// Time between two snapshots.
    #[serde(default = "checkpoint_interval")]
    pub interval: DurationText,
    /// Where they are kept.
    pub redis: Redis,
}

fn checkpoint_interval() -> DurationText {
    "5s".into()
}

/// `checkpoint.redis`
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Redis {
    /// `redis://host:port/db` or `rediss://host:port/db`.
    pub url: String,
    /// The file that holds the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<String>,
    /// The environment variable that holds the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_env: Option<String>,
    /// Encryption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RedisTls>,
}

/// `checkpoint.redis.tls`
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisTls {
    /// PEM files of the authorities to trust.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ca_files: Vec<String>,
}

/// `worker`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Worker {
    /// Consumers of the input.
    pub scan_threads: i64,
    /// What reads the input.
    pub input_reader: InputReader,
    /// Where the admin endpoints are served.
    pub admin_listen: String,
    /// How long the group keeps a silent member.
    pub session_timeout: DurationText,
    /// Time between two commits when there is nothing to write.
    pub commit_interval: DurationText,
    /// Longest time that matches wait.
    pub flush_interval: DurationText,
    /// Memory for counts; by default it follows from the memory of the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_memory_max: Option<String>,
    /// Whether `/status` names users. Not written where it does not, as older workers don't know it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub users_in_status: bool,
}

impl Default for Worker {
    fn default() -> Worker {
        Worker {
            scan_threads: 1,
            input_reader: InputReader::default(),
            admin_listen: "127.0.0.1:9400".to_string(),
            session_timeout: "10s".into(),
            commit_interval: "2s".into(),
            flush_interval: "20ms".into(),
            state_memory_max: None,
            users_in_status: false,
        }
    }
}
