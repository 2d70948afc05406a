//! What the generator promises about single records.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn make(options: &Options, count: u64) -> Vec<(Meta, Vec<u8>)> {
    let generator = Generator::new(options.clone()).unwrap();
    let mut value = Vec::new();
    (0..count).map(|index| (generator.record(index, &mut value), value.clone())).collect()
}

fn all_sorts() -> Options {
    Options {
        disorder_ms: 500,
        late_share: 0.1,
        too_late_share: 0.1,
        poison_share: 0.2,
        odd_share: 0.2,
        one_in: 3,
        ..Options::default()
    }
}

#[test]
fn a_plain_record_looks_like_the_original() {
    let records = make(&Options { one_in: 1, ..Options::default() }, 100);
    for (meta, value) in &records {
        let text = str::from_utf8(value).unwrap();
        let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).unwrap();
        let names: Vec<&str> = fields.keys().map(String::as_str).collect();
        let mut sorted = ["timestamp", "status", "severity", "source_ip", "user_id", "content"];
        sorted.sort_unstable();
        assert_eq!(names, sorted);
        assert!(text.starts_with(&format!("{{\"timestamp\":{},\"status\":\"", meta.event_time_ms)), "{text}");
        assert_eq!(fields["user_id"], format!("user_{}", meta.user));
        assert_eq!(fields["severity"], meta.severity.name());
        assert!(fields["content"].as_str().unwrap().contains(" crash "), "{text}");
        assert_eq!(value.len(), 207);
    }
}

#[test]
fn records_do_not_depend_on_order_or_on_the_buffer() {
    let options = all_sorts();
    let records = make(&options, 2000);
    let generator = Generator::new(options).unwrap();
    let mut value = b"left over".to_vec();
    for index in (0..2000).rev() {
        let meta = generator.record(index, &mut value);
        assert_eq!((meta, value.clone()), records[index as usize]);
    }
}

#[test]
fn the_seed_changes_the_records() {
    let one = make(&Options { seed: 1, ..all_sorts() }, 100);
    let two = make(&Options { seed: 2, ..all_sorts() }, 100);
    assert!(one.iter().zip(&two).filter(|(a, b)| a.1 == b.1).count() < 15, "only empty values may agree");
}

/// A log that was generated once must stay what it was: expected results are kept in files.
#[test]
fn the_bytes_of_a_seed_never_change() {
    let mut sum = 0u64;
    for (_, value) in make(&all_sorts(), 5000) {
        for byte in value {
            sum = rng::mix(sum ^ u64::from(byte));
        }
    }
    assert_eq!(sum, GOLDEN_SUM, "changing what a seed generates makes old expected files wrong");
}

const GOLDEN_SUM: u64 = 9_035_820_285_381_182_005;

#[test]
fn shares_and_rates_are_as_asked() {
    let mut kinds: BTreeMap<&str, u32> = BTreeMap::new();
    let mut words = 0;
    let mut severities: BTreeMap<Severity, u32> = BTreeMap::new();
    let mut poison = BTreeSet::new();
    let mut odds = BTreeSet::new();
    for (meta, _) in make(&all_sorts(), 30_000) {
        let name = match meta.kind {
            Kind::Plain => "plain",
            Kind::Odd(odd) => {
                odds.insert(odd);
                "odd"
            }
            Kind::Late => "late",
            Kind::TooLate => "too late",
            Kind::Poison(kind) => {
                poison.insert(kind);
                "poison"
            }
        };
        *kinds.entry(name).or_default() += 1;
        if name == "plain" {
            words += u32::from(meta.word != WordIn::Absent);
            *severities.entry(meta.severity).or_default() += 1;
        }
    }
    let near = |got: u32, wanted: u32| got.abs_diff(wanted) < wanted / 10;
    assert!(near(kinds["plain"], 12_000) && near(kinds["odd"], 6000), "{kinds:?}");
    assert!(near(kinds["late"], 3000) && near(kinds["too late"], 3000), "{kinds:?}");
    assert!(near(kinds["poison"], 6000), "{kinds:?}");
    assert!(near(words, 4000), "{words}");
    assert!(severities.values().all(|&count| near(count, 3000)), "{severities:?}");
    assert_eq!((poison.len(), odds.len()), (Poison::ALL.len(), Odd::ALL.len()));
}

#[test]
fn severity_weights_are_followed() {
    let options = Options { severity_weights: [0, 1, 0, 3], ..Options::default() };
    let records = make(&options, 8000);
    let critical = records.iter().filter(|(meta, _)| meta.severity == Severity::Critical).count();
    let medium = records.iter().filter(|(meta, _)| meta.severity == Severity::Medium).count();
    assert_eq!(critical + medium, 8000);
    assert!(critical.abs_diff(6000) < 300, "{critical}");
}

#[test]
fn event_time_follows_the_rate_and_is_only_ever_shifted_back() {
    let options = Options { event_rate: 3, ..all_sorts() };
    let generator = Generator::new(options.clone()).unwrap();
    assert_eq!(generator.nominal_time_ms(0), options.start_ms);
    assert_eq!(generator.nominal_time_ms(4), options.start_ms + 1333);
    assert_eq!(generator.nominal_time_ms(1 << 40), options.start_ms + (1 << 40) / 3 * 1000 + 333);
    let late = (1u64 << 55) + 1;
    let seconds = (late / 100_000) as i64 * 1000;
    let fast = Generator::new(Options::default()).unwrap();
    assert_eq!(fast.nominal_time_ms(late), options.start_ms + seconds + (late % 100_000) as i64 / 100);
    for (meta, _) in make(&options, 5000) {
        let back = generator.nominal_time_ms(meta.index) - meta.event_time_ms;
        let allowed = match meta.kind {
            Kind::Late => 1..=30_000,
            Kind::TooLate => 3_600_000..=4_200_000,
            _ => 0..=500,
        };
        assert!(allowed.contains(&back), "{meta:?} is {back} ms back");
    }
}

#[test]
fn partitions_are_filled_in_runs() {
    let records = make(&Options { run_records: 2, partitions: 3, ..Options::default() }, 12);
    let partitions: Vec<u32> = records.iter().map(|(meta, _)| meta.partition).collect();
    assert_eq!(partitions, [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]);
}

#[test]
fn keys_are_users_and_choose_the_partition() {
    let options = Options { keyed: true, partitions: 7, ..all_sorts() };
    let generator = Generator::new(options.clone()).unwrap();
    let mut by_key: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    let mut key = Vec::new();
    for (meta, value) in make(&options, 5000) {
        assert!(meta.partition < 7);
        let keyed = generator.key(&meta, &mut key);
        assert_eq!(keyed, !matches!(meta.kind, Kind::Poison(_)));
        if keyed {
            let value: serde_json::Value = serde_json::from_slice(&value).unwrap();
            assert_eq!(value["user_id"].as_str().unwrap().as_bytes(), key);
            assert_eq!(*by_key.entry(key.clone()).or_insert(meta.partition), meta.partition);
        }
    }
    let unkeyed = Generator::new(Options::default()).unwrap();
    assert!(!unkeyed.key(&unkeyed.record(0, &mut Vec::new()), &mut key));
    assert!(key.is_empty());
}

/// Values from the tests of Kafka's own `Utils.murmur2`.
#[test]
fn murmur2_is_kafkas() {
    for (text, hash) in [("21", -973932308), ("foobar", -790332482), ("a-little-bit-long-string", -985981536)]
    {
        assert_eq!(murmur2(text.as_bytes()) as i32, hash, "{text}");
    }
}

#[test]
fn records_may_be_large_or_smaller_than_possible() {
    for (bytes, wanted) in [(0, 100..=160), (1000, 1000..=1000), (100_000, 100_000..=100_000)] {
        for (_, value) in make(&Options { record_bytes: bytes, one_in: 2, ..Options::default() }, 50) {
            assert!(wanted.contains(&value.len()), "{} for {bytes}", value.len());
        }
    }
}

#[test]
fn a_lean_record_has_what_a_monitor_needs_and_means_the_same() {
    let options = Options { one_in: 3, record_bytes: 100, lean: true, ..Options::default() };
    let whole = make(&Options { lean: false, ..options.clone() }, 300);
    for ((meta, value), (whole, _)) in make(&options, 300).iter().zip(&whole) {
        assert_eq!(meta, whole);
        assert_eq!(value.len(), 100, "{}", String::from_utf8_lossy(value));
        let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(value).unwrap();
        let names: Vec<&str> = fields.keys().map(String::as_str).collect();
        assert_eq!(names, ["content", "severity", "timestamp", "user_id"]);
        assert_eq!(fields["content"].as_str().unwrap().contains("crash"), meta.word == WordIn::Exact);
    }
}

#[test]
fn empty_and_null_poison_have_no_bytes() {
    let options = Options { poison_share: 1.0, ..Options::default() };
    let mut nulls = 0;
    for (meta, value) in make(&options, 500) {
        let Kind::Poison(poison) = meta.kind else { panic!("{meta:?}") };
        assert_eq!(poison.is_empty(), value.is_empty());
        nulls += u32::from(meta.is_null());
    }
    assert!(nulls > 0);
}

#[test]
fn bad_options_are_named() {
    let default = Options::default;
    let cases = [
        (Options { users: 0, ..default() }, "users must be at least 1"),
        (Options { partitions: 0, ..default() }, "partitions must be at least 1"),
        (Options { event_rate: 0, ..default() }, "event-rate must be at least 1"),
        (Options { late_share: 1.5, ..default() }, "late-share must be between 0 and 1"),
        (Options { poison_share: f64::NAN, ..default() }, "poison-share must be between 0 and 1"),
        (Options { poison_share: 0.6, odd_share: 0.6, ..default() }, "sum must not exceed 1"),
        (Options { word: String::new(), ..default() }, "word must not be empty"),
        (Options { late_share: 0.1, late_by_max_ms: 0, ..default() }, "late-by-max must be at least 1"),
        (Options { start_ms: 100, too_late_share: 0.1, ..default() }, "start-time must be between 4200000"),
        (Options { start_ms: -1, ..default() }, "start-time must be between 0"),
        (Options { severity_weights: [0; 4], ..default() }, "severity weights must be at least 1"),
        (Options { record_bytes: usize::MAX, ..default() }, "record-bytes must be at most"),
        (Options { users: u32::MAX, ..default() }, "users must be at most"),
    ];
    for (options, message) in cases {
        let error = Generator::new(options).err().expect(message).to_string();
        assert!(error.contains(message), "{error}");
    }
}
