//! The sets of files that releases have left: `tests/releases/<version>` of the package whose tests these are.
//!
//! Responsible for where a set lies, which there are, and for writing that of the present version where it is asked for
//! (`WRITE_FORMATS=1`). Must never write into another one.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

/// The set of a version.
pub fn directory(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/releases").join(version)
}

/// The versions that have a set. The present one is written first where that is asked for.
pub fn versions_after(write_all: fn()) -> Vec<String> {
    static WRITTEN: Once = Once::new();
    if std::env::var_os("WRITE_FORMATS").is_some_and(|value| value == "1") {
        WRITTEN.call_once(write_all);
    }
    let sets = fs::read_dir(directory("")).unwrap();
    let mut versions: Vec<String> = sets.map(|set| set.unwrap().file_name().into_string().unwrap()).collect();
    versions.sort();
    versions
}

/// Writes a file of the present version's set.
pub fn write(name: &str, bytes: impl AsRef<[u8]>) {
    let directory = directory(env!("CARGO_PKG_VERSION"));
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(name), bytes).unwrap();
}
