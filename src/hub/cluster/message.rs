//! What the nodes write into the stream, and its bytes.
//!
//! A message is a byte for its version and kind, its crc32c from there on (4 bytes, little endian), and its numbers,
//! LEB128 unless they are said to be fixed (little endian):
//!
//! | kind | what follows |
//! |---|---|
//! | batch | node (8, fixed), checksum of the batch before (4, fixed), its number; the count of claims, and for each the name, the claim, 1 if it is given up; what a [record](crate::hub::history::meta) says; the claim of each session in it; the lines |
//! | checkpoint | stream (8, fixed), place, 1 if it begins an order, oldest number, [`State`] |
//! | gone | node, by whom (8 each, fixed) |
//!
//! A batch of one line has 26 bytes beside it, as long as its numbers are small.

use bytes::Bytes;

use super::batch::{Batch, Claim, Gone, NodeId};
use super::state::{Last, Session, State};
use crate::hub::history::meta::{Meta, put, put_meta, put_text};
use crate::hub::part::Kind;
use crate::wire::ids::{Epoch, Seq};

/// Version of the messages, in the upper half of their first byte.
const VERSION: u8 = 1;

/// Bytes before the numbers.
const HEAD_BYTES: usize = 5;

/// A message of the stream.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Batch(Batch),
    Checkpoint(Box<Checkpoint>),
    Gone(Gone),
}

/// What follows from the stream up to a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Which stream: when the server created it.
    pub(crate) stream: u64,
    /// The sequence of the last message that is in it.
    pub(crate) place: u64,
    /// A new order begins with it, if nothing was stored since `place`.
    pub(crate) begins: bool,
    /// The first number that the stream still had: sessions that ended before it are forgotten by all nodes when this
    /// message has its place.
    pub(crate) oldest: Seq,
    pub(crate) state: State,
}

/// Bytes that are no message that this daemon can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Of another version: what follows from it is not known, so nothing behind it is.
    Version(u8),
    /// No node wrote them: all nodes pass them over.
    Damaged,
}

impl Message {
    /// The bytes, and the checksum in them.
    pub(crate) fn encode(&self) -> (Bytes, u32) {
        let mut out = vec![0; HEAD_BYTES];
        let kind = match self {
            Message::Batch(batch) => {
                put_batch(batch, &mut out);
                0
            }
            Message::Checkpoint(checkpoint) => {
                put_checkpoint(checkpoint, &mut out);
                1
            }
            Message::Gone(gone) => {
                put_node(&mut out, gone.node);
                put_node(&mut out, gone.by);
                2
            }
        };
        out[0] = VERSION << 4 | kind;
        let crc = checksum(out[0], &out[HEAD_BYTES..]);
        out[1..HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
        (out.into(), crc)
    }

    /// The message of these bytes. Its lines share their memory.
    ///
    /// # Errors
    /// They are no message of this version.
    pub(crate) fn decode(body: &Bytes) -> Result<Message, Unreadable> {
        let Some((&[first, a, b, c, d], rest)) = body.split_first_chunk() else {
            return Err(Unreadable::Damaged);
        };
        let crc = u32::from_le_bytes([a, b, c, d]);
        if checksum(first, rest) != crc {
            return Err(Unreadable::Damaged);
        }
        if first >> 4 != VERSION {
            return Err(Unreadable::Version(first >> 4));
        }
        let mut meta = Meta(rest);
        let message = match first & 0xf {
            0 => batch(&mut meta, body, crc).map(Message::Batch),
            1 => checkpoint(&mut meta).map(|it| Message::Checkpoint(Box::new(it))),
            2 => gone(&mut meta).map(Message::Gone),
            _ => None,
        };
        message.ok_or(Unreadable::Damaged)
    }
}

fn checksum(first: u8, rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[first]), rest)
}

fn put_fixed(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn fixed(meta: &mut Meta<'_>) -> Option<u64> {
    let (bytes, rest) = meta.0.split_first_chunk()?;
    meta.0 = rest;
    Some(u64::from_le_bytes(*bytes))
}

fn put_node(out: &mut Vec<u8>, node: NodeId) {
    put_fixed(out, node.0);
}

fn node(meta: &mut Meta<'_>) -> Option<NodeId> {
    fixed(meta).map(NodeId)
}

fn put_last(out: &mut Vec<u8>, node: NodeId, last: Last) {
    put_node(out, node);
    put(out, last.number);
    put_crc(out, last.crc);
}

fn put_crc(out: &mut Vec<u8>, crc: u32) {
    out.extend_from_slice(&crc.to_le_bytes());
}

fn crc_of(meta: &mut Meta<'_>) -> Option<u32> {
    let (crc, rest) = meta.0.split_first_chunk()?;
    meta.0 = rest;
    Some(u32::from_le_bytes(*crc))
}

fn last(meta: &mut Meta<'_>) -> Option<(NodeId, Last)> {
    let (node, number, crc) = (node(meta)?, meta.u64()?, crc_of(meta)?);
    Some((node, Last { number, crc }))
}

fn flag(meta: &mut Meta<'_>) -> Option<bool> {
    match meta.byte()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn put_batch(batch: &Batch, out: &mut Vec<u8>) {
    put_node(out, batch.node);
    put_crc(out, batch.before);
    put(out, batch.number);
    put(out, batch.claims.len() as u64);
    for claim in &batch.claims {
        put_text(out, claim.name.as_str());
        put(out, claim.number);
        out.push(claim.is_given_up.into());
    }
    put_meta(&batch.record, out);
    for claim in &batch.claimed_by {
        put(out, *claim);
    }
    out.extend_from_slice(&batch.record.raw);
}

fn batch(meta: &mut Meta<'_>, body: &Bytes, crc: u32) -> Option<Batch> {
    let (node, before, number) = (node(meta)?, crc_of(meta)?, meta.u64()?);
    let mut claims = Vec::with_capacity(meta.count()?);
    for _ in 0..claims.capacity() {
        claims.push(Claim {
            name: meta.text()?.parse().ok()?,
            number: meta.u64()?,
            is_given_up: flag(meta)?,
        });
    }
    let mut record = meta.record()?;
    let claimed_by: Option<_> = record.sessions.iter().map(|_| meta.u64()).collect();
    record.raw = body.slice(body.len() - meta.0.len()..);
    let is_whole = record.ends.last().copied().unwrap_or(0) as usize == record.raw.len()
        && number > 0
        && record.parts.iter().all(|part| part.kind != Kind::Shutdown);
    is_whole.then_some(Batch {
        node,
        number,
        before,
        claims: claims.into(),
        record,
        claimed_by: claimed_by?,
        crc,
    })
}

fn put_checkpoint(checkpoint: &Checkpoint, out: &mut Vec<u8>) {
    put_fixed(out, checkpoint.stream);
    put(out, checkpoint.place);
    out.push(checkpoint.begins.into());
    put(out, checkpoint.oldest.0);
    let state = &checkpoint.state;
    put(out, state.epoch.0.into());
    put(out, state.next.0);
    put(out, state.messages);
    put(out, state.nodes.len() as u64);
    for (node, last) in &state.nodes {
        put_last(out, *node, *last);
    }
    put(out, state.gone.len() as u64);
    for (node, last) in &state.gone {
        put_last(out, *node, *last);
    }
    put(out, state.sessions.len() as u64);
    for (name, session) in &state.sessions {
        put_text(out, name.as_str());
        put(out, session.taken);
        put(out, session.last.0);
        out.push(session.owner.is_some().into());
        if let Some((node, claim)) = session.owner {
            put_node(out, node);
            put(out, claim);
        }
    }
}

fn checkpoint(meta: &mut Meta<'_>) -> Option<Checkpoint> {
    let (stream, place, begins) = (fixed(meta)?, meta.u64()?, flag(meta)?);
    let oldest = Seq(meta.u64()?);
    let (epoch, next, messages) = (Epoch(meta.u32()?), Seq(meta.u64()?), meta.u64()?);
    let mut state = State::new(epoch);
    (state.next, state.messages) = (next, messages);
    for _ in 0..meta.count()? {
        let (node, last) = last(meta)?;
        state.nodes.insert(node, last);
    }
    for _ in 0..meta.count()? {
        state.gone.push_back(last(meta)?);
    }
    for _ in 0..meta.count()? {
        let name = meta.text()?.parse().ok()?;
        let (taken, last) = (meta.u64()?, Seq(meta.u64()?));
        let owner = match flag(meta)? {
            true => Some((node(meta)?, meta.u64()?)),
            false => None,
        };
        let session = Session { taken, last, owner };
        state.sessions.insert(name, session);
    }
    let checkpoint = Checkpoint {
        stream,
        place,
        begins,
        oldest,
        state,
    };
    meta.0.is_empty().then_some(checkpoint)
}

fn gone(meta: &mut Meta<'_>) -> Option<Gone> {
    let (node, by) = (node(meta)?, node(meta)?);
    meta.0.is_empty().then_some(Gone { node, by })
}

#[cfg(test)]
mod tests;
