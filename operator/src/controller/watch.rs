//! What is watched, and what a change of it concerns.
//!
//! Responsible for one watch for each kind of object, restricted to what the operator made, and for keeping of each no
//! more than is looked at. Must never list what does not belong to a monitor.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodSpec, PodTemplateSpec, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{self, Config};
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::watcher::{self, watcher};
use kube::runtime::{Controller, Predicate, PredicateConfig, WatchStreamExt, predicates};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use super::owned::Owned;
use super::{Common, Context, after_failure, reconcile, set_name};
use crate::api::CrashMonitor;
use crate::manifests::{INSTANCE, MANAGED_BY, OPERATOR};

/// Reconciles that may run at the same time; each waits mostly for workers.
const CONCURRENCY: u16 = 16;

/// How long a reconcile waits for the watches before it gives its place to another.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Objects of one answer to a list. They lie in memory whole, and of all kinds at once, until they are trimmed: with the usual 500
/// that is what a start takes at most.
const PAGE_SIZE: u32 = 50;

/// What is known without asking.
pub(super) struct Stores {
    pub(super) monitors: Store<CrashMonitor>,
    pub(super) stateful_sets: Store<StatefulSet>,
    pub(super) pods: Owned<Pod>,
    pub(super) service_accounts: Store<PartialObjectMeta<ServiceAccount>>,
    pub(super) config_maps: Owned<PartialObjectMeta<ConfigMap>>,
    pub(super) services: Store<PartialObjectMeta<Service>>,
    pub(super) network_policies: Store<PartialObjectMeta<NetworkPolicy>>,
    pub(super) disruption_budgets: Store<PartialObjectMeta<PodDisruptionBudget>>,
    /// That all of them have been filled. One waits for the stores and the others for it: of several tasks that wait for the same
    /// store, it wakes only the last.
    pub(super) filled: OnceCell<()>,
}

impl Stores {
    /// Waits until every watch has brought all that there is. Before that, what is missing may be there.
    pub(super) async fn ready(&self) -> bool {
        let all = self.filled.get_or_try_init(async || {
            self.monitors.wait_until_ready().await?;
            self.stateful_sets.wait_until_ready().await?;
            self.pods.store.wait_until_ready().await?;
            self.service_accounts.wait_until_ready().await?;
            self.config_maps.store.wait_until_ready().await?;
            self.services.wait_until_ready().await?;
            self.network_policies.wait_until_ready().await?;
            self.disruption_budgets.wait_until_ready().await
        });
        matches!(tokio::time::timeout(READY_TIMEOUT, all).await, Ok(Ok(())))
    }

    /// The set of workers of a resource.
    pub(super) fn stateful_set(&self, resource: &CrashMonitor) -> Option<Arc<StatefulSet>> {
        let namespace = resource.namespace().unwrap_or_default();
        let found = self.stateful_sets.get(&ObjectRef::new(&set_name(resource)).within(&namespace));
        found.filter(|set| is_owned_by(&**set, resource))
    }

    /// The pods of a resource's set of workers.
    pub(super) fn pods(&self, resource: &CrashMonitor) -> Vec<Arc<Pod>> {
        let namespace = resource.namespace().unwrap_or_default();
        self.pods.of(&in_namespace(&namespace, &set_name(resource)), &namespace)
    }

    /// The names of a resource's ConfigMaps.
    pub(super) fn config_maps(&self, resource: &CrashMonitor) -> Vec<String> {
        let namespace = resource.namespace().unwrap_or_default();
        let owned = self.config_maps.of(&super::uid(resource), &namespace);
        owned.iter().map(|map| map.name_any()).collect()
    }
}

fn is_owned_by(object: &impl Resource, resource: &CrashMonitor) -> bool {
    let owners = object.meta().owner_references.as_deref().unwrap_or_default();
    owners.iter().any(|owner| Some(&owner.uid) == resource.metadata.uid.as_ref())
}

/// Watches and reconciles one namespace, or all, until `shutdown`.
pub async fn run(
    common: Common,
    namespace: Option<&str>,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let scope = Scope { client: common.client.clone(), namespace: namespace.map(ToString::to_string) };
    let (monitors, writer) = store();
    let resources = watcher(scope.api::<CrashMonitor>(), watcher::Config::default().page_size(PAGE_SIZE))
        .default_backoff()
        .modify(|resource| resource.managed_fields_mut().clear())
        .reflect(writer)
        .applied_objects()
        // Our own writes of the status are no reason to look again.
        .predicate_filter(predicates::generation.combine(predicates::finalizers), PredicateConfig::default());
    let controller = Controller::for_stream(resources, monitors.clone());
    let controller = controller.with_config(Config::default().concurrency(CONCURRENCY));
    let controller = controller.graceful_shutdown_on(shutdown);
    let (stateful_sets, sets) = scope.watch(trim_set);
    let (pods, pod_changes) = scope.watch_owned(trim_pod, set_of);
    let (service_accounts, a) = scope.watch_metadata();
    let (config_maps, b) = scope
        .watch_owned(|map: &mut PartialObjectMeta<ConfigMap>| map.managed_fields_mut().clear(), owner_uid_of);
    let (services, c) = scope.watch_metadata();
    let (network_policies, d) = scope.watch_metadata();
    let (disruption_budgets, e) = scope.watch_metadata();
    let controller = controller
        .owns_stream(sets)
        .watches_stream(pod_changes, monitor_of)
        .watches_stream(a, owner_of)
        .watches_stream(b, owner_of)
        .watches_stream(c, owner_of)
        .watches_stream(d, owner_of)
        .watches_stream(e, owner_of);
    let stores = Stores {
        monitors,
        stateful_sets,
        pods,
        service_accounts,
        config_maps,
        services,
        network_policies,
        disruption_budgets,
        filled: OnceCell::new(),
    };
    let context = Arc::new(Context::new(&common, namespace.unwrap_or("*"), stores));
    let outcomes = controller.run(reconcile, after_failure, context);
    let tell = |outcome: Result<_, controller::Error<_, _>>| {
        // A failed reconcile has been told by `after_failure`.
        if let Err(controller::Error::QueueError(error)) = outcome {
            tracing::warn!("a watch has failed: {error}; trying again");
        }
        std::future::ready(())
    };
    outcomes.for_each(tell).await;
}

/// Where to watch.
struct Scope {
    client: Client,
    namespace: Option<String>,
}

/// What can be watched here.
trait Watched:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + DeserializeOwned
    + Clone
    + Debug
    + Send
    + Sync
    + 'static
{
}

impl<K> Watched for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + DeserializeOwned
        + Clone
        + Debug
        + Send
        + Sync
        + 'static
{
}

impl Scope {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    /// Watches what the operator made of a kind; `trim` removes what nobody looks at.
    fn watch<K, F>(
        &self,
        trim: F,
    ) -> (Store<K>, impl Stream<Item = Result<K, watcher::Error>> + Send + 'static + use<K, F>)
    where
        F: FnMut(&mut K) + Send + 'static,
        K: Watched,
    {
        let (reader, writer) = store();
        (reader, self.changes(trim).reflect(writer).touched_objects())
    }

    /// What happens to what the operator made of a kind.
    fn changes<K, F>(
        &self,
        trim: F,
    ) -> impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send + 'static + use<K, F>
    where
        F: FnMut(&mut K) + Send + 'static,
        K: Watched,
    {
        let config = watcher::Config::default().page_size(PAGE_SIZE);
        let config = config.labels(&format!("{MANAGED_BY}={OPERATOR}"));
        watcher(self.api::<K>(), config).default_backoff().modify(trim)
    }

    /// As [`Scope::watch`], for objects of which an owner may have many: it finds its own by what `owner_of` calls it.
    fn watch_owned<K, F>(
        &self,
        trim: F,
        owner_of: fn(&K) -> Option<String>,
    ) -> (Owned<K>, impl Stream<Item = Result<K, watcher::Error>> + Send + 'static + use<K, F>)
    where
        F: FnMut(&mut K) + Send + 'static,
        K: Watched,
    {
        let (reader, writer) = store();
        let (owned, mut account) = Owned::new(reader, owner_of);
        let changes = self.changes(trim).reflect(writer).inspect_ok(move |event| account.note(event));
        (owned, changes.touched_objects())
    }

    /// As [`Scope::watch`], without anything but the metadata.
    fn watch_metadata<K>(
        &self,
    ) -> (
        Store<PartialObjectMeta<K>>,
        impl Stream<Item = Result<PartialObjectMeta<K>, watcher::Error>> + Send + 'static + use<K>,
    )
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Send + Sync + 'static,
    {
        self.watch(|object: &mut PartialObjectMeta<K>| object.managed_fields_mut().clear())
    }
}

/// Keeps of a pod what status and rollout look at.
fn trim_pod(pod: &mut Pod) {
    pod.managed_fields_mut().clear();
    pod.annotations_mut().clear();
    pod.spec = pod.spec.take().map(config_maps_of);
}

/// The same of a set of workers: how many there are to be, and what their pods mount.
fn trim_set(set: &mut StatefulSet) {
    set.managed_fields_mut().clear();
    if let Some(spec) = set.spec.take() {
        let pod = spec.template.spec.map(config_maps_of);
        let template = PodTemplateSpec { spec: pod, ..PodTemplateSpec::default() };
        set.spec = Some(StatefulSetSpec { replicas: spec.replicas, template, ..StatefulSetSpec::default() });
    }
}

/// Nothing but the ConfigMaps that are mounted.
fn config_maps_of(spec: PodSpec) -> PodSpec {
    let mut volumes = spec.volumes.unwrap_or_default();
    volumes.retain(|volume| volume.config_map.is_some());
    volumes.shrink_to_fit();
    PodSpec { volumes: Some(volumes), ..PodSpec::default() }
}

/// What a pod's owner is called: by name, for a set of workers that was made anew takes over the pods of the one before.
fn set_of(pod: &Pod) -> Option<String> {
    let owner = pod.owner_references().iter().find(|owner| owner.kind == "StatefulSet")?;
    Some(in_namespace(&pod.namespace()?, &owner.name))
}

fn in_namespace(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// The monitor to which an object belongs.
fn monitor_among_owners(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.as_deref()?.iter().find(|owner| owner.kind == "CrashMonitor")
}

fn owner_uid_of(object: &impl Resource) -> Option<String> {
    Some(monitor_among_owners(object.meta())?.uid.clone())
}

fn monitor_of(pod: Pod) -> Option<ObjectRef<CrashMonitor>> {
    let name = pod.labels().get(INSTANCE)?;
    Some(ObjectRef::new(name).within(&pod.namespace()?))
}

fn owner_of(object: impl Resource) -> Option<ObjectRef<CrashMonitor>> {
    let owner = monitor_among_owners(object.meta())?;
    Some(ObjectRef::new(&owner.name).within(object.meta().namespace.as_deref()?))
}

#[cfg(test)]
mod tests {
    use kube::runtime::reflector::store::Writer;

    use super::*;

    fn fill<K>(mut writer: Writer<K>)
    where
        K: Resource<DynamicType = ()> + Clone + 'static,
    {
        for event in [watcher::Event::Init, watcher::Event::InitDone] {
            writer.apply_watcher_event(&event);
        }
    }

    #[tokio::test]
    async fn all_that_wait_for_the_watches_go_on_at_once() {
        let (monitors, m) = store();
        let (stateful_sets, s) = store();
        let (pods, p) = store();
        let (service_accounts, a) = store();
        let (config_maps, c) = store();
        let (services, v) = store();
        let (network_policies, n) = store();
        let (disruption_budgets, d) = store();
        let stores = Arc::new(Stores {
            monitors,
            stateful_sets,
            pods: Owned::new(pods, set_of).0,
            service_accounts,
            config_maps: Owned::new(config_maps, owner_uid_of).0,
            services,
            network_policies,
            disruption_budgets,
            filled: OnceCell::new(),
        });
        let waits = || {
            let stores = stores.clone();
            tokio::spawn(async move { stores.ready().await })
        };
        let waiting: Vec<_> = std::iter::repeat_with(waits).take(3).collect();
        tokio::task::yield_now().await;
        fill(m);
        fill(s);
        fill(p);
        fill(a);
        fill(c);
        fill(v);
        fill(n);
        fill(d);
        // Those that are not told would go on when their patience is at its end.
        let told = tokio::time::timeout(READY_TIMEOUT / 2, futures::future::try_join_all(waiting)).await;
        assert_eq!(told.expect("some were not told").unwrap(), [true; 3]);
    }
}
