//! What the page shows, as values.
//!
//! Responsible for putting together what the workers of a monitor say each for itself: partitions by number, windows and
//! users over all workers, who holds event time. Pure. Must never turn a word into markup, and must never say more than
//! was seen: what no worker tells is absent.
//!
//! A partition that two workers tell of, as during a rebalance, is shown as the one tells that has come further.

use std::collections::BTreeMap;
use std::sync::Arc;

use crashmonitor_core::config::Config;
use crashmonitor_core::status::{
    HoldReason, Holder, InputPartition, LatenessBucket, OpenWindow, Reachability, State, Status as Answer,
    Totals, UserCount,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event as CoreEvent, Pod};
use kube::ResourceExt;
use serde::Serialize;

use crate::api::{CrashMonitor, DesiredState};
use crate::status::pods;

/// Monitors that are listed.
const MONITORS_MAX: usize = 500;
/// Windows that are shown: the latest.
const WINDOWS_MAX: usize = 16;
/// Users that are named.
const USERS_MAX: usize = 20;
/// Events that are shown: the latest.
const EVENTS_SHOWN_MAX: usize = 30;

/// All monitors.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// When this was so.
    pub observed_at_ms: i64,
    /// Whether all there is has been seen.
    pub is_complete: bool,
    /// By namespace and name.
    pub monitors: Vec<Line>,
    /// How many more there are.
    pub omitted: usize,
}

/// A monitor among others.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// The condition `Ready`, which sums up the rest.
    pub ready: Option<Condition>,
    /// Whether something needs a person.
    pub is_degraded: bool,
    /// Workers that are ready, and that are to be.
    pub ready_replicas: i32,
    /// See there.
    pub replicas: i32,
}

/// A condition, for people.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which.
    pub name: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// In a word.
    pub reason: String,
    /// In a line.
    pub message: String,
}

/// What is shown of all monitors.
pub fn overview(monitors: &[Arc<CrashMonitor>], is_complete: bool, now: Timestamp) -> Overview {
    let lines = monitors.iter().take(MONITORS_MAX).map(|monitor| line(monitor)).collect();
    Overview {
        observed_at_ms: now.as_millisecond(),
        is_complete,
        monitors: lines,
        omitted: monitors.len().saturating_sub(MONITORS_MAX),
    }
}

fn line(monitor: &CrashMonitor) -> Line {
    let conditions = conditions(monitor);
    let is = |name: &str, status: &str| conditions.iter().any(|c| c.name == name && c.status == status);
    Line {
        namespace: monitor.namespace().unwrap_or_default(),
        name: monitor.name_any(),
        is_degraded: is("Degraded", "True"),
        ready: conditions.into_iter().find(|condition| condition.name == "Ready"),
        ready_replicas: monitor.status.as_ref().map_or(0, |status| status.ready_replicas),
        replicas: monitor.spec.replicas,
    }
}

fn conditions(monitor: &CrashMonitor) -> Vec<Condition> {
    let given = monitor.status.iter().flat_map(|status| &status.conditions);
    given
        .map(|condition| Condition {
            name: condition.type_.clone(),
            status: condition.status.clone(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
        })
        .collect()
}

/// A monitor that is not there.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Missing {
    namespace: String,
    name: String,
    /// Always; false where it is not known yet.
    is_missing: bool,
}

impl Missing {
    /// It is missing only if all there is has been seen.
    pub fn new(namespace: &str, name: &str, is_complete: bool) -> Missing {
        Missing { namespace: namespace.to_owned(), name: name.to_owned(), is_missing: is_complete }
    }
}

/// What is known of a monitor.
pub struct Facts<'a> {
    /// The resource.
    pub resource: &'a CrashMonitor,
    /// Its configuration, if it can be used.
    pub checked: Option<&'a Config>,
    /// The pods of its workers, in the order in which they are shown.
    pub pods: &'a [Arc<Pod>],
    /// What they answered, by pod.
    pub answers: &'a BTreeMap<String, Answer>,
    /// Its events in any order; None if they could not be read.
    pub events: Option<&'a [CoreEvent]>,
    /// The clock.
    pub now: Timestamp,
}

/// A monitor.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Monitor {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// When this was so.
    pub observed_at_ms: i64,
    /// Whether it is to run.
    pub is_suspended: bool,
    /// What it reads, counts and writes.
    pub query: Option<Query>,
    /// All conditions.
    pub conditions: Vec<Condition>,
    /// Event time, if every repartition partition has one.
    pub watermark_ms: Option<i64>,
    /// Who holds it.
    pub holder: Option<Holder>,
    /// Records that are not read yet.
    pub lag: i64,
    /// Every partition of the input.
    pub sources: Vec<Source>,
    /// Every partition of the repartition topic.
    pub shards: Vec<Shard>,
    /// Open windows by their start.
    pub windows: Vec<OpenWindow>,
    /// How many repartition partitions a complete window must be complete in.
    pub shard_count: u32,
    /// The users with most crashes in a window; None if no worker names any.
    pub users: Option<Vec<UserCount>>,
    /// How late crashes came, over all workers since each began.
    pub lateness: Vec<LatenessBucket>,
    /// The workers.
    pub workers: Vec<Worker>,
    /// What happened, the last first; None if it could not be read.
    pub events: Option<Vec<Event>>,
}

/// What is counted.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Query {
    /// The topic that is read.
    pub input: String,
    /// The topic that is written.
    pub output: String,
    /// Length of a window.
    pub window_ms: u64,
    /// How long a complete window goes on counting.
    pub allowed_lateness_ms: u64,
    /// Users above it are written.
    pub count_greater_than: u64,
}

/// A partition of the input.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Its number.
    pub partition: i32,
    /// Who reads it; None: nobody says so.
    pub worker: Option<String>,
    /// What that worker says.
    #[serde(flatten)]
    pub state: Option<InputPartition>,
    /// For how many repartition partitions it holds event time.
    pub holds: usize,
    /// And why.
    pub hold_reason: Option<HoldReason>,
}

/// A partition of the repartition topic.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shard {
    /// Its number.
    pub partition: i32,
    /// Who counts it; None: nobody says so.
    pub worker: Option<String>,
    /// Up to where event time is complete.
    pub watermark_ms: Option<i64>,
    /// Who holds it.
    pub holder: Option<Holder>,
    /// Windows that still count.
    pub open_windows: u64,
    /// How its state came to be.
    pub recovery: Option<String>,
    /// When its last snapshot was stored.
    pub last_checkpoint_ms: Option<i64>,
}

/// A worker.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Worker {
    /// The pod.
    pub name: String,
    /// Where it runs.
    pub node: Option<String>,
    /// What Kubernetes says: `Pending`, `Running` …
    pub phase: String,
    /// Whether Kubernetes takes it for ready.
    pub is_ready: bool,
    /// Whether it is on its way out.
    pub is_leaving: bool,
    /// How often it was started again.
    pub restarts: i32,
    /// What it says of itself; None if it did not answer.
    pub answer: Option<WorkerAnswer>,
}

/// What a worker says of itself.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerAnswer {
    /// The worker's version.
    pub version: String,
    /// When it said so.
    pub observed_at_ms: i64,
    /// Why it does not do its work.
    pub not_ready_reason: Option<String>,
    /// The input partitions that it reads.
    pub input: Vec<i32>,
    /// The repartition partitions that it counts.
    pub repartition: Vec<i32>,
    /// What the counts take.
    pub state: State,
    /// Counts since it began.
    pub totals: Totals,
    /// The connection to Kafka.
    pub kafka: Reachability,
    /// The connection to Redis.
    pub checkpoint_store: Option<Reachability>,
}

/// Something that happened.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When it happened last.
    pub time_ms: i64,
    /// Whether it is a warning.
    pub is_warning: bool,
    /// In a word.
    pub reason: String,
    /// In a line.
    pub note: String,
    /// How often.
    pub count: i32,
}

/// What is shown of a monitor.
pub fn monitor(facts: &Facts<'_>) -> Monitor {
    let shards = shards(facts);
    let slowest = shards.iter().min_by_key(|shard| shard.watermark_ms);
    let sources = sources(facts, &shards);
    Monitor {
        namespace: facts.resource.namespace().unwrap_or_default(),
        name: facts.resource.name_any(),
        observed_at_ms: facts.now.as_millisecond(),
        is_suspended: facts.resource.spec.desired_state == DesiredState::Suspended,
        query: facts.checked.map(query),
        conditions: conditions(facts.resource),
        watermark_ms: slowest.and_then(|shard| shard.watermark_ms),
        holder: slowest.and_then(|shard| shard.holder),
        lag: sources.iter().filter_map(|source| source.state.as_ref()).map(|state| state.lag).sum(),
        shard_count: u32::try_from(shards.len()).unwrap_or(u32::MAX),
        sources,
        shards,
        windows: windows(facts.answers),
        users: users(facts.answers),
        lateness: lateness(facts.answers),
        workers: facts.pods.iter().map(|pod| worker(pod, facts.answers.get(pods::name(pod)))).collect(),
        events: facts.events.map(events),
    }
}

fn query(config: &Config) -> Query {
    let millis = |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    Query {
        input: config.input.topic.as_str().to_owned(),
        output: config.output.topic.as_str().to_owned(),
        window_ms: millis(config.window.size),
        allowed_lateness_ms: millis(config.window.allowed_lateness),
        count_greater_than: config.count_greater_than,
    }
}

/// As many as any worker knows of; a partition that nobody owns is among them.
fn numbers(count: impl Fn(&Answer) -> u32, owned: impl Iterator<Item = i32>, facts: &Facts<'_>) -> Vec<i32> {
    let known = facts.answers.values().map(count).max().unwrap_or(0);
    let count = owned.map(|partition| partition + 1).chain([known.cast_signed()]).max().unwrap_or(0);
    (0..count).collect()
}

fn sources(facts: &Facts<'_>, shards: &[Shard]) -> Vec<Source> {
    let mut told: BTreeMap<i32, (&String, &InputPartition)> = BTreeMap::new();
    for (pod, answer) in facts.answers {
        for (&partition, state) in &answer.input {
            if told.get(&partition).is_none_or(|(_, other)| other.position < state.position) {
                told.insert(partition, (pod, state));
            }
        }
    }
    let numbers = numbers(|answer| answer.partitions.input, told.keys().copied(), facts).into_iter();
    let source = |partition| {
        let held = || {
            let holders = shards.iter().filter_map(|shard| shard.holder);
            holders.filter(|holder| holder.partition == Some(partition))
        };
        Source {
            partition,
            worker: told.get(&partition).map(|(pod, _)| (*pod).clone()),
            state: told.get(&partition).map(|(_, state)| (*state).clone()),
            holds: held().count(),
            hold_reason: held().map(|holder| holder.reason).next(),
        }
    };
    numbers.map(source).collect()
}

fn shards(facts: &Facts<'_>) -> Vec<Shard> {
    let mut told: BTreeMap<i32, Shard> = BTreeMap::new();
    for (pod, answer) in facts.answers {
        for (&partition, state) in &answer.aggregate {
            if told.get(&partition).is_none_or(|other| other.watermark_ms < state.watermark_ms) {
                let shard = Shard {
                    partition,
                    worker: Some(pod.clone()),
                    watermark_ms: state.watermark_ms,
                    holder: state.holder,
                    open_windows: state.open_windows,
                    recovery: state.recovery.clone(),
                    last_checkpoint_ms: state.last_checkpoint_ms,
                };
                told.insert(partition, shard);
            }
        }
    }
    let owned: Vec<i32> = told.keys().copied().collect();
    let numbers = numbers(|answer| answer.partitions.repartition, owned.into_iter(), facts).into_iter();
    numbers.map(|partition| told.remove(&partition).unwrap_or_else(|| unowned(partition))).collect()
}

fn unowned(partition: i32) -> Shard {
    Shard {
        partition,
        worker: None,
        watermark_ms: None,
        holder: None,
        open_windows: 0,
        recovery: None,
        last_checkpoint_ms: None,
    }
}

/// A user is counted by one worker, so what workers say of a window adds up.
fn windows(answers: &BTreeMap<String, Answer>) -> Vec<OpenWindow> {
    let mut sums: BTreeMap<i64, OpenWindow> = BTreeMap::new();
    let add = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a + b);
    for window in answers.values().flat_map(|answer| &answer.windows) {
        match sums.get_mut(&window.start_ms) {
            None => drop(sums.insert(window.start_ms, OpenWindow { complete_in: 0, ..*window })),
            Some(sum) => {
                sum.users += window.users;
                sum.crashes = add(sum.crashes, window.crashes);
                sum.above = add(sum.above, window.above);
            }
        }
    }
    // By the watermarks, not by what workers count: one without a crash in a window does not tell of it.
    let watermarks: Vec<i64> = answers
        .values()
        .flat_map(|answer| answer.aggregate.values().filter_map(|partition| partition.watermark_ms))
        .collect();
    for window in sums.values_mut() {
        window.complete_in =
            watermarks.iter().filter(|&&watermark| window.end_ms <= watermark).count() as u64;
    }
    let omitted = sums.len().saturating_sub(WINDOWS_MAX);
    sums.into_values().skip(omitted).collect()
}

fn users(answers: &BTreeMap<String, Answer>) -> Option<Vec<UserCount>> {
    let mut users: Vec<UserCount> =
        answers.values().filter_map(|answer| answer.users.clone()).flatten().collect();
    users.sort_by(|a, b| (b.crashes, b.start_ms, &a.user).cmp(&(a.crashes, a.start_ms, &b.user)));
    users.truncate(USERS_MAX);
    answers.values().any(|answer| answer.users.is_some()).then_some(users)
}

fn lateness(answers: &BTreeMap<String, Answer>) -> Vec<LatenessBucket> {
    // None, which has no bound, comes last.
    let mut sums: BTreeMap<i64, LatenessBucket> = BTreeMap::new();
    for bucket in answers.values().flat_map(|answer| &answer.lateness) {
        let sum = sums.entry(bucket.up_to_ms.unwrap_or(i64::MAX));
        sum.or_insert(LatenessBucket { records: 0, ..*bucket }).records += bucket.records;
    }
    sums.into_values().collect()
}

fn worker(pod: &Pod, answer: Option<&Answer>) -> Worker {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    Worker {
        name: pods::name(pod).to_owned(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        phase: status.and_then(|status| status.phase.clone()).unwrap_or_default(),
        is_ready: pods::is_ready(pod),
        is_leaving: pod.metadata.deletion_timestamp.is_some(),
        restarts: containers.iter().map(|container| container.restart_count).sum(),
        answer: answer.map(|answer| WorkerAnswer {
            version: answer.version.clone(),
            observed_at_ms: answer.observed_at_ms,
            not_ready_reason: answer.not_ready_reason.clone(),
            input: answer.input.keys().copied().collect(),
            repartition: answer.aggregate.keys().copied().collect(),
            state: answer.state,
            totals: answer.totals,
            kafka: answer.kafka.clone(),
            checkpoint_store: answer.checkpoint_store.clone(),
        }),
    }
}

fn events(events: &[CoreEvent]) -> Vec<Event> {
    let mut shown: Vec<Event> = events.iter().filter_map(event).collect();
    shown.sort_by_key(|event| std::cmp::Reverse(event.time_ms));
    shown.truncate(EVENTS_SHOWN_MAX);
    shown
}

fn event(event: &CoreEvent) -> Option<Event> {
    let series = event.series.as_ref();
    let last = series.and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let last = last.or_else(|| event.last_timestamp.as_ref().map(|time| time.0));
    let last = last.or_else(|| event.event_time.as_ref().map(|time| time.0));
    let last = last.or_else(|| event.metadata.creation_timestamp.as_ref().map(|time| time.0))?;
    Some(Event {
        time_ms: last.as_millisecond(),
        is_warning: event.type_.as_deref() == Some("Warning"),
        reason: event.reason.clone().unwrap_or_default(),
        note: event.message.clone().unwrap_or_default(),
        count: series.and_then(|series| series.count).or(event.count).unwrap_or(1).max(1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crashmonitor_core::status::{AggregatePartition, PartitionCounts};
    use serde_json::{Value, json};

    fn resource() -> CrashMonitor {
        let resource = json!({
            "apiVersion": "crashmonitor.dev/v1alpha1", "kind": "CrashMonitor",
            "metadata": {"name": "checkout", "namespace": "shop"},
            "spec": {"kafka": {"bootstrapServers": "kafka:9092"}, "input": {"topic": "logs"}},
        });
        serde_json::from_value(resource).unwrap()
    }

    fn shard(watermark_ms: i64, holder: i32) -> AggregatePartition {
        let holder = Some(Holder { partition: Some(holder), reason: HoldReason::Lagging });
        AggregatePartition { watermark_ms: Some(watermark_ms), holder, ..AggregatePartition::default() }
    }

    fn window(start_ms: i64, crashes: Option<u64>) -> OpenWindow {
        OpenWindow { start_ms, end_ms: start_ms + 10, users: 2, crashes, above: crashes, complete_in: 0 }
    }

    fn user(user: &str, crashes: u64) -> UserCount {
        UserCount { user: user.to_owned(), start_ms: 0, crashes }
    }

    /// Two workers with one partition of three each.
    fn answers() -> BTreeMap<String, Answer> {
        let answer = |number: i32, watermark_ms| {
            let mut answer =
                Answer { partitions: PartitionCounts { input: 3, repartition: 2 }, ..Answer::default() };
            let state = InputPartition { position: 10, lag: 5, ..InputPartition::default() };
            answer.input.insert(number, state);
            answer.aggregate.insert(number, shard(watermark_ms, 1));
            answer.lateness = vec![
                LatenessBucket { up_to_ms: Some(0), records: 3 },
                LatenessBucket { up_to_ms: None, records: 1 },
            ];
            answer
        };
        let (mut first, mut second) = (answer(0, 20), answer(1, 35));
        first.windows = vec![window(10, Some(4)), window(20, Some(1))];
        second.windows = vec![window(10, Some(3)), window(20, None)];
        first.users = Some(vec![user("ann", 3), user("bob", 1)]);
        second.users = Some(vec![user("<eve>", 2)]);
        [("w-0".to_owned(), first), ("w-1".to_owned(), second)].into()
    }

    fn seen(answers: &BTreeMap<String, Answer>, events: Option<&[CoreEvent]>) -> Monitor {
        let (resource, now) = (resource(), Timestamp::UNIX_EPOCH);
        monitor(&Facts { resource: &resource, checked: None, pods: &[], answers, events, now })
    }

    #[test]
    fn partitions_of_all_workers_are_put_together_and_a_lost_one_is_seen() {
        let seen = seen(&answers(), None);
        let workers: Vec<Option<&str>> = seen.sources.iter().map(|source| source.worker.as_deref()).collect();
        assert_eq!(workers, [Some("w-0"), Some("w-1"), None]);
        assert_eq!((seen.lag, seen.shard_count), (10, 2));
        assert_eq!((seen.sources[1].holds, seen.sources[0].holds), (2, 0));
        assert_eq!((seen.watermark_ms, seen.holder.unwrap().partition), (Some(20), Some(1)));
        let json: Value = serde_json::to_value(&seen).unwrap();
        assert_eq!((&json["sources"][0]["lag"], &json["sources"][2]["lag"]), (&json!(5), &Value::Null));
    }

    #[test]
    fn a_partition_that_two_tell_of_is_the_one_s_that_is_further() {
        let mut answers = answers();
        let newer = InputPartition { position: 11, ..InputPartition::default() };
        answers.get_mut("w-1").unwrap().input.insert(0, newer);
        answers.get_mut("w-0").unwrap().aggregate.insert(1, shard(5, 0));
        let seen = seen(&answers, None);
        assert_eq!(seen.sources[0].worker.as_deref(), Some("w-1"));
        assert_eq!(seen.shards[1].watermark_ms, Some(35));
    }

    #[test]
    fn event_time_is_unknown_while_a_shard_has_none() {
        let mut answers = answers();
        answers.remove("w-1");
        let seen = seen(&answers, None);
        assert_eq!((seen.watermark_ms, seen.shards[1].worker.as_deref()), (None, None));
    }

    #[test]
    fn windows_and_users_and_lateness_add_up() {
        let seen = seen(&answers(), None);
        assert_eq!(
            (seen.windows[0].crashes, seen.windows[0].users, seen.windows[0].complete_in),
            (Some(7), 4, 2)
        );
        assert_eq!((seen.windows[1].crashes, seen.windows[1].complete_in), (None, 1));
        let users: Vec<String> = seen.users.unwrap().into_iter().map(|user| user.user).collect();
        assert_eq!(users, ["ann", "<eve>", "bob"]);
        assert_eq!(seen.lateness.iter().map(|bucket| bucket.records).collect::<Vec<_>>(), [6, 2]);
        assert_eq!(super::monitor(&nobody(&resource())).users, None);
    }

    fn nobody(resource: &CrashMonitor) -> Facts<'_> {
        static NONE: BTreeMap<String, Answer> = BTreeMap::new();
        let now = Timestamp::UNIX_EPOCH;
        Facts { resource, checked: None, pods: &[], answers: &NONE, events: None, now }
    }

    #[test]
    fn the_latest_events_come_first_whatever_says_when_they_were() {
        let event = |reason: &str, time: Value| {
            let mut event = json!({"metadata": {}, "involvedObject": {}, "reason": reason});
            event.as_object_mut().unwrap().extend(time.as_object().unwrap().clone());
            serde_json::from_value::<CoreEvent>(event).unwrap()
        };
        let events = [
            event("Old", json!({"lastTimestamp": "2026-01-01T00:00:01Z"})),
            event(
                "Repeated",
                json!({
                    "eventTime": "2026-01-01T00:00:00.000000Z",
                    "series": {"count": 7, "lastObservedTime": "2026-01-01T00:00:09.000000Z"},
                }),
            ),
            event("New", json!({"eventTime": "2026-01-01T00:00:05.000000Z", "type": "Warning"})),
            event("Timeless", json!({})),
        ];
        let shown = seen(&answers(), Some(&events)).events.unwrap();
        let told: Vec<(&str, i32, bool)> =
            shown.iter().map(|event| (event.reason.as_str(), event.count, event.is_warning)).collect();
        assert_eq!(told, [("Repeated", 7, false), ("New", 1, true), ("Old", 1, false)]);
    }
}
