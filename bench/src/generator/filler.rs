//! Text that fills a record's `content` up to its size.
//!
//! Must never contain the word, whatever the word is and whatever its case: the only records that match
//! are those into which the generator writes the word itself.

use super::rng::{Draws, below};

/// A slice of filler starts at one of this many offsets.
const OFFSETS: usize = 64 * 1024;

/// Plain ASCII without quotes, backslashes or control characters, so that any slice is valid inside a JSON
/// string. Some are near misses of the default word: a scanner that looks at single letters must work.
const WORDS: [&str; 32] = [
    "session",
    "timeout",
    "request",
    "after",
    "retry",
    "cache",
    "trash",
    "crafted",
    "user",
    "page",
    "render",
    "queue",
    "worker",
    "cras",
    "upstream",
    "latency",
    "token",
    "refresh",
    "cash",
    "handler",
    "socket",
    "closed",
    "by",
    "peer",
    "in",
    "ms",
    "batch",
    "accepted",
    "crushed",
    "payment",
    "thread",
    "scheduled",
];

/// A long text, of which records take slices.
pub(super) struct Filler {
    text: Vec<u8>,
}

impl Filler {
    /// Enough text for slices of up to `slice_bytes_max` bytes.
    pub(super) fn new(word: &str, slice_bytes_max: usize) -> Self {
        let length = OFFSETS + slice_bytes_max;
        let word = word.to_lowercase();
        let words: Vec<&str> = WORDS.into_iter().filter(|candidate| !candidate.contains(&word)).collect();
        let text = prose(&words, length).filter(|text| !text.contains(&word));
        Self { text: text.unwrap_or_else(|| monotone(&word, length)).into_bytes() }
    }

    /// `length` bytes of text, chosen by a draw.
    #[inline]
    pub(super) fn slice(&self, draw: u32, length: usize) -> &[u8] {
        let start = draw as usize % OFFSETS;
        &self.text[start..start + length]
    }
}

fn prose(words: &[&str], length: usize) -> Option<String> {
    let count = u32::try_from(words.len()).ok().filter(|&count| count > 0)?;
    let mut draws = Draws::new(0, 0);
    let mut text = String::with_capacity(length + 16);
    while text.len() < length {
        text.push_str(words[below(draws.pair().0, count) as usize]);
        text.push(' ');
    }
    text.truncate(length);
    Some(text)
}

/// One letter that is not in the word, over and over. A word with every letter in it is longer than any text
/// of one letter can contain, so the last resort is right too.
fn monotone(word: &str, length: usize) -> String {
    let letter = ('a'..='z').find(|letter| !word.contains(*letter)).unwrap_or('-');
    std::iter::repeat_n(letter, length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_contains_the_word() {
        for word in ["crash", "CRASH", "a", " ", "n c", "session", "zz", "abcdefghijklmnopqrstuvwxyz", "e r"]
        {
            let filler = Filler::new(word, 300);
            let text = String::from_utf8(filler.text.clone()).unwrap();
            assert!(!text.to_lowercase().contains(&word.to_lowercase()), "{word:?}");
            assert_eq!(filler.slice(u32::MAX, 300).len(), 300);
        }
    }
}
