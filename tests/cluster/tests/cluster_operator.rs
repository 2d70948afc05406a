//! The operator on a real Kubernetes: what it may do, what it leaves alone, and what it says when something is wrong.
//!
//! Responsible for everything that needs the real API server and real pods but no load. Each mistake is made for real, and
//! a person must find out from the resource alone what to do. Needs the cluster of `make cluster`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use crashmonitor_testbed::cluster::{Cluster, Namespace};
use crashmonitor_testbed::kafka::Security;
use crashmonitor_testbed::operator;
use crashmonitor_testbed::resource::{READY_TIMEOUT, Resource};
use crashmonitor_testbed::{Kafka, until};
use serde_json::{Value, json};

const OWNED: &str = "statefulset,service,configmap,serviceaccount,poddisruptionbudget,networkpolicy";

/// One Kafka for all tests here, where pods reach it, with a listener for those that know a password.
fn kafka() -> &'static Kafka {
    static KAFKA: OnceLock<Kafka> = OnceLock::new();
    KAFKA.get_or_init(|| {
        let builder = Kafka::builder().for_pods(Cluster::get().host());
        builder.listener(Security::SaslPlaintext).user("monitor", "right").start()
    })
}

fn resource(prefix: &str, replicas: u32) -> Resource<'static> {
    operator::ensure();
    Resource::new(kafka(), prefix, replicas)
}

/// Applies it and waits until the resource says that something is wrong: in a condition, with what to do, and in an event.
#[track_caller]
fn assert_wrong(resource: &Resource<'_>, reason: &str, says: &[&str]) {
    resource.apply();
    let message =
        until(&format!("Degraded for {reason}"), READY_TIMEOUT, || match resource.condition("Degraded") {
            Some(condition) if condition.status == "True" && condition.reason == reason => {
                Ok(condition.message)
            }
            other => Err(format!("{other:?}\n{:?}", resource.namespace.events())),
        });
    for part in says {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
    resource.await_event(reason);
}

#[test]
fn an_unreachable_kafka_is_named() {
    let resource =
        resource("no-kafka", 1).set("kafka.bootstrapServers", format!("{}:1", Cluster::get().host()));
    assert_wrong(&resource, "KafkaUnreachable", &["spec.kafka.bootstrapServers"]);
    assert_eq!(resource.await_condition("Ready", "False").reason, "KafkaUnreachable");
    assert_eq!(resource.await_condition("KafkaReachable", "False").reason, "KafkaUnreachable");
}

#[test]
fn a_missing_topic_is_waited_for() {
    let resource = resource("no-topic", 1);
    let topic = resource.monitor.input().to_owned();
    assert_wrong(&resource, "InputTopicMissing", &[&topic]);
    resource.monitor.create_input(2);
    resource.await_workers(1);
    assert_eq!(resource.await_condition("Degraded", "False").reason, "AsExpected");
    assert_eq!(resource.await_condition("Ready", "True").reason, "Running");
}

#[test]
fn a_wrong_password_is_named_and_not_shown() {
    let resource = resource("wrong-password", 1)
        .set("kafka.bootstrapServers", kafka().bootstrap_of(Security::SaslPlaintext))
        .set("kafka.authentication.type", "scram-sha-512")
        .set("kafka.authentication.username", "monitor")
        .set("kafka.authentication.passwordSecret", json!({"secretName": "kafka", "password": "password"}));
    secret(&resource.namespace, "kafka", "password", "planted-wrong-password");
    resource.monitor.create_input(1);
    assert_wrong(&resource, "KafkaAuthenticationFailed", &["password"]);
    let shown = format!("{}{:?}", resource.get(), resource.namespace.events());
    assert!(!shown.contains("planted"), "{shown}");

    // A person corrects the Secret; the workers read it again.
    secret(&resource.namespace, "kafka", "password", "right");
    resource.await_workers(1);
    resource.await_condition("Degraded", "False");
}

#[test]
fn a_missing_secret_is_named() {
    let resource = resource("no-secret", 1)
        .set("kafka.authentication.type", "scram-sha-512")
        .set("kafka.authentication.username", "monitor")
        .set("kafka.authentication.passwordSecret", json!({"secretName": "absent", "password": "password"}));
    assert_wrong(&resource, "SecretMissing", &["absent", "create the Secret"]);
}

#[test]
fn an_unreachable_redis_is_named_and_stops_nothing() {
    let resource =
        resource("no-redis", 1).set("checkpoint.redis.url", format!("redis://{}:1", Cluster::get().host()));
    resource.monitor.create_input(1);
    assert_wrong(&resource, "CheckpointStoreUnreachable", &["spec.checkpoint.redis", "nothing is lost"]);
    resource.await_workers(1);
    assert_eq!(resource.await_condition("Ready", "True").reason, "Running");
}

#[test]
fn a_missing_image_is_named_and_a_correction_replaces_it() {
    let resource =
        resource("no-image", 1).set("image", "crashmonitor/absent:0.0.1").set("imagePullPolicy", "Never");
    resource.monitor.create_input(1);
    assert_wrong(&resource, "ImagePullFailed", &["crashmonitor/absent:0.0.1", "spec.image"]);
    resource.patch(&json!({"image": null}));
    resource.await_workers(1);
}

#[test]
fn more_workers_than_partitions_are_no_error() {
    let resource = resource("many", 2);
    resource.monitor.create_input(1);
    resource.apply();
    resource.await_workers(2);
    until("ReplicasExceedPartitions", READY_TIMEOUT, || match resource.condition("Ready") {
        Some(ready) if ready.status == "True" && ready.reason == "ReplicasExceedPartitions" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    resource.await_event("ReplicasExceedPartitions");
}

#[test]
fn what_somebody_else_made_is_not_taken_over_and_what_is_ours_is_kept() {
    let resource = resource("taken", 1);
    resource.monitor.create_input(1);
    let (namespace, account) = (&resource.namespace, format!("{}-worker", resource.name()));
    namespace.kubectl(&["create", "serviceaccount", &account]);
    let before = namespace.get_json(&["serviceaccount", &account]);
    assert_wrong(&resource, "Refused", &[&format!("ServiceAccount {account}"), "belongs to somebody else"]);
    assert_eq!(namespace.get_json(&["serviceaccount", &account]), before);

    // A person makes room.
    namespace.kubectl(&["delete", "serviceaccount", &account]);
    resource.await_condition("Degraded", "False");
    // Labels count in no generation; without this one, the operator does not see the object any more.
    for label in ["app.kubernetes.io/part-of", "app.kubernetes.io/managed-by"] {
        namespace.kubectl(&["label", "statefulset", &account, &format!("{label}-")]);
        until(&format!("the label {label} to be back"), READY_TIMEOUT, || {
            let set = namespace.get_json(&["statefulset", &account]);
            let found = set["metadata"]["labels"][label].as_str().map(str::to_owned);
            found.ok_or_else(|| set["metadata"]["labels"].to_string())
        });
    }
}

#[test]
fn what_the_api_server_can_refuse_never_takes_down_what_runs() {
    let resource = resource("refused", 1);
    resource.monitor.create_input(1);
    resource.apply();
    resource.await_workers(1);
    let uid = resource.pods()[0]["metadata"]["uid"].clone();
    for (path, value, says) in [
        ("window.size", json!("20s"), "can't be changed"),
        ("input.topic", json!("other"), "can't be changed"),
        ("output.mode", json!("Final"), "can't be changed"),
        ("repartition.partitions", json!(7), "can't be changed"),
        ("countGreaterThan", json!(-1), "countGreaterThan"),
    ] {
        let edited = resource_with(&resource, path, value);
        let refused = Cluster::get().try_apply(&edited).unwrap_err();
        assert!(refused.contains(says), "{path}: {refused}");
    }
    assert_eq!(resource.pods()[0]["metadata"]["uid"], uid, "the worker was replaced");
    assert_eq!(resource.await_condition("Ready", "True").reason, "Running");
}

fn resource_with(resource: &Resource<'_>, path: &str, value: Value) -> Value {
    let mut object = resource.object();
    *path.split('.').fold(&mut object["spec"], |at, key| &mut at[key]) = value;
    object
}

#[test]
fn operators_come_and_go_and_nothing_is_written_again() {
    let resource = resource("steady", 2);
    resource.monitor.create_input(2);
    resource.apply();
    resource.await_workers(2);
    resource.await_condition("Ready", "True");
    let versions = || -> BTreeMap<String, String> {
        let selector = format!("app.kubernetes.io/instance={}", resource.name());
        let owned = resource.namespace.list(&[OWNED, "-l", &selector]);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let version = |object: &Value| {
            let name = format!("{}/{}", object["kind"], object["metadata"]["name"]);
            let owner = &object["metadata"]["ownerReferences"][0];
            assert_eq!(owner["kind"], "CrashMonitor", "{name} belongs to {owner}");
            assert_eq!(owner["controller"], true, "{name}");
            (name, text(&object["metadata"]["resourceVersion"]))
        };
        owned.iter().map(version).collect()
    };
    let pods = || -> BTreeSet<String> {
        resource.pods().iter().map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned()).collect()
    };
    let (before, pods_before) = (versions(), pods());
    assert!(before.len() >= 6, "{before:?}");

    let leader = operator::leader().expect("somebody leads");
    assert_eq!(operator::pods().len(), 2, "two operators");
    Cluster::get().kubectl(&["delete", "pod", &leader, "-n", operator::NAMESPACE, "--wait=false"]);
    let next = until("another leader", READY_TIMEOUT, || match operator::leader() {
        Some(next) if next != leader && !next.is_empty() => Ok(next),
        other => Err(format!("{other:?}")),
    });
    // The new leader has seen everything once it has dealt with a change that came after it.
    resource.scale(3);
    resource.await_workers(3);
    resource.scale(2);
    resource.await_workers(2);
    let (mut after, pods_after) = (versions(), pods());
    let scaled =
        |versions: &mut BTreeMap<String, String>| versions.retain(|name, _| !changes_by_scaling(name));
    let mut before = before;
    scaled(&mut before);
    scaled(&mut after);
    assert_eq!(before, after, "{next} wrote what had not changed");
    assert_eq!(pods_before, pods_after, "an operator's restart restarted workers");
}

/// What Kubernetes itself or a change of replicas writes to.
fn changes_by_scaling(name: &str) -> bool {
    name.contains("StatefulSet") || name.contains("PodDisruptionBudget")
}

#[test]
fn the_operator_can_read_no_secret() {
    operator::ensure();
    let account = operator::pods()[0]["spec"]["serviceAccountName"].as_str().unwrap().to_owned();
    let account = format!("--as=system:serviceaccount:{}:{account}", operator::NAMESPACE);
    let may = |arguments: &[&str]| {
        let asked = [&["auth", "can-i"], arguments, &[&account, "--all-namespaces"]].concat();
        // `no` comes with an exit code of its own.
        Cluster::get().try_kubectl(&asked).unwrap_or_else(|answer| answer)
    };
    for verb in ["get", "list", "watch", "create", "update", "patch", "delete"] {
        assert_eq!(may(&[verb, "secrets"]), "no", "{verb} secrets");
    }
    assert_eq!(may(&["create", "pods", "--subresource=exec"]), "no");
    // The question is asked rightly: what it needs, it may.
    assert_eq!(may(&["patch", "statefulsets.apps"]), "yes");
    assert_eq!(may(&["patch", "crashmonitors.crashmonitor.dev", "--subresource=status"]), "yes");
}

fn secret(namespace: &Namespace, name: &str, key: &str, value: &str) {
    Cluster::get().apply(&json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace.name()},
        "stringData": {key: value},
    }));
}
