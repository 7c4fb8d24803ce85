use super::{HTTP, PLAIN, start};
use crate::common::{Browser, Client};

#[test]
fn page_reads_writes_and_comes_back() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let server = start(&["--history=1MiB"]);
    let mut plain = Client::connect_to(&server, PLAIN);
    plain.send_line("before it came");
    let page = browser.open(&format!("http://{}/", server.addr(HTTP)));
    page.wait_for("document.body.innerText.includes('before it came')");
    plain.send_line("<b>not bold</b>");
    page.wait_for("document.body.innerText.includes('<b>not bold</b>')");
    assert_eq!(page.problems(), [""; 0]);
}
