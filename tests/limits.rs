//! What an operator bounds: connections, their rate, what they keep in memory, and how long they may take.
#![cfg(feature = "cli")]

mod common;
#[path = "common/pressure.rs"]
mod pressure;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use common::*;
use pressure::*;

in_every_setup! {
    connections_above_the_limit_are_closed_at_once_and_nobody_else_is_touched,
    each_address_has_a_limit_of_its_own,
    a_burst_above_the_rate_is_closed_and_the_next_second_is_served,
    what_all_clients_keep_waiting_is_bounded,
    an_idle_client_is_closed_and_not_early,
    a_client_that_talks_is_not_idle,
    a_client_that_never_says_a_byte_is_closed,
    a_client_that_takes_nothing_is_closed_and_one_that_takes_a_little_is_not,
    a_frame_that_is_begun_must_end,
    bytes_that_come_now_and_then_do_not_put_off_the_end_of_a_frame,
    a_delayed_answer_is_not_idleness,
    timeouts_of_a_thousand_clients_cost_nothing_while_they_are_silent,
}

#[test]
fn every_way_of_accepting_serves_everybody_and_loses_nobody_at_the_end() {
    for how in ["handoff", "exclusive", "reuseport"] {
        for trigger in [&[][..], &["--edge-triggered"]] {
            let args = [&["--workers", "3", "--echo", "127.0.0.1:0", "--accept", how], trigger].concat();
            let mut server = Server::start(&args);
            let clients: Vec<_> = (0..50).map(|_| connect(server.addr("echo"))).collect();
            clients.iter().for_each(|client| exchange(client, b"served"));
            // In the queue of one of the workers, with a request, when the end comes.
            let late: Vec<_> = while_stopped(&server, || {
                let late = (0..20).map(|_| connect(server.addr("echo"))).collect::<Vec<_>>();
                late.iter().for_each(|client| send(client, b"in time"));
                server.signal(nix::sys::signal::Signal::SIGTERM);
                late
            });
            late.iter().for_each(|client| expect(client, b"in time"));
            drop((clients, late));
            assert_eq!(server.wait_for_exit().code(), Some(0));
        }
    }
}

#[test]
fn whoever_watches_the_server_takes_no_place_and_finds_one_when_it_is_full() {
    let server = Server::start(&["--echo", ANY, "--metrics", ANY, "--workers", "1", "--max-connections", "2"]);
    let watchers: Vec<TcpStream> = (0..5).map(|_| connect(server.addr("metrics"))).collect();
    let clients = [connect(server.addr("echo")), connect(server.addr("echo"))];
    for client in &clients {
        exchange(client, b"there is room");
    }
    assert!(!is_served(&connect(server.addr("echo"))));
    for watcher in &watchers {
        send(watcher, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        expect(watcher, b"HTTP/1.1 200 OK\r\n");
    }
    // Nor do they leave one when they go.
    drop(watchers);
    server.wait_until_idle();
    assert!(!is_served(&connect(server.addr("echo"))));
}

#[test]
fn a_shortage_of_descriptors_is_told_once() {
    let mut command = std::process::Command::new("prlimit");
    command.arg("--nofile=32:32").arg(program());
    let server = Server::start_as(command, &["--workers", "1", "--echo", "127.0.0.1:0"]);
    let crowd: Vec<_> = (0..60).map(|_| connect(server.addr("echo"))).collect();
    wait_until("the shortage is told", || server.stderr().contains("clients have to wait: too many open files"));
    exchange(&crowd[0], b"served meanwhile");
    // Each that goes lets another in, and the next one runs out again.
    for client in crowd {
        exchange(&client, b"served in its turn");
    }
    assert_eq!(server.stderr().matches("clients have to wait").count(), 1);
}

/// What became of a connection that may have been refused: whether it echoes.
fn is_served(stream: &TcpStream) -> bool {
    let mut stream = stream;
    let mut answer = [0; 1];
    stream.write_all(b"?").is_ok() && stream.read_exact(&mut answer).is_ok()
}

/// Waits for the end of the stream, or a reset, and says how long that took.
#[track_caller]
fn time_to_close(mut stream: &TcpStream, since: Instant) -> Duration {
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return since.elapsed(),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return since.elapsed(),
            Err(error) => panic!("not closed: {error}"),
        }
    }
}

/// A connection from another address of the loopback network.
fn connect_from(source: [u8; 4], address: &str) -> TcpStream {
    let address: SocketAddr = address.parse().unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn connections_above_the_limit_are_closed_at_once_and_nobody_else_is_touched(setup: Setup) {
    let server = setup.serve(&["--echo", "127.0.0.1:0", "--max-connections", "3"]);
    let address = server.addr("echo");
    let inside: Vec<TcpStream> = (0..3).map(|_| connect(address)).collect();
    inside.iter().for_each(|stream| exchange(stream, b"in"));
    for _ in 0..20 {
        assert!(!is_served(&connect(address)), "a fourth is served");
    }
    inside.iter().for_each(|stream| exchange(stream, b"still in"));
    drop(inside);
    wait_until("a place is free again", || is_served(&connect(address)));
}

fn each_address_has_a_limit_of_its_own(setup: Setup) {
    let server = setup.serve(&["--echo", "0.0.0.0:0", "--max-connections-per-ip", "2"]);
    let port = server.addr("echo").rsplit(':').next().unwrap();
    let address = format!("127.0.0.1:{port}");
    let first: Vec<_> = (0..2).map(|_| connect_from([127, 0, 0, 2], &address)).collect();
    first.iter().for_each(|stream| exchange(stream, b"first"));
    assert!(!is_served(&connect_from([127, 0, 0, 2], &address)), "a third from the same address is served");
    exchange(&connect_from([127, 0, 0, 3], &address), b"second");
    drop(first);
    wait_until("the address may come again", || is_served(&connect_from([127, 0, 0, 2], &address)));
}

fn a_burst_above_the_rate_is_closed_and_the_next_second_is_served(setup: Setup) {
    let server = setup.serve(&["--echo", "127.0.0.1:0", "--accept-rate", "5"]);
    let address = server.addr("echo");
    // While it is stopped the kernel accepts them all: they come to it in one moment.
    let crowd: Vec<_> = while_stopped(&server, || (0..50).map(|_| connect(address)).collect());
    let served = crowd.iter().filter(|stream| is_served(stream)).count();
    assert!((5..40).contains(&served), "{served} of 50 are served");
    wait_until("the next is served", || is_served(&connect(address)));
}

fn what_all_clients_keep_waiting_is_bounded(setup: Setup) {
    let server = setup.serve(&["--echo", "127.0.0.1:0", "--max-buffered", "400K"]);
    let address = server.addr("echo");
    let pinger = connect(address);
    // Each is stuck with more than 64 KiB of answers: a dozen of them are over the bound.
    let block = pattern(64 * 1024, 1);
    let mut closed = 0;
    let mut stuck = Vec::new();
    for _ in 0..12 {
        let stream = connect(address);
        if push_or_closed(&server, &stream, &block) {
            stuck.push(stream);
        } else {
            closed += 1;
        }
        exchange(&pinger, b"nobody else is touched");
    }
    assert!(closed > 0, "all twelve keep their answers waiting");
    assert!(!stuck.is_empty(), "not one may keep anything waiting");
    drop(stuck);
    wait_until("there is room again", || is_served(&connect(address)));
    exchange(&pinger, b"to the end");
}

/// Sends without reading until the server is stuck with the answers (`true`), or closes the connection.
fn push_or_closed(server: &Server, mut stream: &TcpStream, block: &[u8]) -> bool {
    stream.set_nonblocking(true).unwrap();
    let start = Instant::now();
    let mut refused = false;
    let open = loop {
        assert!(start.elapsed() < DEADLINE, "neither stuck nor closed");
        match stream.write(block) {
            Ok(_) => refused = false,
            // Refused before and after a rest: the server takes no more. For a while only, it may have no processor.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && refused => break true,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                wait_until_at_rest(server);
                refused = true;
            }
            Err(_) => break false,
        }
    };
    stream.set_nonblocking(false).unwrap();
    wait_until_at_rest(server);
    open
}

/// Connects and sends `bytes` while the server is stopped: however long this machine holds us up between the two, the
/// server finds both at once, and no timeout of its comes between them.
#[track_caller]
fn connect_and_send(server: &Server, service: &str, bytes: &[u8]) -> TcpStream {
    while_stopped(server, || {
        let stream = connect(server.addr(service));
        send(&stream, bytes);
        stream
    })
}

fn an_idle_client_is_closed_and_not_early(setup: Setup) {
    let server = setup.serve(&["--echo", "127.0.0.1:0", "--idle-timeout", "0.5"]);
    let start = Instant::now();
    let silent = connect(server.addr("echo"));
    assert!(time_to_close(&silent, start) >= Duration::from_millis(500));
    // The server hears a word after we have begun to say it, so that its half second ends after ours.
    let start = Instant::now();
    let talker = connect_and_send(&server, "echo", b"a word");
    expect(&talker, b"a word");
    assert!(time_to_close(&talker, start) >= Duration::from_millis(500));
}

fn a_client_that_talks_is_not_idle(setup: Setup) {
    // Longer than this machine may hold up the talker.
    let server = setup.serve(&["--echo", "127.0.0.1:0", "--idle-timeout", "5"]);
    let talker = connect(server.addr("echo"));
    let silent = connect(server.addr("echo"));
    let start = Instant::now();
    // One exchange in a hundred milliseconds until the other has been closed, which takes five seconds.
    silent.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    loop {
        exchange(&talker, b"here");
        match (&silent).read(&mut [0]) {
            Ok(0) => break,
            Ok(_) => panic!("an answer to nothing"),
            Err(_) => assert!(start.elapsed() < DEADLINE, "the silent one is not closed"),
        }
    }
    exchange(&talker, b"still here");
}

fn a_client_that_never_says_a_byte_is_closed(setup: Setup) {
    let server = setup.serve(&["--echo", "127.0.0.1:0", "--first-byte-timeout", "0.3"]);
    // Before both: the server may accept them in one turn, whose time is that of its beginning.
    let start = Instant::now();
    let talker = connect_and_send(&server, "echo", b"a word");
    let silent = connect(server.addr("echo"));
    expect(&talker, b"a word");
    assert!(time_to_close(&silent, start) >= Duration::from_millis(300));
    exchange(&talker, b"I have said something once");
}

fn a_client_that_takes_nothing_is_closed_and_one_that_takes_a_little_is_not(setup: Setup) {
    let server = setup.serve(&["--echo", "127.0.0.1:0", "--write-timeout", "5"]);
    let block = pattern(64 * 1024, 2);
    let streams = [connect(server.addr("echo")), connect(server.addr("echo"))];
    // The last bytes that the lazy one's kernel takes come later than this.
    let start = Instant::now();
    let sent = push_until_stuck(&server, &streams, &block);
    let [lazy, mut slow] = streams.each_ref();
    // The slow one takes a piece now and then, until the lazy one has been closed: its next write says so.
    let (mut taken, mut piece) = (0, vec![0; 256 * 1024]);
    lazy.set_nonblocking(true).unwrap();
    while !matches!((&*lazy).write(b"?"), Err(error) if error.kind() != std::io::ErrorKind::WouldBlock) {
        assert!(start.elapsed() < DEADLINE, "the lazy one is not closed");
        if taken + piece.len() < sent[1] {
            slow.read_exact(&mut piece).expect("the slow one is served on");
            taken += piece.len();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(start.elapsed() >= Duration::from_secs(5), "closed early");
    half_close(slow);
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).expect("everything comes back");
    assert_eq!(taken + rest.len(), sent[1]);
}

fn a_frame_that_is_begun_must_end(setup: Setup) {
    let server = setup.serve(&["--frames", "127.0.0.1:0", "--frame-timeout", "0.5"]);
    let whole = frame(b"whole");
    let waiting = connect(server.addr("frames"));
    exchange(&waiting, &whole);
    // Before the connection: a turn that accepts may hear the first bytes, and its time is that of its beginning.
    let start = Instant::now();
    let begun = connect(server.addr("frames"));
    send(&begun, &whole[..6]);
    assert!(time_to_close(&begun, start) >= Duration::from_millis(500));
    // Between two frames a client may be silent for as long as it likes.
    exchange(&waiting, &whole);
}

fn bytes_that_come_now_and_then_do_not_put_off_the_end_of_a_frame(setup: Setup) {
    let server = setup.serve(&["--frames", "127.0.0.1:0", "--frame-timeout", "1"]);
    let start = Instant::now();
    let mut drip = connect(server.addr("frames"));
    drip.write_all(&1_000_000_u32.to_be_bytes()).unwrap();
    while drip.write_all(b"x").is_ok() {
        assert!(start.elapsed() < DEADLINE, "a byte now and then keeps it open");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(start.elapsed() >= Duration::from_secs(1), "closed early");
}

fn a_delayed_answer_is_not_idleness(setup: Setup) {
    let more = ["--delay", "127.0.0.1:0", "--delay-ms", "1500", "--idle-timeout", "0.5", "--frame-timeout", "0.5"];
    let server = setup.serve(&more);
    let client = connect_and_send(&server, "delay", b"late, but it comes");
    expect(&client, b"late, but it comes");
}

fn timeouts_of_a_thousand_clients_cost_nothing_while_they_are_silent(setup: Setup) {
    let _crowd = one_crowd_at_a_time();
    raise_nofile_limit();
    let all = ["--idle-timeout", "600", "--write-timeout", "600", "--frame-timeout", "600"];
    let server = setup.serve(&[&["--echo", "127.0.0.1:0"], &all[..]].concat());
    let clients: Vec<_> = (0..1000).map(|_| connect(server.addr("echo"))).collect();
    clients.iter().for_each(|client| exchange(client, b"once"));
    // A tenth of a second without one context switch: no tick, no wheel that is turned.
    wait_until_at_rest(&server);
}
