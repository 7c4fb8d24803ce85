//! What travels: a batch of lines and notices, formatted once for each encoding in use and shared
//! by every client.

use std::ops::Range;

use super::budget::Reservation;
use super::encoding::Encoding;
use super::encodings::{Encodings, Sizes};
use super::part::{Kind, Part};
use super::views::{EncodedBatch, Views};
use crate::wire::client_name::{ClientName, Origin};
use crate::wire::ids::{ClientId, Epoch, Seq};
use crate::wire::session::SessionKey;

/// Consecutive messages and notices of the one order.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) first_seq: Seq,
    /// The order that `first_seq` is of, once it is in the stream.
    pub(super) epoch: Epoch,
    /// Who each part is from; an array of its own so that looking for one client's is a short scan.
    pub(super) origins: Box<[ClientId]>,
    /// Names of the origins that have one, by the index of the part, in its order.
    pub(super) names: Box<[(u32, ClientName)]>,
    pub(super) parts: Box<[Part]>,
    /// Sessions of the parts that have one, by the index of the part, with what they have taken then.
    pub(super) sessions: Box<[(u32, SessionKey, u64)]>,
    /// Messages in all parts.
    pub(super) messages: u64,
    /// It is from another daemon, to which the number of a client that was here before there were others may be another
    /// client: only notices are of whom they say.
    pub(super) is_foreign: bool,
    /// The encodings this batch was charged for.
    pub(super) encodings: Encodings,
    pub(super) sizes: Sizes,
    /// The sources are there from the start; the others are made when a client needs them.
    pub(super) views: Views,
    /// The bytes leave the buffer with the batch.
    pub(super) reservation: Option<Reservation>,
}

impl Batch {
    /// A batch of the past, of its lines as they came, for whoever reads it again.
    pub(super) fn of_past(
        first_seq: Seq,
        origins: Box<[ClientId]>,
        names: Box<[(u32, ClientName)]>,
        parts: Box<[Part]>,
        raw: EncodedBatch,
    ) -> Batch {
        let views = Views::default();
        let is_first = views.of(Encoding::Raw).set(raw).is_ok();
        debug_assert!(is_first);
        Batch {
            first_seq,
            epoch: Epoch::default(),
            origins,
            names,
            messages: parts.iter().map(|part| u64::from(part.messages)).sum(),
            parts,
            is_foreign: false,
            sessions: Box::default(),
            encodings: Encodings::ALL,
            sizes: Sizes::default(),
            views,
            reservation: None,
        }
    }

    /// The number behind the last of it.
    pub(super) fn next_seq(&self) -> Seq {
        let numbers = self.parts.iter().map(|part| part.numbers());
        Seq(self.first_seq.0 + numbers.sum::<u64>())
    }

    /// The number of the first that the bytes before `at` do not have whole.
    pub(super) fn seq_at(&self, encoding: Encoding, at: usize) -> Seq {
        let view = self.view(encoding);
        let mut seq = self.first_seq;
        for (part, index) in self.parts.iter().zip(0..) {
            if view.ends[index] as usize <= at {
                seq.0 += part.numbers();
                continue;
            }
            let within = at.saturating_sub(view.start_of(index));
            let units = self
                .shown_in(encoding)
                .units_after(&view.part(index)[..within], 0);
            return Seq(seq.0 + units as u64);
        }
        seq
    }

    /// The bytes in `encoding`, made by the first feed that asks and shared by the rest, who wait
    /// for it meanwhile (at most one read's lines to format).
    #[inline]
    pub(super) fn view(&self, encoding: Encoding) -> &EncodedBatch {
        let encoding = self.shown_in(encoding);
        let view = self.views.of(encoding);
        match view.get() {
            Some(view) => view,
            None => view.get_or_init(|| self.make(encoding)),
        }
    }

    /// The encoding in which a client of `encoding` gets this batch: a batch from before the client
    /// switched was not charged for the new one.
    fn shown_in(&self, encoding: Encoding) -> Encoding {
        if self.encodings.contains(encoding) {
            encoding
        } else {
            encoding.uncharged()
        }
    }

    #[cold]
    fn make(&self, encoding: Encoding) -> EncodedBatch {
        if encoding.is_source() {
            return self.make_source(encoding);
        }
        if encoding.is_dressed_json()
            && let Some(json) = self.views.of(Encoding::Json).get()
        {
            return self.dress(encoding, json);
        }
        let source = self.view(encoding.source());
        let len = self.each_part().map(|(at, part, origin, seq)| {
            let part_in_source = source.part(at);
            encoding.part_len(part, origin, seq, part_in_source)
        });
        let mut bytes = Vec::with_capacity(len.sum());
        let mut scratch = Vec::new();
        let ends = self.each_part().map(|(at, part, origin, seq)| {
            let place = (self.epoch, seq);
            encoding.write_part(
                part,
                origin,
                place,
                source.part(at),
                &mut scratch,
                &mut bytes,
            );
            bytes.len() as u32
        });
        let ends = ends.collect();
        EncodedBatch::new(bytes, ends)
    }

    /// Whether some client may have a part of its `json`, perhaps with something around it.
    pub(super) fn is_made_of_json(&self) -> bool {
        let of_json = Encoding::ALL.into_iter().filter(|it| it.is_dressed_json());
        let mut all = of_json.chain([Encoding::Json]);
        all.any(|encoding| self.views.get(encoding).is_some())
    }

    /// What is made of `json`, as that is: another daemon may have made it.
    fn dress(&self, encoding: Encoding, json: &EncodedBatch) -> EncodedBatch {
        let mut bytes = Vec::with_capacity(2 * json.bytes.len());
        let ends = self.each_part().map(|(at, part, _, seq)| {
            let place = (part.numbers() > 0).then_some((self.epoch, seq));
            encoding.dress(json.part(at), place, &mut bytes);
            bytes.len() as u32
        });
        let ends = ends.collect();
        EncodedBatch::new(bytes, ends)
    }

    /// A source, where the batch carries only its lines as they came.
    fn make_source(&self, encoding: Encoding) -> EncodedBatch {
        let raw = self.view(Encoding::Raw);
        let mut bytes = Vec::with_capacity(2 * raw.bytes.len());
        let ends = self.each_part().map(|(at, part, origin, _)| {
            encoding.write_source_part(part, origin.client, raw.part(at), &mut bytes);
            bytes.len() as u32
        });
        let ends = ends.collect();
        EncodedBatch::new(bytes, ends)
    }

    /// Each part: its index, what it is, who it is from, and its first number.
    fn each_part(&self) -> impl Iterator<Item = (usize, Part, Origin<'_>, Seq)> {
        let mut next = self.first_seq;
        let parts = self.parts.iter().zip(&self.origins).enumerate();
        parts.map(move |(at, (part, client))| {
            let seq = next;
            next = Seq(seq.0.wrapping_add(part.numbers()));
            let origin = Origin {
                client: *client,
                name: self.name_of(at),
            };
            (at, *part, origin, seq)
        })
    }

    fn name_of(&self, part: usize) -> Option<&ClientName> {
        let found = self
            .names
            .binary_search_by_key(&part, |(at, _)| *at as usize);
        Some(&self.names[found.ok()?].1)
    }

    /// The end of the unit of which the bytes before `at` have only the beginning; `None` when they
    /// end between two units.
    pub(super) fn end_of_begun_unit(&self, encoding: Encoding, at: usize) -> Option<usize> {
        let view = self.view(encoding);
        let begun = view.ends.partition_point(|end| *end as usize <= at);
        let start = view.start_of(begun);
        let part = &view.bytes[start..view.start_of((begun + 1).min(view.ends.len()))];
        let end = self.shown_in(encoding).end_of_begun_unit(part, at - start);
        end.map(|end| start + end)
    }

    /// The stretches of `view` from `from` on that are not from `exclude`, in order.
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
        let exclude = exclude.filter(|_| !self.is_foreign);
        self.messages - exclude.map_or(0, |client| self.messages_of(client))
    }

    /// The first part of a client's own, from this one on.
    fn own_part(&self, client: ClientId, from: usize) -> Option<usize> {
        let ahead = &self.origins[from..];
        let own = match self.is_foreign {
            false => ahead.iter().position(|origin| *origin == client),
            true => ahead
                .iter()
                .zip(&self.parts[from..])
                .position(|(origin, part)| *origin == client && part.kind != Kind::Lines),
        };
        own.map(|at| from + at)
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
        encoding: Encoding,
        exclude: Option<ClientId>,
        from: usize,
    ) -> u64 {
        let view = self.view(encoding);
        let exclude = exclude.filter(|_| !self.is_foreign);
        let mut messages = 0;
        for (at, (part, origin)) in self.parts.iter().zip(&self.origins).enumerate() {
            if part.messages == 0 || exclude == Some(*origin) || view.ends[at] as usize <= from {
                continue;
            }
            let start = view.start_of(at);
            messages += if start >= from {
                u64::from(part.messages)
            } else {
                self.shown_in(encoding)
                    .units_after(view.part(at), from - start) as u64
            };
        }
        messages
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
            let own = self
                .exclude
                .and_then(|it| self.batch.own_part(it, self.part));
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
