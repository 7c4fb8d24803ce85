//! What one reader got that is not where the others have it.

use std::collections::HashMap;
use std::ops::{AddAssign, Range};

use serde::Serialize;

/// What was wrong, in lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Faults {
    /// Did not come.
    pub(super) lost: u64,
    /// Came again.
    pub(super) doubled: u64,
    /// Came, but not whole, or merged with others.
    pub(super) cut: u64,
    /// Came before or after lines that it came after or before elsewhere.
    pub(super) reordered: u64,
    /// Did not come, and the reader was told that so many would not.
    pub(super) skipped: u64,
}

/// The lines of one reader that are not, or not yet, as the expected stream has them.
#[derive(Clone, Debug, Default)]
pub(super) struct Tracker {
    /// Lines that have not come, but one that the expected stream has after them; by sender.
    missing: HashMap<u32, Vec<Range<u64>>>,
    /// Lines that came before the expected stream had them, by sender and number, and what `in_place`
    /// was.
    early: HashMap<(u32, u64), u64>,
    /// How often a line came in its place.
    in_place: u64,
    /// Whether the expected stream did not wait for this reader, whose lines come late for that alone.
    is_left_behind: bool,
    faults: Faults,
    told: u64,
}

impl AddAssign for Faults {
    fn add_assign(&mut self, other: Faults) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.cut += other.cut;
        self.reordered += other.reordered;
        self.skipped += other.skipped;
    }
}

impl Tracker {
    /// A line came where the expected stream has it.
    pub(super) fn keep_place(&mut self) {
        self.in_place += 1;
    }

    /// The expected stream has this line before one that came here now. If it is not here either, it is
    /// missing, until it comes in the wrong place.
    pub(super) fn overtake(&mut self, sender: u32, number: u64) {
        match self.early.remove(&(sender, number)) {
            Some(in_place) => self.faults.reordered += u64::from(self.in_place > in_place),
            None => self.miss(sender, number),
        }
    }

    /// The expected stream does not have these lines before one that came here now.
    pub(super) fn pass_gap(&mut self, sender: u32, numbers: Range<u64>) {
        for number in numbers {
            if self.early.remove(&(sender, number)).is_none() {
                self.miss(sender, number);
            }
        }
    }

    fn miss(&mut self, sender: u32, number: u64) {
        let missing = self.missing.entry(sender).or_default();
        match missing.last_mut().filter(|last| last.end == number) {
            Some(last) => last.end += 1,
            None => missing.push(number..number + 1),
        }
    }

    /// A line came that was missing; false if it was not.
    pub(super) fn find(&mut self, sender: u32, number: u64) -> bool {
        let is_found = self.take(sender, number);
        self.faults.reordered += u64::from(is_found && !self.is_left_behind);
        is_found
    }

    fn take(&mut self, sender: u32, number: u64) -> bool {
        let Some(ranges) = self.missing.get_mut(&sender) else {
            return false;
        };
        let Some(at) = ranges.iter().position(|range| range.contains(&number)) else {
            return false;
        };
        let range = ranges[at].clone();
        let rest = [range.start..number, number + 1..range.end];
        ranges.splice(at..=at, rest.into_iter().filter(|range| !range.is_empty()));
        true
    }

    /// A line came that the expected stream may yet have further on; false if it was here before.
    pub(super) fn be_early(&mut self, sender: u32, number: u64) -> bool {
        let is_new = !self.is_early(sender, number);
        if is_new {
            self.early.insert((sender, number), self.in_place);
        }
        is_new
    }

    pub(super) fn is_early(&self, sender: u32, number: u64) -> bool {
        self.early.contains_key(&(sender, number))
    }

    /// Whether any line came before the expected stream had it.
    pub(super) fn has_early(&self) -> bool {
        !self.early.is_empty()
    }

    /// A line came again, or is of no sender.
    pub(super) fn double(&mut self) {
        self.faults.doubled += 1;
    }

    /// A line came that is not whole, or is one of several in one.
    pub(super) fn cut(&mut self) {
        self.faults.cut += 1;
    }

    /// A line that came not whole was in there: it is not missing besides.
    pub(super) fn find_cut(&mut self, sender: u32, number: u64, is_expected: bool) {
        if !self.take(sender, number) && is_expected {
            self.be_early(sender, number);
        }
    }

    /// The reader is told that it missed so many.
    pub(super) fn tell(&mut self, count: u64) {
        self.told += count;
    }

    /// The expected stream goes on without the reader, whose lines are still to come.
    pub(super) fn be_left_behind(&mut self) {
        self.is_left_behind = true;
    }

    /// Whether lines are still to come that the expected stream did not wait for.
    pub(super) fn is_behind(&self) -> bool {
        self.is_left_behind && self.missing.values().any(|missing| !missing.is_empty())
    }

    /// What was wrong up to the reader's place in the expected stream.
    pub(super) fn faults(&self) -> Faults {
        let missing = self.missing.values().flatten();
        let absent = missing.map(|gap| gap.end - gap.start).sum::<u64>();
        let skipped = absent.min(self.told);
        Faults {
            lost: absent - skipped,
            skipped,
            ..self.faults
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_missing_until_it_comes_late() {
        let mut tracker = Tracker::default();
        tracker.pass_gap(0, 3..9);
        for (number, is_found) in [(5, true), (5, false), (3, true), (8, true), (9, false)] {
            assert_eq!(tracker.find(0, number), is_found, "{number}");
        }
        assert!(!tracker.find(1, 4), "another sender's");
        let expected = Faults {
            lost: 3,
            reordered: 3,
            ..Faults::default()
        };
        assert_eq!(tracker.faults(), expected);
    }

    #[test]
    fn early_line_is_out_of_order_only_if_another_came_after_it_in_its_place() {
        for (keeps_place, reordered) in [(false, 0), (true, 1)] {
            let mut tracker = Tracker::default();
            assert!(tracker.be_early(0, 2));
            assert!(!tracker.be_early(0, 2), "it was here before");
            if keeps_place {
                tracker.keep_place();
            }
            tracker.overtake(0, 2);
            let faults = tracker.faults();
            assert_eq!((faults.reordered, faults.lost), (reordered, 0));
        }
    }

    #[test]
    fn what_was_cut_is_not_lost_besides() {
        let mut tracker = Tracker::default();
        tracker.cut();
        tracker.find_cut(0, 1, true);
        tracker.pass_gap(0, 1..2);
        let expected = Faults {
            cut: 1,
            ..Faults::default()
        };
        assert_eq!(tracker.faults(), expected);
    }

    #[test]
    fn what_was_told_is_skipped_and_the_rest_is_lost() {
        let mut tracker = Tracker::default();
        tracker.tell(4);
        tracker.pass_gap(0, 1..7);
        let faults = |lost, skipped| Faults {
            lost,
            skipped,
            ..Faults::default()
        };
        assert_eq!(tracker.faults(), faults(2, 4));
        tracker.tell(100);
        assert_eq!(tracker.faults(), faults(0, 6));
    }
}
