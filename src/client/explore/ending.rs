//! How those who come by HTTP are told that it is over.

use super::Guest;
use super::web::{Heard, Said};
use super::wire::End;
use crate::hub::ClosedClient;
use crate::wire::close_reason::CloseReason;
use crate::wire::format::Format;
use crate::wire::transport::Transport;

/// It was told how it ends, and each of its pings was answered, or its POST.
pub(super) fn it_was_told_its_end(guest: &Guest, closed: &ClosedClient, published: usize) {
    let peer = guest.peer.borrow();
    let (said, heard) = (Said::of(&peer), Heard::of(&peer));
    let (id, reason) = (guest.id, closed.reason);
    let is_cut = peer.reset || matches!(reason, CloseReason::Reset | CloseReason::Slow);
    if peer.transport == Transport::WebSocket {
        assert!(said.pings.starts_with(&heard.pongs), "{id} got other pongs");
        if heard.is_over {
            it_was_closed_as_it_should(&said, &heard, reason);
        }
    }
    // Who was asked and has not answered is gone when it is asked again, even if it was frozen before it was asked.
    let is_silent = heard.pings > 0 || guest.asked > 1;
    let may_break = peer.reset || peer.transport == Transport::WebSocket && is_silent;
    assert!(
        may_break || reason != CloseReason::Reset,
        "{id} was broken off"
    );
    match reason {
        CloseReason::WebSocket | CloseReason::BadRequest => {
            assert!(
                matches!(said.end, Some(End::Wrong(_))),
                "{id} sent nothing wrong"
            );
        }
        _ => {}
    }
    if is_cut {
        return;
    }
    match peer.transport {
        Transport::Plain => {}
        Transport::WebSocket => {
            assert!(heard.is_over, "{id} got no close frame: {reason:?}");
            let all = reason != CloseReason::Eof || said.pings.len() == heard.pongs.len();
            assert!(all, "{id} got too few pongs");
        }
        Transport::Events | Transport::Lines => {
            // No format but `json` has anything that could stand for what was skipped.
            let may_be_cut = peer.format != Format::Json && closed.totals.skipped > 0;
            let is_over = heard.is_over == peer.takes_chunks;
            assert!(is_over || may_be_cut, "{id} got no last chunk: {reason:?}");
        }
        Transport::Post => {
            let answer = heard.answer.as_ref();
            let answer = answer.map(|(status, body)| (*status, str::from_utf8(body).unwrap()));
            let (status, body) = answer.unwrap_or_else(|| panic!("{id}: no answer"));
            let (expected, count) = match reason {
                // It went before it had sent all.
                CloseReason::Eof if said.end.is_none() => {
                    (400, format!("; {published} lines were published\"}}\n"))
                }
                CloseReason::Eof => (200, format!("{{\"taken\":{published}}}\n")),
                CloseReason::LineTooLong => {
                    (413, format!("; {published} lines were published\"}}\n"))
                }
                CloseReason::BadRequest => {
                    (400, format!("; {published} lines were published\"}}\n"))
                }
                CloseReason::Shutdown => (503, format!("; {published} lines were published\"}}\n")),
                reason => panic!("{id} was closed: {reason:?}"),
            };
            assert_eq!(status, expected, "{id}: {body}");
            assert!(body.ends_with(&count), "{id}: {body}");
        }
    }
}

fn it_was_closed_as_it_should(said: &Said, heard: &Heard, reason: CloseReason) {
    let status = match (reason, said.end) {
        (CloseReason::Eof, Some(End::Whole(None))) => return assert_eq!(heard.close, b""),
        (CloseReason::Eof, Some(End::Whole(Some(status)))) => status,
        (CloseReason::Eof, _) => 1000,
        (CloseReason::Shutdown, _) => 1001,
        (CloseReason::WebSocket, Some(End::Wrong(status))) => status,
        (CloseReason::LineTooLong, _) => 1009,
        (CloseReason::Slow, _) => 1013,
        other => panic!("closed for {other:?}"),
    };
    let (found, words) = heard.close.split_first_chunk().expect("a status");
    assert_eq!(u16::from_be_bytes(*found), status, "{reason:?}");
    let echoes = matches!((reason, said.end), (CloseReason::Eof, Some(End::Whole(_))));
    match reason {
        CloseReason::WebSocket => assert!(!words.is_empty()),
        _ if echoes => assert_eq!(words, b""),
        _ => assert_eq!(words, reason.label().as_bytes()),
    }
}
