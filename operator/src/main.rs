//! The command line of the operator.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use crashmonitor_host::memory;
use crashmonitor_operator::api::schema;
use crashmonitor_operator::run::{self, Options};

#[derive(Parser)]
#[command(
    name = "crashmonitor-operator",
    version,
    about = "Runs a set of workers for each CrashMonitor resource"
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
    Run(Options),
    /// Print the custom resource definition, or bring it to the cluster.
    Crds {
        /// Apply it instead, and wait until the API server serves it.
        #[arg(long)]
        apply: bool,
    },
    /// Ask a URL until it answers; for tests from inside a cluster, where there is no other client.
    Check {
        /// `http://host:port/path`
        #[arg(long)]
        url: String,
        /// How many seconds to ask again while nobody answers or the answer is an error.
        #[arg(long, default_value_t = 60)]
        timeout: u64,
    },
}

// One thread: the operator waits for the network and for nothing else.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // Before its token for the API server is read.
    if let Err(error) = memory::keep_private() {
        eprintln!("crashmonitor-operator: core dumps can't be forbidden: {error}");
        return ExitCode::FAILURE;
    }
    let cli = Cli::parse();
    run::init_logging(cli.log_json);
    let outcome = match cli.command {
        Command::Run(options) => run::run(options).await,
        Command::Crds { apply: true } => run::apply_crds().await,
        Command::Crds { apply: false } => {
            print!("{}", schema::crd_yaml());
            Ok(())
        }
        Command::Check { url, timeout } => run::check(&url, Duration::from_secs(timeout)).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crashmonitor-operator: {}", format!("{error:#}").replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}
