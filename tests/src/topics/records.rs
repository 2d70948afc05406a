//! Records, as tests write and read them.
//!
//! Responsible for plain owned values. Must never interpret a key or a value.

/// Which records a reader sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Those of committed transactions and those without one, up to the last stable offset.
    ReadCommitted,
    /// All.
    ReadUncommitted,
}

impl Isolation {
    pub(super) fn name(self) -> &'static str {
        match self {
            Isolation::ReadCommitted => "read_committed",
            Isolation::ReadUncommitted => "read_uncommitted",
        }
    }
}

/// A record's place in its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The partition.
    pub partition: i32,
    /// The offset in it.
    pub offset: i64,
}

/// A record to write. Without a partition, the key decides, and without a key the client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewRecord {
    /// Where to, if that matters.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The headers, in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// The record's own timestamp; without one, the time of sending.
    pub timestamp_ms: Option<i64>,
}

impl NewRecord {
    /// A record with a value and nothing else.
    pub fn new(value: impl AsRef<[u8]>) -> NewRecord {
        NewRecord { value: Some(value.as_ref().to_vec()), ..NewRecord::default() }
    }

    /// A record without a value.
    pub fn tombstone() -> NewRecord {
        NewRecord::default()
    }

    /// Chooses the partition.
    pub fn to(mut self, partition: i32) -> NewRecord {
        self.partition = Some(partition);
        self
    }

    /// Sets the key.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> NewRecord {
        self.key = Some(key.as_ref().to_vec());
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> NewRecord {
        self.headers.push((name.to_owned(), Some(value.as_ref().to_vec())));
        self
    }

    /// Sets the record's own timestamp.
    pub fn timestamp_ms(mut self, timestamp_ms: i64) -> NewRecord {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }
}

/// A record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where from.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// The record's own timestamp, or the broker's, as the topic is set.
    pub timestamp_ms: Option<i64>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The headers, in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    /// Its place.
    pub fn position(&self) -> Position {
        Position { partition: self.partition, offset: self.offset }
    }

    /// The value as text; panics when there is none or when it isn't UTF-8.
    #[track_caller]
    pub fn text(&self) -> &str {
        let value = self.value.as_deref().unwrap_or_else(|| panic!("{:?} has no value", self.position()));
        std::str::from_utf8(value).unwrap_or_else(|e| panic!("{:?} is not UTF-8: {e}", self.position()))
    }

    /// The key as text; panics when there is none or when it isn't UTF-8.
    #[track_caller]
    pub fn key_text(&self) -> &str {
        let key = self.key.as_deref().unwrap_or_else(|| panic!("{:?} has no key", self.position()));
        std::str::from_utf8(key).unwrap_or_else(|e| panic!("key of {:?} is not UTF-8: {e}", self.position()))
    }

    /// The value as JSON; panics when it isn't.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.text()).unwrap_or_else(|e| panic!("{:?} is not JSON: {e}", self.position()))
    }

    /// The first header of that name, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        value.as_deref().and_then(|value| std::str::from_utf8(value).ok())
    }
}
