//! What the themes share: the daemon as a process, clients as sockets, other people's programs,
//! a browser.
//!
//! Nothing here waits for time to pass. A test waits for a line, for a log line or for a state, and
//! proves that something did *not* come by sending a marker line and seeing that it comes next.

mod browser;
mod certificates;
mod client;
mod copies;
mod flood;
mod hello;
pub(crate) mod http;
mod manager;
#[cfg(feature = "nats")]
pub(crate) mod nats;
mod program;
pub(crate) mod relay;
mod server;
mod tls;
#[cfg(feature = "connect")]
mod tmux;

pub(crate) use browser::{Browser, Page, Scheme};
pub(crate) use certificates::{Authority, Pair};
pub(crate) use client::{Client, Event};
pub(crate) use copies::{copied, copy_to, replace};
pub(crate) use flood::{Flood, payload};
pub(crate) use hello::{Place, exec};
pub(crate) use manager::{Manager, restart};
pub(crate) use program::{Program, tool};
#[cfg(any(feature = "bench", feature = "connect"))]
pub(crate) use server::Exit;
pub(crate) use server::{Address, BINARY, Launch, Server, run};
pub(crate) use tls::{TlsClient, TlsEvent, VERSIONS, speaking};
#[cfg(feature = "connect")]
pub(crate) use tmux::Tmux;

use std::time::{Duration, Instant};

/// How long a test waits for what must come. Only a failing test ever waits this long, so it is
/// generous: the machine may be busy with something else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `state` holds, for states that nothing announces (memory, open files).
#[track_caller]
pub(crate) fn eventually(what: &str, state: impl FnMut() -> bool) {
    within(PATIENCE, what, state);
}

/// The same, for so long.
#[track_caller]
pub(crate) fn within(time: Duration, what: &str, mut state: impl FnMut() -> bool) {
    let deadline = Instant::now() + time;
    while !state() {
        assert!(Instant::now() < deadline, "{what}: not within {time:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A port that is free and stays so for who was told of it: the system gives none of these by itself.
pub(crate) fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 200) as u16 * 100;
    for _ in 0..20_000 {
        let port = 10_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// Raises this process's open-file limit: some tests hold a thousand sockets, beside other tests.
pub(crate) fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    );
}

/// `from` sends a line that was never sent before, and it is the next thing `to` sees: nothing else
/// was under way to `to`. For `text` clients, with either line end.
#[track_caller]
pub(crate) fn marker(from: &mut Client, to: &mut Client) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let text = format!("marker-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    from.send_line(&text);
    let line = to.read_line();
    let line = line.strip_suffix('\r').unwrap_or(&line);
    assert_eq!(line, format!("Message from client {}: {text}", from.id()));
}
