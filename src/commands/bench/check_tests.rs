//! Streams with something wrong in them, and what is counted.

use proptest::prelude::*;

use super::super::line::LineKind;
use super::*;
use crate::wire::format::{self, Format, Notice};
use crate::wire::ids::{ClientId, Seq};

const SENDERS: usize = 3;

fn kind() -> LineKind {
    LineKind::new(*b"runA", 30)
}

fn check(format: Format, readers: usize) -> Check {
    Check::new(LineDecoder::new(format, kind()), SENDERS, readers)
}

/// Line `number` of `sender` as readers see it, with its LF.
fn line(format: Format, sender: u32, number: u64) -> Vec<u8> {
    let (mut sent, mut out) = (Vec::new(), Vec::new());
    kind().write(sender, number, 0, &mut sent);
    let (client, seq) = (ClientId(5 + u64::from(sender)), Seq(number));
    match format {
        Format::Raw => return sent,
        Format::Text => format::text_lines(client, &sent, &mut out),
        Format::Json => drop(format::json_lines(client, seq, &sent, &mut out)),
    }
    out
}

/// The whole stream: senders take turns.
fn stream(format: Format, each: u64) -> Vec<Vec<u8>> {
    let turns = (1..=each).flat_map(|number| (0..SENDERS as u32).map(move |s| (s, number)));
    turns
        .map(|(sender, number)| line(format, sender, number))
        .collect()
}

/// What is counted when the readers get these streams in pieces of so many bytes, in turn.
fn faults(format: Format, each: u64, streams: &[Vec<u8>], piece: usize) -> (Faults, u64, u64) {
    let mut check = check(format, streams.len());
    let mut timed = 0;
    let longest = streams.iter().map(Vec::len).max().unwrap_or(0);
    for from in (0..longest).step_by(piece) {
        for (who, stream) in streams.iter().enumerate() {
            let rest = stream.get(from..).unwrap_or_default();
            check.receive(who, &rest[..rest.len().min(piece)], |_, lines| {
                timed += lines
            });
        }
    }
    let sent = [each; SENDERS];
    let faults = check.faults(&sent);
    (faults, check.delivered(), timed)
}

/// Asserts what is counted when the first, the last and every reader gets the stream `spoilt`,
/// however it is cut into reads.
fn assert_faults(spoil: impl Fn(Format, &mut Vec<Vec<u8>>), expected: Faults) {
    for format in Format::ALL {
        let good = stream(format, 40);
        let mut spoilt = good.clone();
        spoil(format, &mut spoilt);
        let (good, spoilt) = (good.concat(), spoilt.concat());
        for piece in [1, 7, 89, 1000, 1 << 20] {
            let mixed = |who: &[bool]| {
                let pick = |bad: &bool| if *bad { spoilt.clone() } else { good.clone() };
                faults(format, 40, &who.iter().map(pick).collect::<Vec<_>>(), piece).0
            };
            let about = format!("{format}, pieces of {piece}");
            assert_eq!(mixed(&[false, false]), Faults::default(), "{about}: none");
            assert_eq!(mixed(&[true, false, false]), expected, "{about}: the first");
            assert_eq!(mixed(&[false, false, true]), expected, "{about}: the last");
            let mut twice = expected;
            twice += expected;
            assert_eq!(mixed(&[true, true]), twice, "{about}: all");
        }
    }
}

#[test]
fn good_stream_has_no_faults_and_every_line_is_counted_and_timed() {
    for format in Format::ALL {
        let good = stream(format, 100).concat();
        for piece in [1, 13, 4096, 1 << 20] {
            let streams = vec![good.clone(); 4];
            let (faults, delivered, timed) = faults(format, 100, &streams, piece);
            assert_eq!(faults, Faults::default(), "{format}, pieces of {piece}");
            assert_eq!((delivered, timed), (4 * 300, 4 * 300));
        }
    }
}

#[test]
fn lost_line_is_counted() {
    let lost = |lost| Faults {
        lost,
        ..Faults::default()
    };
    assert_faults(|_, lines| drop(lines.remove(50)), lost(1));
    assert_faults(|_, lines| drop(lines.drain(30..60)), lost(30));
    assert_faults(|_, lines| drop(lines.remove(0)), lost(1));
    assert_faults(|_, lines| drop(lines.pop()), lost(1));
}

#[test]
fn doubled_line_is_counted() {
    let doubled = |doubled| Faults {
        doubled,
        ..Faults::default()
    };
    assert_faults(|_, lines| lines.insert(50, lines[49].clone()), doubled(1));
    assert_faults(|_, lines| lines.insert(70, lines[20].clone()), doubled(1));
    assert_faults(|_, lines| lines.extend(lines.clone()), doubled(120));
}

#[test]
fn line_that_is_doubled_after_lost_ones_is_counted_wherever_the_others_are() {
    let expected = Faults {
        lost: 5,
        doubled: 1,
        ..Faults::default()
    };
    let spoil = |_, lines: &mut Vec<Vec<u8>>| {
        lines.insert(6, lines[6].clone());
        lines.remove(5);
        lines.drain(..4);
    };
    assert_faults(spoil, expected);
    let good = stream(Format::Text, 40);
    let mut bad = good.clone();
    spoil(Format::Text, &mut bad);
    for piece in 1..300 {
        let streams = [&good, &bad, &good].map(|lines| lines.concat());
        assert_eq!(
            faults(Format::Text, 40, &streams, piece).0,
            expected,
            "{piece}"
        );
    }
}

#[test]
fn cut_line_is_counted_and_not_lost_besides() {
    let cut = Faults {
        cut: 1,
        ..Faults::default()
    };
    let shorten = |_, lines: &mut Vec<Vec<u8>>| {
        let end = lines[50].len() - 5;
        lines[50].drain(end..end + 2);
    };
    assert_faults(shorten, cut);
    let alter = |_, lines: &mut Vec<Vec<u8>>| {
        let at = lines[50].len() - 4;
        lines[50][at] = b'!';
    };
    assert_faults(alter, cut);
}

#[test]
fn merged_lines_are_both_cut() {
    let merge = |_, lines: &mut Vec<Vec<u8>>| lines[50].retain(|byte| *byte != b'\n');
    assert_faults(
        merge,
        Faults {
            cut: 2,
            ..Faults::default()
        },
    );
}

#[test]
fn line_in_two_pieces_is_cut() {
    for format in [Format::Text, Format::Json] {
        let good = stream(format, 40);
        let mut bad = good.clone();
        let at = bad[50].len() - 5;
        bad[50].insert(at, b'\n');
        let streams = [good.concat(), bad.concat()];
        let (faults, ..) = faults(format, 40, &streams, 100);
        assert_eq!(
            faults,
            Faults {
                cut: 2,
                ..Faults::default()
            },
            "both pieces, {format}"
        );
    }
}

#[test]
fn line_that_comes_late_is_reordered() {
    for format in Format::ALL {
        let mut lines: Vec<_> = (1..=40).map(|number| line(format, 0, number)).collect();
        let good = lines.concat();
        lines[20..25].rotate_left(1);
        let bad = lines.concat();
        for piece in [1, 7, 89, 1 << 20] {
            for streams in [[&good, &bad], [&bad, &good], [&bad, &bad]] {
                let bad_ones = streams.iter().filter(|stream| **stream == &bad).count();
                let mut check = check(format, 2);
                for from in (0..bad.len()).step_by(piece) {
                    for (who, stream) in streams.iter().enumerate() {
                        let end = (from + piece).min(stream.len());
                        check.receive(who, &stream[from..end], |_, _| ());
                    }
                }
                let reordered = bad_ones as u64;
                let expected = Faults {
                    reordered,
                    ..Faults::default()
                };
                assert_eq!(check.faults(&[40, 0, 0]), expected, "{format}, {piece}");
            }
        }
    }
}

#[test]
fn another_order_of_different_senders_is_counted() {
    for format in Format::ALL {
        let good = stream(format, 40);
        let mut bad = good.clone();
        bad.swap(50, 51);
        let (good, bad) = (good.concat(), bad.concat());
        for piece in [1, 89, 1 << 20] {
            for streams in [[&good, &bad], [&bad, &good]] {
                let (faults, ..) = faults(format, 40, &streams.map(Clone::clone), piece);
                assert_eq!(
                    faults,
                    Faults {
                        reordered: 1,
                        ..Faults::default()
                    },
                    "{format}"
                );
            }
            // Whatever it is, it is one order if it is the same for all.
            let (faults, ..) = faults(format, 40, &[bad.clone(), bad.clone()], piece);
            assert_eq!(faults, Faults::default(), "{format}");
        }
    }
}

#[test]
fn told_skip_is_no_loss() {
    for format in [Format::Text, Format::Json] {
        let good = stream(format, 40);
        let mut notice = Vec::new();
        format::skip(format, 30, &mut notice);
        let mut bad = good.clone();
        bad.splice(30..60, [notice]);
        let (good, bad) = (good.concat(), bad.concat());
        for streams in [[&good, &bad], [&bad, &good], [&bad, &bad]] {
            let count = streams.iter().filter(|stream| **stream == &bad).count() as u64;
            let (faults, delivered, _) = faults(format, 40, &streams.map(Clone::clone), 500);
            assert_eq!(
                faults,
                Faults {
                    skipped: 30 * count,
                    ..Faults::default()
                }
            );
            assert_eq!(delivered, 240 - 30 * count);
        }
    }
}

#[test]
fn notices_and_lines_of_others_are_no_faults() {
    for format in Format::ALL {
        let mut lines = stream(format, 40);
        let mut notice = Vec::new();
        match format {
            Format::Raw => {}
            Format::Text => format::text_notice(Notice::Connect, ClientId(70), &mut notice),
            Format::Json => format::json_notice(Notice::Connect, ClientId(70), Seq(3), &mut notice),
        }
        lines.insert(20, notice);
        let mut foreign = Vec::new();
        match format {
            Format::Raw => foreign.extend_from_slice(b"hello\n"),
            Format::Text => format::text_lines(ClientId(9), b"hello\n", &mut foreign),
            Format::Json => drop(format::json_lines(
                ClientId(9),
                Seq(9),
                b"hello\n",
                &mut foreign,
            )),
        }
        lines.insert(30, foreign);
        let streams = vec![lines.concat(); 3];
        let (faults, delivered, timed) = faults(format, 40, &streams, 333);
        assert_eq!(faults, Faults::default(), "{format}");
        assert_eq!(delivered, 3 * 120);
        assert!(timed >= delivered);
    }
}

#[test]
fn closed_reader_misses_nothing_after_its_end_and_says_why() {
    let good = stream(Format::Text, 40);
    let mut check = check(Format::Text, 2);
    check.receive(0, &good.concat(), |_, _| ());
    check.receive(1, &good[..30].concat(), |_, _| ());
    check.receive(
        1,
        b"Error: too slow (behind for 1s with a full buffer)\n",
        |_, _| (),
    );
    let notice = check.close(1).unwrap();
    assert_eq!(notice.reason, "slow");
    assert!(check.is_complete(&[40; SENDERS]));
    assert_eq!(check.faults(&[40; SENDERS]), Faults::default());
}

#[test]
fn reader_that_is_far_behind_is_checked_without_the_others() {
    let good = stream(Format::Raw, 40);
    let mut check = check(Format::Raw, 2);
    check.receive(0, &good.concat(), |_, _| ());
    check.receive(1, &good.concat()[..100], |_, _| ());
    let Check {
        readers, expected, ..
    } = &mut check;
    readers[1].leave_behind(expected);
    let mut rest = good.concat()[100..].to_vec();
    let doubled = rest[rest.len() - 31..].to_vec();
    rest.extend(doubled);
    check.receive(1, &rest, |_, _| ());
    assert!(check.is_complete(&[40; SENDERS]));
    assert_eq!(
        check.faults(&[40; SENDERS]),
        Faults {
            doubled: 1,
            ..Faults::default()
        }
    );
    assert_eq!(check.delivered(), 240);
}

#[test]
fn what_all_have_is_forgotten() {
    let mut check = check(Format::Raw, 2);
    for number in 1..=40_000 {
        let line = line(Format::Raw, 0, number);
        check.receive(0, &line, |_, _| ());
        check.receive(1, &line, |_, _| ());
    }
    let held = check
        .expected
        .after(check.expected.start_of(check.expected.end_line()))
        .len();
    assert_eq!(held, 0);
    assert!(
        check.expected.held_bytes() < 600_000,
        "{}",
        check.expected.held_bytes()
    );
    // And what was forgotten is known.
    check.receive(1, &line(Format::Raw, 0, 39_999), |_, _| ());
    check.receive(0, &line(Format::Raw, 0, 40_001), |_, _| ());
    check.receive(1, &line(Format::Raw, 0, 40_001), |_, _| ());
    assert_eq!(
        check.faults(&[40_001, 0, 0]),
        Faults {
            doubled: 1,
            ..Faults::default()
        }
    );
}

proptest! {
    #[test]
    fn whatever_one_reader_loses_or_gets_twice_is_counted_exactly(
        removed in prop::collection::btree_set(0..120_usize, 0..20),
        doubled in prop::collection::btree_set(0..120_usize, 0..20),
        piece in 1..3000_usize,
        first in any::<bool>(),
    ) {
        let good = stream(Format::Text, 40);
        let mut bad = Vec::new();
        let mut expected = Faults::default();
        for (at, line) in good.iter().enumerate() {
            if removed.contains(&at) {
                expected.lost += 1;
                continue;
            }
            bad.extend_from_slice(line);
            if doubled.contains(&at) {
                bad.extend_from_slice(line);
                expected.doubled += 1;
            }
        }
        let mut streams = vec![good.concat(), bad, good.concat()];
        if first {
            streams.swap(0, 1);
        }
        let (faults, delivered, _) = faults(Format::Text, 40, &streams, piece);
        prop_assert_eq!(faults, expected);
        prop_assert_eq!(delivered, 360 - expected.lost);
    }
}
