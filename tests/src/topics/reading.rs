//! Reading topics.
//!
//! Responsible for giving every record between the first offset and the end that a partition had when the read
//! began (the last stable offset, for committed reads), and for waiting, where that is asked for, until what was written
//! by then is decided. Must never wait for records that are not there yet, and never give fewer than there are: a read
//! that does not come to its end panics.

use super::{Isolation, Record, TIMEOUT, Topics};
use crate::wait::until;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

impl Topics {
    /// All records, in the order of their partition and offset.
    #[track_caller]
    pub fn read_all(&self, topic: &str, isolation: Isolation) -> Vec<Record> {
        let mut records = Vec::new();
        self.for_each(topic, isolation, |record| records.push(record));
        records.sort_by_key(Record::position);
        records
    }

    /// As [`Topics::read_all`] with committed reads, once every transaction is over that has written something before.
    /// A coordinator answers the end of a transaction before its markers are in the partitions, so that what a client
    /// knows to be committed may not be readable yet.
    #[track_caller]
    pub fn read_decided(&self, topic: &str) -> Vec<Record> {
        let written = self.offsets(topic, Isolation::ReadUncommitted);
        until(&format!("the transactions in {topic} to be over"), TIMEOUT, || {
            let stable = self.offsets(topic, Isolation::ReadCommitted);
            let is_open = |partition: &i32| stable[partition].1 < written[partition].1;
            match written.keys().find(|partition| is_open(partition)) {
                None => Ok(()),
                Some(partition) => {
                    Err(format!("partition {partition} is stable up to {}", stable[partition].1))
                }
            }
        });
        self.read_all(topic, Isolation::ReadCommitted)
    }

    /// Gives all records to `take`, partitions interleaved; for topics too large to hold.
    #[track_caller]
    pub fn for_each(&self, topic: &str, isolation: Isolation, mut take: impl FnMut(Record)) {
        let mut pending = self.offsets(topic, isolation);
        pending.retain(|_, (first, end)| first < end);
        if pending.is_empty() {
            return;
        }
        let settings = [("group.id", "crashmonitor-testbed-reader"), ("enable.partition.eof", "true")];
        let reader = self.consumer(isolation, &settings);
        assign(&reader, topic, &pending);
        let mut deadline = Instant::now() + TIMEOUT;
        while !pending.is_empty() {
            match reader.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    deadline = Instant::now() + TIMEOUT;
                    take_message(&message, &mut pending, &mut take);
                }
                // At the end of what this isolation level shows, past trailing control records too.
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(pending.remove(&partition)),
                // The client connects again by itself.
                Some(Err(e)) if e.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) => {
                    panic!("reading {topic}: {e}")
                }
                Some(Err(_)) | None => {
                    assert!(Instant::now() < deadline, "reading {topic} stalled; still to come: {pending:?}")
                }
            }
        }
    }
}

fn assign(reader: &BaseConsumer, topic: &str, pending: &BTreeMap<i32, (i64, i64)>) {
    let mut list = TopicPartitionList::new();
    for (partition, (first, _)) in pending {
        list.add_partition_offset(topic, *partition, Offset::Offset(*first)).expect("a real offset");
    }
    reader.assign(&list).unwrap_or_else(|e| panic!("assigning {topic}: {e}"));
}

fn take_message(
    message: &BorrowedMessage<'_>,
    pending: &mut BTreeMap<i32, (i64, i64)>,
    take: &mut impl FnMut(Record),
) {
    // What came after the read began belongs to the next read.
    let Some((_, end)) = pending.get(&message.partition()) else { return };
    if message.offset() < *end {
        take(owned(message));
    }
    if message.offset() + 1 >= *end {
        pending.remove(&message.partition());
    }
}

fn owned(message: &BorrowedMessage<'_>) -> Record {
    let headers = message.headers().map(|headers| {
        let pairs = headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)));
        pairs.collect()
    });
    Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
    }
}
