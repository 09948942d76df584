//! Delay: an echo that comes a given time late and holds nobody up.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::common::*;

in_every_model! {
    the_answer_comes_and_not_too_early,
    nobody_else_is_held_up,
    many_small_sends_come_back_in_order,
    megabytes_come_back_unchanged,
    a_half_closed_client_still_gets_its_answer,
    a_reset_client_is_forgotten,
    the_answer_for_a_reset_client_reaches_nobody_else,
    a_thousand_clients_wait_together,
}

fn serve_delay(setup: Setup, delay: &str) -> Server {
    setup.serve(&["--delay", ANY, "--delay-ms", delay, "--echo", ANY])
}

fn the_answer_comes_and_not_too_early(setup: Setup) {
    let server = serve_delay(setup, "300");
    let client = connect(server.addr("delay"));
    for message in [&b"first"[..], b"second", b"third"] {
        let start = Instant::now();
        send(&client, message);
        expect(&client, message);
        let taken = start.elapsed();
        assert!(taken >= Duration::from_millis(300), "the answer came after {taken:?}");
    }
    half_close(&client);
    expect_to_end(&client, b"");
}

fn nobody_else_is_held_up(setup: Setup) {
    // Longer than the slowest machine needs for the rest.
    let server = serve_delay(setup, "60000");
    let waiting: Vec<TcpStream> = (0..4).map(|_| connect(server.addr("delay"))).collect();
    for client in &waiting {
        send(client, b"late");
    }
    // Several, so that each worker gets some of them.
    let others: Vec<TcpStream> = (0..4).map(|_| connect(server.addr("echo"))).collect();
    for round in 0..20 {
        for client in &others {
            exchange(client, &pattern(1000, round));
        }
    }
    waiting.iter().for_each(expect_silence);
}

fn many_small_sends_come_back_in_order(setup: Setup) {
    let server = serve_delay(setup, "200");
    let client = connect(server.addr("delay"));
    let message = pattern(20_000, 1);
    let start = Instant::now();
    for part in message.chunks(37) {
        send(&client, part);
        std::thread::yield_now();
    }
    expect(&client, &message);
    assert!(start.elapsed() >= Duration::from_millis(200));
    send(&client, b"and once more");
    expect(&client, b"and once more");
}

fn megabytes_come_back_unchanged(setup: Setup) {
    let server = serve_delay(setup, "20");
    let client = connect(server.addr("delay"));
    exchange(&client, &pattern(2_000_000, 2));
}

fn a_half_closed_client_still_gets_its_answer(setup: Setup) {
    let server = serve_delay(setup, "300");
    server.wait_until_at_rest();
    let fds = server.fd_count();
    for length in [1, 1000, 100_000] {
        let client = connect(server.addr("delay"));
        let message = pattern(length, 3);
        let start = Instant::now();
        send(&client, &message);
        half_close(&client);
        expect_to_end(&client, &message);
        assert!(start.elapsed() >= Duration::from_millis(300));
    }
    server.wait_for_fd_count(fds);
}

fn a_reset_client_is_forgotten(setup: Setup) {
    let mut server = serve_delay(setup, "200");
    server.wait_until_at_rest();
    let fds = server.fd_count();
    for _ in 0..20 {
        let client = connect(server.addr("delay"));
        send(&client, b"nobody will read this");
        rst(client);
    }
    // What was sent last is due last: by then the time of all others is over.
    let last = connect(server.addr("delay"));
    send(&last, b"last");
    expect(&last, b"last");
    drop(last);
    server.wait_for_fd_count(fds);
    server.assert_running();
}

fn the_answer_for_a_reset_client_reaches_nobody_else(setup: Setup) {
    let server = serve_delay(setup, "200");
    for _ in 0..5 {
        let gone = connect(server.addr("delay"));
        send(&gone, b"for the one who has gone");
        server.wait_until_at_rest();
        rst(gone);
        server.wait_until_at_rest();
        // Whoever comes next is likely to get the place that has become free.
        let next = connect(server.addr("delay"));
        send(&next, b"mine");
        half_close(&next);
        expect_to_end(&next, b"mine");
    }
}

fn a_thousand_clients_wait_together(setup: Setup) {
    let _turn = one_crowd_at_a_time();
    raise_nofile_limit();
    let server = serve_delay(setup, "2000");
    server.wait_until_at_rest();
    let fds = server.fd_count();
    let clients: Vec<TcpStream> = (0..1000).map(|_| connect(server.addr("delay"))).collect();
    let start = Instant::now();
    let message = |index: usize| pattern(100, index as u64);
    for (index, client) in clients.iter().enumerate() {
        send(client, &message(index));
    }
    for (index, client) in clients.iter().enumerate() {
        expect(client, &message(index));
        assert!(start.elapsed() >= Duration::from_secs(2), "the answer came too early");
    }
    drop(clients);
    server.wait_for_fd_count(fds);
}
