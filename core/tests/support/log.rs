//! A repartition log in a few words: what sources say is written through the real codec and applied to a shard.
//!
//! Times are in seconds, because windows are ten of them long; offsets and epochs are plain numbers.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::ops::Range;

use crashmonitor_core::aggregate::{Effect, Mode, Params, Partition};
use crashmonitor_core::commit::AggregateCommit;
use crashmonitor_core::frame::{Entries, Entry, Header, Kind, Message, MessageWriter, Statement};
use crashmonitor_core::ids::{Epoch, InputOffset, LogOffset, Shard, SourceId, TopicId};
use crashmonitor_core::recovery::{Facts, Stored};
use crashmonitor_core::snapshot::{self, Identity};
use crashmonitor_core::time::Timestamp;

pub const INPUT: TopicId = TopicId([1; 16]);
pub const INPUT_AGAIN: TopicId = TopicId([2; 16]);
pub const REPARTITION: TopicId = TopicId([3; 16]);

/// What is known of a shard that nobody has written to or committed.
pub fn empty_log() -> Facts {
    Facts {
        committed: None,
        log_start: LogOffset(0),
        log_end_before: LogOffset(0),
        log_end: LogOffset(0),
        log_topic: REPARTITION,
        snapshot: Stored::Nothing,
    }
}

/// The instant `seconds` after the epoch.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000)
}

/// The owner's windows: 10 s, 30 s late, 2 s of disorder, more than 2.
pub fn params(mode: Mode) -> Params {
    Params {
        window_ms: 10_000,
        allowed_lateness_ms: 30_000,
        max_out_of_orderness_ms: 2_000,
        count_greater_than: 2,
        mode,
    }
}

/// One frame to be.
#[derive(Clone, Debug)]
pub struct Said {
    pub source: u32,
    pub epoch: u64,
    pub kind: Kind,
    pub from: u64,
    pub to: u64,
    pub mark: Option<Timestamp>,
    pub crashes: Vec<(u64, Timestamp, String)>,
}

fn said(kind: Kind, source: u32, epoch: u64, span: Range<u64>) -> Said {
    Said { source, epoch, kind, from: span.start, to: span.end, mark: None, crashes: Vec::new() }
}

pub fn claim(source: u32, epoch: u64, from: u64) -> Said {
    said(Kind::Claim, source, epoch, from..from)
}

pub fn records(source: u32, epoch: u64, span: Range<u64>) -> Said {
    said(Kind::Records, source, epoch, span)
}

pub fn idle(source: u32, epoch: u64, offset: u64, until: i64) -> Said {
    said(Kind::Idle { until: at(until) }, source, epoch, offset..offset)
}

pub fn lost(source: u32, epoch: u64, span: Range<u64>) -> Said {
    said(Kind::Lost, source, epoch, span)
}

impl Said {
    pub fn mark(mut self, seconds: i64) -> Said {
        self.mark = Some(at(seconds));
        self
    }

    pub fn crash(self, offset: u64, seconds: i64, user: &str) -> Said {
        self.crash_at(offset, at(seconds), user)
    }

    pub fn crash_at(mut self, offset: u64, time: Timestamp, user: &str) -> Said {
        self.crashes.push((offset, time, user.to_owned()));
        self
    }

    /// One crash of `user` at every offset of the frame.
    pub fn crashes(self, seconds: i64, user: &str) -> Said {
        (self.from..self.to).fold(self, |said, offset| said.crash(offset, seconds, user))
    }
}

/// The record value that says all of `said`.
pub fn encode(topic: TopicId, sources: u32, said: &[Said]) -> Vec<u8> {
    let mut writer = MessageWriter::new(Header { topic, sources });
    for said in said {
        let mut entries = Entries::default();
        for (offset, time, user) in &said.crashes {
            entries.push(InputOffset(said.from), Entry { offset: InputOffset(*offset), time: *time, user });
        }
        let statement = Statement {
            source: SourceId(said.source),
            epoch: Epoch(said.epoch),
            kind: said.kind,
            from: InputOffset(said.from),
            to: InputOffset(said.to),
            mark: said.mark,
        };
        writer.frame(&statement, &mut entries);
    }
    writer.finish()
}

/// A shard and the log that it has read.
#[derive(Clone)]
pub struct Log {
    pub state: Partition,
    /// May be changed for the recoveries to come, as a monitor's owner may.
    pub params: Params,
    pub topic: TopicId,
    pub sources: u32,
    pub messages: Vec<Vec<u8>>,
    /// What came of the messages since the last look.
    effects: Vec<Effect>,
}

impl Log {
    /// An empty log over an input of `sources` partitions.
    pub fn new(mode: Mode, sources: u32) -> Log {
        Log::with(params(mode), sources)
    }

    pub fn with(params: Params, sources: u32) -> Log {
        let state = Partition::new(params, LogOffset(0));
        Log { state, params, topic: INPUT, sources, messages: Vec::new(), effects: Vec::new() }
    }

    /// As `new`, with every source claimed at offset 0 under epoch 1.
    pub fn claimed(mode: Mode, sources: u32) -> Log {
        let mut log = Log::new(mode, sources);
        for source in 0..sources {
            log.say(claim(source, 1, 0));
        }
        log
    }

    /// Appends one message with one frame.
    pub fn say(&mut self, said: Said) -> &mut Log {
        self.say_all(&[said])
    }

    /// Appends one message with all these frames.
    pub fn say_all(&mut self, said: &[Said]) -> &mut Log {
        let bytes = encode(self.topic, self.sources, said);
        self.append(bytes)
    }

    pub fn append(&mut self, bytes: Vec<u8>) -> &mut Log {
        let offset = LogOffset(self.messages.len() as u64);
        self.state.apply(offset, &Message::decode(&bytes).unwrap(), &mut self.effects);
        self.messages.push(bytes);
        self
    }

    /// All effects since the last look.
    pub fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// The results since the last look, as (start in seconds, user, count); other effects are dropped.
    pub fn results(&mut self) -> Vec<(i64, String, u64)> {
        results_of(&self.effects())
    }

    /// How many late records there were since the last look; other effects are dropped.
    pub fn late(&mut self) -> usize {
        self.effects().iter().filter(|effect| matches!(effect, Effect::Late(_))).count()
    }

    /// The watermark in seconds.
    pub fn watermark(&self) -> Option<i64> {
        self.state.watermark().map(|watermark| watermark.as_millis().div_euclid(1_000))
    }

    pub fn next(&self, source: u32) -> u64 {
        self.state.sources()[&SourceId(source)].next.0
    }

    pub fn commit(&mut self) -> AggregateCommit {
        let commit = self.state.to_commit(REPARTITION);
        // What recovery reads is the text.
        AggregateCommit::decode(&commit.encode()).unwrap()
    }

    /// The state that recovery without a snapshot arrives at from `commit`, which was taken at the log's present end.
    pub fn rebuilt(&self, commit: &AggregateCommit) -> Partition {
        let state = Partition::rebuild(self.params, commit.o_low, commit);
        self.replayed(state, commit)
    }

    /// The same from a snapshot.
    pub fn restored(&self, snapshot: &[u8], commit: &AggregateCommit) -> Partition {
        let state = snapshot::decode(snapshot, self.params).unwrap().state;
        self.replayed(state.into_muted(commit), commit)
    }

    fn replayed(&self, mut state: Partition, commit: &AggregateCommit) -> Partition {
        let mut effects = Vec::new();
        for offset in state.position().0..self.messages.len() as u64 {
            let message = Message::decode(&self.messages[offset as usize]).unwrap();
            state.apply(LogOffset(offset), &message, &mut effects);
        }
        assert_eq!(effects, [], "a muted replay has no effects");
        state.unmute(commit);
        state
    }

    /// A worker dies after `commit`, taken at the log's end, and another goes on without a snapshot.
    pub fn recover(&mut self, commit: &AggregateCommit) -> &mut Log {
        self.state = self.rebuilt(commit);
        self
    }
}

pub fn identity() -> Identity {
    Identity { monitor: "uid".to_owned(), log_topic: REPARTITION, shard: Shard(0) }
}

pub fn results_of(effects: &[Effect]) -> Vec<(i64, String, u64)> {
    let results = effects.iter().filter_map(|effect| match effect {
        Effect::Result(r) => Some((r.start.as_millis() / 1_000, r.user.clone(), r.count)),
        _ => None,
    });
    results.collect()
}

/// `results_of` a single result, for comparison.
pub fn result(start: i64, user: &str, count: u64) -> (i64, String, u64) {
    (start, user.to_owned(), count)
}
