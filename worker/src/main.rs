//! The command line: reads a configuration, runs the worker, and turns what went wrong into one line and a code.
//!
//! Exit codes: 0 ended in order, 1 failed, 2 the configuration must be changed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use crashmonitor_core::config::Config;
use crashmonitor_host::memory;
use crashmonitor_worker::{logging, purge, run};

#[derive(Parser)]
#[command(
    name = "crashmonitor-worker",
    version,
    about = "Counts crashes per user in Kafka logs, exactly once"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log lines as JSON objects.
    #[arg(long, global = true, env = "CRASHMONITOR_LOG_JSON")]
    log_json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Run until told to end.
    Run {
        #[command(flatten)]
        config: ConfigFile,
        /// This worker's name among its peers, the same after a restart.
        #[arg(long, env = "POD_NAME", default_value_t = run::hostname())]
        instance: String,
    },
    /// Check a configuration and the files it names, without connecting.
    Check {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Remove the monitor's repartition topic, consumer groups and keys in Redis. Nothing else is touched.
    Purge {
        #[command(flatten)]
        config: ConfigFile,
    },
}

#[derive(Args)]
struct ConfigFile {
    /// The configuration, YAML.
    #[arg(long = "config", value_name = "FILE")]
    path: PathBuf,
}

fn main() -> ExitCode {
    // Before anything secret is read.
    if let Err(error) = memory::keep_private() {
        eprintln!("crashmonitor-worker: core dumps can't be forbidden: {error}");
        return ExitCode::FAILURE;
    }
    let cli = Cli::parse();
    logging::init(cli.log_json);
    let outcome = match &cli.command {
        Command::Run { config, instance } => load(&config.path).and_then(|c| ended(run::run(c, instance))),
        Command::Check { config } => load(&config.path).and_then(|c| ended(run::check(&c))),
        Command::Purge { config } => load(&config.path).and_then(|c| ended(purge::purge(&c))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err((message, code)) => {
            eprintln!("crashmonitor-worker: {}", message.replace('\n', " "));
            code.into()
        }
    }
}

fn load(path: &Path) -> Result<Config, (String, u8)> {
    let text = std::fs::read_to_string(path).map_err(|e| (format!("--config {}: {e}", path.display()), 2))?;
    Config::parse(&text).map_err(|e| (format!("{}: {e}", path.display()), 2))
}

fn ended(outcome: Result<(), run::Error>) -> Result<(), (String, u8)> {
    outcome.map_err(|e| (e.to_string(), if e.is_configuration() { 2 } else { 1 }))
}
