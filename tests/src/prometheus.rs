//! A real Prometheus, whose targets stay the same.
//!
//! Responsible for starting it with rules and targets, as processes on this host, and for what it says of them. Must never judge
//! an alert: whether one is right is for the test that caused it.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::home::Dir;
use crate::http;
use crate::ports::Port;
use crate::process::Process;
use crate::tools::tool;
use crate::wait::until;

/// How long it may take to its first answer.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it scrapes, how long that may take, and how often it looks at the rules.
const INTERVAL: &str = "1s";

/// What is scraped, at `/metrics`.
#[derive(Debug, Clone)]
pub struct Target {
    /// The job, by which some alerts know who should be there.
    pub job: &'static str,
    /// Where.
    pub address: SocketAddr,
    /// What Prometheus puts to each sample.
    pub labels: Value,
}

/// An alert that is pending or fires.
#[derive(Debug, Clone)]
pub struct Alert {
    /// Whether it has held for as long as it must.
    pub is_firing: bool,
    /// Its labels, `alertname` among them.
    pub labels: Value,
    /// What the person on call reads first.
    pub summary: String,
}

/// The process. Dropping it kills it and removes what it has stored.
#[derive(Debug)]
pub struct Prometheus {
    // Before `dir`: the process ends before its files go.
    process: Process,
    port: Port,
    _dir: Dir,
}

impl Prometheus {
    /// Starts it, and waits until it is ready.
    #[track_caller]
    pub fn start(rules: &Value, targets: &[Target]) -> Prometheus {
        let dir = Dir::new("prometheus");
        let port = Port::reserve();
        // JSON is YAML.
        let rules = dir.write("rules.yaml", rules.to_string());
        let scrapes: Vec<Value> = targets
            .iter()
            .enumerate()
            .map(|(n, target)| {
                let mut labels = target.labels.clone();
                // A scrape has a name of its own; the label is what counts.
                labels["job"] = json!(target.job);
                json!({
                    "job_name": format!("{}-{n}", target.job),
                    "static_configs": [{"targets": [target.address.to_string()], "labels": labels}],
                })
            })
            .collect();
        let config = json!({
            "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
            "rule_files": [rules],
            "scrape_configs": scrapes,
        });
        let mut command = Command::new(tool("prometheus"));
        command.arg("--config.file").arg(dir.write("prometheus.yaml", config.to_string()));
        command.arg("--storage.tsdb.path").arg(dir.path().join("data"));
        command.arg("--web.listen-address").arg(port.address().to_string());
        let process = Process::spawn("Prometheus", &command, &dir.path().join("log"));
        let prometheus = Prometheus { process, port, _dir: dir };
        until("Prometheus to be ready", START_TIMEOUT, || {
            let answer = http::get(prometheus.port.address(), "/-/ready");
            match answer {
                Ok(response) if response.code == 200 => Ok(()),
                other => Err(format!("{other:?}\n{}", prometheus.process.log_tail())),
            }
        });
        prometheus
    }

    /// The alerts that are pending or fire.
    #[track_caller]
    pub fn alerts(&self) -> Vec<Alert> {
        let data = self.ask("/api/v1/alerts");
        let alerts = data["alerts"].as_array().expect("a list of alerts");
        let alert = |alert: &Value| Alert {
            is_firing: alert["state"] == "firing",
            labels: alert["labels"].clone(),
            summary: alert["annotations"]["summary"].as_str().unwrap_or_default().to_owned(),
        };
        alerts.iter().map(alert).collect()
    }

    /// The targets whose last scrape failed, or that were not scraped yet, with the reason.
    #[track_caller]
    pub fn missed(&self) -> Vec<String> {
        let data = self.ask("/api/v1/targets?state=active");
        let targets = data["activeTargets"].as_array().expect("a list of targets").iter();
        let missed = targets.filter(|target| target["health"] != "up");
        missed.map(|target| format!("{}: {}", target["scrapeUrl"], target["lastError"])).collect()
    }

    /// The rules that could not be evaluated, or were not yet, with the reason.
    #[track_caller]
    pub fn broken_rules(&self) -> Vec<String> {
        let data = self.ask("/api/v1/rules");
        let groups = data["groups"].as_array().expect("a list of groups").iter();
        let rules = groups.flat_map(|group| group["rules"].as_array().expect("a list of rules"));
        let broken = rules.filter(|rule| rule["health"] != "ok");
        broken.map(|rule| format!("{}: {}", rule["name"], rule["lastError"])).collect()
    }

    #[track_caller]
    fn ask(&self, path: &str) -> Value {
        let answer = http::get(self.port.address(), path);
        let body = match answer {
            Ok(response) if response.code == 200 => response.body,
            other => panic!("{path}: {other:?}\n{}", self.process.log_tail()),
        };
        let mut answer: Value = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}"));
        answer["data"].take()
    }
}
