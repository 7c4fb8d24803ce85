//! Values as they were typed, with where that was. Nothing here knows which options there are.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Variable that tells the daemon after an exec which descriptor the state is in.
pub(crate) const STATE_VARIABLE: &str = "LINEHUB_STATE_FD";

/// A value as it was typed, and where, so that an error can name the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawValue {
    /// The value, unread; of a table, what it is about: the address of a listener, the name of a channel.
    pub text: String,
    /// Where it was typed.
    pub place: ValueSource,
    /// The other keys of a table of the file, in its order; `None` if the value was a text.
    pub table: Option<Vec<(String, RawValue)>>,
}

impl RawValue {
    /// A text that was typed at this place.
    pub(crate) fn text(text: impl Into<String>, place: ValueSource) -> RawValue {
        RawValue {
            text: text.into(),
            place,
            table: None,
        }
    }
}

/// Where a value was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueSource {
    /// On the command line.
    Flag,
    /// In the environment.
    Environment,
    /// In the configuration file.
    File {
        /// The file, as it was named.
        path: Arc<Path>,
        /// The line of the value, counted from 1.
        line: usize,
    },
}

/// The options that were typed, by name (`max-line`), each with its values; an option that was not
/// typed is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<&'static str, Vec<RawValue>>);

impl Options {
    /// The values of an option, in the order they were typed; `None` if it was not typed.
    pub fn get(&self, option: &str) -> Option<&[RawValue]> {
        self.0.get(option).map(Vec::as_slice)
    }

    /// Gives an option these values in place of those it had.
    pub(crate) fn set(&mut self, option: &'static str, values: Vec<RawValue>) {
        self.0.insert(option, values);
    }

    /// These options, and the other ones for those that were not typed here.
    #[must_use]
    pub fn or(mut self, other: Options) -> Options {
        for (option, values) in other.0 {
            self.0.entry(option).or_insert(values);
        }
        self
    }
}

impl FromIterator<(&'static str, Vec<RawValue>)> for Options {
    fn from_iter<I: IntoIterator<Item = (&'static str, Vec<RawValue>)>>(options: I) -> Options {
        Options(options.into_iter().collect())
    }
}

/// A value on the command line.
impl From<String> for RawValue {
    fn from(text: String) -> RawValue {
        RawValue::text(text, ValueSource::Flag)
    }
}

/// A value on the command line.
impl From<&str> for RawValue {
    fn from(text: &str) -> RawValue {
        text.to_owned().into()
    }
}

impl ValueSource {
    /// What the option is called here: `max-line` is `--max-line`, `LINEHUB_MAX_LINE` or
    /// `/etc/linehub.toml:3: max-line`.
    pub fn name(&self, option: &str) -> String {
        match self {
            ValueSource::Flag => format!("--{option}"),
            ValueSource::Environment => {
                format!("LINEHUB_{}", option.to_ascii_uppercase().replace('-', "_"))
            }
            ValueSource::File { path, line } => format!("{}:{line}: {option}", path.display()),
        }
    }
}
