//! `kubectl crashmonitor` on a real Kubernetes: the commands as a user gives them, about a monitor at work.
//!
//! Responsible for what only real pods can show: workers asked through the API server, logs, and a rollout. Needs the
//! cluster of `make cluster`, with the operator in it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use crashmonitor_testbed::cluster::Cluster;
use crashmonitor_testbed::home::Dir;
use crashmonitor_testbed::load::Load;
use crashmonitor_testbed::resource::Resource;
use crashmonitor_testbed::worker::binary;
use crashmonitor_testbed::{Kafka, operator};
use serde_json::Value;

/// Runs a command about this resource; what it printed. Panics if it fails.
#[track_caller]
fn cli(resource: &Resource<'_>, arguments: &[&str]) -> String {
    let mut command = Command::new(binary("kubectl-crashmonitor", "CRASHMONITOR_CLI"));
    command.args(arguments).args(["--namespace", resource.namespace.name()]);
    let output = command.output().unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?} ended with {}: {out}{error}", output.status);
    out.into_owned()
}

#[test]
fn a_user_s_commands_tell_the_truth_about_real_pods() {
    operator::ensure();
    let kafka = Kafka::builder().for_pods(Cluster::get().host()).start();
    let resource = Resource::new(&kafka, "cli", 2);
    resource.monitor.create_input(4);
    resource.apply();
    resource.await_workers(2);
    let load = Load::start(&resource.monitor);
    resource.await_more_results();
    let name = resource.name();

    let status = cli(&resource, &["status", name]);
    for part in ["2 of 2 are ready", "INPUT  WORKER", "COUNTS  WORKER"] {
        assert!(status.contains(part), "{part}: {status}");
    }
    let status: Value = serde_json::from_str(&cli(&resource, &["status", name, "-o", "json"])).unwrap();
    assert_eq!(status["workers"].as_object().unwrap().len(), 2, "{status}");
    assert_eq!(status["silent"], serde_json::json!({}), "{status}");

    let dir = Dir::new("cluster-cli");
    let mut object = resource.object();
    object["spec"]["replicas"] = 3.into();
    let file = dir.write("monitor.yaml", object.to_string());
    let plan = cli(&resource, &["plan", "-f", file.to_str().unwrap()]);
    assert!(plan.contains("effect Rescale"), "{plan}");

    assert!(cli(&resource, &["results", name]).contains("Interval {"));

    cli(&resource, &["restart", name]);
    resource.await_more_results();
    resource.await_workers(2);

    let bundle = dir.path().join("report.tar.gz");
    let report = cli(&resource, &["report", name, "--file", bundle.to_str().unwrap()]);
    for part in ["crashmonitor.yaml", "/metrics", "/log (", "operator/"] {
        assert!(report.contains(part), "{part}: {report}");
    }

    resource.finish(load);
    let verify = cli(&resource, &["verify", name, "--from", "1h"]);
    assert!(verify.contains(": right, "), "{verify}");
}
