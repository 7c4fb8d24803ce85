//! `text`, for people: who said it, and nothing that could control the terminal.

use super::names::Notice;
use super::scan::{append, holds, holds_pair, is_c1, is_lone_cr, is_printable_ascii, without_cr};
use crate::wire::framing::lines;
use crate::wire::ids::ClientId;
use std::str;

/// Appends each line of a run as `Message from client 7: hello`.
///
/// What comes out is valid UTF-8 without any control character but TAB and the LF of each line:
/// every other byte of the payload is shown as `\xNN`, so it grows to four times its size at most.
pub fn text_lines(client: ClientId, run: &[u8], out: &mut Vec<u8>) {
    let head = text_head(client);
    // As a rule a run is clean, and looking at all of it at once is several times as fast as
    // looking at each line.
    let run_is_clean = is_clean_text(run);
    for line in lines(run) {
        out.extend_from_slice(head.as_bytes());
        let payload = without_cr(line);
        if run_is_clean || is_clean_text(payload) {
            out.extend_from_slice(payload);
        } else {
            escape_text(payload, out);
        }
        out.push(b'\n');
    }
}

/// How many bytes [`text_lines`] will append for a run of so many lines: exactly, if nothing in it
/// has to be escaped and no line ends in CR LF.
pub fn text_lines_len(client: ClientId, run: &[u8], lines: usize) -> usize {
    run.len() + lines * text_head(client).len()
}

/// Appends `New client connected: 7` or `Client disconnected: 7`.
pub fn text_notice(notice: Notice, client: ClientId, out: &mut Vec<u8>) {
    let what = match notice {
        Notice::Connect => "New client connected",
        Notice::Disconnect => "Client disconnected",
    };
    append(out, format_args!("{what}: {client}\n"));
}

/// Appends text with CR LF for every LF, for a client that sends them so itself.
pub fn crlf(text: &[u8], out: &mut Vec<u8>) {
    for line in lines(text) {
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
    }
}

fn text_head(client: ClientId) -> String {
    format!("Message from client {client}: ")
}

/// Appends the lines of a run with their payloads as `text` shows them, and nothing before them: for
/// lines in whatever format that go to a screen.
pub fn visible_lines(run: &[u8], out: &mut Vec<u8>) {
    if is_clean_text(run) && !run.contains(&b'\r') {
        out.extend_from_slice(run);
        return;
    }
    for line in lines(run) {
        escape_text(without_cr(line), out);
        out.push(b'\n');
    }
}

/// Appends bytes with `\xNN` for every one that is neither printable UTF-8 nor TAB.
pub(super) fn escape_text(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        let valid = chunk.valid().as_bytes();
        let (mut from, mut at) = (0, 0);
        while at < valid.len() {
            let control_len = match valid[at] {
                b'\t' => 0,
                0x00..0x20 | 0x7f => 1,
                // In valid UTF-8 there is always a byte after this one.
                0xc2 if is_c1(0xc2, valid[at + 1]) => 2,
                _ => 0,
            };
            if control_len > 0 {
                out.extend_from_slice(&valid[from..at]);
                escape_bytes(&valid[at..at + control_len], out);
                from = at + control_len;
            }
            at += control_len.max(1);
        }
        out.extend_from_slice(&valid[from..]);
        escape_bytes(chunk.invalid(), out);
    }
}

fn escape_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        let digit = |nibble: u8| HEX[usize::from(nibble)];
        out.extend_from_slice(&[b'\\', b'x', digit(byte >> 4), digit(byte & 15)]);
    }
}

/// Whether the payloads of a run, or a payload, can go into text as they are.
pub(super) fn is_clean_text(run: &[u8]) -> bool {
    let is_control = |byte| (byte < 0x20) & !matches!(byte, b'\t' | b'\n' | b'\r') | (byte == 0x7f);
    // The first look is enough for most runs, and costs the others little.
    !holds(run, |byte| !is_printable_ascii(byte) & (byte != b'\n'))
        || !holds(run, is_control)
            && !holds_pair(run, |byte, next| is_lone_cr(byte, next) | is_c1(byte, next))
            && str::from_utf8(run).is_ok()
}
