//! What a worker says of itself at `/status`, and an operator reads.
//!
//! Responsible for the one shape that both sides share. Plain values: instants are milliseconds since the epoch,
//! spans milliseconds. Must never hold a secret, and must stay readable for an operator of another version: fields
//! are only added, and what is unknown to a reader is skipped.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The whole answer.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// The pod.
    pub pod: String,
    /// The worker's version.
    pub version: String,
    /// When this was true.
    pub observed_at_ms: i64,
    /// Whether the worker has joined both groups and restored what it was given.
    pub ready: bool,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_ready_reason: Option<String>,
    /// How many partitions the topics have.
    pub partitions: PartitionCounts,
    /// The input partitions that this worker owns, by number.
    pub input: BTreeMap<i32, InputPartition>,
    /// The repartition partitions that this worker owns, by number.
    pub aggregate: BTreeMap<i32, AggregatePartition>,
    /// What the counts in open windows take.
    pub state: State,
    /// Counts since the process began.
    pub totals: Totals,
    /// The connection to Kafka.
    pub kafka: Reachability,
    /// The connection to Redis; absent if no checkpoints are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_store: Option<Reachability>,
    /// Losses of data that this process has seen, the last ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub data_loss: Vec<DataLoss>,
    /// Windows that still count, over all partitions that the worker owns: the latest, by their start.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<OpenWindow>,
    /// The users with most crashes in one of these windows, most first. Absent unless `worker.usersInStatus` has them
    /// named, and where there are too many counts to walk over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users: Option<Vec<UserCount>>,
    /// How far behind the watermark crashes were when they came, since the process began.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lateness: Vec<LatenessBucket>,
}

/// How many partitions the topics have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PartitionCounts {
    /// The input topic; 0: not known yet.
    pub input: u32,
    /// The repartition topic; 0: not known yet.
    pub repartition: u32,
}

/// What the scanner does with a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum InputState {
    /// It reads.
    #[default]
    Running,
    /// There has been nothing to read for `window.idleTimeout`.
    Idle,
    /// It is too far ahead of the others and waits for them.
    Paused,
    /// A state that this reader does not know.
    #[serde(other)]
    Unknown,
}

/// An input partition.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InputPartition {
    /// The next offset to read.
    pub position: i64,
    /// Records between it and the end of the log.
    pub lag: i64,
    /// The highest event time so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark_ms: Option<i64>,
    /// What the scanner does with it.
    pub state: InputState,
}

/// Why a source holds the watermark.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum HoldReason {
    /// Every source is idle; this one is the furthest behind.
    Idle,
    /// It has records to read, and its mark is the lowest.
    #[default]
    Lagging,
    /// No worker has claimed it.
    Unassigned,
    /// It was claimed, and neither had a record nor was found idle since.
    Silent,
    /// A reason that this reader does not know.
    #[serde(other)]
    Unknown,
}

/// The source that keeps a watermark from going on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Holder {
    /// The input partition; absent if not even the input's partitions are known yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    /// Why.
    pub reason: HoldReason,
}

/// A repartition partition.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AggregatePartition {
    /// Up to where event time is complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watermark_ms: Option<i64>,
    /// Windows that end here or earlier don't change any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed_through_ms: Option<i64>,
    /// Who holds the watermark.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
    /// Windows that still count.
    pub open_windows: u64,
    /// The committed offset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub committed_offset: Option<i64>,
    /// How the state came to be when the partition was taken over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<String>,
    /// When the last snapshot was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_checkpoint_ms: Option<i64>,
}

/// What the counts in open windows take, over all partitions that the worker owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// Counts: one for each user in each open window.
    pub counters: u64,
    /// What they take, in bytes, estimated from above.
    pub bytes: u64,
    /// What they may take. A worker that has come to it reads nothing and is not ready.
    pub bytes_max: u64,
}

/// A window that still counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OpenWindow {
    /// Its first instant.
    pub start_ms: i64,
    /// The instant after its last.
    pub end_ms: i64,
    /// Users with crashes in it.
    pub users: u64,
    /// Crashes in it; absent where there are too many counts to walk over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crashes: Option<u64>,
    /// Users above the threshold; absent like the crashes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub above: Option<u64>,
    /// For how many of the repartition partitions that the worker owns it is complete.
    pub complete_in: u64,
}

/// The crashes of a user in a window.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UserCount {
    /// Whose crashes. Whatever a record said: never to be taken for markup.
    pub user: String,
    /// The window's first instant.
    pub start_ms: i64,
    /// How many.
    pub crashes: u64,
}

/// Crashes that came about equally late.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LatenessBucket {
    /// The most by which they were behind the watermark; 0: not behind it. Absent: more than all others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up_to_ms: Option<i64>,
    /// How many.
    pub records: u64,
}

/// Counts since the process began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Totals {
    /// Records read.
    pub records: u64,
    /// Records dropped because their window was closed.
    pub late: u64,
    /// Records that could not be read.
    pub dead_letters: u64,
    /// Results written.
    pub results: u64,
    /// Records that are known to be lost.
    pub data_loss: u64,
}

/// Whether somebody answers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Reachability {
    /// Whether the last attempt was answered.
    pub reachable: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A loss of data.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataLoss {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// What happened and what to do.
    pub message: String,
    /// Records lost; 0 if nobody can tell.
    pub records: u64,
    /// When it was seen.
    pub observed_at_ms: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_worker_is_understood() {
        let text = r#"{"pod":"c-0","input":{"3":{"position":7,"state":"Dreaming","new":1}},"later":true}"#;
        let status: Status = serde_json::from_str(text).unwrap();
        assert_eq!(status.pod, "c-0");
        assert_eq!(status.input[&3].position, 7);
        assert_eq!(status.input[&3].state, InputState::Unknown);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut status = Status { pod: "c-0".to_string(), ready: true, ..Status::default() };
        let holder = Some(Holder { partition: Some(2), reason: HoldReason::Unassigned });
        let partition = AggregatePartition { holder, watermark_ms: Some(1), ..AggregatePartition::default() };
        status.aggregate.insert(5, partition);
        let text = serde_json::to_string(&status).unwrap();
        assert!(text.contains(r#""holder":{"partition":2,"reason":"Unassigned"}"#), "{text}");
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
    }
}
