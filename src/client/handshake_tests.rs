//! Handshakes that wait, as for a hello line: seen from the other end of real connections.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::acceptor::{AcceptLoops, Acceptor};

use super::pending::Stage;
use super::{
    Authorizer, ClientPolicy, Clients, Entrance, HandshakeContext, HandshakeTurns,
    PendingHandshake, SharedOptions,
};
use crate::config::Config;
use crate::config::cli::Options;
use crate::hub::Channels;
use crate::hub::counters::Counters;
use crate::net::bind;
use crate::net::listener::{ListenAddr, Listener};
use crate::net::permits::ConnectionLimit;
use crate::wire::role::Role;

struct Served {
    channels: Arc<Channels>,
    clients: Arc<Clients>,
    permits: Arc<ConnectionLimit>,
    acceptor: Arc<Acceptor>,
    accept_loops: AcceptLoops,
    address: SocketAddr,
}

impl Served {
    async fn new(format: &str, clients_max: Option<usize>) -> Served {
        Served::with(format, clients_max, "off").await
    }

    async fn with(format: &str, clients_max: Option<usize>, tokens: &str) -> Served {
        let options = [
            ("listen", vec!["127.0.0.1:0,hello".into()]),
            ("format", vec![format.into()]),
            ("tokens", vec![tokens.into()]),
            ("tls-client-ca", vec!["of-nobody.pem".into()]),
        ];
        let options = Options::from_iter(options);
        let config = Config::from_options(&options, 1024).unwrap();
        let (mut listeners, errors) = bind::open_all(&config, Vec::new(), Vec::new())
            .await
            .unwrap();
        assert!(errors.is_empty(), "{errors:?}");
        let listener = listeners.remove(0);
        let ListenAddr::Tcp(address) = *listener.name() else {
            panic!("{:?} is no TCP listener", listener.name());
        };
        let channels = Channels::new(&config);
        let clients = Arc::new(Clients::default());
        let permits = ConnectionLimit::new(clients_max);
        let context = HandshakeContext {
            channels: channels.clone(),
            options: SharedOptions::default(),
            tls: Arc::default(),
            authorizer: Arc::new(Authorizer::from(&config)),
            entrance: Arc::new(Entrance::new(&config)),
            turns: HandshakeTurns::default(),
        };
        let acceptor = Acceptor::new(
            context,
            Arc::new(ClientPolicy::from(&config)),
            permits.clone(),
            clients.clone(),
            Arc::new(Counters::default()),
        );
        let mut served = Served {
            channels,
            clients,
            permits,
            acceptor: Arc::new(acceptor),
            accept_loops: AcceptLoops::default(),
            address,
        };
        served.open(listener);
        served
    }

    fn open(&mut self, listener: Listener) {
        self.accept_loops.open(&self.acceptor, listener);
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A connection that has become the client with this id, which is not the first one: `other`, a client,
    /// is told of it.
    async fn join(&self, id: u64, other: &mut TcpStream) -> TcpStream {
        let mut client = self.connect().await;
        introduce(&mut client, id).await;
        expect(other, &format!("New client connected: {id}\n")).await;
        client
    }

    /// A connection that has become the first client.
    async fn join_first(&self) -> TcpStream {
        let mut client = self.connect().await;
        introduce(&mut client, 1).await;
        client
    }
}

/// Sends a hello, and waits for the answer to the client with this id.
async fn introduce(client: &mut TcpStream, id: u64) {
    client.write_all(b"LINEHUB/1\n").await.unwrap();
    expect(client, &format!("Hello client {id}: channel main, at ")).await;
    let mut place = [0; 10];
    client.read_exact(&mut place).await.unwrap();
    // The notice of the client itself comes behind that.
    assert_eq!(place[8..], *format!(":{}", id - 1).as_bytes());
    expect(client, "\n").await;
}

async fn expect(client: &mut TcpStream, words: &str) {
    let mut bytes = vec![0; words.len()];
    client.read_exact(&mut bytes).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), words);
}

async fn until_end(client: &mut TcpStream) -> io::Result<String> {
    let mut words = String::new();
    client.read_to_string(&mut words).await?;
    Ok(words)
}

#[tokio::test]
async fn connection_in_its_handshake_is_no_client_and_holds_nobody_up() {
    let served = Served::new("text", None).await;
    let mut silent = served.connect().await;
    let mut one = served.join_first().await;
    let mut two = served.join(2, &mut one).await;
    assert_eq!(served.channels.stats().joined, 2);

    silent.write_all(b"LINEHUB/1\nhello\n").await.unwrap();
    for client in [&mut one, &mut two] {
        expect(
            client,
            "New client connected: 3\nMessage from client 3: hello\n",
        )
        .await;
    }
    two.write_all(b"to all\n").await.unwrap();
    expect(&mut silent, "Hello client 3: channel main, at ").await;
    let mut place = [0; 11];
    silent.read_exact(&mut place).await.unwrap();
    assert_eq!(place[8..], *b":2\n");
    expect(&mut silent, "Message from client 2: to all\n").await;
}

/// Holding it while it waits for its turn, each would have a part of the room that senders wait for.
#[tokio::test]
async fn crowd_that_comes_at_once_leaves_room_for_those_who_send() {
    const CROWD: usize = 300;
    let served = Served::new("json", None).await;
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(served.connect().await);
    }
    for client in &mut crowd {
        client.write_all(b"LINEHUB/1\n").await.unwrap();
    }
    let hub = served.channels.main();
    let mut looks = 0;
    while served.clients.tasks().len() < CROWD {
        assert!(hub.admit().now_or_never().is_some(), "after {looks} looks");
        looks += 1;
        tokio::task::yield_now().await;
    }
    assert!(looks > 1, "all came in one turn");
}

#[tokio::test]
async fn connection_in_its_handshake_counts_for_the_limit() {
    let served = Served::new("text", Some(1)).await;
    let waiting = served.connect().await;
    let mut refused = served.connect().await;
    let words = until_end(&mut refused).await.unwrap();
    assert_eq!(words, "Error: server full (1 clients)\n");
    assert_eq!(served.channels.stats().joined, 0);

    drop(waiting);
    while served.permits.try_acquire().is_err() {
        tokio::task::yield_now().await;
    }
    served.join_first().await;
}

#[tokio::test]
async fn refusal_is_told_in_the_listeners_format() {
    let json = "{\"event\":\"error\",\"reason\":\"bad_hello\",\"detail\":\"hello expected\"}\n";
    for (format, told) in [
        ("text", Some("Error: hello expected\n")),
        ("json", Some(json)),
        ("raw", None),
    ] {
        let served = Served::new(format, None).await;
        let mut refused = served.connect().await;
        refused.write_all(b"-\n").await.unwrap();
        match (until_end(&mut refused).await, told) {
            (Ok(words), Some(told)) => assert_eq!(words, told),
            (Err(error), None) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
            (outcome, _) => panic!("{format}: {outcome:?}"),
        }
        assert_eq!(served.channels.stats().joined, 0, "{format}");
    }
}

#[tokio::test]
async fn certificate_is_who_a_client_is_with_a_hello_or_without() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let tokens = "[[token]]\nname = 'meter'\ncertificate = 'Meter.example'\nrole = 'publish'\n";
    std::fs::write(file.path(), tokens).unwrap();
    for says_hello in [true, false] {
        let mut served = Served::with("text", None, file.path().to_str().unwrap()).await;
        let mut client = served.connect().await;
        served.accept_loops.close().await;
        let mut handshake = served.acceptor.park_handshakes().await.remove(0);
        handshake.accepted.certificate = vec!["x".to_owned(), "meter.EXAMPLE".to_owned()];
        let socket = handshake.as_fd().try_clone_to_owned().unwrap();
        let (saved, PendingHandshake { permit, .. }) = (handshake.save(), handshake);
        let options = SharedOptions::default();
        let mut handshake = PendingHandshake::restore(saved, socket, &options, permit).unwrap();
        if !says_hello {
            handshake.stage = Stage::Join;
        }
        served.acceptor.begin(handshake);
        if says_hello {
            client.write_all(b"LINEHUB/1\n").await.unwrap();
            expect(&mut client, "Hello client 1: channel main, at ").await;
        }
        while served.channels.stats().joined == 0 {
            tokio::task::yield_now().await;
        }
        let connection = served.channels.client_stats().remove(0).connection;
        assert_eq!(connection.identity.unwrap().name.as_str(), "meter");
        assert_eq!(connection.role, Role::Publish);
    }
}

#[tokio::test]
async fn stop_ends_handshakes_and_tells_why_and_a_handover_keeps_them() {
    let mut served = Served::new("text", None).await;
    let mut client = served.join_first().await;
    for second in [2, 3] {
        let mut waiting = served.connect().await;
        waiting.write_all(b"LINEHUB").await.unwrap();
        let listeners = served.accept_loops.close().await;
        let parked = served.acceptor.park_handshakes().await;
        assert_eq!(parked.len(), 1);
        for hello in parked {
            let options = SharedOptions::default();
            let socket = hello.as_fd().try_clone_to_owned().unwrap();
            let (saved, PendingHandshake { permit, .. }) = (hello.save(), hello);
            let hello = PendingHandshake::restore(saved, socket, &options, permit).unwrap();
            served.acceptor.begin(hello);
        }
        let start = Instant::now();
        served.acceptor.end_handshakes().await;
        assert!(start.elapsed() < Duration::from_secs(1), "it has a bound");
        let words = until_end(&mut waiting).await.unwrap();
        assert_eq!(words, "Server shutting down\n");

        let frozen = served.clients.freeze(&served.channels).await;
        assert_eq!(frozen.len(), second - 1, "only clients are frozen");
        served.channels.start_clock();
        served.clients.thaw(frozen);
        for listener in listeners {
            served.open(listener);
        }
        // A handover that failed: the next handshake has its time again.
        let joined = served.join(second as u64, &mut client).await;
        std::mem::forget(joined);
    }
}
