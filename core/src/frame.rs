//! What one source says to one shard: the records of the repartition topic.
//!
//! Responsible for the format of a [`Message`] and of the [`Frame`]s in it. Must never judge what a frame says; that is
//! [`crate::aggregate`]'s.
//!
//! A message is one Kafka record. It carries the frames of every source that its writer speaks for, because at an even
//! load most frames are nearly empty and a Kafka record costs far more than a frame.
//!
//! ```text
//! message = 'C' 'M' 'F' version topic_id[16] sources frame* crc32c[4]
//! frame   = flags source epoch from length [mark] [idle_until] count entry*
//! entry   = offset-delta time-delta user
//! ```
//!
//! Limits and rules:
//! 1. `from` and `from + length` are input offsets, the second exclusive; a claim and an idle frame have length 0.
//! 2. Entries lie in `[from, to)` and their offsets rise.
//! 3. A message stays below [`MESSAGE_BYTES_MAX`], half of a broker's default limit for a record; a single frame is
//!    flushed long before ([`FRAME_BYTES_FLUSH`]).
//! 4. An unknown version stops the reader: a frame that is skipped is a lost count.

use crate::codec::{self, Error, Reader, put_bytes, put_i64, put_u64};
use crate::ids::{Epoch, InputOffset, SourceId, TopicId};
use crate::time::Timestamp;

/// No message is larger than this: half of the 1 MiB that a broker takes by default.
pub const MESSAGE_BYTES_MAX: usize = 512 * 1024;
/// A source whose entries for one shard have reached this size is flushed at once.
pub const FRAME_BYTES_FLUSH: usize = 128 * 1024;

const MAGIC: [u8; 3] = *b"CMF";
/// The format version that this program writes, and the newest that it reads.
pub const VERSION: u8 = 1;

const FLAG_MARK: u8 = 1;
const FLAG_IDLE: u8 = 2;
const FLAG_CLAIM: u8 = 4;
const FLAG_LOST: u8 = 8;

/// What all frames of a message have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    /// The identity of the input topic that the writer reads.
    pub topic: TopicId,
    /// How many partitions that topic has, as far as the writer knows.
    pub sources: u32,
}

/// One record of the repartition topic, decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// What all frames share.
    pub header: Header,
    /// The frames, in the order in which they take effect.
    pub frames: Vec<Frame<'a>>,
}

/// What kind of statement a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// "These are the matches of `[from, to)`."
    Records,
    /// "Up to this instant of the wall clock there was nothing after `to`."
    Idle {
        /// The wall clock, read before the check that found nothing.
        until: Timestamp,
    },
    /// "From now on I, with this epoch, speak for this source, and I begin at `from`."
    Claim,
    /// "`[from, to)` can't be read any more: retention was faster."
    Lost,
}

/// What one source says to one shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// Who speaks.
    pub source: SourceId,
    /// With which claim.
    pub epoch: Epoch,
    /// The kind of statement.
    pub kind: Kind,
    /// The first input offset that the frame covers.
    pub from: InputOffset,
    /// The input offset after the last that it covers.
    pub to: InputOffset,
    /// The source's running mark: the highest event time so far, capped by the wall clock. None before the first record.
    pub mark: Option<Timestamp>,
    /// The crash events of this shard's users in `[from, to)`, by offset.
    pub entries: Vec<Entry<'a>>,
}

/// One crash event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// Where it stands in its source.
    pub offset: InputOffset,
    /// When it happened.
    pub time: Timestamp,
    /// Whose crash it was.
    pub user: &'a str,
}

/// Crash events of one source for one shard that wait to be sent, already in their wire format.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    bytes: Vec<u8>,
    count: u64,
    last_offset: u64,
    last_time: i64,
}

impl Entries {
    /// Appends an event; offsets must rise and be at least `from`, the frame's beginning.
    pub fn push(&mut self, from: InputOffset, entry: Entry<'_>) {
        let base = if self.count == 0 { from.0 } else { self.last_offset };
        put_u64(&mut self.bytes, entry.offset.0 - base);
        put_i64(&mut self.bytes, entry.time.as_millis().wrapping_sub(self.last_time));
        put_bytes(&mut self.bytes, entry.user.as_bytes());
        self.last_offset = entry.offset.0;
        self.last_time = entry.time.as_millis();
        self.count += 1;
    }

    /// Size of the events in bytes.
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        (self.count, self.last_offset, self.last_time) = (0, 0, 0);
    }
}

/// The part of a frame that is the same for every shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statement {
    /// Who speaks.
    pub source: SourceId,
    /// With which claim.
    pub epoch: Epoch,
    /// The kind of statement.
    pub kind: Kind,
    /// First offset covered.
    pub from: InputOffset,
    /// Offset after the last covered.
    pub to: InputOffset,
    /// The running mark.
    pub mark: Option<Timestamp>,
}

/// Assembles a message.
#[derive(Debug)]
pub struct MessageWriter {
    bytes: Vec<u8>,
}

impl MessageWriter {
    /// An empty message.
    pub fn new(header: Header) -> MessageWriter {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&MAGIC);
        bytes.push(VERSION);
        bytes.extend_from_slice(&header.topic.0);
        put_u64(&mut bytes, u64::from(header.sources));
        MessageWriter { bytes }
    }

    /// Appends a frame and empties `entries`.
    pub fn frame(&mut self, statement: &Statement, entries: &mut Entries) {
        let mark = if statement.mark.is_some() { FLAG_MARK } else { 0 };
        let kind = match statement.kind {
            Kind::Records => 0,
            Kind::Idle { .. } => FLAG_IDLE,
            Kind::Claim => FLAG_CLAIM,
            Kind::Lost => FLAG_LOST,
        };
        let out = &mut self.bytes;
        out.push(mark | kind);
        put_u64(out, u64::from(statement.source.0));
        put_u64(out, statement.epoch.0);
        put_u64(out, statement.from.0);
        put_u64(out, statement.to.0 - statement.from.0);
        if let Some(mark) = statement.mark {
            put_i64(out, mark.as_millis());
        }
        if let Kind::Idle { until } = statement.kind {
            put_i64(out, until.as_millis());
        }
        put_u64(out, entries.count);
        out.extend_from_slice(&entries.bytes);
        entries.clear();
    }

    /// Size so far in bytes.
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// The finished record value.
    pub fn finish(mut self) -> Vec<u8> {
        codec::seal(&mut self.bytes);
        self.bytes
    }
}

impl<'a> Message<'a> {
    /// Reads a record value.
    ///
    /// # Errors
    /// Any [`codec::Error`]. Whoever reads the repartition topic stops at one: a frame skipped is a count lost.
    pub fn decode(bytes: &'a [u8]) -> Result<Message<'a>, Error> {
        let mut reader = codec::open(bytes, MAGIC, VERSION)?;
        let header = Header { topic: TopicId(reader.array()?), sources: reader.u32()? };
        let mut frames = Vec::new();
        while !reader.is_empty() {
            frames.push(decode_frame(&mut reader)?);
        }
        Ok(Message { header, frames })
    }
}

fn decode_frame<'a>(reader: &mut Reader<'a>) -> Result<Frame<'a>, Error> {
    let flags = reader.byte()?;
    let source = SourceId(reader.u32()?);
    if source.0 == u32::MAX {
        return Err(Error::Invalid);
    }
    let epoch = Epoch(reader.u64()?);
    let from = InputOffset(reader.u64()?);
    let to = InputOffset(from.0.checked_add(reader.u64()?).ok_or(Error::Invalid)?);
    let mark = match flags & FLAG_MARK {
        0 => None,
        _ => Some(Timestamp::from_millis(reader.i64()?)),
    };
    let kind = match flags & !FLAG_MARK {
        0 => Kind::Records,
        FLAG_IDLE => Kind::Idle { until: Timestamp::from_millis(reader.i64()?) },
        FLAG_CLAIM => Kind::Claim,
        FLAG_LOST => Kind::Lost,
        _ => return Err(Error::Invalid),
    };
    let entries = decode_entries(reader, from, to)?;
    Ok(Frame { source, epoch, kind, from, to, mark, entries })
}

fn decode_entries<'a>(
    reader: &mut Reader<'a>,
    from: InputOffset,
    to: InputOffset,
) -> Result<Vec<Entry<'a>>, Error> {
    let count = reader.u64()?;
    // Not with_capacity(count): a wrong count must not reserve memory that the bytes can't fill.
    let mut entries = Vec::new();
    let (mut offset, mut time) = (from.0, 0_i64);
    for _ in 0..count {
        offset = offset.checked_add(reader.u64()?).ok_or(Error::Invalid)?;
        time = time.wrapping_add(reader.i64()?);
        if offset >= to.0 {
            return Err(Error::Invalid);
        }
        let user = reader.text()?;
        entries.push(Entry { offset: InputOffset(offset), time: Timestamp::from_millis(time), user });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn statement(kind: Kind, from: u64, to: u64) -> Statement {
        Statement {
            source: SourceId(3),
            epoch: Epoch(7),
            kind,
            from: InputOffset(from),
            to: InputOffset(to),
            mark: Some(Timestamp::from_millis(1_768_142_570_123)),
        }
    }

    fn message(kind: Kind, from: u64, to: u64, events: &[(u64, i64, &str)]) -> Vec<u8> {
        let mut entries = Entries::default();
        for &(offset, time, user) in events {
            let entry = Entry { offset: InputOffset(offset), time: Timestamp::from_millis(time), user };
            entries.push(InputOffset(from), entry);
        }
        let mut writer = MessageWriter::new(Header { topic: TopicId([9; 16]), sources: 4 });
        writer.frame(&statement(kind, from, to), &mut entries);
        writer.finish()
    }

    #[test]
    fn a_frame_reads_back_what_was_written() {
        let bytes = message(Kind::Records, 10, 20, &[(10, 5, "a"), (19, -3, "")]);
        let message = Message::decode(&bytes).unwrap();
        assert_eq!(message.header, Header { topic: TopicId([9; 16]), sources: 4 });
        let frame = &message.frames[0];
        assert_eq!((frame.from, frame.to, frame.kind), (InputOffset(10), InputOffset(20), Kind::Records));
        let events: Vec<_> = frame.entries.iter().map(|e| (e.offset.0, e.time.as_millis(), e.user)).collect();
        assert_eq!(events, [(10, 5, "a"), (19, -3, "")]);
    }

    #[test]
    fn each_kind_reads_back() {
        let until = Timestamp::from_millis(99);
        for kind in [Kind::Claim, Kind::Lost, Kind::Idle { until }, Kind::Records] {
            let bytes = message(kind, 5, 5, &[]);
            assert_eq!(Message::decode(&bytes).unwrap().frames[0].kind, kind);
        }
    }

    #[test]
    fn an_unknown_version_is_named_and_not_skipped() {
        let mut bytes = message(Kind::Claim, 5, 5, &[]);
        bytes[3] = 2;
        assert_eq!(Message::decode(&bytes), Err(Error::Version(2)));
    }

    #[test]
    fn an_entry_outside_its_frame_is_refused() {
        let bytes = message(Kind::Records, 10, 12, &[(12, 5, "a")]);
        assert_eq!(Message::decode(&bytes), Err(Error::Invalid));
    }

    proptest! {
        #[test]
        fn one_flipped_byte_is_found(at in 4_usize..60, flip in 1_u8..) {
            let mut bytes = message(Kind::Records, 10, 20, &[(11, 5, "user_1000"), (19, 8, "user_1001")]);
            let at = at % bytes.len();
            prop_assume!(at >= 4);
            bytes[at] ^= flip;
            prop_assert_eq!(Message::decode(&bytes), Err(Error::Checksum));
        }

        #[test]
        fn any_sealed_bytes_decode_without_panic(body: Vec<u8>) {
            let mut bytes = [&b"CMF\x01"[..], &body[..]].concat();
            codec::seal(&mut bytes);
            let _ = Message::decode(&bytes);
        }
    }
}
