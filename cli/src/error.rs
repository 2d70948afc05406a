//! What went wrong, for a person.
//!
//! Responsible for the exit codes, and for a text of two lines: the cause, and what to do next. Must never hold a
//! secret.

use std::fmt;

/// The exit codes, as `--help` and the documentation list them.
pub const EXIT_CODES: &str = "Exit codes:
  0  done
  1  it failed: the API server or Kafka can't be reached, or refuses
  2  the command line, or a file that it names, must be changed
  3  the answer is no: `plan` found what can't be changed, `verify` found a difference";

/// What kind of failure it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Somebody else could not do it, or refused.
    Failed,
    /// What was given must be changed.
    Input,
    /// All went well, and the answer is no.
    No,
}

/// The cause and the next step.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Error {
    kind: Kind,
    cause: String,
    next: String,
}

impl Error {
    /// Somebody else could not do it, or refused.
    pub fn failed(cause: impl Into<String>, next: impl Into<String>) -> Error {
        Error { kind: Kind::Failed, cause: cause.into(), next: next.into() }
    }

    /// What was given must be changed.
    pub fn input(cause: impl Into<String>, next: impl Into<String>) -> Error {
        Error { kind: Kind::Input, cause: cause.into(), next: next.into() }
    }

    /// The answer is no.
    pub fn no(cause: impl Into<String>, next: impl Into<String>) -> Error {
        Error { kind: Kind::No, cause: cause.into(), next: next.into() }
    }

    /// Standard output is gone, or full.
    pub fn output(error: &std::io::Error) -> Error {
        Error::failed(format!("standard output can't be written: {error}"), "look at what reads it")
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        match self.kind {
            Kind::Failed => 1,
            Kind::Input => 2,
            Kind::No => 3,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Texts of others may have lines of their own.
        let cause = self.cause.split_whitespace().collect::<Vec<_>>().join(" ");
        write!(f, "error: {cause}\nnext:  {}", self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_two_lines() {
        let error = Error::failed("no\n  answer", "look at kubectl cluster-info");
        assert_eq!(error.to_string(), "error: no answer\nnext:  look at kubectl cluster-info");
        assert_eq!([error.code(), Error::input("", "").code(), Error::no("", "").code()], [1, 2, 3]);
    }
}
