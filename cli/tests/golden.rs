//! What is printed, held against files. docs/cli.md shows the same files; `--test docs` sees to that.
//!
//! `UPDATE_GOLDEN=1 cargo test -p crashmonitor-cli --test golden` writes them anew; read the difference before you commit
//! it, and copy it into docs/cli.md.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use anstream::adapter::strip_str;
use clap::CommandFactory;
use crashmonitor_bench::oracle::{Alert, Mode, Oracle, Query};
use crashmonitor_cli::args::Cli;
use crashmonitor_cli::cluster::Answers;
use crashmonitor_cli::plan::changes::Effect;
use crashmonitor_cli::plan::{Fleet, Plan, pause};
use crashmonitor_cli::status::View;
use crashmonitor_cli::verify::{Interval, Seen, Verdict};
use crashmonitor_core::config::Config;
use crashmonitor_core::status::Status as Answer;
use crashmonitor_operator::api::CrashMonitor;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const NOW: &str = "2026-01-11T15:00:00Z";

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn fixture<T: DeserializeOwned>(name: &str) -> T {
    serde_yaml::from_str(&std::fs::read_to_string(directory("fixtures").join(name)).unwrap()).unwrap()
}

/// Without colours: these are for terminals.
fn hold(name: &str, text: &str) {
    let text = strip_str(text).to_string();
    let path = directory("golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(golden, text, "{} differs; see the head of this file", path.display());
}

fn answers() -> Answers {
    fixture::<BTreeMap<String, Answer>>("workers.yaml")
        .into_iter()
        .map(|(pod, answer)| (pod, Ok(answer)))
        .collect()
}

#[test]
fn a_monitor_that_works() {
    let view = View::new(fixture("checkout.yaml"), answers(), NOW.parse().unwrap());
    hold("status.txt", &view.text());
}

#[test]
fn a_monitor_without_kafka() {
    let silent = Err("the server is currently unable to handle the request".to_owned());
    let answers = Answers::from([("checkout-worker-0".to_owned(), silent)]);
    let view = View::new(fixture("no-kafka.yaml"), answers, NOW.parse().unwrap());
    hold("status-no-kafka.txt", &view.text());
}

#[test]
fn a_monitor_that_nobody_has_looked_at() {
    let mut monitor: CrashMonitor = fixture("no-kafka.yaml");
    monitor.status = None;
    hold("status-new.txt", &View::new(monitor, Answers::new(), NOW.parse().unwrap()).text());
}

/// The workers are asked for, and what they say is not lost for programs.
#[test]
fn programs_get_everything() {
    let view =
        serde_json::to_value(View::new(fixture("checkout.yaml"), answers(), NOW.parse().unwrap())).unwrap();
    assert_eq!(view["workers"]["checkout-worker-1"]["input"]["3"]["lag"], 1815);
    assert_eq!(view["status"]["watermark"]["heldBy"]["partition"], 3);
}

fn plan(change: impl FnOnce(&mut Value), refused: &[&str]) -> Plan {
    let before: CrashMonitor = fixture("checkout.yaml");
    let mut after = serde_json::to_value(&before).unwrap();
    change(&mut after["spec"]);
    let pod = json!({
        "status": {
            "startTime": "2026-01-11T12:00:00Z",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-11T12:00:04Z"}],
        },
    });
    let pods: Vec<Pod> = vec![serde_json::from_value(pod).unwrap()];
    let refused = refused.iter().map(|&reason| reason.to_owned()).collect();
    Plan::new(Some(&before), &serde_json::from_value(after).unwrap(), &pods, refused)
}

#[test]
fn a_change_that_workers_read_is_a_rollout() {
    let plan = plan(
        |spec| {
            spec["replicas"] = json!(3);
            spec["window"]["allowedLateness"] = json!("1m");
            spec["podDisruptionBudget"]["maxUnavailable"] = json!("50%");
        },
        &[],
    );
    let effects: Vec<Effect> = plan.changes.iter().map(|change| change.effect).collect();
    assert_eq!(effects, [Effect::None, Effect::Rescale, Effect::Rolling]);
    hold("plan-rolling.txt", &plan.text());
}

#[test]
fn more_workers_are_a_rescale() {
    hold("plan-rescale.txt", &plan(|spec| spec["replicas"] = json!(4), &[]).text());
}

#[test]
fn what_can_t_be_changed_is_named() {
    let reason = "spec.window.size: window.size can't be changed: windows that are being counted have the old size. \
                  Create another CrashMonitor instead";
    let plan = plan(|spec| spec["window"]["size"] = json!("1m"), &[reason]);
    assert_eq!(plan.effect, Effect::StateReset);
    hold("plan-refused.txt", &plan.text());
}

/// SASL without its user makes no sense: its fields have the effect of all of them.
#[test]
fn fields_that_need_each_other_are_judged_together() {
    let authentication = json!({
        "type": "plain", "username": "monitor", "passwordSecret": {"secretName": "kafka", "password": "password"},
    });
    let plan = plan(|spec| spec["kafka"]["authentication"] = authentication, &[]);
    let fields: Vec<&str> = plan.changes.iter().map(|change| change.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "spec.kafka.authentication.passwordSecret.password",
            "spec.kafka.authentication.passwordSecret.secretName",
            "spec.kafka.authentication.type",
            "spec.kafka.authentication.username",
        ]
    );
    assert!(plan.changes.iter().all(|change| change.effect == Effect::Rolling), "{}", plan.text());
}

#[test]
fn a_pause_is_said_as_far_as_it_is_known() {
    let fleet = |before, after, start| Fleet { before, after, start };
    let start = Some(SignedDuration::from_secs(4));
    let cases = [
        (Effect::None, fleet(2, 2, start), "none"),
        (Effect::Rolling, fleet(0, 0, None), "none: no worker runs"),
        (Effect::Rolling, fleet(1, 1, start), "of all partitions, about 4s"),
        (Effect::Rolling, fleet(1, 1, None), "until the new one is ready"),
        (Effect::Rolling, fleet(3, 3, start), "4s each and 12s in all"),
        (Effect::Rescale, fleet(2, 0, start), "until it is resumed"),
        (Effect::StateReset, fleet(2, 2, start), "nothing changes"),
    ];
    for (effect, fleet, part) in cases {
        let said = pause(effect, fleet);
        assert!(said.contains(part), "{effect} {fleet:?}: {said}");
    }
}

const START_MS: i64 = 1_768_142_560_000;

/// Half a minute in which ann and bob crash, and of which the output says this.
fn verdict(counts: &[(&str, u64)]) -> String {
    let mut oracle = Oracle::new(Query::default());
    let users = ["ann", "bob", "ann", "ann", "eve", "bob", "bob", "bob"];
    for (offset, user) in (0..).zip(users) {
        let record = json!({
            "timestamp": START_MS + 10_000 + offset, "severity": "High", "user_id": user, "content": "crash",
        });
        oracle.add(0, offset, Some(record.to_string().as_bytes()));
    }
    let start_ms = START_MS + 10_000;
    let alert = |&(user, count): &(&str, u64)| Alert {
        start_ms,
        end_ms: start_ms + 10_000,
        user_id: user.to_owned(),
        count,
        mode: Mode::Update,
    };
    let alerts = counts.iter().map(alert).collect();
    let seen = Seen { oracle, late: 2, future: 0, alerts, unreadable_results: Vec::new() };
    let interval = Interval { from_ms: START_MS, to_ms: START_MS + 30_000 };
    let config = "monitor: {namespace: shop, name: checkout, uid: u}\nkafka: {bootstrapServers: 'k:1'}\n\
                  input: {topic: logs}";
    let monitor = fixture("checkout.yaml");
    Verdict::new(&Config::parse(config).unwrap(), interval, seen, Some(&monitor)).text()
}

#[test]
fn right_results_are_called_right() {
    hold("verify.txt", &verdict(&[("ann", 3), ("bob", 3), ("bob", 4)]));
}

#[test]
fn wrong_results_are_listed() {
    hold("verify-different.txt", &verdict(&[("ann", 3), ("ann", 3), ("eve", 9)]));
}

#[test]
fn help() {
    let mut command = Cli::command().term_width(100);
    hold("help.txt", &command.render_help().to_string());
}
