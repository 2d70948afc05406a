//! The commands before a real API server: `$KUBECONFIG`.
//!
//! Without a cluster these tests say so and pass; `make test-cluster` brings one up and sets `KUBECONFIG`. No operator is
//! needed, and one that is there does no harm: what is looked at here is nothing that it writes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::process::{Command, Output, Stdio};

use crashmonitor_operator::api::{CrashMonitor, schema};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

const MANAGER: &str = "crashmonitor-tests";

/// A namespace of a real API server, with the definition installed.
struct World {
    client: Client,
    namespace: String,
}

impl World {
    async fn new(prefix: &str) -> Option<World> {
        if std::env::var_os("KUBECONFIG").is_none() {
            eprintln!("KUBECONFIG is not set: nothing was tested");
            return None;
        }
        let client = Client::try_default().await.expect("KUBECONFIG leads to a cluster");
        let api: Api<CustomResourceDefinition> = Api::all(client.clone());
        let (crd, params) = (schema::crd(), PatchParams::apply(MANAGER).force());
        api.patch(&crd.name_any(), &params, &Patch::Apply(&crd)).await.unwrap();
        await_condition(api, &crd.name_any(), conditions::is_crd_established()).await.unwrap();
        // The one of an earlier run may still be on its way out.
        let namespace = format!("{prefix}-{}", std::process::id());
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        let api: Api<Namespace> = Api::all(client.clone());
        api.patch(&namespace, &params, &Patch::Apply(&object)).await.unwrap();
        Some(World { client, namespace })
    }

    fn monitors(&self) -> Api<CrashMonitor> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Applies `checkout` as `kubectl apply --server-side` does.
    async fn apply(&self, spec: &Value) {
        let params = PatchParams::apply("kubectl").force();
        self.monitors().patch("checkout", &params, &Patch::Apply(&resource(spec))).await.unwrap();
    }

    async fn stored(&self) -> CrashMonitor {
        self.monitors().get("checkout").await.unwrap()
    }

    /// Runs the command, with this text at its standard input.
    fn run(&self, arguments: &[&str], input: &str) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-crashmonitor"));
        command.args(arguments).args(["--namespace", &self.namespace]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Who does not read it has ended already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        Said::from(child.wait_with_output().unwrap())
    }

    async fn end(self) {
        let api: Api<Namespace> = Api::all(self.client.clone());
        api.delete(&self.namespace, &DeleteParams::default()).await.unwrap();
    }
}

/// What a command printed, and its exit code.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    error: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Said {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().expect("it ended by itself");
        Said { code, out: text(&output.stdout), error: text(&output.stderr) }
    }
}

fn spec() -> Value {
    json!({
        "replicas": 2,
        "kafka": {"bootstrapServers": "kafka:9092"},
        "input": {"topic": "logs"},
        "checkpoint": {"redis": {"url": "redis://redis:6379"}},
    })
}

/// So that an operator starts none.
fn without_workers() -> Value {
    let mut spec = spec();
    spec["replicas"] = json!(0);
    spec
}

fn resource(spec: &Value) -> Value {
    json!({
        "apiVersion": "crashmonitor.dev/v1alpha1",
        "kind": "CrashMonitor",
        "metadata": {"name": "checkout"},
        "spec": spec,
    })
}

#[tokio::test]
async fn workers_are_stopped_started_and_replaced() {
    let Some(world) = World::new("crashmonitor-cli-control").await else { return };
    world.apply(&without_workers()).await;
    let said = world.run(&["suspend", "checkout"], "");
    assert_eq!((said.code, said.error.as_str()), (0, ""));
    assert!(said.out.starts_with("crashmonitor/checkout suspended"), "{said:?}");
    assert!(world.run(&["suspend", "checkout"], "").out.contains("is suspended already"));
    let said = world.run(&["restart", "checkout"], "");
    assert_eq!(said.code, 1);
    assert!(said.error.contains("kubectl crashmonitor resume"), "{said:?}");
    assert_eq!(world.run(&["resume", "checkout"], "").code, 0);
    assert_eq!(world.run(&["restart", "checkout"], "").code, 0);
    let stored = world.stored().await;
    let state = serde_json::to_value(stored.spec.desired_state).unwrap();
    assert_eq!((state, stored.spec.restart_nonce), (json!("Running"), 1));
    world.end().await;
}

#[tokio::test]
async fn a_status_that_was_written_is_shown() {
    let Some(world) = World::new("crashmonitor-cli-status").await else { return };
    let said = world.run(&["status", "checkout"], "");
    assert_eq!(said.code, 1);
    let absent = format!("error: there is no CrashMonitor checkout in namespace {}\nnext:", world.namespace);
    assert!(said.error.starts_with(&absent), "{said:?}");

    world.apply(&without_workers()).await;
    let status = json!({"status": {
        "replicas": 2, "readyReplicas": 1,
        "lag": {"total": 1200, "maxPartition": 900, "observedAt": "2026-01-11T14:59:57Z"},
        "workers": [{
            "name": "checkout-worker-0", "process": "a/0", "ready": true, "inputPartitions": 3,
            "repartitionPartitions": 16,
        }],
    }});
    world.monitors().patch_status("checkout", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    let said = world.run(&["status", "checkout"], "");
    assert_eq!((said.code, said.error.as_str()), (0, ""));
    let heading = format!("{}/checkout: ", world.namespace);
    for part in [heading.as_str(), "lag 1,200", "checkout-worker-0  yes"] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    // No terminal, no colours.
    assert!(!said.out.contains('\u{1b}'), "{said:?}");
    let json: Value =
        serde_json::from_str(&world.run(&["status", "checkout", "-o", "json"], "").out).unwrap();
    assert_eq!(json["status"]["lag"]["total"], 1200);
    assert!(world.run(&["status", "checkout", "-o", "yaml"], "").out.contains("total: 1200"));
    world.end().await;
}

#[tokio::test]
async fn a_plan_changes_nothing_and_says_what_would() {
    let Some(world) = World::new("crashmonitor-cli-plan").await else { return };
    let plan = |spec: &Value| world.run(&["plan", "-f", "-"], &resource(spec).to_string());
    let said = plan(&spec());
    assert!(said.out.contains("would be created"), "{said:?}");
    world.apply(&spec()).await;
    let before = world.stored().await;
    assert_eq!(before.metadata.generation, Some(1));
    assert!(plan(&spec()).out.contains("no change"), "{:?}", plan(&spec()));

    let mut changed = spec();
    changed["replicas"] = json!(3);
    changed["countGreaterThan"] = json!(5);
    // Who applied it and no longer has it, removes it.
    changed.as_object_mut().unwrap().remove("checkpoint");
    let said = plan(&changed);
    assert_eq!((said.code, said.error.as_str()), (0, ""));
    let lines: Vec<Vec<&str>> = said.out.lines().map(|line| line.split_whitespace().collect()).collect();
    for expected in [
        ["spec.replicas", "2", "3", "Rescale"],
        ["spec.countGreaterThan", "2", "5", "Rolling"],
        ["spec.checkpoint.redis.url", "redis://redis:6379", "-", "Rolling"],
    ] {
        assert!(lines.iter().any(|line| line.starts_with(&expected)), "{expected:?}: {}", said.out);
    }

    let mut impossible = spec();
    impossible["window"] = json!({"size": "1m"});
    let said = plan(&impossible);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.out.contains("window.size can't be changed"), "{said:?}");
    assert!(said.out.contains("StateReset"), "{said:?}");
    let mut unknown = spec();
    unknown["windwo"] = json!({});
    assert_eq!(plan(&unknown).code, 3, "{:?}", plan(&unknown));

    let after = world.stored().await;
    assert_eq!((after.metadata.generation, after.spec), (before.metadata.generation, before.spec));
    world.end().await;
}

/// As `kubectl apply` without `--server-side` leaves it: with what was applied in an annotation.
#[tokio::test]
async fn a_plan_follows_kubectl_apply_on_the_client_s_side() {
    let Some(world) = World::new("crashmonitor-cli-apply").await else { return };
    let mut object = resource(&spec());
    object["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": resource(&spec()).to_string()});
    let object: CrashMonitor = serde_json::from_value(object).unwrap();
    world.monitors().create(&Default::default(), &object).await.unwrap();
    // Somebody else's, such as an autoscaler's.
    let scaled = Patch::Merge(json!({"spec": {"replicas": 5}}));
    world.monitors().patch("checkout", &PatchParams::default(), &scaled).await.unwrap();
    let mut file = spec();
    file.as_object_mut().unwrap().remove("checkpoint");
    file.as_object_mut().unwrap().remove("replicas");
    let said = world.run(&["plan", "-f", "-"], &resource(&file).to_string());
    assert_eq!((said.code, said.error.as_str()), (0, ""));
    assert!(said.out.contains("spec.checkpoint.redis.url"), "{}", said.out);
    world.end().await;
}
