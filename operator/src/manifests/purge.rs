//! What removes a deleted monitor's traces from Kafka and Redis.
//!
//! Responsible for the Job and its ConfigMap. They are not the resource's own, for they must outlive it: the ConfigMap
//! belongs to the Job, and the Job goes by itself some minutes after it has ended. Must never run while workers do.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{ConfigMap, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::{config_map, labels_of, pod};
use crate::validate::Monitor;

/// The label's value by which the operator's Jobs differ from its workers.
const PURGE: &str = "crashmonitor-purge";
/// How long the Job may take: `crashmonitor-worker purge` ends by itself within 65 s, and its pod must start.
pub const JOB_SECONDS: i64 = 75;
/// How long it stays to be looked at.
const KEPT_SECONDS: i32 = 600;

/// The name of Job and ConfigMap.
pub fn name(monitor: &str) -> String {
    format!("{monitor}-purge")
}

/// The Job.
pub fn job(monitor: &Monitor) -> Job {
    let args = ["purge", "--config", &config_map::path()];
    Job {
        metadata: metadata(monitor),
        spec: Some(JobSpec {
            active_deadline_seconds: Some(JOB_SECONDS),
            // The worker itself tries again and again; a second pod would have no time left.
            backoff_limit: Some(0),
            ttl_seconds_after_finished: Some(KEPT_SECONDS),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: metadata(monitor).labels, ..ObjectMeta::default() }),
                spec: Some(PodSpec {
                    restart_policy: Some("Never".to_string()),
                    containers: vec![pod::container(monitor, "purge", &args)],
                    volumes: Some(pod::volumes(name(&monitor.name), &monitor.secrets)),
                    ..pod::restricted(monitor)
                }),
            },
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// Its configuration, owned by the Job.
pub fn config_map(monitor: &Monitor, job: &Job) -> ConfigMap {
    let owner = OwnerReference {
        api_version: "batch/v1".to_string(),
        kind: "Job".to_string(),
        name: name(&monitor.name),
        uid: job.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    ConfigMap {
        metadata: ObjectMeta { owner_references: Some(vec![owner]), ..metadata(monitor) },
        data: Some([(config_map::FILE.to_string(), config_map::text(monitor))].into()),
        ..ConfigMap::default()
    }
}

fn metadata(monitor: &Monitor) -> ObjectMeta {
    ObjectMeta {
        name: Some(name(&monitor.name)),
        namespace: Some(monitor.namespace.clone()),
        labels: Some(labels_of([
            (super::NAME, PURGE),
            (super::INSTANCE, &monitor.name),
            (super::COMPONENT, "purge"),
            (super::PART_OF, "crashmonitor"),
            (super::MANAGED_BY, super::OPERATOR),
        ])),
        ..ObjectMeta::default()
    }
}
