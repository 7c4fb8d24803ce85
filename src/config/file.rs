//! The configuration file: TOML with the names of the options. A mistake is found with its line.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::channels::TABLES;
use super::error::ConfigError;
use super::listener::{ADDRESS, LISTENER_KEYS, MODE, OPTION};
use super::nearest::no_such_option;
use super::options::OPTIONS;
use super::raw::{Options, RawValue, ValueSource};
use super::spec::{Kind, NONE, OptionSpec};
use super::text::{FileText, Key, Value, in_order, kind, parse_table, read_text};

/// Reads the options that a file sets.
pub(super) fn read(path: &Path) -> Result<Options, ConfigError> {
    parse(&read_text(path)?, path)
}

/// Reads the options that the text of a file sets; errors name `path`.
pub(crate) fn parse(text: &str, path: &Path) -> Result<Options, ConfigError> {
    let table = parse_table(text, path)?;
    let file = FileText::new(text, path);
    let mut options = Options::default();
    for (key, value) in in_order(table.get_ref()) {
        let name: &str = key.get_ref();
        if name == TABLES {
            options.set(TABLES, file.channels(value)?);
            continue;
        }
        let Some(option) = OptionSpec::find(OPTIONS, name) else {
            let known = OPTIONS.iter().map(|option| option.name).chain([TABLES]);
            return Err(file.wrong(key, name, no_such_option(name, known)));
        };
        let values = match option.kind {
            Kind::List => file.list(key, value)?,
            _ => vec![file.one(name, value)?],
        };
        options.set(option.name, values);
    }
    Ok(options)
}

impl FileText<'_> {
    /// Reads the one value of an option.
    fn one(&self, name: &str, value: &Value<'_>) -> Result<RawValue, ConfigError> {
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Boolean(switch) => switch.to_string(),
            DeValue::Float(number) => number.as_str().to_owned(),
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| number.to_string(), |number| number.to_string()),
            other => {
                let reason = format!("{} is no value for it; allowed: one value", kind(other));
                return Err(self.wrong(value, name, reason));
            }
        };
        Ok(RawValue::text(text, self.place(value)))
    }

    /// Reads the values of an option that may have several.
    fn list(&self, key: &Key<'_>, value: &Value<'_>) -> Result<Vec<RawValue>, ConfigError> {
        let name: &str = key.get_ref();
        let several = match value.get_ref() {
            DeValue::Array(several) => several.iter().collect(),
            _ => vec![value],
        };
        let is_listen = name == OPTION;
        // The daemon needs an address, and no name for one.
        if several.is_empty() && is_listen {
            let reason = "is empty; allowed: at least one address".to_owned();
            return Err(self.wrong(key, name, reason));
        }
        let read = |value: &Value<'_>| match value.get_ref() {
            DeValue::String(text) => Ok(RawValue::text(text.to_string(), self.place(value))),
            DeValue::Table(table) if is_listen => self.listener(value, table),
            other => {
                let allowed = match is_listen {
                    true => "a string, a table, or a list of them",
                    false => "a string, or a list of them",
                };
                let reason = format!("{} is no value for it; allowed: {allowed}", kind(other));
                Err(self.wrong(value, name, reason))
            }
        };
        several.into_iter().map(read).collect()
    }

    /// Reads the table of a listener.
    fn listener(&self, at: &Value<'_>, table: &DeTable<'_>) -> Result<RawValue, ConfigError> {
        let is_address = |key: &Key<'_>| &**key.get_ref() == ADDRESS;
        let mut entries = in_order(table);
        let Some(address) = entries.iter().position(|(key, _)| is_address(key)) else {
            let allowed = "HOST:PORT, [IPV6]:PORT or unix:PATH";
            let reason = format!("{ADDRESS}: is missing; allowed: {allowed}");
            return Err(self.wrong(at, OPTION, reason));
        };
        let (_, address) = entries.remove(address);
        let DeValue::String(text) = address.get_ref() else {
            let kind = kind(address.get_ref());
            let reason = format!("{ADDRESS}: {kind} is no value for it; allowed: a string");
            return Err(self.wrong(address, OPTION, reason));
        };
        let of_key = |key: &str| format!("{OPTION}: {text}: {key}");
        self.table(text, self.place(address), entries, |key, value| {
            let repeats = LISTENER_KEYS
                .iter()
                .any(|known| known.name == key && known.repeats);
            match value.get_ref() {
                DeValue::Array(several) if repeats && several.is_empty() => {
                    Ok(vec![RawValue::text(NONE, self.place(value))])
                }
                DeValue::Array(several) if repeats => several
                    .iter()
                    .map(|value| self.one(&of_key(key), value))
                    .collect(),
                // 0o660 has the digits that 0660 has in a text.
                DeValue::Integer(digits) if key == MODE => {
                    Ok(vec![RawValue::text(digits.as_str(), self.place(value))])
                }
                _ => Ok(vec![self.one(&of_key(key), value)?]),
            }
        })
    }

    /// Reads the tables of channels.
    fn channels(&self, value: &Value<'_>) -> Result<Vec<RawValue>, ConfigError> {
        let not_a_table = |option: &str, value: &Value<'_>| {
            let kind = kind(value.get_ref());
            let reason = format!("{kind} is no value for it; allowed: tables, [{TABLES}.NAME]");
            self.wrong(value, option, reason)
        };
        let DeValue::Table(tables) = value.get_ref() else {
            return Err(not_a_table(TABLES, value));
        };
        let mut channels = Vec::new();
        for (name, value) in in_order(tables) {
            let option = format!("{TABLES}.{}", name.get_ref());
            let DeValue::Table(table) = value.get_ref() else {
                return Err(not_a_table(&option, value));
            };
            let read = |key: &str, value: &Value<'_>| match value.get_ref() {
                // [channel.a.b] is a table in the table of a.
                DeValue::Table(_) => {
                    let reason = format!(
                        "a table is no value for it; allowed: one value, and a name with a dot is \
                         quoted: [{TABLES}.\"{}.{key}\"]",
                        name.get_ref()
                    );
                    Err(self.wrong(value, &format!("{option}: {key}"), reason))
                }
                _ => Ok(vec![self.one(&format!("{option}: {key}"), value)?]),
            };
            channels.push(self.table(name.get_ref(), self.place(name), in_order(table), read)?);
        }
        Ok(channels)
    }

    /// What a table says about `text`, each of its keys with the values that are read for it.
    fn table(
        &self,
        text: &str,
        place: ValueSource,
        entries: Vec<(&Key<'_>, &Value<'_>)>,
        read: impl Fn(&str, &Value<'_>) -> Result<Vec<RawValue>, ConfigError>,
    ) -> Result<RawValue, ConfigError> {
        let mut table = Vec::new();
        for (key, value) in entries {
            let key: &str = key.get_ref();
            let values = read(key, value)?.into_iter();
            table.extend(values.map(|value| (key.to_owned(), value)));
        }
        Ok(RawValue {
            table: Some(table),
            ..RawValue::text(text, place)
        })
    }
}

#[cfg(test)]
mod tests;
