//! A real Kubernetes without machines: API server, its store, and the controller that makes pods, as processes on loopback.
//!
//! Responsible for what an operator can't tell from a whole cluster but for one thing: nothing runs the pods. Who needs
//! them to run, runs what is in them itself, and says so in their status as a kubelet does; or has nodes that say it of all
//! pods that a real scheduler gives them, and run nothing (kwok). Must never be taken for the place of `make cluster`: no
//! container, no network of pods and no admission by NetworkPolicies is here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::home::Dir;
use crate::ports::Port;
use crate::process::Process;
use crate::tools::{run_with, tool};
use crate::wait::until;

/// How long the API server may take to its first answer.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// What a test is: everything is allowed.
const ADMIN_TOKEN: &str = "admin";
/// Where pods of nodes that run nothing are said to be: anything that listens there stands for what is in all of them.
const POD_NETWORK: &str = "127.64.0.0/16";
/// The controllers beside that of the StatefulSets that touch what a monitor consists of, or nodes.
const CONTROLLERS: &str = "statefulset-controller,disruption-controller,garbage-collector-controller,\
    node-lifecycle-controller,serviceaccount-controller";
/// What each client of ours may ask in a second: with the defaults (20 and 50), that would be all that a measurement sees.
const REQUESTS_PER_SECOND: u32 = 1_000;

/// What to start beside the least.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    audited: Option<Value>,
    nodes: u32,
}

impl Builder {
    /// Has the API server write down what it is asked, by this policy, where [`ControlPlane::audit_log`] says.
    pub fn audited(mut self, policy: Value) -> Builder {
        self.audited = Some(policy);
        self
    }

    /// So many nodes, whose pods are running and ready at once; with the scheduler, and more of the controllers.
    pub fn nodes(mut self, nodes: u32) -> Builder {
        self.nodes = nodes;
        self
    }

    /// Starts it, and waits until the API server is ready, and the nodes.
    #[track_caller]
    pub fn start(self) -> ControlPlane {
        let mut plane = ControlPlane::start_server(&self);
        plane.start_controllers(self.nodes > 0);
        if self.nodes > 0 {
            plane.start_scheduler();
            plane.start_nodes(self.nodes);
        }
        plane
    }
}

/// The processes. Dropping it kills them and removes all that was stored.
#[derive(Debug)]
pub struct ControlPlane {
    // Before `dir`: the processes end before their files go.
    processes: Vec<Process>,
    api: Port,
    kubeconfig: PathBuf,
    // Held so that nobody else takes them.
    _ports: Vec<Port>,
    dir: Dir,
}

impl ControlPlane {
    /// Starts the least, and waits until the API server is ready.
    #[track_caller]
    pub fn start() -> ControlPlane {
        ControlPlane::builder().start()
    }

    /// What to start.
    pub fn builder() -> Builder {
        Builder::default()
    }

    #[track_caller]
    fn start_server(builder: &Builder) -> ControlPlane {
        let dir = Dir::new("control-plane");
        let (api, client, peer) = (Port::reserve(), Port::reserve(), Port::reserve());
        let kubeconfig = dir.path().join("admin.kubeconfig");
        let etcd = start_etcd(&dir, &client, &peer);
        let server = start_api_server(&dir, &api, &client, builder.audited.as_ref());
        let plane =
            ControlPlane { processes: vec![server, etcd], api, kubeconfig, _ports: vec![client, peer], dir };
        until("the API server's certificate", START_TIMEOUT, || {
            plane.processes[0].exited().map_or(Ok(()), |status| Err(status.to_string())).and_then(|()| {
                let is_there = plane.authority().is_file();
                is_there.then_some(()).ok_or_else(|| plane.processes[0].log_tail())
            })
        });
        plane.write_kubeconfig("admin", ADMIN_TOKEN);
        until("the API server to be ready", START_TIMEOUT, || {
            plane
                .try_kubectl(&["get", "--raw", "/readyz"], "")
                .map_err(|e| format!("{e}\n{}", plane.processes[0].log_tail()))
        });
        plane
    }

    fn authority(&self) -> PathBuf {
        self.dir.path().join("certificates/apiserver.crt")
    }

    /// What the API server was asked, if it is audited.
    pub fn audit_log(&self) -> PathBuf {
        audit_log(&self.dir)
    }

    /// Before the others, so that it ends before what it talks to.
    fn spawn(&mut self, name: &str, command: &Command) {
        let log = self.dir.path().join(format!("{name}.log"));
        self.processes.insert(0, Process::spawn(name, command, &log));
    }

    fn start_controllers(&mut self, has_nodes: bool) {
        let mut command = Command::new(tool("kube-controller-manager"));
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command.args(["--leader-elect=false", "--secure-port=0"]);
        if has_nodes {
            command.arg(format!("--controllers={CONTROLLERS}"));
            command.arg(format!("--kube-api-qps={REQUESTS_PER_SECOND}"));
            command.arg(format!("--kube-api-burst={REQUESTS_PER_SECOND}"));
        } else {
            command.arg("--controllers=statefulset-controller");
        }
        self.spawn("kube-controller-manager", &command);
    }

    fn start_scheduler(&mut self) {
        let config = json!({
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": false},
            "clientConnection": {
                "kubeconfig": self.kubeconfig, "qps": REQUESTS_PER_SECOND, "burst": REQUESTS_PER_SECOND,
            },
        });
        let config = self.dir.write("scheduler.yaml", config.to_string());
        let mut command = Command::new(tool("kube-scheduler"));
        command.arg("--config").arg(config).arg("--secure-port=0");
        self.spawn("kube-scheduler", &command);
    }

    #[track_caller]
    fn start_nodes(&mut self, nodes: u32) {
        let port = Port::reserve();
        let mut command = Command::new(tool("kwok"));
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command.args(["--manage-all-nodes=true", "--node-ip=127.0.0.1", "--node-lease-duration-seconds=40"]);
        command.arg(format!("--cidr={POD_NETWORK}"));
        command.arg(format!("--server-address={}", port.address()));
        // No settings of who runs this.
        command.env("HOME", self.dir.path());
        self.spawn("kwok", &command);
        self._ports.push(port);
        for number in 0..nodes {
            let labels =
                json!({"kubernetes.io/hostname": format!("node-{number}"), "kubernetes.io/os": "linux"});
            self.apply(&json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": format!("node-{number}"), "labels": labels},
            }));
        }
        // All by one request: `kubectl wait` asks for each, and is slowed down after some.
        until("the nodes to take pods", START_TIMEOUT, || {
            let found: Value = serde_json::from_str(&self.try_kubectl(&["get", "nodes", "-o", "json"], "")?)
                .map_err(|error| error.to_string())?;
            let takes_pods = |node: &&Value| is_ready(node) && node["spec"]["taints"].is_null();
            let ready = found["items"].as_array().into_iter().flatten().filter(takes_pods).count();
            if ready == nodes as usize {
                return Ok(());
            }
            Err(format!("{ready} of {nodes}\n{}", self.processes[0].log_tail()))
        });
    }

    /// Writes the configuration of a client that has this token, and gives its path.
    pub fn write_kubeconfig(&self, name: &str, token: &str) -> PathBuf {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{}", self.api.address()),
                "certificate-authority": self.authority(),
            }}],
            "users": [{"name": "test", "user": {"token": token}}],
        });
        self.dir.write(&format!("{name}.kubeconfig"), config.to_string())
    }

    /// Runs kubectl as one who may do everything, with `input`; what it printed, or what it complained of.
    pub fn try_kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let kubeconfig = self.kubeconfig.to_str().expect("a test's directory is UTF-8");
        run_with("kubectl", &[&["--kubeconfig", kubeconfig], arguments].concat(), input)
    }

    /// The same, and panics when it fails.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        self.try_kubectl(arguments, input).unwrap_or_else(|e| panic!("kubectl {}: {e}", arguments.join(" ")))
    }

    /// `kubectl get -o json`; an error where it is absent.
    pub fn try_get(&self, arguments: &[&str]) -> Result<Value, String> {
        let text = self.try_kubectl(&[&["get", "-o", "json"], arguments].concat(), "")?;
        serde_json::from_str(&text).map_err(|e| format!("kubectl get {}: {e}", arguments.join(" ")))
    }

    /// Applies an object.
    #[track_caller]
    pub fn apply(&self, object: &Value) {
        self.kubectl(&["apply", "--server-side", "-f", "-"], &object.to_string());
    }

    /// Puts a pod on a node, and says that it runs there under this address, as a scheduler and a kubelet do.
    #[track_caller]
    pub fn run_pod(&self, namespace: &str, pod: &str, node: &str, ip: &str, is_ready: bool) {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod, "namespace": namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/binding");
        // It is there already if only the readiness changes.
        let _ = self.try_kubectl(&["create", "--raw", &path, "-f", "-"], &binding.to_string());
        let ready = if is_ready { "True" } else { "False" };
        let status = json!({"status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": ip,
            "startTime": "2026-01-01T00:00:00Z",
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:01:00Z"},
            ],
            "containerStatuses": [{
                "name": "worker", "image": "worker", "imageID": "", "ready": is_ready, "restartCount": 0,
                "started": true, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
            }],
        }});
        let patch = ["patch", "pod", pod, "-n", namespace, "--subresource=status", "--type=merge", "-p"];
        self.kubectl(&[&patch[..], &[&status.to_string()]].concat(), "");
    }
}

fn start_etcd(dir: &Dir, client: &Port, peer: &Port) -> Process {
    let (client, peer) = (format!("http://{}", client.address()), format!("http://{}", peer.address()));
    let mut command = Command::new(tool("etcd"));
    command.arg("--data-dir").arg(dir.path().join("etcd"));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}")]);
    // What a test stores need not survive a power failure.
    command.args(["--unsafe-no-fsync", "--log-level", "warn"]);
    Process::spawn("etcd", &command, &dir.path().join("etcd.log"))
}

/// Whether an object's status has the condition `Ready`.
pub fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn audit_log(dir: &Dir) -> PathBuf {
    dir.path().join("audit.log")
}

fn start_api_server(dir: &Dir, api: &Port, etcd: &Port, audited: Option<&Value>) -> Process {
    let key = dir.path().join("accounts.key");
    make_key(&key);
    let tokens = dir.write("tokens.csv", format!("{ADMIN_TOKEN},admin,admin,\"system:masters\"\n"));
    let mut command = Command::new(tool("kube-apiserver"));
    command.arg(format!("--etcd-servers=http://{}", etcd.address()));
    command.arg(format!("--secure-port={}", api.number()));
    command.arg(format!("--cert-dir={}", dir.path().join("certificates").display()));
    command.arg(format!("--token-auth-file={}", tokens.display()));
    for option in ["--service-account-key-file", "--service-account-signing-key-file"] {
        command.arg(format!("{option}={}", key.display()));
    }
    command.args([
        "--bind-address=127.0.0.1",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-cluster-ip-range=10.96.0.0/24",
        // Nobody here reaches it by the Service that it would make for itself.
        "--endpoint-reconciler-type=none",
    ]);
    if let Some(policy) = audited {
        command.arg("--audit-policy-file").arg(dir.write("audit-policy.yaml", policy.to_string()));
        command.arg("--audit-log-path").arg(audit_log(dir));
        // Who reads it follows one file.
        command.arg("--audit-log-maxsize=100000");
    }
    Process::spawn("kube-apiserver", &command, &dir.path().join("api-server.log"))
}

fn make_key(path: &Path) {
    let mut command = Command::new("openssl");
    command.args(["genrsa", "-out"]).arg(path).arg("2048");
    let output = command.output().unwrap_or_else(|e| panic!("openssl: {e}"));
    assert!(
        output.status.success() && fs::metadata(path).is_ok(),
        "openssl: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
