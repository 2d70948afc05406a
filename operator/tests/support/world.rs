//! A monitor as the operator sees it, put together piece by piece.

use std::collections::BTreeMap;
use std::sync::Arc;

use crashmonitor_core::status::{
    AggregatePartition, HoldReason, Holder, InputPartition, PartitionCounts, Reachability, Status as Answer,
};
use crashmonitor_operator::api::{CrashMonitor, CrashMonitorStatus};
use crashmonitor_operator::status::{self, Facts, Memory};
use crashmonitor_operator::validate::{Defaults, validate};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

pub const START: &str = "2026-01-11T14:00:00Z";

/// What there is, and the clock.
pub struct World {
    pub resource: CrashMonitor,
    pub set: Value,
    pub pods: BTreeMap<String, Value>,
    pub answers: BTreeMap<String, Answer>,
    pub hindrances: BTreeMap<String, String>,
    pub scaled_from: Option<i32>,
    pub refused: Option<String>,
    pub status: CrashMonitorStatus,
    pub memory: Memory,
    pub now: Timestamp,
}

impl World {
    /// A monitor with so many workers, all of them ready and answering, looked at twice.
    pub fn running(replicas: i32) -> World {
        let mut world = World::new(replicas);
        for ordinal in 0..replicas {
            world.add_pod(ordinal, true);
            world.answer(ordinal);
        }
        world.look();
        world
    }

    /// A monitor that was just created.
    pub fn new(replicas: i32) -> World {
        let resource = json!({
            "metadata": {"name": "checkout", "namespace": "shop", "uid": "u", "generation": 1},
            "spec": {
                "replicas": replicas,
                "kafka": {"bootstrapServers": "kafka:9092"},
                "input": {"topic": "logs"},
                "repartition": {"partitions": 2},
                "checkpoint": {"redis": {"url": "redis://redis:6379"}},
            },
        });
        World {
            resource: serde_json::from_value(with_kind(resource)).unwrap(),
            set: json!({
                "metadata": {"name": "checkout-worker", "namespace": "shop", "generation": 1},
                "status": {"observedGeneration": 1, "replicas": replicas, "updateRevision": "r1"},
            }),
            pods: BTreeMap::new(),
            answers: BTreeMap::new(),
            hindrances: BTreeMap::new(),
            scaled_from: None,
            refused: None,
            status: CrashMonitorStatus::default(),
            memory: Memory::default(),
            now: START.parse().unwrap(),
        }
    }

    /// A pod of the newest revision.
    pub fn add_pod(&mut self, ordinal: i32, ready: bool) {
        let name = format!("checkout-worker-{ordinal}");
        let ready = if ready { "True" } else { "False" };
        let pod = json!({
            "metadata": {
                "name": name, "namespace": "shop", "uid": format!("p{ordinal}"),
                "creationTimestamp": START,
                "labels": {"controller-revision-hash": "r1"},
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.1", "startTime": START,
                "conditions": [
                    {"type": "PodScheduled", "status": "True"},
                    {"type": "Ready", "status": ready, "lastTransitionTime": START},
                ],
                "containerStatuses": [{
                    "name": "worker", "image": "i", "imageID": "", "ready": ready == "True", "restartCount": 0,
                    "state": {"running": {}},
                }],
            },
        });
        self.pods.insert(name, pod);
    }

    pub fn pod(&mut self, ordinal: i32) -> &mut Value {
        self.pods.get_mut(&format!("checkout-worker-{ordinal}")).unwrap()
    }

    /// Replaces the state of a pod's container, which is then not ready.
    pub fn container(&mut self, ordinal: i32, state: Value) {
        let pod = self.pod(ordinal);
        pod["status"]["conditions"][1]["status"] = json!("False");
        let container = &mut pod["status"]["containerStatuses"][0];
        container["ready"] = json!(false);
        container["state"] = state;
    }

    /// The answer of a worker that fares well. Worker 0 has everything.
    pub fn answer(&mut self, ordinal: i32) -> &mut Answer {
        let pod = format!("checkout-worker-{ordinal}");
        let mut answer = Answer { pod: pod.clone(), ready: true, ..Answer::default() };
        answer.partitions = PartitionCounts { input: 4, repartition: 2 };
        answer.kafka = Reachability { reachable: true, error: None };
        answer.checkpoint_store = Some(Reachability { reachable: true, error: None });
        if ordinal == 0 {
            for partition in 0..4 {
                answer.input.insert(partition, InputPartition { position: 10, ..InputPartition::default() });
            }
            for partition in 0..2 {
                answer.aggregate.insert(partition, aggregate(self.now, 2));
            }
        }
        self.answers.entry(pod).or_insert(answer)
    }

    pub fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    /// Event time of all partitions goes on.
    pub fn advance(&mut self) {
        let now = self.now;
        for partition in self.answers.values_mut().flat_map(|answer| answer.aggregate.values_mut()) {
            *partition =
                AggregatePartition { last_checkpoint_ms: partition.last_checkpoint_ms, ..aggregate(now, 2) };
        }
    }

    /// Looks, remembers and returns what was said.
    pub fn look(&mut self) -> &CrashMonitorStatus {
        let (status, memory) = self.summary();
        (self.status, self.memory) = (status, memory);
        &self.status
    }

    /// Looks without remembering.
    pub fn summary(&self) -> (CrashMonitorStatus, Memory) {
        let defaults = Defaults {
            worker_image: Some("crashmonitor/worker:0.1.0".to_string()),
            operator_namespace: "crashmonitor-system".to_string(),
            console: false,
        };
        let checked = validate(&self.resource, &defaults);
        let set: StatefulSet = serde_json::from_value(self.set.clone()).unwrap();
        let pods: Vec<Arc<Pod>> =
            self.pods.values().map(|pod| Arc::new(serde_json::from_value(pod.clone()).unwrap())).collect();
        status::summarise(&Facts {
            name: "checkout",
            generation: self.resource.metadata.generation.unwrap(),
            monitor: checked.as_ref(),
            refused: self.refused.as_deref(),
            scaled_from: self.scaled_from,
            stateful_set: Some(&set),
            pods: &pods,
            hindrances: &self.hindrances,
            answers: &self.answers,
            previous: &self.status,
            memory: self.memory,
            now: self.now,
        })
    }

    /// `status/reason` of a condition.
    pub fn condition(&self, type_: &str) -> String {
        let found = status::find(&self.status, type_).unwrap();
        format!("{}/{}", found.status, found.reason)
    }

    /// What a condition says to people.
    pub fn message(&self, type_: &str) -> &str {
        &status::find(&self.status, type_).unwrap().message
    }
}

fn with_kind(mut resource: Value) -> Value {
    resource["apiVersion"] = json!("crashmonitor.dev/v1alpha1");
    resource["kind"] = json!("CrashMonitor");
    resource
}

/// A partition whose watermark is so many seconds behind.
pub fn aggregate(now: Timestamp, behind_seconds: i64) -> AggregatePartition {
    AggregatePartition {
        watermark_ms: Some(now.as_millisecond() - behind_seconds * 1000),
        holder: Some(Holder { partition: Some(3), reason: HoldReason::Lagging }),
        recovery: Some("snapshot".to_string()),
        last_checkpoint_ms: Some(now.as_millisecond()),
        ..AggregatePartition::default()
    }
}
