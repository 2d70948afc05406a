//! What lies at the edges of the semantics, each against a real broker: records that can't be read, odd users, odd
//! JSON, values that are absent, compression, transactions, compaction, new partitions, retention, starting offsets,
//! clocks, silence, and the shape of what is written.
//!
//! Nothing here depends on the wall clock, except where the wall clock is what a test is about.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crashmonitor_testbed::monitor::{Monitor, crash, now_ms, record};
use crashmonitor_testbed::topics::Position;
use crashmonitor_testbed::{Isolation, NewRecord, Record, Worker, shared, until};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);

/// 2026-01-11 14:42:50, the start of an interval.
const T: i64 = 1_768_142_570_000;

type ResultRow = (i64, String, u64);

/// A monitor that writes an interval's results as soon as event time reaches its end.
fn monitor(name: &str) -> Monitor<'static> {
    Monitor::new(shared::kafka(), name)
        .set("output.mode", "Final")
        .set("window.allowedLateness", "0s")
        .set("window.maxOutOfOrderness", "0s")
        // No source is ever idle: only records move event time on.
        .set("window.idleTimeout", "1h")
}

/// A monitor with a running worker.
fn running(name: &str, partitions: i32) -> (Monitor<'static>, Vec<Worker>) {
    started(monitor(name), partitions)
}

/// A running worker for a monitor.
fn started(monitor: Monitor<'static>, partitions: i32) -> (Monitor<'static>, Vec<Worker>) {
    monitor.create_input(partitions);
    let workers = monitor.start_workers(1);
    (monitor, workers)
}

fn result(start_ms: i64, user: &str, count: u64) -> ResultRow {
    (start_ms, user.to_owned(), count)
}

/// Moves event time on until the intervals up to `end_ms` are closed, and gives what was written once the workers have
/// ended.
fn results_through(monitor: &Monitor<'_>, workers: &[Worker], end_ms: i64) -> Vec<ResultRow> {
    monitor.advance(end_ms);
    monitor.await_closed(workers, end_ms, TIMEOUT);
    Monitor::stop(workers);
    Monitor::assert_no_fallback(workers);
    monitor.results()
}

fn await_status(worker: &Worker, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    until(&format!("{what} in /status of {}", worker.name()), TIMEOUT, || {
        let status = worker.try_status()?;
        if holds(&status) { Ok(status) } else { Err(format!("{status}\n{}", worker.log_tail())) }
    })
}

fn await_metric(worker: &Worker, name: &str, value: f64) {
    until(&format!("{name} to be {value}"), TIMEOUT, || match worker.metric(name) {
        Some(found) if found == value => Ok(()),
        found => Err(format!("{found:?}\n{}", worker.log_tail())),
    });
}

/// Waits until the worker reads all partitions of the input.
fn await_claimed(worker: &Worker, partitions: usize) {
    await_status(worker, "all partitions", |status| {
        status["input"].as_object().is_some_and(|input| input.len() == partitions)
    });
}

/// Waits until the input partition is idle: at its end, and silent for long enough.
fn await_idle(worker: &Worker, partition: &str) {
    await_status(worker, &format!("partition {partition} idle"), |status| {
        status["input"][partition]["state"] == "Idle"
    });
}

fn three(time_ms: i64, user: &str) -> Vec<String> {
    vec![crash(time_ms, user); 3]
}

/// A crash record as text with fields replaced, or left out where there is `None`.
fn crash_with(changes: &[(&str, Option<&str>)]) -> String {
    let time = T.to_string();
    let fields = [
        ("timestamp", &*time),
        ("severity", r#""High""#),
        ("user_id", r#""ann""#),
        ("content", r#""a crash""#),
    ];
    let changed = fields.map(|(field, value)| {
        let change = changes.iter().find(|(name, _)| *name == field);
        (field, change.map_or(Some(value), |(_, value)| *value))
    });
    let texts = changed.into_iter().filter_map(|(field, value)| Some(format!("\"{field}\":{}", value?)));
    format!("{{{}}}", texts.collect::<Vec<_>>().join(","))
}

// ---- Records that can't be read ----

/// Values that can't be judged, with the reason that they must be given.
fn unreadable() -> Vec<(&'static str, Vec<u8>)> {
    let with = |field, value| crash_with(&[(field, value)]).into_bytes();
    let truncated = crash(T, "ann");
    let in_11_minutes = (now_ms() + 660_000).to_string();
    let long_user = format!("\"{}\"", "x".repeat(1_025));
    vec![
        ("not-json", b"panic: session crash at 0x7f3a".to_vec()),
        ("not-json", truncated.as_bytes()[..truncated.len() - 2].to_vec()),
        ("not-json", b"{\"timestamp\":1,\"content\":\"crash \xff\"}".to_vec()),
        ("not-json", [crash(T, "ann"), crash(T, "ann")].concat().into_bytes()),
        ("not-an-object", format!("[{}]", crash(T, "ann")).into_bytes()),
        ("not-an-object", b"\"crash\"".to_vec()),
        ("timestamp-missing", with("timestamp", None)),
        ("timestamp-not-integer", with("timestamp", Some("\"1768142570000\""))),
        ("timestamp-not-integer", with("timestamp", Some("1768142570000.5"))),
        ("timestamp-not-integer", with("timestamp", Some("null"))),
        ("timestamp-negative", with("timestamp", Some("-1"))),
        ("timestamp-too-large", with("timestamp", Some("253402300800000"))),
        ("timestamp-in-future", with("timestamp", Some(&in_11_minutes))),
        ("severity-missing", with("severity", None)),
        ("severity-not-string", with("severity", Some("2"))),
        ("severity-not-string", with("severity", Some("null"))),
        ("user-id-missing", with("user_id", None)),
        ("user-id-not-string", with("user_id", Some("1234"))),
        ("user-id-not-string", with("user_id", Some("[\"ann\"]"))),
        ("user-id-too-long", with("user_id", Some(&long_user))),
    ]
}

/// A dead letter: its input position, reason, key and value.
type DeadLetter = (Position, String, Option<Vec<u8>>, Vec<u8>);

fn dead_letter(record: &Record) -> DeadLetter {
    let header = |name| record.header(name).unwrap_or_else(|| panic!("{record:?} has no header {name}"));
    let partition = header("crashmonitor.partition").parse().unwrap();
    let offset = header("crashmonitor.offset").parse().unwrap();
    let reason = header("crashmonitor.reason").to_owned();
    (Position { partition, offset }, reason, record.key.clone(), record.value.clone().unwrap())
}

#[test]
fn what_cannot_be_read_is_a_dead_letter_with_reason_and_position_and_stalls_nothing() {
    let (monitor, workers) = running("dead-letters", 2);
    let bad = unreadable();
    let mut records: Vec<NewRecord> = Vec::new();
    for (n, (_, value)) in (0..).zip(&bad) {
        let record = NewRecord::new(value).to(n % 2);
        records.push(if n % 3 == 0 { record.key(format!("key-{n}")) } else { record });
    }
    let positions = monitor.produce(&records);
    // Behind them in the same partitions: what is no crash needs neither severity nor user, and what is one counts.
    let harmless =
        crash_with(&[("severity", None), ("user_id", None), ("content", Some(r#""all is well""#))]);
    monitor.spread(&[harmless.clone(), harmless]);
    monitor.spread(&three(T, "ann"));

    let mut by_reason: BTreeMap<&str, u32> = BTreeMap::new();
    bad.iter().for_each(|(reason, _)| *by_reason.entry(reason).or_default() += 1);
    for (reason, count) in by_reason {
        let metric = format!("crashmonitor_dead_letters_total{{reason=\"{reason}\"}}");
        await_metric(&workers[0], &metric, f64::from(count));
    }
    let total = bad.len() as u64;
    await_status(&workers[0], "dead letters", |status| status["totals"]["deadLetters"] == total);
    assert_eq!(results_through(&monitor, &workers, T + 10_000), [result(T, "ann", 3)]);

    let letters: BTreeSet<DeadLetter> = monitor.dead_letters().iter().map(dead_letter).collect();
    let expected = bad.iter().zip(&records).zip(&positions);
    let expected = expected.map(|(((reason, value), record), position)| {
        (*position, (*reason).to_owned(), record.key.clone(), value.clone())
    });
    assert_eq!(letters, expected.collect());
}

#[test]
fn without_a_dead_letter_topic_what_cannot_be_read_is_only_counted() {
    let monitor = monitor("no-dead-letters").unset("output.deadLetterTopic");
    monitor.create_input(1);
    let workers = monitor.start_workers(1);
    monitor.write(0, &["no JSON".to_owned()]);
    monitor.write(0, &three(T, "ann"));
    await_metric(&workers[0], "crashmonitor_dead_letters_total", 1.0);
    assert_eq!(results_through(&monitor, &workers, T + 10_000), [result(T, "ann", 3)]);
}

#[test]
fn tombstones_and_empty_values_are_counted_and_skipped() {
    let (monitor, workers) = running("empty", 1);
    let empty =
        [NewRecord::tombstone().to(0), NewRecord::new("").to(0), NewRecord::tombstone().key("k").to(0)];
    monitor.produce(&empty);
    monitor.write(0, &three(T, "ann"));
    await_metric(&workers[0], "crashmonitor_empty_records_total", 3.0);
    assert_eq!(results_through(&monitor, &workers, T + 10_000), [result(T, "ann", 3)]);
    assert!(monitor.dead_letters().is_empty());
}

// ---- Users and JSON ----

#[test]
fn users_of_any_name_up_to_1_kib_are_counted() {
    let (monitor, workers) = running("users", 2);
    let names = [
        String::new(),
        " ".to_owned(),
        "\"quoted\" \\ and | barred".to_owned(),
        "späß 用户 🦀".to_owned(),
        "line\nfeed\u{0}and\u{1f}control".to_owned(),
        "x".repeat(1_024),
        "é".repeat(512),
    ];
    let too_long = "é".repeat(512) + "x";
    let log: Vec<String> = names.iter().chain([&too_long]).flat_map(|user| three(T, user)).collect();
    monitor.spread(&log);
    let mut expected: Vec<ResultRow> = names.iter().map(|user| result(T, user, 3)).collect();
    expected.sort();
    assert_eq!(results_through(&monitor, &workers, T + 10_000), expected);
    assert_eq!(monitor.dead_letters().len(), 3);

    let keys = monitor.topics().read_decided(monitor.output());
    let keys: BTreeSet<String> = keys.iter().map(|record| record.key_text().to_owned()).collect();
    assert_eq!(keys, names.iter().map(|user| format!("{user}|{T}")).collect());
}

/// Ways to write a crash of a user. Each is read as a JSON parser reads it.
fn odd_crashes() -> Vec<(&'static str, String)> {
    let of = |user: &'static str, text: &str| (user, text.replace("TIME", &T.to_string()));
    vec![
        of("escaped", r#"{"timestamp":TIME,"severity":"High","user_id":"escaped","content":"cr\u0061sh"}"#),
        of(
            "names",
            r#"{"t\u0069mestamp":TIME,"severit\u0079":"H\u0069gh","user_id":"n\u0061mes","c\u006fntent":"crash"}"#,
        ),
        of("reordered", r#"{"content":"crash","user_id":"reordered","severity":"High","timestamp":TIME}"#),
        of(
            "spaced",
            " \t\r\n{ \"timestamp\" :\tTIME ,\"severity\":\n\"High\",\"user_id\" : \"spaced\",\"content\":\"crash\" } \n",
        ),
        of(
            "last",
            r#"{"timestamp":1,"timestamp":TIME,"severity":"Low","severity":"High","user_id":"first","user_id":"last","content":"fine","content":"crash"}"#,
        ),
        of(
            "extra",
            r#"{"a":[1,{"b":null}],"timestamp":TIME,"severity":"High","user_id":"extra","content":"crash","z":1e3}"#,
        ),
        of("upper", r#"{"timestamp":TIME,"severity":"High","user_id":"upper","content":"it CraSHed"}"#),
    ]
}

/// Records that are no crash, although the word is in them.
fn no_crashes() -> Vec<String> {
    let texts = [
        r#"{"timestamp":TIME,"severity":"High","user_id":"none","content":"fine","nested":{"content":"crash"}}"#,
        r#"{"timestamp":TIME,"severity":"High","user_id":"none","content":{"content":"crash"}}"#,
        r#"{"timestamp":TIME,"severity":"High","user_id":"none","content":["crash"]}"#,
        r#"{"timestamp":TIME,"severity":"High","user_id":"none","content":"crash","content":"fine"}"#,
        r#"{"timestamp":TIME,"severity":"High","user_id":"none","contents":"crash","crash":"crash"}"#,
        r#"{"timestamp":TIME,"severity":"High","user_id":"none","Content":"crash"}"#,
        r#"{"timestamp":TIME,"severity":"High","severity":"Low","user_id":"none","content":"crash"}"#,
    ];
    texts.map(|text| text.replace("TIME", &T.to_string())).to_vec()
}

#[test]
fn only_the_value_of_the_top_level_content_counts_as_a_json_parser_reads_it() {
    let (monitor, workers) = running("json", 2);
    let crashes = odd_crashes();
    for _ in 0..3 {
        monitor.spread(&crashes.iter().map(|(_, text)| text.clone()).collect::<Vec<_>>());
        monitor.spread(&no_crashes());
    }
    let mut expected: Vec<ResultRow> = crashes.iter().map(|(user, _)| result(T, user, 3)).collect();
    expected.sort();
    assert_eq!(results_through(&monitor, &workers, T + 10_000), expected);
    assert!(monitor.dead_letters().is_empty());
}

// ---- What brokers do to a log ----

/// What lies in a log is read alike by both readers.
const LIBRDKAFKA: (&str, &str) = ("worker.inputReader", "Librdkafka");

#[test]
fn compressed_batches_are_read() {
    compressed_batches(monitor("codecs"));
}

#[test]
fn compressed_batches_are_read_through_librdkafka() {
    compressed_batches(monitor("codecs").set(LIBRDKAFKA.0, LIBRDKAFKA.1));
}

fn compressed_batches(monitor: Monitor<'static>) {
    let (monitor, workers) = started(monitor, 1);
    let codecs = ["gzip", "lz4", "snappy", "zstd"];
    for codec in codecs {
        let records = [crash(T, codec), record(T, "Low", codec, &"fine ".repeat(100)), crash(T, codec)];
        let records = [records.clone(), records].concat();
        let records: Vec<NewRecord> = records.iter().map(|value| NewRecord::new(value).to(0)).collect();
        monitor.topics().produce_compressed(monitor.input(), &records, codec);
    }
    let expected = codecs.map(|codec| result(T, codec, 4));
    assert_eq!(results_through(&monitor, &workers, T + 10_000), expected);
}

fn in_transaction(monitor: &Monitor<'_>, user: &str) -> crashmonitor_testbed::topics::Transaction {
    let transaction = monitor.topics().transaction(&shared::unique("writer"), TIMEOUT);
    let records: Vec<NewRecord> = three(T, user).iter().map(|value| NewRecord::new(value).to(0)).collect();
    transaction.produce(monitor.input(), &records);
    transaction
}

#[test]
fn aborted_records_do_not_count_and_an_open_transaction_holds_event_time() {
    transactions(monitor("transactions"));
}

#[test]
fn the_same_of_transactions_through_librdkafka() {
    transactions(monitor("transactions").set(LIBRDKAFKA.0, LIBRDKAFKA.1));
}

fn transactions(monitor: Monitor<'static>) {
    let monitor = monitor.set("window.idleTimeout", "1s");
    monitor.create_input(2);
    in_transaction(&monitor, "committed").commit();
    in_transaction(&monitor, "aborted").abort();
    let open = in_transaction(&monitor, "open");
    monitor.write(0, &three(T, "behind-it"));
    monitor.advance(T + 10_000);
    // Only now: between two transactions partition 0 is at its end, and might be idle.
    let workers = monitor.start_workers(1);

    // Partition 1 has been silent for long enough to be idle, and has been looked at again since. Partition 0 has been
    // silent as long, but it is not at its end: it holds.
    let first = await_status(&workers[0], "partition 1 idle", |s| s["input"]["1"]["state"] == "Idle");
    let later = first["observedAtMs"].as_i64().unwrap() + 2_500;
    let status = await_status(&workers[0], "a later look", |s| s["observedAtMs"].as_i64() > Some(later));
    assert_ne!(status["input"]["0"]["state"], "Idle", "{status}");
    for shard in status["aggregate"].as_object().unwrap().values() {
        assert_eq!(shard["holder"]["partition"], 0, "{status}");
        assert!(shard["watermarkMs"].as_i64() < Some(T + 10_000), "{status}");
    }
    assert!(monitor.results().is_empty());

    open.commit();
    monitor.await_closed(&workers, T + 10_000, TIMEOUT);
    // What ends with an aborted transaction is read to its end: its marker is behind the last record.
    in_transaction(&monitor, "aborted-too").abort();
    let (_, end) = monitor.topics().offsets(monitor.input(), Isolation::ReadCommitted)[&0];
    await_status(&workers[0], "the end reached", |status| status["input"]["0"]["position"] == end);
    await_idle(&workers[0], "0");
    Monitor::stop(&workers);
    let expected = [result(T, "behind-it", 3), result(T, "committed", 3), result(T, "open", 3)];
    assert_eq!(monitor.results(), expected);
}

#[test]
fn a_compacted_topic_is_read_over_its_holes() {
    compacted(&monitor("compacted"));
}

#[test]
fn a_compacted_topic_is_read_over_its_holes_through_librdkafka() {
    compacted(&monitor("compacted").set(LIBRDKAFKA.0, LIBRDKAFKA.1));
}

fn compacted(monitor: &Monitor<'_>) {
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "1000"),
        ("min.cleanable.dirty.ratio", "0.0001"),
        ("min.compaction.lag.ms", "0"),
        ("max.compaction.lag.ms", "1"),
    ];
    monitor.topics().create_topic(monitor.input(), 1, &settings);
    // Offset 0 is superseded, and so are runs behind it; every fourth record stays.
    let keyed = |n: i64| if n % 4 == 3 { format!("alone-{n}") } else { "the-same".to_owned() };
    let log_record = |n: i64| {
        let user = if n % 4 == 3 { "stays" } else { "superseded" };
        NewRecord::new(crash(T + n, user)).to(0).key(keyed(n)).timestamp_ms(T + n)
    };
    let log: Vec<NewRecord> = (0..20).map(log_record).collect();
    monitor.produce(&log);
    // A record an hour later begins a new segment: the cleaner leaves the active one alone.
    let roll =
        NewRecord::new(record(T, "Low", "nobody", "fine")).to(0).key("the-same").timestamp_ms(T + 3_600_000);
    monitor.produce(&[roll]);
    until("the cleaner to have made holes", TIMEOUT, || {
        let left = monitor.topics().read_all(monitor.input(), Isolation::ReadCommitted);
        let offsets: Vec<i64> = left.iter().map(|record| record.offset).collect();
        // The last "the-same" in the cleaned segment may stay: the one that supersedes it is in the active segment.
        if offsets.first() == Some(&3) && offsets.len() <= 7 { Ok(()) } else { Err(format!("{offsets:?}")) }
    });

    let workers = monitor.start_workers(1);
    // A compacted topic takes no record without a key.
    let later = NewRecord::new(record(T + 10_000, "Low", "nobody", "fine")).to(0).key("later");
    monitor.produce(&[later]);
    monitor.await_closed(&workers, T + 10_000, TIMEOUT);
    Monitor::stop(&workers);
    assert_eq!(monitor.results(), [result(T, "stays", 5)]);
}

#[test]
fn added_partitions_count_from_their_first_record_and_never_move_event_time_back() {
    let monitor = monitor("added").set("input.startingOffsets", "Latest");
    monitor.create_input(2);
    let workers = monitor.start_workers(1);
    await_claimed(&workers[0], 2);
    monitor.spread(&three(T, "before"));
    monitor.advance(T + 10_000);
    monitor.await_closed(&workers, T + 10_000, TIMEOUT);

    monitor.topics().increase_partitions(monitor.input(), 3);
    // Before any worker knows of it: the first record, of an interval that is closed, and three of one that is open.
    let new = [vec![crash(T, "late")], three(T + 15_000, "new")].concat();
    monitor.write(2, &new);
    monitor.spread(&three(T + 15_000, "everywhere"));
    let mut last_ms = T + 10_000;
    await_status(&workers[0], "the new partition read", |status| {
        last_ms_grows(status, last_ms);
        status["input"]["2"]["position"] == 5
    });
    monitor.advance(T + 20_000);
    until("the interval to close", TIMEOUT, || {
        last_ms = last_ms_grows(&workers[0].try_status()?, last_ms);
        if last_ms >= T + 20_000 { Ok(()) } else { Err(format!("{last_ms}\n{}", workers[0].log_tail())) }
    });
    Monitor::stop(&workers);
    let expected =
        [result(T, "before", 3), result(T + 10_000, "everywhere", 3), result(T + 10_000, "new", 3)];
    assert_eq!(monitor.results(), expected);
    let late: Vec<String> = monitor.late().iter().map(|record| record.key_text().to_owned()).collect();
    assert_eq!(late, ["late"]);
}

/// The lowest watermark of all shards, which must not be below `last_ms`.
fn last_ms_grows(status: &Value, last_ms: i64) -> i64 {
    let shards = status["aggregate"].as_object().unwrap();
    let lowest = shards.values().map(|shard| shard["watermarkMs"].as_i64().unwrap()).min().unwrap();
    assert!(lowest >= last_ms, "the watermark went back from {last_ms}: {status}");
    lowest
}

// ---- Retention and starting offsets ----

/// A monitor whose worker has ended behind three records, before retention took the next five and left three more.
fn overtaken(name: &str, on_data_loss: &str) -> (Monitor<'static>, Vec<Worker>) {
    let monitor = monitor(name).set("input.onDataLoss", on_data_loss);
    monitor.create_input(1);
    let workers = monitor.start_workers(1);
    monitor.write(0, &three(T, "read"));
    until("the records to be committed", TIMEOUT, || {
        let committed = monitor.topics().committed(&monitor.scan_group(), monitor.input());
        if committed.get(&0).is_some_and(|c| c.offset == 3) { Ok(()) } else { Err(format!("{committed:?}")) }
    });
    Monitor::stop(&workers);
    monitor.write(0, &vec![crash(T, "lost"); 5]);
    monitor.write(0, &three(T, "after"));
    monitor.topics().delete_records(monitor.input(), 0, 8);
    (monitor, workers)
}

#[test]
fn retention_that_overtakes_the_reader_is_reported_and_the_rest_is_counted() {
    let (monitor, mut workers) = overtaken("overtaken-continue", "Continue");
    workers[0].start_again();
    let status = await_status(&workers[0], "the loss", |status| status["totals"]["dataLoss"] == 5);
    let loss = status["dataLoss"].as_array().unwrap().iter().find(|loss| loss["topic"] == monitor.input());
    let loss = loss.unwrap_or_else(|| panic!("{status}"));
    assert_eq!((&loss["partition"], &loss["records"]), (&0.into(), &5.into()), "{status}");
    await_metric(&workers[0], "crashmonitor_data_loss_records_total", 5.0);
    let expected = [result(T, "after", 3), result(T, "read", 3)];
    assert_eq!(results_through(&monitor, &workers, T + 10_000), expected);
}

#[test]
fn retention_that_overtakes_the_reader_stops_a_monitor_that_must_not_lose() {
    let (monitor, mut workers) = overtaken("overtaken-fail", "Fail");
    workers[0].start_again();
    let status = await_status(&workers[0], "the reason", |status| {
        status["notReadyReason"].as_str().is_some_and(|reason| reason.contains("onDataLoss is Fail"))
    });
    assert_eq!(status["ready"], false);
    assert_eq!(status["dataLoss"][0]["topic"], monitor.input(), "{status}");
    assert!(!workers[0].ready(), "/readyz");
    assert!(workers[0].is_running(), "it stays, so that the reason can be read");
    monitor.advance(T + 10_000);
    Monitor::stop(&workers);
    // Nothing was changed: with another choice it goes on from where it was.
    assert_eq!(monitor.topics().committed(&monitor.scan_group(), monitor.input())[&0].offset, 3);
    assert!(monitor.results().is_empty());
}

#[test]
fn retention_that_overtakes_a_running_reader_is_reported_too() {
    overtaken_running(monitor("overtaken-running"));
}

#[test]
fn retention_that_overtakes_a_running_librdkafka_is_reported_too() {
    overtaken_running(monitor("overtaken-running").set(LIBRDKAFKA.0, LIBRDKAFKA.1));
}

fn overtaken_running(monitor: Monitor<'static>) {
    let (monitor, workers) = started(monitor, 1);
    monitor.write(0, &three(T, "read"));
    await_status(&workers[0], "the records read", |status| status["input"]["0"]["position"] == 3);
    workers[0].sigstop();
    // A fetch that was under way brings this one, or it is lost with the others.
    monitor.write(0, &[crash(T, "read")]);
    monitor.write(0, &vec![crash(T, "lost"); 5]);
    monitor.write(0, &three(T, "after"));
    monitor.topics().delete_records(monitor.input(), 0, 9);
    workers[0].sigcont();
    let status = await_status(&workers[0], "the loss", |status| status["totals"]["dataLoss"] != 0);
    let lost = status["totals"]["dataLoss"].as_u64().unwrap();
    let expected = [result(T, "after", 3), result(T, "read", 3 + 6 - lost)];
    assert_eq!(results_through(&monitor, &workers, T + 10_000), expected);
}

#[test]
fn earliest_counts_what_was_there_and_latest_only_what_comes() {
    let earliest = monitor("earliest");
    let latest =
        monitor("latest").set("input.startingOffsets", "Latest").set("input.topic", earliest.input());
    earliest.create_input(2);
    earliest.spread(&three(T, "old"));
    let workers = [earliest.start_workers(1), latest.start_workers(1)].map(|mut workers| workers.remove(0));
    let [first, mut second] = workers;
    await_claimed(&second, 2);
    earliest.spread(&three(T, "new"));
    await_status(&second, "the new records", |status| status["totals"]["records"] == 3);

    // The starting position is resolved once: what comes while no worker runs is read afterwards.
    second.stop(TIMEOUT);
    earliest.spread(&three(T, "meanwhile"));
    second.start_again();
    second.wait_ready(TIMEOUT);
    let new = [result(T, "meanwhile", 3), result(T, "new", 3)];
    assert_eq!(results_through(&latest, &[second], T + 10_000), new);
    let all = [new.to_vec(), vec![result(T, "old", 3)]].concat();
    assert_eq!(results_through(&earliest, &[first], T + 10_000), all);
}

// ---- Clocks and silence ----

/// The end of the next interval of a second.
fn next_second(time_ms: i64) -> i64 {
    time_ms - time_ms % 1_000 + 1_000
}

fn lowest_watermark(worker: &Worker) -> Option<i64> {
    let status = worker.status();
    let shards = status["aggregate"].as_object()?;
    shards.values().map(|shard| shard["watermarkMs"].as_i64()).min().flatten()
}

#[test]
fn a_clock_that_runs_ahead_counts_but_does_not_move_event_time_beyond_the_present() {
    let monitor = monitor("future").set("window.size", "1s").set("window.idleTimeout", "1s");
    monitor.create_input(2);
    let workers = monitor.start_workers(1);
    let soon = next_second(now_ms() + 3_000);
    let too_far = now_ms() + 660_000;
    let log = [three(soon, "soon"), three(soon + 300_000, "in-5-minutes"), three(too_far, "in-11-minutes")];
    // Into both partitions: an idle one would hold the others back.
    monitor.spread(&log.concat());
    await_metric(&workers[0], "crashmonitor_matches_total", 6.0);
    await_metric(&workers[0], "crashmonitor_dead_letters_total{reason=\"timestamp-in-future\"}", 3.0);

    until("the result", TIMEOUT, || {
        // First the watermark, then the clock.
        let watermark = lowest_watermark(&workers[0]);
        assert!(watermark <= Some(now_ms()), "{watermark:?}");
        if monitor.results().is_empty() { Err(format!("{watermark:?}")) } else { Ok(()) }
    });
    // The one in 5 minutes is counted, and waits for its time.
    await_metric(&workers[0], "crashmonitor_open_windows", 1.0);
    Monitor::stop(&workers);
    assert_eq!(monitor.results(), [result(soon, "soon", 3)]);
    let written = monitor.topics().read_decided(monitor.output());
    assert!(written[0].timestamp_ms >= Some(soon + 1_000), "written before the interval had passed");
}

#[test]
fn a_quiet_stream_closes_its_windows_no_faster_than_real_time() {
    let monitor = monitor("quiet")
        .set("window.size", "2s")
        .set("window.allowedLateness", "2s")
        .set("window.idleTimeout", "1s");
    // The third partition never has a record.
    monitor.create_input(3);
    let workers = monitor.start_workers(1);
    let before_ms = now_ms();
    for partition in 0..2 {
        monitor.write(partition, &three(T, "ann"));
    }
    until("the result", TIMEOUT, || {
        if monitor.results().is_empty() { Err(workers[0].log_tail()) } else { Ok(()) }
    });
    Monitor::stop(&workers);
    assert_eq!(monitor.results(), [result(T, "ann", 6)]);
    let written = monitor.topics().read_decided(monitor.output());
    // Silent for 1 s, and then 2 s of the window and 2 s of lateness: also for a replay of what happened long ago.
    assert!(written[0].timestamp_ms >= Some(before_ms + 5_000), "{:?} after {before_ms}", written[0]);
}

#[test]
fn a_partition_that_never_had_a_record_does_not_hold_the_others() {
    let monitor = monitor("one-silent").set("window.idleTimeout", "1s");
    monitor.create_input(2);
    let workers = monitor.start_workers(1);
    await_idle(&workers[0], "1");
    monitor.write(0, &three(T, "ann"));
    monitor.write(0, &[crash(T + 10_000, "bob")]);
    until("the result", TIMEOUT, || {
        if monitor.results().is_empty() { Err(workers[0].log_tail()) } else { Ok(()) }
    });
    Monitor::stop(&workers);
    assert_eq!(monitor.results(), [result(T, "ann", 3)]);
}

// ---- What is written ----

fn only(records: Vec<Record>) -> Record {
    assert_eq!(records.len(), 1, "{records:?}");
    records.into_iter().next().unwrap()
}

/// The records as docs/output.md shows them, byte for byte.
#[test]
fn results_and_late_records_are_written_as_documented() {
    let updates = monitor("schema-update").set("output.mode", "Updates");
    let finals = monitor("schema-final").set("input.topic", updates.input());
    updates.create_input(1);
    let workers = [&updates, &finals].map(|monitor| monitor.start_workers(1));
    updates.write(0, &vec![crash(T + 123, "user_1234"); 4]);
    updates.advance(T + 10_000);
    updates.await_closed(&workers[0], T + 10_000, TIMEOUT);
    finals.await_closed(&workers[1], T + 10_000, TIMEOUT);
    let late = updates.write(0, &[crash(T + 123, "user_1234")])[0];
    workers
        .iter()
        .for_each(|workers| await_metric(&workers[0], "crashmonitor_late_events_dropped_total", 1.0));
    workers.iter().for_each(|workers| Monitor::stop(workers));

    for (monitor, mode) in [(&updates, "update"), (&finals, "final")] {
        let result = only(monitor.topics().read_decided(monitor.output()));
        assert_eq!(result.key_text(), "user_1234|1768142570000");
        let value = r#"{"interval":{"start":"2026-01-11T14:42:50.000Z","end":"2026-01-11T14:43:00.000Z","start_ms":1768142570000,"end_ms":1768142580000},"user_id":"user_1234","crash_count":4,"mode":"MODE"}"#;
        assert_eq!(result.text(), value.replace("MODE", mode));
        assert!(result.headers.is_empty());

        let dropped = only(monitor.late());
        assert_eq!(dropped.key_text(), "user_1234");
        let value = r#"{"timestamp":1768142570123,"user_id":"user_1234","partition":0,"offset":OFFSET,"closed_through":1768142580000,"reason":"window-closed"}"#;
        assert_eq!(dropped.text(), value.replace("OFFSET", &late.offset.to_string()));
    }
}
