//! The worker's HTTP endpoints, for Kubernetes, Prometheus and the operator.
//!
//! Responsible for `/healthz` (every loop turns), `/readyz` (the worker does its work), `/metrics` and `/status`, in a
//! thread of their own. Must never touch Kafka or Redis, wait for a loop, or show a secret.
//!
//! # What the probes mean
//!
//! - `/healthz` fails when a registered loop has not beaten within its bound: only a restart helps then. Kafka being
//!   away is no reason, as the loops go on turning.
//! - `/readyz` fails until the worker has joined and restored, and says what it waits for. It never depends on lag.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crashmonitor_core::status::Status;
use crashmonitor_host::serve;

use crate::metrics::{CONTENT_TYPE, Metrics};

/// One loop's sign of life.
#[derive(Clone)]
pub struct Heartbeat {
    epoch: Instant,
    beaten_at_ms: Arc<AtomicU64>,
}

impl Heartbeat {
    /// The loop turns. Costs one store; call it in each turn.
    pub fn beat(&self) {
        let now_ms = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beaten_at_ms.store(now_ms, Ordering::Relaxed);
    }
}

struct Loop {
    name: String,
    bound: Duration,
    heartbeat: Heartbeat,
}

/// What the endpoints show. Cheap to share; the loops write, HTTP reads.
#[derive(Clone, Default)]
pub struct Admin(Arc<Shared>);

#[derive(Default)]
struct Shared {
    loops: Mutex<Vec<Loop>>,
    status: Mutex<Status>,
    metrics: Metrics,
}

impl Admin {
    /// Nothing registered, not ready, all metrics at zero.
    pub fn new() -> Admin {
        Admin::default()
    }

    /// Registers a loop that must beat at least once within `bound`, from now on. A second registration of the same
    /// name takes the place of the first.
    pub fn register(&self, name: &str, bound: Duration) -> Heartbeat {
        let heartbeat = Heartbeat { epoch: Instant::now(), beaten_at_ms: Arc::default() };
        let mut loops = lock(&self.0.loops);
        loops.retain(|l| l.name != name);
        loops.push(Loop { name: name.to_string(), bound, heartbeat: heartbeat.clone() });
        heartbeat
    }

    /// Removes a loop that has ended in order.
    pub fn unregister(&self, name: &str) {
        lock(&self.0.loops).retain(|l| l.name != name);
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Changes the status. Keep it short: `/status` waits meanwhile.
    pub fn update_status(&self, change: impl FnOnce(&mut Status)) {
        change(&mut lock(&self.0.status));
    }

    /// A copy of the status.
    pub fn status(&self) -> Status {
        lock(&self.0.status).clone()
    }

    /// Names the first loop that is overdue, and for how long it has been silent.
    pub fn overdue(&self) -> Option<(String, Duration)> {
        let loops = lock(&self.0.loops);
        loops.iter().find_map(|l| {
            let beaten_at = Duration::from_millis(l.heartbeat.beaten_at_ms.load(Ordering::Relaxed));
            let silence = l.heartbeat.epoch.elapsed().saturating_sub(beaten_at);
            (silence > l.bound).then(|| (l.name.clone(), silence))
        })
    }

    /// Serves the endpoints from a thread of its own until the process ends. Returns the bound address: with port 0
    /// the system chooses one.
    pub fn serve(&self, listen: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let router = self.router();
        thread::Builder::new().name("admin".to_string()).spawn(move || {
            runtime.block_on(async {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => serve::serve(listener, router).await,
                    Err(error) => tracing::error!("the admin endpoints have ended: {error}"),
                }
            });
        })?;
        Ok(address)
    }

    /// GET (and with it HEAD) only: axum answers anything else with 405.
    fn router(&self) -> Router {
        Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .route("/status", get(status))
            .with_state(self.clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn healthz(State(admin): State<Admin>) -> Response {
    match admin.overdue() {
        None => (StatusCode::OK, "ok\n").into_response(),
        Some((name, silence)) => {
            let text = format!("loop {name} has been silent for {} ms\n", silence.as_millis());
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let status = lock(&admin.0.status);
    if status.ready {
        return (StatusCode::OK, "ok\n").into_response();
    }
    let reason = status.not_ready_reason.as_deref().unwrap_or("starting");
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    match admin.metrics().render() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn status(State(admin): State<Admin>) -> Response {
    match serde_json::to_string(&admin.status()) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    fn request(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_string())
    }

    fn served() -> (Admin, SocketAddr) {
        let admin = Admin::new();
        let address = admin.serve("127.0.0.1:0".parse().unwrap()).unwrap();
        (admin, address)
    }

    #[test]
    fn health_names_the_loop_that_stands_still() {
        let (admin, address) = served();
        admin.register("scan-0", Duration::from_secs(60));
        assert_eq!(request(address, "GET", "/healthz"), (200, "ok\n".to_string()));
        admin.register("aggregate", Duration::ZERO);
        while admin.overdue().is_none() {}
        let (code, text) = request(address, "GET", "/healthz");
        assert_eq!(code, 503);
        assert!(text.starts_with("loop aggregate has been silent for "), "{text}");
        admin.unregister("aggregate");
        assert_eq!(request(address, "GET", "/healthz").0, 200);
    }

    #[test]
    fn readiness_says_what_is_waited_for() {
        let (admin, address) = served();
        assert_eq!(request(address, "GET", "/readyz"), (503, "starting\n".to_string()));
        admin.update_status(|s| s.not_ready_reason = Some("Kafka: no broker answers".to_string()));
        assert_eq!(request(address, "GET", "/readyz").1, "Kafka: no broker answers\n");
        admin.update_status(|s| s.ready = true);
        assert_eq!(request(address, "GET", "/readyz").0, 200);
    }

    #[test]
    fn status_is_json_and_metrics_are_text() {
        let (admin, address) = served();
        admin.update_status(|s| s.pod = "c-0".to_string());
        let status: Status = serde_json::from_str(&request(address, "GET", "/status").1).unwrap();
        assert_eq!(status.pod, "c-0");
        assert!(request(address, "GET", "/metrics").1.contains("crashmonitor_records_total 0"));
    }

    #[test]
    fn only_get_is_answered_and_only_where_something_is() {
        let (admin, address) = served();
        admin.update_status(|s| s.ready = true);
        let before = request(address, "GET", "/status");
        for path in ["/healthz", "/readyz", "/metrics", "/status"] {
            for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"] {
                assert_eq!(request(address, method, path), (405, String::new()), "{method} {path}");
            }
            assert_eq!(request(address, "HEAD", path), (200, String::new()), "{path}");
        }
        for path in ["/", "/status/", "/metrics/x", "/%2e%2e/status", "/debug/pprof", "/quit"] {
            for method in ["GET", "POST", "DELETE"] {
                assert_eq!(request(address, method, path).0, 404, "{method} {path}");
            }
        }
        assert_eq!(request(address, "GET", "/status"), before);
    }
}
