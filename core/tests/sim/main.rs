//! A small seeded model of the protocol: several workers run the real `core` against a model of Kafka and Redis, while
//! they crash, turn into zombies, are rebalanced, lose snapshots and learn of no outcome. A checker that shares no code
//! with `core` recomputes what the output must be.
//!
//! `SEED=n` runs one seed and prints its story when it fails; `SEEDS=n` runs that many (1,000 without).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checker;
mod kafka;
mod rng;
mod worker;
mod world;

#[allow(clippy::disallowed_methods, reason = "the test's environment, not core's")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

#[test]
fn no_seed_loses_or_doubles_a_result() {
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(1_000),
    };
    let mut failures: Vec<(u64, String)> = Vec::new();
    for seed in seeds.clone() {
        if let Err(what) = world::World::new(seed).run() {
            failures.push((seed, what));
        }
    }
    if let Some((seed, what)) = failures.first() {
        let failed: Vec<u64> = failures.iter().map(|(seed, _)| *seed).collect();
        panic!("{} of {} seeds failed: {failed:?}\nSEED={seed}: {what}", failed.len(), seeds.count());
    }
}
