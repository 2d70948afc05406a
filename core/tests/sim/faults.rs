//! What goes wrong between two steps: the seed says which faults there are, and the dice when.

use std::collections::BTreeMap;

use crate::setup::Fault;
use crate::world::World;

/// Snapshots by shard, with the ones before: a store may roll back.
#[derive(Default)]
pub struct Redis {
    pub current: BTreeMap<u32, Vec<u8>>,
    pub previous: BTreeMap<u32, Vec<u8>>,
    pub is_reachable: bool,
}

impl Redis {
    pub fn save(&mut self, shard: u32, bytes: Vec<u8>) {
        if self.is_reachable
            && let Some(before) = self.current.insert(shard, bytes)
        {
            self.previous.insert(shard, before);
        }
    }
}

/// More partitions than this the input does not get, and more workers there are not.
const SOURCES_MAX: usize = 6;
const WORKERS_MAX: usize = 4;

impl World {
    pub fn fault(&mut self) {
        let fault = self.setup.faults[self.rng.below(self.setup.faults.len())];
        self.note(|| format!("fault: {fault:?}"));
        match fault {
            Fault::Crash => self.crash(),
            Fault::Pause => {
                let (pause_ms, deaf_ms) = (self.rng.range(0, 4_000), self.rng.range(0, 400));
                let now = self.now;
                self.with_any(|process, _| process.pause(now, pause_ms, deaf_ms));
            }
            Fault::Twin => self.twin(),
            Fault::Restart => self.with_any(|process, _| {
                if !process.is_ending() {
                    process.end();
                }
            }),
            Fault::Scale => self.scale(),
            Fault::RebalanceScan => self.kafka.scan.rebalance(self.now),
            Fault::RebalanceAggregate => self.kafka.aggregate.rebalance(self.now),
            Fault::RedisLost => {
                let is_reachable = self.redis.is_reachable;
                self.redis = Redis { is_reachable, ..Redis::default() };
            }
            Fault::RedisBack => self.redis.current = self.redis.previous.clone(),
            Fault::RedisCorrupt => {
                for bytes in self.redis.current.values_mut() {
                    let at = self.rng.below(bytes.len());
                    bytes[at] ^= 1 << self.rng.below(8);
                }
            }
            Fault::RedisAhead => self.redis_ahead(),
            Fault::RedisUnreachable => self.redis.is_reachable = !self.redis.is_reachable,
            Fault::ClockJump => {
                let clock_ms = self.draw_clock();
                self.with_any(|process, _| process.clock_ms = clock_ms);
            }
            Fault::AddPartition => self.add_partition(),
            Fault::Retention => self.retention(),
            Fault::Upgrade => self.with_any(|process, world| {
                if !process.is_newer && !process.is_ending() {
                    world.newer.insert(process.member.worker);
                    process.end();
                } else if process.is_halted() {
                    world.newer.insert(process.member.worker);
                    process.paused_until = i64::MAX;
                    world.kill.push(process.member);
                }
            }),
            Fault::DeliveryFails => self.with_any(|process, world| process.scanner.stall(world)),
        }
    }

    /// At most an hour off, if the seed says so, and seldom.
    pub fn draw_clock(&mut self) -> i64 {
        let skew_ms = self.setup.clock_skew_ms;
        let clock_ms = self.rng.range(-skew_ms, skew_ms + 1);
        self.clock_ahead_ms = self.clock_ahead_ms.max(clock_ms);
        clock_ms
    }

    fn crash(&mut self) {
        let Some(at) = self.any_process() else { return };
        let mut process = self.processes.remove(at);
        process.die(self);
        let delay_ms = [self.rng.range(0, 300), self.rng.range(0, 3_000)][self.rng.below(2)];
        self.restarts.push((self.now + delay_ms, process.member.worker));
    }

    /// The node is thought dead; its pod is started elsewhere, and then the node comes back.
    fn twin(&mut self) {
        let Some(at) = self.any_process() else { return };
        let (pause_ms, deaf_ms) = (self.rng.range(0, 4_000), self.rng.range(0, 400));
        let (now, name) = (self.now, self.processes[at].member.worker);
        if name < self.names {
            self.processes[at].pause(now, pause_ms, deaf_ms);
            self.start(name);
        }
    }

    fn scale(&mut self) {
        if self.rng.one_in(2) && self.names < WORKERS_MAX {
            self.names += 1;
            self.start(self.names - 1);
        } else if self.names > 1 {
            self.names -= 1;
            let gone = self.names;
            for process in self.processes.iter_mut().filter(|p| p.member.worker == gone && !p.is_ending()) {
                process.end();
            }
        }
    }

    fn redis_ahead(&mut self) {
        let shards = 0..self.setup.shards;
        let states =
            shards.flat_map(|s| self.processes.iter().filter_map(move |p| Some((s, p.counter.ahead(s)?))));
        let states: Vec<_> = states.collect();
        self.redis.current.extend(states);
    }

    fn add_partition(&mut self) {
        if self.kafka.input.partitions.len() < SOURCES_MAX {
            self.kafka.input.partitions.push(Default::default());
            self.kafka.scan.partitions += 1;
            self.kafka.scan.rebalance(self.now);
        }
    }

    fn retention(&mut self) {
        let partition = self.rng.below(self.kafka.input.partitions.len()) as u32;
        let committed = self.kafka.scan.offsets.get(&partition).map(|(offset, _)| *offset);
        let start = self.kafka.input.remove(partition, committed, &mut self.rng);
        self.note(|| format!("partition {partition} begins at {start}"));
    }
}
