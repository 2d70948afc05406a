//! The whole on a real Kubernetes: a resource becomes pods, and whatever happens to them under load, the output is that
//! of the whole log.
//!
//! Responsible for what only real pods can show: rescheduling, scaling, rolling changes, drained nodes, suspension. Kafka
//! and Redis run on this host, where pods reach them. Needs the cluster of `make cluster`, with the operator in it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::sync::OnceLock;

use crashmonitor_testbed::cluster::Cluster;
use crashmonitor_testbed::load::Load;
use crashmonitor_testbed::operator;
use crashmonitor_testbed::resource::{READY_TIMEOUT, Resource, STATUS_TIMEOUT};
use crashmonitor_testbed::{Kafka, Redis, until, until_true};
use serde_json::{Value, json};

const PARTITIONS: i32 = 4;

/// One Kafka for all tests here, where pods reach it.
fn kafka() -> &'static Kafka {
    static KAFKA: OnceLock<Kafka> = OnceLock::new();
    KAFKA.get_or_init(|| Kafka::builder().for_pods(Cluster::get().host()).start())
}

fn redis() -> Redis {
    Redis::builder().host(Cluster::get().host()).start()
}

/// A monitor with so many ready workers that write results, and load that goes on.
fn under_load(resource: &Resource<'_>, replicas: usize) -> Load {
    operator::ensure();
    resource.monitor.create_input(PARTITIONS);
    resource.apply();
    resource.await_workers(replicas);
    let load = Load::start(&resource.monitor);
    resource.await_more_results();
    load
}

fn pod_names(resource: &Resource<'_>) -> Vec<String> {
    resource.pods().iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// How the shards of the workers came to be where they are.
fn recoveries(statuses: &[Value]) -> BTreeSet<String> {
    let shards = statuses.iter().filter_map(|status| status["aggregate"].as_object()).flatten();
    shards.filter_map(|(_, shard)| shard["recovery"].as_str().map(str::to_owned)).collect()
}

#[test]
fn a_resource_becomes_results_and_scales_without_losing_any() {
    let resource = Resource::new(kafka(), "scaled", 1).set("output.mode", "Final");
    let load = under_load(&resource, 1);
    resource.scale(3);
    resource.await_workers(3);
    resource.await_more_results();
    resource.scale(1);
    resource.await_workers(1);
    resource.await_more_results();
    resource.finish(load);
}

#[test]
fn an_autoscaler_scales_the_resource() {
    let resource = Resource::new(kafka(), "autoscaled", 1);
    let load = under_load(&resource, 1);
    // Its lower bound needs no metrics, so none are in the cluster.
    Cluster::get().apply(&json!({
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": resource.name(), "namespace": resource.namespace.name()},
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "crashmonitor.dev/v1alpha1",
                "kind": "CrashMonitor",
                "name": resource.name(),
            },
            "minReplicas": 2,
            "maxReplicas": 3,
        },
    }));
    resource.await_workers(2);
    let autoscaler = resource.namespace.get_json(&["horizontalpodautoscaler", resource.name()]);
    assert_eq!(autoscaler["status"]["currentReplicas"], 1, "it read the scale: {autoscaler}");
    resource.await_more_results();
    // It would undo the suspension that ends the test.
    resource.namespace.kubectl(&["delete", "horizontalpodautoscaler", resource.name()]);
    resource.finish(load);
}

#[test]
fn deleted_and_killed_workers_come_back_and_lose_nothing() {
    let redis = redis();
    let resource = Resource::new(kafka(), "hurt", 2).redis(&redis);
    let load = under_load(&resource, 2);
    until_true("a snapshot of every shard", STATUS_TIMEOUT, || redis.keys().len() == 4);

    let victim = pod_names(&resource)[0].clone();
    resource.namespace.kubectl(&["delete", "pod", &victim, "--wait=false"]);
    resource.await_more_results();
    resource.await_workers(2);

    resource.namespace.kill9(&victim);
    until("the worker to be started again, from its snapshots", READY_TIMEOUT, || {
        let restarts = resource.pods()[0]["status"]["containerStatuses"][0]["restartCount"].as_u64();
        let statuses = resource.worker_statuses();
        let from = statuses.iter().find(|status| status["pod"] == victim.as_str()).cloned();
        let from = recoveries(from.as_slice());
        let expected = BTreeSet::from(["snapshot".to_owned()]);
        if restarts >= Some(1) && from == expected { Ok(()) } else { Err(format!("{restarts:?} {from:?}")) }
    });
    resource.await_more_results();
    resource.finish(load);
}

fn pod_uids(resource: &Resource<'_>) -> BTreeSet<String> {
    resource.pods().iter().map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned()).collect()
}

/// Waits until there are as many pods as `before`, and none of them, and all are ready.
#[track_caller]
fn await_rolled(resource: &Resource<'_>, before: &BTreeSet<String>) {
    until("all pods to be new", READY_TIMEOUT, || {
        let now = pod_uids(resource);
        if now.len() == before.len() && now.is_disjoint(before) {
            Ok(())
        } else {
            Err(format!("{before:?} {now:?}"))
        }
    });
    resource.await_workers(before.len());
}

#[test]
fn a_changed_image_rolls_pod_by_pod() {
    let resource = Resource::new(kafka(), "upgraded", 2);
    let load = under_load(&resource, 2);
    let before = pod_uids(&resource);
    let image_of = |pod: &Value| pod["spec"]["containers"][0]["image"].as_str().unwrap().to_owned();
    let image = Cluster::get().second_name_of(&image_of(&resource.pods()[0]));
    resource.patch(&json!({"image": image}));
    await_rolled(&resource, &before);
    assert_eq!(resource.pods().iter().map(image_of).collect::<Vec<_>>(), [&*image, &*image]);
    resource.await_more_results();
    resource.finish(load);
}

#[test]
fn a_changed_configuration_rolls_pod_by_pod_and_metadata_roll_nothing() {
    let resource = Resource::new(kafka(), "rolled", 2);
    let load = under_load(&resource, 2);
    let before = pod_uids(&resource);
    resource.namespace.kubectl(&["label", "crashmonitor", resource.name(), "team=payments"]);
    resource.patch(&json!({"window": {"allowedLateness": "31s"}}));
    await_rolled(&resource, &before);
    resource.await_more_results();
    let rolled = pod_uids(&resource);

    resource.namespace.kubectl(&["annotate", "crashmonitor", resource.name(), "example.com/note=x"]);
    resource.patch(&json!({"restartNonce": 1}));
    await_rolled(&resource, &rolled);
    resource.finish(load);
}

#[test]
fn a_suspended_monitor_goes_on_where_it_stopped() {
    let resource = Resource::new(kafka(), "suspended", 2).set("output.mode", "Final");
    let load = under_load(&resource, 2);
    resource.patch(&json!({"desiredState": "Suspended"}));
    resource.await_workers(0);
    assert_eq!(resource.condition("Suspended").unwrap().status, "True");
    load.await_seconds(2);
    resource.patch(&json!({"desiredState": "Running"}));
    resource.await_workers(2);
    resource.await_more_results();
    resource.finish(load);
}

#[test]
fn a_drained_node_costs_no_result() {
    let resource = Resource::new(kafka(), "drained", 2);
    let load = under_load(&resource, 2);
    let node = resource.pods()[0]["spec"]["nodeName"].as_str().unwrap().to_owned();
    let selector = format!("app.kubernetes.io/instance={}", resource.name());
    // Only our pods: other tests use the node too.
    let drain = ["drain", &node, "--pod-selector", &selector, "--timeout=120s", "--delete-emptydir-data"];
    let drained = Cluster::get().try_kubectl(&drain);
    let uncordoned = Cluster::get().try_kubectl(&["uncordon", &node]);
    drained.unwrap();
    uncordoned.unwrap();
    resource.await_workers(2);
    resource.await_more_results();
    resource.finish(load);
}

#[test]
fn deleting_the_resource_deletes_what_belongs_to_it() {
    let redis = redis();
    for (policy, is_topic_left) in [("Retain", true), ("Delete", false)] {
        let resource = Resource::new(kafka(), "deleted", 1).redis(&redis).set("deletionPolicy", policy);
        let load = under_load(&resource, 1);
        until_true("a snapshot", STATUS_TIMEOUT, || !redis.keys().is_empty());
        resource.namespace.kubectl(&["delete", "crashmonitor", resource.name(), "--timeout=150s"]);
        let kinds = "statefulset,pod,service,configmap,serviceaccount,poddisruptionbudget,networkpolicy,job";
        let selector = format!("app.kubernetes.io/instance={}", resource.name());
        resource.namespace.await_gone(&[kinds, "-l", &selector]);
        let topic = resource.monitor.topics().partitions_of(&resource.monitor.repartition_topic());
        assert_eq!(topic.is_some(), is_topic_left, "{policy}");
        let keys = redis.keys();
        assert_eq!(keys.is_empty(), !is_topic_left, "{policy}: {keys:?}");
        if is_topic_left {
            // Applied again, it goes on where it stopped.
            resource.apply();
            resource.await_workers(1);
            resource.await_more_results();
            resource.finish(load);
        } else {
            load.finish();
        }
        redis.flushall();
    }
}
