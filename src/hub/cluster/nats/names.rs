//! What streams and subjects are called.

use crate::hub::cluster::batch::NodeId;
use crate::wire::channel::ChannelName;

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Batch(NodeId),
    Checkpoint,
    Gone,
}

/// Subject of what nodes say of themselves, before the node.
const NODE: &str = "linehub.node.";

/// What a channel is called in names of NATS, in which `.` parts words. No channel's name has `=` in it, so no two
/// channels are called the same.
fn escape(channel: &ChannelName) -> String {
    channel.as_str().replace('.', "=2E")
}

pub(super) fn stream(channel: &ChannelName) -> String {
    format!("LINEHUB_{}", escape(channel))
}

/// What all subjects of a channel begin with.
pub(super) fn prefix(channel: &ChannelName) -> String {
    format!("linehub.channel.{}", escape(channel))
}

pub(super) fn subject(prefix: &str, subject: Subject) -> String {
    match subject {
        Subject::Batch(node) => format!("{prefix}.batch.{node}"),
        Subject::Checkpoint => format!("{prefix}.checkpoint"),
        Subject::Gone => format!("{prefix}.gone"),
    }
}

pub(super) fn node(node: NodeId) -> String {
    format!("{NODE}{node}")
}

pub(super) fn nodes() -> String {
    format!("{NODE}*")
}

/// The node of a subject.
pub(super) fn node_of(subject: &str) -> Option<NodeId> {
    let digits = subject.strip_prefix(NODE)?;
    u64::from_str_radix(digits, 16).ok().map(NodeId)
}
