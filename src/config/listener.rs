//! The options of one listener, one row each: all that the command line, the file and the help know
//! of a key, and what [`ListenerOptions`] makes of it.

use std::fmt;
use std::sync::Arc;

use super::address::{Address, AddressError};
use super::error::ConfigError;
use super::nearest::no_such_option;
use super::raw::{RawValue, ValueSource};
use super::words;
use crate::wire::channel::ChannelName;
use crate::wire::format::Format;
use crate::wire::line_end::LineEnd;
use crate::wire::role::Role;

/// Where the daemon listens, and a client looks for it, unless it is said.
pub(crate) const LISTEN: &str = "127.0.0.1:2345";

/// The option that listeners are given with.
pub(super) const OPTION: &str = "listen";

/// The key of a listener's table that has its address.
pub(super) const ADDRESS: &str = "address";

/// What is known of a listener's key beside the field that it sets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListenerKey {
    /// The key.
    pub(super) name: &'static str,
    /// How it is given behind the address: `role=both|publish|subscribe`.
    pub(crate) usage: &'static str,
    /// What it does, and its default.
    pub(crate) help: &'static str,
    /// Value of the key alone; `None` if it needs one.
    alone: Option<&'static str>,
}

/// What a listener is told that its entry leaves open: options of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerDefaults {
    /// Format in which clients see the stream.
    pub format: Format,
    /// Whether a client whose first line is an HTTP request is closed.
    pub http_guard: bool,
}

/// Makes `LISTENER_KEYS` and `ListenerOptions` from rows of this form; `defaults` names the
/// [`ListenerDefaults`], and a field is displayed as its key is read:
///
/// ```text
/// /// Help.
/// key("name", "PLACEHOLDER", default = "in words", alone = Option)
/// /// Doc of the field.
/// field: Type = read(parser), display(function), or(default);
/// ```
macro_rules! listener_keys {
    ($defaults:ident: $(
        $(#[doc = $help:literal])+
        key($name:literal, $placeholder:literal, default = $words:literal, alone = $alone:expr)
        $(#[doc = $doc:literal])+
        $field:ident: $type:ty = read($parse:path), display($display:path), or($default:expr);
    )+) => {
        /// Every key of a listener, in the order of the help. The format is the first.
        pub(crate) const LISTENER_KEYS: &[ListenerKey] = &[$(ListenerKey {
            name: $name,
            usage: concat!($name, "=", $placeholder),
            help: concat!($($help,)+ " Default: ", $words, ".").trim_ascii_start(),
            alone: $alone,
        }),+];

        /// All that one listener is told: one value, which its clients share. A reload makes another
        /// one, for those who come after it.
        ///
        /// Displays as it is typed, with every key.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub struct ListenerOptions {
            /// Address as it was typed: a host name may stand for several, and port 0 for a free one.
            pub address: Address,
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        impl ListenerOptions {
            /// Options of a listener at this address that nothing else is said of.
            pub(crate) fn new(address: Address, $defaults: ListenerDefaults) -> ListenerOptions {
                ListenerOptions {
                    address,
                    $($field: $default,)+
                }
            }

            /// The first key that another listener has with another value.
            pub(crate) fn differing_key(&self, other: &ListenerOptions) -> Option<&'static str> {
                $(if self.$field != other.$field {
                    return Some($name);
                })+
                None
            }

            /// Sets what a known key is for; whether there is such a key.
            ///
            /// # Errors
            /// What is wrong with the value, and what is allowed.
            fn set(&mut self, key: &str, value: &str) -> Result<bool, String> {
                match key {
                    $($name => self.$field = $parse(value)?,)+
                    _ => return Ok(false),
                }
                Ok(true)
            }
        }

        impl fmt::Display for ListenerOptions {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.address.fmt(f)?;
                $(write!(f, concat!(",", $name, "={}"), $display(&self.$field))?;)+
                Ok(())
            }
        }
    };
}

listener_keys! { defaults:
    /// How its clients see the stream.
    key("format", "text|json|raw", default = "as --format", alone = None)
    /// Format in which its clients see the stream.
    format: Format = read(words::format), display(ToString::to_string), or(defaults.format);

    /// The channel that its clients join. Each channel is a stream of its own: lines, notices and
    /// buffer.
    key("channel", "NAME", default = "main", alone = None)
    /// Channel that its clients join.
    channel: ChannelName = read(words::named_channel), display(ToString::to_string), or(ChannelName::main());

    /// What its clients may do. publish: they get nothing. subscribe: what they send is read, counted
    /// and thrown away.
    key("role", "both|publish|subscribe", default = "both", alone = None)
    /// What its clients may do in their channel.
    role: Role = read(words::role), display(ToString::to_string), or(Role::Both);

    /// What ends a line that its clients send. any: LF, CR LF or CR alone. nul: NUL.
    key("line-end", "lf|any|nul", default = "lf", alone = None)
    /// What ends a line that its clients send.
    line_end: LineEnd = read(words::line_end), display(ToString::to_string), or(LineEnd::Lf);

    /// Whether a client whose first line is an HTTP request is closed.
    key("http-guard", "on|off", default = "as --http-guard", alone = Some("on"))
    /// Whether a client whose first line is an HTTP request is closed.
    http_guard: bool = read(words::parse_bool), display(words::on_or_off), or(defaults.http_guard);

    /// Whether the first line of every client has to be a hello, as in `LINEHUB/1 channel=nmea`.
    key("hello", "on|off", default = "off", alone = Some("on"))
    /// Whether the first line of every client has to be a hello.
    hello: bool = read(words::parse_bool), display(words::on_or_off), or(false);
}

impl ListenerOptions {
    /// Reads `ADDR[,KEY[=VALUE]]…`, or a table with the same keys.
    ///
    /// # Errors
    /// What is wrong, where it was typed, and what is allowed.
    pub(super) fn read(
        raw: &RawValue,
        defaults: ListenerDefaults,
    ) -> Result<ListenerOptions, ConfigError> {
        // A path may have a comma in a table.
        let (address, parts) = match &raw.table {
            Some(_) => (raw.text.as_str(), None),
            None => match raw.text.split_once(',') {
                Some((address, parts)) => (address, Some(parts)),
                None => (raw.text.as_str(), None),
            },
        };
        let parsed = address
            .parse()
            .map_err(|error: AddressError| ConfigError::at(OPTION, raw, error.to_string()))?;
        let mut options = ListenerOptions::new(parsed, defaults);
        let in_text = parts.into_iter().flat_map(|parts| parts.split(','));
        let in_text = in_text.map(|part| match part.split_once('=') {
            Some((key, value)) => (part, key, Some(value), &raw.place),
            None => (part, part, None, &raw.place),
        });
        let in_table = raw.table.iter().flatten().map(|(key, value)| {
            let key = key.as_str();
            (key, key, Some(value.text.as_str()), &value.place)
        });
        let mut seen = Vec::new();
        for (typed, key, value, place) in in_text.chain(in_table) {
            options
                .set_once(typed, key, value, &seen, raw.table.is_some())
                .map_err(|wrong| wrong_at(place, address, &wrong))?;
            seen.push(key);
        }
        Ok(options)
    }

    /// Sets what a key is for that was `typed` like this in a text or a table, after those that were
    /// `seen`.
    fn set_once(
        &mut self,
        typed: &str,
        key: &str,
        value: Option<&str>,
        seen: &[&str],
        in_table: bool,
    ) -> Result<(), String> {
        if typed.is_empty() {
            return Err("a key is missing after ','; allowed: ,KEY=VALUE".to_owned());
        }
        let Some(known) = LISTENER_KEYS.iter().find(|known| known.name == key) else {
            // A table has its address under a key too.
            let names = LISTENER_KEYS.iter().map(|known| known.name);
            let names = names.chain(in_table.then_some(ADDRESS));
            return Err(format!("{typed}: {}", no_such_option(key, names)));
        };
        if seen.contains(&key) {
            return Err(format!("{key}: is given twice; allowed: once"));
        }
        let value = value.or(known.alone);
        let value = value
            .ok_or_else(|| format!("{key}: the value is missing; allowed: {}", known.usage))?;
        let set = self.set(key, value);
        set.map(drop).map_err(|wrong| format!("{key}: {wrong}"))
    }

    /// Options of a listener that no entry of the configuration stands for. `bound` is its address as
    /// it is logged; a socket without a name has an empty path.
    pub(crate) fn unlisted(bound: &str, defaults: ListenerDefaults) -> ListenerOptions {
        let path = || Address::Unix(bound.strip_prefix("unix:").unwrap_or(bound).into());
        let address = bound.parse().unwrap_or_else(|_| path());
        ListenerOptions::new(address, defaults)
    }

    /// Reads what another daemon displayed. Keys that it did not know have their defaults, and those
    /// that are not known here are ignored.
    ///
    /// # Errors
    /// There is no format, or a known key has a value that is not known here.
    pub fn restore(text: &str) -> Result<ListenerOptions, String> {
        // A path may have commas, and the format is the first of the keys.
        let at = text
            .rfind(",format=")
            .ok_or_else(|| format!("'{text}' has no format"))?;
        let defaults = ListenerDefaults {
            format: Format::Text,
            http_guard: true,
        };
        let mut options = ListenerOptions::unlisted(&text[..at], defaults);
        for part in text[at + 1..].split(',') {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            options
                .set(key, value)
                .map_err(|wrong| format!("'{text}': {key}: {wrong}"))?;
        }
        Ok(options)
    }
}

/// A mistake in the options of a listener, and where it was typed.
fn wrong_at(place: &ValueSource, address: &str, wrong: &str) -> ConfigError {
    ConfigError {
        place: place.name(OPTION),
        reason: format!("{address}: {wrong}"),
    }
}

/// Reads listeners, and refuses an address that is given twice, unless its port is 0.
pub(super) fn distinct(
    option: &str,
    values: &[RawValue],
    read: impl Fn(&RawValue) -> Result<ListenerOptions, ConfigError>,
) -> Result<Vec<Arc<ListenerOptions>>, ConfigError> {
    let mut listeners: Vec<Arc<ListenerOptions>> = Vec::new();
    for value in values {
        let new = read(value)?;
        let shared = !matches!(new.address, Address::Tcp { port: 0, .. });
        if shared && listeners.iter().any(|known| known.address == new.address) {
            let reason = format!("{} is given twice; allowed: once", new.address);
            return Err(ConfigError::at(option, value, reason));
        }
        listeners.push(Arc::new(new));
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests;
