//! Waits for whatever happens first.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// What is waited for. What is `None` is not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted<'a> {
    /// The end of a task.
    pub(super) task: Option<BorrowedFd<'a>>,
    /// That a socket takes bytes.
    pub(super) socket: Option<BorrowedFd<'a>>,
    /// That there is input, or its end.
    pub(super) input: Option<BorrowedFd<'a>>,
    /// That nobody reads an output any more.
    pub(super) output: Option<BorrowedFd<'a>>,
    /// That time is up.
    pub(super) timeout: Option<Duration>,
}

/// What has happened. Nothing of it when time was up, a signal came, or the socket takes bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Happened {
    pub(super) task: bool,
    pub(super) input: bool,
    pub(super) output: bool,
}

impl Wanted<'_> {
    /// Waits until something of it happens.
    pub(super) fn wait(self) -> io::Result<Happened> {
        let each = [
            (self.task, PollFlags::IN),
            (self.socket, PollFlags::OUT),
            (self.input, PollFlags::IN),
            // An error is told whether it is asked for or not.
            (self.output, PollFlags::empty()),
        ];
        let mut places = [None; 4];
        let mut watched = Vec::with_capacity(each.len());
        for (place, (descriptor, flags)) in places.iter_mut().zip(&each) {
            if let Some(descriptor) = descriptor {
                *place = Some(watched.len());
                watched.push(PollFd::from_borrowed_fd(*descriptor, *flags));
            }
        }
        let timeout = self.timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Happened::default()),
            Err(error) => return Err(error.into()),
        }
        let happened = places
            .map(|place: Option<usize>| place.is_some_and(|at| !watched[at].revents().is_empty()));
        let [task, _, input, output] = happened;
        Ok(Happened {
            task,
            input,
            output,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn whatever_happens_is_told_from_the_rest() {
        let (input, mut writer) = io::pipe().unwrap();
        let (task, task_open) = io::pipe().unwrap();
        let (reader, output) = io::pipe().unwrap();
        let wanted = Wanted {
            task: Some(task.as_fd()),
            input: Some(input.as_fd()),
            output: Some(output.as_fd()),
            timeout: Some(Duration::ZERO),
            ..Wanted::default()
        };
        let mut happened = Happened::default();
        assert_eq!(wanted.wait().unwrap(), happened);
        writer.write_all(b"x").unwrap();
        happened.input = true;
        assert_eq!(wanted.wait().unwrap(), happened);
        drop(reader);
        happened.output = true;
        assert_eq!(wanted.wait().unwrap(), happened);
        drop(task_open);
        happened.task = true;
        assert_eq!(wanted.wait().unwrap(), happened);
    }
}
