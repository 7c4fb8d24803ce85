//! All of it against a real nats-server.

mod server;

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::StreamExt;

use self::server::{LIMITS, Server, open, within};
use super::names::Subject;
use super::reader::StreamReader;
use super::stream::{ChannelStream, Entry, PublishError, Stored};
use super::{Nats, NatsError, StreamError, StreamLimits, names};
use crate::hub::cluster::batch::NodeId;

const NODE: NodeId = NodeId(0xabc);

async fn publish(stream: &ChannelStream, body: impl Into<Vec<u8>>) -> Result<Stored, PublishError> {
    let body = body.into().into();
    stream.publish(Subject::Batch(NODE), body, None, None).await
}

async fn next(reader: &mut StreamReader) -> Entry {
    within(reader.next()).await.unwrap()
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64
}

#[test]
fn no_two_channels_have_the_same_names() {
    let names = [
        "a.b", "a-b", "a_b", "a2Eb", "A.b", "a..b", "ab", "a.b.", ".a.b",
    ];
    let streams: BTreeSet<String> = names
        .iter()
        .map(|name| names::stream(&name.parse().unwrap()))
        .collect();
    assert_eq!(streams.len(), names.len());
    assert!(streams.iter().all(|name| !name.contains('.')));
    assert_eq!(names::stream(&"a.b".parse().unwrap()), "LINEHUB_a=2Eb");
    assert_eq!(names::node_of(&names::node(NODE)), Some(NODE));
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_has_all_behind_its_place_in_order() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let (nats, stream) = server.connect_stream().await;
    let mut reader = stream.read_behind(0);
    assert_eq!(reader.end().await, Ok(0));
    let before = now_ms();
    for number in 1..=300_u64 {
        assert_eq!(
            publish(&stream, number.to_string()).await,
            Ok(Stored::At(number))
        );
    }
    for number in 1..=300 {
        let entry = next(&mut reader).await;
        assert_eq!(
            (entry.place, &entry.body[..]),
            (number, number.to_string().as_bytes())
        );
        assert!((before..=now_ms()).contains(&entry.time_ms));
    }
    let mut late = stream.read_behind(298);
    assert_eq!(late.end().await, Ok(300));
    let entry = next(&mut late).await;
    assert_eq!((entry.place, entry.pending), (299, 1));
    assert_eq!(next(&mut late).await.place, 300);
    // At the end, a reader waits; what comes is there at once, also to one that was given up waiting.
    assert!(
        tokio::time::timeout(Duration::from_millis(20), late.next())
            .await
            .is_err()
    );
    let largest = vec![7; nats.max_payload() - 1024];
    publish(&stream, largest.clone()).await.unwrap();
    assert_eq!(next(&mut late).await.body, largest);
    for _ in 0..20 {
        publish(&stream, largest.clone()).await.unwrap();
    }
    for place in 302..=321 {
        assert_eq!(next(&mut late).await.place, place);
    }
    let consumers = || async {
        let context = &nats.context;
        let raw = context.get_stream("LINEHUB_a=2Eb").await.unwrap();
        raw.cached_info().state.consumer_count
    };
    assert_eq!(consumers().await, 2);
    drop(late);
    within(async { while consumers().await != 1 {} }).await;
    // A few bytes at a time, but whole messages.
    let mut slices = stream.read_slices_behind(299, 1);
    for place in 300..=321 {
        assert_eq!(next(&mut slices).await.place, place);
    }
    let beyond = within(stream.read_behind(400).next()).await;
    assert!(matches!(beyond, Err(NatsError::Away(_))), "{beyond:?}");
    let too_large = publish(&stream, vec![0; 2 * nats.max_payload()]).await;
    assert!(
        matches!(too_large, Err(PublishError::Refused(_))),
        "{too_large:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_ends_with_the_connection_and_a_new_one_goes_on() {
    let Some(mut server) = Server::start(&[]) else {
        return;
    };
    let (nats, stream) = server.connect_stream().await;
    let mut reader = stream.read_behind(0);
    publish(&stream, "1").await.unwrap();
    assert_eq!(next(&mut reader).await.place, 1);
    let id = stream.info().await.unwrap().id;

    server.kill();
    let ended = within(reader.next()).await;
    assert!(matches!(ended, Err(NatsError::Away(_))), "{ended:?}");
    within(nats.watch().wait_for(|state| !state.is_connected))
        .await
        .unwrap();
    let at = Instant::now();
    let lost = publish(&stream, "lost").await;
    assert!(matches!(lost, Err(PublishError::Unknown(_))), "{lost:?}");
    assert!(at.elapsed() < Duration::from_secs(1));
    assert!(nats.status().error.is_some());

    server.restart();
    within(nats.watch().wait_for(|state| state.is_connected))
        .await
        .unwrap();
    let stream = open(&nats, LIMITS).await;
    assert_eq!(stream.info().await.unwrap().id, id);
    publish(&stream, "2").await.unwrap();
    let mut reader = stream.read_behind(1);
    let entry = next(&mut reader).await;
    assert_eq!((entry.place, &entry.body[..]), (2, &b"2"[..]));
    let status = nats.status();
    assert_eq!(
        (status.is_connected, status.reconnects, status.error),
        (true, 1, None)
    );
    assert_eq!(status.server, Some(server.url()));
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_stands_still_is_noticed() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let (_nats, stream) = server.connect_stream().await;
    let mut reader = stream.read_behind(0);
    publish(&stream, "1").await.unwrap();
    next(&mut reader).await;
    server.stop();
    let stored = publish(&stream, "2");
    let (ended, stored) = within(async { tokio::join!(reader.next(), stored) }).await;
    assert!(matches!(ended, Err(NatsError::Away(_))), "{ended:?}");
    assert!(
        matches!(stored, Err(PublishError::Unknown(_))),
        "{stored:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn message_is_stored_once_and_only_where_it_is_expected() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let (_nats, stream) = server.connect_stream().await;
    let send = |body: &'static str, id: Option<&str>, last| {
        stream.publish(
            Subject::Checkpoint,
            body.into(),
            id.map(str::to_owned),
            last,
        )
    };
    assert_eq!(send("1", Some("id"), Some(0)).await, Ok(Stored::At(1)));
    assert_eq!(send("1", Some("id"), None).await, Ok(Stored::Duplicate));
    assert_eq!(send("2", None, Some(0)).await, Err(PublishError::NotLast));
    assert_eq!(send("2", None, Some(1)).await, Ok(Stored::At(2)));
    assert_eq!(publish(&stream, "3").await, Ok(Stored::At(3)));
    let gone = stream.publish(Subject::Gone, "4".into(), None, Some(3));
    assert_eq!(gone.await, Ok(Stored::At(4)));

    let body = |entry: Option<Entry>| entry.map(|entry| (entry.place, entry.body));
    assert_eq!(
        body(stream.last_checkpoint().await.unwrap()),
        Some((2, "2".into()))
    );
    assert_eq!(
        body(stream.last_batch_of(NODE).await.unwrap()),
        Some((3, "3".into()))
    );
    assert_eq!(stream.last_batch_of(NodeId(1)).await, Ok(None));
    let mut places = Vec::new();
    let visited = stream.checkpoints(|entry| places.push(entry.place));
    assert_eq!(within(visited).await, Ok(()));
    assert_eq!(places, [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_is_a_gap_and_a_deleted_stream_is_none() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let (nats, stream) = server.connect_stream().await;
    for number in 1..=3 {
        publish(&stream, number.to_string()).await.unwrap();
    }
    let mut reader = stream.read_behind(0);
    assert_eq!(next(&mut reader).await.place, 1);
    let context = async_nats::jetstream::new(nats.client.clone());
    let raw = context.get_stream("LINEHUB_a=2Eb").await.unwrap();
    raw.purge().await.unwrap();
    assert_eq!(stream.read_behind(1).end().await, Ok(0));
    publish(&stream, "4").await.unwrap();
    while next(&mut reader).await.place != 4 {}
    assert_eq!(next(&mut stream.read_behind(1)).await.place, 4);
    let info = stream.info().await.unwrap();
    assert_eq!((info.first, info.last, info.messages), (4, 4, 1));

    context.delete_stream("LINEHUB_a=2Eb").await.unwrap();
    assert!(within(reader.next()).await.is_err());
    assert_eq!(stream.info().await, Err(NatsError::NoStream));
    assert_eq!(stream.last_checkpoint().await, Err(NatsError::NoStream));
    assert_eq!(
        within(stream.read_behind(4).next()).await,
        Err(NatsError::NoStream)
    );
    let stored = publish(&stream, "5").await;
    assert!(
        matches!(stored, Err(PublishError::Refused(_))),
        "{stored:?}"
    );
    assert_ne!(open(&nats, LIMITS).await.info().await.unwrap().id, info.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_that_differs_is_named_with_what_differs() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let (nats, _) = server.connect_stream().await;
    let limits = StreamLimits {
        bytes: 1024,
        age: Some(Duration::from_secs(60)),
    };
    let error = nats.open_stream(&"a.b".parse().unwrap(), limits).await;
    let Err(StreamError::Differs { what }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(
        what,
        "stream LINEHUB_a=2Eb differs from what this daemon is to use: its limit of bytes is 67108864 and not 1024, \
         its limit of age is unlimited and not 1m; set history and history-age as it is, or change it: \
         nats stream edit LINEHUB_a=2Eb --max-bytes 1024 --max-age 60s"
    );
    let mut options = server.options();
    options.replicas = 3;
    let nats = Nats::connect(&options, "test").await.unwrap();
    within(nats.watch().wait_for(|state| state.is_connected))
        .await
        .unwrap();
    let error = nats.open_stream(&"c".parse().unwrap(), limits).await;
    assert!(matches!(error, Err(StreamError::Denied(_))), "{error:?}");
    let aged = server
        .connect()
        .await
        .open_stream(&"aged".parse().unwrap(), limits)
        .await;
    assert!(aged.is_ok(), "{aged:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_of_ids_never_overlap() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let (one, other) = tokio::join!(server.connect_stream(), server.connect_stream());
    let take = |nats: Nats| async move {
        let mut blocks = Vec::new();
        for _ in 0..20 {
            blocks.push(nats.take_ids(10, 5).await.unwrap());
        }
        blocks
    };
    let (mut blocks, more) = tokio::join!(take(one.0.clone()), take(other.0));
    blocks.extend(more);
    blocks.sort_by_key(|block| block.start);
    assert_eq!(blocks[0], 5..15);
    assert!(blocks.windows(2).all(|pair| pair[0].end <= pair[1].start));
    assert_eq!(one.0.take_ids(1, 10_000).await, Ok(10_000..10_001));
}

#[tokio::test(flavor = "multi_thread")]
async fn living_nodes_are_heard() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let nats = server.connect().await;
    let mut heard = nats.listen_alive().await.unwrap();
    nats.say_alive(NODE, "body".into()).await.unwrap();
    assert_eq!(within(heard.next()).await, Some((NODE, "body".into())));
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_password_is_said_but_never_shown() {
    let Some(server) = Server::start(&["--user", "me", "--pass", "right"]) else {
        return;
    };
    let mut options = server.options();
    options.urls = vec![format!("nats://me:wr%6Fng@{}", server.url())];
    assert!(!format!("{options:?}").contains("ng@"));
    let nats = Nats::connect(&options, "test").await.unwrap();
    let status = within(async {
        loop {
            match nats.status() {
                status
                    if status
                        .error
                        .as_deref()
                        .is_some_and(|why| why.contains("authorization")) =>
                {
                    break status;
                }
                _ => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    assert!(!format!("{status:?} {nats:?}").contains("wrong"));
    options.urls = vec![format!("nats://me:r%69ght@{}", server.url())];
    let nats = Nats::connect(&options, "test").await.unwrap();
    within(nats.watch().wait_for(|state| state.is_connected))
        .await
        .unwrap();
    for url in [
        "http://me:wrong@host",
        "nats://me:wrong@",
        "nats://me:wrong@ho st",
    ] {
        options.urls = vec![url.into()];
        let error = Nats::connect(&options, "test").await.unwrap_err();
        assert!(!format!("{error:?}").contains("wrong"), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_asked_for_and_what_is_not_allowed_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let signed = rcgen::generate_simple_self_signed(["127.0.0.1".into()]).unwrap();
    std::fs::write(path("cert"), signed.cert.pem()).unwrap();
    std::fs::write(path("key"), signed.signing_key.serialize_pem()).unwrap();
    let config = format!(
        "tls {{ cert_file: {:?}, key_file: {:?} }}
        authorization {{ users: [{{ user: me, password: right,
            permissions: {{ publish: {{ deny: \"linehub.>\" }} }} }}] }}",
        path("cert"),
        path("key"),
    );
    std::fs::write(path("config"), config).unwrap();
    let Some(server) = Server::start(&["-c", path("config").to_str().unwrap()]) else {
        return;
    };
    let mut options = server.options();
    options.urls = vec![format!("tls://me:right@{}", server.url())];
    options.ca = Some(path("cert"));
    options.cert = Some((path("cert"), path("key")));
    let nats = Nats::connect(&options, "test").await.unwrap();
    within(nats.watch().wait_for(|state| state.is_connected))
        .await
        .unwrap();
    let stream = open(&nats, LIMITS).await;
    let at = Instant::now();
    let stored = publish(&stream, "1").await;
    assert!(
        matches!(&stored, Err(PublishError::Refused(why)) if why.contains("Permissions")),
        "{stored:?}"
    );
    assert!(at.elapsed() < Duration::from_secs(2));
    for (ca, cert) in [
        ("key", "cert"),
        ("config", "cert"),
        ("none", "cert"),
        ("cert", "key"),
    ] {
        options.ca = Some(path(ca));
        options.cert = Some((path(cert), path("key")));
        assert!(options.check().is_err(), "{ca} {cert}");
    }
}
