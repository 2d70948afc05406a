//! What a measurement leaves: a page with its tables, and the plot of each beside it.
//!
//! Responsible for these files and for what every page says (the command, the machine, what was built how). Must never
//! know what was measured, nor round it: rows come as they are shown.

use crashmonitor_bench::text::grouped;
use crashmonitor_testbed::kafka;
use std::fs;
use std::path::Path;

use super::plot::Plot;

/// A page.
pub struct Page<'a> {
    /// Of its file.
    pub name: &'a str,
    /// Its heading.
    pub title: &'a str,
    /// What measured it, such as `make bench-latency`.
    pub command: &'a str,
    /// What ran on the same processors, with its version.
    pub beside: String,
    /// What is on it.
    pub sections: Vec<Section>,
}

/// One table with its plot.
pub struct Section {
    /// Of the file with the plot.
    pub name: String,
    /// Its heading.
    pub heading: String,
    /// What was measured, and how: a paragraph.
    pub what: String,
    /// The heads of the columns.
    pub columns: Vec<&'static str>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
    /// The same as a picture.
    pub plot: Plot,
}

impl Page<'_> {
    /// Writes `NAME.md` and its plots into `dir`, which is made.
    pub fn write(&self, dir: &Path) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", dir.display());
        fs::create_dir_all(dir).map_err(failed)?;
        let mut text = format!("# {}\n\n{}\n", self.title, self.origin());
        for section in &self.sections {
            let Section { name, heading, what, plot, .. } = section;
            fs::write(dir.join(format!("{name}.svg")), plot.svg()?).map_err(failed)?;
            let table = section.table();
            text += &format!("\n## {heading}\n\n{what}\n\n![{heading}]({name}.svg)\n\n{table}");
        }
        fs::write(dir.join(format!("{}.md", self.name)), text).map_err(failed)?;
        println!("written to {}, with its plots", dir.join(format!("{}.md", self.name)).display());
        Ok(())
    }

    fn origin(&self) -> String {
        let build = if cfg!(debug_assertions) {
            "\nBuilt without optimisation: these figures say nothing about a release."
        } else {
            ""
        };
        format!(
            "Measured by `{}` on {}; CrashMonitor {}, {} on the same cores.{build}",
            self.command,
            machine(),
            env!("CARGO_PKG_VERSION"),
            self.beside
        )
    }
}

impl Section {
    /// As Markdown.
    pub fn table(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let heads: Vec<String> = self.columns.iter().map(|&head| head.to_owned()).collect();
        let rule = format!("|{}\n", "---|".repeat(heads.len()));
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        line(&heads) + &rule + &rows
    }
}

/// Kafka, as what runs beside the worker.
pub fn kafka() -> String {
    format!("Kafka {}", kafka::VERSION)
}

/// The machine, by what the kernel says of it.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let memory = field("/proc/meminfo", "MemTotal")
        .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
        .map_or_else(String::new, |kib| format!(", {} MB", grouped(kib * 1024 / 1_000_000)));
    format!("{cores} cores ({model}){memory}")
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Page, Section};
    use crate::plot::{Panel, Plot, Series, Spread};

    #[test]
    fn a_page_has_its_command_and_each_table_beside_its_plot() {
        let values = vec![Some(Spread { median: 2.0, low: 1.0, high: 3.0 })];
        let panels =
            vec![Panel { what: "ms".to_owned(), series: vec![Series { name: String::new(), values }] }];
        let section = Section {
            name: "latency".to_owned(),
            heading: "Under load".to_owned(),
            what: "How long it takes.".to_owned(),
            columns: vec!["records/s", "ms"],
            rows: vec![vec!["10".to_owned(), "2".to_owned()]],
            plot: Plot { over: "records/s".to_owned(), points: vec!["10".to_owned()], panels },
        };
        let page = Page {
            name: "latency",
            title: "Latency",
            command: "make bench-latency",
            beside: "Kafka 4".to_owned(),
            sections: vec![section],
        };
        let dir = tempfile::tempdir().unwrap();
        page.write(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join("latency.md")).unwrap();
        assert!(text.starts_with("# Latency\n\nMeasured by `make bench-latency` on "), "{text}");
        let section = "\n## Under load\n\nHow long it takes.\n\n![Under load](latency.svg)\n\n\
            | records/s | ms |\n|---|---|\n| 10 | 2 |\n";
        assert!(text.ends_with(section), "{text}");
        assert!(dir.path().join("latency.svg").is_file());
    }
}
