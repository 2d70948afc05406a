//! HTTP for endpoints that anybody in reach may ask.
//!
//! Responsible for the bounds: how many clients at once, how long each, how much of a request. Must never decide what
//! is answered; the routes do.
//!
//! A client that is too many waits to be accepted; one that is too slow, in asking or in taking the answer, is cut off.
//! A route whose answer does not end by itself is given more time, by [`Allowance`], and must bound that itself.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// Connections at once. A probe, a scrape and the operator's look need one each, for milliseconds.
pub const CONNECTIONS_MAX: usize = 64;
/// From being accepted to the end of the answer: one connection is one request. Scrapes wait 10 s by default.
pub const CONNECTION_TIME_MAX: Duration = Duration::from_secs(5);
/// Request line and headers together; a longer request is refused. Probes and scrapes send a few hundred bytes.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// After an error in accepting, such as too few file descriptors, which passes by itself.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The time that a connection has left: an extension of its request.
#[derive(Clone, Debug)]
pub struct Allowance(Arc<watch::Sender<Instant>>);

impl Allowance {
    /// From now on the connection is cut off at this instant, be it later or earlier than before.
    pub fn until(&self, deadline: Instant) {
        self.0.send_replace(deadline);
    }
}

/// Serves `router` until the future is dropped.
pub async fn serve(listener: TcpListener, router: Router) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await.expect("nobody closes the semaphore");
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    // A client that is slow or breaks off is its own affair.
                    answer_in_time(stream, router).await;
                    drop(permit);
                });
            }
            Err(error) => {
                if !is_of_one_client(&error) {
                    tracing::warn!("HTTP: a connection can't be accepted: {error}");
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer_in_time(stream: TcpStream, router: Router) {
    let (sender, mut deadline) = watch::channel(Instant::now() + CONNECTION_TIME_MAX);
    let router = router.layer(Extension(Allowance(Arc::new(sender))));
    let mut answered = Box::pin(answer(stream, router));
    loop {
        let at = *deadline.borrow_and_update();
        tokio::select! {
            _ = &mut answered => return,
            // Nobody can move the deadline any more once the sender is gone.
            Ok(()) = deadline.changed() => {}
            () = sleep_until(at) => return,
        }
    }
}

async fn answer(stream: TcpStream, router: Router) -> Result<(), hyper::Error> {
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(HEAD_BYTES_MAX);
    http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await
}

/// Whether it was the client that went away before it was accepted.
fn is_of_one_client(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::thread;

    use axum::routing::get;

    use super::*;

    fn served() -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let router = Router::new()
            .route("/", get(async || "ok\n"))
            .route("/much", get(async || vec![b'x'; 64 << 20]))
            .route("/slow", get(slow))
            .route("/endless", get(endless));
        thread::spawn(move || {
            runtime.block_on(async { serve(TcpListener::from_std(listener).unwrap(), router).await });
        });
        address
    }

    /// Takes longer than a connection may, and says so.
    async fn slow(Extension(allowance): Extension<Allowance>) -> &'static str {
        allowance.until(Instant::now() + PATIENCE);
        sleep(CONNECTION_TIME_MAX * 5 / 4).await;
        "at last\n"
    }

    /// Takes longer than it says.
    async fn endless(Extension(allowance): Extension<Allowance>) -> &'static str {
        allowance.until(Instant::now() + CONNECTION_TIME_MAX / 10);
        std::future::pending().await
    }

    /// What is answered to a request until the connection is closed.
    fn answer_to(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // Whoever is refused midway may find the connection closed.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => panic!("nobody closed it in {PATIENCE:?}"),
            Ok(_) | Err(_) => String::from_utf8_lossy(&answer).into_owned(),
        }
    }

    fn code(answer: &str) -> Option<u16> {
        answer.split(' ').nth(1).and_then(|code| code.parse().ok())
    }

    /// Far beyond the bound, for a slow machine: without a bound a test would wait for ever.
    const PATIENCE: Duration = CONNECTION_TIME_MAX.saturating_mul(24);
    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    #[test]
    fn a_connection_is_one_request() {
        let answer = answer_to(served(), &[GET, GET].concat());
        assert_eq!((code(&answer), answer.matches("HTTP/1.1").count()), (Some(200), 1), "{answer}");
    }

    #[test]
    fn a_request_that_is_too_long_is_refused() {
        let address = served();
        let long = "x".repeat(4 * HEAD_BYTES_MAX);
        for request in [
            format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"),
            format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {long}\r\n\r\n"),
            format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(1_000)),
        ] {
            let answer = answer_to(address, request.as_bytes());
            assert!(matches!(code(&answer), Some(414 | 431)), "{answer}");
        }
        // A body is not read: without it there is an answer all the same.
        let answer = answer_to(address, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n");
        assert_eq!(code(&answer), Some(405));
    }

    #[test]
    fn who_asks_slowly_is_cut_off() {
        assert_eq!(answer_to(served(), b"GET / HTTP/1.1\r\n"), "");
    }

    #[test]
    fn who_takes_the_answer_slowly_is_cut_off() {
        let address = served();
        let mut slow = TcpStream::connect(address).unwrap();
        slow.write_all(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        thread::sleep(CONNECTION_TIME_MAX + Duration::from_secs(1));
        let mut taken = Vec::new();
        let _ = slow.read_to_end(&mut taken);
        assert!(taken.len() < 64 << 20, "all of {} bytes were kept for it", taken.len());
    }

    #[test]
    fn a_route_may_take_longer_and_no_longer_than_it_says() {
        let address = served();
        assert!(answer_to(address, b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").ends_with("at last\n"));
        assert_eq!(answer_to(address, b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n"), "");
    }

    #[test]
    fn many_that_say_nothing_shut_nobody_out() {
        let address = served();
        let silent: Vec<TcpStream> =
            (0..CONNECTIONS_MAX).map(|_| TcpStream::connect(address).unwrap()).collect();
        assert_eq!(code(&answer_to(address, GET)), Some(200));
        drop(silent);
    }
}
