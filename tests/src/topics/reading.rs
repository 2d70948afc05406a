//! Reading topics.
//!
//! Responsible for giving every record between the first offset and the end that a partition had when the read
//! began (the last stable offset, for committed reads). Must never wait for records that are not there yet, and
//! never give fewer than there are: a read that does not come to its end panics.

use super::{Isolation, Record, TIMEOUT, Topics};
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
