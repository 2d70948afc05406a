//! The pod of a worker.
//!
//! Responsible for its container, its probes, its mounts and its rights, and for laying the resource's template over
//! it. Must never give it more than it needs: it is admitted where PodSecurity `restricted` is enforced, writes to no
//! file system and has no token for the API server.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMap, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, EnvVarSource,
    HTTPGetAction, KeyToPath, ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
    SeccompProfile, SecretVolumeSource, SecurityContext, TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::config_map::{self, VOLUME};
use super::network::PORT_NAME;
use super::{ADMIN_PORT, CHECKSUM, MOUNT_ROOT, RESTART_NONCE, checksum, label_selector, labels, worker_name};
use crate::validate::{Monitor, SecretMount};

/// The container's name.
pub const CONTAINER: &str = "worker";
/// The user and group that the worker runs as: "nonroot" of the distroless images.
const USER: i64 = 65_532;
/// A worker that is told to end finishes a transaction (at most 15 s for each of its steps), waits for
/// acknowledgements (5 s) and leaves two groups (5 s each).
const TERMINATION_GRACE_SECONDS: i64 = 60;

pub(super) fn template(monitor: &Monitor, config_map: &ConfigMap) -> PodTemplateSpec {
    let given = monitor.template.metadata.clone().unwrap_or_default();
    let mut all_labels = given.labels;
    all_labels.extend(labels(&monitor.name));
    let mut annotations = given.annotations;
    annotations.insert(CHECKSUM.to_string(), checksum(&config_map::text(monitor)));
    annotations.insert(RESTART_NONCE.to_string(), monitor.restart_nonce.to_string());
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(all_labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(spec(monitor, config_map)),
    }
}

fn spec(monitor: &Monitor, config_map: &ConfigMap) -> PodSpec {
    let given = monitor.template.spec.clone().unwrap_or_default();
    let config_map = config_map.metadata.name.clone().unwrap_or_default();
    PodSpec {
        affinity: given.affinity,
        node_selector: Some(given.node_selector).filter(|selector| !selector.is_empty()),
        priority_class_name: given.priority_class_name,
        tolerations: Some(given.tolerations).filter(|tolerations| !tolerations.is_empty()),
        topology_spread_constraints: Some(
            given.topology_spread_constraints.unwrap_or_else(|| spread(&monitor.name)),
        ),
        service_account_name: Some(worker_name(&monitor.name)),
        termination_grace_period_seconds: Some(TERMINATION_GRACE_SECONDS),
        containers: vec![worker(monitor)],
        volumes: Some(volumes(config_map, &monitor.secrets)),
        ..restricted(monitor)
    }
}

/// What every pod has, whatever runs in it.
pub(super) fn restricted(monitor: &Monitor) -> PodSpec {
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        image_pull_secrets: Some(monitor.image_pull_secrets.clone()).filter(|secrets| !secrets.is_empty()),
        security_context: Some(PodSecurityContext {
            fs_group: Some(USER),
            fs_group_change_policy: Some("OnRootMismatch".to_string()),
            run_as_group: Some(USER),
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_string(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        ..PodSpec::default()
    }
}

/// The container without what only a running worker needs.
pub(super) fn container(monitor: &Monitor, name: &str, args: &[&str]) -> Container {
    Container {
        name: name.to_string(),
        image: Some(monitor.image.clone()),
        image_pull_policy: monitor.image_pull_policy.map(|policy| policy.as_str().to_string()),
        command: Some(vec![super::WORKER.to_string()]),
        args: Some(args.iter().map(ToString::to_string).collect()),
        resources: Some(monitor.resources.clone()),
        // The line with which a worker ends says what is wrong; it becomes part of the pod's status.
        termination_message_policy: Some("FallbackToLogsOnError".to_string()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".to_string()]) }),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(mounts(&monitor.secrets)),
        ..Container::default()
    }
}

fn worker(monitor: &Monitor) -> Container {
    Container {
        env: Some(vec![
            EnvVar {
                name: "POD_NAME".to_string(),
                value_from: Some(EnvVarSource {
                    field_ref: Some(ObjectFieldSelector {
                        api_version: Some("v1".to_string()),
                        field_path: "metadata.name".to_string(),
                    }),
                    ..EnvVarSource::default()
                }),
                ..EnvVar::default()
            },
            EnvVar {
                name: "CRASHMONITOR_LOG_JSON".to_string(),
                value: Some("true".to_string()),
                ..EnvVar::default()
            },
        ]),
        ports: Some(vec![ContainerPort {
            name: Some(PORT_NAME.to_string()),
            container_port: i32::from(ADMIN_PORT),
            protocol: Some("TCP".to_string()),
            ..ContainerPort::default()
        }]),
        // The endpoints are up before Kafka is looked for, so even a slow node needs no more than this.
        startup_probe: Some(probe("/healthz", 2, 60)),
        liveness_probe: Some(probe("/healthz", 10, 3)),
        readiness_probe: Some(probe("/readyz", 2, 3)),
        ..container(monitor, CONTAINER, &["run", "--config", &config_map::path()])
    }
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_string()),
            port: IntOrString::String(PORT_NAME.to_string()),
            scheme: Some("HTTP".to_string()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(2),
        failure_threshold: Some(failure_threshold),
        success_threshold: Some(1),
        ..Probe::default()
    }
}

/// Evenly over zones and nodes, where that is possible.
fn spread(name: &str) -> Vec<TopologySpreadConstraint> {
    let over = |key: &str| TopologySpreadConstraint {
        max_skew: 1,
        topology_key: key.to_string(),
        when_unsatisfiable: "ScheduleAnyway".to_string(),
        label_selector: Some(label_selector(name)),
        ..TopologySpreadConstraint::default()
    };
    vec![over("topology.kubernetes.io/zone"), over("kubernetes.io/hostname")]
}

pub(super) fn volumes(config_map: String, secrets: &[SecretMount]) -> Vec<Volume> {
    let config = Volume {
        name: VOLUME.to_string(),
        config_map: Some(ConfigMapVolumeSource {
            name: config_map,
            default_mode: Some(0o440),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    };
    let secret = |mount: &SecretMount| Volume {
        name: mount.volume.clone(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(mount.secret_name.clone()),
            default_mode: Some(0o440),
            items: Some(
                mount
                    .items
                    .iter()
                    .map(|(key, path)| KeyToPath { key: key.clone(), path: path.to_string(), mode: None })
                    .collect(),
            ),
            optional: None,
        }),
        ..Volume::default()
    };
    std::iter::once(config).chain(secrets.iter().map(secret)).collect()
}

fn mounts(secrets: &[SecretMount]) -> Vec<VolumeMount> {
    let directories: BTreeMap<String, String> =
        secrets.iter().map(|mount| (mount.volume.clone(), mount.directory())).collect();
    let config = (VOLUME.to_string(), format!("{MOUNT_ROOT}/{VOLUME}"));
    let all = std::iter::once(config).chain(directories);
    let mount = |(name, mount_path)| VolumeMount {
        name,
        mount_path,
        read_only: Some(true),
        ..VolumeMount::default()
    };
    all.map(mount).collect()
}
