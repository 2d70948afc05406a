//! What came of each run, and the table of it.
//!
//! Responsible for the file with one line a run, to which a later time may add, and for the sums. Must never leave out a
//! run: one that did not come to its end has a column of its own.

use crashmonitor_bench::text::grouped;
use crashmonitor_testbed::under_load::Outcome;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// What came of one run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Run {
    /// Records in the input.
    pub records: u64,
    /// Right results.
    pub right: u64,
    /// Results that were lost.
    pub lost: usize,
    /// Results that were doubled.
    pub doubled: usize,
    /// What is not right; empty if all is.
    pub why: String,
}

impl Run {
    /// One that came to its end.
    pub fn finished(outcome: &Outcome) -> Run {
        Run {
            records: outcome.records,
            right: outcome.report.right,
            lost: outcome.lost(),
            doubled: outcome.doubled(),
            why: outcome.check().err().unwrap_or_default(),
        }
    }

    /// One that did not, and of whose results nothing is known.
    pub fn unfinished(why: String) -> Run {
        Run { why, ..Run::default() }
    }

    /// Whether nothing is wrong.
    pub fn is_right(&self) -> bool {
        self.why.is_empty()
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run { records, right, lost, doubled, why } = self;
        write!(f, "{} records, {} results right, {lost} lost, {doubled} doubled", grouped(*records), right)?;
        match why.lines().next() {
            None => Ok(()),
            Some(why) => write!(f, "; FAILED: {why}"),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Line {
    fault: String,
    number: u64,
    #[serde(flatten)]
    run: Run,
}

#[derive(Default)]
struct Sum {
    begun: u64,
    runs: u64,
    records: u64,
    right: u64,
    lost: usize,
    doubled: usize,
    failed: u64,
}

/// All runs.
pub struct Table {
    dir: PathBuf,
    sums: BTreeMap<String, Sum>,
}

impl Table {
    /// A new one, or with `more` the one of the last time.
    ///
    /// # Errors
    /// The directory can't be used, or has something else than runs.
    pub fn open(dir: &Path, more: bool) -> Result<Table, String> {
        let failed = |e: &dyn fmt::Display| format!("{}: {e}", dir.display());
        let mut table = Table { dir: dir.to_owned(), sums: BTreeMap::new() };
        fs::create_dir_all(dir).map_err(|e| failed(&e))?;
        if !more {
            fs::write(table.runs(), "").map_err(|e| failed(&e))?;
        }
        let runs = fs::read_to_string(table.runs()).unwrap_or_default();
        for line in runs.lines() {
            let Line { fault, run, .. } = serde_json::from_str(line).map_err(|e| failed(&e))?;
            table.begin(&fault);
            table.sum(&fault, &run);
        }
        Ok(table)
    }

    /// A run of this fault begins: its number.
    pub fn begin(&mut self, fault: &str) -> u64 {
        let sum = self.sums.entry(fault.to_owned()).or_default();
        sum.begun += 1;
        sum.begun
    }

    /// A run came to its end. The table is written anew.
    ///
    /// # Errors
    /// The files can't be written.
    pub fn add(&mut self, fault: &str, number: u64, run: &Run) -> Result<(), String> {
        self.sum(fault, run);
        let line = Line { fault: fault.to_owned(), number, run: run.clone() };
        let line = serde_json::to_string(&line).expect("a run is always JSON");
        let runs = File::options().create(true).append(true).open(self.runs());
        let written = runs.and_then(|mut runs| writeln!(runs, "{line}"));
        let written = written.and_then(|()| fs::write(self.path(), self.to_string()));
        written.map_err(|e| format!("{}: {e}", self.dir.display()))
    }

    /// Where the table is.
    pub fn path(&self) -> PathBuf {
        self.dir.join("table.md")
    }

    /// Whether all runs were right.
    pub fn is_right(&self) -> bool {
        self.sums.values().all(|sum| sum.failed == 0)
    }

    fn runs(&self) -> PathBuf {
        self.dir.join("runs.jsonl")
    }

    fn sum(&mut self, fault: &str, run: &Run) {
        let sum = self.sums.entry(fault.to_owned()).or_default();
        sum.runs += 1;
        sum.records += run.records;
        sum.right += run.right;
        sum.lost += run.lost;
        sum.doubled += run.doubled;
        sum.failed += u64::from(!run.is_right());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = Sum::default();
        let mut rows = String::new();
        for (fault, sum) in self.sums.iter().filter(|(_, sum)| sum.runs > 0) {
            row(&mut rows, fault, sum)?;
            all.runs += sum.runs;
            all.records += sum.records;
            all.right += sum.right;
            all.lost += sum.lost;
            all.doubled += sum.doubled;
            all.failed += sum.failed;
        }
        row(&mut rows, "all", &all)?;
        write!(
            f,
            "| fault | runs | records | right results | lost | doubled | failed |\n|---|--:|--:|--:|--:|--:|--:|\n{rows}"
        )
    }
}

fn row(rows: &mut String, fault: &str, sum: &Sum) -> fmt::Result {
    let Sum { runs, records, right, lost, doubled, failed, .. } = sum;
    let (records, right) = (grouped(*records), grouped(*right));
    writeln!(rows, "| {fault} | {runs} | {records} | {right} | {lost} | {doubled} | {failed} |")
}
