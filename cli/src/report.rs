//! `report`: what somebody who helps needs to see, in one file.
//!
//! Responsible for the bundle's contents and for leaving out what is nobody's business ([`redact`]). Must never read a
//! Secret, a record of a topic or an environment; and must never fail because a part can't be had: the bundle then says
//! why.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::Value;

use crate::Error;
use crate::cluster::Cluster;
use crate::status::View;
use crate::text::things;

pub mod redact;

/// Lines of each log.
const LOG_LINES: i64 = 2000;

/// What is to be written.
#[derive(Args, Debug)]
pub struct Wanted {
    /// The CrashMonitor.
    pub name: String,
    /// The file [default: crashmonitor-NAME-TIME.tar.gz].
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The namespace of the operator, for its log; with an empty one its log is left out.
    #[arg(long, value_name = "NAME", default_value = "crashmonitor-system")]
    pub operator_namespace: String,
}

/// Files by name.
type Files = Vec<(String, String)>;

/// Writes the bundle and says what is in it.
pub async fn run(wanted: &Wanted, cluster: &Cluster) -> Result<String, Error> {
    let now = Timestamp::now();
    let file = wanted.file.clone().unwrap_or_else(|| {
        PathBuf::from(format!("crashmonitor-{}-{}.tar.gz", wanted.name, now.strftime("%Y%m%dT%H%M%SZ")))
    });
    let files = collect(wanted, cluster, now).await?;
    write(&file, &files, now).map_err(|e| {
        Error::failed(format!("{} can't be written: {e}", file.display()), "give another place with --file")
    })?;
    let mut text = format!("{}: {}\n", file.display(), things(files.len(), "file"));
    for (name, content) in &files {
        text += &format!("  {name} ({} bytes)\n", content.len());
    }
    text += "Passwords, tokens and annotations are left out. Names of brokers, topics and users of Kafka are not: look \
             through it before you give it away.\n";
    Ok(text)
}

async fn collect(wanted: &Wanted, cluster: &Cluster, now: Timestamp) -> Result<Files, Error> {
    let name = &wanted.name;
    let monitor = cluster.monitor(name).await?;
    let pods = cluster.pods(name).await;
    let mut files = vec![("about.txt".to_owned(), about(cluster, now).await)];
    files.push(("crashmonitor.yaml".to_owned(), yaml(serde_json::to_value(&monitor))));
    for (file, objects) in cluster.belongings(name).await {
        files.push((format!("{file}.yaml"), part(objects.map(|value| yaml(Ok(value))))));
    }
    files.push(("events.yaml".to_owned(), part(cluster.events(name).await.map(|value| yaml(Ok(value))))));
    let pods = match pods {
        Ok(pods) => pods,
        Err(error) => {
            files.push(("pods.yaml".to_owned(), error.to_string()));
            Vec::new()
        }
    };
    if !pods.is_empty() {
        files.push(("pods.yaml".to_owned(), yaml(serde_json::to_value(&pods))));
    }
    let answers = cluster.answers(&pods).await;
    files.push((
        "status.txt".to_owned(),
        anstream::adapter::strip_str(&View::new(monitor, answers, now).text()).to_string(),
    ));
    for pod in pods.iter().map(ResourceExt::name_any) {
        for path in ["status", "metrics"] {
            let answer = cluster.from_worker(&pod, &format!("/{path}")).await;
            files.push((format!("workers/{pod}/{path}"), redact::answer(&answer.unwrap_or_else(|why| why))));
        }
        files.push((format!("workers/{pod}/log"), log(cluster, &pod, false).await));
        files.push((format!("workers/{pod}/log-before"), log(cluster, &pod, true).await));
    }
    if !wanted.operator_namespace.is_empty() {
        let operator = cluster.in_namespace(&wanted.operator_namespace);
        match operator.operators().await {
            Ok(pods) => {
                for pod in pods {
                    files.push((format!("operator/{pod}/log"), log(&operator, &pod, false).await));
                }
            }
            Err(error) => files.push(("operator/error.txt".to_owned(), error.to_string())),
        }
    }
    Ok(files)
}

async fn about(cluster: &Cluster, now: Timestamp) -> String {
    let server = cluster.version().await.unwrap_or_else(|error| error.to_string());
    format!("kubectl-crashmonitor {}\nKubernetes {server}\n{now}\n", env!("CARGO_PKG_VERSION"))
}

async fn log(cluster: &Cluster, pod: &str, is_previous: bool) -> String {
    let log = cluster.log(pod, LOG_LINES, is_previous).await;
    redact::log(&log.unwrap_or_else(|why| why))
}

fn part(outcome: Result<String, Error>) -> String {
    outcome.unwrap_or_else(|error| error.to_string())
}

fn yaml(value: serde_json::Result<Value>) -> String {
    match value {
        Ok(mut value) => {
            redact::object(&mut value);
            serde_yaml::to_string(&value).unwrap_or_else(|e| e.to_string())
        }
        Err(error) => error.to_string(),
    }
}

/// One gzipped tar file.
fn write(path: &Path, files: &Files, now: Timestamp) -> io::Result<()> {
    let root = path.file_name().map_or("report".to_owned(), |name| name.to_string_lossy().into_owned());
    let root = root.trim_end_matches(".tar.gz").to_owned();
    let mut archive = tar::Builder::new(GzEncoder::new(File::create(path)?, Compression::default()));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(now.as_second()).unwrap_or(0));
        archive.append_data(&mut header, format!("{root}/{name}"), content.as_bytes())?;
    }
    archive.into_inner()?.finish()?.flush()
}
