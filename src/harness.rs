//! A [`Service`] under test: no socket, no clock, no thread, and the code of the loop.
//!
//! A [`Harness`] plays the kernel and the clients. What a client sends arrives in the pieces that the test chooses.
//! What it is sent goes into a buffer of the size that the test chooses, so that `send` is short and says EAGAIN where
//! the test wants it. Time passes when the test says so. Between them is what every connection of a server goes
//! through, not an imitation of it: the same queues, budgets, marks and decisions, level- or edge-triggered. Left out
//! is what a service cannot see: accepting, limits, timeouts of the loop, counters.
//!
//! Each call returns when the loop would go to sleep. Nothing here waits or fails by itself, so a test that has passed
//! once passes always.
//!
//! ```
//! use std::time::Duration;
//!
//! use eagain::harness::Harness;
//! use eagain::service::Delay;
//! use eagain::{End, Trigger};
//!
//! let mut harness = Harness::new(Delay::new(Duration::from_secs(3600)), Trigger::Edge);
//! let client = harness.connect();
//! harness.send(client, b"hello");
//! harness.advance(Duration::from_secs(3599));
//! assert_eq!(harness.take(client), b"");
//!
//! // The client takes two bytes and then nothing: a short write, and EAGAIN.
//! harness.capacity(client, 2);
//! harness.advance(Duration::from_secs(1));
//! assert_eq!(harness.take(client), b"he");
//! harness.capacity(client, 100);
//! assert_eq!(harness.take(client), b"llo");
//!
//! harness.shut_down(client);
//! assert_eq!(harness.end(client), Some(End::Finished));
//! ```

use std::time::{Duration, Instant};

use crate::buffer::ByteQueue;
use crate::client::{Client, ConnectionId, Peer};
use crate::connection::Connection;
use crate::edge::Edge;
use crate::exchange::{Discipline, Member, Turn};
use crate::level::Level;
use crate::server::Trigger;
use crate::service::{End, Service};
use crate::slab::Token;
use crate::sys::epoll::Interest;
use crate::timeouts::Tick;
use crate::trace::Silent;
use crate::wire::Wire;

/// Bytes that a client's side takes until they are [taken](Harness::take), if the test does not say otherwise.
pub const CAPACITY_BYTES: usize = 1 << 20;

/// One worker's service, and clients who do what the test says.
///
/// A [`ConnectionId`] that is over is still good for [`take`](Self::take) and [`end`](Self::end); other calls do
/// nothing with it, as bytes that are sent to a closed socket do nothing.
pub struct Harness<S: Service> {
    turn: Turn<S, Silent>,
    trigger: Trigger,
    guests: Vec<Guest<S>>,
}

struct Guest<S: Service> {
    client: Client,
    state: State<S::Session>,
}

enum State<Session> {
    // Boxed, as it is in no hurry.
    Open(Box<Member<Session, Wire>>),
    Over { end: End, received: Vec<u8>, finished: bool },
}

impl<S: Service> Harness<S> {
    /// No client yet. The clock of the test starts now.
    #[must_use]
    pub fn new(service: S, trigger: Trigger) -> Self {
        Self { turn: Turn::new(service, Silent, Instant::now(), Client::NOBODY.id), trigger, guests: Vec::new() }
    }

    /// The service, to look into it.
    pub const fn service(&mut self) -> &mut S {
        &mut self.turn.service
    }

    /// A client connects by a Unix socket to the first listener; [`Service::open`] and [`Service::room`] are called.
    pub fn connect(&mut self) -> ConnectionId {
        self.connect_as(Peer::UNIX, 0)
    }

    /// A client connects from there, to the listener of this index.
    pub fn connect_as(&mut self, peer: Peer, listener: u16) -> ConnectionId {
        let id = ConnectionId { worker: 0, token: Token::from_bits(self.guests.len() as u64) };
        let client = Client { id, peer, listener: listener.into() };
        let session = self.turn.service.open(&client);
        let interest = match self.trigger {
            Trigger::Level => Level::FIRST_INTEREST,
            Trigger::Edge => Edge::FIRST_INTEREST,
        };
        let connection =
            Connection::new(Wire::new(CAPACITY_BYTES, false), peer != Peer::UNIX, interest, listener, self.turn.tick);
        let member = Box::new(Member { connection, session, peer });
        self.guests.push(Guest { client, state: State::Open(member) });
        self.with(id, |_, _| Ok(()));
        id
    }

    // ---- what clients do -------------------------------------------------------------------------------------------

    /// The client sends these bytes, and they arrive together. To have them arrive in pieces, send pieces.
    pub fn send(&mut self, client: ConnectionId, bytes: &[u8]) {
        self.on_wire(client, |wire| wire.arriving.push(bytes));
    }

    /// The client sends these bytes and its FIN, and they arrive together: one event tells of both.
    pub fn send_and_shut_down(&mut self, client: ConnectionId, bytes: &[u8]) {
        self.on_wire(client, |wire| {
            wire.arriving.push(bytes);
            wire.fin = true;
        });
    }

    /// The client has sent its last byte; it goes on reading.
    pub fn shut_down(&mut self, client: ConnectionId) {
        self.send_and_shut_down(client, b"");
    }

    /// The client resets the connection: what has arrived and was not received is lost.
    pub fn reset(&mut self, client: ConnectionId) {
        self.on_wire(client, |wire| {
            wire.arriving = ByteQueue::new();
            wire.reset = true;
        });
    }

    /// An event with nothing behind it: `recv` and `send` are tried, and say what they would have said before.
    pub fn wake(&mut self, client: ConnectionId) {
        self.with(client, |_, member| {
            member.connection.may_read = true;
            member.connection.may_write = true;
            Ok(())
        });
    }

    /// From now on so many bytes at the most are under way to the client; `send` is short when they are, and then says
    /// EAGAIN, until the client [takes](Self::take) them. 0: nothing gets through. At first [`CAPACITY_BYTES`].
    ///
    /// A service that writes without end has no end against a capacity without end.
    pub fn capacity(&mut self, client: ConnectionId, bytes: usize) {
        self.on_wire(client, |wire| wire.capacity = bytes);
    }

    /// The client takes what has come. Then there is room, so more may be on its way when this returns: a client that
    /// wants it all takes until there is nothing.
    pub fn take(&mut self, client: ConnectionId) -> Vec<u8> {
        let mut taken = Vec::new();
        if let Some(Guest { state: State::Over { received, .. }, .. }) = self.guest(client) {
            return std::mem::take(received);
        }
        self.on_wire(client, |wire| {
            taken = wire.take_output();
            wire.sent(taken.len());
        });
        taken
    }

    // ---- what the server does --------------------------------------------------------------------------------------

    /// Time passes, and timers come when they are due, in their order.
    ///
    /// # Panics
    /// If an [`Instant`] cannot tell the time that it is then: after some hundred thousand million years.
    pub fn advance(&mut self, by: Duration) {
        let until = self.turn.now + by;
        let mut floor = self.turn.tick;
        loop {
            let alarms = self.guests.iter().filter_map(|guest| guest.alarm());
            let Some(due) = alarms.min().map(|due| due.max(floor)) else { break };
            let time = self.turn.origin + Duration::from_millis(due);
            if time > until {
                break;
            }
            self.turn.begin(time.max(self.turn.now));
            for index in 0..self.guests.len() {
                if self.guests[index].alarm().is_some_and(|alarm| alarm <= due) {
                    let id = self.guests[index].client.id;
                    self.with(id, |turn, member| turn.expire(member));
                }
            }
            // A timer that is set to a time that has passed comes a millisecond later, or time would stand still.
            floor = due + 1;
        }
        self.turn.begin(until);
    }

    /// The time of the next callback; [`Output::now`](crate::Output::now) says the same.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.turn.now
    }

    /// When the timer of this connection comes: the one that the service has set, or that of a connection which waits
    /// for the client's FIN. A millisecond is the grain, rounded up.
    #[must_use]
    pub fn deadline(&self, client: ConnectionId) -> Option<Instant> {
        let alarm = self.guests.get(index(client))?.alarm()?;
        self.turn.origin.checked_add(Duration::from_millis(alarm))
    }

    /// Another thread sends these bytes ([`Handle::send`](crate::Handle::send)).
    pub fn deliver(&mut self, client: ConnectionId, bytes: &[u8]) {
        let mut delivered = Ok(false);
        self.with(client, |turn, member| {
            delivered = turn.deliver(member, bytes);
            delivered.map(drop)
        });
        if delivered == Ok(false) {
            self.turn.service.undelivered(client, bytes);
        }
    }

    /// A draining server ends the connection between two messages, as if the service had said
    /// [`Next::Finish`](crate::Next::Finish).
    pub fn drain(&mut self, client: ConnectionId) {
        self.with(client, |turn, member| {
            turn.finish(member);
            Ok(())
        });
    }

    /// Another thread closes the connection ([`Handle::close`](crate::Handle::close)).
    pub fn close(&mut self, client: ConnectionId) {
        self.with(client, |_, _| Err(End::Closed));
    }

    /// Packs the session and unpacks it again, as a restart does that hands the connection over
    /// ([`Handle::hand_over`](crate::Handle::hand_over)). `false`: the service does not pack, or does not know its own
    /// bytes again, and the session stays as it was.
    pub fn hand_over(&mut self, client: ConnectionId) -> bool {
        let mut done = false;
        self.with(client, |turn, member| {
            let who = member.client(turn.who);
            let packed = turn.service.pack(&member.session, turn.now);
            if let Some(session) = packed.and_then(|packed| turn.service.unpack(&who, &packed, turn.now)) {
                member.session = session;
                // A connection that is new to a worker is asked for output.
                member.connection.owes_room = true;
                done = true;
            }
            Ok(())
        });
        done
    }

    // ---- what there is to see --------------------------------------------------------------------------------------

    /// Why the connection is over; `None` while it is not.
    #[must_use]
    pub fn end(&self, client: ConnectionId) -> Option<End> {
        match self.guests.get(index(client))?.state {
            State::Over { end, .. } => Some(end),
            State::Open(_) => None,
        }
    }

    /// Whether our FIN is out, behind everything that was sent: the service has finished.
    #[must_use]
    pub fn has_finished(&self, client: ConnectionId) -> bool {
        match self.guests.get(index(client)).map(|guest| &guest.state) {
            Some(State::Over { finished, .. }) => *finished,
            Some(State::Open(member)) => member.connection.get_io().finished,
            None => false,
        }
    }

    /// Bytes that the client has sent and the loop has not received: it is held back, by a client that does not take
    /// its answers or by input that the service does not consume.
    #[must_use]
    pub fn unreceived(&self, client: ConnectionId) -> usize {
        self.look(client, |connection| connection.unread_in_kernel())
    }

    /// Bytes that the loop has received and the service has not consumed.
    #[must_use]
    pub fn unconsumed(&self, client: ConnectionId) -> usize {
        self.look(client, Connection::unread)
    }

    /// Bytes that the service has written and the client's side has no room for.
    #[must_use]
    pub fn unsent(&self, client: ConnectionId) -> usize {
        self.look(client, Connection::unsent)
    }

    fn look(&self, client: ConnectionId, what: impl FnOnce(&Connection<Wire>) -> usize) -> usize {
        match self.guests.get(index(client)).map(|guest| &guest.state) {
            Some(State::Open(member)) => what(&member.connection),
            _ => 0,
        }
    }

    fn guest(&mut self, client: ConnectionId) -> Option<&mut Guest<S>> {
        self.guests.get_mut(index(client))
    }

    /// Something happens on the wire, and the loop is told.
    fn on_wire(&mut self, client: ConnectionId, happen: impl FnOnce(&mut Wire)) {
        // What is registered is what the kernel tells of.
        self.with(client, |_, member| {
            happen(member.connection.io());
            let interest = member.connection.registered;
            notice(&mut member.connection, interest);
            Ok(())
        });
    }

    /// Lets `act` work on a connection, and gives it turns until the loop would sleep.
    fn with(
        &mut self,
        client: ConnectionId,
        act: impl FnOnce(&mut Turn<S, Silent>, &mut Member<S::Session, Wire>) -> Result<(), End>,
    ) {
        let Some(Guest { state: State::Open(member), .. }) = self.guests.get_mut(index(client)) else { return };
        self.turn.who = client;
        let outcome = act(&mut self.turn, member).and_then(|()| match self.trigger {
            Trigger::Level => level(&mut self.turn, member),
            Trigger::Edge => edge(&mut self.turn, member),
        });
        if let Err(end) = outcome {
            self.over(client, end);
        }
    }

    fn over(&mut self, client: ConnectionId, end: End) {
        let Some(guest) = self.guests.get_mut(index(client)) else { return };
        let gone = State::Over { end, received: Vec::new(), finished: false };
        if let State::Open(mut member) = std::mem::replace(&mut guest.state, gone) {
            let wire = member.connection.io();
            let (finished, received) = (wire.finished || end == End::Finished, wire.take_output());
            guest.state = State::Over { end, received, finished };
            let client = guest.client;
            self.turn.service.close(member.session, &client, end);
        }
    }
}

impl<S: Service> Guest<S> {
    fn alarm(&self) -> Option<Tick> {
        match &self.state {
            State::Open(member) => member.connection.alarm.map(std::num::NonZero::get),
            State::Over { .. } => None,
        }
    }
}

fn index(client: ConnectionId) -> usize {
    usize::try_from(client.token.to_bits()).unwrap_or(usize::MAX)
}

/// The kernel reports what is registered, for as long as it is so.
fn level<S: Service>(turn: &mut Turn<S, Silent>, member: &mut Member<S::Session, Wire>) -> Result<(), End> {
    loop {
        doomed(&mut member.connection)?;
        turn.drive::<Level>(member)?;
        Level::reinterest(&mut member.connection);
        let interest = member.connection.registered;
        if !notice(&mut member.connection, interest) {
            return doomed(&mut member.connection);
        }
    }
}

/// The kernel has reported what happened, once; the run queue does the rest.
fn edge<S: Service>(turn: &mut Turn<S, Silent>, member: &mut Member<S::Session, Wire>) -> Result<(), End> {
    loop {
        doomed(&mut member.connection)?;
        turn.drive::<Edge>(member)?;
        if !Edge::must_return(&member.connection) {
            return doomed(&mut member.connection);
        }
    }
}

/// What an event says that has these bits; whether there is one.
fn notice(connection: &mut Connection<Wire>, interest: Interest) -> bool {
    let wire = connection.io();
    let readable = wire.is_readable() && interest.contains(Interest::READ);
    let writable = wire.is_writable() && interest.contains(Interest::WRITE);
    let more = wire.fin || wire.reset;
    connection.may_read |= readable;
    connection.may_write |= writable;
    connection.insist |= more;
    readable || writable
}

/// A reset is told even where neither direction is of interest.
fn doomed(connection: &mut Connection<Wire>) -> Result<(), End> {
    let quiet = !connection.wants_read() && !connection.wants_write();
    if connection.io().reset && quiet { Err(End::Broken(libc::ECONNRESET)) } else { Ok(()) }
}
