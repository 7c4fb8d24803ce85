//! What a network does: connections that are cut, or through which nothing comes any more.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// A relay before a server, which can be cut without the server: what a network does.
pub(crate) struct Relay {
    port: u16,
    cut: Arc<AtomicBool>,
    /// Times that it was frozen, the way there and the way back.
    freezes: Arc<[AtomicUsize; 2]>,
}

impl Relay {
    /// Relays to this port of this machine, until the test process ends.
    pub(crate) fn to(port: u16) -> Relay {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let relay = Relay {
            port: listener.local_addr().expect("bound").port(),
            cut: Arc::default(),
            freezes: Arc::default(),
        };
        let (cut, freezes) = (Arc::clone(&relay.cut), Arc::clone(&relay.freezes));
        std::thread::spawn(move || {
            for accepted in listener.incoming() {
                let Ok(one) = accepted else { return };
                if cut.load(Relaxed) {
                    continue;
                }
                let Ok(other) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                for (way, from, to) in [(0, &one, &other), (1, &other, &one)] {
                    let (from, to) = (from.try_clone().expect("dup"), to.try_clone().expect("dup"));
                    let (cut, freezes) = (Arc::clone(&cut), Arc::clone(&freezes));
                    let begun = freezes[way].load(Relaxed);
                    let is_frozen = move || freezes[way].load(Relaxed) > begun;
                    std::thread::spawn(move || relay_half(from, to, &cut, is_frozen));
                }
            }
        });
        relay
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    #[cfg(feature = "nats")]
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Lets nothing through the connections that there are, and closes none, until it is cut. New ones go through.
    pub(crate) fn freeze(&self) {
        self.freezes[0].fetch_add(1, Relaxed);
        self.mute();
    }

    /// The same for the way back alone: what is sent gets there, and nobody hears of it.
    pub(crate) fn mute(&self) {
        self.freezes[1].fetch_add(1, Relaxed);
    }

    /// Cuts or heals it: connections end, and new ones at once.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.cut.store(is_cut, Relaxed);
    }
}

fn relay_half(
    mut from: TcpStream,
    mut to: TcpStream,
    cut: &AtomicBool,
    is_frozen: impl Fn() -> bool,
) {
    let _ = from.set_read_timeout(Some(Duration::from_millis(20)));
    let mut chunk = [0; 65536];
    while !cut.load(Relaxed) {
        if is_frozen() {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        match from.read(&mut chunk) {
            Ok(0) => break,
            // It was frozen while it waited.
            Ok(_) if is_frozen() => {}
            Ok(n) if to.write_all(&chunk[..n]).is_ok() => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            _ => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
