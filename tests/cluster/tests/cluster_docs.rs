//! The commands in the documentation that need a cluster, executed as they are written, in the order in which a reader comes
//! to them. The others are executed by `tests/tests/docs_commands.rs`; `tests/src/pages.rs` lists who executes what.
//!
//! Responsible for one story, as a page installs the operator where the one before it did too. Needs the cluster of
//! `make cluster`, and `scripts/fetch-kafka tools`. It makes the namespaces that the pages name, takes away what was in them,
//! and removes them at the end; the operator stays installed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;
use std::time::Duration;

use crashmonitor_testbed::cluster::{Cluster, Namespace};
use crashmonitor_testbed::home::Dir;
use crashmonitor_testbed::pages::{Stack, Who};
use crashmonitor_testbed::process::Process;
use crashmonitor_testbed::proxy::Proxy;
use crashmonitor_testbed::resource::READY_TIMEOUT;
use crashmonitor_testbed::shell::{Shell, StandIn};
use crashmonitor_testbed::tools::root;
use crashmonitor_testbed::worker::binary;
use crashmonitor_testbed::{Kafka, operator, until};
use serde_json::json;

const CONTRIBUTING: &str = "CONTRIBUTING.md";
const README: &str = "README.md";
const CHART: &str = "charts/crashmonitor/README.md";
const STARTED: &str = "docs/getting-started.md";
const CLI: &str = "docs/cli.md";
const RUNBOOKS: &str = "docs/runbooks.md";
/// Where Kafka is by default, for most programs and in pages.
const DEFAULT_BROKER: &str = "127.0.0.1:9092";

#[test]
fn the_commands_of_the_pages_work_on_a_cluster() {
    let mut stack = Stack::of(Who::Cluster);
    reach_the_cluster(&mut stack);
    get_started(&mut stack);
    open_the_console(&mut stack);
    look_after_a_monitor(&mut stack);
    generate_a_monitor(&mut stack);
    install_and_remove_everything(&mut stack);
    // Others find the operator as they left it.
    operator::ensure();
    assert_eq!(stack.rest(), [], "nobody has executed these");
}

fn shell(name: &str) -> Shell {
    let programs = [
        binary("crashmonitor-loadgen", "CRASHMONITOR_LOADGEN"),
        binary("kubectl-crashmonitor", "CRASHMONITOR_CLI"),
    ];
    Shell::new(name, &[StandIn::Cargo, StandIn::KafkaTools], &[&programs[0], &programs[1]])
}

/// A shell of somebody who works in this namespace: with a kubeconfig of its own that says so.
fn shell_in(namespace: &Namespace) -> (Shell, Dir) {
    let dir = Dir::new("kubeconfig");
    let mut shell = shell(namespace.name());
    shell.set("KUBECONFIG", namespace.kubeconfig(&dir));
    (shell, dir)
}

/// Pages install the operator: so there is none before.
fn uninstall() {
    let release =
        ["uninstall", "crashmonitor", "--namespace", operator::NAMESPACE, "--wait", "--timeout", "120s"];
    if let Err(complaint) = Cluster::get().try_helm(&release) {
        assert!(complaint.contains("not found"), "{complaint}");
    }
}

#[track_caller]
fn has(said: &str, part: &str) {
    assert!(said.contains(part), "{part} is not in\n{said}");
}

/// Waits until so many workers of a monitor are ready.
fn await_workers(namespace: &Namespace, name: &str, count: u64) {
    until(&format!("{count} workers of {name}"), READY_TIMEOUT, || {
        let object = namespace.try_get(&["crashmonitor", name])?;
        let is_seen = object["status"]["observedGeneration"] == object["metadata"]["generation"];
        let ready = object["status"]["readyReplicas"].as_u64().unwrap_or_default();
        if is_seen && ready == count { Ok(()) } else { Err(object["status"].to_string()) }
    });
}

fn reach_the_cluster(stack: &mut Stack) {
    let shell = shell("reach");
    has(&shell.run(&stack.take(CONTRIBUTING, "make cluster PROFILE=dev")), "Ready");
    let host = Cluster::get().host().to_string();
    has(&shell.run(&stack.take("tests/kind-node/README.md", "eval")), &host);
}

/// docs/getting-started.md, but for `make demo`, which takes the same steps.
fn get_started(stack: &mut Stack) {
    // What the page's `make cluster demo-images` does besides what `make test` did before.
    let images = Command::new(root().join("scripts/demo-images")).output().unwrap();
    assert!(images.status.success(), "{}", String::from_utf8_lossy(&images.stderr));
    uninstall();
    let namespace = Namespace::named("crashmonitor-demo");
    let shell = shell("getting-started");
    has(&shell.run(&stack.take(STARTED, "make cluster demo-images")), "Phase:          Succeeded");

    until("the monitor to miss its topic", READY_TIMEOUT, || {
        let events = namespace.events();
        let is_said = events.iter().any(|(reason, ..)| reason == "InputTopicMissing");
        if is_said { Ok(()) } else { Err(format!("{events:?}")) }
    });
    let said = shell.run(&stack.take(STARTED, "kubectl --namespace crashmonitor-demo get crashmonitor demo"));
    has(&said, "InputTopicMissing");

    shell.run(&stack.take(STARTED, "NODE="));
    let consumer = stack.take(STARTED, "kafka-console-consumer.sh");
    shell.start(&consumer).end_when(&["\"crash_count\""]);

    has(&shell.run(&stack.take(STARTED, "eval")), "demo-worker-0");
    let said = shell.run(&stack.take(STARTED, "kubectl --namespace crashmonitor-demo port-forward"));
    has(&said, "\"pod\":\"demo-worker-0\"");
    has(&said, "# TYPE crashmonitor_");

    shell.run(&stack.take(STARTED, "kubectl --namespace crashmonitor-demo scale"));
    await_workers(&namespace, "demo", 3);
    let refused = stack.take(STARTED, "kubectl --namespace crashmonitor-demo patch");
    has(&shell.run_refused(&refused), "can't be changed");
}

/// docs/console.md, where the operator is installed already. What the page then shows is for the tests of the console.
fn open_the_console(stack: &mut Stack) {
    let shell = shell("console");
    shell.start(&stack.take("docs/console.md", "helm upgrade")).end_when(&["Forwarding from"]);
}

/// The runbooks, troubleshooting, operations, and the plugin: all about the monitor `checkout` in the namespace `shop`.
fn look_after_a_monitor(stack: &mut Stack) {
    let kafka = Kafka::builder().for_pods(Cluster::get().host()).start();
    let namespace = Namespace::named("shop");
    kafka.topics().create_topic("logs", 4, &[]);
    Cluster::get().apply(&json!({
        "apiVersion": "crashmonitor.dev/v1alpha1",
        "kind": "CrashMonitor",
        "metadata": {"name": "checkout", "namespace": "shop"},
        "spec": {
            "replicas": 1,
            "kafka": {"bootstrapServers": kafka.bootstrap()},
            "input": {"topic": "logs", "startingOffsets": "Earliest"},
            "output": {"lateTopic": "crash-late", "deadLetterTopic": "crash-dead-letters", "replicationFactor": 1},
            "repartition": {"partitions": 4, "replicationFactor": 1},
        },
    }));
    let dir = Dir::new("load");
    let mut load = Command::new(binary("crashmonitor-loadgen", "CRASHMONITOR_LOADGEN"));
    load.args([
        "--brokers",
        &kafka.bootstrap(),
        "--topic",
        "logs",
        "--rate",
        "2000",
        // Five crashes of each user in a window: results from the first one on.
        "--users",
        "100",
        "--one-in",
        "20",
        "--duration",
        "3600",
    ]);
    let load = Process::spawn("loadgen", &load, &dir.path().join("log"));
    await_workers(&namespace, "checkout", 1);
    let has_results = || match kafka.topics().partitions_of("crash-alerts") {
        Some(_) => Ok(kafka.topics().offsets("crash-alerts", crashmonitor_testbed::Isolation::ReadCommitted)),
        None => Err("no topic".to_owned()),
    };
    until("results", Duration::from_secs(120), || {
        let offsets = has_results()?;
        if offsets.values().any(|(_, end)| *end > 0) { Ok(()) } else { Err(format!("{offsets:?}")) }
    });

    let (shell, _kubeconfig) = shell_in(&namespace);
    let said = shell.run(&stack.take(RUNBOOKS, "NS=shop"));
    has(&said, "checkout-worker-0");
    has(&shell.run(&stack.take("docs/troubleshooting.md", "NS=shop")), "Conditions:");

    let _default = Proxy::listening_at(DEFAULT_BROKER, &kafka.bootstrap());
    let results = stack.take(CLI, "kubectl crashmonitor results");
    // The shell says each command before it runs it: so the results of the second one are told from those of the first.
    shell.start(&results).end_when(&["Interval {", "--follow", "Interval {"]);
    let said = shell.run(&stack.take(CLI, "kubectl crashmonitor verify"));
    assert_eq!(said.matches("shop/checkout: right, ").count(), 3, "{said}");

    shell.run(&stack.take("docs/operations.md", "kubectl scale"));
    await_workers(&namespace, "checkout", 4);

    // The page's value is where the brokers of a monitor in a cluster are; a reader takes his own.
    shell.assign("BROKERS", &kafka.bootstrap());
    shell.run(&stack.take(RUNBOOKS, "kubectl --namespace $NS patch"));
    await_workers(&namespace, "checkout", 4);
    load.kill();
}

/// docs/cli.md: a resource that the API server takes. There is no Kafka for it.
fn generate_a_monitor(stack: &mut Stack) {
    let namespace = Namespace::named("generated");
    let (shell, _kubeconfig) = shell_in(&namespace);
    has(&shell.run(&stack.take(CLI, "kubectl crashmonitor generate")), "checkout created");
    namespace.get_json(&["crashmonitor", "checkout"]);
}

/// The chart's page and the README: installed twice more, and removed with all that it leaves.
fn install_and_remove_everything(stack: &mut Stack) {
    let shell = shell("chart");
    for (page, shows) in [(CHART, "Phase:          Succeeded"), (README, "checkout")] {
        uninstall();
        has(&shell.run(&stack.take(page, "helm install")), shows);
        Cluster::get().kubectl(&["delete", "crashmonitor", "checkout", "--namespace", "default"]);
    }
    shell.run(&stack.take(CHART, "kubectl delete crashmonitors --all"));
    let gone = Cluster::get().try_get(&["customresourcedefinition", "crashmonitors.crashmonitor.dev"]);
    assert!(gone.is_err(), "the definition is still there");
}
