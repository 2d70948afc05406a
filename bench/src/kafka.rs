//! A producer that does one thing: append very many small records to one topic, each exactly once.
//!
//! A general client spends an allocation, a queue operation and a callback on every message. Here records
//! are appended to one buffer for each partition, and only whole batches are ever looked at again. The crate
//! `kafka-protocol` encodes messages and compresses; connections, batches and retries are here. One
//! thread, blocking sockets, no TLS, no SASL, no consumer: it must not grow into a client.

mod batch;
mod connection;
mod producer;

pub use batch::Compression;
pub use producer::{Config, Producer};

use kafka_protocol::error::ResponseError;

/// Why nothing (more) can be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No broker of the list answers.
    #[error("no broker of {brokers} can be reached: {last}")]
    Unreachable {
        /// As configured.
        brokers: String,
        /// What the last one tried said.
        last: String,
    },
    /// The topic is not there.
    #[error("topic {0:?} does not exist (--create-topic N creates it)")]
    UnknownTopic(String),
    /// The topic has another number of partitions than asked for.
    #[error("topic {topic:?} has {actual} partitions, not {wanted}")]
    Partitions {
        /// The topic.
        topic: String,
        /// How many it has.
        actual: u32,
        /// How many were asked for.
        wanted: u32,
    },
    /// A broker address without a port, or the like.
    #[error("broker address {0:?} is not host:port")]
    Address(String),
    /// A broker refused, and asking again would not help.
    #[error("{what}: {error}")]
    Refused {
        /// What was asked for.
        what: String,
        /// The broker's answer.
        error: ResponseError,
    },
    /// The network failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A message could not be encoded or decoded.
    #[error("protocol: {0}")]
    Protocol(String),
    /// Batches could not be delivered in time; whether the last ones are in the log is unknown.
    #[error("records not delivered within {seconds} s: {last}")]
    Timeout {
        /// How long was tried.
        seconds: u64,
        /// The last attempt's error.
        last: String,
    },
}

impl Error {
    /// Whether the caller asked for something that can't be, rather than something having failed.
    pub fn is_usage(&self) -> bool {
        matches!(self, Error::UnknownTopic(_) | Error::Partitions { .. } | Error::Address(_))
    }

    /// Whether the same request may succeed later.
    fn is_retriable(&self) -> bool {
        match self {
            Error::Unreachable { .. } | Error::Io(_) => true,
            Error::Refused { error, .. } => error.is_retriable(),
            _ => false,
        }
    }
}
