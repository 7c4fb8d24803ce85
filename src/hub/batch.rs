//! What travels: a batch of lines and notices, formatted once for each encoding in use and shared
//! by every client, and the chain of batches that each feed walks at its own pace.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::budget::Reservation;
use crate::wire::format::{self, Format, Notice, digits};
use crate::wire::framing::Lines;
use crate::wire::ids::{ClientId, Seq};

/// How a client's bytes look: its listener's format, and in `text` which line end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub(crate) enum Encoding {
    Text,
    /// `text` for a client that itself ends its lines in CRLF.
    TextCrlf,
    Json,
    Raw,
}

impl Encoding {
    pub(super) const ALL: [Encoding; 4] = [
        Encoding::Text,
        Encoding::TextCrlf,
        Encoding::Json,
        Encoding::Raw,
    ];
}

impl From<Format> for Encoding {
    fn from(format: Format) -> Encoding {
        match format {
            Format::Text => Encoding::Text,
            Format::Json => Encoding::Json,
            Format::Raw => Encoding::Raw,
        }
    }
}

/// A set of encodings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Encodings(pub(super) u8);

impl Encodings {
    pub(super) fn with(self, encoding: Encoding) -> Encodings {
        Encodings(self.0 | 1 << encoding as u8)
    }

    pub(super) fn exclude(self, encoding: Encoding) -> Encodings {
        Encodings(self.0 & !(1 << encoding as u8))
    }

    pub(super) fn contains(self, encoding: Encoding) -> bool {
        self.0 & 1 << encoding as u8 != 0
    }

    /// What a byte that is read may become at worst, which is an LF: a prefix for each encoding, with
    /// numbers of eight digits for a client and of fourteen for `seq`.
    pub(super) fn expansion(self) -> usize {
        let text = if self.needs_text() { 32 } else { 0 };
        let crlf = if self.contains(Encoding::TextCrlf) {
            33
        } else {
            0
        };
        let raw = usize::from(self.needs_raw());
        let json = if self.contains(Encoding::Json) { 76 } else { 0 };
        text + crlf + raw + json
    }

    /// Whether batches have to carry text: CRLF text is made from it.
    pub(super) fn needs_text(self) -> bool {
        self.contains(Encoding::Text) || self.contains(Encoding::TextCrlf)
    }

    /// Whether batches have to carry the lines as they came: `json` is made from them.
    pub(super) fn needs_raw(self) -> bool {
        self.contains(Encoding::Raw) || self.contains(Encoding::Json)
    }
}

/// Bytes in each encoding, none in those that are not in use; `json` at most so many, as its numbers
/// are counted at their longest until it is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sizes([u64; 4]);

impl Sizes {
    pub(super) fn of(self, encoding: Encoding) -> u64 {
        self.0[encoding as usize]
    }

    fn add(&mut self, encoding: Encoding, bytes: usize) {
        self.0[encoding as usize] += bytes as u64;
    }

    /// What both have together.
    pub(super) fn plus(self, other: Sizes) -> Sizes {
        Sizes(std::array::from_fn(|at| {
            self.0[at].saturating_add(other.0[at])
        }))
    }
}

/// What a part of a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// Lines that the origin sent.
    Lines,
    /// The origin came or went.
    Notice(Notice),
    /// The daemon stops; from nobody.
    Shutdown,
}

/// The origin of what the daemon itself says: no client has this number.
pub(super) const SYSTEM: ClientId = ClientId(0);

/// One part of a batch: what one read of one client completed, or one notice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) kind: Kind,
    /// Messages in it; none in a notice.
    pub(super) messages: u32,
}

/// A batch's bytes in one encoding, and where each part of it ends.
#[derive(Debug, Default)]
pub(super) struct EncodedBatch {
    pub(super) bytes: Box<[u8]>,
    pub(super) ends: Box<[u32]>,
}

impl EncodedBatch {
    fn copied(bytes: &[u8], ends: &[u32]) -> EncodedBatch {
        EncodedBatch {
            bytes: bytes.into(),
            ends: ends.into(),
        }
    }

    /// Where a part begins, or, if it is one too many, the end.
    pub(super) fn start_of(&self, part: usize) -> usize {
        part.checked_sub(1)
            .map_or(0, |before| self.ends[before] as usize)
    }

    /// The bytes of one part.
    fn part(&self, part: usize) -> &[u8] {
        &self.bytes[self.start_of(part)..self.ends[part] as usize]
    }
}

/// Consecutive messages and notices of the one order.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) first_seq: Seq,
    /// Who each part is from; an array of its own so that looking for one client's is a short scan.
    pub(super) origins: Box<[ClientId]>,
    pub(super) parts: Box<[Part]>,
    /// Messages in all parts.
    pub(super) messages: u64,
    /// The encodings this batch was charged for.
    pub(super) encodings: Encodings,
    pub(super) sizes: Sizes,
    pub(super) text: EncodedBatch,
    pub(super) raw: EncodedBatch,
    pub(super) crlf: OnceLock<EncodedBatch>,
    pub(super) json: OnceLock<EncodedBatch>,
    /// The bytes leave the buffer with the batch.
    pub(super) reservation: Option<Reservation>,
}

impl Batch {
    /// The bytes in `encoding`, made by the first feed that asks and shared by the rest, who wait
    /// for it meanwhile (at most one read's lines to format).
    ///
    /// A batch from before a client switched to CRLF was not charged for that: it stays as it is.
    pub(super) fn view(&self, encoding: Encoding) -> &EncodedBatch {
        match encoding {
            Encoding::TextCrlf if self.encodings.contains(Encoding::TextCrlf) => {
                self.crlf.get_or_init(|| self.make_crlf())
            }
            Encoding::Text | Encoding::TextCrlf => &self.text,
            Encoding::Json => self.json.get_or_init(|| self.make_json()),
            Encoding::Raw => &self.raw,
        }
    }

    fn make_crlf(&self) -> EncodedBatch {
        let lines: usize = self.parts.iter().map(|part| part.lines()).sum();
        let mut bytes = Vec::with_capacity(self.text.bytes.len() + lines);
        let ends = self.parts.iter().enumerate().map(|(at, _)| {
            format::crlf(self.text.part(at), &mut bytes);
            bytes.len() as u32
        });
        let ends = ends.collect();
        EncodedBatch {
            bytes: bytes.into_boxed_slice(),
            ends,
        }
    }

    fn make_json(&self) -> EncodedBatch {
        let mut bytes = Vec::new();
        let mut seq = self.first_seq;
        let mut ends = Vec::with_capacity(self.parts.len());
        for (at, (part, origin)) in self.parts.iter().zip(&self.origins).enumerate() {
            match part.kind {
                Kind::Lines => {
                    let run = self.raw.part(at);
                    bytes.reserve(format::json_lines_len(*origin, digits(seq.0), run));
                    seq = format::json_lines(*origin, seq, run, &mut bytes);
                }
                Kind::Notice(notice) => {
                    format::json_notice(notice, *origin, seq, &mut bytes);
                    seq = Seq(seq.0 + 1);
                }
                Kind::Shutdown => format::shutdown(Format::Json, &mut bytes),
            }
            ends.push(bytes.len() as u32);
        }
        EncodedBatch {
            bytes: bytes.into_boxed_slice(),
            ends: ends.into(),
        }
    }

    /// The stretches of `view` from `from` on that are not from `without`, in order.
    pub(super) fn spans<'a>(
        &'a self,
        view: &'a EncodedBatch,
        exclude: Option<ClientId>,
        from: usize,
    ) -> Spans<'a> {
        Spans {
            batch: self,
            view,
            exclude,
            part: 0,
            at: from,
        }
    }

    /// Messages that a client gets of this batch.
    pub(super) fn messages_for(&self, exclude: Option<ClientId>) -> u64 {
        self.messages - exclude.map_or(0, |client| self.messages_of(client))
    }

    fn messages_of(&self, client: ClientId) -> u64 {
        let own = self
            .origins
            .iter()
            .zip(&self.parts)
            .filter(|(origin, _)| **origin == client);
        own.map(|(_, part)| u64::from(part.messages)).sum()
    }

    /// Messages that a client has still to get of this batch when its next byte is `from`.
    pub(super) fn messages_after(
        &self,
        view: &EncodedBatch,
        exclude: Option<ClientId>,
        from: usize,
    ) -> u64 {
        let mut messages = 0;
        for (at, (part, origin)) in self.parts.iter().zip(&self.origins).enumerate() {
            if part.messages == 0 || exclude == Some(*origin) || view.ends[at] as usize <= from {
                continue;
            }
            let start = view.start_of(at);
            messages += if start >= from {
                u64::from(part.messages)
            } else {
                memchr::memchr_iter(b'\n', &view.bytes[from..view.ends[at] as usize]).count() as u64
            };
        }
        messages
    }
}

impl Part {
    /// Places that it takes in the one order.
    fn numbers(self) -> u64 {
        match self.kind {
            Kind::Lines => u64::from(self.messages),
            Kind::Notice(_) => 1,
            Kind::Shutdown => 0,
        }
    }

    /// Lines it has in `text`.
    fn lines(&self) -> usize {
        match self.kind {
            Kind::Lines => self.messages as usize,
            Kind::Notice(_) | Kind::Shutdown => 1,
        }
    }
}

/// See [`Batch::spans`].
pub(super) struct Spans<'a> {
    batch: &'a Batch,
    view: &'a EncodedBatch,
    exclude: Option<ClientId>,
    part: usize,
    at: usize,
}

impl Iterator for Spans<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        loop {
            let own = self.exclude.and_then(|client| {
                let ahead = &self.batch.origins[self.part..];
                ahead
                    .iter()
                    .position(|origin| *origin == client)
                    .map(|at| self.part + at)
            });
            let start = self.at;
            let end = match own {
                Some(own) => {
                    self.part = own + 1;
                    self.at = start.max(self.view.ends[own] as usize);
                    self.view.start_of(own)
                }
                None => {
                    self.part = self.batch.origins.len();
                    self.at = self.view.bytes.len();
                    self.view.bytes.len()
                }
            };
            if start < end {
                return Some(start..end);
            }
            // Its own part was skipped; without one, this was the last stretch.
            own?;
        }
    }
}

/// A place in the stream: everything before it is behind, `next` is what comes.
///
/// A feed holds the node it has come to, which keeps everything after it alive; a batch is freed,
/// and its bytes released, when the last feed has moved past it. The last node is empty, so a
/// client that has everything holds nothing.
#[derive(Debug)]
pub(super) struct Node {
    /// Batches before this place.
    pub(super) index: u64,
    /// Their bytes, own lines included.
    pub(super) sizes_before: Sizes,
    /// What they cost the buffer, in bytes: rises with every batch.
    pub(super) cost_before: u64,
    pub(super) next: OnceLock<Link>,
}

/// What comes after a place: a batch, and the place behind it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) batch: Batch,
    pub(super) node: Arc<Node>,
}

impl Node {
    /// The place before the first batch of a stream, which has this index.
    pub(super) fn first(index: u64) -> Arc<Node> {
        Arc::new(Node {
            index,
            sizes_before: Sizes::default(),
            cost_before: 0,
            next: OnceLock::new(),
        })
    }

    /// The place behind this batch, which comes next here.
    pub(super) fn after(&self, batch: &Batch) -> Arc<Node> {
        let cost = batch.reservation.as_ref().map_or(0, Reservation::bytes);
        Arc::new(Node {
            index: self.index + 1,
            sizes_before: self.sizes_before.plus(batch.sizes),
            cost_before: self.cost_before + (cost as u64).max(1),
            next: OnceLock::new(),
        })
    }
}

impl Drop for Node {
    /// Frees the chain behind it one by one: left to itself it would recurse once a batch.
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some(Link { batch, node }) = next {
            drop(batch);
            next = Arc::into_inner(node).and_then(|mut node| node.next.take());
        }
    }
}

/// What a batch costs beside its bytes, and what each part of it does: charged like bytes, so that
/// a million tiny lines cannot outgrow the buffer through their bookkeeping.
const BATCH_BYTES: usize = 512;
const PART_BYTES: usize = 32;

/// A batch that is being put together.
///
/// The hub has one that small reads and notices are added to until the first feed comes for it:
/// what many senders publish meanwhile travels as one batch. A large read fills one of its own.
#[derive(Debug, Default)]
pub(super) struct BatchBuilder {
    first_seq: Option<Seq>,
    origins: Vec<ClientId>,
    parts: Vec<Part>,
    messages: u64,
    /// Sequence numbers of its parts.
    numbers: u64,
    text: Vec<u8>,
    text_ends: Vec<u32>,
    raw: Vec<u8>,
    raw_ends: Vec<u32>,
    /// What it costs in all encodings, in bytes.
    cost: usize,
    sizes: Sizes,
    reservation: Option<Reservation>,
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
        origin: ClientId,
        first_seq: Seq,
        lines: &Lines<'_>,
        messages: usize,
    ) -> usize {
        let runs = lines.runs();
        if encodings.needs_text() {
            let text = runs[0].len() + format::text_lines_len(origin, runs[1], messages);
            if self.text.is_empty() {
                // Exact unless something has to be escaped: a large read is not copied again.
                self.text.reserve_exact(text);
            } else {
                self.text.reserve(text);
            }
            runs.iter()
                .for_each(|run| format::text_lines(origin, run, &mut self.text));
        }
        if encodings.needs_raw() {
            runs.iter().for_each(|run| self.raw.extend_from_slice(run));
        }
        let json = if encodings.contains(Encoding::Json) {
            let digits = digits(first_seq.0 + messages as u64);
            runs.iter()
                .map(|run| format::json_lines_len(origin, digits, run))
                .sum()
        } else {
            0
        };
        let part = Part {
            kind: Kind::Lines,
            messages: messages as u32,
        };
        self.add_part(encodings, origin, first_seq, part, json)
    }

    /// Adds a notice; returns what it costs, to be charged.
    pub(super) fn add_notice(
        &mut self,
        encodings: Encodings,
        origin: ClientId,
        seq: Seq,
        kind: Kind,
    ) -> usize {
        if encodings.needs_text() {
            match kind {
                Kind::Notice(notice) => format::text_notice(notice, origin, &mut self.text),
                Kind::Shutdown => format::shutdown(Format::Text, &mut self.text),
                Kind::Lines => {}
            }
        }
        let json = match kind {
            Kind::Notice(notice) if encodings.contains(Encoding::Json) => {
                format::json_notice_len(notice, origin, digits(seq.0))
            }
            _ => 0,
        };
        self.add_part(encodings, origin, seq, Part { kind, messages: 0 }, json)
    }

    fn add_part(
        &mut self,
        encodings: Encodings,
        origin: ClientId,
        first_seq: Seq,
        part: Part,
        json: usize,
    ) -> usize {
        let text = self.text.len() - self.text_ends.last().map_or(0, |end| *end as usize);
        let raw = self.raw.len() - self.raw_ends.last().map_or(0, |end| *end as usize);
        let crlf = if encodings.contains(Encoding::TextCrlf) {
            text + part.lines()
        } else {
            0
        };
        let batch = if self.parts.is_empty() {
            BATCH_BYTES
        } else {
            0
        };
        self.sizes.add(Encoding::Text, text);
        self.sizes.add(Encoding::TextCrlf, crlf);
        self.sizes.add(Encoding::Json, json);
        self.sizes.add(Encoding::Raw, raw);
        let cost = batch + PART_BYTES + text + raw + crlf + json;
        let begun = self.first_seq.get_or_insert(first_seq);
        debug_assert_eq!(begun.0 + self.numbers, first_seq.0, "a batch has no gaps");
        self.numbers += part.numbers();
        self.origins.push(origin);
        self.parts.push(part);
        self.messages += u64::from(part.messages);
        self.text_ends.push(self.text.len() as u32);
        self.raw_ends.push(self.raw.len() as u32);
        self.cost += cost;
        cost
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
            origins: self.origins.as_slice().into(),
            parts: self.parts.as_slice().into(),
            messages: self.messages,
            encodings,
            sizes: self.sizes,
            text: EncodedBatch::copied(&self.text, &self.text_ends),
            raw: EncodedBatch::copied(&self.raw, &self.raw_ends),
            crlf: OnceLock::new(),
            json: OnceLock::new(),
            reservation: self.reservation.take(),
        };
        self.clear();
        Some(batch)
    }

    /// Turns it into a batch that begins at `first_seq`, without copying.
    pub(super) fn into_batch(self, encodings: Encodings, first_seq: Seq) -> Batch {
        Batch {
            first_seq,
            origins: self.origins.into(),
            parts: self.parts.into(),
            messages: self.messages,
            encodings,
            sizes: self.sizes,
            text: EncodedBatch {
                bytes: self.text.into(),
                ends: self.text_ends.into(),
            },
            raw: EncodedBatch {
                bytes: self.raw.into(),
                ends: self.raw_ends.into(),
            },
            crlf: OnceLock::new(),
            json: OnceLock::new(),
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
        self.parts.clear();
        self.text.clear();
        self.text_ends.clear();
        self.raw.clear();
        self.raw_ends.clear();
    }
}
