use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::Config;
use crate::config::raw::Options;

const DEFAULTS: &ListenerDefaults = &ListenerDefaults::new(Format::Text);

fn read(text: &str) -> Result<ListenerOptions, String> {
    ListenerOptions::read(&text.into(), DEFAULTS).map_err(|error| error.to_string())
}

#[test]
fn every_key_sets_its_field() {
    let text = "unix:/x,format=json,channel=nmea,role=publish,line-end=any,http-guard=off,hello,history=20,\
         allow=10.0.0.0/8,deny=::1,allow=10.1.2.3,proxy=127.0.0.1,mode=0660,group=dialout";
    let net = |text: &str| network(text).unwrap();
    let expected = ListenerOptions {
        tls: false,
        http: false,
        tls_cert: None,
        tls_key: None,
        address: "unix:/x".parse().unwrap(),
        format: Format::Json,
        channel: "nmea".parse().unwrap(),
        role: Role::Publish,
        line_end: LineEnd::Any,
        http_guard: false,
        hello: true,
        history: Newest::Messages(20),
        allow: vec![net("10.0.0.0/8"), net("10.1.2.3")],
        deny: vec![net("::1")],
        proxy: vec![net("127.0.0.1")],
        mode: Some(0o660),
        group: Some("dialout".to_owned()),
    };
    assert_eq!(read(text), Ok(expected));
}

#[test]
fn keys_that_are_left_out_have_their_defaults() {
    let options = read("unix:/x,hello=no").unwrap();
    assert_eq!(options, ListenerOptions::unlisted("unix:/x", DEFAULTS));
    let channel = options.channel.as_str();
    assert_eq!(
        (channel, options.role, options.line_end),
        ("main", Role::Both, LineEnd::Lf)
    );
    assert!(options.http_guard && !options.hello);

    let listen = ["h:1", "h:2,format=raw,http-guard", "h:3,http-guard=on"];
    let options = Options::from_iter([
        ("format", vec!["json".into()]),
        ("http-guard", vec!["off".into()]),
        ("listen", listen.map(RawValue::from).to_vec()),
    ]);
    let config = Config::from_options(&options, 1024).unwrap();
    let of = |at: usize| (config.listen[at].format, config.listen[at].http_guard);
    assert_eq!(of(0), (Format::Json, false));
    assert_eq!(of(1), (Format::Raw, true));
    assert_eq!(of(2), (Format::Json, true));
    assert_eq!(config.listener_defaults().format, Format::Json);
}

#[test]
fn lists_of_a_listener_take_the_place_of_those_of_the_daemon() {
    let listen = ["h:1", "h:2,allow=::1,allow=::2", "h:3,deny=none"];
    let options = Options::from_iter([
        ("allow", vec!["10.0.0.0/8".into()]),
        ("deny", vec!["10.1.0.0/16".into(), "10.2.0.0/16".into()]),
        ("listen", listen.map(RawValue::from).to_vec()),
    ]);
    let config = Config::from_options(&options, 1024).unwrap();
    let lists = config.listen.iter().map(|listener| {
        let shown = |networks| crate::config::show_all(networks);
        (shown(&listener.allow), shown(&listener.deny))
    });
    let lists: Vec<_> = lists.collect();
    let listed = |allow: &str, deny: &str| (allow.to_owned(), deny.to_owned());
    assert_eq!(
        lists,
        [
            listed("10.0.0.0/8", "10.1.0.0/16 10.2.0.0/16"),
            listed("::1 ::2", "10.1.0.0/16 10.2.0.0/16"),
            listed("10.0.0.0/8", ""),
        ]
    );
}

#[test]
fn long_lists_are_not_in_the_alternate_form() {
    let options = read("unix:/x,allow=::1,mode=0660,proxy=::2").unwrap();
    let text = format!("{options:#}");
    assert!(
        !text.contains("::") && text.ends_with(",hello=off,http=off,history=0,tls=off,mode=0660"),
        "{text}"
    );
    let restored = ListenerOptions::restore(&text).unwrap();
    let without = ListenerOptions {
        allow: Vec::new(),
        proxy: Vec::new(),
        ..options
    };
    assert_eq!(restored, without);
}

#[test]
fn switch_is_read_as_everywhere() {
    for (text, expected) in [
        ("hello", true),
        ("hello=on", true),
        ("hello=true", true),
        ("hello=1", true),
        ("hello=off", false),
        ("hello=false", false),
    ] {
        assert_eq!(
            read(&format!("h:1,{text}")).unwrap().hello,
            expected,
            "{text}"
        );
    }
}

#[test]
fn mistakes_name_the_listener_the_key_and_what_is_allowed() {
    let mut all: Vec<_> = LISTENER_KEYS.iter().map(|key| key.name).collect();
    all.sort_unstable();
    let all = format!("allowed: {}", all.join(", "));
    for (text, wrong) in [
        ("h:1,zzz", format!("zzz: no such option; {all}")),
        (
            "h:1,history",
            "history: the value is missing; allowed: history=N|SIZE|DURATION".into(),
        ),
        (
            "h:1,history=64K",
            "history: '64K' is no amount of history; allowed: a number, a size such as 64KiB or a \
             duration such as 5m, of at most 1TiB or 10y, or 0 or off for nothing"
                .into(),
        ),
        ("h:1,address=h:2", format!("address=h:2: no such option; {all}")),
        ("h:1,=x", format!("=x: no such option; {all}")),
        ("h:1,rol=both", "rol=both: no such option; did you mean role?".into()),
        ("h:1, hello", " hello: no such option; did you mean hello?".into()),
        ("h:1,", "a key is missing after ','; allowed: ,KEY=VALUE".into()),
        ("h:1,hello,", "a key is missing after ','; allowed: ,KEY=VALUE".into()),
        (
            "h:1,format",
            "format: the value is missing; allowed: format=text|json|raw".into(),
        ),
        (
            "h:1,role",
            "role: the value is missing; allowed: role=both|publish|subscribe".into(),
        ),
        (
            "h:1,format=xml",
            "format: 'xml' is not a format; allowed: text, json or raw".into(),
        ),
        (
            "h:1,role=x",
            "role: 'x' is not a role; allowed: both, publish or subscribe".into(),
        ),
        (
            "h:1,line-end=cr",
            "line-end: 'cr' is not a line end; allowed: lf, any or nul".into(),
        ),
        (
            "h:1,channel=a/b",
            "channel: 'a/b' is not a channel name; allowed: 1 to 64 of A-Z a-z 0-9 . _ -, and \
             neither . nor .."
                .into(),
        ),
        (
            "h:1,channel=open",
            "channel: 'open' stands in the metrics for all channels that clients opened; allowed: \
             any other name"
                .into(),
        ),
        (
            "h:1,hello=maybe",
            "hello: 'maybe' is neither true nor false; allowed: true, yes, on, 1, false, no, off or 0"
                .into(),
        ),
        (
            "h:1,format=raw,format=raw",
            "format: is given twice; allowed: once".into(),
        ),
        ("h:1,hello,hello=off", "hello: is given twice; allowed: once".into()),
        ("h:1,mode=0660", "mode: is of a Unix socket; allowed: behind unix:PATH".into()),
        ("h:1,group=x", "group: is of a Unix socket; allowed: behind unix:PATH".into()),
        (
            "h:1,allow=10.0.0.0/8,allow=x",
            "allow: 'x' is not an IP address or network; allowed: such as 10.0.0.0/8, 192.168.1.7, \
             2001:db8::/32 or ::1"
                .into(),
        ),
    ] {
        assert_eq!(read(text), Err(format!("--listen: h:1: {wrong}")), "{text}");
    }
    let address = read("h:x,role=x").unwrap_err();
    assert!(
        address.starts_with("--listen: 'h:x' has no port number"),
        "{address}"
    );
}

#[test]
fn unlisted_listener_has_the_address_that_it_is_bound_to() {
    for bound in [
        "127.0.0.1:1",
        "[::1]:2",
        "[fe80::1%3]:4",
        "unix:/run/x",
        "unix:@x",
        "unix:",
    ] {
        let options = ListenerOptions::unlisted(bound, DEFAULTS);
        assert_eq!(options.address.to_string(), bound);
        assert_eq!(options.format, Format::Text);
    }
}

#[test]
fn restored_options_are_what_is_known_of_them() {
    let options = ListenerOptions::restore("unix:/x,format=json").unwrap();
    let defaults = &ListenerDefaults::new(Format::Json);
    assert_eq!(options, ListenerOptions::unlisted("unix:/x", defaults));

    let later = "h:1,format=raw,later,role=publish,allow=10.0.0.0/8,later=1,allow=::/0,hello=on";
    let options = ListenerOptions::restore(later).unwrap();
    assert_eq!(
        options.to_string().replace("format=raw,", ""),
        "h:1,channel=main,role=publish,line-end=lf,http-guard=on,hello=on,http=off,history=0,tls=off,allow=10.0.0.0/8,allow=::/0"
    );

    for wrong in [
        "h:1",
        "",
        "h:1,role=both",
        "h:1,format=xml",
        "h:1,format=raw,role=x",
    ] {
        assert!(ListenerOptions::restore(wrong).is_err(), "{wrong}");
    }
}

fn any_options() -> impl Strategy<Value = ListenerOptions> {
    let address = prop_oneof![
        Just("127.0.0.1:0".to_owned()),
        Just("[fe80::1%3]:4".to_owned()),
        Just("localhost:65535".to_owned()),
        Just("unix:".to_owned()),
        // Sockets of the service manager can have any path.
        "unix:[/a-z@,= .]{1,40}",
        Just("unix:/x,format=raw,hello".to_owned()),
    ];
    let history = prop_oneof![
        (0..=1u64 << 40).prop_map(Newest::Messages),
        (1..=1u64 << 40).prop_map(Newest::Bytes),
        (1..=1u64 << 32).prop_map(|age| Newest::Age(Duration::from_millis(age))),
    ];
    let words = (0..3usize, 0..3usize, 0..3usize, any::<[bool; 2]>(), history);
    let nets = || prop::collection::vec(any::<std::net::IpAddr>().prop_map(Into::into), 0..4);
    let lists = (nets(), nets(), nets(), prop::option::of(0..=0o777u32));
    let formats = [Format::Text, Format::Json, Format::Raw];
    // The name that metrics have for others is none for a listener.
    let name = "[A-Za-z0-9._-]{1,64}";
    let channel = name.prop_filter_map("no name", |name| words::named_channel(&name).ok());
    (address, channel, words, lists).prop_map(move |(address, channel, words, lists)| {
        let (format, role, line_end, [http_guard, hello], history) = words;
        let (allow, deny, proxy, mode) = lists;
        // Those that are IPv4 in another notation are read as IPv4.
        let plain = |nets: Vec<IpNet>| {
            nets.iter()
                .map(network::show)
                .map(|net| network(&net).unwrap())
                .collect()
        };
        let mode = mode.filter(|_| address.starts_with("unix:"));
        ListenerOptions {
            format: formats[format],
            channel,
            role: Role::ALL[role],
            line_end: LineEnd::ALL[line_end],
            http_guard,
            hello,
            history,
            allow: plain(allow),
            deny: plain(deny),
            proxy: plain(proxy),
            mode,
            ..ListenerOptions::unlisted(&address, DEFAULTS)
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn displayed_options_are_restored_and_read(options in any_options()) {
        let text = options.to_string();
        prop_assert_eq!(ListenerOptions::restore(&text), Ok(options.clone()));
        let address = options.address.to_string();
        if address.parse::<Address>().is_ok() && !address.contains(',') {
            prop_assert_eq!(read(&text), Ok(options));
        }
    }

    #[test]
    fn any_text_is_read_or_refused_in_one_line(text in ".{0,40}", known in 0..2usize) {
        let text = ["", "h:1,"][known].to_owned() + &text;
        let _ = ListenerOptions::restore(&text);
        if let Err(error) = read(&text) {
            prop_assert!(error.starts_with("--listen: ") && !error.contains('\n'), "{}", error);
        }
    }
}
