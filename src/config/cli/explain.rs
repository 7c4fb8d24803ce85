//! What is wrong with a command line or a variable, in one line, and what was probably meant.

use std::error::Error as _;
use std::ffi::OsString;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::config::address::Address;
use crate::config::nearest::nearest;
use crate::config::options::OPTIONS;
use crate::config::raw::{STATE_VARIABLE, ValueSource};

/// Names in other programs of what `--listen` is here and the address in `connect` and `bench`.
const ADDRESS_ELSEWHERE: [&str; 8] = [
    "--port",
    "-p",
    "--host",
    "--bind",
    "-b",
    "--address",
    "--addr",
    "-l",
];

/// Says which of these variables, with their values, look like options and are none.
pub fn unknown_variables(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<String> {
    let known = OPTIONS.iter().map(|option| option.name).chain(["config"]);
    let names: Vec<String> = known.map(|n| ValueSource::Environment.name(n)).collect();
    let prefix = ValueSource::Environment.name("");
    let variables = variables
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let unknown = variables.filter_map(|(name, value)| {
        let option = name.strip_prefix(&prefix)?;
        // Kubernetes tells each container of a service named linehub like this where it is.
        let is_cluster = option.starts_with("SERVICE_")
            || option.starts_with("PORT_")
            || option == "PORT" && value.to_string_lossy().contains("://");
        // Of the benches, of tests, and between a daemon and the next one.
        let is_of_tests = cfg!(debug_assertions) && option == "NODE_TIMEOUT_MS";
        let is_ours = option.starts_with("BENCH_") || is_of_tests || name == STATE_VARIABLE;
        if is_cluster || is_ours || names.contains(&name) {
            return None;
        }
        let options = names.iter().map(|known| &known[prefix.len()..]);
        let hint = nearest(option, options);
        let hint = hint.map(|option| format!("; did you mean {prefix}{option}?"));
        Some(format!(
            "{name}: no such option{}",
            hint.unwrap_or_default()
        ))
    });
    unknown.collect()
}

/// clap's error about these arguments in one line, without the usage text that it adds.
pub(super) fn explain(cli: &Command, error: &clap::Error, args: &[OsString]) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        Some(ContextValue::Strings(texts)) => texts.first().map_or("", String::as_str),
        _ => "",
    };
    let argument = context(ContextKind::InvalidArg);
    let value = context(ContextKind::InvalidValue);
    // `--max-line <SIZE>` as clap names it.
    let (option, placeholder) = argument.split_once([' ', '[']).unwrap_or((argument, ""));
    match error.kind() {
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            let known = Some(context(ContextKind::SuggestedArg)).filter(|known| !known.is_empty());
            let hint = match (argument, known) {
                _ if ADDRESS_ELSEWHERE.contains(&argument) => {
                    match ArgumentContext::of(cli, args).command.as_str() {
                        "linehub" => "did you mean --listen HOST:PORT?".to_owned(),
                        "status" => "did you mean --admin HOST:PORT?".to_owned(),
                        command => format!("did you mean linehub {command} HOST:PORT?"),
                    }
                }
                (_, Some(known)) => format!("did you mean {known}?"),
                (_, None) => "--help lists them".to_owned(),
            };
            format!("{argument}: no such option; {hint}")
        }
        ErrorKind::UnknownArgument => {
            let typed = ArgumentContext::before(cli, args, argument);
            let hint = typed.one_address(argument).or_else(|| {
                let is_status = typed.command == "status" && is_address(argument);
                is_status.then(|| format!("did you mean --admin {argument}?"))
            });
            let hint = hint.unwrap_or("only options are allowed, and --help lists them".to_owned());
            format!("'{argument}': unexpected; {hint}")
        }
        ErrorKind::ArgumentConflict if !context(ContextKind::InvalidSubcommand).is_empty() => {
            let command = context(ContextKind::InvalidSubcommand);
            match cli.find_subcommand(command) {
                Some(_) => format!("'{command}': takes no option before it"),
                None => no_such_command(cli, command, args),
            }
        }
        // clap has its help ready instead, since that is long.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            "the command is missing; --help lists them".to_owned()
        }
        ErrorKind::MissingRequiredArgument => {
            // An option is missed by another one, and clap's usage text has both.
            let text = error.to_string();
            let mut lines = text.lines().filter(|_| argument.starts_with('-'));
            let usage = lines.find_map(|line| line.strip_prefix("Usage: "));
            let hint = usage.map(|usage| format!("allowed: {usage}"));
            let hint = hint.unwrap_or("--help explains it".to_owned());
            format!("{argument}: is missing; {hint}")
        }
        ErrorKind::InvalidSubcommand => match context(ContextKind::InvalidSubcommand) {
            command if command.starts_with('-') => format!("{command}: no such option here"),
            command => no_such_command(cli, command, args),
        },
        ErrorKind::InvalidValue if value.is_empty() => {
            format!("{option}: the value is missing; allowed: {option} {placeholder}")
        }
        ErrorKind::InvalidValue => match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(known)) => {
                let known = known.join(", ");
                format!("{argument}: '{value}' is unknown; allowed: {known}")
            }
            _ => format!("{argument}: '{value}' is unknown"),
        },
        // Said by the parser of the value.
        ErrorKind::ValueValidation => {
            let reason = error.source().map(ToString::to_string).unwrap_or_default();
            format!("{option}: {reason}")
        }
        ErrorKind::TooManyValues => format!("{option}: takes no value, but got '{value}'"),
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            line.strip_prefix("error: ").unwrap_or(line).to_owned()
        }
    }
}

fn no_such_command(cli: &Command, unknown: &str, args: &[OsString]) -> String {
    let typed = ArgumentContext::before(cli, args, unknown);
    let command = cli.find_subcommand(&typed.command).unwrap_or(cli);
    let is_daemon = typed.command == "linehub";
    let commands = command.get_subcommands().map(Command::get_name);
    // Where an option has the name, or an address stands alone, the rest of the option is missing.
    let option = || {
        let mut options = cli.get_arguments().filter_map(|arg| arg.get_long());
        options
            .find(|option| *option == unknown)
            .map(|option| format!("--{option}"))
    };
    let address = || {
        let next = typed.next.as_deref().unwrap_or_default();
        let both = [
            unknown.to_owned(),
            format!("{unknown}:{next}"),
            format!("127.0.0.1:{unknown}"),
        ];
        let address = both.into_iter().find(|address| is_address(address));
        address.map(|address| format!("--listen {address}"))
    };
    let meant = nearest(unknown, commands)
        .map(str::to_owned)
        .or_else(option)
        .or_else(|| address().filter(|_| is_daemon));
    let hint = match (typed.one_address(unknown), meant) {
        (Some(hint), _) => hint,
        (None, Some(meant)) => format!("did you mean {meant}?"),
        (None, None) => "--help lists them".to_owned(),
    };
    format!("'{unknown}': no such command; {hint}")
}

fn is_address(text: &str) -> bool {
    text.parse::<Address>().is_ok()
}

/// What was typed around an argument.
struct ArgumentContext {
    /// The command that is in force there: linehub itself, or one of those below it.
    command: String,
    previous: Option<String>,
    next: Option<String>,
}

impl ArgumentContext {
    /// The arguments seen from their end.
    fn of(cli: &Command, args: &[OsString]) -> ArgumentContext {
        let text = |arg: &OsString| arg.to_string_lossy().into_owned();
        let command = args.iter().skip(1).map(text);
        let command = command.filter(|arg| cli.find_subcommand(arg).is_some());
        ArgumentContext {
            command: command.into_iter().next().unwrap_or("linehub".to_owned()),
            previous: args.iter().skip(1).next_back().map(text),
            next: None,
        }
    }

    /// The arguments seen from the first one that is `argument`.
    fn before(cli: &Command, args: &[OsString], argument: &str) -> ArgumentContext {
        let at = args.iter().skip(1).position(|arg| arg == argument);
        let at = at.map_or(args.len(), |at| at + 1);
        let next = args.get(at + 1);
        ArgumentContext {
            next: next.map(|arg| arg.to_string_lossy().into_owned()),
            ..ArgumentContext::of(cli, &args[..at])
        }
    }

    /// Hint for a port that stands behind its host as a word of its own, as nc and telnet take one.
    fn one_address(&self, port: &str) -> Option<String> {
        let previous = self.previous.as_deref()?;
        // `--listen=HOST PORT`
        let host = previous.rsplit_once('=').map_or(previous, |(_, host)| host);
        let address = format!("{host}:{port}");
        is_address(&address).then(|| format!("an address is one word, {address}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cli::{Cli, CliExit};

    fn usage(args: &[&str]) -> String {
        let typed = ["linehub"].iter().chain(args).map(OsString::from);
        match Cli::read(typed, |_| None) {
            Err(CliExit::Usage(line)) => line,
            other => panic!("{args:?} gave {other:?}"),
        }
    }

    #[test]
    fn wrong_command_line_is_explained_in_one_line() {
        for (args, expected) in [
            (
                vec!["--max-lin", "1"],
                "--max-lin: no such option; did you mean --max-line?",
            ),
            (vec!["--zzz"], "--zzz: no such option; --help lists them"),
            (vec!["-x"], "-x: no such option; --help lists them"),
            (vec!["x"], "'x': no such command; --help lists them"),
            (
                vec!["--echo", "no"],
                "'no': no such command; --help lists them",
            ),
            (
                vec!["--echo", "generate", "config"],
                "'generate': takes no option before it",
            ),
            (
                vec!["generate", "x"],
                "'x': no such command; --help lists them",
            ),
            (
                vec!["generate", "config", "x"],
                "'x': unexpected; only options are allowed, and --help lists them",
            ),
            (
                vec!["generate", "completions", "dos"],
                "<SHELL>: 'dos' is unknown; allowed: bash, elvish, fish, powershell, zsh",
            ),
            (
                vec!["generate", "completions"],
                "<SHELL>: is missing; --help explains it",
            ),
            (
                vec!["history", "cat", "--last", "1KiB", "DIR"],
                "--last: '1KiB' is not allowed; allowed: a number of messages such as 100",
            ),
            (
                vec!["history", "tail", "--since", "0s", "DIR"],
                "--since: '0s' is not allowed; allowed: EPOCH:SEQ such as 5f3a9c11:4711, or a duration of \
                 1ms to 10y such as 5m",
            ),
            (
                vec!["generate"],
                "the command is missing; --help lists them",
            ),
            (
                vec!["-v", "--log", "info"],
                "the argument '--verbose...' cannot be used with '--log <LEVEL>'",
            ),
            (
                vec!["--max-line"],
                "--max-line: the value is missing; allowed: --max-line <SIZE>",
            ),
            (
                vec!["--listen"],
                "--listen: the value is missing; allowed: --listen <HOST:PORT|unix:PATH>",
            ),
            (
                vec!["--check=yes"],
                "--check: takes no value, but got 'yes'",
            ),
        ] {
            assert_eq!(usage(&args), expected, "{args:?}");
        }
    }

    #[cfg(feature = "connect")]
    #[test]
    fn option_that_another_one_needs_is_named_with_both() {
        let usage = |words: &str| {
            let words: Vec<&str> = words.split(' ').collect();
            usage(&words)
        };
        for (args, missing, usage_text) in [
            (
                "--state f",
                "--resume",
                "--resume --state <FILE> [HOST:PORT|unix:PATH]",
            ),
            (
                "--session s h:1",
                "--send-only",
                "--send-only --session <NAME> <HOST:PORT|unix:PATH>",
            ),
        ] {
            let expected = format!("{missing}: is missing; allowed: linehub connect {usage_text}");
            assert_eq!(usage(&format!("connect {args}")), expected);
        }
        // clap takes no option for missing that cannot be there.
        for (option, others) in [
            (
                "--session s",
                [
                    "--listen-only",
                    "--resume",
                    "--since 5m",
                    "--history 5",
                    "--format raw",
                ]
                .as_slice(),
            ),
            ("--state f", &["--send-only"]),
        ] {
            for other in others {
                let line = usage(&format!("connect {option} {other}"));
                assert!(
                    line.contains("cannot be used with"),
                    "{option} {other}: {line}"
                );
            }
        }
    }

    #[test]
    fn what_was_probably_meant_is_said() {
        for (args, expected) in [
            (
                &["connect", "127.0.0.1", "2345"][..],
                "'2345': unexpected; an address is one word, 127.0.0.1:2345",
            ),
            (
                &["bench", "[::1]", "2345"],
                "'2345': unexpected; an address is one word, [::1]:2345",
            ),
            (
                &["connect", "h:1", "2345"],
                "'2345': unexpected; only options are allowed, and --help lists them",
            ),
            (
                &["--listen", "0.0.0.0", "2345"],
                "'2345': no such command; an address is one word, 0.0.0.0:2345",
            ),
            (
                &["--listen=0.0.0.0", "2345"],
                "'2345': no such command; an address is one word, 0.0.0.0:2345",
            ),
            (
                &["0.0.0.0", "2345"],
                "'0.0.0.0': no such command; did you mean --listen 0.0.0.0:2345?",
            ),
            (
                &["2345"],
                "'2345': no such command; did you mean --listen 127.0.0.1:2345?",
            ),
            (
                &["unix:/x"],
                "'unix:/x': no such command; did you mean --listen unix:/x?",
            ),
            (
                &["status", "127.0.0.1:9345"],
                "'127.0.0.1:9345': unexpected; did you mean --admin 127.0.0.1:9345?",
            ),
            (
                &["--port", "2345"],
                "--port: no such option; did you mean --listen HOST:PORT?",
            ),
            (
                &["-p2345"],
                "-p: no such option; did you mean --listen HOST:PORT?",
            ),
            (
                &["connect", "-p", "2345", "h"],
                "-p: no such option; did you mean linehub connect HOST:PORT?",
            ),
            (
                &["bench", "--host=h"],
                "--host: no such option; did you mean linehub bench HOST:PORT?",
            ),
            (
                &["statsu"],
                "'statsu': no such command; did you mean status?",
            ),
            (
                &["generate", "confg"],
                "'confg': no such command; did you mean config?",
            ),
            (
                &["generate", "help"],
                "'help': no such command; did you mean --help?",
            ),
            (
                &["version"],
                "'version': no such command; did you mean --version?",
            ),
            (
                &["help", "bnech"],
                "'bnech': no such command; did you mean bench?",
            ),
        ] {
            assert_eq!(usage(args), expected, "{args:?}");
        }
    }

    #[test]
    fn help_is_a_command_too() {
        for (args, expected) in [
            (&["help"][..], "\nSlow clients:\n"),
            (&["help", "bench"], "linehub bench --rate 1000"),
            (&["help", "generate", "service"], "--socket-activated"),
        ] {
            let typed = ["linehub"].iter().chain(args).map(OsString::from);
            let Err(CliExit::Answer(help)) = Cli::read(typed, |_| None) else {
                panic!("{args:?}")
            };
            let help = help.to_string();
            assert!(help.contains(expected), "{args:?}: {help}");
        }
    }

    #[test]
    fn variables_that_are_no_options_are_named_with_what_was_meant() {
        let variables = [
            ("PATH", "/bin"),
            ("LINEHUB_MAX_LINE", "1KiB"),
            ("LINEHUB_CONFIG", "/etc/linehub.toml"),
            ("LINEHUB_ADMIN_HOST", "status.example"),
            (STATE_VARIABLE, "3"),
            ("LINEHUB_BENCH_SERVER", "/x"),
            ("LINEHUB_SERVICE_HOST", "10.0.0.1"),
            ("LINEHUB_PORT", "tcp://10.0.0.1:2345"),
            ("LINEHUB_PORT_2345_TCP_ADDR", "10.0.0.1"),
        ];
        let variables = |more: &[(&str, &str)]| {
            let all = variables.iter().chain(more);
            let all = all.map(|(name, value)| (name.into(), value.into()));
            unknown_variables(all.collect::<Vec<(OsString, OsString)>>())
        };
        assert_eq!(variables(&[]), [""; 0]);
        let unknown = [
            ("LINEHUB_MAXLINE", "1KiB"),
            ("LINEHUB_X", "1"),
            ("LINEHUB_PORT", "80"),
        ];
        assert_eq!(
            variables(&unknown),
            [
                "LINEHUB_MAXLINE: no such option; did you mean LINEHUB_MAX_LINE?",
                "LINEHUB_X: no such option",
                "LINEHUB_PORT: no such option",
            ]
        );
    }
}
