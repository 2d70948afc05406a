//! Carries out what the scan drive decides, one stage of the loop's turn at a time; the real loop does the same with real
//! clients (`worker/src/scan_loop.rs`). Between two stages the process may die, stop, or be rebalanced.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crashmonitor_core::ids::{InputOffset, LogOffset, Shard, SourceId};
use crashmonitor_core::scan::drive::{Drive, Heeded, Observed, Step, progress};
use crashmonitor_core::scan::start::{self, LogRange};
use crashmonitor_core::scan::{Input, RoundId, Scan, Scanned};
use crashmonitor_core::time::Timestamp;

use crate::group::{Client, Event, Member};
use crate::input::{Partition, Slot};
use crate::kafka::{INPUT_TOPIC, LOG_TOPIC, Request, Wire};
use crate::setup::{Fault, Setup, matcher};
use crate::world::World;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Events,
    Heed,
    Facts,
    Claim,
    Read,
    Flush,
    Deliver,
    Readable,
    Commit,
}

impl Stage {
    fn next(self) -> Stage {
        match self {
            Stage::Events => Stage::Heed,
            Stage::Heed => Stage::Facts,
            Stage::Facts => Stage::Claim,
            Stage::Claim => Stage::Read,
            Stage::Read => Stage::Flush,
            Stage::Flush => Stage::Deliver,
            Stage::Deliver => Stage::Readable,
            Stage::Readable => Stage::Commit,
            Stage::Commit => Stage::Events,
        }
    }
}

/// Sources that go once what was read of them is sent and committed, or time is up.
struct HandOver {
    sources: Vec<SourceId>,
    then: Then,
    patience: usize,
}

/// A shard to which nothing more gets through for a while; then the producer gives up the oldest messages for it.
struct Stall {
    shard: u32,
    until: i64,
    /// So many messages were on their way before, and arrive.
    passes: usize,
}

/// Facts on their way.
#[derive(Default)]
enum Gathering {
    #[default]
    Nothing,
    Logs(Observed, Vec<LogRange>),
    Commits(Observed, Vec<LogRange>, BTreeMap<u32, (u64, String)>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    GiveUp,
    ClaimAnew,
    Leave,
}

pub struct Scanner {
    pub drive: Drive,
    pub client: Client,
    stage: Stage,
    /// Sent and not yet appended, by shard.
    in_flight: BTreeMap<u32, VecDeque<(RoundId, Vec<u8>)>>,
    dead_letters: VecDeque<(RoundId, (u32, u64))>,
    positions: BTreeMap<SourceId, u64>,
    paused: BTreeSet<SourceId>,
    gathering: Gathering,
    facts: Option<Vec<start::Facts>>,
    handing_over: Option<HandOver>,
    pub is_fenced: bool,
    pub has_left: bool,
    stall: Option<Stall>,
    is_newer: bool,
}

fn new_scan(setup: &Setup) -> Scan {
    Scan::new(setup.scan_params(), matcher())
}

impl Scanner {
    pub fn new(member: Member, is_newer: bool, setup: &Setup) -> Scanner {
        Scanner {
            drive: Drive::new(new_scan(setup), setup.policy()),
            client: Client::new(member),
            stage: Stage::Events,
            in_flight: BTreeMap::new(),
            dead_letters: VecDeque::new(),
            positions: BTreeMap::new(),
            paused: BTreeSet::new(),
            gathering: Gathering::Nothing,
            facts: None,
            handing_over: None,
            is_fenced: false,
            has_left: false,
            stall: None,
            is_newer,
        }
    }

    /// One stage of a turn; those with nothing to do are passed over.
    pub fn step(&mut self, world: &mut World, now: Timestamp, observed: Option<&Observed>) {
        if self.handing_over.is_some() {
            return self.hand_over(world, now);
        }
        for _ in 0..9 {
            if self.stage == Stage::Events && self.drive.has_failed() {
                return self.start_again(world);
            }
            let stage = self.stage;
            self.stage = stage.next();
            let did_something = match stage {
                Stage::Events => self.events(world),
                Stage::Heed => observed.is_some_and(|observed| self.heed(observed)),
                Stage::Facts => self.read_facts(world, observed),
                Stage::Claim => self.claim(world, now),
                Stage::Read => self.read(world, now),
                Stage::Flush => self.flush(now, false),
                Stage::Deliver => self.deliver(world),
                Stage::Readable => self.begin_to_read(),
                Stage::Commit => world.rng.one_in(3) && self.commit(world),
            };
            if did_something {
                return;
            }
        }
    }

    /// The broker of one shard does not answer for a while. What is behind the messages that are given up may still
    /// arrive: an idempotent producer begins a new sequence and goes on.
    pub fn stall(&mut self, world: &mut World) {
        let shard = world.rng.below(world.setup.shards as usize) as u32;
        let passes = self.in_flight.get(&shard).map_or(0, VecDeque::len);
        self.stall = Some(Stall { shard, until: world.now + world.rng.range(0, 500), passes });
    }

    pub fn leave(&mut self, is_halted: bool) {
        let sources = self.drive.owned().iter().copied().collect();
        let patience = if is_halted { 0 } else { 20 };
        self.handing_over = Some(HandOver { sources, then: Then::Leave, patience });
    }

    fn events(&mut self, world: &mut World) -> bool {
        let Some(event) = self.client.poll(&mut world.kafka.scan, world.now) else { return false };
        let member = self.client.member;
        world.note(|| format!("{member} scan {event:?}"));
        let sources = |partitions: &[u32]| partitions.iter().map(|p| SourceId(*p)).collect::<Vec<_>>();
        match &event {
            Event::Assigned(partitions) => {
                self.drive.assigned(sources(partitions));
                self.client.answered(&mut world.kafka.scan, world.now);
            }
            Event::Revoked(partitions) => {
                let (sources, patience) = (sources(partitions), world.rng.below(20));
                self.handing_over = Some(HandOver { sources, then: Then::GiveUp, patience });
            }
            Event::Lost(partitions) => {
                self.give_up(&sources(partitions));
                self.client.answered(&mut world.kafka.scan, world.now);
            }
            Event::Fenced => self.is_fenced = true,
        }
        true
    }

    /// Flush, wait for acknowledgements within a bound, commit, let go.
    fn hand_over(&mut self, world: &mut World, now: Timestamp) {
        let Some(handing_over) = &mut self.handing_over else { return };
        if handing_over.patience > 0 && !self.drive.has_failed() {
            handing_over.patience -= 1;
            self.flush(now, true);
            self.deliver(world);
            if !self.drive.scan().is_settled() {
                return;
            }
        }
        let HandOver { sources, then, .. } = self.handing_over.take().unwrap();
        self.commit(world);
        match then {
            Then::GiveUp => self.give_up(&sources),
            Then::ClaimAnew => {
                let stop = self.drive.claim_anew(&sources);
                self.stop(&stop);
            }
            Then::Leave => {
                self.has_left = true;
                world.kafka.scan.leave(self.client.member, world.now);
                self.die(world);
            }
        }
        if then == Then::GiveUp {
            self.client.answered(&mut world.kafka.scan, world.now);
        }
    }

    fn give_up(&mut self, sources: &[SourceId]) {
        let stop = self.drive.give_up(sources);
        self.stop(&stop);
        // Facts and claims belong to a turn; a rebalance is served between turns.
        (self.facts, self.gathering) = (None, Gathering::Nothing);
    }

    fn stop(&mut self, sources: &[SourceId]) {
        for source in sources {
            self.positions.remove(source);
            self.paused.remove(source);
        }
    }

    fn heed(&mut self, observed: &Observed) -> bool {
        let Heeded { recreated, stop, pause, resume } = self.drive.heed(observed);
        self.stop(&stop);
        self.paused.extend(&pause);
        self.paused.retain(|source| !resume.contains(source));
        !(recreated.is_empty() && pause.is_empty() && resume.is_empty())
    }

    /// The logs, what is committed, the logs again, one after another.
    fn read_facts(&mut self, world: &mut World, observed: Option<&Observed>) -> bool {
        let Some(latest) = observed.filter(|_| !self.drive.unclaimed().is_empty()) else { return false };
        if world.rng.one_in(world.request_faults().other) {
            self.drive.failed();
            return true;
        }
        let input = &world.kafka.input;
        let range = |log: &Partition| LogRange { start: InputOffset(log.start), end: InputOffset(log.end()) };
        let logs = |observed: &Observed| {
            input.partitions.iter().take(observed.sources as usize).map(range).collect::<Vec<_>>()
        };
        self.gathering = match std::mem::take(&mut self.gathering) {
            // What was observed by now, and nothing newer: as in the loop, it is older than the commits.
            Gathering::Nothing => Gathering::Logs(latest.clone(), logs(latest)),
            Gathering::Logs(observed, before) => {
                Gathering::Commits(observed, before, world.kafka.scan.offsets.clone())
            }
            Gathering::Commits(observed, before, offsets) => {
                let of = |p: u32| offsets.get(&p).map(|(offset, text)| (InputOffset(*offset), text.clone()));
                let merge = |(b, a): (&LogRange, LogRange)| LogRange { start: b.start, end: a.end };
                let logs: Vec<LogRange> = before.iter().zip(logs(&observed)).map(merge).collect();
                let facts = |&source: &SourceId| start::Facts {
                    source,
                    committed: of(source.0),
                    committed_first: of(0),
                    logs: logs.clone(),
                    topic: INPUT_TOPIC,
                    log_topic: LOG_TOPIC,
                    aggregate: observed.aggregate,
                };
                self.facts = Some(self.drive.unclaimed().iter().map(facts).collect());
                Gathering::Nothing
            }
        };
        // The loop asks in one go.
        if self.facts.is_none() {
            self.stage = Stage::Facts;
        }
        true
    }

    fn claim(&mut self, world: &mut World, now: Timestamp) -> bool {
        let Some(facts) = self.facts.take() else { return false };
        match self.drive.decide(&facts) {
            Step::Wait(_) => return false,
            Step::Resolve(positions) => {
                let commits = positions.into_iter().map(|(s, o, m)| (s.0, o.0, m.encode())).collect();
                self.send_commit(world, commits);
            }
            Step::Claim(claims) => {
                let commits = claims.iter().map(|c| (c.source.0, c.from.0, c.metadata.encode())).collect();
                if self.send_commit(world, commits) {
                    for claim in &claims {
                        let (member, source) = (self.client.member, claim.source);
                        let (from, lost_to, epoch) = (claim.from, claim.lost_to, claim.metadata.epoch);
                        world
                            .note(|| format!("{member} claims {source} at {from}..{lost_to}, epoch {epoch}"));
                        self.drive.claimed(claim, now);
                    }
                    // A claim that does not arrive where later frames do would be missed.
                    if world.may(Fault::DeliveryFails) && world.rng.one_in(2) {
                        self.stall(world);
                    }
                }
            }
            Step::Halt(source, loss) => world.fail(format!("scan of {source} stops: {loss}")),
        }
        true
    }

    /// A commit of the scan group; whether the broker has said that it took it. No answer is a failure.
    fn send_commit(&mut self, world: &mut World, offsets: Vec<(u32, u64, String)>) -> bool {
        let membership = self.client.membership();
        let wire = Wire::draw(world.request_faults().commit, &mut world.rng);
        match wire {
            Wire::Fine => return world.kafka.commit_scan(membership, offsets),
            Wire::Lost => {}
            Wire::AnswerLost => {
                let _ = world.kafka.commit_scan(membership, offsets);
            }
            Wire::Delayed => world.delay(3_000, Request::CommitScan { membership, offsets }),
        }
        let member = self.client.member;
        world.note(|| format!("{member} scan commit: no answer ({wire:?})"));
        self.drive.commit_unanswered();
        false
    }

    fn read(&mut self, world: &mut World, now: Timestamp) -> bool {
        if self.drive.scan().is_saturated() {
            return false;
        }
        let (mut out_of_range, mut unaligned) = (Vec::new(), None);
        let mut any = false;
        for (&source, position) in &mut self.positions {
            if self.paused.contains(&source) {
                continue;
            }
            let log = &world.kafka.input.partitions[source.0 as usize];
            if *position < log.start {
                out_of_range.push(source);
                continue;
            }
            let to = (*position + world.rng.below(8) as u64).min(log.readable_end());
            let is_read = to > *position;
            if is_read && self.drive.scan().views().any(|view| view.source == source && view.paused) {
                unaligned = Some(source);
            }
            any |= is_read;
            for at in *position..to {
                if let Slot::Record { value, .. } = &log.slots[at as usize] {
                    let (offset, value) = (InputOffset(at), value.as_deref());
                    let input = Input { source, offset, appended_at: None, value };
                    if let Scanned::DeadLetter(_) = self.drive.scan().record(&input, now) {
                        let round = self.drive.scan().await_dead_letter();
                        self.dead_letters.push_back((round, (source.0, at)));
                    }
                }
            }
            *position = to.max(*position);
            if *position == log.readable_end() {
                self.drive.scan().reached(source, InputOffset(*position));
            }
        }
        if let Some(source) = unaligned {
            world.fail(format!("reads {source}, which alignment has paused"));
        }
        if !out_of_range.is_empty() {
            let patience = world.rng.below(20);
            self.handing_over = Some(HandOver { sources: out_of_range, then: Then::ClaimAnew, patience });
        }
        any
    }

    fn flush(&mut self, now: Timestamp, at_once: bool) -> bool {
        let Some(round) = self.drive.scan().flush(now, at_once) else { return false };
        for (Shard(shard), mut bytes) in round.messages {
            if self.is_newer {
                bytes[3] += 1;
            }
            self.in_flight.entry(shard).or_default().push_back((round.id, bytes));
        }
        true
    }

    /// The broker appends some of what is under way, in order for each partition, and says so.
    fn deliver(&mut self, world: &mut World) -> bool {
        if let Some(Stall { shard, .. }) = self.stall.take_if(|stall| stall.until <= world.now)
            && let Some(queue) = self.in_flight.get_mut(&shard).filter(|queue| !queue.is_empty())
        {
            queue.drain(..=world.rng.below(queue.len())).for_each(drop);
            let member = self.client.member;
            world.note(|| format!("{member} gives up messages to shard {shard}"));
            self.drive.failed();
            return true;
        }
        let mut any = false;
        for (shard, queue) in &mut self.in_flight {
            for _ in 0..world.rng.below(6) {
                if let Some(stall) = self.stall.as_mut().filter(|stall| stall.shard == *shard) {
                    let Some(passes) = stall.passes.checked_sub(1) else { break };
                    stall.passes = passes;
                }
                let Some((round, bytes)) = queue.pop_front() else { break };
                world.kafka.append(*shard, bytes, world.now);
                self.drive.scan().acknowledged(round);
                any = true;
            }
        }
        if let Some((round, at)) = self.dead_letters.pop_front() {
            world.dead_letters.insert(at);
            self.drive.scan().acknowledged(round);
        }
        any
    }

    fn begin_to_read(&mut self) -> bool {
        let readable = self.drive.take_readable();
        self.positions.extend(readable.iter().map(|(source, from)| (*source, from.0)));
        let pause = self.drive.reading(&readable);
        self.paused.extend(pause);
        !readable.is_empty()
    }

    fn commit(&mut self, world: &mut World) -> bool {
        let positions = self.drive.positions();
        if positions.is_empty() {
            return false;
        }
        let commits = positions.iter().map(|c| (c.source.0, c.offset.0, c.metadata.encode())).collect();
        if self.send_commit(world, commits) {
            positions.iter().for_each(|position| self.drive.committed(position.source));
        }
        true
    }

    fn start_again(&mut self, world: &mut World) {
        let member = self.client.member;
        world.note(|| format!("{member} scan starts again"));
        self.die(world);
        if self.drive.must_rejoin() {
            self.client = Client::new(Member { life: world.next_life(), ..member });
        }
        let stop = self.drive.start_again(new_scan(&world.setup));
        self.stop(&stop);
        (self.facts, self.gathering) = (None, Gathering::Nothing);
    }

    /// The producer is gone. Some of what it had is lost with it, and some may arrive later all the same.
    pub fn die(&mut self, world: &mut World) {
        for (shard, mut queue) in std::mem::take(&mut self.in_flight) {
            queue.drain(..world.rng.below(queue.len() + 1)).for_each(drop);
            queue.truncate(world.rng.below(queue.len() + 1));
            let mut delay_ms = 0;
            for (_, bytes) in queue {
                delay_ms += world.rng.range(0, 300);
                world.kafka.delay(world.now + delay_ms, Request::Append { shard, bytes });
            }
        }
        self.dead_letters.clear();
    }

    pub fn is_quiet(&mut self) -> bool {
        self.has_left
            || (self.drive.unclaimed().is_empty()
                && self.drive.scan().is_settled()
                && !self.drive.has_failed())
    }
}

/// What an observer sees: first the clock and the commits, later the ends of logs.
#[derive(Default)]
pub struct Observer {
    look: Option<Observed>,
    pub observed: Option<Observed>,
}

impl Observer {
    pub fn step(&mut self, world: &World, now: Timestamp, scanner: &Scanner) {
        match self.look.take() {
            None => {
                let offsets = &world.kafka.aggregate.offsets;
                let commit = |(offset, text): &(u64, String)| (LogOffset(*offset), text.clone());
                let committed: Vec<_> =
                    (0..world.setup.shards).map(|shard| offsets.get(&shard).map(commit)).collect();
                let (aggregate, watermark) = progress(&committed);
                self.look = Some(Observed {
                    input_topic: INPUT_TOPIC,
                    sources: world.kafka.input.partitions.len() as u32,
                    aggregate,
                    watermark,
                    ends: Vec::new(),
                    ends_at: now,
                });
            }
            Some(mut look) => {
                let end = |source: &SourceId| {
                    world.kafka.input.partitions.get(source.0 as usize).map(|log| (source.0, log.end()))
                };
                look.ends = scanner.drive.owned().iter().filter_map(end).collect();
                self.observed = Some(look);
            }
        }
    }
}
