//! TLS of a client, as it is typed.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// What the commands that connect to a daemon take for TLS.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsArgs {
    /// Speak TLS 1.3, to a listener with `tls`, and check that it is who it should be
    ///
    /// Its certificate has to be signed by an authority that this machine trusts, or --ca, for the host of
    /// the address, or --server-name. A certificate that is refused is not tried again.
    #[arg(long, help_heading = "TLS")]
    pub tls: bool,

    /// Trust the authorities in FILE (PEM) instead of those of this machine
    #[arg(long, value_name = "FILE", help_heading = "TLS", requires = "tls", value_hint = ValueHint::FilePath)]
    pub ca: Option<PathBuf>,

    /// Show the certificate in FILE (PEM, with what leads to its authority), if the daemon asks for one
    #[arg(long, value_name = "FILE", help_heading = "TLS", requires_all = ["tls", "key"], value_hint = ValueHint::FilePath)]
    pub cert: Option<PathBuf>,

    /// The key of --cert (PEM)
    #[arg(long, value_name = "FILE", help_heading = "TLS", requires_all = ["tls", "cert"], value_hint = ValueHint::FilePath)]
    pub key: Option<PathBuf>,

    /// The certificate has to be for NAME, a name or an address [default: the host of the address]
    #[arg(long, value_name = "NAME", help_heading = "TLS", requires = "tls")]
    pub server_name: Option<String>,
}
