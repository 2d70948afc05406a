//! The bytes that frames and snapshots share: variable-length integers, length-prefixed bytes, a checksum at the end.
//!
//! Responsible for writing and reading these primitives without a panic on any input. Must never know what they mean.
//!
//! Integers are unsigned LEB128 (seven bits a byte, low bits first), signed ones zigzagged before, as in Protocol
//! Buffers and Kafka's own record format. The checksum is CRC-32C, little-endian, over everything before it.

/// Why bytes could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// The bytes end inside a value.
    #[error("the bytes end too early")]
    Truncated,
    /// The checksum does not match.
    #[error("the checksum is wrong")]
    Checksum,
    /// The bytes begin with something else.
    #[error("the bytes are not of this format")]
    Magic,
    /// A version that this program does not know: a newer program wrote it.
    #[error("format version {0} is not known to this program; run the version that wrote it, or a newer one")]
    Version(u8),
    /// A value that the format does not allow.
    #[error("a value is out of range")]
    Invalid,
}

/// Appends an unsigned integer.
pub fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed integer.
pub fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends bytes behind their length.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends the checksum of all bytes so far.
pub fn seal(out: &mut Vec<u8>) {
    let checksum = crc32c::crc32c(out);
    out.extend_from_slice(&checksum.to_le_bytes());
}

/// Checks what [`seal`] appended and returns the bytes before it.
pub fn unseal(bytes: &[u8]) -> Result<&[u8], Error> {
    let (body, checksum) = bytes.split_last_chunk::<4>().ok_or(Error::Truncated)?;
    if crc32c::crc32c(body) == u32::from_le_bytes(*checksum) { Ok(body) } else { Err(Error::Checksum) }
}

/// A reader behind magic and version of sealed bytes that are of this format and version.
///
/// The version is looked at before the checksum: another version may place or compute its checksum otherwise.
pub fn open(bytes: &[u8], magic: [u8; 3], version: u8) -> Result<Reader<'_>, Error> {
    if !bytes.starts_with(&magic) {
        return Err(Error::Magic);
    }
    match bytes.get(magic.len()) {
        Some(&found) if found == version => {}
        Some(&found) => return Err(Error::Version(found)),
        None => return Err(Error::Truncated),
    }
    let body = unseal(bytes)?;
    Ok(Reader::new(body.get(magic.len() + 1..).ok_or(Error::Truncated)?))
}

/// Reads values one after another.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the first of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8, Error> {
        let (&byte, rest) = self.rest.split_first().ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(byte)
    }

    /// `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(*array)
    }

    /// An unsigned integer.
    pub fn u64(&mut self) -> Result<u64, Error> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Error::Invalid);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Error::Invalid)
    }

    /// An unsigned integer that fits 32 bits.
    pub fn u32(&mut self) -> Result<u32, Error> {
        u32::try_from(self.u64()?).map_err(|_| Error::Invalid)
    }

    /// A signed integer.
    pub fn i64(&mut self) -> Result<i64, Error> {
        let value = self.u64()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Bytes behind their length.
    pub fn bytes(&mut self) -> Result<&'a [u8], Error> {
        let length = usize::try_from(self.u64()?).map_err(|_| Error::Invalid)?;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// UTF-8 text behind its length.
    pub fn text(&mut self) -> Result<&'a str, Error> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Error::Invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_is_read(a: u64, b: i64, c: Vec<u8>) {
            let mut out = Vec::new();
            put_u64(&mut out, a);
            put_i64(&mut out, b);
            put_bytes(&mut out, &c);
            seal(&mut out);
            let mut reader = Reader::new(unseal(&out).unwrap());
            prop_assert_eq!(reader.u64(), Ok(a));
            prop_assert_eq!(reader.i64(), Ok(b));
            prop_assert_eq!(reader.bytes(), Ok(&c[..]));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn any_bytes_read_without_panic(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes);
            while reader.u64().is_ok() && reader.text().is_ok() && !reader.is_empty() {}
            let _ = unseal(&bytes);
        }
    }
}
