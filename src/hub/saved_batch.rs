//! A batch put away for a handover, with its bytes in every encoding that was made of it, and taken up again.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::batch::Batch;
use super::encoding::Encoding;
use super::encodings::{Encodings, Sizes};
use super::part::{Kind, Part};
use super::views::{EncodedBatch, Views};
use crate::wire::client_name::ClientName;
use crate::wire::ids::{ClientId, Epoch, Seq};
use crate::wire::session::SessionKey;

/// What a saved hub or feed says cannot be so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CorruptState(pub(super) &'static str);

impl fmt::Display for CorruptState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for CorruptState {}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedBatch {
    first_seq: Seq,
    origins: Vec<ClientId>,
    /// Names of the origins that have one, by the index of the part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    names: Vec<(u32, ClientName)>,
    /// What each part is, and the messages in it.
    parts: Vec<(Kind, u32)>,
    /// Sessions of the parts that have one, by the index of the part, with what they have taken then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sessions: Vec<(u32, SessionKey, u64)>,
    encodings: Encodings,
    sizes: Sizes,
    /// Bytes of the buffer it takes.
    pub(super) cost: usize,
    text: SavedView,
    raw: SavedView,
    crlf: Option<SavedView>,
    json: Option<SavedView>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedView {
    bytes: Bytes,
    ends: Vec<u32>,
}

impl SavedBatch {
    pub(super) fn save(batch: &Batch) -> SavedBatch {
        let parts = batch.parts.iter();
        let made = |encoding| batch.views.get(encoding).map(SavedView::save);
        SavedBatch {
            first_seq: batch.first_seq,
            origins: batch.origins.to_vec(),
            names: batch.names.to_vec(),
            parts: parts.map(|part| (part.kind, part.messages)).collect(),
            sessions: batch.sessions.to_vec(),
            encodings: batch.encodings,
            sizes: batch.sizes,
            cost: batch
                .reservation
                .as_ref()
                .map_or(0, |reservation| reservation.bytes()),
            text: SavedView::save(batch.view(Encoding::Text)),
            raw: SavedView::save(batch.view(Encoding::Raw)),
            crlf: made(Encoding::TextCrlf),
            json: match batch.is_made_of_json() {
                true => Some(SavedView::save(batch.view(Encoding::Json))),
                false => None,
            },
        }
    }

    /// Whether neither its place nor what its sessions have taken is beyond this.
    pub(super) fn is_below(&self, most: u64) -> bool {
        let mut sessions = self.sessions.iter();
        self.first_seq.0 <= most && sessions.all(|(.., taken)| *taken <= most)
    }

    pub(super) fn restore(self) -> Result<Batch, CorruptState> {
        let parts = self.origins.len();
        let messages = self.parts.iter().map(|(_, messages)| u64::from(*messages));
        if parts == 0 || self.parts.len() != parts {
            return Err(CorruptState("a batch has no parts"));
        }
        let (mut text, mut raw) = (Some(self.text), Some(self.raw));
        let (mut crlf, mut json) = (self.crlf, self.json);
        let views = Views::default();
        for encoding in Encoding::ALL {
            let saved = match encoding {
                Encoding::Text => text.take(),
                Encoding::TextCrlf => crlf.take(),
                Encoding::Json => json.take(),
                Encoding::Raw => raw.take(),
                // Made of what they have around their lines, which never differs.
                Encoding::TextFrames
                | Encoding::JsonFrames
                | Encoding::RawFrames
                | Encoding::Events => None,
            };
            // Without one, the first client in need of it makes it.
            if let Some(view) = saved {
                let needed = !encoding.is_source() || self.encodings.needs(encoding);
                let view = view.restore(encoding, parts, needed)?;
                views.of(encoding).get_or_init(|| view);
            }
        }
        Ok(Batch {
            first_seq: self.first_seq,
            epoch: Epoch::default(),
            sessions: self.sessions.into(),
            messages: messages.sum(),
            is_foreign: false,
            encodings: self.encodings,
            sizes: self.sizes,
            views,
            reservation: None,
            origins: self.origins.into(),
            names: self.names.into(),
            parts: self
                .parts
                .into_iter()
                .map(|(kind, messages)| Part { kind, messages })
                .collect(),
        })
    }
}

impl SavedView {
    fn save(view: &EncodedBatch) -> SavedView {
        SavedView {
            bytes: view.bytes.clone(),
            ends: view.ends.to_vec(),
        }
    }

    fn restore(
        self,
        encoding: Encoding,
        parts: usize,
        needed: bool,
    ) -> Result<EncodedBatch, CorruptState> {
        let rises = self.ends.is_sorted();
        let ends_there = self
            .ends
            .last()
            .is_none_or(|end| *end as usize == self.bytes.len());
        // What is not in use has no bytes, and may have no ends.
        let whole = self.ends.len() == parts || (!needed && self.ends.is_empty());
        if !(rises && ends_there && whole) {
            return Err(CorruptState("the parts of a batch do not fit its bytes"));
        }
        let view = EncodedBatch::new(self.bytes.into(), self.ends);
        if (0..view.ends.len()).any(|part| !encoding.is_whole(view.part(part))) {
            return Err(CorruptState("a part of a batch is cut short"));
        }
        Ok(view)
    }
}
