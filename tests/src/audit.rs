//! What an API server was asked, by its own record.
//!
//! Responsible for a policy that writes down what one client asks and what becomes of the monitors, and for reading it while
//! it grows. Must never guess: what a client asked is not what it says of itself, and the times are the API server's.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, de};
use serde_json::{Value, json};

/// Writes down all that `user` asks, with what it says in the status of monitors, and who else changes monitors.
pub fn policy(user: &str) -> Value {
    let monitors = |resource: &str| json!([{"group": "crashmonitor.dev", "resources": [resource]}]);
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [
            {"level": "Request", "users": [user], "resources": monitors("crashmonitors/status")},
            {"level": "Metadata", "users": [user]},
            {"level": "Metadata", "verbs": ["create", "patch"], "resources": monitors("crashmonitors")},
            {"level": "None"},
        ],
    })
}

/// A request that was answered. Watches come when they end.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// `get`, `list`, `patch` …
    pub verb: String,
    /// Who asked.
    pub user: User,
    /// What it was about.
    #[serde(default)]
    pub object_ref: Object,
    /// What was answered.
    #[serde(default)]
    pub response_status: Response,
    /// When the answer was complete.
    #[serde(rename = "stageTimestamp", deserialize_with = "time")]
    pub answered_at: Timestamp,
    /// What was sent, if the policy has it.
    #[serde(default)]
    pub request_object: Value,
}

/// Who asked.
#[derive(Clone, Debug, Deserialize)]
pub struct User {
    /// The name by which it was let in.
    pub username: String,
}

/// What a request was about.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Object {
    /// `statefulsets` …
    pub resource: String,
    /// `status`, or nothing.
    pub subresource: String,
    /// Its name; empty for lists.
    pub name: String,
}

/// What was answered.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Response {
    /// HTTP's.
    pub code: u16,
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

impl Call {
    /// Whether it did what was asked.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.response_status.code)
    }

    /// What it asked, in a few words: the verb and the resource.
    pub fn what(&self) -> String {
        let Object { resource, subresource, .. } = &self.object_ref;
        match subresource.as_str() {
            "" => format!("{} {resource}", self.verb),
            _ => format!("{} {resource}/{subresource}", self.verb),
        }
    }
}

/// Reads the record from its beginning, as far as it goes at the time.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    position: u64,
    rest: Vec<u8>,
}

impl Reader {
    /// Of a record that may not be there yet.
    pub fn new(path: &Path) -> Reader {
        Reader { path: path.to_owned(), position: 0, rest: Vec::new() }
    }

    /// What was written since it was read last.
    pub fn read(&mut self) -> Result<Vec<Call>, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", self.path.display());
        let Ok(mut file) = File::open(&self.path) else { return Ok(Vec::new()) };
        file.seek(SeekFrom::Start(self.position)).map_err(failed)?;
        let read = file.read_to_end(&mut self.rest).map_err(failed)?;
        self.position += read as u64;
        // The last line may not be complete yet.
        let complete = self.rest.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.rest.drain(..complete).collect();
        let lines = lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let call = |line| serde_json::from_slice(line).map_err(|e| format!("{}: {e}", self.path.display()));
        lines.map(call).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LINE: &str = r#"{"kind":"Event","level":"Metadata","stage":"ResponseComplete","verb":"patch",
        "user":{"username":"operator","groups":[]},
        "objectRef":{"resource":"crashmonitors","namespace":"a","name":"m","subresource":"status"},
        "responseStatus":{"metadata":{},"code":200},"requestReceivedTimestamp":"2026-01-01T00:00:00.100000Z",
        "stageTimestamp":"2026-01-01T00:00:00.250000Z"}"#;

    #[test]
    fn a_record_is_followed_line_by_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let mut reader = Reader::new(&path);
        assert!(reader.read().unwrap().is_empty(), "it may come later");
        let line = LINE.replace('\n', "");
        let (first, second) = line.split_at(40);
        let mut file = File::create(&path).unwrap();
        write!(file, "{line}\n{first}").unwrap();
        let calls = reader.read().unwrap();
        assert_eq!(calls.len(), 1);
        assert_eq!((calls[0].what().as_str(), calls[0].is_success()), ("patch crashmonitors/status", true));
        assert_eq!(calls[0].answered_at.subsec_millisecond(), 250);
        writeln!(file, "{second}").unwrap();
        assert_eq!(reader.read().unwrap().len(), 1);
        assert!(reader.read().unwrap().is_empty());
    }
}
