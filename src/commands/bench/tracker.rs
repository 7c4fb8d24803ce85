//! What one reader got that is not as it should be, sender by sender.

use std::collections::HashMap;
use std::ops::{AddAssign, Range};

/// Gaps that are remembered of one sender. What is in older ones counts as lost even if it comes.
const GAPS_MAX: usize = 1024;
/// Lines that are remembered as early. If there are more, a line out of its place may go unnoticed,
/// but not all of them.
const EARLY_MAX: usize = 4096;

/// What was wrong, in lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

/// The lines of every sender as one reader got them.
#[derive(Clone, Debug, Default)]
pub(super) struct Tracker {
    /// The line that is to come next, for each sender.
    next: Vec<u64>,
    /// Lines before `next` that have not come, for each sender that has such.
    missing: Vec<Vec<Range<u64>>>,
    /// How often a line came in its place.
    in_place: u64,
    /// Lines that came when the others had something else in their place, and what `in_place` was.
    early: HashMap<(u32, u64), u64>,
    doubled: u64,
    cut: u64,
    reordered: u64,
    told: u64,
    given_up: u64,
}

/// How a line stands to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// The next of its sender, and in its place as far as that tells.
    Next,
    /// Some of its sender before it have not come.
    AfterGap,
    /// A line that was missing.
    Late,
    /// A line that was here before, or of no sender.
    Again,
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
    pub(super) fn new(senders: usize) -> Tracker {
        Tracker {
            next: vec![1; senders],
            missing: vec![Vec::new(); senders],
            ..Tracker::default()
        }
    }

    /// Everything before `next` has come, but for what is known to be missing.
    pub(super) fn advance(&mut self, next: &[u64]) {
        for (mine, next) in self.next.iter_mut().zip(next) {
            *mine = (*mine).max(*next);
        }
    }

    /// The number that a sender's next line is to have, if there is such a sender.
    pub(super) fn next(&self, sender: u32) -> Option<u64> {
        self.next.get(sender as usize).copied()
    }

    /// The numbers that all senders' next lines are to have.
    pub(super) fn all_next(&self) -> &[u64] {
        &self.next
    }

    /// The others did not have these lines of a sender when later ones of it came.
    pub(super) fn pass_gap(&mut self, sender: u32, numbers: Range<u64>) {
        let next = &mut self.next[sender as usize];
        let from = numbers.start.max(*next);
        *next = numbers.end.max(*next);
        if from < numbers.end {
            self.miss(sender, from..numbers.end);
        }
    }

    /// These lines of a sender have not come.
    fn miss(&mut self, sender: u32, numbers: Range<u64>) {
        let missing = &mut self.missing[sender as usize];
        if let Some(last) = missing.last_mut().filter(|last| last.end == numbers.start) {
            last.end = numbers.end;
            return;
        }
        if missing.len() == GAPS_MAX {
            let oldest = missing.remove(0);
            self.given_up += oldest.end - oldest.start;
        }
        missing.push(numbers);
    }

    /// A line came.
    pub(super) fn arrive(&mut self, sender: u32, number: u64) -> Arrival {
        let Some(next) = self.next.get_mut(sender as usize) else {
            self.doubled += 1;
            return Arrival::Again;
        };
        let expected = *next;
        *next = (*next).max(number + 1);
        if number == expected {
            Arrival::Next
        } else if number > expected {
            self.miss(sender, expected..number);
            Arrival::AfterGap
        } else if take(&mut self.missing[sender as usize], number) {
            self.reordered += 1;
            Arrival::Late
        } else {
            self.doubled += 1;
            Arrival::Again
        }
    }

    /// A line came where the others have it too.
    pub(super) fn keep_place(&mut self) {
        self.in_place += 1;
    }

    /// A line came that the others do not have here. It was not in its place if one comes that they
    /// have before it; otherwise that one is lost.
    pub(super) fn be_early(&mut self, sender: u32, number: u64) {
        if self.early.len() < EARLY_MAX {
            self.early.insert((sender, number), self.in_place);
        }
    }

    /// The others had this line before one that came here now. If it is not here either, it is
    /// missing, until it comes in the wrong place.
    pub(super) fn overtake(&mut self, sender: u32, number: u64) {
        let Some(next) = self.next.get_mut(sender as usize) else {
            return;
        };
        let expected = *next;
        *next = expected.max(number + 1);
        if number >= expected {
            self.miss(sender, expected..number + 1);
        } else if let Some(in_place) = self.early.remove(&(sender, number)) {
            self.reordered += u64::from(self.in_place > in_place);
        }
    }

    /// A line came that is not whole, or several in one.
    pub(super) fn cut(&mut self) {
        self.cut += 1;
    }

    /// What came not whole is not lost besides.
    pub(super) fn arrive_cut(&mut self, sender: u32, number: u64) {
        let Some(next) = self.next.get_mut(sender as usize) else {
            return;
        };
        let expected = *next;
        *next = expected.max(number + 1);
        if number > expected {
            self.miss(sender, expected..number);
        } else if number < expected {
            take(&mut self.missing[sender as usize], number);
        }
    }

    /// The reader is told that it missed so many.
    pub(super) fn tell(&mut self, count: u64) {
        self.told += count;
    }

    /// What was wrong, once no more comes. `sent` is how many lines each sender sent; `None` for a
    /// reader that was closed and misses all after that.
    pub(super) fn faults(&self, sent: Option<&[u64]>) -> Faults {
        let missing = self.missing.iter().flatten().map(|gap| gap.end - gap.start);
        let mut absent = self.given_up + missing.sum::<u64>();
        if let Some(sent) = sent {
            let ends = sent.iter().zip(&self.next);
            absent += ends
                .map(|(sent, next)| (sent + 1).saturating_sub(*next))
                .sum::<u64>();
        }
        let skipped = absent.min(self.told);
        Faults {
            lost: absent - skipped,
            doubled: self.doubled,
            cut: self.cut,
            reordered: self.reordered,
            skipped,
        }
    }
}

/// Takes a number out of ranges; whether it was in one.
fn take(ranges: &mut Vec<Range<u64>>, number: u64) -> bool {
    let Some(at) = ranges.iter().position(|range| range.contains(&number)) else {
        return false;
    };
    let range = ranges.remove(at);
    let rest = [range.start..number, number + 1..range.end];
    ranges.extend(rest.into_iter().filter(|range| !range.is_empty()));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_arrive_is_told_apart() {
        let mut tracker = Tracker::new(2);
        assert_eq!(tracker.arrive(0, 1), Arrival::Next);
        assert_eq!(tracker.arrive(0, 5), Arrival::AfterGap);
        assert_eq!(tracker.arrive(0, 3), Arrival::Late);
        assert_eq!(tracker.arrive(0, 3), Arrival::Again);
        assert_eq!(tracker.arrive(0, 1), Arrival::Again);
        tracker.overtake(1, 1);
        tracker.overtake(0, 4);
        assert_eq!(tracker.arrive(1, 1), Arrival::Late);
        assert_eq!(tracker.arrive(2, 1), Arrival::Again, "nobody sends that");
        let expected = Faults {
            lost: 2 + 1, // 2 and 4 of the one, and its last
            doubled: 3,
            reordered: 2,
            ..Faults::default()
        };
        assert_eq!(tracker.faults(Some(&[6, 1])), expected);
    }

    #[test]
    fn what_was_cut_is_not_lost_besides() {
        let mut tracker = Tracker::new(1);
        tracker.cut();
        tracker.arrive_cut(0, 1);
        assert_eq!(tracker.arrive(0, 2), Arrival::Next);
        assert_eq!(
            tracker.faults(Some(&[2])),
            Faults {
                cut: 1,
                ..Faults::default()
            }
        );
    }

    #[test]
    fn what_was_told_is_skipped_and_the_rest_is_lost() {
        let mut tracker = Tracker::new(1);
        tracker.tell(4);
        tracker.arrive(0, 7);
        let faults = |lost, skipped| Faults {
            lost,
            skipped,
            ..Faults::default()
        };
        assert_eq!(tracker.faults(None), faults(2, 4));
        assert_eq!(tracker.faults(Some(&[9])), faults(4, 4));
        tracker.tell(100);
        assert_eq!(tracker.faults(None), faults(0, 6));
    }
}
