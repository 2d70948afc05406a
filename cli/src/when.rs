//! Instants as people type them: `10m` ago, or `2026-01-11T14:42:50Z`.
//!
//! Responsible for the one notation of all commands. Must never ask the clock: what "ago" is counted from, the caller says.

use std::str::FromStr;
use std::time::Duration;

use crashmonitor_core::config::duration;
use jiff::Timestamp;

/// An instant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// So long before another instant.
    Before(Duration),
    /// This one.
    At(Timestamp),
}

impl When {
    /// Epoch milliseconds, counted from `from_ms` where it is relative.
    pub fn millis(self, from_ms: i64) -> i64 {
        match self {
            When::Before(span) => from_ms.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)),
            When::At(time) => time.as_millisecond(),
        }
    }
}

impl FromStr for When {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<When, Self::Err> {
        if let Some(span) = duration::parse(text) {
            return Ok(When::Before(span));
        }
        text.parse()
            .map(When::At)
            .map_err(|_| "must be a span such as 10m, or a time such as 2026-01-11T14:42:50Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_times_are_read() {
        let at = |text: &str| text.parse::<When>().map(|when| when.millis(1_768_142_600_000));
        assert_eq!(at("10s"), Ok(1_768_142_590_000));
        assert_eq!(at("2026-01-11T14:42:50Z"), Ok(1_768_142_570_000));
        assert_eq!(at("2026-01-11T15:42:50+01:00"), Ok(1_768_142_570_000));
        assert!(at("yesterday").is_err() && at("10").is_err());
    }
}
