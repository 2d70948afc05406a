//! Reads the records of the output topic.
//!
//! Strict on purpose: a record that contradicts itself, or lacks a field, is an error and not a result.

use serde::Deserialize;

/// What a result says about later ones for the same interval and user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A larger count may follow.
    Update,
    /// None follows.
    Final,
}

/// One record of the output topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Start of the interval in epoch milliseconds, inclusive.
    pub start_ms: i64,
    /// End of the interval in epoch milliseconds, exclusive.
    pub end_ms: i64,
    /// Whose sessions crashed.
    pub user_id: String,
    /// How often.
    pub count: u64,
    /// Whether more may follow.
    pub mode: Mode,
}

/// Why a record of the output topic is not a result.
#[derive(Debug, thiserror::Error)]
pub enum AlertError {
    /// Not JSON, or not of the documented shape.
    #[error("not a result: {0}")]
    Shape(#[from] serde_json::Error),
    /// An ISO 8601 time and the milliseconds beside it differ, or the time is not UTC.
    #[error("interval.{field} is {text:?}, but interval.{field}_ms is {millis}")]
    Time {
        /// `start` or `end`.
        field: &'static str,
        /// The ISO 8601 text.
        text: String,
        /// The epoch milliseconds beside it.
        millis: i64,
    },
    /// The interval ends before it starts, or is empty.
    #[error("interval ends at {end_ms}, not after its start at {start_ms}")]
    Empty {
        /// In epoch milliseconds.
        start_ms: i64,
        /// In epoch milliseconds.
        end_ms: i64,
    },
}

#[derive(Deserialize)]
struct AlertText {
    interval: IntervalText,
    user_id: String,
    crash_count: u64,
    mode: Mode,
}

#[derive(Deserialize)]
struct IntervalText {
    start: String,
    end: String,
    start_ms: i64,
    end_ms: i64,
}

/// Reads the value of one record of the output topic.
pub fn parse_alert(value: &[u8]) -> Result<Alert, AlertError> {
    let AlertText { interval, user_id, crash_count, mode } = serde_json::from_slice(value)?;
    let (start_ms, end_ms) = (interval.start_ms, interval.end_ms);
    check_time("start", interval.start, start_ms)?;
    check_time("end", interval.end, end_ms)?;
    if end_ms <= start_ms {
        return Err(AlertError::Empty { start_ms, end_ms });
    }
    Ok(Alert { start_ms, end_ms, user_id, count: crash_count, mode })
}

fn check_time(field: &'static str, text: String, millis: i64) -> Result<(), AlertError> {
    let same = text.parse::<jiff::Timestamp>().is_ok_and(|time| time.as_millisecond() == millis);
    if same && text.ends_with('Z') { Ok(()) } else { Err(AlertError::Time { field, text, millis }) }
}
