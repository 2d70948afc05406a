//! Batches are written here by hand, by code that shares nothing with the reader; the compressions by the
//! other halves of their crates.

use super::*;
use proptest::prelude::*;
use std::io::Write as _;

/// Offset, key and value.
type Owned = (i64, Option<Vec<u8>>, Option<Vec<u8>>);

/// A batch to be written.
#[derive(Clone, Debug)]
struct Written {
    base_offset: i64,
    attributes: i16,
    producer_id: i64,
    /// `(offset, key, value)`; offsets relative to the base.
    records: Vec<Owned>,
    last_delta: i32,
}

fn written(base_offset: i64, values: &[&str]) -> Written {
    let records = values.iter().enumerate().map(|(i, v)| (i as i64, None, Some(v.as_bytes().to_vec())));
    let records: Vec<_> = records.collect();
    let last_delta = records.len() as i32 - 1;
    Written { base_offset, attributes: 0, producer_id: -1, records, last_delta }
}

fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

fn put_part(out: &mut Vec<u8>, part: Option<&[u8]>) {
    put_varint(out, part.map_or(-1, |part| part.len() as i64));
    out.extend_from_slice(part.unwrap_or_default());
}

fn record(delta: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Vec<u8> {
    let mut body = vec![0];
    put_varint(&mut body, 1_000_000);
    put_varint(&mut body, delta);
    put_part(&mut body, key);
    put_part(&mut body, value);
    // One header.
    put_varint(&mut body, 1);
    put_part(&mut body, Some(b"name"));
    put_part(&mut body, Some(b"value"));
    let mut out = Vec::new();
    put_varint(&mut out, body.len() as i64);
    out.extend(body);
    out
}

impl Written {
    fn bytes(&self) -> Vec<u8> {
        let plain: Vec<u8> = self
            .records
            .iter()
            .flat_map(|(delta, k, v)| record(*delta, k.as_deref(), v.as_deref()))
            .collect();
        let stored = compressed(self.attributes & 7, &plain);
        let mut out = self.base_offset.to_be_bytes().to_vec();
        out.extend((stored.len() as i32 + 49).to_be_bytes());
        out.extend(7i32.to_be_bytes());
        out.push(2);
        out.extend([0; 4]);
        out.extend(self.attributes.to_be_bytes());
        out.extend(self.last_delta.to_be_bytes());
        out.extend(1_700_000_000_000i64.to_be_bytes());
        out.extend(1_700_000_000_500i64.to_be_bytes());
        out.extend(self.producer_id.to_be_bytes());
        out.extend([0; 6]);
        out.extend((self.records.len() as i32).to_be_bytes());
        out.extend(stored);
        let checksum = crc32c::crc32c(&out[21..]);
        out[17..21].copy_from_slice(&checksum.to_be_bytes());
        out
    }
}

fn compressed(codec: i16, plain: &[u8]) -> Vec<u8> {
    match codec {
        0 => plain.to_vec(),
        1 => {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            writer.write_all(plain).unwrap();
            writer.finish().unwrap()
        }
        2 => snap::raw::Encoder::new().compress_vec(plain).unwrap(),
        3 => {
            let mut writer = lz4_flex::frame::FrameEncoder::new(Vec::new());
            writer.write_all(plain).unwrap();
            writer.finish().unwrap()
        }
        // As a stream: the frame does not say how long its content is.
        4 => {
            let mut writer = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
            writer.write_all(plain).unwrap();
            writer.finish().unwrap()
        }
        _ => plain.to_vec(),
    }
}

/// Everything that is read of `bytes` from `position` on, and where that ends.
fn read(bytes: &[u8], position: i64, aborted: Aborted) -> Result<(Vec<(i64, String)>, i64), Error> {
    let (mut rest, mut aborted, mut end) = (bytes, aborted, position);
    let (mut scratch, mut read) = (Scratch::default(), Vec::new());
    while let Some((batch, behind)) = Batch::split_first(rest)? {
        rest = behind;
        batch.check()?;
        if aborted.admits(&batch)? {
            let mut records = batch.records(&mut scratch)?;
            while let Some(record) = records.next_record()? {
                let value = record.value.map_or("<none>".into(), String::from_utf8_lossy).into_owned();
                read.push((record.offset, value));
            }
        }
        end = end.max(batch.last_offset() + 1);
    }
    assert_eq!(end_of(bytes, position), end);
    Ok((read, end))
}

fn offsets(bytes: &[u8], aborted: Aborted) -> Vec<i64> {
    read(bytes, 0, aborted).unwrap().0.into_iter().map(|(offset, _)| offset).collect()
}

#[test]
fn every_compression_is_read() {
    let long = "x".repeat(300_000);
    let values = ["one", "", &long, "four"];
    for codec in 0..=4 {
        let batch = Written { attributes: codec, ..written(70, &values) };
        let (read, end) = read(&batch.bytes(), 0, Aborted::default()).unwrap();
        let expected: Vec<_> = (70..).zip(values.map(str::to_owned)).collect();
        assert_eq!(read, expected, "codec {codec}");
        assert_eq!(end, 74);
    }
}

#[test]
fn snappy_in_the_framing_of_java_is_read() {
    let plain = record(0, None, Some(b"framed"));
    let (first, second) = plain.split_at(5);
    let mut stored = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    for block in [first, second] {
        let block = compressed(2, block);
        stored.extend((block.len() as u32).to_be_bytes());
        stored.extend(block);
    }
    let mut scratch = Scratch::default();
    assert_eq!(scratch.decompress(Codec::Snappy, &stored).unwrap(), plain);
    // And one that ends too early.
    assert!(scratch.decompress(Codec::Snappy, &stored[..stored.len() - 1]).is_err());
}

#[test]
fn keys_and_tombstones_are_told_from_empty_ones() {
    let mut batch = written(0, &[]);
    batch.records = vec![(0, Some(b"k".to_vec()), None), (1, Some(Vec::new()), Some(Vec::new()))];
    batch.last_delta = 1;
    let bytes = batch.bytes();
    let (batch, behind) = Batch::split_first(&bytes).unwrap().unwrap();
    assert!(behind.is_empty());
    let mut scratch = Scratch::default();
    let mut records = batch.records(&mut scratch).unwrap();
    let first = records.next_record().unwrap().unwrap();
    assert_eq!(first, Record { offset: 0, key: Some(b"k"), value: None });
    let second = records.next_record().unwrap().unwrap();
    assert_eq!(second, Record { offset: 1, key: Some(b""), value: Some(b"") });
    assert_eq!(records.next_record(), Ok(None));
}

#[test]
fn the_append_time_is_told_only_where_the_topic_has_one() {
    for (attributes, expected) in [(0, None), (0x08, Some(1_700_000_000_500))] {
        let bytes = Written { attributes, ..written(0, &["a"]) }.bytes();
        let (batch, _) = Batch::split_first(&bytes).unwrap().unwrap();
        assert_eq!(batch.appended_at_ms(), expected);
    }
}

#[test]
fn a_batch_that_is_cut_off_is_left_for_the_next_fetch() {
    let whole = written(0, &["a", "b"]).bytes();
    for cut in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes.extend(&written(2, &["c"]).bytes()[..cut.min(whole.len() / 2)]);
        assert_eq!(read(&bytes, 0, Aborted::default()).unwrap().1, 2);
        assert_eq!(read(&whole[..cut], 0, Aborted::default()).unwrap(), (Vec::new(), 0));
    }
}

#[test]
fn compaction_leaves_holes_and_keeps_the_end() {
    let mut batch = written(100, &["kept"]);
    batch.records[0].0 = 3;
    batch.last_delta = 9;
    let mut bytes = batch.bytes();
    // And a batch of which nothing is left.
    bytes.extend(Written { last_delta: 4, ..written(110, &[]) }.bytes());
    let (read, end) = read(&bytes, 100, Aborted::default()).unwrap();
    assert_eq!(read, [(103, "kept".to_owned())]);
    assert_eq!(end, 115);
}

#[test]
fn a_wrong_bit_anywhere_behind_the_checksum_is_seen() {
    let whole = written(0, &["a", "b"]).bytes();
    for at in 17..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        assert!(read(&bytes, 0, Aborted::default()).is_err(), "{at}");
    }
}

#[test]
fn other_formats_are_foreign_and_damage_is_not() {
    let mut old = written(0, &["a"]).bytes();
    old[16] = 1;
    assert_eq!(read(&old, 0, Aborted::default()), Err(Error::Format(1)));
    let unknown = Written { attributes: 5, ..written(0, &["a"]) }.bytes();
    assert_eq!(read(&unknown, 0, Aborted::default()), Err(Error::Codec(5)));
    assert!(Error::Format(1).is_foreign() && Error::Codec(5).is_foreign());
    assert!(!Error::Checksum.is_foreign());
}

const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x30;

fn transactional(base_offset: i64, producer_id: i64) -> Vec<u8> {
    Written { attributes: TRANSACTIONAL, producer_id, ..written(base_offset, &["a", "b"]) }.bytes()
}

fn marker(base_offset: i64, producer_id: i64, kind: u8) -> Vec<u8> {
    let key = Some(vec![0, 0, 0, kind]);
    let records = vec![(0, key, Some(vec![0; 6]))];
    Written { base_offset, attributes: CONTROL, producer_id, records, last_delta: 0 }.bytes()
}

#[test]
fn aborted_transactions_are_left_out_and_others_are_not() {
    const ABORT: u8 = 0;
    const COMMIT: u8 = 1;
    let bytes = [
        transactional(0, 7), // aborted
        transactional(2, 8), // committed
        written(4, &["plain", "plain"]).bytes(),
        transactional(6, 7), // aborted, the same transaction
        marker(8, 7, ABORT),
        marker(9, 8, COMMIT),
        transactional(10, 7), // committed, by the producer of the aborted one
        marker(12, 7, COMMIT),
        transactional(13, 7), // aborted again
        marker(15, 7, ABORT),
    ]
    .concat();
    let aborted = Aborted::new([(7, 13), (7, 0)]);
    assert_eq!(offsets(&bytes, aborted), [2, 3, 4, 5, 10, 11]);
    assert_eq!(read(&bytes, 0, Aborted::default()).unwrap().1, 16);
}

#[test]
fn a_transaction_that_began_before_the_response_is_known_by_its_first_offset() {
    let bytes = [transactional(50, 7), marker(52, 7, 0), transactional(53, 7)].concat();
    assert_eq!(offsets(&bytes, Aborted::new([(7, 11)])), [53, 54]);
}

/// Reads until the end or an error; what counts is that it ends without a panic.
fn survive(bytes: &[u8], checked: bool) {
    let mut rest = bytes;
    let (mut aborted, mut scratch) = (Aborted::new([(7, 0)]), Scratch::default());
    let _ = end_of(bytes, 0);
    while let Ok(Some((batch, behind))) = Batch::split_first(rest) {
        rest = behind;
        if checked && batch.check().is_err() {
            continue;
        }
        let _ = aborted.admits(&batch);
        if let Ok(mut records) = batch.records(&mut scratch) {
            while let Ok(Some(_)) = records.next_record() {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        survive(&bytes, false);
    }

    /// Nearly right is the harder case.
    #[test]
    fn no_damage_makes_the_reader_panic(
        codec in 0i16..=5,
        kind in prop::sample::select(vec![0i16, TRANSACTIONAL, CONTROL]),
        values in prop::collection::vec("[ -~]{0,60}", 0..8),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
        is_checksum_right in any::<bool>(),
    ) {
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let batch = Written { attributes: codec | kind, producer_id: 7, ..written(5, &values) };
        let mut bytes = [batch.bytes(), written(90, &["x"]).bytes()].concat();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        survive(&bytes, is_checksum_right);
    }
}
