//! TLS: certificates, the programs that speak it for a plain daemon, and how fast a core encrypts.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use linehub::commands::bench::{Daemon, Endpoint};
use linehub::config::Address;
use linehub::config::cli::TlsArgs;
use rcgen::CertifiedKey;
use tempfile::TempDir;

use crate::launch::Cores;
use crate::settings::Settings;

const START_PATIENCE: Duration = Duration::from_secs(10);

/// A program that speaks TLS for the plain daemon behind it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Front {
    Stunnel,
    Nginx,
}

/// A certificate for 127.0.0.1, which is its own authority, and its key: ECDSA on P-256.
pub(crate) struct Pair {
    folder: TempDir,
}

impl Pair {
    pub(crate) fn new() -> Result<Pair> {
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let pair = Pair {
            folder: tempfile::tempdir()?,
        };
        fs::write(pair.certificate(), cert.pem())?;
        fs::write(pair.key(), signing_key.serialize_pem())?;
        Ok(pair)
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// Where TLS is spoken with it.
    pub(crate) fn endpoint(&self, address: SocketAddr) -> Result<Endpoint> {
        let args = TlsArgs {
            tls: true,
            ca: Some(self.certificate()),
            ..TlsArgs::default()
        };
        let (host, port) = (address.ip().to_string(), address.port());
        let endpoint = Endpoint::resetting(address);
        let endpoint = endpoint.over_tls(&args, &Address::Tcp { host, port });
        endpoint.map_err(anyhow::Error::msg)
    }
}

impl Front {
    /// Starts it before `daemon`, and waits until it listens.
    pub(crate) fn start(self, pair: &Pair, daemon: SocketAddr) -> Result<(Daemon, SocketAddr)> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let (certificate, key) = (pair.certificate(), pair.key());
        let (certificate, key) = (certificate.display(), key.display());
        let folder = pair.folder.path();
        let (text, command): (_, &[&str]) = match self {
            Front::Stunnel => (
                format!(
                    "foreground = yes\npid =\nsslVersionMin = TLSv1.3\n\
                     ciphersuites = TLS_AES_128_GCM_SHA256\n[front]\naccept = {address}\n\
                     connect = {daemon}\ncert = {certificate}\nkey = {key}\n"
                ),
                &["stunnel"],
            ),
            Front::Nginx => (
                format!(
                    "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off;\n\
                     master_process off;\npid {folder}/pid;\nerror_log stderr;\n\
                     events {{ worker_connections 8192; }}\nstream {{ server {{\n\
                     listen {address} ssl;\nproxy_pass {daemon};\nssl_protocols TLSv1.3;\n\
                     ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;\nproxy_buffer_size 64k;\n\
                     ssl_certificate {certificate};\nssl_certificate_key {key};\n}} }}\n",
                    folder = folder.display()
                ),
                &["nginx", "-c"],
            ),
        };
        let file = folder.join("front.conf");
        fs::write(&file, text)?;
        let mut started = Command::new(command[0]);
        started.args(&command[1..]).arg(&file);
        let front = Daemon::start(started).with_context(|| format!("no {}", command[0]))?;
        let deadline = Instant::now() + START_PATIENCE;
        while TcpStream::connect(address).is_err() {
            ensure!(Instant::now() < deadline, "{} does not listen", command[0]);
            thread::sleep(Duration::from_millis(10));
        }
        Ok((front, address))
    }
}

/// Bytes a second that the server's core encrypts with AES-128-GCM, in blocks as long as records, by
/// OpenSSL.
pub(crate) fn cipher_speed(cores: &Cores, settings: &Settings) -> Result<f64> {
    let seconds = settings.window.as_secs().max(1).to_string();
    let mut command = Command::new("openssl");
    command.args(["speed", "-mr", "-bytes", "16384", "-seconds", &seconds]);
    command.args(["-evp", "aes-128-gcm"]);
    let output = cores
        .on_the_servers(|| command.output())?
        .context("no openssl")?;
    // The last field of `+F:25:AES-128-GCM:5123456789.12`.
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with("+F:"));
    let figure = line.and_then(|line| line.rsplit(':').next()?.parse().ok());
    figure.with_context(|| format!("openssl speed says {text:?}"))
}
