//! Lines and notices as a listener's clients see them: `text` for people, `raw` for machines,
//! `json` for programs.
//!
//! `raw` needs nothing from here but silence: its clients get every run as it came.

use std::fmt::{self, Display};
use std::io::Write;
use std::ops::Range;
use std::str::{self, FromStr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use memchr::memchr_iter;
use serde::{Deserialize, Serialize};

use crate::wire::close_reason::CloseReason;
use crate::wire::framing::{count, lines};
use crate::wire::ids::{ClientId, Seq};

/// How a listener's clients see the stream. What they send is read the same in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people and terminals: who said it, and nothing that could control the terminal.
    Text,
    /// For programs: an object a line, with the one order's numbers.
    Json,
    /// For machines: the payloads and nothing else.
    Raw,
}

/// A word that names no [`Format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownFormat;

/// What a notice says about a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// It came.
    Connect,
    /// It left.
    Disconnect,
}

impl Format {
    /// All formats, as they are listed to people.
    pub const ALL: [Format; 3] = [Format::Text, Format::Json, Format::Raw];

    /// The format's name in options, files and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Format::Text => "text",
            Format::Json => "json",
            Format::Raw => "raw",
        }
    }
}

impl Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Format, UnknownFormat> {
        Format::ALL
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or(UnknownFormat)
    }
}

impl Display for UnknownFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected text, json or raw")
    }
}

impl std::error::Error for UnknownFormat {}

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

/// Appends each line of a run as `{"event":"message","seq":42,"client":7,"data":"hello"}`, numbered
/// from `first_seq`. Returns the number after the last.
///
/// A payload that is not UTF-8 is given as `data_base64` (RFC 4648 §4, padded) instead.
pub fn json_lines(client: ClientId, first_seq: Seq, run: &[u8], out: &mut Vec<u8>) -> Seq {
    let run_is_clean = is_clean_json(run);
    let mut head = JsonHead::new(client, first_seq);
    let mut seq = first_seq;
    for line in lines(run) {
        let payload = without_cr(line);
        if run_is_clean {
            out.extend_from_slice(head.for_string());
            out.extend_from_slice(payload);
            out.extend_from_slice(b"\"}\n");
        } else if let Ok(text) = str::from_utf8(payload) {
            out.extend_from_slice(head.for_value());
            json_string(text, out);
            out.extend_from_slice(b"}\n");
        } else {
            out.extend_from_slice(head.for_key());
            out.extend_from_slice(b"_base64\":\"");
            base64(payload, out);
            out.extend_from_slice(b"\"}\n");
        }
        head.count_up();
        seq.0 += 1;
    }
    seq
}

/// How many bytes [`json_lines`] will append for a run whose numbers have so many digits: exactly,
/// or at most if some of them have fewer.
pub fn json_lines_len(client: ClientId, seq_digits: usize, run: &[u8]) -> usize {
    const BARE: usize = r#"{"event":"message","seq":,"client":,"data":""}"#.len() + "\n".len();

    let around = BARE + seq_digits + digits(client.0);
    if is_clean_json(run) {
        let (lines, crs) = (count(run), memchr_iter(b'\r', run).count());
        return run.len() - lines - crs + lines * around;
    }
    let line_len = |line| {
        let payload = without_cr(line);
        around
            + match str::from_utf8(payload) {
                Ok(text) => json_escaped_len(text),
                Err(_) => "_base64".len() + base64_len(payload),
            }
    };
    lines(run).map(line_len).sum()
}

/// Appends `{"event":"connect","seq":41,"client":7}`, or the same with `disconnect`.
pub fn json_notice(notice: Notice, client: ClientId, seq: Seq, out: &mut Vec<u8>) {
    let event = notice.event();
    append(
        out,
        format_args!("{{\"event\":\"{event}\",\"seq\":{seq},\"client\":{client}}}\n"),
    );
}

/// How many bytes [`json_notice`] will append when the number has so many digits.
pub fn json_notice_len(notice: Notice, client: ClientId, seq_digits: usize) -> usize {
    const BARE: usize = "{\"event\":\"\",\"seq\":,\"client\":}\n".len();
    BARE + notice.event().len() + seq_digits + digits(client.0)
}

/// Appends what a client is told that has missed `count` messages and notices. `raw` cannot say it.
pub fn skip(format: Format, count: u64, out: &mut Vec<u8>) {
    match format {
        Format::Text => append(out, format_args!("Skipped {count} messages\n")),
        Format::Json => append(
            out,
            format_args!("{{\"event\":\"skip\",\"count\":{count}}}\n"),
        ),
        Format::Raw => {}
    }
}

/// Appends what a client is told that is being closed. `raw` cannot say it.
pub fn error(format: Format, reason: CloseReason, detail: &str, out: &mut Vec<u8>) {
    match format {
        Format::Text => {
            out.extend_from_slice(b"Error: ");
            escape_text(detail.as_bytes(), out);
            out.push(b'\n');
        }
        Format::Json => {
            let reason = reason.label();
            append(
                out,
                format_args!("{{\"event\":\"error\",\"reason\":\"{reason}\",\"detail\":"),
            );
            json_string(detail, out);
            out.extend_from_slice(b"}\n");
        }
        Format::Raw => {}
    }
}

/// Appends what every client is told when the daemon stops. `raw` cannot say it.
pub fn shutdown(format: Format, out: &mut Vec<u8>) {
    out.extend_from_slice(match format {
        Format::Text => b"Server shutting down\n",
        Format::Json => b"{\"event\":\"shutdown\"}\n",
        Format::Raw => b"",
    });
}

/// How many decimal digits a number has.
pub fn digits(number: u64) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

impl Notice {
    const fn event(self) -> &'static str {
        match self {
            Notice::Connect => "connect",
            Notice::Disconnect => "disconnect",
        }
    }
}

/// A message's JSON up to its payload. Counting up in place costs less than writing each number.
struct JsonHead {
    bytes: Vec<u8>,
    seq: Range<usize>,
}

impl JsonHead {
    fn new(client: ClientId, seq: Seq) -> JsonHead {
        let mut bytes = br#"{"event":"message","seq":"#.to_vec();
        let start = bytes.len();
        append(
            &mut bytes,
            format_args!("{seq},\"client\":{client},\"data\":\""),
        );
        let seq = start..start + digits(seq.0);
        JsonHead { bytes, seq }
    }

    /// Up to and with the quote that begins the payload.
    fn for_string(&self) -> &[u8] {
        &self.bytes
    }

    /// Up to the colon.
    fn for_value(&self) -> &[u8] {
        &self.bytes[..self.bytes.len() - "\"".len()]
    }

    /// Up to the key, which is open for more.
    fn for_key(&self) -> &[u8] {
        &self.bytes[..self.bytes.len() - "\":\"".len()]
    }

    fn count_up(&mut self) {
        for digit in self.bytes[self.seq.clone()].iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                return;
            }
            *digit = b'0';
        }
        self.bytes.insert(self.seq.start, b'1');
        self.seq.end += 1;
    }
}

fn json_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a string can be written to memory");
}

fn base64(payload: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + base64_len(payload), 0);
    BASE64
        .encode_slice(payload, &mut out[start..])
        .expect("there is room for it");
}

fn base64_len(payload: &[u8]) -> usize {
    payload.len().div_ceil(3) * 4
}

/// How long a string is between the quotes of JSON.
fn json_escaped_len(text: &str) -> usize {
    let escaped = |byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0x00..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(escaped).sum()
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

/// The payload of a line: one CR before the LF belongs to the line end.
fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Appends bytes with `\xNN` for every one that is neither printable UTF-8 nor TAB.
fn escape_text(bytes: &[u8], out: &mut Vec<u8>) {
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
fn is_clean_text(run: &[u8]) -> bool {
    let is_control = |byte| (byte < 0x20) & !matches!(byte, b'\t' | b'\n' | b'\r') | (byte == 0x7f);
    // The first look is enough for most runs, and costs the others little.
    !holds(run, |byte| !is_printable_ascii(byte) & (byte != b'\n'))
        || !holds(run, is_control)
            && !holds_pair(run, |byte, next| is_lone_cr(byte, next) | is_c1(byte, next))
            && str::from_utf8(run).is_ok()
}

/// Whether the payloads of a run can go between the quotes of JSON as they are.
fn is_clean_json(run: &[u8]) -> bool {
    let is_quoted = |byte| (byte == b'"') | (byte == b'\\');
    let is_control = |byte| (byte < 0x20) & !matches!(byte, b'\n' | b'\r');
    !holds(run, |byte| {
        !is_printable_ascii(byte) & (byte != b'\n') | is_quoted(byte)
    }) || !holds(run, |byte| is_control(byte) | is_quoted(byte))
        && !holds_pair(run, is_lone_cr)
        && str::from_utf8(run).is_ok()
}

fn is_printable_ascii(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte)
}

/// U+0080 to U+009F, the controls that have two bytes.
fn is_c1(byte: u8, next: u8) -> bool {
    (byte == 0xc2) & (next < 0xa0)
}

/// A CR that is no part of a line end.
fn is_lone_cr(byte: u8, next: u8) -> bool {
    (byte == b'\r') & (next != b'\n')
}

/// How much is looked at without a branch, so that the compiler makes vector code of it.
const BLOCK: usize = 1024;

/// Whether any byte is such a one.
fn holds(bytes: &[u8], is_such: impl Fn(u8) -> bool) -> bool {
    let block = |block: &[u8]| block.iter().fold(false, |any, byte| any | is_such(*byte));
    bytes.chunks(BLOCK).any(block)
}

/// Whether any byte and the one after it, 0 after the last, are such a pair.
fn holds_pair(bytes: &[u8], is_such: impl Fn(u8, u8) -> bool) -> bool {
    let Some((last, _)) = bytes.split_last() else {
        return false;
    };
    let block = |(bytes, nexts): (&[u8], &[u8])| {
        let pairs = bytes.iter().zip(nexts);
        pairs.fold(false, |any, (byte, next)| any | is_such(*byte, *next))
    };
    bytes.chunks(BLOCK).zip(bytes[1..].chunks(BLOCK)).any(block) || is_such(*last, 0)
}

fn append(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    out.write_fmt(text)
        .expect("memory takes all that is written");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::wire::framing::Framer;
    use crate::wire::telnet::{HEADROOM, Telnet};

    const CLIENT: ClientId = ClientId(7);

    fn said(say: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        say(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn text(run: &[u8]) -> String {
        said(|out| text_lines(CLIENT, run, out))
    }

    fn json(first_seq: u64, run: &[u8]) -> String {
        said(|out| {
            let next = json_lines(CLIENT, Seq(first_seq), run, out);
            assert_eq!(next.0 - first_seq, count(run) as u64);
        })
    }

    fn payload_of(message: &Value) -> Vec<u8> {
        match (message.get("data"), message.get("data_base64")) {
            (Some(Value::String(data)), None) => data.as_bytes().to_vec(),
            (None, Some(Value::String(data))) => {
                let data = BASE64.decode(data).unwrap();
                assert!(str::from_utf8(&data).is_err());
                data
            }
            _ => panic!("{message} has not one payload"),
        }
    }

    #[test]
    fn text_says_who_and_what() {
        assert_eq!(text(b""), "");
        assert_eq!(
            text(b"hello\n\n\tyou \xc3\xa4\xe2\x82\xac\r\n"),
            "Message from client 7: hello\nMessage from client 7: \n\
             Message from client 7: \tyou ä€\n"
        );
        let notice = |notice| said(|out| text_notice(notice, CLIENT, out));
        assert_eq!(notice(Notice::Connect), "New client connected: 7\n");
        assert_eq!(notice(Notice::Disconnect), "Client disconnected: 7\n");
    }

    #[test]
    fn text_shows_what_is_not_printable_as_hex() {
        let cases: [(&[u8], &str); 12] = [
            (b"\x1b[31mred", r"\x1b[31mred"),
            (b"nul\0bel\x07", r"nul\x00bel\x07"),
            (b"a\rb", r"a\x0db"),
            (b"a\r\r", r"a\x0d"),
            (b"del\x7f", r"del\x7f"),
            (b"c1 \xc2\x80\xc2\x9f", r"c1 \xc2\x80\xc2\x9f"),
            (b"no c1 \xc2\xa0", "no c1 \u{a0}"),
            (b"\xff", r"\xff"),
            (b"\xe2\x82", r"\xe2\x82"),
            (b"\xc2", r"\xc2"),
            (b"\xed\xa0\x80\xc3\xa4", r"\xed\xa0\x80ä"),
            (br"\x1b", r"\x1b"),
        ];
        for (payload, shown) in cases {
            // Alone, and where it makes the run around it unclean.
            let lines = text(&[b"x\n", payload, b"\ny\n"].concat());
            let lines: Vec<_> = lines.lines().collect();
            let message = |payload| format!("Message from client 7: {payload}");
            assert_eq!(lines, [message("x"), message(shown), message("y")]);
            assert_eq!(text(&[payload, b"\n"].concat()), message(shown) + "\n");
        }
    }

    #[test]
    fn json_gives_number_client_and_payload() {
        assert_eq!(json(1, b""), "");
        assert_eq!(
            json(8, b"a\nb\r\n\n"),
            "{\"event\":\"message\",\"seq\":8,\"client\":7,\"data\":\"a\"}\n\
             {\"event\":\"message\",\"seq\":9,\"client\":7,\"data\":\"b\"}\n\
             {\"event\":\"message\",\"seq\":10,\"client\":7,\"data\":\"\"}\n"
        );
        assert_eq!(
            json(42, b"say \"hi\"\t\x1b\\ \xc3\xa4\n"),
            "{\"event\":\"message\",\"seq\":42,\"client\":7,\
             \"data\":\"say \\\"hi\\\"\\t\\u001b\\\\ ä\"}\n"
        );
        assert_eq!(
            json(42, b"\xff\xfe\r\r\n"),
            "{\"event\":\"message\",\"seq\":42,\"client\":7,\"data_base64\":\"//4N\"}\n"
        );
        let notice = |notice| said(|out| json_notice(notice, CLIENT, Seq(41), out));
        assert_eq!(
            notice(Notice::Connect),
            "{\"event\":\"connect\",\"seq\":41,\"client\":7}\n"
        );
        assert_eq!(
            notice(Notice::Disconnect),
            "{\"event\":\"disconnect\",\"seq\":41,\"client\":7}\n"
        );
    }

    #[test]
    fn every_format_but_raw_says_what_the_daemon_has_to_say() {
        let all =
            |say: fn(Format, &mut Vec<u8>)| Format::ALL.map(|format| said(|out| say(format, out)));
        assert_eq!(
            all(|format, out| skip(format, 120, out)),
            [
                "Skipped 120 messages\n",
                "{\"event\":\"skip\",\"count\":120}\n",
                ""
            ]
        );
        assert_eq!(
            all(|format, out| error(format, CloseReason::LineTooLong, "a \"b\"\n", out)),
            [
                "Error: a \"b\"\\x0a\n",
                "{\"event\":\"error\",\"reason\":\"line_too_long\",\"detail\":\"a \\\"b\\\"\\n\"}\n",
                ""
            ]
        );
        assert_eq!(
            all(shutdown),
            ["Server shutting down\n", "{\"event\":\"shutdown\"}\n", ""]
        );
    }

    #[test]
    fn visible_lines_are_the_payloads_that_text_shows() {
        let shown = |run| said(|out| visible_lines(run, out));
        assert_eq!(shown(b""), "");
        assert_eq!(shown(b"a\n\tb\n"), "a\n\tb\n");
        assert_eq!(shown(b"a\r\n\x1b[H\n"), "a\n\\x1b[H\n");
    }

    #[test]
    fn crlf_ends_every_line_of_text_with_both() {
        assert_eq!(said(|out| crlf(b"a\n\nb\n", out)), "a\r\n\r\nb\r\n");
    }

    #[test]
    fn names_of_formats_are_read_as_they_are_written() {
        for format in Format::ALL {
            assert_eq!(format.to_string().parse(), Ok(format));
            assert_eq!(serde_json::to_value(format).unwrap(), json!(format.name()));
        }
        assert_eq!("Text".parse::<Format>(), Err(UnknownFormat));
    }

    #[test]
    fn digits_are_counted_at_both_ends() {
        for (number, expected) in [(0, 1), (9, 1), (10, 2), (999, 3), (u64::MAX, 20)] {
            assert_eq!(digits(number), expected);
        }
    }

    /// Payloads that are mostly text, with what matters to a format in between.
    fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let piece = prop_oneof![
            8 => "[ -~]{0,40}".prop_map(String::into_bytes),
            2 => "\\PC{0,20}".prop_map(String::into_bytes),
            1 => any::<char>().prop_map(|c| c.to_string().into_bytes()),
            1 => prop::collection::vec(any::<u8>(), 0..6),
            1 => prop::sample::select(b"\r\t\0\x1b\x7f\x80\xc2\"\\".as_slice()).prop_map(|b| vec![b]),
        ];
        let payload = prop::collection::vec(piece, 0..4).prop_map(|pieces| {
            let mut payload = pieces.concat();
            payload.retain(|byte| *byte != b'\n');
            payload
        });
        prop::collection::vec(payload, 0..60)
    }

    fn run_of(payloads: &[Vec<u8>]) -> Vec<u8> {
        payloads
            .iter()
            .flat_map(|line| [line, &b"\n"[..]].concat())
            .collect()
    }

    proptest! {
        #[test]
        fn text_is_utf8_without_controls_and_a_line_for_a_line(
            payloads in payloads(),
            client in any::<u64>(),
        ) {
            let run = run_of(&payloads);
            let client = ClientId(client);
            let out = said(|out| text_lines(client, &run, out));
            prop_assert!(!out.contains(|c: char| c.is_control() && c != '\t' && c != '\n'));
            prop_assert_eq!(out.lines().count(), payloads.len());
            let head = format!("Message from client {client}: ");
            for (line, payload) in out.lines().zip(&payloads) {
                let shown = line.strip_prefix(&head).unwrap();
                let payload = without_cr(payload);
                let as_is = str::from_utf8(payload)
                    .is_ok_and(|text| !text.contains(|c: char| c.is_control() && c != '\t'));
                prop_assert_eq!(shown.as_bytes() == payload, as_is);
            }
            if is_clean_text(&run) && !run.contains(&b'\r') {
                prop_assert_eq!(out.len(), text_lines_len(client, &run, payloads.len()));
            }
        }

        #[test]
        fn json_parses_to_what_was_sent(
            payloads in payloads(),
            client in any::<u64>(),
            first_seq in prop_oneof![0..2000u64, 1..=u64::MAX - 100],
        ) {
            let run = run_of(&payloads);
            let client = ClientId(client);
            let out = said(|out| {
                let next = json_lines(client, Seq(first_seq), &run, out);
                assert_eq!(next, Seq(first_seq + payloads.len() as u64));
            });
            let last_seq = first_seq + payloads.len() as u64;
            prop_assert_eq!(out.lines().count(), payloads.len());
            for ((line, payload), seq) in out.lines().zip(&payloads).zip(first_seq..) {
                let message: Value = serde_json::from_str(line).unwrap();
                prop_assert_eq!(&message["event"], &json!("message"));
                prop_assert_eq!(&message["seq"], &json!(seq));
                prop_assert_eq!(&message["client"], &json!(client.0));
                prop_assert_eq!(payload_of(&message), without_cr(payload));
            }
            let len = json_lines_len(client, digits(last_seq), &run);
            prop_assert!(out.len() <= len);
            if digits(first_seq) == digits(last_seq) {
                prop_assert_eq!(out.len(), len);
            }
        }

        #[test]
        fn notices_are_as_long_as_said(client in any::<u64>(), seq in any::<u64>()) {
            for notice in [Notice::Connect, Notice::Disconnect] {
                let out = said(|out| json_notice(notice, ClientId(client), Seq(seq), out));
                let len = json_notice_len(notice, ClientId(client), digits(seq));
                prop_assert_eq!(out.len(), len);
                let value: Value = serde_json::from_str(&out).unwrap();
                prop_assert_eq!(&value["event"], &json!(notice.event()));
            }
        }

        #[test]
        fn input_cut_anywhere_is_shown_the_same(
            input in prop::collection::vec(
                prop::sample::select(b"a\r\n\0\x1b\x06\xc2\x80\xc3\xa4\xf1\xfd\xff\xff".as_slice()),
                0..100,
            ),
            at in any::<prop::sample::Index>(),
        ) {
            let shown = |chunks: [&[u8]; 2]| {
                let (mut telnet, mut framer) = (Telnet::new(), Framer::new(50));
                let mut out = Vec::new();
                for chunk in chunks {
                    let mut buf = [&[0; HEADROOM], chunk].concat();
                    let data = telnet.filter(&mut buf, &mut Vec::new());
                    for run in framer.push(data).runs() {
                        text_lines(CLIENT, run, &mut out);
                        json_lines(CLIENT, Seq(1), run, &mut Vec::new());
                    }
                }
                text_lines(CLIENT, &framer.finish().first, &mut out);
                String::from_utf8(out).unwrap()
            };
            let at = at.index(input.len() + 1);
            prop_assert_eq!(shown([&input[..at], &input[at..]]), shown([&input, b""]));
        }
    }
}
