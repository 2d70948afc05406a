//! The commands in the documentation, executed as they are written: those that need no cluster. The others are executed by
//! `tests/cluster/tests/cluster_docs.rs`; `tests/src/pages.rs` lists who executes what.

use std::collections::BTreeSet;
use std::time::Duration;

use crashmonitor_testbed::monitoring::read;
use crashmonitor_testbed::pages::{LISTED, Stack, TARGETS, Who, blocks, listed};
use crashmonitor_testbed::ports::Port;
use crashmonitor_testbed::proxy::Proxy;
use crashmonitor_testbed::shell::{Shell, StandIn};
use crashmonitor_testbed::tools::root;
use crashmonitor_testbed::worker::binary;
use crashmonitor_testbed::{Isolation, Kafka, shared, until};
use serde_json::Value;

/// Where Kafka is by default, for most programs and in pages.
const DEFAULT_BROKER: &str = "127.0.0.1:9092";

#[test]
fn every_block_is_executed_or_says_why_not() {
    let blocks = blocks();
    for block in &blocks {
        let _who: Who = listed(block);
    }
    for (page, begins, _) in LISTED {
        let found = blocks.iter().filter(|block| block.page == page && block.text.starts_with(begins));
        assert_eq!(found.count(), 1, "{page} has not one block that begins with {begins}");
    }
}

/// A stand-in for `make` sees that the targets are there, and that `make help` names the variables.
#[test]
fn blocks_of_make_alone_name_targets_that_are_there() {
    let shell = Shell::new("make", &[], &[]);
    for block in Stack::of(Who::Make).rest() {
        let is_make = |line: &&str| line.is_empty() || line.starts_with("make ") || line.starts_with('#');
        let other = block.text.lines().find(|line| !is_make(line));
        assert_eq!(other, None, "{block} has more than make");
        shell.run(&block);
    }
}

#[test]
fn blocks_of_tests_name_tests_that_are_there() {
    for block in Stack::of(Who::Test).rest() {
        for line in block.text.lines() {
            let named = line.strip_prefix("cargo test -p crashmonitor-testbed --test ");
            let named = named.unwrap_or_else(|| panic!("{block} has more than tests: {line}"));
            assert!(root().join(format!("tests/tests/{named}.rs")).is_file(), "{block}: there is no {named}");
        }
    }
}

/// A list that names what nobody asks about would hide what is missing.
#[test]
fn every_target_that_is_not_run_is_on_a_page() {
    let text: String = blocks().into_iter().map(|block| block.text).collect();
    let named: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("make "))
        .flat_map(|line| line.split('#').next().unwrap_or_default().split_whitespace())
        .filter(|word| !word.contains('='))
        .collect();
    assert_eq!(TARGETS.iter().map(|(target, _)| *target).collect::<BTreeSet<_>>(), named);
}

#[test]
fn blocks_that_need_no_cluster_work_as_they_are_written() {
    let mut stack = Stack::of(Who::Here);
    install_the_plugin(&mut stack);
    run_a_worker_by_hand(&mut stack);
    assert_eq!(stack.rest(), []);
}

/// docs/cli.md. kubectl itself is not needed to find out whether it would find the plugin.
fn install_the_plugin(stack: &mut Stack) {
    let plugin = binary("kubectl-crashmonitor", "CRASHMONITOR_CLI");
    let shell = Shell::new("plugin", &[StandIn::Kubectl], &[&plugin]);
    let said = shell.run(&stack.take("docs/cli.md", "make install-cli"));
    assert!(said.contains("Usage: kubectl crashmonitor"), "{said}");
    let completions = ".local/share/bash-completion/completions/kubectl-crashmonitor";
    assert!(shell.has_home_file(completions), "{said}");
}

/// README.md: the configuration that stands below the commands, with the addresses of services that are there.
fn run_a_worker_by_hand(stack: &mut Stack) {
    let block = stack.take("README.md", "crashmonitor-worker check");
    let (kafka, redis, admin) = (shared::kafka(), shared::redis(), Port::reserve());
    kafka.topics().create_topic("logs", 1, &[]);
    let readme = read("README.md");
    let (_, below) = readme.split_once(&block.text).expect("the block is of that page");
    let (_, configuration) = below.split_once("```yaml\n").expect("a configuration stands below");
    let (configuration, _) = configuration.split_once("```").expect("a block ends");
    let configuration = configuration
        .replace("kafka:9092", &kafka.bootstrap())
        .replace("redis://redis:6379/0", &redis.url())
        // One broker can't hold three replicas, and another worker of this machine may have the default port.
        + "repartition: {replicationFactor: 1}\n"
        + &format!("worker: {{adminListen: \"{}\"}}\n", admin.address());
    let shell = Shell::new("by-hand", &[], &[&binary("crashmonitor-worker", "CRASHMONITOR_WORKER")]);
    shell.home_file("worker.yaml", &configuration);
    let said = shell.start_in_home(&block).end_when(&["claimed"]);
    assert!(said.contains("topic created"), "{said}");
}

/// docs/loadgen.md. `make test-commands`: some minutes, and 2 GB of a disk.
#[test]
#[ignore = "takes minutes: make test-commands"]
fn blocks_that_take_long_work_as_they_are_written() {
    let mut stack = Stack::of(Who::Long);
    let kafka = Kafka::start();
    let _default = Proxy::listening_at(DEFAULT_BROKER, &kafka.bootstrap());
    let shell = Shell::new("long", &[], &[&binary("crashmonitor-loadgen", "CRASHMONITOR_LOADGEN")]);
    let said = shell.run_in_home(&stack.take("docs/loadgen.md", "# 100,000 records/s"));
    assert!(shell.has_home_file("expected.jsonl"), "{said}");
    let summaries: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(summaries.len(), 3, "{said}");
    until("all records to be there", Duration::from_secs(10), || {
        let offsets = kafka.topics().offsets("logs", Isolation::ReadCommitted);
        let records: i64 = offsets.values().map(|(first, end)| end - first).sum();
        // A minute of 100,000 a second, five millions, and a minute of 20,000 a second.
        if records >= 12_000_000 { Ok(()) } else { Err(format!("{records} records")) }
    });
}
