//! A stand-in for systemd: takes notifications, answers barriers, keeps descriptors.

use std::ffi::OsString;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::{Launch, PATIENCE, Server, eventually};

/// Ends the stand-in's thread.
const QUIT: &str = "QUIT=1";

/// A service manager. Messages are waited for in the order they came in: each wait goes on where
/// the last one ended.
pub(crate) struct Manager {
    address: SocketAddr,
    name: OsString,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

/// One notification.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// Its assignments, one a line.
    pub(crate) text: String,
    /// Who sent it, as the kernel says.
    pub(crate) pid: u32,
    /// When it was taken.
    pub(crate) at: Instant,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    messages: Vec<Message>,
    /// How many of them have been waited for.
    seen: usize,
    /// How many descriptors it keeps: FileDescriptorStoreMax=.
    room: usize,
    store: Vec<(String, OwnedFd)>,
}

/// Leaves everything to the manager, and starts the next daemon with what it keeps.
#[track_caller]
pub(crate) fn restart(manager: &Manager, mut server: Server, args: &[&str]) -> Server {
    server.stop();
    server.wait_log("handed over to the service manager");
    drop(server);
    let server = manager.relaunch(args).start();
    server.wait_log("phase=running");
    eventually("the store is emptied", || manager.stored().is_empty());
    server
}

impl Message {
    pub(crate) fn has(&self, assignment: &str) -> bool {
        self.text.lines().any(|line| line == assignment)
    }

    /// The value of a variable that is assigned in it.
    pub(crate) fn value(&self, variable: &str) -> Option<&str> {
        let line = |line: &'_ str| -> bool { line.split('=').next() == Some(variable) };
        let line = self.text.lines().find(|text| line(text))?;
        line.split_once('=').map(|(_, value)| value)
    }
}

impl Manager {
    /// One with a path for its address.
    pub(crate) fn start() -> Manager {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let address = SocketAddr::from_pathname(&path).expect("a short path");
        Manager::listen(address, path.into_os_string(), dir)
    }

    /// One with an abstract address, as a user's manager in a container may have.
    pub(crate) fn start_abstract() -> Manager {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!(
            "linehub-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Relaxed)
        );
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        let dir = tempfile::tempdir().expect("a directory");
        Manager::listen(address, format!("@{name}").into(), dir)
    }

    fn listen(address: SocketAddr, name: OsString, dir: tempfile::TempDir) -> Manager {
        let socket = UnixDatagram::bind_addr(&address).expect("a free address");
        rustix::net::sockopt::set_socket_passcred(&socket, true).expect("SO_PASSCRED");
        let shared = Arc::new(Shared::default());
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || while shared.take(&socket) {}
        });
        Manager {
            address,
            name,
            shared,
            thread: Some(thread),
            _dir: dir,
        }
    }

    /// The manager is started anew, at the same address: what it had been told is forgotten.
    pub(crate) fn restart(self) -> Manager {
        let (address, name) = (self.address.clone(), self.name.clone());
        let dir = self.end();
        std::fs::remove_file(PathBuf::from(&name)).expect("its socket");
        Manager::listen(address, name, dir)
    }

    /// One that keeps descriptors.
    pub(crate) fn keeping() -> Manager {
        Manager::keeping_at_most(16)
    }

    pub(crate) fn keeping_at_most(room: usize) -> Manager {
        let manager = Manager::start();
        manager.shared.state.lock().unwrap().room = room;
        manager
    }

    /// The names of what it keeps.
    pub(crate) fn stored(&self) -> Vec<String> {
        let state = self.shared.state.lock().unwrap();
        state.store.iter().map(|(name, _)| name.clone()).collect()
    }

    /// A daemon that is started by this manager, and gets what is in the store.
    pub(crate) fn relaunch(&self, args: &[&str]) -> Launch {
        let state = self.shared.state.lock().unwrap();
        let listeners = args
            .iter()
            .filter(|arg| arg.starts_with("--listen"))
            .count();
        let launch = self.launch(args).listeners(listeners);
        state
            .store
            .iter()
            .fold(launch, |launch, (name, descriptor)| {
                launch.pass(name, descriptor.try_clone().expect("dup"))
            })
    }

    /// A daemon that is started by this manager.
    pub(crate) fn launch(&self, args: &[&str]) -> Launch {
        let name = self.name.to_str().expect("UTF-8");
        Launch::new(args).env("NOTIFY_SOCKET", name)
    }

    /// Waits for a message with this assignment, after those that were waited for already.
    #[track_caller]
    pub(crate) fn wait(&self, assignment: &str) -> Message {
        self.wait_for(assignment, |message| message.has(assignment))
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, wanted: impl Fn(&Message) -> bool) -> Message {
        let state = self.shared.state.lock().unwrap();
        let mut found = None;
        let (mut state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, PATIENCE, |state| {
                let next = state.messages[state.seen..].iter().position(&wanted);
                found = next.map(|next| state.seen + next);
                found.is_none()
            })
            .unwrap();
        let Some(at) = found else {
            let (seen, rest) = state.messages.split_at(state.seen);
            panic!("no {what}; before: {seen:#?}; since: {rest:#?}");
        };
        state.seen = at + 1;
        state.messages[at].clone()
    }

    /// Everything that came so far.
    pub(crate) fn messages(&self) -> Vec<Message> {
        self.shared.state.lock().unwrap().messages.clone()
    }

    /// Ends the thread; the messages that it has not taken are lost.
    fn end(mut self) -> tempfile::TempDir {
        self.quit();
        std::mem::replace(&mut self._dir, tempfile::tempdir().expect("a directory"))
    }

    fn quit(&mut self) {
        if let Some(thread) = self.thread.take() {
            let socket = UnixDatagram::unbound().expect("a socket");
            socket
                .send_to_addr(QUIT.as_bytes(), &self.address)
                .expect("the stand-in is alive");
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.quit();
    }
}

impl Shared {
    /// Takes one message and does as it says; false when it was the last one.
    fn take(&self, socket: &UnixDatagram) -> bool {
        let mut text = [0; 4096];
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253), ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let slices = &mut [IoSliceMut::new(&mut text)];
        let received = rustix::net::recvmsg(socket, slices, &mut control, RecvFlags::CMSG_CLOEXEC);
        let bytes = received.expect("a message").bytes;
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        let mut pid = 0;
        for part in control.drain() {
            match part {
                RecvAncillaryMessage::ScmRights(passed) => descriptors.extend(passed),
                RecvAncillaryMessage::ScmCredentials(from) => {
                    pid = from.pid.as_raw_nonzero().get() as u32;
                }
                _ => {}
            }
        }
        let text = String::from_utf8(text[..bytes].to_vec()).expect("UTF-8");
        if text == QUIT {
            return false;
        }
        let message = Message {
            text,
            pid,
            at: Instant::now(),
        };
        let mut state = self.state.lock().unwrap();
        if message.has("FDSTORE=1") {
            let name = message.value("FDNAME").unwrap_or("stored").to_owned();
            let room = state.room.saturating_sub(state.store.len());
            let kept = descriptors.drain(..).take(room);
            let named = kept.map(|fd| (name.clone(), fd));
            state.store.extend(named);
        }
        if message.has("FDSTOREREMOVE=1") {
            let name = message.value("FDNAME");
            state.store.retain(|(stored, _)| name != Some(stored));
        }
        state.messages.push(message);
        drop(state);
        self.changed.notify_all();
        // What is left of the descriptors is closed: that is the answer to a barrier.
        true
    }
}
