//! Watchers of the server meanwhile: an open status page, and a scraper of the metrics.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

/// How often the metrics are read: fifteen times as often as Prometheus does by default.
const SCRAPE_PERIOD: Duration = Duration::from_secs(1);

/// Watches until it is asked what it saw.
pub(crate) struct Watchers {
    page: TcpStream,
    events: JoinHandle<u64>,
    stop: Sender<()>,
    scrapes: JoinHandle<Result<u64>>,
}

impl Watchers {
    /// Opens what a status page opens, and begins to read the metrics.
    pub(crate) fn start(admin: SocketAddr) -> Result<Watchers> {
        let mut page = TcpStream::connect(admin)?;
        page.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let lines = BufReader::new(page.try_clone()?).lines();
        let events = thread::spawn(move || {
            let lines = lines.map_while(Result::ok);
            lines.filter(|line| line == "event: status").count() as u64
        });
        let (stop, stopped) = mpsc::channel();
        let scrapes = thread::spawn(move || {
            let mut scrapes = 0;
            loop {
                scrape(admin)?;
                scrapes += 1;
                if stopped.recv_timeout(SCRAPE_PERIOD) != Err(RecvTimeoutError::Timeout) {
                    return Ok(scrapes);
                }
            }
        });
        Ok(Watchers {
            page,
            events,
            stop,
            scrapes,
        })
    }

    /// Ends the watching, which must have gone on all the while.
    pub(crate) fn finish(self) -> Result<()> {
        let _ = self.stop.send(());
        let _ = self.page.shutdown(Shutdown::Both);
        let panicked = "a watcher panicked";
        let events = self.events.join().ok().context(panicked)?;
        let scrapes = self.scrapes.join().ok().context(panicked)??;
        ensure!(
            events > 1 && scrapes > 0,
            "{events} events and {scrapes} scrapes came"
        );
        Ok(())
    }
}

fn scrape(admin: SocketAddr) -> Result<()> {
    let mut connection = TcpStream::connect(admin)?;
    connection
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    ensure!(
        answer.contains("\nlinehub_clients "),
        "no metrics: {answer}"
    );
    Ok(())
}
