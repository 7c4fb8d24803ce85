//! What is in a PEM file (RFC 7468).

use anyhow::{Context, ensure};
use x509_parser::pem::Pem;

/// Everything in a PEM file that is to hold `kind` alone, each with this label.
///
/// # Errors
/// What is wrong with it.
pub(super) fn blocks(pem: &[u8], label: &str, kind: &str) -> anyhow::Result<Vec<Pem>> {
    let block = |pem: Result<Pem, _>| {
        let pem: Pem = pem.context("it is no PEM, or is cut off")?;
        ensure!(
            pem.label == label,
            "it has a {}, and is for {kind}",
            pem.label
        );
        Ok(pem)
    };
    Pem::iter_from_buffer(pem).map(block).collect()
}
