//! A real Redis on this host.
//!
//! Responsible for starting it (with a password, TLS or an append-only file where a test needs it), and for
//! stopping, killing, pausing, restarting and emptying it. Must never persist anything unless asked to.

use crate::certificates::Certificates;
use crate::home::Dir;
use crate::ports::Port;
use crate::process::Process;
use crate::wait::try_until;
use rustix::process::Signal;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// What to start. [`Redis::builder`] gives the defaults: no password, no TLS, nothing persisted.
#[derive(Debug, Clone)]
pub struct Builder {
    host: Ipv4Addr,
    password: Option<String>,
    tls: bool,
    certified_host: Option<Ipv4Addr>,
    persistent: bool,
    arguments: Vec<String>,
}

impl Builder {
    /// The address of this host that it listens on; the default is loopback. Pods reach only another one.
    pub fn host(mut self, host: Ipv4Addr) -> Builder {
        self.host = host;
        self
    }

    /// Demands a password (of the default user).
    pub fn password(mut self, password: &str) -> Builder {
        self.password = Some(password.to_owned());
        self
    }

    /// TLS only; nothing listens without.
    pub fn tls(mut self) -> Builder {
        self.tls = true;
        self
    }

    /// TLS only, with a certificate for another address than its own.
    pub fn certified_for(mut self, host: Ipv4Addr) -> Builder {
        self.certified_host = Some(host);
        self.tls()
    }

    /// Keeps an append-only file, so that a restart finds the data.
    pub fn persistent(mut self) -> Builder {
        self.persistent = true;
        self
    }

    /// A further argument of redis-server, such as `--maxmemory` and its value.
    pub fn argument(mut self, argument: &str) -> Builder {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Starts it, and waits until it answers.
    pub fn start(self) -> Redis {
        let dir = Dir::new("redis");
        let certificates =
            self.tls.then(|| Certificates::make(dir.path(), self.certified_host.unwrap_or(self.host)));
        let port = Port::reserve_on(self.host);
        let redis = Redis { process: Mutex::new(None), builder: self, certificates, port, dir };
        redis.start_again();
        redis
    }
}

/// A running Redis. Dropping it kills it and removes its data.
#[derive(Debug)]
pub struct Redis {
    // Before `dir`: the process ends before its files go.
    process: Mutex<Option<Process>>,
    builder: Builder,
    certificates: Option<Certificates>,
    port: Port,
    dir: Dir,
}

impl Redis {
    /// What to start.
    pub fn builder() -> Builder {
        Builder {
            host: Ipv4Addr::LOCALHOST,
            password: None,
            tls: false,
            certified_host: None,
            persistent: false,
            arguments: Vec::new(),
        }
    }

    /// One with the defaults.
    pub fn start() -> Redis {
        Redis::builder().start()
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Its URL, without the password.
    pub fn url(&self) -> String {
        let scheme = if self.builder.tls { "rediss" } else { "redis" };
        format!("{scheme}://{}", self.address())
    }

    /// The PEM file with the authority that clients trust, of a Redis with TLS.
    pub fn authority(&self) -> &Path {
        &self.certificates.as_ref().expect("only a Redis with TLS has an authority").authority
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&self) {
        if let Some(process) = self.process().take() {
            process.signal(Signal::TERM);
            process.wait_exit(STOP_TIMEOUT);
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&self) {
        if let Some(process) = self.process().take() {
            process.kill();
        }
    }

    /// SIGSTOP: its connections stay, and nothing answers.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Starts it after a stop or a kill, on the same port, and waits until it answers.
    pub fn start_again(&self) {
        let mut process = self.process();
        assert!(process.is_none(), "this Redis is running");
        let started = Process::spawn("Redis", &self.command(), &self.dir.path().join("log"));
        let ready = try_until(START_TIMEOUT, || match started.exited() {
            Some(status) => Ok(Err(format!("it ended with {status}"))),
            None => match self.try_command(&["PING"]) {
                Ok(pong) if pong == "PONG" => Ok(Ok(())),
                Ok(other) => Err(other),
                Err(why) => Err(why),
            },
        });
        if let Err(why) = ready.unwrap_or_else(Err) {
            panic!("Redis is not ready: {why}\n{}", started.log_tail());
        }
        *process = Some(started);
    }

    /// Stops it and starts it again.
    pub fn restart(&self) {
        self.stop();
        self.start_again();
    }

    /// Removes every key.
    pub fn flushall(&self) {
        assert_eq!(self.command_text(&["FLUSHALL"]), "OK");
    }

    /// Runs a command, such as `["SET", "k", "v"]`, and gives the answer as redis-cli prints it.
    pub fn command_text(&self, command: &[&str]) -> String {
        self.try_command(command).unwrap_or_else(|e| panic!("redis-cli {}: {e}", command.join(" ")))
    }

    /// All keys.
    pub fn keys(&self) -> Vec<String> {
        self.command_text(&["KEYS", "*"]).lines().map(str::to_owned).collect()
    }

    fn try_command(&self, command: &[&str]) -> Result<String, String> {
        let mut cli = Command::new("redis-cli");
        let host = self.builder.host.to_string();
        cli.args(["-h", &host, "-p", &self.port.number().to_string(), "-e"]);
        if let Some(certificates) = &self.certificates {
            cli.arg("--tls").arg("--cacert").arg(&certificates.authority);
        }
        if let Some(password) = &self.builder.password {
            cli.env("REDISCLI_AUTH", password);
        }
        let output = cli.args(command).stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(format!("{} {}", text(&output.stdout), text(&output.stderr)))
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new("redis-server");
        let number = self.port.number().to_string();
        // Other addresses than loopback are refused without a password unless told so: the network here is the test's.
        command.args(["--bind", &self.builder.host.to_string(), "--protected-mode", "no"]);
        command.args(["--save", "", "--appendonly"]);
        command.arg(if self.builder.persistent { "yes" } else { "no" });
        match &self.certificates {
            None => command.args(["--port", &number]),
            Some(certificates) => command
                .args(["--port", "0", "--tls-port", &number, "--tls-auth-clients", "no"])
                .arg("--tls-cert-file")
                .arg(&certificates.certificate)
                .arg("--tls-key-file")
                .arg(&certificates.key)
                .arg("--tls-ca-cert-file")
                .arg(&certificates.authority),
        };
        if let Some(password) = &self.builder.password {
            command.args(["--requirepass", password]);
        }
        command.args(&self.builder.arguments).arg("--dir").arg(self.dir.path());
        command.current_dir(self.dir.path());
        command
    }

    fn signal(&self, signal: Signal) {
        self.process().as_ref().expect("this Redis was stopped").signal(signal);
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
