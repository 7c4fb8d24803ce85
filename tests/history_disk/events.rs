//! A client in `json` that outlives its connections.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Address, PATIENCE};

/// What comes next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    Message {
        seq: u64,
        data: String,
    },
    /// So many messages were missed.
    Skip(u64),
    /// The session's lines up to this are safe.
    Ack(u64),
    Other(Value),
    /// The connection has ended, in whatever way, perhaps in the middle of a line.
    End,
}

/// A connection whose hello has been answered.
pub(crate) struct Events {
    input: BufReader<UnixStream>,
    line: Vec<u8>,
    pub(crate) hello: Value,
}

impl Events {
    /// Says hello with these words, again and again until a daemon answers.
    #[track_caller]
    pub(crate) fn join(address: &Address, words: &str) -> Events {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(events) = Events::try_join(address, words) {
                return events;
            }
            assert!(Instant::now() < deadline, "nobody answers {words:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The same, once: `None` where no daemon answers to the end.
    #[track_caller]
    pub(crate) fn try_join(address: &Address, words: &str) -> Option<Events> {
        let Address::Unix(path) = address else {
            panic!("{address} is no path");
        };
        let mut stream = UnixStream::connect(path).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let hello = format!("LINEHUB/1 format=json {words}\n");
        stream.write_all(hello.as_bytes()).ok()?;
        let mut events = Events {
            input: BufReader::with_capacity(1 << 16, stream),
            line: Vec::new(),
            hello: Value::Null,
        };
        match events.next() {
            Event::Other(hello) if hello["event"] == "hello" => events.hello = hello,
            Event::End => return None,
            other => panic!("no answer to {words:?}: {other:?}"),
        }
        Some(events)
    }

    pub(crate) fn epoch(&self) -> &str {
        self.hello["epoch"].as_str().expect("an epoch")
    }

    /// The number before what follows.
    pub(crate) fn seq(&self) -> u64 {
        self.hello["seq"].as_u64().expect("a number")
    }

    /// What was taken of its session.
    pub(crate) fn taken(&self) -> u64 {
        self.hello["taken"].as_u64().expect("a session")
    }

    /// The connection, to be written to.
    pub(crate) fn stream(&self) -> UnixStream {
        self.input.get_ref().try_clone().expect("dup")
    }

    #[track_caller]
    pub(crate) fn send(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.input
            .get_mut()
            .write_all(line.as_bytes())
            .expect("it takes a line");
    }

    #[track_caller]
    pub(crate) fn next(&mut self) -> Event {
        self.line.clear();
        match self.input.read_until(b'\n', &mut self.line) {
            Ok(_) if self.line.ends_with(b"\n") => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("nothing came for {PATIENCE:?}")
            }
            _ => return Event::End,
        }
        let mut event: Value = serde_json::from_slice(&self.line)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.line)));
        let number = |name: &str| event[name].as_u64().expect("a number");
        match event["event"].as_str().expect("an event") {
            "message" => {
                let seq = number("seq");
                let Value::String(data) = event["data"].take() else {
                    panic!("no text in {event}");
                };
                Event::Message { seq, data }
            }
            "skip" => Event::Skip(number("count")),
            "ack" => Event::Ack(number("taken")),
            _ => Event::Other(event),
        }
    }

    /// The next message, and nothing else before it.
    #[track_caller]
    pub(crate) fn message(&mut self) -> (u64, String) {
        match self.next() {
            Event::Message { seq, data } => (seq, data),
            other => panic!("no message: {other:?}"),
        }
    }
}
