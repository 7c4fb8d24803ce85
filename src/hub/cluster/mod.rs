//! One channel over many machines: the order of a JetStream stream, and why every node's clients see the same of it.
//!
//! A *node* is one start of a daemon that shares the channel, by a number of its own ([`NodeId`](batch::NodeId)).
//! What its clients send goes into the stream; what any client sees comes out of it. Here is what follows from the
//! stream and what is to be sent next: without NATS, tasks, clocks or locks, so that it can be tried with
//! everything that goes wrong (`model`).
//!
//! # Why all see the same
//!
//! The server gives each message a place. [`State`](state::State) is what is behind a place: epoch, next number,
//! the last batch of each node, who is gone, sessions and whose they are. The state behind a message follows from the
//! one before it and the message, and from nothing else: no clock, no connection, no limit of the server. A node that
//! knows the state at a place and misses no message behind it delivers what every other node does that knows it
//! there. So everything that is judged is judged in the state: by the same rule, at the same place, by all. What the
//! server checks when it stores a message (message ids, expected sequences) only keeps what would not count out of
//! the stream.
//!
//! # What is in the stream
//!
//! - A **batch** of a node: its number, claims of sessions, notices and lines. It counts if its number is above that
//!   of the node's last, its chain is whole (it names the checksum of the one before) and its node is not gone. It
//!   takes the next numbers. A part of a session counts if the session's owner at this place is the claim that it
//!   was sent by; else it takes no number. One without lines says that those were dropped for being too long.
//! - A **checkpoint**: the state behind a place. It makes those know it who do not; to the others it is no news. At
//!   its own place it tells all which sessions to forget: those that nobody has, and whose last number is not in the
//!   stream any more, as its sender saw it.
//! - A **beginning**: a checkpoint that all obey, with another epoch, whose numbers go on where its sender was. It counts if nothing
//!   is between the place that it is about and its own, in the stream that it names: of two nodes that begin, the
//!   first does, and one that comes late does nothing.
//! - A node is **gone**. The first that says so counts, unless its sender is gone itself. Nothing that the node sent
//!   counts behind it; its sessions are nobody's; and its clients are left to the sender, which says that they left
//!   in batches of its own. If that one is gone in turn, what it has not said is left to the next. So two nodes that
//!   think that a third is dead need not know of each other, and a list of any length needs no rule of its own.
//!
//! Who is [here] is not in the state (a checkpoint has no room for it): a node that has not seen all of the stream
//! since a client came does not know of it, and no notice says that it left if that node is left it.
//!
//! # What was sent and not answered
//!
//! One batch of a node is on its way at a time; those that are stored wait until they come back. A batch is
//! [settled](publisher::Publisher::settle) when it comes back with its numbers, and not before: an answer of the server
//! only lets the next one go, and if the node has taken all up to the place that the answer names and the batch did not
//! count there, it is sent again. Without an answer, the last message of the node's own subject is looked at, and the batch is
//! sent again if it is not there: the same bytes. That it was stored after all, or twice, or that the server has
//! forgotten its id, or that the stream has lost it since, does no harm: only the first that comes counts. A node that
//! has missed part of the stream learns from the next checkpoint which of its batches was the last that counted.
//! A batch that is not known to be counted is never given up, and one that may be counted is never sent with another
//! number, but for this: another process publishes as the same node (a batch with its number comes back with other
//! bytes, or one that it never sent). Then the chain has split, what it has not seen come back is not in it, and it
//! goes on [as a new node](publisher::Publisher::renew). Where NATS takes smaller messages than before, a node says
//! of itself that it is gone, left to the new one that it goes on as when that has come: what has not come back by then
//! does not count, and is cut anew.
//!
//! # What may go wrong
//!
//! - *A node misses messages* (they were trimmed or purged before it read them): it publishes nothing and keeps what
//!   comes, until a checkpoint is about a place behind which it has everything. Numbers and messages that it missed
//!   are known then, and told.
//! - *Nobody knows the state* (all have just started, and the last checkpoint is trimmed or purged): one begins. What
//!   was in the stream before has no numbers. Checkpoints are [due](order::Order::is_checkpoint_due) before that: often
//!   enough for the oldest one to be near the stream's first message, as nothing before it can be read by number. Nodes
//!   look at the stream when another comes, and who comes waits for longer than they take if it hears that any live.
//! - *The stream is purged*: nodes know the state and go on. *It is deleted, or comes back without its end*: numbers
//!   of it could be given twice, so a [node that was connected to it](order::Order::connected) takes no state of the
//!   same epoch from it, and one begins: with what it knows of batches and sessions, so that what is sent again does
//!   not count again. What the stream lost before that node had read it may come once more then, in the new epoch.
//! - *A node that is gone lives*: it sees so in the stream, goes on as a new node, sends again what did not count of
//!   it, and closes its clients that have sessions, which claim them again. Its other clients are said to have left by
//!   the other node, and behind that to have come by this one. It sends nothing else of its clients meanwhile
//!   ([`Outbox::lose`](outbox::Outbox)), but does say what is left to it in turn: of two nodes that are gone, each may
//!   be the other's heir. It does not wait where it missed part of the stream, nor for long, nor before a handover or
//!   its end.
//! - *A node dies with a claim on its way*: if it comes to a place, the session is the dead node's until that is
//!   gone; any other claim behind it takes it over. Nobody was told what was taken by it.
//! - *A message cannot be read*: damaged, all pass it over; of a later version, a node cannot know what follows, and
//!   stops taking messages of this channel: nodes write a later version only when all of them read it.
//! - *The stream comes back without its end and grows past where a node was before that node is connected*: it is not
//!   noticed. A server that loses what it has acknowledged breaks what all of this stands on.

#[cfg(feature = "nats")]
mod backoff;
pub(in crate::hub) mod batch;
pub(in crate::hub) mod here;
pub(in crate::hub) mod ids;
#[cfg(feature = "nats")]
mod member;
mod message;
#[cfg(test)]
mod model;
#[cfg(feature = "nats")]
pub(in crate::hub) mod nats;
#[cfg_attr(not(feature = "nats"), path = "absent.rs")]
pub(in crate::hub) mod node;
mod order;
pub(in crate::hub) mod outbox;
#[cfg(feature = "nats")]
pub(in crate::hub) mod past;
#[cfg(feature = "nats")]
pub(in crate::hub) mod presence;
mod publisher;
pub(in crate::hub) mod saved;
pub(in crate::hub) mod state;
pub(in crate::hub) mod stats;
