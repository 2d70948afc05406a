//! One Kafka and one Redis for all tests of a program.
//!
//! Responsible for starting them once, at the first use. They must never be stopped, paused or flushed: other tests
//! use them at the same time, so a test that hurts a service starts its own.
//!
//! Tests keep out of each other's way by names: [`unique`] gives a new one at each call.

use crate::{Kafka, Redis};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The Kafka of this program: one broker, started at the first call.
pub fn kafka() -> &'static Kafka {
    static KAFKA: OnceLock<Kafka> = OnceLock::new();
    KAFKA.get_or_init(Kafka::start)
}

/// The Redis of this program, started at the first call.
pub fn redis() -> &'static Redis {
    static REDIS: OnceLock<Redis> = OnceLock::new();
    REDIS.get_or_init(Redis::start)
}

/// A name that no other call of this program gets: for topics, monitors and groups.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{prefix}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}
