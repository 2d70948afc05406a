//! Without vector instructions: eight bytes at a time.
//!
//! Responsible for the answers wherever there is nothing better. Must never depend on more than the language.

use super::super::swar;
use super::{BLOCK_BYTES, Instructions, Letter, PLACES, STEPS, Survey};

const HIGH: u64 = swar::splat(0x80);

#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Words;

impl Instructions for Words {
    #[inline(always)]
    fn survey(self, block: &[u8; BLOCK_BYTES]) -> Survey {
        let mut survey = Survey { quotes: 0, colons: 0, commas: 0, spaces: 0, odd: false };
        for (i, chunk) in block.as_chunks::<8>().0.iter().enumerate() {
            let word = u64::from_le_bytes(*chunk);
            let places_of = |byte: u8| swar::gather(equal(word, byte)) << (8 * i);
            survey.quotes |= places_of(b'"');
            survey.colons |= places_of(b':');
            survey.commas |= places_of(b',');
            survey.spaces |= places_of(b' ');
            survey.odd |= odd(word) != 0;
        }
        survey
    }

    #[inline(always)]
    fn word(self, steps: [&[u8]; STEPS], letters: &[Letter]) -> [u32; STEPS] {
        let is_at = |text: &[u8], letter: Letter| {
            let word = swar::load(text).expect("eight bytes are there");
            swar::equal((word & !HIGH) | swar::splat(letter.case), swar::splat(letter.lower)) & !word
        };
        let eight = |text: &[u8]| {
            let letters = (0..).zip(letters);
            swar::gather(letters.fold(HIGH, |flags, (i, letter)| flags & is_at(&text[i..], *letter))) as u32
        };
        steps.map(|step| [0, 8, 16, 24].into_iter().fold(0, |places, at| places | eight(&step[at..]) << at))
    }

    #[inline(always)]
    fn stops(self, text: &[u8; PLACES]) -> u32 {
        let (words, _) = text.as_chunks::<8>();
        let stops = |word: u64| swar::gather(odd(word) | equal(word, b'"')) as u32;
        (0..).zip(words).fold(0, |all, (i, word)| all | stops(u64::from_le_bytes(*word)) << (8 * i))
    }

    #[inline(always)]
    fn is_equal(self, text: &[u8; PLACES], other: &[u8; PLACES], mask: &[u8; PLACES]) -> bool {
        text.iter().zip(other).zip(mask).fold(0, |differing, ((a, b), mask)| differing | (a ^ b) & mask) == 0
    }
}

/// The eighth bit of each byte of `word` that is `byte`, which is ASCII.
#[inline(always)]
fn equal(word: u64, byte: u8) -> u64 {
    swar::equal(word & !HIGH, swar::splat(byte)) & !word
}

/// The eighth bit of each backslash, control character below the space and byte above ASCII.
#[inline(always)]
fn odd(word: u64) -> u64 {
    // Without the eighth bit, a byte of 0x20 or more carries into it when 0x60 is added.
    let below = !((word & !HIGH) + swar::splat(0x60)) & HIGH;
    (word & HIGH) | below | equal(word, b'\\')
}
