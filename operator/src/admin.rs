//! The operator's HTTP endpoints.
//!
//! Responsible for `/healthz` (the process answers), `/readyz` (it has reached the API server), `/metrics`. Must never
//! change anything.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use crashmonitor_host::serve;

use crate::metrics::{CONTENT_TYPE, Metrics};

/// What the endpoints show.
#[derive(Clone, Default)]
pub struct Admin {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    is_ready: Arc<AtomicBool>,
}

impl Admin {
    /// The API server has been reached; a standby is ready too.
    pub fn set_ready(&self) {
        self.is_ready.store(true, Ordering::Relaxed);
    }

    /// Serves until the process ends. Returns once the address is bound.
    pub async fn serve(&self, listen: SocketAddr) -> std::io::Result<SocketAddr> {
        let listener = tokio::net::TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let router = Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self.clone());
        tokio::spawn(serve::serve(listener, router));
        Ok(address)
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    if admin.is_ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the API server has not answered yet\n").into_response()
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    match admin.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
