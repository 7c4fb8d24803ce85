//! The man page: the options as clap_mangen writes them, and the sections that `--help` ends with.

use clap::{Arg, Command};
use clap_mangen::Man;
use roff::{Inline, Roff, bold, italic, roman};

use crate::cli::{Body, SECTIONS};

/// Without a date, so that a package is the same whenever it is built.
const TITLE: &str = concat!(
    ".TH LINEHUB 1 \"\" \"linehub ",
    env!("CARGO_PKG_VERSION"),
    "\" \"User Commands\"\n"
);

/// linehub(1), in roff.
pub(super) fn roff(command: &mut Command) -> String {
    command.build();
    let man = Man::new(command.clone());
    let mut page = TITLE.as_bytes().to_vec();
    // A Vec takes everything.
    let _ = man.render_name_section(&mut page);
    let _ = synopsis(command).to_writer(&mut page);
    let _ = man.render_description_section(&mut page);
    let mut options = Vec::new();
    let _ = man.render_options_section(&mut options);
    // Its headings stand below one for them all.
    let options = String::from_utf8_lossy(&options).replace("\n.SH ", "\n.SS ");
    page.extend_from_slice(format!(".SH OPTIONS\n{options}").as_bytes());
    let _ = commands(command).to_writer(&mut page);
    let _ = sections().to_writer(&mut page);
    String::from_utf8_lossy(&page).into_owned()
}

/// The forms of the command line.
fn synopsis(command: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([bold("linehub"), roman(" ["), italic("OPTIONS"), roman("]")]);
    for sub in command.get_subcommands() {
        let name = bold(sub.get_bin_name().unwrap_or(sub.get_name()));
        roff.control("br", []);
        roff.text([name, roman(" "), italic("COMMAND")]);
    }
    roff
}

/// Every command that prints or does something, under its full name.
fn commands(command: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    add_commands(&mut roff, command);
    roff
}

fn add_commands(roff: &mut Roff, command: &Command) {
    for sub in command.get_subcommands() {
        if sub.has_subcommands() {
            add_commands(roff, sub);
            continue;
        }
        let mut name = vec![bold(sub.get_bin_name().unwrap_or(sub.get_name()))];
        for positional in sub.get_positionals() {
            let value = positional.get_id().as_str().to_uppercase();
            name.extend([roman(" "), italic(value)]);
        }
        term(
            roff,
            name,
            &sub.get_about().map(ToString::to_string).unwrap_or_default(),
        );
        let about = |arg: &Arg| Some((arg.get_long()?.to_owned(), arg.get_help()?.to_string()));
        for (long, help) in sub.get_arguments().filter_map(about) {
            if long != "help" {
                roff.control("RS", []);
                term(roff, vec![bold(format!("--{long}"))], &help);
                roff.control("RE", []);
            }
        }
    }
}

fn sections() -> Roff {
    let mut roff = Roff::new();
    for section in SECTIONS {
        let title = match section.title {
            // What man-pages(7) calls it.
            "Exit codes" => "EXIT STATUS".to_owned(),
            title => title.to_uppercase(),
        };
        roff.control("SH", [title.as_str()]);
        for body in section.body {
            match body {
                Body::Text(text) => {
                    roff.control("PP", []);
                    roff.text([roman(*text)]);
                }
                Body::Term(name, text) => term(&mut roff, vec![bold(*name)], text),
                Body::Example(shows, lines) => {
                    roff.control("PP", []);
                    roff.text([roman(*shows)]);
                    roff.control("PP", []);
                    roff.control("RS", ["4"]);
                    roff.control("nf", []);
                    for line in *lines {
                        roff.text([bold(*line)]);
                    }
                    roff.control("fi", []);
                    roff.control("RE", []);
                }
            }
        }
    }
    roff
}

fn term(roff: &mut Roff, name: Vec<Inline>, text: &str) {
    roff.control("TP", []);
    roff.text(name);
    roff.text([roman(text)]);
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn page_has_every_option_command_and_section() {
        let page = roff(&mut Cli::command()).replace("\\-", "-");
        assert!(page.starts_with(".TH LINEHUB 1 "), "{page}");
        for arg in Cli::command()
            .get_arguments()
            .filter(|arg| !arg.is_hide_set())
        {
            if let Some(long) = arg.get_long() {
                assert!(
                    page.contains(&format!("--{long}")),
                    "{long} is not in {page}"
                );
            }
        }
        for heading in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "COMMANDS",
            "SIGNALS",
            "FILES",
        ] {
            assert!(
                page.contains(&format!("\n.SH {heading}\n")),
                "{heading} in {page}"
            );
        }
        for text in [
            "\"EXIT STATUS\"",
            "linehub generate service",
            "--socket-activated",
        ] {
            assert!(page.contains(text), "{text} in {page}");
        }
    }
}
