//! Expected results as a file: JSON lines, sorted by interval and user.
//!
//! Only the format; who writes or reads it, when and where is the caller's business.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

use super::Counts;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    start_ms: i64,
    user_id: String,
    crash_count: u64,
}

/// Why a file of expected results can't be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file itself.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A line that is not an expected result.
    #[error("line {number}: {error}")]
    Line {
        /// From 1.
        number: usize,
        /// What is wrong with it.
        error: serde_json::Error,
    },
    /// The same (interval, user) twice.
    #[error("line {number}: repeats an earlier (start_ms, user_id)")]
    Repeat {
        /// From 1.
        number: usize,
    },
}

/// Writes one line `{"start_ms":…,"user_id":…,"crash_count":…}` for each result.
pub fn write_expected(counts: &Counts, mut out: impl Write) -> io::Result<()> {
    for ((start_ms, user_id), &crash_count) in counts {
        let line = Line { start_ms: *start_ms, user_id: user_id.clone(), crash_count };
        serde_json::to_writer(&mut out, &line)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Reads what [`write_expected`] wrote.
pub fn read_expected(input: impl BufRead) -> Result<Counts, FileError> {
    let mut counts = Counts::new();
    for (number, line) in (1..).zip(input.lines()) {
        let Line { start_ms, user_id, crash_count } =
            serde_json::from_str(&line?).map_err(|error| FileError::Line { number, error })?;
        if counts.insert((start_ms, user_id), crash_count).is_some() {
            return Err(FileError::Repeat { number });
        }
    }
    Ok(counts)
}
