//! The loop around [`Drive`]: one consumer of the repartition topic, one transactional producer, one thread.
//!
//! Responsible for carrying out what the drive decides, in its order, and for saying how that went: facts, reads,
//! transactions. Must never begin anything by itself.
//!
//! The group's metadata is taken when a rebalance is answered and goes with every commit until the next one: the
//! coordinator checks the generation, not who owns what, so metadata read later could be newer than the assignment that
//! is being worked on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crashmonitor_core::aggregate::Effect as CountEffect;
use crashmonitor_core::aggregate::{LateEvent, Outcome};
use crashmonitor_core::aggregator::drive::{Drive, Effect, Event, HaltReason};
use crashmonitor_core::aggregator::look::Users;
use crashmonitor_core::aggregator::{Aggregator, Notice, Recovery, Refused, View};
use crashmonitor_core::commit::AggregateCommit;
use crashmonitor_core::ids::{LogOffset, Shard, TopicId};
use crashmonitor_core::recovery::{Facts, Stored};
use crashmonitor_core::status::{AggregatePartition, HoldReason, Holder, State};
use crashmonitor_core::time::{Clock, Timestamp};
use crashmonitor_core::{aggregate, output, snapshot};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseRecord, Producer as _, PurgeConfig};

use crate::driver::{LOOP_BOUND, REPORT_INTERVAL, REQUEST_TIMEOUT, Shared, aggregate_params, cadence, now};
use crate::failpoint::{Point, reach, reach_while};
use crate::kafka;
use crate::kafka::batch::{Item, MessageQueue};
use crate::kafka::client::{POLL_STEP, Producer, send};
use crate::kafka::group::{GroupConsumer, GroupEvent, Position};
use crate::kafka::transactions::Transactions;
use crate::keeper::{Keeper, show_store};
use crate::memory;
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
/// So many producers that are stuck in a call may be left behind, each with a few threads and its buffers: one for each time
/// that a group coordinator dies in the wrong moment. Then the process ends, to be started again.
const STUCK_MAX: u32 = 10;
/// After Redis did not answer, recoveries do without it for so long, instead of each shard waiting for it in turn.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// The group's metadata as librdkafka has it.
type Membership = Arc<ConsumerGroupMetadata>;

struct AggregateLoop<'a> {
    shared: &'a Shared,
    keeper: Keeper,
    consumer: GroupConsumer,
    /// None: a new one is to be made before anything is read.
    transactions: Option<Transactions>,
    /// Producers that were left behind because a call of theirs did not end.
    stuck: u32,
    drive: Drive<Membership>,
    params: aggregate::Params,
    began: Instant,
    store_at: Instant,
    report_at: Instant,
    transaction: TransactionUnderWay,
    counts: AggregateCounts,
}

/// What is counted of a transaction once it is committed.
struct TransactionUnderWay {
    began: Instant,
    results: u64,
    late: u64,
}

/// Aggregates until the worker ends. If the group is to assign anew, leaves it and begins from the beginning.
pub fn run(shared: &Shared, mut keeper: Keeper) -> Result<(), Error> {
    let heartbeat = shared.context.admin.register("aggregate", LOOP_BOUND);
    let member = shared.context.clients.aggregate_member();
    while !shared.is_ending() {
        let consumer = shared.context.clients.aggregate_consumer()?;
        let mut queue = consumer.message_queue();
        consumer.subscribe().map_err(runtime)?;
        let mut aggregating = AggregateLoop::new(shared, keeper, consumer);
        while !shared.is_ending() && !shared.must_rejoin(&member) {
            heartbeat.beat();
            aggregating.turn(&mut queue)?;
        }
        keeper = aggregating.leave(&mut queue)?;
    }
    shared.context.admin.unregister("aggregate");
    Ok(())
}

impl<'a> AggregateLoop<'a> {
    fn new(shared: &'a Shared, keeper: Keeper, consumer: GroupConsumer) -> AggregateLoop<'a> {
        let config = shared.config();
        let params = aggregate_params(config);
        let uid = config.monitor.uid.clone();
        let now = Instant::now();
        let aggregator = Aggregator::new(params, cadence(config), uid, shared.log_topic);
        AggregateLoop {
            shared,
            keeper,
            consumer,
            transactions: None,
            stuck: 0,
            drive: Drive::new(aggregator.with_state_bytes_max(memory::state_bytes_max(config))),
            params,
            began: now,
            store_at: now,
            report_at: now,
            transaction: TransactionUnderWay { began: now, results: 0, late: 0 },
            counts: AggregateCounts::default(),
        }
    }

    fn clock(&self) -> Clock {
        let steady_ms = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
        Clock { wall: now(), steady_ms }
    }

    fn turn(&mut self, queue: &mut MessageQueue) -> Result<(), Error> {
        for event in self.consumer.poll_events() {
            self.follow(event)?;
            self.carry_out(queue)?;
        }
        self.carry_out(queue)?;
        if self.shared.is_ending() {
            return Ok(());
        }
        if let Err(error) = self.read(queue) {
            self.fail(&error);
        }
        self.carry_out(queue)?;
        if self.report_at.elapsed() >= REPORT_INTERVAL {
            self.report_at = Instant::now();
            self.report();
        }
        Ok(())
    }

    fn follow(&mut self, event: GroupEvent) -> Result<(), Error> {
        let metrics = self.shared.context.admin.metrics();
        let event = match event {
            GroupEvent::Assigned(partitions) => {
                metrics.count_rebalance(Stage::Aggregate, Rebalance::Assigned);
                Event::Assigned { shards: shards(&partitions), membership: self.membership()? }
            }
            GroupEvent::Revoked(partitions) => {
                metrics.count_rebalance(Stage::Aggregate, Rebalance::Revoked);
                reach(Point::InRevoke);
                Event::Revoked { shards: shards(&partitions), membership: self.membership()? }
            }
            GroupEvent::Lost(partitions) => {
                metrics.count_rebalance(Stage::Aggregate, Rebalance::Lost);
                tracing::warn!(?partitions, "repartition partitions were taken away: the session timed out");
                Event::Lost { shards: shards(&partitions) }
            }
            GroupEvent::Error { text, is_fatal, .. } => {
                if is_fatal {
                    self.shared
                        .fail(format!("the consumer of the repartition topic failed for good: {text}"));
                } else {
                    tracing::debug!("consumer of the repartition topic: {text}");
                }
                return Ok(());
            }
            GroupEvent::Stray { partition, offset } => {
                let reason = format!("partition {partition}, offset {offset}");
                self.fail(&kafka::Error::Unexpected { what: "a record went astray".to_owned(), reason });
                return Ok(());
            }
        };
        let now = self.clock();
        self.drive.follow(event, now);
        Ok(())
    }

    fn membership(&self) -> Result<Membership, Error> {
        self.consumer.group_metadata().map(Arc::new).map_err(runtime)
    }

    fn fail(&mut self, error: &kafka::Error) {
        tracing::warn!("state is thrown away and recovered: {error}");
        let now = self.clock();
        self.drive.failed(now);
    }

    /// Carries out what the drive wants, until it wants nothing more.
    fn carry_out(&mut self, queue: &mut MessageQueue) -> Result<(), Error> {
        while let Some(effect) = self.drive.next(self.clock()) {
            match effect {
                Effect::ReadFacts(shards) => match self.facts(&shards) {
                    Ok(facts) => self.decide(facts),
                    Err(error) => self.fail(&error),
                },
                // A consumer that can't let go of a partition is beyond help.
                Effect::Release(shards) => {
                    reach(Point::BeforeRelease);
                    self.consumer.unassign(queue, &partitions(&shards)).map_err(runtime)?;
                    self.done();
                }
                effect => match self.execute(effect, queue) {
                    Ok(()) => self.done(),
                    Err(error) => self.fail(&error),
                },
            }
        }
        Ok(())
    }

    fn done(&mut self) {
        let now = self.clock();
        self.drive.done(now);
    }

    fn execute(&mut self, effect: Effect<Membership>, queue: &mut MessageQueue) -> Result<(), kafka::Error> {
        match effect {
            Effect::MakeProducer => self.make_producer(),
            Effect::DropProducer => {
                self.drop_producer();
                Ok(())
            }
            Effect::Read(starts) => {
                let starts = starts.iter().map(|(shard, at)| (shard.0.cast_signed(), at.0.cast_signed()));
                self.consumer.assign(queue, &starts.collect::<Vec<_>>())
            }
            Effect::Keep(confirmed) => {
                self.keeper.keep(confirmed, self.shared);
                Ok(())
            }
            Effect::Halt { shard, reason } => {
                if matches!(reason, HaltReason::DataLoss(_)) {
                    self.shared.context.admin.metrics().count_recovery(metrics::Recovery::Stopped);
                }
                self.shared.halt(self.topic(), shard.0.cast_signed(), reason.to_string());
                Ok(())
            }
            effect => {
                let outcome = self.transact(effect);
                if let Err(error) = &outcome {
                    let kind = match error {
                        kafka::Error::TimedOut { .. } => metrics::Transaction::Unknown,
                        _ => metrics::Transaction::Aborted,
                    };
                    self.shared.context.admin.metrics().count_transactions(kind, 1);
                }
                outcome
            }
        }
    }

    fn topic(&self) -> &'a str {
        self.shared.config().repartition_topic().as_str()
    }

    /// All that is known of these shards, read now; the log is looked at before and after the commits.
    fn facts(&mut self, shards: &[Shard]) -> Result<Vec<(Shard, Facts)>, kafka::Error> {
        let partitions = partitions(shards);
        let before = self.shared.observer.watermarks(self.topic(), &partitions, REQUEST_TIMEOUT)?;
        let committed = self.consumer.committed(&partitions, REQUEST_TIMEOUT)?;
        let after = self.shared.observer.watermarks(self.topic(), &partitions, REQUEST_TIMEOUT)?;
        let log_topic = self.log_topic()?;
        let mut facts = Vec::new();
        for ((committed, before), after) in committed.into_iter().zip(&before).zip(&after) {
            if let Some(code) = committed.error {
                return Err(unexpected("committed offset", code));
            }
            let shard = Shard(committed.partition.cast_unsigned());
            let facts_of_shard = Facts {
                committed: committed.value.map(|value| (log_offset(value.offset), value.metadata)),
                log_start: log_offset(before.low),
                log_end_before: log_offset(before.high),
                log_end: log_offset(after.high),
                log_topic,
                snapshot: self.stored(shard),
            };
            facts.push((shard, facts_of_shard));
        }
        Ok(facts)
    }

    fn decide(&mut self, facts: Vec<(Shard, Facts)>) {
        for (shard, begin) in self.drive.facts(facts) {
            tracing::info!(shard = shard.0, from = %begin.read_from, how = name(begin.recovery), "recovery");
            self.shared.context.admin.metrics().count_recovery(metric(begin.recovery));
        }
    }

    /// The repartition topic's identity now: it may have been deleted and made again under us.
    fn log_topic(&self) -> Result<TopicId, kafka::Error> {
        let topic = self.topic();
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

    fn make_producer(&mut self) -> Result<(), kafka::Error> {
        let producer = self.shared.context.clients.transactional_producer();
        let producer = producer.map_err(|error| kafka::Error::Unexpected {
            what: "transactional producer".to_owned(),
            reason: error.to_string(),
        })?;
        let transactions = self.transactions.insert(Transactions::new(producer)?);
        transactions.init(TRANSACTION_TIMEOUT)
    }

    fn transactions(&self) -> Result<&Transactions, kafka::Error> {
        self.transactions.as_ref().ok_or_else(|| kafka::Error::Unexpected {
            what: "transaction".to_owned(),
            reason: "there is no producer".to_owned(),
        })
    }

    fn drop_producer(&mut self) {
        let Some(transactions) = self.transactions.take() else { return };
        transactions.producer().purge(PurgeConfig::default().queue().inflight());
        if transactions.is_stuck() {
            self.stuck += 1;
            tracing::warn!(
                left_behind = self.stuck,
                "a call of the producer has not ended: it is left behind"
            );
        }
        if self.stuck >= STUCK_MAX {
            self.shared.fail(format!("{} producers are stuck in calls that do not end", self.stuck));
        }
    }

    fn read(&mut self, queue: &mut MessageQueue) -> Result<(), kafka::Error> {
        let batch = queue.poll(POLL_TIMEOUT, POLL_RECORDS_MAX);
        let now = self.clock();
        for item in batch.iter() {
            match item {
                Item::Message { partition, offset, payload, .. } => {
                    let shard = Shard(partition.cast_unsigned());
                    self.counts.messages += 1;
                    let value = payload.unwrap_or_default();
                    match self.drive.record(shard, log_offset(offset), value, now) {
                        Ok(()) => {}
                        // Whatever was read behind it is read again.
                        Err(refused @ Refused::Full(_)) => {
                            tracing::error!("{refused}");
                            break;
                        }
                        Err(refused) => {
                            tracing::warn!("the rest of what was read is dropped: {refused}");
                            break;
                        }
                    }
                }
                Item::Eof { partition, offset } => {
                    self.drive.reached(Shard(partition.cast_unsigned()), log_offset(offset));
                }
                // Out of range too: the facts are read again and decide.
                Item::Error { code, .. } => return Err(unexpected("reading the repartition topic", code)),
            }
        }
        drop(batch);
        for notice in self.drive.take_notices() {
            self.notice(&notice);
        }
        Ok(())
    }

    fn notice(&self, notice: &Notice) {
        let partition = notice.shard.0.cast_signed();
        let topic = self.topic();
        match &notice.effect {
            // A scanner whose producer failed leaves one and closes it with its next claim.
            CountEffect::Gap { source, missing_from, missing_to } => tracing::warn!(
                shard = partition,
                "frames of input partition {source} from offset {missing_from} to {missing_to} are missing; \
                 it is counted on when it is claimed again"
            ),
            CountEffect::DataLoss { source, from, to } => {
                let message =
                    format!("records of input partition {source} from {from} to {to} are not counted");
                tracing::error!(shard = partition, "data loss: {message}");
                // The scanner that found it has counted the records; every shard hears of them.
                self.shared.note_loss(topic, partition, message, 0);
            }
            CountEffect::Stale { source } => {
                tracing::debug!(shard = partition, "ignored a zombie's frame of source {source}")
            }
            CountEffect::Result(_) | CountEffect::Late(_) => {}
        }
    }

    /// Carries out one step of a transaction.
    fn transact(&mut self, effect: Effect<Membership>) -> Result<(), kafka::Error> {
        if matches!(effect, Effect::Begin) {
            self.transaction.began = Instant::now();
            // All is committed here, so nothing that is in memory depends on the producer.
            if self.transactions.as_ref().is_some_and(Transactions::may_have_late_requests) {
                tracing::info!("a connection of the producer was lost: another one takes its place");
                self.drop_producer();
                self.make_producer()?;
            }
        }
        if let Effect::Write { results, late } = &effect {
            (self.transaction.results, self.transaction.late) = (results.len() as u64, late.len() as u64);
        }
        let transactions = self.transactions()?;
        let producer = transactions.producer();
        match effect {
            Effect::Begin => {
                producer.begin_transaction().map_err(|error| kafka::Error::kafka("begin transaction", error))
            }
            Effect::Write { results, late } => {
                self.at(Point::BeforeProduce);
                self.write(producer, &results, &late)?;
                self.at(Point::AfterProduce);
                Ok(())
            }
            Effect::SendOffsets { offsets, membership } => {
                let positions: Vec<Position> = offsets.iter().map(position).collect();
                let positions = self.consumer.positions(&positions)?;
                transactions.send_offsets(positions, &membership, TRANSACTION_TIMEOUT)?;
                self.at(Point::AfterSendOffsets);
                Ok(())
            }
            Effect::AwaitWrites => await_writes(producer),
            Effect::End => {
                self.at(Point::BeforeEnd);
                if self.transaction.results > 0 {
                    reach_while(Point::DuringEnd);
                }
                transactions.commit(TRANSACTION_TIMEOUT)?;
                self.at(Point::AfterEnd);
                let metrics = self.shared.context.admin.metrics();
                metrics.count_transactions(metrics::Transaction::Committed, 1);
                metrics.observe_commit(self.transaction.began.elapsed());
                self.counts.results += self.transaction.results;
                self.counts.late_dropped += self.transaction.late;
                Ok(())
            }
            _ => unreachable!("all other effects are carried out elsewhere"),
        }
    }

    /// Places in a transaction count only if it writes results: those with offsets alone are less worth failing.
    fn at(&self, point: Point) {
        if self.transaction.results > 0 {
            reach(point);
        }
    }

    fn write(
        &self,
        producer: &Producer,
        results: &[Outcome],
        late: &[LateEvent],
    ) -> Result<(), kafka::Error> {
        let output_topics = &self.shared.config().output;
        let mode = self.drive.mode();
        for outcome in results {
            let written = output::result(outcome, mode);
            write(producer, output_topics.topic.as_str(), &written)?;
        }
        if let Some(late_topic) = &output_topics.late_topic {
            for event in late {
                write(producer, late_topic.as_str(), &output::late(event))?;
            }
        }
        Ok(())
    }

    fn leave(mut self, queue: &mut MessageQueue) -> Result<Keeper, Error> {
        self.drive.leave();
        self.carry_out(queue)?;
        self.report();
        match self.consumer.leave(LEAVE_TIMEOUT) {
            Ok(true) => {}
            Ok(false) => tracing::warn!("left the aggregate group without its answer"),
            Err(error) => tracing::warn!("leaving the aggregate group: {error}"),
        }
        Ok(self.keeper)
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
        let views = self.drive.views();
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
        let size = self.drive.size();
        let state = State {
            counters: size.counters as u64,
            bytes: size.bytes as u64,
            bytes_max: size.bytes_max as u64,
        };
        admin.metrics().set_state(&state);
        let full = self.drive.full().map(|refused| refused.to_string());
        let live = !views.is_empty() && views.iter().all(|view| view.live);
        let lags: Vec<_> = views.iter().filter_map(|view| self.lag(view)).collect();
        admin.metrics().set_repartition_lag(&lags);
        let (is_member, is_halted) =
            (self.drive.is_member() && self.shared.has_joined(), self.shared.is_halted());
        let owned: BTreeSet<i32> = self.drive.owned().iter().map(|shard| shard.0.cast_signed()).collect();
        let users = if self.shared.config().worker.users_in_status { Users::Named } else { Users::Unnamed };
        let look = self.drive.aggregator().look(users);
        let lateness = self.drive.aggregator().lateness().buckets();
        admin.update_status(|status| {
            (status.windows, status.users, status.lateness) = (look.windows, look.users, lateness);
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
            status.state = state;
            status.totals.results += counts.results;
            status.totals.late += counts.late_dropped;
            // A worker beyond the number of partitions owns none and is ready all the same.
            status.ready = !is_halted && is_member && full.is_none() && (live || views.is_empty());
            status.not_ready_reason = match (status.ready, is_halted, is_member) {
                (true, ..) => None,
                (_, true, _) => status.data_loss.last().map(|loss| loss.message.clone()),
                (_, _, false) => Some("joining the consumer groups".to_owned()),
                (_, _, true) => full.or_else(|| Some("restoring state".to_owned())),
            };
        });
    }
}

fn shards(partitions: &[i32]) -> Vec<Shard> {
    partitions.iter().map(|partition| Shard(partition.cast_unsigned())).collect()
}

fn partitions(shards: &[Shard]) -> Vec<i32> {
    shards.iter().map(|shard| shard.0.cast_signed()).collect()
}

fn position((shard, offset, commit): &(Shard, LogOffset, AggregateCommit)) -> Position {
    let (partition, offset) = (shard.0.cast_signed(), offset.0.cast_signed());
    Position { partition, offset, metadata: commit.encode() }
}

fn runtime(error: kafka::Error) -> Error {
    Error::Runtime(error.to_string())
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

/// Waits until all that was written is acknowledged.
fn await_writes(producer: &Producer) -> Result<(), kafka::Error> {
    // librdkafka's own flush waits in steps of 100 ms.
    let deadline = Instant::now() + TRANSACTION_TIMEOUT;
    while producer.in_flight_count() > 0 && Instant::now() < deadline {
        producer.poll(POLL_STEP);
    }
    if producer.in_flight_count() > 0 {
        let (what, after_ms) = ("writing results".to_owned(), TRANSACTION_TIMEOUT.as_millis());
        return Err(kafka::Error::TimedOut { what, after_ms });
    }
    let deliveries = producer.context().take_deliveries();
    match deliveries.iter().find_map(|delivery| delivery.outcome.err()) {
        Some(code) => Err(unexpected("writing results", code)),
        None => Ok(()),
    }
}
