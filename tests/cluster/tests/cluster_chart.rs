//! The chart on a real Kubernetes: installed, tested, upgraded, uninstalled, and what Prometheus would find.
//!
//! Responsible for one story, as all installations share the definition of the resource. Needs the cluster of
//! `make cluster`; leaves the operator installed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use crashmonitor_testbed::cluster::Cluster;
use crashmonitor_testbed::monitoring::{metrics_in, metrics_named};
use crashmonitor_testbed::resource::{READY_TIMEOUT, Resource};
use crashmonitor_testbed::{Kafka, Redis, operator, until};

const DEFINITION: &str = "crashmonitors.crashmonitor.dev";

/// The names of the metrics that a pod shows.
fn metrics_of(namespace: &str, pod: &str, port: u16) -> BTreeSet<String> {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/metrics");
    let scrape = Cluster::get().kubectl(&["get", "--raw", &path]);
    metrics_in(&scrape).into_iter().map(|(name, _)| name).collect()
}

#[test]
fn the_operator_comes_and_goes_by_its_chart_and_monitors_stay() {
    let cluster = Cluster::get();
    operator::ensure();
    let release = ["crashmonitor", "--namespace", operator::NAMESPACE];
    let tested = cluster.helm(&[&["test"], &release[..], &["--timeout", "120s"]].concat());
    assert!(tested.contains("Phase:          Succeeded"), "{tested}");

    let kafka = Kafka::builder().for_pods(cluster.host()).start();
    let redis = Redis::builder().host(cluster.host()).start();
    let resource = Resource::new(&kafka, "charted", 1).redis(&redis);
    resource.monitor.create_input(1);
    resource.apply();
    resource.await_workers(1);
    let worker = resource.pods()[0]["metadata"].clone();
    let (name, uid) = (worker["name"].as_str().unwrap(), &worker["uid"]);

    // Some metrics begin with what they tell of: a watermark with the first record, conditions with the next count.
    resource.monitor.advance(1_768_142_570_000);
    until("all metrics that alerts and dashboard ask for", READY_TIMEOUT, || {
        let mut shown = metrics_of(resource.namespace.name(), name, 9400);
        for pod in operator::pods() {
            shown.extend(metrics_of(operator::NAMESPACE, pod["metadata"]["name"].as_str().unwrap(), 8080));
        }
        let missing: Vec<String> = metrics_named().into_iter().filter(|name| !shown.contains(name)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} are missing; there is {shown:?}")) }
    });

    // An upgrade with another value; the definition stays, and so does what runs.
    let chart = operator::chart();
    let upgrade = [&["upgrade", release[0], &chart], &release[1..]].concat();
    cluster.helm(
        &[&upgrade[..], &["--reuse-values", "--set", "replicas=1", "--wait", "--timeout", "120s"]].concat(),
    );
    until("one operator", READY_TIMEOUT, || match operator::pods().len() {
        1 => Ok(()),
        other => Err(format!("{other} operators")),
    });
    assert_eq!(&resource.pods()[0]["metadata"]["uid"], uid, "an upgrade of the operator restarted a worker");

    cluster.helm(&[&["uninstall"], &release[..], &["--wait", "--timeout", "120s"]].concat());
    cluster.get_json(&["customresourcedefinition", DEFINITION]);
    assert_eq!(&resource.pods()[0]["metadata"]["uid"], uid, "uninstalling the operator ended a worker");

    // Installed anew, it takes over what it finds.
    cluster.helm(
        &[&upgrade[..], &["--install", "--set", "image.pullPolicy=Never", "--wait", "--timeout", "120s"]]
            .concat(),
    );
    resource.scale(2);
    resource.await_workers(2);
    assert_eq!(&resource.pods()[0]["metadata"]["uid"], uid, "the new operator restarted a worker");
}
