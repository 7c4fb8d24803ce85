//! What a saved state may say, of clients that have sessions or read the past.

use std::sync::Arc;

use serde_json::{Value, json};

use super::places::{NUMBER_MAX, SavedFeed};
use super::snapshot::SavedHub;
use super::{ConnectionInfo, Hub};
use crate::config::Config;
use crate::config::cli::Options;
use crate::wire::format::Format;
use crate::wire::framing::Lines;

#[test]
fn numbers_of_the_past_and_of_sessions_have_their_bound() {
    let config = Config::from_options(
        &Options::from_iter([("history", vec!["1MiB".into()])]),
        1024,
    );
    let config = config.unwrap();
    let hub = Hub::new(&config);
    let mut feed = hub.join(ConnectionInfo::test(Format::Text));
    let line = Lines {
        rest: b"line\n",
        ..Lines::default()
    };
    feed.publish(None, &line);
    let saved = (SavedHub::save(&hub, [&feed].into_iter()), feed.save());
    let mut good = serde_json::to_value(saved).unwrap();
    good[0]["history"]["sessions"] = json!([["t/s", NUMBER_MAX, 2]]);
    good[0]["batches"][0]["sessions"] = json!([[0, "t/s", NUMBER_MAX]]);
    good[1]["session"] = json!(["t/s", true, NUMBER_MAX]);
    good[1]["past"] = json!({
        "next": 1, "live_from": 2, "notices_from": 1, "end": 3, "missed": NUMBER_MAX
    });
    let restore = |saved: &Value| {
        let (hub, feed): (SavedHub, SavedFeed) = serde_json::from_value(saved.clone()).unwrap();
        let (hub, places) = hub.restore(&config, &Arc::default())?;
        places.restore(&hub, feed)
    };
    restore(&good).unwrap();
    for number in [
        "/0/history/sessions/0/1",
        "/0/history/sessions/0/2",
        "/0/batches/0/sessions/0/2",
        "/0/batches/0/first_seq",
        "/1/session/2",
        "/1/past/next",
        "/1/past/live_from",
        "/1/past/notices_from",
        "/1/past/end",
        "/1/past/missed",
    ] {
        for beyond in [NUMBER_MAX + 1, u64::MAX] {
            let mut corrupt = good.clone();
            *corrupt.pointer_mut(number).unwrap() = json!(beyond);
            assert!(restore(&corrupt).is_err(), "{number}");
        }
    }
}
