//! The library as an embedder meets it: `Server`, `Service`, `Handle`.

#[path = "library/punctual.rs"]
mod punctual;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eagain::limits::{MAILBOX_MESSAGES, OUTPUT_LIMIT_BYTES};
use eagain::service::Echo;
use eagain::{
    Client, Config, ConnectionId, End, Handle, Input, Listener, Next, Output, SendError, Server, ServerError, Service,
    Timeouts, Trigger,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// What a [`Spy`] has seen.
#[derive(Debug, PartialEq)]
enum Seen {
    Open(ConnectionId),
    Closed(ConnectionId, End),
    Undelivered(ConnectionId, Vec<u8>),
}

/// An echo that tells what happens to it. `!` aborts, `.` finishes.
struct Spy {
    seen: Sender<Seen>,
}

impl Service for Spy {
    type Session = ();

    fn open(&mut self, client: &Client) {
        let _ = self.seen.send(Seen::Open(client.id));
    }

    fn data(&mut self, (): &mut (), input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        let last = input.last().copied();
        output.forward(input, input.len());
        match last {
            Some(b'!') => Next::Abort,
            Some(b'.') => Next::Finish,
            _ => Next::More,
        }
    }

    fn close(&mut self, (): (), client: &Client, end: End) {
        let _ = self.seen.send(Seen::Closed(client.id, end));
    }

    fn undelivered(&mut self, to: ConnectionId, bytes: &[u8]) {
        let _ = self.seen.send(Seen::Undelivered(to, bytes.to_vec()));
    }
}

fn listener() -> (Listener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (Listener::try_from(listener).unwrap(), address)
}

fn spy_server(config: Config) -> (Server, SocketAddr, Receiver<Seen>) {
    let (listener, address) = listener();
    let (sender, seen) = channel();
    let sender = Mutex::new(sender);
    let server = Server::start(config, vec![listener], move |_| Spy { seen: sender.lock().unwrap().clone() }).unwrap();
    (server, address, seen)
}

#[track_caller]
fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[track_caller]
fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer.escape_ascii().to_string(), bytes.escape_ascii().to_string());
}

#[track_caller]
fn opened(seen: &Receiver<Seen>) -> ConnectionId {
    match seen.recv_timeout(PATIENCE).unwrap() {
        Seen::Open(id) => id,
        other => panic!("{other:?}"),
    }
}

fn configs() -> impl Iterator<Item = Config> {
    let both = [Trigger::Level, Trigger::Edge];
    both.into_iter().flat_map(|trigger| [1, 3].map(|workers| Config { trigger, workers, ..Config::default() }))
}

#[test]
fn another_thread_can_send_to_one_connection() {
    for config in configs() {
        let (server, address, seen) = spy_server(config);
        let mut one = connect(address);
        let first = opened(&seen);
        let mut two = connect(address);
        let second = opened(&seen);
        server.handle().send(second, *b"two").unwrap();
        server.handle().send(first, *b"one").unwrap();
        expect(&mut one, b"one");
        expect(&mut two, b"two");
    }
}

#[test]
fn a_broadcast_reaches_every_connection_once() {
    for config in configs() {
        let (server, address, seen) = spy_server(config);
        let mut clients: Vec<_> = (0..20).map(|_| connect(address)).collect();
        for _ in &clients {
            opened(&seen);
        }
        server.handle().broadcast(*b"all").unwrap();
        server.handle().broadcast(*b"again").unwrap();
        for client in &mut clients {
            expect(client, b"allagain");
            client.write_all(b"?").unwrap();
            expect(client, b"?");
        }
    }
}

#[test]
fn connections_spread_evenly_over_the_workers_though_one_of_them_accepts_all() {
    for trigger in [Trigger::Level, Trigger::Edge] {
        let (_server, address, seen) = spy_server(Config { trigger, workers: 3, ..Config::default() });
        // One after the other: the kernel wakes the same worker each time.
        let mut clients = Vec::new();
        let mut load = [0; 3];
        for _ in 0..60 {
            clients.push(connect(address));
            load[opened(&seen).worker()] += 1;
        }
        assert!(load.iter().all(|&count| count >= 15), "{load:?}");
    }
}

#[test]
fn a_message_for_a_connection_that_is_gone_is_reported_and_reaches_nobody_else() {
    for config in configs() {
        let (server, address, seen) = spy_server(config);
        let gone = connect(address);
        let id = opened(&seen);
        drop(gone);
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Seen::Closed(id, End::Finished));
        // With one worker this one has the slot of the other.
        let mut heir = connect(address);
        assert_ne!(opened(&seen), id);
        server.handle().send(id, *b"secret").unwrap();
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Seen::Undelivered(id, b"secret".to_vec()));
        heir.write_all(b"mine").unwrap();
        expect(&mut heir, b"mine");
    }
}

#[test]
fn a_handle_closes_one_connection_and_no_other() {
    for config in configs() {
        let (server, address, seen) = spy_server(config);
        let mut closed = connect(address);
        let id = opened(&seen);
        let mut other = connect(address);
        opened(&seen);
        server.handle().close(id).unwrap();
        assert_eq!(closed.read(&mut [0; 8]).unwrap(), 0);
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Seen::Closed(id, End::Closed));
        other.write_all(b"here").unwrap();
        expect(&mut other, b"here");
    }
}

#[test]
fn a_client_that_does_not_read_what_it_is_sent_is_closed() {
    for config in configs() {
        let (server, address, seen) = spy_server(config);
        let lazy = connect(address);
        let id = opened(&seen);
        let piece: Arc<[u8]> = vec![7; OUTPUT_LIMIT_BYTES / 4].into();
        let deadline = Instant::now() + PATIENCE;
        let end = loop {
            assert!(Instant::now() < deadline, "never closed");
            server.handle().send(id, Arc::clone(&piece)).unwrap();
            if let Ok(seen) = seen.recv_timeout(Duration::from_millis(1)) {
                break seen;
            }
        };
        assert_eq!(end, Seen::Closed(id, End::TooSlow));
        drop(lazy);
    }
}

#[test]
fn finish_flushes_and_then_ends_the_connection() {
    for config in configs() {
        let (_server, address, seen) = spy_server(config);
        let mut client = connect(address);
        let id = opened(&seen);
        client.write_all(b"good bye.").unwrap();
        expect(&mut client, b"good bye.");
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
        drop(client);
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Seen::Closed(id, End::Finished));
    }
}

#[test]
fn a_finished_client_that_stays_is_closed_after_a_while() {
    let (_server, address, seen) = spy_server(Config { trigger: Trigger::Edge, workers: 1, ..Config::default() });
    let mut client = connect(address);
    let id = opened(&seen);
    client.write_all(b".").unwrap();
    assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Seen::Closed(id, End::Lingered));
    expect(&mut client, b".");
}

#[test]
fn abort_closes_at_once() {
    for config in configs() {
        let (_server, address, seen) = spy_server(config);
        let mut client = connect(address);
        let id = opened(&seen);
        client.write_all(b"!").unwrap();
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Seen::Closed(id, End::Aborted));
    }
}

#[test]
fn a_reset_is_told_with_its_errno() {
    for config in configs() {
        let (_server, address, seen) = spy_server(config);
        let client = connect(address);
        let id = opened(&seen);
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Seen::Closed(id, End::Broken(libc::ECONNRESET)));
    }
}

/// Never takes anything.
struct Deaf;

impl Service for Deaf {
    type Session = ();

    fn open(&mut self, _: &Client) {}

    fn data(&mut self, (): &mut (), _: &mut Input<'_>, _: &mut Output<'_>) -> Next {
        Next::More
    }

    fn input_limit(&self, (): &()) -> usize {
        10
    }
}

#[test]
fn a_service_that_leaves_a_full_input_alone_does_not_hang_the_connection() {
    for config in configs() {
        let (listener, address) = listener();
        let _server = Server::start(config, vec![listener], |_| Deaf).unwrap();
        let mut client = connect(address);
        client.write_all(&[1; 20]).unwrap();
        let end = client.read(&mut [0; 8]);
        assert!(matches!(end, Ok(0)) || end.is_err_and(|error| error.raw_os_error() == Some(libc::ECONNRESET)));
    }
}

#[test]
fn a_drained_server_gives_what_is_due_and_ends() {
    for config in configs() {
        let (server, address, seen) = spy_server(config);
        let mut client = connect(address);
        client.write_all(b"due").unwrap();
        server.handle().drain(PATIENCE);
        let id = opened(&seen);
        expect(&mut client, b"due");
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
        drop(client);
        server.join().unwrap();
        // Not `Stopped`, as it would be when the time is over. A busy machine may keep us from closing for the second
        // that a server waits for that.
        let end = seen.recv_timeout(PATIENCE).unwrap();
        assert!([End::Finished, End::Lingered].map(|end| Seen::Closed(id, end)).contains(&end), "{end:?}");
        assert!(TcpStream::connect(address).is_err(), "still listening");
    }
}

#[test]
fn a_handle_of_a_server_that_has_ended_says_so() {
    let (server, address, seen) = spy_server(Config { trigger: Trigger::Level, workers: 2, ..Config::default() });
    let _client = connect(address);
    let id = opened(&seen);
    let handle = server.handle().clone();
    drop(server);
    assert_eq!(handle.send(id, *b"late"), Err(SendError::Ended));
    assert_eq!(handle.broadcast(*b"late"), Err(SendError::Ended));
    assert_eq!(handle.close(id), Err(SendError::Ended));
    assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Seen::Closed(id, End::Stopped));
}

/// Holds its worker up until it is told to go on.
struct Held {
    gate: Arc<Mutex<()>>,
    arrived: Sender<ConnectionId>,
}

impl Service for Held {
    type Session = ();

    fn open(&mut self, client: &Client) {
        self.arrived.send(client.id).unwrap();
        drop(self.gate.lock());
    }

    fn data(&mut self, (): &mut (), input: &mut Input<'_>, _: &mut Output<'_>) -> Next {
        input.consume(input.len());
        Next::More
    }
}

#[test]
fn a_mailbox_is_bounded_but_commands_always_get_in() {
    let (listener, address) = listener();
    let gate = Arc::new(Mutex::new(()));
    let shut = gate.lock().unwrap();
    let (sender, arrived) = channel();
    let (held, sender) = (Arc::clone(&gate), Mutex::new(sender));
    let server =
        Server::start(Config { trigger: Trigger::Edge, workers: 1, ..Config::default() }, vec![listener], move |_| {
            Held { gate: Arc::clone(&held), arrived: sender.lock().unwrap().clone() }
        })
        .unwrap();
    let client = connect(address);
    let id = arrived.recv_timeout(PATIENCE).unwrap();
    let handle: Handle = server.handle().clone();
    for _ in 0..MAILBOX_MESSAGES {
        handle.send(id, *b"").unwrap();
    }
    assert_eq!(handle.send(id, *b""), Err(SendError::Full));
    handle.shutdown();
    drop(shut);
    server.join().unwrap();
    drop(client);
}

#[test]
fn workers_out_of_range_are_refused() {
    for workers in [0, 1025] {
        let config = Config { trigger: Trigger::Level, workers, ..Config::default() };
        let refused = Server::start(config, Vec::new(), |_| Echo);
        assert!(matches!(refused, Err(ServerError::Workers(count)) if count == workers));
    }
}

#[test]
fn a_service_that_panics_ends_the_whole_server() {
    struct Panics;
    impl Service for Panics {
        type Session = ();
        fn open(&mut self, _: &Client) {}
        fn data(&mut self, (): &mut (), _: &mut Input<'_>, _: &mut Output<'_>) -> Next {
            panic!("as the test wants it");
        }
    }
    let (listener, address) = listener();
    let server =
        Server::start(Config { trigger: Trigger::Level, workers: 3, ..Config::default() }, vec![listener], |_| Panics)
            .unwrap();
    connect(address).write_all(b"x").unwrap();
    assert!(matches!(server.join(), Err(ServerError::Panicked)));
}

#[test]
fn a_socket_that_does_not_listen_is_not_adopted() {
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(Listener::adopt(ours.into()).is_err());
    let datagram = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    assert!(Listener::adopt(datagram.into()).is_err());
}

#[test]
fn counters_add_up() {
    for config in configs() {
        let (server, address, seen) = spy_server(config);
        for _ in 0..5 {
            let mut client = connect(address);
            client.write_all(b"12345678").unwrap();
            expect(&mut client, b"12345678");
        }
        let closed = seen.iter().filter(|seen| matches!(seen, Seen::Closed(..))).take(5).count();
        assert_eq!(closed, 5);
        // The worker publishes at the end of the turn in which it told us.
        let deadline = Instant::now() + PATIENCE;
        while server.handle().counters().closed < 5 {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        let counters = server.handle().counters();
        assert_eq!((counters.accepted, counters.closed, counters.refused), (5, 5, 0));
        assert_eq!((counters.received_bytes, counters.sent_bytes), (40, 40));
    }
}
