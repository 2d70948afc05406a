//! The generator says what its records mean; the oracle reads the bytes. They must agree, whatever the options.

use crashmonitor_bench::generator::{Expected, Generator, Options};
use crashmonitor_bench::oracle::{Oracle, Query};
use proptest::prelude::*;

fn shares() -> impl Strategy<Value = [f64; 4]> {
    prop_oneof![
        Just([0.0; 4]),
        [0.0..0.25, 0.0..0.25, 0.0..0.25, 0.0..0.25],
        Just([0.0, 0.0, 0.0, 1.0]),
        Just([0.0, 0.0, 1.0, 0.0]),
    ]
}

fn words() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("crash".to_owned()),
        Just("Crash".to_owned()),
        Just("user_1".to_owned()),
        Just("a \"quoted\\\" word".to_owned()),
        Just("Störung 💥".to_owned()),
        "[a-z \\\\\"\t]{1,3}",
    ]
}

prop_compose! {
    fn options()(
        seed: u64,
        users in 1u32..50,
        word in words(),
        one_in in 0u32..6,
        severity_weights in [0u32..3, 0u32..3, 0u32..3, 1u32..3],
        start_ms in 4_200_000i64..2_000_000_000_000,
        event_rate in 1u64..2000,
        partitions in 1u32..9,
        run_records in 1u32..40,
        keyed: bool,
        disorder_ms in prop_oneof![Just(0u64), 0u64..20_000],
        late_by_max_ms in 1u64..40_000,
        shares in shares(),
        record_bytes in 0usize..400,
        lean: bool,
    ) -> Options {
        let [late_share, too_late_share, poison_share, odd_share] = shares;
        Options {
            seed, users, word, one_in, severity_weights, start_ms, event_rate, partitions, run_records, keyed,
            disorder_ms, late_share, late_by_max_ms, too_late_share, poison_share, odd_share, record_bytes,
            lean,
        }
    }
}

prop_compose! {
    fn query()(
        case_sensitive: bool,
        severities in proptest::sample::subsequence(vec!["Low", "Medium", "High", "Critical", "None"], 0..5),
        window_ms in prop_oneof![Just(10_000i64), 1i64..100_000],
        threshold in 1u64..5,
    ) -> Query {
        Query {
            case_sensitive,
            severities: severities.into_iter().map(str::to_owned).collect(),
            window_ms,
            threshold,
            event_time_max_ms: 3_000_000_000_000,
            ..Query::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn generated_expectation_equals_recomputation(options in options(), query in query(), count in 0u64..1500) {
        let query = Query { word: options.word.clone(), ..query };
        let generator = Generator::new(options.clone()).unwrap();
        let mut expected = Expected::new(&query);
        let mut oracle = Oracle::new(query);
        let mut offsets = vec![0; options.partitions as usize];
        let mut value = Vec::new();
        for index in 0..count {
            let meta = generator.record(index, &mut value);
            expected.add(&meta);
            let offset = &mut offsets[meta.partition as usize];
            oracle.add(meta.partition as i32, *offset, (!meta.is_null()).then_some(value.as_slice()));
            *offset += 1;
        }
        prop_assert_eq!(oracle.results(), expected.results());
        let (read, made) = (oracle.tally(), expected.tally());
        prop_assert_eq!(read.records, made.records);
        prop_assert_eq!(read.empty, made.empty);
        prop_assert_eq!(read.repeats, 0);
    }

    /// With the default severities every malformed record is one that a monitor must report, and every record
    /// that is too late matches.
    #[test]
    fn tallies_agree_for_the_default_query(options in options(), count in 0u64..1500) {
        let query = Query {
            word: options.word.clone(), event_time_max_ms: 3_000_000_000_000, ..Query::default()
        };
        let generator = Generator::new(options).unwrap();
        let mut expected = Expected::new(&query);
        let mut oracle = Oracle::new(query);
        let mut value = Vec::new();
        for index in 0..count {
            let meta = generator.record(index, &mut value);
            expected.add(&meta);
            oracle.add(0, index as i64, (!meta.is_null()).then_some(value.as_slice()));
        }
        let (read, made) = (oracle.tally(), expected.tally());
        prop_assert_eq!(read.malformed.values().sum::<u64>(), made.malformed);
        prop_assert_eq!(read.empty, made.empty);
        prop_assert_eq!(read.matched, made.crash_events + made.too_late);
    }
}

/// The default load must make results worth having: most users have some in every interval.
#[test]
fn the_default_load_has_results_above_the_threshold() {
    let generator = Generator::new(Options::default()).unwrap();
    let mut expected = Expected::new(&Query::default());
    let mut value = Vec::new();
    for index in 0..2_000_000 {
        expected.add(&generator.record(index, &mut value));
    }
    let results = expected.results();
    assert!((200..1900).contains(&results.len()), "{} results in two intervals of 1000 users", results.len());
}
