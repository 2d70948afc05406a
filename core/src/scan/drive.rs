//! What the scan loop does with the sources that the group gives it, from assignment to the commit that ends it.
//!
//! Responsible for which source is waiting to be claimed, claimed, read or paused, for which offset is to be committed
//! (again), and for the one way back. Must never let a source be read whose claim was not committed and sent.
//!
//! The loop owns the clients. Its turn, in this order:
//!
//! ```text
//! events      assigned() | lost() | hand over, then give_up()
//! observed    heed()                         what to stop, pause and resume
//! unclaimed?  facts ─► decide() ─► commit the claims ─► claimed() for each that the broker took ─► flush
//! records     scan().record() …  flush ─► send ─► scan().acknowledged()
//! readable    take_readable() ─► read from there ─► reading() says what to pause at once
//! sometimes   positions() ─► commit ─► committed() for each that the broker took
//! failed      failed() ─► … ─► has_failed()? ─► must_rejoin()? ─► start_again()
//!                                            a new producer, every source is claimed again [4]
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::start::{self, AggregateProgress, Claim, DataLoss, Decision, Policy, WaitFor};
use super::{Committable, Scan};
use crate::commit::{AggregateCommit, ScanCommit};
use crate::ids::{InputOffset, LogOffset, SourceId, TopicId};
use crate::time::Timestamp;

/// What was seen of Kafka from outside the groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// The input topic's identity.
    pub input_topic: TopicId,
    /// How many partitions the input has.
    pub sources: u32,
    /// What the aggregate group has committed.
    pub aggregate: AggregateProgress,
    /// The lowest committed watermark; None until every shard has one.
    pub watermark: Option<Timestamp>,
    /// High watermarks of owned input partitions, asked for after the wall clock was `ends_at`.
    pub ends: Vec<(u32, u64)>,
    /// The wall clock before `ends` was asked for.
    pub ends_at: Timestamp,
}

/// How far the aggregate group is, and its lowest watermark; `committed` is what it has committed for every shard.
pub fn progress(committed: &[Option<(LogOffset, String)>]) -> (AggregateProgress, Option<Timestamp>) {
    let values: Vec<_> = committed.iter().flatten().collect();
    if values.len() < committed.len() {
        return (AggregateProgress::Incomplete, None);
    }
    // Metadata that can't be read is the aggregate loop's to complain about.
    let watermark = |text: &str| AggregateCommit::decode(text).ok().and_then(|commit| commit.watermark);
    let lowest = values.iter().map(|(_, text)| watermark(text)).min().flatten();
    let is_fresh = values.iter().all(|(offset, _)| *offset == LogOffset(0));
    (if is_fresh { AggregateProgress::Fresh } else { AggregateProgress::Advanced }, lowest)
}

/// What [`Drive::heed`] wants of the reader, in this order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Heeded {
    /// Sources of a topic that was deleted and made again; they are claimed anew.
    pub recreated: Vec<SourceId>,
    /// Those of them that are read: to be stopped.
    pub stop: Vec<SourceId>,
    /// To be paused.
    pub pause: Vec<SourceId>,
    /// To be resumed.
    pub resume: Vec<SourceId>,
}

/// What [`Drive::decide`] wants done for the sources that are not claimed yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Ask again soon.
    Wait(WaitFor),
    /// Commit these starting positions in one request, then ask again at once.
    Resolve(Vec<(SourceId, InputOffset, ScanCommit)>),
    /// Commit these claims in one request; tell of each that was taken with [`Drive::claimed`].
    Claim(Vec<Claim>),
    /// Stop, change nothing, and say why.
    Halt(SourceId, DataLoss),
}

/// The sources that a scan loop was given.
#[derive(Debug)]
pub struct Drive {
    scan: Scan,
    policy: Policy,
    /// In the group's eyes ours, not claimed yet.
    unclaimed: BTreeSet<SourceId>,
    /// Claimed; read as soon as the claim has arrived.
    claimed: BTreeSet<SourceId>,
    /// Claimed and read.
    reading: BTreeSet<SourceId>,
    paused: BTreeSet<SourceId>,
    /// What could not be committed yet.
    uncommitted: BTreeMap<SourceId, Committable>,
    /// Something that was sent has not arrived: what follows it in the chain would be refused.
    has_failed: bool,
    /// A commit may still be carried out.
    must_rejoin: bool,
}

impl Drive {
    /// Owns nothing yet.
    pub fn new(scan: Scan, policy: Policy) -> Drive {
        Drive {
            scan,
            policy,
            unclaimed: BTreeSet::new(),
            claimed: BTreeSet::new(),
            reading: BTreeSet::new(),
            paused: BTreeSet::new(),
            uncommitted: BTreeMap::new(),
            has_failed: false,
            must_rejoin: false,
        }
    }

    /// The scanner, for records, rounds and acknowledgements.
    pub fn scan(&mut self) -> &mut Scan {
        &mut self.scan
    }

    /// The group has given us these; they are to be claimed.
    pub fn assigned(&mut self, sources: impl IntoIterator<Item = SourceId>) {
        self.unclaimed.extend(sources);
    }

    /// Gives sources up; returns those that are read, which the reader must stop.
    pub fn give_up(&mut self, sources: &[SourceId]) -> Vec<SourceId> {
        for source in sources {
            self.unclaimed.remove(source);
            self.claimed.remove(source);
            self.uncommitted.remove(source);
            self.paused.remove(source);
            self.scan.release(*source);
        }
        sources.iter().copied().filter(|source| self.reading.remove(source)).collect()
    }

    /// These can't be read on as they are: the next offset is no longer in the log, the topic was made again, or the
    /// reader changes. They are claimed anew, and the claim decides what to do. Returns those that the reader must stop.
    ///
    /// One that is not ours any more stays so: the group may have given it to somebody else since, and would take our
    /// claim of it, for it looks at who commits and not at what.
    pub fn claim_anew(&mut self, sources: &[SourceId]) -> Vec<SourceId> {
        let ours =
            sources.iter().filter(|&source| self.unclaimed.contains(source) || self.claimed.contains(source));
        let ours: Vec<SourceId> = ours.copied().collect();
        let stop = self.give_up(&ours);
        self.unclaimed.extend(ours);
        stop
    }

    /// Takes in what was seen of Kafka.
    pub fn heed(&mut self, observed: &Observed) -> Heeded {
        self.scan.set_source_count(observed.sources);
        for &(partition, end) in &observed.ends {
            self.scan.end_observed(SourceId(partition), InputOffset(end), observed.ends_at);
        }
        let recreated = self.scan.sources_of_another_topic(observed.input_topic);
        let stop = self.claim_anew(&recreated);
        let mut heeded = Heeded { recreated, stop, ..Heeded::default() };
        for (source, is_paused) in self.scan.align(observed.watermark) {
            let changed = if is_paused { self.paused.insert(source) } else { self.paused.remove(&source) };
            if changed && self.reading.contains(&source) {
                let list = if is_paused { &mut heeded.pause } else { &mut heeded.resume };
                list.push(source);
            }
        }
        heeded
    }

    /// The sources that are not claimed yet: their facts are wanted, and the commit of source 0.
    pub fn unclaimed(&self) -> &BTreeSet<SourceId> {
        &self.unclaimed
    }

    /// The sources that are claimed.
    pub fn owned(&self) -> &BTreeSet<SourceId> {
        &self.claimed
    }

    /// Decides what to do for the sources that are not claimed yet.
    pub fn decide(&self, facts: &[start::Facts]) -> Step {
        let mut claims = Vec::new();
        let mut waits_for = None;
        for facts in facts {
            match start::decide(facts, self.policy) {
                Decision::Wait(whom) => waits_for = Some(whom),
                Decision::Resolve(positions) => return Step::Resolve(positions),
                Decision::Claim(claim) => claims.push(claim),
                Decision::Stop(loss) => return Step::Halt(facts.source, loss),
            }
        }
        match waits_for {
            Some(whom) if claims.is_empty() => Step::Wait(whom),
            _ => Step::Claim(claims),
        }
    }

    /// The broker has taken a claim: its frame goes out with the next flush.
    pub fn claimed(&mut self, claim: &Claim, now: Timestamp) {
        if self.unclaimed.remove(&claim.source) {
            self.scan.claim(claim, now);
            self.claimed.insert(claim.source);
        }
    }

    /// The sources to read from now on, each with its offset: their claims are in every shard.
    pub fn take_readable(&mut self) -> Vec<(SourceId, InputOffset)> {
        self.scan.take_readable()
    }

    /// These are read now; returns those that alignment had paused before there was anything to pause.
    pub fn reading(&mut self, starts: &[(SourceId, InputOffset)]) -> Vec<SourceId> {
        let sources = || starts.iter().map(|(source, _)| *source);
        self.reading.extend(sources());
        sources().filter(|source| self.paused.contains(source)).collect()
    }

    /// What is to be committed: each source's latest position that the broker has not taken.
    pub fn positions(&mut self) -> Vec<Committable> {
        let committable = self.scan.take_committable();
        self.uncommitted.extend(committable.into_iter().map(|position| (position.source, position)));
        self.uncommitted.values().cloned().collect()
    }

    /// The broker has taken the position of a source.
    pub fn committed(&mut self, source: SourceId) {
        self.uncommitted.remove(&source);
    }

    /// A frame or a dead letter was not delivered, or a request has failed. Nothing that is sent from here on takes effect
    /// before [`Drive::start_again`], which the loop calls as soon as it has finished what it is about.
    pub fn failed(&mut self) {
        self.has_failed = true;
    }

    /// A commit was not answered within its time. It may be carried out at any later moment, and would then put back what
    /// was committed since: the epoch of a newer claim, so that the next owner claims with one that was used before, and
    /// every shard refuses its frames for ever. Only the group can fence it: the loop starts again as another member.
    pub fn commit_unanswered(&mut self) {
        (self.has_failed, self.must_rejoin) = (true, true);
    }

    /// The group is to assign anew: the loop has left it, and starts again as another member.
    pub fn left(&mut self) {
        (self.has_failed, self.must_rejoin) = (true, true);
    }

    /// Whether the loop must join the group anew, as another member, when it starts again.
    pub fn must_rejoin(&self) -> bool {
        self.must_rejoin
    }

    /// Whether the loop must start again.
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// The one way back \[4\]: with a new scanner nothing is remembered, and every source is claimed again at its
    /// committed offset, or when the group gives it to the new member. Returns those that the reader must stop.
    pub fn start_again(&mut self, scan: Scan) -> Vec<SourceId> {
        self.scan = scan;
        self.has_failed = false;
        self.uncommitted.clear();
        self.paused.clear();
        self.unclaimed.append(&mut self.claimed);
        if std::mem::take(&mut self.must_rejoin) {
            self.unclaimed.clear();
        }
        std::mem::take(&mut self.reading).into_iter().collect()
    }
}
