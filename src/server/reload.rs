//! A reload: the configuration is read again, and the daemon goes by it while its clients stay.
//!
//! It happens whole or not at all: the configuration is read and checked, and new listeners are
//! opened, before anything changes, and nothing that changes then can fail.

use std::sync::Arc;

use anyhow::Context;
use tracing::{error, info, warn};

use super::commands::stop_asked;
use super::running::RunningServer;
use crate::config::{Applies, Config, Source};
use crate::net::listener::Listener;
use crate::net::rebind::ListenPlan;
use crate::net::tls::{ServerTls, TlsMaterial};
use crate::ops::admin::{AdminSocket, ResolvedAdmin};
use crate::ops::lifecycle::{Command, CommandSource};
use crate::ops::logging;
use crate::ops::secrets;
use crate::ops::systemd::watchdog::Failure;

/// Another configuration, read and checked, and the addresses that it wants listened on.
#[derive(Debug)]
pub(super) struct Reload {
    config: Config,
    wanted: ListenPlan,
    admin: Option<ResolvedAdmin>,
    tls: TlsMaterial,
}

/// What another configuration wants open is, and only going by it is left, which cannot fail.
#[derive(Debug)]
struct Prepared {
    config: Config,
    /// Nobody is accepted from these yet: newcomers are held to all of it.
    listeners: Vec<Listener>,
    /// It does not want these.
    closing: Vec<Listener>,
    /// `None` also where the daemon answers already.
    admin: Option<AdminSocket>,
    tls: TlsMaterial,
}

/// Reads the certificates and keys of a configuration; those that cannot be used stay as they are in
/// `before`. Cancel safe.
pub(super) async fn read_tls(
    config: &Config,
    before: &Arc<ServerTls>,
) -> anyhow::Result<TlsMaterial> {
    let mut listeners = config.listen.iter();
    let has_keys = config.tls_key.is_some() || listeners.any(|listener| listener.tls_key.is_some());
    // Tokens are read, too, though only for a moment.
    if has_keys || config.tokens.is_some() {
        secrets::keep_out_of_cores().context("cannot keep secrets out of cores")?;
    }
    let (config, before) = (config.clone(), before.clone());
    tokio::task::spawn_blocking(move || TlsMaterial::read(&config, &before))
        .await
        .context("reading the TLS files was given up")?
}

/// Reads the configuration as it is now. Cancel safe.
pub(super) async fn read(source: &Source) -> anyhow::Result<Config> {
    let source = source.clone();
    // A file may be on a disk that does not answer: clients are served meanwhile.
    let config = tokio::task::spawn_blocking(move || source.read())
        .await
        .context("reading the configuration was given up")??;
    Ok(config)
}

impl Reload {
    /// Does what takes time: reads the file, and looks names up. Cancel safe.
    pub(super) async fn prepare(source: &Source, tls: &Arc<ServerTls>) -> anyhow::Result<Reload> {
        let config = read(source).await?;
        let tls = read_tls(&config, tls).await?;
        let wanted = ListenPlan::resolve(&config).await?;
        let admin = ResolvedAdmin::resolve(&config).await?;
        Ok(Reload {
            config,
            wanted,
            admin,
            tls,
        })
    }
}

impl RunningServer {
    /// Reads the configuration again and goes by it, unless it is asked to stop before that is read.
    /// Returns what it was asked for meanwhile.
    pub(super) async fn reload(
        &mut self,
        source: &Source,
        commands: &mut CommandSource,
    ) -> Option<Command> {
        let mut later = None;
        let prepared = tokio::select! {
            prepared = Reload::prepare(source, &self.tls) => prepared,
            // What was being prepared is dropped: it has changed nothing yet.
            stop = stop_asked(commands, &mut later) => return Some(stop),
        };
        self.apply(prepared, source).await;
        later
    }

    /// Goes by what was prepared from now on; or, if that cannot be, says why and goes on as before.
    /// Nobody is accepted for a moment, and who connects meanwhile waits in the backlog. Not cancel
    /// safe.
    async fn apply(&mut self, prepared: anyhow::Result<Reload>, source: &Source) {
        let opened = match prepared {
            Ok(reload) => self.open_wanted(reload).await,
            Err(error) => Err(error),
        };
        self.counters.reloads.add(&opened);
        match opened {
            Ok(opened) => {
                for listener in &opened.closing {
                    // Who had connected to it while the others were opened.
                    self.acceptor.drain_backlog(listener);
                }
                self.tls.set(opened.tls);
                self.apply_config(opened.config, opened.admin, source);
                self.open(opened.listeners);
                self.acceptor.recheck_clients();
                self.reload_failure.send_replace(None);
            }
            Err(error) => {
                error!(
                    error = format!("{error:#}"),
                    "configuration not reloaded, nothing changed"
                );
                self.reload_failure.send_replace(Some(Failure::new(&error)));
            }
        }
    }

    /// Opens what another configuration wants open.
    ///
    /// # Errors
    /// Something of it cannot be: then nothing has changed.
    async fn open_wanted(&mut self, reload: Reload) -> anyhow::Result<Prepared> {
        let mut listeners = self.accept_loops.close().await;
        // Closed again if something after it fails.
        let opened = self.open_admin(reload.admin).and_then(|admin| {
            let closing = reload.wanted.open(&mut listeners, &reload.config)?;
            Ok((closing, admin))
        });
        let (closing, admin) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.open(listeners);
                return Err(error);
            }
        };
        Ok(Prepared {
            config: reload.config,
            listeners,
            closing,
            admin,
            tls: reload.tls,
        })
    }

    /// Opens the admin address, unless the daemon answers there already.
    fn open_admin(&self, wanted: Option<ResolvedAdmin>) -> anyhow::Result<Option<AdminSocket>> {
        let is_new = |wanted: &ResolvedAdmin| {
            let served = self.admin.as_ref();
            !served.is_some_and(|admin| admin.is_at(Some(wanted.address())))
        };
        wanted.filter(is_new).map(ResolvedAdmin::open).transpose()
    }

    /// Answers at the admin address of the configuration from now on, which was opened if it is new.
    fn apply_admin(&mut self, opened: Option<AdminSocket>) {
        let address = self.config.admin.as_ref();
        if let Some(admin) = self.admin.as_ref().filter(|admin| admin.is_at(address)) {
            admin.set_hosts(&self.config.admin_hosts);
            return;
        }
        self.admin = opened.and_then(|socket| {
            let admin = socket.serve(self.admin_state.clone());
            admin
                .inspect_err(|error| error!(%error, "cannot start the thread of --admin"))
                .ok()
        });
    }

    fn apply_config(&mut self, mut config: Config, admin: Option<AdminSocket>, source: &Source) {
        let mut changed = self.config.differences(&config);
        changed.retain(|option| {
            let at_once = option.applies == Applies::AtOnce;
            if !at_once {
                warn!(option = &*option.name, "takes effect at the next restart");
            }
            at_once
        });
        config.keep_until_restart(&self.config);

        source.advise(&config);
        self.config.swap(config);
        self.apply_admin(admin);
        // Before the level changes, and perhaps hides it.
        let changed = match changed.is_empty() {
            true => "nothing".to_owned(),
            false => {
                let names: Vec<&str> = changed.iter().map(|option| &*option.name).collect();
                names.join(",")
            }
        };
        info!(changed, "configuration reloaded");
        logging::set_level(self.config.log);
    }
}
