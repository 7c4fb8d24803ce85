//! What the clients of a node say, until it is sent.

use std::collections::{HashMap, HashSet, VecDeque};
use std::mem;

use super::batch::{Batch, Claim};
use super::here::{Clients, OwnClients};
use crate::hub::budget::Reservation;
use crate::hub::builder::BatchBuilder;
use crate::hub::encoding::Encoding;
use crate::hub::encodings::Encodings;
use crate::hub::history::Record;
use crate::hub::part::Kind;
use crate::wire::client_name::Origin;
use crate::wire::format::Notice;
use crate::wire::framing::{Lines, count};
use crate::wire::ids::{ClientId, Seq};
use crate::wire::session::SessionKey;

/// Bytes at which a batch is full, at most: enough for what a round trip to NATS costs not to matter.
const BATCH_BYTES_MAX: usize = 256 * 1024;

/// Bytes that a batch of one line has beside that line, at most.
const OVERHEAD_BYTES: usize = 4 * 1024;

/// Bytes that a claim takes in a batch, at most.
const CLAIM_BYTES: usize = 80;

/// Looks, four a second, until another node is waited for no more that is to say of clients that they left.
const LOOKS: u32 = 80;

/// Looks that one counts for at a stream of which all is read: that other says so at once, if it knows of them.
const LOOKS_IF_READ: u32 = 10;

/// Whom lines are of that are published in a session: its name, what it has published with them, and by which claim.
pub(in crate::hub) type InSession = (SessionKey, u64, u64);

/// Batches that are to be sent, the last of which is still filled.
#[derive(Debug)]
pub(in crate::hub) struct Outbox {
    /// Notices that wait for nobody and go first: that clients of other nodes left, and what a [hold](Hold) ends with.
    ahead: VecDeque<Outgoing>,
    full: VecDeque<Outgoing>,
    filling: Filling,
    batch_bytes: usize,
    /// Bytes of lines in it.
    bytes: u64,
    /// Batches that were taken and are not in the order yet.
    pub(in crate::hub) outstanding: usize,
    /// The clients of this node, and of whom it says that they come and leave.
    pub(in crate::hub) own: OwnClients,
    hold: Option<Hold>,
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

/// Clients of whom another node says that they left, and that are here, or have something to say still. What is to be
/// sent waits until it has said so of each, and goes behind the word that they came: no line of a client is behind its
/// disconnect notice, with no connect notice between. What this node says of the clients of others waits for nobody,
/// as they may wait for that.
#[derive(Debug, Default)]
struct Hold {
    /// Looks that are left until it ends.
    looks: u32,
    /// Those of whom it has not said so yet.
    awaited: Clients,
    /// Those of whom it has.
    back: Clients,
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

impl From<Batch> for Outgoing {
    /// What was in a batch, to be sent as another's.
    fn from(batch: Batch) -> Outgoing {
        Outgoing {
            claims: batch.claims.into(),
            record: batch.record,
            claimed_by: batch.claimed_by.into(),
            reservation: None,
        }
    }
}

impl Outgoing {
    fn is_empty(&self) -> bool {
        self.claims.is_empty() && self.record.parts.is_empty()
    }
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
            ahead: VecDeque::new(),
            full: VecDeque::new(),
            filling: Filling::default(),
            batch_bytes: BATCH_BYTES_MAX,
            bytes: 0,
            outstanding: 0,
            own: OwnClients::default(),
            hold: None,
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
        let (ahead, full) = (mem::take(&mut self.ahead), mem::take(&mut self.full));
        self.bytes = 0;
        let all = unsent.into_iter().chain(ahead).chain(full);
        all.for_each(|outgoing| self.add_again(outgoing));
        self.advance();
    }

    /// Adds what was in a batch before.
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
            self.full.retain(|outgoing| !outgoing.is_empty());
        }
        was_here
    }

    /// Takes the oldest batch, if there is any that may be sent.
    pub(in crate::hub) fn take(&mut self) -> Option<Outgoing> {
        if self.ahead.is_empty() {
            if self.is_held() {
                return None;
            }
            self.go_on();
        }
        let taken = match self.ahead.pop_front() {
            Some(taken) => taken,
            None => {
                if self.full.is_empty() {
                    self.close();
                }
                self.full.pop_front()?
            }
        };
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
        let is_silent = self.hold.as_ref().is_none_or(|it| it.back.is_empty());
        let (ahead, full, filling) = (&self.ahead, &self.full, &self.filling);
        is_silent
            && ahead.is_empty()
            && full.is_empty()
            && filling.numbers == 0
            && filling.claims.is_empty()
    }

    /// Whether all that was ever to be sent is in the order.
    pub(in crate::hub) fn is_settled(&self) -> bool {
        self.outstanding == 0 && self.is_empty()
    }

    /// Bytes of lines that wait.
    pub(in crate::hub) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Another node says of these clients that they left: those that did have that said by it alone, and what others
    /// have to say waits for it.
    pub(in crate::hub) fn lose(&mut self, clients: &Clients) {
        self.own.lose(clients);
        let has_lines = self.have_lines();
        let (awaited, left): (Clients, Clients) = clients
            .clone()
            .into_iter()
            .partition(|(client, _)| self.own.is_here(*client) || has_lines.contains(client));
        self.leave_out(&left);
        if awaited.is_empty() {
            return;
        }
        let hold = self.hold.get_or_insert_default();
        hold.looks = LOOKS;
        hold.awaited.extend(awaited);
        self.advance();
    }

    /// Clients who said something that waits.
    fn have_lines(&mut self) -> HashSet<ClientId> {
        self.close();
        let waiting = self.full.iter().flat_map(|it| it.record.each_part_of());
        let lines = waiting.filter(|(_, _, part, ..)| part.kind == Kind::Lines);
        lines.map(|(.., origin, _)| origin.client).collect()
    }

    /// Leaves out that these clients left.
    fn leave_out(&mut self, left: &Clients) {
        let is_left_out = |kind, client: &ClientId| {
            kind == Kind::Notice(Notice::Disconnect) && left.contains_key(client)
        };
        for batches in [&mut self.ahead, &mut self.full] {
            batches.retain_mut(|outgoing| {
                let record = &mut outgoing.record;
                let mut parts = record.parts.iter().zip(&record.origins);
                if parts.any(|(part, client)| is_left_out(part.kind, client)) {
                    record.retain(|_, kind, client| !is_left_out(kind, &client));
                }
                !outgoing.is_empty()
            });
        }
    }

    /// While the rest waits, has that go ahead that clients left of whom nothing else waits, nor is to be said before: those
    /// of other nodes.
    fn advance(&mut self) {
        self.close();
        let Some(hold) = &self.hold else {
            return;
        };
        let (mut seen, mut ahead) = (HashSet::new(), Clients::new());
        let waiting = self.full.iter().flat_map(|it| it.record.each_part_of());
        for (_, _, part, origin, _) in waiting {
            let is_first = seen.insert(origin.client);
            let client = &origin.client;
            let is_own = hold.awaited.contains_key(client) || hold.back.contains_key(client);
            if part.kind == Kind::Notice(Notice::Disconnect) && is_first && !is_own {
                ahead.insert(origin.client, origin.name.cloned());
            }
        }
        self.leave_out(&ahead);
        // They were charged for where they were.
        self.say_first(&ahead, Notice::Disconnect, |_| None);
    }

    /// Clients are left to this node: it says that they left, charged for by `charge`, unless they are here. One that has
    /// something to say still has left behind that.
    pub(in crate::hub) fn inherit(
        &mut self,
        clients: &Clients,
        mut charge: impl FnMut(usize) -> Option<Reservation>,
    ) {
        let has_lines = self.have_lines();
        let (mut left, mut left_behind) = (Clients::new(), Clients::new());
        for (client, name) in clients {
            let hold = self.hold.as_mut();
            // Nobody else says so any more, and it says so itself where it has left.
            let is_awaited = hold.is_some_and(|hold| hold.awaited.remove(client).is_some());
            if self.own.inherit(*client) && !is_awaited {
                match has_lines.contains(client) {
                    true => left_behind.insert(*client, name.clone()),
                    false => left.insert(*client, name.clone()),
                };
            }
        }
        self.say(&left_behind, Notice::Disconnect, &mut charge);
        self.say_first(&left, Notice::Disconnect, charge);
    }

    /// Has this said of clients behind all that waits.
    fn say(
        &mut self,
        clients: &Clients,
        notice: Notice,
        mut charge: impl FnMut(usize) -> Option<Reservation>,
    ) {
        for (client, name) in clients {
            let origin = Origin {
                client: *client,
                name: name.as_ref(),
            };
            self.add_notice(origin, Kind::Notice(notice), &mut charge);
        }
    }

    /// Has this said of clients before all that waits.
    fn say_first(
        &mut self,
        clients: &Clients,
        notice: Notice,
        charge: impl FnMut(usize) -> Option<Reservation>,
    ) {
        self.close();
        let waiting = mem::replace(&mut self.full, mem::take(&mut self.ahead));
        self.say(clients, notice, charge);
        self.close();
        self.ahead = mem::replace(&mut self.full, waiting);
    }

    /// A client left; whether it is on this node to say so.
    pub(in crate::hub) fn leave(&mut self, client: ClientId) -> bool {
        let is_announced = self.own.leave(client);
        // If another says so before, this one says in front of that that it came.
        let hold = self.hold.as_ref();
        is_announced || hold.is_some_and(|hold| hold.awaited.contains_key(&client))
    }

    /// Another node said that this client left; whether it is to be said now that it came.
    pub(in crate::hub) fn is_back(&mut self, client: ClientId) -> bool {
        let is_here = self.own.is_back(client);
        if let Some(hold) = &mut self.hold
            && let Some((client, name)) = hold.awaited.remove_entry(&client)
        {
            hold.back.insert(client, name);
            return false;
        }
        is_here
    }

    fn is_held(&self) -> bool {
        let hold = self.hold.as_ref();
        hold.is_some_and(|hold| !hold.awaited.is_empty() && hold.looks > 0)
    }

    /// Waits for no other node any more.
    pub(in crate::hub) fn let_go(&mut self) {
        if let Some(hold) = &mut self.hold {
            hold.looks = 0;
        }
    }

    /// It is looked whether another node has said what it has to say, and whether all of the stream is read.
    pub(in crate::hub) fn note_look(&mut self, is_read: bool) {
        if let Some(hold) = &mut self.hold {
            let looks = if is_read { LOOKS_IF_READ } else { 1 };
            hold.looks = hold.looks.saturating_sub(looks);
        }
    }

    /// Clients of whom another node is waited for to say that they left.
    #[cfg(test)]
    pub(super) fn awaited(&self) -> impl Iterator<Item = ClientId> {
        let hold = self.hold.as_ref();
        hold.into_iter().flat_map(|it| it.awaited.keys().copied())
    }

    /// What waited for another node waits no more.
    fn go_on(&mut self) {
        let Some(hold) = self.hold.take() else {
            return;
        };
        self.close();
        self.leave_out(&hold.awaited);
        // They are as good as sent.
        self.say_first(&hold.back, Notice::Connect, |_| None);
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

    /// An outbox with a line each of these clients, who are here, and have left the node in the eyes of another.
    fn held(clients: &[u64]) -> Outbox {
        let mut outbox = Outbox::default();
        for client in clients {
            outbox.own.join(ClientId(*client));
            say(&mut outbox, *client);
        }
        let left = clients.iter().map(|client| (ClientId(*client), None));
        outbox.lose(&left.collect());
        outbox
    }

    fn say(outbox: &mut Outbox, client: u64) {
        let line = Lines {
            rest: b"said\n",
            ..Lines::default()
        };
        outbox.add_lines(origin(client), &line, None, |_| None);
    }

    fn origin(client: u64) -> Origin<'static> {
        Origin {
            client: ClientId(client),
            name: None,
        }
    }

    /// A client leaves, as in the hub.
    fn leave(outbox: &mut Outbox, client: u64) {
        if outbox.leave(ClientId(client)) {
            outbox.add_notice(origin(client), Kind::Notice(Notice::Disconnect), |_| None);
        }
    }

    /// What may be sent: who came, said something, and left.
    fn sent(outbox: &mut Outbox) -> String {
        let batches: Vec<_> = std::iter::from_fn(|| outbox.take()).collect();
        let parts = batches.iter().flat_map(|it| it.record.each_part_of());
        let parts = parts.map(|(_, _, part, origin, _)| match part.kind {
            Kind::Notice(Notice::Connect) => format!("+{}", origin.client),
            Kind::Notice(Notice::Disconnect) => format!("-{}", origin.client),
            _ => origin.client.to_string(),
        });
        parts.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn lines_of_clients_that_another_node_says_have_left_wait_until_it_has_and_they_came_again() {
        let mut outbox = held(&[1, 2]);
        outbox.own.join(ClientId(3));
        say(&mut outbox, 3);
        leave(&mut outbox, 2);
        assert_eq!(sent(&mut outbox), "");
        assert!(!outbox.is_back(ClientId(1)));
        assert_eq!(sent(&mut outbox), "");
        assert!(!outbox.is_back(ClientId(2)) && !outbox.is_empty());
        assert_eq!(sent(&mut outbox), "+1 +2 1 2 3 -2");
        // It is the node's own client again.
        leave(&mut outbox, 1);
        assert_eq!(sent(&mut outbox), "-1");
    }

    #[test]
    fn what_another_node_has_to_say_is_left_to_it_once_it_is_waited_for_no_more() {
        let mut outbox = held(&[1, 2, 3]);
        leave(&mut outbox, 2);
        assert!(!outbox.is_back(ClientId(3)));
        for is_read in [vec![false; 9], vec![true; 7]].concat() {
            outbox.note_look(is_read);
            assert_eq!(sent(&mut outbox), "");
        }
        outbox.note_look(false);
        assert_eq!(sent(&mut outbox), "+3 1 2 3");
        leave(&mut outbox, 1);
        assert!(outbox.is_empty() && !outbox.is_back(ClientId(2)));
    }

    #[test]
    fn client_that_leaves_while_others_are_waited_for_leaves_behind_the_word_that_it_came() {
        let mut outbox = held(&[2]);
        outbox.own.join(ClientId(1));
        outbox.lose(&[(ClientId(1), None)].into());
        assert!(!outbox.is_back(ClientId(1)));
        leave(&mut outbox, 1);
        outbox.put_back(Vec::new());
        assert_eq!(sent(&mut outbox), "");
        assert!(!outbox.is_back(ClientId(2)));
        assert_eq!(sent(&mut outbox), "+1 +2 2 -1");
    }

    #[test]
    fn client_that_is_left_to_the_node_once_it_waits_no_more_has_left_behind_its_lines() {
        let mut outbox = held(&[1]);
        leave(&mut outbox, 1);
        outbox.let_go();
        assert_eq!(sent(&mut outbox), "1");
        let mut outbox = held(&[1]);
        outbox.let_go();
        assert!(outbox.take().is_some());
        say(&mut outbox, 1);
        leave(&mut outbox, 1);
        outbox.inherit(&[(ClientId(1), None), (ClientId(9), None)].into(), |_| None);
        assert_eq!(sent(&mut outbox), "-9 1 -1");
    }

    #[test]
    fn clients_of_other_nodes_leave_whoever_is_waited_for() {
        let mut outbox = Outbox::default();
        let inherited: Clients = [(ClientId(8), None)].into();
        outbox.inherit(&inherited, |_| None);
        let taken = outbox.take().expect("it is said");
        outbox.own.join(ClientId(1));
        say(&mut outbox, 1);
        // The node is gone, and this was not counted.
        outbox.put_back(vec![taken]);
        outbox.lose(&[(ClientId(1), None)].into());
        outbox.inherit(&[(ClientId(9), None)].into(), |_| None);
        outbox.fit(OVERHEAD_BYTES + 6 * 512, 1024);
        assert_eq!(sent(&mut outbox), "-8 -9");
        // Its heir is gone, and this node is the heir of that: nobody is to say that its client left.
        outbox.inherit(&[(ClientId(1), None)].into(), |_| None);
        assert_eq!(sent(&mut outbox), "1");
        leave(&mut outbox, 1);
        assert_eq!(sent(&mut outbox), "-1");
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
