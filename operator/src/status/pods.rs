//! What the pods say by themselves, without being asked: whether they are there, ready and of which revision, and
//! what keeps them from running.
//!
//! Responsible for turning the many ways in which Kubernetes tells of a pod that does not start into one reason and
//! one line that says what to do. Must never guess: what it does not know is told in Kubernetes' own words.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Facts, line};

/// A pod that has waited this long for its volumes, or to be made, is worth a look at the cluster's events.
const PATIENCE: SignedDuration = SignedDuration::from_secs(10);
/// A change of readiness within this time of the start is the start itself.
const START_SPAN: SignedDuration = SignedDuration::from_secs(10);

/// What keeps a worker from running.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Of a condition and an event.
    pub reason: &'static str,
    /// What to do about it.
    pub message: String,
}

/// The pods of a monitor, counted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fleet {
    /// Pods that are not on their way out.
    pub existing: i32,
    /// Pods on their way out.
    pub leaving: i32,
    /// Existing pods that are ready.
    pub ready: i32,
    /// Existing pods of the newest revision.
    pub updated: i32,
    /// Whether the StatefulSet's controller has seen the newest spec; before that, revisions mean nothing.
    pub is_fresh: bool,
    /// The first problem, by the pods' names.
    pub problem: Option<Problem>,
}

impl Fleet {
    /// Counts.
    pub fn new(facts: &Facts<'_>) -> Fleet {
        let revision = facts.stateful_set.and_then(update_revision);
        let mut fleet = Fleet { is_fresh: facts.stateful_set.is_some_and(is_fresh), ..Fleet::default() };
        for pod in facts.pods {
            if pod.metadata.deletion_timestamp.is_some() {
                fleet.leaving += 1;
                continue;
            }
            fleet.existing += 1;
            fleet.ready += i32::from(is_ready(pod));
            fleet.updated += i32::from(revision.is_some() && revision_of(pod) == revision);
        }
        fleet.problem = problem(facts);
        fleet
    }
}

fn problem(facts: &Facts<'_>) -> Option<Problem> {
    let mut pods: Vec<&Arc<Pod>> = facts.pods.iter().collect();
    pods.sort_by_key(|pod| pod.metadata.name.clone());
    let present = pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let of_pod = |pod: &Arc<Pod>| {
        let hindrance = facts.hindrances.get(name(pod)).map(String::as_str);
        problem_of(pod, hindrance)
    };
    present.map(of_pod).find(Option::is_some).flatten().or_else(|| {
        let set = facts.stateful_set.and_then(|set| set.metadata.name.as_deref())?;
        let message = facts.hindrances.get(set)?;
        Some(Problem {
            reason: "PodsNotCreated",
            message: line(&format!("the pods can't be created: {message}")),
        })
    })
}

/// The pod's name.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// Whether the StatefulSet's controller has acted on the newest spec.
pub fn is_fresh(set: &StatefulSet) -> bool {
    set.status.as_ref().and_then(|status| status.observed_generation) >= set.metadata.generation
}

/// The revision that all pods are to have.
pub fn update_revision(set: &StatefulSet) -> Option<&str> {
    set.status.as_ref()?.update_revision.as_deref()
}

/// The revision that a pod has.
pub fn revision_of(pod: &Pod) -> Option<&str> {
    Some(pod.metadata.labels.as_ref()?.get("controller-revision-hash")?.as_str())
}

fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<(&'a str, Option<&'a Time>, Option<&'a str>)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == type_)?;
    Some((found.status.as_str(), found.last_transition_time.as_ref(), found.message.as_deref()))
}

/// Whether the pod is ready.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|(status, ..)| status == "True")
}

/// Whether the pod is not ready and has not been since it started.
pub fn was_never_ready(pod: &Pod) -> bool {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    match (condition(pod, "Ready"), started) {
        (Some(("True", ..)), _) => false,
        (Some((_, Some(changed), _)), Some(started)) => changed.0.duration_since(started.0) <= START_SPAN,
        _ => true,
    }
}

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.first()
}

/// The process in the pod: another one after each restart.
pub fn process(pod: &Pod) -> String {
    let restarts = container(pod).map_or(0, |container| container.restart_count);
    format!("{}/{restarts}", pod.metadata.uid.as_deref().unwrap_or_default())
}

/// Whether the pod has waited for its volumes for so long that the cluster's events should be asked why.
pub fn waits_for_volumes(pod: &Pod, now: Timestamp) -> bool {
    let is_scheduled = condition(pod, "PodScheduled").is_some_and(|(status, ..)| status == "True");
    let waiting = container(pod).and_then(|container| container.state.as_ref()?.waiting.as_ref());
    let is_creating = waiting.is_none_or(|waiting| waiting.reason.as_deref() == Some("ContainerCreating"));
    let is_pending = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending");
    let created = pod.metadata.creation_timestamp.as_ref();
    let is_old = created.is_some_and(|created| now.duration_since(created.0) > PATIENCE);
    is_pending && is_scheduled && is_creating && is_old && pod.metadata.deletion_timestamp.is_none()
}

/// Whether pods have been missing for so long that the cluster's events should be asked why: the controller of StatefulSets
/// takes a moment for each of them.
pub fn are_missing(since: Option<Timestamp>, now: Timestamp) -> bool {
    since.is_some_and(|since| now.duration_since(since) > PATIENCE)
}

fn problem_of(pod: &Pod, hindrance: Option<&str>) -> Option<Problem> {
    let name = name(pod);
    let found = |reason, text: String| Some(Problem { reason, message: line(&format!("{name}: {text}")) });
    if let Some(("False", _, message)) = condition(pod, "PodScheduled") {
        let message = message.unwrap_or("no reason given");
        let advice = "no node takes the pod: correct spec.resources or spec.template.spec, or add nodes";
        return found("Unschedulable", format!("{advice}: {message}"));
    }
    if let Some(text) = hindrance {
        return if text.contains("secret") && (text.contains("not found") || text.contains("non-existent")) {
            found(
                "SecretMissing",
                format!("{text}; create the Secret or correct its name and key in the spec"),
            )
        } else {
            found("VolumesNotMounted", format!("its files can't be mounted: {text}"))
        };
    }
    let container = container(pod)?;
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let message = waiting.message.as_deref().unwrap_or("no message");
        match waiting.reason.as_deref().unwrap_or_default() {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                let image = &container.image;
                return found(
                    "ImagePullFailed",
                    format!(
                        "image {image} can't be pulled: correct spec.image or spec.imagePullSecrets: {message}"
                    ),
                );
            }
            reason @ ("CreateContainerConfigError" | "CreateContainerError" | "RunContainerError") => {
                return found("ContainerNotCreated", format!("{reason}: {message}"));
            }
            _ => {}
        }
    }
    crashed(container).and_then(|(reason, text)| found(reason, text))
}

/// Why the container's process ended, if it did not come back since.
fn crashed(container: &ContainerStatus) -> Option<(&'static str, String)> {
    let state = container.state.as_ref()?;
    if state.running.is_some() && container.ready {
        return None;
    }
    let is_waiting = state.waiting.as_ref().is_some_and(|w| w.reason.as_deref() == Some("CrashLoopBackOff"));
    let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    let ended = state.terminated.as_ref().or(last.filter(|_| is_waiting || container.restart_count > 1))?;
    let said = ended.message.as_deref().unwrap_or_default();
    let said = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    let said = said.trim_start_matches("crashmonitor-worker: ");
    match (ended.exit_code, ended.reason.as_deref()) {
        (_, Some("OOMKilled")) => Some((
            "OutOfMemory",
            "the worker was ended because it used more memory than spec.resources.limits.memory: raise it"
                .to_string(),
        )),
        (0, _) => None,
        (2, _) => Some(("ConfigurationRefused", format!("the worker refuses its configuration: {said}"))),
        (code, _) => Some(("WorkerCrashing", format!("the worker ended with code {code}: {said}"))),
    }
}
