//! The answer to a hello line.

use crate::wire::channel::ChannelName;
use crate::wire::format::Format;
use crate::wire::ids::{ClientId, Epoch, Seq};
use crate::wire::role::Role;

/// What a client is told first whose hello was taken.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its number.
    pub client: ClientId,
    /// The channel that it is in.
    pub channel: ChannelName,
    /// The order that `seq` is of.
    pub epoch: Epoch,
    /// The place in the channel's order that all it gets comes after.
    pub seq: Seq,
    /// Whether it gets all that came behind the place that it named; `None` if it named none.
    pub recovered: Option<bool>,
    /// How many lines of its session were published before; `None` if it has none.
    pub taken: Option<u64>,
    /// Whether it gets its own lines: only `json` says it, to who tells them from those of others.
    pub echo: bool,
    /// The role that it has, where it may not do all that it may mean to: only `json` says it.
    pub role: Option<Role>,
}

impl Answer {
    /// Appends the answer. `raw` cannot say it.
    ///
    /// The line ends in LF, or in CR LF where `crlf` says that a client of `text` ends its own lines so.
    pub fn append(&self, format: Format, crlf: bool, out: &mut Vec<u8>) {
        let (client, channel) = (self.client, &self.channel);
        let (epoch, seq) = (self.epoch, self.seq);
        let answer = match format {
            Format::Text => {
                let recovered = match self.recovered {
                    Some(true) => ", recovered",
                    Some(false) => ", not recovered",
                    None => "",
                };
                let taken = self.taken.map(|taken| format!(", taken {taken}"));
                let taken = taken.unwrap_or_default();
                let line_end = if crlf { "\r\n" } else { "\n" };
                format!(
                    "Hello client {client}: channel {channel}, at {epoch}:{seq}{recovered}{taken}{line_end}"
                )
            }
            Format::Json => {
                let recovered = self.recovered.map(|is| format!(",\"recovered\":{is}"));
                let recovered = recovered.unwrap_or_default();
                let taken = self.taken.map(|taken| format!(",\"taken\":{taken}"));
                let taken = taken.unwrap_or_default();
                let echo = if self.echo { ",\"echo\":true" } else { "" };
                let role = self.role.map(|role| format!(",\"role\":\"{role}\""));
                let role = role.unwrap_or_default();
                // Nothing in it has to be escaped: a channel's name has no quotes.
                format!(
                    "{{\"event\":\"hello\",\"client\":{client},\"channel\":\"{channel}\",\
                     \"epoch\":\"{epoch}\",\"seq\":{seq}{recovered}{taken}{echo}{role}}}\n"
                )
            }
            Format::Raw => return,
        };
        out.extend_from_slice(answer.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(
        format: Format,
        epoch: u32,
        crlf: bool,
        recovered: Option<bool>,
        taken: Option<u64>,
    ) -> String {
        let channel = "nmea".parse().unwrap();
        let answer = Answer {
            client: ClientId(7),
            channel,
            epoch: Epoch(epoch),
            seq: Seq(4711),
            recovered,
            taken,
            echo: taken == Some(u64::MAX),
            role: None,
        };
        let mut out = b"before\n".to_vec();
        answer.append(format, crlf, &mut out);
        let out = String::from_utf8(out).unwrap();
        out.strip_prefix("before\n").unwrap().to_owned()
    }

    #[test]
    fn answer_says_number_channel_and_place() {
        let answer = |format, epoch, crlf| said(format, epoch, crlf, None, None);
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

    #[test]
    fn answer_says_whether_all_was_there_and_what_was_taken() {
        for (recovered, taken, text, json) in [
            (Some(true), None, ", recovered", ",\"recovered\":true"),
            (Some(false), None, ", not recovered", ",\"recovered\":false"),
            (None, Some(0), ", taken 0", ",\"taken\":0"),
            (
                Some(true),
                Some(u64::MAX),
                ", recovered, taken 18446744073709551615",
                ",\"recovered\":true,\"taken\":18446744073709551615,\"echo\":true",
            ),
        ] {
            assert_eq!(
                said(Format::Text, 42, true, recovered, taken),
                format!("Hello client 7: channel nmea, at 0000002a:4711{text}\r\n")
            );
            let said = said(Format::Json, 42, false, recovered, taken);
            assert!(
                said.ends_with(&format!(",\"seq\":4711{json}}}\n")),
                "{said}"
            );
        }
    }
}
