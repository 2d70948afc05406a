//! The rules of event time, each in a test of its name: what a scanner says of time, how far a shard's watermark goes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support {
    pub mod log;
    pub mod scanner;
}

use crashmonitor_core::aggregate::{Effect, HoldReason, Mode, Partition};
use crashmonitor_core::frame::Kind;
use crashmonitor_core::ids::SourceId;
use crashmonitor_core::record::Malformed;
use crashmonitor_core::scan::Scanned;
use support::log::*;
use support::scanner::*;

// The watermark of a shard.

#[test]
fn time_source_watermark_is_its_mark_less_the_disorder() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..1).mark(10));
    assert_eq!(log.watermark(), Some(8));
}

#[test]
fn time_minimum_not_maximum() {
    let mut log = Log::claimed(Mode::Updates, 2);
    log.say(records(0, 1, 0..1).mark(1_000)).say(records(1, 1, 0..3).crashes(1, "u").mark(12));
    assert_eq!(log.watermark(), Some(10));
    log.say(records(1, 1, 3..4).crash(3, 1, "u"));
    assert_eq!(log.results(), [result(0, "u", 3), result(0, "u", 4)], "nobody is late");
}

#[test]
fn time_holds_until_every_partition_has_spoken() {
    let mut log = Log::new(Mode::Updates, 3);
    log.say(claim(0, 1, 0)).say(claim(1, 1, 0)).say(records(0, 1, 0..1).mark(50));
    log.say(records(1, 1, 0..1).mark(50));
    assert_eq!(log.watermark(), None);
    log.say(claim(2, 1, 0));
    assert_eq!(log.watermark(), None, "a claim alone says nothing of time");
    log.say(records(2, 1, 0..1).mark(40));
    assert_eq!(log.watermark(), Some(38));
}

#[test]
fn time_never_goes_back() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..1).mark(50)).say(records(0, 1, 1..2).mark(20)).say(claim(0, 2, 0).mark(10));
    assert_eq!(log.watermark(), Some(48));
}

#[test]
fn time_never_goes_back_across_a_restart() {
    let mut log = Log::claimed(Mode::Updates, 2);
    log.say(records(0, 1, 0..1).mark(50)).say(records(1, 1, 0..1).mark(50));
    (log.sources, log.params.max_out_of_orderness_ms) = (3, 9_000);
    log.say(claim(2, 1, 0));
    let commit = log.commit();
    log.recover(&commit).say(records(2, 1, 0..1).mark(5));
    assert_eq!((log.watermark(), log.state.closed_through()), (Some(48), Some(at(18))));
}

#[test]
fn time_partitions_added_hold_and_join_without_regressing() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..1).mark(50));
    log.sources = 2;
    log.say(records(0, 1, 1..2).mark(60));
    assert_eq!(log.watermark(), Some(48), "announced, so it holds");
    log.sources = 1;
    log.say(records(0, 1, 2..3).mark(70));
    assert_eq!(log.watermark(), Some(68), "the source that announced it took it back");
    log.sources = 2;
    log.say(claim(1, 1, 0)).say(records(1, 1, 0..1).mark(30)).say(records(0, 1, 3..4).mark(90));
    assert_eq!(log.watermark(), Some(68));
    log.say(records(1, 1, 1..2).mark(80));
    assert_eq!(log.watermark(), Some(78));
}

#[test]
fn time_a_source_that_has_not_seen_new_partitions_does_not_hide_them() {
    let mut log = Log::claimed(Mode::Updates, 2);
    log.sources = 3;
    log.say(records(0, 1, 0..1).mark(50));
    log.sources = 2;
    log.say(records(1, 1, 0..1).mark(50));
    assert_eq!(log.watermark(), None);
}

#[test]
fn time_judged_against_the_watermark_before_its_frame() {
    for mode in [Mode::Updates, Mode::Final] {
        let mut log = Log::claimed(mode, 1);
        log.say(records(0, 1, 0..1).mark(1));
        log.say(records(0, 1, 1..4).crashes(1, "u").mark(500));
        assert_eq!(log.results(), [result(0, "u", 3)]);
    }
}

#[test]
fn time_allowed_lateness_may_grow() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..1).mark(42));
    let commit = log.commit();
    log.params.allowed_lateness_ms = 60_000;
    log.recover(&commit).say(records(0, 1, 1..3).crash(1, 9, "u").crash(2, 10, "u").mark(50));
    assert_eq!((log.late(), log.state.closed_through()), (1, Some(at(10))), "closed stays closed");
}

#[test]
fn time_allowed_lateness_may_shrink() {
    let mut log = Log::claimed(Mode::Final, 1);
    log.say(records(0, 1, 0..3).crashes(1, "u").mark(20));
    let commit = log.commit();
    log.params.allowed_lateness_ms = 5_000;
    log.recover(&commit).say(records(0, 1, 3..4).mark(21));
    assert_eq!(log.results(), [result(0, "u", 3)]);
}

#[test]
fn time_allowed_lateness_may_shrink_on_a_quiet_stream() {
    let mut log = Log::claimed(Mode::Final, 1);
    log.say(records(0, 1, 0..3).crashes(1, "u").mark(20)).say(idle(0, 1, 3, 100));
    let commit = log.commit();
    log.params.allowed_lateness_ms = 5_000;
    log.recover(&commit).say(idle(0, 1, 3, 500));
    assert_eq!(log.results(), [result(0, "u", 3)]);
}

// Idle sources.

#[test]
fn time_an_idle_source_does_not_hold_the_others() {
    let mut log = Log::claimed(Mode::Updates, 2);
    log.say(records(0, 1, 0..1).mark(100)).say(records(1, 1, 0..1).mark(10));
    assert_eq!(log.watermark(), Some(8));
    log.say(idle(1, 1, 1, 60).mark(10));
    assert_eq!(log.watermark(), Some(58), "up to W, less the disorder");
    log.say(records(0, 1, 1..2).mark(200));
    assert_eq!(log.watermark(), Some(58), "if its scanner dies, the claim stays at the last W");
    log.say(idle(1, 1, 1, 300).mark(10));
    assert_eq!(log.watermark(), Some(198));
}

#[test]
fn time_a_source_that_never_had_a_record_can_be_idle() {
    let mut log = Log::claimed(Mode::Updates, 2);
    log.say(records(0, 1, 0..1).mark(100));
    assert_eq!(log.watermark(), None);
    log.say(idle(1, 1, 0, 60));
    assert_eq!(log.watermark(), Some(58));
}

#[test]
fn time_idle_claim_needs_newest_epoch_and_exact_position() {
    for believed in [false, true] {
        let mut log = Log::claimed(Mode::Updates, 2);
        log.say(records(0, 1, 0..9).mark(100)).say(records(1, 1, 0..9).mark(10)).say(claim(1, 2, 5).mark(10));
        log.say(idle(1, 1, 9, 60)); // a zombie's
        log.say(idle(1, 2, 5, 60)); // behind: the log was seen longer than that
        log.say(idle(1, 2, 12, 60)); // ahead: a gap
        if believed {
            log.say(idle(1, 2, 9, 60));
        }
        assert_eq!(log.watermark(), Some(if believed { 58 } else { 8 }));
    }
}

#[test]
fn time_a_frame_with_records_is_not_idle() {
    let mut log = Log::claimed(Mode::Updates, 2);
    log.say(records(0, 1, 0..1).mark(100)).say(records(1, 1, 0..1).mark(10));
    let mut frame = records(1, 1, 1..3).mark(11);
    frame.kind = Kind::Idle { until: at(60) };
    log.say(frame);
    assert_eq!(log.watermark(), Some(9));
}

#[test]
fn time_any_later_frame_ends_idleness() {
    for frame in [records(1, 1, 1..1), claim(1, 2, 1), lost(1, 1, 1..5)] {
        let mut log = Log::claimed(Mode::Updates, 2);
        log.say(records(0, 1, 0..1).mark(100)).say(records(1, 1, 0..1).mark(10)).say(idle(1, 1, 1, 60));
        log.say(frame);
        assert_eq!(log.state.held_by().map(|hold| hold.reason), Some(HoldReason::Lagging));
        assert_eq!(log.watermark(), Some(58));
    }
}

// A quiet stream.

fn quiet() -> Log {
    let mut log = Log::claimed(Mode::Final, 2);
    log.say(records(0, 1, 0..3).crashes(11, "u").mark(14)).say(records(1, 1, 0..1).mark(12));
    // Last year's records, found idle today.
    log.say(idle(0, 1, 3, 1_000_000).mark(14));
    log
}

#[test]
fn time_all_idle_goes_on_no_faster_than_real_time() {
    let mut log = quiet();
    log.say(idle(1, 1, 1, 1_000_010).mark(12));
    assert_eq!(log.watermark(), Some(10), "from where the marks had brought it");
    log.say(idle(0, 1, 3, 1_000_015)).say(idle(1, 1, 1, 1_000_016));
    assert_eq!(log.watermark(), Some(15), "by what the least advanced has waited since the last became idle");
    log.say(idle(0, 1, 3, 1_000_014));
    assert_eq!(log.watermark(), Some(15));
}

#[test]
fn time_all_idle_stops_at_closing_the_last_window() {
    let mut log = quiet();
    log.say(idle(1, 1, 1, 1_000_010));
    for until in [1_000_049, 1_000_050, 1_000_500] {
        log.say(idle(0, 1, 3, until)).say(idle(1, 1, 1, until));
    }
    assert_eq!((log.watermark(), log.results()), (Some(50), vec![result(10, "u", 3)]));
    log.say(idle(0, 1, 3, 2_000_000)).say(idle(1, 1, 1, 2_000_000));
    assert_eq!((log.watermark(), log.state.open_windows()), (Some(50), 0));
}

#[test]
fn time_all_idle_without_a_window_stays_where_the_marks_had_brought_it() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..1).mark(12)).say(idle(0, 1, 1, 1_000)).say(idle(0, 1, 1, 2_000));
    assert_eq!(log.watermark(), Some(10));
}

#[test]
fn time_all_idle_does_not_pass_the_last_claim_of_a_scanner_that_died() {
    let mut log = Log::claimed(Mode::Final, 2);
    // Source 1 never had a record, and nobody reads it after 20.
    log.say(idle(1, 1, 0, 20)).say(records(0, 1, 0..3).crashes(45, "u").mark(50));
    assert_eq!(log.watermark(), Some(18));
    log.say(idle(0, 1, 3, 80)).say(idle(0, 1, 3, 200));
    assert_eq!(log.watermark(), Some(18), "records may lie there since");
    log.say(claim(1, 2, 0)).say(records(1, 2, 0..1).crash(0, 19, "u").mark(21));
    assert_eq!(log.late(), 0);
}

#[test]
fn time_a_stream_that_wakes_and_sleeps_is_anchored_anew() {
    let mut log = quiet();
    log.say(idle(1, 1, 1, 1_000_010)).say(idle(0, 1, 3, 1_000_012));
    log.say(records(1, 1, 1..2).mark(12));
    log.say(idle(0, 1, 3, 1_000_100)).say(idle(1, 1, 2, 1_000_100));
    assert_eq!(log.watermark(), Some(10), "while it was awake no time passed");
    log.say(idle(0, 1, 3, 1_000_103)).say(idle(1, 1, 2, 1_000_103));
    assert_eq!(log.watermark(), Some(13));
}

#[test]
fn time_a_quiet_stream_goes_on_across_a_restart() {
    let mut log = quiet();
    log.say(idle(1, 1, 1, 1_000_010));
    let commit = log.commit();
    log.recover(&commit).say(idle(0, 1, 3, 1_000_020)).say(idle(1, 1, 1, 1_000_020));
    assert_eq!(log.watermark(), Some(20));
}

#[test]
fn time_status_names_who_holds_the_watermark() {
    let held_by = |state: &Partition| state.held_by().map(|hold| (hold.source.unwrap().0, hold.reason));
    let mut log = Log::new(Mode::Updates, 3);
    assert_eq!(log.state.held_by(), None);
    log.say(claim(0, 1, 0)).say(claim(1, 1, 0)).say(records(0, 1, 0..1).mark(50));
    assert_eq!(held_by(&log.state), Some((2, HoldReason::Unassigned)));
    log.say(claim(2, 1, 0)).say(records(2, 1, 0..1).mark(9));
    assert_eq!(held_by(&log.state), Some((1, HoldReason::Silent)));
    log.say(idle(1, 1, 0, 20));
    assert_eq!(held_by(&log.state), Some((2, HoldReason::Lagging)));
    log.say(records(2, 1, 1..2).mark(30));
    assert_eq!(held_by(&log.state), Some((1, HoldReason::Idle)));
}

// Clocks.

#[test]
fn time_bad_clock_far_ahead_is_a_dead_letter() {
    let mut scanner = Scanner::claimed(1);
    scanner.now = at(1_000);
    assert_eq!(scanner.crash(0, 0, 1_601, "u"), Scanned::DeadLetter(Malformed::TimestampInFuture));
    assert_eq!(scanner.pass(0, 1, 1_601), Scanned::DeadLetter(Malformed::TimestampInFuture));
    assert_eq!((scanner.view(0).next.0, scanner.view(0).mark), (2, None));
    assert_eq!(scanner.crash(0, 2, 1_600, "u"), Scanned::Matched);
}

#[test]
fn time_bad_clock_moves_mark_only_to_now() {
    let mut scanner = Scanner::claimed(1);
    scanner.now = at(1_000);
    scanner.crash(0, 0, 1_500, "u");
    assert_eq!(scanner.view(0).mark, Some(at(1_000)));
    let frames = scanner.flush();
    assert_eq!(
        (frames[0].mark, frames[0].entries.clone()),
        (Some(at(1_000)), vec![(0, at(1_500), "u".into())])
    );
}

#[test]
fn time_bad_clock_of_a_scanner_yields_to_the_brokers() {
    let mut scanner = Scanner::claimed(1);
    scanner.now = at(1_000);
    assert_eq!(scanner.crash_appended(0, 0, 2_500, "u", 2_000), Scanned::Matched);
    assert_eq!(scanner.view(0).mark, Some(at(2_000)));
    scanner.crash_appended(0, 1, 900, "u", 500);
    assert_eq!(scanner.view(0).mark, Some(at(2_000)));
}

#[test]
fn time_the_mark_is_the_highest_so_far_and_passing_records_move_it() {
    let mut scanner = Scanner::claimed(1);
    scanner.pass(0, 0, 50);
    scanner.crash(0, 1, 40, "u");
    assert_eq!(scanner.view(0).mark, Some(at(50)));
}

// What a scanner says of idleness.

#[test]
fn time_idle_means_silent_for_the_timeout_and_at_the_end() {
    for (silence, end, is_idle) in [(30, 1, true), (29, 1, false), (30, 2, false)] {
        let mut scanner = Scanner::claimed(1);
        scanner.pass(0, 0, 1);
        scanner.flush();
        let checked_at = scanner.now.plus_millis(silence * 1_000);
        scanner.end_observed(0, end, checked_at);
        scanner.now = checked_at;
        let kind = scanner.flush()[0].kind;
        assert_eq!(kind == Kind::Idle { until: checked_at }, is_idle, "{silence} {end}");
    }
}

#[test]
fn time_idle_is_said_with_the_clock_read_before_the_check() {
    let mut scanner = Scanner::claimed(1);
    let checked_at = scanner.now.plus_millis(30_000);
    scanner.end_observed(0, 0, checked_at);
    for seconds in [31, 32, 33] {
        scanner.now = at(NOW + seconds);
        assert_eq!(scanner.flush()[0].kind, Kind::Idle { until: checked_at }, "and stays at the last check");
    }
}

#[test]
fn time_a_record_ends_idleness_at_once() {
    let mut scanner = Scanner::claimed(1);
    scanner.now = at(NOW + 30);
    scanner.end_observed(0, 0, scanner.now);
    scanner.pass(0, 0, 1);
    assert_eq!(scanner.flush()[0].kind, Kind::Records);
    scanner.now = at(NOW + 32);
    assert_eq!(scanner.flush()[0].kind, Kind::Records);
}

#[test]
fn time_a_new_owner_is_not_idle_before_its_own_timeout() {
    let mut scanner = Scanner::claimed(1);
    scanner.end_observed(0, 0, at(NOW + 1));
    scanner.now = at(NOW + 1);
    assert_eq!(scanner.flush()[0].kind, Kind::Records);
}

#[test]
fn time_a_source_below_the_end_is_not_idle_any_more() {
    let mut scanner = Scanner::claimed(1);
    scanner.end_observed(0, 0, at(NOW + 30));
    scanner.end_observed(0, 5, at(NOW + 31));
    scanner.now = at(NOW + 31);
    assert_eq!(scanner.flush()[0].kind, Kind::Records);
}

// Alignment.

#[test]
fn time_alignment_pauses_who_runs_ahead_and_resumes_it() {
    let mut scanner = Scanner::claimed(2);
    scanner.pass(0, 0, 100);
    scanner.pass(1, 0, 701);
    assert_eq!(scanner.scan.align(Some(at(100))), [(SourceId(1), true)]);
    assert_eq!(scanner.scan.align(Some(at(100))), [], "only changes are named");
    assert_eq!(scanner.scan.align(Some(at(101))), [(SourceId(1), false)], "ten minutes exactly are allowed");
}

#[test]
fn time_alignment_never_pauses_the_minimums_holder() {
    // The holder's mark is ahead of the watermark by the disorder and by nothing else.
    let mut scanner = Scanner::claimed(2);
    let mut log = Log::claimed(Mode::Updates, 2);
    for step in 0_i64..50 {
        let (holder, other) = (step * 1_000, step * 1_000 + 5_000);
        scanner.pass(0, step.unsigned_abs(), holder);
        scanner.pass(1, step.unsigned_abs(), other);
        let span = step.unsigned_abs()..step.unsigned_abs() + 1;
        log.say(records(0, 1, span.clone()).mark(holder)).say(records(1, 1, span).mark(other));
        scanner.scan.align(log.state.watermark());
        assert!(!scanner.view(0).paused);
        assert!(scanner.view(1).paused);
    }
}

#[test]
fn time_alignment_before_there_is_a_watermark_is_by_the_own_first_mark() {
    let mut scanner = Scanner::claimed(1);
    scanner.pass(0, 0, 100);
    scanner.pass(0, 1, 700);
    assert_eq!(scanner.scan.align(None), []);
    scanner.pass(0, 2, 701);
    assert_eq!(scanner.scan.align(None), [(SourceId(0), true)]);
}

#[test]
fn time_a_paused_source_speaks_and_is_not_idle() {
    let mut scanner = Scanner::claimed(1);
    scanner.pass(0, 0, 100);
    scanner.scan.align(Some(at(-1_000)));
    scanner.flush();
    scanner.now = at(NOW + 40);
    scanner.end_observed(0, 9, scanner.now);
    let frames = scanner.flush();
    assert_eq!((frames.len(), frames[0].kind), (1, Kind::Records));
}

#[test]
fn time_late_and_counted_is_decided_by_each_shard_alone() {
    let mut log = Log::claimed(Mode::Updates, 1);
    log.say(records(0, 1, 0..1).mark(42)).say(records(0, 1, 1..2).crash(1, 9, "u"));
    assert!(matches!(&log.effects()[..], [Effect::Late(late)] if late.user == "u"));
}
