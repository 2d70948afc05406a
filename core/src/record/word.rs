//! Whether a text contains the word.
//!
//! Responsible for one answer, `text.to_lowercase().contains(word.to_lowercase())` or the same without lower case,
//! found without an allocation in ASCII. Must never depend on a locale.

use memchr::memmem;

use super::lanes::{BASELINE, Instructions, Letter, PLACES};

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
            _ => self.end_in_ascii(text.as_bytes(), BASELINE).is_some(),
        }
    }

    /// Where the word ends that is first in `text`, which is known to be ASCII.
    #[inline(always)]
    pub(super) fn end_in_ascii<L: Instructions>(&self, text: &[u8], lanes: L) -> Option<usize> {
        match self {
            Word::Folded(folded) => Some(folded.find_in_ascii(text, lanes)? + folded.lower.len()),
            Word::Exact(finder) => Some(finder.find(text)? + finder.needle().len()),
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

    /// Where the word is first in `text`.
    #[inline(always)]
    fn find_in_ascii<L: Instructions>(&self, text: &[u8], lanes: L) -> Option<usize> {
        let word = self.lower.as_bytes();
        let last_start = text.len().checked_sub(word.len())?;
        let is_at = |start: usize| text[start..start + word.len()].eq_ignore_ascii_case(word);
        if let Some(probe) = &self.probe {
            probe.first_candidate(&text[probe.at..=probe.at + last_start + 1], lanes, is_at)
        } else {
            (0..=last_start).find(|start| is_at(*start))
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

    /// The first index of a pair in `text` for which `accepts` holds. It may be asked twice about one index.
    #[inline(always)]
    fn first_candidate<L: Instructions>(
        &self,
        text: &[u8],
        lanes: L,
        accepts: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        // So many pairs overlap in one byte more.
        const STEP_BYTES: usize = PLACES + 1;
        let Some(last) = text.len().checked_sub(STEP_BYTES) else {
            return (0..text.len() - 1).find(|at| accepts(*at));
        };
        let step = |at: usize| text[at..].first_chunk::<STEP_BYTES>().expect("the last step fits");
        let mut at = 0;
        // A processor can't foresee how many steps a text takes, but that most have no candidate in any of the first.
        const FIRST_STEPS: usize = 4;
        let mut any = 0;
        for i in 0..FIRST_STEPS {
            any |= lanes.pairs(step(last.min(i * PLACES)), self.first, self.second);
        }
        if any == 0 {
            at = last.min(FIRST_STEPS * PLACES);
        }
        loop {
            let mut candidates = lanes.pairs(step(at), self.first, self.second);
            while candidates != 0 {
                let candidate = at + candidates.trailing_zeros() as usize;
                if accepts(candidate) {
                    return Some(candidate);
                }
                candidates &= candidates - 1;
            }
            if at == last {
                return None;
            }
            // The last step overlaps the one before it, which spares a loop over what is left.
            at = last.min(at + PLACES);
        }
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
    use super::super::lanes::{Lanes, Task};
    use super::*;

    struct IsIn<'a>(&'a Word, &'a str);

    impl Task for IsIn<'_> {
        type Answer = bool;

        fn run<L: Instructions>(self, lanes: L) -> bool {
            self.0.end_in_ascii(self.1.as_bytes(), lanes).is_some()
        }
    }

    #[test]
    fn agrees_with_lower_case_at_every_place_of_every_length() {
        for word in ["a", "-", "ab", "a_", "crash", "0x", "_@`[{", "Ab C", "aaaa", "a-long-word-indeed"] {
            let folded = Word::new(word, false).unwrap();
            for length in 0..80usize {
                for at in 0..=length {
                    let mut text = "A".repeat(at);
                    text.push_str(&word.to_uppercase()[..word.len().min(length - at)]);
                    text.push_str(&"`".repeat(length.saturating_sub(text.len())));
                    let expected = text.to_lowercase().contains(&word.to_lowercase());
                    assert_eq!(folded.is_in(&text), expected, "{word} in {text}");
                    for lanes in Lanes::all() {
                        let found = lanes.run(IsIn(&folded, &text));
                        assert_eq!(found, expected, "{word} in {text} by {lanes:?}");
                    }
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
