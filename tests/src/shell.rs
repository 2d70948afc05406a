//! Blocks of a page, executed by bash as they are written.
//!
//! Responsible for a shell that goes on from block to block, as that of a reader does: variables and what was exported stay.
//! Stand-ins on its path take the place of what a test can't or must not do; each says why. Must never change a block.
//!
//! What a block leaves running (`kubectl port-forward … &`) ends with the block, and has ended when the test goes on: what ends in
//! order may need a service that the test is about to end.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::home::Dir;
use crate::kafka::VERSION;
use crate::pages::{Block, TARGETS};
use crate::process::runs_in_group;
use crate::tools::{cache, jars, root};
use crate::wait::{try_until, until};

/// How long a block may take.
const TIMEOUT: Duration = Duration::from_secs(600);
/// How long what was told to end may take.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs `$1` and keeps what the shell knows at its end for the next block.
const RUNNER: &str = r#"
set -euo pipefail
if [ -f "$2" ]; then . "$2"; fi
set -a
trap 'status=$?; set +x; export -p >"$2"; kill $(jobs -p) 2>/dev/null || true; exit $status' EXIT
PS4='> '
set -x
. "$1"
"#;

/// `make`: its targets are what pages name and what the test has done already, or must not do (`TARGETS`). It sees that each
/// is in `make help`, with each variable.
const MAKE: &str = r#"#!/usr/bin/env bash
set -euo pipefail
help=$(cd "$CRASHMONITOR_ROOT" && /usr/bin/env -i PATH="$CRASHMONITOR_PATH" HOME="$HOME" make help)
lines=
for word in "$@"; do
    [[ $word != *=* ]] || continue
    line=$(grep "^$word " <<<"$help") || { echo "make help has no $word" >&2; exit 2; }
    grep -qx "$word" <<<"$CRASHMONITOR_TARGETS" || { echo "tests/src/pages.rs does not say why $word is not run" >&2; exit 2; }
    lines+=$line
done
[ -n "$lines" ] || { echo "make without a target" >&2; exit 2; }
for word in "$@"; do
    [[ $word == *=* && $lines != *"${word%%=*}="* ]] || continue
    echo "make help does not say what ${word%%=*} is" >&2
    exit 2
done
"#;

/// `cargo run … --bin NAME -- ARGUMENTS`: the program that was built with the tests, as building it is not what is tested.
const CARGO: &str = r#"#!/usr/bin/env bash
set -euo pipefail
[ "$1" = run ] || { echo "the stand-in for cargo knows run alone: $*" >&2; exit 2; }
while [ "$1" != -- ]; do
    if [ "$1" = --bin ]; then program=$2; fi
    shift
done
shift
exec "$program" "$@"
"#;

/// Kafka's own tools, by their names in Kafka's distribution: `scripts/fetch-kafka tools` puts their jars into the cache.
const KAFKA_TOOLS: [(&str, &str); 3] = [
    ("kafka-console-consumer.sh", "org.apache.kafka.tools.consumer.ConsoleConsumer"),
    ("kafka-consumer-groups.sh", "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"),
    ("kafka-topics.sh", "org.apache.kafka.tools.TopicCommand"),
];

/// `kubectl` where there is none: what it does with a name that it does not know, which is to look for a plugin.
const KUBECTL: &str = r#"#!/usr/bin/env bash
exec "kubectl-$@"
"#;

/// A stand-in for a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandIn {
    /// For cargo.
    Cargo,
    /// For Kafka's own tools.
    KafkaTools,
    /// For kubectl, where a block needs no cluster.
    Kubectl,
}

/// The shell.
#[derive(Debug)]
pub struct Shell {
    dir: Dir,
    path: OsString,
    environment: Vec<(String, OsString)>,
}

impl Shell {
    /// One in the checkout, with a home of its own, that finds our programs, the tools of the cache, and these stand-ins. The
    /// one for `make` is always there.
    #[track_caller]
    pub fn new(name: &str, stand_ins: &[StandIn], programs: &[&Path]) -> Shell {
        let dir = Dir::new(name);
        let bin = dir.path().join("bin");
        for path in [&bin, &dir.path().join("home")] {
            fs::create_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
        put(&bin, "make", MAKE);
        for stand_in in stand_ins {
            match stand_in {
                StandIn::Cargo => put(&bin, "cargo", CARGO),
                StandIn::KafkaTools => {
                    KAFKA_TOOLS.iter().for_each(|(name, class)| put(&bin, name, &kafka_tool(class)))
                }
                StandIn::Kubectl => put(&bin, "kubectl", KUBECTL),
            }
        }
        for program in programs {
            let name = program.file_name().expect("a program has a name");
            let program = fs::canonicalize(program).unwrap_or_else(|e| panic!("{}: {e}", program.display()));
            std::os::unix::fs::symlink(program, bin.join(name)).expect("the directory is new");
        }
        let outside = std::env::var_os("PATH").unwrap_or_default();
        let dirs = [bin, cache().join("tools/bin")].into_iter().chain(std::env::split_paths(&outside));
        let path = std::env::join_paths(dirs).expect("directories of a path are in one");
        let targets: Vec<&str> = TARGETS.iter().map(|(target, _)| *target).collect();
        let environment = vec![
            ("HOME".to_owned(), dir.path().join("home").into()),
            ("CRASHMONITOR_CACHE".to_owned(), cache().into()),
            ("CRASHMONITOR_ROOT".to_owned(), root().into()),
            ("CRASHMONITOR_PATH".to_owned(), outside),
            ("CRASHMONITOR_TARGETS".to_owned(), targets.join("\n").into()),
        ];
        Shell { dir, path, environment }
    }

    /// A file in the directory where [`Shell::run_in_home`] runs blocks.
    pub fn home_file(&self, name: &str, text: &str) {
        let path = self.dir.path().join("home").join(name);
        fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    /// Whether such a file is there and is not empty.
    pub fn has_home_file(&self, name: &str) -> bool {
        fs::metadata(self.dir.path().join("home").join(name)).is_ok_and(|file| file.len() > 0)
    }

    /// Sets a variable for all blocks.
    pub fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// Runs a block in the checkout, and gives what it said; panics when it fails.
    #[track_caller]
    pub fn run(&self, block: &Block) -> String {
        self.succeed(block, root())
    }

    /// The same, in the home directory.
    #[track_caller]
    pub fn run_in_home(&self, block: &Block) -> String {
        self.succeed(block, &self.dir.path().join("home"))
    }

    /// Runs a block that must fail, and gives what it said.
    #[track_caller]
    pub fn run_refused(&self, block: &Block) -> String {
        let (status, said) = self.start(block).end(TIMEOUT);
        assert!(!status.success(), "{block} was to be refused, and was not:\n{said}");
        said
    }

    /// Starts a block in the checkout; a command of it has no end of its own.
    pub fn start(&self, block: &Block) -> Running {
        self.start_at(block, root())
    }

    /// The same, in the home directory.
    pub fn start_in_home(&self, block: &Block) -> Running {
        self.start_at(block, &self.dir.path().join("home"))
    }

    /// Sets a variable, as a reader does who puts his own value in place of the page's, for the blocks that follow.
    #[track_caller]
    pub fn assign(&self, name: &str, value: &str) {
        let state = self.dir.path().join("state");
        let mut text = fs::read_to_string(&state).unwrap_or_else(|e| panic!("no block ran before: {e}"));
        text += &format!("export {name}='{value}'\n");
        self.dir.write("state", text);
    }

    #[track_caller]
    fn succeed(&self, block: &Block, at: &Path) -> String {
        let (status, said) = self.start_at(block, at).end(TIMEOUT);
        assert!(status.success(), "{block}:\n{}\nended with {status} and said\n{said}", block.text);
        said
    }

    fn start_at(&self, block: &Block, at: &Path) -> Running {
        let script = self.dir.write("block", &block.text);
        let log = self.dir.path().join("log");
        let output = fs::File::create(&log).unwrap_or_else(|e| panic!("{}: {e}", log.display()));
        let error = output.try_clone().expect("a file has another handle");
        let mut command = Command::new("bash");
        command.args(["-c", RUNNER, "bash"]).arg(script).arg(self.dir.path().join("state"));
        command.current_dir(at).env("PATH", &self.path).envs(self.environment.clone());
        // Of its own group, so that all that it starts ends with it.
        command.stdin(Stdio::null()).stdout(output).stderr(error).process_group(0);
        let child = command.spawn().unwrap_or_else(|e| panic!("bash: {e}"));
        Running { block: block.clone(), child, log }
    }
}

/// A block that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Running {
    block: Block,
    child: std::process::Child,
    log: std::path::PathBuf,
}

impl Running {
    /// What it has said so far.
    pub fn said(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_else(|e| panic!("{}: {e}", self.log.display()));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until it has said these, one after the other, then ends it, and gives all that it said. Each command is
    /// said too, before it runs.
    #[track_caller]
    pub fn end_when(mut self, texts: &[&str]) -> String {
        let block = self.block.clone();
        until(&format!("{block} to say {texts:?}"), TIMEOUT, || {
            let said = self.said();
            let after = |rest: &str, text: &&str| rest.split_once(*text).map(|(_, after)| after.to_owned());
            if texts.iter().try_fold(said.clone(), |rest, text| after(&rest, text)).is_some() {
                return Ok(());
            }
            let ended = self.child.try_wait().expect("it is our child");
            assert!(ended.is_none(), "{block} ended with {ended:?} and said\n{said}");
            Err(said)
        });
        // Not as a reader does, by an interrupt: what runs in a background ignores that.
        self.signal(Signal::TERM);
        self.end(END_TIMEOUT).1
    }

    #[track_caller]
    fn end(mut self, timeout: Duration) -> (ExitStatus, String) {
        let block = self.block.clone();
        let status = until(&format!("{block} to end"), timeout, || {
            let ended = self.child.try_wait().expect("it is our child");
            ended.ok_or_else(|| self.said())
        });
        // The shell does not wait for what it has started when it is told to end.
        until(&format!("what {block} has started to end"), timeout, || {
            if runs_in_group(self.child.id()) { Err(self.said()) } else { Ok(()) }
        });
        (status, self.said())
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may just have ended.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        let ended = try_until(END_TIMEOUT, || match self.child.try_wait() {
            Ok(Some(_)) => Ok(()),
            _ => Err(()),
        });
        if ended.is_err() || runs_in_group(self.child.id()) {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

#[track_caller]
fn kafka_tool(class: &str) -> String {
    let libs = jars(&format!("kafka-tools-{VERSION}"), "scripts/fetch-kafka tools")
        .unwrap_or_else(|e| panic!("{e}"));
    format!("#!/bin/sh\nexec java -cp '{}/*' {class} \"$@\"\n", libs.display())
}

fn put(bin: &Path, name: &str, text: &str) {
    let path = bin.join(name);
    fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("it is ours");
}
