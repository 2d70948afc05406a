//! `crashmonitor-faults`: the matrix of real faults, each under load, again and again: `make faults`.
//!
//! Starts three brokers, runs each fault of the matrix with workers, a Redis and topics of its own, and counts what was
//! lost and doubled. Responsible for the order of the runs, for the table, and for keeping the evidence of a run that
//! failed. Must never judge results itself: the oracle of the load generator does. Must never run a fault that hurts
//! brokers beside another one.
//!
//! Exit codes: 0 if all runs were right, 1 if not, 2 for bad arguments.

mod matrix;
mod scene;
mod table;

use clap::Parser;
use crashmonitor_testbed::{Kafka, tools};
use matrix::{Fault, Place};
use scene::Scene;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use table::{Run, Table};

/// Causes real faults under load and compares all results with a recomputation.
#[derive(Parser)]
#[command(name = "crashmonitor-faults")]
struct Options {
    /// How often each fault is caused.
    #[arg(long, value_name = "N", default_value_t = 1)]
    runs: u64,
    /// Runs side by side; those that hurt brokers are alone.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    parallel: u8,
    /// Only the fault of this name, or if there is none, those whose name contains it.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Add to the runs of the last time instead of beginning a new table.
    #[arg(long)]
    more: bool,
    /// Where the table and the evidence of failed runs go [default: the cache].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the names of the faults, and run none.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut faults = matrix::all();
    let is_whole_name = faults.iter().any(|fault| fault.name == options.only);
    faults.retain(|fault| {
        if is_whole_name { fault.name == options.only } else { fault.name.contains(&options.only) }
    });
    if options.list {
        faults.iter().for_each(|fault| println!("{}", fault.name));
        return ExitCode::SUCCESS;
    }
    match run(&options, &faults) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("crashmonitor-faults: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all runs were right.
fn run(options: &Options, faults: &[Fault]) -> Result<bool, String> {
    let out = options.out.clone().unwrap_or_else(|| tools::cache().join("faults"));
    let table = Table::open(&out, options.more)?;
    // No acknowledged record may hang on one broker's disk.
    let kafka = Kafka::builder().brokers(3).with_proxies().property("min.insync.replicas", "2").start();
    let matrix = Matrix { kafka: &kafka, out: &out, table: Mutex::new(table) };
    for _ in 0..options.runs {
        let (beside, alone): (Vec<&Fault>, Vec<&Fault>) =
            faults.iter().partition(|fault| fault.place == Place::Beside);
        matrix.side_by_side(beside, usize::from(options.parallel));
        matrix.side_by_side(alone, 1);
    }
    let table = matrix.table.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{table}");
    println!("in {}", table.path().display());
    Ok(table.is_right())
}

struct Matrix<'a> {
    kafka: &'a Kafka,
    out: &'a Path,
    table: Mutex<Table>,
}

impl Matrix<'_> {
    fn side_by_side(&self, faults: Vec<&Fault>, lanes: usize) {
        let queue = Mutex::new(VecDeque::from(faults));
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        std::thread::scope(|scope| {
            for _ in 0..lanes {
                scope.spawn(|| {
                    while let Some(fault) = next() {
                        self.once(fault);
                    }
                });
            }
        });
    }

    fn once(&self, fault: &Fault) {
        let number = self.table().begin(&fault.name);
        let began = Instant::now();
        let run = match caught(|| Scene::new(self.kafka, fault, number)) {
            Ok(mut scene) => self.play(fault, number, &mut scene),
            Err(why) => Run::unfinished(why),
        };
        let seconds = began.elapsed().as_secs();
        println!("{} #{number}: {run} ({seconds} s)", fault.name);
        if let Err(error) = self.table().add(&fault.name, number, &run) {
            eprintln!("crashmonitor-faults: {error}");
        }
    }

    fn play(&self, fault: &Fault, number: u64, scene: &mut Scene<'_>) -> Run {
        let played = caught(|| {
            (fault.cause)(scene, number);
            scene.finish()
        });
        let run = match played {
            Ok(outcome) => Run::finished(&outcome),
            Err(why) => {
                // Doubled is doubled, but what is missing might have come.
                let run = caught(|| Run::finished(&scene.outcome())).unwrap_or_default();
                Run { why, lost: 0, ..run }
            }
        };
        if !run.is_right() {
            // Before the processes and topics go.
            let dir = self.out.join(format!("{}-{number}", fault.name));
            match caught(|| scene.keep_evidence(&dir, &run)) {
                Ok(Ok(())) => eprintln!("{} #{number} failed: see {}", fault.name, dir.display()),
                Ok(Err(error)) => eprintln!("{}: {error}", dir.display()),
                Err(why) => eprintln!("{}: {why}", dir.display()),
            }
        }
        if let Err(why) = caught(|| scene.clean_up()) {
            eprintln!("{} #{number}, cleaning up: {why}", fault.name);
        }
        run
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs what may panic, as all of the test bed does; what the panic says is the error.
fn caught<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    // Whatever is looked at afterwards is a process, a file or a topic: none of them is left half done.
    catch_unwind(AssertUnwindSafe(body)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
    })
}
