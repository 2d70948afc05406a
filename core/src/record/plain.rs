//! The reader for the common layout: one flat object in ASCII without control characters and without a backslash.
//!
//! Responsible for being fast, and for accepting nothing that `serde_json` would read differently. Whatever it is not
//! sure of it returns as `None`, for the general reader; so it must never call a record malformed.
//!
//! Why so little is enough: without control characters, backslashes and bytes above ASCII every quote begins or ends
//! a string, every string stands for itself, and the only white space is the space. So the quotes are found for whole
//! blocks of bytes, and what is left to look at are the few bytes between a string's end and the next one's start.
//! Whether the bytes are such is found in the same pass, block by block, so it is known only at the end: what was read
//! until then is worth nothing if they are not.

use std::borrow::Cow;

use super::lanes::{self, BLOCK_BYTES, Survey};
use super::{Fields, Malformed, Matcher, swar, timestamp_from_unsigned, user_id_fits};
use crate::time::Timestamp;

/// The most digits that are read here: they fit an `u64` and are far from the range of a float.
const DIGITS_MAX: usize = 18;

/// The four fields, undecoded; `None` for one that is missing. One of a wrong type is the general reader's.
#[derive(Default)]
pub(super) struct PlainFields<'a> {
    timestamp_ms: Option<u64>,
    content: Option<&'a [u8]>,
    severity: Option<&'a [u8]>,
    user: Option<&'a [u8]>,
}

impl<'a> PlainFields<'a> {
    fn set(&mut self, key: &[u8], value: Scalar<'a>) -> Option<()> {
        match (key, value) {
            (b"timestamp", Scalar::Unsigned(ms)) => self.timestamp_ms = Some(ms),
            (b"content", Scalar::Text(content)) => self.content = Some(content),
            (b"severity", Scalar::Text(severity)) => self.severity = Some(severity),
            (b"user_id", Scalar::Text(user)) => self.user = Some(user),
            (b"timestamp" | b"content" | b"severity" | b"user_id", _) => return None,
            _ => {}
        }
        Some(())
    }
}

impl<'a> Fields<'a> for PlainFields<'a> {
    fn timestamp(&self) -> Result<Timestamp, Malformed> {
        timestamp_from_unsigned(self.timestamp_ms.ok_or(Malformed::TimestampMissing)?)
    }

    fn content_matches(&self, matcher: &Matcher) -> bool {
        self.content.is_some_and(|content| matcher.word.is_in_ascii(content))
    }

    fn severity_listed(&self, matcher: &Matcher) -> Result<bool, Malformed> {
        self.severity.map(|severity| matcher.lists_severity(severity)).ok_or(Malformed::SeverityMissing)
    }

    fn user(self) -> Result<Cow<'a, str>, Malformed> {
        let user = self.user.ok_or(Malformed::UserIdMissing)?;
        let user = std::str::from_utf8(user).expect("the whole record was found to be ASCII");
        user_id_fits(user).map(Cow::Borrowed)
    }
}

/// A value as far as it matters here.
enum Scalar<'a> {
    Text(&'a [u8]),
    Unsigned(u64),
    /// A negative number or one with a fraction, `true`, `false` or `null`.
    Other,
}

/// Reads `bytes` if they have the common layout.
pub(super) fn read(bytes: &[u8]) -> Option<PlainFields<'_>> {
    let mut fields = PlainFields::default();
    let mut text = Cursor { bytes, at: 0, quotes: Quotes::new(bytes) };
    text.expect(b'{')?;
    loop {
        text.skip_spaces();
        let key = text.string()?;
        text.expect(b':')?;
        text.skip_spaces();
        fields.set(key, text.scalar()?)?;
        text.skip_spaces();
        match text.next()? {
            b',' => {}
            b'}' => break,
            _ => return None,
        }
    }
    text.skip_spaces();
    // Behind the last quote there may be blocks of spaces, which were seen to be spaces.
    (text.rest().is_empty() && !text.quotes.odd).then_some(fields)
}

/// Where the quotes are, in order, a block of bytes at a time.
struct Quotes<'a> {
    bytes: &'a [u8],
    /// The start of the block.
    base: usize,
    /// The block's quotes that were not given out yet, one bit a byte.
    left: u64,
    /// Whether a byte up to the block's end is none of the common layout's.
    odd: bool,
}

impl<'a> Quotes<'a> {
    fn new(bytes: &'a [u8]) -> Quotes<'a> {
        let Survey { quotes, odd } = Quotes::of_block_at(bytes, 0);
        Quotes { bytes, base: 0, left: quotes, odd }
    }

    fn next(&mut self) -> Option<usize> {
        while self.left == 0 {
            self.base += BLOCK_BYTES;
            if self.base >= self.bytes.len() {
                return None;
            }
            let Survey { quotes, odd } = Quotes::of_block_at(self.bytes, self.base);
            (self.left, self.odd) = (quotes, self.odd | odd);
        }
        let at = self.base + self.left.trailing_zeros() as usize;
        self.left &= self.left - 1;
        Some(at)
    }

    #[inline(always)]
    fn of_block_at(bytes: &[u8], base: usize) -> Survey {
        let rest = &bytes[base..];
        if let Some(block) = rest.first_chunk() {
            return lanes::survey(block);
        }
        // The end of the bytes: taken from the last whole block, or, if there is none, from a padded copy.
        if let Some(block) = bytes.last_chunk() {
            let Survey { quotes, odd } = lanes::survey(block);
            return Survey { quotes: quotes.unbounded_shr((BLOCK_BYTES - rest.len()) as u32), odd };
        }
        let mut block = [b' '; BLOCK_BYTES];
        block[..rest.len()].copy_from_slice(rest);
        lanes::survey(&block)
    }
}

/// How far the text is read.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The quotes from `at` on: all before it belong to strings that were read.
    quotes: Quotes<'a>,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    /// Reads `byte`, with any spaces before it.
    fn expect(&mut self, byte: u8) -> Option<()> {
        self.skip_spaces();
        (self.next()? == byte).then_some(())
    }

    fn skip_spaces(&mut self) {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
    }

    #[inline(always)]
    fn string(&mut self) -> Option<&'a [u8]> {
        if self.quotes.next()? != self.at {
            return None;
        }
        let end = self.quotes.next()?;
        let string = self.bytes.get(self.at + 1..end)?;
        self.at = end + 1;
        Some(string)
    }

    #[inline(always)]
    fn scalar(&mut self) -> Option<Scalar<'a>> {
        match self.peek()? {
            b'"' => self.string().map(Scalar::Text),
            b't' => self.literal(b"true"),
            b'f' => self.literal(b"false"),
            b'n' => self.literal(b"null"),
            _ => self.number(),
        }
    }

    fn literal(&mut self, literal: &[u8]) -> Option<Scalar<'a>> {
        let _ = self.rest().strip_prefix(literal)?;
        self.at += literal.len();
        Some(Scalar::Other)
    }

    /// A number without an exponent. What follows it is for the caller to check.
    #[inline(always)]
    fn number(&mut self) -> Option<Scalar<'a>> {
        if let Some(ms) = self.millis_of_this_age() {
            return Some(Scalar::Unsigned(ms));
        }
        let is_negative = self.peek()? == b'-';
        self.at += usize::from(is_negative);
        let digits = self.digits()?;
        if digits[0] == b'0' && digits.len() > 1 {
            return None;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        } else if !is_negative {
            let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
            return Some(Scalar::Unsigned(number));
        }
        Some(Scalar::Other)
    }

    fn digits(&mut self) -> Option<&'a [u8]> {
        let length = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        let digits = &self.rest()[..length];
        self.at += length;
        (1..=DIGITS_MAX).contains(&length).then_some(digits)
    }

    /// An integer of 13 digits, as the time in milliseconds is from 2001 to 2286, in two overlapping steps of eight.
    #[inline(always)]
    fn millis_of_this_age(&mut self) -> Option<u64> {
        let digits = self.rest().first_chunk::<13>()?;
        // Nothing depends on this but that longer numbers are read here too.
        let is_whole = self.bytes.get(self.at + 13).is_some_and(|byte| matches!(byte, b',' | b'}' | b' '));
        let first_eight = swar::decimal(swar::load(digits)?)?;
        let last_eight = swar::decimal(swar::load(&digits[5..])?)?;
        if digits[0] == b'0' || !is_whole {
            return None;
        }
        self.at += 13;
        Some(first_eight * 100_000 + last_eight % 100_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMON: &str = r#"{"timestamp":1768142570123,"status":"ERROR","severity":"High","source_ip":"10.1.2.3","user_id":"user_1234","content":"session crash after timeout"}"#;

    /// Both readers give the same answers, so only here can it be seen which of them read.
    #[test]
    fn the_common_layout_is_read_here() {
        for text in [
            COMMON.to_owned(),
            COMMON.replace(':', ": ").replace(',', ", "),
            COMMON.replace(
                "\"status\":\"ERROR\"",
                r#""a":true,"b":null,"c":false,"d":-1.50,"e":0,"g":1768142570123456,"f":"""#,
            ),
            COMMON.replace("1768142570123", "1768142570"),
            COMMON.replace("timeout", &"timeout ".repeat(100)),
            format!(" {COMMON} "),
            r#"{"timestamp":0}"#.to_owned(),
        ] {
            let fields = read(text.as_bytes()).expect(&text);
            assert_eq!(fields.content.is_some(), text.contains("content"));
        }
    }

    #[test]
    fn whatever_is_not_plain_is_left_to_the_general_reader() {
        for (from, to) in [
            ("ERROR", "ERR\\u004fR"),
            ("ERROR", "\u{fc}"),
            ("\"ERROR\"", "{}"),
            ("\"ERROR\"", "[1]"),
            ("\"ERROR\"", "1e3"),
            ("\"ERROR\"", "01"),
            ("\"ERROR\"", "1."),
            ("\"ERROR\"", "-"),
            ("\"ERROR\"", "tru"),
            ("\"High\"", "1"),
            ("1768142570123", "-1"),
            ("1768142570123", "1.0"),
            ("1768142570123", "1768142570123.0"),
            ("1768142570123", "0768142570123"),
            ("1768142570123", "1234567890123456789"),
            ("}", ""),
            ("}", "}}"),
            ("}", ",}"),
            ("{", "["),
            (",", ",,"),
            (",", "\n,"),
        ] {
            let text = COMMON.replace(from, to);
            assert!(read(text.as_bytes()).is_none(), "{text}");
        }
        for end in 0..COMMON.len() {
            assert!(read(&COMMON.as_bytes()[..end]).is_none(), "{}", &COMMON[..end]);
        }
    }
}
