//! Programs that tests run and that are neither ours nor services (helm, promtool), and the jars of services and peers.
//!
//! Responsible for finding them, and for running the programs. Must never fetch anything: `make deps` does.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}

/// Where everything lies that is downloaded or built outside of the checkout; none without a home directory.
fn cache() -> Option<PathBuf> {
    let cache = env::var_os("CRASHMONITOR_CACHE").map(PathBuf::from);
    cache.or_else(|| Some(env::home_dir()?.join(".cache/crashmonitor")))
}

/// The directory with the jars of `name`, such as `kafka-4.1.2`, which the command `fetched_by` fetches.
pub fn jars(name: &str, fetched_by: &str) -> Result<PathBuf, String> {
    let cache = cache().ok_or("neither HOME nor CRASHMONITOR_CACHE is set")?;
    let libs = cache.join(name).join("libs");
    if libs.is_dir() {
        Ok(libs)
    } else {
        Err(format!("{} is missing: `{fetched_by}` fetches it", libs.display()))
    }
}

/// Where `name` is: among what `make deps` put into the cache, else on the path.
#[track_caller]
pub fn tool(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = cache().map(|cache| cache.join("tools/bin")).into_iter().chain(env::split_paths(&path));
    let mut found = dirs.map(|dir| dir.join(name)).filter(|file| file.is_file());
    found.next().unwrap_or_else(|| panic!("{name} is not here: `make deps` fetches it"))
}

/// Runs a tool in the checkout. Its standard output, or if it failed, all that it said.
#[track_caller]
pub fn run(name: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(tool(name)).args(args).current_dir(root()).output();
    let output = output.unwrap_or_else(|e| panic!("{name}: {e}"));
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    if output.status.success() { Ok(stdout) } else { Err(stdout + &stderr) }
}
