//! When each result was due, and so how long a person had to wait for it.
//!
//! Responsible for the definition of latency, which is taken from outside of the monitor. The watermark passes the end
//! `e` of an interval once every input partition has shown a record of event time `e + maxOutOfOrderness` or later. So
//! it *passes* when the broker has appended the last partition's first such record, and the latency of a result is the
//! time from then until the consumer of the output topic has the first result of that interval and user. The disorder
//! of the generator moves that moment (by some milliseconds), as does a generator that is behind its rate: neither is
//! the monitor's.
//!
//! A result is *on time* if records before those already lift its count above the threshold. Otherwise a late record
//! does, and the latency is the time since that record was appended. Results of intervals whose watermark can pass only
//! after the load has ended wait for silence or end markers: they are not measured.
//!
//! The generator is deterministic and each partition has its records in their order, so the positions of all these
//! records are known by generating the same records again beside the real ones. Must never decide whether a result is
//! right: the oracle does, from the generator's own account.

use super::appended::Position;
use super::load::Load;
use super::{ALLOWED_LATENESS_MS, INPUT, INPUT_PARTITIONS, MAX_OUT_OF_ORDERNESS_MS, THRESHOLD, WINDOW_MS};
use crate::Kafka;
use crate::follow;
use crate::wait::try_until;
use crashmonitor_bench::generator::{Generator, Kind, Meta, Options, Severity, WordIn};
use crashmonitor_bench::oracle::Alert;
use rdkafka::consumer::BaseConsumer;
use rdkafka::message::{BorrowedMessage, Message};
use std::collections::BTreeMap;
use std::time::Duration;

const FIRST_RECORD_TIMEOUT: Duration = Duration::from_secs(30);

/// Intervals are forgotten so long after their end, when no result of them can come any more.
const KEPT_MS: i64 = 2 * (ALLOWED_LATENESS_MS + MAX_OUT_OF_ORDERNESS_MS) + 60_000;

/// Before the end of the load, not all partitions have shown the last event times yet, because of the disorder.
const END_MARGIN_MS: i64 = 250;

/// How long a result took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// From the passing of the watermark, in milliseconds.
    OnTime(i64),
    /// From the late record that made it a result, in milliseconds.
    Late(i64),
    /// Its watermark had to wait for the end of the load.
    Unmeasured,
}

/// The count of one interval and user.
#[derive(Default)]
struct Slot {
    count: u64,
    /// The record that made it a result.
    lifted_by: Option<Position>,
    is_shown: bool,
}

/// What makes the watermark pass the end of one interval.
#[derive(Default)]
struct Passing {
    /// By partition, the offset of the first record that lets it.
    first: BTreeMap<u32, u64>,
    passed_ms: Option<i64>,
}

/// How far a partition is.
#[derive(Clone, Copy, Default)]
struct Written {
    next_offset: u64,
    mark_ms: Option<i64>,
}

/// What the generator has written up to now.
pub struct Truth {
    generator: Generator,
    next: u64,
    value: Vec<u8>,
    written: Vec<Written>,
    slots: BTreeMap<(i64, u32), Slot>,
    /// By the start of the interval.
    passings: BTreeMap<i64, Passing>,
    /// When the load ends, if that is known.
    end_ms: Option<i64>,
}

impl Truth {
    /// Finds out when the generator began, from the first record in the input.
    pub fn begin(kafka: &Kafka, load: &Load, seconds: Option<u64>) -> Result<Truth, String> {
        let consumer = follow::open(kafka.topics().config(), INPUT, INPUT_PARTITIONS.cast_signed())?;
        let guess = Generator::new(load.options.clone()).map_err(|e| e.to_string())?;
        let start_ms = try_until(FIRST_RECORD_TIMEOUT, || match poll_start(&consumer, &guess) {
            None if !load.is_running() => Ok(Err("the load generator ended without a record".to_owned())),
            None => Err("no record in the input"),
            Some(start) => Ok(start),
        });
        let start_ms = start_ms.map_err(str::to_owned)??;
        Truth::new(Options { start_ms, ..load.options.clone() }, seconds)
    }

    fn new(options: Options, seconds: Option<u64>) -> Result<Truth, String> {
        let length_ms = seconds.map(|seconds| i64::try_from(seconds * 1000).unwrap_or(i64::MAX));
        let end_ms = length_ms.map(|length_ms| options.start_ms.saturating_add(length_ms));
        let generator = Generator::new(options).map_err(|e| e.to_string())?;
        Ok(Truth {
            written: vec![Written::default(); generator.options().partitions as usize],
            generator,
            next: 0,
            value: Vec::new(),
            slots: BTreeMap::new(),
            passings: BTreeMap::new(),
            end_ms,
        })
    }

    /// When the load began.
    pub fn start_ms(&self) -> i64 {
        self.generator.options().start_ms
    }

    /// Notes that the load ends now.
    pub fn end(&mut self, now_ms: i64) {
        self.end_ms = Some(self.end_ms.map_or(now_ms, |end_ms| end_ms.min(now_ms)));
    }

    /// Takes into account what was written until `now_ms`.
    pub fn advance(&mut self, now_ms: i64) {
        let until_ms = now_ms.min(self.end_ms.unwrap_or(i64::MAX));
        loop {
            let nominal_ms = self.generator.nominal_time_ms(self.next);
            if nominal_ms > until_ms {
                break;
            }
            let meta = self.generator.record(self.next, &mut self.value);
            self.next += 1;
            self.take(&meta);
        }
        let kept_from_ms = until_ms.saturating_sub(KEPT_MS);
        self.passings = self.passings.split_off(&kept_from_ms);
        while let Some(oldest) = self.slots.first_entry()
            && oldest.key().0 < kept_from_ms
        {
            oldest.remove();
        }
    }

    fn take(&mut self, meta: &Meta) {
        let written = &mut self.written[meta.partition as usize];
        let offset = written.next_offset;
        written.next_offset += 1;
        // Of most poison records the monitor can't know the time; of the others it has no need.
        if matches!(meta.kind, Kind::Poison(_)) {
            return;
        }
        let time_ms = meta.event_time_ms;
        if written.mark_ms.is_none_or(|mark_ms| time_ms > mark_ms) {
            let before_ms = written.mark_ms.replace(time_ms);
            let passed_ms = last_passed_ms(time_ms);
            if before_ms.is_some_and(|before_ms| last_passed_ms(before_ms) < passed_ms) {
                self.passings.entry(passed_ms).or_default().first.insert(meta.partition, offset);
            }
        }
        if is_crash(meta) {
            let start_ms = time_ms - time_ms.rem_euclid(WINDOW_MS);
            let slot = self.slots.entry((start_ms, meta.user)).or_default();
            slot.count += 1;
            if slot.count == THRESHOLD + 1 {
                slot.lifted_by = Some((meta.partition, offset));
            }
        }
    }

    /// How long this result took; `None` if it is not the first of its interval and user, or unknown. `appended` tells
    /// when the last of some records was appended.
    pub fn latency(
        &mut self,
        alert: &Alert,
        arrived_ms: i64,
        appended: impl Fn(&[Position]) -> Option<i64>,
    ) -> Option<Latency> {
        self.advance(arrived_ms);
        let user = alert.user_id.strip_prefix("user_")?.parse().ok()?;
        let slot = self.slots.get_mut(&(alert.start_ms, user))?;
        let lifted_by = slot.lifted_by?;
        if std::mem::replace(&mut slot.is_shown, true) {
            return None;
        }
        let nominal_ms = alert.start_ms + WINDOW_MS + MAX_OUT_OF_ORDERNESS_MS;
        if self.end_ms.is_some_and(|end_ms| nominal_ms + END_MARGIN_MS > end_ms) {
            return Some(Latency::Unmeasured);
        }
        let passing = self.passings.entry(alert.start_ms).or_default();
        let first: Vec<Position> =
            passing.first.iter().map(|(&partition, &offset)| (partition, offset)).collect();
        // What can't be looked up passed no earlier than the generator had it due.
        let is_known = first.len() == self.written.len();
        let look_up = || is_known.then(|| appended(&first)).flatten().unwrap_or(nominal_ms);
        let passed_ms = *passing.passed_ms.get_or_insert_with(look_up);
        if passing.first.get(&lifted_by.0).is_some_and(|&first| lifted_by.1 > first) {
            let lifted_ms = appended(&[lifted_by])?;
            return Some(Latency::Late(arrived_ms - lifted_ms.max(passed_ms)));
        }
        Some(Latency::OnTime(arrived_ms - passed_ms))
    }
}

/// The start of the last interval whose end the watermark passes when all partitions have shown this event time.
fn last_passed_ms(event_time_ms: i64) -> i64 {
    let watermark_ms = event_time_ms - MAX_OUT_OF_ORDERNESS_MS;
    watermark_ms - watermark_ms.rem_euclid(WINDOW_MS) - WINDOW_MS
}

fn is_crash(meta: &Meta) -> bool {
    let is_counted = matches!(meta.kind, Kind::Plain | Kind::Odd(_) | Kind::Late);
    let is_severe = matches!(meta.severity, Severity::High | Severity::Critical);
    is_counted && is_severe && meta.word != WordIn::Absent
}

fn poll_start(consumer: &BaseConsumer, guess: &Generator) -> Option<Result<i64, String>> {
    match consumer.poll(Duration::from_millis(50))? {
        Ok(message) => start_of(&message, guess).map(Ok),
        Err(e) => Some(Err(format!("reading {INPUT}: {e}"))),
    }
}

/// When the load began, by one of its first records: `guess` makes the same records, but from another start.
fn start_of(message: &BorrowedMessage<'_>, guess: &Generator) -> Option<i64> {
    let options = guess.options();
    let offset = u64::try_from(message.offset()).ok()?;
    if offset >= u64::from(options.run_records) {
        return None;
    }
    let partition = u64::try_from(message.partition()).ok()?;
    let index = partition * u64::from(options.run_records) + offset;
    let meta = guess.record(index, &mut Vec::new());
    if let Kind::Poison(_) = meta.kind {
        return None;
    }
    let record: serde_json::Value = serde_json::from_slice(message.payload()?).ok()?;
    Some(options.start_ms + record["timestamp"].as_i64()? - meta.event_time_ms)
}

#[cfg(test)]
mod tests {
    use super::{Latency, Position, Truth, WINDOW_MS};
    use crashmonitor_bench::generator::Options;
    use crashmonitor_bench::oracle::{Alert, Mode};

    const START_MS: i64 = 1_768_142_560_000;
    /// When the watermark passes the end of the first interval, if the generator is on time and without disorder.
    const PASSING_MS: i64 = START_MS + 12_000;

    fn alert(user: u32) -> Alert {
        Alert {
            start_ms: START_MS,
            end_ms: START_MS + WINDOW_MS,
            user_id: format!("user_{user}"),
            count: 3,
            mode: Mode::Update,
        }
    }

    fn options() -> Options {
        Options {
            start_ms: START_MS,
            event_rate: 1000,
            users: 1,
            one_in: 1,
            severity_weights: [0, 0, 0, 1],
            ..Options::default()
        }
    }

    #[test]
    fn a_result_counts_once_from_the_passing_of_the_watermark() {
        let mut truth = Truth::new(options(), None).unwrap();
        let appended = |positions: &[Position]| {
            // Record 12,000 is the first to let the watermark pass; it is the first of a run of ten.
            assert_eq!(positions, [(0, 3000), (1, 3000), (2, 3000), (3, 3000)]);
            Some(PASSING_MS + 30)
        };
        let arrived_ms = PASSING_MS + 100;
        assert_eq!(truth.latency(&alert(1000), arrived_ms, appended), Some(Latency::OnTime(70)));
        assert_eq!(truth.latency(&alert(1000), arrived_ms + 1, appended), None);
        assert_eq!(truth.latency(&alert(1001), arrived_ms, appended), None);
    }

    #[test]
    fn a_result_that_a_late_record_made_counts_from_that_record() {
        // Every record is up to 30 s late, so that some users' third one comes after the watermark.
        let options = Options { users: 1000, late_share: 1.0, event_rate: 100, ..options() };
        let mut truth = Truth::new(options, None).unwrap();
        let arrived_ms = PASSING_MS + 40_000;
        let appended =
            |positions: &[Position]| Some(if positions.len() == 1 { arrived_ms - 7 } else { PASSING_MS });
        let latencies: Vec<_> =
            (1000..2000).filter_map(|user| truth.latency(&alert(user), arrived_ms, appended)).collect();
        assert!(latencies.contains(&Latency::Late(7)));
    }

    #[test]
    fn what_waits_for_the_end_of_the_load_is_not_measured() {
        let mut truth = Truth::new(options(), Some(12)).unwrap();
        let arrived_ms = START_MS + 20_000;
        assert_eq!(truth.latency(&alert(1000), arrived_ms, |_| None), Some(Latency::Unmeasured));
    }
}
