//! Echo (RFC 862): whatever comes goes back, all of it, in order, until the client has finished.

use std::net::TcpStream;
use std::thread;

use crate::common::*;

in_every_model! {
    bytes_come_back_at_every_split,
    single_bytes_come_back,
    ten_megabytes_come_back_unchanged,
    a_half_close_does_not_cut_off_the_answer,
    six_megabytes_come_back_after_a_half_close,
    a_fin_that_meets_a_full_socket_does_not_cut_off_the_answer,
    a_fin_that_is_there_before_the_accept_is_seen,
    a_fin_right_behind_the_bytes_is_seen,
    a_connection_closed_by_the_client_is_closed,
    a_reset_before_any_byte_is_survived,
    a_reset_before_the_accept_is_survived,
    a_reset_right_behind_the_bytes_is_survived,
    a_reset_in_the_middle_of_the_answer_is_survived,
    a_reset_after_a_half_close_is_survived,
}

/// Lengths around the sizes that buffers, budgets and pages are likely to have: at a limit of its
/// own, a server that takes "no more room" for "no more bytes" stops one read too early.
const TELLING_LENGTHS: [usize; 12] =
    [1, 2, 4095, 4096, 16_383, 16_384, 65_535, 65_536, 65_537, 131_072, 262_144, 300_000];

fn serve_echo(setup: Setup) -> Server {
    setup.serve(&["--echo", ANY])
}

fn bytes_come_back_at_every_split(setup: Setup) {
    let server = serve_echo(setup);
    let client = connect(server.addr("echo"));
    let message = pattern(32, 1);
    for split in 0..=message.len() {
        let (first, rest) = message.split_at(split);
        // What has come back has been read by the server: the rest is a segment and an event of its
        // own.
        send(&client, first);
        expect(&client, first);
        send(&client, rest);
        expect(&client, rest);
    }
    half_close(&client);
    expect_to_end(&client, b"");
}

fn single_bytes_come_back(setup: Setup) {
    let server = serve_echo(setup);
    let client = connect(server.addr("echo"));
    let message = pattern(2000, 2);
    for byte in &message {
        send(&client, std::slice::from_ref(byte));
    }
    half_close(&client);
    expect_to_end(&client, &message);
}

fn ten_megabytes_come_back_unchanged(setup: Setup) {
    let server = serve_echo(setup);
    let client = connect(server.addr("echo"));
    exchange(&client, &pattern(10_000_000, 3));
    half_close(&client);
    expect_to_end(&client, b"");
}

fn a_half_close_does_not_cut_off_the_answer(setup: Setup) {
    let server = serve_echo(setup);
    for (seed, length) in TELLING_LENGTHS.into_iter().enumerate() {
        let client = connect_with_small_receive_buffer(server.addr("echo"));
        let message = pattern(length, seed as u64);
        send(&client, &message);
        half_close(&client);
        expect_to_end(&client, &message);
    }
}

fn six_megabytes_come_back_after_a_half_close(setup: Setup) {
    let server = serve_echo(setup);
    let client = connect(server.addr("echo"));
    let message = pattern(6_000_000, 4);
    thread::scope(|scope| {
        scope.spawn(|| {
            send(&client, &message);
            half_close(&client);
        });
        expect_to_end(&client, &message);
    });
}

fn a_fin_that_meets_a_full_socket_does_not_cut_off_the_answer(setup: Setup) {
    let server = serve_echo(setup);
    let message = pattern(20_000_000, 5);
    let probe = connect_with_small_receive_buffer(server.addr("echo"));
    let read = send_until_refused(&server, &probe, &message);
    drop(probe);
    // What the server has read lies in its output, and perhaps in an input queue before that: one of these ends in the
    // middle of the output, where it takes more and the kernel does not.
    for less in [10_000, 40_000, 70_000, 100_000, 130_000, 160_000, 190_000] {
        let client = connect_with_small_receive_buffer(server.addr("echo"));
        let message = &message[..read - less];
        send_small_pieces(&server, &client, message);
        half_close(&client);
        server.wait_until_at_rest();
        expect_to_end(&client, message);
    }
}

fn a_fin_that_is_there_before_the_accept_is_seen(setup: Setup) {
    let server = serve_echo(setup);
    server.pause();
    let clients: Vec<(TcpStream, Vec<u8>)> = messages().map(|m| (connect(server.addr("echo")), m)).collect();
    send_and_half_close(&clients);
    server.resume();
    for (client, message) in &clients {
        expect_to_end(client, message);
    }
}

fn a_fin_right_behind_the_bytes_is_seen(setup: Setup) {
    let server = serve_echo(setup);
    for _ in 0..10 {
        let clients: Vec<(TcpStream, Vec<u8>)> = messages().map(|m| (served_client(&server), m)).collect();
        server.pause();
        send_and_half_close(&clients);
        server.resume();
        for (client, message) in &clients {
            expect_to_end(client, message);
        }
    }
}

/// One message of each telling length, and one of none.
fn messages() -> impl Iterator<Item = Vec<u8>> {
    let lengths = std::iter::once(0).chain(TELLING_LENGTHS);
    // Above this a paused server's receive buffer is full and the client would wait for ever.
    lengths.filter(|length| *length <= 65_537).zip(0..).map(|(length, seed)| pattern(length, seed))
}

fn send_and_half_close(clients: &[(TcpStream, Vec<u8>)]) {
    for (client, message) in clients {
        send(client, message);
        half_close(client);
    }
}

/// A connection that the server has accepted and answered.
#[track_caller]
fn served_client(server: &Server) -> TcpStream {
    let client = connect(server.addr("echo"));
    send(&client, b"?");
    expect(&client, b"?");
    client
}

fn a_connection_closed_by_the_client_is_closed(setup: Setup) {
    let server = serve_echo(setup);
    server.wait_until_at_rest();
    let fds = server.fd_count();
    let clients: Vec<TcpStream> = (0..50).map(|_| served_client(&server)).collect();
    assert_eq!(server.fd_count(), fds + 50, "one descriptor for each connection");
    drop(clients);
    server.wait_for_fd_count(fds);
}

fn a_reset_before_any_byte_is_survived(setup: Setup) {
    resets_are_survived(setup, |server| rst(connect(server.addr("echo"))));
    resets_are_survived(setup, |server| rst(served_client(server)));
}

fn a_reset_before_the_accept_is_survived(setup: Setup) {
    resets_are_survived(setup, |server| {
        server.pause();
        rst(connect(server.addr("echo")));
        let client = connect(server.addr("echo"));
        send(&client, &pattern(1000, 5));
        rst(client);
        server.resume();
    });
}

fn a_reset_right_behind_the_bytes_is_survived(setup: Setup) {
    resets_are_survived(setup, |server| {
        let client = served_client(server);
        send(&client, &pattern(1000, 6));
        rst(client);
        let client = served_client(server);
        server.pause();
        send(&client, &pattern(1000, 7));
        rst(client);
        server.resume();
    });
}

fn a_reset_in_the_middle_of_the_answer_is_survived(setup: Setup) {
    resets_are_survived(setup, |server| {
        let client = connect_with_small_receive_buffer(server.addr("echo"));
        send_until_it_stalls(&client);
        rst(client);
    });
}

fn a_reset_after_a_half_close_is_survived(setup: Setup) {
    resets_are_survived(setup, |server| {
        let client = connect_with_small_receive_buffer(server.addr("echo"));
        send(&client, &pattern(300_000, 8));
        half_close(&client);
        server.wait_until_at_rest();
        rst(client);
    });
}

/// Sends without reading until neither side's buffers take any more.
fn send_until_it_stalls(client: &TcpStream) {
    let stalled = std::time::Duration::from_millis(100);
    client.set_write_timeout(Some(stalled)).unwrap();
    let chunk = pattern(64 * 1024, 9);
    while std::io::Write::write(&mut &*client, &chunk).is_ok() {}
    client.set_write_timeout(Some(DEADLINE)).unwrap();
}

/// Runs `attack` ten times; then the server must still serve, the client it had before and a new
/// one, and must have given back every descriptor.
#[track_caller]
fn resets_are_survived(setup: Setup, attack: impl Fn(&Server)) {
    let mut server = serve_echo(setup);
    let bystander = served_client(&server);
    server.wait_until_at_rest();
    let fds = server.fd_count();
    for _ in 0..10 {
        attack(&server);
    }
    exchange(&bystander, &pattern(100_000, 10));
    drop(served_client(&server));
    server.wait_for_fd_count(fds);
    server.assert_running();
}
