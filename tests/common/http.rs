//! HTTP by hand: a request is written as it is, and the answer taken apart.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use super::{Address, PATIENCE};

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The lines of its head, the first included.
    pub(crate) head: String,
    pub(crate) body: String,
}

/// A connection that speaks bytes.
pub(crate) trait Connection: Read + Write + Send {}

impl<T: Read + Write + Send> Connection for T {}

/// Connects, and waits no longer than patience allows.
#[track_caller]
pub(crate) fn connect(to: &Address) -> Box<dyn Connection> {
    match to {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).expect("it listens");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            Box::new(stream)
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).expect("it listens");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            Box::new(stream)
        }
    }
}

/// Sends a request, with its last empty line, and takes everything that comes.
#[track_caller]
pub(crate) fn request(to: &Address, request: &str) -> Answer {
    let mut connection = connect(to);
    connection
        .write_all(request.as_bytes())
        .expect("it takes a request");
    let mut bytes = Vec::new();
    connection.read_to_end(&mut bytes).expect("an answer");
    Answer::read(&String::from_utf8(bytes).expect("UTF-8"))
}

/// Asks for a path.
#[track_caller]
pub(crate) fn get(to: &Address, path: &str) -> Answer {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
    request(to, &head)
}

/// Asks for a path, and reads the JSON that comes.
#[track_caller]
pub(crate) fn get_json(to: &Address, path: &str) -> serde_json::Value {
    let answer = get(to, path);
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    assert!(answer.has("content-type: application/json"), "{answer:?}");
    serde_json::from_str(&answer.body).expect("JSON")
}

impl Answer {
    #[track_caller]
    fn read(text: &str) -> Answer {
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).expect("a status");
        Answer {
            status: status.parse().expect("a number"),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    /// Whether a line of the head is this, whatever its case.
    pub(crate) fn has(&self, line: &str) -> bool {
        self.head
            .lines()
            .any(|found| found.eq_ignore_ascii_case(line))
    }

    /// The value of a sample in the metrics: `name` with its labels.
    #[track_caller]
    pub(crate) fn sample(&self, name: &str) -> f64 {
        let line = self.body.lines().find_map(|line| {
            let (found, value) = line.rsplit_once(' ')?;
            (found == name).then_some(value)
        });
        let value = line.unwrap_or_else(|| panic!("no {name} in {}", self.body));
        value.parse().expect("a number")
    }
}
