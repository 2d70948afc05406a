//! The numbers of a status.
//!
//! Responsible for adding up what the workers say. Must never go back: a total that was said once only grows, and a
//! figure that nobody reports now stays what it was.

use std::collections::BTreeMap;

use crashmonitor_core::status::{HoldReason, Holder, Status as Answer};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::pods::{self, Fleet};
use super::{Facts, line};
use crate::api::CrashMonitorStatus;
use crate::api::status::{
    Checkpoint, DataLoss, HeldBy, Lag, LateRecords, Partitions, Results, Totals, Watermark, Worker,
};

/// The step of a checkpoint's age, in seconds.
const AGE_STEP_SECONDS: i64 = 10;

/// The status without its conditions.
pub(super) fn figures(facts: &Facts<'_>, fleet: &Fleet) -> CrashMonitorStatus {
    let previous = facts.previous;
    let workers = workers(facts);
    let grown = grown(&previous.workers, &workers);
    let answers = || facts.answers.values();
    let total = |before: Option<i64>, more: i64| Some(before.unwrap_or(0) + more);
    CrashMonitorStatus {
        observed_generation: Some(facts.generation),
        replicas: fleet.existing,
        ready_replicas: fleet.ready,
        updated_replicas: fleet.updated,
        selector: Some(super::selector(facts)),
        image: facts.monitor.ok().map(|monitor| monitor.image.clone()).or_else(|| previous.image.clone()),
        partitions: partitions(facts).or(previous.partitions),
        lag: lag(facts).or_else(|| previous.lag.clone()),
        watermark: watermark(facts).or_else(|| previous.watermark.clone()),
        late_records: total(previous.late_records.map(|late| late.dropped), grown.late)
            .map(|dropped| LateRecords { dropped }),
        dead_letters: total(previous.dead_letters, grown.dead_letters),
        results: total(previous.results.map(|results| results.emitted), grown.results)
            .map(|emitted| Results { emitted }),
        data_loss: data_loss(previous.data_loss.as_ref(), grown.data_loss, answers()),
        checkpoint: checkpoint(facts).or_else(|| previous.checkpoint.clone()),
        workers,
        conditions: Vec::new(),
    }
}

/// Each pod with what it says; with what it said before if it does not answer at the moment.
fn workers(facts: &Facts<'_>) -> Vec<Worker> {
    let before: BTreeMap<&str, &Worker> =
        facts.previous.workers.iter().map(|worker| (worker.process.as_str(), worker)).collect();
    let mut workers: Vec<Worker> = Vec::with_capacity(facts.pods.len());
    for pod in facts.pods {
        let process = pods::process(pod);
        let known = before.get(process.as_str());
        let ready = pods::is_ready(pod);
        workers.push(match (facts.answers.get(pods::name(pod)), known) {
            (Some(answer), _) => worker(pods::name(pod), process, ready, answer),
            (None, Some(known)) => Worker { ready, ..(*known).clone() },
            (None, None) => Worker { name: pods::name(pod).to_string(), process, ready, ..Worker::default() },
        });
    }
    workers.sort_by_key(|worker| ordinal(&worker.name));
    workers
}

/// Pods are numbered; `worker-10` comes after `worker-9`.
fn ordinal(name: &str) -> (u32, String) {
    let number = name.rsplit_once('-').and_then(|(_, number)| number.parse().ok());
    (number.unwrap_or(u32::MAX), name.to_string())
}

fn worker(name: &str, process: String, ready: bool, answer: &Answer) -> Worker {
    let mut recoveries = BTreeMap::new();
    for recovery in answer.aggregate.values().filter_map(|partition| partition.recovery.clone()) {
        *recoveries.entry(recovery).or_insert(0) += 1;
    }
    Worker {
        name: name.to_string(),
        process,
        ready,
        message: answer.not_ready_reason.as_deref().map(line),
        input_partitions: count(answer.input.len()),
        repartition_partitions: count(answer.aggregate.len()),
        recoveries,
        totals: Totals {
            results: signed(answer.totals.results),
            late: signed(answer.totals.late),
            dead_letters: signed(answer.totals.dead_letters),
            data_loss: signed(answer.totals.data_loss),
        },
    }
}

fn count(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What all processes have counted since the last look. A process that was not there then has counted all that it
/// says.
fn grown(before: &[Worker], now: &[Worker]) -> Totals {
    let mut grown = Totals::default();
    for worker in now {
        let same = before.iter().find(|other| other.process == worker.process);
        let base = same.map(|other| other.totals).unwrap_or_default();
        // The pod's status may be older than its answer: a process that counts less than before is a new one.
        let is_new = worker.totals.results < base.results || worker.totals.dead_letters < base.dead_letters;
        let base = if is_new { Totals::default() } else { base };
        grown.results += worker.totals.results - base.results;
        grown.late += (worker.totals.late - base.late).max(0);
        grown.dead_letters += worker.totals.dead_letters - base.dead_letters;
        grown.data_loss += (worker.totals.data_loss - base.data_loss).max(0);
    }
    grown
}

fn partitions(facts: &Facts<'_>) -> Option<Partitions> {
    let counts = facts.answers.values().map(|answer| answer.partitions);
    let most = counts.max_by_key(|counts| counts.input).filter(|counts| counts.input > 0)?;
    let number = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
    Some(Partitions { input: number(most.input), repartition: number(most.repartition) })
}

/// Nothing before the input is known: no lag is not the same as a lag of zero.
fn lag(facts: &Facts<'_>) -> Option<Lag> {
    partitions(facts)?;
    let partitions = facts.answers.values().flat_map(|answer| answer.input.values());
    let (mut total, mut max) = (0_i64, 0_i64);
    for partition in partitions {
        let lag = partition.lag.max(0);
        total = total.saturating_add(lag);
        max = max.max(lag);
    }
    Some(Lag { total: two_digits(total), max_partition: two_digits(max), observed_at: seconds(facts.now) })
}

/// Rounds up to two digits: 1,234 is 1,300.
fn two_digits(number: i64) -> i64 {
    let mut step = 1_i64;
    while number / step >= 100 {
        step *= 10;
    }
    number.saturating_add(step - 1) / step * step
}

fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

/// The lowest watermark, and who holds it. Nothing unless every partition of the internal topic is reported: the lowest
/// could be one of the others.
fn watermark(facts: &Facts<'_>) -> Option<Watermark> {
    let wanted = partitions(facts)?.repartition;
    let all: BTreeMap<i32, (i64, Option<Holder>)> = facts
        .answers
        .values()
        .flat_map(|answer| &answer.aggregate)
        .filter_map(|(number, partition)| Some((*number, (partition.watermark_ms?, partition.holder))))
        .collect();
    if wanted == 0 || count(all.len()) < wanted {
        return None;
    }
    let (lowest_ms, holder) = all.into_values().min_by_key(|(watermark_ms, _)| *watermark_ms)?;
    let time = Timestamp::from_millisecond(lowest_ms).ok()?;
    let is_quiet = holder.is_some_and(|holder| holder.reason == HoldReason::Idle);
    let lag_seconds = facts.now.duration_since(time).as_secs().max(0);
    Some(Watermark {
        time: Time(time),
        lag_seconds: (!is_quiet).then(|| two_digits(lag_seconds)),
        held_by: holder
            .map(|holder| HeldBy { partition: holder.partition, reason: format!("{:?}", holder.reason) }),
    })
}

fn data_loss<'a>(
    previous: Option<&DataLoss>,
    more: i64,
    answers: impl Iterator<Item = &'a Answer>,
) -> Option<DataLoss> {
    let seen = answers.flat_map(|answer| &answer.data_loss).map(|loss| loss.observed_at_ms).max();
    let seen = seen.and_then(|seen_ms| Timestamp::from_millisecond(seen_ms).ok()).map(seconds);
    let before = previous.map(|loss| loss.last_time.clone());
    Some(DataLoss {
        records: previous.map_or(0, |loss| loss.records) + more,
        last_time: seen.into_iter().chain(before).max_by_key(|time| time.0)?,
    })
}

fn checkpoint(facts: &Facts<'_>) -> Option<Checkpoint> {
    let stored = facts.answers.values().flat_map(|answer| answer.aggregate.values());
    let oldest_ms = stored.filter_map(|partition| partition.last_checkpoint_ms).min()?;
    let time = Timestamp::from_millisecond(oldest_ms).ok()?;
    let age_seconds = facts.now.duration_since(time).as_secs().max(0);
    Some(Checkpoint {
        last_time: seconds(time),
        age_seconds: age_seconds / AGE_STEP_SECONDS * AGE_STEP_SECONDS,
    })
}
