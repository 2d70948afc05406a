//! Clients of Kafka, each with the settings that its role needs.
//!
//! Responsible for every librdkafka setting, for TLS and SASL with the secret read as the client is built, and for
//! bringing librdkafka's log lines and errors to `tracing`. Must never log or keep a secret: it passes from file or
//! environment into librdkafka and nowhere else.
//!
//! # Why the settings are as they are
//!
//! - `auto.offset.reset=error`: an offset that is not there is reported, never replaced.
//! - `isolation.level=read_committed` on both consumers: aborted records don't count, and the committed offset that a
//!   consumer reads back is a stable one.
//! - `fetch.queue.backoff.ms` is 1 s by default, for which a full queue stops the fetcher.
//! - `retry.backoff.ms=5` on producers: a transaction otherwise waits 100 ms for the markers of the one before it.
//! - `transaction.timeout.ms=15000`: an orphaned transaction blocks readers of the output for no longer.
//! - `metadata.max.age.ms` is short on clients that ask about topics which may just have been created: librdkafka's
//!   cache gives up its entries in the order in which they came, so that "no such topic" behind an older entry stays
//!   as long as that one (`rkmc_expiry` in rdkafka_metadata_cache.c), 15 minutes by default.
//! - Queues are bounded in bytes, so that a catch-up needs no more memory than a steady state.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, ProducerContext};

use crashmonitor_core::config::{Authentication, Config, GroupName, Kafka, KafkaTls, Mechanism, TopicName};

use super::group::{GroupConsumer, GroupContext};
use super::log::LogReader;
use super::topics::{Admin, Observer, ObserverContext};
use super::{Cause, Health};
use crate::fetch::settings::{Settings, Unsupported};
use crate::secret;

/// How long clients that ask about topics believe what they have heard of them.
const METADATA_AGE_MS: &str = "2000";

/// Why a client can't be built. All of these are mistakes in the configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The password can't be read.
    #[error(transparent)]
    Secret(#[from] secret::Error),
    /// A certificate or key can't be read.
    #[error("{path}: the file {file} can't be read: {source}", file = .file.display())]
    File {
        /// The configuration key.
        path: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// librdkafka does not accept a setting.
    #[error("kafka.config.{key}: {reason}")]
    Setting {
        /// librdkafka's name of it.
        key: String,
        /// Why.
        reason: String,
    },
    /// librdkafka does not accept the settings taken together.
    #[error("kafka: the client can't be built: {0}")]
    Create(KafkaError),
}

/// Passes what librdkafka says to `tracing` and to the shared [`Health`].
pub struct Reporter {
    role: &'static str,
    health: Health,
}

impl Reporter {
    fn new(role: &'static str, health: &Health) -> Reporter {
        Reporter { role, health: health.clone() }
    }

    /// Receives a log line of librdkafka.
    pub fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        let role = self.role;
        match level {
            // Settings of producers are given to consumers too, when a person has set them: not worth a warning.
            _ if facility == "CONFWARN" => tracing::debug!(target: "librdkafka", role, facility, "{line}"),
            // A lost connection comes as an error too, which is told when it is new.
            _ if facility == "FAIL" => tracing::debug!(target: "librdkafka", role, facility, "{line}"),
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error => tracing::error!(target: "librdkafka", role, facility, "{line}"),
            RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", role, facility, "{line}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", role, facility, "{line}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", role, facility, "{line}"),
        }
    }

    /// Receives an error that belongs to no single request. One that says why Kafka can't be reached is a warning
    /// when it is new; librdkafka repeats it with every attempt.
    pub fn error(&self, error: &KafkaError, reason: &str) {
        let role = self.role;
        // What follows is timing, different each time.
        let reason = reason.split(" (after ").next().unwrap_or(reason);
        match error.rdkafka_error_code().and_then(Cause::of) {
            Some(cause) if !self.health.failed(cause, reason) => {
                tracing::debug!(target: "librdkafka", role, "{error}: {reason}");
            }
            _ => tracing::warn!(target: "librdkafka", role, "{error}: {reason}"),
        }
    }
}

/// What became of one record that a producer was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The number that the record was sent with.
    pub token: usize,
    /// The topic's partition that it was sent to.
    pub partition: i32,
    /// Its offset, or why it is not known to have arrived.
    pub outcome: Result<i64, RDKafkaErrorCode>,
}

/// Keeps delivery reports until the loop asks for them. They come in during `poll` and `flush`, on the caller's
/// thread.
pub struct ProducerEvents {
    reporter: Reporter,
    deliveries: Mutex<VecDeque<Delivery>>,
    has_lost_connection: AtomicBool,
}

impl ProducerEvents {
    /// Takes the reports that have come in, oldest first. The queue is bounded by what was sent.
    pub fn take_deliveries(&self) -> VecDeque<Delivery> {
        std::mem::take(&mut *self.deliveries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a connection was lost, as far as events were served. A request that was on it may still arrive, behind others
    /// that were sent later.
    pub fn has_lost_connection(&self) -> bool {
        self.has_lost_connection.load(Ordering::Relaxed)
    }
}

impl ClientContext for ProducerEvents {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        // There was nothing on one that could not be made.
        if facility == "FAIL" && !line.contains(": Connect to ") {
            self.has_lost_connection.store(true, Ordering::Relaxed);
        }
        self.reporter.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.reporter.error(&error, reason);
    }
}

impl ProducerContext for ProducerEvents {
    /// The number that comes back in [`Delivery::token`].
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, token: usize) {
        let (message, outcome) = match result {
            Ok(message) => (message, Ok(message.offset())),
            Err((error, message)) => {
                (message, Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)))
            }
        };
        let delivery = Delivery { token, partition: message.partition(), outcome };
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner).push_back(delivery);
    }
}

/// A producer of either kind. `rdkafka::producer::Producer` has the transactional calls; `poll(Duration::ZERO)` serves
/// delivery reports, `context().take_deliveries()` returns them.
pub type Producer = BaseProducer<ProducerEvents>;

/// How long one look for acknowledgements waits. Not 1 ms: rdkafka rounds what is left of it down to 0, and spins.
pub const POLL_STEP: Duration = Duration::from_millis(2);

/// Hands a record to the producer; waits at most `timeout` while its queue is full.
pub fn send(
    producer: &Producer,
    mut record: BaseRecord<'_, [u8], [u8], usize>,
    timeout: Duration,
) -> Result<(), KafkaError> {
    let deadline = Instant::now() + timeout;
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned))
                if Instant::now() < deadline =>
            {
                record = returned;
                producer.poll(Duration::from_millis(5));
            }
            Err((error, _)) => return Err(error),
        }
    }
}

/// Builds clients for one monitor in one pod.
#[derive(Clone)]
pub struct Clients {
    kafka: Kafka,
    instance: String,
    scan_group: GroupName,
    aggregate_group: GroupName,
    input_topic: TopicName,
    repartition_topic: TopicName,
    transactional_id: String,
    session_timeout: Duration,
    health: Health,
}

impl Clients {
    /// Keeps what the clients need. `instance` is the pod's name; nothing is read or connected here.
    pub fn new(config: &Config, instance: &str, health: &Health) -> Clients {
        Clients {
            kafka: config.kafka.clone(),
            instance: instance.to_string(),
            scan_group: config.scan_group().clone(),
            aggregate_group: config.aggregate_group().clone(),
            input_topic: config.input.topic.clone(),
            repartition_topic: config.repartition_topic().clone(),
            transactional_id: config.transactional_id(instance),
            session_timeout: config.worker.session_timeout,
            health: health.clone(),
        }
    }

    /// Reads all files and secrets and has librdkafka check all settings, without connecting.
    pub fn check(&self) -> Result<(), Error> {
        let roles = [
            self.consumer("scan", &self.scan_group)?,
            self.producer("scan-producer")?,
            self.observer_config(&self.aggregate_group)?,
        ];
        for config in roles {
            config.create_native_config().map_err(|e| refused(e, &self.kafka))?;
        }
        Ok(())
    }

    /// The connection's state that all clients built here report to.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// A consumer of the input, one for each scan thread. It has not subscribed yet.
    pub fn scan_consumer(&self, thread: u16) -> Result<GroupConsumer, Error> {
        let mut config = self.consumer("scan", &self.scan_group)?;
        config.set("client.id", self.scan_member(thread));
        config.set("group.instance.id", self.scan_member(thread));
        // New input partitions must be seen before they run late.
        config.set("topic.metadata.refresh.interval.ms", "5000");
        let context = GroupContext::new(Reporter::new("scan", &self.health));
        Ok(GroupConsumer::new(self.create(&config, context)?, &self.input_topic))
    }

    /// What a scan thread's consumer is called in its group.
    pub fn scan_member(&self, thread: u16) -> String {
        format!("{}-scan-{thread}", self.instance)
    }

    /// What the aggregate loop's consumer is called in its group.
    pub fn aggregate_member(&self) -> String {
        format!("{}-aggregate", self.instance)
    }

    /// How the input is read directly by scan thread `thread`.
    pub fn fetch_settings(&self, thread: u16) -> Result<Settings, Unsupported> {
        let client_id = format!("{}-fetch-{thread}", self.instance);
        Settings::new(&self.kafka, client_id, self.input_topic.as_str())
    }

    /// The consumer of the repartition topic. It has not subscribed yet.
    pub fn aggregate_consumer(&self) -> Result<GroupConsumer, Error> {
        let mut config = self.consumer("aggregate", &self.aggregate_group)?;
        config.set("client.id", self.aggregate_member());
        config.set("group.instance.id", self.aggregate_member());
        let context = GroupContext::new(Reporter::new("aggregate", &self.health));
        Ok(GroupConsumer::new(self.create(&config, context)?, &self.repartition_topic))
    }

    /// The idempotent producer of frames and dead letters.
    pub fn idempotent_producer(&self) -> Result<Producer, Error> {
        let config = self.producer("scan-producer")?;
        self.create(&config, self.producer_events("scan-producer"))
    }

    /// The producer of results, late records and offsets. `init_transactions` has not been called yet.
    pub fn transactional_producer(&self) -> Result<Producer, Error> {
        let mut config = self.producer("aggregate-producer")?;
        config.set("transactional.id", &self.transactional_id);
        config.set("transaction.timeout.ms", "15000");
        // How a lost connection is noticed; see `Transactions::may_have_late_requests`.
        config.set("log.connection.close", "true");
        self.create(&config, self.producer_events("aggregate-producer"))
    }

    /// A client for topics and their settings.
    pub fn admin(&self) -> Result<Admin, Error> {
        let mut config = self.base("admin")?;
        // Nothing serves this client's log queue; whatever fails here fails for the observer too, which reports it.
        config.set_log_level(RDKafkaLogLevel::Emerg);
        config.set("log_level", "0");
        config.set("metadata.max.age.ms", METADATA_AGE_MS);
        let client: AdminClient<_> = self.create(&config, rdkafka::client::DefaultClientContext)?;
        Ok(Admin::new(client))
    }

    /// A client that asks for metadata, watermarks and a group's committed offsets. It never subscribes, so that the
    /// group does not notice it, and reads uncommitted, so that its end of a partition is the high watermark.
    pub fn observer(&self, group: &GroupName) -> Result<Observer, Error> {
        let context = ObserverContext::new(Reporter::new("observer", &self.health));
        Ok(Observer::new(self.create(&self.observer_config(group)?, context)?, &self.health))
    }

    /// A reader of whole topics, for a person.
    pub fn log_reader(&self) -> Result<LogReader, Error> {
        let mut config = self.base("reader")?;
        config.set("fetch.queue.backoff.ms", "1");
        config.set("queued.max.messages.kbytes", "32768");
        self.with_persons_settings(&mut config);
        // librdkafka wants the name of a group; nobody hears of it.
        config.set("group.id", &self.instance);
        config.set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "error");
        config.set("isolation.level", "read_committed");
        config.set("enable.partition.eof", "true");
        config.set("allow.auto.create.topics", "false");
        let context = ObserverContext::new(Reporter::new("reader", &self.health));
        Ok(LogReader::new(self.create(&config, context)?))
    }

    fn producer_events(&self, role: &'static str) -> ProducerEvents {
        ProducerEvents {
            reporter: Reporter::new(role, &self.health),
            deliveries: Mutex::default(),
            has_lost_connection: AtomicBool::new(false),
        }
    }

    fn create<T, C>(&self, config: &ClientConfig, context: C) -> Result<T, Error>
    where
        C: ClientContext,
        T: FromClientConfigAndContext<C>,
    {
        config.create_with_context(context).map_err(|e| refused(e, &self.kafka))
    }

    fn base(&self, role: &str) -> Result<ClientConfig, Error> {
        let mut config = ClientConfig::new();
        // Otherwise `kafka.config.debug` would be in vain, whatever `RUST_LOG` says.
        let is_talkative = tracing::enabled!(target: "librdkafka", tracing::Level::DEBUG);
        config.set_log_level(if is_talkative { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Info });
        config.set("bootstrap.servers", &self.kafka.bootstrap_servers);
        config.set("client.id", format!("{}-{role}", self.instance));
        config.set("reconnect.backoff.max.ms", "1000");
        config.set("socket.connection.setup.timeout.ms", "5000");
        config.set("socket.keepalive.enable", "true");
        config.set("socket.nagle.disable", "true");
        config.set("log.connection.close", "false");
        security(&mut config, &self.kafka)?;
        Ok(config)
    }

    /// What a person has set comes after what may be changed and before what may not.
    fn with_persons_settings(&self, config: &mut ClientConfig) {
        for (key, value) in &self.kafka.settings {
            config.set(key, value);
        }
    }

    fn consumer(&self, role: &str, group: &GroupName) -> Result<ClientConfig, Error> {
        let mut config = self.base(role)?;
        config.set("fetch.queue.backoff.ms", "1");
        config.set("fetch.wait.max.ms", "100");
        config.set("queued.min.messages", "100000");
        config.set("queued.max.messages.kbytes", "32768");
        config.set("fetch.message.max.bytes", "2097152");
        config.set("check.crcs", "true");
        self.with_persons_settings(&mut config);
        let session_ms = self.session_timeout.as_millis();
        config.set("group.id", group.as_str());
        config.set("partition.assignment.strategy", "cooperative-sticky");
        config.set("session.timeout.ms", session_ms.to_string());
        config.set("heartbeat.interval.ms", (session_ms / 4).clamp(200, 3000).to_string());
        config.set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "error");
        config.set("isolation.level", "read_committed");
        config.set("enable.partition.eof", "true");
        config.set("allow.auto.create.topics", "false");
        Ok(config)
    }

    fn producer(&self, role: &str) -> Result<ClientConfig, Error> {
        let mut config = self.base(role)?;
        config.set("retry.backoff.ms", "5");
        config.set("linger.ms", "1");
        config.set("compression.type", "lz4");
        config.set("queue.buffering.max.kbytes", "65536");
        self.with_persons_settings(&mut config);
        config.set("acks", "all");
        config.set("enable.idempotence", "true");
        Ok(config)
    }

    fn observer_config(&self, group: &GroupName) -> Result<ClientConfig, Error> {
        let mut config = self.base("observer")?;
        config.set("metadata.max.age.ms", METADATA_AGE_MS);
        self.with_persons_settings(&mut config);
        config.set("group.id", group.as_str());
        config.set("enable.auto.commit", "false");
        config.set("isolation.level", "read_uncommitted");
        config.set("allow.auto.create.topics", "false");
        Ok(config)
    }
}

/// Says which key librdkafka refused, if it was one that a person has set.
fn refused(error: KafkaError, kafka: &Kafka) -> Error {
    match error {
        KafkaError::ClientConfig(_, reason, key, _) if kafka.settings.contains_key(&key) => {
            Error::Setting { key, reason }
        }
        other => Error::Create(other),
    }
}

fn security(config: &mut ClientConfig, kafka: &Kafka) -> Result<(), Error> {
    config.set(
        "security.protocol",
        match (&kafka.tls, &kafka.authentication) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        },
    );
    if let Some(tls) = &kafka.tls {
        encryption(config, tls)?;
    }
    if let Some(Authentication { mechanism, username, password }) = &kafka.authentication {
        config.set(
            "sasl.mechanism",
            match mechanism {
                Mechanism::Plain => "PLAIN",
                Mechanism::ScramSha256 => "SCRAM-SHA-256",
                Mechanism::ScramSha512 => "SCRAM-SHA-512",
            },
        );
        config.set("sasl.username", username);
        config.set("sasl.password", secret::read("kafka.authentication", password)?);
    }
    Ok(())
}

fn encryption(config: &mut ClientConfig, tls: &KafkaTls) -> Result<(), Error> {
    if tls.ca_files.is_empty() {
        // librdkafka looks in the places where distributions keep their certificates.
        config.set("ssl.ca.location", "probe");
    } else {
        let mut pem = String::new();
        for file in &tls.ca_files {
            pem.push_str(&read_file("kafka.tls.caFiles", file)?);
            pem.push('\n');
        }
        config.set("ssl.ca.pem", pem);
    }
    if let Some(client) = &tls.client {
        config.set("ssl.certificate.pem", read_file("kafka.tls.certificateFile", &client.certificate_file)?);
        config.set("ssl.key.pem", read_file("kafka.tls.keyFile", &client.key_file)?);
    }
    config.set("ssl.endpoint.identification.algorithm", "https");
    Ok(())
}

fn read_file(path: &'static str, file: &Path) -> Result<String, Error> {
    fs::read_to_string(file).map_err(|source| Error::File { path, file: file.to_path_buf(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(kafka: &str) -> Clients {
        let yaml = format!(
            "monitor: {{namespace: d, name: c, uid: u}}\nkafka: {{bootstrapServers: 'k:1', {kafka}}}\ninput: {{topic: logs}}"
        );
        Clients::new(&Config::parse(&yaml).unwrap(), "c-0", &Health::new())
    }

    #[test]
    fn every_setting_of_ours_is_known_to_librdkafka() {
        clients("").check().unwrap();
    }

    #[test]
    fn consumers_and_producers_are_accepted_as_a_whole() {
        let clients = clients("");
        clients.scan_consumer(0).unwrap();
        clients.aggregate_consumer().unwrap();
        clients.idempotent_producer().unwrap();
        clients.transactional_producer().unwrap();
        clients.observer(&clients.scan_group).unwrap();
        clients.admin().unwrap();
        clients.log_reader().unwrap();
    }

    #[test]
    fn a_setting_that_librdkafka_does_not_know_is_named() {
        let error = clients("config: {no.such.setting: 1}").check().unwrap_err().to_string();
        assert_eq!(
            error,
            "kafka.config.no.such.setting: No such configuration property: \"no.such.setting\""
        );
        let error = clients("config: {queued.min.messages: many}").check().unwrap_err().to_string();
        assert_eq!(
            error,
            "kafka.config.queued.min.messages: Invalid value for configuration property \"queued.min.messages\""
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = clients("tls: {caFiles: [/no/such/ca.pem]}").check().unwrap_err().to_string();
        assert_eq!(
            error,
            "kafka.tls.caFiles: the file /no/such/ca.pem can't be read: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn the_password_is_not_in_the_debug_text() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        fs::write(&file, "geheim").unwrap();
        let authentication =
            format!("authentication: {{type: plain, username: u, passwordFile: '{}'}}", file.display());
        let config = clients(&authentication).base("scan").unwrap();
        assert_eq!(config.get("sasl.password"), Some("geheim"));
        assert!(!format!("{config:?}").contains("geheim"));
    }
}
