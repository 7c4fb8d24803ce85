//! How NATS is reached: what a person typed, as the client library takes it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use async_nats::rustls::crypto::{CryptoProvider, aws_lc_rs};
use async_nats::rustls::pki_types::pem::PemObject;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use async_nats::rustls::{ClientConfig, RootCertStore};
use async_nats::{Auth, AuthError, ConnectOptions, ServerAddr};
use nkeys::KeyPair;

use crate::config::Config;

/// How NATS is reached; what `--nats…` say.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct NatsOptions {
    /// `nats://` or `tls://`, with user and password or a token, or without; the same for all.
    pub(crate) urls: Vec<String>,
    /// File with a JWT and its seed.
    pub(crate) creds: Option<PathBuf>,
    /// File with the seed of a user.
    pub(crate) nkey: Option<PathBuf>,
    /// File with the authorities that servers' certificates are from, instead of the system's.
    pub(crate) ca: Option<PathBuf>,
    /// Files with the certificate that is shown to servers, and its key.
    pub(crate) cert: Option<(PathBuf, PathBuf)>,
    /// Servers that have each stream.
    pub(crate) replicas: usize,
}

impl fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls: Vec<&str> = self.urls.iter().map(|url| without_secret(url)).collect();
        f.debug_struct("NatsOptions")
            .field("urls", &urls)
            .field("creds", &self.creds)
            .field("nkey", &self.nkey)
            .field("ca", &self.ca)
            .field("cert", &self.cert)
            .field("replicas", &self.replicas)
            .finish()
    }
}

/// A URL without its user, as logs and errors have it.
fn without_secret(url: &str) -> &str {
    url.rsplit('@').next().unwrap_or("")
}

impl NatsOptions {
    /// What the configuration says; `None` if it names no server.
    pub(crate) fn of(config: &Config) -> Option<NatsOptions> {
        let urls: Vec<_> = config.nats.iter().map(|url| url.reveal()).collect();
        (!urls.is_empty()).then(|| NatsOptions {
            urls,
            creds: config.nats_creds.clone(),
            nkey: config.nats_nkey.clone(),
            ca: config.nats_ca.clone(),
            cert: config.nats_cert.clone().zip(config.nats_key.clone()),
            replicas: config.nats_replicas,
        })
    }

    /// Reads the files, as a connection does.
    ///
    /// # Errors
    /// A file that cannot be read, or a URL that is none.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.servers()?;
        self.credentials()?;
        self.check_tls()
    }

    /// The servers without their users, and what is said to all of them. The files are read for each connection: who
    /// renews one need not restart the daemon.
    ///
    /// # Errors
    /// A URL that is none.
    pub(super) fn resolve(&self) -> anyhow::Result<(Vec<ServerAddr>, ConnectOptions)> {
        let (servers, user) = self.servers()?;
        let mut options = match self.creds.is_some() || self.nkey.is_some() {
            true => {
                let own = self.clone();
                ConnectOptions::with_auth_callback(move |nonce| {
                    let auth = own.sign(&nonce);
                    let auth = auth.map_err(|error| AuthError::new(format!("{error:#}")));
                    std::future::ready(auth)
                })
            }
            false => ConnectOptions::new(),
        };
        if let Some((user, password)) = user {
            options = match password {
                Some(password) => options.user_and_password(user, password),
                None => options.token(user),
            };
        }
        Ok((servers.clone(), self.add_tls(&servers, options)))
    }

    /// Who the daemon is by its files: the token of the user, if there is one, and the user's key.
    fn credentials(&self) -> anyhow::Result<Option<(Option<String>, KeyPair)>> {
        let Some(path) = self.creds.as_ref().or(self.nkey.as_ref()) else {
            return Ok(None);
        };
        let text = read(path)?;
        let pair = seed(&text).and_then(|seed| KeyPair::from_seed(seed).ok());
        let token = token(&text).map(str::to_owned);
        match pair {
            Some(pair) if self.creds.is_none() => Ok(Some((None, pair))),
            Some(pair) if token.is_some() => Ok(Some((token, pair))),
            None if self.creds.is_none() => bail!("{} has no seed of a NATS user", path.display()),
            _ => bail!("{} has no credentials of a NATS user", path.display()),
        }
    }

    /// Shows that the daemon is who its files say.
    fn sign(&self, nonce: &[u8]) -> anyhow::Result<Auth> {
        let mut auth = Auth::new();
        if let Some((token, pair)) = self.credentials()? {
            auth.nkey = token.is_none().then(|| pair.public_key());
            auth.jwt = token;
            auth.signature = Some(pair.sign(nonce)?);
        }
        Ok(auth)
    }

    fn servers(&self) -> anyhow::Result<(Vec<ServerAddr>, Option<Login>)> {
        ensure!(!self.urls.is_empty(), "no URL of NATS is given");
        let mut all: Vec<(ServerAddr, Option<Login>)> = Vec::new();
        for url in &self.urls {
            let server = server(url).with_context(|| {
                format!(
                    "--nats {:?} is no URL of a NATS server",
                    without_secret(url)
                )
            })?;
            all.push(server);
        }
        let (servers, logins): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        let mut logins: Vec<Login> = logins.into_iter().flatten().collect();
        logins.dedup();
        ensure!(
            logins.len() < 2,
            "the URLs of NATS name different users: all of them are to name the same"
        );
        Ok((servers, logins.pop()))
    }

    fn add_tls(&self, servers: &[ServerAddr], mut options: ConnectOptions) -> ConnectOptions {
        install_provider();
        if let Some(path) = &self.ca {
            options = options.add_root_certificates(path.clone());
        }
        if let Some((cert, key)) = &self.cert {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        let is_tls = servers.iter().any(ServerAddr::tls_required);
        options.require_tls(is_tls || self.ca.is_some() || self.cert.is_some())
    }

    /// Whether the files can be used: the library reads them when it connects, and does not say which it cannot.
    fn check_tls(&self) -> anyhow::Result<()> {
        install_provider();
        let mut roots = RootCertStore::empty();
        if let Some(path) = &self.ca {
            for cert in certs(path)? {
                let added = roots.add(cert);
                added.with_context(|| {
                    format!("{} has no authority that can be used", path.display())
                })?;
            }
        }
        if let Some((cert, key)) = &self.cert {
            let what = || {
                format!(
                    "{} is no key of the certificate in {}",
                    key.display(),
                    cert.display()
                )
            };
            let key = PrivateKeyDer::from_pem_file(key)
                .with_context(|| format!("read a key in {}", key.display()))?;
            let config = ClientConfig::builder().with_root_certificates(roots);
            config
                .with_client_auth_cert(certs(cert)?, key)
                .with_context(what)?;
        }
        Ok(())
    }
}

/// User and password, or a token.
type Login = (String, Option<String>);

fn server(url: &str) -> anyhow::Result<(ServerAddr, Option<Login>)> {
    let server: ServerAddr = url.parse()?;
    if !matches!(server.scheme(), "nats" | "tls") {
        bail!("it begins neither with nats:// nor with tls://");
    }
    ensure!(!server.host().is_empty(), "it has no host");
    let login = match server.username() {
        Some(user) => {
            let password = server.password().map(unescape).transpose()?;
            Some((unescape(user)?, password))
        }
        None => None,
    };
    // The library takes no user from a URL, but writes whole URLs into its log.
    let mut url = server.into_inner();
    let is_bare = url.set_username("").and(url.set_password(None));
    ensure!(is_bare.is_ok(), "it can have no user");
    Ok((ServerAddr::from_url(url)?, login))
}

/// The text of which this is the percent-encoded form.
fn unescape(text: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => std::str::from_utf8(&[*high, *low])
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() {
            &after[2..]
        } else {
            after
        };
    }
    String::from_utf8(bytes)
        .ok()
        .context("its user or password is not UTF-8")
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// The seed of a user, as it is or between lines that say what it is.
fn seed(text: &str) -> Option<&str> {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| line.starts_with("SU") && line.len() == 58)
}

/// The token of a user, between lines that say what it is.
fn token(text: &str) -> Option<&str> {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| line.contains("BEGIN NATS USER JWT"))?;
    lines.next().filter(|line| !line.is_empty())
}

/// The library asks for the provider of the process, and panics if it is not certain which that is.
fn install_provider() {
    if CryptoProvider::get_default().is_none() {
        let _ = aws_lc_rs::default_provider().install_default();
    }
}

fn certs(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || format!("read certificates in {}", path.display());
    let certs = CertificateDer::pem_file_iter(path).with_context(read)?;
    let certs = certs.collect::<Result<Vec<_>, _>>().with_context(read)?;
    ensure!(!certs.is_empty(), "{} has no certificate", path.display());
    Ok(certs)
}
