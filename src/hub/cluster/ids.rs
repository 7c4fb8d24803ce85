//! Numbers of clients that no other daemon gives: taken in blocks, so that nobody who comes waits for one.

use std::collections::VecDeque;
use std::ops::Range;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Numbers in a block.
pub(in crate::hub) const BLOCK: u64 = 10_000;

/// Where numbers begin that are drawn by lot: beyond all blocks, and below 2^53, which JSON has no exact numbers above.
const DRAWN: u64 = 1 << 52;

/// Blocks of numbers that this daemon may give.
#[derive(Debug)]
pub(in crate::hub) struct IdBlocks {
    state: Mutex<Blocks>,
    /// Notified when another block is to be taken.
    pub(in crate::hub) low: Notify,
}

#[derive(Debug)]
struct Blocks {
    blocks: VecDeque<Range<u64>>,
    /// Numbers in them.
    left: u64,
    /// The number behind the highest block there ever was, and the highest number that any client was seen to have.
    end: u64,
    /// The first number that no client had before there were blocks.
    floor: u64,
    /// The next number that is given when there is no block: none can be had, and who comes is not to wait for that.
    drawn: u64,
}

impl Default for IdBlocks {
    fn default() -> IdBlocks {
        let lot = getrandom::u64().unwrap_or_default();
        IdBlocks {
            state: Mutex::new(Blocks {
                blocks: VecDeque::new(),
                left: 0,
                end: 1,
                floor: 1,
                drawn: DRAWN + lot % (DRAWN / 2),
            }),
            low: Notify::new(),
        }
    }
}

impl IdBlocks {
    /// A number that no client has had, of whatever daemon.
    pub(in crate::hub) fn take(&self) -> u64 {
        let mut state = self.state.lock();
        if state.left < BLOCK / 2 {
            self.low.notify_one();
        }
        let Some(block) = state.blocks.front_mut() else {
            state.drawn += 1;
            return state.drawn;
        };
        let id = block.start;
        block.start += 1;
        if block.is_empty() {
            state.blocks.pop_front();
        }
        state.left -= 1;
        id
    }

    /// Whether there is no block.
    pub(in crate::hub) fn is_empty(&self) -> bool {
        self.state.lock().left == 0
    }

    /// Adds a block: what of it clients have that came before there were blocks, nobody is given.
    pub(in crate::hub) fn put(&self, block: Range<u64>) {
        let mut state = self.state.lock();
        state.end = state.end.max(block.end);
        let block = block.start.max(state.floor)..block.end;
        if !block.is_empty() {
            state.left += block.end - block.start;
            state.blocks.push_back(block);
        }
    }

    /// Clients had all numbers below this one before there were blocks.
    pub(in crate::hub) fn skip_to(&self, next_id: u64) {
        // Of numbers that were drawn, nothing follows.
        if next_id < DRAWN {
            let mut state = self.state.lock();
            state.floor = state.floor.max(next_id);
            state.end = state.end.max(next_id);
        }
    }

    /// Some client has this number: where none is known to be taken, those up to it are.
    #[cfg(feature = "nats")]
    pub(in crate::hub) fn see(&self, id: u64) {
        if id < DRAWN {
            let mut state = self.state.lock();
            state.end = state.end.max(id + 1);
        }
    }

    /// Whether another block is to be taken, and the number that it may begin with at the least.
    pub(in crate::hub) fn wants(&self) -> Option<u64> {
        let state = self.state.lock();
        (state.left < BLOCK / 2).then_some(state.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_clients_had_before_there_were_blocks_are_given_to_nobody() {
        let ids = IdBlocks::default();
        ids.skip_to(6);
        ids.skip_to(DRAWN + 7);
        assert_eq!(ids.wants(), Some(6));
        ids.put(1..5);
        assert!(ids.is_empty());
        ids.put(5..8);
        assert_eq!([ids.take(), ids.take()], [6, 7]);
        assert_eq!(ids.wants(), Some(8));
    }

    #[cfg(feature = "nats")]
    #[test]
    fn numbers_that_are_seen_are_not_asked_for_again() {
        let ids = IdBlocks::default();
        ids.see(20_000);
        ids.see(DRAWN + 7);
        assert_eq!(ids.wants(), Some(20_001));
    }

    #[test]
    fn numbers_come_from_blocks_and_without_one_from_where_no_block_is() {
        let ids = IdBlocks::default();
        let drawn = [ids.take(), ids.take()];
        assert_eq!(ids.wants(), Some(1));
        ids.put(7..9);
        ids.put(20..20 + BLOCK);
        assert_eq!([ids.take(), ids.take(), ids.take()], [7, 8, 20]);
        assert_eq!(ids.wants(), None);
        assert!(drawn[0] >= DRAWN && drawn[1] == drawn[0] + 1 && drawn[1] < 1 << 53);
        for _ in 0..BLOCK / 2 {
            ids.take();
        }
        assert_eq!(ids.wants(), Some(20 + BLOCK));
    }
}
