//! What is known of an option, and the macro that makes a table of options and [`Config`] from rows.
//!
//! [`Config`]: super::Config

use std::borrow::Cow;

use clap::{Arg, ArgAction, ValueHint, value_parser};

use super::raw::RawValue;

/// Default of a list, or of a value, that is empty unless something is typed.
pub(super) const NONE: &str = "none";

/// What is known of an option beside the field of `Config` that it sets.
#[derive(Debug)]
pub(crate) struct OptionSpec {
    /// Name as the flag has it, without the hyphens in front: `max-line`.
    pub(crate) name: &'static str,
    /// Help in paragraphs: the first is all that `-h` shows.
    pub(super) help: &'static str,
    pub(crate) kind: Kind,
    /// What stands for the value in the help.
    pub(super) placeholder: &'static str,
    /// Heading of `--help` that it is shown under.
    pub(crate) heading: &'static str,
    /// Value, as it would be typed, that an option has which was not typed.
    pub(crate) default: &'static str,
    pub(crate) applies: Applies,
}

/// How values of an option are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One value.
    Value,
    /// One of these words, which shells complete.
    Word(&'static [&'static str]),
    /// `true` or `false`; the flag alone is `true`.
    Switch,
    /// Several values: the flag is repeated, the variable is separated by white space or `;`, the key
    /// in the file has an array.
    List,
}

/// When a reload applies a changed value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applies {
    /// In the reload, for clients that are connected too.
    AtOnce,
    /// When the daemon is started anew: a client may be in the middle of a line of its own, files of a
    /// history are open, and threads are there for life.
    AtRestart,
}

/// A way in which two configurations differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The option, or the table of a channel: `channel.nmea`.
    pub(crate) name: Cow<'static, str>,
    pub(crate) applies: Applies,
}

impl OptionSpec {
    /// The option with this name.
    pub(crate) fn find(options: &'static [OptionSpec], name: &str) -> Option<&'static OptionSpec> {
        options.iter().find(|option| option.name == name)
    }

    /// The paragraphs of the help, each in one line.
    pub(crate) fn paragraphs(&self) -> Vec<String> {
        let paragraph = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        self.help.trim_end().split("\n\n").map(paragraph).collect()
    }

    /// The words that shells complete; none where a value is free.
    pub(crate) fn words(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Word(words) => words,
            Kind::Switch => &["true", "false"],
            Kind::Value | Kind::List => &[],
        }
    }

    /// The option as clap takes it.
    pub(super) fn arg(&self) -> Arg {
        let mut paragraphs = self.paragraphs();
        paragraphs[0] += &format!(" [default: {}]", self.default);
        let arg = Arg::new(self.name)
            .long(self.name)
            .value_name(self.placeholder)
            .help_heading(self.heading)
            .help(paragraphs[0].clone())
            .value_hint(match self.placeholder {
                "DIR" => ValueHint::DirPath,
                file if file.starts_with("FILE") => ValueHint::FilePath,
                _ => ValueHint::Unknown,
            })
            .value_parser(value_parser!(RawValue));
        let arg = match paragraphs.len() {
            1 => arg,
            _ => arg.long_help(paragraphs.join("\n\n")),
        };
        match self.kind {
            Kind::Value | Kind::Word(_) => arg.action(ArgAction::Set).allow_hyphen_values(true),
            Kind::List => arg.action(ArgAction::Append).allow_hyphen_values(true),
            Kind::Switch => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true"),
        }
    }
}

/// Makes `OPTIONS` and `Config` from rows of this form, in which the parser may be followed by names of
/// `Context`'s fields:
///
/// ```text
/// /// Help.
/// option("name", Kind, "PLACEHOLDER", HEADING, default = "text", Applies)
/// /// Doc of the field.
/// field: Type = one(parser);
/// ```
macro_rules! options {
    ($(
        $(#[doc = $help:literal])+
        option(
            $name:literal, $kind:expr, $placeholder:literal, $heading:ident,
            default = $default:expr, $applies:ident
        )
        $(#[doc = $doc:literal])+
        $field:ident: $type:ty = $read:ident($parse:path $(, $context:ident)*);
    )+) => {
        /// Every option of the daemon, in the order of `--help`.
        pub(crate) const OPTIONS: &[OptionSpec] = &[$(OptionSpec {
            name: $name,
            help: concat!($($help, "\n"),+),
            kind: $kind,
            placeholder: $placeholder,
            heading: $heading,
            default: $default,
            applies: Applies::$applies,
        }),+];

        /// What the daemon runs on: read from what was typed, validated whole, never changed. A reload
        /// reads another.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Config {
            /// Whether `listen` was typed. If not, inherited sockets take its place.
            pub listen_given: bool,
            /// Channels that there always are: `main`, those of listeners, and those with a table.
            pub channels: BTreeMap<ChannelName, ChannelOptions>,
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        impl Config {
            /// Reads and checks what was typed. `open_files` is the open-file limit in force, in
            /// descriptors; it gives the default of `--max-clients`.
            ///
            /// # Errors
            /// The first value that is not allowed.
            pub fn from_options(options: &Options, open_files: u64) -> Result<Config, ConfigError> {
                let context = Context::read(options, open_files)?;
                let config = Config {
                    listen_given: options.get("listen").is_some(),
                    channels: BTreeMap::new(),
                    $($field: $read($name, &values_of(options, $name), |text| {
                        $parse(text $(, &context.$context)*)
                    })?,)+
                };
                config.with_channels(options)
            }

            /// The options and channels in which another configuration differs from this one.
            pub(crate) fn differences(&self, other: &Config) -> Vec<Difference> {
                let differ = [$(
                    self.$field != other.$field
                        || $name == "listen" && self.listen_given != other.listen_given
                ),+];
                let options = OPTIONS.iter().zip(differ);
                let differing = options.filter(|(_, differs)| *differs).map(|(option, _)| Difference {
                    name: option.name.into(),
                    applies: match option.name == "history" && self.switches_history(other) {
                        true => Applies::AtRestart,
                        false => option.applies,
                    },
                });
                differing.chain(self.differing_channels(other)).collect()
            }

            /// Takes from the configuration that is running what only a restart changes.
            pub(crate) fn keep_until_restart(&mut self, running: &Config) {
                $(if Applies::$applies == Applies::AtRestart {
                    self.$field.clone_from(&running.$field);
                })+
                self.keep_channels(running);
            }
        }
    };
}

pub(super) use options;
