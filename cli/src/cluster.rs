//! The API server, asked with the rights of the person who calls.
//!
//! Responsible for finding it as kubectl does, for every request to it, and for saying of a failure what it means and
//! what to do. Must never retry, and never wait for longer than [`READ_TIMEOUT`] for one answer: a person is waiting.

use std::collections::BTreeMap;
use std::time::Duration;

use crashmonitor_core::status::Status as Answer;
use crashmonitor_operator::api::CrashMonitor;
use crashmonitor_operator::manifests::{
    ADMIN_PORT, INSTANCE, MANAGED_BY, OPERATOR, selector_text, worker_name,
};
use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, DynamicObject, ListParams, LogParams, Patch, PatchParams, ValidationDirective};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, Status};
use kube::{Client, Config, ResourceExt};
use serde_json::Value;

use crate::Error;
use crate::args::Cluster as Args;

/// Who changes what this program changes.
pub const MANAGER: &str = "kubectl-crashmonitor";
/// The longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest wait for an answer: longer than the API server gives its webhooks by default.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest wait for one worker, behind the API server's proxy: they answer at once, or are not there.
const WORKER_TIMEOUT: Duration = Duration::from_secs(5);
/// Workers that are asked at the same time.
const CONCURRENCY: usize = 16;

/// Events of a namespace that are looked through for a report.
const EVENTS_MAX: u32 = 2000;

/// A namespace of a cluster.
pub struct Cluster {
    client: Client,
    namespace: String,
}

/// The workers' own words, by pod: what they say at `/status`, or why they can't be asked.
pub type Answers = BTreeMap<String, Result<Answer, String>>;

impl Cluster {
    /// Reads the kubeconfig. Nothing is connected yet.
    pub async fn new(args: &Args) -> Result<Cluster, Error> {
        let failed = |cause: String| {
            Error::failed(
                format!("no cluster is configured: {cause}"),
                "check with `kubectl cluster-info`; --kubeconfig and --context name others",
            )
        };
        let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match &args.kubeconfig {
            Some(file) => {
                let kubeconfig = Kubeconfig::read_from(file).map_err(|e| failed(chain(&e)))?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|e| failed(chain(&e)))?
            }
            None if args.context.is_some() => {
                Config::from_kubeconfig(&options).await.map_err(|e| failed(chain(&e)))?
            }
            // In a pod there is no kubeconfig.
            None => Config::infer().await.map_err(|e| failed(chain(&e)))?,
        };
        (config.connect_timeout, config.read_timeout) = (Some(CONNECT_TIMEOUT), Some(READ_TIMEOUT));
        let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|e| failed(chain(&e)))?;
        Ok(Cluster { client, namespace })
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The same cluster, another namespace.
    pub fn in_namespace(&self, namespace: &str) -> Cluster {
        Cluster { client: self.client.clone(), namespace: namespace.to_owned() }
    }

    fn monitors(&self) -> Api<CrashMonitor> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn raw(&self) -> Api<DynamicObject> {
        let kind = ApiResource::erase::<CrashMonitor>(&());
        Api::namespaced_with(self.client.clone(), &self.namespace, &kind)
    }

    /// A resource.
    pub async fn monitor(&self, name: &str) -> Result<CrashMonitor, Error> {
        self.monitors().get(name).await.map_err(|e| self.explain(&format!("reading {name}"), Some(name), &e))
    }

    /// A resource as it is stored, if it is there.
    pub async fn stored(&self, name: &str) -> Result<Option<DynamicObject>, Error> {
        self.raw().get_opt(name).await.map_err(|e| self.explain(&format!("reading {name}"), None, &e))
    }

    /// Merges a change into a resource.
    pub async fn merge(&self, name: &str, patch: &Value) -> Result<CrashMonitor, Error> {
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let written = self.monitors().patch(name, &params, &Patch::Merge(patch)).await;
        written.map_err(|e| self.explain(&format!("changing {name}"), Some(name), &e))
    }

    /// What a JSON merge patch would store.
    pub async fn would_merge(&self, name: &str, patch: &Value) -> Result<Outcome, Error> {
        let params = PatchParams {
            dry_run: true,
            field_manager: Some(MANAGER.to_owned()),
            field_validation: Some(ValidationDirective::Strict),
            ..PatchParams::default()
        };
        self.outcome(name, self.raw().patch(name, &params, &Patch::Merge(patch)).await)
    }

    /// What a server-side apply by this manager would store; it creates what is not there.
    pub async fn would_apply(&self, name: &str, manager: &str, object: &Value) -> Result<Outcome, Error> {
        let params = PatchParams {
            dry_run: true,
            // Who else has a say in a field is no matter of what its change would do.
            force: true,
            field_manager: Some(manager.to_owned()),
            field_validation: Some(ValidationDirective::Strict),
        };
        self.outcome(name, self.raw().patch(name, &params, &Patch::Apply(object)).await)
    }

    fn outcome(&self, name: &str, answer: kube::Result<DynamicObject>) -> Result<Outcome, Error> {
        match answer {
            Ok(object) => Ok(Outcome::Accepted(Box::new(object))),
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => {
                Ok(Outcome::Refused(reasons(&status)))
            }
            // An unknown field, for which a server-side apply has no better code.
            Err(kube::Error::Api(status))
                if status.message.contains("failed to create typed patch object") =>
            {
                Ok(Outcome::Refused(vec![status.message.clone()]))
            }
            Err(error) => Err(self.explain(&format!("a dry run for {name}"), None, &error)),
        }
    }

    /// The pods of a resource, by name.
    pub async fn pods(&self, name: &str) -> Result<Vec<Pod>, Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = ListParams::default().labels(&selector_text(name));
        let listed = api.list(&params).await.map_err(|e| self.explain("listing its pods", None, &e))?;
        Ok(listed.items)
    }

    /// What each worker says of itself, through the API server's proxy.
    pub async fn answers(&self, pods: &[Pod]) -> Answers {
        let names: Vec<String> = pods.iter().map(ResourceExt::name_any).collect();
        let asked = futures::stream::iter(names).map(|name| async move {
            let text = self.from_worker(&name, "/status").await;
            let answer =
                text.and_then(|text| serde_json::from_str(&text).map_err(|e| format!("no status: {e}")));
            (name, answer)
        });
        asked.buffer_unordered(CONCURRENCY).collect().await
    }

    /// What a worker answers at a path of its admin port.
    pub async fn from_worker(&self, pod: &str, path: &str) -> Result<String, String> {
        let path = format!("/api/v1/namespaces/{}/pods/{pod}:{ADMIN_PORT}/proxy{path}", self.namespace);
        let request = http::Request::get(path).body(Vec::new()).map_err(|e| e.to_string())?;
        match tokio::time::timeout(WORKER_TIMEOUT, self.client.request_text(request)).await {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(kube::Error::Api(status))) => Err(status.message.clone()),
            Ok(Err(error)) => Err(chain(&error)),
            Err(_) => Err(format!("no answer within {} s", WORKER_TIMEOUT.as_secs())),
        }
    }

    /// What the operator made of a resource, by kind: lists, or why they can't be had.
    pub async fn belongings(&self, name: &str) -> Vec<(&'static str, Result<Value, Error>)> {
        let labels = format!("{INSTANCE}={name},{MANAGED_BY}={OPERATOR}");
        vec![
            ("statefulset", self.list::<StatefulSet>(ListParams::default().labels(&labels)).await),
            ("configmaps", self.list::<ConfigMap>(ListParams::default().labels(&labels)).await),
            (
                "poddisruptionbudget",
                self.list::<PodDisruptionBudget>(ListParams::default().labels(&labels)).await,
            ),
            ("networkpolicy", self.list::<NetworkPolicy>(ListParams::default().labels(&labels)).await),
        ]
    }

    /// The events about a resource and what belongs to it.
    pub async fn events(&self, name: &str) -> Result<Value, Error> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        // The API server can't select by the beginning of a name.
        let listed = api.list(&ListParams::default().limit(EVENTS_MAX)).await;
        let mut events = listed.map_err(|e| self.explain("listing events", None, &e))?.items;
        let worker = worker_name(name);
        let is_ours = |event: &Event| {
            event
                .involved_object
                .name
                .as_ref()
                .is_some_and(|about| about == name || about.starts_with(&worker))
        };
        events.retain(is_ours);
        Ok(serde_json::to_value(events).expect("objects are plain data"))
    }

    async fn list<K>(&self, params: ListParams) -> Result<Value, Error>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        let what = format!("listing {}", K::plural(&()));
        let listed = api.list(&params).await.map_err(|e| self.explain(&what, None, &e))?;
        Ok(serde_json::to_value(listed.items).expect("objects are plain data"))
    }

    /// The pods of the operator, by name.
    pub async fn operators(&self) -> Result<Vec<String>, Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = ListParams::default().labels(&format!("app.kubernetes.io/name={OPERATOR}"));
        let listed =
            api.list(&params).await.map_err(|e| self.explain("listing the operator's pods", None, &e))?;
        Ok(listed.items.iter().map(ResourceExt::name_any).collect())
    }

    /// The last lines of a pod's log; with `is_previous` of its process before the present one.
    pub async fn log(&self, pod: &str, lines: i64, is_previous: bool) -> Result<String, String> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = LogParams { previous: is_previous, tail_lines: Some(lines), ..LogParams::default() };
        api.logs(pod, &params).await.map_err(|error| match error {
            kube::Error::Api(status) => status.message.clone(),
            other => chain(&other),
        })
    }

    /// The version of Kubernetes.
    pub async fn version(&self) -> Result<String, Error> {
        let version = self.client.apiserver_version().await;
        Ok(version.map_err(|e| self.explain("asking for the version", None, &e))?.git_version)
    }

    /// What a failed request means. `name`: the resource that a 404 would be about.
    fn explain(&self, what: &str, name: Option<&str>, error: &kube::Error) -> Error {
        let namespace = &self.namespace;
        let kube::Error::Api(status) = error else {
            return Error::failed(
                format!("{what}: the API server does not answer: {}", chain(error)),
                "check with `kubectl cluster-info`; --context names another cluster",
            );
        };
        let message = &status.message;
        match (status.code, name) {
            (404, Some(name)) if message.contains(name) => Error::failed(
                format!("there is no CrashMonitor {name} in namespace {namespace}"),
                "`kubectl get crashmonitors -A` lists all of them; -n names another namespace",
            ),
            (404, _) => Error::failed(
                format!("{what}: the cluster does not know the kind CrashMonitor: {message}"),
                "install it: `helm install crashmonitor charts/crashmonitor -n crashmonitor-system --create-namespace`",
            ),
            (401, _) => Error::failed(
                format!("{what}: the API server does not know you: {message}"),
                "log in to the cluster again, as for `kubectl get pods`",
            ),
            (403, _) => Error::failed(
                format!("{what}: not allowed: {message}"),
                "ask the cluster's administrator for this right; docs/cli.md lists what each command needs",
            ),
            _ => Error::failed(format!("{what}: {message}"), "change what the message names, and try again"),
        }
    }
}

/// What the API server says of a dry run.
pub enum Outcome {
    /// This would be stored.
    Accepted(Box<DynamicObject>),
    /// It would be refused, for these reasons.
    Refused(Vec<String>),
}

/// The reasons of a refusal, one each, without what surrounds them.
fn reasons(status: &Status) -> Vec<String> {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let reasons: Vec<String> = causes
        .map(|cause| match cause.message.split_once(": Invalid value: ") {
            Some((_, message)) => format!("{}: {message}", cause.field),
            None => format!("{}: {}", cause.field, cause.message),
        })
        .collect();
    if reasons.is_empty() { vec![status.message.clone()] } else { reasons }
}

/// An error with its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
