//! From a crash of a worker to its next results, under load; and how long it takes to restore very many counts.
//!
//! Responsible for the crashes and for what is measured after each. Must never report a time of a run whose results were
//! not all right at its end.
//!
//! # What is measured
//!
//! - *Under load* (`recovery`): one worker, 100,000 records/s, `kill -9`, and at once the same again under the same name, as
//!   Kubernetes does; its group membership is static, so nobody waits for a session to end. From the kill to the first
//!   result that a `read_committed` consumer gets and that the killed process can't have written: the watermark can have passed
//!   its window's end only after the kill. And to being caught up: the first such result that comes no later after its
//!   time than the latest one of the last seconds before the kill did. Windows are short here, so that results come often
//!   enough to tell; late records are allowed for as long as ever, so there is as much to replay as ever.
//! - *Very many counts* (`restore`): so many pairs of an open window and a user, no load, `kill -9`. From the start of the next
//!   process until it is ready and has all of them. The smallest number tells what a start takes anyway.

use clap::Args;
use crashmonitor_bench::load::now_ms;
use crashmonitor_bench::oracle::{Counts, compare, parse_alert};
use crashmonitor_bench::text::grouped;
use crashmonitor_core::status::Status;
use crashmonitor_testbed::home::Dir;
use crashmonitor_testbed::load::write_users;
use crashmonitor_testbed::monitor::Monitor;
use crashmonitor_testbed::process::Process;
use crashmonitor_testbed::show::load::{Generated, outcome};
use crashmonitor_testbed::wait::{try_until, try_until_closely};
use crashmonitor_testbed::worker::binary;
use crashmonitor_testbed::{Kafka, Redis, Worker, follow};
use rdkafka::consumer::BaseConsumer;
use rdkafka::message::Message;
use rustix::process::Signal;
use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::page::{self, Page, Section};
use super::plot::{Panel, Plot, Series, Spread};

const PARTITIONS: i32 = 4;
const SHARDS: i64 = 16;
/// Short, so that results come often.
const WINDOW_MS: i64 = 250;
/// The load has as many users as make some six crashes of each in a window: nearly every one is a result.
const RECORDS_PER_RESULT: u64 = 6 * 400;
const ALLOWED_LATENESS_MS: i64 = 30_000;
const MAX_OUT_OF_ORDERNESS_MS: i64 = 2_000;
/// Before the first kill so much of the load lies behind its beginning that there is as much to replay as ever after.
const WARM_MS: i64 = ALLOWED_LATENESS_MS + MAX_OUT_OF_ORDERNESS_MS + 10_000;
/// Between being caught up and the next kill: checkpoints are every 5 s.
const SETTLED_MS: i64 = 10_000;
/// How old results were before the kill, is told by those of so long.
const USUAL_MS: i64 = 5_000;
/// A monitor whose results are older than this before the kill is not at rest: what it would take to be caught up says nothing.
const USUAL_MAX_MS: i64 = 2_000;
/// How often readiness is asked for while results are waited for.
const STEP: Duration = Duration::from_millis(10);
/// Anything that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(180);
/// The start of the window that has very many users.
const MANY_MS: i64 = 1_768_142_570_000;

/// What to measure.
#[derive(Args)]
pub struct What {
    /// Kills, each with Redis and without.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// Records a second meanwhile.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    rate: u64,
    /// Open pairs of a window and a user to restore; none: only under load.
    #[arg(long, value_delimiter = ',', num_args = 0.., default_value = "1000,1000000")]
    pairs: Vec<u64>,
}

/// Where snapshots are.
#[derive(Clone, Copy, PartialEq)]
enum Store {
    Redis,
    None,
}

impl Store {
    const ALL: [Store; 2] = [Store::Redis, Store::None];

    fn name(self) -> &'static str {
        match self {
            Store::Redis => "Redis",
            Store::None => "none",
        }
    }

    fn slug(self) -> &'static str {
        match self {
            Store::Redis => "redis",
            Store::None => "no-redis",
        }
    }
}

/// Measures all, and writes the pages.
pub fn run(what: &What, out: &Path) -> Result<(), String> {
    let kafka = Kafka::builder().for_benchmarks().start();
    let redis = Redis::start();
    let mut killed = Vec::new();
    for store in Store::ALL {
        println!("recovery: {} records/s, checkpoints: {}", grouped(what.rate), store.name());
        killed.push((store, under_load(&kafka, &redis, store, what)?));
    }
    let mut sections = vec![killed_section(what, &killed)];
    let mut restored = Vec::new();
    for &pairs in &what.pairs {
        for store in Store::ALL {
            println!("restore: {} open pairs, checkpoints: {}", grouped(pairs), store.name());
            restored.push((pairs, store, restore(&kafka, &redis, store, pairs, what.runs)?));
        }
    }
    if !restored.is_empty() {
        sections.push(restored_section(&what.pairs, &restored));
    }
    sections.iter().for_each(|section| println!("\n{}", section.table()));
    let beside = page::kafka();
    Page { name: "recovery", title: "Recovery", command: "make bench-recovery", beside, sections }.write(out)
}

/// A monitor with the worker's own defaults wherever the test bed has others.
fn monitor<'k>(kafka: &'k Kafka, redis: &Redis, store: Store, name: &str) -> Monitor<'k> {
    let monitor = Monitor::new(kafka, &format!("{name}-{}", store.slug()))
        .set("output.partitions", 1)
        .set("repartition.partitions", SHARDS)
        .unset("worker.commitInterval");
    match store {
        Store::Redis => monitor.redis(redis).unset("checkpoint.interval"),
        Store::None => monitor,
    }
}

fn status(worker: &Worker) -> Result<Status, String> {
    if let Some(status) = worker.process().exited() {
        return Err(format!("it ended with {status}"));
    }
    serde_json::from_value(worker.try_status()?).map_err(|error| error.to_string())
}

/// How all shards came back, by the names that the metrics have.
fn decisions(status: &Status) -> String {
    let names: BTreeSet<&str> =
        status.aggregate.values().filter_map(|shard| shard.recovery.as_deref()).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// Waits until every shard has a snapshot that was stored after `since_ms`.
fn await_checkpoints(worker: &Worker, since_ms: i64) -> Result<(), String> {
    let stored = try_until(TIMEOUT, || {
        let status = status(worker)?;
        let stored =
            status.aggregate.values().filter(|shard| shard.last_checkpoint_ms > Some(since_ms)).count();
        if stored as i64 == SHARDS { Ok(()) } else { Err(format!("{stored} of {SHARDS} snapshots")) }
    });
    stored.map_err(|why| format!("{why}\n{}", worker.log_tail()))
}

// ---- Under load ----

/// What one kill cost, in milliseconds since then.
struct Killed {
    ready_ms: i64,
    first_ms: i64,
    caught_up_ms: i64,
    /// The oldest result of the last seconds before.
    usual_ms: i64,
    decisions: String,
}

/// A result, as it came.
struct Came {
    at_ms: i64,
    end_ms: i64,
}

impl Came {
    /// When the watermark can pass the end of its window, if all records come on time.
    fn due_ms(&self) -> i64 {
        self.end_ms + MAX_OUT_OF_ORDERNESS_MS
    }

    fn age_ms(&self) -> i64 {
        self.at_ms - self.due_ms()
    }
}

fn under_load(kafka: &Kafka, redis: &Redis, store: Store, what: &What) -> Result<Vec<Killed>, String> {
    let monitor = monitor(kafka, redis, store, "recovery").set("window.size", format!("{WINDOW_MS}ms"));
    monitor.create_input(PARTITIONS);
    let mut worker = monitor.start_workers(1).remove(0);
    let generator = Generator::start(&monitor, what.rate);
    let results = Results::follow(&monitor)?;
    let mut rest_ms = WARM_MS;
    let mut killed = Vec::new();
    for number in 0..what.runs {
        let usual = results.until_after(now_ms() + rest_ms, &generator, &worker)?;
        rest_ms = SETTLED_MS;
        if matches!(store, Store::Redis) {
            await_checkpoints(&worker, now_ms() - SETTLED_MS)?;
        }
        let outcome = kill(&mut worker, &results, usual)?;
        println!(
            "  kill {number}: ready after {} ms, first result after {} ms, caught up after {} ms; {}; before: {} ms",
            outcome.ready_ms, outcome.first_ms, outcome.caught_up_ms, outcome.decisions, outcome.usual_ms
        );
        killed.push(outcome);
    }
    let (generated, expected) = generator.finish()?;
    complete(&monitor, &[worker], generated.last_event_ms, &expected)?;
    Ok(killed)
}

/// One kill. `usual_ms`: how old results were before.
fn kill(worker: &mut Worker, results: &Results, usual_ms: i64) -> Result<Killed, String> {
    let killed_ms = now_ms();
    worker.kill9();
    worker.start_again();
    let deadline = Instant::now() + TIMEOUT;
    let (mut ready, mut first, mut caught_up) = (None, None, None);
    while ready.is_none() || caught_up.is_none() {
        if Instant::now() >= deadline || !worker.is_running() {
            return Err(format!("it is not back within {TIMEOUT:?}\n{}", worker.log_tail()));
        }
        if ready.is_none() && worker.ready() {
            ready = Some(now_ms() - killed_ms);
        }
        let Some(came) = results.next(STEP)? else { continue };
        if came.due_ms() <= killed_ms {
            continue;
        }
        first.get_or_insert(came.at_ms - killed_ms);
        if came.age_ms() <= usual_ms {
            caught_up.get_or_insert(came.at_ms - killed_ms);
        }
    }
    let [ready_ms, first_ms, caught_up_ms] = [ready, first, caught_up].map(Option::unwrap_or_default);
    Ok(Killed { ready_ms, first_ms, caught_up_ms, usual_ms, decisions: decisions(&status(worker)?) })
}

/// Has the last windows complete, and holds all that the monitor wrote against what it should have.
fn complete(
    monitor: &Monitor<'_>,
    workers: &[Worker],
    last_event_ms: i64,
    expected: &Counts,
) -> Result<(), String> {
    // No event time may be ahead of the clock.
    let end_ms = last_event_ms + WINDOW_MS + MAX_OUT_OF_ORDERNESS_MS;
    try_until(TIMEOUT, || if now_ms() > end_ms { Ok(()) } else { Err("the clock stands still".to_owned()) })?;
    monitor.advance(end_ms);
    monitor.await_watermark(workers, last_event_ms + 1, TIMEOUT);
    finish(monitor, workers, expected)
}

/// Workers that end in order have written all that they may.
fn finish(monitor: &Monitor<'_>, workers: &[Worker], expected: &Counts) -> Result<(), String> {
    Monitor::stop(workers);
    let report = compare(expected, &monitor.alerts());
    println!("  results: {report}");
    monitor.topics().delete_topic(monitor.input());
    if report.is_right() { Ok(()) } else { Err(format!("{}: {report}", monitor.name())) }
}

/// The load generator, until it is told to end.
struct Generator {
    // Before `dir`: the process ends before its files go.
    process: Process,
    expected: PathBuf,
    _dir: Dir,
}

impl Generator {
    fn start(monitor: &Monitor<'_>, rate: u64) -> Generator {
        let dir = Dir::new("load");
        let expected = dir.path().join("expected");
        let users = (rate * WINDOW_MS.unsigned_abs() / 1000 / RECORDS_PER_RESULT).max(1);
        let mut command = Command::new(binary("crashmonitor-loadgen", "CRASHMONITOR_LOADGEN"));
        command.args(["--brokers", &monitor.bootstrap(), "--topic", monitor.input(), "--quiet"]);
        command.args(["--rate", &rate.to_string(), "--users", &users.to_string()]);
        command.args(["--window-ms", &WINDOW_MS.to_string(), "--expected"]).arg(&expected);
        let process = Process::spawn("loadgen", &command, &dir.path().join("log"));
        Generator { process, expected, _dir: dir }
    }

    fn finish(self) -> Result<(Generated, Counts), String> {
        if !self.process.is_running() {
            return Err(format!("the load generator ended early\n{}", self.process.log_tail()));
        }
        self.process.signal(Signal::INT);
        self.process.wait_exit(TIMEOUT);
        outcome(&self.process, &self.expected)
    }
}

/// The results of a monitor with the time at which each came, read by a thread of its own. Dropping it ends that.
struct Results {
    came: Receiver<Result<Came, String>>,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Results {
    fn follow(monitor: &Monitor<'_>) -> Result<Results, String> {
        try_until(TIMEOUT, || monitor.topics().partitions_of(monitor.output()).ok_or("no output topic"))?;
        let consumer = follow::open(monitor.topics().config(), monitor.output(), 1)?;
        let (sender, came) = channel();
        let ending = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let ending = Arc::clone(&ending);
            move || read(&consumer, &sender, &ending)
        });
        Ok(Results { came, ending, thread: Some(thread) })
    }

    /// The next one, if it comes within this time.
    fn next(&self, timeout: Duration) -> Result<Option<Came>, String> {
        match self.came.recv_timeout(timeout) {
            Ok(came) => came.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err("nobody reads the results any more".to_owned()),
        }
    }

    /// Takes results until one of a window comes that ended after `end_ms`, and the last ones came soon; gives the highest
    /// age among these.
    fn until_after(&self, end_ms: i64, generator: &Generator, worker: &Worker) -> Result<i64, String> {
        let mut last: VecDeque<Came> = VecDeque::new();
        let deadline = Instant::now() + TIMEOUT;
        let usual_ms = |last: &VecDeque<Came>| last.iter().map(Came::age_ms).max().unwrap_or_default();
        while last.back().is_none_or(|came| came.end_ms <= end_ms) || usual_ms(&last) > USUAL_MAX_MS {
            if Instant::now() >= deadline || !generator.process.is_running() || !worker.is_running() {
                let seen = last.back().map_or("none".to_owned(), |came| came.end_ms.to_string());
                let status = worker.try_status().map_or_else(|why| why, |status| status.to_string());
                let logs = [generator.process.log_tail(), worker.log_tail(), status].join("\n");
                return Err(format!(
                    "no result of a window that ended after {end_ms} came in time, the last was of {seen}\n{logs}"
                ));
            }
            last.extend(self.next(STEP)?);
            let newest_ms = last.back().map_or(0, |came| came.at_ms);
            while last.front().is_some_and(|came| came.at_ms < newest_ms - USUAL_MS) {
                last.pop_front();
            }
        }
        Ok(usual_ms(&last))
    }
}

impl Drop for Results {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it was told by its end of the channel.
            let _ = thread.join();
        }
    }
}

fn read(consumer: &BaseConsumer, came: &Sender<Result<Came, String>>, ending: &AtomicBool) {
    while !ending.load(Ordering::Relaxed) {
        let Some(polled) = consumer.poll(STEP) else { continue };
        let at_ms = now_ms();
        // librdkafka goes on by itself after an error; what never comes is missed at the end.
        let Ok(message) = polled else { continue };
        let alert = parse_alert(message.payload().unwrap_or_default()).map_err(|error| error.to_string());
        if came.send(alert.map(|alert| Came { at_ms, end_ms: alert.end_ms })).is_err() {
            return;
        }
    }
}

fn killed_section(what: &What, killed: &[(Store, Vec<Killed>)]) -> Section {
    type Of = fn(&Killed) -> i64;
    const FIGURES: [(&str, Of); 3] = [
        ("ready", |killed| killed.ready_ms),
        ("first new result", |killed| killed.first_ms),
        ("caught up", |killed| killed.caught_up_ms),
    ];
    let spread = |kills: &[Killed], of: Of| Spread::of(kills.iter().map(|killed| of(killed) as f64 / 1000.0));
    let row = |(store, kills): &(Store, Vec<Killed>)| {
        let mut row = vec![store.name().to_owned()];
        row.extend(FIGURES.map(|(_, of)| spread(kills, of).shown(2)));
        row.push(Spread::of(kills.iter().map(|killed| killed.usual_ms as f64)).shown(0));
        let decisions: BTreeSet<&str> = kills.iter().map(|killed| killed.decisions.as_str()).collect();
        row.push(decisions.into_iter().collect::<Vec<_>>().join("; "));
        row
    };
    let series = killed.iter().map(|(store, kills)| Series {
        name: format!("checkpoints: {}", store.name()),
        values: FIGURES.iter().map(|&(_, of)| Some(spread(kills, of))).collect(),
    });
    Section {
        name: "recovery".to_owned(),
        heading: "A worker killed under load".to_owned(),
        what: format!(
            "One worker under {} records/s, killed with `kill -9` and started again at once under the same name: {} times \
             with checkpoints in Redis and {} times without. Seconds from the kill until the worker was ready; until a \
             `read_committed` consumer had the first result whose time had come only after the kill; and until it had one \
             no later than before the kill. Windows of {WINDOW_MS} ms, so that results come often; late records count for {} s. \
             Medians with the lowest and the highest.",
            grouped(what.rate),
            what.runs,
            what.runs,
            ALLOWED_LATENESS_MS / 1000
        ),
        columns: vec![
            "checkpoints",
            "ready, s",
            "first new result, s",
            "caught up, s",
            "age of the oldest result before the kill, ms",
            "how the counts came back",
        ],
        rows: killed.iter().map(row).collect(),
        plot: Plot {
            over: "from the kill until".to_owned(),
            points: FIGURES.iter().map(|(name, _)| (*name).to_owned()).collect(),
            panels: vec![Panel { what: "seconds".to_owned(), series: series.collect() }],
        },
    }
}

// ---- Very many counts ----

/// What one restore took.
struct Restored {
    seconds: f64,
    cpu_seconds: f64,
    resident_bytes_max: u64,
    decisions: String,
}

fn restore(
    kafka: &Kafka,
    redis: &Redis,
    store: Store,
    pairs: u64,
    runs: u64,
) -> Result<Vec<Restored>, String> {
    let memory = format!("{}Mi", 64 + pairs / 5_000);
    let monitor = monitor(kafka, redis, store, "restore")
        .set("worker.stateMemoryMax", memory)
        // Or else event time would go on without records, and close the window.
        .set("window.idleTimeout", "24h");
    monitor.create_input(PARTITIONS);
    let mut worker = monitor.start_workers(1).remove(0);
    let expected = write_users(&monitor, pairs, MANY_MS);
    let has_all = |worker: &Worker| {
        let status = status(worker)?;
        let counters = status.state.counters;
        if status.ready && counters == pairs {
            Ok(status)
        } else {
            Err(format!("{counters} of {pairs} pairs"))
        }
    };
    let failed = |worker: &Worker, why: String| format!("{why}\n{}", worker.log_tail());
    try_until(TIMEOUT, || has_all(&worker)).map_err(|why| failed(&worker, why))?;
    if matches!(store, Store::Redis) {
        await_checkpoints(&worker, now_ms())?;
    }
    let mut restored = Vec::new();
    for number in 0..runs {
        worker.kill9();
        let begun = Instant::now();
        worker.start_again();
        let status = try_until_closely(TIMEOUT, || has_all(&worker)).map_err(|why| failed(&worker, why))?;
        let run = Restored {
            seconds: begun.elapsed().as_secs_f64(),
            cpu_seconds: worker.process().cpu_time().as_secs_f64(),
            resident_bytes_max: worker.process().resident_bytes_max(),
            decisions: decisions(&status),
        };
        println!(
            "  restore {number}: {:.2} s, {:.2} s of CPU, {} MB resident at most; {}",
            run.seconds,
            run.cpu_seconds,
            run.resident_bytes_max / 1_000_000,
            run.decisions
        );
        restored.push(run);
    }
    monitor.advance(MANY_MS + 100_000);
    let workers = [worker];
    monitor.await_watermark(&workers, MANY_MS + 10_000, TIMEOUT);
    finish(&monitor, &workers, &expected)?;
    Ok(restored)
}

fn restored_section(pairs: &[u64], restored: &[(u64, Store, Vec<Restored>)]) -> Section {
    let seconds = |runs: &[Restored]| Spread::of(runs.iter().map(|run| run.seconds));
    let row = |(pairs, store, runs): &(u64, Store, Vec<Restored>)| {
        let decisions: BTreeSet<&str> = runs.iter().map(|run| run.decisions.as_str()).collect();
        let resident = runs.iter().map(|run| run.resident_bytes_max).max().unwrap_or_default();
        vec![
            grouped(*pairs),
            store.name().to_owned(),
            seconds(runs).shown(2),
            Spread::of(runs.iter().map(|run| run.cpu_seconds)).shown(2),
            (resident / 1_000_000).to_string(),
            decisions.into_iter().collect::<Vec<_>>().join("; "),
        ]
    };
    let of_store = |wanted: Store| {
        restored.iter().filter(move |(_, store, _)| *store == wanted).map(|(_, _, runs)| runs)
    };
    let series = Store::ALL.map(|store| Series {
        name: format!("checkpoints: {}", store.name()),
        values: of_store(store).map(|runs| Some(seconds(runs))).collect(),
    });
    Section {
        name: "restore".to_owned(),
        heading: "Very many counts restored".to_owned(),
        what: "One worker with so many pairs of an open window and a user, killed with `kill -9` and started again at once \
               under the same name. Seconds from the start of the process until it was ready and had all of them. Medians \
               with the lowest and the highest."
            .to_owned(),
        columns: vec![
            "pairs",
            "checkpoints",
            "s",
            "CPU meanwhile, s",
            "resident at most, MB",
            "how the counts came back",
        ],
        rows: restored.iter().map(row).collect(),
        plot: Plot {
            over: "open pairs of a window and a user".to_owned(),
            points: pairs.iter().map(|&pairs| grouped(pairs)).collect(),
            panels: vec![Panel { what: "seconds".to_owned(), series: series.into() }],
        },
    }
}
