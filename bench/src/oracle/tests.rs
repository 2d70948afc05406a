//! The judge's own tests: by hand, against the rules and not against the generator.

use super::*;

const T: i64 = 1_768_142_570_000;

fn counts<const N: usize>(results: [(i64, &str, u64); N]) -> Counts {
    results.into_iter().map(|(start_ms, user, count)| ((start_ms, user.to_owned()), count)).collect()
}

fn record(time: i64, severity: &str, user: &str, content: &str) -> String {
    format!(
        r#"{{"timestamp":{time},"status":"ERROR","severity":"{severity}","source_ip":"10.1.2.3","user_id":"{user}","content":"{content}"}}"#
    )
}

fn results(query: &Query, log: &[String]) -> Counts {
    recompute(query, (0..).zip(log).map(|(offset, value)| (0, offset, Some(value.as_bytes()))))
}

fn any() -> Query {
    Query { threshold: 0, ..Query::default() }
}

#[test]
fn only_the_word_with_a_wanted_severity_counts() {
    let log = [
        record(T, "High", "a", "session crash after timeout"),
        record(T, "Critical", "a", "CRASHED"),
        record(T, "Medium", "a", "crash"),
        record(T, "high", "a", "crash"),
        record(T, "High", "a", "cras h"),
        record(T, "High", "crash", "fine"),
    ];
    assert_eq!(results(&any(), &log), counts([(T, "a", 2)]));
    let exact = Query { case_sensitive: true, ..any() };
    assert_eq!(results(&exact, &log), counts([(T, "a", 1)]));
    let medium = Query { severities: vec!["Medium".to_owned()], ..any() };
    assert_eq!(results(&medium, &log), counts([(T, "a", 1)]));
}

#[test]
fn intervals_include_their_start_and_not_their_end() {
    let log = [T - 1, T, T + 9_999, T + 10_000].map(|time| record(time, "High", "a", "crash"));
    let expected = counts([(T - 10_000, "a", 1), (T, "a", 2), (T + 10_000, "a", 1)]);
    assert_eq!(results(&any(), &log), expected);
}

#[test]
fn three_is_a_result_and_two_is_not() {
    let crash = |user| record(T, "High", user, "crash");
    let log = [crash("two"), crash("three"), crash("two"), crash("three"), crash("three")];
    assert_eq!(results(&Query::default(), &log), counts([(T, "three", 3)]));
}

#[test]
fn text_is_read_as_json() {
    let log = [
        r#"{"content":"cr\u0061sh","user_id":"\u0061","severity":"High","timestamp":1768142570000}"#,
        r#" { "timestamp" : 1768142570000 , "severity":"High","user_id":"a","c\u006fntent":"a crash" } "#,
        r#"{"content":"fine","timestamp":1,"timestamp":1768142570000,"severity":"High","user_id":"a","content":"crash"}"#,
        r#"{"content":"crash","timestamp":1768142570000,"severity":"High","user_id":"a","content":"fine"}"#,
        r#"{"timestamp":1768142570000,"severity":"High","user_id":"a","content":"fine","x":{"content":"crash"}}"#,
        r#"{"timestamp":1768142570000,"severity":"High","user_id":"a","content":["crash"]}"#,
    ]
    .map(str::to_owned);
    assert_eq!(results(&any(), &log), counts([(T, "a", 3)]));
}

#[test]
fn malformed_records_are_told_by_reason() {
    let good = record(T, "High", "a", "crash");
    let cases = [
        ("{", "not-an-object"),
        ("[1]", "not-an-object"),
        ("7 7", "not-an-object"),
        (r#"{"content":"fine"}"#, "timestamp-type"),
        (r#"{"timestamp":"1768142570000"}"#, "timestamp-type"),
        (r#"{"timestamp":1768142570000.5}"#, "timestamp-type"),
        (r#"{"timestamp":18446744073709551615}"#, "timestamp-type"),
        (r#"{"timestamp":-1}"#, "timestamp-range"),
        (r#"{"timestamp":253402300800000}"#, "timestamp-range"),
        (r#"{"timestamp":1,"content":"crash"}"#, "severity"),
        (r#"{"timestamp":1,"content":"crash","severity":1}"#, "severity"),
        (r#"{"timestamp":1,"content":"crash","severity":"High"}"#, "user-id"),
        (r#"{"timestamp":1,"content":"crash","severity":"High","user_id":null}"#, "user-id"),
    ];
    for (text, reason) in cases {
        let mut oracle = Oracle::new(any());
        oracle.add(0, 0, Some(text.as_bytes()));
        oracle.add(0, 1, Some(good.as_bytes()));
        assert_eq!(oracle.tally().malformed, BTreeMap::from([(reason, 1)]), "{text}");
        assert_eq!(oracle.results(), counts([(T, "a", 1)]), "{text}");
    }
}

#[test]
fn odd_users_count_up_to_a_kibibyte() {
    let longest = "x".repeat(1024);
    let log = ["", "späß", &longest, &"x".repeat(1025)].map(|user| record(T, "High", user, "crash"));
    let expected = counts([(T, "", 1), (T, "späß", 1), (T, &longest, 1)]);
    assert_eq!(results(&any(), &log), expected);
}

#[test]
fn empty_values_and_repeats_are_skipped() {
    let good = record(T, "High", "a", "crash");
    let mut oracle = Oracle::new(any());
    oracle.add(0, 5, Some(good.as_bytes()));
    oracle.add(0, 6, Some(b""));
    oracle.add(0, 9, None);
    oracle.add(1, 5, Some(good.as_bytes()));
    oracle.add(0, 5, Some(good.as_bytes()));
    oracle.add(0, 9, Some(good.as_bytes()));
    let expected = LogTally { records: 4, repeats: 2, empty: 2, matched: 2, ..LogTally::default() };
    assert_eq!(oracle.tally(), &expected);
    assert_eq!(oracle.results(), counts([(T, "a", 2)]));
}

#[test]
fn the_future_does_not_count() {
    let log = [record(T, "High", "a", "crash"), record(T + 1, "High", "b", "crash")];
    assert_eq!(results(&Query { event_time_max_ms: T, ..any() }, &log), counts([(T, "a", 1)]));
}

fn alert(user: &str, count: u64, mode: Mode) -> Alert {
    Alert { start_ms: T, end_ms: T + 10_000, user_id: user.to_owned(), count, mode }
}

#[test]
fn alerts_are_parsed_strictly() {
    let text = r#"{"interval":{"start":"2026-01-11T14:42:50.000Z","end":"2026-01-11T14:43:00.000Z","start_ms":1768142570000,"end_ms":1768142580000},"user_id":"user_1234","crash_count":4,"mode":"final"}"#;
    assert_eq!(parse_alert(text.as_bytes()).unwrap(), alert("user_1234", 4, Mode::Final));
    let update = text.replace("final", "update");
    assert_eq!(parse_alert(update.as_bytes()).unwrap().mode, Mode::Update);
    for (from, to, message) in [
        ("14:42:50.000Z", "14:42:51.000Z", "interval.start is"),
        ("14:43:00.000Z", "14:43:00.000+01:00", "interval.end is"),
        ("2026-01-11T14:43:00.000Z", "soon", "interval.end is"),
        ("\"final\"", "\"maybe\"", "not a result"),
        ("\"crash_count\":4", "\"crash_count\":-4", "not a result"),
        ("\"user_id\":\"user_1234\",", "", "not a result"),
    ] {
        let error = parse_alert(text.replace(from, to).as_bytes()).unwrap_err().to_string();
        assert!(error.contains(message), "{to}: {error}");
    }
    let empty = text.replace("14:43:00.000Z", "14:42:50.000Z").replace("1768142580000", "1768142570000");
    assert!(parse_alert(empty.as_bytes()).unwrap_err().to_string().contains("not after"));
}

#[test]
fn final_results_are_right_once() {
    let expected = counts([(T, "a", 3), (T, "b", 4), (T, "c", 5), (T, "d", 6)]);
    let got = [
        alert("a", 3, Mode::Final),
        alert("b", 4, Mode::Final),
        alert("b", 4, Mode::Final),
        alert("c", 4, Mode::Final),
        alert("x", 9, Mode::Final),
    ];
    let report = compare(&expected, &got);
    let finding = |user: &str, expected, got: &[u64]| {
        vec![Finding { start_ms: T, user_id: user.to_owned(), expected, got: got.to_vec() }]
    };
    let wanted = Report {
        right: 1,
        doubled: finding("b", Some(4), &[4, 4]),
        wrong: finding("c", Some(5), &[4]),
        missing: finding("d", Some(6), &[]),
        unexpected: finding("x", None, &[9]),
    };
    assert_eq!(report, wanted);
    assert!(!report.is_right());
    let text = report.to_string();
    assert!(text.starts_with("1 right, 1 missing, 1 wrong, 1 unexpected, 1 doubled\n"), "{text}");
    assert!(text.contains("doubled: 1768142570000 b: expected 4, got [4, 4]"), "{text}");
}

#[test]
fn updates_must_grow_and_the_last_one_counts() {
    let one = |counts_written: &[u64]| {
        let got: Vec<Alert> = counts_written.iter().map(|&count| alert("a", count, Mode::Update)).collect();
        compare(&counts([(T, "a", 5)]), &got)
    };
    assert!(one(&[3, 4, 5]).is_right());
    assert!(one(&[5]).is_right());
    assert_eq!(one(&[3, 4]).wrong.len(), 1);
    assert_eq!(one(&[3, 3, 5]).doubled.len(), 1);
    assert_eq!(one(&[5, 3]).doubled.len(), 1);
    assert_eq!(one(&[]).missing.len(), 1);
}

#[test]
fn modes_do_not_mix() {
    let got = [alert("a", 3, Mode::Update), alert("a", 5, Mode::Final)];
    assert_eq!(compare(&counts([(T, "a", 5)]), &got).doubled.len(), 1);
}

#[test]
fn expected_files_are_read_as_written() {
    let expected = counts([(T, "b", 3), (T, "a\"é", 4), (T - 10_000, "z", 7)]);
    let mut file = Vec::new();
    write_expected(&expected, &mut file).unwrap();
    let first = format!("{{\"start_ms\":{},\"user_id\":\"z\",\"crash_count\":7}}\n", T - 10_000);
    assert!(file.starts_with(first.as_bytes()));
    assert_eq!(read_expected(file.as_slice()).unwrap(), expected);
    let twice = [file.clone(), file].concat();
    assert!(matches!(read_expected(twice.as_slice()), Err(FileError::Repeat { number: 4 })));
    assert!(matches!(read_expected(b"{}".as_slice()), Err(FileError::Line { number: 1, .. })));
}
