//! Who a node is to NATS, and who NATS is to it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::{LISTENERS, greet, hears, is_not_ready, is_ready, launch};
use crate::common::nats::Nats;
use crate::common::{Authority, Manager, Server, eventually};

const USER: &str = "authorization { users: [{ user: hub, password: s3cret-word }] }";

#[track_caller]
fn serves(server: &Server) {
    is_ready(server);
    let (mut reader, _) = greet(server, "");
    hears(&mut reader, server, "served");
}

/// What `/readyz` says in the end holds one of these words, whatever their case.
#[track_caller]
fn says_one_of(server: &Server, words: &[&str]) {
    let mut said = String::new();
    let is_said = |said: &String| {
        let said = said.to_lowercase();
        words.iter().any(|word| said.contains(word))
    };
    let deadline = std::time::Instant::now() + crate::common::PATIENCE;
    while !is_said(&said) {
        assert!(
            std::time::Instant::now() < deadline,
            "{said:?} holds none of {words:?}"
        );
        said = is_not_ready(server).body;
    }
    eventually("the log says it, too", || is_said(&server.log().join("\n")));
}

#[test]
fn password_that_is_wrong_is_said_and_right_after_the_server_takes_it() {
    let Some(nats) = Nats::start_with(
        "admin:admin",
        "authorization { user: admin, password: admin }",
    ) else {
        return;
    };
    let url = format!("--nats=nats://hub:s3cret-word@127.0.0.1:{}", nats.port());
    let server = launch(&[&url]).start();
    says_one_of(&server, &["authorization", "credentials", "authentication"]);
    nats.configure(USER);
    nats.reload();
    serves(&server);
    let log = server.log().join("\n");
    assert!(!log.contains("s3cret-word"), "{log}");
}

#[test]
fn password_shows_nowhere() {
    let Some(mut nats) = Nats::start_with("hub:s3cret-word", USER) else {
        return;
    };
    let server = super::node(&nats, &["--log=trace"]);
    nats.kill();
    super::misses_nats(&server);
    let admin = server.admin();
    for path in ["/status", "/metrics", "/readyz", "/events", "/clients"] {
        let answer = if path == "/events" {
            continue;
        } else {
            crate::common::http::get(&admin, path)
        };
        assert!(!answer.body.contains("s3cret-word"), "{path}: {answer:?}");
    }
    nats.restart();
    is_ready(&server);
    let log = server.log().join("\n");
    assert!(!log.contains("s3cret-word"), "{log}");
}

fn tls(authority: &Authority, more: &str) -> String {
    let pair = authority.server();
    let (cert, key) = (&pair.certificate, &pair.key);
    format!("tls {{ cert_file: {cert:?}, key_file: {key:?} {more} }}")
}

/// A node of a server that speaks TLS, which the test itself does not.
fn over_tls(port: u16, args: &[&str]) -> Server {
    let url = format!("--nats=tls://localhost:{port}");
    launch(&[args, &[&url]].concat()).start()
}

#[test]
fn server_is_checked_over_tls() {
    let authority = Authority::new();
    let Some(nats) = Nats::start_with("", &tls(&authority, "")) else {
        return;
    };
    let ca = format!("--nats-ca={}", authority.certificate);
    serves(&over_tls(nats.port(), &[&ca]));
    // One whom another signed is not it.
    let stranger = Authority::new();
    let other = format!("--nats-ca={}", stranger.certificate);
    says_one_of(
        &over_tls(nats.port(), &[&other]),
        &["certificate", "unknownissuer", "tls"],
    );
}

#[test]
fn node_shows_its_certificate_to_a_server_that_asks_for_it() {
    let authority = Authority::new();
    let more = format!(", ca_file: {:?}, verify: true", authority.certificate);
    let Some(nats) = Nats::start_with("", &tls(&authority, &more)) else {
        return;
    };
    let pair = authority.client("node");
    let args = [
        format!("--nats-ca={}", authority.certificate),
        format!("--nats-cert={}", pair.certificate),
        format!("--nats-key={}", pair.key),
    ];
    let args = args.each_ref().map(String::as_str);
    serves(&over_tls(nats.port(), &args));
    // Without one, it does not come in.
    let server = over_tls(nats.port(), &args[..1]);
    eventually("it says why", || is_not_ready(&server).body.len() > 10);
}

#[test]
fn node_signs_with_its_nkey() {
    let pair = KeyPair::new_user();
    let config = format!(
        "authorization {{ users: [{{ nkey: {} }}] }}",
        pair.public_key()
    );
    let Some(nats) = Nats::start_with("", &config) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let seed = dir.path().join("seed");
    fs::write(&seed, pair.seed().unwrap()).unwrap();
    fs::set_permissions(&seed, fs::Permissions::from_mode(0o600)).unwrap();
    let url = format!("--nats={}", nats.url());
    let server = launch(&[&url, &format!("--nats-nkey={}", seed.display())]).start();
    serves(&server);
    let log = server.log().join("\n");
    assert!(!log.contains(&pair.seed().unwrap()), "{log}");
}

#[test]
fn node_that_is_restarted_without_its_seed_stands_still_until_it_is_there() {
    let pair = KeyPair::new_user();
    let config = format!(
        "authorization {{ users: [{{ nkey: {} }}] }}",
        pair.public_key()
    );
    let Some(nats) = Nats::start_with("", &config) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let [seed, away] = ["seed", "away"].map(|name| dir.path().join(name));
    fs::write(&seed, pair.seed().unwrap()).unwrap();
    let (url, nkey) = (
        format!("--nats={}", nats.url()),
        format!("--nats-nkey={}", seed.display()),
    );
    let args = [
        &LISTENERS[..],
        &["--history=64MiB", "--admin=127.0.0.1:0", &url, &nkey],
    ]
    .concat();
    let manager = Manager::keeping();
    let mut server = manager.launch(&args).shared().start();
    is_ready(&server);
    let (mut reader, _) = greet(&server, "role=subscribe");
    server.stop();
    server.wait_log("handed over to the service manager");
    drop(server);
    // One that cannot be read before is not handed over to.
    fs::rename(&seed, &away).unwrap();
    let server = manager.relaunch(&args).start();
    server.wait_log("phase=running");
    says_one_of(&server, &["/seed"]);
    // The file is read for each connection.
    fs::rename(&away, &seed).unwrap();
    is_ready(&server);
    hears(&mut reader, &server, "it goes on");
}

/// What one key says of another, as NATS has it.
fn token(issuer: &KeyPair, subject: &KeyPair, mut nats: Value) -> String {
    nats["version"] = json!(2);
    let head = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let claims = json!({
        "jti": "linehub", "iat": 1, "name": "n", "nats": nats,
        "iss": issuer.public_key(), "sub": subject.public_key(),
    });
    let [head, claims] = [head, claims].map(|part| BASE64.encode(part.to_string()));
    let signed = format!("{head}.{claims}");
    let signature = BASE64.encode(issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

#[test]
fn node_comes_in_by_a_file_of_credentials() {
    let operator = KeyPair::new_operator();
    let [account, system] = [(); 2].map(|()| KeyPair::new_account());
    let user = KeyPair::new_user();
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1, "leaf": -1,
        "wildcards": true, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_operator = json!({"type": "operator", "system_account": system.public_key()});
    let of_system = json!({"type": "account", "limits": {
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1, "leaf": -1,
        "wildcards": true,
    }});
    let config = format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {}, {}: {} }}",
        token(&operator, &operator, of_operator),
        system.public_key(),
        account.public_key(),
        token(
            &operator,
            &account,
            json!({"type": "account", "limits": limits})
        ),
        system.public_key(),
        token(&operator, &system, of_system),
    );
    let Some(nats) = Nats::start_with("", &config) else {
        return;
    };
    let of_user =
        json!({"type": "user", "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1});
    let seed = user.seed().unwrap();
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n",
        token(&account, &user, of_user),
    );
    let dir = tempfile::tempdir().unwrap();
    let creds = dir.path().join("hub.creds");
    fs::write(&creds, text).unwrap();
    let url = format!("--nats={}", nats.url());
    let server = launch(&[&url, &format!("--nats-creds={}", creds.display())]).start();
    serves(&server);
    let log = server.log().join("\n");
    assert!(!log.contains(&seed), "{log}");
    // Who has none is told so.
    says_one_of(&launch(&[&url]).start(), &["authorization"]);
}

#[test]
fn server_without_jetstream_is_said_to_be_one() {
    let Some(nats) = Nats::start_with(
        "",
        "accounts { A: { users: [{ user: a, password: a }] } }\nno_auth_user: a",
    ) else {
        return;
    };
    // Its account has no JetStream, which others of the server may have.
    let server = launch(&[&format!("--nats={}", nats.url())]).start();
    says_one_of(&server, &["jetstream"]);
}
