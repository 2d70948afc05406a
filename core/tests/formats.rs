//! The formats of each release, kept as it wrote them: `core/tests/releases/<version>/`.
//!
//! Responsible for the way from one release to the next and back: what an earlier release left in Kafka and Redis, or says
//! over HTTP, is read with the meaning that it had then; what is written now is written as it was then, or says at once that
//! it is of a newer format. Must never change a set that was released: docs/releasing.md says when one is written, and how:
//!
//! ```sh
//! WRITE_FORMATS=1 cargo test -p crashmonitor-core --test formats
//! ```
//!
//! | file of a set | |
//! |---|---|
//! | `message.hex`, `snapshot.hex` | a record of the repartition topic with a frame of each kind, and a snapshot before it |
//! | `scan.commit`, `aggregate.commit`, `quiet.commit` | metadata of committed offsets |
//! | `result.json`, `late.json`, `dead-letter.json` | what others read from the output topics |
//! | `status.json` | what a worker says at `/status` |
//! | `worker.yaml` | a configuration with every key |
//! | `routes.txt` | users and their shards |
//! | `….txt` beside one of these | what it meant when it was written |
//! | `goes-on.txt` | what came of the message when a shard went on from the snapshot |
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "the sets lie in files; core itself reads none")]

mod support {
    pub mod log;
    pub mod releases;
}

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use crashmonitor_core::aggregate::{Anchor, Effect, LateEvent, Mode, Outcome};
use crashmonitor_core::codec::Error;
use crashmonitor_core::commit::{AggregateCommit, ScanCommit};
use crashmonitor_core::config::Config;
use crashmonitor_core::frame::{self, Message};
use crashmonitor_core::ids::{Epoch, InputOffset, LogOffset, Shard, SourceId};
use crashmonitor_core::record::Malformed;
use crashmonitor_core::route::shard_of;
use crashmonitor_core::snapshot::{self, Identity};
use crashmonitor_core::status::{
    AggregatePartition, DataLoss, Holder, InputPartition, InputState, LatenessBucket, OpenWindow,
    PartitionCounts, Reachability, State, Status, Totals, UserCount,
};
use crashmonitor_core::time::Timestamp;
use crashmonitor_core::{output, status};
use serde_json::{Value, json};
use support::log::{INPUT, Log, REPARTITION, Said, at, claim, encode, idle, lost, params, records};
use support::releases::{self, directory, versions_after};

/// A second of the sample; its window begins here.
const T: i64 = 1_768_142_570;
/// Where magic ends and the version stands, in every binary format and for ever: an older program looks there first.
const VERSION_AT: usize = 3;

/// One thing that a release writes.
struct Sample {
    /// Its file.
    name: &'static str,
    /// What is written today.
    write: fn() -> Vec<u8>,
    /// What it means, a fact in each line. Panics if it can't be read.
    read: fn(&[u8]) -> String,
    /// Whether a program that wrote the first understands the second; why not otherwise.
    understands: fn(&[u8], &[u8]) -> Result<(), String>,
}

const SAMPLES: [Sample; 10] = [
    Sample { name: "message.hex", write: message, read: read_message, understands: by_version },
    Sample { name: "snapshot.hex", write: snapshot, read: read_snapshot, understands: by_version },
    Sample { name: "scan.commit", write: scan_commit, read: read_scan_commit, understands: by_word },
    Sample {
        name: "aggregate.commit",
        write: aggregate_commit,
        read: read_aggregate_commit,
        understands: by_word,
    },
    Sample { name: "quiet.commit", write: quiet_commit, read: read_aggregate_commit, understands: by_word },
    Sample { name: "result.json", write: result, read: read_json, understands: by_fields },
    Sample { name: "late.json", write: late, read: read_json, understands: by_fields },
    Sample { name: "dead-letter.json", write: dead_letter, read: read_json, understands: by_fields },
    Sample { name: "status.json", write: worker_status, read: read_status, understands: by_fields },
    Sample { name: "routes.txt", write: routes, read: read_routes, understands: by_equality },
];

fn versions() -> Vec<String> {
    versions_after(write_all)
}

/// A file of a set, as the program had it: a `.hex` file is a listing of bytes.
fn kept(version: &str, name: &str) -> Vec<u8> {
    let path = directory(version).join(name);
    let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    if !name.ends_with(".hex") {
        return bytes;
    }
    let digits: Vec<u8> = bytes.into_iter().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn write(name: &str, bytes: &[u8]) {
    let listing = |line: &[u8]| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
    let text: String = bytes.chunks(32).map(listing).collect();
    releases::write(name, if name.ends_with(".hex") { text.as_bytes() } else { bytes });
}

fn write_all() {
    write("worker.yaml", configuration().as_bytes());
    write("worker.yaml.txt", read_configuration(configuration().as_bytes()).as_bytes());
    for Sample { name, write: bytes, read, .. } in SAMPLES {
        write(name, &bytes());
        write(&meaning_of(name), read(&bytes()).as_bytes());
    }
    write("goes-on.txt", goes_on(&snapshot(), &message()).as_bytes());
}

/// The file that says what another one means.
fn meaning_of(name: &str) -> String {
    if name.ends_with(".txt") { name.to_owned() } else { format!("{name}.txt") }
}

/// Each line of `then`, in its order, is a line of `now`: facts may be added, none may change or go.
#[track_caller]
fn means_the_same(what: &str, then: &[u8], now: &str) {
    let mut lines = now.lines();
    for fact in std::str::from_utf8(then).unwrap().lines() {
        assert!(lines.any(|line| line == fact), "{what} meant\n{fact}\nand is read as\n{now}");
    }
}

#[test]
fn the_present_version_has_a_set() {
    let present = env!("CARGO_PKG_VERSION");
    assert!(
        versions().iter().any(|version| version == present),
        "{present} has no set: see docs/releasing.md"
    );
}

#[test]
fn what_a_release_wrote_is_read_with_the_meaning_that_it_had() {
    for version in versions() {
        for Sample { name, read, .. } in SAMPLES {
            let what = format!("{version}/{name}");
            means_the_same(&what, &kept(&version, &meaning_of(name)), &read(&kept(&version, name)));
        }
    }
}

#[test]
fn a_release_understands_what_is_written_now_or_sees_that_it_is_newer() {
    for version in versions() {
        for Sample { name, write, understands, .. } in SAMPLES {
            if let Err(reason) = understands(&kept(&version, name), &write()) {
                panic!("{version} would misread {name}: {reason}");
            }
        }
    }
}

#[test]
fn a_shard_goes_on_from_what_a_release_left() {
    for version in versions() {
        let now = goes_on(&kept(&version, "snapshot.hex"), &kept(&version, "message.hex"));
        assert_eq!(now.as_bytes(), kept(&version, "goes-on.txt"), "{version}: {now}");
    }
}

/// One direction alone: an older worker may refuse a newer configuration, and then says so (docs/operations.md).
#[test]
fn a_configuration_of_a_release_is_a_configuration() {
    for version in versions() {
        let read = read_configuration(&kept(&version, "worker.yaml"));
        means_the_same(&format!("{version}/worker.yaml"), &kept(&version, "worker.yaml.txt"), &read);
    }
}

#[test]
fn a_newer_format_is_seen_to_be_newer() {
    let newer = |mut bytes: Vec<u8>| {
        bytes[VERSION_AT] += 1;
        // Whatever else it holds: the checksum may lie elsewhere.
        bytes.truncate(VERSION_AT + 1);
        bytes
    };
    let known = frame::VERSION + 1;
    assert_eq!(Message::decode(&newer(message())), Err(Error::Version(known)));
    let known = snapshot::VERSION + 1;
    assert_eq!(snapshot::decode(&newer(snapshot()), params(Mode::Updates)), Err(Error::Version(known)));
    let commit = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replacen("cm1;", "cm2;", 1);
    assert!(ScanCommit::decode(&commit(scan_commit())).is_err());
    assert!(AggregateCommit::decode(&commit(aggregate_commit())).is_err());
}

// What understands what.

/// Of one version: the same bytes. Of a newer one: an older program must find another version where it looks for it.
fn by_version(then: &[u8], now: &[u8]) -> Result<(), String> {
    if now[..VERSION_AT] != then[..VERSION_AT] {
        return Err("it does not begin with the same letters".to_owned());
    }
    match now[VERSION_AT].cmp(&then[VERSION_AT]) {
        std::cmp::Ordering::Greater => Ok(()),
        std::cmp::Ordering::Equal if now == then => Ok(()),
        std::cmp::Ordering::Equal => Err(format!("other bytes under version {}", now[VERSION_AT])),
        std::cmp::Ordering::Less => Err("its version went back".to_owned()),
    }
}

/// A text of another first word is refused as a whole. Under the same one, readers look for names that they know.
fn by_word(then: &[u8], now: &[u8]) -> Result<(), String> {
    let [then, now] = [then, now].map(|text| std::str::from_utf8(text).unwrap());
    if then.split(';').next() != now.split(';').next() {
        return Ok(());
    }
    let missing = then.split(';').find(|pair| !now.split(';').any(|other| other == *pair));
    missing.map_or(Ok(()), |pair| Err(format!("{pair} is not in {now}")))
}

/// Readers of JSON skip what they don't know, and find what they do.
fn by_fields(then: &[u8], now: &[u8]) -> Result<(), String> {
    let (then, now) = (read_json(then), read_json(now));
    let missing = then.lines().find(|fact| !now.lines().any(|line| line == *fact));
    missing.map_or(Ok(()), |fact| Err(format!("`{fact}` is not in\n{now}")))
}

fn by_equality(then: &[u8], now: &[u8]) -> Result<(), String> {
    if then == now { Ok(()) } else { Err(String::from_utf8_lossy(now).into_owned()) }
}

// What is written.

/// A shard with open windows, a zombie, and every source idle. One user in each window: how a table of users is ordered is
/// no part of the format.
fn shard() -> Log {
    let mut log = Log::claimed(Mode::Updates, 2);
    log.say_all(&[
        records(0, 1, 0..6).mark(T + 12).crashes(T + 3, "user_1234"),
        records(1, 1, 0..40).mark(T + 33).crash(17, T + 21, "Ümit \"x\""),
    ]);
    log.say(claim(0, 2, 6));
    log.say(records(0, 1, 0..3).mark(T + 1));
    log.say_all(&[idle(0, 2, 6, T + 50), idle(1, 1, 40, T + 51)]);
    log.effects();
    log
}

fn snapshot() -> Vec<u8> {
    let identity = Identity { monitor: "0b2f9f0e-5d0f".to_owned(), log_topic: REPARTITION, shard: Shard(5) };
    snapshot::encode(&identity, &shard().state)
}

/// What comes next in the log of [`shard`]: each kind of statement, and each thing that can be wrong with one.
fn message() -> Vec<u8> {
    let said: [Said; 7] = [
        records(0, 2, 6..12).mark(T + 60).crash(6, T + 4, "user_1234").crash(11, T - 60, "late"),
        records(0, 1, 6..9).mark(T + 70),
        lost(1, 1, 40..45),
        claim(1, 3, 45),
        records(1, 3, 45..50).mark(T + 61).crashes(T + 24, "Ümit \"x\""),
        records(1, 3, 55..60),
        idle(0, 2, 12, T + 100),
    ];
    encode(INPUT, 2, &said)
}

fn scan_commit() -> Vec<u8> {
    let mark = Some(at(T + 12));
    let commit = ScanCommit { epoch: Epoch(7), mark, topic: INPUT, resolved: 4, log_topic: REPARTITION };
    commit.encode().into_bytes()
}

fn aggregate_commit() -> Vec<u8> {
    let commit = AggregateCommit {
        o_low: LogOffset(41),
        watermark: Some(at(T + 10)),
        closed_through: Some(at(T - 20)),
        source_count: 4,
        log_topic: REPARTITION,
        anchor: None,
        window_ms: 10_000,
        mode: Mode::Final,
    };
    commit.encode().into_bytes()
}

fn quiet_commit() -> Vec<u8> {
    let anchor = Some(Anchor { wall: at(T + 50), watermark: at(T + 10) });
    let commit = AggregateCommit {
        o_low: LogOffset(0),
        watermark: None,
        closed_through: None,
        anchor,
        window_ms: 60_000,
        mode: Mode::Updates,
        ..AggregateCommit::decode(std::str::from_utf8(&aggregate_commit()).unwrap()).unwrap()
    };
    commit.encode().into_bytes()
}

fn written(record: output::Written) -> Vec<u8> {
    let value: Value = serde_json::from_str(&record.value).unwrap();
    pretty(&json!({"key": record.key, "value": value}))
}

fn pretty(value: &Value) -> Vec<u8> {
    (serde_json::to_string_pretty(value).unwrap() + "\n").into_bytes()
}

fn result() -> Vec<u8> {
    let outcome = Outcome { start: at(T), end: at(T + 10), user: "user_1234".to_owned(), count: 4 };
    written(output::result(&outcome, Mode::Updates))
}

fn late() -> Vec<u8> {
    let event = LateEvent {
        source: SourceId(3),
        offset: InputOffset(1_234),
        time: at(T),
        user: "Ümit \"x\"".to_owned(),
        closed_through: at(T + 40),
    };
    written(output::late(&event))
}

fn dead_letter() -> Vec<u8> {
    let headers = output::dead_letter_headers(Malformed::TimestampMissing, SourceId(3), InputOffset(1_234));
    pretty(&json!({"headers": BTreeMap::from(headers)}))
}

fn worker_status() -> Vec<u8> {
    let input = InputPartition {
        position: 1_000,
        lag: 23,
        mark_ms: Some(at(T).as_millis()),
        state: InputState::Paused,
    };
    let aggregate = AggregatePartition {
        watermark_ms: Some(at(T - 2).as_millis()),
        closed_through_ms: Some(at(T - 32).as_millis()),
        holder: Some(Holder { partition: Some(2), reason: status::HoldReason::Unassigned }),
        open_windows: 4,
        committed_offset: Some(77),
        recovery: Some("snapshot".to_owned()),
        last_checkpoint_ms: Some(at(T - 1).as_millis()),
    };
    let loss = DataLoss {
        topic: "logs".to_owned(),
        partition: 2,
        message: "retention was faster".to_owned(),
        records: 9,
        observed_at_ms: at(T).as_millis(),
    };
    let status = Status {
        pod: "checkout-worker-0".to_owned(),
        // Not that of the program: it would differ in every release.
        version: "1.2.3".to_owned(),
        observed_at_ms: at(T).as_millis(),
        ready: false,
        not_ready_reason: Some("it restores".to_owned()),
        partitions: PartitionCounts { input: 4, repartition: 16 },
        input: BTreeMap::from([(0, input)]),
        aggregate: BTreeMap::from([(5, aggregate)]),
        state: State { counters: 10, bytes: 1_000, bytes_max: 1 << 20 },
        totals: Totals { records: 1, late: 2, dead_letters: 3, results: 4, data_loss: 5 },
        kafka: Reachability { reachable: true, error: None },
        checkpoint_store: Some(Reachability { reachable: false, error: Some("no route".to_owned()) }),
        data_loss: vec![loss],
        windows: vec![OpenWindow {
            start_ms: at(T).as_millis(),
            end_ms: at(T).as_millis() + 10_000,
            users: 6,
            crashes: Some(7),
            above: Some(1),
            complete_in: 2,
        }],
        users: Some(vec![UserCount {
            user: "user_1234".to_owned(),
            start_ms: at(T).as_millis(),
            crashes: 3,
        }]),
        lateness: vec![
            LatenessBucket { up_to_ms: Some(0), records: 8 },
            LatenessBucket { up_to_ms: None, records: 9 },
        ],
    };
    pretty(&serde_json::to_value(status).unwrap())
}

fn routes() -> Vec<u8> {
    let users =
        ["", "user_1000", "user_1234", "user_1999", "Ümit \"x\"", "a user of more than sixteen bytes"];
    let mut text = String::new();
    for shards in [1, 3, 16, 100] {
        for user in users {
            writeln!(text, "{:?} of {shards}: {}", user, shard_of(user, shards)).unwrap();
        }
    }
    text.into_bytes()
}

/// The example of docs/configuration.md, of which another test sees that it has every key.
fn configuration() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, block) = page.split_once("```yaml\n").unwrap();
    block.split("```").next().unwrap().to_owned()
}

// What it means.

fn instant(value: Option<Timestamp>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_iso8601())
}

fn read_message(bytes: &[u8]) -> String {
    let message = Message::decode(bytes).unwrap();
    let mut text = format!("topic {}\nsources {}\n", message.header.topic, message.header.sources);
    for frame in message.frames {
        let kind = match frame.kind {
            frame::Kind::Records => "records".to_owned(),
            frame::Kind::Idle { until } => format!("idle until {}", until.to_iso8601()),
            frame::Kind::Claim => "claim".to_owned(),
            frame::Kind::Lost => "lost".to_owned(),
        };
        let (source, epoch, from, to) = (frame.source, frame.epoch, frame.from, frame.to);
        let mark = instant(frame.mark);
        writeln!(text, "source {source} epoch {epoch}: {kind}, offsets {from} to {to}, mark {mark}").unwrap();
        for entry in frame.entries {
            writeln!(text, "  {} {} {:?}", entry.offset, entry.time.to_iso8601(), entry.user).unwrap();
        }
    }
    text
}

fn read_snapshot(bytes: &[u8]) -> String {
    let read = snapshot::decode(bytes, params(Mode::Updates)).unwrap();
    let (identity, mut state) = (read.identity, read.state);
    let mut text = format!(
        "monitor {} topic {} shard {}\nposition {}\no_low {}\nwatermark {}\nclosed through {}\nopen {} windows, {} counts\n",
        identity.monitor,
        identity.log_topic,
        identity.shard,
        state.position(),
        state.o_low(),
        instant(state.watermark()),
        instant(state.closed_through()),
        state.open_windows(),
        state.open_pairs(),
    );
    let commit = state.to_commit(identity.log_topic);
    writeln!(text, "sources {}", commit.source_count).unwrap();
    writeln!(text, "quiet since {}", instant(commit.anchor.map(|anchor| anchor.wall))).unwrap();
    writeln!(text, "quiet from {}", instant(commit.anchor.map(|anchor| anchor.watermark))).unwrap();
    for (id, source) in state.sources() {
        writeln!(
            text,
            "source {id}: epoch {} topic {} announced {} next {} mark {} idle until {} last {} next at {} mark at {}",
            source.epoch,
            source.topic,
            source.announced,
            source.next,
            instant(source.mark),
            instant(source.idle_until),
            source.last_at,
            source.next_at,
            source.mark_at,
        )
        .unwrap();
    }
    text
}

fn read_scan_commit(bytes: &[u8]) -> String {
    let commit = ScanCommit::decode(std::str::from_utf8(bytes).unwrap()).unwrap();
    format!(
        "epoch {}\nmark {}\ntopic {}\nresolved {}\nlog topic {}\n",
        commit.epoch,
        instant(commit.mark),
        commit.topic,
        commit.resolved,
        commit.log_topic
    )
}

fn read_aggregate_commit(bytes: &[u8]) -> String {
    let commit = AggregateCommit::decode(std::str::from_utf8(bytes).unwrap()).unwrap();
    format!(
        "o_low {}\nwatermark {}\nclosed through {}\nsources {}\nlog topic {}\nquiet since {}\nquiet from {}\nwindow {} ms\nmode {}\n",
        commit.o_low,
        instant(commit.watermark),
        instant(commit.closed_through),
        commit.source_count,
        commit.log_topic,
        instant(commit.anchor.map(|anchor| anchor.wall)),
        instant(commit.anchor.map(|anchor| anchor.watermark)),
        commit.window_ms,
        commit.mode.name(),
    )
}

/// Each value of a JSON text, with the way to it.
fn read_json(bytes: &[u8]) -> String {
    fn facts(value: &Value, path: &str, text: &mut String) {
        match value {
            Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| facts(value, &format!("{path}.{name}"), text));
            }
            Value::Array(items) => {
                let numbered = items.iter().enumerate();
                numbered.for_each(|(number, item)| facts(item, &format!("{path}.{number}"), text));
            }
            value => writeln!(text, "{} = {value}", path.trim_start_matches('.')).unwrap(),
        }
    }
    let mut text = String::new();
    facts(&serde_json::from_slice(bytes).unwrap(), "", &mut text);
    text
}

/// What the operator knows of a worker once it has read its answer.
fn read_status(bytes: &[u8]) -> String {
    let status: Status = serde_json::from_slice(bytes).unwrap();
    read_json(&serde_json::to_vec(&status).unwrap())
}

fn read_routes(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).unwrap().to_owned()
}

/// Everything that a shard says of a message that comes after its snapshot, and how far it is then.
fn goes_on(snapshot: &[u8], message: &[u8]) -> String {
    let mut state = snapshot::decode(snapshot, params(Mode::Updates)).unwrap().state;
    let mut effects = Vec::new();
    state.apply(state.position(), &Message::decode(message).unwrap(), &mut effects);
    let mut text = String::new();
    for effect in effects {
        let line = match effect {
            Effect::Result(result) => {
                format!("result {} {:?} {}", result.start.to_iso8601(), result.user, result.count)
            }
            Effect::Late(event) => {
                let (source, offset, time) = (event.source, event.offset, event.time.to_iso8601());
                format!("late {source} {offset} {time} {:?}", event.user)
            }
            Effect::Gap { source, missing_from, missing_to } => {
                format!("gap {source} {missing_from} to {missing_to}")
            }
            Effect::DataLoss { source, from, to } => format!("lost {source} {from} to {to}"),
            Effect::Stale { source } => format!("stale {source}"),
        };
        writeln!(text, "{line}").unwrap();
    }
    writeln!(text, "watermark {}", instant(state.watermark())).unwrap();
    writeln!(text, "closed through {}", instant(state.closed_through())).unwrap();
    writeln!(text, "open {} windows, {} counts", state.open_windows(), state.open_pairs()).unwrap();
    text
}

/// Every value of a configuration, after all checks, and the names that follow from it.
fn read_configuration(bytes: &[u8]) -> String {
    let config = Config::parse(std::str::from_utf8(bytes).unwrap()).unwrap();
    let mut text = String::new();
    let mut say = |name: &str, value: &dyn std::fmt::Debug| writeln!(text, "{name} {value:?}").unwrap();
    let Config { monitor, kafka, input, rule, window, output, repartition, worker, .. } = &config;
    say("monitor", &(&monitor.namespace, &monitor.name, &monitor.uid));
    say("kafka.bootstrapServers", &kafka.bootstrap_servers);
    let tls = kafka.tls.as_ref();
    say("kafka.tls.caFiles", &tls.map(|tls| &tls.ca_files));
    let client = tls.and_then(|tls| tls.client.as_ref());
    say("kafka.tls.certificateFile, keyFile", &client.map(|c| (&c.certificate_file, &c.key_file)));
    let login = kafka.authentication.as_ref();
    say("kafka.authentication", &login.map(|login| (login.mechanism, &login.username, &login.password)));
    say("kafka.config", &kafka.settings);
    say("input.topic", &input.topic.as_str());
    say("input.startingOffsets", &input.starting_offsets);
    say("input.onDataLoss", &input.on_data_loss);
    say("match", &(&rule.contains, rule.case_sensitive, &rule.severities));
    say("window.size", &window.size);
    say("window.allowedLateness", &window.allowed_lateness);
    say("window.maxOutOfOrderness", &window.max_out_of_orderness);
    say("window.idleTimeout", &window.idle_timeout);
    say("window.maxFutureSkew", &window.max_future_skew);
    say("window.maxDrift", &window.max_drift);
    say("countGreaterThan", &config.count_greater_than);
    say("output.topic", &output.topic.as_str());
    say("output.mode", &output.mode);
    say("output.lateTopic", &output.late_topic.as_ref().map(|topic| topic.as_str()));
    say("output.deadLetterTopic", &output.dead_letter_topic.as_ref().map(|topic| topic.as_str()));
    say("output.partitions, replicationFactor", &(output.partitions, output.replication_factor));
    say("repartition", &(repartition.partitions, repartition.replication_factor));
    let checkpoint = config.checkpoint.as_ref();
    say("checkpoint.interval", &checkpoint.map(|checkpoint| checkpoint.interval));
    let redis = checkpoint.map(|checkpoint| &checkpoint.redis);
    say("checkpoint.redis", &redis.map(|redis| (&redis.url, &redis.password, &redis.ca_files)));
    say("worker.scanThreads", &worker.scan_threads);
    say("worker.inputReader", &worker.input_reader);
    say("worker.adminListen", &worker.admin_listen);
    say("worker.sessionTimeout", &worker.session_timeout);
    say("worker.commitInterval", &worker.commit_interval);
    say("worker.flushInterval", &worker.flush_interval);
    say("worker.stateMemoryMax", &worker.state_bytes_max);
    say("group of scan", &config.scan_group().as_str());
    say("group of aggregate", &config.aggregate_group().as_str());
    say("repartition topic", &config.repartition_topic().as_str());
    say("transactional.id", &config.transactional_id("worker-0"));
    say("keys in Redis", &config.snapshot_key_prefix());
    text
}
