//! The line that a person types: keys in, whole lines out. Pure: no terminal, no clock.

use std::mem;

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// The longest line that can be typed, in bytes; longer ones are for a pipe.
const LINE_BYTES_MAX: usize = 128 * 1024;

/// How many lines can be brought back.
const HISTORY_LINES_MAX: usize = 1000;

/// Cells from one tab stop to the next, as terminals have them.
const TAB_CELLS: usize = 8;

/// The longest character of UTF-8.
const CHAR_BYTES_MAX: usize = 4;

/// An event that keys add up to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// A line is to be sent.
    Line(String),
    /// The person leaves.
    Leave,
    /// The process is to be stopped, until the shell continues it.
    Suspend,
    /// The screen is to be cleared.
    Clear,
    /// No key: the terminal says in which column its cursor is, from 0.
    Column(usize),
}

/// The line, what was typed before, and a key that has not come whole.
#[derive(Debug, Default)]
pub(super) struct Editor {
    line: String,
    /// At the begin of a grapheme, or the end of the line.
    cursor: usize,
    unparsed: Vec<u8>,
    history: Vec<String>,
    /// Which line of the history is shown: the one after its last is the draft.
    recalled: usize,
    /// The line that was being typed when the first was recalled.
    draft: String,
    /// Text that was cut last, to be put back.
    cut: String,
}

impl Editor {
    /// Takes what one read brought from the terminal.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<Typed> {
        let mut unparsed = mem::take(&mut self.unparsed);
        unparsed.extend_from_slice(bytes);
        let mut rest = &unparsed[..];
        let mut typed = Vec::new();
        while let Some(len) = key_len(rest) {
            let (key, after) = rest.split_at(len);
            typed.extend(self.press(key));
            rest = after;
        }
        self.unparsed = rest.to_vec();
        typed
    }

    fn press(&mut self, key: &[u8]) -> Option<Typed> {
        match key {
            b"\r" | b"\n" => return self.enter(),
            b"\x03" | b"\x1c" => return Some(Typed::Leave),
            b"\x04" if self.line.is_empty() => return Some(Typed::Leave),
            b"\x1a" => return Some(Typed::Suspend),
            b"\x0c" => return Some(Typed::Clear),
            b"\x7f" | b"\x08" => self.remove(self.left(), self.cursor),
            b"\x04" | b"\x1b[3~" => self.remove(self.cursor, self.right()),
            b"\x02" | b"\x1b[D" | b"\x1bOD" => self.cursor = self.left(),
            b"\x06" | b"\x1b[C" | b"\x1bOC" => self.cursor = self.right(),
            b"\x01" | b"\x1b[H" | b"\x1bOH" | b"\x1b[1~" | b"\x1b[7~" => self.cursor = 0,
            b"\x05" | b"\x1b[F" | b"\x1bOF" | b"\x1b[4~" | b"\x1b[8~" => {
                self.cursor = self.line.len();
            }
            b"\x1bb" | b"\x1b[1;5D" | b"\x1b[1;3D" => self.cursor = self.word_left(),
            b"\x1bf" | b"\x1b[1;5C" | b"\x1b[1;3C" => self.cursor = self.word_right(),
            b"\x10" | b"\x1b[A" | b"\x1bOA" => self.recall(self.recalled.checked_sub(1)),
            b"\x0e" | b"\x1b[B" | b"\x1bOB" => self.recall(self.recalled.checked_add(1)),
            b"\x0b" => self.cut(self.cursor, self.line.len()),
            b"\x15" => self.cut(0, self.cursor),
            b"\x17" => {
                let before = self.line[..self.cursor].trim_end();
                let space = before.char_indices().rfind(|(_, c)| c.is_whitespace());
                self.cut(space.map_or(0, |(at, c)| at + c.len_utf8()), self.cursor);
            }
            b"\x1b\x7f" => self.cut(self.word_left(), self.cursor),
            b"\x1bd" => self.cut(self.cursor, self.word_right()),
            b"\x19" => self.insert(&self.cut.clone()),
            [b'\x1b', b'[', place @ .., b'R'] => return column(place),
            [b'\x1b', ..] => {}
            text => self.insert(&String::from_utf8_lossy(text)),
        }
        None
    }

    /// An empty line is no message from a person who sees a prompt.
    fn enter(&mut self) -> Option<Typed> {
        let line = mem::take(&mut self.line);
        self.cursor = 0;
        if !line.is_empty() && self.history.last() != Some(&line) {
            if self.history.len() == HISTORY_LINES_MAX {
                self.history.remove(0);
            }
            self.history.push(line.clone());
        }
        self.recalled = self.history.len();
        (!line.is_empty()).then_some(Typed::Line(line))
    }

    fn insert(&mut self, text: &str) {
        if (text != "\t" && text.contains(char::is_control))
            || self.line.len() + text.len() > LINE_BYTES_MAX
        {
            return;
        }
        self.line.insert_str(self.cursor, text);
        self.cursor += text.len();
    }

    fn remove(&mut self, from: usize, to: usize) {
        self.line.drain(from..to);
        self.cursor = from;
    }

    fn cut(&mut self, from: usize, to: usize) {
        if from < to {
            self.cut = self.line[from..to].to_owned();
            self.remove(from, to);
        }
    }

    fn left(&self) -> usize {
        let before = &self.line[..self.cursor];
        before
            .grapheme_indices(true)
            .next_back()
            .map_or(0, |(at, _)| at)
    }

    fn right(&self) -> usize {
        let after = &self.line[self.cursor..];
        self.cursor + after.graphemes(true).next().map_or(0, str::len)
    }

    fn word_left(&self) -> usize {
        let before = self.line[..self.cursor].trim_end_matches(|c: char| !c.is_alphanumeric());
        before.trim_end_matches(char::is_alphanumeric).len()
    }

    fn word_right(&self) -> usize {
        let after = self.line[self.cursor..].trim_start_matches(|c: char| !c.is_alphanumeric());
        self.line.len() - after.trim_start_matches(char::is_alphanumeric).len()
    }

    /// Shows a line of the history, or the draft after its last; nothing where there is none.
    fn recall(&mut self, at: Option<usize>) {
        let Some(at) = at.filter(|at| *at <= self.history.len()) else {
            return;
        };
        if self.recalled == self.history.len() {
            self.draft = mem::take(&mut self.line);
        }
        self.recalled = at;
        self.line = self.history.get(at).unwrap_or(&self.draft).clone();
        self.cursor = self.line.len();
    }

    /// Text before the cursor and after it, as a screen shows it, within so many cells: of a longer
    /// line, the part around the cursor.
    pub(super) fn shown(&self, cells_max: usize) -> (String, String) {
        let (before, after) = self.line.split_at(self.cursor);
        let (before, after) = (shown(before), shown(after));
        let mut cells = 0;
        let mut fits = |grapheme: &&str| {
            cells += grapheme.width();
            cells < cells_max
        };
        let back = before.graphemes(true).rev().take_while(&mut fits);
        let from = before.len() - back.map(str::len).sum::<usize>();
        let forth = after.graphemes(true).take_while(&mut fits);
        let until = forth.map(str::len).sum();
        (before[from..].to_owned(), after[..until].to_owned())
    }
}

/// A typed line as a screen shows it.
pub(super) fn shown(line: &str) -> String {
    line.replace('\t', &" ".repeat(TAB_CELLS))
}

/// How long the first key of the bytes is, if it has come whole.
fn key_len(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [] | [b'\x1b'] | [b'\x1b', b'O'] => None,
        // Parameters, and one byte that ends them.
        [b'\x1b', b'[', rest @ ..] => rest
            .iter()
            .position(|byte| !(b' '..=b'?').contains(byte))
            .map(|at| at + 3),
        [b'\x1b', b'O', ..] => Some(3),
        [b'\x1b', ..] => Some(2),
        _ => {
            let chunk = &bytes[..bytes.len().min(CHAR_BYTES_MAX)];
            let valid = match str::from_utf8(chunk) {
                Ok(valid) => valid,
                Err(error) if error.valid_up_to() == 0 => return error.error_len(),
                Err(error) => str::from_utf8(&chunk[..error.valid_up_to()]).unwrap_or_default(),
            };
            valid.chars().next().map(char::len_utf8)
        }
    }
}

/// The column of a cursor report, which is `ROW;COLUMN`, from 1.
fn column(place: &[u8]) -> Option<Typed> {
    let (_, column) = str::from_utf8(place).ok()?.split_once(';')?;
    Some(Typed::Column(column.parse::<usize>().ok()?.checked_sub(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the keys make of an empty line, with `|` for the cursor.
    fn typed(keys: &str) -> String {
        let mut editor = Editor::default();
        assert_eq!(editor.take(keys.as_bytes()), []);
        let (before, after) = editor.line.split_at(editor.cursor);
        format!("{before}|{after}")
    }

    #[test]
    fn keys_do_what_they_do_in_a_shell() {
        assert_eq!(typed("grüße"), "grüße|");
        assert_eq!(typed("grüße\x1b[D\x1b[D\x7f\x7f"), "g|ße");
        assert_eq!(typed("abc\x01\x06\x04"), "a|c");
        assert_eq!(typed("abc\x1b[H\x1b[3~x\x1b[F!"), "xbc!|");
        assert_eq!(typed("one two\x17three\x19"), "one threetwo|");
        assert_eq!(typed("one two\x1bb\x0b\x15\x19"), "one |");
        assert_eq!(typed("one two\x1b[1;5D\x1b[1;5D\x1bd\x1b[C"), " |two");
        assert_eq!(typed("one, two\x1b\x7f\x1b\x7f"), "|");
        // A letter and its accent are one.
        assert_eq!(typed("xe\u{301}\x7f"), "x|");
        // Keys that mean nothing here, and bytes that are no text.
        assert_eq!(typed("a\x1b[15~\x1b[?1;2c\x1bOP\x00\u{9b}b"), "ab|");
    }

    #[test]
    fn keys_mean_the_same_wherever_reads_are_cut() {
        let keys = "aä€😀\x1b[D\x1b[1;5Cx\x1bOD\x1b[3~\r\x1b[10;3R".as_bytes();
        let wanted = [Typed::Line("aä€😀".to_owned()), Typed::Column(2)];
        for at in 0..=keys.len() {
            let mut editor = Editor::default();
            let mut all = editor.take(&keys[..at]);
            all.extend(editor.take(&keys[at..]));
            assert_eq!(all, wanted, "{at}");
        }
    }

    #[test]
    fn bytes_that_are_no_utf8_are_replaced_and_do_no_harm() {
        let mut editor = Editor::default();
        let wanted = Typed::Line("caf\u{fffd}".to_owned());
        assert_eq!(editor.take(b"caf\xe9\r"), [wanted]);
    }

    #[test]
    fn enter_on_an_empty_line_sends_nothing() {
        let mut editor = Editor::default();
        let line = |text: &str| Typed::Line(text.to_owned());
        assert_eq!(editor.take(b"\r\n\rone\r\n \r"), [line("one"), line(" ")]);
    }

    #[test]
    fn lines_typed_before_come_back_and_the_draft_after_them() {
        let mut editor = Editor::default();
        editor.take(b"one\rtwo\rtwo\rdraft\x1b[A");
        assert_eq!(editor.line, "two");
        editor.take(b"\x1b[A\x1b[A\x1b[A");
        assert_eq!(editor.line, "one");
        editor.take(b"\x1b[B\x1b[B\x1b[B");
        assert_eq!(editor.line, "draft");
    }

    #[test]
    fn of_a_line_too_long_for_the_screen_what_is_around_the_cursor_is_shown() {
        let mut editor = Editor::default();
        editor.take(b"0123456789");
        assert_eq!(editor.shown(20), ("0123456789".to_owned(), String::new()));
        assert_eq!(editor.shown(5), ("6789".to_owned(), String::new()));
        editor.take(b"\x01\x1b[C");
        assert_eq!(editor.shown(5), ("0".to_owned(), "123".to_owned()));
    }
}
