//! Records in batches, and the few calls of librdkafka that the `rdkafka` crate lacks.
//!
//! Responsible for being a safe wrapper: this is the only module with `unsafe`, and nothing that it returns can
//! outlive what it points into. Must never interpret what it reads.
//!
//! # The batch queue
//!
//! A partition's fetched records are moved from its own queue into ours (`rd_kafka_queue_forward`), and taken from
//! there many at a time (`rd_kafka_consume_batch_queue`). What makes that right, in librdkafka 2.12.1:
//!
//! 1. Forwarding by the application sets `RD_KAFKA_Q_F_FWD_APP` on the partition's queue, and nothing ever clears it
//!    (rdkafka_queue.c:178). Starting a fetcher redirects the queue to the consumer's own only when the flag is not
//!    set (`rd_kafka_toppar_op_fetch_start`, rdkafka_partition.c:2293). So a queue that is attached *before* it is
//!    assigned never delivers elsewhere, and a seek, a pause or a rebalance leaves it alone.
//! 2. Stopping a fetcher clears the forwarding, but not the flag (`rd_kafka_toppar_fetch_stop`,
//!    rdkafka_partition.c:1840): after an unassign the queue goes nowhere, so that one must attach again. The stop is
//!    asynchronous, but is served by librdkafka's main thread from the same queue, in order, as a later assign. So
//!    attaching *after* the assign has returned is certain to come after the stop. What was fetched in between waits
//!    in the partition's queue and is moved over in order (`rd_kafka_q_fwd_set0`).
//!    Hence: attach before and after assigning, which is what `GroupConsumer::assign` does.
//! 3. Polling the batch queue counts for `max.poll.interval.ms` (`rd_kafka_app_polled` at the end of
//!    `rd_kafka_q_serve_rkmessages`, rdkafka_queue.c:867), whether records came or not.
//! 4. It also moves the position behind which a paused partition is resumed (`rd_kafka_update_app_pos`, same
//!    function), and drops records of an assignment or position that is over (`rd_kafka_op_version_outdated`).
//!    Errors carry no version and may still come.
//!    The end of a partition moves that position too, *one too far*: it is taken for a record at its offset. Resumed
//!    there, by us or by librdkafka after a rebalance, a partition would skip the first record behind that end. So the
//!    queue notes which partitions are at their end, and `GroupConsumer` seeks before it lets them go on.
//! 5. One call waits for a *full* batch until its time is over. [`MessageQueue::poll`] waits for the first record
//!    only.

#![allow(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use crashmonitor_core::orphans::Member;
use rdkafka::TopicPartitionList;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka_sys as ffi;

use super::Error;
use super::group::{CommitResult, GroupContext};

/// The most records that one [`MessageQueue::poll`] returns.
pub const BATCH_RECORDS_MAX: usize = 16_384;

/// A reference to a librdkafka queue, given back when dropped.
struct NativeQueue(NonNull<ffi::rd_kafka_queue_t>);

impl NativeQueue {
    fn new(client: *mut ffi::rd_kafka_t) -> NativeQueue {
        // SAFETY: `client` is a live client, as all callers take it from a borrowed or counted Rust client.
        let native = unsafe { ffi::rd_kafka_queue_new(client) };
        NativeQueue(NonNull::new(native).expect("rd_kafka_queue_new never returns null"))
    }

    fn ptr(&self) -> *mut ffi::rd_kafka_queue_t {
        self.0.as_ptr()
    }

    fn poll(&self, timeout: Duration) -> Option<NativeEvent> {
        // SAFETY: the queue is alive as long as `self`. The event is ours to destroy.
        NonNull::new(unsafe { ffi::rd_kafka_queue_poll(self.ptr(), millis(timeout)) }).map(NativeEvent)
    }
}

impl Drop for NativeQueue {
    fn drop(&mut self) {
        // SAFETY: we hold the one reference that rd_kafka_queue_new or _get_partition gave us.
        unsafe { ffi::rd_kafka_queue_destroy(self.ptr()) }
    }
}

/// An event taken from a queue, freed when dropped.
struct NativeEvent(NonNull<ffi::rd_kafka_event_t>);

impl NativeEvent {
    fn ptr(&self) -> *mut ffi::rd_kafka_event_t {
        self.0.as_ptr()
    }

    fn error(&self) -> Option<RDKafkaErrorCode> {
        // SAFETY: the event is alive as long as `self`.
        code(unsafe { ffi::rd_kafka_event_error(self.ptr()) })
    }
}

impl Drop for NativeEvent {
    fn drop(&mut self) {
        // SAFETY: rd_kafka_queue_poll gave us the event to destroy.
        unsafe { ffi::rd_kafka_event_destroy(self.ptr()) }
    }
}

fn millis(timeout: Duration) -> c_int {
    c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX)
}

/// `None` for "no error".
fn code(native: RDKafkaRespErr) -> Option<RDKafkaErrorCode> {
    (native != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| native.into())
}

fn c_topic(topic: &str) -> Result<CString, Error> {
    CString::new(topic).map_err(|_| Error::Unexpected {
        what: format!("topic {topic:?}"),
        reason: "the name contains a zero byte".to_string(),
    })
}

/// The queue through which one consumer's records come.
pub struct MessageQueue {
    // Dropped in this order: what points into the consumer goes before it.
    partitions: BTreeMap<(String, i32), NativeQueue>,
    queue: NativeQueue,
    messages: Vec<*mut ffi::rd_kafka_message_t>,
    consumer: Arc<BaseConsumer<GroupContext>>,
}

// SAFETY: librdkafka's queues may be used from any thread, and `messages` is empty whenever no `Batch` borrows it.
unsafe impl Send for MessageQueue {}

impl MessageQueue {
    /// A queue that no partition is attached to yet.
    pub fn new(consumer: Arc<BaseConsumer<GroupContext>>) -> MessageQueue {
        let queue = NativeQueue::new(consumer.client().native_ptr());
        MessageQueue { partitions: BTreeMap::new(), queue, messages: Vec::new(), consumer }
    }

    /// Has the partition's records delivered here. Call it before *and* after the partition is assigned (see 1. and
    /// 2. in this module's documentation); twice is not too often. `GroupConsumer::assign` does.
    pub fn attach(&mut self, topic: &str, partition: i32) -> Result<(), Error> {
        let name = c_topic(topic)?;
        let client = self.consumer.client().native_ptr();
        // SAFETY: the client is alive as long as `self.consumer`, and the call copies `name`.
        let native = unsafe { ffi::rd_kafka_queue_get_partition(client, name.as_ptr(), partition) };
        let Some(native) = NonNull::new(native).map(NativeQueue) else {
            let reason = "librdkafka has no queue for it".to_string();
            return Err(Error::Unexpected { what: format!("attach {topic} [{partition}]"), reason });
        };
        // SAFETY: both queues are alive; librdkafka counts its own reference to the destination.
        unsafe { ffi::rd_kafka_queue_forward(native.ptr(), self.queue.ptr()) };
        self.partitions.insert((topic.to_string(), partition), native);
        Ok(())
    }

    /// Stops delivering the partition's records here. Call it after the partition is unassigned: records that are
    /// fetched later pile up in the partition's own queue.
    pub fn detach(&mut self, topic: &str, partition: i32) {
        if let Some(native) = self.partitions.remove(&(topic.to_string(), partition)) {
            // SAFETY: the queue is alive; null ends the forwarding.
            unsafe { ffi::rd_kafka_queue_forward(native.ptr(), ptr::null_mut()) };
        }
    }

    /// Waits up to `timeout` for the first record, then takes what is there, at most `records_max` (held to
    /// [`BATCH_RECORDS_MAX`]). Records of one partition come in offset order.
    pub fn poll(&mut self, timeout: Duration, records_max: usize) -> Batch<'_> {
        let records_max = records_max.clamp(1, BATCH_RECORDS_MAX);
        if self.messages.len() < records_max {
            self.messages.resize(records_max, ptr::null_mut());
        }
        let mut count = self.take(0, records_max, Duration::ZERO);
        if count == 0 && !timeout.is_zero() {
            count = self.take(0, 1, timeout);
            if count == 1 {
                count += self.take(1, records_max, Duration::ZERO);
            }
        }
        self.note_ends(count);
        Batch { messages: &self.messages[..count] }
    }

    /// Notes the partitions of which the end was polled last, and not a record (see 4.).
    fn note_ends(&self, count: usize) {
        let mut ends = self.consumer.context().ends();
        for &message in &self.messages[..count] {
            // SAFETY: librdkafka has just filled each pointer with a message of ours, which no `Batch` has freed yet.
            let message = unsafe { &*message };
            match code(message.err) {
                None if ends.is_empty() => {}
                None => drop(ends.remove(&message.partition)),
                Some(RDKafkaErrorCode::PartitionEOF) => drop(ends.insert(message.partition, message.offset)),
                Some(_) => {}
            }
        }
    }

    /// Fills `self.messages[from..to]` as far as there is something and returns how many were taken.
    fn take(&mut self, from: usize, to: usize, timeout: Duration) -> usize {
        let room = &mut self.messages[from..to];
        // SAFETY: the queue is alive, and `room` is as long as the call is told.
        let taken = unsafe {
            ffi::rd_kafka_consume_batch_queue(
                self.queue.ptr(),
                millis(timeout),
                room.as_mut_ptr(),
                room.len(),
            )
        };
        usize::try_from(taken).unwrap_or(0)
    }
}

impl Drop for MessageQueue {
    fn drop(&mut self) {
        for native in self.partitions.values() {
            // SAFETY: the queue is alive; null ends the forwarding, so that nothing is put into a queue without reader.
            unsafe { ffi::rd_kafka_queue_forward(native.ptr(), ptr::null_mut()) };
        }
    }
}

/// What one poll brought. Everything in it is freed when it is dropped.
pub struct Batch<'q> {
    messages: &'q [*mut ffi::rd_kafka_message_t],
}

impl Batch<'_> {
    /// How many items there are.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The items, in the order of their arrival.
    pub fn iter(&self) -> impl Iterator<Item = Item<'_>> {
        self.messages.iter().map(|&message| {
            // SAFETY: librdkafka has filled each pointer with a message of ours, which lives until `self` is dropped;
            // the item can't outlive the borrow of `self`.
            unsafe { item(&*message) }
        })
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        for &message in self.messages {
            // SAFETY: each message is ours, is destroyed once, and no item can refer to it any more.
            unsafe { ffi::rd_kafka_message_destroy(message) };
        }
    }
}

/// One entry of a [`Batch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'b> {
    /// A record.
    Message {
        /// Its partition.
        partition: i32,
        /// Its offset.
        offset: i64,
        /// Its key, if it has one.
        key: Option<&'b [u8]>,
        /// Its value; `None` for a tombstone.
        payload: Option<&'b [u8]>,
        /// The record's Kafka timestamp in milliseconds since the epoch, if it has one.
        timestamp_ms: Option<i64>,
        /// Whether that timestamp is the broker's, taken as it appended the record.
        log_append_time: bool,
    },
    /// Everything that could be read has been read. Comes once for each end that is reached.
    Eof {
        /// The partition.
        partition: i32,
        /// The next offset to read: the last stable offset, behind control and aborted records too.
        offset: i64,
    },
    /// A partition can't be read on. With `AutoOffsetReset` the offset to read is not in the log.
    Error {
        /// The partition; -1 if the error belongs to none.
        partition: i32,
        /// Its code.
        code: RDKafkaErrorCode,
        /// librdkafka's text.
        text: String,
    },
}

/// # Safety
/// `message` must be as librdkafka returned it.
unsafe fn item(message: &ffi::rd_kafka_message_t) -> Item<'_> {
    match code(message.err) {
        None => {
            let mut kind = ffi::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
            // SAFETY: the message is librdkafka's own, as the caller promises.
            let timestamp = unsafe { ffi::rd_kafka_message_timestamp(message, &mut kind) };
            use ffi::rd_kafka_timestamp_type_t::{
                RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME as APPENDED, RD_KAFKA_TIMESTAMP_NOT_AVAILABLE as NONE,
            };
            Item::Message {
                partition: message.partition,
                offset: message.offset,
                // SAFETY: pointer and length belong together and to the message.
                key: unsafe { bytes(message.key.cast(), message.key_len) },
                // SAFETY: the same.
                payload: unsafe { bytes(message.payload.cast(), message.len) },
                timestamp_ms: (kind != NONE && timestamp >= 0).then_some(timestamp),
                log_append_time: kind == APPENDED,
            }
        }
        Some(RDKafkaErrorCode::PartitionEOF) => {
            Item::Eof { partition: message.partition, offset: message.offset }
        }
        Some(code) => {
            // SAFETY: the payload of an error is its text.
            let text = unsafe { bytes(message.payload.cast(), message.len) };
            let text = String::from_utf8_lossy(text.unwrap_or_default()).into_owned();
            // An error without a topic belongs to no partition.
            let partition = if message.rkt.is_null() { -1 } else { message.partition };
            Item::Error { partition, code, text }
        }
    }
}

/// # Safety
/// `start` must be null or point to `len` bytes that live as long as `'a`.
unsafe fn bytes<'a>(start: *const u8, len: usize) -> Option<&'a [u8]> {
    // SAFETY: as the caller promises.
    (!start.is_null()).then(|| unsafe { slice::from_raw_parts(start, len) })
}

/// What a group has committed for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The partition.
    pub partition: i32,
    /// The committed offset and its metadata; `None`: nothing is committed.
    pub value: Option<CommittedValue>,
    /// Why it can't be told, for this partition alone.
    pub error: Option<RDKafkaErrorCode>,
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedValue {
    /// The next offset to read.
    pub offset: i64,
    /// What was committed with it. Bytes that are no UTF-8, which somebody else must have written, are replaced.
    pub metadata: String,
}

/// Reads a list of committed offsets. (The crate's own accessor panics on metadata that is no UTF-8.)
pub(super) fn committed(list: &TopicPartitionList) -> Vec<Committed> {
    elements(list)
        .iter()
        .map(|element| {
            // SAFETY: pointer and length belong together and to the list, which is borrowed.
            let metadata = unsafe { bytes(element.metadata.cast::<u8>(), element.metadata_size) };
            let metadata = String::from_utf8_lossy(metadata.unwrap_or_default()).into_owned();
            Committed {
                partition: element.partition,
                value: (element.offset >= 0).then_some(CommittedValue { offset: element.offset, metadata }),
                error: code(element.err),
            }
        })
        .collect()
}

fn elements(list: &TopicPartitionList) -> &[ffi::rd_kafka_topic_partition_t] {
    // SAFETY: the list is alive and not changed while it is borrowed.
    unsafe { raw_elements(list.ptr()) }
}

/// # Safety
/// `list` must be null or a list that lives and does not change as long as `'a`.
unsafe fn raw_elements<'a>(
    list: *const ffi::rd_kafka_topic_partition_list_t,
) -> &'a [ffi::rd_kafka_topic_partition_t] {
    // SAFETY: as the caller promises; `elems` holds `cnt` entries.
    match unsafe { list.as_ref() } {
        Some(list) if !list.elems.is_null() => unsafe {
            slice::from_raw_parts(list.elems, usize::try_from(list.cnt).unwrap_or(0))
        },
        _ => &[],
    }
}

/// Commits a list and waits for the answer.
pub(super) fn commit(
    consumer: &BaseConsumer<GroupContext>,
    list: &TopicPartitionList,
    timeout: Duration,
) -> Result<Vec<CommitResult>, Error> {
    let client = consumer.client().native_ptr();
    let queue = NativeQueue::new(client);
    // SAFETY: client, list and queue are alive; the list is copied. Without a callback the answer comes as an event.
    let sent = unsafe { ffi::rd_kafka_commit_queue(client, list.ptr(), queue.ptr(), None, ptr::null_mut()) };
    if let Some(code) = code(sent) {
        return Err(Error::kafka("commit", KafkaError::ConsumerCommit(code)));
    }
    let Some(event) = queue.poll(timeout) else {
        return Err(Error::TimedOut { what: "commit".to_string(), after_ms: timeout.as_millis() });
    };
    // SAFETY: the list belongs to the event, which outlives the borrow.
    let answers = unsafe { raw_elements(ffi::rd_kafka_event_topic_partition_list(event.ptr())) };
    // The event's error is the answer as a whole, unless the partitions have answers of their own: then it repeats one.
    let is_by_partition = answers.iter().any(|answer| code(answer.err).is_some());
    if let Some(code) = event.error().filter(|_| !is_by_partition) {
        return Err(Error::kafka("commit", KafkaError::ConsumerCommit(code)));
    }
    Ok(answers
        .iter()
        .map(|answer| CommitResult {
            partition: answer.partition,
            outcome: code(answer.err).map_or(Ok(()), Err),
        })
        .collect())
}

/// Whether the consumer is a member of its group in its own eyes: librdkafka forgets the member's name as it sends the
/// request to leave (`rd_kafka_cgrp_leave`, rdkafka_cgrp.c:1125).
pub(super) fn is_member<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> bool {
    let client = consumer.client().native_ptr();
    // SAFETY: the client is alive; the name is null or a C string of ours, freed once and not used afterwards.
    unsafe {
        let name = ffi::rd_kafka_memberid(client);
        let is_member = !name.is_null() && *name != 0;
        if !name.is_null() {
            ffi::rd_kafka_mem_free(client, name.cast());
        }
        is_member
    }
}

/// Lowest and highest offset as the last fetch showed them.
pub(super) fn cached_watermarks<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
) -> Option<(i64, i64)> {
    let name = CString::new(topic).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the client is alive, and the call writes one integer to each pointer.
    let error = unsafe {
        ffi::rd_kafka_get_watermark_offsets(
            consumer.client().native_ptr(),
            name.as_ptr(),
            partition,
            &mut low,
            &mut high,
        )
    };
    (code(error).is_none() && high >= 0).then_some((low.max(0), high))
}

/// What Kafka says of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicFacts {
    /// Tells a topic from an earlier one of the same name.
    pub topic_id: [u8; 16],
    /// How many partitions it has.
    pub partitions: u32,
}

/// Asks a broker about a topic; `None` if there is no such topic.
pub fn describe_topic<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<Option<TopicFacts>, Error> {
    let what = || format!("describe topic {topic}");
    let queue = NativeQueue::new(client.native_ptr());
    request_description(client.native_ptr(), &c_topic(topic)?, &queue, timeout);
    let Some(event) = queue.poll(timeout + Duration::from_millis(100)) else {
        return Err(Error::TimedOut { what: what(), after_ms: timeout.as_millis() });
    };
    match event.error() {
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => return Ok(None),
        Some(code) => return Err(Error::kafka(what(), KafkaError::AdminOp(code))),
        None => {}
    }
    // SAFETY: the event is alive and checked for its type by librdkafka, which returns null for another.
    let result = unsafe { ffi::rd_kafka_event_DescribeTopics_result(event.ptr()) };
    // SAFETY: null or a result that lives as long as the event.
    let description = unsafe { first_description(result) };
    let Some(description) = description else {
        return Err(Error::Unexpected { what: what(), reason: "the answer is empty".to_string() });
    };
    // SAFETY: the description lives as long as the event.
    match unsafe { facts(description) } {
        Ok(facts) => Ok(Some(facts)),
        Err(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
        Err(code) => Err(Error::kafka(what(), KafkaError::AdminOp(code))),
    }
}

fn request_description(client: *mut ffi::rd_kafka_t, topic: &CStr, queue: &NativeQueue, timeout: Duration) {
    let mut names: [*const c_char; 1] = [topic.as_ptr()];
    // SAFETY: `client` is alive as the caller borrows it; names and options are copied by the request, and what is
    // created here is destroyed here.
    unsafe {
        let topics = ffi::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let options = ffi::rd_kafka_AdminOptions_new(
            client,
            ffi::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        );
        // Refused only if out of range (0 to 1 hour): then the default of 60 s holds, and `queue.poll` ends earlier.
        ffi::rd_kafka_AdminOptions_set_request_timeout(options, millis(timeout), ptr::null_mut(), 0);
        ffi::rd_kafka_DescribeTopics(client, topics, options, queue.ptr());
        ffi::rd_kafka_AdminOptions_destroy(options);
        ffi::rd_kafka_TopicCollection_destroy(topics);
    }
}

/// # Safety
/// `result` must be null or alive as long as what is returned is used.
unsafe fn first_description(
    result: *const ffi::rd_kafka_DescribeTopics_result_t,
) -> Option<*const ffi::rd_kafka_TopicDescription_t> {
    if result.is_null() {
        return None;
    }
    let mut count = 0;
    // SAFETY: the result is alive; the call writes the length of the array that it returns.
    let all = unsafe { ffi::rd_kafka_DescribeTopics_result_topics(result, &mut count) };
    // SAFETY: the array has at least one entry.
    (count > 0 && !all.is_null()).then(|| unsafe { *all })
}

/// # Safety
/// `description` must be alive.
unsafe fn facts(
    description: *const ffi::rd_kafka_TopicDescription_t,
) -> Result<TopicFacts, RDKafkaErrorCode> {
    // SAFETY: all calls read from the description, which is alive as the caller promises, and return pointers into it.
    unsafe {
        let error = ffi::rd_kafka_TopicDescription_error(description);
        if let Some(code) = code(ffi::rd_kafka_error_code(error)) {
            return Err(code);
        }
        let id = ffi::rd_kafka_TopicDescription_topic_id(description);
        let mut topic_id = [0; 16];
        topic_id[..8].copy_from_slice(&ffi::rd_kafka_Uuid_most_significant_bits(id).to_be_bytes());
        topic_id[8..].copy_from_slice(&ffi::rd_kafka_Uuid_least_significant_bits(id).to_be_bytes());
        let mut partitions = 0;
        ffi::rd_kafka_TopicDescription_partitions(description, &mut partitions);
        Ok(TopicFacts { topic_id, partitions: u32::try_from(partitions).unwrap_or(u32::MAX) })
    }
}

/// A group's members with what they were given, or None while it rebalances. `topic` is the only one that it reads.
pub fn describe_group<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    topic: &str,
    timeout: Duration,
) -> Result<Option<Vec<Member>>, Error> {
    let what = || format!("describe group {group}");
    let queue = NativeQueue::new(client.native_ptr());
    request_group(client.native_ptr(), &c_topic(group)?, &queue, timeout);
    let Some(event) = queue.poll(timeout + Duration::from_millis(100)) else {
        return Err(Error::TimedOut { what: what(), after_ms: timeout.as_millis() });
    };
    if let Some(code) = event.error() {
        return Err(Error::kafka(what(), KafkaError::AdminOp(code)));
    }
    // SAFETY: the event is alive and checked for its type by librdkafka, which returns null for another.
    let result = unsafe { ffi::rd_kafka_event_DescribeConsumerGroups_result(event.ptr()) };
    let empty = || Error::Unexpected { what: what(), reason: "the answer is empty".to_string() };
    if result.is_null() {
        return Err(empty());
    }
    let mut count = 0;
    // SAFETY: the result lives as long as the event; the call writes the length of the array that it returns.
    let all = unsafe { ffi::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count) };
    if count == 0 || all.is_null() {
        return Err(empty());
    }
    // SAFETY: the array has at least one entry, and what it points to lives as long as the event.
    let members = unsafe { members(*all, topic) };
    members.map_err(|code| Error::kafka(what(), KafkaError::AdminOp(code)))
}

fn request_group(client: *mut ffi::rd_kafka_t, group: &CStr, queue: &NativeQueue, timeout: Duration) {
    let mut names: [*const c_char; 1] = [group.as_ptr()];
    // SAFETY: `client` is alive as the caller borrows it; names and options are copied by the request, and what is
    // created here is destroyed here.
    unsafe {
        let options = ffi::rd_kafka_AdminOptions_new(
            client,
            ffi::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS,
        );
        // As for a topic's description.
        ffi::rd_kafka_AdminOptions_set_request_timeout(options, millis(timeout), ptr::null_mut(), 0);
        ffi::rd_kafka_DescribeConsumerGroups(client, names.as_mut_ptr(), names.len(), options, queue.ptr());
        ffi::rd_kafka_AdminOptions_destroy(options);
    }
}

/// # Safety
/// `group` must be alive.
unsafe fn members(
    group: *const ffi::rd_kafka_ConsumerGroupDescription_t,
    topic: &str,
) -> Result<Option<Vec<Member>>, RDKafkaErrorCode> {
    // SAFETY: all calls read from the description, which is alive as the caller promises, and return pointers into it; an
    // index is below the count.
    unsafe {
        let error = ffi::rd_kafka_ConsumerGroupDescription_error(group);
        if let Some(code) = code(ffi::rd_kafka_error_code(error)) {
            return Err(code);
        }
        let state = ffi::rd_kafka_ConsumerGroupDescription_state(group);
        if state != ffi::rd_kafka_consumer_group_state_t::RD_KAFKA_CONSUMER_GROUP_STATE_STABLE {
            return Ok(None);
        }
        let count = ffi::rd_kafka_ConsumerGroupDescription_member_count(group);
        let each = (0..count).map(|n| {
            let member = ffi::rd_kafka_ConsumerGroupDescription_member(group, n);
            let name = ffi::rd_kafka_MemberDescription_client_id(member);
            let assignment = ffi::rd_kafka_MemberDescription_assignment(member);
            let partitions = given(ffi::rd_kafka_MemberAssignment_partitions(assignment), topic);
            Member { name: CStr::from_ptr(name).to_string_lossy().into_owned(), partitions }
        });
        Ok(Some(each.collect()))
    }
}

/// # Safety
/// `list` must be null or alive.
unsafe fn given(list: *const ffi::rd_kafka_topic_partition_list_t, topic: &str) -> BTreeSet<u32> {
    // SAFETY: as the caller promises.
    let Some(list) = (unsafe { list.as_ref() }) else { return BTreeSet::new() };
    let count = usize::try_from(list.cnt).unwrap_or_default();
    if count == 0 {
        return BTreeSet::new();
    }
    // SAFETY: the list has so many elements.
    let elements = unsafe { slice::from_raw_parts(list.elems, count) };
    // SAFETY: every element has its topic's name.
    let of_topic =
        elements.iter().filter(|e| unsafe { CStr::from_ptr(e.topic) }.to_bytes() == topic.as_bytes());
    of_topic.filter_map(|e| u32::try_from(e.partition).ok()).collect()
}
