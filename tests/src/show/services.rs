//! What runs on loopback for the show: Kafka, Redis and the workers.
//!
//! Responsible for starting them in order, for the workers' configuration, and for stopping the workers in order. Must
//! never start the load: that is `load`.

use super::view::View;
use super::{
    ALLOWED_LATENESS_MS, INPUT, INPUT_PARTITIONS, MAX_OUT_OF_ORDERNESS_MS, OUTPUT, THRESHOLD, WINDOW_MS,
};
use crate::wait::try_until;
use crate::{Kafka, Redis, Worker};
use std::net::SocketAddr;
use std::time::Duration;

/// Partitions of the output: one, so that results are shown in the order in which they were written.
pub const OUTPUT_PARTITIONS: i32 = 1;
/// Partitions of the topic between the two stages.
pub const REPARTITION_PARTITIONS: usize = 8;

const READY_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Kafka, Redis and workers, all ready. Dropping them ends them and removes their files.
pub struct Services {
    // First: workers end before what they need goes.
    /// The workers.
    pub workers: Vec<Worker>,
    /// One broker.
    pub kafka: Kafka,
    _redis: Redis,
}

impl Services {
    /// Starts all, and waits until all are ready.
    pub fn start(workers: usize, view: &mut View) -> Result<Services, String> {
        let mut say = |line: &str| view.say(line).map_err(|e| format!("standard output: {e}"));
        say("starting Kafka and Redis")?;
        let kafka = Kafka::builder()
            .for_benchmarks()
            .heap("1g")
            // So that a run without an end does not fill the disk.
            .property("log.retention.check.interval.ms", "10000")
            .start();
        let redis = Redis::start();
        let settings = [
            ("retention.bytes", "268435456"),
            ("segment.bytes", "67108864"),
            // For `appended`.
            ("message.timestamp.type", "LogAppendTime"),
        ];
        kafka.topics().create_topic(INPUT, INPUT_PARTITIONS.cast_signed(), &settings);
        say(&format!("starting {workers} workers"))?;
        let start = |number: usize| {
            let builder =
                Worker::builder(&format!("worker-{number}")).env("POD_NAME", &format!("run-{number}"));
            builder.start(|admin| config(&kafka.bootstrap(), &redis.url(), admin))
        };
        let workers: Vec<Worker> = (0..workers).map(start).collect();
        for worker in &workers {
            worker.wait_ready(READY_TIMEOUT);
        }
        Ok(Services { workers, kafka, _redis: redis })
    }

    /// Stops the workers, all at once. Says what did not go as it should.
    pub fn stop_workers(&self) -> Vec<String> {
        let running = self.workers.iter().filter(|worker| worker.is_running());
        let stopping: Vec<&Worker> = running.inspect(|worker| worker.sigterm()).collect();
        let mut trouble = Vec::new();
        for worker in stopping {
            match try_until(STOP_TIMEOUT, || worker.process().exited().ok_or(())) {
                Ok(status) if status.success() => {}
                Ok(status) => {
                    trouble.push(format!("{} ended with {status}\n{}", worker.name(), worker.log_tail()))
                }
                Err(()) => trouble.push(format!("{} did not end within {STOP_TIMEOUT:?}", worker.name())),
            }
        }
        trouble
    }
}

fn config(bootstrap: &str, redis: &str, admin: SocketAddr) -> String {
    format!(
        "monitor: {{namespace: default, name: run, uid: run}}
kafka: {{bootstrapServers: \"{bootstrap}\"}}
input: {{topic: {INPUT}, startingOffsets: Earliest}}
window:
  size: {WINDOW_MS}ms
  allowedLateness: {ALLOWED_LATENESS_MS}ms
  maxOutOfOrderness: {MAX_OUT_OF_ORDERNESS_MS}ms
  idleTimeout: 5s
countGreaterThan: {THRESHOLD}
output:
  topic: {OUTPUT}
  mode: Updates
  lateTopic: crash-late
  deadLetterTopic: crash-dead-letters
  partitions: {OUTPUT_PARTITIONS}
  replicationFactor: 1
repartition: {{partitions: {REPARTITION_PARTITIONS}, replicationFactor: 1}}
checkpoint: {{interval: 5s, redis: {{url: \"{redis}\"}}}}
worker: {{adminListen: \"{admin}\"}}
"
    )
}
