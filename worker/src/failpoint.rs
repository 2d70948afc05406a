//! Places between two effects at which a test can have the process kill, stop or end itself.
//!
//! Responsible for naming these places, and in builds for `make faults` (`--cfg crashmonitor_failpoints`) for the signal:
//! `CRASHMONITOR_FAILPOINT=after-send-offsets:3:KILL` sends SIGKILL to the process when that place is reached for the
//! third time. There too, `CRASHMONITOR_CLOCK_SHIFT_MS=-3600000` has the process's wall clock an hour late. Must never be
//! more than nothing in any other build: there a place has no name, reaching it no code, and the clock is the system's.
//! `tests/tests/failpoints.rs` looks for the names in the binary, and an optimised build refuses the setting.

#[cfg(all(crashmonitor_failpoints, not(debug_assertions)))]
compile_error!("fail points are for tests: no release may have them");

/// A place. No `Debug`: the names of these must not get into the binary that way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// Aggregate: a transaction has begun, nothing is written in it.
    BeforeProduce,
    /// Aggregate: results are with the client, some with the broker.
    AfterProduce,
    /// Aggregate: the transaction has its offsets.
    AfterSendOffsets,
    /// Aggregate: all that was written is acknowledged.
    BeforeEnd,
    /// Aggregate: the end of the transaction is asked for, and not yet answered.
    DuringEnd,
    /// Aggregate: the transaction is committed, and nothing of that is noted, no snapshot is handed over.
    AfterEnd,
    /// Aggregate: shards are to be given up, and what was counted of them is not committed.
    InRevoke,
    /// Aggregate: it is committed, and they are not given up.
    BeforeRelease,
    /// Scan: a claim is committed, and no shard knows of it.
    ScanAfterClaim,
    /// Scan: frames are with the client.
    ScanAfterProduce,
    /// Scan: frames are acknowledged, and their offsets not committed.
    ScanBeforeCommit,
    /// Scan: the offsets are committed, and that is not noted.
    ScanAfterCommit,
    /// Scan: sources are to be given up, and what was read of them is neither sent nor committed.
    ScanInRevoke,
}

#[cfg(crashmonitor_failpoints)]
pub(crate) use armed::{clock_shift_ms, reach, reach_while};

/// The process is at `point`, and goes on when it may.
#[cfg(not(crashmonitor_failpoints))]
#[inline(always)]
pub(crate) fn reach(_point: Point) {}

/// The process is at `point` while what follows is under way.
#[cfg(not(crashmonitor_failpoints))]
#[inline(always)]
pub(crate) fn reach_while(_point: Point) {}

/// By how much the wall clock is off.
#[cfg(not(crashmonitor_failpoints))]
#[inline(always)]
pub(crate) fn clock_shift_ms() -> i64 {
    0
}

#[cfg(crashmonitor_failpoints)]
mod armed {
    use super::Point;
    use std::process::{self, Command};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    /// What to do and where.
    const VARIABLE: &str = "CRASHMONITOR_FAILPOINT";
    /// By how many milliseconds the wall clock is off.
    const CLOCK_SHIFT: &str = "CRASHMONITOR_CLOCK_SHIFT_MS";

    const NAMES: [(&str, Point); 13] = [
        ("before-produce", Point::BeforeProduce),
        ("after-produce", Point::AfterProduce),
        ("after-send-offsets", Point::AfterSendOffsets),
        ("before-end", Point::BeforeEnd),
        ("during-end", Point::DuringEnd),
        ("after-end", Point::AfterEnd),
        ("in-revoke", Point::InRevoke),
        ("before-release", Point::BeforeRelease),
        ("scan-after-claim", Point::ScanAfterClaim),
        ("scan-after-produce", Point::ScanAfterProduce),
        ("scan-before-commit", Point::ScanBeforeCommit),
        ("scan-after-commit", Point::ScanAfterCommit),
        ("scan-in-revoke", Point::ScanInRevoke),
    ];

    struct Plan {
        name: String,
        point: Point,
        nth: u64,
        signal: String,
        reached: AtomicU64,
    }

    pub(crate) fn reach(point: Point) {
        if let Some(plan) = due(point) {
            plan.send();
        }
    }

    /// The signal comes from another thread, within a few milliseconds: about as long as a request takes.
    pub(crate) fn reach_while(point: Point) {
        if let Some(plan) = due(point) {
            thread::spawn(|| plan.send());
        }
    }

    pub(crate) fn clock_shift_ms() -> i64 {
        static SHIFT: OnceLock<i64> = OnceLock::new();
        *SHIFT.get_or_init(|| {
            let Ok(text) = std::env::var(CLOCK_SHIFT) else { return 0 };
            text.parse().unwrap_or_else(|_| {
                eprintln!("{CLOCK_SHIFT}: {text:?} is no number of milliseconds");
                process::exit(2);
            })
        })
    }

    /// The plan, if this is its place and its turn.
    fn due(point: Point) -> Option<&'static Plan> {
        static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
        let plan = PLAN.get_or_init(plan).as_ref().filter(|plan| plan.point == point)?;
        (plan.reached.fetch_add(1, Ordering::Relaxed) + 1 == plan.nth).then_some(plan)
    }

    fn plan() -> Option<Plan> {
        let text = std::env::var(VARIABLE).ok()?;
        let plan = parse(&text);
        if plan.is_none() {
            eprintln!("{VARIABLE}: {text:?} is not <fail point>:<which time>:<signal>");
            process::exit(2);
        }
        plan
    }

    fn parse(text: &str) -> Option<Plan> {
        let [name, nth, signal] = <[&str; 3]>::try_from(text.split(':').collect::<Vec<_>>()).ok()?;
        let (_, point) = NAMES.into_iter().find(|(known, _)| *known == name)?;
        let (nth, reached) = (nth.parse().ok()?, AtomicU64::new(0));
        ["KILL", "STOP", "TERM"].contains(&signal).then(|| Plan {
            name: name.to_owned(),
            point,
            nth,
            signal: signal.to_owned(),
            reached,
        })
    }

    impl Plan {
        fn send(&self) {
            tracing::warn!("fail point {}, time {}: {}", self.name, self.nth, self.signal);
            // By a shell: this crate has no unsafe code, and a dependency for tests alone is not worth having.
            let sent = Command::new("sh").args(["-c", &format!("kill -s {} $PPID", self.signal)]).status();
            assert!(sent.is_ok_and(|status| status.success()), "{} is not sent", self.signal);
            while self.signal == "KILL" {
                thread::park();
            }
        }
    }
}
