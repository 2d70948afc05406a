//! The reader for the common layout: one flat object in ASCII without control characters and without a backslash, in
//! which a single space may stand behind each separator and nowhere else.
//!
//! Responsible for being fast, and for accepting nothing that `serde_json` would read differently. Whatever it is not
//! sure of it returns as `None`, for the general reader; so it must never call a record malformed.
//!
//! # Why so little is enough
//!
//! Without control characters, backslashes and bytes above ASCII every quote begins or ends a string, every string
//! stands for itself, and the only white space is the space. So it is known of a whole block of bytes at once what lies
//! within strings, and with it where the separators are: the colons and commas outside. The braces at both ends count
//! as commas. The bytes are then an object if
//!
//! 1. commas and colons take turns;
//! 2. between two separators stands more than a space;
//! 3. spaces outside strings stand right behind a separator;
//! 4. strings begin right behind a separator or such a space;
//! 5. a separator stands right behind every string, and a string right before every colon;
//! 6. what stands behind a colon, and does not begin with a quote, is a number, `true`, `false` or `null` that reaches
//!    to the next comma.
//!
//! By 2 and 3 something other than a separator or space follows each comma. It is a string: the next separator is a
//! colon (1), with a string right before it (5), and that string begins right behind the comma and its space (4), for no
//! separator stands between. Such a string is a key, and reaches to the colon (5). What follows the colon is a string,
//! which reaches to the comma (5), or 6 applies.
//!
//! Rules 1 to 5 are checked by [`Grammar`] for a block at once, and only the colons are visited: for rule 6, and to see
//! whether the key is one of the four.

use std::borrow::Cow;

use super::lanes::{BLOCK_BYTES, Instructions, Survey};
use super::layout::Habit;
use super::{Fields, Malformed, Prepared, Record, swar, timestamp_from_unsigned, user_id_fits};
use crate::time::Timestamp;

/// The most digits that are read here: they fit an `u64` and are far from the range of a float.
const DIGITS_MAX: usize = 18;

/// What `bytes` mean, if they have the common layout.
#[inline(always)]
pub(super) fn judge<'a, L: Instructions>(
    bytes: &'a [u8],
    rule: &Prepared,
    habit: &mut Habit,
    lanes: L,
) -> Option<Result<Record<'a>, Malformed>> {
    let bytes = trimmed(bytes);
    let found = match habit.read(bytes, lanes) {
        Some(found) => found,
        None => {
            let found = read(bytes, lanes)?;
            habit.note(bytes);
            found
        }
    };
    Some(rule.judge(PlainFields { found, lanes }))
}

/// The four fields; `None` for one that is missing. One of a wrong type is the general reader's.
#[derive(Default)]
pub(super) struct Found<'a> {
    pub(super) timestamp_ms: Option<u64>,
    pub(super) content: Option<Text<'a>>,
    pub(super) severity: Option<Text<'a>>,
    pub(super) user: Option<Text<'a>>,
}

impl<'a> Found<'a> {
    /// Notes the value of a field, in place of an earlier one; `None` for one of a wrong type.
    #[inline(always)]
    fn set(&mut self, field: Field, value: Value<'a>) -> Option<()> {
        match field {
            Field::Timestamp => self.timestamp_ms = Some(value.unsigned()?),
            Field::Content => self.content = Some(value.text()?),
            Field::Severity => self.severity = Some(value.text()?),
            Field::User => self.user = Some(value.text()?),
        }
        Some(())
    }
}

/// A field that matters.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field {
    Timestamp,
    Content,
    Severity,
    User,
}

/// The bytes of a string, with all that follows in the record: its end is only looked for when it is needed.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    pub(super) and_rest: &'a [u8],
}

impl<'a> Text<'a> {
    fn bytes(self) -> &'a [u8] {
        let end = memchr::memchr(b'"', self.and_rest).expect("the string was found to end");
        &self.and_rest[..end]
    }
}

struct PlainFields<'a, L> {
    found: Found<'a>,
    lanes: L,
}

impl<'a, L: Instructions> Fields<'a> for PlainFields<'a, L> {
    #[inline(always)]
    fn timestamp(&self) -> Result<Timestamp, Malformed> {
        timestamp_from_unsigned(self.found.timestamp_ms.ok_or(Malformed::TimestampMissing)?)
    }

    #[inline(always)]
    fn content_matches(&self, rule: &Prepared) -> bool {
        let Some(content) = self.found.content else { return false };
        // The word is seldom in the rest of the record, so that the end of the content need not be known.
        let Some(end) = rule.word.end_in_ascii(content.and_rest, self.lanes) else { return false };
        end <= content.bytes().len()
    }

    fn severity_listed(&self, rule: &Prepared) -> Result<bool, Malformed> {
        let severity = self.found.severity.ok_or(Malformed::SeverityMissing)?;
        Ok(rule.lists_severity(severity.bytes()))
    }

    fn user(self) -> Result<Cow<'a, str>, Malformed> {
        let user = self.found.user.ok_or(Malformed::UserIdMissing)?.bytes();
        let user = std::str::from_utf8(user).expect("the whole record was found to be ASCII");
        user_id_fits(user).map(Cow::Borrowed)
    }
}

/// Reads `bytes`, without white space around them, if they have the common layout.
#[inline(always)]
fn read<L: Instructions>(bytes: &[u8], lanes: L) -> Option<Found<'_>> {
    let [b'{', .., b'}'] = bytes else { return None };
    let padded;
    let blocks = if bytes.len() < BLOCK_BYTES {
        padded = padded_to_a_block(bytes);
        &padded
    } else {
        bytes
    };
    let mut members = Members { bytes, found: Found::default() };
    let mut grammar = Grammar::default();
    let mut braces = 1;
    for base in (0..bytes.len()).step_by(BLOCK_BYTES) {
        // The last block overlaps the one before it, of which no byte is seen twice.
        let at = base.min(blocks.len() - BLOCK_BYTES);
        let survey = lanes.survey(blocks[at..].first_chunk().expect("a block fits")).without_first(base - at);
        if bytes.len() - base <= BLOCK_BYTES {
            braces |= 1 << (bytes.len() - base - 1);
        }
        let colons = grammar.next_block(survey, braces, lanes)?;
        members.visit(base, colons)?;
        braces = 0;
    }
    Some(members.found)
}

/// A copy of less than a block, with bytes behind it that mean nothing.
#[cold]
fn padded_to_a_block(bytes: &[u8]) -> [u8; BLOCK_BYTES] {
    let mut block = [b'x'; BLOCK_BYTES];
    block[..bytes.len()].copy_from_slice(bytes);
    block
}

/// `bytes` without JSON's white space around them.
#[inline(always)]
fn trimmed(bytes: &[u8]) -> &[u8] {
    let mut bytes = bytes;
    while let [b' ' | b'\t' | b'\n' | b'\r', behind @ ..] = bytes {
        bytes = behind;
    }
    while let [before @ .., b' ' | b'\t' | b'\n' | b'\r'] = bytes {
        bytes = before;
    }
    bytes
}

/// What the blocks so far hand on to the next: of each kind that matters, whether the last byte was such.
///
/// One bit a byte in all masks, the first in the lowest, as in a [`Survey`].
#[derive(Default)]
struct Grammar {
    /// All bits are set if the block begins within a string.
    in_string: u64,
    /// Whether the last separator was a comma.
    in_key: bool,
    string_ended: u64,
    separator: u64,
    space: u64,
}

impl Grammar {
    /// Takes in a block, in which the `braces` are that begin and end the object, and returns its colons; `None` if one
    /// of the first five rules is broken.
    #[inline(always)]
    fn next_block<L: Instructions>(&mut self, survey: Survey, braces: u64, lanes: L) -> Option<u64> {
        let Survey { quotes, odd, .. } = survey;
        // With the quote that begins it, without that which ends it.
        let strings = lanes.parities(quotes) ^ self.in_string;
        self.in_string = if strings >> 63 == 1 { u64::MAX } else { 0 };
        let colons = survey.colons & !strings;
        let commas = survey.commas & !strings | braces;
        let spaces = survey.spaces & !strings;
        let separators = colons | commas;
        let behind_string = next_to(quotes & !strings, &mut self.string_ended);
        let behind_separator = next_to(separators, &mut self.separator);
        let behind_space = next_to(spaces, &mut self.space);
        // The difference has a run of ones from each comma up to its colon, if they take turns: a comma that follows a
        // comma falls out of it, a colon that follows a colon into it.
        let (keys, in_key) = colons.borrowing_sub(commas, self.in_key);
        self.in_key = in_key;
        let broken = ((keys & separators) ^ commas)
            | ((behind_separator | behind_space) & separators)
            | (spaces & !behind_separator)
            | (quotes & strings & !(behind_separator | behind_space))
            | (behind_string & !separators)
            | (colons & !behind_string)
            | (braces & strings);
        (broken == 0 && !odd).then_some(colons)
    }
}

/// The bytes behind those of `mask`. `carry` is the bit that the block before handed on, and then that for the next.
#[inline(always)]
fn next_to(mask: u64, carry: &mut u64) -> u64 {
    let behind = mask << 1 | *carry;
    *carry = mask >> 63;
    behind
}

/// The members of the object.
struct Members<'a> {
    bytes: &'a [u8],
    found: Found<'a>,
}

/// One of the keys that matter, by its last seven bytes and the quote behind them.
const fn tail(key: &[u8]) -> u64 {
    let (_, tail) = key.split_last_chunk().expect("it is longer");
    u64::from_le_bytes(*tail)
}

const TIMESTAMP: &[u8] = b"\"timestamp\"";
const CONTENT: &[u8] = b"\"content\"";
const SEVERITY: &[u8] = b"\"severity\"";
const USER_ID: &[u8] = b"\"user_id\"";
const TIMESTAMP_TAIL: u64 = tail(TIMESTAMP);
const CONTENT_TAIL: u64 = tail(CONTENT);
const SEVERITY_TAIL: u64 = tail(SEVERITY);
const USER_ID_TAIL: u64 = tail(USER_ID);

impl Field {
    /// How many there are.
    pub(super) const COUNT: usize = 4;

    /// The field of the key that `text` ends with, its quotes around it. No quote is within a key, so one that ends like
    /// this is this.
    #[inline(always)]
    pub(super) fn of(text: &[u8]) -> Option<Field> {
        match u64::from_le_bytes(*text.last_chunk()?) {
            TIMESTAMP_TAIL if text.ends_with(TIMESTAMP) => Some(Field::Timestamp),
            CONTENT_TAIL if text.ends_with(CONTENT) => Some(Field::Content),
            SEVERITY_TAIL if text.ends_with(SEVERITY) => Some(Field::Severity),
            USER_ID_TAIL if text.ends_with(USER_ID) => Some(Field::User),
            _ => None,
        }
    }
}

impl<'a> Members<'a> {
    /// Takes in the members with these `colons`, those of the block that begins at `base`.
    #[inline(always)]
    fn visit(&mut self, base: usize, mut colons: u64) -> Option<()> {
        while colons != 0 {
            self.member(base + colons.trailing_zeros() as usize)?;
            colons &= colons - 1;
        }
        Some(())
    }

    /// Takes in the member with the colon at `colon`: of equal keys the last counts.
    #[inline(always)]
    fn member(&mut self, colon: usize) -> Option<()> {
        let (key, value) = self.bytes.split_at_checked(colon)?;
        let value = match value {
            [_, b' ', value @ ..] | [_, value @ ..] => value,
            [] => return None,
        };
        let value = match value {
            [b'"', and_rest @ ..] => Value::Text(Text { and_rest }),
            _ => scalar(value)?.0,
        };
        match Field::of(key) {
            Some(field) => self.found.set(field, value),
            None => Some(()),
        }
    }
}

/// A value as far as it matters here.
pub(super) enum Value<'a> {
    Text(Text<'a>),
    Unsigned(u64),
    /// A negative number or one with a fraction, `true`, `false` or `null`.
    Other,
}

impl<'a> Value<'a> {
    fn text(self) -> Option<Text<'a>> {
        if let Value::Text(text) = self { Some(text) } else { None }
    }

    pub(super) fn unsigned(self) -> Option<u64> {
        if let Value::Unsigned(number) = self { Some(number) } else { None }
    }
}

/// The value that `text` begins with, no string, if it reaches to the next comma or the object's end; and its length.
#[inline(always)]
pub(super) fn scalar(text: &[u8]) -> Option<(Value<'_>, usize)> {
    let (value, behind) = match text {
        [b't', b'r', b'u', b'e', behind @ ..]
        | [b'f', b'a', b'l', b's', b'e', behind @ ..]
        | [b'n', b'u', b'l', b'l', behind @ ..] => (Value::Other, behind),
        _ => number(text)?,
    };
    matches!(behind, [b',', ..] | [b'}']).then_some((value, text.len() - behind.len()))
}

/// The number without an exponent that `text` begins with, and what is behind it.
#[inline(always)]
fn number(text: &[u8]) -> Option<(Value<'_>, &[u8])> {
    if let Some((millis, behind)) = millis_of_this_age(text) {
        return Some((Value::Unsigned(millis), behind));
    }
    let unsigned = text.strip_prefix(b"-");
    let (digits, behind) = digits(unsigned.unwrap_or(text))?;
    if digits[0] == b'0' && digits.len() > 1 {
        return None;
    }
    match behind {
        [b'.', fraction @ ..] => Some((Value::Other, self::digits(fraction)?.1)),
        _ if unsigned.is_some() => Some((Value::Other, behind)),
        _ => {
            let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
            Some((Value::Unsigned(number), behind))
        }
    }
}

fn digits(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (1..=DIGITS_MAX).contains(&length).then(|| text.split_at(length))
}

/// An integer of 13 digits, as the time in milliseconds is from 2001 to 2286, in two overlapping steps of eight.
#[inline(always)]
fn millis_of_this_age(text: &[u8]) -> Option<(u64, &[u8])> {
    let (digits, behind) = text.split_first_chunk::<13>()?;
    let first_eight = swar::decimal(swar::load(digits)?)?;
    let last_eight = swar::decimal(swar::load(&digits[5..])?)?;
    // Longer numbers are read elsewhere.
    let is_whole = matches!(behind, [b',' | b'}', ..]);
    (digits[0] != b'0' && is_whole).then(|| (first_eight * 100_000 + last_eight % 100_000, behind))
}

#[cfg(test)]
mod tests {
    use super::super::lanes::{Lanes, Task};
    use super::*;

    const COMMON: &str = r#"{"timestamp":1768142570123,"status":"ERROR","severity":"High","source_ip":"10.1.2.3","user_id":"user_1234","content":"session crash after timeout"}"#;

    /// What each implementation finds; all find the same.
    fn read(bytes: &[u8]) -> Option<[bool; 4]> {
        struct Read<'a>(&'a [u8]);
        impl Task for Read<'_> {
            type Answer = Option<[bool; 4]>;

            fn run<L: Instructions>(self, lanes: L) -> Option<[bool; 4]> {
                let found = super::read(trimmed(self.0), lanes)?;
                let Found { timestamp_ms, content, severity, user } = found;
                Some([timestamp_ms.is_some(), content.is_some(), severity.is_some(), user.is_some()])
            }
        }
        let mut all = Lanes::all().into_iter().map(|lanes| lanes.run(Read(bytes)));
        let first = all.next().expect("there is always one");
        assert!(all.all(|other| other == first), "{}", String::from_utf8_lossy(bytes));
        first
    }

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
            let [_, content, ..] = read(text.as_bytes()).expect(&text);
            assert_eq!(content, text.contains("content"));
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
