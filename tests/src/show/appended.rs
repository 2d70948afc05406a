//! When the broker appended a record of the input.
//!
//! Responsible for looking it up by position: the input topic is set to carry the broker's time of appending. Must
//! never guess: what can't be read in time is unknown.

use super::INPUT;
use crate::Kafka;
use crate::follow;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(3);

/// A record's partition and offset.
pub type Position = (u32, u64);

/// Looks records up.
pub struct Appended {
    consumer: BaseConsumer,
}

impl Appended {
    /// Over a connection of its own.
    pub fn new(kafka: &Kafka) -> Result<Appended, String> {
        let mut config = kafka.topics().config();
        // One batch is enough to see one record.
        config.set("fetch.message.max.bytes", "16384");
        Ok(Appended { consumer: follow::open(config, INPUT, 0)? })
    }

    /// When the last of these records, each of another partition, was appended, in epoch milliseconds.
    pub fn last_ms(&self, positions: &[Position]) -> Option<i64> {
        let mut times: BTreeMap<i32, Option<i64>> = BTreeMap::new();
        let mut list = TopicPartitionList::new();
        for (partition, offset) in positions {
            let (partition, offset) = (partition.cast_signed(), offset.cast_signed());
            times.insert(partition, None);
            list.add_partition_offset(INPUT, partition, Offset::Offset(offset)).ok()?;
        }
        self.consumer.assign(&list).ok()?;
        let deadline = Instant::now() + TIMEOUT;
        while times.values().any(Option::is_none) && Instant::now() < deadline {
            if let Some(Ok(message)) = self.consumer.poll(Duration::from_millis(50))
                && let Some(time) = times.get_mut(&message.partition())
            {
                time.get_or_insert(message.timestamp().to_millis()?);
            }
        }
        self.consumer.unassign().ok()?;
        times.into_values().try_fold(i64::MIN, |last, time| Some(last.max(time?)))
    }
}
