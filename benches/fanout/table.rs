//! How figures are summed up and shown: one aligned row a figure, printed as soon as it is known.

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    LinesPerSecond,
    Seconds,
    Bytes,
}

impl Unit {
    /// The number with three or four digits and a unit that fits it.
    fn show(self, value: f64) -> String {
        let steps: &[(f64, &str)] = match self {
            Unit::LinesPerSecond => &[(1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")],
            Unit::Seconds => &[(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")],
            Unit::Bytes => &[(1e6, "MB"), (1e4, "kB"), (1.0, "B")],
        };
        let fits = steps.iter().find(|(scale, _)| value >= *scale);
        let (scale, name) = fits.or(steps.last()).copied().unwrap_or((1.0, ""));
        let scale = if name == "kB" { 1e3 } else { scale };
        let number = value / scale;
        let decimals = if number >= 100.0 || name == "B" { 0 } else { 2 };
        format!("{number:.decimals$} {name}")
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

/// The value below or at which `share` of the sorted `values` lie.
pub(crate) fn nearest_rank(values: &[u64], share: f64) -> Option<u64> {
    let rank = (values.len() as f64 * share).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied()
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

/// Prints rows in columns as wide as the longest name.
pub(crate) struct Table {
    name_width: usize,
}

impl Table {
    /// Prints the heading.
    pub(crate) fn new(name_width: usize) -> Table {
        let table = Table { name_width };
        table.print([
            "case",
            "linehub",
            "baseline",
            "against",
            "ratio",
            "min–max",
            "note",
        ]);
        table
    }

    /// Prints a row.
    pub(crate) fn row(&self, row: &Row<'_>) {
        let subject = row.unit.show(row.subject.median);
        let Some((against, baseline, ratio)) = row.baseline else {
            return self.print([row.name, &subject, "–", "–", "–", "–", row.note]);
        };
        let shown = row.unit.show(baseline.median);
        let median = format!("{:.2}", ratio.median);
        let range = format!("{:.2}–{:.2}", ratio.min, ratio.max);
        self.print([
            row.name, &subject, &shown, against, &median, &range, row.note,
        ]);
    }

    /// Prints why a case has no figures.
    pub(crate) fn failure(&self, name: &str, reason: &str) {
        println!("{name:<width$}  failed: {reason}", width = self.name_width);
    }

    fn print(&self, cells: [&str; 7]) {
        let [name, subject, baseline, against, ratio, range, note] = cells;
        let width = self.name_width;
        let compared = format!("{against:<15}  {ratio:>5}  {range:>11}");
        let row = format!("{name:<width$}  {subject:>9}  {baseline:>9}  {compared}  {note}");
        println!("{}", row.trim_end());
    }
}
