//! Files that are read again, and files that cannot be used.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustix::process::Signal;
use rustls::ClientConfig;

use super::{TLS, VERSIONS, configs, marker, speaking};
use crate::common::{Authority, Launch, Pair, Server, TlsClient, TlsEvent, run};

/// A daemon whose pair is at a place where it can be replaced.
struct Reloaded {
    folder: tempfile::TempDir,
    server: Server,
}

impl Reloaded {
    #[track_caller]
    fn start(pair: &Pair) -> Reloaded {
        let folder = tempfile::tempdir().unwrap();
        copy(pair, folder.path());
        let path = |name: &str| folder.path().join(name).display().to_string();
        let args = [
            "--listen=127.0.0.1:0",
            "--listen=127.0.0.1:0,tls",
            "--no-notices",
            &format!("--tls-cert={}", path("cert.pem")),
            &format!("--tls-key={}", path("key.pem")),
        ];
        let server = Launch::new(&args).start();
        Reloaded { folder, server }
    }

    fn reload(&self, outcome: &str) -> String {
        let before = self.server.count_log(outcome);
        self.server.signal(Signal::HUP);
        let lines = self.server.wait_log_count(outcome, before + 1);
        lines[before].clone()
    }

    /// Whether newcomers are shown a certificate of this authority.
    fn shows(&self, config: &Arc<ClientConfig>) -> bool {
        match TlsClient::begin(self.server.addr(TLS), config).agree() {
            Ok(()) => true,
            Err(TlsEvent::Refused(_)) => false,
            Err(other) => panic!("{other:?}"),
        }
    }
}

fn copy(pair: &Pair, folder: &Path) {
    fs::copy(&pair.certificate, folder.join("cert.pem")).unwrap();
    fs::copy(&pair.key, folder.join("key.pem")).unwrap();
}

#[test]
fn client_whose_certificate_is_revoked_is_closed_by_the_reload_and_after_a_handover() {
    let authority = Authority::new();
    let pairs = [(); 3].map(|()| authority.client("meter"));
    let (list, pair) = (authority.revoke(&[]), authority.server());
    let args = [
        "--listen=127.0.0.1:0",
        "--listen=127.0.0.1:0,tls",
        "--tls-cert",
        &pair.certificate,
        "--tls-key",
        &pair.key,
        "--tls-client-ca",
        &authority.certificate,
        "--tls-crl",
        &list,
        "--no-notices",
    ];
    let server = Launch::new(&args).start();
    let [mut one, mut two, mut good] = pairs.each_ref().map(|pair| {
        let config = speaking(VERSIONS[1], &authority, Some(pair));
        TlsClient::connect(&server, TLS, &config)
    });
    let publish = |revoked: &[&Pair]| {
        // At the same path.
        authority.revoke(revoked);
        server.signal(Signal::HUP);
    };
    publish(&[&pairs[0]]);
    one.expect_line("Error: not allowed any more");
    one.expect_end();
    server.wait_log("client disconnected client=1 reason=denied");
    server.signal(Signal::USR2);
    server.wait_log_count("phase=running", 3);
    publish(&[&pairs[0], &pairs[1]]);
    two.expect_line("Error: not allowed any more");
    two.expect_end();
    good.send("still here\n");
    server.wait_log("client disconnected client=2 reason=denied");
    assert_eq!(server.count_log("client disconnected"), 2);
}

#[test]
fn newcomers_are_shown_the_new_certificate_and_others_stay() {
    let (old, new) = (Authority::new(), Authority::new());
    let it = Reloaded::start(&old.server());
    let (old, of_new) = (configs(&old), configs(&new));
    let [mut one, mut two] = old
        .each_ref()
        .map(|old| TlsClient::connect(&it.server, TLS, old));
    // Begun with the one before: it is shown that or this, and is not hung.
    let mut begun = TlsClient::begin(it.server.addr(TLS), &old[1]);
    let hello = begun.records();
    begun.send_raw(&hello[..20]);
    copy(&new.server(), it.folder.path());
    it.reload("reloaded");
    assert!(it.shows(&of_new[0]) && it.shows(&of_new[1]));
    assert!(!it.shows(&old[0]) && !it.shows(&old[1]));
    marker(&mut one, &mut two);
    marker(&mut two, &mut one);
    begun.send_raw(&hello[20..]);
    assert!(matches!(begun.agree(), Ok(()) | Err(TlsEvent::Refused(_))));
}

#[test]
fn files_that_cannot_be_used_leave_the_old_ones_in_use_and_are_named() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (pair, strange) = (authority.server(), other.server());
    let it = Reloaded::start(&pair);
    let config = &configs(&authority)[1];
    let mut one = TlsClient::connect(&it.server, TLS, config);
    let mut two = TlsClient::connect(&it.server, TLS, config);
    let path = |name: &str| it.folder.path().join(name);
    let half = |file: &str| {
        let text = fs::read(file).unwrap();
        text[..text.len() / 2].to_vec()
    };
    let wrong = [
        ("cert.pem", half(&pair.certificate)),
        ("cert.pem", Vec::new()),
        ("cert.pem", b"no certificate\n".to_vec()),
        ("cert.pem", fs::read(&strange.certificate).unwrap()),
        ("cert.pem", fs::read(&pair.key).unwrap()),
        ("key.pem", half(&pair.key)),
        ("key.pem", Vec::new()),
        ("key.pem", fs::read(&strange.key).unwrap()),
        ("key.pem", fs::read(&pair.certificate).unwrap()),
    ];
    for (name, content) in &wrong {
        copy(&pair, it.folder.path());
        fs::write(path(name), content).unwrap();
        let line = it.reload("TLS files not read: the old ones stay in use");
        assert!(line.contains(&path(name).display().to_string()), "{line}");
        // And nothing of a key.
        let key = fs::read_to_string(&pair.key).unwrap();
        assert!(!line.contains(key.lines().nth(1).unwrap()), "{line}");
        assert!(it.shows(config));
        marker(&mut one, &mut two);
    }
    for name in ["cert.pem", "key.pem"] {
        copy(&pair, it.folder.path());
        fs::remove_file(path(name)).unwrap();
        let line = it.reload("TLS files not read: the old ones stay in use");
        assert!(line.contains(&path(name).display().to_string()), "{line}");
        assert!(it.shows(config));
    }
    copy(&pair, it.folder.path());
    it.reload("reloaded");
    assert!(it.shows(config));
    marker(&mut two, &mut one);
}

#[test]
fn other_paths_are_gone_by_after_a_reload() {
    let (old, new) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("linehub.toml");
    let write = |pair: &Pair, more: &str| {
        let Pair {
            certificate, key, ..
        } = pair;
        let listen = r#"listen = ["127.0.0.1:0", { address = "127.0.0.1:0", tls = true }]"#;
        let text = format!("tls-cert = '{certificate}'\ntls-key = '{key}'\n{listen}\n{more}\n");
        fs::write(&file, text).unwrap();
    };
    write(&old.server(), "");
    let config = format!("--config={}", file.display());
    let server = Launch::new(&[&config])
        .listen_as_configured()
        .listeners(2)
        .start();
    let before = configs(&old).map(|old| TlsClient::connect(&server, TLS, &old));
    let client = new.client("meter-7");
    write(
        &new.server(),
        &format!("tls-client-ca = '{}'", new.certificate),
    );
    server.signal(Signal::HUP);
    server.wait_log("reloaded");
    for version in crate::common::VERSIONS {
        let shown = crate::common::speaking(version, &new, Some(&client));
        let mut client = TlsClient::connect(&server, TLS, &shown);
        let [one, _] = &before;
        client.send("from the new one\n");
        assert_ne!(client.id(), one.id());
        let mut none = TlsClient::dial(
            server.addr(TLS),
            &crate::common::speaking(version, &new, None),
        );
        none.expect_line("Error: certificate of the client expected");
    }
    for mut client in before {
        while !client.read_line().ends_with(": from the new one") {}
    }
    // One that is missing changes nothing.
    let mut missing = new.server();
    missing.key += ".missing";
    write(&missing, "max-line = 77\n");
    server.signal(Signal::HUP);
    let line = server.wait_log("configuration not reloaded, nothing changed");
    assert!(line.contains(&missing.key), "{line}");
    assert!(
        TlsClient::begin(server.addr(TLS), &configs(&new)[1])
            .agree()
            .is_ok()
    );
}

#[test]
fn start_without_usable_files_is_one_line_and_an_exit_code() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (pair, strange) = (authority.server(), other.server());
    let tls = "--listen=127.0.0.1:0,tls";
    let none = "/nonexistent/linehub.pem";
    let cases: [(&[&str], i32, &str); 8] = [
        (&["--tls-cert", none, "--tls-key", &pair.key], 1, none),
        (
            &["--tls-cert", &pair.certificate, "--tls-key", none],
            1,
            none,
        ),
        (
            &["--tls-cert", &pair.certificate, "--tls-key", &strange.key],
            1,
            &strange.key,
        ),
        (
            &[
                "--tls-cert",
                &pair.certificate,
                "--tls-key",
                &pair.key,
                "--tls-client-ca",
                none,
            ],
            1,
            none,
        ),
        (
            &[
                "--tls-cert",
                &pair.certificate,
                "--tls-key",
                &pair.key,
                "--tls-client-ca",
                &pair.certificate,
                "--tls-crl",
                none,
            ],
            1,
            none,
        ),
        (&["--tls-cert", &pair.certificate], 2, "tls-key"),
        (&["--tls-key", &pair.key], 2, "tls-cert"),
        (&[], 2, "tls-cert"),
    ];
    for (args, code, named) in cases {
        let exit = run(&[&[tls], args].concat(), &[]);
        assert_eq!(exit.code, Some(code), "{args:?}: {exit:?}");
        assert_eq!(exit.stderr.lines().count(), 1, "{exit:?}");
        assert!(exit.stderr.contains(named), "{exit:?}");
    }
}
