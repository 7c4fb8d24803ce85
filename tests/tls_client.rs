use crate::common::{Authority, Pair, tool};
use std::process::Command;

/// Certificates of the tests as OpenSSL sees them.
fn verify(authority: &Authority, pair: &Pair, more: &[&str]) -> String {
    let program = tool("openssl").expect("openssl");
    let output = Command::new(program)
        .args(["verify", "-x509_strict", "-CAfile", &authority.certificate])
        .args(more)
        .arg(&pair.certificate)
        .output()
        .unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[test]
fn certificates_of_the_tests_are_what_they_are_called() {
    let authority = Authority::new();
    let server = authority.server();
    for more in [
        ["-verify_hostname", "localhost"],
        ["-verify_ip", "127.0.0.1"],
    ] {
        assert!(
            verify(&authority, &server, &more).contains(": OK"),
            "{}",
            verify(&authority, &server, &more)
        );
    }
    let misnamed = verify(
        &authority,
        &authority.misnamed(),
        &["-verify_hostname", "localhost"],
    );
    assert!(misnamed.contains("hostname mismatch"), "{misnamed}");
    let expired = verify(&authority, &authority.expired(), &[]);
    assert!(expired.contains("certificate has expired"), "{expired}");
    let other = verify(&Authority::new(), &server, &[]);
    assert!(other.contains("verification failed"), "{other}");
    let client = authority.client("meter-7");
    let list = authority.revoke(&[&client]);
    let revoked = verify(&authority, &client, &["-crl_check", "-CRLfile", &list]);
    assert!(revoked.contains("certificate revoked"), "{revoked}");
    let server = verify(&authority, &server, &["-crl_check", "-CRLfile", &list]);
    assert!(server.contains(": OK"), "{server}");
}
