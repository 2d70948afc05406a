//! What to do with a shard that was just assigned: facts in, one named decision out.
//!
//! Responsible for the table "Kafka is the truth, the checkpoint store is a hint". Must never decide to begin from
//! nothing where something was committed: that is [`DataLoss`], and the worker stops.

use crate::aggregate::Params;
use crate::commit::{self, AggregateCommit};
use crate::ids::{LogOffset, TopicId};
use crate::snapshot::{Identity, Snapshot};

/// What is known of a shard at its assignment, all read after the assignment.
///
/// It can't be read at one moment: a worker may be stopped between two answers, and go on when somebody else has counted
/// on. So the log is looked at before and after the commit, and each fact is taken from the side on which it can't make a
/// sound shard look damaged.
#[derive(Clone, PartialEq, Debug)]
pub struct Facts {
    /// The offset and the metadata that the aggregate group has committed, stable (no transaction is open over it).
    pub committed: Option<(LogOffset, String)>,
    /// The log's first offset, read before `committed`: later it may have been purged up to a later commit.
    pub log_start: LogOffset,
    /// The offset after the log's last, read before `committed`: without a commit, nothing was written until then.
    pub log_end_before: LogOffset,
    /// The offset after the log's last, read after `committed`, which can't lie beyond it.
    pub log_end: LogOffset,
    /// The repartition topic's identity.
    pub log_topic: TopicId,
    /// What the checkpoint store gave.
    pub snapshot: Stored,
}

/// What the checkpoint store gave for a shard.
#[derive(Clone, PartialEq, Debug)]
pub enum Stored {
    /// None is configured.
    Disabled,
    /// It could not be asked within its time limit.
    Unreachable,
    /// It has nothing under the shard's key.
    Nothing,
    /// It has bytes that are no snapshot of a version that this program reads.
    Unreadable(crate::codec::Error),
    /// It has a snapshot.
    Snapshot(Box<Snapshot>),
}

/// What to do.
#[derive(Clone, PartialEq, Debug)]
pub enum Decision {
    /// Nothing was ever committed and the log is empty: commit its beginning, then count.
    FirstStart {
        /// Where the log begins.
        at: LogOffset,
    },
    /// Load the snapshot and replay from its position to the committed offset, muted.
    Load {
        /// The state.
        snapshot: Box<Snapshot>,
        /// The committed offset.
        until: LogOffset,
        /// What the replay must arrive at.
        commit: AggregateCommit,
    },
    /// Replay from `o_low` to the committed offset, muted.
    Replay {
        /// Why no snapshot serves.
        reason: WithoutSnapshot,
        /// The committed offset.
        until: LogOffset,
        /// What the replay must arrive at; it starts at `commit.o_low`.
        commit: AggregateCommit,
    },
    /// Stop and say which.
    Stop(DataLoss),
}

/// Why a snapshot is not used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WithoutSnapshot {
    /// No store is configured.
    Disabled,
    /// The store could not be asked.
    Unreachable,
    /// The store has none.
    Missing,
    /// Its checksum is wrong, or a newer program wrote it.
    Unreadable,
    /// It belongs to another monitor, topic or shard.
    Foreign,
    /// The log no longer reaches back to it.
    TooOld,
    /// It is newer than what was committed: its worker died or was fenced before its transaction ended.
    Ahead,
}

impl WithoutSnapshot {
    /// All of them, for metrics.
    pub const ALL: &[WithoutSnapshot] = &[
        WithoutSnapshot::Disabled,
        WithoutSnapshot::Unreachable,
        WithoutSnapshot::Missing,
        WithoutSnapshot::Unreadable,
        WithoutSnapshot::Foreign,
        WithoutSnapshot::TooOld,
        WithoutSnapshot::Ahead,
    ];
}

/// Why counting can't go on without losing or doubling.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DataLoss {
    /// The log has records, the group has no offset.
    #[error(
        "the repartition topic has records up to {log_end}, but the group has no committed offset: the offsets have expired or were deleted; reset the monitor's group and topic together"
    )]
    CommitMissing {
        /// The log's end.
        log_end: LogOffset,
    },
    /// The group's offset lies behind the log's end.
    #[error(
        "the committed offset {committed} is beyond the repartition topic's end {log_end}: the topic lost records or was made again"
    )]
    CommitBeyondEnd {
        /// The group's offset.
        committed: LogOffset,
        /// The log's end.
        log_end: LogOffset,
    },
    /// The group's offset is for another topic of the same name.
    #[error(
        "the committed offset is for repartition topic {committed}, the present one is {present}: the topic was deleted and made again"
    )]
    OtherTopic {
        /// The topic that the commit names.
        committed: TopicId,
        /// The topic that is there.
        present: TopicId,
    },
    /// The log no longer has what the open windows need, and no snapshot bridges it.
    #[error(
        "the repartition topic begins at {log_start}, but the open windows need it from {needed}, and no snapshot bridges the difference"
    )]
    LogTruncated {
        /// The log's first offset.
        log_start: LogOffset,
        /// What a rebuild needs.
        needed: LogOffset,
    },
    /// The results so far were written under other settings.
    #[error(
        "results were written with window.size {committed_window_ms} ms and mode `{committed_mode}`; these can't be changed on a monitor that has run: set them back, or make a monitor of another name"
    )]
    OtherSettings {
        /// The window that the commit names, in milliseconds.
        committed_window_ms: i64,
        /// The mode that it names.
        committed_mode: &'static str,
    },
    /// The group's metadata is not ours.
    #[error(transparent)]
    Metadata(#[from] commit::Error),
}

/// Decides. `identity` says whose snapshot would be right, `params` are the monitor's present settings.
pub fn decide(facts: Facts, identity: &Identity, params: &Params) -> Decision {
    if facts.log_topic != identity.log_topic {
        // Made again under a running worker; Kafka has deleted the commits with the old one.
        let (committed, present) = (identity.log_topic, facts.log_topic);
        return Decision::Stop(DataLoss::OtherTopic { committed, present });
    }
    let Some((until, metadata)) = facts.committed else {
        return if facts.log_end_before == LogOffset(0) {
            Decision::FirstStart { at: LogOffset(0) }
        } else {
            Decision::Stop(DataLoss::CommitMissing { log_end: facts.log_end_before })
        };
    };
    let commit = match AggregateCommit::decode(&metadata) {
        Ok(commit) => commit,
        Err(error) => return Decision::Stop(error.into()),
    };
    if commit.log_topic != facts.log_topic {
        let (committed, present) = (commit.log_topic, facts.log_topic);
        return Decision::Stop(DataLoss::OtherTopic { committed, present });
    }
    if (commit.window_ms, commit.mode) != (params.window_ms, params.mode) {
        let (committed_window_ms, committed_mode) = (commit.window_ms, commit.mode.name());
        return Decision::Stop(DataLoss::OtherSettings { committed_window_ms, committed_mode });
    }
    if until > facts.log_end {
        return Decision::Stop(DataLoss::CommitBeyondEnd { committed: until, log_end: facts.log_end });
    }
    match usable(facts.snapshot, identity, facts.log_start, until, &commit) {
        Ok(snapshot) => Decision::Load { snapshot, until, commit },
        Err(_) if commit.o_low < facts.log_start => {
            let (log_start, needed) = (facts.log_start, commit.o_low);
            Decision::Stop(DataLoss::LogTruncated { log_start, needed })
        }
        Err(reason) => Decision::Replay { reason, until, commit },
    }
}

/// The snapshot, if its state is one that the committed log prefix passed through and that can be continued.
fn usable(
    stored: Stored,
    identity: &Identity,
    log_start: LogOffset,
    until: LogOffset,
    commit: &AggregateCommit,
) -> Result<Box<Snapshot>, WithoutSnapshot> {
    let snapshot = match stored {
        Stored::Disabled => return Err(WithoutSnapshot::Disabled),
        Stored::Unreachable => return Err(WithoutSnapshot::Unreachable),
        Stored::Nothing => return Err(WithoutSnapshot::Missing),
        Stored::Unreadable(_) => return Err(WithoutSnapshot::Unreadable),
        Stored::Snapshot(snapshot) => snapshot,
    };
    if snapshot.identity != *identity {
        return Err(WithoutSnapshot::Foreign);
    }
    let state = &snapshot.state;
    // Closing as well: a worker with a smaller lateness may have closed windows that the committed log still holds open.
    let ahead = state.position() > until
        || state.watermark() > commit.watermark
        || state.closed_through() > commit.closed_through;
    if ahead {
        return Err(WithoutSnapshot::Ahead);
    }
    if state.position() < log_start {
        return Err(WithoutSnapshot::TooOld);
    }
    Ok(snapshot)
}
