use proptest::prelude::*;

use super::*;

/// What a header says: an address, `unknown`, `local`, or what is wrong.
fn told(bytes: &[u8]) -> String {
    match parse(bytes) {
        Ok(None) => "more".into(),
        Ok(Some(header)) => match header.source {
            ProxySource::Address(address) => address.to_string(),
            ProxySource::Unknown => "unknown".into(),
            ProxySource::Local => "local".into(),
        },
        Err(error) => format!("{error:?}"),
    }
}

/// A header of version 2.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [BINARY_SIGNATURE, &[command, family], &length, rest].concat()
}

fn vector(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], value].concat()
}

/// `10.1.2.3:4660` to `10.9.9.9:2345`.
const ADDRESSES: &[u8] = b"\x0a\x01\x02\x03\x0a\x09\x09\x09\x12\x34\x09\x29";

/// What an AWS Network Load Balancer sends: addresses, checksum, endpoint, padding.
fn of_nlb() -> Vec<u8> {
    let addresses = b"\xac\x1f\x07\x71\xac\x1f\x0a\x1f\xc8\xf2\x00\x50";
    let rest = [
        &addresses[..],
        &vector(CHECKSUM, b"\xe8\xd6\x89\x2d"),
        &vector(0xea, b"\x01vpce-08d2bf15fac5001c9"),
        &vector(4, &[0; 36]),
    ];
    binary(0x21, 0x11, &rest.concat())
}

/// Headers and what they say, or what is wrong as soon as it can be known.
fn cases() -> Vec<(Vec<u8>, &'static str)> {
    let unknown = format!("PROXY UNKNOWN {}", "x".repeat(91));
    assert_eq!(unknown.len() + 2, LINE_BYTES_MAX);
    let lines = [
        (
            "PROXY TCP4 10.1.2.3 10.9.9.9 4660 2345\r\n",
            "10.1.2.3:4660",
        ),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            "255.255.255.255:65535",
        ),
        ("PROXY TCP4 10.1.2.3 10.9.9.9 0 0\r\n", "10.1.2.3:0"),
        (
            "PROXY TCP6 2001:DB8::1 ::1 4660 2345\r\n",
            "[2001:db8::1]:4660",
        ),
        (
            "PROXY TCP6 ::ffff:10.1.2.3 ::1 4660 2345\r\n",
            "10.1.2.3:4660",
        ),
        ("PROXY UNKNOWN\r\n", "unknown"),
        ("PROXY UNKNOWN ffff::1 whatever\r follows\r\n", "unknown"),
        ("PROXY TCP4 10.1.2.3 10.9.9.9 4660 2345\n", "InvalidLine"),
        (
            "PROXY TCP4 10.1.2.3 10.9.9.9 4660 2345\r \r\n",
            "InvalidLine",
        ),
        ("PROXY TCP4 10.1.2.3 10.9.9.9 4660\r\n", "InvalidLine"),
        (
            "PROXY TCP4 10.1.2.3 10.9.9.9 4660 2345 1\r\n",
            "InvalidLine",
        ),
        ("PROXY TCP4 10.1.2.3 10.9.9.9 4660 2345 \r\n", "InvalidLine"),
        ("PROXY TCP4  10.1.2.3 10.9.9.9 4660 2345\r\n", "InvalidLine"),
        ("PROXY TCP4 10.1.2.3 10.9.9.9 65536 2345\r\n", "InvalidLine"),
        ("PROXY TCP4 10.1.2.3 10.9.9.9 +4660 2345\r\n", "InvalidLine"),
        ("PROXY TCP4 10.1.2.3 10.9.9.9 04660 2345\r\n", "InvalidLine"),
        ("PROXY TCP4 10.1.2.3 10.9.9.9 4660 -1\r\n", "InvalidLine"),
        ("PROXY TCP4 10.1.2.03 10.9.9.9 4660 2345\r\n", "InvalidLine"),
        ("PROXY TCP4 10.1.2 10.9.9.9 4660 2345\r\n", "InvalidLine"),
        ("PROXY TCP4 10.1.2.3 ::1 4660 2345\r\n", "InvalidLine"),
        ("PROXY TCP6 10.1.2.3 ::1 4660 2345\r\n", "InvalidLine"),
        ("PROXY TCP6 fe80::1%1 ::1 4660 2345\r\n", "InvalidLine"),
        ("PROXY UDP4 10.1.2.3 10.9.9.9 4660 2345\r\n", "InvalidLine"),
        ("PROXY UNKNOWNS\r\n", "InvalidLine"),
        ("PROXY \r\n", "InvalidLine"),
        ("PROXYTCP4 10.1.2.3 10.9.9.9 4660 2345\r\n", "Expected"),
        ("proxy UNKNOWN\r\n", "Expected"),
        ("hello\n", "Expected"),
        ("\r\n\r\n\r\n", "Expected"),
        (&format!("{unknown}\r\n"), "unknown"),
        (&format!("{unknown}x\r\n"), "TooLong"),
    ];
    let ipv6 = [
        &[0x20, 1, 0xd, 0xb8][..],
        &[0; 11],
        &[1],
        &[0xff; 16],
        b"\x12\x34\x09\x29",
    ];
    let ipv6 = ipv6.concat();
    let mapped = [
        &[0; 10][..],
        &[0xff, 0xff, 10, 1, 2, 3],
        &[0; 16],
        b"\x12\x34\x09\x29",
    ];
    let padding = vector(4, &[0; 400]);
    let largest = vector(4, &[0; HEADER_BYTES_MAX - 16 - 12 - 3]);
    let too_large = vector(4, &[0; HEADER_BYTES_MAX - 16 - 12 - 2]);
    let behind = |more: &[u8]| [ADDRESSES, more].concat();
    let mut wrong = of_nlb();
    wrong[20] ^= 1;
    let binaries = [
        (binary(0x21, 0x11, ADDRESSES), "10.1.2.3:4660"),
        (binary(0x21, 0x12, ADDRESSES), "10.1.2.3:4660"),
        (binary(0x21, 0x21, &ipv6), "[2001:db8::1]:4660"),
        (binary(0x21, 0x22, &mapped.concat()), "10.1.2.3:4660"),
        (binary(0x21, 0x31, &[b'/'; 216]), "unknown"),
        (
            binary(0x21, 0x32, &[&[0; 216][..], &padding].concat()),
            "unknown",
        ),
        (binary(0x21, 0x00, &[]), "unknown"),
        (binary(0x21, 0x00, &[7; 40]), "unknown"),
        (binary(0x21, 0x01, &[]), "unknown"),
        (binary(0x21, 0x10, ADDRESSES), "unknown"),
        (binary(0x21, 0x11, &behind(&padding)), "10.1.2.3:4660"),
        (binary(0x21, 0x11, &behind(&largest)), "10.1.2.3:4660"),
        (binary(0x21, 0x11, &behind(&too_large)), "TooLong"),
        (binary(0x21, 0x11, &vec![0; 65_535]), "TooLong"),
        (binary(0x20, 0x00, &[]), "local"),
        // As haproxy sends it.
        (binary(0x20, 0x00, b"\x03\x00\x04\xa9\xb8~\x8f"), "local"),
        (binary(0x20, 0x11, ADDRESSES), "local"),
        (binary(0x20, 0x11, &[1; 5]), "local"),
        (binary(0x20, 0xff, &[1; 500]), "local"),
        (of_nlb(), "172.31.7.113:51442"),
        (wrong, "Checksum"),
        (
            binary(0x21, 0x11, &behind(&vector(CHECKSUM, &[0; 3]))),
            "Checksum",
        ),
        (binary(0x21, 0x00, &vector(CHECKSUM, &[0; 4])), "Checksum"),
        (binary(0x21, 0x11, &ADDRESSES[..11]), "InvalidLength"),
        (binary(0x21, 0x21, ADDRESSES), "InvalidLength"),
        (binary(0x21, 0x31, &[0; 215]), "InvalidLength"),
        (binary(0x21, 0x11, &behind(&[4, 0])), "InvalidLength"),
        (binary(0x21, 0x11, &behind(&[4, 0, 2, 0])), "InvalidLength"),
        (binary(0x22, 0x11, ADDRESSES), "Unassigned"),
        (binary(0x11, 0x11, ADDRESSES), "Unassigned"),
        (binary(0x31, 0x11, ADDRESSES), "Unassigned"),
        (binary(0x21, 0x13, ADDRESSES), "Unassigned"),
        (binary(0x21, 0x41, ADDRESSES), "Unassigned"),
        (BINARY_SIGNATURE.to_ascii_lowercase(), "Expected"),
    ];
    let lines = lines.map(|(line, said)| (line.as_bytes().to_owned(), said));
    lines.into_iter().chain(binaries).collect()
}

#[test]
fn headers_say_whose_connection_it_is_and_end_where_they_end() {
    for (bytes, said) in cases() {
        assert_eq!(told(&bytes), said, "{}", bytes.escape_ascii());
        for behind in [&b"hello\n"[..], b"\n", &bytes] {
            let more = [&bytes, behind].concat();
            assert_eq!(parse(&more), parse(&bytes), "{}", bytes.escape_ascii());
        }
        if let Ok(header) = parse(&bytes) {
            assert_eq!(header.unwrap().length, bytes.len());
        }
    }
}

#[test]
fn headers_cut_at_every_byte_say_the_same() {
    for (bytes, said) in cases() {
        let mut outcomes = (0..=bytes.len()).map(|cut| told(&bytes[..cut]));
        let first = outcomes.find(|outcome| outcome != "more");
        assert_eq!(first.as_deref(), Some(said), "{}", bytes.escape_ascii());
    }
}

#[test]
fn error_is_one_short_line() {
    for (bytes, _) in cases() {
        if let Err(error) = parse(&bytes) {
            let words = error.to_string();
            assert!(
                words.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
                "{words}"
            );
            assert!(words.len() < 100, "{words}");
        }
    }
}

/// A header with some of its bytes changed, and others behind it.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let cases: Vec<_> = cases().into_iter().map(|(bytes, _)| bytes).collect();
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let behind = prop::collection::vec(any::<u8>(), 0..200);
    (prop::sample::select(cases), changes, behind).prop_map(|(mut bytes, changes, behind)| {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.extend(behind);
        bytes
    })
}

proptest! {
    /// What is known stays so, whatever comes behind it; and it is known in time.
    #[test]
    fn outcome_is_final(bytes in damaged()) {
        let last = parse(&bytes);
        let mut known = None;
        for cut in 0..=bytes.len().min(HEADER_BYTES_MAX) {
            let outcome = parse(&bytes[..cut]);
            match known {
                None if outcome == Ok(None) => {}
                None => known = Some(outcome),
                Some(before) => prop_assert_eq!(before, outcome),
            }
        }
        match known {
            Some(known) => prop_assert_eq!(known, last),
            None => prop_assert!(bytes.len() < HEADER_BYTES_MAX && last == Ok(None)),
        }
        if let Ok(Some(header)) = last {
            prop_assert!(header.length <= bytes.len().min(HEADER_BYTES_MAX));
        }
    }

    #[test]
    fn address_and_port_come_through_both_versions(
        source: SocketAddr,
        destination: SocketAddr,
    ) {
        let canonical = SocketAddr::new(source.ip().to_canonical(), source.port());
        let (family, byte) = match source {
            SocketAddr::V4(_) => ("TCP4", 0x11),
            SocketAddr::V6(_) => ("TCP6", 0x21),
        };
        let of_family = if source.is_ipv4() == destination.is_ipv4() { destination } else { source };
        let line = format!(
            "PROXY {family} {} {} {} {}\r\n",
            source.ip(), of_family.ip(), source.port(), of_family.port(),
        );
        prop_assert_eq!(told(line.as_bytes()), canonical.to_string());
        let octets = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let ports = [source.port().to_be_bytes(), of_family.port().to_be_bytes()].concat();
        let rest = [octets(source), octets(of_family), ports].concat();
        prop_assert_eq!(told(&binary(0x21, byte, &rest)), canonical.to_string());
    }
}
