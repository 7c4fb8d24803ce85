//! What peers say and hear by HTTP: the lines in it, and what stands around them.

use memchr::memmem;
use serde_json::Value;

use super::peer::Peer;
use super::wire::{End, Frame, unchunked};
use crate::wire::format::Format;
use crate::wire::http::BodyLength;
use crate::wire::transport::Transport;

/// What a peer has said.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The lines, as a peer sends them that comes by no HTTP.
    pub(super) lines: Vec<u8>,
    pub(super) end: Option<End>,
    /// Payloads of its pings.
    pub(super) pings: Vec<Vec<u8>>,
}

/// What a peer has heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The lines, as a peer gets them that comes by no HTTP.
    pub(super) lines: Vec<u8>,
    /// Nothing of it is cut.
    pub(super) is_whole: bool,
    /// It ends as it should: with a close frame, or the last chunk.
    pub(super) is_over: bool,
    /// Payload of the close frame.
    pub(super) close: Vec<u8>,
    pub(super) pings: usize,
    pub(super) pongs: Vec<Vec<u8>>,
    /// Status and body of the answer to a POST.
    pub(super) answer: Option<(u16, Vec<u8>)>,
}

impl Said {
    pub(super) fn of(peer: &Peer) -> Said {
        let mut said = match (peer.transport, peer.body) {
            (Transport::WebSocket, _) => Said::in_frames(&peer.sent),
            (_, Some(BodyLength::Chunked)) => {
                let (lines, end) = unchunked(&peer.sent);
                Said {
                    lines,
                    end,
                    ..Said::default()
                }
            }
            (_, Some(BodyLength::Bytes(length))) => {
                let some = peer.sent.len().min(length as usize);
                Said {
                    lines: peer.sent[..some].to_vec(),
                    end: (some == length as usize).then_some(End::Whole(None)),
                    ..Said::default()
                }
            }
            (_, None) => Said {
                lines: peer.sent.clone(),
                ..Said::default()
            },
        };
        let is_post = peer.transport == Transport::Post;
        if !(is_post && matches!(said.end, Some(End::Whole(_)))) {
            // What has not ended is no line.
            let end = memchr::memrchr(b'\n', &said.lines);
            said.lines.truncate(end.map_or(0, |end| end + 1));
        }
        said
    }

    fn in_frames(mut sent: &[u8]) -> Said {
        let mut said = Said::default();
        // The message that has begun, and whether it is text.
        let mut message: Option<(Vec<u8>, bool)> = None;
        while let Some(frame) = Frame::take(&mut sent) {
            if !frame.may_be_sent(message.is_some()) {
                said.end = Some(End::Wrong(1002));
                break;
            }
            match frame.opcode {
                0x0..=0x2 => {
                    let (bytes, is_text) = message.get_or_insert((Vec::new(), frame.opcode == 1));
                    bytes.extend(&frame.payload);
                    let ends = frame.is_last && frame.is_whole;
                    let utf8 = str::from_utf8(bytes);
                    if *is_text && utf8.is_err_and(|wrong| ends || wrong.error_len().is_some()) {
                        said.end = Some(End::Wrong(1007));
                        break;
                    }
                    if ends {
                        if !bytes.ends_with(b"\n") {
                            bytes.push(b'\n');
                        }
                        said.lines.append(bytes);
                        message = None;
                    }
                }
                _ if !frame.is_whole => break,
                0x8 => {
                    said.end = Some(End::of_close(&frame.payload));
                    break;
                }
                0x9 => said.pings.push(frame.payload),
                _ => {}
            }
        }
        // Its whole lines are lines already.
        said.lines
            .extend(message.into_iter().flat_map(|(bytes, _)| bytes));
        said
    }
}

impl Heard {
    pub(super) fn of(peer: &Peer) -> Heard {
        Heard::new(&peer.received, peer)
    }

    fn new(mut received: &[u8], peer: &Peer) -> Heard {
        let mut heard = Heard::default();
        if peer.transport == Transport::Plain {
            heard.lines = received.to_vec();
            heard.is_whole = true;
            return heard;
        }
        if peer.transport == Transport::Post {
            let proceed = b"HTTP/1.1 100 Continue\r\n\r\n";
            let rest = received.strip_prefix(proceed).unwrap_or(received);
            heard.is_whole = rest.is_empty();
            received = rest;
        }
        let Some(end) = memmem::find(received, b"\r\n\r\n") else {
            return heard;
        };
        let (head, body) = received.split_at(end + 4);
        let head = str::from_utf8(head).unwrap();
        let status = head.strip_prefix("HTTP/1.1 ").unwrap()[..3]
            .parse()
            .unwrap();
        let is_chunked = head.contains("\r\nTransfer-Encoding: chunked\r\n");
        match peer.transport {
            Transport::Plain => {}
            Transport::WebSocket => {
                assert_eq!(status, 101);
                heard.take_frames(body, peer.format);
            }
            Transport::Post => {
                let length = head.split_once("\r\nContent-Length: ").unwrap().1;
                let length = length.split_once("\r\n").unwrap().0.parse().unwrap();
                assert!(body.len() <= length, "more than one answer");
                heard.is_whole = body.len() == length;
                heard.answer = heard.is_whole.then(|| (status, body.to_vec()));
            }
            Transport::Events | Transport::Lines => {
                assert_eq!((status, is_chunked), (200, peer.takes_chunks));
                let (mut bytes, mut are_whole) = (body.to_vec(), true);
                if is_chunked {
                    let end;
                    (bytes, end) = unchunked(body);
                    assert!(!matches!(end, Some(End::Wrong(_))), "a wrong chunk");
                    heard.is_over = end.is_some();
                    let ends_with = |rest: &[u8]| unchunked(&[body, rest].concat()).1.is_some();
                    // No format but `json` has anything that could stand for what was skipped.
                    let may_be_cut = peer.format != Format::Json && !ends_with(b"\r\n0\r\n\r\n");
                    are_whole = heard.is_over || ends_with(b"0\r\n\r\n") || may_be_cut;
                }
                heard.is_whole = are_whole;
                match peer.transport {
                    Transport::Events => heard.take_events(&bytes),
                    _ => heard.take_lines(&bytes, peer.format),
                }
            }
        }
        heard.take_hello(peer);
        heard
    }

    fn take_frames(&mut self, mut bytes: &[u8], format: Format) {
        let opcode = if format == Format::Raw { 0x2 } else { 0x1 };
        self.is_whole = true;
        while !bytes.is_empty() {
            let frame = Frame::take(&mut bytes).filter(|frame| frame.is_whole);
            let Some(frame) = frame else {
                self.is_whole = false;
                return;
            };
            assert!(!self.is_over, "something behind the end");
            let is_usual = frame.is_last && frame.is_shortest;
            assert!(is_usual && !frame.is_masked && !frame.has_reserved);
            match frame.opcode {
                0x8 => (self.close, self.is_over) = (frame.payload, true),
                0x9 => self.pings += 1,
                0xa => self.pongs.push(frame.payload),
                other => {
                    assert_eq!(other, opcode, "a message of another kind");
                    self.lines.extend(frame.payload);
                    self.lines.push(b'\n');
                }
            }
        }
    }

    /// Takes lines, less blanks that may stand before one of `json`.
    fn take_lines(&mut self, bytes: &[u8], format: Format) {
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            match format {
                Format::Json => self.lines.extend(line.trim_ascii_start()),
                _ => self.lines.extend(line),
            }
        }
        self.is_whole &= self.lines.is_empty() || self.lines.ends_with(b"\n");
    }

    /// Takes server-sent events, each of which has its number for its id if it has one.
    fn take_events(&mut self, mut bytes: &[u8]) {
        loop {
            // Empty lines are no events.
            while let Some(rest) = bytes.strip_prefix(b"\n") {
                bytes = rest;
            }
            let Some(end) = memmem::find(bytes, b"\n\n") else {
                break;
            };
            let event = str::from_utf8(&bytes[..end]).unwrap();
            bytes = &bytes[end + 2..];
            if event == ":" {
                continue;
            }
            let (id, data) = match event.strip_prefix("id: ") {
                Some(rest) => rest
                    .split_once('\n')
                    .map(|(id, data)| (Some(id), data))
                    .unwrap(),
                None => (None, event),
            };
            let data = data.strip_prefix("data: ").unwrap();
            let value: Value = serde_json::from_str(data).unwrap();
            let seq = id.map(|id| id.split_once(':').unwrap().1.parse().unwrap());
            assert_eq!(seq, value["seq"].as_u64(), "another id: {event}");
            self.lines.extend(data.as_bytes());
            self.lines.push(b'\n');
        }
        self.is_whole &= bytes.is_empty();
    }

    /// Takes the first line off, which says who it is.
    fn take_hello(&mut self, peer: &Peer) {
        if peer.format == Format::Raw || self.lines.is_empty() {
            return;
        }
        let end = memchr::memchr(b'\n', &self.lines);
        let end = end.map_or(self.lines.len(), |end| end + 1);
        let hello: Vec<u8> = self.lines.drain(..end).collect();
        let words: &[u8] = match peer.format {
            Format::Json => b"{\"event\":\"hello\",",
            _ => b"Hello client ",
        };
        assert!(
            hello.starts_with(words) || words.starts_with(&hello),
            "no hello"
        );
    }
}

/// Whether nothing is cut of what the daemon has written to a peer that comes by HTTP.
pub(super) fn is_whole(peer: &Peer) -> bool {
    let written = [peer.received.as_slice(), peer.unread()].concat();
    Heard::new(&written, peer).is_whole
}
