use super::*;
use crate::config::options::{ADMIN, HISTORY, LIMITS, LISTENING, OPTIONS, SEEN, SLOW};
use crate::config::spec::OptionSpec;

fn read(args: &[&str], environment: &[(&str, &str)]) -> Result<Cli, CliExit> {
    let args = ["linehub"].iter().chain(args).map(OsString::from);
    Cli::read(args, |name| {
        let found = environment.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.into())
    })
}

fn options(args: &[&str], environment: &[(&str, &str)]) -> Options {
    read(args, environment).unwrap().options
}

/// The only value that was typed for an option.
fn one(options: &Options, name: &str) -> Option<RawValue> {
    match options.get(name)? {
        [value] => Some(value.clone()),
        several => panic!("{name} has {several:?}"),
    }
}

fn help(flag: &str) -> String {
    match read(&[flag], &[]) {
        Err(CliExit::Answer(help)) => help.to_string(),
        other => panic!("{flag} gave {other:?}"),
    }
}

fn variable(text: &str) -> Option<RawValue> {
    Some(RawValue::text(text, ValueSource::Environment))
}

#[test]
fn command_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn nothing_typed_leaves_every_option_open() {
    assert_eq!(options(&[], &[]), Options::default());
}

#[test]
fn every_option_of_the_daemon_is_a_flag_and_a_variable() {
    let command = Cli::command();
    let flags = command.get_arguments().filter_map(|arg| arg.get_long());
    let about_the_run = [
        "config",
        "check",
        "check-handover",
        "verbose",
        "quiet",
        "help",
        "version",
    ];
    let mut flags: Vec<_> = flags.filter(|flag| !about_the_run.contains(flag)).collect();
    let mut known: Vec<_> = OPTIONS.iter().map(|option| option.name).collect();
    flags.sort_unstable();
    known.sort_unstable();
    assert_eq!(flags, known);
}

#[test]
fn flag_and_variable_with_one_name_set_the_same_option() {
    for OptionSpec { name, .. } in OPTIONS {
        let by_flag = options(&[&format!("--{name}=x")], &[]);
        assert_eq!(by_flag, Options::from_iter([(*name, vec!["x".into()])]));
        let in_environment = ValueSource::Environment.name(name);
        let by_variable = options(&[], &[(&in_environment, "x")]);
        let expected = vec![variable("x").unwrap()];
        assert_eq!(by_variable, Options::from_iter([(*name, expected)]));
    }
}

#[test]
fn flag_wins_over_the_environment() {
    let environment = [("LINEHUB_MAX_LINE", "1KiB"), ("LINEHUB_BUFFER", "1MiB")];
    let typed = options(&["--max-line", "2KiB"], &environment);
    assert_eq!(one(&typed, "max-line"), Some("2KiB".into()));
    assert_eq!(one(&typed, "buffer"), variable("1MiB"));
}

#[test]
fn empty_variable_counts_as_unset() {
    let environment = [("LINEHUB_MAX_LINE", ""), ("LINEHUB_LISTEN", " ; ")];
    assert_eq!(options(&[], &environment), Options::default());
}

#[test]
fn variable_that_is_not_utf8_is_named() {
    use std::os::unix::ffi::OsStringExt;
    let read = Cli::read(["linehub".into()], |name| {
        (name == "LINEHUB_FORMAT").then(|| OsString::from_vec(vec![0xff]))
    });
    let Err(CliExit::Usage(line)) = read else {
        panic!("accepted")
    };
    assert_eq!(line, "LINEHUB_FORMAT: the value is not UTF-8");
}

#[test]
fn listen_variable_holds_several_addresses() {
    let typed = options(
        &[],
        &[("LINEHUB_LISTEN", " a:1;b:2  c:3,format=raw\nd:4; ")],
    );
    let texts: Vec<_> = typed
        .get("listen")
        .unwrap()
        .iter()
        .map(|typed| &typed.text)
        .collect();
    assert_eq!(texts, ["a:1", "b:2", "c:3,format=raw", "d:4"]);
}

#[test]
fn listen_flag_repeats_and_replaces_the_variable() {
    let typed = options(
        &["--listen", "a:1", "--listen=b:2"],
        &[("LINEHUB_LISTEN", "c:3")],
    );
    assert_eq!(typed.get("listen"), Some(&["a:1".into(), "b:2".into()][..]));
}

#[test]
fn switch_alone_is_true_and_can_be_turned_off() {
    assert_eq!(one(&options(&["--echo"], &[]), "echo"), Some("true".into()));
    let typed = options(&["--echo=false"], &[("LINEHUB_ECHO", "true")]);
    assert_eq!(one(&typed, "echo"), Some("false".into()));
    let typed = options(&["--echo", "--no-notices"], &[]);
    assert_eq!(one(&typed, "no-notices"), Some("true".into()));
}

#[test]
fn last_of_a_repeated_option_counts() {
    assert_eq!(
        one(&options(&["--buffer=1", "--buffer=2"], &[]), "buffer"),
        Some("2".into())
    );
}

#[test]
fn verbose_and_quiet_are_short_for_a_level() {
    let environment = [("LINEHUB_LOG", "error")];
    for (args, expected) in [
        (vec![], variable("error")),
        (vec!["-v"], Some("debug".into())),
        (vec!["-vv"], Some("trace".into())),
        (vec!["-vvv"], Some("trace".into())),
        (vec!["-q"], Some("warn".into())),
        (vec!["-qq"], Some("error".into())),
        (vec!["-qqv"], Some("warn".into())),
        (vec!["-qv"], Some("info".into())),
        (vec!["--log", "loud"], Some("loud".into())),
    ] {
        assert_eq!(
            one(&options(&args, &environment), "log"),
            expected,
            "{args:?}"
        );
    }
}

#[test]
fn configuration_file_is_named_by_flag_or_variable() {
    let environment = [("LINEHUB_CONFIG", "/b")];
    let config =
        |args: &[&str], environment: &[(&str, &str)]| read(args, environment).unwrap().config;
    assert_eq!(config(&[], &[("LINEHUB_CONFIG", "")]), None);
    assert_eq!(config(&[], &environment), Some("/b".into()));
    assert_eq!(config(&["--config=/a"], &environment), Some("/a".into()));
}

#[test]
fn commands_are_told_from_options() {
    let command = |args: &[&str]| read(args, &[]).unwrap().command;
    assert_eq!(command(&[]), None);
    for (args, what) in [
        (
            &["service"][..],
            Generate::Service {
                socket_activated: false,
            },
        ),
        (
            &["service", "--socket-activated"],
            Generate::Service {
                socket_activated: true,
            },
        ),
        (
            &["completions", "zsh"],
            Generate::Completions {
                shell: clap_complete::Shell::Zsh,
            },
        ),
    ] {
        let args = [&["generate"], args].concat();
        assert_eq!(command(&args), Some(Command::Generate { what }), "{args:?}");
    }
}

#[test]
fn value_that_starts_with_a_hyphen_is_left_to_the_option() {
    assert_eq!(
        one(&options(&["--max-line", "-1"], &[]), "max-line"),
        Some("-1".into())
    );
    assert_eq!(
        one(&options(&["--idle-timeout", "-5s"], &[]), "idle-timeout"),
        Some("-5s".into())
    );
}

#[test]
fn help_groups_every_option_and_fits_the_page() {
    for flag in ["-h", "--help"] {
        let help = help(flag);
        let headings = [
            "Commands", LISTENING, SEEN, LIMITS, SLOW, HISTORY, ADMIN, PROCESS,
        ];
        let places: Vec<_> = headings
            .iter()
            .map(|heading| help.find(&format!("\n{heading}:\n")))
            .collect();
        assert!(
            places.iter().all(Option::is_some) && places.is_sorted(),
            "{help}"
        );
        assert!(!help.contains("\nOptions:"), "{help}");
        let widest = help.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(100), "{widest:?} in {help}");
    }
    assert!(help("--help").contains("printf 'backup done\\n' | nc -N 127.0.0.1 2345"));
}
