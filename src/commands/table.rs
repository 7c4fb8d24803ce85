//! Columns that line up, for what the commands print.

/// A table as plain text: columns two spaces apart, numbers to the right.
#[derive(Debug)]
pub struct Table {
    /// The first row is the head.
    rows: Vec<Vec<String>>,
    aligns: Vec<Align>,
    /// What the first columns take at least.
    widths_min: Vec<usize>,
}

/// Side of its column that a text goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

impl Table {
    /// A table with these columns and no rows.
    pub fn new(columns: &[(&str, Align)]) -> Table {
        Table {
            rows: vec![columns.iter().map(|(name, _)| (*name).to_owned()).collect()],
            aligns: columns.iter().map(|(_, align)| *align).collect(),
            widths_min: Vec::new(),
        }
    }

    /// A table of numbers: the first column, which says what they are, goes to the left, the others
    /// to the right.
    pub fn of_numbers(columns: &[&str]) -> Table {
        let align = |at| if at == 0 { Align::Left } else { Align::Right };
        let columns = columns
            .iter()
            .enumerate()
            .map(|(at, name)| (*name, align(at)));
        Table::new(&columns.collect::<Vec<_>>())
    }

    /// The first columns take at least so much, so that lines can be shown while rows are to come.
    pub fn at_least(mut self, widths: &[usize]) -> Table {
        self.widths_min = widths.to_vec();
        self
    }

    /// Adds a row. It may have fewer texts than there are columns.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The lines, each ended by LF.
    pub fn text(&self) -> String {
        self.lines().iter().flat_map(|line| [line, "\n"]).collect()
    }

    /// The lines, without spaces at their ends.
    pub fn lines(&self) -> Vec<String> {
        let widths: Vec<usize> = (0..self.aligns.len())
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
                widest.max(self.widths_min.get(column).copied().unwrap_or(0))
            })
            .collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).zip(&self.aligns);
            let cells = cells.map(|((cell, width), align)| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }
}

/// A whole number with its thousands set apart: `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_whatever_is_in_them() {
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("LINES", Align::Right),
            ("", Align::Left),
        ]);
        table.row(["a", "7", "x"].map(str::to_owned));
        table.row(["größer", "1,000,000", ""].map(str::to_owned));
        assert_eq!(
            table.lines(),
            [
                "NAME        LINES",
                "a               7  x",
                "größer  1,000,000"
            ]
        );
    }

    #[test]
    fn column_may_be_wider_than_what_is_in_it_so_far() {
        let mut table = Table::of_numbers(&["a", "b"]).at_least(&[3, 4]);
        assert_eq!(table.lines(), ["a       b"]);
        table.row(["abc", "1234"].map(str::to_owned));
        assert_eq!(table.lines(), ["a       b", "abc  1234"]);
    }

    #[test]
    fn row_may_be_short() {
        let mut table = Table::of_numbers(&["", "p50", "p99"]);
        table.row(["latency", "1"].map(str::to_owned));
        assert_eq!(table.text(), "         p50  p99\nlatency    1\n");
    }

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(thousands(number), text);
        }
    }
}
