//! Where a scanner begins: facts of an input partition in, one named decision out.
//!
//! Responsible for starting positions, claims and what was lost before a start. Must never reset an offset silently:
//! the starting position is resolved once; from then on a missing or impossible offset is a loss with a name.
//!
//! # Rules
//! Numbers in brackets are those of the protocol in ARCHITECTURE.md.
//!
//! 1. *Resolve once* \[1\]. The owner of partition 0 commits the starting positions of all partitions in one request,
//!    fenced by the group's generation; the others wait for it. Had each owner resolved its own, one of them could not
//!    tell a partition of a monitor that starts from one that was added later.
//! 2. *After the aggregate* \[11\]. Nothing is claimed before the aggregate group has committed an offset for every
//!    repartition partition, so that frames never lie before the aggregate's beginning.
//! 3. *One log* \[11\]. A monitor that has sent frames goes on only with the repartition topic that they went to.
//! 4. *Claim* \[2\]. Every start raises the epoch in a commit of its own before a frame is sent.

use crate::commit::{self, ScanCommit};
pub use crate::config::{OnDataLoss, StartingOffsets};
use crate::ids::{Epoch, InputOffset, SourceId, TopicId};

/// What the resource says about a start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Where a new monitor begins.
    pub starting_offsets: StartingOffsets,
    /// What to do where records were lost.
    pub on_data_loss: OnDataLoss,
}

/// What the aggregate group has committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AggregateProgress {
    /// Not every repartition partition has a committed offset yet.
    Incomplete,
    /// All have, and none beyond its beginning.
    Fresh,
    /// All have, some beyond the beginning: the monitor has run before.
    Advanced,
}

/// What is known of an input partition at its assignment, all read after the assignment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The partition.
    pub source: SourceId,
    /// What the scan group has committed for it.
    pub committed: Option<(InputOffset, String)>,
    /// What the scan group has committed for partition 0.
    pub committed_first: Option<(InputOffset, String)>,
    /// The first and the end offset of every partition of the input, by partition. The first is read before the commits
    /// and the end after them: a commit that another owner made meanwhile does not look like a loss.
    pub logs: Vec<LogRange>,
    /// The identity of the input topic.
    pub topic: TopicId,
    /// The identity of the repartition topic.
    pub log_topic: TopicId,
    /// What the aggregate group has committed, read before what the scan group has: one that has advanced did so by the
    /// frames of claims that were committed before, so a commit that is not there then is missing.
    pub aggregate: AggregateProgress,
}

/// What a partition holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogRange {
    /// Its first offset.
    pub start: InputOffset,
    /// The offset after its last.
    pub end: InputOffset,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Ask again soon: somebody else has to go first.
    Wait(WaitFor),
    /// Commit these starting positions in one request, then ask again.
    Resolve(Vec<(SourceId, InputOffset, ScanCommit)>),
    /// Commit `from` with the claim's metadata, then take over by [`super::Scan::claim`].
    Claim(Claim),
    /// Stop and say which.
    Stop(DataLoss),
}

/// Whom a scanner waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitFor {
    /// The aggregate group, to commit its beginning.
    Aggregate,
    /// The owner of partition 0, to resolve the starting positions.
    Resolution,
    /// The cluster's metadata, to show the partition that was assigned.
    Metadata,
}

/// A claim to be committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The partition.
    pub source: SourceId,
    /// The offset to commit with it, and to begin at.
    pub from: InputOffset,
    /// If greater than `from`: `[from, lost_to)` can't be read any more.
    pub lost_to: InputOffset,
    /// What to commit beside the offset, the raised epoch in it.
    pub metadata: ScanCommit,
    /// What was lost, if anything.
    pub loss: Option<LossKind>,
}

/// How records were lost before a start at which the monitor may go on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LossKind {
    /// Retention removed records before they were read.
    RetentionOvertook,
    /// The topic was deleted and made again.
    TopicRecreated,
}

/// Why a scanner can't go on without losing records.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DataLoss {
    /// Offsets that were committed are gone.
    #[error(
        "partition {source_id} has no committed offset although the monitor has run before: the offsets have expired or were deleted; reset the monitor's groups and its repartition topic together"
    )]
    CommitMissing {
        /// The partition.
        source_id: SourceId,
    },
    /// The group's metadata is not ours.
    #[error("partition {source_id}: {error}")]
    Metadata {
        /// The partition.
        source_id: SourceId,
        /// What is wrong.
        error: commit::Error,
    },
    /// The log is shorter than what was read of it.
    #[error(
        "partition {source_id}: the committed offset {committed} is beyond the log's end {end}: the brokers lost records that were already counted (an unclean election?), and new ones would be taken for those; reset the monitor's groups and its repartition topic together"
    )]
    LogShrank {
        /// The partition.
        source_id: SourceId,
        /// The group's offset.
        committed: InputOffset,
        /// The log's end.
        end: InputOffset,
    },
    /// The frames so far went to another repartition topic of the same name.
    #[error(
        "partition {source_id}: the frames so far went to repartition topic {committed}, the present one is {present}: the topic was deleted and made again, and the open windows with it; reset the monitor's groups too"
    )]
    OtherLog {
        /// The partition.
        source_id: SourceId,
        /// The topic that the commit names.
        committed: TopicId,
        /// The topic that is there.
        present: TopicId,
    },
    /// Records were lost and `onDataLoss` says `Fail`.
    #[error(
        "partition {source_id}: records from {from} on can't be read any more ({kind:?}); input.onDataLoss is Fail"
    )]
    Lost {
        /// The partition.
        source_id: SourceId,
        /// The first that is lost.
        from: InputOffset,
        /// How.
        kind: LossKind,
    },
}

/// Decides where to begin.
pub fn decide(facts: &Facts, policy: Policy) -> Decision {
    let source = facts.source;
    if facts.aggregate == AggregateProgress::Incomplete {
        return Decision::Wait(WaitFor::Aggregate);
    }
    let Some(&log) = facts.logs.get(source.0 as usize) else { return Decision::Wait(WaitFor::Metadata) };
    if let Some((offset, text)) = &facts.committed {
        return match ScanCommit::decode(text) {
            Ok(metadata) => resume(facts, policy, log, *offset, metadata),
            Err(error) => Decision::Stop(DataLoss::Metadata { source_id: source, error }),
        };
    }
    if let Some((_, text)) = &facts.committed_first {
        return match ScanCommit::decode(text) {
            Ok(first) if source.0 >= first.resolved => {
                let metadata = ScanCommit { epoch: Epoch(0), mark: None, ..first };
                resume(facts, policy, log, InputOffset(0), metadata)
            }
            Ok(_) => Decision::Stop(DataLoss::CommitMissing { source_id: source }),
            Err(error) => Decision::Stop(DataLoss::Metadata { source_id: SourceId(0), error }),
        };
    }
    match facts.aggregate {
        AggregateProgress::Advanced => Decision::Stop(DataLoss::CommitMissing { source_id: source }),
        _ if source == SourceId(0) => Decision::Resolve(resolve(facts, policy.starting_offsets)),
        _ => Decision::Wait(WaitFor::Resolution),
    }
}

fn resolve(facts: &Facts, starting_offsets: StartingOffsets) -> Vec<(SourceId, InputOffset, ScanCommit)> {
    let resolved = u32::try_from(facts.logs.len()).expect("partitions are numbered by an i32");
    let (topic, log_topic) = (facts.topic, facts.log_topic);
    let metadata = ScanCommit { epoch: Epoch(0), mark: None, topic, resolved, log_topic };
    let position = |log: &LogRange| match starting_offsets {
        StartingOffsets::Latest => log.end,
        StartingOffsets::Earliest => log.start,
    };
    (0..).map(SourceId).zip(&facts.logs).map(|(source, log)| (source, position(log), metadata)).collect()
}

fn resume(
    facts: &Facts,
    policy: Policy,
    log: LogRange,
    offset: InputOffset,
    committed: ScanCommit,
) -> Decision {
    let source = facts.source;
    if committed.log_topic != facts.log_topic {
        let (committed, present) = (committed.log_topic, facts.log_topic);
        return Decision::Stop(DataLoss::OtherLog { source_id: source, committed, present });
    }
    if committed.topic == facts.topic && offset > log.end {
        // There is no offset at which reading on would not skip or repeat.
        return Decision::Stop(DataLoss::LogShrank { source_id: source, committed: offset, end: log.end });
    }
    let (from, lost_to, loss) = if committed.topic != facts.topic {
        (log.start, log.start, Some(LossKind::TopicRecreated))
    } else if offset < log.start {
        // A partition that was added and had its first records removed before anybody saw it has lost them too.
        (offset, log.start, Some(LossKind::RetentionOvertook))
    } else {
        (offset, offset, None)
    };
    if let (Some(kind), OnDataLoss::Fail) = (loss, policy.on_data_loss) {
        return Decision::Stop(DataLoss::Lost { source_id: source, from: offset, kind });
    }
    let metadata = ScanCommit { epoch: Epoch(committed.epoch.0 + 1), topic: facts.topic, ..committed };
    Decision::Claim(Claim { source, from, lost_to, metadata, loss })
}
