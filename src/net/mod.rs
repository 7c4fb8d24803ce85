//! Sockets: TCP, Unix and inherited alike become one [`Listener`](listener) and one
//! [`Stream`](stream), and permits say how many connections there may be.
//!
//! Nothing else in linehub knows what kind of socket it has in hand.
//!
//! ```text
//! sockopt ◄─ unix ◄─ listener ◄─ inherited ◄─ bind ◄─ rebind
//!         ◄─ tls ◄─ stream
//! ```

pub(crate) mod access;
pub mod bind;
pub mod inherited;
mod inherited_listener;
pub mod listener;
pub(crate) mod peer;
pub mod permits;
pub(crate) mod rate;
pub(crate) mod rebind;
pub(crate) mod sockopt;
pub(crate) mod source;
pub(crate) mod stream;
pub(crate) mod tls;
#[cfg(any(feature = "bench", feature = "connect"))]
pub(crate) mod tls_client;
mod unix;
