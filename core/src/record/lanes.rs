//! The questions that are asked of every byte of every record, for many bytes at once.
//!
//! Responsible for asking them with the best instructions that the processor has: AVX2 and what came with it, else SSE2,
//! which is part of x86-64, else [`swar`](super::swar). All give the same answers, which the tests compare. Must never
//! read beyond what it is given.
//!
//! Which of them is found out once, by [`Lanes::of_this_processor`]. A [`Task`] is then compiled once for each, as a
//! whole, so that nothing in it is a call.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod sse2;
mod words;

/// What every processor of the architecture has.
#[cfg(target_arch = "x86_64")]
pub(super) const BASELINE: sse2::Sse2 = sse2::Sse2;
/// What every processor of the architecture has.
#[cfg(not(target_arch = "x86_64"))]
pub(super) const BASELINE: words::Words = words::Words;

/// Bytes that are surveyed at once.
pub(super) const BLOCK_BYTES: usize = 64;
/// Places that are searched or compared in one step.
pub(super) const PLACES: usize = 32;
/// Steps of a search that are made at once.
pub(super) const STEPS: usize = 4;

/// The instructions to use.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lanes {
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Sse2(sse2::Sse2),
    Words(words::Words),
}

impl Lanes {
    #[cfg(target_arch = "x86_64")]
    pub(super) fn of_this_processor() -> Lanes {
        avx2::Avx2::detect().map_or(Lanes::Sse2(sse2::Sse2), Lanes::Avx2)
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn of_this_processor() -> Lanes {
        Lanes::Words(words::Words)
    }

    /// Everything that this processor can do.
    pub(super) fn all() -> Vec<Lanes> {
        let mut all = vec![Lanes::Words(words::Words)];
        #[cfg(target_arch = "x86_64")]
        {
            all.push(Lanes::Sse2(sse2::Sse2));
            all.extend(avx2::Avx2::detect().map(Lanes::Avx2));
        }
        all
    }

    #[inline(always)]
    pub(super) fn run<T: Task>(self, task: T) -> T::Answer {
        match self {
            #[cfg(target_arch = "x86_64")]
            Lanes::Avx2(lanes) => lanes.run(task),
            #[cfg(target_arch = "x86_64")]
            Lanes::Sse2(lanes) => task.run(lanes),
            Lanes::Words(lanes) => task.run(lanes),
        }
    }
}

/// Work that asks the questions of this module.
pub(super) trait Task {
    type Answer;

    /// To be `inline(always)`, as is all that it calls for each byte: only so it is compiled for the instructions.
    fn run<L: Instructions>(self, lanes: L) -> Self::Answer;
}

/// The questions.
pub(super) trait Instructions: Copy {
    /// What `block` holds.
    fn survey(self, block: &[u8; BLOCK_BYTES]) -> Survey;

    /// At which of the places of each step `letters` stand one behind the other: one bit a place. A step has the bytes of its
    /// places and, for the last of these, one more for each letter behind the first.
    fn word(self, steps: [&[u8]; STEPS], letters: &[Letter]) -> [u32; STEPS];

    /// Where in `text` a string may end or needs a closer look, one bit a place: at a quote, a backslash, a control
    /// character below the space, a byte above ASCII.
    fn stops(self, text: &[u8; PLACES]) -> u32;

    /// Whether `text` and `other` have the same bits wherever `mask` has a one.
    fn is_equal(self, text: &[u8; PLACES], other: &[u8; PLACES], mask: &[u8; PLACES]) -> bool;

    /// Each bit becomes the parity of itself and those below.
    #[inline(always)]
    fn parities(self, mut bits: u64) -> u64 {
        for distance in [1, 2, 4, 8, 16, 32] {
            bits ^= bits << distance;
        }
        bits
    }
}

/// What a block holds. Of each kind of byte, where it stands: one bit a byte, the first in the lowest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Survey {
    pub quotes: u64,
    pub colons: u64,
    pub commas: u64,
    pub spaces: u64,
    /// Whether there is a backslash, a control character below the space, or a byte above ASCII.
    pub odd: bool,
}

impl Survey {
    /// Without the first `bytes` bytes, fewer than all, but for `odd`.
    #[inline(always)]
    pub(super) fn without_first(self, bytes: usize) -> Survey {
        Survey {
            quotes: self.quotes >> bytes,
            colons: self.colons >> bytes,
            commas: self.commas >> bytes,
            spaces: self.spaces >> bytes,
            odd: self.odd,
        }
    }
}

/// A byte to be found in either case.
#[derive(Clone, Copy, Debug)]
pub(super) struct Letter {
    /// The bit that tells the cases apart; 0 for a byte that has no case.
    case: u8,
    lower: u8,
}

impl Letter {
    pub(super) fn new(lower: u8) -> Letter {
        Letter { case: if lower.is_ascii_lowercase() { 0x20 } else { 0 }, lower }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct SurveyOf<'a>(&'a [u8; BLOCK_BYTES]);

    impl Task for SurveyOf<'_> {
        type Answer = Survey;

        fn run<L: Instructions>(self, lanes: L) -> Survey {
            lanes.survey(self.0)
        }
    }

    struct WordIn<'a>([&'a [u8]; STEPS], &'a [Letter]);

    impl Task for WordIn<'_> {
        type Answer = [u32; STEPS];

        fn run<L: Instructions>(self, lanes: L) -> [u32; STEPS] {
            lanes.word(self.0, self.1)
        }
    }

    struct StopsOf<'a>(&'a [u8; PLACES]);

    impl Task for StopsOf<'_> {
        type Answer = u32;

        fn run<L: Instructions>(self, lanes: L) -> u32 {
            lanes.stops(self.0)
        }
    }

    struct IsEqual<'a>(&'a [u8; PLACES], &'a [u8; PLACES], &'a [u8; PLACES]);

    impl Task for IsEqual<'_> {
        type Answer = bool;

        fn run<L: Instructions>(self, lanes: L) -> bool {
            lanes.is_equal(self.0, self.1, self.2)
        }
    }

    struct ParitiesOf(u64);

    impl Task for ParitiesOf {
        type Answer = u64;

        fn run<L: Instructions>(self, lanes: L) -> u64 {
            lanes.parities(self.0)
        }
    }

    #[test]
    fn all_implementations_see_every_byte_at_every_place() {
        for (place, byte) in (0..BLOCK_BYTES).flat_map(|place| (0..=255u8).map(move |byte| (place, byte))) {
            let mut block = [b'a'; BLOCK_BYTES];
            block[place] = byte;
            let is = |wanted: u8| u64::from(byte == wanted) << place;
            let expected = Survey {
                quotes: is(b'"'),
                colons: is(b':'),
                commas: is(b','),
                spaces: is(b' '),
                odd: !(b' '..0x80).contains(&byte) || byte == b'\\',
            };
            for lanes in Lanes::all() {
                assert_eq!(lanes.run(SurveyOf(&block)), expected, "{byte} at {place} by {lanes:?}");
            }
        }
    }

    #[test]
    fn all_implementations_agree_on_blocks_of_many_kinds() {
        // Neighbours would show a carry from one byte to the next.
        let bytes = *b"\"\":,  \\a!#+-9;\x1f\x7f\x80\xa2\xac\xba\xff\0";
        let mut state = 1u64;
        for _ in 0..10_000 {
            let block = std::array::from_fn(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                bytes[(state >> 33) as usize % bytes.len()]
            });
            let [words, others @ ..] = &Lanes::all()[..] else { panic!("there is always one") };
            for lanes in others {
                assert_eq!(lanes.run(SurveyOf(&block)), words.run(SurveyOf(&block)), "{lanes:?}: {block:?}");
            }
        }
    }

    #[test]
    fn letters_are_found_in_either_case_and_nowhere_else() {
        for word in [&b"cr"[..], b"_@", b"0[", b"zz", b"q", b"crashed!"] {
            let letters: Vec<Letter> = word.iter().copied().map(Letter::new).collect();
            for (at, byte) in (0..word.len()).flat_map(|at| (0..=255u8).map(move |byte| (at, byte))) {
                let is_word = byte.to_ascii_lowercase() == word[at];
                for place in [0, 7, 8, 15, 16, 23, 24, 31] {
                    let mut steps = vec![vec![b' '; PLACES + word.len() - 1]; STEPS];
                    let step = place % STEPS;
                    let text = &mut steps[step][place..][..word.len()];
                    text.copy_from_slice(word);
                    text[at] = byte;
                    let mut expected = [0; STEPS];
                    expected[step] = u32::from(is_word) << place;
                    for lanes in Lanes::all() {
                        let steps = std::array::from_fn(|step| &steps[step][..]);
                        let found = lanes.run(WordIn(steps, &letters));
                        assert_eq!(found, expected, "{word:?} with {byte} at {at}, {place}, by {lanes:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_string_stops_at_each_byte_that_does_not_stand_for_itself() {
        for (place, byte) in (0..PLACES).flat_map(|place| (0..=255u8).map(move |byte| (place, byte))) {
            let mut text = [b'a'; PLACES];
            text[place] = byte;
            let is_stop = !(b' '..0x80).contains(&byte) || byte == b'"' || byte == b'\\';
            for lanes in Lanes::all() {
                let found = lanes.run(StopsOf(&text));
                assert_eq!(found, u32::from(is_stop) << place, "{byte} at {place} by {lanes:?}");
            }
        }
    }

    #[test]
    fn bits_are_compared_where_the_mask_has_ones_and_nowhere_else() {
        for (place, bit) in (0..PLACES).flat_map(|place| (0..8).map(move |bit| (place, bit))) {
            let (text, mut other, mut mask) = ([0xa5; PLACES], [0xa5; PLACES], [0xff; PLACES]);
            other[place] ^= 1 << bit;
            for lanes in Lanes::all() {
                assert!(!lanes.run(IsEqual(&text, &other, &mask)), "{bit} of {place} by {lanes:?}");
            }
            mask[place] ^= 1 << bit;
            for lanes in Lanes::all() {
                assert!(lanes.run(IsEqual(&text, &other, &mask)), "{bit} of {place} by {lanes:?}");
            }
        }
    }

    #[test]
    fn parities_are_those_of_the_bits_up_to_each() {
        for (a, b) in (0..64).flat_map(|a| (0..64).map(move |b| (a, b))) {
            for bits in [1 << a | 1 << b, !(1 << a | 1 << b), 0, u64::MAX] {
                let below = |i: u32| bits & (u64::MAX >> (63 - i));
                let expected = (0..64).fold(0, |all, i| all | u64::from(below(i).count_ones() % 2) << i);
                for lanes in Lanes::all() {
                    assert_eq!(lanes.run(ParitiesOf(bits)), expected, "{bits:b} by {lanes:?}");
                }
            }
        }
    }

    #[test]
    fn a_survey_without_its_first_bytes_begins_with_the_next() {
        let survey = Survey { quotes: u64::MAX, colons: 1 << 63, commas: 1 << 62, spaces: 1, odd: true };
        assert_eq!(survey.without_first(0), survey);
        let two = Survey { quotes: 3, colons: 2, commas: 1, spaces: 0, odd: true };
        assert_eq!(survey.without_first(62), two);
    }
}
