//! From a command line to an answer.
//!
//! Responsible for the order of things: read, ask, decide, print. Must never make a text itself, nor decide anything.

use clap::CommandFactory;
use jiff::Timestamp;
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;

use crate::args::{self, Cli, Command, Format};
use crate::cluster::Cluster;
use crate::control::Control;
use crate::kafka::{Kafka, Source};
use crate::status::View;
use crate::{Error, control, generate, plan, report, results, top, verify};

/// Does what was asked and prints the answer.
pub async fn run(cli: Cli) -> Result<(), Error> {
    let Cli { command, cluster } = cli;
    let text = match command {
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "kubectl-crashmonitor", &mut text);
            String::from_utf8_lossy(&text).into_owned()
        }
        Command::Generate(choices) => generate::run(*choices, cluster.namespace)?,
        Command::Status { name, output } => status(&name, output, &Cluster::new(&cluster).await?).await?,
        Command::Top(wanted) => return top::run(wanted, Cluster::new(&cluster).await?).await,
        Command::Results(wanted) => {
            let source = source(wanted.name.as_ref(), wanted.config.as_ref(), &cluster).await?;
            return results::run(&wanted, &Kafka::new(&source, &wanted.kafka)?);
        }
        Command::Verify(wanted) => {
            let source = source(wanted.name.as_ref(), wanted.config.as_ref(), &cluster).await?;
            return verify::run(&wanted, source.resource(), &Kafka::new(&source, &wanted.kafka)?);
        }
        Command::Plan { filename, output } => {
            return plan::run(&filename, output, &Cluster::new(&cluster).await?).await;
        }
        Command::Report(wanted) => report::run(&wanted, &Cluster::new(&cluster).await?).await?,
        Command::Suspend { name } => {
            control::run(Control::Suspend, &name, &Cluster::new(&cluster).await?).await?
        }
        Command::Resume { name } => {
            control::run(Control::Resume, &name, &Cluster::new(&cluster).await?).await?
        }
        Command::Restart { name } => {
            control::run(Control::Restart, &name, &Cluster::new(&cluster).await?).await?
        }
    };
    print(&text)
}

/// The monitor that is meant: the command line has a file or a name.
async fn source(
    name: Option<&String>,
    file: Option<&PathBuf>,
    cluster: &args::Cluster,
) -> Result<Source, Error> {
    match (file, name) {
        (Some(file), _) => Source::read(file),
        (None, Some(name)) => {
            let monitor = Cluster::new(cluster).await?.monitor(name).await?;
            Ok(Source::Resource(Box::new(monitor)))
        }
        (None, None) => Err(Error::input("no monitor is named", "give its name, or --config")),
    }
}

async fn status(name: &str, output: Format, cluster: &Cluster) -> Result<String, Error> {
    let monitor = cluster.monitor(name).await?;
    let pods = cluster.pods(name).await?;
    let answers = cluster.answers(&pods).await;
    let view = View::new(monitor, answers, Timestamp::now());
    Ok(match output {
        Format::Text => view.text(),
        other => rendered(&view, other),
    })
}

/// A value as a program wants it.
pub fn rendered(value: &impl Serialize, format: Format) -> String {
    match format {
        Format::Yaml => serde_yaml::to_string(value).expect("plain data is YAML"),
        Format::Text | Format::Json => {
            serde_json::to_string_pretty(value).expect("plain data is JSON") + "\n"
        }
    }
}

/// Prints a text; colours only where somebody sees them.
pub fn print(text: &str) -> Result<(), Error> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Who reads has seen enough, as with `| head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| Error::output(&e)),
    }
}
