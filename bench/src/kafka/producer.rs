//! Appends records to the partitions of one topic, each exactly once or with an error.
//!
//! 1. Every batch carries the producer's identity and a sequence number, so that a batch which is sent again
//!    is stored once.
//! 2. At most [`IN_FLIGHT_MAX`] batches of a partition are unanswered: the broker remembers no more than that.
//! 3. The first batch of a partition is answered before the second one is sent: a leader that does not know the
//!    producer yet takes any sequence number for its first, and would refuse the true first for ever.
//! 4. There is one way back: whatever fails, all unanswered batches are taken off their connections, new metadata
//!    is read, and they are delivered one by one in their order. Only then does anything new go out.
//! 5. What can't be delivered within the timeout ends the run with an error. Nothing is dropped silently.

use std::collections::{BTreeMap, VecDeque};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    CreateTopicsRequest, InitProducerIdRequest, MetadataRequest, MetadataResponse, ProduceRequest,
    ProduceResponse, TopicName,
};
use kafka_protocol::protocol::{Request, StrBytes};

use super::Error;
use super::batch::{Builder, Compression, Identity};
use super::connection::Connection;

// Versions that every broker from Kafka 2.1 to 4.x speaks.
const CREATE_TOPICS_VERSION: i16 = 4;
const INIT_PRODUCER_ID_VERSION: i16 = 1;
const METADATA_VERSION: i16 = 7;
const PRODUCE_VERSION: i16 = 7;

/// Unanswered requests for each broker; a request has at most one batch of a partition.
const IN_FLIGHT_MAX: usize = 5;

/// Batches being filled are sent when together they reach this size, however many partitions there are.
const PENDING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A request has about so many bytes of batches at most. From half a megabyte its buffer would be a humongous object
/// in the broker's heap (a G1 region is 1 MiB by default there).
const REQUEST_BYTES_MAX: usize = 400 * 1024;

/// Buffers kept for the next batches.
const SPARE_BUFFERS_MAX: usize = 64;

/// How long the leader waits for its replicas, in milliseconds.
const REPLICAS_TIMEOUT_MS: i32 = 30_000;

/// How long a leader may be silent while an answer is due. Longer than a request may wait for replicas.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

/// How long a new topic may take to have leaders.
const CREATE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a broker may take to say what it has in memory, before another one is asked.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

const BACKOFF: Duration = Duration::from_millis(100);

/// What to write to.
#[derive(Clone, Debug)]
pub struct Config {
    /// Addresses `host:port` of some brokers, separated by commas.
    pub brokers: String,
    /// The topic.
    pub topic: String,
    /// How many of its partitions to write to; all, if `None`.
    pub partitions: Option<u32>,
    /// Create the topic with so many partitions if it is not there; it must have just as many if it is.
    pub create_partitions: Option<u32>,
    /// How to compress batches.
    pub compression: Compression,
    /// The size of a batch in bytes, before compression. A larger record is a batch of its own.
    pub batch_bytes: usize,
    /// How long to try to deliver a batch that failed.
    pub delivery_timeout: Duration,
}

/// A finished batch that is not acknowledged yet.
struct Batch {
    partition: i32,
    records: u32,
    bytes: Bytes,
}

struct Partition {
    leader: i32,
    builder: Builder,
    next_sequence: i32,
    /// Whether a batch was sent, and whether one was acknowledged.
    is_begun: bool,
    is_known: bool,
}

#[derive(Default)]
struct Broker {
    address: String,
    connection: Option<Connection>,
    in_flight: VecDeque<(i32, Vec<Batch>)>,
}

impl Partition {
    fn new() -> Self {
        Self { leader: -1, builder: Builder::new(), next_sequence: 0, is_begun: false, is_known: false }
    }

    /// Whether what was appended must wait for the answer to the first batch (rule 3).
    fn must_wait(&self) -> bool {
        self.is_begun && !self.is_known && self.builder.records() > 0
    }
}

/// Writes records. See the module for what it guarantees.
pub struct Producer {
    config: Config,
    topic: TopicName,
    identity: Identity,
    /// Which of the configured brokers answered last.
    answering: usize,
    partitions: Vec<Partition>,
    brokers: BTreeMap<i32, Broker>,
    /// Batches that a broker answered with an error, oldest first.
    refused: Vec<Batch>,
    spare: Vec<BytesMut>,
    pending_bytes: usize,
    acknowledged: u64,
    recoveries: u64,
}

impl Producer {
    /// Connects, finds or creates the topic, and gets an identity.
    pub fn open(config: Config) -> Result<Self, Error> {
        let mut producer = Self {
            topic: TopicName(StrBytes::from_string(config.topic.clone())),
            config,
            identity: Identity { producer_id: -1, epoch: -1 },
            answering: 0,
            partitions: Vec::new(),
            brokers: BTreeMap::new(),
            refused: Vec::new(),
            spare: Vec::new(),
            pending_bytes: 0,
            acknowledged: 0,
            recoveries: 0,
        };
        let partitions = producer.prepare_topic()?;
        producer.partitions = (0..partitions).map(|_| Partition::new()).collect();
        producer.identity = producer.initialise()?;
        producer.refresh_metadata()?;
        Ok(producer)
    }

    /// How many partitions can be written to.
    pub fn partitions(&self) -> u32 {
        self.partitions.len() as u32
    }

    /// How many records brokers have acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// How often something failed and was made good.
    pub fn recoveries(&self) -> u64 {
        self.recoveries
    }

    /// Appends a record to a batch, and sends batches when they are full.
    #[inline]
    pub fn push(&mut self, partition: u32, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<(), Error> {
        let builder = &self.partitions[partition as usize].builder;
        let is_full = builder.records() > 0 && builder.bytes_with(key, value) > self.config.batch_bytes;
        if is_full || self.pending_bytes > PENDING_BYTES_MAX {
            self.flush()?;
        }
        let builder = &mut self.partitions[partition as usize].builder;
        if builder.records() == 0 {
            builder.start(self.spare.pop().unwrap_or_default());
        }
        let before = builder.bytes();
        builder.push(key, value);
        self.pending_bytes += builder.bytes() - before;
        Ok(())
    }

    /// Sends all batches as they are, without waiting for the answers.
    pub fn flush(&mut self) -> Result<(), Error> {
        if self.partitions.iter().any(Partition::must_wait) {
            self.settle()?;
        }
        let mut failure = None;
        let mut stranded = Vec::new();
        for (leader, batches) in self.finish_batches()?.into_iter().flat_map(requests) {
            if failure.is_some() {
                stranded.extend(batches);
            } else if let Err((error, batches)) = self.transmit(leader, batches) {
                failure = Some(error);
                stranded.extend(batches);
            }
        }
        match failure {
            Some(error) => self.recover(error, stranded),
            None => Ok(()),
        }
    }

    /// Sends all batches and waits until every record is acknowledged.
    pub fn drain(&mut self) -> Result<(), Error> {
        self.flush()?;
        self.settle()
    }

    /// Waits for all answers that are due.
    fn settle(&mut self) -> Result<(), Error> {
        while let Some(leader) = self.busy_broker() {
            if let Err(error) = self.receive(leader) {
                self.recover(error, Vec::new())?;
            }
        }
        Ok(())
    }

    fn busy_broker(&self) -> Option<i32> {
        let mut busy = self.brokers.iter().filter(|(_, broker)| !broker.in_flight.is_empty());
        busy.next().map(|(&leader, _)| leader)
    }

    /// Finishes what was appended, by leader. Sequence numbers are given here, in the order of the log.
    fn finish_batches(&mut self) -> Result<BTreeMap<i32, Vec<Batch>>, Error> {
        let mut groups: BTreeMap<i32, Vec<Batch>> = BTreeMap::new();
        for (index, partition) in (0..).zip(&mut self.partitions) {
            let records = partition.builder.records();
            if records == 0 {
                continue;
            }
            let sequence = partition.next_sequence;
            let bytes = partition.builder.finish(self.identity, sequence, self.config.compression)?;
            // Sequence numbers wrap around to 0 behind the largest i32.
            partition.next_sequence = sequence.wrapping_add(records) & i32::MAX;
            partition.is_begun = true;
            let batch = Batch { partition: index, records: records as u32, bytes };
            groups.entry(partition.leader).or_default().push(batch);
        }
        self.pending_bytes = 0;
        Ok(groups)
    }

    /// Sends batches to their leader, waiting for older answers if too many are due.
    fn transmit(&mut self, leader: i32, batches: Vec<Batch>) -> Result<(), (Error, Vec<Batch>)> {
        while self.brokers.get(&leader).is_some_and(|broker| broker.in_flight.len() >= IN_FLIGHT_MAX) {
            if let Err(error) = self.receive(leader) {
                return Err((error, batches));
            }
        }
        let request = self.produce_request(&batches);
        let broker = self.brokers.entry(leader).or_default();
        match broker.connection().and_then(|connection| connection.send(&request, PRODUCE_VERSION)) {
            Ok(correlation) => {
                broker.in_flight.push_back((correlation, batches));
                Ok(())
            }
            Err(error) => Err((error, batches)),
        }
    }

    fn produce_request(&self, batches: &[Batch]) -> ProduceRequest {
        let data = batches.iter().map(|batch| {
            PartitionProduceData::default()
                .with_index(batch.partition)
                .with_records(Some(batch.bytes.clone()))
        });
        let topic =
            TopicProduceData::default().with_name(self.topic.clone()).with_partition_data(data.collect());
        ProduceRequest::default()
            .with_transactional_id(None)
            .with_acks(-1)
            .with_timeout_ms(REPLICAS_TIMEOUT_MS)
            .with_topic_data(vec![topic])
    }

    /// Takes the answer to the oldest unanswered request to this broker.
    fn receive(&mut self, leader: i32) -> Result<(), Error> {
        let Some(broker) = self.brokers.get_mut(&leader) else { return Ok(()) };
        let Some(&(correlation, _)) = broker.in_flight.front() else { return Ok(()) };
        let response = broker.connection()?.receive::<ProduceRequest>(correlation, PRODUCE_VERSION)?;
        let (_, batches) = broker.in_flight.pop_front().unwrap_or_default();
        let mut failure = Ok(());
        for batch in batches {
            match answer(&response, &batch) {
                Ok(()) => self.acknowledge(batch),
                Err(error) => {
                    self.refused.push(batch);
                    failure = failure.and(Err(error));
                }
            }
        }
        failure
    }

    fn acknowledge(&mut self, batch: Batch) {
        self.acknowledged += u64::from(batch.records);
        self.partitions[batch.partition as usize].is_known = true;
        // Compressed batches are smaller than what the buffer of the next one must hold.
        if self.config.compression == Compression::None
            && self.spare.len() < SPARE_BUFFERS_MAX
            && let Ok(buffer) = batch.bytes.try_into_mut()
        {
            self.spare.push(buffer);
        }
    }

    /// Delivers all unanswered batches after a failure; `stranded` are those that were not sent yet.
    fn recover(&mut self, failure: Error, stranded: Vec<Batch>) -> Result<(), Error> {
        // A batch behind a refused one is out of order until the refused one is delivered.
        let is_behind =
            matches!(failure, Error::Refused { error: ResponseError::OutOfOrderSequenceNumber, .. });
        if !failure.is_retriable() && !is_behind {
            return Err(failure);
        }
        self.recoveries += 1;
        let mut queue: VecDeque<Batch> = std::mem::take(&mut self.refused).into();
        for broker in self.brokers.values_mut() {
            broker.connection = None;
            queue.extend(std::mem::take(&mut broker.in_flight).into_iter().flat_map(|(_, batches)| batches));
        }
        queue.extend(stranded);
        let deadline = Instant::now() + self.config.delivery_timeout;
        loop {
            match self.redeliver(&mut queue) {
                Ok(()) => return Ok(()),
                Err(error) if !error.is_retriable() => return Err(error),
                Err(error) if Instant::now() > deadline => {
                    let seconds = self.config.delivery_timeout.as_secs();
                    return Err(Error::Timeout { seconds, last: error.to_string() });
                }
                Err(_) => sleep(BACKOFF),
            }
            self.brokers.values_mut().for_each(|broker| broker.connection = None);
        }
    }

    /// Delivers the batches one by one. Those delivered are taken off the queue, also if it fails.
    fn redeliver(&mut self, queue: &mut VecDeque<Batch>) -> Result<(), Error> {
        self.refresh_metadata()?;
        while let Some(batch) = queue.pop_front() {
            let leader = self.partitions[batch.partition as usize].leader;
            let request = self.produce_request(std::slice::from_ref(&batch));
            let broker = self.brokers.entry(leader).or_default();
            let call = broker.connection().and_then(|connection| connection.call(&request, PRODUCE_VERSION));
            match call.and_then(|response| answer(&response, &batch)) {
                Ok(()) => self.acknowledge(batch),
                Err(error) => {
                    queue.push_front(batch);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Makes sure that the topic is there; the result is how many partitions to write to.
    fn prepare_topic(&mut self) -> Result<u32, Error> {
        let mut metadata = self.metadata()?;
        if let Some(partitions) = self.config.create_partitions
            && topic_error(&metadata) == Some(ResponseError::UnknownTopicOrPartition)
        {
            self.create_topic(partitions)?;
            metadata = self.await_leaders(partitions)?;
        }
        match topic_error(&metadata) {
            None => {}
            Some(ResponseError::UnknownTopicOrPartition | ResponseError::InvalidTopicException) => {
                return Err(Error::UnknownTopic(self.config.topic.clone()));
            }
            Some(error) => return Err(self.refused_topic(error)),
        }
        let actual = metadata.topics.first().map_or(0, |topic| topic.partitions.len() as u32);
        let topic = self.config.topic.clone();
        if let Some(wanted) = self.config.create_partitions.filter(|&wanted| wanted != actual) {
            return Err(Error::Partitions { topic, actual, wanted });
        }
        match self.config.partitions {
            Some(wanted) if wanted > actual => Err(Error::Partitions { topic, actual, wanted }),
            wanted => Ok(wanted.unwrap_or(actual)),
        }
    }

    fn create_topic(&mut self, partitions: u32) -> Result<(), Error> {
        let topic = CreatableTopic::default()
            .with_name(self.topic.clone())
            .with_num_partitions(i32::try_from(partitions).unwrap_or(i32::MAX))
            .with_replication_factor(-1);
        let request = CreateTopicsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(CREATE_TIMEOUT.as_millis() as i32);
        let response = self.ask(&request, CREATE_TOPICS_VERSION, CREATE_TIMEOUT + ASK_TIMEOUT)?;
        let code = response.topics.first().map_or(0, |topic| topic.error_code);
        match ResponseError::try_from_code(code) {
            None | Some(ResponseError::TopicAlreadyExists) => Ok(()),
            Some(error) => Err(self.refused_topic(error)),
        }
    }

    fn await_leaders(&mut self, partitions: u32) -> Result<MetadataResponse, Error> {
        let deadline = Instant::now() + CREATE_TIMEOUT;
        loop {
            let metadata = self.metadata()?;
            let topic = metadata.topics.first();
            let led = topic.map_or(0, |topic| topic.partitions.iter().filter(|p| p.leader_id.0 >= 0).count());
            if led as u32 >= partitions || Instant::now() > deadline {
                return Ok(metadata);
            }
            sleep(BACKOFF);
        }
    }

    /// Asks for an identity; a broker that has just started may need a moment to have one.
    fn initialise(&mut self) -> Result<Identity, Error> {
        let request =
            InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(60_000);
        let deadline = Instant::now() + CREATE_TIMEOUT;
        loop {
            let response = self.ask(&request, INIT_PRODUCER_ID_VERSION, ASK_TIMEOUT)?;
            match ResponseError::try_from_code(response.error_code) {
                None => {
                    let producer_id = response.producer_id.0;
                    return Ok(Identity { producer_id, epoch: response.producer_epoch });
                }
                Some(error) if error.is_retriable() && Instant::now() < deadline => sleep(BACKOFF),
                Some(error) => {
                    return Err(Error::Refused { what: "an idempotent producer".to_owned(), error });
                }
            }
        }
    }

    /// Learns who leads each partition. Connections to brokers that are still where they were stay.
    fn refresh_metadata(&mut self) -> Result<(), Error> {
        let metadata = self.metadata()?;
        if let Some(error) = topic_error(&metadata) {
            return Err(self.refused_topic(error));
        }
        for known in &metadata.brokers {
            let address = format!("{}:{}", known.host, known.port);
            let broker = self.brokers.entry(known.node_id.0).or_default();
            if broker.address != address {
                broker.connection = None;
                broker.address = address;
            }
        }
        let found = metadata.topics.first().map_or(&[][..], |topic| &topic.partitions);
        for partition in found {
            if let Some(known) = self.partitions.get_mut(partition.partition_index as usize) {
                known.leader = partition.leader_id.0;
            }
        }
        if self.partitions.iter().any(|partition| partition.leader < 0) {
            return Err(self.refused_topic(ResponseError::LeaderNotAvailable));
        }
        Ok(())
    }

    fn metadata(&mut self) -> Result<MetadataResponse, Error> {
        let topic = MetadataRequestTopic::default().with_name(Some(self.topic.clone()));
        let request =
            MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false);
        self.ask(&request, METADATA_VERSION, ASK_TIMEOUT)
    }

    /// The answer of the first broker that gives one, beginning with the one that did last time. A broker that is
    /// stopped still takes connections, so that one which is silent is passed over like one that is not there.
    fn ask<R: Request>(
        &mut self,
        request: &R,
        version: i16,
        timeout: Duration,
    ) -> Result<R::Response, Error> {
        let addresses: Vec<&str> =
            self.config.brokers.split(',').map(str::trim).filter(|address| !address.is_empty()).collect();
        let mut last = "no address given".to_owned();
        for turn in 0..addresses.len() {
            let index = (self.answering + turn) % addresses.len();
            let address = addresses[index];
            let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none() {
                return Err(Error::Address(address.to_owned()));
            }
            let connection = Connection::open(address, timeout);
            match connection.and_then(|mut connection| connection.call(request, version)) {
                Err(error) if error.is_retriable() => last = format!("{address}: {error}"),
                answer => {
                    self.answering = index;
                    return answer;
                }
            }
        }
        Err(Error::Unreachable { brokers: self.config.brokers.clone(), last })
    }

    fn refused_topic(&self, error: ResponseError) -> Error {
        Error::Refused { what: format!("topic {:?}", self.config.topic), error }
    }
}

impl Broker {
    fn connection(&mut self) -> Result<&mut Connection, Error> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.address, ANSWER_TIMEOUT)?,
        };
        Ok(self.connection.insert(connection))
    }
}

/// Divides the batches for one leader into requests of a size that suits the broker.
fn requests((leader, batches): (i32, Vec<Batch>)) -> Vec<(i32, Vec<Batch>)> {
    let mut requests: Vec<(i32, Vec<Batch>)> = Vec::new();
    let mut request_bytes = 0;
    for batch in batches {
        request_bytes += batch.bytes.len();
        match requests.last_mut() {
            Some((_, request)) if request_bytes <= REQUEST_BYTES_MAX => request.push(batch),
            _ => {
                request_bytes = batch.bytes.len();
                requests.push((leader, vec![batch]));
            }
        }
    }
    requests
}

fn topic_error(metadata: &MetadataResponse) -> Option<ResponseError> {
    metadata.topics.first().and_then(|topic| ResponseError::try_from_code(topic.error_code))
}

/// What the broker says of one batch. One that it had already is as good as a new one.
fn answer(response: &ProduceResponse, batch: &Batch) -> Result<(), Error> {
    let mut answers = response.responses.iter().flat_map(|topic| &topic.partition_responses);
    let Some(answer) = answers.find(|answer| answer.index == batch.partition) else {
        return Err(Error::Protocol(format!("no answer for partition {}", batch.partition)));
    };
    match ResponseError::try_from_code(answer.error_code) {
        None | Some(ResponseError::DuplicateSequenceNumber) => Ok(()),
        Some(error) => Err(Error::Refused { what: format!("partition {}", batch.partition), error }),
    }
}
