//! The answer to a hello line.

use crate::wire::channel::ChannelName;
use crate::wire::format::Format;
use crate::wire::ids::{ClientId, Epoch, Seq};

/// Appends what a client is told first whose hello was taken: its number, its channel, and the place in
/// the channel's order that all it gets comes after. `raw` cannot say it.
///
/// The line ends in LF, or in CR LF where `crlf` says that a client of `text` ends its own lines so.
pub fn answer(
    format: Format,
    client: ClientId,
    channel: &ChannelName,
    epoch: Epoch,
    seq: Seq,
    crlf: bool,
    out: &mut Vec<u8>,
) {
    let answer = match format {
        Format::Text => {
            let line_end = if crlf { "\r\n" } else { "\n" };
            format!("Hello client {client}: channel {channel}, at {epoch}:{seq}{line_end}")
        }
        // Nothing in it has to be escaped: a channel's name has no quotes.
        Format::Json => format!(
            "{{\"event\":\"hello\",\"client\":{client},\"channel\":\"{channel}\",\
             \"epoch\":\"{epoch}\",\"seq\":{seq}}}\n"
        ),
        Format::Raw => return,
    };
    out.extend_from_slice(answer.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_says_number_channel_and_place() {
        let answer = |format, epoch, crlf| {
            let (client, channel) = (ClientId(7), "nmea".parse().unwrap());
            let mut out = b"before\n".to_vec();
            answer(
                format,
                client,
                &channel,
                Epoch(epoch),
                Seq(4711),
                crlf,
                &mut out,
            );
            let out = String::from_utf8(out).unwrap();
            out.strip_prefix("before\n").unwrap().to_owned()
        };
        let text = "Hello client 7: channel nmea, at 5f3a9c11:4711";
        assert_eq!(answer(Format::Text, 0x5f3a9c11, false), format!("{text}\n"));
        assert_eq!(
            answer(Format::Text, 0x5f3a9c11, true),
            format!("{text}\r\n")
        );
        let json = "{\"event\":\"hello\",\"client\":7,\"channel\":\"nmea\",\
                    \"epoch\":\"0000002a\",\"seq\":4711}\n";
        for crlf in [false, true] {
            assert_eq!(answer(Format::Json, 42, crlf), json);
            assert_eq!(answer(Format::Raw, 42, crlf), "");
        }
    }
}
