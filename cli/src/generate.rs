//! `generate`: a resource from a few choices.
//!
//! Responsible for the questions, and for a resource that says what was chosen and nothing else: defaults stay the
//! API server's. Must never let through what the operator would refuse.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::{Args, ValueEnum};
use crashmonitor_operator::api::CrashMonitor;
use crashmonitor_operator::validate::{Defaults, validate};
use serde_json::{Map, Value, json};

use crate::Error;

/// What can be chosen; the rest is in docs/resource.md.
#[derive(Args, Debug, Clone, Default)]
pub struct Choices {
    /// The resource's name.
    pub name: Option<String>,
    /// Kafka's brokers: host:port, comma-separated.
    #[arg(long, value_name = "HOST:PORT")]
    pub brokers: Option<String>,
    /// The topic of log records.
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// The topic of results [default: crash-alerts].
    #[arg(long, value_name = "TOPIC")]
    pub output_topic: Option<String>,
    /// A topic for crashes that came too late to count [default: they are only counted].
    #[arg(long, value_name = "TOPIC")]
    pub late_topic: Option<String>,
    /// A topic for records that can't be read [default: they are only counted].
    #[arg(long, value_name = "TOPIC")]
    pub dead_letter_topic: Option<String>,
    /// Write each result once, when no record can change it any more [default: as it changes].
    #[arg(long)]
    pub r#final: bool,
    /// Begin with the oldest record [default: with what is written from now on].
    #[arg(long)]
    pub from_earliest: bool,
    /// Workers [default: 1].
    #[arg(long, value_name = "N")]
    pub replicas: Option<i32>,
    /// A user with more crashes than this in a window is a result [default: 2].
    #[arg(long, value_name = "N")]
    pub count_greater_than: Option<i64>,
    /// Length of a window, such as 10s [default: 10s].
    #[arg(long, value_name = "SPAN")]
    pub window: Option<String>,
    /// How long late records count, such as 30s [default: 30s].
    #[arg(long, value_name = "SPAN")]
    pub allowed_lateness: Option<String>,
    /// Keep snapshots here, which makes recovery faster: redis://host:port, or rediss:// with TLS.
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// The Secret with Redis's password, and the key in it.
    #[arg(long, value_name = "SECRET/KEY", requires = "redis")]
    pub redis_password: Option<SecretKey>,
    /// Encrypt the connection to Kafka.
    #[arg(long)]
    pub tls: bool,
    /// The Secret with the authority that signed the brokers' certificates, and the key in it.
    #[arg(long, value_name = "SECRET/KEY", requires = "tls")]
    pub ca: Option<SecretKey>,
    /// How Kafka is told who the workers are.
    #[arg(long, value_enum, requires_all = ["username", "password"])]
    pub sasl: Option<Sasl>,
    /// The user at Kafka.
    #[arg(long, value_name = "NAME", requires = "sasl")]
    pub username: Option<String>,
    /// The Secret with the user's password, and the key in it.
    #[arg(long, value_name = "SECRET/KEY", requires = "sasl")]
    pub password: Option<SecretKey>,
    /// Replicas of the topics that are created [default: 3]; 1 for a Kafka of one broker.
    #[arg(long, value_name = "N")]
    pub replication_factor: Option<i32>,
}

/// SASL mechanisms, named as in the resource.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sasl {
    /// SASL/PLAIN.
    Plain,
    /// SASL/SCRAM-SHA-256.
    #[value(name = "scram-sha-256")]
    ScramSha256,
    /// SASL/SCRAM-SHA-512.
    #[value(name = "scram-sha-512")]
    ScramSha512,
}

/// A Secret's name and a key in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SecretKey {
    secret: String,
    key: String,
}

impl std::str::FromStr for SecretKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<SecretKey, Self::Err> {
        match text.split_once('/') {
            Some((secret, key)) if !secret.is_empty() && !key.is_empty() => {
                Ok(SecretKey { secret: secret.to_owned(), key: key.to_owned() })
            }
            _ => Err("must be the name of a Secret, a slash, and a key in it"),
        }
    }
}

/// Asks for what is missing where somebody can answer, and makes the resource.
pub fn run(mut choices: Choices, namespace: Option<String>) -> Result<String, Error> {
    if io::stdin().is_terminal() && io::stderr().is_terminal() {
        ask(&mut choices, &mut io::stdin().lock(), &mut io::stderr())
            .map_err(|e| Error::failed(format!("the terminal can't be read: {e}"), "give flags instead"))?;
    }
    resource(&choices, namespace)
}

/// The questions, for what was not given. An empty answer leaves it out.
fn ask(choices: &mut Choices, from: &mut impl BufRead, to: &mut impl Write) -> io::Result<()> {
    let is_bare = choices.name.is_none() || choices.brokers.is_none() || choices.topic.is_none();
    if !is_bare {
        return Ok(());
    }
    let questions = [
        ("Name of the CrashMonitor", &mut choices.name),
        ("Kafka's brokers (host:port, comma-separated)", &mut choices.brokers),
        ("Topic of log records", &mut choices.topic),
        ("Topic of results [crash-alerts]", &mut choices.output_topic),
        ("Redis for snapshots (redis://host:port) [none]", &mut choices.redis),
    ];
    for (question, answer) in questions {
        if answer.is_some() {
            continue;
        }
        write!(to, "{question}: ")?;
        to.flush()?;
        let mut line = String::new();
        from.read_line(&mut line)?;
        *answer = Some(line.trim().to_owned()).filter(|line| !line.is_empty());
    }
    Ok(())
}

/// The resource as YAML.
fn resource(choices: &Choices, namespace: Option<String>) -> Result<String, Error> {
    let object = object(choices, namespace)?;
    let refused = |cause: String| {
        Error::input(
            format!("this is no CrashMonitor: {cause}"),
            "docs/resource.md says what each field may be",
        )
    };
    let mut monitor: CrashMonitor =
        serde_json::from_value(object.clone()).map_err(|e| refused(e.to_string()))?;
    // The API server gives it both.
    monitor.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    monitor.metadata.uid = Some("not-there-yet".to_owned());
    // The image is the operator's, and so is the check.
    let defaults = Defaults {
        worker_image: Some("image".to_owned()),
        operator_namespace: String::new(),
        console: false,
    };
    validate(&monitor, &defaults).map_err(|e| refused(e.to_string()))?;
    Ok(serde_yaml::to_string(&object).expect("plain data is YAML"))
}

fn object(choices: &Choices, namespace: Option<String>) -> Result<Value, Error> {
    let needed = |value: &Option<String>, what: &str, flag: &str| {
        let example = "`kubectl crashmonitor generate checkout --brokers kafka:9092 --topic logs`";
        value
            .clone()
            .ok_or_else(|| Error::input(format!("{what} is missing"), format!("give {flag}: {example}")))
    };
    let name = needed(&choices.name, "the name", "it")?;
    let brokers = needed(&choices.brokers, "Kafka's address", "--brokers")?;
    let topic = needed(&choices.topic, "the topic of log records", "--topic")?;
    let mut metadata = json!({"name": name});
    put(&mut metadata, "namespace", namespace);
    let mut input = json!({"topic": topic});
    put(&mut input, "startingOffsets", choices.from_earliest.then_some("Earliest"));
    let mut window = json!({});
    put(&mut window, "size", choices.window.clone());
    put(&mut window, "allowedLateness", choices.allowed_lateness.clone());
    let mut output = json!({});
    put(&mut output, "topic", choices.output_topic.clone());
    put(&mut output, "mode", choices.r#final.then_some("Final"));
    put(&mut output, "lateTopic", choices.late_topic.clone());
    put(&mut output, "deadLetterTopic", choices.dead_letter_topic.clone());
    let mut repartition = json!({});
    put(&mut repartition, "replicationFactor", choices.replication_factor);
    let mut spec = json!({});
    put(&mut spec, "replicas", choices.replicas);
    spec["kafka"] = kafka(choices, &brokers);
    spec["input"] = input;
    put(&mut spec, "window", filled(window));
    put(&mut spec, "countGreaterThan", choices.count_greater_than);
    put(&mut spec, "output", filled(output));
    put(&mut spec, "repartition", filled(repartition));
    put(&mut spec, "checkpoint", choices.redis.as_ref().map(|url| redis(choices, url)));
    Ok(json!({
        "apiVersion": "crashmonitor.dev/v1alpha1",
        "kind": "CrashMonitor",
        "metadata": metadata,
        "spec": spec,
    }))
}

fn kafka(choices: &Choices, brokers: &str) -> Value {
    let mut kafka = json!({"bootstrapServers": brokers});
    if choices.tls {
        let ca = choices.ca.iter().map(|ca| json!({"secretName": ca.secret, "certificate": ca.key}));
        let ca: Vec<Value> = ca.collect();
        kafka["tls"] = if ca.is_empty() { json!({}) } else { json!({"trustedCertificates": ca}) };
    }
    if let Some(sasl) = choices.sasl {
        let mechanism = sasl.to_possible_value();
        kafka["authentication"] = json!({
            "type": mechanism.map(|value| value.get_name().to_owned()),
            "username": choices.username,
            "passwordSecret": choices.password.as_ref().map(password),
        });
    }
    kafka
}

fn redis(choices: &Choices, url: &str) -> Value {
    let mut redis = json!({"url": url});
    put(&mut redis, "passwordSecret", choices.redis_password.as_ref().map(password));
    json!({"redis": redis})
}

fn password(source: &SecretKey) -> Value {
    json!({"secretName": source.secret, "password": source.key})
}

/// A section, if there is anything in it.
fn filled(section: Value) -> Option<Value> {
    section.as_object().is_some_and(|fields: &Map<String, Value>| !fields.is_empty()).then_some(section)
}

fn put(section: &mut Value, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        section[key] = value.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn least() -> Choices {
        let text = |text: &str| Some(text.to_owned());
        Choices {
            name: text("checkout"),
            brokers: text("kafka:9092"),
            topic: text("logs"),
            ..Choices::default()
        }
    }

    #[test]
    fn what_was_not_chosen_is_not_there() {
        let expected = "apiVersion: crashmonitor.dev/v1alpha1\nkind: CrashMonitor\nmetadata:\n  name: checkout\nspec:\n  \
                        kafka:\n    bootstrapServers: kafka:9092\n  input:\n    topic: logs\n";
        let mut got: Vec<String> =
            resource(&least(), None).unwrap().lines().map(|line| format!("{line}\n")).collect();
        got.sort();
        let mut expected: Vec<String> = expected.lines().map(|line| format!("{line}\n")).collect();
        expected.sort();
        assert_eq!(got, expected);
    }

    #[test]
    fn what_the_operator_would_refuse_is_named() {
        let window = Some("10".to_owned());
        let error = resource(&Choices { window, ..least() }, None).unwrap_err();
        assert_eq!(error.code(), 2);
        assert!(error.to_string().contains("spec.window.size"), "{error}");
        let error = resource(&Choices { topic: None, ..least() }, None).unwrap_err();
        assert!(error.to_string().contains("--topic"), "{error}");
    }

    #[test]
    fn only_what_is_missing_is_asked_for() {
        let mut choices = Choices { topic: None, ..least() };
        let mut asked = Vec::new();
        ask(&mut choices, &mut "logs\n\nredis://r:1\n".as_bytes(), &mut asked).unwrap();
        assert_eq!(choices.topic.as_deref(), Some("logs"));
        assert_eq!((choices.output_topic, choices.redis), (None, Some("redis://r:1".to_owned())));
        let asked = String::from_utf8(asked).unwrap();
        assert!(asked.starts_with("Topic of log records: Topic of results"), "{asked}");
        let mut asked = Vec::new();
        ask(&mut least(), &mut "".as_bytes(), &mut asked).unwrap();
        assert!(asked.is_empty());
    }

    #[test]
    fn secrets_are_named_and_never_asked_for() {
        let key = |text: &str| Some(text.parse::<SecretKey>().unwrap());
        let choices = Choices {
            tls: true,
            ca: key("kafka-ca/ca.crt"),
            sasl: Some(Sasl::ScramSha512),
            username: Some("monitor".to_owned()),
            password: key("kafka/password"),
            ..least()
        };
        let object = object(&choices, None).unwrap();
        assert_eq!(object["spec"]["kafka"]["authentication"]["type"], "scram-sha-512");
        assert_eq!(object["spec"]["kafka"]["tls"]["trustedCertificates"][0]["certificate"], "ca.crt");
        assert!("kafka".parse::<SecretKey>().is_err());
        resource(&choices, Some("shop".to_owned())).unwrap();
    }
}
