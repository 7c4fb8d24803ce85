//! File of `--state`: the place that all of what was printed ends at.
//!
//! It is replaced as a whole, after the lines up to the place were written. A process that is killed in
//! between leaves more in its output than the file knows of, which the next one cuts off, where the output is
//! a file that is appended to. Nothing is synced: what a process has written survives it, not a power loss.

use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::appended::{self, AppendedFile, try_lock};
use super::events::Place;

/// Form of the file.
const VERSION: u32 = 1;

/// Most bytes that are read of it: many times what it has.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Attempts to lock a file that another process replaces each time.
const LOCK_ATTEMPTS: usize = 100;

/// The file, locked: one process at a time goes by it.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    temporary: PathBuf,
    /// The file at the path. Whoever replaces it locks the new one first.
    locked: File,
    address: String,
}

/// What the file says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    address: String,
    /// `None` before the first answer to a hello.
    place: Option<SavedPlace>,
    /// `None` if standard output is no file that is appended to.
    output: Option<AppendedFile>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedPlace {
    channel: String,
    epoch: String,
    seq: u64,
}

/// What was found at the start.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: StateFile,
    /// Channel and place to go on from.
    pub(super) known: Option<(String, Place)>,
    /// What a person should know of it.
    pub(super) warnings: Vec<String>,
}

/// The file cannot be used.
#[derive(Debug)]
pub(super) struct StateError(String);

impl StateFile {
    /// Locks the file, which is made if there is none, and cuts off the output what it does not know of.
    ///
    /// # Errors
    /// It cannot be used, or is of another address, or of another channel than the one that is asked for.
    pub(super) fn open(
        path: &Path,
        address: &str,
        channel: Option<&str>,
        output: impl AsFd,
    ) -> Result<Opened, StateError> {
        let wrong =
            |what: &dyn fmt::Display| StateError(format!("--state: {}: {what}", path.display()));
        let is_new = !path.exists();
        let mut locked = lock(path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => wrong(&"another process goes by it"),
            _ => wrong(&format!("cannot be opened: {error}")),
        })?;
        if !locked.metadata().is_ok_and(|found| found.is_file()) {
            return Err(wrong(&"is no regular file"));
        }
        let mut text = Vec::new();
        let read = (&mut locked).take(FILE_BYTES_MAX).read_to_end(&mut text);
        read.map_err(|error| wrong(&format!("cannot be read: {error}")))?;

        let mut warnings = Vec::new();
        let saved = match text.is_empty() {
            true => None,
            false => Some(Saved::read(&text).map_err(|what| wrong(&what))?),
        };
        if saved.is_none() && !is_new {
            let what = "is empty: what was printed before is not known";
            warnings.push(format!("--state: {}: {what}", path.display()));
        }
        let of_other = |what: &str, saved: &str, asked: &str| {
            let what = format!("has a place of {what} {saved}, not {asked}; allowed: another FILE");
            Err(wrong(&what))
        };
        let mut known = None;
        if let Some(saved) = &saved {
            if saved.address != address {
                return of_other("the server", &saved.address, address);
            }
            known = saved.known();
            if let (Some((saved, _)), Some(asked)) = (&known, channel)
                && saved != asked
            {
                return of_other("channel", saved, asked);
            }
            if saved.place.is_some() && known.is_none() {
                return Err(wrong(&"has an epoch that is none"));
            }
        }
        let recorded = saved.and_then(|saved| saved.output);
        appended::lock(&output).map_err(|what| wrong(&what))?;
        warnings.extend(appended::cut(&output, recorded).map_err(|what| wrong(&what))?);

        // Its directory, whatever links lead there: where it is replaced.
        let path = fs::canonicalize(path).map_err(|error| wrong(&error))?;
        let mut temporary = path.clone().into_os_string();
        temporary.push(".tmp");
        let mut file = StateFile {
            temporary: temporary.into(),
            path,
            locked,
            address: address.to_owned(),
        };
        file.save(
            known.as_ref().map(|(channel, place)| (&**channel, *place)),
            &output,
        )?;
        Ok(Opened {
            file,
            known,
            warnings,
        })
    }

    /// Replaces the file, once all up to this place of this channel is in the output.
    pub(super) fn save(
        &mut self,
        known: Option<(&str, Place)>,
        output: impl AsFd,
    ) -> Result<(), StateError> {
        let saved = Saved {
            version: VERSION,
            address: self.address.clone(),
            place: known.map(|(channel, place)| SavedPlace {
                channel: channel.to_owned(),
                epoch: place.epoch.to_string(),
                seq: place.seq.0,
            }),
            output: AppendedFile::of(output),
        };
        self.replace(&saved).map_err(|error| {
            let path = self.path.display();
            StateError(format!("--state: {path}: cannot be written: {error}"))
        })
    }

    fn replace(&mut self, saved: &Saved) -> io::Result<()> {
        let create = || {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&self.temporary)
        };
        let mut file = create().or_else(|error| match error.kind() {
            // Left by a process that was killed: whoever has the lock is the only one here.
            io::ErrorKind::AlreadyExists => {
                fs::remove_file(&self.temporary)?;
                create()
            }
            _ => Err(error),
        })?;
        try_lock(&file)?;
        let mut text = serde_json::to_vec(saved)?;
        text.push(b'\n');
        file.write_all(&text)?;
        let mode = self.locked.metadata()?.permissions().mode();
        if file.metadata()?.permissions().mode() != mode {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        fs::rename(&self.temporary, &self.path)?;
        self.locked = file;
        Ok(())
    }
}

/// Opens the file, which is made if there is none, and locks it.
fn lock(path: &Path) -> io::Result<File> {
    for _ in 0..LOCK_ATTEMPTS {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path)?;
        try_lock(&file)?;
        let (opened, found) = (file.metadata()?, fs::metadata(path)?);
        // The one that was locked may have been replaced meanwhile.
        if (opened.dev(), opened.ino()) == (found.dev(), found.ino()) {
            return Ok(file);
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

impl Saved {
    fn read(text: &[u8]) -> Result<Saved, String> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let no_state = |error| format!("is no state of this command: {error}");
        let Versioned { version } = serde_json::from_slice(text).map_err(no_state)?;
        if version != VERSION {
            return Err(format!(
                "is a state of version {version}; allowed: {VERSION}"
            ));
        }
        serde_json::from_slice(text).map_err(no_state)
    }

    fn known(&self) -> Option<(String, Place)> {
        let saved = self.place.as_ref()?;
        let place = Place::new(&saved.epoch, saved.seq)?;
        Some((saved.channel.clone(), place))
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StateError {}

impl From<StateError> for io::Error {
    fn from(error: StateError) -> io::Error {
        io::Error::other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ids::{Epoch, Seq};

    const ADDRESS: &str = "127.0.0.1:2345";

    fn place(seq: u64) -> Place {
        Place {
            epoch: Epoch(0x5f3a_9c11),
            seq: Seq(seq),
        }
    }

    fn append_to(path: &Path) -> File {
        let mut options = OpenOptions::new();
        options.create(true).append(true).open(path).unwrap()
    }

    fn open(dir: &Path, output: &File) -> Result<Opened, String> {
        let opened = StateFile::open(&dir.join("place"), ADDRESS, None, output);
        opened.map_err(|error| error.to_string())
    }

    #[test]
    fn output_is_cut_to_what_the_state_knows_of() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        fs::write(&path, "before\n").unwrap();
        let mut output = append_to(&path);
        let mut opened = open(dir.path(), &output).unwrap();
        assert_eq!((opened.known, opened.warnings.len()), (None, 0));
        output.write_all(b"one\n").unwrap();
        opened.file.save(Some(("nmea", place(1))), &output).unwrap();
        output.write_all(b"two\nthr").unwrap();
        // Its lock goes with it.
        drop((opened.file, output));

        let opened = open(dir.path(), &append_to(&path)).unwrap();
        assert_eq!(opened.known, Some(("nmea".to_owned(), place(1))));
        assert_eq!(fs::read(&path).unwrap(), b"before\none\n");
        drop(opened.file);

        // What another command appends there is not cut off.
        let other = append_to(&path);
        try_lock(&other).unwrap();
        let error = open(dir.path(), &append_to(&path)).unwrap_err();
        assert!(error.contains("another process appends"), "{error}");
        drop(other);

        // Another file is left as it is, and a shorter one is spoken of.
        let other = dir.path().join("other");
        fs::write(&other, "a long line of somebody else\n").unwrap();
        drop(open(dir.path(), &append_to(&other)).unwrap());
        assert_eq!(fs::read(&other).unwrap().len(), 29);
        fs::write(&other, "short\n").unwrap();
        let opened = open(dir.path(), &append_to(&other)).unwrap();
        assert_eq!(opened.warnings.len(), 1);
        assert!(
            opened.warnings[0].contains("has 23 bytes less"),
            "{:?}",
            opened.warnings
        );
    }

    #[test]
    fn file_that_is_not_appended_to_is_not_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        fs::write(&path, "one\n").unwrap();
        let output = OpenOptions::new().write(true).open(&path).unwrap();
        let mut opened = open(dir.path(), &output).unwrap();
        assert!(
            opened.warnings[0].contains("append"),
            "{:?}",
            opened.warnings
        );
        opened.file.save(Some(("nmea", place(1))), &output).unwrap();
        drop(opened.file);
        fs::write(&path, "one\ntwo\n").unwrap();
        drop(open(dir.path(), &append_to(&path)).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
    }

    #[test]
    fn state_of_another_target_or_form_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let output = append_to(&dir.path().join("lines"));
        let path = dir.path().join("place");
        let mut opened = open(dir.path(), &output).unwrap();
        opened.file.save(Some(("nmea", place(1))), &output).unwrap();
        drop(opened.file);
        let refused = |address, channel, why: &str| {
            let before = fs::read(&path).unwrap();
            let error = StateFile::open(&path, address, channel, &output).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
            assert_eq!(fs::read(&path).unwrap(), before);
        };
        refused(
            "127.0.0.1:1",
            None,
            "has a place of the server 127.0.0.1:2345, not",
        );
        refused(ADDRESS, Some("ais"), "has a place of channel nmea, not ais");
        for (text, why) in [
            ("{\"version\":2}", "version 2"),
            ("lines\n", "is no state"),
            ("{\"version\":1}", "is no state"),
        ] {
            fs::write(&path, text).unwrap();
            refused(ADDRESS, None, why);
        }
        fs::write(&path, "").unwrap();
        let opened = open(dir.path(), &output).unwrap();
        assert!(opened.warnings[0].contains("is empty"));
        assert!(
            StateFile::open(dir.path(), ADDRESS, None, &output).is_err(),
            "a directory"
        );
    }

    #[test]
    fn state_is_of_one_process_at_a_time_and_a_temporary_file_is_no_hindrance() {
        let dir = tempfile::tempdir().unwrap();
        let output = append_to(&dir.path().join("lines"));
        let mut first = open(dir.path(), &output).unwrap().file;
        for seq in 1..4 {
            fs::write(dir.path().join("place.tmp"), "left by a killed one").unwrap();
            first.save(Some(("nmea", place(seq))), &output).unwrap();
            let error = open(dir.path(), &output).unwrap_err();
            assert!(error.contains("another process"), "{error}");
        }
        drop(first);
        let known = open(dir.path(), &output).unwrap().known;
        assert_eq!(known, Some(("nmea".to_owned(), place(3))));
    }
}
