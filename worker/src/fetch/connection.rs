//! One connection to one broker: requests out, responses in, in order.
//!
//! Responsible for reaching a broker as the configuration says (TCP, TLS, SASL), for agreeing on versions, and for
//! frames and headers. Must never look into a response's records, retry, or log a secret.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, FetchRequest, FetchResponse, MetadataRequest,
    RequestHeader, ResponseHeader, SaslAuthenticateRequest, SaslHandshakeRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

use super::pool::Pool;
use super::sasl;
use super::settings::{Settings, Unsupported};
use super::tls;

/// How long a TCP connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A larger response is not Kafka's: what librdkafka takes by default.
const RESPONSE_BYTES_MAX: usize = 100_000_000;
/// Responses other than Fetch's are this small.
const SMALL_RESPONSE_BYTES_MAX: usize = 32 << 20;
/// Fetch from the version on that names topics by their id (Kafka 3.1): a topic that was made again is not mistaken
/// for its predecessor. Newer ones than the highest add nothing for a consumer.
const FETCH_VERSIONS: (i16, i16) = (13, 16);
/// Metadata from the version on that tells a topic's id.
const METADATA_VERSIONS: (i16, i16) = (10, 12);
/// Only part of what a broker gives as a login's lifetime is used, so that it never ends under a request.
const LOGIN_SHARE: f64 = 0.8;

/// Why a connection or a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network failed, or the broker was silent for too long.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The broker refused.
    #[error("{what}: {error}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// The broker's answer.
        error: String,
    },
    /// An answer that can't be read.
    #[error("protocol: {0}")]
    Protocol(String),
    /// A file or a password can't be read.
    #[error("{0}")]
    Local(String),
    /// This will never work, but librdkafka may know how.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The reader is at its end.
    #[error("closed")]
    Closed,
}

impl Error {
    pub(super) fn protocol(error: impl std::fmt::Display) -> Error {
        Error::Protocol(format!("{error:#}"))
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

/// A connection over which requests may be sent.
pub struct Connection {
    stream: Stream,
    client_id: StrBytes,
    next_correlation: i32,
    out: BytesMut,
    fetch_version: i16,
    metadata_version: i16,
    /// When the login has to be renewed, for which a new connection is made.
    valid_until: Option<Instant>,
}

impl Connection {
    /// Connects to `address`, `host:port`, agrees on versions and logs in. An answer that takes longer than
    /// `answer_timeout`, now or later, is an error.
    pub fn open(address: &str, settings: &Settings, answer_timeout: Duration) -> Result<Connection, Error> {
        let stream = connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(answer_timeout))?;
        stream.set_write_timeout(Some(answer_timeout))?;
        let stream = match &settings.tls {
            None => Stream::Plain(stream),
            Some(config) => Stream::Tls(Box::new(tls::shake_hands(address, config, stream)?)),
        };
        let mut connection = Connection {
            stream,
            client_id: StrBytes::from_string(settings.client_id.clone()),
            next_correlation: 0,
            out: BytesMut::new(),
            fetch_version: 0,
            metadata_version: 0,
            valid_until: None,
        };
        connection.agree()?;
        if let Some(authentication) = &settings.authentication {
            let lifetime_ms = sasl::log_in(&mut connection, authentication)?;
            let lifetime = Duration::from_millis(lifetime_ms.max(0).unsigned_abs());
            connection.valid_until =
                (!lifetime.is_zero()).then(|| Instant::now() + lifetime.mul_f64(LOGIN_SHARE));
        }
        Ok(connection)
    }

    /// Whether the login ends soon, so that a new connection is due.
    pub fn is_outdated(&self) -> bool {
        self.valid_until.is_some_and(|end| Instant::now() >= end)
    }

    /// What the broker knows of a topic and of its peers.
    pub fn metadata(
        &mut self,
        request: &MetadataRequest,
    ) -> Result<kafka_protocol::messages::MetadataResponse, Error> {
        self.call(request, self.metadata_version)
    }

    /// Asks for records; [`Connection::receive_fetch`] has the answer.
    pub fn send_fetch(&mut self, request: &FetchRequest) -> Result<i32, Error> {
        self.send(request, self.fetch_version)
    }

    /// Waits for the answer, whose records lie in a buffer of `pool`.
    pub fn receive_fetch(&mut self, correlation: i32, pool: &Arc<Pool>) -> Result<FetchResponse, Error> {
        let length = self.receive_length(RESPONSE_BYTES_MAX)?;
        // Only now, when the broker has begun to answer: a request that waits for records needs no memory.
        let mut buffer = pool.take(length).ok_or(Error::Closed)?;
        self.stream.read_exact(buffer.as_mut())?;
        decode(Bytes::from_owner(buffer), correlation, self.fetch_version)
    }

    pub(super) fn handshake(&mut self, mechanism: &'static str) -> Result<(), Error> {
        let request = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism));
        let answer = self.call(&request, 1)?;
        match ResponseError::try_from_code(answer.error_code) {
            None => Ok(()),
            // The mechanism is not enabled: librdkafka says so in the words that people know.
            Some(error) => Err(Error::Refused { what: "SASL handshake", error: error.to_string() }),
        }
    }

    /// One step of a login: what the broker says, and for how long the login holds, in milliseconds, 0 for ever.
    pub(super) fn authenticate(&mut self, bytes: Vec<u8>) -> Result<(Bytes, i64), Error> {
        let request = SaslAuthenticateRequest::default().with_auth_bytes(bytes.into());
        let answer = self.call(&request, 2)?;
        match ResponseError::try_from_code(answer.error_code) {
            None => Ok((answer.auth_bytes, answer.session_lifetime_ms)),
            Some(error) => {
                let text = answer.error_message.map(|text| text.to_string());
                let error = text.unwrap_or_else(|| error.to_string());
                Err(Error::Refused { what: "SASL authentication", error })
            }
        }
    }

    fn agree(&mut self) -> Result<(), Error> {
        const VERSION: i16 = 3;
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("crashmonitor"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let correlation = self.send(&request, VERSION)?;
        let frame = self.receive_small()?;
        // Behind the header, in all versions, stands the error: a broker that is too old answers in the oldest.
        if frame.get(4..6) == Some(&ResponseError::UnsupportedVersion.code().to_be_bytes()[..]) {
            return Err(Unsupported("the broker is older than Kafka 2.4".to_owned()).into());
        }
        let answer: ApiVersionsResponse = decode(frame, correlation, VERSION)?;
        self.fetch_version = common(&answer, ApiKey::Fetch, FETCH_VERSIONS)?;
        self.metadata_version = common(&answer, ApiKey::Metadata, METADATA_VERSIONS)?;
        Ok(())
    }

    fn call<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response, Error> {
        let correlation = self.send(request, version)?;
        let frame = self.receive_small()?;
        decode(frame, correlation, version)
    }

    fn send<R: Request>(&mut self, request: &R, version: i16) -> Result<i32, Error> {
        let correlation = self.next_correlation;
        self.next_correlation = correlation.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(correlation)
            .with_client_id(Some(self.client_id.clone()));
        self.out.clear();
        self.out.put_i32(0);
        header.encode(&mut self.out, R::header_version(version)).map_err(Error::protocol)?;
        request.encode(&mut self.out, version).map_err(Error::protocol)?;
        let length = i32::try_from(self.out.len() - 4).map_err(Error::protocol)?;
        self.out[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&self.out)?;
        self.stream.flush()?;
        Ok(correlation)
    }

    fn receive_small(&mut self) -> Result<Bytes, Error> {
        let length = self.receive_length(SMALL_RESPONSE_BYTES_MAX)?;
        let mut frame = vec![0; length];
        self.stream.read_exact(&mut frame)?;
        Ok(frame.into())
    }

    fn receive_length(&mut self, max: usize) -> Result<usize, Error> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        match usize::try_from(i32::from_be_bytes(length)) {
            Ok(length) if length <= max => Ok(length),
            _ => Err(Error::Protocol(format!("a response of {} bytes", i32::from_be_bytes(length)))),
        }
    }
}

fn decode<R: Decodable + HeaderVersion>(
    mut frame: Bytes,
    correlation: i32,
    version: i16,
) -> Result<R, Error> {
    let header = ResponseHeader::decode(&mut frame, R::header_version(version)).map_err(Error::protocol)?;
    if header.correlation_id != correlation {
        let reason = format!("the response to request {} where {correlation} was due", header.correlation_id);
        return Err(Error::Protocol(reason));
    }
    let response = R::decode(&mut frame, version).map_err(Error::protocol)?;
    if frame.has_remaining() {
        return Err(Error::Protocol(format!("{} bytes behind a response", frame.remaining())));
    }
    Ok(response)
}

/// The highest version that both sides know.
fn common(broker: &ApiVersionsResponse, key: ApiKey, (min, max): (i16, i16)) -> Result<i16, Unsupported> {
    let known = broker.api_keys.iter().find(|api| api.api_key == key as i16);
    match known.map(|api| (api.min_version.max(min), api.max_version.min(max))) {
        Some((low, high)) if low <= high => Ok(high),
        _ => Err(Unsupported(format!("the broker has no {key:?} of version {min} to {max}"))),
    }
}

fn connect(address: &str) -> Result<TcpStream, Error> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for socket in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&socket, CONNECT_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last.into())
}
