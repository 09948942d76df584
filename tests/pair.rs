//! Pairs of sockets (`eagain::pair`): both ends are ours, whatever strangers do meanwhile.

#[path = "network/namespaces.rs"]
#[allow(dead_code, reason = "its links and counters are for others")]
mod namespaces;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use eagain::pair::{self, Error, Family};
use namespaces::Namespace;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use socket2::{Domain, SockRef, Socket, Type};

const PATIENCE: Duration = Duration::from_secs(60);

/// Each hears what the other says, and neither waits for anybody else.
#[track_caller]
fn assert_they_talk(mut left: impl Read + Write, mut right: impl Read + Write) {
    let mut received = [0; 4];
    left.write_all(b"ping").unwrap();
    right.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"ping");
    right.write_all(b"pong").unwrap();
    left.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"pong");
}

#[track_caller]
fn assert_a_pair(pair: (TcpStream, TcpStream)) {
    let (left, right) = pair;
    assert_eq!(left.local_addr().unwrap(), right.peer_addr().unwrap());
    assert_eq!(right.local_addr().unwrap(), left.peer_addr().unwrap());
    for end in [&left, &right] {
        end.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    assert_they_talk(left, right);
}

/// Listens, but accepts nobody; the queue takes so many and one more.
fn listener(backlog: i32) -> (TcpListener, SocketAddr) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(backlog).unwrap();
    let listener = TcpListener::from(listener);
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[track_caller]
fn assert_is_shut_out(mut stranger: TcpStream) {
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    let error = stranger.read(&mut [0]).expect_err("a stranger is reset, not merely left alone");
    assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
}

#[test]
fn the_ends_of_a_pair_hear_each_other() {
    assert_a_pair(pair::tcp_loopback(Family::V4).unwrap());
    match pair::tcp_loopback(Family::V6) {
        Err(Error::NoLoopback(address)) => assert!(address.is_ipv6(), "a machine without IPv6"),
        pair => assert_a_pair(pair.unwrap()),
    }
    let (left, right) = pair::unix().unwrap();
    assert_they_talk(left, right);
}

#[test]
fn the_ends_block_do_not_survive_exec_and_do_not_delay() {
    let (left, right) = pair::tcp_loopback(Family::V4).unwrap();
    for end in [&left, &right] {
        assert!(end.nodelay().unwrap());
    }
    let (unix_left, unix_right) = pair::unix().unwrap();
    for end in [left.as_fd(), right.as_fd(), unix_left.as_fd(), unix_right.as_fd()] {
        let status = OFlag::from_bits_retain(fcntl(end, FcntlArg::F_GETFL).unwrap());
        assert!(!status.contains(OFlag::O_NONBLOCK));
        let flags = FdFlag::from_bits_retain(fcntl(end, FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC));
    }
}

#[test]
fn a_stranger_who_connects_first_is_shut_out() {
    let (listener, address) = listener(16);
    let strangers: Vec<_> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert_a_pair(pair::tcp_through(listener, PATIENCE).unwrap());
    strangers.into_iter().for_each(assert_is_shut_out);
}

#[test]
fn a_stranger_who_speaks_first_is_not_heard() {
    let (listener, address) = listener(16);
    let mut stranger = TcpStream::connect(address).unwrap();
    stranger.write_all(b"I am the other end").unwrap();
    assert_a_pair(pair::tcp_through(listener, PATIENCE).unwrap());
    assert_is_shut_out(stranger);
}

/// In the queue he still has his address, while his port is free for us.
#[test]
fn a_stranger_who_was_reset_in_the_queue_is_passed_over() {
    let (listener, address) = listener(16);
    for _ in 0..8 {
        let stranger = TcpStream::connect(address).unwrap();
        SockRef::from(&stranger).set_linger(Some(Duration::ZERO)).unwrap();
    }
    assert_a_pair(pair::tcp_through(listener, PATIENCE).unwrap());
}

#[test]
fn a_full_queue_of_strangers_makes_it_late_and_not_wrong() {
    let (listener, address) = listener(0);
    let stranger = TcpStream::connect(address).unwrap();
    // Our SYN is dropped now, and sent again after a second.
    assert_a_pair(pair::tcp_through(listener, PATIENCE).unwrap());
    assert_is_shut_out(stranger);
}

#[test]
fn a_timeout_may_be_longer_than_time_can_be_told() {
    let (listener, _) = listener(16);
    assert_a_pair(pair::tcp_through(listener, Duration::MAX).unwrap());
}

/// What is wrong is told in words that help, and at once where the kernel knows.
#[test]
fn without_a_loopback_there_is_no_pair_and_the_error_names_it() {
    let namespace = match Namespace::new() {
        Ok(namespace) => namespace,
        // Other users may make namespaces on no machine that we know of.
        Err(error) => return eprintln!("not tested: no network namespace: {error}"),
    };
    for family in [Family::V4, Family::V6] {
        let error = namespace.run(|| pair::tcp_loopback(family)).unwrap_err();
        assert!(matches!(error, Error::NoLoopback(address) if address.ip().is_loopback()), "{error:?}");
        assert!(error.to_string().contains("bring the interface `lo` up"), "{error}");
    }
    // A loopback that was up once: packets vanish, and only the time tells.
    namespace.command("ip link set lo up").unwrap();
    assert_a_pair(namespace.run(|| pair::tcp_loopback(Family::V4)).unwrap());
    namespace.command("ip link set lo down").unwrap();
    let error = namespace.run(|| {
        let (listener, _) = listener(16);
        pair::tcp_through(listener, Duration::from_millis(100)).unwrap_err()
    });
    assert!(error.to_string().contains("is the interface `lo` up"), "{error}");
}

/// Somebody else listens on the same port, at the exact address, which the kernel prefers: he gets our connection.
#[test]
fn a_pair_that_is_never_finished_has_a_deadline() {
    let listen = |address: SocketAddr| {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.set_reuse_port(true).unwrap();
        listener.bind(&address.into()).unwrap();
        listener.listen(16).unwrap();
        TcpListener::from(listener)
    };
    let thief = listen("127.0.0.1:0".parse().unwrap());
    let listener = listen(SocketAddr::from(([0, 0, 0, 0], thief.local_addr().unwrap().port())));
    let (before, timeout) = (Instant::now(), Duration::from_millis(200));
    match pair::tcp_through(listener, timeout) {
        Err(Error::TimedOut { after, strangers: 0 }) => assert_eq!(after, timeout),
        other => panic!("{other:?}"),
    }
    assert!((timeout..PATIENCE).contains(&before.elapsed()));
    drop(thief.accept().unwrap());
}

/// Strangers connect as fast as they can, before and while a pair is made, again and again.
#[test]
fn a_flood_gets_nobody_in_and_makes_nobody_wait_for_ever() {
    const NOWHERE: u16 = 0;
    let (port, came) = (AtomicU16::new(NOWHERE), AtomicU64::new(0));
    let (port, came) = (&port, &came);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = &stop;
        for _ in 0..2 {
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let address = SocketAddr::from(([127, 0, 0, 1], port.load(Ordering::Relaxed)));
                    if address.port() == NOWHERE {
                        thread::yield_now();
                    } else if TcpStream::connect_timeout(&address, Duration::from_millis(50)).is_ok() {
                        came.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let guard = StopAtEnd(stop);
        for _ in 0..20 {
            let before = came.load(Ordering::Relaxed);
            let (listener, address) = listener(4096);
            port.store(address.port(), Ordering::Relaxed);
            let start = Instant::now();
            while came.load(Ordering::Relaxed) < before + 4 {
                assert!(start.elapsed() < PATIENCE, "no stranger comes");
                thread::yield_now();
            }
            assert_a_pair(pair::tcp_through(listener, PATIENCE).unwrap());
            port.store(NOWHERE, Ordering::Relaxed);
        }
        drop(guard);
    });
}

/// Also when the test fails: the threads of the scope are waited for.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
