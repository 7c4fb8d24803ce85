//! `json`, for programs: an object a line.

use std::fmt;
use std::str;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use memchr::memchr_iter;

use super::names::Notice;
use super::numbered::Numbered;
use super::scan::{append, digits, holds, holds_pair, is_lone_cr, is_printable_ascii, without_cr};
use crate::wire::client_name::Origin;
use crate::wire::framing::{count, lines};
use crate::wire::ids::Seq;

/// Appends each line of a run as `{"event":"message","seq":42,"client":7,"data":"hello"}`, numbered
/// from `first_seq`. Returns the number after the last.
///
/// A payload that is not UTF-8 is given as `data_base64` (RFC 4648 §4, padded) instead. The name of a
/// client that has one comes behind its number: `"client":7,"name":"meter-7"`.
pub fn json_lines<'a>(
    origin: impl Into<Origin<'a>>,
    first_seq: Seq,
    run: &[u8],
    out: &mut Vec<u8>,
) -> Seq {
    let run_is_clean = is_clean_json(run);
    let mut head = JsonHead::new(origin.into(), first_seq);
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
        head.0.count_up();
        seq.0 += 1;
    }
    seq
}

/// How many bytes [`json_lines`] will append for a run whose numbers have so many digits: exactly,
/// or at most if some of them have fewer.
pub fn json_lines_len<'a>(origin: impl Into<Origin<'a>>, seq_digits: usize, run: &[u8]) -> usize {
    const BARE: usize = r#"{"event":"message","seq":,"client":,"data":""}"#.len() + "\n".len();

    let around = BARE + seq_digits + origin_len(origin.into());
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
pub fn json_notice<'a>(notice: Notice, origin: impl Into<Origin<'a>>, seq: Seq, out: &mut Vec<u8>) {
    let (event, origin) = (notice.event(), JsonOrigin(origin.into()));
    append(
        out,
        format_args!("{{\"event\":\"{event}\",\"seq\":{seq},\"client\":{origin}}}\n"),
    );
}

/// How many bytes [`json_notice`] will append when the number has so many digits.
pub fn json_notice_len<'a>(
    notice: Notice,
    origin: impl Into<Origin<'a>>,
    seq_digits: usize,
) -> usize {
    const BARE: usize = "{\"event\":\"\",\"seq\":,\"client\":}\n".len();
    BARE + notice.event().len() + seq_digits + origin_len(origin.into())
}

/// An origin as it stands behind the key of its number.
struct JsonOrigin<'a>(Origin<'a>);

impl fmt::Display for JsonOrigin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.client.fmt(f)?;
        match self.0.name {
            Some(name) => write!(f, ",\"name\":\"{name}\""),
            None => Ok(()),
        }
    }
}

/// How long a [`JsonOrigin`] is.
fn origin_len(origin: Origin<'_>) -> usize {
    const BARE: usize = ",\"name\":\"\"".len();
    let name = origin.name.map_or(0, |name| BARE + name.as_str().len());
    digits(origin.client.0) + name
}

/// A message's JSON up to its payload.
struct JsonHead(Numbered);

impl JsonHead {
    fn new(origin: Origin<'_>, seq: Seq) -> JsonHead {
        let behind = format!(",\"client\":{},\"data\":\"", JsonOrigin(origin));
        JsonHead(Numbered::new(r#"{"event":"message","seq":"#, seq, &behind))
    }

    /// Up to and with the quote that begins the payload.
    fn for_string(&self) -> &[u8] {
        self.0.bytes()
    }

    /// Up to the colon.
    fn for_value(&self) -> &[u8] {
        let bytes = self.0.bytes();
        &bytes[..bytes.len() - "\"".len()]
    }

    /// Up to the key, which is open for more.
    fn for_key(&self) -> &[u8] {
        let bytes = self.0.bytes();
        &bytes[..bytes.len() - "\":\"".len()]
    }
}

pub(super) fn json_string(text: &str, out: &mut Vec<u8>) {
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
