//! Topics, their settings, their ends, and what groups have committed about them.
//!
//! Responsible for creating what is absent, for naming each setting of what is there that does not fit, for deleting
//! what the caller says is no longer needed, and for facts about partitions. Must never change a topic that exists.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigEntry, NewTopic, ResourceSpecifier, TopicReplication, TopicResult,
};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use crashmonitor_core::config::{Config, GroupName, Repartition, TopicName};
use crashmonitor_core::orphans::Member;

use super::batch::{self, Committed, TopicFacts};
use super::client::Reporter;
use super::{Error, Health};

/// A topic as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// Partitions that it is created with.
    pub partitions: u32,
    /// Replicas that it is created with.
    pub replication_factor: u16,
    /// The configuration key by which a person changes the replicas, for the error.
    pub replication_key: &'static str,
    /// Settings that it is created with and must have.
    pub required: BTreeMap<&'static str, String>,
    /// Whether an existing topic must have exactly these partitions.
    pub is_partition_count_fixed: bool,
}

impl TopicSpec {
    /// The internal topic: nothing in it may vanish but by our own hand, and its partitions are part of the routing.
    pub fn repartition(config: &Config) -> TopicSpec {
        let Repartition { partitions, replication_factor } = config.repartition;
        let required = BTreeMap::from([
            ("cleanup.policy", "delete".to_string()),
            ("compression.type", "producer".to_string()),
            ("message.timestamp.type", "CreateTime".to_string()),
            ("min.insync.replicas", replication_factor.min(2).to_string()),
            ("retention.bytes", "-1".to_string()),
            ("retention.ms", "-1".to_string()),
        ]);
        TopicSpec {
            name: config.repartition_topic().to_string(),
            partitions,
            replication_factor,
            replication_key: "repartition.replicationFactor",
            required,
            is_partition_count_fixed: true,
        }
    }

    /// A topic that other people read: created if absent, taken as it is if not.
    pub fn output(config: &Config, name: &TopicName) -> TopicSpec {
        TopicSpec {
            name: name.to_string(),
            partitions: config.output.partitions,
            replication_factor: config.output.replication_factor,
            replication_key: "output.replicationFactor",
            required: BTreeMap::new(),
            is_partition_count_fixed: false,
        }
    }

    /// All topics that the worker writes to.
    pub fn all(config: &Config) -> Vec<TopicSpec> {
        let output = &config.output;
        let named = [Some(&output.topic), output.late_topic.as_ref(), output.dead_letter_topic.as_ref()];
        let mut specs = vec![TopicSpec::repartition(config)];
        specs.extend(named.into_iter().flatten().map(|name| TopicSpec::output(config, name)));
        specs
    }
}

/// A setting of an existing topic that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The setting, or `partitions`.
    pub setting: String,
    /// What it must be.
    pub expected: String,
    /// What it is.
    pub found: String,
}

/// What was found or done about a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// It was absent and is there now.
    Created,
    /// It is there and fits.
    Fits,
    /// It is there and does not fit. Nothing was changed.
    Differs(Vec<Mismatch>),
    /// The brokers are too few for the replicas; the text names the key to change.
    TooFewBrokers(String),
}

/// A client for topics.
pub struct Admin {
    client: AdminClient<DefaultClientContext>,
    runtime: tokio::runtime::Runtime,
}

impl Admin {
    pub(super) fn new(client: AdminClient<DefaultClientContext>) -> Admin {
        // The admin client's futures need somebody to wait for them, and neither I/O nor timers.
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        Admin { client, runtime: runtime.expect("a runtime without I/O asks nothing of the system") }
    }

    /// Creates the topic if it is absent, else compares it. `timeout` bounds each of up to three requests.
    pub fn ensure_topic(&self, spec: &TopicSpec, timeout: Duration) -> Result<Ensured, Error> {
        if let Some(facts) = batch::describe_topic(self.client.inner(), &spec.name, timeout)? {
            return self.compare(spec, facts, timeout);
        }
        let what = format!("create topic {}", spec.name);
        let replication = TopicReplication::Fixed(i32::from(spec.replication_factor));
        let partitions = i32::try_from(spec.partitions).unwrap_or(i32::MAX);
        let mut topic = NewTopic::new(&spec.name, partitions, replication);
        for (key, value) in &spec.required {
            topic = topic.set(key, value);
        }
        let created = self.runtime.block_on(self.client.create_topics([&topic], &options(timeout)));
        let results = created.map_err(|e| Error::kafka(&what, e))?;
        match results.into_iter().next() {
            Some(Ok(_)) => Ok(Ensured::Created),
            // Another worker was faster.
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {
                match batch::describe_topic(self.client.inner(), &spec.name, timeout)? {
                    Some(facts) => self.compare(spec, facts, timeout),
                    // The broker that answers has not heard of it yet.
                    None => Ok(Ensured::Created),
                }
            }
            Some(Err((_, RDKafkaErrorCode::InvalidReplicationFactor))) => {
                let TopicSpec { name, replication_factor, replication_key, .. } = spec;
                Ok(Ensured::TooFewBrokers(format!(
                    "{replication_key}: topic {name} can't have {replication_factor} replicas, for there are \
                     fewer brokers: lower it or add brokers"
                )))
            }
            Some(Err((_, code))) => Err(Error::kafka(what, KafkaError::AdminOp(code))),
            None => Err(Error::Unexpected { what, reason: "the answer is empty".to_string() }),
        }
    }

    fn compare(&self, spec: &TopicSpec, facts: TopicFacts, timeout: Duration) -> Result<Ensured, Error> {
        let mut found = BTreeMap::new();
        if !spec.required.is_empty() {
            found = self.settings(&spec.name, timeout)?;
        }
        let mut mismatches = differences(&spec.required, &found);
        if spec.is_partition_count_fixed && facts.partitions != spec.partitions {
            mismatches.push(Mismatch {
                setting: "partitions".to_string(),
                expected: spec.partitions.to_string(),
                found: facts.partitions.to_string(),
            });
        }
        Ok(if mismatches.is_empty() { Ensured::Fits } else { Ensured::Differs(mismatches) })
    }

    fn settings(&self, topic: &str, timeout: Duration) -> Result<BTreeMap<String, String>, Error> {
        let what = format!("settings of topic {topic}");
        let specifier = ResourceSpecifier::Topic(topic);
        let asked = self.runtime.block_on(self.client.describe_configs([&specifier], &options(timeout)));
        let results = asked.map_err(|e| Error::kafka(&what, e))?;
        match results.into_iter().next() {
            Some(Ok(resource)) => known_settings(what, resource.entries),
            Some(Err(code)) => Err(Error::kafka(what, KafkaError::AdminOp(code))),
            None => Err(Error::Unexpected { what, reason: "the answer is empty".to_string() }),
        }
    }

    /// The topic's id and partitions; `None` if there is no such topic.
    pub fn describe_topic(&self, topic: &str, timeout: Duration) -> Result<Option<TopicFacts>, Error> {
        batch::describe_topic(self.client.inner(), topic, timeout)
    }

    /// Deletes each partition's records below the offset beside it.
    pub fn delete_records(
        &self,
        topic: &str,
        before: &[(i32, i64)],
        timeout: Duration,
    ) -> Result<Vec<Purged>, Error> {
        let what = || format!("delete records of {topic}");
        let list = offsets(topic, before).map_err(|e| Error::kafka(what(), e))?;
        let deleted = self.runtime.block_on(self.client.delete_records(&list, &options(timeout)));
        let deleted = deleted.map_err(|e| Error::kafka(what(), e))?;
        let outcome = |e: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match e.error() {
            Ok(()) => Ok(e.offset().to_raw().unwrap_or(-1)),
            Err(error) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)),
        };
        let purged = |e: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| Purged {
            partition: e.partition(),
            outcome: outcome(e),
        };
        Ok(deleted.elements().iter().map(purged).collect())
    }
}

/// What was found when something was to be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// It was there and is gone.
    Gone,
    /// It was not there.
    Absent,
}

impl Admin {
    /// Deletes a topic with all its records.
    pub fn delete_topic(&self, topic: &str, timeout: Duration) -> Result<Removed, Error> {
        let what = format!("delete topic {topic}");
        let deleted = self.runtime.block_on(self.client.delete_topics(&[topic], &options(timeout)));
        removed(what, deleted, RDKafkaErrorCode::UnknownTopicOrPartition)
    }

    /// Deletes a consumer group with all its commits. Kafka refuses while it has members.
    pub fn delete_group(&self, group: &str, timeout: Duration) -> Result<Removed, Error> {
        let what = format!("delete group {group}");
        let deleted = self.runtime.block_on(self.client.delete_groups(&[group], &options(timeout)));
        removed(what, deleted, RDKafkaErrorCode::GroupIdNotFound)
    }
}

fn removed(
    what: String,
    answer: Result<Vec<TopicResult>, KafkaError>,
    absent: RDKafkaErrorCode,
) -> Result<Removed, Error> {
    match answer.map_err(|e| Error::kafka(&what, e))?.into_iter().next() {
        Some(Ok(_)) => Ok(Removed::Gone),
        Some(Err((_, code))) if code == absent => Ok(Removed::Absent),
        Some(Err((_, code))) => Err(Error::kafka(what, KafkaError::AdminOp(code))),
        None => Err(Error::Unexpected { what, reason: "the answer is empty".to_string() }),
    }
}

/// What became of a deletion of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purged {
    /// The partition.
    pub partition: i32,
    /// The log's new start, or why the partition was left alone.
    pub outcome: Result<i64, RDKafkaErrorCode>,
}

/// What a broker says of a topic's settings. Every topic has dozens, by default if not of its own: where there are none, the
/// broker has not heard of the topic yet, though another one has. Librdkafka is told so and rdkafka does not pass it on.
fn known_settings(what: String, entries: Vec<ConfigEntry>) -> Result<BTreeMap<String, String>, Error> {
    if entries.is_empty() {
        return Err(Error::Unexpected { what, reason: "the broker does not know the topic yet".to_string() });
    }
    Ok(entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect())
}

/// What is required and is not so.
fn differences(required: &BTreeMap<&str, String>, found: &BTreeMap<String, String>) -> Vec<Mismatch> {
    let differs = |(setting, expected): (&&str, &String)| {
        let found = found.get(*setting).map_or("not set", String::as_str);
        (found != expected).then(|| Mismatch {
            setting: (*setting).to_string(),
            expected: expected.clone(),
            found: found.to_string(),
        })
    };
    required.iter().filter_map(differs).collect()
}

fn options(timeout: Duration) -> AdminOptions {
    AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout))
}

fn offsets(topic: &str, offsets: &[(i32, i64)]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for &(partition, offset) in offsets {
        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    }
    Ok(list)
}

/// The log's ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// The partition.
    pub partition: i32,
    /// The first offset that is still there.
    pub low: i64,
    /// The next offset to be written: the high watermark, open transactions included.
    pub high: i64,
}

/// Reports, and ignores rebalances: the observer is in no group.
pub struct ObserverContext(Reporter);

impl ObserverContext {
    pub(super) fn new(reporter: Reporter) -> ObserverContext {
        ObserverContext(reporter)
    }
}

impl ClientContext for ObserverContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.0.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(&error, reason);
    }
}

impl ConsumerContext for ObserverContext {}

/// Asks for facts about partitions and groups without being part of any. Each answer is also a sign of life, and goes
/// to the shared [`Health`].
pub struct Observer {
    consumer: BaseConsumer<ObserverContext>,
    health: Health,
}

impl Observer {
    pub(super) fn new(consumer: BaseConsumer<ObserverContext>, health: &Health) -> Observer {
        Observer { consumer, health: health.clone() }
    }

    /// Brings log lines and errors of the connection through. Call it now and then, and after each failed call: what
    /// failed is only known then.
    pub fn serve(&self) {
        for _ in 0..32 {
            let _ = self.consumer.poll(Duration::ZERO);
        }
    }

    /// Whether any broker answers: the cluster's number of brokers.
    pub fn brokers(&self, timeout: Duration) -> Result<usize, Error> {
        // A topic that need not exist, so that the answer does not list them all.
        let metadata = self.consumer.fetch_metadata(Some("__consumer_offsets"), timeout);
        Ok(self.heard("metadata", metadata)?.brokers().len())
    }

    /// The topic's id and partitions; `None` if there is no such topic.
    ///
    /// Two requests: librdkafka's admin requests look for the controller in a loop without a pause while no broker
    /// answers (`rd_kafka_admin_worker`, `rd_kafka_broker_controller_async`), a metadata request waits.
    pub fn describe_topic(&self, topic: &str, timeout: Duration) -> Result<Option<TopicFacts>, Error> {
        self.brokers(timeout)?;
        let facts = batch::describe_topic(self.consumer.client(), topic, timeout);
        if facts.is_ok() {
            self.health.succeeded();
        } else {
            self.serve();
        }
        facts
    }

    /// Both ends of each partition, with two requests to each leader however many partitions there are.
    pub fn watermarks(
        &self,
        topic: &str,
        partitions: &[i32],
        timeout: Duration,
    ) -> Result<Vec<Watermarks>, Error> {
        let highs = self.ends(topic, partitions, Offset::End, timeout)?;
        let lows = self.ends(topic, partitions, Offset::Beginning, timeout)?;
        let both = lows.into_iter().zip(highs);
        Ok(both.map(|((partition, low), (_, high))| Watermarks { partition, low, high }).collect())
    }

    /// The next offset to be written of each partition, in the order asked for, with one request to each leader.
    pub fn high_watermarks(
        &self,
        topic: &str,
        partitions: &[i32],
        timeout: Duration,
    ) -> Result<Vec<(i32, i64)>, Error> {
        self.ends(topic, partitions, Offset::End, timeout)
    }

    /// The members of a group that reads `topic`, with what they were given; None while it rebalances.
    pub fn members(
        &self,
        group: &GroupName,
        topic: &str,
        timeout: Duration,
    ) -> Result<Option<Vec<Member>>, Error> {
        batch::describe_group(self.consumer.client(), group.as_str(), topic, timeout)
    }

    /// What the observer's group has committed. Reads uncommitted: an open transaction's offsets don't delay the
    /// answer and are not in it.
    pub fn committed(
        &self,
        topic: &str,
        partitions: &[i32],
        timeout: Duration,
    ) -> Result<Vec<Committed>, Error> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for &partition in partitions {
            list.add_partition(topic, partition);
        }
        let committed = self.consumer.committed_offsets(list, timeout);
        Ok(batch::committed(&self.heard("committed offsets", committed)?))
    }

    fn ends(
        &self,
        topic: &str,
        partitions: &[i32],
        end: Offset,
        timeout: Duration,
    ) -> Result<Vec<(i32, i64)>, Error> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let what = format!("offsets of {topic}");
        let list = end_list(topic, partitions, end).map_err(|e| Error::kafka(&what, e))?;
        let answer = self.heard(&what, self.consumer.offsets_for_times(list, timeout))?;
        ends_in(&answer, topic, partitions, what)
    }

    fn heard<T>(&self, what: &str, answer: Result<T, KafkaError>) -> Result<T, Error> {
        match answer {
            Ok(answer) => {
                self.health.succeeded();
                Ok(answer)
            }
            Err(error) => {
                self.serve();
                Err(Error::kafka(what, error))
            }
        }
    }
}

/// What to ask ListOffsets for: "latest" and "earliest" are timestamps to it, with the numbers that librdkafka also gives
/// to these logical offsets.
pub(super) fn end_list(
    topic: &str,
    partitions: &[i32],
    end: Offset,
) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for &partition in partitions {
        list.add_partition_offset(topic, partition, end)?;
    }
    Ok(list)
}

/// The offset of each partition in an answer of ListOffsets, in the order asked for.
pub(super) fn ends_in(
    answer: &TopicPartitionList,
    topic: &str,
    partitions: &[i32],
    what: String,
) -> Result<Vec<(i32, i64)>, Error> {
    let mut ends = Vec::with_capacity(partitions.len());
    for &partition in partitions {
        let found = answer.find_partition(topic, partition);
        let offset = match found.as_ref().map(|e| (e.error(), e.offset())) {
            Some((Ok(()), Offset::Offset(offset))) => offset,
            Some((Err(error), _)) => return Err(Error::kafka(what, error)),
            Some((Ok(()), other)) => {
                let reason = format!("partition {partition} has {other:?}");
                return Err(Error::Unexpected { what, reason });
            }
            None => {
                let reason = format!("partition {partition} is not in the answer");
                return Err(Error::Unexpected { what, reason });
            }
        };
        ends.push((partition, offset));
    }
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::admin::ConfigSource;

    fn config(part: &str) -> Config {
        Config::parse(&format!(
            "monitor: {{namespace: d, name: c, uid: u}}\nkafka: {{bootstrapServers: 'k:1'}}\n\
             input: {{topic: logs}}\n{part}"
        ))
        .unwrap()
    }

    fn entry(name: &str, value: &str) -> ConfigEntry {
        let (name, value) = (name.to_string(), Some(value.to_string()));
        let source = ConfigSource::Default;
        ConfigEntry { name, value, source, is_read_only: false, is_default: true, is_sensitive: false }
    }

    /// Two workers start at once: one makes the topic, and the other asks a broker that knows nothing of it.
    #[test]
    fn a_topic_that_a_broker_does_not_know_yet_has_no_wrong_settings() {
        let error = known_settings("settings of topic t".to_string(), Vec::new()).unwrap_err().to_string();
        assert_eq!(error, "settings of topic t: the broker does not know the topic yet");
        let known =
            known_settings("settings of topic t".to_string(), vec![entry("retention.ms", "-1")]).unwrap();
        assert_eq!(known, BTreeMap::from([("retention.ms".to_string(), "-1".to_string())]));
    }

    #[test]
    fn the_repartition_topic_loses_nothing() {
        let spec = TopicSpec::repartition(&config("repartition: {partitions: 4, replicationFactor: 3}"));
        assert_eq!(spec.name, "crashmonitor.d.c.repartition");
        assert_eq!(spec.required["retention.ms"], "-1");
        assert_eq!(spec.required["cleanup.policy"], "delete");
        assert_eq!(spec.required["min.insync.replicas"], "2");
        let spec = TopicSpec::repartition(&config("repartition: {replicationFactor: 1}"));
        assert_eq!(spec.required["min.insync.replicas"], "1");
    }

    #[test]
    fn each_wrong_setting_is_named() {
        let required =
            BTreeMap::from([("a", "1".to_string()), ("b", "2".to_string()), ("c", "3".to_string())]);
        let found = BTreeMap::from([("a".to_string(), "1".to_string()), ("b".to_string(), "9".to_string())]);
        let names: Vec<_> =
            differences(&required, &found).into_iter().map(|m| (m.setting, m.found)).collect();
        assert_eq!(names, [("b".to_string(), "9".to_string()), ("c".to_string(), "not set".to_string())]);
    }

    #[test]
    fn every_output_topic_is_listed_once() {
        let config = config("output: {topic: o, lateTopic: l, deadLetterTopic: d}");
        let names: Vec<_> = TopicSpec::all(&config).into_iter().map(|s| s.name).collect();
        assert_eq!(names, ["crashmonitor.d.c.repartition", "o", "l", "d"]);
    }
}
