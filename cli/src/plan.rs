//! `plan`: what applying a file would do.
//!
//! Responsible for asking the API server with a dry run, as `kubectl apply` would, and for the text of what it said.
//! Must never store anything, and must never say that a change is possible which the API server refuses.

use std::io::{self, Read};
use std::path::Path;

use crashmonitor_operator::api::CrashMonitor;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Error;
use crate::args::Format;
use crate::cluster::{Cluster, MANAGER, Outcome};
use crate::run::{print, rendered};
use crate::text::{self, BAD, CHANGING, GOOD, STRONG, styled, table, things};
use changes::{Change, Effect, changes};

pub mod changes;
pub mod patch;

/// What would become of one resource.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The resource.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Whether it is there already.
    pub exists: bool,
    /// The fields that differ.
    pub changes: Vec<Change>,
    /// The largest of their effects.
    pub effect: Effect,
    /// For how long nothing, or less, is counted.
    pub expected_pause: String,
    /// Why the API server would refuse it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
}

/// What the workers do at the moment, as far as a pause depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fleet {
    /// Workers that are to be there.
    pub before: i32,
    /// Workers that would be.
    pub after: i32,
    /// How long the present ones took from their start to their work, the quickest of them: later ones of that were not
    /// about the start.
    pub start: Option<SignedDuration>,
}

impl Plan {
    /// Puts together what the API server said of a change.
    pub fn new(
        before: Option<&CrashMonitor>,
        after: &CrashMonitor,
        pods: &[Pod],
        refused: Vec<String>,
    ) -> Plan {
        let changes = before.map_or_else(Vec::new, |before| changes(before, after));
        let effect = changes.iter().map(|change| change.effect).max().unwrap_or(Effect::None);
        let fleet = Fleet {
            before: before.map_or(0, wanted),
            after: wanted(after),
            start: pods.iter().filter_map(start).min(),
        };
        Plan {
            name: after.name_any(),
            namespace: after.namespace().unwrap_or_default(),
            exists: before.is_some(),
            expected_pause: pause(effect, fleet),
            changes,
            effect,
            refused,
        }
    }

    /// Whether it can't be done as it stands.
    fn is_impossible(&self) -> bool {
        !self.refused.is_empty()
    }

    /// The text for people.
    pub fn text(&self) -> String {
        let name = styled(STRONG, &format!("{}/{}", self.namespace, self.name));
        let refused: String =
            self.refused.iter().map(|reason| format!("  {} {reason}\n", styled(BAD, "refused:"))).collect();
        if !self.exists {
            let what = if refused.is_empty() { "would be created" } else { "would not be created" };
            return format!("{name}: {what}\n{refused}");
        }
        if self.changes.is_empty() {
            let what = if refused.is_empty() { "no change" } else { "would be refused" };
            return format!("{name}: {what}\n{refused}");
        }
        let style = match self.effect {
            Effect::None => GOOD,
            Effect::Rescale | Effect::Rolling => CHANGING,
            Effect::StateReset => BAD,
        };
        let fields = things(self.changes.len(), "field");
        let effect = styled(style, &self.effect.to_string());
        let row = |change: &Change| {
            [
                change.field.clone(),
                shown(change.from.as_ref()),
                shown(change.to.as_ref()),
                change.effect.to_string(),
                change.note.unwrap_or("-").to_owned(),
            ]
        };
        let rows: Vec<_> = self.changes.iter().map(row).collect();
        let table = table(["FIELD", "FROM", "TO", "EFFECT", "NOTE"], &rows);
        format!(
            "{name}: {fields} would change, effect {effect}\n{refused}\n{table}\nExpected pause: {}\n",
            self.expected_pause
        )
    }
}

/// The longest value that a table shows.
const VALUE_LENGTH_MAX: usize = 40;

fn shown(value: Option<&Value>) -> String {
    let text = match value {
        None => return "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    if text.chars().count() <= VALUE_LENGTH_MAX {
        return text;
    }
    let cut: String = text.chars().take(VALUE_LENGTH_MAX - 1).collect();
    format!("{cut}…")
}

fn wanted(monitor: &CrashMonitor) -> i32 {
    match monitor.spec.desired_state {
        crashmonitor_operator::api::DesiredState::Running => monitor.spec.replicas,
        crashmonitor_operator::api::DesiredState::Suspended => 0,
    }
}

/// From a pod's start to its readiness.
fn start(pod: &Pod) -> Option<SignedDuration> {
    let status = pod.status.as_ref()?;
    let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready" && c.status == "True")?;
    Some(ready.last_transition_time.as_ref()?.0.duration_since(status.start_time.as_ref()?.0))
}

/// What is not counted meanwhile, and for how long.
pub fn pause(effect: Effect, fleet: Fleet) -> String {
    let Fleet { before, after, start } = fleet;
    let about = start.map_or("until the new one is ready".to_owned(), |start| {
        format!("about {}, as long as a present worker took to start", text::span(start))
    });
    match effect {
        Effect::None => "none".to_owned(),
        Effect::StateReset => "not possible on this monitor: nothing changes".to_owned(),
        _ if before == 0 && after == 0 => "none: no worker runs".to_owned(),
        _ if after == 0 => "from the end of the workers until it is resumed; what the input keeps is read then".to_owned(),
        _ if before == 0 => format!("it ends: nothing is counted now, and the first worker takes {about}"),
        Effect::Rescale => {
            "none for partitions that stay with their worker; one that moves waits until its counts are restored".to_owned()
        }
        Effect::Rolling if before == 1 => format!("of all partitions, {about}; then the lag is read"),
        Effect::Rolling => {
            let all = start.and_then(|start| Some((start, start.checked_mul(before)?)));
            let all = all.map_or(String::new(), |(one, all)| {
                format!(", which takes about {} each and {} in all", text::span(one), text::span(all))
            });
            format!(
                "of no partition for long: {before} workers are replaced one at a time{all}; the others read its \
                 partitions meanwhile"
            )
        }
    }
}

/// Plans everything in a file, and prints it.
pub async fn run(file: &Path, format: Format, cluster: &Cluster) -> Result<(), Error> {
    let mut plans = Vec::new();
    for object in read(file)? {
        plans.push(plan(object, cluster).await?);
    }
    let text = match format {
        Format::Text => plans.iter().map(Plan::text).collect::<Vec<_>>().join("\n"),
        other => rendered(&plans, other),
    };
    print(&text)?;
    if plans.iter().any(Plan::is_impossible) {
        return Err(Error::no(
            "the API server would refuse it; nothing was changed",
            "correct the file; what can't be changed takes another CrashMonitor (docs/operations.md)",
        ));
    }
    Ok(())
}

/// The CrashMonitors of a file; what else is in it is no matter of this program.
fn read(file: &Path) -> Result<Vec<Value>, Error> {
    let unreadable = |cause: String| {
        Error::input(
            format!("{}: {cause}", file.display()),
            "give a file with CrashMonitors, as for `kubectl apply -f`",
        )
    };
    let mut text = String::new();
    match file.to_str() {
        Some("-") => io::stdin().read_to_string(&mut text).map_err(|e| unreadable(e.to_string()))?,
        _ => std::fs::File::open(file)
            .and_then(|mut file| file.read_to_string(&mut text))
            .map_err(|e| unreadable(e.to_string()))?,
    };
    let mut found = Vec::new();
    for document in serde_yaml::Deserializer::from_str(&text) {
        let value = Value::deserialize(document).map_err(|e| unreadable(e.to_string()))?;
        if value["kind"] == "CrashMonitor" {
            found.push(value);
        }
    }
    if found.is_empty() {
        return Err(unreadable("there is no CrashMonitor in it".to_owned()));
    }
    Ok(found)
}

async fn plan(file: Value, cluster: &Cluster) -> Result<Plan, Error> {
    let unusable = |cause: String| {
        Error::input(format!("the CrashMonitor in the file can't be used: {cause}"), "correct the file")
    };
    let mut object: DynamicObject =
        serde_json::from_value(file.clone()).map_err(|e| unusable(e.to_string()))?;
    let name = object.metadata.name.clone().ok_or_else(|| unusable("metadata.name is missing".to_owned()))?;
    let cluster = match &object.metadata.namespace {
        Some(namespace) => cluster.in_namespace(namespace),
        None => cluster.in_namespace(cluster.namespace()),
    };
    object.metadata.namespace = Some(cluster.namespace().to_owned());
    let typed = |object: &Value| {
        serde_json::from_value::<CrashMonitor>(object.clone()).map_err(|e| unusable(e.to_string()))
    };
    let Some(stored) = cluster.stored(&name).await? else {
        let (after, refused) = match cluster.would_apply(&name, MANAGER, &file).await? {
            Outcome::Accepted(after) => (typed(&value(&after))?, Vec::new()),
            Outcome::Refused(reasons) => (typed(&value(&object))?, reasons),
        };
        return Ok(Plan::new(None, &after, &[], refused));
    };
    let before = value(&stored);
    let last = stored.annotations().get(patch::LAST_APPLIED);
    let last: Option<Value> = last.and_then(|text| serde_json::from_str(text).ok());
    let merge = patch::three_way(last.as_ref(), &file);
    let outcome = match applier(&stored) {
        Some(manager) if last.is_none() => cluster.would_apply(&name, &manager, &file).await?,
        _ => cluster.would_merge(&name, &merge).await?,
    };
    let (after, refused) = match outcome {
        Outcome::Accepted(after) => (value(&after), Vec::new()),
        Outcome::Refused(reasons) => {
            let mut after = before.clone();
            patch::merge(&mut after, &merge);
            (after, reasons)
        }
    };
    // For the pause only: without the right to list pods it is said without figures.
    let pods = cluster.pods(&name).await.unwrap_or_default();
    match typed(&after) {
        Ok(after) => Ok(Plan::new(Some(&typed(&before)?), &after, &pods, refused)),
        // So wrong that only the API server's words help.
        Err(_) if !refused.is_empty() => {
            let before = typed(&before)?;
            Ok(Plan::new(Some(&before), &before, &pods, refused))
        }
        Err(error) => Err(error),
    }
}

fn value(object: &DynamicObject) -> Value {
    serde_json::to_value(object).expect("an object is plain data")
}

/// Who applies this object on the server's side, if anybody does: what that one removes from its file goes away.
fn applier(object: &DynamicObject) -> Option<String> {
    let managers = object.managed_fields().iter();
    let mut appliers =
        managers.filter(|entry| entry.operation.as_deref() == Some("Apply") && entry.subresource.is_none());
    let manager = appliers.next()?.manager.clone()?;
    (manager != MANAGER).then_some(manager)
}
