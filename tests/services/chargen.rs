//! Character generator (RFC 864): the 72-column wheel, as fast as the client reads and no faster.

use std::io::Read;
use std::net::TcpStream;
use std::thread;

use crate::common::*;

in_every_model! {
    the_wheel_is_that_of_rfc_864,
    what_the_client_sends_is_thrown_away,
    a_client_that_does_not_read_costs_neither_time_nor_memory,
    a_half_close_does_not_end_the_stream,
    a_half_closed_client_that_does_not_read_costs_no_time,
    a_close_ends_the_stream,
    a_reset_ends_the_stream,
}

/// More than the buffers of both sides hold together (`net.ipv4.tcp_wmem` and `tcp_rmem` allow 4
/// and 6 MB by default, up to 32 MB on some systems): what comes last was made after the client
/// began to read.
const PAST_ALL_BUFFERS: usize = 40_000_000;

/// RFC 864: "On line N, put characters (0+N mod 95) through (71+N mod 95). End each line with
/// carriage return and line feed." Character 0 is the space.
fn line(number: usize) -> Vec<u8> {
    let ring = |index: usize| b' ' + (index % 95) as u8;
    (number..number + 72).map(ring).chain(*b"\r\n").collect()
}

/// The wheel stands as it began after 95 lines.
const TURN_BYTES: usize = 95 * 74;

/// Reads `length` bytes of the stream, of which `offset` are read already, and compares.
#[track_caller]
fn expect_wheel(mut client: &TcpStream, offset: usize, length: usize) {
    let turn: Vec<u8> = (0..95).flat_map(line).collect();
    assert_eq!(turn.len(), TURN_BYTES);
    let mut received = vec![0; 64 * 1024];
    // Whatever place of the turn a receive begins at, as much as it may bring.
    let turns = turn.repeat(1 + received.len().div_ceil(TURN_BYTES));
    let mut at = offset;
    while at < offset + length {
        let want = received.len().min(offset + length - at);
        let count = client.read(&mut received[..want]).expect("recv");
        assert!(count > 0, "the stream ends after {at} bytes");
        assert_same(&received[..count], &turns[at % TURN_BYTES..][..count]);
        at += count;
    }
}

fn serve_chargen(setup: Setup) -> Server {
    let server = setup.serve(&["--chargen", ANY]);
    server.wait_until_at_rest();
    server
}

fn the_wheel_is_that_of_rfc_864(setup: Setup) {
    let server = serve_chargen(setup);
    let client = connect(server.addr("chargen"));
    expect(&client, b" !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefg\r\n");
    expect(&client, b"!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefgh\r\n");
    for number in 2..200 {
        expect(&client, &line(number));
    }
}

fn what_the_client_sends_is_thrown_away(setup: Setup) {
    let server = serve_chargen(setup);
    let client = connect(server.addr("chargen"));
    thread::scope(|scope| {
        scope.spawn(|| send(&client, &pattern(5_000_000, 1)));
        expect_wheel(&client, 0, PAST_ALL_BUFFERS);
    });
}

fn a_client_that_does_not_read_costs_neither_time_nor_memory(setup: Setup) {
    let server = serve_chargen(setup);
    expect_wheel(&connect(server.addr("chargen")), 0, 1_000_000);
    let before = server.rss();
    let clients: Vec<TcpStream> = (0..16).map(|_| connect(server.addr("chargen"))).collect();
    server.wait_until_idle();
    let each = server.rss().saturating_sub(before) / 16;
    assert!(each < 512 * 1024, "a client that does not read costs the server {each} bytes");
    expect_wheel(&clients[7], 0, PAST_ALL_BUFFERS);
    server.wait_until_idle();
    expect_wheel(&clients[7], PAST_ALL_BUFFERS, PAST_ALL_BUFFERS);
}

fn a_half_close_does_not_end_the_stream(setup: Setup) {
    let server = serve_chargen(setup);
    let client = connect(server.addr("chargen"));
    half_close(&client);
    expect_wheel(&client, 0, PAST_ALL_BUFFERS);
}

fn a_half_closed_client_that_does_not_read_costs_no_time(setup: Setup) {
    let server = serve_chargen(setup);
    let client = connect(server.addr("chargen"));
    half_close(&client);
    server.wait_until_idle();
    expect_wheel(&client, 0, PAST_ALL_BUFFERS);
}

fn a_close_ends_the_stream(setup: Setup) {
    stream_ends(setup, drop);
}

fn a_reset_ends_the_stream(setup: Setup) {
    stream_ends(setup, rst);
}

#[track_caller]
fn stream_ends(setup: Setup, end: fn(TcpStream)) {
    let mut server = serve_chargen(setup);
    let fds = server.fd_count();
    // At the start, in full flow, and where the server waits for the client.
    end(connect(server.addr("chargen")));
    let client = connect(server.addr("chargen"));
    expect_wheel(&client, 0, 1_000_000);
    end(client);
    let client = connect(server.addr("chargen"));
    server.wait_until_idle();
    end(client);
    server.wait_for_fd_count(fds);
    server.assert_running();
}
