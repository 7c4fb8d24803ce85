//! Frames and chunks, taken apart as plainly as can be: a reading of the RFCs of its own.

use memchr::memmem;

/// How a peer ended what it said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As it should: with a close frame, which has this status or none, or at the end of its body.
    Whole(Option<u16>),
    /// With something wrong, which WebSocket has this status for.
    Wrong(u16),
}

impl End {
    pub(super) fn of_close(payload: &[u8]) -> End {
        let Some((status, reason)) = payload.split_first_chunk() else {
            return match payload {
                [] => End::Whole(None),
                _ => End::Wrong(1002),
            };
        };
        let status = u16::from_be_bytes(*status);
        match status {
            _ if str::from_utf8(reason).is_err() => End::Wrong(1007),
            1000..=1003 | 1007..=1014 | 3000..=4999 => End::Whole(Some(status)),
            _ => End::Wrong(1002),
        }
    }
}

/// A frame (RFC 6455, section 5.2), or what there is of it.
pub(super) struct Frame {
    pub(super) opcode: u8,
    pub(super) is_last: bool,
    pub(super) has_reserved: bool,
    pub(super) is_masked: bool,
    pub(super) is_shortest: bool,
    pub(super) length: u64,
    pub(super) payload: Vec<u8>,
    pub(super) is_whole: bool,
}

impl Frame {
    /// Takes the next one off; `None` if not all of its header is there.
    pub(super) fn take(bytes: &mut &[u8]) -> Option<Frame> {
        let ([first, second], rest) = bytes.split_first_chunk()?;
        let is_masked = second & 0x80 != 0;
        let (length, rest) = match second & 0x7f {
            126 => {
                let (length, rest) = rest.split_first_chunk()?;
                (u64::from(u16::from_be_bytes(*length)), rest)
            }
            127 => {
                let (length, rest) = rest.split_first_chunk()?;
                (u64::from_be_bytes(*length), rest)
            }
            short => (u64::from(short), rest),
        };
        let (mask, rest) = match is_masked {
            true => rest.split_first_chunk()?,
            false => (&[0; 4], rest),
        };
        let some = rest.len().min(length as usize);
        let masked = rest[..some].iter().zip(mask.iter().cycle());
        *bytes = &rest[some..];
        Some(Frame {
            opcode: first & 0xf,
            is_last: first & 0x80 != 0,
            has_reserved: first & 0x70 != 0,
            is_masked,
            is_shortest: match second & 0x7f {
                126 => length > 125,
                127 => length > 0xffff,
                _ => true,
            },
            length,
            payload: masked.map(|(byte, of_mask)| byte ^ of_mask).collect(),
            is_whole: some as u64 == length,
        })
    }

    /// Whether a client may send it, in a message that has begun or outside.
    pub(super) fn may_be_sent(&self, is_in_message: bool) -> bool {
        let fits = match self.opcode {
            0x0 => is_in_message,
            0x1 | 0x2 => !is_in_message,
            0x8..=0xa => self.is_last && self.length <= 125,
            _ => false,
        };
        fits && self.is_masked && self.is_shortest && !self.has_reserved
    }
}

/// A body out of its chunks (RFC 9112, section 7.1), and how that ends if it does.
pub(super) fn unchunked(mut bytes: &[u8]) -> (Vec<u8>, Option<End>) {
    let mut body = Vec::new();
    let wrong = Some(End::Wrong(400));
    loop {
        let of_size = bytes.iter().take_while(|byte| byte.is_ascii_hexdigit());
        let (size, rest) = bytes.split_at(of_size.count());
        let is_extension = |byte: &&u8| **byte >= b' ' || **byte == b'\t';
        let (extension, rest) = rest.split_at(rest.iter().take_while(is_extension).count());
        let begins_well = extension.is_empty() || b"; \t".contains(&extension[0]);
        let may_follow = b"\r\n".starts_with(rest) || rest.starts_with(b"\r\n");
        let has_size = !size.is_empty() || bytes.is_empty();
        if !has_size || !begins_well || !may_follow {
            return (body, wrong);
        }
        let Some(rest) = rest.strip_prefix(b"\r\n") else {
            return (body, None);
        };
        let size = str::from_utf8(size).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            // Trailers are not looked at.
            let is_over = rest.starts_with(b"\r\n") || memmem::find(rest, b"\r\n\r\n").is_some();
            return (body, is_over.then_some(End::Whole(None)));
        }
        let some = size.min(rest.len());
        body.extend(&rest[..some]);
        let rest = &rest[some..];
        match rest.strip_prefix(b"\r\n") {
            Some(next) => bytes = next,
            None if b"\r\n".starts_with(rest) => return (body, None),
            None => return (body, wrong),
        }
    }
}
