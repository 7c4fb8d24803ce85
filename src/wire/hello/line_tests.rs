use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::wire::format::Format;
use crate::wire::ids::{Epoch, Seq};
use crate::wire::past::{Newest, Since};
use crate::wire::role::Role;

fn said(line: &[u8]) -> String {
    parse(line).unwrap_err().to_string()
}

#[test]
fn hello_names_channel_role_and_format_in_any_order_or_none() {
    let all = Hello {
        channel: Some("nmea-0183".parse().unwrap()),
        role: Some(Role::Subscribe),
        format: Some(Format::Json),
        ..Hello::default()
    };
    for line in [
        "LINEHUB/1 channel=nmea-0183 role=subscribe format=json",
        "LINEHUB/1 format=json channel=nmea-0183 role=subscribe\r",
        "LINEHUB/1 \t role=subscribe\t\tformat=json   channel=nmea-0183\t ",
    ] {
        assert_eq!(parse(line.as_bytes()), Ok(all.clone()), "{line:?}");
    }
    for line in ["LINEHUB/1", "LINEHUB/1\r", "LINEHUB/1 ", "LINEHUB/1\t\r"] {
        assert_eq!(parse(line.as_bytes()), Ok(Hello::default()), "{line:?}");
    }
}

#[test]
fn token_is_taken_as_it_is_and_never_displayed() {
    let hello = parse(b"LINEHUB/1 token=a=b-C_9 role=both\r").unwrap();
    let token = hello.token.as_ref().unwrap();
    assert_eq!(token.as_bytes(), b"a=b-C_9");
    assert!(!format!("{hello:?}").contains("a=b"), "{hello:?}");
}

#[test]
fn past_and_session_are_asked_for_in_any_order() {
    let all = Hello {
        history: Some(Newest::Messages(20)),
        since: Some(Since::Place(Epoch(0x5f3a9c11), Seq(4711))),
        session: Some("meter-7".parse().unwrap()),
        ack: true,
        ..Hello::default()
    };
    for line in [
        "LINEHUB/1 history=20 since=5f3a9c11:4711 session=meter-7 ack",
        "LINEHUB/1 ack since=5F3A9C11:4711\tsession=meter-7 history=20 \r",
    ] {
        assert_eq!(parse(line.as_bytes()), Ok(all.clone()), "{line:?}");
    }
    let hello = parse(b"LINEHUB/1 since=5m history=64KiB session=s").unwrap();
    assert_eq!(hello.since, Some(Since::Age(Duration::from_secs(300))));
    assert_eq!(hello.history, Some(Newest::Bytes(1 << 16)));
    assert!(!hello.ack);
    let none = parse(b"LINEHUB/1 history=0").unwrap();
    assert_eq!(none.history, Some(Newest::NONE));
}

#[test]
fn anything_else_is_told_that_a_hello_is_expected() {
    for line in [
        "",
        "\r",
        " ",
        "hello",
        "LINEHUB",
        "LINEHUB/",
        "LINEHUB/2",
        "LINEHUB/1.0",
        "LINEHUB/10 channel=a",
        "LINEHUB/1channel=a",
        "LINEHUB/1\0",
        "LINEHUB/1\r\r",
        "linehub/1",
        " LINEHUB/1",
        "GET / HTTP/1.1\r",
        "LINEH\u{dc}B/1",
    ] {
        assert_eq!(said(line.as_bytes()), "hello expected", "{line:?}");
    }
}

#[test]
fn errors_name_the_key_and_what_is_allowed() {
    for (words, error) in [
        ("x=1", "unknown key \"x\" in hello"),
        ("x", "unknown key \"x\" in hello"),
        ("=1", "unknown key \"\" in hello"),
        ("Channel=a", "unknown key \"Channel\" in hello"),
        ("a\"b\\=1", "unknown key \"a\\\"b\\\\\" in hello"),
        ("role=both =", "unknown key \"\" in hello"),
        ("channel", "\"channel\" without a value in hello"),
        ("format=", "\"format\" without a value in hello"),
        ("role=both role=both", "\"role\" given twice in hello"),
        (
            "channel=a format=raw channel=b",
            "\"channel\" given twice in hello",
        ),
        ("history=", "\"history\" without a value in hello"),
        ("since", "\"since\" without a value in hello"),
        ("history=5 history=5", "\"history\" given twice in hello"),
        ("session=a session=b", "\"session\" given twice in hello"),
        ("session=s ack ack", "\"ack\" given twice in hello"),
        ("session=s ack=", "\"ack\" takes no value in hello"),
        ("session=s ack=yes", "\"ack\" takes no value in hello"),
        ("Ack", "unknown key \"Ack\" in hello"),
        ("ack", "\"ack\" without \"session\" in hello"),
        ("ack since=5m", "\"ack\" without \"session\" in hello"),
        (
            "history=some",
            "invalid value of \"history\" in hello: expected a number, a size such as 64KiB or a \
             duration such as 5m, of at most 1TiB or 10y",
        ),
        (
            "since=4711",
            "invalid value of \"since\" in hello: expected EPOCH:SEQ such as 5f3a9c11:4711, or a \
             duration of 1ms to 10y such as 5m",
        ),
        (
            "session=a/b",
            "invalid value of \"session\" in hello: \
             expected 1 to 64 of A-Z a-z 0-9 . _ -, and neither . nor ..",
        ),
        ("token=", "\"token\" without a value in hello"),
        ("token=a token=b", "\"token\" given twice in hello"),
        (
            "channel=../x",
            "invalid value of \"channel\" in hello: \
             expected 1 to 64 of A-Z a-z 0-9 . _ -, and neither . nor ..",
        ),
        (
            "role=Both",
            "invalid value of \"role\" in hello: expected both, publish or subscribe",
        ),
        (
            "format=xml",
            "invalid value of \"format\" in hello: expected text, json or raw",
        ),
        ("channel=a\x1b[31m", "hello expected, in printable ASCII"),
        ("channel=\u{e4}", "hello expected, in printable ASCII"),
    ] {
        assert_eq!(said(format!("LINEHUB/1 {words}").as_bytes()), error);
    }
    assert_eq!(
        said(b"LINEHUB/1 \xff\xfe"),
        "hello expected, in printable ASCII"
    );
}

#[test]
fn long_key_is_cut_and_a_line_over_the_limit_refused() {
    let line = format!("LINEHUB/1 {}=1", "k".repeat(33));
    let shown = format!("unknown key \"{}...\" in hello", "k".repeat(32));
    assert_eq!(said(line.as_bytes()), shown);

    let most = format!("{:<HELLO_BYTES_MAX$}\r", "LINEHUB/1 role=both");
    assert_eq!(most.len(), 4097);
    assert_eq!(parse(most.as_bytes()).unwrap().role, Some(Role::Both));
    let over = format!("{:<1$}", "LINEHUB/1", HELLO_BYTES_MAX + 1);
    assert_eq!(
        said(over.as_bytes()),
        "hello expected, of at most 4096 bytes"
    );
}

proptest! {
    #[test]
    fn error_is_one_short_line_whatever_was_sent(
        rest in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            "[a-z=\"\\\\' ]{0,300}".prop_map(String::into_bytes),
            "((history|since|session|ack)=?[0-9a-fKMsm:]{0,20} ){0,5}".prop_map(String::into_bytes),
        ],
        begin in prop::sample::select(["", "LINEHUB/1 ", "LINEHUB/1 token="].as_slice()),
    ) {
        if let Err(error) = parse(&[begin.as_bytes(), &rest].concat()) {
            let error = error.to_string();
            prop_assert!(error.len() <= 200);
            prop_assert!(error.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }
    }
}
