//! Faults under load: whatever is killed, stopped or emptied meanwhile, the results are those of the whole log.
//!
//! The short set: `make faults` causes many more, with three brokers and at named places in the worker.
//!
//! Responsible for real faults of real processes, each at a moment when records flow and results are written, and for
//! an exact comparison at the end: each test reads the output as committed and holds it against a recomputation of
//! everything in the input.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crashmonitor_testbed::load::Load;
use crashmonitor_testbed::monitor::Monitor;
use crashmonitor_testbed::proxy::{EndTxn, Proxy};
use crashmonitor_testbed::under_load::{self, TIMEOUT, await_more_results, await_owned};
use crashmonitor_testbed::{Kafka, Redis, Worker, shared, until_true};
use std::collections::BTreeSet;
use std::time::Duration;

const READY: Duration = Duration::from_secs(60);
/// Far below the session timeouts of the tests that use it: only who gives partitions back hands them over so soon.
const AT_ONCE: Duration = Duration::from_secs(40);

const PARTITIONS: i32 = 4;

/// A monitor with two workers that share its partitions and have written results, and load that goes on.
fn begin(monitor: &Monitor<'_>) -> (Vec<Worker>, Load) {
    monitor.create_input(PARTITIONS);
    let workers = monitor.start_workers(2);
    // Whoever comes first owns everything for a while: what a test does must not meet that hand-over.
    workers.iter().for_each(await_half);
    let load = Load::start(monitor);
    await_more_results(&workers);
    (workers, load)
}

/// Waits until one of two workers owns its half of the partitions and has restored them.
#[track_caller]
fn await_half(worker: &Worker) {
    await_owned(worker, 2, 2, TIMEOUT);
    worker.wait_ready(READY);
}

fn recoveries(worker: &Worker) -> BTreeSet<String> {
    let status = worker.status();
    let shards = status["aggregate"].as_object().unwrap().values();
    shards.filter_map(|shard| shard["recovery"].as_str().map(str::to_owned)).collect()
}

/// Ends the load and the workers, and all results are right.
#[track_caller]
fn finish(monitor: &Monitor<'_>, load: Load, workers: &[Worker]) {
    let outcome = under_load::finish(monitor, load, workers);
    outcome.check().unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn a_killed_worker_that_comes_back_goes_on_from_its_snapshots() {
    let redis = Redis::start();
    // Whoever comes back within the session is the member that it was.
    let monitor = Monitor::new(shared::kafka(), "killed").redis(&redis).set("worker.sessionTimeout", "120s");
    let (mut workers, load) = begin(&monitor);
    let snapshots = || redis.keys().len();
    until_true("a snapshot of every shard", TIMEOUT, || snapshots() == 4);
    let kept = workers[1].metric("crashmonitor_rebalances_total");

    workers[0].kill9();
    load.await_seconds(2);
    workers[0].start_again();
    await_owned(&workers[0], 2, 2, AT_ONCE);
    workers[0].wait_ready(READY);
    assert_eq!(recoveries(&workers[0]), BTreeSet::from(["snapshot".to_owned()]));
    assert_eq!(workers[1].metric("crashmonitor_rebalances_total"), kept, "the other one was disturbed");
    load.await_seconds(3);
    finish(&monitor, load, &workers);
}

#[test]
fn a_killed_worker_that_stays_away_is_replaced_after_its_session() {
    let monitor =
        Monitor::new(shared::kafka(), "gone").set("worker.sessionTimeout", "3s").set("output.mode", "Final");
    let (mut workers, load) = begin(&monitor);
    workers.remove(0).kill9();
    await_owned(&workers[0], 4, 4, TIMEOUT);
    load.await_seconds(3);
    finish(&monitor, load, &workers);
}

#[test]
fn without_snapshots_recovery_replays_the_log() {
    let redis = Redis::start();
    let monitor = Monitor::new(shared::kafka(), "flushed")
        .redis(&redis)
        .set("worker.sessionTimeout", "120s")
        .set("output.mode", "Final");
    let (mut workers, load) = begin(&monitor);
    redis.flushall();
    await_more_results(&workers);
    workers[0].kill9();
    // Those that it has written since.
    redis.flushall();
    workers[0].start_again();
    await_owned(&workers[0], 2, 2, AT_ONCE);
    workers[0].wait_ready(READY);
    assert_eq!(recoveries(&workers[0]), BTreeSet::from(["replay_snapshot_missing".to_owned()]));
    load.await_seconds(3);
    finish(&monitor, load, &workers);
}

#[test]
fn counting_goes_on_while_redis_is_away_for_a_minute() {
    let redis = Redis::start();
    let monitor =
        Monitor::new(shared::kafka(), "no-redis").redis(&redis).set("worker.sessionTimeout", "120s");
    let (mut workers, load) = begin(&monitor);
    let reachable = |worker: &Worker| worker.status()["checkpointStore"]["reachable"].as_bool();
    until_true("Redis to be seen", TIMEOUT, || workers.iter().all(|w| reachable(w) == Some(true)));

    redis.stop();
    until_true("Redis to be missed", TIMEOUT, || workers.iter().all(|w| reachable(w) == Some(false)));
    // Redis stays away, so a readiness that depended on it would not come.
    workers.iter().for_each(|worker| worker.wait_ready(READY));
    load.await_seconds(30);
    // Nor does a recovery.
    workers[0].kill9();
    workers[0].start_again();
    await_owned(&workers[0], 2, 2, AT_ONCE);
    workers[0].wait_ready(READY);
    assert_eq!(recoveries(&workers[0]), BTreeSet::from(["replay_store_unreachable".to_owned()]));
    await_more_results(&workers);
    load.await_seconds(30);

    redis.start_again();
    until_true("Redis to be seen again", TIMEOUT, || workers.iter().all(|w| reachable(w) == Some(true)));
    until_true("snapshots again", TIMEOUT, || redis.keys().len() == 4);
    finish(&monitor, load, &workers);
}

#[test]
fn a_broker_that_restarts_costs_nothing() {
    let kafka = Kafka::start();
    // The broker may be away for long on a slow machine, and this is not about sessions.
    let monitor =
        Monitor::new(&kafka, "broker").set("worker.sessionTimeout", "120s").set("output.mode", "Final");
    let (workers, load) = begin(&monitor);
    let reachable = |worker: &Worker| worker.status()["kafka"]["reachable"].as_bool();

    kafka.kill_broker(0);
    until_true("Kafka to be missed", TIMEOUT, || workers.iter().all(|w| reachable(w) == Some(false)));
    kafka.start_broker(0);
    until_true("Kafka to be seen again", TIMEOUT, || workers.iter().all(|w| reachable(w) == Some(true)));
    await_more_results(&workers);
    load.await_seconds(2);

    kafka.restart_broker(0);
    until_true("Kafka to be seen again", TIMEOUT, || workers.iter().all(|w| reachable(w) == Some(true)));
    await_more_results(&workers);
    load.await_seconds(2);
    finish(&monitor, load, &workers);
}

/// It wakes up in the belief that it owns partitions which are somebody else's by then.
#[test]
fn a_worker_that_wakes_from_the_dead_does_no_harm() {
    let monitor = Monitor::new(shared::kafka(), "zombie").set("worker.sessionTimeout", "3s");
    let (workers, load) = begin(&monitor);
    workers[0].sigstop();
    await_owned(&workers[1], 4, 4, TIMEOUT);
    await_more_results(&workers[1..]);
    workers[0].sigcont();
    await_owned(&workers[0], 2, 2, TIMEOUT);
    await_owned(&workers[1], 2, 2, TIMEOUT);
    load.await_seconds(3);
    finish(&monitor, load, &workers);
}

/// Two workers, one, two again: who is told to end gives everything back before it goes.
#[test]
fn sigterm_hands_over_at_once() {
    let monitor = Monitor::new(shared::kafka(), "scaled")
        .set("worker.sessionTimeout", "120s")
        .set("output.mode", "Final");
    let (mut workers, load) = begin(&monitor);
    for _ in 0..2 {
        // Exit code 0, or this panics.
        workers[0].stop(AT_ONCE);
        for group in [monitor.scan_group(), monitor.aggregate_group()] {
            let members = monitor.topics().group_members(&group);
            assert_eq!(members.len(), 1, "{group} has {members:?}\n{}", workers[0].log_tail());
        }
        await_owned(&workers[1], 4, 4, AT_ONCE);
        await_more_results(&workers[1..]);
        workers[0].start_again();
        workers[0].wait_ready(READY);
        await_owned(&workers[0], 2, 2, AT_ONCE);
        await_owned(&workers[1], 2, 2, AT_ONCE);
        await_more_results(&workers);
    }
    load.await_seconds(2);
    finish(&monitor, load, &workers);
}

#[test]
fn others_take_over_when_all_workers_are_killed() {
    let redis = Redis::start();
    let monitor =
        Monitor::new(shared::kafka(), "all-killed").redis(&redis).set("worker.sessionTimeout", "3s");
    let (workers, load) = begin(&monitor);
    workers.iter().for_each(Worker::kill9);
    drop(workers);
    load.await_seconds(2);
    let successors = vec![monitor.start_worker("x"), monitor.start_worker("y")];
    successors.iter().for_each(|worker| await_owned(worker, 2, 2, TIMEOUT));
    successors.iter().for_each(|worker| worker.wait_ready(READY));
    await_more_results(&successors);
    load.await_seconds(3);
    finish(&monitor, load, &successors);
}

/// A monitor whose workers reach Kafka through proxies.
fn proxied<'a>(kafka: &'a Kafka, name: &str) -> Monitor<'a> {
    let bootstrap = kafka.bootstrap_through_proxies();
    Monitor::new(kafka, name).set("kafka.bootstrapServers", bootstrap).set("worker.sessionTimeout", "120s")
}

#[test]
fn connections_that_are_cut_cost_nothing() {
    let kafka = Kafka::builder().with_proxies().start();
    let monitor = proxied(&kafka, "cut");
    let (workers, load) = begin(&monitor);
    for _ in 0..5 {
        kafka.proxies().for_each(Proxy::cut_once);
        load.await_seconds(1);
    }
    await_more_results(&workers);
    finish(&monitor, load, &workers);
}

/// Its worker has given it up and thrown its state away by then, and another producer of the same name is at work.
#[test]
fn the_end_of_a_transaction_that_comes_late_doubles_nothing() {
    let kafka = Kafka::builder().with_proxies().start();
    let monitor = proxied(&kafka, "late-end").set("output.mode", "Final");
    let (workers, load) = begin(&monitor);
    let counted = |count: fn(&Proxy) -> u64| kafka.proxies().map(count).sum::<u64>();
    // Above the 15 s for which a worker waits and a transaction may last.
    kafka.proxies().for_each(|proxy| proxy.next_end(EndTxn::Held(Duration::from_secs(20))));
    until_true("an end of a transaction", TIMEOUT, || counted(Proxy::ends_met) > 0);
    await_more_results(&workers);
    until_true("the end to arrive", TIMEOUT, || counted(Proxy::ends_passed) > 0);
    await_more_results(&workers);
    finish(&monitor, load, &workers);
}

/// A rebalance takes partitions from a worker, which dies before it has answered. It comes back in time, has its seat again
/// without a rebalance, and the group has nobody for what the other one was to get.
#[test]
fn partitions_that_nobody_was_given_find_an_owner() {
    let kafka = Kafka::builder().with_proxies().start();
    let monitor = proxied(&kafka, "orphans");
    monitor.create_input(PARTITIONS);
    let mut workers = monitor.start_workers(1);
    await_owned(&workers[0], 4, 4, TIMEOUT);
    let load = Load::start(&monitor);
    await_more_results(&workers);
    let met = || kafka.proxies().map(Proxy::ends_met).sum::<u64>();
    // In a transaction the loop hears of no rebalance, and librdkafka goes through one without it up to the answer.
    kafka.proxies().for_each(|proxy| proxy.next_end(EndTxn::Held(Duration::from_secs(14))));
    until_true("a transaction to be held", TIMEOUT, || met() > 0);
    workers.push(monitor.start_worker("1"));
    let group = monitor.aggregate_group();
    let two = || monitor.topics().group_members(&group).len() == 2;
    until_true("the group to have assigned", TIMEOUT, || {
        two() && monitor.topics().group_state(&group) == "Stable"
    });
    workers[0].kill9();
    workers[0].start_again();
    workers.iter().for_each(await_half);
    await_more_results(&workers);
    finish(&monitor, load, &workers);
}
