//! Which partition is read from which broker, and from where on.
//!
//! Responsible for positions, leaders, replicas nearby, and for what an error means for them. Does no I/O and takes the
//! time as an argument. Must never let an answer move a position that it was not asked for: an answer counts only while
//! the fetch that it belongs to is the partition's present one.
//!
//! # Rules
//! 1. A partition is in at most one fetch at a time. The next one begins where the last one's whole batches ended.
//! 2. Stopping, starting anew and a change of the leader or replica make a fetch that is under way worthless.
//! 3. A partition is read only of the topic that it was claimed for: ids, not names, are asked for.
//! 4. Leaders go forward: of two answers about a partition the one with the higher leader epoch counts.
//! 5. What was served longest ago is asked for first, since a response that is full leaves the rest out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crashmonitor_core::ids::TopicId;
use kafka_protocol::error::ResponseError;

/// How long a partition rests after an error that new metadata should mend.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long after one that a person has to mend, or damage.
pub const TROUBLE_PAUSE: Duration = Duration::from_secs(1);
/// How long a replica nearby is read from before the leader is asked again: as long as other clients' metadata live.
const REPLICA_LIFETIME: Duration = Duration::from_secs(300);

/// A partition's leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leader {
    /// The broker.
    pub broker: i32,
    /// How often the partition has had a new leader.
    pub epoch: i32,
}

/// One partition in one fetch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Want {
    /// The partition.
    pub partition: i32,
    /// The topic that it was claimed for.
    pub topic: TopicId,
    /// Which start of the partition this belongs to.
    pub generation: u64,
    /// The first offset to send.
    pub position: i64,
    /// By which the broker knows whether we are up to date.
    pub leader_epoch: i32,
    fetch: u64,
    is_replica: bool,
}

/// What a broker answered for a partition.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// Records, or none; the next ones begin here.
    Read {
        /// The next offset to ask for.
        next: i64,
    },
    /// Another broker should be asked, which is nearer.
    Elsewhere {
        /// That broker.
        replica: i32,
    },
    /// An error.
    Refused(ResponseError),
}

/// What is to be done with an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// What was read is to be delivered.
    Deliver,
    /// Nothing: it was not asked for any more, or is put right by itself.
    Ignore,
    /// The same, as soon as new metadata are there.
    Refresh,
    /// The offset is not in the log. The partition is stopped.
    OutOfRange,
    /// A person should know.
    Report,
}

#[derive(Debug)]
struct Partition {
    topic: TopicId,
    generation: u64,
    position: i64,
    fetch: Option<u64>,
    replica: Option<(i32, Instant)>,
    not_before: Option<Instant>,
    served: u64,
}

/// All partitions that are read.
#[derive(Debug, Default)]
pub struct Plan {
    addresses: BTreeMap<i32, String>,
    topic: Option<TopicId>,
    leaders: BTreeMap<i32, Leader>,
    partitions: BTreeMap<i32, Partition>,
    fetches: u64,
}

impl Plan {
    /// Reads a partition from `position` on, not before `not_before`.
    pub fn start(
        &mut self,
        partition: i32,
        topic: TopicId,
        generation: u64,
        position: i64,
        not_before: Option<Instant>,
    ) {
        let started =
            Partition { topic, generation, position, fetch: None, replica: None, not_before, served: 0 };
        self.partitions.insert(partition, started);
    }

    /// Reads a partition no more.
    pub fn stop(&mut self, partition: i32) {
        self.partitions.remove(&partition);
    }

    /// Whether anything is to be read.
    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    /// Where a broker is.
    pub fn address(&self, broker: i32) -> Option<&str> {
        self.addresses.get(&broker).map(String::as_str)
    }

    /// All brokers' addresses.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.addresses.values().map(String::as_str)
    }

    /// Notes brokers' addresses; those of others stay as they are.
    pub fn learn_addresses(&mut self, brokers: impl IntoIterator<Item = (i32, String)>) {
        self.addresses.extend(brokers);
    }

    /// Notes which topic bears the name now. Leaders of another one mean nothing.
    pub fn learn_topic(&mut self, topic: TopicId) {
        if self.topic.replace(topic) != Some(topic) {
            self.leaders.clear();
        }
    }

    /// Notes a partition's leader, unless a later one is known.
    pub fn learn_leader(&mut self, partition: i32, leader: Leader) {
        let known = self.leaders.get(&partition).copied();
        if known.is_none_or(|known| leader.epoch > known.epoch || (leader.epoch < 0 && leader != known)) {
            self.leaders.insert(partition, leader);
            if let Some(partition) = self.partitions.get_mut(&partition) {
                (partition.fetch, partition.replica, partition.not_before) = (None, None, None);
            }
        }
    }

    /// Whether new metadata are needed to read everything that is to be read.
    pub fn lacks_leaders(&self) -> bool {
        self.partitions.iter().any(|(id, partition)| {
            Some(partition.topic) == self.topic && !self.leaders.contains_key(id) || self.topic.is_none()
        })
    }

    /// The brokers that something is to be read from.
    pub fn brokers(&self, now: Instant) -> Vec<i32> {
        let mut brokers: Vec<i32> = self
            .partitions
            .iter()
            .filter_map(|(id, partition)| self.broker_of(*id, partition, now))
            .collect();
        brokers.sort_unstable();
        brokers.dedup();
        brokers
    }

    /// What to ask `broker` for now; it counts as asked for.
    pub fn take_wants(&mut self, broker: i32, now: Instant) -> Vec<Want> {
        let mut ready: Vec<(u64, i32)> = self
            .partitions
            .iter()
            .filter(|(id, partition)| {
                partition.fetch.is_none()
                    && partition.not_before.is_none_or(|at| at <= now)
                    && self.broker_of(**id, partition, now) == Some(broker)
            })
            .map(|(&id, partition)| (partition.served, id))
            .collect();
        ready.sort_unstable();
        let mut wants = Vec::with_capacity(ready.len());
        for (_, id) in ready {
            let leader = self.leaders.get(&id).copied();
            let Some(partition) = self.partitions.get_mut(&id) else { continue };
            self.fetches += 1;
            partition.fetch = Some(self.fetches);
            wants.push(Want {
                partition: id,
                topic: partition.topic,
                generation: partition.generation,
                position: partition.position,
                leader_epoch: leader.map_or(-1, |leader| leader.epoch),
                fetch: self.fetches,
                is_replica: leader.is_some_and(|leader| leader.broker != broker),
            });
        }
        wants
    }

    /// When a partition of `broker` that rests may be asked for.
    pub fn next_start(&self, broker: i32, now: Instant) -> Option<Instant> {
        let resting = self.partitions.iter().filter(|(id, p)| self.broker_of(**id, p, now) == Some(broker));
        resting.filter_map(|(_, partition)| partition.not_before).filter(|at| *at > now).min()
    }

    /// Takes in what a broker answered to `want`.
    pub fn answered(&mut self, want: &Want, answer: Answer, now: Instant) -> Verdict {
        let (fetches, topic) = (self.fetches, want.topic);
        let Some(partition) = self.partitions.get_mut(&want.partition) else { return Verdict::Ignore };
        if partition.fetch != Some(want.fetch) || partition.topic != topic {
            return Verdict::Ignore;
        }
        partition.fetch = None;
        partition.not_before = None;
        match answer {
            Answer::Read { next } => {
                if next > partition.position {
                    (partition.position, partition.served) = (next, fetches);
                }
                Verdict::Deliver
            }
            Answer::Elsewhere { replica } => {
                partition.replica = Some((replica, now + REPLICA_LIFETIME));
                Verdict::Ignore
            }
            // A replica may be behind or ahead of the leader, who has the last word.
            Answer::Refused(_) if want.is_replica => {
                partition.replica = None;
                Verdict::Refresh
            }
            Answer::Refused(ResponseError::OffsetOutOfRange) => {
                self.partitions.remove(&want.partition);
                Verdict::OutOfRange
            }
            Answer::Refused(error) if is_passing(error) => {
                partition.not_before = Some(now + RETRY_PAUSE);
                Verdict::Refresh
            }
            Answer::Refused(_) => {
                partition.not_before = Some(now + TROUBLE_PAUSE);
                Verdict::Report
            }
        }
    }

    /// Takes back what was asked of a broker that did not answer. Replicas are given up for their leader.
    pub fn abandon(&mut self, wants: &[Want]) {
        for want in wants {
            if let Some(partition) = self.partitions.get_mut(&want.partition)
                && partition.fetch == Some(want.fetch)
            {
                (partition.fetch, partition.replica) = (None, None);
            }
        }
    }

    fn broker_of(&self, id: i32, partition: &Partition, now: Instant) -> Option<i32> {
        if Some(partition.topic) != self.topic {
            return None;
        }
        let replica =
            partition.replica.filter(|(broker, until)| *until > now && self.addresses.contains_key(broker));
        replica.map(|(broker, _)| broker).or_else(|| self.leaders.get(&id).map(|leader| leader.broker))
    }
}

/// Whether this is what leaders that come and go look like: new metadata and a little time help.
fn is_passing(error: ResponseError) -> bool {
    matches!(
        error,
        ResponseError::NotLeaderOrFollower
            | ResponseError::FencedLeaderEpoch
            | ResponseError::UnknownLeaderEpoch
            | ResponseError::LeaderNotAvailable
            | ResponseError::ReplicaNotAvailable
            | ResponseError::OffsetNotAvailable
            | ResponseError::UnknownTopicOrPartition
            | ResponseError::UnknownTopicId
            | ResponseError::InconsistentTopicId
            | ResponseError::KafkaStorageError
            | ResponseError::BrokerNotAvailable
            | ResponseError::RequestTimedOut
            | ResponseError::NetworkException
    )
}

#[cfg(test)]
mod tests;
