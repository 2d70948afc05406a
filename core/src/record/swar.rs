//! Eight bytes at a time in one `u64`, the first of them in the lowest byte.
//!
//! Responsible for reading numbers, and for the comparisons of [`lanes`](super::lanes) where there are no vector
//! instructions. Must only be given ASCII where it says so: without the eighth bit no sum carries into the next byte,
//! so that each answer is exact.

/// One in every byte.
const ONES: u64 = u64::from_le_bytes([1; 8]);
/// The eighth bit of every byte.
const HIGH: u64 = ONES << 7;

/// `byte` eight times.
pub(super) const fn splat(byte: u8) -> u64 {
    ONES * byte as u64
}

/// The first eight of `bytes`; `None` if there are fewer.
pub(super) fn load(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// The eighth bit of each byte that is equal in `ascii` and `other`, both ASCII.
pub(super) const fn equal(ascii: u64, other: u64) -> u64 {
    !((ascii ^ other) + splat(0x7f)) & HIGH
}

/// The eighth bits of `flags` as one byte, the first byte's in the lowest bit.
pub(super) const fn gather(flags: u64) -> u64 {
    // The factor moves the bit of byte i to bit 56 + i; no two products meet, so nothing carries.
    (flags >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

/// The number that eight decimal digits write; `None` if one of the bytes is no digit.
pub(super) const fn decimal(bytes: u64) -> Option<u64> {
    let digits = bytes ^ splat(b'0');
    // A sum that carries has an eighth bit below it.
    if (digits | digits.wrapping_add(splat(0x80 - 10))) & HIGH != 0 {
        return None;
    }
    // Neighbours are joined to numbers of two digits, then four, then eight.
    let pairs = (digits.wrapping_mul(1 + (10 << 8)) >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul(1 + (100 << 16)) >> 16) & 0x0000_ffff_0000_ffff;
    Some(fours.wrapping_mul(1 + (10_000 << 32)) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_is_exact_for_every_two_ascii_bytes_at_every_place() {
        for (a, b) in (0..128u8).flat_map(|a| (0..128u8).map(move |b| (a, b))) {
            for place in 0..8 {
                // Neighbours at both ends of the range would show a carry.
                let (mut left, mut right) = ([0x7f; 8], [0x7f; 8]);
                (left[place], right[place]) = (a, b);
                let flags = equal(u64::from_le_bytes(left), u64::from_le_bytes(right));
                let others = 0xff & !(1 << place);
                assert_eq!(gather(flags), others | u64::from(a == b) << place, "{a} {b} at {place}");
            }
        }
    }

    #[test]
    fn gather_keeps_the_order_for_every_pattern() {
        for pattern in 0..=255u64 {
            let flags = (0..8).fold(0, |flags, i| flags | ((pattern >> i & 1) << (8 * i + 7)));
            assert_eq!(gather(flags), pattern);
        }
    }

    #[test]
    fn decimal_reads_digits_and_nothing_else() {
        for number in (0..100_000_000u64).step_by(9_973).chain([0, 9, 10, 99_999_999]) {
            assert_eq!(decimal(load(format!("{number:08}").as_bytes()).unwrap()), Some(number));
        }
        for (byte, place) in (0..=255u8).flat_map(|byte| (0..8).map(move |place| (byte, place))) {
            let mut text = *b"99999999";
            text[place] = byte;
            assert_eq!(
                decimal(u64::from_le_bytes(text)).is_some(),
                byte.is_ascii_digit(),
                "{byte} at {place}"
            );
        }
    }
}
