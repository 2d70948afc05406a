//! A model of Kafka: the topics, the two groups, the transaction coordinator, and requests that arrive late.
//!
//! Only what the protocol leans on; each part says what it models. Must never look at what the workers believe.

use std::collections::BTreeMap;

use crashmonitor_core::ids::TopicId;

use crate::group::{Group, Membership};
use crate::input::Input;
use crate::rng::Rng;
use crate::setup::Setup;
use crate::transactions::{Coordinator, Refusal, Written};

pub const INPUT_TOPIC: TopicId = TopicId([1; 16]);
pub const LOG_TOPIC: TopicId = TopicId([2; 16]);

/// A partition of the repartition topic.
#[derive(Default)]
pub struct Log {
    pub start: u64,
    pub records: Vec<Vec<u8>>,
    /// How many partitions of the input its messages have told of.
    sources: u32,
}

impl Log {
    pub fn end(&self) -> u64 {
        self.records.len() as u64
    }

    /// DeleteRecords.
    pub fn purge(&mut self, before: u64) {
        self.start = self.start.max(before.min(self.end()));
    }
}

/// A request that arrives when its sender no longer waits for it, or no longer lives.
pub enum Request {
    Append { shard: u32, bytes: Vec<u8> },
    CommitScan { membership: Membership, offsets: Vec<(u32, u64, String)> },
    SendOffsets { membership: Membership, epoch: u64, offsets: Vec<(u32, u64, String)> },
    Write { name: usize, epoch: u64, written: Written },
    EndTransaction { name: usize, epoch: u64 },
    Purge { shard: u32, before: u64 },
    SaveSnapshot { shard: u32, bytes: Vec<u8> },
}

/// What becomes of a request and its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wire {
    Fine,
    /// It never arrives.
    Lost,
    /// It arrives; its answer does not.
    AnswerLost,
    /// It arrives when nobody waits for its answer any more.
    Delayed,
}

impl Wire {
    pub fn draw(one_in: usize, rng: &mut Rng) -> Wire {
        if !rng.one_in(one_in) {
            return Wire::Fine;
        }
        [Wire::Lost, Wire::AnswerLost, Wire::Delayed, Wire::Delayed][rng.below(4)]
    }
}

pub struct Kafka {
    pub input: Input,
    pub log: Vec<Log>,
    pub scan: Group,
    pub aggregate: Group,
    pub transactions: Coordinator,
    /// When every shard's log told of a partition of the input for the first time.
    pub announced_at: BTreeMap<u32, i64>,
    under_way: Vec<(i64, Request)>,
}

impl Kafka {
    pub fn new(setup: &Setup) -> Kafka {
        let mut log = Vec::new();
        log.resize_with(setup.shards as usize, Log::default);
        Kafka {
            input: Input::new(setup),
            log,
            scan: Group::new(setup.sources as u32),
            aggregate: Group::new(setup.shards),
            transactions: Coordinator::default(),
            announced_at: BTreeMap::new(),
            under_way: Vec::new(),
        }
    }

    pub fn delay(&mut self, at: i64, request: Request) {
        self.under_way.push((at, request));
    }

    pub fn is_quiet(&self) -> bool {
        self.under_way.is_empty() && self.transactions.is_quiet()
    }

    /// Produce to the repartition topic.
    pub fn append(&mut self, shard: u32, bytes: Vec<u8>, now: i64) {
        // Behind magic, version and topic stands how many partitions the input has; here never more than one byte says.
        let sources = u32::from(bytes[20]);
        let log = &mut self.log[shard as usize];
        log.records.push(bytes);
        if sources > log.sources {
            log.sources = sources;
            let everywhere = self.log.iter().map(|log| log.sources).min().unwrap_or(0);
            for source in self.announced_at.len() as u32..everywhere {
                self.announced_at.insert(source, now);
            }
        }
    }

    /// OffsetCommit of the scan group.
    pub fn commit_scan(&mut self, membership: Membership, offsets: Vec<(u32, u64, String)>) -> bool {
        let is_admitted = self.scan.admits(membership);
        if is_admitted {
            self.scan.store(offsets);
        }
        is_admitted
    }

    /// TxnOffsetCommit: checked against the group, then part of the transaction.
    pub fn send_offsets(
        &mut self,
        membership: Membership,
        epoch: u64,
        offsets: Vec<(u32, u64, String)>,
        now: i64,
    ) -> Result<(), Refusal> {
        if !self.aggregate.admits(membership) {
            return Err(Refusal::Fenced);
        }
        self.transactions.send_offsets(membership.member.worker, epoch, offsets, now)
    }

    /// Time passes. Returns snapshots that reach Redis.
    pub fn tick(&mut self, now: i64, rng: &mut Rng, at_once: bool) -> Vec<(u32, Vec<u8>)> {
        let mut saved = Vec::new();
        while let Some(due) = self.under_way.iter().position(|(at, _)| *at <= now) {
            let (_, request) = self.under_way.remove(due);
            saved.extend(self.arrive(request, now));
        }
        self.transactions.tick(now, rng);
        let offsets = std::mem::take(&mut self.transactions.offsets);
        self.aggregate.store(offsets);
        self.scan.tick(now, rng);
        self.aggregate.tick(now, rng);
        self.input.settle(rng, at_once);
        saved
    }

    fn arrive(&mut self, request: Request, now: i64) -> Option<(u32, Vec<u8>)> {
        match request {
            Request::Append { shard, bytes } => self.append(shard, bytes, now),
            // Nobody waits for these answers any more.
            Request::CommitScan { membership, offsets } => {
                let _ = self.commit_scan(membership, offsets);
            }
            Request::SendOffsets { membership, epoch, offsets } => {
                let _ = self.send_offsets(membership, epoch, offsets, now);
            }
            Request::Write { name, epoch, written } => {
                let _ = self.transactions.write(name, epoch, written, now);
            }
            Request::EndTransaction { name, epoch } => {
                let _ = self.transactions.commit(name, epoch);
            }
            Request::Purge { shard, before } => self.log[shard as usize].purge(before),
            Request::SaveSnapshot { shard, bytes } => return Some((shard, bytes)),
        }
        None
    }
}
