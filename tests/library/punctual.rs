//! Nothing comes early, however long a turn of the loop is: a turn is held here by a service that does not return, with
//! other clients behind it in the same turn. On unix sockets: what one has sent has arrived, whatever else the machine
//! does. TCP's loopback may deliver later, when there is load.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};

use eagain::{AccessList, Limits};

use super::*;

/// How late the timer of a [`Held`] comes, and every timeout of its server.
const LATE: Duration = Duration::from_millis(200);

/// An echo. `h` holds the worker until the test lets it go; `t` sets a timer. When that comes, and when a client of the
/// first listener is timed out, is told.
struct Held {
    holds: Sender<()>,
    goes_on: Arc<Mutex<Receiver<()>>>,
    times: Sender<Instant>,
    opened: Sender<Instant>,
}

impl Service for Held {
    type Session = ();

    fn open(&mut self, client: &Client) {
        if client.listener == 0 {
            let _ = self.opened.send(Instant::now());
        }
    }

    fn data(&mut self, (): &mut (), input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        let last = input.last().copied();
        output.forward(input, input.len());
        match last {
            Some(b'h') => {
                let _ = self.holds.send(());
                let _ = self.goes_on.lock().unwrap().recv_timeout(PATIENCE);
            }
            Some(b't') => return Next::At(output.now() + LATE),
            _ => {}
        }
        Next::More
    }

    fn timer(&mut self, (): &mut (), _: &mut Input<'_>, _: &mut Output<'_>) -> Next {
        let _ = self.times.send(Instant::now());
        Next::More
    }

    fn close(&mut self, (): (), client: &Client, end: End) {
        if let (0, End::TimedOut(_)) = (client.listener, end) {
            let _ = self.times.send(Instant::now());
        }
    }
}

fn unix_listener(name: &str) -> (Listener, UnixAddr) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("eagain-{}-{}-{name}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let listener = Listener::unix_abstract(name.as_bytes(), 16).unwrap();
    (listener, UnixAddr::from_abstract_name(name).unwrap())
}

struct Hall {
    server: Server,
    /// Of the client that is looked at, and of those that hold the worker.
    addresses: [UnixAddr; 2],
    held: Receiver<()>,
    lets_go: Sender<()>,
    times: Receiver<Instant>,
    opened: Receiver<Instant>,
}

impl Hall {
    fn open(trigger: Trigger) -> Self {
        let (ours, theirs) = (unix_listener("ours"), unix_listener("theirs"));
        let ((holds, held), (lets_go, goes_on)) = (channel(), channel());
        let ((told, times), (came, opened)) = (channel(), channel());
        let senders = Mutex::new((holds, told, came));
        let goes_on = Arc::new(Mutex::new(goes_on));
        let addresses = [ours.1, theirs.1];
        let server =
            Server::start(Config { trigger, workers: 1, ..Config::default() }, vec![ours.0, theirs.0], move |_| {
                let (holds, times, opened) = senders.lock().unwrap().clone();
                Held { holds, goes_on: Arc::clone(&goes_on), times, opened }
            });
        Self { server: server.unwrap(), addresses, held, lets_go, times, opened }
    }

    fn connect(&self, listener: usize) -> UnixStream {
        let client = UnixStream::connect_addr(&self.addresses[listener]).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    }

    /// A client that is known to have been accepted.
    fn client(&self, listener: usize) -> UnixStream {
        let mut client = self.connect(listener);
        client.write_all(b".").unwrap();
        client.read_exact(&mut [0]).unwrap();
        client
    }

    /// Two clients hold the worker, in two turns of the loop. Whatever `before` does is found by the second turn, which
    /// also sets the timeouts; `during` happens when that one has lasted for `LATE`. Returns when `during` began.
    fn in_a_long_turn(&self, timeouts: Timeouts, before: impl FnOnce(), during: impl FnOnce()) -> Instant {
        let mut holders = [self.client(1), self.client(1)];
        holders[0].write_all(b"h").unwrap();
        self.held.recv_timeout(PATIENCE).unwrap();
        self.server.handle().reconfigure(Limits::default(), timeouts, AccessList::default());
        holders[1].write_all(b"h").unwrap();
        before();
        self.lets_go.send(()).unwrap();
        self.held.recv_timeout(PATIENCE).unwrap();
        std::thread::sleep(LATE);
        let start = Instant::now();
        during();
        self.lets_go.send(()).unwrap();
        start
    }

    #[track_caller]
    fn expect_not_early(&self, start: Instant) {
        let taken = self.times.recv_timeout(PATIENCE).unwrap().saturating_duration_since(start);
        assert!(taken >= LATE, "it came after {taken:?}, before {LATE:?} had passed");
    }
}

const BOTH: [Trigger; 2] = [Trigger::Level, Trigger::Edge];
const IDLE: Timeouts = Timeouts { idle: Some(LATE), first_byte: None, write_stall: None, message: None };
const FIRST_BYTE: Timeouts = Timeouts { first_byte: Some(LATE), idle: None, ..IDLE };
const NONE: Timeouts = Timeouts { idle: None, ..IDLE };

#[test]
fn a_timer_counts_from_the_byte_that_it_answers_and_not_from_the_beginning_of_the_turn() {
    for trigger in BOTH {
        let hall = Hall::open(trigger);
        let client = hall.client(0);
        let send = |bytes| (&client).write_all(bytes).unwrap();
        hall.expect_not_early(hall.in_a_long_turn(NONE, || send(b"."), || send(b"t")));
    }
}

#[test]
fn an_idle_timeout_counts_from_the_last_byte_and_not_from_the_beginning_of_the_turn() {
    for trigger in BOTH {
        let hall = Hall::open(trigger);
        let client = hall.client(0);
        let send = || (&client).write_all(b".").unwrap();
        hall.expect_not_early(hall.in_a_long_turn(IDLE, send, send));
    }
}

#[test]
fn a_first_byte_timeout_counts_from_the_connection_and_not_from_the_beginning_of_the_turn() {
    for trigger in BOTH {
        let hall = Hall::open(trigger);
        // Somebody who comes and goes makes the listener part of the turn.
        let visit = || drop(hall.connect(0));
        let mut late = None;
        let start = hall.in_a_long_turn(FIRST_BYTE, visit, || late = Some(hall.connect(0)));
        hall.expect_not_early(start);
    }
}

#[test]
fn a_first_byte_timeout_counts_from_when_the_service_was_told_of_the_client() {
    for trigger in BOTH {
        let hall = Hall::open(trigger);
        let mut late = None;
        hall.in_a_long_turn(FIRST_BYTE, || late = Some(hall.connect(0)), || ());
        hall.expect_not_early(hall.opened.recv_timeout(PATIENCE).unwrap());
    }
}

#[test]
fn a_byte_that_has_come_in_time_counts_though_the_server_finds_it_late() {
    for trigger in BOTH {
        let hall = Hall::open(trigger);
        let (client, other) = (hall.client(0), hall.client(1));
        let send = |mut to: &UnixStream| to.write_all(b".").unwrap();
        // The other is served behind the long hold. It is then that the server learns how late it is, and it has not
        // seen the byte yet.
        hall.expect_not_early(hall.in_a_long_turn(IDLE, || send(&other), || send(&client)));
    }
}

#[test]
fn a_client_that_waited_for_a_timer_is_idle_only_from_then_on() {
    for trigger in BOTH {
        let hall = Hall::open(trigger);
        let mut client = hall.client(0);
        hall.server.handle().reconfigure(Limits::default(), IDLE, AccessList::default());
        client.write_all(b"t").unwrap();
        let timer = hall.times.recv_timeout(PATIENCE).unwrap();
        hall.expect_not_early(timer);
    }
}

#[test]
fn a_byte_from_another_thread_puts_the_idle_timeout_off() {
    for trigger in BOTH {
        let hall = Hall::open(trigger);
        let mut client = hall.client(0);
        std::thread::sleep(LATE);
        let start = Instant::now();
        hall.server.handle().broadcast(*b"news").unwrap();
        hall.server.handle().reconfigure(Limits::default(), IDLE, AccessList::default());
        client.read_exact(&mut [0; 4]).unwrap();
        hall.expect_not_early(start);
    }
}
