//! What each peer is owed, said as plainly as can be.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use memchr::memchr;
use serde_json::Value;

use super::web::{Heard, Said};
use super::{Guest, KEEPS_ALL, may_miss};
use crate::config::{Config, LongLine};
use crate::hub::ClosedClient;
use crate::wire::close_reason::CloseReason;
use crate::wire::format::{self, Format};
use crate::wire::ids::ClientId;
use crate::wire::telnet::{self, Telnet};
use crate::wire::transport::Transport;

/// A message or a notice.
#[derive(Debug)]
pub(super) struct Event {
    seq: u64,
    client: ClientId,
    /// A message's payload.
    data: Option<Vec<u8>>,
    json: Vec<u8>,
}

impl Event {
    fn is_disconnect(&self, client: ClientId) -> bool {
        self.client == client && self.json.starts_with(b"{\"event\":\"disconnect\"")
    }

    /// Without its line end.
    fn shown_as(&self, format: Format) -> Vec<u8> {
        let mut line = Vec::new();
        match (format, &self.data) {
            (Format::Json, _) => return self.json.clone(),
            (Format::Raw, data) => return data.clone().unwrap(),
            (Format::Text, Some(data)) => {
                format::text_lines(self.client, &[data, &b"\n"[..]].concat(), &mut line);
            }
            (Format::Text, None) => {
                let notice = match self.is_disconnect(self.client) {
                    true => format::Notice::Disconnect,
                    false => format::Notice::Connect,
                };
                format::text_notice(notice, self.client, &mut line);
            }
        }
        line.pop();
        line
    }
}

/// The one order, from what the observer got: it has no gap.
pub(super) fn log(received: &[u8], config: &Config) -> Vec<Event> {
    let received = Received::new(received, Format::Json);
    assert!(received.is_whole && received.skipped == 0, "not observed");
    let events = received.lines.into_iter().map(|json| {
        let value: Value = serde_json::from_slice(&json).unwrap();
        let text = value["data"].as_str().map(|data| data.as_bytes().to_vec());
        let base64 = value["data_base64"].as_str();
        Event {
            seq: value["seq"].as_u64().unwrap(),
            client: ClientId(value["client"].as_u64().unwrap()),
            data: text.or_else(|| Some(BASE64.decode(base64?).unwrap())),
            json,
        }
    });
    let mut log: Vec<Event> = events.collect();
    let notice = br#"{"event":"connect","seq":1,"client":1}"#;
    if config.notices && !config.echo {
        // Its own, which it does not get, is the first.
        log.insert(
            0,
            Event {
                seq: 1,
                client: ClientId(1),
                data: None,
                json: notice.to_vec(),
            },
        );
    }
    assert!(
        log.windows(2).all(|two| two[1].seq == two[0].seq + 1),
        "a gap"
    );
    log
}

/// Its lines are in the stream: all of them, unless they were cut off by another end than its own. Says how many.
pub(super) fn all_it_sent_is_published(
    guest: &Guest,
    closed: &ClosedClient,
    log: &[Event],
    config: &Config,
) -> usize {
    let of_it = log.iter().filter(|event| event.client == guest.id);
    let published: Vec<&[u8]> = of_it.filter_map(|event| event.data.as_deref()).collect();
    if !guest.role.publishes() {
        assert_eq!(published, [] as [&[u8]; 0], "{} may not publish", guest.id);
        return 0;
    }
    let peer = guest.peer.borrow();
    let is_telnet = peer.format == Format::Text && peer.transport == Transport::Plain;
    let data = match peer.transport {
        Transport::Plain if is_telnet => without_telnet(&peer.sent),
        Transport::Plain => peer.sent.clone(),
        _ => Said::of(&peer).lines,
    };
    let mut sent: Vec<&[u8]> = Vec::new();
    let mut lines = data.split(|byte| *byte == b'\n').peekable();
    let mut ends_whole = true;
    while let Some(line) = lines.next() {
        let is_last = lines.peek().is_none();
        let payload = line.strip_suffix(b"\r").unwrap_or(line);
        if payload.len() > config.line_bytes_max {
            match config.long_line {
                LongLine::Close => break,
                LongLine::Discard => continue,
            }
        }
        if payload == b"\x04" && is_telnet || is_last && line.is_empty() {
            break;
        }
        ends_whole = !is_last;
        sent.push(payload);
    }
    // A rest without its LF is a line if the peer said that there is no more.
    let whole = sent.len() - usize::from(!ends_whole);
    let (id, reason) = (guest.id, closed.reason);
    assert!(
        sent.starts_with(&published),
        "{id} did not say that: {reason:?}"
    );
    let was_read = [
        CloseReason::Eof,
        CloseReason::Shutdown,
        CloseReason::WebSocket,
        CloseReason::BadRequest,
    ];
    if was_read.contains(&reason) {
        assert!(published.len() >= whole, "{id} was not read: {reason:?}");
    }
    if reason == CloseReason::Eof {
        assert_eq!(published.len(), sent.len(), "{id} was not read to its end");
    }
    published.len()
}

fn without_telnet(sent: &[u8]) -> Vec<u8> {
    let mut bytes = [&[0; telnet::HEADROOM], sent].concat();
    let mut telnet = Telnet::new();
    let mut data = telnet.filter(&mut bytes, &mut Vec::new()).to_vec();
    data.extend(telnet.finish());
    data
}

/// It began where it asked to.
pub(super) fn it_began_where_it_should(guest: &Guest, log: &[Event], config: &Config) {
    let past = log.iter().filter(|event| event.seq <= guest.joined_after);
    let messages = past.filter(|event| event.data.is_some());
    let got = messages
        .clone()
        .filter(|event| event.seq > guest.begins_after)
        .count();
    let Some(most) = guest.newest.filter(|_| guest.role.subscribes()) else {
        return;
    };
    let most = messages.count().min(most as usize);
    match config.history_bytes {
        0 => assert_eq!(got, 0, "{} got a past", guest.id),
        KEEPS_ALL => assert_eq!(got, most, "{} got another past", guest.id),
        _ => assert!(got <= most, "{} got too much", guest.id),
    }
}

/// It got its part of the stream in order, whole, and as far as it was to; or it knows what it missed.
pub(super) fn all_it_was_due_is_received(
    guest: &Guest,
    closed: &ClosedClient,
    log: &[Event],
    config: &Config,
) {
    let (id, reason) = (guest.id, closed.reason);
    let peer = guest.peer.borrow();
    let due = log
        .iter()
        .filter(|_| guest.role.subscribes())
        .filter(|event| event.seq > guest.begins_after)
        .filter(|event| event.data.is_some() || event.seq > guest.notices_after)
        .filter(|event| event.client != id || config.echo)
        .filter(|event| event.data.is_some() || peer.format != Format::Raw);
    let heard = Heard::of(&peer);
    let mut received = Received::new(&heard.lines, peer.format);
    received.is_whole &= heard.is_whole;
    let mut rest = due.clone();
    let mut last = 0;
    for line in &received.lines {
        let next = rest.find(|event| event.shown_as(peer.format) == *line);
        let next = next.unwrap_or_else(|| panic!("{id} got out of turn: {}", line.escape_ascii()));
        last = next.seq;
    }
    let its_own_way = [
        CloseReason::Eof,
        CloseReason::Shutdown,
        CloseReason::LineTooLong,
        CloseReason::WebSocket,
        CloseReason::BadRequest,
    ];
    if !its_own_way.contains(&reason) || peer.reset {
        return;
    }
    assert!(received.is_whole, "{id} got half a line: {reason:?}");
    if reason == CloseReason::Shutdown && guest.role.subscribes() {
        assert_eq!(
            received.ends_with_shutdown,
            peer.format != Format::Raw,
            "{id}"
        );
    }
    let left = log.iter().find(|event| event.is_disconnect(id));
    // Without notices nothing tells where it left, save at the end of all.
    let left = match (left, reason) {
        (Some(notice), _) => notice.seq,
        (None, CloseReason::Shutdown) => u64::MAX,
        (None, _) => 0,
    };
    let due = due.filter(|event| event.seq < left || event.seq <= last);
    if !may_miss(config) {
        let lines = received.lines.len();
        let missing = due
            .clone()
            .map(|event| event.shown_as(peer.format))
            .find(|line| !received.lines.contains(line));
        let missing = missing.unwrap_or_default();
        let missing = missing.escape_ascii();
        assert_eq!(
            due.count(),
            lines,
            "{id} missed some: {reason:?}, first of all {missing}"
        );
        return;
    }
    let messages = due.filter(|event| event.data.is_some()).count();
    let missed = (messages - received.messages(peer.format)) as u64;
    // One that leaves may also miss what came between its notice and its end.
    let skipped = closed.totals.skipped;
    assert!(missed <= skipped, "{id} missed more: {reason:?}");
    if reason == CloseReason::Shutdown {
        // Of what has left the history, nobody knows any more what was its own.
        let own = match config.history_bytes {
            0 => 0,
            _ => log.iter().filter(|event| event.client == id).count() as u64,
        };
        assert!(skipped <= missed + own, "{id} missed less");
    }
    if peer.format != Format::Raw {
        assert_eq!(received.skipped, skipped, "{id} was told otherwise");
    }
}

/// What a peer got of the stream.
struct Received {
    lines: Vec<Vec<u8>>,
    /// Messages it was told to have missed.
    skipped: u64,
    /// It ends with a whole line.
    is_whole: bool,
    /// Its last line says that the daemon stops.
    ends_with_shutdown: bool,
}

impl Received {
    fn new(received: &[u8], format: Format) -> Received {
        let mut bytes = received;
        let mut shown = Vec::new();
        // Answers of telnet's are three bytes from a 255, which occurs in nothing else that is text.
        while let Some(at) = memchr(255, bytes).filter(|_| format == Format::Text) {
            shown.extend(&bytes[..at]);
            bytes = bytes.get(at + 3..).unwrap_or_default();
        }
        shown.extend(bytes);
        let mut lines: Vec<Vec<u8>> = shown
            .split(|byte| *byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line).to_vec())
            .collect();
        let is_whole = lines.pop().is_none_or(|rest| rest.is_empty());
        let words: [&[u8]; 2] = [b"Server shutting down", b"{\"event\":\"shutdown\"}"];
        let ends_with_shutdown = lines.last().is_some_and(|last| words.contains(&&**last));
        let mut skipped = 0;
        if format != Format::Raw {
            lines.retain(|line| {
                let count = skip_count(line);
                skipped += count.unwrap_or(0);
                count.is_none() && !is_said_to_it(line)
            });
        }
        Received {
            lines,
            skipped,
            is_whole,
            ends_with_shutdown,
        }
    }

    fn messages(&self, format: Format) -> usize {
        let begin: &[u8] = match format {
            Format::Text => b"Message",
            Format::Json => b"{\"event\":\"message\"",
            Format::Raw => b"",
        };
        let lines = self.lines.iter();
        lines.filter(|line| line.starts_with(begin)).count()
    }
}

fn skip_count(line: &[u8]) -> Option<u64> {
    let line = str::from_utf8(line).ok()?;
    let text = line
        .strip_prefix("Skipped ")
        .and_then(|line| line.strip_suffix(" messages"));
    let json = line
        .strip_prefix("{\"event\":\"skip\",\"count\":")
        .and_then(|line| line.strip_suffix('}'));
    Some(text.or(json)?.parse().unwrap())
}

/// Whether it is no part of the stream.
fn is_said_to_it(line: &[u8]) -> bool {
    let words: [&[u8]; 5] = [
        b"Error: ",
        b"Server shutting down",
        b"[linehub: yes]",
        b"{\"event\":\"error\"",
        b"{\"event\":\"shutdown\"",
    ];
    words.iter().any(|words| line.starts_with(words))
}
