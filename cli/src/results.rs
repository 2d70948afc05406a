//! `results`: what a monitor has found.
//!
//! Responsible for the output topic as lines, each as soon as it is committed. Must never show a record that a person
//! could take for a result and is none, nor let a record's text steer the terminal.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::PathBuf;

use clap::Args;
use crashmonitor_bench::oracle::{Alert, parse_alert};
use crashmonitor_bench::text;
use crashmonitor_worker::kafka::log::Polled;
use jiff::Timestamp;
use rdkafka::Message;
use rdkafka::message::BorrowedMessage;

use crate::Error;
use crate::kafka::{Access, Kafka, Next};
use crate::when::When;

/// What is asked of the results.
#[derive(Args, Debug)]
pub struct Wanted {
    /// The CrashMonitor.
    #[arg(required_unless_present = "config")]
    pub name: Option<String>,
    /// The configuration of workers that run by hand, in place of a CrashMonitor.
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    pub config: Option<PathBuf>,
    /// Go on with those that come, until Ctrl-C.
    #[arg(long, short)]
    pub follow: bool,
    /// Only those written since then: a span such as 10m, or a time [default: all that the topic has].
    #[arg(long, value_name = "WHEN")]
    pub since: Option<When>,
    /// One JSON object a line, as it stands in the topic.
    #[arg(long)]
    pub json: bool,
    /// Where Kafka is.
    #[command(flatten)]
    pub kafka: Access,
}

/// Prints them.
pub fn run(wanted: &Wanted, kafka: &Kafka) -> Result<(), Error> {
    let topic = kafka.config.output.topic.as_str();
    let ends = kafka.ends(topic)?;
    let since = wanted.since.map(|when| when.millis(Timestamp::now().as_millisecond()));
    let from = kafka.since(topic, &ends, since)?;
    let mut printer = Printer { out: BufWriter::new(io::stdout().lock()), is_json: wanted.json, ended: None };
    if wanted.follow {
        kafka.begin(topic, &from)?;
        while printer.ended.is_none() {
            match kafka.poll()? {
                Polled::Record(message) => drop(printer.take(&message)),
                Polled::End(_) | Polled::Nothing => printer.flush(),
            }
        }
    } else {
        kafka.read(topic, &from, &ends, |message| printer.take(message))?;
        printer.flush();
    }
    match printer.ended {
        // Who reads has seen enough, as with `| head`.
        Some(error) if error.kind() != ErrorKind::BrokenPipe => Err(Error::output(&error)),
        _ => Ok(()),
    }
}

struct Printer<W: Write> {
    out: W,
    is_json: bool,
    ended: Option<io::Error>,
}

impl<W: Write> Printer<W> {
    fn take(&mut self, message: &BorrowedMessage<'_>) -> Next {
        let value = message.payload().unwrap_or_default();
        match line(value, self.is_json) {
            Ok(line) => self.write(&line),
            // The topic may be written to by others.
            Err(reason) => anstream::eprintln!(
                "skipped: partition {}, offset {} of {}: {}",
                message.partition(),
                message.offset(),
                message.topic(),
                plain(&reason)
            ),
        }
        if self.ended.is_some() { Next::Stop } else { Next::Continue }
    }

    fn write(&mut self, line: &str) {
        if let Err(error) = writeln!(self.out, "{line}") {
            self.ended = Some(error);
        }
    }

    fn flush(&mut self) {
        if let Err(error) = self.out.flush() {
            self.ended = Some(error);
        }
    }
}

/// A record of the output topic as a line, or why it is no result.
fn line(value: &[u8], is_json: bool) -> Result<String, String> {
    let alert = parse_alert(value).map_err(|e| e.to_string())?;
    if !is_json {
        return Ok(shown(&alert));
    }
    // JSON has no line feed but between its parts; those are the only ones to go.
    let parsed: serde_json::Value = serde_json::from_slice(value).map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(value);
    Ok(if text.contains(['\n', '\r']) { parsed.to_string() } else { text.into_owned() })
}

/// A result in the original's format; what would steer a terminal is escaped.
pub fn shown(alert: &Alert) -> String {
    plain(&text::result(alert))
}

/// A text of somebody else's, on one line and harmless.
pub fn plain(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().collect() } else { String::from(c) };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: &str = r#"{"interval":{"start":"2026-01-11T14:42:50.000Z","end":"2026-01-11T14:43:00.000Z","start_ms":1768142570000,"end_ms":1768142580000},"user_id":"user_1234","crash_count":4,"mode":"update"}"#;

    #[test]
    fn a_result_is_a_line_in_both_formats() {
        let expected = "Interval {2026-01-11 14:42:50, 2026-01-11 14:43:00} | user_1234 | 4";
        assert_eq!(line(VALUE.as_bytes(), false).unwrap(), expected);
        assert_eq!(line(VALUE.as_bytes(), true).unwrap(), VALUE);
        let broken = VALUE.replace(",\"user_id\"", ",\n\"user_id\"");
        assert!(!line(broken.as_bytes(), true).unwrap().contains('\n'));
    }

    #[test]
    fn what_is_no_result_is_not_shown() {
        assert!(line(b"{}", true).is_err());
        assert!(line(b"", false).is_err());
    }

    #[test]
    fn a_user_does_not_steer_the_terminal() {
        let value = VALUE.replace("user_1234", "\\u001b[2Jx\\n");
        let line = line(value.as_bytes(), false).unwrap();
        assert!(line.ends_with(r"| \u{1b}[2Jx\n | 4"), "{line}");
    }
}
