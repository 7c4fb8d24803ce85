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
        let mut form = vec![name];
        if sub.has_subcommands() {
            form.extend([roman(" "), italic("WHAT")]);
        } else {
            form.extend([roman(" ["), italic("OPTIONS"), roman("]")]);
            form.extend(positionals(sub));
        }
        roff.control("br", []);
        roff.text(form);
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
        name.extend(positionals(sub));
        term(
            roff,
            name,
            &sub.get_about().map(ToString::to_string).unwrap_or_default(),
        );
        for arg in sub.get_arguments() {
            let Some(name) = option(arg) else { continue };
            let help = arg.get_long_help().or(arg.get_help());
            let help = help.map(ToString::to_string).unwrap_or_default();
            let mut paragraphs = help.split("\n\n");
            roff.control("RS", []);
            term(roff, name, paragraphs.next().unwrap_or_default());
            for paragraph in paragraphs {
                roff.control("IP", []);
                roff.text([roman(paragraph)]);
            }
            roff.control("RE", []);
        }
    }
}

/// `--rate N`, and its short form before it if it has one; `None` for what is no option to explain.
fn option(arg: &Arg) -> Option<Vec<Inline>> {
    let long = arg.get_long().filter(|long| *long != "help")?;
    let mut name = Vec::new();
    if let Some(short) = arg.get_short() {
        name.extend([bold(format!("-{short}")), roman(", ")]);
    }
    name.push(bold(format!("--{long}")));
    if let (true, Some([value])) = (arg.get_action().takes_values(), arg.get_value_names()) {
        name.extend([roman(" "), italic(value.as_str())]);
    }
    Some(name)
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
            "\\fBlinehub bench\\fR [\\fIOPTIONS\\fR] [\\fIHOST:PORT|unix:PATH\\fR]",
            "\\fB--rate\\fR \\fIN\\fR",
            "Each line has a time at which it is due",
        ] {
            assert!(page.contains(text), "{text} in {page}");
        }
    }
}
