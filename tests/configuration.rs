use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::{
    Address, Client, Launch, Manager, PATIENCE, Program, Server, free_port, marker, run, tool,
};

/// A configuration file, and a daemon that reads it.
struct Configured {
    server: Server,
    file: File,
    /// Reloads so far.
    reloads: usize,
}

/// A configuration file in a directory of its own.
struct File {
    dir: TempDir,
    path: PathBuf,
}

impl File {
    fn new(text: &str) -> File {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("linehub.toml");
        fs::write(&path, text).unwrap();
        File { dir, path }
    }

    fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn write(&self, text: &str) {
        fs::write(&self.path, text).unwrap();
    }
}

impl Configured {
    /// The file decides on everything but what is in `args`.
    #[track_caller]
    fn start(args: &[&str], text: &str) -> Configured {
        let file = File::new(text);
        let mut launch = Launch::new(&[args, &["--config", file.name()]].concat());
        if text.contains("listen") {
            launch = launch.listen_as_configured();
        }
        Configured {
            server: launch.start(),
            file,
            reloads: 0,
        }
    }

    /// Writes the file anew and has it read; returns when that is over.
    #[track_caller]
    fn reload(&mut self, text: &str) {
        self.file.write(text);
        self.server.signal(Signal::HUP);
        self.reloads += 1;
        self.server.wait_log_count("phase=reloading", self.reloads);
        self.server
            .wait_log_count("phase=running", self.reloads + 1);
    }

    /// The same, and it must have been taken.
    #[track_caller]
    fn reload_well(&mut self, text: &str) -> String {
        let before = self.server.count_log("configuration reloaded");
        self.reload(text);
        let mut lines = self
            .server
            .wait_log_count("configuration reloaded", before + 1);
        lines.remove(before)
    }

    /// The same, and it must have been refused; the reason.
    #[track_caller]
    fn reload_badly(&mut self, text: &str) -> String {
        let before = self.server.count_log("ERROR nothing changed");
        self.reload(text);
        let mut lines = self
            .server
            .wait_log_count("ERROR nothing changed", before + 1);
        assert_eq!(lines.len(), before + 1, "{lines:?}");
        lines.remove(before)
    }
}

fn tcp(port: u16) -> Address {
    Address::Tcp(([127, 0, 0, 1], port).into())
}

#[test]
fn the_file_sets_options_the_environment_and_flags_overrule_it() {
    let file = File::new("format = 'json'\nmax-line = 10\nno-notices = true\necho = true\n");
    let mut server = Launch::new(&["--config", file.name()]).start();
    server.wait_log("listening format=json");
    let mut client = Client::connect(&server);
    client.send_line("hello");
    assert_eq!(client.read_json()["data"], "hello");
    client.send_bytes(b"12345678901");
    assert_eq!(
        client.read_json()["detail"],
        "line too long (limit 10 bytes)"
    );
    server.stop();

    let server = Launch::new(&["--no-notices=false"])
        .env("LINEHUB_CONFIG", file.name())
        .env("LINEHUB_FORMAT", "text")
        .env("LINEHUB_MAX_LINE", "1KiB")
        .start();
    server.wait_log("listening format=text");
    let mut client = Client::connect(&server);
    client.expect_line("New client connected: 1");
    client.send_line("more than ten bytes");
    client.expect_message(1, "more than ten bytes");
}

#[test]
fn listeners_are_a_list_in_the_file() {
    let (one, other) = (free_port(), free_port());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hub.sock");
    let file = File::new(&format!(
        "listen = [\n  'unix:{}',\n  '127.0.0.1:{one},format=raw', # why\n]\n",
        path.display()
    ));
    let mut server = Launch::new(&["--config", file.name()])
        .listen_as_configured()
        .start();
    server.wait_log(&format!(
        "listening address=unix:{} format=text",
        path.display()
    ));
    server.wait_log(&format!("listening address=127.0.0.1:{one} format=raw"));
    server.stop();
    file.write(&format!("listen = '127.0.0.1:{other}'"));
    let server = Launch::new(&["--config", file.name()])
        .listen_as_configured()
        .start();
    server.wait_log(&format!("listening address=127.0.0.1:{other}"));
}

#[test]
fn listeners_of_the_file_may_be_tables() {
    let (one, other) = (free_port(), free_port());
    let file = File::new(&format!(
        "listen = ['127.0.0.1:{one}', {{ address = '127.0.0.1:{other}', format = 'raw', hello = false }}]\n\
         [channel.nmea]\nbuffer = '1MiB'\nnotices = false\n"
    ));
    let mut server = Launch::new(&["--config", file.name()])
        .listen_as_configured()
        .start();
    server.wait_log(&format!("listening address=127.0.0.1:{one} format=text"));
    server.wait_log(&format!("listening address=127.0.0.1:{other} format=raw"));
    let mut raw = Client::dial(&tcp(other));
    server.wait_log("client connected client=1");
    let mut text = Client::dial(&tcp(one));
    text.send_line("to both");
    raw.expect_line("to both");
    server.stop();

    file.write(&format!(
        "[[listen]]\naddress = '127.0.0.1:{one}'\nformat = 'json'\n"
    ));
    let server = Launch::new(&["--config", file.name()])
        .listen_as_configured()
        .start();
    server.wait_log(&format!("listening address=127.0.0.1:{one} format=json"));
}

#[test]
fn a_mistake_in_a_listener_is_one_line_with_its_address_the_key_and_what_is_allowed() {
    let guard = "neither true nor false; allowed: true, yes, on, 1, false, no, off or 0";
    for (listen, expected) in [
        ("role=x", "role: 'x' is not a role; allowed: both, publish or subscribe".to_owned()),
        ("line-end=cr", "line-end: 'cr' is not a line end; allowed: lf, any or nul".into()),
        ("http-guard=x", format!("http-guard: 'x' is {guard}")),
        ("hello=x", format!("hello: 'x' is {guard}")),
        ("hello,hello", "hello: is given twice; allowed: once".into()),
        ("rolle=both", "rolle=both: no such option; did you mean role?".into()),
        ("history", "history: the value is missing; allowed: history=N|SIZE|DURATION".into()),
        (
            "history=64K",
            "history: '64K' is no amount of history; allowed: a number, a size such as 64KiB or a duration \
             such as 5m, of at most 1TiB or 10y, or 0 or off for nothing"
                .into(),
        ),
        (
            "channel=../x",
            "channel: '../x' is not a channel name; allowed: 1 to 64 of A-Z a-z 0-9 . _ -, and neither \
             . nor .."
                .into(),
        ),
    ] {
        let listen = format!("127.0.0.1:1,{listen}");
        for (args, envs, name) in [
            (&["--listen", &listen][..], &[][..], "--listen"),
            (&[], &[("LINEHUB_LISTEN", &*listen)], "LINEHUB_LISTEN"),
        ] {
            let exit = run(args, envs);
            let expected = format!("linehub: {name}: 127.0.0.1:1: {expected}\n");
            assert_eq!((exit.code, &*exit.stdout), (Some(2), ""), "{}", exit.stderr);
            assert_eq!(exit.stderr, expected);
        }
    }
}

#[test]
fn whoever_goes_by_the_history_needs_one() {
    for (args, expected) in [
        (
            &["--history-dir", "/nowhere"][..],
            "--history-dir: needs --history, too, or history of a channel",
        ),
        (
            &["--history-age", "1h"],
            "--history-age: needs --history, too, or history of a channel",
        ),
        (
            &["--history", "1MiB", "--history-sync", "always"],
            "--history-sync: needs --history-dir, too",
        ),
        (
            &["--history", "1KiB"],
            "--history: '1KiB' is too small; allowed: 64KiB to 1TiB, such as 64MiB or 1GiB, or 0 or off for none",
        ),
        (
            &["--slow-client", "catch-up"],
            "--slow-client: catch-up needs history, and channel main keeps none",
        ),
        (
            &["--listen", "127.0.0.1:1,history=20"],
            "--listen: 127.0.0.1:1: history: channel main keeps none; allowed: with --history, or history \
             of that channel",
        ),
    ] {
        for check in [&[][..], &["--check"]] {
            let exit = run(&[check, args].concat(), &[]);
            assert_eq!((exit.code, &*exit.stdout), (Some(2), ""), "{}", exit.stderr);
            assert_eq!(exit.stderr, format!("linehub: {expected}\n"));
        }
    }
}

#[test]
fn commands_refuse_a_channel_or_a_hello_that_cannot_be() {
    let wrong: &[(&[&str], &str)] = &[
        #[cfg(feature = "connect")]
        (
            &["connect", "--channel", "a/b"],
            "--channel: 'a/b' is not a channel name; allowed: 1 to 64 of ",
        ),
        #[cfg(feature = "connect")]
        (
            &["connect", "--hello", "channel=caf\u{e9}"],
            "--hello: has a '\\u{e9}' in it; allowed: printable ASCII such as 'channel=nmea since=5m', ",
        ),
        #[cfg(feature = "bench")]
        (
            &["bench", "--channel", ""],
            "--channel: '' is not a channel name; allowed: 1 to 64 of ",
        ),
    ];
    for (args, expected) in wrong {
        let exit = run(args, &[]);
        assert_eq!((exit.code, &*exit.stdout), (Some(2), ""), "{}", exit.stderr);
        assert!(
            exit.stderr.starts_with(&format!("linehub: {expected}")),
            "{}",
            exit.stderr
        );
        assert_eq!(exit.stderr.lines().count(), 1, "{}", exit.stderr);
    }
}

#[test]
fn channels_that_a_reload_changes_are_named() {
    let mut daemon = Configured::start(&[], "[channel.nmea]\nbuffer = '1MiB'\n");
    let line = daemon.reload_well("[channel.nmea]\nbuffer = '2MiB'\n[channel.log]\n");
    assert!(line.ends_with("changed=channel.log,channel.nmea"), "{line}");
    let line = daemon
        .reload_well("open-channels = 5\nhello-timeout = '2s'\n[channel.nmea]\nbuffer = '2MiB'\n");
    assert!(
        line.ends_with("changed=open-channels,hello-timeout,channel.log"),
        "{line}"
    );
    let reason = daemon.reload_badly("[channel.nmea]\nbuffer = 0\n");
    assert!(
        reason.contains("linehub.toml:2: channel.nmea: buffer: cannot be 0"),
        "{reason}"
    );
}

#[test]
fn a_mistake_in_the_file_is_one_line_with_file_line_key_and_what_is_allowed() {
    for (text, expected) in [
        (
            "echo = true\nmax_line = '1KiB'\n",
            ":2: max_line: no such option; did you mean max-line?",
        ),
        (
            "\n\nbuffer = 'much'\n",
            ":3: buffer: 'much' is not a size; allowed: 4 KiB to ",
        ),
        (
            "slow-grace = 1",
            ":1: slow-grace: '1' has no unit, write 1s or 1ms; allowed: ",
        ),
        (
            "log = 'loud'",
            ":1: log: 'loud' is not a level; allowed: error, warn, info, debug or trace",
        ),
        (
            "listen = [\n'h:1',\n'h:x']",
            ":3: listen: 'h:x' has no port number after the ':'; allowed: ",
        ),
        (
            "listen = [\n'h:1',\n{ address = 'h:2',\n  role = 'x' }]",
            ":4: listen: h:2: role: 'x' is not a role; allowed: both, publish or subscribe",
        ),
        (
            "[[listen]]\naddress = 'h:1'\nzzz = true",
            ":3: listen: h:1: zzz: no such option; allowed: address, allow, channel, ",
        ),
        (
            "[[listen]]\nformat = 'json'",
            ":1: listen: address: is missing; allowed: HOST:PORT, [IPV6]:PORT or unix:PATH",
        ),
        (
            "\n[channel.nmea]\nbufer = 1",
            ":3: channel.nmea: bufer: no such option; did you mean buffer?",
        ),
        (
            "[channel.\"a\\nb\"]",
            ":1: channel.a\\nb: 'a\\nb' is not a channel name; allowed: 1 to 64 of ",
        ),
        (
            "history = '1MiB'\nslow-client = 'catch-up'\n[channel.nmea]\nhistory = 0\n",
            ":4: channel.nmea: history: catch-up needs history, and channel nmea keeps none",
        ),
        (
            "[channel.nmea]\nhistory-age = '1h'\n",
            ":2: channel.nmea: history-age: channel nmea keeps none; allowed: ",
        ),
        ("echo =\n", ":1: "),
    ] {
        let file = File::new(text);
        for args in [
            &["--config", file.name()][..],
            &["--check", "--config", file.name()],
        ] {
            let exit = run(args, &[]);
            assert_eq!((exit.code, &*exit.stdout), (Some(2), ""), "{}", exit.stderr);
            let start = format!("linehub: {}{expected}", file.name());
            assert!(exit.stderr.starts_with(&start), "{start} {}", exit.stderr);
            assert_eq!(exit.stderr.lines().count(), 1, "{}", exit.stderr);
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_one_line_with_its_name_and_exit_2() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.toml");
    let missing = missing.to_str().unwrap();
    for (args, envs) in [
        (&["--config", missing][..], &[][..]),
        (&[], &[("LINEHUB_CONFIG", missing)]),
        (&["--config", dir.path().to_str().unwrap()], &[]),
    ] {
        let exit = run(args, envs);
        assert_eq!(exit.code, Some(2), "{}", exit.stderr);
        let name = dir.path().to_str().unwrap();
        assert!(exit.stderr.contains(name), "{}", exit.stderr);
        assert!(exit.stderr.contains("cannot be read: "), "{}", exit.stderr);
        assert_eq!(exit.stderr.lines().count(), 1, "{}", exit.stderr);
    }
}

#[test]
fn what_generate_config_prints_is_accepted() {
    let file = File::new(&run(&["generate", "config"], &[]).stdout);
    let exit = run(&["--check", "--config", file.name()], &[]);
    assert_eq!(exit.code, Some(0), "{}", exit.stderr);
    assert_eq!(exit.stdout, "configuration ok\n");
}

#[test]
fn every_shell_has_completions_for_every_option() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let exit = run(&["generate", "completions", shell], &[]);
        assert_eq!((exit.code, &*exit.stderr), (Some(0), ""), "{shell}");
        for word in ["max-line", "config", "generate", "completions"] {
            assert!(exit.stdout.contains(word), "{shell}: {word}");
        }
    }
}

/// What the script for bash offers for the last of these words.
fn bash_offers(words: &[&str]) -> Option<Vec<String>> {
    let script = run(&["generate", "completions", "bash"], &[]).stdout;
    let (last, all) = (words.len(), words.join(" "));
    let [.., previous, current] = [&["", "linehub"], words].concat()[..] else {
        panic!("no words")
    };
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a-file.toml"), "").unwrap();
    let completed = Command::new(tool("bash")?)
        .current_dir(dir.path())
        .args(["--norc", "-c"])
        .arg(format!(
            "{script}\ncompopt() {{ :; }}\nCOMP_WORDS=(linehub {all}) COMP_CWORD={last}\n\
             _linehub linehub '{current}' '{previous}'\nprintf '%s\\n' \"${{COMPREPLY[@]}}\""
        ))
        .output()
        .unwrap();
    assert!(completed.stderr.is_empty(), "{completed:?}");
    let offers = String::from_utf8(completed.stdout).unwrap();
    Some(offers.split_whitespace().map(str::to_owned).collect())
}

#[test]
fn bash_offers_known_values_files_where_one_is_wanted_and_else_nothing() {
    let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
    for (typed, expected) in [
        (&["--max-l"][..], "--max-line"),
        (&["--format", ""], "text json raw"),
        (&["--format", "j"], "json"),
        // As bash takes `--format=j` apart.
        (&["--format", "=", "j"], "json"),
        (&["--log", ""], "error warn info debug trace"),
        (&["--half-close", ""], "close keep"),
        (&["--slow-client", ""], "disconnect skip catch-up"),
        (&["--long-line", ""], "close discard"),
        (&["--echo", "=", ""], "true false"),
        (&["--config", ""], "a-file.toml"),
        (&["bench", "--plot", ""], "a-file.toml"),
        (&["bench", "--format", ""], "text json raw"),
        (
            &["bench", "--sweep", ""],
            "senders= readers= size= rate= stuck=",
        ),
        (&["connect", "--retry", "=", ""], "true false"),
        (&["generate", "completions", "z"], "zsh"),
    ] {
        let Some(offers) = bash_offers(typed) else {
            return;
        };
        assert_eq!(offers, words(expected), "{typed:?}");
    }
    for typed in [
        &["--listen", ""][..],
        &["--max-line", ""],
        &["--admin", ""],
        &["--check-h"],
        &["a-f"],
        &["bench", "--rate", ""],
        &["connect", "--channel", ""],
        &["connect", "--hello", ""],
        &["bench", "--sweep", "readers", "=", ""],
        &["connect", "a-f"],
        &["status", "--admin", ""],
    ] {
        assert_eq!(bash_offers(typed), Some(vec![]), "{typed:?}");
    }
    let script = run(&["generate", "completions", "bash"], &[]).stdout;
    assert!(
        !script.contains("-o default"),
        "bash would offer files instead"
    );
}

#[test]
fn zsh_and_fish_offer_known_values_and_nothing_that_is_hidden() {
    let zsh = run(&["generate", "completions", "zsh"], &[]).stdout;
    for words in [
        ":FMT:(text json raw)'",
        ":LEVEL:(error warn info debug trace)'",
        ":close|keep:(close keep)'",
        ":disconnect|skip|catch-up:(disconnect skip catch-up)'",
        ":NAME=A,B,...:(senders= readers= size= rate= stuck=)'",
        ":FILE:_files'",
        ":DIR:_files -/'",
        ":HOST\\:PORT|unix\\:PATH:'",
        ":SIZE:'",
    ] {
        assert!(zsh.contains(words), "{words} in {zsh}");
    }
    assert!(!zsh.contains("_default'"), "{zsh}");

    let fish = run(&["generate", "completions", "fish"], &[]).stdout;
    let line = |option: &str, after: &str| {
        let mut lines = fish.lines().skip_while(|line| !line.contains(option));
        let line = lines.next().expect("the option");
        assert!(line.contains(after), "{line}");
    };
    line("-l format ", "-r -f -a \"text\\t''");
    line("-l log ", "-r -f -a \"error\\t''");
    line("-l half-close ", "-r -f -a \"close\\t''");
    line("-l slow-client ", "-r -f -a \"disconnect\\t''");
    line("-l sweep ", "-r -f -a \"senders=\\t''");
    line("-l max-line ", "-r -f");
    line("-l config ", "-r -F");
    line("-l tokens ", "-r -F");
    line(
        "-l history-dir ",
        "-r -f -a \"(__fish_complete_directories)\"",
    );
    line("-l role ", "-r -f -a \"both\\t''");
    assert!(!zsh.contains("handover") && !fish.contains("handover"));
}

#[test]
fn the_man_page_is_read_without_complaint() {
    let Some(man) = tool("man") else { return };
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("linehub.1");
    fs::write(&page, run(&["generate", "man"], &[]).stdout).unwrap();
    let mut man = Program::spawn(
        Command::new(man)
            .args(["--warnings=w", "-l"])
            .arg(&page)
            .env("MANWIDTH", "80")
            .env("LC_ALL", "C.UTF-8")
            .env("MANPAGER", "cat"),
    );
    let (status, output) = man.wait_end();
    assert!(status.success());
    let text = String::from_utf8_lossy(&output);
    for words in [
        "EXIT STATUS",
        "LISTENER OPTIONS",
        "role=both|publish|subscribe",
        "SIGHUP",
        "/etc/linehub.toml",
        "--slow-grace",
        "\n       linehub status [OPTIONS]\n",
        "\n       linehub bench [OPTIONS] [HOST:PORT|unix:PATH]\n",
        "\n       --rate <N>\n              Send N lines a second, all senders together",
        "\n       --admin <HOST:PORT|unix:PATH>\n              Ask ",
        "$ linehub bench --rate 1000 --plot latency.svg\n",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
}

#[test]
fn limits_change_for_clients_that_are_connected() {
    let mut daemon = Configured::start(&["--no-notices"], "max-line = 10\n");
    let mut one = Client::connect(&daemon.server);
    let mut two = Client::connect(&daemon.server);
    let line = daemon.reload_well("max-line = 20\nmax-clients = 2\n");
    assert!(line.ends_with("changed=max-clients,max-line"), "{line}");
    one.send_line("12345678901");
    two.expect_message(1, "12345678901");
    let mut refused = Client::dial(daemon.server.addr(0));
    refused.expect_line("Error: server full (2 clients)");

    daemon.reload_well("max-line = 5\nmax-clients = 3\n");
    one.send_line("12345");
    two.expect_message(1, "12345");
    one.send_line("123456");
    one.expect_line("Error: line too long (limit 5 bytes)");
    let mut three = Client::connect(&daemon.server);
    two.send_line("hello");
    three.expect_message(2, "hello");
}

#[test]
fn a_line_ends_under_the_limit_it_was_begun_with() {
    let mut daemon = Configured::start(&["--no-notices"], "max-line = 10\n");
    let mut one = Client::connect(&daemon.server);
    let mut two = Client::connect(&daemon.server);
    // The line before shows that the beginning of the next one has been read too.
    one.send_bytes(b"x\n12345");
    two.expect_message(1, "x");
    daemon.reload_well("max-line = 5\n");
    one.send_bytes(b"67890\n12345\n");
    two.expect_message(1, "1234567890");
    two.expect_message(1, "12345");
    one.send_line("123456");
    one.expect_line("Error: line too long (limit 5 bytes)");
}

#[test]
fn timeouts_notices_and_half_close_change_for_clients_that_are_connected() {
    let mut daemon = Configured::start(&[], "no-notices = true\n");
    let mut quiet = Client::connect(&daemon.server);
    let mut keeper = Client::connect(&daemon.server);
    daemon.reload_well("half-close = 'keep'\n");
    let mut other = Client::connect(&daemon.server);
    quiet.expect_line("New client connected: 3");
    keeper.expect_line("New client connected: 3");
    keeper.finish();
    other.send_line("still there?");
    keeper.expect_message(3, "still there?");
    quiet.expect_message(3, "still there?");
    daemon.reload_well("idle-timeout = '50ms'\nno-notices = true\n");
    quiet.expect_line("Error: idle for 0.05s");
    quiet.expect_eof();
}

#[test]
fn a_smaller_buffer_is_full_at_once_and_its_rules_hold() {
    let mut daemon = Configured::start(
        &["--no-notices"],
        "slow-grace = 'forever'\nstall-timeout = 'off'\nbuffer = '64MiB'\n",
    );
    let stuck = Client::connect_stuck(&daemon.server, 0);
    let mut sender = Client::connect(&daemon.server);
    let mut reader = Client::connect(&daemon.server);
    let line = "x".repeat(1000);
    for _ in 0..8000 {
        sender.send_line(&line);
        reader.expect_message(2, &line);
    }
    assert_eq!(daemon.server.count_log("client disconnected"), 0);
    daemon.reload_well("slow-grace = '0'\nstall-timeout = 'off'\nbuffer = '64KiB'\n");
    daemon
        .server
        .wait_log("client disconnected client=1 reason=slow");
    marker(&mut sender, &mut reader);
    drop(stuck);
}

#[test]
fn the_log_level_changes() {
    let mut daemon = Configured::start(&[], "log = 'info'\n");
    daemon.reload_well("log = 'debug'\n");
    let one = Client::connect(&daemon.server);
    // Only the level below shows it.
    daemon.reload_well("log = 'debug'\nmax-clients = 1\n");
    let mut refused = Client::dial(daemon.server.addr(0));
    refused.expect_line("Error: server full (1 clients)");
    daemon.server.wait_log("DEBUG connection refused");
    drop(one);

    let file = File::new("log = 'error'\n");
    let mut server = Launch::new(&["--config", file.name()])
        .env("RUST_LOG", "linehub=info")
        .start();
    server.signal(Signal::HUP);
    server.wait_log("configuration reloaded");
    server.wait_log_count("phase=running", 2);
    server.stop();
}

#[test]
fn listeners_open_and_close_and_clients_stay() {
    let (kept, closed, added) = (free_port(), free_port(), free_port());
    let mut daemon = Configured::start(
        &[],
        &format!("no-notices = true\nlisten = ['127.0.0.1:{kept}', '127.0.0.1:{closed}']"),
    );
    let server = &daemon.server;
    server.wait_log(&format!("listening address=127.0.0.1:{closed}"));
    let mut one = Client::dial(&tcp(kept));
    server.wait_log("client connected client=1");
    let mut two = Client::dial(&tcp(closed));
    two.send_line("here");
    one.expect_message(2, "here");

    let path = daemon.file.dir.path().join("hub.sock");
    let line = daemon.reload_well(&format!(
        "no-notices = true\nlisten = ['127.0.0.1:{kept},format=raw', '127.0.0.1:{added}', 'unix:{}']",
        path.display()
    ));
    assert!(line.ends_with("changed=listen"), "{line}");
    let server = &daemon.server;
    server.wait_log(&format!("closed a listener address=127.0.0.1:{closed}"));
    server.wait_log(&format!("listening address=127.0.0.1:{added} format=text"));
    // Accepted until it was closed, refused from then on.
    crate::common::eventually("the port is closed", || {
        TcpStream::connect(("127.0.0.1", closed)).is_err()
    });
    // Its clients stay, and see the stream as they did; who comes now sees it otherwise.
    let mut three = Client::dial(&tcp(added));
    three.send_line("there");
    two.expect_message(3, "there");
    one.expect_message(3, "there");
    let mut raw = Client::dial(&tcp(kept));
    let mut unix = Client::dial(&Address::Unix(path.clone()));
    server.wait_log_count("client connected", 5);
    two.send_line("everybody");
    raw.expect_line("everybody");
    unix.expect_message(2, "everybody");
    one.expect_message(2, "everybody");

    daemon.reload_well(&format!("no-notices = true\nlisten = '127.0.0.1:{kept}'"));
    let closed = format!("closed a listener address=unix:{}", path.display());
    daemon.server.wait_log(&closed);
    crate::common::eventually("the socket's file is removed", || !path.exists());
    daemon.server.stop();
}

#[test]
fn an_address_can_grow_and_shrink_on_its_port() {
    let port = free_port();
    let listen = |address: &str| format!("no-notices = true\nlisten = '{address}:{port}'");
    let mut daemon = Configured::start(&[], &listen("127.0.0.1"));
    for (i, address) in ["0.0.0.0", "127.0.0.1", "[::]", "127.0.0.1"]
        .into_iter()
        .enumerate()
    {
        daemon.reload_well(&listen(address));
        let opened = format!("listening address={address}:{port}");
        daemon.server.wait_log(&opened);
        let mut one = Client::dial(&tcp(port));
        let mut two = Client::dial(&tcp(port));
        daemon
            .server
            .wait_log_count("client connected", 2 * (i + 1));
        one.send_line("x");
        two.read_line();
    }
    assert!(TcpListener::bind(("127.0.0.1", port)).is_err(), "taken");
}

/// A listener that goes away lends its port to the one that takes its place, and to nobody else.
#[test]
fn reload_never_takes_a_port_that_another_daemon_has() {
    let listen = |port: u16| format!("no-notices = true\nlisten = '127.0.0.1:{port}'");
    let (port, other_port) = (free_port(), free_port());
    // It has shared its port before, which the kernel remembers of it.
    let mut other = Configured::start(&[], &format!("listen = '0.0.0.0:{other_port}'"));
    other.reload_well(&listen(other_port));
    let mut daemon = Configured::start(&[], &listen(port));
    let reason = daemon.reload_badly(&listen(other_port));
    let wanted = format!("cannot listen on 127.0.0.1:{other_port}: Address already in use");
    assert!(reason.contains(&wanted), "{reason}");
    let mut one = Client::dial(&tcp(port));
    let mut two = Client::dial(&tcp(port));
    daemon.server.wait_log_count("client connected", 2);
    one.send_line("as before");
    assert!(two.read_line().ends_with(": as before"));
    assert_eq!(
        daemon.reload_well(&listen(port)).rsplit("INFO ").next(),
        Some("configuration reloaded changed=nothing")
    );
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let port = free_port();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let good = format!("no-notices = true\nmax-line = 10\nlisten = '127.0.0.1:{port}'\n");
    let mut daemon = Configured::start(&[], &good);
    let mut one = Client::dial(&tcp(port));
    let mut two = Client::dial(&tcp(port));
    daemon.server.wait_log_count("client connected", 2);
    for (text, reason) in [
        (
            "max-line = 1\nzzz = 1\n".to_owned(),
            "linehub.toml:2: zzz: no such option".to_owned(),
        ),
        (
            "max-line = 1\nlog = \n".to_owned(),
            "linehub.toml:2: ".to_owned(),
        ),
        (
            format!("max-line = 1\nlisten = ['127.0.0.1:0', '{taken}']"),
            format!("cannot listen on {taken}: Address already in use"),
        ),
    ] {
        let listening = daemon.server.count_log("listening");
        let line = daemon.reload_badly(&text);
        assert!(line.contains(&reason), "{line}");
        one.send_line("1234567890");
        two.expect_message(1, "1234567890");
        assert_eq!(daemon.server.count_log("listening"), listening);
        assert_eq!(daemon.server.count_log("closed a listener"), 0);
    }
    fs::remove_file(&daemon.file.path).unwrap();
    daemon.server.signal(Signal::HUP);
    daemon.server.wait_log_count("phase=running", 5);
    daemon.server.wait_log_count("ERROR nothing changed", 4);
    let mut three = Client::dial(&tcp(port));
    three.send_line("12345678901");
    three.expect_line("Error: line too long (limit 10 bytes)");
    daemon.reloads += 1;
    daemon.reload_well(&good.replace("10", "11"));
    one.send_line("12345678901");
    two.expect_message(1, "12345678901");
}

#[test]
fn what_needs_a_restart_is_named_each_time() {
    let mut daemon = Configured::start(&["--no-notices"], "worker-threads = 2\n");
    for times in 1..=2 {
        let line = daemon.reload_well(
            "worker-threads = 1\necho = true\nmax-line = 10\nhistory = '1MiB'\nhistory-dir = '/nowhere'\n",
        );
        assert!(
            line.ends_with(if times == 1 {
                "changed=max-line,history"
            } else {
                "changed=nothing"
            }),
            "{line}"
        );
        for option in ["worker-threads", "echo", "history-dir"] {
            let words = format!("WARN option={option} takes effect at the next restart");
            daemon.server.wait_log_count(&words, times);
        }
    }
    let mut one = Client::connect(&daemon.server);
    let mut two = Client::connect(&daemon.server);
    one.send_line("x");
    two.expect_message(1, "x");
    two.send_line("y");
    one.expect_message(2, "y");
    // Fewer clients than there are: nobody goes.
    daemon.reload_well("worker-threads = 2\nmax-clients = 1\n");
    marker(&mut one, &mut two);
}

#[test]
fn without_a_file_a_reload_finds_nothing_new() {
    let mut server = Server::start(&["--max-line=10"]);
    server.signal(Signal::HUP);
    let line = server.wait_log("configuration reloaded");
    assert!(line.ends_with("changed=nothing"), "{line}");
    server.wait_log_count("phase=running", 2);
    server.stop();
}

#[test]
fn sigterm_during_a_reload_stops() {
    let file = File::new("");
    let mut server = Launch::new(&["--config", file.name()]).start();
    // A file that never ends to be read.
    fs::remove_file(&file.path).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &file.path, rustix::fs::Mode::RUSR).unwrap();
    server.signal(Signal::HUP);
    server.wait_log("phase=reloading");
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    one.expect_line("New client connected: 2");
    marker(&mut two, &mut one);
    server.signal(Signal::TERM);
    one.expect_line("Server shutting down");
    two.expect_line("Server shutting down");
    drop((one, two));
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(0));
}

#[test]
fn the_service_manager_hears_of_every_reload_and_of_its_end() {
    let manager = Manager::start();
    let file = File::new("");
    let server = manager.launch(&["--config", file.name()]).start();
    manager.wait("READY=1");
    for text in ["max-line = 10", "zzz = 1", ""] {
        file.write(text);
        server.signal(Signal::HUP);
        manager.wait("RELOADING=1");
        manager.wait("READY=1");
    }
    let states: Vec<_> = manager
        .messages()
        .into_iter()
        .filter(|message| message.has("READY=1") || message.has("RELOADING=1"))
        .collect();
    for (i, message) in states.iter().enumerate() {
        assert_eq!(message.has("READY=1"), i % 2 == 0, "{}", message.text);
        assert_eq!(message.value("MONOTONIC_USEC").is_some(), i % 2 == 1);
    }
}

#[test]
fn inherited_sockets_stay_and_change_their_format() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let manager = Manager::start();
    let file = File::new("");
    let server = manager
        .launch(&["--no-notices", "--config", file.name()])
        .pass("json", OwnedFd::from(socket))
        .start();
    let mut json = Client::connect(&server);
    for (i, (text, format)) in [
        ("max-line = 10".to_owned(), "json"),
        (format!("listen = '{address},format=raw'"), "raw"),
        ("listen = '127.0.0.1:0'".to_owned(), "json"),
    ]
    .into_iter()
    .enumerate()
    {
        file.write(&text);
        server.signal(Signal::HUP);
        server.wait_log_count("configuration reloaded", i + 1);
        let mut other = Client::dial(&Address::Tcp(address));
        let mut sender = Client::connect(&server);
        sender.send_line("x");
        match format {
            "raw" => other.expect_line("x"),
            _ => assert_eq!(other.read_json()["data"], "x"),
        }
        assert_eq!(json.read_json()["data"], "x");
    }
    // The address that is listened on by default was never opened.
    assert_eq!(server.count_log("address=127.0.0.1:2345"), 0);
    assert_eq!(server.count_log("closed a listener"), 0);
}
