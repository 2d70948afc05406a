//! A monitor under test: its topics, its configuration, its workers, and what it should have written.
//!
//! Responsible for names that no other monitor has, for a configuration that is fast to test with, for reading the
//! topics of a monitor and for holding its results against an independent recomputation of its input. Must never
//! know how workers count, and never wait for anything that the caller has not named.
//!
//! ```no_run
//! use crashmonitor_testbed::monitor::{Monitor, crash};
//! use crashmonitor_testbed::shared;
//! use std::time::Duration;
//!
//! let monitor = Monitor::new(shared::kafka(), "three-crashes").set("output.mode", "Final");
//! monitor.create_input(2);
//! let workers = monitor.start_workers(2);
//! monitor.write(0, &[crash(20_000, "ann"), crash(20_001, "ann"), crash(20_002, "ann")]);
//! monitor.advance(100_000);
//! monitor.await_closed(&workers, 30_000, Duration::from_secs(30));
//! Monitor::stop(&workers);
//! let report = monitor.report();
//! assert!(report.is_right(), "{report}");
//! ```

use crate::shared::unique;
use crate::topics::{Isolation, NewRecord, Position, Record};
use crate::wait::until;
use crate::{Kafka, Redis, Topics, Worker};
use crashmonitor_bench::oracle::{Alert, Counts, Oracle, Query, Report, compare, parse_alert};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Repartition partitions of a monitor, unless it is set otherwise.
pub const SHARDS: i64 = 4;

/// How long workers may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a worker may take to end in order.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Topics and configuration of one monitor.
#[derive(Debug, Clone)]
pub struct Monitor<'a> {
    kafka: &'a Kafka,
    name: String,
    config: Value,
}

impl<'a> Monitor<'a> {
    /// A monitor with a name of its own that begins with `name`; it keeps late records and dead letters, starts at
    /// the earliest record, commits often, and keeps no checkpoints. `CRASHMONITOR_INPUT_READER` says how all monitors
    /// read their input.
    pub fn new(kafka: &'a Kafka, name: &str) -> Monitor<'a> {
        Monitor::named(kafka, &unique(name))
    }

    /// The same with this very name, for a Kafka that no other test uses.
    pub fn named(kafka: &'a Kafka, name: &str) -> Monitor<'a> {
        let config = json!({
            "monitor": {"namespace": "test", "name": name, "uid": format!("uid-of-{name}")},
            "kafka": {"bootstrapServers": kafka.bootstrap()},
            "input": {"topic": format!("{name}.input"), "startingOffsets": "Earliest"},
            "output": {
                "topic": format!("{name}.output"),
                "lateTopic": format!("{name}.late"),
                "deadLetterTopic": format!("{name}.dead"),
                "partitions": 2,
            },
            "repartition": {"partitions": SHARDS, "replicationFactor": 1},
            "worker": {"commitInterval": "200ms"},
        });
        let monitor = Monitor { kafka, name: name.to_owned(), config };
        match std::env::var("CRASHMONITOR_INPUT_READER") {
            Ok(reader) => monitor.set("worker.inputReader", reader),
            Err(_) => monitor,
        }
    }

    /// The same as a resource of this namespace in Kubernetes: groups, internal topic and snapshots are named after it.
    pub fn in_namespace(self, namespace: &str) -> Monitor<'a> {
        self.set("monitor.namespace", namespace)
    }

    /// The `spec` of a `CrashMonitor` for it: what the worker reads, without what only the operator knows.
    pub fn spec(&self) -> Value {
        let mut spec = self.config.clone();
        let keys = spec.as_object_mut().expect("a configuration is an object");
        keys.remove("monitor");
        keys.remove("worker");
        spec
    }

    /// Keeps checkpoints in a Redis.
    pub fn redis(self, redis: &Redis) -> Monitor<'a> {
        let url = redis.url();
        self.set("checkpoint.redis.url", url).set("checkpoint.interval", "500ms")
    }

    /// Sets a key of the configuration, given by its path from the top, such as `window.size`.
    pub fn set(mut self, path: &str, value: impl Into<Value>) -> Monitor<'a> {
        *path.split('.').fold(&mut self.config, |at, key| &mut at[key]) = value.into();
        self
    }

    /// Removes a key of the configuration.
    pub fn unset(mut self, path: &str) -> Monitor<'a> {
        let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
        let parent =
            parent.split('.').filter(|key| !key.is_empty()).fold(&mut self.config, |at, key| &mut at[key]);
        parent.as_object_mut().unwrap_or_else(|| panic!("{path} is not set")).remove(key);
        self
    }

    /// Its name, also that of its topics up to the first dot.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its Kafka is reached.
    pub fn bootstrap(&self) -> String {
        self.kafka.bootstrap()
    }

    /// Its Kafka's topics.
    pub fn topics(&self) -> &'a Topics {
        self.kafka.topics()
    }

    /// The input topic.
    pub fn input(&self) -> &str {
        self.text("/input/topic")
    }

    /// The topic of results.
    pub fn output(&self) -> &str {
        self.text("/output/topic")
    }

    /// The topic of late records.
    pub fn late_topic(&self) -> &str {
        self.text("/output/lateTopic")
    }

    /// The topic of dead letters.
    pub fn dead_letter_topic(&self) -> &str {
        self.text("/output/deadLetterTopic")
    }

    /// The group that reads the input.
    pub fn scan_group(&self) -> String {
        format!("crashmonitor.{}.{}", self.text("/monitor/namespace"), self.name)
    }

    /// The group that reads the repartition topic.
    pub fn aggregate_group(&self) -> String {
        format!("{}-aggregate", self.scan_group())
    }

    /// The topic between the stages.
    pub fn repartition_topic(&self) -> String {
        format!("{}.repartition", self.scan_group())
    }

    /// The configuration of a worker with its admin endpoint at `admin`, as YAML.
    pub fn config(&self, admin: SocketAddr) -> String {
        let monitor = self.clone().set("worker.adminListen", admin.to_string());
        // JSON is YAML.
        serde_json::to_string_pretty(&monitor.config).expect("a value is always JSON")
    }

    /// Creates the input topic.
    #[track_caller]
    pub fn create_input(&self, partitions: i32) {
        self.topics().create_topic(self.input(), partitions, &[]);
    }

    /// Starts a worker with this pod's name, and waits for nothing.
    pub fn start_worker(&self, pod: &str) -> Worker {
        self.start_worker_with(pod, &[])
    }

    /// The same, with further environment variables.
    pub fn start_worker_with(&self, pod: &str, environment: &[(&str, &str)]) -> Worker {
        let pod = format!("{}-{pod}", self.name);
        let builder = Worker::builder(&pod).env("POD_NAME", &pod);
        let builder = environment.iter().fold(builder, |builder, (key, value)| builder.env(key, value));
        builder.start(|admin| self.config(admin))
    }

    /// Starts workers named 0 and up, and waits until all are ready.
    #[track_caller]
    pub fn start_workers(&self, count: usize) -> Vec<Worker> {
        let workers: Vec<Worker> = (0..count).map(|pod| self.start_worker(&pod.to_string())).collect();
        workers.iter().for_each(|worker| worker.wait_ready(READY_TIMEOUT));
        workers
    }

    /// Panics if one of the workers had to leave the direct path.
    #[track_caller]
    pub fn assert_no_fallback(workers: &[Worker]) {
        for worker in workers {
            assert!(!worker.log().contains("reading the input through librdkafka"), "{}", worker.log_tail());
        }
    }

    /// Ends workers in order: what they have counted and may write is in the output then.
    #[track_caller]
    pub fn stop(workers: &[Worker]) {
        // All at once: none takes over what another one leaves.
        workers.iter().for_each(Worker::sigterm);
        for worker in workers {
            let status = worker.wait_exit(STOP_TIMEOUT);
            assert!(status.success(), "{} ended with {status}\n{}", worker.name(), worker.log_tail());
        }
    }

    /// Writes records to the input. Should a broker fail meanwhile, some may be there twice, in order: what is right
    /// is what [`Monitor::recompute`] reads back.
    #[track_caller]
    pub fn produce(&self, records: &[NewRecord]) -> Vec<Position> {
        // A new idempotent producer waits half a second for its number, and tests write often.
        let settings = [("enable.idempotence", "false"), ("max.in.flight.requests.per.connection", "1")];
        self.topics().produce_with(self.input(), records, &settings)
    }

    /// Writes values to a partition of the input.
    #[track_caller]
    pub fn write(&self, partition: i32, values: &[String]) -> Vec<Position> {
        let records: Vec<NewRecord> =
            values.iter().map(|value| NewRecord::new(value).to(partition)).collect();
        self.produce(&records)
    }

    /// Writes values to all partitions of the input in turn.
    #[track_caller]
    pub fn spread(&self, values: &[String]) -> Vec<Position> {
        let turns = (0..self.partitions()).cycle();
        let records: Vec<NewRecord> =
            turns.zip(values).map(|(partition, value)| NewRecord::new(value).to(partition)).collect();
        self.produce(&records)
    }

    /// Writes a record that is no crash and happened at `time_ms` to every partition of the input.
    #[track_caller]
    pub fn advance(&self, time_ms: i64) {
        let value = record(time_ms, "Low", "nobody", "all is well");
        let records: Vec<NewRecord> = (0..self.partitions()).map(|p| NewRecord::new(&value).to(p)).collect();
        self.produce(&records);
    }

    /// Waits until all windows that end at `time_ms` or earlier are complete.
    #[track_caller]
    pub fn await_watermark(&self, workers: &[Worker], time_ms: i64, timeout: Duration) {
        self.await_time(workers, "watermarkMs", time_ms, timeout);
    }

    /// Waits until all windows that end at `time_ms` or earlier are closed.
    #[track_caller]
    pub fn await_closed(&self, workers: &[Worker], time_ms: i64, timeout: Duration) {
        self.await_time(workers, "closedThroughMs", time_ms, timeout);
    }

    /// Whether all windows that end at `time_ms` or earlier are closed; if not, what the workers say.
    pub fn closed(&self, workers: &[Worker], time_ms: i64) -> Result<(), String> {
        self.come_to(workers, "closedThroughMs", time_ms)
    }

    /// The results written so far, in the order of the log of each partition.
    #[track_caller]
    pub fn alerts(&self) -> Vec<Alert> {
        self.parse(&self.topics().read_decided(self.output()))
    }

    /// The results that can be read at this moment, in the order of the log of each partition; for who looks again
    /// and again while workers fail, and transactions stay open for as long as they may.
    #[track_caller]
    pub fn readable_alerts(&self) -> Vec<Alert> {
        self.parse(&self.topics().read_all(self.output(), Isolation::ReadCommitted))
    }

    #[track_caller]
    fn parse(&self, records: &[Record]) -> Vec<Alert> {
        let parse = |record: &Record| {
            let value = record.value.as_deref().unwrap_or_default();
            parse_alert(value).unwrap_or_else(|e| panic!("{} {:?}: {e}", self.output(), record.position()))
        };
        records.iter().map(parse).collect()
    }

    /// The results written so far as (start of the interval, user, count), sorted by interval and user; the counts of
    /// one interval and user in the order of the log.
    #[track_caller]
    pub fn results(&self) -> Vec<(i64, String, u64)> {
        let alerts = self.alerts().into_iter().map(|alert| (alert.start_ms, alert.user_id, alert.count));
        let mut results: Vec<_> = alerts.collect();
        results.sort_by(|(start, user, _), (other_start, other_user, _)| {
            (start, user).cmp(&(other_start, other_user))
        });
        results
    }

    /// The dropped late records written so far.
    #[track_caller]
    pub fn late(&self) -> Vec<Record> {
        self.topics().read_decided(self.late_topic())
    }

    /// The dead letters written so far.
    #[track_caller]
    pub fn dead_letters(&self) -> Vec<Record> {
        self.topics().read_decided(self.dead_letter_topic())
    }

    /// The recomputation of all that lies in the input now, none of it taken for late.
    #[track_caller]
    pub fn recompute(&self) -> Oracle {
        let mut oracle = Oracle::new(self.query());
        let input = self.topics().read_all(self.input(), Isolation::ReadCommitted);
        input.iter().for_each(|r| oracle.add(r.partition, r.offset, r.value.as_deref()));
        oracle
    }

    /// The results that all of the input must give.
    #[track_caller]
    pub fn expected(&self) -> Counts {
        self.recompute().results()
    }

    /// The results written so far, held against all of the input.
    #[track_caller]
    pub fn report(&self) -> Report {
        compare(&self.expected(), &self.alerts())
    }

    /// Waits until the results are those `expected`; that nothing else follows can only be seen after the workers'
    /// end.
    #[track_caller]
    pub fn await_results(&self, expected: &Counts, timeout: Duration) {
        until(&format!("the right results in {}", self.output()), timeout, || {
            if self.topics().partitions_of(self.output()).is_none() {
                return Err("no output topic".to_owned());
            }
            let report = compare(expected, &self.readable_alerts());
            if report.is_right() { Ok(()) } else { Err(report.to_string()) }
        });
    }

    /// How many partitions the input has.
    #[track_caller]
    pub fn partitions(&self) -> i32 {
        self.topics().partitions_of(self.input()).expect("the input is there")
    }

    fn query(&self) -> Query {
        let defaults = Query::default();
        let window =
            self.config.pointer("/window/size").map(|size| millis(size.as_str().unwrap_or_default()));
        let threshold = self.config.pointer("/countGreaterThan").and_then(Value::as_u64);
        Query {
            window_ms: window.unwrap_or(defaults.window_ms),
            threshold: threshold.unwrap_or(defaults.threshold),
            // What the worker takes for the future; tests keep away from the border.
            event_time_max_ms: now_ms() + 600_000,
            ..defaults
        }
    }

    #[track_caller]
    fn await_time(&self, workers: &[Worker], key: &str, time_ms: i64, timeout: Duration) {
        until(&format!("{key} of all shards of {} to be {time_ms}", self.name), timeout, || {
            self.come_to(workers, key, time_ms)
        });
    }

    fn come_to(&self, workers: &[Worker], key: &str, time_ms: i64) -> Result<(), String> {
        let statuses: Vec<Value> = workers.iter().filter_map(|worker| worker.try_status().ok()).collect();
        self.reached(&statuses, key, time_ms).map_err(|why| {
            let logs: Vec<String> = workers.iter().map(Worker::log_tail).collect();
            format!("{why}\n{}", logs.join("\n"))
        })
    }

    /// Whether each shard is owned by one of the workers with these statuses and has come to `time_ms` by `key`, such
    /// as `watermarkMs`; if not, what they say.
    pub fn reached(&self, statuses: &[Value], key: &str, time_ms: i64) -> Result<(), String> {
        let shards =
            self.config.pointer("/repartition/partitions").and_then(Value::as_u64).unwrap_or_default();
        let owned = statuses.iter().filter_map(|status| status["aggregate"].as_object()).flatten();
        let reached = owned.filter(|(_, shard)| shard[key].as_i64().is_some_and(|at| at >= time_ms)).count();
        if reached as u64 >= shards {
            return Ok(());
        }
        let shown: Vec<String> = statuses.iter().map(Value::to_string).collect();
        Err(format!("{reached} of {shards} shards\n{}", shown.join("\n")))
    }

    fn text(&self, pointer: &str) -> &str {
        let value = self.config.pointer(pointer).and_then(Value::as_str);
        value.unwrap_or_else(|| panic!("{pointer} is not set"))
    }
}

/// A log record as the monitored site writes it.
pub fn record(time_ms: i64, severity: &str, user: &str, content: &str) -> String {
    json!({
        "timestamp": time_ms,
        "status": "ERROR",
        "severity": severity,
        "source_ip": "10.1.2.3",
        "user_id": user,
        "content": content,
    })
    .to_string()
}

/// A log record that counts.
pub fn crash(time_ms: i64, user: &str) -> String {
    record(time_ms, "High", user, "session crash after timeout")
}

/// The wall clock in milliseconds since the epoch.
pub fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    i64::try_from(since_epoch.as_millis()).expect("the clock is before the year 292 million")
}

/// The milliseconds of a duration as configurations write it.
fn millis(text: &str) -> i64 {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => panic!("{text:?} is no duration that tests use"),
    };
    unit * number.parse::<i64>().unwrap_or_else(|e| panic!("{text:?}: {e}"))
}
