//! The loop around the pure parts.
//!
//! Responsible for fetching, applying, asking the workers and writing the status, in this order, each time a resource
//! or anything that belongs to it changes, and every few seconds to see how the workers fare. Must never decide what an
//! object or a status looks like: [`validate`](crate::validate), [`manifests`](crate::manifests),
//! [`status`](crate::status), [`events`](crate::events) and [`rollout`](crate::rollout) do.
//!
//! A failed reconcile is tried again after 1 s, then after twice that, up to a minute.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Event as CoreEvent, ObjectReference, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event as K8sEvent, EventType, Recorder, Reporter};
use kube::{Client, Resource, ResourceExt};
use serde_json::json;

use crate::admin::Admin;
use crate::api::{CrashMonitor, CrashMonitorStatus, DeletionPolicy};
use crate::events::{self, Event};
use crate::manifests::{self, OPERATOR, finalizer};
use crate::metrics::{ConditionLabels, Failure, Object};
use crate::status::{self, Facts, Memory, Write};
use crate::validate::{Defaults, Monitor, validate};
use crate::{rollout, workers};

mod apply;
mod finalize;
mod owned;
mod watch;

use watch::Stores;
pub use watch::run;

/// How often workers are asked while something is going on, and otherwise.
const POLL_INTERVAL: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(10));
/// The first and the longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How much of an action the API server takes.
const ACTION_LENGTH_MAX: usize = 128;
/// How often the resources are counted.
const STOCK_INTERVAL: Duration = Duration::from_secs(10);

/// Why a reconcile failed. What a person can mend is in the resource's status instead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not do what it was asked.
    #[error("{what}: {source}")]
    Api {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: kube::Error,
    },
    /// An object that belonged to an earlier resource of the same name is still being removed.
    #[error("{what} of the resource before is still there")]
    Leftover {
        /// The object.
        what: String,
    },
}

impl Error {
    fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
        let what = what.into();
        |source| Error::Api { what, source }
    }
}

/// What is kept about a resource between reconciles. Losing it costs some needless requests.
#[derive(Default)]
struct Kept {
    memory: Memory,
    /// By kind.
    applied: BTreeMap<Cow<'static, str>, apply::Applied>,
    failures: u32,
    /// Since when there have been fewer pods than there should be.
    short_since: Option<Timestamp>,
    said: Option<Said>,
}

/// What was said of a resource. Nobody else writes its status while this process leads.
#[derive(Clone)]
struct Said {
    /// What a person reads: the status as it was written last, or found by the first look.
    written: Arc<CrashMonitorStatus>,
    /// What the last look saw; its totals may be ahead.
    seen: Arc<CrashMonitorStatus>,
}

/// What all controllers of the process share.
#[derive(Clone)]
pub struct Common {
    /// Of the API server.
    pub client: Client,
    /// What the operator was told.
    pub defaults: Defaults,
    /// Who reports events.
    pub identity: String,
    /// The metrics.
    pub admin: Admin,
}

/// What every reconcile needs.
struct Context {
    client: Client,
    defaults: Defaults,
    recorder: Recorder,
    admin: Admin,
    stores: Stores,
    scope: String,
    kept: Mutex<HashMap<String, Kept>>,
    stock_taken: Mutex<Option<Instant>>,
}

impl Context {
    fn new(shared: &Common, scope: &str, stores: Stores) -> Context {
        let Common { client, defaults, identity, admin } = shared.clone();
        let reporter = Reporter { controller: OPERATOR.to_string(), instance: Some(identity) };
        let recorder = Recorder::new(client.clone(), reporter);
        let scope = scope.to_string();
        let (kept, stock_taken) = (Mutex::default(), Mutex::default());
        Context { client, defaults, recorder, admin, stores, scope, kept, stock_taken }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_kept<T>(&self, uid: &str, act: impl FnOnce(&mut Kept) -> T) -> T {
        act(self.kept().entry(uid.to_string()).or_default())
    }

    /// Counts the resources for the metrics and forgets those that are gone, now and then.
    fn take_stock(&self) {
        let mut taken = self.stock_taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.is_some_and(|at| at.elapsed() < STOCK_INTERVAL) {
            return;
        }
        *taken = Some(Instant::now());
        let present = self.stores.monitors.state();
        let mut counts = BTreeMap::new();
        let conditions = present.iter().filter_map(|monitor| monitor.status.as_ref());
        for condition in conditions.flat_map(|status| &status.conditions) {
            let (condition, status) = (condition.type_.clone(), condition.status.clone());
            *counts.entry(ConditionLabels { condition, status }).or_insert(0) += 1;
        }
        self.admin.metrics.set_stock(&self.scope, (present.len(), counts));
        let uids: BTreeSet<_> = present.iter().filter_map(|monitor| monitor.uid()).collect();
        self.kept().retain(|uid, _| uids.contains(uid));
    }

    /// Tells people. An event that can't be written is no reason to stop.
    async fn tell(&self, about: &ObjectReference, events: Vec<Event>) {
        for Event { is_warning, reason, note } in events {
            tracing::info!(name = about.name, namespace = about.namespace, reason, "{note}");
            let type_ = if is_warning { EventType::Warning } else { EventType::Normal };
            // Events that differ in nothing but the note are counted as one, with the first one's note; so what it
            // is about goes into the action too.
            let action = note.chars().take(ACTION_LENGTH_MAX).collect();
            let event = K8sEvent { type_, reason, note: Some(note), action, secondary: None };
            match self.recorder.publish(&event, about).await {
                Ok(()) => self.admin.metrics.wrote(Object::Event),
                Err(error) => tracing::warn!("an event can't be written: {error}"),
            }
        }
    }
}

/// Brings what is there to what should be there, and says how it fares.
async fn reconcile(resource: Arc<CrashMonitor>, context: Arc<Context>) -> Result<Action, Error> {
    let begun = Instant::now();
    if !context.stores.ready().await {
        return Ok(Action::requeue(BACKOFF.0));
    }
    context.take_stock();
    let outcome = if resource.metadata.deletion_timestamp.is_some() {
        finalize::finalize(&resource, &context).await
    } else {
        keep_running(&resource, &context).await
    };
    context.admin.metrics.reconciled(begun.elapsed().as_secs_f64());
    if outcome.is_ok() {
        context.with_kept(&uid(&resource), |kept| kept.failures = 0);
    }
    outcome
}

/// What to do after a failure: wait, longer each time.
fn after_failure(resource: Arc<CrashMonitor>, error: &Error, context: Arc<Context>) -> Action {
    context.admin.metrics.failed(Failure::Api);
    let failures = context.with_kept(&uid(&resource), |kept| {
        kept.failures += 1;
        kept.failures
    });
    let pause = BACKOFF.0.saturating_mul(1 << (failures - 1).min(10)).min(BACKOFF.1);
    let (name, namespace) = (resource.name_any(), resource.namespace());
    tracing::warn!(name, namespace, "{error}; trying again in {} s", pause.as_secs());
    Action::requeue(pause)
}

fn uid(resource: &CrashMonitor) -> String {
    resource.metadata.uid.clone().unwrap_or_default()
}

async fn keep_running(resource: &CrashMonitor, context: &Context) -> Result<Action, Error> {
    let checked = validate(resource, &context.defaults);
    let mut refused = None;
    let mut scaled_from = None;
    let mut set = context.stores.stateful_set(resource);
    match &checked {
        Ok(monitor) => {
            set_finalizer(resource, monitor.deletion_policy, context).await?;
            let before = set.as_ref().and_then(|set| set.spec.as_ref()?.replicas);
            scaled_from = before.filter(|&before| before != monitor.wanted_replicas());
            match apply::apply(monitor, context).await? {
                apply::Outcome::Applied(applied) => set = Some(applied),
                apply::Outcome::Refused(reason) => {
                    context.admin.metrics.failed(Failure::Refused);
                    refused = Some(reason);
                    scaled_from = None;
                }
            }
        }
        Err(_) => context.admin.metrics.failed(Failure::InvalidSpec),
    }
    let pods = context.stores.pods(resource);
    let now = Timestamp::now();
    let answers = workers::ask(&pods).await;
    let hindrances = hindrances(resource, &pods, set.as_deref(), now, context).await;
    let uid = uid(resource);
    let (memory, said) = context.with_kept(&uid, |kept| (kept.memory, kept.said.clone()));
    let said = said.unwrap_or_else(|| {
        let stored = Arc::new(resource.status.clone().unwrap_or_default());
        Said { written: stored.clone(), seen: stored }
    });
    let facts = Facts {
        name: &resource.name_any(),
        generation: resource.metadata.generation.unwrap_or_default(),
        monitor: checked.as_ref(),
        refused: refused.as_deref(),
        scaled_from,
        stateful_set: set.as_deref(),
        pods: &pods,
        hindrances: &hindrances,
        answers: &answers,
        previous: &said.seen,
        memory,
        now,
    };
    let (next, memory) = status::summarise(&facts);
    let next = Arc::new(next);
    context.with_kept(&uid, |kept| kept.memory = memory);
    let Said { written, seen } = said;
    let said = match status::write(&written, &next, now) {
        Write::Now => {
            write_status(resource, &next, context).await?;
            let events = events::between(&written, &next);
            let said = Said { written: next.clone(), seen: next.clone() };
            context.with_kept(&uid, |kept| kept.said = Some(said.clone()));
            context.tell(&resource.object_ref(&()), events).await;
            said
        }
        Write::Later => Said { written, seen: next.clone() },
        Write::Never => Said { written, seen },
    };
    context.with_kept(&uid, |kept| kept.said = Some(said));
    if let Some(set) = &set {
        clean_up(resource, set, &pods, now, context).await?;
    }
    Ok(Action::requeue(if is_calm(&next) { POLL_INTERVAL.1 } else { POLL_INTERVAL.0 }))
}

fn is_calm(status: &CrashMonitorStatus) -> bool {
    let is = |type_, value| status::find(status, type_).is_some_and(|condition| condition.status == value);
    is("Progressing", "False") && is("Degraded", "False")
}

/// Only a resource that is to be cleaned up after needs to be waited for.
async fn set_finalizer(
    resource: &CrashMonitor,
    policy: DeletionPolicy,
    context: &Context,
) -> Result<(), Error> {
    let ours = finalizer();
    let mut finalizers = resource.finalizers().to_vec();
    let is_there = finalizers.contains(&ours);
    match (policy, is_there) {
        (DeletionPolicy::Delete, false) => finalizers.push(ours),
        (DeletionPolicy::Retain, true) => finalizers.retain(|other| *other != ours),
        _ => return Ok(()),
    }
    write_finalizers(resource, &finalizers, context).await
}

/// The version goes with it: a finalizer of somebody else that was added meanwhile must not be lost.
async fn write_finalizers(
    resource: &CrashMonitor,
    finalizers: &[String],
    context: &Context,
) -> Result<(), Error> {
    let version = resource.resource_version();
    let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": version}});
    let written = monitors(resource, context)
        .patch_metadata(&resource.name_any(), &PatchParams::default(), &Patch::Merge(patch))
        .await;
    match written {
        Ok(_) => context.admin.metrics.wrote(Object::Finalizer),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(Error::api("finalizer")(error)),
    }
    Ok(())
}

async fn write_status(
    resource: &CrashMonitor,
    status: &CrashMonitorStatus,
    context: &Context,
) -> Result<(), Error> {
    let patch = json!({
        "apiVersion": CrashMonitor::api_version(&()),
        "kind": CrashMonitor::kind(&()),
        "status": status,
    });
    // The whole status is ours: what a field no longer has must go.
    let params = PatchParams::apply(OPERATOR).force();
    let name = resource.name_any();
    let written = monitors(resource, context).patch_status(&name, &params, &Patch::Apply(patch)).await;
    match written {
        Ok(_) => context.admin.metrics.wrote(Object::Status),
        // It is being deleted; the next reconcile sees to that.
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(Error::api("status")(error)),
    }
    Ok(())
}

fn monitors(resource: &CrashMonitor, context: &Context) -> Api<CrashMonitor> {
    namespaced(resource, context)
}

fn namespaced<K>(resource: &CrashMonitor, context: &Context) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    Api::namespaced(context.client.clone(), &resource.namespace().unwrap_or_default())
}

/// Asks the cluster's events why a pod waits for its volumes, or why there is none; only when that has lasted.
async fn hindrances(
    resource: &CrashMonitor,
    pods: &[Arc<Pod>],
    set: Option<&StatefulSet>,
    now: Timestamp,
    context: &Context,
) -> BTreeMap<String, String> {
    let waiting = pods.iter().filter(|pod| status::pods::waits_for_volumes(pod, now));
    let mut asked: Vec<_> = waiting.map(|pod| (pod.name_any(), pod.uid(), "FailedMount")).collect();
    // One tells as much as all of them: they have the same files.
    asked.truncate(1);
    let wanted = set.and_then(|set| set.spec.as_ref()?.replicas).unwrap_or(0);
    let is_short = usize::try_from(wanted).is_ok_and(|wanted| pods.len() < wanted);
    let short_since = context.with_kept(&uid(resource), |kept| {
        kept.short_since = is_short.then(|| kept.short_since.unwrap_or(now));
        kept.short_since
    });
    if let Some(set) = set.filter(|_| status::pods::are_missing(short_since, now)) {
        asked.push((set.name_any(), set.uid(), "FailedCreate"));
    }
    // What was told before the last pod came is over.
    let newest = pods.iter().filter_map(|pod| pod.creation_timestamp()).map(|time| time.0).max();
    let api: Api<CoreEvent> = namespaced(resource, context);
    let mut found = BTreeMap::new();
    for (name, uid, reason) in asked {
        let fields = format!("involvedObject.uid={},reason={reason}", uid.unwrap_or_default());
        match api.list(&ListParams::default().fields(&fields).limit(20)).await {
            Ok(events) => {
                let times = |event: &CoreEvent| event.last_timestamp.as_ref().map(|time| time.0);
                let last = events.items.into_iter().max_by_key(times).filter(|last| times(last) >= newest);
                found.extend(last.and_then(|event| event.message).map(|message| (name, message)));
            }
            Err(error) => tracing::debug!("events of {name}: {error}"),
        }
    }
    found
}

/// Removes what a rollout left behind.
async fn clean_up(
    resource: &CrashMonitor,
    set: &StatefulSet,
    pods: &[Arc<Pod>],
    now: Timestamp,
    context: &Context,
) -> Result<(), Error> {
    let stuck = rollout::stuck_pods(set, pods, now);
    if !stuck.is_empty() {
        tracing::info!(pods = ?rollout::names(&stuck), "replacing pods of an old revision that were never ready");
    }
    let api: Api<Pod> = namespaced(resource, context);
    for pod in stuck {
        let preconditions = Preconditions { uid: pod.uid(), resource_version: pod.resource_version() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        removed(api.delete(&pod.name_any(), &params).await.map(|_| ()), "pod", context)?;
    }
    let present = context.stores.config_maps(resource);
    let api: Api<ConfigMap> = namespaced(resource, context);
    for name in rollout::stale_config_maps(set, pods, &present) {
        removed(api.delete(&name, &DeleteParams::default()).await.map(|_| ()), "ConfigMap", context)?;
    }
    Ok(())
}

/// What is gone already, or has changed meanwhile, is as good as removed.
fn removed(outcome: Result<(), kube::Error>, what: &str, context: &Context) -> Result<(), Error> {
    match outcome {
        Ok(()) => {
            context.admin.metrics.wrote(Object::Removed);
            Ok(())
        }
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(Error::api(format!("removing a {what}"))(error)),
    }
}

/// The names of a monitor that a person has to clean up by hand.
fn remains(monitor: &Monitor) -> String {
    let checked = &monitor.checked;
    let redis = match checked.checkpoint {
        Some(_) => format!(", Redis keys {}*", checked.snapshot_key_prefix()),
        None => String::new(),
    };
    format!(
        "Kafka topic {}, consumer groups {} and {}{redis}",
        checked.repartition_topic(),
        checked.scan_group(),
        checked.aggregate_group(),
    )
}

/// The name of the StatefulSet of a resource.
fn set_name(resource: &CrashMonitor) -> String {
    manifests::worker_name(&resource.name_any())
}
