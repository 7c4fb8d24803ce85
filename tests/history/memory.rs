//! What those cost who read the past, and take nothing.

use crate::common::{Client, Launch, eventually, http::get_json, raise_open_files};

const MIB: u64 = 1024 * 1024;

/// So many that asked for all of a history of such lines and take nothing: what each of them costs at most, in
/// bytes, beside what the system keeps for its socket.
#[track_caller]
fn stuck_readers_cost_at_most(stuck: usize, format: &str, line_bytes: usize, each: u64) {
    raise_open_files();
    let dir = tempfile::tempdir().unwrap();
    let unix = format!(
        "unix:{},history=1TiB,format={format}",
        dir.path().join("hub.sock").display()
    );
    let server = Launch::new(&[
        "--history=40MiB",
        "--no-notices",
        "--stall-timeout=off",
        "--admin=127.0.0.1:0",
        "--listen=127.0.0.1:0",
        "--listen",
        &unix,
    ])
    .start();
    let line = "x".repeat(line_bytes - 1) + "\n";
    let lines = line.repeat(32 * MIB as usize / line_bytes);
    let mut sender = Client::dial(server.addr(0));
    sender.send_bytes(lines.as_bytes());
    sender.finish();
    sender.lines_to_eof();
    let kept = server.rss();
    let readers: Vec<_> = (0..stuck).map(|_| Client::dial(server.addr(1))).collect();
    let admin = server.admin();
    eventually("all are stuck in the past", || {
        let status = get_json(&admin, "/status");
        status["channels"][0]["history"]["readers"] == stuck
    });
    // They take turns, a few at a time: whoever had one has sent what its socket takes.
    for reader in &readers {
        assert!(
            reader
                .sender()
                .peek(&mut [std::mem::MaybeUninit::uninit()])
                .unwrap()
                > 0
        );
    }
    let full = server.rss();
    println!("{} KiB, then {} KiB", kept / 1024, full / 1024);
    let allowed = kept + stuck as u64 * each + 8 * MIB;
    assert!(
        full < allowed,
        "{full} bytes, {allowed} allowed, {kept} before"
    );
}

#[test]
fn thousand_stuck_readers_of_a_big_history_hold_next_to_nothing() {
    stuck_readers_cost_at_most(1000, "raw", 64, 16 * 1024);
}

/// Fewer, as a debug build takes its time over what is formatted for each.
#[test]
fn stuck_readers_of_what_is_formatted_for_them_hold_next_to_nothing() {
    stuck_readers_cost_at_most(100, "json", 64, 16 * 1024);
}

#[test]
fn stuck_readers_of_long_lines_hold_a_line_each_at_most() {
    stuck_readers_cost_at_most(100, "json", 64 * 1024, 80 * 1024);
}
