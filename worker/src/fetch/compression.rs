//! The four compressions of record batches.
//!
//! Responsible for decompressing into one buffer that is used again and again, and for a bound on what it may grow to.
//! Must never allocate for a record.

use std::io::Read;

/// The most that one batch may be decompressed to. Producers bound what they compress by their batch size, 16 KiB by
/// default; brokers by `message.max.bytes`, 1 MiB by default, of what is compressed.
pub const DECOMPRESSED_BYTES_MAX: usize = 128 << 20;
/// A buffer that one batch has made larger than this is given back before the next.
const KEPT_BYTES_MAX: usize = 8 << 20;
/// The buffer grows by at least this much.
const STEP_BYTES: usize = 64 << 10;
/// What snappy's framing in Java begins with; behind it are two version numbers.
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
const XERIAL_HEADER_BYTES: usize = 16;

/// Why a batch can't be decompressed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes are no such stream.
    #[error("{codec:?}: {reason}")]
    Damaged {
        /// The compression.
        codec: Codec,
        /// What the decompressor says.
        reason: String,
    },
    /// More than [`DECOMPRESSED_BYTES_MAX`].
    #[error("{0:?}: a batch of more than {DECOMPRESSED_BYTES_MAX} bytes")]
    TooLarge(Codec),
}

/// A compression.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Codec {
    /// RFC 1952.
    Gzip,
    /// Snappy: a bare block, as librdkafka writes it, or blocks in the framing of Java's library.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Codec {
    /// By the number in a batch's attributes: `Some(None)` for no compression, `None` for one that is not known.
    pub fn of(number: i16) -> Option<Option<Codec>> {
        match number {
            0 => Some(None),
            1 => Some(Some(Codec::Gzip)),
            2 => Some(Some(Codec::Snappy)),
            3 => Some(Some(Codec::Lz4)),
            4 => Some(Some(Codec::Zstd)),
            _ => None,
        }
    }
}

/// What decompressing needs, kept from batch to batch.
#[derive(Default)]
pub struct Scratch {
    output: Output,
    snappy: snap::raw::Decoder,
    zstd: Option<zstd::stream::raw::Decoder<'static>>,
}

/// Bytes that are written over and over, so that nothing is filled with zeros first.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    len: usize,
}

impl Output {
    fn clear(&mut self) {
        if self.bytes.len() > KEPT_BYTES_MAX {
            self.bytes = Vec::new();
        }
        self.len = 0;
    }

    /// At least `least` bytes to write to; [`Output::wrote`] says how many were.
    fn room(&mut self, codec: Codec, least: usize) -> Result<&mut [u8], Error> {
        let needed = self.len.saturating_add(least);
        if needed > DECOMPRESSED_BYTES_MAX {
            return Err(Error::TooLarge(codec));
        }
        if self.bytes.len() < needed {
            let size =
                needed.max(self.bytes.len() * 2).next_multiple_of(STEP_BYTES).min(DECOMPRESSED_BYTES_MAX);
            self.bytes.resize(size, 0);
        }
        Ok(&mut self.bytes[self.len..])
    }

    fn wrote(&mut self, bytes: usize) {
        self.len += bytes;
    }
}

impl Scratch {
    /// Decompresses `stored`; what is returned lives until the next call.
    pub fn decompress(&mut self, codec: Codec, stored: &[u8]) -> Result<&[u8], Error> {
        self.output.clear();
        match codec {
            Codec::Gzip => self.read_all(codec, flate2::bufread::MultiGzDecoder::new(stored))?,
            Codec::Lz4 => self.read_all(codec, lz4_flex::frame::FrameDecoder::new(stored))?,
            Codec::Snappy => self.snappy(stored)?,
            Codec::Zstd => self.zstd(stored)?,
        }
        Ok(&self.output.bytes[..self.output.len])
    }

    fn read_all(&mut self, codec: Codec, mut reader: impl Read) -> Result<(), Error> {
        loop {
            match reader.read(self.output.room(codec, 1)?) {
                Ok(0) => return Ok(()),
                Ok(bytes) => self.output.wrote(bytes),
                Err(error) => return Err(damaged(codec, &error)),
            }
        }
    }

    fn snappy(&mut self, stored: &[u8]) -> Result<(), Error> {
        if !stored.starts_with(XERIAL_MAGIC) {
            return self.snappy_block(stored);
        }
        let cut = || Error::Damaged { codec: Codec::Snappy, reason: "a block is cut off".to_owned() };
        let mut rest = stored.get(XERIAL_HEADER_BYTES..).ok_or_else(cut)?;
        while !rest.is_empty() {
            let (length, behind) = rest.split_first_chunk().ok_or_else(cut)?;
            let length = u32::from_be_bytes(*length) as usize;
            let (block, behind) = behind.split_at_checked(length).ok_or_else(cut)?;
            self.snappy_block(block)?;
            rest = behind;
        }
        Ok(())
    }

    fn snappy_block(&mut self, block: &[u8]) -> Result<(), Error> {
        let length = snap::raw::decompress_len(block).map_err(|error| damaged(Codec::Snappy, &error))?;
        let room = self.output.room(Codec::Snappy, length)?;
        let written = self.snappy.decompress(block, room);
        self.output.wrote(written.map_err(|error| damaged(Codec::Snappy, &error))?);
        Ok(())
    }

    /// With one context for all batches: to make one takes longer than to decompress a small batch.
    fn zstd(&mut self, stored: &[u8]) -> Result<(), Error> {
        use zstd::stream::raw::{InBuffer, Operation, OutBuffer};
        let failed = |error: std::io::Error| damaged(Codec::Zstd, &error);
        let decoder = match &mut self.zstd {
            Some(decoder) => {
                decoder.reinit().map_err(failed)?;
                decoder
            }
            none => none.insert(zstd::stream::raw::Decoder::new().map_err(failed)?),
        };
        let mut input = InBuffer::around(stored);
        loop {
            let room = self.output.room(Codec::Zstd, 1)?;
            let size = room.len();
            let mut output = OutBuffer::around(room);
            let hint = decoder.run(&mut input, &mut output).map_err(failed)?;
            let written = output.pos();
            self.output.wrote(written);
            let is_input_used = input.pos() == stored.len();
            if is_input_used && hint == 0 {
                return Ok(());
            }
            if is_input_used && written < size {
                let reason = "the stream is cut off".to_owned();
                return Err(Error::Damaged { codec: Codec::Zstd, reason });
            }
        }
    }
}

fn damaged(codec: Codec, error: &dyn std::fmt::Display) -> Error {
    Error::Damaged { codec, reason: error.to_string() }
}
