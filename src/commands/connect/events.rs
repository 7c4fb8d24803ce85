//! Events of the daemon in `json`, which say where in the channel's order they are.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use memchr::{memchr, memrchr};
use serde::Deserialize;

use crate::commands::daemon_line::DaemonLine;
use crate::wire::ids::{ClientId, Epoch, Seq};

/// Most bytes of a line: of a payload of 128 MiB, as it stands in `json` at worst.
const LINE_BYTES_MAX: usize = 6 * 128 * 1024 * 1024;

/// Whole lines of bytes that come in pieces.
#[derive(Debug, Default)]
pub(super) struct EventLines {
    begun: Vec<u8>,
}

impl EventLines {
    /// Takes bytes, and gives each whole line that there is with them, without its LF.
    ///
    /// # Errors
    /// That of the first line that `each` refuses; those after it are dropped.
    pub(super) fn take<E>(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let whole = memrchr(b'\n', bytes).map_or(0, |at| at + 1);
        let mut lines = &bytes[..whole];
        while let Some(end) = memchr(b'\n', lines) {
            match self.begun.is_empty() {
                true => each(&lines[..end])?,
                false => {
                    self.begun.extend_from_slice(&lines[..end]);
                    let line = std::mem::take(&mut self.begun);
                    each(&line)?;
                }
            }
            lines = &lines[end + 1..];
        }
        self.begun.extend_from_slice(&bytes[whole..]);
        if self.begun.len() > LINE_BYTES_MAX {
            // The begin of a line is no event, and refused as that.
            let line = std::mem::take(&mut self.begun);
            each(&line)?;
        }
        Ok(())
    }
}

/// Place in a channel: behind the message or notice with this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) epoch: Epoch,
    pub(super) seq: Seq,
}

impl Place {
    /// Reads the epoch as the daemon writes it: 8 hexadecimal digits.
    pub(super) fn new(epoch: &str, seq: u64) -> Option<Place> {
        let is_epoch = epoch.len() == 8 && epoch.bytes().all(|digit| digit.is_ascii_hexdigit());
        let epoch = is_epoch.then(|| u32::from_str_radix(epoch, 16).ok())??;
        Some(Place {
            epoch: Epoch(epoch),
            seq: Seq(seq),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.seq)
    }
}

/// Answer to a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) client: ClientId,
    pub(super) channel: String,
    pub(super) place: Place,
    /// Whether all behind the place that was asked for follows; `None` if none was asked for.
    pub(super) recovered: Option<bool>,
    /// Lines that the session has; `None` if none was named.
    pub(super) taken: Option<u64>,
    /// Whether the client gets its own lines, as they come.
    pub(super) echo: bool,
}

/// Meaning of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event<'a> {
    Hello(Answer),
    Message {
        seq: Seq,
        client: ClientId,
        /// Without its line end.
        payload: Cow<'a, [u8]>,
    },
    /// A client came, or left.
    Notice {
        seq: Seq,
        client: ClientId,
        connect: bool,
    },
    /// So many messages are missed.
    Skip {
        count: u64,
    },
    /// So many lines of the session are safe.
    Ack {
        taken: u64,
    },
    /// The daemon closes the connection, or stops, and says it in whatever format.
    End,
    /// Something that a later daemon says.
    Other,
}

/// An object as it stands in a line.
#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    client: u64,
    #[serde(borrow, default)]
    data: Cow<'a, str>,
    #[serde(borrow, default)]
    data_base64: Cow<'a, str>,
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
    #[serde(borrow, default)]
    epoch: Cow<'a, str>,
    recovered: Option<bool>,
    taken: Option<u64>,
    #[serde(default)]
    echo: bool,
    #[serde(default)]
    count: u64,
}

impl Event<'_> {
    /// Reads a line, without its LF; `None` if it is none of the daemon's in `json`, nor an end.
    pub(super) fn read(line: &[u8]) -> Option<Event<'_>> {
        let Ok(object) = serde_json::from_slice::<Object<'_>>(line) else {
            let ends =
                |said: &DaemonLine| matches!(said, DaemonLine::Error { .. } | DaemonLine::Shutdown);
            return DaemonLine::read(line).filter(ends).map(|_| Event::End);
        };
        let (seq, client) = (Seq(object.seq), ClientId(object.client));
        Some(match &*object.event {
            "message" => Event::Message {
                seq,
                client,
                payload: object.payload()?,
            },
            "connect" | "disconnect" => Event::Notice {
                seq,
                client,
                connect: object.event == "connect",
            },
            "hello" => Event::Hello(Answer {
                client,
                channel: object.channel.into_owned(),
                place: Place::new(&object.epoch, object.seq)?,
                recovered: object.recovered,
                taken: object.taken,
                echo: object.echo,
            }),
            "skip" => Event::Skip {
                count: object.count,
            },
            "ack" => Event::Ack {
                taken: object.taken?,
            },
            "error" | "shutdown" => Event::End,
            _ => Event::Other,
        })
    }
}

impl<'a> Object<'a> {
    /// An empty payload is UTF-8, so that `data_base64` is never empty.
    fn payload(self) -> Option<Cow<'a, [u8]>> {
        if !self.data_base64.is_empty() {
            return BASE64.decode(&*self.data_base64).ok().map(Cow::Owned);
        }
        Some(match self.data {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::close_reason::CloseReason;
    use crate::wire::format::{self, Format, Notice};

    #[test]
    fn events_are_read_as_the_daemon_writes_them() {
        let mut lines = Vec::new();
        format::json_lines(ClientId(7), Seq(41), b"a \"b\"\n\n\xff\r\n", &mut lines);
        format::json_notice(Notice::Connect, ClientId(8), Seq(44), &mut lines);
        format::json_notice(Notice::Disconnect, ClientId(8), Seq(45), &mut lines);
        format::skip(Format::Json, 120, &mut lines);
        format::error(Format::Json, CloseReason::Full, "full", &mut lines);
        format::error(Format::Text, CloseReason::Full, "full", &mut lines);
        format::shutdown(Format::Json, &mut lines);
        format::shutdown(Format::Text, &mut lines);
        lines.extend_from_slice(b"{\"event\":\"ack\",\"taken\":9}\n{\"event\":\"x\"}\nhello\n");
        let message = |seq, payload: &'static [u8]| {
            Some(Event::Message {
                seq: Seq(seq),
                client: ClientId(7),
                payload: payload.into(),
            })
        };
        let notice = |seq, connect| {
            Some(Event::Notice {
                seq: Seq(seq),
                client: ClientId(8),
                connect,
            })
        };
        let mut lines = lines.split(|byte| *byte == b'\n');
        for wanted in [
            message(41, b"a \"b\""),
            message(42, b""),
            message(43, b"\xff"),
            notice(44, true),
            notice(45, false),
            Some(Event::Skip { count: 120 }),
            Some(Event::End),
            Some(Event::End),
            Some(Event::End),
            Some(Event::End),
            Some(Event::Ack { taken: 9 }),
            Some(Event::Other),
            None,
        ] {
            assert_eq!(Event::read(lines.next().unwrap()), wanted);
        }
    }

    #[test]
    fn answer_says_the_place_and_what_was_asked_for() {
        let line = b"{\"event\":\"hello\",\"client\":7,\"channel\":\"nmea\",\"epoch\":\"5f3a9c11\",\"seq\":4711,\
                     \"recovered\":true,\"taken\":3}";
        let Some(Event::Hello(answer)) = Event::read(line) else {
            panic!("no answer");
        };
        assert_eq!(answer.place.to_string(), "5f3a9c11:4711");
        assert_eq!(
            (&*answer.channel, answer.recovered, answer.taken),
            ("nmea", Some(true), Some(3))
        );
        for epoch in ["", "+f3a9c11", "5f3a9c1", "5f3a9c111"] {
            assert_eq!(Place::new(epoch, 1), None, "{epoch}");
        }
    }
}
