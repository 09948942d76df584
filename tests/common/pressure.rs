//! What the tests of hostile clients, of scarce resources and of the shutdown share: a server that is stopped in the
//! middle of its work, clients that push until nothing moves any more, and a server that is shown to be at rest.
#![allow(dead_code, reason = "every test file is a crate of its own and uses a part of this")]

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::common::{DEADLINE, Server, assert_same, connect, expect, send, wait_until};

/// Runs `act` while every thread of the server is stopped. All that the clients do meanwhile waits in the kernel, so
/// that the server finds it at once: many connections behind one wake-up, data and FIN behind one event.
#[track_caller]
pub(crate) fn while_stopped<T>(server: &Server, act: impl FnOnce() -> T) -> T {
    server.signal(Signal::SIGSTOP);
    wait_until("every thread of the server has stopped", || {
        threads(server).iter().all(|thread| thread.contains("State:\tT"))
    });
    let result = act();
    server.signal(Signal::SIGCONT);
    result
}

/// `/proc/PID/task/*/status`, one string for each thread.
#[track_caller]
fn threads(server: &Server) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).expect("the server runs");
    // A thread may end between the listing and the reading.
    tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok()).collect()
}

/// Processor time in ticks and the number of context switches: a server that does anything changes one of them.
#[track_caller]
pub(crate) fn activity(server: &Server) -> (u64, u64) {
    let switches = threads(server).iter().map(|thread| context_switches(thread)).sum();
    (server.cpu_ticks(), switches)
}

fn context_switches(status: &str) -> u64 {
    let lines = status.lines().filter(|line| line.contains("ctxt_switches:"));
    lines.map(|line| line.rsplit('\t').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Waits for a tenth of a second in which the server does nothing at all: it neither spins nor ticks.
#[track_caller]
pub(crate) fn wait_until_at_rest(server: &Server) {
    let start = Instant::now();
    loop {
        let before = activity(server);
        thread::sleep(Duration::from_millis(100));
        let after = activity(server);
        // On a busy machine it may have had much to do and no processor: that is no rest.
        if before == after && threads(server).iter().all(|thread| thread.contains("State:\tS")) {
            return;
        }
        assert!(
            start.elapsed() < DEADLINE,
            "the server does not come to rest: (ticks, context switches) went from {before:?} to {after:?} in 0.1 s"
        );
    }
}

/// Everyone else is served: a new connection to `address` gets its answer.
#[track_caller]
pub(crate) fn ping(address: &str, request: &[u8]) {
    let stream = connect(address);
    send(&stream, request);
    expect(&stream, request);
}

/// A stream of either family that can stop waiting.
pub(crate) trait Client: Read + Write + Sync {
    fn set_blocking(&self, blocking: bool);
    fn write_some(&self, bytes: &[u8]) -> io::Result<usize>;
    fn read_some(&self, bytes: &mut [u8]) -> io::Result<usize>;
    fn finish(&self);
}

macro_rules! client {
    ($stream:ty) => {
        impl Client for $stream {
            fn set_blocking(&self, blocking: bool) {
                self.set_nonblocking(!blocking).unwrap();
            }
            fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
                (&*self).write(bytes)
            }
            fn read_some(&self, bytes: &mut [u8]) -> io::Result<usize> {
                (&*self).read(bytes)
            }
            fn finish(&self) {
                self.shutdown(Shutdown::Write).expect("shutdown");
            }
        }
    };
}
client!(TcpStream);
client!(UnixStream);

/// Sends `block` over and over on every stream and reads nothing, until the kernel takes no more from any of them and
/// the server is at rest. Returns how many bytes each has sent.
#[track_caller]
pub(crate) fn push_until_stuck<C: Client>(server: &Server, streams: &[C], block: &[u8]) -> Vec<usize> {
    streams.iter().for_each(|stream| stream.set_blocking(false));
    let mut sent = vec![0; streams.len()];
    loop {
        let before = sent.clone();
        for (stream, sent) in streams.iter().zip(&mut sent) {
            *sent += push(stream, block, *sent);
        }
        if sent == before {
            break;
        }
        // Far more than all kernel buffers on the way.
        let unbounded = sent.iter().find(|&&sent| sent > 128 << 20);
        assert!(unbounded.is_none(), "the server keeps on taking from clients that read nothing: {sent:?} bytes");
        wait_until_at_rest(server);
    }
    streams.iter().for_each(|stream| stream.set_blocking(true));
    sent
}

/// Sends `block` over and over, beginning behind `already` bytes, until the kernel takes no more.
#[track_caller]
fn push(stream: &impl Client, block: &[u8], already: usize) -> usize {
    let mut sent = 0;
    while sent < 64 << 20 {
        match stream.write_some(&block[(already + sent) % block.len()..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return sent,
            Err(error) => panic!("send after {} bytes: {error}", already + sent),
        }
    }
    sent
}

/// Sends what is missing of the last `block` of `sent` bytes, finishes, and receives all of them, then the end.
#[track_caller]
pub(crate) fn finish_and_compare(stream: &impl Client, block: &[u8], sent: usize) {
    let rest = (block.len() - sent % block.len()) % block.len();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut tail = &block[block.len() - rest..];
            while !tail.is_empty() {
                tail = &tail[stream.write_some(tail).expect("send of the rest")..];
            }
            stream.finish();
        });
        let received = compare_to_end(stream, block);
        assert_eq!(received, sent + rest, "bytes that came back");
    });
}

/// Receives `block` over and over until the end; returns how many bytes came.
#[track_caller]
pub(crate) fn compare_to_end(stream: &impl Client, block: &[u8]) -> usize {
    let mut received = 0;
    let mut chunk = vec![0; 256 * 1024];
    loop {
        let at = received % block.len();
        let wanted = chunk.len().min(block.len() - at);
        match stream.read_some(&mut chunk[..wanted]) {
            Ok(0) => return received,
            Ok(count) => {
                assert_same(&chunk[..count], &block[at..at + count]);
                received += count;
            }
            Err(error) => panic!("recv after {received} bytes: {error}"),
        }
    }
}

/// The number of descriptors of a server that is at rest: one that has just started may still be opening its own.
#[track_caller]
pub(crate) fn fds_at_rest(server: &Server) -> usize {
    wait_until_at_rest(server);
    server.fd_count()
}
