//! The options of the daemon as clap and the environment give them, one row of the table after the
//! other.

use std::ffi::OsString;

use clap::{ArgMatches, Args, Command, FromArgMatches};

use crate::config::options::OPTIONS;
use crate::config::raw::{Options, RawValue, ValueSource};
use crate::config::spec::Kind;

impl Args for Options {
    fn augment_args(command: Command) -> Command {
        command.args(OPTIONS.iter().map(|option| option.arg()))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Options::augment_args(command)
    }
}

impl FromArgMatches for Options {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Options, clap::Error> {
        let values = |name| {
            matches
                .get_many::<RawValue>(name)
                .map(|all| all.cloned().collect())
        };
        let typed = OPTIONS.iter().map(|option| option.name);
        Ok(typed
            .filter_map(|name| Some((name, values(name)?)))
            .collect())
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Options::from_arg_matches(matches)?.or(self.clone());
        Ok(())
    }
}

/// The options that the environment sets. An empty variable counts as unset.
pub(super) fn from_environment(
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Options, String> {
    let mut options = Options::default();
    for option in OPTIONS {
        let place = ValueSource::Environment;
        let name = place.name(option.name);
        let Some(text) = variable(&name) else {
            continue;
        };
        let text = text.into_string();
        let text = text.map_err(|_| format!("{name}: the value is not UTF-8"))?;
        let texts: Vec<&str> = match option.kind {
            Kind::List => text
                .split(|c: char| c.is_whitespace() || c == ';')
                .collect(),
            _ => vec![&text],
        };
        let texts = texts.into_iter().filter(|text| !text.is_empty());
        let values: Vec<_> = texts
            .map(|text| RawValue::text(text, place.clone()))
            .collect();
        if !values.is_empty() {
            options.set(option.name, values);
        }
    }
    Ok(options)
}
