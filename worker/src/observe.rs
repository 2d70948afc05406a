//! Looks at Kafka from outside the groups, once a second.
//!
//! Responsible for what no consumer is told: how many partitions the input has, how far their logs reach, how far the
//! aggregate group has committed, and whether a group has left a partition to nobody. Must never be waited for: whoever
//! needs its facts takes the last ones.

use std::thread;
use std::time::{Duration, Instant};

use crashmonitor_core::ids::{LogOffset, TopicId};
use crashmonitor_core::orphans::{Remedy, Watch};
use crashmonitor_core::scan::drive::{Observed, progress};
use crashmonitor_core::scan::start::AggregateProgress;

use crate::driver::{LOOP_BOUND, REQUEST_TIMEOUT, Shared, now, show_health};
use crate::kafka::batch::{CommittedValue, TopicFacts};
use crate::kafka::{self, Reachability};
use crate::run::Error;

/// How often ends and commits are looked at. An idle source says so again with each look.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often before every repartition partition has a commit: a new monitor waits for it.
const FIRST_LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How often the input's partitions are counted, so that new ones are announced before they run late.
const TOPIC_INTERVAL: Duration = Duration::from_secs(5);

/// How often it is looked whether every partition has an owner.
const GROUP_INTERVAL: Duration = Duration::from_secs(5);

/// What is known of both groups.
struct Groups {
    began: Instant,
    looked: Instant,
    scan: Watch,
    aggregate: Watch,
}

/// Looks until the worker ends.
pub fn run(shared: &Shared) -> Result<(), Error> {
    let now = Instant::now();
    let mut groups = Groups { began: now, looked: now, scan: Watch::default(), aggregate: Watch::default() };
    let heartbeat = shared.context.admin.register("observe", LOOP_BOUND);
    let mut topic: Option<(TopicFacts, Instant)> = None;
    let mut said = String::new();
    while !shared.is_ending() {
        heartbeat.beat();
        let begun = Instant::now();
        let mut interval = FIRST_LOOK_INTERVAL;
        match look(shared, &mut topic) {
            Ok(observed) => {
                if observed.aggregate != AggregateProgress::Incomplete {
                    interval = LOOK_INTERVAL;
                }
                said.clear();
                let sources = observed.sources;
                shared.publish(observed);
                if groups.looked.elapsed() >= GROUP_INTERVAL {
                    groups.look(shared, sources);
                }
            }
            Err(error) => {
                let text = error.to_string();
                if text != said {
                    tracing::warn!("Kafka: {text}; trying again");
                }
                said = text;
                interval = LOOK_INTERVAL;
            }
        }
        report(shared);
        // Short naps, so that an end is not kept waiting.
        while begun.elapsed() < interval && !shared.is_ending() {
            thread::sleep(Duration::from_millis(20));
        }
    }
    shared.context.admin.unregister("observe");
    Ok(())
}

impl Groups {
    fn look(&mut self, shared: &Shared, sources: u32) {
        self.looked = Instant::now();
        let now_ms = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
        let (config, clients) = (shared.config(), &shared.context.clients);
        let scan_members: Vec<String> =
            (0..config.worker.scan_threads).map(|thread| clients.scan_member(thread)).collect();
        let aggregate_members = [clients.aggregate_member()];
        let (input, repartition) = (&config.input.topic, config.repartition_topic());
        let shards = config.repartition.partitions;
        let scan = (config.scan_group(), input.as_str(), sources, &scan_members[..]);
        let aggregate = (config.aggregate_group(), repartition.as_str(), shards, &aggregate_members[..]);
        for (watch, (group, topic, partitions, ours)) in
            [(&mut self.scan, scan), (&mut self.aggregate, aggregate)]
        {
            let members = shared.observer.members(group, topic, REQUEST_TIMEOUT).unwrap_or_else(|error| {
                // A group that can't be seen is not acted on, and is seen again soon.
                tracing::debug!("{error}");
                None
            });
            let is_ours = |name: &str| ours.iter().any(|member| member == name);
            if let Some(Remedy { member, orphans }) = watch.look(members, partitions, is_ours, now_ms) {
                tracing::warn!(
                    ?orphans,
                    topic,
                    "the group has given partitions to nobody: {member} joins it anew, so that it assigns them"
                );
                shared.ask_to_rejoin(member);
            }
        }
    }
}

fn report(shared: &Shared) {
    let health = shared.context.clients.health();
    shared.context.admin.metrics().set_kafka_connected(health.get() == Reachability::Reachable);
    let repartition = shared.config().repartition.partitions;
    let input = shared.observed().map_or(0, |observed| observed.sources);
    shared.context.admin.update_status(|status| {
        show_health(status, health);
        (status.partitions.input, status.partitions.repartition) = (input, repartition);
        status.observed_at_ms = now().as_millis();
    });
}

fn look(shared: &Shared, topic: &mut Option<(TopicFacts, Instant)>) -> Result<Observed, kafka::Error> {
    shared.observer.serve();
    let config = shared.config();
    let input = config.input.topic.as_str();
    let facts = match topic {
        Some((facts, at)) if at.elapsed() < TOPIC_INTERVAL => *facts,
        _ => {
            let facts = shared.observer.describe_topic(input, REQUEST_TIMEOUT)?;
            let facts = facts.ok_or_else(|| kafka::Error::Unexpected {
                what: format!("describe topic {input}"),
                reason: "there is no such topic any more".to_owned(),
            })?;
            topic.insert((facts, Instant::now())).0
        }
    };
    let shards: Vec<i32> = (0..config.repartition.partitions.cast_signed()).collect();
    let repartition = config.repartition_topic().as_str();
    let committed = shared.observer.committed(repartition, &shards, REQUEST_TIMEOUT)?;
    let value = |value: CommittedValue| (LogOffset(value.offset.max(0).cast_unsigned()), value.metadata);
    let committed: Vec<_> = committed.into_iter().map(|partition| partition.value.map(value)).collect();
    let (aggregate, watermark) = progress(&committed);
    let mut owned = shared.owned();
    owned.retain(|&partition| partition.cast_unsigned() < facts.partitions);
    // The clock first: "up to here there was nothing more".
    let ends_at = now();
    let ends = shared.observer.high_watermarks(input, &owned, REQUEST_TIMEOUT)?;
    let ends = ends.into_iter().map(|(p, end)| (p.cast_unsigned(), end.max(0).cast_unsigned())).collect();
    let input_topic = TopicId(facts.topic_id);
    Ok(Observed { input_topic, sources: facts.partitions, aggregate, watermark, ends, ends_at })
}
