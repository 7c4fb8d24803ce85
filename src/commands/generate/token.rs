//! A new token for the file of `--tokens`.

use std::fmt::Write as _;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::config::cli::TokenArgs;

/// Its table in the file, and the secret in a line.
pub(super) fn generate(args: &TokenArgs) -> anyhow::Result<(String, Zeroizing<String>)> {
    let mut random = Zeroizing::new([0; 32]);
    getrandom::fill(random.as_mut()).context("the system has no random numbers")?;
    let mut secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(&random));
    let table = table(args, &secret);
    secret.push('\n');
    Ok((table, secret))
}

fn table(args: &TokenArgs, secret: &str) -> String {
    let hash = Sha256::digest(secret.as_bytes());
    let mut table = format!(
        "\n[[token]]\nname = \"{}\"\nsha256 = \"{hash:x}\"\n",
        args.name
    );
    // A String takes everything, and nothing in it has to be escaped.
    if let Some(role) = args.role {
        let _ = writeln!(table, "role = \"{role}\"");
    }
    if !args.channel.is_empty() {
        let names: Vec<_> = args
            .channel
            .iter()
            .map(|name| format!("\"{name}\""))
            .collect();
        let _ = writeln!(table, "channels = [{}]", names.join(", "));
    }
    if let Some(expires) = &args.expires {
        let _ = writeln!(table, "expires = {expires}");
    }
    table
}
