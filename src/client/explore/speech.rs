//! How a peer says what it has to say: as it is, in frames of WebSocket, or as the body of a POST.

use fastrand::Rng;

use super::one_of;
use crate::wire::http::BodyLength;
use crate::wire::transport::Transport;

/// First bytes of frames (RFC 6455, section 5.2), with the bit of the last one of a message.
const FIN: u8 = 0x80;
const TEXT: u8 = FIN | 0x1;
const BINARY: u8 = FIN | 0x2;
const CLOSE: u8 = FIN | 0x8;
const PING: u8 = FIN | 0x9;
const PONG: u8 = FIN | 0xa;

/// Bytes of the body of a POST at most, if it says how many there are.
const BODY_BYTES_MAX: usize = 4_000;

/// How a peer says what it has to say.
#[derive(Debug)]
pub(super) enum Speech {
    /// As it is.
    Plain,
    /// In frames.
    Frames,
    /// As so many bytes of a body that are left.
    Length(usize),
    /// In chunks of a body.
    Chunks,
    /// Not any more.
    Over,
}

impl Speech {
    /// The speech of a peer that comes by this, and how the body of its request ends if it has one.
    pub(super) fn new(rng: &mut Rng, transport: Transport) -> (Speech, Option<BodyLength>) {
        match transport {
            Transport::Plain | Transport::Events | Transport::Lines => (Speech::Plain, None),
            Transport::WebSocket => (Speech::Frames, None),
            Transport::Post if rng.bool() => (Speech::Chunks, Some(BodyLength::Chunked)),
            Transport::Post => {
                let most = one_of(rng, [1, 300, BODY_BYTES_MAX]);
                let bytes = rng.usize(0..most);
                (Speech::Length(bytes), Some(BodyLength::Bytes(bytes as u64)))
            }
        }
    }

    /// Appends lines as they go over the socket, and at times what is wrong, or the end.
    pub(super) fn say(&mut self, rng: &mut Rng, lines: &[u8], out: &mut Vec<u8>) {
        match self {
            Speech::Plain => out.extend(lines),
            Speech::Frames => match rng.u8(0..80) {
                0 => append_wrong_frame(rng, out),
                1 => {
                    append_close(rng, out);
                    *self = Speech::Over;
                }
                2..=5 => (0..rng.u8(0..99)).for_each(|_| append_control(rng, out)),
                6..=25 if !lines.is_empty() => append_message(rng, lines, out),
                _ => {
                    for line in lines.split_inclusive(|byte| *byte == b'\n') {
                        let less = usize::from(line.ends_with(b"\n") && rng.bool());
                        append_message(rng, &line[..line.len() - less], out);
                    }
                }
            },
            Speech::Length(left) => {
                let some = lines.len().min(*left);
                out.extend(&lines[..some]);
                *left -= some;
            }
            Speech::Chunks => {
                append_chunks(rng, lines, out);
                match rng.u8(0..20) {
                    0 => out.extend(one_of(
                        rng,
                        [&b"zz\r\n"[..], b"\r\n", b"3\r\nabc?", b"1 2?\n"],
                    )),
                    1..=4 => {
                        out.extend(one_of(
                            rng,
                            [&b"0\r\n\r\n"[..], b"000;a=b\r\nName: value\r\n\r\n"],
                        ));
                        *self = Speech::Over;
                    }
                    _ => {}
                }
            }
            Speech::Over => {}
        }
    }
}

/// Appends a message, in any number of frames, with control frames between.
fn append_message(rng: &mut Rng, mut payload: &[u8], out: &mut Vec<u8>) {
    let mut opcode = one_of(rng, [TEXT, BINARY]);
    loop {
        let some = match rng.u8(0..4) {
            0 => rng.usize(0..=payload.len()),
            _ => payload.len(),
        };
        let part;
        (part, payload) = payload.split_at(some);
        // The last frame may be empty.
        let is_last = payload.is_empty() && rng.u8(0..8) > 0;
        let fin = if is_last { FIN } else { 0 };
        append_frame(rng, opcode & !FIN | fin, part, out);
        if is_last {
            return;
        }
        opcode = 0;
        if rng.bool() {
            append_control(rng, out);
        }
    }
}

fn append_control(rng: &mut Rng, out: &mut Vec<u8>) {
    let payload = vec![rng.u8(..); rng.usize(0..=125)];
    let opcode = one_of(rng, [PING, PONG]);
    append_frame(rng, opcode, &payload, out);
}

fn append_close(rng: &mut Rng, out: &mut Vec<u8>) {
    let payloads = [&b""[..], b"\x03\xe8", b"\x03\xe9gone away", b"\x0b\xb8"];
    let payload = one_of(rng, payloads);
    append_frame(rng, CLOSE, payload, out);
}

/// Appends a frame with a mask.
fn append_frame(rng: &mut Rng, first: u8, payload: &[u8], out: &mut Vec<u8>) {
    let length = payload.len();
    out.push(first);
    match length {
        0..126 => out.push(0x80 | length as u8),
        126..0x1_0000 => {
            out.push(0x80 | 126);
            out.extend((length as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    let mask = rng.u32(..).to_be_bytes();
    out.extend(mask);
    let masked = payload.iter().zip(mask.iter().cycle());
    out.extend(masked.map(|(byte, of_mask)| byte ^ of_mask));
}

/// Appends a frame that no peer may send, with nothing before it in its message that is a line.
fn append_wrong_frame(rng: &mut Rng, out: &mut Vec<u8>) {
    match rng.u8(0..13) {
        // Without a mask.
        0 => out.extend([TEXT, 1, b'x']),
        // A length that could be shorter.
        1 => out.extend([BINARY, 0x80 | 126, 0, 1, 0, 0, 0, 0, b'x']),
        2 => out.extend([BINARY, 0x80 | 127, 0, 0, 0, 0, 0, 0, 255, 255, 0, 0, 0, 0]),
        // A message within a message.
        3 => {
            append_frame(rng, TEXT & !FIN, b"a", out);
            append_frame(rng, TEXT, b"b", out);
        }
        kind => {
            let (first, payload): (u8, &[u8]) = match kind {
                // Reserved bits, an unknown kind, a continuation of nothing.
                4 => (TEXT | 0x40, b"x"),
                5 => (FIN | 0x3, b"x"),
                6 => (FIN, b"x"),
                // Control frames that are too long, or not whole.
                7 => (PING, &[b'x'; 126]),
                8 => (PING & !FIN, b"x"),
                // Half a status, one that there is not, a reason that is not UTF-8.
                9 => (CLOSE, b"\x03"),
                10 => (CLOSE, b"\x03\xed"),
                11 => (CLOSE, b"\x03\xe8\xff"),
                // A character that is not whole.
                _ => (TEXT, b"\xc3"),
            };
            append_frame(rng, first, payload, out);
        }
    }
}

/// Appends lines in any number of chunks.
fn append_chunks(rng: &mut Rng, mut lines: &[u8], out: &mut Vec<u8>) {
    while !lines.is_empty() {
        let some = match rng.bool() {
            true => rng.usize(1..=lines.len()),
            false => lines.len(),
        };
        let chunk;
        (chunk, lines) = lines.split_at(some);
        let extension = one_of(rng, ["", "", ";a=b", " "]);
        out.extend(format!("{some:x}{extension}\r\n").bytes());
        out.extend(chunk);
        out.extend(b"\r\n");
    }
}
