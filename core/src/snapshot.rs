//! The bytes of a shard's state in the checkpoint store.
//!
//! Responsible for writing a [`Partition`] and reading it back equal. Must never give a state that was not written: a
//! damaged, foreign or newer snapshot is an error, and recovery then does without.
//!
//! ```text
//! snapshot = 'C' 'M' 'S' version monitor log_topic shard position state crc32c[4]
//! ```

use std::collections::BTreeMap;

use crate::aggregate::{Anchor, Fences, Params, Partition, Source, Window};
use crate::codec::{self, Error, Reader, put_bytes, put_i64, put_u64};
use crate::ids::{Epoch, InputOffset, LogOffset, Shard, SourceId, TopicId};
use crate::time::Timestamp;

const MAGIC: [u8; 3] = *b"CMS";
/// The format version that this program writes, and the newest that it reads.
pub const VERSION: u8 = 1;

/// Whose state a snapshot is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The uid of the monitor: one that was deleted and made again has another.
    pub monitor: String,
    /// The repartition topic's identity.
    pub log_topic: TopicId,
    /// The shard.
    pub shard: Shard,
}

/// A snapshot, decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Whose it is.
    pub identity: Identity,
    /// The state after all messages below its position.
    pub state: Partition,
}

/// The bytes to store for `state`.
pub fn encode(identity: &Identity, state: &Partition) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + state.open_pairs() * 16);
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    put_bytes(&mut out, identity.monitor.as_bytes());
    out.extend_from_slice(&identity.log_topic.0);
    put_u64(&mut out, u64::from(identity.shard.0));
    put_u64(&mut out, state.position.0);
    put_i64(&mut out, state.params.window_ms);
    put_instant(&mut out, state.watermark);
    put_instant(&mut out, state.closed_through);
    put_instant(&mut out, state.anchor.map(|anchor| anchor.wall));
    put_instant(&mut out, state.anchor.map(|anchor| anchor.watermark));
    put_u64(&mut out, u64::from(state.source_count));
    put_sources(&mut out, &state.sources);
    put_fences(&mut out, &state.fences);
    put_windows(&mut out, &state.windows);
    codec::seal(&mut out);
    out
}

/// Reads what [`encode`] wrote; `params` are the monitor's present ones.
///
/// # Errors
/// Any [`codec::Error`]; [`Error::Invalid`] too when the window size is not that of `params`.
pub fn decode(bytes: &[u8], params: Params) -> Result<Snapshot, Error> {
    let mut reader = codec::open(bytes, MAGIC, VERSION)?;
    let monitor = reader.text()?.to_owned();
    let identity = Identity { monitor, log_topic: TopicId(reader.array()?), shard: Shard(reader.u32()?) };
    let mut state = Partition::new(params, LogOffset(reader.u64()?));
    if reader.i64()? != params.window_ms {
        return Err(Error::Invalid);
    }
    state.watermark = instant(&mut reader)?;
    state.closed_through = instant(&mut reader)?;
    state.anchor = match (instant(&mut reader)?, instant(&mut reader)?) {
        (Some(wall), Some(watermark)) => Some(Anchor { wall, watermark }),
        (None, None) => None,
        _ => return Err(Error::Invalid),
    };
    state.source_count = reader.u32()?;
    state.sources = sources(&mut reader)?;
    state.fences = fences(&mut reader)?;
    state.windows = windows(&mut reader)?;
    if reader.is_empty() { Ok(Snapshot { identity, state }) } else { Err(Error::Invalid) }
}

fn put_instant(out: &mut Vec<u8>, instant: Option<Timestamp>) {
    out.push(u8::from(instant.is_some()));
    if let Some(instant) = instant {
        put_i64(out, instant.as_millis());
    }
}

fn instant(reader: &mut Reader<'_>) -> Result<Option<Timestamp>, Error> {
    match reader.byte()? {
        0 => Ok(None),
        1 => Ok(Some(Timestamp::from_millis(reader.i64()?))),
        _ => Err(Error::Invalid),
    }
}

fn put_sources(out: &mut Vec<u8>, sources: &BTreeMap<SourceId, Source>) {
    put_u64(out, sources.len() as u64);
    for (id, source) in sources {
        put_u64(out, u64::from(id.0));
        put_u64(out, source.epoch.0);
        out.extend_from_slice(&source.topic.0);
        put_u64(out, u64::from(source.announced));
        put_u64(out, source.next.0);
        put_instant(out, source.mark);
        put_instant(out, source.idle_until);
        for at in [source.last_at, source.next_at, source.mark_at] {
            put_u64(out, at.0);
        }
    }
}

fn sources(reader: &mut Reader<'_>) -> Result<BTreeMap<SourceId, Source>, Error> {
    let count = reader.u64()?;
    let mut sources = BTreeMap::new();
    for _ in 0..count {
        let id = SourceId(reader.u32()?);
        let source = Source {
            epoch: Epoch(reader.u64()?),
            topic: TopicId(reader.array()?),
            announced: reader.u32()?,
            next: InputOffset(reader.u64()?),
            mark: instant(reader)?,
            idle_until: instant(reader)?,
            last_at: LogOffset(reader.u64()?),
            next_at: LogOffset(reader.u64()?),
            mark_at: LogOffset(reader.u64()?),
        };
        sources.insert(id, source);
    }
    Ok(sources)
}

fn put_fences(out: &mut Vec<u8>, fences: &Fences) {
    put_u64(out, fences.iter().count() as u64);
    for (source, said, forbidden) in fences.iter() {
        put_u64(out, u64::from(source.0));
        put_u64(out, said.0);
        put_u64(out, forbidden.0);
    }
}

fn fences(reader: &mut Reader<'_>) -> Result<Fences, Error> {
    let mut fences = Fences::default();
    for _ in 0..reader.u64()? {
        fences.forbid(SourceId(reader.u32()?), LogOffset(reader.u64()?), LogOffset(reader.u64()?));
    }
    Ok(fences)
}

fn put_windows(out: &mut Vec<u8>, windows: &BTreeMap<i64, Window>) {
    put_u64(out, windows.len() as u64);
    for (&start, window) in windows {
        put_i64(out, start);
        put_u64(out, window.first_at.0);
        put_u64(out, window.users.len() as u64);
        // Unsorted: the map that it is read into has no order either.
        for (user, &count) in &window.users {
            put_bytes(out, user.as_bytes());
            put_u64(out, count);
        }
    }
}

fn windows(reader: &mut Reader<'_>) -> Result<BTreeMap<i64, Window>, Error> {
    let mut windows = BTreeMap::new();
    for _ in 0..reader.u64()? {
        let start = reader.i64()?;
        let mut window = Window::new(LogOffset(reader.u64()?));
        for _ in 0..reader.u64()? {
            let user = reader.text()?;
            window.insert(user, reader.u64()?);
        }
        windows.insert(start, window);
    }
    Ok(windows)
}
