//! A worker: the real binary, as a process.
//!
//! Responsible for running it with a configuration, for its signals and end, and for reading its admin endpoint.
//! Must never know what a configuration means: tests write it.
//!
//! The binary is `$CRASHMONITOR_WORKER`, else the one that cargo built beside the running program, else the one in
//! `$CARGO_TARGET_DIR/{debug,release}`.

use crate::home::Dir;
use crate::http;
use crate::ports::Port;
use crate::process::Process;
use crate::wait::try_until;
use rustix::process::Signal;
use serde_json::Value;
use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

/// What to start.
#[derive(Debug, Clone)]
pub struct Builder {
    name: String,
    environment: Vec<(String, String)>,
    prefix: Vec<String>,
}

/// A worker that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// All that it wrote, to stdout and stderr.
    pub log: String,
}

impl Builder {
    /// Sets an environment variable.
    pub fn env(mut self, key: &str, value: &str) -> Builder {
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Has a program start it that then becomes it, such as `ip netns exec NAME`.
    pub fn under(mut self, prefix: &[&str]) -> Builder {
        self.prefix = prefix.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Starts it. `config` gets the address that the admin endpoint must listen on, and gives the configuration.
    /// Doesn't wait for anything: [`Worker::wait_ready`] does.
    pub fn start(self, config: impl FnOnce(SocketAddr) -> String) -> Worker {
        let mut worker = self.prepare(config);
        worker.process = Some(worker.spawn());
        worker
    }

    /// Runs it to its end, which must come within `timeout`: for configurations that it refuses.
    #[track_caller]
    pub fn run_to_end(self, timeout: Duration, config: impl FnOnce(SocketAddr) -> String) -> Finished {
        let worker = self.start(config);
        let status = worker.wait_exit(timeout);
        Finished { status, log: worker.log() }
    }

    fn prepare(self, config: impl FnOnce(SocketAddr) -> String) -> Worker {
        let dir = Dir::new("worker");
        let admin = Port::reserve();
        dir.write("config.yaml", config(admin.address()));
        Worker { process: None, builder: self, admin, dir }
    }
}

/// A worker process. Dropping it kills it and removes its files.
#[derive(Debug)]
pub struct Worker {
    // Before `dir`: the process ends before its files go.
    process: Option<Process>,
    builder: Builder,
    admin: Port,
    dir: Dir,
}

impl Worker {
    /// What to start; the name is for messages.
    pub fn builder(name: &str) -> Builder {
        Builder { name: name.to_owned(), environment: Vec::new(), prefix: Vec::new() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.builder.name
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("a worker is started when it is made")
    }

    /// The address of its admin endpoint.
    pub fn admin(&self) -> SocketAddr {
        self.admin.address()
    }

    /// SIGKILL, and waits for the end.
    pub fn kill9(&self) {
        self.process().kill();
    }

    /// SIGTERM; doesn't wait.
    pub fn sigterm(&self) {
        self.process().signal(Signal::TERM);
    }

    /// SIGSTOP: it holds what it owns and does nothing.
    pub fn sigstop(&self) {
        self.process().signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn sigcont(&self) {
        self.process().signal(Signal::CONT);
    }

    /// Waits until it ends, and panics with the end of its log when it doesn't.
    #[track_caller]
    pub fn wait_exit(&self, timeout: Duration) -> ExitStatus {
        self.process().wait_exit(timeout)
    }

    /// SIGTERM, waits, and panics unless it ended with code 0.
    #[track_caller]
    pub fn stop(&self, timeout: Duration) {
        self.sigterm();
        let status = self.wait_exit(timeout);
        assert!(status.success(), "{} ended with {status} after SIGTERM\n{}", self.name(), self.log_tail());
    }

    /// Starts it again after its end: the same configuration, environment, name and admin address.
    pub fn start_again(&mut self) {
        assert!(!self.is_running(), "{} is running", self.name());
        self.process = Some(self.spawn());
    }

    /// The next start is without this environment variable.
    pub fn unset_env(&mut self, key: &str) {
        self.builder.environment.retain(|(set, _)| set != key);
    }

    /// Whether it has not ended.
    pub fn is_running(&self) -> bool {
        self.process().is_running()
    }

    /// Everything that it has logged, over all starts.
    pub fn log(&self) -> String {
        self.process().log()
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        self.process().log_tail()
    }

    /// GETs /status.
    pub fn try_status(&self) -> Result<Value, String> {
        let response = http::get(self.admin(), "/status")?;
        if response.code != 200 {
            return Err(format!("/status of {}: {} {}", self.name(), response.code, response.body));
        }
        serde_json::from_str(&response.body).map_err(|e| format!("/status of {}: {e}", self.name()))
    }

    /// GETs /status, and panics when it doesn't answer.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.try_status().unwrap_or_else(|e| panic!("{e}\n{}", self.log_tail()))
    }

    /// GETs /metrics.
    pub fn try_metrics(&self) -> Result<String, String> {
        let response = http::get(self.admin(), "/metrics")?;
        if response.code == 200 { Ok(response.body) } else { Err(format!("/metrics: {}", response.code)) }
    }

    /// GETs /metrics, and panics when it doesn't answer.
    #[track_caller]
    pub fn metrics(&self) -> String {
        self.try_metrics().unwrap_or_else(|e| panic!("{e}\n{}", self.log_tail()))
    }

    /// The sum of a metric over its label sets; `None` when it isn't there.
    #[track_caller]
    pub fn metric(&self, name: &str) -> Option<f64> {
        sum_of(&self.metrics(), name)
    }

    /// Whether /readyz says so; false when it doesn't answer.
    pub fn ready(&self) -> bool {
        http::get(self.admin(), "/readyz").is_ok_and(|response| response.code == 200)
    }

    /// Whether /healthz says so; false when it doesn't answer.
    pub fn healthy(&self) -> bool {
        http::get(self.admin(), "/healthz").is_ok_and(|response| response.code == 200)
    }

    /// Waits until /readyz says so, and panics when the worker ends or the time is up.
    #[track_caller]
    pub fn wait_ready(&self, timeout: Duration) {
        let ready = try_until(timeout, || {
            if let Some(status) = self.process().exited() {
                return Ok(Err(format!("it ended with {status}")));
            }
            let response = http::get(self.admin(), "/readyz")?;
            if response.code == 200 {
                Ok(Ok(()))
            } else {
                Err(format!("{} {}", response.code, response.body))
            }
        });
        if let Err(why) = ready.unwrap_or_else(Err) {
            panic!("{} was not ready within {timeout:?}: {why}\n{}", self.name(), self.log_tail());
        }
    }

    fn spawn(&self) -> Process {
        let binary = binary("crashmonitor-worker", "CRASHMONITOR_WORKER");
        let mut command = match &self.builder.prefix[..] {
            [] => Command::new(binary),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(binary);
                command
            }
        };
        command.arg("run").arg("--config").arg(self.dir.path().join("config.yaml"));
        for (key, value) in &self.builder.environment {
            command.env(key, value);
        }
        Process::spawn(self.name(), &command, &self.dir.path().join("log"))
    }
}

/// Finds a binary of this workspace: by the environment variable, beside the running program, or in the target
/// directory.
pub fn binary(name: &str, variable: &str) -> PathBuf {
    if let Some(path) = env::var_os(variable) {
        return PathBuf::from(path);
    }
    let mut candidates = Vec::new();
    if let Ok(program) = env::current_exe() {
        // A test runs from target/<profile>/deps, a program from target/<profile>.
        candidates.extend(program.ancestors().skip(1).take(2).map(|dir| dir.join(name)));
    }
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    candidates.extend(["debug", "release"].map(|profile| target.join(profile).join(name)));
    let found = candidates.iter().find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not built: none of {candidates:?} is there")).clone()
}

fn sum_of(metrics: &str, name: &str) -> Option<f64> {
    let values: Vec<f64> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with(['{', ' ']))
        .filter_map(|rest| rest.rsplit('}').next()?.split_whitespace().next()?.parse().ok())
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::sum_of;

    #[test]
    fn a_metric_is_summed_over_its_labels() {
        let text =
            "# TYPE lag gauge\nlag{partition=\"0\"} 3\nlag{partition=\"1\"} 4 1700000000\nlag_max 9\nup 1\n";
        assert_eq!(sum_of(text, "lag"), Some(7.0));
        assert_eq!(sum_of(text, "up"), Some(1.0));
        assert_eq!(sum_of(text, "down"), None);
    }
}
