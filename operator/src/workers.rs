//! Asks the workers how they fare.
//!
//! Responsible for one bounded request to each worker's `/status`, and the plain HTTP under it. Must never fail as a
//! whole: a worker that does not answer in time is left out.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crashmonitor_core::status::Status;
use futures::StreamExt;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tokio::net::TcpStream;

use crate::manifests::ADMIN_PORT;
use crate::status::pods::name;

/// The longest wait for one worker.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The longest wait for a single request from the command line.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// Workers of one monitor that are asked at the same time.
const CONCURRENCY: usize = 32;
/// The largest answer: a worker that owns 1,000 partitions needs a tenth of it.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It took too long.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// Nobody listens.
    #[error("{0}")]
    Connect(#[from] std::io::Error),
    /// Whoever listens speaks no HTTP, or broke off.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// It is too long, or broke off.
    #[error("the answer can't be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// It is an error.
    #[error("status {0}: {1}")]
    Code(u16, String),
    /// It is something else.
    #[error("the answer is no status: {0}")]
    Json(#[from] serde_json::Error),
    /// It can't be asked for.
    #[error("not of the form http://host:port/path")]
    Url,
}

/// What each worker that runs answers, by its pod's name.
pub async fn ask(pods: &[Arc<Pod>]) -> BTreeMap<String, Status> {
    let mut running = Vec::with_capacity(pods.len());
    for pod in pods {
        running.extend(address(pod).map(|address| (name(pod).to_string(), address)));
    }
    let asked = futures::stream::iter(running).map(|(name, address)| async move {
        let answer = tokio::time::timeout(TIMEOUT, fetch(address)).await;
        (name, answer.unwrap_or(Err(Error::TimedOut(TIMEOUT))))
    });
    let answers: Vec<_> = asked.buffer_unordered(CONCURRENCY).collect().await;
    let mut statuses = BTreeMap::new();
    for (name, answer) in answers {
        match answer {
            Ok(status) => drop(statuses.insert(name, status)),
            Err(error) => tracing::debug!(pod = name, "no status from the worker: {error}"),
        }
    }
    statuses
}

fn address(pod: &Pod) -> Option<SocketAddr> {
    let status = pod.status.as_ref()?;
    let ip: IpAddr = status.pod_ip.as_ref()?.parse().ok()?;
    (status.phase.as_deref() == Some("Running")).then(|| SocketAddr::new(ip, ADMIN_PORT))
}

async fn fetch(address: SocketAddr) -> Result<Status, Error> {
    let stream = TcpStream::connect(address).await?;
    Ok(serde_json::from_slice(&request(stream, &address.to_string(), "/status").await?)?)
}

/// The answer to `http://host:port/path`, if it is a success.
pub async fn get(url: &str) -> Result<String, Error> {
    let uri: Uri = url.parse().map_err(|_| Error::Url)?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("http")).ok_or(Error::Url)?;
    let asked = async {
        let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await?;
        request(stream, host, uri.path()).await
    };
    let answer = tokio::time::timeout(CHECK_TIMEOUT, asked).await;
    let answer = answer.unwrap_or(Err(Error::TimedOut(CHECK_TIMEOUT)))?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// One request on a connection of its own.
async fn request(stream: TcpStream, host: &str, path: &str) -> Result<Bytes, Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header(hyper::header::HOST, host).body(Empty::<Bytes>::new());
    let request = request.map_err(|_| Error::Url)?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let code = response.status();
        let body =
            Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(Error::Body)?;
        let body = body.to_bytes();
        if code.is_success() {
            Ok(body)
        } else {
            Err(Error::Code(code.as_u16(), String::from_utf8_lossy(&body).trim().to_string()))
        }
    };
    // Both are driven here, so that nothing is left behind when the time is up.
    tokio::pin!(connection);
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => {
            ended?;
            exchange.await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(ip: &str) -> Arc<Pod> {
        let pod = serde_json::json!({
            "metadata": {"name": "c-worker-0"}, "status": {"phase": "Running", "podIP": ip},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[tokio::test]
    async fn a_worker_is_asked() {
        let app = axum::Router::new()
            .route("/status", axum::routing::get(async || r#"{"pod":"c-worker-0","ready":true}"#));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        assert!(fetch(address).await.unwrap().ready);
    }

    #[tokio::test]
    async fn an_answer_that_is_no_status_is_an_error() {
        let app = axum::Router::new().route("/status", axum::routing::get(async || "hello"));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        assert!(matches!(fetch(address).await, Err(Error::Json(_))));
    }

    #[tokio::test]
    async fn who_does_not_answer_is_left_out() {
        assert_eq!(ask(&[pod("127.0.0.1"), pod("not an address")]).await, BTreeMap::new());
    }
}
