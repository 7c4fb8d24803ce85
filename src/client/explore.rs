//! Hub, budget and clients under any schedule: in whatever order tasks run and whatever peers do
//! meanwhile, nobody waits for nothing, and nobody misses a line unawares.
//!
//! **Simulated.** A seed is a schedule, the same every time. It makes a hub of some configuration
//! and up to [`CLIENTS_MAX`] clients, each on a [`Link`] to a [`Peer`], which stands for the socket
//! too. Clients have any role; the first has both. Peers read, trickle or are stuck; they send lines of every kind in pieces of any size, leave
//! in any way, and break; they act between polls and in the middle of them. Some are held to rates. A task is polled only when
//! it was woken, one at a time, in any order. Newcomers wait to be let in, the reaper looks, a
//! handover freezes all and lets them go on, and in the end the daemon drains, or all leave. Many hubs keep
//! a history, all or too little of it: newcomers then begin in the past, who is behind reads on from it, and
//! others have the turns for that at times.
//!
//! Half of the newcomers come by HTTP, once their request is granted. By WebSocket they send messages of one line
//! or many, in frames of any size with pings and pongs between, at times a close frame or one that is wrong; they are
//! asked whether they are there. They get events and `/lines` in chunks, or without for HTTP/1.0. The body of a
//! POST has its length, or chunks, at times wrong ones, and may not come to its end.
//!
//! **Asserted.** At rest, when nobody is woken any more, one more poll of everybody changes nothing:
//! else a `Pending` was returned without anybody to wake for it. Who waits for the buffer then waits
//! for a peer that refuses, and no longer than the grace allows; nobody keeps what is behind its own
//! end, nor a turn to read the history; and who takes all that comes has whole frames, events and chunks. A drain
//! waits for no rate. In the end the buffer is empty, all that was sent is published, and every peer has got
//! its part of the one order, whole and in order, and was told how much of it it missed. The one order
//! is what the first client got, the observer: it reads at once and says nothing.
//!
//! Of what goes by HTTP, the lines are taken out by a decoder of the tests' own. An event has its number for its
//! id. Who comes by WebSocket has its pings answered, in order, and gets a close frame last, with its own status or
//! that of the reason; a body in chunks ends with the last one. A POST is answered once, at its end, with how many of its
//! lines were published.
//!
//! **Different by HTTP.** Of a message or a body that is not whole, what has no LF is not published, nor anything
//! behind a frame or chunk that is wrong. Who sends a POST gets nothing of the stream, and no answer if it leaves before its
//! body has ended. Who answers no ping is gone. In `text` and `raw`, who was skipped may be left with a chunk that does not
//! come to its end: nothing can be said there that is no line.
//!
//! **Not here.** Threads that run inside each other's polls, real sockets, requests and their refusals, sessions, what a
//! handover saves and restores, a reload, and the timeouts for idle and stalled clients.
//!
//! `EXPLORE_SEEDS=FIRST,NUMBER cargo test --lib explore` goes through other seeds than [`SEEDS`].

mod due;
mod ending;
mod peer;
mod speech;
mod web;
mod wire;

use std::cell::{Cell, RefCell};
use std::env;
use std::mem;
use std::num::NonZeroU64;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use futures::FutureExt;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::advance;

use super::barrier::FreezeBarrier;
use super::machine::{Client, InputState, OutputState, Stop};
use super::policy::ClientPolicy;
use crate::config::cli::Options;
use crate::config::{
    Config, Grace, HalfClose, ListenerDefaults, ListenerOptions, LongLine, SlowClient,
};
use crate::hub::{
    Channels, Commands, Condition, ConnectionInfo, Feed, Hub, HubStats, Joined, PastRequest,
    ReadPermit,
};
use crate::net::permits::ConnectionLimit;
use crate::wire::close_reason::CloseReason;
use crate::wire::format::Format;
use crate::wire::ids::{ClientId, Seq};
use crate::wire::past::{Newest, Since};
use crate::wire::role::Role;
use crate::wire::transport::Transport;

use peer::{Link, Peer};

/// Schedules that a run of the tests goes through, in about three seconds.
const SEEDS: Range<u64> = 0..500;

/// Polls after which those who are woken can only be waking each other for ever.
const POLLS_MAX: usize = 100_000;

/// A history, in bytes, that no schedule fills.
const KEEPS_ALL: u64 = 1 << 30;

/// Clients that a schedule has at most, those that are gone included.
const CLIENTS_MAX: usize = 10;

#[test]
fn no_schedule_loses_a_wake_up_or_a_line() {
    let seeds = env::var("EXPLORE_SEEDS").map_or(SEEDS, |seeds| {
        let (first, number) = seeds.split_once(',').expect("it reads FIRST,NUMBER");
        let first: u64 = first.parse().unwrap();
        first..first + number.parse::<u64>().unwrap()
    });
    for seed in seeds {
        let _named = Seed(seed);
        let mut world = World::new(seed);
        let runtime = world.runtime.handle().clone();
        let _entered = runtime.enter();
        world.run();
    }
}

/// Names the schedule that a test failed under.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if thread::panicking() {
            let seed = self.0;
            eprintln!("this one alone: EXPLORE_SEEDS={seed},1 cargo test --lib explore");
        }
    }
}

/// Whether a task was woken since it was last polled.
#[derive(Debug)]
struct Flag(AtomicBool);

impl Flag {
    fn raised() -> Arc<Flag> {
        Arc::new(Flag(AtomicBool::new(true)))
    }

    fn is_raised(&self) -> bool {
        self.0.load(SeqCst)
    }

    /// Polls the task whose flag it is.
    fn poll<T>(self: &Arc<Flag>, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        self.0.store(false, SeqCst);
        let waker = Waker::from(self.clone());
        poll(&mut Context::from_waker(&waker))
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Flag>) {
        self.0.store(true, SeqCst);
    }
}

/// A future, and whether it was woken.
struct Task<T> {
    flag: Arc<Flag>,
    future: Pin<Box<dyn Future<Output = T>>>,
}

impl<T> Task<T> {
    fn new(future: impl Future<Output = T> + 'static) -> Task<T> {
        Task {
            flag: Flag::raised(),
            future: Box::pin(future),
        }
    }

    fn poll(&mut self) -> Poll<T> {
        let future = self.future.as_mut();
        self.flag.poll(|cx| future.poll(cx))
    }
}

/// A client and its peer, or what is left of them.
#[derive(Debug)]
struct Guest {
    id: ClientId,
    role: Role,
    /// What comes after this place in the one order is for this client.
    begins_after: u64,
    /// The place that it joined behind: of what is before, it gets no notices, unless it said where to begin.
    joined_after: u64,
    notices_after: u64,
    /// It asked for so many messages first, at most.
    newest: Option<u64>,
    /// It was asked so often whether it is there.
    asked: usize,
    flag: Arc<Flag>,
    barrier: Arc<FreezeBarrier>,
    client: Option<Client<Link>>,
    is_frozen: bool,
    peer: Rc<RefCell<Peer>>,
}

impl Guest {
    fn poll(&mut self) {
        // Frozen, its task waits for nothing but its client.
        let Some(client) = self.client.as_mut().filter(|_| !self.is_frozen) else {
            self.flag.0.store(false, SeqCst);
            return;
        };
        match self.flag.poll(|cx| client.poll(cx)) {
            Poll::Pending => {}
            Poll::Ready(Stop::Closed) => {
                self.client = None;
                self.barrier.stopped();
            }
            Poll::Ready(Stop::Frozen) => {
                self.is_frozen = true;
                self.barrier.stopped();
            }
        }
    }
}

/// Who may be polled.
#[derive(Clone, Copy)]
enum Turn {
    Guest(usize),
    Arriving,
    Freezing,
}

struct World {
    /// Has the clock that rates go by, which stands still unless it is told how far to go.
    runtime: Runtime,
    rng: Rng,
    config: Config,
    channels: Arc<Channels>,
    hub: Arc<Hub>,
    policy: Arc<ClientPolicy>,
    permits: Arc<ConnectionLimit>,
    barrier: Arc<FreezeBarrier>,
    /// The first one is the observer, and the last to go.
    guests: Vec<Guest>,
    arriving: Option<Task<ReadPermit>>,
    freezing: Option<Task<()>>,
    is_frozen: bool,
    /// Turns that others have who read some history.
    turns: Vec<OwnedSemaphorePermit>,
    turns_max: usize,
    /// Peers do nothing in the middle of a poll.
    still: Rc<Cell<bool>>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = Rng::with_seed(seed);
        let mut config = Config::from_options(&Options::default(), 1024).unwrap();
        config.buffer_bytes = rng.usize(1_000..100_000);
        config.line_bytes_max = one_of(&mut rng, [40, 300, 10_000]);
        config.long_line = one_of(&mut rng, [LongLine::Close, LongLine::Discard]);
        config.slow_client = one_of(
            &mut rng,
            [
                SlowClient::Disconnect,
                SlowClient::Skip,
                SlowClient::CatchUp,
            ],
        );
        config.history_bytes = one_of(&mut rng, [0, 2_000, 60_000, KEEPS_ALL, KEEPS_ALL]);
        let graces = [0, 20, 200].map(|millis| Grace::For(Duration::from_millis(millis)));
        config.slow_grace = one_of(&mut rng, [graces.as_slice(), &[Grace::Forever]].concat());
        config.half_close = one_of(&mut rng, [HalfClose::Close, HalfClose::Keep]);
        config.notices = rng.u8(0..4) > 0;
        let mut rate =
            |least: u64| NonZeroU64::new(least << rng.u8(0..12)).filter(|_| rng.u8(0..4) == 0);
        (config.rate_lines, config.rate_bytes) = (rate(20), rate(2_000));
        // Without options of its own, the channel goes by those of all.
        config.channels.clear();
        config.echo = rng.u8(0..4) == 0;
        let channels = Channels::new(&config);
        let hub = channels.main();
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        let turns_max = hub.turns().available_permits();
        let mut world = World {
            runtime: runtime.unwrap(),
            policy: Arc::new(ClientPolicy::from(&config)),
            permits: ConnectionLimit::new(None),
            barrier: Arc::default(),
            channels,
            hub,
            config,
            rng,
            guests: Vec::new(),
            arriving: None,
            freezing: None,
            is_frozen: false,
            turns: Vec::new(),
            turns_max,
            still: Rc::default(),
        };
        world.join(Transport::Plain);
        world.guests[0].peer.borrow_mut().observe();
        world
    }

    fn run(&mut self) {
        for _ in 0..self.rng.usize(1..8) {
            self.live();
            match self.rng.bool() {
                true => self.come_to_rest(),
                false => self.slow_ones_are_dealt_with(),
            }
            self.nothing_is_left_half_said();
        }
        self.slow_ones_are_dealt_with();
        self.live();
        self.stop();
        self.everybody_got_what_was_due();
    }

    /// Anything, in any order.
    fn live(&mut self) {
        for _ in 0..self.rng.usize(0..150) {
            match self.rng.u8(0..100) {
                0..=44 => _ = self.poll_somebody(),
                45..=89 => {
                    let somebody = self.rng.usize(..self.guests.len());
                    self.guests[somebody].peer.borrow_mut().act();
                }
                90..=93 => {
                    let millis = self.rng.u64(0..25);
                    self.look(millis);
                }
                94..=97 if self.arriving.is_none() && self.guests.len() < CLIENTS_MAX => {
                    let hub = self.hub.clone();
                    self.arriving = Some(Task::new(async move { hub.admit().await }));
                }
                // Those who arrive are let in before.
                98 if self.arriving.is_none() && self.may_arrive() => {
                    let (channels, barrier) = (self.channels.clone(), self.barrier.clone());
                    let freezing = async move { barrier.freeze(&channels).await };
                    self.freezing = Some(Task::new(freezing));
                }
                99 => self.thaw(),
                96 => self.ask_somebody(),
                98 => self.turns.clear(),
                97 => self.turns.extend(self.hub.turns().try_acquire_owned()),
                _ => {}
            }
        }
    }

    fn join(&mut self, transport: Transport) {
        let figures = self.hub.stats();
        // The first one has to see all, with the numbers.
        let is_observer = self.guests.is_empty();
        let role = match transport {
            _ if is_observer => Role::Both,
            Transport::Events | Transport::Lines => Role::Subscribe,
            Transport::Post => Role::Publish,
            Transport::Plain | Transport::WebSocket => match self.rng.u8(0..6) {
                0 => Role::Publish,
                1 => Role::Subscribe,
                _ => Role::Both,
            },
        };
        let format = match transport {
            Transport::Events | Transport::Post => Format::Json,
            _ if is_observer => Format::Json,
            _ => one_of(&mut self.rng, Format::ALL),
        };
        let head = figures.messages + figures.notices;
        let wanted = self.wanted(head);
        let entry = self.hub.enter(&wanted).now_or_never();
        let entry = entry.expect("at once").expect("anybody may");
        let connection = ConnectionInfo {
            role,
            transport,
            ..ConnectionInfo::test(format)
        };
        let joined = self.hub.join_at(connection, entry);
        let Joined { feed, answer } = joined.expect("without a session");
        let (begins_after, notices_after) = match wanted.since {
            Some(Since::Place(_, Seq(place))) if self.config.history_bytes > 0 => (place, place),
            _ => (answer.seq.0, head),
        };
        let id = feed.subscriber().id;
        let (rng, still) = (self.rng.fork(), self.still.clone());
        let mut peer = Peer::new(rng, transport, format, &self.config, still);
        let request = peer.request();
        let peer = Rc::new(RefCell::new(peer));
        let link = Link(peer.clone());
        let defaults = ListenerDefaults {
            format,
            ..self.config.listener_defaults()
        };
        let mut client = Client::new(
            link,
            feed,
            Arc::new(ListenerOptions {
                role,
                ..ListenerOptions::unlisted("unix:/x", &defaults)
            }),
            self.policy.clone(),
            self.permits.force_acquire(),
        );
        if let Some(request) = request {
            client.answer_request(request, None, &answer);
        }
        self.barrier.started();
        self.guests.push(Guest {
            id,
            role,
            begins_after,
            joined_after: head,
            notices_after,
            newest: match wanted.newest {
                Some(Newest::Messages(most)) => Some(most),
                _ => None,
            },
            asked: 0,
            flag: Flag::raised(),
            barrier: self.barrier.clone(),
            client: Some(client),
            is_frozen: false,
            peer,
        });
    }

    /// What a newcomer asks for of the past, in an order of so many.
    fn wanted(&mut self, head: u64) -> PastRequest {
        let mut wanted = PastRequest::default();
        if self.guests.is_empty() {
            return wanted;
        }
        let amount = 1 << self.rng.u8(0..14);
        match self.rng.u8(0..6) {
            0 => wanted.newest = Some(Newest::Messages(amount)),
            1 => wanted.newest = Some(Newest::Bytes(amount)),
            2..=3 => {
                let place = Seq(self.rng.u64(0..=head));
                wanted.since = Some(Since::Place(self.hub.epoch(), place));
            }
            _ => {}
        }
        wanted
    }

    /// Asks a client whether it is there, as the reaper does in its time.
    fn ask_somebody(&mut self) {
        let somebody = self.rng.usize(..self.guests.len());
        let guest = &mut self.guests[somebody];
        if let Some(client) = &guest.client {
            client.feed.subscriber().command(Commands::BEAT);
            guest.asked += 1;
        }
    }

    /// Lets those go on who have been frozen, if all have.
    fn thaw(&mut self) {
        if mem::take(&mut self.is_frozen) {
            self.channels.start_clock();
            for guest in &mut self.guests {
                if mem::take(&mut guest.is_frozen) {
                    self.barrier.started();
                }
                guest.flag.clone().wake();
            }
        }
    }

    fn look(&mut self, millis: u64) {
        // Time passes while tasks wait for their turn, but it is not to make the observer slow.
        self.guests[0].poll();
        let time = Duration::from_millis(millis);
        self.runtime.block_on(advance(time));
        self.hub.pass(time);
        assert!(!self.hub.is_jammed(), "jammed");
    }

    fn may_arrive(&self) -> bool {
        self.freezing.is_none() && !self.is_frozen
    }

    fn turns(&self) -> Vec<Turn> {
        let arriving = self.arriving.iter().filter(|_| self.may_arrive());
        let guests = (0..self.guests.len()).map(Turn::Guest);
        guests
            .chain(arriving.map(|_| Turn::Arriving))
            .chain(self.freezing.iter().map(|_| Turn::Freezing))
            .collect()
    }

    fn is_woken(&self, turn: Turn) -> bool {
        let flag = match turn {
            Turn::Guest(at) => Some(&self.guests[at].flag),
            Turn::Arriving => self.arriving.as_ref().map(|task| &task.flag),
            Turn::Freezing => self.freezing.as_ref().map(|task| &task.flag),
        };
        flag.is_some_and(|flag| flag.is_raised())
    }

    fn poll(&mut self, turn: Turn) {
        match turn {
            Turn::Guest(at) => self.guests[at].poll(),
            Turn::Arriving => {
                if let Some(Poll::Ready(permit)) = self.arriving.as_mut().map(Task::poll) {
                    self.arriving = None;
                    let transport = match self.rng.bool() {
                        true => Transport::Plain,
                        false => one_of(&mut self.rng, Transport::ALL),
                    };
                    self.join(transport);
                    drop(permit);
                }
            }
            Turn::Freezing => {
                if let Some(Poll::Ready(())) = self.freezing.as_mut().map(Task::poll) {
                    self.freezing = None;
                    self.is_frozen = true;
                }
            }
        }
    }

    /// Polls one of those who were woken; whether there was one.
    fn poll_somebody(&mut self) -> bool {
        let woken = self.turns().into_iter().filter(|turn| self.is_woken(*turn));
        let somebody = self.rng.choice(woken.collect::<Vec<_>>());
        if let Some(turn) = somebody {
            self.poll(turn);
        }
        somebody.is_some()
    }

    /// Polls until nobody is woken, and finds out whether that is right.
    fn come_to_rest(&mut self) {
        self.still.set(true);
        let mut polls = 0;
        loop {
            while self.poll_somebody() {
                polls += 1;
                assert!(polls < POLLS_MAX, "no rest");
            }
            // Nothing says that a peer has acknowledged all: the reaper has them look, again and again.
            let waits = |client: &Client<Link>| {
                let is_over =
                    (client.input, client.output) == (InputState::Ended, OutputState::Shut);
                is_over && client.is_untold() && client.peer_has_all()
            };
            let running = self.guests.iter().filter(|guest| !guest.is_frozen);
            let mut clients = running.filter_map(|guest| guest.client.as_ref());
            let Some(client) = clients.find(|client| waits(client)) else {
                break;
            };
            client.feed.subscriber().command(Commands::PROBE);
        }
        let before = self.traces();
        for turn in self.turns() {
            self.poll(turn);
        }
        assert_eq!(self.traces(), before, "a wake-up was lost");
        // Who reads the history asks for a slice before it finds that its socket refuses, and is given one.
        let mut askers = self.guests.len();
        while self.poll_somebody() {
            assert!(askers > 0, "somebody wakes for nothing");
            askers -= 1;
        }
        assert_eq!(self.traces(), before, "somebody wakes for something");
        assert!(self.freezing.is_none(), "somebody does not freeze");
        let turns = self.hub.turns().available_permits() + self.turns.len();
        assert!(
            self.is_frozen || turns == self.turns_max,
            "somebody keeps a turn"
        );
        let is_held_up = self.is_frozen || self.peers().any(|peer| peer.borrow().refuses());
        let waiting = self.hub.stats().senders_waiting > 0 || self.arriving.is_some();
        assert!(!waiting || is_held_up, "they wait for nobody");
        let mut feeds = self.clients().map(|(client, _)| &client.feed);
        assert!(!feeds.any(Feed::keeps_more_than_its_own), "not let go of");
        self.still.set(false);
    }

    fn clients(&self) -> impl Iterator<Item = (&Client<Link>, &Rc<RefCell<Peer>>)> {
        let guests = self.guests.iter();
        guests.filter_map(|guest| Some((guest.client.as_ref()?, &guest.peer)))
    }

    /// The peers of those who are still connected.
    fn peers(&self) -> impl Iterator<Item = &Rc<RefCell<Peer>>> {
        self.clients().map(|(_, peer)| peer)
    }

    /// What would be different if anything had happened.
    fn traces(&self) -> (HubStats, Vec<peer::Traces>) {
        let mut figures = HubStats {
            waited: Duration::ZERO,
            ..self.hub.stats()
        };
        if self.config.history_bytes > 0 {
            // Who refuses finds only when it is polled that what it would get is not kept any more.
            figures.totals.skipped = 0;
        }
        let peers = self.peers().map(|peer| peer.borrow().traces());
        (figures, peers.collect())
    }

    /// At rest, whoever takes all that comes has got whole units, and chunks with their ends, unless it has still
    /// to get what there is of them in the history.
    fn nothing_is_left_half_said(&self) {
        for (client, peer) in self.clients().filter(|_| !self.is_frozen) {
            let (peer, subscriber) = (peer.borrow(), client.feed.subscriber());
            let takes_all = !peer.refuses() && !peer.reset;
            let reads_on = subscriber.is(Condition::CatchingUp);
            assert!(
                !takes_all || reads_on || web::is_whole(&peer),
                "{} got half of something",
                subscriber.id
            );
        }
    }

    fn end_freeze(&mut self) {
        self.come_to_rest();
        self.turns.clear();
        self.thaw();
        self.come_to_rest();
    }

    /// Peers do nothing any more, but time passes: nobody waits for long.
    fn slow_ones_are_dealt_with(&mut self) {
        self.end_freeze();
        let Grace::For(grace) = self.config.slow_grace else {
            return;
        };
        // Several may have to go, one after the other.
        for _ in 0..(grace.as_millis() / 25 + 40) * CLIENTS_MAX as u128 {
            self.guests[0].peer.borrow_mut().act();
            if self.hub.stats().senders_waiting == 0 {
                break;
            }
            self.look(25);
            self.come_to_rest();
        }
        assert_eq!(self.hub.stats().senders_waiting, 0, "they wait for ever");
    }

    /// The daemon drains, or all leave; each peer takes what it is owed.
    fn stop(&mut self) {
        self.end_freeze();
        let drains = self.rng.bool();
        match drains {
            true => self.drain(),
            false => self.all_leave(),
        }
        assert_eq!(self.peers().count(), 0, "somebody stays");
        // The shutdown notice is kept for who comes back from the past.
        let keeps_notice = drains && self.config.history_bytes > 0;
        let kept = if keeps_notice { 1500 } else { 0 };
        assert!(
            self.hub.stats().buffer_used <= kept,
            "the buffer keeps some"
        );
    }

    fn drain(&mut self) {
        self.arriving = None;
        let hub = self.hub.clone();
        let mut drain = Task::new(async move { hub.drain().await });
        let is_done = drain.poll().is_ready();
        self.come_to_rest();
        let mut clients = self.clients().map(|(client, _)| client);
        assert!(
            clients.all(|client| client.throttle().is_none()),
            "waits for a rate"
        );
        drop(clients);
        self.let_peers_read(false);
        let is_done = is_done || drain.flag.is_raised() && drain.poll().is_ready();
        assert!(is_done, "no drain");
        self.hub.finish();
        self.let_peers_read(false);
        self.ask_who_is_left(false);
    }

    /// Whoever has only read is found to be gone by being asked, and whoever is to be reset to have all.
    fn ask_who_is_left(&mut self, may_send: bool) {
        for _ in 0..3 {
            self.look(1000);
            self.let_peers_read(may_send);
        }
    }

    fn all_leave(&mut self) {
        self.let_peers_read(true);
        assert_eq!(self.hub.stats().buffer_used, 0);
        // The observer sees all the others go.
        for at in [1..self.guests.len(), 0..1] {
            for guest in &self.guests[at] {
                let mut peer = guest.peer.borrow_mut();
                peer.end();
                if self.config.half_close == HalfClose::Keep {
                    peer.break_off();
                }
            }
            self.let_peers_read(true);
            self.ask_who_is_left(true);
        }
    }

    /// Peers read all there is, close when the daemon has, and may send what they have still to.
    fn let_peers_read(&mut self, may_send: bool) {
        loop {
            self.come_to_rest();
            let before = self.traces();
            for guest in &self.guests {
                guest.peer.borrow_mut().get_done(may_send);
            }
            if self.traces() == before && !self.guests.iter().any(|guest| guest.flag.is_raised()) {
                let mut clients = self.clients().map(|(client, _)| client);
                let waits = |client: &Client<Link>| {
                    client
                        .throttle()
                        .is_some_and(|throttle| throttle.is_waiting())
                };
                if !clients.any(waits) {
                    break;
                }
                drop(clients);
                self.runtime.block_on(advance(Duration::from_secs(1)));
            }
        }
        for (client, peer) in self.clients() {
            let is_read = client.input != InputState::Open || peer.borrow().is_read();
            assert!(is_read, "{} was not read", client.feed.subscriber().id);
        }
    }

    fn everybody_got_what_was_due(&self) {
        let log = due::log(&self.guests[0].peer.borrow().received, &self.config);
        let (closed, _) = self.channels.closed(0, usize::MAX);
        for guest in &self.guests {
            let closed = closed.iter().find(|closed| closed.id == guest.id).unwrap();
            assert_ne!(closed.reason, CloseReason::Internal);
            let published = due::all_it_sent_is_published(guest, closed, &log, &self.config);
            ending::it_was_told_its_end(guest, closed, published);
            due::it_began_where_it_should(guest, &log, &self.config);
            due::all_it_was_due_is_received(guest, closed, &log, &self.config);
        }
    }
}

/// Whether those who stay may miss something.
fn may_miss(config: &Config) -> bool {
    match (config.slow_client, config.history_bytes) {
        (SlowClient::Skip, _) | (SlowClient::CatchUp, 0) => true,
        (SlowClient::Disconnect, 0) => false,
        (_, bytes) => bytes < KEEPS_ALL,
    }
}

fn one_of<T>(
    rng: &mut Rng,
    choices: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
) -> T {
    rng.choice(choices).expect("there is a choice")
}
