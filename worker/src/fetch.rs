//! Reading the input without librdkafka's cost for each message.
//!
//! Responsible for bringing record batches from the partitions' leaders to the scan loop as they lie on the brokers'
//! disks: fetched into buffers that are used again, walked in place, every record a borrowed slice. Must never take part
//! in a group, commit an offset or choose a position: librdkafka keeps the membership and all commits, and the scan loop
//! says which partition is read from where.
//!
//! # Why
//! librdkafka makes an object of every message, puts it into a queue and takes it out again. A scanner throws 99.5 % of
//! what it reads away, so that this was most of its work.
//!
//! # Parts
//! ```text
//! scan loop --- start, stop, pause, resume ---> plan (who is read from where)
//!     ^                                           |            ^
//!     |                                     what to ask for    | leaders
//!     |                                           v            |
//!     +---- channel of chunks <--- fetch-N: one thread   fetch-metadata: one thread
//!           (partition, records)   for each broker
//! ```
//! - [`plan`] is the state machine: positions, leaders, errors. No I/O.
//! - [`broker`] asks one broker for everything that it leads, reads the batch *headers* of the answer, asks for what
//!   follows at once, and hands the bytes on. The broker works on the next answer while this one is scanned.
//! - [`metadata`] knows who leads what.
//! - [`batch`] walks record batches and [`compression`] unpacks them, on the scan loop's thread. So is the checksum
//!   verified, and so are aborted transactions left out.
//! - [`connection`], [`tls`] and [`sasl`] reach a broker, [`settings`] says how. [`pool`] bounds the memory.
//!
//! # What holds
//! 1. *Order and completeness.* A chunk says where it begins. One that does not begin where the last one of its
//!    partition ended is not delivered; the partition starts again where it was.
//! 2. *What was let go of is not delivered.* Every start of a partition has a number of its own, and a chunk with
//!    another is dropped. This covers [`Fetcher::pause`] too: what was fetched and not delivered is fetched again.
//! 3. *Committed only.* Fetches are `read_committed`: a broker sends up to the last stable offset and names the aborted
//!    transactions. Control batches, aborted records and what compaction removed move the position and bring no record.
//! 4. *Nothing is skipped.* A batch that is damaged is fetched again, every second until it is right, and a person is
//!    told once for each offset. An offset that is not in the log is reported and the partition stopped.
//! 5. *What this can't do librdkafka can.* A setting, a broker's age or a batch's format that is not understood comes
//!    out as [`Item::Unsupported`], and the scan loop goes on with librdkafka.
//!
//! # Limits
//! Memory is bounded by [`settings::Limits`]: a response by its share, all responses that are not read yet by the pool,
//! one decompressed batch by [`compression::DECOMPRESSED_BYTES_MAX`]. The channel holds what the pool has room for, and
//! at most one report for each partition in [`plan::TROUBLE_PAUSE`]. A log that an unclean election has cut and that
//! has grown again beyond our position is not noticed, here no more than anywhere else in the worker.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crashmonitor_core::ids::TopicId;

use crate::reader::Item;
use batch::{Aborted, Batch};
use compression::Scratch;
use plan::{Plan, TROUBLE_PAUSE, Want};
use pool::Pool;
use settings::{Settings, Unsupported};

pub mod batch;
mod broker;
pub mod compression;
mod connection;
mod metadata;
mod plan;
mod pool;
mod sasl;
pub mod settings;
mod tls;

/// The first and the longest pause between two attempts to reach a broker.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// A broker from which nothing was to be read for so long needs no thread.
const BROKER_IDLE: Duration = Duration::from_secs(60);

/// What one fetch brought of one partition.
struct Chunk {
    partition: i32,
    generation: u64,
    /// Where it was to begin. The first batch may begin before.
    position: i64,
    records: Bytes,
    aborted: Vec<(i64, i64)>,
}

enum Delivery {
    Records(Chunk),
    OutOfRange { partition: i32, generation: u64 },
    Trouble { partition: i32, generation: u64, text: String },
    Unsupported(String),
}

/// What all threads of a reader share.
struct Shared {
    settings: Settings,
    pool: Arc<Pool>,
    deliveries: Sender<Delivery>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    plan: Plan,
    /// Brokers that have a thread.
    running: BTreeSet<i32>,
    wants_metadata: bool,
    is_ending: bool,
}

impl State {
    fn new() -> State {
        // Leaders are looked for at once: by the time at which a partition is claimed they are known.
        State { plan: Plan::default(), running: BTreeSet::new(), wants_metadata: true, is_ending: false }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_ending(&self) -> bool {
        self.lock().is_ending
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, timeout: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits until something is to be asked of `broker`; `None` when its thread is not needed any more.
    fn wait_for_wants(&self, broker: i32) -> Option<Vec<Want>> {
        let since = Instant::now();
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            if state.is_ending {
                return None;
            }
            let wants = state.plan.take_wants(broker, now);
            if !wants.is_empty() {
                return Some(wants);
            }
            if now.duration_since(since) >= BROKER_IDLE {
                // Under the same lock: from here on a new thread is started where one is needed.
                state.running.remove(&broker);
                return None;
            }
            let next = state.plan.next_start(broker, now).map_or(BROKER_IDLE, |at| at - now);
            state = self.wait(state, next);
        }
    }

    /// Waits until metadata are asked for, or are missing or `interval` old while something is read. False at the end.
    fn wait_for_metadata(&self, interval: Duration) -> bool {
        let since = Instant::now();
        let mut state = self.lock();
        loop {
            if state.is_ending {
                return false;
            }
            let age = since.elapsed();
            let is_reading = !state.plan.is_empty();
            if state.wants_metadata || (is_reading && (state.plan.lacks_leaders() || age >= interval)) {
                state.wants_metadata = false;
                return true;
            }
            // However old they are: while nothing is read nobody needs them, and a start wakes us.
            state = self.wait(state, if is_reading { interval - age } else { interval });
        }
    }

    fn refresh_metadata(&self) {
        self.lock().wants_metadata = true;
        self.changed.notify_all();
    }

    /// Waits, but not beyond the end.
    fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut state = self.lock();
        while !state.is_ending {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.wait(state, left);
        }
    }

    /// Has a thread for each broker that something is to be read from.
    fn start_brokers(self: &Arc<Shared>) {
        let mut state = self.lock();
        for broker in state.plan.brokers(Instant::now()) {
            if !state.is_ending
                && state.running.insert(broker)
                && let Err(error) = broker::spawn(self, broker)
            {
                // The next look at the metadata tries again.
                tracing::warn!(broker, "no thread to fetch with: {error}");
                state.running.remove(&broker);
            }
        }
    }

    /// Has the scan loop go on with librdkafka.
    fn give_up(&self, reason: &Unsupported) {
        let _ = self.deliveries.send(Delivery::Unsupported(reason.to_string()));
    }
}

/// Has the scan loop go on with librdkafka when a thread of ours panics: nobody would notice its absence.
struct Watched<'s>(&'s Shared);

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0
                .give_up(&Unsupported("a thread of the direct path panicked; see the log above".to_owned()));
        }
    }
}

/// `host:port` of a broker.
fn address(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// How far a partition was delivered.
struct Reading {
    topic: TopicId,
    generation: u64,
    position: i64,
    is_paused: bool,
    /// The offset of the damage that was reported last.
    reported: Option<i64>,
}

/// A reader of one topic.
pub struct Fetcher {
    shared: Arc<Shared>,
    deliveries: Receiver<Delivery>,
    reading: BTreeMap<i32, Reading>,
    generations: u64,
    scratch: Scratch,
}

impl Fetcher {
    /// Starts the thread that looks for brokers. Nothing is read yet.
    pub fn new(settings: Settings) -> io::Result<Fetcher> {
        let (sender, deliveries) = channel();
        let shared = Arc::new(Shared {
            pool: Pool::new(settings.limits.buffered_bytes_max),
            settings,
            deliveries: sender,
            state: Mutex::new(State::new()),
            changed: Condvar::new(),
        });
        let body = Arc::clone(&shared);
        std::thread::Builder::new().name("fetch-metadata".to_owned()).spawn(move || {
            let _watched = Watched(&body);
            metadata::run(&body);
        })?;
        Ok(Fetcher {
            shared,
            deliveries,
            reading: BTreeMap::new(),
            generations: 0,
            scratch: Scratch::default(),
        })
    }

    /// Reads partitions of `topic`, each from its offset on.
    pub fn start(&mut self, topic: TopicId, starts: &[(i32, i64)]) {
        for &(partition, position) in starts {
            let reading = Reading { topic, generation: 0, position, is_paused: false, reported: None };
            self.reading.insert(partition, reading);
            self.begin(partition, None);
        }
        self.shared.start_brokers();
    }

    /// Reads partitions no more; nothing of them is delivered from here on.
    pub fn stop(&mut self, partitions: &[i32]) {
        let mut state = self.shared.lock();
        for partition in partitions {
            self.reading.remove(partition);
            state.plan.stop(*partition);
        }
    }

    /// Reads partitions no more until they are resumed.
    pub fn pause(&mut self, partitions: &[i32]) {
        let mut state = self.shared.lock();
        for partition in partitions {
            if let Some(reading) = self.reading.get_mut(partition) {
                reading.is_paused = true;
                state.plan.stop(*partition);
            }
        }
    }

    /// Reads paused partitions again, from behind what was delivered.
    pub fn resume(&mut self, partitions: &[i32]) {
        for partition in partitions {
            if let Some(reading) = self.reading.get_mut(partition)
                && reading.is_paused
            {
                reading.is_paused = false;
                self.begin(*partition, None);
            }
        }
        self.shared.start_brokers();
    }

    /// Waits up to `timeout` for what was fetched next and gives it to `sink`: the records of one partition, in offset
    /// order, and how far they reach; or what went wrong.
    pub fn poll<E>(
        &mut self,
        timeout: Duration,
        sink: &mut impl FnMut(Item<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let delivery = match self.deliveries.recv_timeout(timeout) {
            Ok(delivery) => delivery,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return Ok(()),
        };
        match delivery {
            Delivery::Records(chunk) => self.deliver(&chunk, sink),
            Delivery::OutOfRange { partition, generation } if self.is_current(partition, generation) => {
                sink(Item::OutOfRange { partition })
            }
            Delivery::Trouble { partition, generation, text } if self.is_current(partition, generation) => {
                sink(Item::Error { partition, text })
            }
            Delivery::OutOfRange { .. } | Delivery::Trouble { .. } => Ok(()),
            Delivery::Unsupported(reason) => sink(Item::Unsupported { reason }),
        }
    }

    fn is_current(&self, partition: i32, generation: u64) -> bool {
        let reading = self.reading.get(&partition);
        reading.is_some_and(|reading| reading.generation == generation && !reading.is_paused)
    }

    fn deliver<E>(
        &mut self,
        chunk: &Chunk,
        sink: &mut impl FnMut(Item<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.is_current(chunk.partition, chunk.generation) {
            return Ok(());
        }
        let Some(reading) = self.reading.get_mut(&chunk.partition) else { return Ok(()) };
        if chunk.position != reading.position {
            let (begins, expected) = (chunk.position, reading.position);
            self.begin(chunk.partition, None);
            let text = format!("a chunk begins at offset {begins} where {expected} was due; reading again");
            return sink(Item::Error { partition: chunk.partition, text });
        }
        let mut walk =
            Walk { partition: chunk.partition, position: reading.position, scratch: &mut self.scratch };
        let walked = walk.chunk(chunk, sink);
        reading.position = walk.position;
        let (partition, offset) = (chunk.partition, reading.position);
        match walked {
            Ok(()) => sink(Item::Reached { partition, offset }),
            Err(Stopped::Sink(error)) => Err(error),
            Err(Stopped::Batch(error)) if error.is_foreign() => {
                let reason = format!("the input has {error}, at offset {offset} of partition {partition}");
                sink(Item::Unsupported { reason })
            }
            Err(Stopped::Batch(error)) => {
                let is_new = reading.reported.replace(offset) != Some(offset);
                self.begin(partition, Some(Instant::now() + TROUBLE_PAUSE));
                let text = format!(
                    "the batch at offset {offset} is damaged: {error}; fetching it again until it is not"
                );
                if is_new { sink(Item::Error { partition, text }) } else { Ok(()) }
            }
        }
    }

    /// Fetches a partition from where it was delivered to. What is on its way is worth nothing then.
    fn begin(&mut self, partition: i32, not_before: Option<Instant>) {
        let Some(reading) = self.reading.get_mut(&partition) else { return };
        self.generations += 1;
        reading.generation = self.generations;
        let mut state = self.shared.lock();
        state.plan.start(partition, reading.topic, reading.generation, reading.position, not_before);
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Drop for Fetcher {
    /// The threads end by themselves: at once, or when the broker that they wait for answers or does not.
    fn drop(&mut self) {
        self.shared.lock().is_ending = true;
        self.shared.pool.close();
        self.shared.changed.notify_all();
    }
}

/// Why a chunk was not walked to its end.
enum Stopped<E> {
    Sink(E),
    Batch(batch::Error),
}

/// The way through one chunk.
struct Walk<'s> {
    partition: i32,
    /// Behind the last batch that was delivered as a whole.
    position: i64,
    scratch: &'s mut Scratch,
}

impl Walk<'_> {
    fn chunk<E>(
        &mut self,
        chunk: &Chunk,
        sink: &mut impl FnMut(Item<'_>) -> Result<(), E>,
    ) -> Result<(), Stopped<E>> {
        let mut aborted = Aborted::new(chunk.aborted.iter().copied());
        let mut rest = &chunk.records[..];
        while let Some((batch, behind)) = Batch::split_first(rest).map_err(Stopped::Batch)? {
            rest = behind;
            batch.check().map_err(Stopped::Batch)?;
            if aborted.admits(&batch).map_err(Stopped::Batch)? && batch.last_offset() >= self.position {
                self.batch(&batch, sink)?;
            }
            self.position = self.position.max(batch.last_offset() + 1);
        }
        Ok(())
    }

    fn batch<E>(
        &mut self,
        batch: &Batch<'_>,
        sink: &mut impl FnMut(Item<'_>) -> Result<(), E>,
    ) -> Result<(), Stopped<E>> {
        let (partition, appended_at_ms) = (self.partition, batch.appended_at_ms());
        let mut records = batch.records(self.scratch).map_err(Stopped::Batch)?;
        while let Some(record) = records.next_record().map_err(Stopped::Batch)? {
            // A batch is sent as a whole, also when a position in its middle was asked for.
            if record.offset >= self.position {
                let item = Item::Record {
                    partition,
                    offset: record.offset,
                    key: record.key,
                    value: record.value,
                    appended_at_ms,
                };
                sink(item).map_err(Stopped::Sink)?;
            }
        }
        Ok(())
    }
}
