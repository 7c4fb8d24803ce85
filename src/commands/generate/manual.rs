//! The man page: the options as clap_mangen writes them, and the sections that `--help` ends with.

use std::io::Write as _;

use clap::{Arg, Command};
use clap_mangen::Man;
use roff::{Inline, Roff, bold, italic, roman};

use crate::config::cli::{Body, SECTIONS, fill};

/// A terminal of 80 columns, less what the page is indented by.
const COLUMNS: usize = 70;

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
    page.extend_from_slice(b".SH COMMANDS\n");
    commands(&mut page, command);
    let _ = sections().to_writer(&mut page);
    String::from_utf8_lossy(&page).into_owned()
}

/// The forms of the command line.
fn synopsis(command: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([bold("linehub"), roman(" ["), italic("OPTIONS"), roman("]")]);
    for sub in command.get_subcommands() {
        roff.control("br", []);
        roff.text(form(sub));
    }
    roff
}

/// Every command that prints or does something: how it is typed, and all that its `--help` says.
fn commands(page: &mut Vec<u8>, command: &Command) {
    for sub in command.get_subcommands() {
        if sub.has_subcommands() {
            commands(page, sub);
            continue;
        }
        let mut roff = Roff::new();
        roff.control("SS", []);
        roff.text(form(sub));
        let about = sub.get_long_about().or(sub.get_about());
        let about = about.map(ToString::to_string).unwrap_or_default();
        for paragraph in about.split("\n\n") {
            roff.control("PP", []);
            roff.text([roman(paragraph)]);
        }
        // A Vec takes everything.
        let _ = roff.to_writer(page);
        let explained = sub.clone().mut_args(|arg| {
            let is_help = arg.get_id() == "help";
            arg.hide(is_help)
        });
        let mut options = Vec::new();
        let _ = Man::new(explained).render_options_section(&mut options);
        let options = String::from_utf8_lossy(&options);
        // They stand below the command's own heading.
        for line in options.lines().filter(|line| !line.starts_with(".SH")) {
            let _ = writeln!(page, "{line}");
        }
        if let Some(more) = sub.get_after_long_help() {
            let mut roff = Roff::new();
            roff.control("PP", []);
            roff.control("nf", []);
            for line in fill(&more.to_string(), COLUMNS).lines() {
                roff.text([roman(line)]);
            }
            roff.control("fi", []);
            let _ = roff.to_writer(page);
        }
    }
}

/// How a command is typed: its full name, and what it takes.
fn form(command: &Command) -> Vec<Inline> {
    let mut form = vec![bold(command.get_bin_name().unwrap_or(command.get_name()))];
    let is_option = |arg: &Arg| !arg.is_positional() && arg.get_id() != "help";
    if command.has_subcommands() {
        form.extend([roman(" "), italic("WHAT")]);
    } else {
        if command.get_arguments().any(is_option) {
            form.extend([roman(" ["), italic("OPTIONS"), roman("]")]);
        }
        form.extend(positionals(command));
    }
    form
}

/// What a command takes beside options, each in brackets if it need not be given.
fn positionals(command: &Command) -> Vec<Inline> {
    let each = command.get_positionals().flat_map(|positional| {
        let name = match positional.get_value_names() {
            Some([name]) => name.to_string(),
            _ => positional.get_id().as_str().to_uppercase(),
        };
        let (open, close) = match positional.is_required_set() {
            true => (" ", ""),
            false => (" [", "]"),
        };
        [roman(open), italic(name), roman(close)]
    });
    each.collect()
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
    use crate::config::cli::Cli;

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
            #[cfg(feature = "bench")]
            "\\fBlinehub bench\\fR [\\fIOPTIONS\\fR] [\\fIHOST:PORT|unix:PATH\\fR]",
            "\\fBlinehub status\\fR [\\fIOPTIONS\\fR]\n",
            "\\fBlinehub generate completions\\fR \\fISHELL\\fR\n",
            #[cfg(feature = "bench")]
            "\\fB--rate\\fR \\fI<N>\\fR",
            #[cfg(feature = "connect")]
            "\\fB--retry\\fR[=\\fI<BOOL>\\fR]",
            #[cfg(feature = "bench")]
            "Every line reached every reader.",
            "which is where the service that",
            #[cfg(feature = "bench")]
            "Each line has a time at which it is due",
        ] {
            assert!(page.contains(text), "{text} in {page}");
        }
    }
    #[test]
    fn command_is_in_the_page_only_with_its_feature() {
        let page = roff(&mut Cli::command());
        for (command, is_built) in [
            ("linehub bench", cfg!(feature = "bench")),
            ("linehub connect", cfg!(feature = "connect")),
            ("linehub status", true),
        ] {
            let name = format!("\\fB{command}\\fR");
            assert_eq!(page.contains(&name), is_built, "{command}");
        }
    }
}
