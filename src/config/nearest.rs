//! Which known name an unknown one was meant to be.

/// How like a known name an unknown one must be to be taken for a slip of it, from 0 to 1.
const LIKENESS: f64 = 0.8;

/// The known name that an unknown one was probably meant to be.
pub(crate) fn nearest<'a>(
    unknown: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let likeness = |known: &str| strsim::jaro_winkler(unknown, known);
    known
        .into_iter()
        .filter(|known| likeness(known) >= LIKENESS)
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}
