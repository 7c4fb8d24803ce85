//! The token that a command says in its hello: out of a file or the environment, never from the command
//! line, which every user of the machine can read.

use std::env;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use zeroize::Zeroizing;

use crate::wire::hello::HELLO_BYTES_MAX;

/// The variable that has a token.
pub(crate) const TOKEN_VARIABLE: &str = "LINEHUB_TOKEN";

/// The token in this file, or else in the environment; `None` if there is neither.
///
/// # Errors
/// Why it is none, without a word of it.
pub(crate) fn read_token(file: Option<&Path>) -> Result<Option<Zeroizing<String>>, String> {
    let Some(path) = file else {
        let text = env::var_os(TOKEN_VARIABLE).filter(|text| !text.is_empty());
        let text = text.map(|text| text.into_encoded_bytes());
        let token = text.map(|text| word(Zeroizing::new(text))).transpose();
        return token.map_err(|wrong| format!("{TOKEN_VARIABLE}: {wrong}"));
    };
    // As large as it can become, so that no copy is left behind where it grew.
    let mut text = Zeroizing::new(Vec::with_capacity(HELLO_BYTES_MAX + 1));
    let read = File::open(path).and_then(|file| {
        let mut file = file.take(HELLO_BYTES_MAX as u64);
        file.read_to_end(&mut text)
    });
    let token = match read {
        Ok(_) => word(text),
        Err(error) => Err(format!("cannot be read: {error}")),
    };
    let token = token.map_err(|wrong| format!("--token-file: {}: {wrong}", path.display()))?;
    Ok(Some(token))
}

/// The one word that a text is.
fn word(text: Zeroizing<Vec<u8>>) -> Result<Zeroizing<String>, String> {
    let word = text.trim_ascii();
    let is_word = !word.is_empty() && word.iter().all(u8::is_ascii_graphic);
    let word = str::from_utf8(word).ok().filter(|_| is_word);
    match word {
        Some(word) => Ok(Zeroizing::new(word.to_owned())),
        None => Err("is no token; allowed: one word of printable ASCII".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_the_one_word_of_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_token(Some(&path)).map(|token| token.unwrap().to_string())
        };
        for text in ["sesame", "sesame\n", " sesame\r\n"] {
            assert_eq!(read(text).as_deref(), Ok("sesame"), "{text:?}");
        }
        let long = "sesame".repeat(1000) + " x";
        assert!(read(&long).is_ok_and(|token| token.len() == HELLO_BYTES_MAX));
        for text in ["", "\n", "sesame two", "sesame\ntwo", "sesame\u{e4}"] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with("--token-file: /"), "{error}");
            assert!(!error.contains("sesame"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        let error = read_token(Some(&path)).unwrap_err();
        assert!(
            error.contains("secret: cannot be read: No such file"),
            "{error}"
        );
    }
}
