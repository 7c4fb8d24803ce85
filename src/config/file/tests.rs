use std::time::Duration;

use super::*;
use crate::config::{ChannelOptions, Config, Grace, SlowClient};
use crate::wire::channel::ChannelName;

const PATH: &str = "/etc/linehub.toml";

fn file(text: &str) -> Result<Options, String> {
    parse(text, Path::new(PATH)).map_err(|error| error.to_string())
}

fn typed(text: &str, line: usize) -> RawValue {
    let place = ValueSource::File {
        path: Path::new(PATH).into(),
        line,
    };
    RawValue::text(text, place)
}

#[test]
fn empty_file_sets_nothing() {
    for text in [
        "",
        "\n",
        "# max-line = 1\n",
        "\u{feff}# with a byte order mark\n",
    ] {
        assert_eq!(file(text), Ok(Options::default()), "{text:?}");
    }
}

#[test]
fn every_kind_of_value_is_kept_with_its_line() {
    let options = file(
        "# first\nmax-line = \"64KiB\"\nbuffer = 1_048_576\necho = true\n\nworker-threads = 0x10\n\
         idle-timeout = 1.5\nmax-clients = -3",
    );
    let expected = Options::from_iter([
        ("max-line", vec![typed("64KiB", 2)]),
        ("buffer", vec![typed("1048576", 3)]),
        ("echo", vec![typed("true", 4)]),
        ("worker-threads", vec![typed("16", 6)]),
        ("idle-timeout", vec![typed("1.5", 7)]),
        ("max-clients", vec![typed("-3", 8)]),
    ]);
    assert_eq!(options, Ok(expected));
}

#[test]
fn listen_is_one_address_or_a_list_each_with_its_line() {
    assert_eq!(
        file("listen = 'h:1'"),
        Ok(Options::from_iter([("listen", vec![typed("h:1", 1)])]))
    );
    let several = file("\nlisten = [\n  \"h:1\",\n  # why\n  'unix:/x y,format=raw',\n]\n");
    let expected = [typed("h:1", 3), typed("unix:/x y,format=raw", 5)];
    assert_eq!(several.unwrap().get("listen"), Some(&expected[..]));
}

#[test]
fn every_option_is_a_key() {
    for option in OPTIONS {
        let name = option.name;
        let expected = Options::from_iter([(name, vec![typed("x", 1)])]);
        assert_eq!(file(&format!("{name} = 'x'")), Ok(expected), "{name}");
    }
}

#[test]
fn mistakes_are_named_with_file_line_and_what_is_allowed() {
    let mut all: Vec<_> = OPTIONS.iter().map(|option| option.name).collect();
    all.push("channel");
    all.sort_unstable();
    let unknown = format!("1: zzz: no such option; allowed: {}", all.join(", "));
    for (text, expected) in [
        (
            "echo = true\nmax_line = 1",
            "2: max_line: no such option; did you mean max-line?",
        ),
        (
            "\n\nslow-grce = '1s'",
            "3: slow-grce: no such option; did you mean slow-grace?",
        ),
        ("zzz = 1", &unknown),
        (
            "listen = []",
            "1: listen: is empty; allowed: at least one address",
        ),
        (
            "listen = [\n'h:1',\n 2345]",
            "3: listen: a number is no value for it; allowed: a string, a table, or a list of them",
        ),
        (
            "buffer = ['1MiB']",
            "1: buffer: a list is no value for it; allowed: one value",
        ),
        (
            "[buffer]\nsize = 1",
            "1: buffer: a table is no value for it; allowed: one value",
        ),
    ] {
        assert_eq!(file(text), Err(format!("{PATH}:{expected}")), "{text:?}");
    }
}

#[test]
fn text_that_is_no_toml_is_named_with_its_line() {
    for (text, line) in [
        ("echo = true\nmax-line = 64KiB\n", 2),
        ("echo = true\necho = false\n", 2),
        ("\n\necho", 3),
        ("listen = [\n'h:1'\n", 2),
        ("format = 'text", 1),
    ] {
        let error = file(text).unwrap_err();
        let place = format!("{PATH}:{line}: ");
        assert!(
            error.starts_with(&place) && !error.contains('\n'),
            "{error}"
        );
        assert!(error.len() > place.len(), "{error}");
    }
}

#[test]
fn wrong_value_is_told_as_it_is_everywhere() {
    let error = |text: &str| {
        let options = file(text).unwrap();
        Config::from_options(&options, 1024)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        error("\nmax-line = '12xy'"),
        "/etc/linehub.toml:2: max-line: '12xy' is not a size; allowed: 1 byte to 512 MiB, such \
         as 65536, 64KiB or 1MiB"
    );
    let none = error("listen = ['h:1',\n'nowhere']");
    assert!(
        none.starts_with("/etc/linehub.toml:2: listen: 'nowhere' has no port"),
        "{none}"
    );
}

/// What is wrong with a file, as the daemon says it.
fn mistake(text: &str) -> String {
    let config =
        parse(text, Path::new(PATH)).and_then(|options| Config::from_options(&options, 1024));
    let error = config.expect_err(text).to_string();
    let error = error
        .strip_prefix(PATH)
        .and_then(|rest| rest.strip_prefix(':'));
    error.expect("the file and a line").to_owned()
}

fn config(text: &str) -> Config {
    Config::from_options(&file(text).unwrap(), 1024).unwrap()
}

#[test]
fn listeners_are_texts_or_tables_in_every_way_toml_has() {
    let listeners = |text: &str| {
        let listeners = config(text).listen;
        listeners
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let json = "h:2,format=json,channel=main,role=both,line-end=lf,http-guard=on,hello=on,http=off,history=0,tls=off";
    let plain = "h:1,format=text,channel=main,role=both,line-end=lf,http-guard=on,hello=off,http=off,history=0,tls=off";
    let table = "{ address = 'h:2', format = 'json', hello = true }";
    for text in [
        format!("listen = {table}"),
        format!("listen = [{table}]"),
        "[listen]\naddress = 'h:2'\nhello = 'on'\nformat = 'json'".to_owned(),
        "listen.address = 'h:2'\nlisten.format = 'json'\nlisten.hello = true".to_owned(),
        "[[listen]]\nhello = true\naddress = 'h:2'\nformat = 'json'".to_owned(),
    ] {
        assert_eq!(listeners(&text), [json], "{text}");
    }
    assert_eq!(
        listeners(&format!("listen = ['h:1', {table}]")),
        [plain, json]
    );
    let two =
        "[[listen]]\naddress = 'h:1'\n\n[[listen]]\naddress = 'h:2'\nformat = 'json'\nhello = true";
    assert_eq!(listeners(two), [plain, json]);
    // In a text, a comma ends the path.
    let path = config("listen = { address = 'unix:/a,format=b' }");
    assert_eq!(path.listen[0].address.to_string(), "unix:/a,format=b");
}

#[test]
fn lists_and_octal_numbers_are_values_of_listeners() {
    for (table, expected) in [
        ("allow = '::1'", "allow=::1"),
        (
            "allow = ['::1', '10.1.2.3/8']",
            "allow=::1,allow=10.0.0.0/8",
        ),
        ("allow = []\nproxy = ['::1']", "proxy=::1"),
        ("mode = '0660'", "mode=0660"),
        ("mode = 0o660", "mode=0660"),
        ("mode = 660", "mode=0660"),
    ] {
        let config = config(&format!(
            "deny = '::2'\n[[listen]]\naddress = 'unix:/x'\ndeny = []\n{table}"
        ));
        let listener = config.listen[0].to_string();
        assert!(
            listener.ends_with(&format!(",hello=off,http=off,history=0,tls=off,{expected}")),
            "{listener}"
        );
    }
}

#[test]
fn mistakes_in_tables_of_listeners_are_named_with_the_line_of_the_key() {
    let mut all: Vec<_> = LISTENER_KEYS.iter().map(|key| key.name).collect();
    all.push("address");
    all.sort_unstable();
    let unknown = format!(
        "3: listen: h:1: zzz: no such option; allowed: {}",
        all.join(", ")
    );
    for (text, expected) in [
        (
            "listen = [\n'h:1',\n{ format = 'json' }]",
            "3: listen: address: is missing; allowed: HOST:PORT, [IPV6]:PORT or unix:PATH",
        ),
        (
            "[[listen]]\naddress = 2345",
            "2: listen: address: a number is no value for it; allowed: a string",
        ),
        (
            "[[listen]]\nformat = 'json'\naddress = 'h:x'",
            "3: listen: 'h:x' has no port number after the ':'; allowed: HOST:PORT, [IPV6]:PORT or \
             unix:PATH",
        ),
        (
            "[[listen]]\naddress = 'h:1'\n\nrole = 'x'",
            "4: listen: h:1: role: 'x' is not a role; allowed: both, publish or subscribe",
        ),
        (
            "[[listen]]\nrole = 'x'\nformat = 'x'\naddress = 'h:1'",
            "2: listen: h:1: role: 'x' is not a role; allowed: both, publish or subscribe",
        ),
        (
            "[[listen]]\naddress = 'h:1'\nformt = 'json'",
            "3: listen: h:1: formt: no such option; did you mean format?",
        ),
        ("[[listen]]\naddress = 'h:1'\nzzz = true", &unknown),
        (
            "[[listen]]\naddress = 'h:1'\nformat = ['json']",
            "3: listen: h:1: format: a list is no value for it; allowed: one value",
        ),
        (
            "[[listen]]\naddress = 'h:1'\nchannel = 'open'",
            "3: listen: h:1: channel: 'open' stands in the metrics for all channels that clients \
             opened; allowed: any other name",
        ),
        (
            "[[listen]]\naddress = 'h:1'\nchannel = \"a\\nb\"",
            "3: listen: h:1: channel: 'a\\nb' is not a channel name; allowed: 1 to 64 of A-Z a-z \
             0-9 . _ -, and neither . nor ..",
        ),
        (
            "[[listen]]\naddress = 'h:1'\nallow = [\n'::1',\n'x']",
            "5: listen: h:1: allow: 'x' is not an IP address or network; allowed: such as 10.0.0.0/8, \
             192.168.1.7, 2001:db8::/32 or ::1",
        ),
        (
            "[[listen]]\naddress = 'h:1'\nallow = [['::1']]",
            "3: listen: h:1: allow: a list is no value for it; allowed: one value",
        ),
        (
            "listen = ['h:1,role=x']",
            "1: listen: h:1: role: 'x' is not a role; allowed: both, publish or subscribe",
        ),
        (
            "[[listen]]\naddress = 'h:1'\n[[listen]]\nformat = 'raw'\naddress = 'h:1'",
            "5: listen: h:1 is given twice; allowed: once",
        ),
    ] {
        assert_eq!(mistake(text), expected, "{text}");
    }
}

#[test]
fn tables_of_channels_overrule_the_daemon_for_theirs() {
    let config = config(
        "buffer = '1MiB'\nno-notices = true\nhistory = '1GiB'\nlisten = 'h:1,channel=seen'\n\
         [channel.nmea]\nbuffer = 8192\nslow-client = 'skip'\nslow-grace = 'forever'\nnotices = true\n\
         history = '64KiB'\nhistory-age = '24h'\n\
         [channel.'a.b']\n[channel.main]\nslow-grace = '2s'\nhistory = 0",
    );
    let names: Vec<_> = config.channels.keys().map(ChannelName::as_str).collect();
    assert_eq!(names, ["a.b", "main", "nmea", "seen"]);
    let of = |name: &str| config.channel_options(&name.parse().unwrap());
    let default = ChannelOptions {
        buffer_bytes: 1 << 20,
        slow_client: SlowClient::Disconnect,
        slow_grace: Grace::For(Duration::from_secs(1)),
        history_bytes: 1 << 30,
        history_age: None,
        notices: false,
        local: false,
    };
    for name in ["a.b", "seen", "opened"] {
        assert_eq!(of(name), default, "{name}");
    }
    let nmea = ChannelOptions {
        buffer_bytes: 8192,
        slow_client: SlowClient::Skip,
        slow_grace: Grace::Forever,
        history_bytes: 1 << 16,
        history_age: Some(Duration::from_secs(86_400)),
        notices: true,
        local: false,
    };
    assert_eq!(of("nmea"), nmea);
    let main = ChannelOptions {
        slow_grace: Grace::For(Duration::from_secs(2)),
        history_bytes: 0,
        ..default
    };
    assert_eq!(of("main"), main);
}

#[test]
fn mistakes_in_tables_of_channels_are_named_with_their_line() {
    for (text, expected) in [
        (
            "channel = 'nmea'",
            "1: channel: a string is no value for it; allowed: tables, [channel.NAME]",
        ),
        (
            "[channel]\nnmea = true",
            "2: channel.nmea: true or false is no value for it; allowed: tables, [channel.NAME]",
        ),
        (
            "\n[channel.open]",
            "2: channel.open: 'open' stands in the metrics for all channels that clients opened; \
             allowed: any other name",
        ),
        (
            "[channel.'a/b']",
            "1: channel.a/b: 'a/b' is not a channel name; allowed: 1 to 64 of A-Z a-z 0-9 . _ -, and \
             neither . nor ..",
        ),
        (
            "[channel.\"a\\nb\"]",
            "1: channel.a\\nb: 'a\\nb' is not a channel name; allowed: 1 to 64 of A-Z a-z 0-9 . _ -, \
             and neither . nor ..",
        ),
        (
            "[channel.a.b]\nbuffer = 1",
            "1: channel.a: b: a table is no value for it; allowed: one value, and a name with a dot \
             is quoted: [channel.\"a.b\"]",
        ),
        (
            "[channel.a]\n\nslow-grce = '1s'",
            "3: channel.a: slow-grce: no such option; did you mean slow-grace?",
        ),
        (
            "[channel.a]\nkeep = '1MiB'",
            "2: channel.a: keep: no such option; allowed: buffer, history, history-age, local, notices, \
             slow-client, slow-grace",
        ),
        (
            "[channel.a]\nhistory = '1KiB'",
            "2: channel.a: history: '1KiB' is too small; allowed: 64KiB to 1TiB, such as 64MiB or 1GiB, or \
             0 or off for none",
        ),
        (
            "[channel.a]\nhistory-age = '1h'",
            "2: channel.a: history-age: channel a keeps none; allowed: with --history, or history of that \
             channel",
        ),
        (
            "[channel.a]\nslow-client = 'catch-up'",
            "2: channel.a: slow-client: catch-up needs history, and channel a keeps none",
        ),
        (
            "slow-client = 'catch-up'\nhistory = '1MiB'\n[channel.a]\n\nhistory = 0",
            "5: channel.a: history: catch-up needs history, and channel a keeps none",
        ),
        (
            "slow-client = 'catch-up'\n[channel.a]\nhistory = '1MiB'",
            "1: slow-client: catch-up needs history, and channel main keeps none",
        ),
        (
            "[channel.a]\nslow-client = 'kill'",
            "2: channel.a: slow-client: 'kill' is unknown; allowed: disconnect, skip or catch-up",
        ),
        (
            "[channel.a]\nslow-grace = [1]",
            "2: channel.a: slow-grace: a list is no value for it; allowed: one value",
        ),
        (
            "[channel.a]\nnotices = 'x'",
            "2: channel.a: notices: 'x' is neither true nor false; allowed: true, yes, on, 1, false, \
             no, off or 0",
        ),
    ] {
        assert_eq!(mistake(text), expected, "{text}");
    }
    let buffer = mistake("[channel.a]\nbuffer = 0");
    let wrong = "2: channel.a: buffer: cannot be 0: memory would have no bound; allowed: 4 KiB to ";
    assert!(buffer.starts_with(wrong), "{buffer}");
}
