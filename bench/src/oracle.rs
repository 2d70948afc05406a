//! The judge: what a monitor must say about a log, found by reading all of it at once.
//!
//! Written to be obviously right rather than fast: one pass, a plain JSON parser, one map. It must share no
//! code with the product, and must not know how a log was made.

mod alert;
mod compare;
mod file;

pub use alert::{Alert, AlertError, Mode, parse_alert};
pub use compare::{Finding, Report, compare};
pub use file::{FileError, read_expected, write_expected};

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};

/// Crash count by (start of the interval in epoch milliseconds, user).
pub type Counts = BTreeMap<(i64, String), u64>;

/// The longest `user_id` that counts, in bytes.
const USER_ID_BYTES_MAX: usize = 1024;

/// The last millisecond of the year 9999.
const YEAR_9999_END_MS: i64 = 253_402_300_799_999;

/// What a monitor is asked to count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The word that the content must contain.
    pub word: String,
    /// Whether the word's case matters.
    pub case_sensitive: bool,
    /// The severities that count, matched exactly.
    pub severities: Vec<String>,
    /// Length of an interval in milliseconds.
    pub window_ms: i64,
    /// A count must be greater than this to be a result.
    pub threshold: u64,
    /// The latest event time that counts, in epoch milliseconds. A running monitor refuses records too far
    /// ahead of its clock; what that meant for a log, only the caller knows.
    pub event_time_max_ms: i64,
}

impl Default for Query {
    fn default() -> Self {
        Self {
            word: "crash".to_owned(),
            case_sensitive: false,
            severities: vec!["High".to_owned(), "Critical".to_owned()],
            window_ms: 10_000,
            threshold: 2,
            event_time_max_ms: YEAR_9999_END_MS,
        }
    }
}

/// How many records of a log are of which sort.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogTally {
    /// Records read, without repeats.
    pub records: u64,
    /// Records at an offset that was read before.
    pub repeats: u64,
    /// Records with an empty or no value.
    pub empty: u64,
    /// Malformed records by reason.
    pub malformed: BTreeMap<&'static str, u64>,
    /// Records that count.
    pub matched: u64,
}

/// Reads a log record by record.
#[derive(Debug)]
pub struct Oracle {
    query: Query,
    word_folded: String,
    counts: HashMap<(i64, String), u64>,
    next_offsets: HashMap<i32, i64>,
    tally: LogTally,
}

impl Oracle {
    /// Starts with nothing read.
    pub fn new(query: Query) -> Self {
        assert!(query.window_ms > 0, "a window has a positive length");
        let word_folded = query.word.to_lowercase();
        Self {
            query,
            word_folded,
            counts: HashMap::new(),
            next_offsets: HashMap::new(),
            tally: LogTally::default(),
        }
    }

    /// Reads the record at `offset` of `partition`. Offsets of a partition must be given in ascending order; one
    /// that was given before (a reader that started again) is ignored.
    pub fn add(&mut self, partition: i32, offset: i64, value: Option<&[u8]>) {
        let next = self.next_offsets.entry(partition).or_insert(i64::MIN);
        if offset < *next {
            self.tally.repeats += 1;
            return;
        }
        *next = offset + 1;
        self.tally.records += 1;
        match self.judge(value) {
            Verdict::Empty => self.tally.empty += 1,
            Verdict::Pass => {}
            Verdict::Malformed(reason) => *self.tally.malformed.entry(reason).or_default() += 1,
            Verdict::Match { time_ms, user_id } => {
                self.tally.matched += 1;
                let start_ms = time_ms - time_ms % self.query.window_ms;
                *self.counts.entry((start_ms, user_id)).or_default() += 1;
            }
        }
    }

    /// Every (interval, user) with a count above the threshold.
    pub fn results(&self) -> Counts {
        let above = self.counts.iter().filter(|&(_, &count)| count > self.query.threshold);
        above.map(|(key, &count)| (key.clone(), count)).collect()
    }

    /// What was read.
    pub fn tally(&self) -> &LogTally {
        &self.tally
    }

    fn judge(&self, value: Option<&[u8]>) -> Verdict {
        let Some(bytes) = value.filter(|bytes| !bytes.is_empty()) else { return Verdict::Empty };
        let Ok(Value::Object(record)) = serde_json::from_slice(bytes) else {
            return Verdict::Malformed("not-an-object");
        };
        let Some(time_ms) = record.get("timestamp").and_then(Value::as_i64) else {
            return Verdict::Malformed("timestamp-type");
        };
        if !(0..=YEAR_9999_END_MS.min(self.query.event_time_max_ms)).contains(&time_ms) {
            return Verdict::Malformed("timestamp-range");
        }
        self.judge_content(&record, time_ms)
    }

    fn judge_content(&self, record: &Map<String, Value>, time_ms: i64) -> Verdict {
        let content = record.get("content").and_then(Value::as_str).unwrap_or_default();
        let found = if self.query.case_sensitive {
            content.contains(&self.query.word)
        } else {
            content.to_lowercase().contains(&self.word_folded)
        };
        if !found {
            return Verdict::Pass;
        }
        let Some(severity) = record.get("severity").and_then(Value::as_str) else {
            return Verdict::Malformed("severity");
        };
        if !self.query.severities.iter().any(|wanted| wanted == severity) {
            return Verdict::Pass;
        }
        match record.get("user_id").and_then(Value::as_str) {
            Some(user_id) if user_id.len() <= USER_ID_BYTES_MAX => {
                Verdict::Match { time_ms, user_id: user_id.to_owned() }
            }
            _ => Verdict::Malformed("user-id"),
        }
    }
}

/// What one record is.
enum Verdict {
    Empty,
    Pass,
    Malformed(&'static str),
    Match { time_ms: i64, user_id: String },
}

/// The results of a whole log, given as (partition, offset, value).
pub fn recompute<'a>(query: &Query, log: impl IntoIterator<Item = (i32, i64, Option<&'a [u8]>)>) -> Counts {
    let mut oracle = Oracle::new(query.clone());
    for (partition, offset, value) in log {
        oracle.add(partition, offset, value);
    }
    oracle.results()
}

#[cfg(test)]
mod tests;
