//! How far event time has come in one shard.
//!
//! Responsible for the watermark and for who holds it. Must never move it back, nor past what a source that is neither
//! finished nor idle may still say.
//!
//! While any source is not idle, the watermark is the minimum over all sources of their effective mark less
//! `maxOutOfOrderness`, where an idle source's effective mark is the later of its mark and the wall clock up to which it
//! found nothing. One partition's progress never makes another partition's records late.
//!
//! When all are idle, that minimum would be the present, and a paused replay of last year's records would lose its open
//! windows at once. So the watermark then goes on from where it was, by as much as the wall clock of the least advanced
//! source has moved since the last became idle ([`Anchor`]), and stops at what closes the last window that holds a count.
//! It never passes the minimum itself: a source that once was idle, and whose scanner has died since, holds.

use super::Partition;
use crate::ids::SourceId;
use crate::time::Timestamp;

/// Where a stream stood when the last of its sources became idle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Anchor {
    /// The latest wall clock up to which a source had then found nothing.
    pub wall: Timestamp,
    /// The watermark then.
    pub watermark: Timestamp,
}

/// Who keeps the watermark from moving, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hold {
    /// The source; None when no source of the input has spoken.
    pub source: Option<SourceId>,
    /// Why.
    pub reason: HoldReason,
}

/// Why a source holds the watermark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HoldReason {
    /// It has not spoken: no worker has claimed it yet.
    Unassigned,
    /// It has records, and its mark is the lowest.
    Lagging,
    /// Every source is idle; the stream's end is reached.
    Idle,
    /// It was claimed and has neither had a record nor been found idle.
    Silent,
}

/// Moves the watermark of `partition` as far as its sources allow.
pub(super) fn advance(partition: &mut Partition) {
    if !all_have_spoken(partition) {
        return;
    }
    let target = if partition.sources.values().all(|source| source.idle_until.is_some()) {
        idle_target(partition)
    } else {
        partition.anchor = None;
        lowest_effective(partition)
    };
    partition.watermark = partition.watermark.max(target);
}

impl Partition {
    /// Who keeps the watermark from moving; None before anything was heard of the input.
    pub fn held_by(&self) -> Option<Hold> {
        if self.sources.is_empty() {
            return None;
        }
        if let Some(silent) = (0..self.source_count).map(SourceId).find(|id| !self.sources.contains_key(id)) {
            return Some(Hold { source: Some(silent), reason: HoldReason::Unassigned });
        }
        let (&id, source) = self.sources.iter().min_by_key(|(_, source)| effective(source))?;
        let reason = match (source.idle_until, source.mark) {
            (Some(_), _) => HoldReason::Idle,
            (None, Some(_)) => HoldReason::Lagging,
            (None, None) => HoldReason::Silent,
        };
        Some(Hold { source: Some(id), reason })
    }
}

fn all_have_spoken(partition: &Partition) -> bool {
    // Every source's number is below the count, so as many as that are all.
    !partition.sources.is_empty() && partition.sources.len() == partition.source_count as usize
}

/// The later of a source's mark and the wall clock up to which it was found empty; None holds.
fn effective(source: &super::Source) -> Option<Timestamp> {
    source.mark.max(source.idle_until)
}

fn lowest_effective(partition: &Partition) -> Option<Timestamp> {
    // None is less than any Some: a source that has said nothing yet holds.
    let lowest = partition.sources.values().map(effective).min().flatten();
    lowest.map(|mark| mark.plus_millis(-partition.params.max_out_of_orderness_ms))
}

fn idle_target(partition: &mut Partition) -> Option<Timestamp> {
    let walls = || partition.sources.values().filter_map(|source| source.idle_until);
    let (earliest, latest) = (walls().min()?, walls().max()?);
    // A source whose scanner died holds here too, at the last instant up to which it was found empty.
    let lowest = lowest_effective(partition)?;
    let anchor = match partition.anchor {
        Some(anchor) => anchor,
        None => {
            // A source that never had a record does not hold by its mark once it is idle.
            let marks = partition.sources.values().filter_map(|source| source.mark);
            let from_marks = marks.min().map(|m| m.plus_millis(-partition.params.max_out_of_orderness_ms));
            let watermark = partition.watermark.max(from_marks.min(Some(lowest)))?;
            *partition.anchor.insert(Anchor { wall: latest, watermark })
        }
    };
    let passed = earliest.millis_since(anchor.wall).max(0);
    let last_end = partition.windows.keys().next_back().map(|start| start + partition.params.window_ms);
    let closes_last = last_end.map(|end| Timestamp::from_millis(end + partition.params.allowed_lateness_ms));
    // Without a window there is nothing to close: the watermark stays where the marks had brought it.
    let limit = closes_last.unwrap_or(anchor.watermark).max(anchor.watermark);
    Some(anchor.watermark.plus_millis(passed).min(limit).min(lowest))
}
