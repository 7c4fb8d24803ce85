//! The one thing to know of HTTP: what a request looks like to somebody who did not ask for one.
//!
//! Any web page may have a browser send a request to any address, a hub on loopback included, and
//! whatever the page likes in its body. Each line of it would be a message.

use memchr::memmem;

use super::line_end::LineEnd;

/// Whether a line begins an HTTP request (RFC 9112, section 3): `POST / HTTP/1.1`, CR or not.
fn is_request_line(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.split(|byte| *byte == b' ');
    let (method, version) = (words.next(), words.next_back());
    let is_method = |word: &[u8]| !word.is_empty() && word.iter().all(is_of_method);
    let is_version = |word: &[u8]| {
        let digits = word.strip_prefix(b"HTTP/").unwrap_or_default();
        matches!(digits, [major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit())
    };
    // The target between them may be anything: browsers escape blanks, others need not.
    words.next().is_some() && method.is_some_and(is_method) && version.is_some_and(is_version)
}

/// Whether a first line begins an HTTP request. Where NUL ends a line, it is all of the request, with a
/// blank for each LF.
pub(crate) fn opens_request(line: &[u8], line_end: LineEnd) -> bool {
    let request_line = match line_end {
        LineEnd::Nul => memmem::find(line, b"\r ").map_or(line, |end| &line[..end]),
        LineEnd::Lf | LineEnd::Any => line,
    };
    is_request_line(request_line)
}

/// Whether a line that is too long to be kept begins as an HTTP request does, with a path or an
/// address: a web page may make its target as long as it likes.
pub(crate) fn begins_request(line: &[u8]) -> bool {
    let Some(blank) = line
        .iter()
        .take(METHOD_BYTES_MAX + 1)
        .position(|byte| *byte == b' ')
    else {
        return false;
    };
    let (method, target) = (&line[..blank], &line[blank + 1..]);
    let is_target = target.starts_with(b"/") || target.starts_with(b"http");
    !method.is_empty() && method.iter().all(is_of_method) && is_target
}

/// Methods are in capitals: those that browsers send, and all others there are.
fn is_of_method(byte: &u8) -> bool {
    byte.is_ascii_uppercase() || *byte == b'-'
}

/// No method is longer.
const METHOD_BYTES_MAX: usize = 32;

/// What of a line tells whether it begins a request.
pub(crate) const BEGIN_BYTES: usize = METHOD_BYTES_MAX + 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines_are_told_from_lines_about_them() {
        for line in [
            "GET / HTTP/1.1",
            "POST /a?b=c HTTP/1.0\r",
            "PRI * HTTP/2.0",
            "CONNECT example.org:443 HTTP/1.1",
            "M-SEARCH * HTTP/1.1",
            "GET /a b HTTP/1.1",
        ] {
            assert!(is_request_line(line.as_bytes()), "{line}");
        }
        for line in [
            "",
            "GET",
            "GET /",
            "HTTP/1.1",
            "GET HTTP/1.1",
            "HTTP/1.1 200 OK",
            " / HTTP/1.1",
            "GET / HTTP/1.x",
            "GET / http/1.1",
            "log: GET / HTTP/1.1",
            "127.0.0.1 - - \"GET / HTTP/1.1\" 200",
            "GET / HTTP/1.1 200",
            "we still speak HTTP/1.1",
        ] {
            assert!(!is_request_line(line.as_bytes()), "{line}");
        }
    }

    #[test]
    fn request_is_told_by_its_first_line_where_nul_ends_lines() {
        let request = b"POST / HTTP/1.1\r Host: x\r \r {}";
        assert!(opens_request(request, LineEnd::Nul));
        assert!(!opens_request(request, LineEnd::Lf));
        assert!(opens_request(b"POST / HTTP/1.1", LineEnd::Nul));
        assert!(opens_request(b"POST / HTTP/1.1\r", LineEnd::Nul));
        assert!(opens_request(b"POST / HTTP/1.1", LineEnd::Any));
        assert!(!opens_request(
            b"{\r  \"a\": \"GET / HTTP/1.1\"\r }",
            LineEnd::Nul
        ));
    }
}
