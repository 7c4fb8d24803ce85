//! The file of `--tokens`: who comes in by what, and what each of them may do.
//!
//! A client keeps its [`Identity`] for life. What that may do is looked up again whenever the file has
//! been read again, and when a token expires.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};
use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::nearest::no_such_option;
use super::text::{FileText, Key, Value, in_order, kind, parse_table, read_text};
use super::words;
use crate::wire::channel::{ChannelName, InvalidChannelName};
use crate::wire::client_name::ClientName;
use crate::wire::role::Role;

/// Key of the file that each token is a table of.
const TABLES: &str = "token";

/// Keys of a token.
const KEYS: [&str; 6] = [
    "name",
    "sha256",
    "certificate",
    "role",
    "channels",
    "expires",
];

/// All tokens there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens(BTreeMap<ClientName, Arc<Token>>);

/// What somebody comes in by, and what that lets a client do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub(crate) identity: Arc<Identity>,
    /// What its clients may do in their channel.
    pub(crate) role: Role,
    /// Channels that its clients may join; empty for all.
    channels: Vec<ChannelName>,
    /// From then on it is worth nothing. `None`: never.
    expires: Option<SystemTime>,
}

/// Who a client is, and by what that was shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) name: ClientName,
    proof: Proof,
}

/// By what somebody shows who it is.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Proof {
    /// A secret with this hash.
    Sha256([u8; 32]),
    /// A certificate with this name.
    Certificate(String),
}

/// Neither is worth a look in a log.
impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Proof::Sha256(_) => "Sha256",
            Proof::Certificate(_) => "Certificate",
        })
    }
}

impl Tokens {
    /// The token with this secret, if it is worth something now. How long that takes depends on how many
    /// tokens there are, and not on which of them it is or how much of it is right.
    pub(crate) fn by_secret(&self, secret: &[u8], now: SystemTime) -> Option<&Arc<Token>> {
        let hash = Sha256::digest(secret);
        let mut found = 0_u64;
        for (at, token) in (1..).zip(self.0.values()) {
            if let Proof::Sha256(known) = &token.identity.proof {
                found.conditional_assign(&at, known.ct_eq(&hash));
            }
        }
        let at = usize::try_from(found).ok()?.checked_sub(1)?;
        self.0.values().nth(at).filter(|token| token.is_valid(now))
    }

    /// The token that is for a certificate with one of these names (its CN, or a SAN), if one is worth
    /// something now; of several the one whose name comes first.
    pub(crate) fn by_certificate(&self, names: &[String], now: SystemTime) -> Option<&Arc<Token>> {
        self.0.values().find(|token| match &token.identity.proof {
            Proof::Certificate(known) => {
                token.is_valid(now) && names.iter().any(|name| is_same_subject(known, name))
            }
            Proof::Sha256(_) => false,
        })
    }

    /// Whether some token is for a certificate.
    pub(super) fn want_certificates(&self) -> bool {
        let mut tokens = self.0.values();
        tokens.any(|token| matches!(token.identity.proof, Proof::Certificate(_)))
    }

    /// Whether a client that came in like this still may, in this role and channel.
    pub(crate) fn allow(
        &self,
        identity: &Identity,
        role: Role,
        channel: &ChannelName,
        now: SystemTime,
    ) -> bool {
        self.0.get(&identity.name).is_some_and(|token| {
            *token.identity == *identity
                && token.is_valid(now)
                && token.allows(channel)
                && token.role.narrowed_to(role).is_some()
        })
    }

    /// The next time after this one at which a token expires.
    pub(crate) fn next_expiry(&self, now: SystemTime) -> Option<SystemTime> {
        let times = self.0.values().filter_map(|token| token.expires);
        times.filter(|time| *time > now).min()
    }
}

impl Token {
    fn is_valid(&self, now: SystemTime) -> bool {
        self.expires.is_none_or(|time| now < time)
    }

    fn allows(&self, channel: &ChannelName) -> bool {
        self.channels.is_empty() || self.channels.contains(channel)
    }

    /// The channel that a client joins which asked for this one, by a listener of that one: what it asked
    /// for; else that of the listener; else the only one of the token. `None` if it may not.
    pub(crate) fn channel<'a>(
        &'a self,
        asked: Option<&'a ChannelName>,
        listener: &'a ChannelName,
    ) -> Option<&'a ChannelName> {
        let wanted = asked.unwrap_or(listener);
        if self.allows(wanted) {
            return Some(wanted);
        }
        match self.channels.as_slice() {
            [only] if asked.is_none() => Some(only),
            _ => None,
        }
    }
}

/// Whether two names of certificates are one. Case makes no difference in a CN or a DNS name, as X.520 and
/// RFC 4343 have it, but it may in a mailbox or a path.
fn is_same_subject(one: &str, other: &str) -> bool {
    match one.contains([':', '@', '/']) {
        true => one == other,
        false => one.eq_ignore_ascii_case(other),
    }
}

/// Reads the file of an option's value; `off` for none.
pub(super) fn read(text: &str) -> Result<Option<Arc<Tokens>>, String> {
    match text {
        "off" => Ok(None),
        "" => Err("is empty; allowed: a file, or off".to_owned()),
        path => {
            let path = Path::new(path);
            let text = read_text(path);
            let text =
                text.map_err(|error| format!("{error}; allowed: a file of tokens, or off"))?;
            let tokens = parse(&text, path).map_err(|error| error.to_string())?;
            Ok(Some(Arc::new(tokens)))
        }
    }
}

/// Reads the text of a file; errors name `path`.
fn parse(text: &str, path: &Path) -> Result<Tokens, ConfigError> {
    let table = parse_table(text, path)?;
    let file = FileText::new(text, path);
    let (mut tokens, mut proofs) = (Tokens::default(), HashSet::new());
    for (key, value) in in_order(table.get_ref()) {
        let name: &str = key.get_ref();
        if name != TABLES {
            return Err(file.wrong(key, name, no_such_option(name, [TABLES])));
        }
        let not_tables = |value: &Value<'_>| {
            let kind = kind(value.get_ref());
            let reason = format!("{kind} is no value for it; allowed: tables, [[{TABLES}]]");
            file.wrong(value, TABLES, reason)
        };
        let DeValue::Array(tables) = value.get_ref() else {
            return Err(not_tables(value));
        };
        for value in tables.iter() {
            let DeValue::Table(table) = value.get_ref() else {
                return Err(not_tables(value));
            };
            let token = file.token(value, table, &tokens, &mut proofs)?;
            tokens
                .0
                .insert(token.identity.name.clone(), Arc::new(token));
        }
    }
    Ok(tokens)
}

impl FileText<'_> {
    /// Reads the table of a token that comes after others.
    fn token(
        &self,
        at: &Value<'_>,
        table: &DeTable<'_>,
        others: &Tokens,
        proofs: &mut HashSet<Proof>,
    ) -> Result<Token, ConfigError> {
        let (mut name, mut proof) = (None, None);
        let (mut role, mut channels, mut expires) = (Role::Both, Vec::new(), None);
        for (key, value) in in_order(table) {
            let option: &str = key.get_ref();
            let wrong = |reason| self.wrong(value, option, reason);
            match option {
                "name" => {
                    let text = self.string(key, value)?;
                    let read = client_name(text).map_err(wrong)?;
                    if others.0.contains_key(&read) {
                        return Err(wrong(format!("'{text}' is given twice; allowed: once")));
                    }
                    name = Some(read);
                }
                "sha256" | "certificate" => {
                    let text = self.string(key, value)?;
                    let read = match option {
                        "sha256" => Proof::Sha256(sha256(text).map_err(wrong)?),
                        _ if text.is_empty() => {
                            return Err(wrong("is empty; allowed: a CN or a SAN".to_owned()));
                        }
                        _ => Proof::Certificate(text.to_owned()),
                    };
                    if proof.is_some() {
                        let reason = "comes with sha256 and certificate; allowed: one of them";
                        return Err(self.wrong(key, TABLES, reason.to_owned()));
                    }
                    if !proofs.insert(read.clone()) {
                        let reason = "is that of another token too; allowed: once";
                        return Err(wrong(reason.to_owned()));
                    }
                    proof = Some(read);
                }
                "role" => role = words::role(self.string(key, value)?).map_err(wrong)?,
                "channels" => channels = self.channel_names(key, value)?,
                "expires" => expires = Some(expiry(value.get_ref()).map_err(wrong)?),
                _ => return Err(self.wrong(key, option, no_such_option(option, KEYS))),
            }
        }
        let missing = |what: &str| self.wrong(at, TABLES, format!("{what} is missing"));
        let name = name.ok_or_else(|| missing("name"))?;
        let proof = proof.ok_or_else(|| missing("sha256 or certificate"))?;
        Ok(Token {
            identity: Arc::new(Identity { name, proof }),
            role,
            channels,
            expires,
        })
    }

    fn string<'v>(&self, key: &Key<'_>, value: &'v Value<'_>) -> Result<&'v str, ConfigError> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text),
            other => {
                let kind = kind(other);
                let reason = format!("{kind} is no value for it; allowed: a string");
                Err(self.wrong(value, key.get_ref(), reason))
            }
        }
    }

    fn channel_names(
        &self,
        key: &Key<'_>,
        value: &Value<'_>,
    ) -> Result<Vec<ChannelName>, ConfigError> {
        let wrong = |reason| self.wrong(value, key.get_ref(), reason);
        let allowed = "allowed: a list of names, as in [\"nmea\"]";
        match value.get_ref() {
            DeValue::Array(names) if names.is_empty() => Err(wrong(format!("is empty; {allowed}"))),
            DeValue::Array(names) => {
                let names = names.iter().map(|value| {
                    let name = self.string(key, value)?;
                    let wrong = |reason| self.wrong(value, key.get_ref(), reason);
                    words::channel(name).map_err(wrong)
                });
                names.collect()
            }
            other => Err(wrong(format!(
                "{} is no value for it; {allowed}",
                kind(other)
            ))),
        }
    }
}

/// Reads the name of a token.
pub(super) fn client_name(text: &str) -> Result<ClientName, String> {
    text.parse()
        .map_err(|allowed: InvalidChannelName| format!("'{text}' is no name; allowed: {allowed}"))
}

/// Reads a hash. An error does not show the text, which may be the secret itself.
fn sha256(text: &str) -> Result<[u8; 32], String> {
    let mut hash = [0; 32];
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|digit| digit.to_digit(16).map(|digit| digit as u8))
        .collect();
    match digits.filter(|digits| digits.len() == 2 * hash.len()) {
        Some(digits) => {
            for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
                *byte = pair[0] << 4 | pair[1];
            }
            Ok(hash)
        }
        None => Err(
            "is no hash; allowed: 64 hexadecimal digits, as `linehub generate token` prints them"
                .to_owned(),
        ),
    }
}

/// What an error about a time says is allowed.
const EXPIRY: &str = "allowed: a date such as 2027-01-01, which is good to its end, in UTC, or a time \
                      such as 2027-01-01T12:00:00Z";

/// The time from which a token is worth nothing: a date is its last day, in UTC.
fn expiry(value: &DeValue<'_>) -> Result<SystemTime, String> {
    let DeValue::Datetime(time) = value else {
        return Err(format!("{} is no value for it; {EXPIRY}", kind(value)));
    };
    let parts = (time.date, time.time, time.offset);
    let expires = match parts {
        (Some(date), None, None) => {
            let day = humantime::parse_rfc3339(&format!("{date}T00:00:00Z"));
            day.ok().and_then(|day| day.checked_add(DAY))
        }
        (Some(date), Some(clock), Some(offset)) => {
            let utc = humantime::parse_rfc3339(&format!("{date}T{clock}Z"));
            utc.ok().and_then(|utc| without(utc, &offset.to_string()))
        }
        _ => None,
    };
    expires.ok_or_else(|| format!("'{time}' is no time to expire at; {EXPIRY}"))
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A time less its offset from UTC, such as `+02:00` or `Z`.
fn without(time: SystemTime, offset: &str) -> Option<SystemTime> {
    let Some((hours, minutes)) = offset.split_once(':') else {
        return Some(time);
    };
    let minutes = 60 * hours[1..].parse::<u64>().ok()? + minutes.parse::<u64>().ok()?;
    let ahead = Duration::from_secs(60 * minutes);
    match hours.starts_with('-') {
        true => time.checked_add(ahead),
        false => time.checked_sub(ahead),
    }
}

/// Reads a time to expire at as it would be typed in the file, for [`stanza`].
pub(super) fn typed_expiry(text: &str) -> Result<String, String> {
    let typed = format!("expires = {text}");
    let table = DeTable::parse(&typed);
    let table = table.map_err(|_| format!("'{text}' is no time to expire at; {EXPIRY}"))?;
    for value in table.get_ref().values() {
        expiry(value.get_ref())?;
    }
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests;
