//! What a monitor must say about generated records, counted while they are made, without a parse.
//!
//! Knows only what the generator meant. [`crate::oracle`] finds the same by reading the bytes; tests hold the two
//! against each other.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::{Kind, Meta, Severity, WordIn};
use crate::oracle::{Counts, Query};

/// How many records of which sort were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// All.
    pub records: u64,
    /// Those that count as a crash event.
    pub crash_events: u64,
    /// Late, and still counted if they match.
    pub late: u64,
    /// Too late to be counted; each matches.
    pub too_late: u64,
    /// Poison that a monitor must report as malformed.
    pub malformed: u64,
    /// Poison that a monitor skips (empty or null values).
    pub empty: u64,
    /// Poison by its name.
    pub poison: BTreeMap<&'static str, u64>,
}

/// Counts per (interval, user), as they grow.
#[derive(Clone, Debug)]
pub struct Expected {
    window_ms: i64,
    threshold: u64,
    case_sensitive: bool,
    severities: Vec<Severity>,
    counts: FxHashMap<(i64, u32), u64>,
    tally: Tally,
}

impl Expected {
    /// Counts for a monitor with this query. Its word must be the generator's, and its threshold at least 1,
    /// since records that are too late have a count of one.
    pub fn new(query: &Query) -> Self {
        let wanted = |severity: &Severity| query.severities.iter().any(|name| name == severity.name());
        Self {
            window_ms: query.window_ms,
            threshold: query.threshold,
            case_sensitive: query.case_sensitive,
            severities: Severity::ALL.into_iter().filter(wanted).collect(),
            counts: FxHashMap::default(),
            tally: Tally::default(),
        }
    }

    /// Takes one record into account.
    #[inline]
    pub fn add(&mut self, meta: &Meta) {
        self.tally.records += 1;
        match meta.kind {
            Kind::Plain | Kind::Odd(_) => {}
            Kind::Late => self.tally.late += 1,
            Kind::TooLate => {
                self.tally.too_late += 1;
                return;
            }
            Kind::Poison(poison) => {
                *(if poison.is_empty() { &mut self.tally.empty } else { &mut self.tally.malformed }) += 1;
                *self.tally.poison.entry(poison.name()).or_default() += 1;
                return;
            }
        }
        let matches = match meta.word {
            WordIn::Absent => false,
            WordIn::Exact => true,
            WordIn::OtherCase => !self.case_sensitive,
        };
        if matches && self.severities.contains(&meta.severity) {
            self.tally.crash_events += 1;
            let window = meta.event_time_ms - meta.event_time_ms.rem_euclid(self.window_ms);
            *self.counts.entry((window, meta.user)).or_default() += 1;
        }
    }

    /// What was made so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The results that a monitor must give: every (interval, user) above the threshold.
    pub fn results(&self) -> Counts {
        let above = self.counts.iter().filter(|&(_, &count)| count > self.threshold);
        above.map(|(&(start_ms, user), &count)| ((start_ms, format!("user_{user}")), count)).collect()
    }
}
