//! Which bytes of lines the server's machine has, when it acknowledges encrypted ones.

use std::collections::VecDeque;

/// Records on their way to the server's machine, of which it has all or nothing.
#[derive(Debug, Default)]
pub(super) struct SentRecords {
    /// Bytes of lines that were sent.
    sent: u64,
    /// For each record that is not known to have arrived, how many bytes of lines, and how many encrypted
    /// ones, had been sent with its end. The socket's buffer bounds them.
    ends: VecDeque<(u64, u64)>,
    arrived: u64,
}

impl SentRecords {
    /// Notes that the socket has taken so many bytes of lines, and so many encrypted ones in all.
    pub(super) fn push(&mut self, bytes: usize, encrypted: u64) {
        self.sent += bytes as u64;
        self.ends.push_back((self.sent, encrypted));
    }

    /// How many are not known to have arrived.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of lines that have not arrived, if so many encrypted ones have in all.
    pub(super) fn unacknowledged(&mut self, encrypted: u64) -> usize {
        let count = self.ends.partition_point(|(_, end)| *end <= encrypted);
        if let Some((bytes, _)) = self.ends.drain(..count).next_back() {
            self.arrived = bytes;
        }
        (self.sent - self.arrived) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_has_arrived_when_its_last_byte_has() {
        let mut records = SentRecords::default();
        records.push(100, 500);
        records.push(50, 572);
        records.push(1, 595);
        for (encrypted, unacknowledged) in [
            (0, 151),
            (499, 151),
            (500, 51),
            (571, 51),
            (594, 1),
            (595, 0),
        ] {
            assert_eq!(records.unacknowledged(encrypted), unacknowledged);
        }
        assert_eq!(records.len(), 0);
    }
}
