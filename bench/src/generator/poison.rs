//! Values that no monitor may count: malformed, or with nothing in them.
//!
//! Every record here that still names a user names one of its own (`poison_<index>`), so that it could not
//! make a result even if a monitor took it for good.

use super::{Fields, Form, write_fields};

/// What is wrong with a poison record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Poison {
    /// Text that is not JSON.
    NotJson,
    /// A record that ends in the middle of its content.
    Truncated,
    /// JSON, but not an object.
    Array,
    /// A matching record without `timestamp`.
    MissingTimestamp,
    /// A matching record whose `timestamp` is a string.
    TextTimestamp,
    /// A matching record whose `timestamp` has a fraction.
    FractionTimestamp,
    /// A matching record whose `timestamp` is negative.
    NegativeTimestamp,
    /// A matching record in the year 11476.
    BeyondYear9999,
    /// A matching record in the year 2999.
    FarFuture,
    /// A matching record without `user_id`.
    MissingUser,
    /// A matching record whose `user_id` is a number.
    NumberUser,
    /// A record with the word, but without `severity`.
    MissingSeverity,
    /// A value of no bytes. Skipped rather than malformed.
    Empty,
    /// No value at all (a tombstone). Skipped rather than malformed.
    Null,
}

impl Poison {
    /// Every kind, in the order in which draws choose them.
    pub const ALL: [Poison; 14] = [
        Poison::NotJson,
        Poison::Truncated,
        Poison::Array,
        Poison::MissingTimestamp,
        Poison::TextTimestamp,
        Poison::FractionTimestamp,
        Poison::NegativeTimestamp,
        Poison::BeyondYear9999,
        Poison::FarFuture,
        Poison::MissingUser,
        Poison::NumberUser,
        Poison::MissingSeverity,
        Poison::Empty,
        Poison::Null,
    ];

    /// A short name for reports.
    pub fn name(self) -> &'static str {
        match self {
            Poison::NotJson => "not-json",
            Poison::Truncated => "truncated",
            Poison::Array => "array",
            Poison::MissingTimestamp => "missing-timestamp",
            Poison::TextTimestamp => "text-timestamp",
            Poison::FractionTimestamp => "fraction-timestamp",
            Poison::NegativeTimestamp => "negative-timestamp",
            Poison::BeyondYear9999 => "beyond-year-9999",
            Poison::FarFuture => "far-future",
            Poison::MissingUser => "missing-user",
            Poison::NumberUser => "number-user",
            Poison::MissingSeverity => "missing-severity",
            Poison::Empty => "empty",
            Poison::Null => "null",
        }
    }

    /// Whether a monitor skips this record without calling it malformed.
    pub fn is_empty(self) -> bool {
        matches!(self, Poison::Empty | Poison::Null)
    }
}

/// Writes the poison record whose healthy form would be `fields` (a matching record of the user
/// `poison_<index>`).
pub(super) fn write(poison: Poison, fields: &Fields<'_>, out: &mut Vec<u8>) {
    let time = fields.timestamp_ms.to_string();
    let timestamp = |text: &str| format!("\"timestamp\":{text},");
    let user = format!("\"user_id\":\"{}\",", String::from_utf8_lossy(fields.user));
    let severity = format!("\"severity\":\"{}\",", fields.severity.name());
    match poison {
        Poison::NotJson => {
            out.extend_from_slice(b"panic: session crash at 0x7f3a {user_id: ");
            out.extend_from_slice(fields.user);
            out.push(b'}');
        }
        Poison::Truncated => {
            write_fields(fields, Form::Plain, out);
            // Two bytes close the content and the object; at least those must go.
            out.truncate(out.len() - 2 - out.len() / 8);
        }
        Poison::Array => {
            out.push(b'[');
            write_fields(fields, Form::Plain, out);
            out.push(b']');
        }
        Poison::MissingTimestamp => replaced(fields, &timestamp(&time), "", out),
        Poison::TextTimestamp => replaced(fields, &timestamp(&time), &timestamp(&format!("\"{time}\"")), out),
        Poison::FractionTimestamp => {
            replaced(fields, &timestamp(&time), &timestamp(&format!("{time}.5")), out)
        }
        Poison::NegativeTimestamp => replaced(fields, &timestamp(&time), &timestamp("-1768142570123"), out),
        Poison::BeyondYear9999 => replaced(fields, &timestamp(&time), &timestamp("300000000000000"), out),
        Poison::FarFuture => replaced(fields, &timestamp(&time), &timestamp("32472144000000"), out),
        Poison::MissingUser => replaced(fields, &user, "", out),
        Poison::NumberUser => replaced(fields, &user, "\"user_id\":1234,", out),
        Poison::MissingSeverity => replaced(fields, &severity, "", out),
        Poison::Empty | Poison::Null => {}
    }
}

/// The plain record with the first `from` turned into `to`.
fn replaced(fields: &Fields<'_>, from: &str, to: &str, out: &mut Vec<u8>) {
    let mut plain = Vec::new();
    write_fields(fields, Form::Plain, &mut plain);
    let plain = String::from_utf8_lossy(&plain);
    debug_assert!(plain.contains(from));
    out.extend_from_slice(plain.replacen(from, to, 1).as_bytes());
}
