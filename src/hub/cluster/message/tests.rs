//! Messages and their bytes.

use proptest::prelude::*;

use super::*;
use crate::hub::history::Record;
use crate::hub::part::Part;
use crate::wire::format::Notice;
use crate::wire::ids::ClientId;

/// A session part or a notice: its origin, its lines (none in a notice), its session.
type Said = (u64, Vec<String>, Option<(u64, u64)>);

fn record(said: &[Said]) -> (Record, Vec<u64>) {
    let (mut raw, mut ends, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    let (mut names, mut sessions, mut claimed_by) = (Vec::new(), Vec::new(), Vec::new());
    for ((origin, lines, session), at) in said.iter().zip(0..) {
        for line in lines {
            raw.extend_from_slice(line.as_bytes());
            raw.push(b'\n');
        }
        ends.push(raw.len() as u32);
        let kind = match lines.is_empty() {
            true => Kind::Notice(Notice::Connect),
            false => Kind::Lines,
        };
        let messages = lines.len() as u32;
        parts.push(Part { kind, messages });
        if origin % 3 == 0 {
            names.push((at, format!("n{origin}").parse().unwrap()));
        }
        if let Some((taken, claim)) = session {
            sessions.push((at, format!("s{taken}").parse().unwrap(), *taken));
            claimed_by.push(*claim);
        }
    }
    let record = Record {
        first_seq: Seq(0),
        time_ms: 0,
        origins: said.iter().map(|(origin, ..)| ClientId(*origin)).collect(),
        names: names.into(),
        parts: parts.into(),
        ends: ends.into(),
        raw: raw.into(),
        sessions: sessions.into(),
    };
    (record, claimed_by)
}

fn message(said: &[Said], numbers: &[u64], kind: u8) -> Message {
    let number = |at: usize| numbers.get(at).copied().unwrap_or(7);
    let (node, by) = (NodeId(number(0)), NodeId(number(1)));
    let name = |at: usize| format!("s{at}").parse().unwrap();
    match kind {
        0 => {
            let (record, claimed_by) = record(said);
            let claims = numbers.iter().enumerate().map(|(at, number)| Claim {
                name: name(at),
                number: *number,
                is_given_up: number % 2 == 0,
            });
            Message::Batch(Batch {
                node,
                number: number(1).max(1),
                before: number(2) as u32,
                claims: claims.collect(),
                record,
                claimed_by: claimed_by.into(),
                crc: 0,
            })
        }
        1 => {
            let mut state = State::new(Epoch(number(2) as u32));
            (state.next, state.messages) = (Seq(number(3)), number(4));
            for (number, at) in numbers.iter().zip(0..) {
                let last = Last {
                    number: at,
                    crc: *number as u32,
                };
                state.nodes.insert(NodeId(*number), last);
                state.gone.push_back((NodeId(at), last));
                let owner = (number % 2 == 0).then_some((node, *number));
                let last = Seq(at);
                let session = Session {
                    taken: *number,
                    last,
                    owner,
                };
                state.sessions.insert(name(at as usize), session);
            }
            Message::Checkpoint(Box::new(Checkpoint {
                stream: number(0),
                place: number(1),
                begins: number(2) % 2 == 0,
                oldest: Seq(number(3)),
                state,
            }))
        }
        _ => Message::Gone(Gone { node, by }),
    }
}

fn said() -> impl Strategy<Value = Vec<Said>> {
    let lines = prop::collection::vec("[a-z]{0,9}", 0..4);
    let session = prop::option::of((any::<u64>(), any::<u64>()));
    prop::collection::vec((any::<u64>(), lines, session), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn message_is_what_it_was_and_no_other_bytes_are_one(
        said in said(),
        numbers in prop::collection::vec(any::<u64>(), 0..6),
        kind in 0..3_u8,
        (at, bit) in (any::<prop::sample::Index>(), 0..8_u8),
        forged in any::<bool>(),
    ) {
        let message = message(&said, &numbers, kind);
        let (body, crc) = message.encode();
        let mut read = Message::decode(&body).unwrap();
        if let Message::Batch(batch) = &mut read {
            prop_assert_eq!(batch.crc, crc);
            batch.crc = 0;
        }
        prop_assert_eq!(format!("{read:?}"), format!("{message:?}"));
        let at = at.index(body.len());
        prop_assert!(Message::decode(&body.slice(..at)).is_err());
        let mut wrong = body.to_vec();
        wrong[at] ^= 1_u8 << bit;
        prop_assert!(Message::decode(&wrong.clone().into()).is_err());
        // With a right checksum, wrong numbers are at worst another message: nothing panics.
        if forged && at >= HEAD_BYTES {
            let crc = checksum(wrong[0], &wrong[HEAD_BYTES..]);
            wrong[1..HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
            let _ = Message::decode(&wrong.into());
        }
    }
}

#[test]
fn batch_of_one_line_is_small() {
    let said = [(5, vec!["hello".to_owned()], None)];
    let Message::Batch(mut batch) = message(&said, &[], 0) else {
        unreachable!();
    };
    batch.number = 1000;
    assert_eq!(Message::Batch(batch).encode().0.len(), 27 + "hello\n".len());
}

#[test]
fn message_of_another_version_is_told_from_damage() {
    let mut body = message(&[], &[], 2).encode().0.to_vec();
    body[0] = (VERSION + 1) << 4;
    let crc = checksum(body[0], &body[HEAD_BYTES..]);
    body[1..HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
    let read = Message::decode(&body.into()).unwrap_err();
    assert_eq!(read, Unreadable::Version(VERSION + 1));
}
