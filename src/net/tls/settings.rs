//! What is spoken, and in which pieces.

use s2n_tls::config::Builder;
use s2n_tls::enums::SerializationVersion;
use s2n_tls::error::Error;
use s2n_tls::security::Policy;

/// Plaintext that is encrypted at a time. What a stuck peer does not take of it stays with its
/// connection, so that this is also the most that one costs: four records.
pub(super) const SEAL_BYTES_MAX: usize = 64 * 1024;

/// Room for so much plaintext in records, which s2n-tls hands to the socket at once.
const SEND_BUFFER_BYTES: u32 = (SEAL_BYTES_MAX + 4 * 256) as u32;

/// TLS 1.2 and 1.3 with forward secrecy and authenticated encryption: nothing older, no CBC.
const POLICY: &str = "CloudFront-TLS-1-2-2021";

/// The ciphers, groups and versions that are spoken.
fn policy() -> Policy {
    // Only a name with a NUL is refused here; one that is not known, when it is used.
    Policy::from_version(POLICY).unwrap_or(s2n_tls::security::DEFAULT_TLS13)
}

/// Sets what all configurations of servers have in common.
pub(super) fn prepare(builder: &mut Builder) -> Result<(), Error> {
    builder
        .set_security_policy(&policy())?
        .set_serialization_version(SerializationVersion::V1)?
        .set_send_buffer_size(SEND_BUFFER_BYTES)?
        // A delay hides how long an error took. It is for ciphers that are not spoken here.
        .set_max_blinding_delay(0)?;
    Ok(())
}
