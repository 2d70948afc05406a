//! Reading a secret where the configuration says that it lies.
//!
//! Responsible for the one moment between file or environment and client. Must never put a secret into an error, a
//! log line or a `Debug` text.

use std::fs;

use crashmonitor_core::config::Secret;

/// Why a secret can't be read. Names the place, never the content.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read.
    #[error("{path}: the password file {file} can't be read: {source}", file = .file.display())]
    File {
        /// The configuration key.
        path: String,
        /// The file.
        file: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The variable is not set, or is not text.
    #[error("{path}: the environment variable {name} is not set")]
    Env {
        /// The configuration key.
        path: String,
        /// The variable.
        name: String,
    },
    /// There is nothing in it.
    #[error("{path}: the password in {place} is empty")]
    Empty {
        /// The configuration key.
        path: String,
        /// Where it was looked for.
        place: Secret,
    },
}

/// Reads the secret for the configuration key `path`, without the line feed that editors leave at a file's end.
pub fn read(path: &str, place: &Secret) -> Result<String, Error> {
    let text = match place {
        Secret::File(file) => fs::read_to_string(file).map_err(|source| Error::File {
            path: format!("{path}.passwordFile"),
            file: file.clone(),
            source,
        })?,
        Secret::Env(name) => std::env::var(name)
            .map_err(|_| Error::Env { path: format!("{path}.passwordEnv"), name: name.clone() })?,
    };
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err(Error::Empty { path: path.to_string(), place: place.clone() });
    }
    Ok(text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_without_its_line_feed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        fs::write(&file, "a b\n").unwrap();
        assert_eq!(read("kafka.authentication", &Secret::File(file.clone())).unwrap(), "a b");
        fs::write(&file, "\n").unwrap();
        let error = read("kafka.authentication", &Secret::File(file.clone())).unwrap_err().to_string();
        assert_eq!(error, format!("kafka.authentication: the password in file {} is empty", file.display()));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = read("kafka.authentication", &Secret::File("/no/such/file".into())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "kafka.authentication.passwordFile: the password file /no/such/file can't be read: \
             No such file or directory (os error 2)"
        );
        let error = read("checkpoint.redis", &Secret::Env("CRASHMONITOR_NO_SUCH".into())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "checkpoint.redis.passwordEnv: the environment variable CRASHMONITOR_NO_SUCH is not set"
        );
    }
}
