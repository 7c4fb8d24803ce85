//! The configuration file: every option, explained as in `--help`, at its default.

use std::fmt::Write as _;

use crate::config::cli::wrap;
use crate::config::{CHANNEL_KEYS, Kind, LISTENER_KEYS, OPTIONS, OptionSpec};

/// Widest line, in characters, its `# ` included.
const WIDTH: usize = 100;

const HEAD: &str = "\
The configuration of linehub: every option, at its default.

Remove the # before an option to change it. A flag wins over this file, and so does a variable such \
as LINEHUB_MAX_LINE. Sizes read 64KiB, 1MiB or 65536, durations 500ms, 1s or 2m; 0 or off turns a \
limit off where it can be off.

`linehub --check --config FILE` finds mistakes. The running daemon reads this file again on SIGHUP \
(`systemctl reload linehub`), and a file with a mistake changes nothing.";

/// Listeners as texts and tables.
const LISTEN_EXAMPLE: &str = "\
listen = [
  \"127.0.0.1:2345\",
  \"unix:/run/linehub.sock,format=raw,mode=0660\",
  { address = \"0.0.0.0:2346\", channel = \"nmea\", role = \"subscribe\", allow = [\"10.0.0.0/8\"] },
  { address = \"[::1]:2347\", format = \"json\", hello = true },
  { address = \"[::]:2348\", tls = true, tls-cert = \"hub.pem\", tls-key = \"hub.key\" },
]";

const CHANNELS: &str = "\
A channel that a listener or a table names exists always. What its table leaves open is as for the \
daemon. A name with a dot is quoted. Tables stand at the end of the file.";

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
        if option.name == "listen" {
            listeners(&mut text);
        }
        let _ = writeln!(text, "#{} = {}", option.name, default(option));
    }
    channels(&mut text);
    text
}

/// What a listener may have behind its address, and how it is written.
fn listeners(text: &mut String) {
    text.push_str("#\n# A listener is told, behind its address or in its table:\n#\n");
    for key in LISTENER_KEYS {
        term(text, key.usage, key.help);
    }
    text.push_str("#\n# For example:\n#\n");
    for line in LISTEN_EXAMPLE.lines() {
        let _ = writeln!(text, "#   {line}");
    }
    text.push_str("#\n");
}

/// The table of a channel, which ends the file: what follows a table is in it.
fn channels(text: &mut String) {
    text.push_str("\n\n## Channels\n\n");
    comment(text, CHANNELS);
    text.push_str("#\n");
    for key in CHANNEL_KEYS {
        term(text, key.name, key.help);
    }
    text.push_str("#[channel.nmea]\n");
    for key in CHANNEL_KEYS {
        let _ = writeln!(text, "#{} = {}", key.name, key.example);
    }
}

/// A term and what it means, in comments.
fn term(text: &mut String, term: &str, means: &str) {
    let _ = writeln!(text, "#   {term}");
    for line in wrap(means, WIDTH - 8) {
        let _ = writeln!(text, "#       {line}");
    }
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
    use crate::config::{Config, SlowClient, parse};

    fn file() -> String {
        toml()
    }

    /// The file with the `#` before each option removed.
    fn opened() -> String {
        file()
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(option)
                    if option.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()) =>
                {
                    option
                }
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
        let mut config = Config::from_options(&options, 1024).unwrap();
        let nmea = config.channels.remove(&"nmea".parse().unwrap()).unwrap();
        assert_eq!(config, defaults);
        assert_eq!((nmea.buffer_bytes, nmea.notices), (16 << 20, false));
        assert_eq!(nmea.slow_client, SlowClient::Skip);
        assert_eq!(nmea.history_bytes, 1 << 30);
    }

    #[test]
    fn examples_of_listeners_are_read_as_they_stand_there() {
        let file = file();
        let mut lines = file.lines().skip_while(|line| *line != "#   listen = [");
        let example = lines.by_ref().take_while(|line| *line != "#");
        let example: Vec<_> = example.map(|line| &line[1..]).collect();
        let options = parse(&example.join("\n"), "linehub.toml".as_ref()).unwrap();
        let config = Config::from_options(&options, 1024).unwrap();
        let listen: Vec<_> = config.listen.iter().map(ToString::to_string).collect();
        let expected = [
            "127.0.0.1:2345,format=text,channel=main,role=both,line-end=lf,http-guard=on,hello=off,http=off,history=0,tls=off",
            "unix:/run/linehub.sock,format=raw,channel=main,role=both,line-end=lf,http-guard=on,hello=off,http=off,history=0,tls=off,mode=0660",
            "0.0.0.0:2346,format=text,channel=nmea,role=subscribe,line-end=lf,http-guard=on,hello=off,http=off,history=0,tls=off,allow=10.0.0.0/8",
            "[::1]:2347,format=json,channel=main,role=both,line-end=lf,http-guard=on,hello=on,http=off,history=0,tls=off",
            "[::]:2348,format=text,channel=main,role=both,line-end=lf,http-guard=on,hello=off,http=off,history=0,tls=on,tls-cert=hub.pem,tls-key=hub.key",
        ];
        assert_eq!(listen, expected);
    }

    #[test]
    fn keys_of_listeners_and_channels_are_explained() {
        let file = file();
        for key in LISTENER_KEYS {
            assert!(file.contains(&format!("\n#   {}\n", key.usage)), "{file}");
        }
        for key in CHANNEL_KEYS {
            assert!(file.contains(&format!("\n#   {}\n", key.name)), "{file}");
        }
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
