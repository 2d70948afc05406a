//! Tables, spans and colours.
//!
//! Responsible for how values look to a person. Pure. Colours are always written here; who prints drops them where there
//! is no terminal, or `NO_COLOR` is set.

use anstyle::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table};
use jiff::{SignedDuration, Timestamp};

pub use crashmonitor_bench::text::{grouped, time};

/// All is well.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Something is going on, or needs a look.
pub const CHANGING: Style = AnsiColor::Yellow.on_default();
/// Something is wrong.
pub const BAD: Style = AnsiColor::Red.on_default();
/// Headings.
pub const STRONG: Style = Style::new().bold();

/// A text in a style.
pub fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// A table as kubectl prints them: columns with two spaces between, no lines. Cells must have no colours.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heading).add_rows(rows.iter().cloned());
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt() + "\n"
}

/// A number that is not below zero, in groups of three digits.
pub fn count(number: i64) -> String {
    if number < 0 { number.to_string() } else { grouped(number.unsigned_abs()) }
}

/// A number of things: `1 worker`, `2 workers`.
pub fn things(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", grouped(number as u64))
}

/// A span as people say it: two units at most, and below ten seconds one digit more.
pub fn span(span: SignedDuration) -> String {
    let ms = span.as_millis();
    if ms < 0 {
        return format!("-{}", self::span(span.abs()));
    }
    let seconds = ms / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match seconds {
        0..10 if ms % 1000 >= 100 => format!("{seconds}.{}s", ms % 1000 / 100),
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{}s", seconds % 60),
        3600..86_400 => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

/// How long ago an instant was, by epoch milliseconds.
pub fn since(ms: i64, now: Timestamp) -> String {
    span(SignedDuration::from_millis(now.as_millisecond().saturating_sub(ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        let texts = [0, 90, 1_000, 2_340, 59_000, 61_000, 3_600_000, 90_000_000, -2_000]
            .map(|ms| span(SignedDuration::from_millis(ms)));
        assert_eq!(texts, ["0s", "0s", "1s", "2.3s", "59s", "1m1s", "1h0m", "1d1h", "-2s"]);
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [["0".to_owned(), "checkout-worker-0".to_owned()], ["12".to_owned(), "-".to_owned()]];
        let expected = "PARTITION  WORKER\n0          checkout-worker-0\n12         -\n";
        assert_eq!(table(["PARTITION", "WORKER"], &rows), expected);
    }

    #[test]
    fn one_thing_has_no_plural() {
        assert_eq!([things(1, "worker"), things(1200, "worker")], ["1 worker", "1,200 workers"]);
    }
}
