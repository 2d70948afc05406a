//! The loops and what they share.
//!
//! Responsible for starting one scan loop for each configured thread, the aggregate loop, the observer and the keeper,
//! and for ending them in order. Must never decide what a record or a frame means: the loops ask `crashmonitor_core` and
//! do what it says.
//!
//! # Threads
//! Every loop is a thread of its own that owns its clients; they share [`Shared`] and nothing else. A loop that can't go
//! on without losing or doubling asks all loops to halt and says why; the process then stays, so that `/status` can
//! tell. A loop that fails for another reason ends the process, and whoever runs it starts it again.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crashmonitor_core::aggregate::{self, Mode};
use crashmonitor_core::aggregator::Cadence;
use crashmonitor_core::config::{Config, OutputMode};
use crashmonitor_core::ids::TopicId;
use crashmonitor_core::scan;
use crashmonitor_core::scan::drive::Observed;
use crashmonitor_core::status::{DataLoss, Status};
use crashmonitor_core::time::Timestamp;

use crate::kafka::topics::Observer;
use crate::kafka::{Health, Reachability};
use crate::run::{Context, Error, now_ms};
use crate::signals::Signals;
use crate::{aggregate_loop, keeper, observe, scan_loop};

/// The longest wait for one answer from Kafka.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Every loop shows a sign of life at least this often. A loop may wait for a few requests in a row.
pub const LOOP_BOUND: Duration = Duration::from_secs(90);
/// How often a loop brings its part of the status up to date.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// What all loops share.
pub struct Shared {
    /// Configuration, clients, store, admin endpoints.
    pub context: Context,
    /// Asks for facts outside any group.
    pub observer: Observer,
    /// The repartition topic's identity at the start. Another one later is found by recovery.
    pub log_topic: TopicId,
    observed: RwLock<Option<Arc<Observed>>>,
    owned: Mutex<Vec<(u16, Vec<i32>)>>,
    /// The scan threads that the group has given an assignment, be it an empty one.
    joined: Mutex<BTreeSet<u16>>,
    /// The consumers that are to leave their group and to join it anew.
    rejoining: Mutex<BTreeSet<String>>,
    ending: AtomicBool,
    halted: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Shared {
    /// What the observer has seen last; None before its first look.
    pub fn observed(&self) -> Option<Arc<Observed>> {
        self.observed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes what the observer has seen.
    pub fn publish(&self, observed: Observed) {
        *self.observed.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(observed));
    }

    /// Notes which input partitions a scan thread owns.
    pub fn set_owned(&self, thread: u16, partitions: Vec<i32>) {
        let mut owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner);
        owned.retain(|(other, _)| *other != thread);
        owned.push((thread, partitions));
    }

    /// The input partitions that this worker owns.
    pub fn owned(&self) -> Vec<i32> {
        let owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner);
        owned.iter().flat_map(|(_, partitions)| partitions.iter().copied()).collect()
    }

    /// Notes that a scan thread has got an assignment.
    pub fn set_joined(&self, thread: u16) {
        self.joined.lock().unwrap_or_else(PoisonError::into_inner).insert(thread);
    }

    /// Whether all scan threads have joined their group.
    pub fn has_joined(&self) -> bool {
        let joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        joined.len() == usize::from(self.config().worker.scan_threads)
    }

    /// Asks a consumer to leave its group and to join it anew.
    pub fn ask_to_rejoin(&self, member: String) {
        self.rejoining.lock().unwrap_or_else(PoisonError::into_inner).insert(member);
    }

    /// Whether that was asked of a consumer since the last time that it looked.
    pub fn must_rejoin(&self, member: &str) -> bool {
        self.rejoining.lock().unwrap_or_else(PoisonError::into_inner).remove(member)
    }

    /// Asks all loops to finish what they have begun and to leave.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Release);
    }

    /// Whether the loops should leave.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Whether a loss has halted the worker.
    pub fn is_halted(&self) -> bool {
        self.halted.load(Ordering::Acquire)
    }

    /// Ends all loops and the process: a client is beyond help, and a new process will make a new one.
    pub fn fail(&self, reason: String) {
        tracing::error!("{reason}");
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        self.end();
    }

    /// Ends all loops because going on would lose or double; the process stays and says so.
    pub fn halt(&self, topic: &str, partition: i32, message: String) {
        tracing::error!(topic, partition, "stopped, nothing was changed: {message}");
        self.note_loss(topic, partition, message, 0);
        self.context.admin.metrics().set_halted();
        self.halted.store(true, Ordering::Release);
        self.end();
    }

    /// Shows a loss that the worker goes on after.
    pub fn note_loss(&self, topic: &str, partition: i32, message: String, records: u64) {
        self.context.admin.metrics().add_data_loss(records);
        self.context.admin.update_status(|status| {
            status.totals.data_loss += records;
            let known = status.data_loss.iter_mut().find(|l| l.topic == topic && l.partition == partition);
            let observed_at_ms = now_ms();
            match known {
                Some(loss) => {
                    loss.records += records;
                    (loss.message, loss.observed_at_ms) = (message, observed_at_ms);
                }
                None => status.data_loss.push(DataLoss {
                    topic: topic.to_owned(),
                    partition,
                    message,
                    records,
                    observed_at_ms,
                }),
            }
        });
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.context.config
    }
}

/// The wall clock.
pub fn now() -> Timestamp {
    Timestamp::from_millis(now_ms())
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// What the scanner must know of the configuration.
pub fn scan_params(config: &Config) -> scan::Params {
    scan::Params {
        shards: config.repartition.partitions,
        max_future_skew_ms: millis(config.window.max_future_skew),
        idle_timeout_ms: millis(config.window.idle_timeout),
        max_drift_ms: millis(config.window.max_drift),
        flush_interval_ms: millis(config.worker.flush_interval),
    }
}

/// What the state machine of a shard must know of the configuration.
pub fn aggregate_params(config: &Config) -> aggregate::Params {
    aggregate::Params {
        window_ms: millis(config.window.size),
        allowed_lateness_ms: millis(config.window.allowed_lateness),
        max_out_of_orderness_ms: millis(config.window.max_out_of_orderness),
        count_greater_than: config.count_greater_than,
        mode: match config.output.mode {
            OutputMode::Updates => Mode::Updates,
            OutputMode::Final => Mode::Final,
        },
    }
}

/// When to commit and to take snapshots.
pub fn cadence(config: &Config) -> Cadence {
    let snapshots = config.checkpoint.as_ref().map_or(Duration::MAX, |checkpoint| checkpoint.interval);
    Cadence {
        commit_interval_ms: millis(config.worker.commit_interval),
        snapshot_interval_ms: millis(snapshots),
        // Scanners that alignment holds go on when the committed watermark moves: four steps within what they may lead.
        commit_drift_ms: (millis(config.window.max_drift) / 4).max(1),
    }
}

/// Runs all loops until a signal or a loss ends them, then leaves.
pub fn run(context: Context, signals: &Signals) -> Result<(), Error> {
    let shared = Arc::new(prepare(context)?);
    let ended = end_on_signal(signals, &shared);
    let (keeper, keeping) = keeper::start(&shared)?;
    let mut loops = vec![spawn("observe", &shared, observe::run)?];
    for number in 0..shared.config().worker.scan_threads {
        loops.push(spawn(&format!("scan-{number}"), &shared, move |shared| scan_loop::run(shared, number))?);
    }
    loops.push(spawn("aggregate", &shared, move |shared| aggregate_loop::run(shared, keeper))?);
    let mut outcome = Ok(());
    for handle in loops {
        outcome = outcome.and(join(handle));
    }
    outcome = outcome.and(join(keeping));
    if let Some(reason) = shared.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
        outcome = outcome.and(Err(Error::Runtime(reason)));
    }
    if shared.is_halted() {
        // The reason stays readable until somebody ends the process.
        ended.recv().unwrap_or_default();
    }
    outcome
}

fn prepare(context: Context) -> Result<Shared, Error> {
    let observer = context.clients.observer(context.config.aggregate_group())?;
    let topic = context.config.repartition_topic().as_str();
    let facts = observer.describe_topic(topic, REQUEST_TIMEOUT);
    let facts = facts.map_err(|error| Error::Runtime(format!("Kafka: {error}")))?;
    let facts = facts.ok_or_else(|| Error::Runtime(format!("topic {topic} was deleted during the start")))?;
    Ok(Shared {
        observer,
        log_topic: TopicId(facts.topic_id),
        observed: RwLock::new(None),
        owned: Mutex::new(Vec::new()),
        joined: Mutex::new(BTreeSet::new()),
        rejoining: Mutex::new(BTreeSet::new()),
        ending: AtomicBool::new(false),
        halted: AtomicBool::new(false),
        failure: Mutex::new(None),
        context,
    })
}

/// Has a signal end the loops; the channel tells when that was.
fn end_on_signal(signals: &Signals, shared: &Arc<Shared>) -> Receiver<()> {
    let (sender, ended) = mpsc::channel();
    let shared = Arc::clone(shared);
    signals.then(move || {
        shared.end();
        // Nobody listens unless the worker was halted.
        let _ = sender.send(());
    });
    ended
}

/// Runs a loop in a thread; if it fails, the others end too.
pub fn spawn(
    name: &str,
    shared: &Arc<Shared>,
    body: impl FnOnce(&Shared) -> Result<(), Error> + Send + 'static,
) -> Result<JoinHandle<Result<(), Error>>, Error> {
    let shared = Arc::clone(shared);
    let failed = format!("thread {name}");
    let body = move || {
        let guard = EndOnDrop(&shared);
        let outcome = body(&shared);
        if outcome.is_ok() {
            std::mem::forget(guard);
        }
        outcome
    };
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(body);
    spawned.map_err(|error| Error::Runtime(format!("{failed}: {error}")))
}

/// Ends all loops when one fails or panics, so that the process is started again as a whole.
struct EndOnDrop<'a>(&'a Shared);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn join(handle: JoinHandle<Result<(), Error>>) -> Result<(), Error> {
    handle.join().unwrap_or_else(|_| Err(Error::Runtime("a loop panicked; see the log above".to_owned())))
}

/// Brings Kafka's reachability into a status.
pub fn show_health(status: &mut Status, health: &Health) {
    let reachability = health.get();
    status.kafka.reachable = reachability == Reachability::Reachable;
    status.kafka.error = match reachability {
        Reachability::Failing { cause, text } => Some(format!("{cause}: {text}")),
        Reachability::Reachable | Reachability::Unknown => None,
    };
}
