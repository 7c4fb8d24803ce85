//! How often a key of a listener may be given, as its row says: [`one`] value, [`maybe`] one, or
//! [`each`] of several.

use std::fmt;

/// Shows a key once for each of these values.
fn show_all<T>(
    f: &mut fmt::Formatter<'_>,
    key: &str,
    values: &[T],
    display: impl Fn(&T) -> String,
) -> fmt::Result {
    let mut values = values.iter();
    values.try_for_each(|value| write!(f, ",{key}={}", display(value)))
}

/// A key with one value.
pub(super) mod one {
    use std::fmt;

    pub(crate) const REPEATS: bool = false;

    pub(crate) fn set<T>(
        field: &mut T,
        value: &str,
        _is_first: bool,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<(), String> {
        *field = parse(value)?;
        Ok(())
    }

    pub(crate) fn show<T>(
        f: &mut fmt::Formatter<'_>,
        key: &str,
        field: &T,
        display: impl Fn(&T) -> String,
    ) -> fmt::Result {
        super::show_all(f, key, std::slice::from_ref(field), display)
    }
}

/// A key without a value of its own unless it is given.
pub(super) mod maybe {
    use std::fmt;

    pub(crate) const REPEATS: bool = false;

    pub(crate) fn set<T>(
        field: &mut Option<T>,
        value: &str,
        _is_first: bool,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<(), String> {
        *field = Some(parse(value)?);
        Ok(())
    }

    pub(crate) fn show<T>(
        f: &mut fmt::Formatter<'_>,
        key: &str,
        field: &Option<T>,
        display: impl Fn(&T) -> String,
    ) -> fmt::Result {
        super::show_all(f, key, field.as_slice(), display)
    }
}

/// A key that may be given several times. What is given takes the place of the default.
pub(super) mod each {
    use std::fmt;

    use crate::config::spec::NONE;

    pub(crate) const REPEATS: bool = true;

    pub(crate) fn set<T>(
        field: &mut Vec<T>,
        value: &str,
        is_first: bool,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<(), String> {
        if is_first || value == NONE {
            field.clear();
        }
        if value != NONE {
            field.push(parse(value)?);
        }
        Ok(())
    }

    /// In the alternate form, nothing: such lists are long, and a client that is there does not need
    /// them.
    pub(crate) fn show<T>(
        f: &mut fmt::Formatter<'_>,
        key: &str,
        field: &[T],
        display: impl Fn(&T) -> String,
    ) -> fmt::Result {
        let shown = if f.alternate() { &[] } else { field };
        super::show_all(f, key, shown, display)
    }
}
