//! Programs that tests run and that are neither ours nor services: helm, kubectl, promtool. And where things lie: the
//! checkout, the cache outside it, and in that the jars of services and peers.
//!
//! Responsible for finding them, and for running the programs. Must never fetch anything: `make deps` and `make cluster`
//! do.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}

/// Where what was downloaded or built lies: `$CRASHMONITOR_CACHE`, by default in the user's cache.
#[track_caller]
pub fn cache() -> PathBuf {
    let cache = env::var_os("CRASHMONITOR_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(env::home_dir()?.join(".cache/crashmonitor")));
    cache.expect("HOME or CRASHMONITOR_CACHE is set")
}

/// The directory with the jars of `name`, such as `kafka-4.1.2`, which the command `fetched_by` fetches.
pub fn jars(name: &str, fetched_by: &str) -> Result<PathBuf, String> {
    let libs = cache().join(name).join("libs");
    if libs.is_dir() {
        Ok(libs)
    } else {
        Err(format!("{} is missing: `{fetched_by}` fetches it", libs.display()))
    }
}

/// Where `name` is: among what was put into the cache, else on the path.
#[track_caller]
pub fn tool(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(cache().join("tools/bin")).chain(env::split_paths(&path));
    let mut found = dirs.map(|dir| dir.join(name)).filter(|file| file.is_file());
    found.next().unwrap_or_else(|| panic!("{name} is not here: `make deps` or `make cluster` fetches it"))
}

/// Runs a tool in the checkout. Its standard output, or if it failed, all that it said.
#[track_caller]
pub fn run(name: &str, args: &[&str]) -> Result<String, String> {
    run_with(name, args, "")
}

/// The same, with `input` on its standard input.
#[track_caller]
pub fn run_with(name: &str, args: &[&str], input: &str) -> Result<String, String> {
    let mut command = Command::new(tool(name));
    command.args(args).current_dir(root());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().unwrap_or_else(|e| panic!("{name}: {e}"));
    written.map_err(|e| format!("writing to {name}: {e}: {}", String::from_utf8_lossy(&output.stderr)))?;
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    if output.status.success() { Ok(stdout) } else { Err(stdout + &stderr) }
}
