//! `kubectl crashmonitor` before a real Kafka: what it prints of results, and that it tells right ones from wrong ones.
//!
//! The monitor runs without Kubernetes, and is named by its workers' configuration.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crashmonitor_testbed::home::Dir;
use crashmonitor_testbed::monitor::{Monitor, crash};
use crashmonitor_testbed::worker::binary;
use crashmonitor_testbed::{NewRecord, shared, until};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);

/// A command's exit code, and what it printed.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    error: String,
}

/// Runs a command about this monitor.
fn cli(monitor: &Monitor<'_>, dir: &Dir, arguments: &[&str]) -> Said {
    let config = dir.write("worker.yaml", monitor.config("127.0.0.1:0".parse().unwrap()));
    let mut command = Command::new(binary("kubectl-crashmonitor", "CRASHMONITOR_CLI"));
    command.args(arguments).arg("--config").arg(config);
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code(), out: text(&output.stdout), error: text(&output.stderr) }
}

fn lines(said: &Said) -> Vec<String> {
    let mut lines: Vec<String> = said.out.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// What `results` prints is what the original prints; what `verify` says is true, whoever wrote the output.
#[test]
fn results_are_shown_and_verified() {
    let monitor = Monitor::new(shared::kafka(), "cli");
    monitor.create_input(2);
    let workers = monitor.start_workers(1);
    let crashes = |user: &str, times: [i64; 3]| times.map(|ms| crash(ms, user));
    monitor.spread(&crashes("ann", [20_000, 20_001, 20_002]));
    monitor.spread(&crashes("bob", [31_000, 32_000, 33_000]));
    monitor.advance(200_000);
    monitor.await_closed(&workers, 100_000, TIMEOUT);
    // Its window is closed: it goes to the late topic, and counts nowhere.
    monitor.spread(&[crash(20_003, "ann")]);
    until("the late record", TIMEOUT, || match monitor.late().len() {
        1 => Ok(()),
        others => Err(format!("{others} late records")),
    });

    let dir = Dir::new("cli");
    let results = cli(&monitor, &dir, &["results"]);
    assert_eq!((results.code, results.error.as_str()), (Some(0), ""));
    let expected = [
        "Interval {1970-01-01 00:00:20, 1970-01-01 00:00:30} | ann | 3",
        "Interval {1970-01-01 00:00:30, 1970-01-01 00:00:40} | bob | 3",
    ];
    assert_eq!(lines(&results), expected);
    let values: Vec<Value> = lines(&cli(&monitor, &dir, &["results", "--json", "--since", "1h"]))
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(values.len(), 2, "{values:?}");
    assert!(values.iter().all(|value| value["crash_count"] == 3), "{values:?}");
    let future = cli(&monitor, &dir, &["results", "--since", "2100-01-01T00:00:00Z"]);
    assert_eq!((future.code, future.out.as_str()), (Some(0), ""), "{future:?}");

    let verify = ["verify", "-o", "json", "--from", "1970-01-01T00:00:00Z", "--to", "1970-01-01T00:01:40Z"];
    let right = cli(&monitor, &dir, &verify);
    assert_eq!(right.code, Some(0), "{right:?}");
    let verdict: Value = serde_json::from_str(&right.out).unwrap();
    let figures = ["right", "excludedAsLate", "resultsRead", "windows"].map(|key| verdict[key].as_u64());
    assert_eq!(figures, [Some(2), Some(1), Some(2), Some(10)], "{verdict}");

    // Somebody else writes the same result once more, and one for nobody.
    let forged = |user: &str| {
        json!({
            "interval": {
                "start": "1970-01-01T00:00:20Z", "end": "1970-01-01T00:00:30Z", "start_ms": 20_000, "end_ms": 30_000,
            },
            "user_id": user, "crash_count": 3, "mode": "update",
        })
        .to_string()
    };
    let records: Vec<NewRecord> = ["ann", "eve"].map(|user| NewRecord::new(forged(user)).to(0)).into();
    monitor.topics().produce(monitor.output(), &records);
    let wrong =
        cli(&monitor, &dir, &["verify", "--from", "1970-01-01T00:00:00Z", "--to", "1970-01-01T00:01:40Z"]);
    assert_eq!(wrong.code, Some(3), "{wrong:?}");
    for part in ["DIFFERENT", "unexpected  Interval", "| eve | expected none, written [3]", "doubled"] {
        assert!(wrong.out.contains(part), "{part}: {wrong:?}");
    }
    Monitor::stop(&workers);
}

#[test]
fn what_can_t_be_verified_is_not_called_right() {
    let monitor = Monitor::new(shared::kafka(), "cli-early");
    monitor.create_input(1);
    let workers = monitor.start_workers(1);
    monitor.write(0, &[crash(20_000, "ann")]);
    monitor.advance(100_000);
    monitor.await_closed(&workers, 60_000, TIMEOUT);
    let dir = Dir::new("cli-early");
    // What is closed is believed when it is committed.
    until("the complaint that windows are open yet", TIMEOUT, || {
        let early = cli(&monitor, &dir, &["verify", "--to", "1970-01-02T00:00:00Z"]);
        let is_refused = early.code == Some(2) && early.error.contains("windows are closed through");
        if is_refused { Ok(()) } else { Err(format!("{early:?}")) }
    });
    Monitor::stop(&workers);
}

#[test]
fn an_unreachable_kafka_and_a_missing_topic_are_named() {
    let monitor = Monitor::new(shared::kafka(), "cli-absent");
    let dir = Dir::new("cli-absent");
    let absent = cli(&monitor, &dir, &["results"]);
    assert_eq!(absent.code, Some(1), "{absent:?}");
    assert!(absent.error.contains(&format!("there is no topic {}", monitor.output())), "{absent:?}");
    let nobody = crashmonitor_testbed::ports::Port::reserve();
    let silent = cli(&monitor, &dir, &["results", "--brokers", &nobody.address().to_string()]);
    assert_eq!(silent.code, Some(1), "{silent:?}");
    assert!(
        silent.error.contains("--brokers") && silent.error.contains(&nobody.address().to_string()),
        "{silent:?}"
    );
}
