//! What keeps secrets in this process: no core, no memory that others read or change, no copy left behind.

use std::fs::File;
use std::io::{self, BufRead, BufWriter, Read, Write};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use zeroize::{Zeroize, Zeroizing};

/// Bytes that are read from a memory at a time.
const READ_BYTES: usize = 8 * 1024;

/// From now on no core of this process is written, and no other process of its user may look into it
/// (prctl(2), PR_SET_DUMPABLE). An exec undoes it. What the process itself reads below `/proc/self` stays
/// readable, but for `environ`.
pub(crate) fn keep_out_of_cores() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Memory that a descriptor stands for (memfd_create(2)), with what `write` writes, and sealed: whoever else
/// gets the descriptor reads what was written, and nothing else.
pub(super) fn sealed_memory(
    name: &str,
    write: impl FnOnce(&mut BufWriter<File>) -> anyhow::Result<()>,
) -> anyhow::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut out = BufWriter::new(File::from(rustix::fs::memfd_create(name, flags)?));
    let written = write(&mut out).and_then(|()| Ok(out.flush()?));
    let (memory, buffer) = out.into_parts();
    buffer.unwrap_or_default().zeroize();
    written?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memory, seals)?;
    Ok(memory)
}

/// A file, read through a buffer that is zeroed in the end.
pub(super) struct SecretReader {
    file: File,
    buffer: Zeroizing<Vec<u8>>,
    /// The part of the buffer that has been read from the file and not from here.
    at: usize,
    end: usize,
}

impl SecretReader {
    pub(super) fn new(file: File) -> SecretReader {
        SecretReader {
            file,
            buffer: Zeroizing::new(vec![0; READ_BYTES]),
            at: 0,
            end: 0,
        }
    }
}

impl Read for SecretReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.end && out.len() >= READ_BYTES {
            return self.file.read(out);
        }
        let read = self.fill_buf()?.read(out)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for SecretReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.end {
            (self.at, self.end) = (0, self.file.read(&mut self.buffer)?);
        }
        Ok(&self.buffer[self.at..self.end])
    }

    fn consume(&mut self, read: usize) {
        self.at += read;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Seek;

    use super::*;

    #[test]
    fn sealed_memory_is_read_and_not_changed() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        let mut memory = sealed_memory("test", |out| Ok(out.write_all(&bytes)?)).unwrap();
        assert!(memory.write_all(b"x").is_err());
        assert!(memory.set_len(0).is_err() && memory.set_len(1 << 20).is_err());
        assert!(rustix::fs::fcntl_add_seals(&memory, SealFlags::SEAL).is_err());
        memory.rewind().unwrap();
        let mut reader = SecretReader::new(memory);
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line).unwrap();
        for part in [1, 100, READ_BYTES, READ_BYTES + 1].into_iter().cycle() {
            let before = line.len();
            (&mut reader)
                .take(part as u64)
                .read_to_end(&mut line)
                .unwrap();
            if line.len() == before {
                break;
            }
        }
        assert_eq!(line, bytes);
    }
}
