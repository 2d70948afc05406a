//! `verify`: reads the input again and holds the output against it.
//!
//! Responsible for a proof that does not trust the monitor: the input is recomputed by an oracle that shares no code with
//! the workers, and every user and interval of either side must match. What the monitor says is believed in two points
//! only, and both are in topics that can be looked at: through when windows are closed, and which records came too late.
//! Must never call something right that it could not read in full.

use std::collections::HashSet;
use std::path::PathBuf;

use clap::Args;
use crashmonitor_bench::oracle::{Alert, Finding, Oracle, Query, Report, compare, parse_alert};
use crashmonitor_core::config::Config;
use crashmonitor_operator::api::CrashMonitor;
use crashmonitor_worker::kafka::topics::Watermarks;
use jiff::Timestamp;
use kube::ResourceExt;
use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Headers};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::args::Format;
use crate::kafka::{Access, Kafka, Next};
use crate::results::plain;
use crate::text::{self, BAD, GOOD, STRONG, grouped, styled, time};
use crate::when::When;

/// How many findings of a class are listed.
const SHOWN_MAX: usize = 20;
/// Results that can't be read, of which the first are named.
const UNREADABLE_MAX: usize = 5;

/// What is to be verified.
#[derive(Args, Debug)]
pub struct Wanted {
    /// The CrashMonitor.
    #[arg(required_unless_present = "config")]
    pub name: Option<String>,
    /// The configuration of workers that run by hand, in place of a CrashMonitor.
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    pub config: Option<PathBuf>,
    /// Windows from here on: a time, or a span before --to.
    #[arg(long, value_name = "WHEN", default_value = "1h")]
    pub from: When,
    /// Windows up to here: a time, or a span ago [default: through the last closed window].
    #[arg(long, value_name = "WHEN")]
    pub to: Option<When>,
    /// Read all that the input has, for producers whose Kafka timestamps are older than the records' own.
    #[arg(long)]
    pub whole_log: bool,
    /// Text for people, or all of it for programs.
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    pub output: Format,
    /// Where Kafka is.
    #[command(flatten)]
    pub kafka: Access,
}

/// Whole windows, in epoch milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Interval {
    /// The first one's start.
    pub from_ms: i64,
    /// The last one's end.
    pub to_ms: i64,
}

impl Interval {
    /// The windows of `window_ms` that lie between these instants and are closed.
    pub fn new(
        wanted: (When, Option<When>),
        window_ms: i64,
        closed_ms: i64,
        now_ms: i64,
    ) -> Result<Interval, Error> {
        let (from, to) = wanted;
        let to_ms = to.map_or(closed_ms, |to| to.millis(now_ms));
        let to_ms = to_ms - to_ms.rem_euclid(window_ms);
        let from_ms = from.millis(to_ms).max(0);
        // Up, as the first one must be whole.
        let from_ms = from_ms.saturating_add((-from_ms).rem_euclid(window_ms));
        if to_ms > closed_ms {
            return Err(Error::input(
                format!("windows are closed through {} UTC; later ones may still change", time(closed_ms)),
                "give an earlier --to, or leave it out",
            ));
        }
        if from_ms >= to_ms {
            return Err(Error::input(
                format!("there is no whole window from {} to {} UTC", time(from_ms), time(to_ms)),
                "give an earlier --from",
            ));
        }
        Ok(Interval { from_ms, to_ms })
    }

    fn has(self, time_ms: i64) -> bool {
        (self.from_ms..self.to_ms).contains(&time_ms)
    }
}

/// What was read.
pub struct Seen {
    /// The input.
    pub oracle: Oracle,
    /// Records of it that came too late to count.
    pub late: usize,
    /// Records of it that were too far ahead of the clock.
    pub future: usize,
    /// The output.
    pub alerts: Vec<Alert>,
    /// What of it is no result.
    pub unreadable_results: Vec<String>,
}

/// What came of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    name: String,
    namespace: String,
    #[serde(flatten)]
    interval: Interval,
    windows: i64,
    #[serde(skip)]
    window_ms: i64,
    input_topic: String,
    output_topic: String,
    records_read: u64,
    crashes: u64,
    excluded_as_late: usize,
    excluded_as_future: usize,
    results_read: usize,
    unreadable_results: Vec<String>,
    #[serde(flatten)]
    report: Report,
    is_right: bool,
    /// What else may explain a difference.
    hints: Vec<String>,
}

/// Verifies, prints, and fails if there is a difference.
pub fn run(wanted: &Wanted, monitor: Option<&CrashMonitor>, kafka: &Kafka) -> Result<(), Error> {
    let config = &kafka.config;
    let window_ms = millis(config.window.size);
    let now_ms = Timestamp::now().as_millisecond();
    let interval = Interval::new((wanted.from, wanted.to), window_ms, kafka.closed_through()?, now_ms)?;
    // A record's own time is at most this much ahead of the clock, and so of Kafka's timestamp.
    let since_ms = interval.from_ms.saturating_sub(millis(config.window.max_future_skew));
    let late = match &config.output.late_topic {
        Some(topic) => late(kafka, topic.as_str(), since_ms)?,
        None => HashSet::new(),
    };
    let future = match &config.output.dead_letter_topic {
        Some(topic) => future(kafka, topic.as_str(), since_ms)?,
        None => HashSet::new(),
    };
    let mut oracle = Oracle::new(query(config, interval));
    input(kafka, (!wanted.whole_log).then_some(since_ms), |partition, offset, value| {
        if !late.contains(&(partition, offset)) && !future.contains(&(partition, offset)) {
            oracle.add(partition, offset, value);
        }
    })?;
    let (alerts, unreadable_results) = results(kafka, since_ms, interval)?;
    let (late, future) = (late.len(), future.len());
    let seen = Seen { oracle, late, future, alerts, unreadable_results };
    let verdict = Verdict::new(config, interval, seen, monitor);
    crate::run::print(&match wanted.output {
        Format::Text => verdict.text(),
        other => crate::run::rendered(&verdict, other),
    })?;
    if verdict.is_right {
        return Ok(());
    }
    Err(Error::no(
        "the output differs from the input",
        "docs/cli.md says what may explain it; `report` collects the rest",
    ))
}

fn millis(span: std::time::Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

fn query(config: &Config, interval: Interval) -> Query {
    Query {
        word: config.rule.contains.clone(),
        case_sensitive: config.rule.case_sensitive,
        severities: config.rule.severities.clone(),
        window_ms: millis(config.window.size),
        threshold: config.count_greater_than,
        // What comes after the interval need not be counted.
        event_time_max_ms: interval.to_ms - 1,
    }
}

/// Positions of the input.
type Positions = HashSet<(i32, i64)>;

#[derive(Deserialize)]
struct LateText {
    partition: i32,
    offset: i64,
}

/// What came too late to count, by the late topic.
fn late(kafka: &Kafka, topic: &str, since_ms: i64) -> Result<Positions, Error> {
    let mut found = Positions::new();
    since(kafka, topic, since_ms, |message| {
        // Others' records name no position of the input.
        if let Ok(LateText { partition, offset }) =
            serde_json::from_slice(message.payload().unwrap_or_default())
        {
            found.insert((partition, offset));
        }
    })?;
    Ok(found)
}

/// What was too far ahead of the clock when it was read, by the dead-letter topic.
fn future(kafka: &Kafka, topic: &str, since_ms: i64) -> Result<Positions, Error> {
    let mut found = Positions::new();
    since(kafka, topic, since_ms, |message| {
        let text = |name: &str| {
            let header = message.headers()?.iter().find(|header| header.key == name)?;
            std::str::from_utf8(header.value?).ok()
        };
        let position = || {
            Some((text("crashmonitor.partition")?.parse().ok()?, text("crashmonitor.offset")?.parse().ok()?))
        };
        if text("crashmonitor.reason") == Some("timestamp-in-future") {
            found.extend(position());
        }
    })?;
    Ok(found)
}

/// All records of a topic of ours since then.
fn since(
    kafka: &Kafka,
    topic: &str,
    since_ms: i64,
    mut take: impl FnMut(&BorrowedMessage<'_>),
) -> Result<(), Error> {
    let ends = kafka.ends(topic)?;
    let from = kafka.since(topic, &ends, Some(since_ms))?;
    kafka.read(topic, &from, &ends, |message| {
        take(message);
        Next::Continue
    })
}

/// The input from then on.
fn input(
    kafka: &Kafka,
    since_ms: Option<i64>,
    mut take: impl FnMut(i32, i64, Option<&[u8]>),
) -> Result<(), Error> {
    let topic = kafka.config.input.topic.as_str();
    let ends = kafka.ends(topic)?;
    let from = kafka.since(topic, &ends, since_ms)?;
    if since_ms.is_some()
        && let Some(partition) = cut(&ends, &from)
    {
        return Err(Error::failed(
            format!(
                "partition {partition} of {topic} no longer has all records of this interval: they were deleted"
            ),
            "give a later --from; --whole-log compares with what is left",
        ));
    }
    kafka.read(topic, &from, &ends, |message| {
        take(message.partition(), message.offset(), message.payload());
        Next::Continue
    })
}

/// A partition whose oldest record is not older than what is looked for, and that had older ones: nobody can tell what
/// is missing.
fn cut(ends: &[Watermarks], from: &[(i32, i64)]) -> Option<i32> {
    let mut both = ends.iter().zip(from);
    both.find(|(ends, (_, start))| ends.low > 0 && *start <= ends.low && ends.low < ends.high)
        .map(|(ends, _)| ends.partition)
}

/// The results of an interval, in the order of each partition's log, and what can't be read as one.
fn results(kafka: &Kafka, since_ms: i64, interval: Interval) -> Result<(Vec<Alert>, Vec<String>), Error> {
    let (mut alerts, mut unreadable) = (Vec::new(), Vec::new());
    let topic = kafka.config.output.topic.as_str();
    // Windows that are closed are written; their transaction may be ending yet.
    kafka.await_transactions(topic)?;
    since(kafka, topic, since_ms, |message| match parse_alert(message.payload().unwrap_or_default()) {
        Ok(alert) if interval.has(alert.start_ms) => alerts.push(alert),
        Ok(_) => {}
        Err(reason) => {
            let (partition, offset) = (message.partition(), message.offset());
            unreadable.push(format!(
                "partition {partition}, offset {offset} of {topic}: {}",
                plain(&reason.to_string())
            ));
        }
    })?;
    Ok((alerts, unreadable))
}

/// What else than a mistake of the monitor may explain a difference.
fn hints(monitor: &CrashMonitor, interval: Interval) -> Vec<String> {
    let mut hints = Vec::new();
    let (spec, status) = (&monitor.spec, monitor.status.clone().unwrap_or_default());
    let created = monitor.creation_timestamp().map_or(0, |time| time.0.as_millisecond());
    if interval.from_ms < created {
        let at = time(created);
        hints.push(format!(
            "the resource was created at {at} UTC: earlier windows were not counted, or not in full"
        ));
    }
    let late = status.late_records.map_or(0, |late| late.dropped);
    if spec.output.late_topic.is_none() && late > 0 {
        hints.push(format!(
            "{late} crashes came too late, and without spec.output.lateTopic nobody can tell which"
        ));
    }
    if spec.output.dead_letter_topic.is_none() && status.dead_letters.is_some_and(|dead| dead > 0) {
        hints.push("records too far ahead of the clock were not counted, and without spec.output.deadLetterTopic nobody can tell which".to_owned());
    }
    if let Some(loss) = &status.data_loss {
        let at = time(loss.last_time.0.as_millisecond());
        hints.push(format!("records were lost before they were read, the last time at {at} UTC"));
    }
    if monitor.metadata.generation.is_some_and(|generation| generation > 1) {
        hints.push(
            "the spec was changed since: another match, threshold or topic counts otherwise from then on"
                .to_owned(),
        );
    }
    hints
}

impl Verdict {
    /// Compares.
    pub fn new(config: &Config, interval: Interval, seen: Seen, monitor: Option<&CrashMonitor>) -> Verdict {
        let window_ms = millis(config.window.size);
        let Seen { oracle, late, future, alerts, unreadable_results } = seen;
        let mut expected = oracle.results();
        expected.retain(|(start_ms, _), _| interval.has(*start_ms));
        let report = compare(&expected, &alerts);
        let is_right = report.is_right() && unreadable_results.is_empty();
        Verdict {
            name: config.monitor.name.clone(),
            namespace: config.monitor.namespace.clone(),
            interval,
            windows: (interval.to_ms - interval.from_ms) / window_ms,
            window_ms,
            input_topic: config.input.topic.to_string(),
            output_topic: config.output.topic.to_string(),
            records_read: oracle.tally().records + (late + future) as u64,
            crashes: oracle.tally().matched,
            excluded_as_late: late,
            excluded_as_future: future,
            results_read: alerts.len(),
            unreadable_results,
            hints: if is_right {
                Vec::new()
            } else {
                monitor.map_or_else(Vec::new, |monitor| hints(monitor, interval))
            },
            report,
            is_right,
        }
    }

    /// The text for people.
    pub fn text(&self) -> String {
        let Verdict { report, interval, .. } = self;
        let name = styled(STRONG, &format!("{}/{}", self.namespace, self.name));
        let (from, to) = (time(interval.from_ms), time(interval.to_ms));
        let (state, style) = if self.is_right { ("right", GOOD) } else { ("DIFFERENT", BAD) };
        let mut text = format!("{name}: {}, {from} to {to} UTC\n", styled(style, state));
        let windows = text::things(usize::try_from(self.windows).unwrap_or(0), "window");
        let mut left_out = String::new();
        for (number, why) in
            [(self.excluded_as_late, "came too late"), (self.excluded_as_future, "were ahead of the clock")]
        {
            if number > 0 {
                left_out += &format!(", {} {why}", grouped(number as u64));
            }
        }
        let input = format!("{} records of {}{left_out}", grouped(self.records_read), self.input_topic);
        let output = format!("{} records of {}", grouped(self.results_read as u64), self.output_topic);
        let users = format!("{} users in {windows} right", grouped(report.right));
        for (name, value) in [("Input", input), ("Output", output), ("Results", users)] {
            text += &format!("{name:<12}{value}\n");
        }
        let classes = [
            ("missing", &report.missing),
            ("wrong", &report.wrong),
            ("unexpected", &report.unexpected),
            ("doubled", &report.doubled),
        ];
        for (class, findings) in classes {
            text += &listed(class, findings, self.window_ms);
        }
        for line in self.unreadable_results.iter().take(UNREADABLE_MAX) {
            text += &format!("unreadable  {line}\n");
        }
        for hint in &self.hints {
            text += &format!("perhaps     {hint}\n");
        }
        text
    }
}

fn listed(class: &str, findings: &[Finding], window_ms: i64) -> String {
    let mut text = String::new();
    for Finding { start_ms, user_id, expected, got } in findings.iter().take(SHOWN_MAX) {
        let interval = format!("Interval {{{}, {}}}", time(*start_ms), time(start_ms + window_ms));
        let expected = expected.map_or("none".to_owned(), |count| count.to_string());
        text +=
            &format!("{class:<12}{interval} | {} | expected {expected}, written {got:?}\n", plain(user_id));
    }
    if findings.len() > SHOWN_MAX {
        text += &format!("{class:<12}and {} more\n", grouped((findings.len() - SHOWN_MAX) as u64));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn interval(from: &str, to: Option<&str>) -> Result<Interval, Error> {
        let when = |text: &str| text.parse().unwrap();
        Interval::new((when(from), to.map(when)), 10_000, 105_000, 200_000)
    }

    #[test]
    fn only_whole_and_closed_windows_are_verified() {
        assert_eq!(interval("30s", None), Ok(Interval { from_ms: 70_000, to_ms: 100_000 }));
        assert_eq!(interval("31s", None), Ok(Interval { from_ms: 70_000, to_ms: 100_000 }));
        assert_eq!(interval("1h", None), Ok(Interval { from_ms: 0, to_ms: 100_000 }));
        let at = interval("1970-01-01T00:00:15Z", Some("1970-01-01T00:00:49Z"));
        assert_eq!(at, Ok(Interval { from_ms: 20_000, to_ms: 40_000 }));
        assert!(interval("30s", Some("90s")).is_err(), "not closed yet");
        assert!(interval("5s", None).is_err(), "no whole window");
    }

    #[test]
    fn a_log_that_was_cut_is_not_compared() {
        let ends = |low, high| Watermarks { partition: 3, low, high };
        assert_eq!(cut(&[ends(0, 9)], &[(3, 0)]), None, "it begins with its first record");
        assert_eq!(cut(&[ends(5, 9)], &[(3, 7)]), None, "older records are there");
        assert_eq!(cut(&[ends(5, 9)], &[(3, 5)]), Some(3));
        assert_eq!(millis(Duration::from_secs(1)), 1000);
    }
}
