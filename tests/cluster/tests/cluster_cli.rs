//! `kubectl crashmonitor` on a real Kubernetes: every command as a user gives it, about a monitor at work.
//!
//! Responsible for what only real pods can show: workers asked through the API server, logs, a rollout, a terminal. Needs the
//! cluster of `make cluster`, with the operator in it. `UPDATE_GOLDEN=1` puts what was typed and what was printed into
//! docs/cli-session.md; the page must have the same commands.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::num::NonZero;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crashmonitor_testbed::cluster::Cluster;
use crashmonitor_testbed::home::Dir;
use crashmonitor_testbed::monitor::now_ms;
use crashmonitor_testbed::process::Process;
use crashmonitor_testbed::resource::{READY_TIMEOUT, Resource};
use crashmonitor_testbed::tools::{root, tool};
use crashmonitor_testbed::worker::binary;
use crashmonitor_testbed::{Kafka, Redis, operator, until};
use serde_json::Value;

const PAGE: &str = "docs/cli-session.md";
const BEGIN: &str = "<!-- session: written by a test -->\n";
const END: &str = "<!-- end of the session -->";
/// How long windows may take to close, or a terminal to show what is awaited.
const TIMEOUT: Duration = Duration::from_secs(180);
/// Lines and columns of the terminal.
const SIZE: (NonZero<u16>, NonZero<u16>) = (NonZero::new(30).unwrap(), NonZero::new(110).unwrap());

/// A shell of somebody who works in the namespace of a resource, and all that was typed and printed.
struct Session {
    dir: Dir,
    path: OsString,
    text: String,
}

impl Session {
    fn new(resource: &Resource<'_>) -> Session {
        let dir = Dir::new("session");
        resource.namespace.kubeconfig(&dir);
        let programs = [binary("kubectl-crashmonitor", "CRASHMONITOR_CLI"), tool("kubectl")];
        let mut dirs: Vec<_> = programs.iter().map(|program| program.parent().unwrap().to_owned()).collect();
        dirs.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        Session { path: env::join_paths(dirs).unwrap(), dir, text: String::new() }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path()).env("PATH", &self.path);
        command.env("KUBECONFIG", self.dir.path().join("kubeconfig"));
        command
    }

    /// What a command prints, not for the page; as an error if it fails.
    fn try_look(&self, typed: &str) -> Result<String, String> {
        let output = self.command("bash").args(["-o", "pipefail", "-c", typed]).output().unwrap();
        let printed = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        if output.status.success() {
            Ok(printed)
        } else {
            Err(format!("{typed} ended with {}: {printed}", output.status))
        }
    }

    /// The same, and panics if it fails.
    #[track_caller]
    fn look(&self, typed: &str) -> String {
        self.try_look(typed).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The same, for the page.
    #[track_caller]
    fn run(&mut self, typed: &str) -> String {
        let printed = self.look(typed);
        self.note(typed, &printed);
        printed
    }

    /// Opens a terminal, waits until a command shows there what is wanted, and types `q`.
    #[track_caller]
    fn run_on_a_terminal(&mut self, typed: &str, is_wanted: impl Fn(&str) -> bool) {
        let (rows, columns) = SIZE;
        let inner = format!("stty rows {rows} columns {columns}; exec {typed}");
        let mut command = self.command("script");
        command.args(["--quiet", "--return", "--command", &inner, "/dev/null"]).env("TERM", "xterm");
        let mut terminal = Ended(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
        let (mut keys, mut shown) = (terminal.0.stdin.take().unwrap(), terminal.0.stdout.take().unwrap());
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let drawing = Arc::clone(&screen);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = shown.read(&mut buffer) {
                drawing.lock().unwrap().process(&buffer[..read]);
            }
        });
        let picture = until(&format!("what {typed} is to show"), TIMEOUT, || {
            let picture = screen.lock().unwrap().screen().contents();
            if is_wanted(&picture) { Ok(picture) } else { Err(picture) }
        });
        keys.write_all(b"q").unwrap();
        let status = until(&format!("the end of {typed}"), TIMEOUT, || {
            terminal.0.try_wait().unwrap().ok_or("it has not ended")
        });
        assert!(status.success(), "{typed} ended with {status}");
        self.note(typed, &picture);
    }

    fn note(&mut self, typed: &str, printed: &str) {
        let lines: Vec<&str> = printed.lines().map(str::trim_end).collect();
        self.text += &format!("\n```text\n$ {typed}\n{}\n```\n", lines.join("\n").trim_end());
    }

    /// What a reader is told before the next command, under a heading of its own.
    fn part(&mut self, heading: &str, text: &str) {
        self.text += &format!("\n## {heading}\n\n{text}\n");
    }

    /// The page shows this session, or one that differs in what was printed alone.
    #[track_caller]
    fn hold(&self) {
        let page = fs::read_to_string(root().join(PAGE)).unwrap();
        let (before, rest) = page.split_once(BEGIN).unwrap();
        let (shown, after) = rest.split_once(END).unwrap();
        if env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
            fs::write(root().join(PAGE), format!("{before}{BEGIN}{}\n{END}{after}", self.text)).unwrap();
            return;
        }
        assert_eq!(without_answers(shown), without_answers(&self.text), "{PAGE} shows another session");
    }
}

/// What was typed and what a reader is told.
fn without_answers(text: &str) -> Vec<&str> {
    let mut is_answer = false;
    let mut is_kept = |line: &str| {
        if line.starts_with("```") {
            is_answer = !is_answer;
        }
        !line.is_empty() && (!is_answer || line.starts_with("$ "))
    };
    text.lines().filter(|line| is_kept(line)).collect()
}

/// A child that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Records of the present, and a few that come too late or can't be read. Every user crashes often in each window.
fn start_load(resource: &Resource<'_>, dir: &Dir) -> Process {
    let mut load = Command::new(binary("crashmonitor-loadgen", "CRASHMONITOR_LOADGEN"));
    load.args(["--brokers", &resource.monitor.bootstrap(), "--topic", resource.monitor.input()]);
    load.args(["--rate", "1000", "--users", "50", "--one-in", "5", "--disorder-ms", "1500", "--quiet"]);
    load.args(["--too-late-share", "0.001", "--poison-share", "0.001"]);
    Process::spawn("the load generator", &load, &dir.path().join("load.log"))
}

#[test]
fn a_user_s_commands_tell_the_truth_about_real_pods() {
    operator::ensure();
    let kafka = Kafka::builder().for_pods(Cluster::get().host()).start();
    let redis = Redis::builder().host(Cluster::get().host()).start();
    let resource = Resource::named(&kafka, "shop", "checkout", 2).redis(&redis);
    resource.monitor.create_input(4);
    resource.apply();
    resource.await_workers(2);
    let dir = Dir::new("load");
    let load = start_load(&resource, &dir);
    let mut session = Session::new(&resource);
    look(&mut session, &resource);
    change(&mut session, &resource);
    prove(&mut session, &resource);
    drop(load);
    help(&mut session, &resource);
    begin(&mut session);
    session.hold();
}

/// What the commands say that change nothing.
fn look(session: &mut Session, resource: &Resource<'_>) {
    until("a status that has seen results", TIMEOUT, || {
        let status = &resource.get()["status"];
        let knows = |at: &str| status.pointer(at).is_some_and(|value| *value != 0);
        if ["/results", "/lateRecords/dropped", "/deadLetters"].into_iter().all(knows) {
            return Ok(());
        }
        Err(status.to_string())
    });
    session.part(
        "How it is",
        "The upper part is what the operator saw some seconds ago, the tables are what workers say now.",
    );
    let status = session.run("kubectl crashmonitor status checkout");
    for part in ["2 of 2 are ready", "INPUT  WORKER", "COUNTS  WORKER"] {
        assert!(status.contains(part), "{part}: {status}");
    }
    let status = session.look("kubectl crashmonitor status checkout -o json");
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["workers"].as_object().unwrap().len(), 2, "{status}");
    assert_eq!(status["silent"], serde_json::json!({}), "{status}");

    session.part(
        "What it has found",
        "The last of ten minutes; then one as it stands in the topic; then those that come.",
    );
    let results = session.run("kubectl crashmonitor results checkout --since 10m | tail -n 3");
    assert_eq!(results.matches("Interval {").count(), 3, "{results}");
    let results = session.run("kubectl crashmonitor results checkout --since 10m --json | tail -n 1");
    assert!(results.contains("\"crash_count\""), "{results}");
    let results = session.run("kubectl crashmonitor results checkout --since 0s --follow | head -n 3");
    assert_eq!(results.matches("Interval {").count(), 3, "{results}");

    session.part("Live", "It has the terminal until `q`, and looks every second. This is what the terminal showed before that key.");
    // Rates are known from the second look on; a line of them is not drawn by two.
    session.run_on_a_terminal("kubectl crashmonitor top checkout", |picture| {
        let has_rates = picture.lines().any(|line| line.matches(['█', '▇', '▆', '▅']).count() > 15);
        has_rates && picture.contains("user_1")
    });

    let mut object = resource.object();
    object["spec"]["replicas"] = 3.into();
    session.dir.write("monitor.yaml", object.to_string());
    session.part(
        "What a change would do",
        "The file has three replicas where the monitor has two. Nothing is changed.",
    );
    let plan = session.run("kubectl crashmonitor plan -f monitor.yaml");
    assert!(plan.contains("effect Rescale"), "{plan}");
}

/// What they change.
fn change(session: &mut Session, resource: &Resource<'_>) {
    let uids =
        || -> Vec<Value> { resource.pods().iter().map(|pod| pod["metadata"]["uid"].clone()).collect() };
    let old = uids();
    session.part("New workers for old ones", "The operator replaces one after the other; the load goes on.");
    session.run("kubectl crashmonitor restart checkout");
    until("other workers", READY_TIMEOUT, || {
        let now = uids();
        if now.iter().any(|uid| old.contains(uid)) { Err(format!("{now:?}")) } else { Ok(()) }
    });
    resource.await_workers(2);
    resource.await_more_results();

    session.part("Stop, and go on", "Nothing is lost meanwhile: the input waits in Kafka.");
    session.run("kubectl crashmonitor suspend checkout");
    resource.await_workers(0);
    let status = session.run("kubectl crashmonitor status checkout");
    assert!(status.contains("shop/checkout: Suspended"), "{status}");
    session.run("kubectl crashmonitor resume checkout");
    resource.await_workers(2);
}

/// Windows from before the restart to behind the suspension were written, once, and right.
fn prove(session: &mut Session, resource: &Resource<'_>) {
    let typed = "kubectl crashmonitor verify checkout --from 5m";
    let resumed_ms = now_ms();
    until("windows that were closed after all that", TIMEOUT, || {
        let verdict: Value = serde_json::from_str(&session.try_look(&format!("{typed} -o json"))?)
            .map_err(|e| e.to_string())?;
        let to_ms = verdict["toMs"].as_i64().ok_or(format!("{verdict}"))?;
        if to_ms > resumed_ms { Ok(()) } else { Err(verdict.to_string()) }
    });
    session.part(
        "Whether it is right",
        "Windows from before the restart to behind the suspension, counted anew from the input.",
    );
    let verify = session.run(typed);
    assert!(verify.contains(": right, "), "{verify}");
    assert!(!resource.monitor.late().is_empty(), "some were late, or the page says too much");
}

/// What somebody who helps gets.
fn help(session: &mut Session, resource: &Resource<'_>) {
    session.part("For somebody who helps", "One file.");
    let report =
        session.run(&format!("kubectl crashmonitor report {} --file report.tar.gz", resource.name()));
    for part in ["crashmonitor.yaml", "/metrics", "/log (", "operator/"] {
        assert!(report.contains(part), "{part}: {report}");
    }
}

/// What helps who begins.
fn begin(session: &mut Session) {
    let generate = "kubectl crashmonitor generate billing --brokers kafka:9092 --topic billing-logs";
    session.part("Another monitor", "The shortest resource that works. What it does not say has a default.");
    session.run(generate);
    let applied = session.run(&format!("{generate} | kubectl apply --dry-run=server -f -"));
    assert!(applied.contains("billing created"), "{applied}");

    session.part("A shell that completes", "The end of what bash reads; with it, `re` and Tab offers `results`, `resume`, `restart` and `report`.");
    session.run("kubectl crashmonitor completions bash > completions.bash; tail -n 5 completions.bash");
    // What bash does at that key.
    let completed = session.look(
        "source completions.bash; COMP_WORDS=(kubectl-crashmonitor re) COMP_CWORD=1; \
         _kubectl__crashmonitor kubectl-crashmonitor re kubectl-crashmonitor; echo ${COMPREPLY[*]}",
    );
    assert_eq!(completed.trim(), "results resume restart report");
}
