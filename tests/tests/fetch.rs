//! The direct path against real brokers: every record once and in order, whatever brokers and logs do meanwhile.
//!
//! Responsible for what `worker/src/fetch.rs` promises. What a worker makes of it is in the other tests, which all run
//! with the direct path.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crashmonitor_core::config::{Config, InputReader};
use crashmonitor_core::ids::TopicId;
use crashmonitor_testbed::monitor::{Monitor, crash};
use crashmonitor_testbed::topics::Position;
use crashmonitor_testbed::{Isolation, Kafka, NewRecord, Topics, shared, until, until_true};
use crashmonitor_worker::fetch::Fetcher;
use crashmonitor_worker::kafka::Health;
use crashmonitor_worker::kafka::client::Clients;
use crashmonitor_worker::reader::Item;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// A topic and what reads it.
struct Bed<'k> {
    kafka: &'k Kafka,
    input: String,
    topic: TopicId,
    fetcher: Fetcher,
    /// By partition: offset and value of what was read, in the order of its coming.
    read: BTreeMap<i32, Vec<(i64, String)>>,
    reached: BTreeMap<i32, i64>,
    out_of_range: BTreeSet<i32>,
    errors: Vec<String>,
}

impl<'k> Bed<'k> {
    fn new(kafka: &'k Kafka, name: &str, partitions: i32) -> Bed<'k> {
        let input = shared::unique(name);
        kafka.topics().create_topic(&input, partitions, &[]);
        Bed::reading(kafka, input, "")
    }

    /// With responses so small that a partition of some ten thousand records takes many.
    fn with_small_responses(name: &str) -> Bed<'static> {
        let input = shared::unique(name);
        shared::kafka().topics().create_topic(&input, 2, &[]);
        Bed::reading(shared::kafka(), input, ", config: {max.partition.fetch.bytes: 1000}")
    }

    /// With further keys of `kafka`.
    fn reading(kafka: &'k Kafka, input: String, further: &str) -> Bed<'k> {
        let config = Config::parse(&format!(
            "monitor: {{namespace: test, name: fetch, uid: u}}\n\
             kafka: {{bootstrapServers: '{}'{further}}}\ninput: {{topic: {input}}}\n",
            kafka.bootstrap()
        ));
        let config = config.unwrap();
        let clients = Clients::new(&config, "fetch-0", &Health::new());
        let observer = clients.observer(config.scan_group()).unwrap();
        let facts = observer.describe_topic(&input, TIMEOUT).unwrap().unwrap();
        let fetcher = Fetcher::new(clients.fetch_settings(0).unwrap()).unwrap();
        Bed {
            kafka,
            input,
            topic: TopicId(facts.topic_id),
            fetcher,
            read: BTreeMap::new(),
            reached: BTreeMap::new(),
            out_of_range: BTreeSet::new(),
            errors: Vec::new(),
        }
    }

    fn topics(&self) -> &'k Topics {
        self.kafka.topics()
    }

    fn start(&mut self, partition: i32, offset: i64) {
        self.fetcher.start(self.topic, &[(partition, offset)]);
    }

    fn turn(&mut self) {
        let Bed { fetcher, read, reached, out_of_range, errors, .. } = self;
        let taken: Result<(), String> = fetcher.poll(POLL, &mut |item| {
            match item {
                Item::Record { partition, offset, value, .. } => {
                    let value = String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
                    read.entry(partition).or_default().push((offset, value));
                }
                Item::Reached { partition, offset } => drop(reached.insert(partition, offset)),
                Item::OutOfRange { partition } => drop(out_of_range.insert(partition)),
                Item::Error { text, .. } => errors.push(text),
                Item::Unsupported { reason } => return Err(reason),
            }
            Ok(())
        });
        taken.unwrap();
    }

    /// Reads until the partition's end, as committed readers see it, is reached.
    #[track_caller]
    fn read_to_end(&mut self, partition: i32) {
        let (_, end) = self.topics().offsets(&self.input, Isolation::ReadCommitted)[&partition];
        self.read_to(partition, end);
    }

    #[track_caller]
    fn read_to(&mut self, partition: i32, end: i64) {
        until(&format!("offset {end} of partition {partition}"), TIMEOUT, || {
            self.turn();
            let reached = self.reached.get(&partition).copied().unwrap_or_default();
            if reached >= end { Ok(()) } else { Err(format!("{reached}, errors {:?}", self.errors)) }
        });
    }

    /// Fills an empty partition with `count` records, each having its offset for a value.
    fn count_up(&self, partition: i32, count: i64) {
        self.count_on(partition, 0, count);
    }

    /// Goes on at `end`, the partition's.
    fn count_on(&self, partition: i32, end: i64, count: i64) {
        let records: Vec<NewRecord> =
            (end..end + count).map(|number| NewRecord::new(number.to_string()).to(partition)).collect();
        // In batches of some hundred, as a producer writes them that does not have everything at once.
        self.topics().produce_with(&self.input, &records, &[("batch.num.messages", "500")]);
    }

    /// Every record from `from` on was read once, in order, with the value that it was written with.
    #[track_caller]
    fn is_whole(&self, partition: i32, from: i64, to: i64) {
        let expected: Vec<(i64, String)> = (from..to).map(|offset| (offset, offset.to_string())).collect();
        let read = self.read.get(&partition).cloned().unwrap_or_default();
        assert!(read == expected, "{} records of partition {partition}, expected {from} to {to}", read.len());
    }
}

fn texts(range: std::ops::Range<u64>, what: &str) -> Vec<String> {
    range.map(|number| format!("{what} {number} {}", "filling ".repeat(20))).collect()
}

#[test]
fn every_compression_is_read_as_it_was_written() {
    let mut bed = Bed::new(shared::kafka(), "codecs", 5);
    for (partition, codec) in (0..).zip(["none", "gzip", "snappy", "lz4", "zstd"]) {
        let values = texts(0..5_000, codec);
        let records: Vec<NewRecord> =
            values.iter().map(|value| NewRecord::new(value).to(partition)).collect();
        bed.topics().produce_compressed(&bed.input, &records, codec);
        bed.start(partition, 0);
        bed.read_to_end(partition);
        let expected: Vec<(i64, String)> = (0..).zip(values).collect();
        assert!(bed.read[&partition] == expected, "{codec}");
    }
}

#[test]
fn a_start_in_the_middle_of_a_batch_begins_there() {
    let mut bed = Bed::new(shared::kafka(), "middle", 1);
    bed.count_up(0, 5_000);
    bed.start(0, 1_234);
    bed.read_to_end(0);
    bed.is_whole(0, 1_234, 5_000);
}

#[test]
fn aborted_records_are_left_out_and_open_transactions_hold_what_is_behind_them() {
    let mut bed = Bed::new(shared::kafka(), "transactions", 1);
    let numbered =
        |what: &str| texts(0..300, what).iter().map(|v| NewRecord::new(v).to(0)).collect::<Vec<_>>();
    let transaction = |name: &str| bed.topics().transaction(&shared::unique(name), TIMEOUT);
    let mut written: Vec<Position> = Vec::new();
    let aborted = transaction("aborted");
    let interleaved = transaction("interleaved");
    aborted.produce(&bed.input, &numbered("aborted"));
    written.extend(interleaved.produce(&bed.input, &numbered("kept")));
    aborted.produce(&bed.input, &numbered("aborted"));
    aborted.abort();
    written.extend(interleaved.produce(&bed.input, &numbered("kept")));
    interleaved.commit();
    written.extend(bed.topics().produce(&bed.input, &numbered("plain")));
    let open = transaction("open");
    let of_open = open.produce(&bed.input, &numbered("open"));
    let behind = bed.topics().produce(&bed.input, &numbered("behind"));

    bed.start(0, 0);
    bed.read_to_end(0);
    let offsets = |positions: &[Position]| positions.iter().map(|p| p.offset).collect::<Vec<_>>();
    let read = |bed: &Bed<'_>| bed.read[&0].iter().map(|(offset, _)| *offset).collect::<Vec<_>>();
    assert_eq!(bed.reached[&0], of_open[0].offset);
    assert_eq!(read(&bed), offsets(&written));

    open.commit();
    written.extend(of_open);
    written.extend(behind);
    // The open one's marker is behind all records, and is read over.
    bed.read_to_end(0);
    assert_eq!(read(&bed), offsets(&written));
}

#[test]
fn an_offset_that_is_not_in_the_log_is_reported_and_stops_its_partition_alone() {
    let mut bed = Bed::new(shared::kafka(), "range", 3);
    for partition in 0..3 {
        bed.count_up(partition, 100);
    }
    bed.topics().delete_records(&bed.input, 0, 50);
    bed.start(0, 49);
    bed.start(1, 101);
    bed.start(2, 0);
    until_true("both to be reported", TIMEOUT, || {
        bed.turn();
        bed.out_of_range == BTreeSet::from([0, 1])
    });
    bed.read_to_end(2);
    bed.is_whole(2, 0, 100);
    assert!(!bed.read.contains_key(&0) && !bed.read.contains_key(&1));
    bed.start(0, 50);
    bed.read_to_end(0);
    bed.is_whole(0, 50, 100);
}

#[test]
fn what_was_stopped_is_not_delivered_any_more() {
    let mut bed = Bed::with_small_responses("stopped");
    bed.count_up(0, 60_000);
    bed.count_up(1, 10);
    bed.start(0, 0);
    until_true("a first chunk", TIMEOUT, || {
        bed.turn();
        bed.read.contains_key(&0)
    });
    // More has been fetched by now, and is thrown away.
    bed.fetcher.stop(&[0]);
    let read = bed.read[&0].len();
    bed.start(1, 0);
    bed.read_to_end(1);
    assert_eq!(bed.read[&0].len(), read);
}

#[test]
fn a_pause_repeats_and_loses_nothing() {
    let mut bed = Bed::with_small_responses("paused");
    bed.count_up(0, 60_000);
    bed.count_up(1, 10);
    bed.start(0, 0);
    for _ in 0..5 {
        let read = bed.read.get(&0).map_or(0, Vec::len);
        until_true("a chunk", TIMEOUT, || {
            bed.turn();
            bed.read.get(&0).map_or(0, Vec::len) > read
        });
        bed.fetcher.pause(&[0]);
        let read = bed.read[&0].len();
        bed.read.remove(&1);
        bed.reached.remove(&1);
        bed.start(1, 0);
        bed.read_to_end(1);
        assert_eq!(bed.read[&0].len(), read, "paused");
        bed.fetcher.resume(&[0]);
    }
    bed.read_to_end(0);
    bed.is_whole(0, 0, 60_000);
}

#[test]
fn records_of_a_topic_that_was_made_again_are_not_taken_for_the_old_ones() {
    let mut bed = Bed::new(shared::kafka(), "again", 1);
    bed.count_up(0, 10);
    bed.start(0, 0);
    bed.read_to_end(0);
    bed.topics().delete_topic(&bed.input);
    bed.topics().create_topic(&bed.input, 1, &[]);
    bed.count_up(0, 100);
    // A reader that knows the new one reads it; by then the old one would have read too.
    let mut new = Bed::reading(bed.kafka, bed.input.clone(), "");
    new.start(0, 0);
    new.read_to_end(0);
    bed.turn();
    bed.is_whole(0, 0, 10);
    new.is_whole(0, 0, 100);
}

#[test]
fn leaders_that_stop_die_and_hang_cost_no_record() {
    const PARTITIONS: [i32; 6] = [0, 1, 2, 3, 4, 5];
    let kafka = Kafka::builder().brokers(3).start();
    let mut bed = Bed::new(&kafka, "leaders", 6);
    let mut written = 0;
    let mut write = |bed: &Bed<'_>| {
        PARTITIONS.iter().for_each(|&partition| bed.count_on(partition, written, 500));
        written += 500;
        written
    };
    write(&bed);
    PARTITIONS.iter().for_each(|&partition| bed.start(partition, 0));
    let read = |bed: &mut Bed<'_>, end| PARTITIONS.iter().for_each(|&partition| bed.read_to(partition, end));
    read(&mut bed, 500);
    kafka.stop_broker(0);
    let end = write(&bed);
    read(&mut bed, end);
    kafka.start_broker(0);
    kafka.kill_broker(1);
    let end = write(&bed);
    read(&mut bed, end);
    kafka.start_broker(1);
    // What is there when a broker hangs is read from those that follow it, though its connections stay.
    bed.fetcher.pause(&PARTITIONS);
    let end = write(&bed);
    kafka.pause_broker(2);
    bed.fetcher.resume(&PARTITIONS);
    read(&mut bed, end);
    kafka.resume_broker(2);
    let end = write(&bed);
    read(&mut bed, end);
    for partition in PARTITIONS {
        bed.is_whole(partition, 0, end);
    }
    assert!(bed.errors.is_empty(), "{:?}", bed.errors);
}

#[test]
fn a_replica_in_our_rack_is_read_from() {
    let selector = "org.apache.kafka.common.replica.RackAwareReplicaSelector";
    let kafka = Kafka::builder().brokers(2).racks().property("replica.selector.class", selector).start();
    let monitor =
        Monitor::new(&kafka, "rack").set("output.mode", "Final").set("worker.inputReader", "Direct");
    // Whoever leads, the other broker's rack is asked for.
    monitor.create_input(1);
    let leader = kafka.topics().leader_of(monitor.input(), 0);
    let other = 1 - leader;
    let monitor = monitor.set("kafka.config", serde_json::json!({"client.rack": format!("rack-{other}")}));
    monitor.write(0, &vec![crash(20_000, "ann"); 3]);
    let workers = monitor.start_workers(1);
    monitor.advance(100_000);
    monitor.await_closed(&workers, 30_000, TIMEOUT);
    let log = workers[0].log();
    Monitor::stop(&workers);
    assert!(log.contains(&format!("reading the input broker={other}")), "{log}");
    assert_eq!(monitor.results(), [(20_000, "ann".to_owned(), 3)]);
}

/// Runs a monitor whose worker can't take the direct path, and gives its log.
fn falls_back(monitor: &Monitor<'_>) -> String {
    let monitor = monitor.clone().set("worker.inputReader", "Direct");
    monitor.create_input(1);
    monitor.write(0, &vec![crash(20_000, "ann"); 3]);
    let workers = monitor.start_workers(1);
    monitor.advance(100_000);
    monitor.await_closed(&workers, 30_000, TIMEOUT);
    Monitor::stop(&workers);
    assert_eq!(monitor.results(), [(20_000, "ann".to_owned(), 3)]);
    workers[0].log()
}

#[test]
fn a_setting_that_only_librdkafka_knows_is_left_to_it() {
    let monitor = Monitor::new(shared::kafka(), "setting").set("output.mode", "Final");
    let log = falls_back(&monitor.set("kafka.config", serde_json::json!({"broker.address.family": "v4"})));
    assert!(log.contains("through librdkafka: kafka.config.broker.address.family"), "{log}");
}

#[test]
fn a_certificate_that_only_librdkafka_takes_is_left_to_it() {
    use crashmonitor_testbed::kafka::Security;
    let kafka = Kafka::builder().listener(Security::Ssl).with_authority_as_server().start();
    let monitor = Monitor::new(&kafka, "certificate")
        .set("output.mode", "Final")
        .set("kafka.bootstrapServers", kafka.bootstrap_of(Security::Ssl))
        .set("kafka.tls", serde_json::json!({"caFiles": [kafka.authority().to_str()]}));
    let log = falls_back(&monitor);
    assert!(log.contains("through librdkafka from here on: TLS: "), "{log}");
}

#[test]
fn the_direct_path_is_the_default() {
    let config =
        "monitor: {namespace: a, name: b, uid: c}\nkafka: {bootstrapServers: 'k:1'}\ninput: {topic: t}";
    assert_eq!(Config::parse(config).unwrap().worker.input_reader, InputReader::Direct);
}
