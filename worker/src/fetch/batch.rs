//! Record batches (format version 2), walked where they lie.
//!
//! Responsible for reading what a broker sent without a copy and without an allocation for each record, and for never
//! believing it: every length is checked, every batch has its checksum verified, and no bytes make this panic. Must
//! never skip what it can't read: an error names it, and the caller reads no further.

use super::compression::{self, Codec, Scratch};

/// Length of a batch's header.
pub const HEADER_BYTES: usize = 61;
/// What the batch's own length does not count: base offset and the length itself.
const LENGTH_FROM: usize = 12;
/// Where the format's number stands, the same in all formats.
const MAGIC_AT: usize = 16;
/// Where that begins which the checksum covers.
const CHECKED_FROM: usize = 21;

/// Why a batch can't be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A format before version 2, as brokers wrote before Kafka 0.11, or one that is not known yet.
    #[error("record batches of format {0}")]
    Format(i8),
    /// A compression that is not known.
    #[error("record batches with compression number {0}")]
    Codec(i16),
    /// The checksum is not that of the bytes.
    #[error("the checksum is wrong")]
    Checksum,
    /// The bytes contradict each other.
    #[error("{0}")]
    Malformed(&'static str),
    /// The records can't be decompressed.
    #[error(transparent)]
    Compression(#[from] compression::Error),
}

impl Error {
    /// Whether another reader may know what to do with these bytes: they are not damaged, only strange.
    pub fn is_foreign(&self) -> bool {
        matches!(self, Error::Format(_) | Error::Codec(_))
    }
}

/// One batch, its header understood and nothing else looked at.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// Header and records, as long as the batch says.
    bytes: &'a [u8],
}

impl<'a> Batch<'a> {
    /// The first batch of `bytes` and what lies behind it; `None` if there is none, or only a part of one, as a broker
    /// sends it where a response ends.
    pub fn split_first(bytes: &'a [u8]) -> Result<Option<(Batch<'a>, &'a [u8])>, Error> {
        let Some(&magic) = bytes.get(MAGIC_AT) else { return Ok(None) };
        if magic != 2 {
            return Err(Error::Format(magic.cast_signed()));
        }
        let length = i32::from_be_bytes(field(bytes, 8));
        let length = usize::try_from(length).ok().and_then(|length| length.checked_add(LENGTH_FROM));
        let Some(length) = length.filter(|length| *length >= HEADER_BYTES) else {
            return Err(Error::Malformed("a batch is shorter than its header"));
        };
        let Some((bytes, behind)) = bytes.split_at_checked(length) else { return Ok(None) };
        let batch = Batch { bytes };
        let delta = i32::from_be_bytes(field(bytes, 23));
        if delta < 0 || batch.base_offset() < 0 || batch.base_offset().checked_add(i64::from(delta)).is_none()
        {
            return Err(Error::Malformed("a batch has impossible offsets"));
        }
        Ok(Some((batch, behind)))
    }

    /// The offset of its first record, of the time when it was written.
    pub fn base_offset(&self) -> i64 {
        i64::from_be_bytes(field(self.bytes, 0))
    }

    /// The offset of its last record. Compaction may have removed that record and keeps the offset.
    pub fn last_offset(&self) -> i64 {
        self.base_offset() + i64::from(i32::from_be_bytes(field(self.bytes, 23)))
    }

    /// Who wrote it, as transactions know it.
    pub fn producer_id(&self) -> i64 {
        i64::from_be_bytes(field(self.bytes, 43))
    }

    /// When the broker appended it, in milliseconds since the epoch, if the topic is set to say so.
    pub fn appended_at_ms(&self) -> Option<i64> {
        let is_append_time = self.attributes() & 0x08 != 0;
        is_append_time.then(|| i64::from_be_bytes(field(self.bytes, 35)))
    }

    /// Whether it is part of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes() & 0x10 != 0
    }

    /// Whether it holds no records of anybody's but the end of a transaction.
    pub fn is_control(&self) -> bool {
        self.attributes() & 0x20 != 0
    }

    /// Whether the bytes are those that were written.
    pub fn check(&self) -> Result<(), Error> {
        let expected = u32::from_be_bytes(field(self.bytes, 17));
        let is_right = crc32c::crc32c(&self.bytes[CHECKED_FROM..]) == expected;
        if is_right { Ok(()) } else { Err(Error::Checksum) }
    }

    /// Its records, decompressed into `scratch` where that is needed.
    pub fn records<'r>(&self, scratch: &'r mut Scratch) -> Result<Records<'r>, Error>
    where
        'a: 'r,
    {
        let number = self.attributes() & 0x07;
        let codec = Codec::of(number).ok_or(Error::Codec(number))?;
        let count = i32::from_be_bytes(field(self.bytes, 57));
        let left = u32::try_from(count).map_err(|_| Error::Malformed("a batch with a negative count"))?;
        let stored: &'r [u8] = &self.bytes[HEADER_BYTES..];
        let rest = match codec {
            None => stored,
            Some(codec) => scratch.decompress(codec, stored)?,
        };
        Ok(Records { rest, left, base_offset: self.base_offset() })
    }

    fn attributes(&self) -> i16 {
        i16::from_be_bytes(field(self.bytes, 21))
    }
}

/// The offset behind the last whole batch of `bytes` that is understood, at least `from`. Only headers are looked at.
pub fn end_of(bytes: &[u8], from: i64) -> i64 {
    let (mut rest, mut end) = (bytes, from);
    while let Ok(Some((batch, behind))) = Batch::split_first(rest) {
        end = end.max(batch.last_offset() + 1);
        rest = behind;
    }
    end
}

/// A fixed field of a header that is known to be long enough.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("the header was found to be whole")
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its offset.
    pub offset: i64,
    /// Its key, if it has one.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` for a tombstone.
    pub value: Option<&'a [u8]>,
}

/// What is left to read of a batch.
pub struct Records<'a> {
    rest: &'a [u8],
    left: u32,
    base_offset: i64,
}

impl<'a> Records<'a> {
    /// The next record; `None` behind the last.
    #[inline]
    pub fn next_record(&mut self) -> Result<Option<Record<'a>>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        self.record().map(Some).ok_or(Error::Malformed("a record does not fit its batch"))
    }

    #[inline(always)]
    fn record(&mut self) -> Option<Record<'a>> {
        let length = usize::try_from(varint(&mut self.rest)?).ok()?;
        let (mut body, behind) = self.rest.split_at_checked(length)?;
        self.rest = behind;
        // Attributes, of which there are none yet, and the timestamp, which says nothing that the batch does not.
        body = body.get(1..)?;
        varint(&mut body)?;
        let offset = self.base_offset.checked_add(varint(&mut body)?)?;
        let key = part(&mut body)?;
        let value = part(&mut body)?;
        // Headers are behind, and the length says where they end.
        Some(Record { offset, key, value })
    }
}

/// A key or value with its length before it, which is -1 for none.
#[inline(always)]
fn part<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = varint(rest)?;
    if length < 0 {
        return Some(None);
    }
    let (part, behind) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = behind;
    Some(Some(part))
}

/// A number in zigzag variable-length encoding; `None` if it does not end within ten bytes.
#[inline(always)]
fn varint(rest: &mut &[u8]) -> Option<i64> {
    // Nearly all take one byte or two.
    let raw = match **rest {
        [low, ref behind @ ..] if low < 0x80 => {
            *rest = behind;
            u64::from(low)
        }
        [low, high, ref behind @ ..] if high < 0x80 => {
            *rest = behind;
            u64::from(low & 0x7f) | u64::from(high) << 7
        }
        _ => long_varint(rest)?,
    };
    Some((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
}

#[cold]
fn long_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut raw = 0;
    for (i, &byte) in rest.iter().take(10).enumerate() {
        raw |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            *rest = &rest[i + 1..];
            return Some(raw);
        }
    }
    None
}

/// Which batches of one response belong to aborted transactions.
///
/// A broker names, for the stretch that it sends, each aborted transaction with its producer and its first offset. From
/// there on that producer's batches are void, until a control batch of the producer ends the transaction.
#[derive(Debug, Default)]
pub struct Aborted {
    /// `(first offset, producer)`, the last first.
    upcoming: Vec<(i64, i64)>,
    open: Vec<i64>,
}

impl Aborted {
    /// From what the broker said, `(producer, first offset)` in any order.
    pub fn new(transactions: impl IntoIterator<Item = (i64, i64)>) -> Aborted {
        let mut upcoming: Vec<_> =
            transactions.into_iter().map(|(producer, first)| (first, producer)).collect();
        upcoming.sort_unstable_by(|a, b| b.cmp(a));
        Aborted { upcoming, open: Vec::new() }
    }

    /// Whether the batch holds records that count. Ask for each batch once, in order.
    pub fn admits(&mut self, batch: &Batch<'_>) -> Result<bool, Error> {
        while self.upcoming.last().is_some_and(|(first, _)| *first <= batch.last_offset()) {
            self.open.extend(self.upcoming.pop().map(|(_, producer)| producer));
        }
        if batch.is_control() {
            if is_abort(batch)? {
                self.open.retain(|producer| *producer != batch.producer_id());
            }
            return Ok(false);
        }
        Ok(!(batch.is_transactional() && self.open.contains(&batch.producer_id())))
    }
}

/// Whether a control batch ends a transaction by aborting it. Its record's key is two numbers: a version and a kind.
fn is_abort(batch: &Batch<'_>) -> Result<bool, Error> {
    let mut scratch = Scratch::default();
    let record = batch.records(&mut scratch)?.next_record()?;
    Ok(record.and_then(|record| record.key).is_some_and(|key| key.get(2..4) == Some(&[0, 0])))
}

#[cfg(test)]
mod tests;
