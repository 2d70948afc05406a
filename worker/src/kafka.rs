//! Kafka, as the loops need it: told what to do, reporting what happened.
//!
//! Responsible for clients with the right settings, for batches of records without a copy, for the events of a
//! consumer group in the order in which they must be answered, and for topics. Must never decide: no retry, no
//! reset of an offset, no choice of partitions happens here.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

pub mod batch;
pub mod client;
pub mod group;
pub mod log;
pub mod topics;
pub mod transactions;

/// What a call to Kafka failed with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kafka or the client library refused or did not answer.
    #[error("{what}: {source}")]
    Kafka {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: KafkaError,
    },
    /// No answer in time; whether the request took effect is unknown.
    #[error("{what}: no answer within {after_ms} ms")]
    TimedOut {
        /// What was tried.
        what: String,
        /// How long was waited, in milliseconds.
        after_ms: u128,
    },
    /// An answer that does not fit the question.
    #[error("{what}: {reason}")]
    Unexpected {
        /// What was tried.
        what: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

impl Error {
    pub(crate) fn kafka(what: impl Into<String>, source: KafkaError) -> Error {
        Error::Kafka { what: what.into(), source }
    }

    /// The code by which librdkafka or the broker named the failure, if it did.
    pub fn code(&self) -> Option<RDKafkaErrorCode> {
        match self {
            Error::Kafka { source, .. } => source.rdkafka_error_code(),
            Error::TimedOut { .. } => Some(RDKafkaErrorCode::OperationTimedOut),
            Error::Unexpected { .. } => None,
        }
    }
}

/// Why Kafka can't be used at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// No broker answers.
    Unreachable,
    /// User or password refused.
    Authentication,
    /// The TLS handshake failed.
    Tls,
    /// The user is known but lacks a right.
    Authorization,
}

impl Cause {
    /// What a librdkafka error code says about the connection; `None` if it says nothing about it.
    pub fn of(code: RDKafkaErrorCode) -> Option<Cause> {
        match code {
            RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => {
                Some(Cause::Authentication)
            }
            RDKafkaErrorCode::SSL => Some(Cause::Tls),
            RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::TransactionalIdAuthorizationFailed => Some(Cause::Authorization),
            RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::Resolve => Some(Cause::Unreachable),
            _ => None,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::Unreachable => "no broker answers",
            Cause::Authentication => "authentication failed",
            Cause::Tls => "TLS handshake failed",
            Cause::Authorization => "not authorised",
        })
    }
}

/// What is known about the connection to Kafka.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Reachability {
    /// Nothing has been tried.
    #[default]
    Unknown,
    /// The last thing heard was an answer.
    Reachable,
    /// The last thing heard was a failure.
    Failing {
        /// Its kind.
        cause: Cause,
        /// Its text as librdkafka gave it.
        text: String,
    },
}

/// The connection's state, shared by all clients of a process: their callbacks and their callers write it, the admin
/// endpoints read it.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<Reachability>>);

impl Health {
    /// A new state in which nothing is known.
    pub fn new() -> Health {
        Health::default()
    }

    /// What was heard last.
    pub fn get(&self) -> Reachability {
        self.lock().clone()
    }

    /// A broker answered.
    pub fn succeeded(&self) {
        let mut state = self.lock();
        if *state != Reachability::Reachable {
            *state = Reachability::Reachable;
        }
    }

    /// A client failed. Returns whether that is news: "no broker answers" follows every other failure and replaces
    /// none.
    pub fn failed(&self, cause: Cause, text: &str) -> bool {
        let mut state = self.lock();
        let is_known = match &*state {
            Reachability::Failing { cause: known, .. } => *known == cause || cause == Cause::Unreachable,
            Reachability::Reachable | Reachability::Unknown => false,
        };
        if !is_known {
            *state = Reachability::Failing { cause, text: text.to_string() };
        }
        !is_known
    }

    fn lock(&self) -> MutexGuard<'_, Reachability> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_outlives_its_consequence() {
        let health = Health::new();
        assert!(health.failed(Cause::Unreachable, "connection refused"));
        assert!(health.failed(Cause::Authentication, "SCRAM failed"));
        assert!(!health.failed(Cause::Unreachable, "1/1 brokers are down"));
        assert!(matches!(health.get(), Reachability::Failing { cause: Cause::Authentication, .. }));
        health.succeeded();
        health.failed(Cause::Unreachable, "1/1 brokers are down");
        assert!(matches!(health.get(), Reachability::Failing { cause: Cause::Unreachable, .. }));
    }
}
