//! Carries out what the aggregate drive decides, one effect at a time; the real loop does the same with real clients
//! (`worker/src/aggregate_loop.rs`). Between two effects the process may die, stop, or be rebalanced.

use std::collections::{BTreeMap, VecDeque};

use crashmonitor_core::aggregate::{self, Effect as CountEffect, Params, Partition};
use crashmonitor_core::aggregator::drive::{Drive, Effect, Event, HaltReason};
use crashmonitor_core::aggregator::{Aggregator, Confirmed, Refused};
use crashmonitor_core::codec;
use crashmonitor_core::commit::AggregateCommit;
use crashmonitor_core::ids::{LogOffset, Shard};
use crashmonitor_core::recovery::{Facts, Stored};
use crashmonitor_core::snapshot;
use crashmonitor_core::time::Clock;

use crate::group::{self, Client, Member, Membership};
use crate::kafka::{LOG_TOPIC, Request, Wire};
use crate::setup::{Fault, Setup};
use crate::transactions::{Refusal, Written};
use crate::world::World;

/// The monitor's uid.
const MONITOR: &str = "uid";
/// So many confirmed transactions wait for the keeper; then the newest is dropped.
const KEEPER_QUEUE_MAX: usize = 4;

/// How an effect ended.
enum Outcome {
    Done,
    Failed,
    /// Not yet: the same again at the next step.
    Again,
}

/// The offset and metadata that the group has for a shard.
type Committed = Option<(LogOffset, String)>;

/// Facts on their way.
#[derive(Default)]
enum Gathering {
    #[default]
    Nothing,
    /// Shard, first offset, end.
    Logs(Vec<(Shard, LogOffset, LogOffset)>),
    /// The same, and what is committed.
    Commits(Vec<(Shard, LogOffset, LogOffset, Committed)>),
}

pub struct Counter {
    pub drive: Drive<Membership>,
    pub client: Client,
    params: Params,
    /// The epoch of its producer.
    producer: Option<u64>,
    /// Written and not yet appended.
    unacknowledged: VecDeque<Written>,
    write_failed: bool,
    current: Option<Effect<Membership>>,
    gathering: Gathering,
    positions: BTreeMap<Shard, u64>,
    keeper: VecDeque<Confirmed>,
    is_leaving: bool,
    pub halted: Option<String>,
    pub is_fenced: bool,
    pub has_left: bool,
    is_newer: bool,
}

impl Counter {
    pub fn new(member: Member, is_newer: bool, setup: &Setup) -> Counter {
        let params = setup.aggregate_params();
        let aggregator = Aggregator::new(params, setup.cadence(), MONITOR.to_owned(), LOG_TOPIC);
        Counter {
            drive: Drive::new(aggregator),
            client: Client::new(member),
            params,
            producer: None,
            unacknowledged: VecDeque::new(),
            write_failed: false,
            current: None,
            gathering: Gathering::Nothing,
            positions: BTreeMap::new(),
            keeper: VecDeque::new(),
            is_leaving: false,
            halted: None,
            is_fenced: false,
            has_left: false,
            is_newer,
        }
    }

    /// One effect, or one part of one; with none to carry out, one look for events or for records.
    pub fn step(&mut self, world: &mut World, now: Clock) {
        self.append(world);
        if self.current.is_none() {
            self.current = self.drive.next(now);
        }
        let Some(effect) = self.current.take() else { return self.look(world, now) };
        match self.carry_out(&effect, world) {
            Outcome::Done => self.drive.done(now),
            Outcome::Failed => {
                let member = self.client.member;
                world.note(|| format!("{member} fails at {}", short(&effect)));
                self.drive.failed(now);
            }
            Outcome::Again => self.current = Some(effect),
        }
    }

    pub fn leave(&mut self) {
        self.is_leaving = true;
    }

    fn look(&mut self, world: &mut World, now: Clock) {
        if self.is_leaving || self.halted.is_some() {
            // The first call plans the last transaction, the second finds it done.
            self.drive.leave();
            self.current = self.drive.next(now);
            if self.current.is_none() {
                self.has_left = true;
                world.kafka.aggregate.leave(self.client.member, world.now);
            }
            return;
        }
        if let Some(event) = self.client.poll(&mut world.kafka.aggregate, world.now) {
            return self.follow(event, world, now);
        }
        self.read(world, now);
    }

    fn follow(&mut self, event: group::Event, world: &mut World, now: Clock) {
        let member = self.client.member;
        world.note(|| format!("{member} aggregate {event:?}"));
        let shards = |partitions: Vec<u32>| partitions.into_iter().map(Shard).collect();
        let membership = self.client.membership();
        let event = match event {
            group::Event::Assigned(partitions) => Event::Assigned { shards: shards(partitions), membership },
            group::Event::Revoked(partitions) => Event::Revoked { shards: shards(partitions), membership },
            group::Event::Lost(partitions) => Event::Lost { shards: shards(partitions) },
            group::Event::Fenced => {
                self.is_fenced = true;
                return;
            }
        };
        self.drive.follow(event, now);
    }

    fn carry_out(&mut self, effect: &Effect<Membership>, world: &mut World) -> Outcome {
        match effect {
            Effect::MakeProducer => self.make_producer(world),
            Effect::DropProducer => {
                self.drop_producer(world);
                Outcome::Done
            }
            Effect::ReadFacts(shards) => self.read_facts(shards, world),
            Effect::Read(starts) => {
                self.positions.extend(starts.iter().map(|(shard, at)| (*shard, at.0)));
                if starts.is_empty() {
                    self.client.answered(&mut world.kafka.aggregate, world.now);
                }
                Outcome::Done
            }
            Effect::Release(shards) => {
                self.positions.retain(|shard, _| !shards.contains(shard));
                self.client.answered(&mut world.kafka.aggregate, world.now);
                Outcome::Done
            }
            Effect::Begin => {
                self.write_failed = false;
                Outcome::Done
            }
            Effect::Write { results, late } => {
                let member = self.client.member;
                world.note(|| {
                    let result =
                        |o: &aggregate::Outcome| format!("{}@{}={}", o.user, o.start.as_millis(), o.count);
                    let results: Vec<String> = results.iter().map(result).collect();
                    format!("{member} writes {} late {}", results.join(" "), late.len())
                });
                self.unacknowledged.extend(results.iter().cloned().map(Written::Result));
                self.unacknowledged.extend(late.iter().cloned().map(Written::Late));
                Outcome::Done
            }
            Effect::SendOffsets { offsets, membership } => {
                let member = self.client.member;
                world.note(|| {
                    let position = |(shard, at, commit): &(Shard, LogOffset, AggregateCommit)| {
                        format!("{shard}: {at} low {} closed {:?}", commit.o_low, commit.closed_through)
                    };
                    format!("{member} sends {}", offsets.iter().map(position).collect::<Vec<_>>().join(", "))
                });
                let offsets = offsets.iter().map(|(s, o, c)| (s.0, o.0, c.encode())).collect();
                self.send_offsets(offsets, *membership, world)
            }
            Effect::AwaitWrites if self.write_failed => Outcome::Failed,
            Effect::AwaitWrites if self.unacknowledged.is_empty() => Outcome::Done,
            Effect::AwaitWrites => Outcome::Again,
            Effect::End => self.end(world),
            Effect::Keep(confirmed) => {
                if self.keeper.len() < KEEPER_QUEUE_MAX {
                    self.keeper.push_back(confirmed.clone());
                }
                Outcome::Done
            }
            Effect::Halt { reason, .. } => {
                self.halt(reason, world);
                Outcome::Done
            }
        }
    }

    fn halt(&mut self, reason: &HaltReason, world: &mut World) {
        let member = self.client.member;
        world.note(|| format!("{member} halts: {reason}"));
        // An older version stops at what a newer one wrote; everything else is a mistake: nothing was ever lost here.
        let is_newer_frame = matches!(
            reason,
            HaltReason::Unreadable(Refused::Unreadable { error: codec::Error::Version(_), .. })
        );
        if !(is_newer_frame && !self.is_newer && world.setup.has(Fault::Upgrade)) {
            world.fail(format!("{member} halts: {reason}"));
        }
        self.halted = Some(reason.to_string());
    }

    fn make_producer(&mut self, world: &mut World) -> Outcome {
        if world.rng.one_in(world.request_faults().other) {
            return Outcome::Failed;
        }
        match world.kafka.transactions.init(self.client.member.worker) {
            Ok(epoch) => {
                self.producer = Some(epoch);
                Outcome::Done
            }
            Err(_) => Outcome::Again,
        }
    }

    /// What was on its way arrives later or never.
    pub fn drop_producer(&mut self, world: &mut World) {
        let (name, epoch) = (self.client.member.worker, self.producer.take());
        self.unacknowledged.truncate(world.rng.below(self.unacknowledged.len() + 1));
        for written in std::mem::take(&mut self.unacknowledged) {
            let epoch = epoch.unwrap_or(0);
            world.delay(2_000, Request::Write { name, epoch, written });
        }
    }

    /// The logs, what is committed, the logs again, one after another.
    fn read_facts(&mut self, shards: &[Shard], world: &mut World) -> Outcome {
        if world.rng.one_in(world.request_faults().other) {
            self.gathering = Gathering::Nothing;
            return Outcome::Failed;
        }
        let range = |shard: Shard| {
            let log = &world.kafka.log[shard.0 as usize];
            (shard, LogOffset(log.start), LogOffset(log.end()))
        };
        match std::mem::take(&mut self.gathering) {
            Gathering::Nothing => {
                self.gathering = Gathering::Logs(shards.iter().copied().map(range).collect());
                Outcome::Again
            }
            Gathering::Logs(before) => {
                if shards.iter().any(|shard| world.kafka.transactions.is_unstable(shard.0)) {
                    self.gathering = Gathering::Logs(before);
                    return if world.rng.one_in(20) { self.no_facts() } else { Outcome::Again };
                }
                let offsets = &world.kafka.aggregate.offsets;
                let of = |shard: Shard| {
                    offsets.get(&shard.0).map(|(offset, text)| (LogOffset(*offset), text.clone()))
                };
                let with_commit = |(shard, start, end)| (shard, start, end, of(shard));
                self.gathering = Gathering::Commits(before.into_iter().map(with_commit).collect());
                Outcome::Again
            }
            Gathering::Commits(gathered) => {
                let facts = gathered.into_iter().map(|(shard, log_start, log_end_before, committed)| {
                    let (_, _, log_end) = range(shard);
                    let (log_topic, snapshot) = (LOG_TOPIC, self.stored(shard, world));
                    (shard, Facts { committed, log_start, log_end_before, log_end, log_topic, snapshot })
                });
                let begins = self.drive.facts(facts.collect());
                let member = self.client.member;
                for (shard, begin) in begins {
                    world.note(|| format!("{member} shard {shard}: {begin:?}"));
                }
                Outcome::Done
            }
        }
    }

    fn no_facts(&mut self) -> Outcome {
        self.gathering = Gathering::Nothing;
        Outcome::Failed
    }

    fn stored(&self, shard: Shard, world: &World) -> Stored {
        if !world.redis.is_reachable {
            return Stored::Unreachable;
        }
        let Some(bytes) = world.redis.current.get(&shard.0) else { return Stored::Nothing };
        match snapshot::decode(&self.readable(bytes), self.params) {
            Ok(snapshot) => Stored::Snapshot(Box::new(snapshot)),
            Err(error) => Stored::Unreadable(error),
        }
    }

    /// The newer version differs by its number alone; whoever has it reads both.
    fn readable(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        if self.is_newer && bytes.len() > 3 {
            bytes[3] = 1;
        }
        bytes
    }

    fn send_offsets(
        &mut self,
        offsets: Vec<(u32, u64, String)>,
        membership: Membership,
        world: &mut World,
    ) -> Outcome {
        let Some(epoch) = self.producer else { return Outcome::Failed };
        match Wire::draw(world.request_faults().offsets, &mut world.rng) {
            Wire::Fine => {
                let now = world.now;
                return match world.kafka.send_offsets(membership, epoch, offsets, now) {
                    Ok(()) => Outcome::Done,
                    Err(Refusal::Busy) => Outcome::Again,
                    Err(Refusal::Fenced) => Outcome::Failed,
                };
            }
            Wire::Lost => {}
            Wire::AnswerLost => {
                let _ = world.kafka.send_offsets(membership, epoch, offsets, world.now);
            }
            Wire::Delayed => world.delay(3_000, Request::SendOffsets { membership, epoch, offsets }),
        }
        Outcome::Failed
    }

    fn end(&mut self, world: &mut World) -> Outcome {
        let (name, Some(epoch)) = (self.client.member.worker, self.producer) else { return Outcome::Failed };
        let wire = Wire::draw(world.request_faults().end, &mut world.rng);
        match wire {
            Wire::Fine => {
                return match world.kafka.transactions.commit(name, epoch) {
                    Ok(()) => Outcome::Done,
                    Err(_) => Outcome::Failed,
                };
            }
            Wire::Lost => {}
            Wire::AnswerLost => {
                let _ = world.kafka.transactions.commit(name, epoch);
                // The client has asked twice, and the second time comes when it has given up.
                world.delay(3_000, Request::EndTransaction { name, epoch });
            }
            Wire::Delayed => world.delay(3_000, Request::EndTransaction { name, epoch }),
        }
        let member = self.client.member;
        world.note(|| format!("{member} EndTxn: no answer ({wire:?})"));
        Outcome::Failed
    }

    /// The producer's own thread: some of what was written is appended.
    fn append(&mut self, world: &mut World) {
        let (name, Some(epoch)) = (self.client.member.worker, self.producer) else { return };
        for _ in 0..world.rng.below(4) {
            let Some(written) = self.unacknowledged.pop_front() else { return };
            if world.rng.one_in(world.request_faults().write) {
                self.write_failed = true;
                return;
            }
            match world.kafka.transactions.write(name, epoch, written.clone(), world.now) {
                Ok(()) => {}
                Err(Refusal::Busy) => return self.unacknowledged.push_front(written),
                Err(Refusal::Fenced) => self.write_failed = true,
            }
        }
    }

    fn read(&mut self, world: &mut World, now: Clock) {
        for (shard, position) in self.positions.clone() {
            let log = &world.kafka.log[shard.0 as usize];
            if position < log.start {
                // Out of range: the facts are read again and decide.
                return self.drive.failed(now);
            }
            let to = (position + world.rng.below(12) as u64).min(log.end());
            for at in position..to {
                let bytes = self.readable(&log.records[at as usize]);
                self.positions.insert(shard, at + 1);
                if self.drive.record(shard, LogOffset(at), &bytes, now).is_err() {
                    return;
                }
            }
            if to == log.end() {
                self.drive.reached(shard, LogOffset(to));
            }
        }
        for notice in self.drive.take_notices() {
            if let CountEffect::DataLoss { source, from, to } = notice.effect {
                world.losses.insert((source.0, from.0, to.0));
            }
        }
    }

    /// The keeper's thread: stores one round of snapshots and purges, soon, later or never.
    pub fn keep(&mut self, world: &mut World) {
        let Some(confirmed) = self.keeper.pop_front() else { return };
        for (shard, mut bytes) in confirmed.snapshots {
            bytes[3] += u8::from(self.is_newer);
            if world.rng.one_in(5) {
                world.delay(2_000, Request::SaveSnapshot { shard: shard.0, bytes });
            } else {
                world.redis.save(shard.0, bytes);
            }
        }
        for (shard, before) in confirmed.purgeable {
            match world.rng.below(6) {
                0 => world.kafka.log[shard.0 as usize].purge(before.0),
                1 => world.delay(2_000, Request::Purge { shard: shard.0, before: before.0 }),
                _ => {}
            }
        }
    }

    /// A snapshot of what was counted and not committed, for a Redis that is ahead.
    pub fn ahead(&self, shard: u32) -> Option<Vec<u8>> {
        let aggregator = self.drive.aggregator();
        let state = aggregator.live_state(Shard(shard))?;
        Some(snapshot::encode(&aggregator.identity(Shard(shard)), state))
    }

    pub fn is_quiet(&self, now: Clock) -> bool {
        let aggregator = self.drive.aggregator();
        self.has_left
            || (self.drive.is_idle()
                && aggregator.undecided().is_empty()
                && !aggregator.wants_commit(now.wall))
    }

    pub fn states(&self) -> impl Iterator<Item = (Shard, &Partition)> {
        let aggregator = self.drive.aggregator();
        self.drive.owned().iter().filter_map(move |&shard| Some((shard, aggregator.live_state(shard)?)))
    }
}

fn short(effect: &Effect<Membership>) -> String {
    format!("{effect:?}").split([' ', '{', '(']).next().unwrap_or_default().to_owned()
}
