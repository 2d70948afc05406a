//! From the watermark to the readable result, under a steady load.
//!
//! Responsible for the rates and for the table. What a latency is, and how it is taken from outside of the worker, says
//! `crashmonitor_testbed::show::truth`, which `make run` shows too. Must never report a latency of a run whose results
//! were not all right.
//!
//! As many users as make some five crashes a user and window, whatever the rate: with the same users at each rate, a low one
//! would give no results, and a high one always the same ones.

use clap::Args;
use crashmonitor_bench::generator::Options;
use crashmonitor_bench::text::grouped;
use crashmonitor_testbed::home::Dir;
use crashmonitor_testbed::show::histogram::Histogram;
use crashmonitor_testbed::show::load::{self, Load};
use crashmonitor_testbed::show::services::Services;
use crashmonitor_testbed::show::summary::Summary;
use crashmonitor_testbed::show::view::View;
use crashmonitor_testbed::show::{self, watch};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::page::{self, Page, Section};
use super::plot::{Panel, Plot, Series, Spread};

/// Of the load, one record in 200 has the word, and half of these count.
const RECORDS_PER_CRASH: u64 = 400;
const CRASHES_PER_USER: u64 = 5;
/// The generator writes in steps of some milliseconds; behind by more than this, it did not keep its rate.
const BEHIND_MAX_MS: u64 = 250;

/// What to measure.
#[derive(Args)]
pub struct What {
    /// Records a second, one after the other.
    #[arg(long, value_delimiter = ',', default_value = "10000,100000,500000")]
    rates: Vec<u64>,
    /// How long each lasts.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(30..))]
    seconds: u64,
}

/// Measures each rate, and writes the page.
pub fn run(what: &What, out: &Path) -> Result<(), String> {
    let mut summaries = Vec::new();
    for &rate in &what.rates {
        println!("latency: {} records/s for {} s", grouped(rate), what.seconds);
        let summary = once(rate, what.seconds)?;
        println!("{summary}");
        if !summary.is_right() {
            return Err(format!("at {rate} records/s not everything was right"));
        }
        summaries.push((rate, summary));
    }
    let plot = Plot {
        over: "records/s".to_owned(),
        points: summaries.iter().map(|(rate, _)| grouped(*rate)).collect(),
        panels: vec![Panel {
            what: "ms from the watermark to the readable result".to_owned(),
            series: QUANTILES.iter().map(|quantile| quantile.series(&summaries)).collect(),
        }],
    };
    let section = Section {
        name: "latency".to_owned(),
        heading: "From the watermark to the readable result".to_owned(),
        what: format!(
            "How long a result took from the moment when the broker had the last record that lets the watermark pass \
             its window's end, until a `read_committed` consumer had it. One worker, 4 partitions, checkpoints in Redis \
             every 5 s, a load for {} s with disorder, late, malformed and unusual records. Results that a late record \
             made are counted apart, from that record on.",
            what.seconds
        ),
        columns: vec![
            "records/s",
            "written, records/s",
            "p50, ms",
            "p99, ms",
            "highest, ms",
            "results",
            "made by a late record: p50, ms",
            "p99, ms",
            "results",
            "generator behind at most, ms",
            "CPU of the worker a record, µs",
        ],
        rows: summaries.iter().map(|(rate, summary)| row(*rate, summary)).collect(),
        plot,
    };
    println!("\n{}", section.table());
    let page = Page {
        name: "latency",
        title: "Latency",
        command: "make bench-latency",
        beside: page::kafka(),
        sections: vec![section],
    };
    page.write(out)
}

fn once(rate: u64, seconds: u64) -> Result<Summary, String> {
    let mut view = View::hidden();
    let services = Services::start(1, &mut view)?;
    let dir = Dir::new("load");
    let window_s = show::WINDOW_MS.unsigned_abs() / 1000;
    let users = (rate * window_s / RECORDS_PER_CRASH / CRASHES_PER_USER).max(1);
    let users = u32::try_from(users).map_err(|_| format!("{rate} records/s are too many"))?;
    let options = Options { users, ..load::options(rate) };
    let load = Load::start(&services.kafka.bootstrap(), &dir, options, Some(seconds));
    let watched = watch::run(&services, &load, Some(seconds), &AtomicBool::new(false), &mut view)?;
    let trouble = services.stop_workers();
    let log = services.kafka.topics().read_decided(show::OUTPUT);
    Ok(Summary::new(watched, &log, trouble))
}

/// What is drawn.
enum Quantile {
    Share(&'static str, f64),
    Highest,
}

const QUANTILES: [Quantile; 3] =
    [Quantile::Share("p50", 0.5), Quantile::Share("p99", 0.99), Quantile::Highest];

impl Quantile {
    fn name(&self) -> &'static str {
        match self {
            Quantile::Share(name, _) => name,
            Quantile::Highest => "highest",
        }
    }

    fn of(&self, latencies: &Histogram) -> Option<i64> {
        match self {
            Quantile::Share(_, share) => latencies.quantile(*share),
            Quantile::Highest => (latencies.count() > 0).then(|| latencies.max_ms()),
        }
    }

    fn series(&self, summaries: &[(u64, Summary)]) -> Series {
        let values = summaries.iter().map(|(_, summary)| {
            let ms = self.of(&summary.watched().on_time)? as f64;
            Some(Spread { median: ms, low: ms, high: ms })
        });
        Series { name: self.name().to_owned(), values: values.collect() }
    }
}

fn row(rate: u64, summary: &Summary) -> Vec<String> {
    let watched = summary.watched();
    let quantile =
        |latencies: &Histogram, share| latencies.quantile(share).map_or("-".to_owned(), |ms| ms.to_string());
    let (on_time, late) = (&watched.on_time, &watched.late);
    let behind_ms = watched.generated.behind_ms_max;
    let behind = if behind_ms > BEHIND_MAX_MS { format!("**{behind_ms}**") } else { behind_ms.to_string() };
    let records: u64 = watched.workers.iter().map(|worker| worker.status.totals.records).sum();
    let cpu: f64 = watched.workers.iter().map(|worker| worker.cpu.as_secs_f64()).sum();
    vec![
        grouped(rate),
        grouped(watched.generated.records_per_second as u64),
        quantile(on_time, 0.5),
        quantile(on_time, 0.99),
        on_time.max_ms().to_string(),
        grouped(on_time.count()),
        quantile(late, 0.5),
        quantile(late, 0.99),
        grouped(late.count()),
        behind,
        format!("{:.2}", cpu * 1e6 / records.max(1) as f64),
    ]
}
