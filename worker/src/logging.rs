//! Log lines, on standard error.
//!
//! Responsible for their form. Must never decide what is worth a line: `RUST_LOG` does, by default `info`.

use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Sends this process's log lines to standard error, as text or as one JSON object each.
pub fn init(as_json: bool) {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    if as_json {
        lines.json().flatten_event(true).init();
    } else {
        lines.with_ansi(false).init();
    }
}
