//! What a rollout leaves behind, and who removes it.
//!
//! Responsible for naming pods and ConfigMaps that are in the way or of no use any more. Pure. Must never name
//! anything that does work or may be needed by a pod that does.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::status::pods::{is_fresh, name, revision_of, update_revision, was_never_ready};

/// How long the StatefulSet's own controller has for it.
const PATIENCE: SignedDuration = SignedDuration::from_secs(10);
/// Pods that are removed at a time.
const PODS_MAX: usize = 16;

/// Pods of an old revision that never became ready: with those that never will, a rollout that would mend them can wait
/// for ever (kubernetes/kubernetes#67250). They have done nothing, so all of them may go.
pub fn stuck_pods<'a>(set: &StatefulSet, pods: &'a [Arc<Pod>], now: Timestamp) -> Vec<&'a Pod> {
    let Some(revision) = update_revision(set).filter(|_| is_fresh(set)) else { return Vec::new() };
    let is_stuck = |pod: &&Arc<Pod>| {
        let created = pod.metadata.creation_timestamp.as_ref();
        let is_old = created.is_some_and(|created| now.duration_since(created.0) > PATIENCE);
        let is_present = pod.metadata.deletion_timestamp.is_none();
        is_old
            && is_present
            && revision_of(pod).is_some_and(|other| other != revision)
            && was_never_ready(pod)
    };
    pods.iter().filter(is_stuck).take(PODS_MAX).map(AsRef::as_ref).collect()
}

/// ConfigMaps of revisions that no pod has and none will get: all but those of the set and of its pods, once every pod
/// is of the newest revision.
pub fn stale_config_maps(set: &StatefulSet, pods: &[Arc<Pod>], present: &[String]) -> Vec<String> {
    let revision = update_revision(set);
    let is_settled = is_fresh(set) && pods.iter().all(|pod| revision_of(pod) == revision);
    if !is_settled {
        return Vec::new();
    }
    let template = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let specs = pods.iter().filter_map(|pod| pod.spec.as_ref()).chain(template);
    let needed: BTreeSet<&str> = specs.flat_map(config_maps).collect();
    present.iter().filter(|name| !needed.contains(name.as_str())).cloned().collect()
}

fn config_maps(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let volumes = spec.volumes.iter().flatten();
    volumes.filter_map(|volume| volume.config_map.as_ref().map(|map| map.name.as_str()))
}

/// The names of pods, for log lines.
pub fn names(pods: &[&Pod]) -> Vec<String> {
    pods.iter().map(|pod| name(pod).to_string()).collect()
}
