//! The records that CrashMonitor writes for others to read: results, late records, dead letters.
//!
//! Responsible for their keys, values and headers; docs/output.md is the schema. Must never change a field's meaning:
//! a reader of the output topic may be older than the worker.

use serde::Serialize;

use crate::aggregate::{LateEvent, Mode, Outcome};
use crate::ids::{InputOffset, SourceId};
use crate::record::Malformed;

/// A record to be written to an output or late topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// The key.
    pub key: String,
    /// The value, JSON.
    pub value: String,
}

#[derive(Serialize)]
struct Interval {
    start: String,
    end: String,
    start_ms: i64,
    end_ms: i64,
}

#[derive(Serialize)]
struct ResultValue<'a> {
    interval: Interval,
    user_id: &'a str,
    crash_count: u64,
    mode: &'static str,
}

#[derive(Serialize)]
struct LateValue<'a> {
    timestamp: i64,
    user_id: &'a str,
    partition: u32,
    offset: u64,
    closed_through: i64,
    reason: &'static str,
}

/// A user above the threshold in an interval. The key is the user and the interval's start in epoch milliseconds behind
/// a bar, so that compaction keeps the last count of each.
pub fn result(outcome: &Outcome, mode: Mode) -> Written {
    let interval = Interval {
        start: outcome.start.to_iso8601(),
        end: outcome.end.to_iso8601(),
        start_ms: outcome.start.as_millis(),
        end_ms: outcome.end.as_millis(),
    };
    let mode = mode.name();
    let value = ResultValue { interval, user_id: &outcome.user, crash_count: outcome.count, mode };
    Written { key: format!("{}|{}", outcome.user, outcome.start.as_millis()), value: json(&value) }
}

/// An event that came after its window had closed. The key is its user.
pub fn late(event: &LateEvent) -> Written {
    let value = LateValue {
        timestamp: event.time.as_millis(),
        user_id: &event.user,
        partition: event.source.0,
        offset: event.offset.0,
        closed_through: event.closed_through.as_millis(),
        reason: "window-closed",
    };
    Written { key: event.user.clone(), value: json(&value) }
}

/// The headers of a dead letter, whose key and value are those of the input record. With partition and offset a reader
/// can drop a repeat: dead letters are written at least once.
pub fn dead_letter_headers(
    reason: Malformed,
    source: SourceId,
    offset: InputOffset,
) -> [(&'static str, String); 3] {
    [
        ("crashmonitor.reason", reason.reason().to_owned()),
        ("crashmonitor.partition", source.to_string()),
        ("crashmonitor.offset", offset.to_string()),
    ]
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("plain fields always serialise")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    #[test]
    fn a_result_says_what_the_schema_says() {
        let outcome = Outcome {
            start: Timestamp::from_millis(1_768_142_570_000),
            end: Timestamp::from_millis(1_768_142_580_000),
            user: "user_1234".to_owned(),
            count: 4,
        };
        let written = result(&outcome, Mode::Updates);
        assert_eq!(written.key, "user_1234|1768142570000");
        assert_eq!(
            written.value,
            r#"{"interval":{"start":"2026-01-11T14:42:50.000Z","end":"2026-01-11T14:43:00.000Z","start_ms":1768142570000,"end_ms":1768142580000},"user_id":"user_1234","crash_count":4,"mode":"update"}"#
        );
    }

    #[test]
    fn a_user_with_quotes_stays_json() {
        let event = LateEvent {
            source: SourceId(1),
            offset: InputOffset(7),
            time: Timestamp::from_millis(5),
            user: "a\"b".to_owned(),
            closed_through: Timestamp::from_millis(9),
        };
        let value: serde_json::Value = serde_json::from_str(&late(&event).value).unwrap();
        assert_eq!((value["user_id"].as_str(), value["offset"].as_u64()), (Some("a\"b"), Some(7)));
    }
}
