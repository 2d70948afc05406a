//! Record batches (format version 2), built in place.
//!
//! Must copy a record's bytes once and never look at them again, except to checksum or compress.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::compression::{Compressor, Gzip, Lz4, Snappy, Zstd};

use super::Error;

/// Length of a batch's header.
const HEADER_BYTES: usize = 61;

/// Position of the attributes: where the checksum starts.
const ATTRIBUTES_AT: usize = 21;

/// The most that a record adds to its key and value: six varints of up to 5 bytes, attributes.
const RECORD_OVERHEAD_BYTES: usize = 31;

/// How record batches are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy in the framing that Kafka's Java clients use.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// Who writes, as the broker knows it: what makes a repeated batch harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) producer_id: i64,
    pub(super) epoch: i16,
}

/// The batch of one partition that records are being appended to.
pub(super) struct Builder {
    buffer: BytesMut,
    records: i32,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self { buffer: BytesMut::new(), records: 0 }
    }

    pub(super) fn records(&self) -> i32 {
        self.records
    }

    /// Size of the batch so far, uncompressed.
    pub(super) fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The size that the batch would have at most with this record.
    pub(super) fn bytes_with(&self, key: Option<&[u8]>, value: Option<&[u8]>) -> usize {
        let length = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
        self.buffer.len().max(HEADER_BYTES) + RECORD_OVERHEAD_BYTES + length(key) + length(value)
    }

    /// Gives an empty builder a buffer to write into.
    pub(super) fn start(&mut self, mut buffer: BytesMut) {
        debug_assert_eq!(self.records, 0);
        buffer.clear();
        buffer.put_bytes(0, HEADER_BYTES);
        self.buffer = buffer;
    }

    /// Appends a record; all records of a batch have its timestamp.
    #[inline]
    pub(super) fn push(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) {
        debug_assert!(self.buffer.len() >= HEADER_BYTES, "started");
        let part =
            |part: Option<&[u8]>| part.map_or(1, |bytes| varint_bytes(bytes.len() as i32) + bytes.len());
        // Attributes, timestamp delta and header count are one byte each.
        let body_bytes = 3 + varint_bytes(self.records) + part(key) + part(value);
        self.buffer.reserve(body_bytes + 5);
        put_varint(&mut self.buffer, body_bytes as i32);
        self.buffer.put_u8(0);
        self.buffer.put_u8(0);
        put_varint(&mut self.buffer, self.records);
        for part in [key, value] {
            put_varint(&mut self.buffer, part.map_or(-1, |bytes| bytes.len() as i32));
            self.buffer.put_slice(part.unwrap_or_default());
        }
        self.buffer.put_u8(0);
        self.records += 1;
    }

    /// The finished batch. The builder is empty afterwards and must be started again.
    pub(super) fn finish(
        &mut self,
        identity: Identity,
        sequence: i32,
        compression: Compression,
    ) -> Result<Bytes, Error> {
        let plain = std::mem::take(&mut self.buffer);
        let records = std::mem::take(&mut self.records);
        let mut batch = compressed(plain, compression)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64);
        let length = batch.len();
        let mut header = &mut batch[..HEADER_BYTES];
        header.put_i64(0); // base offset: the broker's to say
        header.put_i32((length - 12) as i32);
        header.put_i32(-1); // leader epoch: the broker's to say
        header.put_i8(2);
        header.put_u32(0); // checksum, below
        header.put_i16(compression as i16);
        header.put_i32(records - 1);
        header.put_i64(now);
        header.put_i64(now);
        header.put_i64(identity.producer_id);
        header.put_i16(identity.epoch);
        header.put_i32(sequence);
        header.put_i32(records);
        let checksum = crc32c::crc32c(&batch[ATTRIBUTES_AT..]);
        batch[ATTRIBUTES_AT - 4..ATTRIBUTES_AT].copy_from_slice(&checksum.to_be_bytes());
        Ok(batch.freeze())
    }
}

/// The same batch with the part behind its header compressed.
fn compressed(plain: BytesMut, compression: Compression) -> Result<BytesMut, Error> {
    if compression == Compression::None {
        return Ok(plain);
    }
    let mut batch = BytesMut::with_capacity(plain.len());
    batch.put_bytes(0, HEADER_BYTES);
    let fill = |buffer: &mut BytesMut| {
        buffer.extend_from_slice(&plain[HEADER_BYTES..]);
        Ok(())
    };
    let done = match compression {
        Compression::None => Ok(()),
        Compression::Gzip => Gzip::compress(&mut batch, |buffer| fill(buffer)),
        Compression::Snappy => Snappy::compress(&mut batch, fill),
        Compression::Lz4 => Lz4::compress(&mut batch, |buffer| fill(buffer)),
        Compression::Zstd => Zstd::compress(&mut batch, fill),
    };
    done.map_err(|error| Error::Protocol(format!("{error:#}")))?;
    Ok(batch)
}

/// Length of a number in zigzag variable-length encoding.
#[inline]
fn varint_bytes(value: i32) -> usize {
    let bits = 32 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

#[inline]
fn put_varint(buffer: &mut BytesMut, value: i32) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        buffer.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    buffer.put_u8(rest as u8);
}

#[inline]
fn zigzag(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

#[cfg(test)]
mod tests {
    use kafka_protocol::records::RecordBatchDecoder;

    use super::*;

    /// What was pushed must be what a reader of the format, written by others, finds.
    #[test]
    fn an_independent_decoder_reads_the_batch() {
        let long = vec![b'x'; 100_000];
        type Part<'a> = Option<&'a [u8]>;
        let pushed: [(Part, Part); 5] = [
            (None, Some(b"one")),
            (Some(b"key"), Some(&long)),
            (Some(b""), Some(b"")),
            (None, None),
            (Some(b"k"), None),
        ];
        let all =
            [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];
        for compression in all {
            let mut builder = Builder::new();
            builder.start(BytesMut::from(&b"left over"[..]));
            for round in 0..100 {
                let (key, value) = pushed[round % pushed.len()];
                let bound = builder.bytes_with(key, value);
                builder.push(key, value);
                assert!(builder.bytes() <= bound);
            }
            assert_eq!(builder.records(), 100);
            let identity = Identity { producer_id: 4000, epoch: 3 };
            let mut batch = builder.finish(identity, 77, compression).unwrap();
            assert_eq!(builder.records(), 0);
            let set = RecordBatchDecoder::decode(&mut batch).unwrap();
            assert_eq!(set.records.len(), 100);
            for (index, record) in set.records.iter().enumerate() {
                let (key, value) = pushed[index % pushed.len()];
                assert_eq!(
                    (record.key.as_deref(), record.value.as_deref()),
                    (key, value),
                    "{compression:?} {index}"
                );
                assert_eq!(record.offset, index as i64);
                assert_eq!((record.producer_id, record.producer_epoch), (4000, 3));
                assert_eq!(record.sequence, 77 + index as i32);
            }
        }
    }

    #[test]
    fn varints_have_the_length_that_is_foretold() {
        for value in [0, -1, 1, 63, 64, -64, -65, 8191, 8192, 1 << 20, i32::MAX, i32::MIN] {
            let mut buffer = BytesMut::new();
            put_varint(&mut buffer, value);
            assert_eq!(buffer.len(), varint_bytes(value), "{value}");
        }
    }
}
