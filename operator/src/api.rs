//! The resource as a person writes it and as the API server stores it.
//!
//! Responsible for the names, types, defaults and descriptions of every field of a `CrashMonitor`, and with
//! [`schema`] for what the API server refuses by itself. Must never decide what a value leads to: that is
//! [`validate`](crate::validate)'s.
//!
//! Defaults are those of the worker's own configuration ([`raw`]); there is no second list of them.

#![allow(clippy::duplicated_attributes, reason = "each printer column has a type of its own")]

use std::collections::BTreeMap;

use crashmonitor_core::config::raw;
use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use status::CrashMonitorStatus;

pub mod rules;
pub mod schema;
pub mod status;

/// What this project's API group is called.
pub const GROUP: &str = "crashmonitor.dev";

/// A monitor: which log it reads, what it counts and where it says so.
#[derive(CustomResource, Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "crashmonitor.dev",
    version = "v1alpha1",
    kind = "CrashMonitor",
    plural = "crashmonitors",
    shortname = "cmon",
    namespaced,
    status = "CrashMonitorStatus",
    derive = "PartialEq",
    doc = "Counts crashes per user in a Kafka topic of log records, and writes every user above a threshold to an output topic, exactly once.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Desired",
        type_ = "integer",
        json_path = ".spec.replicas",
        description = "Workers asked for"
    ),
    printcolumn(
        name = "Ready",
        type_ = "integer",
        json_path = ".status.readyReplicas",
        description = "Workers that do their work"
    ),
    printcolumn(
        name = "Status",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Running, or why not"
    ),
    printcolumn(
        name = "Lag",
        type_ = "integer",
        json_path = ".status.lag.total",
        description = "Input records that are still to be read"
    ),
    printcolumn(
        name = "Watermark-Lag",
        type_ = "integer",
        json_path = ".status.watermark.lagSeconds",
        description = "Seconds that event time is behind; empty while the input is silent"
    ),
    printcolumn(
        name = "Late",
        type_ = "integer",
        json_path = ".status.lateRecords.dropped",
        description = "Crashes that came too late to count"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Image", type_ = "string", json_path = ".status.image", priority = 1),
    printcolumn(
        name = "Partitions",
        type_ = "integer",
        json_path = ".status.partitions.input",
        priority = 1,
        description = "Partitions of the input topic"
    ),
    printcolumn(
        name = "Checkpoint-Age",
        type_ = "integer",
        json_path = ".status.checkpoint.ageSeconds",
        priority = 1,
        description = "Seconds since the oldest of the last snapshots"
    ),
    printcolumn(
        name = "Held-By",
        type_ = "integer",
        json_path = ".status.watermark.heldBy.partition",
        priority = 1,
        description = "Input partition that event time waits for"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct CrashMonitorSpec {
    /// Number of workers. They share the partitions of the input topic; more workers than partitions have nothing to
    /// read. 0 stops the monitor; what it has counted so far is kept.
    #[serde(default = "replicas")]
    #[schemars(range(min = 0, max = 256))]
    pub replicas: i32,
    /// Whether the workers run. `Suspended` stops them and leaves `replicas` as it is; `Running` goes on where they
    /// stopped.
    #[serde(default)]
    #[schemars(schema_with = "schema::desired_state")]
    pub desired_state: DesiredState,
    /// Another number than before restarts the workers, one after the other.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub restart_nonce: i64,
    /// How Kafka is reached.
    pub kafka: Kafka,
    /// The log that is read.
    pub input: Input,
    /// Which records are crashes.
    #[serde(default, rename = "match")]
    pub rule: Match,
    /// How time is cut into windows, and when a window is complete.
    #[serde(default)]
    pub window: Window,
    /// A user is output when the number of crashes in a window is greater than this.
    #[serde(default = "count_greater_than")]
    #[schemars(range(min = 0))]
    pub count_greater_than: i64,
    /// Where results go.
    #[serde(default)]
    pub output: Output,
    /// The internal topic `crashmonitor.<namespace>.<name>.repartition`. It can't be changed once it is there.
    #[serde(default)]
    pub repartition: Repartition,
    /// Snapshots of the counts in Redis. They make recovery faster and nothing else; without this none are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
    /// What happens to the internal topic, the consumer groups and the keys in Redis when the resource is deleted.
    /// `Retain` keeps them: a resource of the same name goes on where this one stopped. `Delete` removes them.
    #[serde(default)]
    #[schemars(schema_with = "schema::deletion_policy")]
    pub deletion_policy: DeletionPolicy,
    /// How many workers a node drain may take away at the same time.
    #[serde(default)]
    pub pod_disruption_budget: PodDisruptionBudget,
    /// The workers' image. Default: the one that the operator was installed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub image: Option<String>,
    /// When the image is pulled. Default: `Always` for the tag `latest`, otherwise `IfNotPresent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::image_pull_policy")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Secrets with which the image is pulled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Processor time and memory of a worker.
    #[serde(default = "resources")]
    pub resources: ResourceRequirements,
    /// Further settings of the workers' pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Template>,
}

fn replicas() -> i32 {
    1
}

fn count_greater_than() -> i64 {
    2
}

/// What a worker needs at its default load; a catch-up takes up to two processors.
fn resources() -> ResourceRequirements {
    let quantities = |cpu: &str, memory: &str| {
        let both = [("cpu", cpu), ("memory", memory)];
        Some(both.map(|(name, value)| (name.to_string(), Quantity(value.to_string()))).into())
    };
    ResourceRequirements {
        requests: quantities("250m", "128Mi"),
        limits: quantities("2", "512Mi"),
        ..ResourceRequirements::default()
    }
}

/// `spec.desiredState`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum DesiredState {
    /// The workers run.
    #[default]
    Running,
    /// No worker runs.
    Suspended,
}

/// `spec.deletionPolicy`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum DeletionPolicy {
    /// Everything in Kafka and Redis stays.
    #[default]
    Retain,
    /// What belongs to the monitor alone is removed.
    Delete,
}

/// `spec.imagePullPolicy`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ImagePullPolicy {
    /// At every start.
    Always,
    /// Unless the node has it.
    IfNotPresent,
    /// The node must have it.
    Never,
}

impl ImagePullPolicy {
    /// The word that Kubernetes uses.
    pub fn as_str(self) -> &'static str {
        match self {
            ImagePullPolicy::Always => "Always",
            ImagePullPolicy::IfNotPresent => "IfNotPresent",
            ImagePullPolicy::Never => "Never",
        }
    }
}

/// `spec.kafka`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Kafka {
    /// Brokers to begin with: `host:port`, comma-separated.
    #[schemars(
        length(min = 1, max = 2048),
        regex(pattern = r"^\s*[^\s,]+:[0-9]{1,5}\s*(,\s*[^\s,]+:[0-9]{1,5}\s*)*$")
    )]
    pub bootstrap_servers: String,
    /// Present (even empty): the connection is encrypted, and the brokers' certificates and host names are checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Who the workers are. Default: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
    /// Further settings of librdkafka, for experts. Those that decide whether results are right are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub config: BTreeMap<String, IntOrString>,
}

/// `tls` of Kafka and of Redis
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// The authorities to trust. Default: the public ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub trusted_certificates: Vec<CertificateSource>,
}

/// A certificate in a Secret
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateSource {
    /// The Secret, in the resource's namespace.
    #[schemars(schema_with = "schema::object_name")]
    pub secret_name: String,
    /// The key in it whose value is one or more certificates, PEM.
    #[schemars(schema_with = "schema::secret_key")]
    pub certificate: String,
}

/// A certificate and its private key in a Secret
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificateAndKeySource {
    /// The Secret, in the resource's namespace.
    #[schemars(schema_with = "schema::object_name")]
    pub secret_name: String,
    /// The key in it whose value is the certificate with its chain, PEM.
    #[schemars(schema_with = "schema::secret_key")]
    pub certificate: String,
    /// The key in it whose value is the private key, PEM.
    #[schemars(schema_with = "schema::secret_key")]
    pub key: String,
}

/// A password in a Secret
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PasswordSource {
    /// The Secret, in the resource's namespace.
    #[schemars(schema_with = "schema::object_name")]
    pub secret_name: String,
    /// The key in it whose value is the password.
    #[schemars(schema_with = "schema::secret_key")]
    pub password: String,
}

/// How a worker proves who it is
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AuthenticationType {
    /// By a client certificate.
    #[serde(rename = "tls")]
    Tls,
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

impl AuthenticationType {
    /// The SASL mechanism; `None` for a client certificate.
    pub fn mechanism(self) -> Option<raw::Mechanism> {
        match self {
            AuthenticationType::Tls => None,
            AuthenticationType::Plain => Some(raw::Mechanism::Plain),
            AuthenticationType::ScramSha256 => Some(raw::Mechanism::ScramSha256),
            AuthenticationType::ScramSha512 => Some(raw::Mechanism::ScramSha512),
        }
    }
}

/// `spec.kafka.authentication`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Authentication {
    /// `tls` with `certificateAndKey`; the others with `username` and `passwordSecret`.
    #[serde(rename = "type")]
    #[schemars(schema_with = "schema::authentication_type")]
    pub method: AuthenticationType,
    /// The user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub username: Option<String>,
    /// Where the password lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<PasswordSource>,
    /// Where the client certificate lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_and_key: Option<CertificateAndKeySource>,
}

/// `spec.input`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    /// The topic. It must exist. Can't be changed.
    #[schemars(schema_with = "schema::topic")]
    pub topic: String,
    /// The consumer group. Default: `crashmonitor.<namespace>.<name>`. Can't be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), regex(pattern = r"^\S+$"))]
    pub consumer_group: Option<String>,
    /// Where a monitor that has never run begins: with what is written from now on, or with the oldest record.
    #[serde(default)]
    #[schemars(schema_with = "schema::starting_offsets")]
    pub starting_offsets: raw::StartingOffsets,
    /// What happens when records are deleted before they are read: go on and report it, or stop.
    #[serde(default)]
    #[schemars(schema_with = "schema::on_data_loss")]
    pub on_data_loss: raw::OnDataLoss,
}

/// `spec.match`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Match {
    /// What the record's `content` must contain.
    #[schemars(length(min = 1, max = 256))]
    pub contains: String,
    /// Whether upper and lower case differ.
    pub case_sensitive: bool,
    /// The values of `severity` that count, exactly as written.
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 128)))]
    pub severities: Vec<String>,
}

impl Default for Match {
    fn default() -> Match {
        let raw::Match { contains, case_sensitive, severities } = raw::Match::default();
        Match { contains, case_sensitive, severities }
    }
}

/// `spec.window`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Window {
    /// Length of a window, 100ms to 24h. Can't be changed.
    #[schemars(schema_with = "schema::duration")]
    pub size: String,
    /// How long after a window's completion late records still count, 0s to 24h.
    #[schemars(schema_with = "schema::duration")]
    pub allowed_lateness: String,
    /// How far event time stays behind the newest record of a partition, 0s to 1h. More: fewer corrections, later
    /// results.
    #[schemars(schema_with = "schema::duration")]
    pub max_out_of_orderness: String,
    /// How long a partition must be silent so that the others don't wait for it, 1s to 24h.
    #[schemars(schema_with = "schema::duration")]
    pub idle_timeout: String,
    /// How far ahead of the clock a record's timestamp may lie, 0s to 24h; beyond that it is a dead letter.
    #[schemars(schema_with = "schema::duration")]
    pub max_future_skew: String,
    /// How far, in event time, a partition may run ahead of the slowest before it waits, 1s to 24h.
    #[schemars(schema_with = "schema::duration")]
    pub max_drift: String,
}

impl Default for Window {
    fn default() -> Window {
        let raw = raw::Window::default();
        Window {
            size: raw.size.0,
            allowed_lateness: raw.allowed_lateness.0,
            max_out_of_orderness: raw.max_out_of_orderness.0,
            idle_timeout: raw.idle_timeout.0,
            max_future_skew: raw.max_future_skew.0,
            max_drift: raw.max_drift.0,
        }
    }
}

/// `spec.output`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Output {
    /// The topic of the results; created if absent.
    #[schemars(schema_with = "schema::topic")]
    pub topic: String,
    /// `Updates`: a result is written when its window completes, and again when a late record makes the count larger.
    /// `Final`: once, when no record can change it any more. Can't be changed.
    #[schemars(schema_with = "schema::output_mode")]
    pub mode: raw::OutputMode,
    /// A topic for crashes that came too late to count. Default: they are only counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::topic")]
    pub late_topic: Option<String>,
    /// A topic for records that can't be read. Default: they are only counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::topic")]
    pub dead_letter_topic: Option<String>,
    /// Partitions of these topics when they are created.
    #[schemars(range(min = 1, max = 10_000))]
    pub partitions: i32,
    /// Replicas of these topics when they are created. Default: `repartition.replicationFactor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub replication_factor: Option<i32>,
}

impl Default for Output {
    fn default() -> Output {
        let raw = raw::Output::default();
        Output {
            topic: raw.topic,
            mode: raw.mode,
            late_topic: raw.late_topic,
            dead_letter_topic: raw.dead_letter_topic,
            partitions: i32::try_from(raw.partitions).expect("the default is a small number"),
            replication_factor: None,
        }
    }
}

/// `spec.repartition`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Repartition {
    /// Its partitions: how many workers can count at the same time. Can't be changed.
    #[schemars(range(min = 1, max = 1000))]
    pub partitions: i32,
    /// Its replicas. Can't be changed.
    #[schemars(range(min = 1, max = 32))]
    pub replication_factor: i32,
}

impl Default for Repartition {
    fn default() -> Repartition {
        let raw = raw::Repartition::default();
        let small = |number| i32::try_from(number).expect("the default is a small number");
        Repartition { partitions: small(raw.partitions), replication_factor: small(raw.replication_factor) }
    }
}

/// `spec.checkpoint`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// Time between two snapshots, 100ms to 1h.
    #[serde(default = "checkpoint_interval")]
    #[schemars(schema_with = "schema::duration")]
    pub interval: String,
    /// Where they are kept.
    pub redis: Redis,
}

fn checkpoint_interval() -> String {
    "5s".to_string()
}

/// `spec.checkpoint.redis`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Redis {
    /// `redis://host:port/db`, or `rediss://host:port/db` with TLS; without user and password.
    #[schemars(length(max = 2048), regex(pattern = r"^rediss?://[^@\s]+$"))]
    pub url: String,
    /// Where the password lies. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<PasswordSource>,
    /// The authorities to trust; only with `rediss://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// `spec.podDisruptionBudget`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PodDisruptionBudget {
    /// A number, or a percentage of the workers.
    #[schemars(schema_with = "schema::number_or_percentage")]
    pub max_unavailable: IntOrString,
}

impl Default for PodDisruptionBudget {
    fn default() -> PodDisruptionBudget {
        PodDisruptionBudget { max_unavailable: IntOrString::Int(1) }
    }
}

/// `spec.template`: what is added to the workers' pods. Only what is listed here can be set; the rest is the operator's.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Template {
    /// Labels and annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TemplateMetadata>,
    /// Where the pods run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<TemplateSpec>,
}

/// `spec.template.metadata`
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateMetadata {
    /// Added to the pods' labels. Those that the operator sets itself can't be changed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
    /// Added to the pods' annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
}

/// `spec.template.spec`
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateSpec {
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub node_selector: BTreeMap<String, String>,
    /// Which nodes and neighbours the pods prefer or avoid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Taints of nodes that the pods bear.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,
    /// How the pods are spread, in place of the default: evenly over zones and nodes where that is possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    /// How important the pods are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_name")]
    pub priority_class_name: Option<String>,
}
