//! The operator with few and with very many monitors.
//!
//! Responsible for how many, and for the tables. Must never take the operator's word for what it does: calls and their times
//! are the API server's own record (`crashmonitor_testbed::audit`), memory and processor time the kernel's.
//!
//! # What is measured
//!
//! Each number of monitors has a Kubernetes of its own: a real API server with its store, scheduler and controllers, and nodes
//! that run nothing but say that they do (kwok). What a worker would answer is answered by one server for all pods
//! (`workers`). All of it shares the processors with the operator; its other parts take most of them.
//!
//! - *Starting*: all monitors are created in one go. From each one's creation until the last of its six objects was applied;
//!   and until its status says that it is ready, for which the controller, the scheduler and the nodes have done their parts.
//! - *Idle*: nothing to read for any worker. Calls of the API server and processor time in a while, once each monitor was
//!   looked at twice.
//! - *Under load*: the same while all figures of all workers change from look to look.
//! - *Restart*: the operator ends and another one starts. Until it has applied the objects of every monitor.

mod workers;
mod world;

use clap::Args;
use crashmonitor_bench::text::grouped;
use std::path::Path;

use super::page::{Page, Section};
use super::plot::{Panel, Plot, Series, Spread};
use workers::Workers;
use world::{Measured, Phase, Times, World};

/// What to measure.
#[derive(Args)]
pub struct What {
    /// Monitors, one number after the other.
    #[arg(long, value_delimiter = ',', default_value = "1,100,1000", value_parser = clap::value_parser!(u32).range(1..=50_000))]
    monitors: Vec<u32>,
    /// Nodes that they share.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    nodes: u32,
    /// How long the operator is watched while it is idle, and as long under load.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(10..))]
    seconds: u64,
}

/// Measures each number, and writes the page.
pub fn run(what: &What, out: &Path) -> Result<(), String> {
    let workers = Workers::start()?;
    let mut all = Vec::new();
    let mut kubernetes = String::new();
    for &monitors in &what.monitors {
        println!("operator: {} monitors on {} nodes", grouped(u64::from(monitors)), what.nodes);
        let mut world = World::start(what.nodes);
        let measured = world.measure(monitors, what.seconds, &workers)?;
        println!("{}", told(&measured));
        kubernetes = world.version()?;
        all.push(measured);
    }
    let sections = vec![starting(&all), calls(&all, what.seconds), memory(&all)];
    for section in &sections {
        println!("\n{}\n\n{}", section.heading, section.table());
    }
    let page = Page {
        name: "operator",
        title: "The operator",
        command: "make bench-operator",
        beside: format!("Kubernetes {kubernetes} with kwok's nodes"),
        sections,
    };
    page.write(out)
}

/// What a person reads meanwhile.
fn told(measured: &Measured) -> String {
    let Measured { objects, ready, starting, idle, load, restart, .. } = measured;
    let phases = [("starting", starting), ("idle", idle), ("under load", load), ("restart", restart)];
    let phases = phases.map(|(name, phase)| {
        let calls: Vec<String> = phase.calls.iter().map(|(what, count)| format!("{what} {count}")).collect();
        let (seconds, cpu) = (phase.seconds, phase.cpu_seconds);
        format!("  {name}: {seconds:.1} s, {cpu:.2} s of CPU; {}", calls.join(", "))
    });
    let [objects, ready] = [objects, ready].map(|times| shown(times).join(", "));
    format!(
        "  s until all objects were applied (p50, p99, highest): {objects}; until ready: {ready}\n{}",
        phases.join("\n")
    )
}

/// One line of a plot.
fn series(name: &str, all: &[Measured], of: impl Fn(&Measured) -> Option<f64>) -> Series {
    let spread = |value| Spread { median: value, low: value, high: value };
    Series { name: name.to_owned(), values: all.iter().map(|measured| of(measured).map(spread)).collect() }
}

fn plot(all: &[Measured], panels: Vec<Panel>) -> Plot {
    let points = all.iter().map(|measured| grouped(u64::from(measured.monitors))).collect();
    Plot { over: "monitors".to_owned(), points, panels }
}

/// What is told of times: the name and the share.
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("highest", 1.0)];

fn shown(times: &Times) -> [String; 3] {
    QUANTILES
        .map(|(_, share)| times.quantile(share).map_or("-".to_owned(), |seconds| format!("{seconds:.2}")))
}

fn starting(all: &[Measured]) -> Section {
    let rows = all.iter().map(|measured| {
        let monitors = f64::from(measured.monitors);
        let mut row = vec![grouped(u64::from(measured.monitors)), format!("{:.1}", measured.created_seconds)];
        row.extend(shown(&measured.objects));
        row.extend(shown(&measured.ready));
        row.push(format!("{:.1}", measured.starting.cpu_seconds * 1000.0 / monitors));
        row
    });
    let panel = |what: &str, of: fn(&Measured) -> &Times| {
        let series =
            QUANTILES.map(|(name, share)| series(name, all, |measured| of(measured).quantile(share)));
        Panel { what: what.to_owned(), series: series.into() }
    };
    Section {
        name: "operator".to_owned(),
        heading: "From its creation to a running monitor".to_owned(),
        what: "All monitors are created in one go, each with one worker. From a monitor's creation until the last of its six \
               objects was applied, and until its status says that it is ready: for that the controller of StatefulSets, the \
               scheduler and the nodes have done their parts, on the same processors. With very many at once, a monitor waits \
               for those before it."
            .to_owned(),
        columns: vec![
            "monitors",
            "created within, s",
            "objects: p50, s",
            "p99, s",
            "highest, s",
            "ready: p50, s",
            "p99, s",
            "highest, s",
            "CPU of the operator a monitor, ms",
        ],
        rows: rows.collect(),
        plot: plot(
            all,
            vec![
                panel("s until all objects are applied", |measured| &measured.objects),
                panel("s until it is ready", |measured| &measured.ready),
            ],
        ),
    }
}

fn calls(all: &[Measured], seconds: u64) -> Section {
    let counts = |what: &str| !what.ends_with(" leases");
    let each = |measured: &Measured, phase: &Phase| phase.count(counts) as f64 / f64::from(measured.monitors);
    let a_second = |phase: &Phase| phase.count(counts) as f64 / phase.seconds;
    let rows = all.iter().map(|measured| {
        let part = |of: fn(&str) -> bool| {
            let count = measured.starting.count(|what| counts(what) && of(what));
            format!("{:.2}", count as f64 / f64::from(measured.monitors))
        };
        vec![
            grouped(u64::from(measured.monitors)),
            format!("{:.2}", each(measured, &measured.starting)),
            part(|what| what.starts_with("get ") || what.starts_with("list ")),
            part(|what| what.ends_with("/status")),
            part(|what| what.ends_with(" events")),
            format!("{:.2}", a_second(&measured.idle)),
            format!("{:.2}", a_second(&measured.load)),
            format!("{:.2}", each(measured, &measured.restart)),
        ]
    });
    Section {
        name: "operator-calls".to_owned(),
        heading: "Calls of the API server".to_owned(),
        what: format!(
            "What the operator asked of the API server, as that wrote it down: for each monitor until all were ready; in a \
             second, over {seconds} s, while no worker had anything to read, and while the figures of all workers changed from \
             look to look; and for each monitor when another operator took over. Not counted are watches, and the call a second \
             by which the operator keeps its Lease."
        ),
        columns: vec![
            "monitors",
            "starting, calls a monitor",
            "of these: read",
            "status",
            "events",
            "idle, calls/s",
            "under load, calls/s",
            "restart, calls a monitor",
        ],
        rows: rows.collect(),
        plot: plot(
            all,
            vec![
                Panel {
                    what: "calls a monitor".to_owned(),
                    series: vec![
                        series("starting", all, |measured| Some(each(measured, &measured.starting))),
                        series("restart", all, |measured| Some(each(measured, &measured.restart))),
                    ],
                },
                Panel {
                    what: "calls a second".to_owned(),
                    series: vec![
                        series("idle", all, |measured| Some(a_second(&measured.idle))),
                        series("under load", all, |measured| Some(a_second(&measured.load))),
                    ],
                },
            ],
        ),
    }
}

fn memory(all: &[Measured]) -> Section {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let percent = |phase: &Phase| phase.cpu_seconds * 100.0 / phase.seconds;
    let rows = all.iter().map(|measured| {
        vec![
            grouped(u64::from(measured.monitors)),
            format!("{:.1}", megabytes(measured.resident_before)),
            format!("{:.1}", megabytes(measured.resident)),
            format!("{:.1}", megabytes(measured.resident_max)),
            format!("{:.1}", megabytes(measured.resident_max_restarted)),
            format!("{:.2}", percent(&measured.idle)),
            format!("{:.2}", percent(&measured.load)),
            format!("{:.1}", measured.restart.seconds),
        ]
    });
    Section {
        name: "operator-memory".to_owned(),
        heading: "Memory and processor time".to_owned(),
        what: "Resident memory of the operator before the first monitor, idle with all of them, and at most; and at most after \
               another one took over, which reads everything at once. Processor time while idle and under load. The time of a \
               restart is from the end of one operator until the next one has applied the objects of every monitor."
            .to_owned(),
        columns: vec![
            "monitors",
            "resident before, MB",
            "idle, MB",
            "at most, MB",
            "at most after a restart, MB",
            "CPU idle, % of a core",
            "CPU under load, % of a core",
            "restart, s",
        ],
        rows: rows.collect(),
        plot: plot(
            all,
            vec![
                Panel {
                    what: "MB resident".to_owned(),
                    series: vec![
                        series("idle", all, |measured| Some(megabytes(measured.resident))),
                        series("at most", all, |measured| Some(megabytes(measured.resident_max))),
                        series("after a restart", all, |measured| {
                            Some(megabytes(measured.resident_max_restarted))
                        }),
                    ],
                },
                Panel {
                    what: "% of a core".to_owned(),
                    series: vec![
                        series("idle", all, |measured| Some(percent(&measured.idle))),
                        series("under load", all, |measured| Some(percent(&measured.load))),
                    ],
                },
            ],
        ),
    }
}
