//! A consumer group: generations, static members, cooperative assignment, and what a member's client tells its loop.
//!
//! Modelled of the classic protocol: a commit is taken only from a present member of the present generation; a name that
//! joins again (a static member) gets its seat back without a rebalance and fences its former life; a partition that
//! changes hands is revoked in one generation and assigned in the next; who neither sends heartbeats nor joins in time
//! loses its seat, and learns of it only when it next asks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::rng::Rng;

/// A worker's name and which of its lives this is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Member {
    pub worker: usize,
    pub life: u64,
}

impl std::fmt::Display for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "worker {} (life {})", self.worker, self.life)
    }
}

/// What a commit is checked by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Membership {
    pub member: Member,
    pub generation: u64,
}

/// After so long without a heartbeat a seat is lost.
const SESSION_MS: i64 = 1_000;
/// So long a rebalance waits for members to join.
const REBALANCE_MS: i64 = 1_500;

struct Seat {
    life: u64,
    heard_at: i64,
    has_joined: bool,
    /// What the member said that it owns when it joined.
    owned: BTreeSet<u32>,
    assignment: BTreeSet<u32>,
    /// The member has to ask for its assignment.
    is_new: bool,
}

#[derive(Default)]
pub struct Group {
    pub generation: u64,
    /// A rebalance is under way, until then at the latest.
    preparing: Option<i64>,
    seats: BTreeMap<usize, Seat>,
    pub partitions: u32,
    pub offsets: BTreeMap<u32, (u64, String)>,
    /// The first offset that was committed for each partition.
    pub first: BTreeMap<u32, u64>,
}

impl Group {
    pub fn new(partitions: u32) -> Group {
        Group { partitions, ..Group::default() }
    }

    /// Whether a commit of this member is taken.
    pub fn admits(&self, membership: Membership) -> bool {
        let seat = self.seats.get(&membership.member.worker);
        self.generation == membership.generation && seat.is_some_and(|s| s.life == membership.member.life)
    }

    pub fn store(&mut self, offsets: Vec<(u32, u64, String)>) {
        for (partition, offset, text) in offsets {
            self.first.entry(partition).or_insert(offset);
            self.offsets.insert(partition, (offset, text));
        }
    }

    pub fn heartbeat(&mut self, member: Member, now: i64) {
        if let Some(seat) = self.seats.get_mut(&member.worker).filter(|seat| seat.life == member.life) {
            seat.heard_at = now;
        }
    }

    /// Begins a rebalance, if none is under way.
    pub fn rebalance(&mut self, now: i64) {
        if self.preparing.is_none() {
            self.preparing = Some(now + REBALANCE_MS);
            self.seats.values_mut().for_each(|seat| seat.has_joined = false);
        }
    }

    pub fn leave(&mut self, member: Member, now: i64) {
        if self.seats.get(&member.worker).is_some_and(|seat| seat.life == member.life) {
            self.seats.remove(&member.worker);
            self.rebalance(now);
        }
    }

    /// Sessions end, rebalances complete.
    pub fn tick(&mut self, now: i64, rng: &mut Rng) {
        let before = self.seats.len();
        self.seats.retain(|_, seat| now - seat.heard_at < SESSION_MS);
        if self.seats.len() < before {
            self.rebalance(now);
        }
        // A member that dies between a revocation and its joining again leaves what was revoked with nobody; the model has
        // somebody notice.
        let is_given = |p| self.seats.values().any(|seat| seat.assignment.contains(&p));
        let are_told = !self.seats.is_empty() && self.seats.values().all(|seat| !seat.is_new);
        if self.preparing.is_none() && are_told && rng.one_in(200) && !(0..self.partitions).all(is_given) {
            self.rebalance(now);
        }
        if let Some(deadline) = self.preparing
            && !self.seats.is_empty()
            && (now >= deadline || self.seats.values().all(|seat| seat.has_joined))
        {
            self.seats.retain(|_, seat| seat.has_joined);
            self.complete(rng);
        }
    }

    fn complete(&mut self, rng: &mut Rng) {
        self.preparing = None;
        self.generation += 1;
        let names: Vec<usize> = self.seats.keys().copied().collect();
        let is_sticky = rng.one_in(2);
        for seat in self.seats.values_mut() {
            seat.assignment.clear();
            seat.is_new = true;
        }
        for partition in 0..self.partitions {
            let owner = self.seats.iter().find(|(_, seat)| seat.owned.contains(&partition)).map(|(n, _)| *n);
            let Some(&anybody) = names.get(rng.below(names.len())) else { return };
            let target = owner.filter(|_| is_sticky || rng.one_in(2)).unwrap_or(anybody);
            // What somebody else still owns is assigned only once it was given up.
            if owner.is_none_or(|owner| owner == target) {
                self.seats.get_mut(&target).unwrap().assignment.insert(partition);
            }
        }
    }
}

/// What a client tells its loop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    Assigned(Vec<u32>),
    Revoked(Vec<u32>),
    Lost(Vec<u32>),
    /// Another process has this name now: the client is beyond help.
    Fenced,
}

/// A member's side.
pub struct Client {
    pub member: Member,
    generation: u64,
    owned: BTreeSet<u32>,
    has_seat: bool,
    pending: VecDeque<Event>,
    /// Told and not answered yet.
    told: Option<Event>,
    must_rejoin: bool,
    /// After a pause: nothing was heard yet of what went on meanwhile.
    pub deaf_until: i64,
}

impl Client {
    pub fn new(member: Member) -> Client {
        Client {
            member,
            generation: 0,
            owned: BTreeSet::new(),
            has_seat: false,
            pending: VecDeque::new(),
            told: None,
            must_rejoin: false,
            deaf_until: 0,
        }
    }

    pub fn membership(&self) -> Membership {
        Membership { member: self.member, generation: self.generation }
    }

    /// What has happened, if anything. The one before must be answered.
    pub fn poll(&mut self, group: &mut Group, now: i64) -> Option<Event> {
        if self.told.is_some() || self.deaf_until > now {
            return None;
        }
        if let Some(event) = self.pending.pop_front() {
            self.told = Some(event.clone());
            return Some(event);
        }
        self.ask(group, now);
        self.told = self.pending.pop_front();
        self.told.clone()
    }

    /// The loop has done what the last event asks for.
    pub fn answered(&mut self, group: &mut Group, now: i64) {
        match self.told.take() {
            Some(Event::Assigned(partitions)) => self.owned.extend(partitions),
            Some(Event::Revoked(partitions)) => {
                self.owned.retain(|partition| !partitions.contains(partition));
                self.must_rejoin = true;
            }
            Some(Event::Lost(_)) => self.owned.clear(),
            Some(Event::Fenced) | None => {}
        }
        if self.must_rejoin && self.pending.is_empty() {
            self.must_rejoin = false;
            group.rebalance(now);
        }
    }

    fn ask(&mut self, group: &mut Group, now: i64) {
        match group.seats.get(&self.member.worker) {
            Some(seat) if seat.life > self.member.life => return self.pending.push_back(Event::Fenced),
            Some(seat) if seat.life == self.member.life => {}
            _ if self.has_seat => {
                self.has_seat = false;
                return self.pending.push_back(Event::Lost(self.owned.iter().copied().collect()));
            }
            Some(_) => self.take_over(group, now),
            None => self.join_anew(group, now),
        }
        self.has_seat = true;
        let is_preparing = group.preparing.is_some();
        let seat = group.seats.get_mut(&self.member.worker).unwrap();
        if is_preparing {
            if !seat.has_joined {
                (seat.has_joined, seat.owned) = (true, self.owned.clone());
            }
        } else if seat.is_new {
            seat.is_new = false;
            self.generation = group.generation;
            let revoked: Vec<u32> = self.owned.difference(&seat.assignment).copied().collect();
            let added: Vec<u32> = seat.assignment.difference(&self.owned).copied().collect();
            if revoked.is_empty() {
                return self.pending.push_back(Event::Assigned(added));
            }
            self.pending.push_back(Event::Revoked(revoked));
            self.pending.extend(Some(Event::Assigned(added)).filter(|e| *e != Event::Assigned(Vec::new())));
        }
    }

    /// A static member comes back: its seat is its own, and no rebalance is needed.
    fn take_over(&self, group: &mut Group, now: i64) {
        let seat = group.seats.get_mut(&self.member.worker).unwrap();
        (seat.life, seat.heard_at, seat.is_new) = (self.member.life, now, true);
        (seat.has_joined, seat.owned) = (false, BTreeSet::new());
    }

    fn join_anew(&self, group: &mut Group, now: i64) {
        group.rebalance(now);
        let seat = Seat {
            life: self.member.life,
            heard_at: now,
            has_joined: false,
            owned: BTreeSet::new(),
            assignment: BTreeSet::new(),
            is_new: false,
        };
        group.seats.insert(self.member.worker, seat);
    }
}
