//! By what a client's lines go to and fro.

use std::fmt;

use serde::{Deserialize, Serialize};

/// By what a client's lines go to and fro.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// As they are.
    #[default]
    Plain,
    /// A WebSocket message for each.
    WebSocket,
    /// Server-sent events, each with the place that it comes at.
    Events,
    /// The body of the answer to a GET.
    Lines,
    /// The body of a POST.
    Post,
}

impl Transport {
    /// All of them.
    pub const ALL: [Transport; 5] = [
        Transport::Plain,
        Transport::WebSocket,
        Transport::Events,
        Transport::Lines,
        Transport::Post,
    ];

    /// The transport's name in lists and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Transport::Plain => "plain",
            Transport::WebSocket => "websocket",
            Transport::Events => "events",
            Transport::Lines => "lines",
            Transport::Post => "post",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
