//! The reader for any JSON at all: `serde_json` drives a visitor that keeps the four fields and nothing else.
//!
//! Responsible for reading exactly what `serde_json::Value` would read. Must never skip a value without having it
//! parsed in full: `serde::de::IgnoredAny` lets through what `Value` refuses (invalid UTF-8, lone surrogates, numbers
//! out of range, any depth of nesting), so it is not used here.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{Fields, Malformed, Prepared, timestamp_from_unsigned, user_id_fits};
use crate::time::Timestamp;

/// Integers outside `i64` and `u64` arrive as floats at or beyond these; both are exact as `f64`.
const U64_END: f64 = 18_446_744_073_709_551_616.0;
const I64_START: f64 = -9_223_372_036_854_775_808.0;

/// Reads `bytes`, judging each of the four fields under `rule` as it comes by, so that an unescaped copy of it
/// need not be kept.
pub(super) fn read<'a>(bytes: &'a [u8], rule: &Prepared) -> Result<Findings<'a>, Malformed> {
    let mut findings = Findings {
        is_object: false,
        timestamp: Err(Malformed::TimestampMissing),
        content_matches: false,
        severity_listed: Err(Malformed::SeverityMissing),
        user: Err(Malformed::UserIdMissing),
    };
    let mut json = serde_json::Deserializer::from_slice(bytes);
    json.deserialize_any(Reader { place: Place::Document, findings: &mut findings, rule })
        .and_then(|()| json.end())
        .map_err(|_| Malformed::NotJson)?;
    if findings.is_object { Ok(findings) } else { Err(Malformed::NotAnObject) }
}

/// What the fields seen so far amount to; a duplicate key overwrites what the one before it left.
pub(super) struct Findings<'a> {
    is_object: bool,
    timestamp: Result<Timestamp, Malformed>,
    content_matches: bool,
    severity_listed: Result<bool, Malformed>,
    user: Result<Cow<'a, str>, Malformed>,
}

impl<'a> Fields<'a> for Findings<'a> {
    fn timestamp(&self) -> Result<Timestamp, Malformed> {
        self.timestamp
    }

    fn content_matches(&self, _: &Prepared) -> bool {
        self.content_matches
    }

    fn severity_listed(&self, _: &Prepared) -> Result<bool, Malformed> {
        self.severity_listed
    }

    fn user(self) -> Result<Cow<'a, str>, Malformed> {
        self.user
    }
}

/// Where in the document a value stands.
#[derive(Clone, Copy)]
enum Place {
    Document,
    Timestamp,
    Content,
    Severity,
    UserId,
    Elsewhere,
}

/// Reads one value, which stands at `place`.
struct Reader<'f, 'a> {
    place: Place,
    findings: &'f mut Findings<'a>,
    rule: &'f Prepared,
}

impl<'a> Reader<'_, 'a> {
    fn at(&mut self, place: Place) -> Reader<'_, 'a> {
        Reader { place, findings: self.findings, rule: self.rule }
    }

    fn timestamp(self, timestamp: Result<Timestamp, Malformed>) {
        if matches!(self.place, Place::Timestamp) {
            self.findings.timestamp = timestamp;
        } else {
            self.of_wrong_type();
        }
    }

    /// `user` is the same string, to be kept if it turns out to be the `user_id`.
    fn text(self, text: &str, user: impl FnOnce() -> Cow<'a, str>) {
        match self.place {
            Place::Content => self.findings.content_matches = self.rule.word.is_in(text),
            Place::Severity => self.findings.severity_listed = Ok(self.rule.lists_severity(text.as_bytes())),
            Place::UserId => self.findings.user = user_id_fits(text).map(|_| user()),
            Place::Timestamp | Place::Document | Place::Elsewhere => self.of_wrong_type(),
        }
    }

    fn of_wrong_type(self) {
        match self.place {
            Place::Timestamp => self.findings.timestamp = Err(Malformed::TimestampNotInteger),
            Place::Content => self.findings.content_matches = false,
            Place::Severity => self.findings.severity_listed = Err(Malformed::SeverityNotString),
            Place::UserId => self.findings.user = Err(Malformed::UserIdNotString),
            Place::Document | Place::Elsewhere => {}
        }
    }
}

impl<'a> serde::de::DeserializeSeed<'a> for Reader<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Reader<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_u64<E: Error>(self, n: u64) -> Result<(), E> {
        self.timestamp(timestamp_from_unsigned(n));
        Ok(())
    }

    fn visit_i64<E: Error>(self, n: i64) -> Result<(), E> {
        self.timestamp(
            u64::try_from(n).map_err(|_| Malformed::TimestampNegative).and_then(timestamp_from_unsigned),
        );
        Ok(())
    }

    fn visit_f64<E: Error>(self, n: f64) -> Result<(), E> {
        self.timestamp(Err(if n >= U64_END {
            Malformed::TimestampTooLarge
        } else if n <= I64_START {
            Malformed::TimestampNegative
        } else {
            Malformed::TimestampNotInteger
        }));
        Ok(())
    }

    fn visit_borrowed_str<E: Error>(self, text: &'a str) -> Result<(), E> {
        self.text(text, || Cow::Borrowed(text));
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.text(text, || Cow::Owned(text.to_owned()));
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.of_wrong_type();
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.of_wrong_type();
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut array: A) -> Result<(), A::Error> {
        while array.next_element_seed(self.at(Place::Elsewhere))?.is_some() {}
        self.of_wrong_type();
        Ok(())
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut object: A) -> Result<(), A::Error> {
        let is_document = matches!(self.place, Place::Document);
        while let Some(Key(key)) = object.next_key::<Key>()? {
            let place = if is_document { key } else { Place::Elsewhere };
            object.next_value_seed(self.at(place))?;
        }
        self.findings.is_object |= is_document;
        self.of_wrong_type();
        Ok(())
    }
}

/// A key, as the place of the value that follows it in the document.
struct Key(Place);

impl<'a> serde::Deserialize<'a> for Key {
    fn deserialize<D: Deserializer<'a>>(json: D) -> Result<Key, D::Error> {
        json.deserialize_str(KeyReader)
    }
}

struct KeyReader;

impl Visitor<'_> for KeyReader {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Key, E> {
        Ok(Key(match key {
            "timestamp" => Place::Timestamp,
            "content" => Place::Content,
            "severity" => Place::Severity,
            "user_id" => Place::UserId,
            _ => Place::Elsewhere,
        }))
    }
}
