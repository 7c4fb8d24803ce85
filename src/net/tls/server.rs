//! Certificates and keys of the listeners, read from their files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use parking_lot::RwLock;
use s2n_tls::callbacks::VerifyHostNameCallback;
use s2n_tls::config::{Builder, Config as S2nConfig};
use s2n_tls::enums::ClientAuthType;
use tracing::{error, warn};
use zeroize::Zeroizing;

use super::pem;
use super::revocation::RevocationLists;
use super::settings;
use crate::config::{Config, ListenerOptions};

/// How long before its end a certificate is warned of.
const WARNING_TIME: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Files that TLS of a listener is made of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct TlsFiles {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    revoked: Option<PathBuf>,
}

/// TLS of listeners with the same files.
#[derive(Debug)]
pub(crate) struct LoadedTls {
    pub(super) config: S2nConfig,
    pub(super) revoked: Option<Arc<RevocationLists>>,
    /// Whether clients have to show a certificate.
    pub(super) asks_certificate: bool,
    /// End of the certificate.
    expires: SystemTime,
}

/// What the files of all listeners held when they were read.
#[derive(Debug, Default)]
pub(crate) struct TlsMaterial {
    loaded: BTreeMap<TlsFiles, Arc<LoadedTls>>,
    /// Files of listeners that name none.
    default: Option<TlsFiles>,
}

/// TLS of the listeners, which a reload replaces for newcomers.
#[derive(Debug, Default)]
pub(crate) struct ServerTls(RwLock<TlsMaterial>);

/// A certificate that listeners show, and when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateEnd {
    /// Path of its file.
    pub(crate) file: PathBuf,
    /// When it ends.
    pub(crate) at: SystemTime,
}

impl TlsFiles {
    fn new(
        certificate: Option<&PathBuf>,
        key: Option<&PathBuf>,
        config: &Config,
    ) -> Option<TlsFiles> {
        Some(TlsFiles {
            certificate: certificate?.clone(),
            key: key?.clone(),
            client_ca: config.tls_client_ca.clone(),
            revoked: config.tls_crl.clone(),
        })
    }

    fn load(&self) -> anyhow::Result<LoadedTls> {
        let (chain, key) = (
            read("tls-cert", &self.certificate)?,
            read("tls-key", &self.key)?,
        );
        let expires = end_of(&chain).with_context(|| named("tls-cert", &self.certificate))?;
        let mut builder = Builder::new();
        builder.with_system_certs(false)?;
        settings::prepare(&mut builder)?;
        builder.load_pem(&chain, &key).map_err(|error| {
            anyhow!(
                "{} and {} do not fit together, or one of them is damaged: {}",
                named("tls-cert", &self.certificate),
                named("tls-key", &self.key),
                error.message()
            )
        })?;
        if let Some(path) = &self.client_ca {
            let trusted = read("tls-client-ca", path)?;
            end_of(&trusted).with_context(|| named("tls-client-ca", path))?;
            let trust = builder.trust_pem(&trusted);
            trust.with_context(|| named("tls-client-ca", path))?;
            // Who shows none is refused when it can be told: see `TlsSession::finish_handshake`.
            builder.set_client_auth_type(ClientAuthType::Optional)?;
            // Who a client is, its certificate says; what that may, the tokens do.
            builder.set_verify_host_callback(AnyName)?;
        }
        let revoked = self.revoked.as_deref().map(|path| {
            let lists = RevocationLists::parse(&read("tls-crl", path)?);
            lists.with_context(|| named("tls-crl", path))
        });
        Ok(LoadedTls {
            config: builder.build()?,
            revoked: revoked.transpose()?.map(Arc::new),
            asks_certificate: self.client_ca.is_some(),
            expires,
        })
    }
}

/// Takes a client's certificate whatever name is in it.
struct AnyName;

impl VerifyHostNameCallback for AnyName {
    fn verify_host_name(&self, _: &str) -> bool {
        true
    }
}

impl TlsMaterial {
    /// Reads the files of all listeners of a configuration. Those that cannot be used now, but could be
    /// `before`, stay as they were, and the log says so. Blocks.
    ///
    /// # Errors
    /// Files that were not in use before cannot be used.
    pub(crate) fn read(config: &Config, before: &ServerTls) -> anyhow::Result<TlsMaterial> {
        let default = TlsFiles::new(config.tls_cert.as_ref(), config.tls_key.as_ref(), config);
        let mut all = BTreeMap::new();
        for listener in config.listen.iter().filter(|listener| listener.tls) {
            let (certificate, key) = (listener.tls_cert.as_ref(), listener.tls_key.as_ref());
            let own = TlsFiles::new(certificate, key, config);
            let Some(files) = own.or_else(|| default.clone()) else {
                continue;
            };
            if all.contains_key(&files) {
                continue;
            }
            let loaded = match (files.load(), before.0.read().loaded.get(&files)) {
                (Ok(loaded), _) => Arc::new(loaded),
                (Err(error), Some(before)) => {
                    error!(
                        error = format!("{error:#}"),
                        "TLS files not read: the old ones stay in use"
                    );
                    before.clone()
                }
                (Err(error), None) => return Err(error),
            };
            warn_of_end(&files, &loaded);
            all.insert(files, loaded);
        }
        Ok(TlsMaterial {
            loaded: all,
            default,
        })
    }
}

impl ServerTls {
    /// Goes by what was read, for newcomers.
    pub(crate) fn set(&self, material: TlsMaterial) {
        *self.0.write() = material;
    }

    /// TLS of a listener with these options.
    pub(crate) fn of(&self, options: &ListenerOptions) -> Option<Arc<LoadedTls>> {
        let own = options.tls_cert.as_ref().zip(options.tls_key.as_ref());
        let material = self.0.read();
        let is_it = |files: &TlsFiles| match own {
            Some(own) => (&files.certificate, &files.key) == own,
            None => Some(files) == material.default.as_ref(),
        };
        let mut all = material.loaded.iter();
        let it = all.find(|(files, _)| is_it(files));
        it.map(|(_, loaded)| loaded.clone())
    }

    /// Certificates of clients that are revoked, if that is known.
    pub(crate) fn revoked(&self) -> Option<Arc<RevocationLists>> {
        let material = self.0.read();
        material.loaded.values().find_map(|tls| tls.revoked.clone())
    }

    /// Every certificate in use, and when it ends.
    pub(crate) fn ends(&self) -> Vec<CertificateEnd> {
        let material = self.0.read();
        let mut ends: Vec<_> = material
            .loaded
            .iter()
            .map(|(files, loaded)| CertificateEnd {
                file: files.certificate.clone(),
                at: loaded.expires,
            })
            .collect();
        ends.dedup();
        ends
    }

    /// Warns of certificates that end soon.
    pub(crate) fn warn_of_ends(&self) {
        for (files, loaded) in &self.0.read().loaded {
            warn_of_end(files, loaded);
        }
    }
}

fn warn_of_end(files: &TlsFiles, loaded: &LoadedTls) {
    let left = loaded.expires.duration_since(SystemTime::now());
    let certificate = files.certificate.display();
    match left {
        Ok(left) if left > WARNING_TIME => {}
        Ok(left) => {
            let days = left.as_secs() / (24 * 60 * 60);
            warn!(%certificate, days, "the certificate ends soon");
        }
        Err(_) => warn!(%certificate, "the certificate has ended"),
    }
}

/// Reads a file of an option whole.
fn read(option: &str, path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let read = fs::read(path).map(Zeroizing::new);
    read.with_context(|| format!("{} cannot be read", named(option, path)))
}

/// A file, and the option that it is of.
fn named(option: &str, path: &Path) -> String {
    format!("{option} {}", path.display())
}

/// When the first certificate of a PEM file ends.
fn end_of(pem: &[u8]) -> anyhow::Result<SystemTime> {
    let mut first = None;
    for pem in pem::blocks(pem, "CERTIFICATE", "certificates")? {
        let certificate = pem.parse_x509().context("its certificate is damaged")?;
        let end = certificate.validity().not_after.timestamp();
        first.get_or_insert(end);
    }
    let end = first.context("it has no certificate")?;
    let end = Duration::from_secs(u64::try_from(end).unwrap_or(0));
    Ok(SystemTime::UNIX_EPOCH + end)
}
