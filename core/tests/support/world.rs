//! Random logs: steps that scanners, zombies and faults take, turned into the messages of one shard's log.
//!
//! The record at an offset of a source is always the same, as in Kafka, whoever reads it and however often.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeSet;

use crashmonitor_core::frame::Kind;
use crashmonitor_core::time::Timestamp;
use proptest::prelude::*;

use super::log::{INPUT, Said, at, claim, encode, lost, records};

/// One thing that happens. Numbers choose among what there is.
#[derive(Clone, Debug)]
pub enum Step {
    /// The owner of a source reads on and says so.
    Read { source: u32, count: u64 },
    /// The owner finds nothing more.
    Idle { source: u32, wait_ms: i64 },
    /// Another owner begins some records before what was counted.
    Restart { source: u32, back: u64 },
    /// A former owner says what it read.
    Zombie { source: u32, back: u64, count: u64, idle: bool },
    /// An earlier message comes once more.
    Repeat { back: usize },
    /// A frame is lost on its way; the next comes behind the gap.
    Skip { source: u32, count: u64 },
    /// Records can't be read any more.
    Lose { source: u32, count: u64 },
    /// The input gets a partition.
    Add,
}

pub fn step() -> impl Strategy<Value = Step> {
    let source = 0..4_u32;
    prop_oneof![
        12 => (source.clone(), 0..20_u64).prop_map(|(source, count)| Step::Read { source, count }),
        3 => (source.clone(), 0..5_000_i64).prop_map(|(source, wait_ms)| Step::Idle { source, wait_ms }),
        2 => (source.clone(), 0..30_u64).prop_map(|(source, back)| Step::Restart { source, back }),
        2 => (source.clone(), 0..30_u64, 0..40_u64, any::<bool>())
            .prop_map(|(source, back, count, idle)| Step::Zombie { source, back, count, idle }),
        2 => (0..20_usize).prop_map(|back| Step::Repeat { back }),
        1 => (source.clone(), 1..9_u64).prop_map(|(source, count)| Step::Skip { source, count }),
        1 => (source, 1..9_u64).prop_map(|(source, count)| Step::Lose { source, count }),
        1 => Just(Step::Add),
    ]
}

/// Steps, grouped as they share a message.
pub fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    prop::collection::vec(prop::collection::vec(step(), 1..4), 1..50)
}

#[derive(Clone, Debug)]
struct Source {
    epoch: u64,
    /// Where the owner goes on.
    reads: u64,
    /// What a shard that does everything right has counted up to.
    covered: u64,
    lost: BTreeSet<u64>,
    /// A frame of this owner was lost: nothing that it says counts.
    broken: bool,
    base_ms: i64,
}

/// How a message differs from what a good scanner would have written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nature {
    Good,
    Zombie,
    Repeat,
    /// Behind a gap.
    Refused,
}

/// The log as it comes to be.
#[derive(Clone, Debug)]
pub struct World {
    /// Up to how late records come, in milliseconds of event time.
    max_late_ms: i64,
    sources: Vec<Source>,
    pub messages: Vec<(Nature, Vec<u8>)>,
}

/// Any number to a number that looks random.
fn mix(source: u32, offset: u64, salt: u64) -> u64 {
    let mut x = (u64::from(source) << 32) ^ offset ^ (salt << 48);
    for _ in 0..3 {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    x ^ (x >> 31)
}

impl World {
    /// Runs `steps` over an input that begins with two partitions, then brings all sources far ahead, so that every
    /// window closes.
    pub fn run(steps: &[Vec<Step>], max_late_ms: i64) -> World {
        let mut world = World { max_late_ms, sources: Vec::new(), messages: Vec::new() };
        world.take(&Step::Add);
        world.take(&Step::Add);
        for group in steps {
            world.take_together(group);
        }
        world.drain();
        world
    }

    /// The events that are to be counted or late, each once: (source, offset, time, user).
    pub fn events(&self) -> Vec<(u32, u64, i64, String)> {
        let all = (0_u32..).zip(&self.sources).flat_map(|(id, source)| {
            let offsets = (0..source.covered).filter(|offset| !source.lost.contains(offset));
            offsets.filter_map(move |offset| {
                self.crash(id, offset).map(|(time, user)| (id, offset, time.as_millis(), user))
            })
        });
        all.collect()
    }

    fn time(&self, source: u32, offset: u64) -> i64 {
        let late = i64::try_from(mix(source, offset, 1) % 1_000).unwrap() * self.max_late_ms / 1_000;
        self.sources[source as usize].base_ms + offset.cast_signed() * 700 - late
    }

    fn crash(&self, source: u32, offset: u64) -> Option<(Timestamp, String)> {
        let time = Timestamp::from_millis(self.time(source, offset));
        let user = format!("user_{}", mix(source, offset, 3) % 3);
        mix(source, offset, 2).is_multiple_of(2).then_some((time, user))
    }

    fn mark(&self, source: u32, to: u64) -> Option<Timestamp> {
        (0..to).map(|offset| self.time(source, offset)).max().map(Timestamp::from_millis)
    }

    fn frame(&self, source: u32, epoch: u64, from: u64, to: u64) -> Said {
        let mut said = records(source, epoch, from..to);
        // The owners' clocks differ, and with them what they let a mark come to.
        let behind_ms = (epoch % 3).cast_signed() * 1_500;
        said.mark = self.mark(source, to).map(|mark| mark.plus_millis(-behind_ms));
        (from..to).fold(said, |said, offset| match self.crash(source, offset) {
            Some((time, user)) => said.crash_at(offset, time, &user),
            None => said,
        })
    }

    fn take(&mut self, step: &Step) {
        self.take_together(std::slice::from_ref(step));
    }

    fn take_together(&mut self, steps: &[Step]) {
        let mut said: Vec<(Nature, Said)> = Vec::new();
        for step in steps {
            if let Step::Repeat { back } = step {
                let repeated = self.messages.iter().rev().nth(*back).map(|(_, bytes)| bytes.clone());
                self.append(&mut said);
                self.messages.extend(repeated.map(|bytes| (Nature::Repeat, bytes)));
                continue;
            }
            let (nature, frame) = self.say(step);
            // One nature to a message, so that a test may leave the bad ones out.
            if said.last().is_some_and(|(last, _)| *last != nature) {
                self.append(&mut said);
            }
            said.extend(frame.map(|frame| (nature, frame)));
        }
        self.append(&mut said);
    }

    fn append(&mut self, said: &mut Vec<(Nature, Said)>) {
        if let Some(&(nature, _)) = said.first() {
            let frames: Vec<Said> = said.drain(..).map(|(_, frame)| frame).collect();
            self.messages.push((nature, encode(INPUT, u32::try_from(self.sources.len()).unwrap(), &frames)));
        }
    }

    fn say(&mut self, step: &Step) -> (Nature, Option<Said>) {
        let count = u32::try_from(self.sources.len()).unwrap();
        match *step {
            Step::Read { source, count: n } => self.read(source % count, n),
            Step::Idle { source, wait_ms } => self.idle(source % count, wait_ms),
            Step::Restart { source, back } => self.restart(source % count, back),
            Step::Zombie { source, back, count: n, idle } => self.zombie(source % count, back, n, idle),
            Step::Skip { source, count: n } => {
                let skipped = &mut self.sources[(source % count) as usize];
                skipped.broken |= skipped.reads + n > skipped.covered;
                skipped.reads += n;
                (Nature::Good, None)
            }
            Step::Lose { source, count: n } => self.lose(source % count, n),
            Step::Repeat { .. } => unreachable!("it is a message, not a frame"),
            Step::Add if count < 4 => {
                let ahead =
                    (0..count).filter_map(|id| self.mark(id, self.sources[id as usize].covered)).max();
                let base_ms = ahead.map_or(1_000_000, Timestamp::as_millis) + self.max_late_ms;
                let (reads, covered, lost) = (0, 0, BTreeSet::new());
                self.sources.push(Source { epoch: 1, reads, covered, lost, broken: false, base_ms });
                (Nature::Good, Some(claim(count, 1, 0)))
            }
            Step::Add => (Nature::Good, None),
        }
    }

    fn nature(&self, source: u32) -> Nature {
        if self.sources[source as usize].broken { Nature::Refused } else { Nature::Good }
    }

    fn read(&mut self, id: u32, count: u64) -> (Nature, Option<Said>) {
        let source = &mut self.sources[id as usize];
        let (epoch, from, to) = (source.epoch, source.reads, source.reads + count);
        source.reads = to;
        if !source.broken {
            source.covered = source.covered.max(to);
        }
        (self.nature(id), Some(self.frame(id, epoch, from, to)))
    }

    fn idle(&mut self, id: u32, wait_ms: i64) -> (Nature, Option<Said>) {
        let source = &self.sources[id as usize];
        let mut said = self.frame(id, source.epoch, source.reads, source.reads);
        let until = said.mark.unwrap_or(Timestamp::from_millis(source.base_ms)).plus_millis(wait_ms);
        said.kind = Kind::Idle { until };
        (self.nature(id), Some(said))
    }

    fn restart(&mut self, id: u32, back: u64) -> (Nature, Option<Said>) {
        let source = &mut self.sources[id as usize];
        source.epoch += 1;
        source.reads = source.covered.saturating_sub(back);
        source.broken = false;
        let mut said = claim(id, source.epoch, source.reads);
        said.mark = self.mark(id, said.from);
        (Nature::Good, Some(said))
    }

    /// What no good scanner says: events of a user that does not exist, and a mark that would close everything.
    fn zombie(&mut self, id: u32, back: u64, count: u64, idle: bool) -> (Nature, Option<Said>) {
        let source = &self.sources[id as usize];
        let from = source.covered.saturating_sub(back);
        let mut said = records(id, source.epoch - 1, from..from + count).mark(1_000_000_000);
        if idle {
            said.to = said.from;
            said.kind = Kind::Idle { until: at(1_000_000_000) };
        } else {
            said = said.crashes(source.base_ms / 1_000, "zombie");
        }
        (Nature::Zombie, Some(said))
    }

    fn lose(&mut self, id: u32, count: u64) -> (Nature, Option<Said>) {
        let source = &mut self.sources[id as usize];
        let (epoch, from, to) = (source.epoch, source.reads, source.reads + count);
        source.reads = to;
        if !source.broken {
            source.lost.extend(source.covered..to);
            source.covered = source.covered.max(to);
        }
        let mut said = lost(id, epoch, from..to);
        said.mark = self.mark(id, from);
        (self.nature(id), Some(said))
    }

    fn drain(&mut self) {
        let ids = 0..u32::try_from(self.sources.len()).unwrap();
        for id in ids {
            let (_, claim) = self.restart(id, 0);
            let source = &self.sources[id as usize];
            let end = records(id, source.epoch, source.reads..source.reads).mark(500_000_000);
            self.append(&mut claim.into_iter().chain([end]).map(|said| (Nature::Good, said)).collect());
        }
    }
}
