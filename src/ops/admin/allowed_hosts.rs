//! The names that a request may ask for.

use parking_lot::RwLock;

use crate::wire::http::host::is_allowed;

/// The names that the operator allows, which a reload changes.
#[derive(Debug)]
pub(super) struct AllowedHosts(RwLock<Vec<String>>);

impl AllowedHosts {
    /// Allows these names, in lower case.
    pub(super) fn new(names: Vec<String>) -> AllowedHosts {
        AllowedHosts(RwLock::new(names))
    }

    /// Allows these names instead, in lower case.
    pub(super) fn set(&self, names: Vec<String>) {
        *self.0.write() = names;
    }

    /// Whether a request for this host is to be answered.
    pub(super) fn allow(&self, host: &str) -> bool {
        is_allowed(host, &self.0.read())
    }
}
