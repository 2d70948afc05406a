//! The workers' configuration as a file.
//!
//! Responsible for rendering the one schema that operator and worker share. Must never hold a secret: of secrets it
//! names files.

use k8s_openapi::api::core::v1::ConfigMap;

use super::{MOUNT_ROOT, checksum, metadata, worker_name};
use crate::validate::Monitor;

/// The file's name.
pub(super) const FILE: &str = "worker.yaml";
/// The volume's name, and that of its directory.
pub(super) const VOLUME: &str = "config";

/// The file in the container.
pub(super) fn path() -> String {
    format!("{MOUNT_ROOT}/{VOLUME}/{FILE}")
}

/// The file's content.
pub(super) fn text(monitor: &Monitor) -> String {
    serde_yaml::to_string(&monitor.config).expect("a configuration is plain data")
}

pub(super) fn build(monitor: &Monitor) -> ConfigMap {
    let text = text(monitor);
    let name = format!("{}-{}", worker_name(&monitor.name), &checksum(&text)[..8]);
    ConfigMap {
        metadata: metadata(monitor, name),
        immutable: Some(true),
        data: Some([(FILE.to_string(), text)].into()),
        ..ConfigMap::default()
    }
}
