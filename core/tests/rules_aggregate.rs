//! The protocol's rules for a shard's state machine, each in a test of its name: chain and epochs (2, 3), what a commit
//! must say (8), results as a function of state (9), windows and lateness. Time has its own file.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support {
    pub mod log;
}

use crashmonitor_core::aggregate::{Effect, Mode};
use crashmonitor_core::ids::{InputOffset, LogOffset, SourceId};
use crashmonitor_core::snapshot;
use support::log::*;

fn gap(source: u32, from: u64, to: u64) -> Effect {
    let (missing_from, missing_to) = (InputOffset(from), InputOffset(to));
    Effect::Gap { source: SourceId(source), missing_from, missing_to }
}

fn loss(source: u32, from: u64, to: u64) -> Effect {
    Effect::DataLoss { source: SourceId(source), from: InputOffset(from), to: InputOffset(to) }
}

fn stale(source: u32) -> Effect {
    Effect::Stale { source: SourceId(source) }
}

// Rule 2: epochs.

#[test]
fn rule_02_a_frame_of_an_older_epoch_is_ignored() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(claim(0, 2, 0));
    let before = log.state.clone();
    log.say(records(0, 1, 0..3).crashes(1, "u").mark(50));
    assert_eq!(log.effects(), [stale(0)]);
    assert_eq!(log.state.sources(), before.sources());
    assert_eq!((log.state.open_pairs(), log.watermark()), (0, None));
}

#[test]
fn rule_02_a_claim_raises_the_epoch_for_good() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(claim(0, 3, 0)).say(claim(0, 2, 0)).say(records(0, 2, 0..1));
    assert_eq!(log.effects(), [stale(0), stale(0)]);
}

#[test]
fn rule_02_a_claim_with_a_known_epoch_is_a_zombies() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..10)).say(claim(0, 1, 20));
    assert_eq!((log.effects(), log.next(0)), (vec![stale(0)], 10));
}

#[test]
fn rule_02_a_frame_of_a_newer_epoch_without_its_claim_is_a_gap() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 2, 0..3).crashes(1, "u"));
    assert_eq!((log.effects(), log.next(0), log.state.open_pairs()), (vec![gap(0, 0, 0)], 0, 0));
}

// Rule 3: the chain.

#[test]
fn rule_03_entries_below_next_are_repeats() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..3).crashes(1, "u"));
    log.say(claim(0, 2, 1)).say(records(0, 2, 1..5).crashes(1, "u").mark(12));
    assert_eq!((log.results(), log.next(0)), (vec![result(0, "u", 5)], 5));
}

#[test]
fn rule_03_a_frame_repeated_as_it_is_changes_nothing() {
    let mut log = Log::claimed(Mode::Updates, 1);
    let frame = records(0, 1, 0..3).crashes(1, "u").mark(12);
    log.say(frame.clone()).say(frame.clone()).say_all(&[frame.clone(), frame]);
    assert_eq!(log.results(), [result(0, "u", 3)]);
}

#[test]
fn rule_03_a_gap_is_refused_and_reported() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..10)).say(records(0, 1, 12..20).crashes(1, "u").mark(50));
    assert_eq!(log.effects(), [gap(0, 10, 12)]);
    assert_eq!((log.next(0), log.state.open_pairs(), log.watermark()), (10, 0, None));
}

#[test]
fn rule_03_a_claim_of_a_new_epoch_ends_a_gap() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..10)).say(records(0, 1, 12..20)).effects();
    log.say(claim(0, 2, 8)).say(records(0, 2, 8..14).crashes(1, "u").mark(12));
    assert_eq!((log.effects().len(), log.next(0)), (1, 14));
    assert_eq!(log.state.open_pairs(), 1);
}

#[test]
fn rule_03_a_claim_beyond_next_is_a_counted_loss() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(claim(0, 2, 7));
    assert_eq!((log.effects(), log.next(0)), (vec![loss(0, 0, 7)], 7));
}

#[test]
fn rule_03_a_lost_frame_moves_next_and_is_a_counted_loss() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..3)).say(lost(0, 1, 3..9)).say(records(0, 1, 9..12));
    assert_eq!((log.effects(), log.next(0)), (vec![loss(0, 3, 9)], 12));
}

#[test]
fn rule_03_a_lost_frame_behind_a_gap_is_refused_too() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(lost(0, 1, 3..9));
    assert_eq!((log.effects(), log.next(0)), (vec![gap(0, 0, 3)], 0));
}

#[test]
fn rule_03_of_a_repeated_loss_only_the_new_part_counts() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(lost(0, 1, 0..5)).say(claim(0, 2, 0)).say(lost(0, 2, 0..8));
    assert_eq!(log.effects(), [loss(0, 0, 5), loss(0, 5, 8)]);
}

#[test]
fn rule_03_only_a_claim_for_another_topic_moves_next_back() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..100)).say(claim(0, 2, 0));
    assert_eq!(log.next(0), 100);
    log.topic = INPUT_AGAIN;
    log.say(claim(0, 3, 0)).say(records(0, 3, 0..3).crashes(1, "u").mark(12));
    assert_eq!((log.next(0), log.results()), (3, vec![result(0, "u", 3)]));
}

#[test]
fn rule_03_a_recreated_topic_with_fewer_partitions_is_not_held_by_those_gone() {
    let mut log = Log::claimed(Mode::Updates, 2);
    log.say(records(1, 1, 0..5).mark(5));
    (log.topic, log.sources) = (INPUT_AGAIN, 1);
    log.say(claim(0, 2, 0)).say(records(0, 2, 0..5).mark(40));
    assert_eq!(log.watermark(), Some(38));
}

#[test]
fn rule_03_a_log_that_does_not_begin_with_a_claim_is_reported() {
    let mut log = Log::new(Mode::Updates, 1);
    log.say(records(0, 1, 4..5));
    assert_eq!(log.effects(), [gap(0, 0, 4)]);
}

// Rule 8: what a commit must say.

#[test]
fn rule_08_o_low_waits_for_the_last_frame_of_every_source() {
    let mut log = Log::claimed(Mode::Updates, 2);
    log.say(records(0, 1, 0..1).mark(1)).say(records(0, 1, 1..2).mark(2));
    assert_eq!(log.state.o_low(), LogOffset(1), "the claim of source 1 is all that is known of it");
    log.say(records(1, 1, 0..1).mark(2));
    assert_eq!(log.state.o_low(), LogOffset(3));
}

#[test]
fn rule_08_o_low_waits_for_the_oldest_open_window() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..1).crash(0, 1, "u").mark(1));
    (1..40).for_each(|n| drop(log.say(records(0, 1, n..n + 1).mark(n.cast_signed())).effects()));
    assert_eq!(log.state.o_low(), LogOffset(1));
    log.say(records(0, 1, 40..41).mark(42));
    assert_eq!((log.state.open_windows(), log.state.o_low()), (0, LogOffset(41)));
}

#[test]
fn rule_08_o_low_waits_for_the_frame_that_said_the_mark() {
    let mut log = Log::claimed(Mode::Updates, 1);
    // The second owner's clock is behind the first one's and holds its mark lower.
    log.say(records(0, 1, 0..9).mark(9)).say(claim(0, 2, 3).mark(3));
    log.say(records(0, 2, 3..12).mark(8)).say(records(0, 2, 12..13).mark(8));
    assert_eq!(log.state.o_low(), LogOffset(1));
    let commit = log.commit();
    assert_eq!(log.rebuilt(&commit), log.state);
}

#[test]
fn rule_08_o_low_keeps_away_from_a_zombies_frame() {
    let mut log = Log::claimed(Mode::Updates, 2);
    log.say(records(0, 1, 0..10)).say(claim(0, 2, 10)); // 2, 3
    log.say(records(0, 1, 10..90).crash(20, 1, "zombie")); // 4: refused
    log.say(records(1, 1, 0..5).crash(0, 1, "u")); // 5
    assert_eq!(log.state.o_low(), LogOffset(3), "the claim of source 0");
    log.say(records(0, 2, 10..11)).say(records(1, 1, 5..6)); // 6, 7: were it not for the window, 6
    assert_eq!(log.state.o_low(), LogOffset(5), "behind the zombie's frame");
    let commit = log.commit();
    assert_eq!(log.rebuilt(&commit), log.state);
}

#[test]
fn rule_08_o_low_between_a_frame_and_a_zombies_later_one_is_lowered() {
    let mut log = Log::claimed(Mode::Updates, 2);
    log.say(claim(0, 2, 0)); // 2
    log.say(records(1, 1, 0..5).crash(0, 1, "u")); // 3
    log.say(records(0, 1, 0..90).crash(20, 1, "zombie")); // 4: refused
    log.say(records(0, 2, 0..5)); // 5
    log.say(records(1, 1, 5..6)); // 6
    assert_eq!(log.state.o_low(), LogOffset(2), "a rebuild from 3 would believe the zombie at 4");
    let commit = log.commit();
    assert_eq!(log.rebuilt(&commit), log.state);
}

#[test]
fn rule_08_o_low_keeps_away_from_a_repeat() {
    let mut log = Log::claimed(Mode::Updates, 2);
    let first = records(0, 1, 0..10);
    log.say(first.clone()).say(records(0, 1, 10..20).mark(1)); // 2, 3
    log.say(records(1, 1, 0..1).crash(0, 5, "v")); // 4
    log.say(first); // 5: a repeat of 2
    log.say(records(0, 1, 20..30).crashes(5, "w").mark(1)); // 6
    assert_eq!(log.state.o_low(), LogOffset(3), "a rebuild from 4 would refuse 6 as a gap behind 5");
    let commit = log.commit();
    assert_eq!(log.rebuilt(&commit), log.state);
}

#[test]
fn rule_08_what_was_given_up_as_lost_stays_lost_in_a_rebuild() {
    let mut log = Log::claimed(Mode::Updates, 2);
    log.say(lost(0, 1, 0..2)).say(claim(0, 2, 1)); // 2, 3
    log.say(records(0, 2, 1..4).crash(1, 1, "lost").crash(2, 1, "u")).say(records(1, 1, 0..1)); // 4, 5
    assert_eq!(log.state.o_low(), LogOffset(2), "a rebuild from 4 would count what is lost");
    let commit = log.commit();
    assert_eq!(log.rebuilt(&commit), log.state);
}

#[test]
fn rule_08_o_low_keeps_away_from_frames_behind_a_gap() {
    let mut log = Log::claimed(Mode::Updates, 2);
    log.say(records(1, 1, 0..5).crash(0, 1, "u")); // 2
    log.say(records(0, 1, 5..9).crash(5, 1, "u")); // 3: refused
    log.say(claim(0, 2, 0)).say(records(1, 1, 5..6)); // 4, 5
    assert_eq!(log.state.o_low(), LogOffset(0));
    let commit = log.commit();
    assert_eq!(log.rebuilt(&commit), log.state);
}

#[test]
fn rule_08_a_rebuild_forgets_the_partitions_that_a_recreated_topic_lacks() {
    let mut log = Log::claimed(Mode::Updates, 3);
    log.say(records(0, 1, 0..1).mark(100)); // 3
    log.say(records(2, 1, 0..1).crash(0, 100, "u").mark(100)); // 4: its window keeps o_low here
    log.say(records(1, 1, 0..1).mark(100)); // 5
    (log.topic, log.sources) = (INPUT_AGAIN, 1);
    log.say(claim(0, 2, 0).mark(100)); // 6: the first frame of source 0 that a rebuild meets
    let commit = log.commit();
    assert_eq!(commit.o_low, LogOffset(4));
    assert_eq!(log.rebuilt(&commit), log.state);
}

#[test]
fn rule_08_a_muted_replay_has_no_effects() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..3).crashes(1, "u").mark(12));
    log.say(records(0, 1, 9..10)).say(records(0, 0, 0..1)).say(lost(0, 1, 3..4));
    log.say(records(0, 1, 4..8).crashes(1, "u").mark(60)).say(records(0, 1, 8..9).crashes(1, "u"));
    assert_eq!(log.effects().len(), 6);
    let commit = log.commit();
    // `rebuilt` asserts it.
    assert_eq!(log.rebuilt(&commit), log.state);
}

#[test]
fn rule_08_recovery_sets_exactly_the_committed_watermark() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..3).crashes(1, "u").mark(5));
    let (commit, snapshot) = (log.commit(), snapshot::encode(&identity(), &log.state));
    // A disorder that has since been set lower would give a higher watermark from the same marks.
    log.params.max_out_of_orderness_ms = 0;
    for state in [log.rebuilt(&commit), log.restored(&snapshot, &commit)] {
        assert_eq!((state.watermark(), state.closed_through()), (Some(at(3)), Some(at(-27))));
    }
}

#[test]
fn rule_08_windows_complete_at_the_commit_are_not_written_again() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..3).crashes(1, "u").mark(12));
    assert_eq!(log.results(), [result(0, "u", 3)]);
    let commit = log.commit();
    log.recover(&commit).say(records(0, 1, 3..4).mark(13)).say(records(0, 1, 4..5).mark(30));
    assert_eq!(log.results(), []);
}

#[test]
fn rule_08_windows_incomplete_at_the_commit_are_written_after_it() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..3).crashes(1, "u").mark(11));
    let commit = log.commit();
    log.recover(&commit).say(records(0, 1, 3..4).mark(12));
    assert_eq!(log.results(), [result(0, "u", 3)]);
}

#[test]
fn rule_08_a_replay_judges_lateness_as_it_was_judged() {
    let mut log = Log::claimed(Mode::Final, 1);
    log.say(records(0, 1, 0..3).crashes(1, "u").mark(42));
    log.say(records(0, 1, 3..4).crash(3, 2, "late"));
    let commit = log.commit();
    assert_eq!((log.late(), log.state.open_pairs(), log.rebuilt(&commit).open_pairs()), (1, 0, 0));
}

// Rule 9: results are a function of state.

#[test]
fn rule_09_updates_write_each_larger_count_once() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..3).crashes(1, "u").mark(12));
    log.say(records(0, 1, 3..5).crashes(2, "u")).say(records(0, 1, 5..6).crashes(2, "u"));
    assert_eq!(log.results(), [result(0, "u", 3), result(0, "u", 5), result(0, "u", 6)]);
    log.say(records(0, 1, 6..7).mark(60));
    assert_eq!(log.results(), []);
}

#[test]
fn rule_09_updates_write_a_user_that_passes_the_threshold_late() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..2).crashes(1, "u").mark(12));
    assert_eq!(log.results(), []);
    log.say(records(0, 1, 2..3).crashes(1, "u"));
    assert_eq!(log.results(), [result(0, "u", 3)]);
}

#[test]
fn rule_09_final_writes_once_at_closing() {
    let mut log = Log::claimed(Mode::Final, 1);
    log.say(records(0, 1, 0..3).crashes(1, "u").mark(12));
    log.say(records(0, 1, 3..5).crashes(2, "u").mark(41));
    assert_eq!(log.results(), []);
    log.say(records(0, 1, 5..6).mark(42)).say(records(0, 1, 6..7).mark(90));
    assert_eq!(log.results(), [result(0, "u", 5)]);
}

#[test]
fn rule_09_results_come_in_the_order_of_windows_and_users() {
    let mut log = Log::claimed(Mode::Updates, 1);
    let frame = ["c", "a", "b"].iter().zip(0_u64..).fold(records(0, 1, 0..12), |said, (user, n)| {
        (n * 4..n * 4 + 3).fold(said, |said, offset| said.crash(offset, 1, user)).crash(n * 4 + 3, 11, "z")
    });
    log.say(frame.mark(50));
    let results = log.results();
    assert_eq!(results, [result(0, "a", 3), result(0, "b", 3), result(0, "c", 3), result(10, "z", 3)]);
}

// Windows, threshold, lateness.

#[test]
fn window_holds_its_start_and_not_its_end() {
    let mut log = Log::claimed(Mode::Final, 1);
    let frame = records(0, 1, 0..8).crash(0, 10, "u").crash(1, 10, "u");
    let last = at(20).plus_millis(-1);
    log.say(frame.crash_at(2, last, "u").crash(3, 20, "u").crash_at(4, at(10).plus_millis(-1), "u"));
    assert_eq!(log.state.open_windows(), 3);
    log.say(records(0, 1, 8..9).mark(100));
    assert_eq!(log.results(), [result(10, "u", 3)]);
}

#[test]
fn window_threshold_three_yes_two_no() {
    for mode in [Mode::Updates, Mode::Final] {
        let mut log = Log::claimed(mode, 1);
        log.say(records(0, 1, 0..3).crashes(1, "three")).say(records(0, 1, 3..5).crashes(1, "two").mark(90));
        assert_eq!(log.results(), [result(0, "three", 3)]);
    }
}

#[test]
fn window_completes_when_the_watermark_reaches_its_end() {
    let mut log = Log::claimed(Mode::Updates, 1);
    let mut frame = records(0, 1, 0..3).crashes(1, "u");
    frame.mark = Some(at(12).plus_millis(-1));
    log.say(frame);
    assert_eq!(log.results(), []);
    log.say(records(0, 1, 3..4).mark(12));
    assert_eq!(log.results(), [result(0, "u", 3)]);
}

#[test]
fn window_counts_what_is_thirty_seconds_late_and_drops_what_is_later() {
    let mut log = Log::claimed(Mode::Updates, 1);
    let mut frame = records(0, 1, 0..3).crashes(1, "u");
    frame.mark = Some(at(42).plus_millis(-1));
    log.say(frame);
    assert_eq!(log.results(), [result(0, "u", 3)]);
    log.say(records(0, 1, 3..4).crashes(9, "u").mark(42));
    assert_eq!(log.results(), [result(0, "u", 4)], "just under thirty seconds after completion");
    log.say(records(0, 1, 4..5).crashes(9, "u"));
    let [Effect::Late(late)] = &log.effects()[..] else { panic!("late and nothing else") };
    assert_eq!((late.offset, late.time, late.closed_through), (InputOffset(4), at(9), at(10)));
}

#[test]
fn window_closed_and_late_are_one_predicate() {
    for mode in [Mode::Updates, Mode::Final] {
        let mut log = Log::claimed(mode, 1);
        log.say(records(0, 1, 0..1).crashes(1, "u").crash(0, 1, "u").mark(1));
        log.say(records(0, 1, 1..2).mark(42));
        assert_eq!((log.state.open_windows(), log.state.is_closed(10_000)), (0, true));
        log.say(records(0, 1, 2..4).crash(2, 9, "u").crash(3, 10, "u"));
        assert_eq!((log.late(), log.state.open_windows()), (1, 1));
    }
}

#[test]
fn window_of_negative_times_is_one_window() {
    let mut log = Log::claimed(Mode::Final, 1);
    log.say(records(0, 1, 0..3).crash(0, -1, "u").crash(1, -10, "u").crash(2, -5, "u"));
    assert_eq!(log.state.open_windows(), 1);
}
