//! What a stranger tries first.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use eagain::completion::{AssociateError, Error, Failure, Outcome, Port, Reason};
use eagain::sys::epoll;
use eagain::sys::net::NonBlocking;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use super::{PATIENCE, is_cancelled, next, nothing, pair, received, room};

#[test]
fn a_file_is_refused_and_comes_back_and_a_pipe_says_that_it_is_no_socket() {
    let port = Port::new().unwrap();
    let file = OwnedFd::from(File::open("/proc/self/exe").unwrap());
    let refused = port.associate(NonBlocking::trust(file), 0).unwrap_err();
    assert_eq!(refused.reason, AssociateError::Epoll(epoll::Error::NotPollable));
    let mut file = File::from(OwnedFd::from(refused.socket.into_inner()));
    assert_eq!(file.read(&mut [0; 4]).unwrap(), 4);

    let (reader, writer) = std::io::pipe().unwrap();
    let pipe = port.associate(NonBlocking::new(OwnedFd::from(reader)).unwrap(), 0).unwrap();
    port.recv(pipe, room()).unwrap();
    nothing(&port); // An empty pipe is as silent as an empty socket.
    drop(writer);
    let (_, result) = received(next(&port));
    let Err(Failure::Io(error)) = result else { panic!("{result:?}") };
    assert_eq!(error.raw_os_error(), Some(libc::ENOTSOCK));
}

#[test]
fn a_duplicate_is_a_socket_of_its_own_and_closing_one_leaves_the_other() {
    let port = Port::new().unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let twin = ours.try_clone().unwrap();
    let one = port.associate(NonBlocking::new(ours).unwrap(), 1).unwrap();
    let two = port.associate(NonBlocking::new(twin).unwrap(), 2).unwrap();
    port.recv(one, room()).unwrap();
    port.recv(two, room()).unwrap();
    assert!(port.close(one) && !port.close(one));
    assert!(is_cancelled(&next(&port)));
    theirs.write_all(b"x").unwrap();
    let completion = next(&port);
    assert_eq!(completion.key, 2);
    assert_eq!(received(completion).0, b"x");
}

#[test]
fn timers_of_all_lengths_are_kept_apart() {
    let port = Port::new().unwrap();
    let start = Instant::now();
    let mut far = start;
    // As far as the clock can count.
    for bit in (0..63).rev() {
        far = far.checked_add(Duration::from_secs(1 << bit)).unwrap_or(far);
    }
    port.timer(far, 9).unwrap();
    let year = port.timer(start + Duration::from_secs(366 * 86_400), 8).unwrap();
    port.timer(start, 0).unwrap();
    if let Some(past) = start.checked_sub(Duration::from_secs(1)) {
        port.timer(past, 0).unwrap();
        assert_eq!(next(&port).key, 0);
    }
    assert_eq!(next(&port).key, 0);
    assert!(port.next(Duration::from_millis(20)).unwrap().is_none());
    assert!(port.cancel(year));
    assert_eq!(next(&port).key, 8);
    port.end();
    let completion = next(&port);
    assert!(is_cancelled(&completion) && completion.key == 9);
    assert!(matches!(port.next(Duration::MAX), Err(Error::Ended)));
}

#[test]
fn a_hundred_thousand_operations_and_two_thousand_sockets_end_at_once() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let port = Port::new().unwrap();
    let hour = Instant::now() + Duration::from_secs(3600);
    let peers: Vec<_> = (0..2_000)
        .map(|key| {
            let (socket, peer) = pair(&port, key);
            port.recv(socket, room()).unwrap();
            (socket, peer)
        })
        .collect();
    for (socket, _) in &peers[..100] {
        port.send(*socket, vec![1; 400_000]).unwrap();
    }
    for key in 0..97_900 {
        port.timer(hour, key).unwrap();
    }
    assert_eq!(port.outstanding(), 100_000);
    let take = || {
        let mut taken = 0;
        while let Ok(completion) = port.next(PATIENCE) {
            taken += usize::from(is_cancelled(&completion.expect("in time")));
        }
        taken
    };
    thread::scope(|scope| {
        let takers: Vec<_> = (0..2).map(|_| scope.spawn(take)).collect();
        assert!(peers[50..1_000].iter().all(|(socket, _)| port.close(*socket)));
        port.end();
        assert!(!peers.iter().any(|(socket, _)| port.close(*socket)));
        let taken: usize = takers.into_iter().map(|taker| taker.join().unwrap()).sum();
        assert_eq!(taken, 100_000);
    });
    assert_eq!(port.outstanding(), 0);
}

#[test]
fn a_port_that_threads_share_goes_with_the_last_of_them() {
    let port = Arc::new(Port::new().unwrap());
    let (socket, mut peer) = pair(&port, 0);
    port.recv(socket, room()).unwrap();
    let sleepers: Vec<_> = (0..2)
        .map(|_| {
            let port = Arc::clone(&port);
            thread::spawn(move || while port.next(PATIENCE).is_ok_and(|completion| completion.is_some()) {})
        })
        .collect();
    port.end();
    drop(port);
    assert!(sleepers.into_iter().all(|sleeper| sleeper.join().is_ok()));
    assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_port_that_is_dropped_with_everything_outstanding_closes_its_sockets() {
    let port = Port::new().unwrap();
    let (idle, mut one) = pair(&port, 0);
    let (full, mut two) = pair(&port, 1);
    port.recv(idle, room()).unwrap();
    port.send(full, vec![3; 900_000]).unwrap();
    port.timer(Instant::now() + Duration::from_secs(3600), 2).unwrap();
    port.post(3).unwrap();
    drop(port);
    assert_eq!(one.read(&mut [0; 1]).unwrap(), 0);
    let mut rest = Vec::new();
    two.read_to_end(&mut rest).unwrap();
    assert!(rest.iter().all(|&byte| byte == 3));
}

/// Its accept queue is full, so that it answers no SYN.
fn deaf() -> (Socket, Vec<Socket>, socket2::SockAddr) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let crowd = (0..4)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address);
            socket
        })
        .collect();
    (listener, crowd, address)
}

#[test]
fn a_connect_that_nobody_answers_can_be_cancelled_and_asked_for_again() {
    let (_listener, _crowd, address) = deaf();
    let port = Port::new().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let socket = port.associate(NonBlocking::new(socket).unwrap(), 0).unwrap();
    for _ in 0..2 {
        let operation = port.connect(socket, address.clone()).unwrap();
        assert!(port.next(Duration::from_millis(20)).unwrap().is_none());
        assert_eq!(port.send(socket, vec![1]).unwrap_err().reason, Reason::Busy);
        assert!(port.cancel(operation) && !port.cancel(operation));
        assert!(is_cancelled(&next(&port)));
    }
    port.connect(socket, address).unwrap();
    assert!(port.close(socket));
    assert!(is_cancelled(&next(&port)));
}

#[test]
fn a_reset_in_place_of_bytes_is_told_to_who_receives_and_to_who_sends() {
    let port = Port::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let socket = port.associate(NonBlocking::new(listener.accept().unwrap().0).unwrap(), 0).unwrap();
    port.recv(socket, room()).unwrap();
    nothing(&port);
    socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    let (_, result) = received(next(&port));
    let Err(Failure::Io(error)) = result else { panic!("{result:?}") };
    assert_eq!(error.raw_os_error(), Some(libc::ECONNRESET));
    // What comes after a reset is an end, in both directions.
    port.recv(socket, room()).unwrap();
    assert!(matches!(received(next(&port)), (_, Ok(0))));
    port.send(socket, vec![1; 10]).unwrap();
    let Outcome::Sent { buffer, sent: 0, result: Err(Failure::Io(error)) } = next(&port).outcome else { panic!() };
    assert_eq!((buffer.len(), error.raw_os_error()), (10, Some(libc::EPIPE)));
}

#[test]
fn completions_that_ask_cancel_and_close_from_within_end_as_others_do() {
    let port = Port::new().unwrap();
    let (socket, mut peer) = pair(&port, 0);
    peer.write_all(b"a").unwrap();
    port.recv(socket, room()).unwrap();
    let first = next(&port);
    assert!(!port.cancel(first.operation), "it is over");
    let again = port.recv(socket, room()).unwrap();
    assert!(port.cancel(again));
    assert_eq!(port.recv(socket, room()).unwrap_err().reason, Reason::Busy, "until its completion is handed out");
    assert!(port.close(socket) && !port.close(socket) && !port.cancel(again));
    let last = next(&port);
    assert!(is_cancelled(&last) && last.operation == again);
    assert_eq!(port.recv(socket, room()).unwrap_err().reason, Reason::Closed);
    nothing(&port);
}

#[test]
fn nothing_to_send_is_sent_at_once_and_to_nobody_is_an_error() {
    let port = Port::new().unwrap();
    let (socket, _peer) = pair(&port, 0);
    port.send(socket, Vec::new()).unwrap();
    assert!(matches!(next(&port).outcome, Outcome::Sent { sent: 0, result: Ok(()), .. }));
    let lonely = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let lonely = port.associate(NonBlocking::new(lonely).unwrap(), 0).unwrap();
    port.recv(lonely, room()).unwrap();
    let Err(Failure::Io(error)) = received(next(&port)).1 else { panic!() };
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    port.send(lonely, vec![1]).unwrap();
    let Outcome::Sent { result: Err(Failure::Io(error)), .. } = next(&port).outcome else { panic!() };
    assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
}
