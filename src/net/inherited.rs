//! Descriptors that were open already when the daemon began.

use std::os::fd::OwnedFd;

/// A descriptor with the name it was passed under.
#[derive(Debug)]
pub struct InheritedFd {
    /// FileDescriptorName= of its socket unit, or its name in the store.
    pub name: String,
    /// The descriptor, which no child inherits.
    pub descriptor: OwnedFd,
}

impl InheritedFd {
    /// Whether it is a socket that connections come to.
    pub(crate) fn listens(&self) -> bool {
        rustix::net::sockopt::socket_acceptconn(&self.descriptor).unwrap_or(false)
    }
}
