//! A client as a blocking socket, over TCP or Unix.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::{Address, PATIENCE, Server};

/// What a client sees next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A whole line, without its LF. A CR stays: some tests are about it.
    Line(Vec<u8>),
    /// The end of the stream, with what came after the last LF.
    Eof(Vec<u8>),
    /// The connection was reset.
    Reset,
}

/// A client. Dropping it closes the socket.
pub(crate) struct Client {
    socket: Socket,
    id: u64,
    input: Vec<u8>,
    taken: usize,
    /// The last lines, for the message of a test that fails.
    seen: VecDeque<Vec<u8>>,
}

impl Client {
    /// Connects to the first listener and waits until the daemon counts it as a client.
    #[track_caller]
    pub(crate) fn connect(server: &Server) -> Client {
        Client::connect_to(server, 0)
    }

    /// Connects to listener `i` and waits until the daemon counts it as a client.
    #[track_caller]
    pub(crate) fn connect_to(server: &Server, i: usize) -> Client {
        Client::connect_with(server, i, |_| ())
    }

    /// Connects with a receive buffer so small that a client that does not read is soon stuck.
    #[track_caller]
    pub(crate) fn connect_stuck(server: &Server, i: usize) -> Client {
        Client::connect_with(server, i, |socket| {
            socket.set_recv_buffer_size(4096).expect("SO_RCVBUF");
        })
    }

    /// A client that was stuck takes as much at a time as others do.
    pub(crate) fn wake(&self) {
        self.socket
            .set_recv_buffer_size(1 << 20)
            .expect("SO_RCVBUF");
    }

    #[track_caller]
    fn connect_with(server: &Server, i: usize, options: impl FnOnce(&Socket)) -> Client {
        let address = server.addr(i);
        // A Unix peer has no name, so that one is known by being the next on its listener.
        let words = format!("client connected listener={address}");
        let earlier = server.count_log(&words);
        let mut client = Client::dial_with(address, options);
        client.id = match address {
            Address::Tcp(_) => {
                let peer = client.socket.local_addr().expect("bound").as_socket();
                server.wait_peer(&peer.expect("an IP address").to_string(), address)
            }
            Address::Unix(_) => {
                let lines = server.wait_log_count(&words, earlier + 1);
                let id = lines[earlier]
                    .split_whitespace()
                    .find_map(|w| w.strip_prefix("client="));
                id.expect("client=").parse().expect("an id")
            }
        };
        client
    }

    /// Connects and waits for nothing: the daemon may refuse it, or not have seen it yet.
    #[track_caller]
    pub(crate) fn dial(address: &Address) -> Client {
        Client::dial_with(address, |_| ())
    }

    #[track_caller]
    fn dial_with(address: &Address, options: impl FnOnce(&Socket)) -> Client {
        let (domain, to) = match address {
            Address::Tcp(to) => (Domain::for_address(*to), SockAddr::from(*to)),
            Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path).expect("a short path")),
        };
        let socket = Socket::new(domain, Type::STREAM, None).expect("a socket");
        options(&socket);
        socket
            .connect(&to)
            .unwrap_or_else(|e| panic!("connect to {address}: {e}"));
        if domain != Domain::UNIX {
            // Small writes leave one by one, as the tests of framing want them.
            socket.set_tcp_nodelay(true).expect("TCP_NODELAY");
        }
        Client::over(socket, 0)
    }

    /// The same, with a receive buffer as of [`Client::connect_stuck`].
    #[track_caller]
    pub(crate) fn dial_stuck(address: &Address) -> Client {
        Client::dial_with(address, |socket| {
            socket.set_recv_buffer_size(4096).expect("SO_RCVBUF");
        })
    }

    /// The daemon has said its number for this client.
    pub(crate) fn numbered(self, id: u64) -> Client {
        Client { id, ..self }
    }

    /// Waits so long for what it reads.
    #[cfg(feature = "nats")]
    pub(crate) fn patient_for(self, time: Duration) -> Client {
        let set = self.socket.set_read_timeout(Some(time));
        set.expect("SO_RCVTIMEO");
        self
    }

    /// A client on a socket that is connected already, with the daemon's number for it.
    pub(crate) fn over(socket: Socket, id: u64) -> Client {
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("SO_RCVTIMEO");
        socket
            .set_write_timeout(Some(PATIENCE))
            .expect("SO_SNDTIMEO");
        Client {
            socket,
            id,
            input: Vec::new(),
            taken: 0,
            seen: VecDeque::new(),
        }
    }

    /// The daemon's number for this client.
    pub(crate) fn id(&self) -> u64 {
        assert_ne!(self.id, 0, "dialled, not connected");
        self.id
    }

    pub(crate) fn local_address(&self) -> std::net::SocketAddr {
        self.socket
            .local_addr()
            .expect("bound")
            .as_socket()
            .expect("an IP address")
    }

    /// A second handle on the same socket, to send from another thread.
    pub(crate) fn sender(&self) -> Socket {
        self.socket.try_clone().expect("dup")
    }

    #[track_caller]
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.socket
            .write_all(bytes)
            .unwrap_or_else(|e| panic!("send: {e}; {}", self.tail()));
    }

    #[track_caller]
    pub(crate) fn send_line(&mut self, line: &str) {
        self.send_bytes(format!("{line}\n").as_bytes());
    }

    /// Sends as long as the daemon takes bytes. Says whether all were sent: false when none was
    /// taken for `blocked`.
    #[track_caller]
    pub(crate) fn send_unless_blocked(&mut self, mut bytes: &[u8], blocked: Duration) -> bool {
        self.socket
            .set_write_timeout(Some(blocked))
            .expect("SO_SNDTIMEO");
        while !bytes.is_empty() {
            match self.socket.write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => return false,
                Err(e) => panic!("send: {e}"),
            }
        }
        true
    }

    /// Sends FIN and goes on reading.
    pub(crate) fn finish(&mut self) {
        self.socket.shutdown(Shutdown::Write).expect("shutdown");
    }

    /// Closes with RST.
    pub(crate) fn reset(self) {
        self.socket
            .set_linger(Some(Duration::ZERO))
            .expect("SO_LINGER");
    }

    /// Reads more input: bytes, 0 at the end, or the reset.
    #[track_caller]
    fn fill(&mut self) -> std::io::Result<usize> {
        self.input.drain(..self.taken);
        self.taken = 0;
        let length = self.input.len();
        self.input.resize(length + 65536, 0);
        // A read with a timeout is not resumed after a signal, whatever the handler asks for.
        let result = loop {
            match self.socket.read(&mut self.input[length..]) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        self.input.truncate(length + *result.as_ref().unwrap_or(&0));
        match &result {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let time = self.socket.read_timeout().ok().flatten();
                panic!("nothing came for {time:?}; {}", self.tail())
            }
            Err(e) if e.kind() != ErrorKind::ConnectionReset => panic!("read: {e}"),
            _ => result,
        }
    }

    #[track_caller]
    pub(crate) fn next(&mut self) -> Event {
        let mut searched = 0;
        loop {
            let rest = &self.input[self.taken..];
            if let Some(at) = memchr::memchr(b'\n', &rest[searched..]) {
                let line = rest[..searched + at].to_vec();
                self.taken += line.len() + 1;
                if self.seen.len() == 10 {
                    self.seen.pop_front();
                }
                self.seen.push_back(line.clone());
                return Event::Line(line);
            }
            searched = rest.len();
            match self.fill() {
                Ok(0) => return Event::Eof(std::mem::take(&mut self.input)),
                Ok(_) => (),
                Err(_) => return Event::Reset,
            }
        }
    }

    #[track_caller]
    pub(crate) fn read_line_bytes(&mut self) -> Vec<u8> {
        match self.next() {
            Event::Line(line) => line,
            other => panic!("wanted a line, got {other:?}; {}", self.tail()),
        }
    }

    #[track_caller]
    pub(crate) fn read_line(&mut self) -> String {
        String::from_utf8(self.read_line_bytes()).expect("UTF-8")
    }

    #[track_caller]
    pub(crate) fn read_json(&mut self) -> serde_json::Value {
        let line = self.read_line();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    /// Exactly this many bytes, line ends included.
    #[track_caller]
    pub(crate) fn read_bytes(&mut self, count: usize) -> Vec<u8> {
        while self.input.len() - self.taken < count {
            match self.fill() {
                Ok(0) => panic!("the end came after {:?}", &self.input[self.taken..]),
                Ok(_) => (),
                Err(e) => panic!("{e} after {:?}", &self.input[self.taken..]),
            }
        }
        self.taken += count;
        self.input[self.taken - count..self.taken].to_vec()
    }

    #[track_caller]
    pub(crate) fn expect_line(&mut self, wanted: &str) {
        let line = self.read_line_bytes();
        assert_eq!(String::from_utf8_lossy(&line), wanted, "{}", self.tail());
    }

    /// Exactly this line from this client, in `text`.
    #[track_caller]
    pub(crate) fn expect_message(&mut self, from: u64, payload: &str) {
        self.expect_line(&format!("Message from client {from}: {payload}"));
    }

    /// The end of the stream: a FIN, with nothing before it.
    #[track_caller]
    pub(crate) fn expect_eof(&mut self) {
        let event = self.next();
        assert_eq!(event, Event::Eof(Vec::new()), "{}", self.tail());
    }

    /// All lines up to the FIN, which comes after a whole line.
    #[track_caller]
    pub(crate) fn lines_to_eof(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            match self.next() {
                Event::Line(line) => lines.push(String::from_utf8(line).expect("UTF-8")),
                Event::Eof(rest) if rest.is_empty() => return lines,
                other => panic!("wanted a FIN, got {other:?}; {}", self.tail()),
            }
        }
    }

    /// Reads up to this line, and returns the lines before it.
    #[track_caller]
    pub(crate) fn lines_until(&mut self, last: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.read_line();
            if line == last {
                return lines;
            }
            lines.push(line);
        }
    }

    fn tail(&self) -> String {
        let seen: Vec<_> = self
            .seen
            .iter()
            .map(|l| String::from_utf8_lossy(l))
            .collect();
        let rest = &self.input[self.taken..];
        let rest = String::from_utf8_lossy(&rest[..rest.len().min(200)]);
        format!("client {} saw last {seen:#?} and then {rest:?}", self.id)
    }
}
