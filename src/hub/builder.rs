//! Where a batch is put together: parts are added, then all of them become one batch.

use std::mem;

use super::batch::Batch;
use super::budget::Reservation;
use super::chain::Node;
use super::encoding::Encoding;
use super::encodings::{Encodings, PerEncoding, Sizes};
use super::part::{Kind, Part};
use super::views::{EncodedBatch, Views};
use crate::wire::client_name::{ClientName, Origin};
use crate::wire::framing::Lines;
use crate::wire::ids::{ClientId, Epoch, Seq};
use crate::wire::session::SessionKey;

/// What a batch costs beside its bytes, and what each part of it does: charged like bytes, so that
/// a million tiny lines cannot outgrow the buffer through their bookkeeping.
const BATCH_BYTES: usize = 512;
const PART_BYTES: usize = 32;
/// What a part costs more whose origin has a name.
const NAME_BYTES: usize = size_of::<(u32, ClientName)>();

// With the counts of the `Arc` around it.
const _: () = assert!(size_of::<Node>() + 2 * size_of::<usize>() <= BATCH_BYTES);

/// A batch that is being put together.
///
/// The hub has one that small reads and notices are added to until the first feed comes for it:
/// what many senders publish meanwhile travels as one batch. A large read fills one of its own.
#[derive(Debug, Default)]
pub(super) struct BatchBuilder {
    first_seq: Option<Seq>,
    origins: Vec<ClientId>,
    names: Vec<(u32, ClientName)>,
    parts: Vec<Part>,
    sessions: Vec<(u32, SessionKey, u64)>,
    messages: u64,
    /// Sequence numbers of its parts.
    numbers: u64,
    /// Empty but for encodings that are sources.
    sources: PerEncoding<Source>,
    /// What it costs in all encodings, in bytes.
    cost: usize,
    sizes: Sizes,
    reservation: Option<Reservation>,
}

/// The parts in one source.
#[derive(Debug, Default)]
struct Source {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Source {
    /// The bytes behind the last part that has ended.
    fn last_part(&self) -> &[u8] {
        let start = self.ends.last().map_or(0, |end| *end as usize);
        &self.bytes[start..]
    }
}

impl BatchBuilder {
    /// What it will cost in all encodings, in bytes.
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    /// Its parts so far, if all of them are notices.
    pub(super) fn notices_only(&self) -> Option<u32> {
        (self.messages == 0).then_some(self.parts.len() as u32)
    }

    /// Adds lines; returns what they cost at most, to be charged.
    pub(super) fn add_lines(
        &mut self,
        encodings: Encodings,
        origin: Origin<'_>,
        first_seq: Seq,
        lines: &Lines<'_>,
        messages: usize,
    ) -> usize {
        for encoding in sources(encodings) {
            let bytes = &mut self.sources[encoding].bytes;
            encoding.write_source_lines(origin.client, lines, messages, bytes);
        }
        let part = Part {
            kind: Kind::Lines,
            messages: messages as u32,
        };
        self.add_part(encodings, origin, first_seq, part)
    }

    /// Adds a notice; returns what it costs, to be charged.
    pub(super) fn add_notice(
        &mut self,
        encodings: Encodings,
        origin: Origin<'_>,
        seq: Seq,
        kind: Kind,
    ) -> usize {
        for encoding in sources(encodings) {
            let bytes = &mut self.sources[encoding].bytes;
            encoding.write_source_notice(origin.client, kind, bytes);
        }
        self.add_part(encodings, origin, seq, Part { kind, messages: 0 })
    }

    fn add_part(
        &mut self,
        encodings: Encodings,
        origin: Origin<'_>,
        first_seq: Seq,
        part: Part,
    ) -> usize {
        let mut cost = PART_BYTES;
        if self.parts.is_empty() {
            cost += BATCH_BYTES + Views::bytes_of_others(encodings);
        }
        for encoding in Encoding::ALL {
            if encodings.contains(encoding) || encodings.needs(encoding) {
                let source = self.sources[encoding.source()].last_part();
                let len = encoding.part_len(part, origin, first_seq, source);
                self.sizes.add(encoding, len);
                cost += len;
            }
        }
        let begun = self.first_seq.get_or_insert(first_seq);
        debug_assert_eq!(begun.0 + self.numbers, first_seq.0, "a batch has no gaps");
        self.numbers += part.numbers();
        if let Some(name) = origin.name {
            cost += NAME_BYTES;
            self.names.push((self.parts.len() as u32, name.clone()));
        }
        self.origins.push(origin.client);
        self.parts.push(part);
        self.messages += u64::from(part.messages);
        for source in Encoding::ALL.into_iter().filter(|one| one.is_source()) {
            let Source { bytes, ends } = &mut self.sources[source];
            ends.push(bytes.len() as u32);
        }
        self.cost += cost;
        cost
    }

    /// Says which session the part is of that was added last, and how many lines that has taken with it.
    pub(super) fn note_session(&mut self, session: Option<(SessionKey, u64)>) {
        if let (Some((name, taken)), Some(part)) = (session, self.parts.len().checked_sub(1)) {
            self.sessions.push((part as u32, name, taken));
        }
    }

    /// Whether a part of this session was added.
    pub(super) fn has_session(&self, name: &SessionKey) -> bool {
        self.sessions.iter().any(|(_, of, _)| of == name)
    }

    /// Hands over the charge for what was added.
    pub(super) fn attach(&mut self, reservation: Reservation) {
        match &mut self.reservation {
            Some(held) => held.merge(reservation),
            none => *none = Some(reservation),
        }
    }

    /// Takes what was added as a batch of exactly its size; the builder's own memory stays for the
    /// next one. `None` when nothing was added.
    pub(super) fn take(&mut self, encodings: Encodings) -> Option<Batch> {
        let batch = Batch {
            first_seq: self.first_seq?,
            epoch: Epoch::default(),
            origins: self.origins.as_slice().into(),
            names: self.names.as_slice().into(),
            parts: self.parts.as_slice().into(),
            sessions: self.sessions.as_slice().into(),
            messages: self.messages,
            is_foreign: false,
            encodings,
            sizes: self.sizes,
            views: Views::of_sources(|encoding| {
                let Source { bytes, ends } = &self.sources[encoding];
                EncodedBatch::copied(bytes, ends)
            }),
            reservation: self.reservation.take(),
        };
        self.clear();
        Some(batch)
    }

    /// Turns it into a batch that begins at `first_seq`, without copying.
    pub(super) fn into_batch(mut self, encodings: Encodings, first_seq: Seq) -> Batch {
        Batch {
            first_seq,
            epoch: Epoch::default(),
            origins: self.origins.into(),
            names: self.names.into(),
            parts: self.parts.into(),
            sessions: self.sessions.into(),
            messages: self.messages,
            is_foreign: false,
            encodings,
            sizes: self.sizes,
            views: Views::of_sources(|encoding| {
                let Source { bytes, ends } = mem::take(&mut self.sources[encoding]);
                EncodedBatch::new(bytes, ends)
            }),
            reservation: self.reservation,
        }
    }

    /// Forgets what was added, and releases what it cost.
    pub(super) fn clear(&mut self) {
        self.first_seq = None;
        self.reservation = None;
        self.messages = 0;
        self.numbers = 0;
        self.cost = 0;
        self.sizes = Sizes::default();
        self.origins.clear();
        self.names.clear();
        self.parts.clear();
        self.sessions.clear();
        for source in Encoding::ALL {
            self.sources[source].bytes.clear();
            self.sources[source].ends.clear();
        }
    }
}

/// The sources that a batch in these encodings carries.
fn sources(encodings: Encodings) -> impl Iterator<Item = Encoding> {
    let all = Encoding::ALL.into_iter();
    all.filter(move |one| one.is_source() && encodings.needs(*one))
}
