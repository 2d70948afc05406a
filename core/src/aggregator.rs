//! The second stage: the shards that one worker owns, from assignment to commit.
//!
//! Responsible for which shard is being recovered, replayed or counted, for what goes into the next transaction, and for
//! what happens after it. Must never let anything be written of a shard that is not live, nor keep state across a
//! transaction that was not confirmed.
//!
//! The driver owns the clients and does what it is told, in this order:
//!
//! ```text
//! assign ─► facts of every undecided shard ─► decide ─► read from the offset it says
//! records ─► record() … ─► wants_commit()? ─► transaction() ─► committed() ─► snapshots, purges
//!                                                         └─► aborted()   ─► facts of every undecided shard …
//! ```
//!
//! There is one way back \[7\]: a transaction that was aborted, or whose outcome is unknown, or a rebalance that takes a
//! shard, throws its state away, and recovery runs as after a crash. No partial rewind exists.

pub mod drive;
pub mod look;

use std::collections::BTreeMap;

use crate::aggregate::{Effect, Hold, LateEvent, Mode, Outcome, Params, Partition};
use crate::codec;
use crate::commit::AggregateCommit;
use crate::frame::Message;
use crate::ids::{LogOffset, Shard, TopicId};
use crate::recovery::{self, DataLoss, Decision, WithoutSnapshot};
use crate::snapshot::{self, Identity};
use crate::time::Timestamp;

use look::{Lateness, Look, Users};

/// When to commit and to take snapshots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cadence {
    /// With nothing to write, offsets are committed this often, in milliseconds.
    pub commit_interval_ms: i64,
    /// A snapshot of each shard is taken this often, in milliseconds.
    pub snapshot_interval_ms: i64,
    /// Offsets are committed early when the watermark has moved by this much, in milliseconds of event time: scanners
    /// that alignment holds wait for the committed watermark.
    pub commit_drift_ms: i64,
}

/// How a shard's state came to be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Recovery {
    /// The monitor's first start.
    FirstStart,
    /// From a snapshot.
    Snapshot,
    /// From the log alone.
    Replay(WithoutSnapshot),
}

/// Where the driver must read a shard from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Begin {
    /// The offset.
    pub read_from: LogOffset,
    /// How the state came to be.
    pub recovery: Recovery,
}

/// What one transaction writes and commits.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Transaction {
    /// Results, in order.
    pub results: Vec<Outcome>,
    /// Late events, in order.
    pub late: Vec<LateEvent>,
    /// Offsets with their metadata.
    pub offsets: Vec<(Shard, LogOffset, AggregateCommit)>,
}

/// What is to be counted and shown, without a place in a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// Of which shard.
    pub shard: Shard,
    /// [`Effect::Gap`], [`Effect::DataLoss`] or [`Effect::Stale`].
    pub effect: Effect,
}

/// What follows a confirmed transaction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Confirmed {
    /// Snapshots to be stored, off the path of results.
    pub snapshots: Vec<(Shard, Vec<u8>)>,
    /// Records before these offsets are no longer needed by anybody.
    pub purgeable: Vec<(Shard, LogOffset)>,
}

/// Why a record of the repartition topic can't be taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// It can't be decoded. The worker stops: a frame that is skipped is a count that is lost.
    #[error("repartition partition {shard}, offset {at}: {error}")]
    Unreadable {
        /// The shard.
        shard: Shard,
        /// The offset.
        at: LogOffset,
        /// Why.
        error: codec::Error,
    },
    /// The reader left records out. The topic has no holes (it is neither compacted nor written in transactions), so the
    /// reader is wrong, or records were deleted: the state is thrown away and recovered.
    #[error("repartition partition {shard}: offset {at} came where {expected} was expected")]
    Skipped {
        /// The shard.
        shard: Shard,
        /// The offset that should have come.
        expected: LogOffset,
        /// The one that came.
        at: LogOffset,
    },
    /// There is no room for more counts. Nothing is dropped: reading stops, and goes on from there when there is.
    #[error("{}", full(*.0))]
    Full(Size),
}

/// What a person is told.
fn full(Size { counters, bytes, bytes_max }: Size) -> String {
    format!(
        "worker.stateMemoryMax: {counters} counts take {} MiB of the {} MiB that they may; nothing is lost, but nothing is \
         counted until there is room: add workers, or give each more memory and start it again",
        bytes >> 20,
        bytes_max >> 20
    )
}

/// What the counts of all owned shards take, and may take, in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// Counters: pairs of an open window and a user.
    pub counters: usize,
    /// What they take, in bytes: see [`Partition::state_bytes`].
    pub bytes: usize,
    /// What they may take; nothing is read while they take as much.
    pub bytes_max: usize,
}

impl Size {
    /// Whether nothing may be read.
    pub fn is_full(self) -> bool {
        self.bytes >= self.bytes_max
    }
}

/// What the operator and the metrics want to know of a shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// The shard.
    pub shard: Shard,
    /// Whether it counts; otherwise it is being recovered.
    pub live: bool,
    /// How its state came to be; None before that is decided.
    pub recovery: Option<Recovery>,
    /// The next offset to read.
    pub position: Option<LogOffset>,
    /// The last committed offset.
    pub committed: Option<LogOffset>,
    /// The watermark.
    pub watermark: Option<Timestamp>,
    /// Through when windows are closed.
    pub closed_through: Option<Timestamp>,
    /// Who keeps the watermark from moving.
    pub held_by: Option<Hold>,
    /// Open windows.
    pub open_windows: usize,
    /// Counters in them.
    pub open_pairs: usize,
}

#[derive(Debug)]
enum Slot {
    /// Assigned; its facts are to be read.
    Undecided,
    /// A muted replay runs up to `until`.
    Replaying { state: Box<Partition>, until: LogOffset, commit: AggregateCommit, recovery: Recovery },
    /// It counts.
    Live(Box<Live>),
}

#[derive(Debug)]
struct Live {
    state: Partition,
    recovery: Recovery,
    /// None before the first commit of a first start.
    committed: Option<LogOffset>,
    committed_watermark: Option<Timestamp>,
    snapshot_at: Option<Timestamp>,
    /// What the next transaction writes. With the shard, so that giving it up drops them: without its offset they would
    /// be written twice.
    results: Vec<Outcome>,
    late: Vec<LateEvent>,
}

/// The shards that one worker owns.
#[derive(Debug)]
pub struct Aggregator {
    params: Params,
    cadence: Cadence,
    monitor: String,
    log_topic: TopicId,
    slots: BTreeMap<Shard, Slot>,
    notices: Vec<Notice>,
    /// What the transaction under way commits.
    in_transaction: Vec<(Shard, LogOffset, AggregateCommit)>,
    committed_at: Option<Timestamp>,
    state_bytes_max: usize,
    lateness: Lateness,
}

impl Aggregator {
    /// Owns nothing yet. `monitor` is the monitor's uid, `log_topic` the repartition topic's identity.
    pub fn new(params: Params, cadence: Cadence, monitor: String, log_topic: TopicId) -> Aggregator {
        Aggregator {
            params,
            cadence,
            monitor,
            log_topic,
            slots: BTreeMap::new(),
            notices: Vec::new(),
            in_transaction: Vec::new(),
            committed_at: None,
            state_bytes_max: usize::MAX,
            lateness: Lateness::default(),
        }
    }

    /// Takes nothing in while the counts take this much, of all shards together: they share the memory of a process.
    #[must_use]
    pub fn with_state_bytes_max(mut self, bytes: usize) -> Aggregator {
        self.state_bytes_max = bytes;
        self
    }

    /// What the counts take.
    pub fn size(&self) -> Size {
        let states = self.slots.values().filter_map(Slot::state);
        let (counters, bytes) = states.fold((0, 0), |(counters, bytes), state| {
            (counters + state.open_pairs(), bytes + state.state_bytes())
        });
        Size { counters, bytes, bytes_max: self.state_bytes_max }
    }

    /// Where each shard whose state is there must be read on.
    pub fn positions(&self) -> Vec<(Shard, LogOffset)> {
        let position = |(&shard, slot): (&Shard, &Slot)| Some((shard, slot.state()?.position()));
        self.slots.iter().filter_map(position).collect()
    }

    /// Takes over a shard; its facts are to be read next.
    pub fn assign(&mut self, shard: Shard) {
        self.slots.insert(shard, Slot::Undecided);
    }

    /// Gives a shard up; its state is dropped, and with it what it had still to write: its next owner will.
    pub fn revoke(&mut self, shard: Shard) {
        self.slots.remove(&shard);
    }

    /// The shards whose facts are to be read.
    pub fn undecided(&self) -> Vec<Shard> {
        let undecided = self.slots.iter().filter(|(_, slot)| matches!(slot, Slot::Undecided));
        undecided.map(|(&shard, _)| shard).collect()
    }

    /// The identity that a snapshot of `shard` must have.
    pub fn identity(&self, shard: Shard) -> Identity {
        Identity { monitor: self.monitor.clone(), log_topic: self.log_topic, shard }
    }

    /// Decides how a shard's state comes to be.
    ///
    /// # Errors
    /// [`DataLoss`] if counting can't go on; the worker stops and says which.
    pub fn decide(&mut self, shard: Shard, facts: recovery::Facts) -> Result<Begin, DataLoss> {
        let (slot, begin) = match recovery::decide(facts, &self.identity(shard), &self.params) {
            Decision::Stop(loss) => return Err(loss),
            Decision::FirstStart { at } => {
                let recovery = Recovery::FirstStart;
                let state = Partition::new(self.params, at);
                let live = Live::new(state, recovery, None, None);
                (Slot::Live(Box::new(live)), Begin { read_from: at, recovery })
            }
            Decision::Load { snapshot, until, commit } => {
                let read_from = snapshot.state.position();
                let state = Box::new(snapshot.state.into_muted(&commit));
                let recovery = Recovery::Snapshot;
                (Slot::Replaying { state, until, commit, recovery }, Begin { read_from, recovery })
            }
            Decision::Replay { reason, until, commit } => {
                let read_from = commit.o_low;
                let state = Box::new(Partition::rebuild(self.params, read_from, &commit));
                let recovery = Recovery::Replay(reason);
                (Slot::Replaying { state, until, commit, recovery }, Begin { read_from, recovery })
            }
        };
        self.slots.insert(shard, slot);
        self.reached(shard, begin.read_from);
        Ok(begin)
    }

    /// Takes in one record of the repartition topic.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn record(&mut self, shard: Shard, at: LogOffset, value: &[u8]) -> Result<(), Refused> {
        let size = self.size();
        if size.is_full() {
            return Err(Refused::Full(size));
        }
        let (state, mut live) = match self.slots.get_mut(&shard) {
            // Records of a shard that is gone, or not decided yet, are still in the reader's queue.
            None | Some(Slot::Undecided) => return Ok(()),
            Some(Slot::Replaying { state, .. }) => (&mut **state, None),
            Some(Slot::Live(live)) => (&mut live.state, Some((&mut live.results, &mut live.late))),
        };
        let expected = state.position();
        if at < expected {
            return Ok(());
        }
        if at > expected {
            return Err(Refused::Skipped { shard, expected, at });
        }
        let message = Message::decode(value).map_err(|error| Refused::Unreadable { shard, at, error })?;
        if live.is_some() {
            self.lateness.observe(state, &message);
        }
        let mut effects = Vec::new();
        state.apply(at, &message, &mut effects);
        for effect in effects {
            match (effect, &mut live) {
                (Effect::Result(outcome), Some((results, _))) => results.push(outcome),
                (Effect::Late(event), Some((_, late))) => late.push(event),
                (effect, _) => self.notices.push(Notice { shard, effect }),
            }
        }
        self.reached(shard, at.next());
        Ok(())
    }

    /// Notes that the reader has come to `offset`; ends a replay that has come to its end.
    pub fn reached(&mut self, shard: Shard, offset: LogOffset) {
        let done = matches!(self.slots.get(&shard), Some(Slot::Replaying { until, .. }) if offset >= *until);
        if done
            && let Some(Slot::Replaying { mut state, until, commit, recovery }) = self.slots.remove(&shard)
        {
            state.unmute(&commit);
            let live = Live::new(*state, recovery, Some(until), commit.watermark);
            self.slots.insert(shard, Slot::Live(Box::new(live)));
        }
    }

    /// Whether it is time for a transaction.
    pub fn wants_commit(&self, now: Timestamp) -> bool {
        // A clock that was set back must not stop commits until it has caught up.
        let waited =
            self.committed_at.is_none_or(|at| now.millis_since(at).abs() >= self.cadence.commit_interval_ms);
        self.lives().any(|(_, live)| {
            live.committed.is_none()
                || !live.results.is_empty()
                || !live.late.is_empty()
                || (waited && live.moved())
                || live.drift_ms() >= self.cadence.commit_drift_ms
        })
    }

    /// What to write and commit now. The driver must answer with [`Aggregator::committed`] or [`Aggregator::aborted`].
    pub fn transaction(&mut self) -> Transaction {
        let log_topic = self.log_topic;
        let mut transaction = Transaction::default();
        for (&shard, slot) in &mut self.slots {
            if let Slot::Live(live) = slot
                && (live.moved() || live.committed.is_none())
            {
                transaction.results.append(&mut live.results);
                transaction.late.append(&mut live.late);
                transaction.offsets.push((shard, live.state.position(), live.state.to_commit(log_topic)));
            }
        }
        self.in_transaction.clone_from(&transaction.offsets);
        transaction
    }

    /// The transaction is confirmed.
    pub fn committed(&mut self, now: Timestamp) -> Confirmed {
        self.committed_at = Some(now);
        let mut confirmed = Confirmed::default();
        for (shard, offset, commit) in std::mem::take(&mut self.in_transaction) {
            let identity = self.identity(shard);
            let Some(Slot::Live(live)) = self.slots.get_mut(&shard) else { continue };
            live.committed = Some(offset);
            live.committed_watermark = commit.watermark;
            confirmed.purgeable.push((shard, commit.o_low));
            let interval_ms = self.cadence.snapshot_interval_ms;
            if live.snapshot_at.is_none_or(|at| now.millis_since(at).abs() >= interval_ms) {
                live.snapshot_at = Some(now);
                confirmed.snapshots.push((shard, snapshot::encode(&identity, &live.state)));
            }
        }
        confirmed
    }

    /// The transaction was aborted or its outcome is unknown: all state is thrown away \[7\].
    pub fn aborted(&mut self) {
        self.in_transaction.clear();
        for slot in self.slots.values_mut() {
            *slot = Slot::Undecided;
        }
    }

    /// What has come up to be counted and shown since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// When results are written.
    pub fn mode(&self) -> Mode {
        self.params.mode
    }

    /// The shards owned now.
    pub fn views(&self) -> Vec<View> {
        self.slots.iter().map(|(&shard, slot)| slot.view(shard)).collect()
    }

    /// The counts, for a person to look at: see [`look`].
    pub fn look(&self, users: Users) -> Look {
        // What is being replayed tells of the past, and of watermarks that are not known yet.
        let states: Vec<&Partition> = self.lives().map(|(_, live)| &live.state).collect();
        look::look(&states, users)
    }

    /// How late crashes came since the process began.
    pub fn lateness(&self) -> Lateness {
        self.lateness
    }

    /// The live state of a shard, for tests and checks.
    pub fn live_state(&self, shard: Shard) -> Option<&Partition> {
        match self.slots.get(&shard) {
            Some(Slot::Live(live)) => Some(&live.state),
            _ => None,
        }
    }

    fn lives(&self) -> impl Iterator<Item = (Shard, &Live)> {
        self.slots.iter().filter_map(|(&shard, slot)| match slot {
            Slot::Live(live) => Some((shard, &**live)),
            _ => None,
        })
    }
}

impl Live {
    fn new(
        state: Partition,
        recovery: Recovery,
        committed: Option<LogOffset>,
        committed_watermark: Option<Timestamp>,
    ) -> Live {
        let (results, late) = (Vec::new(), Vec::new());
        Live { state, recovery, committed, committed_watermark, snapshot_at: None, results, late }
    }

    fn moved(&self) -> bool {
        self.committed != Some(self.state.position())
    }

    fn drift_ms(&self) -> i64 {
        match (self.state.watermark(), self.committed_watermark) {
            (Some(watermark), Some(committed)) => watermark.millis_since(committed),
            // The first watermark is what alignment waits for most.
            (Some(_), None) => i64::MAX,
            (None, _) => 0,
        }
    }
}

impl Slot {
    fn state(&self) -> Option<&Partition> {
        match self {
            Slot::Undecided => None,
            Slot::Replaying { state, .. } => Some(state),
            Slot::Live(live) => Some(&live.state),
        }
    }

    fn view(&self, shard: Shard) -> View {
        let state = self.state();
        let (live, recovery, committed) = match self {
            Slot::Undecided => (false, None, None),
            Slot::Replaying { until, recovery, .. } => (false, Some(*recovery), Some(*until)),
            Slot::Live(live) => (true, Some(live.recovery), live.committed),
        };
        View {
            shard,
            live,
            recovery,
            position: state.map(Partition::position),
            committed,
            watermark: state.and_then(Partition::watermark),
            closed_through: state.and_then(Partition::closed_through),
            held_by: state.and_then(Partition::held_by),
            open_windows: state.map_or(0, Partition::open_windows),
            open_pairs: state.map_or(0, Partition::open_pairs),
        }
    }
}
