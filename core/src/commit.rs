//! The metadata of committed offsets: where the protocol keeps what must change together with an offset.
//!
//! Responsible for the two texts that stand beside an offset in Kafka, one for each stage. Must never take a text that
//! it can't read for an empty one: a reader that starts from nothing loses or doubles.
//!
//! Both are `cm1` and `name=value` pairs behind semicolons, so that a person can read them in the output of
//! `kafka-consumer-groups.sh` and friends. They stay far below the broker's limit of 4,096 bytes whatever the number of
//! partitions.

use crate::aggregate::{Anchor, Mode};
use crate::ids::{Epoch, LogOffset, TopicId};
use crate::time::Timestamp;

/// The first word of a metadata text of the format that this program writes.
const FORMAT: &str = "cm1";

/// Beside the offset of an input partition: who reads it and how far its event time has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScanCommit {
    /// The newest claim; 0 before the first.
    pub epoch: Epoch,
    /// The running mark.
    pub mark: Option<Timestamp>,
    /// The identity of the input topic that the offset is for.
    pub topic: TopicId,
    /// How many partitions the input had when the starting positions were resolved: a partition below this number
    /// without a commit has lost it, one at or above it is new.
    pub resolved: u32,
    /// The identity of the repartition topic that the frames went to. Kafka deletes a topic's commits with it, so that
    /// only this tells a repartition topic that was made again from one of a monitor that starts.
    pub log_topic: TopicId,
}

/// Beside the offset of a repartition partition: what a rebuild must arrive at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AggregateCommit {
    /// Where a rebuild starts.
    pub o_low: LogOffset,
    /// The watermark.
    pub watermark: Option<Timestamp>,
    /// Through when windows are closed.
    pub closed_through: Option<Timestamp>,
    /// How many partitions the input has.
    pub source_count: u32,
    /// The identity of the repartition topic that the offset is for.
    pub log_topic: TopicId,
    /// Where the stream stood when it became idle, if it is.
    pub anchor: Option<Anchor>,
    /// The length of a window in milliseconds: with another one, what was written means something else.
    pub window_ms: i64,
    /// When results are written: under the other mode, a replay would not know what was.
    pub mode: Mode,
}

/// A metadata text that can't be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the metadata of the committed offset is not this program's: `{text}` (another consumer commits to this group, or a newer version did)"
)]
pub struct Error {
    text: String,
}

impl ScanCommit {
    /// The text to commit.
    pub fn encode(&self) -> String {
        let mark = optional(self.mark.map(Timestamp::as_millis));
        format!(
            "{FORMAT};epoch={};mark={mark};topic={};resolved={};log={}",
            self.epoch, self.topic, self.resolved, self.log_topic
        )
    }

    /// Reads a committed text.
    ///
    /// # Errors
    /// If it is not one that [`ScanCommit::encode`] writes.
    pub fn decode(text: &str) -> Result<ScanCommit, Error> {
        let fields = Fields::of(text)?;
        Ok(ScanCommit {
            epoch: Epoch(fields.number("epoch")?),
            mark: fields.instant("mark")?,
            topic: fields.topic("topic")?,
            resolved: fields.number("resolved")?,
            log_topic: fields.topic("log")?,
        })
    }
}

impl AggregateCommit {
    /// The text to commit.
    pub fn encode(&self) -> String {
        let instant = |t: Option<Timestamp>| optional(t.map(Timestamp::as_millis));
        format!(
            "{FORMAT};low={};watermark={};closed={};sources={};topic={};idle_wall={};idle_watermark={};window={};mode={}",
            self.o_low,
            instant(self.watermark),
            instant(self.closed_through),
            self.source_count,
            self.log_topic,
            instant(self.anchor.map(|a| a.wall)),
            instant(self.anchor.map(|a| a.watermark)),
            self.window_ms,
            self.mode.name(),
        )
    }

    /// Reads a committed text.
    ///
    /// # Errors
    /// If it is not one that [`AggregateCommit::encode`] writes.
    pub fn decode(text: &str) -> Result<AggregateCommit, Error> {
        let fields = Fields::of(text)?;
        let anchor = match (fields.instant("idle_wall")?, fields.instant("idle_watermark")?) {
            (Some(wall), Some(watermark)) => Some(Anchor { wall, watermark }),
            (None, None) => None,
            _ => return Err(fields.error()),
        };
        Ok(AggregateCommit {
            o_low: LogOffset(fields.number("low")?),
            watermark: fields.instant("watermark")?,
            closed_through: fields.instant("closed")?,
            source_count: fields.number("sources")?,
            log_topic: fields.topic("topic")?,
            anchor,
            window_ms: fields.number("window")?,
            mode: Mode::from_name(fields.value("mode")?).ok_or_else(|| fields.error())?,
        })
    }
}

fn optional(value: Option<i64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

struct Fields<'a> {
    text: &'a str,
}

impl<'a> Fields<'a> {
    fn of(text: &'a str) -> Result<Fields<'a>, Error> {
        let fields = Fields { text };
        if text.split(';').next() == Some(FORMAT) { Ok(fields) } else { Err(fields.error()) }
    }

    fn error(&self) -> Error {
        Error { text: self.text.chars().take(200).collect() }
    }

    fn value(&self, name: &str) -> Result<&'a str, Error> {
        let pairs = self.text.split(';').filter_map(|pair| pair.split_once('='));
        let mut named = pairs.filter(|(key, _)| *key == name);
        named.next().map(|(_, value)| value).ok_or_else(|| self.error())
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<T, Error> {
        self.value(name)?.parse().map_err(|_| self.error())
    }

    fn instant(&self, name: &str) -> Result<Option<Timestamp>, Error> {
        match self.value(name)? {
            "-" => Ok(None),
            _ => Ok(Some(Timestamp::from_millis(self.number(name)?))),
        }
    }

    fn topic(&self, name: &str) -> Result<TopicId, Error> {
        TopicId::from_hex(self.value(name)?).ok_or_else(|| self.error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn instant() -> impl Strategy<Value = Option<Timestamp>> {
        proptest::option::of(any::<i64>().prop_map(Timestamp::from_millis))
    }

    proptest! {
        #[test]
        fn a_scan_commit_reads_back(epoch: u64, mark in instant(), topic: [u8; 16], resolved: u32, log: [u8; 16]) {
            let (topic, log_topic) = (TopicId(topic), TopicId(log));
            let commit = ScanCommit { epoch: Epoch(epoch), mark, topic, resolved, log_topic };
            prop_assert_eq!(ScanCommit::decode(&commit.encode()), Ok(commit));
        }

        #[test]
        fn an_aggregate_commit_reads_back_and_fits_the_brokers_limit(
            low: u64, watermark in instant(), closed_through in instant(), source_count: u32, topic: [u8; 16],
            idle: bool, window_ms: i64, is_final: bool
        ) {
            let anchor = idle.then_some(Anchor { wall: Timestamp::MAX, watermark: Timestamp::EPOCH });
            let log_topic = TopicId(topic);
            let mode = if is_final { Mode::Final } else { Mode::Updates };
            let o_low = LogOffset(low);
            let commit = AggregateCommit {
                o_low, watermark, closed_through, source_count, log_topic, anchor, window_ms, mode
            };
            prop_assert!(commit.encode().len() < 4096);
            prop_assert_eq!(AggregateCommit::decode(&commit.encode()), Ok(commit));
        }

        #[test]
        fn any_text_is_an_error_and_no_panic(text: String) {
            prop_assert!(ScanCommit::decode(&text).is_err());
            prop_assert!(AggregateCommit::decode(&text).is_err());
        }
    }

    #[test]
    fn an_empty_text_is_not_an_empty_commit() {
        assert!(ScanCommit::decode("").is_err());
        assert!(
            ScanCommit::decode("cm2;epoch=1;mark=-;topic=00000000000000000000000000000000;resolved=1")
                .is_err()
        );
    }
}
