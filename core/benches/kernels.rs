//! What one record costs in the scan stage: `make bench-micro`.
//!
//! Each figure is for a batch of records that differ as those of a log do; throughput is in records. What is measured is
//! the processor time of this thread, so that other work on the machine matters less.

use crashmonitor_core::record::{Matcher, Record, Rule};
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};
use std::hint::black_box;
use std::time::Duration;

/// About what one producer's batch of a megabyte holds.
const RECORDS: usize = 5_000;

/// The processor time of the calling thread.
struct ProcessorTime;

impl ProcessorTime {
    fn now() -> Duration {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).expect("below a second"))
    }
}

impl Measurement for ProcessorTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        ProcessorTime::now()
    }

    fn end(&self, start: Duration) -> Duration {
        ProcessorTime::now() - start
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

fn rule() -> Rule {
    Rule {
        contains: "crash".to_owned(),
        case_sensitive: false,
        severities: vec!["High".to_owned(), "Critical".to_owned()],
    }
}

/// Records of about 207 bytes, one in 200 with the word, drawn at random: what comes in turns a processor learns to foresee
/// within one batch, as it can't in a log.
fn records(spaces: bool) -> Vec<String> {
    let contents = [
        "user opened the settings page and changed the language of the interface",
        "request served from cache after a miss in the first level, 3 hops",
        "payment gateway answered slowly, retried once and then succeeded",
        "background job finished: 1024 rows were compacted, nothing was left",
        // Nearly the word, as the load generator has it too.
        "upstream cras refresh worker crafted trash handler in the cache",
        "scheduled batch accepted, two threads crushed it and created another",
    ];
    // Knuth's MMIX constants; the low bits of such a sequence are poor.
    let mut state = 1u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut record = |i: usize| {
        let content = match draw(200) {
            0 => "session Crash after timeout, the stack trace was kept aside",
            _ => contents[draw(contents.len())],
        };
        let severity = ["Low", "Medium", "High", "Critical"][draw(4)];
        let status = ["INFO", "WARNING", "ERROR"][draw(3)];
        format!(
            r#"{{"timestamp":{},"status":"{status}","severity":"{severity}","source_ip":"10.{}.{}.3","user_id":"user_{}","content":"{content}"}}"#,
            1_768_142_570_123 + i,
            draw(200),
            draw(251),
            1_000 + draw(1_000),
        )
    };
    let spaced = |text: String| if spaces { text.replace(':', ": ").replace(",\"", ", \"") } else { text };
    (0..RECORDS).map(|i| spaced(record(i))).collect()
}

fn classify(c: &mut Criterion<ProcessorTime>) {
    let mut matcher = Matcher::new(&rule()).expect("a good rule");
    let mut group = c.benchmark_group("classify");
    group.throughput(Throughput::Elements(RECORDS as u64));
    let escaped: Vec<String> =
        records(false).iter().map(|text| text.replace("user_", "user\\u005f")).collect();
    for (name, records) in [("plain", records(false)), ("spaced", records(true)), ("escaped", escaped)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut matches =
                    |text: &&String| matches!(matcher.classify(Some(text.as_bytes())), Record::Match { .. });
                black_box(records.iter().filter(&mut matches).count())
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(ProcessorTime);
    targets = classify
}
criterion_main!(benches);
