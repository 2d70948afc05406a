//! Brings objects to the API server.
//!
//! Responsible for server-side apply of what was built, and for leaving alone what is as it should be. Must never take
//! over an object that somebody else made: a name that is taken is a problem for a person.
//!
//! An object is applied when it was never applied by this process, when what should be there is something else than
//! before, and when its version is not the one that applying it left behind: somebody has changed or deleted it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
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

/// No object has it: the first one that a store writes has a higher one.
const NO_VERSION: &str = "1";

/// What is remembered of an object that was applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Applied {
    /// Of what was sent.
    hash: u64,
    /// Of what came back.
    version: Version,
}

/// Which state of an object this is, as far as it matters for what was `wanted`: a hash, for there are very many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Version(u64);

impl Version {
    /// Where Kubernetes counts changes of the spec, a change of the status is none; but then a change of labels does not show
    /// either, so those that are ours are looked at.
    fn of(found: &impl Resource, wanted: &impl Resource) -> Version {
        let (found, wanted) = (found.meta(), wanted.meta());
        let resource_version = found.resource_version.as_ref().filter(|_| found.generation.is_none());
        let ours = |wanted: &Option<BTreeMap<String, String>>, found: &Option<BTreeMap<String, String>>| {
            let keys = wanted.iter().flat_map(BTreeMap::keys);
            keys.map(|key| found.as_ref()?.get(key).cloned()).collect::<Vec<_>>()
        };
        let owners = |metadata: &ObjectMeta| {
            metadata.owner_references.iter().flatten().map(|owner| owner.uid.clone()).collect::<BTreeSet<_>>()
        };
        let is_owned = owners(found).is_superset(&owners(wanted));
        let labels = ours(&wanted.labels, &found.labels);
        let annotations = ours(&wanted.annotations, &found.annotations);
        let all = (&found.uid, found.generation, resource_version, labels, annotations, is_owned);
        Version(xxh3_64(&serde_json::to_vec(&all).expect("words and numbers are JSON")))
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
        let known =
            self.context.with_kept(&self.monitor.uid, |kept| kept.applied.get(&K::kind(&())).copied());
        if let (Some(known), Some(cached)) = (&known, cached)
            && known.hash == hash
            && known.version == Version::of(cached, object)
        {
            return Ok(None);
        }
        let api: Api<K> = Api::namespaced(self.context.client.clone(), &self.monitor.namespace);
        let applied = match cached {
            Some(cached) => {
                self.must_be_ours(cached, &what)?;
                send(&api, object).await.map_err(|error| refused(&what, error))?
            }
            None => self.create(&api, object, &what).await?,
        };
        self.context.admin.metrics.wrote(Object::Owned);
        let entry = Applied { hash, version: Version::of(&applied, object) };
        self.context.with_kept(&self.monitor.uid, |kept| kept.applied.insert(K::kind(&()), entry));
        Ok(Some(applied))
    }

    /// Applies what is not known to be there. Whether it is, need not be asked: an object of this version is made where there
    /// is none, and conflicts with any that is there. Only then it is looked at; it may be ours, and not be seen yet.
    async fn create<K>(&self, api: &Api<K>, object: &K, what: &str) -> Result<K, Stop>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let mut new = object.clone();
        new.meta_mut().resource_version = Some(NO_VERSION.to_string());
        match send(api, &new).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            outcome => return outcome.map_err(|error| refused(what, error)),
        }
        let found = api.get_metadata_opt(&object.name_any()).await;
        if let Some(found) = found.map_err(|e| Stop::Failed(Error::api(what)(e)))? {
            self.must_be_ours(&found, what)?;
        }
        send(api, object).await.map_err(|error| refused(what, error))
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

async fn send<K>(api: &Api<K>, object: &K) -> Result<K, kube::Error>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
{
    let params = PatchParams::apply(OPERATOR).force();
    api.patch(&object.name_any(), &params, &Patch::Apply(object)).await
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

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::{Value, json};

    use super::*;

    fn set(metadata: Value) -> StatefulSet {
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    fn wanted() -> StatefulSet {
        let owner = json!({"apiVersion": "v1", "kind": "CrashMonitor", "name": "m", "uid": "u"});
        set(json!({"name": "s", "labels": {"ours": "1"}, "ownerReferences": [owner]}))
    }

    fn found(change: impl FnOnce(&mut StatefulSet)) -> Version {
        let mut found = wanted();
        found.metadata.uid = Some("s".to_string());
        found.metadata.generation = Some(1);
        found.metadata.resource_version = Some("7".to_string());
        change(&mut found);
        Version::of(&found, &wanted())
    }

    #[test]
    fn a_version_is_what_matters_of_an_object() {
        let applied = found(|_| {});
        assert_eq!(applied, found(|set| set.metadata.resource_version = Some("8".to_string())), "its status");
        assert_eq!(
            applied,
            found(|set| drop(set.labels_mut().insert("theirs".to_string(), "2".to_string())))
        );
        assert_ne!(applied, found(|set| set.metadata.generation = Some(2)));
        assert_ne!(applied, found(|set| set.metadata.uid = Some("t".to_string())));
        assert_ne!(applied, found(|set| set.labels_mut().clear()));
        assert_ne!(applied, found(|set| drop(set.labels_mut().insert("ours".to_string(), "2".to_string()))));
        assert_ne!(applied, found(|set| set.metadata.owner_references = None));
    }

    #[test]
    fn without_a_generation_any_change_matters() {
        let map = |version: &str| {
            let map: ConfigMap =
                serde_json::from_value(json!({"metadata": {"uid": "m", "resourceVersion": version}}))
                    .unwrap();
            Version::of(&map, &ConfigMap::default())
        };
        assert_eq!(map("7"), map("7"));
        assert_ne!(map("7"), map("8"));
    }
}
