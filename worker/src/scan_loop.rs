//! The loop around [`Drive`]: one consumer of the input, one idempotent producer of frames, one thread.
//!
//! Responsible for carrying out what the drive and its scanner decide: claims, reads, sends, commits, pauses. Must never
//! tell the drive of a claim that the broker has not taken, nor commit an offset that it did not name.
//!
//! There is one way back here too: if a delivery fails, the producer and all scanner state are dropped, and every owned
//! partition is claimed again from its committed offset.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crashmonitor_core::ids::{InputOffset, Shard, SourceId, TopicId};
use crashmonitor_core::output;
use crashmonitor_core::record::{Malformed, Matcher};
use crashmonitor_core::scan::drive::{Drive, Heeded, Observed, Step};
use crashmonitor_core::scan::start::{self, Claim, LogRange, Policy};
use crashmonitor_core::scan::{Input, Round, RoundId, Scan, Scanned};
use crashmonitor_core::status::{InputPartition, InputState};
use crashmonitor_core::time::Timestamp;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, PurgeConfig};

use crate::driver::{LOOP_BOUND, REPORT_INTERVAL, REQUEST_TIMEOUT, Shared, now, scan_params};
use crate::failpoint::{Point, reach};
use crate::kafka;
use crate::kafka::client::{POLL_STEP, Producer, send};
use crate::kafka::group::{CommitResult, GroupConsumer, GroupEvent, Position};
use crate::metrics::{Rebalance, ScanCounts, Stage};
use crate::reader::{Item, Reader};
use crate::run::Error;

/// How long a poll waits for the first record: as long as a tick may come late.
const POLL_TIMEOUT: Duration = Duration::from_millis(5);
/// How often an unclaimed partition is looked at again.
const CLAIM_INTERVAL: Duration = Duration::from_millis(50);
/// How long handing over or leaving may wait for acknowledgements.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);
/// The first and the longest pause before a scan starts again after a failure.
const RESTART_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// How long a full producer queue may keep a message waiting: what the broker takes no longer than that is alive.
const ENQUEUE_TIMEOUT: Duration = Duration::from_secs(30);

/// Something failed in a way that starting again from the committed offsets mends.
struct StartAgain(String);

impl From<kafka::Error> for StartAgain {
    fn from(error: kafka::Error) -> StartAgain {
        StartAgain(error.to_string())
    }
}

struct ScanLoop<'a> {
    shared: &'a Shared,
    thread: u16,
    consumer: GroupConsumer,
    producer: Producer,
    drive: Drive,
    /// The topic that the input's name stands for, as it was seen last; that of every source which is read.
    input_topic: TopicId,
    claim_at: Instant,
    commit_at: Instant,
    report_at: Instant,
    counts: ScanCounts,
    dead_letters: BTreeMap<Malformed, u64>,
    waits_for: Option<start::WaitFor>,
}

/// Scans until the worker ends.
pub fn run(shared: &Shared, thread: u16) -> Result<(), Error> {
    let consumer = shared.context.clients.scan_consumer(thread)?;
    let mut reader =
        Reader::new(&shared.context.clients, thread, &consumer, shared.config().worker.input_reader);
    consumer.subscribe().map_err(|error| Error::Runtime(error.to_string()))?;
    let heartbeat = shared.context.admin.register(&format!("scan-{thread}"), LOOP_BOUND);
    let mut scanning = ScanLoop::new(shared, thread, consumer)?;
    let member = shared.context.clients.scan_member(thread);
    let mut pause = RESTART_PAUSE.0;
    while !shared.is_ending() {
        heartbeat.beat();
        let turned = if shared.must_rejoin(&member) {
            scanning.leave_group();
            scanning.drive.left();
            Err(StartAgain("the group is to assign anew".to_owned()))
        } else {
            scanning.turn(&mut reader)
        };
        match turned {
            Ok(true) => pause = RESTART_PAUSE.0,
            Ok(false) => {}
            Err(StartAgain(reason)) => {
                tracing::warn!("scan starts again at the committed offsets: {reason}");
                if scanning.drive.must_rejoin() {
                    scanning.rejoin(&mut reader)?;
                }
                scanning.start_again(&mut reader)?;
                // Events are served meanwhile only after the pause, which is far below any session timeout's worth.
                scanning.claim_at = Instant::now() + pause;
                pause = (pause * 2).min(RESTART_PAUSE.1);
            }
        }
    }
    scanning.leave();
    shared.context.admin.unregister(&format!("scan-{thread}"));
    Ok(())
}

impl<'a> ScanLoop<'a> {
    fn new(shared: &'a Shared, thread: u16, consumer: GroupConsumer) -> Result<ScanLoop<'a>, Error> {
        let now = Instant::now();
        Ok(ScanLoop {
            shared,
            thread,
            consumer,
            producer: shared.context.clients.idempotent_producer()?,
            drive: Drive::new(new_scan(shared)?, policy(shared)),
            input_topic: TopicId::default(),
            claim_at: now,
            commit_at: now,
            report_at: now,
            counts: ScanCounts::default(),
            dead_letters: BTreeMap::new(),
            waits_for: None,
        })
    }

    /// One turn; true if a round was acknowledged, which proves that the way to the broker is open.
    fn turn(&mut self, reader: &mut Reader) -> Result<bool, StartAgain> {
        // All of them, whatever comes of one: the group waits for an answer to each.
        let followed = self.consumer.poll_events().into_iter().map(|event| self.follow(event, reader));
        followed.fold(Ok(()), Result::and)?;
        if self.drive.has_failed() {
            return Err(StartAgain("what was sent before a hand-over has not arrived".to_owned()));
        }
        if let Some(observed) = self.shared.observed() {
            self.heed(&observed, reader)?;
        }
        if !self.drive.unclaimed().is_empty() && Instant::now() >= self.claim_at {
            self.claim_at = Instant::now() + CLAIM_INTERVAL;
            self.claim()?;
        }
        if self.drive.scan().is_saturated() {
            self.producer.poll(POLL_TIMEOUT);
        } else {
            self.read(reader)?;
        }
        self.flush(false)?;
        let progressed = self.serve_deliveries()?;
        self.read_claimed(reader)?;
        if self.commit_at.elapsed() >= self.shared.config().worker.commit_interval {
            self.commit_at = Instant::now();
            self.commit()?;
        }
        if self.report_at.elapsed() >= REPORT_INTERVAL {
            self.report_at = Instant::now();
            self.report();
        }
        Ok(progressed)
    }

    fn follow(&mut self, event: GroupEvent, reader: &mut Reader) -> Result<(), StartAgain> {
        let metrics = self.shared.context.admin.metrics();
        match event {
            GroupEvent::Assigned(partitions) => {
                metrics.count_rebalance(Stage::Scan, Rebalance::Assigned);
                self.shared.set_joined(self.thread);
                self.drive.assigned(sources(&partitions));
                self.claim_at = Instant::now();
                // Answered at once; each partition is read once it is claimed.
                reader.accept(&self.consumer)?;
            }
            GroupEvent::Revoked(partitions) => {
                metrics.count_rebalance(Stage::Scan, Rebalance::Revoked);
                reach(Point::ScanInRevoke);
                self.hand_over();
                self.release(&partitions, reader)?;
            }
            GroupEvent::Lost(partitions) => {
                metrics.count_rebalance(Stage::Scan, Rebalance::Lost);
                tracing::warn!(?partitions, "input partitions were taken away: the session timed out");
                self.release(&partitions, reader)?;
            }
            GroupEvent::Error { code, text, is_fatal } => {
                if is_fatal {
                    self.shared.fail(format!("the consumer of the input failed for good: {text}"));
                } else if code != RDKafkaErrorCode::UnknownTopicOrPartition {
                    tracing::debug!("consumer of the input: {text}");
                }
            }
            GroupEvent::Stray { partition, offset } => {
                return Err(StartAgain(format!(
                    "a record went astray: partition {partition}, offset {offset}"
                )));
            }
        }
        Ok(())
    }

    /// Before partitions go to somebody else: what was read is sent, acknowledged and committed, if that is quick.
    fn hand_over(&mut self) {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        let mut settled = self.flush(true).is_ok();
        while settled && !self.drive.scan().is_settled() && Instant::now() < deadline {
            self.producer.poll(POLL_STEP);
            settled = self.serve_deliveries().is_ok();
        }
        if let Err(StartAgain(reason)) = self.commit() {
            tracing::debug!("not committed before handing over: {reason}");
            settled = false;
        }
        if !settled {
            self.drive.failed();
        }
    }

    fn release(&mut self, partitions: &[i32], reader: &mut Reader) -> Result<(), StartAgain> {
        let released: Vec<SourceId> = sources(partitions).collect();
        let read = self.drive.give_up(&released);
        self.publish_owned();
        Ok(reader.stop(&self.consumer, &numbers(&read))?)
    }

    /// Takes in what the observer has seen.
    fn heed(&mut self, observed: &Observed, reader: &mut Reader) -> Result<(), StartAgain> {
        self.input_topic = observed.input_topic;
        let Heeded { recreated, stop, pause, resume } = self.drive.heed(observed);
        if !recreated.is_empty() {
            tracing::warn!(?recreated, "the input topic was deleted and made again");
            self.publish_owned();
            reader.stop(&self.consumer, &numbers(&stop))?;
        }
        if !pause.is_empty() {
            reader.pause(&self.consumer, &numbers(&pause))?;
        }
        if !resume.is_empty() {
            reader.resume(&self.consumer, &numbers(&resume))?;
        }
        Ok(())
    }

    fn claim(&mut self) -> Result<(), StartAgain> {
        let Some(observed) = self.shared.observed() else { return Ok(()) };
        let facts = self.facts(&observed)?;
        match self.drive.decide(&facts) {
            Step::Wait(whom) => self.wait(whom),
            Step::Resolve(positions) => {
                let positions: Vec<Position> =
                    positions.iter().map(|(s, o, m)| position(*s, *o, m.encode())).collect();
                tracing::info!(partitions = positions.len(), "starting positions of the input resolved");
                self.commit_positions(&positions)?;
                // The rest of the partitions can be claimed at once.
                self.claim_at = Instant::now();
            }
            Step::Claim(claims) => self.take_over(&claims)?,
            Step::Halt(source, loss) => {
                let topic = self.shared.config().input.topic.as_str();
                self.shared.halt(topic, source.0.cast_signed(), loss.to_string());
            }
        }
        Ok(())
    }

    fn wait(&mut self, whom: start::WaitFor) {
        if self.waits_for != Some(whom) {
            self.waits_for = Some(whom);
            tracing::info!("the input is not read yet: waiting for {whom:?}");
        }
    }

    fn log_ranges(&self, observed: &Observed) -> Result<Vec<LogRange>, StartAgain> {
        let partitions: Vec<i32> = (0..observed.sources.cast_signed()).collect();
        let topic = self.shared.config().input.topic.as_str();
        let ends = self.shared.observer.watermarks(topic, &partitions, REQUEST_TIMEOUT)?;
        let range = |low: i64, high: i64| LogRange { start: input_offset(low), end: input_offset(high) };
        Ok(ends.iter().map(|ends| range(ends.low, ends.high)).collect())
    }

    fn facts(&self, observed: &Observed) -> Result<Vec<start::Facts>, StartAgain> {
        let mut partitions: Vec<i32> = numbers(self.drive.unclaimed());
        if !self.drive.unclaimed().contains(&SourceId(0)) {
            partitions.push(0);
        }
        let before = self.log_ranges(observed)?;
        let mut committed = BTreeMap::new();
        for partition in self.consumer.committed(&partitions, REQUEST_TIMEOUT)? {
            if let Some(error) = partition.error {
                return Err(StartAgain(format!("committed offset of {}: {error}", partition.partition)));
            }
            let value = partition.value.map(|value| (input_offset(value.offset), value.metadata));
            committed.insert(partition.partition, value);
        }
        let after = self.log_ranges(observed)?;
        let range =
            |(before, after): (&LogRange, &LogRange)| LogRange { start: before.start, end: after.end };
        let logs: Vec<LogRange> = before.iter().zip(&after).map(range).collect();
        let of = |source: SourceId| committed.get(&source.0.cast_signed()).cloned().flatten();
        let facts = |&source: &SourceId| start::Facts {
            source,
            committed: of(source),
            committed_first: of(SourceId(0)),
            logs: logs.clone(),
            topic: observed.input_topic,
            log_topic: self.shared.log_topic,
            aggregate: observed.aggregate,
        };
        Ok(self.drive.unclaimed().iter().map(facts).collect())
    }

    /// Commits claims and sends those that were taken.
    fn take_over(&mut self, claims: &[Claim]) -> Result<(), StartAgain> {
        if claims.is_empty() {
            return Ok(());
        }
        let positions: Vec<Position> =
            claims.iter().map(|c| position(c.source, c.from, c.metadata.encode())).collect();
        for result in self.commit_positions(&positions)? {
            let claim = claims.iter().find(|claim| claim.source.0.cast_signed() == result.partition);
            let (Some(claim), Ok(())) = (claim, result.outcome) else {
                tracing::debug!(partition = result.partition, "not claimed: {:?}", result.outcome);
                continue;
            };
            self.show_loss(claim);
            self.drive.claimed(claim, now());
            let (from, epoch) = (claim.from.max(claim.lost_to), claim.metadata.epoch);
            tracing::info!(partition = result.partition, %from, %epoch, "claimed");
        }
        reach(Point::ScanAfterClaim);
        self.publish_owned();
        self.flush(true)
    }

    /// Begins to read the sources whose claims have arrived in every shard.
    fn read_claimed(&mut self, reader: &mut Reader) -> Result<(), StartAgain> {
        let readable = self.drive.take_readable();
        if readable.is_empty() {
            return Ok(());
        }
        let starts = readable.iter().map(|(source, from)| (source.0.cast_signed(), from.0.cast_signed()));
        let starts: Vec<(i32, i64)> = starts.collect();
        reader.start(&self.consumer, self.input_topic, &starts)?;
        let paused = self.drive.reading(&readable);
        if !paused.is_empty() {
            reader.pause(&self.consumer, &numbers(&paused))?;
        }
        Ok(())
    }

    fn show_loss(&self, claim: &Claim) {
        if let Some(kind) = claim.loss {
            let lost = claim.lost_to.0.saturating_sub(claim.from.0);
            let message = format!("{kind:?}: {lost} records from offset {} on were not read", claim.from);
            tracing::error!(partition = claim.source.0, "data loss: {message}");
            let topic = self.shared.config().input.topic.as_str();
            self.shared.note_loss(topic, claim.source.0.cast_signed(), message, lost);
        }
    }

    fn read(&mut self, reader: &mut Reader) -> Result<(), StartAgain> {
        let now = now();
        let (mut out_of_range, mut unsupported) = (Vec::new(), None);
        reader.poll(POLL_TIMEOUT, |item| {
            match item {
                Item::Record { partition, offset, key, value, appended_at_ms } => {
                    let appended_at = appended_at_ms.map(Timestamp::from_millis);
                    let source = SourceId(partition.cast_unsigned());
                    let input = Input { source, offset: input_offset(offset), appended_at, value };
                    self.record(&input, key, now)?;
                    if self.drive.scan().wants_flush() {
                        self.flush(false)?;
                    }
                }
                Item::Reached { partition, offset } => {
                    self.drive.scan().reached(SourceId(partition.cast_unsigned()), input_offset(offset));
                }
                Item::OutOfRange { partition } => out_of_range.push(partition),
                Item::Error { partition, text } => tracing::warn!(partition, "reading the input: {text}"),
                Item::Unsupported { reason } => unsupported = Some(reason),
            }
            Ok::<(), StartAgain>(())
        })?;
        if let Some(reason) = unsupported {
            return self.fall_back(&reason, reader);
        }
        if out_of_range.is_empty() { Ok(()) } else { self.skip_lost(&out_of_range, reader) }
    }

    /// Goes on with librdkafka: every partition is claimed again, and read from where it was committed.
    fn fall_back(&mut self, reason: &str, reader: &mut Reader) -> Result<(), StartAgain> {
        tracing::warn!("reading the input through librdkafka from here on: {reason}");
        self.hand_over();
        let claimed: Vec<SourceId> = self.drive.owned().iter().copied().collect();
        let stop = self.drive.claim_anew(&claimed);
        self.publish_owned();
        reader.stop(&self.consumer, &numbers(&stop))?;
        reader.fall_back();
        Ok(())
    }

    #[inline]
    fn record(&mut self, input: &Input<'_>, key: Option<&[u8]>, now: Timestamp) -> Result<(), StartAgain> {
        self.counts.records += 1;
        self.counts.bytes += input.value.map_or(0, |value| value.len() as u64);
        match self.drive.scan().record(input, now) {
            Scanned::Matched => self.counts.matches += 1,
            Scanned::Empty => self.counts.empty += 1,
            Scanned::DeadLetter(reason) => {
                *self.dead_letters.entry(reason).or_default() += 1;
                self.send_dead_letter(reason, input, key)?;
            }
            Scanned::Passed | Scanned::Repeated | Scanned::NotOwned => {}
        }
        Ok(())
    }

    fn send_dead_letter(
        &mut self,
        reason: Malformed,
        input: &Input<'_>,
        key: Option<&[u8]>,
    ) -> Result<(), StartAgain> {
        let Some(topic) = &self.shared.config().output.dead_letter_topic else { return Ok(()) };
        let mut headers = OwnedHeaders::new();
        for (name, value) in &output::dead_letter_headers(reason, input.source, input.offset) {
            headers = headers.insert(Header { key: name, value: Some(value.as_bytes()) });
        }
        let RoundId(round) = self.drive.scan().await_dead_letter();
        let mut record = BaseRecord::with_opaque_to(topic.as_str(), token(round)).headers(headers);
        if let Some(value) = input.value {
            record = record.payload(value);
        }
        if let Some(key) = key {
            record = record.key(key);
        }
        send(&self.producer, record, ENQUEUE_TIMEOUT).map_err(not_sent)
    }

    /// Retention was faster than the reader: says so and goes on, or stops, as the resource wants it.
    fn skip_lost(&mut self, partitions: &[i32], reader: &mut Reader) -> Result<(), StartAgain> {
        // The claim decides what to do about it from the same facts, so it is the one place that does.
        tracing::warn!(?partitions, "the offset to read is no longer in the log");
        self.hand_over();
        let lost: Vec<SourceId> = sources(partitions).collect();
        let stop = self.drive.claim_anew(&lost);
        self.publish_owned();
        Ok(reader.stop(&self.consumer, &numbers(&stop))?)
    }

    fn flush(&mut self, at_once: bool) -> Result<(), StartAgain> {
        let Some(Round { id, messages }) = self.drive.scan().flush(now(), at_once) else { return Ok(()) };
        let topic = self.shared.config().repartition_topic().as_str();
        for (Shard(shard), bytes) in &messages {
            let record = BaseRecord::with_opaque_to(topic, token(id.0));
            let record: BaseRecord<'_, [u8], [u8], usize> =
                record.partition(shard.cast_signed()).payload(bytes);
            send(&self.producer, record, ENQUEUE_TIMEOUT).map_err(not_sent)?;
        }
        self.counts.messages += messages.len() as u64;
        reach(Point::ScanAfterProduce);
        Ok(())
    }

    fn serve_deliveries(&mut self) -> Result<bool, StartAgain> {
        self.producer.poll(Duration::ZERO);
        let deliveries = self.producer.context().take_deliveries();
        let any = !deliveries.is_empty();
        for delivery in deliveries {
            match delivery.outcome {
                Ok(_) => self.drive.scan().acknowledged(RoundId(delivery.token as u64)),
                Err(code) => {
                    return Err(StartAgain(format!("a frame or dead letter was not delivered: {code}")));
                }
            }
        }
        Ok(any)
    }

    fn commit(&mut self) -> Result<(), StartAgain> {
        let positions = self.drive.positions();
        if positions.is_empty() {
            return Ok(());
        }
        let positions: Vec<Position> =
            positions.iter().map(|c| position(c.source, c.offset, c.metadata.encode())).collect();
        reach(Point::ScanBeforeCommit);
        let results = self.commit_positions(&positions)?;
        reach(Point::ScanAfterCommit);
        for result in results {
            match result.outcome {
                Ok(()) => self.drive.committed(SourceId(result.partition.cast_unsigned())),
                // A rebalance is under way, or we are no longer the owner: an event will tell which.
                Err(code) => tracing::debug!(partition = result.partition, "not committed: {code}"),
            }
        }
        Ok(())
    }

    /// Commits. Without an answer, for any of them, we must not commit again as this member.
    fn commit_positions(&mut self, positions: &[Position]) -> Result<Vec<CommitResult>, StartAgain> {
        let results = self.consumer.commit(positions, REQUEST_TIMEOUT);
        let unanswered = match &results {
            Ok(results) => results.iter().find_map(|result| result.outcome.err().filter(is_no_answer)),
            Err(error) => error.code().filter(is_no_answer),
        };
        if let Some(code) = unanswered {
            self.drive.commit_unanswered();
            return Err(StartAgain(format!("a commit was not answered: {code}")));
        }
        Ok(results?)
    }

    /// Makes a new member of us, which fences the commits of the one before that may still be under way.
    fn rejoin(&mut self, reader: &mut Reader) -> Result<(), Error> {
        let consumer = self.shared.context.clients.scan_consumer(self.thread)?;
        let runtime = |error: kafka::Error| Error::Runtime(error.to_string());
        // Nothing is to be stopped any more: the old consumer and the old reader go with all that they read.
        let asked = self.shared.config().worker.input_reader;
        *reader = Reader::new(&self.shared.context.clients, self.thread, &consumer, asked);
        consumer.subscribe().map_err(runtime)?;
        self.consumer = consumer;
        Ok(())
    }

    /// The one way back: a new producer, nothing remembered, every partition claimed again.
    fn start_again(&mut self, reader: &mut Reader) -> Result<(), Error> {
        self.producer.purge(PurgeConfig::default().queue().inflight());
        self.producer = self.shared.context.clients.idempotent_producer()?;
        let is_new_member = self.drive.must_rejoin();
        let read = self.drive.start_again(new_scan(self.shared)?);
        self.publish_owned();
        if is_new_member {
            return Ok(());
        }
        reader.stop(&self.consumer, &numbers(&read)).map_err(|error| Error::Runtime(error.to_string()))
    }

    fn leave(mut self) {
        self.leave_group();
        self.report();
    }

    /// Commits what there is and leaves, so that others get what is given back now and not when the session ends.
    fn leave_group(&mut self) {
        if !self.shared.is_halted() {
            self.hand_over();
        }
        match self.consumer.leave(SETTLE_TIMEOUT) {
            Ok(true) => {}
            Ok(false) => tracing::warn!("left the scan group without its answer"),
            Err(error) => tracing::warn!("leaving the scan group: {error}"),
        }
    }

    fn publish_owned(&self) {
        self.shared.set_owned(self.thread, numbers(self.drive.owned()));
    }

    fn report(&mut self) {
        let admin = &self.shared.context.admin;
        let counts = std::mem::take(&mut self.counts);
        let dead_letters = std::mem::take(&mut self.dead_letters);
        admin.metrics().add_scan(&counts);
        for (&reason, &count) in &dead_letters {
            admin.metrics().add_dead_letters(reason, count);
        }
        let observed = self.shared.observed();
        let end = |source: SourceId| {
            let ends = observed.as_ref().map_or(&[][..], |observed| &observed.ends);
            ends.iter().find(|(partition, _)| *partition == source.0).map_or(0, |(_, end)| *end)
        };
        let partitions: Vec<(i32, InputPartition)> = self
            .drive
            .scan()
            .views()
            .map(|view| {
                let lag = end(view.source).saturating_sub(view.next.0);
                let state = match (view.paused, view.idle) {
                    (true, _) => InputState::Paused,
                    (false, true) => InputState::Idle,
                    (false, false) => InputState::Running,
                };
                let partition = InputPartition {
                    position: view.next.0.cast_signed(),
                    lag: lag.cast_signed(),
                    mark_ms: view.mark.map(Timestamp::as_millis),
                    state,
                };
                (view.source.0.cast_signed(), partition)
            })
            .collect();
        let owned = self.shared.owned();
        admin.update_status(|status| {
            status.input.retain(|partition, _| owned.contains(partition));
            status.input.extend(partitions);
            status.totals.records += counts.records;
            status.totals.dead_letters += dead_letters.values().sum::<u64>();
        });
        let status = admin.status();
        let lags: Vec<(i32, i64)> =
            status.input.iter().map(|(&partition, input)| (partition, input.lag)).collect();
        admin.metrics().set_input_lag(&lags);
    }
}

fn policy(shared: &Shared) -> Policy {
    let input = &shared.config().input;
    Policy { starting_offsets: input.starting_offsets, on_data_loss: input.on_data_loss }
}

fn new_scan(shared: &Shared) -> Result<Scan, Error> {
    let config = shared.config();
    let matcher = Matcher::new(&config.rule).map_err(|error| Error::Runtime(error.to_string()))?;
    Ok(Scan::new(scan_params(config), matcher))
}

fn numbers<'a>(sources: impl IntoIterator<Item = &'a SourceId>) -> Vec<i32> {
    sources.into_iter().map(|source| source.0.cast_signed()).collect()
}

fn sources(partitions: &[i32]) -> impl Iterator<Item = SourceId> + '_ {
    partitions.iter().map(|partition| SourceId(partition.cast_unsigned()))
}

fn input_offset(offset: i64) -> InputOffset {
    InputOffset(offset.max(0).cast_unsigned())
}

fn position(source: SourceId, offset: InputOffset, metadata: String) -> Position {
    Position { partition: source.0.cast_signed(), offset: offset.0.cast_signed(), metadata }
}

fn token(round: u64) -> usize {
    usize::try_from(round).expect("rounds are counted on a 64-bit machine")
}

/// Whether a request that ended so may have been carried out, or may be later.
fn is_no_answer(code: &RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{BrokerTransportFailure, MessageTimedOut, OperationTimedOut, RequestTimedOut};
    matches!(code, BrokerTransportFailure | MessageTimedOut | OperationTimedOut | RequestTimedOut)
}

fn not_sent(error: KafkaError) -> StartAgain {
    StartAgain(format!("sending: {error}"))
}
