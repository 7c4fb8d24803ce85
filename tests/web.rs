use std::net::TcpStream;

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket};

use crate::common::{Address, Client, PATIENCE, Server};

/// The page, in a browser.
mod browser;
/// Clients that stay over handovers.
mod handover;
/// Requests, frames and peers that mean no good.
mod hostile;
/// POST: senders of one request.
mod post;
/// Server-sent events, and the stream as the body of an answer.
mod streams;
/// WebSocket, as other people's code speaks it.
mod websocket;

const PLAIN: usize = 0;
const HTTP: usize = 1;

/// A daemon with a plain listener and one with HTTP.
#[track_caller]
fn start(args: &[&str]) -> Server {
    let listeners = ["--listen=127.0.0.1:0", "--listen=127.0.0.1:0,http"];
    Server::start(&[&listeners[..], args].concat())
}

/// A WebSocket client.
struct WsClient {
    socket: WebSocket<TcpStream>,
    id: u64,
}

impl WsClient {
    /// Connects, and reads the hello: in `json`.
    #[track_caller]
    fn connect(server: &Server, path: &str) -> WsClient {
        let mut client = WsClient::dial(server.addr(HTTP), path);
        let hello = client.json();
        assert_eq!(hello["event"], "hello", "{hello}");
        client.id = hello["client"].as_u64().unwrap();
        client
    }

    /// Connects.
    #[track_caller]
    fn dial(address: &Address, path: &str) -> WsClient {
        let Address::Tcp(address) = address else {
            panic!("{address} is not TCP");
        };
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let request = format!("ws://{address}{path}")
            .into_client_request()
            .unwrap();
        let config = WebSocketConfig::default()
            .max_frame_size(None)
            .max_message_size(None);
        let (socket, _) = tungstenite::client::client_with_config(request, stream, Some(config))
            .expect("it is upgraded");
        WsClient { socket, id: 0 }
    }

    #[track_caller]
    fn send(&mut self, text: &str) {
        self.socket
            .send(Message::text(text))
            .expect("it takes a message");
    }

    /// The next message that is none of the protocol's own.
    #[track_caller]
    fn next(&mut self) -> Message {
        loop {
            match self.socket.read().expect("a message") {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return message,
            }
        }
    }

    #[track_caller]
    fn text(&mut self) -> String {
        match self.next() {
            Message::Text(text) => text.to_string(),
            message => panic!("{message:?}"),
        }
    }

    #[track_caller]
    fn json(&mut self) -> Value {
        serde_json::from_str(&self.text()).expect("JSON")
    }

    /// The status that the daemon closes with, and its reason.
    #[track_caller]
    fn close_status(&mut self) -> (u16, String) {
        loop {
            if let Message::Close(frame) = self.next() {
                let frame = frame.expect("a status");
                return (frame.code.into(), frame.reason.to_string());
            }
        }
    }
}

/// The data of the next message; notices are passed over.
fn data(mut next: impl FnMut() -> Value) -> Value {
    loop {
        let event = next();
        if event["event"] == "message" {
            return event["data"].clone();
        }
    }
}

/// `from`, which is plain, sends a line that the WebSocket client gets next, but for notices.
#[track_caller]
fn reaches(from: &mut Client, to: &mut WsClient) {
    from.send_line("reaches");
    assert_eq!(data(|| to.json()), json!("reaches"));
}
