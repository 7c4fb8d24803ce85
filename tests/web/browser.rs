use serde_json::json;

use super::{HTTP, PLAIN, start};
use crate::common::relay::Relay;
use crate::common::{Browser, Client, Launch, Server, free_port};

/// Whether the page says that it is in this state.
fn is(state: &str) -> String {
    format!("document.documentElement.dataset.state === '{state}'")
}

fn shows(text: &str) -> String {
    format!(
        "document.getElementById('rows').innerText.includes({})",
        json!(text)
    )
}

#[test]
fn page_reads_and_writes() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let server = start(&["--history=1MiB"]);
    let mut plain = Client::connect_to(&server, PLAIN);
    plain.send_line("before it came");
    let page = browser.open(&format!("http://{}/", server.addr(HTTP)));
    page.wait_for(&is("live"));
    page.wait_for(&shows("before it came"));
    // What clients send is text, and nothing of it is done.
    for hostile in [
        "<b>not bold</b>",
        "<img src=x onerror=document.title='done'>",
        "\u{202e}turned",
    ] {
        plain.send_line(hostile);
    }
    page.wait_for(&shows("<b>not bold</b>"));
    page.wait_for(&shows("onerror"));
    assert_eq!(
        page.evaluate("document.querySelectorAll('#rows b, #rows img').length"),
        0
    );
    // As a person at the keys.
    page.evaluate("document.getElementById('line').focus()");
    page.evaluate("document.execCommand('insertText', false, 'typed here')");
    page.press("Enter");
    let mut line = plain.read_line();
    while !line.ends_with(": typed here") {
        line = plain.read_line();
    }
    page.wait_for(&shows("typed here"));
    assert_eq!(page.problems(), [""; 0]);
    // Nothing is loaded but the page itself and its socket.
    let requests = page.requests();
    let elsewhere = requests
        .iter()
        .filter(|url| !url.contains(&server.addr(HTTP).to_string()));
    let elsewhere: Vec<_> = elsewhere.filter(|url| !url.starts_with("data:")).collect();
    assert!(elsewhere.is_empty(), "{requests:?}");
}

#[test]
fn page_comes_back_by_itself_and_says_what_it_missed() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let port = free_port();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("history");
    let args = [
        "--listen=127.0.0.1:0".to_owned(),
        format!("--listen=127.0.0.1:{port},http"),
        "--history=1MiB".to_owned(),
        format!("--history-dir={}", dir.display()),
    ];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut server = Launch::new(&args).start();
    let page = browser.open(&format!("http://127.0.0.1:{port}/"));
    page.wait_for(&is("live"));
    Client::connect_to(&server, PLAIN).send_line("the first");
    page.wait_for(&shows("the first"));
    server.stop();
    page.wait_for(&is("lost"));
    let server = Launch::new(&args).start();
    let mut plain = Client::connect_to(&server, PLAIN);
    plain.send_line("while it was away");
    page.wait_for(&is("live"));
    page.wait_for(&shows("while it was away"));
    let count = "document.getElementById('rows').innerText.split('the first').length - 1";
    assert_eq!(page.evaluate(count), 1, "nothing comes twice");
}

#[test]
fn page_fits_a_phone() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let server = start(&[]);
    let page = browser.open(&format!("http://{}/main/", server.addr(HTTP)));
    page.be_a_phone(320, 640);
    page.wait_for(&is("live"));
    Client::connect_to(&server, PLAIN).send_line(&"wide".repeat(200));
    page.wait_for(&shows("widewide"));
    let fits = "document.documentElement.scrollWidth <= innerWidth";
    page.wait_for(fits);
}

#[test]
fn page_reaches_what_is_older_and_keeps_its_place() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let server = start(&["--history=1MiB"]);
    let mut plain = Client::connect_to(&server, PLAIN);
    (0..600).for_each(|i| plain.send_line(&format!("line {i}")));
    plain.send_line("the last");
    let page = browser.open(&format!("http://{}/", server.addr(HTTP)));
    page.wait_for(&shows("the last"));
    // As often as a person would.
    page.wait_for("(document.getElementById('log').scrollTop = 0, !following)");
    let in_sight = "document.elementFromPoint(...(({ x, y, width, height }) => \
                    [x + width / 2, y + height / 2])(document.getElementById('earlier').getBoundingClientRect()))?.id === 'earlier'";
    page.wait_for(in_sight);
    // It stays there when more comes.
    plain.send_line("one more");
    page.wait_for("document.getElementById('new').innerText.startsWith('1')");
    page.wait_for(in_sight);
    page.evaluate("document.getElementById('earlier').click()");
    page.wait_for("document.getElementById('counts').innerText.startsWith('60')");
    // Who chooses a line and lets go of it is still where it was.
    for id in ["new", "pause"] {
        page.evaluate(&format!("document.getElementById('{id}').click()"));
    }
    page.wait_for(&shows("one more"));
    page.evaluate("document.querySelector('#rows .message:last-child').click()");
    page.wait_for("document.querySelector('.selected') !== null");
    page.evaluate("document.querySelector('.selected').click()");
    page.wait_for("document.querySelector('.selected') === null");
    let is_paused = "document.getElementById('pause').getAttribute('aria-pressed')";
    assert_eq!(page.evaluate(is_paused), "true");
    assert_eq!(page.problems(), [""; 0]);
}

#[test]
fn page_that_may_only_read_says_so() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let listeners = [
        "--listen=127.0.0.1:0",
        "--listen=127.0.0.1:0,http,role=subscribe",
    ];
    let server = Server::start(&listeners);
    let page = browser.open(&format!("http://{}/", server.addr(HTTP)));
    page.wait_for(&is("live"));
    page.wait_for("document.getElementById('line').disabled");
    assert_eq!(page.problems(), [""; 0]);
}

#[test]
fn page_says_why_it_cannot_connect_and_when_its_connection_is_dead() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let server = start(&["--max-clients=4"]);
    let relay = Relay::to(server.addr(HTTP).port());
    let page = browser.open(&format!("http://127.0.0.1:{}/", relay.port()));
    page.wait_for(&is("live"));
    relay.freeze();
    // The wait, less most of it.
    page.evaluate("silent = SILENCE");
    // It comes back by another connection, if nothing is in the way.
    page.wait_for(&shows("Connection lost"));
    page.wait_for(&is("live"));
    relay.cut(true);
    let why = "document.getElementById('lost-why').innerText";
    page.wait_for(&is("lost"));
    server.wait_log_count("client disconnected", 2);
    let _crowd: Vec<_> = (0..8).map(|_| Client::dial(server.addr(PLAIN))).collect();
    server.wait_log("refusing connections");
    relay.cut(false);
    page.wait_for(&format!("{why}.includes('the server is full')"));
}
