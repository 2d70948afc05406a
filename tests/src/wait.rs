//! Waiting for a condition.
//!
//! Responsible for polling it with a short backoff, a bound, and a message that says what was awaited and what was
//! seen last. Must never be used to let time pass: whoever waits names the condition.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

const BACKOFF_MIN: Duration = Duration::from_millis(2);
const BACKOFF_MAX: Duration = Duration::from_millis(100);

/// Polls `probe` until it gives a value, and panics after `timeout` with `what` and the state that `probe` gave last.
///
/// ```
/// use crashmonitor_testbed::until;
/// use std::time::Duration;
/// let mut lag = 3;
/// let drained = until("the lag to be zero", Duration::from_secs(1), || {
///     lag -= 1;
///     if lag == 0 { Ok("drained") } else { Err(format!("lag {lag}")) }
/// });
/// assert_eq!(drained, "drained");
/// ```
#[track_caller]
pub fn until<T, E: Display>(what: &str, timeout: Duration, probe: impl FnMut() -> Result<T, E>) -> T {
    match try_until(timeout, probe) {
        Ok(value) => value,
        Err(last) => panic!("waited {timeout:?} for {what}; last seen: {last}"),
    }
}

/// Polls `condition` until it holds, and panics after `timeout` with `what`.
#[track_caller]
pub fn until_true(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    until(what, timeout, || if condition() { Ok(()) } else { Err("it does not hold") });
}

/// As [`until`], but gives the last state instead of a panic.
pub fn try_until<T, E>(timeout: Duration, probe: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    poll(timeout, BACKOFF_MAX, probe)
}

/// The same without growing pauses, for who measures how long something takes: a value is at most some milliseconds old.
pub fn try_until_closely<T, E>(timeout: Duration, probe: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    poll(timeout, BACKOFF_MIN, probe)
}

fn poll<T, E>(
    timeout: Duration,
    backoff_max: Duration,
    mut probe: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let deadline = Instant::now() + timeout;
    let mut backoff = BACKOFF_MIN;
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(last) if Instant::now() >= deadline => return Err(last),
            Err(_) => thread::sleep(backoff),
        }
        backoff = (backoff * 2).min(backoff_max);
    }
}
