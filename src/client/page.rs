//! The page for browsers: one file, with all that it needs in it.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::wire::http::Response;

/// The page.
const PAGE: &str = include_str!("page.html");

/// What a browser lets it do: run and show what is in it, and speak with this host.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |element: &str| {
        let inside = between(PAGE, &format!("<{element}>"), &format!("</{element}>"));
        STANDARD.encode(Sha256::digest(inside))
    };
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style"),
    )
});

/// The page as it is answered with, or only the head of that.
pub(super) fn answer(response: Response<'_>, is_head: bool) -> Vec<u8> {
    response.page(PAGE, &POLICY, is_head)
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let inside = text.split_once(start).map_or("", |(_, rest)| rest);
    inside.split_once(end).map_or("", |(inside, _)| inside)
}
