//! The thread that fetches from one broker.
//!
//! Responsible for keeping the broker busy: the next fetch leaves as soon as the batch headers of the last response were
//! read, so that the broker works on it while the records are scanned. Must never decide what a record means, nor read
//! on where a batch can't be understood.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crashmonitor_core::ids::TopicId;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use kafka_protocol::protocol::StrBytes;

use super::connection::{Connection, Error};
use super::plan::{Answer, Leader, Verdict, Want};
use super::{BACKOFF, Chunk, Delivery, Shared, Watched, address, batch};

/// A response that is smaller than this is no catch-up: the broker may gather a little before it is asked again.
const SMALL_RESPONSE_BYTES: usize = 64 << 10;
/// For how long. Far below the flush interval, and it halves the requests of a steady load.
const GATHERING: Duration = Duration::from_millis(3);
/// How long a broker may be silent beyond the time that it was allowed to wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// `isolation.level=read_committed`.
const READ_COMMITTED: i8 = 1;
/// What a consumer says in place of a replica's number.
const CONSUMER: i32 = -1;

/// Fetches from `broker` for as long as something is to be read from it.
pub fn run(shared: &Shared, broker: i32) {
    let mut connection = None;
    let mut pause = BACKOFF.0;
    let (mut failing, mut is_told) = (false, false);
    while let Some(wants) = shared.wait_for_wants(broker) {
        let begun = Instant::now();
        match fetch(shared, broker, &mut connection, &wants) {
            Ok(bytes) => {
                if failing || (bytes > 0 && !is_told) {
                    tracing::info!(broker, "reading the input");
                    is_told = true;
                }
                (pause, failing) = (BACKOFF.0, false);
                if bytes > 0 && bytes < SMALL_RESPONSE_BYTES {
                    shared.rest(GATHERING.saturating_sub(begun.elapsed()));
                }
            }
            Err(error) => {
                connection = None;
                shared.lock().plan.abandon(&wants);
                match error {
                    Error::Closed => return,
                    Error::Unsupported(reason) => return shared.give_up(&reason),
                    error if failing => tracing::debug!(broker, "fetching: {error}"),
                    error => tracing::warn!(broker, "fetching: {error}; trying again"),
                }
                failing = true;
                shared.refresh_metadata();
                shared.rest(pause);
                pause = (pause * 2).min(BACKOFF.1);
            }
        }
    }
}

/// One request and its answer; how many bytes of records came.
fn fetch(
    shared: &Shared,
    broker: i32,
    connection: &mut Option<Connection>,
    wants: &[Want],
) -> Result<usize, Error> {
    connection.take_if(|connection| connection.is_outdated());
    let connection = match connection {
        Some(connection) => connection,
        none => {
            let address = shared.lock().plan.address(broker).map(str::to_owned);
            let address = address.ok_or_else(|| Error::Protocol("the broker has no address".to_owned()))?;
            let wait = Duration::from_millis(shared.settings.limits.wait_ms.unsigned_abs().into());
            none.insert(Connection::open(&address, &shared.settings, ANSWER_TIMEOUT + wait)?)
        }
    };
    let correlation = connection.send_fetch(&request(shared, wants))?;
    let response = connection.receive_fetch(correlation, &shared.pool)?;
    if let Some(error) = ResponseError::try_from_code(response.error_code) {
        return Err(Error::Refused { what: "fetch", error: error.to_string() });
    }
    Ok(take_in(shared, wants, response))
}

fn request(shared: &Shared, wants: &[Want]) -> FetchRequest {
    let limits = &shared.settings.limits;
    let mut topics: Vec<FetchTopic> = Vec::new();
    for want in wants {
        let partition = FetchPartition::default()
            .with_partition(want.partition)
            .with_current_leader_epoch(want.leader_epoch)
            .with_fetch_offset(want.position)
            .with_partition_max_bytes(limits.partition_bytes_max);
        let id = kafka_id(want.topic);
        match topics.iter_mut().find(|topic| topic.topic_id == id) {
            Some(topic) => topic.partitions.push(partition),
            None => topics.push(FetchTopic::default().with_topic_id(id).with_partitions(vec![partition])),
        }
    }
    FetchRequest::default()
        .with_replica_id(CONSUMER.into())
        .with_max_wait_ms(limits.wait_ms)
        .with_min_bytes(limits.min_bytes)
        .with_max_bytes(limits.response_bytes_max)
        .with_isolation_level(READ_COMMITTED)
        .with_rack_id(StrBytes::from_string(shared.settings.rack.clone()))
        .with_topics(topics)
}

/// Has each partition's answer judged and delivers what is to be delivered.
fn take_in(shared: &Shared, wants: &[Want], response: FetchResponse) -> usize {
    let endpoints: Vec<(i32, String)> = response
        .node_endpoints
        .iter()
        .map(|node| (node.node_id.0, address(node.host.as_str(), node.port)))
        .collect();
    let mut bytes = 0;
    let mut answered = Vec::with_capacity(wants.len());
    for topic in response.responses {
        for data in topic.partitions {
            let is_asked = |want: &&Want| {
                want.partition == data.partition_index && kafka_id(want.topic) == topic.topic_id
            };
            if let Some(want) = wants.iter().find(is_asked) {
                bytes += data.records.as_ref().map_or(0, |records| records.len());
                answered.push((want, answer(want, &data), data));
            }
        }
    }
    // In one go, and deliveries too: what two brokers send of one partition must come in its order.
    let mut state = shared.lock();
    let now = Instant::now();
    state.plan.learn_addresses(endpoints);
    for (want, answer, data) in answered {
        let verdict = state.plan.answered(want, answer, now);
        let leader =
            Leader { broker: data.current_leader.leader_id.0, epoch: data.current_leader.leader_epoch };
        if leader.broker >= 0 && state.plan.address(leader.broker).is_some() {
            state.plan.learn_leader(want.partition, leader);
        }
        shared.deliver(&mut state, want, answer, verdict, data);
    }
    // A response that leaves a partition out has not answered for it.
    state.plan.abandon(wants);
    drop(state);
    bytes
}

fn answer(want: &Want, data: &PartitionData) -> Answer {
    if let Some(error) = ResponseError::try_from_code(data.error_code) {
        return Answer::Refused(error);
    }
    if data.preferred_read_replica.0 >= 0 {
        return Answer::Elsewhere { replica: data.preferred_read_replica.0 };
    }
    let records = data.records.as_deref().unwrap_or_default();
    Answer::Read { next: batch::end_of(records, want.position) }
}

impl Shared {
    fn deliver(
        &self,
        state: &mut super::State,
        want: &Want,
        answer: Answer,
        verdict: Verdict,
        data: PartitionData,
    ) {
        let (partition, generation) = (want.partition, want.generation);
        let delivery = match verdict {
            Verdict::Ignore => return,
            Verdict::Refresh => {
                state.wants_metadata = true;
                self.changed.notify_all();
                return;
            }
            Verdict::OutOfRange => Delivery::OutOfRange { partition, generation },
            Verdict::Report => {
                let Answer::Refused(error) = answer else { return };
                Delivery::Trouble { partition, generation, text: error.to_string() }
            }
            Verdict::Deliver => {
                let Some(records) = data.records.filter(|records| !records.is_empty()) else { return };
                let aborted = data.aborted_transactions.unwrap_or_default();
                let aborted =
                    aborted.iter().map(|aborted| (aborted.producer_id.0, aborted.first_offset)).collect();
                Delivery::Records(Chunk { partition, generation, position: want.position, records, aborted })
            }
        };
        // Nobody takes it when the reader is at its end.
        let _ = self.deliveries.send(delivery);
    }
}

fn kafka_id(topic: TopicId) -> uuid::Uuid {
    uuid::Uuid::from_bytes(topic.0)
}

/// Starts the thread.
pub fn spawn(shared: &Arc<Shared>, broker: i32) -> std::io::Result<()> {
    let shared = Arc::clone(shared);
    let body = move || {
        let _watched = Watched(&shared);
        run(&shared, broker);
    };
    std::thread::Builder::new().name(format!("fetch-{broker}")).spawn(body).map(drop)
}
