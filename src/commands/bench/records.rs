//! Records of TLS 1.3, counted and not decrypted: what a load does that is to cost less than the daemon.

/// Bytes before the payload of a record, the last two of which say how long that is.
const HEADER_BYTES: usize = 5;

/// Bytes of a payload that are none of a line: its type, and the tag of the cipher.
const SEAL_BYTES: usize = 1 + 16;

/// How far a stream of records has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Records {
    header: [u8; HEADER_BYTES],
    /// Bytes of the header that have come.
    begun: usize,
    /// Bytes of the payload that are missing.
    missing: usize,
}

impl Records {
    /// Takes what has come. Returns how many bytes of lines the records have that end there.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> usize {
        let mut plain = 0;
        while !bytes.is_empty() {
            if self.begun < HEADER_BYTES {
                let count = bytes.len().min(HEADER_BYTES - self.begun);
                self.header[self.begun..][..count].copy_from_slice(&bytes[..count]);
                self.begun += count;
                self.missing = self.payload();
                bytes = &bytes[count..];
                continue;
            }
            let count = bytes.len().min(self.missing);
            self.missing -= count;
            bytes = &bytes[count..];
            if self.missing == 0 {
                plain += self.payload().saturating_sub(SEAL_BYTES);
                self.begun = 0;
            }
        }
        plain
    }

    fn payload(&self) -> usize {
        usize::from(u16::from_be_bytes([self.header[3], self.header[4]]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_however_they_are_cut() {
        let record = |plain: usize| {
            let payload = ((plain + SEAL_BYTES) as u16).to_be_bytes();
            [&[23, 3, 3][..], &payload, &vec![0xff; plain + SEAL_BYTES]].concat()
        };
        let stream = [record(1), record(300), record(16 * 1024)].concat();
        for size in 1..400 {
            let mut records = Records::default();
            let plain: usize = stream.chunks(size).map(|chunk| records.take(chunk)).sum();
            assert_eq!(plain, 1 + 300 + 16 * 1024, "{size}");
        }
    }
}
