//! With SSE2, which is part of x86-64.
//!
//! Responsible for the same answers as [`words`](super::words). Must never use a later instruction: the only `unsafe`
//! here says to the compiler that SSE2 is there.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m128i, _mm_and_si128, _mm_cmpeq_epi8, _mm_cmplt_epi8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x,
    _mm_set1_epi8, _mm_xor_si128,
};

use super::{BLOCK_BYTES, Instructions, Letter, PLACES, STEPS, Survey};

#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Sse2;

impl Instructions for Sse2 {
    #[inline(always)]
    fn survey(self, block: &[u8; BLOCK_BYTES]) -> Survey {
        // SAFETY: every x86-64 processor has SSE2; the function asks for nothing else.
        unsafe { survey(block) }
    }

    #[inline(always)]
    fn word(self, steps: [&[u8]; STEPS], letters: &[Letter]) -> [u32; STEPS] {
        // SAFETY: as above.
        unsafe { word(steps, letters) }
    }

    #[inline(always)]
    fn stops(self, text: &[u8; PLACES]) -> u32 {
        // SAFETY: as above.
        unsafe { stops(text) }
    }

    #[inline(always)]
    fn is_equal(self, text: &[u8; PLACES], other: &[u8; PLACES], mask: &[u8; PLACES]) -> bool {
        // SAFETY: as above.
        unsafe { is_equal(text, other, mask) }
    }
}

#[inline]
#[target_feature(enable = "sse2")]
fn survey(block: &[u8; BLOCK_BYTES]) -> Survey {
    let mut survey = Survey { quotes: 0, colons: 0, commas: 0, spaces: 0, odd: false };
    for (i, chunk) in block.as_chunks::<16>().0.iter().enumerate() {
        let bytes = load(chunk);
        let places_of = |byte: u8| u64::from(bits(_mm_cmpeq_epi8(bytes, splat(byte)))) << (16 * i);
        survey.quotes |= places_of(b'"');
        survey.colons |= places_of(b':');
        survey.commas |= places_of(b',');
        survey.spaces |= places_of(b' ');
        survey.odd |= bits(is_odd(bytes)) != 0;
    }
    survey
}

#[inline]
#[target_feature(enable = "sse2")]
fn word(steps: [&[u8]; STEPS], letters: &[Letter]) -> [u32; STEPS] {
    let mut flags = [[splat(0xff); 2]; STEPS];
    for (i, letter) in (0..).zip(letters) {
        for (flags, step) in flags.iter_mut().zip(steps) {
            for (half, flags) in flags.iter_mut().enumerate() {
                let bytes = load(step[i + 16 * half..].first_chunk().expect("it is longer"));
                *flags = _mm_and_si128(*flags, is_letter(bytes, *letter));
            }
        }
    }
    flags.map(|[low, high]| u32::from(bits(low)) | u32::from(bits(high)) << 16)
}

#[inline]
#[target_feature(enable = "sse2")]
fn stops(text: &[u8; PLACES]) -> u32 {
    let (halves, _) = text.as_chunks::<16>();
    let stops = |half: &[u8; 16]| {
        let bytes = load(half);
        u32::from(bits(_mm_or_si128(is_odd(bytes), _mm_cmpeq_epi8(bytes, splat(b'"')))))
    };
    stops(&halves[0]) | stops(&halves[1]) << 16
}

#[inline]
#[target_feature(enable = "sse2")]
fn is_equal(text: &[u8; PLACES], other: &[u8; PLACES], mask: &[u8; PLACES]) -> bool {
    let half = |at: usize| {
        let of = |all: &[u8; PLACES]| load(all[at..].first_chunk().expect("it is longer"));
        _mm_and_si128(_mm_xor_si128(of(text), of(other)), of(mask))
    };
    bits(_mm_cmpeq_epi8(_mm_or_si128(half(0), half(16)), splat(0))) == u16::MAX
}

/// Of a backslash, a control character below the space and a byte above ASCII, which is negative and so below it, too.
#[inline]
#[target_feature(enable = "sse2")]
fn is_odd(bytes: __m128i) -> __m128i {
    let below = _mm_cmplt_epi8(bytes, splat(b' '));
    _mm_or_si128(below, _mm_cmpeq_epi8(bytes, splat(b'\\')))
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
