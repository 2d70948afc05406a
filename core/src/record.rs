//! What the bytes of one Kafka record value mean: no crash, a crash of a user, or nothing that can be counted.
//!
//! Responsible for the whole way from bytes to that decision, and for giving one answer to the same bytes on every
//! worker. Must never look at a clock (whether a timestamp lies in the future is for the caller to say), at other
//! records, or at anything of a record but its value.
//!
//! # How a value is read
//!
//! As `serde_json` reads JSON: the whole value must be one JSON text in UTF-8 with nothing but white space around it,
//! nested at most 127 deep. Only the top level's `timestamp`, `content`, `severity` and `user_id` count; escapes in
//! keys and values are resolved before anything is compared, and of duplicate keys the last one wins, whatever its
//! type.
//!
//! The checks run in this order and the first that fails decides, so that a record which is no crash is never
//! reported for fields that only a crash needs:
//!
//! 1. not JSON, then not an object: [`Malformed`];
//! 2. `timestamp` missing, not an integer or out of range: [`Malformed`];
//! 3. `content` missing, not a string or without the word: [`Record::Pass`];
//! 4. `severity` missing or not a string: [`Malformed`]; not one of the rule's: [`Record::Pass`];
//! 5. `user_id` missing, not a string or too long: [`Malformed`];
//! 6. [`Record::Match`].
//!
//! # Three readers, one answer
//!
//! Nearly every record of a log is a flat object in printable ASCII without a single escape, and nearly none is a
//! crash. `record::plain` reads those in place. It proves what it accepts to be valid JSON and returns nothing for
//! whatever it is not sure of; `record::general` then reads the value with `serde_json`. And most records look like the
//! one before: of those `record::layout` compares what stands between the values and needs no proof but the first one's.
//! The decision is taken by one function over what any of them found. A differential test holds all against
//! `serde_json::Value`.
//!
//! # Limits
//!
//! - A number whose magnitude no `f64` holds (`1e999`, 400 digits), in any field, is "not JSON" to `serde_json`, and
//!   so it is here. So is a lone surrogate (`"\ud800"`).
//! - `serde_json` reads an integer outside `i64` and `u64` as a float. Such a `timestamp` is too large or negative,
//!   and as the spelling is lost by then, so is any other of that magnitude (`1e30`).
//! - `-0` is a float to `serde_json` (integers have no negative zero), so a `timestamp` of `-0` is not an integer.

mod general;
mod lanes;
mod layout;
mod plain;
mod swar;
mod word;

use std::borrow::Cow;

use crate::time::Timestamp;
use lanes::{Instructions, Lanes, Task};
use layout::Habit;
use word::Word;

/// The longest `user_id` that is counted, in bytes of UTF-8 after escapes are resolved.
///
/// It bounds what one record can add to frames, window state and results.
pub const USER_ID_BYTES_MAX: usize = 1024;

/// Which records are crashes, as the monitor's owner states it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The word that a record's `content` must contain.
    pub contains: String,
    /// Whether the word's case matters. If not, the word is contained when `content.to_lowercase()` contains
    /// `contains.to_lowercase()`, Unicode's full lower case without regard to a locale; for ASCII that is the
    /// comparison of ASCII letters without their case.
    pub case_sensitive: bool,
    /// The values of `severity` that count, compared byte for byte.
    pub severities: Vec<String>,
}

/// Why a [`Rule`] is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// An empty word is contained in every record.
    #[error("the word to look for is empty")]
    EmptyWord,
    /// Without a severity no record can match.
    #[error("the list of severities is empty")]
    NoSeverities,
}

/// What a record's value means under a [`Rule`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record<'a> {
    /// A tombstone or a value of no bytes: nothing to read and nothing wrong.
    Empty,
    /// A good record that is no crash; its time still moves the watermark.
    Pass {
        /// When the record says that it happened.
        event_time: Timestamp,
    },
    /// A crash of `user`.
    Match {
        /// When the record says that it happened.
        event_time: Timestamp,
        /// The `user_id`, possibly empty, at most [`USER_ID_BYTES_MAX`] long; borrowed unless it held escapes.
        user: Cow<'a, str>,
    },
    /// A record that can't be judged.
    Malformed(Malformed),
}

/// Why a record can't be judged. A closed set: each is a value of a metric label.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Malformed {
    /// Not one complete JSON text in UTF-8, or one beyond the parser's limits.
    NotJson,
    /// JSON, but no object.
    NotAnObject,
    /// No `timestamp`.
    TimestampMissing,
    /// `timestamp` is no number, or one with a fraction or an exponent, or `-0`.
    TimestampNotInteger,
    /// `timestamp` lies before 1970.
    TimestampNegative,
    /// `timestamp` lies beyond [`Timestamp::MAX`].
    TimestampTooLarge,
    /// A crash by its content, without a `severity`.
    SeverityMissing,
    /// A crash by its content, with a `severity` that is no string.
    SeverityNotString,
    /// A crash without a `user_id`.
    UserIdMissing,
    /// A crash with a `user_id` that is no string.
    UserIdNotString,
    /// A crash with a `user_id` longer than [`USER_ID_BYTES_MAX`].
    UserIdTooLong,
    /// `timestamp` lies further ahead of the wall clock than is allowed. Never returned by [`Matcher::classify`],
    /// which knows no clock; the scanner decides it, and the reason is listed here so that there is one list.
    TimestampInFuture,
}

impl Malformed {
    /// Every reason, in the order of declaration.
    pub const ALL: &[Malformed] = &[
        Malformed::NotJson,
        Malformed::NotAnObject,
        Malformed::TimestampMissing,
        Malformed::TimestampNotInteger,
        Malformed::TimestampNegative,
        Malformed::TimestampTooLarge,
        Malformed::SeverityMissing,
        Malformed::SeverityNotString,
        Malformed::UserIdMissing,
        Malformed::UserIdNotString,
        Malformed::UserIdTooLong,
        Malformed::TimestampInFuture,
    ];

    /// The reason as it stands in a dead letter's header and in a metric's label. Stable: readers depend on it.
    pub const fn reason(self) -> &'static str {
        match self {
            Malformed::NotJson => "not-json",
            Malformed::NotAnObject => "not-an-object",
            Malformed::TimestampMissing => "timestamp-missing",
            Malformed::TimestampNotInteger => "timestamp-not-integer",
            Malformed::TimestampNegative => "timestamp-negative",
            Malformed::TimestampTooLarge => "timestamp-too-large",
            Malformed::SeverityMissing => "severity-missing",
            Malformed::SeverityNotString => "severity-not-string",
            Malformed::UserIdMissing => "user-id-missing",
            Malformed::UserIdNotString => "user-id-not-string",
            Malformed::UserIdTooLong => "user-id-too-long",
            Malformed::TimestampInFuture => "timestamp-in-future",
        }
    }
}

/// A [`Rule`] made ready to judge records.
#[derive(Clone, Debug)]
pub struct Matcher {
    rule: Prepared,
    lanes: Lanes,
    habit: Habit,
}

#[derive(Clone, Debug)]
struct Prepared {
    word: Word,
    severities: Vec<String>,
}

impl Matcher {
    /// Prepares `rule`.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyWord`] and [`Error::NoSeverities`] for rules that would match everything or nothing.
    pub fn new(rule: &Rule) -> Result<Matcher, Error> {
        if rule.severities.is_empty() {
            return Err(Error::NoSeverities);
        }
        let word = Word::new(&rule.contains, rule.case_sensitive).ok_or(Error::EmptyWord)?;
        let rule = Prepared { word, severities: rule.severities.clone() };
        Ok(Matcher { rule, lanes: Lanes::of_this_processor(), habit: Habit::default() })
    }

    /// This matcher once for each set of instructions that the processor has. All of them give the same answers, of
    /// which tests convince themselves; everybody else has the best set from [`Matcher::new`].
    pub fn with_each_instruction_set(&self) -> impl Iterator<Item = Matcher> {
        Lanes::all().into_iter().map(|lanes| Matcher { lanes, ..self.clone() })
    }

    /// What `value` means; `None` is Kafka's null value. Any bytes are an acceptable argument.
    ///
    /// The matcher remembers what records look like, to read the next ones faster. The answer never depends on it.
    #[inline]
    pub fn classify<'a>(&mut self, value: Option<&'a [u8]>) -> Record<'a> {
        let Some(bytes) = value.filter(|bytes| !bytes.is_empty()) else {
            return Record::Empty;
        };
        let Matcher { rule, lanes, habit } = self;
        let plain = lanes.run(JudgePlain { rule, habit, bytes });
        let judged =
            plain.unwrap_or_else(|| general::read(bytes, rule).and_then(|fields| rule.judge(fields)));
        judged.unwrap_or_else(Record::Malformed)
    }
}

impl Prepared {
    #[inline(always)]
    fn judge<'a>(&self, fields: impl Fields<'a>) -> Result<Record<'a>, Malformed> {
        let event_time = fields.timestamp()?;
        if !fields.content_matches(self) || !fields.severity_listed(self)? {
            return Ok(Record::Pass { event_time });
        }
        Ok(Record::Match { event_time, user: fields.user()? })
    }

    fn lists_severity(&self, severity: &[u8]) -> bool {
        self.severities.iter().any(|listed| listed.as_bytes() == severity)
    }
}

/// The part of the work that looks at every byte of nearly every record.
struct JudgePlain<'m, 'a> {
    rule: &'m Prepared,
    habit: &'m mut Habit,
    bytes: &'a [u8],
}

impl<'a> Task for JudgePlain<'_, 'a> {
    type Answer = Option<Result<Record<'a>, Malformed>>;

    #[inline(always)]
    fn run<L: Instructions>(self, lanes: L) -> Self::Answer {
        plain::judge(self.bytes, self.rule, self.habit, lanes)
    }
}

/// What a reader found in a valid JSON object. Each answer may be computed when asked for: the later ones seldom are.
trait Fields<'a> {
    fn timestamp(&self) -> Result<Timestamp, Malformed>;
    /// Whether `content` is a string with the word in it.
    fn content_matches(&self, rule: &Prepared) -> bool;
    fn severity_listed(&self, rule: &Prepared) -> Result<bool, Malformed>;
    fn user(self) -> Result<Cow<'a, str>, Malformed>;
}

/// The instant that a `timestamp` of `millis` names.
fn timestamp_from_unsigned(millis: u64) -> Result<Timestamp, Malformed> {
    match i64::try_from(millis).map(Timestamp::from_millis) {
        Ok(timestamp) if timestamp <= Timestamp::MAX => Ok(timestamp),
        _ => Err(Malformed::TimestampTooLarge),
    }
}

/// Refuses a `user_id` that is too long, before anything is allocated for it.
fn user_id_fits(user: &str) -> Result<&str, Malformed> {
    if user.len() <= USER_ID_BYTES_MAX { Ok(user) } else { Err(Malformed::UserIdTooLong) }
}
