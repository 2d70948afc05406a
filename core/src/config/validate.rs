//! From what was written to what can be used.
//!
//! Responsible for every check on a configuration's values. Must never let a value through that a later part would
//! have to check again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::raw::DurationText;
use super::{
    Authentication, Checkpoint, ClientCertificate, Config, Error, GroupName, Input, Kafka, KafkaTls, Monitor,
    Output, Redis, Repartition, Rule, Secret, TopicName, Window, Worker, duration, memory, raw,
};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

const STATE_BYTES_MIN: u64 = 1 << 20;
const STATE_BYTES_MAX: u64 = 1 << 40;

/// What the worker sets itself, and the key of ours (if any) by which a person can change it.
pub const OWNED_SETTINGS: [(&str, &str); 22] = [
    ("acks", ""),
    ("auto.offset.reset", "input.startingOffsets"),
    ("bootstrap.servers", "kafka.bootstrapServers"),
    ("client.id", ""),
    ("enable.auto.commit", ""),
    ("enable.auto.offset.store", ""),
    ("enable.gapless.guarantee", ""),
    ("enable.idempotence", ""),
    ("enable.partition.eof", ""),
    ("enable.ssl.certificate.verification", "kafka.tls"),
    ("group.id", "input.consumerGroup"),
    ("group.instance.id", ""),
    ("group.protocol", ""),
    ("group.remote.assignor", ""),
    ("isolation.level", ""),
    ("metadata.broker.list", "kafka.bootstrapServers"),
    ("partition.assignment.strategy", ""),
    ("plugin.library.paths", ""),
    ("request.required.acks", ""),
    ("session.timeout.ms", "worker.sessionTimeout"),
    ("transaction.timeout.ms", ""),
    ("transactional.id", ""),
];

/// Families of settings that the worker sets itself.
pub const OWNED_PREFIXES: [(&str, &str); 3] =
    [("security.", "kafka.tls"), ("sasl.", "kafka.authentication"), ("ssl.", "kafka.tls")];

fn refuse<T>(path: &str, reason: impl Into<String>) -> Result<T, Error> {
    Err(Error::Value { path: path.to_string(), reason: reason.into() })
}

pub(super) fn config(raw: &raw::Config) -> Result<Config, Error> {
    let monitor = monitor(&raw.monitor)?;
    let base = format!("crashmonitor.{}.{}", monitor.namespace, monitor.name);
    let scan_group = group("input.consumerGroup", raw.input.consumer_group.as_deref().unwrap_or(&base))?;
    let aggregate_group = GroupName(format!("{scan_group}-aggregate"));
    let repartition_topic = topic("monitor.name", &format!("{base}.repartition"))?;
    let repartition = repartition(&raw.repartition)?;
    let config = Config {
        kafka: kafka(&raw.kafka)?,
        input: input(&raw.input)?,
        rule: rule(&raw.rule)?,
        window: window(&raw.window)?,
        count_greater_than: u64::try_from(raw.count_greater_than).or_else(|_| {
            refuse("countGreaterThan", format!("must be 0 or more, got {}", raw.count_greater_than))
        })?,
        output: output(&raw.output, &repartition)?,
        checkpoint: raw.checkpoint.as_ref().map(checkpoint).transpose()?,
        worker: worker(&raw.worker)?,
        monitor,
        repartition,
        scan_group,
        aggregate_group,
        repartition_topic,
    };
    topics_differ(&config)?;
    Ok(config)
}

fn monitor(raw: &raw::Monitor) -> Result<Monitor, Error> {
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if raw.namespace.is_empty() || raw.namespace.len() > 63 || !raw.namespace.chars().all(lower) {
        let namespace = &raw.namespace;
        return refuse("monitor.namespace", format!("must be 1 to 63 of a-z, 0-9 and -, got {namespace:?}"));
    }
    if raw.name.is_empty() || !raw.name.chars().all(|c| lower(c) || c == '.') {
        return refuse("monitor.name", format!("must be made of a-z, 0-9, - and ., got {:?}", raw.name));
    }
    if raw.uid.is_empty() || raw.uid.len() > 64 {
        return refuse(
            "monitor.uid",
            "must be 1 to 64 bytes: give the resource's metadata.uid, or any constant",
        );
    }
    Ok(Monitor { namespace: raw.namespace.clone(), name: raw.name.clone(), uid: raw.uid.clone() })
}

fn kafka(raw: &raw::Kafka) -> Result<Kafka, Error> {
    let path = "kafka.bootstrapServers";
    let servers: Vec<&str> = raw.bootstrap_servers.split(',').map(str::trim).collect();
    for server in &servers {
        let port = server.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        if !port.is_some_and(|(host, port)| !host.is_empty() && port > 0) {
            return refuse(
                path,
                format!("must be host:port, comma-separated, got {:?}", raw.bootstrap_servers),
            );
        }
    }
    Ok(Kafka {
        bootstrap_servers: servers.join(","),
        tls: kafka_tls(raw.tls.as_ref())?,
        authentication: raw.authentication.as_ref().map(authentication).transpose()?,
        settings: settings(&raw.config)?,
    })
}

fn kafka_tls(raw: Option<&raw::KafkaTls>) -> Result<Option<KafkaTls>, Error> {
    let Some(raw) = raw.filter(|tls| tls.enabled != Some(false)) else { return Ok(None) };
    let client = match (&raw.certificate_file, &raw.key_file) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some(ClientCertificate {
            certificate_file: file("kafka.tls.certificateFile", certificate)?,
            key_file: file("kafka.tls.keyFile", key)?,
        }),
        (Some(_), None) => return refuse("kafka.tls.keyFile", "is missing: a certificate needs its key"),
        (None, Some(_)) => {
            return refuse("kafka.tls.certificateFile", "is missing: a key needs its certificate");
        }
    };
    Ok(Some(KafkaTls { ca_files: files("kafka.tls.caFiles", &raw.ca_files)?, client }))
}

fn authentication(raw: &raw::Authentication) -> Result<Authentication, Error> {
    let path = "kafka.authentication";
    if raw.username.is_empty() {
        return refuse("kafka.authentication.username", "must not be empty");
    }
    let Some(password) = secret(path, raw.password_file.as_ref(), raw.password_env.as_ref())? else {
        return refuse(path, "has no password: set passwordFile or passwordEnv");
    };
    Ok(Authentication { mechanism: raw.mechanism, username: raw.username.clone(), password })
}

fn settings(raw: &BTreeMap<String, raw::Scalar>) -> Result<BTreeMap<String, String>, Error> {
    for key in raw.keys() {
        let path = format!("kafka.config.{key}");
        let owned = OWNED_SETTINGS.iter().find(|(name, _)| name == key);
        let owned = owned.or_else(|| OWNED_PREFIXES.iter().find(|(prefix, _)| key.starts_with(prefix)));
        match owned {
            None => {}
            Some((_, "")) => return refuse(&path, "is set by the worker and can't be changed: remove it"),
            Some((_, ours)) => return refuse(&path, format!("is set by the worker: use {ours} instead")),
        }
    }
    Ok(raw.iter().map(|(key, value)| (key.clone(), value.to_string())).collect())
}

fn input(raw: &raw::Input) -> Result<Input, Error> {
    Ok(Input {
        topic: topic("input.topic", &raw.topic)?,
        starting_offsets: raw.starting_offsets,
        on_data_loss: raw.on_data_loss,
    })
}

fn rule(raw: &raw::Match) -> Result<Rule, Error> {
    if raw.contains.is_empty() || raw.contains.len() > 256 {
        return refuse("match.contains", "must be 1 to 256 bytes: give the word that makes a record a crash");
    }
    if raw.severities.is_empty() || raw.severities.iter().any(String::is_empty) {
        return refuse("match.severities", "must name at least one severity, none of them empty");
    }
    Ok(Rule {
        contains: raw.contains.clone(),
        case_sensitive: raw.case_sensitive,
        severities: raw.severities.clone(),
    })
}

fn window(raw: &raw::Window) -> Result<Window, Error> {
    let size = span("window.size", &raw.size, 100 * MILLISECOND, DAY)?;
    let window = Window {
        size,
        allowed_lateness: span("window.allowedLateness", &raw.allowed_lateness, Duration::ZERO, DAY)?,
        max_out_of_orderness: span(
            "window.maxOutOfOrderness",
            &raw.max_out_of_orderness,
            Duration::ZERO,
            HOUR,
        )?,
        idle_timeout: span("window.idleTimeout", &raw.idle_timeout, SECOND, DAY)?,
        max_future_skew: span("window.maxFutureSkew", &raw.max_future_skew, Duration::ZERO, DAY)?,
        max_drift: span("window.maxDrift", &raw.max_drift, SECOND, DAY)?,
    };
    if window.max_drift < window.size {
        let (drift, size) = (duration::format(window.max_drift), duration::format(size));
        return refuse("window.maxDrift", format!("must be at least window.size ({size}), got {drift}"));
    }
    // The source that holds the watermark is ahead of it by its disorder and must never be held by alignment.
    let disorder = window.max_out_of_orderness;
    if window.max_drift < 2 * disorder {
        let (drift, disorder) = (duration::format(window.max_drift), duration::format(disorder));
        let reason = format!("must be at least twice window.maxOutOfOrderness ({disorder}), got {drift}");
        return refuse("window.maxDrift", reason);
    }
    Ok(window)
}

fn output(raw: &raw::Output, repartition: &Repartition) -> Result<Output, Error> {
    let optional = |path: &str, name: &Option<String>| name.as_ref().map(|n| topic(path, n)).transpose();
    Ok(Output {
        topic: topic("output.topic", &raw.topic)?,
        mode: raw.mode,
        late_topic: optional("output.lateTopic", &raw.late_topic)?,
        dead_letter_topic: optional("output.deadLetterTopic", &raw.dead_letter_topic)?,
        partitions: number("output.partitions", raw.partitions, 1, 10_000)?,
        replication_factor: match raw.replication_factor {
            Some(factor) => number("output.replicationFactor", factor, 1, 32)?,
            None => repartition.replication_factor,
        },
    })
}

fn repartition(raw: &raw::Repartition) -> Result<Repartition, Error> {
    Ok(Repartition {
        partitions: number("repartition.partitions", raw.partitions, 1, 1_000)?,
        replication_factor: number("repartition.replicationFactor", raw.replication_factor, 1, 32)?,
    })
}

fn checkpoint(raw: &raw::Checkpoint) -> Result<Checkpoint, Error> {
    let url = &raw.redis.url;
    let path = "checkpoint.redis.url";
    let rest = url.strip_prefix("redis://").or_else(|| url.strip_prefix("rediss://"));
    let Some(rest) = rest.filter(|rest| !rest.is_empty()) else {
        // The text of a bad URL is not repeated: it may hold a password.
        return refuse(path, "must be redis://host:port/db, or rediss://host:port/db with TLS");
    };
    if rest.contains('@') {
        return refuse(path, "must not hold a user or password: use passwordFile or passwordEnv");
    }
    let ca_files = match &raw.redis.tls {
        Some(_) if !url.starts_with("rediss://") => {
            return refuse("checkpoint.redis.tls", "needs checkpoint.redis.url to begin with rediss://");
        }
        Some(tls) => files("checkpoint.redis.tls.caFiles", &tls.ca_files)?,
        None => Vec::new(),
    };
    let redis = &raw.redis;
    Ok(Checkpoint {
        interval: span("checkpoint.interval", &raw.interval, 100 * MILLISECOND, HOUR)?,
        redis: Redis {
            url: url.clone(),
            password: secret("checkpoint.redis", redis.password_file.as_ref(), redis.password_env.as_ref())?,
            ca_files,
        },
    })
}

fn worker(raw: &raw::Worker) -> Result<Worker, Error> {
    let path = "worker.adminListen";
    let Ok(admin_listen) = raw.admin_listen.parse::<SocketAddr>() else {
        let got = &raw.admin_listen;
        return refuse(
            path,
            format!("must be an IP address and a port, such as 127.0.0.1:9400, got {got:?}"),
        );
    };
    Ok(Worker {
        scan_threads: number("worker.scanThreads", raw.scan_threads, 1, 64)?,
        input_reader: raw.input_reader,
        admin_listen,
        session_timeout: span("worker.sessionTimeout", &raw.session_timeout, SECOND, 300 * SECOND)?,
        commit_interval: span("worker.commitInterval", &raw.commit_interval, 100 * MILLISECOND, 60 * SECOND)?,
        flush_interval: span("worker.flushInterval", &raw.flush_interval, MILLISECOND, SECOND)?,
        state_bytes_max: raw.state_memory_max.as_deref().map(state_memory).transpose()?,
        users_in_status: raw.users_in_status,
    })
}

fn state_memory(text: &str) -> Result<u64, Error> {
    let path = "worker.stateMemoryMax";
    match memory::parse(text) {
        Some(bytes) if (STATE_BYTES_MIN..=STATE_BYTES_MAX).contains(&bytes) => Ok(bytes),
        Some(_) => refuse(path, format!("must be 1Mi to 1024Gi, got {text}")),
        None => {
            refuse(path, format!("must be a number with a unit, such as 512Ki, 256Mi or 2Gi, got {text}"))
        }
    }
}

/// A topic that is written and read by the same monitor would feed it its own output.
fn topics_differ(config: &Config) -> Result<(), Error> {
    let output = &config.output;
    let named = [
        ("the repartition topic", Some(config.repartition_topic())),
        ("input.topic", Some(&config.input.topic)),
        ("output.topic", Some(&output.topic)),
        ("output.lateTopic", output.late_topic.as_ref()),
        ("output.deadLetterTopic", output.dead_letter_topic.as_ref()),
    ];
    for (i, (path, topic)) in named.iter().enumerate() {
        let Some(topic) = topic else { continue };
        if let Some((other, _)) = named[..i].iter().find(|(_, earlier)| *earlier == Some(topic)) {
            return refuse(path, format!("must differ from {other}, both are {topic}"));
        }
    }
    Ok(())
}

fn topic(path: &str, name: &str) -> Result<TopicName, Error> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > 249 || matches!(name, "." | "..") || !name.chars().all(legal) {
        return refuse(
            path,
            format!("must be a topic name: 1 to 249 letters, digits, '.', '_' and '-', got {name:?}"),
        );
    }
    Ok(TopicName(name.to_string()))
}

fn group(path: &str, name: &str) -> Result<GroupName, Error> {
    if name.is_empty() || name.len() > 200 || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return refuse(path, format!("must be 1 to 200 bytes without white space, got {name:?}"));
    }
    Ok(GroupName(name.to_string()))
}

fn span(path: &str, text: &DurationText, min: Duration, max: Duration) -> Result<Duration, Error> {
    let got = &text.0;
    let Some(value) = duration::parse(got) else {
        return refuse(
            path,
            format!("must be a number with a unit, such as 250ms, 10s, 10m or 1h, got {got}"),
        );
    };
    if value < min {
        return refuse(path, format!("must be at least {}, got {got}", duration::format(min)));
    }
    if value > max {
        return refuse(path, format!("must be at most {}, got {got}", duration::format(max)));
    }
    Ok(value)
}

fn number<T: TryFrom<i64>>(path: &str, value: i64, min: i64, max: i64) -> Result<T, Error> {
    match T::try_from(value) {
        Ok(number) if (min..=max).contains(&value) => Ok(number),
        _ => refuse(path, format!("must be {min} to {max}, got {value}")),
    }
}

fn file(path: &str, name: &str) -> Result<PathBuf, Error> {
    if name.is_empty() { refuse(path, "must name a file, got nothing") } else { Ok(PathBuf::from(name)) }
}

fn files(path: &str, names: &[String]) -> Result<Vec<PathBuf>, Error> {
    names.iter().map(|name| file(path, name)).collect()
}

fn secret(path: &str, in_file: Option<&String>, in_env: Option<&String>) -> Result<Option<Secret>, Error> {
    match (in_file, in_env) {
        (None, None) => Ok(None),
        (Some(name), None) => Ok(Some(Secret::File(file(&format!("{path}.passwordFile"), name)?))),
        (None, Some(name)) if name.is_empty() => {
            refuse(&format!("{path}.passwordEnv"), "must name an environment variable, got nothing")
        }
        (None, Some(name)) => Ok(Some(Secret::Env(name.clone()))),
        (Some(_), Some(_)) => refuse(path, "has passwordFile and passwordEnv: keep one of them"),
    }
}
