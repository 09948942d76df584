//! Faults that the kernel is made to commit: strace(1) is attached to the workers of a running server and lets system
//! calls fail, once or again and again. What must become of everybody is in the tables, [`RECV`] to [`START`].
//!
//! In all cases: those who are not hit lose no byte, whoever is hit is never left hanging, new clients are served, the
//! descriptors come back to the number before, and nothing spins.
#![cfg(feature = "cli")]

mod common;
#[path = "faults/injector.rs"]
mod injector;
#[path = "common/pressure.rs"]
mod pressure;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;

use common::*;
use injector::*;
use nix::sys::signal::Signal;
use pressure::wait_until_at_rest;

in_one_setup!(
    level,
    false,
    1,
    a_failed_recv,
    a_failed_send,
    a_failed_wait,
    a_failed_wait_of_the_main_thread,
    a_failed_registration,
    a_failed_change,
    a_failed_deletion
);
in_one_setup!(edge, true, 1, a_failed_recv, a_failed_send, a_failed_wait, a_failed_registration, a_failed_deletion);
in_every_setup! {
    a_failed_accept,
    accept_failing_without_end_starves_nobody,
    a_listener_that_cannot_come_back_for_want_of_memory_waits,
}
in_one_setup!(two_level, false, 2, a_failed_wake_up, a_failed_wake_up_of_the_shutdown);
in_one_setup!(two_edge, true, 2, a_failed_wake_up, a_failed_wake_up_of_the_shutdown);

/// What must become of whoever is hit.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// Nothing: no byte is lost, at most it takes a moment longer.
    Unseen,
    /// Level: nothing. Edge: nothing is lost, but it may wait for the next event. Only for faults that the kernel
    /// cannot commit: it never says EAGAIN while something is there, and takes care that an edge follows each EAGAIN.
    NextEvent,
    /// This connection is closed.
    Closed,
    /// The server ends with exit code 1 and one line that says why.
    Fatal,
}
use Fate::{Closed, Fatal, NextEvent, Unseen};

/// Errors of one call that have the same fate, and why.
type Row = (&'static [&'static str], Fate, &'static str);

const RECV: &[Row] = &[
    (&["EINTR"], Unseen, "the call is made again"),
    (&["EAGAIN"], NextEvent, "not possible with input there; level: the kernel repeats"),
    (&["ECONNRESET", "ETIMEDOUT", "EPIPE", "ENOTCONN", "ECONNABORTED"], Closed, "the peer has gone"),
    (&["ENOMEM", "ENOBUFS", "EMFILE"], Closed, "what is not received is a hole in the stream"),
];

const SEND: &[Row] = &[
    (&["EINTR"], Unseen, "the call is made again"),
    // "make sure we wake any epoll edge trigger waiter", net/ipv4/tcp.c: after an EAGAIN for want of memory too.
    (&["EAGAIN"], NextEvent, "not possible without an edge behind it; level: OUT is asked for"),
    (&["EPIPE", "ECONNRESET", "ETIMEDOUT", "ENOTCONN", "ECONNABORTED"], Closed, "the peer has gone"),
    (&["ENOMEM", "ENOBUFS", "EMFILE"], Closed, "the kernel does not say what has become of the bytes"),
];

const ACCEPT: &[Row] = &[
    (&["EINTR"], Unseen, "the call is made again"),
    (&["EAGAIN"], NextEvent, "not possible with somebody in the queue; level: the kernel repeats"),
    (&["ECONNABORTED", "EPROTO", "ETIMEDOUT", "EPERM"], Unseen, "accept(2): retry"),
    (&["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"], Unseen, "the listener rests for 100 ms"),
    (&["ECONNRESET", "EPIPE", "ENOTCONN", "EACCES"], Unseen, "unknown to accept(2): the listener rests for 100 ms"),
    (
        &["EBADF", "EINVAL", "ENOTSOCK"],
        Fatal,
        "nobody can be accepted any more: a server that says so can be restarted",
    ),
];

const WAIT: &[Row] = &[
    (&["EINTR"], Unseen, "an empty batch"),
    (&["EAGAIN", "ENOMEM", "ENOBUFS", "EMFILE", "ECONNRESET"], Unseen, "not possible; tried again, 16 times"),
    (&["EBADF", "EINVAL", "EFAULT"], Fatal, "a bug of ours"),
];

/// The same of the main thread. What stays ends it here, too: a server that hears no signal cannot be drained.
const WAIT_OF_MAIN: &[Row] =
    &[(&["EAGAIN", "ENOMEM", "ENOBUFS", "EMFILE", "EINVAL"], Unseen, "not possible; tried again, 16 times")];

/// EPOLL_CTL_ADD of a new connection.
const ADD: &[Row] = &[
    (
        &["ENOMEM", "ENOSPC"],
        Closed,
        "no memory, or max_user_watches: this client goes, the next ones wait in the queue",
    ),
    (&["EINTR", "EAGAIN", "ENOBUFS", "EMFILE"], Closed, "not possible; as above"),
];

/// EPOLL_CTL_MOD, which level asks for when a client does not take its answers: without it the connection would hang.
const MOD: &[Row] = &[
    (&["ENOMEM"], Closed, "nobody would tell when the client takes its answers again"),
    (&["EINTR", "EAGAIN", "ENOSPC"], Closed, "not possible; as above"),
];

/// A write to an eventfd that wakes a worker. With the errors that are not possible (the counter is 64 bits wide), what
/// the worker is to do waits until it is told the next thing.
const WAKE: &[Row] =
    &[(&["EINTR"], Unseen, "the call is made again"), (&["EAGAIN", "ENOMEM"], NextEvent, "not possible")];

/// A call of the start, how many of it succeed first, and the errors; all of them are fatal.
const START: &[(&str, u32, &[&str])] = &[
    ("epoll_create1", 0, &["EMFILE", "ENFILE", "ENOMEM"]),
    ("epoll_create1", 1, &["EMFILE"]),
    ("eventfd2", 0, &["EMFILE", "ENFILE", "ENOMEM"]),
    ("epoll_ctl", 0, &["ENOMEM", "ENOSPC"]),
    ("listen", 0, &["EADDRINUSE"]),
    ("signalfd4", 0, &["EMFILE"]),
];

/// One row of a table has several cases: each errno, and how often.
#[derive(Clone, Copy, Debug)]
struct Case {
    errno: &'static str,
    /// As strace has it: `1` is the first call, `1+2` the first, the third, the fifth, …
    when: &'static str,
    fate: Fate,
    setup: Setup,
}

impl Case {
    fn again_and_again(&self) -> bool {
        self.when.contains('+')
    }

    fn fault(&self, call: &str) -> String {
        format!("{call}:error={}:when={}", self.errno, self.when)
    }

    /// What is [`NextEvent`] must be unseen under level.
    fn unseen(&self) -> bool {
        self.fate == Unseen || (self.fate == NextEvent && !self.setup.edge_triggered)
    }
}

/// Runs all cases of a table, some at a time: most of their time is waiting.
#[track_caller]
fn every_case(setup: Setup, table: &[Row], whens: &[&'static str], run: impl Fn(Case) + Sync) {
    if !can_inject() {
        return not_tested("faults of system calls, for want of strace (Debian package strace) or of ptrace(2)");
    }
    let rows = table.iter().flat_map(|&(errnos, fate, _)| errnos.iter().map(move |&errno| (errno, fate)));
    let cases = rows.flat_map(|(errno, fate)| whens.iter().map(move |&when| Case { errno, when, fate, setup }));
    let cases: Vec<Case> = cases.collect();
    for some in cases.chunks(6) {
        thread::scope(|scope| {
            for &case in some {
                let run = &run;
                scope.spawn(move || {
                    let _told = Told(format!("{case:?}"));
                    run(case);
                });
            }
        });
    }
}

/// One line of `stderr` says why the server has ended; the others are what each start says.
fn is_one_reason(stderr: &str) -> bool {
    let is_note = |line: &&str| line.contains("RLIMIT_NOFILE") || line.contains("SIGTERM drains");
    let reasons: Vec<&str> = stderr.lines().filter(|line| !is_note(line)).collect();
    reasons.len() == 1 && reasons[0].starts_with("eagain: ")
}

/// Says which case has failed.
struct Told(String);

impl Drop for Told {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("--- the case: {}", self.0);
        }
    }
}

/// A server before the fault: how many descriptors it has open, and a client who is to notice nothing.
struct Scene {
    server: Server,
    fds: usize,
    bystander: TcpStream,
}

impl Scene {
    #[track_caller]
    fn set(setup: Setup) -> Scene {
        let server = setup.serve(&["--echo", ANY, "--delay", ANY, "--delay-ms", "20"]);
        server.wait_until_at_rest();
        let fds = server.fd_count();
        let bystander = connect(server.addr("echo"));
        exchange(&bystander, b"hello");
        Scene { server, fds, bystander }
    }

    /// Another client, whom the server knows already.
    #[track_caller]
    fn client(&self) -> TcpStream {
        let client = connect(self.server.addr("echo"));
        exchange(&client, b"hello");
        client
    }

    #[track_caller]
    fn strike(&self, faults: &[&str]) -> Injector {
        let injector = Injector::attach(&self.server, Threads::Workers, faults);
        self.server.wait_until_at_rest();
        injector
    }

    /// After one fault: old and new clients lose nothing.
    #[track_caller]
    fn others_are_served(&self) {
        exchange(&self.bystander, &pattern(100_000, 1));
        let new = connect(self.server.addr("echo"));
        exchange(&new, &pattern(100_000, 2));
    }

    /// The fault is over: everything is as before.
    #[track_caller]
    fn ends_as_before(mut self) {
        self.others_are_served();
        drop(self.bystander);
        self.server.wait_for_fd_count(self.fds);
        wait_until_at_rest(&self.server);
        self.server.assert_running();
        let stderr = self.server.stderr();
        assert!(!stderr.contains("panicked"), "{stderr}");
    }

    /// The server has ended loudly.
    #[track_caller]
    fn ends_loudly(mut self) {
        let status = self.server.wait_for_exit();
        let stderr = self.server.stderr();
        assert_eq!(status.code(), Some(1), "{stderr}");
        assert!(is_one_reason(&stderr), "{stderr}");
    }
}

fn a_failed_recv(setup: Setup) {
    every_case(setup, RECV, &["1", "1+2"], |case| a_failed_transfer(case, "recvfrom"));
}

fn a_failed_send(setup: Setup) {
    every_case(setup, SEND, &["1", "1+2"], |case| a_failed_transfer(case, "sendto"));
}

fn a_failed_transfer(case: Case, call: &str) {
    let scene = Scene::set(case.setup);
    let hit = scene.client();
    let injector = scene.strike(&[&case.fault(call)]);
    let mut late = Vec::new();
    match case.fate {
        _ if case.unseen() => exchange(&hit, &pattern(200_000, 3)),
        NextEvent => late = send_in_pieces(&scene.server, &hit),
        _ if case.again_and_again() => {
            let clients: Vec<TcpStream> = (0..8).map(|_| connect(scene.server.addr("echo"))).collect();
            let whole = clients.iter().filter(|client| is_whole_or_closed(client, &pattern(20_000, 4))).count();
            assert!(whole < clients.len(), "nobody was hit");
            is_whole_or_closed(&hit, b"the first recv fails, or a later one");
        }
        _ => assert!(!is_whole_or_closed(&hit, b"lost"), "the connection that was hit is served"),
    }
    if case.again_and_again() {
        injector.must_be_quiet(&scene.server, 20);
    } else {
        scene.others_are_served();
    }
    injector.end();
    if !late.is_empty() {
        // The next event.
        send(&hit, b"!");
        expect(&hit, &[&late, &b"!"[..]].concat());
    }
    drop(hit);
    scene.ends_as_before();
}

/// Sends so that each piece is an event. Returns what has not come back by then.
#[track_caller]
fn send_in_pieces(server: &Server, client: &TcpStream) -> Vec<u8> {
    let bytes = pattern(20_000, 5);
    for piece in bytes.chunks(1000) {
        send(client, piece);
        server.wait_until_at_rest();
    }
    let received = take_all(client);
    assert_same(&received, &bytes[..received.len()]);
    bytes[received.len()..].to_vec()
}

/// What has arrived by now.
#[track_caller]
fn take_all(client: &TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    client.set_nonblocking(true).unwrap();
    let outcome = Read::read_to_end(&mut &*client, &mut received);
    client.set_nonblocking(false).unwrap();
    match outcome {
        Err(error) if error.kind() == ErrorKind::WouldBlock => received,
        other => panic!("after {} bytes: {other:?}", received.len()),
    }
}

/// Exchanges `bytes` with a server that may close at any moment, but must not answer wrongly nor hang. `false`: it has
/// closed.
#[track_caller]
fn is_whole_or_closed(client: &TcpStream, bytes: &[u8]) -> bool {
    let mut received = Vec::new();
    let outcome = thread::scope(|scope| {
        scope.spawn(|| {
            // Fails as soon as the server has closed, which the other half sees too.
            let _ = Write::write_all(&mut &*client, bytes);
        });
        let mut bounded = Read::take(client, bytes.len() as u64);
        Read::read_to_end(&mut bounded, &mut received)
    });
    if let Err(error) = outcome {
        assert!(error.kind() != ErrorKind::WouldBlock, "stuck after {} bytes", received.len());
    }
    assert_same(&received, &bytes[..received.len()]);
    received.len() == bytes.len()
}

fn a_failed_wait(setup: Setup) {
    every_case(setup, WAIT, &["1", "1+2", "1+"], |case| {
        let scene = Scene::set(case.setup);
        let (hit, late) = (scene.client(), connect(scene.server.addr("delay")));
        exchange(&late, b"hello");
        scene.server.wait_until_at_rest();
        if (case.errno, case.when) == ("EINTR", "1+") {
            // As many signals as waits: not possible.
            return;
        }
        let injector = Injector::attach(&scene.server, Threads::Workers, &[&case.fault(WAITS)]);
        if case.fate == Fatal || case.when == "1+" {
            return scene.ends_loudly();
        }
        exchange(&hit, &pattern(200_000, 3));
        exchange(&late, &pattern(20_000, 4));
        injector.must_be_quiet(&scene.server, 20);
        injector.end();
        drop((hit, late));
        scene.ends_as_before();
    });
}

fn a_failed_accept(setup: Setup) {
    every_case(setup, ACCEPT, &["1", "1+2"], |case| {
        let scene = Scene::set(case.setup);
        let injector = scene.strike(&[&case.fault("accept4")]);
        if case.fate == Fatal {
            // It may be gone before the connection is there.
            let _hit = TcpStream::connect(scene.server.addr("echo"));
            return scene.ends_loudly();
        }
        let first = connect(scene.server.addr("echo"));
        let mut clients = Vec::new();
        while !case.unseen() && clients.len() < 8 {
            // The next event, which with two workers may be hit too.
            scene.server.wait_until_at_rest();
            clients.push(connect(scene.server.addr("echo")));
        }
        exchange(&first, &pattern(100_000, 3));
        if !case.again_and_again() {
            scene.others_are_served();
        }
        injector.must_be_quiet(&scene.server, 20);
        injector.end();
        if !case.unseen() {
            drop(connect(scene.server.addr("echo")));
        }
        clients.iter().for_each(|client| exchange(client, b"hello"));
        drop((first, clients));
        scene.ends_as_before();
    });
}

/// Errors that leave the connection in the queue: with others the kernel takes it out.
const QUEUE_STAYS: &[&str] = &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED", "EPROTO", "EPERM", "EACCES"];

fn accept_failing_without_end_starves_nobody(setup: Setup) {
    every_case(setup, &[(QUEUE_STAYS, Unseen, "the listener rests, again and again")], &["1+"], |case| {
        let scene = Scene::set(case.setup);
        let injector = scene.strike(&[&case.fault("accept4")]);
        let waiting: Vec<TcpStream> = (0..5).map(|_| connect(scene.server.addr("echo"))).collect();
        waiting.iter().for_each(|client| send(client, b"hello"));
        exchange(&scene.bystander, &pattern(100_000, 3));
        // A turn of each worker may be 64 accepts, ten times a second.
        injector.must_be_quiet(&scene.server, 600);
        waiting.iter().for_each(expect_silence);
        injector.end();
        waiting.iter().for_each(|client| expect(client, b"hello"));
        drop(waiting);
        scene.ends_as_before();
    });
}

fn a_listener_that_cannot_come_back_for_want_of_memory_waits(setup: Setup) {
    let memory: Row = (&["ENOMEM", "ENOSPC"], Unseen, "what was short is there again later");
    every_case(setup, &[memory], &["2", "2+2"], |case| {
        let Scene { server, fds, bystander } = Scene::set(case.setup);
        // Nobody is connected: there is no client to be loyal to.
        drop(bystander);
        server.wait_for_fd_count(fds);
        let faults = ["accept4:error=EMFILE:when=1", &case.fault("epoll_ctl")];
        let injector = Injector::attach(&server, Threads::Workers, &faults);
        let first = connect(server.addr("echo"));
        // Again and again: the listener comes and goes, and clients whose registration fails go too.
        let whole = is_whole_or_closed(&first, b"hello");
        assert!(whole || case.again_and_again(), "the first client is not served");
        injector.end();
        drop(first);
        Scene { bystander: connect(server.addr("echo")), server, fds }.ends_as_before();
    });
}

fn a_failed_registration(setup: Setup) {
    every_case(setup, ADD, &["1", "1+2"], |case| {
        let scene = Scene::set(case.setup);
        let injector = scene.strike(&[&case.fault("epoll_ctl")]);
        let hit = connect(scene.server.addr("echo"));
        assert!(!is_whole_or_closed(&hit, b"lost"), "a client that is not registered is served");
        exchange(&scene.bystander, &pattern(100_000, 3));
        if !case.again_and_again() {
            scene.others_are_served();
        }
        injector.end();
        drop(hit);
        scene.ends_as_before();
    });
}

/// Only level changes a registration.
fn a_failed_change(setup: Setup) {
    every_case(setup, MOD, &["1", "1+2"], |case| {
        let scene = Scene::set(case.setup);
        let hit = scene.client();
        let injector = scene.strike(&[&case.fault("epoll_ctl")]);
        // Sends and reads nothing, until its answers do not fit any more.
        hit.set_write_timeout(Some(DEADLINE / 2)).unwrap();
        let block = pattern(64 * 1024, 3);
        let outcome = std::iter::repeat_with(|| Write::write_all(&mut &hit, &block)).find_map(Result::err);
        let kind = outcome.expect("an end").kind();
        assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{kind:?}");
        scene.server.wait_for_fd_count(scene.fds + 1);
        injector.must_be_quiet(&scene.server, 20);
        injector.end();
        drop(hit);
        scene.ends_as_before();
    });
}

/// The main thread has no clients, and waits for signals: its trouble is not theirs.
fn a_failed_wait_of_the_main_thread(setup: Setup) {
    every_case(setup, WAIT_OF_MAIN, &["1", "1+2", "1+"], |case| {
        let mut scene = Scene::set(case.setup);
        let injector = Injector::attach(&scene.server, Threads::Main, &[&case.fault(WAITS)]);
        if case.when == "1+" {
            return scene.ends_loudly();
        }
        wait_until("the wait has failed", || injector.has_struck());
        scene.others_are_served();
        injector.must_be_quiet(&scene.server, 20);
        scene.server.signal(Signal::SIGTERM);
        expect_to_end(&scene.bystander, b"");
        assert!(scene.server.wait_for_exit().success());
    });
}

/// EPOLL_CTL_DEL: not possible, and of no consequence, since the descriptor is closed behind it.
fn a_failed_deletion(setup: Setup) {
    every_case(setup, ADD, &["1", "1+3"], |case| {
        let scene = Scene::set(case.setup);
        let hit = scene.client();
        let injector = scene.strike(&[&case.fault("epoll_ctl")]);
        drop(hit);
        scene.server.wait_for_fd_count(scene.fds + 1);
        scene.others_are_served();
        injector.end();
        scene.ends_as_before();
    });
}

/// A new connection that is handed on to the other worker.
fn a_failed_wake_up(setup: Setup) {
    every_case(setup, WAKE, &["1", "1+2"], |case| {
        let mut scene = Scene::set(case.setup);
        let injector = scene.strike(&[&case.fault("write")]);
        let clients: Vec<TcpStream> = (0..20).map(|_| connect(scene.server.addr("echo"))).collect();
        clients.iter().for_each(|client| send(client, b"hello"));
        if case.fate == Unseen {
            clients.iter().for_each(|client| expect(client, b"hello"));
            injector.must_be_quiet(&scene.server, 20);
            injector.detach();
            drop(clients);
            return scene.ends_as_before();
        }
        scene.server.wait_until_at_rest();
        injector.detach();
        // The next thing that a worker is told; nobody who waited is forgotten.
        assert!(scene.server.terminate().success());
        clients.iter().for_each(|client| expect_to_end(client, b"hello"));
    });
}

/// SIGTERM: the main thread tells the workers. If the wake-up is lost, the second SIGTERM is not.
fn a_failed_wake_up_of_the_shutdown(setup: Setup) {
    every_case(setup, WAKE, &["1"], |case| {
        let mut scene = Scene::set(case.setup);
        let injector = Injector::attach(&scene.server, Threads::Main, &[&case.fault("write")]);
        scene.server.wait_until_at_rest();
        scene.server.signal(Signal::SIGTERM);
        if case.fate == Unseen {
            expect_to_end(&scene.bystander, b"");
        } else {
            wait_until("the first wake-up has failed", || injector.has_struck());
            scene.server.wait_until_at_rest();
            scene.server.signal(Signal::SIGTERM);
        }
        let status = scene.server.wait_for_exit();
        assert!(status.success(), "{status:?}");
        injector.must_have_struck();
    });
}

#[test]
fn a_failed_start_is_one_line_and_exit_code_1() {
    if !can_inject() {
        return not_tested("faults at the start, for want of strace (Debian package strace) or of ptrace(2)");
    }
    for &(call, good, errnos) in START {
        for errno in errnos {
            let _told = Told(format!("{call} fails with {errno} after {good} that succeed"));
            let mut strace = Command::new("strace");
            let fault = format!("inject={call}:error={errno}:when={}", good + 1);
            strace.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", &fault]).arg(program());
            let mut server = Server::spawn_as(strace, &["--workers", "2", "--echo", ANY]);
            let status = server.wait_for_exit();
            let stderr = server.stderr();
            assert_eq!(status.code(), Some(1), "{stderr}");
            assert!(is_one_reason(&stderr), "{stderr}");
        }
    }
}
