//! WebSocket (RFC 6455) behind its handshake: a client's frames become lines, and lines become frames.
//!
//! An own codec, because a read must not wait for the end of a frame, a frame in the middle of which a handover
//! happens must be gone on with, and what goes out must be views of a batch: frames of a server carry no mask, so
//! that all clients get the same bytes.

mod decoder;
mod frame;
#[cfg(test)]
mod tests;

pub use self::decoder::{DecoderEnd, FrameDecoder};
pub use self::frame::{
    FRAME_OVERHEAD_MAX, Opcode, append_frame, close_frame, end_of_begun_frame, frame_lines,
    frames_after, is_whole_frames,
};

use crate::wire::close_reason::CloseReason;

/// Status of the close frame to a client that is closed for this reason; `wrong` is what was so with its frames.
pub const fn status_of(reason: CloseReason, wrong: Option<DecoderEnd>) -> u16 {
    match (reason, wrong) {
        (CloseReason::Eof, _) => 1000,
        (CloseReason::Shutdown, _) => 1001,
        (CloseReason::WebSocket, Some(DecoderEnd::NotUtf8)) => 1007,
        (CloseReason::WebSocket, _) => 1002,
        (CloseReason::LineTooLong, _) => 1009,
        (CloseReason::Internal, _) => 1011,
        (CloseReason::Slow, _) => 1013,
        _ => 1008,
    }
}
