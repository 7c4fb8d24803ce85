//! The options of one listener.

use std::sync::Arc;

use super::address::{Address, AddressError};
use super::error::ConfigError;
use super::raw::RawValue;
use super::words;
use crate::wire::format::Format;

/// Where the daemon listens, and a client looks for it, unless it is said.
pub(crate) const LISTEN: &str = "127.0.0.1:2345";

/// All that one listener is told: one value, which its clients share. A reload makes another one, for
/// those who come after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerOptions {
    /// Address as it was typed: a host name may stand for several, and port 0 for a free one.
    pub address: Address,
    /// Format in which its clients see the stream.
    pub format: Format,
}

impl ListenerOptions {
    /// Reads `ADDR[,KEY[=VALUE]]…`. What the text leaves open is `default_format`.
    ///
    /// # Errors
    /// What is wrong with the text, and what is allowed.
    pub(super) fn parse(text: &str, default_format: Format) -> Result<ListenerOptions, String> {
        let mut parts = text.split(',');
        let address = parts
            .next()
            .unwrap_or_default()
            .parse()
            .map_err(|error: AddressError| error.to_string())?;
        let mut own_format = None;
        for part in parts {
            match part.split_once('=') {
                Some(("format", _)) if own_format.is_some() => {
                    return Err(format!("'{text}' has two formats; allowed: one"));
                }
                Some(("format", value)) => own_format = Some(words::format(value)?),
                _ => {
                    return Err(format!(
                        "',{part}' is unknown; allowed after the address: ,format=text, \
                         ,format=json or ,format=raw"
                    ));
                }
            }
        }
        Ok(ListenerOptions {
            address,
            format: own_format.unwrap_or(default_format),
        })
    }

    /// Options of a listener that no entry of the configuration stands for. `bound` is its address as
    /// it is logged; a socket without a name has an empty path.
    pub(crate) fn unlisted(bound: &str, format: Format) -> ListenerOptions {
        let path = || Address::Unix(bound.strip_prefix("unix:").unwrap_or(bound).into());
        ListenerOptions {
            address: bound.parse().unwrap_or_else(|_| path()),
            format,
        }
    }
}

/// Reads listeners, and refuses an address that is given twice, unless its port is 0.
pub(super) fn distinct(
    option: &str,
    values: &[RawValue],
    parse: impl Fn(&str) -> Result<ListenerOptions, String>,
) -> Result<Vec<Arc<ListenerOptions>>, ConfigError> {
    let mut listeners: Vec<Arc<ListenerOptions>> = Vec::new();
    for value in values {
        let at_place = |reason| ConfigError::at(option, value, reason);
        let new = parse(&value.text).map_err(at_place)?;
        let shared = !matches!(new.address, Address::Tcp { port: 0, .. });
        if shared && listeners.iter().any(|known| known.address == new.address) {
            return Err(at_place(format!(
                "{} is given twice; allowed: once",
                new.address
            )));
        }
        listeners.push(Arc::new(new));
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unlisted_listener_has_the_address_that_it_is_bound_to() {
        for bound in [
            "127.0.0.1:1",
            "[::1]:2",
            "[fe80::1%3]:4",
            "unix:/run/x",
            "unix:@x",
            "unix:",
        ] {
            let options = ListenerOptions::unlisted(bound, Format::Raw);
            assert_eq!(options.address.to_string(), bound);
            assert_eq!(options.format, Format::Raw);
        }
    }
}
