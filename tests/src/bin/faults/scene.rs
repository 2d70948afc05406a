//! One run: a monitor with a Redis and topics of its own, its workers, and load that goes on.
//!
//! Responsible for what all faults begin and end with, and for keeping what a failed run leaves. Must never cause a fault.

use crashmonitor_testbed::load::Load;
use crashmonitor_testbed::monitor::Monitor;
use crashmonitor_testbed::proxy::Proxy;
use crashmonitor_testbed::under_load::{self, Outcome, TIMEOUT, await_more_results, owned, total};
use crashmonitor_testbed::{Isolation, Kafka, Redis, Worker, until, until_true};
use serde_json::json;
use std::fs;
use std::io;
use std::path::Path;
use std::slice;

use crate::matrix::Fault;
use crate::table::Run;

/// Partitions of the input and of the repartition topic: two and three workers have equal shares, so that each of two
/// gives something up when a third one comes.
pub const PARTITIONS: usize = 6;
/// Longer than the load stands still when a broker is away and its requests to it time out. A partition that was idle may
/// find its next records late, by design; that is no fault. No longer than somebody would wait for a partition without load.
const IDLE_TIMEOUT: &str = "75s";
/// What Kafka says to a member whose name another one has.
const FENCED: &str = "FencedInstanceId";

/// A monitor under load.
pub struct Scene<'a> {
    pub kafka: &'a Kafka,
    pub redis: Redis,
    /// Between the workers and Redis.
    pub to_redis: Proxy,
    pub monitor: Monitor<'a>,
    pub workers: Vec<Worker>,
    /// Partitions of the input.
    inputs: usize,
    load: Option<Load>,
}

impl<'a> Scene<'a> {
    /// Topics and a Redis; no worker runs yet. Every other run is with final results only.
    pub fn new(kafka: &'a Kafka, fault: &Fault, number: u64) -> Scene<'a> {
        let redis = Redis::start();
        let to_redis = Proxy::of(redis.address());
        let mode = if number.is_multiple_of(2) { "Final" } else { "Updates" };
        let monitor = Monitor::new(kafka, &fault.name)
            .redis(&redis)
            .set("checkpoint.redis.url", format!("redis://{}", to_redis.address()))
            .set("output.mode", mode)
            .set("repartition.partitions", PARTITIONS)
            .set("repartition.replicationFactor", kafka.len())
            .set("worker.sessionTimeout", fault.session)
            .set("window.idleTimeout", IDLE_TIMEOUT);
        monitor.create_input(i32::try_from(PARTITIONS).expect("a few"));
        Scene { kafka, redis, to_redis, monitor, workers: Vec::new(), inputs: PARTITIONS, load: None }
    }

    /// Starts so many workers, and load; returns when each has its share and results come.
    pub fn begin(&mut self, workers: usize) {
        for _ in 0..workers {
            self.start_worker(&[]);
        }
        self.begin_load();
    }

    /// Starts load for the workers that there are; returns when each has its share and results come.
    pub fn begin_load(&mut self) {
        self.await_shares();
        self.load = Some(Load::start(&self.monitor));
        await_more_results(&self.workers);
    }

    /// Starts one more, and waits for nothing; returns its number.
    pub fn start_worker(&mut self, environment: &[(&str, &str)]) -> usize {
        let number = self.workers.len();
        self.workers.push(self.monitor.start_worker_with(&number.to_string(), environment));
        number
    }

    /// Starts one more, which reaches Kafka through the proxies alone, and waits for nothing; returns its number.
    pub fn start_worker_behind_proxies(&mut self) -> usize {
        let number = self.workers.len();
        let bootstrap = self.kafka.bootstrap_through_proxies();
        let monitor = self.monitor.clone().set("kafka.bootstrapServers", bootstrap);
        self.workers.push(monitor.start_worker(&number.to_string()));
        number
    }

    /// Raises the number of the input's partitions.
    pub fn grow_input(&mut self, inputs: usize) {
        let total = i32::try_from(inputs).expect("a few");
        self.kafka.topics().increase_partitions(self.monitor.input(), total);
        self.inputs = inputs;
    }

    /// Waits until all workers that are there have restored what they own, each owns something, and nothing is owned twice.
    pub fn await_shares(&mut self) {
        self.await_shares_without(None);
    }

    /// Waits until all but one have.
    pub fn await_shares_without(&mut self, away: Option<usize>) {
        until("each worker to own its share", TIMEOUT, || {
            self.start_fenced_again(away);
            let others = self.workers.iter().enumerate().filter(|(number, _)| Some(*number) != away);
            let others: Vec<&Worker> = others.map(|(_, worker)| worker).collect();
            let owned: Vec<(usize, usize)> = others.iter().map(|worker| owned(worker)).collect();
            let is_idle = owned.iter().any(|(input, aggregate)| *input == 0 || *aggregate == 0);
            let total = owned.iter().fold((0, 0), |sum, each| (sum.0 + each.0, sum.1 + each.1));
            let is_ready = others.iter().all(|worker| worker.ready());
            if !is_idle && is_ready && total == (self.inputs, PARTITIONS) {
                return Ok(());
            }
            let logs: Vec<String> = others.iter().map(|worker| worker.log_tail()).collect();
            Err(format!("{owned:?}\n{}", logs.join("\n")))
        });
    }

    /// Who wakes up in a rebalance that went on without it may find its own name taken, by its own request to join again, and
    /// so may who had no processor for as long as its session. Such a worker ends, and whatever looks after it starts it again.
    fn start_fenced_again(&mut self, away: Option<usize>) {
        for (number, worker) in self.workers.iter_mut().enumerate() {
            if Some(number) == away || worker.is_running() {
                continue;
            }
            assert!(worker.log_tail().contains(FENCED), "{} ended\n{}", worker.name(), worker.log_tail());
            worker.start_again();
        }
    }

    /// Waits until so many seconds' worth of further records is written.
    pub fn await_load(&self, seconds: u64) {
        self.load.as_ref().expect("the load has begun").await_seconds(seconds);
    }

    /// Waits until the others than this worker have written more.
    pub fn await_results_of_others(&mut self, away: usize) {
        let written = |workers: &[Worker]| {
            let others = workers.iter().enumerate().filter(|(number, _)| *number != away);
            others.map(|(_, worker)| total(slice::from_ref(worker), "results")).sum::<u64>()
        };
        let mut before = written(&self.workers);
        until_true("further results of the others", TIMEOUT, || {
            self.start_fenced_again(Some(away));
            // Who was started again counts from nothing.
            before = before.min(written(&self.workers));
            written(&self.workers) > before
        });
    }

    /// Ends load and workers, and compares.
    pub fn finish(&mut self) -> Outcome {
        let load = self.load.take().expect("the load has begun");
        let end_ms = under_load::end(&self.monitor, load);
        until("all windows to close", TIMEOUT, || {
            self.start_fenced_again(None);
            self.monitor.closed(&self.workers, end_ms)
        });
        self.start_fenced_again(None);
        under_load::compare_all(&self.monitor, &self.workers)
    }

    /// What the topics say once nothing is written to them any more. Workers end as they are.
    pub fn outcome(&mut self) -> Outcome {
        self.load = None;
        self.workers.iter().filter(|worker| worker.is_running()).for_each(Worker::kill9);
        Outcome::of(&self.monitor)
    }

    /// Ends what still runs. The brokers need not carry the topics any longer.
    pub fn clean_up(&mut self) {
        self.load = None;
        self.workers.clear();
        for topic in self.topics() {
            self.kafka.topics().delete_topic(&topic);
        }
    }

    fn topics(&self) -> [String; 5] {
        let Scene { monitor, .. } = self;
        let named = [monitor.input(), monitor.output(), monitor.late_topic(), monitor.dead_letter_topic()];
        let [input, output, late, dead] = named.map(str::to_owned);
        [input, output, late, dead, monitor.repartition_topic()]
    }

    /// Keeps logs and topics of a run that failed.
    ///
    /// # Errors
    /// They can't be written.
    pub fn keep_evidence(&self, dir: &Path, run: &Run) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        fs::write(dir.join("why.txt"), format!("{run}\n\n{}\n", run.why))?;
        for worker in &self.workers {
            fs::write(dir.join(format!("{}.log", worker.name())), worker.log())?;
        }
        for broker in 0..self.kafka.len() {
            fs::write(dir.join(format!("broker-{broker}.log")), self.kafka.log(broker))?;
        }
        for topic in &self.topics() {
            let mut lines = String::new();
            for record in self.kafka.topics().read_all(topic, Isolation::ReadCommitted) {
                let value = record.value.unwrap_or_default();
                // Frames are no text.
                let value = String::from_utf8(value).unwrap_or_else(|e| hex(e.as_bytes()));
                let line = json!({"partition": record.partition, "offset": record.offset, "value": value});
                lines += &format!("{line}\n");
            }
            fs::write(dir.join(format!("{topic}.jsonl")), lines)?;
        }
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
