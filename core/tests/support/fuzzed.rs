//! What must hold for any bytes at all, one function for each format that comes from outside.
//!
//! Responsible for the checks of the fuzzer (`fuzz/`) and of the test that replays its corpus. Must never depend on
//! either.

use std::sync::OnceLock;

use crashmonitor_core::aggregate::{Mode, Params, Partition};
use crashmonitor_core::codec;
use crashmonitor_core::config::Config;
use crashmonitor_core::frame::{Entries, Header, Message, MessageWriter, Statement};
use crashmonitor_core::ids::LogOffset;
use crashmonitor_core::record::{Matcher, Rule};
use crashmonitor_core::snapshot;

use super::by_value::{disagreement, matchers};

/// One check; it panics if the bytes break what it checks.
pub type Check = fn(&[u8]);

/// All of them, by the name of their corpus.
pub const ALL: [(&str, Check); 4] =
    [("config", config), ("frame", frame), ("record", record), ("snapshot", snapshot)];

/// A record of the input: the matchers decide as the plain implementation does, whatever stood in the line before.
pub fn record(bytes: &[u8]) {
    static RULES: OnceLock<Vec<(Rule, Matcher)>> = OnceLock::new();
    let rules = RULES.get_or_init(matchers);
    assert_eq!(disagreement(rules, b"", bytes), None);
    if let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        assert_eq!(disagreement(rules, &bytes[..end], &bytes[end + 1..]), None);
    }
}

/// A record of the repartition topic: what can be read is written back with the same meaning, and can be applied.
pub fn frame(bytes: &[u8]) {
    let bytes = sealed(bytes);
    let Ok(message) = Message::decode(&bytes) else { return };
    assert_eq!(Message::decode(&written(&message)).as_ref(), Ok(&message));
    let mut shard = Partition::new(params(), LogOffset(0));
    let mut effects = Vec::new();
    shard.apply(LogOffset(0), &message, &mut effects);
    shard.apply(LogOffset(1), &message, &mut effects);
}

/// A snapshot: what can be read is a state that can be written, and read back equal.
pub fn snapshot(bytes: &[u8]) {
    let Ok(read) = snapshot::decode(&sealed(bytes), params()) else { return };
    let again = snapshot::encode(&read.identity, &read.state);
    assert_eq!(snapshot::decode(&again, params()), Ok(read));
}

/// A configuration file: an error is one line, as `crashmonitor-worker` prints it.
pub fn config(bytes: &[u8]) {
    let Ok(yaml) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = Config::parse(yaml) {
        let text = error.to_string();
        assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
    }
}

/// The bytes with their checksum, which a fuzzer would hardly ever guess.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut sealed = bytes.to_vec();
    codec::seal(&mut sealed);
    sealed
}

fn written(message: &Message<'_>) -> Vec<u8> {
    let Header { topic, sources } = message.header;
    let mut writer = MessageWriter::new(Header { topic, sources });
    for frame in &message.frames {
        let mut entries = Entries::default();
        for entry in &frame.entries {
            entries.push(frame.from, *entry);
        }
        let statement = Statement {
            source: frame.source,
            epoch: frame.epoch,
            kind: frame.kind,
            from: frame.from,
            to: frame.to,
            mark: frame.mark,
        };
        writer.frame(&statement, &mut entries);
    }
    writer.finish()
}

fn params() -> Params {
    Params {
        window_ms: 10_000,
        allowed_lateness_ms: 30_000,
        max_out_of_orderness_ms: 2_000,
        count_greater_than: 2,
        mode: Mode::Updates,
    }
}
