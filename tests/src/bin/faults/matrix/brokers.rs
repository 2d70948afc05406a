//! Brokers die, stop, move what they lead, and lose their disk, one of three at a time.
//!
//! Responsible for each broker in turn, for whatever it leads or coordinates: the run's number says which. When a fault is
//! over, all brokers are back and have all replicas. Must never take away two at once: an acknowledged record is on two.

use crashmonitor_testbed::under_load::await_more_results;
use crashmonitor_testbed::until_true;
use std::time::Duration;

use super::{Fault, Place};
use crate::scene::Scene;

/// Above the time without a coordinator: this is not about sessions.
const SESSION: &str = "30s";
/// How long a broker may take to have all replicas again.
const IN_SYNC: Duration = Duration::from_secs(180);

type Cause = fn(&mut Scene<'_>, usize);

const CASES: [(&str, Cause); 6] = [
    ("killed", killed),
    ("paused", paused),
    ("wiped", wiped),
    ("restarted-in-turn", restarted_in_turn),
    ("coordinator-killed", coordinator_killed),
    ("killed-with-worker", killed_with_worker),
];

pub fn all() -> impl Iterator<Item = Fault> {
    CASES.into_iter().map(|(name, cause)| Fault {
        name: format!("broker.{name}"),
        place: Place::Alone,
        session: SESSION,
        cause: Box::new(move |scene, number| {
            scene.begin(2);
            let broker = usize::try_from(number).unwrap_or_default() % scene.kafka.len();
            cause(scene, broker);
            await_in_sync(scene);
            scene.await_shares();
            await_more_results(&scene.workers);
            scene.await_load(2);
        }),
    })
}

fn killed(scene: &mut Scene<'_>, broker: usize) {
    scene.kafka.kill_broker(broker);
    await_more_results(&scene.workers);
    scene.await_load(5);
    scene.kafka.start_broker(broker);
}

/// Its connections stay, and nothing answers, until the controller takes it for dead.
fn paused(scene: &mut Scene<'_>, broker: usize) {
    scene.kafka.pause_broker(broker);
    await_more_results(&scene.workers);
    scene.await_load(10);
    scene.kafka.resume_broker(broker);
}

fn wiped(scene: &mut Scene<'_>, broker: usize) {
    scene.kafka.kill_broker(broker);
    await_more_results(&scene.workers);
    scene.kafka.wipe_broker(broker);
    scene.kafka.start_broker(broker);
}

/// Each hands over what it leads and coordinates before it ends.
fn restarted_in_turn(scene: &mut Scene<'_>, first: usize) {
    let brokers = scene.kafka.len();
    for broker in (first..first + brokers).map(|broker| broker % brokers) {
        scene.kafka.restart_broker(broker);
        await_in_sync(scene);
        await_more_results(&scene.workers);
    }
}

/// Of the transactions of half of the workers, and of some groups; who leads next has to read the log first.
fn coordinator_killed(scene: &mut Scene<'_>, number: usize) {
    for topic in ["__transaction_state", "__consumer_offsets"] {
        let partitions = scene.kafka.topics().partitions_of(topic).expect("Kafka has made it");
        let partition = i32::try_from(number).unwrap_or_default() % partitions;
        let leader = scene.kafka.topics().leader_of(topic, partition);
        let leader = usize::try_from(leader).expect("it has a leader");
        scene.kafka.kill_broker(leader);
        await_more_results(&scene.workers);
        scene.kafka.start_broker(leader);
        await_in_sync(scene);
    }
}

fn killed_with_worker(scene: &mut Scene<'_>, broker: usize) {
    scene.workers[0].kill9();
    scene.kafka.kill_broker(broker);
    scene.workers[0].start_again();
    scene.await_shares();
    scene.kafka.start_broker(broker);
}

fn await_in_sync(scene: &Scene<'_>) {
    until_true("all replicas to be in sync", IN_SYNC, || scene.kafka.topics().replicas_missing() == 0);
}
