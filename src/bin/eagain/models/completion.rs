//! A completion port (IOCP, 1994; `eagain::completion`, on epoll): ask first, be told when it is done.
//!
//! What it does better than waiting until a call would succeed, and what it costs:
//! - a. There is no list of what to watch, no EAGAIN, and no answer that was sent in part: a completion says that it
//!   has been received, that all of it is sent. Several threads could take completions; here one does.
//! - b. A receive that waits owns its buffer. So an idle connection has one, where epoll has none: [`LEAST_ROOM`] at
//!   first, more for who sends much, and again less.
//! - c. A send owns its bytes, too: an answer is copied out of the receive buffer before it goes.
//! - d. At most one receive and one send are under way on a connection. What a service writes meanwhile waits, up to
//!   [`CAPACITY`], and then behind the high-water mark: then no receive is asked for.
//! - e. Completions of a connection that has gone may still come; they bear its name, which is nobody's any more.
//! - f. Only the port can wake the thread, so signals come as a post of another one that sleeps on them ([`ring`]).

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use eagain::buffer::ByteQueue;
use eagain::completion::{Completion, Failure as Undone, Outcome, Port, SocketId};
use eagain::deadline::Deadlines;
use eagain::driver::{AcceptError, Driven, Driver, Newcomer, Wire};
use eagain::limits::{
    ACCEPT_BUDGET, ACCEPT_PAUSE_MS, COMPLETION_EVENTS_PER_WAIT, COMPLETIONS_BETWEEN_POLLS, DRAIN_QUIET_MS,
};
use eagain::slab::{Slab, Token};
use eagain::sys::net::NonBlocking;
use eagain::{End, Listener, Peer, Service as _, somaxconn};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use socket2::Socket;

use super::crowd::{KEY_ACCEPT, KEY_STOP, KEY_SWEEP, KEYS, State};
use super::poll::answered;
use super::{Order, Orders, Refusals};
use crate::serve::Failure;
use crate::serve::services::Any;

/// Bytes that the first receive of a connection has room for. Four times as much after one that was full, down to a
/// quarter after one that brought less than a sixteenth.
const LEAST_ROOM: usize = 256;
/// With 64 KiB, clients that had once sent 100 KB and fell silent cost 66 KB each. More than 16 KiB, so that a message
/// of that length is a short read, behind which the port does not ask the kernel again.
const MOST_ROOM: usize = 17 * 1024;

/// Bytes that may be written and not yet sent: one send under way, and what is to be the next.
const CAPACITY: usize = 64 * 1024;

/// Between two looks of a draining server at those who are silent.
const QUIET: Duration = Duration::from_millis(DRAIN_QUIET_MS);

pub(super) fn serve(
    service: Any,
    listeners: Vec<Listener>,
    orders: Orders<'_>,
    refusals: Refusals,
    most: usize,
) -> Result<(), Failure> {
    let port = Port::new()?;
    let (bell, heard) = UnixStream::pair()?;
    let signals = orders.signals;
    thread::scope(|scope| {
        thread::Builder::new().name("signals".to_owned()).spawn_scoped(scope, || ring(&port, signals, bell))?;
        // It ends with this, by whichever way: its end of the pair is closed then.
        Hall::open(&port, service, listeners, orders, refusals, most, heard)?.run()
    })
}

/// Posts once for each time that signals have come, until the other end of `bell` is closed.
fn ring(port: &Port, signals: &SignalFd, mut bell: UnixStream) {
    loop {
        let mut list = [PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
        match poll(&mut list, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(_) => return,
        }
        if answered(&list[1]).is_some() {
            return;
        }
        // The signal can be read for as long as nobody has: one post is enough.
        if answered(&list[0]).is_some() && (port.post(0).is_err() || bell.read_exact(&mut [0; 1]).is_err()) {
            return;
        }
    }
}

struct Door {
    listener: Listener,
    /// A duplicate of it, in the port.
    socket: SocketId,
}

struct Guest {
    driven: Driven<Any, Wire>,
    socket: SocketId,
    /// Received, and held back.
    held: Option<Box<ByteQueue>>,
    /// What the next receive has room for.
    room: u32,
    receiving: bool,
    sending: bool,
    /// Our FIN was asked for.
    finished: bool,
}

/// Doors, guests, and what is outstanding.
struct Hall<'a> {
    port: &'a Port,
    driver: Driver<Any>,
    guests: Slab<Guest>,
    /// One wheel for all: a timer of the port for each connection would be an operation and a completion each.
    deadlines: Deadlines,
    doors: Vec<Door>,
    /// Descriptors or memory have run out: nobody is asked for, for a while.
    doors_rest: bool,
    orders: Orders<'a>,
    /// Where the thread that sleeps on signals hears that they have been read.
    heard: UnixStream,
    refusals: Refusals,
    most: usize,
    now: Instant,
    state: State,
    /// Completions that were handled.
    handled: u64,
    /// When so many are, a sweep that is due waits no longer.
    sweep_after: Option<u64>,
}

impl<'a> Hall<'a> {
    fn open(
        port: &'a Port,
        service: Any,
        listeners: Vec<Listener>,
        orders: Orders<'a>,
        refusals: Refusals,
        most: usize,
        heard: UnixStream,
    ) -> Result<Self, Failure> {
        let mut doors = Vec::new();
        for (index, listener) in listeners.into_iter().enumerate() {
            let duplicate: OwnedFd = listener.as_fd().try_clone_to_owned()?;
            let socket = port.associate(NonBlocking::trust(duplicate), index as u64)?;
            port.accept(socket)?;
            doors.push(Door { listener, socket });
        }
        let now = Instant::now();
        Ok(Self {
            port,
            driver: Driver::new(service, now),
            guests: Slab::new(),
            deadlines: Deadlines::new(now),
            doors,
            doors_rest: false,
            orders,
            heard,
            refusals,
            most,
            now,
            state: State::Serving,
            handled: 0,
            sweep_after: None,
        })
    }

    fn run(mut self) -> Result<(), Failure> {
        while self.state != State::Over {
            let wait = if self.deadlines.is_empty() { None } else { self.deadlines.next(self.now) };
            let completion = self.port.next(wait)?;
            self.now = Instant::now();
            self.driver.begin(self.now);
            let quiet = completion.is_none();
            if let Some(completion) = completion {
                self.handled += 1;
                self.complete(completion)?;
            }
            if !self.deadlines.is_empty() {
                self.expire(quiet);
            }
        }
        Ok(())
    }

    fn complete(&mut self, Completion { key, outcome, .. }: Completion) -> Result<(), Failure> {
        let token = Token::from_bits(key);
        match outcome {
            Outcome::Received { buffer, result } => self.with(token, |driver, guest| {
                guest.receiving = false;
                guest.received(driver, buffer, result)
            }),
            Outcome::Sent { sent, result, .. } => self.with(token, |driver, guest| {
                guest.sending = false;
                guest.driven.sent(sent);
                result.map_err(broken)?;
                guest.turn(driver)
            }),
            Outcome::Accepted(result) => self.accepted(key as usize, result)?,
            Outcome::Posted => self.obey()?,
            // Of a FIN that could not be sent the next receive tells.
            _ => {}
        }
        Ok(())
    }

    /// Lets `act` work on a connection; then asks for what it needs next, or sees to its end. What `act` gives is a
    /// buffer for the next receive, if it has one.
    fn with(&mut self, token: Token, act: impl FnOnce(&mut Driver<Any>, &mut Guest) -> Result<Vec<u8>, End>) {
        let Some(guest) = self.guests.get_mut(token) else { return };
        match act(&mut self.driver, guest) {
            Ok(spare) => guest.ask(self.port, spare),
            Err(end) => return self.close(token, end),
        }
        match self.driver.deadline(&guest.driven) {
            Some(at) => self.deadlines.set(token.slot() + KEYS, at),
            None => self.deadlines.clear(token.slot() + KEYS),
        }
    }

    fn close(&mut self, token: Token, end: End) {
        let Some(guest) = self.guests.remove(token) else { return };
        self.deadlines.clear(token.slot() + KEYS);
        self.port.close(guest.socket);
        self.driver.close(guest.driven, end);
        // A descriptor is free: whoever could not be accepted can be now.
        if self.doors_rest {
            self.deadlines.set(KEY_ACCEPT, self.now);
        }
    }

    fn accepted(
        &mut self,
        index: usize,
        result: Result<(NonBlocking<socket2::Socket>, Peer), Undone>,
    ) -> Result<(), Failure> {
        let error = match result {
            Ok((socket, peer)) => {
                self.admit(socket, peer, index);
                self.knock(index);
                return Ok(());
            }
            Err(Undone::Cancelled) => return Ok(()),
            Err(Undone::Io(error)) => AcceptError::from(error),
        };
        match (error, self.doors.get(index)) {
            (AcceptError::Exhausted(errno), _) => self.rest(index, errno),
            (error, Some(door)) => return Err(format!("{}: {error}", door.listener.address()).into()),
            _ => {}
        }
        Ok(())
    }

    /// Asks for the next client of a door.
    fn knock(&self, index: usize) {
        if let Some(door) = self.doors.get(index).filter(|_| !self.doors_rest) {
            // Refused is only what is asked for already.
            let _ = self.port.accept(door.socket);
        }
    }

    fn rest(&mut self, index: usize, errno: i32) {
        self.driver.service().exhausted(index, errno);
        self.doors_rest = true;
        self.deadlines.set(KEY_ACCEPT, self.now + Duration::from_millis(ACCEPT_PAUSE_MS));
    }

    /// Opens a connection, or refuses it by closing it at once.
    fn admit(&mut self, socket: NonBlocking<Socket>, peer: Peer, listener: usize) {
        if self.guests.len() >= self.most {
            let why = format_args!("{} are connected already (--max-connections)", self.most);
            return self.refusals.tell(self.now, why);
        }
        let Some(token) = self.guests.next_token() else { return };
        let socket = match self.port.associate(socket, token.to_bits()) {
            Ok(socket) => socket,
            Err(refused) => return self.refusals.tell(self.now, refused),
        };
        let driven = self.driver.open_wire(peer, listener, CAPACITY);
        let guest = Guest::new(driven, socket);
        if let Ok(token) = self.guests.insert(guest) {
            self.with(token, |driver, guest| guest.turn(driver));
        }
    }

    /// `quiet`: nothing was there to be done.
    fn expire(&mut self, quiet: bool) {
        let mut due = Vec::new();
        self.deadlines.expire(self.now, &mut due);
        for key in due {
            match key {
                KEY_ACCEPT => {
                    self.doors_rest = false;
                    (0..self.doors.len()).for_each(|index| self.knock(index));
                }
                KEY_SWEEP => self.sweep_unless_busy(quiet),
                KEY_STOP => self.stop(),
                slot => {
                    if let Some(token) = self.guests.token_at(slot - KEYS) {
                        self.with(token, |driver, guest| {
                            driver.expire(&mut guest.driven)?;
                            guest.turn(driver)
                        });
                    }
                }
            }
        }
    }

    fn obey(&mut self) -> Result<(), Failure> {
        while let Some(order) = self.orders.next(self.state != State::Serving)? {
            match order {
                Order::Drain(until) => self.drain(until)?,
                Order::Stop => self.stop(),
            }
        }
        // The other one is there for as long as we are.
        Ok(self.heard.write_all(&[0])?)
    }

    /// Serves whom the kernel has accepted for us already, and closes the doors.
    fn drain(&mut self, until: Instant) -> Result<(), Failure> {
        self.state = State::Draining { firm: self.now + until.saturating_duration_since(self.now) / 2 };
        for (index, door) in std::mem::take(&mut self.doors).into_iter().enumerate() {
            for _ in 0..=somaxconn() as usize + ACCEPT_BUDGET {
                match Newcomer::accept(&door.listener) {
                    Ok(Some(newcomer)) => {
                        let (socket, peer) = newcomer.into_parts();
                        self.admit(socket, peer, index);
                    }
                    Ok(None) => break,
                    Err(AcceptError::Exhausted(errno)) => {
                        self.driver.service().exhausted(index, errno);
                        break;
                    }
                    Err(error) => return Err(format!("{}: {error}", door.listener.address()).into()),
                }
            }
            self.port.close(door.socket);
        }
        self.deadlines.set(KEY_STOP, until);
        self.deadlines.set(KEY_SWEEP, self.now);
        Ok(())
    }

    /// What has arrived is to be answered first: it may be in the kernel, or a completion in the queue. Not for ever,
    /// though: somebody who is never silent would hold the server. So it is until there were so many completions that
    /// everyone has had a turn, however slow the machine is: beside one who is never silent the port fetches 16 events
    /// after 64 completions. A time was too short for a busy machine.
    fn sweep_unless_busy(&mut self, quiet: bool) {
        let fetches = self.guests.len() / COMPLETION_EVENTS_PER_WAIT + 1;
        let turns = 2 * (COMPLETIONS_BETWEEN_POLLS as usize * fetches + self.guests.len());
        let after = self.handled + turns as u64;
        if !quiet && self.handled < *self.sweep_after.get_or_insert(after) {
            return self.deadlines.set(KEY_SWEEP, self.now);
        }
        self.sweep_after = None;
        self.sweep();
    }

    /// Ends the connections that have been silent since the last sweep, with nothing due to them.
    fn sweep(&mut self) {
        let State::Draining { firm } = self.state else { return };
        let firm = self.now >= firm;
        let everyone: Vec<Token> = self.guests.tokens().collect();
        for token in everyone {
            if self.guests.get_mut(token).is_some_and(|guest| guest.driven.may_end(firm)) {
                self.with(token, |driver, guest| driver.finish(&mut guest.driven).map(|()| Vec::new()));
            }
        }
        if self.guests.is_empty() {
            self.state = State::Over;
        } else {
            self.deadlines.set(KEY_SWEEP, self.now + QUIET);
        }
    }

    /// Ends everything now.
    fn stop(&mut self) {
        let everyone: Vec<Token> = self.guests.tokens().collect();
        for token in everyone {
            self.close(token, End::Stopped);
        }
        self.state = State::Over;
    }
}

impl Guest {
    fn new(driven: Driven<Any, Wire>, socket: SocketId) -> Self {
        let room = LEAST_ROOM as u32;
        Self { driven, socket, held: None, room, receiving: false, sending: false, finished: false }
    }

    fn received(
        &mut self,
        driver: &mut Driver<Any>,
        buffer: Vec<u8>,
        result: Result<usize, Undone>,
    ) -> Result<Vec<u8>, End> {
        match result.map_err(broken)? {
            0 => self.driven.end_input(),
            count => self.fit(count),
        }
        self.turn_with(driver, ByteQueue::from(buffer))
    }

    /// So much room for the next receive as this client seems to need.
    fn fit(&mut self, received: usize) {
        let room = self.room as usize;
        if received >= room {
            self.room = (room * 4).min(MOST_ROOM) as u32;
        } else if received <= room / 16 {
            self.room = (room / 4).max(LEAST_ROOM) as u32;
        }
    }

    /// A turn with what was held back, if anything was.
    fn turn(&mut self, driver: &mut Driver<Any>) -> Result<Vec<u8>, End> {
        let held = self.held.take().map_or_else(ByteQueue::new, |held| *held);
        self.turn_with(driver, held)
    }

    fn turn_with(&mut self, driver: &mut Driver<Any>, mut input: ByteQueue) -> Result<Vec<u8>, End> {
        driver.turn_with(&mut self.driven, &mut input)?;
        if input.is_empty() {
            return Ok(input.into());
        }
        self.held = Some(Box::new(input));
        Ok(Vec::new())
    }

    /// Asks for what can be done next. Nothing of it can be refused: the socket is open, and each side is free.
    fn ask(&mut self, port: &Port, spare: Vec<u8>) {
        if !self.sending && !self.driven.output().is_empty() {
            self.sending = port.send(self.socket, self.driven.take_output()).is_ok();
        }
        if self.driven.has_finished() && !std::mem::replace(&mut self.finished, true) {
            let _ = port.shutdown(self.socket);
        }
        if !self.receiving && self.held.is_none() && self.driven.wants_input() {
            let room = self.room as usize;
            let buffer = if spare.capacity() == room { spare } else { Vec::with_capacity(room) };
            self.receiving = port.recv(self.socket, buffer).is_ok();
        }
    }
}

/// Why a connection ends whose operation has failed.
fn broken(why: Undone) -> End {
    match why {
        Undone::Io(error) => End::Broken(error.raw_os_error().unwrap_or(0)),
        // Nobody cancels but who closes, and then it is in no table.
        Undone::Cancelled => End::Stopped,
    }
}
