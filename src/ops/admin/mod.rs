//! The admin server: what an operator sees of the running daemon, over HTTP.
//!
//! ```text
//! socket ─► connections (limits, time) ─► answer (host, route) ─► state ─► documents | metrics
//!                                              └► events (every second) ┘
//! ```
//!
//! It can only be read. It runs on a thread of its own, with a runtime of its own: clients have
//! nothing to wait for, and it answers however busy they keep the others. Whoever connects to it is
//! held to limits on connections, on the size of a request, and on the time it may take over asking
//! and over taking the answer.

mod allowed_hosts;
mod connections;
pub(crate) mod documents;
mod events;
#[cfg(test)]
mod made_up;
mod metrics;
mod process;
mod query;
mod routes;
mod rows;
mod samples;
mod state;

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::{Address, Config};
use crate::net::bind::ResolvedPrivate;
use crate::net::listener::{ListenAddr, Listener};
use allowed_hosts::AllowedHosts;
use connections::Connections;
use events::Events;
use routes::Router;
pub(crate) use state::AdminState;

/// Threads on which the hub is looked at. One is enough unless the hub hangs.
const LOOKING_THREADS_MAX: usize = 4;

/// An admin address that is open, and answered by nobody yet.
#[derive(Debug)]
pub(crate) struct AdminSocket {
    address: Address,
    hosts: Arc<AllowedHosts>,
    listeners: Vec<Listener>,
    runtime: BackgroundRuntime,
}

/// A runtime that may be dropped anywhere, on another runtime too: it waits for nothing.
#[derive(Debug)]
struct BackgroundRuntime(Option<Runtime>);

impl BackgroundRuntime {
    fn new() -> io::Result<BackgroundRuntime> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .thread_name("linehub-look")
            .max_blocking_threads(LOOKING_THREADS_MAX)
            .build()?;
        Ok(BackgroundRuntime(Some(runtime)))
    }

    /// Runs something that belongs to it, from wherever the caller is.
    fn enter<T>(&self, inside: impl FnOnce() -> T) -> T {
        let _inside = self.0.as_ref().map(Runtime::enter);
        inside()
    }

    fn block_on(&self, future: impl Future) {
        if let Some(runtime) = &self.0 {
            runtime.block_on(future);
        }
    }
}

impl Drop for BackgroundRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Who still looks at a hub that hangs must not hold up the end.
            runtime.shutdown_background();
        }
    }
}

/// The admin server. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Admin {
    address: Address,
    /// Of a TCP address.
    port: Option<u16>,
    hosts: Arc<AllowedHosts>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// An admin address that names were looked up for.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedAdmin {
    address: Address,
    hosts: Vec<String>,
    wanted: ResolvedPrivate,
}

impl ResolvedAdmin {
    /// Looks the name up that the configuration has, if it has one. Cancel safe.
    ///
    /// # Errors
    /// It stands for no address.
    pub(crate) async fn resolve(config: &Config) -> anyhow::Result<Option<ResolvedAdmin>> {
        let Some(address) = &config.admin else {
            return Ok(None);
        };
        let wanted = ResolvedPrivate::resolve(address).await;
        Ok(Some(ResolvedAdmin {
            address: address.clone(),
            hosts: config.admin_hosts.clone(),
            wanted: wanted.with_context(|| cannot_serve(address))?,
        }))
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Opens it, on the port it had `before` if that was picked for the same address.
    ///
    /// # Errors
    /// It cannot be listened on.
    pub(crate) fn open_as_before(
        self,
        before: Option<(String, u16)>,
    ) -> anyhow::Result<AdminSocket> {
        let port = before.filter(|(address, _)| *address == self.address.to_string());
        let again = port.and_then(|(_, port)| self.wanted.on_port(port));
        match again.map(|wanted| {
            ResolvedAdmin {
                wanted,
                ..self.clone()
            }
            .open()
        }) {
            Some(Ok(admin)) => Ok(admin),
            // Somebody else has it now: another one is picked again.
            _ => self.open(),
        }
    }

    /// Opens it.
    ///
    /// # Errors
    /// It cannot be listened on.
    pub(crate) fn open(self) -> anyhow::Result<AdminSocket> {
        let open = || {
            let runtime = BackgroundRuntime::new()?;
            let listeners = runtime.enter(|| self.wanted.open())?;
            anyhow::Ok((runtime, listeners))
        };
        let (runtime, listeners) = open().with_context(|| cannot_serve(&self.address))?;
        Ok(AdminSocket {
            address: self.address,
            hosts: Arc::new(AllowedHosts::new(self.hosts)),
            listeners,
            runtime,
        })
    }
}

fn cannot_serve(address: &Address) -> String {
    format!("cannot listen on {address} for --admin")
}

impl AdminSocket {
    /// Starts to answer.
    ///
    /// # Errors
    /// The system refuses the thread.
    pub(crate) fn serve(self, state: Arc<AdminState>) -> io::Result<Admin> {
        for listener in &self.listeners {
            info!(address = %listener.name(), "admin listening");
        }
        let stop = CancellationToken::new();
        let port = self
            .listeners
            .iter()
            .find_map(|listener| match listener.name() {
                ListenAddr::Tcp(bound) => Some(bound.port()),
                ListenAddr::Unix(_) => None,
            });
        let (runtime, listeners) = (self.runtime, self.listeners);
        let thread = thread::Builder::new()
            .name("linehub-admin".to_owned())
            .spawn({
                let (stop, hosts) = (stop.clone(), self.hosts.clone());
                move || {
                    runtime.block_on(stop.run_until_cancelled(serve(listeners, state, hosts)));
                }
            })?;
        Ok(Admin {
            address: self.address,
            port,
            hosts: self.hosts,
            stop,
            thread: Some(thread),
        })
    }
}

impl Admin {
    /// Whether it answers at this address.
    pub(crate) fn is_at(&self, address: Option<&Address>) -> bool {
        Some(&self.address) == address
    }

    /// Where it was told to listen, and on which port it does, for the next daemon.
    pub(crate) fn place(&self) -> Option<(String, u16)> {
        Some((self.address.to_string(), self.port?))
    }

    /// Answers to these names from now on.
    pub(crate) fn set_hosts(&self, hosts: &[String]) {
        self.hosts.set(hosts.to_vec());
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // Its sockets are closed then, and a socket's file is gone. One that panicked is over too.
            let _ = thread.join();
        }
    }
}

/// Answers at these sockets for ever.
async fn serve(listeners: Vec<Listener>, state: Arc<AdminState>, hosts: Arc<AllowedHosts>) {
    let connections = Arc::new(Connections::default());
    let events = Events::new();
    let accepts = listeners.into_iter().map(|listener| {
        let router = Router {
            state: state.clone(),
            events: events.clone(),
            hosts: hosts.clone(),
            is_tcp: matches!(listener.name(), ListenAddr::Tcp(_)),
        };
        connections.clone().accept(listener, router)
    });
    let mut accepting: tokio::task::JoinSet<()> = accepts.collect();
    events.run(&state).await;
    accepting.abort_all();
}
