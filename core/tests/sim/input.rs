//! The input topic: what is written to it, what a reader sees of it, and what retention takes away.

use crate::rng::Rng;
use crate::setup::Setup;

/// One offset of a partition.
pub enum Slot {
    Record {
        value: Option<Vec<u8>>,
        appended_at: i64,
    },
    /// What compaction, an aborted transaction or a marker left.
    Hole,
}

#[derive(Default)]
pub struct Partition {
    pub slots: Vec<Slot>,
    /// The first offset that retention has left; the slots before it stay here for the checker.
    pub start: u64,
    /// An open transaction of the input's producer: records from here on can't be read yet.
    pub stable: Option<u64>,
    quiet_until: i64,
}

impl Partition {
    pub fn end(&self) -> u64 {
        self.slots.len() as u64
    }

    pub fn readable_end(&self) -> u64 {
        self.stable.unwrap_or(self.end())
    }
}

pub struct Input {
    pub partitions: Vec<Partition>,
    /// Ranges that retention removed before the scan group had committed them.
    pub unread: Vec<(u32, u64, u64)>,
    /// What is added to the clock to give event time.
    pub shift_ms: i64,
}

impl Input {
    pub fn new(setup: &Setup) -> Input {
        let mut partitions = Vec::new();
        partitions.resize_with(setup.sources, Partition::default);
        Input { partitions, unread: Vec::new(), shift_ms: -setup.replay_ms }
    }

    /// The application logs something somewhere.
    pub fn produce(&mut self, now: i64, setup: &Setup, rng: &mut Rng) {
        let at = rng.below(self.partitions.len());
        let partition = &mut self.partitions[at];
        if partition.quiet_until > now {
            return;
        }
        if rng.one_in(40) {
            partition.quiet_until = now + rng.range(500, 6_000);
        }
        let before = partition.end();
        for _ in 0..=rng.below(6) {
            let hole = rng.one_in(12);
            let slot = if hole { Slot::Hole } else { record(now, self.shift_ms, setup, rng) };
            partition.slots.push(slot);
        }
        if partition.stable.is_none() && rng.one_in(30) {
            // What could be read can still be read.
            partition.stable = Some(before + rng.below(2) as u64);
        }
    }

    /// Open transactions of the input's producers end, some of them aborted: that leaves holes.
    pub fn settle(&mut self, rng: &mut Rng, at_once: bool) {
        for partition in &mut self.partitions {
            if let Some(stable) = partition.stable
                && (at_once || rng.one_in(200))
            {
                partition.stable = None;
                if rng.one_in(2) {
                    let open = partition.slots.iter_mut().skip(stable as usize);
                    open.take(3).for_each(|slot| *slot = Slot::Hole);
                }
            }
        }
    }

    /// Retention: the partition now begins somewhere later.
    pub fn remove(&mut self, partition: u32, committed: Option<u64>, rng: &mut Rng) -> u64 {
        let log = &mut self.partitions[partition as usize];
        let end = log.readable_end();
        let start = log.start + rng.below((end - log.start + 1) as usize) as u64;
        let from = committed.unwrap_or(0).max(log.start);
        if from < start {
            self.unread.push((partition, from, start));
        }
        log.start = start;
        start
    }

    /// A record in each partition beyond everything that came before.
    pub fn close(&mut self, now: i64) {
        for partition in &mut self.partitions {
            // Not in a transaction that is aborted.
            partition.stable = None;
            let value = line(now + self.shift_ms, "Low", r#""end""#, "end");
            partition.slots.push(Slot::Record { value: Some(value.into_bytes()), appended_at: now });
        }
    }
}

fn line(time: i64, severity: &str, user: &str, content: &str) -> String {
    format!(r#"{{"timestamp":{time},"severity":"{severity}","user_id":{user},"content":"{content}"}}"#)
}

fn record(now: i64, shift_ms: i64, setup: &Setup, rng: &mut Rng) -> Slot {
    let back = match rng.below(20) {
        0 => rng.range(0, 10_000),
        1..5 => rng.range(0, 1_000),
        _ => rng.range(0, setup.out_of_orderness_ms),
    };
    let time = now + shift_ms - back;
    let user = format!(r#""u{}""#, rng.below(4));
    let severity = ["High", "Critical", "Low"][rng.below(3)];
    let content = ["a crash", "CRASH!", "cr\\u0061sh", "fine"][rng.below(4)];
    let value = match rng.below(50) {
        0 => None,
        1 => Some("{not json".to_owned()),
        2 => Some(line(now + setup.future_skew_ms * 10, severity, &user, content)),
        3 => Some(line(time, "High", "7", "a crash")),
        4 => Some(r#"{"severity":"High","user_id":"u0","content":"crash"}"#.to_owned()),
        _ => Some(line(time, severity, &user, content)),
    };
    Slot::Record { value: value.map(String::into_bytes), appended_at: now }
}
