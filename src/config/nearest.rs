//! Which known name an unknown one was meant to be.

/// How like a known name an unknown one must be to be taken for a slip of it, from 0 to 1.
const LIKENESS: f64 = 0.8;

/// What an unknown name of an option is told: the known one that was meant, or all there are.
pub(super) fn no_such_option<'a>(
    unknown: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> String {
    let mut known: Vec<&str> = known.into_iter().collect();
    match nearest(unknown, known.iter().copied()) {
        Some(nearest) => format!("no such option; did you mean {nearest}?"),
        None => {
            known.sort_unstable();
            format!("no such option; allowed: {}", known.join(", "))
        }
    }
}

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
