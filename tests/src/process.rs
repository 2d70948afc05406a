//! Child processes that never outlive the program.
//!
//! Responsible for starting them with their log in a file, for signals, for waiting, and for their end: every child
//! runs under `setpriv --pdeathsig KILL`, so the kernel kills it when the program dies in whatever way. Must never
//! signal a process that it did not start.
//!
//! The kernel sends that signal when the *thread* that started the child ends, and the test harness runs each test
//! in a thread of its own. So one thread, which lives as long as the program, starts all children.

use crate::home;
use crate::wait::try_until;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;
use std::{io, thread};

/// How much of a log an error message shows.
const TAIL_LINES: usize = 30;

type Started = io::Result<Child>;
type Request = (Command, Sender<Started>);

/// A running (or ended) child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    log: PathBuf,
    child: Mutex<Child>,
}

impl Process {
    /// Starts `command` (its program, arguments, environment and directory), with no input and with its output
    /// appended to `log`.
    pub fn spawn(name: &str, command: &Command, log: &Path) -> Process {
        let child = spawner_start(tied(command, log));
        let child = child.unwrap_or_else(|e| panic!("starting {name} by setpriv: {e}"));
        let pid = child.id();
        let pid_file = home::pids().join(pid.to_string());
        fs::write(&pid_file, name).unwrap_or_else(|e| panic!("writing {}: {e}", pid_file.display()));
        Process { name: name.to_owned(), pid, log: log.to_owned(), child: Mutex::new(child) }
    }

    /// Its name, as messages show it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it has.
    pub fn exited(&self) -> Option<ExitStatus> {
        let status = self.lock().try_wait();
        status.unwrap_or_else(|e| panic!("waiting for {}: {e}", self.name))
    }

    /// Whether it has not ended.
    pub fn is_running(&self) -> bool {
        self.exited().is_none()
    }

    /// Whether SIGSTOP holds it.
    pub fn is_stopped(&self) -> bool {
        fields_after_name(&format!("/proc/{}", self.pid)).first().is_some_and(|state| state == "T")
    }

    /// Sends it a signal; nothing happens when it has ended.
    pub fn signal(&self, signal: Signal) {
        // Holding the lock: the child can't be reaped meanwhile, so the pid is still its own.
        let mut child = self.lock();
        if child.try_wait().is_ok_and(|status| status.is_none()) {
            let pid = Pid::from_child(&child);
            kill_process(pid, signal).unwrap_or_else(|e| panic!("sending {signal:?} to {}: {e}", self.name));
        }
    }

    /// Waits until it ends, and panics with the end of its log when it doesn't.
    #[track_caller]
    pub fn wait_exit(&self, timeout: Duration) -> ExitStatus {
        match try_until(timeout, || self.exited().ok_or(())) {
            Ok(status) => status,
            Err(()) => panic!("{} did not exit within {timeout:?}\n{}", self.name, self.log_tail()),
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&self) -> ExitStatus {
        let mut child = self.lock();
        child.kill().unwrap_or_else(|e| panic!("killing {}: {e}", self.name));
        let status = child.wait().unwrap_or_else(|e| panic!("waiting for {}: {e}", self.name));
        let _ = fs::remove_file(home::pids().join(self.pid.to_string()));
        status
    }

    /// Everything that it has written.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last lines of its log, with a heading, for error messages.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n  ");
        format!("the end of {}'s log:\n  {tail}", self.name)
    }

    /// Its resident memory in bytes; zero when it has ended.
    pub fn resident_bytes(&self) -> u64 {
        resident_bytes(self.pid)
    }

    /// The most resident memory that it ever had, in bytes; zero when it has ended.
    pub fn resident_bytes_max(&self) -> u64 {
        status_bytes(self.pid, "VmHWM:")
    }

    /// The processor time that it has used, user and system together; zero when it has ended.
    pub fn cpu_time(&self) -> Duration {
        cpu_time(self.pid)
    }

    fn lock(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A panic in a destructor would hide the failure that a test is about.
        let mut child = self.lock();
        let _ = child.kill();
        let _ = child.wait();
        let _ = fs::remove_file(home::pids().join(self.pid.to_string()));
    }
}

/// The resident memory of any process in bytes; zero when there is none.
pub fn resident_bytes(pid: u32) -> u64 {
    status_bytes(pid, "VmRSS:")
}

fn status_bytes(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")).and_then(|n| n.trim().parse().ok());
    kib.map_or(0, |kib: u64| kib * 1024)
}

/// The processor time of any process, user and system together; zero when there is none.
pub fn cpu_time(pid: u32) -> Duration {
    cpu_time_in(&format!("/proc/{pid}"))
}

/// The processor time of those threads of a process whose names begin like this, as far as they have not ended.
pub fn cpu_time_of_threads(pid: u32, prefix: &str) -> Duration {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let is_meant =
        |dir: &Path| fs::read_to_string(dir.join("comm")).is_ok_and(|name| name.starts_with(prefix));
    let dirs = threads.flatten().map(|thread| thread.path()).filter(|dir| is_meant(dir));
    dirs.map(|dir| cpu_time_in(&dir.display().to_string())).sum()
}

fn cpu_time_in(dir: &str) -> Duration {
    let fields = fields_after_name(dir);
    // utime and stime are fields 14 and 15.
    let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    let per_second = rustix::param::clock_ticks_per_second();
    Duration::from_secs_f64((ticks(11) + ticks(12)) as f64 / per_second as f64)
}

/// Whether a process of this group runs. One that has ended does not, whether or not somebody has waited for it.
pub fn runs_in_group(group: u32) -> bool {
    let entries = fs::read_dir("/proc").expect("/proc is there").flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.any(|pid| {
        // The state, and the group two fields behind it.
        let fields = fields_after_name(&format!("/proc/{pid}"));
        fields.get(2).is_some_and(|of| *of == group.to_string()) && fields[0] != "Z" && fields[0] != "X"
    })
}

/// The fields of `stat` in /proc/<pid> or of a thread from the third on, the state; none when it has ended. The second,
/// the name in parentheses, may contain spaces.
fn fields_after_name(dir: &str) -> Vec<String> {
    let stat = fs::read_to_string(format!("{dir}/stat")).unwrap_or_default();
    stat.rsplit(')').next().unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// The same command, tied to our life and in a process group of its own (Ctrl-C is ours to handle).
fn tied(command: &Command, log: &Path) -> Command {
    let open = || {
        let file = File::options().create(true).append(true).open(log);
        Stdio::from(file.unwrap_or_else(|e| panic!("opening {}: {e}", log.display())))
    };
    let mut tied = Command::new("setpriv");
    tied.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => tied.env(key, value),
            None => tied.env_remove(key),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        tied.current_dir(dir);
    }
    tied.stdin(Stdio::null()).stdout(open()).stderr(open()).process_group(0);
    tied
}

fn spawner_start(command: Command) -> Started {
    static SPAWNER: OnceLock<Mutex<Sender<Request>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = channel();
        thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || spawner_loop(&requests))
            .unwrap_or_else(|e| panic!("starting the thread that starts processes: {e}"));
        Mutex::new(sender)
    });
    let (reply, started) = channel();
    let sender = spawner.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
    sender.send((command, reply)).expect("the spawner lives as long as the program");
    started.recv().expect("the spawner answers every request")
}

fn spawner_loop(requests: &Receiver<Request>) {
    while let Ok((mut command, reply)) = requests.recv() {
        // Who asked may have panicked meanwhile; the dropped child of such a request dies with the program.
        let _ = reply.send(command.spawn());
    }
}
