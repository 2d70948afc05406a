//! Amounts of memory as people write them in YAML, as Kubernetes has them: `512Ki`, `256Mi`, `2Gi`.
//!
//! Responsible for the one notation. Must never accept a bare number: nobody knows its unit.

/// The units with their length in bytes.
const UNITS: [(&str, u64); 3] = [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30)];

/// Reads one number and one unit, without white space between them; `None` for anything else.
pub fn parse(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let (_, unit_bytes) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*unit_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [("0Ki", 0), ("512Ki", 512 << 10), ("256Mi", 256 << 20), ("2Gi", 2 << 30)] {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in
            ["", "10", "Mi", "1.5Gi", "-1Mi", "10 Mi", "10M", "10MiB", "+1Mi", "18446744073709551615Gi"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
