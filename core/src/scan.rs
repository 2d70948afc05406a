//! The first stage: records of the input become frames.
//!
//! Responsible for what a scanner says, and when: for running marks, frames, idleness, alignment, and for how far an
//! input offset may be committed. Must never hold state that is not in its commit: a scanner may die at any moment and
//! another goes on from the committed offset and mark.
//!
//! # Rules
//! Numbers in brackets are those of the protocol in ARCHITECTURE.md.
//!
//! 1. *Claim first* \[2\]. [`start`] says with which epoch and from where; [`Scan::claim`] queues the claim frame. A
//!    source may be read when [`Scan::take_readable`] names it: its claim is then in every shard's log. Were a claim lost
//!    and a later frame not, a shard that has not met the source would take that frame for its beginning.
//! 2. *Chain* \[3\]. A frame begins where the source's last one ended. All shards get the same `from` and `to`; only the
//!    entries differ.
//! 3. *Commit* \[4\]. Frames go out in rounds: one round is what [`Scan::flush`] returns. The offsets of a round may be
//!    committed when all messages of it and of all rounds before it, and all dead letters before it, are acknowledged.
//! 4. *Everybody speaks to everybody once a second* \[5\], also when idle or paused.
//! 5. *Clocks*. An event further ahead of the wall clock than `maxFutureSkew` is a dead letter; below that it counts in
//!    its own window but moves the mark only up to the present.
//! 6. *Idle*. A source is idle if a check made at wall clock W found the log's end at its position and no record has come
//!    for `idleTimeout`. Only a frame with nothing in it can say so.
//! 7. *Few messages when nobody waits*. Of events that lie in the past the results are late by as much anyway. So
//!    matches may wait for a tenth of that, up to a quarter of a second: a catch-up would otherwise cost the brokers more
//!    in small messages than in records. They wait for others, so not when no records come.
//! 8. *Alignment*. A source whose mark is more than `maxDrift` ahead of the global watermark is paused. The source that
//!    holds the watermark is never ahead of it, so somebody can always go on.
//!
//! # Limits
//! At most [`ROUNDS_IN_FLIGHT_MAX`] rounds wait for their acknowledgement; then the scanner is [saturated] and reads
//! nothing. A round is flushed when a frame reaches [`FRAME_BYTES_FLUSH`], so memory is bounded by rounds × shards ×
//! sources × that size in theory and by the share of matching records in practice.
//!
//! [saturated]: Scan::is_saturated

pub mod drive;
pub mod start;

use std::collections::{BTreeMap, VecDeque};

use crate::commit::ScanCommit;
use crate::frame::{
    Entries, Entry, FRAME_BYTES_FLUSH, Header, Kind, MESSAGE_BYTES_MAX, MessageWriter, Statement,
};
use crate::ids::{InputOffset, Shard, SourceId, TopicId};
use crate::record::{Malformed, Matcher, Record};
use crate::route::shard_of;
use crate::time::Timestamp;

/// How many rounds may wait for acknowledgement. At a flush every 20 ms this is over five seconds of a stalled broker,
/// after which reading on would only use memory.
pub const ROUNDS_IN_FLIGHT_MAX: usize = 256;
/// Every owned source speaks to every shard at least this often, in milliseconds.
pub const SPEAK_INTERVAL_MS: i64 = 1_000;
/// The longest that matches wait to be sent while event time is behind the clock, in milliseconds.
const FLUSH_INTERVAL_BEHIND_MS: i64 = 250;
/// They wait for this part of how far it is behind.
const FLUSH_PART_OF_BEHIND: i64 = 10;

/// What the scanner must know beforehand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Params {
    /// Number of repartition partitions, at least 1.
    pub shards: u32,
    /// How far ahead of the wall clock an event may lie, in milliseconds.
    pub max_future_skew_ms: i64,
    /// For how long a source must be silent to be idle, in milliseconds.
    pub idle_timeout_ms: i64,
    /// How far a mark may run ahead of the global watermark, in milliseconds.
    pub max_drift_ms: i64,
    /// How long matches may wait to be sent while event time is near the clock, in milliseconds.
    pub flush_interval_ms: i64,
}

/// A record as the reader hands it over.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Its partition.
    pub source: SourceId,
    /// Its offset.
    pub offset: InputOffset,
    /// When the broker appended it, if the topic is set to say so.
    pub appended_at: Option<Timestamp>,
    /// Its value.
    pub value: Option<&'a [u8]>,
}

/// What became of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scanned {
    /// It matched and waits to be sent.
    Matched,
    /// It did not match.
    Passed,
    /// It has no value.
    Empty,
    /// It can't be read: to the dead-letter topic with it. If it is sent there, [`Scan::await_dead_letter`] says so.
    DeadLetter(Malformed),
    /// It lies below what was read already: a repeat of the reader.
    Repeated,
    /// Its source is not owned (any more).
    NotOwned,
}

/// Identifies a round of messages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RoundId(pub u64);

/// What is to be sent now.
#[derive(Debug)]
pub struct Round {
    /// To be named at each acknowledgement.
    pub id: RoundId,
    /// Record values, each with the shard that it is for. Their order within a shard matters.
    pub messages: Vec<(Shard, Vec<u8>)>,
}

/// An input offset that may be committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committable {
    /// The partition.
    pub source: SourceId,
    /// The offset.
    pub offset: InputOffset,
    /// What to say beside it.
    pub metadata: ScanCommit,
}

/// What the operator and the metrics want to know of a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct View {
    /// The partition.
    pub source: SourceId,
    /// The next offset to read.
    pub next: InputOffset,
    /// The running mark.
    pub mark: Option<Timestamp>,
    /// Whether alignment holds it.
    pub paused: bool,
    /// Whether its last frame said that it is idle.
    pub idle: bool,
}

#[derive(Debug)]
struct Source {
    /// What stays the same in its commits.
    claimed: ScanCommit,
    /// Where the frame begins that `entries` are for.
    open_from: InputOffset,
    /// Up to here everything was read.
    next: InputOffset,
    mark: Option<Timestamp>,
    first_mark: Option<Timestamp>,
    last_record_at: Timestamp,
    spoken_at: Option<Timestamp>,
    /// A check found the end at `next`; not said yet.
    idle_until: Option<Timestamp>,
    said_idle: bool,
    paused: bool,
    claim: ClaimFrame,
    /// By shard: what `[open_from, next)` holds for it.
    entries: Vec<Entries>,
    /// Claims, losses and what was read before a loss: to be said before the open frame.
    queue: VecDeque<Saying>,
}

/// How far a claim's frames have come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ClaimFrame {
    Queued,
    Sent(RoundId),
    Acknowledged,
}

/// A frame that waits, with the mark as it was when it was queued: a later mark would overtake the entries behind it.
#[derive(Debug)]
struct Saying {
    kind: Kind,
    from: InputOffset,
    to: InputOffset,
    mark: Option<Timestamp>,
    /// By shard; empty where the kind has none.
    entries: Vec<Entries>,
}

#[derive(Debug)]
struct InFlight {
    id: RoundId,
    unacknowledged: usize,
    positions: Vec<Committable>,
}

/// The sources that one scanner owns.
#[derive(Debug)]
pub struct Scan {
    params: Params,
    matcher: Matcher,
    source_count: u32,
    sources: BTreeMap<SourceId, Source>,
    flushed_at: Timestamp,
    flush_now: bool,
    next_round: u64,
    /// Dead letters that belong to the round to come.
    dead_letters: usize,
    in_flight: VecDeque<InFlight>,
    committable: BTreeMap<SourceId, Committable>,
    readable: Vec<(SourceId, InputOffset)>,
}

impl Scan {
    /// A scanner that owns nothing.
    pub fn new(params: Params, matcher: Matcher) -> Scan {
        Scan {
            params,
            matcher,
            source_count: 0,
            sources: BTreeMap::new(),
            flushed_at: Timestamp::EPOCH,
            flush_now: false,
            next_round: 0,
            dead_letters: 0,
            in_flight: VecDeque::new(),
            committable: BTreeMap::new(),
            readable: Vec::new(),
        }
    }

    /// Notes how many partitions the input has.
    pub fn set_source_count(&mut self, sources: u32) {
        self.flush_now |= self.source_count != sources;
        self.source_count = sources;
    }

    /// Takes over a source whose claim was committed; the next [`Scan::flush`] sends the claim frame.
    pub fn claim(&mut self, claim: &start::Claim, now: Timestamp) {
        let mark = claim.metadata.mark;
        let saying = |kind, from, to| Saying { kind, from, to, mark, entries: Vec::new() };
        let mut queue = VecDeque::from([saying(Kind::Claim, claim.from, claim.from)]);
        if claim.lost_to > claim.from {
            queue.push_back(saying(Kind::Lost, claim.from, claim.lost_to));
        }
        let next = claim.from.max(claim.lost_to);
        let source = Source {
            claimed: claim.metadata,
            open_from: next,
            next,
            mark,
            first_mark: mark,
            last_record_at: now,
            spoken_at: None,
            idle_until: None,
            said_idle: false,
            paused: false,
            claim: ClaimFrame::Queued,
            entries: no_entries(self.params.shards as usize),
            queue,
        };
        self.sources.insert(claim.source, source);
        self.flush_now = true;
    }

    /// Gives a source up: nothing of it is sent or committed any more.
    pub fn release(&mut self, source: SourceId) {
        self.sources.remove(&source);
        self.committable.remove(&source);
        self.readable.retain(|(readable, _)| *readable != source);
        for round in &mut self.in_flight {
            round.positions.retain(|position| position.source != source);
        }
    }

    /// Notes that `[next, to)` of a source can't be read any more.
    pub fn lose(&mut self, source: SourceId, to: InputOffset) {
        if let Some(owned) = self.sources.get_mut(&source)
            && to > owned.next
        {
            let (from, mark) = (owned.next, owned.mark);
            if from > owned.open_from {
                let entries = std::mem::replace(&mut owned.entries, no_entries(self.params.shards as usize));
                owned.queue.push_back(Saying {
                    kind: Kind::Records,
                    from: owned.open_from,
                    to: from,
                    mark,
                    entries,
                });
            }
            owned.queue.push_back(Saying { kind: Kind::Lost, from, to, mark, entries: Vec::new() });
            (owned.open_from, owned.next) = (to, to);
            self.flush_now = true;
        }
    }

    /// Reads a record. `now` is the wall clock.
    #[inline]
    pub fn record(&mut self, input: &Input<'_>, now: Timestamp) -> Scanned {
        let Some(source) = self.sources.get_mut(&input.source) else { return Scanned::NotOwned };
        if input.offset < source.next {
            return Scanned::Repeated;
        }
        source.next = input.offset.next();
        source.last_record_at = now;
        source.idle_until = None;
        let now = now.max(input.appended_at.unwrap_or(now));
        let horizon = now.plus_millis(self.params.max_future_skew_ms);
        match self.matcher.classify(input.value) {
            Record::Empty => Scanned::Empty,
            Record::Malformed(reason) => Scanned::DeadLetter(reason),
            Record::Pass { event_time } | Record::Match { event_time, .. } if event_time > horizon => {
                Scanned::DeadLetter(Malformed::TimestampInFuture)
            }
            Record::Pass { event_time } => {
                source.see(event_time, now);
                Scanned::Passed
            }
            Record::Match { event_time, user } => {
                source.see(event_time, now);
                let shard = shard_of(&user, self.params.shards);
                let entries = &mut source.entries[shard.0 as usize];
                entries.push(source.open_from, Entry { offset: input.offset, time: event_time, user: &user });
                self.flush_now |= entries.bytes_len() >= FRAME_BYTES_FLUSH;
                Scanned::Matched
            }
        }
    }

    /// Notes that the reader has come to `offset` without a further record: holes of compaction, aborted records and
    /// transaction markers lie before it.
    pub fn reached(&mut self, source: SourceId, offset: InputOffset) {
        if let Some(source) = self.sources.get_mut(&source) {
            source.next = source.next.max(offset);
        }
    }

    /// Notes a check of the logs' ends: `end` is the high watermark of `source`, asked for after the wall clock was
    /// `checked_at`.
    pub fn end_observed(&mut self, source: SourceId, end: InputOffset, checked_at: Timestamp) {
        let idle_timeout_ms = self.params.idle_timeout_ms;
        if let Some(source) = self.sources.get_mut(&source) {
            let silent = checked_at.millis_since(source.last_record_at) >= idle_timeout_ms;
            source.idle_until = (silent && end == source.next).then_some(checked_at);
        }
    }

    /// Pauses and resumes sources by the global watermark; returns those that changed, true for paused.
    pub fn align(&mut self, watermark: Option<Timestamp>) -> Vec<(SourceId, bool)> {
        let max_drift_ms = self.params.max_drift_ms;
        let mut changed = Vec::new();
        for (&id, source) in &mut self.sources {
            let ahead = match (source.mark, watermark.or(source.first_mark)) {
                (Some(mark), Some(reference)) => mark.millis_since(reference) > max_drift_ms,
                _ => false,
            };
            if source.paused != ahead {
                source.paused = ahead;
                changed.push((id, ahead));
            }
        }
        changed
    }

    /// Notes that a dead letter was sent: its acknowledgement belongs to the returned round.
    pub fn await_dead_letter(&mut self) -> RoundId {
        self.dead_letters += 1;
        RoundId(self.next_round)
    }

    /// Whether a flush should not wait for the end of a batch of records.
    pub fn wants_flush(&self) -> bool {
        self.flush_now
    }

    /// The owned sources that were claimed for another topic than `topic`: it was deleted and made again.
    pub fn sources_of_another_topic(&self, topic: TopicId) -> Vec<SourceId> {
        self.sources.iter().filter(|(_, source)| source.claimed.topic != topic).map(|(&id, _)| id).collect()
    }

    /// Whether too many rounds wait for acknowledgement to read on.
    pub fn is_saturated(&self) -> bool {
        self.in_flight.len() >= ROUNDS_IN_FLIGHT_MAX
    }

    /// Whether anything was sent that is not acknowledged.
    pub fn is_settled(&self) -> bool {
        self.in_flight.is_empty() && self.dead_letters == 0
    }

    /// What is to be sent now; None if it is not time yet. `at_once` sends whatever there is.
    pub fn flush(&mut self, now: Timestamp, at_once: bool) -> Option<Round> {
        // A clock that was set back must not silence the scanner until it has caught up.
        let waited = now.millis_since(self.flushed_at).abs();
        let is_due = || waited >= self.flush_interval_ms(now);
        if !(at_once || self.flush_now || is_due()) || self.is_saturated() {
            return None;
        }
        let mut writers = Writers::new(self.params.shards);
        let mut positions = Vec::new();
        for (&id, source) in &mut self.sources {
            let header = Header { topic: source.claimed.topic, sources: self.source_count };
            if source.speak(id, now, header, &mut writers) {
                positions.push(source.position(id));
            }
        }
        (self.flushed_at, self.flush_now) = (now, false);
        let messages = writers.finish();
        let dead_letters = std::mem::take(&mut self.dead_letters);
        if messages.is_empty() && dead_letters == 0 {
            return None;
        }
        let id = RoundId(self.next_round);
        self.next_round += 1;
        for source in self.sources.values_mut().filter(|source| source.claim == ClaimFrame::Queued) {
            source.claim = ClaimFrame::Sent(id);
        }
        self.in_flight.push_back(InFlight { id, unacknowledged: messages.len() + dead_letters, positions });
        Some(Round { id, messages })
    }

    fn flush_interval_ms(&self, now: Timestamp) -> i64 {
        let last_record_at = self.sources.values().map(|source| source.last_record_at).max();
        if last_record_at.is_some_and(|at| now.millis_since(at).abs() >= self.params.flush_interval_ms) {
            return self.params.flush_interval_ms;
        }
        // The most advanced source: what is near the clock shall not wait for what is not.
        let newest = self.sources.values().filter_map(|source| source.mark).max();
        let behind_ms = newest.map_or(0, |mark| now.millis_since(mark));
        let patience_ms = (behind_ms / FLUSH_PART_OF_BEHIND).min(FLUSH_INTERVAL_BEHIND_MS);
        self.params.flush_interval_ms.max(patience_ms)
    }

    /// Notes that one message or dead letter of a round was acknowledged.
    pub fn acknowledged(&mut self, round: RoundId) {
        match self.in_flight.iter_mut().find(|in_flight| in_flight.id == round) {
            Some(in_flight) => in_flight.unacknowledged = in_flight.unacknowledged.saturating_sub(1),
            // A dead letter may be acknowledged before its round is flushed.
            None if round.0 == self.next_round => self.dead_letters = self.dead_letters.saturating_sub(1),
            None => {}
        }
        while let Some(first) = self.in_flight.front()
            && first.unacknowledged == 0
        {
            let done = self.in_flight.pop_front().expect("it was looked at");
            self.committable.extend(done.positions.into_iter().map(|position| (position.source, position)));
            for (&id, source) in &mut self.sources {
                if source.claim == ClaimFrame::Sent(done.id) {
                    source.claim = ClaimFrame::Acknowledged;
                    self.readable.push((id, source.next));
                }
            }
        }
    }

    /// The sources that may be read since the last call, each with the offset to read from.
    pub fn take_readable(&mut self) -> Vec<(SourceId, InputOffset)> {
        std::mem::take(&mut self.readable)
    }

    /// The offsets that have become committable since the last call.
    pub fn take_committable(&mut self) -> Vec<Committable> {
        std::mem::take(&mut self.committable).into_values().collect()
    }

    /// The sources owned now.
    pub fn views(&self) -> impl Iterator<Item = View> + '_ {
        self.sources.iter().map(|(&source, owned)| View {
            source,
            next: owned.next,
            mark: owned.mark,
            paused: owned.paused,
            idle: owned.said_idle,
        })
    }
}

impl Source {
    /// Moves the mark, but not beyond the present: a clock that runs ahead must not close everybody's windows.
    fn see(&mut self, event_time: Timestamp, now: Timestamp) {
        self.mark = self.mark.max(Some(event_time.min(now)));
        self.first_mark = self.first_mark.or(self.mark);
    }

    /// Writes what there is to say; whether offsets moved by it.
    fn speak(&mut self, id: SourceId, now: Timestamp, header: Header, writers: &mut Writers) -> bool {
        let due = self.spoken_at.is_none_or(|at| now.millis_since(at).abs() >= SPEAK_INTERVAL_MS);
        let (progress, queued) = (self.next > self.open_from, !self.queue.is_empty());
        let moved = progress || self.queue.iter().any(|saying| saying.to > saying.from);
        while let Some(mut saying) = self.queue.pop_front() {
            let (kind, from, to, mark) = (saying.kind, saying.from, saying.to, saying.mark);
            let statement = Statement { source: id, epoch: self.claimed.epoch, kind, from, to, mark };
            writers.frames(header, &statement, &mut saying.entries);
        }
        let turned_idle = self.idle_until.is_some() && !self.said_idle;
        if progress || (!queued && (due || turned_idle)) {
            let kind = match self.idle_until {
                Some(until) if !progress => Kind::Idle { until },
                _ => Kind::Records,
            };
            let (from, to, mark) = (self.open_from, self.next, self.mark);
            let statement = Statement { source: id, epoch: self.claimed.epoch, kind, from, to, mark };
            writers.frames(header, &statement, &mut self.entries);
            self.open_from = self.next;
            self.said_idle = matches!(kind, Kind::Idle { .. });
        }
        if progress || queued || due || turned_idle {
            self.spoken_at = Some(now);
        }
        moved
    }

    fn position(&self, source: SourceId) -> Committable {
        let metadata = ScanCommit { mark: self.mark, ..self.claimed };
        Committable { source, offset: self.open_from, metadata }
    }
}

/// The messages of a round while they are written: for each shard the finished ones and the open one.
struct Writers {
    finished: Vec<(Shard, Vec<u8>)>,
    open: Vec<Option<(Header, MessageWriter)>>,
}

impl Writers {
    fn new(shards: u32) -> Writers {
        Writers { finished: Vec::new(), open: (0..shards).map(|_| None).collect() }
    }

    /// Writes a statement for every shard, each with its own of `entries`, which are emptied.
    fn frames(&mut self, header: Header, statement: &Statement, entries: &mut [Entries]) {
        let mut none = Entries::default();
        for shard in 0..self.open.len() {
            self.frame(shard, header, statement, entries.get_mut(shard).unwrap_or(&mut none));
        }
    }

    fn frame(&mut self, shard: usize, header: Header, statement: &Statement, entries: &mut Entries) {
        let room = MESSAGE_BYTES_MAX.saturating_sub(entries.bytes_len());
        let slot = &mut self.open[shard];
        if let Some((open_header, open)) = slot.take() {
            if open_header == header && open.bytes_len() < room {
                *slot = Some((open_header, open));
            } else {
                self.finished.push((shard_number(shard), open.finish()));
            }
        }
        let (_, open) = slot.get_or_insert_with(|| (header, MessageWriter::new(header)));
        open.frame(statement, entries);
    }

    fn finish(mut self) -> Vec<(Shard, Vec<u8>)> {
        for (shard, slot) in self.open.into_iter().enumerate() {
            self.finished.extend(slot.map(|(_, open)| (shard_number(shard), open.finish())));
        }
        self.finished
    }
}

fn no_entries(shards: usize) -> Vec<Entries> {
    (0..shards).map(|_| Entries::default()).collect()
}

fn shard_number(index: usize) -> Shard {
    Shard(u32::try_from(index).expect("there are as many as a u32 says"))
}
