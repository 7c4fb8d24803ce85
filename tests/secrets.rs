use std::os::unix::process::ExitStatusExt;

use rustix::process::Signal;

use crate::common::{Authority, Client, Launch, PATIENCE, Server, exec, http, marker};

/// Whether the daemon leaves a core when it is aborted where cores are written.
fn leaves_core(mut server: Server) -> bool {
    server.signal(Signal::ABORT);
    let status = server.wait_exit(PATIENCE);
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()));
    status.core_dumped()
}

#[test]
fn daemon_with_a_key_leaves_no_core_and_does_all_else_that_others_do() {
    let dir = tempfile::tempdir().unwrap();
    let launch = |args: &[&str]| {
        let limit = format!("-c unlimited && cd {}", dir.path().display());
        Launch::new(&[args, &["--no-notices", "--admin=127.0.0.1:0"]].concat())
            .ulimit(&limit)
            .start()
    };
    if !leaves_core(launch(&[])) {
        eprintln!("skipped: this system writes no cores");
        return;
    }
    let authority = Authority::new();
    let pair = authority.server();
    let files = [
        format!("--tls-cert={}", pair.certificate),
        format!("--tls-key={}", pair.key),
    ];
    let server = launch(&files.each_ref().map(String::as_str));
    let mut one = Client::connect(&server);
    let mut two = Client::connect(&server);
    for _ in 0..2 {
        // What it reads below /proc/self is still there for it.
        let metrics = http::get(&server.admin(), "/metrics");
        assert!(metrics.sample("process_resident_memory_bytes") > 0.0);
        assert!(metrics.sample("process_open_fds") > 0.0);
        exec(&server);
        marker(&mut one, &mut two);
    }
    assert!(!leaves_core(server), "also after a handover");
}
