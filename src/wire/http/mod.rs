//! HTTP/1.1 as far as a listener with `http` speaks it: one request a connection, and what is answered.
//!
//! What is asked for is read with `httparse`, hyper's own parser, and not with hyper, which would hold the connection
//! for as long as its body flows: a client that gets the stream has to be saved between any two of its bytes. With one
//! request a connection there is nothing behind a body that could be taken for another request.

mod body;
pub mod host;
mod reader;
mod request;
mod response;
#[cfg(test)]
mod tests;

pub use self::body::{BodyDecoder, BodyEnd, BodyLength};
pub use self::reader::{HeadInput, RequestReader, RequestReaderState};
pub use self::request::{Asked, HttpError, Request, WebRequest};
pub use self::response::{CONTINUE, LAST_CHUNK, Response, status_of};
