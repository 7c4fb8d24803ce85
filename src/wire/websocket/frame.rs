//! Frames as a server sends them: whole messages, without a mask.

use memchr::memchr_iter;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// A message of text, or its first part.
    Text = 0x1,
    /// A message of bytes, or its first part.
    Binary = 0x2,
    /// The last frame of its sender.
    Close = 0x8,
    /// It asks for a pong.
    Ping = 0x9,
    /// It answers a ping.
    Pong = 0xa,
}

/// Bit of the first byte: the frame ends its message.
pub(super) const FIN: u8 = 0x80;

/// Lengths from which on a frame says its length in 2 bytes more, and in 8.
const LONG: usize = 126;
const VERY_LONG: usize = 1 << 16;

/// Most bytes that a line of so many bytes, without its LF, has around it in a frame.
pub const FRAME_OVERHEAD_MAX: usize = 10;

/// Bytes of a close frame's reason at most.
const REASON_BYTES_MAX: usize = 123;

/// Appends a frame that is a whole message.
pub fn append_frame(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    let first = FIN | opcode as u8;
    match payload.len() {
        len @ 0..LONG => out.extend_from_slice(&[first, len as u8]),
        len @ LONG..VERY_LONG => {
            out.extend_from_slice(&[first, 126]);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.extend_from_slice(&[first, 127]);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

/// Appends each line, less its LF, as a message.
pub fn frame_lines(opcode: Opcode, lines: &[u8], out: &mut Vec<u8>) {
    let mut start = 0;
    for end in memchr_iter(b'\n', lines) {
        append_frame(opcode, &lines[start..end], out);
        start = end + 1;
    }
}

/// Appends a close frame. A reason that is too long is cut between two characters.
pub fn close_frame(code: u16, reason: &str, out: &mut Vec<u8>) {
    let ends = reason.char_indices().map(|(at, char)| at + char.len_utf8());
    let end = ends.take_while(|end| *end <= REASON_BYTES_MAX).last();
    let reason = &reason.as_bytes()[..end.unwrap_or(0)];
    let payload = [&code.to_be_bytes(), reason].concat();
    append_frame(Opcode::Close, &payload, out);
}

/// The end of the frame that begins here; `None` if not all of its header is there.
fn end_of_frame(bytes: &[u8]) -> Option<usize> {
    let (header, len) = match *bytes.get(1)? {
        126 => (
            4,
            u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
        ),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)),
        short => (2, u64::from(short)),
    };
    usize::try_from(len).ok()?.checked_add(header)
}

/// The ends of the frames that begin here, one behind the other.
fn ends(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let end = start + end_of_frame(bytes.get(start..)?)?;
        start = end;
        Some(end)
    })
}

/// The end of the frame of which the bytes before `at` have only the beginning; `None` when they end between two
/// frames. `frames` begins with a whole one.
pub fn end_of_begun_frame(frames: &[u8], at: usize) -> Option<usize> {
    if at == 0 {
        return None;
    }
    ends(frames).find(|end| *end >= at).filter(|end| *end > at)
}

/// Frames that end behind `from`. `frames` begins with a whole one.
pub fn frames_after(frames: &[u8], from: usize) -> usize {
    ends(frames).filter(|end| *end > from).count()
}

/// Whether it is nothing but whole frames.
pub fn is_whole_frames(frames: &[u8]) -> bool {
    ends(frames)
        .take_while(|end| *end <= frames.len())
        .last()
        .unwrap_or(0)
        == frames.len()
}
