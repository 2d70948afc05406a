//! The console in a real browser: a real operator before a real API server, real workers on a real Kafka.
//!
//! Responsible for what a person sees and does, by `tests/console/browser.mjs`, and for what happens meanwhile. The only part
//! that is played is the kubelet's: the workers run here, from the configuration that the operator rendered, and their pods'
//! status says where. Needs `make test-console`, which fetches the browser and the API server.
//! `UPDATE_GOLDEN=1` puts the pictures into docs/images.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use std::{env, fs};

use crashmonitor_testbed::control_plane::ControlPlane;
use crashmonitor_testbed::home::Dir;
use crashmonitor_testbed::monitor::{Monitor, crash, now_ms};
use crashmonitor_testbed::ports::Port;
use crashmonitor_testbed::process::Process;
use crashmonitor_testbed::tools::{cache, root};
use crashmonitor_testbed::worker::binary;
use crashmonitor_testbed::{Worker, http, operator_process, shared, until};
use rustix::process::Signal;
use serde_json::{Value, json};

const NAMESPACE: &str = "shop";
const TIMEOUT: Duration = Duration::from_secs(120);
const PARTITIONS: i32 = 4;
const WORKERS: usize = 2;
/// Whoever writes logs can write this.
const HOSTILE_USER: &str = "<img src=x onerror=\"globalThis.pwned=1;alert(1)\"><b>not bold</b>";

#[test]
fn a_person_sees_a_monitor_at_work() {
    let world = World::start();
    let dir = Dir::new("console");
    let pictures = pictures(&dir);
    let name = format!("{NAMESPACE}/{}", world.monitor.name());
    let mut browser = Browser::start();

    let opened = browser.step("open", &json!({"url": world.url("/")}));
    assert_eq!(opened["monitors"], json!([format!("{NAMESPACE}/another"), name]));
    let chosen = browser.step("choose", &json!({"monitor": name}));
    // The skip link, both buttons and the first monitor lie before the second.
    assert_eq!(chosen["passed"].as_array().unwrap().len(), 5, "{chosen}");

    let read = browser.step("read", &json!({"partitions": PARTITIONS, "workers": WORKERS}));
    compare(&read, &world);
    browser.step("updates", &json!({}));
    browser.step("keyboard", &json!({}));
    browser.step("themes", &json!({"pictures": pictures}));
    let crashing = HostileUser::start(&world.monitor);
    let user = browser.step("user", &json!({"user": HOSTILE_USER}));
    assert_eq!(user["row"][0], HOSTILE_USER);

    // A worker that stops answering; the others of its kind are read all the same.
    world.workers[1].sigstop();
    browser.step("cell", &json!({"table": "workers", "word": "does not answer"}));
    browser.step("cell", &json!({"table": "sources", "word": "Unassigned"}));
    world.workers[1].sigcont();
    browser.step("read", &json!({"partitions": PARTITIONS, "workers": WORKERS}));

    browser.step("depart", &json!({}));
    world.operator.signal(Signal::KILL);
    world.operator.wait_exit(TIMEOUT);
    browser.step("away", &json!({"pictures": pictures}));
    let again = world.start_operator();
    browser.step("back", &json!({}));
    crashing.stop();

    let missing = browser.step("missing", &json!({"url": world.url("/#/shop/nothing")}));
    assert_eq!(missing["message"], "There is no CrashMonitor shop/nothing.");
    browser.step("close", &json!({}));
    refuses_what_it_should(&world);
    streams_are_bounded(&world);
    drop(again);
}

/// What the page shows is what the workers say.
#[track_caller]
fn compare(read: &Value, world: &World) {
    let statuses: Vec<Value> = world.statuses();
    for (partition, row) in read["sources"].as_array().unwrap().iter().enumerate() {
        let owner = statuses.iter().position(|status| !status["input"][partition.to_string()].is_null());
        assert_eq!(row[1], world.pod(owner.unwrap()), "{row}");
    }
    let windows = read["windows"].as_array().unwrap();
    assert!(windows.iter().any(|row| row[1] == "Complete" && row[2] == "100 %"), "{windows:?}");
    for (row, status) in read["workers"].as_array().unwrap().iter().zip(&statuses) {
        assert_eq!(row[0], status["pod"]);
        assert_eq!(row[1], "Ready");
        assert_eq!((&row[2], &row[7], &row[8]), (&json!("node-a"), &json!("Reachable"), &json!("not used")));
    }
    assert!(read["query"].as_str().unwrap().contains("more than 2 crashes in 10 s"), "{read}");
    assert!(read["throughput"].as_str().unwrap().contains("records a second now"), "{read}");
    assert!(read["lateness"].as_array().unwrap().len() == 9, "{read}");
}

/// Methods, names, paths and policy.
fn refuses_what_it_should(world: &World) {
    let (code, head) = world.ask("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(code, 405);
    assert!(head.contains("default-src 'none'; script-src 'self'"), "{head}");
    for (path, expected) in [
        ("/", 200),
        ("/console.js", 200),
        ("/console.css", 200),
        ("/icon.svg", 200),
        ("/../run.rs", 404),
        ("/metrics", 404),
    ] {
        let (code, head) = world.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(code, expected, "{path}");
        for header in ["x-content-type-options: nosniff", "cache-control: no-store", "frame-ancestors 'none'"]
        {
            assert!(head.contains(header), "{path}: {head}");
        }
    }
    let (code, _) = world.ask("GET /stream HTTP/1.1\r\nHost: stranger.example\r\n\r\n");
    assert_eq!(code, 421, "a page of a stranger could read what a person may");
}

/// So many streams and no more; the files are had all the same, and who leaves makes room.
fn streams_are_bounded(world: &World) {
    let open = || {
        let mut stream = TcpStream::connect(world.console.address()).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        write!(stream, "GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut code = [0; 12];
        stream.read_exact(&mut code).unwrap();
        (String::from_utf8_lossy(&code[9..]).parse::<u16>().unwrap(), stream)
    };
    let streams: Vec<_> = (0..32).map(|_| open()).collect();
    assert!(streams.iter().all(|(code, _)| *code == 200));
    assert_eq!(open().0, 503);
    assert_eq!(world.ask("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").0, 200);
    drop(streams);
    until("room for another stream", TIMEOUT, || match open().0 {
        200 => Ok(()),
        code => Err(code),
    });
}

/// Where the pictures go.
fn pictures(dir: &Dir) -> PathBuf {
    if env::var_os("UPDATE_GOLDEN").is_none_or(|value| value != "1") {
        return dir.path().to_owned();
    }
    let images = root().join("docs/images");
    fs::create_dir_all(&images).unwrap();
    images
}

/// Everything but the browser.
struct World {
    operator: Process,
    _load: Process,
    workers: Vec<Worker>,
    monitor: Monitor<'static>,
    plane: ControlPlane,
    console: Port,
    admin: Port,
    kubeconfig: PathBuf,
    dir: Dir,
}

impl World {
    fn start() -> World {
        let plane = ControlPlane::start();
        let kubeconfig = operator_process::install(&plane);
        let monitor = Monitor::new(shared::kafka(), "checkout").in_namespace(NAMESPACE);
        monitor.create_input(PARTITIONS);
        let (console, admin) = (Port::reserve(), Port::reserve());
        let dir = Dir::new("console-operator");
        let operator = operator_process::start(&kubeconfig, &admin, Some(&console), &dir);
        plane.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}));
        let mut other = resource("another", &monitor);
        other["spec"]["desiredState"] = json!("Suspended");
        apply_when_known(&plane, &resource(monitor.name(), &monitor));
        plane.apply(&other);
        let workers = (0..WORKERS).map(|ordinal| start_worker(&plane, &monitor, ordinal)).collect();
        let load = start_load(&monitor, &dir);
        World { operator, _load: load, workers, monitor, plane, console, admin, kubeconfig, dir }
    }

    fn start_operator(&self) -> Process {
        operator_process::start(&self.kubeconfig, &self.admin, Some(&self.console), &self.dir)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.console.address())
    }

    fn pod(&self, ordinal: usize) -> String {
        format!("{}-worker-{ordinal}", self.monitor.name())
    }

    fn statuses(&self) -> Vec<Value> {
        let status = |ordinal| {
            let answer = http::get(admin_of(ordinal), "/status").unwrap();
            serde_json::from_str(&answer.body).unwrap()
        };
        (0..WORKERS).map(status).collect()
    }

    /// Code and head of the console's answer.
    fn ask(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.console.address()).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, _) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.operator.log_tail());
            self.workers.iter().for_each(|worker| eprintln!("{}", worker.log_tail()));
            eprintln!(
                "{:?}",
                self.plane.try_kubectl(&["get", "crashmonitors,pods,events", "-A", "-o", "wide"], "")
            );
        }
    }
}

fn resource(name: &str, monitor: &Monitor<'_>) -> Value {
    let mut spec = monitor.spec();
    spec["replicas"] = json!(WORKERS);
    json!({
        "apiVersion": "crashmonitor.dev/v1alpha1",
        "kind": "CrashMonitor",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    })
}

/// The definition was applied a moment ago, and is served a moment later.
fn apply_when_known(plane: &ControlPlane, resource: &Value) {
    until("the definition to be served", TIMEOUT, || {
        plane.try_kubectl(&["apply", "--server-side", "-f", "-"], &resource.to_string())
    });
}

/// Every pod has an address of its own, and 9400 on it.
fn admin_of(ordinal: usize) -> std::net::SocketAddr {
    format!("127.94.0.{}:9400", ordinal + 1).parse().unwrap()
}

/// Runs what is in a pod, as its node would: the configuration is what the operator rendered, but for the address.
fn start_worker(plane: &ControlPlane, monitor: &Monitor<'_>, ordinal: usize) -> Worker {
    let pod = format!("{}-worker-{ordinal}", monitor.name());
    until(&format!("the pod {pod}"), TIMEOUT, || plane.try_get(&["pod", &pod, "-n", NAMESPACE]));
    let selector = format!("app.kubernetes.io/instance={}", monitor.name());
    let maps = plane.try_get(&["configmaps", "-n", NAMESPACE, "-l", &selector]).unwrap();
    let config = maps["items"][0]["data"]["worker.yaml"].as_str().unwrap().to_owned();
    assert!(config.contains("usersInStatus: true"), "{config}");
    let admin = admin_of(ordinal);
    let worker = Worker::builder(&pod).env("POD_NAME", &pod).start(|_| {
        let moved = config.replace("0.0.0.0:9400", &admin.to_string());
        // What only tests set: they can't wait for what a monitor may take its time for.
        moved.replace("commitInterval: 2s", "commitInterval: 200ms")
    });
    let ip = admin.ip().to_string();
    plane.run_pod(NAMESPACE, &pod, "node-a", &ip, false);
    until(&format!("{pod} to be ready"), TIMEOUT, || match http::get(admin, "/readyz") {
        Ok(answer) if answer.code == 200 => Ok(()),
        Ok(answer) => Err(answer.body),
        Err(error) => Err(format!("{error}\n{}", worker.log_tail())),
    });
    plane.run_pod(NAMESPACE, &pod, "node-a", &ip, true);
    worker
}

/// Records of the present, out of order, some late: about one in six users of a window is above the threshold.
fn start_load(monitor: &Monitor<'_>, dir: &Dir) -> Process {
    let mut command = Command::new(binary("crashmonitor-loadgen", "CRASHMONITOR_LOADGEN"));
    let bootstrap = monitor.bootstrap();
    for (name, value) in [
        ("brokers", bootstrap.as_str()),
        ("topic", monitor.input()),
        ("rate", "2000"),
        ("users", "400"),
        ("one-in", "40"),
        ("disorder-ms", "1500"),
        ("late-share", "0.05"),
        ("late-by-max", "25000"),
        ("too-late-share", "0.002"),
    ] {
        command.arg(format!("--{name}")).arg(value);
    }
    command.arg("--quiet");
    Process::spawn("the load generator", &command, &dir.path().join("load.log"))
}

/// A user whose name is markup, who crashes three times a second.
struct HostileUser<'a> {
    stop: &'static AtomicBool,
    thread: thread::JoinHandle<()>,
    _monitor: &'a Monitor<'static>,
}

impl<'a> HostileUser<'a> {
    fn start(monitor: &'a Monitor<'static>) -> HostileUser<'a> {
        let stop: &'static AtomicBool = Box::leak(Box::default());
        let writing = monitor.clone();
        let thread = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let crashes: Vec<String> = (0..3).map(|_| crash(now_ms(), HOSTILE_USER)).collect();
                writing.spread(&crashes);
                // The rate, not a wait: a person who crashes and comes back.
                thread::sleep(Duration::from_secs(1));
            }
        });
        HostileUser { stop, thread, _monitor: monitor }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// The browser, driven step by step. Dropping it ends it.
struct Browser {
    child: Child,
    steps: ChildStdin,
    outcomes: BufReader<ChildStdout>,
}

impl Browser {
    fn start() -> Browser {
        // Ends with the thread that starts it, which is the test's.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "node"]).arg(root().join("tests/console/browser.mjs"));
        command.env("CONSOLE_PACKAGES", cache().join("console-packages"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (steps, outcomes) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Browser { child, steps, outcomes }
    }

    /// Takes a step and gives what it found; panics with what the browser says if it failed.
    #[track_caller]
    fn step(&mut self, step: &str, given: &Value) -> Value {
        let mut request = given.clone();
        request["step"] = json!(step);
        writeln!(self.steps, "{request}").unwrap();
        let mut line = String::new();
        self.outcomes.read_line(&mut line).unwrap();
        let outcome: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{step}: {e}: {line:?}"));
        if let Some(error) = outcome["error"].as_str() {
            panic!("{step}: {error}\n{}", outcome["complaints"]);
        }
        println!("{step}: {}", outcome["ok"]);
        outcome["ok"].clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
