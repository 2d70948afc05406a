//! The Kubernetes objects that make a monitor run.
//!
//! Responsible for all of them, their names, labels and owner: [`build`] is a pure function of a checked
//! [`Monitor`]. Must never look at what is there already: applying is idempotent, and comparing is the API server's.
//!
//! | object | name |
//! |---|---|
//! | StatefulSet, ServiceAccount, PodDisruptionBudget, NetworkPolicy | `<name>-worker` |
//! | headless Service | `<name>-workers` |
//! | ConfigMap | `<name>-worker-<checksum of its content>` |
//! | Job and ConfigMap that remove what is in Kafka and Redis | `<name>-purge` |
//!
//! A ConfigMap belongs to one revision of the pods: when a worker of the old revision restarts while a new one rolls
//! out, it reads the settings that it was started with, so a bad edit stops at the first pod.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource;
use xxhash_rust::xxh3::xxh3_64;

use crate::api::{CrashMonitor, GROUP};
use crate::validate::Monitor;

mod config_map;
mod network;
mod pod;
pub mod purge;
mod stateful_set;

/// The operator's name as field manager, in labels and in events.
pub const OPERATOR: &str = "crashmonitor-operator";
/// `app.kubernetes.io/name` of the workers' pods.
pub const WORKER: &str = "crashmonitor-worker";
/// The label by which the operator finds what it made.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The label that names the resource.
pub const INSTANCE: &str = "app.kubernetes.io/instance";
const NAME: &str = "app.kubernetes.io/name";
const COMPONENT: &str = "app.kubernetes.io/component";
const PART_OF: &str = "app.kubernetes.io/part-of";
/// The labels of pods that a template must not set.
pub const OWNED_LABELS: [&str; 5] = [NAME, INSTANCE, COMPONENT, MANAGED_BY, PART_OF];

/// The longest name of a resource: with `-worker-`, and the ten characters that Kubernetes adds to a revision's name,
/// it must fit into a label's 63.
pub const NAME_LENGTH_MAX: usize = 45;
/// Where the workers serve `/healthz`, `/readyz`, `/metrics` and `/status`.
pub const ADMIN_PORT: u16 = 9400;
/// Where files are mounted in the container.
pub const MOUNT_ROOT: &str = "/etc/crashmonitor";
/// The annotation of pods by which another configuration makes another revision.
pub const CHECKSUM: &str = "crashmonitor.dev/config-checksum";
/// The annotation of pods by which another `restartNonce` makes another revision.
pub const RESTART_NONCE: &str = "crashmonitor.dev/restart-nonce";
/// Pods of a namespace with this label and the value `allowed` may read the workers' endpoints.
pub const METRICS_ACCESS: &str = "crashmonitor.dev/metrics";

/// Everything that belongs to a monitor, in the order in which it is applied.
#[derive(Clone, PartialEq, Debug)]
pub struct Objects {
    /// An identity without any right, and without a token.
    pub service_account: ServiceAccount,
    /// The workers' configuration.
    pub config_map: ConfigMap,
    /// Gives the pods their names in DNS.
    pub service: Service,
    /// Who may talk to the pods.
    pub network_policy: NetworkPolicy,
    /// How many pods a drain may take at once.
    pub pod_disruption_budget: PodDisruptionBudget,
    /// The pods.
    pub stateful_set: StatefulSet,
}

/// All objects of a monitor.
pub fn build(monitor: &Monitor) -> Objects {
    let config_map = config_map::build(monitor);
    Objects {
        service_account: ServiceAccount {
            metadata: metadata(monitor, worker_name(&monitor.name)),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        },
        service: network::service(monitor),
        network_policy: network::policy(monitor),
        pod_disruption_budget: stateful_set::disruption_budget(monitor),
        stateful_set: stateful_set::build(monitor, &config_map),
        config_map,
    }
}

/// The name of the StatefulSet and what belongs to its pods.
pub fn worker_name(name: &str) -> String {
    format!("{name}-worker")
}

/// The name of the headless Service.
pub fn service_name(name: &str) -> String {
    format!("{name}-workers")
}

/// The labels that select the pods of a monitor. They can't be changed once the StatefulSet is there.
pub fn selector(name: &str) -> BTreeMap<String, String> {
    labels_of([(NAME, WORKER), (INSTANCE, name)])
}

/// The same, as autoscalers want it.
pub fn selector_text(name: &str) -> String {
    let terms: Vec<_> = selector(name).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    terms.join(",")
}

/// The labels of everything that belongs to a monitor.
pub fn labels(name: &str) -> BTreeMap<String, String> {
    let further = [(COMPONENT, "worker"), (PART_OF, "crashmonitor"), (MANAGED_BY, OPERATOR)];
    let mut labels = selector(name);
    labels.extend(labels_of(further));
    labels
}

fn labels_of<const N: usize>(labels: [(&str, &str); N]) -> BTreeMap<String, String> {
    labels.map(|(key, value)| (key.to_string(), value.to_string())).into()
}

fn label_selector(name: &str) -> LabelSelector {
    LabelSelector { match_labels: Some(selector(name)), ..LabelSelector::default() }
}

/// Name, namespace, labels and owner of an object.
fn metadata(monitor: &Monitor, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(monitor.namespace.clone()),
        labels: Some(labels(&monitor.name)),
        owner_references: Some(vec![owner(monitor)]),
        ..ObjectMeta::default()
    }
}

/// The resource as owner: what it owns is deleted with it.
fn owner(monitor: &Monitor) -> OwnerReference {
    OwnerReference {
        api_version: CrashMonitor::api_version(&()).into_owned(),
        kind: CrashMonitor::kind(&()).into_owned(),
        name: monitor.name.clone(),
        uid: monitor.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Sixteen hexadecimal digits that change with the text.
fn checksum(text: &str) -> String {
    format!("{:016x}", xxh3_64(text.as_bytes()))
}

/// The finalizer of resources whose `deletionPolicy` is `Delete`.
pub fn finalizer() -> String {
    format!("{GROUP}/purge")
}
