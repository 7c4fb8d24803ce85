//! Lines as server-sent events (WHATWG HTML, section 9.2).

use memchr::{memchr_iter, memmem};

use super::numbered::Numbered;
use crate::wire::ids::{Epoch, Seq};

/// What nobody sees, and what keeps a connection from being taken for a dead one.
pub const COMMENT: &[u8] = b":\n\n";

/// What ends an event.
const END: &[u8] = b"\n\n";

/// Appends each line as an event. With a place, that of the first, each has its place for its id, which a browser names
/// when it comes back.
pub fn events(lines: &[u8], place: Option<(Epoch, Seq)>, out: &mut Vec<u8>) {
    let head = |(epoch, first)| Numbered::new(&format!("id: {epoch}:"), first, "\ndata: ");
    let mut head = place.map(head);
    let mut start = 0;
    for end in memchr_iter(b'\n', lines) {
        match &mut head {
            Some(head) => {
                out.extend_from_slice(head.bytes());
                head.count_up();
            }
            None => out.extend_from_slice(b"data: "),
        }
        out.extend_from_slice(&lines[start..end]);
        out.extend_from_slice(END);
        start = end + 1;
    }
}

/// The end of the event of which the bytes before `at` have only the beginning; `None` when they end between two
/// events. `events` begins with a whole one.
pub fn end_of_begun_event(events: &[u8], at: usize) -> Option<usize> {
    if at == 0 || events[..at].ends_with(END) {
        return None;
    }
    memmem::find(&events[at - 1..], END).map(|end| at - 1 + end + END.len())
}

/// Events that end behind `from`. `events` begins with a whole one.
pub fn events_after(events: &[u8], from: usize) -> usize {
    memmem::find_iter(&events[from.saturating_sub(1)..], END).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_an_event_with_its_place() {
        let mut out = Vec::new();
        events(
            b"{\"a\":1}\n{}\n",
            Some((Epoch(0x5f3a9c11), Seq(99))),
            &mut out,
        );
        events(b"x\n", None, &mut out);
        let expected =
            "id: 5f3a9c11:99\ndata: {\"a\":1}\n\nid: 5f3a9c11:100\ndata: {}\n\ndata: x\n\n";
        assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
    }

    #[test]
    fn events_are_found_in_what_was_made_of_lines() {
        let all = b"id: 1\ndata: a\n\ndata: b\n\n";
        let ends = [15, 24];
        assert_eq!(all.len(), ends[1]);
        for at in 0..=all.len() {
            let begun = (at > 0).then(|| ends.into_iter().find(|end| *end >= at));
            let begun = begun.flatten().filter(|end| *end > at);
            assert_eq!(end_of_begun_event(all, at), begun, "{at}");
            let after = ends.iter().filter(|end| **end > at).count();
            assert_eq!(events_after(all, at), after, "{at}");
        }
    }
}
