//! Spans of time as people write them in YAML: `10s`, `250ms`, `10m`, `1h`.
//!
//! Responsible for the one notation, both ways. Must never accept a bare number: nobody knows its unit.

use std::time::Duration;

/// The units, smallest first, with their length in milliseconds.
const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// Reads one number and one unit, without white space between them; `None` for anything else.
pub fn parse(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let (_, unit_ms) = UNITS.iter().find(|(name, _)| *name == unit)?;
    Some(Duration::from_millis(number.checked_mul(*unit_ms)?))
}

/// Writes a span with the largest unit that leaves a whole number; what lies below a millisecond is cut off.
pub fn format(span: Duration) -> String {
    let ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let whole = UNITS.iter().rev().find(|(_, unit_ms)| ms >= *unit_ms && ms.is_multiple_of(*unit_ms));
    match whole {
        Some((name, unit_ms)) => format!("{}{name}", ms / unit_ms),
        None => "0s".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, ms) in [("10s", 10_000), ("250ms", 250), ("10m", 600_000), ("1h", 3_600_000), ("0s", 0)] {
            assert_eq!(parse(text), Some(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            "10",
            "s",
            "1.5s",
            "-1s",
            "10 s",
            "1d",
            "1m30s",
            "+1s",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for text in ["10s", "250ms", "10m", "1h", "0s", "90s", "1001ms"] {
            assert_eq!(format(parse(text).unwrap()), text);
        }
    }
}
