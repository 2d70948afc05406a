//! The loop around [`Aggregator`]: one consumer of the repartition topic, one transactional producer, one thread.
//!
//! Responsible for carrying out what the aggregator decides: facts, reads, transactions. Must never write outside a
//! transaction, move an offset outside one, or use a producer again whose transaction did not end well.
//!
//! The group's metadata is taken when a rebalance is answered and goes with every commit until the next one: the
//! coordinator checks the generation, not who owns what, so metadata read later could be newer than the assignment that
//! is being worked on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crashmonitor_core::aggregate::Effect;
use crashmonitor_core::aggregator::{Aggregator, Notice, Recovery, Refused, Transaction, View};
use crashmonitor_core::ids::{LogOffset, Shard, TopicId};
use crashmonitor_core::recovery::{Facts, Stored};
use crashmonitor_core::status::{AggregatePartition, HoldReason, Holder};
use crashmonitor_core::time::Timestamp;
use crashmonitor_core::{aggregate, output, snapshot};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseRecord, Producer as _, PurgeConfig};

use crate::driver::{LOOP_BOUND, REPORT_INTERVAL, REQUEST_TIMEOUT, Shared, aggregate_params, cadence, now};
use crate::kafka;
use crate::kafka::batch::{Item, MessageQueue};
use crate::kafka::client::{POLL_STEP, Producer, send};
use crate::kafka::group::{GroupConsumer, GroupEvent, Position};
use crate::keeper::{Keeper, show_store};
use crate::metrics::{self, AggregateCounts, Rebalance, Stage};
use crate::run::Error;

/// How long a poll waits for the first record: as long as a transaction may come late.
const POLL_TIMEOUT: Duration = Duration::from_millis(5);
/// Records of one poll.
const POLL_RECORDS_MAX: usize = 1_024;
/// The longest wait for a step of a transaction: its timeout on the broker.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(15);
/// How long leaving the group may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The first and the longest pause before a recovery is tried again.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// After Redis did not answer, recoveries do without it for so long, instead of each shard waiting for it in turn.
const STORE_PAUSE: Duration = Duration::from_secs(5);

struct AggregateLoop<'a> {
    shared: &'a Shared,
    keeper: Keeper,
    consumer: GroupConsumer,
    /// None: a new one is to be made before anything is read.
    producer: Option<Producer>,
    aggregator: Aggregator,
    params: aggregate::Params,
    membership: Option<ConsumerGroupMetadata>,
    owned: BTreeSet<Shard>,
    /// Read at the moment.
    reading: BTreeSet<Shard>,
    recover_at: Instant,
    retry_pause: Duration,
    store_at: Instant,
    report_at: Instant,
    counts: AggregateCounts,
}

/// Aggregates until the worker ends.
pub fn run(shared: &Shared, keeper: Keeper) -> Result<(), Error> {
    let consumer = shared.context.clients.aggregate_consumer()?;
    let mut queue = consumer.message_queue();
    consumer.subscribe().map_err(|error| Error::Runtime(error.to_string()))?;
    let heartbeat = shared.context.admin.register("aggregate", LOOP_BOUND);
    let mut aggregating = AggregateLoop::new(shared, keeper, consumer);
    while !shared.is_ending() {
        heartbeat.beat();
        if let Err(error) = aggregating.turn(&mut queue) {
            aggregating.throw_away(&error, &mut queue)?;
        }
    }
    aggregating.leave();
    shared.context.admin.unregister("aggregate");
    Ok(())
}

impl<'a> AggregateLoop<'a> {
    fn new(shared: &'a Shared, keeper: Keeper, consumer: GroupConsumer) -> AggregateLoop<'a> {
        let config = shared.config();
        let params = aggregate_params(config);
        let uid = config.monitor.uid.clone();
        let now = Instant::now();
        AggregateLoop {
            shared,
            keeper,
            consumer,
            producer: None,
            aggregator: Aggregator::new(params, cadence(config), uid, shared.log_topic),
            params,
            membership: None,
            owned: BTreeSet::new(),
            reading: BTreeSet::new(),
            recover_at: now,
            retry_pause: RETRY_PAUSE.0,
            store_at: now,
            report_at: now,
            counts: AggregateCounts::default(),
        }
    }

    fn turn(&mut self, queue: &mut MessageQueue) -> Result<(), kafka::Error> {
        for event in self.consumer.poll_events() {
            self.follow(event, queue)?;
        }
        if Instant::now() >= self.recover_at {
            self.recover(queue)?;
        }
        self.read(queue)?;
        if self.aggregator.wants_commit(now()) {
            self.transact()?;
        }
        if self.report_at.elapsed() >= REPORT_INTERVAL {
            self.report_at = Instant::now();
            self.report();
        }
        Ok(())
    }

    fn follow(&mut self, event: GroupEvent, queue: &mut MessageQueue) -> Result<(), kafka::Error> {
        let metrics = self.shared.context.admin.metrics();
        match event {
            GroupEvent::Assigned(partitions) => {
                metrics.count_rebalance(Stage::Aggregate, Rebalance::Assigned);
                // Before the answer: no further generation can begin until it is given.
                self.membership = Some(self.consumer.group_metadata()?);
                for shard in shards(&partitions) {
                    self.owned.insert(shard);
                    self.aggregator.assign(shard);
                }
                self.recover_at = Instant::now();
                // Answered at once; each partition is read once its recovery is decided.
                self.consumer.assign(queue, &[])?;
            }
            GroupEvent::Revoked(partitions) => {
                metrics.count_rebalance(Stage::Aggregate, Rebalance::Revoked);
                // A generation in which nobody owns what is being taken, and we what we keep.
                self.membership = Some(self.consumer.group_metadata()?);
                // What was counted since the last commit need not be counted again.
                let finished = self.transact();
                self.release(&partitions, queue)?;
                finished?;
            }
            GroupEvent::Lost(partitions) => {
                metrics.count_rebalance(Stage::Aggregate, Rebalance::Lost);
                tracing::warn!(?partitions, "repartition partitions were taken away: the session timed out");
                self.release(&partitions, queue)?;
            }
            GroupEvent::Error { text, is_fatal, .. } => {
                if is_fatal {
                    self.shared
                        .fail(format!("the consumer of the repartition topic failed for good: {text}"));
                } else {
                    tracing::debug!("consumer of the repartition topic: {text}");
                }
            }
            GroupEvent::Stray { partition, offset } => {
                let reason = format!("partition {partition}, offset {offset}");
                return Err(kafka::Error::Unexpected { what: "a record went astray".to_owned(), reason });
            }
        }
        Ok(())
    }

    fn release(&mut self, partitions: &[i32], queue: &mut MessageQueue) -> Result<(), kafka::Error> {
        let mut read = Vec::new();
        for shard in shards(partitions) {
            self.owned.remove(&shard);
            self.aggregator.revoke(shard);
            if self.reading.remove(&shard) {
                read.push(shard.0.cast_signed());
            }
        }
        self.consumer.unassign(queue, &read)
    }

    /// Decides on every shard that has no state yet, and begins to read it.
    fn recover(&mut self, queue: &mut MessageQueue) -> Result<(), kafka::Error> {
        let undecided = self.aggregator.undecided();
        if undecided.is_empty() {
            return Ok(());
        }
        if self.producer.is_none() {
            // First the fence, then the facts: what an earlier producer left open is aborted before offsets are read.
            self.producer = Some(self.new_producer()?);
        }
        let partitions: Vec<i32> = undecided.iter().map(|shard| shard.0.cast_signed()).collect();
        let topic = self.shared.config().repartition_topic().as_str();
        let committed = self.consumer.committed(&partitions, REQUEST_TIMEOUT)?;
        let ends = self.shared.observer.watermarks(topic, &partitions, REQUEST_TIMEOUT)?;
        let log_topic = self.log_topic()?;
        let mut starts = Vec::new();
        for (committed, ends) in committed.into_iter().zip(&ends) {
            if let Some(code) = committed.error {
                return Err(unexpected("committed offset", code));
            }
            let shard = Shard(committed.partition.cast_unsigned());
            let committed = committed.value.map(|value| (log_offset(value.offset), value.metadata));
            let facts = Facts {
                committed,
                log_start: log_offset(ends.low),
                log_end: log_offset(ends.high),
                log_topic,
                snapshot: self.stored(shard),
            };
            match self.aggregator.decide(shard, facts) {
                Ok(begin) => {
                    tracing::info!(shard = shard.0, from = %begin.read_from, how = name(begin.recovery), "recovery");
                    self.shared.context.admin.metrics().count_recovery(metric(begin.recovery));
                    starts.push((shard.0.cast_signed(), begin.read_from.0.cast_signed()));
                }
                Err(loss) => {
                    self.shared.context.admin.metrics().count_recovery(metrics::Recovery::Stopped);
                    self.shared.halt(topic, shard.0.cast_signed(), loss.to_string());
                    return Ok(());
                }
            }
        }
        self.consumer.assign(queue, &starts)?;
        self.reading.extend(undecided);
        self.retry_pause = RETRY_PAUSE.0;
        Ok(())
    }

    /// The repartition topic's identity now: it may have been deleted and made again under us.
    fn log_topic(&self) -> Result<TopicId, kafka::Error> {
        let topic = self.shared.config().repartition_topic().as_str();
        let facts = self.shared.observer.describe_topic(topic, REQUEST_TIMEOUT)?;
        facts.map(|facts| TopicId(facts.topic_id)).ok_or_else(|| kafka::Error::Unexpected {
            what: format!("describe topic {topic}"),
            reason: "there is no such topic any more".to_owned(),
        })
    }

    /// What the checkpoint store has for a shard, within its time limit.
    fn stored(&mut self, shard: Shard) -> Stored {
        let Some(store) = &self.shared.context.store else { return Stored::Disabled };
        if Instant::now() < self.store_at {
            return Stored::Unreachable;
        }
        let stored = match store.load(shard.0.cast_signed()) {
            Ok(None) => Stored::Nothing,
            Ok(Some(bytes)) => match snapshot::decode(&bytes, self.params) {
                Ok(snapshot) => Stored::Snapshot(Box::new(snapshot)),
                Err(error) => Stored::Unreadable(error),
            },
            Err(error) => {
                tracing::warn!("{error}; recovering from the log alone");
                self.shared.context.admin.metrics().count_checkpoint_failure();
                self.store_at = Instant::now() + STORE_PAUSE;
                show_store(self.shared, Some(error.to_string()));
                return Stored::Unreachable;
            }
        };
        show_store(self.shared, None);
        stored
    }

    fn new_producer(&self) -> Result<Producer, kafka::Error> {
        let producer = self.shared.context.clients.transactional_producer();
        let producer = producer.map_err(|error| kafka::Error::Unexpected {
            what: "transactional producer".to_owned(),
            reason: error.to_string(),
        })?;
        producer
            .init_transactions(TRANSACTION_TIMEOUT)
            .map_err(|error| kafka::Error::kafka("init transactions", error))?;
        Ok(producer)
    }

    fn read(&mut self, queue: &mut MessageQueue) -> Result<(), kafka::Error> {
        let batch = queue.poll(POLL_TIMEOUT, POLL_RECORDS_MAX);
        for item in batch.iter() {
            match item {
                Item::Message { partition, offset, payload, .. } => {
                    let shard = Shard(partition.cast_unsigned());
                    self.counts.messages += 1;
                    match self.aggregator.record(shard, log_offset(offset), payload.unwrap_or_default()) {
                        Ok(()) => {}
                        Err(refused @ Refused::Unreadable { .. }) => {
                            let topic = self.shared.config().repartition_topic().as_str();
                            self.shared.halt(topic, partition, refused.to_string());
                            return Ok(());
                        }
                        Err(refused @ Refused::Skipped { .. }) => {
                            let what = "reading the repartition topic".to_owned();
                            return Err(kafka::Error::Unexpected { what, reason: refused.to_string() });
                        }
                    }
                }
                Item::Eof { partition, offset } => {
                    self.aggregator.reached(Shard(partition.cast_unsigned()), log_offset(offset));
                }
                // Out of range too: the facts are read again and decide.
                Item::Error { code, .. } => return Err(unexpected("reading the repartition topic", code)),
            }
        }
        drop(batch);
        for notice in self.aggregator.take_notices() {
            self.notice(&notice);
        }
        Ok(())
    }

    fn notice(&self, notice: &Notice) {
        let partition = notice.shard.0.cast_signed();
        let topic = self.shared.config().repartition_topic().as_str();
        match &notice.effect {
            // A scanner whose producer failed leaves one and closes it with its next claim.
            Effect::Gap { source, missing_from, missing_to } => tracing::warn!(
                shard = partition,
                "frames of input partition {source} from offset {missing_from} to {missing_to} are missing; \
                 it is counted on when it is claimed again"
            ),
            Effect::DataLoss { source, from, to } => {
                let message =
                    format!("records of input partition {source} from {from} to {to} are not counted");
                tracing::error!(shard = partition, "data loss: {message}");
                // The scanner that found it has counted the records; every shard hears of them.
                self.shared.note_loss(topic, partition, message, 0);
            }
            Effect::Stale { source } => {
                tracing::debug!(shard = partition, "ignored a zombie's frame of source {source}")
            }
            Effect::Result(_) | Effect::Late(_) => {}
        }
    }

    /// Writes and commits what there is, in one transaction.
    fn transact(&mut self) -> Result<(), kafka::Error> {
        let transaction = self.aggregator.transaction();
        if transaction.offsets.is_empty() {
            return Ok(());
        }
        let begun = Instant::now();
        let outcome = self.execute(&transaction);
        let metrics = self.shared.context.admin.metrics();
        if let Err(error) = outcome {
            let kind = match error {
                kafka::Error::TimedOut { .. } => metrics::Transaction::Unknown,
                _ => metrics::Transaction::Aborted,
            };
            metrics.count_transactions(kind, 1);
            return Err(error);
        }
        metrics.count_transactions(metrics::Transaction::Committed, 1);
        metrics.observe_commit(begun.elapsed());
        self.counts.results += transaction.results.len() as u64;
        self.counts.late_dropped += transaction.late.len() as u64;
        let confirmed = self.aggregator.committed(now());
        self.keeper.keep(confirmed, self.shared);
        Ok(())
    }

    fn execute(&self, transaction: &Transaction) -> Result<(), kafka::Error> {
        let missing = |what: &str| kafka::Error::Unexpected {
            what: "transaction".to_owned(),
            reason: format!("there is no {what}"),
        };
        let producer = self.producer.as_ref().ok_or_else(|| missing("producer"))?;
        let membership = self.membership.as_ref().ok_or_else(|| missing("assignment"))?;
        let failed = |what: &'static str| move |error| kafka::Error::kafka(what, error);
        producer.begin_transaction().map_err(failed("begin transaction"))?;
        self.produce(producer, transaction)?;
        let positions: Vec<Position> = transaction
            .offsets
            .iter()
            .map(|(shard, offset, commit)| {
                let (partition, offset) = (shard.0.cast_signed(), offset.0.cast_signed());
                Position { partition, offset, metadata: commit.encode() }
            })
            .collect();
        let positions = self.consumer.positions(&positions)?;
        producer
            .send_offsets_to_transaction(&positions, membership, TRANSACTION_TIMEOUT)
            .map_err(failed("send offsets to the transaction"))?;
        // librdkafka's own flush waits in steps of 100 ms.
        let deadline = Instant::now() + TRANSACTION_TIMEOUT;
        while producer.in_flight_count() > 0 && Instant::now() < deadline {
            producer.poll(POLL_STEP);
        }
        let deliveries = producer.context().take_deliveries();
        if let Some(code) = deliveries.iter().find_map(|delivery| delivery.outcome.err()) {
            return Err(unexpected("writing results", code));
        }
        producer.commit_transaction(TRANSACTION_TIMEOUT).map_err(failed("commit transaction"))
    }

    fn produce(&self, producer: &Producer, transaction: &Transaction) -> Result<(), kafka::Error> {
        let output_topics = &self.shared.config().output;
        let mode = self.aggregator.mode();
        for outcome in &transaction.results {
            let written = output::result(outcome, mode);
            write(producer, output_topics.topic.as_str(), &written)?;
        }
        if let Some(late_topic) = &output_topics.late_topic {
            for event in &transaction.late {
                write(producer, late_topic.as_str(), &output::late(event))?;
            }
        }
        Ok(())
    }

    /// The one way back: the producer is dropped, all state is thrown away, and recovery runs as after a crash.
    fn throw_away(&mut self, error: &kafka::Error, queue: &mut MessageQueue) -> Result<(), Error> {
        tracing::warn!("state is thrown away and recovered: {error}");
        if let Some(producer) = self.producer.take() {
            producer.purge(PurgeConfig::default().queue().inflight());
        }
        self.aggregator.aborted();
        let reading: Vec<i32> = self.reading.iter().map(|shard| shard.0.cast_signed()).collect();
        self.reading.clear();
        self.recover_at = Instant::now() + self.retry_pause;
        self.retry_pause = (self.retry_pause * 2).min(RETRY_PAUSE.1);
        self.consumer.unassign(queue, &reading).map_err(|error| Error::Runtime(error.to_string()))
    }

    fn leave(mut self) {
        if !self.shared.is_halted()
            && let Err(error) = self.transact()
        {
            tracing::warn!("the last transaction was not committed: {error}");
        }
        self.report();
        match self.consumer.leave(LEAVE_TIMEOUT) {
            Ok(true) => {}
            Ok(false) => tracing::warn!("left the aggregate group without its answer"),
            Err(error) => tracing::warn!("leaving the aggregate group: {error}"),
        }
    }

    /// Records behind the end of a shard's log, as its last fetch showed it.
    fn lag(&self, view: &View) -> Option<(i32, i64)> {
        let partition = view.shard.0.cast_signed();
        let (_, end) = self.consumer.cached_watermarks(partition)?;
        Some((partition, (end - view.position?.0.cast_signed()).max(0)))
    }

    fn report(&mut self) {
        let admin = &self.shared.context.admin;
        let counts = std::mem::take(&mut self.counts);
        admin.metrics().add_aggregate(&counts);
        let views = self.aggregator.views();
        let partition = |shard: Shard| shard.0.cast_signed();
        let watermarks: Vec<_> =
            views.iter().filter_map(|v| Some((partition(v.shard), v.watermark?.as_millis()))).collect();
        admin.metrics().set_watermarks(&watermarks);
        let holders: Vec<_> = views
            .iter()
            .filter_map(|view| {
                view.held_by.and_then(|hold| Some((hold.source?.0.cast_signed(), reason(hold.reason))))
            })
            .collect();
        admin.metrics().set_watermark_holders(&holders);
        admin.metrics().set_open_windows(views.iter().map(|view| view.open_windows as u64).sum());
        let live = !views.is_empty() && views.iter().all(|view| view.live);
        let lags: Vec<_> = views.iter().filter_map(|view| self.lag(view)).collect();
        admin.metrics().set_repartition_lag(&lags);
        let (is_member, is_halted) =
            (self.membership.is_some() && self.shared.has_joined(), self.shared.is_halted());
        let owned: BTreeSet<i32> = self.owned.iter().map(|shard| shard.0.cast_signed()).collect();
        admin.update_status(|status| {
            status.aggregate.retain(|partition, _| owned.contains(partition));
            for view in &views {
                let shown = status.aggregate.entry(partition(view.shard)).or_default();
                let last_checkpoint_ms = shown.last_checkpoint_ms;
                *shown = AggregatePartition {
                    watermark_ms: view.watermark.map(Timestamp::as_millis),
                    closed_through_ms: view.closed_through.map(Timestamp::as_millis),
                    holder: view.held_by.map(|hold| Holder {
                        partition: hold.source.map(|source| source.0.cast_signed()),
                        reason: reason(hold.reason),
                    }),
                    open_windows: view.open_windows as u64,
                    committed_offset: view.committed.map(|offset| offset.0.cast_signed()),
                    recovery: view.recovery.map(|recovery| name(recovery).to_owned()),
                    last_checkpoint_ms,
                };
            }
            status.totals.results += counts.results;
            status.totals.late += counts.late_dropped;
            // A worker beyond the number of partitions owns none and is ready all the same.
            status.ready = !is_halted && is_member && (live || views.is_empty());
            status.not_ready_reason = match (status.ready, is_halted, is_member) {
                (true, ..) => None,
                (_, true, _) => status.data_loss.last().map(|loss| loss.message.clone()),
                (_, _, false) => Some("joining the consumer groups".to_owned()),
                (_, _, true) => Some("restoring state".to_owned()),
            };
        });
    }
}

fn shards(partitions: &[i32]) -> impl Iterator<Item = Shard> + '_ {
    partitions.iter().map(|partition| Shard(partition.cast_unsigned()))
}

fn log_offset(offset: i64) -> LogOffset {
    LogOffset(offset.max(0).cast_unsigned())
}

fn unexpected(what: &str, code: RDKafkaErrorCode) -> kafka::Error {
    kafka::Error::Unexpected { what: what.to_owned(), reason: code.to_string() }
}

fn metric(recovery: Recovery) -> metrics::Recovery {
    match recovery {
        Recovery::FirstStart => metrics::Recovery::FirstStart,
        Recovery::Snapshot => metrics::Recovery::Snapshot,
        Recovery::Replay(reason) => metrics::Recovery::Replay(reason),
    }
}

fn name(recovery: Recovery) -> &'static str {
    metric(recovery).name()
}

fn reason(reason: aggregate::HoldReason) -> HoldReason {
    match reason {
        aggregate::HoldReason::Idle => HoldReason::Idle,
        aggregate::HoldReason::Lagging => HoldReason::Lagging,
        aggregate::HoldReason::Unassigned => HoldReason::Unassigned,
        aggregate::HoldReason::Silent => HoldReason::Silent,
    }
}

fn write(producer: &Producer, topic: &str, written: &output::Written) -> Result<(), kafka::Error> {
    let (key, value) = (written.key.as_bytes(), written.value.as_bytes());
    let record = BaseRecord::with_opaque_to(topic, 0).key(key).payload(value);
    send(producer, record, TRANSACTION_TIMEOUT).map_err(|error| kafka::Error::kafka("writing results", error))
}
