//! With AVX2, and with what the processors that have it brought along: BMI for bits, CLMUL for parities.
//!
//! Responsible for the same answers as [`words`](super::words). Must never be entered where the processor has not
//! all of it: that is what the `unsafe` here is about, and a value of [`Avx2`] the proof of.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256i, _mm_clmulepi64_si128, _mm_cvtsi64_si128, _mm_cvtsi128_si64, _mm_set1_epi8, _mm256_and_si256,
    _mm256_cmpeq_epi8, _mm256_cmpgt_epi8, _mm256_loadu_si256, _mm256_movemask_epi8, _mm256_or_si256,
    _mm256_set1_epi8, _mm256_testz_si256, _mm256_xor_si256,
};

use super::{BLOCK_BYTES, Instructions, Letter, PLACES, STEPS, Survey, Task};

/// There is one only where the processor has all that is used here.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Avx2(());

impl Avx2 {
    pub(super) fn detect() -> Option<Avx2> {
        let has_all = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("pclmulqdq");
        has_all.then_some(Avx2(()))
    }

    #[inline(always)]
    pub(super) fn run<T: Task>(self, task: T) -> T::Answer {
        // SAFETY: `self` exists, so the processor has what the function asks for.
        unsafe { run(task, self) }
    }
}

#[target_feature(enable = "avx2,bmi1,bmi2,pclmulqdq")]
fn run<T: Task>(task: T, lanes: Avx2) -> T::Answer {
    task.run(lanes)
}

impl Instructions for Avx2 {
    #[inline(always)]
    fn survey(self, block: &[u8; BLOCK_BYTES]) -> Survey {
        // SAFETY: `self` exists, so the processor has what the function asks for.
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

    #[inline(always)]
    fn parities(self, bits: u64) -> u64 {
        // SAFETY: as above.
        unsafe { parities(bits) }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn survey(block: &[u8; BLOCK_BYTES]) -> Survey {
    let low = load(block.first_chunk().expect("it is longer"));
    let high = load(block.last_chunk().expect("it is longer"));
    let places_of = |byte: u8| {
        let is = |bytes| u64::from(bits(_mm256_cmpeq_epi8(bytes, splat(byte))));
        is(low) | is(high) << 32
    };
    Survey {
        quotes: places_of(b'"'),
        colons: places_of(b':'),
        commas: places_of(b','),
        spaces: places_of(b' '),
        odd: bits(_mm256_or_si256(is_odd(low), is_odd(high))) != 0,
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn word(steps: [&[u8]; STEPS], letters: &[Letter]) -> [u32; STEPS] {
    // Once for all letters: asked for each, it would take as long as the comparisons.
    for step in steps {
        assert!(step.len() >= PLACES - 1 + letters.len(), "a step has all its places");
    }
    let mut flags = [splat(0xff); STEPS];
    for (i, letter) in (0..).zip(letters) {
        let (case, lower) = (splat(letter.case), splat(letter.lower));
        for (flags, step) in flags.iter_mut().zip(steps) {
            // SAFETY: that as many bytes are there was asserted above, and they need not be aligned.
            let bytes = unsafe { _mm256_loadu_si256(step.as_ptr().add(i).cast()) };
            *flags = _mm256_and_si256(*flags, _mm256_cmpeq_epi8(_mm256_or_si256(bytes, case), lower));
        }
    }
    [bits(flags[0]), bits(flags[1]), bits(flags[2]), bits(flags[3])]
}

#[inline]
#[target_feature(enable = "avx2")]
fn stops(text: &[u8; PLACES]) -> u32 {
    let text = load(text);
    bits(_mm256_or_si256(is_odd(text), _mm256_cmpeq_epi8(text, splat(b'"'))))
}

#[inline]
#[target_feature(enable = "avx2")]
fn is_equal(text: &[u8; PLACES], other: &[u8; PLACES], mask: &[u8; PLACES]) -> bool {
    let differing = _mm256_xor_si256(load(text), load(other));
    _mm256_testz_si256(differing, load(mask)) == 1
}

/// Of a backslash, a control character below the space and a byte above ASCII, which is negative and so below it, too.
#[inline]
#[target_feature(enable = "avx2")]
fn is_odd(bytes: __m256i) -> __m256i {
    let below = _mm256_cmpgt_epi8(splat(b' '), bytes);
    _mm256_or_si256(below, _mm256_cmpeq_epi8(bytes, splat(b'\\')))
}

/// The product without carries of the bits and of ones in all places.
#[inline]
#[target_feature(enable = "sse2,pclmulqdq")]
fn parities(bits: u64) -> u64 {
    let product = _mm_clmulepi64_si128::<0>(_mm_cvtsi64_si128(bits.cast_signed()), _mm_set1_epi8(-1));
    _mm_cvtsi128_si64(product).cast_unsigned()
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: as many bytes are there as are read, and they need not be aligned.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn splat(byte: u8) -> __m256i {
    _mm256_set1_epi8(byte.cast_signed())
}

/// One bit a byte, set where all bits of the byte are.
#[inline]
#[target_feature(enable = "avx2")]
fn bits(flags: __m256i) -> u32 {
    _mm256_movemask_epi8(flags).cast_unsigned()
}
