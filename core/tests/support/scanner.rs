//! A scanner in a few words: one shard, real JSON, the owner's settings; what it sends is decoded.

#![allow(dead_code, reason = "each test file uses its own part")]

use crashmonitor_core::commit::ScanCommit;
use crashmonitor_core::frame::{Kind, Message};
use crashmonitor_core::ids::{Epoch, InputOffset, Shard, SourceId};
use crashmonitor_core::record::{Matcher, Rule};
use crashmonitor_core::scan::start::Claim;
use crashmonitor_core::scan::{Committable, Input, Params, Round, Scan, Scanned, View};
use crashmonitor_core::time::Timestamp;

use super::log::{INPUT, REPARTITION, at};

/// The wall clock at the beginning, in seconds: far enough for any event time of the tests.
pub const NOW: i64 = 1_000_000;

pub fn params(shards: u32) -> Params {
    Params {
        shards,
        max_future_skew_ms: 600_000,
        idle_timeout_ms: 30_000,
        max_drift_ms: 600_000,
        flush_interval_ms: 20,
    }
}

pub fn matcher() -> Matcher {
    let severities = vec!["High".to_owned(), "Critical".to_owned()];
    Matcher::new(&Rule { contains: "crash".to_owned(), case_sensitive: false, severities }).unwrap()
}

pub fn json(time: Timestamp, user: &str, content: &str) -> String {
    let time = time.as_millis();
    format!(r#"{{"timestamp":{time},"severity":"High","user_id":"{user}","content":"{content}"}}"#)
}

pub fn claim_of(source: u32, epoch: u64, from: u64) -> Claim {
    let from = InputOffset(from);
    let metadata =
        ScanCommit { epoch: Epoch(epoch), mark: None, topic: INPUT, resolved: 1, log_topic: REPARTITION };
    Claim { source: SourceId(source), from, lost_to: from, metadata, loss: None }
}

/// What a frame said, owned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heard {
    pub shard: u32,
    pub source: u32,
    pub epoch: u64,
    pub kind: Kind,
    pub from: u64,
    pub to: u64,
    pub mark: Option<Timestamp>,
    pub sources: u32,
    pub entries: Vec<(u64, Timestamp, String)>,
}

pub fn heard(round: &Round) -> Vec<Heard> {
    round.messages.iter().flat_map(|(shard, bytes)| heard_in(*shard, bytes)).collect()
}

fn heard_in(shard: Shard, bytes: &[u8]) -> Vec<Heard> {
    let message = Message::decode(bytes).unwrap();
    let sources = message.header.sources;
    let frames = message.frames.into_iter().map(|frame| Heard {
        shard: shard.0,
        source: frame.source.0,
        epoch: frame.epoch.0,
        kind: frame.kind,
        from: frame.from.0,
        to: frame.to.0,
        mark: frame.mark,
        sources,
        entries: frame.entries.iter().map(|e| (e.offset.0, e.time, e.user.to_owned())).collect(),
    });
    frames.collect()
}

/// A scanner and its wall clock.
pub struct Scanner {
    pub scan: Scan,
    pub now: Timestamp,
}

impl Scanner {
    /// One shard, nothing owned.
    pub fn new(shards: u32) -> Scanner {
        let mut scan = Scan::new(params(shards), matcher());
        scan.set_source_count(1);
        Scanner { scan, now: at(NOW) }
    }

    /// One shard, and `sources` sources whose claims are sent and acknowledged.
    pub fn claimed(sources: u32) -> Scanner {
        let mut scanner = Scanner::new(1);
        scanner.scan.set_source_count(sources);
        for source in 0..sources {
            scanner.claim(source, 1, 0);
        }
        scanner.flush();
        scanner
    }

    pub fn claim(&mut self, source: u32, epoch: u64, from: u64) {
        self.scan.claim(&claim_of(source, epoch, from), self.now);
    }

    pub fn record(&mut self, source: u32, offset: u64, value: Option<&str>) -> Scanned {
        self.input(source, offset, value, None)
    }

    pub fn crash(&mut self, source: u32, offset: u64, seconds: i64, user: &str) -> Scanned {
        self.record(source, offset, Some(&json(at(seconds), user, "a crash")))
    }

    pub fn pass(&mut self, source: u32, offset: u64, seconds: i64) -> Scanned {
        self.record(source, offset, Some(&json(at(seconds), "u", "nothing")))
    }

    /// A crash with the broker's LogAppendTime.
    pub fn crash_appended(
        &mut self,
        source: u32,
        offset: u64,
        seconds: i64,
        user: &str,
        appended: i64,
    ) -> Scanned {
        self.input(source, offset, Some(&json(at(seconds), user, "a crash")), Some(at(appended)))
    }

    fn input(
        &mut self,
        source: u32,
        offset: u64,
        value: Option<&str>,
        appended_at: Option<Timestamp>,
    ) -> Scanned {
        let (source, offset, value) = (SourceId(source), InputOffset(offset), value.map(str::as_bytes));
        self.scan.record(&Input { source, offset, appended_at, value }, self.now)
    }

    pub fn end_observed(&mut self, source: u32, end: u64, checked_at: Timestamp) {
        self.scan.end_observed(SourceId(source), InputOffset(end), checked_at);
    }

    /// Sends what there is and acknowledges it.
    pub fn flush(&mut self) -> Vec<Heard> {
        let Some(round) = self.scan.flush(self.now, true) else { return Vec::new() };
        round.messages.iter().for_each(|_| self.scan.acknowledged(round.id));
        heard(&round)
    }

    /// Sends what there is and leaves it unacknowledged.
    pub fn send(&mut self) -> Round {
        self.scan.flush(self.now, true).unwrap()
    }

    pub fn view(&self, source: u32) -> View {
        self.scan.views().find(|view| view.source.0 == source).unwrap()
    }

    /// What may be committed, as (source, offset).
    pub fn committable(&mut self) -> Vec<(u32, u64)> {
        let offset = |c: Committable| (c.source.0, c.offset.0);
        self.scan.take_committable().into_iter().map(offset).collect()
    }
}
