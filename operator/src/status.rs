//! What the operator says of a monitor, from what it sees.
//!
//! Responsible for the whole `status`: [`summarise`] is a pure function of [`Facts`]. And for when it is worth writing:
//! [`write`]. Must never hold a secret, and must never say more than was seen: what no worker reports stays as it was,
//! with the time at which it was so.
//!
//! # Numbers
//! - Totals go on over restarts of workers: what a process has counted since it was looked at last is added to what
//!   the status says already. What it counts between the last look and its death is missing, so they are lower bounds.
//! - Lag is rounded to two digits, ages to steps, so that a status does not change without need.
//! - With very many monitors, statuses are most of what the operator writes, and each is stored and sent to all who watch. So
//!   figures that merely go on wait for a while, and those that have become quite other ones do not.

use std::collections::BTreeMap;
use std::sync::Arc;

use crashmonitor_core::status::Status as Answer;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;

use crate::api::CrashMonitorStatus;
use crate::manifests;
use crate::validate::{self, Monitor};

mod conditions;
mod figures;
pub mod pods;

pub use conditions::find;
use pods::Fleet;

/// Figures that have become quite other ones are written no more often than this.
const JUMP_INTERVAL: SignedDuration = SignedDuration::from_secs(10);
/// Figures that merely go on are written no more often than this.
const FIGURES_INTERVAL: SignedDuration = SignedDuration::from_secs(60);
/// Where nothing but the time of the snapshots changes, it is written no more often than this.
const CHECKPOINT_INTERVAL: SignedDuration = SignedDuration::from_secs(300);
/// Below this, a lag in records says nothing: a worker that keeps up has as many before it from one look to the next.
const LAG_NOISE: i64 = 10_000;
/// The same of a lag in seconds.
const LAG_SECONDS_NOISE: i64 = 10;
/// The same of a snapshot's age: it grows and begins anew all the time.
const AGE_SECONDS_NOISE: i64 = 120;
/// What a person reads must fit on a screen.
const MESSAGE_LENGTH_MAX: usize = 900;

/// What is known about a monitor at a moment.
pub struct Facts<'a> {
    /// `metadata.name`
    pub name: &'a str,
    /// `metadata.generation`
    pub generation: i64,
    /// What is to run, or why that can't be said.
    pub monitor: Result<&'a Monitor, &'a validate::Error>,
    /// Why the API server refused what was built, if it did.
    pub refused: Option<&'a str>,
    /// How many workers there were to be before this reconcile changed it.
    pub scaled_from: Option<i32>,
    /// The set of workers as the API server last gave it.
    pub stateful_set: Option<&'a StatefulSet>,
    /// All pods of the monitor.
    pub pods: &'a [Arc<Pod>],
    /// Why pods wait for their volumes, or can't be created, as the cluster's events say; by name.
    pub hindrances: &'a BTreeMap<String, String>,
    /// What the workers answered, by pod; none from those that did not.
    pub answers: &'a BTreeMap<String, Answer>,
    /// What was said before, with the totals of the last look.
    pub previous: &'a CrashMonitorStatus,
    /// What was remembered before.
    pub memory: Memory,
    /// The clock.
    pub now: Timestamp,
}

/// What is remembered from one look to the next and is not worth storing. After a restart of the operator the waits
/// that it measures begin anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Memory {
    /// The watermark, and when it was first seen.
    pub watermark: Option<(Timestamp, Timestamp)>,
}

/// The status that follows from the facts, and what to remember.
pub fn summarise(facts: &Facts<'_>) -> (CrashMonitorStatus, Memory) {
    let fleet = Fleet::new(facts);
    let mut status = figures::figures(facts, &fleet);
    let memory = remember(&status, facts);
    status.conditions = conditions::conditions(facts, &fleet, &status, memory);
    (status, memory)
}

fn remember(status: &CrashMonitorStatus, facts: &Facts<'_>) -> Memory {
    let Some(watermark) = &status.watermark else { return facts.memory };
    match facts.memory.watermark {
        Some((time, _)) if time == watermark.time.0 => facts.memory,
        _ => Memory { watermark: Some((watermark.time.0, facts.now)) },
    }
}

/// Whether a status should be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Write {
    /// Something that matters has changed, or figures have and it is time.
    Now,
    /// Only figures have changed, and the last ones are young enough.
    Later,
    /// Nothing has changed.
    Never,
}

/// Compares a status with the one that is stored.
pub fn write(written: &CrashMonitorStatus, next: &CrashMonitorStatus, now: Timestamp) -> Write {
    if without_figures(written) != without_figures(next) {
        return Write::Now;
    }
    let age = written.lag.as_ref().map_or(SignedDuration::MAX, |lag| now.duration_since(lag.observed_at.0));
    let due = |interval| if age >= interval { Write::Now } else { Write::Later };
    if have_jumped(written, next) {
        return due(JUMP_INTERVAL);
    }
    if without_checkpoint(written) != without_checkpoint(next) {
        return due(FIGURES_INTERVAL);
    }
    if written.checkpoint == next.checkpoint { Write::Never } else { due(CHECKPOINT_INTERVAL) }
}

/// Whether a person would take the figures for quite other ones: another reason why event time is held, or a number that is
/// more than twice as high or half as low, beyond what it is anyway from look to look.
fn have_jumped(before: &CrashMonitorStatus, next: &CrashMonitorStatus) -> bool {
    let differ = |of: fn(&CrashMonitorStatus) -> Option<i64>, noise: i64| {
        let (one, other) = (of(before).unwrap_or(0), of(next).unwrap_or(0));
        let (low, high) = (one.min(other), one.max(other));
        high > noise && high / 2 >= low
    };
    let reason = |status: &CrashMonitorStatus| {
        Some(status.watermark.as_ref()?.held_by.as_ref().map(|held_by| held_by.reason.clone()))
    };
    reason(before) != reason(next)
        || differ(|status| Some(status.lag.as_ref()?.total), LAG_NOISE)
        || differ(|status| status.watermark.as_ref()?.lag_seconds, LAG_SECONDS_NOISE)
        || differ(|status| Some(status.checkpoint.as_ref()?.age_seconds), AGE_SECONDS_NOISE)
        || differ(|status| Some(status.late_records?.dropped), 0)
        || differ(|status| status.dead_letters, 0)
        || differ(|status| Some(status.results?.emitted), 0)
}

fn without_figures(status: &CrashMonitorStatus) -> CrashMonitorStatus {
    let mut rest = status.clone();
    (rest.lag, rest.watermark, rest.checkpoint) = (None, None, None);
    (rest.late_records, rest.dead_letters, rest.results) = (None, None, None);
    for worker in &mut rest.workers {
        worker.totals = Default::default();
    }
    rest
}

/// Nor the time at which the figures were taken: that alone is no change.
fn without_checkpoint(status: &CrashMonitorStatus) -> CrashMonitorStatus {
    let mut rest = status.clone();
    rest.checkpoint = None;
    if let Some(lag) = &mut rest.lag {
        lag.observed_at.0 = Timestamp::UNIX_EPOCH;
    }
    rest
}

/// One line, and not too long a one.
fn line(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > MESSAGE_LENGTH_MAX {
        let end = (0..=MESSAGE_LENGTH_MAX).rev().find(|&end| line.is_char_boundary(end)).unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}

/// The parts of a status that need nothing but the name.
fn selector(facts: &Facts<'_>) -> String {
    manifests::selector_text(facts.name)
}
