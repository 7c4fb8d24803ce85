use std::time::Duration;

use super::listener::LISTEN;
use super::raw::{Options, RawValue, ValueSource};
use super::spec::Difference;
use super::*;
use crate::wire::channel::ChannelName;
use crate::wire::format::Format;

fn config(options: Options) -> Config {
    Config::from_options(&options, 1024).unwrap()
}

fn refused(options: Options) -> String {
    Config::from_options(&options, 1024)
        .unwrap_err()
        .to_string()
}

/// Options typed as flags, one value each.
fn typed<const N: usize>(options: [(&'static str, &str); N]) -> Options {
    let values = |(name, text): (_, &str)| (name, vec![text.into()]);
    options.into_iter().map(values).collect()
}

fn listen(texts: &[&str]) -> Options {
    let listen = texts.iter().map(|text| RawValue::from(*text)).collect();
    Options::from_iter([("listen", listen)])
}

fn tcp(host: &str, port: u16) -> Address {
    Address::Tcp {
        host: host.into(),
        port,
    }
}

#[test]
fn nothing_typed_gives_the_documented_defaults() {
    let defaults = ListenerDefaults::new(Format::Text);
    let listen = ListenerOptions::new(tcp("127.0.0.1", 2345), &defaults);
    let main = ChannelOptions {
        buffer_bytes: 67_108_864,
        slow_client: SlowClient::Disconnect,
        slow_grace: Grace::For(Duration::from_secs(1)),
        history_bytes: 0,
        history_age: None,
        notices: true,
        local: false,
    };
    let expected = Config {
        tls_cert: None,
        tls_key: None,
        tls_client_ca: None,
        tls_crl: None,
        listen: vec![listen.into()],
        listen_given: false,
        channels: [(ChannelName::main(), main)].into(),
        format: Format::Text,
        echo: false,
        notices: true,
        half_close: HalfClose::Close,
        allow: Vec::new(),
        deny: Vec::new(),
        clients_per_address_max: None,
        connects_per_address: None,
        clients_max: Some(960),
        line_bytes_max: 65_536,
        long_line: LongLine::Close,
        tokens: None,
        http_guard: true,
        http_origins: Vec::new(),
        rate_lines: None,
        rate_bytes: None,
        buffer_bytes: 67_108_864,
        slow_client: SlowClient::Disconnect,
        slow_grace: Grace::For(Duration::from_secs(1)),
        stall_timeout: Some(Duration::from_secs(30)),
        history_bytes: 0,
        history_age: None,
        history_dir: None,
        history_sync: HistorySync::Os,
        on_history_error: OnHistoryError::Stop,
        nats: Vec::new(),
        nats_replicas: 1,
        nats_creds: None,
        nats_nkey: None,
        nats_ca: None,
        nats_cert: None,
        nats_key: None,
        open_channels: 0,
        hello_timeout: Duration::from_secs(10),
        idle_timeout: None,
        drain_timeout: Duration::from_secs(5),
        admin: None,
        admin_hosts: Vec::new(),
        worker_threads: std::thread::available_parallelism().unwrap().get(),
        log: LogLevel::Info,
    };
    assert_eq!(config(Options::default()), expected);
}

#[test]
fn auto_is_the_default_in_words() {
    let auto = config(typed([("max-clients", "auto"), ("worker-threads", "auto")]));
    assert_eq!(auto, config(Options::default()));
}

#[test]
fn differences_are_the_names_of_options() {
    let default = config(Options::default());
    let differences = |other: &Config| {
        let options = default.differences(other).into_iter();
        options
            .map(|option| option.name.into_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(differences(&default), [""; 0]);
    // Those of NATS are for a linehub that has it, and an nkey is not for one with credentials.
    let is_taken = |option: &&OptionSpec| {
        (cfg!(feature = "nats") || !option.name.starts_with("nats")) && option.name != "nats-nkey"
    };
    let all = || OPTIONS.iter().filter(is_taken);
    let other = all().map(|option| {
        let text = match option.name {
            "format" => "json",
            "echo" | "no-notices" => "true",
            "half-close" => "keep",
            "http-guard" => "off",
            "http-origin" => "https://feed.example",
            "long-line" => "discard",
            "slow-client" => "skip",
            "history" => "77MiB",
            "history-dir" => "/x",
            "history-sync" => "always",
            "history-error" => "drop",
            "log" => "debug",
            "admin" => "unix:/x",
            "admin-host" => "status.example",
            "tokens" => "/dev/null",
            "listen" => "127.0.0.1:1",
            "allow" | "deny" => "10.0.0.0/8",
            "max-clients" | "max-clients-per-address" | "worker-threads" | "open-channels" => "77",
            "connects-per-address" => "77/s",
            "nats-replicas" => "3",
            "max-line" | "buffer" => "7777",
            "rate-lines" | "rate-bytes" => "77/s",
            _ => "77s",
        };
        (option.name, vec![text.into()])
    });
    let other = config(other.collect());
    let all: Vec<_> = all().map(|option| option.name).collect();
    assert_eq!(differences(&other), all);

    // With the default format, that of the listeners changes; and a listener that is typed is not the
    // default, even at its address.
    let json = config(typed([("format", "json")]));
    assert_eq!(differences(&json), ["listen", "format"]);
    assert_eq!(differences(&config(listen(&[LISTEN]))), ["listen"]);
}

#[test]
fn channels_that_come_go_or_change_are_differences() {
    let config = |text: &str| {
        let options = parse(text, "linehub.toml".as_ref()).unwrap();
        Config::from_options(&options, 1024).unwrap()
    };
    let before = config("[channel.a]\nbuffer = 5000\n[channel.b]\n[channel.c]\nnotices = false");
    for (text, expected) in [
        (
            "[channel.a]\nbuffer = 5000\n[channel.c]\nnotices = false",
            &["channel.b"][..],
        ),
        (
            "[channel.a]\nbuffer = 6000\n[channel.b]\nslow-client = 'skip'\n[channel.c]\n[channel.d]",
            &["channel.a", "channel.b", "channel.c", "channel.d"],
        ),
        // A channel that has nothing of its own goes by the daemon's options without being named.
        (
            "buffer = 9000\n[channel.a]\nbuffer = 5000\n[channel.b]\n[channel.c]\nnotices = false",
            &["buffer"],
        ),
        (
            "listen = 'h:1,channel=e'\n[channel.a]\nbuffer = 5000\n[channel.b]\n[channel.c]\nnotices = false\n\
             [channel.main]\nslow-grace = 0",
            &["listen", "channel.e", "channel.main"],
        ),
    ] {
        let differences = before.differences(&config(text));
        let names: Vec<_> = differences
            .iter()
            .map(|difference| &*difference.name)
            .collect();
        assert_eq!(names, expected, "{text}");
        let at_once = |difference: &Difference| difference.applies == Applies::AtOnce;
        assert!(differences.iter().all(at_once));
    }
}

#[test]
fn only_what_needs_a_restart_is_kept_until_then() {
    let running = config(Options::default());
    let mut next = config(typed([
        ("echo", "true"),
        ("worker-threads", "77"),
        ("buffer", "7777"),
    ]));
    next.keep_until_restart(&running);
    assert_eq!(next, config(typed([("buffer", "7777")])));
}

#[test]
fn histories_on_disk_begin_and_end_with_a_restart() {
    let config = |text: &str| {
        let options = parse(text, "linehub.toml".as_ref()).unwrap();
        Config::from_options(&options, 1024).unwrap()
    };
    let reload = |before: &str, after: &str| {
        let (running, mut next) = (config(before), config(after));
        let differences = running.differences(&next);
        let at_restart = |difference: &&Difference| difference.applies == Applies::AtRestart;
        let late = differences.iter().filter(at_restart);
        let late: Vec<_> = late.map(|one| one.name.clone().into_owned()).collect();
        next.keep_until_restart(&running);
        let of = |name: &str| next.channel_options(&name.parse().unwrap()).history_bytes;
        (late.join(" "), [of("main"), of("a"), of("opened")])
    };
    let mib = 1 << 20;
    let dir = "history-dir = '/x'\n[channel.a]\nhistory = '1MiB'";
    let table = "[channel.a]\nhistory = '1MiB'";
    for (before, after, late, kept) in [
        // In memory at once, in either direction.
        ("", "history = '1MiB'", "", [mib; 3]),
        ("history = '1MiB'", "", "", [0; 3]),
        ("", table, "", [0, mib, 0]),
        // A size changes at once on disk, too.
        (
            &format!("history = '2MiB'\n{dir}"),
            &format!("history = '1MiB'\n{dir}"),
            "",
            [mib; 3],
        ),
        (
            dir,
            &format!("history = '1MiB'\n{dir}"),
            "history",
            [0, mib, 0],
        ),
        (
            &format!("history = '1MiB'\n{dir}"),
            "history = '1MiB'\nhistory-dir = '/x'\n[channel.a]\nhistory = 0\nbuffer = 9000",
            "channel.a",
            [mib; 3],
        ),
        (
            &format!("history = '1MiB'\n{dir}"),
            dir,
            "history",
            [mib; 3],
        ),
        // Nothing is given up by a file that forgets it.
        (
            "history = '1MiB'\nhistory-dir = '/x'",
            "",
            "history history-dir",
            [mib; 3],
        ),
        (
            "history = '1MiB'",
            "history = '1MiB'\nhistory-dir = '/x'",
            "history-dir",
            [mib; 3],
        ),
    ] {
        assert_eq!(
            reload(before, after),
            (late.to_owned(), kept),
            "{before} {after}"
        );
    }
}

#[test]
fn channels_are_shared_or_local_from_a_restart_on() {
    let config = |text: &str| {
        let options = parse(text, "linehub.toml".as_ref()).unwrap();
        Config::from_options(&options, 1024).unwrap()
    };
    let running = config("[channel.a]\nlocal = true\n[channel.b]");
    let mut next = config(
        "[channel.main]\nlocal = true\n[channel.a]\nbuffer = 5000\n[channel.b]\nbuffer = 5000\n\
         [channel.c]\nlocal = true",
    );
    let differences = running.differences(&next);
    let applies: Vec<_> = differences
        .iter()
        .map(|one| (&*one.name, one.applies == Applies::AtOnce))
        .collect();
    let expected = [
        ("channel.a", false),
        ("channel.b", true),
        ("channel.c", true),
        ("channel.main", false),
    ];
    assert_eq!(applies, expected);
    next.keep_until_restart(&running);
    let of = |name: &str| {
        let options = next.channel_options(&name.parse().unwrap());
        (options.local, options.buffer_bytes)
    };
    assert_eq!(
        ["main", "a", "b", "c"].map(of),
        [
            (false, 64 << 20),
            (true, 5000),
            (false, 5000),
            (true, 64 << 20)
        ]
    );
}

#[test]
fn whoever_goes_by_the_history_needs_one() {
    for (options, expected) in [
        (
            typed([("history-age", "1h")]),
            "--history-age: needs --history, too, or history of a channel",
        ),
        (
            typed([("history-dir", "/x")]),
            "--history-dir: needs --history, too, or history of a channel",
        ),
        (
            typed([("history-sync", "always")]),
            "--history-sync: needs --history, too, or history of a channel",
        ),
        (
            typed([("history", "1MiB"), ("history-sync", "1s")]),
            "--history-sync: needs --history-dir, too",
        ),
        (
            typed([("slow-client", "catch-up")]),
            "--slow-client: catch-up needs history, and channel main keeps none",
        ),
        (
            listen(&["h:1,history=20"]),
            "--listen: h:1: history: channel main keeps none; allowed: with --history, or history of \
             that channel",
        ),
        (
            listen(&["h:1", "h:2,channel=nmea,history=5m"]),
            "--listen: h:2: history: channel nmea keeps none; allowed: with --history, or history of \
             that channel",
        ),
    ] {
        assert_eq!(refused(options), expected);
    }
    let open = "slow-client = 'catch-up'\nopen-channels = 1\n[channel.main]\nhistory = '1MiB'";
    let open = parse(open, "linehub.toml".as_ref()).unwrap();
    assert_eq!(
        refused(open),
        "linehub.toml:1: slow-client: catch-up needs history, and channels that clients open keep none"
    );
    for options in [
        typed([
            ("history", "64KiB"),
            ("history-age", "1h"),
            ("history-dir", "/x"),
            ("history-sync", "always"),
            ("slow-client", "catch-up"),
            ("listen", "h:1,history=20"),
        ]),
        typed([
            ("history-age", "off"),
            ("history-dir", "off"),
            ("history-sync", "os"),
        ]),
        listen(&["h:1,history=0"]),
        parse(
            "listen = 'h:1,channel=a,history=1MiB'\nhistory-age = '1h'\nhistory-dir = '/x'\n\
             history-sync = '1s'\n[channel.a]\nhistory = '1MiB'\nslow-client = 'catch-up'",
            "linehub.toml".as_ref(),
        )
        .unwrap(),
    ] {
        config(options);
    }
}

#[test]
fn off_means_off_where_a_limit_can_be_off() {
    let off = config(typed([
        ("max-clients", "off"),
        ("idle-timeout", "off"),
        ("stall-timeout", "0"),
        ("slow-grace", "off"),
    ]));
    assert_eq!(off.clients_max, None);
    assert_eq!(off.idle_timeout, None);
    assert_eq!(off.stall_timeout, None);
    assert_eq!(off.slow_grace, Grace::For(Duration::ZERO));
}

#[test]
fn off_is_refused_with_a_reason_where_there_must_be_a_limit() {
    for (off, expected) in [
        (
            typed([("max-line", "off")]),
            "--max-line: cannot be off: memory would have no bound; allowed: 1 byte to 512 MiB, such as 65536, 64KiB or 1MiB",
        ),
        (
            typed([("drain-timeout", "off")]),
            "--drain-timeout: cannot be off: shutdown needs an end; allowed: 1ms to 10y, such as 5s",
        ),
        (
            typed([("hello-timeout", "0")]),
            "--hello-timeout: cannot be off: who says nothing would stay for ever; allowed: 1ms to 10y, such as 10s",
        ),
        (
            typed([("worker-threads", "0")]),
            "--worker-threads: cannot be 0: something has to do the work; allowed: 1 to 1024, or auto",
        ),
    ] {
        assert_eq!(refused(off), expected);
    }
    let buffer = refused(typed([("buffer", "0")]));
    assert!(buffer.starts_with("--buffer: cannot be 0: memory would have no bound"));
}

#[test]
fn error_names_the_place_where_the_value_was_typed() {
    let file = ValueSource::File {
        path: std::path::Path::new("/etc/linehub.toml").into(),
        line: 3,
    };
    for (place, name) in [
        (ValueSource::Flag, "--max-line"),
        (ValueSource::Environment, "LINEHUB_MAX_LINE"),
        (file, "/etc/linehub.toml:3: max-line"),
    ] {
        let value = RawValue::text("12xy", place);
        let error = refused(Options::from_iter([("max-line", vec![value])]));
        let wrong =
            "'12xy' is not a size; allowed: 1 byte to 512 MiB, such as 65536, 64KiB or 1MiB";
        assert_eq!(error, format!("{name}: {wrong}"));
    }
}

#[test]
fn every_option_is_read_under_its_own_name() {
    for OptionSpec {
        name, placeholder, ..
    } in OPTIONS
    {
        // Any other text may be a path.
        let is_path = ["FILE", "DIR"].contains(placeholder);
        let wrong = if is_path { "" } else { "?" };
        let error = refused(typed([(*name, wrong)]));
        assert!(error.starts_with(&format!("--{name}: ")), "{error}");
        assert!(
            error.contains("; allowed: ") && !error.contains('\n'),
            "{error}"
        );
    }
}

#[test]
fn words_that_shells_complete_are_taken() {
    for option in OPTIONS {
        for word in option.words() {
            config(typed([("history", "1MiB"), (option.name, word)]));
        }
    }
}

#[test]
fn address_given_twice_is_refused_unless_the_port_is_free_choice() {
    assert_eq!(
        refused(listen(&["[::1]:1", "h:1", "[0::1]:1,format=raw"])),
        "--listen: [::1]:1 is given twice; allowed: once"
    );
    assert!(refused(listen(&["unix:/x", "unix:/x"])).contains("unix:/x is given twice"));
    assert_eq!(
        config(listen(&["127.0.0.1:0", "127.0.0.1:0"])).listen.len(),
        2
    );
}
