//! One life of a worker: its loops, its clock, and how it ends.

use crashmonitor_core::time::{Clock, Timestamp};

use crate::counter::Counter;
use crate::group::Member;
use crate::scanner::{Observer, Scanner};
use crate::setup::Setup;
use crate::world::World;

pub struct Process {
    pub member: Member,
    pub scanner: Scanner,
    pub counter: Counter,
    observer: Observer,
    /// How far its wall clock is off.
    pub clock_ms: i64,
    /// Of the version whose frames and snapshots the older one can't read.
    pub is_newer: bool,
    pub paused_until: i64,
    is_ending: bool,
}

impl Process {
    pub fn new(member: Member, clock_ms: i64, is_newer: bool, setup: &Setup) -> Process {
        Process {
            member,
            scanner: Scanner::new(member, is_newer, setup),
            counter: Counter::new(member, is_newer, setup),
            observer: Observer::default(),
            clock_ms,
            is_newer,
            paused_until: 0,
            is_ending: false,
        }
    }

    pub fn clock(&self, now: i64) -> Clock {
        Clock { wall: Timestamp::from_millis(now + self.clock_ms), steady_ms: now }
    }

    /// One of its threads moves.
    pub fn step(&mut self, world: &mut World) {
        let now = self.clock(world.now);
        match world.rng.below(20) {
            0..9 if !self.scanner.has_left => {
                self.scanner.step(world, now.wall, self.observer.observed.as_ref());
            }
            9..17 if !self.counter.has_left => self.counter.step(world, now),
            17 | 18 => self.observer.step(world, now.wall, &self.scanner),
            _ => self.counter.keep(world),
        }
        if self.counter.halted.is_some() && !self.is_ending {
            self.end();
        }
    }

    /// SIGTERM: finish, then leave both groups.
    pub fn end(&mut self) {
        self.is_ending = true;
        self.scanner.leave(self.counter.halted.is_some());
        self.counter.leave();
    }

    /// Stopped for a while; afterwards it takes a moment until its clients hear what went on.
    pub fn pause(&mut self, now: i64, pause_ms: i64, deaf_ms: i64) {
        self.paused_until = now + pause_ms;
        self.scanner.client.deaf_until = self.paused_until + deaf_ms;
        self.counter.client.deaf_until = self.paused_until + deaf_ms;
    }

    pub fn is_paused(&self, now: i64) -> bool {
        self.paused_until > now
    }

    pub fn is_halted(&self) -> bool {
        self.counter.halted.is_some()
    }

    pub fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// It has left, or a younger process of its name has fenced it: the process ends.
    pub fn is_over(&self) -> bool {
        let has_left = self.scanner.has_left && self.counter.has_left && !self.is_halted();
        has_left || self.scanner.is_fenced || self.counter.is_fenced
    }

    /// SIGKILL, or the end: what was on its way arrives later or never.
    pub fn die(&mut self, world: &mut World) {
        self.scanner.die(world);
        self.counter.drop_producer(world);
    }

    pub fn is_quiet(&mut self, now: i64) -> bool {
        let clock = self.clock(now);
        self.scanner.is_quiet() && self.counter.is_quiet(clock)
    }

    pub fn describe(&mut self) -> String {
        let scan: Vec<_> = self.scanner.drive.scan().views().collect();
        format!(
            "{} newer {} unclaimed {:?} failed {} {scan:?} {:?}",
            self.member,
            self.is_newer,
            self.scanner.drive.unclaimed(),
            self.scanner.drive.has_failed(),
            self.counter.drive.views()
        )
    }
}
