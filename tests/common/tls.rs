//! A client over TLS whose records are in the hands of the test. It is rustls, which shares no code with
//! what the daemon uses.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use socket2::{Domain, Socket, Type};

use super::{Address, Authority, PATIENCE, Pair, Server};

/// Versions of TLS that are spoken.
pub(crate) const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// What a client over TLS sees next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TlsEvent {
    /// A whole line, without its LF.
    Line(String),
    /// The end, as TLS says it, with what came after the last LF.
    End(String),
    /// The end of the connection without a word of TLS for it.
    Cut,
    /// An alert, or what is no TLS.
    Refused(String),
}

/// A client over TLS. Dropping it closes the socket, and says nothing.
pub(crate) struct TlsClient {
    /// For what needs more than this.
    pub(crate) tls: ClientConnection,
    pub(crate) socket: Socket,
    id: u64,
    input: Vec<u8>,
    taken: usize,
    ended: bool,
}

/// What a client speaks: this version, trusting the authority, with a certificate or without.
pub(crate) fn speaking(
    version: &'static SupportedProtocolVersion,
    authority: &Authority,
    shown: Option<&Pair>,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let trusted = CertificateDer::from_pem_file(&authority.certificate).expect("PEM");
    roots.add(trusted).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots);
    Arc::new(match shown {
        None => config.with_no_client_auth(),
        Some(pair) => {
            let chain = CertificateDer::from_pem_file(&pair.certificate).expect("PEM");
            let key = PrivateKeyDer::from_pem_file(&pair.key).expect("PEM");
            let config = config.with_client_auth_cert(vec![chain], key);
            config.expect("they fit together")
        }
    })
}

impl TlsClient {
    /// Connects to listener `i` and waits until the daemon counts it as a client.
    #[track_caller]
    pub(crate) fn connect(server: &Server, i: usize, config: &Arc<ClientConfig>) -> TlsClient {
        TlsClient::dial(server.addr(i), config).counted(server, i)
    }

    /// The same, with a receive buffer so small that a client that does not read is soon stuck.
    #[track_caller]
    pub(crate) fn stuck(server: &Server, i: usize, config: &Arc<ClientConfig>) -> TlsClient {
        let client = TlsClient::begin_with(server.addr(i), config, |socket| {
            socket.set_recv_buffer_size(4096).expect("SO_RCVBUF");
        });
        client.agreed().counted(server, i)
    }

    /// Connects, and agrees on TLS.
    #[track_caller]
    pub(crate) fn dial(address: &Address, config: &Arc<ClientConfig>) -> TlsClient {
        TlsClient::begin(address, config).agreed()
    }

    /// Connects, and says nothing.
    #[track_caller]
    pub(crate) fn begin(address: &Address, config: &Arc<ClientConfig>) -> TlsClient {
        TlsClient::begin_with(address, config, |_| ())
    }

    #[track_caller]
    fn begin_with(
        address: &Address,
        config: &Arc<ClientConfig>,
        options: impl FnOnce(&Socket),
    ) -> TlsClient {
        let Address::Tcp(to) = address else {
            panic!("{address} is not TCP");
        };
        let socket = Socket::new(Domain::for_address(*to), Type::STREAM, None).expect("a socket");
        options(&socket);
        socket.connect(&(*to).into()).expect("it listens");
        socket.set_tcp_nodelay(true).expect("TCP_NODELAY");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        let name = ServerName::try_from("localhost").expect("a name");
        let mut tls = ClientConnection::new(config.clone(), name).expect("a connection");
        tls.set_buffer_limit(None);
        TlsClient {
            tls,
            socket,
            id: 0,
            input: Vec::new(),
            taken: 0,
            ended: false,
        }
    }

    /// Agrees on TLS.
    #[track_caller]
    pub(crate) fn agreed(mut self) -> TlsClient {
        let agreed = self.agree();
        agreed.unwrap_or_else(|event| panic!("no TLS: {event:?}"));
        self
    }

    /// Agrees on TLS, unless this comes in between.
    pub(crate) fn agree(&mut self) -> Result<(), TlsEvent> {
        while self.tls.is_handshaking() {
            self.flush();
            if self.tls.is_handshaking() {
                self.fill()?;
            }
        }
        self.flush();
        Ok(())
    }

    #[track_caller]
    fn counted(mut self, server: &Server, i: usize) -> TlsClient {
        let peer = self.socket.local_addr().expect("bound").as_socket();
        let peer = peer.expect("an IP address").to_string();
        self.id = server.wait_peer(&peer, server.addr(i));
        self
    }

    /// The daemon's number for it.
    pub(crate) fn id(&self) -> u64 {
        assert_ne!(self.id, 0, "dialled, not connected");
        self.id
    }

    /// What TLS has to be said, as far as the connection takes it.
    pub(crate) fn flush(&mut self) {
        let bytes = self.records();
        // A daemon that has closed has said why, which is still there to be read.
        let _ = self.socket.write_all(&bytes);
    }

    /// What TLS has to be said, which is not sent.
    pub(crate) fn records(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).expect("memory");
        }
        bytes
    }

    /// Records of these bytes, which are not sent.
    pub(crate) fn seal(&mut self, bytes: impl AsRef<[u8]>) -> Vec<u8> {
        self.tls.writer().write_all(bytes.as_ref()).expect("memory");
        self.records()
    }

    /// Sends what is no TLS, or TLS that was made before.
    #[track_caller]
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the daemon takes it");
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let records = self.seal(bytes);
        self.send_raw(&records);
    }

    /// Says that no more comes, and goes on reading.
    #[track_caller]
    pub(crate) fn close_notify(&mut self) {
        self.tls.send_close_notify();
        self.flush();
    }

    /// New keys for what it sends, asking for those of the other side.
    #[track_caller]
    pub(crate) fn update_keys(&mut self) {
        self.tls.refresh_traffic_keys().expect("TLS 1.3");
        self.flush();
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

    /// A client that was stuck takes as much at a time as others do.
    pub(crate) fn wake(&self) {
        self.socket
            .set_recv_buffer_size(1 << 20)
            .expect("SO_RCVBUF");
    }

    /// Waits until the daemon has read what was sent: nothing of it is on the way or in its kernel.
    #[track_caller]
    pub(crate) fn wait_taken(&self) {
        let own = self.socket.local_addr().expect("bound");
        let own = own.as_socket_ipv4().expect("IPv4");
        let address = u32::from_ne_bytes(own.ip().octets());
        let own = format!("{address:08X}:{:04X}", own.port());
        super::eventually("it is taken", || {
            // proc_net_tcp(5): both ends, and what waits in them to be sent and to be read.
            let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
            table.lines().all(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let is_empty = |queue: &str| queue.bytes().all(|digit| digit == b'0');
                match words[..] {
                    [_, local, _, _, queues, ..] if local == own => is_empty(&queues[..8]),
                    [_, _, remote, _, queues, ..] if remote == own => is_empty(&queues[9..]),
                    _ => true,
                }
            })
        });
    }

    /// Waits until the daemon has answered.
    pub(crate) fn wait_readable(&self) {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        self.socket.peek(&mut byte).expect("an answer");
    }

    fn fill(&mut self) -> Result<(), TlsEvent> {
        let mut bytes = [0; 65536];
        let read = match self.socket.read(&mut bytes) {
            Ok(0) => return Err(TlsEvent::Cut),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                panic!("nothing came for {PATIENCE:?} to client {}", self.id)
            }
            Err(_) => return Err(TlsEvent::Cut),
        };
        let mut rest = &bytes[..read];
        while !rest.is_empty() {
            self.tls.read_tls(&mut rest).expect("memory");
            let state = self.tls.process_new_packets();
            let state = state.map_err(|error| TlsEvent::Refused(error.to_string()))?;
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            self.tls.reader().read_exact(&mut plain).expect("memory");
            self.input.extend(plain);
            self.ended |= state.peer_has_closed();
        }
        if self.tls.wants_write() {
            self.flush();
        }
        Ok(())
    }

    #[track_caller]
    pub(crate) fn next(&mut self) -> TlsEvent {
        let mut searched = 0;
        loop {
            let rest = &self.input[self.taken..];
            if let Some(at) = memchr::memchr(b'\n', &rest[searched..]) {
                let line = String::from_utf8(rest[..searched + at].to_vec()).expect("UTF-8");
                self.taken += searched + at + 1;
                return TlsEvent::Line(line);
            }
            if self.ended {
                return TlsEvent::End(String::from_utf8(rest.to_vec()).expect("UTF-8"));
            }
            self.input.drain(..self.taken);
            self.taken = 0;
            searched = self.input.len();
            if let Err(event) = self.fill() {
                return event;
            }
        }
    }

    #[track_caller]
    pub(crate) fn read_line(&mut self) -> String {
        match self.next() {
            TlsEvent::Line(line) => line,
            other => panic!("client {} wanted a line, got {other:?}", self.id),
        }
    }

    /// All lines up to the end of the stream.
    #[track_caller]
    pub(crate) fn lines_to_end(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            match self.next() {
                TlsEvent::Line(line) => lines.push(line),
                TlsEvent::End(rest) => {
                    assert_eq!(rest, "", "a line is cut");
                    return lines;
                }
                other => panic!("client {} wanted a line, got {other:?}", self.id),
            }
        }
    }

    #[track_caller]
    pub(crate) fn expect_line(&mut self, wanted: &str) {
        assert_eq!(self.read_line(), wanted);
    }

    /// Exactly this line from this client, in `text`.
    #[track_caller]
    pub(crate) fn expect_message(&mut self, from: u64, payload: &str) {
        self.expect_line(&format!("Message from client {from}: {payload}"));
    }

    /// The end as TLS says it, with nothing before it, and then that of the connection.
    #[track_caller]
    pub(crate) fn expect_end(&mut self) {
        assert_eq!(self.next(), TlsEvent::End(String::new()));
        let mut rest = Vec::new();
        self.socket.read_to_end(&mut rest).expect("a FIN");
        assert_eq!(rest, b"", "after the end");
    }
}
