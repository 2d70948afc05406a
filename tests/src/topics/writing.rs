//! Writing topics.
//!
//! Responsible for acknowledged writes (acks=all), also compressed or in a transaction. Must never return before
//! the broker has acknowledged every record, and panics when one is refused.

use super::{NewRecord, Position, TIMEOUT, Topics};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Where each record of the current batch went, or why not.
#[derive(Default)]
struct Deliveries(Mutex<Vec<Option<Result<Position, String>>>>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let outcome = match result {
            Ok(message) => Ok(Position { partition: message.partition(), offset: message.offset() }),
            Err((e, _)) => Err(e.to_string()),
        };
        self.0.lock().expect("no delivery panics")[index] = Some(outcome);
    }
}

type Writer = BaseProducer<Deliveries>;

impl Topics {
    /// Writes records, and gives the position of each, in their order.
    #[track_caller]
    pub fn produce(&self, topic: &str, records: &[NewRecord]) -> Vec<Position> {
        self.produce_with(topic, records, &[])
    }

    /// As [`Topics::produce`], compressed by `codec`: gzip, snappy, lz4 or zstd.
    #[track_caller]
    pub fn produce_compressed(&self, topic: &str, records: &[NewRecord], codec: &str) -> Vec<Position> {
        // librdkafka sends a batch uncompressed when that is smaller; it waits for a batch worth compressing.
        self.produce_with(topic, records, &[("compression.type", codec), ("linger.ms", "50")])
    }

    /// As [`Topics::produce`], with further settings of the producer.
    #[track_caller]
    pub fn produce_with(
        &self,
        topic: &str,
        records: &[NewRecord],
        settings: &[(&str, &str)],
    ) -> Vec<Position> {
        send_all(&self.writer(settings), topic, records)
    }

    /// Begins a transaction. Dropped without an end, it stays open at the broker until it times out.
    #[track_caller]
    pub fn transaction(&self, transactional_id: &str, timeout: Duration) -> Transaction {
        let timeout_ms = timeout.as_millis().to_string();
        let config = self.writer_config(&[
            ("transactional.id", transactional_id),
            ("transaction.timeout.ms", &timeout_ms),
            ("message.timeout.ms", &timeout_ms),
        ]);
        let writer = initialized(&config);
        writer.begin_transaction().unwrap_or_else(|e| panic!("begin of {transactional_id}: {e}"));
        Transaction { writer, config }
    }

    fn writer(&self, settings: &[(&str, &str)]) -> Writer {
        created(&self.writer_config(settings))
    }

    fn writer_config(&self, settings: &[(&str, &str)]) -> ClientConfig {
        let mut config = self.config();
        config.set("acks", "all").set("enable.idempotence", "true").set("linger.ms", "1");
        config.set("retry.backoff.ms", "20");
        for (key, value) in settings {
            config.set(*key, *value);
        }
        config
    }
}

#[track_caller]
fn created(config: &ClientConfig) -> Writer {
    config.create_with_context(Deliveries::default()).unwrap_or_else(|e| panic!("a producer: {e}"))
}

/// A producer whose transactions are initialized. Those of the one before it, by the same identifier, are over then.
#[track_caller]
fn initialized(config: &ClientConfig) -> Writer {
    let writer = created(config);
    writer.init_transactions(TIMEOUT).unwrap_or_else(|e| panic!("initializing transactions: {e}"));
    writer
}

/// An open transaction.
pub struct Transaction {
    writer: Writer,
    config: ClientConfig,
}

impl Transaction {
    /// Writes records in it, acknowledged when this returns.
    #[track_caller]
    pub fn produce(&self, topic: &str, records: &[NewRecord]) -> Vec<Position> {
        send_all(&self.writer, topic, records)
    }

    /// Commits it, and returns when committed readers see its records.
    #[track_caller]
    pub fn commit(self) {
        self.writer.commit_transaction(TIMEOUT).unwrap_or_else(|e| panic!("committing: {e}"));
        self.await_markers();
    }

    /// Commits it, and begins the next one of the same producer.
    #[track_caller]
    pub fn commit_and_begin(&self) {
        self.writer.commit_transaction(TIMEOUT).unwrap_or_else(|e| panic!("committing: {e}"));
        self.writer.begin_transaction().unwrap_or_else(|e| panic!("beginning: {e}"));
    }

    /// Aborts it, and returns when committed readers are no longer held by it.
    #[track_caller]
    pub fn abort(self) {
        self.writer.abort_transaction(TIMEOUT).unwrap_or_else(|e| panic!("aborting: {e}"));
        self.await_markers();
    }

    /// A coordinator answers the end of a transaction before it has written the markers, and initializes the next
    /// producer only behind them.
    #[track_caller]
    fn await_markers(self) {
        drop(initialized(&self.config));
    }
}

#[track_caller]
fn send_all(writer: &Writer, topic: &str, records: &[NewRecord]) -> Vec<Position> {
    *deliveries(writer) = vec![None; records.len()];
    for (index, record) in records.iter().enumerate() {
        send(writer, topic, record, index);
    }
    let mut deadline = Instant::now() + TIMEOUT;
    let mut waiting = writer.in_flight_count();
    while waiting > 0 {
        writer.poll(Duration::from_millis(1));
        let now = writer.in_flight_count();
        if now < waiting {
            deadline = Instant::now() + TIMEOUT;
        }
        waiting = now;
        assert!(Instant::now() < deadline, "writing to {topic} stalled: {waiting} records not acknowledged");
    }
    let outcomes = std::mem::take(&mut *deliveries(writer));
    outcomes
        .into_iter()
        .map(|outcome| outcome.expect("nothing is in flight, so every record has its report"))
        .map(|outcome| outcome.unwrap_or_else(|e| panic!("writing to {topic}: {e}")))
        .collect()
}

fn deliveries(writer: &Writer) -> std::sync::MutexGuard<'_, Vec<Option<Result<Position, String>>>> {
    writer.context().0.lock().expect("no delivery panics")
}

#[track_caller]
fn send(writer: &Writer, topic: &str, record: &NewRecord, index: usize) {
    let mut message = base_record(topic, record, index);
    loop {
        match writer.send(message) {
            Ok(()) => return,
            // The client's own queue: it drains as the broker acknowledges.
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                writer.poll(Duration::from_millis(10));
                message = back;
            }
            Err((e, _)) => panic!("writing to {topic}: {e}"),
        }
    }
}

fn base_record<'a>(topic: &'a str, record: &'a NewRecord, index: usize) -> BaseRecord<'a, [u8], [u8], usize> {
    let mut message = BaseRecord::with_opaque_to(topic, index);
    if let Some(partition) = record.partition {
        message = message.partition(partition);
    }
    if let Some(key) = &record.key {
        message = message.key(key.as_slice());
    }
    if let Some(value) = &record.value {
        message = message.payload(value.as_slice());
    }
    if let Some(timestamp_ms) = record.timestamp_ms {
        message = message.timestamp(timestamp_ms);
    }
    if !record.headers.is_empty() {
        let headers = record.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: value.as_ref() })
        });
        message = message.headers(headers);
    }
    message
}
