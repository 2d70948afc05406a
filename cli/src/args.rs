//! What can be asked.
//!
//! Responsible for every name and every default of the command line. Must never look at anything but what was typed:
//! what a value leads to is the commands'.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::error::EXIT_CODES;
use crate::generate::Choices;
use crate::{report, results, top, verify};

/// Looks after CrashMonitors: what they do, what a change would do, and whether their results are right.
#[derive(Parser, Debug)]
#[command(name = "kubectl-crashmonitor", bin_name = "kubectl crashmonitor", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: Cluster,
}

/// How the API server is found, as kubectl does it.
#[derive(Args, Debug, Clone, Default)]
pub struct Cluster {
    /// The namespace [default: that of the context].
    #[arg(long, short, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub namespace: Option<String>,
    /// The context of the kubeconfig [default: the current one].
    #[arg(long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub context: Option<String>,
    /// The kubeconfig [default: $KUBECONFIG, then ~/.kube/config].
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub kubeconfig: Option<PathBuf>,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// What runs, how far it is, and what it waits for.
    Status {
        /// The CrashMonitor.
        name: String,
        /// Text for people, or all of it for programs.
        #[arg(long, short, value_enum, default_value_t = Format::Text)]
        output: Format,
    },
    /// Show it at work: rates, lag, event time and the users with most crashes, live.
    Top(top::Wanted),
    /// Print what it has found, as the original monitor printed it.
    Results(results::Wanted),
    /// Read the input of a past interval again and compare: a proof that every result is there, once, and right.
    Verify(verify::Wanted),
    /// What applying a file would do, found out by the API server without doing it.
    Plan {
        /// YAML or JSON with CrashMonitors; `-`: standard input.
        #[arg(long, short, value_name = "FILE")]
        filename: PathBuf,
        /// Text for people, or all of it for programs.
        #[arg(long, short, value_enum, default_value_t = Format::Text)]
        output: Format,
    },
    /// Stop the workers; what was counted is kept.
    Suspend {
        /// The CrashMonitor.
        name: String,
    },
    /// Go on where the workers stopped.
    Resume {
        /// The CrashMonitor.
        name: String,
    },
    /// Restart the workers, one after the other.
    Restart {
        /// The CrashMonitor.
        name: String,
    },
    /// Write a support bundle: what somebody who helps needs to see, without secrets.
    Report(report::Wanted),
    /// Write a resource from flags; on a terminal, what is missing is asked for.
    Generate(Box<Choices>),
    /// Print a shell's completions.
    #[command(after_help = "Examples:\n  \
        source <(kubectl-crashmonitor completions bash)\n  \
        kubectl-crashmonitor completions zsh > ~/.zfunc/_kubectl-crashmonitor")]
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// How an answer is written.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// For people.
    Text,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        super::Cli::command().debug_assert();
    }
}
