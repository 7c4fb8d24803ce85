//! What comes in as events, printed as the chosen format shows it; and the place that it has come to.

use std::collections::VecDeque;
use std::fmt;
use std::mem;

use super::events::{Answer, Event, EventLines, Place};
use crate::wire::format::{self, Format, Notice};
use crate::wire::ids::{ClientId, Seq};

/// Numbers that are remembered of those that this process has had: few connections in a row end before they bring
/// anything, and the lines of older ones are shown.
const OWN_IDS_MAX: usize = 64;

/// The place in the channel over all connections, and what is under way on this one.
#[derive(Debug)]
pub(super) struct Resume {
    shown: Format,
    /// Words for the hello of a connection without a place to go on from.
    first: String,
    /// Channel that the place is of; `None` while that is not known.
    channel: Option<String>,
    /// Place behind all that was taken; `None` before the first answer.
    place: Option<Place>,
    /// Whether the hello of this connection was answered.
    answered: bool,
    lines: EventLines,
    /// Number that this connection has.
    client: ClientId,
    /// Whether own lines are shown as they come, and so those that came back, too.
    echo: bool,
    /// Numbers under which this process has sent something in the epoch of the place, the last one at the end. One
    /// under which nothing was sent may be given again by a daemon that was killed.
    own: VecDeque<ClientId>,
    /// Lines of one client that are not formatted yet.
    run: Vec<u8>,
    run_client: ClientId,
}

/// What a read brought beside messages and notices.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// The hello was answered: before all else, the place is this.
    Answered(Place),
    /// The place that was asked for is not in the history any more.
    Gone,
    /// So many messages are missed.
    Skipped(u64),
}

/// Why what comes in cannot be resumed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// The first that came is no answer to a hello.
    NoAnswer,
    /// The answer is from another channel than the place: its name.
    Channel(String),
    /// A line in which there is no event.
    NoEvent,
}

impl Resume {
    /// Begins at this place of this channel, or where these words for the hello say.
    pub(super) fn new(shown: Format, first: String, known: Option<(String, Place)>) -> Resume {
        let (channel, place) = known.unzip();
        Resume {
            shown,
            first,
            channel,
            place,
            answered: false,
            lines: EventLines::default(),
            client: ClientId(0),
            echo: false,
            own: VecDeque::new(),
            run: Vec::new(),
            run_client: ClientId(0),
        }
    }

    /// A new connection: returns what is put behind the line of its hello.
    pub(super) fn connect(&mut self) -> String {
        self.answered = false;
        self.lines = EventLines::default();
        match self.place {
            Some(place) => format!(" since={place}"),
            None => self.first.clone(),
        }
    }

    /// Something of the input was sent: its lines are not shown when they come back to another connection.
    pub(super) fn note_sent(&mut self) {
        if self.answered && self.own.back() != Some(&self.client) {
            if self.own.len() == OWN_IDS_MAX {
                self.own.pop_front();
            }
            self.own.push_back(self.client);
        }
    }

    /// Whether the hello of this connection was answered.
    pub(super) fn is_answered(&self) -> bool {
        self.answered
    }

    /// Whether a hello was ever answered.
    pub(super) fn is_known(&self) -> bool {
        self.place.is_some()
    }

    /// Channel of the place; empty before the first answer.
    pub(super) fn channel(&self) -> &str {
        self.channel.as_deref().unwrap_or_default()
    }

    /// Place behind the last that was taken.
    pub(super) fn place(&self) -> Option<Place> {
        self.place
    }

    /// Takes what one read brought, appends what is to be printed of it, and returns what else there was.
    ///
    /// # Errors
    /// Nothing more can be taken then. What came before is appended.
    pub(super) fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Vec<Told>, Unfit> {
        let mut told = Vec::new();
        let mut lines = mem::take(&mut self.lines);
        let taken = lines.take(bytes, |line| self.take_event(line, &mut told, out));
        self.lines = lines;
        self.format_run(out);
        taken.map(|()| told)
    }

    fn take_event(
        &mut self,
        line: &[u8],
        told: &mut Vec<Told>,
        out: &mut Vec<u8>,
    ) -> Result<(), Unfit> {
        let event = Event::read(line);
        if !self.answered {
            return match event {
                Some(Event::Hello(answer)) => self.take_answer(answer, told),
                Some(Event::End) => Ok(()),
                _ => Err(Unfit::NoAnswer),
            };
        }
        let seq = match event.ok_or(Unfit::NoEvent)? {
            Event::Message {
                seq,
                client,
                payload,
            } => {
                match self.shown {
                    _ if !self.echo && self.own.contains(&client) => {}
                    Format::Json => print_line(line, out),
                    Format::Raw => print_line(&payload, out),
                    Format::Text => self.add_to_run(client, &payload, out),
                }
                seq
            }
            Event::Notice {
                seq,
                client,
                connect,
            } => {
                self.format_run(out);
                match self.shown {
                    Format::Json => print_line(line, out),
                    Format::Raw => {}
                    Format::Text => {
                        let notice = if connect {
                            Notice::Connect
                        } else {
                            Notice::Disconnect
                        };
                        format::text_notice(notice, client, out);
                    }
                }
                seq
            }
            Event::Skip { count } => {
                told.push(Told::Skipped(count));
                return Ok(());
            }
            Event::Hello(_) | Event::Ack { .. } | Event::End | Event::Other => return Ok(()),
        };
        self.reach(seq);
        Ok(())
    }

    fn take_answer(&mut self, answer: Answer, told: &mut Vec<Told>) -> Result<(), Unfit> {
        match &self.channel {
            Some(channel) if *channel != answer.channel => {
                return Err(Unfit::Channel(answer.channel));
            }
            _ => self.channel = Some(answer.channel),
        }
        // A daemon that does not say it was not asked, or goes on at that very place.
        let is_gone = match answer.recovered {
            Some(recovered) => !recovered,
            None => self.place.is_some_and(|place| place != answer.place),
        };
        if self.place.map(|place| place.epoch) != Some(answer.place.epoch) {
            // Its numbers are others.
            self.own.clear();
        }
        (self.client, self.echo) = (answer.client, answer.echo);
        told.push(Told::Answered(answer.place));
        told.extend(is_gone.then_some(Told::Gone));
        self.place = Some(answer.place);
        self.answered = true;
        Ok(())
    }

    fn reach(&mut self, seq: Seq) {
        if let Some(place) = &mut self.place {
            place.seq = seq;
        }
    }

    /// Adds a line to those of the same client, which are formatted at once.
    fn add_to_run(&mut self, client: ClientId, payload: &[u8], out: &mut Vec<u8>) {
        if client != self.run_client {
            self.format_run(out);
            self.run_client = client;
        }
        self.run.extend_from_slice(payload);
        // A CR before the LF is no part of the payload: the one that may end this payload is.
        let line_end: &[u8] = if payload.ends_with(b"\r") {
            b"\r\n"
        } else {
            b"\n"
        };
        self.run.extend_from_slice(line_end);
    }

    fn format_run(&mut self, out: &mut Vec<u8>) {
        format::text_lines(self.run_client, &self.run, out);
        self.run.clear();
    }
}

fn print_line(line: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(line);
    out.push(b'\n');
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::NoAnswer => f.write_str(
                "the server has not answered the hello: --resume needs a listener with `hello`, and \
                 others may have got it as a line",
            ),
            Unfit::Channel(name) => write!(
                f,
                "--state: the server's channel is {name}, and FILE has a place in another one"
            ),
            Unfit::NoEvent => f.write_str("the server sent a line that is no event of the format json"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::hello;
    use crate::wire::ids::Epoch;

    const RUN: &[u8] = b"a\n\n\x1b[31m\r\n\xff\xfe\nb\r\r\ntab\t\n";

    fn place(seq: u64) -> Place {
        Place {
            epoch: Epoch(1),
            seq: Seq(seq),
        }
    }

    fn answer(seq: u64, recovered: Option<bool>) -> Vec<u8> {
        let mut line = Vec::new();
        let answer = hello::Answer {
            client: ClientId(7),
            channel: "nmea".parse().unwrap(),
            epoch: Epoch(1),
            seq: Seq(seq),
            recovered,
            taken: None,
            echo: false,
            role: None,
        };
        answer.append(Format::Json, false, &mut line);
        line
    }

    /// Answer, lines of two clients between notices, and what is missed.
    fn stream() -> Vec<u8> {
        let mut bytes = answer(4, None);
        format::json_notice(Notice::Connect, ClientId(1), Seq(5), &mut bytes);
        let next = format::json_lines(ClientId(1), Seq(6), RUN, &mut bytes);
        let next = format::json_lines(ClientId(2), next, RUN, &mut bytes);
        format::skip(Format::Json, 3, &mut bytes);
        format::json_notice(Notice::Disconnect, ClientId(1), Seq(next.0 + 3), &mut bytes);
        bytes
    }

    #[test]
    fn all_is_shown_as_the_daemon_shows_it_wherever_reads_are_cut() {
        let stream = stream();
        let mut text = Vec::new();
        format::text_notice(Notice::Connect, ClientId(1), &mut text);
        format::text_lines(ClientId(1), RUN, &mut text);
        format::text_lines(ClientId(2), RUN, &mut text);
        format::text_notice(Notice::Disconnect, ClientId(1), &mut text);
        let raw = b"a\n\n\x1b[31m\n\xff\xfe\nb\r\ntab\t\n".repeat(2);
        let all = String::from_utf8(stream.clone()).unwrap();
        let all = all.lines().map(|line| format!("{line}\n"));
        let json = all.filter(|line| !line.contains("\"hello\"") && !line.contains("\"skip\""));
        let json = json.collect::<String>().into_bytes();
        for (shown, wanted) in [
            (Format::Text, text),
            (Format::Raw, raw),
            (Format::Json, json),
        ] {
            for at in 0..=stream.len() {
                let mut resume = Resume::new(shown, String::new(), None);
                let mut out = Vec::new();
                let mut told = resume.take(&stream[..at], &mut out).unwrap();
                told.extend(resume.take(&stream[at..], &mut out).unwrap());
                assert_eq!(out, wanted, "{shown} cut at {at}");
                assert_eq!(told, [Told::Answered(place(4)), Told::Skipped(3)]);
                assert_eq!(resume.place(), Some(place(21)));
            }
        }
    }

    #[test]
    fn next_connection_goes_on_behind_the_last_whole_line() {
        let mut resume = Resume::new(Format::Raw, " history=5".to_owned(), None);
        assert_eq!(resume.connect(), " history=5");
        let mut out = Vec::new();
        let mut bytes = answer(4, None);
        format::json_lines(ClientId(1), Seq(5), b"a\nb\n", &mut bytes);
        resume.take(&bytes[..bytes.len() - 1], &mut out).unwrap();
        assert_eq!(out, b"a\n");
        assert_eq!(resume.connect(), " since=00000001:5");
        let mut bytes = answer(5, Some(true));
        format::json_lines(ClientId(1), Seq(6), b"b\n", &mut bytes);
        let told = resume.take(&bytes, &mut out);
        assert_eq!(told, Ok(vec![Told::Answered(place(5))]));
        assert_eq!(out, b"a\nb\n");
        resume.connect();
        let told = resume.take(&answer(90, Some(false)), &mut out);
        assert_eq!(told, Ok(vec![Told::Answered(place(90)), Told::Gone]));
        assert_eq!(resume.connect(), " since=00000001:90");
    }

    #[test]
    fn lines_that_this_process_sent_are_left_out_where_they_come_back_in_the_same_epoch() {
        let mut resume = Resume::new(Format::Raw, String::new(), None);
        let mut shown = |sends: bool, answer: &[u8], client| {
            let mut out = Vec::new();
            resume.connect();
            resume.take(answer, &mut out).unwrap();
            let mut lines = Vec::new();
            format::json_lines(ClientId(client), Seq(9), b"line\n", &mut lines);
            resume.take(&lines, &mut out).unwrap();
            if sends {
                resume.note_sent();
            }
            !out.is_empty()
        };
        // It is number 7 each time; without anything sent, another one may have it.
        assert!(shown(false, &answer(4, None), 7));
        assert!(shown(true, &answer(4, Some(true)), 7));
        assert!(!shown(false, &answer(4, Some(true)), 7));
        assert!(shown(true, &answer(4, Some(true)), 8));
        let text = String::from_utf8(answer(4, Some(true))).unwrap();
        let echoes = text.replace('}', ",\"echo\":true}");
        assert!(shown(true, echoes.as_bytes(), 7));
        let of_another_epoch = text.replace("00000001", "00000002");
        assert!(shown(false, of_another_epoch.as_bytes(), 7));
    }

    #[test]
    fn what_is_no_answer_is_not_taken_for_one() {
        for line in [
            "New client connected: 1\n",
            "payload\n",
            "{\"event\":\"skip\",\"count\":1}\n",
        ] {
            let mut resume = Resume::new(Format::Text, String::new(), None);
            let taken = resume.take(line.as_bytes(), &mut Vec::new());
            assert_eq!(taken, Err(Unfit::NoAnswer), "{line}");
        }
        for line in [
            "Error: server full (2 clients)\n",
            "{\"event\":\"shutdown\"}\n",
        ] {
            let mut resume = Resume::new(Format::Text, String::new(), None);
            assert_eq!(resume.take(line.as_bytes(), &mut Vec::new()), Ok(vec![]));
            assert!(!resume.is_answered());
        }
        let known = Some(("other".to_owned(), place(1)));
        let mut resume = Resume::new(Format::Text, String::new(), known);
        let taken = resume.take(&answer(1, None), &mut Vec::new());
        assert_eq!(taken, Err(Unfit::Channel("nmea".to_owned())));
    }
}
