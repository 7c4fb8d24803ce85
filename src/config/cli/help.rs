//! What `--help` says after the options, which the man page says too: one text for both.

use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use clap::Command;
use rustix::termios::tcgetwinsize;

use crate::config::listener::LISTENER_KEYS;

/// Widest page, in characters.
const WIDTH: usize = 100;

/// Narrowest row of text, in characters, where a term takes up a narrow page.
const ROW_LEAST: usize = 20;

/// A part of the text under a heading of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section {
    pub(crate) title: &'static str,
    pub(crate) body: &'static [Body],
}

/// A piece of a section.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Body {
    /// A paragraph.
    Text(&'static str),
    /// A term and what it means.
    Term(&'static str, &'static str),
    /// What it shows, and the lines to type.
    Example(&'static str, &'static [&'static str]),
}

use Body::{Example, Term, Text};

/// What is said of listeners: the keys, a term each.
const LISTENER_OPTIONS: [Body; LISTENER_KEYS.len() + 2] = {
    let mut body = [Text(""); LISTENER_KEYS.len() + 2];
    body[0] = Text(
        "They follow the address of --listen, as in 0.0.0.0:2346,format=json,hello, or are keys of \
         its table in the configuration file.",
    );
    let mut at = 0;
    while at < LISTENER_KEYS.len() {
        body[at + 1] = Term(LISTENER_KEYS[at].usage, LISTENER_KEYS[at].help);
        at += 1;
    }
    body[at + 1] = Text(
        "Where a key is on or off, the key alone is on. A [channel.NAME] table of the configuration \
         file gives a channel a buffer, a history and rules of its own; `linehub generate config` \
         shows it.",
    );
    body
};

/// Sections of the text after the options, in the order they are shown.
pub(crate) const SECTIONS: [Section; 7] = [
    Section {
        title: "Examples",
        body: &[
            Example(
                "A chat on this machine: start the daemon, then type in two other terminals.",
                &["linehub", "nc 127.0.0.1 2345", "nc 127.0.0.1 2345"],
            ),
            Example(
                "Send one line from a script and leave.",
                &["printf 'backup done\\n' | nc -N 127.0.0.1 2345"],
            ),
            Example(
                "An instrument with many readers: the bytes as they came, on every interface.",
                &["linehub --listen '[::]:2345' --format raw --no-notices"],
            ),
            Example(
                "Lines for people on one port, JSON for programs on another, a Unix socket for this \
                 machine.",
                &[
                    "linehub --listen 0.0.0.0:2345 --listen 127.0.0.1:2346,format=json \\",
                    "        --listen unix:/run/linehub.sock,format=raw",
                ],
            ),
            Example(
                "Over TLS, from anywhere, for those with a token (the file of tokens has its hash).",
                &[
                    "linehub generate token alice 2> alice.secret >> tokens.toml",
                    "linehub --listen '[::]:2345,tls,hello' --tls-cert hub.pem --tls-key hub.key \\",
                    "        --tokens tokens.toml",
                ],
            ),
            Example(
                "A service: make its user, write its unit and its configuration, and start it.",
                &[
                    "linehub generate sysusers | systemd-sysusers -",
                    "linehub generate service > /etc/systemd/system/linehub.service",
                    "linehub generate config > /etc/linehub.toml",
                    "systemctl daemon-reload && systemctl enable linehub",
                    "systemctl restart linehub",
                ],
            ),
        ],
    },
    Section {
        title: "Listener options",
        body: &LISTENER_OPTIONS,
    },
    Section {
        title: "Values",
        body: &[
            Term(
                "SIZE",
                "A number of bytes, or a number with a unit: 65536, 64KiB, 1.5MiB. KiB, MiB and GiB \
                 are powers of 1024; K, M, G, KB, MB and GB are powers of 1000.",
            ),
            Term("DURATION", "Numbers with units: 500ms, 1s, 2m, 1m 30s, 1h."),
            Text("`0` or `off` turns a limit off where it can be off."),
        ],
    },
    Section {
        title: "Environment",
        body: &[
            Text(
                "Every option that takes a value, and every switch, is also read from the environment: \
                 LINEHUB_ and its name, as in LINEHUB_MAX_LINE=1MiB or LINEHUB_ECHO=true. A flag wins \
                 over the environment, and the environment over the configuration file; an empty value \
                 counts as unset. LINEHUB_LISTEN takes several addresses, separated by spaces or \
                 semicolons.",
            ),
            Term(
                "RUST_LOG",
                "What to log, such as `warn` or `linehub=debug`. Wins over --log.",
            ),
            Term(
                "NO_COLOR",
                "No colour in the log and in this text when set.",
            ),
        ],
    },
    Section {
        title: "Signals",
        body: &[
            Term(
                "SIGTERM, SIGINT",
                "Stop: accept nobody new, deliver what clients had sent, and close each connection when \
                 its peer has everything, after --drain-timeout at the latest. Once more: at once. But \
                 on SIGTERM under a service manager that keeps descriptors (FileDescriptorStoreMax=), \
                 leave all connections to it, for the daemon that it starts next.",
            ),
            Term(
                "SIGHUP",
                "Read the configuration file again, and the files of certificates and tokens. Limits, \
                 timeouts, notices, the log level and listeners change while clients stay connected; what \
                 needs a restart is named in a warning. A file with a mistake changes nothing, and the log \
                 says so.",
            ),
            Term(
                "SIGUSR2",
                "Go on as the program that is installed now, in the same process and with every \
                 connection: for an upgrade. If that program is not fit for it, this one serves on, \
                 and the log says why.",
            ),
        ],
    },
    Section {
        title: "Files",
        body: &[
            Term(
                "/etc/linehub.toml",
                "The configuration of the service that `linehub generate service` prints. linehub by \
                 itself reads only the file that --config names.",
            ),
            Term(
                "/run/linehub/",
                "That service's own directory, for Unix sockets, which all users of the machine can \
                 open. Its status page and metrics are at admin.sock in it, which is for root, and \
                 which `linehub status` asks.",
            ),
        ],
    },
    Section {
        title: "Exit codes",
        body: &[
            Term("0", "Stopped as asked."),
            Term(
                "1",
                "Could not serve, as when an address is taken, or a file of TLS cannot be used.",
            ),
            Term(
                "2",
                "A wrong option, variable, or line of the configuration file.",
            ),
        ],
    },
];

/// The sections as `--help` shows them, each paragraph on a line of its own for [`fill`].
pub(super) fn sections() -> String {
    let mut text = String::new();
    let mut line = |line: &str| {
        // A String takes everything.
        let _ = writeln!(text, "{line}");
    };
    for (i, section) in SECTIONS.iter().enumerate() {
        if i > 0 {
            line("");
        }
        line(&format!("{}:", section.title));
        let terms = section.body.iter().map(|body| match body {
            Term(term, _) => term.len(),
            Text(_) | Example(..) => 0,
        });
        let column = terms.max().unwrap_or(0) + 2;
        for (j, body) in section.body.iter().enumerate() {
            let before = j.checked_sub(1).map(|before| &section.body[before]);
            // Terms stand apart from paragraphs, and examples from each other.
            if matches!(
                (before, body),
                (Some(Text(_)), Term(..)) | (Some(Term(..)), Text(_)) | (Some(_), Example(..))
            ) {
                line("");
            }
            match body {
                Text(text) => line(&format!("  {text}")),
                Term(term, text) => line(&format!("  {term:column$}{text}")),
                Example(shows, commands) => {
                    line(&format!("  {shows}"));
                    let mut prompt = "$";
                    for command in *commands {
                        line(&format!("    {prompt} {command}"));
                        prompt = if command.ends_with('\\') { " " } else { "$" };
                    }
                }
            }
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// Puts a command and those below it on a page of so many columns: what clap breaks by itself, and
/// the texts after the options, whose columns it does not know.
pub(super) fn lay_out(command: Command, columns: usize) -> Command {
    let mut command = command.term_width(columns);
    if let Some(text) = command.get_after_long_help() {
        let text = fill(&text.to_string(), columns);
        command = command.after_long_help(text);
    }
    if let Some(text) = command.get_after_help() {
        let text = fill(&text.to_string(), columns);
        command = command.after_help(text);
    }
    command.mut_subcommands(|sub| lay_out(sub, columns))
}

/// How many columns a page has: as many as the terminal, [`WIDTH`] at most.
pub(super) fn columns() -> usize {
    let of_terminal = |stream: BorrowedFd<'_>| {
        let size = tcgetwinsize(stream).ok()?;
        Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
    };
    let (out, err) = (io::stdout(), io::stderr());
    let columns = of_terminal(out.as_fd()).or_else(|| of_terminal(err.as_fd()));
    let stated = || std::env::var("COLUMNS").ok()?.parse().ok();
    columns.or_else(stated).unwrap_or(WIDTH).min(WIDTH)
}

/// Breaks the lines of a text between words, so that it fits into so many columns. A line goes on
/// below where it began; one that has a term first (`  SIZE  A number`), below what follows the term.
/// Lines that were broken like that are put together first. Commands to type stay as they are.
pub(crate) fn fill(text: &str, columns: usize) -> String {
    let mut filled = String::new();
    let mut lines = text.lines().peekable();
    let mut is_command = false;
    while let Some(line) = lines.next() {
        // One goes on in the next line after a backslash.
        is_command = line.trim_start().starts_with("$ ") || is_command && line.starts_with("     ");
        if is_command || line.is_empty() {
            filled.push_str(line);
            filled.push('\n');
            continue;
        }
        let column = column(line);
        let (start, rest) = line.split_at(column);
        let mut rest = rest.to_owned();
        let is_more = |line: &&str| {
            let is_text = !line.is_empty() && !line.trim_start().starts_with("$ ");
            is_text && indent(line) == column && self::column(line) == column
        };
        while let Some(more) = lines.next_if(is_more) {
            rest.push(' ');
            rest.push_str(more.trim_start());
        }
        let mut start = start.to_owned();
        for row in wrap(&rest, columns.saturating_sub(column).max(ROW_LEAST)) {
            let _ = writeln!(filled, "{start}{row}");
            start = " ".repeat(column);
        }
    }
    filled.truncate(filled.trim_end().len());
    filled
}

/// Where the text of a line begins: behind its term, if it has one.
fn column(line: &str) -> usize {
    let indent = indent(line);
    let term = match indent {
        0 => None,
        _ => line[indent..].find("  "),
    };
    term.map_or(indent, |end| {
        let behind = &line[indent + end..];
        line.len() - behind.trim_start().len()
    })
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Breaks a paragraph into lines of at most `width` characters, between words.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_broken_between_words() {
        assert_eq!(wrap("", 5), [""; 0]);
        assert_eq!(wrap("a bc  def\n gh", 4), ["a bc", "def", "gh"]);
        assert_eq!(wrap("abcdefgh i", 4), ["abcdefgh", "i"]);
    }

    #[test]
    fn nothing_of_a_section_is_lost_or_too_wide() {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        for columns in [60, 80, WIDTH] {
            let text = fill(&sections(), columns);
            let mut lines = text.lines().filter(|line| !line.contains("linehub "));
            assert!(lines.all(|line| line.chars().count() <= columns), "{text}");
            for Section { title, body } in SECTIONS {
                assert!(text.contains(&format!("{title}:\n")), "{text}");
                for body in body {
                    let parts = match body {
                        Text(text) => vec![*text],
                        Term(term, text) => {
                            vec![*term, text.split(' ').next_back().unwrap_or_default()]
                        }
                        Example(shows, commands) => [&[*shows][..], commands].concat(),
                    };
                    for part in parts {
                        assert!(words(&text).contains(&words(part)), "{part}");
                    }
                }
            }
        }
    }

    #[test]
    fn broken_lines_go_on_below_where_their_text_began() {
        let text = "\
Broken by hand as
it was written, once.

Examples:
  How long does that thing take?
    $ linehub bench 'with a long line that has to stay as it is' \\
              --and its rest
    $ linehub
Exit codes:
  0  It went
     well, as far as anybody knows.
  1  It did not.";
        let expected = "\
Broken by hand as it was
written, once.

Examples:
  How long does that
  thing take?
    $ linehub bench 'with a long line that has to stay as it is' \\
              --and its rest
    $ linehub
Exit codes:
  0  It went well, as far
     as anybody knows.
  1  It did not.";
        assert_eq!(fill(text, 25), expected);
        assert_eq!(fill(&fill(text, 25), 100), fill(text, 100));
    }
}
