use crate::common::{Client, Server, payload};

const SENDERS: u64 = 60;
const READERS: usize = 60;
const LINES: u64 = 50;

/// One line of the stream: who sent it, and its text.
type Line = (u64, String);

fn read_stream(client: &mut Client, count: u64) -> Vec<Line> {
    let line = |_| {
        let line = client.read_line();
        let rest = line
            .strip_prefix("Message from client ")
            .expect("a message");
        let (id, text) = rest.split_once(": ").expect("a colon");
        (id.parse().expect("an id"), text.to_owned())
    };
    (0..count).map(line).collect()
}

#[test]
fn sixty_senders_and_sixty_readers_at_once_see_one_order() {
    let server = Server::start(&["--no-notices"]);
    let readers: Vec<_> = (0..READERS).map(|_| Client::connect(&server)).collect();
    let senders: Vec<_> = (0..SENDERS).map(|_| Client::connect(&server)).collect();
    let ids: Vec<u64> = senders.iter().map(Client::id).collect();

    let reading: Vec<_> = readers
        .into_iter()
        .map(|mut reader| {
            std::thread::spawn(move || {
                let stream = read_stream(&mut reader, SENDERS * LINES);
                (reader, stream)
            })
        })
        .collect();
    let sending: Vec<_> = senders
        .into_iter()
        .map(|mut sender| {
            std::thread::spawn(move || {
                for n in 1..=LINES {
                    sender.send_line(&payload(n));
                }
                // It reads what the others sent while it sent.
                let stream = read_stream(&mut sender, (SENDERS - 1) * LINES);
                (sender, stream)
            })
        })
        .collect();

    let mut read: Vec<_> = reading
        .into_iter()
        .map(|t| t.join().expect("a reader"))
        .collect();
    let sent: Vec<_> = sending
        .into_iter()
        .map(|t| t.join().expect("a sender"))
        .collect();

    let order = read[0].1.clone();
    for (reader, stream) in &read {
        assert!(*stream == order, "client {} saw another order", reader.id());
    }
    for (sender, stream) in &sent {
        let others = order.iter().filter(|(id, _)| *id != sender.id());
        assert!(
            others.eq(stream),
            "client {} saw another order",
            sender.id()
        );
    }
    // Nothing is lost, and each sender's lines are in the order it sent them.
    for id in ids {
        let lines = order
            .iter()
            .filter(|(from, _)| *from == id)
            .map(|(_, text)| text.clone());
        assert!(lines.eq((1..=LINES).map(payload)), "lines of client {id}");
    }
    // And nothing came twice: a marker is next for everyone.
    let (mut marker, _) = read.pop().expect("a reader");
    marker.send_line("end");
    for (mut client, _) in read.into_iter().chain(sent) {
        client.expect_message(marker.id(), "end");
    }
}

#[test]
fn notices_have_their_place_in_the_one_order() {
    let server = Server::start(&["--format", "json"]);
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    let come_and_go = std::thread::spawn({
        let address = server.addr(0).clone();
        move || {
            for _ in 0..50 {
                let mut client = Client::dial(&address);
                client.send_bytes(b"one\ntwo\n");
                client.finish();
            }
        }
    });
    come_and_go.join().expect("fifty came and went");

    // The connect notice of `two` comes first for `one`, and is the only thing `two` does not see.
    assert_eq!(one.read_json()["client"], 2);
    let mut last = None;
    for _ in 0..50 * 4 {
        let event = one.read_json();
        assert_eq!(two.read_json(), event);
        let seq = event["seq"].as_u64().expect("seq");
        assert!(
            last.is_none_or(|last| seq == last + 1),
            "{seq} after {last:?}"
        );
        last = Some(seq);
    }
}
