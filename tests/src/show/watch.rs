//! The time from the first record to the last result.
//!
//! Responsible for following results, workers and the load generator at once, for the status line, and for deciding
//! when there is nothing more to wait for: when all expected results are there, or when none can come any more, or
//! when a bound is reached. Must never judge: what is outstanding is only a reason to wait.

use super::appended::Appended;
use super::histogram::Histogram;
use super::load::{Generated, Load};
use super::services::{OUTPUT_PARTITIONS, REPARTITION_PARTITIONS, Services};
use super::truth::{Latency, Truth};
use super::view::View;
use super::{INPUT_PARTITIONS, MAX_OUT_OF_ORDERNESS_MS, OUTPUT, WINDOW_MS};
use crate::Worker;
use crate::follow;
use crashmonitor_bench::load::now_ms;
use crashmonitor_bench::oracle::{Alert, Counts, parse_alert};
use crashmonitor_bench::text::{self, grouped};
use crashmonitor_core::status::Status;
use rdkafka::consumer::BaseConsumer;
use rdkafka::message::Message;
use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long the view stands still when nothing happens.
const TICK: Duration = Duration::from_millis(100);
const STATUS_INTERVAL: Duration = Duration::from_millis(500);
/// The rate is that of so long a time.
const RATE_SPAN: Duration = Duration::from_secs(3);
/// The longest wait for the last results.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
/// The same for somebody who wants to go.
const INTERRUPTED_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait yet for results when the workers have none left.
const SETTLED_TIMEOUT: Duration = Duration::from_secs(3);

/// One worker, as seen once.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Its name.
    pub name: String,
    /// What it said last.
    pub status: Status,
    /// The most memory that it had.
    pub resident_bytes_max: u64,
    /// Processor time so far.
    pub cpu: Duration,
    /// How it ended, which it should not have.
    ended: Option<String>,
}

/// What there is to say when all is over.
pub struct Watched {
    /// What was written.
    pub generated: Generated,
    /// What must come of it.
    pub expected: Counts,
    /// Only intervals that end here or earlier can be judged; `None`: all.
    pub judged_to_ms: Option<i64>,
    /// Whether all that was expected had come.
    pub is_drained: bool,
    /// Whether somebody wanted an early end.
    pub is_interrupted: bool,
    /// Latencies of results on time.
    pub on_time: Histogram,
    /// Latencies of results that late records made.
    pub late: Histogram,
    /// Results that can't be measured.
    pub unmeasured: u64,
    /// The workers at the end.
    pub workers: Vec<Reading>,
}

enum Event {
    Result(Result<Alert, String>, i64),
    Workers(Vec<Reading>),
}

/// Tells the threads to end.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Follows the load to its end.
pub fn run(
    services: &Services,
    load: &Load,
    seconds: Option<u64>,
    stop: &AtomicBool,
    view: &mut View,
) -> Result<Watched, String> {
    let results = follow::open(services.kafka.topics().config(), OUTPUT, OUTPUT_PARTITIONS)?;
    let truth = Truth::begin(&services.kafka, load, seconds)?;
    let appended = Appended::new(&services.kafka)?;
    let (sender, events) = channel();
    let ending = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = EndOnDrop(&ending);
        let (ending, to_results, results) = (&ending, sender.clone(), &results);
        scope.spawn(move || read_results(results, &to_results, ending));
        scope.spawn(move || read_workers(&services.workers, &sender, ending));
        let mut watch = Watch::new(load, truth, appended, stop, view);
        let outcome = watch.follow(&events);
        watch.view.end_status().map_err(|e| e.to_string()).and(outcome)
    })
}

fn read_results(consumer: &BaseConsumer, events: &Sender<Event>, ending: &AtomicBool) {
    while !ending.load(Ordering::Relaxed) {
        let Some(polled) = consumer.poll(TICK) else { continue };
        let arrived_ms = now_ms();
        let alert = match polled {
            Ok(message) => parse_alert(message.payload().unwrap_or_default()).map_err(|e| e.to_string()),
            // librdkafka goes on by itself; what never comes is missed at the end.
            Err(_) => continue,
        };
        if events.send(Event::Result(alert, arrived_ms)).is_err() {
            return;
        }
    }
}

fn read_workers(workers: &[Worker], events: &Sender<Event>, ending: &AtomicBool) {
    let name = |worker: &Worker| Reading { name: worker.name().to_owned(), ..Reading::default() };
    let mut readings: Vec<Reading> = workers.iter().map(name).collect();
    while !ending.load(Ordering::Relaxed) {
        for (worker, reading) in workers.iter().zip(&mut readings) {
            read_worker(worker, reading);
        }
        if events.send(Event::Workers(readings.clone())).is_err() {
            return;
        }
        thread::park_timeout(STATUS_INTERVAL);
    }
}

fn read_worker(worker: &Worker, reading: &mut Reading) {
    let process = worker.process();
    if let Some(status) = process.exited() {
        reading.ended = Some(format!("{} ended with {status}\n{}", worker.name(), worker.log_tail()));
        return;
    }
    // A worker that does not answer for a moment is shown as it was.
    if let Some(status) = worker.try_status().ok().and_then(|value| serde_json::from_value(value).ok()) {
        reading.status = status;
    }
    reading.resident_bytes_max = reading.resident_bytes_max.max(process.resident_bytes());
    reading.cpu = process.cpu_time();
}

/// What is still waited for after the load.
struct Draining {
    generated: Generated,
    expected: Counts,
    judged_to_ms: Option<i64>,
    outstanding: HashMap<(i64, String), u64>,
    /// Records in the input.
    written: u64,
    deadline: Instant,
}

struct Watch<'a> {
    load: &'a Load,
    truth: Truth,
    appended: Appended,
    stop: &'a AtomicBool,
    view: &'a mut View,
    workers: Vec<Reading>,
    /// Records read by all workers, over the last moments.
    recent: VecDeque<(Instant, u64)>,
    /// The last count of each interval and user.
    last: HashMap<(i64, String), u64>,
    received: u64,
    on_time: Histogram,
    late: Histogram,
    unmeasured: u64,
    is_interrupted: bool,
    draining: Option<Draining>,
}

impl<'a> Watch<'a> {
    fn new(
        load: &'a Load,
        truth: Truth,
        appended: Appended,
        stop: &'a AtomicBool,
        view: &'a mut View,
    ) -> Watch<'a> {
        Watch {
            load,
            truth,
            appended,
            stop,
            view,
            workers: Vec::new(),
            recent: VecDeque::new(),
            last: HashMap::new(),
            received: 0,
            on_time: Histogram::default(),
            late: Histogram::default(),
            unmeasured: 0,
            is_interrupted: false,
            draining: None,
        }
    }

    fn follow(&mut self, events: &Receiver<Event>) -> Result<Watched, String> {
        loop {
            self.take(events)?;
            self.truth.advance(now_ms());
            if self.stop.load(Ordering::Relaxed) && !self.is_interrupted {
                self.interrupt()?;
            }
            if self.draining.is_none() && !self.load.is_running() {
                self.begin_draining()?;
            }
            if let Some(draining) = self.take_drained() {
                return Ok(self.watched(draining));
            }
            let line = self.line();
            self.view.status(&line).map_err(|e| format!("standard output: {e}"))?;
        }
    }

    /// Takes what has come, or waits a little for it.
    fn take(&mut self, events: &Receiver<Event>) -> Result<(), String> {
        let first = match events.recv_timeout(TICK) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => return Err("nobody reads the results any more".to_owned()),
        };
        let mut lines = String::new();
        for event in std::iter::once(first).chain(events.try_iter()) {
            match event {
                Event::Result(Ok(alert), arrived_ms) => {
                    let _ = writeln!(lines, "{}", text::result(&alert));
                    self.result(alert, arrived_ms);
                }
                Event::Result(Err(reason), _) => return Err(format!("{OUTPUT}: {reason}")),
                Event::Workers(workers) => self.read(workers)?,
            }
        }
        match lines.strip_suffix('\n') {
            Some(lines) => self.view.say(lines).map_err(|e| format!("standard output: {e}")),
            None => Ok(()),
        }
    }

    fn result(&mut self, alert: Alert, arrived_ms: i64) {
        self.received += 1;
        let appended = &self.appended;
        match self.truth.latency(&alert, arrived_ms, |positions| appended.last_ms(positions)) {
            Some(Latency::OnTime(ms)) => self.on_time.add(ms),
            Some(Latency::Late(ms)) => self.late.add(ms),
            Some(Latency::Unmeasured) => self.unmeasured += 1,
            None => {}
        }
        let key = (alert.start_ms, alert.user_id);
        if let Some(draining) = &mut self.draining
            && draining.outstanding.get(&key) == Some(&alert.count)
        {
            draining.outstanding.remove(&key);
        }
        self.last.insert(key, alert.count);
    }

    fn read(&mut self, workers: Vec<Reading>) -> Result<(), String> {
        if let Some(ended) = workers.iter().find_map(|worker| worker.ended.clone()) {
            return Err(ended);
        }
        self.workers = workers;
        let now = Instant::now();
        self.recent.push_back((now, self.total(|status| status.totals.records)));
        while self.recent.len() > 2 && self.recent.front().is_some_and(|(at, _)| now - *at > RATE_SPAN) {
            self.recent.pop_front();
        }
        Ok(())
    }

    fn interrupt(&mut self) -> Result<(), String> {
        self.is_interrupted = true;
        match &mut self.draining {
            Some(draining) => draining.deadline = draining.deadline.min(Instant::now() + INTERRUPTED_TIMEOUT),
            None => {
                self.truth.end(now_ms());
                self.load.interrupt();
            }
        }
        let line = "ending in order; once more ends at once";
        self.view.say(line).map_err(|e| format!("standard output: {e}"))
    }

    fn begin_draining(&mut self) -> Result<(), String> {
        let (generated, expected) = self.load.outcome()?;
        if generated.first_event_ms != self.truth.start_ms() {
            let (theirs, ours) = (generated.first_event_ms, self.truth.start_ms());
            return Err(format!("the load began at {theirs}, not at {ours}: no latency is right"));
        }
        // Without end markers, the last intervals stay open.
        let judged_to_ms = match generated.end_marker_ms {
            Some(_) => None,
            None => Some(generated.last_event_ms - MAX_OUT_OF_ORDERNESS_MS - 500),
        };
        let is_judged = |start_ms: i64| judged_to_ms.is_none_or(|to_ms| start_ms + WINDOW_MS <= to_ms);
        let outstanding =
            expected.iter().filter(|(key, count)| is_judged(key.0) && self.last.get(*key) != Some(*count));
        let outstanding = outstanding.map(|(key, count)| (key.clone(), *count)).collect();
        let timeout = if self.is_interrupted { INTERRUPTED_TIMEOUT } else { DRAIN_TIMEOUT };
        let deadline = Instant::now() + timeout;
        let markers = if generated.end_marker_ms.is_some() { u64::from(INPUT_PARTITIONS) } else { 0 };
        let written = generated.records + markers;
        self.draining = Some(Draining { generated, expected, judged_to_ms, outstanding, written, deadline });
        Ok(())
    }

    /// What was waited for, if there is nothing more to wait for.
    fn take_drained(&mut self) -> Option<Draining> {
        let is_settled = self.is_settled();
        let read = self.total(|status| status.totals.records);
        let draining = self.draining.as_mut()?;
        if is_settled {
            draining.deadline = draining.deadline.min(Instant::now() + SETTLED_TIMEOUT);
        }
        // The figures are complete only when everything was read, end markers too.
        let is_drained = draining.outstanding.is_empty() && read >= draining.written;
        let is_over = is_drained || Instant::now() >= draining.deadline;
        if is_over { self.draining.take() } else { None }
    }

    /// Whether every interval is complete and every result that was written was read.
    fn is_settled(&self) -> bool {
        let end_marker_ms = self.draining.as_ref().and_then(|draining| draining.generated.end_marker_ms);
        let (Some(end_marker_ms), Some(watermark_ms)) = (end_marker_ms, self.watermark_ms()) else {
            return false;
        };
        watermark_ms >= end_marker_ms - MAX_OUT_OF_ORDERNESS_MS
            && self.received == self.total(|status| status.totals.results)
    }

    fn total(&self, of: impl Fn(&Status) -> u64) -> u64 {
        self.workers.iter().map(|worker| of(&worker.status)).sum()
    }

    /// The lowest watermark, once every partition has one.
    fn watermark_ms(&self) -> Option<i64> {
        let partitions = self.workers.iter().flat_map(|worker| worker.status.aggregate.values());
        let watermarks: Vec<i64> = partitions.filter_map(|partition| partition.watermark_ms).collect();
        if watermarks.len() < REPARTITION_PARTITIONS { None } else { watermarks.into_iter().min() }
    }

    fn line(&self) -> String {
        let lag: i64 =
            self.workers.iter().flat_map(|w| w.status.input.values()).map(|partition| partition.lag).sum();
        let watermark = self.watermark_ms().map_or_else(
            || "-".to_owned(),
            |ms| format!("{} -{:.1} s", text::clock(ms), (now_ms() - ms) as f64 / 1000.0),
        );
        let quantile = |share| self.on_time.quantile(share).map_or("-".to_owned(), |ms| ms.to_string());
        // What matters most comes first: a narrow terminal shows the beginning.
        format!(
            "{}{} rec/s | lag {} | watermark {watermark} | p50 {} p99 {} ms | results {} | late {} | dead letters {}",
            if self.draining.is_some() { "draining | " } else { "" },
            grouped(self.rate()),
            grouped(lag.max(0).unsigned_abs()),
            quantile(0.5),
            quantile(0.99),
            grouped(self.received),
            grouped(self.total(|status| status.totals.late)),
            grouped(self.total(|status| status.totals.dead_letters)),
        )
    }

    /// Records a second that the workers read lately.
    fn rate(&self) -> u64 {
        let (Some((from, before)), Some((to, after))) = (self.recent.front(), self.recent.back()) else {
            return 0;
        };
        let seconds = (*to - *from).as_secs_f64();
        if seconds > 0.0 { (after.saturating_sub(*before) as f64 / seconds) as u64 } else { 0 }
    }

    fn watched(&mut self, draining: Draining) -> Watched {
        let Draining { generated, expected, judged_to_ms, outstanding, .. } = draining;
        Watched {
            generated,
            expected,
            judged_to_ms,
            is_drained: outstanding.is_empty(),
            is_interrupted: self.is_interrupted,
            on_time: std::mem::take(&mut self.on_time),
            late: std::mem::take(&mut self.late),
            unmeasured: self.unmeasured,
            workers: std::mem::take(&mut self.workers),
        }
    }
}
