use crate::common::{Client, Event, Server, marker};

const FORMATS: [&str; 3] = ["text", "json", "raw"];

/// What a client has that is warned of, less what the log names it by.
const WARNING: &str = "much input with CR and without LF:";

/// A listener of plain lines for each format, in front, and then one with this line end for each.
fn launched(args: &[&str], line_end: &str) -> Server {
    let plain = FORMATS.map(|format| format!("--listen=127.0.0.1:0,format={format}"));
    let other =
        FORMATS.map(|format| format!("--listen=127.0.0.1:0,format={format},line-end={line_end}"));
    let listen = plain.iter().chain(&other).map(String::as_str);
    let args = listen.chain(["--no-notices"]).chain(args.iter().copied());
    Server::start(&args.collect::<Vec<_>>())
}

/// The clients that see the stream, one for each format.
struct Readers(Vec<Client>);

impl Readers {
    fn of(server: &Server) -> Readers {
        Readers((0..3).map(|i| Client::connect_to(server, i)).collect())
    }

    /// Each of them gets this line next; `raw` with the CR that the others leave out.
    #[track_caller]
    fn expect(&mut self, from: &Client, payload: &str) {
        let shown = payload.strip_suffix('\r').unwrap_or(payload);
        self.0[0].expect_message(from.id(), shown);
        assert_eq!(self.0[1].read_json()["data"], shown);
        self.0[2].expect_line(payload);
    }
}

/// Lines that `any` makes of an input that is whole: as few words as a test may have to say it.
fn any_lines(input: &str) -> Vec<String> {
    let input = input.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<_> = input.split('\n').map(str::to_owned).collect();
    lines.pop();
    lines
}

/// The same for `nul`, with no LF at the end.
fn nul_lines(input: &str) -> Vec<String> {
    let mut lines: Vec<_> = input.split('\0').map(str::to_owned).collect();
    for (i, line) in lines.iter_mut().enumerate() {
        if i > 0 && line.starts_with('\n') {
            line.remove(0);
        }
        if line.ends_with('\n') {
            line.pop();
        }
        *line = line.replace('\n', " ");
    }
    lines.pop();
    lines
}

/// Sends an input in two pieces, cut at every byte, to each of the listeners with a line end of its
/// own. What has ended with the first is there before the second is sent.
#[track_caller]
fn check_every_cut(server: &Server, input: &str, lines_of: fn(&str) -> Vec<String>) {
    let mut readers = Readers::of(server);
    for i in 3..6 {
        let mut sender = Client::connect_to(server, i);
        for cut in 0..=input.len() {
            let whole = lines_of(input);
            // What has not ended yet may be shorter than it looks, never longer.
            let begun = lines_of(&input[..cut]).len();
            sender.send_bytes(&input.as_bytes()[..cut]);
            for line in &whole[..begun] {
                readers.expect(&sender, line);
            }
            sender.send_bytes(&input.as_bytes()[cut..]);
            for line in &whole[begun..] {
                readers.expect(&sender, line);
            }
        }
        // A byte at a time.
        for byte in input.bytes() {
            sender.send_bytes(&[byte]);
        }
        for line in lines_of(input) {
            readers.expect(&sender, &line);
        }
    }
}

#[test]
fn any_takes_lf_cr_lf_and_cr_alone_at_every_cut_and_waits_for_none() {
    let server = launched(&[], "any");
    check_every_cut(
        &server,
        "a\nb\r\n$GPGGA,1\rd\r\r\ne\n\rf\r\r\n\n\r\nlast\r",
        any_lines,
    );
    assert_eq!(server.count_log("WARN"), 0, "{:?}", server.log());
}

#[test]
fn nul_ends_a_line_whatever_line_feeds_are_about_it_at_every_cut() {
    let server = launched(&[], "nul");
    check_every_cut(
        &server,
        "{\"a\":1}\0two\nlines\0\nafter\0\n\0before\n\0\n\n\0\0x\n\n\0last\0",
        nul_lines,
    );
    // A CR is as it is with LF.
    let mut readers = Readers::of(&server);
    for i in 3..6 {
        let mut sender = Client::connect_to(&server, i);
        sender.send_bytes(b"one\r\0two\r");
        sender.send_bytes(b"\0");
        readers.expect(&sender, "one\r");
        readers.expect(&sender, "two\r");
    }
    assert_eq!(server.count_log("WARN"), 0, "{:?}", server.log());
}

#[test]
fn end_of_the_input_ends_a_line_of_every_kind_once() {
    for (line_end, input, lines) in [
        ("any", "x\r", &["x"][..]),
        ("any", "x\r\n", &["x"]),
        ("any", "x\r\r", &["x", ""]),
        ("any", "x\ry", &["x", "y"]),
        ("nul", "x\0", &["x"]),
        ("nul", "x\0\n", &["x"]),
        ("nul", "x\0y\n", &["x", "y"]),
        ("nul", "x\ny", &["x y"]),
        ("nul", "x\n\n", &["x "]),
    ] {
        let server = launched(&[], line_end);
        let mut readers = Readers::of(&server);
        for i in 3..6 {
            let mut sender = Client::connect_to(&server, i);
            sender.send_bytes(input.as_bytes());
            sender.finish();
            sender.expect_eof();
            for line in lines {
                readers.expect(&sender, line);
            }
            server.wait_log(&format!(
                "client disconnected client={} reason=eof lines_in={}",
                sender.id(),
                lines.len()
            ));
        }
        // No empty line is behind it.
        let mut last = Client::connect(&server);
        marker(&mut last, &mut readers.0[0]);
    }
}

#[test]
fn limit_is_exact_with_every_line_end() {
    let exact = "0123456789";
    for (line_end, ends) in [
        ("any", &["\n", "\r\n", "\r"][..]),
        ("nul", &["\0", "\n\0", "\0\n", "\r\0"]),
    ] {
        let discarding = launched(&["--max-line=10", "--long-line=discard"], line_end);
        let closing = launched(&["--max-line=10"], line_end);
        let mut readers = Readers::of(&discarding);
        let mut others = Readers::of(&closing);
        for (end, i) in ends.iter().flat_map(|end| (3..6).map(move |i| (end, i))) {
            let got = |payload: &str| match *end {
                "\r\0" => format!("{payload}\r"),
                _ => payload.to_owned(),
            };
            let mut sender = Client::connect_to(&discarding, i);
            let input =
                format!("{exact}{end}{exact}+{end}next{end}{exact}{exact}{end}{exact}{end}");
            for cut in 1..input.len() {
                sender.send_bytes(&input.as_bytes()[..cut]);
                sender.send_bytes(&input.as_bytes()[cut..]);
                for line in [exact, "next", exact] {
                    readers.expect(&sender, &got(line));
                }
            }
            let mut sender = Client::connect_to(&closing, i);
            sender.send_bytes(format!("{exact}{end}{exact}+{end}never{end}").as_bytes());
            others.expect(&sender, &got(exact));
            match i {
                3 => {
                    let line = sender.read_line();
                    let line = line.trim_end_matches('\r');
                    assert_eq!(line, "Error: line too long (limit 10 bytes)");
                }
                4 => assert_eq!(sender.read_json()["reason"], "line_too_long"),
                _ => {
                    sender.finish();
                    assert_eq!(sender.next(), Event::Reset);
                }
            }
            let id = sender.id();
            drop(sender);
            closing.wait_log(&format!(
                "client disconnected client={} reason=line_too_long",
                id
            ));
        }
        // A marker may be longer than a line may be here.
        let mut last = Client::connect(&closing);
        last.send_line("the end");
        others.0[0].expect_message(last.id(), "the end");
    }
}

#[test]
fn telnet_presses_enter_once_where_any_ends_a_line() {
    let server = launched(&[], "any");
    let mut plain = Client::connect(&server);
    let mut telnet = Client::connect_to(&server, 3);
    for enter in [
        &[&b"\r\0"[..]][..],
        &[b"\r\n"],
        &[b"\r", b"\0"],
        &[b"\r", b"\n"],
    ] {
        telnet.send_bytes(b"\xff\xfd\x06hello");
        enter.iter().for_each(|piece| telnet.send_bytes(piece));
        plain.expect_message(telnet.id(), "hello");
        assert_eq!(telnet.read_bytes(3), b"\xff\xfc\x06");
        marker(&mut plain, &mut telnet);
    }
    // A command between the two.
    telnet.send_bytes(b"x\r");
    plain.expect_message(telnet.id(), "x");
    telnet.send_bytes(b"\xff\xfd\x06\n");
    assert_eq!(telnet.read_bytes(3), b"\xff\xfc\x06");
    telnet.send_bytes(b"\x04\r");
    telnet.expect_eof();
    let mut last = Client::connect(&server);
    marker(&mut last, &mut plain);
}

#[test]
fn request_of_a_web_page_is_refused_where_nul_ends_a_line() {
    let request = "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nevil";
    for long_line in ["--long-line=close", "--long-line=discard"] {
        let server = launched(&["--max-line=1KiB", long_line], "nul");
        let mut observer = Client::connect(&server);
        for i in 3..6 {
            let long = format!(
                "POST /{} HTTP/1.1\r\nHost: x\r\n\r\nevil\0evil\0",
                "a".repeat(5000)
            );
            let whole = [
                format!("{request}\0evil\0"),
                format!("{request}\0\nevil\0"),
                request.into(),
                long,
            ];
            for (at, input) in whole.iter().enumerate() {
                let mut page = Client::connect_to(&server, i);
                let id = page.id();
                page.send_bytes(input.as_bytes());
                page.finish();
                // One that is too long may be closed for that.
                let reason = match (at, long_line) {
                    (3, "--long-line=close") => "line_too_long",
                    _ => "http",
                };
                server.wait_log(&format!("client disconnected client={id} reason={reason}"));
            }
        }
        marker(&mut Client::connect(&server), &mut observer);
        // What is about a request is none.
        let mut log = Client::connect_to(&server, 5);
        log.send_bytes(b"{\r\n \"message\": \"GET / HTTP/1.1\"\r\n}\0GET / HTTP/1.1\0");
        observer.expect_message(log.id(), "{\\x0d  \"message\": \"GET / HTTP/1.1\"\\x0d }");
        observer.expect_message(log.id(), "GET / HTTP/1.1");
    }
    let server = launched(&["--http-guard=off"], "nul");
    let mut observer = Client::connect(&server);
    let mut page = Client::connect_to(&server, 5);
    page.send_bytes(b"GET / HTTP/1.1\r\n\r\n\0");
    observer.expect_message(page.id(), "GET / HTTP/1.1\\x0d ");
}

#[test]
fn cr_where_lf_is_wanted_is_warned_of_once_and_too_long_as_before() {
    let server = launched(&["--max-line=4KiB"], "lf");
    let mut observer = Client::connect(&server);
    let instrument = "$GPGGA,123519,4807.038,N\r".repeat(100);
    for i in [0, 1, 2, 3] {
        let mut sender = Client::connect_to(&server, i);
        for piece in instrument.as_bytes().chunks(999) {
            sender.send_bytes(piece);
        }
        if i == 0 {
            let line = server.wait_log(WARNING);
            assert!(line.contains("line-end=any"), "{line}");
            assert!(line.contains(&format!("client={}", sender.id())), "{line}");
        }
        sender.send_bytes(instrument.repeat(2).as_bytes());
        sender.finish();
        let id = sender.id();
        server.wait_log(&format!(
            "client disconnected client={id} reason=line_too_long"
        ));
    }
    assert_eq!(server.count_log(WARNING), 1, "{:?}", server.log());
    marker(&mut Client::connect(&server), &mut observer);
}

#[test]
fn cr_is_warned_of_only_where_it_may_be_a_mistake() {
    let instrument = "$GPGGA,123519,4807.038,N\r".repeat(400);
    let long = "x".repeat(3000);
    for (line_end, inputs) in [
        (
            "lf",
            &[
                format!("{long}\r\n").repeat(50),
                "short\r\n".repeat(5000),
                "a\rb\n".repeat(5000),
            ][..],
        ),
        ("any", &[instrument.clone(), format!("{long}\r").repeat(50)]),
        (
            "nul",
            &[
                instrument.clone() + "\0",
                format!("{long}\r\n\0").repeat(50),
            ],
        ),
        ("lf,role=subscribe", &[instrument.clone() + "\n"]),
    ] {
        let server = launched(&["--max-line=16KiB"], line_end);
        for (input, i) in inputs
            .iter()
            .flat_map(|input| (3..6).map(move |i| (input, i)))
        {
            let mut sender = Client::connect_to(&server, i);
            for piece in input.as_bytes().chunks(3001) {
                sender.send_bytes(piece);
            }
            sender.finish();
            sender.expect_eof();
        }
        server.wait_log_count("client disconnected reason=eof", 3 * inputs.len());
        assert_eq!(server.count_log("WARN"), 0, "{:?}", server.log());
    }
}
