//! The last word: how many results were right, and what it took.
//!
//! Responsible for handing the whole output topic to the oracle, and for the text of its verdict. Must never leave out
//! anything that went wrong.

use super::WINDOW_MS;
use super::watch::{Reading, Watched};
use crate::Record;
use crashmonitor_bench::oracle::{Alert, Counts, Report, compare, parse_alert};
use crashmonitor_bench::text::{self, grouped};
use std::fmt;
use std::time::Duration;

/// What a run came to.
pub struct Summary {
    watched: Watched,
    /// Of the intervals that could be judged.
    expected: Counts,
    report: Report,
    trouble: Vec<String>,
}

impl Summary {
    /// Judges `log`, the whole output topic in its order. `trouble` is what else went wrong.
    pub fn new(watched: Watched, log: &[Record], mut trouble: Vec<String>) -> Summary {
        let is_judged =
            |start_ms: i64| watched.judged_to_ms.is_none_or(|to_ms| start_ms + WINDOW_MS <= to_ms);
        let mut alerts: Vec<Alert> = Vec::with_capacity(log.len());
        for record in log {
            match parse_alert(record.value.as_deref().unwrap_or_default()) {
                Ok(alert) => alerts.push(alert),
                Err(e) => trouble.push(format!("offset {} of the output: {e}", record.offset)),
            }
        }
        alerts.retain(|alert| is_judged(alert.start_ms));
        let mut expected = watched.expected.clone();
        expected.retain(|(start_ms, _), _| is_judged(*start_ms));
        for worker in &watched.workers {
            let losses = worker.status.data_loss.iter();
            trouble.extend(losses.map(|loss| format!("{}: data loss: {}", worker.name, loss.message)));
        }
        let report = compare(&expected, &alerts);
        Summary { watched, expected, report, trouble }
    }

    /// Whether nothing is wrong. Of a run that was cut short, only what must never happen is held against it.
    pub fn is_right(&self) -> bool {
        let results_are_right = if self.was_cut_short() {
            self.report.unexpected.is_empty() && self.report.doubled.is_empty()
        } else {
            self.report.is_right()
        };
        results_are_right && self.trouble.is_empty()
    }

    /// What it was made of.
    pub fn watched(&self) -> &Watched {
        &self.watched
    }

    fn was_cut_short(&self) -> bool {
        self.watched.is_interrupted && !self.watched.is_drained
    }

    fn total(&self, of: impl Fn(&Reading) -> u64) -> u64 {
        self.watched.workers.iter().map(of).sum()
    }

    fn results(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let expected = grouped(self.expected.len() as u64);
        writeln!(f, "results     {expected} expected: {}", self.report)?;
        if let Some(to_ms) = self.watched.judged_to_ms {
            let open = self.watched.expected.len() - self.expected.len();
            writeln!(
                f,
                "            intervals after {} were still open: {open} left out",
                text::clock(to_ms)
            )?;
        }
        if self.was_cut_short() {
            writeln!(
                f,
                "            stopped before everything was drained: what is missing is not held against it"
            )?;
        }
        Ok(())
    }

    fn load(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generated = &self.watched.generated;
        let records = grouped(generated.records);
        let rate = grouped(generated.records_per_second as u64);
        write!(f, "load        {records} records in {:.1} s, {rate} records/s", generated.seconds)?;
        writeln!(f, "; at most {} ms behind", generated.behind_ms_max)?;
        let read = grouped(self.total(|worker| worker.status.totals.records));
        let late = grouped(self.total(|worker| worker.status.totals.late));
        let dead = grouped(self.total(|worker| worker.status.totals.dead_letters));
        let markers = generated.end_marker_ms.map_or("", |_| " (end markers included)");
        let (too_late, malformed) = (grouped(generated.too_late), grouped(generated.malformed));
        write!(f, "monitor     {read} records read{markers}, {late} of {too_late} too late")?;
        writeln!(f, ", {dead} of {malformed} dead letters")
    }

    fn latency(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Watched { on_time, late, unmeasured, .. } = &self.watched;
        let on_time_count = grouped(on_time.count());
        writeln!(
            f,
            "latency     {on_time}: from the watermark to the readable result, {on_time_count} results"
        )?;
        if late.count() > 0 {
            let count = grouped(late.count());
            writeln!(f, "            {late}: from the late record that made it a result, {count} results")?;
        }
        if *unmeasured > 0 {
            let count = grouped(*unmeasured);
            writeln!(
                f,
                "            {count} results of the last intervals had to wait for the end of the load"
            )?;
        }
        Ok(())
    }

    fn workers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for worker in &self.watched.workers {
            let megabytes = worker.resident_bytes_max as f64 / 1e6;
            let cpu = worker.cpu.as_secs_f64();
            writeln!(f, "{:<12}{megabytes:.0} MB at most, {cpu:.1} s of CPU", worker.name)?;
        }
        let cpu: Duration = self.watched.workers.iter().map(|worker| worker.cpu).sum();
        let records = self.total(|worker| worker.status.totals.records).max(1);
        let each = cpu.as_secs_f64() * 1e6 / records as f64;
        write!(f, "            {each:.2} µs of CPU a record, start and end included")
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        self.results(f)?;
        self.load(f)?;
        self.latency(f)?;
        self.workers(f)?;
        for trouble in &self.trouble {
            write!(f, "\ntrouble     {trouble}")?;
        }
        let verdict = match (self.is_right(), self.was_cut_short()) {
            (true, false) => "everything is right",
            (true, true) => "nothing wrong was seen",
            (false, _) => "NOT RIGHT",
        };
        write!(f, "\nverdict     {verdict}")
    }
}
