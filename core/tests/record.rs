//! The rows of the table of edges that concern decoding, one test each, and the order of the checks.

use std::borrow::Cow;

use crashmonitor_core::record::{Error, Malformed, Matcher, Record, Rule, USER_ID_BYTES_MAX};
use crashmonitor_core::time::Timestamp;

const T: i64 = 1_768_142_570_123;

fn rule(contains: &str, case_sensitive: bool) -> Rule {
    Rule {
        contains: contains.to_owned(),
        case_sensitive,
        severities: vec!["High".to_owned(), "Critical".to_owned()],
    }
}

fn classify(value: &[u8]) -> Record<'_> {
    Matcher::new(&rule("crash", false)).expect("a good rule").classify(Some(value))
}

fn pass() -> Record<'static> {
    Record::Pass { event_time: Timestamp::from_millis(T) }
}

fn crash_of(user: &str) -> Record<'_> {
    Record::Match { event_time: Timestamp::from_millis(T), user: Cow::Borrowed(user) }
}

/// The record with the word, and other JSON in place of each of its values.
fn record(timestamp: &str, severity: &str, user_id: &str, content: &str) -> String {
    format!(
        r#"{{"timestamp":{timestamp},"status":"ERROR","severity":{severity},"source_ip":"10.1.2.3","user_id":{user_id},"content":{content}}}"#
    )
}

fn with_content(content: &str) -> String {
    record("1768142570123", r#""High""#, r#""u""#, content)
}

#[track_caller]
fn assert_record(value: impl AsRef<[u8]>, expected: Record<'_>) {
    let value = value.as_ref();
    assert_eq!(classify(value), expected, "{}", String::from_utf8_lossy(value));
}

#[track_caller]
fn assert_malformed(value: impl AsRef<[u8]>, expected: Malformed) {
    assert_record(value, Record::Malformed(expected));
}

#[test]
fn the_example_is_a_crash_of_its_user() {
    let value = br#"{"timestamp":1768142570123,"status":"ERROR","severity":"High","source_ip":"10.1.2.3","user_id":"user_1234","content":"session crash after timeout"}"#;
    assert_record(value, crash_of("user_1234"));
}

#[test]
fn null_value_and_empty_value() {
    let mut matcher = Matcher::new(&rule("crash", false)).unwrap();
    assert_eq!(matcher.classify(None), Record::Empty);
    assert_eq!(matcher.classify(Some(b"")), Record::Empty);
    assert_malformed(b" ", Malformed::NotJson);
}

#[test]
fn not_json() {
    let good = with_content(r#""a crash""#);
    assert_record(&good, crash_of("u"));
    for end in 1..good.len() {
        assert_malformed(&good[..end], Malformed::NotJson);
    }
    for text in [
        "crash",
        "{",
        "nul",
        "{}{}",
        "{} x",
        "[1,]",
        "{'a':1}",
        "\u{feff}{}",
        "\"\\ud800\"",
        "1e999",
        "-",
        "01",
    ] {
        assert_malformed(text, Malformed::NotJson);
    }
    for text in
        [format!("{good},"), format!("{good}{good}"), good.replace(",", ",,"), good.replace("ERROR", "a\tb")]
    {
        assert_malformed(text, Malformed::NotJson);
    }
    for elsewhere in
        ["01", "1.", ".5", "+1", "1e999", "NaN", "tru", "'a'", "\"\\x\"", "\"\\ud800\"", "{\"a\"}", "[,]"]
    {
        assert_malformed(good.replace("\"ERROR\"", elsewhere), Malformed::NotJson);
    }
}

#[test]
fn not_json_because_not_utf8() {
    for place in ["ERROR", "status", "a crash"] {
        let mut value = with_content(r#""a crash""#).replace(place, "~").into_bytes();
        let at = value.iter().position(|&byte| byte == b'~').unwrap();
        value[at] = 0xff;
        assert_malformed(value, Malformed::NotJson);
    }
}

#[test]
fn not_json_because_nested_too_deep() {
    let nested = |depth: usize| {
        let array = format!("{}{}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        with_content(r#""crash""#).replace("\"ERROR\"", &array)
    };
    assert_record(nested(127), crash_of("u"));
    assert_malformed(nested(128), Malformed::NotJson);
    assert_malformed(nested(100_000), Malformed::NotJson);
}

#[test]
fn not_an_object() {
    for text in ["1", "\"crash\"", "[]", " [{\"timestamp\":1}] ", "null", "true", "-0.5"] {
        assert_malformed(text, Malformed::NotAnObject);
    }
}

#[test]
fn timestamp_missing() {
    for text in ["{}", "{ }", r#"{"content":"crash"}"#, r#"{"a":{"timestamp":1}}"#, r#"{"Timestamp":1}"#] {
        assert_malformed(text, Malformed::TimestampMissing);
    }
}

#[test]
fn timestamp_not_an_integer() {
    let wrong = [
        "1.0",
        "1e3",
        "1E3",
        "1768142570123.0",
        "1768142570123e0",
        "\"1768142570123\"",
        "null",
        "true",
        "[1]",
        "{}",
    ];
    for timestamp in wrong.into_iter().chain(["-0", "-0.0", "-1.5", "1e19"]) {
        assert_malformed(record(timestamp, "1", "1", "1"), Malformed::TimestampNotInteger);
    }
}

#[test]
fn timestamp_negative() {
    for timestamp in ["-1", "-9223372036854775808", "-9223372036854775809", "-99999999999999999999999999"] {
        assert_malformed(record(timestamp, "1", "1", "1"), Malformed::TimestampNegative);
    }
}

#[test]
fn timestamp_beyond_year_9999() {
    for timestamp in ["253402300800000", "999999999999999999", "9223372036854775807", "9223372036854775808"] {
        assert_malformed(record(timestamp, "1", "1", "1"), Malformed::TimestampTooLarge);
    }
    for timestamp in ["18446744073709551615", "18446744073709551616", &"9".repeat(300), "1e30"] {
        assert_malformed(record(timestamp, "1", "1", "1"), Malformed::TimestampTooLarge);
    }
}

#[test]
fn timestamp_at_every_magnitude_that_is_allowed() {
    let powers = (0..15).map(|digits| 10i64.pow(digits));
    let wanted =
        powers.flat_map(|power| [power - 1, power, power * 2 + 1]).chain([T, Timestamp::MAX.as_millis()]);
    for millis in wanted {
        let event_time = Timestamp::from_millis(millis);
        assert_record(record(&millis.to_string(), "1", "1", "1"), Record::Pass { event_time });
        assert_record(format!("{{\"timestamp\":{millis} }}"), Record::Pass { event_time });
    }
}

#[test]
fn matches_but_severity_missing_or_of_a_wrong_type() {
    let value = with_content(r#""crash""#);
    assert_malformed(value.replace("\"severity\"", "\"Severity\""), Malformed::SeverityMissing);
    for severity in ["1", "null", "[\"High\"]", "{\"High\":1}", "true", "1.5", "-1"] {
        assert_malformed(record("1", severity, "\"u\"", "\"crash\""), Malformed::SeverityNotString);
    }
}

#[test]
fn matches_but_user_id_missing_or_of_a_wrong_type() {
    let value = with_content(r#""crash""#);
    assert_malformed(value.replace("\"user_id\"", "\"user\""), Malformed::UserIdMissing);
    for user in ["1234", "null", "[\"u\"]", "{\"u\":1}", "false", "1.5", "-1"] {
        assert_malformed(record("1", "\"High\"", user, "\"crash\""), Malformed::UserIdNotString);
    }
}

#[test]
fn user_id_empty_with_quotes_non_ascii_up_to_1_kib() {
    let longest = "u".repeat(USER_ID_BYTES_MAX);
    let longest_non_ascii = "ü".repeat(USER_ID_BYTES_MAX / 2);
    let escaped = "\\u0075".repeat(USER_ID_BYTES_MAX);
    let cases = [
        ("", ""),
        (" ", " "),
        (r#"a\"b"#, "a\"b"),
        (r"\\", "\\"),
        (r"\u0000\n", "\0\n"),
        ("Jürgen", "Jürgen"),
        (r"\ud83d\ude00", "😀"),
        ("crash", "crash"),
        (&longest, &longest),
        (&longest_non_ascii, &longest_non_ascii),
        (&escaped, &longest),
    ];
    for (json, user) in cases {
        assert_record(
            record("1768142570123", "\"High\"", &format!("\"{json}\""), "\"crash\""),
            crash_of(user),
        );
    }
}

#[test]
fn user_id_longer_than_1_kib() {
    let plain = "u".repeat(USER_ID_BYTES_MAX + 1);
    let non_ascii = "ü".repeat(USER_ID_BYTES_MAX / 2) + "u";
    let escaped = "\\u0075".repeat(USER_ID_BYTES_MAX + 1);
    for user in [plain, non_ascii, escaped] {
        let user = format!("\"{user}\"");
        assert_malformed(record("1", "\"High\"", &user, "\"crash\""), Malformed::UserIdTooLong);
        assert_record(record("1768142570123", "\"Low\"", &user, "\"crash\""), pass());
    }
}

#[test]
fn user_id_is_borrowed_unless_it_held_escapes() {
    for (value, is_borrowed) in [("\"u\"", true), ("\"ü\"", true), ("\"\\u0075\"", false)] {
        let value = record("1", "\"High\"", value, "\"crash\"");
        let Record::Match { user, .. } = classify(value.as_bytes()) else { panic!("{value}") };
        assert_eq!(matches!(user, Cow::Borrowed(_)), is_borrowed);
    }
}

#[test]
fn json_escapes() {
    assert_record(with_content(r#""cr\u0061sh""#), crash_of("u"));
    assert_record(with_content(r#""\u0043RA\u0053\u0048""#), crash_of("u"));
    assert_record(with_content(r#""a \"crash\"\n""#), crash_of("u"));
    assert_record(with_content(r#""cr\\u0061sh""#), pass());
    assert_record(with_content(r#""cr\nash""#), pass());
    for (from, to) in [("user_id", r"us\u0065r_id"), ("timestamp", r"time\u0073tamp"), ("High", r"\u0048igh")]
    {
        assert_record(with_content("\"crash\"").replace(from, to), crash_of("u"));
    }
}

#[test]
fn reordered_fields() {
    let fields =
        [r#""timestamp":1768142570123"#, r#""severity":"High""#, r#""user_id":"u""#, r#""content":"crash""#];
    for rotation in 0..4 {
        let mut fields = fields;
        fields.rotate_left(rotation);
        assert_record(format!("{{{}}}", fields.join(",")), crash_of("u"));
        fields.reverse();
        assert_record(format!("{{{}}}", fields.join(",")), crash_of("u"));
    }
}

#[test]
fn white_space() {
    let value = with_content("\"crash\"");
    for space in [" ", "   ", "\n", "\r\n\t", &" ".repeat(70)] {
        let spaced =
            value.replace(':', &format!("{space}:{space}")).replace(',', &format!("{space},{space}"));
        assert_record(format!("{space}{spaced}{space}"), crash_of("u"));
        let inside = spaced.replace('{', &format!("{{{space}")).replace('}', &format!("{space}}}"));
        assert_record(inside, crash_of("u"));
    }
    for space in ["\0", "\u{a0}", "\u{c}", "\u{feff}"] {
        assert_malformed(format!("{value}{space}"), Malformed::NotJson);
    }
}

#[test]
fn duplicate_keys_the_last_wins() {
    let append = |more: &str| with_content("\"crash\"").replace('}', &format!(",{more}}}"));
    assert_record(append(r#""content":"quiet""#), pass());
    assert_record(append(r#""content":1"#), pass());
    assert_record(append(r#""content":"quiet","content":"crash""#), crash_of("u"));
    assert_record(append(r#""severity":"Low""#), pass());
    assert_record(append(r#""user_id":"v""#), crash_of("v"));
    assert_record(append(r#""us\u0065r_id":"v""#), crash_of("v"));
    assert_record(append(r#""timestamp":1,"timestamp":1768142570123"#), crash_of("u"));
    assert_malformed(append(r#""severity":null"#), Malformed::SeverityNotString);
    assert_malformed(append(r#""user_id":1"#), Malformed::UserIdNotString);
    assert_malformed(append(r#""timestamp":"x""#), Malformed::TimestampNotInteger);
    assert_record(append(r#""timestamp":"x","timestamp":1768142570123"#), crash_of("u"));
}

#[test]
fn extra_fields() {
    for extra in ["true", "null", "-1.5e3", "[1,\"crash\",{}]", "{\"content\":\"crash\"}", "\"\""] {
        assert_record(with_content("\"crash\"").replace("\"ERROR\"", extra), crash_of("u"));
        assert_record(with_content("\"quiet\"").replace("\"ERROR\"", extra), pass());
    }
}

#[test]
fn only_the_top_level_content_counts() {
    for content in [r#"{"content":"crash"}"#, r#"["crash"]"#, r#"{"crash":"crash"}"#, "null", "1", "\"\""] {
        assert_record(with_content(content), pass());
    }
    let value = with_content("\"quiet\"");
    for (from, to) in [("ERROR", "crash"), ("source_ip", "crash"), ("\"ERROR\"", r#"{"content":"crash"}"#)] {
        assert_record(value.replace(from, to), pass());
    }
    assert_record(value.replace("content", "Content").replace("quiet", "crash"), pass());
    assert_record(value.replace(r#","content":"quiet""#, ""), pass());
}

#[test]
fn fields_that_only_a_crash_needs_are_not_asked_of_others() {
    for content in ["\"quiet\"", "1"] {
        assert_record(record("1768142570123", "1", "1", content), pass());
    }
    assert_record(r#"{"timestamp":1768142570123}"#, pass());
    assert_record(record("1768142570123", "\"Low\"", "1", "\"crash\""), pass());
    assert_malformed(record("1768142570123", "1", "1", "\"crash\""), Malformed::SeverityNotString);
}

#[test]
fn severity_is_matched_exactly() {
    for (severity, counts) in [
        ("High", true),
        ("Critical", true),
        ("high", false),
        ("HIGH", false),
        ("High ", false),
        ("", false),
        ("Hig", false),
    ] {
        let value = record("1768142570123", &format!("\"{severity}\""), "\"u\"", "\"crash\"");
        assert_record(&value, if counts { crash_of("u") } else { pass() });
    }
}

#[test]
fn the_word_is_matched_without_regard_to_case_unless_told() {
    let cases = [
        ("crash", false, "CrAsH", true),
        ("CRASH", false, "a crash.", true),
        ("crash", false, "cras h", false),
        ("crash", false, "ccrash", true),
        ("crash", false, "crcrascrash", true),
        ("crash", true, "a crash", true),
        ("crash", true, "a Crash", false),
        ("Crash", true, "a Crash ü", true),
        ("x", false, "aX", true),
        ("out of memory", false, "Out Of Memory", true),
        ("a_b", false, "A_B", true),
        ("crash", false, "ü CRASH", true),
        ("ÄRGER", false, "ärger", true),
        ("ärger", false, "so ein ÄRGER", true),
        ("ärger", true, "ÄRGER", false),
        ("ärger", false, "arger", false),
        ("straße", false, "STRASSE", false),
        // The Kelvin sign is a capital k, so it makes ASCII of a word and of a content that are not.
        ("\u{212a}elvin", false, "kelvin", true),
        ("kelvin", false, "\u{212a}ELVIN", true),
        ("kelvin", true, "\u{212a}elvin", false),
    ];
    for (word, case_sensitive, content, contained) in cases {
        let mut matcher = Matcher::new(&rule(word, case_sensitive)).unwrap();
        for content in [
            content.to_owned(),
            format!("{}{content}", "- ".repeat(50)),
            format!("{content}{}", " -".repeat(50)),
        ] {
            let value = with_content(&format!("\"{content}\""));
            let found = matcher.classify(Some(value.as_bytes()));
            assert_eq!(found, if contained { crash_of("u") } else { pass() }, "{word} in {content}");
        }
    }
}

#[test]
fn rules_that_match_everything_or_nothing_are_refused() {
    assert_eq!(Matcher::new(&rule("", false)).unwrap_err(), Error::EmptyWord);
    let none = Rule { severities: Vec::new(), ..rule("crash", false) };
    assert_eq!(Matcher::new(&none).unwrap_err(), Error::NoSeverities);
}

#[test]
fn reasons_are_stable_distinct_and_complete() {
    let reasons: Vec<&str> = Malformed::ALL.iter().map(|malformed| malformed.reason()).collect();
    let stable = [
        "not-json",
        "not-an-object",
        "timestamp-missing",
        "timestamp-not-integer",
        "timestamp-negative",
        "timestamp-too-large",
        "severity-missing",
        "severity-not-string",
        "user-id-missing",
        "user-id-not-string",
        "user-id-too-long",
        "timestamp-in-future",
    ];
    assert_eq!(reasons, stable);
}
