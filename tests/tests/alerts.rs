//! Every alert of the chart, fired for real: a fault is caused, and a real Prometheus, which scrapes real workers and a real
//! operator with the chart's rules, says that the alert fires.
//!
//! Responsible for a fault for each alert, and for seeing that none fires before it. When an alert must *not* fire is for
//! tests/chart/rules_test.yaml, which has all the time in the world: here a minute of the rules lasts [`MINUTE`] seconds
//! ([`monitoring::rules_with_minutes_of`]), so `make test-alerts` takes minutes and not hours.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use crashmonitor_testbed::control_plane::ControlPlane;
use crashmonitor_testbed::home::Dir;
use crashmonitor_testbed::kafka::Kafka;
use crashmonitor_testbed::monitor::{Monitor, now_ms, record};
use crashmonitor_testbed::monitoring;
use crashmonitor_testbed::operator;
use crashmonitor_testbed::operator_process;
use crashmonitor_testbed::ports::Port;
use crashmonitor_testbed::process::Process;
use crashmonitor_testbed::prometheus::{Alert, Prometheus, Target};
use crashmonitor_testbed::topics::Transaction;
use crashmonitor_testbed::worker::binary;
use crashmonitor_testbed::{Isolation, NewRecord, Redis, Worker, shared, until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// What a minute of the rules lasts here, in seconds. Prometheus scrapes each second: with less, a rate over the shortest span
/// of the rules would have too few samples.
const MINUTE: u64 = 2;
/// How long a worker may take to be ready, or an alert to fire. The slowest looks back half an hour, which is a minute here; the
/// rest is for a machine that has other work too.
const TIMEOUT: Duration = Duration::from_secs(300);
const PARTITIONS: i32 = 2;
const NAMESPACE: &str = "test";

/// Alerts about workers, each with the monitor of the test that has the fault. The first is told of for a short time only.
const OF_WORKERS: [(&str, &str); 15] = [
    ("overtaken", "CrashMonitorDataLoss"),
    ("kafka-away", "CrashMonitorKafkaUnreachable"),
    ("throttled", "CrashMonitorFallingBehind"),
    ("old-records", "CrashMonitorResultsDelayed"),
    ("hanging-producer", "CrashMonitorWatermarkStalled"),
    ("unreadable-partition", "CrashMonitorPartitionUnread"),
    ("bad-records", "CrashMonitorLateEventsDropped"),
    ("bad-records", "CrashMonitorDeadLetters"),
    ("log-gone", "CrashMonitorHalted"),
    ("results-refused", "CrashMonitorTransactionsFailing"),
    ("results-refused", "CrashMonitorCommitsStopped"),
    ("redis-away", "CrashMonitorCheckpointStoreUnreachable"),
    ("redis-away", "CrashMonitorCheckpointStale"),
    ("stopped", "CrashMonitorWorkerDown"),
    ("restarting", "CrashMonitorRebalancingOften"),
];

/// Alerts about the operator.
const OF_THE_OPERATOR: [&str; 4] = [
    "CrashMonitorDegraded",
    "CrashMonitorReconcileFailing",
    "CrashMonitorOperatorWithoutLeader",
    "CrashMonitorOperatorDown",
];

#[test]
fn every_alert_has_a_fault_here_and_no_other_is_there() {
    let named = OF_WORKERS.iter().map(|(_, alert)| *alert).chain(OF_THE_OPERATOR);
    let rules = monitoring::rules();
    let alerts: BTreeSet<&str> = rules.iter().filter_map(|rule| rule["alert"].as_str()).collect();
    assert_eq!(named.collect::<BTreeSet<_>>(), alerts);
}

/// A monitor with a load of the present and a worker, or two.
struct Scene<'a> {
    name: &'static str,
    monitor: Monitor<'a>,
    workers: Vec<Worker>,
    _load: Process,
    dir: Dir,
}

impl<'a> Scene<'a> {
    /// Starts all of it, and waits for nothing. `load` are further options of the load.
    fn start(name: &'static str, monitor: Monitor<'a>, workers: usize, load: &[&str]) -> Scene<'a> {
        monitor.create_input(PARTITIONS);
        Scene::start_with_input(name, monitor, workers, load)
    }

    /// The same where the input is there.
    fn start_with_input(
        name: &'static str,
        monitor: Monitor<'a>,
        workers: usize,
        load: &[&str],
    ) -> Scene<'a> {
        let dir = Dir::new(name);
        let _load = write(&monitor, load, &dir);
        let workers = (0..workers).map(|pod| monitor.start_worker(&pod.to_string())).collect();
        Scene { name, monitor, workers, _load, dir }
    }

    fn targets(&self) -> impl Iterator<Item = Target> + '_ {
        self.workers.iter().map(|worker| Target {
            job: "crashmonitor-worker",
            address: worker.admin(),
            labels: json!({"namespace": NAMESPACE, "monitor": self.monitor.name(), "pod": worker.name()}),
        })
    }

    /// Waits until results are written: all of it is at work.
    #[track_caller]
    fn await_results(&self) {
        until(&format!("results of {}", self.name), TIMEOUT, || {
            let results: Result<u64, String> = self.workers.iter().map(results_of).sum();
            match results {
                Ok(1..) => Ok(()),
                other => Err(format!("{other:?}\n{}", self.workers[0].log_tail())),
            }
        });
    }

    /// Waits until so many further records are in the input.
    #[track_caller]
    fn await_records(&self, further: i64) {
        let ends = || -> i64 {
            let topics = self.monitor.topics();
            topics
                .offsets(self.monitor.input(), Isolation::ReadUncommitted)
                .values()
                .map(|(_, end)| end)
                .sum()
        };
        let target = ends() + further;
        until("further records", TIMEOUT, || match ends() {
            end if end >= target => Ok(()),
            end => Err(end),
        });
    }
}

fn results_of(worker: &Worker) -> Result<u64, String> {
    Ok(worker.try_status()?["totals"]["results"].as_u64().unwrap_or_default())
}

/// A load generator that writes records of the present to a monitor's input, one crash in ten.
fn write(monitor: &Monitor<'_>, further: &[&str], dir: &Dir) -> Process {
    let mut command = Command::new(binary("crashmonitor-loadgen", "CRASHMONITOR_LOADGEN"));
    command.args(["--brokers", &monitor.bootstrap(), "--topic", monitor.input(), "--quiet"]);
    command.args(["--users", "20", "--one-in", "5"]);
    if !further.contains(&"--rate") {
        command.args(["--rate", "200"]);
    }
    command.args(further);
    Process::spawn("the load generator", &command, &dir.path().join("load.log"))
}

/// Those that fire, of this monitor or of any.
fn firing(prometheus: &Prometheus, monitor: Option<&str>) -> Vec<Alert> {
    let mut alerts = prometheus.alerts();
    alerts.retain(|alert| alert.is_firing && monitor.is_none_or(|name| alert.labels["monitor"] == name));
    alerts
}

/// Waits until all targets answer, all rules can be evaluated, and no alert fires but those about `ill`.
#[track_caller]
fn await_well(prometheus: &Prometheus, is_ill: impl Fn(&Alert) -> bool) {
    until("all to be well", TIMEOUT, || {
        let mut wrong = prometheus.missed();
        wrong.extend(prometheus.broken_rules());
        let alerts = firing(prometheus, None).into_iter().filter(|alert| !is_ill(alert));
        wrong.extend(alerts.map(|alert| alert.summary));
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    });
}

/// Waits until an alert fires, of this monitor or of any, and says so.
#[track_caller]
fn await_alert(prometheus: &Prometheus, since: Instant, monitor: Option<&str>, name: &str) {
    let alert = until(&format!("{name} of {monitor:?} to fire"), TIMEOUT, || {
        let firing = firing(prometheus, monitor);
        let found = firing.iter().find(|alert| alert.labels["alertname"] == name).cloned();
        found.ok_or_else(|| format!("{firing:?}"))
    });
    println!("{name} fires, seen {} s after its fault: {}", since.elapsed().as_secs(), alert.summary);
}

/// All monitors of the test; those that are ill from the beginning come last.
fn scenes<'a>(away: &'a Kafka, narrow: &'a Kafka, redis: &Redis) -> Vec<Scene<'a>> {
    let well = |name| Scene::start(name, Monitor::new(shared::kafka(), name), 1, &[]);
    let through = narrow.bootstrap_through_proxies();
    let throttled = Monitor::new(narrow, "throttled").set("kafka.bootstrapServers", through);
    vec![
        well("overtaken"),
        well("hanging-producer"),
        well("bad-records"),
        well("log-gone"),
        well("results-refused"),
        well("stopped"),
        Scene::start("restarting", Monitor::new(shared::kafka(), "restarting"), 2, &[]),
        Scene::start("redis-away", Monitor::new(shared::kafka(), "redis-away").redis(redis), 1, &[]),
        Scene::start("kafka-away", Monitor::new(away, "kafka-away"), 1, &[]),
        Scene::start("throttled", throttled, 1, &["--rate", "2000"]),
        old_records(),
    ]
}

fn scene<'s, 'a>(scenes: &'s mut [Scene<'a>], name: &str) -> &'s mut Scene<'a> {
    scenes.iter_mut().find(|scene| scene.name == name).unwrap_or_else(|| panic!("there is no {name}"))
}

#[test]
#[ignore = "takes minutes: make test-alerts"]
fn every_alert_about_workers_is_fired_by_a_fault() {
    let (away, narrow) = (Kafka::start(), Kafka::builder().with_proxies().start());
    let redis = Redis::start();
    let mut scenes = scenes(&away, &narrow, &redis);
    let (unreadable, _open) = unreadable_partition();
    scenes.push(unreadable);
    let ill = ["old-records", "unreadable-partition"]
        .map(|name| scene(&mut scenes, name).monitor.name().to_owned());
    let is_ill = |alert: &Alert| {
        // Nobody looks after these workers, and the alert about that is right.
        let is_expected = OF_THE_OPERATOR.iter().any(|name| alert.labels["alertname"] == *name);
        is_expected || ill.iter().any(|name| alert.labels["monitor"] == *name)
    };
    scenes
        .iter()
        .filter(|scene| !ill.iter().any(|name| name == scene.monitor.name()))
        .for_each(Scene::await_results);
    let targets: Vec<Target> = scenes.iter().flat_map(Scene::targets).collect();
    let prometheus = Prometheus::start(&monitoring::rules_with_minutes_of(MINUTE), &targets);
    await_well(&prometheus, is_ill);

    let since = Instant::now();
    away.kill_broker(0);
    redis.kill();
    narrow.proxies().for_each(|proxy| proxy.throttle(BYTES_PER_SECOND));
    let _faults = hurt(&mut scenes);
    let (last, others) = OF_WORKERS.split_last().unwrap();
    for (name, alert) in others {
        await_alert(&prometheus, since, Some(scene(&mut scenes, name).monitor.name()), alert);
    }
    let (name, alert) = *last;
    let restarting = scene(&mut scenes, name);
    let monitor = restarting.monitor.name().to_owned();
    let since = Instant::now();
    until(&format!("{alert} to be pending"), TIMEOUT, || {
        restart(&mut restarting.workers[1]);
        let is_it = |found: &Alert| found.labels["alertname"] == alert && found.labels["monitor"] == monitor;
        if prometheus.alerts().iter().any(is_it) { Ok(()) } else { Err("it is not") }
    });
    await_alert(&prometheus, since, Some(&monitor), alert);
}

/// What was done to a monitor and lasts for as long as these live.
struct Faults {
    _hanging: Transaction,
    _bad: Process,
}

/// Causes the faults of those that have no service of their own.
fn hurt(scenes: &mut [Scene<'_>]) -> Faults {
    remove_log(scene(scenes, "log-gone"));
    scene(scenes, "stopped").workers[0].sigstop();
    // Less than any result has.
    let refused = &scene(scenes, "results-refused").monitor;
    refused.topics().set_topic_config(refused.output(), "max.message.bytes", "100");
    let _hanging = open_transaction(&scene(scenes, "hanging-producer").monitor);
    let bad = scene(scenes, "bad-records");
    let _bad =
        write(&bad.monitor, &["--too-late-share", "0.1", "--poison-share", "0.1", "--seed", "2"], &bad.dir);
    // At last: what it causes is told of for a short time only.
    overtake(scene(scenes, "overtaken"));
    Faults { _hanging, _bad }
}

/// Of a connection: a tenth of what the load is.
const BYTES_PER_SECOND: u64 = 40_000;
/// Longer than the test lasts, and no longer than a broker allows by default, which is 15 minutes.
const HANGS_FOR: Duration = Duration::from_secs(800);

/// Opens a transaction in partition 0 of a monitor's input: nobody can read there what comes behind it.
fn open_transaction(monitor: &Monitor<'_>) -> Transaction {
    let open = monitor.topics().transaction(&format!("{}-producer", monitor.name()), HANGS_FOR);
    open.produce(monitor.input(), &[NewRecord::new(record(now_ms(), "Low", "nobody", "all is well")).to(0)]);
    open
}

/// A buffer that is drained: what comes happened ten minutes ago.
fn old_records() -> Scene<'static> {
    let start = (now_ms() - 600_000).to_string();
    let monitor = Monitor::new(shared::kafka(), "old-records");
    Scene::start("old-records", monitor, 1, &["--start-time", &start])
}

/// Before the first record of a partition lies an open transaction.
fn unreadable_partition() -> (Scene<'static>, Transaction) {
    let monitor = Monitor::new(shared::kafka(), "unreadable-partition");
    monitor.create_input(PARTITIONS);
    let open = open_transaction(&monitor);
    (Scene::start_with_input("unreadable-partition", monitor, 1, &[]), open)
}

/// Retention deletes what the worker, which is away, has not read.
fn overtake(scene: &mut Scene<'_>) {
    scene.workers[0].kill9();
    scene.await_records(200);
    let topics = scene.monitor.topics();
    let input = scene.monitor.input().to_owned();
    for (partition, (_, end)) in topics.offsets(&input, Isolation::ReadUncommitted) {
        topics.delete_records(&input, partition, end);
    }
    scene.workers[0].start_again();
}

/// Somebody deletes the repartition topic while no worker runs.
fn remove_log(scene: &mut Scene<'_>) {
    scene.workers[0].stop(TIMEOUT);
    scene.monitor.topics().delete_topic(&scene.monitor.repartition_topic());
    scene.workers[0].start_again();
}

fn restart(worker: &mut Worker) {
    worker.stop(TIMEOUT);
    worker.start_again();
    worker.wait_ready(TIMEOUT);
}

#[test]
#[ignore = "takes minutes: make test-alerts"]
fn every_alert_about_the_operator_is_fired_by_a_fault() {
    let plane = ControlPlane::start();
    let kubeconfig = operator_process::install(&plane);
    let dir = Dir::new("operator");
    let admin = Port::reserve();
    let start = || operator_process::start(&kubeconfig, &admin, None, &dir);
    let operator = start();
    plane.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}));
    until("the definition to be served", TIMEOUT, || {
        plane.try_kubectl(&["apply", "--server-side", "-f", "-"], &resource("kafka:9092").to_string())
    });
    let target =
        Target { job: "crashmonitor-operator", address: admin.address(), labels: json!({"pod": "operator"}) };
    let prometheus = Prometheus::start(&monitoring::rules_with_minutes_of(MINUTE), &[target]);
    await_well(&prometheus, |_| false);

    // What the API server lets through, and the operator can't use.
    let since = Instant::now();
    plane.apply(&resource("kafka:70000"));
    for alert in &OF_THE_OPERATOR[..2] {
        await_alert(&prometheus, since, None, alert);
    }

    // Somebody takes the right to the Lease away. The operator ends when it can't renew it, and is started again, as a kubelet
    // does.
    let since = Instant::now();
    let binding =
        ["delete", "rolebinding", "crashmonitor-operator-leader-election", "-n", operator::NAMESPACE];
    plane.kubectl(&binding, "");
    operator.wait_exit(TIMEOUT);
    let operator = start();
    await_alert(&prometheus, since, None, OF_THE_OPERATOR[2]);

    let since = Instant::now();
    operator.signal(Signal::KILL);
    operator.wait_exit(TIMEOUT);
    await_alert(&prometheus, since, None, OF_THE_OPERATOR[3]);
}

/// A monitor without workers: nothing runs pods here.
fn resource(bootstrap: &str) -> Value {
    json!({
        "apiVersion": "crashmonitor.dev/v1alpha1",
        "kind": "CrashMonitor",
        "metadata": {"name": "checkout", "namespace": NAMESPACE},
        "spec": {
            "desiredState": "Suspended",
            "kafka": {"bootstrapServers": bootstrap},
            "input": {"topic": "logs"},
            "output": {"topic": "crash-alerts"},
        },
    })
}
