//! A worker is killed, stopped or told to end exactly where it would hurt: at the fail points of `worker/src/failpoint.rs`.
//!
//! Responsible for every signal at every point. The worker must be built with fail points; without, none is reached, and
//! each of these runs fails.

use crashmonitor_testbed::under_load::{TIMEOUT, await_more_results};
use crashmonitor_testbed::until_true;

use super::{Fault, Place};
use crate::scene::Scene;

const VARIABLE: &str = "CRASHMONITOR_FAILPOINT";
/// Whoever is silent for so long is out.
const SHORT_SESSION: &str = "4s";
/// Whoever is killed and started again has its seat back.
const LONG_SESSION: &str = "60s";

/// What must happen for a worker to come to a point.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Load.
    Load,
    /// A third worker that wants partitions of both.
    Revoke,
    /// A second worker that wants partitions of the only one: nobody else's rejoining has the group assign again what
    /// the one that fails was to give up.
    RevokeOfOne,
}

/// Names of faults; of fail points; the way there; and which time is the latest to fail at, so that load of seconds is enough.
const POINTS: [(&str, &str, Way, u64); 16] = [
    ("before-produce", "before-produce", Way::Load, 6),
    ("after-produce", "after-produce", Way::Load, 6),
    ("after-send-offsets", "after-send-offsets", Way::Load, 6),
    ("before-end", "before-end", Way::Load, 6),
    ("during-end", "during-end", Way::Load, 6),
    ("after-end", "after-end", Way::Load, 6),
    ("in-revoke", "in-revoke", Way::Revoke, 1),
    ("before-release", "before-release", Way::Revoke, 1),
    ("scan-after-claim", "scan-after-claim", Way::Load, 1),
    ("scan-after-produce", "scan-after-produce", Way::Load, 60),
    ("scan-before-commit", "scan-before-commit", Way::Load, 10),
    ("scan-after-commit", "scan-after-commit", Way::Load, 10),
    ("scan-in-revoke", "scan-in-revoke", Way::Revoke, 1),
    ("in-revoke-of-one", "in-revoke", Way::RevokeOfOne, 1),
    ("before-release-of-one", "before-release", Way::RevokeOfOne, 1),
    ("scan-in-revoke-of-one", "scan-in-revoke", Way::RevokeOfOne, 1),
];

/// How a worker goes, and comes back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Going {
    /// SIGKILL; started again at once, as the member that it was.
    Killed,
    /// SIGKILL; started again when others have taken over.
    Replaced,
    /// SIGSTOP; goes on when others have taken over.
    Stopped,
    /// SIGTERM; started again after its end.
    Ended,
}

impl Going {
    const ALL: [(&str, Going); 4] = [
        ("kill", Going::Killed),
        ("kill-away", Going::Replaced),
        ("stop", Going::Stopped),
        ("term", Going::Ended),
    ];

    fn signal(self) -> &'static str {
        match self {
            Going::Killed | Going::Replaced => "KILL",
            Going::Stopped => "STOP",
            Going::Ended => "TERM",
        }
    }

    fn session(self) -> &'static str {
        match self {
            Going::Killed | Going::Ended => LONG_SESSION,
            Going::Replaced | Going::Stopped => SHORT_SESSION,
        }
    }
}

pub fn all() -> impl Iterator<Item = Fault> {
    let each = |(fault, point, way, latest)| {
        Going::ALL.map(|(name, going)| (format!("{fault}.{name}"), point, way, latest, going))
    };
    POINTS.into_iter().flat_map(each).map(|(name, point, way, latest, going)| Fault {
        name,
        place: Place::Beside,
        session: going.session(),
        cause: Box::new(move |scene, number| cause(scene, point, way, 1 + (number - 1) % latest, going)),
    })
}

fn cause(scene: &mut Scene<'_>, point: &str, way: Way, time: u64, going: Going) {
    let failing = format!("{point}:{time}:{}", going.signal());
    let failing = [(VARIABLE, failing.as_str())];
    if way == Way::RevokeOfOne {
        scene.start_worker(&failing);
        scene.begin_load();
    } else {
        scene.begin(1);
        // It joins under load: what it counts of its way to the point is load too.
        scene.start_worker(&failing);
    }
    let victim = scene.workers.len() - 1;
    if way == Way::Revoke {
        scene.await_shares();
    }
    if way != Way::Load {
        scene.start_worker(&[]);
    }
    let process = scene.workers[victim].process();
    until_true(&format!("{} at {point}, time {time}", going.signal()), TIMEOUT, || match going {
        Going::Stopped => process.is_stopped(),
        Going::Killed | Going::Replaced | Going::Ended => !process.is_running(),
    });
    if going == Going::Ended {
        // In order, or this panics.
        scene.workers[victim].stop(TIMEOUT);
    }
    if matches!(going, Going::Replaced | Going::Stopped) {
        scene.await_shares_without(Some(victim));
        scene.await_results_of_others(victim);
    }
    scene.workers[victim].unset_env(VARIABLE);
    if going == Going::Stopped {
        scene.workers[victim].sigcont();
    } else {
        scene.workers[victim].start_again();
    }
    scene.await_shares();
    await_more_results(&scene.workers);
    scene.await_load(2);
}
