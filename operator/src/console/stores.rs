//! What the console knows without asking: resources and pods.
//!
//! Responsible for watches of its own, so that an operator that does not lead shows as much as the one that does. Must
//! never keep more of an object than is shown.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::watcher::{Config, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::api::CrashMonitor;
use crate::manifests::{MANAGED_BY, OPERATOR, worker_name};

/// The watched namespaces.
pub(super) struct Stores {
    scopes: Vec<Scope>,
    is_ready: Arc<AtomicBool>,
}

/// One watched namespace, or all.
#[derive(Clone)]
struct Scope {
    monitors: Store<CrashMonitor>,
    pods: Store<Pod>,
}

impl Stores {
    /// Watches these namespaces, or all if there are none, until the process ends.
    pub(super) fn watch(client: &Client, namespaces: &[String]) -> Stores {
        let one = |namespace: Option<&str>| Scope {
            monitors: reflect(api(client, namespace), Config::default(), |monitor: &mut CrashMonitor| {
                monitor.managed_fields_mut().clear();
            }),
            pods: reflect(
                api(client, namespace),
                Config::default().labels(&format!("{MANAGED_BY}={OPERATOR}")),
                trim,
            ),
        };
        let scopes: Vec<Scope> = if namespaces.is_empty() {
            vec![one(None)]
        } else {
            namespaces.iter().map(|namespace| one(Some(namespace))).collect()
        };
        let is_ready = Arc::new(AtomicBool::new(false));
        let (waiting, ready) = (scopes.clone(), Arc::clone(&is_ready));
        tokio::spawn(async move {
            for scope in waiting {
                let (monitors, pods) =
                    (scope.monitors.wait_until_ready().await, scope.pods.wait_until_ready().await);
                if monitors.is_err() || pods.is_err() {
                    return;
                }
            }
            ready.store(true, Ordering::Relaxed);
        });
        Stores { scopes, is_ready }
    }

    /// Whether the watches have brought all that there is.
    pub(super) fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    /// All resources, by namespace and name.
    pub(super) fn monitors(&self) -> Vec<Arc<CrashMonitor>> {
        let mut monitors: Vec<_> = self.scopes.iter().flat_map(|scope| scope.monitors.state()).collect();
        monitors.sort_by_key(|monitor| (monitor.namespace(), monitor.name_any()));
        monitors
    }

    /// One of them.
    pub(super) fn monitor(&self, namespace: &str, name: &str) -> Option<Arc<CrashMonitor>> {
        let wanted = ObjectRef::new(name).within(namespace);
        self.scopes.iter().find_map(|scope| scope.monitors.get(&wanted))
    }

    /// The pods of its workers, by name.
    pub(super) fn pods(&self, namespace: &str, name: &str) -> Vec<Arc<Pod>> {
        let set = worker_name(name);
        let is_worker = |pod: &Pod| {
            let owners = pod.owner_references();
            pod.namespace().as_deref() == Some(namespace)
                && owners.iter().any(|owner| owner.kind == "StatefulSet" && owner.name == set)
        };
        let mut pods: Vec<_> =
            self.scopes.iter().flat_map(|scope| scope.pods.state_filter(is_worker)).collect();
        // By length first: worker-10 comes after worker-9.
        pods.sort_by_key(|pod| (pod.name_any().len(), pod.name_any()));
        pods
    }
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn reflect<K>(api: Api<K>, config: Config, trim: impl FnMut(&mut K) + Send + 'static) -> Store<K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
{
    let (reader, writer) = store();
    let changes = watcher(api, config).default_backoff().modify(trim).reflect(writer);
    tokio::spawn(changes.for_each(|change| {
        if let Err(error) = change {
            tracing::debug!("console: a watch has failed: {error}; trying again");
        }
        std::future::ready(())
    }));
    reader
}

fn trim(pod: &mut Pod) {
    pod.managed_fields_mut().clear();
    if let Some(spec) = pod.spec.take() {
        pod.spec = Some(PodSpec { node_name: spec.node_name, ..PodSpec::default() });
    }
}
