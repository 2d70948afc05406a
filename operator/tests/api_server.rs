//! The definition and its rules before a real API server: `$KUBECONFIG`.
//!
//! Without a cluster these tests say so and pass; `make test-cluster` brings one up and sets `KUBECONFIG`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Debug;
use std::time::Duration;

use crashmonitor_operator::api::{CrashMonitor, schema};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

#[path = "support/cases.rs"]
mod cases;

const MANAGER: &str = "crashmonitor-tests";

async fn client() -> Option<Client> {
    if std::env::var_os("KUBECONFIG").is_none() {
        eprintln!("KUBECONFIG is not set: nothing was tested");
        return None;
    }
    Some(Client::try_default().await.expect("KUBECONFIG leads to a cluster"))
}

async fn install(client: &Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let crd = schema::crd();
    api.patch(&crd.name_any(), &PatchParams::apply(MANAGER).force(), &Patch::Apply(&crd)).await.unwrap();
    await_condition(api, &crd.name_any(), conditions::is_crd_established()).await.unwrap();
}

/// A namespace of its own, which goes when the test has passed.
async fn namespace(client: &Client, name: &str) -> Api<Namespace> {
    let api: Api<Namespace> = Api::all(client.clone());
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&namespace)).await.unwrap();
    api
}

/// Takes the namespace away and waits for that: another run of these tests must not meet it while it goes.
async fn remove(api: Api<Namespace>, name: &str) {
    let uid = api.get(name).await.unwrap().uid().unwrap();
    api.delete(name, &DeleteParams::default()).await.unwrap();
    is_gone(api, name, &uid).await;
}

/// Far longer than the API server takes.
const GONE_TIMEOUT: Duration = Duration::from_secs(120);

async fn is_gone<K>(api: Api<K>, name: &str, uid: &str)
where
    K: kube::Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let gone =
        tokio::time::timeout(GONE_TIMEOUT, await_condition(api, name, conditions::is_deleted(uid))).await;
    gone.unwrap_or_else(|_| panic!("{name} is still there")).unwrap();
}

fn named(mut resource: Value, namespace: &str) -> DynamicObject {
    resource["metadata"]["namespace"] = json!(namespace);
    serde_json::from_value(resource).unwrap()
}

/// Tries an edit without making it. An operator of other tests may run in this cluster and write to the resource meanwhile:
/// as every client does, this one applies its change to the latest version, a bounded number of times.
async fn edit(api: &Api<DynamicObject>, resource: &DynamicObject) -> Result<DynamicObject, kube::Error> {
    let dry_run = PostParams { dry_run: true, field_manager: None };
    let name = resource.name_any();
    for _ in 0..20 {
        let mut edited = resource.clone();
        edited.metadata.resource_version = api.get(&name).await?.resource_version();
        match api.replace(&name, &dry_run, &edited).await {
            Err(kube::Error::Api(refusal)) if refusal.is_conflict() => {}
            outcome => return outcome,
        }
    }
    panic!("{name}: twenty edits in a row met another one");
}

#[tokio::test]
async fn rules_accept_and_refuse() {
    let Some(client) = client().await else { return };
    install(&client).await;
    let namespaces = namespace(&client, "crashmonitor-test-rules").await;
    let kind = ApiResource::erase::<CrashMonitor>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "crashmonitor-test-rules", &kind);
    let dry_run = PostParams { dry_run: true, field_manager: None };
    let file = cases::File::read();
    let mut wrong = Vec::new();
    for (case, resource, before) in file.cases() {
        let resource = named(resource, "crashmonitor-test-rules");
        let outcome = match before {
            None => api.create(&dry_run, &resource).await,
            Some(before) => {
                // An edit needs something that is there.
                let before = named(before, "crashmonitor-test-rules");
                let name = before.name_any();
                let uid = api.create(&PostParams::default(), &before).await.unwrap().uid().unwrap();
                let outcome = edit(&api, &resource).await;
                api.delete(&name, &DeleteParams::default()).await.unwrap();
                is_gone(api.clone(), &name, &uid).await;
                outcome
            }
        };
        match (outcome, &case.refused) {
            (Ok(_), None) => {}
            (Ok(_), Some(text)) => wrong.push(format!("{}: accepted, not refused with {text:?}", case.name)),
            (Err(error), None) => wrong.push(format!("{}: {error}", case.name)),
            (Err(error), Some(text)) if error.to_string().contains(text) => {}
            (Err(error), Some(text)) => {
                let who = if case.by == cases::By::Rule { "rule" } else { "schema" };
                wrong.push(format!("{}: refused without {text:?} (a {who}'s): {error}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    remove(namespaces, "crashmonitor-test-rules").await;
}

/// What the API server puts in place of what is left out is what the operator's own types put there.
#[tokio::test]
async fn defaults_are_the_same_on_both_sides() {
    let Some(client) = client().await else { return };
    install(&client).await;
    let namespaces = namespace(&client, "crashmonitor-test-defaults").await;
    let kind = ApiResource::erase::<CrashMonitor>(&());
    let raw: Api<DynamicObject> = Api::namespaced_with(client.clone(), "crashmonitor-test-defaults", &kind);
    let file = cases::File::read();
    let (_, least, _) = file.cases().next().unwrap();
    let read: CrashMonitor = serde_json::from_value(least.clone()).unwrap();
    let dry_run = PostParams { dry_run: true, field_manager: None };
    let stored = raw.create(&dry_run, &named(least, "crashmonitor-test-defaults")).await.unwrap();
    assert_eq!(stored.data["spec"], serde_json::to_value(&read.spec).unwrap());
    remove(namespaces, "crashmonitor-test-defaults").await;
}
