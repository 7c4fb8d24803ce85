//! What the clients of a node say, until it is sent.

use std::collections::{HashMap, VecDeque};
use std::mem;

use super::batch::Claim;
use super::here::{Clients, OwnClients};
use super::publisher::leave_out;
use crate::hub::budget::Reservation;
use crate::hub::builder::BatchBuilder;
use crate::hub::encoding::Encoding;
use crate::hub::encodings::Encodings;
use crate::hub::history::Record;
use crate::hub::part::Kind;
use crate::wire::client_name::Origin;
use crate::wire::framing::{Lines, count};
use crate::wire::ids::{ClientId, Seq};
use crate::wire::session::SessionKey;

/// Bytes at which a batch is full, at most: enough for what a round trip to NATS costs not to matter.
const BATCH_BYTES_MAX: usize = 256 * 1024;

/// Bytes that a batch of one line has beside that line, at most.
const OVERHEAD_BYTES: usize = 4 * 1024;

/// Bytes that a claim takes in a batch, at most.
const CLAIM_BYTES: usize = 80;

/// Whom lines are of that are published in a session: its name, what it has published with them, and by which claim.
pub(in crate::hub) type InSession = (SessionKey, u64, u64);

/// Batches that are to be sent, the last of which is still filled.
#[derive(Debug)]
pub(in crate::hub) struct Outbox {
    full: VecDeque<Outgoing>,
    filling: Filling,
    batch_bytes: usize,
    /// Bytes of lines in it.
    bytes: u64,
    /// Batches that were taken and are not in the order yet.
    pub(in crate::hub) outstanding: usize,
    /// The clients of this node, and of whom it says that they come and leave.
    pub(in crate::hub) own: OwnClients,
    /// Who waits until all that they sent is in the order.
    pub(in crate::hub) waiting: HashMap<ClientId, Unshared>,
}

/// What a client has sent that is not in the order yet.
#[derive(Clone, Copy, Debug)]
pub(in crate::hub) struct Unshared {
    /// The client's slot.
    pub(in crate::hub) key: usize,
    /// Lines of it that were sent and have not come back.
    pub(in crate::hub) lines: u64,
}

/// A batch before it is given its number.
#[derive(Debug)]
pub(in crate::hub) struct Outgoing {
    pub(in crate::hub) claims: Vec<Claim>,
    pub(in crate::hub) record: Record,
    pub(in crate::hub) claimed_by: Vec<u64>,
    /// What its lines and notices cost, until they are in the order.
    pub(in crate::hub) reservation: Option<Reservation>,
}

#[derive(Debug, Default)]
struct Filling {
    claims: Vec<Claim>,
    builder: BatchBuilder,
    /// Numbers of what is in it.
    numbers: u64,
    claimed_by: Vec<u64>,
}

impl Filling {
    fn cost(&self) -> usize {
        self.builder.cost() + CLAIM_BYTES * self.claims.len()
    }
}

impl Default for Outbox {
    fn default() -> Outbox {
        Outbox {
            full: VecDeque::new(),
            filling: Filling::default(),
            batch_bytes: BATCH_BYTES_MAX,
            bytes: 0,
            outstanding: 0,
            own: OwnClients::default(),
            waiting: HashMap::new(),
        }
    }
}

/// Lines are sent as they came.
fn raw() -> Encodings {
    Encodings::default().with(Encoding::Raw)
}

impl Outbox {
    /// Has batches fit into messages of so many bytes; whether each line of up to `line_bytes_max` does.
    pub(in crate::hub) fn fit(&mut self, payload_max: usize, line_bytes_max: usize) -> bool {
        let room = payload_max.saturating_sub(OVERHEAD_BYTES);
        // What is in a batch and not full yet, what comes to that, and what is said of both at worst.
        let batch_bytes = (room / 6).clamp(1, BATCH_BYTES_MAX);
        let before = mem::replace(&mut self.batch_bytes, batch_bytes);
        if batch_bytes < before {
            self.put_back(Vec::new());
        }
        line_bytes_max < room
    }

    /// Takes back what was sent and is in no order, before all else: it is cut anew.
    pub(in crate::hub) fn put_back(&mut self, unsent: Vec<Outgoing>) {
        self.close();
        let full = mem::take(&mut self.full);
        self.bytes = 0;
        let all = unsent.into_iter().chain(full);
        all.for_each(|outgoing| self.add_again(outgoing));
    }

    /// Adds what was in a batch that is too large now.
    fn add_again(&mut self, outgoing: Outgoing) {
        let Outgoing {
            claims,
            record,
            claimed_by,
            mut reservation,
        } = outgoing;
        let (given_up, claims): (Vec<_>, Vec<_>) =
            claims.into_iter().partition(|claim| claim.is_given_up);
        claims.into_iter().for_each(|claim| self.add_claim(claim));
        let mut sessions = record.sessions.iter().zip(claimed_by).peekable();
        for (at, _, part, origin, bytes) in record.each_part_of() {
            let charge = |_| reservation.take();
            if part.kind != Kind::Lines {
                self.add_notice(origin, part.kind, charge);
                continue;
            }
            let session = sessions.next_if(|((of, ..), _)| *of as usize == at);
            let session = session.map(|((_, name, taken), claim)| (name.clone(), *taken, claim));
            let lines = Lines {
                rest: bytes,
                ..Lines::default()
            };
            self.add_lines(origin, &lines, session, charge);
        }
        given_up.into_iter().for_each(|claim| self.add_claim(claim));
    }

    /// Adds the lines of one read, charged for by `charge`. Of a session, also that lines were dropped, if that is all:
    /// a part without lines says what was taken.
    pub(in crate::hub) fn add_lines(
        &mut self,
        origin: Origin<'_>,
        lines: &Lines<'_>,
        session: Option<InSession>,
        mut charge: impl FnMut(usize) -> Option<Reservation>,
    ) {
        let mut left = lines.count() as u64;
        let chunks = lines.runs().map(|run| Chunks(run, self.batch_bytes));
        let nothing = (left == 0 && session.is_some()).then_some(&b""[..]);
        for chunk in chunks.into_iter().flatten().chain(nothing) {
            let messages = count(chunk);
            left -= messages as u64;
            if chunk.len() > self.batch_bytes {
                self.close();
            }
            let filling = &mut self.filling;
            let seq = Seq(1 + filling.numbers);
            let lines = Lines {
                rest: chunk,
                ..Lines::default()
            };
            let builder = &mut filling.builder;
            let cost = builder.add_lines(raw(), origin, seq, &lines, messages);
            if let Some(reservation) = charge(cost) {
                builder.attach(reservation);
            }
            if let Some((name, taken, claim)) = &session {
                builder.note_session(Some((name.clone(), taken - left)));
                filling.claimed_by.push(*claim);
            }
            filling.numbers += messages as u64;
            self.bytes += chunk.len() as u64;
            if filling.cost() >= self.batch_bytes {
                self.close();
            }
        }
    }

    /// Adds that a client came or left, charged for by `charge`.
    pub(in crate::hub) fn add_notice(
        &mut self,
        origin: Origin<'_>,
        kind: Kind,
        charge: impl FnOnce(usize) -> Option<Reservation>,
    ) {
        let filling = &mut self.filling;
        let seq = Seq(1 + filling.numbers);
        let cost = filling.builder.add_notice(raw(), origin, seq, kind);
        if let Some(reservation) = charge(cost) {
            filling.builder.attach(reservation);
        }
        filling.numbers += 1;
        if filling.cost() >= self.batch_bytes {
            self.close();
        }
    }

    /// Adds that a client takes a session over, or leaves it, behind all that it has sent so far. A claim that is still
    /// here goes with it: nothing was published by it.
    pub(in crate::hub) fn add_claim(&mut self, claim: Claim) {
        let was_here = self.take_back(&claim);
        if claim.is_given_up && was_here {
            return;
        }
        if !claim.is_given_up && self.filling.builder.has_session(&claim.name) {
            // What was sent by the claim before is not to be behind it.
            self.close();
        }
        self.filling.claims.push(claim);
        if self.filling.cost() >= self.batch_bytes {
            self.close();
        }
    }

    /// Takes back the claim that is given up, or any before a new one; whether there was any.
    fn take_back(&mut self, claim: &Claim) -> bool {
        let is_meant = |it: &Claim| {
            let is_same = it.number == claim.number || !claim.is_given_up;
            !it.is_given_up && it.name == claim.name && is_same
        };
        let mut was_here = false;
        let full = self.full.iter_mut().map(|outgoing| &mut outgoing.claims);
        for claims in full.chain([&mut self.filling.claims]) {
            let before = claims.len();
            claims.retain(|it| !is_meant(it));
            was_here |= claims.len() < before;
        }
        if was_here {
            self.full
                .retain(|it| !it.claims.is_empty() || !it.record.parts.is_empty());
        }
        was_here
    }

    /// Takes the oldest batch, if there is any.
    pub(in crate::hub) fn take(&mut self) -> Option<Outgoing> {
        if self.full.is_empty() {
            self.close();
        }
        let taken = self.full.pop_front()?;
        self.bytes -= taken.record.raw.len() as u64;
        Some(taken)
    }

    fn close(&mut self) {
        let filling = mem::take(&mut self.filling);
        let Filling {
            claims,
            mut builder,
            claimed_by,
            ..
        } = filling;
        let batch = builder.take(raw());
        if batch.is_none() && claims.is_empty() {
            return;
        }
        let (mut record, mut reservation) = (Record::empty(), None);
        if let Some(mut batch) = batch {
            reservation = batch.reservation.take();
            record = Record::of(&batch, 0);
            record.first_seq = Seq(0);
        }
        self.full.push_back(Outgoing {
            claims,
            record,
            claimed_by,
            reservation,
        });
    }

    /// Whether nothing is to be sent.
    pub(in crate::hub) fn is_empty(&self) -> bool {
        self.full.is_empty() && self.filling.numbers == 0 && self.filling.claims.is_empty()
    }

    /// Whether all that was ever to be sent is in the order.
    pub(in crate::hub) fn is_settled(&self) -> bool {
        self.outstanding == 0 && self.is_empty()
    }

    /// Bytes of lines that wait.
    pub(in crate::hub) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Another node says of these clients that they left.
    pub(in crate::hub) fn lose(&mut self, clients: &Clients) {
        self.own.lose(clients);
        self.close();
        for outgoing in &mut self.full {
            let before = outgoing.record.raw.len() as u64;
            leave_out(&mut outgoing.record, clients);
            self.bytes -= before - outgoing.record.raw.len() as u64;
        }
    }
}

/// Whole lines of a run, of so many bytes at most unless one is longer.
struct Chunks<'a>(&'a [u8], usize);

impl<'a> Iterator for Chunks<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let Chunks(run, most) = *self;
        if run.is_empty() {
            return None;
        }
        let end = match run.get(..most) {
            None => run.len(),
            Some(fits) => {
                let whole = memchr::memrchr(b'\n', fits);
                let whole = whole.or_else(|| memchr::memchr(b'\n', run));
                whole.map_or(run.len(), |at| at + 1)
            }
        };
        let (chunk, rest) = run.split_at(end);
        self.0 = rest;
        Some(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::budget::Budget;
    use crate::wire::format::Notice;

    fn filled(payload_max: usize, lines: &Lines<'_>, session: Option<InSession>) -> Vec<Outgoing> {
        let budget = Budget::new(1 << 20, Default::default());
        let mut outbox = Outbox::default();
        outbox.fit(payload_max, 1024);
        let origin = Origin {
            client: ClientId(7),
            name: None,
        };
        outbox.add_lines(origin, lines, session, |cost| Some(budget.charge(cost)));
        std::iter::from_fn(|| outbox.take()).collect()
    }

    #[test]
    fn large_reads_are_cut_between_lines_and_each_part_says_what_its_session_has_published() {
        let lines = Lines {
            first: b"begun\n".to_vec(),
            rest: &b"0123456\n".repeat(1000),
            ..Lines::default()
        };
        let session = Some(("s".parse().unwrap(), 2001, 3));
        let batches = filled(OVERHEAD_BYTES + 6 * 512, &lines, session);
        assert!(batches.len() > 10);
        let whole: Vec<u8> = batches
            .iter()
            .flat_map(|it| it.record.raw.to_vec())
            .collect();
        assert_eq!(whole, [&lines.first, lines.rest].concat());
        let mut taken = 1000;
        for batch in &batches {
            assert!(batch.record.raw.len() <= 1024 && batch.record.raw.ends_with(b"\n"));
            assert_eq!(batch.claimed_by.len(), batch.record.sessions.len());
            for (part, _, published) in &batch.record.sessions {
                taken += u64::from(batch.record.parts[*part as usize].messages);
                assert_eq!(*published, taken);
            }
        }
        assert_eq!(taken, 2001);
    }

    #[test]
    fn what_waits_is_cut_anew_when_less_fits_into_a_message() {
        let budget = Budget::new(1 << 20, Default::default());
        let mut outbox = Outbox::default();
        let origin = Origin {
            client: ClientId(7),
            name: Some(&"meter".parse().unwrap()),
        };
        let lines = Lines {
            rest: &b"0123456\n".repeat(1000),
            ..Lines::default()
        };
        let session = Some(("s".parse().unwrap(), 1000, 3));
        outbox.add_lines(origin, &lines, session, |cost| Some(budget.charge(cost)));
        outbox.add_notice(origin, Kind::Notice(Notice::Disconnect), |_| None);
        let (used, bytes) = (budget.used(), outbox.bytes());
        assert!(outbox.fit(OVERHEAD_BYTES + 6 * 512, 1024));
        assert_eq!((budget.used(), outbox.bytes()), (used, bytes));
        let batches: Vec<_> = std::iter::from_fn(|| outbox.take()).collect();
        let raw = batches.iter().flat_map(|it| it.record.raw.to_vec());
        assert_eq!(raw.collect::<Vec<_>>(), lines.rest);
        assert!(batches.iter().all(|it| it.record.raw.len() <= 1024));
        let sessions = batches.iter().flat_map(|it| it.record.sessions.iter());
        assert_eq!(sessions.map(|it| it.2).max(), Some(1000));
        let last = &batches.last().unwrap().record;
        assert_eq!(
            last.parts.last().unwrap().kind,
            Kind::Notice(Notice::Disconnect)
        );
        assert_eq!(last.names.last().unwrap().1.as_str(), "meter");
        drop(batches);
        assert_eq!((budget.used(), outbox.bytes()), (0, 0));
    }

    #[test]
    fn claims_are_one_batch_and_those_that_are_given_up_before_they_are_sent_are_none() {
        let claim = |name: &str, number, is_given_up| Claim {
            name: name.parse().unwrap(),
            number,
            is_given_up,
        };
        let mut outbox = Outbox::default();
        for number in 1..=100 {
            outbox.add_claim(claim("again", number, false));
            outbox.add_claim(claim(&format!("s{number}"), 1000 + number, false));
            if number % 2 == 0 {
                outbox.add_claim(claim(&format!("s{number}"), 1000 + number, true));
            }
        }
        // Of one that was sent it is to be known.
        outbox.add_claim(claim("sent", 7, true));
        let batches: Vec<_> = std::iter::from_fn(|| outbox.take()).collect();
        assert_eq!(batches.len(), 1);
        let claims = &batches[0].claims;
        assert_eq!(claims.len(), 1 + 50 + 1);
        assert!(claims.contains(&claim("again", 100, false)));
        assert!(claims.contains(&claim("sent", 7, true)));
        outbox.add_claim(claim("s", 1, false));
        outbox.close();
        outbox.add_claim(claim("s", 1, true));
        assert!(outbox.is_empty() && outbox.take().is_none());
    }

    #[test]
    fn claim_is_behind_what_was_sent_in_its_session_before() {
        let mut outbox = Outbox::default();
        let origin = Origin {
            client: ClientId(7),
            name: None,
        };
        let lines = Lines {
            rest: b"of another claim\n",
            ..Lines::default()
        };
        let session = Some(("s".parse().unwrap(), 1, 3));
        outbox.add_lines(origin, &lines, session, |_| None);
        let claim = |name: &str| Claim {
            name: name.parse().unwrap(),
            number: 4,
            is_given_up: false,
        };
        outbox.add_claim(claim("other"));
        outbox.add_claim(claim("s"));
        let batches: Vec<_> = std::iter::from_fn(|| outbox.take()).collect();
        let claims: Vec<_> = batches.iter().map(|it| &it.claims[..]).collect();
        assert_eq!(claims, [&[claim("other")][..], &[claim("s")]]);
    }

    #[test]
    fn lines_of_a_session_that_were_dropped_are_told_without_any() {
        let dropped = Lines {
            discarded: 2,
            ..Lines::default()
        };
        let session: Option<InSession> = Some(("s".parse().unwrap(), 9, 3));
        let batches = filled(1 << 20, &dropped, session.clone());
        let sessions = &batches[0].record.sessions;
        assert_eq!(sessions[..], [(0, "s".parse().unwrap(), 9)]);
        assert_eq!(batches[0].claimed_by, [3]);
        assert_eq!(batches[0].record.next_seq(), Seq(0));
        assert!(filled(1 << 20, &dropped, None).is_empty());
    }

    #[test]
    fn line_that_is_longer_than_a_batch_is_one_of_its_own() {
        let long = [b"x".repeat(5000), b"\n".to_vec()].concat();
        let rest = [b"a\n".as_slice(), &long, b"b\n"].concat();
        let lines = Lines {
            rest: &rest,
            ..Lines::default()
        };
        let batches = filled(OVERHEAD_BYTES + 6 * 512, &lines, None);
        let raw: Vec<_> = batches.iter().map(|it| it.record.raw.as_ref()).collect();
        assert_eq!(raw, [b"a\n".as_slice(), &long, b"b\n"]);
    }
}
