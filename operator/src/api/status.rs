//! What the operator says of a monitor.
//!
//! Responsible for the shape of `status`. Must never hold a secret. Numbers that change all the time are rounded and
//! written at intervals ([`crate::status`]); they are for people and alerts, the workers' metrics are exact.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `status`
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CrashMonitorStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Workers that exist.
    #[serde(default)]
    pub replicas: i32,
    /// Workers that do their work.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Workers that run with the present settings.
    #[serde(default)]
    pub updated_replicas: i32,
    /// The workers' label selector, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The image that the workers are to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// How many partitions the topics have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<Partitions>,
    /// What is still to be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<Lag>,
    /// Up to where event time is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Watermark>,
    /// Crashes that came too late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_records: Option<LateRecords>,
    /// Records that could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<i64>,
    /// Results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<Results>,
    /// Records that were lost before they could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_loss: Option<DataLoss>,
    /// Snapshots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
    /// Each worker.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub workers: Vec<Worker>,
    /// `Ready`, `Progressing`, `Degraded`, `KafkaReachable`, `CheckpointStoreReachable`, `WatermarkAdvancing`,
    /// `DataLoss` and `Suspended`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// `status.partitions`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Partitions {
    /// Of the input topic.
    pub input: i32,
    /// Of the internal topic.
    pub repartition: i32,
}

/// `status.lag`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lag {
    /// Records of all partitions, rounded to two digits.
    pub total: i64,
    /// The largest lag of one partition, rounded to two digits.
    pub max_partition: i64,
    /// When the figures of this status were taken.
    pub observed_at: Time,
}

/// `status.watermark`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Watermark {
    /// The lowest watermark of all workers.
    pub time: Time,
    /// How many seconds it is behind the clock. Absent while the whole input is silent: nothing is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<i64>,
    /// The input partition that it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_by: Option<HeldBy>,
}

/// `status.watermark.heldBy`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldBy {
    /// Its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    /// `Idle`: all are silent, and it is the furthest behind; `Lagging`: it has records to read; `Unassigned`: no
    /// worker has it; `Silent`: it was taken over and has not spoken yet; `Unknown`: the worker is newer than the
    /// operator.
    pub reason: String,
}

/// `status.lateRecords`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LateRecords {
    /// Dropped since the resource was created, as far as the operator saw.
    pub dropped: i64,
}

/// `status.results`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Results {
    /// Written since the resource was created, as far as the operator saw.
    pub emitted: i64,
}

/// `status.dataLoss`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataLoss {
    /// Records known to be lost; a loss that nobody can count adds nothing.
    pub records: i64,
    /// When the last loss was seen.
    pub last_time: Time,
}

/// `status.checkpoint`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// When the partition whose snapshot is the oldest was stored.
    pub last_time: Time,
    /// How long ago that was, in steps of 10 seconds.
    pub age_seconds: i64,
}

/// `status.workers`
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Worker {
    /// The pod.
    pub name: String,
    /// Which process this is about: the pod's uid and the number of restarts.
    pub process: String,
    /// Whether it does its work.
    pub ready: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Input partitions that it reads.
    pub input_partitions: i32,
    /// Partitions of the internal topic that it counts.
    pub repartition_partitions: i32,
    /// How the state of these came to be: `snapshot` (from Redis), `replay_…` (from Kafka, and why), `first_start`;
    /// with the number of partitions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub recoveries: BTreeMap<String, i32>,
    /// What the process has counted since it began.
    #[serde(default)]
    pub totals: Totals,
}

/// `status.workers[].totals`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Results written.
    #[serde(default)]
    pub results: i64,
    /// Crashes dropped as too late.
    #[serde(default)]
    pub late: i64,
    /// Records that could not be read.
    #[serde(default)]
    pub dead_letters: i64,
    /// Records known to be lost.
    #[serde(default)]
    pub data_loss: i64,
}
