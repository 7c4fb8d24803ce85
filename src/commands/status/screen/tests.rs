use super::*;
use crate::ops::admin::documents::{
    CertificateRow, ChannelKind, ChannelRow, ClientRow, ClosedRow, HistoryRow, NodeRow, Rates,
    SharedRow, Who,
};

fn who(id: u64, peer: &str) -> Who {
    Who {
        id,
        name: None,
        peer: peer.to_owned(),
        listener: "127.0.0.1:2345".to_owned(),
        format: "text".to_owned(),
        transport: None,
        channel: "main".to_owned(),
        role: "both".to_owned(),
        connected_since: "2026-01-05T10:00:00.000Z".to_owned(),
        lines_in: 1_234_567,
        bytes_in: 2048,
        lines_out: 3,
        bytes_out: 4,
        messages_skipped: 0,
    }
}

fn channel_row(name: &str, kind: ChannelKind) -> ChannelRow {
    ChannelRow {
        name: name.to_owned(),
        kind,
        clients: 3,
        clients_connected_total: 4,
        messages: 1234,
        notices: 5,
        lines_in: 6,
        lines_out: 70_000,
        bytes_in: 1024,
        bytes_out: 64 << 20,
        buffer_used_bytes: 1 << 20,
        buffer_limit_bytes: 64 << 20,
        senders_waiting: 1,
        sender_wait_seconds: 0.0,
        messages_skipped: 7,
        lines_discarded: 8,
        lines_ignored: 9,
        history: None,
        shared: None,
    }
}

fn status(clients: u64) -> Status {
    let client = |id| ClientRow {
        who: who(id, "192.0.2.1:40000"),
        bytes_pending: 64 << 20,
        messages_behind: 5000 - id,
        idle_seconds: 75.5,
        leaving: id == 2,
        throttled: false,
        catching_up: false,
    };
    let closed = ClosedRow {
        who: who(99, "unix"),
        closed_at: "2026-01-05T10:00:07.000Z".to_owned(),
        reason: "slow".to_owned(),
        bytes_pending: 0,
        messages_behind: 1234,
    };
    Status {
        version: "0.1.0".to_owned(),
        phase: "running".to_owned(),
        phase_seconds: 3600.0,
        pid: 7,
        now: "2026-01-05T10:00:10.000Z".to_owned(),
        started: "2026-01-05T09:00:00.000Z".to_owned(),
        uptime_seconds: 3610.0,
        listeners: vec![ListenerRow {
            address: "unix:/x\x1b[2J".to_owned(),
            format: "raw".to_owned(),
            channel: "main".to_owned(),
            role: "both".to_owned(),
            line_end: "lf".to_owned(),
            hello: false,
            http: false,
            tls: false,
            history: None,
        }],
        certificates: Vec::new(),
        clients: clients as usize,
        clients_max: Some(960),
        handshakes: 0,
        clients_connected_total: 1000,
        lines_in: 12,
        lines_out: 34,
        bytes_in: 5,
        bytes_out: 6,
        rates: Rates {
            lines_in_per_second: 3400.4,
            lines_out_per_second: 0.5,
            ..Rates::default()
        },
        buffer_used_bytes: 32 << 20,
        buffer_limit_bytes: 64 << 20,
        senders_waiting: 1,
        sender_wait_seconds: 61.9,
        messages_skipped: 0,
        lines_discarded: 0,
        lines_ignored: 0,
        channels: vec![channel_row("main", ChannelKind::Named)],
        channels_count: 1,
        cluster: None,
        closed_by_reason: [("eof".to_owned(), 0), ("slow".to_owned(), 2)].into(),
        furthest_behind: (1..=clients.min(50)).map(client).collect(),
        recently_closed: vec![closed],
    }
}

#[test]
fn everything_that_matters_is_said_and_lines_up() {
    let mut status = status(2);
    status.listeners[0].tls = true;
    status.certificates.push(CertificateRow {
        file: "/etc/x.pem".to_owned(),
        ends: "2026-02-05T10:00:10.000Z".to_owned(),
        days_left: 31,
    });
    let text = text(&status, usize::MAX);
    let expected = "\
linehub   0.1.0 running for 1h 10s, PID 7
listening unix:/x\u{fffd}[2J raw tls
TLS       /etc/x.pem ends in 31 days
clients   2 of 960, 1,000 ever
lines     3,400/s in, 0.5/s out; 12 in, 34 out
bytes     0 B/s in, 0 B/s out; 5 B in, 6 B out
buffer    50.0 % of 64.0 MiB; 1 waiting to send, waited 1m 1s in all
closed    2 slow
skipped   0 messages

CLIENT  BEHIND   PENDING  SKIPPED    IDLE   LINES IN  LINES OUT  BYTES IN  BYTES OUT  PEER             LISTENER        FORMAT
     1   4,999  64.0 MiB        0  1m 15s  1,234,567          3   2.0 KiB        4 B  192.0.2.1:40000  127.0.0.1:2345  text
     2   4,998  64.0 MiB        0  1m 15s  1,234,567          3   2.0 KiB        4 B  192.0.2.1:40000  127.0.0.1:2345  text, leaving

CLOSED  REASON  AGO   LINES IN  LINES OUT  BEHIND  PEER  LISTENER
    99  slow     3s  1,234,567          3   1,234  unix  127.0.0.1:2345
";
    assert_eq!(text, expected);
}

#[test]
fn channels_are_shown_where_there_is_more_than_main() {
    let mut status = status(1);
    status.listeners[0].address = "[::]:1".to_owned();
    status.listeners.push(ListenerRow {
        address: "unix:/y".to_owned(),
        format: "json".to_owned(),
        channel: "nmea".to_owned(),
        role: "subscribe".to_owned(),
        line_end: "nul".to_owned(),
        http: false,
        tls: false,
        hello: true,
        history: Some("1MiB".to_owned()),
    });
    let nmea = channel_row("nmea", ChannelKind::Named);
    status.channels.push(nmea);
    let open = channel_row("x\x1b[2J", ChannelKind::Open);
    status.channels.push(open);
    status.channels_count = 1003;
    status.lines_ignored = 18;
    status.recently_closed[0].who.channel = "gone".to_owned();
    let client = &mut status.furthest_behind[0].who;
    client.channel = "nmea".to_owned();
    client.role = "subscribe".to_owned();
    let text = text(&status, usize::MAX);
    let (_, text) = text.split_once("PID 7\n").unwrap();
    let expected = "\
listening [::]:1 raw, unix:/y json channel=nmea role=subscribe line-end=nul history=1MiB hello
clients   1 of 960, 1,000 ever
lines     3,400/s in, 0.5/s out; 12 in, 34 out
bytes     0 B/s in, 0 B/s out; 5 B in, 6 B out
buffer    50.0 % of 64.0 MiB; 1 waiting to send, waited 1m 1s in all
closed    2 slow
skipped   0 messages
ignored   18 lines of clients that may not publish

CHANNEL  KIND   CLIENTS  MESSAGES  LINES IN  LINES OUT  BYTES IN  BYTES OUT  BUFFER  WAITING  SKIPPED  DISCARDED  IGNORED
main     named        3     1,234         6     70,000   1.0 KiB   64.0 MiB   1.6 %        1        7          8        9
nmea     named        3     1,234         6     70,000   1.0 KiB   64.0 MiB   1.6 %        1        7          8        9
x\u{fffd}[2J    open         3     1,234         6     70,000   1.0 KiB   64.0 MiB   1.6 %        1        7          8        9
and 1,000 more

CLIENT  CHANNEL  BEHIND   PENDING  SKIPPED    IDLE   LINES IN  LINES OUT  BYTES IN  BYTES OUT  PEER             LISTENER        FORMAT
     1  nmea      4,999  64.0 MiB        0  1m 15s  1,234,567          3   2.0 KiB        4 B  192.0.2.1:40000  127.0.0.1:2345  text, subscribe

CLOSED  CHANNEL  REASON  AGO   LINES IN  LINES OUT  BEHIND  PEER  LISTENER
    99  gone     slow     3s  1,234,567          3   1,234  unix  127.0.0.1:2345
";
    assert_eq!(text, expected);
}

fn history_row(on_disk: bool) -> HistoryRow {
    HistoryRow {
        epoch: "5f3a9c11".to_owned(),
        bytes: 48 << 20,
        limit_bytes: 64 << 20,
        messages: 1_234_567,
        oldest_seq: 4711,
        next_seq: 2_000_000,
        oldest: Some("2026-01-04T10:00:00.000Z".to_owned()),
        on_disk,
        in_stream: false,
        segments: if on_disk { 6 } else { 0 },
        pending_bytes: if on_disk { 5000 } else { 0 },
        sync_lag_seconds: if on_disk { 0.25 } else { 0.0 },
        readers: 12,
        sessions: 0,
        error: None,
    }
}

/// The lines of the list of what is kept.
fn history_lines(status: &Status) -> String {
    let text = text(status, usize::MAX);
    let lines = text.lines().skip_while(|line| !line.starts_with("HISTORY"));
    let lines = lines.take_while(|line| !line.is_empty());
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn what_is_kept_is_shown_where_some_channel_keeps_something() {
    let mut status = status(1);
    status.channels[0].history = Some(history_row(false));
    let expected = "\
HISTORY  EPOCH      MESSAGES      KEPT  FULL  OLDEST  READERS
main     5f3a9c11  1,234,567  48.0 MiB  75 %    1day       12
";
    assert_eq!(history_lines(&status), expected);

    let mut nmea = channel_row("nmea", ChannelKind::Named);
    nmea.history = Some(HistoryRow {
        sessions: 3,
        ..history_row(true)
    });
    let mut empty = channel_row("x\x1b[2J", ChannelKind::Open);
    empty.history = Some(HistoryRow {
        bytes: 0,
        messages: 0,
        oldest: None,
        ..history_row(false)
    });
    let none = channel_row("none", ChannelKind::Named);
    status.channels.extend([nmea, none, empty]);
    status.channels_count = 4;
    status.furthest_behind[0].catching_up = true;
    let expected = "\
HISTORY  EPOCH      MESSAGES      KEPT  FULL  OLDEST  READERS  PENDING   LAG  SESSIONS  FILES
main     5f3a9c11  1,234,567  48.0 MiB  75 %    1day       12      0 B    0s         0      0
nmea     5f3a9c11  1,234,567  48.0 MiB  75 %    1day       12  4.9 KiB  0.2s         3      6
x\u{fffd}[2J    5f3a9c11          0       0 B   0 %       -       12      0 B    0s         0      0
";
    assert_eq!(history_lines(&status), expected);
    let text = text(&status, usize::MAX);
    assert!(text.contains("  text, catching up\n"), "{text}");
    // Nothing has failed.
    assert!(!text.contains("\nhistory "), "{text}");
}

#[test]
fn what_matters_of_a_history_fits_into_80_columns() {
    let mut status = status(1);
    status.channels[0].history = Some(HistoryRow {
        bytes: (99 << 30) + (800 << 20),
        limit_bytes: 100 << 30,
        messages: 99_999_999,
        oldest: Some("2025-10-20T10:00:00.000Z".to_owned()),
        pending_bytes: 99 << 20,
        sync_lag_seconds: 9.9,
        sessions: 7,
        ..history_row(true)
    });
    let lines = history_lines(&status);
    let (head, row) = lines.split_once('\n').unwrap();
    let end = head.find("LAG").unwrap() + "LAG".len();
    assert!(end <= 80, "{end}: {lines}");
    assert!(row[..end].ends_with("  9.9s"), "{lines}");
}

#[test]
fn history_that_has_failed_is_said_above_all_lists() {
    let mut status = status(1);
    let failed = |name: &str| {
        let mut row = channel_row(name, ChannelKind::Named);
        row.history = Some(HistoryRow {
            error: Some("No space left on \x1b device".to_owned()),
            ..history_row(true)
        });
        row
    };
    status.channels = vec![failed("main")];
    let said = |status: &Status| {
        let head = head(status);
        let line = head.lines().find(|line| line.starts_with("history"));
        line.unwrap().to_owned()
    };
    let one = "history   of channel main has failed: No space left on \u{fffd} device";
    assert_eq!(said(&status), one);
    status.channels.extend(["a", "b"].map(failed));
    assert_eq!(said(&status), format!("{one} (and 2 more)"));
}

#[test]
fn screen_has_room_for_channels_clients_and_who_was_closed() {
    let mut status = status(2000);
    let names = (0..30).map(|number| format!("c{number}"));
    status.channels = names
        .map(|name| channel_row(&name, ChannelKind::Named))
        .collect();
    status.channels_count = 30;
    status.lines_ignored = 1;
    status.recently_closed = vec![status.recently_closed[0].clone(); 50];
    for (rows, last, more) in [
        (24, "c2", "and 27 more"),
        (39, "c2", "and 27 more"),
        (40, "c7", "and 22 more"),
    ] {
        let text = text(&status, rows);
        assert!(text.lines().count() < rows, "{rows}: {text}");
        let mut list = text.lines().skip_while(|line| !line.starts_with(last));
        assert_eq!(list.nth(1), Some(more), "{text}");
        assert!(text.contains("\n     1  main "), "{text}");
        assert!(text.contains("\n    99  main     slow"), "{text}");
    }
}

#[test]
fn screen_has_room_for_what_is_kept() {
    let mut status = status(2000);
    status.lines_ignored = 1;
    status.recently_closed = vec![status.recently_closed[0].clone(); 50];
    let mut main = channel_row("main", ChannelKind::Named);
    main.history = Some(HistoryRow {
        error: Some("Input/output error".to_owned()),
        ..history_row(true)
    });
    status.channels = vec![main.clone()];
    for rows in [24, 39, 40] {
        let text = text(&status, rows);
        assert!(text.lines().count() < rows, "{rows}: {text}");
        assert!(text.contains("\nmain     5f3a9c11  "), "{text}");
        assert!(text.contains("\n     1   4,999  "), "{text}");
        assert!(text.contains("\n    99  slow"), "{text}");
    }
    let names = (0..30).map(|number| format!("c{number}"));
    status.channels = names
        .map(|name| ChannelRow {
            name,
            ..main.clone()
        })
        .collect();
    status.channels_count = 30;
    for (rows, last, more) in [(24, "c0", "and 29 more"), (40, "c4", "and 25 more")] {
        let text = text(&status, rows);
        assert!(text.lines().count() < rows, "{rows}: {text}");
        let after = |line: &str| {
            let mut list = text.lines().skip_while(|found| !found.starts_with(line));
            list.nth(1).map(str::to_owned)
        };
        assert_eq!(after(&format!("{last} ")).as_deref(), Some(more), "{text}");
        let epoch = format!("{last}       5f3a9c11  ");
        assert_eq!(after(&epoch).as_deref(), Some(more), "{text}");
        assert!(text.contains("\n     1  main "), "{text}");
    }
}

#[test]
fn list_is_cut_to_the_rows_there_are() {
    let text = text(&status(2000), 24);
    assert!(text.lines().count() <= 23, "{text}");
    assert!(
        text.contains("and 1,991 more that are less behind\n"),
        "{text}"
    );
    assert!(text.contains("\n    99  slow"), "{text}");
}

#[test]
fn screen_is_redrawn_in_place_and_never_scrolls() {
    let drawn = redraw("abcdef\nx\ny\nz\n", 3, 4);
    assert_eq!(drawn, "\x1b[Habc\x1b[K\r\nx\x1b[K\r\ny\x1b[K\r\n\x1b[J");
}

/// Two daemons that share `main`, of which this one is connected.
fn shared_status() -> Status {
    let node = |name: &str, this| NodeRow {
        id: "00ff".to_owned(),
        name: name.to_owned(),
        this,
        clients: 1234,
        seen_seconds_ago: 1.5,
    };
    let mut status = status(1);
    status.cluster = Some(ClusterRow {
        connected: true,
        server: Some("nats.example:4222".to_owned()),
        reconnects: 2,
        error: None,
        nodes: vec![node("one:7", true), node("two\x1b:8", false)],
    });
    status.channels[0].shared = Some(SharedRow {
        lag_messages: 0,
        unacknowledged_batches: 0,
        queued_bytes: 0,
        error: None,
    });
    status.channels[0].history = Some(HistoryRow {
        in_stream: true,
        ..history_row(false)
    });
    status
}

#[test]
fn nodes_and_what_is_shared_are_shown_where_there_are_others() {
    let mut status = shared_status();
    let shown = text(&status, usize::MAX);
    for part in [
        "\nNATS      nats.example:4222; 2 nodes, 2 reconnects\n",
        "\nCHANNEL  KIND           CLIENTS ",
        "\nmain     named, shared        3 ",
        "  READERS  IN\n",
        "       12  stream\n",
        "\n\nNODE  CLIENTS      SEEN  NAME\n\
         00ff    1,234  this one  one:7\n\
         00ff    1,234  1.5s ago  two\u{fffd}:8\n\n",
    ] {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    let shared = status.channels[0].shared.as_mut().unwrap();
    shared.lag_messages = 1200;
    shared.queued_bytes = 2048;
    shared.error = Some("the stream is full".to_owned());
    let shown = text(&status, usize::MAX);
    for part in [
        "\nstream    channel main stands still: the stream is full\n",
        "\nCHANNEL  KIND           STREAM  ",
        "\nmain     named, shared  1,200 to take, 2.0 KiB waiting  ",
    ] {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    let cluster = status.cluster.as_mut().unwrap();
    cluster.connected = false;
    cluster.error = Some("refused".to_owned());
    let shown = text(&status, usize::MAX);
    assert!(
        shown.contains("\nNATS      is away: refused; 2 nodes"),
        "{shown}"
    );
    assert!(!shown.contains("\nstream "), "{shown}");
}

#[test]
fn screen_has_room_for_nodes() {
    let mut status = shared_status();
    status.recently_closed = vec![status.recently_closed[0].clone(); 50];
    let main = status.channels[0].clone();
    let names = (0..30).map(|number| format!("c{number}"));
    status.channels = names
        .map(|name| ChannelRow {
            name,
            ..main.clone()
        })
        .collect();
    status.channels_count = 30;
    let cluster = status.cluster.as_mut().unwrap();
    cluster.nodes = vec![cluster.nodes[1].clone(); 10];
    for rows in [24, 40] {
        let text = text(&status, rows);
        assert!(text.lines().count() < rows, "{rows}: {text}");
        assert!(text.contains("\n     1  main "), "{text}");
        assert_eq!(text.contains("\nNODE "), rows == 40, "{text}");
    }
}
