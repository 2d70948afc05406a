//! A run of the generator against a topic: pace, progress, end marker, summary.
//!
//! Owns the clock, which the generator must not have. Event times follow from the start time and the record's
//! index alone, so a run that falls behind its rate writes the same records, only later.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::generator::{Expected, Generator};
use crate::kafka::{self, Producer};
use crate::oracle::{Counts, Query};

/// A paced run writes what is due and then sleeps for this long.
const SLICE: Duration = Duration::from_millis(4);

/// Most records written before looking at the clock and the stop flag again.
const SLICE_RECORDS_MAX: u64 = 20_000;

const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// When a run writes, and when it ends.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// Records a second; 0 for as many as possible.
    pub rate: u64,
    /// Stop after so many records.
    pub records_max: Option<u64>,
    /// Stop after so long.
    pub duration: Option<Duration>,
    /// Then write, into each partition, a record that matches nothing and happens so many milliseconds after the
    /// last one, but not before that time has come.
    pub end_marker_after_ms: Option<u64>,
}

/// How a run is doing.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Since the start.
    pub elapsed: Duration,
    /// Records written so far.
    pub records: u64,
    /// Records a second since the last progress.
    pub rate: f64,
    /// How many records the run is behind its rate.
    pub behind_records: u64,
}

/// What a run wrote. Times are epoch milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Records acknowledged, without end markers.
    pub records: u64,
    /// Bytes of their values.
    pub value_bytes: u64,
    /// From the first record to the last acknowledgement.
    pub seconds: f64,
    /// Records a second over the whole run.
    pub records_per_second: f64,
    /// Partitions written to.
    pub partitions: u32,
    /// Records that count.
    pub crash_events: u64,
    /// Results that a monitor must give.
    pub expected_results: u64,
    /// Late records that still count if they match.
    pub late: u64,
    /// Records too late to count.
    pub too_late: u64,
    /// Records that must be reported as malformed.
    pub malformed: u64,
    /// Records with an empty or no value.
    pub empty: u64,
    /// Poison records by what is wrong with them.
    pub poison: BTreeMap<&'static str, u64>,
    /// Event time of the first record.
    pub first_event_ms: i64,
    /// Event time of the last record, before any shift.
    pub last_event_ms: i64,
    /// Event time of the end markers, if there are any.
    pub end_marker_ms: Option<i64>,
    /// The most by which the run was behind its rate, in milliseconds.
    pub behind_ms_max: u64,
    /// How often a broker failed and everything was delivered nevertheless.
    pub recoveries: u64,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
}

/// Writes records until the pace says that it is enough or `stop` is set, and waits until all are acknowledged.
///
/// The result is the summary and the results that a monitor with this query must give. After an error nothing is
/// known for sure of the last records, so there is no expectation then.
pub fn run(
    generator: &Generator,
    query: &Query,
    pace: &Pace,
    producer: &mut Producer,
    stop: &AtomicBool,
    mut progress: impl FnMut(Progress),
) -> Result<(Summary, Counts), kafka::Error> {
    let mut writer = Writer {
        generator,
        producer,
        expected: Expected::new(query),
        value: Vec::new(),
        key: Vec::new(),
        value_bytes: 0,
    };
    let mut clock = Clock::start(pace);
    let mut next = 0;
    while !stop.load(Ordering::Relaxed) && !clock.is_over(next) {
        let end = clock.due(next);
        writer.write(next..end)?;
        next = end;
        if pace.rate > 0 {
            writer.producer.flush()?;
            clock.rest(next);
        }
        if let Some(now) = clock.progress(next) {
            progress(now);
        }
    }
    let interrupted = stop.load(Ordering::Relaxed);
    writer.producer.drain()?;
    let seconds = clock.started.elapsed().as_secs_f64();
    let last_event_ms = generator.nominal_time_ms(next.saturating_sub(1));
    let end_marker_ms = match pace.end_marker_after_ms {
        Some(after_ms) if !interrupted => writer.mark_end(last_event_ms, after_ms, stop)?,
        _ => None,
    };
    let results = writer.expected.results();
    let tally = writer.expected.tally().clone();
    let summary = Summary {
        records: tally.records,
        value_bytes: writer.value_bytes,
        seconds,
        records_per_second: tally.records as f64 / seconds,
        partitions: generator.options().partitions,
        crash_events: tally.crash_events,
        expected_results: results.len() as u64,
        late: tally.late,
        too_late: tally.too_late,
        malformed: tally.malformed,
        empty: tally.empty,
        poison: tally.poison,
        first_event_ms: generator.nominal_time_ms(0),
        last_event_ms,
        end_marker_ms,
        behind_ms_max: clock.behind_ms_max,
        recoveries: writer.producer.recoveries(),
        interrupted: stop.load(Ordering::Relaxed),
    };
    Ok((summary, results))
}

/// Now, in epoch milliseconds.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64)
}

struct Writer<'a> {
    generator: &'a Generator,
    producer: &'a mut Producer,
    expected: Expected,
    value: Vec<u8>,
    key: Vec<u8>,
    value_bytes: u64,
}

impl Writer<'_> {
    fn write(&mut self, indices: std::ops::Range<u64>) -> Result<(), kafka::Error> {
        for index in indices {
            let meta = self.generator.record(index, &mut self.value);
            let key = self.generator.key(&meta, &mut self.key).then_some(self.key.as_slice());
            let value = (!meta.is_null()).then_some(self.value.as_slice());
            self.producer.push(meta.partition, key, value)?;
            self.expected.add(&meta);
            self.value_bytes += self.value.len() as u64;
        }
        Ok(())
    }

    /// Writes the end markers once their time has come, since no record may come from the future. The result is
    /// their event time; none if the wait was stopped.
    fn mark_end(
        &mut self,
        last_event_ms: i64,
        after_ms: u64,
        stop: &AtomicBool,
    ) -> Result<Option<i64>, kafka::Error> {
        let time_ms = last_event_ms.saturating_add_unsigned(after_ms);
        // Event times far in the future were asked for: then markers are not worth waiting for either.
        let deadline = Instant::now() + Duration::from_millis(after_ms);
        while now_ms() < time_ms && Instant::now() < deadline {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            sleep(SLICE);
        }
        let marker = format!(
            "{{\"timestamp\":{time_ms},\"status\":\"INFO\",\"severity\":\"Low\",\"source_ip\":\"10.0.0.0\",\
             \"user_id\":\"end_marker\",\"content\":\"\"}}"
        );
        for partition in 0..self.generator.options().partitions {
            self.producer.push(partition, None, Some(marker.as_bytes()))?;
        }
        self.producer.drain()?;
        Ok(Some(time_ms))
    }
}

/// What the wall clock says about a run.
struct Clock<'a> {
    pace: &'a Pace,
    started: Instant,
    reported: Instant,
    reported_records: u64,
    behind_ms_max: u64,
}

impl<'a> Clock<'a> {
    fn start(pace: &'a Pace) -> Self {
        let now = Instant::now();
        Self { pace, started: now, reported: now, reported_records: 0, behind_ms_max: 0 }
    }

    fn is_over(&self, next: u64) -> bool {
        self.pace.records_max.is_some_and(|max| next >= max)
            || self.pace.duration.is_some_and(|duration| self.started.elapsed() >= duration)
    }

    /// Records that should have been written by now, the record of this very moment included.
    fn target(&self) -> u64 {
        (self.started.elapsed().as_nanos() * u128::from(self.pace.rate) / 1_000_000_000) as u64 + 1
    }

    /// Where the next slice ends.
    fn due(&mut self, next: u64) -> u64 {
        let target = if self.pace.rate == 0 { u64::MAX } else { self.target().max(next) };
        let limit = self.pace.records_max.unwrap_or(u64::MAX).min(next.saturating_add(SLICE_RECORDS_MAX));
        target.min(limit)
    }

    /// Sleeps, unless the run is behind.
    fn rest(&mut self, next: u64) {
        let behind = self.behind(next);
        self.behind_ms_max = self.behind_ms_max.max(behind.saturating_mul(1000) / self.pace.rate);
        if behind < SLICE_RECORDS_MAX.min(1 + self.pace.rate * SLICE.as_millis() as u64 / 1000) {
            sleep(SLICE);
        }
    }

    fn behind(&self, next: u64) -> u64 {
        if self.pace.rate == 0 { 0 } else { self.target().saturating_sub(next) }
    }

    fn progress(&mut self, next: u64) -> Option<Progress> {
        let since = self.reported.elapsed();
        if since < PROGRESS_INTERVAL {
            return None;
        }
        let rate = (next - self.reported_records) as f64 / since.as_secs_f64();
        self.reported = Instant::now();
        self.reported_records = next;
        let elapsed = self.started.elapsed();
        Some(Progress { elapsed, records: next, rate, behind_records: self.behind(next) })
    }
}
