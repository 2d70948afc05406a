//! Reading a topic for a person, from an offset or an instant on.
//!
//! Responsible for records as they are committed, with their positions, and for saying when a partition has no more. Must
//! never join a group or commit: whoever looks changes nothing.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{Offset, TopicPartitionList};

use super::Error;
use super::topics::{ObserverContext, end_list, ends_in};

/// What a look for the next record found.
pub enum Polled<'a> {
    /// A record.
    Record(BorrowedMessage<'a>),
    /// This partition has no more at the moment.
    End(i32),
    /// Nothing came in time.
    Nothing,
}

/// A reader of committed records.
pub struct LogReader(BaseConsumer<ObserverContext>);

impl LogReader {
    pub(super) fn new(consumer: BaseConsumer<ObserverContext>) -> LogReader {
        LogReader(consumer)
    }

    /// For each partition the offset of the first record whose Kafka timestamp is not before this; `None` if there is no
    /// such record.
    pub fn offsets_since(
        &self,
        topic: &str,
        partitions: &[i32],
        time_ms: i64,
        timeout: Duration,
    ) -> Result<Vec<(i32, Option<i64>)>, Error> {
        let what = format!("offsets of {topic} by time");
        let failed = |e| Error::kafka(&what, e);
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for &partition in partitions {
            list.add_partition_offset(topic, partition, Offset::Offset(time_ms)).map_err(failed)?;
        }
        let answer = self.0.offsets_for_times(list, timeout).map_err(failed)?;
        let mut found = Vec::with_capacity(partitions.len());
        for element in answer.elements() {
            element.error().map_err(failed)?;
            let offset = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            found.push((element.partition(), offset));
        }
        Ok(found)
    }

    /// For each partition the offset up to which records are committed or aborted: the last stable offset.
    pub fn stable_ends(
        &self,
        topic: &str,
        partitions: &[i32],
        timeout: Duration,
    ) -> Result<Vec<(i32, i64)>, Error> {
        let what = format!("stable offsets of {topic}");
        let failed = |e| Error::kafka(&what, e);
        let list = end_list(topic, partitions, Offset::End).map_err(failed)?;
        let answer = self.0.offsets_for_times(list, timeout).map_err(failed)?;
        ends_in(&answer, topic, partitions, what)
    }

    /// Begins to read these partitions of a topic at these offsets, and leaves what was read before.
    pub fn begin(&self, topic: &str, offsets: &[(i32, i64)]) -> Result<(), Error> {
        let what = format!("reading {topic}");
        let failed = |e| Error::kafka(&what, e);
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for &(partition, offset) in offsets {
            list.add_partition_offset(topic, partition, Offset::Offset(offset)).map_err(failed)?;
        }
        self.0.assign(&list).map_err(failed)
    }

    /// Waits for what comes next.
    pub fn poll(&self, timeout: Duration) -> Result<Polled<'_>, Error> {
        match self.0.poll(timeout) {
            None => Ok(Polled::Nothing),
            Some(Ok(message)) => Ok(Polled::Record(message)),
            Some(Err(KafkaError::PartitionEOF(partition))) => Ok(Polled::End(partition)),
            Some(Err(error)) => Err(Error::kafka("reading", error)),
        }
    }
}
