//! Clients that do not read, do not finish, reset, send urgent data or send nonsense. Whatever they do, the server
//! stays within its memory, comes to rest when there is nothing to do, gives back every descriptor, and serves everyone
//! else.
#![cfg(feature = "cli")]

mod common;
#[path = "common/pressure.rs"]
mod pressure;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;

use common::*;
use pressure::*;
use socket2::{Domain, SockRef, Socket, Type};

in_every_model! {
    unread_echo_is_bounded_and_whole,
    unread_echo_over_a_unix_socket_is_bounded_and_whole,
    unread_small_frames_are_bounded_and_whole,
    unread_largest_frames_are_bounded_and_whole,
    unread_delayed_echo_is_bounded_and_whole,
    unread_chargen_is_bounded_and_keeps_its_place,
    discard_takes_everything_and_keeps_nothing,
    tiny_receive_buffers_get_everything,
    frames_at_the_limit_pass_and_above_it_close_one_connection,
    empty_frames_come_back,
    urgent_byte_first,
    urgent_byte_in_the_middle,
    urgent_byte_last,
    urgent_byte_alone,
    urgent_bytes_many_times,
    urgent_byte_within_a_frame,
    reset_while_output_is_queued,
    resets_by_the_thousand,
    fin_and_reset_in_every_mix,
    reset_while_an_answer_is_delayed,
    close_with_unread_answers,
    client_that_shuts_down_its_read_side,
    client_that_is_gone_before_accept,
}

// Facts about memory that a model of threads cannot have: each client costs it a stack and a buffer.
mod memory {
    use super::{half_frames_of_500_clients_hurt_nobody, nonsense_on_frames_closes_only_its_sender};
    use crate::common::*;

    in_every_setup! { half_frames_of_500_clients_hurt_nobody, nonsense_on_frames_closes_only_its_sender }
    in_one_thread! { half_frames_of_500_clients_hurt_nobody, nonsense_on_frames_closes_only_its_sender }
}

/// What one client may cost at most while it does not read: two queues, each in a buffer that has grown by
/// doubling to 256 KiB at the most, and what was freed on the way.
const STUCK_CLIENT_BYTES: u64 = (256 + 256 + 128) * 1024;

/// The default of `--max-frame`.
const MAX_FRAME: usize = 1024 * 1024;

/// A whole number of frames of many lengths, about 64 KiB.
fn mixed_frames() -> Vec<u8> {
    let lengths = [0, 1, 3, 60, 1000, 4096, 16_384, 40_000];
    lengths.iter().flat_map(|&length| frame(&pattern(length, length as u64))).collect()
}

/// Four clients push `block` on `streams` and read nothing; the server must stay within `bytes_each`, come to rest and
/// serve `others`. Then they read, and every byte must be there.
#[track_caller]
fn unread_is_bounded_and_whole<C: Client>(
    server: &Server,
    streams: &[C],
    block: &[u8],
    bytes_each: u64,
    others: (&str, &[u8]),
) {
    let before = server.rss();
    let sent = push_until_stuck(server, streams, block);
    let growth = server.rss().saturating_sub(before);
    let bound = bytes_each * streams.len() as u64;
    assert!(growth <= bound, "{growth} bytes more for {} stuck clients, bound {bound}", streams.len());
    (0..4).for_each(|_| ping(others.0, others.1));
    thread::scope(|scope| {
        for (stream, sent) in streams.iter().zip(sent) {
            scope.spawn(move || finish_and_compare(stream, block, sent));
        }
    });
}

/// Four connections to `address` that have been served once, so that what comes later is not the cost of starting.
#[track_caller]
fn four_clients(address: &str, request: &[u8]) -> Vec<TcpStream> {
    let clients: Vec<TcpStream> = (0..4).map(|_| connect(address)).collect();
    for client in &clients {
        send(client, request);
        expect(client, request);
    }
    clients
}

fn unread_echo_is_bounded_and_whole(setup: Setup) {
    let server = setup.serve(&["--echo", ANY]);
    let address = server.addr("echo");
    let clients = four_clients(address, b"hello");
    let block = pattern(1_000_003, 1);
    unread_is_bounded_and_whole(&server, &clients, &block, STUCK_CLIENT_BYTES, (address, b"ping"));
}

fn unread_echo_over_a_unix_socket_is_bounded_and_whole(setup: Setup) {
    let name = format!("unix:@eagain-hostile-{}-{setup:?}", std::process::id());
    let server = setup.serve(&["--echo", &name, "--echo", ANY]);
    let other = server.addrs("echo")[1];
    ping(other, b"hello");
    let clients: Vec<UnixStream> = (0..4).map(|_| connect_unix(&name)).collect();
    let block = pattern(100_003, 2);
    unread_is_bounded_and_whole(&server, &clients, &block, STUCK_CLIENT_BYTES, (other, b"ping"));
}

fn unread_small_frames_are_bounded_and_whole(setup: Setup) {
    let server = setup.serve(&["--frames", ANY]);
    let address = server.addr("frames");
    let clients = four_clients(address, &frame(b"hello"));
    let others = (address, &frame(b"ping")[..]);
    unread_is_bounded_and_whole(&server, &clients, &mixed_frames(), STUCK_CLIENT_BYTES, others);
}

fn unread_largest_frames_are_bounded_and_whole(setup: Setup) {
    let server = setup.serve(&["--frames", ANY]);
    let address = server.addr("frames");
    let clients = four_clients(address, &frame(b"hello"));
    let block = frame(&pattern(MAX_FRAME, 3));
    // One frame may wait for its end while another one waits to be sent; a queue that grows by doubling has slack.
    let bound = 4 * MAX_FRAME as u64 + STUCK_CLIENT_BYTES;
    unread_is_bounded_and_whole(&server, &clients, &block, bound, (address, &frame(b"ping")));
}

fn unread_delayed_echo_is_bounded_and_whole(setup: Setup) {
    let server = setup.serve(&["--delay", ANY, "--delay-ms", "1"]);
    let address = server.addr("delay");
    let clients = four_clients(address, b"hello");
    let block = pattern(100_003, 4);
    unread_is_bounded_and_whole(&server, &clients, &block, STUCK_CLIENT_BYTES, (address, b"ping"));
}

fn unread_chargen_is_bounded_and_keeps_its_place(setup: Setup) {
    let server = setup.serve(&["--chargen", ANY, "--echo", ANY]);
    ping(server.addr("echo"), b"hello");
    let before = server.rss();
    let clients: Vec<TcpStream> = (0..8).map(|_| connect(server.addr("chargen"))).collect();
    wait_until("every client has something to read", || {
        clients.iter().all(|client| client.peek(&mut [0]).is_ok_and(|count| count == 1))
    });
    wait_until_at_rest(&server);
    let growth = server.rss().saturating_sub(before);
    assert!(growth <= 8 * STUCK_CLIENT_BYTES, "{growth} bytes more for 8 stuck clients");
    ping(server.addr("echo"), b"ping");
    let wheel = chargen_wheel();
    for client in &clients {
        // More than every buffer on the way, so that producing has been taken up again.
        (0..1_000).for_each(|_| expect(client, &wheel));
    }
    let idle = server.fd_count() - clients.len();
    drop(clients);
    server.wait_for_fd_count(idle);
    wait_until_at_rest(&server);
}

/// One turn of the wheel of RFC 864: 95 lines of 72 printable characters, each line starting one further.
fn chargen_wheel() -> Vec<u8> {
    let line = |start: u8| (0..72).map(move |column| b' ' + (start + column) % 95).chain(*b"\r\n");
    (0..95).flat_map(line).collect()
}

fn discard_takes_everything_and_keeps_nothing(setup: Setup) {
    let server = setup.serve(&["--discard", ANY]);
    let client = connect(server.addr("discard"));
    let block = pattern(1 << 20, 5);
    send(&client, &block);
    // Not before it has read all of that: the memory for it is not what is asked for here.
    wait_until_at_rest(&server);
    let before = server.rss();
    (0..64).for_each(|_| send(&client, &block));
    let growth = server.rss().saturating_sub(before);
    assert!(growth <= STUCK_CLIENT_BYTES, "{growth} bytes more after 64 MiB to discard");
    half_close(&client);
    expect_to_end(&client, b"");
    wait_until_at_rest(&server);
}

/// A connection with small buffers, set before the connect, so that the window is small from the start.
#[track_caller]
fn connect_with_buffers(address: &str, bytes: usize) -> TcpStream {
    let address: SocketAddr = address.parse().unwrap();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(bytes).unwrap();
    socket.set_send_buffer_size(bytes).unwrap();
    socket.connect(&address.into()).expect("connect");
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn tiny_receive_buffers_get_everything(setup: Setup) {
    let server = setup.serve(&["--echo", ANY, "--frames", ANY]);
    let big_frame = frame(&pattern(200_000, 6));
    thread::scope(|scope| {
        for service in ["echo", "frames"] {
            for _ in 0..4 {
                let client = connect_with_buffers(server.addr(service), 4096);
                let big_frame = &big_frame;
                scope.spawn(move || {
                    exchange(&client, big_frame);
                    half_close(&client);
                    expect_to_end(&client, b"");
                });
            }
        }
    });
    wait_until_at_rest(&server);
}

fn half_frames_of_500_clients_hurt_nobody(setup: Setup) {
    let server = setup.serve(&["--frames", ANY]);
    let address = server.addr("frames");
    ping(address, &frame(b"hello"));
    let (fds, rss) = (fds_at_rest(&server), server.rss());
    let announced = frame(&pattern(MAX_FRAME, 7));
    let small = frame(&pattern(100, 7));
    let halves = [&announced[..2], &announced[..4], &announced[..10], &small[..60]];
    let clients: Vec<TcpStream> = (0..500)
        .map(|index| {
            let client = connect(address);
            send(&client, halves[index % 4]);
            client
        })
        .collect();
    ping(address, &frame(b"ping"));
    wait_until_at_rest(&server);
    let growth = server.rss().saturating_sub(rss);
    assert!(growth <= 4 << 20, "{growth} bytes more for 500 half frames: memory is taken before bytes are there");
    for (index, client) in clients.iter().enumerate().take(40) {
        expect_silence(client);
        let whole = if index % 4 == 3 { &small } else { &announced };
        thread::scope(|scope| {
            scope.spawn(|| send(client, &whole[halves[index % 4].len()..]));
            expect(client, whole);
        });
    }
    drop(clients);
    server.wait_for_fd_count(fds);
    wait_until_at_rest(&server);
}

fn frames_at_the_limit_pass_and_above_it_close_one_connection(setup: Setup) {
    let server = setup.serve(&["--frames", ANY, "--max-frame", "1000"]);
    let address = server.addr("frames");
    let fds = fds_at_rest(&server);
    let bystander = connect(address);
    let longest = frame(&pattern(1000, 8));
    exchange(&bystander, &longest);
    for length in [1001, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        let client = connect(address);
        // What came before the frame that is too long is still answered.
        send(&client, &[&longest[..], &length.to_be_bytes(), b"payload"].concat());
        expect(&client, &longest);
        expect_closed(&client);
        exchange(&bystander, &longest);
    }
    drop(bystander);
    server.wait_for_fd_count(fds);
    wait_until_at_rest(&server);
}

/// Nothing more comes and the connection is over, by an end or by a reset.
#[track_caller]
fn expect_closed(mut client: &TcpStream) {
    match client.read(&mut [0; 64]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("the connection is still there: {other:?}"),
    }
}

fn empty_frames_come_back(setup: Setup) {
    let server = setup.serve(&["--frames", ANY]);
    let client = connect(server.addr("frames"));
    exchange(&client, &frame(b"").repeat(50_000));
    half_close(&client);
    expect_to_end(&client, b"");
}

fn nonsense_on_frames_closes_only_its_sender(setup: Setup) {
    let mut server = setup.serve(&["--frames", ANY]);
    let address = server.addr("frames").to_owned();
    let bystander = connect(&address);
    exchange(&bystander, &frame(b"before"));
    let (fds, rss) = (fds_at_rest(&server), server.rss());
    for seed in 0..200 {
        let client = connect(&address);
        // Read as a length, the first four bytes are too long. The server may reset while the rest is still being sent.
        let nonsense = [b"GET / HTTP/1.1\r\n\r\n", &pattern(20_000, seed)[..]].concat();
        let _ = (&client).write_all(&nonsense);
        expect_closed(&client);
    }
    server.wait_for_fd_count(fds);
    let growth = server.rss().saturating_sub(rss);
    assert!(growth <= STUCK_CLIENT_BYTES, "{growth} bytes more after nonsense");
    exchange(&bystander, &frame(b"after"));
    wait_until_at_rest(&server);
    server.assert_running();
}

/// One step of a client that uses urgent data (send(2), MSG_OOB).
enum Step {
    Data(&'static [u8]),
    Urgent,
}
use Step::{Data, Urgent};

/// The urgent byte: it occurs nowhere else in these tests.
const URGENT: u8 = b'!';

#[track_caller]
fn play(client: &TcpStream, steps: &[Step]) {
    for step in steps {
        match step {
            Data(bytes) => send(client, bytes),
            Urgent => assert_eq!(SockRef::from(client).send_out_of_band(&[URGENT]).unwrap(), 1),
        }
    }
}

/// Receives `expected` in order. An urgent byte between is passed over: with SO_OOBINLINE it is part of the stream, and
/// of two urgent bytes the kernel leaves the first one in the stream (tcp(7)).
#[track_caller]
fn expect_in_band(mut client: &TcpStream, expected: &[u8]) {
    let mut in_band = Vec::new();
    while in_band.len() < expected.len() {
        let mut chunk = [0; 4096];
        let wanted = (expected.len() - in_band.len()).min(chunk.len());
        let count = client.read(&mut chunk[..wanted]).expect("recv");
        assert!(count > 0, "the end after {:?}", in_band.escape_ascii().to_string());
        in_band.extend(chunk[..count].iter().filter(|&&byte| byte != URGENT));
    }
    assert_same(&in_band, expected);
}

/// Plays `steps` to an echo service, once as they come and once with all of them there before the server looks. All
/// that is in band comes back without waiting for more; then the connection still serves, and ends as usual.
#[track_caller]
fn urgent(setup: Setup, steps: &[Step]) {
    let server = setup.serve(&["--echo", ANY]);
    let data = steps.iter().filter_map(|step| if let Data(bytes) = step { Some(*bytes) } else { None });
    let in_band: Vec<u8> = data.flatten().copied().collect();
    let fds = fds_at_rest(&server);
    for at_once in [false, true] {
        let client = connect(server.addr("echo"));
        send(&client, b"first");
        expect(&client, b"first");
        if at_once {
            while_stopped(&server, || play(&client, steps));
        } else {
            play(&client, steps);
        }
        expect_in_band(&client, &in_band);
        wait_until_at_rest(&server);
        ping(server.addr("echo"), b"ping");
        send(&client, b"later");
        expect_in_band(&client, b"later");
        play(&client, steps);
        half_close(&client);
        expect_in_band(&client, &in_band);
        let mut rest = Vec::new();
        (&client).read_to_end(&mut rest).expect("recv until the end");
        assert!(rest.iter().all(|&byte| byte == URGENT), "surplus: {}", rest.escape_ascii());
        drop(client);
        server.wait_for_fd_count(fds);
    }
    wait_until_at_rest(&server);
}

fn urgent_byte_first(setup: Setup) {
    urgent(setup, &[Urgent, Data(b"behind")]);
}

fn urgent_byte_in_the_middle(setup: Setup) {
    urgent(setup, &[Data(b"before"), Urgent, Data(b"behind")]);
}

fn urgent_byte_last(setup: Setup) {
    urgent(setup, &[Data(b"before"), Urgent]);
}

fn urgent_byte_alone(setup: Setup) {
    urgent(setup, &[Urgent]);
}

fn urgent_bytes_many_times(setup: Setup) {
    urgent(setup, &[Data(b"a"), Urgent, Data(b"b"), Urgent, Urgent, Data(b"c"), Urgent, Data(b"d"), Urgent]);
}

fn urgent_byte_within_a_frame(setup: Setup) {
    let server = setup.serve(&["--frames", ANY]);
    let whole = frame(&pattern(1000, 9));
    for cut in [0, 2, 4, 500, 1004] {
        for at_once in [false, true] {
            let client = connect(server.addr("frames"));
            let act = || {
                send(&client, &whole[..cut]);
                play(&client, &[Urgent]);
                send(&client, &whole[cut..]);
            };
            if at_once {
                while_stopped(&server, act)
            } else {
                act()
            }
            expect(&client, &whole);
            send(&client, &whole);
            half_close(&client);
            expect_to_end(&client, &whole);
        }
    }
    wait_until_at_rest(&server);
}

fn reset_while_output_is_queued(setup: Setup) {
    let mut server = setup.serve(&["--echo", ANY, "--frames", ANY, "--chargen", ANY]);
    let fds = fds_at_rest(&server);
    let (echo, frames) = (server.addr("echo"), server.addr("frames"));
    let clients: Vec<TcpStream> = (0..10).map(|index| connect([echo, frames][index % 2])).collect();
    push_until_stuck(&server, &clients, &mixed_frames());
    let readers: Vec<TcpStream> = (0..5).map(|_| connect(server.addr("chargen"))).collect();
    wait_until_at_rest(&server);
    clients.into_iter().chain(readers).for_each(rst);
    server.wait_for_fd_count(fds);
    wait_until_at_rest(&server);
    ping(echo, b"ping");
    server.assert_running();
}

fn resets_by_the_thousand(setup: Setup) {
    let mut server = setup.serve(&["--echo", ANY]);
    let address = server.addr("echo").to_owned();
    let fds = fds_at_rest(&server);
    let storm = |count: usize| {
        for index in 0..count {
            let client = connect(&address);
            if index % 2 == 1 {
                send(&client, b"never answered");
            }
            rst(client);
        }
    };
    storm(1500);
    while_stopped(&server, || storm(100));
    storm(400);
    ping(&address, b"ping");
    server.wait_for_fd_count(fds);
    wait_until_at_rest(&server);
    server.assert_running();
}

/// Ends a connection in one of seven ways, with and without a request before and an answer read.
fn end_somehow(client: TcpStream, kind: usize) {
    let request = pattern(3000, kind as u64);
    let way = kind % 7;
    if way != 2 {
        send(&client, &request);
    }
    match way {
        0 | 2 => {
            half_close(&client);
            rst(client);
        }
        1 => rst(client),
        3 => {
            expect(&client, &request[..100]);
            half_close(&client);
            rst(client);
        }
        4 => client.shutdown(Shutdown::Both).unwrap(),
        5 => drop(client),
        _ => {
            half_close(&client);
            expect_to_end(&client, &request);
            rst(client);
        }
    }
}

fn fin_and_reset_in_every_mix(setup: Setup) {
    let mut server = setup.serve(&["--echo", ANY]);
    let address = server.addr("echo").to_owned();
    let fds = fds_at_rest(&server);
    (0..350).for_each(|kind| end_somehow(connect(&address), kind));
    while_stopped(&server, || {
        // The ways that wait for an answer would wait for ever.
        let ways = (0..350).filter(|kind| ![3, 6].contains(&(kind % 7)));
        ways.for_each(|kind| end_somehow(connect(&address), kind));
    });
    ping(&address, b"ping");
    server.wait_for_fd_count(fds);
    wait_until_at_rest(&server);
    server.assert_running();
}

fn reset_while_an_answer_is_delayed(setup: Setup) {
    let mut server = setup.serve(&["--delay", ANY, "--delay-ms", "300"]);
    let address = server.addr("delay").to_owned();
    let fds = fds_at_rest(&server);
    for _ in 0..200 {
        let client = connect(&address);
        send(&client, b"for a client that has gone");
        rst(client);
    }
    // These take over the places of the former while their answers are still due.
    let clients: Vec<TcpStream> = (0..200).map(|_| connect(&address)).collect();
    for (index, client) in clients.iter().enumerate() {
        send(client, &pattern(20, index as u64));
        half_close(client);
    }
    for (index, client) in clients.iter().enumerate() {
        expect_to_end(client, &pattern(20, index as u64));
    }
    server.wait_for_fd_count(fds);
    wait_until_at_rest(&server);
    server.assert_running();
}

fn close_with_unread_answers(setup: Setup) {
    let mut server = setup.serve(&["--echo", ANY]);
    let address = server.addr("echo").to_owned();
    let fds = fds_at_rest(&server);
    for round in 0..300 {
        let client = connect(&address);
        send(&client, &pattern(10_000, round));
        // At least a part of the answer is there, unread: the close turns into a reset.
        client.peek(&mut [0]).expect("an answer");
    }
    server.wait_for_fd_count(fds);
    wait_until_at_rest(&server);
    ping(&address, b"ping");
    server.assert_running();
}

fn client_that_shuts_down_its_read_side(setup: Setup) {
    let server = setup.serve(&["--echo", ANY]);
    let fds = fds_at_rest(&server);
    let clients: Vec<TcpStream> = (0..10).map(|_| connect(server.addr("echo"))).collect();
    clients.iter().for_each(|client| client.shutdown(Shutdown::Read).unwrap());
    push_until_stuck(&server, &clients, &pattern(10_007, 10));
    ping(server.addr("echo"), b"ping");
    drop(clients);
    server.wait_for_fd_count(fds);
    wait_until_at_rest(&server);
}

fn client_that_is_gone_before_accept(setup: Setup) {
    let mut server = setup.serve(&["--echo", ANY]);
    let address = server.addr("echo").to_owned();
    let fds = fds_at_rest(&server);
    for _ in 0..10 {
        let waiting = while_stopped(&server, || {
            let waiting: Vec<TcpStream> = (0..30).map(|_| connect(&address)).collect();
            let mut kept = Vec::new();
            for (index, client) in waiting.into_iter().enumerate() {
                match index % 3 {
                    0 => rst(client),
                    1 => drop(client),
                    _ => kept.push(client),
                }
            }
            kept
        });
        for client in &waiting {
            send(client, b"still here");
            half_close(client);
            expect_to_end(client, b"still here");
        }
    }
    server.wait_for_fd_count(fds);
    wait_until_at_rest(&server);
    server.assert_running();
}
