//! The questions that are asked of every byte of every record, for many bytes at once.
//!
//! Responsible for asking them with the vector instructions that every x86-64 processor has (SSE2), and elsewhere with
//! [`swar`](super::swar); both give the same answers, which the tests compare. Must never read beyond what it is given.

/// Bytes that [`survey`] looks at.
pub(super) const BLOCK_BYTES: usize = 64;
/// Places that [`pairs`] looks at.
pub(super) const PLACES: usize = 16;

/// What a block holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Survey {
    /// Where quotes are, one bit a byte, the first in the lowest. Only right if `odd` is false.
    pub quotes: u64,
    /// Whether there is a backslash, a control character below the space, or a byte above ASCII.
    pub odd: bool,
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

pub(super) use implementation::{pairs, survey};

#[cfg(target_arch = "x86_64")]
use sse2 as implementation;
#[cfg(not(target_arch = "x86_64"))]
use words as implementation;

/// With SSE2, which is part of x86-64: the only `unsafe` here says so to the compiler.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod sse2 {
    use super::{BLOCK_BYTES, Letter, PLACES, Survey};
    use std::arch::x86_64::{
        __m128i, _mm_and_si128, _mm_cmpeq_epi8, _mm_cmplt_epi8, _mm_movemask_epi8, _mm_or_si128,
        _mm_set_epi64x, _mm_set1_epi8, _mm_setzero_si128,
    };

    #[inline(always)]
    pub(in super::super) fn survey(block: &[u8; BLOCK_BYTES]) -> Survey {
        // SAFETY: every x86-64 processor has SSE2; the function asks for nothing else.
        unsafe { vector_survey(block) }
    }

    /// Where `first` stands in `text` with `second` behind it, one bit a place.
    #[inline(always)]
    pub(in super::super) fn pairs(text: &[u8; PLACES + 1], first: Letter, second: Letter) -> u16 {
        // SAFETY: as above.
        unsafe { vector_pairs(text, first, second) }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn vector_survey(block: &[u8; BLOCK_BYTES]) -> Survey {
        let (mut quotes, mut odd) = (0, _mm_setzero_si128());
        for (i, chunk) in block.as_chunks::<16>().0.iter().enumerate() {
            let bytes = load(chunk);
            quotes |= u64::from(bits(_mm_cmpeq_epi8(bytes, splat(b'"')))) << (16 * i);
            // Bytes above ASCII are negative, and so below the space.
            let below = _mm_cmplt_epi8(bytes, splat(b' '));
            odd = _mm_or_si128(odd, _mm_or_si128(below, _mm_cmpeq_epi8(bytes, splat(b'\\'))));
        }
        Survey { quotes, odd: bits(odd) != 0 }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn vector_pairs(text: &[u8; PLACES + 1], first: Letter, second: Letter) -> u16 {
        let here = load(text.first_chunk().expect("it is longer"));
        let next = load(text.last_chunk().expect("it is longer"));
        bits(_mm_and_si128(is_letter(here, first), is_letter(next, second)))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn is_letter(bytes: __m128i, letter: Letter) -> __m128i {
        _mm_cmpeq_epi8(_mm_or_si128(bytes, splat(letter.case)), splat(letter.lower))
    }

    /// Becomes one unaligned load.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn load(bytes: &[u8; 16]) -> __m128i {
        let (halves, _) = bytes.as_chunks::<8>();
        _mm_set_epi64x(i64::from_le_bytes(halves[1]), i64::from_le_bytes(halves[0]))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn splat(byte: u8) -> __m128i {
        _mm_set1_epi8(byte.cast_signed())
    }

    /// One bit a byte, set where all bits of the byte are.
    #[inline]
    #[target_feature(enable = "sse2")]
    fn bits(flags: __m128i) -> u16 {
        _mm_movemask_epi8(flags) as u16
    }
}

/// Without vector instructions.
#[cfg(any(test, not(target_arch = "x86_64")))]
mod words {
    use super::super::swar;
    use super::{BLOCK_BYTES, Letter, PLACES, Survey};

    const HIGH: u64 = swar::splat(0x80);

    pub(in super::super) fn survey(block: &[u8; BLOCK_BYTES]) -> Survey {
        let (mut quotes, mut odd) = (0, 0);
        for (i, chunk) in block.as_chunks::<8>().0.iter().enumerate() {
            let word = u64::from_le_bytes(*chunk);
            let ascii = word & !HIGH;
            quotes |= swar::gather(swar::equal(ascii, swar::splat(b'"')) & !word) << (8 * i);
            // Without the eighth bit, a byte of 0x20 or more carries into it when 0x60 is added.
            let below = !(ascii + swar::splat(0x60)) & HIGH;
            odd |= (word & HIGH) | below | swar::equal(ascii, swar::splat(b'\\'));
        }
        Survey { quotes, odd: odd != 0 }
    }

    pub(in super::super) fn pairs(text: &[u8; PLACES + 1], first: Letter, second: Letter) -> u16 {
        let places_of_eight = |at: usize| {
            let is = |at: usize, letter: Letter| {
                let word = swar::load(&text[at..]).expect("eight bytes are there");
                swar::equal((word & !HIGH) | swar::splat(letter.case), swar::splat(letter.lower)) & !word
            };
            swar::gather(is(at, first) & is(at + 1, second)) as u16
        };
        places_of_eight(0) | places_of_eight(8) << 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_implementations_agree_on_every_byte_at_every_place() {
        for place in 0..BLOCK_BYTES {
            for byte in 0..=255 {
                let mut block = [b'a'; BLOCK_BYTES];
                block[place] = byte;
                let surveyed = survey(&block);
                assert_eq!(surveyed, words::survey(&block), "{byte} at {place}");
                assert_eq!(surveyed.odd, !(b' '..0x80).contains(&byte) || byte == b'\\', "{byte} at {place}");
                assert_eq!(surveyed.quotes, u64::from(byte == b'"') << place, "{byte} at {place}");
            }
        }
    }

    #[test]
    fn pairs_are_found_in_either_case_and_nowhere_else() {
        for (first, second) in [(b'c', b'r'), (b'_', b'@'), (b'0', b'['), (b'z', b'z')] {
            for (a, b) in (0..=255u8).flat_map(|a| (0..=255u8).map(move |b| (a, b))) {
                let (left, right) = (Letter::new(first), Letter::new(second));
                let is_pair = a.to_ascii_lowercase() == first && b.to_ascii_lowercase() == second;
                for place in [0, 7, 8, 15] {
                    let mut text = [b' '; PLACES + 1];
                    (text[place], text[place + 1]) = (a, b);
                    let found = pairs(&text, left, right);
                    assert_eq!(found, u16::from(is_pair) << place, "{a} {b} at {place}");
                    assert_eq!(found, words::pairs(&text, left, right), "{a} {b} at {place}");
                }
            }
        }
    }
}
