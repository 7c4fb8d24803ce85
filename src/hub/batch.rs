//! What travels: a batch of lines and notices, formatted once for each encoding in use and shared
//! by every client.

use std::ops::Range;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::budget::Reservation;
use super::encoding::{EncodedBatch, Encoding, Encodings, Sizes};
use crate::wire::format::{self, Format, Notice, digits};
use crate::wire::ids::{ClientId, Seq};

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
        EncodedBatch::new(bytes, ends)
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
        EncodedBatch::new(bytes, ends)
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
    pub(super) fn numbers(self) -> u64 {
        match self.kind {
            Kind::Lines => u64::from(self.messages),
            Kind::Notice(_) => 1,
            Kind::Shutdown => 0,
        }
    }

    /// Lines it has in `text`.
    pub(super) fn lines(&self) -> usize {
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
