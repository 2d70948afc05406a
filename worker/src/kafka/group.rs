//! One consumer of one topic in a group, whose events wait until the loop answers them.
//!
//! Responsible for handing rebalances to the loop in the order in which they happen, and for carrying out its answer:
//! assign at these offsets, let go of these partitions. Must never answer by itself, except while the consumer is
//! being closed, when nobody is left to answer.
//!
//! # What librdkafka promises
//!
//! 1. A rebalance event may be answered at any later time: until then the consumer stays in the state
//!    `WAIT_ASSIGN_CALL` or `WAIT_UNASSIGN_CALL`, keeps sending heartbeats in it, and pauses what it is assigned
//!    (`rd_kafka_rebalance_op`, `rd_kafka_cgrp_join_state_serve` in rdkafka_cgrp.c).
//! 2. In these states no further rebalance is raised (`RD_KAFKA_CGRP_REBALANCING`), so events alternate with
//!    answers: there is never more than one to answer. That one must be answered even when its list is empty.
//! 3. What is kept over a rebalance is paused and resumed by librdkafka, which drops what was fetched but not polled
//!    and fetches it again from behind the last polled record.
//! 4. Whoever does not poll for `max.poll.interval.ms` (300 s) loses its partitions; polling the batch queue counts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};

use crashmonitor_core::config::TopicName;

use super::Error;
use super::batch::{self, Committed, MessageQueue};
use super::client::Reporter;

/// How many events one call to [`GroupConsumer::poll_events`] serves.
const EVENTS_PER_POLL: usize = 8;
/// How many log lines besides: they come the same way. With `kafka.config.debug` there are thousands a second, and a
/// rebalance behind them that is heard of too late leaves the loop with the metadata of a member that is none any more.
const LINES_PER_POLL: usize = 4_096;

/// How long librdkafka may take to note where to go on; no broker is asked.
const SEEK_TIMEOUT: Duration = Duration::from_secs(5);

/// What happened in the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupEvent {
    /// These partitions are ours from now on. Answer with [`GroupConsumer::assign`].
    Assigned(Vec<i32>),
    /// These partitions go to somebody else, who waits for us. Answer with [`GroupConsumer::unassign`].
    Revoked(Vec<i32>),
    /// These partitions are already somebody else's, or may be: nothing about them can be committed any more. Answer
    /// with [`GroupConsumer::unassign`].
    Lost(Vec<i32>),
    /// An error of the consumer as a whole. After a fatal one the consumer is useless: build another.
    Error {
        /// Its code.
        code: RDKafkaErrorCode,
        /// What librdkafka says of it.
        text: String,
        /// Whether the consumer is beyond help.
        is_fatal: bool,
    },
    /// A record arrived outside the batch queue, so that reading on would skip it. This is a mistake in the program:
    /// start again at the committed offset.
    Stray {
        /// The record's partition.
        partition: i32,
        /// The record's offset.
        offset: i64,
    },
}

/// The rebalance that librdkafka waits to be answered.
enum Unanswered {
    Assign,
    Unassign(Vec<i32>),
}

/// Stashes rebalances for the loop. Callbacks run on the thread that polls.
pub struct GroupContext {
    reporter: Reporter,
    lines: AtomicUsize,
    events: Mutex<VecDeque<GroupEvent>>,
    unanswered: Mutex<Option<Unanswered>>,
    is_closing: AtomicBool,
    ends: Mutex<BTreeMap<i32, i64>>,
}

impl GroupContext {
    pub(super) fn new(reporter: Reporter) -> GroupContext {
        GroupContext {
            reporter,
            lines: AtomicUsize::new(0),
            events: Mutex::default(),
            unanswered: Mutex::default(),
            is_closing: AtomicBool::new(false),
            ends: Mutex::default(),
        }
    }

    fn push(&self, event: GroupEvent) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push_back(event);
    }

    /// The partitions of which the end was polled last, and not a record, with the offset of that end.
    pub(super) fn ends(&self) -> MutexGuard<'_, BTreeMap<i32, i64>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unanswered(&self) -> MutexGuard<'_, Option<Unanswered>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.lines.fetch_add(1, Ordering::Relaxed);
        self.reporter.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // The end of a partition comes the same way and is no error.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
            self.reporter.error(&error, reason);
        }
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let is_assign = err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.is_closing.load(Ordering::Acquire) {
            // An unanswered event would keep the consumer from closing for ever.
            let answer = if is_assign { consumer.incremental_assign(list) } else { let_go(consumer, list) };
            if let Err(error) = answer {
                tracing::debug!("rebalance while closing: {error}");
            }
            return;
        }
        let partitions: Vec<i32> = list.elements().iter().map(|e| e.partition()).collect();
        *self.unanswered() =
            Some(if is_assign { Unanswered::Assign } else { Unanswered::Unassign(partitions.clone()) });
        self.push(match (is_assign, consumer.assignment_lost()) {
            (true, _) => GroupEvent::Assigned(partitions),
            (false, false) => GroupEvent::Revoked(partitions),
            (false, true) => GroupEvent::Lost(partitions),
        });
    }
}

/// What to commit for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The partition.
    pub partition: i32,
    /// The next offset to read.
    pub offset: i64,
    /// Up to 4,096 bytes that come back with the offset.
    pub metadata: String,
}

/// One consumer of one topic in a group.
///
/// The loop calls [`poll_events`](GroupConsumer::poll_events) and [`MessageQueue::poll`] in turn, and answers every
/// [`GroupEvent`] that asks for it.
pub struct GroupConsumer {
    consumer: Arc<BaseConsumer<GroupContext>>,
    topic: String,
}

impl GroupConsumer {
    pub(super) fn new(consumer: BaseConsumer<GroupContext>, topic: &TopicName) -> GroupConsumer {
        GroupConsumer { consumer: Arc::new(consumer), topic: topic.as_str().to_string() }
    }

    /// The topic that is read.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The queue through which this consumer's records come. One is enough; it keeps the consumer alive.
    pub fn message_queue(&self) -> MessageQueue {
        MessageQueue::new(Arc::clone(&self.consumer))
    }

    /// Joins the group. What it is given comes as [`GroupEvent::Assigned`].
    pub fn subscribe(&self) -> Result<(), Error> {
        self.consumer.subscribe(&[&self.topic]).map_err(|e| Error::kafka("subscribe", e))
    }

    /// Serves the group's events without waiting and returns what has happened, oldest first.
    pub fn poll_events(&self) -> Vec<GroupEvent> {
        let context = self.consumer.context();
        let lines = || context.lines.load(Ordering::Relaxed);
        let (mut served, first_line) = (0, lines());
        while served < EVENTS_PER_POLL && lines().wrapping_sub(first_line) < LINES_PER_POLL {
            let line = lines();
            let polled = self.consumer.poll(Duration::ZERO);
            served += usize::from(lines() == line);
            match polled {
                None => {}
                Some(Ok(message)) => context
                    .push(GroupEvent::Stray { partition: message.partition(), offset: message.offset() }),
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) => context.push(GroupEvent::Error {
                    code: error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown),
                    is_fatal: matches!(error, KafkaError::MessageConsumptionFatal(_)),
                    text: error.to_string(),
                }),
            }
        }
        // Who is fenced in the answer to a commit is not told so by a message. It has been seen to sit there for minutes, a
        // member of nothing.
        if let Some((code, text)) = self.consumer.client().fatal_error() {
            context.push(GroupEvent::Error { code, text, is_fatal: true });
        }
        context.events.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    /// Adds partitions, each with the offset of the first record to deliver, to what is read through `queue`. The
    /// answer to [`GroupEvent::Assigned`], for which an empty list is an answer too.
    ///
    /// Fails if a partition is already assigned or the consumer is closing.
    pub fn assign(&self, queue: &mut MessageQueue, starts: &[(i32, i64)]) -> Result<(), Error> {
        let mut list = TopicPartitionList::with_capacity(starts.len());
        for &(partition, offset) in starts {
            list.add_partition_offset(&self.topic, partition, Offset::Offset(offset))
                .map_err(|e| Error::kafka(format!("assign partition {partition} at {offset}"), e))?;
        }
        // Before, so that librdkafka does not send the records to its own queue; after, because the stop of an
        // earlier assignment, which is now certain to have happened, has undone it.
        for &(partition, _) in starts {
            queue.attach(&self.topic, partition)?;
        }
        self.seek_ends_before_answer()?;
        self.consumer.incremental_assign(&list).map_err(|e| Error::kafka("assign", e))?;
        self.consumer.context().ends().retain(|end, _| starts.iter().all(|(partition, _)| partition != end));
        self.answered(|unanswered| matches!(unanswered, Unanswered::Assign));
        for &(partition, _) in starts {
            queue.attach(&self.topic, partition)?;
        }
        Ok(())
    }

    /// Lets go of partitions. The answer to [`GroupEvent::Revoked`] and [`GroupEvent::Lost`]. What was fetched of
    /// them and not yet polled is not delivered any more; an [`batch::Item::Error`] may be.
    ///
    /// Fails if a partition is not assigned.
    pub fn unassign(&self, queue: &mut MessageQueue, partitions: &[i32]) -> Result<(), Error> {
        let list = self.list(partitions);
        self.seek_ends_before_answer()?;
        self.consumer.incremental_unassign(&list).map_err(|e| Error::kafka("unassign", e))?;
        self.answered(|unanswered| matches!(unanswered, Unanswered::Unassign(_)));
        for &partition in partitions {
            queue.detach(&self.topic, partition);
        }
        Ok(())
    }

    /// Starts assigned partitions again at other offsets: what a new producer or a thrown-away state asks for,
    /// outside any rebalance. While an event waits for its answer this fails, for it would be taken for the answer.
    pub fn restart(&self, queue: &mut MessageQueue, starts: &[(i32, i64)]) -> Result<(), Error> {
        if self.consumer.context().unanswered().is_some() {
            let reason = "a rebalance waits for its answer".to_string();
            return Err(Error::Unexpected { what: "restart".to_string(), reason });
        }
        let partitions: Vec<i32> = starts.iter().map(|&(partition, _)| partition).collect();
        self.unassign(queue, &partitions)?;
        self.assign(queue, starts)
    }

    /// Stops fetching these partitions; they stay assigned. What was fetched and not polled is dropped and fetched
    /// again on [`resume`](GroupConsumer::resume).
    pub fn pause(&self, partitions: &[i32]) -> Result<(), Error> {
        self.consumer.pause(&self.list(partitions)).map_err(|e| Error::kafka("pause", e))
    }

    /// Fetches paused partitions again, from behind the last polled record.
    pub fn resume(&self, partitions: &[i32]) -> Result<(), Error> {
        self.seek_ends(|partition| partitions.contains(&partition))?;
        self.consumer.resume(&self.list(partitions)).map_err(|e| Error::kafka("resume", e))
    }

    /// The partitions that this consumer reads at the moment.
    pub fn assignment(&self) -> Result<Vec<i32>, Error> {
        let list = self.consumer.assignment().map_err(|e| Error::kafka("assignment", e))?;
        Ok(list.elements().iter().map(|e| e.partition()).collect())
    }

    /// Whether the group has taken the partitions away; the [`GroupEvent::Lost`] may still be on its way.
    pub fn is_assignment_lost(&self) -> bool {
        self.consumer.assignment_lost()
    }

    /// Who we are in the group, as of now: what `send_offsets_to_transaction` is fenced by. Take it when the
    /// partitions are assigned, not when they are committed.
    pub fn group_metadata(&self) -> Result<ConsumerGroupMetadata, Error> {
        self.consumer.group_metadata().ok_or_else(|| Error::Unexpected {
            what: "group metadata".to_string(),
            reason: "the consumer has no group".to_string(),
        })
    }

    /// Commits and waits for the answer, which is a list with one result for each partition. The group's generation
    /// fences it.
    ///
    /// librdkafka's own synchronous commit waits for ever and does not say which partitions failed. After [`Error::TimedOut`] the commit may or may not have happened, now or later.
    pub fn commit(&self, positions: &[Position], timeout: Duration) -> Result<Vec<CommitResult>, Error> {
        batch::commit(&self.consumer, &self.positions(positions)?, timeout)
    }

    /// The group's committed offset of each partition. With `read_committed`, which this consumer is, the answer
    /// waits for transactions that are still open: it is the stable offset.
    pub fn committed(&self, partitions: &[i32], timeout: Duration) -> Result<Vec<Committed>, Error> {
        let list = self.consumer.committed_offsets(self.list(partitions), timeout);
        Ok(batch::committed(&list.map_err(|e| Error::kafka("committed offsets", e))?))
    }

    /// The list for `send_offsets_to_transaction`.
    pub fn positions(&self, positions: &[Position]) -> Result<TopicPartitionList, Error> {
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for position in positions {
            let mut element = list.add_partition(&self.topic, position.partition);
            element
                .set_offset(Offset::Offset(position.offset))
                .map_err(|e| Error::kafka(format!("offset {}", position.offset), e))?;
            element.set_metadata(&position.metadata);
        }
        Ok(list)
    }

    /// Lowest and highest offset of a partition as its last fetch showed them, without a request. The highest is the
    /// high watermark, not the last stable offset. `None` before the first fetch.
    pub fn cached_watermarks(&self, partition: i32) -> Option<(i64, i64)> {
        batch::cached_watermarks(&self.consumer, &self.topic, partition)
    }

    /// Leaves the group at once, static membership or not, so that others get the partitions now and not when the
    /// session times out. Commit first. Returns whether the partitions were given back within `timeout`.
    ///
    /// A consumer that is only dropped keeps its static membership: a restarted container rejoins at once.
    pub fn leave(&self, timeout: Duration) -> Result<bool, Error> {
        let end = Instant::now() + timeout;
        self.stop_asking();
        self.consumer.unsubscribe();
        // Partitions that are ours and not read have to be given back too; and before the request to leave is on its
        // way, closing the consumer would take it back.
        while !self.assignment()?.is_empty() || batch::is_member(&self.consumer) {
            if Instant::now() >= end {
                return Ok(false);
            }
            // Records have a queue of their own; this serves only the revocation.
            let _ = self.consumer.poll(Duration::from_millis(10));
        }
        Ok(true)
    }

    /// Forgets the event that waits for an answer, if it is one of these.
    fn answered(&self, is_this: impl Fn(&Unanswered) -> bool) {
        self.consumer.context().unanswered().take_if(|unanswered| is_this(unanswered));
    }

    /// While an event waits for its answer, everything is paused; the answer lets it go on.
    fn seek_ends_before_answer(&self) -> Result<(), Error> {
        let is_paused = self.consumer.context().unanswered().is_some();
        if is_paused { self.seek_ends(|_| true) } else { Ok(()) }
    }

    /// Has partitions at their end go on exactly there. After a pause, ours or librdkafka's in a rebalance, they would
    /// go on one record behind it (see 4. in the documentation of [`batch`]).
    fn seek_ends(&self, is_concerned: impl Fn(i32) -> bool) -> Result<(), Error> {
        let assigned = self.assignment()?;
        let mut list = TopicPartitionList::new();
        let mut ends = self.consumer.context().ends();
        // The end of a partition that was let go of meanwhile may still have come.
        ends.retain(|partition, _| assigned.contains(partition));
        for (&partition, &end) in ends.iter().filter(|(partition, _)| is_concerned(**partition)) {
            list.add_partition_offset(&self.topic, partition, Offset::Offset(end))
                .map_err(|e| Error::kafka(format!("seek partition {partition} to {end}"), e))?;
        }
        drop(ends);
        if list.count() == 0 {
            return Ok(());
        }
        let sought =
            self.consumer.seek_partitions(list, SEEK_TIMEOUT).map_err(|e| Error::kafka("seek", e))?;
        for element in sought.elements() {
            // Whatever is not being fetched does not go on anywhere.
            if let Err(error) = element.error() {
                tracing::debug!(partition = element.partition(), "not sought: {error}");
            }
        }
        Ok(())
    }

    /// From here on the context answers rebalances, beginning with the one that the loop has left unanswered: closing
    /// would wait for it for ever.
    fn stop_asking(&self) {
        self.consumer.context().is_closing.store(true, Ordering::Release);
        let unanswered = self.consumer.context().unanswered().take();
        let answer = match unanswered {
            None => Ok(()),
            Some(Unanswered::Assign) => self.consumer.incremental_assign(&TopicPartitionList::new()),
            Some(Unanswered::Unassign(partitions)) => let_go(&self.consumer, &self.list(&partitions)),
        };
        if let Err(error) = answer {
            tracing::debug!("rebalance while closing: {error}");
        }
    }

    fn list(&self, partitions: &[i32]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for &partition in partitions {
            list.add_partition(&self.topic, partition);
        }
        list
    }
}

/// Lets go of what is assigned of these partitions; librdkafka refuses a list that holds any other.
fn let_go(consumer: &BaseConsumer<GroupContext>, list: &TopicPartitionList) -> KafkaResult<()> {
    let assigned = consumer.assignment()?;
    let mut held = TopicPartitionList::new();
    for element in list.elements() {
        if assigned.find_partition(element.topic(), element.partition()).is_some() {
            held.add_partition(element.topic(), element.partition());
        }
    }
    consumer.incremental_unassign(&held)
}

/// What became of the commit of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitResult {
    /// The partition.
    pub partition: i32,
    /// Nothing, or why the offset may not have been taken: when one partition of a commit fails, librdkafka names its
    /// error for the others too, though the broker has taken them.
    pub outcome: Result<(), RDKafkaErrorCode>,
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        self.stop_asking();
    }
}
