//! A Kubernetes with one operator, and what is seen of it while monitors come.
//!
//! Responsible for the steps of a measurement. Must never be used for a second one: memory is that of a process since its start.

use crashmonitor_testbed::audit::{self, Call};
use crashmonitor_testbed::control_plane::{ControlPlane, is_ready};
use crashmonitor_testbed::home::Dir;
use crashmonitor_testbed::http;
use crashmonitor_testbed::ports::Port;
use crashmonitor_testbed::process::Process;
use crashmonitor_testbed::tools::root;
use crashmonitor_testbed::until;
use crashmonitor_testbed::wait::try_until;
use crashmonitor_testbed::worker::binary;
use jiff::Timestamp;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::workers::Workers;

const NAMESPACE: &str = "bench";
const OPERATOR_NAMESPACE: &str = "crashmonitor-system";
const OPERATOR: &str = "crashmonitor-operator";
/// What a Kubernetes or an operator may take for what does not depend on the number of monitors.
const TIMEOUT: Duration = Duration::from_secs(120);
/// What a monitor more may take, on a slow machine.
const TIMEOUT_A_MONITOR: Duration = Duration::from_secs(1);
/// Monitors that one kubectl creates.
const CREATED_TOGETHER: usize = 50;
/// The kinds of which each monitor has one object.
const KINDS: [&str; 6] =
    ["serviceaccounts", "configmaps", "services", "networkpolicies", "poddisruptionbudgets", "statefulsets"];

/// What the operator did in a while.
#[derive(Default)]
pub struct Phase {
    /// How long it was.
    pub seconds: f64,
    /// The processor time of the operator.
    pub cpu_seconds: f64,
    /// Its calls, by verb and resource.
    pub calls: BTreeMap<String, u64>,
}

impl Phase {
    /// The calls of which `what` holds.
    pub fn count(&self, what: impl Fn(&str) -> bool) -> u64 {
        self.calls.iter().filter(|(call, _)| what(call)).map(|(_, count)| count).sum()
    }
}

/// How long something took for each monitor, in seconds and in their order.
pub struct Times(Vec<f64>);

impl Times {
    fn of(times: impl Iterator<Item = f64>) -> Times {
        let mut all: Vec<f64> = times.collect();
        all.sort_by(f64::total_cmp);
        Times(all)
    }

    /// What this share of all did not exceed; `None` if there are none.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let rank = (self.0.len() as f64 * share).ceil().max(1.0) as usize;
        self.0.get(rank - 1).copied()
    }
}

/// All that was measured with one number of monitors.
pub struct Measured {
    /// The number.
    pub monitors: u32,
    /// How long their creation took.
    pub created_seconds: f64,
    /// From the creation of each until all of its objects were applied.
    pub objects: Times,
    /// From the creation of each until its status said that it is ready.
    pub ready: Times,
    /// From the first creation until all were ready.
    pub starting: Phase,
    /// Nothing to read.
    pub idle: Phase,
    /// All figures change.
    pub load: Phase,
    /// Another operator takes over.
    pub restart: Phase,
    /// Of the operator's memory, in bytes: without monitors, …
    pub resident_before: u64,
    /// … idle with all of them, …
    pub resident: u64,
    /// … at most until then, and under load, …
    pub resident_max: u64,
    /// … and of the one that took over.
    pub resident_max_restarted: u64,
}

/// The Kubernetes and the operator.
pub struct World {
    // Before the plane: it ends before what it talks to.
    operator: Process,
    record: Record,
    admin: Port,
    kubeconfig: PathBuf,
    dir: Dir,
    plane: ControlPlane,
}

impl World {
    /// Brings both up; the operator leads when this returns.
    pub fn start(nodes: u32) -> World {
        let user = format!("system:serviceaccount:{OPERATOR_NAMESPACE}:{OPERATOR}");
        let plane = ControlPlane::builder().audited(audit::policy(&user)).nodes(nodes).start();
        let config = root().join("config");
        let config = config.to_str().expect("the checkout's path is UTF-8");
        plane.kubectl(&["apply", "--server-side", "-k", config], "");
        plane.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}));
        let definition = "customresourcedefinition/crashmonitors.crashmonitor.dev";
        plane.kubectl(&["wait", definition, "--for=condition=Established", "--timeout=60s"], "");
        // The operator has the rights that it is installed with, and no others.
        let token = ["create", "token", OPERATOR, "-n", OPERATOR_NAMESPACE, "--duration=12h"];
        let token = until("a token of the operator", TIMEOUT, || plane.try_kubectl(&token, ""));
        let kubeconfig = plane.write_kubeconfig("operator", token.trim());
        let (admin, dir) = (Port::reserve(), Dir::new("operator"));
        let operator = start_operator(&kubeconfig, &admin, &dir);
        let reader = audit::Reader::new(&plane.audit_log());
        let record = Record { reader, user, counts: BTreeMap::new(), seen: Seen::default() };
        let world = World { operator, record, admin, kubeconfig, dir, plane };
        world.wait_leading();
        world
    }

    /// Of the API server.
    pub fn version(&self) -> Result<String, String> {
        let version: Value =
            serde_json::from_str(&self.plane.try_kubectl(&["get", "--raw", "/version"], "")?)
                .map_err(|error| format!("the API server's version: {error}"))?;
        Ok(version["gitVersion"].as_str().unwrap_or_default().trim_start_matches('v').to_owned())
    }

    /// Creates so many monitors and goes through all phases.
    pub fn measure(&mut self, monitors: u32, seconds: u64, workers: &Workers) -> Result<Measured, String> {
        workers.set_loaded(false);
        let patience = TIMEOUT + TIMEOUT_A_MONITOR * monitors;
        let resident_before = self.operator.resident_bytes();
        let begun = self.begin()?;
        self.create(monitors);
        self.wait_ready(monitors, patience)?;
        let starting = self.end(begun)?;
        self.wait_looked_at(2 * monitors, patience)?;
        let idle = self.watch(seconds)?;
        let resident = self.operator.resident_bytes();
        workers.set_loaded(true);
        self.wait_looked_at(2 * monitors, patience)?;
        let load = self.watch(seconds)?;
        let resident_max = self.operator.resident_bytes_max();
        workers.set_loaded(false);
        // What stands still again has been told when the next operator comes.
        self.wait_looked_at(2 * monitors, patience)?;
        let seen = &self.record.seen;
        let created = seen.created.values().min().zip(seen.created.values().max());
        let created_seconds = created.map_or(0.0, |(first, last)| last.duration_since(*first).as_secs_f64());
        let objects = seen.since_created(&last_of(&seen.applied));
        let ready = seen.since_created(&seen.ready);
        let restart = self.restart(monitors, patience)?;
        let resident_max_restarted = self.operator.resident_bytes_max();
        Ok(Measured {
            monitors,
            created_seconds,
            objects,
            ready,
            starting,
            idle,
            load,
            restart,
            resident_before,
            resident,
            resident_max,
            resident_max_restarted,
        })
    }

    /// Several at a time: each kubectl sends its first requests at once and then five a second.
    fn create(&self, monitors: u32) {
        let all: Vec<Value> = (0..monitors).map(monitor).collect();
        thread::scope(|scope| {
            for some in all.chunks(CREATED_TOGETHER) {
                let list = json!({"apiVersion": "v1", "kind": "List", "items": some}).to_string();
                scope.spawn(move || self.plane.kubectl(&["apply", "--server-side", "-f", "-"], &list));
            }
        });
    }

    /// From here on, calls are counted.
    fn begin(&mut self) -> Result<(Instant, Duration), String> {
        self.record.read()?;
        self.record.counts.clear();
        Ok((Instant::now(), self.operator.cpu_time()))
    }

    fn end(&mut self, (begun, cpu): (Instant, Duration)) -> Result<Phase, String> {
        let cpu_seconds = (self.operator.cpu_time().saturating_sub(cpu)).as_secs_f64();
        let seconds = begun.elapsed().as_secs_f64();
        self.record.read()?;
        Ok(Phase { seconds, cpu_seconds, calls: self.record.counts.clone() })
    }

    /// What it does in so many seconds by itself.
    fn watch(&mut self, seconds: u64) -> Result<Phase, String> {
        let begun = self.begin()?;
        thread::sleep(Duration::from_secs(seconds));
        self.end(begun)
    }

    fn wait_ready(&mut self, monitors: u32, patience: Duration) -> Result<(), String> {
        self.wait_applied(monitors, patience)?;
        self.wait_for(monitors, patience, "ready", |seen| seen.ready.len())
    }

    fn wait_applied(&mut self, monitors: u32, patience: Duration) -> Result<(), String> {
        self.wait_for(monitors, patience, "applied", |seen| last_of(&seen.applied).len())
    }

    fn wait_for(
        &mut self,
        monitors: u32,
        patience: Duration,
        what: &str,
        of: impl Fn(&Seen) -> usize,
    ) -> Result<(), String> {
        let complete = try_until(patience, || {
            self.record.read()?;
            let count = of(&self.record.seen);
            if count == monitors as usize { Ok(()) } else { Err(format!("{count} of {monitors} are {what}")) }
        });
        complete.map_err(|error| format!("{error}\n{}", self.operator.log_tail()))
    }

    /// Waits for so many looks at monitors; each has its turn.
    fn wait_looked_at(&self, looks: u32, patience: Duration) -> Result<(), String> {
        let before = self.looks().unwrap_or(0.0);
        try_until(patience, || {
            let looks = f64::from(looks) - (self.looks()? - before);
            if looks <= 0.0 { Ok(()) } else { Err(format!("{looks} looks are missing")) }
        })
    }

    fn looks(&self) -> Result<f64, String> {
        self.figure("crashmonitor_operator_reconciles_total")
    }

    fn figure(&self, name: &str) -> Result<f64, String> {
        let metrics = http::get(self.admin.address(), "/metrics")?.body;
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.ok_or_else(|| format!("there is no {name}"))
    }

    #[track_caller]
    fn wait_leading(&self) {
        until("the operator to lead", TIMEOUT, || match self.figure("crashmonitor_operator_leader") {
            Ok(leads) if leads > 0.0 => Ok(()),
            other => Err(format!("{other:?}\n{}", self.operator.log_tail())),
        });
    }

    fn restart(&mut self, monitors: u32, patience: Duration) -> Result<Phase, String> {
        let (begun, _) = self.begin()?;
        self.operator.signal(Signal::TERM);
        self.operator.wait_exit(TIMEOUT);
        self.record.read()?;
        self.record.seen.applied.clear();
        self.operator = start_operator(&self.kubeconfig, &self.admin, &self.dir);
        // It knows of nothing what it was when it was applied last, so it applies all once more.
        self.wait_applied(monitors, patience)?;
        // Its processor time begins at zero.
        self.end((begun, Duration::ZERO))
    }
}

/// What the API server wrote down, taken account of as it comes.
struct Record {
    reader: audit::Reader,
    user: String,
    /// The operator's calls since they were counted last, by verb and resource.
    counts: BTreeMap<String, u64>,
    seen: Seen,
}

/// When what happened first, by monitor.
#[derive(Default)]
struct Seen {
    created: BTreeMap<String, Timestamp>,
    applied: BTreeMap<String, BTreeMap<String, Timestamp>>,
    ready: BTreeMap<String, Timestamp>,
}

impl Record {
    fn read(&mut self) -> Result<(), String> {
        for call in self.reader.read()? {
            let is_operator = call.user.username == self.user;
            if is_operator && call.verb != "watch" {
                *self.counts.entry(call.what()).or_insert(0) += 1;
            }
            if call.is_success() {
                self.seen.note(call, is_operator);
            }
        }
        Ok(())
    }
}

impl Seen {
    fn note(&mut self, call: Call, is_operator: bool) {
        let (object, at) = (call.object_ref, call.answered_at);
        match (object.resource.as_str(), object.subresource.as_str()) {
            ("crashmonitors", "") if !is_operator => {
                self.created.entry(object.name).or_insert(at);
            }
            ("crashmonitors", "status") if is_ready(&call.request_object) => {
                self.ready.entry(object.name).or_insert(at);
            }
            (kind, "") if KINDS.contains(&kind) && call.verb == "patch" => {
                let monitor = object.name.split("-worker").next().unwrap_or_default().to_owned();
                self.applied.entry(monitor).or_default().entry(object.resource).or_insert(at);
            }
            _ => {}
        }
    }

    /// From the creation of each until then.
    fn since_created(&self, times: &BTreeMap<String, Timestamp>) -> Times {
        let since = |(name, at): (&String, &Timestamp)| {
            Some(at.duration_since(*self.created.get(name)?).as_secs_f64())
        };
        Times::of(times.iter().filter_map(since))
    }
}

/// The last of its objects, of each monitor that has all.
fn last_of(applied: &BTreeMap<String, BTreeMap<String, Timestamp>>) -> BTreeMap<String, Timestamp> {
    let all: BTreeSet<&str> = KINDS.into();
    let complete =
        applied.iter().filter(|(_, kinds)| kinds.keys().map(String::as_str).collect::<BTreeSet<_>>() == all);
    complete.filter_map(|(name, kinds)| Some((name.clone(), *kinds.values().max()?))).collect()
}

fn monitor(number: u32) -> Value {
    json!({
        "apiVersion": "crashmonitor.dev/v1alpha1",
        "kind": "CrashMonitor",
        "metadata": {"name": format!("monitor-{number:05}"), "namespace": NAMESPACE},
        "spec": {
            "replicas": 1,
            "kafka": {"bootstrapServers": "kafka:9092"},
            "input": {"topic": format!("logs-{number:05}")},
            "output": {"topic": format!("alerts-{number:05}")},
            "checkpoint": {"redis": {"url": "redis://redis:6379"}},
        },
    })
}

fn start_operator(kubeconfig: &PathBuf, admin: &Port, dir: &Dir) -> Process {
    let mut command = Command::new(binary("crashmonitor-operator", "CRASHMONITOR_OPERATOR"));
    command.args(["run", "--worker-image", "crashmonitor/worker:bench", "--identity", "operator"]);
    command.args(["--leader-election-namespace", OPERATOR_NAMESPACE]);
    command.arg("--listen").arg(admin.address().to_string());
    command.env("KUBECONFIG", kubeconfig);
    Process::spawn("the operator", &command, &dir.path().join("log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_times() {
        let times = Times::of([3.0, 1.0, 2.0, 4.0].into_iter());
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| times.quantile(share)), [1.0, 2.0, 4.0, 4.0].map(Some));
        assert_eq!(Times::of(std::iter::empty()).quantile(0.5), None);
    }

    #[test]
    fn a_monitor_is_applied_with_the_last_of_its_objects() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut kinds: BTreeMap<String, Timestamp> =
            KINDS.iter().zip(1..).map(|(kind, second)| ((*kind).to_owned(), at(second))).collect();
        let last = |kinds: &BTreeMap<_, _>| last_of(&[("m".to_owned(), kinds.clone())].into());
        assert_eq!(last(&kinds), [("m".to_owned(), at(6))].into());
        kinds.remove("services");
        assert!(last(&kinds).is_empty());
    }
}
