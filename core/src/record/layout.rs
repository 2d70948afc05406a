//! The reader for records that look like those before them.
//!
//! Responsible for reading a record of a layout that was met before without asking what every byte of it means: the same
//! keys in the same order with the same spaces, as a program writes them that logs with one line of code. Must never
//! accept what [`plain`](super::plain) would read differently; whatever does not fit it returns as `None`, for that
//! reader.
//!
//! # Why so little is enough
//!
//! A [`Layout`] is learnt from a record that the plain reader has accepted, and holds what stood between its values,
//! byte for byte. A record that has the same bytes there, and in the place of each value one of its kind, is JSON as that
//! one was, with the same keys: a string by another string of ASCII without quote, backslash and control character, a
//! number, `true`, `false` or `null` by another of these. So only the strings are searched, and those for their end.
//!
//! This is the speculative parsing of Mison (Li et al., "Mison: A Fast JSON Parser for Data Analytics", VLDB 2017) for
//! whole records.
//!
//! # Which layout
//!
//! One, that of most records: a record that fits gives it a vote and one that does not takes one away, and without votes
//! the next one's layout takes its place (Boyer and Moore's majority vote). So records of two layouts that take turns
//! don't have it learnt again each time. What was learnt changes how fast the answer comes, never the answer.

use super::lanes::{Instructions, PLACES};
use super::plain::{self, Field, Found, Text};

/// The longest stretch between two values that is compared: a key of 26 bytes with all that may stand around it.
const BETWEEN_BYTES_MAX: usize = PLACES;
/// The most members of a layout. A record with more is slow to read anyway.
const MEMBERS_MAX: usize = 32;
/// The most votes, so that another layout is learnt soon when a program begins to log in another way.
const VOTES_MAX: u32 = 256;

/// What most records so far looked like.
#[derive(Clone, Debug, Default)]
pub(super) struct Habit {
    layout: Layout,
    votes: u32,
}

impl Habit {
    /// The four fields of `bytes`, if it is a record like those before; takes note of whether it is.
    #[inline(always)]
    pub(super) fn read<'a, L: Instructions>(&mut self, bytes: &'a [u8], lanes: L) -> Option<Found<'a>> {
        let found = self.layout.read(bytes, lanes);
        self.votes = match found {
            Some(_) => VOTES_MAX.min(self.votes + 1),
            None => self.votes.saturating_sub(1),
        };
        found
    }

    /// Takes note of a record that is not like those before and that the plain reader has accepted.
    #[inline(always)]
    pub(super) fn note(&mut self, accepted: &[u8]) {
        if self.votes == 0 {
            self.learn(accepted);
        }
    }

    #[cold]
    fn learn(&mut self, accepted: &[u8]) {
        if let Some(layout) = Layout::of(accepted) {
            *self = Habit { layout, votes: 1 };
        }
    }
}

/// What stands between the values of a record, and of which kind these are.
#[derive(Clone, Debug, Default)]
struct Layout {
    /// None for a layout that no record has.
    members: Vec<Member>,
}

#[derive(Clone, Debug)]
struct Member {
    before: Between,
    kind: Kind,
    /// Of its field, or [`OTHER`]. A timestamp is a scalar, another field a text: nothing else is learnt.
    slot: usize,
}

/// Where members are noted that are none of the four fields.
const OTHER: usize = Field::COUNT;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// What stands before it ends with its quote, and what stands behind it begins with the other one.
    Text,
    /// Any value that is no string.
    Scalar,
}

/// Bytes that stand before a value.
#[derive(Clone, Debug)]
struct Between {
    /// Padded with zeros.
    bytes: [u8; BETWEEN_BYTES_MAX],
    /// Ones in place of each byte that counts.
    mask: [u8; BETWEEN_BYTES_MAX],
    length: usize,
}

impl Between {
    fn new(text: &[u8]) -> Option<Between> {
        let (mut bytes, mut mask) = ([0; BETWEEN_BYTES_MAX], [0; BETWEEN_BYTES_MAX]);
        bytes.get_mut(..text.len())?.copy_from_slice(text);
        mask[..text.len()].fill(0xff);
        Some(Between { bytes, mask, length: text.len() })
    }

    /// Whether `text` begins with it.
    #[inline(always)]
    fn begins<L: Instructions>(&self, text: &[u8], lanes: L) -> bool {
        match text.first_chunk() {
            Some(chunk) => lanes.is_equal(chunk, &self.bytes, &self.mask),
            None => text.starts_with(&self.bytes[..self.length]),
        }
    }
}

impl Layout {
    #[inline(always)]
    fn read<'a, L: Instructions>(&self, bytes: &'a [u8], lanes: L) -> Option<Found<'a>> {
        if self.members.is_empty() {
            return None;
        }
        // Noted without asking which member it is, and read when all are known to be there.
        let mut begins = [usize::MAX; OTHER + 1];
        let mut timestamp_ms = None;
        let mut at = 0;
        for member in &self.members {
            if !member.before.begins(bytes.get(at..)?, lanes) {
                return None;
            }
            at += member.before.length;
            match member.kind {
                Kind::Text => {
                    begins[member.slot] = at;
                    at = string_end(bytes, at, lanes)?;
                }
                Kind::Scalar => {
                    let (value, length) = plain::scalar(bytes.get(at..)?)?;
                    at += length;
                    if member.slot == Field::Timestamp as usize {
                        timestamp_ms = Some(value.unsigned()?);
                    }
                }
            }
        }
        if !matches!(bytes.get(at..)?, [b'"', b'}'] | [b'}']) {
            return None;
        }
        let text = |field: Field| bytes.get(begins[field as usize]..).map(|and_rest| Text { and_rest });
        Some(Found {
            timestamp_ms,
            content: text(Field::Content),
            severity: text(Field::Severity),
            user: text(Field::User),
        })
    }

    /// The layout of a record that the plain reader has accepted; `None` for one that would not be worth it.
    fn of(accepted: &[u8]) -> Option<Layout> {
        let mut members = Vec::new();
        let mut at = 0;
        while !matches!(accepted[at..], [b'"', b'}'] | [b'}']) {
            let rest = &accepted[at..];
            // A quote that ends the value before, the brace or comma, a space.
            let key = rest.iter().position(|byte| matches!(byte, b'{' | b','))? + 1;
            let key = key + usize::from(rest.get(key) == Some(&b' '));
            let colon = key + 1 + memchr::memchr(b'"', rest.get(key + 1..)?)? + 1;
            let value = colon + 1 + usize::from(rest.get(colon + 1) == Some(&b' '));
            let is_text = rest.get(value) == Some(&b'"');
            let begin = value + usize::from(is_text);
            let and_rest = rest.get(begin..)?;
            let (kind, length) = if is_text {
                (Kind::Text, memchr::memchr(b'"', and_rest)?)
            } else {
                (Kind::Scalar, plain::scalar(and_rest)?.1)
            };
            let slot = match (Field::of(&rest[..colon]), kind) {
                (None, _) => OTHER,
                (Some(Field::Timestamp), Kind::Scalar) => Field::Timestamp as usize,
                (Some(field @ (Field::Content | Field::Severity | Field::User)), Kind::Text) => {
                    field as usize
                }
                (Some(_), _) => return None,
            };
            members.push(Member { before: Between::new(&rest[..begin])?, kind, slot });
            if members.len() > MEMBERS_MAX {
                return None;
            }
            at += begin + length;
        }
        Some(Layout { members })
    }
}

/// So many bytes of a string are looked at in one go behind its first ones. Most are either shorter than the first step
/// or end within this one: a processor that can foresee the number of steps reads the next value meanwhile.
const LONG_STEP_BYTES: usize = 4 * PLACES;

/// Where the quote stands that ends the string which begins at `from`, if nothing before it needs a closer look.
#[inline(always)]
fn string_end<L: Instructions>(bytes: &[u8], from: usize, lanes: L) -> Option<usize> {
    let first = bytes.get(from..)?.first_chunk().map(|step| lanes.stops(step));
    let end = match first {
        Some(stops) if stops != 0 => from + stops.trailing_zeros() as usize,
        _ if bytes.len() >= LONG_STEP_BYTES => stop_in_steps::<LONG_STEP_BYTES, L>(bytes, from, lanes)?,
        _ => stop_in_steps::<PLACES, L>(bytes, from, lanes)?,
    };
    (bytes[end] == b'"').then_some(end)
}

/// Where a string that begins at `from` has its first stop, in steps of `STEP_BYTES`.
#[inline(always)]
fn stop_in_steps<const STEP_BYTES: usize, L: Instructions>(
    bytes: &[u8],
    from: usize,
    lanes: L,
) -> Option<usize> {
    // Shorter records are read elsewhere.
    let last = bytes.len().checked_sub(STEP_BYTES)?;
    let mut at = from;
    while at < bytes.len() {
        // The last step overlaps the one before it, of which no byte is seen twice.
        let begin = at.min(last);
        let step: &[u8; STEP_BYTES] = bytes[begin..].first_chunk().expect("the last step fits");
        // A loop, for what iterators are given is not compiled for the instructions.
        let mut stops = 0;
        for (i, part) in step.as_chunks::<PLACES>().0.iter().enumerate() {
            stops |= u128::from(lanes.stops(part)) << (i * PLACES);
        }
        stops >>= at - begin;
        if stops != 0 {
            return Some(at + stops.trailing_zeros() as usize);
        }
        at = begin + STEP_BYTES;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::lanes::{Lanes, Task};
    use super::*;

    const COMMON: &str = r#"{"timestamp":1768142570123,"ok":true,"severity":"High", "user_id": "user_1234","content":"session crash after timeout"}"#;

    /// Whether a habit reads `text`; with each set of instructions alike.
    fn reads(habit: &mut Habit, text: &str) -> bool {
        struct Reads<'h, 'a>(&'h mut Habit, &'a [u8]);
        impl Task for Reads<'_, '_> {
            type Answer = bool;

            fn run<L: Instructions>(self, lanes: L) -> bool {
                self.0.read(self.1, lanes).is_some()
            }
        }
        let before = habit.clone();
        let read = |lanes: Lanes| {
            *habit = before.clone();
            lanes.run(Reads(habit, text.as_bytes()))
        };
        let answers: Vec<bool> = Lanes::all().into_iter().map(read).collect();
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{text}");
        answers[0]
    }

    /// As the plain reader does it with records that it accepts.
    fn takes_note(habit: &mut Habit, text: &str) {
        if !reads(habit, text) {
            habit.note(text.as_bytes());
        }
    }

    fn used_to(text: &str) -> Habit {
        let mut habit = Habit::default();
        takes_note(&mut habit, text);
        habit
    }

    #[test]
    fn records_like_the_one_before_are_read_here() {
        let long = "timeout ".repeat(100);
        for (from, to) in [
            ("High", "High"),
            ("High", ""),
            ("user_1234", "a user whose name is longer than a step"),
            ("timeout", "t"),
            ("timeout", &long),
            ("1768142570123", "17"),
            ("true", "-1.5"),
            ("true", "null"),
        ] {
            let text = COMMON.replace(from, to);
            assert!(reads(&mut used_to(COMMON), &text), "{text}");
        }
    }

    #[test]
    fn whatever_is_not_like_the_one_before_is_read_elsewhere() {
        for (from, to) in [
            ("severity", "Severity"),
            ("\"severity\":", "\"severity\": "),
            ("true", "\"true\""),
            ("true", "tru"),
            ("true", "true "),
            ("\"High\"", "1"),
            ("1768142570123", "-1"),
            ("High", "Hi\\u0067h"),
            ("High", "H\u{fc}gh"),
            ("High", "Hi\ngh"),
            ("timeout\"", "timeout"),
            ("}", ""),
            ("}", "}}"),
            ("}", ",\"more\":1}"),
        ] {
            let text = COMMON.replace(from, to);
            assert!(!reads(&mut used_to(COMMON), &text), "{text}");
        }
        for end in 0..COMMON.len() {
            assert!(!reads(&mut used_to(COMMON), &COMMON[..end]), "{}", &COMMON[..end]);
        }
    }

    #[test]
    fn what_would_not_be_worth_it_is_not_learnt() {
        let key = "k".repeat(BETWEEN_BYTES_MAX);
        let long_key = format!(r#"{{"{key}":1}}"#);
        let members: Vec<String> = (0..=MEMBERS_MAX).map(|i| format!("\"{i}\":{i}")).collect();
        let many = format!("{{{}}}", members.join(","));
        for text in [long_key, many] {
            assert!(!reads(&mut used_to(&text), &text), "{text}");
        }
    }

    #[test]
    fn two_layouts_in_turns_leave_one_learnt_and_a_new_one_takes_over_in_time() {
        let other = COMMON.replace("ok", "done");
        let mut habit = used_to(COMMON);
        for _ in 0..1_000 {
            takes_note(&mut habit, COMMON);
            takes_note(&mut habit, &other);
            assert!(reads(&mut habit.clone(), COMMON));
        }
        for _ in 0..=VOTES_MAX {
            takes_note(&mut habit, &other);
        }
        assert!(reads(&mut habit, &other));
    }
}
