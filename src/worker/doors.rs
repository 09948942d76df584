//! The way in: listeners, who is let in by them, and who comes from another process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::{Error, KEY_ACCEPT, LISTENER, Worker};
use crate::client::{Client, ConnectionId, Peer};
use crate::connection::Connection;
use crate::exchange::{Discipline, Member};
use crate::gate::TurnedAway;
use crate::limits::{ACCEPT_BUDGET, ACCEPT_PAUSE_MS};
use crate::listener::{Listener, Refusal, somaxconn};
use crate::mailbox::{Message, Newcomer};
use crate::parcel::Parcel;
use crate::service::Service;
use crate::sys::epoll::{self, Interest};
use crate::sys::net::NonBlocking;
use crate::trace::Trace;

/// A listener as this worker sees it.
#[derive(Debug)]
pub(super) struct Door {
    listener: Arc<Listener>,
    /// Out of the epoll set, because descriptors or memory have run out.
    rests: bool,
    /// In the run queue.
    pub(super) queued: bool,
}

impl Door {
    pub(super) const fn new(listener: Arc<Listener>) -> Self {
        Self { listener, rests: true, queued: false }
    }

    pub(super) fn keep_name(&self) {
        self.listener.keep_name();
    }

    pub(super) fn stays_while_draining(&self) -> bool {
        self.listener.stays_while_draining()
    }
}

impl<S: Service, D: Discipline, T: Trace> Worker<S, D, T> {
    /// Accepts until the queue is empty or the budget is spent; what is left is accepted in the next turn.
    // RULE(et-single-accept-strands)
    pub(super) fn accept(&mut self, index: usize) -> Result<(), Error> {
        let mut taken = 0;
        for _ in 0..ACCEPT_BUDGET {
            let Some(Some(door)) = self.doors.get(index) else { return Ok(()) };
            if door.rests {
                return Ok(());
            }
            match door.listener.accept(self.number) {
                Ok((socket, peer)) => {
                    taken += 1;
                    self.place(index, socket, peer);
                }
                Err(Refusal::Empty) => {
                    self.turn.trace.not_accepted(index, libc::EAGAIN);
                    return Ok(());
                }
                Err(Refusal::Next) => {}
                Err(Refusal::Resources(errno)) => {
                    self.turn.trace.not_accepted(index, errno);
                    self.turn.service.exhausted(index, errno);
                    self.rest(index);
                    return Ok(());
                }
                Err(Refusal::Broken(errno)) => {
                    return Err(Error::Listener {
                        address: door.listener.address().to_string(),
                        source: std::io::Error::from_raw_os_error(errno),
                    });
                }
            }
        }
        if taken == 0 {
            // A security module that forbids an accept leaves the connection in the queue, to be refused again: a spin.
            self.rest(index);
        }
        let Some(Some(door)) = self.doors.get_mut(index) else { return Ok(()) };
        if D::LISTENER_MUST_RETURN && !door.queued && !door.rests {
            door.queued = true;
            self.run_queue.push_back(LISTENER | index as u64);
        }
        Ok(())
    }

    /// Gives a new connection to the worker that has the fewest: to this one, if the difference is small.
    fn place(&mut self, listener: usize, socket: NonBlocking<Socket>, peer: Peer) {
        let watches = matches!(self.doors.get(listener), Some(Some(door)) if door.stays_while_draining());
        let let_in = if watches { self.gate.let_watch(&peer) } else { self.gate.enter(&peer, self.turn.now) };
        if let Err(why) = let_in {
            let counters = self.turn.tally.all();
            *match why {
                TurnedAway::Connections => &mut counters.over_connections,
                TurnedAway::PerIp => &mut counters.over_per_ip,
                TurnedAway::Rate => &mut counters.over_rate,
                TurnedAway::Denied => &mut counters.denied,
                TurnedAway::Buffered => &mut counters.over_buffered,
            } += 1;
            self.turn.trace.turned_away(listener, &peer);
            return self.turn.service.turned_away(listener, &peer, why);
        }
        let newcomer = Newcomer { socket, peer, listener, watches };
        let least =
            self.mailboxes.iter().min_by_key(|mailbox| mailbox.load()).filter(|mailbox| {
                self.is_serving() && mailbox.load().saturating_add(self.slack) < self.mailbox().load()
            });
        if let Some(other) = least {
            other.raise_load();
            match other.try_leave(Message::Adopt(newcomer)) {
                Ok(()) => {}
                // It is ending: this worker is too, or will be soon, but until then it serves.
                Err((_, Message::Adopt(newcomer))) => {
                    other.lower_load();
                    self.mailbox().raise_load();
                    self.admit(newcomer);
                }
                Err(_) => unreachable!("the message that comes back is the one that was left"),
            }
        } else {
            self.mailbox().raise_load();
            self.admit(newcomer);
        }
    }

    /// Registers a new connection and opens it for the service.
    pub(super) fn admit(&mut self, Newcomer { socket, peer, listener, watches }: Newcomer) {
        let Some(client) = self.register(listener, &socket, peer) else {
            self.refuse(listener, &peer, watches);
            // The next ones wait in the queue.
            return self.rest(listener);
        };
        let session = self.turn.service.open(&client);
        self.turn.catch_up();
        let mut connection =
            Connection::new(socket, peer != Peer::UNIX, D::FIRST_INTEREST, listener as u16, self.turn.tick);
        connection.watches = watches;
        self.begin(client, connection, session);
    }

    /// Goes on with a connection of another process.
    pub(super) fn resume(&mut self, parcel: Parcel) {
        let peer = parcel.state.peer;
        let Some(client) = self.register(parcel.listener, &parcel.socket, peer) else {
            return self.refuse(parcel.listener, &peer, false);
        };
        // What is left of a time of the other process counts from now, not from the beginning of this turn.
        self.turn.begin(Instant::now());
        let Some(session) = self.turn.service.unpack(&client, &parcel.state.session, self.turn.now) else {
            let _ = self.epoll.delete(&parcel.socket);
            return self.refuse(parcel.listener, &peer, false);
        };
        let connection = parcel.open(peer != Peer::UNIX, D::FIRST_INTEREST, self.turn.tick);
        self.begin(client, connection, session);
    }

    /// Counts a connection, and adds it to the epoll set under the next token. `None`: no memory, or max_user_watches;
    /// it has to go.
    fn register(&mut self, listener: usize, socket: &NonBlocking<Socket>, peer: Peer) -> Option<Client> {
        self.turn.tally.all().accepted += 1;
        self.turn.tally.listener(listener).accepted += 1;
        let token = self.members.next_token()?;
        self.epoll.add_nonblocking(socket, token.to_bits(), D::FIRST_INTEREST, D::MODE).ok()?;
        let client = Client { id: ConnectionId { worker: self.number, token }, peer, listener };
        self.turn.trace.accepted(&client);
        self.turn.trace.registered(client.id, D::FIRST_INTEREST, D::MODE, true);
        Some(client)
    }

    /// Counts a connection that was counted as accepted and is not served.
    fn refuse(&mut self, listener: usize, peer: &Peer, watches: bool) {
        let counters = self.turn.tally.all();
        counters.refused += 1;
        counters.closed += 1;
        self.turn.tally.listener(listener).refused += 1;
        self.mailbox().lower_load();
        if !watches {
            self.gate.leave(peer);
        }
    }

    /// The first turn of a connection that is registered.
    fn begin(&mut self, client: Client, connection: Connection, session: S::Session) {
        self.turn.tally.all().open += 1;
        self.turn.tally.listener(client.listener).open += 1;
        let inserted = self.members.insert(Member { connection, session, peer: client.peer });
        debug_assert_eq!(inserted.ok(), Some(client.id.token));
        self.drive(client.id.token);
    }

    /// Takes a listener out of the epoll set for a while.
    // RULE(emfile-lt-spins)
    // RULE(emfile-et-stalls)
    fn rest(&mut self, index: usize) {
        // A draining worker has none.
        let Some(Some(door)) = self.doors.get_mut(index) else { return };
        if !door.rests {
            door.rests = true;
            let _ = self.epoll.delete(door.listener.socket(self.number));
            self.turn.tally.all().accept_pauses += 1;
            self.turn.trace.paused(index, true);
        }
        self.deadlines.set(KEY_ACCEPT, self.turn.now + Duration::from_millis(ACCEPT_PAUSE_MS));
    }

    /// Whether a listener waits for descriptors or memory.
    pub(super) fn any_door_rests(&self) -> bool {
        self.doors.iter().flatten().any(|door| door.rests)
    }

    /// Puts the listeners that rest back into the epoll set, which reports at once if somebody waits
    /// (`et-add-on-ready-fd-fires`).
    pub(super) fn open_doors(&mut self) -> Result<(), epoll::Error> {
        for (index, door) in self.doors.iter_mut().enumerate() {
            let Some(door) = door.as_mut().filter(|door| door.rests) else { continue };
            let socket = door.listener.socket(self.number);
            // One worker is enough for one client.
            let shared = door.listener.is_shared() && self.mailboxes.len() > 1;
            let mode = if shared { D::MODE.exclusive() } else { D::MODE };
            self.epoll.add_nonblocking(socket, LISTENER | index as u64, Interest::READ, mode)?;
            door.rests = false;
            self.turn.trace.paused(index, false);
        }
        Ok(())
    }

    /// Accepts from one more listener.
    pub(super) fn open_door(&mut self, index: usize, listener: Arc<Listener>) {
        if !self.is_serving() {
            return;
        }
        if self.doors.len() <= index {
            self.doors.resize_with(index + 1, || None);
        }
        self.doors[index] = Some(Door::new(listener));
        // At once, or as soon as there is memory for it.
        self.deadlines.set(KEY_ACCEPT, self.turn.now);
    }

    /// Accepts from a listener no more, but for those whom the kernel has accepted for it.
    // RULE(listener-close-resets-queue)
    pub(super) fn shut_door(&mut self, index: usize) {
        for _ in 0..=somaxconn() as usize / ACCEPT_BUDGET {
            let before = self.turn.tally.counters().came();
            if self.accept(index).is_err() || self.turn.tally.counters().came() == before {
                break;
            }
        }
        let Some(door) = self.doors.get_mut(index).and_then(Option::take) else { return };
        if !door.rests {
            let _ = self.epoll.delete(door.listener.socket(self.number));
        }
        if !self.any_door_rests() {
            self.deadlines.clear(KEY_ACCEPT);
        }
    }
}
