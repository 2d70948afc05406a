//! Workers whose network is the bottleneck, each in a network namespace of its own.
//!
//! Responsible for the runs over numbers of workers and bandwidths, and for the page that holds them against what the model of
//! docs/performance.md says. Must never report a run whose results were not all right.
//!
//! # What is measured
//!
//! The runs are those of `scale`, but that every worker reaches Kafka over a link with the given bandwidth in each direction.
//! So several workers have what they would have on machines of their own, until the processors are busy, which they share with
//! each other and with Kafka. The model says: as long as the network is what saturates first, *W* workers read
//! *W·bandwidth/b* records a second, *b* being what one takes on the wire. *b* is counted at the links, and so is what
//! the workers send, which is mostly the repartition topic's.

use clap::Args;
use crashmonitor_testbed::network::{Namespace, Network, Traffic};
use crashmonitor_testbed::{Kafka, Worker};
use std::path::Path;

use super::catch_up::{Amount, Figures, Shape, Topic, fill, row};
use super::page::{self, Page, Section};
use super::plot::{Panel, Plot, Series, Spread};

/// As many as the standard load has partitions.
const WORKERS_MAX: u8 = 4;

/// What to measure.
#[derive(Args)]
pub struct What {
    #[command(flatten)]
    amount: Amount,
    /// Workers that share the load.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4", value_parser = clap::value_parser!(u8).range(1..=i64::from(WORKERS_MAX)))]
    workers: Vec<u8>,
    /// Bandwidths of each worker's link in Mbit/s.
    #[arg(long, value_delimiter = ',', default_value = "250,1000", value_parser = clap::value_parser!(u32).range(1..))]
    megabits: Vec<u32>,
}

struct Point {
    megabits: u32,
    workers: u8,
}

/// One run of a point.
struct Run {
    figures: Figures,
    /// Over all links.
    traffic: Traffic,
}

/// Measures all points in turn, and writes the page.
pub fn run(what: &What, out: &Path) -> Result<(), String> {
    let network = Network::new(WORKERS_MAX)?;
    let kafka = Kafka::builder()
        .for_benchmarks()
        .for_pods(network.host())
        // The workers start at once, and are to be given their partitions once.
        .property("group.initial.rebalance.delay.ms", "3000")
        .start();
    let topic = fill(&kafka, "network", Shape::standard(what.amount.records))?;
    topic.warm_up()?;
    let points = what.megabits.iter();
    let points =
        points.flat_map(|&megabits| what.workers.iter().map(move |&workers| Point { megabits, workers }));
    let mut measured: Vec<(Point, Vec<Run>)> = points.map(|point| (point, Vec::new())).collect();
    for number in 0..what.amount.runs {
        for (point, runs) in &mut measured {
            let namespaces = &network.namespaces()[..usize::from(point.workers)];
            let run = once(&topic, namespaces, point.megabits, number)?;
            let Point { megabits, workers } = point;
            println!(
                "  run {number}, {workers} x {megabits} Mbit/s: {}",
                row(&run.figures, what.amount.records)
            );
            runs.push(run);
        }
    }
    let section = section(what, &measured);
    println!("\n{}", section.table());
    Page {
        name: "network",
        title: "Network",
        command: "make bench-network",
        beside: page::kafka(),
        sections: vec![section],
    }
    .write(out)
}

fn once(topic: &Topic, namespaces: &[Namespace], megabits: u32, number: u64) -> Result<Run, String> {
    namespaces.iter().try_for_each(|namespace| namespace.limit(megabits))?;
    let before = traffic(namespaces)?;
    let builders: Vec<_> = namespaces
        .iter()
        .map(|namespace| |pod: &str| Worker::builder(pod).under(&["ip", "netns", "exec", namespace.name()]))
        .collect();
    let name = format!("network-{megabits}-{}-{number}", namespaces.len());
    let figures = topic.workers_by(&name, "Direct", &builders)?;
    let after = traffic(namespaces)?;
    let traffic = Traffic { received: after.received - before.received, sent: after.sent - before.sent };
    Ok(Run { figures, traffic })
}

fn traffic(namespaces: &[Namespace]) -> Result<Traffic, String> {
    namespaces.iter().try_fold(Traffic { received: 0, sent: 0 }, |sum, namespace| {
        let Traffic { received, sent } = namespace.traffic()?;
        Ok(Traffic { received: sum.received + received, sent: sum.sent + sent })
    })
}

fn section(what: &What, measured: &[(Point, Vec<Run>)]) -> Section {
    let records = what.amount.records as f64;
    let rate = |runs: &[Run]| Spread::of(runs.iter().map(|run| records / 1e6 / run.figures.seconds));
    let bytes = |runs: &[Run]| Spread::of(runs.iter().map(|run| run.traffic.received as f64 / records));
    let sent = |runs: &[Run]| Spread::of(runs.iter().map(|run| run.traffic.sent as f64 / records));
    let model = |point: &Point, runs: &[Run]| {
        f64::from(point.megabits) / 8.0 * f64::from(point.workers) / bytes(runs).median
    };
    let line = |(point, runs): &(Point, Vec<Run>)| {
        vec![
            point.megabits.to_string(),
            point.workers.to_string(),
            bytes(runs).shown(0),
            format!("{:.3}", model(point, runs)),
            rate(runs).shown(3),
            format!("{:.2}", rate(runs).median / model(point, runs)),
            sent(runs).shown(1),
        ]
    };
    let values = |of: &dyn Fn(&Point, &[Run]) -> Spread| {
        measured.iter().map(|(point, runs)| Some(of(point, runs))).collect()
    };
    let exactly = |value: f64| Spread { median: value, low: value, high: value };
    let series = vec![
        Series { name: "measured".to_owned(), values: values(&|_, runs| rate(runs)) },
        Series { name: "model".to_owned(), values: values(&|point, runs| exactly(model(point, runs))) },
    ];
    let name = |(point, _): &(Point, Vec<Run>)| format!("{} x {}", point.workers, point.megabits);
    Section {
        name: "network".to_owned(),
        heading: "Workers behind limited links".to_owned(),
        what: format!(
            "Each worker in a network namespace of its own, behind a link of this bandwidth; Kafka outside. Medians of {} runs with the \
             lowest and the highest; all results were right. The model is *W·bandwidth/b*, which holds until the processors are \
             busy: here all workers and Kafka share them.",
            what.amount.runs
        ),
        columns: vec![
            "Mbit/s of each link",
            "workers",
            "bytes in a record, on the wire",
            "model, million records/s",
            "million records/s",
            "of the model",
            "bytes out a record",
        ],
        rows: measured.iter().map(line).collect(),
        plot: Plot {
            over: "workers x Mbit/s".to_owned(),
            points: measured.iter().map(name).collect(),
            panels: vec![Panel { what: "million records/s".to_owned(), series }],
        },
    }
}
