//! The body of an answer in chunks (RFC 9112, section 7.1): around what is written, whatever that is.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::net::stream::Connection;
use crate::wire::http::LAST_CHUNK;

/// Slices of one write at most, with what stands around them.
const SLICES: usize = 64 + 2;

/// Bytes of the body in a chunk at most: what has begun is to be ended soon, whatever becomes of the client.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;

/// Puts chunks around what is written, one around each write. What it knows is what a handover saves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chunks {
    /// What is to be written before anything more of the body.
    pending: ByteBuf,
    /// Bytes of the body that the chunk which has begun still needs.
    left: usize,
}

impl Chunks {
    /// Chunks of a body that comes behind this.
    pub(super) fn behind(head: Vec<u8>) -> Chunks {
        Chunks {
            pending: ByteBuf::from(head),
            left: 0,
        }
    }

    /// Writes what is to be written before anything more of the body.
    pub(super) fn poll_pending(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut impl Connection,
    ) -> Poll<io::Result<()>> {
        while !self.pending.is_empty() {
            let written = ready!(stream.poll_write(cx, &[IoSlice::new(&self.pending)]))?;
            self.pending.drain(..written);
        }
        // An idle client keeps no memory for it.
        self.pending = ByteBuf::new();
        Poll::Ready(Ok(()))
    }

    /// Bytes of the body that the chunk which has begun still needs.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Whether the end of a chunk that is written is not.
    pub(super) fn is_unended(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Writes as much of these bytes of the body as the connection takes, at least one; without any, what is to be
    /// written before more.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut impl Connection,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if slices.is_empty() {
            ready!(self.poll_pending(cx, stream))?;
            return Poll::Ready(Ok(0));
        }
        loop {
            if self.left == 0 {
                let body: usize = slices.iter().map(|slice| slice.len()).sum();
                self.left = body.min(CHUNK_BYTES_MAX);
                self.pending
                    .extend_from_slice(format!("{:x}\r\n", self.left).as_bytes());
            }
            let mut around = [IoSlice::new(&[]); SLICES];
            around[0] = IoSlice::new(&self.pending);
            let (mut filled, mut body) = (1, 0);
            for slice in slices {
                let fits = slice.len().min(self.left - body);
                around[filled] = IoSlice::new(&slice[..fits]);
                (filled, body) = (filled + 1, body + fits);
            }
            if body == self.left {
                around[filled] = IoSlice::new(b"\r\n");
                filled += 1;
            }
            let mut written = ready!(stream.poll_write(cx, &around[..filled]))?;
            let of_pending = written.min(self.pending.len());
            self.pending.drain(..of_pending);
            written -= of_pending;
            let of_body = written.min(body);
            self.left -= of_body;
            if self.left == 0 {
                self.pending = ByteBuf::from(&b"\r\n"[written - of_body..]);
            }
            if of_body > 0 {
                return Poll::Ready(Ok(of_body));
            }
        }
    }

    /// The body is over. If a chunk has begun that does not come to its end, its reader is to see that.
    pub(super) fn finish(&mut self) {
        if self.left == 0 {
            self.pending.extend_from_slice(LAST_CHUNK);
        }
    }
}
