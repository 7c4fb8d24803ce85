//! The encodings that clients take the stream in, and what is kept for each of them.
//!
//! An encoding is a way to write the parts of a batch as bytes. What is written is whole *units*: what
//! must not be cut when something else is to be sent in between, or when a client jumps ahead. A
//! unit is a line or a notice: as a line, as a frame of WebSocket, or as a server-sent event.
//!
//! Two encodings are *sources*: every batch carries them from the start, as far as an encoding in use
//! needs them. The others are made from their source, once a batch, when the first client asks.
//!
//! To add an encoding: add its variant at the end of [`Encoding`], and its arm to each function that
//! the compiler then names. All are in this file, but for
//!
//! - where a client gets it: from its format and transport in [`Encoding::of`], or by
//!   a switch like [`Feed::use_crlf`](super::feed::Feed::use_crlf);
//! - what is said to one client alone: `hello::Answer` and `Refusal::tell`, if [`Encoding::dress`] is not enough;
//! - what the client sends: `client/input.rs` and `HelloReader`;
//! - its field in the saved form of a batch: `SavedBatch` in `saved_batch.rs`, if its bytes are not always the same.

use std::array;
use std::ops::{Index, IndexMut};
use std::sync::OnceLock;

use bytes::Bytes;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::part::{Kind, Part, missed_of};
use crate::wire::client_name::Origin;
use crate::wire::format::{self, Format, digits};
use crate::wire::framing::Lines;
use crate::wire::ids::{ClientId, Epoch, Seq};
use crate::wire::transport::Transport;
use crate::wire::websocket::{self, FRAME_OVERHEAD_MAX, Opcode};

/// One way to write the stream for a client: a format, and what stands around a line of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub(crate) enum Encoding {
    Text,
    /// `text` for a client that itself ends its lines in CRLF.
    TextCrlf,
    Json,
    Raw,
    /// `text`, each line a message of WebSocket.
    TextFrames,
    JsonFrames,
    RawFrames,
    /// `json`, each line a server-sent event that has its place for its id.
    Events,
}

impl Encoding {
    /// Encodings there are: the last one's index and one.
    pub(super) const COUNT: usize = Encoding::Events as usize + 1;

    /// All of them, each at its index.
    pub(super) const ALL: [Encoding; Encoding::COUNT] = [
        Encoding::Text,
        Encoding::TextCrlf,
        Encoding::Json,
        Encoding::Raw,
        Encoding::TextFrames,
        Encoding::JsonFrames,
        Encoding::RawFrames,
        Encoding::Events,
    ];

    /// The encoding of a client that sees the stream in this format, by this transport.
    pub(crate) fn of(format: Format, transport: Transport) -> Encoding {
        match (transport, format) {
            (Transport::Events, _) => Encoding::Events,
            (Transport::WebSocket, Format::Text) => Encoding::TextFrames,
            (Transport::WebSocket, Format::Json) => Encoding::JsonFrames,
            (Transport::WebSocket, Format::Raw) => Encoding::RawFrames,
            (Transport::Plain | Transport::Lines | Transport::Post, format) => format.into(),
        }
    }

    /// What this encoding is made from; a source is its own.
    pub(super) const fn source(self) -> Encoding {
        match self {
            Encoding::Text | Encoding::TextCrlf | Encoding::TextFrames => Encoding::Text,
            Encoding::Json
            | Encoding::Raw
            | Encoding::JsonFrames
            | Encoding::RawFrames
            | Encoding::Events => Encoding::Raw,
        }
    }

    /// Whether it is `raw`, in which nothing can be said but lines.
    pub(super) fn is_raw(self) -> bool {
        matches!(self, Encoding::Raw | Encoding::RawFrames)
    }

    /// Whether it is `json` with something around each line.
    pub(super) fn is_dressed_json(self) -> bool {
        matches!(self, Encoding::JsonFrames | Encoding::Events)
    }

    /// Whether batches carry this encoding from the start.
    pub(super) fn is_source(self) -> bool {
        self.source() == self
    }

    /// What a client of this encoding gets of a batch that was not charged for it: what the client had
    /// before, if it switches in the middle of the stream.
    pub(super) fn uncharged(self) -> Encoding {
        match self {
            Encoding::TextCrlf => Encoding::Text,
            _ => self,
        }
    }

    /// Bytes that a byte which is read may become at worst. The worst is an LF: a prefix, with numbers
    /// of eight digits for a client and of fourteen for `seq`, and with the longest name if any client has
    /// one.
    fn expansion(self, named: bool) -> usize {
        match self {
            Encoding::Json if named => 150,
            Encoding::Text => 32,
            Encoding::TextCrlf => 33,
            Encoding::Json => 76,
            Encoding::Raw => 1,
            Encoding::TextFrames => 32 + SHORT_FRAME_BYTES,
            Encoding::JsonFrames => Encoding::Json.expansion(named) + SHORT_FRAME_BYTES,
            Encoding::RawFrames => 1 + SHORT_FRAME_BYTES,
            Encoding::Events => Encoding::Json.expansion(named) + EVENT_BYTES,
        }
    }

    /// Writes one read's lines as this encoding's source has them.
    pub(super) fn write_source_lines(
        self,
        origin: ClientId,
        lines: &Lines<'_>,
        messages: usize,
        out: &mut Vec<u8>,
    ) {
        let runs = lines.runs();
        match self.source() {
            Encoding::Text => {
                let text = runs[0].len() + format::text_lines_len(origin, runs[1], messages);
                if out.is_empty() {
                    // Exact unless something has to be escaped: a large read is not copied again.
                    out.reserve_exact(text);
                } else {
                    out.reserve(text);
                }
                runs.iter()
                    .for_each(|run| format::text_lines(origin, run, out));
            }
            _ => runs.iter().for_each(|run| out.extend_from_slice(run)),
        }
    }

    /// Writes a notice as this encoding's source has it.
    pub(super) fn write_source_notice(self, origin: ClientId, kind: Kind, out: &mut Vec<u8>) {
        match (self.source(), kind) {
            (Encoding::Text, Kind::Notice(notice)) => format::text_notice(notice, origin, out),
            (Encoding::Text, Kind::Shutdown) => format::shutdown(Format::Text, out),
            (Encoding::Text, Kind::Missed) => format::skip(Format::Text, missed_of(origin), out),
            // `json` makes its notices without a source, and `raw` has none.
            _ => {}
        }
    }

    /// Bytes that a part has at most in this encoding, as they are charged; `source` is the part in
    /// the encoding's source. Exact but for frames, events and `json`, whose numbers count at their longest, and which does not charge
    /// what is said once at most: that the daemon stops, when nobody can publish any more, and what was missed.
    pub(super) fn part_len(
        self,
        part: Part,
        origin: Origin<'_>,
        first_seq: Seq,
        source: &[u8],
    ) -> usize {
        let lines = part.lines();
        match (self, part.kind) {
            (Encoding::Text | Encoding::Raw, _) => source.len(),
            (Encoding::TextCrlf, _) => source.len() + lines,
            (Encoding::TextFrames | Encoding::RawFrames, _) => framed_len(source.len(), lines),
            (Encoding::Json, Kind::Lines) => {
                let last = first_seq.0.saturating_add(part.messages.into());
                format::json_lines_len(origin, digits(last), source)
            }
            (Encoding::Json, Kind::Notice(notice)) => {
                format::json_notice_len(notice, origin, digits(first_seq.0))
            }
            (Encoding::JsonFrames, _) => framed_len(
                Encoding::Json.part_len(part, origin, first_seq, source),
                lines,
            ),
            (Encoding::Events, _) => {
                Encoding::Json.part_len(part, origin, first_seq, source) + lines * EVENT_BYTES
            }
            (Encoding::Json, Kind::Shutdown | Kind::Omitted | Kind::Missed) => 0,
        }
    }

    /// Writes a part in this encoding; `source` is the part in the encoding's source, and `scratch` what it is put
    /// together in.
    pub(super) fn write_part(
        self,
        part: Part,
        origin: Origin<'_>,
        place: (Epoch, Seq),
        source: &[u8],
        scratch: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) {
        match self {
            Encoding::Text | Encoding::Raw => out.extend_from_slice(source),
            Encoding::TextCrlf | Encoding::TextFrames | Encoding::RawFrames => {
                self.dress(source, None, out);
            }
            Encoding::Json => write_json(part, origin, place.1, source, out),
            Encoding::JsonFrames | Encoding::Events => {
                scratch.clear();
                write_json(part, origin, place.1, source, scratch);
                let place = Some(place).filter(|_| part.numbers() > 0);
                self.dress(scratch, place, out);
            }
        }
    }

    /// Writes lines of its format as they are in this encoding; the first of them has this place, if they have any.
    pub(crate) fn dress(self, lines: &[u8], place: Option<(Epoch, Seq)>, out: &mut Vec<u8>) {
        match self {
            Encoding::Text | Encoding::Json | Encoding::Raw => out.extend_from_slice(lines),
            Encoding::TextCrlf => format::crlf(lines, out),
            Encoding::TextFrames | Encoding::JsonFrames => {
                websocket::frame_lines(Opcode::Text, lines, out);
            }
            Encoding::RawFrames => websocket::frame_lines(Opcode::Binary, lines, out),
            Encoding::Events => format::events(lines, place, out),
        }
    }

    /// Writes a part as this encoding's source has it, from its lines as they came: of a batch that carries
    /// nothing else.
    pub(super) fn write_source_part(
        self,
        part: Part,
        origin: ClientId,
        raw: &[u8],
        out: &mut Vec<u8>,
    ) {
        match (self.source(), part.kind) {
            (Encoding::Text, Kind::Lines) => format::text_lines(origin, raw, out),
            (_, Kind::Lines) => out.extend_from_slice(raw),
            (_, kind) => self.write_source_notice(origin, kind, out),
        }
    }

    /// The end of the unit of which the bytes before `at` have only the beginning; `None` when they
    /// end between two units. `part` begins with a whole unit.
    pub(super) fn end_of_begun_unit(self, part: &[u8], at: usize) -> Option<usize> {
        match self {
            Encoding::TextFrames | Encoding::JsonFrames | Encoding::RawFrames => {
                websocket::end_of_begun_frame(part, at)
            }
            Encoding::Events => format::end_of_begun_event(part, at),
            Encoding::Text | Encoding::TextCrlf | Encoding::Json | Encoding::Raw => {
                if at == 0 || part[at - 1] == b'\n' {
                    return None;
                }
                memchr::memchr(b'\n', &part[at..]).map(|end| at + end + 1)
            }
        }
    }

    /// Units of `part` that end behind `from`. `part` begins with a whole unit.
    pub(super) fn units_after(self, part: &[u8], from: usize) -> usize {
        match self {
            Encoding::TextFrames | Encoding::JsonFrames | Encoding::RawFrames => {
                websocket::frames_after(part, from)
            }
            Encoding::Events => format::events_after(part, from),
            Encoding::Text | Encoding::TextCrlf | Encoding::Json | Encoding::Raw => {
                memchr::memchr_iter(b'\n', &part[from..]).count()
            }
        }
    }

    /// Whether a part is whole units.
    pub(super) fn is_whole(self, part: &[u8]) -> bool {
        match self {
            Encoding::TextFrames | Encoding::JsonFrames | Encoding::RawFrames => {
                websocket::is_whole_frames(part)
            }
            Encoding::Events => part.is_empty() || part.ends_with(b"\n\n"),
            Encoding::Text | Encoding::TextCrlf | Encoding::Json | Encoding::Raw => {
                part.is_empty() || part.ends_with(b"\n")
            }
        }
    }
}

/// Most bytes that a line of less than 64 KiB has around it in a frame, less its LF.
const SHORT_FRAME_BYTES: usize = 3;

/// Most bytes that a line has around it as an event, less its LF, with a number of 20 digits.
const EVENT_BYTES: usize = "id: 12345678:\ndata: \n".len() + 20;

/// Bytes that `lines` lines of so many bytes have at most as frames.
fn framed_len(bytes: usize, lines: usize) -> usize {
    // Only so many of them can be as long as that.
    let long = bytes >> u16::BITS;
    bytes + lines * SHORT_FRAME_BYTES + long * (FRAME_OVERHEAD_MAX - 1 - SHORT_FRAME_BYTES)
}

/// Writes a part in `json`; `source` is its lines as they came.
fn write_json(part: Part, origin: Origin<'_>, first_seq: Seq, source: &[u8], out: &mut Vec<u8>) {
    match part.kind {
        Kind::Lines => {
            format::json_lines(origin, first_seq, source, out);
        }
        Kind::Notice(notice) => format::json_notice(notice, origin, first_seq, out),
        Kind::Shutdown => format::shutdown(Format::Json, out),
        Kind::Missed => format::skip(Format::Json, missed_of(origin.client), out),
        Kind::Omitted => {}
    }
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

const _: () = assert!(Encoding::COUNT <= u8::BITS as usize);

impl Encodings {
    /// All there are.
    pub(super) const ALL: Encodings = Encodings(u8::MAX >> (u8::BITS as usize - Encoding::COUNT));

    pub(super) fn with(self, encoding: Encoding) -> Encodings {
        Encodings(self.0 | 1 << encoding as u8)
    }

    pub(super) fn without(self, encoding: Encoding) -> Encodings {
        Encodings(self.0 & !(1 << encoding as u8))
    }

    pub(super) fn contains(self, encoding: Encoding) -> bool {
        self.0 & 1 << encoding as u8 != 0
    }

    /// Whether batches have to carry `source`: an encoding in use is made from it.
    pub(super) fn needs(self, source: Encoding) -> bool {
        self.0 & MADE_FROM[source as usize] != 0
    }

    /// Bytes that a batch has for what few clients take it in, if any do.
    pub(super) fn bytes_of_others(self) -> usize {
        let usual = [Encoding::Text, Encoding::Json, Encoding::Raw];
        let others = usual.into_iter().fold(self, Encodings::without);
        match others == Encodings::default() {
            true => 0,
            false => size_of::<PerEncoding<OnceLock<EncodedBatch>>>(),
        }
    }

    /// Bytes that a byte which is read may become at worst, in all encodings that a batch then has.
    pub(super) fn expansion(self, named: bool) -> usize {
        let all = Encoding::ALL.into_iter();
        all.filter(|encoding| self.contains(*encoding) || self.needs(*encoding))
            .map(|encoding| encoding.expansion(named))
            .sum()
    }
}

/// For each source, the set of those made from it: worked out beforehand, as every publish asks for it.
const MADE_FROM: [u8; Encoding::COUNT] = {
    let mut made_from = [0; Encoding::COUNT];
    let mut at = 0;
    while at < Encoding::COUNT {
        made_from[Encoding::ALL[at].source() as usize] |= 1 << at;
        at += 1;
    }
    made_from
};

/// One value for each encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct PerEncoding<T>([T; Encoding::COUNT]);

impl<T> PerEncoding<T> {
    pub(super) fn from_fn(mut value: impl FnMut(Encoding) -> T) -> PerEncoding<T> {
        PerEncoding(array::from_fn(|at| value(Encoding::ALL[at])))
    }
}

impl<T> Index<Encoding> for PerEncoding<T> {
    type Output = T;

    fn index(&self, encoding: Encoding) -> &T {
        &self.0[encoding as usize]
    }
}

impl<T> IndexMut<Encoding> for PerEncoding<T> {
    fn index_mut(&mut self, encoding: Encoding) -> &mut T {
        &mut self.0[encoding as usize]
    }
}

/// What a batch is in each encoding, as far as it was made. What few clients have takes no room where nobody does.
#[derive(Debug, Default)]
pub(super) struct Views {
    text: OnceLock<EncodedBatch>,
    json: OnceLock<EncodedBatch>,
    raw: OnceLock<EncodedBatch>,
    others: OnceLock<Box<PerEncoding<OnceLock<EncodedBatch>>>>,
}

impl Views {
    /// Those of a new batch: sources are there, and the others are still to be made.
    pub(super) fn of_sources(mut source: impl FnMut(Encoding) -> EncodedBatch) -> Views {
        Views {
            text: OnceLock::from(source(Encoding::Text)),
            raw: OnceLock::from(source(Encoding::Raw)),
            ..Views::default()
        }
    }

    /// What was made, if that was.
    pub(super) fn get(&self, encoding: Encoding) -> Option<&EncodedBatch> {
        match encoding {
            Encoding::Text | Encoding::Json | Encoding::Raw => self.of(encoding).get(),
            _ => self.others.get()?[encoding].get(),
        }
    }

    #[inline]
    pub(super) fn of(&self, encoding: Encoding) -> &OnceLock<EncodedBatch> {
        match encoding {
            Encoding::Text => &self.text,
            Encoding::Json => &self.json,
            Encoding::Raw => &self.raw,
            _ => &self.others.get_or_init(Box::default)[encoding],
        }
    }
}

/// Bytes in each encoding, none in those that are not in use; `json` at most so many, as its numbers
/// are counted at their longest until it is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sizes(#[serde(deserialize_with = "padded")] [u64; Encoding::COUNT]);

/// Encodings are only ever added behind those there are.
fn padded<'de, D: Deserializer<'de>>(saved: D) -> Result<[u64; Encoding::COUNT], D::Error> {
    let mut sizes = Vec::deserialize(saved)?;
    sizes.resize(sizes.len().max(Encoding::COUNT), 0);
    sizes
        .try_into()
        .map_err(|_| D::Error::custom("more encodings than there are"))
}

impl Sizes {
    pub(super) fn of(self, encoding: Encoding) -> u64 {
        self.0[encoding as usize]
    }

    pub(super) fn add(&mut self, encoding: Encoding, bytes: usize) {
        self.0[encoding as usize] += bytes as u64;
    }

    /// What both have together.
    pub(super) fn plus(self, other: Sizes) -> Sizes {
        Sizes(array::from_fn(|at| self.0[at].saturating_add(other.0[at])))
    }
}

/// A batch's bytes in one encoding, and where each part of it ends.
///
/// The bytes can be shared without a copy. Whoever keeps a clone longer than the batch keeps memory
/// that the budget no longer counts, and has to charge that elsewhere.
#[derive(Debug, Default)]
pub(super) struct EncodedBatch {
    pub(super) bytes: Bytes,
    pub(super) ends: Box<[u32]>,
}

impl EncodedBatch {
    /// Takes over `bytes`, and gives back what they have room for beyond their length. Until they are
    /// first cloned, this costs no allocation.
    pub(super) fn new(bytes: Vec<u8>, ends: Vec<u32>) -> EncodedBatch {
        EncodedBatch {
            bytes: Bytes::from(bytes.into_boxed_slice()),
            ends: ends.into(),
        }
    }

    /// A copy of exactly the size of what it holds.
    pub(super) fn copied(bytes: &[u8], ends: &[u32]) -> EncodedBatch {
        EncodedBatch {
            bytes: Bytes::copy_from_slice(bytes),
            ends: ends.into(),
        }
    }

    /// Where a part begins, or, if it is one too many, the end.
    pub(super) fn start_of(&self, part: usize) -> usize {
        part.checked_sub(1)
            .map_or(0, |before| self.ends[before] as usize)
    }

    /// The bytes of one part.
    pub(super) fn part(&self, part: usize) -> &[u8] {
        &self.bytes[self.start_of(part)..self.ends[part] as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_encoding_is_at_its_index_and_made_from_a_source() {
        for (at, encoding) in Encoding::ALL.into_iter().enumerate() {
            assert_eq!(encoding as usize, at);
            assert!(encoding.source().is_source(), "{encoding:?}");
        }
    }

    #[test]
    fn bytes_are_taken_over_and_shared_without_a_copy() {
        let bytes = b"line\n".to_vec();
        let start = bytes.as_ptr();
        let view = EncodedBatch::new(bytes, vec![5]);
        let shared = view.bytes.clone();
        assert_eq!((view.bytes.as_ptr(), shared.as_ptr()), (start, start));
    }

    #[test]
    fn half_a_line_is_begun_and_its_end_is_found() {
        for encoding in Encoding::ALL {
            let dressed = |lines: &[u8]| {
                let mut out = Vec::new();
                encoding.dress(lines, Some((Epoch(7), Seq(9))), &mut out);
                out
            };
            let (first, both) = (dressed(b"one\n").len(), dressed(b"one\ntwo\n"));
            assert!(encoding.is_whole(&both) && !encoding.is_whole(&both[..first + 1]));
            for at in 0..=both.len() {
                let ends = [first, both.len()].into_iter();
                let begun = ends.clone().find(|end| *end > at);
                let begun = begun.filter(|_| at != 0 && at != first);
                assert_eq!(
                    encoding.end_of_begun_unit(&both, at),
                    begun,
                    "{encoding:?} {at}"
                );
                let after = ends.filter(|end| *end > at).count();
                assert_eq!(encoding.units_after(&both, at), after, "{encoding:?} {at}");
            }
        }
    }

    #[test]
    fn part_is_no_longer_than_it_is_charged() {
        let name = "n".repeat(64).parse().unwrap();
        for (lines, notice) in [
            (vec![b'\n'; 50], false),
            ([&[b'x'; 70_000][..], b"\n"].concat(), false),
            (b"\xff\x01\"\n".repeat(99), false),
            (Vec::new(), true),
        ] {
            for name in [None, Some(&name)] {
                let origin = Origin {
                    client: ClientId(u64::MAX >> 5),
                    name,
                };
                let messages = memchr::memchr_iter(b'\n', &lines).count() as u32;
                let kind = match notice {
                    true => Kind::Notice(format::Notice::Connect),
                    false => Kind::Lines,
                };
                let part = Part { kind, messages };
                for encoding in Encoding::ALL {
                    let mut source = Vec::new();
                    encoding.write_source_part(part, origin.client, &lines, &mut source);
                    let (seq, mut out) = (Seq(u64::MAX >> 1), Vec::new());
                    let place = (Epoch(u32::MAX), seq);
                    encoding.write_part(part, origin, place, &source, &mut Vec::new(), &mut out);
                    let most = encoding.part_len(part, origin, seq, &source);
                    assert!(out.len() <= most, "{encoding:?}: {} > {most}", out.len());
                    assert!(encoding.is_whole(&out), "{encoding:?}");
                    let units = if encoding.is_raw() {
                        messages
                    } else {
                        part.lines() as u32
                    };
                    assert_eq!(
                        encoding.units_after(&out, 0),
                        units as usize,
                        "{encoding:?}"
                    );
                }
            }
        }
    }

    /// A daemon with one encoding more still reads what one without it has saved.
    #[test]
    fn sizes_of_encodings_that_were_not_there_yet_are_none() {
        let saved = rmp_serde::to_vec(&[7_u64, 8]).unwrap();
        let sizes: Sizes = rmp_serde::from_slice(&saved).unwrap();
        assert_eq!(sizes.0[..3], [7, 8, 0]);
        let saved = rmp_serde::to_vec(&[0_u64; Encoding::COUNT + 1]).unwrap();
        assert!(rmp_serde::from_slice::<Sizes>(&saved).is_err());
    }
}
