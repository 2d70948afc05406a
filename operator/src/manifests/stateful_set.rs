//! The set of workers, and how it changes.
//!
//! Responsible for the StatefulSet and the PodDisruptionBudget. Must never change a field of the StatefulSet that the
//! API server holds immutable: selector, service name, pod management.

use k8s_openapi::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};

use super::{label_selector, metadata, pod, service_name, worker_name};
use crate::validate::Monitor;

pub(super) fn build(monitor: &Monitor, config_map: &ConfigMap) -> StatefulSet {
    StatefulSet {
        metadata: metadata(monitor, worker_name(&monitor.name)),
        spec: Some(StatefulSetSpec {
            replicas: Some(monitor.wanted_replicas()),
            selector: label_selector(&monitor.name),
            service_name: Some(service_name(&monitor.name)),
            // Workers don't wait for each other; partitions are handed out by Kafka.
            pod_management_policy: Some("Parallel".to_string()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("RollingUpdate".to_string()),
                rolling_update: Some(RollingUpdateStatefulSetStrategy {
                    partition: Some(0),
                    max_unavailable: None,
                }),
            }),
            revision_history_limit: Some(3),
            template: pod::template(monitor, config_map),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

pub(super) fn disruption_budget(monitor: &Monitor) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(monitor, worker_name(&monitor.name)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(monitor.max_unavailable.clone()),
            selector: Some(label_selector(&monitor.name)),
            // A worker that never became ready does nothing that a drain could interrupt.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_string()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
