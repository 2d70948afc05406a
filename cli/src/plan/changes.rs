//! What differs between two specs, and what the operator does about it.
//!
//! Responsible for the list of changed fields and for the effect of each. There is no list of effects by field: each
//! change is made alone, built as the operator builds it, and what differs then is the effect. Pure. Must never take a
//! change for harmless because it can't be built alone: then the effect is that of all changes together.

use std::fmt;

use crashmonitor_operator::api::{CrashMonitor, rules};
use crashmonitor_operator::manifests;
use crashmonitor_operator::validate::{Defaults, validate};
use serde::Serialize;
use serde_json::{Map, Value};

use super::patch::LAST_APPLIED;

/// What a change does to the workers, from the least to the most.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub enum Effect {
    /// Nothing.
    None,
    /// Workers come or go; the others stay.
    Rescale,
    /// All of them are replaced, one at a time.
    Rolling,
    /// It can't be done: another monitor must begin anew.
    StateReset,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Effect::None => "None",
            Effect::Rescale => "Rescale",
            Effect::Rolling => "Rolling",
            Effect::StateReset => "StateReset",
        })
    }
}

/// A field that differs.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Change {
    /// From the top, such as `spec.window.allowedLateness`.
    pub field: String,
    /// What it is; absent: it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    /// What it would be; absent: it would be removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Value>,
    /// What that does.
    pub effect: Effect,
    /// What a person should know besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<&'static str>,
}

/// What a person may mean otherwise than the operator understands it.
const NOTES: [(&str, &str); 4] = [
    ("spec.kafka.bootstrapServers", "must lead to the same Kafka: in another one the monitor begins anew"),
    ("spec.output.topic", "results that are written stay in the old topic"),
    ("spec.checkpoint.redis.url", "another Redis has no snapshots: recovery reads Kafka once"),
    ("spec.countGreaterThan", "windows that are open are judged by the new one"),
];

/// All fields that differ, in the order of their names.
pub fn changes(before: &CrashMonitor, after: &CrashMonitor) -> Vec<Change> {
    let (old, new) = (fields(before), fields(after));
    let mut paths = Vec::new();
    differences(Some(&old), Some(&new), &mut Vec::new(), &mut paths);
    let whole = effect(before, after).unwrap_or(Effect::Rolling);
    let change = |path: Vec<String>| {
        let field = path.join(".");
        let to = at(&new, &path).cloned();
        let effect = match rules::why_immutable(&field) {
            Some(_) => Effect::StateReset,
            None => alone(before, &old, &path, to.as_ref()).unwrap_or(whole),
        };
        let note = rules::why_immutable(&field);
        let note = note.or_else(|| NOTES.iter().find(|(noted, _)| *noted == field).map(|(_, note)| *note));
        Change { from: at(&old, &path).cloned(), to, effect, note, field }
    };
    paths.into_iter().map(change).collect()
}

/// What people write: the spec with every default, labels and annotations.
fn fields(monitor: &CrashMonitor) -> Value {
    let mut annotations = monitor.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    serde_json::json!({
        "metadata": {"labels": monitor.metadata.labels.clone().unwrap_or_default(), "annotations": annotations},
        "spec": serde_json::to_value(&monitor.spec).expect("a spec is plain data"),
    })
}

fn differences(
    old: Option<&Value>,
    new: Option<&Value>,
    path: &mut Vec<String>,
    found: &mut Vec<Vec<String>>,
) {
    if old == new {
        return;
    }
    let empty = Map::new();
    // A section that comes or goes is listed by its fields, unless it has none.
    let (old_fields, new_fields) = match (old, new) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => (old, new),
        (None, Some(Value::Object(new))) if !new.is_empty() => (&empty, new),
        (Some(Value::Object(old)), None) if !old.is_empty() => (old, &empty),
        _ => return found.push(path.clone()),
    };
    let mut keys: Vec<&String> = old_fields.keys().chain(new_fields.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        path.push(key.clone());
        differences(old_fields.get(key), new_fields.get(key), path, found);
        path.pop();
    }
}

fn at<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(key))
}

/// The effect of one change without the others; `None` if it makes no sense alone.
fn alone(before: &CrashMonitor, old: &Value, path: &[String], to: Option<&Value>) -> Option<Effect> {
    let mut changed = old.clone();
    set(&mut changed, path, to);
    let mut after = before.clone();
    after.spec = serde_json::from_value(changed.get("spec")?.clone()).ok()?;
    effect(before, &after)
}

fn set(value: &mut Value, path: &[String], to: Option<&Value>) {
    let Some((key, rest)) = path.split_first() else { return };
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(fields) = value else { return };
    match (rest.is_empty(), to) {
        (true, Some(to)) => drop(fields.insert(key.clone(), to.clone())),
        (true, None) => drop(fields.remove(key)),
        (false, _) => set(fields.entry(key.clone()).or_insert(Value::Null), rest, to),
    }
}

/// What the operator would do about a change.
fn effect(before: &CrashMonitor, after: &CrashMonitor) -> Option<Effect> {
    // What the operator was told is the same before and after, whatever it is.
    let defaults = Defaults {
        worker_image: Some("image".to_owned()),
        operator_namespace: String::new(),
        console: false,
    };
    let build = |monitor| validate(monitor, &defaults).ok().map(|monitor| manifests::build(&monitor));
    let (old, new) = (build(before)?.stateful_set.spec?, build(after)?.stateful_set.spec?);
    Some(match (old.template != new.template, old.replicas != new.replicas) {
        (true, _) => Effect::Rolling,
        (false, true) => Effect::Rescale,
        (false, false) => Effect::None,
    })
}
