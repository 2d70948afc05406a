//! From a checked configuration to running loops, and back.
//!
//! Responsible for the order of the start, and for waiting with a clear word for what can heal: a broker that does
//! not answer, a password that is refused, a topic that is not there yet. Must never read a record itself.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crashmonitor_core::config::Config;
use crashmonitor_core::status::Status;

use crate::admin::{Admin, Heartbeat};
use crate::driver;
use crate::failpoint;
use crate::kafka::client::{self, Clients};
use crate::kafka::topics::{self, Ensured, TopicSpec};
use crate::kafka::{self, Cause, Health, Reachability};
use crate::redis_store::{self, SnapshotStore};
use crate::signals::Signals;

/// The longest wait for an answer while starting.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The first and the longest pause between two attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// How long the log stays silent about what is still waited for.
const REMINDER: Duration = Duration::from_secs(60);
/// The start must show a sign of life this often: one attempt takes up to four requests and a pause.
const START_BOUND: Duration = Duration::from_secs(60);

/// Why the worker does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration can't be used; waiting does not help.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// The same, for the checkpoint store.
    #[error(transparent)]
    Store(#[from] redis_store::Error),
    /// A topic is there and has settings that would lose or double results.
    #[error(
        "topic {topic} has wrong settings: {mismatches}; correct them, or delete the topic to have it made again"
    )]
    Topic {
        /// The topic.
        topic: String,
        /// Each setting.
        mismatches: String,
    },
    /// The admin endpoints can't be served.
    #[error("worker.adminListen: {address}: {source}")]
    Admin {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The system gives no thread, or the loops ended with an error.
    #[error("{0}")]
    Runtime(String),
}

impl Error {
    /// Whether a person must change the configuration before it makes sense to start again.
    pub fn is_configuration(&self) -> bool {
        !matches!(self, Error::Runtime(_))
    }
}

/// What every loop needs.
pub struct Context {
    /// The configuration.
    pub config: Config,
    /// The pod's name.
    pub instance: String,
    /// Builds clients of Kafka.
    pub clients: Clients,
    /// Where snapshots are kept; `None`: they are not.
    pub store: Option<SnapshotStore>,
    /// Health, status and metrics.
    pub admin: Admin,
}

/// Reads all files and secrets that the configuration names, without connecting to anything.
pub fn check(config: &Config) -> Result<(), Error> {
    Clients::new(config, "check", &Health::new()).check()?;
    if let Some(store) = SnapshotStore::connect(config) {
        store.check()?;
    }
    Ok(())
}

/// Runs the worker named `instance` until it is told to end.
pub fn run(config: Config, instance: &str) -> Result<(), Error> {
    // While it waits for Kafka, it holds nothing that would have to be finished.
    let signals = Signals::listen(0)?;
    driver::run(start(config, instance)?, &signals)
}

/// Everything up to the point where records can be read: checked, admin endpoints up, topics there.
pub fn start(config: Config, instance: &str) -> Result<Context, Error> {
    check(&config)?;
    let admin = Admin::new();
    admin.update_status(|status| {
        status.pod = instance.to_string();
        status.version = env!("CARGO_PKG_VERSION").to_string();
    });
    let address = config.worker.admin_listen;
    let address = admin.serve(address).map_err(|source| Error::Admin { address, source })?;
    tracing::info!(%address, instance, monitor = config.monitor.name, "started");
    let health = Health::new();
    let clients = Clients::new(&config, instance, &health);
    let heartbeat = admin.register("start", START_BOUND);
    let mut waiting = Waiting::new(&admin, &heartbeat);
    while let Some(reason) = ensure_topics(&config, &clients)? {
        waiting.pause(reason, &health);
    }
    admin.unregister("start");
    set_reason(&admin, &health, "joining the consumer groups");
    let store = SnapshotStore::connect(&config);
    Ok(Context { config, instance: instance.to_string(), clients, store, admin })
}

/// One attempt to see the input topic and to have all others. Returns what has to be waited for, or nothing.
///
/// Clients are built anew each time: a secret may have been changed meanwhile.
fn ensure_topics(config: &Config, clients: &Clients) -> Result<Option<String>, Error> {
    let observer = clients.observer(config.scan_group())?;
    let input = config.input.topic.as_str();
    match observer.describe_topic(input, REQUEST_TIMEOUT) {
        Ok(Some(_)) => {}
        Ok(None) => {
            return Ok(Some(format!("input.topic: there is no topic {input}; waiting for it to be created")));
        }
        Err(error) => return Ok(Some(failed(clients.health(), &error))),
    }
    let admin = clients.admin()?;
    let mut created = None;
    for spec in TopicSpec::all(config) {
        match ensure_topic(&admin, &spec, clients.health())? {
            Topic::Fits => {}
            Topic::Created => {
                created = Some(format!("topic {} was created; waiting until it is known", spec.name))
            }
            Topic::Wait(reason) => return Ok(Some(reason)),
        }
    }
    // A broker that has not heard of a new topic yet would say that it is absent: one more round.
    Ok(created)
}

/// What is to be done about a topic.
enum Topic {
    Fits,
    Created,
    Wait(String),
}

fn ensure_topic(admin: &topics::Admin, spec: &TopicSpec, health: &Health) -> Result<Topic, Error> {
    match admin.ensure_topic(spec, REQUEST_TIMEOUT) {
        Ok(Ensured::Fits) => Ok(Topic::Fits),
        Ok(Ensured::Created) => {
            tracing::info!(topic = spec.name, partitions = spec.partitions, "topic created");
            Ok(Topic::Created)
        }
        Ok(Ensured::Differs(mismatches)) => {
            let each =
                mismatches.iter().map(|m| format!("{} is {}, must be {}", m.setting, m.found, m.expected));
            let mismatches = each.collect::<Vec<_>>().join(", ");
            Err(Error::Topic { topic: spec.name.clone(), mismatches })
        }
        // Brokers come and go: not a reason to give up.
        Ok(Ensured::TooFewBrokers(reason)) => Ok(Topic::Wait(reason)),
        Err(error) => Ok(Topic::Wait(failed(health, &error))),
    }
}

/// What a person should read of a failed request: the connection's state where that explains it.
pub fn failed(health: &Health, error: &kafka::Error) -> String {
    match health.get() {
        Reachability::Failing { cause: Cause::Authentication, text } => {
            format!("kafka.authentication: user or password refused: {text}")
        }
        Reachability::Failing { cause: Cause::Tls, text } => format!("kafka.tls: {text}"),
        Reachability::Failing { cause: Cause::Unreachable, text } => {
            format!("kafka.bootstrapServers: no broker answers: {text}")
        }
        _ => format!("Kafka: {error}"),
    }
}

/// Waits between attempts, ever longer up to a bound, and says why: each new reason at once, the same one again after
/// [`REMINDER`].
struct Waiting<'a> {
    admin: &'a Admin,
    heartbeat: &'a Heartbeat,
    pause: Duration,
    said: Option<(String, Instant)>,
}

impl<'a> Waiting<'a> {
    fn new(admin: &'a Admin, heartbeat: &'a Heartbeat) -> Waiting<'a> {
        Waiting { admin, heartbeat, pause: BACKOFF.0, said: None }
    }

    fn pause(&mut self, reason: String, health: &Health) {
        set_reason(self.admin, health, &reason);
        let is_said = |(said, at): &(String, Instant)| *said == reason && at.elapsed() < REMINDER;
        if !self.said.as_ref().is_some_and(is_said) {
            tracing::warn!("{reason}; trying again");
            self.said = Some((reason, Instant::now()));
        }
        self.heartbeat.beat();
        thread::sleep(self.pause);
        self.heartbeat.beat();
        self.pause = (self.pause * 2).min(BACKOFF.1);
    }
}

/// Brings readiness and the connection's state into the status.
fn set_reason(admin: &Admin, health: &Health, reason: impl fmt::Display) {
    let reachability = health.get();
    admin.metrics().set_kafka_connected(reachability == Reachability::Reachable);
    admin.update_status(|status: &mut Status| {
        status.ready = false;
        status.not_ready_reason = Some(reason.to_string());
        status.observed_at_ms = now_ms();
        status.kafka.reachable = reachability == Reachability::Reachable;
        status.kafka.error = match reachability {
            Reachability::Failing { cause, text } => Some(format!("{cause}: {text}")),
            Reachability::Reachable | Reachability::Unknown => None,
        };
    });
}

/// The wall clock in milliseconds since the epoch.
pub fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX).saturating_add(failpoint::clock_shift_ms())
}

/// The machine's name, which is a pod's name where no other is given.
pub fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "worker".to_string() } else { name.trim().to_string() }
}
