//! Programs that tests run and that are neither ours nor services: helm, promtool.
//!
//! Responsible for finding and running them. Must never fetch anything: `make deps` does.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}

/// Where `name` is: among what `make deps` put into the cache, else on the path.
#[track_caller]
pub fn tool(name: &str) -> PathBuf {
    let cache = env::var_os("CRASHMONITOR_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache/crashmonitor")));
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = cache.map(|cache| cache.join("tools/bin")).into_iter().chain(env::split_paths(&path));
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
