use super::*;

const HASH: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

fn read(text: &str) -> Tokens {
    parse(text, Path::new("t")).unwrap()
}

fn only(tokens: &Tokens) -> &Token {
    tokens.0.values().next().unwrap()
}

fn channel(name: &str) -> ChannelName {
    name.parse().unwrap()
}

fn at(time: &str) -> SystemTime {
    humantime::parse_rfc3339(time).unwrap()
}

#[test]
fn token_is_found_by_its_secret_alone() {
    let other = HASH.replace('2', "3");
    let tokens = read(&format!(
        "[[token]]\nname = 'b'\nsha256 = '{other}'\n[[token]]\nname = 'a'\nsha256 = '{}'\n\
         [[token]]\nname = 'c'\ncertificate = 'hello'\n",
        HASH.to_uppercase()
    ));
    let now = SystemTime::now();
    let name = |secret: &str| {
        let token = tokens.by_secret(secret.as_bytes(), now);
        token.map(|token| token.identity.name.to_string())
    };
    assert_eq!(name("hello").as_deref(), Some("a"));
    for wrong in ["", "Hello", "hello ", HASH] {
        assert_eq!(name(wrong), None, "{wrong}");
    }
    assert_eq!(Tokens::default().by_secret(b"hello", now), None);
}

#[test]
fn certificate_is_known_by_any_of_its_names() {
    let tokens = read(
        "[[token]]\nname = 'a'\ncertificate = 'Meter-7.example'\n\
         [[token]]\nname = 'b'\ncertificate = 'spiffe://example/Meter'\n",
    );
    let name = |names: &[&str]| {
        let names: Vec<_> = names.iter().copied().map(str::to_owned).collect();
        let token = tokens.by_certificate(&names, SystemTime::now());
        token.map(|token| token.identity.name.to_string())
    };
    assert_eq!(name(&["x", "meter-7.EXAMPLE"]).as_deref(), Some("a"));
    assert_eq!(name(&["spiffe://example/Meter"]).as_deref(), Some("b"));
    assert_eq!(name(&["spiffe://example/meter"]), None);
    assert_eq!(name(&[]), None);
}

#[test]
fn date_is_good_to_its_end_and_a_time_to_itself() {
    for (typed, last, first) in [
        ("2027-01-01", "2027-01-01T23:59:59Z", "2027-01-02T00:00:00Z"),
        (
            "2027-01-01T12:00:00Z",
            "2027-01-01T11:59:59Z",
            "2027-01-01T12:00:00Z",
        ),
        (
            "2027-01-01T12:00:00+02:00",
            "2027-01-01T09:59:59Z",
            "2027-01-01T10:00:00Z",
        ),
        (
            "2027-01-01 12:00:00-01:30",
            "2027-01-01T13:29:59Z",
            "2027-01-01T13:30:00Z",
        ),
    ] {
        let tokens = read(&format!(
            "[[token]]\nname = 'a'\nsha256 = '{HASH}'\nexpires = {typed}\n"
        ));
        let identity = &only(&tokens).identity;
        for (time, is_valid) in [(last, true), (first, false)] {
            let now = at(time);
            assert_eq!(
                tokens.by_secret(b"hello", now).is_some(),
                is_valid,
                "{typed}"
            );
            let allowed = tokens.allow(identity, Role::Both, &channel("main"), now);
            assert_eq!(allowed, is_valid, "{typed}");
            assert_eq!(tokens.next_expiry(now), is_valid.then(|| at(first)));
        }
    }
}

#[test]
fn token_says_which_channels_and_roles() {
    let tokens = |more: &str| read(&format!("[[token]]\nname = 'a'\nsha256 = '{HASH}'\n{more}"));
    let (main, nmea, ais) = (channel("main"), channel("nmea"), channel("ais"));
    let joins = |more: &str, asked: Option<&ChannelName>| {
        let tokens = tokens(more);
        only(&tokens).channel(asked, &main).cloned()
    };
    assert_eq!(joins("", None), Some(main.clone()));
    assert_eq!(joins("", Some(&nmea)), Some(nmea.clone()));
    let one = "channels = ['nmea']";
    assert_eq!(joins(one, None), Some(nmea.clone()));
    assert_eq!(joins(one, Some(&nmea)), Some(nmea.clone()));
    assert_eq!(joins(one, Some(&main)), None);
    let two = "channels = ['nmea', 'ais']";
    assert_eq!(joins(two, None), None);
    assert_eq!(joins(two, Some(&ais)), Some(ais.clone()));
    let with_main = "channels = ['nmea', 'main']";
    assert_eq!(joins(with_main, None), Some(main.clone()));

    let now = SystemTime::now();
    let before = tokens("");
    let identity = &only(&before).identity;
    let allow = |more: &str, role| tokens(more).allow(identity, role, &nmea, now);
    assert!(allow("", Role::Both) && allow("", Role::Publish));
    assert!(allow("role = 'publish'", Role::Publish));
    assert!(!allow("role = 'publish'", Role::Both));
    assert!(!allow("channels = ['ais']", Role::Both));
    let renamed = read(&format!("[[token]]\nname = 'b'\nsha256 = '{HASH}'\n"));
    let rehashed = read("[[token]]\nname = 'a'\ncertificate = 'x'\n");
    for tokens in [renamed, rehashed, Tokens::default()] {
        assert!(!tokens.allow(identity, Role::Both, &nmea, now));
    }
}

#[test]
fn mistake_is_named_with_its_place_and_shows_no_secret() {
    let token = format!("[[token]]\nname = 'a'\nsha256 = '{HASH}'\n");
    for (text, wrong) in [
        (
            "tokens = 1",
            "1: tokens: no such option; did you mean token?",
        ),
        (
            "token = 1",
            "1: token: a number is no value for it; allowed: tables, [[token]]",
        ),
        (
            "[token]\nname = 'a'",
            "1: token: a table is no value for it; allowed: tables, [[token]]",
        ),
        (
            "[[token]]\nname = 'a'",
            "1: token: sha256 or certificate is missing",
        ),
        (
            &format!("[[token]]\nsha256 = '{HASH}'"),
            "1: token: name is missing",
        ),
        (
            "[[token]]\nname = 'a b'",
            "2: name: 'a b' is no name; allowed: 1 to 64 of ",
        ),
        (
            "[[token]]\nname = 7",
            "2: name: a number is no value for it; allowed: a string",
        ),
        (
            "[[token]]\nsha256 = 'secret'",
            "2: sha256: is no hash; allowed: 64 hexadecimal digits",
        ),
        (
            &format!("[[token]]\nsha256 = '{HASH}0'"),
            "2: sha256: is no hash",
        ),
        ("[[token]]\ncertificate = ''", "2: certificate: is empty"),
        (
            &format!("{token}certificate = 'x'"),
            "4: token: comes with sha256 and certificate",
        ),
        (
            &format!("{token}\n{token}"),
            "6: name: 'a' is given twice; allowed: once",
        ),
        (
            &format!("{token}[[token]]\nname = 'b'\nsha256 = '{HASH}'"),
            "6: sha256: is that of another",
        ),
        (&format!("{token}role = 'x'"), "4: role: 'x' is not a role"),
        (&format!("{token}channels = []"), "4: channels: is empty"),
        (
            &format!("{token}channels = 'a'"),
            "4: channels: a string is no value for it",
        ),
        (
            &format!("{token}channels = ['a', 'b/c']"),
            "4: channels: 'b/c' is not a channel name",
        ),
        (
            &format!("{token}expires = '2027-01-01'"),
            "4: expires: a string is no value for it",
        ),
        (
            &format!("{token}expires = 12:00:00"),
            "4: expires: '12:00:00' is no time to expire at",
        ),
        (
            &format!("{token}expires = 2027-01-01T12:00:00"),
            "4: expires: '2027-01-01T12:00:00' is no",
        ),
        (
            &format!("{token}expire = 2027-01-01"),
            "4: expire: no such option; did you mean expires?",
        ),
        (&format!("{token}role ="), "4: "),
    ] {
        let error = parse(text, Path::new("/t.toml")).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("/t.toml:{wrong}")),
            "{text}\n{error}"
        );
        assert!(
            !error.contains("secret") && !error.contains(HASH),
            "{error}"
        );
    }
    assert_eq!(read(""), Tokens::default());
}
