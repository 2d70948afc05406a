//! Partitions that a group has given to nobody.
//!
//! Responsible for noticing them, and for saying which member leaves the group and joins it again, so that the group assigns
//! everything anew. Must never act on a picture that may be over in a moment: in a cooperative rebalance a partition belongs
//! to nobody between the member that gives it up and the one that gets it.
//!
//! How it comes about: a rebalance takes a partition from a static member, which dies before it has joined again. Started
//! again under its name it has its seat back, without a rebalance, and with it what it was to keep. The partition belongs
//! to nobody until the next rebalance, and nothing would bring one about.

use std::collections::BTreeSet;

/// How long a picture must stay the same before a member acts. Far more than a member takes to give something up, which is
/// a transaction's time at most; a member that acts needlessly costs a rebalance.
pub const PATIENCE_MS: i64 = 20_000;

/// A member of a group in which no rebalance is under way.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Member {
    /// What it calls itself; no two members have the same.
    pub name: String,
    /// What it was given.
    pub partitions: BTreeSet<u32>,
}

/// What to do about partitions that nobody has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remedy {
    /// The member that is to join anew.
    pub member: String,
    /// The partitions.
    pub orphans: BTreeSet<u32>,
}

/// One group, as one worker has seen it so far.
#[derive(Default, Debug)]
pub struct Watch {
    /// The members, and since when they and what they have were the same, on the steady clock.
    picture: Option<(Vec<Member>, i64)>,
}

impl Watch {
    /// Takes in a look at the group: its members, or None while it rebalances or can't be seen. `is_ours` says of which
    /// members this worker may dispose.
    ///
    /// The member that has least acts first, for it costs least; each further one waits so much longer, should those before
    /// it not be there to act. Who acts has the patience of the beginning again: joining anew takes a while.
    pub fn look(
        &mut self,
        members: Option<Vec<Member>>,
        partitions: u32,
        is_ours: impl Fn(&str) -> bool,
        now_ms: i64,
    ) -> Option<Remedy> {
        let Some(mut members) = members.filter(|members| !members.is_empty()) else {
            self.picture = None;
            return None;
        };
        members.sort_by(|a, b| (a.partitions.len(), &a.name).cmp(&(b.partitions.len(), &b.name)));
        let since_ms = match &self.picture {
            Some((seen, since_ms)) if *seen == members => *since_ms,
            _ => now_ms,
        };
        let given: BTreeSet<u32> =
            members.iter().flat_map(|member| member.partitions.iter().copied()).collect();
        let orphans: BTreeSet<u32> = (0..partitions).filter(|partition| !given.contains(partition)).collect();
        let waited_ms = now_ms.saturating_sub(since_ms);
        let turn = (1..).map(|rank: i64| rank.saturating_mul(PATIENCE_MS)).zip(&members);
        let acting = turn.filter(|(at_ms, _)| waited_ms >= *at_ms).map(|(_, member)| &member.name);
        let acting = acting.last().filter(|name| !orphans.is_empty() && is_ours(name)).cloned();
        let since_ms = if acting.is_some() { now_ms } else { since_ms };
        self.picture = Some((members, since_ms));
        acting.map(|member| Remedy { member, orphans })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, partitions: &[u32]) -> Member {
        Member { name: name.to_owned(), partitions: partitions.iter().copied().collect() }
    }

    fn look(watch: &mut Watch, members: &[Member], ours: &str, now_ms: i64) -> Option<String> {
        let remedy = watch.look(Some(members.to_vec()), 4, |name| name == ours, now_ms);
        remedy.map(|remedy| {
            assert_eq!(remedy.member, ours);
            format!("{:?}", remedy.orphans)
        })
    }

    #[test]
    fn whoever_has_least_joins_anew_when_partitions_stay_without_owner() {
        let members = [member("a", &[2, 3]), member("b", &[])];
        let (mut a, mut b) = (Watch::default(), Watch::default());
        for now_ms in [0, PATIENCE_MS - 1] {
            assert_eq!(look(&mut b, &members, "b", now_ms), None, "it may be over in a moment");
        }
        assert_eq!(look(&mut b, &members, "b", PATIENCE_MS).as_deref(), Some("{0, 1}"));
        assert_eq!(look(&mut b, &members, "b", PATIENCE_MS + 1), None, "it is about it");
        assert_eq!(look(&mut b, &members, "b", 2 * PATIENCE_MS).as_deref(), Some("{0, 1}"));
        assert_eq!(look(&mut a, &members, "a", 0), None);
        assert_eq!(look(&mut a, &members, "a", PATIENCE_MS), None, "that is the other one's affair");
        assert_eq!(look(&mut a, &members, "a", 2 * PATIENCE_MS).as_deref(), Some("{0, 1}"));
    }

    #[test]
    fn a_group_that_moves_or_lacks_nothing_is_left_alone() {
        let mut watch = Watch::default();
        let (before, after) = ([member("b", &[0, 1, 2])], [member("b", &[0, 1])]);
        assert_eq!(look(&mut watch, &before, "b", 0), None);
        assert_eq!(look(&mut watch, &after, "b", PATIENCE_MS), None, "it has just given something up");
        assert_eq!(watch.look(None, 4, |_| true, PATIENCE_MS + 1), None);
        assert_eq!(look(&mut watch, &after, "b", 2 * PATIENCE_MS), None, "a rebalance lies between");
        let full = [member("a", &[0, 3]), member("b", &[1, 2]), member("c", &[])];
        for now_ms in [0, PATIENCE_MS, 9 * PATIENCE_MS] {
            assert_eq!(
                look(&mut watch, &full, "c", now_ms),
                None,
                "there may be more members than partitions"
            );
        }
        assert_eq!(watch.look(Some(Vec::new()), 4, |_| true, 99 * PATIENCE_MS), None);
    }
}
