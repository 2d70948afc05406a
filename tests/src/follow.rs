//! A consumer that sees what is committed as soon as it can be seen.
//!
//! Responsible for its settings. Must never join a group or commit: it is assigned whole topics from their beginning.

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientConfig, error::KafkaError};

/// Opens one for the first `partitions` partitions of a topic.
pub fn open(mut config: ClientConfig, topic: &str, partitions: i32) -> Result<BaseConsumer, String> {
    config
        .set("group.id", "crashmonitor-testbed-follower")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "20")
        .set("queued.max.messages.kbytes", "1024");
    let failed = |e: KafkaError| format!("reading {topic}: {e}");
    let consumer: BaseConsumer = config.create().map_err(failed)?;
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning).map_err(failed)?;
    }
    consumer.assign(&list).map_err(failed)?;
    Ok(consumer)
}
