//! What `linehub generate` prints: all that belongs beside the binary, so that the one binary
//! carries everything a package needs. What explains options is made from the options themselves.

mod configuration;
mod manual;
mod token;
mod units;

use clap::builder::PossibleValuesParser;
use clap::{Arg, Command, CommandFactory, ValueHint};
use clap_complete::Shell;
use zeroize::Zeroizing;

use crate::config::OPTIONS;
use crate::config::cli::{Cli, Generate};

/// The command line with the words that its options take. Elsewhere they are read with the rest of the
/// configuration, so that an error names the place that a word was typed at.
fn with_values() -> Command {
    fn words(name: &str) -> &'static [&'static str] {
        match (name, OPTIONS.iter().find(|option| option.name == name)) {
            (_, Some(option)) => option.words(),
            ("role", None) => &["both", "publish", "subscribe"],
            ("retry", None) => &["true", "false"],
            ("sweep", None) => &["senders=", "readers=", "size=", "rate=", "stuck="],
            _ => &[],
        }
    }
    fn offer(arg: Arg) -> Arg {
        let has_value = arg.get_action().takes_values();
        let known = words(arg.get_id().as_str().replace('_', "-").as_str());
        match known {
            [] if has_value && arg.get_value_hint() == ValueHint::Unknown => {
                // Neither files nor anything else that a shell could know.
                arg.value_hint(ValueHint::Other)
            }
            [] => arg,
            // More follows the word at once.
            [word, ..] if word.ends_with('=') => arg
                .value_parser(PossibleValuesParser::new(known))
                .value_hint(ValueHint::Other),
            _ => arg.value_parser(PossibleValuesParser::new(known)),
        }
    }
    fn offer_in(command: Command) -> Command {
        command.mut_args(offer).mut_subcommands(offer_in)
    }
    offer_in(Cli::command())
}

/// What `linehub generate WHAT` prints, ready to be written to a file, and what it says on stderr.
///
/// # Errors
/// The system has no random numbers.
pub fn text(what: &Generate) -> anyhow::Result<(String, Zeroizing<String>)> {
    let text = match what {
        Generate::Service { socket_activated } => units::service(*socket_activated),
        Generate::Socket => units::SOCKET.to_owned(),
        Generate::Sysusers => units::SYSUSERS.to_owned(),
        Generate::Dropin => units::DROPIN.to_owned(),
        Generate::Config => configuration::toml(),
        Generate::Man => manual::roff(&mut Cli::command()),
        Generate::Completions { shell } => completions(*shell),
        Generate::Token(args) => return token::generate(args),
    };
    Ok((text, Zeroizing::default()))
}

/// Completions for a shell, which offer files only where a file is wanted.
fn completions(shell: Shell) -> String {
    /// Where bash would look for files if the script finds nothing.
    const FILES_INSTEAD: &str = " -o bashdefault -o default";
    /// bash makes three words of `--format=json`.
    const PREVIOUS: &str = "    prev=\"$3\"\n";
    const PREVIOUS_BUT_EQUALS: &str = "    prev=\"$3\"
    if [[ \"${prev}\" == \"=\" ]]; then
        prev=\"${COMP_WORDS[COMP_CWORD-2]}\"
        [[ \"${prev}\" == -* ]] || return 0
    fi
";
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut with_values(), "linehub", &mut script);
    let script = String::from_utf8_lossy(&script);
    match shell {
        Shell::Bash => script
            .replace(FILES_INSTEAD, "")
            .replace(PREVIOUS, PREVIOUS_BUT_EQUALS),
        // To zsh, the name of a value ends at a colon.
        Shell::Zsh => script.replace(":HOST:PORT|unix:PATH:", r":HOST\:PORT|unix\:PATH:"),
        _ => script.into_owned(),
    }
}
