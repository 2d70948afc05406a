//! Redis loses what it had, comes back with what it had long ago, or does not answer or not in time, while workers have to
//! recover.
//!
//! Responsible for a recovery in each of these states: as long as nobody restarts, what Redis holds does not matter.

use crashmonitor_testbed::under_load::{TIMEOUT, await_more_results};
use crashmonitor_testbed::{Redis, until_true};
use std::time::Duration;

use super::{Fault, Place};
use crate::scene::{PARTITIONS, Scene};

/// Whoever is killed and started again has its seat back, and recovers at once.
const SESSION: &str = "60s";

type Cause = fn(&mut Scene<'_>);

/// Each way: longer than a worker waits for Redis.
const DELAY: Duration = Duration::from_secs(3);
/// Of a connection: a snapshot takes seconds.
const BYTES_PER_SECOND: u64 = 500;

const STATES: [(&str, Cause); 8] = [
    ("flushed", flushed),
    ("old-rdb", old_rdb),
    ("failover-to-lagging", failover_to_lagging),
    ("paused", |scene| recover_while(scene, |s| s.redis.pause(), |s| s.redis.resume())),
    ("killed", |scene| recover_while(scene, |s| s.redis.kill(), |s| s.redis.start_again())),
    ("cut", |scene| recover_while(scene, |s| s.to_redis.cut(), |s| s.to_redis.mend())),
    ("delayed", |scene| recover_while(scene, |s| s.to_redis.delay(DELAY), |s| s.to_redis.mend())),
    ("throttled", |scene| {
        recover_while(scene, |s| s.to_redis.throttle(BYTES_PER_SECOND), |s| s.to_redis.mend());
    }),
];

pub fn all() -> impl Iterator<Item = Fault> {
    STATES.into_iter().map(|(name, cause)| Fault {
        name: format!("redis.{name}"),
        place: Place::Beside,
        session: SESSION,
        cause: Box::new(move |scene, _| {
            scene.begin(2);
            until_true("a snapshot of every shard", TIMEOUT, || scene.redis.keys().len() == PARTITIONS);
            cause(scene);
            scene.await_shares();
            await_more_results(&scene.workers);
            scene.await_load(2);
        }),
    })
}

fn flushed(scene: &mut Scene<'_>) {
    scene.workers[0].kill9();
    scene.redis.flushall();
    scene.workers[0].start_again();
}

/// What it saved long ago is still good, but far behind what is committed.
fn old_rdb(scene: &mut Scene<'_>) {
    assert_eq!(scene.redis.command_text(&["SAVE"]), "OK");
    scene.await_load(5);
    scene.workers.iter().for_each(|worker| worker.kill9());
    scene.redis.kill();
    scene.redis.start_again();
    assert_eq!(scene.redis.keys().len(), PARTITIONS, "it has read its file");
    scene.workers.iter_mut().for_each(|worker| worker.start_again());
}

/// The replica hears nothing for a while; then the primary is lost, and the replica takes its place with what it has.
fn failover_to_lagging(scene: &mut Scene<'_>) {
    let primary = scene.redis.address();
    let (host, port) = (primary.ip().to_string(), primary.port().to_string());
    let replica = Redis::builder().argument("--replicaof").argument(&host).argument(&port).start();
    until_true("the replica to have what the primary has", TIMEOUT, || replica.keys().len() == PARTITIONS);
    replica.pause();
    scene.await_load(5);
    scene.workers.iter().for_each(|worker| worker.kill9());
    scene.redis.kill();
    replica.resume();
    assert_eq!(replica.command_text(&["REPLICAOF", "NO", "ONE"]), "OK");
    scene.to_redis.lead_to(replica.address());
    scene.redis = replica;
    scene.workers.iter_mut().for_each(|worker| worker.start_again());
}

/// One worker recovers while Redis is out of reach, the other one when it is back.
fn recover_while(scene: &mut Scene<'_>, away: fn(&Scene<'_>), back: fn(&Scene<'_>)) {
    away(scene);
    scene.workers[0].kill9();
    scene.workers[0].start_again();
    scene.await_shares();
    scene.await_load(5);
    back(scene);
    scene.workers[1].kill9();
    scene.workers[1].start_again();
}
