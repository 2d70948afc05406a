//! Whether a text contains the word.
//!
//! Responsible for one answer, `text.to_lowercase().contains(word.to_lowercase())` or the same without lower case,
//! found without an allocation in ASCII. Must never depend on a locale.

use memchr::memmem;

use super::lanes::{self, Letter, PLACES};

/// The word to look for, never empty.
#[derive(Clone, Debug)]
pub(super) enum Word {
    /// Compared byte for byte.
    Exact(Box<memmem::Finder<'static>>),
    /// Compared in lower case.
    Folded(Folded),
}

impl Word {
    /// `None` if `word` is empty.
    pub(super) fn new(word: &str, case_sensitive: bool) -> Option<Word> {
        if word.is_empty() {
            None
        } else if case_sensitive {
            Some(Word::Exact(Box::new(memmem::Finder::new(word).into_owned())))
        } else {
            Some(Word::Folded(Folded::new(word)))
        }
    }

    /// Whether `text` contains the word.
    pub(super) fn is_in(&self, text: &str) -> bool {
        match self {
            Word::Folded(folded) if !text.is_ascii() => text.to_lowercase().contains(&folded.lower),
            Word::Folded(folded) => folded.is_in_ascii(text.as_bytes()),
            Word::Exact(finder) => finder.find(text.as_bytes()).is_some(),
        }
    }

    /// The same answer for a text that is known to be ASCII.
    pub(super) fn is_in_ascii(&self, text: &[u8]) -> bool {
        match self {
            Word::Folded(folded) => folded.is_in_ascii(text),
            Word::Exact(finder) => finder.find(text).is_some(),
        }
    }
}

/// A word in lower case.
#[derive(Clone, Debug)]
pub(super) struct Folded {
    lower: String,
    /// `None` if the word is too short to have one, or not ASCII and so in no ASCII text.
    probe: Option<Probe>,
}

impl Folded {
    fn new(word: &str) -> Folded {
        let lower = word.to_lowercase();
        let probe = if lower.is_ascii() { Probe::rarest_of(lower.as_bytes()) } else { None };
        Folded { lower, probe }
    }

    fn is_in_ascii(&self, text: &[u8]) -> bool {
        let word = self.lower.as_bytes();
        let Some(last_start) = text.len().checked_sub(word.len()) else {
            return false;
        };
        let is_at = |start: usize| text[start..start + word.len()].eq_ignore_ascii_case(word);
        if let Some(probe) = &self.probe {
            probe.any_candidate(&text[probe.at..=probe.at + last_start + 1], is_at)
        } else {
            (0..=last_start).any(is_at)
        }
    }
}

/// Two neighbouring bytes of a word, by which the few places of a text are found where the word may be.
#[derive(Clone, Debug)]
struct Probe {
    /// Where in the word the first of the two stands.
    at: usize,
    first: Letter,
    second: Letter,
}

impl Probe {
    /// The two neighbours of `word`, in lower case and ASCII, that are met least often.
    fn rarest_of(word: &[u8]) -> Option<Probe> {
        let pairs = word.array_windows().enumerate();
        let (at, &[first, second]) = pairs.min_by_key(|(_, [a, b])| commonness(*a) + commonness(*b))?;
        Some(Probe { at, first: Letter::new(first), second: Letter::new(second) })
    }

    /// Whether `accepts` holds for the index of a pair in `text`. It may be asked twice about one index.
    fn any_candidate(&self, text: &[u8], accepts: impl Fn(usize) -> bool) -> bool {
        // Sixteen pairs overlap in one byte more.
        const STEP_BYTES: usize = PLACES + 1;
        let Some(last) = text.last_chunk::<STEP_BYTES>() else {
            return (0..text.len() - 1).any(accepts);
        };
        let mut rest = text;
        while let Some(step) = rest.first_chunk::<STEP_BYTES>() {
            if self.any_in_step(step, text.len() - rest.len(), &accepts) {
                return true;
            }
            rest = &rest[PLACES..];
        }
        // The last step overlaps the one before it, which spares a loop over what is left.
        self.any_in_step(last, text.len() - STEP_BYTES, &accepts)
    }

    /// The same for the pairs of `step`, the first of which has the index `at`.
    #[inline(always)]
    fn any_in_step(&self, step: &[u8; PLACES + 1], at: usize, accepts: impl Fn(usize) -> bool) -> bool {
        let mut candidates = lanes::pairs(step, self.first, self.second);
        while candidates != 0 {
            if accepts(at + candidates.trailing_zeros() as usize) {
                return true;
            }
            candidates &= candidates - 1;
        }
        false
    }
}

/// How often a lower-case byte is met in English, as a rank: 0 for the rarest.
fn commonness(byte: u8) -> usize {
    const RAREST_LETTERS_FIRST: &[u8] = b"zqxjkvbpygfwmucldrhsnioate";
    let rank = RAREST_LETTERS_FIRST.iter().position(|&letter| letter == byte);
    rank.unwrap_or(RAREST_LETTERS_FIRST.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_lower_case_at_every_place_of_every_length() {
        for word in ["a", "-", "ab", "a_", "crash", "0x", "_@`[{", "Ab C", "aaaa", "a-long-word-indeed"] {
            let folded = Word::new(word, false).unwrap();
            for length in 0..40usize {
                for at in 0..=length {
                    let mut text = "A".repeat(at);
                    text.push_str(&word.to_uppercase()[..word.len().min(length - at)]);
                    text.push_str(&"`".repeat(length.saturating_sub(text.len())));
                    let expected = text.to_lowercase().contains(&word.to_lowercase());
                    assert_eq!(folded.is_in(&text), expected, "{word} in {text}");
                    assert_eq!(folded.is_in_ascii(text.as_bytes()), expected, "{word} in {text}");
                }
            }
        }
    }

    #[test]
    fn bytes_that_differ_in_the_case_bit_alone_are_told_apart() {
        for (word, text) in [("@@", "``"), ("[[", "{{"), ("__", "\x7f\x7f"), ("00", "\x10\x10")] {
            for text in [text.to_owned(), text.repeat(20)] {
                assert!(!Word::new(word, false).unwrap().is_in(&text), "{word} in {text:?}");
            }
        }
    }
}
