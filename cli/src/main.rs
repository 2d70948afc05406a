//! The command line: what was asked, and what became of it as text and an exit code.

use std::process::ExitCode;

use clap::Parser;
use crashmonitor_cli::args::Cli;
use crashmonitor_cli::run;

// One thread: it waits for the network and for nothing else.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run::run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            anstream::eprintln!("{error}");
            error.code().into()
        }
    }
}
