//! Random draws that are a pure function of (seed, record index).
//!
//! Must never keep state from one record to the next: record `i` has to be the same whoever asks for it,
//! in whatever order.

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of splitmix64: a bijection on 64 bits whose output looks random.
#[inline]
pub(super) fn mix(value: u64) -> u64 {
    let z = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The stream of draws of one record (splitmix64).
pub(super) struct Draws(u64);

impl Draws {
    #[inline]
    pub(super) fn new(seed: u64, index: u64) -> Self {
        Self(mix(seed ^ mix(index.wrapping_mul(GOLDEN))))
    }

    #[inline]
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// Two independent 32-bit draws for the price of one.
    #[inline]
    pub(super) fn pair(&mut self) -> (u32, u32) {
        let draw = self.next();
        ((draw >> 32) as u32, draw as u32)
    }
}

/// Maps a 32-bit draw to `0..bound` (0 if `bound` is 0), evenly enough for bounds far below 2^32.
#[inline]
pub(super) fn below(draw: u32, bound: u32) -> u32 {
    ((u64::from(draw) * u64::from(bound)) >> 32) as u32
}

/// Maps a 64-bit draw to `0..bound` (0 if `bound` is 0).
#[inline]
pub(super) fn below_u64(draw: u64, bound: u64) -> u64 {
    ((u128::from(draw) * u128::from(bound)) >> 64) as u64
}
