//! What the output must be, from the input log alone: shares no code with `core`.
//!
//! Every event of the input is counted exactly once: in its interval, or in the late topic. So for each (interval, user)
//! the last count is the number of its events less the late ones, shown if it is above the threshold. Records that
//! retention took before the scan group had committed them may be missing, if a shard has said so; nothing else may.

use std::collections::{BTreeMap, BTreeSet};

use crashmonitor_core::aggregate::Mode;
use crashmonitor_core::scan::start::StartingOffsets;
use serde_json::Value;

use crate::input::{Partition, Slot};
use crate::kafka::Kafka;
use crate::setup::Setup;
use crate::transactions::Written;

/// Start of the interval, user.
type Key = (i64, String);

struct Event {
    time: i64,
    user: String,
    /// The highest event time before it in its partition.
    mark_before: i64,
    appended_at: i64,
    /// It was taken by retention, perhaps unread.
    may_be_lost: bool,
}

#[derive(Default)]
pub struct Checker {
    /// By their place in the output topic: a reader sees them in this order, whenever they were committed.
    counts: BTreeMap<Key, BTreeMap<usize, u64>>,
    late: BTreeMap<(u32, u64), i64>,
}

impl Checker {
    /// At every step: nothing is written twice.
    pub fn look(&mut self, kafka: &mut Kafka, setup: &Setup) -> Result<(), String> {
        for at in std::mem::take(&mut kafka.transactions.committed) {
            match &kafka.transactions.output[at] {
                Written::Result(outcome) => {
                    let key = (outcome.start.as_millis(), outcome.user.clone());
                    let counts = self.counts.entry(key.clone()).or_default();
                    counts.insert(at, outcome.count);
                    let grows = counts.values().zip(counts.values().skip(1)).all(|(one, next)| one < next);
                    if !grows || (setup.mode == Mode::Final && counts.len() > 1) {
                        return Err(format!("doubled: {key:?} with counts {counts:?}"));
                    }
                }
                Written::Late(event) => {
                    let key = (event.source.0, event.offset.0);
                    if self.late.insert(key, event.time.as_millis()).is_some() {
                        return Err(format!("late twice: {event:?}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// At the end, when every window has closed: nothing lost, nothing wrong, nothing late without need.
    pub fn judge(
        &self,
        kafka: &Kafka,
        setup: &Setup,
        dead_letters: &BTreeSet<(u32, u64)>,
        losses: &BTreeSet<(u32, u64, u64)>,
        clock_ahead_ms: i64,
    ) -> Result<(), String> {
        let unread = |source: u32, at: u64| {
            kafka.input.unread.iter().any(|&(p, from, to)| p == source && (from..to).contains(&at))
        };
        if let Some(loss) =
            losses.iter().find(|&&(source, from, to)| !(from..to).all(|at| unread(source, at)))
        {
            return Err(format!("a loss without need: {loss:?}, retention took {:?}", kafka.input.unread));
        }
        let is_late =
            |(p, log): (u32, &Partition)| kafka.scan.first.get(&p).is_some_and(|at| *at > log.start);
        if setup.starting_offsets == StartingOffsets::Earliest
            && let Some(partition) = (0..).zip(&kafka.input.partitions).position(is_late)
        {
            return Err(format!("partition {partition} was not read from its beginning"));
        }
        let (mut events, dead) = read(kafka, setup, &unread);
        if let Some(at) = dead.iter().find(|at| !dead_letters.contains(at) && !unread(at.0, at.1)) {
            return Err(format!("no dead letter for {at:?}"));
        }
        for (at, time) in &self.late {
            let event = events.remove(at).ok_or_else(|| format!("the late event {at:?} is none"))?;
            let end = event.time - event.time.rem_euclid(setup.window_ms) + setup.window_ms;
            // Its own source allows no watermark beyond its mark, or beyond the wall clock if it was idle before.
            let reached = event.mark_before.max(event.appended_at + clock_ahead_ms);
            // A partition that was added may run late until everybody has heard of it (rule 5).
            let was_announced = kafka.announced_at.get(&at.0).is_some_and(|then| *then <= event.appended_at);
            let is_new = at.0 as usize >= setup.sources && !was_announced;
            let is_needless = !is_new && end > reached - setup.out_of_orderness_ms - setup.lateness_ms;
            if *time != event.time || is_needless {
                return Err(format!("late without need: {at:?} of {time}, its source had reached {reached}"));
            }
        }
        let lost =
            |at: &(u32, u64)| losses.iter().any(|(p, from, to)| *p == at.0 && (*from..*to).contains(&at.1));
        let mut expected: BTreeMap<Key, (u64, u64)> = BTreeMap::new();
        for (at, event) in events {
            let key = (event.time - event.time.rem_euclid(setup.window_ms), event.user);
            let (least, most) = expected.entry(key).or_default();
            *most += 1;
            *least += u64::from(!(event.may_be_lost && lost(&at)));
        }
        self.compare(&expected, setup.threshold)
    }

    fn compare(&self, expected: &BTreeMap<Key, (u64, u64)>, threshold: u64) -> Result<(), String> {
        for (key, counts) in &self.counts {
            let got = counts.values().max().copied().unwrap_or(0);
            let (least, most) = expected.get(key).copied().unwrap_or((0, 0));
            if !(least..=most).contains(&got) || got <= threshold {
                return Err(format!("wrong: {key:?} is {got}, should be {least} to {most}"));
            }
        }
        let is_missing =
            |(key, (least, _)): &(&Key, &(u64, u64))| *least > threshold && !self.counts.contains_key(*key);
        match expected.iter().find(is_missing) {
            Some((key, counts)) => Err(format!("lost: {key:?} should be {counts:?}, is not there")),
            None => Ok(()),
        }
    }
}

enum Meaning {
    Nothing,
    Dead,
    Pass(i64),
    Crash(i64, String),
}

/// What the semantics say of one record, read with a library and nothing else.
fn meaning(bytes: &[u8], appended_at: i64, setup: &Setup) -> Meaning {
    let Ok(Value::Object(fields)) = serde_json::from_slice::<Value>(bytes) else { return Meaning::Dead };
    let Some(time) = fields.get("timestamp").and_then(Value::as_i64) else { return Meaning::Dead };
    if time > appended_at + 2 * setup.future_skew_ms {
        return Meaning::Dead;
    }
    let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
    let is_crash = text("content").is_some_and(|content| content.to_lowercase().contains("crash"));
    let is_severe = text("severity").is_some_and(|s| ["High", "Critical"].contains(&s.as_str()));
    match (is_crash && is_severe, text("user_id")) {
        (false, _) => Meaning::Pass(time),
        (true, Some(user)) => Meaning::Crash(time, user),
        (true, None) => Meaning::Dead,
    }
}

type Events = BTreeMap<(u32, u64), Event>;

/// The events of the input, and what is to be a dead letter.
fn read(kafka: &Kafka, setup: &Setup, unread: &impl Fn(u32, u64) -> bool) -> (Events, Vec<(u32, u64)>) {
    let (mut events, mut dead) = (BTreeMap::new(), Vec::new());
    for (partition, log) in (0..).zip(&kafka.input.partitions) {
        let mut mark_before = i64::MIN;
        // Retention may have come before the start.
        let begin = kafka.scan.first.get(&partition).copied().unwrap_or(0);
        for (offset, slot) in (0..).zip(&log.slots).skip_while(|(offset, _)| *offset < begin) {
            let Slot::Record { value, appended_at } = slot else { continue };
            let said = value.as_ref().map_or(Meaning::Nothing, |bytes| meaning(bytes, *appended_at, setup));
            match said {
                Meaning::Nothing => {}
                Meaning::Dead => dead.push((partition, offset)),
                Meaning::Pass(time) => mark_before = mark_before.max(time),
                Meaning::Crash(time, user) => {
                    let may_be_lost = unread(partition, offset);
                    let event = Event { time, user, mark_before, appended_at: *appended_at, may_be_lost };
                    events.insert((partition, offset), event);
                    mark_before = mark_before.max(time);
                }
            }
        }
    }
    (events, dead)
}
