//! A `CrashMonitor` resource under test, with its namespace, its pods and its topics.
//!
//! Responsible for applying and changing the resource as a user would, with kubectl; for what its status and its pods
//! say; and for an end at which its output is held against a recomputation. Must never do what the operator should.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Namespace;
use crate::load::Load;
use crate::monitor::Monitor;
use crate::wait::{until, until_true};
use crate::{Kafka, Redis};

/// How long pods may take to be scheduled, started, restored and seen by the operator.
pub const READY_TIMEOUT: Duration = Duration::from_secs(180);
/// How long the operator may take to see what workers say, and to write it.
pub const STATUS_TIMEOUT: Duration = Duration::from_secs(90);
/// How long results may take at the end of a test.
const RESULTS_TIMEOUT: Duration = Duration::from_secs(120);

/// One condition of the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// The cause, in one word.
    pub reason: String,
    /// What a person should read.
    pub message: String,
}

/// The resource.
#[derive(Debug)]
pub struct Resource<'a> {
    /// Its topics, and what they must hold.
    pub monitor: Monitor<'a>,
    /// Where it lives.
    pub namespace: Namespace,
    spec: Value,
}

impl<'a> Resource<'a> {
    /// One of its own namespace, which reads a topic that is not there yet; not applied yet.
    #[track_caller]
    pub fn new(kafka: &'a Kafka, prefix: &str, replicas: u32) -> Resource<'a> {
        Resource::of(Monitor::new(kafka, prefix), Namespace::new(prefix), replicas)
    }

    /// The same with these very names, for a Kafka that no other test uses, and what a person reads.
    #[track_caller]
    pub fn named(kafka: &'a Kafka, namespace: &str, name: &str, replicas: u32) -> Resource<'a> {
        Resource::of(Monitor::named(kafka, name), Namespace::named(namespace), replicas)
    }

    fn of(monitor: Monitor<'a>, namespace: Namespace, replicas: u32) -> Resource<'a> {
        let monitor = monitor.in_namespace(namespace.name());
        let mut spec = monitor.spec();
        spec["replicas"] = json!(replicas);
        Resource { monitor, namespace, spec }
    }

    /// Keeps checkpoints in a Redis.
    pub fn redis(self, redis: &Redis) -> Resource<'a> {
        self.set("checkpoint.redis.url", redis.url()).set("checkpoint.interval", "1s")
    }

    /// Sets a field of the spec, given by its path, such as `window.size`.
    pub fn set(mut self, path: &str, value: impl Into<Value>) -> Resource<'a> {
        let value = value.into();
        *path.split('.').fold(&mut self.spec, |at, key| &mut at[key]) = value.clone();
        // What the monitor does not know does not hurt it: it looks only at topics, windows and thresholds.
        self.monitor = self.monitor.set(path, value);
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.monitor.name()
    }

    /// The object as it is applied.
    pub fn object(&self) -> Value {
        json!({
            "apiVersion": "crashmonitor.dev/v1alpha1",
            "kind": "CrashMonitor",
            "metadata": {"name": self.name(), "namespace": self.namespace.name()},
            "spec": self.spec,
        })
    }

    /// Applies it.
    #[track_caller]
    pub fn apply(&self) {
        crate::cluster::Cluster::get().apply(&self.object());
    }

    /// Merges a change into the spec in the API server, as `kubectl patch` does.
    #[track_caller]
    pub fn patch(&self, spec: &Value) {
        let patch = json!({"spec": spec}).to_string();
        self.namespace.kubectl(&["patch", "crashmonitor", self.name(), "--type=merge", "-p", &patch]);
    }

    /// `kubectl scale`.
    #[track_caller]
    pub fn scale(&self, replicas: u32) {
        let target = format!("crashmonitor/{}", self.name());
        self.namespace.kubectl(&["scale", &target, &format!("--replicas={replicas}")]);
    }

    /// The object in the API server.
    #[track_caller]
    pub fn get(&self) -> Value {
        self.namespace.get_json(&["crashmonitor", self.name()])
    }

    /// One of its conditions.
    #[track_caller]
    pub fn condition(&self, kind: &str) -> Option<Condition> {
        let object = self.get();
        let conditions = object.pointer("/status/conditions")?.as_array()?;
        let condition = conditions.iter().find(|condition| condition["type"] == kind)?;
        let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
        Some(Condition { status: text("status"), reason: text("reason"), message: text("message") })
    }

    /// Waits until a condition has this status, and gives it.
    #[track_caller]
    pub fn await_condition(&self, kind: &str, status: &str) -> Condition {
        until(&format!("{} of {} to be {status}", kind, self.name()), READY_TIMEOUT, || {
            match self.condition(kind) {
                Some(condition) if condition.status == status => Ok(condition),
                _ => Err(format!("{}\n{:?}", self.get()["status"], self.namespace.events())),
            }
        })
    }

    /// Waits until an event with this reason is there, and gives its note.
    #[track_caller]
    pub fn await_event(&self, reason: &str) -> String {
        until(&format!("the event {reason} of {}", self.name()), STATUS_TIMEOUT, || {
            let events = self.namespace.events();
            let ours = events
                .iter()
                .find(|(r, object, _)| r == reason && *object == format!("CrashMonitor/{}", self.name()));
            ours.map(|(_, _, note)| note.clone()).ok_or_else(|| format!("{events:?}"))
        })
    }

    /// Its pods, by name.
    #[track_caller]
    pub fn pods(&self) -> Vec<Value> {
        let selector = format!("app.kubernetes.io/instance={}", self.name());
        let mut pods = self.namespace.list(&["pods", "-l", &selector]);
        pods.sort_by_key(|pod| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned());
        pods
    }

    /// Waits until so many workers are ready, no more are there, and the status says so.
    #[track_caller]
    pub fn await_workers(&self, replicas: usize) {
        until(&format!("{replicas} ready workers of {}", self.name()), READY_TIMEOUT, || {
            let (pods, object) = (self.pods(), self.get());
            let shown = object["status"]["readyReplicas"].as_u64().unwrap_or_default();
            let observed = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            if pods.len() == replicas && pods.iter().all(is_ready) && shown == replicas as u64 && observed {
                return Ok(());
            }
            let states: Vec<String> =
                pods.iter().map(|pod| format!("{} {}", pod["metadata"]["name"], pod["status"])).collect();
            Err(format!("{}\n{}\n{:?}", object["status"], states.join("\n"), self.namespace.events()))
        });
    }

    /// What the workers that answer say at `/status`.
    #[track_caller]
    pub fn worker_statuses(&self) -> Vec<Value> {
        let namespace = self.namespace.name();
        let answer = |pod: &Value| {
            let pod = pod["metadata"]["name"].as_str()?;
            let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:9400/proxy/status");
            let text = self.namespace.try_kubectl(&["get", "--raw", &path]).ok()?;
            serde_json::from_str(&text).ok()
        };
        self.pods().iter().filter_map(answer).collect()
    }

    /// Waits until the workers have written more results than now.
    #[track_caller]
    pub fn await_more_results(&self) {
        let is_there = || self.monitor.topics().partitions_of(self.monitor.output()).is_some();
        let written = || if is_there() { self.monitor.readable_alerts().len() } else { 0 };
        let before = written();
        until_true("further results", RESULTS_TIMEOUT, || written() > before);
    }

    /// Ends the load, has all windows close, and holds the output against the whole input; then suspends the monitor
    /// and looks again, for what should not have been written.
    #[track_caller]
    pub fn finish(&self, load: Load) {
        let last_ms = load.finish();
        self.monitor.advance(last_ms + 60_000);
        until("all windows to be closed", RESULTS_TIMEOUT, || {
            self.monitor.reached(&self.worker_statuses(), "closedThroughMs", last_ms + 10_000)
        });
        let expected = self.monitor.expected();
        self.monitor.await_results(&expected, RESULTS_TIMEOUT);
        self.patch(&json!({"desiredState": "Suspended"}));
        self.await_workers(0);
        let report = self.monitor.report();
        assert!(report.is_right(), "{report}");
        assert!(report.right > 100, "too few results to tell: {report}");
        assert_eq!(self.monitor.late().len(), 0, "nothing was late");
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    pod["metadata"]["deletionTimestamp"].is_null()
        && conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}
