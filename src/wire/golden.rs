//! Forms of the saved state that were written down, for the tests of what is saved.

/// What to do when the form of a state changes.
pub(crate) const NEW_FORM: &str = "a field that has a default: write the new form down; anything else, a new variant too: raise VERSION first";

/// The bytes of a form that was written down as `escape_ascii` shows them.
pub(crate) fn unescape(golden: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = golden.trim_end().bytes();
    while let Some(byte) = rest.next() {
        let escaped = (byte == b'\\').then(|| rest.next().unwrap());
        bytes.push(match escaped {
            None => byte,
            Some(b'x') => {
                let hex = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(str::from_utf8(&hex).unwrap(), 16).unwrap()
            }
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'r') => b'\r',
            Some(other) => other,
        });
    }
    bytes
}
