//! Workers come and go, have wrong clocks, and partitions are added.
//!
//! Responsible for what people, schedulers and machines do to a running monitor: scaling, losing all of it at once, running
//! one name twice, and a clock that nobody has set.

use crashmonitor_testbed::monitor::{crash, record};
use crashmonitor_testbed::under_load::{TIMEOUT, await_more_results};
use crashmonitor_testbed::{Worker, until};

use super::{Fault, Place};
use crate::scene::{PARTITIONS, Scene};

type Cause = fn(&mut Scene<'_>);

/// The worker's wall clock is off by so many milliseconds.
const CLOCK_SHIFT: &str = "CRASHMONITOR_CLOCK_SHIFT_MS";

const CASES: [(&str, &str, Cause); 7] = [
    ("scaled-1-4-2", "60s", scaled),
    ("all-killed", "60s", all_killed),
    ("all-replaced", "4s", all_replaced),
    ("one-name-twice", "60s", one_name_twice),
    ("partitions-added", "60s", partitions_added),
    ("clock-an-hour-early", "60s", |scene| clock_off(scene, "3600000")),
    ("clock-an-hour-late", "60s", |scene| clock_off(scene, "-3600000")),
];

pub fn all() -> impl Iterator<Item = Fault> {
    CASES.into_iter().map(|(name, session, cause)| Fault {
        name: format!("workers.{name}"),
        place: Place::Beside,
        session,
        cause: Box::new(move |scene, _| {
            cause(scene);
            await_more_results(&scene.workers);
            scene.await_load(2);
        }),
    })
}

fn scaled(scene: &mut Scene<'_>) {
    scene.begin(1);
    for _ in 1..4 {
        scene.start_worker(&[]);
    }
    scene.await_shares();
    await_more_results(&scene.workers);
    for worker in scene.workers.split_off(2) {
        worker.stop(TIMEOUT);
    }
    scene.await_shares();
}

fn all_killed(scene: &mut Scene<'_>) {
    scene.begin(3);
    scene.workers.iter().for_each(|worker| worker.kill9());
    scene.await_load(2);
    scene.workers.iter_mut().for_each(|worker| worker.start_again());
    scene.await_shares();
}

/// Others come, who have to wait until the sessions of the dead are over.
fn all_replaced(scene: &mut Scene<'_>) {
    scene.begin(2);
    scene.workers.iter().for_each(|worker| worker.kill9());
    scene.workers = ["x", "y"].map(|name| scene.monitor.start_worker(name)).into();
    scene.await_shares();
}

/// Two processes under one name: the group and the transaction coordinator let only one of them go on.
fn one_name_twice(scene: &mut Scene<'_>) {
    scene.begin(2);
    let twin = scene.monitor.start_worker("1");
    scene.workers.push(twin);
    let gone = until("one of the twins to end", TIMEOUT, || {
        let gone = [1, 2].into_iter().find(|number| !scene.workers[*number].is_running());
        gone.ok_or_else(|| format!("{}\n{}", scene.workers[1].log_tail(), scene.workers[2].log_tail()))
    });
    scene.workers.remove(gone);
    scene.await_shares();
}

/// They hold the watermark until they speak. The load knows nothing of them, so they say here what they have to say: some
/// crashes at the time that the others have come to, and then something that lies ahead of them.
fn partitions_added(scene: &mut Scene<'_>) {
    scene.begin(2);
    scene.grow_input(PARTITIONS + 2);
    scene.await_shares();
    let now_ms = scene.workers.iter().filter_map(latest_mark_ms).max().expect("records were read");
    // Below `maxDrift`, and more than the load comes to in this run.
    let ahead = record(now_ms + 500_000, "Low", "nobody", "all is well");
    let values = [vec![crash(now_ms, "newcomer"); 3], vec![ahead]].concat();
    for partition in PARTITIONS..PARTITIONS + 2 {
        scene.monitor.write(i32::try_from(partition).expect("a few"), &values);
    }
}

/// One of two workers has a wrong clock until it is started again. With the clock an hour late the load, which began an hour
/// ago, comes from its future: it may hold the watermark, and must not spoil it.
fn clock_off(scene: &mut Scene<'_>, shift_ms: &str) {
    scene.begin(1);
    let victim = scene.start_worker(&[(CLOCK_SHIFT, shift_ms)]);
    scene.await_shares();
    scene.await_load(10);
    scene.workers[victim].stop(TIMEOUT);
    scene.workers[victim].unset_env(CLOCK_SHIFT);
    scene.workers[victim].start_again();
    scene.await_shares();
}

/// The highest event time that a worker has met.
fn latest_mark_ms(worker: &Worker) -> Option<i64> {
    let status = worker.status();
    status["input"].as_object()?.values().filter_map(|input| input["markMs"].as_i64()).max()
}
