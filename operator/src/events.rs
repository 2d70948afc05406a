//! What is worth an event: the changes between two statuses.
//!
//! Responsible for deciding which, in words for people. Pure. Must never tell of the same change twice: what is not a
//! change of a condition is no event.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::api::CrashMonitorStatus;
use crate::status::find;

/// An event to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Whether it is a warning.
    pub is_warning: bool,
    /// One word.
    pub reason: String,
    /// One line.
    pub note: String,
}

fn event(is_warning: bool, reason: &str, note: &str) -> Event {
    Event { is_warning, reason: reason.to_string(), note: note.to_string() }
}

/// The events that lead from one status to the next.
pub fn between(previous: &CrashMonitorStatus, next: &CrashMonitorStatus) -> Vec<Event> {
    let change = |type_| Change { before: find(previous, type_), after: find(next, type_) };
    let mut events = Vec::new();
    suspended(&change("Suspended"), &mut events);
    progressing(&change("Progressing"), &mut events);
    ready(&change("Ready"), &mut events);
    degraded(&change("Degraded"), &mut events);
    recovering(&change("KafkaReachable"), "KafkaReachable", &mut events);
    recovering(&change("CheckpointStoreReachable"), "CheckpointStoreReachable", &mut events);
    recovering(&change("WatermarkAdvancing"), "WatermarkResumed", &mut events);
    let is_new_loss = match (&previous.data_loss, &next.data_loss) {
        (before, Some(after)) => before.as_ref() != Some(after),
        (_, None) => false,
    };
    if let (true, Some(after)) = (is_new_loss, find(next, "DataLoss")) {
        events.push(event(true, "DataLossDetected", &after.message));
    }
    events
}

/// A condition before and after.
struct Change<'a> {
    before: Option<&'a Condition>,
    after: Option<&'a Condition>,
}

impl Change<'_> {
    fn was(&self, status: &str) -> bool {
        self.before.is_some_and(|condition| condition.status == status)
    }

    fn is(&self, status: &str) -> bool {
        self.after.is_some_and(|condition| condition.status == status)
    }

    fn reason_before(&self) -> &str {
        self.before.map_or("", |condition| &condition.reason)
    }

    fn reason(&self) -> &str {
        self.after.map_or("", |condition| &condition.reason)
    }

    fn message(&self) -> &str {
        self.after.map_or("", |condition| &condition.message)
    }
}

fn suspended(change: &Change<'_>, events: &mut Vec<Event>) {
    if change.is("True") && !change.was("True") {
        events.push(event(false, "Suspended", change.message()));
    }
    if change.is("False") && change.was("True") {
        events.push(event(false, "Resumed", "the workers go on where they stopped"));
    }
}

fn progressing(change: &Change<'_>, events: &mut Vec<Event>) {
    for (reason, started, completed) in [
        ("Scaling", "ScalingStarted", "ScalingCompleted"),
        ("RollingUpdate", "RollingUpdateStarted", "RollingUpdateCompleted"),
    ] {
        let before = change.was("True") && change.reason_before() == reason;
        let after = change.is("True") && change.reason() == reason;
        let is_other = before && after && reason == "Scaling" && change.message() != message_before(change);
        if (after && !before) || is_other {
            events.push(event(false, started, change.message()));
        }
        if before && change.is("False") && change.reason() == "Settled" {
            events.push(event(false, completed, message_before(change)));
        }
    }
}

fn message_before<'a>(change: &Change<'a>) -> &'a str {
    change.before.map_or("", |condition| &condition.message)
}

fn ready(change: &Change<'_>, events: &mut Vec<Event>) {
    let exceeds = "ReplicasExceedPartitions";
    if change.reason() == exceeds && change.reason_before() != exceeds {
        events.push(event(true, exceeds, change.message()));
    }
    if change.is("True") && !change.was("True") {
        events.push(event(false, "Ready", "all workers are ready"));
    }
}

/// Everything that needs a person comes through this one.
fn degraded(change: &Change<'_>, events: &mut Vec<Event>) {
    let is_other = change.reason_before() != change.reason()
        || (change.reason() == "InvalidSpec" && message_before(change) != change.message());
    if change.is("True") && (!change.was("True") || is_other) {
        events.push(event(true, change.reason(), change.message()));
    }
}

/// The end of something that [`degraded`] told the beginning of.
fn recovering(change: &Change<'_>, reason: &str, events: &mut Vec<Event>) {
    if change.is("True") && change.was("False") {
        events.push(event(false, reason, change.message()));
    }
}
