//! What workers answer, where nothing runs them.
//!
//! Responsible for one server that stands for all pods of the nodes that run nothing: their addresses are loopback's, so
//! whoever asks a worker asks it. Must never be reached from elsewhere.

use crashmonitor_bench::load::now_ms;
use crashmonitor_core::status::{
    AggregatePartition, HoldReason, Holder, InputPartition, InputState, PartitionCounts, Reachability,
    Status, Totals,
};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Where every worker answers.
const PORT: u16 = 9400;
/// The operator asks sixteen at a time; an answer takes far less than its question.
const THREADS: usize = 4;
/// Whoever asks has asked already, or is not the operator.
const TIMEOUT: Duration = Duration::from_secs(1);
const REQUEST_BYTES_MAX: usize = 4096;

const INPUT_PARTITIONS: i32 = 4;
const SHARDS: i32 = 16;
/// How often a worker stores snapshots, where nothing else is said.
const CHECKPOINT_INTERVAL_MS: i64 = 5_000;

/// The server.
pub struct Workers {
    is_loaded: Arc<AtomicBool>,
}

impl Workers {
    /// Listens until the program ends.
    pub fn start() -> Result<Workers, String> {
        let failed = |error: std::io::Error| format!("port {PORT}, on which every worker answers: {error}");
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).map_err(failed)?;
        let is_loaded = Arc::new(AtomicBool::new(false));
        let begun_ms = now_ms();
        for _ in 0..THREADS {
            let (listener, is_loaded) = (listener.try_clone().map_err(failed)?, is_loaded.clone());
            thread::spawn(move || serve(&listener, begun_ms, &is_loaded));
        }
        Ok(Workers { is_loaded })
    }

    /// From now on, the figures of all workers change all the time, or stand still.
    pub fn set_loaded(&self, is_loaded: bool) {
        self.is_loaded.store(is_loaded, Ordering::Relaxed);
    }
}

fn serve(listener: &TcpListener, begun_ms: i64, is_loaded: &AtomicBool) {
    for stream in listener.incoming().flatten() {
        let is_local = stream.local_addr().is_ok_and(|address| address.ip().is_loopback());
        if is_local {
            // Who breaks off is not answered.
            let _ = answer(stream, &status(begun_ms, now_ms(), is_loaded.load(Ordering::Relaxed)));
        }
    }
}

fn answer(mut stream: TcpStream, status: &Status) -> std::io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut request = Vec::new();
    let mut bytes = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") && request.len() < REQUEST_BYTES_MAX {
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            read => request.extend_from_slice(&bytes[..read]),
        }
    }
    let body = serde_json::to_string(status)?;
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all((head + &body).as_bytes())
}

/// A worker that fares well. Under load it reads 10,000 records a second and lags by some hundreds, more or less.
fn status(begun_ms: i64, now_ms: i64, is_loaded: bool) -> Status {
    let (passed_s, moving) = match is_loaded {
        true => (u64::try_from((now_ms - begun_ms) / 1000).unwrap_or(0), now_ms),
        false => (0, begun_ms),
    };
    let input = InputPartition {
        position: moving,
        lag: if is_loaded { 50 + now_ms % 397 } else { 0 },
        mark_ms: Some(moving),
        state: if is_loaded { InputState::Running } else { InputState::Idle },
    };
    let reason = if is_loaded { HoldReason::Lagging } else { HoldReason::Idle };
    let aggregate = AggregatePartition {
        watermark_ms: Some(moving - 2_000),
        closed_through_ms: Some(moving - 32_000),
        holder: Some(Holder { partition: Some(0), reason }),
        open_windows: 4,
        committed_offset: Some(moving),
        recovery: Some("first_start".to_owned()),
        // Snapshots are stored whether anything comes or not.
        last_checkpoint_ms: Some(now_ms / CHECKPOINT_INTERVAL_MS * CHECKPOINT_INTERVAL_MS),
    };
    let reachable = Reachability { reachable: true, error: None };
    Status {
        ready: true,
        observed_at_ms: now_ms,
        partitions: PartitionCounts {
            input: INPUT_PARTITIONS.unsigned_abs(),
            repartition: SHARDS.unsigned_abs(),
        },
        input: (0..INPUT_PARTITIONS).map(|number| (number, input.clone())).collect(),
        aggregate: (0..SHARDS).map(|number| (number, aggregate.clone())).collect(),
        totals: Totals {
            records: passed_s * 10_000,
            results: passed_s * 5,
            late: passed_s / 10,
            ..Totals::default()
        },
        kafka: reachable.clone(),
        checkpoint_store: Some(reachable),
        ..Status::default()
    }
}

#[cfg(test)]
mod tests {
    use super::status;

    #[test]
    fn figures_stand_still_or_change() {
        let totals = |now_ms, is_loaded| status(1_000, now_ms, is_loaded).totals.results;
        let lag = |now_ms, is_loaded| status(1_000, now_ms, is_loaded).input[&0].lag;
        assert_eq!((totals(50_000, false), totals(90_000, false)), (0, 0));
        assert!(totals(50_000, true) < totals(90_000, true));
        assert_eq!(lag(50_000, false), 0);
        assert_ne!(lag(50_000, true), lag(60_000, true));
    }
}
