//! Load in the background of a test: the generator, writing to a monitor's input until it is told to end.
//!
//! Responsible for a steady rate of records in which many windows close, some records late but none too late, and for
//! telling how far it is; and for very many users in one window, at once. Must never outlive the test's process, nor hide that it failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crashmonitor_bench::generator::{Generator, Options};
use crashmonitor_bench::kafka::{Compression, Config, Producer};
use crashmonitor_bench::load::{self, Pace};
use crashmonitor_bench::oracle::{Counts, Query};

use crate::monitor::{Monitor, now_ms};
use crate::wait::until;

/// Records a second.
const RATE: u64 = 5_000;
/// Records a second of event time: it runs several times faster than the clock, so that many windows close.
const EVENT_RATE: u64 = 800;
/// How long a broker may take to acknowledge, also while it is being restarted, and the load to make progress.
const TIMEOUT: Duration = Duration::from_secs(180);
const BATCH_BYTES: usize = 16 * 1024;
/// What producers write at once when nobody looks.
const USERS_BATCH_BYTES: usize = 256 * 1024;

/// The generator at work.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    records: Arc<AtomicU64>,
    /// None once it is joined.
    thread: Option<JoinHandle<i64>>,
}

impl Load {
    /// Begins to write to a monitor's input, which must be there.
    pub fn start(monitor: &Monitor<'_>) -> Load {
        let (stop, records) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let partitions = monitor.partitions();
        let producer = producer(monitor, BATCH_BYTES, TIMEOUT);
        let thread = thread::spawn({
            let (stop, records) = (Arc::clone(&stop), Arc::clone(&records));
            move || generate(producer, partitions, &stop, &records)
        });
        Load { stop, records, thread: Some(thread) }
    }

    /// Waits until so many seconds' worth of further records is written.
    #[track_caller]
    pub fn await_seconds(&self, seconds: u64) {
        let target = self.records.load(Ordering::Relaxed) + seconds * RATE;
        until("further records to be written", TIMEOUT + Duration::from_secs(seconds), || {
            assert!(self.is_running(), "the generator failed");
            let records = self.records.load(Ordering::Relaxed);
            if records >= target { Ok(()) } else { Err(format!("{records} of {target}")) }
        });
    }

    /// Ends it, and gives the event time of its last record.
    #[track_caller]
    pub fn finish(mut self) -> i64 {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is joined only here and in the end");
        thread.join().expect("the generator failed")
    }

    fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Whoever drops it instead of finishing it has failed already.
            let _ = thread.join();
        }
    }
}

/// The generator's producer into a monitor's input, with batches of so many bytes, and as long as this for each delivery.
pub fn producer(monitor: &Monitor<'_>, batch_bytes: usize, delivery_timeout: Duration) -> Producer {
    let config = Config {
        brokers: monitor.bootstrap(),
        topic: monitor.input().to_owned(),
        partitions: None,
        create_partitions: None,
        compression: Compression::None,
        batch_bytes,
        delivery_timeout,
    };
    Producer::open(config).unwrap_or_else(|e| panic!("opening the generator's producer: {e}"))
}

/// Writes one crash of each user, three of every tenth, all in the window of 10 s that begins at `start_ms`; gives who must
/// be in the output.
#[track_caller]
pub fn write_users(monitor: &Monitor<'_>, users: u64, start_ms: i64) -> Counts {
    let mut producer = producer(monitor, USERS_BATCH_BYTES, TIMEOUT);
    let partitions = u64::from(monitor.partitions().unsigned_abs());
    let mut expected = Counts::new();
    for user in 0..users {
        let name = format!("user_{user}");
        let times = if user % 10 == 0 { 3 } else { 1 };
        for time in 0..times {
            let at = start_ms + i64::try_from((user + time) % 10_000).expect("it is less than 10,000");
            let value = format!(
                r#"{{"timestamp":{at},"severity":"High","user_id":"{name}","content":"session crash after timeout"}}"#
            );
            let partition = u32::try_from((user + time) % partitions).expect("there are fewer partitions");
            let pushed = producer.push(partition, None, Some(value.as_bytes()));
            pushed.unwrap_or_else(|e| panic!("writing users: {e}"));
        }
        if times > 2 {
            expected.insert((start_ms, name), times);
        }
    }
    producer.drain().unwrap_or_else(|e| panic!("writing users: {e}"));
    expected
}

fn generate(mut producer: Producer, partitions: i32, stop: &AtomicBool, records: &AtomicU64) -> i64 {
    let options = Options {
        users: 50,
        one_in: 20,
        // In the past, and it stays there: the clock must not hold the watermark back.
        start_ms: now_ms() - 3_600_000,
        event_rate: EVENT_RATE,
        partitions: partitions.cast_unsigned(),
        disorder_ms: 1_000,
        late_share: 0.02,
        late_by_max_ms: 20_000,
        ..Options::default()
    };
    let generator = Generator::new(options).unwrap_or_else(|e| panic!("the generator's options: {e}"));
    let pace = Pace { rate: RATE, ..Pace::default() };
    let progress = |progress: load::Progress| records.store(progress.records, Ordering::Relaxed);
    let (summary, _) = load::run(&generator, &Query::default(), &pace, &mut producer, stop, progress)
        .unwrap_or_else(|e| panic!("the generator: {e}"));
    summary.last_event_ms
}
