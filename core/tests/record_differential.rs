//! `Matcher::classify` against the plainest implementation there is: parse to a `serde_json::Value`, then ask.

mod support {
    pub mod by_value;
}

use std::cell::RefCell;
use std::collections::BTreeSet;

use crashmonitor_core::record::{Malformed, Record, USER_ID_BYTES_MAX};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::TestRunner;
use support::by_value::{disagreement, matchers};

/// White space between tokens, mostly none.
fn space() -> impl Strategy<Value = &'static str> {
    prop_oneof![12 => Just(""), 3 => Just(" "), 1 => select(vec!["  ", "\n", "\t ", "\r\n"])]
}

/// A string as JSON writes it; each character may be escaped.
fn json_string(text: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    (text, prop_oneof![4 => Just(0u64), 1 => any::<u64>()]).prop_map(|(text, escaped)| {
        let mut json = String::from("\"");
        for (i, character) in text.chars().enumerate() {
            let must = matches!(character, '"' | '\\' | '\0'..='\x1f');
            if must || escaped >> (i % 64) & 1 == 1 {
                let mut units = [0; 2];
                json.extend(character.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
            } else {
                json.push(character);
            }
        }
        json + "\""
    })
}

fn text() -> impl Strategy<Value = String> {
    let words = vec![
        "crash", "CRASH", "CraSh", "cras", "c", "rash", " ", "ü", "\u{212a}", "İ", "Σ", "\"", "\\", "{", ":",
        "😀",
    ];
    prop_oneof![
        4 => prop::collection::vec(select(words), 0..6).prop_map(|words| words.concat()),
        2 => "[ -~]{0,90}",
        1 => "\\PC{0,12}",
        1 => Just("u".repeat(USER_ID_BYTES_MAX)),
        1 => Just("u".repeat(USER_ID_BYTES_MAX + 1)),
    ]
}

fn number() -> impl Strategy<Value = String> {
    let odd = [
        "0",
        "-0",
        "1.0",
        "1e3",
        "-1",
        "01",
        "1.",
        "-",
        "0.5",
        "1E-2",
        "1e999",
        "9223372036854775807",
        "1e19",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775809",
        "253402300799999",
        "253402300800000",
        "999999999999999999",
        "1234567890123456789",
        "00000000000001",
    ];
    prop_oneof![
        16 => (1_600_000_000_000u64..1_900_000_000_000).prop_map(|n| n.to_string()),
        2 => select(odd.to_vec()).prop_map(str::to_owned),
        1 => "-?[0-9]{1,20}(\\.[0-9]{1,20})?",
        1 => any::<i64>().prop_map(|n| n.to_string()),
        1 => any::<f64>().prop_map(|n| n.to_string()),
    ]
}

fn json_value() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        3 => json_string(text()),
        3 => number(),
        1 => select(vec!["true", "false", "null", "nul", "True"]).prop_map(str::to_owned),
    ];
    scalar.prop_recursive(3, 8, 3, |inner| {
        let member =
            (json_string(select(vec!["content", "timestamp", "x"]).prop_map(str::to_owned)), inner.clone());
        prop_oneof![
            prop::collection::vec(inner, 0..3).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec(member.prop_map(|(k, v)| format!("{k}:{v}")), 0..3)
                .prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    })
}

/// `"key":value` with white space wherever it may stand.
fn member(key: &'static str, value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let key = json_string(Just(key.to_owned()));
    (key, value, space(), space(), space(), space())
        .prop_map(|(key, value, a, b, c, d)| format!("{a}{key}{b}:{c}{value}{d}"))
}

/// One of the four fields, of its own type or seldom of any.
fn field(key: &'static str) -> BoxedStrategy<String> {
    let severity = select(vec!["High", "High", "Critical", "Low", "high"]).prop_map(str::to_owned);
    let own = match key {
        "timestamp" => number().boxed(),
        "severity" => json_string(severity).boxed(),
        "content" => json_string((text(), "|crash|CRASH").prop_map(|(text, word)| text + &word)).boxed(),
        _ => json_string(text()).boxed(),
    };
    prop_oneof![6 => member(key, own), 1 => member(key, json_value())].boxed()
}

/// Any member: a field, perhaps for the second time, or something else.
fn any_member() -> impl Strategy<Value = String> {
    let other = (json_string("[a-z_]{0,70}"), json_value()).prop_map(|(key, value)| format!("{key}:{value}"));
    let fields = select(vec!["timestamp", "severity", "user_id", "content"]).prop_flat_map(field);
    prop_oneof![fields, other]
}

/// Mostly all four fields and sometimes more, in any order.
fn object() -> impl Strategy<Value = String> {
    let perhaps = |key| prop::option::weighted(0.9, field(key));
    let fields = (perhaps("timestamp"), perhaps("severity"), perhaps("user_id"), perhaps("content"));
    let more = prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(any_member(), 1..5)];
    let members = (fields, more).prop_map(|((a, b, c, d), more)| {
        let fields = [a, b, c, d].into_iter().flatten();
        fields.chain(more).collect::<Vec<_>>()
    });
    (members.prop_shuffle(), space(), space())
        .prop_map(|(members, a, b)| format!("{a}{{{}}}{b}", members.join(",")))
}

/// The common layout, in every part of which something else may stand.
fn common() -> impl Strategy<Value = String> {
    let severity = select(vec!["High", "Critical", "Low", "Medium"]);
    let content = prop_oneof!["[a-z ]{0,40}(crash|Crash|CRASH|cr@sh)[a-z ]{0,40}", "[ -!#-\\[\\]-~]{0,200}"];
    (1_600_000_000_000u64..1_900_000_000_000, severity, "user_[0-9]{1,4}", content, select(vec!["", " "])).prop_map(
        |(timestamp, severity, user, content, s)| {
            format!(
                r#"{{"timestamp":{s}{timestamp},{s}"status":{s}"ERROR",{s}"severity":{s}"{severity}",{s}"source_ip":{s}"10.1.2.3",{s}"user_id":{s}"{user}",{s}"content":{s}"{content}"}}"#
            )
        },
    )
}

/// What a broken producer makes of good bytes.
#[derive(Clone, Debug)]
enum Damage {
    None,
    Truncate(Index),
    Replace(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Append(u8),
}

fn damage() -> impl Strategy<Value = Damage> {
    let byte = || prop_oneof![select(br#"{}[]",:\ 019-.eEtfnu"#.to_vec()), any::<u8>()];
    prop_oneof![
        12 => Just(Damage::None),
        1 => any::<Index>().prop_map(Damage::Truncate),
        3 => (any::<Index>(), byte()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        2 => (any::<Index>(), byte()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        2 => any::<Index>().prop_map(Damage::Remove),
        1 => byte().prop_map(Damage::Append),
    ]
}

fn damaged(text: String, damage: &Damage) -> Vec<u8> {
    let mut bytes = text.into_bytes();
    let length = bytes.len();
    match damage {
        Damage::None => {}
        Damage::Truncate(at) => bytes.truncate(at.index(length)),
        Damage::Replace(at, byte) => bytes[at.index(length)] = *byte,
        Damage::Insert(at, byte) => bytes.insert(at.index(length), *byte),
        Damage::Remove(at) => drop(bytes.remove(at.index(length))),
        Damage::Append(byte) => bytes.push(*byte),
    }
    bytes
}

/// A record, and one that follows it: itself, damaged, or another one.
fn like_before(text: BoxedStrategy<String>) -> impl Strategy<Value = (String, Vec<u8>)> {
    (text.clone(), prop::option::of(text), damage()).prop_map(|(before, other, damage)| {
        let bytes = damaged(other.unwrap_or_else(|| before.clone()), &damage);
        (before, bytes)
    })
}

/// Compares on `cases` values of `strategy`, each a record with the one that was read before it, and returns the names of the outcomes that were met. A failure shows the
/// bytes, so no file of seeds is kept.
fn check(cases: u32, strategy: impl Strategy<Value = (String, Vec<u8>)>) -> BTreeSet<&'static str> {
    let rules = matchers();
    let met = RefCell::new(BTreeSet::new());
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new(config).run(&strategy, |(before, bytes)| {
        met.borrow_mut().insert(outcome(&rules[0].1.clone().classify(Some(&bytes))));
        let found = disagreement(&rules, before.as_bytes(), &bytes);
        found.map_or(Ok(()), |found| Err(TestCaseError::fail(found)))
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    met.into_inner()
}

fn outcome(record: &Record<'_>) -> &'static str {
    match record {
        Record::Empty => "empty",
        Record::Pass { .. } => "pass",
        Record::Match { .. } => "match",
        Record::Malformed(malformed) => malformed.reason(),
    }
}

#[test]
fn agrees_with_value_on_the_common_layout_whole_and_damaged() {
    let met = check(12_000, like_before(common().boxed()));
    assert!(met.is_superset(&BTreeSet::from(["pass", "match", "not-json", "timestamp-missing"])), "{met:?}");
}

#[test]
fn agrees_with_value_on_any_object_whole_and_damaged() {
    let met = check(12_000, like_before(object().boxed()));
    let decided_here = |malformed: &&Malformed| **malformed != Malformed::TimestampInFuture;
    let reasons = Malformed::ALL.iter().filter(decided_here).map(|malformed| malformed.reason());
    let wanted = reasons.chain(["pass", "match"]).filter(|name| *name != "not-an-object").collect();
    assert!(met.is_superset(&wanted), "the generator has become too tame: {met:?}");
}

#[test]
fn agrees_with_value_on_any_json_and_any_bytes() {
    check(2_000, (common(), json_value().prop_map(String::into_bytes)));
    check(2_000, (common(), prop::collection::vec(any::<u8>(), 0..80)));
    check(4_000, (common(), "[{}\\[\\]\",:0-9 \\\\ a-c]{0,80}".prop_map(String::into_bytes)));
}

#[test]
fn agrees_with_value_on_every_single_byte_change_of_a_record() {
    let mut rules = matchers();
    let first = rules[0].0.clone();
    rules.retain(|(rule, _)| *rule == first);
    let good = br#"{"timestamp":1768142570123,"severity":"High","n":-1.5,"b":true,"user_id":"u","content":"a crash"}"#;
    for at in 0..good.len() {
        for byte in 0..=255 {
            let mut bytes = good.to_vec();
            bytes[at] = byte;
            assert_eq!(disagreement(&rules, good, &bytes), None);
        }
    }
}

/// The fast reader looks at blocks, the last of which is padded or overlaps: whatever stands at the edges of one.
#[test]
fn agrees_with_value_at_every_length_and_with_every_kind_of_byte_at_its_ends() {
    let rules = matchers();
    for filler in 0..150 {
        let content = format!("{}Crash", "x".repeat(filler));
        let good =
            format!(r#"{{"timestamp":1768142570123,"severity":"High","user_id":"u","content":"{content}"}}"#);
        assert_eq!(disagreement(&rules, b"", good.as_bytes()), None);
        for byte in [0, b'\t', b'\n', b' ', b'"', b'\\', b'x', 0x7f, 0x80, 0xc3, 0xff] {
            for at in [0, good.len() - 2, good.len() - 3, good.len() - 1, good.len()] {
                let mut bytes = good.clone().into_bytes();
                bytes.insert(at, byte);
                assert_eq!(disagreement(&rules, good.as_bytes(), &bytes), None);
                bytes.extend([b' '; 70]);
                assert_eq!(disagreement(&rules, good.as_bytes(), &bytes), None);
                *bytes.last_mut().expect("it is not empty") = byte;
                assert_eq!(disagreement(&rules, good.as_bytes(), &bytes), None);
            }
        }
    }
}
