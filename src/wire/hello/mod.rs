//! The hello line, by which a client says who it is and what it wants before it is one:
//! `LINEHUB/1 [KEY=VALUE]…`.

mod answer;
mod line;
#[cfg(test)]
mod line_tests;
mod reader;
#[cfg(test)]
mod reader_tests;

pub use self::answer::Answer;
pub(in crate::wire) use self::line::allowed;
pub use self::line::{HELLO_BYTES_MAX, Hello, HelloError, Secret, line, parse};
pub use self::reader::{HelloInput, HelloReader, HelloReaderState};
