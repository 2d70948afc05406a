//! Log records of a site whose sessions sometimes crash, in the shape that a monitor reads.
//!
//! Record `i` is a pure function of (options, `i`): its bytes, partition, event time and meaning depend
//! neither on the clock nor on which records were asked for before. That is what makes an expected result exact
//! and a failed run repeatable. So nothing in here may read a clock, keep state between records, or
//! allocate for an ordinary record.

mod expected;
mod filler;
mod odd;
mod poison;
mod rng;

pub use expected::{Expected, Tally};
pub use odd::Odd;
pub use poison::Poison;

use filler::Filler;
use rng::{Draws, below, below_u64};

/// Number of the first user: `user_1000`.
pub const FIRST_USER: u32 = 1000;

/// A record that comes too late is at least this much older than its neighbours, in milliseconds.
pub const TOO_LATE_MIN_MS: u64 = 3_600_000;

/// The lateness of too late records is spread over this many milliseconds above [`TOO_LATE_MIN_MS`].
const TOO_LATE_SPREAD_MS: u64 = 600_000;

/// The largest `record_bytes`.
pub const RECORD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// 9999-12-31T23:59:59.999Z in epoch milliseconds: the end of what an event time may be.
const YEAR_9999_END_MS: i64 = 253_402_300_799_999;

/// What to generate. Shares are fractions of all records, from 0 to 1, and exclude each other, so their sum
/// must not exceed 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Everything random is drawn from this.
    pub seed: u64,
    /// How many users: `user_1000` and up, each equally likely.
    pub users: u32,
    /// The word that makes a record a candidate.
    pub word: String,
    /// The word is in one of this many records, drawn at random. 0: in none.
    pub one_in: u32,
    /// Relative frequency of Low, Medium, High and Critical.
    pub severity_weights: [u32; 4],
    /// Event time of record 0, in epoch milliseconds.
    pub start_ms: i64,
    /// Records in a second of event time: record `i` happens at `start_ms + i * 1000 / event_rate`.
    pub event_rate: u64,
    /// Partitions of the topic.
    pub partitions: u32,
    /// Un-keyed records go to a partition in runs of this many, then to the next.
    pub run_records: u32,
    /// Whether records are keyed by their user (and partitioned as a Java producer would).
    pub keyed: bool,
    /// Records are shifted back in event time by up to this many milliseconds.
    pub disorder_ms: u64,
    /// Share of records shifted back by 1 to `late_by_max_ms` milliseconds.
    pub late_share: f64,
    /// The most that a late record is late, in milliseconds. Late records always count if this is at most
    /// the monitor's allowed lateness.
    pub late_by_max_ms: u64,
    /// Share of records that are an hour or more too late. Each matches, and has a user of its own
    /// (`late_<index>`), so that it makes no result whether it is counted or dropped.
    pub too_late_share: f64,
    /// Share of records that nobody may count: see [`Poison`].
    pub poison_share: f64,
    /// Share of records written in an unusual, but valid way: see [`Odd`].
    pub odd_share: f64,
    /// Size of a plain record's value in bytes, reached by filling up its content. A record whose fields and word
    /// alone need more is longer; odd records are longer, poison records are of any size.
    pub record_bytes: usize,
    /// Whether records are without `status` and `source_ip`, which no monitor looks at: they can be shorter then.
    pub lean: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            users: 1000,
            word: "crash".to_owned(),
            one_in: 200,
            severity_weights: [1; 4],
            start_ms: 1_768_142_560_000,
            event_rate: 100_000,
            partitions: 4,
            run_records: 10,
            keyed: false,
            disorder_ms: 0,
            late_share: 0.0,
            late_by_max_ms: 30_000,
            too_late_share: 0.0,
            poison_share: 0.0,
            odd_share: 0.0,
            record_bytes: 207,
            lean: false,
        }
    }
}

/// Options that make no sense, by the name of the offender.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A value that must not be zero.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// A share outside of 0 to 1.
    #[error("{0} must be between 0 and 1")]
    Share(&'static str),
    /// Shares exclude each other.
    #[error("late, too-late, poison and odd shares exclude each other: their sum must not exceed 1")]
    Shares,
    /// Every record contains the empty word.
    #[error("word must not be empty")]
    EmptyWord,
    /// Users are numbered in 32 bits.
    #[error("users must be at most {max}", max = u32::MAX - FIRST_USER)]
    TooManyUsers,
    /// Event times must be valid timestamps, those of late records too.
    #[error(
        "start-time must be between {min} and {YEAR_9999_END_MS} ms, so that late records have valid times"
    )]
    StartTime {
        /// The earliest that the other options allow, in epoch milliseconds.
        min: i64,
    },
    /// A record must fit into memory, and into a batch.
    #[error("record-bytes must be at most {RECORD_BYTES_MAX}")]
    RecordBytes,
}

/// How bad a record says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Does not count.
    Low,
    /// Does not count.
    Medium,
    /// Counts, by default.
    High,
    /// Counts, by default.
    Critical,
}

impl Severity {
    /// Every severity, in ascending order.
    pub const ALL: [Severity; 4] = [Severity::Low, Severity::Medium, Severity::High, Severity::Critical];

    /// As it is written in a record.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Low => "Low",
            Severity::Medium => "Medium",
            Severity::High => "High",
            Severity::Critical => "Critical",
        }
    }
}

/// Whether a record's content has the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WordIn {
    /// It has not.
    Absent,
    /// It has it exactly as the options spell it.
    Exact,
    /// It has it, but with other case.
    OtherCase,
}

/// What sort of record it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An ordinary record.
    Plain,
    /// An ordinary record in an unusual form.
    Odd(Odd),
    /// Late, and still counted.
    Late,
    /// Too late to be counted, of a user of its own.
    TooLate,
    /// Not countable.
    Poison(Poison),
}

/// What a generated record means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The record's index.
    pub index: u64,
    /// The partition that it belongs to.
    pub partition: u32,
    /// Its event time in epoch milliseconds; that of its healthy form, if it is poison.
    pub event_time_ms: i64,
    /// Its user as a number, `FIRST_USER` for `user_1000`. Means nothing if the record is too late or poison.
    pub user: u32,
    /// Its severity.
    pub severity: Severity,
    /// Whether its content has the word.
    pub word: WordIn,
    /// What sort of record it is.
    pub kind: Kind,
}

impl Meta {
    /// Whether the record has no value at all (a tombstone), rather than one of no bytes.
    pub fn is_null(&self) -> bool {
        self.kind == Kind::Poison(Poison::Null)
    }
}

/// The parts of a record's text.
struct Fields<'a> {
    timestamp_ms: i64,
    status: &'static str,
    severity: Severity,
    /// Octets 2 to 4 of an address in 10.0.0.0/8.
    address: [u8; 3],
    user: &'a [u8],
    /// Whether to write the word.
    word: bool,
    word_escaped: &'a str,
    words: &'a Words,
    filler: &'a Filler,
    /// Chooses the filler and where in it the word is.
    draw: u32,
    record_bytes: usize,
    lean: bool,
}

/// How the content writes the word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    EscapedWord,
    UpperCase,
}

/// The word as the content of a record has it: between spaces, escaped for JSON.
struct Words {
    plain: Vec<u8>,
    escaped: Vec<u8>,
    upper: Vec<u8>,
}

impl Words {
    fn new(word: &str) -> Self {
        let upper = json_escaped(&word.to_ascii_uppercase());
        let escaped: String = word.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        let spaced = |text: &str| format!(" {text} ").into_bytes();
        Self { plain: spaced(&json_escaped(word)), escaped: spaced(&escaped), upper: spaced(&upper) }
    }

    fn get(&self, form: Form) -> &[u8] {
        match form {
            Form::Plain => &self.plain,
            Form::EscapedWord => &self.escaped,
            Form::UpperCase => &self.upper,
        }
    }
}

/// `text` as it stands between the quotes of a JSON string.
fn json_escaped(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// Makes records.
pub struct Generator {
    options: Options,
    words: Words,
    word_escaped: String,
    /// Whether upper case is another spelling of the word.
    has_other_case: bool,
    filler: Filler,
    /// Cumulated shares of poison, too late, late and odd records, as fractions of 2^64.
    bounds: [u64; 4],
    /// Cumulated weights of the severities, as fractions of 2^32.
    severity_bounds: [u64; 3],
}

impl Generator {
    /// Checks the options and prepares what all records share.
    pub fn new(options: Options) -> Result<Self, Error> {
        validate(&options)?;
        let shares = [options.poison_share, options.too_late_share, options.late_share, options.odd_share];
        let mut sum = 0.0;
        // 2^64 as a float; the conversion saturates, so a sum of 1 covers all draws but one in 2^64.
        let bounds = shares.map(|share| {
            sum += share;
            (sum * 18_446_744_073_709_551_616.0) as u64
        });
        let total: u64 = options.severity_weights.iter().map(|&weight| u64::from(weight)).sum();
        let mut weight_sum = 0;
        let severity_bounds = [0, 1, 2].map(|index: usize| {
            weight_sum += u64::from(options.severity_weights[index]);
            (weight_sum << 32) / total
        });
        Ok(Self {
            words: Words::new(&options.word),
            word_escaped: json_escaped(&options.word),
            has_other_case: options.word.to_ascii_uppercase() != options.word,
            filler: Filler::new(&options.word, options.record_bytes),
            bounds,
            severity_bounds,
            options,
        })
    }

    /// The options that it was made from.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// When record `index` happens, before it is shifted by disorder or lateness; in epoch milliseconds.
    pub fn nominal_time_ms(&self, index: u64) -> i64 {
        let rate = self.options.event_rate;
        // One division of 64 bits where it is enough: this runs for every record.
        let elapsed_ms = match index.checked_mul(1000) {
            Some(thousandfold) => thousandfold / rate,
            None => (u128::from(index) * 1000 / u128::from(rate)) as u64,
        };
        self.options.start_ms.saturating_add(i64::try_from(elapsed_ms).unwrap_or(i64::MAX))
    }

    /// Replaces the content of `value` by the value of record `index` (empty for a tombstone, too: see
    /// [`Meta::is_null`]) and says what it means.
    #[inline]
    pub fn record(&self, index: u64, value: &mut Vec<u8>) -> Meta {
        value.clear();
        let options = &self.options;
        let mut draws = Draws::new(options.seed, index);
        let mut kind = self.kind(draws.next());
        let (word_draw, severity_draw) = draws.pair();
        let (user_draw, status_draw) = draws.pair();
        let (address_draw, filler_draw) = draws.pair();
        let mut has_word = options.one_in > 0 && below(word_draw, options.one_in) == 0;
        let mut severity = self.severity(severity_draw);
        if matches!(kind, Kind::TooLate | Kind::Poison(_)) {
            has_word = true;
            severity = Severity::High;
        }
        if let Kind::Odd(_) = kind {
            kind = Kind::Odd(Odd::ALL[below(draws.pair().0, Odd::ALL.len() as u32) as usize]);
        } else if let Kind::Poison(_) = kind {
            kind = Kind::Poison(Poison::ALL[below(draws.pair().0, Poison::ALL.len() as u32) as usize]);
        }
        let user = FIRST_USER + below(user_draw, options.users);
        let mut name = Name::default();
        let user_name = name.of(kind, index, user);
        let fields = Fields {
            timestamp_ms: self.nominal_time_ms(index) - self.shift_ms(kind, &mut draws),
            status: ["INFO", "WARN", "ERROR"][below(status_draw, 3) as usize],
            severity,
            address: [(address_draw >> 24) as u8, (address_draw >> 16) as u8, (address_draw >> 8) as u8],
            user: user_name,
            word: has_word,
            word_escaped: &self.word_escaped,
            words: &self.words,
            filler: &self.filler,
            draw: filler_draw,
            record_bytes: options.record_bytes,
            lean: options.lean,
        };
        match kind {
            Kind::Plain | Kind::Late | Kind::TooLate => write_fields(&fields, Form::Plain, value),
            Kind::Odd(odd) => odd::write(odd, &fields, value),
            Kind::Poison(poison) => poison::write(poison, &fields, value),
        }
        Meta {
            index,
            partition: self.partition(index, kind, user_name),
            event_time_ms: fields.timestamp_ms,
            user,
            severity,
            word: self.word_in(has_word, kind),
            kind,
        }
    }

    /// Replaces the content of `key` by the record's key; `false` if it has none.
    pub fn key(&self, meta: &Meta, key: &mut Vec<u8>) -> bool {
        key.clear();
        let keyed = self.options.keyed && !matches!(meta.kind, Kind::Poison(_));
        if keyed {
            key.extend_from_slice(Name::default().of(meta.kind, meta.index, meta.user));
        }
        keyed
    }

    #[inline]
    fn kind(&self, draw: u64) -> Kind {
        let [poison, too_late, late, odd] = self.bounds;
        if draw >= odd {
            Kind::Plain
        } else if draw < poison {
            Kind::Poison(Poison::NotJson)
        } else if draw < too_late {
            Kind::TooLate
        } else if draw < late {
            Kind::Late
        } else {
            Kind::Odd(Odd::Reordered)
        }
    }

    #[inline]
    fn severity(&self, draw: u32) -> Severity {
        let passed = self.severity_bounds.iter().filter(|&&bound| u64::from(draw) >= bound).count();
        Severity::ALL[passed]
    }

    /// By how many milliseconds the record is older than its index says.
    #[inline]
    fn shift_ms(&self, kind: Kind, draws: &mut Draws) -> i64 {
        let shift = match kind {
            Kind::TooLate => TOO_LATE_MIN_MS + below_u64(draws.next(), TOO_LATE_SPREAD_MS),
            Kind::Late => 1 + below_u64(draws.next(), self.options.late_by_max_ms),
            _ if self.options.disorder_ms == 0 => 0,
            _ => below_u64(draws.next(), self.options.disorder_ms + 1),
        };
        shift as i64
    }

    #[inline]
    fn partition(&self, index: u64, kind: Kind, user: &[u8]) -> u32 {
        let partitions = self.options.partitions;
        if self.options.keyed && !matches!(kind, Kind::Poison(_)) {
            (murmur2(user) & 0x7fff_ffff) % partitions
        } else {
            (index / u64::from(self.options.run_records) % u64::from(partitions)) as u32
        }
    }

    #[inline]
    fn word_in(&self, has_word: bool, kind: Kind) -> WordIn {
        match (has_word, kind) {
            (false, _) => WordIn::Absent,
            (true, Kind::Odd(Odd::UpperCase)) if self.has_other_case => WordIn::OtherCase,
            (true, _) => WordIn::Exact,
        }
    }
}

fn validate(options: &Options) -> Result<(), Error> {
    let positive = [
        ("users", u64::from(options.users)),
        ("event-rate", options.event_rate),
        ("partitions", u64::from(options.partitions)),
        ("run-records", u64::from(options.run_records)),
        (
            "the sum of severity weights",
            options.severity_weights.iter().map(|&weight| u64::from(weight)).sum(),
        ),
    ];
    if let Some((name, _)) = positive.into_iter().find(|&(_, value)| value == 0) {
        return Err(Error::Zero(name));
    }
    let shares = [
        ("late-share", options.late_share),
        ("too-late-share", options.too_late_share),
        ("poison-share", options.poison_share),
        ("odd-share", options.odd_share),
    ];
    if let Some((name, _)) = shares.into_iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
        return Err(Error::Share(name));
    }
    if shares.iter().map(|(_, share)| share).sum::<f64>() > 1.0 {
        return Err(Error::Shares);
    }
    if options.late_share > 0.0 && options.late_by_max_ms == 0 {
        return Err(Error::Zero("late-by-max"));
    }
    if options.word.is_empty() {
        return Err(Error::EmptyWord);
    }
    if options.users > u32::MAX - FIRST_USER {
        return Err(Error::TooManyUsers);
    }
    if options.record_bytes > RECORD_BYTES_MAX {
        return Err(Error::RecordBytes);
    }
    let min = earliest_start_ms(options);
    if !(min..=YEAR_9999_END_MS).contains(&options.start_ms) {
        return Err(Error::StartTime { min });
    }
    Ok(())
}

/// The earliest start at which every record's event time is at or after the epoch.
fn earliest_start_ms(options: &Options) -> i64 {
    let late = if options.late_share > 0.0 { options.late_by_max_ms } else { 0 };
    let too_late = if options.too_late_share > 0.0 { TOO_LATE_MIN_MS + TOO_LATE_SPREAD_MS } else { 0 };
    i64::try_from(options.disorder_ms.max(late).max(too_late)).unwrap_or(i64::MAX)
}

/// Writes a record's JSON text in the usual order of fields.
#[inline]
fn write_fields(fields: &Fields<'_>, form: Form, out: &mut Vec<u8>) {
    let start = out.len();
    let mut number = itoa::Buffer::new();
    out.reserve(fields.record_bytes + 16);
    out.extend_from_slice(b"{\"timestamp\":");
    out.extend_from_slice(number.format(fields.timestamp_ms).as_bytes());
    if !fields.lean {
        out.extend_from_slice(b",\"status\":\"");
        out.extend_from_slice(fields.status.as_bytes());
        out.push(b'"');
    }
    out.extend_from_slice(b",\"severity\":\"");
    out.extend_from_slice(fields.severity.name().as_bytes());
    if !fields.lean {
        out.extend_from_slice(b"\",\"source_ip\":\"10");
        for octet in fields.address {
            out.push(b'.');
            out.extend_from_slice(number.format(octet).as_bytes());
        }
    }
    out.extend_from_slice(b"\",\"user_id\":\"");
    out.extend_from_slice(fields.user);
    out.extend_from_slice(b"\",\"content\":\"");
    let word: &[u8] = if fields.word { fields.words.get(form) } else { b"" };
    let filler_bytes = fields.record_bytes.saturating_sub(out.len() - start + word.len() + 2);
    let filler = fields.filler.slice(fields.draw, filler_bytes);
    if fields.word {
        let (before, after) =
            filler.split_at(below(fields.draw.rotate_left(16), filler_bytes as u32 + 1) as usize);
        out.extend_from_slice(before);
        out.extend_from_slice(word);
        out.extend_from_slice(after);
    } else {
        out.extend_from_slice(filler);
    }
    out.extend_from_slice(b"\"}");
}

/// A user's name on the stack.
#[derive(Default)]
struct Name {
    bytes: [u8; 28],
}

impl Name {
    #[inline]
    fn of(&mut self, kind: Kind, index: u64, user: u32) -> &[u8] {
        match kind {
            Kind::TooLate => self.write(b"late_", index),
            Kind::Poison(_) => self.write(b"poison_", index),
            Kind::Plain | Kind::Odd(_) | Kind::Late => self.write(b"user_", u64::from(user)),
        }
    }

    /// The longest is `poison_` and 20 digits.
    #[inline]
    fn write(&mut self, prefix: &[u8], number: u64) -> &[u8] {
        let mut buffer = itoa::Buffer::new();
        let digits = buffer.format(number).as_bytes();
        let length = prefix.len() + digits.len();
        self.bytes[..prefix.len()].copy_from_slice(prefix);
        self.bytes[prefix.len()..length].copy_from_slice(digits);
        &self.bytes[..length]
    }
}

/// The hash by which Kafka's Java producer chooses a keyed record's partition.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let (blocks, tail) = data.as_chunks::<4>();
    for block in blocks {
        let k = u32::from_le_bytes(*block).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ (k ^ (k >> 24)).wrapping_mul(M);
    }
    if !tail.is_empty() {
        let mut last = [0; 4];
        last[..tail.len()].copy_from_slice(tail);
        hash = (hash ^ u32::from_le_bytes(last)).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests;
