//! The PROXY protocol, versions 1 and 2: the header by which a proxy says whose connection it passes on.
//!
//! Its source is `proxy-protocol.txt`, which comes with haproxy. The receiver of it is told of every first
//! byte whether there is to be a header: it never guesses. Other than there, a header may arrive in parts.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use memchr::memchr;

/// Most bytes of a header: the protocol bounds one of version 2 by 64 KiB only, and has it made for the
/// 536 that fit in any TCP segment. haproxy sends up to some 200 of its own accord, AWS and Azure up to
/// 100.
pub const HEADER_BYTES_MAX: usize = 4096;

/// Most bytes of a header of version 1, with its CR LF.
const LINE_BYTES_MAX: usize = 107;

/// What headers begin with: those of version 1, and of version 2.
const LINE_SIGNATURE: &[u8] = b"PROXY ";
const BINARY_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The type of the vector that has a checksum of its header, and the length of that.
const CHECKSUM: u8 = 3;
const CHECKSUM_BYTES: usize = 4;

/// A header, at the beginning of what a connection brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// How many bytes it has. What follows is the peer's.
    pub length: usize,
    /// Whose connection it is.
    pub source: ProxySource,
}

/// Whose connection a proxy brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxySource {
    /// That of this address. An IPv4 address that was written as an IPv6 one is an IPv4 address.
    Address(SocketAddr),
    /// Somebody's, whom the proxy cannot name: who connected to it by a Unix socket, as a rule.
    Unknown,
    /// The proxy's own, to see whether anybody serves it.
    Local,
}

/// Why there is no header. Displays as it is told: one line of printable ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyError {
    /// It begins like none.
    Expected,
    /// It is longer than one may be.
    TooLong,
    /// A line that does not say what one of version 1 has to.
    InvalidLine,
    /// A command, an address family or a protocol that version 2 does not have.
    Unassigned,
    /// Addresses or vectors that do not fit in the length that it announces.
    InvalidLength,
    /// Its checksum is not that of its bytes.
    Checksum,
}

/// Reads a header out of what has come so far: `None` if a part of it is still to come, which
/// [`HEADER_BYTES_MAX`] bytes never need.
pub fn parse(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let may_begin = |signature: &[u8]| {
        let known = bytes.len().min(signature.len());
        bytes[..known] == signature[..known]
    };
    if may_begin(LINE_SIGNATURE) {
        parse_line(bytes)
    } else if may_begin(BINARY_SIGNATURE) {
        parse_binary(bytes)
    } else {
        Err(ProxyError::Expected)
    }
}

/// Version 1: `PROXY TCP4 SOURCE DESTINATION SOURCE-PORT DESTINATION-PORT`, CR LF.
fn parse_line(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let line = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = memchr(b'\n', line) else {
        return match line.len() < LINE_BYTES_MAX {
            true => Ok(None),
            false => Err(ProxyError::TooLong),
        };
    };
    let words = line[..end]
        .strip_suffix(b"\r")
        .and_then(|line| line.strip_prefix(LINE_SIGNATURE))
        .ok_or(ProxyError::InvalidLine)?;
    let family = words.split(|byte| *byte == b' ').next();
    let source = match family {
        // Whatever follows that.
        Some(b"UNKNOWN") => Some(ProxySource::Unknown),
        Some(b"TCP4") => source_in_words::<Ipv4Addr>(words),
        Some(b"TCP6") => source_in_words::<Ipv6Addr>(words),
        _ => None,
    };
    Ok(Some(ProxyHeader {
        length: end + 1,
        source: source.ok_or(ProxyError::InvalidLine)?,
    }))
}

fn source_in_words<T: FromStr + Into<IpAddr>>(words: &[u8]) -> Option<ProxySource> {
    let words: Vec<_> = str::from_utf8(words).ok()?.split(' ').collect();
    let [_, source, destination, source_port, destination_port] = words[..] else {
        return None;
    };
    let address = |word: &str| Some(word.parse::<T>().ok()?.into());
    let port = |word: &str| {
        let port: u16 = word.parse().ok()?;
        // Neither a sign nor zeros before it.
        (port.to_string() == word).then_some(port)
    };
    let _: (IpAddr, u16) = (address(destination)?, port(destination_port)?);
    Some(ProxySource::at(address(source)?, port(source_port)?))
}

/// Version 2: signature, command, family and protocol, length; so many bytes of addresses, and of vectors
/// of a type, a length and a value.
fn parse_binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    const FIXED: usize = BINARY_SIGNATURE.len() + 4;
    const IPV4: usize = 2 * 4 + 2 * 2;
    const IPV6: usize = 2 * 16 + 2 * 2;
    const UNIX: usize = 2 * 108;
    let Some([.., command, family, high, low]) = bytes.first_chunk::<FIXED>() else {
        return Ok(None);
    };
    let length = FIXED + usize::from(u16::from_be_bytes([*high, *low]));
    // The highest bits are the version.
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyError::Unassigned),
    };
    // The family is in the high bits, the protocol in the low ones: a stream, or datagrams, whose sender has
    // an address, too. Where one of the two is unspecified, addresses are to be ignored. So is all of it for
    // a proxy's own connection.
    let addresses = match (family >> 4, family & 0xf) {
        _ if is_local => 0,
        (0, 0..=2) | (1..=3, 0) => 0,
        (1, 1..=2) => IPV4,
        (2, 1..=2) => IPV6,
        (3, 1..=2) => UNIX,
        _ => return Err(ProxyError::Unassigned),
    };
    if length > HEADER_BYTES_MAX {
        return Err(ProxyError::TooLong);
    }
    if length < FIXED + addresses {
        return Err(ProxyError::InvalidLength);
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(None);
    };
    match check_vectors(header, FIXED + addresses) {
        // Where addresses are ignored, they are not told from vectors.
        Err(ProxyError::InvalidLength) if addresses == 0 => {}
        outcome => outcome?,
    }
    let block = &header[FIXED..];
    let source = match addresses {
        IPV4 => source_in_bytes::<4>(block),
        IPV6 => source_in_bytes::<16>(block),
        _ => None,
    };
    let unnamed = match is_local {
        true => ProxySource::Local,
        false => ProxySource::Unknown,
    };
    Ok(Some(ProxyHeader {
        length,
        source: source.unwrap_or(unnamed),
    }))
}

/// The first of two addresses with so many bytes each, and the first of the two ports behind them.
fn source_in_bytes<const N: usize>(block: &[u8]) -> Option<ProxySource>
where
    IpAddr: From<[u8; N]>,
{
    let (address, rest) = block.split_first_chunk::<N>()?;
    let port = rest.get(N..)?.first_chunk()?;
    Some(ProxySource::at(
        (*address).into(),
        u16::from_be_bytes(*port),
    ))
}

/// Checks the vectors of a header, which begin there, and the checksum if it has one.
fn check_vectors(header: &[u8], mut from: usize) -> Result<(), ProxyError> {
    while from < header.len() {
        let vector = &header[from..];
        let Some(([kind, high, low], rest)) = vector.split_first_chunk() else {
            return Err(ProxyError::InvalidLength);
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let value = rest.get(..length).ok_or(ProxyError::InvalidLength)?;
        let end = header.len() - rest.len() + length;
        if *kind == CHECKSUM {
            let sent: [u8; CHECKSUM_BYTES] = value.try_into().map_err(|_| ProxyError::Checksum)?;
            // Of the header as it is with zeros in its place.
            let parts = [
                &header[..end - CHECKSUM_BYTES],
                &[0; CHECKSUM_BYTES],
                &header[end..],
            ];
            let sum = parts
                .iter()
                .fold(0, |sum, part| crc32c::crc32c_append(sum, part));
            if u32::from_be_bytes(sent) != sum {
                return Err(ProxyError::Checksum);
            }
        }
        from = end;
    }
    Ok(())
}

impl ProxySource {
    fn at(address: IpAddr, port: u16) -> ProxySource {
        ProxySource::Address(SocketAddr::new(address.to_canonical(), port))
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProxyError::Expected => "PROXY protocol header expected",
            ProxyError::TooLong => "PROXY protocol header is too long",
            ProxyError::InvalidLine => "PROXY protocol header of version 1 is invalid",
            ProxyError::Unassigned => "PROXY protocol header has values that are unassigned",
            ProxyError::InvalidLength => {
                "PROXY protocol header is shorter than what it has to hold"
            }
            ProxyError::Checksum => "PROXY protocol header has a wrong checksum",
        })
    }
}

#[cfg(test)]
mod tests;
