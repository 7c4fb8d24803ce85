//! `linehub history`, as it is typed.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use crate::config::words;
use crate::wire::channel::ChannelName;
use crate::wire::format::Format;
use crate::wire::past::{InvalidSince, Since};

/// What `linehub history` does.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum History {
    /// Check every byte of a history, and show what is in it
    ///
    /// A line for each channel. Of damage it says the file, the byte and what is wrong there, and exits
    /// with 1. What a daemon is writing right now, or was when it was killed, is no damage: of an end that is
    /// not whole it says so, and that the next start cuts it off.
    Check(HistoryCheckArgs),
    /// Print what was kept of a channel, from the oldest to the newest
    ///
    /// Messages and notices, as a client of that format got them.
    Cat(HistoryReadArgs),
    /// Print the newest of a channel, and go on as more comes, until Ctrl-C
    ///
    /// Without --since and --last, the last 10 messages first.
    Tail(HistoryReadArgs),
}

/// What `linehub history check` takes.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct HistoryCheckArgs {
    /// The directory of --history-dir, or the folder of one channel in it
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
}

/// What `linehub history cat` and `tail` take.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct HistoryReadArgs {
    /// The directory of --history-dir, or the folder of one channel in it
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,

    /// Read channel NAME [default: the only one there is]
    #[arg(long, value_name = "NAME", value_parser = words::channel)]
    pub channel: Option<ChannelName>,

    /// Print it in this format [default: text]
    #[arg(long, value_name = "text|json|raw", value_parser = words::format)]
    pub format: Option<Format>,

    /// Begin behind this message or notice, or with what is at most so old: 5f3a9c11:4711, 5m
    #[arg(long, value_name = "EPOCH:SEQ|DURATION", value_parser = since, conflicts_with = "last")]
    pub since: Option<Since>,

    /// Begin with the last N messages
    #[arg(long, value_name = "N", value_parser = last)]
    pub last: Option<u64>,
}

fn since(text: &str) -> Result<Since, String> {
    text.parse()
        .map_err(|allowed: InvalidSince| format!("'{text}' is not allowed; allowed: {allowed}"))
}

fn last(text: &str) -> Result<u64, String> {
    let allowed = "a number of messages such as 100";
    text.parse()
        .map_err(|_| format!("'{text}' is not allowed; allowed: {allowed}"))
}
