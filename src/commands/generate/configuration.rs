//! The configuration file: every option, explained as in `--help`, at its default.

use std::fmt::Write as _;

use crate::config::cli::wrap;
use crate::config::{Kind, OPTIONS, OptionSpec};

/// Widest line, in characters, its `# ` included.
const WIDTH: usize = 100;

const HEAD: &str = "\
The configuration of linehub: every option, at its default.

Remove the # before an option to change it. A flag wins over this file, and so does a variable such \
as LINEHUB_MAX_LINE. Sizes read 64KiB, 1MiB or 65536, durations 500ms, 1s or 2m; 0 or off turns a \
limit off where it can be off.

`linehub --check --config FILE` finds mistakes. The running daemon reads this file again on SIGHUP \
(`systemctl reload linehub`), and a file with a mistake changes nothing.";

/// A file that sets nothing, and shows how everything is set.
pub(super) fn toml() -> String {
    let mut text = String::new();
    comment(&mut text, HEAD);
    let mut heading = None;
    for option in OPTIONS {
        if heading != Some(option.heading) {
            heading = Some(option.heading);
            // A String takes everything.
            let _ = write!(text, "\n\n## {}\n", option.heading);
        }
        text.push('\n');
        comment(&mut text, &option.paragraphs().join("\n\n"));
        let _ = writeln!(text, "#{} = {}", option.name, default(option));
    }
    text
}

/// The default of an option as TOML writes it.
fn default(option: &OptionSpec) -> String {
    match (option.kind, option.default) {
        (Kind::List, "none") => "[]".to_owned(),
        (Kind::List, default) => format!("[\"{default}\"]"),
        (Kind::Switch, default) => default.to_owned(),
        (_, default) => format!("\"{default}\""),
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
    use super::*;
    use crate::config::cli::Options;
    use crate::config::{Config, parse};

    fn file() -> String {
        toml()
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
        let options = parse(&opened(), "linehub.toml".as_ref()).unwrap();
        for option in OPTIONS {
            assert!(options.get(option.name).is_some(), "{}", option.name);
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
