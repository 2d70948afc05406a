//! `crashmonitor-run`: the monitor at work, for a person to look at.
//!
//! Starts a real Kafka, a real Redis, worker processes and the load generator on loopback, shows results and figures
//! as they come, and at the end says how many results were right. Responsible for the order of these steps and for the
//! exit code: 0 if all results are right, 1 if not or if something failed, 2 for bad arguments. Must never leave a
//! process or a file behind, and must never judge results itself: the oracle of the load generator does.

use clap::Parser;
use crashmonitor_bench::text;
use crashmonitor_testbed::home::Dir;
use crashmonitor_testbed::show::load::{self, Load};
use crashmonitor_testbed::show::services::Services;
use crashmonitor_testbed::show::summary::Summary;
use crashmonitor_testbed::show::view::View;
use crashmonitor_testbed::show::{self, watch};
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Shows CrashMonitor at work on a real Kafka and Redis of its own, and checks every result.
#[derive(Parser)]
#[command(name = "crashmonitor-run", version)]
struct Args {
    /// Write load for so many seconds, then wait for all results and end [default: until Ctrl-C].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: Option<u64>,
    /// Records a second.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// Worker processes.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    workers: u8,
}

fn main() -> ExitCode {
    let args = Args::parse();
    // The test bed panics with a reason that is meant to be read; where in the code that was is of no interest here.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("\ncrashmonitor-run: {}", panic.payload_as_str().unwrap_or("it panicked"));
    }));
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("\ncrashmonitor-run: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything was right.
fn run(args: &Args) -> Result<bool, String> {
    let mut view = View::stdout();
    // Until the load begins, a signal ends the program at once: all that it started ends with it.
    let services = Services::start(usize::from(args.workers), &mut view)?;
    let stop = stop_flag().map_err(|e| format!("signals: {e}"))?;
    let dir = Dir::new("load");
    let load = Load::start(&services.kafka.bootstrap(), &dir, load::options(args.rate), args.seconds);
    say(&mut view, &format!("writing {} records/s\n", text::grouped(args.rate)))?;
    let watched = watch::run(&services, &load, args.seconds, &stop, &mut view)?;
    say(&mut view, "stopping the workers")?;
    let trouble = services.stop_workers();
    // Read anew, from the first to the last: what came doubled after the last look counts too.
    let log = services.kafka.topics().read_decided(show::OUTPUT);
    let summary = Summary::new(watched, &log, trouble);
    say(&mut view, &summary.to_string())?;
    Ok(summary.is_right())
}

fn say(view: &mut View, line: &str) -> Result<(), String> {
    view.say(line).map_err(|e| format!("standard output: {e}"))
}

/// Set by the first SIGINT or SIGTERM; the second one kills as usual.
fn stop_flag() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}
