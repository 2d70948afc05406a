//! A transactional producer each of whose calls ends.
//!
//! Responsible for a bound of our own on what librdkafka promises to bound and does not. Must never decide what follows from
//! a call that did not end: the loop throws all state away, as after any other failure.
//!
//! # Why a thread
//! `rd_kafka_send_offsets_to_transaction` notes its time limit and never looks at it while it waits for the group's
//! coordinator (`creq_ts_timeout` in rdkafka_coord.c, librdkafka 1.4 to 2.14). It looks for the coordinator again when any
//! broker's connection comes or goes. But a broker that died is missing in the brokers' answers, so librdkafka forgets it,
//! and then nothing comes or goes any more: the call waits for ever, though another coordinator is long elected
//! (confluentinc/librdkafka issues 5456 and 5511). So calls are made in a thread of their own. One that takes too long is
//! given up, with its thread and its producer: neither is used again, and should the call go on one day, the next
//! producer has fenced it.
//!
//! # Why a producer is replaced when it has lost a connection
//! librdkafka 2.14 does not have the second version of transactions (KIP-890): all transactions of a producer have one epoch.
//! When a connection is lost, librdkafka asks again on another one, and says nothing of it. But the first request may
//! be on its way still, at a broker that was stopped or in a network that was cut: the end of one transaction then ends the
//! next one, half written, as `tests/tests/limits.rs` shows. A new producer has another epoch, and what is late is refused.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::KafkaResult;
use rdkafka::producer::Producer as _;

use super::Error;
use super::client::Producer;

/// How much longer than its time limit a call may take: librdkafka looks at the limit where it does, and its own answer
/// says more than ours.
const GRACE: Duration = Duration::from_secs(2);

/// How many events of the client are looked at before a transaction. In one, while nobody looks, only lost connections are
/// told, each once in 30 s: two lines for each of a few brokers.
const EVENTS_MAX: usize = 32;

enum Call {
    Init(Duration),
    SendOffsets(TopicPartitionList, Arc<ConsumerGroupMetadata>, Duration),
    Commit(Duration),
}

/// A transactional producer, and the thread in which it waits.
pub struct Transactions {
    producer: Arc<Producer>,
    /// None once it is dropped: the thread ends.
    calls: Option<Sender<Call>>,
    answers: Receiver<KafkaResult<()>>,
    thread: Option<JoinHandle<()>>,
    is_stuck: Cell<bool>,
}

impl Transactions {
    /// With a producer that nobody has used yet.
    pub fn new(producer: Producer) -> Result<Transactions, Error> {
        let producer = Arc::new(producer);
        let (calls, waiting) = mpsc::channel();
        let (answering, answers) = mpsc::channel();
        let of_thread = Arc::clone(&producer);
        let thread = thread::Builder::new().name("transaction".to_string()).spawn(move || {
            while let Ok(call) = waiting.recv() {
                if answering.send(carry_out(&of_thread, call)).is_err() {
                    break;
                }
            }
        });
        let thread = thread.map_err(|e| Error::Unexpected {
            what: "a thread for transactions".to_string(),
            reason: e.to_string(),
        })?;
        Ok(Transactions {
            producer,
            calls: Some(calls),
            answers,
            thread: Some(thread),
            is_stuck: Cell::new(false),
        })
    }

    /// For what waits for nobody: writing, beginning a transaction, purging.
    pub fn producer(&self) -> &Producer {
        &self.producer
    }

    /// Whether a request may still be on its way that would be taken for one of the next transaction.
    pub fn may_have_late_requests(&self) -> bool {
        for _ in 0..EVENTS_MAX {
            self.producer.poll(Duration::ZERO);
        }
        self.producer.context().has_lost_connection()
    }

    /// Whether a call did not end in time. Nothing can be done with it any more but to drop it, and then its thread and the
    /// client stay behind.
    pub fn is_stuck(&self) -> bool {
        self.is_stuck.get()
    }

    /// Fences earlier producers of this name, and ends what they left open.
    pub fn init(&self, timeout: Duration) -> Result<(), Error> {
        self.call("init transactions", Call::Init(timeout), timeout)
    }

    /// Adds the group's offsets to the transaction.
    pub fn send_offsets(
        &self,
        positions: TopicPartitionList,
        membership: &Arc<ConsumerGroupMetadata>,
        timeout: Duration,
    ) -> Result<(), Error> {
        let call = Call::SendOffsets(positions, Arc::clone(membership), timeout);
        self.call("send offsets to the transaction", call, timeout)
    }

    /// Commits the transaction.
    pub fn commit(&self, timeout: Duration) -> Result<(), Error> {
        self.call("commit transaction", Call::Commit(timeout), timeout)
    }

    fn call(&self, what: &str, call: Call, timeout: Duration) -> Result<(), Error> {
        let unexpected =
            |reason: &str| Error::Unexpected { what: what.to_string(), reason: reason.to_string() };
        // The answer to the call that took too long would be taken for the answer to this one.
        if self.is_stuck() {
            return Err(unexpected("an earlier call has not ended"));
        }
        let calls = self.calls.as_ref().expect("there until it is dropped");
        let ended = || unexpected("the thread for transactions has ended");
        calls.send(call).map_err(|_| ended())?;
        match self.answers.recv_timeout(timeout + GRACE) {
            Ok(answer) => answer.map_err(|error| Error::kafka(what, error)),
            Err(RecvTimeoutError::Timeout) => {
                self.is_stuck.set(true);
                Err(Error::TimedOut { what: what.to_string(), after_ms: (timeout + GRACE).as_millis() })
            }
            Err(RecvTimeoutError::Disconnected) => Err(ended()),
        }
    }
}

fn carry_out(producer: &Producer, call: Call) -> KafkaResult<()> {
    match call {
        Call::Init(timeout) => producer.init_transactions(timeout),
        Call::SendOffsets(positions, membership, timeout) => {
            producer.send_offsets_to_transaction(&positions, &membership, timeout)
        }
        Call::Commit(timeout) => producer.commit_transaction(timeout),
    }
}

impl Drop for Transactions {
    fn drop(&mut self) {
        self.calls = None;
        if !self.is_stuck()
            && let Some(thread) = self.thread.take()
        {
            // It holds the client too: the client is gone when we are. If it panicked, there is nothing left to do.
            let _ = thread.join();
        }
    }
}
