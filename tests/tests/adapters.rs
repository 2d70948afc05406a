//! The worker's Kafka adapters against a real broker: what librdkafka is relied upon for, as far as one can see it.
//!
//! Responsible for the promises that `worker/src/kafka` makes in its module comments and that no simulator can check.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crashmonitor_core::config::Config;
use crashmonitor_testbed::proxy::EndTxn;
use crashmonitor_testbed::{Isolation, Kafka, NewRecord, Topics, shared, until, until_true};
use crashmonitor_worker::kafka::Health;
use crashmonitor_worker::kafka::batch::{Item, MessageQueue};
use crashmonitor_worker::kafka::client::Clients;
use crashmonitor_worker::kafka::group::{GroupConsumer, GroupEvent, Position};
use crashmonitor_worker::kafka::transactions::Transactions;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseRecord, Producer};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);

/// One monitor's names, and how long its group keeps a silent member.
struct Bed<'a> {
    kafka: &'a Kafka,
    topics: &'a Topics,
    monitor: String,
    input: String,
    session: &'static str,
}

impl Bed<'static> {
    fn new(name: &str, partitions: i32) -> Bed<'static> {
        Bed::on(shared::kafka(), name, partitions)
    }
}

impl<'a> Bed<'a> {
    fn on(kafka: &'a Kafka, name: &str, partitions: i32) -> Bed<'a> {
        let monitor = shared::unique(name);
        let input = format!("{monitor}.input");
        let topics = kafka.topics();
        topics.create_topic(&input, partitions, &[]);
        Bed { kafka, topics, monitor, input, session: "6s" }
    }

    /// With a session that no test waits for: whoever is noticed to have left has said so.
    fn with_long_session(mut self) -> Bed<'a> {
        self.session = "120s";
        self
    }

    fn with_short_session(mut self) -> Bed<'a> {
        self.session = "1s";
        self
    }

    fn config(&self) -> Config {
        self.config_with(&self.kafka.bootstrap())
    }

    fn config_with(&self, bootstrap: &str) -> Config {
        let Bed { monitor, input, session, .. } = self;
        Config::parse(&format!(
            "monitor: {{namespace: test, name: {monitor}, uid: u}}\n\
             kafka: {{bootstrapServers: '{bootstrap}'}}\ninput: {{topic: {input}}}\n\
             worker: {{sessionTimeout: {session}}}\n"
        ))
        .unwrap()
    }

    fn clients(&self, instance: &str) -> Clients {
        Clients::new(&self.config(), instance, &Health::new())
    }

    fn group(&self) -> String {
        self.config().scan_group().to_string()
    }

    /// Writes the numbers from `first` on into a partition.
    fn count_up(&self, partition: i32, first: i64, count: i64) {
        let numbers = first..first + count;
        let records: Vec<NewRecord> =
            numbers.map(|number| NewRecord::new(number.to_string()).to(partition)).collect();
        self.topics.produce(&self.input, &records);
    }
}

/// A consumer and what it has read: each partition's records must be the numbers from 0 on.
struct Reader {
    queue: MessageQueue,
    consumer: GroupConsumer,
    owned: Vec<i32>,
    next: BTreeMap<i32, i64>,
    ends: BTreeMap<i32, i64>,
    errors: Vec<(i32, RDKafkaErrorCode)>,
}

impl Reader {
    fn subscribe(bed: &Bed, instance: &str) -> Reader {
        let consumer = bed.clients(instance).scan_consumer(0).unwrap();
        let queue = consumer.message_queue();
        consumer.subscribe().unwrap();
        let (next, ends, errors) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        Reader { queue, consumer, owned: Vec::new(), next, ends, errors }
    }

    fn join(bed: &Bed, instance: &str, partitions: usize) -> Reader {
        let mut reader = Reader::subscribe(bed, instance);
        until_true("the partitions to be assigned", TIMEOUT, || {
            reader.turn();
            reader.owned.len() == partitions
        });
        reader
    }

    /// Answers the group, then takes what has come. Gives the number of records.
    fn turn(&mut self) -> usize {
        for event in self.consumer.poll_events() {
            self.answer(event);
        }
        self.read(1_000)
    }

    fn answer(&mut self, event: GroupEvent) {
        match event {
            GroupEvent::Assigned(partitions) => {
                let starts: Vec<(i32, i64)> = partitions.iter().map(|&p| (p, self.next_of(p))).collect();
                self.consumer.assign(&mut self.queue, &starts).unwrap();
                self.owned.extend(partitions);
            }
            GroupEvent::Revoked(partitions) | GroupEvent::Lost(partitions) => {
                self.consumer.unassign(&mut self.queue, &partitions).unwrap();
                self.owned.retain(|partition| !partitions.contains(partition));
            }
            GroupEvent::Error { .. } => {}
            GroupEvent::Stray { partition, offset } => panic!("astray: {partition}/{offset}"),
        }
    }

    fn read(&mut self, records_max: usize) -> usize {
        let mut records = 0;
        for item in self.queue.poll(POLL, records_max).iter() {
            match item {
                Item::Message { partition, offset, payload, .. } => {
                    let next = self.next.entry(partition).or_insert(0);
                    assert_eq!(offset, *next, "partition {partition}: lost or repeated");
                    assert_eq!(payload.unwrap(), offset.to_string().as_bytes(), "partition {partition}");
                    *next += 1;
                    records += 1;
                }
                Item::Eof { partition, offset } => drop(self.ends.insert(partition, offset)),
                Item::Error { partition, code, .. } => self.errors.push((partition, code)),
            }
        }
        records
    }

    fn next_of(&self, partition: i32) -> i64 {
        self.next.get(&partition).copied().unwrap_or(0)
    }

    fn starts(&self) -> Vec<(i32, i64)> {
        self.owned.iter().map(|&partition| (partition, self.next_of(partition))).collect()
    }

    fn await_ends(&mut self, end: i64) {
        until_true(&format!("each partition's end at {end} to be polled"), TIMEOUT, || {
            self.turn();
            self.owned.iter().all(|partition| self.ends.get(partition) == Some(&end))
        });
    }

    fn read_up_to(&mut self, end: i64) {
        let partitions = self.owned.clone();
        until(&format!("all records up to {end}"), TIMEOUT, || {
            self.turn();
            let behind: Vec<_> = partitions.iter().map(|&p| (p, self.next_of(p))).collect();
            if behind.iter().all(|&(_, next)| next == end) { Ok(()) } else { Err(format!("{behind:?}")) }
        });
    }
}

fn position(partition: i32, offset: i64, metadata: &str) -> Position {
    Position { partition, offset, metadata: metadata.to_owned() }
}

/// What a new producer and a thrown-away state do, again and again, while records are in every queue on the way.
#[test]
fn restarts_of_assigned_partitions_lose_and_repeat_nothing() {
    let bed = Bed::new("restarts", 3);
    (0..3).for_each(|partition| bed.count_up(partition, 0, 5_000));
    let mut reader = Reader::join(&bed, "a", 3);
    let mut restarts = 0;
    until_true("50 restarts amid the records", TIMEOUT, || {
        // Few at a time, so that the restart finds records fetched and not polled.
        reader.read(97);
        let starts = reader.starts();
        reader.consumer.restart(&mut reader.queue, &starts).unwrap();
        restarts += 1;
        restarts >= 50 && starts.iter().any(|&(_, next)| next > 0)
    });
    reader.read_up_to(5_000);
    assert_eq!(reader.errors, []);
    reader.await_ends(5_000);
}

/// Partitions are let go of and taken back without a rebalance, as a scanner does that starts again.
#[test]
fn partitions_taken_back_lose_and_repeat_nothing() {
    let bed = Bed::new("taken-back", 2);
    (0..2).for_each(|partition| bed.count_up(partition, 0, 3_000));
    let mut reader = Reader::join(&bed, "a", 2);
    for round in 0..20 {
        let partition = round % 2;
        reader.consumer.unassign(&mut reader.queue, &[partition]).unwrap();
        reader.read(50);
        let start = (partition, reader.next_of(partition));
        reader.consumer.assign(&mut reader.queue, &[start]).unwrap();
        reader.read(50);
    }
    reader.read_up_to(3_000);
    assert_eq!(reader.errors, []);
}

#[test]
fn pause_and_resume_lose_and_repeat_nothing() {
    let bed = Bed::new("paused", 2);
    (0..2).for_each(|partition| bed.count_up(partition, 0, 3_000));
    let mut reader = Reader::join(&bed, "a", 2);
    for _ in 0..10 {
        reader.read(100);
        reader.consumer.pause(&[0]).unwrap();
        reader.read(100);
        reader.consumer.resume(&[0]).unwrap();
    }
    reader.read_up_to(3_000);
}

/// The end of a partition has been polled, and then no record: where to go on must be that end and not one behind it.
#[test]
fn a_partition_paused_at_its_end_skips_nothing() {
    let bed = Bed::new("paused-at-end", 2);
    let mut reader = Reader::join(&bed, "a", 2);
    for round in 0..5 {
        let first = round * 100;
        (0..2).for_each(|partition| bed.count_up(partition, first, 100));
        reader.read_up_to(first + 100);
        reader.await_ends(first + 100);
        reader.consumer.pause(&[0]).unwrap();
        reader.consumer.resume(&[0]).unwrap();
    }
    reader.consumer.pause(&[0]).unwrap();
    (0..2).for_each(|partition| bed.count_up(partition, 500, 100));
    until_true("what is not paused to be read", TIMEOUT, || {
        reader.turn();
        reader.next_of(1) == 600
    });
    assert_eq!(reader.next_of(0), 500, "paused, and read all the same");
    reader.consumer.resume(&[0]).unwrap();
    reader.read_up_to(600);
    assert_eq!(reader.errors, []);
}

/// librdkafka pauses and resumes what a member keeps over a rebalance. The first records written after it must not be
/// skipped, however quiet the partition was.
#[test]
fn a_partition_kept_over_a_rebalance_at_its_end_skips_nothing() {
    let bed = Bed::new("kept-at-end", 4).with_long_session();
    (0..4).for_each(|partition| bed.count_up(partition, 0, 50));
    let mut stays = Reader::join(&bed, "stays", 4);
    stays.read_up_to(50);
    for round in 1..4 {
        let first = round * 50;
        stays.await_ends(first);
        let leaves = Reader::join_beside(&bed, "leaves", &mut stays);
        let kept = stays.owned.clone();
        (0..4).for_each(|partition| bed.count_up(partition, first, 50));
        until_true("what was kept to be read on", TIMEOUT, || {
            stays.turn();
            kept.iter().all(|&partition| stays.next_of(partition) == first + 50)
        });
        leaves.consumer.leave(Duration::from_secs(5)).unwrap();
        drop(leaves);
        until_true("all partitions to be back", TIMEOUT, || {
            stays.turn();
            stays.owned.len() == 4
        });
        stays.read_up_to(first + 50);
    }
    assert_eq!(stays.errors, []);
}

/// A recovery may take its time: the member stays one, and what it commits afterwards counts.
#[test]
fn a_rebalance_may_be_answered_later_than_the_session_lasts() {
    let bed = Bed::new("late-answer", 2).with_short_session();
    (0..2).for_each(|partition| bed.count_up(partition, 0, 100));
    let mut reader = Reader::subscribe(&bed, "a");
    let mut events = Vec::new();
    until_true("the assignment", TIMEOUT, || {
        events.extend(reader.consumer.poll_events());
        !events.is_empty()
    });
    assert_eq!(events, [GroupEvent::Assigned(vec![0, 1])]);
    let received = Instant::now();
    until_true("three sessions to pass", TIMEOUT, || {
        assert_eq!(reader.consumer.poll_events(), [], "nothing follows what is not answered");
        reader.read(10);
        received.elapsed() > Duration::from_secs(3)
    });
    assert!(reader.consumer.restart(&mut reader.queue, &[(0, 0)]).is_err(), "taken for the answer");
    assert!(reader.next.is_empty(), "read before it was assigned");
    reader.answer(events.remove(0));
    reader.read_up_to(100);
    let results = reader.consumer.commit(&[position(0, 7, "m"), position(1, 8, "")], TIMEOUT).unwrap();
    assert!(results.iter().all(|result| result.outcome.is_ok()), "{results:?}");
    assert_eq!(bed.topics.committed(&bed.group(), &bed.input)[&0].metadata, "m");
}

/// The session would outlast the test: only who says that it leaves is gone. Leaving and closing at once is what a
/// worker does at SIGTERM.
#[test]
fn leave_hands_over_at_once() {
    let bed = Bed::new("leaving", 4).with_long_session();
    (0..4).for_each(|partition| bed.count_up(partition, 0, 100));
    let mut stays = Reader::join(&bed, "stays", 4);
    for round in 0..3 {
        let mut leaves = Reader::join_beside(&bed, "leaves", &mut stays);
        if round % 2 == 0 {
            // With records fetched, polled and not polled; else with nothing assigned in librdkafka's eyes.
            leaves.read(10);
        } else {
            let owned = std::mem::take(&mut leaves.owned);
            leaves.consumer.unassign(&mut leaves.queue, &owned).unwrap();
        }
        let left = Instant::now();
        assert!(leaves.consumer.leave(Duration::from_secs(5)).unwrap());
        drop(leaves);
        until(&format!("all partitions in round {round}"), Duration::from_secs(20), || {
            stays.turn();
            if stays.owned.len() == 4 { Ok(()) } else { Err(format!("{:?}", stays.owned)) }
        });
        assert!(left.elapsed() < Duration::from_secs(5), "round {round} took {:?}", left.elapsed());
    }
}

impl Reader {
    /// A second member, once both have two of four partitions.
    fn join_beside(bed: &Bed, instance: &str, other: &mut Reader) -> Reader {
        let mut reader = Reader::subscribe(bed, instance);
        until("two partitions each", TIMEOUT, || {
            reader.turn();
            other.turn();
            let owned = (reader.owned.len(), other.owned.len());
            if owned == (2, 2) { Ok(()) } else { Err(format!("{owned:?}")) }
        });
        reader
    }
}

/// A container that is restarted rejoins as the member that it was, and nobody else is disturbed.
#[test]
fn a_static_member_that_comes_back_disturbs_nobody() {
    let bed = Bed::new("static", 4).with_long_session();
    let mut stays = Reader::join(&bed, "stays", 4);
    let first = Reader::join_beside(&bed, "returns", &mut stays);
    let (before, kept) = (first.owned.clone(), stays.owned.clone());
    drop(first);
    let mut second = Reader::subscribe(&bed, "returns");
    until_true("its partitions to be back", TIMEOUT, || {
        second.turn();
        let events = stays.consumer.poll_events();
        assert_eq!(events, [], "a rebalance reached the other member");
        second.owned.len() == before.len()
    });
    assert_eq!((second.owned, stays.owned), (before, kept));
}

/// At once: a heartbeat may tell of it later, or never.
#[test]
fn a_member_that_is_fenced_as_it_commits_says_so() {
    let bed = Bed::new("fenced-commit", 2).with_long_session();
    let first = Reader::join(&bed, "twice", 2);
    let mut second = Reader::subscribe(&bed, "twice");
    until_true("the second to have the place of the first", TIMEOUT, || {
        second.turn();
        second.owned.len() == 2
    });
    let committed = first.consumer.commit(&[position(0, 0, "")], TIMEOUT).unwrap();
    assert_eq!(committed[0].outcome, Err(RDKafkaErrorCode::FencedInstanceId));
    let events = first.consumer.poll_events();
    let is_fatal = |event: &GroupEvent| matches!(event, GroupEvent::Error { is_fatal: true, .. });
    assert!(events.iter().any(is_fatal), "{events:?}");
}

#[test]
fn an_offset_that_is_gone_is_an_error_and_never_a_reset() {
    let bed = Bed::new("out-of-range", 2);
    (0..2).for_each(|partition| bed.count_up(partition, 0, 10));
    bed.topics.delete_records(&bed.input, 0, 5);
    let mut reader = Reader::join(&bed, "a", 2);
    until_true("the error", TIMEOUT, || {
        reader.turn();
        !reader.errors.is_empty() && reader.next_of(1) == 10
    });
    assert_eq!(reader.errors, [(0, RDKafkaErrorCode::AutoOffsetReset)]);
    assert_eq!(reader.next_of(0), 0, "read from where the log begins");
}

/// `committed` waits for open transactions, so its answer is the one that a recovery may build on.
#[test]
fn a_transaction_carries_offsets_and_their_metadata() {
    let bed = Bed::new("transaction", 1);
    let config = bed.config();
    let (log, output) = (config.repartition_topic().as_str(), config.output.topic.as_str());
    bed.topics.create_topic(log, 2, &[]);
    if bed.topics.partitions_of(output).is_none() {
        bed.topics.create_topic(output, 1, &[]);
    }
    let consumer = bed.clients("a").aggregate_consumer().unwrap();
    let mut queue = consumer.message_queue();
    consumer.subscribe().unwrap();
    let membership = assigned(&consumer, &mut queue);
    let producer = bed.clients("a").transactional_producer().unwrap();
    producer.init_transactions(TIMEOUT).unwrap();
    let metadata = "x".repeat(4_000);

    for (offset, commits) in [(3, true), (9, false)] {
        producer.begin_transaction().unwrap();
        let record: BaseRecord<'_, str, str, usize> =
            BaseRecord::with_opaque_to(output, 0).key(bed.monitor.as_str()).payload("result");
        producer.send(record).map_err(|(e, _)| e).unwrap();
        until_true("the result to arrive", TIMEOUT, || {
            producer.poll(POLL);
            producer.in_flight_count() == 0
        });
        let positions = consumer.positions(&[position(1, offset, &metadata)]).unwrap();
        producer.send_offsets_to_transaction(&positions, &membership, TIMEOUT).unwrap();
        if commits {
            producer.commit_transaction(TIMEOUT).unwrap();
        } else {
            producer.abort_transaction(TIMEOUT).unwrap();
        }
    }
    let committed = consumer.committed(&[0, 1], TIMEOUT).unwrap();
    assert_eq!(committed[0].value, None);
    let value = committed[1].value.as_ref().unwrap();
    assert_eq!((value.offset, value.metadata.as_str()), (3, metadata.as_str()));
    let results = bed.topics.read_all(output, Isolation::ReadCommitted);
    let mine = results.iter().filter(|record| record.key.as_deref() == Some(bed.monitor.as_bytes()));
    assert_eq!(mine.count(), 1);
}

/// Answers the assignment and gives the membership that was true at that moment.
fn assigned(consumer: &GroupConsumer, queue: &mut MessageQueue) -> rdkafka::consumer::ConsumerGroupMetadata {
    until("the assignment", TIMEOUT, || {
        for event in consumer.poll_events() {
            if matches!(event, GroupEvent::Assigned(_)) {
                let membership = consumer.group_metadata().unwrap();
                consumer.assign(queue, &[]).unwrap();
                return Ok(membership);
            }
        }
        Err("none yet")
    })
}

/// Membership of an earlier generation must not commit: that is what keeps a zombie's results out.
#[test]
fn a_transaction_of_an_earlier_generation_is_refused() {
    let bed = Bed::new("generation", 1);
    let log = bed.config().repartition_topic().to_string();
    bed.topics.create_topic(&log, 2, &[]);
    let first = bed.clients("a").aggregate_consumer().unwrap();
    let mut first_queue = first.message_queue();
    first.subscribe().unwrap();
    let before = assigned(&first, &mut first_queue);
    let second = bed.clients("b").aggregate_consumer().unwrap();
    second.subscribe().unwrap();
    let mut second_queue = second.message_queue();
    until_true("the second member to get its part", TIMEOUT, || {
        for event in first.poll_events() {
            match event {
                GroupEvent::Assigned(_) => first.assign(&mut first_queue, &[]).unwrap(),
                GroupEvent::Revoked(_) | GroupEvent::Lost(_) => {
                    first.unassign(&mut first_queue, &[]).unwrap();
                }
                _ => {}
            }
        }
        let mut has_joined = false;
        for event in second.poll_events() {
            if let GroupEvent::Assigned(partitions) = event {
                second.assign(&mut second_queue, &[]).unwrap();
                has_joined = !partitions.is_empty();
            }
        }
        has_joined
    });
    let producer = bed.clients("a").transactional_producer().unwrap();
    producer.init_transactions(TIMEOUT).unwrap();
    producer.begin_transaction().unwrap();
    let positions = first.positions(&[position(0, 5, "")]).unwrap();
    let refused = producer.send_offsets_to_transaction(&positions, &before, TIMEOUT).unwrap_err();
    assert_eq!(refused.rdkafka_error_code(), Some(RDKafkaErrorCode::IllegalGeneration), "{refused}");
    producer.abort_transaction(TIMEOUT).unwrap();
    assert!(bed.topics.committed(bed.config().aggregate_group().as_str(), &log).is_empty());
}

/// The second producer of the same name takes over: the first can't commit any more.
/// The group's coordinator dies between a transaction's beginning and its offsets, and librdkafka never asks for another one.
#[test]
fn offsets_for_a_coordinator_that_is_gone_do_not_hold_the_loop() {
    let limit = Duration::from_secs(5);
    let kafka = Kafka::builder().brokers(3).property("offsets.topic.num.partitions", "1").start();
    let bed = Bed::on(&kafka, "coordinator", 1).with_long_session();
    let config = bed.config();
    bed.topics.create_topic(config.repartition_topic().as_str(), 1, &[]);
    let consumer = bed.clients("a").aggregate_consumer().unwrap();
    let mut queue = consumer.message_queue();
    consumer.subscribe().unwrap();
    let membership = Arc::new(assigned(&consumer, &mut queue));
    let make = || Transactions::new(bed.clients("a").transactional_producer().unwrap()).unwrap();
    let transact = |transactions: &Transactions, offset: i64| {
        transactions.producer().begin_transaction().unwrap();
        let positions = consumer.positions(&[position(0, offset, "")]).unwrap();
        transactions.send_offsets(positions, &membership, limit)
    };

    let first = make();
    first.init(TIMEOUT).unwrap();
    // It knows the coordinator now.
    transact(&first, 1).unwrap();
    first.commit(TIMEOUT).unwrap();
    let coordinator = || usize::try_from(bed.topics.leader_of("__consumer_offsets", 0)).ok();
    let dead = coordinator().unwrap();
    kafka.kill_broker(dead);
    until_true("another coordinator", TIMEOUT, || coordinator().is_some_and(|broker| broker != dead));
    // The client hears of what brokers there are, and forgets the one that is gone.
    first.producer().client().fetch_metadata(None, limit).unwrap();
    let began = Instant::now();
    let sent = transact(&first, 2);
    assert!(began.elapsed() < limit * 2, "{sent:?} after {:?}", began.elapsed());
    // Whether librdkafka has noticed by itself is its own affair; if not, it is of no more use.
    if first.is_stuck() {
        let refused = first.commit(limit).unwrap_err().to_string();
        assert!(refused.contains("has not ended"), "{refused}");
    }
    drop(first);

    until("a transaction with offsets", TIMEOUT, || {
        let second = make();
        second.init(TIMEOUT)?;
        transact(&second, 3)?;
        second.commit(TIMEOUT)
    });
    let committed = consumer.committed(&[0], TIMEOUT).unwrap();
    assert_eq!(committed[0].value.as_ref().unwrap().offset, 3);
}

/// `limits.rs` has what becomes of it if the same producer goes on.
#[test]
fn a_late_copy_of_a_commit_does_nothing_to_the_producer_that_follows() {
    let kafka = Kafka::builder().with_proxies().start();
    let bed = Bed::on(&kafka, "late-commit", 1);
    let committed = || bed.topics.read_all(&bed.input, Isolation::ReadCommitted).len();
    let make = || {
        let config = bed.config_with(&kafka.bootstrap_through_proxies());
        let clients = Clients::new(&config, "a", &Health::new());
        let transactions = Transactions::new(clients.transactional_producer().unwrap()).unwrap();
        transactions.init(TIMEOUT).unwrap();
        transactions
    };
    let write = |transactions: &Transactions| {
        transactions.producer().begin_transaction().unwrap();
        let record: BaseRecord<'_, str, str, usize> =
            BaseRecord::with_opaque_to(bed.input.as_str(), 0).key("k").payload("a result");
        transactions.producer().send(record).map_err(|(e, _)| e).unwrap();
        until_true("the result to arrive", TIMEOUT, || {
            transactions.producer().poll(POLL);
            transactions.producer().in_flight_count() == 0
        });
    };

    let first = make();
    write(&first);
    assert!(!first.may_have_late_requests());
    first.commit(TIMEOUT).unwrap();
    assert!(!first.may_have_late_requests());
    write(&first);
    let proxy = kafka.proxies().next().unwrap();
    proxy.next_end(EndTxn::Late);
    first.commit(TIMEOUT).unwrap();
    assert_eq!((proxy.ends_met(), proxy.ends_passed()), (1, 0));
    assert!(first.may_have_late_requests());
    drop(first);

    let second = make();
    write(&second);
    proxy.pass_late_end();
    until_true("the late request to be passed on", TIMEOUT, || proxy.ends_passed() == 1);
    // Whatever the broker does with it, it has done when it answers to what comes later.
    second.producer().abort_transaction(TIMEOUT).unwrap();
    assert_eq!(committed(), 2);
}

#[test]
fn a_restarted_pod_fences_the_producer_of_its_predecessor() {
    let bed = Bed::new("fenced", 1);
    let old = bed.clients("a").transactional_producer().unwrap();
    old.init_transactions(TIMEOUT).unwrap();
    old.begin_transaction().unwrap();
    let record: BaseRecord<'_, str, str, usize> =
        BaseRecord::with_opaque_to(bed.input.as_str(), 0).key("k").payload("of the old one");
    old.send(record).map_err(|(e, _)| e).unwrap();
    until_true("the record to arrive", TIMEOUT, || {
        old.poll(POLL);
        old.in_flight_count() == 0
    });
    let new = bed.clients("a").transactional_producer().unwrap();
    new.init_transactions(TIMEOUT).unwrap();
    let refused = old.commit_transaction(TIMEOUT).unwrap_err();
    assert!(!matches!(refused.rdkafka_error_code(), Some(RDKafkaErrorCode::OperationTimedOut)), "{refused}");
    assert!(bed.topics.read_all(&bed.input, Isolation::ReadCommitted).is_empty());
}

#[test]
fn a_topic_made_again_has_another_id() {
    let bed = Bed::new("topic-id", 3);
    let clients = bed.clients("a");
    let config = bed.config();
    let observer = clients.observer(config.scan_group()).unwrap();
    let admin = clients.admin().unwrap();
    let first = observer.describe_topic(&bed.input, TIMEOUT).unwrap().unwrap();
    assert_eq!((first.partitions, first.topic_id == [0; 16]), (3, false));
    assert_eq!(admin.describe_topic(&bed.input, TIMEOUT).unwrap(), Some(first));

    bed.topics.delete_topic(&bed.input);
    let describe = || observer.describe_topic(&bed.input, TIMEOUT).unwrap();
    until_true("the observer to see that it is gone", TIMEOUT, || describe().is_none());
    bed.topics.create_topic(&bed.input, 5, &[]);
    let second = until("the observer to see the new one", TIMEOUT, || describe().ok_or("no topic"));
    assert_eq!(second.partitions, 5);
    assert_ne!(second.topic_id, first.topic_id);
}

#[test]
fn deleted_records_move_the_start_and_nothing_else() {
    let bed = Bed::new("purged", 2);
    (0..2).for_each(|partition| bed.count_up(partition, 0, 10));
    let clients = bed.clients("a");
    let observer = clients.observer(bed.config().scan_group()).unwrap();
    let purged = clients.admin().unwrap().delete_records(&bed.input, &[(1, 7)], TIMEOUT).unwrap();
    assert_eq!(purged.len(), 1);
    assert_eq!((purged[0].partition, &purged[0].outcome), (1, &Ok(7)));
    let ends = observer.watermarks(&bed.input, &[0, 1], TIMEOUT).unwrap();
    let ends: Vec<_> = ends.iter().map(|ends| (ends.partition, ends.low, ends.high)).collect();
    assert_eq!(ends, [(0, 0, 10), (1, 7, 10)]);
    // Beyond the end: refused, and nothing is deleted.
    let beyond = clients.admin().unwrap().delete_records(&bed.input, &[(0, 11)], TIMEOUT);
    assert!(beyond.is_err() || beyond.unwrap()[0].outcome.is_err());
    assert_eq!(observer.watermarks(&bed.input, &[0], TIMEOUT).unwrap()[0].low, 0);
}
