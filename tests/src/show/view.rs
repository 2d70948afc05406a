//! The terminal: lines that stay, and below them one status line that is drawn in place.
//!
//! Responsible for both forms: on a terminal the status line is erased and drawn again; elsewhere it is an ordinary
//! line every few seconds. Must never block a measurement (the caller takes its times before it prints), and never
//! write more than the terminal is wide.

use rustix::termios::tcgetwinsize;
use std::io::{self, IsTerminal, Stdout, Write};
use std::time::{Duration, Instant};

/// How often there is a status line where it can't be drawn in place.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// To the first column, and erase the line.
const ERASE: &str = "\r\x1b[2K";

/// Standard output, or nowhere.
pub struct View {
    out: Stdout,
    is_terminal: bool,
    /// Who shows nothing measures without it.
    is_hidden: bool,
    /// What the status line shows; empty: there is none.
    status: String,
    plain_at: Option<Instant>,
}

impl View {
    /// Finds out what standard output is.
    pub fn stdout() -> View {
        let out = io::stdout();
        View { is_terminal: out.is_terminal(), is_hidden: false, out, status: String::new(), plain_at: None }
    }

    /// One that shows nothing.
    pub fn hidden() -> View {
        let mut view = View::stdout();
        view.is_hidden = true;
        view
    }

    /// Prints a line (or several) above the status line.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        if self.is_hidden {
            return Ok(());
        }
        let mut out = self.out.lock();
        if !self.status.is_empty() {
            out.write_all(ERASE.as_bytes())?;
        }
        writeln!(out, "{text}")?;
        out.write_all(self.status.as_bytes())?;
        out.flush()
    }

    /// Shows a new status.
    pub fn status(&mut self, line: &str) -> io::Result<()> {
        if self.is_terminal && !self.is_hidden {
            let width = tcgetwinsize(&self.out).map_or(80, |size| usize::from(size.ws_col).max(20));
            // One column stays free: in some terminals a full line wraps.
            self.status = line.chars().take(width - 1).collect();
            let mut out = self.out.lock();
            write!(out, "{ERASE}{}", self.status)?;
            return out.flush();
        }
        if self.plain_at.is_none_or(|at| at.elapsed() >= PLAIN_INTERVAL) {
            self.plain_at = Some(Instant::now());
            return self.say(line);
        }
        Ok(())
    }

    /// Takes the status line away.
    pub fn end_status(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.status).is_empty() {
            return Ok(());
        }
        let mut out = self.out.lock();
        out.write_all(ERASE.as_bytes())?;
        out.flush()
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // Whatever ended the run: the next line begins at the left.
        let _ = self.end_status();
    }
}
