//! Fail points are in no binary but the one that `make faults` builds for itself.
//!
//! Responsible for the worker that all other tests and the images for tests take. An optimised build with fail points does
//! not compile, and `make build` looks as well.

use crashmonitor_testbed::tools::root;
use crashmonitor_testbed::worker::binary;
use memchr::memmem;
use std::fs;

/// What a worker with fail points holds, by its source: the variables' names and those of all points.
fn names() -> Vec<String> {
    let source = fs::read_to_string(root().join("worker/src/failpoint.rs")).expect("the source is there");
    let points = source.split("(\"").skip(1).filter_map(|rest| rest.split_once("\", Point::"));
    let mut names: Vec<String> = points.map(|(name, _)| name.to_owned()).collect();
    names.extend(["CRASHMONITOR_FAILPOINT", "CRASHMONITOR_CLOCK_SHIFT_MS"].map(str::to_owned));
    names
}

#[test]
fn the_worker_has_no_fail_points() {
    let names = names();
    assert!(names.len() > 10, "the names are found: {names:?}");
    let worker = binary("crashmonitor-worker", "CRASHMONITOR_WORKER");
    let bytes = fs::read(&worker).unwrap_or_else(|e| panic!("{}: {e}", worker.display()));
    let has = |name: &&String| memmem::find(&bytes, name.as_bytes()).is_some();
    let found: Vec<&String> = names.iter().filter(has).collect();
    assert!(found.is_empty(), "{} has {found:?}", worker.display());
}
