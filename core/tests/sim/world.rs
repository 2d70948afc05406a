//! One seeded run: a cluster, its faults, and the scheduler that picks who moves next.

use std::collections::BTreeSet;

use crashmonitor_core::aggregate::Partition;
use crashmonitor_core::ids::Shard;
use crashmonitor_core::time::Timestamp;

use crate::checker::Checker;
use crate::faults::Redis;
use crate::group::Member;
use crate::kafka::{Kafka, Request};
use crate::process::Process;
use crate::rng::Rng;
use crate::setup::{Fault, Requests, Setup};

/// When the runs begin, a moment in 2026.
const BEGINNING: i64 = 1_768_142_570_000;
/// Once faults have stopped, everybody has arrived within so many steps.
const DRAIN_STEPS_MAX: usize = 60_000;
const NO_FAULTS: Requests = Requests { commit: 0, write: 0, offsets: 0, end: 0, other: 0 };

pub struct World {
    pub setup: Setup,
    pub rng: Rng,
    pub now: i64,
    pub kafka: Kafka,
    pub redis: Redis,
    pub processes: Vec<Process>,
    /// How many workers there shall be; their names are the numbers below.
    pub names: usize,
    /// When which name is started again.
    pub restarts: Vec<(i64, usize)>,
    /// Names that are started in the newer version.
    pub newer: BTreeSet<usize>,
    /// To be killed once it has moved.
    pub kill: Vec<Member>,
    /// The most that a clock was ever ahead.
    pub clock_ahead_ms: i64,
    /// Dead letters that arrived, by partition and offset.
    pub dead_letters: BTreeSet<(u32, u64)>,
    /// What shards have said will never be counted: partition, from, to.
    pub losses: BTreeSet<(u32, u64, u64)>,
    pub checker: Checker,
    failure: Option<String>,
    story: Option<Vec<String>>,
    end_time: i64,
    life: u64,
    /// Faults are over; the run drains.
    draining: bool,
}

/// What a run has come to.
pub struct Verdict {
    pub outcome: Result<(), String>,
    pub story: Vec<String>,
    pub steps: usize,
}

impl World {
    pub fn new(seed: u64, tells: bool) -> World {
        let mut rng = Rng::new(seed);
        let setup = Setup::draw(&mut rng);
        let mut world = World {
            kafka: Kafka::new(&setup),
            names: setup.workers,
            setup,
            rng,
            now: BEGINNING,
            redis: Redis { is_reachable: true, ..Redis::default() },
            processes: Vec::new(),
            restarts: Vec::new(),
            newer: BTreeSet::new(),
            kill: Vec::new(),
            clock_ahead_ms: 0,
            dead_letters: BTreeSet::new(),
            losses: BTreeSet::new(),
            checker: Checker::default(),
            failure: None,
            story: tells.then(Vec::new),
            end_time: 0,
            life: 0,
            draining: false,
        };
        let setup = format!("{:?}", world.setup);
        world.note(|| setup);
        (0..world.names).for_each(|name| world.start(name));
        world
    }

    /// Tells what happens, if anybody listens.
    pub fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(format!("{:>6} {}", self.now - BEGINNING, what()));
        }
    }

    /// The first thing that must not happen ends the run.
    pub fn fail(&mut self, what: String) {
        self.note(|| format!("FAILS: {what}"));
        self.failure.get_or_insert(what);
    }

    /// Whether the seed has this fault, and faults are not over.
    pub fn may(&self, fault: Fault) -> bool {
        self.setup.has(fault) && !self.draining
    }

    pub fn request_faults(&self) -> Requests {
        if self.draining { NO_FAULTS } else { self.setup.requests }
    }

    /// A request arrives within `within_ms` from now; without faults at once.
    pub fn delay(&mut self, within_ms: i64, request: Request) {
        let within_ms = if self.draining { 0 } else { within_ms };
        let at = self.now + self.rng.range(0, within_ms);
        self.kafka.delay(at, request);
    }

    /// Members are told apart by it, and the younger of a name fences the older.
    pub fn next_life(&mut self) -> u64 {
        self.life += 1;
        self.life
    }

    pub fn start(&mut self, name: usize) {
        let member = Member { worker: name, life: self.next_life() };
        let clock_ms = if self.draining { 0 } else { self.draw_clock() };
        let is_newer = self.newer.contains(&name);
        self.note(|| format!("{member} starts, clock {clock_ms} ms off, newer {is_newer}"));
        self.processes.push(Process::new(member, clock_ms, is_newer, &self.setup));
    }

    /// A process that is not paused.
    pub fn any_process(&mut self) -> Option<usize> {
        let now = self.now;
        let running =
            || self.processes.iter().enumerate().filter(|(_, p)| !p.is_paused(now)).map(|(at, _)| at);
        let count = running().count();
        let chosen = self.rng.below(count);
        running().nth(chosen)
    }

    /// Lends a process out of the world to something that needs both.
    pub fn with_any(&mut self, act: impl FnOnce(&mut Process, &mut World)) {
        let Some(at) = self.any_process() else { return };
        let mut process = self.processes.swap_remove(at);
        act(&mut process, self);
        self.processes.push(process);
    }

    fn step(&mut self) {
        self.now += self.rng.range(0, if self.draining { 16 } else { 9 });
        for process in self.processes.iter().filter(|process| !process.is_paused(self.now)) {
            self.kafka.scan.heartbeat(process.scanner.client.member, self.now);
            self.kafka.aggregate.heartbeat(process.counter.client.member, self.now);
        }
        for (shard, bytes) in self.kafka.tick(self.now, &mut self.rng, self.draining) {
            self.redis.save(shard, bytes);
        }
        if !self.draining {
            if self.rng.one_in(self.setup.fault_one_in) {
                self.fault();
            }
            if self.rng.one_in(8) {
                self.kafka.input.produce(self.now, &self.setup, &mut self.rng);
            }
        }
        while let Some(due) = self.restarts.iter().position(|(at, _)| *at <= self.now) {
            let (_, name) = self.restarts.swap_remove(due);
            if name < self.names {
                self.start(name);
            }
        }
        self.with_any(|process, world| process.step(world));
        self.bury();
        if let Err(what) = self.checker.look(&mut self.kafka, &self.setup) {
            self.fail(what);
        }
    }

    /// Processes that have ended, and what comes after them.
    fn bury(&mut self) {
        let (kill, draining) = (std::mem::take(&mut self.kill), self.draining);
        // In the end somebody replaces what has halted.
        let is_replaced =
            |process: &Process| kill.contains(&process.member) || (draining && process.is_halted());
        let is_over = |process: &Process| process.is_over() || is_replaced(process);
        while let Some(at) = self.processes.iter().position(is_over) {
            let mut process = self.processes.swap_remove(at);
            process.die(self);
            let name = process.member.worker;
            let is_alone = self.processes.iter().all(|other| other.member.worker != name)
                && self.restarts.iter().all(|(_, other)| *other != name);
            self.note(|| format!("{} is over", process.member));
            if is_alone && name < self.names {
                let delay_ms = self.rng.range(0, 300);
                self.restarts.push((self.now + delay_ms, name));
            }
        }
    }

    /// Runs the seed.
    pub fn run(mut self) -> Verdict {
        let mut steps = 0;
        let outcome = self.play(&mut steps);
        Verdict { outcome, story: self.story.unwrap_or_default(), steps }
    }

    fn play(&mut self, steps: &mut usize) -> Result<(), String> {
        while *steps < self.setup.steps {
            self.step();
            *steps += 1;
            self.failure.take().map_or(Ok(()), Err)?;
        }
        self.stop_faults();
        let limit = *steps + DRAIN_STEPS_MAX;
        while let Some(what) = self.waits_for() {
            self.step();
            *steps += 1;
            self.failure.take().map_or(Ok(()), Err)?;
            if *steps == limit {
                let processes: Vec<String> = self.processes.iter_mut().map(Process::describe).collect();
                return Err(format!(
                    "does not come to rest, waits for {what}: {} names, {}",
                    self.names,
                    processes.join("\n")
                ));
            }
        }
        self.note(|| "all has arrived".to_owned());
        self.checker.judge(&self.kafka, &self.setup, &self.dead_letters, &self.losses, self.clock_ahead_ms)
    }

    /// From here on everybody must arrive, within a bound.
    fn stop_faults(&mut self) {
        self.note(|| "faults are over".to_owned());
        self.draining = true;
        self.redis.is_reachable = true;
        let now = self.now;
        self.newer = if self.newer.is_empty() { BTreeSet::new() } else { (0..self.names).collect() };
        for at in 0..self.processes.len() {
            let process = &mut self.processes[at];
            process.paused_until = process.paused_until.min(now);
            process.clock_ms = 0;
            if process.is_halted() {
                self.kill.push(process.member);
            } else if !self.newer.is_empty() && !process.is_newer && !process.is_ending() {
                process.end();
            }
        }
        self.restarts.iter_mut().for_each(|(at, _)| *at = now);
        if !self.setup.silent_end {
            // Beyond everything that came before: all windows close.
            self.now += 60_000;
            self.kafka.input.close(self.now);
            self.end_time = self.now + self.kafka.input.shift_ms;
        }
    }

    /// What is still to be waited for; None if everything has arrived.
    fn waits_for(&mut self) -> Option<&'static str> {
        if !self.kafka.is_quiet() || !self.restarts.is_empty() {
            return Some("requests and processes under way");
        }
        if self.processes.len() != self.names {
            return Some("processes that end");
        }
        let is_read = |(p, log): (u32, &crate::input::Partition)| {
            self.kafka.scan.offsets.get(&p).is_some_and(|(offset, _)| *offset == log.end())
        };
        if !(0..).zip(&self.kafka.input.partitions).all(is_read) {
            return Some("commits of the input's end");
        }
        let now = self.now;
        if !self.processes.iter_mut().all(|process| process.is_quiet(now)) {
            return Some("loops that have something to do");
        }
        let states: Vec<_> = self.processes.iter().flat_map(|process| process.counter.states()).collect();
        if states.len() != self.setup.shards as usize {
            return Some("shards that count");
        }
        let is_at_end = |(shard, state): &(Shard, &Partition)| {
            state.position().0 == self.kafka.log[shard.0 as usize].end()
        };
        if !states.iter().all(is_at_end) {
            return Some("frames that are not counted");
        }
        // Every window is closed: behind the end markers, or because all is quiet.
        let passed = Timestamp::from_millis(self.end_time - self.setup.out_of_orderness_ms);
        let is_closed = |(_, state): &(Shard, &Partition)| match state.watermark() {
            Some(watermark) if !self.setup.silent_end => watermark >= passed,
            // Nothing but silence, or nothing at all: who begins at the end may never have seen a record.
            _ => state.open_windows() == 0,
        };
        if !states.iter().all(is_closed) {
            return Some("windows that are open");
        }
        None
    }
}
