//! The options of one listener, one row each: all that the command line, the file and the help know
//! of a key, and what [`ListenerOptions`] makes of it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

use super::address::{Address, AddressError};
use super::error::ConfigError;
use super::history;
use super::key::{each, maybe, one};
use super::nearest::no_such_option;
use super::network::{self, network};
use super::raw::{RawValue, ValueSource};
use super::values;
use super::words;
use crate::wire::channel::ChannelName;
use crate::wire::format::Format;
use crate::wire::line_end::LineEnd;
use crate::wire::past::Newest;
use crate::wire::role::Role;

/// Where the daemon listens, and a client looks for it, unless it is said.
pub(crate) const LISTEN: &str = "127.0.0.1:2345";

/// The option that listeners are given with.
pub(super) const OPTION: &str = "listen";

/// The key of a listener's table that has its address.
pub(super) const ADDRESS: &str = "address";

/// The key whose value is a number in octal digits.
pub(super) const MODE: &str = "mode";

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
    /// Whether it may be given several times.
    pub(super) repeats: bool,
}

/// What a listener is told that its entry leaves open: options of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerDefaults {
    /// Format in which clients see the stream.
    pub format: Format,
    /// Whether a client whose first line is an HTTP request is closed.
    pub http_guard: bool,
    /// Addresses that alone may connect; all if there are none.
    pub allow: Vec<IpNet>,
    /// Addresses that may not.
    pub deny: Vec<IpNet>,
}

impl ListenerDefaults {
    /// Those of a daemon that nothing but the format is said of.
    pub(crate) const fn new(format: Format) -> ListenerDefaults {
        ListenerDefaults {
            format,
            http_guard: true,
            allow: Vec::new(),
            deny: Vec::new(),
        }
    }
}

/// Makes `LISTENER_KEYS` and `ListenerOptions` from rows of this form; `defaults` names the
/// [`ListenerDefaults`], a field is displayed as its key is read, and `one` may be `maybe` or `each`:
///
/// ```text
/// /// Help.
/// key("name", "PLACEHOLDER", default = "in words", alone = Option)
/// /// Doc of the field.
/// field: Type = one(parser), display(function), or(default);
/// ```
macro_rules! listener_keys {
    ($defaults:ident: $(
        $(#[doc = $help:literal])+
        key($name:literal, $placeholder:literal, default = $words:literal, alone = $alone:expr)
        $(#[doc = $doc:literal])+
        $field:ident: $type:ty = $read:ident($parse:path), display($display:path), or($default:expr);
    )+) => {
        /// Every key of a listener, in the order of the help. The format is the first.
        pub(crate) const LISTENER_KEYS: &[ListenerKey] = &[$(ListenerKey {
            name: $name,
            usage: concat!($name, "=", $placeholder),
            help: concat!($($help,)+ " Default: ", $words, ".").trim_ascii_start(),
            alone: $alone,
            repeats: $read::REPEATS,
        }),+];

        /// All that one listener is told: one value, which its clients share. A reload makes another
        /// one, for those who come after it.
        ///
        /// Displays as it is typed, with every key that has a value; in the alternate form (`{:#}`)
        /// without those that may be given several times.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub struct ListenerOptions {
            /// Address as it was typed: a host name may stand for several, and port 0 for a free one.
            pub address: Address,
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        impl ListenerOptions {
            /// Options of a listener at this address that nothing else is said of.
            pub(crate) fn new(address: Address, $defaults: &ListenerDefaults) -> ListenerOptions {
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

            /// Sets what a key is for; one that is not known does nothing. The `first` value of a key
            /// takes the place of its default.
            ///
            /// # Errors
            /// What is wrong with the value, and what is allowed.
            fn set(&mut self, key: &str, value: &str, first: bool) -> Result<(), String> {
                match key {
                    $($name => $read::set(&mut self.$field, value, first, $parse),)+
                    _ => Ok(()),
                }
            }
        }

        impl fmt::Display for ListenerOptions {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.address.fmt(f)?;
                $($read::show(f, $name, &self.$field, $display)?;)+
                Ok(())
            }
        }
    };
}

listener_keys! { defaults:
    /// How its clients see the stream.
    key("format", "text|json|raw", default = "as --format", alone = None)
    /// Format in which its clients see the stream.
    format: Format = one(words::format), display(ToString::to_string), or(defaults.format);

    /// The channel that its clients join. Each channel is a stream of its own: lines, notices and
    /// buffer.
    key("channel", "NAME", default = "main", alone = None)
    /// Channel that its clients join.
    channel: ChannelName = one(words::named_channel), display(ToString::to_string), or(ChannelName::main());

    /// What its clients may do. publish: they get nothing. subscribe: what they send is read, counted
    /// and thrown away.
    key("role", "both|publish|subscribe", default = "both", alone = None)
    /// What its clients may do in their channel.
    role: Role = one(words::role), display(ToString::to_string), or(Role::Both);

    /// What ends a line that its clients send. any: LF, CR LF or CR alone. nul: NUL.
    key("line-end", "lf|any|nul", default = "lf", alone = None)
    /// What ends a line that its clients send.
    line_end: LineEnd = one(words::line_end), display(ToString::to_string), or(LineEnd::Lf);

    /// Whether a client whose first line is an HTTP request is closed.
    key("http-guard", "on|off", default = "as --http-guard", alone = Some("on"))
    /// Whether a client whose first line is an HTTP request is closed.
    http_guard: bool = one(words::parse_bool), display(words::on_or_off), or(defaults.http_guard);

    /// Whether the first line of every client has to be a hello, as in `LINEHUB/1 channel=nmea`; with
    /// --tokens, one with a token.
    key("hello", "on|off", default = "off", alone = Some("on"))
    /// Whether the first line of every client has to be a hello.
    hello: bool = one(words::parse_bool), display(words::on_or_off), or(false);

    /// Whether its clients speak HTTP: browsers, which get a page at /, and WebSocket, server-sent events and plain
    /// requests at /ws, /events and /lines, or /CHANNEL/ws of another channel. With --tokens, each needs one.
    key("http", "on|off", default = "off", alone = Some("on"))
    /// Whether its clients speak HTTP.
    http: bool = one(words::parse_bool), display(words::on_or_off), or(false);

    /// How much of what its channel has kept a newcomer gets first: so many messages, as many as have SIZE
    /// of lines, or those that are no older than DURATION. A hello may say it instead. It needs --history,
    /// or history of the channel.
    key("history", "N|SIZE|DURATION", default = "0", alone = None)
    /// How much of what was kept a newcomer gets first.
    history: Newest = one(history::newest), display(ToString::to_string), or(Newest::NONE);

    /// Whether its clients speak TLS, 1.2 or 1.3. It needs a certificate: its own, or that of --tls-cert.
    key("tls", "on|off", default = "off", alone = Some("on"))
    /// Whether its clients speak TLS.
    tls: bool = one(words::parse_bool), display(words::on_or_off), or(false);

    /// A certificate of its own, in a PEM file.
    key("tls-cert", "FILE", default = "as --tls-cert", alone = None)
    /// Certificates of its own, as PEM.
    tls_cert: Option<PathBuf> = maybe(values::path), display(values::show_path), or(None);

    /// The key of that certificate.
    key("tls-key", "FILE", default = "as --tls-key", alone = None)
    /// Key of `tls_cert`.
    tls_key: Option<PathBuf> = maybe(values::path), display(values::show_path), or(None);

    /// Lets only clients from this address or network connect; repeatable, and in a table an array.
    /// none: everybody. A network is ADDRESS/BITS, as in allow=10.0.0.0/8,allow=::1. Whoever connects by
    /// a Unix socket is allowed always.
    key("allow", "CIDR", default = "as --allow", alone = None)
    /// Addresses that alone may connect; all if there are none.
    allow: Vec<IpNet> = each(network), display(network::show), or(defaults.allow.clone());

    /// Refuses clients from this address or network, allowed or not; repeatable. none: nobody.
    key("deny", "CIDR", default = "as --deny", alone = None)
    /// Addresses that may not connect, even if they are in `allow`.
    deny: Vec<IpNet> = each(network), display(network::show), or(defaults.deny.clone());

    /// Takes connections from this address or network for those of a proxy, which says in a PROXY
    /// protocol header, version 1 or 2, whom each is for; one without it is closed. Repeatable.
    key("proxy", "CIDR", default = "none", alone = None)
    /// Addresses of proxies, whose connections begin with a PROXY protocol header.
    proxy: Vec<IpNet> = each(network), display(network::show), or(Vec::new());

    /// Who may connect to its Unix socket: the permissions of its file, in octal digits; who may write
    /// to it may connect.
    key("mode", "0660", default = "all that the umask leaves", alone = None)
    /// Permissions of its Unix socket.
    mode: Option<u32> = maybe(values::mode), display(values::show_mode), or(None);

    /// The group of its Unix socket, by name or number, for mode=0660.
    key("group", "NAME", default = "that of the process", alone = None)
    /// Group of its Unix socket.
    group: Option<String> = maybe(values::group), display(String::clone), or(None);
}

/// Keys that are of a Unix socket's file.
const OF_FILE: [&str; 2] = [MODE, "group"];

impl ListenerOptions {
    /// Reads `ADDR[,KEY[=VALUE]]…`, or a table with the same keys.
    ///
    /// # Errors
    /// What is wrong, where it was typed, and what is allowed.
    pub(super) fn read(
        raw: &RawValue,
        defaults: &ListenerDefaults,
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
            let again = seen.contains(&key);
            options
                .set_typed(typed, key, value, again, raw.table.is_some())
                .map_err(|wrong| wrong_at(place, address, &wrong))?;
            if !again {
                seen.push(key);
            }
        }
        Ok(options)
    }

    /// Sets what a key is for that was `typed` like this in a text or a table, perhaps not for the first
    /// time.
    fn set_typed(
        &mut self,
        typed: &str,
        key: &str,
        value: Option<&str>,
        again: bool,
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
        if again && !known.repeats {
            return Err(format!("{key}: is given twice; allowed: once"));
        }
        let value = value.or(known.alone);
        let value = value
            .ok_or_else(|| format!("{key}: the value is missing; allowed: {}", known.usage))?;
        if OF_FILE.contains(&key) && !matches!(self.address, Address::Unix(_)) {
            return Err(format!(
                "{key}: is of a Unix socket; allowed: behind unix:PATH"
            ));
        }
        let set = self.set(key, value, !again);
        set.map_err(|wrong| format!("{key}: {wrong}"))
    }

    /// Whether its clients can show a token.
    pub(crate) fn takes_tokens(&self) -> bool {
        self.hello || self.http
    }

    /// Options of a listener that no entry of the configuration stands for. `bound` is its address as
    /// it is logged; a socket without a name has an empty path.
    pub(crate) fn unlisted(bound: &str, defaults: &ListenerDefaults) -> ListenerOptions {
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
        let defaults = ListenerDefaults::new(Format::Text);
        let mut options = ListenerOptions::unlisted(&text[..at], &defaults);
        for part in text[at + 1..].split(',') {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            options
                .set(key, value, false)
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
