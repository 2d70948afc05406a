//! The configuration from a person's side: what is accepted, what is refused, and in which words.

use std::path::PathBuf;
use std::time::Duration;

use crashmonitor_core::config::{
    Config, InputReader, Mechanism, OnDataLoss, OutputMode, Secret, StartingOffsets, raw,
};

const MINIMAL: &str = "\
monitor: {namespace: default, name: checkout, uid: abc}
kafka: {bootstrapServers: 'kafka:9092'}
input: {topic: logs}
";

fn parse(yaml: &str) -> Config {
    Config::parse(yaml).expect("accepted")
}

/// The minimal configuration with the top-level key of `part` replaced by it.
fn with(part: &str) -> String {
    let key = part.split(':').next().expect("a key");
    let kept: String =
        MINIMAL.lines().filter(|l| !l.starts_with(&format!("{key}:"))).map(|l| format!("{l}\n")).collect();
    format!("{kept}{part}\n")
}

fn refusal(part: &str) -> String {
    let message = Config::parse(&with(part)).expect_err("refused").to_string();
    assert!(!message.contains('\n'), "one line: {message}");
    message
}

#[test]
fn the_minimal_configuration_has_the_documented_defaults() {
    let config = parse(MINIMAL);
    assert_eq!(config.rule.contains, "crash");
    assert!(!config.rule.case_sensitive);
    assert_eq!(config.rule.severities, ["High", "Critical"]);
    assert_eq!(config.window.size, Duration::from_secs(10));
    assert_eq!(config.window.allowed_lateness, Duration::from_secs(30));
    assert_eq!(config.window.max_out_of_orderness, Duration::from_secs(2));
    assert_eq!(config.window.idle_timeout, Duration::from_secs(30));
    assert_eq!(config.window.max_future_skew, Duration::from_secs(600));
    assert_eq!(config.window.max_drift, Duration::from_secs(600));
    assert_eq!(config.count_greater_than, 2);
    assert_eq!(config.input.starting_offsets, StartingOffsets::Latest);
    assert_eq!(config.input.on_data_loss, OnDataLoss::Continue);
    assert_eq!(config.output.topic.as_str(), "crash-alerts");
    assert_eq!(config.output.mode, OutputMode::Updates);
    assert_eq!((config.output.late_topic, config.output.dead_letter_topic), (None, None));
    assert_eq!((config.output.partitions, config.output.replication_factor), (4, 3));
    assert_eq!((config.repartition.partitions, config.repartition.replication_factor), (16, 3));
    assert_eq!(config.checkpoint, None);
    assert_eq!(config.worker.scan_threads, 1);
    assert_eq!(config.worker.input_reader, InputReader::Direct);
    assert_eq!(config.worker.admin_listen.to_string(), "127.0.0.1:9400");
    assert_eq!(config.worker.session_timeout, Duration::from_secs(10));
    assert_eq!(config.worker.commit_interval, Duration::from_secs(2));
    assert_eq!(config.worker.flush_interval, Duration::from_millis(20));
}

#[test]
fn names_derive_from_the_monitor() {
    let config = parse(MINIMAL);
    assert_eq!(config.scan_group().as_str(), "crashmonitor.default.checkout");
    assert_eq!(config.aggregate_group().as_str(), "crashmonitor.default.checkout-aggregate");
    assert_eq!(config.repartition_topic().as_str(), "crashmonitor.default.checkout.repartition");
    assert_eq!(config.transactional_id("checkout-0"), "crashmonitor.default.checkout-aggregate-checkout-0");
    assert_eq!(config.snapshot_key_prefix(), "crashmonitor:default:checkout:");
}

#[test]
fn a_named_group_leaves_the_internal_topic_alone() {
    let config = parse(&with("input: {topic: logs, consumerGroup: mine}"));
    assert_eq!(config.scan_group().as_str(), "mine");
    assert_eq!(config.aggregate_group().as_str(), "mine-aggregate");
    assert_eq!(config.repartition_topic().as_str(), "crashmonitor.default.checkout.repartition");
}

#[test]
fn everything_can_be_set() {
    let config = parse(
        "
monitor: {namespace: prod, name: web.shop, uid: 0b2f}
kafka:
  bootstrapServers: a:9092, b:9093
  tls: {caFiles: [/ca.pem], certificateFile: /c.pem, keyFile: /k.pem}
  authentication: {type: scram-sha-512, username: cm, passwordFile: /secret}
  config: {fetch.wait.max.ms: 50, check.crcs: true, client.rack: eu-1}
input: {topic: logs, startingOffsets: Earliest, onDataLoss: Fail}
match: {contains: panic, caseSensitive: true, severities: [Fatal]}
window: {size: 1m, allowedLateness: 0s, maxOutOfOrderness: 250ms, idleTimeout: 5s, maxFutureSkew: 1h, maxDrift: 2h}
countGreaterThan: 0
output: {topic: out, mode: Final, lateTopic: late, deadLetterTopic: dead, partitions: 2, replicationFactor: 1}
repartition: {partitions: 4, replicationFactor: 2}
checkpoint: {interval: 1s, redis: {url: 'rediss://redis:6380/1', passwordEnv: REDIS_PASSWORD, tls: {caFiles: [/r.pem]}}}
worker: {scanThreads: 2, adminListen: '0.0.0.0:9400', sessionTimeout: 30s, commitInterval: 1s, flushInterval: 5ms}
",
    );
    assert_eq!(config.kafka.bootstrap_servers, "a:9092,b:9093");
    let authentication = config.kafka.authentication.unwrap();
    assert_eq!(authentication.mechanism, Mechanism::ScramSha512);
    assert_eq!(authentication.password, Secret::File(PathBuf::from("/secret")));
    assert_eq!(config.kafka.settings["fetch.wait.max.ms"], "50");
    assert_eq!(config.kafka.settings["check.crcs"], "true");
    assert_eq!(config.output.replication_factor, 1);
    assert_eq!(config.output.mode, OutputMode::Final);
    let redis = config.checkpoint.unwrap().redis;
    assert_eq!(redis.password, Some(Secret::Env("REDIS_PASSWORD".to_string())));
    assert_eq!(redis.ca_files, [PathBuf::from("/r.pem")]);
}

#[test]
fn disabled_tls_is_no_tls() {
    let tls = |part: &str| parse(&with(part)).kafka.tls;
    assert!(tls("kafka: {bootstrapServers: 'k:1', tls: {enabled: false, caFiles: [/x]}}").is_none());
    assert!(tls("kafka: {bootstrapServers: 'k:1', tls: {}}").is_some());
}

#[test]
fn what_is_rendered_is_read_back() {
    let raw: raw::Config = serde_yaml::from_str(MINIMAL).unwrap();
    let rendered = serde_yaml::to_string(&raw).unwrap();
    assert_eq!(parse(&rendered), parse(MINIMAL));
}

#[test]
fn each_bad_value_is_named_in_one_line() {
    let topic = "must be a topic name: 1 to 249 letters, digits, '.', '_' and '-', got";
    let unit = "must be a number with a unit, such as 250ms, 10s, 10m or 1h, got";
    let broker = "must be host:port, comma-separated, got";
    #[rustfmt::skip]
    let cases = [
        ("window: {size: 0s}", "window.size: must be at least 100ms, got 0s".to_string()),
        ("window: {size: 25h}", "window.size: must be at most 24h, got 25h".to_string()),
        ("window: {size: 10}", format!("window.size: {unit} 10")),
        ("window: {size: ten}", format!("window.size: {unit} ten")),
        ("window: {allowedLateness: -1s}", format!("window.allowedLateness: {unit} -1s")),
        ("window: {maxOutOfOrderness: 2h}", "window.maxOutOfOrderness: must be at most 1h, got 2h".into()),
        ("window: {idleTimeout: 10ms}", "window.idleTimeout: must be at least 1s, got 10ms".into()),
        ("window: {maxFutureSkew: 48h}", "window.maxFutureSkew: must be at most 24h, got 48h".into()),
        ("window: {size: 1m, maxDrift: 10s}", "window.maxDrift: must be at least window.size (1m), got 10s".into()),
        ("countGreaterThan: -1", "countGreaterThan: must be 0 or more, got -1".into()),
        ("monitor: {namespace: a.b, name: x, uid: u}", "monitor.namespace: must be 1 to 63 of a-z, 0-9 and -, got \"a.b\"".into()),
        ("monitor: {namespace: a, name: X, uid: u}", "monitor.name: must be made of a-z, 0-9, - and ., got \"X\"".into()),
        ("monitor: {namespace: a, name: x, uid: ''}", "monitor.uid: must be 1 to 64 bytes: give the resource's metadata.uid, or any constant".into()),
        ("kafka: {bootstrapServers: ''}", format!("kafka.bootstrapServers: {broker} \"\"")),
        ("kafka: {bootstrapServers: 'kafka'}", format!("kafka.bootstrapServers: {broker} \"kafka\"")),
        ("kafka: {bootstrapServers: 'k:0'}", format!("kafka.bootstrapServers: {broker} \"k:0\"")),
        ("kafka: {bootstrapServers: 'k:1', tls: {certificateFile: /c}}", "kafka.tls.keyFile: is missing: a certificate needs its key".into()),
        ("kafka: {bootstrapServers: 'k:1', tls: {keyFile: /c}}", "kafka.tls.certificateFile: is missing: a key needs its certificate".into()),
        ("kafka: {bootstrapServers: 'k:1', tls: {caFiles: ['']}}", "kafka.tls.caFiles: must name a file, got nothing".into()),
        ("kafka: {bootstrapServers: 'k:1', authentication: {type: plain, username: u}}", "kafka.authentication: has no password: set passwordFile or passwordEnv".into()),
        ("kafka: {bootstrapServers: 'k:1', authentication: {type: plain, username: u, passwordFile: /f, passwordEnv: E}}", "kafka.authentication: has passwordFile and passwordEnv: keep one of them".into()),
        ("kafka: {bootstrapServers: 'k:1', authentication: {type: plain, username: '', passwordEnv: E}}", "kafka.authentication.username: must not be empty".into()),
        ("kafka: {bootstrapServers: 'k:1', authentication: {type: plain, username: u, passwordEnv: ''}}", "kafka.authentication.passwordEnv: must name an environment variable, got nothing".into()),
        ("kafka: {bootstrapServers: 'k:1', config: {group.id: g}}", "kafka.config.group.id: is set by the worker: use input.consumerGroup instead".into()),
        ("kafka: {bootstrapServers: 'k:1', config: {acks: 1}}", "kafka.config.acks: is set by the worker and can't be changed: remove it".into()),
        ("kafka: {bootstrapServers: 'k:1', config: {sasl.password: geheim}}", "kafka.config.sasl.password: is set by the worker: use kafka.authentication instead".into()),
        ("kafka: {bootstrapServers: 'k:1', config: {ssl.ca.location: /x}}", "kafka.config.ssl.ca.location: is set by the worker: use kafka.tls instead".into()),
        ("input: {topic: ''}", format!("input.topic: {topic} \"\"")),
        ("input: {topic: 'a/b'}", format!("input.topic: {topic} \"a/b\"")),
        ("input: {topic: logs, consumerGroup: 'a b'}", "input.consumerGroup: must be 1 to 200 bytes without white space, got \"a b\"".into()),
        ("match: {contains: ''}", "match.contains: must be 1 to 256 bytes: give the word that makes a record a crash".into()),
        ("match: {severities: []}", "match.severities: must name at least one severity, none of them empty".into()),
        ("output: {topic: logs}", "output.topic: must differ from input.topic, both are logs".into()),
        ("output: {topic: out, lateTopic: out}", "output.lateTopic: must differ from output.topic, both are out".into()),
        ("output: {topic: ..}", format!("output.topic: {topic} \"..\"")),
        ("output: {partitions: 0}", "output.partitions: must be 1 to 10000, got 0".into()),
        ("repartition: {partitions: 1001}", "repartition.partitions: must be 1 to 1000, got 1001".into()),
        ("repartition: {replicationFactor: 0}", "repartition.replicationFactor: must be 1 to 32, got 0".into()),
        ("checkpoint: {redis: {url: 'http://r'}}", "checkpoint.redis.url: must be redis://host:port/db, or rediss://host:port/db with TLS".into()),
        ("checkpoint: {redis: {url: 'redis://:geheim@r:1'}}", "checkpoint.redis.url: must not hold a user or password: use passwordFile or passwordEnv".into()),
        ("checkpoint: {redis: {url: 'redis://r:1', tls: {}}}", "checkpoint.redis.tls: needs checkpoint.redis.url to begin with rediss://".into()),
        ("checkpoint: {interval: 1ms, redis: {url: 'redis://r:1'}}", "checkpoint.interval: must be at least 100ms, got 1ms".into()),
        ("worker: {scanThreads: 65}", "worker.scanThreads: must be 1 to 64, got 65".into()),
        ("worker: {adminListen: ':9400'}", "worker.adminListen: must be an IP address and a port, such as 127.0.0.1:9400, got \":9400\"".into()),
        ("worker: {sessionTimeout: 10m}", "worker.sessionTimeout: must be at most 5m, got 10m".into()),
        ("worker: {commitInterval: 1ms}", "worker.commitInterval: must be at least 100ms, got 1ms".into()),
        ("worker: {stateMemoryMax: 1Ki}", "worker.stateMemoryMax: must be 1Mi to 1024Gi, got 1Ki".into()),
        ("worker: {stateMemoryMax: 256}", "worker.stateMemoryMax: must be a number with a unit, such as 512Ki, 256Mi or 2Gi, got 256".into()),
        ("worker: {flushInterval: 0ms}", "worker.flushInterval: must be at least 1ms, got 0ms".into()),
    ];
    for (part, expected) in cases {
        assert_eq!(refusal(part), expected, "{part}");
    }
}

#[test]
fn what_does_not_fit_the_schema_names_its_key() {
    for (part, expected) in [
        ("window: {sise: 10s}", "window: unknown field `sise`"),
        ("windows: {}", "unknown field `windows`"),
        ("output: {mode: final}", "output.mode: unknown variant `final`, expected `Updates` or `Final`"),
        ("input: {}", "input: missing field `topic`"),
        ("worker: {scanThreads: two}", "worker.scanThreads: invalid type: string \"two\""),
        (
            "kafka: {bootstrapServers: 'k:1', config: {a: [1]}}",
            "kafka.config: expected text, a number or true/false",
        ),
        ("window: {size: [1]}", "window: expected text, a number or true/false"),
        ("output: {topic: 'x}", "found unexpected end of stream"),
    ] {
        let message = refusal(part);
        assert!(message.contains(expected), "{part}: {message}");
    }
}

#[test]
fn no_message_repeats_a_secret() {
    for part in [
        "checkpoint: {redis: {url: 'redis://:geheim@r:1'}}",
        "checkpoint: {redis: {url: 'geheim'}}",
        "kafka: {bootstrapServers: 'k:1', config: {sasl.password: geheim}}",
        "kafka: {bootstrapServers: 'k:1', authentication: {type: plain, username: u, password: geheim}}",
    ] {
        assert!(!refusal(part).contains("geheim"), "{part}");
    }
}
