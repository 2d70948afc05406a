//! HTTP GET, as much as a test of an admin endpoint needs.
//!
//! Responsible for one request on one connection, bounded in time. Must never follow, retry or keep anything.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);

/// A response: its status code and body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// Such as 200.
    pub code: u16,
    /// What follows the headers.
    pub body: String,
}

/// GETs `path`. HTTP/1.0, so that the body ends with the connection and is never chunked.
pub fn get(address: SocketAddr, path: &str) -> Result<Response, String> {
    let text = exchange(address, path).map_err(|e| format!("GET {path} from {address}: {e}"))?;
    let (head, body) =
        text.split_once("\r\n\r\n").ok_or_else(|| format!("GET {path}: no response: {text:?}"))?;
    let code = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    let code = code.ok_or_else(|| format!("GET {path}: no status code in {head:?}"))?;
    Ok(Response { code, body: body.to_owned() })
}

fn exchange(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
