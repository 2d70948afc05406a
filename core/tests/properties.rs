//! What must hold for every log: random scanners, zombies, repeats, gaps, losses, idleness and new partitions, against
//! what the input alone says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support {
    pub mod log;
    pub mod scanner;
    pub mod world;
}

use std::collections::{BTreeMap, BTreeSet};

use crashmonitor_core::aggregate::{Effect, Mode, Outcome, Params, Partition};
use crashmonitor_core::aggregator::{Aggregator, Cadence};
use crashmonitor_core::codec;
use crashmonitor_core::commit::AggregateCommit;
use crashmonitor_core::frame::{Header, Message, MessageWriter};
use crashmonitor_core::ids::{InputOffset, LogOffset, Shard, SourceId};
use crashmonitor_core::recovery::{Facts, Stored};
use crashmonitor_core::scan::{Committable, Input, RoundId, Scan};
use crashmonitor_core::snapshot;
use proptest::prelude::*;
use support::log::{INPUT, REPARTITION, at, identity, params};
use support::scanner;
use support::world::{Nature, Step, World, steps};

/// No record of this lateness is dropped: windows take 30 s, and an idle source may be up to 5 s ahead of its mark.
const ON_TIME_MS: i64 = 20_000;
/// Some records of this lateness are dropped.
const LATE_MS: i64 = 120_000;

type Counts = BTreeMap<(i64, String), u64>;

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Updates), Just(Mode::Final)]
}

/// As the owner's, but every user is written.
fn all_users(mode: Mode) -> Params {
    Params { count_greater_than: 0, ..params(mode) }
}

fn apply(state: &mut Partition, offset: usize, bytes: &[u8]) -> Vec<Effect> {
    let mut effects = Vec::new();
    state.apply(LogOffset(offset as u64), &Message::decode(bytes).unwrap(), &mut effects);
    effects
}

fn run(params: Params, messages: &[Vec<u8>]) -> (Partition, Vec<Effect>) {
    let mut state = Partition::new(params, LogOffset(0));
    let each = messages.iter().enumerate().flat_map(|(offset, bytes)| apply(&mut state, offset, bytes));
    let effects = each.collect();
    (state, effects)
}

fn bytes_of(world: &World) -> Vec<Vec<u8>> {
    world.messages.iter().map(|(_, bytes)| bytes.clone()).collect()
}

/// The messages of `world`, those of one nature replaced by ones that say nothing.
fn without(world: &World, nature: Nature) -> Vec<Vec<u8>> {
    let silence = MessageWriter::new(Header { topic: INPUT, sources: 0 }).finish();
    let each = world.messages.iter();
    each.map(|(n, bytes)| if *n == nature { silence.clone() } else { bytes.clone() }).collect()
}

fn outcomes(effects: &[Effect]) -> Vec<&Outcome> {
    effects
        .iter()
        .filter_map(|e| if let Effect::Result(outcome) = e { Some(outcome) } else { None })
        .collect()
}

/// The last count of each interval and user.
fn last_counts<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> Counts {
    outcomes.into_iter().map(|o| ((o.start.as_millis(), o.user.clone()), o.count)).collect()
}

/// The batch job that this must equal.
fn recount(events: impl IntoIterator<Item = (i64, String)>, greater_than: u64) -> Counts {
    let mut counts = Counts::new();
    for (time, user) in events {
        *counts.entry((time.div_euclid(10_000) * 10_000, user)).or_default() += 1;
    }
    counts.retain(|_, count| *count > greater_than);
    counts
}

proptest! {
    #[test]
    fn what_comes_in_time_is_counted_exactly(steps in steps(), mode in mode()) {
        let world = World::run(&steps, ON_TIME_MS);
        let (state, effects) = run(params(mode), &bytes_of(&world));
        let expected = recount(world.events().into_iter().map(|(_, _, time, user)| (time, user)), 2);
        prop_assert_eq!(last_counts(outcomes(&effects)), expected);
        prop_assert_eq!(state.open_windows(), 0);
    }

    #[test]
    fn every_event_is_either_counted_or_late(steps in steps(), mode in mode()) {
        let world = World::run(&steps, LATE_MS);
        let (_, effects) = run(all_users(mode), &bytes_of(&world));
        let mut late = BTreeSet::new();
        for effect in &effects {
            if let Effect::Late(event) = effect {
                prop_assert!(late.insert((event.source.0, event.offset.0)), "late twice: {:?}", event);
            }
        }
        let events = world.events().into_iter();
        let on_time = events.filter(|(source, offset, ..)| !late.remove(&(*source, *offset)));
        let expected = recount(on_time.map(|(_, _, time, user)| (time, user)), 0);
        prop_assert_eq!(last_counts(outcomes(&effects)), expected);
        prop_assert!(late.is_empty(), "late, but no event: {late:?}");
    }

    #[test]
    fn final_writes_each_once_and_updates_only_grow(steps in steps(), mode in mode()) {
        let (_, effects) = run(all_users(mode), &bytes_of(&World::run(&steps, LATE_MS)));
        let mut written: Counts = Counts::new();
        for outcome in outcomes(&effects) {
            let before = written.insert((outcome.start.as_millis(), outcome.user.clone()), outcome.count);
            prop_assert!(before.is_none_or(|before| mode == Mode::Updates && before < outcome.count));
        }
    }

    #[test]
    fn a_snapshot_at_any_step_goes_on_as_if_nothing_had_happened(steps in steps(), mode in mode(), cut: u16) {
        let messages = bytes_of(&World::run(&steps, LATE_MS));
        let cut = usize::from(cut) % messages.len();
        let (mut state, _) = run(params(mode), &messages[..cut]);
        let mut restored = snapshot::decode(&snapshot::encode(&identity(), &state), params(mode)).unwrap().state;
        prop_assert_eq!(&restored, &state);
        for (offset, bytes) in messages.iter().enumerate().skip(cut) {
            prop_assert_eq!(apply(&mut restored, offset, bytes), apply(&mut state, offset, bytes));
        }
        prop_assert_eq!(restored, state);
    }

    #[test]
    fn a_rebuild_at_any_commit_is_what_was(steps in steps(), mode in mode(), every in 1..4_usize) {
        let messages = bytes_of(&World::run(&steps, LATE_MS));
        let mut state = Partition::new(params(mode), LogOffset(0));
        let mut snapshots = vec![state.clone()];
        for (offset, bytes) in messages.iter().enumerate() {
            apply(&mut state, offset, bytes);
            snapshots.push(state.clone());
            if offset % every == 0 {
                let commit = state.to_commit(REPARTITION);
                let rebuilt = Partition::rebuild(params(mode), commit.o_low, &commit);
                let mut rebuilt = replayed(rebuilt, &messages[..=offset], &commit);
                // Committing forgets the fences that no rebuild can meet; so it does for both.
                rebuilt.to_commit(REPARTITION);
                prop_assert_eq!(&rebuilt, &state, "from {} at {}", commit.o_low, offset);
                let earlier = snapshots[offset / 2].clone().into_muted(&commit);
                let mut restored = replayed(earlier, &messages[..=offset], &commit);
                restored.to_commit(REPARTITION);
                prop_assert_eq!(&restored, &state, "from a snapshot at {} at {}", offset / 2, offset);
            }
        }
    }

    #[test]
    fn o_low_watermark_and_closing_never_go_back(steps in steps(), mode in mode(), recoveries in recoveries()) {
        let messages = bytes_of(&World::run(&steps, LATE_MS));
        let mut state = Partition::new(params(mode), LogOffset(0));
        let mut before = (LogOffset(0), None, None);
        for (offset, bytes) in messages.iter().enumerate() {
            apply(&mut state, offset, bytes);
            if recoveries.contains(&offset) {
                let commit = state.to_commit(REPARTITION);
                let rebuilt = Partition::rebuild(params(mode), commit.o_low, &commit);
                state = replayed(rebuilt, &messages[..=offset], &commit);
            }
            let now = (state.o_low(), state.watermark(), state.closed_through());
            prop_assert!(now.0 >= before.0 && now.1 >= before.1 && now.2 >= before.2, "{before:?} {now:?}");
            prop_assert!(now.0 <= state.position());
            before = now;
        }
    }

    #[test]
    fn a_zombies_frames_change_nothing(steps in steps(), mode in mode()) {
        let world = World::run(&steps, LATE_MS);
        let (mut with, effects) = run(params(mode), &bytes_of(&world));
        let (mut without, expected) = run(params(mode), &without(&world, Nature::Zombie));
        let stale = |effect: &Effect| matches!(effect, Effect::Stale { .. });
        let zombies = world.messages.iter().filter(|(nature, _)| *nature == Nature::Zombie).count();
        prop_assert!(effects.iter().filter(|e| stale(e)).count() >= zombies, "each is counted");
        let strip = |effects: Vec<Effect>| effects.into_iter().filter(|e| !stale(e)).collect::<Vec<_>>();
        prop_assert_eq!(strip(effects), strip(expected));
        // At the end nothing is open, so that no fence is left.
        with.to_commit(REPARTITION);
        without.to_commit(REPARTITION);
        prop_assert_eq!(with, without);
    }

    #[test]
    fn what_comes_behind_a_gap_is_reported_and_not_counted(steps in steps(), mode in mode()) {
        let world = World::run(&steps, LATE_MS);
        let mut state = Partition::new(params(mode), LogOffset(0));
        for (offset, (nature, bytes)) in world.messages.iter().enumerate() {
            let before = state.clone();
            let effects = apply(&mut state, offset, bytes);
            if *nature == Nature::Refused {
                prop_assert!(!effects.is_empty());
                let gaps = effects.iter().all(|effect| matches!(effect, Effect::Gap { .. }));
                prop_assert!(gaps, "{effects:?}");
                prop_assert_eq!(before.sources(), state.sources());
                prop_assert_eq!(before.open_pairs(), state.open_pairs());
                prop_assert_eq!(before.watermark(), state.watermark());
            }
        }
    }

    #[test]
    fn repeats_change_no_count(steps in steps(), mode in mode()) {
        let world = World::run(&steps, ON_TIME_MS);
        let (_, effects) = run(all_users(mode), &bytes_of(&world));
        let (_, expected) = run(all_users(mode), &without(&world, Nature::Repeat));
        prop_assert_eq!(last_counts(outcomes(&effects)), last_counts(outcomes(&expected)));
    }

    #[test]
    fn commits_aborts_and_crashes_write_what_an_uninterrupted_run_writes(
        steps in steps(), mode in mode(), turns in prop::collection::vec(turn(), 1..60)
    ) {
        let messages = bytes_of(&World::run(&steps, LATE_MS));
        let (_, effects) = run(params(mode), &messages);
        let mut worker = Worker::new(mode, &messages);
        turns.iter().for_each(|turn| worker.take(turn));
        worker.take(&Turn { polls: messages.len(), end: End::Commit });
        let uninterrupted: Vec<Outcome> = outcomes(&effects).into_iter().cloned().collect();
        prop_assert_eq!(worker.written, uninterrupted);
        let late = effects.iter().filter(|effect| matches!(effect, Effect::Late(_))).count();
        prop_assert_eq!(worker.late, late);
    }

    #[test]
    fn from_records_to_results_equals_a_recount_whatever_the_batching(
        inputs in inputs(), turns in prop::collection::vec(scan_turn(), 1..40), mode in mode()
    ) {
        let mut pipeline = Pipeline::new(&inputs);
        turns.iter().for_each(|turn| pipeline.take(turn));
        pipeline.finish();
        let mut results = Vec::new();
        for log in &pipeline.logs {
            let (_, effects) = run(params(mode), log);
            let good = effects.iter().all(|e| matches!(e, Effect::Result(_) | Effect::Stale { .. }));
            prop_assert!(good, "{effects:?}");
            results.extend(outcomes(&effects).into_iter().cloned());
        }
        let counts = last_counts(&results);
        prop_assert!(mode == Mode::Updates || counts.len() == results.len(), "Final writes once");
        let crashes = inputs.iter().flatten().filter(|input| input.crash);
        prop_assert_eq!(counts, recount(crashes.map(|i| (i.time_ms, format!("user_{}", i.user))), 2));
    }
}

/// Ends a muted replay of `messages` from where `state` stands.
fn replayed(mut state: Partition, messages: &[Vec<u8>], commit: &AggregateCommit) -> Partition {
    let from = usize::try_from(state.position().0).unwrap();
    for (offset, bytes) in messages.iter().enumerate().skip(from) {
        assert_eq!(apply(&mut state, offset, bytes), [], "a muted replay has no effects");
    }
    state.unmute(commit);
    state
}

fn recoveries() -> impl Strategy<Value = BTreeSet<usize>> {
    prop::collection::btree_set(0..100_usize, 0..20)
}

// One worker over one shard, with a Kafka and a Redis of a few lines.

#[derive(Clone, Debug)]
struct Turn {
    polls: usize,
    end: End,
}

#[derive(Clone, Debug)]
enum End {
    Commit,
    /// The transaction is aborted.
    Abort,
    /// The transaction is confirmed, but the worker dies before it knows.
    CommitAndDie,
    Die,
    /// Redis loses what it has, or brings back what it had.
    Redis {
        keep: usize,
    },
}

fn turn() -> impl Strategy<Value = Turn> {
    let end = prop_oneof![
        4 => Just(End::Commit),
        1 => Just(End::Abort),
        1 => Just(End::CommitAndDie),
        1 => Just(End::Die),
        1 => (0..4_usize).prop_map(|keep| End::Redis { keep }),
    ];
    (0..8_usize, end).prop_map(|(polls, end)| Turn { polls, end })
}

struct Worker<'a> {
    mode: Mode,
    messages: &'a [Vec<u8>],
    aggregator: Aggregator,
    committed: Option<(LogOffset, String)>,
    log_start: LogOffset,
    snapshots: Vec<Vec<u8>>,
    reads: usize,
    written: Vec<Outcome>,
    late: usize,
}

const SHARD: Shard = Shard(0);

impl<'a> Worker<'a> {
    fn new(mode: Mode, messages: &'a [Vec<u8>]) -> Worker<'a> {
        let mut worker = Worker {
            mode,
            messages,
            aggregator: Worker::aggregator(mode),
            committed: None,
            log_start: LogOffset(0),
            snapshots: Vec::new(),
            reads: 0,
            written: Vec::new(),
            late: 0,
        };
        worker.begin(LogOffset(0));
        worker.end_transaction(true);
        worker
    }

    fn aggregator(mode: Mode) -> Aggregator {
        let cadence = Cadence { commit_interval_ms: 0, snapshot_interval_ms: 0, commit_drift_ms: 0 };
        let mut aggregator = Aggregator::new(params(mode), cadence, identity().monitor, REPARTITION);
        aggregator.assign(SHARD);
        aggregator
    }

    fn begin(&mut self, log_end: LogOffset) {
        let snapshot = match self.snapshots.last() {
            None => Stored::Nothing,
            Some(bytes) => match snapshot::decode(bytes, params(self.mode)) {
                Ok(snapshot) => Stored::Snapshot(Box::new(snapshot)),
                Err(error) => Stored::Unreadable(error),
            },
        };
        let (committed, log_start) = (self.committed.clone(), self.log_start);
        let log_end_before = log_end;
        let facts = Facts { committed, log_start, log_end_before, log_end, log_topic: REPARTITION, snapshot };
        self.reads = usize::try_from(self.aggregator.decide(SHARD, facts).unwrap().read_from.0).unwrap();
        assert!(self.reads as u64 >= self.log_start.0, "it was purged");
    }

    fn take(&mut self, turn: &Turn) {
        for _ in 0..turn.polls.max(self.replay_left()) {
            if let Some(bytes) = self.messages.get(self.reads) {
                self.aggregator.record(SHARD, LogOffset(self.reads as u64), bytes).unwrap();
                self.reads += 1;
            }
        }
        match turn.end {
            End::Commit => self.end_transaction(true),
            End::Abort => {
                self.aggregator.transaction();
                self.aggregator.aborted();
                self.begin(LogOffset(self.messages.len() as u64));
            }
            End::CommitAndDie => {
                self.end_transaction(false);
                self.die();
            }
            End::Die => self.die(),
            End::Redis { keep } => self.snapshots.truncate(keep),
        }
    }

    /// A replay is not interrupted, so that every run comes forward.
    fn replay_left(&self) -> usize {
        let until = self.committed.as_ref().map_or(0, |(offset, _)| usize::try_from(offset.0).unwrap());
        until.saturating_sub(self.reads)
    }

    fn die(&mut self) {
        self.aggregator = Worker::aggregator(self.mode);
        self.begin(LogOffset(self.messages.len() as u64));
    }

    fn end_transaction(&mut self, worker_knows: bool) {
        let transaction = self.aggregator.transaction();
        self.written.extend(transaction.results);
        self.late += transaction.late.len();
        for (_, offset, commit) in transaction.offsets {
            self.committed = Some((offset, commit.encode()));
        }
        if worker_knows {
            let confirmed = self.aggregator.committed(at(0));
            for (_, low) in confirmed.purgeable {
                self.log_start = low;
            }
            for (_, mut bytes) in confirmed.snapshots {
                if bytes.len() % 5 == 0 {
                    bytes[9] ^= 1;
                    assert_eq!(snapshot::decode(&bytes, params(self.mode)), Err(codec::Error::Checksum));
                }
                self.snapshots.push(bytes);
            }
        }
    }
}

// Both stages: two input partitions, three shards, scanners that die and are followed by others.

#[derive(Clone, Debug)]
struct InputRecord {
    time_ms: i64,
    user: u64,
    crash: bool,
}

fn inputs() -> impl Strategy<Value = Vec<Vec<InputRecord>>> {
    let record = (0..2_000_i64, 0..ON_TIME_MS, 0..5_u64, any::<bool>());
    prop::collection::vec(prop::collection::vec(record, 0..80), 2)
        .prop_map(|sources| sources.into_iter().map(ticking).collect())
}

/// Steps of time and lateness to times.
fn ticking(records: Vec<(i64, i64, u64, bool)>) -> Vec<InputRecord> {
    let mut clock_ms = 1_000_000;
    let each = records.into_iter().map(|(step, late, user, crash)| {
        clock_ms += step;
        InputRecord { time_ms: clock_ms - late, user, crash }
    });
    each.collect()
}

#[derive(Clone, Debug)]
enum ScanTurn {
    Read {
        source: usize,
        count: usize,
    },
    Flush,
    /// The oldest message that is on its way arrives.
    Arrive {
        count: usize,
    },
    /// The scanner dies; of each shard's messages on their way some still arrive.
    Die {
        arrive: [usize; 3],
    },
    Tick {
        ms: i64,
    },
}

fn scan_turn() -> impl Strategy<Value = ScanTurn> {
    prop_oneof![
        6 => (0..2_usize, 0..15_usize).prop_map(|(source, count)| ScanTurn::Read { source, count }),
        4 => Just(ScanTurn::Flush),
        4 => (0..12_usize).prop_map(|count| ScanTurn::Arrive { count }),
        1 => prop::array::uniform3(0..6_usize).prop_map(|arrive| ScanTurn::Die { arrive }),
        2 => (0..3_000_i64).prop_map(|ms| ScanTurn::Tick { ms }),
    ]
}

struct Pipeline<'a> {
    inputs: &'a [Vec<InputRecord>],
    scan: Scan,
    now_ms: i64,
    epoch: u64,
    reads: [usize; 2],
    committed: [Option<Committable>; 2],
    on_their_way: Vec<(RoundId, Shard, Vec<u8>)>,
    logs: [Vec<Vec<u8>>; 3],
}

impl<'a> Pipeline<'a> {
    fn new(inputs: &'a [Vec<InputRecord>]) -> Pipeline<'a> {
        let mut pipeline = Pipeline {
            inputs,
            scan: Scan::new(scanner::params(3), scanner::matcher()),
            now_ms: scanner::NOW * 1_000,
            epoch: 0,
            reads: [0; 2],
            committed: [None, None],
            on_their_way: Vec::new(),
            logs: Default::default(),
        };
        pipeline.start();
        pipeline
    }

    fn start(&mut self) {
        self.scan = Scan::new(scanner::params(3), scanner::matcher());
        self.scan.set_source_count(2);
        self.epoch += 1;
        for source in 0..2_usize {
            let committed = self.committed[source].as_ref();
            let from = committed.map_or(0, |c| c.offset.0);
            let mut claim = scanner::claim_of(u32::try_from(source).unwrap(), self.epoch, from);
            claim.metadata.mark = committed.and_then(|c| c.metadata.mark);
            self.scan.claim(&claim, at(scanner::NOW));
            self.reads[source] = usize::try_from(from).unwrap();
        }
    }

    fn take(&mut self, turn: &ScanTurn) {
        match *turn {
            ScanTurn::Read { source, count } => (0..count).for_each(|_| self.read(source)),
            ScanTurn::Flush => self.flush(),
            ScanTurn::Arrive { count } => self.arrive(count),
            ScanTurn::Die { mut arrive } => {
                for (_, shard, bytes) in std::mem::take(&mut self.on_their_way) {
                    let left = &mut arrive[shard.0 as usize];
                    if *left > 0 {
                        *left -= 1;
                        self.logs[shard.0 as usize].push(bytes);
                    }
                }
                self.start();
            }
            ScanTurn::Tick { ms } => self.now_ms += ms,
        }
    }

    fn read(&mut self, source: usize) {
        let Some(record) = self.inputs[source].get(self.reads[source]) else { return };
        let time = at(0).plus_millis(record.time_ms);
        let content = if record.crash { "a CRASH" } else { "fine" };
        let value = scanner::json(time, &format!("user_{}", record.user), content);
        self.input(source, &value);
    }

    fn input(&mut self, source: usize, value: &str) {
        let input = Input {
            source: SourceId(u32::try_from(source).unwrap()),
            offset: InputOffset(self.reads[source] as u64),
            appended_at: None,
            value: Some(value.as_bytes()),
        };
        self.scan.record(&input, at(0).plus_millis(self.now_ms));
        self.reads[source] += 1;
    }

    fn flush(&mut self) {
        if let Some(round) = self.scan.flush(at(0).plus_millis(self.now_ms), true) {
            let messages = round.messages.into_iter().map(|(shard, bytes)| (round.id, shard, bytes));
            self.on_their_way.extend(messages);
        }
    }

    fn arrive(&mut self, count: usize) {
        let count = count.min(self.on_their_way.len());
        for (round, shard, bytes) in self.on_their_way.drain(..count) {
            self.logs[shard.0 as usize].push(bytes);
            self.scan.acknowledged(round);
        }
        for committable in self.scan.take_committable() {
            let source = committable.source.0 as usize;
            self.committed[source] = Some(committable);
        }
    }

    /// Reads what is left and then a record far ahead, so that every window closes.
    fn finish(&mut self) {
        for source in 0..2 {
            (0..self.inputs[source].len()).for_each(|_| self.read(source));
            self.input(source, &scanner::json(at(scanner::NOW - 1), "user_9", "fine"));
        }
        self.flush();
        self.arrive(usize::MAX);
    }
}

#[test]
fn the_random_logs_hold_what_they_are_for() {
    // A generator that never produces a case proves nothing about it.
    let steps = [
        vec![Step::Read { source: 0, count: 20 }, Step::Read { source: 1, count: 20 }],
        vec![
            Step::Restart { source: 0, back: 5 },
            Step::Zombie { source: 0, back: 3, count: 9, idle: false },
        ],
        vec![Step::Skip { source: 1, count: 3 }, Step::Read { source: 1, count: 3 }],
        vec![Step::Repeat { back: 2 }],
    ];
    let world = World::run(&steps, LATE_MS);
    for nature in [Nature::Good, Nature::Zombie, Nature::Repeat, Nature::Refused] {
        assert!(world.messages.iter().any(|(n, _)| *n == nature), "{nature:?}");
    }
}
