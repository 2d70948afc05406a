//! Removes what belongs to one monitor alone: its repartition topic, its consumer groups, its keys in Redis.
//!
//! Responsible for trying each of them until it is gone or the time is up, and for saying of each what became of it.
//! Must never touch the input, the output, or anything of another monitor. No worker of the monitor may run: Kafka
//! keeps a group that has members, and a worker would make its topic anew.

use std::thread;
use std::time::{Duration, Instant};

use crashmonitor_core::config::Config;

use crate::kafka;
use crate::kafka::client::Clients;
use crate::kafka::topics::{Admin, Removed};
use crate::redis_store::SnapshotStore;
use crate::run::{self, Error};
use crate::signals::Signals;

/// From the beginning to the last attempt, which may take 20 s: somewhat less than a Job of the operator is given.
const PATIENCE: Duration = Duration::from_secs(45);
/// The longest wait for one answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Something to remove, and how.
struct Part<'a> {
    name: String,
    remove: Box<dyn Fn() -> Result<Removed, String> + 'a>,
    error: String,
}

/// Removes everything. What can't be reached is tried again and again, and keeps nothing else from being removed.
pub fn purge(config: &Config) -> Result<(), Error> {
    run::check(config)?;
    // Each part may be removed again: nothing has to be finished.
    let _signals = Signals::listen(1)?;
    let end = Instant::now() + PATIENCE;
    let store = SnapshotStore::connect(config);
    let mut left = parts(config, store.as_ref());
    loop {
        left.retain_mut(|part| !is_removed(part));
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() + PAUSE >= end {
            let left: Vec<_> = left.iter().map(|part| format!("{} ({})", part.name, part.error)).collect();
            return Err(Error::Runtime(format!("not removed: {}", left.join(", "))));
        }
        thread::sleep(PAUSE);
    }
}

fn parts<'a>(config: &'a Config, store: Option<&'a SnapshotStore>) -> Vec<Part<'a>> {
    fn part<'a>(name: String, remove: impl Fn() -> Result<Removed, String> + 'a) -> Part<'a> {
        Part { name, remove: Box::new(remove), error: String::new() }
    }
    let topic = config.repartition_topic().as_str();
    let mut parts = vec![part(format!("topic {topic}"), move || {
        with_kafka(config, |admin| admin.delete_topic(topic, REQUEST_TIMEOUT))
    })];
    for group in [config.scan_group().as_str(), config.aggregate_group().as_str()] {
        parts.push(part(format!("group {group}"), move || {
            with_kafka(config, |admin| admin.delete_group(group, REQUEST_TIMEOUT))
        }));
    }
    if let Some(store) = store {
        let keys = format!("Redis keys {}*", config.snapshot_key_prefix());
        parts.push(part(keys, move || remove_keys(store, config.repartition.partitions)));
    }
    parts
}

/// One attempt.
fn is_removed(part: &mut Part<'_>) -> bool {
    match (part.remove)() {
        Ok(Removed::Gone) => tracing::info!("{}: removed", part.name),
        Ok(Removed::Absent) => tracing::info!("{}: was not there", part.name),
        Err(error) => {
            if error != part.error {
                tracing::warn!("{}: {error}; trying again", part.name);
            }
            part.error = error;
            return false;
        }
    }
    true
}

fn with_kafka(
    config: &Config,
    act: impl FnOnce(&Admin) -> Result<Removed, kafka::Error>,
) -> Result<Removed, String> {
    let clients = Clients::new(config, "purge", &kafka::Health::new());
    let observer = clients.observer(config.scan_group()).map_err(|e| e.to_string())?;
    // An admin request does not wait for a broker; this one does.
    observer.brokers(REQUEST_TIMEOUT).map_err(|e| run::failed(clients.health(), &e))?;
    let admin = clients.admin().map_err(|e| e.to_string())?;
    act(&admin).map_err(|e| e.to_string())
}

fn remove_keys(store: &SnapshotStore, partitions: u32) -> Result<Removed, String> {
    for partition in 0..partitions.cast_signed() {
        store.delete(partition).map_err(|e| e.to_string())?;
    }
    Ok(Removed::Gone)
}
