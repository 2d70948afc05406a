//! The thread that knows the brokers.
//!
//! Responsible for asking any broker that answers who leads which partition: at the start, whenever a leader is missing
//! or an answer says that it has changed, and now and then. Must never stay with a broker that does not answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crashmonitor_core::ids::TopicId;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::connection::{Connection, Error};
use super::plan::Leader;
use super::{BACKOFF, Shared, address};

/// How often leaders are looked at though nothing says that they have changed: a broker that is silent tells nobody.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5);
/// How long a broker may take to answer before another is asked.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How soon after one look the next may follow.
const REFRESH_PAUSE: Duration = Duration::from_millis(100);

/// Looks until the reader is at its end.
pub fn run(shared: &Arc<Shared>) {
    let mut connection = None;
    let mut pause = BACKOFF.0;
    let mut failing = false;
    while shared.wait_for_metadata(REFRESH_INTERVAL) {
        match look(shared, &mut connection) {
            Ok(()) => {
                (pause, failing) = (BACKOFF.0, false);
                shared.start_brokers();
                shared.rest(REFRESH_PAUSE);
            }
            Err(Error::Unsupported(reason)) => return shared.give_up(&reason),
            Err(Error::Closed) => return,
            Err(error) => {
                if failing {
                    tracing::debug!("looking for the brokers of the input: {error}");
                } else {
                    tracing::warn!("looking for the brokers of the input: {error}; trying again");
                }
                failing = true;
                shared.refresh_metadata();
                shared.rest(pause);
                pause = (pause * 2).min(BACKOFF.1);
            }
        }
    }
}

/// Asks the broker of `connection`, or else one after the other until one answers.
fn look(shared: &Shared, connection: &mut Option<Connection>) -> Result<(), Error> {
    let request = request(&shared.settings.topic);
    connection.take_if(|open| open.is_outdated());
    if let Some(open) = connection {
        match open.metadata(&request) {
            Ok(answer) => return learn(shared, &answer),
            Err(error) => tracing::debug!("metadata: {error}"),
        }
        *connection = None;
    }
    let mut addresses: Vec<String> = shared.lock().plan.addresses().map(str::to_owned).collect();
    addresses.extend(shared.settings.bootstrap.iter().cloned());
    let mut last = Error::Closed;
    let begun = Instant::now();
    for address in addresses {
        if shared.is_ending() {
            return Err(Error::Closed);
        }
        let answer = Connection::open(&address, &shared.settings, ANSWER_TIMEOUT).and_then(|mut open| {
            let answer = open.metadata(&request)?;
            Ok((open, answer))
        });
        match answer {
            Ok((open, answer)) => {
                *connection = Some(open);
                return learn(shared, &answer);
            }
            Err(error @ Error::Unsupported(_)) => return Err(error),
            Err(error) => {
                tracing::debug!(address, after_ms = begun.elapsed().as_millis(), "metadata: {error}");
                last = error;
            }
        }
    }
    Err(last)
}

fn request(topic: &str) -> MetadataRequest {
    let name = TopicName(StrBytes::from_string(topic.to_owned()));
    MetadataRequest::default()
        .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(name))]))
        .with_allow_auto_topic_creation(false)
}

fn learn(shared: &Shared, answer: &MetadataResponse) -> Result<(), Error> {
    let brokers = answer.brokers.iter();
    let brokers = brokers.map(|broker| (broker.node_id.0, address(broker.host.as_str(), broker.port)));
    let mut state = shared.lock();
    state.plan.learn_addresses(brokers);
    let topic =
        answer.topics.first().ok_or_else(|| Error::Protocol("metadata without the topic".to_owned()))?;
    match ResponseError::try_from_code(topic.error_code) {
        // Leaders on their way: the next look finds them.
        None | Some(ResponseError::LeaderNotAvailable) => {}
        Some(error) => return Err(Error::Refused { what: "metadata", error: error.to_string() }),
    }
    state.plan.learn_topic(TopicId(topic.topic_id.into_bytes()));
    for partition in topic.partitions.iter().filter(|partition| partition.leader_id.0 >= 0) {
        let leader = Leader { broker: partition.leader_id.0, epoch: partition.leader_epoch };
        state.plan.learn_leader(partition.partition_index, leader);
    }
    drop(state);
    shared.changed.notify_all();
    Ok(())
}
