//! One shard's state machine: frames in, results out.
//!
//! Responsible for counting, for the watermark, for what is complete, closed, late, repeated or missing. Must never
//! depend on anything but the messages of its shard, in their order: not on batching, the worker or the wall clock.
//!
//! # Rules
//! Numbers in brackets are those of the protocol in ARCHITECTURE.md.
//!
//! 1. *Chain* \[3\]. `next` of a source is the input offset after the last that was counted. A frame that begins above
//!    `next` is a gap: it is refused as a whole and reported. Entries below `next` are repeats and are dropped. Only a
//!    claim of a new epoch or a `Lost` frame moves `next` over records that nobody counted, and says so; only a claim
//!    for another input topic moves it back.
//! 2. *Epochs* \[2\]. A frame with an older epoch than the source's newest comes from a zombie and changes nothing.
//! 3. *Judgement*. An entry is judged against the watermark as it was before its message's marks.
//! 4. *Watermark*. The minimum over all sources of `mark − maxOutOfOrderness`; it holds until every source has spoken
//!    and never goes back. An idle source counts as `max(mark, until) − maxOutOfOrderness`. How a stream goes on in which
//!    all sources are idle stands in [`watermark`].
//! 5. *Windows*. A window `[start, end)` is complete when the watermark reaches `end`, and closed when
//!    `end ≤ closed_through = watermark − allowedLateness`. The one predicate [`Partition::is_closed`] decides what is
//!    dropped from memory and what is late.
//! 6. *Results are a function of state* \[9\]. After every message each user above the threshold in a complete window has
//!    been output with its present count (mode `Updates`), or none of an unclosed window has (mode `Final`). So nothing
//!    remembers what was written.
//! 7. *`o_low`* \[8\]. The lowest log offset from which a rebuild gives the same state: see [`Partition::o_low`].
//!
//! # Limits
//! Memory is one counter for each (open window, user) and one record for each source. How many windows are open is
//! bounded by alignment in [`crate::scan`]. How many users there are is not bounded here: a shard has to hold what its
//! log says. [`Partition::state_bytes`] says what that takes, and who owns shards stops reading in time.

mod fence;
mod watermark;

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use crate::commit::AggregateCommit;
use crate::frame::{Entry, Frame, Header, Kind, Message};
use crate::ids::{Epoch, InputOffset, LogOffset, SourceId, TopicId};
use crate::time::Timestamp;

pub use fence::Fences;
pub use watermark::{Anchor, Hold, HoldReason};

/// What a counter takes in memory beside the bytes of its user, in the worst case: the table has just grown and is half
/// empty, and the allocator rounds up. `make overload` measures it.
pub const COUNTER_BYTES: usize = 96;

/// When a result is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// At completion, and again with the larger count for each late record that still counts.
    #[default]
    Updates,
    /// Once, at closing.
    Final,
}

impl Mode {
    /// As results and commits say it.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Updates => "update",
            Mode::Final => "final",
        }
    }

    /// Reads what [`Mode::name`] says; `None` for anything else.
    pub fn from_name(name: &str) -> Option<Mode> {
        [Mode::Updates, Mode::Final].into_iter().find(|mode| mode.name() == name)
    }
}

/// What the state machine must know beforehand. All but the lateness are fixed for a monitor's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Params {
    /// Length of a window in milliseconds, at least 1.
    pub window_ms: i64,
    /// How long after its completion a window still counts late records, in milliseconds.
    pub allowed_lateness_ms: i64,
    /// How far a source's records may lie out of order, in milliseconds.
    pub max_out_of_orderness_ms: i64,
    /// A user is written if its count is greater than this.
    pub count_greater_than: u64,
    /// When a result is written.
    pub mode: Mode,
}

/// What the state machine wants done, in the order in which it came to be. All but [`Effect::Result`] and
/// [`Effect::Late`] are to be counted and shown; those two are to be written in the transaction that commits the frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// A user is above the threshold in an interval.
    Result(Outcome),
    /// An event came after its window was closed.
    Late(LateEvent),
    /// A frame began above `next`: the log misses `[missing_from, missing_to)` of this source; the frame was refused.
    Gap {
        /// Whose records.
        source: SourceId,
        /// First missing offset.
        missing_from: InputOffset,
        /// Offset after the last missing.
        missing_to: InputOffset,
    },
    /// `[from, to)` of this source will never be counted, as a claim or a `Lost` frame has said.
    DataLoss {
        /// Whose records.
        source: SourceId,
        /// First lost offset.
        from: InputOffset,
        /// Offset after the last lost.
        to: InputOffset,
    },
    /// A frame of an older epoch was ignored.
    Stale {
        /// The source that it claimed to speak for.
        source: SourceId,
    },
}

/// One line of the output: a user, an interval, a count.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Outcome {
    /// First instant of the interval.
    pub start: Timestamp,
    /// The instant after the interval's last.
    pub end: Timestamp,
    /// Whose crashes.
    pub user: String,
    /// How many.
    pub count: u64,
}

/// An event that came too late to count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LateEvent {
    /// Where it stands in the input.
    pub source: SourceId,
    /// Where it stands in its partition.
    pub offset: InputOffset,
    /// When it happened.
    pub time: Timestamp,
    /// Whose crash it was.
    pub user: String,
    /// Through when windows were closed when it came.
    pub closed_through: Timestamp,
}

/// What is known of one source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// The newest claim.
    pub epoch: Epoch,
    /// The input topic that claim is for.
    pub topic: TopicId,
    /// How many partitions the source last said the input has.
    pub announced: u32,
    /// The input offset after the last that was counted.
    pub next: InputOffset,
    /// The running mark.
    pub mark: Option<Timestamp>,
    /// Since its last frame: idle up to this instant.
    pub idle_until: Option<Timestamp>,
    /// The log offsets of the last frame, of the one that set `next`, and of the one that set `mark`.
    pub last_at: LogOffset,
    /// Where `next` was last said.
    pub next_at: LogOffset,
    /// Where `mark` was last said.
    pub mark_at: LogOffset,
}

/// The counts of one interval.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Window {
    /// The log offset of the first event counted here.
    pub first_at: LogOffset,
    /// Crashes by user, each at least 1.
    pub users: FxHashMap<Box<str>, u64>,
    /// The bytes of all these users.
    pub users_bytes: usize,
}

impl Window {
    /// One without counts; `first_at` is the log offset of the first event that will be counted here.
    pub fn new(first_at: LogOffset) -> Window {
        Window { first_at, users: FxHashMap::default(), users_bytes: 0 }
    }

    /// Puts a user in that is not there yet.
    pub fn insert(&mut self, user: &str, count: u64) {
        self.users_bytes += user.len();
        self.users.insert(user.into(), count);
    }
}

/// Whether frames take full effect or only rebuild what is known to have been written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Live,
    /// Replaying committed frames: results were written, the watermark is already known.
    Muted,
}

/// The state of one shard. `Clone` and `PartialEq` serve snapshots and tests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Partition {
    pub(crate) params: Params,
    phase: Phase,
    pub(crate) sources: BTreeMap<SourceId, Source>,
    pub(crate) source_count: u32,
    pub(crate) watermark: Option<Timestamp>,
    pub(crate) closed_through: Option<Timestamp>,
    pub(crate) anchor: Option<Anchor>,
    /// By start in milliseconds.
    pub(crate) windows: BTreeMap<i64, Window>,
    pub(crate) fences: Fences,
    /// The log offset after the last applied.
    pub(crate) position: LogOffset,
}

impl Partition {
    /// The state before the first message of a log that begins at `position`.
    pub fn new(params: Params, position: LogOffset) -> Partition {
        Partition {
            params,
            phase: Phase::Live,
            sources: BTreeMap::new(),
            source_count: 0,
            watermark: None,
            closed_through: None,
            anchor: None,
            windows: BTreeMap::new(),
            fences: Fences::default(),
            position,
        }
    }

    /// A state to be rebuilt by a muted replay that starts at `position`: what the messages before it did is unknown,
    /// what the whole of the replay must arrive at is `commit`.
    pub fn rebuild(params: Params, position: LogOffset, commit: &AggregateCommit) -> Partition {
        Partition::new(params, position).into_muted(commit)
    }

    /// Mutes a restored snapshot for the replay up to `commit`.
    #[must_use]
    pub fn into_muted(mut self, commit: &AggregateCommit) -> Partition {
        self.phase = Phase::Muted;
        // Known from the beginning, so that a replay never holds windows that its end would drop.
        self.closed_through = commit.closed_through;
        self.drop_closed();
        self
    }

    /// Ends the muted replay: watermark and closing are exactly the committed ones \[8\]. A higher watermark would
    /// count results as written that nobody wrote; a lower one would write them twice.
    pub fn unmute(&mut self, commit: &AggregateCommit) {
        self.phase = Phase::Live;
        self.watermark = commit.watermark;
        self.closed_through = commit.closed_through;
        self.source_count = commit.source_count;
        self.anchor = commit.anchor;
        self.drop_closed();
    }

    /// Applies the message at log offset `at`, which is never below an offset applied before.
    pub fn apply(&mut self, at: LogOffset, message: &Message<'_>, effects: &mut Vec<Effect>) {
        debug_assert!(at >= self.position, "offset {at} applied at position {}", self.position);
        self.position = at.next();
        let mut touched = Vec::new();
        for frame in &message.frames {
            if self.accept(at, &message.header, frame, effects) {
                self.count(at, frame, &mut touched, effects);
            }
        }
        self.update_results(touched, effects);
        self.advance(effects);
    }

    /// The log offset after the last applied message.
    pub fn position(&self) -> LogOffset {
        self.position
    }

    /// The watermark; None until every source has spoken.
    pub fn watermark(&self) -> Option<Timestamp> {
        self.watermark
    }

    /// Through when windows are closed.
    pub fn closed_through(&self) -> Option<Timestamp> {
        self.closed_through
    }

    /// How many windows are open.
    pub fn open_windows(&self) -> usize {
        self.windows.len()
    }

    /// How many counters are held.
    pub fn open_pairs(&self) -> usize {
        self.windows.values().map(|window| window.users.len()).sum()
    }

    /// What the counters take in memory, as far as that can be told: [`COUNTER_BYTES`] for each, and its user.
    pub fn state_bytes(&self) -> usize {
        self.windows.values().map(|window| window.users.len() * COUNTER_BYTES + window.users_bytes).sum()
    }

    /// What is known of the sources.
    pub fn sources(&self) -> &BTreeMap<SourceId, Source> {
        &self.sources
    }

    /// Whether a window with this end is closed: its results are final and a record for it is late.
    pub fn is_closed(&self, end: i64) -> bool {
        self.closed_through.is_some_and(|through| end <= through.as_millis())
    }

    /// The lowest log offset that must be replayed to rebuild this state with the help of [`Partition::to_commit`].
    ///
    /// That is the first that contributes to an open window or says what is known of a source; lowered where it would
    /// lie between a refused or repeated frame and the one before it that said `next`, because a rebuild that starts
    /// there would take the refused frame for the source's first ([`Fences`]). It never goes back.
    pub fn o_low(&self) -> LogOffset {
        let windows = self.windows.values().map(|window| window.first_at);
        let sources = self.sources.values().flat_map(|s| [s.last_at, s.next_at, s.mark_at]);
        let lowest = windows.chain(sources).min().unwrap_or(self.position);
        self.fences.lower(lowest)
    }

    /// What the next commit must say of this state. Forgets the fences that no rebuild can meet any more.
    pub fn to_commit(&mut self, log_topic: TopicId) -> AggregateCommit {
        let o_low = self.o_low();
        self.fences.forget_below(o_low);
        AggregateCommit {
            o_low,
            watermark: self.watermark,
            closed_through: self.closed_through,
            source_count: self.source_count,
            log_topic,
            anchor: self.anchor,
            window_ms: self.params.window_ms,
            mode: self.params.mode,
        }
    }

    fn window_start(&self, time: Timestamp) -> i64 {
        time.as_millis() - time.as_millis().rem_euclid(self.params.window_ms)
    }

    /// Decides whether a frame takes effect, and notes what it says of its source.
    fn accept(
        &mut self,
        at: LogOffset,
        header: &Header,
        frame: &Frame<'_>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        match self.sources.get(&frame.source) {
            None => {
                // A rebuild begins anywhere in a source's life; a live log begins with a claim. Without one the log has
                // lost its beginning. The frame is taken all the same, because a rebuild could not tell the two apart.
                if frame.kind != Kind::Claim {
                    let (source, missing_to) = (frame.source, frame.from);
                    self.report(Effect::Gap { source, missing_from: InputOffset(0), missing_to }, effects);
                }
                self.meet(at, header, frame);
                return true;
            }
            Some(source) => {
                if let Some(refusal) = refuse(source, frame) {
                    self.fences.forbid(frame.source, source.next_at, at);
                    self.report(refusal, effects);
                    return false;
                }
                if repeats(source, header, frame) {
                    self.fences.forbid(frame.source, source.next_at, at);
                }
            }
        }
        let loss = self.follow(at, header, frame);
        self.refresh_sources(header, frame);
        if let Some(loss) = loss {
            self.report(loss, effects);
        }
        true
    }

    /// Notes a source that speaks for the first time.
    fn meet(&mut self, at: LogOffset, header: &Header, frame: &Frame<'_>) {
        let source = Source {
            epoch: frame.epoch,
            topic: header.topic,
            announced: header.sources,
            // Its own entries are still to be counted, so not yet `to`.
            next: frame.from,
            mark: None,
            idle_until: None,
            last_at: at,
            next_at: at,
            mark_at: at,
        };
        self.sources.insert(frame.source, source);
        self.refresh_sources(header, frame);
    }

    /// Notes what an accepted frame of a known source says, all but its entries, mark and idleness.
    fn follow(&mut self, at: LogOffset, header: &Header, frame: &Frame<'_>) -> Option<Effect> {
        let source = self.sources.get_mut(&frame.source).expect("the caller found it");
        let recreated = frame.kind == Kind::Claim && source.topic != header.topic;
        let lost_from = source.next;
        if frame.kind == Kind::Claim {
            source.epoch = frame.epoch;
            source.topic = header.topic;
            if recreated || frame.from > source.next {
                (source.next, source.next_at) = (frame.from, at);
            }
        }
        let lost_to = match frame.kind {
            Kind::Claim if !recreated => frame.from,
            Kind::Lost => frame.to,
            Kind::Claim | Kind::Records | Kind::Idle { .. } => InputOffset(0),
        };
        source.announced = header.sources;
        source.last_at = at;
        let id = frame.source;
        (lost_to > lost_from).then_some(Effect::DataLoss { source: id, from: lost_from, to: lost_to })
    }

    /// Forgets the partitions that a recreated input topic lacks, and counts those that there are.
    fn refresh_sources(&mut self, header: &Header, frame: &Frame<'_>) {
        // At every claim, not only at the one that names another topic than before: a rebuild may not have met an
        // earlier frame of its source.
        if frame.kind == Kind::Claim {
            self.sources.retain(|id, s| s.topic == header.topic || id.0 < header.sources);
        }
        // Max, because a source that has not yet seen new partitions must not hide them.
        let counts = self.sources.iter().map(|(id, source)| source.announced.max(id.0 + 1));
        self.source_count = counts.max().unwrap_or(0);
    }

    /// Counts an accepted frame's entries, then takes its end, mark and idleness.
    ///
    /// Adds to `touched` what changed in windows that were already complete.
    fn count<'m>(
        &mut self,
        at: LogOffset,
        frame: &Frame<'m>,
        touched: &mut Vec<(i64, &'m str)>,
        effects: &mut Vec<Effect>,
    ) {
        let next = self.sources[&frame.source].next;
        for entry in frame.entries.iter().filter(|entry| entry.offset >= next) {
            let start = self.window_start(entry.time);
            let end = start + self.params.window_ms;
            if self.is_closed(end) {
                self.report_late(frame.source, entry, effects);
                continue;
            }
            let window = self.windows.entry(start).or_insert_with(|| Window::new(at));
            match window.users.get_mut(entry.user) {
                Some(count) => *count += 1,
                None => window.insert(entry.user, 1),
            }
            if self.is_complete(end) {
                touched.push((start, entry.user));
            }
        }
        let source = self.sources.get_mut(&frame.source).expect("accept() put it there");
        let at_the_end = frame.from == frame.to && frame.to == source.next;
        if frame.to >= source.next {
            (source.next, source.next_at) = (frame.to, at);
        }
        if frame.mark >= source.mark {
            (source.mark, source.mark_at) = (frame.mark, at);
        }
        source.idle_until = match frame.kind {
            Kind::Idle { until } if at_the_end => Some(until),
            _ => None,
        };
    }

    fn is_complete(&self, end: i64) -> bool {
        self.watermark.is_some_and(|watermark| end <= watermark.as_millis())
    }

    /// Outputs the larger counts of windows that were complete before the message, each user once.
    fn update_results(&self, mut touched: Vec<(i64, &str)>, effects: &mut Vec<Effect>) {
        if self.params.mode == Mode::Final || self.phase == Phase::Muted {
            return;
        }
        touched.sort_unstable();
        touched.dedup();
        for (start, user) in touched {
            let count = self.windows[&start].users[user];
            self.output(start, user, count, effects);
        }
    }

    fn output(&self, start: i64, user: &str, count: u64, effects: &mut Vec<Effect>) {
        if count > self.params.count_greater_than {
            effects.push(Effect::Result(Outcome {
                start: Timestamp::from_millis(start),
                end: Timestamp::from_millis(start + self.params.window_ms),
                user: user.to_owned(),
                count,
            }));
        }
    }

    fn output_window(&self, start: i64, effects: &mut Vec<Effect>) {
        let mut users: Vec<(&str, u64)> =
            self.windows[&start].users.iter().map(|(user, &count)| (&**user, count)).collect();
        // A hash map's order is not part of the state.
        users.sort_unstable();
        for (user, count) in users {
            self.output(start, user, count, effects);
        }
    }

    /// Moves the watermark as far as the sources allow; completes and closes what it passes.
    fn advance(&mut self, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Muted {
            return;
        }
        let before = (self.watermark, self.closed_through);
        watermark::advance(self);
        let Some(watermark) = self.watermark else { return };
        let through = watermark.plus_millis(-self.params.allowed_lateness_ms);
        self.closed_through = self.closed_through.max(Some(through));
        // Closing may move alone: the lateness may have been set lower since the watermark last moved.
        if (self.watermark, self.closed_through) == before {
            return;
        }
        if self.params.mode == Mode::Updates {
            for start in self.windows_ending(before.0, watermark) {
                self.output_window(start, effects);
            }
        } else {
            let closed: Vec<i64> = self.closed_windows().collect();
            for start in closed {
                self.output_window(start, effects);
            }
        }
        self.drop_closed();
    }

    /// Starts of the windows that end in `(after, through]`.
    fn windows_ending(&self, after: Option<Timestamp>, through: Timestamp) -> Vec<i64> {
        let ends = |start: i64| start + self.params.window_ms;
        let passed = self.windows.keys().copied().take_while(|&start| ends(start) <= through.as_millis());
        passed.filter(|&start| after.is_none_or(|after| ends(start) > after.as_millis())).collect()
    }

    fn closed_windows(&self) -> impl Iterator<Item = i64> + '_ {
        self.windows.keys().copied().take_while(|start| self.is_closed(start + self.params.window_ms))
    }

    fn drop_closed(&mut self) {
        while let Some(window) = self.windows.first_entry()
            && self.closed_through.is_some_and(|t| window.key() + self.params.window_ms <= t.as_millis())
        {
            window.remove();
        }
    }

    fn report(&self, effect: Effect, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Live {
            effects.push(effect);
        }
    }

    fn report_late(&self, source: SourceId, entry: &Entry<'_>, effects: &mut Vec<Effect>) {
        let closed_through = self.closed_through.expect("late only against a closing");
        let (offset, time, user) = (entry.offset, entry.time, entry.user.to_owned());
        self.report(Effect::Late(LateEvent { source, offset, time, user, closed_through }), effects);
    }
}

/// Whether an accepted frame begins below what was counted or is known to be lost. A rebuild that met it first would
/// count what is lost, and wait for records that nobody sends again.
fn repeats(source: &Source, header: &Header, frame: &Frame<'_>) -> bool {
    let recreated = frame.kind == Kind::Claim && source.topic != header.topic;
    frame.from < source.next && !recreated
}

/// Why a frame of a known source takes no effect, if it takes none.
fn refuse(source: &Source, frame: &Frame<'_>) -> Option<Effect> {
    let gap = |to| Effect::Gap { source: frame.source, missing_from: source.next, missing_to: to };
    if frame.epoch < source.epoch {
        return Some(Effect::Stale { source: frame.source });
    }
    match frame.kind {
        // A claim with a known epoch is a claim that was refused at its commit: nobody reads under it.
        Kind::Claim if frame.epoch == source.epoch => Some(Effect::Stale { source: frame.source }),
        Kind::Claim => None,
        // The claim of this epoch comes before all its frames, so the log has lost it.
        _ if frame.epoch > source.epoch => Some(gap(frame.from.max(source.next))),
        _ if frame.from > source.next => Some(gap(frame.from)),
        _ => None,
    }
}
