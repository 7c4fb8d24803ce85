//! One channel over many machines.

mod here;
mod message;
#[cfg(test)]
mod model;
mod order;
mod publisher;
mod state;
