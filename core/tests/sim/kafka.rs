//! A model of Kafka: logs, groups with generations, transactions with fencing. Only what the protocol leans on.
//!
//! Guarantees modelled: appends are ordered; a commit is refused unless it comes from the group's present generation; a
//! transaction's offsets are checked against the generation when they are sent, and become visible with its end; a
//! committed offset can't be read while a transaction that changes it is open; a new incarnation of a transactional id
//! aborts the open transaction of the one before and fences it.

use std::collections::BTreeMap;

use crashmonitor_core::aggregate::{LateEvent, Outcome};
use crashmonitor_core::ids::TopicId;

pub const INPUT_TOPIC: TopicId = TopicId([1; 16]);
pub const LOG_TOPIC: TopicId = TopicId([2; 16]);

/// One slot of an input partition: a record, or a hole that compaction or a transaction marker left.
pub enum Slot {
    Record { value: Option<Vec<u8>>, appended_at: i64 },
    Hole,
}

#[derive(Default)]
pub struct Group {
    pub generation: u64,
    /// Partition → member.
    pub owners: BTreeMap<u32, Member>,
    pub offsets: BTreeMap<u32, (u64, String)>,
}

/// A worker's name and which of its lives this is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Member {
    pub worker: usize,
    pub life: u64,
}

pub struct OpenTransaction {
    pub results: Vec<Outcome>,
    pub late: Vec<LateEvent>,
    pub offsets: Vec<(u32, u64, String)>,
    pub opened_at: i64,
    pub life: u64,
}

#[derive(Default)]
pub struct Kafka {
    pub input: Vec<Vec<Slot>>,
    pub log: Vec<Vec<Vec<u8>>>,
    pub log_start: Vec<u64>,
    pub scan: Group,
    pub aggregate: Group,
    /// By transactional id (the worker's name).
    pub open: BTreeMap<usize, OpenTransaction>,
    /// The newest incarnation of each transactional id.
    pub producers: BTreeMap<usize, u64>,
    /// What a reader with read_committed sees.
    pub results: Vec<Outcome>,
    pub late: Vec<LateEvent>,
}

pub enum Fetched {
    Unstable,
    None,
    Some(u64, String),
}

impl Kafka {
    pub fn commit_scan(&mut self, generation: u64, offsets: Vec<(u32, u64, String)>) -> bool {
        if generation != self.scan.generation {
            return false;
        }
        self.scan.offsets.extend(offsets.into_iter().map(|(p, offset, text)| (p, (offset, text))));
        true
    }

    pub fn aggregate_offset(&self, shard: u32) -> Fetched {
        if self.open.values().any(|t| t.offsets.iter().any(|(p, _, _)| *p == shard)) {
            return Fetched::Unstable;
        }
        match self.aggregate.offsets.get(&shard) {
            None => Fetched::None,
            Some((offset, text)) => Fetched::Some(*offset, text.clone()),
        }
    }

    /// InitProducerId: fences the incarnations before and aborts what they left open.
    pub fn init_transactions(&mut self, member: Member) {
        self.producers.insert(member.worker, member.life);
        self.open.remove(&member.worker);
    }

    /// Produce and TxnOffsetCommit; false if fenced or of an old generation.
    pub fn open_transaction(&mut self, member: Member, generation: u64, open: OpenTransaction) -> bool {
        let current = self.producers.get(&member.worker) == Some(&member.life);
        let allowed = current && generation == self.aggregate.generation;
        if allowed {
            self.open.insert(member.worker, open);
        }
        allowed
    }

    /// EndTxn; false if there is no such transaction (any more).
    pub fn end_transaction(&mut self, member: Member, commit: bool) -> bool {
        if self.open.get(&member.worker).is_none_or(|t| t.life != member.life) {
            return false;
        }
        let open = self.open.remove(&member.worker).unwrap();
        if commit {
            self.results.extend(open.results);
            self.late.extend(open.late);
            self.aggregate.offsets.extend(open.offsets.into_iter().map(|(p, o, t)| (p, (o, t))));
        }
        commit
    }

    /// The coordinator aborts what has been open for too long.
    pub fn expire_transactions(&mut self, now: i64, timeout_ms: i64) {
        self.open.retain(|_, t| now - t.opened_at < timeout_ms);
    }
}
