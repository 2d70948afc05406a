//! What a worker says and does when its configuration, its services or its own past don't fit.
//!
//! Responsible for exit codes, for the one line that names the key or the cause, for what is waited for, and for ways
//! to reach services: TLS, SASL, passwords. What can heal is healed here while the worker waits.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crashmonitor_testbed::certificates::Certificates;
use crashmonitor_testbed::home::Dir;
use crashmonitor_testbed::kafka::Security;
use crashmonitor_testbed::monitor::{Monitor, SHARDS, crash};
use crashmonitor_testbed::worker::Finished;
use crashmonitor_testbed::{Isolation, Kafka, Redis, Worker, shared, until};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::net::TcpStream;
use std::sync::OnceLock;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);

/// The start of an interval in the past.
const T: i64 = 1_768_142_570_000;

const PASSWORD: &str = "p4ssw0rd-of-alice";

/// One broker with every listener, for all tests that need more than plain text.
fn secured() -> &'static Kafka {
    static KAFKA: OnceLock<Kafka> = OnceLock::new();
    KAFKA.get_or_init(|| {
        let kafka = Kafka::builder().user("alice", PASSWORD);
        let kafka = kafka.listener(Security::Ssl).listener(Security::SaslPlaintext);
        kafka.listener(Security::SaslSsl).start()
    })
}

fn run_to_end(monitor: &Monitor<'_>) -> Finished {
    Worker::builder("misconfigured").run_to_end(TIMEOUT, |admin| monitor.config(admin))
}

/// Runs a worker that must refuse its configuration, and gives the one line that it says.
#[track_caller]
fn refusal(monitor: &Monitor<'_>) -> String {
    let Finished { status, log } = run_to_end(monitor);
    assert_eq!(status.code(), Some(2), "{log}");
    let said: Vec<&str> = log.lines().filter(|line| line.starts_with("crashmonitor-worker: ")).collect();
    assert_eq!(said.len(), 1, "one line must say why:\n{log}");
    said[0].to_owned()
}

/// What an endpoint answers, code and body.
fn get(worker: &Worker, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(worker.admin()).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split_whitespace().nth(1)?.parse().ok()?, body.to_owned()))
}

/// Waits until /readyz and the log name the cause, and gives the line of the log. The worker must not have ended.
#[track_caller]
fn await_cause(worker: &Worker, cause: &str) -> String {
    until(&format!("/readyz to say {cause:?}"), TIMEOUT, || {
        assert!(worker.is_running(), "it ended\n{}", worker.log_tail());
        match get(worker, "/readyz") {
            Some((503, body)) if body.contains(cause) => Ok(()),
            other => Err(format!("{other:?}\n{}", worker.log_tail())),
        }
    });
    let log = worker.log();
    let line = log.lines().find(|line| line.contains(cause));
    line.unwrap_or_else(|| panic!("no line of the log says {cause:?}\n{log}")).to_owned()
}

/// Writes three crashes of one user and has their window close.
fn write_crashes(monitor: &Monitor<'_>) {
    monitor.write(0, &[crash(T, "ann"), crash(T + 1, "ann"), crash(T + 2, "ann")]);
    monitor.advance(T + 100_000);
}

#[track_caller]
fn await_crashes(monitor: &Monitor<'_>) {
    monitor.await_results(&monitor.expected(), TIMEOUT);
    assert_eq!(monitor.results(), [(T, "ann".to_owned(), 3)]);
}

#[test]
fn a_bad_configuration_is_refused_with_one_line_and_code_2() {
    let authentication =
        |key: &str, place: &str| json!({"type": "scram-sha-512", "username": "alice", key: place});
    let cases: [(&str, Value, &[&str]); 10] = [
        ("window.sise", json!("10s"), &["window", "sise"]),
        ("window.size", json!("0s"), &["window.size: must be at least 100ms, got 0s"]),
        ("window.size", json!(10), &["window.size: must be a number with a unit"]),
        ("repartition.partitions", json!("many"), &["repartition.partitions", "many"]),
        ("kafka.bootstrapServers", json!("nowhere"), &["kafka.bootstrapServers: must be host:port"]),
        (
            "kafka.authentication",
            authentication("passwordFile", "/no/such/password"),
            &["kafka.authentication.passwordFile", "/no/such/password", "No such file"],
        ),
        (
            "kafka.authentication",
            authentication("passwordEnv", "NO_SUCH_VARIABLE"),
            &["kafka.authentication.passwordEnv", "NO_SUCH_VARIABLE is not set"],
        ),
        ("kafka.tls", json!({"caFiles": ["/no/such/ca.pem"]}), &["kafka.tls.caFiles", "/no/such/ca.pem"]),
        ("kafka.config", json!({"group.id": "mine"}), &["kafka.config.group.id: is set by the worker"]),
        (
            "checkpoint.redis",
            json!({"url": "redis://127.0.0.1:1", "passwordFile": "/no/such/password"}),
            &["checkpoint.redis.passwordFile", "/no/such/password"],
        ),
    ];
    for (key, value, expected) in cases {
        let monitor = Monitor::new(shared::kafka(), "refused").set(key, value);
        let line = refusal(&monitor);
        for text in expected {
            assert!(line.contains(text), "{key}: {text:?} is not in {line:?}");
        }
    }
}

#[test]
fn a_broker_that_is_away_is_waited_for() {
    let kafka = Kafka::start();
    let monitor = Monitor::new(&kafka, "unreachable");
    monitor.create_input(1);
    kafka.kill_broker(0);
    let worker = monitor.start_worker("0");
    let line = await_cause(&worker, "kafka.bootstrapServers: no broker answers");
    assert!(line.contains(&kafka.bootstrap()), "which one? {line}");
    assert!(worker.healthy(), "waiting is no reason to be restarted");
    kafka.start_broker(0);
    worker.wait_ready(TIMEOUT);
    let said = worker.log().lines().filter(|line| line.contains("no broker answers; ")).count();
    assert!(said <= 1, "said {said} times\n{}", worker.log());
    write_crashes(&monitor);
    await_crashes(&monitor);
}

#[test]
fn a_wrong_password_is_named_kept_secret_and_may_be_corrected() {
    let dir = Dir::new("secrets");
    let file = dir.write("password", "wr0ng-p4ssw0rd");
    let monitor = Monitor::new(secured(), "password")
        .set("kafka.bootstrapServers", secured().bootstrap_of(Security::SaslPlaintext))
        .set(
            "kafka.authentication",
            json!({"type": "scram-sha-512", "username": "alice", "passwordFile": file.to_str()}),
        );
    monitor.create_input(1);
    let worker = monitor.start_worker("0");
    await_cause(&worker, "kafka.authentication: user or password refused");
    assert_eq!(worker.status()["kafka"]["reachable"], json!(false));

    dir.write("password", PASSWORD);
    worker.wait_ready(TIMEOUT);
    write_crashes(&monitor);
    await_crashes(&monitor);
    let told = [worker.log(), worker.status().to_string(), worker.metrics()].concat();
    for secret in ["wr0ng-p4ssw0rd", PASSWORD] {
        assert!(!told.contains(secret), "{secret} was told");
    }
}

#[test]
fn an_input_topic_that_is_not_there_is_waited_for() {
    let monitor = Monitor::new(shared::kafka(), "no-input");
    let worker = monitor.start_worker("0");
    await_cause(&worker, &format!("input.topic: there is no topic {}", monitor.input()));
    monitor.create_input(2);
    worker.wait_ready(TIMEOUT);
    write_crashes(&monitor);
    await_crashes(&monitor);
}

#[test]
fn an_internal_topic_with_wrong_settings_is_refused_and_left_alone() {
    let finite = Monitor::new(shared::kafka(), "finite");
    finite.create_input(1);
    let settings = [("retention.ms", "60000"), ("min.insync.replicas", "1")];
    finite.topics().create_topic(&finite.repartition_topic(), SHARDS as i32, &settings);
    let line = refusal(&finite);
    for text in [&finite.repartition_topic(), "retention.ms is 60000, must be -1"] {
        assert!(line.contains(text), "{text:?} is not in {line:?}");
    }
    assert_eq!(finite.topics().topic_config(&finite.repartition_topic())["retention.ms"], "60000");

    let narrow = Monitor::new(shared::kafka(), "narrow");
    narrow.create_input(1);
    let settings = [("retention.ms", "-1"), ("min.insync.replicas", "1")];
    narrow.topics().create_topic(&narrow.repartition_topic(), 3, &settings);
    let line = refusal(&narrow);
    assert!(line.contains("partitions is 3, must be 4"), "{line:?}");
}

#[test]
fn more_replicas_than_brokers_are_waited_for_by_their_key() {
    let monitor = Monitor::new(shared::kafka(), "replicas").set("repartition.replicationFactor", 3);
    monitor.create_input(1);
    let worker = monitor.start_worker("0");
    await_cause(&worker, "repartition.replicationFactor: topic");
}

/// As the first process of a container it would be ended by no signal that it does not listen for.
#[test]
fn a_worker_that_waits_ends_in_order_at_a_signal() {
    let monitor = Monitor::new(shared::kafka(), "ended-early");
    let worker = monitor.start_worker("0");
    await_cause(&worker, "input.topic: there is no topic");
    worker.stop(TIMEOUT);
}

/// A monitor that reaches the secured broker by a listener.
fn over(security: Security, mechanism: Option<&str>) -> Monitor<'static> {
    let monitor =
        Monitor::new(secured(), "secured").set("kafka.bootstrapServers", secured().bootstrap_of(security));
    let monitor = match security {
        Security::Ssl | Security::SaslSsl => {
            monitor.set("kafka.tls", json!({"caFiles": [secured().authority().to_str()]}))
        }
        _ => monitor,
    };
    match mechanism {
        None => monitor,
        Some(mechanism) => monitor.set(
            "kafka.authentication",
            json!({"type": mechanism, "username": "alice", "passwordEnv": "KAFKA_PASSWORD"}),
        ),
    }
}

fn start_with_password(monitor: &Monitor<'_>, variable: &str, password: &str) -> Worker {
    let pod = format!("{}-0", monitor.name());
    let builder = Worker::builder(&pod).env("POD_NAME", &pod).env(variable, password);
    builder.start(|admin| monitor.config(admin))
}

#[test]
fn every_way_to_reach_kafka_carries_records_from_end_to_end() {
    let ways = [
        (Security::Ssl, None),
        (Security::SaslSsl, Some("plain")),
        (Security::SaslSsl, Some("scram-sha-256")),
        (Security::SaslSsl, Some("scram-sha-512")),
        (Security::SaslPlaintext, Some("scram-sha-256")),
    ];
    for (security, mechanism) in ways {
        let monitor = over(security, mechanism);
        monitor.create_input(1);
        write_crashes(&monitor);
        let worker = start_with_password(&monitor, "KAFKA_PASSWORD", PASSWORD);
        worker.wait_ready(TIMEOUT);
        await_crashes(&monitor);
        worker.stop(TIMEOUT);
        assert!(!worker.log().contains(PASSWORD), "{security:?} {mechanism:?}: the password was logged");
        Monitor::assert_no_fallback(&[worker]);
    }
}

#[test]
fn a_broker_of_an_unknown_authority_is_not_trusted() {
    let dir = Dir::new("strangers");
    let stranger = Certificates::make(dir.path(), Ipv4Addr::LOCALHOST);
    let monitor = over(Security::Ssl, None).set("kafka.tls.caFiles", json!([stranger.authority.to_str()]));
    monitor.create_input(1);
    let worker = monitor.start_worker("0");
    let line = await_cause(&worker, "kafka.tls: ");
    assert!(line.contains("certificate"), "{line:?}");
}

#[test]
fn redis_takes_tls_and_a_password_and_is_not_needed() {
    let redis = Redis::builder().tls().password(PASSWORD).start();
    let checkpoint = |ca: &std::path::Path| {
        json!({"interval": "200ms", "redis": {
            "url": redis.url(), "passwordEnv": "REDIS_PASSWORD", "tls": {"caFiles": [ca.to_str()]},
        }})
    };
    let dir = Dir::new("strangers");
    let stranger = Certificates::make(dir.path(), Ipv4Addr::LOCALHOST);
    let cases = [
        (redis.authority(), PASSWORD, None),
        (stranger.authority.as_path(), PASSWORD, Some("certificate")),
        (redis.authority(), "wr0ng-p4ssw0rd", Some("authentication failed")),
    ];
    for (authority, password, error) in cases {
        let monitor = Monitor::new(shared::kafka(), "redis").set("checkpoint", checkpoint(authority));
        monitor.create_input(1);
        let worker = start_with_password(&monitor, "REDIS_PASSWORD", password);
        worker.wait_ready(TIMEOUT);
        write_crashes(&monitor);
        await_crashes(&monitor);
        until(&format!("the store to be {error:?}"), TIMEOUT, || {
            let store = worker.status()["checkpointStore"].clone();
            let said = store["error"].as_str().map(str::to_lowercase);
            let fits = match error {
                None => store["reachable"] == json!(true) && redis_keys(&redis, monitor.name()) == SHARDS,
                Some(error) => said.is_some_and(|said| said.contains(&error.to_lowercase())),
            };
            if fits { Ok(()) } else { Err(store) }
        });
        assert!(!worker.log().contains(password), "the password was logged");
    }
}

fn redis_keys(redis: &Redis, monitor: &str) -> i64 {
    redis.keys().iter().filter(|key| key.contains(&format!(":{monitor}:"))).count() as i64
}

/// A monitor that has counted and whose worker has ended in order.
fn that_has_run(name: &str) -> Monitor<'static> {
    let monitor = Monitor::new(shared::kafka(), name);
    monitor.create_input(2);
    let workers = monitor.start_workers(1);
    write_crashes(&monitor);
    await_crashes(&monitor);
    Monitor::stop(&workers);
    monitor
}

/// Everything that a worker could change.
fn everything(monitor: &Monitor<'_>) -> String {
    let topics = monitor.topics();
    let of = |topic: &str| format!("{topic}: {:?}\n", topics.offsets(topic, Isolation::ReadUncommitted));
    let (input, log) = (monitor.input(), monitor.repartition_topic());
    let mut text = [of(input), of(&log), of(monitor.output()), of(monitor.late_topic())].concat();
    text += &format!("{:?}\n", topics.committed(&monitor.scan_group(), input));
    text += &format!("{:?}\n", topics.committed(&monitor.aggregate_group(), &log));
    text
}

#[test]
fn a_missing_commit_of_the_aggregate_stops_it_and_changes_nothing() {
    let monitor = that_has_run("commit-missing");
    monitor.topics().delete_group(&monitor.aggregate_group());
    let before = everything(&monitor);
    let worker = monitor.start_worker("0");
    await_cause(&worker, "the group has no committed offset");
    let (_, ready) = get(&worker, "/readyz").unwrap();
    assert!(ready.contains("reset the monitor's group and topic together"), "what to do: {ready}");
    let status = worker.status();
    let loss = &status["dataLoss"][0];
    assert_eq!(loss["topic"], json!(monitor.repartition_topic()), "{status}");
    assert!(loss["message"].as_str().unwrap().contains("no committed offset"), "{status}");
    monitor.write(0, &[crash(T + 200_000, "bob")]);
    worker.stop(TIMEOUT);
    let written = |text: String| text.split_once('\n').unwrap().1.to_owned();
    assert_eq!(written(everything(&monitor)), written(before), "all but the input");
}

/// Its commits go with it, so that only the running worker and its metadata can tell.
#[test]
fn a_repartition_topic_made_again_under_a_running_worker_stops_it() {
    let monitor = Monitor::new(shared::kafka(), "topic-again");
    monitor.create_input(2);
    let workers = monitor.start_workers(1);
    write_crashes(&monitor);
    await_crashes(&monitor);
    let log = monitor.repartition_topic();
    monitor.topics().delete_topic(&log);
    let settings = [("retention.ms", "-1"), ("min.insync.replicas", "1")];
    monitor.topics().create_topic(&log, SHARDS as i32, &settings);
    await_cause(&workers[0], "made again");
    assert_eq!(workers[0].status()["dataLoss"][0]["topic"], json!(log));
    Monitor::stop(&workers);
}

/// As before, but nobody runs meanwhile.
#[test]
fn a_repartition_topic_that_vanished_between_two_runs_stops_the_monitor() {
    let monitor = that_has_run("topic-vanished");
    monitor.topics().delete_topic(&monitor.repartition_topic());
    let worker = monitor.start_worker("0");
    await_cause(&worker, "made again");
    worker.stop(TIMEOUT);
}
