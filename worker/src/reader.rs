//! The two ways to read the input, behind one face.
//!
//! Responsible for the one interface through which the scan loop reads, and for the change from the direct path to
//! librdkafka where the former can't go on. Must never decide when to read, or from where.
//!
//! Librdkafka's consumer is in the group on both ways. On the direct one it is never given a partition to fetch: an empty
//! assignment answers every rebalance, and commits need none.

use std::time::Duration;

use crashmonitor_core::config::InputReader;
use crashmonitor_core::ids::TopicId;
use rdkafka::error::RDKafkaErrorCode;

use crate::fetch::Fetcher;
use crate::kafka::Error;
use crate::kafka::batch::{self, MessageQueue};
use crate::kafka::client::Clients;
use crate::kafka::group::GroupConsumer;

/// Records of one poll through librdkafka. Large enough that the calls around it don't count, small enough that frames
/// go out in time. The direct path gives what one response has of one partition.
const POLL_RECORDS_MAX: usize = 8_192;

/// Something that was read, or why nothing is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'b> {
    /// A record. Those of one partition come in offset order.
    Record {
        /// Its partition.
        partition: i32,
        /// Its offset.
        offset: i64,
        /// Its key, if it has one.
        key: Option<&'b [u8]>,
        /// Its value; `None` for a tombstone.
        value: Option<&'b [u8]>,
        /// When the broker appended it, in milliseconds since the epoch, if the topic is set to say so.
        appended_at_ms: Option<i64>,
    },
    /// Everything before `offset` has been read, records or not.
    Reached {
        /// The partition.
        partition: i32,
        /// The next offset to read.
        offset: i64,
    },
    /// The offset to read is not in the log; the partition is not read on.
    OutOfRange {
        /// The partition.
        partition: i32,
    },
    /// A partition can't be read at the moment.
    Error {
        /// The partition; -1 if the error belongs to none.
        partition: i32,
        /// What a person should know.
        text: String,
    },
    /// The direct path can't read this input: [`Reader::fall_back`].
    Unsupported {
        /// Why.
        reason: String,
    },
}

enum Path {
    Direct(Fetcher),
    Librdkafka,
}

/// Reads the partitions that it is told to read.
pub struct Reader {
    path: Path,
    queue: MessageQueue,
}

impl Reader {
    /// A reader for `consumer`, which is scan thread `thread`'s. Takes the direct path if that is asked for and can be.
    pub fn new(clients: &Clients, thread: u16, consumer: &GroupConsumer, asked: InputReader) -> Reader {
        let path = match asked {
            InputReader::Librdkafka => Path::Librdkafka,
            InputReader::Direct => match direct(clients, thread) {
                Ok(fetcher) => Path::Direct(fetcher),
                Err(reason) => {
                    tracing::warn!("reading the input through librdkafka: {reason}");
                    Path::Librdkafka
                }
            },
        };
        Reader { path, queue: consumer.message_queue() }
    }

    /// Answers an assignment: each partition is read once it is claimed.
    pub fn accept(&mut self, consumer: &GroupConsumer) -> Result<(), Error> {
        consumer.assign(&mut self.queue, &[])
    }

    /// Reads partitions of `topic`, each from its offset on.
    pub fn start(
        &mut self,
        consumer: &GroupConsumer,
        topic: TopicId,
        starts: &[(i32, i64)],
    ) -> Result<(), Error> {
        match &mut self.path {
            Path::Direct(fetcher) => {
                fetcher.start(topic, starts);
                Ok(())
            }
            Path::Librdkafka => consumer.assign(&mut self.queue, starts),
        }
    }

    /// Reads partitions no more, which also answers a revocation. Nothing of them is delivered from here on.
    pub fn stop(&mut self, consumer: &GroupConsumer, partitions: &[i32]) -> Result<(), Error> {
        match &mut self.path {
            Path::Direct(fetcher) => {
                fetcher.stop(partitions);
                consumer.unassign(&mut self.queue, &[])
            }
            Path::Librdkafka => consumer.unassign(&mut self.queue, partitions),
        }
    }

    /// Reads partitions no more until they are resumed.
    pub fn pause(&mut self, consumer: &GroupConsumer, partitions: &[i32]) -> Result<(), Error> {
        match &mut self.path {
            Path::Direct(fetcher) => {
                fetcher.pause(partitions);
                Ok(())
            }
            Path::Librdkafka => consumer.pause(partitions),
        }
    }

    /// Reads paused partitions again, from behind what was delivered.
    pub fn resume(&mut self, consumer: &GroupConsumer, partitions: &[i32]) -> Result<(), Error> {
        match &mut self.path {
            Path::Direct(fetcher) => {
                fetcher.resume(partitions);
                Ok(())
            }
            Path::Librdkafka => consumer.resume(partitions),
        }
    }

    /// Takes librdkafka's path from here on. No partition may be read at the moment.
    pub fn fall_back(&mut self) {
        self.path = Path::Librdkafka;
    }

    /// Waits up to `timeout` for the first item and gives it and what is there behind it to `sink`.
    pub fn poll<E>(
        &mut self,
        timeout: Duration,
        mut sink: impl FnMut(Item<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        match &mut self.path {
            Path::Direct(fetcher) => fetcher.poll(timeout, &mut sink),
            Path::Librdkafka => {
                let batch = self.queue.poll(timeout, POLL_RECORDS_MAX);
                batch.iter().map(item).try_for_each(sink)
            }
        }
    }
}

fn direct(clients: &Clients, thread: u16) -> Result<Fetcher, String> {
    let settings = clients.fetch_settings(thread).map_err(|error| error.to_string())?;
    Fetcher::new(settings).map_err(|error| format!("no thread to fetch with: {error}"))
}

fn item(item: batch::Item<'_>) -> Item<'_> {
    match item {
        batch::Item::Message { partition, offset, key, payload, timestamp_ms, log_append_time } => {
            let appended_at_ms = timestamp_ms.filter(|_| log_append_time);
            Item::Record { partition, offset, key, value: payload, appended_at_ms }
        }
        batch::Item::Eof { partition, offset } => Item::Reached { partition, offset },
        batch::Item::Error {
            partition,
            code: RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange,
            ..
        } => Item::OutOfRange { partition },
        batch::Item::Error { partition, text, .. } => Item::Error { partition, text },
    }
}
