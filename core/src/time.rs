//! Instants as milliseconds since the Unix epoch, and how people see them.
//!
//! Responsible for the one representation of time that records, windows, frames and results share.
//! Must never read a clock: whoever needs the present gets it as an argument.

use jiff::{SignedDuration, civil};

/// An instant in milliseconds since 1970-01-01T00:00:00Z.
///
/// Event time (when a record says that it happened) and wall-clock time lie on the same axis, because the rule
/// against clocks that run ahead compares the two.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(i64);

/// The present, as a loop hands it to whoever decides: both clocks at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Clock {
    /// The wall clock, which may be wrong, and may be set.
    pub wall: Timestamp,
    /// Milliseconds since some instant in the process's life; never goes back. For pauses and intervals.
    pub steady_ms: i64,
}

impl Timestamp {
    /// The first instant that a record may carry: 1970-01-01T00:00:00.000Z.
    pub const EPOCH: Timestamp = Timestamp(0);
    /// The last instant that a record may carry: 9999-12-31T23:59:59.999Z.
    pub const MAX: Timestamp = Timestamp(253_402_300_799_999);

    /// The instant `ms` milliseconds after the epoch; any value, also one that no record may carry.
    pub const fn from_millis(ms: i64) -> Timestamp {
        Timestamp(ms)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// This instant moved by `ms`, at the ends of the range held there.
    #[must_use]
    pub const fn plus_millis(self, ms: i64) -> Timestamp {
        Timestamp(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this instant; negative if `earlier` is the later one.
    pub const fn millis_since(self, earlier: Timestamp) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// ISO 8601 in UTC with milliseconds, `2026-01-11T14:42:50.123Z`.
    pub fn to_iso8601(self) -> String {
        self.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
    }

    /// As the original monitor prints an interval's ends: `2026-01-11 14:42:50`, UTC.
    pub fn to_plain_seconds(self) -> String {
        self.strftime("%Y-%m-%d %H:%M:%S")
    }

    /// Instants outside the years 1 to 9999 are shown as the nearest inside.
    fn strftime(self, format: &str) -> String {
        // Not jiff::Timestamp, which ends a day short of year 9999 to leave room for time zones.
        const YEAR_1: i64 = -62_135_596_800_000;
        let since_epoch = SignedDuration::from_millis(self.0.clamp(YEAR_1, Self::MAX.0));
        let date = civil::date(1970, 1, 1).at(0, 0, 0, 0).checked_add(since_epoch);
        date.expect("clamped into the calendar's range").strftime(format).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_as_people_and_machines_expect() {
        let t = Timestamp::from_millis(1_768_142_570_123);
        assert_eq!(t.to_iso8601(), "2026-01-11T14:42:50.123Z");
        assert_eq!(t.to_plain_seconds(), "2026-01-11 14:42:50");
        assert_eq!(Timestamp::MAX.to_iso8601(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn any_value_formats_without_panic() {
        for ms in [i64::MIN, -1, 0, i64::MAX] {
            let _ = Timestamp::from_millis(ms).to_iso8601();
        }
    }
}
