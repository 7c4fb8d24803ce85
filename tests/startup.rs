use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::Command;

use crate::common::{BINARY, Client, Launch, Program, Server, marker, run, tool};

/// Runs the daemon, which ends with this code and one line on stderr; returns the line.
#[track_caller]
fn one_line(code: i32, args: &[&str], envs: &[(&str, &str)]) -> String {
    let exit = run(args, envs);
    let context = format!("{args:?} {envs:?}: {}", exit.stderr);
    assert_eq!(exit.code, Some(code), "{context}");
    assert_eq!(exit.stdout, "", "{context}");
    let line = exit
        .stderr
        .strip_suffix('\n')
        .unwrap_or_else(|| panic!("no line: {context}"));
    assert!(!line.contains('\n'), "more than one line: {context}");
    assert!(
        !line.contains("panicked") && !line.contains('\x1b'),
        "{context}"
    );
    line.to_owned()
}

#[test]
fn a_wrong_flag_is_one_line_that_names_it_and_the_value_and_exit_2() {
    for (flag, value) in [
        ("--format", "xml"),
        ("--half-close", "maybe"),
        ("--slow-client", "kill"),
        ("--slow-grace", "soon"),
        ("--stall-timeout", "5 parsecs"),
        ("--idle-timeout", "-1s"),
        ("--drain-timeout", "forever and a day"),
        ("--max-clients", "many"),
        ("--max-clients", "-3"),
        ("--max-line", "64 elephants"),
        ("--max-line", "0"),
        ("--buffer", "64XiB"),
        ("--buffer", "0"),
        ("--buffer", "99999999999999999999"),
        ("--worker-threads", "0"),
        ("--worker-threads", "x"),
        ("--listen", "127.0.0.1"),
        ("--listen", "127.0.0.1:99999"),
        ("--listen", "127.0.0.1:0,format=xml"),
        ("--listen", "127.0.0.1:0,colour=red"),
        ("--listen", "unix:"),
        ("--listen", ""),
    ] {
        let joined = format!("{flag}={value}");
        for args in [&[flag, value][..], &[&joined]] {
            if value.starts_with('-') && args.len() == 2 {
                // An argument parser may take such a value for a flag.
                continue;
            }
            let line = one_line(2, args, &[]);
            assert!(line.contains(flag), "{args:?}: {line}");
            // Of a value in parts, the part that is wrong is enough.
            let part = value.rsplit_once('=').map_or(value, |(_, part)| part);
            assert!(line.contains(part), "{args:?}: {line}");
        }
    }
}

#[test]
fn what_does_not_exist_is_one_line_that_names_it_and_exit_2() {
    for arg in ["--no-such-flag", "no-such-command"] {
        let line = one_line(2, &[arg], &[]);
        assert!(line.contains(arg), "{line}");
    }
    let line = one_line(2, &["--format"], &[]);
    assert!(line.contains("--format"), "{line}");
}

#[test]
fn a_wrong_value_says_what_is_allowed() {
    for (flag, allowed) in [
        ("--format", &["text", "raw", "json"][..]),
        ("--half-close", &["close", "keep"]),
        ("--slow-client", &["disconnect", "skip"]),
    ] {
        let line = one_line(2, &[flag, "nonsense"], &[]);
        for word in allowed {
            assert!(line.contains(word), "{line}");
        }
    }
}

#[test]
fn a_wrong_value_in_the_environment_is_as_wrong() {
    for (name, value) in [
        ("LINEHUB_FORMAT", "xml"),
        ("LINEHUB_BUFFER", "0"),
        ("LINEHUB_SLOW_GRACE", "soon"),
        ("LINEHUB_LISTEN", "nowhere"),
        ("LINEHUB_MAX_LINE", "long"),
    ] {
        let line = one_line(2, &[], &[(name, value)]);
        let flag = name
            .replace("LINEHUB_", "--")
            .replace('_', "-")
            .to_lowercase();
        assert!(
            line.contains(name) || line.contains(&flag),
            "{name}: {line}"
        );
        assert!(line.contains(value), "{name}: {line}");
    }
}

#[test]
fn the_environment_sets_options_and_a_flag_overrules_it() {
    let server = Launch::new(&[]).env("LINEHUB_FORMAT", "json").start();
    server.wait_log("listening format=json");
    let server = Launch::new(&["--format=raw"])
        .env("LINEHUB_FORMAT", "json")
        .start();
    server.wait_log("listening format=raw");

    let server = Launch::new(&[])
        .env("LINEHUB_LISTEN", "127.0.0.1:0")
        .env("LINEHUB_MAX_LINE", "100")
        .env("LINEHUB_NO_NOTICES", "true")
        .env("LINEHUB_ECHO", "true")
        .start();
    let mut client = Client::connect(&server);
    client.send_line("hello");
    client.expect_message(1, "hello");
    client.send_bytes(&[b'x'; 101]);
    client.expect_line("Error: line too long (limit 100 bytes)");
}

#[test]
fn sizes_and_durations_are_read_with_units_and_without() {
    let server = Server::start(&["--max-line=1KiB", "--idle-timeout=1s", "--buffer=1048576"]);
    let mut client = Client::connect(&server);
    client.send_bytes(&[b'x'; 1025]);
    client.expect_line("Error: line too long (limit 1024 bytes)");
    for args in [
        ["--slow-grace", "500ms"],
        ["--slow-grace", "forever"],
        ["--slow-grace", "0"],
        ["--stall-timeout", "2m"],
        ["--stall-timeout", "off"],
        ["--stall-timeout", "0"],
        ["--idle-timeout", "off"],
        ["--idle-timeout", "0"],
        ["--max-line", "65536"],
        ["--buffer", "64MiB"],
    ] {
        let exit = run(&["--check", args[0], args[1]], &[]);
        assert_eq!(exit.code, Some(0), "{args:?}: {}", exit.stderr);
    }
}

#[test]
fn an_address_in_use_is_one_line_with_address_and_reason_and_exit_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let line = one_line(1, &["--listen", &address], &[]);
    assert!(line.contains(&address) && line.contains("in use"), "{line}");
}

#[test]
fn one_listener_that_cannot_be_opened_leaves_nothing_of_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hub.sock");
    let unix = format!("unix:{}", path.display());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let exit = run(&["--listen", &unix, "--listen", &address], &[]);
    assert_eq!(exit.code, Some(1), "{}", exit.stderr);
    assert!(exit.stderr.contains(&address), "{}", exit.stderr);
    assert!(!path.exists());
}

#[test]
fn a_unix_socket_in_a_directory_that_is_not_there_is_one_line_and_exit_1() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nowhere/hub.sock");
    let line = one_line(1, &["--listen", &format!("unix:{}", path.display())], &[]);
    assert!(line.contains(&*path.to_string_lossy()), "{line}");
    assert!(line.contains("No such file or directory"), "{line}");
}

#[test]
fn a_socket_file_left_by_a_dead_daemon_is_replaced_and_removed_at_exit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hub.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let mut server = Server::start(&["--listen", &format!("unix:{}", path.display())]);
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    one.expect_line("New client connected: 2");
    marker(&mut one, &mut two);
    drop((one, two));
    server.stop();
    assert!(!path.exists());
}

#[test]
fn a_socket_file_whose_daemon_lives_is_an_error_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hub.sock");
    let listen = format!("unix:{}", path.display());
    let server = Server::start(&["--no-notices", "--listen", &listen]);
    let line = one_line(1, &["--listen", &listen], &[]);
    assert!(
        line.contains(&*path.to_string_lossy())
            && ["in use", "answers", "listens there"]
                .iter()
                .any(|why| line.contains(why)),
        "{line}"
    );
    // The caller who looked whether it lives came and went, as the log says, and left no harm.
    server.wait_log("client disconnected");
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    marker(&mut one, &mut two);
}

#[test]
fn a_file_that_is_no_socket_is_an_error_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    let line = one_line(1, &["--listen", &format!("unix:{}", path.display())], &[]);
    assert!(line.contains(&*path.to_string_lossy()), "{line}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
}

#[test]
fn port_0_is_a_free_port_and_each_listener_has_its_own() {
    let server = Server::start(&["--listen=127.0.0.1:0", "--listen=127.0.0.1:0"]);
    assert_ne!(server.addr(0).port(), 0);
    assert_ne!(server.addr(0).port(), server.addr(1).port());
}

#[test]
fn a_port_is_free_again_at_once() {
    let mut server = Server::start(&[]);
    let mut client = Client::connect(&server);
    let address = server.addr(0).to_string();
    // The daemon closes first, so the kernel keeps its side in TIME_WAIT.
    server.signal(rustix::process::Signal::TERM);
    client.expect_line("Server shutting down");
    client.expect_eof();
    drop(client);
    server.wait_exit(crate::common::PATIENCE);
    let server = Server::start(&["--listen", &address]);
    Client::connect(&server);
}

#[test]
fn check_checks_and_opens_nothing() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let exit = run(&["--check", "--listen", &address], &[]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    let line = one_line(2, &["--check", "--buffer", "0"], &[]);
    assert!(line.contains("--buffer"), "{line}");
}

#[test]
fn help_names_every_option_and_version_the_version() {
    let help = run(&["--help"], &[]);
    assert_eq!((help.code, &*help.stderr), (Some(0), ""));
    for option in "--listen --format --echo --no-notices --half-close --max-clients --max-line \
        --buffer --slow-client --slow-grace --stall-timeout --idle-timeout --drain-timeout \
        --worker-threads --check --help --version LINEHUB_"
        .split_whitespace()
    {
        assert!(
            help.stdout.contains(option),
            "{option} is not in:\n{}",
            help.stdout
        );
    }
    let version = run(&["--version"], &[]);
    assert_eq!((version.code, &*version.stderr), (Some(0), ""));
    assert_eq!(
        version.stdout,
        format!("linehub {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn what_was_probably_meant_is_said_of_an_address() {
    for (text, meant) in [
        ("*:2345", "0.0.0.0:2345, or [::]:2345 for IPv6 too"),
        (":2345", "127.0.0.1:2345, or [::]:2345 for every interface"),
        ("/tmp/x.sock", "unix:/tmp/x.sock"),
        ("tcp://127.0.0.1:2345", "127.0.0.1:2345"),
        ("127.0.0.1 2345", "127.0.0.1:2345"),
    ] {
        let meant = format!("; did you mean {meant}?");
        for args in [
            &["--listen", text][..],
            &["--admin", text],
            &["connect", text],
            &["bench", text],
            &["status", "--admin", text],
        ] {
            let line = one_line(2, args, &[]);
            assert!(
                line.contains(text) && line.contains(&meant),
                "{args:?}: {line}"
            );
        }
    }
    let line = one_line(2, &["connect", "127.0.0.1", "2345"], &[]);
    assert!(
        line.ends_with("an address is one word, 127.0.0.1:2345"),
        "{line}"
    );
}

#[test]
fn variable_that_is_no_option_is_named_with_what_was_meant() {
    let hint = "LINEHUB_MAXLINE: no such option; did you mean LINEHUB_MAX_LINE?";
    let mut server = Launch::new(&[]).env("LINEHUB_MAXLINE", "1KiB").start();
    server.wait_log(&format!("WARN {hint}"));
    server.signal(rustix::process::Signal::HUP);
    server.wait_log("configuration reloaded");
    assert_eq!(server.count_log("LINEHUB_MAXLINE:"), 1, "it is said once");
    server.stop();
    let exit = run(&["--check"], &[("LINEHUB_MAXLINE", "1KiB")]);
    assert_eq!(exit.code, Some(0));
    assert_eq!(exit.stderr, format!("linehub: {hint}\n"));
    let exit = run(&["--check"], &[("LINEHUB_MAX_LINE", "1KiB")]);
    assert_eq!((exit.code, exit.stderr.as_str()), (Some(0), ""));
}

/// The help on a page of 80 columns, in a terminal: no line is broken that clap was given broken.
#[test]
fn help_fits_a_terminal_of_80_columns() {
    let Some(script) = tool("script") else { return };
    for command in ["", "connect", "bench"] {
        let line = format!("stty cols 80 && exec {BINARY} {command} --help");
        let mut terminal = Command::new(&script);
        let mut terminal = Program::spawn(terminal.args(["-qec", &line, "/dev/null"]));
        let (status, output) = terminal.wait_end();
        assert!(status.success());
        let text = String::from_utf8_lossy(&output).replace("\x1b[", "\n\x1b[");
        let text: String = text
            .lines()
            .map(|line| match line.strip_prefix("\x1b[") {
                Some(styled) => styled
                    .split_once('m')
                    .map_or("", |(_, text)| text)
                    .to_owned(),
                None => format!("\n{line}"),
            })
            .collect();
        assert!(text.contains("\nExamples:\n"), "{text}");
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        for pair in lines.windows(2) {
            assert!(pair[0].chars().count() <= 80, "{}\nin {text}", pair[0]);
            // A line that had room for the first word of the next one was broken for no reason.
            let indent = |line: &str| line.len() - line.trim_start().len();
            let goes_on = pair[1].trim_start().starts_with(char::is_lowercase)
                && indent(pair[1]) == indent(pair[0]);
            let word = pair[1].split_whitespace().next().unwrap_or_default();
            let had_room = pair[0].chars().count() + 1 + word.len() <= 80;
            assert!(!(goes_on && had_room), "{pair:?} in {text}");
        }
    }
}

#[test]
fn port_that_takes_a_privilege_is_explained() {
    let mut command = match TcpListener::bind("0.0.0.0:80") {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Command::new(BINARY),
        // Who may open it gives that up, in a network where it takes a privilege.
        _ => {
            let (Some(unshare), Some(_)) = (tool("unshare"), tool("setpriv")) else {
                return;
            };
            let mut command = Command::new(unshare);
            command.args(["--map-root-user", "--net", "setpriv"]);
            command.args(["--bounding-set=-net_bind_service", BINARY]);
            command
        }
    };
    let output = command.args(["--listen", "0.0.0.0:80"]).output().unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    if line.starts_with("unshare: ") {
        // Past the test harness, which would swallow what a passing test prints.
        let _ = write!(std::io::stderr(), "skipped: {line}");
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{line}");
    assert!(
        line.starts_with("linehub: cannot listen on 0.0.0.0:80: "),
        "{line}"
    );
    for words in ["CAP_NET_BIND_SERVICE", "Permission denied", "above 1023"] {
        assert!(line.contains(words), "{words} in {line}");
    }
    assert_eq!(line.lines().count(), 1, "{line}");
}
