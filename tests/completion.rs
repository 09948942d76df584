//! The completion port: its contract, on real sockets.

#[allow(dead_code, reason = "its main")]
#[path = "../examples/completion_echo.rs"]
mod example;
#[path = "completion/model.rs"]
mod model;
#[path = "completion/strangers.rs"]
mod strangers;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use eagain::completion::{AssociateError, Completion, Error, Failure, OperationId, Outcome, Port, Reason, SocketId};
use eagain::limits::{COMPLETION_POSTS_MAX, COMPLETIONS_BETWEEN_POLLS, TURN_BUDGET_BYTES};
use eagain::sys::epoll::Timeout;
use eagain::sys::net::NonBlocking;
use socket2::{Domain, Socket, Type};

const PATIENCE: Duration = Duration::from_secs(60);

/// A socket in the port, and its other end.
#[track_caller]
fn pair(port: &Port, key: u64) -> (SocketId, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    theirs.set_write_timeout(Some(PATIENCE)).unwrap();
    (port.associate(NonBlocking::new(ours).unwrap(), key).unwrap(), theirs)
}

#[track_caller]
fn next(port: &Port) -> Completion {
    port.next(PATIENCE).unwrap().expect("a completion in time")
}

#[track_caller]
fn nothing(port: &Port) {
    if let Some(completion) = port.next(Timeout::Now).unwrap() {
        panic!("{completion:?}");
    }
}

#[track_caller]
fn received(completion: Completion) -> (Vec<u8>, Result<usize, Failure>) {
    let Outcome::Received { buffer, result } = completion.outcome else { panic!("{completion:?}") };
    (buffer, result)
}

fn room() -> Vec<u8> {
    Vec::with_capacity(64)
}

fn is_cancelled(completion: &Completion) -> bool {
    match &completion.outcome {
        Outcome::Accepted(Err(failure)) | Outcome::Connected(Err(failure)) => matches!(failure, Failure::Cancelled),
        Outcome::Received { result: Err(failure), .. } => matches!(failure, Failure::Cancelled),
        Outcome::Sent { result: Err(failure), .. } => matches!(failure, Failure::Cancelled),
        Outcome::ShutDown(Err(failure)) | Outcome::Timer(Err(failure)) => matches!(failure, Failure::Cancelled),
        _ => false,
    }
}

// ---- operations ---------------------------------------------------------------------------------------------------

#[test]
fn accept_connect_send_recv_and_shutdown_make_a_conversation() {
    let port = Port::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let listener = port.associate(NonBlocking::new(listener).unwrap(), 1).unwrap();
    let accepting = port.accept(listener).unwrap();
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let client = port.associate(NonBlocking::new(client).unwrap(), 2).unwrap();
    let connecting = port.connect(client, address).unwrap();

    let mut server = None;
    for _ in 0..2 {
        let completion = next(&port);
        match completion.outcome {
            Outcome::Accepted(Ok((socket, peer))) => {
                assert_eq!((completion.operation, completion.key), (accepting, 1));
                assert!(peer.ip().is_some_and(|peer| peer.ip() == address.ip()));
                server = Some(port.associate(socket, 3).unwrap());
            }
            Outcome::Connected(Ok(())) => assert_eq!((completion.operation, completion.key), (connecting, 2)),
            other => panic!("{other:?}"),
        }
    }
    let server = server.unwrap();
    port.recv(server, room()).unwrap();
    port.send(client, b"hello".to_vec()).unwrap();
    for _ in 0..2 {
        match next(&port).outcome {
            Outcome::Sent { buffer, sent: 5, result: Ok(()) } => assert_eq!(buffer, b"hello"),
            Outcome::Received { buffer, result: Ok(5) } => assert_eq!(buffer, b"hello"),
            other => panic!("{other:?}"),
        }
    }
    port.shutdown(client).unwrap();
    assert!(matches!(next(&port).outcome, Outcome::ShutDown(Ok(()))));
    port.recv(server, room()).unwrap();
    assert!(matches!(received(next(&port)), (_, Ok(0))), "the end of the stream");
    port.send(client, b"late".to_vec()).unwrap();
    let Outcome::Sent { buffer, sent: 0, result: Err(Failure::Io(error)) } = next(&port).outcome else { panic!() };
    assert_eq!((buffer, error.raw_os_error()), (b"late".to_vec(), Some(libc::EPIPE)));
}

#[test]
fn a_connect_that_is_refused_says_so_once() {
    // Bound, so that nobody else gets the port, and not listening.
    let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    bound.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let nobody = bound.local_addr().unwrap().as_socket().unwrap();
    let port = Port::new().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let socket = port.associate(NonBlocking::new(socket).unwrap(), 0).unwrap();
    port.connect(socket, nobody).unwrap();
    let Outcome::Connected(Err(Failure::Io(error))) = next(&port).outcome else { panic!() };
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
    nothing(&port);
}

#[test]
fn a_receive_fills_spare_capacity_behind_what_is_there_and_never_grows() {
    let port = Port::new().unwrap();
    let (socket, mut peer) = pair(&port, 0);
    let mut buffer = Vec::with_capacity(8);
    buffer.extend(b"ab");
    let (pointer, capacity) = (buffer.as_ptr(), buffer.capacity());
    peer.write_all(b"0123456789").unwrap();
    port.recv(socket, buffer).unwrap();
    let (buffer, result) = received(next(&port));
    assert_eq!((&buffer[..], result.unwrap()), (&b"ab012345"[..], 6));
    assert_eq!((buffer.as_ptr(), buffer.capacity()), (pointer, capacity));
    let refused = port.recv(socket, buffer).unwrap_err();
    assert_eq!((refused.reason, refused.buffer.as_ptr()), (Reason::NoRoom, pointer));
    port.recv(socket, room()).unwrap();
    assert_eq!(received(next(&port)).0, b"6789");
}

#[test]
fn the_end_of_a_stream_that_came_with_its_last_bytes_is_told() {
    let port = Port::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let socket = listener.accept().unwrap().0;
    peer.write_all(b"last").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    // Both are there when the first event is fetched: TCP on the loopback delivers them in the call.
    let socket = port.associate(NonBlocking::new(socket).unwrap(), 0).unwrap();
    port.recv(socket, room()).unwrap();
    assert_eq!(received(next(&port)).0, b"last");
    port.recv(socket, room()).unwrap();
    assert!(matches!(received(next(&port)), (_, Ok(0))));
}

#[test]
fn a_send_completes_when_all_of_it_is_taken_however_slow_the_reader() {
    let port = Port::new().unwrap();
    let (socket, mut peer) = pair(&port, 0);
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    port.send(socket, bytes.clone()).unwrap();
    nothing(&port);
    let reader = thread::spawn(move || {
        let mut all = vec![0; 3_000_000];
        peer.read_exact(&mut all).unwrap();
        all
    });
    let Outcome::Sent { buffer, sent, result: Ok(()) } = next(&port).outcome else { panic!() };
    assert_eq!((buffer.len(), sent), (bytes.len(), bytes.len()));
    assert!(buffer == bytes && reader.join().unwrap() == bytes);
}

#[test]
fn a_send_that_is_longer_than_a_turn_goes_on_without_an_event() {
    let port = Port::new().unwrap();
    let (ours, mut peer) = UnixStream::pair().unwrap();
    // Room for all of it: the kernel has nothing to tell.
    socket2::SockRef::from(&ours).set_send_buffer_size(1 << 20).unwrap();
    let socket = port.associate(NonBlocking::new(ours).unwrap(), 0).unwrap();
    nothing(&port); // The event of the registration has come and gone.
    let bytes = TURN_BUDGET_BYTES + 10_000;
    port.send(socket, vec![5; bytes]).unwrap();
    assert!(matches!(next(&port).outcome, Outcome::Sent { result: Ok(()), .. }));
    let mut all = vec![0; bytes];
    peer.read_exact(&mut all).unwrap();
    assert!(all.iter().all(|&byte| byte == 5));
}

#[test]
fn timers_come_neither_early_nor_out_of_turn_and_can_be_taken_back() {
    let port = Port::new().unwrap();
    let start = Instant::now();
    let far = port.timer(start + Duration::from_secs(3600), 3).unwrap();
    port.timer(start + Duration::from_millis(80), 2).unwrap();
    port.timer(start + Duration::from_millis(30), 1).unwrap();
    port.timer(start, 0).unwrap();
    for key in 0..3 {
        let completion = next(&port);
        assert_eq!(completion.key, key);
        assert!(matches!(completion.outcome, Outcome::Timer(Ok(()))));
        assert!(start.elapsed() >= Duration::from_millis([0, 30, 80][key as usize]));
    }
    nothing(&port);
    assert!(port.cancel(far) && !port.cancel(far));
    let completion = next(&port);
    assert!(is_cancelled(&completion) && completion.key == 3 && completion.operation == far);
}

#[test]
fn a_timer_that_is_set_while_all_threads_sleep_comes_in_time() {
    let port = Port::new().unwrap();
    thread::scope(|scope| {
        let sleepers: Vec<_> = (0..3).map(|_| scope.spawn(|| next(&port).key)).collect();
        for key in 0..3 {
            port.timer(Instant::now() + Duration::from_millis(20), key).unwrap();
        }
        let mut keys: Vec<u64> = sleepers.into_iter().map(|sleeper| sleeper.join().unwrap()).collect();
        keys.sort_unstable();
        assert_eq!(keys, [0, 1, 2]);
    });
}

#[test]
fn a_wait_ends_in_time_without_a_completion() {
    let port = Port::new().unwrap();
    let start = Instant::now();
    assert!(port.next(Duration::from_millis(30)).unwrap().is_none());
    assert!(start.elapsed() >= Duration::from_millis(30));
}

#[test]
fn posts_are_bounded_and_come_in_order() {
    let port = Port::new().unwrap();
    for key in 0..COMPLETION_POSTS_MAX as u64 {
        port.post(key).unwrap();
    }
    assert_eq!(port.post(0).unwrap_err().reason, Reason::Full);
    assert_eq!(next(&port).key, 0);
    port.post(COMPLETION_POSTS_MAX as u64).unwrap();
    assert!((1..=COMPLETION_POSTS_MAX as u64).all(|key| next(&port).key == key));
    assert_eq!(port.outstanding(), 0);
}

#[test]
fn whoever_keeps_the_queue_full_does_not_keep_events_waiting() {
    let port = Port::new().unwrap();
    let (socket, mut peer) = pair(&port, 7);
    port.recv(socket, room()).unwrap();
    peer.write_all(b"x").unwrap();
    for _ in 0..2 * COMPLETIONS_BETWEEN_POLLS {
        port.post(0).unwrap();
    }
    for _ in 0..4 * COMPLETIONS_BETWEEN_POLLS {
        if next(&port).key == 7 {
            return;
        }
        port.post(0).unwrap();
    }
    panic!("only posts");
}

// ---- the contract -------------------------------------------------------------------------------------------------

#[test]
fn a_second_operation_is_refused_with_its_buffer_until_the_first_is_handed_out() {
    let port = Port::new().unwrap();
    let (socket, mut peer) = pair(&port, 0);
    port.recv(socket, room()).unwrap();
    let second = room();
    let pointer = second.as_ptr();
    let refused = port.recv(socket, second).unwrap_err();
    assert_eq!((refused.reason, refused.buffer.as_ptr()), (Reason::Busy, pointer));
    assert_eq!(port.accept(socket).unwrap_err().reason, Reason::Busy);

    port.send(socket, b"a".to_vec()).unwrap(); // It is over at once, and not handed out.
    let refused = port.send(socket, b"b".to_vec()).unwrap_err();
    assert_eq!((refused.reason, refused.buffer), (Reason::Busy, b"b".to_vec()));
    assert_eq!(port.shutdown(socket).unwrap_err().reason, Reason::Busy);
    assert!(matches!(next(&port).outcome, Outcome::Sent { result: Ok(()), .. }));
    port.send(socket, b"c".to_vec()).unwrap();
    peer.write_all(b"x").unwrap();
    assert!(matches!(next(&port).outcome, Outcome::Sent { .. }));
    assert!(matches!(next(&port).outcome, Outcome::Received { result: Ok(1), .. }));
    nothing(&port);
    let mut two = [0; 2];
    peer.read_exact(&mut two).unwrap();
    assert_eq!(&two, b"ac", "what was refused was not sent");
}

#[test]
fn a_disconnect_completes_each_outstanding_operation_once() {
    let port = Port::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let socket = port.associate(NonBlocking::new(listener.accept().unwrap().0).unwrap(), 0).unwrap();
    port.recv(socket, room()).unwrap();
    port.send(socket, vec![0; 32 << 20]).unwrap(); // More than all buffers on the way hold.
    nothing(&port);
    drop(peer); // With input unread: a reset.
    let mut seen = [0, 0];
    for _ in 0..2 {
        match next(&port).outcome {
            Outcome::Received { buffer, result: Err(Failure::Io(_)) | Ok(0) } => {
                assert_eq!(buffer.capacity(), 64);
                seen[0] += 1;
            }
            Outcome::Sent { buffer, sent, result: Err(Failure::Io(_)) } => {
                assert!(buffer.len() == 32 << 20 && sent < buffer.len());
                seen[1] += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((seen, port.outstanding()), ([1, 1], 0));
    nothing(&port);
}

#[test]
fn closing_completes_what_is_outstanding_and_kills_the_name() {
    let port = Port::new().unwrap();
    let (socket, _peer) = pair(&port, 9);
    let receiving = port.recv(socket, room()).unwrap();
    let sending = port.send(socket, vec![1; 8 << 20]).unwrap();
    assert!(port.close(socket) && !port.close(socket));
    assert_eq!(port.recv(socket, room()).unwrap_err().reason, Reason::Closed);
    assert_eq!(port.send(socket, b"x".to_vec()).unwrap_err().buffer, b"x");
    assert!(!port.cancel(receiving) && !port.cancel(sending));
    for _ in 0..2 {
        let completion = next(&port);
        assert!(is_cancelled(&completion) && completion.key == 9 && completion.operation.socket() == Some(socket));
        match completion.outcome {
            Outcome::Received { buffer, .. } => assert_eq!((completion.operation, buffer.capacity()), (receiving, 64)),
            Outcome::Sent { buffer, sent, .. } => {
                assert_eq!((completion.operation, buffer.len()), (sending, 8 << 20));
                assert!(sent < buffer.len());
            }
            other => panic!("{other:?}"),
        }
    }
    nothing(&port);
    assert_eq!(port.outstanding(), 0);
}

#[test]
fn a_cancelled_receive_leaves_the_bytes_to_the_next() {
    let port = Port::new().unwrap();
    let (socket, mut peer) = pair(&port, 0);
    let operation = port.recv(socket, room()).unwrap();
    assert!(port.cancel(operation) && !port.cancel(operation));
    peer.write_all(b"kept").unwrap();
    assert!(is_cancelled(&next(&port)));
    port.recv(socket, room()).unwrap();
    assert_eq!(received(next(&port)).0, b"kept");
}

#[test]
fn the_end_gives_back_every_buffer_and_releases_every_thread() {
    let port = Port::new().unwrap();
    let (socket, mut peer) = pair(&port, 1);
    port.recv(socket, room()).unwrap();
    port.timer(Instant::now() + PATIENCE, 2).unwrap();
    port.post(3).unwrap();
    let keys = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    match port.next(PATIENCE) {
                        Ok(completion) => keys.lock().unwrap().push(completion.expect("in time").key),
                        Err(Error::Ended) => break,
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        port.end();
    });
    let mut keys = keys.into_inner().unwrap();
    keys.sort_unstable();
    assert_eq!(keys, [1, 2, 3]);
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(port.post(0).unwrap_err().reason, Reason::Ended);
    assert_eq!(port.timer(Instant::now(), 0).unwrap_err().reason, Reason::Ended);
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let refused = port.associate(NonBlocking::new(ours).unwrap(), 0).unwrap_err();
    assert_eq!(refused.reason, AssociateError::Refused(Reason::Ended));
    assert!(matches!(port.next(Timeout::Never), Err(Error::Ended)));
}

#[test]
fn accept_on_what_does_not_listen_fails_instead_of_turning_for_ever() {
    let port = Port::new().unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp = port.associate(NonBlocking::new(udp).unwrap(), 0).unwrap();
    let (stream, _peer) = pair(&port, 0);
    for socket in [udp, stream] {
        port.accept(socket).unwrap();
        assert!(matches!(next(&port).outcome, Outcome::Accepted(Err(Failure::Io(_)))));
    }
}

// ---- how such layers have failed ----------------------------------------------------------------------------------

#[test]
fn cancelling_a_dead_operation_does_not_hit_whoever_has_its_descriptor_now() {
    let port = Port::new().unwrap();
    let mut dead = Vec::new();
    // The dead ones of all rounds: not only the descriptor, the place in the table is used again, too.
    for _ in 0..64 {
        let (old, _peer) = pair(&port, 0);
        dead.push((old, port.recv(old, room()).unwrap()));
        assert!(port.close(old));
        assert!(is_cancelled(&next(&port)));
        // Three a round: the places that old ones had come round to new ones.
        assert!(port.close(pair(&port, 0).0));
        let (new, mut peer) = pair(&port, 1);
        port.recv(new, room()).unwrap();
        assert!(dead.iter().all(|&(old, operation)| !port.cancel(operation) && !port.close(old)));
        peer.write_all(b"mine").unwrap();
        let completion = next(&port);
        assert_eq!(completion.key, 1);
        assert_eq!(received(completion).0, b"mine");
        assert!(port.close(new));
    }
}

#[test]
fn a_cancelled_operation_does_not_keep_the_peer_connected() {
    let port = Port::new().unwrap();
    let (socket, mut peer) = pair(&port, 0);
    let operation = port.recv(socket, room()).unwrap();
    port.cancel(operation);
    port.close(socket);
    // Nobody has called `next`: the completion still waits, the descriptor is closed all the same.
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0, "the peer sees the end");
    assert_eq!(port.outstanding(), 1);
    assert!(is_cancelled(&next(&port)));
}

#[test]
fn a_stale_event_in_a_batch_completes_nothing_twice_and_nothing_of_others() {
    let port = Port::new().unwrap();
    for _ in 0..64 {
        let (first, mut one) = pair(&port, 1);
        let (second, mut two) = pair(&port, 2);
        let (bystander, mut three) = pair(&port, 3);
        let mut operations = vec![port.recv(first, room()).unwrap(), port.recv(second, room()).unwrap()];
        for peer in [&mut one, &mut two, &mut three] {
            peer.write_all(b"old").unwrap(); // One batch has the events of all.
        }
        let completion = next(&port);
        let (winner, loser) = if completion.key == 1 { (first, second) } else { (second, first) };
        assert_eq!(completion.operation.socket(), Some(winner));
        let mut seen = vec![completion.operation];
        port.close(loser);
        port.close(bystander);
        let (heir, mut peer) = pair(&port, 4); // With the number of one of them.
        operations.push(port.recv(heir, room()).unwrap());
        peer.write_all(b"new").unwrap();
        for _ in 0..2 {
            let completion = next(&port);
            seen.push(completion.operation);
            let wanted: &[u8] = if completion.key == 4 { b"new" } else { b"old" };
            let (buffer, result) = received(completion);
            assert!(result.is_err() && buffer.is_empty() || buffer == wanted);
        }
        nothing(&port);
        operations.sort_unstable();
        seen.sort_unstable();
        assert_eq!(seen, operations);
        assert!(port.close(winner) && port.close(heir));
    }
}

// ---- threads ------------------------------------------------------------------------------------------------------

/// What threads have done with one port: each operation that was accepted, less each that completed.
#[derive(Default)]
struct Ledger {
    open: Mutex<HashMap<OperationId, ()>>,
    completed: AtomicUsize,
}

impl Ledger {
    /// Submits under the lock, so that no completion is looked for before it is entered.
    fn enter<E>(&self, submit: impl FnOnce() -> Result<OperationId, E>) {
        let mut open = self.open.lock().unwrap();
        if let Ok(operation) = submit() {
            assert!(open.insert(operation, ()).is_none(), "{operation:?} has been before");
        }
    }

    fn strike(&self, completion: &Completion) {
        let known = self.open.lock().unwrap().remove(&completion.operation);
        assert!(known.is_some(), "{completion:?} completes twice, or was never accepted");
        self.completed.fetch_add(1, Ordering::Relaxed);
    }
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Four threads take completions; three ask for operations, cancel and close at random; peers write, read and hang up.
#[test]
fn threads_that_ask_cancel_and_close_at_random_get_each_completion_once() {
    const ROUNDS: usize = 3_000;
    let port = Port::new().unwrap();
    let ledger = Ledger::default();
    let slots: Vec<Mutex<Option<(SocketId, UnixStream)>>> = (0..8).map(|_| Mutex::new(Some(pair(&port, 0)))).collect();
    let stir = |seed: u64| {
        let mut state = seed;
        let mut last = None;
        for _ in 0..ROUNDS {
            let slot = &slots[random(&mut state) as usize % slots.len()];
            let Some(socket) = slot.lock().unwrap().as_ref().map(|(socket, _)| *socket) else { continue };
            match random(&mut state) % 8 {
                0..=2 => ledger.enter(|| port.recv(socket, room()).inspect(|id| last = Some(*id))),
                3 | 4 => ledger.enter(|| port.send(socket, vec![7; 40_000]).inspect(|id| last = Some(*id))),
                5 => drop(last.map(|operation| port.cancel(operation))),
                6 => {
                    let mut bytes = [0; 65_536];
                    if let Some((_, peer)) = slot.lock().unwrap().as_mut() {
                        peer.set_nonblocking(true).unwrap();
                        let _ = peer.write(&bytes[..100]);
                        let _ = peer.read(&mut bytes);
                    }
                }
                _ => {
                    port.close(socket);
                    *slot.lock().unwrap() = Some(pair(&port, 0));
                }
            }
            ledger.enter(|| port.timer(Instant::now(), 1));
        }
    };
    let take = || {
        loop {
            match port.next(PATIENCE) {
                Ok(Some(completion)) => ledger.strike(&completion),
                Ok(None) => panic!("asleep with {} outstanding", port.outstanding()),
                Err(Error::Ended) => return,
                Err(error) => panic!("{error}"),
            }
        }
    };
    thread::scope(|scope| {
        let takers: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
        let stirrers: Vec<_> = (1..=3).map(|seed| scope.spawn(move || stir(seed * 0x1e37_79b9_7f4a_7c15))).collect();
        let stirred: Vec<_> = stirrers.into_iter().map(|thread| thread.join()).collect();
        port.end();
        assert!(stirred.iter().all(Result::is_ok) && takers.into_iter().all(|taker| taker.join().is_ok()));
    });
    assert_eq!((ledger.open.lock().unwrap().len(), port.outstanding()), (0, 0));
    assert!(ledger.completed.load(Ordering::Relaxed) > 3 * ROUNDS, "timers at the least");
}

/// Echo by four threads; each stream must come back as it was sent.
#[test]
fn one_connections_bytes_stay_in_order_whichever_threads_serve_it() {
    const CLIENTS: usize = 8;
    const BYTES: usize = 400_000;
    let port = Port::new().unwrap();
    let peers: Vec<UnixStream> = (0..CLIENTS as u64)
        .map(|key| {
            let (socket, peer) = pair(&port, key);
            port.recv(socket, Vec::with_capacity(997)).unwrap();
            peer
        })
        .collect();
    let serve = || {
        while let Ok(Some(completion)) = port.next(PATIENCE) {
            let Some(socket) = completion.operation.socket() else { continue };
            match completion.outcome {
                Outcome::Received { buffer, result: Ok(1..) } => drop(port.send(socket, buffer).unwrap()),
                Outcome::Sent { mut buffer, result: Ok(()), .. } => {
                    buffer.clear();
                    port.recv(socket, buffer).unwrap();
                }
                _ => drop(port.close(socket)),
            }
        }
    };
    let converse = |mut peer: UnixStream, seed: usize| {
        let bytes: Vec<u8> = (0..BYTES).map(|at| ((at * 31 + seed) % 251) as u8).collect();
        let mut writer = peer.try_clone().unwrap();
        let sent = bytes.clone();
        let writing = thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        peer.read_to_end(&mut back).unwrap();
        writing.join().unwrap();
        assert!(back == bytes, "{} of {BYTES} bytes came back", back.len());
    };
    thread::scope(|scope| {
        let servers: Vec<_> = (0..4).map(|_| scope.spawn(serve)).collect();
        let clients: Vec<_> =
            peers.into_iter().enumerate().map(|(seed, peer)| scope.spawn(move || converse(peer, seed))).collect();
        let clients: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        port.end();
        assert!(clients.iter().all(Result::is_ok) && servers.into_iter().all(|server| server.join().is_ok()));
    });
    assert_eq!(port.outstanding(), 0);
}

/// Each round has an item for each thread, and each thread keeps its own until all have one.
#[test]
fn a_burst_wakes_as_many_sleepers_as_it_has_work_for() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 300;
    let port = Port::new().unwrap();
    let together = Barrier::new(THREADS + 1);
    let take = || {
        for _ in 0..ROUNDS {
            next(&port);
            together.wait();
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(take)).collect();
        for _ in 0..ROUNDS {
            for _ in 0..THREADS {
                port.post(0).unwrap();
            }
            together.wait();
        }
        assert!(threads.into_iter().all(|thread| thread.join().is_ok()));
    });
}

// ---- the example --------------------------------------------------------------------------------------------------

#[test]
fn the_echo_server_of_the_examples_answers_all_however_others_leave() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(|| example::run(listener, 2).unwrap());
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let mut steady = connect();
    for client in 0..20_u8 {
        let mut stream = connect();
        let bytes: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8 ^ client).collect();
        let mut writer = stream.try_clone().unwrap();
        let sent = bytes.clone();
        let writing = thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        writing.join().unwrap();
        assert!(back == bytes);
        // One that leaves with a reset, in the middle of everything.
        let mut rude = connect();
        rude.write_all(&[0; 100_000]).unwrap();
        drop(rude);
        steady.write_all(&[client; 3]).unwrap();
        let mut three = [0; 3];
        steady.read_exact(&mut three).unwrap();
        assert_eq!(three, [client; 3]);
    }
}
