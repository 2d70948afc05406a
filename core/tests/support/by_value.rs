//! The plainest implementation of what a record means: parse to a `serde_json::Value`, then ask.
//!
//! Responsible for being obviously right, at any price in speed. Must never use what it is held against.

use std::borrow::Cow;

use crashmonitor_core::record::{Malformed, Matcher, Record, Rule, USER_ID_BYTES_MAX};
use crashmonitor_core::time::Timestamp;
use serde_json::Value;

fn by_value<'a>(rule: &Rule, value: Option<&Value>) -> Result<Record<'a>, Malformed> {
    let record = value.ok_or(Malformed::NotJson)?.as_object().ok_or(Malformed::NotAnObject)?;
    let event_time = timestamp(record.get("timestamp").ok_or(Malformed::TimestampMissing)?)?;
    let content = record.get("content").and_then(Value::as_str);
    let contains = content.is_some_and(|content| {
        if rule.case_sensitive {
            content.contains(&rule.contains)
        } else {
            content.to_lowercase().contains(&rule.contains.to_lowercase())
        }
    });
    if !contains {
        return Ok(Record::Pass { event_time });
    }
    let severity = record.get("severity").ok_or(Malformed::SeverityMissing)?;
    let severity = severity.as_str().ok_or(Malformed::SeverityNotString)?;
    if !rule.severities.iter().any(|listed| listed == severity) {
        return Ok(Record::Pass { event_time });
    }
    let user =
        record.get("user_id").ok_or(Malformed::UserIdMissing)?.as_str().ok_or(Malformed::UserIdNotString)?;
    if user.len() > USER_ID_BYTES_MAX {
        return Err(Malformed::UserIdTooLong);
    }
    Ok(Record::Match { event_time, user: Cow::Owned(user.to_owned()) })
}

fn timestamp(value: &Value) -> Result<Timestamp, Malformed> {
    if let Some(millis) = value.as_u64() {
        let timestamp = i64::try_from(millis).map(Timestamp::from_millis);
        return timestamp.ok().filter(|t| *t <= Timestamp::MAX).ok_or(Malformed::TimestampTooLarge);
    }
    match value.as_f64() {
        _ if value.as_i64().is_some() => Err(Malformed::TimestampNegative),
        Some(float) if float >= 2f64.powi(64) => Err(Malformed::TimestampTooLarge),
        Some(float) if float <= -(2f64.powi(63)) => Err(Malformed::TimestampNegative),
        _ => Err(Malformed::TimestampNotInteger),
    }
}

fn rules() -> Vec<Rule> {
    let severities = || vec!["High".to_owned(), "Critical".to_owned()];
    let words =
        [("crash", false), ("Crash", true), ("c", false), ("ü", false), ("\u{212a}", false), ("s", true)];
    let rule = |(word, case_sensitive): (&str, bool)| Rule {
        contains: word.to_owned(),
        case_sensitive,
        severities: severities(),
    };
    words.into_iter().map(rule).collect()
}

/// The rules under test, each with the matchers that must follow it: one for each set of the processor's instructions.
pub fn matchers() -> Vec<(Rule, Matcher)> {
    let mut matchers = Vec::new();
    for rule in rules() {
        let best = Matcher::new(&rule).expect("a good rule");
        matchers.extend(best.with_each_instruction_set().map(|matcher| (rule.clone(), matcher)));
    }
    matchers
}

/// Where a matcher and the plain implementation differ on `bytes`, in words. Each matcher has read `before` and nothing
/// else; then it reads `bytes`, and once more, knowing what they look like.
pub fn disagreement(rules: &[(Rule, Matcher)], before: &[u8], bytes: &[u8]) -> Option<String> {
    let value = serde_json::from_slice(bytes).ok();
    rules.iter().find_map(|(rule, matcher)| {
        let expected = match by_value(rule, value.as_ref()) {
            _ if bytes.is_empty() => Record::Empty,
            judged => judged.unwrap_or_else(Record::Malformed),
        };
        let mut matcher = matcher.clone();
        matcher.classify(Some(before));
        [1, 2].into_iter().find_map(|time| {
            let found = matcher.classify(Some(bytes));
            let shown = String::from_utf8_lossy(bytes);
            let differs =
                || format!("{found:?} instead of {expected:?}, time {time}, by {matcher:?} in {shown:?}");
            (found != expected).then(differs)
        })
    })
}
