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

use serde::{Deserialize, Serialize};

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
    pub(super) fn expansion(self, named: bool) -> usize {
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
}
