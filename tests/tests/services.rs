//! The test bed itself: that the services are real, that they can be hurt, and that nothing is left behind.

use crashmonitor_bench::kafka::{Compression, Config, Producer};
use crashmonitor_testbed::kafka::Security;
use crashmonitor_testbed::ports::Port;
use crashmonitor_testbed::{Isolation, Kafka, NewRecord, Record, Redis, Topics, shared, until_true};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(20);

fn texts(records: &[Record]) -> Vec<&str> {
    records.iter().map(Record::text).collect()
}

#[test]
fn what_is_written_is_read_with_all_its_parts() {
    let topics = shared::kafka().topics();
    let topic = shared::unique("round-trip");
    topics.create_topic(&topic, 3, &[("cleanup.policy", "delete")]);
    let written = [
        NewRecord::new("a").to(2).key("k").header("h", "1").timestamp_ms(1_768_142_570_123),
        NewRecord::tombstone().to(0),
        NewRecord::new("").to(2),
    ];
    let positions = topics.produce(&topic, &written);
    assert_eq!(
        positions.iter().map(|p| (p.partition, p.offset)).collect::<Vec<_>>(),
        [(2, 0), (0, 0), (2, 1)]
    );

    let read = topics.read_all(&topic, Isolation::ReadCommitted);
    assert_eq!(
        read.iter().map(Record::position).collect::<Vec<_>>(),
        [positions[1], positions[0], positions[2]]
    );
    assert_eq!(read[0].value, None);
    assert_eq!((read[1].text(), read[1].key_text(), read[1].header("h")), ("a", "k", Some("1")));
    assert_eq!(read[1].timestamp_ms, Some(1_768_142_570_123));
    assert_eq!(read[2].value.as_deref(), Some(&b""[..]));
    assert_eq!(topics.topic_config(&topic)["cleanup.policy"], "delete");
}

#[test]
fn an_aborted_transaction_is_invisible_to_committed_reads() {
    let topics = shared::kafka().topics();
    let topic = shared::unique("transactions");
    topics.create_topic(&topic, 1, &[]);
    for (value, commits) in [("kept", true), ("aborted", false)] {
        let transaction = topics.transaction(&shared::unique("writer"), TIMEOUT);
        transaction.produce(&topic, &[NewRecord::new(value)]);
        if commits { transaction.commit() } else { transaction.abort() }
    }
    assert_eq!(texts(&topics.read_all(&topic, Isolation::ReadCommitted)), ["kept"]);
    assert_eq!(texts(&topics.read_all(&topic, Isolation::ReadUncommitted)), ["kept", "aborted"]);
}

#[test]
fn an_open_transaction_holds_the_last_stable_offset() {
    let topics = shared::kafka().topics();
    let topic = shared::unique("open-transaction");
    topics.create_topic(&topic, 1, &[]);
    let transaction = topics.transaction(&shared::unique("writer"), TIMEOUT);
    transaction.produce(&topic, &[NewRecord::new("open")]);
    topics.produce(&topic, &[NewRecord::new("behind it")]);
    assert_eq!(topics.offsets(&topic, Isolation::ReadCommitted)[&0], (0, 0));
    assert_eq!(topics.offsets(&topic, Isolation::ReadUncommitted)[&0], (0, 2));
    assert!(topics.read_all(&topic, Isolation::ReadCommitted).is_empty());
    transaction.commit();
    assert_eq!(texts(&topics.read_all(&topic, Isolation::ReadCommitted)), ["open", "behind it"]);
}

#[test]
fn a_decided_read_waits_for_the_end_of_what_is_open() {
    let topics = shared::kafka().topics();
    let topic = shared::unique("decided");
    topics.create_topic(&topic, 1, &[]);
    let transaction = topics.transaction(&shared::unique("writer"), TIMEOUT);
    // Connected, so that the next look is sooner than the commit.
    assert!(topics.read_decided(&topic).is_empty());
    transaction.produce(&topic, &[NewRecord::new("committed")]);
    std::thread::scope(|scope| {
        let read = scope.spawn(|| topics.read_decided(&topic));
        transaction.commit();
        assert_eq!(texts(&read.join().unwrap()), ["committed"]);
    });
}

#[test]
fn every_codec_compresses() {
    let topics = shared::kafka().topics();
    for (number, codec) in [(1, "gzip"), (2, "snappy"), (3, "lz4"), (4, "zstd")] {
        let topic = shared::unique(codec);
        topics.create_topic(&topic, 1, &[]);
        let records: Vec<NewRecord> =
            (0..100).map(|n| NewRecord::new(format!("{n} {}", "x".repeat(200)))).collect();
        topics.produce_compressed(&topic, &records, codec);
        assert_eq!(topics.read_all(&topic, Isolation::ReadCommitted).len(), 100);

        let segment = shared::kafka().partition_dir(0, &topic, 0).join("00000000000000000000.log");
        // The low bits of the batch's attributes, a big-endian u16 after 21 bytes, name the codec.
        assert_eq!(std::fs::read(segment).unwrap()[22] & 0b111, number, "{codec}");
    }
}

#[test]
fn topics_grow_and_lose_their_oldest_records() {
    let topics = shared::kafka().topics();
    let topic = shared::unique("growing");
    topics.create_topic(&topic, 1, &[]);
    topics.produce(&topic, &[NewRecord::new("a"), NewRecord::new("b")]);
    topics.delete_records(&topic, 0, 1);
    topics.increase_partitions(&topic, 2);
    topics.produce(&topic, &[NewRecord::new("c").to(1)]);
    assert_eq!(topics.partitions_of(&topic), Some(2));
    assert_eq!(topics.offsets(&topic, Isolation::ReadCommitted)[&0], (1, 2));
    assert_eq!(texts(&topics.read_all(&topic, Isolation::ReadCommitted)), ["b", "c"]);
    topics.delete_topic(&topic);
    assert_eq!(topics.partitions_of(&topic), None);
}

#[test]
fn a_commit_keeps_its_metadata() {
    let topics = shared::kafka().topics();
    let (topic, group) = (shared::unique("committed"), shared::unique("group"));
    topics.create_topic(&topic, 2, &[]);
    assert!(topics.committed(&group, &topic).is_empty());
    topics.commit(&group, &topic, 1, 7, "low 3");
    let committed = topics.committed(&group, &topic);
    assert_eq!(committed.len(), 1);
    assert_eq!((committed[&1].offset, committed[&1].metadata.as_str()), (7, "low 3"));
    assert!(topics.group_members(&group).is_empty());
    topics.delete_group(&group);
    assert!(topics.committed(&group, &topic).is_empty());
}

#[test]
fn a_killed_broker_comes_back_with_its_data() {
    let kafka = Kafka::start();
    kafka.topics().create_topic("logs", 2, &[]);
    kafka.topics().produce("logs", &[NewRecord::new("before").to(1)]);
    let (bootstrap, pid) = (kafka.bootstrap(), kafka.pid(0));
    kafka.kill_broker(0);
    kafka.start_broker(0);
    assert_eq!(kafka.bootstrap(), bootstrap);
    assert_ne!(kafka.pid(0), pid);
    kafka.topics().produce("logs", &[NewRecord::new("after").to(1)]);
    assert_eq!(texts(&kafka.topics().read_all("logs", Isolation::ReadCommitted)), ["before", "after"]);

    kafka.restart_broker(0);
    assert_eq!(kafka.topics().read_all("logs", Isolation::ReadCommitted).len(), 2);

    kafka.pause_broker(0);
    kafka.resume_broker(0);
    assert_eq!(kafka.topics().read_all("logs", Isolation::ReadCommitted).len(), 2);
}

#[test]
fn of_three_brokers_two_go_on() {
    let kafka = Kafka::builder().brokers(3).heap("256m").start();
    kafka.topics().create_topic("logs", 3, &[("min.insync.replicas", "2")]);
    kafka.kill_broker(1);
    let records: Vec<NewRecord> = (0..3).map(|n| NewRecord::new(format!("{n}")).to(n)).collect();
    kafka.topics().produce("logs", &records);
    kafka.start_broker(1);
    assert_eq!(texts(&kafka.topics().read_all("logs", Isolation::ReadCommitted)), ["0", "1", "2"]);
}

/// The listener is that of a stopped broker: the kernel takes connections for it, and nothing answers.
#[test]
fn a_load_goes_on_past_a_broker_that_takes_connections_and_says_nothing() {
    let topics = shared::kafka().topics();
    let topic = shared::unique("past-silence");
    topics.create_topic(&topic, 1, &[]);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Config {
        brokers: format!("{},{}", silent.local_addr().unwrap(), shared::kafka().bootstrap()),
        topic: topic.clone(),
        partitions: None,
        create_partitions: None,
        compression: Compression::None,
        batch_bytes: 1_000,
        delivery_timeout: TIMEOUT,
    };
    let mut producer = Producer::open(config).unwrap();
    producer.push(0, None, Some(b"past it")).unwrap();
    producer.drain().unwrap();
    assert_eq!(texts(&topics.read_all(&topic, Isolation::ReadCommitted)), ["past it"]);
}

#[test]
fn every_listener_takes_its_users_and_no_others() {
    let kafka = Kafka::builder()
        .listener(Security::Ssl)
        .listener(Security::SaslPlaintext)
        .listener(Security::SaslSsl)
        .user("alice", "alice-secret")
        .start();
    let authority = kafka.authority().display().to_string();
    let client = |security: Security, mechanism: &str, password: &str| {
        Topics::with_settings(&[
            ("bootstrap.servers", &kafka.bootstrap_of(security)),
            ("security.protocol", security.name()),
            ("ssl.ca.location", &authority),
            ("sasl.mechanism", mechanism),
            ("sasl.username", "alice"),
            ("sasl.password", password),
        ])
    };
    kafka.topics().create_topic("logs", 1, &[]);
    client(Security::Ssl, "PLAIN", "").produce("logs", &[NewRecord::new("x")]);
    for security in [Security::SaslPlaintext, Security::SaslSsl] {
        for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
            client(security, mechanism, "alice-secret").produce("logs", &[NewRecord::new("x")]);
            assert!(refuses(&client(security, mechanism, "wrong")), "{security:?} {mechanism}");
        }
    }
    assert_eq!(kafka.topics().read_all("logs", Isolation::ReadCommitted).len(), 7);
}

fn refuses(topics: &Topics) -> bool {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::error::KafkaError;
    use rdkafka::types::RDKafkaErrorCode;
    let client: BaseConsumer = topics.config().create().expect("these settings are valid");
    until_true("the broker to refuse the password", TIMEOUT, || {
        let polled = client.poll(Duration::from_millis(50));
        matches!(polled, Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::Authentication))))
            || client.client().fatal_error().is_some()
    });
    client.fetch_metadata(None, Duration::from_millis(100)).is_err()
}

#[test]
fn redis_is_set_emptied_and_hurt() {
    let redis = Redis::start();
    assert_eq!(redis.command_text(&["SET", "k", "v"]), "OK");
    assert_eq!(redis.command_text(&["GET", "k"]), "v");
    redis.flushall();
    assert!(redis.keys().is_empty());

    redis.command_text(&["SET", "k", "v"]);
    redis.kill();
    redis.start_again();
    assert!(redis.keys().is_empty(), "nothing is persisted unless asked for");
    redis.pause();
    redis.resume();
    redis.restart();
    assert!(shared::redis().keys().is_empty());
}

#[test]
fn redis_with_a_password_tls_and_a_file() {
    let redis = Redis::builder().password("secret").tls().persistent().start();
    assert!(redis.url().starts_with("rediss://127.0.0.1:"));
    redis.command_text(&["SET", "k", "v"]);
    redis.restart();
    assert_eq!(redis.keys(), ["k"]);
    let anonymous = Command::new("redis-cli")
        .args(["-p", &redis.address().port().to_string(), "--tls", "--cacert"])
        .arg(redis.authority())
        .args(["-e", "GET", "k"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&anonymous.stdout).contains("NOAUTH") || !anonymous.status.success());
}

#[test]
fn a_held_port_goes_to_its_service_only() {
    let port = Port::reserve();
    let service = TcpListener::bind(port.address()).expect("std sets SO_REUSEADDR as the services do");
    drop(service);
    let others: Vec<TcpListener> = (0..2000).map_while(|_| TcpListener::bind("127.0.0.1:0").ok()).collect();
    assert!(others.iter().all(|other| other.local_addr().unwrap().port() != port.number()));
    TcpListener::bind(port.address()).expect("still free for its service");
}

/// Runs this test binary again as a program that starts Redis and then hangs, kills it, and looks for what is left.
#[test]
fn a_killed_program_leaves_no_process_and_no_file() {
    let temp = tempfile::tempdir().unwrap();
    let mut program = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_that_hangs", "--ignored", "--nocapture"])
        .env("TMPDIR", temp.path())
        .env_remove("CRASHMONITOR_KEEP")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let entries =
        || std::fs::read_dir(temp.path()).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let ready = || entries().iter().any(|home| home.join("redis-0/ready").exists());
    until_true("the program to have its Redis", TIMEOUT, ready);
    let home = entries().remove(0);
    let pids: Vec<String> = std::fs::read_dir(home.join("pids"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(pids.len(), 1, "{pids:?}");

    program.kill().unwrap();
    program.wait().unwrap();
    // A zombie whose parent doesn't collect it is gone as well.
    let gone = |pid: &String| {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
    };
    until_true("its Redis to be gone", TIMEOUT, || pids.iter().all(gone));
    until_true("its files to be gone", TIMEOUT, || entries().is_empty());
}

#[test]
#[ignore = "the program that a_killed_program_leaves_no_process_and_no_file kills"]
fn helper_that_hangs() {
    let redis = Redis::start();
    // The answer is the word "dir" and the directory, each in a line.
    let answer = redis.command_text(&["CONFIG", "GET", "dir"]);
    let dir = answer.lines().nth(1).expect("Redis names its directory");
    std::fs::write(std::path::Path::new(dir).join("ready"), "").unwrap();
    let started = Instant::now();
    until_true("somebody to kill this program", Duration::from_secs(60), || started.elapsed().as_secs() > 50);
}
