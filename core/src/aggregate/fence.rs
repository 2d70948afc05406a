//! Where a rebuild must not begin.
//!
//! Responsible for keeping `o_low` out of the stretches of the log in which a rebuild would take a refused frame for a
//! source's first one. Must never move `o_low` back behind one reported before.
//!
//! A rebuild that begins at `o_low` knows no source; it believes the first frame that it meets of each. If that frame
//! was refused when it was live (a zombie's, or one behind a gap), or begins below what was counted before (then the
//! frames that follow in the log may begin beyond its end, and would be refused; and what it repeats may have been given
//! up as lost), the rebuild would differ. So for every such frame at `r` whose source's `next` was said at `a`, `o_low`
//! may lie at or below `a` or above `r`, never between. The first frame that a rebuild meets of a source is then one
//! that began exactly where the source was counted to, or moved `next` by itself; from there on both agree.
//! `o_low` was at most `a` when the frame came, because it never lies above where a source's `next` was said, so lowering
//! it to `a` is no step back.
//!
//! Bound: one entry for each change between frames of the one kind and the other of a source within the retained log; a
//! zombie writes for no longer than its producer lives, a repeat ends where the last scanner had come to, and a source
//! behind a gap extends one entry.

use std::collections::BTreeMap;

use crate::ids::{LogOffset, SourceId};

/// For each source, the stretches `(said, forbidden]`, in their order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fences {
    by_source: BTreeMap<SourceId, Vec<(LogOffset, LogOffset)>>,
}

impl Fences {
    /// Notes that a rebuild must not meet the frame at `forbidden` before the one at `said`, which said the source's
    /// `next`.
    pub fn forbid(&mut self, source: SourceId, said: LogOffset, forbidden: LogOffset) {
        let fences = self.by_source.entry(source).or_default();
        match fences.last_mut() {
            Some(last) if last.0 == said => last.1 = forbidden,
            _ => fences.push((said, forbidden)),
        }
    }

    /// The highest allowed offset at or below `offset`.
    pub fn lower(&self, offset: LogOffset) -> LogOffset {
        let mut lowest = offset;
        // Lowering for one source may enter a stretch of another; it ends because it only goes down.
        while let Some((said, _)) = self.all().find(|&(said, forbidden)| said < lowest && lowest <= forbidden)
        {
            lowest = said;
        }
        lowest
    }

    /// Forgets the stretches that end below `offset`.
    pub fn forget_below(&mut self, offset: LogOffset) {
        self.by_source.retain(|_, fences| {
            fences.retain(|&(_, forbidden)| forbidden >= offset);
            !fences.is_empty()
        });
    }

    /// All stretches with their sources, for a snapshot.
    pub fn iter(&self) -> impl Iterator<Item = (SourceId, LogOffset, LogOffset)> + '_ {
        self.by_source.iter().flat_map(|(&source, fences)| {
            fences.iter().map(move |&(said, forbidden)| (source, said, forbidden))
        })
    }

    fn all(&self) -> impl Iterator<Item = (LogOffset, LogOffset)> + '_ {
        self.by_source.values().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fences(stretches: &[(u32, u64, u64)]) -> Fences {
        let mut fences = Fences::default();
        for &(source, said, forbidden) in stretches {
            fences.forbid(SourceId(source), LogOffset(said), LogOffset(forbidden));
        }
        fences
    }

    #[test]
    fn an_offset_between_said_and_forbidden_is_lowered_to_the_said() {
        let fences = fences(&[(0, 10, 12), (0, 10, 15), (0, 20, 22)]);
        let lowered: Vec<u64> =
            [9, 10, 11, 15, 16, 20, 22, 23].map(|at| fences.lower(LogOffset(at)).0).to_vec();
        assert_eq!(lowered, [9, 10, 10, 10, 16, 20, 20, 23]);
    }

    #[test]
    fn lowering_for_one_source_heeds_the_others() {
        assert_eq!(fences(&[(0, 10, 15), (1, 5, 10)]).lower(LogOffset(12)), LogOffset(5));
    }

    #[test]
    fn what_no_rebuild_can_meet_is_forgotten() {
        let mut fences = fences(&[(0, 10, 15), (1, 20, 25)]);
        fences.forget_below(LogOffset(16));
        assert_eq!(fences.iter().count(), 1);
    }
}
