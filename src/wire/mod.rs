//! What goes over the wire, and how it is read and written: pure, no await, log, clock or socket.

pub mod channel;
pub mod client_name;
pub mod close_reason;
mod compact;
pub mod format;
pub mod framing;
#[cfg(test)]
pub(crate) mod golden;
pub mod hello;
pub mod http;
pub mod http_guard;
pub mod ids;
pub mod line_end;
mod name;
pub mod past;
pub mod proxy;
pub mod role;
pub mod session;
pub mod telnet;
pub(crate) mod tls_guard;
pub mod transport;
pub mod websocket;
