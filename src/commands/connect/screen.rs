//! A block of rows at the end of what a terminal shows: a line that is typed, and perhaps a status
//! above it. Whatever else is printed comes above the block.
//!
//! Where the block begins is known only relative to the cursor. When the window's width changes, some
//! terminals wrap the rows anew, and the cursor moves with them; others leave all as it is. So the
//! terminal is asked for the cursor's column, which tells the two apart.

use std::mem;

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// Clears this row and all below. Not from the first column: from a window's first cell on, it would
/// be all of the window, which some terminals put among what can be scrolled back to.
const CLEAR: &[u8] = b"\r \x1b[J\r";

/// Asks the terminal where its cursor is.
const WHERE: &[u8] = b"\x1b[6n";

/// A cell, counted from the one where the block begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cell {
    row: usize,
    column: usize,
}

/// Block as it was drawn last.
#[derive(Debug)]
struct Drawn {
    columns: usize,
    before_cursor: String,
    cursor: Cell,
}

/// The block, and what waits to be printed above it.
#[derive(Debug, Default)]
pub(super) struct Screen {
    drawn: Option<Drawn>,
    above: Vec<u8>,
    /// How many answers of the terminal are still to come.
    asked: usize,
    asks_again: bool,
}

impl Screen {
    /// Whole lines are to be printed above the block.
    pub(super) fn print(&mut self, lines: &[u8]) {
        self.above.extend_from_slice(lines);
    }

    /// Whether nothing can be drawn before the terminal has said where its cursor is.
    pub(super) fn is_asking(&self) -> bool {
        self.asked > 0
    }

    /// Draws the block anew, with what is to be above it. `before_cursor` may be several lines.
    pub(super) fn draw(
        &mut self,
        columns: usize,
        before_cursor: &str,
        after: &str,
        out: &mut Vec<u8>,
    ) {
        if self.erase(columns, out) {
            out.append(&mut self.above);
            let text = format!("{before_cursor}{after}");
            let cursor = cell_after(before_cursor, columns);
            let end = cell_after(&text, columns);
            // The blank gives the cursor a cell of its own, on the next row if this one is full.
            out.extend_from_slice(text.as_bytes());
            out.extend_from_slice(b" \r");
            if end.row > cursor.row {
                out.extend_from_slice(format!("\x1b[{}A", end.row - cursor.row).as_bytes());
            }
            if cursor.column > 0 {
                out.extend_from_slice(format!("\x1b[{}C", cursor.column).as_bytes());
            }
            self.drawn = Some(Drawn {
                columns,
                before_cursor: before_cursor.to_owned(),
                cursor,
            });
        }
    }

    /// Takes the block away, and prints what was to be above it. Says whether it did: not while it
    /// is not known where the block is.
    fn erase(&mut self, columns: usize, out: &mut Vec<u8>) -> bool {
        if self.is_asking() {
            if mem::take(&mut self.asks_again) {
                self.ask(out);
            }
            return false;
        }
        if let Some(drawn) = &self.drawn {
            if drawn.columns != columns {
                self.ask(out);
                return false;
            }
            if drawn.cursor.row > 0 {
                out.extend_from_slice(format!("\x1b[{}A", drawn.cursor.row).as_bytes());
            }
            out.extend_from_slice(CLEAR);
        }
        self.drawn = None;
        true
    }

    /// The block is no more: what comes is printed where the cursor is.
    pub(super) fn end(&mut self, columns: usize, out: &mut Vec<u8>) {
        // There is no time to ask.
        self.settle(columns, None);
        self.erase(columns, out);
        out.append(&mut self.above);
    }

    /// Something else has drawn: the cursor is where the block may begin.
    pub(super) fn forget(&mut self) {
        self.drawn = None;
        self.asked = 0;
    }

    /// The window has another size while the terminal is asked: the answer may be about the last.
    pub(super) fn resized(&mut self) {
        self.asks_again = self.is_asking();
    }

    fn ask(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(WHERE);
        self.asked += 1;
    }

    /// The terminal has answered with the cursor's column.
    pub(super) fn answered(&mut self, columns: usize, column: usize) {
        match self.asked {
            // The answer is late.
            0 => {}
            1 => self.settle(columns, Some(column)),
            _ => self.asked -= 1,
        }
    }

    /// Finds the cursor's row; a terminal that does not answer does not wrap anew either.
    pub(super) fn settle(&mut self, columns: usize, column: Option<usize>) {
        self.asked = 0;
        if let Some(drawn) = &mut self.drawn {
            let wrapped_anew = cell_after(&drawn.before_cursor, columns);
            if column == Some(wrapped_anew.column) {
                drawn.cursor = wrapped_anew;
            }
            drawn.columns = columns;
        }
    }
}

/// The cell that comes after a text, on a screen of so many columns.
fn cell_after(text: &str, columns: usize) -> Cell {
    let (mut row, mut column) = (0, 0);
    for grapheme in text.graphemes(true) {
        let width = grapheme.width();
        if grapheme == "\n" || column + width > columns {
            (row, column) = (row + 1, 0);
        }
        if grapheme != "\n" {
            column += width;
        }
    }
    match column < columns {
        true => Cell { row, column },
        false => Cell {
            row: row + 1,
            column: 0,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns.
    const WIDE: usize = 10;
    const NARROW: usize = 4;

    fn at(row: usize, column: usize) -> Cell {
        Cell { row, column }
    }

    fn drawn(screen: &mut Screen, columns: usize, before: &str, after: &str) -> String {
        let mut out = Vec::new();
        screen.draw(columns, before, after, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_wraps_where_a_terminal_wraps_it() {
        assert_eq!(cell_after("", 4), at(0, 0));
        assert_eq!(cell_after("abc", 4), at(0, 3));
        assert_eq!(cell_after("abcd", 4), at(1, 0));
        assert_eq!(cell_after("abcd\ne", 4), at(1, 1));
        assert_eq!(cell_after("abc大", 4), at(1, 2));
        assert_eq!(cell_after("e\u{301}", 4), at(0, 1));
    }

    #[test]
    fn block_is_drawn_over_itself_and_under_what_is_printed() {
        let mut screen = Screen::default();
        assert_eq!(drawn(&mut screen, WIDE, "> ", ""), ">  \r\x1b[2C");
        screen.print(b"hello\n");
        assert_eq!(
            drawn(&mut screen, WIDE, "> a", "b"),
            "\r \x1b[J\rhello\n> ab \r\x1b[3C"
        );
        // Over two rows, with the cursor on the first.
        let text = "\r \x1b[J\r> abcdefghij \r\x1b[1A\x1b[5C";
        assert_eq!(drawn(&mut screen, WIDE, "> abc", "defghij"), text);
        // And on the second, which a full first one begins.
        assert_eq!(
            drawn(&mut screen, WIDE, "> abcdefgh", ""),
            "\r \x1b[J\r> abcdefgh \r"
        );
        assert_eq!(
            drawn(&mut screen, WIDE, "> ", ""),
            "\x1b[1A\r \x1b[J\r>  \r\x1b[2C"
        );
    }

    #[test]
    fn block_is_found_again_when_the_width_has_changed() {
        // A terminal that wraps anew: the cursor was at cell 7 of the block, which is its second row.
        let mut screen = Screen::default();
        drawn(&mut screen, WIDE, "> abcde", "");
        screen.print(b"hello\n");
        assert_eq!(drawn(&mut screen, NARROW, "> abcde", ""), "\x1b[6n");
        assert_eq!(
            drawn(&mut screen, NARROW, "> abcdef", ""),
            "",
            "it is asked once"
        );
        screen.answered(NARROW, 3);
        let text = drawn(&mut screen, NARROW, "> abcdef", "");
        assert_eq!(text, "\x1b[1A\r \x1b[J\rhello\n> abcdef \r");

        // One that does not, with the cursor pushed to its edge, or which says nothing.
        for column in [Some(2), None] {
            let mut screen = Screen::default();
            drawn(&mut screen, WIDE, "> abcde", "");
            drawn(&mut screen, NARROW, "> abcde", "");
            screen.settle(NARROW, column);
            let text = drawn(&mut screen, NARROW, "> ", "");
            assert_eq!(text, "\r \x1b[J\r>  \r\x1b[2C");
        }

        // Wider: two rows have become one.
        let mut screen = Screen::default();
        drawn(&mut screen, NARROW, "> abcde", "");
        drawn(&mut screen, WIDE, "> abcde", "");
        screen.answered(WIDE, 7);
        let text = drawn(&mut screen, WIDE, "> ", "");
        assert_eq!(text, "\r \x1b[J\r>  \r\x1b[2C");
    }

    #[test]
    fn answer_about_a_size_that_is_no_more_does_not_count() {
        let mut screen = Screen::default();
        drawn(&mut screen, WIDE, "> abcde", "");
        drawn(&mut screen, NARROW, "> abcde", "");
        screen.resized();
        assert_eq!(drawn(&mut screen, WIDE, "> abcde", ""), "\x1b[6n");
        screen.answered(WIDE, 7);
        assert!(screen.is_asking());
        screen.answered(WIDE, 7);
        assert!(!screen.is_asking());
        screen.answered(WIDE, 1);
        assert_eq!(
            drawn(&mut screen, WIDE, "> ", ""),
            "\r \x1b[J\r>  \r\x1b[2C"
        );
    }
}
