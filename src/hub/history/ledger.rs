//! Which numbers went to messages and which to notices: to say how many messages somebody missed.

use std::collections::VecDeque;

/// Runs that are remembered at most: some 64 KiB. Floods of lines are one run; who comes and goes begins
/// another.
const RUNS_MAX: usize = 4096;

/// Which of the last numbers went to messages, by runs of one kind.
#[derive(Debug)]
pub(in crate::hub) struct Ledger {
    /// Where each run begins, and whether it is of messages.
    runs: VecDeque<(u64, bool)>,
    /// The number behind the last.
    next: u64,
}

impl Ledger {
    /// A ledger that begins with this number.
    pub(in crate::hub) fn new(next: u64) -> Ledger {
        Ledger {
            runs: VecDeque::new(),
            next,
        }
    }

    /// The number that comes next.
    pub(in crate::hub) fn next(&self) -> u64 {
        self.next
    }

    /// Notes what the next numbers went to.
    pub(in crate::hub) fn push(&mut self, numbers: u64, are_messages: bool) {
        if numbers == 0 {
            return;
        }
        if self.runs.back().is_none_or(|run| run.1 != are_messages) {
            if self.runs.len() == RUNS_MAX {
                self.runs.pop_front();
            }
            self.runs.push_back((self.next, are_messages));
        }
        self.next += numbers;
    }

    /// Messages among the numbers from `from` to before `to`; `None` where that is not known any more.
    pub(in crate::hub) fn messages(&self, from: u64, to: u64) -> Option<u64> {
        if from >= to {
            return Some(0);
        }
        let known_from = self.runs.front().map_or(self.next, |run| run.0);
        if from < known_from || to > self.next {
            return None;
        }
        let first = self.runs.partition_point(|run| run.0 <= from) - 1;
        let mut messages = 0;
        for at in first..self.runs.len() {
            let (start, are_messages) = self.runs[at];
            if start >= to {
                break;
            }
            let end = self.runs.get(at + 1).map_or(self.next, |run| run.0);
            if are_messages {
                messages += end.min(to) - start.max(from);
            }
        }
        Some(messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_between_two_numbers_are_those_that_were_noted() {
        let mut ledger = Ledger::new(10);
        let mut kinds = Vec::new();
        for (numbers, are_messages) in [(3, true), (2, true), (1, false), (0, true), (4, true)] {
            ledger.push(numbers, are_messages);
            kinds.extend((0..numbers).map(|_| are_messages));
        }
        for from in 0..kinds.len() {
            for to in from..=kinds.len() {
                let naive = kinds[from..to].iter().filter(|is| **is).count() as u64;
                let (from, to) = (from as u64 + 10, to as u64 + 10);
                assert_eq!(ledger.messages(from, to), Some(naive), "{from}..{to}");
            }
        }
        assert_eq!(ledger.messages(9, 12), None, "before it began");
        assert_eq!(ledger.messages(10, 21), None, "not published yet");
        assert_eq!(ledger.messages(25, 25), Some(0));
    }

    #[test]
    fn ledger_forgets_its_oldest_runs() {
        let mut ledger = Ledger::new(1);
        for at in 0..2 * RUNS_MAX as u64 {
            ledger.push(1, at % 2 == 0);
        }
        assert_eq!(ledger.runs.len(), RUNS_MAX);
        let end = 2 * RUNS_MAX as u64 + 1;
        assert_eq!(ledger.messages(1, end), None);
        let known = RUNS_MAX as u64;
        assert_eq!(ledger.messages(end - known, end), Some(known / 2));
    }
}
