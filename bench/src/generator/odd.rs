//! Unusual ways to write a healthy record, which a JSON parser reads like the usual one.
//!
//! Must never change what a record means: time, user, severity and whether the content has the word are those
//! of the plain form. [`Odd::UpperCase`] is the one exception, and says so.

use super::{Fields, Form, write_fields};

/// How a record's text differs from the plain one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Odd {
    /// `content` first, `timestamp` last.
    Reordered,
    /// White space wherever JSON allows it.
    Spaced,
    /// The word's characters as `\uXXXX`.
    EscapedWord,
    /// The user's `_` and the name of the content field escaped.
    EscapedNames,
    /// `severity`, `timestamp` and `content` twice; the last ones are the true ones.
    DuplicateKeys,
    /// Fields that nobody knows, the word in one of their names.
    ExtraFields,
    /// An object and an array with matching contents inside a field of their own.
    NestedWord,
    /// The word in ASCII upper case: matches only if case does not matter.
    UpperCase,
}

impl Odd {
    /// Every form, in the order in which draws choose them.
    pub const ALL: [Odd; 8] = [
        Odd::Reordered,
        Odd::Spaced,
        Odd::EscapedWord,
        Odd::EscapedNames,
        Odd::DuplicateKeys,
        Odd::ExtraFields,
        Odd::NestedWord,
        Odd::UpperCase,
    ];
}

/// Writes `fields` in the form `odd`.
pub(super) fn write(odd: Odd, fields: &Fields<'_>, out: &mut Vec<u8>) {
    let mut plain = Vec::new();
    write_fields(fields, form(odd), &mut plain);
    let plain = String::from_utf8_lossy(&plain);
    let inside = plain.trim_start_matches('{').trim_end_matches('}');
    let word = fields.word_escaped;
    let text = match odd {
        Odd::Reordered => {
            let (head, content) = plain.split_once("\"content\":").unwrap_or((&plain, ""));
            let (time, rest) = head.split_once(',').unwrap_or((head, ""));
            let content = content.strip_suffix('}').unwrap_or(content);
            format!("{{\"content\":{content},{rest}{}}}", time.trim_start_matches('{'))
        }
        Odd::Spaced => spaced(&plain),
        Odd::EscapedWord | Odd::UpperCase => plain.into_owned(),
        Odd::EscapedNames => plain.replacen("\"content\":", "\"c\\u006fntent\":", 1).replacen(
            "\"user_id\":\"user_",
            "\"user_id\":\"user\\u005f",
            1,
        ),
        Odd::DuplicateKeys => {
            format!("{{\"severity\":\"Low\",\"timestamp\":1,\"content\":\"a {word}\",{inside}}}")
        }
        Odd::ExtraFields => format!(
            "{{\"{word}\":null,\"host\":\"node-1\",\"ok\":true,\"load\":[0.25,1e3,-7],\"contents\":\"{word}\",{inside}}}"
        ),
        Odd::NestedWord => format!(
            "{{\"context\":{{\"content\":\"{word}\",\"severity\":\"High\",\"timestamp\":1,\"user_id\":\"x\"}},\
             \"items\":[{{\"content\":\"{word}\"}}],{inside}}}"
        ),
    };
    out.extend_from_slice(text.as_bytes());
}

fn form(odd: Odd) -> Form {
    match odd {
        Odd::EscapedWord => Form::EscapedWord,
        Odd::UpperCase => Form::UpperCase,
        _ => Form::Plain,
    }
}

/// White space around every structural character outside of strings.
fn spaced(plain: &str) -> String {
    let mut text = String::with_capacity(plain.len() * 2);
    let (mut in_string, mut escaped) = (false, false);
    for character in plain.chars() {
        let structural = !in_string && matches!(character, '{' | '}' | ':' | ',');
        if structural {
            text.push_str(" \t");
        }
        text.push(character);
        if structural {
            text.push_str("\r\n ");
        }
        if character == '"' && !escaped {
            in_string = !in_string;
        }
        escaped = character == '\\' && !escaped;
    }
    text
}
