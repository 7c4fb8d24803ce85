use super::*;

const DEFAULTS: ListenerDefaults = ListenerDefaults {
    format: Format::Text,
    http_guard: true,
};

#[test]
fn unlisted_listener_has_the_address_that_it_is_bound_to() {
    for bound in [
        "127.0.0.1:1",
        "[::1]:2",
        "[fe80::1%3]:4",
        "unix:/run/x",
        "unix:@x",
        "unix:",
    ] {
        let options = ListenerOptions::unlisted(bound, DEFAULTS);
        assert_eq!(options.address.to_string(), bound);
        assert_eq!(options.format, Format::Text);
    }
}
