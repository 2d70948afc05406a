//! What a person may want to see of the counts: open windows, the users with most crashes, how late records come.
//!
//! Responsible for a view of bounded size at a bounded price, to be taken once a second. Must never be part of the state:
//! no result, commit or snapshot depends on it, and the lateness seen begins anew with the process.
//!
//! # Limits
//! - [`WINDOWS_MAX`] windows are told, the latest; [`USERS_MAX`] users.
//! - What takes a walk over all counts is left out where there are more than [`COUNTERS_MAX`]: that many take about a
//!   millisecond.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::aggregate::{Partition, Window};
use crate::frame::Message;
use crate::status::{LatenessBucket, OpenWindow, UserCount};

/// Windows that are told of.
pub const WINDOWS_MAX: usize = 32;
/// Users that are named.
pub const USERS_MAX: usize = 20;
/// Counts that are walked over.
pub const COUNTERS_MAX: usize = 100_000;

/// Upper bounds of how far a record may lie behind the watermark, in milliseconds; the last bucket has none.
const BOUNDS_MS: [i64; 8] = [0, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000];

/// Whether users are named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Users {
    /// The ones with most crashes are.
    Named,
    /// None is.
    Unnamed,
}

/// What is seen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Look {
    /// Open windows by their start.
    pub windows: Vec<OpenWindow>,
    /// Most crashes first; None if users are not to be named, or there are too many.
    pub users: Option<Vec<UserCount>>,
}

/// Looks at the states of the owned shards.
pub fn look(states: &[&Partition], users: Users) -> Look {
    let counters: usize = states.iter().map(|state| state.open_pairs()).sum();
    let walks = counters <= COUNTERS_MAX;
    let mut windows: BTreeMap<i64, OpenWindow> = BTreeMap::new();
    let mut most = BinaryHeap::with_capacity(USERS_MAX + 1);
    for state in states {
        for (&start_ms, window) in state.windows.iter().rev().take(WINDOWS_MAX) {
            let end_ms = start_ms + state.params.window_ms;
            let shown = windows.entry(start_ms).or_insert_with(|| opened(start_ms, end_ms, walks));
            shown.users += window.users.len() as u64;
            if walks {
                add(shown, window, state.params.count_greater_than);
                if users == Users::Named {
                    rank(&mut most, start_ms, window);
                }
            }
        }
    }
    while windows.len() > WINDOWS_MAX {
        windows.pop_first();
    }
    for (&_, window) in &mut windows {
        let is_complete = |state: &&&Partition| {
            state.watermark.is_some_and(|watermark| window.end_ms <= watermark.as_millis())
        };
        window.complete_in = states.iter().filter(is_complete).count() as u64;
    }
    let named = (walks && users == Users::Named).then(|| {
        let ranked = most.into_sorted_vec().into_iter();
        ranked.map(|Reverse((crashes, start_ms, user))| named(crashes, start_ms, user)).collect()
    });
    Look { windows: windows.into_values().collect(), users: named }
}

fn opened(start_ms: i64, end_ms: i64, walks: bool) -> OpenWindow {
    let counted = walks.then_some(0);
    OpenWindow { start_ms, end_ms, users: 0, crashes: counted, above: counted, complete_in: 0 }
}

fn add(shown: &mut OpenWindow, window: &Window, threshold: u64) {
    let counts = || window.users.values();
    *shown.crashes.get_or_insert(0) += counts().sum::<u64>();
    *shown.above.get_or_insert(0) += counts().filter(|&&count| count > threshold).count() as u64;
}

/// Ordered so that the heap's greatest is the first to go. Of equal counts those of the later window stay. Names decide
/// nothing before the end: to compare them is to fetch them, and most counts are 1.
type Ranked<'a> = Reverse<(u64, i64, &'a str)>;

fn rank<'a>(most: &mut BinaryHeap<Ranked<'a>>, start_ms: i64, window: &'a Window) {
    for (user, &crashes) in &window.users {
        if most.len() < USERS_MAX {
            most.push(Reverse((crashes, start_ms, user)));
        } else if most.peek().is_some_and(|Reverse(least)| (crashes, start_ms) > (least.0, least.1)) {
            most.pop();
            most.push(Reverse((crashes, start_ms, user)));
        }
    }
}

fn named(crashes: u64, start_ms: i64, user: &str) -> UserCount {
    UserCount { user: user.to_owned(), start_ms, crashes }
}

/// How far behind the watermark crashes were when they came, since the process began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lateness([u64; BOUNDS_MS.len() + 1]);

impl Lateness {
    /// Notes the entries of a message that `state` is about to apply. What it has counted already is no news.
    pub fn observe(&mut self, state: &Partition, message: &Message<'_>) {
        let Some(watermark) = state.watermark else { return };
        for frame in &message.frames {
            let next = state.sources.get(&frame.source).map(|source| source.next);
            for entry in &frame.entries {
                if next.is_none_or(|next| entry.offset >= next) {
                    let behind_ms = watermark.millis_since(entry.time);
                    self.0[BOUNDS_MS.partition_point(|&bound| bound < behind_ms)] += 1;
                }
            }
        }
    }

    /// As the status tells it, from the least late.
    pub fn buckets(&self) -> Vec<LatenessBucket> {
        let bounds = BOUNDS_MS.into_iter().map(Some).chain([None]);
        bounds.zip(self.0).map(|(up_to_ms, records)| LatenessBucket { up_to_ms, records }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{Mode, Params};
    use crate::frame::{Entry, Frame, Header, Kind, Message};
    use crate::ids::{Epoch, InputOffset, LogOffset, SourceId, TopicId};
    use crate::time::Timestamp;

    const PARAMS: Params = Params {
        window_ms: 10_000,
        allowed_lateness_ms: 30_000,
        max_out_of_orderness_ms: 2_000,
        count_greater_than: 2,
        mode: Mode::Updates,
    };

    fn frame<'a>(kind: Kind, from: u64, mark_ms: i64, crashes: &[(i64, &'a str)]) -> Message<'a> {
        let entry = |(number, &(time_ms, user)): (usize, &(i64, &'a str))| Entry {
            offset: InputOffset(from + number as u64),
            time: Timestamp::from_millis(time_ms),
            user,
        };
        let frame = Frame {
            source: SourceId(0),
            epoch: Epoch(1),
            from: InputOffset(from),
            to: InputOffset(from + crashes.len() as u64),
            mark: Some(Timestamp::from_millis(mark_ms)),
            kind,
            entries: crashes.iter().enumerate().map(entry).collect(),
        };
        Message { header: Header { topic: TopicId::default(), sources: 1 }, frames: vec![frame] }
    }

    /// A shard that has counted these crashes and whose mark is the last of them.
    fn counted(crashes: &[(i64, &str)]) -> Partition {
        let mut state = Partition::new(PARAMS, LogOffset(0));
        let mark_ms = crashes.iter().map(|(time_ms, _)| *time_ms).max().unwrap_or_default();
        state.apply(LogOffset(0), &frame(Kind::Claim, 0, 0, &[]), &mut Vec::new());
        state.apply(LogOffset(1), &frame(Kind::Records, 0, mark_ms, crashes), &mut Vec::new());
        state
    }

    #[test]
    fn windows_are_added_up_over_shards() {
        let a = counted(&[(1_000, "ann"), (1_001, "ann"), (1_002, "ann"), (14_000, "bob")]);
        let b = counted(&[(2_000, "eve"), (9_000, "eve")]);
        let look = look(&[&a, &b], Users::Unnamed);
        let (first, second) = (&look.windows[0], &look.windows[1]);
        assert_eq!((first.start_ms, first.end_ms, first.users), (0, 10_000, 2));
        assert_eq!((first.crashes, first.above, first.complete_in), (Some(5), Some(1), 1));
        assert_eq!((second.start_ms, second.crashes, second.complete_in), (10_000, Some(1), 0));
        assert_eq!(look.users, None);
    }

    #[test]
    fn users_are_named_by_their_crashes_and_no_more_than_so_many() {
        let names: Vec<String> = (0..50).map(|number| format!("user-{number:02}")).collect();
        let crashes: Vec<(i64, &str)> = names.iter().map(|name| (1_000, name.as_str())).collect();
        let most = [(2_000, "<b>"), (2_001, "<b>"), (2_002, "ann"), (2_003, "ann"), (2_004, "ann")];
        let state = counted(&[&crashes[..], &most[..]].concat());
        let users = look(&[&state], Users::Named).users.unwrap();
        assert_eq!(users.len(), USERS_MAX);
        assert_eq!(users[0], named(3, 0, "ann"));
        assert_eq!(users[1], named(2, 0, "<b>"));
        assert!(users[2..].iter().all(|user| user.crashes == 1));
    }

    #[test]
    fn too_many_counts_are_not_walked_over() {
        let mut state = counted(&[(1_000, "ann")]);
        let window = state.windows.get_mut(&0).unwrap();
        (0..COUNTERS_MAX).for_each(|number| window.insert(&number.to_string(), 1));
        let look = look(&[&state], Users::Named);
        assert_eq!((look.windows[0].users, look.windows[0].crashes), (COUNTERS_MAX as u64 + 1, None));
        assert_eq!(look.users, None);
    }

    #[test]
    fn many_windows_leave_the_latest() {
        let crashes: Vec<(i64, &str)> = (0..100).map(|number| (number * 10, "ann")).collect();
        let mut state = Partition::new(Params { window_ms: 10, ..PARAMS }, LogOffset(0));
        state.apply(LogOffset(0), &frame(Kind::Records, 0, 990, &crashes), &mut Vec::new());
        let windows = look(&[&state], Users::Named).windows;
        assert_eq!((windows.len(), windows[WINDOWS_MAX - 1].start_ms), (WINDOWS_MAX, 990));
    }

    #[test]
    fn lateness_is_told_by_how_far_behind_the_watermark() {
        let state = counted(&[(20_000, "ann")]);
        let mut lateness = Lateness::default();
        // The watermark is 18,000. The first entry was counted already.
        let message =
            frame(Kind::Records, 0, 30_000, &[(1, "x"), (18_000, "a"), (17_999, "b"), (13_000, "c")]);
        lateness.observe(&state, &message);
        let buckets = lateness.buckets();
        assert_eq!(buckets.iter().map(|bucket| bucket.records).sum::<u64>(), 3);
        let records = |up_to_ms| buckets.iter().find(|b| b.up_to_ms == up_to_ms).unwrap().records;
        assert_eq!(
            (records(Some(0)), records(Some(1_000)), records(Some(5_000)), records(None)),
            (1, 1, 1, 0)
        );
    }
}
