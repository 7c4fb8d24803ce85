//! One connection that is put away, saved and restored after every byte that comes.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::task::Waker;

use s2n_tls::connection::Connection;
use s2n_tls::security::Policy;
use tokio::io::Interest;

use s2n_tls::config::Builder;
use s2n_tls::enums::PeerKeyUpdate;

use super::*;
use crate::net::sockopt::register;
use crate::net::tls::settings::prepare;

/// A peer in memory, and the daemon's side of a real socket to it.
struct Pair {
    peer: Connection,
    /// What has come for the peer, and it has not looked at.
    for_peer: Vec<u8>,
    wire: UnixStream,
    io: AsyncFd<OwnedFd>,
    session: TlsSession,
}

impl Pair {
    /// A pair whose handshake is done, in the version that this policy of s2n-tls is for.
    async fn agreed(policy: &str) -> Pair {
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (certificate, key) = (own.cert.pem(), own.signing_key.serialize_pem());
        let mut server = Builder::new();
        server.with_system_certs(false).unwrap();
        prepare(&mut server).unwrap();
        server
            .load_pem(certificate.as_bytes(), key.as_bytes())
            .unwrap();
        let mut client = Builder::new();
        client.with_system_certs(false).unwrap();
        client.trust_pem(certificate.as_bytes()).unwrap();
        let policy = Policy::from_version(policy).unwrap();
        client.set_security_policy(&policy).unwrap();
        let mut peer = Connection::new_client();
        peer.set_config(client.build().unwrap()).unwrap();
        peer.set_server_name("localhost").unwrap();
        exchange::attach(&mut peer).unwrap();

        let (wire, socket) = UnixStream::pair().unwrap();
        wire.set_nonblocking(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        let connection = connection(&server.build().unwrap()).unwrap();
        let mut pair = Pair {
            peer,
            for_peer: Vec::new(),
            wire,
            io: register(socket.into(), Interest::READABLE | Interest::WRITABLE).unwrap(),
            session: TlsSession {
                is_negotiating: true,
                ..TlsSession::over(Some(connection))
            },
        };
        let mut agreed = false;
        while !agreed {
            let (done, sent) = pair.with_peer(|peer| peer.poll_negotiate().map_ok(drop));
            agreed = matches!(done, Poll::Ready(Ok(())));
            // Cut at every byte, too.
            for byte in sent {
                pair.deliver(byte).await;
                let negotiated = pair.session.poll_negotiate(&pair.io, &mut no_waker());
                assert!(!matches!(negotiated, Poll::Ready(Err(_))), "{negotiated:?}");
                if negotiated.is_ready() {
                    pair.session.is_negotiating = false;
                }
            }
        }
        assert!(!pair.session.is_negotiating);
        pair
    }

    /// Has the peer work on what has come for it; what it sends.
    fn with_peer<T>(&mut self, work: impl FnOnce(&mut Connection) -> T) -> (T, Vec<u8>) {
        use std::io::Read as _;
        // Ends with an error when there is no more, and has kept what there was.
        let _ = self.wire.read_to_end(&mut self.for_peer);
        let input = mem::take(&mut self.for_peer);
        let peer = &mut self.peer;
        let (done, outcome) = exchange::with(input, None, || work(peer));
        self.for_peer = outcome.rest;
        (done, outcome.output)
    }

    fn peer_sends(&mut self, line: &[u8]) -> Vec<u8> {
        let (sent, bytes) = self.with_peer(|peer| peer.poll_send(line));
        assert!(matches!(sent, Poll::Ready(Ok(all)) if all == line.len()));
        bytes
    }

    /// All that the daemon has written, as the peer reads it.
    fn peer_reads(&mut self) -> Vec<u8> {
        let (read, _) = self.with_peer(|peer| {
            let (mut all, mut part) = (Vec::new(), [0; 4096]);
            while let Poll::Ready(Ok(read @ 1..)) = peer.poll_recv(&mut part) {
                all.extend_from_slice(&part[..read]);
            }
            all
        });
        read
    }

    /// Sends the daemon a byte, and waits until it is there.
    async fn deliver(&mut self, byte: u8) {
        use std::io::Write as _;
        self.wire.write_all(&[byte]).unwrap();
        self.io.readable().await.unwrap().retain_ready();
        self.io.writable().await.unwrap().retain_ready();
    }

    /// The next daemon takes the connection up, from the bytes that it was left.
    fn hand_over(&mut self) {
        self.session.put_away().unwrap();
        let saved = rmp_serde::to_vec_named(&self.session.save()).unwrap();
        self.session = TlsSession::restore(rmp_serde::from_slice(&saved).unwrap());
    }

    /// All that is there to be read, and whether the peer has said that no more comes.
    fn read(&mut self) -> (Vec<u8>, bool) {
        // Three bytes at a time leave some of a record that is decrypted.
        let (mut all, mut part) = (Vec::new(), [0; 3]);
        loop {
            match self.session.poll_read(&self.io, &mut no_waker(), &mut part) {
                Poll::Ready(Ok(0)) => return (all, true),
                Poll::Ready(Ok(read)) => all.extend_from_slice(&part[..read]),
                Poll::Ready(Err(error)) => panic!("{error}"),
                Poll::Pending => return (all, false),
            }
        }
    }

    fn write(&mut self, line: &[u8]) {
        let slices = [IoSlice::new(&line[..1]), IoSlice::new(&line[1..])];
        let written = self.session.poll_write(&self.io, &mut no_waker(), &slices);
        assert!(matches!(written, Poll::Ready(Ok(all)) if all == line.len()));
    }
}

fn no_waker() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Policies of s2n-tls for one version each.
const VERSIONS: [&str; 2] = ["20240501", "AWS-CRT-SDK-TLSv1.3-2023"];

#[tokio::test]
async fn any_cut_survives_a_handover_with_both_directions_whole() {
    for version in VERSIONS {
        let mut pair = Pair::agreed(version).await;
        let is_13 = version == VERSIONS[1];
        let spoken = pair.peer.actual_protocol_version().unwrap();
        assert_eq!(spoken == s2n_tls::enums::Version::TLS13, is_13);
        let (mut sent, mut bytes) = (Vec::new(), Vec::new());
        for line in [&b"one\n"[..], b"a\n", b"\n", &[b'x'; 300], b"half"] {
            bytes.extend(pair.peer_sends(line));
            sent.extend_from_slice(line);
            if is_13 && line == b"\n" {
                pair.peer
                    .request_key_update(PeerKeyUpdate::KeyUpdateNotRequested)
                    .unwrap();
            }
        }
        let (shut, close) = pair.with_peer(|peer| peer.poll_shutdown_send().map_ok(drop));
        assert!(matches!(shut, Poll::Ready(Ok(()))));
        bytes.extend(close);

        let (mut got, mut told, mut ended) = (Vec::new(), Vec::new(), false);
        for (at, byte) in bytes.iter().enumerate() {
            assert!(!ended, "{version}: {at} of {}", bytes.len());
            pair.deliver(*byte).await;
            // The byte is in the session, and perhaps a record with it, when it is handed over.
            if at % 2 == 0 {
                let mut first = [0];
                if let Poll::Ready(Ok(1)) =
                    pair.session
                        .poll_read(&pair.io, &mut no_waker(), &mut first)
                {
                    got.push(first[0]);
                }
            }
            pair.hand_over();
            if at % 7 == 0 {
                let line = format!("{at}\n");
                pair.write(line.as_bytes());
                told.extend_from_slice(line.as_bytes());
            }
            let (some, is_end) = pair.read();
            got.extend(some);
            ended = is_end;
        }
        assert_eq!((got, ended), (sent, true), "{version}");
        // The peer has ended its side, and still gets what is said, and then the end.
        pair.hand_over();
        pair.write(b"last\n");
        told.extend_from_slice(b"last\n");
        pair.session.close(pair.io.as_fd()).unwrap();
        pair.hand_over();
        if is_13 {
            assert_eq!(pair.peer_reads(), told, "{version}");
        }
    }
}

#[tokio::test]
async fn what_a_full_socket_does_not_take_comes_along() {
    for version in VERSIONS {
        let mut pair = Pair::agreed(version).await;
        let mut told = Vec::new();
        let mut stuck = 0;
        for number in 0..400_u32 {
            let line = format!("{number} {}\n", "y".repeat(20_000));
            match pair.session.poll_write(
                &pair.io,
                &mut no_waker(),
                &[IoSlice::new(line.as_bytes())],
            ) {
                Poll::Ready(Ok(written)) => told.extend_from_slice(&line.as_bytes()[..written]),
                Poll::Ready(Err(error)) => panic!("{error}"),
                Poll::Pending => {
                    stuck += 1;
                    pair.hand_over();
                    break;
                }
            }
        }
        assert_eq!(stuck, 1, "the socket was full");
        let mut got = Vec::new();
        while got.len() < told.len() {
            let some = pair.peer_reads();
            got.extend_from_slice(&some);
            let flushed = pair.session.poll_flush(&pair.io, &mut no_waker());
            match flushed {
                Poll::Ready(flushed) => flushed.unwrap(),
                Poll::Pending => pair.io.writable().await.unwrap().retain_ready(),
            }
        }
        assert!(got == told, "{version}");
    }
}

#[tokio::test]
async fn end_without_a_word_is_no_end_and_other_bytes_are_no_records() {
    for version in VERSIONS {
        let mut pair = Pair::agreed(version).await;
        let bytes = pair.peer_sends(b"line\n");
        for byte in &bytes {
            pair.deliver(*byte).await;
        }
        assert_eq!(pair.read(), (b"line\n".to_vec(), false));
        pair.wire.shutdown(std::net::Shutdown::Write).unwrap();
        pair.io.readable().await.unwrap().retain_ready();
        let read = pair
            .session
            .poll_read(&pair.io, &mut no_waker(), &mut [0; 9]);
        let Poll::Ready(Err(error)) = read else {
            panic!("{read:?}");
        };
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);

        let mut pair = Pair::agreed(version).await;
        let mut bytes = pair.peer_sends(b"line\n");
        *bytes.last_mut().unwrap() ^= 1;
        for byte in &bytes {
            pair.deliver(*byte).await;
        }
        let read = pair
            .session
            .poll_read(&pair.io, &mut no_waker(), &mut [0; 9]);
        let Poll::Ready(Err(error)) = read else {
            panic!("{read:?}");
        };
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
