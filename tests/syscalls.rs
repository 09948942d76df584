//! What a message, a connection and idleness cost, in system calls of the release binary, counted by strace(1).
#![cfg(feature = "cli")]

mod common;
#[path = "common/pressure.rs"]
mod pressure;

use std::collections::HashMap;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use common::*;
use pressure::*;

in_every_setup! {
    small_echo_costs_wait_recv_send,
    small_frame_costs_wait_recv_send,
    accept_costs_accept4_and_add,
    close_costs_recv_del_and_close,
    a_whole_connection_is_registered_once_and_deleted_before_its_close,
    idle_server_makes_no_call,
}

/// The optimised build: `EAGAIN_BIN`, or the release binary beside the debug one if it is not older, or what Cargo
/// built for this test.
fn optimised() -> String {
    let tested = program();
    let debug = Path::new(&tested);
    let release = debug.parent().and_then(Path::parent).map(|target| target.join("release/eagain"));
    let built = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    match release {
        Some(release) if built(&release).is_some_and(|at| Some(at) >= built(debug)) => release.display().to_string(),
        _ => tested,
    }
}

/// Whether strace may trace here; says so once if not.
fn can_trace() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let mut probe = Command::new("strace");
        probe.args(["-D", "-f", "-o", "/dev/null", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
        let can = probe.status().is_ok_and(|status| status.success());
        if !can {
            println!("not tested: system calls, for want of strace (Debian package strace) or of ptrace(2)");
        }
        can
    })
}

/// One finished system call.
#[derive(Debug)]
struct Call {
    name: String,
    /// The arguments as strace prints them.
    arguments: String,
    /// The result: a number, or -1 and the errno.
    result: String,
}

impl Call {
    fn is_wait(&self) -> bool {
        self.name.starts_with("epoll_") && self.name.contains("wait")
    }

    fn is_receive(&self) -> bool {
        ["read", "readv", "recvfrom", "recvmsg"].contains(&&*self.name)
    }

    fn is_send(&self) -> bool {
        ["write", "writev", "sendto", "sendmsg"].contains(&&*self.name)
    }

    fn is_ctl(&self, operation: &str) -> bool {
        self.name == "epoll_ctl" && self.arguments.contains(operation)
    }

    fn is_memory(&self) -> bool {
        ["brk", "mmap", "mremap", "munmap", "madvise", "mprotect"].contains(&&*self.name)
    }

    fn failed_with(&self, errno: &str) -> bool {
        self.result.starts_with("-1 ") && self.result.contains(errno)
    }
}

/// A server under strace. `-D` makes the tracer a grandchild: the process that was started is the server itself.
struct Traced {
    server: Server,
    file: PathBuf,
}

impl Traced {
    #[track_caller]
    fn start(name: &str, setup: Setup, more: &[&str]) -> Traced {
        let discipline = if setup.edge_triggered { "edge" } else { "level" };
        let file = format!("eagain-{}-{name}-{discipline}-{}.strace", std::process::id(), setup.workers);
        let file = std::env::temp_dir().join(file);
        let mut strace = Command::new("strace");
        strace.args(["-D", "-f", "-qq", "-e", "signal=none", "-o"]).arg(&file).arg(optimised());
        let setup = setup.args();
        let args: Vec<&str> = setup.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Traced { server: Server::start_as(strace, &args), file }
    }

    /// The calls that `act` has caused: what was finished between a server at rest and a server at rest again.
    #[track_caller]
    fn calls_of(&self, act: impl FnOnce()) -> Vec<Call> {
        wait_until_at_rest(&self.server);
        let before = self.calls().len();
        act();
        wait_until_at_rest(&self.server);
        self.calls().split_off(before)
    }

    /// All finished calls so far, in the order in which they ended.
    fn calls(&self) -> Vec<Call> {
        let text = fs::read_to_string(&self.file).expect("strace writes its file");
        let mut unfinished: HashMap<&str, &str> = HashMap::new();
        let mut calls = Vec::new();
        for line in text.lines() {
            let Some((thread, rest)) = line.split_once(' ') else { continue };
            let rest = rest.trim_start();
            if let Some(head) = rest.strip_suffix(" <unfinished ...>") {
                unfinished.insert(thread, head);
            } else if let Some(tail) = rest.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>")) {
                let head = unfinished.remove(thread).unwrap_or_default();
                calls.extend(parse(&format!("{head}{}", tail.1)));
            } else {
                calls.extend(parse(rest));
            }
        }
        // A standard library with debug assertions looks at each descriptor before it closes it.
        calls.retain(|call| !(call.name == "fcntl" && call.arguments.ends_with("F_GETFD")));
        calls
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

/// `NAME(ARGUMENTS) = RESULT`.
fn parse(line: &str) -> Option<Call> {
    let (call, result) = line.rsplit_once(" = ")?;
    let (name, arguments) = call.trim_end().strip_suffix(')')?.split_once('(')?;
    Some(Call { name: name.to_owned(), arguments: arguments.to_owned(), result: result.to_owned() })
}

/// The calls in short, for a message.
fn listed(calls: &[Call]) -> String {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for call in calls {
        let operation = call.arguments.split(", ").find(|argument| argument.starts_with("EPOLL_CTL")).unwrap_or("");
        let errno = if call.result.starts_with("-1 ") { &call.result } else { "" };
        *counts.entry(format!("{} {operation} {errno}", call.name)).or_default() += 1;
    }
    let mut lines: Vec<String> = counts.iter().map(|(call, count)| format!("{count:>6} {call}")).collect();
    lines.sort();
    lines.join("\n")
}

#[track_caller]
fn assert_costs_three_calls_each(calls: &[Call], messages: usize) {
    let count = |is: fn(&Call) -> bool| calls.iter().filter(|call| is(call)).count();
    let found = (count(Call::is_wait), count(Call::is_receive), count(Call::is_send), calls.len());
    let expected = (messages, messages, messages, 3 * messages);
    assert_eq!(found, expected, "(waits, receives, sends, all) of {messages} messages:\n{}", listed(calls));
}

fn small_echo_costs_wait_recv_send(setup: Setup) {
    if !can_trace() {
        return;
    }
    let traced = Traced::start("echo", setup, &["--echo", ANY]);
    let client = connect(traced.server.addr("echo"));
    let round_trip = || {
        send(&client, &[b'e'; 64]);
        expect(&client, &[b'e'; 64]);
    };
    round_trip();
    let calls = traced.calls_of(|| (0..100).for_each(|_| round_trip()));
    assert_costs_three_calls_each(&calls, 100);
}

fn small_frame_costs_wait_recv_send(setup: Setup) {
    if !can_trace() {
        return;
    }
    let traced = Traced::start("frames", setup, &["--frames", ANY]);
    let client = connect(traced.server.addr("frames"));
    let message = frame(b"a small frame");
    let round_trip = || {
        send(&client, &message);
        expect(&client, &message);
    };
    round_trip();
    let calls = traced.calls_of(|| (0..100).for_each(|_| round_trip()));
    assert_costs_three_calls_each(&calls, 100);
}

fn accept_costs_accept4_and_add(setup: Setup) {
    if !can_trace() {
        return;
    }
    let traced = Traced::start("accept", setup, &["--echo", ANY]);
    // Tables have their first memory.
    ping(traced.server.addr("echo"), b"ping");
    let mut clients: Vec<TcpStream> = Vec::new();
    let calls = traced.calls_of(|| clients.extend((0..50).map(|_| connect(traced.server.addr("echo")))));
    let accepted = calls.iter().filter(|call| call.name == "accept4" && !call.result.starts_with('-'));
    assert_eq!(accepted.count(), 50, "{}", listed(&calls));
    assert_eq!(calls.iter().filter(|call| call.is_ctl("EPOLL_CTL_ADD")).count(), 50, "{}", listed(&calls));
    let memory = calls.iter().filter(|call| call.is_memory()).count();
    assert!(memory <= 20, "memory for 50 connections is asked for {memory} times:\n{}", listed(&calls));
    // With several workers, waking the one that is given the connection is a write to an eventfd.
    let is_hand_over = |call: &Call| setup.workers > 1 && ["write", "futex"].contains(&&*call.name);
    let surplus: Vec<&Call> = calls
        .iter()
        .filter(|call| {
            let refused = call.name == "accept4" && call.failed_with("EAGAIN");
            let expected = call.is_wait() || call.name == "accept4" || call.is_ctl("EPOLL_CTL_ADD");
            !(refused || expected || call.is_memory() || is_hand_over(call))
        })
        .collect();
    assert!(surplus.is_empty(), "{surplus:?}\n{}", listed(&calls));
    let blocking = calls.iter().find(|call| call.name == "accept4" && !call.arguments.contains("SOCK_NONBLOCK"));
    assert!(blocking.is_none(), "{blocking:?}");
}

fn close_costs_recv_del_and_close(setup: Setup) {
    if !can_trace() {
        return;
    }
    let traced = Traced::start("close", setup, &["--echo", ANY]);
    let clients: Vec<TcpStream> = (0..50).map(|_| connect(traced.server.addr("echo"))).collect();
    clients.iter().for_each(|client| exchange(client, b"hello"));
    let calls = traced.calls_of(|| drop(clients));
    let count = |is: &dyn Fn(&Call) -> bool| calls.iter().filter(|call| is(call)).count();
    assert_eq!(count(&|call| call.is_ctl("EPOLL_CTL_DEL")), 50, "{}", listed(&calls));
    assert_eq!(count(&|call| call.name == "close"), 50, "{}", listed(&calls));
    assert_eq!(count(&Call::is_receive), 50, "one recv hears the end:\n{}", listed(&calls));
    let others =
        count(&|call| !(call.is_wait() || call.is_receive() || call.name == "close" || call.is_ctl("EPOLL_CTL_DEL")));
    assert_eq!(others, 0, "{}", listed(&calls));
}

fn a_whole_connection_is_registered_once_and_deleted_before_its_close(setup: Setup) {
    if !can_trace() {
        return;
    }
    let traced = Traced::start("whole", setup, &["--echo", ANY]);
    for length in [1, 100, 10_000] {
        let life = traced.calls_of(|| {
            let client = connect(traced.server.addr("echo"));
            exchange(&client, &pattern(length, 1));
            half_close(&client);
            expect_to_end(&client, b"");
        });
        let accepted = life.iter().find(|call| call.name == "accept4" && !call.result.starts_with('-'));
        let fd = &*accepted.expect("one connection is accepted").result;
        let about_it = |call: &&Call, position: usize| call.arguments.split(", ").nth(position) == Some(fd);
        let ctl = life.iter().filter(|call| call.name == "epoll_ctl" && about_it(call, 2));
        let ctl: Vec<&str> = ctl.map(|call| call.arguments.split(", ").nth(1).unwrap()).collect();
        assert_eq!(ctl, ["EPOLL_CTL_ADD", "EPOLL_CTL_DEL"], "{life:?}");
        let deleted = life.iter().position(|call| call.is_ctl("EPOLL_CTL_DEL"));
        let closed = life.iter().position(|call| call.name == "close");
        assert!(closed.is_some() && deleted < closed, "{life:?}");
        let vain = life.iter().find(|call| call.is_receive() && about_it(call, 0) && call.failed_with("EAGAIN"));
        assert!(vain.is_none(), "a recv that only hears EAGAIN: {life:?}");
    }
}

fn idle_server_makes_no_call(setup: Setup) {
    if !can_trace() {
        return;
    }
    let traced = Traced::start("idle", setup, &["--echo", ANY, "--frames", ANY, "--delay", ANY]);
    let clients: Vec<TcpStream> =
        ["echo", "frames", "delay"].map(|service| connect(traced.server.addr(service))).into();
    exchange(&clients[0], b"hello");
    exchange(&clients[1], &frame(b"hello"));
    let calls = traced.calls_of(|| thread::sleep(Duration::from_secs(1)));
    assert!(calls.is_empty(), "{}", listed(&calls));
}
