//! What the direct path needs of the configuration, and whether it can do what is asked for.
//!
//! Responsible for naming each setting that only librdkafka knows how to follow. Must never hold a secret: the password
//! and the keys are read anew for each connection, so that rotated ones are found.

use crashmonitor_core::config::{Authentication, Kafka, KafkaTls};

/// Settings that say how the direct path fetches.
const FOLLOWED: [&str; 7] = [
    "client.rack",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.wait.max.ms",
    "max.partition.fetch.bytes",
    "queued.max.messages.kbytes",
];

/// Settings, or with a dot or star families of them, that change nothing for a reader of its own: those of producers
/// and groups, of librdkafka's queues and log, and what the direct path does anyway.
const WITHOUT_MEANING: [&str; 33] = [
    "acks",
    "batch.*",
    "check.crcs",
    "compression.*",
    "coordinator.*",
    "debug",
    "delivery.*",
    "enable.metrics.push",
    "enable.random.seed",
    "fetch.error.backoff.ms",
    "fetch.queue.backoff.ms",
    "heartbeat.interval.ms",
    "linger.ms",
    "log*",
    "max.in.flight*",
    "max.poll.interval.ms",
    "message.*",
    "metadata.max.age.ms",
    "partitioner",
    "queue.buffering.*",
    "queued.min.messages",
    "reconnect.backoff*",
    "request.timeout.ms",
    "retries",
    "retry.backoff*",
    "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable",
    "socket.nagle.disable",
    "socket.timeout.ms",
    "statistics.interval.ms",
    "sticky.partitioning.linger.ms",
    "topic.metadata.*",
    "allow.auto.create.topics",
];

/// Why the direct path can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unsupported(pub String);

/// How much is fetched at once, and how long a broker may wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest that a broker keeps a request while there is nothing to read, in milliseconds.
    pub wait_ms: i32,
    /// What a broker waits for.
    pub min_bytes: i32,
    /// Of one partition in one response. A larger batch comes all the same.
    pub partition_bytes_max: i32,
    /// Of all partitions in one response.
    pub response_bytes_max: i32,
    /// Fetched and not read yet, over all brokers.
    pub buffered_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            wait_ms: 100,
            min_bytes: 1,
            partition_bytes_max: 1 << 20,
            response_bytes_max: 4 << 20,
            buffered_bytes_max: 16 << 20,
        }
    }
}

/// All that a reader of one topic needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host:port`, one of which has to answer.
    pub bootstrap: Vec<String>,
    /// What brokers call us in their logs and quotas.
    pub client_id: String,
    /// The topic.
    pub topic: String,
    /// Where we are, so that a broker can name a replica nearby; empty: nowhere.
    pub rack: String,
    /// Encryption.
    pub tls: Option<KafkaTls>,
    /// Who we are.
    pub authentication: Option<Authentication>,
    /// How much at once.
    pub limits: Limits,
}

impl Settings {
    /// From the configuration. A setting in `kafka.config` that only librdkafka can follow is [`Unsupported`].
    pub fn new(kafka: &Kafka, client_id: String, topic: &str) -> Result<Settings, Unsupported> {
        let is_known =
            |key: &str| FOLLOWED.contains(&key) || WITHOUT_MEANING.iter().any(|name| matches(name, key));
        if let Some(key) = kafka.settings.keys().find(|key| !is_known(key)) {
            return Err(Unsupported(format!(
                "kafka.config.{key} is a setting of librdkafka's own connections"
            )));
        }
        let text = |key: &str| kafka.settings.get(key).cloned().unwrap_or_default();
        Ok(Settings {
            bootstrap: kafka.bootstrap_servers.split(',').map(str::to_owned).collect(),
            client_id,
            topic: topic.to_owned(),
            rack: text("client.rack"),
            tls: kafka.tls.clone(),
            authentication: kafka.authentication.clone(),
            limits: limits(kafka),
        })
    }
}

/// librdkafka has checked that these are numbers in range.
fn limits(kafka: &Kafka) -> Limits {
    let number = |key: &str| kafka.settings.get(key).and_then(|value| value.parse::<i32>().ok());
    let default = Limits::default();
    let partition = number("max.partition.fetch.bytes").or_else(|| number("fetch.message.max.bytes"));
    let buffered = number("queued.max.messages.kbytes").and_then(|kib| usize::try_from(kib).ok());
    Limits {
        wait_ms: number("fetch.wait.max.ms").unwrap_or(default.wait_ms),
        min_bytes: number("fetch.min.bytes").unwrap_or(default.min_bytes),
        partition_bytes_max: partition.unwrap_or(default.partition_bytes_max),
        response_bytes_max: number("fetch.max.bytes").unwrap_or(default.response_bytes_max),
        buffered_bytes_max: buffered.map_or(default.buffered_bytes_max, |kib| kib << 10),
    }
}

fn matches(name: &str, key: &str) -> bool {
    name.strip_suffix('*').map_or(name == key, |family| key.starts_with(family))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crashmonitor_core::config::Config;

    fn settings(kafka: &str) -> Result<Settings, Unsupported> {
        let yaml = format!(
            "monitor: {{namespace: d, name: c, uid: u}}\nkafka: {{bootstrapServers: 'a:1,b:2', {kafka}}}\ninput: {{topic: logs}}"
        );
        Settings::new(&Config::parse(&yaml).unwrap().kafka, "c-0".to_owned(), "logs")
    }

    #[test]
    fn what_is_set_is_followed() {
        let settings =
            settings("config: {client.rack: r1, fetch.max.bytes: 77, fetch.wait.max.ms: 5, linger.ms: 9}");
        let settings = settings.unwrap();
        assert_eq!(settings.bootstrap, ["a:1", "b:2"]);
        assert_eq!(settings.rack, "r1");
        assert_eq!(settings.limits, Limits { response_bytes_max: 77, wait_ms: 5, ..Limits::default() });
    }

    #[test]
    fn a_setting_that_only_librdkafka_knows_is_named() {
        let reason = settings("config: {broker.address.family: v6, linger.ms: 9}").unwrap_err().to_string();
        assert_eq!(reason, "kafka.config.broker.address.family is a setting of librdkafka's own connections");
    }
}
