//! The text of a TOML file, in which a mistake is found with its line.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::error::ConfigError;
use super::raw::ValueSource;

/// Largest file, in bytes: more than any configuration needs, and little enough to read whatever the
/// path names.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads the text of a file.
pub(super) fn read_text(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |error: &dyn std::fmt::Display| ConfigError {
        place: path.display().to_string(),
        reason: format!("cannot be read: {error}"),
    };
    let bytes = read_some(path).map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(&"it is larger than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = line_of(error.as_bytes(), error.utf8_error().valid_up_to());
        wrong_line(path, line, "the text is not UTF-8".to_owned())
    })
}

/// Reads the text of a file as TOML; errors name `path`.
pub(super) fn parse_table<'a>(
    text: &'a str,
    path: &Path,
) -> Result<Spanned<DeTable<'a>>, ConfigError> {
    DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let message: Vec<&str> = error.message().lines().collect();
        wrong_line(path, line_of(text.as_bytes(), at), message.join(", "))
    })
}

/// Reads at most one byte more of a file than [`FILE_BYTES_MAX`].
fn read_some(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text of a file, where values of it stand.
pub(super) struct FileText<'a> {
    text: &'a str,
    path: Arc<Path>,
}

pub(super) type Key<'a> = Spanned<DeString<'a>>;
pub(super) type Value<'a> = Spanned<DeValue<'a>>;

/// The entries of a table in the order of the file, so that the first mistake in it is the one that is
/// named.
pub(super) fn in_order<'t, 'a>(table: &'t DeTable<'a>) -> Vec<(&'t Key<'a>, &'t Value<'a>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

impl<'a> FileText<'a> {
    pub(super) fn new(text: &'a str, path: &Path) -> FileText<'a> {
        let path = path.into();
        FileText { text, path }
    }

    pub(super) fn place<T>(&self, spanned: &Spanned<T>) -> ValueSource {
        ValueSource::File {
            path: self.path.clone(),
            line: line_of(self.text.as_bytes(), spanned.span().start),
        }
    }

    pub(super) fn wrong<T>(&self, at: &Spanned<T>, option: &str, reason: String) -> ConfigError {
        ConfigError {
            place: self.place(at).name(option),
            reason,
        }
    }
}

pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn wrong_line(path: &Path, line: usize, reason: String) -> ConfigError {
    ConfigError {
        place: format!("{}:{line}", path.display()),
        reason,
    }
}

/// The number of the line, from 1, that holds the byte at `at`.
fn line_of(text: &[u8], at: usize) -> usize {
    1 + memchr::memchr_iter(b'\n', &text[..at.min(text.len())]).count()
}
