//! The configuration file: every option, explained as in `--help`, at its default.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command};

use crate::config::cli::{Options, wrap};

/// A line is at most this wide, in characters, its `# ` included.
const WIDTH: usize = 100;

const HEAD: &str = "\
The configuration of linehub: every option, at its default.

Remove the # before an option to change it. A flag wins over this file, and so does a variable such \
as LINEHUB_MAX_LINE. Sizes read 64KiB, 1MiB or 65536, durations 500ms, 1s or 2m; 0 or off turns a \
limit off where it can be off.

`linehub --check --config FILE` finds mistakes. The running daemon reads this file again on SIGHUP \
(`systemctl reload linehub`), and a file with a mistake changes nothing.";

/// A file that sets nothing, and shows how everything is set.
pub(super) fn toml(command: &mut Command) -> String {
    let mut text = String::new();
    comment(&mut text, HEAD);
    let mut heading = None;
    for (name, arg) in options(command) {
        if arg.get_help_heading() != heading {
            heading = arg.get_help_heading();
            // A String takes everything.
            let _ = write!(text, "\n\n## {}\n", heading.unwrap_or_default());
        }
        let help = arg.get_long_help().or(arg.get_help());
        let help = help.map(ToString::to_string).unwrap_or_default();
        let (help, default) = take_default(&help);
        text.push('\n');
        comment(&mut text, &help);
        let _ = writeln!(text, "#{name} = {}", value(arg, &default));
    }
    text
}

/// What a file can set, in the order of `--help`.
fn options(command: &Command) -> impl Iterator<Item = (&str, &Arg)> {
    let mut options = Options::default();
    let mut known: Vec<&str> = options.single_valued().map(|(name, _)| name).to_vec();
    known.extend(options.several_valued().map(|(name, _)| name));
    command
        .get_arguments()
        .filter_map(|arg| Some((arg.get_long()?, arg)))
        .filter(move |(name, _)| known.contains(name))
}

/// Takes `[default: X]` out of a help text.
fn take_default(help: &str) -> (String, String) {
    let found = help.split_once(" [default: ").and_then(|(before, rest)| {
        let (default, after) = rest.split_once(']')?;
        Some((format!("{before}{after}"), default.to_owned()))
    });
    found.unwrap_or_else(|| (help.to_owned(), String::new()))
}

/// The default as TOML writes it.
fn value(arg: &Arg, default: &str) -> String {
    match (arg.get_action(), default) {
        (ArgAction::Append, "none") => "[]".to_owned(),
        (ArgAction::Append, _) => format!("[\"{default}\"]"),
        (_, "true" | "false") => default.to_owned(),
        _ => format!("\"{default}\""),
    }
}

fn comment(text: &mut String, paragraphs: &str) {
    for (i, paragraph) in paragraphs.split("\n\n").enumerate() {
        if i > 0 {
            text.push_str("#\n");
        }
        for line in wrap(paragraph, WIDTH - 2) {
            let _ = writeln!(text, "# {line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::cli::Cli;
    use crate::config::{Config, parse};

    fn file() -> String {
        toml(&mut Cli::command())
    }

    /// The file with the `#` before each option removed.
    fn opened() -> String {
        file()
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(option) if option.starts_with(|c: char| c.is_ascii_lowercase()) => option,
                _ => line,
            })
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn file_as_it_is_sets_nothing() {
        let options = parse(&file(), "linehub.toml".as_ref()).unwrap();
        assert_eq!(options, Options::default());
    }

    #[test]
    fn every_option_is_in_the_file_at_its_default() {
        let mut options = parse(&opened(), "linehub.toml".as_ref()).unwrap();
        assert!(options.listen.is_some());
        for (name, value) in options.single_valued() {
            assert!(value.is_some(), "{name}");
        }
        let mut defaults = Config::from_options(&Options::default(), 1024).unwrap();
        defaults.listen_given = true;
        let config = Config::from_options(&options, 1024).unwrap();
        assert_eq!(config, defaults);
    }

    #[test]
    fn options_are_explained_within_the_width() {
        let file = file();
        assert!(
            file.lines().all(|line| line.chars().count() <= WIDTH),
            "{file}"
        );
        assert!(
            file.contains("\n## Slow clients\n\n# What happens to a slow client\n#\n"),
            "{file}"
        );
        assert!(!file.contains("[default"), "{file}");
    }
}
