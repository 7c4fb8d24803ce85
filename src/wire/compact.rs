//! Bytes that are taken out of a read, in place.

use std::ops::Range;

/// Moves a span to the end of what is kept, if anything was taken out before it. Returns the new end.
pub(super) fn keep(data: &mut [u8], kept: usize, span: Range<usize>) -> usize {
    let end = kept + span.len();
    if kept != span.start {
        data.copy_within(span, kept);
    }
    end
}
