//! SIGTERM and SIGINT: nobody new is let in, every answer that was due still comes, every connection ends with a FIN,
//! and no client holds the server longer than `--drain-timeout`.
#![cfg(feature = "cli")]

mod common;
#[path = "common/pressure.rs"]
mod pressure;

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pressure::*;

in_every_model! {
    idle_server_exits_at_once,
    idle_connections_end_with_a_fin,
    answer_to_a_slow_reader_arrives_whole,
    requests_sent_before_the_signal_are_answered,
    frames_sent_before_the_signal_are_answered,
    requests_that_wait_in_the_kernel_are_answered,
    connections_that_wait_to_be_accepted_are_answered,
    requests_are_answered_by_a_server_that_seldom_runs,
    new_connections_are_refused_once_the_drain_has_begun,
    delayed_answers_still_come,
    chargen_ends,
    half_a_frame_does_not_hang_the_drain,
    client_that_never_reads_holds_it_no_longer_than_the_timeout,
    client_that_never_stops_talking_holds_it_no_longer_than_the_timeout,
    second_signal_ends_it_at_once,
    unix_socket_file_is_removed,
    drain_works_without_descriptors,
}

/// What a loaded machine may add to any time that is asserted here: it has been seen to add more than two seconds. All
/// that the server must not wait for takes longer than that: [`PATIENT`], and the half minute of [`SLOW_ANSWERS`].
const SLACK: Duration = Duration::from_secs(20);

/// A drain that takes a minute if it waits for what it should not.
const PATIENT: [&str; 2] = ["--drain-timeout", "60"];

/// `eagain serve` with these options, and [`PATIENT`].
#[track_caller]
fn serve_patiently(setup: Setup, more: &[&str]) -> Server {
    setup.serve(&[more, &PATIENT].concat())
}

/// Sends `signal` and returns the moment before.
#[track_caller]
fn signal_now(server: &Server, signal: Signal) -> Instant {
    let now = Instant::now();
    server.signal(signal);
    now
}

/// The server ends with status 0, at most `limit` after `since`.
#[track_caller]
fn expect_exit(server: &mut Server, since: Instant, limit: Duration) {
    let status = server.wait_for_exit();
    let took = since.elapsed();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(took <= limit + SLACK, "the exit took {took:?}, allowed were {limit:?}");
}

fn idle_server_exits_at_once(setup: Setup) {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut server = serve_patiently(setup, &["--echo", ANY, "--frames", ANY]);
        let since = signal_now(&server, signal);
        expect_exit(&mut server, since, Duration::ZERO);
        // Also after it has worked.
        let mut server = serve_patiently(setup, &["--echo", ANY]);
        ping(server.addr("echo"), b"ping");
        let since = signal_now(&server, signal);
        expect_exit(&mut server, since, Duration::ZERO);
    }
}

fn idle_connections_end_with_a_fin(setup: Setup) {
    let mut server = serve_patiently(setup, &["--echo", ANY, "--frames", ANY, "--discard", ANY, "--delay", ANY]);
    let mut clients = Vec::new();
    for service in ["echo", "frames", "discard", "delay"] {
        for index in 0..25 {
            let client = connect(server.addr(service));
            if service != "delay" && index % 2 == 0 {
                send(&client, &frame(b"before"));
            }
            if ["echo", "frames"].contains(&service) && index % 2 == 0 {
                expect(&client, &frame(b"before"));
            }
            clients.push(client);
        }
    }
    wait_until_at_rest(&server);
    let since = signal_now(&server, Signal::SIGTERM);
    clients.iter().for_each(|client| expect_to_end(client, b""));
    assert!(since.elapsed() < SLACK, "the ends took {:?}", since.elapsed());
    expect_exit(&mut server, since, Duration::ZERO);
}

/// The bytes that this end of a TCP connection has sent and the other kernel has not yet acknowledged: `tx_queue` of
/// proc_net_tcp(5).
fn unacknowledged(client: &TcpStream) -> usize {
    let local = format!(":{:04X}", client.local_addr().unwrap().port());
    let peer = format!(":{:04X}", client.peer_addr().unwrap().port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.skip(1).find(|row| row[1].ends_with(&local) && row[2].ends_with(&peer));
    let row = row.expect("an open connection is in /proc/net/tcp");
    usize::from_str_radix(row[4].split(':').next().unwrap(), 16).unwrap()
}

fn answer_to_a_slow_reader_arrives_whole(setup: Setup) {
    let mut server = serve_patiently(setup, &["--echo", ANY, "--frames", ANY]);
    let block = frame(&pattern(50_000, 1));
    let clients = [connect(server.addr("echo")), connect(server.addr("frames"))];
    let sent = push_until_stuck(&server, &clients, &block);
    let arrived: Vec<usize> = clients.iter().zip(&sent).map(|(client, sent)| sent - unacknowledged(client)).collect();
    println!("sent {sent:?}, of them acknowledged {arrived:?}");
    let since = signal_now(&server, Signal::SIGTERM);
    thread::scope(|scope| {
        for (client, arrived) in clients.iter().zip(&arrived) {
            let block = &block;
            // A frame that has not arrived whole has no answer.
            let due = arrived - arrived % block.len();
            scope.spawn(move || {
                let received = read_slowly_to_end(client, block);
                assert!(received >= due, "{received} bytes of an answer of {due}");
            });
        }
    });
    drop(clients);
    expect_exit(&mut server, since, Duration::from_secs(25));
}

/// Receives `block` over and over until the FIN, with a pause now and then; returns how many bytes came.
#[track_caller]
fn read_slowly_to_end(mut client: &TcpStream, block: &[u8]) -> usize {
    let mut received = 0;
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let at = received % block.len();
        let wanted = chunk.len().min(block.len() - at);
        let count = client.read(&mut chunk[..wanted]).expect("recv until the end");
        if count == 0 {
            return received;
        }
        assert_same(&chunk[..count], &block[at..at + count]);
        received += count;
        thread::sleep(Duration::from_millis(5));
    }
}

/// 50 clients of `service` send `request` and wait for its answer, over and over. SIGTERM falls among them. Each must
/// get as many answers as it had sent requests before the signal.
#[track_caller]
fn load_loses_no_answer(setup: Setup, service: &str, request: &[u8]) {
    let mut server = serve_patiently(setup, &[&format!("--{service}"), ANY]);
    let sent: Vec<AtomicUsize> = (0..50).map(|_| AtomicUsize::new(0)).collect();
    let answered: Vec<AtomicUsize> = (0..50).map(|_| AtomicUsize::new(0)).collect();
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let (since, sent_before) = thread::scope(|scope| {
        let mut clients = Vec::new();
        for (sent, answered) in sent.iter().zip(&answered) {
            let (client, stop) = (connect(server.addr(service)), &stop);
            clients.push(scope.spawn(move || {
                let stopped = || stop.load(Ordering::SeqCst) || start.elapsed() > 2 * DEADLINE;
                // The end comes as a FIN between requests, or as a failed send or a reset after it.
                while !stopped() && (&client).write_all(request).is_ok() {
                    sent.fetch_add(1, Ordering::SeqCst);
                    match receive_answer(&client, request) {
                        true => answered.fetch_add(1, Ordering::SeqCst),
                        false => break,
                    };
                }
            }));
        }
        wait_until("every client is well under way", || {
            answered.iter().all(|count| count.load(Ordering::SeqCst) >= 20)
        });
        let before: Vec<usize> = sent.iter().map(|count| count.load(Ordering::SeqCst)).collect();
        let since = signal_now(&server, Signal::SIGTERM);
        // They go on talking over several sweeps of the draining server, and until they have what they had asked for.
        // A bound on the drain instead has cut off answers on a busy machine: two seconds are nothing there.
        let over = |at: usize| clients[at].is_finished() || answered[at].load(Ordering::SeqCst) >= before[at];
        wait_until("each client is answered or has been cut off", || {
            since.elapsed() > Duration::from_millis(500) && (0..before.len()).all(over)
        });
        stop.store(true, Ordering::SeqCst);
        (since, before)
    });
    expect_exit(&mut server, since, Duration::ZERO);
    for (before, answered) in sent_before.into_iter().zip(&answered) {
        let answered = answered.load(Ordering::SeqCst);
        assert!(answered >= before, "{answered} answers to {before} requests sent before the signal");
    }
}

/// Receives one whole answer; false if the connection ends before its first byte.
#[track_caller]
fn receive_answer(mut client: &TcpStream, expected: &[u8]) -> bool {
    let mut received = vec![0; expected.len()];
    let mut length = 0;
    while length < received.len() {
        match client.read(&mut received[length..]) {
            Ok(count @ 1..) => length += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("no answer and no end"),
            Ok(0) | Err(_) if length == 0 => return false,
            other => panic!("the end after {length} of {} bytes: {other:?}", received.len()),
        }
    }
    assert_same(&received, expected);
    true
}

fn requests_sent_before_the_signal_are_answered(setup: Setup) {
    load_loses_no_answer(setup, "echo", &pattern(1024, 2));
}

fn frames_sent_before_the_signal_are_answered(setup: Setup) {
    let several: Vec<u8> = (0..4).flat_map(|seed| frame(&pattern(1000, seed))).collect();
    load_loses_no_answer(setup, "frames", &several);
}

fn requests_that_wait_in_the_kernel_are_answered(setup: Setup) {
    for service in ["echo", "frames"] {
        let mut server = serve_patiently(setup, &[&format!("--{service}"), ANY]);
        let clients: Vec<TcpStream> = (0..100).map(|_| connect(server.addr(service))).collect();
        clients.iter().for_each(|client| exchange(client, &frame(b"first")));
        // More than one buffer of requests is there when the signal is seen.
        let request = frame(&pattern(100, 3)).repeat(400);
        let since = while_stopped(&server, || {
            clients.iter().for_each(|client| send(client, &request));
            signal_now(&server, Signal::SIGTERM)
        });
        clients.iter().for_each(|client| expect_to_end(client, &request));
        drop(clients);
        expect_exit(&mut server, since, Duration::ZERO);
    }
}

fn connections_that_wait_to_be_accepted_are_answered(setup: Setup) {
    let mut server = serve_patiently(setup, &["--echo", ANY, "--frames", ANY]);
    ping(server.addr("echo"), b"ping");
    let (since, clients) = while_stopped(&server, || {
        let connect_and_send = |index: usize| {
            let client = connect(server.addr(["echo", "frames"][index % 2]));
            send(&client, &frame(&pattern(500, index as u64)));
            if index % 4 < 2 {
                half_close(&client);
            }
            client
        };
        let clients: Vec<TcpStream> = (0..400).map(connect_and_send).collect();
        (signal_now(&server, Signal::SIGTERM), clients)
    });
    for (index, client) in clients.iter().enumerate() {
        expect_to_end(client, &frame(&pattern(500, index as u64)));
    }
    drop(clients);
    expect_exit(&mut server, since, Duration::ZERO);
}

/// What counts as silence must not be that the server was slow, or was not running at all.
fn requests_are_answered_by_a_server_that_seldom_runs(setup: Setup) {
    let mut server = setup.serve(&["--echo", ANY, "--drain-timeout", "60"]);
    ping(server.addr("echo"), b"ping");
    let request = pattern(500, 1);
    let clients = while_stopped(&server, || {
        let clients: Vec<TcpStream> = (0..400).map(|_| connect(server.addr("echo"))).collect();
        clients.iter().for_each(|client| send(client, &request));
        server.signal(Signal::SIGTERM);
        clients
    });
    let pid = Pid::from_raw(server.pid() as i32);
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            // Where it has ended already, nobody is hit: its parent, who is here, has not asked for its status.
            for _ in 0..40 {
                thread::sleep(Duration::from_millis(3));
                kill(pid, Signal::SIGSTOP).unwrap();
                // Longer than the silence that a drain waits for.
                thread::sleep(Duration::from_millis(110));
                kill(pid, Signal::SIGCONT).unwrap();
                if answered.load(Ordering::Relaxed) == clients.len() {
                    break;
                }
            }
        });
        for client in &clients {
            expect_to_end(client, &request);
            answered.fetch_add(1, Ordering::Relaxed);
        }
    });
    drop(clients);
    assert!(server.wait_for_exit().success());
}

/// A client whose answer is due in half a minute, so that a drain has to wait for it. Asks for a server with
/// `SLOW_ANSWERS`.
#[track_caller]
fn client_with_an_answer_due(server: &Server) -> TcpStream {
    let client = connect(server.addr("delay"));
    send(&client, b"due in half a minute");
    wait_until_at_rest(server);
    client
}

const SLOW_ANSWERS: [&str; 6] = ["--delay", ANY, "--delay-ms", "30000", "--drain-timeout", "60"];

/// Waits until a new connection is refused; one that came before that may still be accepted or reset.
#[track_caller]
fn wait_until_refused(address: &str) {
    let address: std::net::SocketAddr = address.parse().unwrap();
    wait_until("new connections are refused", || {
        let outcome = TcpStream::connect_timeout(&address, DEADLINE);
        outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
}

fn new_connections_are_refused_once_the_drain_has_begun(setup: Setup) {
    let mut server = setup.serve(&[&["--echo", ANY, "--frames", ANY], &SLOW_ANSWERS[..]].concat());
    let client = client_with_an_answer_due(&server);
    let since = signal_now(&server, Signal::SIGTERM);
    for service in ["echo", "frames", "delay"] {
        wait_until_refused(server.addr(service));
    }
    assert!(since.elapsed() < SLACK, "it took {:?}", since.elapsed());
    server.assert_running();
    // The one that it waited for goes: nothing is due any more.
    rst(client);
    expect_exit(&mut server, since, Duration::ZERO);
}

fn delayed_answers_still_come(setup: Setup) {
    let mut server = serve_patiently(setup, &["--delay", ANY, "--delay-ms", "1000"]);
    let clients: Vec<TcpStream> = (0..50).map(|_| connect(server.addr("delay"))).collect();
    for (index, client) in clients.iter().enumerate() {
        send(client, b"late");
        if index % 2 == 0 {
            half_close(client);
        }
    }
    wait_until_at_rest(&server);
    let since = signal_now(&server, Signal::SIGTERM);
    clients.iter().for_each(|client| expect_to_end(client, b"late"));
    drop(clients);
    expect_exit(&mut server, since, Duration::from_secs(1));
}

fn chargen_ends(setup: Setup) {
    let mut server = serve_patiently(setup, &["--chargen", ANY]);
    let clients: Vec<TcpStream> = (0..4).map(|_| connect(server.addr("chargen"))).collect();
    for client in &clients {
        (&mut &*client).read_exact(&mut [0; 10_000]).expect("recv");
    }
    let since = signal_now(&server, Signal::SIGTERM);
    for client in &clients {
        io::copy(&mut &*client, &mut io::sink()).expect("recv until the end");
    }
    drop(clients);
    expect_exit(&mut server, since, Duration::ZERO);
}

fn half_a_frame_does_not_hang_the_drain(setup: Setup) {
    let mut server = setup.serve(&["--frames", ANY]);
    let whole = frame(&pattern(1000, 4));
    let clients: Vec<TcpStream> = [2, 4, 500]
        .into_iter()
        .map(|part| {
            let client = connect(server.addr("frames"));
            // The frame before the half one has its answer.
            send(&client, &[&whole, &whole[..part]].concat());
            expect(&client, &whole);
            client
        })
        .collect();
    let since = signal_now(&server, Signal::SIGTERM);
    for client in &clients {
        let mut rest = Vec::new();
        // With half a frame unread the end may be a reset; nothing that was due is lost by it.
        let _ = (&*client).read_to_end(&mut rest);
        assert!(rest.is_empty(), "an answer to half a frame: {} bytes", rest.len());
    }
    expect_exit(&mut server, since, Duration::from_secs(5));
}

const BLOCK: [u8; 1000] = [7; 1000];

fn client_that_never_reads_holds_it_no_longer_than_the_timeout(setup: Setup) {
    let timeout = Duration::from_secs(1);
    let mut server = setup.serve(&["--echo", ANY, "--chargen", ANY, "--drain-timeout", "1"]);
    let chargen = connect(server.addr("chargen"));
    let silent = connect(server.addr("echo"));
    let stuck = [connect(server.addr("echo"))];
    push_until_stuck(&server, &stuck, &BLOCK);
    let since = signal_now(&server, Signal::SIGTERM);
    expect_exit(&mut server, since, timeout);
    assert!(since.elapsed() >= timeout / 2, "it gave up on the answers after {:?}", since.elapsed());
    drop((chargen, silent, stuck));
}

fn client_that_never_stops_talking_holds_it_no_longer_than_the_timeout(setup: Setup) {
    let mut server = setup.serve(&["--echo", ANY, "--drain-timeout", "1"]);
    let client = connect(server.addr("echo"));
    let since = thread::scope(|scope| {
        scope.spawn(|| while (&client).write_all(&BLOCK).is_ok() {});
        scope.spawn(|| while (&client).read(&mut [0; 4096]).is_ok_and(|count| count > 0) {});
        wait_until("the client is under way", || server.cpu_ticks() > 2);
        let since = signal_now(&server, Signal::SIGTERM);
        expect_exit(&mut server, since, Duration::from_secs(1));
        since
    });
    assert!(since.elapsed() < Duration::from_secs(1) + SLACK);
}

fn second_signal_ends_it_at_once(setup: Setup) {
    for (first, second) in
        [(Signal::SIGTERM, Signal::SIGTERM), (Signal::SIGINT, Signal::SIGINT), (Signal::SIGTERM, Signal::SIGINT)]
    {
        let mut server = setup.serve(&SLOW_ANSWERS);
        let client = client_with_an_answer_due(&server);
        server.signal(first);
        wait_until_refused(server.addr("delay"));
        server.assert_running();
        let since = signal_now(&server, second);
        server.wait_for_exit();
        assert!(since.elapsed() < SLACK, "the exit took {:?}", since.elapsed());
        drop(client);
    }
}

fn unix_socket_file_is_removed(setup: Setup) {
    let name = format!("eagain-shutdown-{}-{setup:?}", std::process::id());
    let path: PathBuf = std::env::temp_dir().join(name);
    let address = format!("unix:{}", path.display());
    for _ in 0..2 {
        // The second round binds the same path again.
        let mut server = serve_patiently(setup, &["--echo", &address]);
        let client = connect_unix(&address);
        send(&client, b"before");
        expect(&client, b"before");
        let since = signal_now(&server, Signal::SIGTERM);
        expect_to_end(&client, b"");
        drop(client);
        expect_exit(&mut server, since, Duration::ZERO);
        assert!(!path.exists(), "{} is left behind", path.display());
    }
}

fn drain_works_without_descriptors(setup: Setup) {
    let mut command = std::process::Command::new("prlimit");
    command.arg("--nofile=64:64").arg(program());
    let setup = setup.args();
    let mut args: Vec<&str> = setup.iter().map(String::as_str).collect();
    args.extend(["--echo", ANY]);
    let mut server = Server::start_as(command, &args);
    let clients: Vec<TcpStream> = (0..100).map(|_| connect(server.addr("echo"))).collect();
    clients.iter().take(30).for_each(|client| exchange(client, b"before"));
    wait_until("the server has used all of its descriptors", || server.fd_count() >= 60);
    let since = signal_now(&server, Signal::SIGTERM);
    clients.iter().take(30).for_each(|client| expect_to_end(client, b""));
    expect_exit(&mut server, since, Duration::from_secs(5));
}
