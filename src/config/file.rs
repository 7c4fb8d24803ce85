//! The configuration file: TOML with the names of the options. A mistake is found with its line.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::nearest::nearest;
use super::options::OPTIONS;
use super::raw::{Options, RawValue, ValueSource};
use super::spec::{Kind, OptionSpec};

/// Largest file, in bytes: more than any configuration needs, and little enough to read whatever the
/// path names.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads the options that a file sets.
pub(super) fn read(path: &Path) -> Result<Options, ConfigError> {
    let unreadable = |error: &dyn std::fmt::Display| ConfigError {
        place: path.display().to_string(),
        reason: format!("cannot be read: {error}"),
    };
    let bytes = read_some(path).map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(&"it is larger than 1 MiB"));
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => parse(text, path),
        Err(error) => {
            let line = line_of(&bytes, error.valid_up_to());
            Err(wrong_line(path, line, "the text is not UTF-8".to_owned()))
        }
    }
}

/// Reads at most one byte more of a file than [`FILE_BYTES_MAX`].
fn read_some(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads the options that the text of a file sets; errors name `path`.
pub(crate) fn parse(text: &str, path: &Path) -> Result<Options, ConfigError> {
    let line = |at: usize| line_of(text.as_bytes(), at);
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let message: Vec<&str> = error.message().lines().collect();
        wrong_line(path, line(at), message.join(", "))
    })?;
    let path: Arc<Path> = path.into();
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    // In the order of the file, so that the first mistake in it is the one that is named.
    entries.sort_by_key(|(key, _)| key.span().start);

    let mut options = Options::default();
    for (key, value) in entries {
        let name: &str = key.get_ref();
        let place = |spanned: &Spanned<DeValue<'_>>| ValueSource::File {
            path: path.clone(),
            line: line(spanned.span().start),
        };
        let here = ValueSource::File {
            path: path.clone(),
            line: line(key.span().start),
        };
        let wrong = |place: ValueSource, reason: String| ConfigError {
            place: place.name(name),
            reason,
        };
        let Some(option) = OptionSpec::find(OPTIONS, name) else {
            return Err(wrong(here, no_such_option(name)));
        };
        if option.kind == Kind::List {
            let several = match value.get_ref() {
                DeValue::Array(several) => several.iter().collect(),
                _ => vec![value],
            };
            // The daemon needs an address, and no name for one.
            if several.is_empty() && name == "listen" {
                return Err(wrong(
                    here,
                    "is empty; allowed: at least one address".into(),
                ));
            }
            let typed = several.into_iter().map(|value| match value.get_ref() {
                DeValue::String(text) => Ok(RawValue {
                    text: text.to_string(),
                    place: place(value),
                }),
                other => Err(wrong(
                    place(value),
                    format!(
                        "{} is no value for it; allowed: a string, or a list of them",
                        kind(other)
                    ),
                )),
            });
            options.set(option.name, typed.collect::<Result<_, _>>()?);
            continue;
        }
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Boolean(switch) => switch.to_string(),
            DeValue::Float(number) => number.as_str().to_owned(),
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| number.to_string(), |number| number.to_string()),
            other => {
                let reason = format!("{} is no value for it; allowed: one value", kind(other));
                return Err(wrong(place(value), reason));
            }
        };
        let place = place(value);
        options.set(option.name, vec![RawValue { text, place }]);
    }
    Ok(options)
}

/// What an unknown key is told: the known key that was meant, or all there are.
fn no_such_option(unknown: &str) -> String {
    let mut known: Vec<&str> = OPTIONS.iter().map(|option| option.name).collect();
    match nearest(unknown, known.iter().copied()) {
        Some(nearest) => format!("no such option; did you mean {nearest}?"),
        None => {
            known.sort_unstable();
            format!("no such option; allowed: {}", known.join(", "))
        }
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const PATH: &str = "/etc/linehub.toml";

    fn file(text: &str) -> Result<Options, String> {
        parse(text, Path::new(PATH)).map_err(|error| error.to_string())
    }

    fn typed(text: &str, line: usize) -> RawValue {
        RawValue {
            text: text.into(),
            place: ValueSource::File {
                path: Path::new(PATH).into(),
                line,
            },
        }
    }

    #[test]
    fn empty_file_sets_nothing() {
        for text in [
            "",
            "\n",
            "# max-line = 1\n",
            "\u{feff}# with a byte order mark\n",
        ] {
            assert_eq!(file(text), Ok(Options::default()), "{text:?}");
        }
    }

    #[test]
    fn every_kind_of_value_is_kept_with_its_line() {
        let options = file(
            "# first\nmax-line = \"64KiB\"\nbuffer = 1_048_576\necho = true\n\nworker-threads = 0x10\n\
             idle-timeout = 1.5\nmax-clients = -3",
        );
        let expected = Options::from_iter([
            ("max-line", vec![typed("64KiB", 2)]),
            ("buffer", vec![typed("1048576", 3)]),
            ("echo", vec![typed("true", 4)]),
            ("worker-threads", vec![typed("16", 6)]),
            ("idle-timeout", vec![typed("1.5", 7)]),
            ("max-clients", vec![typed("-3", 8)]),
        ]);
        assert_eq!(options, Ok(expected));
    }

    #[test]
    fn listen_is_one_address_or_a_list_each_with_its_line() {
        assert_eq!(
            file("listen = 'h:1'"),
            Ok(Options::from_iter([("listen", vec![typed("h:1", 1)])]))
        );
        let several = file("\nlisten = [\n  \"h:1\",\n  # why\n  'unix:/x y,format=raw',\n]\n");
        let expected = [typed("h:1", 3), typed("unix:/x y,format=raw", 5)];
        assert_eq!(several.unwrap().get("listen"), Some(&expected[..]));
    }

    #[test]
    fn every_option_is_a_key() {
        for option in OPTIONS {
            let name = option.name;
            let expected = Options::from_iter([(name, vec![typed("x", 1)])]);
            assert_eq!(file(&format!("{name} = 'x'")), Ok(expected), "{name}");
        }
    }

    #[test]
    fn mistakes_are_named_with_file_line_and_what_is_allowed() {
        for (text, expected) in [
            (
                "echo = true\nmax_line = 1",
                "2: max_line: no such option; did you mean max-line?",
            ),
            (
                "\n\nslow-grce = '1s'",
                "3: slow-grce: no such option; did you mean slow-grace?",
            ),
            (
                "zzz = 1",
                "1: zzz: no such option; allowed: admin, admin-host, buffer, drain-timeout, echo, format, half-close, \
                 http-guard, idle-timeout, listen, log, long-line, max-clients, max-line, no-notices, slow-client, \
                 slow-grace, stall-timeout, worker-threads",
            ),
            (
                "listen = []",
                "1: listen: is empty; allowed: at least one address",
            ),
            (
                "listen = [\n'h:1',\n 2345]",
                "3: listen: a number is no value for it; allowed: a string, or a list of them",
            ),
            (
                "buffer = ['1MiB']",
                "1: buffer: a list is no value for it; allowed: one value",
            ),
            (
                "[buffer]\nsize = 1",
                "1: buffer: a table is no value for it; allowed: one value",
            ),
        ] {
            assert_eq!(file(text), Err(format!("{PATH}:{expected}")), "{text:?}");
        }
    }

    #[test]
    fn text_that_is_no_toml_is_named_with_its_line() {
        for (text, line) in [
            ("echo = true\nmax-line = 64KiB\n", 2),
            ("echo = true\necho = false\n", 2),
            ("\n\necho", 3),
            ("listen = [\n'h:1'\n", 2),
            ("format = 'text", 1),
        ] {
            let error = file(text).unwrap_err();
            let place = format!("{PATH}:{line}: ");
            assert!(
                error.starts_with(&place) && !error.contains('\n'),
                "{error}"
            );
            assert!(error.len() > place.len(), "{error}");
        }
    }

    #[test]
    fn wrong_value_is_told_as_it_is_everywhere() {
        let error = |text: &str| {
            let options = file(text).unwrap();
            Config::from_options(&options, 1024)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            error("\nmax-line = '12xy'"),
            "/etc/linehub.toml:2: max-line: '12xy' is not a size; allowed: 1 byte to 512 MiB, such \
             as 65536, 64KiB or 1MiB"
        );
        let none = error("listen = ['h:1',\n'nowhere']");
        assert!(
            none.starts_with("/etc/linehub.toml:2: listen: 'nowhere' has no port"),
            "{none}"
        );
    }
}
