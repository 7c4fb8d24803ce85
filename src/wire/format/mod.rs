//! Lines and notices as a listener's clients see them: `text` for people, `raw` for machines,
//! `json` for programs.
//!
//! `raw` needs nothing from here but silence: its clients get every run as it came.

mod event;
mod json;
mod names;
mod numbered;
mod said;
mod scan;
mod text;

pub use self::event::{COMMENT, end_of_begun_event, events, events_after};
pub use self::json::{json_lines, json_lines_len, json_notice, json_notice_len};
pub use self::names::{Format, Notice, UnknownFormat};
pub use self::said::{BEAT, ack, error, shutdown, skip};
pub use self::scan::digits;
pub use self::text::{crlf, text_lines, text_lines_len, text_notice, visible_lines};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;

    use super::scan::without_cr;
    use super::text::is_clean_text;
    use super::*;
    use crate::wire::client_name::Origin;
    use crate::wire::close_reason::CloseReason;
    use crate::wire::framing::{Framer, count};
    use crate::wire::ids::{ClientId, Seq};
    use crate::wire::telnet::{HEADROOM, Telnet};

    const CLIENT: ClientId = ClientId(7);

    fn said(say: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        say(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn text(run: &[u8]) -> String {
        said(|out| text_lines(CLIENT, run, out))
    }

    fn json(first_seq: u64, run: &[u8]) -> String {
        said(|out| {
            let next = json_lines(CLIENT, Seq(first_seq), run, out);
            assert_eq!(next.0 - first_seq, count(run) as u64);
        })
    }

    fn payload_of(message: &Value) -> Vec<u8> {
        match (message.get("data"), message.get("data_base64")) {
            (Some(Value::String(data)), None) => data.as_bytes().to_vec(),
            (None, Some(Value::String(data))) => {
                let data = BASE64.decode(data).unwrap();
                assert!(str::from_utf8(&data).is_err());
                data
            }
            _ => panic!("{message} has not one payload"),
        }
    }

    #[test]
    fn text_says_who_and_what() {
        assert_eq!(text(b""), "");
        assert_eq!(
            text(b"hello\n\n\tyou \xc3\xa4\xe2\x82\xac\r\n"),
            "Message from client 7: hello\nMessage from client 7: \n\
             Message from client 7: \tyou ä€\n"
        );
        let notice = |notice| said(|out| text_notice(notice, CLIENT, out));
        assert_eq!(notice(Notice::Connect), "New client connected: 7\n");
        assert_eq!(notice(Notice::Disconnect), "Client disconnected: 7\n");
    }

    #[test]
    fn text_shows_what_is_not_printable_as_hex() {
        let cases: [(&[u8], &str); 12] = [
            (b"\x1b[31mred", r"\x1b[31mred"),
            (b"nul\0bel\x07", r"nul\x00bel\x07"),
            (b"a\rb", r"a\x0db"),
            (b"a\r\r", r"a\x0d"),
            (b"del\x7f", r"del\x7f"),
            (b"c1 \xc2\x80\xc2\x9f", r"c1 \xc2\x80\xc2\x9f"),
            (b"no c1 \xc2\xa0", "no c1 \u{a0}"),
            (b"\xff", r"\xff"),
            (b"\xe2\x82", r"\xe2\x82"),
            (b"\xc2", r"\xc2"),
            (b"\xed\xa0\x80\xc3\xa4", r"\xed\xa0\x80ä"),
            (br"\x1b", r"\x1b"),
        ];
        for (payload, shown) in cases {
            // Alone, and where it makes the run around it unclean.
            let lines = text(&[b"x\n", payload, b"\ny\n"].concat());
            let lines: Vec<_> = lines.lines().collect();
            let message = |payload| format!("Message from client 7: {payload}");
            assert_eq!(lines, [message("x"), message(shown), message("y")]);
            assert_eq!(text(&[payload, b"\n"].concat()), message(shown) + "\n");
        }
    }

    #[test]
    fn json_gives_number_client_and_payload() {
        assert_eq!(json(1, b""), "");
        assert_eq!(
            json(8, b"a\nb\r\n\n"),
            "{\"event\":\"message\",\"seq\":8,\"client\":7,\"data\":\"a\"}\n\
             {\"event\":\"message\",\"seq\":9,\"client\":7,\"data\":\"b\"}\n\
             {\"event\":\"message\",\"seq\":10,\"client\":7,\"data\":\"\"}\n"
        );
        assert_eq!(
            json(42, b"say \"hi\"\t\x1b\\ \xc3\xa4\n"),
            "{\"event\":\"message\",\"seq\":42,\"client\":7,\
             \"data\":\"say \\\"hi\\\"\\t\\u001b\\\\ ä\"}\n"
        );
        assert_eq!(
            json(42, b"\xff\xfe\r\r\n"),
            "{\"event\":\"message\",\"seq\":42,\"client\":7,\"data_base64\":\"//4N\"}\n"
        );
        let notice = |notice| said(|out| json_notice(notice, CLIENT, Seq(41), out));
        assert_eq!(
            notice(Notice::Connect),
            "{\"event\":\"connect\",\"seq\":41,\"client\":7}\n"
        );
        assert_eq!(
            notice(Notice::Disconnect),
            "{\"event\":\"disconnect\",\"seq\":41,\"client\":7}\n"
        );
    }

    #[test]
    fn json_gives_the_name_behind_the_number_as_long_as_said() {
        let name = "meter-7".parse().unwrap();
        let origin = Origin {
            client: CLIENT,
            name: Some(&name),
        };
        let (mut lines, mut notice) = (Vec::new(), Vec::new());
        let run = b"a\n\"b\"\n\xff\n";
        json_lines(origin, Seq(8), run, &mut lines);
        json_notice(Notice::Connect, origin, Seq(7), &mut notice);
        let head = r#","client":7,"name":"meter-7""#;
        assert_eq!(
            String::from_utf8_lossy(&lines),
            format!(
                "{{\"event\":\"message\",\"seq\":8{head},\"data\":\"a\"}}\n\
                 {{\"event\":\"message\",\"seq\":9{head},\"data\":\"\\\"b\\\"\"}}\n\
                 {{\"event\":\"message\",\"seq\":10{head},\"data_base64\":\"/w==\"}}\n"
            )
        );
        assert_eq!(
            String::from_utf8_lossy(&notice),
            format!("{{\"event\":\"connect\",\"seq\":7{head}}}\n")
        );
        assert_eq!(json_lines_len(origin, 2, run), lines.len() + 2);
        assert_eq!(json_notice_len(Notice::Connect, origin, 1), notice.len());
    }

    #[test]
    fn every_format_but_raw_says_what_the_daemon_has_to_say() {
        let all =
            |say: fn(Format, &mut Vec<u8>)| Format::ALL.map(|format| said(|out| say(format, out)));
        assert_eq!(
            all(|format, out| skip(format, 120, out)),
            [
                "Skipped 120 messages\n",
                "{\"event\":\"skip\",\"count\":120}\n",
                ""
            ]
        );
        assert_eq!(
            all(|format, out| error(format, CloseReason::LineTooLong, "a \"b\"\n", out)),
            [
                "Error: a \"b\"\\x0a\n",
                "{\"event\":\"error\",\"reason\":\"line_too_long\",\"detail\":\"a \\\"b\\\"\\n\"}\n",
                ""
            ]
        );
        assert_eq!(
            all(shutdown),
            ["Server shutting down\n", "{\"event\":\"shutdown\"}\n", ""]
        );
    }

    #[test]
    fn visible_lines_are_the_payloads_that_text_shows() {
        let shown = |run| said(|out| visible_lines(run, out));
        assert_eq!(shown(b""), "");
        assert_eq!(shown(b"a\n\tb\n"), "a\n\tb\n");
        assert_eq!(shown(b"a\r\n\x1b[H\n"), "a\n\\x1b[H\n");
    }

    #[test]
    fn crlf_ends_every_line_of_text_with_both() {
        assert_eq!(said(|out| crlf(b"a\n\nb\n", out)), "a\r\n\r\nb\r\n");
    }

    #[test]
    fn names_of_formats_are_read_as_they_are_written() {
        for format in Format::ALL {
            assert_eq!(format.to_string().parse(), Ok(format));
            assert_eq!(serde_json::to_value(format).unwrap(), json!(format.name()));
        }
        assert_eq!("Text".parse::<Format>(), Err(UnknownFormat));
    }

    #[test]
    fn digits_are_counted_at_both_ends() {
        for (number, expected) in [(0, 1), (9, 1), (10, 2), (999, 3), (u64::MAX, 20)] {
            assert_eq!(digits(number), expected);
        }
    }

    /// Payloads that are mostly text, with what matters to a format in between.
    fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let piece = prop_oneof![
            8 => "[ -~]{0,40}".prop_map(String::into_bytes),
            2 => "\\PC{0,20}".prop_map(String::into_bytes),
            1 => any::<char>().prop_map(|c| c.to_string().into_bytes()),
            1 => prop::collection::vec(any::<u8>(), 0..6),
            1 => prop::sample::select(b"\r\t\0\x1b\x7f\x80\xc2\"\\".as_slice()).prop_map(|b| vec![b]),
        ];
        let payload = prop::collection::vec(piece, 0..4).prop_map(|pieces| {
            let mut payload = pieces.concat();
            payload.retain(|byte| *byte != b'\n');
            payload
        });
        prop::collection::vec(payload, 0..60)
    }

    fn run_of(payloads: &[Vec<u8>]) -> Vec<u8> {
        payloads
            .iter()
            .flat_map(|line| [line, &b"\n"[..]].concat())
            .collect()
    }

    proptest! {
        #[test]
        fn text_is_utf8_without_controls_and_a_line_for_a_line(
            payloads in payloads(),
            client in any::<u64>(),
        ) {
            let run = run_of(&payloads);
            let client = ClientId(client);
            let out = said(|out| text_lines(client, &run, out));
            prop_assert!(!out.contains(|c: char| c.is_control() && c != '\t' && c != '\n'));
            prop_assert_eq!(out.lines().count(), payloads.len());
            let head = format!("Message from client {client}: ");
            for (line, payload) in out.lines().zip(&payloads) {
                let shown = line.strip_prefix(&head).unwrap();
                let payload = without_cr(payload);
                let as_is = str::from_utf8(payload)
                    .is_ok_and(|text| !text.contains(|c: char| c.is_control() && c != '\t'));
                prop_assert_eq!(shown.as_bytes() == payload, as_is);
            }
            if is_clean_text(&run) && !run.contains(&b'\r') {
                prop_assert_eq!(out.len(), text_lines_len(client, &run, payloads.len()));
            }
        }

        #[test]
        fn json_parses_to_what_was_sent(
            payloads in payloads(),
            client in any::<u64>(),
            first_seq in prop_oneof![0..2000u64, 1..=u64::MAX - 100],
        ) {
            let run = run_of(&payloads);
            let client = ClientId(client);
            let out = said(|out| {
                let next = json_lines(client, Seq(first_seq), &run, out);
                assert_eq!(next, Seq(first_seq + payloads.len() as u64));
            });
            let last_seq = first_seq + payloads.len() as u64;
            prop_assert_eq!(out.lines().count(), payloads.len());
            for ((line, payload), seq) in out.lines().zip(&payloads).zip(first_seq..) {
                let message: Value = serde_json::from_str(line).unwrap();
                prop_assert_eq!(&message["event"], &json!("message"));
                prop_assert_eq!(&message["seq"], &json!(seq));
                prop_assert_eq!(&message["client"], &json!(client.0));
                prop_assert_eq!(payload_of(&message), without_cr(payload));
            }
            let len = json_lines_len(client, digits(last_seq), &run);
            prop_assert!(out.len() <= len);
            if digits(first_seq) == digits(last_seq) {
                prop_assert_eq!(out.len(), len);
            }
        }

        #[test]
        fn notices_are_as_long_as_said(client in any::<u64>(), seq in any::<u64>()) {
            for notice in [Notice::Connect, Notice::Disconnect] {
                let out = said(|out| json_notice(notice, ClientId(client), Seq(seq), out));
                let len = json_notice_len(notice, ClientId(client), digits(seq));
                prop_assert_eq!(out.len(), len);
                let value: Value = serde_json::from_str(&out).unwrap();
                prop_assert_eq!(&value["event"], &json!(notice.event()));
            }
        }

        #[test]
        fn input_cut_anywhere_is_shown_the_same(
            input in prop::collection::vec(
                prop::sample::select(b"a\r\n\0\x1b\x06\xc2\x80\xc3\xa4\xf1\xfd\xff\xff".as_slice()),
                0..100,
            ),
            at in any::<prop::sample::Index>(),
        ) {
            let shown = |chunks: [&[u8]; 2]| {
                let (mut telnet, mut framer) = (Telnet::new(), Framer::new(50));
                let mut out = Vec::new();
                for chunk in chunks {
                    let mut buf = [&[0; HEADROOM], chunk].concat();
                    let data = telnet.filter(&mut buf, &mut Vec::new());
                    for run in framer.push(data).runs() {
                        text_lines(CLIENT, run, &mut out);
                        json_lines(CLIENT, Seq(1), run, &mut Vec::new());
                    }
                }
                text_lines(CLIENT, &framer.finish().first, &mut out);
                String::from_utf8(out).unwrap()
            };
            let at = at.index(input.len() + 1);
            prop_assert_eq!(shown([&input[..at], &input[at..]]), shown([&input, b""]));
        }
    }
}
