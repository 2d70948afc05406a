//! One life of a worker: the driver of the simulator. It asks the model for facts and executes what `core` decides; the
//! real driver does the same with real clients.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crashmonitor_core::aggregate::{Effect, Mode, Params, Partition};
use crashmonitor_core::aggregator::{Aggregator, Cadence};
use crashmonitor_core::commit::AggregateCommit;
use crashmonitor_core::ids::{InputOffset, LogOffset, Shard, SourceId};
use crashmonitor_core::record::{Matcher, Rule};
use crashmonitor_core::recovery::{Facts, Stored};
use crashmonitor_core::scan::start::{self, AggregateProgress, Decision, LogRange, Policy};
use crashmonitor_core::scan::{self, Input, RoundId, Scan, Scanned};
use crashmonitor_core::snapshot;
use crashmonitor_core::time::Timestamp;

use crate::kafka::{Fetched, INPUT_TOPIC, LOG_TOPIC, Member, OpenTransaction, Slot};
use crate::world::{Setup, World};

pub struct Worker {
    pub member: Member,
    pub failure: Option<String>,
    clock_ms: i64,
    params: Params,
    scan_params: scan::Params,
    scan: Scan,
    scan_generation: u64,
    unclaimed: BTreeSet<SourceId>,
    /// Claimed, and read from here once the claim is in every shard.
    claimed: BTreeSet<SourceId>,
    positions: BTreeMap<SourceId, u64>,
    /// Sent and not yet appended, by shard.
    in_flight: BTreeMap<Shard, VecDeque<(RoundId, Vec<u8>)>>,
    dead_letters: VecDeque<RoundId>,
    paused: BTreeSet<SourceId>,
    aggregator: Aggregator,
    aggregate_generation: u64,
    read_from: BTreeMap<Shard, u64>,
    owned_shards: BTreeSet<Shard>,
    /// A transaction whose EndTxn is under way.
    ending: bool,
}

fn matcher() -> Matcher {
    let severities = vec!["High".to_owned(), "Critical".to_owned()];
    Matcher::new(&Rule { contains: "crash".to_owned(), case_sensitive: false, severities }).unwrap()
}

impl Worker {
    pub fn new(member: Member, clock_ms: i64, setup: &Setup) -> Worker {
        let params = Params {
            window_ms: setup.window_ms,
            allowed_lateness_ms: setup.lateness_ms,
            max_out_of_orderness_ms: setup.out_of_orderness_ms,
            count_greater_than: setup.threshold,
            mode: if setup.final_mode { Mode::Final } else { Mode::Updates },
        };
        let scan_params = scan::Params {
            shards: setup.shards,
            max_future_skew_ms: 600_000,
            idle_timeout_ms: setup.idle_ms,
            max_drift_ms: setup.drift_ms,
            flush_interval_ms: 20,
        };
        let cadence =
            Cadence { commit_interval_ms: 500, snapshot_interval_ms: 1_000, commit_drift_ms: 5_000 };
        Worker {
            member,
            failure: None,
            clock_ms,
            params,
            scan_params,
            scan: Scan::new(scan_params, matcher()),
            scan_generation: 0,
            unclaimed: BTreeSet::new(),
            claimed: BTreeSet::new(),
            positions: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            dead_letters: VecDeque::new(),
            paused: BTreeSet::new(),
            aggregator: Aggregator::new(params, cadence, "uid".to_owned(), LOG_TOPIC),
            aggregate_generation: 0,
            read_from: BTreeMap::new(),
            owned_shards: BTreeSet::new(),
            ending: false,
        }
    }

    fn clock(&self, world: &World) -> Timestamp {
        Timestamp::from_millis(world.now + self.clock_ms)
    }

    /// One move. A zombie has not heard of any rebalance since it was paused.
    pub fn step(&mut self, world: &mut World, zombie: bool) {
        if !zombie {
            self.join(world);
        }
        match world.rng.below(10) {
            0..3 => self.read_input(world),
            3 => self.send(world),
            4 => self.deliver(world),
            5 => self.scan_housekeeping(world),
            6..9 => self.read_log(world),
            _ => self.transact(world),
        }
        self.send(world);
        if world.rng.one_in(2) {
            self.deliver(world);
        }
    }

    /// Learns of the groups' present generations.
    fn join(&mut self, world: &World) {
        if self.scan_generation != world.kafka.scan.generation {
            let missed = self.scan_generation + 1 < world.kafka.scan.generation;
            self.scan_generation = world.kafka.scan.generation;
            let mine = |(&p, &m): (&u32, &Member)| (m == self.member).then_some(SourceId(p));
            let owned: BTreeSet<SourceId> = world.kafka.scan.owners.iter().filter_map(mine).collect();
            let held: Vec<SourceId> = self.claimed.iter().copied().collect();
            // Who misses a generation was put out of the group: whatever it held is lost, even if it comes back.
            held.into_iter().filter(|s| missed || !owned.contains(s)).for_each(|source| self.release(source));
            self.unclaimed = owned.into_iter().filter(|s| !self.claimed.contains(s)).collect();
        }
        if self.aggregate_generation != world.kafka.aggregate.generation && !self.ending {
            let missed = self.aggregate_generation + 1 < world.kafka.aggregate.generation;
            self.aggregate_generation = world.kafka.aggregate.generation;
            if missed {
                std::mem::take(&mut self.owned_shards).into_iter().for_each(|s| self.aggregator.revoke(s));
            }
            let mine = |(&p, &m): (&u32, &Member)| (m == self.member).then_some(Shard(p));
            let owned: BTreeSet<Shard> = world.kafka.aggregate.owners.iter().filter_map(mine).collect();
            for shard in self.owned_shards.difference(&owned) {
                self.aggregator.revoke(*shard);
            }
            for shard in owned.difference(&self.owned_shards) {
                self.aggregator.assign(*shard);
            }
            self.owned_shards = owned;
        }
    }

    fn release(&mut self, source: SourceId) {
        self.scan.release(source);
        self.claimed.remove(&source);
        self.positions.remove(&source);
        self.unclaimed.remove(&source);
        self.paused.remove(&source);
    }

    fn claim_sources(&mut self, world: &mut World) {
        let policy = Policy {
            starting_offsets: if world.setup.earliest {
                start::StartingOffsets::Earliest
            } else {
                start::StartingOffsets::Latest
            },
            on_data_loss: start::OnDataLoss::Continue,
        };
        for source in self.unclaimed.clone() {
            match start::decide(&scan_facts(world, source), policy) {
                Decision::Wait(_) => {}
                Decision::Resolve(positions) => {
                    let commits = positions.into_iter().map(|(s, o, m)| (s.0, o.0, m.encode())).collect();
                    world.kafka.commit_scan(self.scan_generation, commits);
                }
                Decision::Claim(claim) => {
                    let commit = vec![(source.0, claim.from.0, claim.metadata.encode())];
                    if world.kafka.commit_scan(self.scan_generation, commit) {
                        world.note(format!(
                            "{:?} claims {source} from {} epoch {}",
                            self.member, claim.from, claim.metadata.epoch
                        ));
                        self.scan.claim(&claim, self.clock(world));
                        self.claimed.insert(source);
                        self.unclaimed.remove(&source);
                    }
                }
                Decision::Stop(loss) => self.failure = Some(format!("scan stops: {loss}")),
            }
        }
        self.scan.set_source_count(world.topic_partitions());
    }

    fn read_input(&mut self, world: &mut World) {
        self.claim_sources(world);
        let now = self.clock(world);
        self.positions.extend(self.scan.take_readable().into_iter().map(|(source, from)| (source, from.0)));
        if self.scan.is_saturated() {
            return;
        }
        for (&source, position) in &mut self.positions {
            if self.paused.contains(&source) {
                continue;
            }
            let log = &world.kafka.input[source.0 as usize];
            let to = (*position as usize + world.rng.below(8)).min(log.len());
            for (at, slot) in log.iter().enumerate().take(to).skip(*position as usize) {
                if let Slot::Record { value, .. } = slot {
                    let (offset, value) = (InputOffset(at as u64), value.as_deref());
                    let input = Input { source, offset, appended_at: None, value };
                    if let Scanned::DeadLetter(_) = self.scan.record(&input, now) {
                        self.dead_letters.push_back(self.scan.await_dead_letter());
                    }
                }
            }
            *position = to as u64;
            if to == log.len() {
                self.scan.reached(source, InputOffset(to as u64));
            }
        }
    }

    fn send(&mut self, world: &World) {
        if let Some(round) = self.scan.flush(self.clock(world), false) {
            for (shard, bytes) in round.messages {
                self.in_flight.entry(shard).or_default().push_back((round.id, bytes));
            }
        }
    }

    /// The broker appends some of what is under way, in order for each partition.
    fn deliver(&mut self, world: &mut World) {
        for (shard, queue) in &mut self.in_flight {
            for _ in 0..world.rng.below(6) {
                let Some((round, bytes)) = queue.pop_front() else { break };
                world.kafka.log[shard.0 as usize].push(bytes);
                self.scan.acknowledged(round);
            }
        }
        if let Some(round) = self.dead_letters.pop_front() {
            self.scan.acknowledged(round);
        }
        if !world.draining && world.setup.fault_one_in > 0 && world.rng.one_in(400) {
            self.restart_scan(world);
        }
    }

    /// A delivery failed: a new producer, and everything again from the committed offsets. What the old producer had
    /// sent may have arrived or not.
    fn restart_scan(&mut self, world: &mut World) {
        world.note(format!("{:?} restarts its scan", self.member));
        self.scan = Scan::new(self.scan_params, matcher());
        for (shard, queue) in &mut self.in_flight {
            // Some time out in the producer; what it sends behind them may arrive all the same.
            queue.drain(..world.rng.below(queue.len() + 1)).for_each(drop);
            let arrived = world.rng.below(queue.len() + 1);
            world.kafka.log[shard.0 as usize].extend(queue.drain(..arrived).map(|(_, bytes)| bytes));
            queue.clear();
        }
        self.dead_letters.clear();
        self.positions.clear();
        self.unclaimed.append(&mut self.claimed);
        self.paused.clear();
    }

    fn scan_housekeeping(&mut self, world: &mut World) {
        let checked_at = self.clock(world);
        for &source in &self.claimed {
            let end = world.kafka.input[source.0 as usize].len() as u64;
            self.scan.end_observed(source, InputOffset(end), checked_at);
        }
        for (source, paused) in self.scan.align(global_watermark(world)) {
            if paused {
                self.paused.insert(source)
            } else {
                self.paused.remove(&source)
            };
        }
        let commits: Vec<_> = self.scan.take_committable();
        let offsets = commits.into_iter().map(|c| (c.source.0, c.offset.0, c.metadata.encode())).collect();
        world.kafka.commit_scan(self.scan_generation, offsets);
    }

    fn read_log(&mut self, world: &mut World) {
        if self.ending {
            return self.finish_transaction(world);
        }
        for shard in self.aggregator.undecided() {
            self.recover(world, shard);
        }
        for shard in self.owned_shards.clone() {
            let Some(position) = self.read_from.get_mut(&shard) else { continue };
            if self.aggregator.undecided().contains(&shard) {
                continue;
            }
            let log = &world.kafka.log[shard.0 as usize];
            let to = (*position as usize + world.rng.below(12)).min(log.len());
            for (at, bytes) in log.iter().enumerate().take(to).skip(*position as usize) {
                if (at as u64) < world.kafka.log_start[shard.0 as usize] {
                    // Out of range. A zombie may find that the owner has purged the log; the owner may not.
                    if world.kafka.aggregate.owners.get(&shard.0) == Some(&self.member) {
                        self.failure = Some(format!("{shard} reads purged offset {at}"));
                    }
                    return self.abort(world);
                }
                if let Err(refused) = self.aggregator.record(shard, LogOffset(at as u64), bytes) {
                    self.failure = Some(refused.to_string());
                }
            }
            *position = to as u64;
        }
        for notice in self.aggregator.take_notices() {
            // A producer that failed leaves gaps until the next claim; nothing in this world is ever lost for good.
            if matches!(notice.effect, Effect::DataLoss { .. }) {
                self.failure = Some(format!("{notice:?} without a loss"));
            }
        }
    }

    fn recover(&mut self, world: &mut World, shard: Shard) {
        let committed = match world.kafka.aggregate_offset(shard.0) {
            Fetched::Unstable => return,
            Fetched::None => None,
            Fetched::Some(offset, text) => Some((LogOffset(offset), text)),
        };
        let stored = world.redis.current.get(&shard.0);
        let snapshot = match stored.map(|bytes| snapshot::decode(bytes, self.params)) {
            _ if !world.redis.reachable => Stored::Unreachable,
            None => Stored::Nothing,
            Some(Err(error)) => Stored::Unreadable(error),
            Some(Ok(snapshot)) => Stored::Snapshot(Box::new(snapshot)),
        };
        let facts = Facts {
            committed,
            log_start: LogOffset(world.kafka.log_start[shard.0 as usize]),
            log_end: LogOffset(world.kafka.log[shard.0 as usize].len() as u64),
            log_topic: LOG_TOPIC,
            snapshot,
        };
        match self.aggregator.decide(shard, facts) {
            Ok(begin) => {
                world.note(format!("{:?} shard {shard} {begin:?}", self.member));
                self.read_from.insert(shard, begin.read_from.0);
            }
            Err(loss) => self.failure = Some(format!("aggregate stops: {loss}")),
        }
    }

    fn transact(&mut self, world: &mut World) {
        if self.ending {
            return self.finish_transaction(world);
        }
        if !self.aggregator.wants_commit(self.clock(world)) {
            return;
        }
        let transaction = self.aggregator.transaction();
        let offsets = transaction.offsets.iter().map(|(s, o, c)| (s.0, o.0, c.encode())).collect();
        let open = OpenTransaction {
            results: transaction.results,
            late: transaction.late,
            offsets,
            opened_at: world.now,
            life: self.member.life,
        };
        if world.kafka.open_transaction(self.member, self.aggregate_generation, open) {
            self.ending = true;
        } else {
            self.abort(world);
        }
    }

    /// EndTxn and its answer, which may be lost whatever the outcome.
    fn finish_transaction(&mut self, world: &mut World) {
        self.ending = false;
        let faulty = !world.draining && world.setup.fault_one_in > 0;
        let commit = !(faulty && world.rng.one_in(12));
        let done = world.kafka.end_transaction(self.member, commit);
        if !done || (faulty && world.rng.one_in(12)) {
            return self.abort(world);
        }
        let confirmed = self.aggregator.committed(self.clock(world));
        for (shard, bytes) in confirmed.snapshots {
            if world.redis.reachable {
                let before = world.redis.current.insert(shard.0, bytes);
                world.redis.previous.extend(before.map(|bytes| (shard.0, bytes)));
            }
        }
        for (shard, before) in confirmed.purgeable {
            if world.rng.one_in(3) {
                let start = &mut world.kafka.log_start[shard.0 as usize];
                *start = (*start).max(before.0);
            }
        }
    }

    /// The one way back: a new producer under the same transactional id, then recovery.
    fn abort(&mut self, world: &mut World) {
        world.note(format!("{:?} aborts", self.member));
        if world.kafka.producers.get(&self.member.worker) == Some(&self.member.life) {
            world.kafka.init_transactions(self.member);
        }
        self.aggregator.aborted();
    }

    /// Whether everything was claimed, sent, acknowledged and committed.
    pub fn is_quiet(&self, now: i64) -> bool {
        let now = Timestamp::from_millis(now);
        let writes_nothing = self.aggregator.undecided().is_empty() && !self.aggregator.wants_commit(now);
        self.unclaimed.is_empty() && self.scan.is_settled() && !self.ending && writes_nothing
    }

    pub fn states(&self) -> impl Iterator<Item = &Partition> {
        self.owned_shards.iter().filter_map(|&shard| self.aggregator.live_state(shard))
    }

    pub fn describe(&self) -> String {
        format!("{:?} {:?} {:?}", self.member, self.scan.views().collect::<Vec<_>>(), self.aggregator.views())
    }
}

fn scan_facts(world: &World, source: SourceId) -> start::Facts {
    let offsets = &world.kafka.scan.offsets;
    let committed = |p: u32| offsets.get(&p).map(|(offset, text)| (InputOffset(*offset), text.clone()));
    let shards = 0..world.setup.shards;
    let known: Vec<u64> =
        shards.filter_map(|p| world.kafka.aggregate.offsets.get(&p).map(|(offset, _)| *offset)).collect();
    let aggregate = match known.len() < world.setup.shards as usize {
        true => AggregateProgress::Incomplete,
        false if known.iter().all(|offset| *offset == 0) => AggregateProgress::Fresh,
        false => AggregateProgress::Advanced,
    };
    let range = |log: &Vec<Slot>| LogRange { start: InputOffset(0), end: InputOffset(log.len() as u64) };
    start::Facts {
        source,
        committed: committed(source.0),
        committed_first: committed(0),
        logs: world.kafka.input.iter().map(range).collect(),
        topic: INPUT_TOPIC,
        log_topic: LOG_TOPIC,
        aggregate,
    }
}

fn global_watermark(world: &World) -> Option<Timestamp> {
    let commits = world.kafka.aggregate.offsets.values();
    let watermarks = commits.map(|(_, text)| AggregateCommit::decode(text).unwrap().watermark);
    watermarks.min().flatten()
}
