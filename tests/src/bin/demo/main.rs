//! `crashmonitor-demo`: the monitor at work on Kubernetes, for a person to look at.
//!
//! Installs a Kafka, a Redis and the operator into the cluster of `make cluster`, applies a `CrashMonitor`, writes load and
//! shows results as they come; meanwhile it scales the monitor to three workers and deletes one of them. At the end it
//! says how many results were right. Responsible for the order of these steps and for the exit code: 0 if all results are
//! right, 1 if not or if something failed, 2 for bad arguments. Must never judge results itself: the oracle of the load
//! generator does. It leaves everything in the cluster, to be looked at.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use crashmonitor_bench::oracle::{Alert, Counts, compare, parse_alert};
use crashmonitor_bench::text;
use crashmonitor_testbed::cluster::{Cluster, pid_in_pod};
use crashmonitor_testbed::home::Dir;
use crashmonitor_testbed::process::{cpu_time, resident_bytes};
use crashmonitor_testbed::show::load::{self, Load};
use crashmonitor_testbed::show::view::View;
use crashmonitor_testbed::show::{INPUT, INPUT_PARTITIONS, OUTPUT};
use crashmonitor_testbed::{Topics, follow, operator, until};
use rdkafka::Message;
use rdkafka::consumer::BaseConsumer;
use serde_json::Value;

/// Where Kafka, Redis and the monitor live; `examples/demo` says so too.
const NAMESPACE: &str = "crashmonitor-demo";
const MONITOR: &str = "demo";
/// Where Kafka's node port is: `examples/demo/kafka.yaml`.
const KAFKA_PORT: u16 = 30_094;

const READY_TIMEOUT: Duration = Duration::from_secs(240);
/// How long the last results may take.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(90);
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Shows CrashMonitor at work on Kubernetes, and checks every result.
#[derive(Parser)]
#[command(name = "crashmonitor-demo", version)]
struct Args {
    /// Write load for so many seconds.
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u64).range(30..=3_600))]
    seconds: u64,
    /// Records a second.
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// The directory with the manifests of Kafka and Redis.
    #[arg(long, value_name = "DIR")]
    services: String,
    /// The example to apply.
    #[arg(long, value_name = "FILE")]
    monitor: String,
}

fn main() -> ExitCode {
    let args = Args::parse();
    // The test bed panics with a reason that is meant to be read; where in the code that was is of no interest here.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("\ncrashmonitor-demo: {}", panic.payload_as_str().unwrap_or("it panicked"));
    }));
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("\ncrashmonitor-demo: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything was right.
fn run(args: &Args) -> Result<bool, String> {
    let mut demo = Demo {
        view: View::stdout(),
        cluster: Cluster::get(),
        last: HashMap::new(),
        alerts: Vec::new(),
        status_at: Instant::now(),
    };
    let bootstrap = demo.install(args)?;
    let dir = Dir::new("load");
    demo.say(&format!("writing {} records/s for {} s\n", text::grouped(args.rate), args.seconds))?;
    let load = Load::start(&bootstrap, &dir, load::options(args.rate), Some(args.seconds));
    let topics = Topics::new(&bootstrap);
    let partitions = topics.partitions_of(OUTPUT).ok_or_else(|| format!("there is no topic {OUTPUT}"))?;
    let results = follow::open(topics.config(), OUTPUT, partitions)?;
    demo.watch(args, &load, &results)?;
    let (generated, expected) = load.outcome()?;
    demo.drain(&results, &expected)?;
    let report = compare(&expected, &demo.alerts);
    demo.say(&format!(
        "\n{} records written, {} results expected: {report}",
        text::grouped(generated.records),
        text::grouped(expected.len() as u64)
    ))?;
    demo.show_operator()?;
    demo.say(&format!(
        "\nEverything is still there:\n    eval \"$(scripts/cluster env)\"   # this cluster, for this shell\n    \
         kubectl get crashmonitors,pods -n {NAMESPACE}\nmake cluster-down removes it."
    ))?;
    Ok(report.is_right())
}

struct Demo {
    view: View,
    cluster: &'static Cluster,
    /// The last count of each interval and user.
    last: HashMap<(i64, String), u64>,
    alerts: Vec<Alert>,
    status_at: Instant,
}

impl Demo {
    fn say(&mut self, line: &str) -> Result<(), String> {
        self.view.say(line).map_err(|e| format!("standard output: {e}"))
    }

    /// Says a command and runs it, as a person would.
    fn kubectl(&mut self, arguments: &[&str]) -> Result<String, String> {
        self.say(&format!("$ kubectl {}", arguments.join(" ")))?;
        let printed = self.cluster.try_kubectl(arguments)?;
        if !printed.is_empty() {
            self.say(&printed)?;
        }
        Ok(printed)
    }

    /// Brings everything up; where Kafka is reached from here.
    fn install(&mut self, args: &Args) -> Result<String, String> {
        // What an earlier demo left would count twice.
        self.cluster.try_kubectl(&[
            "delete",
            "namespace",
            NAMESPACE,
            "--ignore-not-found",
            "--timeout=180s",
        ])?;
        self.kubectl(&["apply", "-k", &args.services])?;
        for deployment in ["deployment/kafka", "deployment/redis"] {
            self.kubectl(&["rollout", "status", deployment, "-n", NAMESPACE, "--timeout=240s"])?;
        }
        let pods = self.cluster.list(&["pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=kafka"]);
        let node = pods.first().and_then(|pod| pod["status"]["hostIP"].as_str()).ok_or("Kafka has no pod")?;
        let bootstrap = format!("{node}:{KAFKA_PORT}");
        Topics::new(&bootstrap).create_topic(INPUT, INPUT_PARTITIONS.cast_signed(), &[]);
        self.say("$ helm upgrade --install crashmonitor charts/crashmonitor -n crashmonitor-system --create-namespace")?;
        operator::ensure();
        let applied_at = Instant::now();
        self.kubectl(&["apply", "-n", NAMESPACE, "-f", &args.monitor])?;
        until("a pod of the monitor", READY_TIMEOUT, || {
            if self.worker_pods().is_empty() { Err("none yet") } else { Ok(()) }
        });
        self.say(&format!("its pod was there {} ms later", applied_at.elapsed().as_millis()))?;
        self.await_ready(1);
        self.kubectl(&["get", "crashmonitor", MONITOR, "-n", NAMESPACE])?;
        Ok(bootstrap)
    }

    fn monitor(&self) -> Result<Value, String> {
        self.cluster.try_get(&["crashmonitor", MONITOR, "-n", NAMESPACE])
    }

    fn worker_pods(&self) -> Vec<Value> {
        self.cluster.list(&["pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=crashmonitor-worker"])
    }

    /// What the operator has cost since it was installed.
    fn show_operator(&mut self) -> Result<(), String> {
        for pod in operator::pods() {
            let pid = pid_in_pod(&pod, "crashmonitor-operator").as_raw_nonzero().get().cast_unsigned();
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            self.say(&format!(
                "{name}: {} MB resident, {:.1} s of CPU since its start at {}",
                resident_bytes(pid) / 1_000_000,
                cpu_time(pid).as_secs_f64(),
                pod["status"]["startTime"].as_str().unwrap_or("an unknown time"),
            ))?;
        }
        Ok(())
    }

    fn await_ready(&self, workers: u64) {
        until("the monitor to be ready", READY_TIMEOUT, || {
            let status = self.monitor()?["status"].clone();
            if status["readyReplicas"].as_u64() == Some(workers) { Ok(()) } else { Err(status.to_string()) }
        });
    }

    /// Shows results while the load is written, and meanwhile hurts the monitor.
    fn watch(&mut self, args: &Args, load: &Load, results: &BaseConsumer) -> Result<(), String> {
        let begun = Instant::now();
        let scaled_at = Duration::from_secs(args.seconds / 3);
        let hurt_at = Duration::from_secs(args.seconds * 2 / 3);
        let (mut is_scaled, mut is_hurt) = (false, false);
        while load.is_running() {
            self.look(results)?;
            if !is_scaled && begun.elapsed() >= scaled_at {
                is_scaled = true;
                self.kubectl(&["scale", "crashmonitor", MONITOR, "-n", NAMESPACE, "--replicas=3"])?;
            }
            if !is_hurt && begun.elapsed() >= hurt_at {
                is_hurt = true;
                let pods = self.worker_pods();
                let pod = pods.first().and_then(|pod| pod["metadata"]["name"].as_str());
                let pod = pod.ok_or("the monitor has no pod")?;
                self.kubectl(&["delete", "pod", pod, "-n", NAMESPACE, "--wait=false"])?;
            }
        }
        Ok(())
    }

    /// Takes results until all that are expected have come, or the time is up.
    fn drain(&mut self, results: &BaseConsumer, expected: &Counts) -> Result<(), String> {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        let is_missing = |last: &HashMap<(i64, String), u64>| {
            expected.iter().any(|(key, count)| last.get(key) != Some(count))
        };
        while is_missing(&self.last) && Instant::now() < deadline {
            self.look(results)?;
        }
        self.view.end_status().map_err(|e| format!("standard output: {e}"))
    }

    /// Shows the next result, and now and then how the monitor fares.
    fn look(&mut self, results: &BaseConsumer) -> Result<(), String> {
        self.take(results)?;
        if self.status_at.elapsed() >= STATUS_INTERVAL {
            self.status_at = Instant::now();
            self.show_status()?;
        }
        Ok(())
    }

    fn take(&mut self, results: &BaseConsumer) -> Result<(), String> {
        let Some(polled) = results.poll(Duration::from_millis(100)) else { return Ok(()) };
        // librdkafka goes on by itself; what never comes is missed at the end.
        let Ok(message) = polled else { return Ok(()) };
        let alert =
            parse_alert(message.payload().unwrap_or_default()).map_err(|e| format!("{OUTPUT}: {e}"))?;
        self.say(&text::result(&alert))?;
        self.last.insert((alert.start_ms, alert.user_id.clone()), alert.count);
        self.alerts.push(alert);
        Ok(())
    }

    fn show_status(&mut self) -> Result<(), String> {
        let monitor = self.monitor()?;
        let status = &monitor["status"];
        let number = |value: &Value| value.as_i64().map_or("-".to_owned(), |number| number.to_string());
        let line = format!(
            "{MONITOR}: {} of {} workers ready | lag {} | watermark {} s behind | late {} | results {}",
            number(&status["readyReplicas"]),
            number(&monitor["spec"]["replicas"]),
            number(&status["lag"]["total"]),
            number(&status["watermark"]["lagSeconds"]),
            number(&status["lateRecords"]["dropped"]),
            self.alerts.len()
        );
        self.view.status(&line).map_err(|e| format!("standard output: {e}"))
    }
}
