//! How figures are summed up and shown: one aligned row a figure, printed as soon as it is known.

use std::time::Duration;

use linehub::commands::bench;
use linehub::commands::table::{Align, Table};

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    LinesPerSecond,
    BytesPerSecond,
    HandshakesPerSecond,
    Seconds,
    Bytes,
}

impl Unit {
    /// The number with three or four digits and a unit that fits it.
    fn show(self, value: f64) -> String {
        match self {
            Unit::LinesPerSecond | Unit::HandshakesPerSecond => {
                format!("{}/s", bench::count(value))
            }
            Unit::BytesPerSecond => format!("{}B/s", bench::count(value)),
            Unit::Seconds if value < 1e-6 => format!("{:.2} ns", value * 1e9),
            Unit::Seconds => bench::time(Duration::from_secs_f64(value)),
            Unit::Bytes if value < 1e4 => format!("{value:.0} B"),
            Unit::Bytes => format!("{}B", bench::count(value)),
        }
    }
}

/// Median, least and greatest of some runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summary {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Summary {
    /// `None` without runs.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Summary> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => return None,
            odd if odd % 2 == 1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        };
        Some(Summary {
            median,
            min: values[0],
            max: values[values.len() - 1],
        })
    }
}

/// One row.
pub(crate) struct Row<'a> {
    pub name: &'a str,
    pub unit: Unit,
    pub subject: Summary,
    /// What it is compared with, its figure, and subject / baseline run by run.
    pub baseline: Option<(&'a str, Summary, Summary)>,
    pub note: &'a str,
}

/// Prints rows as soon as they are known.
pub(crate) struct Report(Table);

impl Report {
    /// Prints the heading. No name of a case is longer than `longest`.
    pub(crate) fn new(longest: usize) -> Report {
        let columns = [
            ("case", Align::Left),
            ("linehub", Align::Right),
            ("baseline", Align::Right),
            ("against", Align::Left),
            ("ratio", Align::Right),
            ("min–max", Align::Right),
            ("note", Align::Left),
        ];
        let widths = [longest, 9, 9, 15, 5, 11];
        let report = Report(Table::new(&columns).at_least(&widths));
        report.print();
        report
    }

    /// Prints a row.
    pub(crate) fn row(&mut self, row: &Row<'_>) {
        let none = || "–".to_owned();
        let subject = row.unit.show(row.subject.median);
        let [baseline, against, ratio, range] = match row.baseline {
            None => [none(), none(), none(), none()],
            Some((against, baseline, ratio)) => [
                row.unit.show(baseline.median),
                against.to_owned(),
                format!("{:.2}", ratio.median),
                format!("{:.2}–{:.2}", ratio.min, ratio.max),
            ],
        };
        let (name, note) = (row.name.to_owned(), row.note.to_owned());
        self.0
            .row([name, subject, baseline, against, ratio, range, note]);
        self.print();
    }

    /// Prints why a case has no figures.
    pub(crate) fn failure(&self, name: &str, reason: &str) {
        println!("{name}  failed: {reason}");
    }

    /// Prints the last row.
    fn print(&self) {
        println!("{}", self.0.lines().pop().unwrap_or_default());
    }
}
