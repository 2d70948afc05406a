//! Holds the results that a monitor wrote against those that it should have written.
//!
//! Must never forgive: every (interval, user) of either side ends in exactly one class.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::{Alert, Counts, Mode};

/// How many findings of a class the text of a report shows.
const SHOWN_MAX: usize = 5;

/// One (interval, user) that is not right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Start of the interval in epoch milliseconds.
    pub start_ms: i64,
    /// The user.
    pub user_id: String,
    /// The count that there should be, if there should be one.
    pub expected: Option<u64>,
    /// The counts that were written, in their order.
    pub got: Vec<u64>,
}

/// How a monitor did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// (interval, user) pairs whose result is there, once, with the right count.
    pub right: u64,
    /// Expected, but not written.
    pub missing: Vec<Finding>,
    /// Written once (or as growing updates), with the wrong last count.
    pub wrong: Vec<Finding>,
    /// Written, but not expected.
    pub unexpected: Vec<Finding>,
    /// Expected, and written more often than the mode allows.
    pub doubled: Vec<Finding>,
}

impl Report {
    /// Whether everything is right.
    pub fn is_right(&self) -> bool {
        self.missing.is_empty()
            && self.wrong.is_empty()
            && self.unexpected.is_empty()
            && self.doubled.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { right, missing, wrong, unexpected, doubled } = self;
        let classes =
            [("missing", missing), ("wrong", wrong), ("unexpected", unexpected), ("doubled", doubled)];
        write!(f, "{right} right")?;
        for (name, findings) in classes {
            write!(f, ", {} {name}", findings.len())?;
        }
        for (name, findings) in classes {
            for finding in findings.iter().take(SHOWN_MAX) {
                let Finding { start_ms, user_id, expected, got } = finding;
                let expected = expected.map_or("none".to_owned(), |count| count.to_string());
                write!(f, "\n  {name}: {start_ms} {user_id}: expected {expected}, got {got:?}")?;
            }
        }
        Ok(())
    }
}

/// Compares `got`, in the order of the log, with what was expected.
///
/// A final result must be the only one of its (interval, user). Updates must strictly grow, and the last of them
/// counts. One record of each mode for the same (interval, user) is one too many.
pub fn compare(expected: &Counts, got: &[Alert]) -> Report {
    let mut by_key: BTreeMap<(i64, &str), Vec<(u64, Mode)>> = BTreeMap::new();
    for alert in got {
        by_key.entry((alert.start_ms, &alert.user_id)).or_default().push((alert.count, alert.mode));
    }
    let mut report = Report::default();
    for ((start_ms, user_id), &count) in expected {
        let written = by_key.remove(&(*start_ms, user_id.as_str())).unwrap_or_default();
        let last = written.last().map(|&(count, _)| count);
        let class = match last {
            None => &mut report.missing,
            Some(_) if !is_allowed(&written) => &mut report.doubled,
            Some(last) if last != count => &mut report.wrong,
            Some(_) => {
                report.right += 1;
                continue;
            }
        };
        class.push(finding(*start_ms, user_id, Some(count), &written));
    }
    for ((start_ms, user_id), written) in by_key {
        report.unexpected.push(finding(start_ms, user_id, None, &written));
    }
    report
}

/// Whether these results may stand beside each other for one (interval, user).
fn is_allowed(written: &[(u64, Mode)]) -> bool {
    let alone = written.len() == 1;
    let updates = written.iter().all(|&(_, mode)| mode == Mode::Update);
    alone || (updates && written.is_sorted_by(|(before, _), (after, _)| before < after))
}

fn finding(start_ms: i64, user_id: &str, expected: Option<u64>, written: &[(u64, Mode)]) -> Finding {
    let got = written.iter().map(|&(count, _)| count).collect();
    Finding { start_ms, user_id: user_id.to_owned(), expected, got }
}
