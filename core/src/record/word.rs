//! Whether a text contains the word.
//!
//! Responsible for one answer, `text.to_lowercase().contains(word.to_lowercase())` or the same without lower case,
//! found without an allocation in ASCII. Must never depend on a locale.

use memchr::memmem;

use super::lanes::{BASELINE, Instructions, Letter, PLACES, STEPS};

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

/// More letters than these are only looked at where they stand.
const LETTERS_MAX: usize = 8;
/// The longest step.
const STEP_BYTES_MAX: usize = PLACES - 1 + LETTERS_MAX;

/// A word in lower case.
#[derive(Clone, Debug)]
pub(super) struct Folded {
    lower: String,
    /// What it begins with; none if it is not ASCII, and so in no ASCII text.
    letters: Vec<Letter>,
}

impl Folded {
    fn new(word: &str) -> Folded {
        let lower = word.to_lowercase();
        let begin = lower.bytes().take(if lower.is_ascii() { LETTERS_MAX } else { 0 });
        Folded { letters: begin.map(Letter::new).collect(), lower }
    }

    /// Where the word is first in `text`.
    ///
    /// All letters are compared at all places at once, and not only the rarest to look closer where they are: whether a text
    /// has these no processor can foresee, and to be wrong costs it more than the other letters.
    #[inline(always)]
    fn find_in_ascii<L: Instructions>(&self, text: &[u8], lanes: L) -> Option<usize> {
        if self.letters.is_empty() {
            return None;
        }
        let step_bytes = PLACES - 1 + self.letters.len();
        let padded;
        let steps = if text.len() < step_bytes {
            padded = padded_to_a_step(text);
            &padded[..step_bytes]
        } else {
            text
        };
        let last = steps.len() - step_bytes;
        let step = |at: usize| &steps[at..at + step_bytes];
        let mut from = 0;
        loop {
            // The last steps overlap, which spares a loop over what is left.
            let at: [usize; STEPS] = [0, 1, 2, 3].map(|i| last.min(from + i * PLACES));
            let candidates = lanes.word([step(at[0]), step(at[1]), step(at[2]), step(at[3])], &self.letters);
            if candidates != [0; STEPS]
                && let Some(found) = self.first_of(text, at, candidates)
            {
                return Some(found);
            }
            if at[STEPS - 1] == last {
                return None;
            }
            from += STEPS * PLACES;
        }
    }

    /// The first of the candidates of each step where the whole word is.
    fn first_of(&self, text: &[u8], at: [usize; STEPS], candidates: [u32; STEPS]) -> Option<usize> {
        let word = self.lower.as_bytes();
        for (at, mut candidates) in at.into_iter().zip(candidates) {
            while candidates != 0 {
                let start = at + candidates.trailing_zeros() as usize;
                if text.get(start..start + word.len()).is_some_and(|text| text.eq_ignore_ascii_case(word)) {
                    return Some(start);
                }
                candidates &= candidates - 1;
            }
        }
        None
    }
}

/// A copy of less than a step, with bytes behind it of which no word is made.
fn padded_to_a_step(text: &[u8]) -> [u8; STEP_BYTES_MAX] {
    let mut step = [0; STEP_BYTES_MAX];
    step[..text.len()].copy_from_slice(text);
    step
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
