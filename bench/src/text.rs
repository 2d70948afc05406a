//! Values as people read them.
//!
//! Responsible for the original's line of a result, and for numbers and times. Pure: values in, text out.

use jiff::Timestamp;

use crate::oracle::Alert;

/// A result as the original prints it: `Interval {2026-01-11 14:42:50, 2026-01-11 14:43:00} | user_1234 | 4`.
/// Times are UTC.
pub fn result(alert: &Alert) -> String {
    let Alert { start_ms, end_ms, user_id, count, .. } = alert;
    format!("Interval {{{}, {}}} | {user_id} | {count}", time(*start_ms), time(*end_ms))
}

/// Day and time, UTC, to the second.
pub fn time(ms: i64) -> String {
    formatted(ms, "%Y-%m-%d %H:%M:%S")
}

/// The time of day, UTC.
pub fn clock(ms: i64) -> String {
    formatted(ms, "%H:%M:%S")
}

fn formatted(ms: i64, format: &str) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |time| time.strftime(format).to_string())
}

/// A number in groups of three digits.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{grouped, result};
    use crate::oracle::{Alert, Mode};

    #[test]
    fn a_result_reads_as_the_original_prints_it() {
        let alert = Alert {
            start_ms: 1_768_142_570_000,
            end_ms: 1_768_142_580_000,
            user_id: "user_1234".to_owned(),
            count: 4,
            mode: Mode::Update,
        };
        assert_eq!(result(&alert), "Interval {2026-01-11 14:42:50, 2026-01-11 14:43:00} | user_1234 | 4");
    }

    #[test]
    fn digits_come_in_groups_of_three() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
