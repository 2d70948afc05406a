//! A real Kubernetes cluster: the one that `make cluster` brings up, through `kubectl`.
//!
//! Responsible for finding it, for namespaces that end with their test, for reading and changing objects, and for
//! reaching the processes of pods. Must never make or remove the cluster itself, and never touch a namespace that it
//! did not make.

use std::env;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::home::Dir;
use crate::shared::unique;
use crate::tools::run_with;
use crate::wait::until;

/// How long an object may take to be gone once it was deleted, with all that it owns.
const GONE_TIMEOUT: Duration = Duration::from_secs(180);

/// The cluster.
#[derive(Debug)]
pub struct Cluster {
    host: Ipv4Addr,
}

impl Cluster {
    /// The cluster of `make cluster`; panics where there is none.
    pub fn get() -> &'static Cluster {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        CLUSTER.get_or_init(Cluster::find)
    }

    fn find() -> Cluster {
        let variable = |name: &str| {
            env::var(name).unwrap_or_else(|_| {
                panic!(
                    "{name} is not set: run `make test-cluster`, or `eval \"$(scripts/cluster env)\"` first"
                )
            })
        };
        let kubeconfig = PathBuf::from(variable("KUBECONFIG"));
        assert!(kubeconfig.is_file(), "{} is missing: run `make cluster`", kubeconfig.display());
        let host = variable("CRASHMONITOR_HOST_ADDRESS");
        let host = host.parse().unwrap_or_else(|e| panic!("CRASHMONITOR_HOST_ADDRESS={host}: {e}"));
        Cluster { host }
    }

    /// The address of this host that pods reach.
    pub fn host(&self) -> Ipv4Addr {
        self.host
    }

    /// Runs kubectl; what it printed, or what it complained of.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        run("kubectl", arguments, "")
    }

    /// Runs kubectl, and panics when it fails.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments).unwrap_or_else(|e| panic!("kubectl {}: {e}", arguments.join(" ")))
    }

    /// Runs helm; what it printed, or what it complained of.
    pub fn try_helm(&self, arguments: &[&str]) -> Result<String, String> {
        run("helm", arguments, "")
    }

    /// Runs helm, and panics when it fails.
    #[track_caller]
    pub fn helm(&self, arguments: &[&str]) -> String {
        self.try_helm(arguments).unwrap_or_else(|e| panic!("helm {}: {e}", arguments.join(" ")))
    }

    /// Server-side applies an object as a user would; the API server's complaint where it refuses.
    pub fn try_apply(&self, object: &Value) -> Result<String, String> {
        run("kubectl", &["apply", "--server-side", "-f", "-"], &object.to_string())
    }

    /// Server-side applies an object, and panics where it is refused.
    #[track_caller]
    pub fn apply(&self, object: &Value) {
        self.try_apply(object).unwrap_or_else(|e| panic!("applying {object}: {e}"));
    }

    /// Everything that was tried at once in `kubectl get -o json`; an error where one is absent.
    pub fn try_get(&self, arguments: &[&str]) -> Result<Value, String> {
        let text = self.try_kubectl(&[&["get", "-o", "json"], arguments].concat())?;
        serde_json::from_str(&text).map_err(|e| format!("kubectl get {}: {e}", arguments.join(" ")))
    }

    /// The same, and panics where one is absent.
    #[track_caller]
    pub fn get_json(&self, arguments: &[&str]) -> Value {
        self.try_get(arguments).unwrap_or_else(|e| panic!("kubectl get {}: {e}", arguments.join(" ")))
    }

    /// Gives an image that the worker nodes have another name there, and returns it.
    #[track_caller]
    pub fn second_name_of(&self, image: &str) -> String {
        let (repository, _) = image.rsplit_once(':').expect("our images have tags");
        let second = format!("{repository}:second");
        for node in self.list(&["nodes", "-l", "!node-role.kubernetes.io/control-plane"]) {
            let node = node["metadata"]["name"].as_str().expect("a node has a name");
            let (from, to) = (format!("docker.io/{image}"), format!("docker.io/{second}"));
            let tag = ["exec", node, "ctr", "--namespace", "k8s.io", "images", "tag", "--force", &from, &to];
            run("docker", &tag, "").unwrap_or_else(|e| panic!("docker {}: {e}", tag.join(" ")));
        }
        second
    }

    /// The items of a list.
    #[track_caller]
    pub fn list(&self, arguments: &[&str]) -> Vec<Value> {
        self.get_json(arguments)["items"].as_array().cloned().unwrap_or_default()
    }
}

/// Runs kubectl, helm or docker with `input`; what it printed, or what it complained of, without the last line feed.
fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    let trimmed = |text: String| text.trim_end().to_owned();
    run_with(program, arguments, input).map(trimmed).map_err(trimmed)
}

/// A namespace of one test, which admits only what the Pod Security standard `restricted` allows. Dropping it deletes
/// it with all that is in it, without waiting.
#[derive(Debug)]
pub struct Namespace {
    cluster: &'static Cluster,
    name: String,
}

impl Namespace {
    /// Makes one whose name begins with `prefix`.
    #[track_caller]
    pub fn new(prefix: &str) -> Namespace {
        Namespace::make(format!("{}-{}", unique(prefix), std::process::id()))
    }

    #[track_caller]
    fn make(name: String) -> Namespace {
        let cluster = Cluster::get();
        cluster.apply(&json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }));
        Namespace { cluster, name }
    }

    /// One of this very name, for what names it itself. What an earlier run left under that name is removed first.
    #[track_caller]
    pub fn named(name: &str) -> Namespace {
        let cluster = Cluster::get();
        cluster.kubectl(&["delete", "namespace", name, "--ignore-not-found", "--timeout=180s"]);
        Namespace::make(name.to_owned())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A kubeconfig in this directory, of somebody who works in it.
    #[track_caller]
    pub fn kubeconfig(&self, dir: &Dir) -> PathBuf {
        let ours = env::var_os("KUBECONFIG").expect("the cluster was found by it");
        let copy = dir.write("kubeconfig", fs::read(ours).expect("the cluster was found by it"));
        let file = copy.to_str().expect("a temporary path is UTF-8");
        let context = ["config", "set-context", "--current", "--namespace", &self.name];
        self.cluster.kubectl(&[&["--kubeconfig", file], &context[..]].concat());
        copy
    }

    /// Runs kubectl in it; what it printed, or what it complained of.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        self.cluster.try_kubectl(&[&["--namespace", &self.name], arguments].concat())
    }

    /// Runs kubectl in it, and panics when it fails.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster.kubectl(&[&["--namespace", &self.name], arguments].concat())
    }

    /// An object of it, or why there is none.
    pub fn try_get(&self, arguments: &[&str]) -> Result<Value, String> {
        self.cluster.try_get(&[&["--namespace", &self.name], arguments].concat())
    }

    /// An object of it; panics where there is none.
    #[track_caller]
    pub fn get_json(&self, arguments: &[&str]) -> Value {
        self.cluster.get_json(&[&["--namespace", &self.name], arguments].concat())
    }

    /// Objects of it.
    #[track_caller]
    pub fn list(&self, arguments: &[&str]) -> Vec<Value> {
        self.get_json(arguments)["items"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until what these arguments select is gone.
    #[track_caller]
    pub fn await_gone(&self, arguments: &[&str]) {
        until(&format!("{} to be gone", arguments.join(" ")), GONE_TIMEOUT, || {
            let left = self.kubectl(&[&["get", "-o", "name", "--ignore-not-found"], arguments].concat());
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
    }

    /// The events about objects of it, oldest first, as (reason, object, note).
    #[track_caller]
    pub fn events(&self) -> Vec<(String, String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let events = self.list(&["events.events.k8s.io", "--sort-by=.metadata.creationTimestamp"]);
        events
            .iter()
            .map(|event| {
                let regarding = &event["regarding"];
                let object = format!("{}/{}", text(&regarding["kind"]), text(&regarding["name"]));
                (text(&event["reason"]), object, text(&event["note"]))
            })
            .collect()
    }

    /// SIGKILL to the main process of a pod's container: the container dies, the pod stays.
    #[track_caller]
    pub fn kill9(&self, pod: &str) {
        let pid = pid_in_pod(&self.get_json(&["pod", pod]), "crashmonitor-worker");
        kill_process(pid, Signal::KILL).unwrap_or_else(|e| panic!("killing the worker of {pod}: {e}"));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A test that fails leaves its objects to be looked at when it is asked to.
        if env::var_os("CRASHMONITOR_KEEP").is_some_and(|keep| keep == "1") {
            return;
        }
        let _ = self.cluster.try_kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}

/// The process named `name` in a pod: the nodes are containers, so this host sees their processes.
#[track_caller]
pub fn pid_in_pod(pod: &Value, name: &str) -> Pid {
    // A cgroup driver of systemd writes a uid with underscores.
    let uid = pod["metadata"]["uid"].as_str().expect("a pod has a uid");
    let spellings = [uid.to_owned(), uid.replace('-', "_")];
    let processes = fs::read_dir("/proc").expect("/proc is there").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let in_pod = |pid: &i32| {
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        spellings.iter().any(|uid| cgroups.contains(uid)) && command.contains(name)
    };
    let found: Vec<i32> = pids.filter(in_pod).collect();
    let [pid] = found[..] else { panic!("not one process {name} in the pod with uid {uid}: {found:?}") };
    Pid::from_raw(pid).expect("a pid is not zero")
}
