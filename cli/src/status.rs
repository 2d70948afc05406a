//! `status`: what a monitor does, at a glance.
//!
//! Responsible for the text of a resource's status with what its workers say of each partition. Pure. Must never say
//! more than was seen: what nobody reports is shown as `-`, and who did not answer is named.

use std::collections::BTreeMap;
use std::fmt::Write;

use crashmonitor_core::status::{AggregatePartition, HoldReason, InputState, Status as Answer};
use crashmonitor_operator::api::{CrashMonitor, CrashMonitorStatus, DesiredState};
use crashmonitor_operator::status::find;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use serde::Serialize;

use crate::cluster::Answers;
use crate::text::{self, BAD, CHANGING, GOOD, STRONG, count, since, styled, table, things, time};

/// Conditions that are bad when they are `True`, and those that are bad when they are `False`.
const BAD_WHEN: [(&str, &str); 5] = [
    ("Degraded", "True"),
    ("DataLoss", "True"),
    ("KafkaReachable", "False"),
    ("CheckpointStoreReachable", "False"),
    ("WatermarkAdvancing", "False"),
];

/// Everything that is known of a monitor at a moment; for programs as it is.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    name: String,
    namespace: String,
    observed_at: Timestamp,
    /// As it was written.
    #[serde(skip)]
    monitor: CrashMonitor,
    /// What the operator says.
    status: CrashMonitorStatus,
    /// What the workers say, by pod.
    workers: BTreeMap<String, Answer>,
    /// Why others say nothing, by pod.
    silent: BTreeMap<String, String>,
}

impl View {
    /// Puts together what was seen.
    pub fn new(monitor: CrashMonitor, answers: Answers, now: Timestamp) -> View {
        let mut view = View {
            name: monitor.name_any(),
            namespace: monitor.namespace().unwrap_or_default(),
            observed_at: now,
            status: monitor.status.clone().unwrap_or_default(),
            monitor,
            workers: BTreeMap::new(),
            silent: BTreeMap::new(),
        };
        for (pod, answer) in answers {
            match answer {
                Ok(answer) => drop(view.workers.insert(pod, answer)),
                Err(reason) => drop(view.silent.insert(pod, reason)),
            }
        }
        view
    }

    /// The text for people.
    pub fn text(&self) -> String {
        let mut parts = vec![self.heading(), self.summary(), self.workers(), self.inputs(), self.shards()];
        parts.retain(|part| !part.is_empty());
        parts.join("\n")
    }

    /// What state it is in, and what is wrong.
    fn heading(&self) -> String {
        let ready = find(&self.status, "Ready");
        let (state, style) = match ready {
            None => ("no operator has looked at it yet", CHANGING),
            Some(ready) if ready.status == "True" => (ready.reason.as_str(), GOOD),
            Some(ready) if find(&self.status, "Degraded").is_some_and(|c| c.status == "True") => {
                (ready.reason.as_str(), BAD)
            }
            Some(ready) => (ready.reason.as_str(), CHANGING),
        };
        let name = format!("{}/{}", self.namespace, self.name);
        let mut text = format!("{}: {}\n", styled(STRONG, &name), styled(style, state));
        let is_bad = |condition: &&Condition| {
            BAD_WHEN.contains(&(condition.type_.as_str(), condition.status.as_str()))
        };
        let mut said: Vec<&str> = Vec::new();
        for condition in self.status.conditions.iter().filter(is_bad) {
            let message = condition.message.trim();
            // One cause is often the message of several conditions.
            if !message.is_empty() && !said.contains(&message) {
                said.push(message);
                let _ = writeln!(text, "  {} {message}", styled(BAD, &format!("{}:", condition.type_)));
            }
        }
        text
    }

    fn summary(&self) -> String {
        let spec = &self.monitor.spec;
        let status = &self.status;
        let mut rows = vec![("Workers", self.worker_count())];
        let input = match (&status.partitions, &status.lag) {
            (partitions, Some(lag)) => format!(
                "{}{}, lag {}, at most {} in one partition ({} ago)",
                spec.input.topic,
                partitions.map_or(String::new(), |p| format!(", {}", things_of(p.input, "partition"))),
                count(lag.total),
                count(lag.max_partition),
                since(lag.observed_at.0.as_millisecond(), self.observed_at)
            ),
            _ => spec.input.topic.clone(),
        };
        rows.push(("Input", input));
        rows.push(("Event time", self.event_time()));
        let results = status.results.map_or(0, |results| results.emitted);
        rows.push(("Results", format!("{} in {}", count(results), spec.output.topic)));
        let late = status.late_records.map_or(0, |late| late.dropped);
        let late_to = spec.output.late_topic.as_ref();
        let lateness = &spec.window.allowed_lateness;
        rows.push(("Too late", format!("{}{} (allowed lateness {lateness})", count(late), to(late_to))));
        let dead = status.dead_letters.unwrap_or(0);
        rows.push(("Unreadable", format!("{}{}", count(dead), to(spec.output.dead_letter_topic.as_ref()))));
        if let Some(loss) = &status.data_loss {
            let records = count(loss.records);
            let at = time(loss.last_time.0.as_millisecond());
            rows.push(("Lost", format!("{records}, the last time at {at} UTC")));
        }
        rows.push(("Checkpoint", self.checkpoint()));
        let lines = rows.iter().map(|(name, value)| format!("{name:<12}{value}\n"));
        lines.collect()
    }

    fn worker_count(&self) -> String {
        let spec = &self.monitor.spec;
        let ready = self.status.ready_replicas;
        let wanted = match spec.desired_state {
            DesiredState::Running => format!("{} are ready", spec.replicas),
            DesiredState::Suspended => {
                format!("0 are ready: suspended, {} when it is resumed", spec.replicas)
            }
        };
        let image = self.status.image.as_ref().map_or(String::new(), |image| format!(", {image}"));
        let updated = self.status.updated_replicas;
        let changing = match updated < self.status.replicas {
            true => format!(", {updated} with the present settings"),
            false => String::new(),
        };
        format!("{ready} of {wanted}{changing}{image}")
    }

    fn event_time(&self) -> String {
        let Some(watermark) = &self.status.watermark else { return "not known yet".to_owned() };
        let at = time(watermark.time.0.as_millisecond());
        let Some(lag) = watermark.lag_seconds else {
            return format!("complete up to {at} UTC; the whole input is silent");
        };
        let behind = text::span(jiff::SignedDuration::from_secs(lag));
        let held = watermark.held_by.as_ref().map_or(String::new(), |held| {
            let partition = held.partition.map_or("the input".to_owned(), |p| format!("partition {p}"));
            format!("; held by {partition}: {}", why(&held.reason))
        });
        format!("complete up to {at} UTC, {behind} behind the clock{held}")
    }

    fn checkpoint(&self) -> String {
        match (&self.monitor.spec.checkpoint, &self.status.checkpoint) {
            (None, _) => "none are kept; recovery reads Kafka (spec.checkpoint)".to_owned(),
            (Some(_), None) => "none yet".to_owned(),
            (Some(_), Some(last)) => {
                let ago = since(last.last_time.0.as_millisecond(), self.observed_at);
                format!("the oldest snapshot of a partition is {ago} old")
            }
        }
    }

    fn workers(&self) -> String {
        let row = |worker: &crashmonitor_operator::api::status::Worker| {
            let recoveries = worker.recoveries.iter().map(|(how, number)| format!("{how} {number}"));
            let version =
                self.workers.get(&worker.name).map_or("-".to_owned(), |answer| answer.version.clone());
            let silent = self.silent.get(&worker.name).map(|reason| format!("can't be asked: {reason}"));
            [
                worker.name.clone(),
                if worker.ready { "yes" } else { "no" }.to_owned(),
                version,
                worker.input_partitions.to_string(),
                worker.repartition_partitions.to_string(),
                list(recoveries.collect()),
                list(worker.message.clone().into_iter().chain(silent).collect()),
            ]
        };
        let rows: Vec<_> = self.status.workers.iter().map(row).collect();
        if rows.is_empty() {
            return String::new();
        }
        table(["WORKER", "READY", "VERSION", "READS", "COUNTS", "RECOVERED BY", "MESSAGE"], &rows)
    }

    /// The input's partitions.
    fn inputs(&self) -> String {
        let mut owned = BTreeMap::new();
        for (pod, answer) in &self.workers {
            owned.extend(answer.input.iter().map(|(number, partition)| (*number, (pod, partition))));
        }
        if owned.is_empty() {
            return String::new();
        }
        let known = self.status.partitions.map_or(0, |partitions| partitions.input);
        let last = owned.keys().next_back().map_or(0, |last| last + 1).max(known);
        let row = |number: i32| match owned.get(&number) {
            None => {
                let dash = || "-".to_owned();
                [number.to_string(), "nobody".to_owned(), dash(), dash(), dash(), dash(), dash()]
            }
            Some((pod, partition)) => [
                number.to_string(),
                (*pod).clone(),
                input_state(partition.state).to_owned(),
                count(partition.position),
                count(partition.lag),
                partition.mark_ms.map_or("-".to_owned(), time),
                partition.mark_ms.map_or("-".to_owned(), |ms| since(ms, self.observed_at)),
            ],
        };
        let rows: Vec<_> = (0..last).map(row).collect();
        table(["INPUT", "WORKER", "STATE", "OFFSET", "LAG", "NEWEST RECORD", "BEHIND"], &rows)
    }

    /// The repartition topic's partitions.
    fn shards(&self) -> String {
        let mut owned: BTreeMap<i32, (&String, &AggregatePartition)> = BTreeMap::new();
        for (pod, answer) in &self.workers {
            owned.extend(answer.aggregate.iter().map(|(number, partition)| (*number, (pod, partition))));
        }
        if owned.is_empty() {
            return String::new();
        }
        let ago = |ms: Option<i64>| ms.map_or("-".to_owned(), |ms| since(ms, self.observed_at));
        let row = |(number, (pod, partition)): (&i32, &(&String, &AggregatePartition))| {
            [
                number.to_string(),
                (*pod).clone(),
                partition.watermark_ms.map_or("-".to_owned(), time),
                ago(partition.watermark_ms),
                held_by(partition),
                partition.open_windows.to_string(),
                ago(partition.last_checkpoint_ms),
                partition.recovery.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        };
        let rows: Vec<_> = owned.iter().map(row).collect();
        let heading =
            ["COUNTS", "WORKER", "WATERMARK", "BEHIND", "HELD BY", "WINDOWS", "CHECKPOINT", "RECOVERED BY"];
        table(heading, &rows)
    }
}

fn things_of(number: i32, thing: &str) -> String {
    things(usize::try_from(number).unwrap_or(0), thing)
}

fn to(topic: Option<&String>) -> String {
    topic.map_or(", only counted".to_owned(), |topic| format!(" in {topic}"))
}

fn list(items: Vec<String>) -> String {
    if items.is_empty() { "-".to_owned() } else { items.join(", ") }
}

/// What a scanner does, in a word.
pub(crate) fn input_state(state: InputState) -> &'static str {
    match state {
        InputState::Running => "reads",
        InputState::Idle => "idle",
        InputState::Paused => "waits for others",
        InputState::Unknown => "unknown",
    }
}

fn held_by(partition: &AggregatePartition) -> String {
    let Some(holder) = partition.holder else { return "-".to_owned() };
    let reason = match holder.reason {
        HoldReason::Idle => "idle",
        HoldReason::Lagging => "lagging",
        HoldReason::Unassigned => "unassigned",
        HoldReason::Silent => "silent",
        HoldReason::Unknown => "unknown",
    };
    holder.partition.map_or(reason.to_owned(), |number| format!("{number} ({reason})"))
}

/// A reason of the resource's status, in words.
fn why(reason: &str) -> &str {
    match reason {
        "Idle" => "all are silent, and it is the furthest behind",
        "Lagging" => "its records are the oldest",
        "Unassigned" => "no worker has it",
        "Silent" => "it was taken over and has not spoken yet",
        other => other,
    }
}
