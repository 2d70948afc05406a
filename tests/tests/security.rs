//! What docs/security.md promises, as far as no other test is about it.
//!
//! Responsible for secrets that must not be told, for core dumps that must not be, for servers that must not be trusted
//! and for images that must hold nothing else. Pods, roles and network policies are in the operator's and the chart's
//! tests; the bounds of the admin endpoint in host/src/serve.rs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use crashmonitor_core::config::Config;
use crashmonitor_core::ids::TopicId;
use crashmonitor_testbed::certificates::Certificates;
use crashmonitor_testbed::home::Dir;
use crashmonitor_testbed::kafka::Security;
use crashmonitor_testbed::monitor::{Monitor, crash};
use crashmonitor_testbed::process::Process;
use crashmonitor_testbed::tools::root;
use crashmonitor_testbed::worker::binary;
use crashmonitor_testbed::{Kafka, NewRecord, Redis, Worker, until, until_true};
use crashmonitor_worker::fetch::Fetcher;
use crashmonitor_worker::kafka::Health;
use crashmonitor_worker::kafka::client::Clients;
use crashmonitor_worker::reader::Item;
use crashmonitor_worker::redis_store::SnapshotStore;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);

/// The start of an interval in the past.
const T: i64 = 1_768_142_570_000;

// ---- Secrets ----

const KAFKA_PASSWORD: &str = "kafka-s3cret-8f1c";
const REDIS_PASSWORD: &str = "redis-s3cret-77ab";
const WRONG: [&str; 2] = ["kafka-wr0ng-4e2d", "redis-wr0ng-90f3"];

/// A worker that says all that it can, with every kind of secret that there is, and everything that it told.
struct Talkative<'a> {
    // Before `dir`: the process ends before its secrets go.
    worker: Worker,
    monitor: Monitor<'a>,
    dir: Dir,
    told: String,
}

impl<'a> Talkative<'a> {
    fn start(kafka: &'a Kafka, redis: &Redis, reader: &str, mechanism: &str) -> Talkative<'a> {
        let dir = Dir::new("secrets");
        let files = [dir.write("kafka", WRONG[0]), dir.write("redis", WRONG[1])];
        let client = Certificates::make(dir.path(), Ipv4Addr::LOCALHOST);
        let monitor = Monitor::new(kafka, "talkative")
            .set("kafka.bootstrapServers", kafka.bootstrap_of(Security::SaslSsl))
            .set(
                "kafka.tls",
                json!({
                    "caFiles": [kafka.authority().to_str()],
                    "certificateFile": client.certificate.to_str(),
                    "keyFile": client.key.to_str(),
                }),
            )
            .set(
                "kafka.authentication",
                json!({"type": mechanism, "username": "alice", "passwordFile": files[0].to_str()}),
            )
            .set("worker.inputReader", reader)
            .set("checkpoint.interval", "200ms")
            .set(
                "checkpoint.redis",
                json!({
                    "url": redis.url(),
                    "passwordFile": files[1].to_str(),
                    "tls": {"caFiles": [redis.authority().to_str()]},
                }),
            );
        // The direct reader does not know it, and would leave the input to librdkafka.
        let monitor = match reader {
            "Direct" => monitor,
            _ => monitor.set("kafka.config", json!({"debug": "all"})),
        };
        monitor.create_input(1);
        let pod = format!("{}-0", monitor.name());
        let builder = Worker::builder(&pod).env("POD_NAME", &pod).env("RUST_LOG", "trace");
        let worker = builder.start(|admin| monitor.config(admin));
        Talkative { worker, monitor, dir, told: String::new() }
    }

    /// Waits until /status says so, and keeps what is told meanwhile.
    #[track_caller]
    fn await_status(&mut self, what: &str, holds: impl Fn(&Value) -> bool) {
        let Talkative { worker, told, .. } = self;
        until(what, TIMEOUT, || {
            let status = worker.try_status()?;
            told.push_str(&status.to_string());
            told.push_str(&worker.try_metrics()?);
            if holds(&status) { Ok(()) } else { Err(status.to_string()) }
        });
    }

    /// All that it told, once it has ended.
    fn end(mut self) -> String {
        let command_line = fs::read(format!("/proc/{}/cmdline", self.worker.process().pid())).unwrap();
        assert!(!command_line.is_empty());
        self.told.push_str(&String::from_utf8_lossy(&command_line));
        self.worker.stop(TIMEOUT);
        self.told.push_str(&self.worker.log());
        let key = fs::read_to_string(self.dir.path().join("server.key")).unwrap();
        let lines = key.lines().filter(|line| !line.starts_with("-----"));
        for secret in lines.map(str::to_owned).chain(passwords()) {
            let line = self.told.lines().find(|line| line.contains(&secret));
            assert_eq!(line, None, "{secret} was told");
        }
        self.told
    }
}

/// The passwords, as such and as programs like to print bytes.
fn passwords() -> impl Iterator<Item = String> {
    let words = [KAFKA_PASSWORD, REDIS_PASSWORD].into_iter().chain(WRONG);
    words.flat_map(|word| {
        let hexadecimal: String = word.bytes().map(|byte| format!("{byte:02x}")).collect();
        let decimal = format!("{:?}", word.as_bytes());
        let plain = BASE64.encode(format!("\0alice\0{word}"));
        let decimal = decimal.trim_matches(['[', ']']).to_owned();
        [word.to_owned(), BASE64.encode(word), plain, hexadecimal, decimal]
    })
}

#[test]
fn no_secret_is_told_by_the_most_talkative_worker_whatever_fails() {
    let kafka = Kafka::builder().user("alice", KAFKA_PASSWORD).listener(Security::SaslSsl).start();
    let redis = Redis::builder().tls().password(REDIS_PASSWORD).start();
    let mut workers = [("Direct", "plain"), ("Librdkafka", "plain"), ("Librdkafka", "scram-sha-512")]
        .map(|(reader, mechanism)| Talkative::start(&kafka, &redis, reader, mechanism));

    for talkative in &mut workers {
        talkative.await_status("Kafka to refuse the password", |status| {
            status["notReadyReason"].as_str().is_some_and(|why| why.contains("user or password refused"))
        });
        talkative.dir.write("kafka", KAFKA_PASSWORD);
    }
    for talkative in &mut workers {
        talkative.await_status("Redis to refuse the password", |status| {
            let error = status["checkpointStore"]["error"].as_str().unwrap_or_default().to_lowercase();
            status["ready"] == true && error.contains("authentication failed")
        });
        talkative.dir.write("redis", REDIS_PASSWORD);
    }
    for talkative in &mut workers {
        talkative.await_status("Redis", |status| status["checkpointStore"]["reachable"] == true);
    }
    // One after the other: without Kafka there is nothing to store.
    redis.kill();
    for talkative in &mut workers {
        talkative.await_status("Redis to be away", |status| status["checkpointStore"]["reachable"] == false);
    }
    kafka.kill_broker(0);
    for talkative in &mut workers {
        talkative.await_status("Kafka to be away", |status| status["kafka"]["reachable"] == false);
    }
    kafka.start_broker(0);
    redis.start_again();
    for talkative in &mut workers {
        let monitor = &talkative.monitor;
        monitor.write(0, &[crash(T, "ann"), crash(T + 1, "ann"), crash(T + 2, "ann")]);
        monitor.advance(T + 100_000);
        talkative.await_status("the result", |status| {
            status["totals"]["results"] == 1 && status["checkpointStore"]["reachable"] == true
        });
        assert_eq!(talkative.monitor.results(), [(T, "ann".to_owned(), 3)]);
    }
    let [direct, librdkafka, _] = workers.map(Talkative::end);
    assert!(direct.contains("DEBUG"), "it was not talkative");
    for word in ["DEBUG librdkafka", "sasl.password", "SASL"] {
        assert!(librdkafka.contains(word), "librdkafka was not talkative: no {word}");
    }
}

// ---- Core dumps ----

/// Waits until the process may leave no core dump.
#[track_caller]
fn await_no_core_dumps(process: &Process) {
    until_true(&format!("{} to forbid core dumps", process.name()), TIMEOUT, || {
        let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid())).unwrap();
        let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
        let core: Vec<&str> = core.unwrap().split_whitespace().collect();
        core == ["0", "0", "bytes"]
    });
}

#[test]
fn neither_program_leaves_a_core_dump() {
    // What they would inherit; the bound may be that of this machine.
    let inherited = getrlimit(Resource::Core).maximum;
    setrlimit(Resource::Core, Rlimit { current: inherited, maximum: inherited }).unwrap();
    assert_ne!(inherited, Some(0), "there are no core dumps here: nothing can be shown");

    let worker = Worker::builder("undumped").start(|admin| {
        json!({
            "monitor": {"namespace": "test", "name": "undumped", "uid": "u"},
            "kafka": {"bootstrapServers": "127.0.0.1:1"},
            "input": {"topic": "t"},
            "worker": {"adminListen": admin.to_string()},
        })
        .to_string()
    });
    await_no_core_dumps(worker.process());

    // It waits for an answer, and so can be looked at.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = Dir::new("operator");
    let mut command = Command::new(binary("crashmonitor-operator", "CRASHMONITOR_OPERATOR"));
    command.args(["check", "--url", &format!("http://{}/", silent.local_addr().unwrap())]);
    let operator = Process::spawn("operator", &command, &dir.path().join("log"));
    await_no_core_dumps(&operator);
}

// ---- Servers that are not to be trusted ----

/// An address of this host that nothing here has a certificate for but those who say so.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Runs a worker that must not trust its broker, with either reader.
fn is_not_trusted(kafka: &Kafka, authority: &Path) {
    let tls = json!({"caFiles": [authority.to_str()]});
    for reader in ["Direct", "Librdkafka"] {
        let monitor = Monitor::new(kafka, "stranger")
            .set("kafka.bootstrapServers", kafka.bootstrap_of(Security::Ssl))
            .set("kafka.tls", tls.clone())
            .set("worker.inputReader", reader);
        monitor.create_input(1);
        let worker = monitor.start_worker("0");
        until(&format!("{reader} to refuse the broker"), TIMEOUT, || {
            let status = worker.try_status()?;
            let reason = status["notReadyReason"].as_str().unwrap_or_default();
            let is_refused = reason.starts_with("kafka.tls: ") && reason.contains("certificate");
            if is_refused && status["kafka"]["reachable"] == false { Ok(()) } else { Err(status) }
        });
    }
    the_direct_reader_trusts_nobody_else(kafka, authority);
}

/// The direct reader by itself: in a worker librdkafka, which looks for the topics, refuses before it.
fn the_direct_reader_trusts_nobody_else(kafka: &Kafka, authority: &Path) {
    let monitor = Monitor::new(kafka, "strangers-input");
    monitor.create_input(1);
    monitor.produce(&[NewRecord::new("x").to(0)]);
    let clients = |monitor: &Monitor<'_>| {
        let config = Config::parse(&monitor.config("127.0.0.1:1".parse().unwrap())).unwrap();
        let group = config.scan_group().clone();
        (Clients::new(&config, "stranger", &Health::new()), group)
    };
    let (plain, group) = clients(&monitor);
    let facts = plain.observer(&group).unwrap().describe_topic(monitor.input(), TIMEOUT).unwrap().unwrap();
    let encrypted = monitor
        .clone()
        .set("kafka.bootstrapServers", kafka.bootstrap_of(Security::Ssl))
        .set("kafka.tls", json!({"caFiles": [authority.to_str()]}));
    let (encrypted, _) = clients(&encrypted);
    let mut fetcher = Fetcher::new(encrypted.fetch_settings(0).unwrap()).unwrap();
    fetcher.start(TopicId(facts.topic_id), &[(0, 0)]);
    let mut refused = None;
    until_true("the direct reader to refuse the broker", TIMEOUT, || {
        let polled: Result<(), ()> = fetcher.poll(Duration::from_millis(5), &mut |item| {
            match item {
                Item::Unsupported { reason } => refused = Some(reason),
                Item::Record { .. } => panic!("a record of a broker that is not trusted"),
                _ => {}
            }
            Ok(())
        });
        polled.unwrap();
        refused.is_some()
    });
    let reason = refused.unwrap();
    assert!(reason.starts_with("TLS: ") && reason.contains("certificate"), "{reason}");
}

#[test]
fn a_broker_is_trusted_by_its_authority_and_for_its_address_only() {
    let dir = Dir::new("strangers");
    let stranger = Certificates::make(dir.path(), Ipv4Addr::LOCALHOST);
    let kafka = Kafka::builder().listener(Security::Ssl).start();
    is_not_trusted(&kafka, &stranger.authority);
    let misplaced = Kafka::builder().listener(Security::Ssl).certified_for(ELSEWHERE).start();
    is_not_trusted(&misplaced, misplaced.authority());
}

#[test]
fn redis_is_trusted_by_its_authority_and_for_its_address_only() {
    let dir = Dir::new("strangers");
    let stranger = Certificates::make(dir.path(), Ipv4Addr::LOCALHOST);
    let ping = |redis: &Redis, authority: Option<&Path>| {
        let files: Vec<_> = authority.into_iter().filter_map(Path::to_str).collect();
        let config = json!({
            "monitor": {"namespace": "test", "name": "stranger", "uid": "u"},
            "kafka": {"bootstrapServers": "127.0.0.1:1"},
            "input": {"topic": "t"},
            "checkpoint": {"redis": {"url": redis.url(), "tls": {"caFiles": files}}},
        });
        let config = Config::parse(&config.to_string()).unwrap();
        SnapshotStore::connect(&config).unwrap().ping().map_err(|error| error.to_string())
    };
    let redis = Redis::builder().tls().start();
    assert_eq!(ping(&redis, Some(redis.authority())), Ok(()));
    let misplaced = Redis::builder().certified_for(ELSEWHERE).start();
    for refused in [
        ping(&redis, Some(&stranger.authority)),
        ping(&redis, None),
        ping(&misplaced, Some(misplaced.authority())),
    ] {
        let error = refused.expect_err("it was trusted");
        assert!(error.contains("certificate"), "{error}");
    }
}

// ---- Images ----

/// A stage of the Containerfile: what it is made from, and its other instructions.
struct Stage<'a> {
    name: &'a str,
    from: &'a str,
    instructions: Vec<(&'a str, &'a str)>,
}

fn stages(text: &str) -> Vec<Stage<'_>> {
    let mut stages: Vec<Stage<'_>> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (instruction, rest) = line.split_once(' ').unwrap();
        match (instruction, stages.last_mut()) {
            ("FROM", _) => {
                let (from, name) = rest.split_once(" AS ").expect("every stage has a name");
                stages.push(Stage { name, from, instructions: Vec::new() });
            }
            ("ARG", None) => {}
            (_, stage) => stage.expect("it begins with FROM").instructions.push((instruction, rest)),
        }
    }
    stages
}

#[test]
fn images_hold_one_program_no_shell_and_no_root() {
    let text = fs::read_to_string(root().join("Containerfile")).unwrap();
    let base_image = text.lines().find_map(|line| line.strip_prefix("ARG BASE_IMAGE=")).unwrap();
    assert!(base_image.starts_with("gcr.io/distroless/") && !base_image.contains("debug"), "{base_image}");
    let stages = stages(&text);
    let stage = |name: &str| stages.iter().find(|stage| stage.name == name).unwrap();
    assert_eq!(stage("base").from, "${BASE_IMAGE}");
    assert_eq!(stage("base").instructions, [("USER", "65532:65532")]);
    for program in ["worker", "operator"] {
        for name in [program.to_owned(), format!("{program}-prebuilt")] {
            let stage = stage(&name);
            assert_eq!(stage.from, "base", "{name}");
            let [("COPY", copied), ("ENTRYPOINT", entry)] = stage.instructions[..] else {
                panic!("{name} does more than to copy its program: {:?}", stage.instructions)
            };
            let copied: Vec<&str> = copied.split(' ').filter(|word| !word.starts_with("--")).collect();
            assert_eq!(copied.len(), 2, "one program and where it goes: {copied:?}");
            assert_eq!(copied[1], format!("/usr/bin/crashmonitor-{program}"));
            // A list, which needs no shell.
            assert_eq!(entry, format!("[\"crashmonitor-{program}\"]"));
        }
    }
}

#[test]
fn every_package_gets_into_the_build_of_the_images() {
    let read = |file: &str| fs::read_to_string(root().join(file)).unwrap();
    let taken = read("Containerfile.dockerignore");
    let workspace = read("Cargo.toml");
    let members = workspace.lines().find_map(|line| line.strip_prefix("members = ")).unwrap();
    let members: Vec<String> = serde_json::from_str(members).unwrap();
    for member in members {
        let member = member.split('/').next().unwrap();
        assert!(taken.lines().any(|line| line == format!("!{member}")), "{member} is left out");
    }
}
