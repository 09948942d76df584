//! Frames: a length as 4 bytes, big-endian, and that many bytes; echoed whole, never before they
//! are complete.
#![cfg(feature = "cli")]

mod common;

use std::net::TcpStream;
use std::thread;

use common::*;
use proptest::collection::vec;
use proptest::prelude::{Strategy, any};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

in_every_setup! {
    two_frames_come_back_at_every_split,
    single_bytes_make_frames,
    an_empty_frame_comes_back,
    many_frames_in_one_segment_come_back,
    the_longest_frame_comes_back,
    a_frame_over_the_limit_closes_its_connection_only,
    a_frame_over_the_limit_does_not_cut_off_the_answers_before_it,
    a_frame_over_the_limit_is_refused_by_its_length_alone,
    lengths_of_gigabytes_are_refused,
    an_announced_length_takes_no_memory,
    an_incomplete_frame_is_not_answered,
    unfinished_frames_of_two_clients_do_not_mix,
    a_long_frame_reaches_a_reader_with_a_small_buffer,
    ten_megabytes_of_frames_come_back,
    random_frames_in_random_pieces_come_back,
}

const MIB: usize = 1024 * 1024;

fn serve_frames(setup: Setup) -> Server {
    let server = setup.serve(&["--frames", ANY]);
    server.wait_until_at_rest();
    server
}

/// The part of `frames`, one after the other, that is complete in the first `length` bytes.
fn complete(frames: &[Vec<u8>], length: usize) -> Vec<u8> {
    let mut complete = Vec::new();
    for frame in frames {
        if complete.len() + frame.len() > length {
            break;
        }
        complete.extend_from_slice(frame);
    }
    complete
}

fn two_frames_come_back_at_every_split(setup: Setup) {
    let server = serve_frames(setup);
    let client = connect(server.addr("frames"));
    let frames = [frame(&pattern(9, 1)), frame(&pattern(14, 2))];
    let input = frames.concat();
    for split in 0..=input.len() {
        send(&client, &input[..split]);
        let answered = complete(&frames, split);
        expect(&client, &answered);
        server.wait_until_at_rest();
        expect_silence(&client);
        send(&client, &input[split..]);
        expect(&client, &input[answered.len()..]);
    }
    half_close(&client);
    expect_to_end(&client, b"");
}

fn single_bytes_make_frames(setup: Setup) {
    let server = serve_frames(setup);
    let client = connect(server.addr("frames"));
    let input = [frame(&pattern(300, 3)), frame(b""), frame(&pattern(700, 4))].concat();
    for byte in &input {
        send(&client, std::slice::from_ref(byte));
    }
    half_close(&client);
    expect_to_end(&client, &input);
}

fn an_empty_frame_comes_back(setup: Setup) {
    let server = serve_frames(setup);
    let client = connect(server.addr("frames"));
    for input in [frame(b""), [frame(b""), frame(b"x"), frame(b""), frame(b"")].concat()] {
        send(&client, &input);
        expect(&client, &input);
    }
    half_close(&client);
    expect_to_end(&client, b"");
}

fn many_frames_in_one_segment_come_back(setup: Setup) {
    let server = serve_frames(setup);
    let client = connect(server.addr("frames"));
    let input: Vec<u8> = (0..3000).flat_map(|seed| frame(&pattern(seed % 17, seed as u64))).collect();
    send(&client, &input);
    half_close(&client);
    expect_to_end(&client, &input);
}

fn the_longest_frame_comes_back(setup: Setup) {
    let server = setup.serve(&["--frames", ANY, "--max-frame", "1000"]);
    let client = connect(server.addr("frames"));
    for length in [999, 1000] {
        exchange(&client, &frame(&pattern(length, 5)));
    }
    let server = serve_frames(setup);
    let client = connect(server.addr("frames"));
    for length in [MIB - 4, MIB - 1, MIB, MIB] {
        exchange(&client, &frame(&pattern(length, 6)));
    }
}

fn a_frame_over_the_limit_closes_its_connection_only(setup: Setup) {
    let mut server = setup.serve(&["--frames", ANY, "--max-frame", "1000"]);
    let bystander = connect(server.addr("frames"));
    let half = frame(&pattern(500, 7));
    send(&bystander, &half[..200]);
    server.wait_until_at_rest();
    let fds = server.fd_count();

    let client = connect(server.addr("frames"));
    let good = [frame(b"good"), frame(b""), frame(&pattern(1000, 8))].concat();
    let too_long = frame(&pattern(1001, 9));
    send(&client, &[&good[..], &too_long].concat());
    expect_to_end(&client, &good);
    server.wait_for_fd_count(fds);
    wait_until("standard error gives the limit as the reason", || {
        server.stderr().split(|c: char| !c.is_ascii_digit()).any(|number| number == "1000")
    });

    send(&bystander, &half[200..]);
    expect(&bystander, &half);
    server.assert_running();
}

fn a_frame_over_the_limit_does_not_cut_off_the_answers_before_it(setup: Setup) {
    let server = serve_frames(setup);
    let good: Vec<u8> = (0..20_000).flat_map(|seed| frame(&pattern(1020, seed))).collect();
    let probe = connect_with_small_receive_buffer(server.addr("frames"));
    let read = send_until_refused(&server, &probe, &good);
    drop(probe);
    // One of these ends in the middle of the server's output, where it takes more and the kernel does not.
    for less in [10_000, 40_000, 70_000, 100_000, 130_000, 160_000, 190_000] {
        let client = connect_with_small_receive_buffer(server.addr("frames"));
        let good = &good[..(read - less).next_multiple_of(1024)];
        send_small_pieces(&server, &client, good);
        send(&client, &(MIB as u32 + 1).to_be_bytes());
        server.wait_until_at_rest();
        expect_to_end(&client, good);
    }
}

/// Sends what the server must refuse after a good frame: the good one is answered, then the
/// connection ends.
#[track_caller]
fn assert_refused_after_a_good_frame(server: &Server, length: u32) {
    let client = connect(server.addr("frames"));
    let good = frame(b"good");
    send(&client, &[&good[..], &length.to_be_bytes()].concat());
    expect_to_end(&client, &good);
}

fn a_frame_over_the_limit_is_refused_by_its_length_alone(setup: Setup) {
    let server = setup.serve(&["--frames", ANY, "--max-frame", "1000"]);
    assert_refused_after_a_good_frame(&server, 1001);
    let server = serve_frames(setup);
    assert_refused_after_a_good_frame(&server, MIB as u32 + 1);
    // Also where the length comes byte by byte.
    let client = connect(server.addr("frames"));
    for byte in (MIB as u32 + 1).to_be_bytes() {
        server.wait_until_at_rest();
        expect_silence(&client);
        send(&client, &[byte]);
    }
    expect_to_end(&client, b"");
}

fn lengths_of_gigabytes_are_refused(setup: Setup) {
    let mut server = serve_frames(setup);
    let fds = server.fd_count();
    let before = server.rss();
    for length in [u32::MAX, u32::MAX - 3, 0x8000_0000, 0x7FFF_FFFF, 0x7FFF_FFFC] {
        assert_refused_after_a_good_frame(&server, length);
    }
    let grown = server.rss().saturating_sub(before);
    assert!(grown < 5_000_000, "the server has grown by {grown} bytes");
    server.wait_for_fd_count(fds);
    server.assert_running();
}

fn an_announced_length_takes_no_memory(setup: Setup) {
    let server = serve_frames(setup);
    let announce = || {
        let client = connect(server.addr("frames"));
        send(&client, &(MIB as u32).to_be_bytes());
        client
    };
    let answered = connect(server.addr("frames"));
    exchange(&answered, &frame(b"the memory for the first connection is taken"));
    server.wait_until_at_rest();
    let before = server.rss();
    let clients: Vec<TcpStream> = (0..100).map(|_| announce()).collect();
    server.wait_until_at_rest();
    let grown = server.rss().saturating_sub(before);
    assert!(grown < 5_000_000, "100 announced frames cost the server {grown} bytes");
    clients.iter().for_each(expect_silence);
    exchange(&answered, &frame(b"still there"));
}

fn an_incomplete_frame_is_not_answered(setup: Setup) {
    let server = serve_frames(setup);
    let fds = server.fd_count();
    let good = frame(b"good");
    let cut = frame(&pattern(20, 10));
    for length in 0..cut.len() {
        let client = connect(server.addr("frames"));
        send(&client, &[&good[..], &cut[..length]].concat());
        half_close(&client);
        expect_to_end(&client, &good);
    }
    server.wait_for_fd_count(fds);
}

fn unfinished_frames_of_two_clients_do_not_mix(setup: Setup) {
    let server = serve_frames(setup);
    // Several, so that with two workers some share one.
    let clients: Vec<(TcpStream, Vec<u8>)> =
        (0..8).map(|seed| (connect(server.addr("frames")), frame(&pattern(5000 + seed as usize, seed)))).collect();
    for piece in [0..2, 2..7, 7..3000] {
        for (client, frame) in &clients {
            send(client, &frame[piece.clone()]);
        }
        server.wait_until_at_rest();
    }
    for (client, frame) in &clients {
        send(client, &frame[3000..]);
    }
    for (client, frame) in clients.iter().rev() {
        expect(client, frame);
    }
}

fn a_long_frame_reaches_a_reader_with_a_small_buffer(setup: Setup) {
    let server = serve_frames(setup);
    let input = frame(&pattern(200_000, 11));
    assert_eq!(input.len(), 200_004);
    let client = connect_with_small_receive_buffer(server.addr("frames"));
    send(&client, &input);
    server.wait_until_at_rest();
    expect(&client, &input);
    send(&client, &input);
    half_close(&client);
    server.wait_until_at_rest();
    expect_to_end(&client, &input);
}

fn ten_megabytes_of_frames_come_back(setup: Setup) {
    let server = serve_frames(setup);
    let client = connect(server.addr("frames"));
    let lengths = [0, 1, 4, 1000, 65_532, 65_536, 262_144, MIB, 3];
    let input: Vec<u8> = lengths
        .into_iter()
        .cycle()
        .take(63)
        .zip(0..)
        .flat_map(|(length, seed)| frame(&pattern(length, seed)))
        .collect();
    assert!(input.len() > 9_000_000);
    exchange(&client, &input);
    half_close(&client);
    expect_to_end(&client, b"");
}

/// Payload lengths, and the lengths of the pieces in which the frames are sent.
fn frames_and_pieces() -> impl Strategy<Value = (Vec<usize>, Vec<usize>)> {
    let payload = proptest::prop_oneof![4 => 0usize..40, 2 => 40usize..5000, 1 => 60_000usize..140_000];
    let piece = proptest::prop_oneof![4 => 1usize..8, 2 => 8usize..3000, 1 => 3000usize..100_000];
    (vec(payload, 1..12), vec(piece, 1..40))
}

fn random_frames_in_random_pieces_come_back(setup: Setup) {
    let server = serve_frames(setup);
    // The same cases in every run: what fails once fails again.
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let cases = (frames_and_pieces(), any::<u32>());
    let outcome = runner.run(&cases, |((payloads, pieces), seed)| {
        let seeded = payloads.iter().zip(u64::from(seed)..);
        let frames = seeded.map(|(length, seed)| frame(&pattern(*length, seed)));
        let input = frames.collect::<Vec<_>>().concat();
        let client = connect(server.addr("frames"));
        thread::scope(|scope| {
            scope.spawn(|| send_in_pieces(&client, &input, &pieces));
            expect_to_end(&client, &input);
        });
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

/// Sends `input` in `pieces`, the rest in one, and half-closes. Nagle's delay is off, so each piece
/// starts as a segment of its own.
fn send_in_pieces(client: &TcpStream, input: &[u8], pieces: &[usize]) {
    let mut rest = input;
    for piece in pieces {
        let (now, later) = rest.split_at((*piece).min(rest.len()));
        send(client, now);
        rest = later;
        thread::yield_now();
    }
    send(client, rest);
    half_close(client);
}
