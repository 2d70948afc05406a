//! Brings objects to the API server.
//!
//! Responsible for server-side apply of what was built, and for leaving alone what is as it should be. Must never take
//! over an object that somebody else made: a name that is taken is a problem for a person.
//!
//! An object is applied when it was never applied by this process, when what should be there is something else than
//! before, when its version is not the one that applying it left behind (somebody has changed or deleted it), and at
//! least every [`REAPPLY_INTERVAL`], because a change of labels shows in no generation.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Api, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::xxh3_64;

use super::{Context, Error};
use crate::manifests::{self, OPERATOR};
use crate::metrics::{Failure, Object};
use crate::validate::Monitor;

/// How long a version that has not changed is believed.
const REAPPLY_INTERVAL: Duration = Duration::from_secs(600);

/// What is remembered of an object that was applied.
#[derive(Clone, Debug)]
pub(super) struct Applied {
    /// Of what was sent.
    hash: u64,
    /// Of what came back.
    version: Version,
    at: Instant,
}

/// Which state of an object this is. Where Kubernetes counts changes of the spec, a change of the status is none.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Version {
    uid: Option<String>,
    generation: Option<i64>,
    resource_version: Option<String>,
}

impl Version {
    fn of(object: &impl Resource) -> Version {
        let metadata = object.meta();
        let resource_version = metadata.resource_version.clone().filter(|_| metadata.generation.is_none());
        Version { uid: metadata.uid.clone(), generation: metadata.generation, resource_version }
    }
}

/// What became of it.
pub(super) enum Outcome {
    /// All is there; the set of workers as it is now.
    Applied(Arc<StatefulSet>),
    /// The API server or a name that is taken stands in the way; in words for a person.
    Refused(String),
}

/// Applies all objects of a monitor.
pub(super) async fn apply(monitor: &Monitor, context: &Context) -> Result<Outcome, Error> {
    match apply_all(monitor, context).await {
        Ok(set) => Ok(Outcome::Applied(set)),
        Err(Stop::Refused(reason)) => Ok(Outcome::Refused(reason)),
        Err(Stop::Failed(error)) => Err(error),
    }
}

enum Stop {
    Refused(String),
    Failed(Error),
}

async fn apply_all(monitor: &Monitor, context: &Context) -> Result<Arc<StatefulSet>, Stop> {
    let objects = manifests::build(monitor);
    let stores = &context.stores;
    let applying = Applying { monitor, context };
    applying.object(&objects.service_account, &stores.service_accounts).await?;
    applying.object(&objects.config_map, &stores.config_maps.store).await?;
    applying.object(&objects.service, &stores.services).await?;
    applying.object(&objects.network_policy, &stores.network_policies).await?;
    applying.object(&objects.pod_disruption_budget, &stores.disruption_budgets).await?;
    applying.stateful_set(&objects.stateful_set).await
}

struct Applying<'a> {
    monitor: &'a Monitor,
    context: &'a Context,
}

impl Applying<'_> {
    async fn object<K>(&self, object: &K, store: &Store<PartialObjectMeta<K>>) -> Result<(), Stop>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug
            + 'static,
    {
        let reference = ObjectRef::new(&object.name_any()).within(&self.monitor.namespace);
        let cached = store.get(&reference);
        self.ensure(object, cached.as_deref()).await.map(|_| ())
    }

    async fn stateful_set(&self, set: &StatefulSet) -> Result<Arc<StatefulSet>, Stop> {
        let reference = ObjectRef::new(&set.name_any()).within(&self.monitor.namespace);
        let cached = self.context.stores.stateful_sets.get(&reference);
        match (self.ensure(set, cached.as_deref()).await?, cached) {
            (Some(applied), _) => Ok(Arc::new(applied)),
            (None, Some(cached)) => Ok(cached),
            (None, None) => unreachable!("an object that is not there is applied"),
        }
    }

    /// Applies the object unless it is as it should be; returns it as it came back.
    async fn ensure<K>(&self, object: &K, cached: Option<&impl Resource>) -> Result<Option<K>, Stop>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let what = format!("{} {}", K::kind(&()), object.name_any());
        let hash = xxh3_64(&serde_json::to_vec(object).expect("a manifest is JSON"));
        let known = self.context.with_kept(&self.monitor.uid, |kept| kept.applied.get(&what).cloned());
        if let (Some(known), Some(cached)) = (&known, cached) {
            let is_young = known.at.elapsed() < REAPPLY_INTERVAL;
            if is_young && known.hash == hash && known.version == Version::of(cached) {
                return Ok(None);
            }
        }
        let api: Api<K> = Api::namespaced(self.context.client.clone(), &self.monitor.namespace);
        match cached {
            Some(cached) => self.must_be_ours(cached, &what)?,
            None => {
                let found = api.get_metadata_opt(&object.name_any()).await;
                if let Some(found) = found.map_err(|e| Stop::Failed(Error::api(&what)(e)))? {
                    self.must_be_ours(&found, &what)?;
                }
            }
        }
        let params = PatchParams::apply(OPERATOR).force();
        let applied = api.patch(&object.name_any(), &params, &Patch::Apply(object)).await;
        let applied = applied.map_err(|error| refused(&what, error))?;
        self.context.admin.metrics.wrote(Object::Owned);
        let entry = Applied { hash, version: Version::of(&applied), at: Instant::now() };
        self.context.with_kept(&self.monitor.uid, |kept| kept.applied.insert(what, entry));
        Ok(Some(applied))
    }

    fn must_be_ours(&self, found: &impl Resource, what: &str) -> Result<(), Stop> {
        let owners = found.meta().owner_references.as_deref().unwrap_or_default();
        let owner = owners.iter().find(|owner| owner.controller == Some(true));
        match owner {
            Some(owner) if owner.uid == self.monitor.uid => Ok(()),
            Some(owner) if owner.kind == "CrashMonitor" && owner.name == self.monitor.name => {
                Err(Stop::Failed(Error::Leftover { what: what.to_string() }))
            }
            _ => {
                self.context.admin.metrics.failed(Failure::NameTaken);
                let reason = format!(
                    "{what} is there already and belongs to somebody else: remove or rename it, or name the \
                     CrashMonitor otherwise"
                );
                Err(Stop::Refused(reason))
            }
        }
    }
}

/// What a person can mend, apart from what may pass.
fn refused(what: &str, error: kube::Error) -> Stop {
    match error {
        // Invalid, forbidden by an admission rule or a quota, or a change that is not allowed.
        kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => {
            Stop::Refused(format!("the API server refuses {what}: {}", status.message))
        }
        error => Stop::Failed(Error::api(what)(error)),
    }
}
