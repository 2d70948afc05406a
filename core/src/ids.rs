//! The numbers that must not be mistaken for each other.
//!
//! Responsible for one type for each kind of partition, offset and epoch: an offset of the input and an offset of the
//! repartition topic are both a Kafka offset, and swapping them loses data. Must never do arithmetic beyond "the next".

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A source: a partition of the input topic.
    SourceId, u32
);
number!(
    /// A shard: a partition of the repartition topic.
    Shard, u32
);
number!(
    /// An offset in a partition of the input topic.
    InputOffset, u64
);
number!(
    /// An offset in a partition of the repartition topic.
    LogOffset, u64
);
number!(
    /// How often a source has been claimed: the owner with the highest epoch is the owner.
    Epoch, u64
);

impl InputOffset {
    /// The offset after this one.
    #[must_use]
    pub const fn next(self) -> InputOffset {
        InputOffset(self.0 + 1)
    }
}

impl LogOffset {
    /// The offset after this one.
    #[must_use]
    pub const fn next(self) -> LogOffset {
        LogOffset(self.0 + 1)
    }
}

/// Kafka's own identity of a topic: a topic that was deleted and made again under its old name has another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct TopicId(pub [u8; 16]);

impl fmt::Display for TopicId {
    /// Thirty-two hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl TopicId {
    /// Reads what `Display` writes; `None` for anything else.
    pub fn from_hex(text: &str) -> Option<TopicId> {
        let digits = text.as_bytes();
        if digits.len() != 32 {
            return None;
        }
        let mut id = [0; 16];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |d: u8| char::from(d).to_digit(16);
            *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
        }
        Some(TopicId(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_id_reads_back_what_it_writes() {
        let id = TopicId(*b"0123456789abcdef");
        assert_eq!(TopicId::from_hex(&id.to_string()), Some(id));
        assert_eq!(TopicId::from_hex("zz"), None);
        assert_eq!(TopicId::from_hex(&"é".repeat(16)), None);
    }
}
