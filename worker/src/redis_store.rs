//! Snapshots in Redis.
//!
//! Responsible for storing bytes under a partition's key and giving them back, in bounded time. Must never interpret
//! the bytes, and must never be waited for by anything that leads to a result.
//!
//! # Guarantees
//!
//! None that correctness may rest on. The store may lose everything, give back an older snapshot than the last one
//! saved, give back one that it said it could not save, or not answer. Whoever loads a snapshot checks it against
//! what Kafka says and does without it if it does not fit. Keys have no expiry: a snapshot that is too old is
//! recognised, and one that is still good is worth having however old it is.
//!
//! # Limits
//!
//! - Connecting takes at most [`TIMEOUT`] once the name is resolved; resolving a name takes as long as the system's
//!   resolver allows. Every read and write on the connection takes at most [`TIMEOUT`].
//! - Any failure closes the connection; the next call opens a new one, and reads the password again. A connection
//!   that the other side has closed in the meantime is replaced within the call.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::{Client, Commands, Connection, IntoConnectionInfo, RedisError, RedisResult, TlsCertificates};

use crashmonitor_core::config::{Config, Redis};

use crate::secret;

/// The longest wait for Redis, each time.
pub const TIMEOUT: Duration = Duration::from_secs(2);

/// Why a call to the store failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The password can't be read.
    #[error(transparent)]
    Secret(#[from] secret::Error),
    /// A certificate can't be read.
    #[error("checkpoint.redis.tls.caFiles: the file {file} can't be read: {source}", file = .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Redis did not answer in time.
    #[error("Redis, {what}: no answer within {} ms", TIMEOUT.as_millis())]
    TimedOut {
        /// What was tried.
        what: &'static str,
    },
    /// Redis is not reachable, or refused.
    #[error("Redis, {what}: {source}")]
    Redis {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: RedisError,
    },
}

impl Error {
    fn redis(what: &'static str, source: RedisError) -> Error {
        // A read that runs into the socket's timeout comes as "try again".
        if source.is_timeout() { Error::TimedOut { what } } else { Error::Redis { what, source } }
    }

    /// Whether it is the configuration that is wrong.
    pub fn is_configuration(&self) -> bool {
        match self {
            Error::Secret(_) | Error::File { .. } => true,
            Error::TimedOut { .. } => false,
            Error::Redis { source, .. } => source.kind() == redis::ErrorKind::InvalidClientConfig,
        }
    }
}

/// Snapshots of the partitions of one monitor.
///
/// May be shared between threads; calls take turns.
pub struct SnapshotStore {
    redis: Redis,
    prefix: String,
    connection: Mutex<Option<Connection>>,
}

impl SnapshotStore {
    /// A store for the monitor, not connected yet; `None` if no checkpoints are configured.
    pub fn connect(config: &Config) -> Option<SnapshotStore> {
        let checkpoint = config.checkpoint.as_ref()?;
        Some(SnapshotStore {
            redis: checkpoint.redis.clone(),
            prefix: config.snapshot_key_prefix(),
            connection: Mutex::new(None),
        })
    }

    /// Reads password and certificates and has them checked, without connecting.
    pub fn check(&self) -> Result<(), Error> {
        self.client().map(|_| ())
    }

    /// Asks Redis for a sign of life.
    pub fn ping(&self) -> Result<(), Error> {
        self.call("ping", |connection| redis::cmd("PING").query::<()>(connection))
    }

    /// The snapshot of a partition, if there is one.
    pub fn load(&self, partition: i32) -> Result<Option<Vec<u8>>, Error> {
        self.call("load", |connection| connection.get(self.key(partition)))
    }

    /// Stores a partition's snapshot in place of the one before.
    pub fn save(&self, partition: i32, snapshot: &[u8]) -> Result<(), Error> {
        self.call("save", |connection| connection.set(self.key(partition), snapshot))
    }

    /// Removes a partition's snapshot, if there is one.
    pub fn delete(&self, partition: i32) -> Result<(), Error> {
        self.call("delete", |connection| connection.del(self.key(partition)))
    }

    /// The key of a partition's snapshot, `crashmonitor:<namespace>:<name>:<partition>`.
    pub fn key(&self, partition: i32) -> String {
        format!("{}{partition}", self.prefix)
    }

    /// Does one thing on the connection, which is opened if there is none and given up if the thing fails. A
    /// connection from an earlier call may have been closed by the other side since: then a new one is opened, once.
    fn call<T>(
        &self,
        what: &'static str,
        act: impl Fn(&mut Connection) -> RedisResult<T>,
    ) -> Result<T, Error> {
        let mut slot = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut connection) = slot.take() {
            match act(&mut connection) {
                Ok(answer) => {
                    *slot = Some(connection);
                    return Ok(answer);
                }
                Err(source) if source.is_connection_dropped() => {}
                Err(source) => return Err(Error::redis(what, source)),
            }
        }
        let mut connection = self.open()?;
        let answer = act(&mut connection).map_err(|source| Error::redis(what, source))?;
        *slot = Some(connection);
        Ok(answer)
    }

    fn open(&self) -> Result<Connection, Error> {
        let failed = |source| Error::redis("connect", source);
        let connection = self.client()?.get_connection_with_timeout(TIMEOUT).map_err(failed)?;
        connection.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
        connection.set_write_timeout(Some(TIMEOUT)).map_err(failed)?;
        Ok(connection)
    }

    fn client(&self) -> Result<Client, Error> {
        let failed = |source| Error::Redis { what: "checkpoint.redis.url", source };
        let mut info = self.redis.url.as_str().into_connection_info().map_err(failed)?;
        if let Some(place) = &self.redis.password {
            let password = secret::read("checkpoint.redis", place)?;
            let settings = info.redis_settings().clone().set_password(password);
            info = info.set_redis_settings(settings);
        }
        if !self.redis.url.starts_with("rediss://") {
            return Client::open(info).map_err(failed);
        }
        // Once for the process; a second time it says that it is done already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificates = TlsCertificates { client_tls: None, root_cert: self.authorities()? };
        Client::build_with_tls(info, certificates).map_err(failed)
    }

    fn authorities(&self) -> Result<Option<Vec<u8>>, Error> {
        let mut pem = Vec::new();
        for file in &self.redis.ca_files {
            let read = fs::read(file).map_err(|source| Error::File { file: file.clone(), source })?;
            pem.extend(read);
            pem.push(b'\n');
        }
        Ok((!pem.is_empty()).then_some(pem))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;

    fn store(redis: &str) -> SnapshotStore {
        let config = Config::parse(&format!(
            "monitor: {{namespace: d, name: c, uid: u}}\nkafka: {{bootstrapServers: 'k:1'}}\n\
             input: {{topic: logs}}\ncheckpoint: {{redis: {redis}}}"
        ));
        SnapshotStore::connect(&config.unwrap()).unwrap()
    }

    #[test]
    fn keys_belong_to_the_monitor() {
        assert_eq!(store("{url: 'redis://r:1'}").key(7), "crashmonitor:d:c:7");
    }

    #[test]
    fn an_absent_redis_is_an_error_and_not_a_wait() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let error = store(&format!("{{url: 'redis://127.0.0.1:{port}'}}")).load(0).unwrap_err();
        assert!(!error.is_configuration(), "{error}");
        assert!(error.to_string().starts_with("Redis, connect: "), "{error}");
    }

    #[test]
    fn a_redis_that_does_not_answer_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{{url: 'redis://{}'}}", listener.local_addr().unwrap());
        let begin = Instant::now();
        let error = store(&url).load(0).unwrap_err().to_string();
        assert_eq!(error, "Redis, connect: no answer within 2000 ms");
        assert!(begin.elapsed() < 3 * TIMEOUT, "{:?}", begin.elapsed());
    }

    #[test]
    fn a_missing_password_file_is_a_mistake_in_the_configuration() {
        let error = store("{url: 'redis://r:1', passwordFile: /no/such/file}").check().unwrap_err();
        assert!(error.is_configuration());
        assert_eq!(
            error.to_string(),
            "checkpoint.redis.passwordFile: the password file /no/such/file can't be read: \
             No such file or directory (os error 2)"
        );
    }

    #[test]
    fn a_missing_authority_is_named() {
        let error = store("{url: 'rediss://r:1', tls: {caFiles: [/no/ca.pem]}}").check().unwrap_err();
        assert!(error.to_string().contains("/no/ca.pem"), "{error}");
    }
}
