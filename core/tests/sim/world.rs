//! One seeded run: a cluster, its faults, and the scheduler that picks who moves next.

use std::collections::BTreeMap;

use crate::checker;
use crate::kafka::{INPUT_TOPIC, Kafka, Member, Slot};
use crate::rng::Rng;
use crate::worker::Worker;

/// What a seed decides before the run.
#[derive(Clone, Debug)]
pub struct Setup {
    pub sources: usize,
    pub shards: u32,
    pub workers: usize,
    pub final_mode: bool,
    pub earliest: bool,
    pub window_ms: i64,
    pub lateness_ms: i64,
    pub out_of_orderness_ms: i64,
    pub idle_ms: i64,
    pub drift_ms: i64,
    pub threshold: u64,
    /// How far a worker's clock may be ahead.
    pub clock_skew_ms: i64,
    /// How far the events lie in the past.
    pub replay_ms: i64,
    /// One step in so many is a fault; 0 for none.
    pub fault_one_in: usize,
    pub steps: usize,
}

impl Setup {
    fn draw(rng: &mut Rng) -> Setup {
        Setup {
            sources: 1 + rng.below(4),
            shards: 1 + rng.below(3) as u32,
            workers: 1 + rng.below(3),
            final_mode: rng.one_in(2),
            earliest: true,
            window_ms: 1_000,
            lateness_ms: [0, 1_500, 3_000][rng.below(3)],
            out_of_orderness_ms: 200,
            idle_ms: 2_000,
            drift_ms: 20_000,
            threshold: 2,
            clock_skew_ms: if rng.one_in(3) { 5_000 } else { 0 },
            replay_ms: if rng.one_in(3) { 86_400_000 } else { 0 },
            fault_one_in: [0, 40, 15, 6][rng.below(4)],
            steps: 300 + rng.below(900),
        }
    }
}

/// Snapshots by shard, with the one before: a store may roll back.
#[derive(Default)]
pub struct Redis {
    pub current: BTreeMap<u32, Vec<u8>>,
    pub previous: BTreeMap<u32, Vec<u8>>,
    pub reachable: bool,
}

pub struct World {
    pub setup: Setup,
    pub rng: Rng,
    pub now: i64,
    pub kafka: Kafka,
    pub redis: Redis,
    pub workers: Vec<Worker>,
    /// Lives of workers that were replaced but may still act.
    pub zombies: Vec<Worker>,
    pub log: Vec<String>,
    event_base: i64,
    end_time: i64,
    life: u64,
    /// Faults are over; the run drains.
    pub draining: bool,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut rng = Rng::new(seed);
        let setup = Setup::draw(&mut rng);
        let now = 1_768_142_570_000;
        let mut kafka = Kafka::default();
        kafka.input.resize_with(setup.sources, Vec::new);
        kafka.log.resize_with(setup.shards as usize, Vec::new);
        kafka.log_start = vec![0; setup.shards as usize];
        let redis = Redis { reachable: true, ..Redis::default() };
        let event_base = now - setup.replay_ms;
        let (workers, zombies, log) = (Vec::new(), Vec::new(), Vec::new());
        let mut world = World {
            setup,
            rng,
            now,
            kafka,
            redis,
            workers,
            zombies,
            log,
            event_base,
            end_time: 0,
            life: 0,
            draining: false,
        };
        for _ in 0..world.setup.workers {
            world.start_worker(world.workers.len());
        }
        world.rebalance(true);
        world.rebalance(false);
        world
    }

    pub fn note(&mut self, what: String) {
        self.log.push(format!("{} {what}", self.now));
    }

    fn start_worker(&mut self, name: usize) {
        self.life += 1;
        let clock_ms = if self.draining { 0 } else { self.rng.range(0, self.setup.clock_skew_ms + 1) };
        let worker = Worker::new(Member { worker: name, life: self.life }, clock_ms, &self.setup);
        self.kafka.init_transactions(worker.member);
        if name < self.workers.len() {
            self.workers[name] = worker;
        } else {
            self.workers.push(worker);
        }
    }

    /// A new generation: every partition to a random worker. Members learn of it at their next step.
    pub fn rebalance(&mut self, scan: bool) {
        let members: Vec<Member> = self.workers.iter().map(|worker| worker.member).collect();
        let partitions = if scan { self.setup.sources as u32 } else { self.setup.shards };
        let owners = (0..partitions).map(|p| (p, members[self.rng.below(members.len())])).collect();
        let group = if scan { &mut self.kafka.scan } else { &mut self.kafka.aggregate };
        group.generation += 1;
        group.owners = owners;
        let generation = group.generation;
        self.note(format!("rebalance {} generation {generation}", if scan { "scan" } else { "aggregate" }));
    }

    fn produce(&mut self) {
        let partition = self.rng.below(self.setup.sources);
        for _ in 0..=self.rng.below(6) {
            let slot = if self.rng.one_in(12) { Slot::Hole } else { self.record() };
            self.kafka.input[partition].push(slot);
        }
    }

    fn record(&mut self) -> Slot {
        let back = match self.rng.below(20) {
            0 => self.rng.range(0, 10_000),
            1..5 => self.rng.range(0, 1_000),
            _ => self.rng.range(0, self.setup.out_of_orderness_ms),
        };
        let time = self.now - (1_768_142_570_000 - self.event_base) - back;
        let user = self.rng.below(4);
        let (severity, content) =
            (["High", "Critical", "Low"][self.rng.below(3)], ["crash", "crash", "fine"][self.rng.below(3)]);
        let value = match self.rng.below(25) {
            0 => None,
            1 => Some(b"{not json".to_vec()),
            _ => Some(
                format!(r#"{{"timestamp":{time},"severity":"{severity}","user_id":"u{user}","content":"a {content}"}}"#)
                    .into_bytes(),
            ),
        };
        Slot::Record { value, appended_at: self.now }
    }

    fn fault(&mut self) {
        let name = self.rng.below(self.workers.len());
        match self.rng.below(9) {
            0 => {
                self.note(format!("crash worker {name}"));
                self.start_worker(name);
                self.rebalance_both();
            }
            1 => {
                // Stopped, replaced under another name's assignment, and resumed later: it still believes.
                self.note(format!("pause worker {name}"));
                let zombie = std::mem::replace(
                    &mut self.workers[name],
                    Worker::new(Member { worker: usize::MAX, life: 0 }, 0, &self.setup),
                );
                self.zombies.push(zombie);
                if self.rng.one_in(2) {
                    self.start_worker(name);
                } else {
                    // The same name does not come back: only the group's generation fences its transactions.
                    let fresh = 100 + self.life as usize;
                    self.life += 1;
                    let member = Member { worker: fresh, life: self.life };
                    self.workers[name] = Worker::new(member, 0, &self.setup);
                    self.kafka.init_transactions(member);
                }
                self.rebalance_both();
            }
            2 => self.rebalance(true),
            3 => self.rebalance(false),
            4 => {
                self.note("redis loses everything".into());
                self.redis.current.clear();
                self.redis.previous.clear();
            }
            5 => {
                self.note("redis rolls back".into());
                self.redis.current = self.redis.previous.clone();
            }
            6 => {
                for bytes in self.redis.current.values_mut() {
                    let at = bytes.len() / 2;
                    bytes[at] ^= 0x55;
                }
            }
            7 => self.redis.reachable = !self.redis.reachable,
            _ => {
                let partition = self.setup.sources;
                if partition < 6 {
                    self.note(format!("input gets partition {partition}"));
                    self.kafka.input.push(Vec::new());
                    self.setup.sources += 1;
                    self.rebalance(true);
                }
            }
        }
    }

    fn rebalance_both(&mut self) {
        self.rebalance(true);
        self.rebalance(false);
    }

    fn step(&mut self) {
        self.now += self.rng.range(1, 60);
        self.kafka.expire_transactions(self.now, 3_000);
        if !self.draining && self.setup.fault_one_in > 0 && self.rng.one_in(self.setup.fault_one_in) {
            self.fault();
        }
        let quiet = (self.now / 10_000) % 3 == 2;
        let silent = self.draining || (quiet && self.rng.below(10) > 0);
        if !silent && self.rng.one_in(3) {
            self.produce();
        }
        let zombie_moves = !self.zombies.is_empty() && self.rng.one_in(4);
        let at = if zombie_moves {
            self.rng.below(self.zombies.len())
        } else {
            self.rng.below(self.workers.len())
        };
        let list = if zombie_moves { &mut self.zombies } else { &mut self.workers };
        let blank = Worker::new(Member { worker: usize::MAX, life: 0 }, 0, &self.setup);
        let mut worker = std::mem::replace(&mut list[at], blank);
        worker.step(self, zombie_moves);
        let list = if zombie_moves { &mut self.zombies } else { &mut self.workers };
        list[at] = worker;
    }

    /// Runs the seed; an error tells what is wrong and the end of the story.
    pub fn run(mut self) -> Result<(), String> {
        let verdict = self.play();
        verdict.map_err(|what| {
            let tail = self.log.len().saturating_sub(40);
            format!("{what}\nsetup: {:?}\n{}", self.setup, self.log[tail..].join("\n"))
        })
    }

    fn play(&mut self) -> Result<(), String> {
        for _ in 0..self.setup.steps {
            self.step();
            checker::nothing_doubled(&self.kafka, &self.setup)?;
            self.complaint()?;
        }
        self.drain()?;
        checker::complete(&self.kafka, &self.setup)
    }

    fn complaint(&self) -> Result<(), String> {
        let all = self.workers.iter().chain(&self.zombies);
        all.filter_map(|worker| worker.failure.clone()).next().map_or(Ok(()), Err)
    }

    /// Faults are over: everybody must arrive, within a bound.
    fn drain(&mut self) -> Result<(), String> {
        self.note("drain".into());
        self.draining = true;
        self.zombies.clear();
        self.redis.reachable = true;
        for name in 0..self.workers.len() {
            self.start_worker(name);
        }
        self.rebalance_both();
        // One record in each partition, beyond everything, closes all windows.
        self.now += 60_000;
        let time = self.now - (1_768_142_570_000 - self.event_base);
        self.end_time = time;
        for log in &mut self.kafka.input {
            let value = format!(r#"{{"timestamp":{time},"severity":"Low","user_id":"end","content":"end"}}"#);
            log.push(Slot::Record { value: Some(value.into_bytes()), appended_at: self.now });
        }
        for _ in 0..6_000 {
            self.step();
            self.complaint()?;
            if self.arrived() {
                return Ok(());
            }
        }
        Err(format!(
            "does not come to rest: {:#?}",
            self.workers.iter().map(Worker::describe).collect::<Vec<_>>()
        ))
    }

    fn arrived(&self) -> bool {
        let read_all = |p: u32, log: &Vec<Slot>| {
            self.kafka.scan.offsets.get(&p).is_some_and(|(offset, _)| *offset == log.len() as u64)
        };
        let scanned = (0..).zip(&self.kafka.input).all(|(p, log)| read_all(p, log));
        // The watermark has passed the end markers: every window before them is closed and written.
        let passed = self.end_time - self.setup.out_of_orderness_ms;
        let states: Vec<_> = self.workers.iter().flat_map(Worker::states).collect();
        scanned
            && self.workers.iter().all(|worker| worker.is_quiet(self.now))
            && states.len() == self.setup.shards as usize
            && states.iter().all(|s| s.watermark().is_some_and(|w| w.as_millis() >= passed))
    }

    pub fn topic_partitions(&self) -> u32 {
        debug_assert_ne!(INPUT_TOPIC.0, [0; 16]);
        self.setup.sources as u32
    }
}
