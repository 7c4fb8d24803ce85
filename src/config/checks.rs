//! What must go together in a configuration, beyond what each option says by itself.

use super::channels::{self, ChannelOptions};
use super::error::ConfigError;
use super::history::HistorySync;
use super::nats::NatsUrl;
use super::options::Config;
use super::raw::{Options, RawValue};
use super::words::SlowClient;
use crate::wire::channel::ChannelName;
use crate::wire::line_end::LineEnd;

const SLOW_CLIENT: &str = "slow-client";

impl Config {
    /// Checks that whoever needs a certificate has one, and that nobody has half of what TLS needs.
    pub(super) fn check_tls(&self, options: &Options) -> Result<(), ConfigError> {
        let wrong = |option: &str, reason: &str| Err(wrong(options, option, reason));
        let tokens = self.tokens.as_ref();
        let wants_certificates = tokens.is_some_and(|tokens| tokens.want_certificates());
        match (&self.tls_cert, &self.tls_key, &self.tls_client_ca) {
            (Some(_), None, _) => return wrong("tls-cert", "needs --tls-key, too"),
            (None, Some(_), _) => return wrong("tls-key", "needs --tls-cert, too"),
            (.., None) if self.tls_crl.is_some() => {
                return wrong("tls-crl", "needs --tls-client-ca, too");
            }
            (.., None) if wants_certificates => {
                return wrong(
                    "tokens",
                    "a token is for a certificate, which needs --tls-client-ca, too",
                );
            }
            _ => {}
        }
        for listener in &self.listen {
            let own = [&listener.tls_cert, &listener.tls_key];
            let reason = match own.map(Option::is_some) {
                [true, true] if listener.tls => continue,
                [true, true] => "tls-cert: needs tls, too",
                [true, false] => "tls-cert: needs tls-key, too",
                [false, true] => "tls-key: needs tls-cert, too",
                [false, false] if !listener.tls || self.tls_cert.is_some() => continue,
                [false, false] => "tls: needs --tls-cert and --tls-key",
            };
            return Err(ConfigError {
                place: "--listen".to_owned(),
                reason: format!("{}: {reason}", listener.address),
            });
        }
        Ok(())
    }

    /// Checks that listeners are told nothing that HTTP leaves no room for.
    pub(super) fn check_http(&self) -> Result<(), ConfigError> {
        for listener in self.listen.iter().filter(|listener| listener.http) {
            let reason = match (listener.hello, listener.line_end) {
                (true, _) => "hello: is for clients that speak no HTTP; allowed: http or hello",
                (_, LineEnd::Any | LineEnd::Nul) => "line-end: is LF with http",
                (false, LineEnd::Lf) => continue,
            };
            return Err(ConfigError {
                place: "--listen".to_owned(),
                reason: format!("{}: {reason}", listener.address),
            });
        }
        Ok(())
    }

    /// Checks that whoever goes by the history has one.
    pub(super) fn check_history(&self, options: &Options) -> Result<(), ConfigError> {
        let mut channels = self.channels.values();
        let is_kept = self.history_bytes > 0 || channels.any(|channel| channel.history_bytes > 0);
        let needs_sync = self.history_sync != HistorySync::Os;
        for (option, is_given) in [
            ("history-age", self.history_age.is_some()),
            ("history-dir", self.history_dir.is_some()),
            ("history-sync", needs_sync),
        ] {
            if is_given && !is_kept {
                let needs = "needs --history, too, or history of a channel";
                return Err(wrong(options, option, needs));
            }
        }
        if needs_sync && self.history_dir.is_none() {
            return Err(wrong(options, "history-sync", "needs --history-dir, too"));
        }
        let without = |(_, channel): &(_, &ChannelOptions)| channel.history_bytes == 0;
        for (name, channel) in self.channels.iter().filter(without) {
            if let Some(age) = in_table(options, name, "history-age")
                && channel.history_age.is_some()
            {
                let reason = format!("history-age: {}", keeps_none(name));
                return Err(ConfigError::at(&table_of(name), age, reason));
            }
            if channel.slow_client == SlowClient::CatchUp {
                return Err(cannot_catch_up(options, name));
            }
        }
        if self.open_channels > 0
            && self.history_bytes == 0
            && self.slow_client == SlowClient::CatchUp
        {
            let needs = "catch-up needs history, and channels that clients open keep none";
            return Err(wrong(options, SLOW_CLIENT, needs));
        }
        for listener in &self.listen {
            let channel = &listener.channel;
            if !listener.history.is_none() && self.channel_options(channel).history_bytes == 0 {
                let address = &listener.address;
                return Err(ConfigError {
                    place: "--listen".to_owned(),
                    reason: format!("{address}: history: {}", keeps_none(channel)),
                });
            }
        }
        Ok(())
    }

    /// Checks that what is said of NATS goes together, and that this linehub can connect to it.
    pub(super) fn check_nats(&self, options: &Options) -> Result<(), ConfigError> {
        let wrong = |option: &str, reason: &str| Err(wrong(options, option, reason));
        if self.nats.is_empty() {
            let is_given = [
                ("nats-replicas", self.nats_replicas > 1),
                ("nats-creds", self.nats_creds.is_some()),
                ("nats-nkey", self.nats_nkey.is_some()),
                ("nats-ca", self.nats_ca.is_some()),
                ("nats-cert", self.nats_cert.is_some()),
                ("nats-key", self.nats_key.is_some()),
            ];
            return match is_given.into_iter().find(|(_, is_given)| *is_given) {
                Some((option, _)) => wrong(option, "needs --nats, too"),
                None => Ok(()),
            };
        }
        if !cfg!(feature = "nats") {
            return wrong("nats", "this linehub was built without NATS");
        }
        let mut users = self.nats.iter().filter_map(NatsUrl::user);
        let first = users.next();
        if users.any(|user| Some(user) != first) {
            return wrong(
                "nats",
                "names different users; allowed: the same for all servers",
            );
        }
        if first.is_some() && (self.nats_creds.is_some() || self.nats_nkey.is_some()) {
            return wrong(
                "nats",
                "names a user; allowed: that, or --nats-creds, or --nats-nkey",
            );
        }
        match (&self.nats_cert, &self.nats_key) {
            (Some(_), None) => return wrong("nats-cert", "needs --nats-key, too"),
            (None, Some(_)) => return wrong("nats-key", "needs --nats-cert, too"),
            _ => {}
        }
        if self.nats_creds.is_some() && self.nats_nkey.is_some() {
            return wrong("nats-nkey", "cannot be given with --nats-creds");
        }
        Ok(())
    }
}

/// The mistake of a channel whose clients are to catch up from what it does not keep: where the one or
/// the other was typed.
fn cannot_catch_up(options: &Options, channel: &ChannelName) -> ConfigError {
    let reason = format!("catch-up needs history, and channel {channel} keeps none");
    for key in [SLOW_CLIENT, "history"] {
        if let Some(value) = in_table(options, channel, key) {
            return ConfigError::at(&table_of(channel), value, format!("{key}: {reason}"));
        }
    }
    wrong(options, SLOW_CLIENT, &reason)
}

fn keeps_none(channel: &ChannelName) -> String {
    format!("channel {channel} keeps none; allowed: with --history, or history of that channel")
}

/// A mistake of an option, where it was typed last.
fn wrong(options: &Options, option: &str, reason: &str) -> ConfigError {
    let typed = options.get(option).and_then(<[RawValue]>::last);
    let value = typed.cloned().unwrap_or_else(|| "".into());
    ConfigError::at(option, &value, reason.to_owned())
}

/// The value of a key in the table of a channel.
fn in_table<'a>(options: &'a Options, channel: &ChannelName, key: &str) -> Option<&'a RawValue> {
    let tables = options.get(channels::TABLES)?;
    let table = tables.iter().find(|table| table.text == channel.as_str())?;
    let mut entries = table.table.iter().flatten();
    entries.find_map(|(known, value)| (known == key).then_some(value))
}

/// The table of a channel, as errors name it.
fn table_of(channel: &ChannelName) -> String {
    format!("{}.{channel}", channels::TABLES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn read(file: &str) -> Result<Config, String> {
        let options = parse(file, "linehub.toml".as_ref()).map_err(|error| error.to_string())?;
        Config::from_options(&options, 1024).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_said_of_nats_needs_one() {
        for (option, value) in [
            ("nats-replicas", "3"),
            ("nats-creds", "a.creds"),
            ("nats-nkey", "a.nk"),
            ("nats-ca", "a.pem"),
            ("nats-cert", "a.pem"),
            ("nats-key", "a.pem"),
        ] {
            let expected = format!("linehub.toml:1: {option}: needs --nats, too");
            assert_eq!(read(&format!("{option} = '{value}'")), Err(expected));
        }
        assert!(read("nats = []\nnats-replicas = 1\n[channel.a]\nlocal = true").is_ok());
    }

    #[cfg(not(feature = "nats"))]
    #[test]
    fn nats_needs_a_linehub_that_has_it() {
        let expected = "linehub.toml:1: nats: this linehub was built without NATS";
        assert_eq!(read("nats = 'h:1'"), Err(expected.to_owned()));
    }

    #[cfg(feature = "nats")]
    #[test]
    fn what_is_said_of_nats_goes_together() {
        for (file, expected) in [
            ("nats-cert = 'c'", "nats-cert: needs --nats-key, too"),
            ("nats-key = 'k'", "nats-key: needs --nats-cert, too"),
            (
                "nats-nkey = 'a'\nnats-creds = 'b'",
                "nats-nkey: cannot be given with --nats-creds",
            ),
        ] {
            let expected = format!("linehub.toml:1: {expected}");
            assert_eq!(read(&format!("{file}\nnats = 'h:1'")), Err(expected));
        }
        let differ = read("nats = ['jane:hidden@h:1', 'h:2', 'joe:hidden@h:3']");
        let expected =
            "linehub.toml:1: nats: names different users; allowed: the same for all servers";
        assert_eq!(differ, Err(expected.to_owned()));
        assert!(read("nats = ['jane:x@h:1', 'h:2', 'jane:x@h:3']").is_ok());
        for file in ["nats-nkey", "nats-creds"] {
            let both = read(&format!("nats = 'jane:hidden@h:1'\n{file} = 'a'"));
            let expected = "linehub.toml:1: nats: names a user; allowed: that, or --nats-creds, or --nats-nkey";
            assert_eq!(both, Err(expected.to_owned()));
        }
        let both = "nats = ['h:1', 'tls://h:2']\nnats-cert = 'c'\nnats-key = 'k'\nnats-creds = 'b'";
        assert!(read(both).is_ok());
    }

    #[cfg(feature = "nats")]
    #[test]
    fn passwords_of_nats_are_not_shown() {
        let file = |password: &str| format!("nats = 'nats://jane:{password}@h:1'");
        let [before, after] = ["hidden", "secret"].map(|password| read(&file(password)).unwrap());
        let changed = before.differences(&after);
        assert_eq!(changed.len(), 1, "another password is a difference");
        let shown = format!("{before:?} {after:?} {changed:?}");
        assert!(shown.contains("nats://h:1"), "{shown}");
        let mut next = after;
        next.keep_until_restart(&before);
        assert_eq!(next, before);
        let wrong = read("nats = 'nats://jane:hidden@'").unwrap_err();
        assert!(wrong.starts_with("linehub.toml:1: nats: "), "{wrong}");
        for secret in ["hidden", "secret", "jane"] {
            assert!(
                !shown.contains(secret) && !wrong.contains(secret),
                "{shown} {wrong}"
            );
        }
    }
}
