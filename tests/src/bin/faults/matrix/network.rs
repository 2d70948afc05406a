//! The network between one of two workers and Kafka is cut, slow or narrow, and the end of a transaction comes late.
//!
//! Responsible for what happens to a worker that is well and can't be heard. The other one has a way of its own and goes on.
//! What becomes of the way to Redis stands with Redis.

use crashmonitor_testbed::proxy::{EndTxn, Proxy};
use crashmonitor_testbed::under_load::{TIMEOUT, await_more_results};
use crashmonitor_testbed::until_true;
use std::time::Duration;

use super::{Fault, Place};
use crate::scene::Scene;

/// Above the time for which the way is cut.
const LONG_SESSION: &str = "60s";
/// Whoever is silent for so long is out.
const SHORT_SESSION: &str = "4s";
/// Each way; several requests wait for each other in a transaction.
const DELAY: Duration = Duration::from_millis(200);
/// Of a connection, far below what half of the load takes.
const BYTES_PER_SECOND: u64 = 100_000;
/// What the late end of a transaction may take beyond its delay: a worker's load until there is one.
const UNTIL_AN_END: Duration = TIMEOUT;

type Cause = fn(&mut Scene<'_>, usize);

const CASES: [(&str, &str, Cause); 9] = [
    ("kafka-cut", LONG_SESSION, cut),
    ("kafka-cut-away", SHORT_SESSION, cut_away),
    ("kafka-cut-again", LONG_SESSION, cut_again),
    ("kafka-delayed", LONG_SESSION, delayed),
    ("kafka-throttled", LONG_SESSION, throttled),
    ("end-held-30s", LONG_SESSION, |scene, victim| end_held(scene, victim, Duration::from_secs(30))),
    ("end-held-60s", LONG_SESSION, |scene, victim| end_held(scene, victim, Duration::from_secs(60))),
    ("end-held-120s", LONG_SESSION, |scene, victim| end_held(scene, victim, Duration::from_secs(120))),
    ("end-unanswered", LONG_SESSION, end_unanswered),
];

pub fn all() -> impl Iterator<Item = Fault> {
    CASES.into_iter().map(|(name, session, cause)| Fault {
        name: format!("network.{name}"),
        place: Place::Alone,
        session,
        cause: Box::new(move |scene, _| {
            scene.begin(1);
            let victim = scene.start_worker_behind_proxies();
            scene.await_shares();
            await_more_results(&scene.workers[victim..]);
            let _mending = Mending(scene.kafka.proxies().collect());
            cause(scene, victim);
            scene.kafka.proxies().for_each(Proxy::mend);
            scene.await_shares();
            await_more_results(&scene.workers);
            scene.await_load(2);
        }),
    })
}

/// The proxies are everybody's: whatever happens, they are well again at the end of a run.
struct Mending<'a>(Vec<&'a Proxy>);

impl Drop for Mending<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|proxy| proxy.mend());
    }
}

fn cut(scene: &mut Scene<'_>, _: usize) {
    scene.kafka.proxies().for_each(Proxy::cut);
    scene.await_load(10);
}

/// For so long that the other one takes over.
fn cut_away(scene: &mut Scene<'_>, victim: usize) {
    scene.kafka.proxies().for_each(Proxy::cut);
    scene.await_shares_without(Some(victim));
    await_more_results(&scene.workers[..victim]);
}

/// New connections come about at once, and what was on its way may have arrived or not.
fn cut_again(scene: &mut Scene<'_>, _: usize) {
    for _ in 0..8 {
        scene.kafka.proxies().for_each(Proxy::cut_once);
        scene.await_load(1);
    }
}

fn delayed(scene: &mut Scene<'_>, victim: usize) {
    scene.kafka.proxies().for_each(|proxy| proxy.delay(DELAY));
    await_more_results(&scene.workers[victim..]);
    scene.await_load(10);
}

fn throttled(scene: &mut Scene<'_>, victim: usize) {
    scene.kafka.proxies().for_each(|proxy| proxy.throttle(BYTES_PER_SECOND));
    await_more_results(&scene.workers[victim..]);
    scene.await_load(10);
}

/// Longer than the worker waits, and than the transaction may last: another producer of the same name is at work when it
/// comes.
fn end_held(scene: &mut Scene<'_>, victim: usize, time: Duration) {
    let (met, passed) = (sum(scene, Proxy::ends_met), sum(scene, Proxy::ends_passed));
    scene.kafka.proxies().for_each(|proxy| proxy.next_end(EndTxn::Held(time)));
    until_true("an end of a transaction", UNTIL_AN_END, || sum(scene, Proxy::ends_met) > met);
    // One is enough: the next transaction's may go to another broker.
    scene.kafka.proxies().for_each(Proxy::mend);
    await_more_results(&scene.workers[victim..]);
    until_true("the end to arrive", time + TIMEOUT, || sum(scene, Proxy::ends_passed) > passed);
}

/// It is carried out, and nobody hears of it.
fn end_unanswered(scene: &mut Scene<'_>, victim: usize) {
    for _ in 0..3 {
        let passed = sum(scene, Proxy::ends_passed);
        scene.kafka.proxies().for_each(|proxy| proxy.next_end(EndTxn::Unanswered));
        until_true("an end of a transaction", UNTIL_AN_END, || sum(scene, Proxy::ends_passed) > passed);
        scene.kafka.proxies().for_each(Proxy::mend);
        await_more_results(&scene.workers[victim..]);
    }
}

fn sum(scene: &Scene<'_>, count: fn(&Proxy) -> u64) -> u64 {
    scene.kafka.proxies().map(count).sum()
}
