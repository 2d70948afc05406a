//! One connection to one broker: requests out, responses in, in order.
//!
//! Knows frames and headers, and nothing of topics, batches or retries.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

use super::Error;

/// A response is metadata or acknowledgements; a larger one is not Kafka's.
const RESPONSE_BYTES_MAX: usize = 64 * 1024 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A TCP connection that speaks Kafka.
pub(super) struct Connection {
    stream: TcpStream,
    next_correlation: i32,
    out: BytesMut,
}

impl Connection {
    /// To a broker that may be silent for as long as `silence` while an answer is due, or while it takes a request.
    pub(super) fn open(address: &str, silence: Duration) -> Result<Self, Error> {
        let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, format!("{address} has no address"));
        for socket in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&socket, CONNECT_TIMEOUT) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(silence))?;
                    stream.set_write_timeout(Some(silence))?;
                    return Ok(Self { stream, next_correlation: 0, out: BytesMut::new() });
                }
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }

    /// Sends a request and waits for its response. No other response may be due.
    pub(super) fn call<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response, Error> {
        let correlation = self.send(request, version)?;
        self.receive::<R>(correlation, version)
    }

    /// Sends a request; the result identifies its response.
    pub(super) fn send<R: Request>(&mut self, request: &R, version: i16) -> Result<i32, Error> {
        let correlation = self.next_correlation;
        self.next_correlation = correlation.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(correlation)
            .with_client_id(Some(StrBytes::from_static_str("crashmonitor-loadgen")));
        self.out.clear();
        self.out.put_i32(0);
        header.encode(&mut self.out, R::header_version(version)).map_err(protocol)?;
        request.encode(&mut self.out, version).map_err(protocol)?;
        let length = i32::try_from(self.out.len() - 4).map_err(protocol)?;
        self.out[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&self.out)?;
        Ok(correlation)
    }

    /// Waits for the response to the oldest request without one.
    pub(super) fn receive<R: Request>(
        &mut self,
        correlation: i32,
        version: i16,
    ) -> Result<R::Response, Error> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > RESPONSE_BYTES_MAX {
            return Err(Error::Protocol(format!("a response of {length} bytes")));
        }
        let mut frame = vec![0; length];
        self.stream.read_exact(&mut frame)?;
        let mut frame = Bytes::from(frame);
        let header =
            ResponseHeader::decode(&mut frame, R::Response::header_version(version)).map_err(protocol)?;
        if header.correlation_id != correlation {
            return Err(Error::Protocol(format!(
                "response to request {} where {correlation} was due",
                header.correlation_id
            )));
        }
        let response = R::Response::decode(&mut frame, version).map_err(protocol)?;
        if frame.has_remaining() {
            return Err(Error::Protocol(format!("{} bytes behind a response", frame.remaining())));
        }
        Ok(response)
    }
}

fn protocol(error: impl std::fmt::Display) -> Error {
    Error::Protocol(format!("{error:#}"))
}
