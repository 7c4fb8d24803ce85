//! Where a batch is put together: parts are added, then all of them become one batch.

use std::sync::OnceLock;

use super::batch::{Batch, Kind, Part};
use super::budget::Reservation;
use super::encoding::{EncodedBatch, Encoding, Encodings, Sizes};
use crate::wire::format::{self, Format, digits};
use crate::wire::framing::Lines;
use crate::wire::ids::{ClientId, Seq};

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
            text: EncodedBatch::new(self.text, self.text_ends),
            raw: EncodedBatch::new(self.raw, self.raw_ends),
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
