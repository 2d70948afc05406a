//! What the output must be, from the input log alone: shares no code with `core`.
//!
//! Every event of the input is counted exactly once: in its interval, or in the late topic. So for each (interval, user)
//! the last count is the number of its events less the late ones, shown if it is above the threshold.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::kafka::{Kafka, Slot};
use crate::world::Setup;

type Key = (i64, String);

struct Event {
    time: i64,
    user: String,
    /// The highest event time before it in its partition.
    mark_before: i64,
    appended_at: i64,
}

fn events(kafka: &Kafka) -> BTreeMap<(u32, u64), Event> {
    let mut events = BTreeMap::new();
    for (partition, log) in kafka.input.iter().enumerate() {
        let mut mark_before = i64::MIN;
        for (offset, slot) in log.iter().enumerate() {
            let Slot::Record { value: Some(bytes), appended_at } = slot else { continue };
            let Ok(Value::Object(fields)) = serde_json::from_slice::<Value>(bytes) else { continue };
            let Some(time) = fields.get("timestamp").and_then(Value::as_i64) else { continue };
            let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
            if text("content").contains("crash") && ["High", "Critical"].contains(&text("severity").as_str())
            {
                let (user, appended_at) = (text("user_id"), *appended_at);
                let event = Event { time, user, mark_before, appended_at };
                events.insert((partition as u32, offset as u64), event);
            }
            mark_before = mark_before.max(time);
        }
    }
    events
}

/// At every step: nothing written twice.
pub fn nothing_doubled(kafka: &Kafka, setup: &Setup) -> Result<(), String> {
    let mut last: BTreeMap<Key, u64> = BTreeMap::new();
    for outcome in &kafka.results {
        let key = (outcome.start.as_millis(), outcome.user.clone());
        match last.insert(key.clone(), outcome.count) {
            Some(before) if setup.final_mode => {
                return Err(format!("{key:?} twice: {before}, {}", outcome.count));
            }
            Some(before) if before >= outcome.count => {
                return Err(format!("{key:?} went from {before} to {}", outcome.count));
            }
            _ => {}
        }
    }
    let mut seen = BTreeSet::new();
    match kafka.late.iter().find(|event| !seen.insert((event.source, event.offset))) {
        Some(twice) => Err(format!("late twice: {twice:?}")),
        None => Ok(()),
    }
}

/// At the end, when every window has closed: nothing lost, nothing wrong, nothing late without need.
pub fn complete(kafka: &Kafka, setup: &Setup) -> Result<(), String> {
    nothing_doubled(kafka, setup)?;
    let mut events = events(kafka);
    for late in &kafka.late {
        let at = (late.source.0, late.offset.0);
        let event = events.remove(&at).ok_or_else(|| format!("late event is none: {late:?}"))?;
        let end = event.time - event.time.rem_euclid(setup.window_ms) + setup.window_ms;
        // Its own source allows no watermark beyond its mark, or beyond the wall clock if it was idle before.
        let reached = event.mark_before.max(event.appended_at + setup.clock_skew_ms);
        if end > reached - setup.out_of_orderness_ms - setup.lateness_ms {
            return Err(format!("late without need: {late:?}, its source had reached {reached}"));
        }
    }
    let mut expected: BTreeMap<Key, u64> = BTreeMap::new();
    for event in events.into_values() {
        *expected.entry((event.time - event.time.rem_euclid(setup.window_ms), event.user)).or_default() += 1;
    }
    expected.retain(|_, count| *count > setup.threshold);
    let got: BTreeMap<Key, u64> =
        kafka.results.iter().map(|o| ((o.start.as_millis(), o.user.clone()), o.count)).collect();
    for (key, count) in &expected {
        if got.get(key) != Some(count) {
            return Err(format!("{key:?} should be {count}, is {:?}", got.get(key)));
        }
    }
    match got.keys().find(|key| !expected.contains_key(*key)) {
        Some(key) => Err(format!("{key:?} should not be there, is {}", got[key])),
        None => Ok(()),
    }
}
