//! Without vector instructions: eight bytes at a time.
//!
//! Responsible for the answers wherever there is nothing better. Must never depend on more than the language.

use super::super::swar;
use super::{BLOCK_BYTES, Instructions, Letter, PLACES, Survey};

const HIGH: u64 = swar::splat(0x80);

#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Words;

impl Instructions for Words {
    #[inline(always)]
    fn survey(self, block: &[u8; BLOCK_BYTES]) -> Survey {
        let mut survey = Survey { quotes: 0, colons: 0, commas: 0, spaces: 0, odd: false };
        for (i, chunk) in block.as_chunks::<8>().0.iter().enumerate() {
            let word = u64::from_le_bytes(*chunk);
            let ascii = word & !HIGH;
            let is = |byte: u8| swar::equal(ascii, swar::splat(byte)) & !word;
            let places_of = |byte: u8| swar::gather(is(byte)) << (8 * i);
            survey.quotes |= places_of(b'"');
            survey.colons |= places_of(b':');
            survey.commas |= places_of(b',');
            survey.spaces |= places_of(b' ');
            // Without the eighth bit, a byte of 0x20 or more carries into it when 0x60 is added.
            let below = !(ascii + swar::splat(0x60)) & HIGH;
            survey.odd |= (word & HIGH) | below | swar::equal(ascii, swar::splat(b'\\')) != 0;
        }
        survey
    }

    #[inline(always)]
    fn pairs(self, text: &[u8; PLACES + 1], first: Letter, second: Letter) -> u32 {
        let pairs_at = |at: usize| {
            let is = |at: usize, letter: Letter| {
                let word = swar::load(&text[at..]).expect("eight bytes are there");
                swar::equal((word & !HIGH) | swar::splat(letter.case), swar::splat(letter.lower)) & !word
            };
            (swar::gather(is(at, first) & is(at + 1, second)) as u32) << at
        };
        pairs_at(0) | pairs_at(8) | pairs_at(16) | pairs_at(24)
    }
}
