//! A seeded model of everything around `core`: several workers run its decisions, those of the loops too, against models
//! of Kafka and Redis, while they crash, stop and go on, are rebalanced, lose answers and snapshots, and have wrong
//! clocks. A checker that shares no code with `core` recomputes what the output must be. docs/testing.md says what is
//! modelled and what is not.
//!
//! `SEED=n` runs one seed and tells its story; `SEEDS=n` runs that many (1,000 without), on all cores; `FROM=n` begins
//! there. A failure prints its seed: the same seed with the same source gives the same run, to the last step.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checker;
mod counter;
mod faults;
mod group;
mod input;
mod kafka;
mod process;
mod rng;
mod scanner;
mod setup;
mod transactions;
mod world;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use world::{Verdict, World};

#[allow(clippy::disallowed_methods, reason = "the test's environment, not core's")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// Runs a seed; a panic is a failure like any other.
fn run(seed: u64, tells: bool) -> Verdict {
    let verdict = catch_unwind(AssertUnwindSafe(|| World::new(seed, tells).run()));
    verdict.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let outcome = Err(format!("panic: {}", text.unwrap_or_default()));
        Verdict { outcome, story: Vec::new(), steps: 0 }
    })
}

/// The failures among `seeds`, lowest first, and how many steps were taken.
fn campaign(seeds: Range<u64>, stop_at_first: bool) -> (Vec<(u64, String)>, u64) {
    let next = AtomicU64::new(seeds.start);
    let steps = AtomicU64::new(0);
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let work = || {
        let mut failures = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return failures;
            }
            let verdict = run(seed, false);
            steps.fetch_add(verdict.steps as u64, Ordering::Relaxed);
            if let Err(what) = verdict.outcome {
                failures.push((seed, what));
                if stop_at_first {
                    next.store(seeds.end, Ordering::Relaxed);
                }
            }
        }
    };
    let mut failures: Vec<(u64, String)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    failures.sort();
    (failures, steps.into_inner())
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the rate is told, not asserted")]
fn no_seed_loses_or_doubles_a_result() {
    if let Some(seed) = number("SEED") {
        let verdict = run(seed, true);
        println!("{}", verdict.story.join("\n"));
        return verdict.outcome.unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
    let from = number("FROM").unwrap_or(0);
    let seeds = from..from + number("SEEDS").unwrap_or(1_000);
    let count = seeds.end - seeds.start;
    let begun = std::time::Instant::now();
    let (failures, steps) = campaign(seeds, number("STOP").is_some());
    let took = begun.elapsed().as_secs_f64();
    println!(
        "{count} seeds, {} failed, {:.1} million steps in {took:.1} s: {:.0} seeds per second",
        failures.len(),
        steps as f64 / 1e6,
        count as f64 / took
    );
    if let Some((seed, what)) = failures.first() {
        for (seed, what) in failures.iter().take(50) {
            println!("seed {seed}: {}", what.chars().take(200).collect::<String>());
        }
        panic!(
            "{} of {count} seeds failed\nseed {seed}: {what}\nreplay it: make sim SEED={seed}",
            failures.len()
        );
    }
}
