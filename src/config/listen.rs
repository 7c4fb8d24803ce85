//! One listener as `--listen` names it: its address and what its clients see.

use super::address::{Address, AddressError};
use super::error::ConfigError;
use super::raw::RawValue;
use super::words;
use crate::wire::format::Format;

/// Where the daemon listens, and a client looks for it, unless it is said.
pub(crate) const LISTEN: &str = "127.0.0.1:2345";

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenSpec {
    /// Where the listener listens; port 0 picks a free port.
    pub address: Address,
    /// How the listener's clients see the stream.
    pub format: Format,
}

/// Reads listeners, and refuses an address that is given twice, unless its port is 0.
pub(super) fn distinct(
    option: &str,
    values: &[RawValue],
    parse: impl Fn(&str) -> Result<ListenSpec, String>,
) -> Result<Vec<ListenSpec>, ConfigError> {
    let mut listeners: Vec<ListenSpec> = Vec::new();
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
        listeners.push(new);
    }
    Ok(listeners)
}

/// Reads `ADDR` or `ADDR,format=FMT`; without the latter the format is `default_format`.
pub(super) fn listener(text: &str, default_format: Format) -> Result<ListenSpec, String> {
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
                    "',{part}' is unknown; allowed after the address: ,format=text, ,format=json \
                     or ,format=raw"
                ));
            }
        }
    }
    Ok(ListenSpec {
        address,
        format: own_format.unwrap_or(default_format),
    })
}
