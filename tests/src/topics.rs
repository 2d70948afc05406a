//! Topics, records and groups of a Kafka.
//!
//! Responsible for creating, writing, reading, growing and purging topics and for reading and writing the committed
//! offsets of groups: what a test does to set a stage and to see what came of it. Must never hide what the broker
//! holds: a read gives every record with its position, and nothing is skipped or sorted across partitions.

mod groups;
mod reading;
mod records;
mod writing;

pub use groups::Committed;
pub use records::{Isolation, NewRecord, Position, Record};
pub use writing::Transaction;

use crate::wait::until;
use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
    TopicResult,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

/// Bounds every single operation here; tests wait for longer things themselves.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

type Admin = AdminClient<DefaultClientContext>;

/// A Kafka's topics and groups, over its plaintext listener or with given client settings.
pub struct Topics {
    settings: Vec<(String, String)>,
    /// Kept: an admin client has threads and connections, and its end takes 100 ms.
    admin: OnceLock<Admin>,
    /// Kept, for metadata and offsets.
    inspector: OnceLock<BaseConsumer>,
    /// Kept, for offsets of what is written and not committed.
    uncommitted_inspector: OnceLock<BaseConsumer>,
}

impl std::fmt::Debug for Topics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The settings may hold a password.
        f.debug_struct("Topics").finish_non_exhaustive()
    }
}

impl Topics {
    /// Over a plaintext listener.
    pub fn new(bootstrap: &str) -> Topics {
        Topics::with_settings(&[("bootstrap.servers", bootstrap)])
    }

    /// With librdkafka's settings, such as those for TLS and SASL.
    pub fn with_settings(settings: &[(&str, &str)]) -> Topics {
        let owned = settings.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Topics {
            settings: owned,
            admin: OnceLock::new(),
            inspector: OnceLock::new(),
            uncommitted_inspector: OnceLock::new(),
        }
    }

    /// The client settings that everything here starts from.
    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("reconnect.backoff.ms", "20").set("reconnect.backoff.max.ms", "200");
        for (key, value) in &self.settings {
            config.set(key, value);
        }
        config
    }

    /// Creates a topic, with as many replicas as there are brokers, and waits until every partition has a leader.
    #[track_caller]
    pub fn create_topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        let replication = TopicReplication::Fixed(-1); // the brokers' default
        let new = NewTopic { name, num_partitions: partitions, replication, config: config.to_vec() };
        let created = block_on(self.admin().create_topics([&new], &admin_options()));
        expect_topic(created, "creating", name);
        self.await_leaders(name, partitions);
    }

    /// Deletes a topic, and waits until it is gone.
    #[track_caller]
    pub fn delete_topic(&self, name: &str) {
        let deleted = block_on(self.admin().delete_topics(&[name], &admin_options()));
        expect_topic(deleted, "deleting", name);
        until(&format!("the topic {name} to be gone"), TIMEOUT, || match self.partitions_of(name) {
            None => Ok(()),
            Some(partitions) => Err(format!("{partitions} partitions")),
        });
    }

    /// Sets one setting of a topic; its others go back to the brokers' defaults.
    #[track_caller]
    pub fn set_topic_config(&self, name: &str, key: &str, value: &str) {
        let change = AlterConfig::new(ResourceSpecifier::Topic(name)).set(key, value);
        let changed = block_on(self.admin().alter_configs([&change], &admin_options()));
        let changed = changed.unwrap_or_else(|e| panic!("changing {key} of the topic {name}: {e}"));
        for result in changed {
            result.unwrap_or_else(|(_, code)| panic!("changing {key} of the topic {name}: {code}"));
        }
    }

    /// Raises the number of partitions to `total`, and waits until each has a leader.
    #[track_caller]
    pub fn increase_partitions(&self, name: &str, total: i32) {
        let count = usize::try_from(total).expect("a positive number of partitions");
        let new = NewPartitions::new(name, count);
        let grown = block_on(self.admin().create_partitions([&new], &admin_options()));
        expect_topic(grown, "adding partitions to", name);
        self.await_leaders(name, total);
    }

    /// Deletes the records of a partition below an offset, as retention does.
    #[track_caller]
    pub fn delete_records(&self, topic: &str, partition: i32, before: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(before)).expect("a real offset");
        let deleted = block_on(self.admin().delete_records(&list, &admin_options()));
        let deleted = deleted.unwrap_or_else(|e| panic!("deleting records of {topic}/{partition}: {e}"));
        for element in deleted.elements() {
            element.error().unwrap_or_else(|e| panic!("deleting records of {topic}/{partition}: {e}"));
        }
    }

    /// The number of partitions of a topic; `None` when there is no such topic.
    pub fn partitions_of(&self, name: &str) -> Option<i32> {
        let metadata = self.inspector().fetch_metadata(Some(name), TIMEOUT);
        let metadata = metadata.unwrap_or_else(|e| panic!("reading the metadata of {name}: {e}"));
        let topic = metadata.topics().iter().find(|topic| topic.name() == name && topic.error().is_none())?;
        i32::try_from(topic.partitions().len()).ok().filter(|partitions| *partitions > 0)
    }

    /// The broker that leads a partition.
    #[track_caller]
    pub fn leader_of(&self, topic: &str, partition: i32) -> i32 {
        let metadata = self.inspector().fetch_metadata(Some(topic), TIMEOUT);
        let metadata = metadata.unwrap_or_else(|e| panic!("reading the metadata of {topic}: {e}"));
        let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        let found = partitions.find(|found| found.id() == partition);
        found.unwrap_or_else(|| panic!("{topic} has no partition {partition}")).leader()
    }

    /// How many replicas are not in sync, over all topics.
    #[track_caller]
    pub fn replicas_missing(&self) -> usize {
        let metadata = self.inspector().fetch_metadata(None, TIMEOUT);
        let metadata = metadata.unwrap_or_else(|e| panic!("reading the metadata: {e}"));
        let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        partitions.map(|partition| partition.replicas().len().saturating_sub(partition.isr().len())).sum()
    }

    /// All settings of a topic, defaults included.
    #[track_caller]
    pub fn topic_config(&self, name: &str) -> BTreeMap<String, String> {
        let specifier = ResourceSpecifier::Topic(name);
        let described = block_on(self.admin().describe_configs([&specifier], &admin_options()));
        let mut described = described.unwrap_or_else(|e| panic!("reading the settings of {name}: {e}"));
        let resource = described.pop().expect("one resource was asked for");
        let resource = resource.unwrap_or_else(|e| panic!("reading the settings of {name}: {e}"));
        resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect()
    }

    /// The first and the end offset of every partition; with [`Isolation::ReadCommitted`] the end is the last stable
    /// offset.
    #[track_caller]
    pub fn offsets(&self, topic: &str, isolation: Isolation) -> BTreeMap<i32, (i64, i64)> {
        let consumer = match isolation {
            Isolation::ReadCommitted => self.inspector(),
            Isolation::ReadUncommitted => {
                self.uncommitted_inspector.get_or_init(|| self.consumer(isolation, &[]))
            }
        };
        let partitions = self.partitions_of(topic).unwrap_or_else(|| panic!("there is no topic {topic}"));
        let watermarks = (0..partitions).map(|partition| {
            // A broker that has just come back may not lead yet what it is said to lead.
            let what = format!("the offsets of {topic}/{partition}");
            (partition, until(&what, TIMEOUT, || consumer.fetch_watermarks(topic, partition, TIMEOUT)))
        });
        watermarks.collect()
    }

    #[track_caller]
    fn await_leaders(&self, name: &str, partitions: i32) {
        until(&format!("{partitions} partitions of {name} with leaders"), TIMEOUT, || {
            let metadata = self.inspector().fetch_metadata(Some(name), TIMEOUT).map_err(|e| e.to_string())?;
            let found = metadata.topics().iter().flat_map(|topic| topic.partitions());
            let led = found.filter(|partition| partition.leader() >= 0).count();
            if led >= partitions as usize { Ok(()) } else { Err(format!("{led} with a leader")) }
        });
    }

    fn admin(&self) -> &Admin {
        self.admin.get_or_init(|| self.config().create().unwrap_or_else(|e| panic!("an admin client: {e}")))
    }

    fn inspector(&self) -> &BaseConsumer {
        self.inspector.get_or_init(|| self.consumer(Isolation::ReadCommitted, &[]))
    }

    fn consumer(&self, isolation: Isolation, settings: &[(&str, &str)]) -> BaseConsumer {
        let mut config = self.config();
        config.set("isolation.level", isolation.name()).set("enable.auto.commit", "false");
        for (key, value) in settings {
            config.set(*key, *value);
        }
        config.create().unwrap_or_else(|e| panic!("a consumer: {e}"))
    }
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(TIMEOUT)).operation_timeout(Some(TIMEOUT))
}

#[track_caller]
fn expect_topic(results: rdkafka::error::KafkaResult<Vec<TopicResult>>, doing: &str, name: &str) {
    let results = results.unwrap_or_else(|e| panic!("{doing} the topic {name}: {e}"));
    for result in results {
        result.unwrap_or_else(|(_, code)| panic!("{doing} the topic {name}: {code}"));
    }
}

/// Runs a future of the admin client, which its own thread completes; so no runtime is needed, and tests with one
/// are not disturbed.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}
