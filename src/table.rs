//! Columns for people: as wide as their widest cell, numbers on the right.

/// Rows of cells.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new<'a>(headings: impl IntoIterator<Item = &'a str>) -> Table {
        let headings = headings.into_iter().map(str::to_owned).collect();
        Table {
            rows: vec![headings],
        }
    }

    /// Adds a row. It may have fewer cells than others.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// All rows, each ended by LF. The first column is aligned to the left, the others to the right.
    pub(crate) fn show(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if column == 0 {
                    line.push_str(&format!("{cell:width$}"));
                } else {
                    line.push_str(&format!("  {cell:>width$}"));
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["", "µs", "wide"]);
        table.row(["first".to_owned(), "1".to_owned(), "2".to_owned()]);
        table.row(["x".to_owned(), "100".to_owned()]);
        assert_eq!(
            table.show(),
            "        µs  wide\nfirst    1     2\nx      100\n"
        );
    }
}
