//! What the aggregate loop does next: events of the group, records and answers in, effects out, one at a time.
//!
//! Responsible for the order in which the loop touches the world: fence before facts, facts before reads, writes and
//! offsets before the end of their transaction, the end before anything that follows from it; and for the one way back
//! when something fails. Must never hand out an effect before the one before it is answered: a worker may die between any
//! two, and the simulator lets it.
//!
//! ```text
//! assigned ─► Read(nothing)                              the group is answered at once
//!             MakeProducer ─► ReadFacts ─► Read(starts)  recovery of every undecided shard [6, 7]
//! records  ─► Begin ─► Write ─► SendOffsets ─► AwaitWrites ─► End ─► Keep
//! revoked  ─► the same, if there is anything to commit, then Release
//! failed   ─► DropProducer ─► Release(everything)        then recovery, after a pause [7]
//! full     ─► Release(everything)                        state stays; Read(on) when there is room again
//! ```
//!
//! The loop asks [`Drive::next`] until it says None, carries out each effect and answers it with [`Drive::done`],
//! [`Drive::facts`] or [`Drive::failed`]; only then it looks for events and records. `M` is the group's metadata as the
//! client knows it: it is taken with the event that it belongs to, and goes with every commit until the next one.

use std::collections::{BTreeSet, VecDeque};

use super::{Aggregator, Begin, Confirmed, Notice, Refused, Size, Transaction, View};
use crate::aggregate::{LateEvent, Mode, Outcome};
use crate::commit::AggregateCommit;
use crate::ids::{LogOffset, Shard};
use crate::recovery;
use crate::time::Clock;

/// The first and the longest pause before a recovery is tried again, in milliseconds: the first is shorter than a
/// coordinator's election, the longest than anybody's patience.
const RETRY_PAUSE_MS: (i64, i64) = (50, 5_000);

/// What happened in the group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event<M> {
    /// These shards are ours from now on.
    Assigned {
        /// Which.
        shards: Vec<Shard>,
        /// The group's metadata, taken before the event is answered: no further generation can begin until then.
        membership: M,
    },
    /// These shards go to somebody else, who waits for us.
    Revoked {
        /// Which.
        shards: Vec<Shard>,
        /// The group's metadata: a generation in which nobody owns what is being taken, and we what we keep.
        membership: M,
    },
    /// These shards are already somebody else's, or may be.
    Lost {
        /// Which.
        shards: Vec<Shard>,
    },
}

/// What the loop is to do, and then to answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect<M> {
    /// Make a transactional producer and initialise it: that fences the one before, and aborts what it left open.
    MakeProducer,
    /// Drop the producer with all that it has under way. It is never used again, whatever becomes of that.
    DropProducer,
    /// Read the facts of these shards, all of them now, and answer with [`Drive::facts`].
    ReadFacts(Vec<Shard>),
    /// Begin to read these shards at these offsets. An empty list answers an assignment.
    Read(Vec<(Shard, LogOffset)>),
    /// Stop reading these shards; records of them that are still under way are ignored. Answers a revocation. If this
    /// fails, the consumer is beyond help.
    Release(Vec<Shard>),
    /// Begin a transaction.
    Begin,
    /// Write these in it.
    Write {
        /// Results, in order.
        results: Vec<Outcome>,
        /// Late events, in order.
        late: Vec<LateEvent>,
    },
    /// Send these offsets to it, with this metadata.
    SendOffsets {
        /// Offsets with what to say beside them.
        offsets: Vec<(Shard, LogOffset, AggregateCommit)>,
        /// The group's metadata.
        membership: M,
    },
    /// Wait until all that was written is acknowledged.
    AwaitWrites,
    /// Commit the transaction. No answer within the time limit is a failure like any other.
    End,
    /// Hand this to whoever stores snapshots and purges, without waiting.
    Keep(Confirmed),
    /// Stop the worker, change nothing, and say why.
    Halt {
        /// Of which shard.
        shard: Shard,
        /// Why.
        reason: HaltReason,
    },
}

/// Why the worker must stop.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HaltReason {
    /// Counting can't go on without losing or doubling.
    #[error(transparent)]
    DataLoss(recovery::DataLoss),
    /// A frame can't be read.
    #[error(transparent)]
    Unreadable(Refused),
}

/// The loop's plan: effects, and what becomes one when its turn has come.
#[derive(Debug)]
enum Plan<M> {
    Effect(Effect<M>),
    /// Give these shards up, and release those that are read.
    GiveUp(Vec<Shard>),
    /// Release everything that is read: the state was thrown away, or takes all the room that there is.
    StopReading,
}

/// What the loop is carrying out, as far as its answer matters.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Doing {
    MakeProducer,
    Read(Vec<Shard>),
    End,
    Other,
}

/// The aggregate loop's next step, always.
#[derive(Debug)]
pub struct Drive<M> {
    aggregator: Aggregator,
    /// None before the first assignment.
    membership: Option<M>,
    owned: BTreeSet<Shard>,
    reading: BTreeSet<Shard>,
    has_producer: bool,
    plans: VecDeque<Plan<M>>,
    doing: Option<Doing>,
    recover_at_ms: i64,
    retry_pause_ms: i64,
    /// Nothing is read, as there is no room for more counts.
    is_full: bool,
    /// Nothing new is begun: the worker leaves, or was halted.
    is_over: bool,
}

impl<M: Clone> Drive<M> {
    /// Owns nothing yet.
    pub fn new(aggregator: Aggregator) -> Drive<M> {
        Drive {
            aggregator,
            membership: None,
            owned: BTreeSet::new(),
            reading: BTreeSet::new(),
            has_producer: false,
            plans: VecDeque::new(),
            doing: None,
            recover_at_ms: i64::MIN,
            retry_pause_ms: RETRY_PAUSE_MS.0,
            is_full: false,
            is_over: false,
        }
    }

    /// Takes in what happened in the group.
    pub fn follow(&mut self, event: Event<M>, now: Clock) {
        match event {
            Event::Assigned { shards, membership } => {
                self.membership = Some(membership);
                for shard in shards {
                    self.owned.insert(shard);
                    self.aggregator.assign(shard);
                }
                self.recover_at_ms = now.steady_ms;
                // Answered at once; each shard is read once its recovery is decided.
                self.plan(Effect::Read(Vec::new()));
            }
            Event::Revoked { shards, membership } => {
                self.membership = Some(membership);
                // What was counted since the last commit need not be counted again.
                self.plan_transaction();
                self.plans.push_back(Plan::GiveUp(shards));
            }
            Event::Lost { shards } => self.plans.push_back(Plan::GiveUp(shards)),
        }
    }

    /// The next effect; None if there is nothing to do but look for events and records.
    pub fn next(&mut self, now: Clock) -> Option<Effect<M>> {
        debug_assert!(self.doing.is_none(), "{:?} is not answered", self.doing);
        if self.plans.is_empty() && !self.is_over {
            self.think(now);
        }
        while let Some(plan) = self.plans.pop_front() {
            let effect = match plan {
                Plan::Effect(effect) => effect,
                Plan::GiveUp(shards) => Effect::Release(self.give_up(&shards)),
                Plan::StopReading if self.reading.is_empty() => continue,
                Plan::StopReading => Effect::Release(std::mem::take(&mut self.reading).into_iter().collect()),
            };
            self.doing = Some(match &effect {
                Effect::MakeProducer => Doing::MakeProducer,
                Effect::Read(starts) => Doing::Read(starts.iter().map(|(shard, _)| *shard).collect()),
                Effect::End => Doing::End,
                _ => Doing::Other,
            });
            return Some(effect);
        }
        None
    }

    /// The effect handed out last was carried out.
    pub fn done(&mut self, now: Clock) {
        match self.doing.take() {
            Some(Doing::MakeProducer) => self.has_producer = true,
            Some(Doing::Read(shards)) if !shards.is_empty() => {
                self.reading.extend(shards);
                self.retry_pause_ms = RETRY_PAUSE_MS.0;
            }
            Some(Doing::End) => {
                let confirmed = self.aggregator.committed(now.wall);
                self.plans.push_front(Plan::Effect(Effect::Keep(confirmed)));
            }
            Some(Doing::Read(_) | Doing::Other) | None => {}
        }
    }

    /// Answers [`Effect::ReadFacts`]; returns how each shard begins, for people to see.
    pub fn facts(&mut self, facts: Vec<(Shard, recovery::Facts)>) -> Vec<(Shard, Begin)> {
        self.doing = None;
        let mut begins = Vec::new();
        for (shard, facts) in facts {
            match self.aggregator.decide(shard, facts) {
                Ok(begin) => begins.push((shard, begin)),
                Err(loss) => {
                    self.halt(shard, HaltReason::DataLoss(loss));
                    return begins;
                }
            }
        }
        self.plan(Effect::Read(begins.iter().map(|(shard, begin)| (*shard, begin.read_from)).collect()));
        begins
    }

    /// The effect handed out last has failed, or may have; or reading has. The one way back \[7\]: the producer is
    /// dropped, all state is thrown away, and recovery runs as after a crash.
    pub fn failed(&mut self, now: Clock) {
        self.doing = None;
        // What the group waits for is still owed to it.
        self.plans.retain(|plan| match plan {
            Plan::GiveUp(_) => true,
            Plan::Effect(Effect::Read(starts)) => starts.is_empty(),
            Plan::Effect(_) | Plan::StopReading => false,
        });
        (self.has_producer, self.is_full) = (false, false);
        self.plans.push_front(Plan::Effect(Effect::DropProducer));
        self.plans.push_back(Plan::StopReading);
        self.aggregator.aborted();
        self.recover_at_ms = now.steady_ms.saturating_add(self.retry_pause_ms);
        self.retry_pause_ms = (self.retry_pause_ms * 2).min(RETRY_PAUSE_MS.1);
    }

    /// Takes in one record of the repartition topic.
    ///
    /// # Errors
    /// See [`Refused`]; what follows from it is already planned.
    pub fn record(&mut self, shard: Shard, at: LogOffset, value: &[u8], now: Clock) -> Result<(), Refused> {
        if self.is_over {
            return Ok(());
        }
        let taken = self.aggregator.record(shard, at, value);
        match taken {
            Err(refused @ Refused::Unreadable { .. }) => self.halt(shard, HaltReason::Unreadable(refused)),
            Err(Refused::Skipped { .. }) => self.failed(now),
            Err(Refused::Full(_)) => {
                self.is_full = true;
                self.plans.push_back(Plan::StopReading);
            }
            Ok(()) => {}
        }
        taken
    }

    /// Notes that the reader has come to `offset` of a shard.
    pub fn reached(&mut self, shard: Shard, offset: LogOffset) {
        self.aggregator.reached(shard, offset);
    }

    /// Commits what there is, if the worker was not halted, and begins nothing more.
    pub fn leave(&mut self) {
        if !self.is_over {
            self.plan_transaction();
            self.is_over = true;
        }
    }

    /// The shards that the group has given us.
    pub fn owned(&self) -> &BTreeSet<Shard> {
        &self.owned
    }

    /// Whether the group has given us anything, be it nothing.
    pub fn is_member(&self) -> bool {
        self.membership.is_some()
    }

    /// What the counts take.
    pub fn size(&self) -> Size {
        self.aggregator.size()
    }

    /// Why nothing is read, if that is because there is no room for more counts.
    pub fn full(&self) -> Option<Refused> {
        self.is_full.then(|| Refused::Full(self.size()))
    }

    /// What has come up to be counted and shown since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        self.aggregator.take_notices()
    }

    /// When results are written.
    pub fn mode(&self) -> Mode {
        self.aggregator.mode()
    }

    /// The shards owned now.
    pub fn views(&self) -> Vec<View> {
        self.aggregator.views()
    }

    /// Whether nothing is planned or under way, for tests and checks.
    pub fn is_idle(&self) -> bool {
        self.plans.is_empty() && self.doing.is_none()
    }

    /// The state behind the decisions, for tests and checks.
    pub fn aggregator(&self) -> &Aggregator {
        &self.aggregator
    }

    fn plan(&mut self, effect: Effect<M>) {
        self.plans.push_back(Plan::Effect(effect));
    }

    /// Recovery before counting, counting before committing.
    fn think(&mut self, now: Clock) {
        if self.is_full && !self.aggregator.size().is_full() {
            self.is_full = false;
            self.plan(Effect::Read(self.aggregator.positions()));
            return;
        }
        let undecided = self.aggregator.undecided();
        // Without room nothing more is taken over.
        if !undecided.is_empty() && !self.is_full && now.steady_ms >= self.recover_at_ms {
            if !self.has_producer {
                // First the fence, then the facts: what an earlier producer left open is aborted before offsets are read.
                self.plan(Effect::MakeProducer);
            }
            self.plan(Effect::ReadFacts(undecided));
        } else if self.aggregator.wants_commit(now.wall) {
            self.plan_transaction();
        }
    }

    fn plan_transaction(&mut self) {
        let Transaction { results, late, offsets } = self.aggregator.transaction();
        if offsets.is_empty() {
            return;
        }
        let membership = self.membership.clone().expect("a shard that is live was assigned");
        self.plan(Effect::Begin);
        self.plan(Effect::Write { results, late });
        self.plan(Effect::SendOffsets { offsets, membership });
        self.plan(Effect::AwaitWrites);
        self.plan(Effect::End);
    }

    /// Drops all state of these shards; returns those that were read.
    fn give_up(&mut self, shards: &[Shard]) -> Vec<Shard> {
        for shard in shards {
            self.owned.remove(shard);
            self.aggregator.revoke(*shard);
        }
        shards.iter().copied().filter(|shard| self.reading.remove(shard)).collect()
    }

    fn halt(&mut self, shard: Shard, reason: HaltReason) {
        self.is_over = true;
        self.plans.clear();
        self.plan(Effect::Halt { shard, reason });
    }
}
