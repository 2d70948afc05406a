//! The catch-up with more of one thing at a time: workers, partitions, users, crashes, and larger records.
//!
//! Responsible for the dimensions, their points and their tables. Must never change two things at a time, but for how many
//! records there are where a point would take too long, which the table says; and never report a run whose results were
//! not all right.
//!
//! # What is measured
//!
//! The runs are those of `catch_up`: a rate is that from the moment at which the first worker may read until a
//! `read_committed` consumer has the last result. The processor time is that of all workers, from their start on: with few
//! records, what a start takes shows. All points of a dimension take turns.
//!
//! Several workers start at once. The group waits for them as Kafka does by default, so that each is given its partitions
//! once; were it otherwise, a run would be refused.

use clap::Args;
use crashmonitor_bench::text::grouped;
use crashmonitor_testbed::Kafka;
use std::path::Path;

use super::catch_up::{Amount, Figures, Shape, Topic, fill, row};
use super::page::{self, Page, Section};
use super::plot::{Panel, Plot, Series, Spread};

/// Where there are very many crashes, this part of the records is enough.
const HEAVY_PART: u64 = 5;
/// A share of crashes from here on makes very many.
const HEAVY_PERCENT: f64 = 10.0;
/// Shorter records have no room for fields that no monitor looks at.
const LEAN_BELOW_BYTES: u64 = 207;

/// Few enough for a result or more of few records.
const FEW_USERS: u32 = 100;

/// What to measure.
#[derive(Args)]
pub struct What {
    #[command(flatten)]
    amount: Amount,
    /// Workers that share the load; at most as many as the standard load has partitions.
    #[arg(long, value_delimiter = ',', num_args = 0.., default_value = "1,2,4", value_parser = clap::value_parser!(u64).range(1..=4))]
    workers: Vec<u64>,
    /// Partitions of the input.
    #[arg(long, value_delimiter = ',', num_args = 0.., default_value = "4,40,400,1000")]
    partitions: Vec<u32>,
    /// Users; half of all records are crashes meanwhile, for otherwise most of them would never be counted.
    #[arg(long, value_delimiter = ',', num_args = 0.., default_value = "1000,10000,100000,1000000,10000000")]
    users: Vec<u32>,
    /// Shares of crashes, in percent.
    #[arg(long, value_delimiter = ',', num_args = 0.., default_value = "0.1,1,10,50,100", value_parser = percent)]
    crashes: Vec<f64>,
    /// Sizes of records in bytes; as many of them as have the bytes of the standard load, if they are larger.
    #[arg(long, value_delimiter = ',', num_args = 0.., default_value = "100,207,1000,3000,10000", value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
    bytes: Vec<u64>,
}

fn percent(text: &str) -> Result<f64, String> {
    let percent: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    // Up to half of all records are those with the word, whose severity is drawn; beyond that, only all of them.
    let is_possible = (percent > 0.0 && percent <= 50.0) || percent == 100.0;
    if is_possible { Ok(percent) } else { Err("must be above 0 and up to 50, or 100".to_owned()) }
}

/// One thing that grows.
struct Dimension {
    /// Of its plot.
    name: &'static str,
    heading: &'static str,
    what: &'static str,
    /// What its points are.
    over: &'static str,
    points: Vec<Point>,
}

struct Point {
    name: String,
    shape: Shape,
    workers: usize,
}

/// A point and its runs.
struct Measured<'p> {
    point: &'p Point,
    value_bytes: u64,
    results: usize,
    runs: Vec<Figures>,
}

/// Measures all dimensions, and writes the page.
pub fn run(what: &What, out: &Path) -> Result<(), String> {
    let kafka = Kafka::builder()
        .for_benchmarks()
        .property("group.initial.rebalance.delay.ms", "3000")
        // A topic that is deleted makes room at once.
        .property("log.segment.delete.delay.ms", "1000")
        .start();
    let mut sections = Vec::new();
    for dimension in dimensions(what).iter().filter(|dimension| !dimension.points.is_empty()) {
        println!("scale: {}", dimension.heading);
        let measured = measure(&kafka, dimension, what.amount.runs)?;
        let section = section(dimension, &measured);
        println!("\n{}", section.table());
        sections.push(section);
    }
    let beside = page::kafka();
    Page { name: "scale", title: "Scale", command: "make bench-scale", beside, sections }.write(out)
}

fn dimensions(what: &What) -> [Dimension; 5] {
    let standard = || Shape::standard(what.amount.records);
    let heavy = || Shape { one_in: 1, records: what.amount.records / HEAVY_PART, ..standard() };
    let point = |name: String, shape: Shape| Point { name, shape, workers: 1 };
    let workers = what.workers.iter().map(|&count| Point {
        name: count.to_string(),
        shape: standard(),
        workers: count as usize,
    });
    let partitions = what
        .partitions
        .iter()
        .map(|&partitions| point(grouped(u64::from(partitions)), Shape { partitions, ..standard() }));
    let users = what.users.iter().map(|&users| point(grouped(u64::from(users)), Shape { users, ..heavy() }));
    let crashes =
        what.crashes.iter().map(|&percent| point(format!("{percent} %"), with_crashes(percent, standard())));
    let bytes = what.bytes.iter().map(|&bytes| point(grouped(bytes), with_bytes(bytes, standard())));
    [
        Dimension {
            name: "scale-workers",
            heading: "Workers",
            what: "Workers of one monitor share the partitions, and all processors with Kafka: on a machine with few, more \
                   workers show what sharing costs, not what it gains.",
            over: "workers",
            points: workers.collect(),
        },
        Dimension {
            name: "scale-partitions",
            heading: "Partitions of the input",
            what: "One worker reads all partitions.",
            over: "partitions",
            points: partitions.collect(),
        },
        Dimension {
            name: "scale-users",
            heading: "Users",
            what: "One worker. Half of all records are crashes here: with fewer, most of very many users would never be \
                   counted.",
            over: "users",
            points: users.collect(),
        },
        Dimension {
            name: "scale-crashes",
            heading: "Share of crashes",
            what: "One worker. Every crash goes through the repartition topic and is counted.",
            over: "records that are crashes",
            points: crashes.collect(),
        },
        Dimension {
            name: "scale-bytes",
            heading: "Size of records",
            what: "One worker, 100 users. Of larger records there are as many as have the bytes of the standard load; smaller ones are \
                   without the fields that no monitor looks at.",
            over: "bytes of a record's value",
            points: bytes.collect(),
        },
    ]
}

fn with_crashes(percent: f64, standard: Shape) -> Shape {
    let records = if percent < HEAVY_PERCENT { standard.records } else { standard.records / HEAVY_PART };
    if percent > 50.0 {
        return Shape { one_in: 1, is_severe: true, records, ..standard };
    }
    Shape { one_in: (50.0 / percent).round() as u32, records, ..standard }
}

fn with_bytes(bytes: u64, standard: Shape) -> Shape {
    let records = (standard.records * standard.record_bytes / bytes).min(standard.records);
    Shape { record_bytes: bytes, is_lean: bytes < LEAN_BELOW_BYTES, users: FEW_USERS, records, ..standard }
}

/// Fills what the points read, has them take turns, and removes it.
fn measure<'p>(kafka: &Kafka, dimension: &'p Dimension, runs: u64) -> Result<Vec<Measured<'p>>, String> {
    let mut topics: Vec<Topic> = Vec::new();
    for point in &dimension.points {
        if topics.iter().all(|topic| topic.shape != point.shape) {
            let name = format!("{}-{}", dimension.name, topics.len());
            topics.push(fill(kafka, &name, point.shape.clone())?);
        }
    }
    let topic_of = |point: &Point| {
        topics.iter().find(|topic| topic.shape == point.shape).expect("it was filled for each point")
    };
    let mut measured: Vec<Measured> = Vec::new();
    for point in &dimension.points {
        let topic = topic_of(point);
        let (value_bytes, results) = (topic.value_bytes, topic.expected.len());
        measured.push(Measured { point, value_bytes, results, runs: Vec::new() });
    }
    for number in 0..runs {
        for (at, measured) in measured.iter_mut().enumerate() {
            let Point { name, shape, workers } = measured.point;
            let monitor = format!("{}-{at}-{number}", dimension.name);
            let figures = topic_of(measured.point).workers(&monitor, "Direct", *workers)?;
            println!("  run {number}, {name:<12} {}", row(&figures, shape.records));
            for topic in [format!("alerts-{monitor}"), format!("crashmonitor.bench.{monitor}.repartition")] {
                kafka.topics().delete_topic(&topic);
            }
            measured.runs.push(figures);
        }
    }
    topics.iter().for_each(|topic| kafka.topics().delete_topic(&topic.name));
    Ok(measured)
}

fn section(dimension: &Dimension, measured: &[Measured]) -> Section {
    let rate = |measured: &Measured| {
        let million = measured.point.shape.records as f64 / 1e6;
        Spread::of(measured.runs.iter().map(|run| million / run.seconds))
    };
    let cpu = |measured: &Measured| {
        let million = measured.point.shape.records as f64 / 1e6;
        Spread::of(measured.runs.iter().map(|run| run.cpu_seconds / million))
    };
    let row = |measured: &Measured| {
        let records = measured.point.shape.records;
        let bytes = measured.value_bytes as f64;
        let megabytes = Spread::of(measured.runs.iter().map(|run| bytes / 1e6 / run.seconds));
        let resident = measured.runs.iter().map(|run| run.resident_bytes_max).max().unwrap_or_default();
        vec![
            measured.point.name.clone(),
            grouped(records),
            format!("{:.0}", bytes / records as f64),
            grouped(measured.results as u64),
            rate(measured).shown(3),
            megabytes.shown(0),
            cpu(measured).shown(3),
            (resident / 1_000_000).to_string(),
        ]
    };
    let panel = |what: &str, of: &dyn Fn(&Measured) -> Spread| {
        let values = measured.iter().map(|measured| Some(of(measured))).collect();
        Panel { what: what.to_owned(), series: vec![Series { name: String::new(), values }] }
    };
    Section {
        name: dimension.name.to_owned(),
        heading: dimension.heading.to_owned(),
        what: format!(
            "{} Medians of {} runs with the lowest and the highest.",
            dimension.what,
            measured.first().map_or(0, |measured| measured.runs.len())
        ),
        columns: vec![
            dimension.over,
            "records",
            "bytes each",
            "results, all right",
            "million records/s",
            "MB/s",
            "CPU a record, µs",
            "resident at most, MB",
        ],
        rows: measured.iter().map(row).collect(),
        plot: Plot {
            over: dimension.over.to_owned(),
            points: measured.iter().map(|measured| measured.point.name.clone()).collect(),
            panels: vec![panel("million records/s", &rate), panel("µs of CPU a record", &cpu)],
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{Shape, percent, with_bytes, with_crashes};

    #[test]
    fn a_share_of_crashes_is_made_of_words_and_severities() {
        let shape = |percent| with_crashes(percent, Shape::standard(5_000_000));
        assert_eq!((shape(0.1).one_in, shape(0.1).is_severe, shape(0.1).records), (500, false, 5_000_000));
        assert_eq!((shape(50.0).one_in, shape(50.0).is_severe, shape(50.0).records), (1, false, 1_000_000));
        assert_eq!((shape(100.0).one_in, shape(100.0).is_severe), (1, true));
        assert!(percent("0.1").is_ok() && percent("100").is_ok());
        assert!(percent("0").is_err() && percent("60").is_err() && percent("many").is_err());
    }

    #[test]
    fn larger_records_are_fewer() {
        let shape = |bytes| with_bytes(bytes, Shape::standard(5_000_000));
        assert_eq!((shape(100).records, shape(100).is_lean), (5_000_000, true));
        assert_eq!((shape(207).records, shape(207).is_lean), (5_000_000, false));
        assert_eq!((shape(10_000).records, shape(10_000).is_lean), (103_500, false));
    }
}
