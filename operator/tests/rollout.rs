//! What may be removed after a rollout, and what may not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use crashmonitor_operator::rollout::{names, stale_config_maps, stuck_pods};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

const CREATED: &str = "2026-01-11T14:00:00Z";

fn now() -> Timestamp {
    "2026-01-11T14:10:00Z".parse().unwrap()
}

fn set(observed: i64) -> StatefulSet {
    serde_json::from_value(json!({
        "metadata": {"generation": 2},
        "spec": {
            "selector": {}, "serviceName": "s",
            "template": {"spec": {"containers": [], "volumes": [{"name": "c", "configMap": {"name": "new"}}]}},
        },
        "status": {"observedGeneration": observed, "replicas": 1, "updateRevision": "r2"},
    }))
    .unwrap()
}

/// A pod of a revision whose readiness changed last at a time.
fn pod(revision: &str, ready: &str, changed: &str) -> Value {
    json!({
        "metadata": {
            "name": "p", "creationTimestamp": CREATED, "labels": {"controller-revision-hash": revision},
        },
        "spec": {"containers": [], "volumes": [{"name": "c", "configMap": {"name": "old"}}]},
        "status": {
            "startTime": CREATED,
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": changed}],
        },
    })
}

fn pods(values: &[Value]) -> Vec<Arc<Pod>> {
    values.iter().map(|pod| Arc::new(serde_json::from_value(pod.clone()).unwrap())).collect()
}

fn stuck(set: &StatefulSet, pod: &Value) -> usize {
    stuck_pods(set, &pods(std::slice::from_ref(pod)), now()).len()
}

#[test]
fn an_old_pod_that_was_never_ready_is_in_the_way() {
    let never_ready = pod("r1", "False", CREATED);
    assert_eq!(stuck(&set(2), &never_ready), 1);
    let all = pods(&[never_ready]);
    assert_eq!(names(&stuck_pods(&set(2), &all, now())), ["p"]);
}

#[test]
fn a_pod_that_works_or_worked_is_left_alone() {
    assert_eq!(stuck(&set(2), &pod("r1", "True", CREATED)), 0);
    assert_eq!(stuck(&set(2), &pod("r1", "False", "2026-01-11T14:05:00Z")), 0, "it was ready before");
    assert_eq!(stuck(&set(2), &pod("r2", "False", CREATED)), 0, "it is of the newest revision");
}

#[test]
fn nothing_is_removed_before_the_set_has_seen_its_spec() {
    assert_eq!(stuck(&set(1), &pod("r1", "False", CREATED)), 0);
    let config_maps = stale_config_maps(&set(1), &[], &["old".to_string()]);
    assert_eq!(config_maps, Vec::<String>::new());
}

#[test]
fn a_young_pod_is_the_sets_own_business() {
    let pod = pod("r1", "False", CREATED);
    let soon = "2026-01-11T14:00:09Z".parse().unwrap();
    assert_eq!(stuck_pods(&set(2), &pods(&[pod]), soon).len(), 0);
}

#[test]
fn a_config_map_goes_when_no_pod_needs_it() {
    let present = ["new".to_string(), "old".to_string()];
    let old_pod = pods(&[pod("r1", "True", CREATED)]);
    assert_eq!(stale_config_maps(&set(2), &old_pod, &present), Vec::<String>::new());
    let mut new_pod = pod("r2", "True", CREATED);
    new_pod["spec"]["volumes"][0]["configMap"]["name"] = json!("new");
    assert_eq!(stale_config_maps(&set(2), &pods(&[new_pod]), &present), ["old"]);
}
