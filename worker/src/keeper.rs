//! Stores snapshots and purges the repartition topic, behind everybody's back.
//!
//! Responsible for what must happen some time and may fail: a snapshot that is not stored costs a longer replay, a purge
//! that does not happen costs disk. Must never be waited for by anything that leads to a result.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crashmonitor_core::aggregator::Confirmed;
use crashmonitor_core::ids::{LogOffset, Shard};

use crate::driver::{LOOP_BOUND, REQUEST_TIMEOUT, Shared, now, spawn};
use crate::kafka::Reachability;
use crate::run::Error;

/// What waits for the keeper at most. Four rounds of snapshots: when Redis is slower than that, newer ones serve better
/// than more of them.
const QUEUE_MAX: usize = 4;
/// How often the repartition topic is purged. Segments are deleted whole, so more often would gain nothing.
const PURGE_INTERVAL: Duration = Duration::from_secs(30);
/// How often an end is looked for.
const NAP: Duration = Duration::from_millis(100);

/// Hands work to the keeper; when it is dropped, the keeper ends.
pub struct Keeper {
    sender: SyncSender<Confirmed>,
}

impl Keeper {
    /// Hands over what a confirmed transaction leaves to do, or drops it if the keeper is behind.
    pub fn keep(&self, confirmed: Confirmed, shared: &Shared) {
        if let Err(TrySendError::Full(dropped)) = self.sender.try_send(confirmed)
            && !dropped.snapshots.is_empty()
        {
            shared.context.admin.metrics().count_checkpoint_failure();
        }
    }
}

/// Starts the keeper's thread.
pub fn start(shared: &Arc<Shared>) -> Result<(Keeper, JoinHandle<Result<(), Error>>), Error> {
    let (sender, receiver) = sync_channel(QUEUE_MAX);
    let handle = spawn("keeper", shared, move |shared| run(shared, &receiver))?;
    Ok((Keeper { sender }, handle))
}

fn run(shared: &Shared, receiver: &Receiver<Confirmed>) -> Result<(), Error> {
    let heartbeat = shared.context.admin.register("keeper", LOOP_BOUND);
    let mut purgeable: BTreeMap<Shard, LogOffset> = BTreeMap::new();
    let mut purged_at = Instant::now();
    loop {
        heartbeat.beat();
        match receiver.recv_timeout(NAP) {
            Ok(confirmed) => {
                purgeable.extend(confirmed.purgeable);
                store(shared, &confirmed.snapshots);
            }
            Err(RecvTimeoutError::Timeout) => {}
            // The aggregate loop has left; what it sent last was stored before this.
            Err(RecvTimeoutError::Disconnected) => break,
        }
        // While no broker answers, librdkafka's admin requests would spin.
        let is_reachable = shared.context.clients.health().get() == Reachability::Reachable;
        if purged_at.elapsed() >= PURGE_INTERVAL && is_reachable {
            purged_at = Instant::now();
            purge(shared, std::mem::take(&mut purgeable));
        }
    }
    shared.context.admin.unregister("keeper");
    Ok(())
}

fn store(shared: &Shared, snapshots: &[(Shard, Vec<u8>)]) {
    let Some(store) = &shared.context.store else { return };
    let admin = &shared.context.admin;
    let was_reachable = admin.status().checkpoint_store.is_none_or(|store| store.reachable);
    let mut failure = None;
    for (shard, bytes) in snapshots {
        let begun = Instant::now();
        match store.save(shard.0.cast_signed(), bytes) {
            Ok(()) => {
                admin.metrics().observe_checkpoint(begun.elapsed());
                let stored_at = now().as_millis();
                admin.update_status(|status| {
                    status.aggregate.entry(shard.0.cast_signed()).or_default().last_checkpoint_ms =
                        Some(stored_at);
                });
            }
            Err(error) => {
                admin.metrics().count_checkpoint_failure();
                failure = Some(error.to_string());
                // The others would wait as long and fail as well.
                break;
            }
        }
    }
    if snapshots.is_empty() {
        return;
    }
    match &failure {
        Some(error) if was_reachable => tracing::warn!("{error}; counting goes on without checkpoints"),
        None if !was_reachable => tracing::info!("Redis: checkpoints are stored again"),
        _ => {}
    }
    show_store(shared, failure);
}

/// Brings the store's reachability into status and metrics.
pub fn show_store(shared: &Shared, failure: Option<String>) {
    let admin = &shared.context.admin;
    admin.metrics().set_checkpoint_store_connected(failure.is_none());
    admin.update_status(|status| {
        let store = status.checkpoint_store.get_or_insert_default();
        (store.reachable, store.error) = (failure.is_none(), failure);
    });
    let oldest = admin.status().aggregate.values().filter_map(|shard| shard.last_checkpoint_ms).min();
    if let Some(oldest) = oldest {
        admin.metrics().set_checkpoint_time(oldest);
    }
}

fn purge(shared: &Shared, purgeable: BTreeMap<Shard, LogOffset>) {
    if purgeable.is_empty() {
        return;
    }
    let topic = shared.config().repartition_topic().as_str();
    let before = purgeable.iter().map(|(shard, offset)| (shard.0.cast_signed(), offset.0.cast_signed()));
    let before: Vec<(i32, i64)> = before.collect();
    let purged = shared.context.clients.admin().map_err(|error| error.to_string()).and_then(|admin| {
        admin.delete_records(topic, &before, REQUEST_TIMEOUT).map_err(|error| error.to_string())
    });
    match purged {
        Ok(partitions) => {
            for partition in partitions.iter().filter(|partition| partition.outcome.is_err()) {
                tracing::debug!(
                    topic,
                    partition = partition.partition,
                    "not purged: {:?}",
                    partition.outcome
                );
            }
        }
        Err(error) => tracing::warn!("{topic} is not purged: {error}; trying again"),
    }
}
