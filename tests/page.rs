//! The status page in a browser: what a person sees of the running daemon.

use crate::common::http::get;
use crate::common::{Address, Browser, Client, Launch, Page, Scheme, Server, eventually};

/// A daemon that shows itself, and where.
fn start(args: &[&str]) -> (Server, Address) {
    let server = Server::start(&[&["--admin=127.0.0.1:0"], args].concat());
    let admin = server.admin();
    (server, admin)
}

/// Opens the page and waits until it shows the daemon.
#[track_caller]
fn open<'a>(browser: &'a Browser, admin: &Address) -> Page<'a> {
    let page = browser.open(&format!("http://{admin}/"));
    page.wait_for(LIVE);
    page
}

const LIVE: &str = "document.documentElement.dataset.state === 'live'";
const LOST: &str = "document.documentElement.dataset.state === 'lost'";

/// A figure's exact value; `None` while there is none.
#[track_caller]
fn figure(page: &Page<'_>, name: &str) -> Option<f64> {
    let value = format!("document.querySelector('[data-figure=\"{name}\"]').dataset.value");
    page.text(&value).parse().ok()
}

/// Waits until the page shows this value.
#[track_caller]
fn wait_figure(page: &Page<'_>, name: &str, value: u64) {
    page.wait_for(&format!(
        "document.querySelector('[data-figure=\"{name}\"]').dataset.value === '{value}'"
    ));
}

/// Nothing was thrown, failed or forbidden, and nobody but the daemon was asked for anything.
#[track_caller]
fn assert_clean(page: &Page<'_>, admin: &Address) {
    let problems = page.problems();
    assert!(problems.is_empty(), "{problems:#?}");
    let own = format!("http://{admin}/");
    for url in page.requests() {
        assert!(url.starts_with(&own) || url.starts_with("data:"), "{url}");
    }
}

#[test]
fn page_shows_the_numbers_that_the_metrics_have() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let (server, admin) = start(&["--max-clients=40"]);
    let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(&server)).collect();
    let (first, rest) = clients.split_first_mut().unwrap();
    for n in 0..1234 {
        first.send_line(&format!("line {n}"));
    }
    for client in rest {
        client.lines_until("Message from client 1: line 1233");
    }
    let mut stuck = Client::connect_stuck(&server, 0);
    stuck.finish();
    stuck.lines_to_eof();
    server.wait_log("client disconnected client=4");

    let page = open(&browser, &admin);
    wait_figure(&page, "clients_connected_total", 4);
    let metrics = get(&admin, "/metrics");
    for (name, sample) in [
        ("clients", "linehub_clients"),
        ("clients_connected_total", "linehub_clients_connected_total"),
        ("lines_in", "linehub_lines_received_total"),
        ("lines_out", "linehub_lines_sent_total"),
        ("buffer_used_bytes", "linehub_buffer_used_bytes"),
        ("buffer_limit_bytes", "linehub_buffer_limit_bytes"),
        ("senders_waiting", "linehub_senders_waiting"),
    ] {
        let value = metrics.sample(sample);
        eventually(&format!("{name} is {value}"), || {
            figure(&page, name) == Some(value)
        });
    }
    assert_eq!(figure(&page, "clients_max"), Some(40.0));
    let eof = "Number(document.querySelector('[data-reason=\"eof\"]').dataset.value)";
    let closed = metrics.sample("linehub_connections_closed_total{reason=\"eof\"}");
    assert_eq!(page.evaluate(eof).as_f64(), Some(closed));
    // Beside the exact number, one for people.
    let shown = "document.querySelector('[data-figure=\"lines_in\"]').textContent";
    assert_eq!(page.text(shown), "1,234");
    assert_eq!(page.text("document.title"), "linehub: 3 clients");
    assert_clean(&page, &admin);
}

#[test]
fn page_follows_lines_and_clients_without_a_reload() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let (server, admin) = start(&[]);
    let page = open(&browser, &admin);
    assert_eq!(page.text("document.title"), "linehub: 0 clients");
    page.wait_for("!document.getElementById('clients-empty').hidden");
    page.evaluate("window.sameDocument = true");

    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    page.wait_for("document.querySelector('tr[data-client=\"2\"]') !== null");
    page.wait_for("document.title === 'linehub: 2 clients'");
    for (client, count) in [(1, 5), (2, 7)] {
        let from = if client == 1 { &mut one } else { &mut two };
        (0..count).for_each(|n| from.send_line(&format!("line {n}")));
    }
    wait_figure(&page, "lines_in", 12);
    wait_figure(&page, "lines_out", 12);
    // The second in which they came is a peak of the chart.
    page.wait_for(
        "document.querySelector('#chart-in .readout').textContent.match(/peak (.*)/)[1] !== '0'",
    );

    let address = two.local_address().to_string();
    two.reset();
    page.wait_for("document.querySelector('tr[data-client=\"2\"]') === null");
    page.wait_for("document.querySelector('tr[data-closed=\"2\"]') !== null");
    let row = page.text("document.querySelector('tr[data-closed=\"2\"]').textContent");
    assert!(row.contains(&address), "{row}");
    let why = page.text("document.querySelector('tr[data-closed=\"2\"] a').title");
    assert!(why.starts_with("The connection broke"), "{why}");
    page.wait_for(
        "document.querySelector('[data-figure=\"closed_for_fault\"]').dataset.value === '1'",
    );
    assert_eq!(page.evaluate("window.sameDocument"), true);
    assert_clean(&page, &admin);
}

#[test]
fn page_finds_a_daemon_that_was_restarted() {
    let Some(browser) = Browser::start() else {
        return;
    };
    // An address that nobody else uses: the port is free again for the second daemon.
    let mut first = Server::start(&["--admin=127.83.1.2:0"]);
    let admin = first.admin();
    let page = open(&browser, &admin);
    let mut client = Client::connect(&first);
    client.send_line("one");
    wait_figure(&page, "lines_in", 1);
    wait_figure(&page, "pid", first.pid().into());
    page.evaluate("window.sameDocument = true");

    first.stop();
    page.wait_for(LOST);
    page.wait_for("document.getElementById('connection').textContent === 'Reconnecting…'");
    assert_eq!(page.text("document.title"), "linehub: reconnecting…");
    assert_eq!(
        page.evaluate("document.getElementById('lost').hidden"),
        false
    );
    page.wait_for("getComputedStyle(document.querySelector('main')).opacity < 0.6");

    let second = Launch::new(&[&format!("--admin={admin}")]).start();
    page.wait_for(LIVE);
    wait_figure(&page, "pid", second.pid().into());
    wait_figure(&page, "lines_in", 0);
    assert_eq!(
        page.evaluate("document.getElementById('lost').hidden"),
        true
    );
    // What it does then is shown as before.
    let _client = Client::connect(&second);
    page.wait_for("document.title === 'linehub: 1 client'");
    assert_eq!(page.evaluate("window.sameDocument"), true);
    // What went wrong meanwhile is that nobody was there, and nothing else.
    for problem in page.problems() {
        assert!(problem.contains("net::ERR_"), "{problem}");
        assert!(problem.contains("/events"), "{problem}");
    }
}

#[test]
fn page_shows_everything_that_comes_from_outside_as_text() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    // A path has room for an element: a directory up to the slash, and a socket after it.
    let element = "<b>bold</b>";
    std::fs::create_dir(dir.path().join("<b>bold<")).unwrap();
    let path = dir.path().join(element);
    let (server, admin) = start(&[&format!("--listen=unix:{}", path.display())]);

    let mut client = Client::connect(&server);
    client.send_line(element);
    let page = open(&browser, &admin);
    wait_figure(&page, "lines_in", 1);
    page.wait_for("document.querySelector('tr[data-client=\"1\"]') !== null");
    let row = page.text("document.querySelector('tr[data-client=\"1\"]').textContent");
    assert!(row.contains(element), "{row}");
    let listeners = page.text("document.getElementById('listeners').textContent");
    assert!(listeners.contains(element), "{listeners}");
    drop(client);
    page.wait_for("document.querySelector('tr[data-closed=\"1\"]') !== null");
    // The empty list says how to become a client of this listener.
    let invitation = page.text("document.getElementById('clients-empty').textContent");
    assert!(invitation.contains(element), "{invitation}");

    // No daemon says such things, whatever its clients do; and if one did?
    let hostile = r#"fetch("status").then((answer) => answer.json()).then((status) => {
        const text = "</td><img src=x onerror='window.ran=1'>\u202e\"";
        const row = { id: text, peer: text, listener: text, format: text, channel: text, role: text, connected_since: text };
        status.listeners = [{ address: text, format: text, channel: text, role: text, line_end: text, hello: text }];
        status.channels = [{ name: text, kind: text, clients: text, messages: text, buffer_used_bytes: text, buffer_limit_bytes: text, history: {
            epoch: text, bytes: text, limit_bytes: text, messages: text, oldest_seq: text, next_seq: text, oldest: text, on_disk: text,
            segments: text, pending_bytes: text, sync_lag_seconds: text, readers: text, sessions: text, error: text,
        } }];
        status.channels[0].shared = { lag_messages: text, unacknowledged_batches: text, queued_bytes: text, error: text };
        status.cluster = { connected: text, server: text, reconnects: text, error: text, nodes: [{ id: text, name: text, this: text, clients: text, seen_seconds_ago: text }] };
        status.channels_count = text;
        status.furthest_behind = [{ ...row, messages_behind: text, bytes_pending: text }];
        status.recently_closed = [{ ...row, closed_at: text, reason: text }];
        status.closed_by_reason[text] = 1;
        status.version = status.phase = status.pid = text;
        show(status);
        const { textContent } = document.body;
        const elements = document.querySelectorAll("b, img, script, iframe, [onerror], [src]").length;
        return [elements, textContent.split("<img src=x onerror").length - 1];
    })"#;
    let found = page.evaluate(hostile);
    // The page's own script is the one element.
    assert_eq!(found[0], 1, "{found}");
    assert!(found[1].as_u64() >= Some(17), "{found}");
    assert_eq!(page.evaluate("window.ran === undefined"), true);
    assert_clean(&page, &admin);
}

#[test]
fn page_shows_channels_where_there_is_more_than_main() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let (server, admin) = start(&[
        "--listen=127.0.0.1:0,channel=a",
        "--listen=127.0.0.1:0,channel=b,role=subscribe,format=json,line-end=nul",
    ]);
    let mut one = Client::connect_to(&server, 0);
    let mut two = Client::connect_to(&server, 0);
    let gone = Client::connect_to(&server, 1);
    one.expect_line("New client connected: 2");
    one.send_line("x");
    two.expect_message(1, "x");
    gone.reset();
    server.wait_log("client disconnected client=3");
    let page = open(&browser, &admin);
    page.wait_for("document.querySelector('tr[data-closed=\"3\"]') !== null");
    let cells = |row: &str| cells(&page, row);
    assert_eq!(
        cells("#channels thead tr")[..4],
        ["Channel", "Kind", "Clients", "Messages"]
    );
    page.wait_for("document.querySelector('tr[data-channel=\"a\"]').cells[3].textContent === '1'");
    assert_eq!(
        cells("tr[data-channel=\"a\"]")[..4],
        ["a", "named", "2", "1"]
    );
    assert_eq!(
        cells("tr[data-channel=\"b\"]")[..4],
        ["b", "named", "0", "0"]
    );
    assert_eq!(cells("tr[data-client=\"1\"]")[3], "a");
    assert_eq!(cells("tr[data-closed=\"3\"]")[3], "b");
    let listener = &cells("tr[data-closed=\"3\"]")[2];
    assert!(listener.ends_with(" json, subscribe"), "{listener}");
    let listeners = page.text("document.getElementById('listeners').textContent");
    let expected = format!(
        "{} text channel=a{} json channel=b role=subscribe line-end=nul",
        server.addr(0),
        server.addr(1)
    );
    assert_eq!(listeners, expected);
    // A full channel is told of, however empty the others are.
    let fullest = r#"fetch("status").then((answer) => answer.json()).then((status) => {
        const a = status.channels.find((channel) => channel.name === "a");
        status.buffer_used_bytes = a.buffer_used_bytes = a.buffer_limit_bytes;
        show(status);
        return [document.getElementById("fullest").textContent, document.getElementById("tile-buffer").dataset.level];
    })"#;
    let fullest = page.evaluate(fullest);
    assert_eq!(
        fullest,
        serde_json::json!(["most in a: 100\u{202f}%", "bad"])
    );
    // The heading names the table to those who do not see it.
    let region = "document.getElementById(document.getElementById('channels').parentElement.getAttribute('aria-labelledby')).textContent";
    assert_eq!(page.text(region), "Channels");
    assert_clean(&page, &admin);
}

#[test]
fn page_does_not_speak_of_channels_where_there_is_only_main() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let (server, admin) = start(&[]);
    let _client = Client::connect(&server);
    let gone = Client::connect(&server);
    gone.reset();
    server.wait_log("client disconnected client=2");
    let page = open(&browser, &admin);
    page.wait_for("document.querySelector('tr[data-closed=\"2\"]') !== null");
    page.wait_for("document.querySelector('tr[data-client=\"1\"]') !== null");
    let visible = page.text("document.body.innerText").to_lowercase();
    // What each reason means is said of all of them.
    let (shown, _) = visible.split_once("closed by reason").unwrap();
    for word in ["channel", "both", "ignored", "history"] {
        assert!(!shown.contains(word), "{word} in {shown}");
    }
    assert_clean(&page, &admin);
}

/// Has the page show, from the next status on, a history in every channel: one on disk.
const WITH_HISTORIES: &str = r#"(() => {
    const plain = show;
    show = (status) => {
        const oldest = new Date(Date.parse(status.now) - 93784e3).toISOString();
        const history = {
            epoch: "5f3a9c11", bytes: 48 << 20, limit_bytes: 64 << 20, messages: 1234567, oldest_seq: 4711, next_seq: 1300000, oldest,
            on_disk: true, segments: 6, pending_bytes: 4999, sync_lag_seconds: 0.25, readers: 2, sessions: 3, error: null, ...window.change,
        };
        for (const channel of status.channels) channel.history = history;
        for (const client of status.furthest_behind) client.catching_up = true;
        plain(status);
    };
})()"#;

/// The texts of the cells of a row that are seen.
#[track_caller]
fn cells(page: &Page<'_>, row: &str) -> Vec<String> {
    let texts = format!(
        "[...document.querySelector('{row}').cells].filter((c) => c.checkVisibility()).map((c) => c.textContent)"
    );
    let texts = page.evaluate(&texts);
    let texts = texts.as_array().unwrap().iter();
    texts
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn page_shows_what_channels_keep_and_which_history_has_failed() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let (server, admin) = start(&["--listen=127.0.0.1:0,channel=a"]);
    let _client = Client::connect(&server);
    let page = open(&browser, &admin);
    page.wait_for("document.querySelector('tr[data-client=\"1\"]') !== null");
    let hidden =
        "[document.getElementById('histories').hidden, document.getElementById('failed').hidden]";
    assert_eq!(page.evaluate(hidden), serde_json::json!([true, true]));

    page.evaluate(WITH_HISTORIES);
    page.wait_for("document.querySelector('tr[data-history=\"main\"]') !== null");
    assert_eq!(page.evaluate(hidden), serde_json::json!([false, true]));
    let head = [
        "Channel", "Epoch", "Messages", "Kept", "Full", "Oldest", "Readers", "Sessions", "Pending",
        "Sync lag", "Where",
    ];
    assert_eq!(cells(&page, "#history thead tr"), head);
    let row = [
        "a",
        "5f3a9c11",
        "1.23\u{202f}M",
        "48.0\u{202f}MiB",
        "75\u{202f}%",
        "1\u{202f}d 2\u{202f}h",
        "2",
        "3",
        "4.88\u{202f}KiB",
        "0.3\u{202f}s",
        "6 files",
    ];
    assert_eq!(cells(&page, "tr[data-history=\"a\"]"), row);
    let told = |cell: usize| {
        let title = format!("document.querySelector('tr[data-history=\"a\"]').cells[{cell}].title");
        page.text(&title)
    };
    assert_eq!(told(1), "Numbers 4,711 to 1,299,999");
    assert_eq!(told(4), "50,331,648 of 67,108,864 bytes");
    let summary = "document.getElementById('history-summary').textContent";
    assert_eq!(page.text(summary), "4 clients read from it");
    assert_eq!(cells(&page, "tr[data-client=\"1\"]")[0], "#1, catching up");

    // A memory history that is empty.
    page.evaluate("window.change = { on_disk: false, messages: 0, bytes: 0, oldest_seq: 7, next_seq: 7, oldest: null, readers: 0 }");
    page.wait_for("document.querySelector('tr[data-history=\"a\"]').cells[2].textContent === '0'");
    let row = cells(&page, "tr[data-history=\"a\"]");
    assert_eq!((row[5].as_str(), row[10].as_str()), ("–", "memory"));
    assert_eq!(told(1), "Nothing is kept");
    assert_eq!(page.text(summary), "nobody reads from it");

    page.evaluate("window.change = { error: 'No space left on device' }");
    page.wait_for("!document.getElementById('failed').hidden");
    assert_eq!(
        page.text("document.getElementById('failed').textContent"),
        "History of channel a has failed: No space left on device (and 1 more). Its senders wait."
    );
    assert_eq!(cells(&page, "tr[data-history=\"a\"]")[10], "failed");
    page.evaluate("window.change = {}");
    page.wait_for("document.getElementById('failed').hidden");
    assert_clean(&page, &admin);
}

#[test]
fn page_shows_the_history_that_the_daemon_keeps() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let (server, admin) = start(&[
        "--history=1MiB",
        "--listen=127.0.0.1:0,hello",
        "--listen=127.0.0.1:0,history=5",
    ]);
    let (mut one, place) = Client::introduced(server.addr(0), "");
    let (mut two, _) = Client::introduced(server.addr(0), "");
    one.expect_line("New client connected: 2");
    for n in 1..=3 {
        one.send_line(&format!("line {n}"));
        two.expect_message(1, &format!("line {n}"));
    }
    let page = open(&browser, &admin);
    let row = "tr[data-history=\"main\"]";
    page.wait_for(&format!("document.querySelector('{row}') !== null"));
    let cells = cells(&page, row);
    assert_eq!(cells[..3], ["main", &place.epoch, "3"]);
    assert_eq!(cells[10], "memory");
    let kept = page.text(&format!("document.querySelector('{row}').cells[3].title"));
    let bytes = get(&admin, "/metrics").sample("linehub_history_bytes{channel=\"main\"}");
    assert_eq!(kept.replace(',', ""), format!("{bytes} bytes"));
    // Two notices and three lines.
    let numbers = page.text(&format!("document.querySelector('{row}').cells[1].title"));
    assert_eq!(numbers, "Numbers 1 to 5");
    let listeners = page.text("document.getElementById('listeners').textContent");
    let expected = format!(
        "{} text hello{} text history=5",
        server.addr(0),
        server.addr(1)
    );
    assert_eq!(listeners, expected);
    assert_clean(&page, &admin);
}

#[test]
fn page_fits_a_phone() {
    let Some(browser) = Browser::start() else {
        return;
    };
    // As long as a path of a socket may be, nearly.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("l".repeat(80));
    let channel = "c".repeat(64);
    let listen = format!("--listen=unix:{},channel={channel}", path.display());
    let (server, admin) = start(&["--listen=127.0.0.1:0", "--listen=[::1]:0", &listen]);
    let mut clients: Vec<Client> = (0..24)
        .map(|n| Client::connect_to(&server, n % 3))
        .collect();
    clients.drain(..12).for_each(Client::reset);
    let page = open(&browser, &admin);
    wait_figure(&page, "clients", 12);
    page.evaluate(WITH_HISTORIES);
    page.evaluate("window.change = { error: 'E'.repeat(300) }");
    page.wait_for("!document.getElementById('failed').hidden");
    for (width, height) in [(390, 844), (320, 568)] {
        page.be_a_phone(width, height);
        page.wait_for(&format!("innerWidth === {width}"));
        // The longest it gets.
        page.evaluate("document.querySelectorAll('button[aria-expanded=false]').forEach((button) => button.click())");
        let wide = page.evaluate(
            "[...document.querySelectorAll('body *')]
                .filter((e) => e.getBoundingClientRect().right > innerWidth + 0.5 && !e.closest('caption'))
                .map((e) => e.outerHTML.slice(0, 100))",
        );
        assert_eq!(wide, serde_json::json!([]), "at {width}");
        let overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth");
        assert!(overflow.as_f64() <= Some(0.0), "{overflow} at {width}");
        // A chart is as sharp as the screen.
        page.wait_for("[...document.querySelectorAll('canvas')].every((c) => c.width === Math.round(c.clientWidth * 2))");
    }
    assert_clean(&page, &admin);
}

#[test]
fn page_is_readable_in_light_and_in_dark() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let (server, admin) = start(&["--listen=127.0.0.1:0,channel=a"]);
    let mut clients: Vec<Client> = (0..4).map(|_| Client::connect(&server)).collect();
    clients.drain(..2).for_each(Client::reset);
    let page = open(&browser, &admin);
    wait_figure(&page, "clients", 2);
    page.wait_for("document.querySelector('tr[data-closed=\"2\"]') !== null");
    page.evaluate(WITH_HISTORIES);
    page.evaluate("window.change = { error: 'No space left on device' }");
    page.wait_for("!document.getElementById('failed').hidden");
    let mut grounds = Vec::new();
    for scheme in [Scheme::Light, Scheme::Dark] {
        page.prefer(scheme);
        page.wait_for(&format!(
            "matchMedia('(prefers-color-scheme: dark)').matches === {}",
            matches!(scheme, Scheme::Dark)
        ));
        // A chart is no element that the style could change: it is drawn anew.
        page.wait_for(AXES_ARE_OF_THE_SCHEME);
        let ground = "getComputedStyle(document.documentElement).backgroundColor";
        grounds.push(page.text(ground));
        // 4.5 is what WCAG 2.2 asks of text, in 1.4.3.
        let faint = page.evaluate(FAINT_TEXT);
        assert_eq!(faint, serde_json::json!([]), "{scheme:?}");
    }
    assert_ne!(grounds[0], grounds[1]);
    assert_clean(&page, &admin);
}

/// Whether each chart has pixels in just the colour that lines have in this scheme.
const AXES_ARE_OF_THE_SCHEME: &str = r##"(() => {
    const line = getComputedStyle(document.documentElement).getPropertyValue("--line").trim();
    const [r, g, b] = line.match(/[0-9a-f]{2}/g).map((part) => parseInt(part, 16));
    return [...document.querySelectorAll("canvas")].every((canvas) => {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        for (let i = 0; i < data.length; i += 4) {
            if (data[i] === r && data[i + 1] === g && data[i + 2] === b && data[i + 3] === 255) return true;
        }
        return false;
    });
})()"##;

/// The texts that stand out less than 4.5 to 1 from what is behind them, by WCAG's formula.
const FAINT_TEXT: &str = r#"(() => {
    const parts = (colour) => colour.match(/[\d.]+/g).map(Number);
    const light = (colour) => {
        const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        const [r, g, b] = parts(colour).map(linear);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (parts(colour)[3] !== 0) return colour;
        }
    };
    const faint = [];
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.data.trim());
        if (!own || !element.checkVisibility() || element.closest("script, noscript")) continue;
        const [a, b] = [getComputedStyle(element).color, behind(element)].map(light).sort((a, b) => b - a);
        const contrast = (a + 0.05) / (b + 0.05);
        if (contrast < 4.5) faint.push(contrast.toFixed(2) + " " + element.outerHTML.slice(0, 80));
    }
    return faint;
})()"#;

#[test]
fn charts_are_read_by_key() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let (_server, admin) = start(&[]);
    let page = open(&browser, &admin);
    page.wait_for("samples.length >= 3");
    page.evaluate("document.querySelector('#chart-buffer canvas').focus()");
    page.press("ArrowLeft");
    page.press("ArrowLeft");
    let chart = "document.querySelector('#chart-buffer canvas')";
    let now = page.evaluate(&format!("{chart}.ariaValueNow"));
    assert_ne!(now, "0");
    let told = page.text(&format!("{chart}.ariaValueText"));
    assert!(told.ends_with('%'), "{told}");
    page.press("Escape");
    let readout = page.text("document.querySelector('#chart-buffer .readout').textContent");
    assert!(readout.starts_with("now "), "{readout}");
    assert_clean(&page, &admin);
}

#[test]
fn page_can_neither_ask_others_nor_run_what_was_not_built_in() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let (_server, admin) = start(&[]);
    let page = open(&browser, &admin);
    assert_clean(&page, &admin);
    // Shows too that the other tests would have seen it.
    page.evaluate(
        r#"document.body.append(
            Object.assign(document.createElement("img"), { src: "http://127.0.0.1:9/" }),
            Object.assign(document.createElement("script"), { textContent: "window.ran = 1" }),
        )"#,
    );
    page.evaluate("fetch('http://127.0.0.1:9/').catch(() => 0)");
    page.evaluate("document.body.setAttribute('onclick', 'window.ran = 1'), document.body.click()");
    assert_eq!(page.evaluate("window.ran === undefined"), true);
    for directive in ["img-src data:", "script-src 'sha256-", "connect-src 'self'"] {
        eventually(directive, || {
            page.problems().iter().any(|told| told.contains(directive))
        });
    }
}
