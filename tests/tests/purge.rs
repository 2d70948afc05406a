//! `crashmonitor-worker purge`: what belongs to one monitor alone goes, and nothing else.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};
use std::time::Duration;

use crashmonitor_testbed::home::Dir;
use crashmonitor_testbed::monitor::{Monitor, crash};
use crashmonitor_testbed::ports::Port;
use crashmonitor_testbed::process::Process;
use crashmonitor_testbed::worker::binary;
use crashmonitor_testbed::{Isolation, shared, until, until_true};

use rustix::process::Signal;

const TIMEOUT: Duration = Duration::from_secs(60);

/// The start of an interval in the past.
const T: i64 = 1_768_142_570_000;

fn command(monitor: &Monitor<'_>, dir: &Dir) -> Command {
    let config = dir.write("config.yaml", monitor.config(Port::reserve().address()));
    let mut command = Command::new(binary("crashmonitor-worker", "CRASHMONITOR_WORKER"));
    command.arg("purge").arg("--config").arg(config);
    command
}

fn purge(monitor: &Monitor<'_>) -> (Output, String) {
    let output = command(monitor, &Dir::new("purge")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

/// A monitor that has counted, written a result and stored snapshots, and whose workers have ended.
fn monitor_that_ran(name: &str) -> Monitor<'static> {
    let monitor = Monitor::new(shared::kafka(), name).redis(shared::redis());
    monitor.create_input(2);
    let workers = monitor.start_workers(1);
    monitor.write(0, &[crash(T, "ann"), crash(T + 1, "ann"), crash(T + 2, "ann")]);
    monitor.advance(T + 100_000);
    monitor.await_closed(&workers, T + 10_000, TIMEOUT);
    until("a snapshot", TIMEOUT, || if keys(&monitor).is_empty() { Err("none yet") } else { Ok(()) });
    Monitor::stop(&workers);
    monitor
}

fn keys(monitor: &Monitor<'_>) -> Vec<String> {
    let prefix = format!("crashmonitor:test:{}:", monitor.name());
    shared::redis().keys().into_iter().filter(|key| key.starts_with(&prefix)).collect()
}

#[test]
fn what_belongs_to_the_monitor_alone_goes() {
    let monitor = monitor_that_ran("purged");
    let neighbour = monitor_that_ran("kept");
    let topics = monitor.topics();
    assert!(!topics.committed(&monitor.scan_group(), monitor.input()).is_empty());
    let (output, said) = purge(&monitor);
    assert!(output.status.success(), "{said}");
    assert!(said.contains(&format!("topic {}: removed", monitor.repartition_topic())), "{said}");
    until("the topic to go", TIMEOUT, || {
        topics
            .partitions_of(&monitor.repartition_topic())
            .map_or(Ok(()), |partitions| Err(partitions.to_string()))
    });
    assert!(topics.committed(&monitor.scan_group(), monitor.input()).is_empty(), "the group is gone");
    assert_eq!(keys(&monitor), Vec::<String>::new());
    assert_eq!(monitor.results().len(), 1, "results stay");
    assert_eq!(topics.read_all(monitor.input(), Isolation::ReadCommitted).len(), 5, "the input stays");
    assert!(!keys(&neighbour).is_empty());
    assert!(topics.partitions_of(&neighbour.repartition_topic()).is_some());
    assert!(!topics.committed(&neighbour.scan_group(), neighbour.input()).is_empty());
    // What is gone already is no failure.
    let (output, said) = purge(&monitor);
    assert!(output.status.success(), "{said}");
    assert!(said.contains(&format!("group {}: was not there", monitor.aggregate_group())), "{said}");
}

#[test]
fn what_can_not_be_reached_is_named_and_keeps_nothing_else() {
    let monitor = monitor_that_ran("unreached");
    let nobody = format!("127.0.0.1:{}", Port::reserve().number());
    let unreached = monitor.clone().set("kafka.bootstrapServers", nobody);
    let (output, said) = purge(&unreached);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let line = said.lines().rfind(|line| line.starts_with("crashmonitor-worker: not removed: ")).unwrap();
    assert!(
        line.contains(&format!("topic {} (kafka.bootstrapServers", monitor.repartition_topic())),
        "{line}"
    );
    assert!(line.contains(&monitor.aggregate_group()), "{line}");
    assert!(!line.contains("Redis"), "{line}");
    assert_eq!(keys(&monitor), Vec::<String>::new());
}

#[test]
fn a_signal_ends_what_waits_for_kafka() {
    let nobody = format!("127.0.0.1:{}", Port::reserve().number());
    let monitor = Monitor::new(shared::kafka(), "signalled").set("kafka.bootstrapServers", nobody);
    let dir = Dir::new("purge");
    let process = Process::spawn("purge", &command(&monitor, &dir), &dir.path().join("log"));
    until_true("an attempt", TIMEOUT, || process.log().contains("trying again"));
    process.signal(Signal::TERM);
    let status = process.wait_exit(TIMEOUT);
    assert_eq!(status.code(), Some(1), "not all was removed: {}", process.log());
    assert!(!process.log().contains("not removed: "), "it tried to its end: {}", process.log());
}
