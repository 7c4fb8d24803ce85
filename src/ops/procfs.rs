//! Stats that the kernel has of a process (proc(5)), and the process that serves a connection.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::time::ClockId;
use nix::unistd::Pid;

/// The fields of `/proc/PID/stat` from the third on, which follows the program's name.
#[derive(Debug)]
pub(crate) struct Stat(String);

impl Stat {
    pub(crate) const THREADS: usize = 20;
    pub(crate) const STARTED: usize = 22;
    pub(crate) const VIRTUAL: usize = 23;

    /// Reads the fields; `None` for a process that is gone.
    pub(crate) fn read(pid: u32) -> Option<Stat> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The program's name may hold anything, but only it is in parentheses.
        Some(Stat(text.rsplit_once(") ")?.1.to_owned()))
    }

    /// The field with this number in proc(5).
    pub(crate) fn field(&self, number: usize) -> Option<u64> {
        self.0.split(' ').nth(number - 3)?.parse().ok()
    }
}

/// Processor time of all threads of a process, user and system, ended threads included. `None` for a
/// process that is gone.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    // 0 would mean this process.
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0)?;
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid)).ok()?;
    clock.now().ok().map(Duration::from)
}

/// Resident bytes of a process now. The kernel adds the threads' counts late: a few hundred KiB may be
/// missing.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    field_bytes(pid, "status", "VmRSS:")
}

/// Resident bytes counted page by page, which takes time and the right to inspect the process.
pub fn resident_bytes_exact(pid: u32) -> Option<u64> {
    field_bytes(pid, "smaps_rollup", "Rss:")
}

/// The most bytes of a process that were ever resident.
pub fn resident_bytes_max(pid: u32) -> Option<u64> {
    field_bytes(pid, "status", "VmHWM:")
}

fn field_bytes(pid: u32, file: &str, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kilobytes: u64 = value.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// The process that serves the connection from `ours` to `theirs`, if it is on this machine and we may
/// list its descriptors.
pub fn server_of(ours: SocketAddr, theirs: SocketAddr) -> Option<u32> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let inode = tables.iter().find_map(|table| {
        let text = fs::read_to_string(table).ok()?;
        text.lines().find_map(|line| inode_of(line, theirs, ours))
    })?;
    let socket = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.find_map(|entry| {
        let entry = entry.ok()?;
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let mut descriptors = fs::read_dir(entry.path().join("fd")).ok()?;
        let is_socket = |descriptor: fs::DirEntry| {
            fs::read_link(descriptor.path()).is_ok_and(|link| link.as_os_str() == socket.as_str())
        };
        descriptors
            .any(|descriptor| descriptor.is_ok_and(is_socket))
            .then_some(pid)
    })
}

/// The inode in a line of /proc/net/tcp or tcp6, if the line is of the socket with these addresses.
fn inode_of(line: &str, local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let mut words = line.split_whitespace().skip(1);
    let (shown_local, shown_remote) = (address(words.next()?)?, address(words.next()?)?);
    let same = |shown: SocketAddr, wanted: SocketAddr| {
        shown.port() == wanted.port() && shown.ip().to_canonical() == wanted.ip().to_canonical()
    };
    if !same(shown_local, local) || !same(shown_remote, remote) {
        return None;
    }
    // Skips state, queues, timer, retransmits, uid and timeout.
    words.nth(6)?.parse().ok().filter(|inode| *inode != 0)
}

/// The address in a form like `0100007F:0929`, which is 127.0.0.1:2345: each four bytes are a number in
/// the machine's byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| {
        let number = u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(number.to_ne_bytes())
    };
    let ip = match ip.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            IpAddr::from(<[u8; 16]>::try_from(words).ok()?)
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn own_process_is_found_by_a_connection_to_it() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(any) else {
                continue;
            };
            let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (_accepted, _) = listener.accept().unwrap();
            let (local, peer) = (ours.local_addr().unwrap(), ours.peer_addr().unwrap());
            assert_eq!(server_of(local, peer), Some(std::process::id()));
            assert_eq!(server_of(peer, peer), None);
        }
    }

    #[test]
    fn usage_of_this_process_is_known_and_that_of_none_is_not() {
        let pid = std::process::id();
        assert!(resident_bytes(pid) > Some(100_000));
        assert!(resident_bytes_exact(pid) > Some(100_000));
        assert!(resident_bytes_max(pid) >= resident_bytes(pid));
        assert!(cpu_time(pid).is_some());
        assert_eq!((resident_bytes(0), cpu_time(0)), (None, None));
    }
}
