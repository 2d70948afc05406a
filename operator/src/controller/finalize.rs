//! What a resource leaves behind when it goes.
//!
//! Responsible for `deletionPolicy: Delete`: wait until no worker runs, have a Job remove the internal topic, the
//! consumer groups and the keys in Redis, and let the resource go. Must never hold it for longer than [`PATIENCE`]: what
//! could not be removed by then is named in an event, and remains.
//!
//! The operator itself talks to neither Kafka nor Redis; the Job does, with the workers' image and Secrets.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::controller::Action;
use kube::{Resource, ResourceExt};

use super::{Context, Error, namespaced, remains, set_name, write_finalizers};
use crate::api::{CrashMonitor, DeletionPolicy};
use crate::events::Event;
use crate::manifests::{OPERATOR, finalizer, purge};
use crate::metrics::Object;
use crate::validate::{Monitor, validate};

/// From the deletion to the end: workers have 60 s to end, the Job has 75 s.
const PATIENCE: SignedDuration = SignedDuration::from_secs(150);
/// How often it is looked at meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// How far it is.
enum Progress {
    /// Something is to be waited for.
    Waiting,
    /// It is done.
    Purged,
    /// It can't be done; why.
    GivenUp(String),
}

/// Takes the next step towards letting the resource go.
pub(super) async fn finalize(resource: &CrashMonitor, context: &Context) -> Result<Action, Error> {
    // Asked anew: for what the cache still holds and is gone, a second Job would be started, and nobody would end it.
    let Some(resource) = &current(resource, context).await? else { return Ok(Action::await_change()) };
    if !resource.finalizers().contains(&finalizer()) {
        return Ok(Action::await_change());
    }
    if resource.spec.deletion_policy == DeletionPolicy::Retain {
        release(resource, context).await?;
        return Ok(Action::await_change());
    }
    let checked = validate(resource, &context.defaults);
    let progress = match &checked {
        Ok(monitor) => purge_step(resource, monitor, context).await,
        Err(error) => Ok(Progress::GivenUp(error.to_string())),
    };
    // Whatever stands in the way, the resource goes when the time is up.
    let progress = match progress {
        Ok(Progress::Waiting) | Err(_) if is_overdue(resource) => {
            let why = progress.err().map_or("it took too long".to_string(), |error| error.to_string());
            Progress::GivenUp(why)
        }
        progress => progress?,
    };
    let about = resource.object_ref(&());
    let told = match progress {
        Progress::Waiting => return Ok(Action::requeue(LOOK_INTERVAL)),
        Progress::Purged => {
            let what = checked.as_ref().map(remains).unwrap_or_default();
            Event { is_warning: false, reason: "Purged".to_string(), note: format!("removed: {what}") }
        }
        Progress::GivenUp(why) => {
            let what = checked.as_ref().map_or("its topic, groups and Redis keys".to_string(), remains);
            let note = format!("not removed ({why}); remove what is there by hand: {what}");
            Event { is_warning: true, reason: "PurgeIncomplete".to_string(), note }
        }
    };
    context.tell(&about, vec![told]).await;
    release(resource, context).await?;
    Ok(Action::await_change())
}

/// The resource as the API server has it now; None when it is gone, be there another of its name.
async fn current(resource: &CrashMonitor, context: &Context) -> Result<Option<CrashMonitor>, Error> {
    let resources: Api<CrashMonitor> = namespaced(resource, context);
    let found = resources.get_opt(&resource.name_any()).await.map_err(Error::api("reading the resource"))?;
    Ok(found.filter(|found| found.uid() == resource.uid()))
}

fn is_overdue(resource: &CrashMonitor) -> bool {
    let deleted_at = resource.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    deleted_at.is_some_and(|deleted_at| Timestamp::now().duration_since(deleted_at) > PATIENCE)
}

async fn release(resource: &CrashMonitor, context: &Context) -> Result<(), Error> {
    let ours = finalizer();
    let others: Vec<_> = resource.finalizers().iter().filter(|other| **other != ours).cloned().collect();
    write_finalizers(resource, &others, context).await
}

async fn purge_step(
    resource: &CrashMonitor,
    monitor: &Monitor,
    context: &Context,
) -> Result<Progress, Error> {
    if stop_workers(resource, context).await? || !context.stores.pods(resource).is_empty() {
        return Ok(Progress::Waiting);
    }
    let jobs: Api<Job> = namespaced(resource, context);
    let name = purge::name(&monitor.name);
    let Some(job) = jobs.get_opt(&name).await.map_err(Error::api("purge Job"))? else {
        return start_job(resource, monitor, context).await;
    };
    // One that an earlier resource of the same name has left.
    let deleted_at = resource.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    if job.metadata.creation_timestamp.as_ref().map(|time| time.0) < deleted_at {
        delete_job(&jobs, &name).await?;
        return Ok(Progress::Waiting);
    }
    let conditions = job.status.and_then(|status| status.conditions).unwrap_or_default();
    let ended = |type_| conditions.iter().find(|c| c.type_ == type_ && c.status == "True");
    if ended("Complete").is_some() {
        delete_job(&jobs, &name).await?;
        return Ok(Progress::Purged);
    }
    Ok(match ended("Failed") {
        Some(failed) => {
            let why = failed.message.as_deref().unwrap_or("no reason given");
            Progress::GivenUp(format!("Job {name} failed: {why}; its log says more"))
        }
        None => Progress::Waiting,
    })
}

/// Deletes the set of workers, if it is there. Returns whether it was.
async fn stop_workers(resource: &CrashMonitor, context: &Context) -> Result<bool, Error> {
    if context.stores.stateful_set(resource).is_none() {
        return Ok(false);
    }
    let sets: Api<StatefulSet> = namespaced(resource, context);
    match sets.delete(&set_name(resource), &DeleteParams::background()).await {
        Ok(_) => context.admin.metrics.wrote(Object::Removed),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(Error::api("stopping the workers")(error)),
    }
    Ok(true)
}

async fn start_job(resource: &CrashMonitor, monitor: &Monitor, context: &Context) -> Result<Progress, Error> {
    let jobs: Api<Job> = namespaced(resource, context);
    let created = match jobs.create(&PostParams::default(), &purge::job(monitor)).await {
        Ok(job) => job,
        // The namespace is going, a quota is used up, or an admission rule forbids it.
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => {
            return Ok(Progress::GivenUp(status.message.clone()));
        }
        Err(error) => return Err(Error::api("purge Job")(error)),
    };
    let config_maps: Api<ConfigMap> = namespaced(resource, context);
    let config_map = purge::config_map(monitor, &created);
    let params = PatchParams::apply(OPERATOR).force();
    let applied = config_maps.patch(&config_map.name_any(), &params, &Patch::Apply(&config_map)).await;
    applied.map_err(Error::api("the purge Job's ConfigMap"))?;
    context.admin.metrics.wrote(Object::Owned);
    Ok(Progress::Waiting)
}

async fn delete_job(jobs: &Api<Job>, name: &str) -> Result<(), Error> {
    match jobs.delete(name, &DeleteParams::background()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(Error::api("removing the purge Job")(error)),
    }
}
