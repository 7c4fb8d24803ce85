use proptest::prelude::*;

use super::*;
use crate::wire::telnet::HEADROOM;

/// A frame of a client, with this mask.
fn masked(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut frame = Vec::new();
    append_frame(Opcode::Text, payload, &mut frame);
    let header = frame.len() - payload.len();
    frame[0] = first;
    frame[1] |= 0x80;
    let masked = payload
        .iter()
        .zip(mask.iter().cycle())
        .map(|(byte, of)| byte ^ of);
    [&frame[..header], &mask, &masked.collect::<Vec<u8>>()].concat()
}

fn of_client(first: u8, payload: &[u8]) -> Vec<u8> {
    masked(first, payload, [0x11, 0x80, 0xff, 0x00])
}

/// What becomes of these reads: the lines, the answers, and the end.
fn decoded(reads: &[&[u8]]) -> (Vec<u8>, Vec<u8>, Option<DecoderEnd>) {
    let mut decoder = FrameDecoder::default();
    let (mut lines, mut answers, mut ended) = (Vec::new(), Vec::new(), None);
    for read in reads {
        // As over a handover between any two reads.
        let saved = rmp_serde::to_vec_named(&decoder).unwrap();
        decoder = rmp_serde::from_slice(&saved).unwrap();
        let mut buf = [&[0; HEADROOM], *read].concat();
        let (data, end) = decoder.decode(&mut buf, &mut answers);
        lines.extend_from_slice(data);
        ended = end;
        if ended.is_some() {
            break;
        }
    }
    (lines, answers, ended)
}

fn lines_of(frames: &[Vec<u8>]) -> String {
    let (lines, _, ended) = decoded(&[&frames.concat()]);
    assert_eq!(ended, None);
    String::from_utf8(lines).unwrap()
}

fn end_of(frames: &[Vec<u8>]) -> Option<DecoderEnd> {
    decoded(&[&frames.concat()]).2
}

#[test]
fn message_is_a_line_and_one_of_several_lines_is_these() {
    assert_eq!(lines_of(&[of_client(0x81, b"hello")]), "hello\n");
    assert_eq!(lines_of(&[of_client(0x82, b"\0")]), "\0\n");
    assert_eq!(lines_of(&[of_client(0x81, b"")]), "\n");
    assert_eq!(
        lines_of(&[of_client(0x81, b"a\nb\n"), of_client(0x81, b"c")]),
        "a\nb\nc\n"
    );
    for len in [125, 126, 65_535, 65_536, 200_000] {
        let text = "x".repeat(len);
        assert_eq!(lines_of(&[of_client(0x81, text.as_bytes())]), text + "\n");
    }
}

#[test]
fn control_frames_come_between_the_fragments_of_a_message() {
    let frames = [
        of_client(0x01, b"he"),
        of_client(0x89, b"are you there"),
        of_client(0x00, b"l"),
        of_client(0x8a, b""),
        of_client(0x80, b"lo"),
        of_client(0x81, b"next"),
    ];
    let (lines, answers, ended) = decoded(&[&frames.concat()]);
    assert_eq!((lines.as_slice(), ended), (&b"hello\nnext\n"[..], None));
    assert_eq!(answers, b"\x8a\x0dare you there");
}

#[test]
fn wrong_frames_end_it_and_what_came_before_is_taken() {
    let long = vec![b'x'; 126];
    let good = of_client(0x81, b"good");
    for (what, frame) in [
        ("no mask", b"\x81\x02hi".to_vec()),
        ("reserved bits", of_client(0xc1, b"x")),
        ("reserved opcode", of_client(0x83, b"x")),
        ("reserved control opcode", of_client(0x8b, b"x")),
        ("long ping", of_client(0x89, &long)),
        ("fragmented ping", of_client(0x09, b"x")),
        ("continuation of nothing", of_client(0x80, b"x")),
        (
            "length that could be shorter",
            b"\x81\xfe\x00\x05\0\0\0\0hello".to_vec(),
        ),
        (
            "2^63 bytes",
            [b"\x81\xff\x80\0\0\0\0\0\0\0".as_slice(), &[0; 4]].concat(),
        ),
        ("half a status", of_client(0x88, b"\x03")),
        ("status 999", of_client(0x88, &999u16.to_be_bytes())),
        ("status 1005", of_client(0x88, &1005u16.to_be_bytes())),
    ] {
        let (lines, _, ended) = decoded(&[&[good.clone(), frame].concat()]);
        assert_eq!(lines, b"good\n", "{what}");
        assert!(
            matches!(ended, Some(DecoderEnd::Wrong(_))),
            "{what}: {ended:?}"
        );
    }
    let within = [of_client(0x01, b"a"), of_client(0x81, b"b")];
    assert!(matches!(end_of(&within), Some(DecoderEnd::Wrong(_))));
}

#[test]
fn text_is_utf8_and_bytes_are_whatever_they_are() {
    let euro = "€".as_bytes();
    let apart = [
        of_client(0x01, &euro[..1]),
        of_client(0x00, b""),
        of_client(0x80, &euro[1..]),
    ];
    assert_eq!(lines_of(&apart), "€\n");
    for wrong in [&b"\xff"[..], b"a\xc0\x80", b"\xed\xa0\x80", &euro[..2]] {
        assert_eq!(end_of(&[of_client(0x81, wrong)]), Some(DecoderEnd::NotUtf8));
    }
    assert_eq!(
        end_of(&[of_client(0x01, b"\xf4\x90")]),
        Some(DecoderEnd::NotUtf8),
        "at once"
    );
    assert_eq!(decoded(&[&of_client(0x82, b"\xff")]).0, b"\xff\n");
    let reason = [&1000u16.to_be_bytes()[..], b"\xff"].concat();
    assert_eq!(
        end_of(&[of_client(0x88, &reason)]),
        Some(DecoderEnd::NotUtf8)
    );
}

#[test]
fn close_frame_ends_it_and_its_status_is_known() {
    for (payload, status) in [
        (Vec::new(), None),
        (1000u16.to_be_bytes().to_vec(), Some(1000)),
        (
            [&4711u16.to_be_bytes()[..], "bye €".as_bytes()].concat(),
            Some(4711),
        ),
    ] {
        let frames = [
            of_client(0x81, b"last"),
            of_client(0x88, &payload),
            of_client(0x81, b"lost"),
        ];
        let mut decoder = FrameDecoder::default();
        let mut buf = [vec![0; HEADROOM], frames.concat()].concat();
        let (lines, ended) = decoder.decode(&mut buf, &mut Vec::new());
        assert_eq!((&*lines, ended), (&b"last\n"[..], Some(DecoderEnd::Closed)));
        assert_eq!((decoder.is_closed(), decoder.status()), (true, status));
    }
}

#[test]
fn frames_are_found_in_what_was_made_of_lines() {
    let lines = format!("a\n\n{}\n{}\n", "b".repeat(126), "c".repeat(70_000));
    let mut frames = Vec::new();
    frame_lines(Opcode::Text, lines.as_bytes(), &mut frames);
    let ends = [3, 5, 5 + 4 + 126, 5 + 4 + 126 + 10 + 70_000];
    assert_eq!(frames.len(), ends[3]);
    assert!(is_whole_frames(&frames) && is_whole_frames(b""));
    for cut in [1, 2, 4, 6, 100, frames.len() - 1] {
        assert!(!is_whole_frames(&frames[..cut]), "{cut}");
    }
    assert_eq!(end_of_begun_frame(&frames, 0), None);
    for at in 1..200 {
        let end = *ends.iter().find(|end| **end >= at).unwrap();
        assert_eq!(
            end_of_begun_frame(&frames, at),
            (end > at).then_some(end),
            "{at}"
        );
        let after = ends.iter().filter(|end| **end > at).count();
        assert_eq!(frames_after(&frames, at), after, "{at}");
    }
}

#[test]
fn reason_that_is_too_long_is_cut_between_characters() {
    let mut frame = Vec::new();
    close_frame(1008, &"ä".repeat(100), &mut frame);
    assert_eq!(&frame[..4], b"\x88\x7c\x03\xf0");
    assert_eq!(std::str::from_utf8(&frame[4..]).unwrap(), "ä".repeat(61));
}

proptest! {
    #[test]
    fn frames_cut_anywhere_are_read_the_same(
        messages in prop::collection::vec(
            (prop::collection::vec(".{0,40}", 1..4), any::<[u8; 4]>(), any::<bool>()), 1..8,
        ),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let (mut frames, mut expected) = (Vec::new(), String::new());
        for (parts, mask, pings) in &messages {
            for (at, part) in parts.iter().enumerate() {
                let opcode = if at == 0 { 0x1 } else { 0x0 };
                let fin = if at + 1 == parts.len() { 0x80 } else { 0 };
                frames.extend(masked(opcode | fin, part.as_bytes(), *mask));
                if *pings {
                    frames.extend(masked(0x89, b"p", *mask));
                }
            }
            expected += &(parts.concat() + "\n");
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(frames.len() + 1)).collect();
        cuts.extend([0, frames.len()]);
        cuts.sort_unstable();
        let reads: Vec<&[u8]> = cuts.windows(2).map(|pair| &frames[pair[0]..pair[1]]).collect();
        let (lines, answers, ended) = decoded(&reads);
        prop_assert_eq!(String::from_utf8(lines).unwrap(), expected);
        prop_assert_eq!(ended, None);
        let pings: usize = messages.iter().filter(|it| it.2).map(|it| it.0.len()).sum();
        prop_assert_eq!(answers, b"\x8a\x01p".repeat(pings));
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        decoded(&[&bytes]);
        frames_after(&bytes, 0);
        end_of_begun_frame(&bytes, bytes.len() / 2);
    }
}
