//! The loop: one thread, one epoll, its connections.
//!
//! The worker owns them: only [`admit`](Worker::admit) registers a connection and only [`close`](Worker::close) takes
//! it away, in the order DEL, new generation, close. So there are no ghosts in the epoll set (lab:
//! `close-with-dup-ghost`), and an event that was fetched before its connection went finds nobody
//! (`stale-event-in-batch`).

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::client::{Client, ConnectionId, Peer};
use crate::connection::{Connection, Phase};
use crate::deadline::Deadlines;
use crate::exchange::{Discipline, Member, Turn};
use crate::gate::{Gate, Over};
use crate::limits::{
    ACCEPT_BUDGET, ACCEPT_PAUSE_MS, DRAIN_QUIET_MS, EVENTS_PER_WAIT, LOAD_SLACK, MAILBOX_BUDGET, SLOTS_MAX,
    WAIT_FAILURES_MAX,
};
use crate::listener::{Listener, Refusal, somaxconn};
use crate::mailbox::{Mailbox, Message};
use crate::metrics::ListenerCounters;
use crate::service::{End, Service};
use crate::slab::{Slab, Token};
use crate::sys::epoll::{self, Epoll, Event, Events, Interest, Mode, Timeout};
use crate::sys::net::NonBlocking;
use crate::timeouts::{Tick, Timeouts};
use crate::trace::Trace;

/// Why a worker could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused an epoll call that it should not refuse.
    #[error("epoll: {0}")]
    Epoll(#[from] epoll::Error),
    /// A listener does not accept any more.
    #[error("the listener on {address} is broken: {source}")]
    Listener {
        /// Where it listened.
        address: String,
        /// What `accept4(2)` said.
        source: std::io::Error,
    },
}

/// By what all workers go.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) timeouts: Timeouts,
    /// New connections are handed on to the worker with the fewest.
    pub(crate) handoff: bool,
    pub(crate) gate: Arc<Gate>,
}

/// What the 64 bits of an event mean; connections are below, by their tokens.
const WAKER: u64 = u64::MAX;
const LISTENER: u64 = SLOTS_MAX as u64;

/// Keys of the wheel; the slots of the connections come behind.
const KEY_ACCEPT: u32 = 0;
const KEY_SWEEP: u32 = 1;
const KEY_STOP: u32 = 2;
const KEYS: u32 = 3;

/// A listener as this worker sees it.
#[derive(Debug)]
struct Door {
    listener: Arc<Listener>,
    /// Out of the epoll set, because descriptors or memory have run out.
    rests: bool,
    /// In the run queue.
    queued: bool,
}

/// How the worker stands to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Serving,
    /// Nobody is accepted any more. From `firm` on also those are ended who never fall silent.
    Draining {
        firm: Instant,
    },
    Stopped,
}

pub(crate) struct Worker<S: Service, D, T> {
    epoll: Epoll,
    members: Slab<Member<S::Session>>,
    doors: Vec<Door>,
    /// How many of the first doors stay open while the worker drains.
    side_doors: usize,
    deadlines: Deadlines,
    /// What can go on without another event: connections (each at most once, those that say `queued`), listeners, the
    /// mailbox. By the same 64 bits as events.
    run_queue: VecDeque<u64>,
    timeouts: Timeouts,
    /// There are any.
    timed: bool,
    /// So many connections more than another worker this one may have.
    slack: usize,
    gate: Arc<Gate>,
    /// Of all workers; ours is at `number`.
    mailboxes: Arc<[Arc<Mailbox>]>,
    turn: Turn<S, T>,
    state: State,
    /// Waits that have failed since the last one that did not.
    failed_waits: u32,
    number: u16,
    discipline: PhantomData<D>,
}

impl<S: Service, D: Discipline, T: Trace> Worker<S, D, T> {
    /// Worker `number` of as many as there are mailboxes. `epoll` comes from outside, because it takes a descriptor: a
    /// worker that started a moment earlier may have accepted so many clients that there is none left.
    pub(crate) fn new(
        epoll: Epoll,
        number: u16,
        listeners: &[Arc<Listener>],
        mailboxes: Arc<[Arc<Mailbox>]>,
        Rules { timeouts, handoff, gate }: Rules,
        service: S,
        trace: T,
    ) -> Result<Self, Error> {
        let now = Instant::now();
        // RULE(eventfd-waker-et-needs-no-read): each write is an edge; nobody reads.
        epoll.add(mailboxes[number as usize].waker(), WAKER, Interest::READ, Mode::EDGE)?;
        let door = |listener: &Arc<Listener>| Door { listener: Arc::clone(listener), rests: true, queued: false };
        let nobody = ConnectionId { worker: number, token: Token::from_bits(WAKER) };
        let mut worker = Self {
            epoll,
            members: Slab::new(),
            doors: listeners.iter().map(door).collect(),
            side_doors: listeners.iter().take_while(|listener| listener.stays_while_draining()).count(),
            deadlines: Deadlines::new(now),
            run_queue: VecDeque::new(),
            timeouts,
            timed: timeouts.any(),
            slack: if handoff { LOAD_SLACK } else { usize::MAX },
            gate,
            mailboxes,
            turn: Turn::new(service, trace, now, nobody),
            state: State::Serving,
            failed_waits: 0,
            number,
            discipline: PhantomData,
        };
        worker.open_doors()?;
        Ok(worker)
    }

    /// The loop.
    pub(crate) fn run(mut self) -> Result<(), Error> {
        let mut events = Events::with_capacity(EVENTS_PER_WAIT);
        while self.state != State::Stopped {
            self.wait(&mut events)?;
            for event in events.iter() {
                self.dispatch(event)?;
            }
            self.run_queued()?;
            self.expire()?;
            self.end_turn();
        }
        Ok(())
    }

    /// Measures the turn, and shows its numbers to the other threads.
    fn end_turn(&mut self) {
        let began = std::mem::replace(&mut self.turn.now, Instant::now());
        let turn = &mut self.turn;
        turn.tally.turn(turn.now - began);
        turn.counters.open = self.members.len() as u64;
        turn.counters.run_queue = self.run_queue.len() as u64;
        self.mailboxes[self.number as usize].publish(&turn.counters, &mut turn.tally);
    }

    fn mailbox(&self) -> &Mailbox {
        &self.mailboxes[self.number as usize]
    }

    fn wait(&mut self, events: &mut Events) -> Result<(), Error> {
        // RULE(et-event-cache-needs-no-read): what waits in the run queue gets no event; do not sleep on it.
        let timeout = match (self.run_queue.is_empty(), self.deadlines.is_empty()) {
            (false, _) => Some(Duration::ZERO),
            (true, true) => None,
            // `now` is of the end of the last turn: by what that took, a deadline does not come late.
            (true, false) => self.deadlines.next(self.turn.now),
        };
        self.turn.trace.waiting(timeout, self.members.len(), self.run_queue.len());
        let count = match self.epoll.wait(events, timeout.map_or(Timeout::Never, Timeout::After)) {
            Ok(count) => {
                self.failed_waits = 0;
                count
            }
            Err(error) if self.may_wait_again(error) => 0,
            Err(error) => return Err(error.into()),
        };
        self.turn.begin(Instant::now());
        self.turn.trace.woken(count);
        self.turn.counters.waits += 1;
        self.turn.counters.events += count as u64;
        Ok(())
    }

    /// Whether a wait that failed is worth another one. The manual knows no failure that would be, but a filter or
    /// another kernel may, and all clients of this process are at stake. A failure that stays ends it: no spin.
    #[cold]
    fn may_wait_again(&mut self, error: epoll::Error) -> bool {
        self.failed_waits += 1;
        !is_ours(error) && self.failed_waits <= WAIT_FAILURES_MAX
    }

    #[inline]
    fn dispatch(&mut self, event: Event) -> Result<(), Error> {
        match event.data() {
            WAKER => self.read_mail(),
            data if data & LISTENER != 0 => {
                let index = (data ^ LISTENER) as usize;
                self.turn.trace.knock(index, event);
                self.accept(index)?;
            }
            data => self.ready(Token::from_bits(data), event),
        }
        Ok(())
    }

    /// An event of a connection.
    #[inline]
    fn ready(&mut self, token: Token, event: Event) {
        let Some(member) = self.members.get_mut(token) else {
            // RULE(stale-event-in-batch)
            self.turn.counters.stale_events += 1;
            self.turn.trace.event(None, event);
            return;
        };
        self.turn.who = ConnectionId { worker: self.number, token };
        self.turn.trace.event(Some(self.turn.who), event);
        member.connection.note(event);
        match member.connection.doomed_by(event) {
            Some(errno) => self.close(token, End::Broken(errno)),
            None => self.drive(token),
        }
    }

    /// Gives a connection its turn, and sees to what follows from it.
    fn drive(&mut self, token: Token) {
        self.with(token, |turn, member| turn.drive::<D>(member));
    }

    /// Lets `act` work on a connection; then sees to its deadline, its interest and its place in the run queue.
    #[inline]
    fn with(&mut self, token: Token, act: impl FnOnce(&mut Turn<S, T>, &mut Member<S::Session>) -> Result<(), End>) {
        let Some(member) = self.members.get_mut(token) else { return };
        self.turn.who = ConnectionId { worker: self.number, token };
        let (received, sent) = (self.turn.counters.received_bytes, self.turn.counters.sent_bytes);
        let outcome = act(&mut self.turn, member);
        let counted = self.turn.tally.listener(member.connection.listener.into());
        counted.received_bytes += self.turn.counters.received_bytes - received;
        counted.sent_bytes += self.turn.counters.sent_bytes - sent;
        if let Err(end) = outcome {
            return self.close(token, end);
        }
        let connection = &mut member.connection;
        if (connection.alarm.is_some() || self.timed)
            && let Some((due, _)) = connection.due(&self.timeouts, self.turn.tick)
        {
            remind(&mut self.deadlines, token.slot() + KEYS, self.turn.origin, due);
        }
        let kept = connection.unread() + connection.unsent();
        if kept != connection.counted as usize {
            let before = std::mem::replace(&mut connection.counted, u32::try_from(kept).unwrap_or(u32::MAX));
            let room = self.gate.keep(before as usize, connection.counted as usize);
            if !room {
                return self.close(token, End::OverBuffered);
            }
        }
        if let Some(interest) = D::reinterest(connection) {
            self.turn.trace.registered(self.turn.who, interest, D::MODE, false);
            if self.epoll.modify_nonblocking(connection.socket(), token.to_bits(), interest, D::MODE).is_err() {
                return self.close(token, End::Broken(libc::ENOMEM));
            }
        }
        if D::must_return(connection) && !connection.queued {
            connection.queued = true;
            self.run_queue.push_back(token.to_bits());
        }
        // The invariant of the run queue: whoever can go on without the kernel is in it, exactly once.
        debug_assert!(connection.queued || !D::must_return(connection));
    }

    /// Those that can go on without an event, once each: what they leave over comes after the next wait.
    fn run_queued(&mut self) -> Result<(), Error> {
        for _ in 0..self.run_queue.len() {
            let Some(data) = self.run_queue.pop_front() else { break };
            match data {
                WAKER => self.read_mail(),
                data if data & LISTENER != 0 => {
                    let index = (data ^ LISTENER) as usize;
                    self.doors[index].queued = false;
                    self.accept(index)?;
                }
                data => {
                    let token = Token::from_bits(data);
                    if let Some(member) = self.members.get_mut(token) {
                        member.connection.queued = false;
                        self.drive(token);
                    }
                }
            }
        }
        Ok(())
    }

    fn expire(&mut self) -> Result<(), Error> {
        if self.deadlines.is_empty() {
            return Ok(());
        }
        let mut due = Vec::new();
        self.deadlines.expire(self.turn.now, &mut due);
        for key in due {
            match key {
                KEY_ACCEPT => match self.open_doors() {
                    // With no client left, too: a server that could wait for memory once ended here.
                    Err(error) if !is_ours(error) => {
                        self.deadlines.set(KEY_ACCEPT, self.turn.now + Duration::from_millis(ACCEPT_PAUSE_MS));
                    }
                    outcome => outcome?,
                },
                KEY_SWEEP => self.sweep(),
                KEY_STOP => self.stop(),
                slot => {
                    if let Some(token) = self.members.token_at(slot - KEYS) {
                        self.expire_one(token);
                    }
                }
            }
        }
        Ok(())
    }

    /// The reminder of a connection has come. Something may be over, or it is to be reminded again later.
    fn expire_one(&mut self, token: Token) {
        let Some(member) = self.members.get(token) else { return };
        match member.connection.due(&self.timeouts, self.turn.tick) {
            Some((due, Some(what))) if due <= self.turn.tick => {
                self.turn.counters.timed_out += 1;
                self.close(token, End::TimedOut(what));
            }
            Some((due, None)) if due <= self.turn.tick => self.with(token, |turn, member| {
                turn.expire(member)?;
                turn.drive::<D>(member)
            }),
            Some((due, _)) => remind(&mut self.deadlines, token.slot() + KEYS, self.turn.origin, due),
            None => {}
        }
    }

    /// Accepts until the queue is empty or the budget is spent; what is left is accepted in the next turn.
    // RULE(et-single-accept-strands)
    fn accept(&mut self, index: usize) -> Result<(), Error> {
        let mut taken = 0;
        for _ in 0..ACCEPT_BUDGET {
            if self.doors.get(index).is_none_or(|door| door.rests) {
                return Ok(());
            }
            match self.doors[index].listener.accept(self.number) {
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
                        address: self.doors[index].listener.address().to_string(),
                        source: std::io::Error::from_raw_os_error(errno),
                    });
                }
            }
        }
        if taken == 0 {
            // A security module that forbids an accept leaves the connection in the queue, to be refused again: a spin.
            self.rest(index);
        }
        let door = &mut self.doors[index];
        if D::LISTENER_MUST_RETURN && !door.queued && !door.rests {
            door.queued = true;
            self.run_queue.push_back(LISTENER | index as u64);
        }
        Ok(())
    }

    /// Gives a new connection to the worker that has the fewest: to this one, if the difference is small.
    fn place(&mut self, listener: usize, socket: NonBlocking<Socket>, peer: Peer) {
        if let Err(over) = self.gate.enter(&peer, self.turn.now) {
            let counters = &mut self.turn.counters;
            *match over {
                Over::Connections => &mut counters.over_connections,
                Over::PerIp => &mut counters.over_per_ip,
                Over::Rate => &mut counters.over_rate,
                Over::Denied => &mut counters.denied,
                Over::Buffered => &mut counters.over_buffered,
            } += 1;
            return self.turn.trace.turned_away(listener, &peer);
        }
        let least = self.mailboxes.iter().min_by_key(|mailbox| mailbox.load()).filter(|mailbox| {
            self.state == State::Serving && mailbox.load().saturating_add(self.slack) < self.mailbox().load()
        });
        if let Some(other) = least {
            other.raise_load();
            match other.try_leave(Message::Adopt(socket, peer, listener)) {
                Ok(()) => {}
                // It is ending: this worker is too, or will be soon, but until then it serves.
                Err((_, Message::Adopt(socket, ..))) => {
                    other.lower_load();
                    self.mailbox().raise_load();
                    self.admit(listener, socket, peer);
                }
                Err(_) => unreachable!("the message that comes back is the one that was left"),
            }
        } else {
            self.mailbox().raise_load();
            self.admit(listener, socket, peer);
        }
    }

    /// Registers a new connection and opens it for the service.
    fn admit(&mut self, listener: usize, socket: NonBlocking<Socket>, peer: Peer) {
        self.turn.counters.accepted += 1;
        self.turn.tally.listener(listener).accepted += 1;
        let registered = self
            .members
            .next_token()
            .filter(|token| self.epoll.add_nonblocking(&socket, token.to_bits(), D::FIRST_INTEREST, D::MODE).is_ok());
        let Some(token) = registered else {
            // No memory, or max_user_watches: this one has to go, and the next ones wait in the queue.
            self.turn.counters.refused += 1;
            self.turn.counters.closed += 1;
            self.turn.tally.listener(listener).refused += 1;
            self.mailbox().lower_load();
            self.gate.leave(&peer);
            self.rest(listener);
            return;
        };
        self.turn.tally.listener(listener).open += 1;
        let client = Client { id: ConnectionId { worker: self.number, token }, peer, listener };
        self.turn.trace.accepted(&client);
        self.turn.trace.registered(client.id, D::FIRST_INTEREST, D::MODE, true);
        let session = self.turn.service.open(&client);
        let connection =
            Connection::new(socket, peer != Peer::UNIX, D::FIRST_INTEREST, listener as u16, self.turn.tick);
        let inserted = self.members.insert(Member { connection, session, peer });
        debug_assert_eq!(inserted.ok(), Some(token));
        self.drive(token);
    }

    /// Takes a connection away.
    // RULE(close-with-dup-ghost): DEL before close, always.
    fn close(&mut self, token: Token, end: End) {
        let Some(member) = self.members.remove(token) else { return };
        let _ = self.epoll.delete(member.connection.socket());
        self.deadlines.clear(token.slot() + KEYS);
        self.mailbox().lower_load();
        self.gate.leave(&member.peer);
        self.gate.keep(member.connection.counted as usize, 0);
        self.turn.counters.closed += 1;
        count_end(self.turn.tally.listener(member.connection.listener.into()), end);
        let client = member.client(ConnectionId { worker: self.number, token });
        self.turn.trace.closed(client.id, end);
        self.turn.service.close(member.session, &client, end);
        drop(member.connection);
        // A descriptor is free: whoever could not be accepted can be now.
        if self.doors.iter().any(|door| door.rests) {
            self.deadlines.set(KEY_ACCEPT, self.turn.now);
        }
    }

    /// Takes a listener out of the epoll set for a while.
    // RULE(emfile-lt-spins)
    // RULE(emfile-et-stalls)
    fn rest(&mut self, index: usize) {
        // A draining worker has none.
        let Some(door) = self.doors.get_mut(index) else { return };
        if !door.rests {
            door.rests = true;
            let _ = self.epoll.delete(door.listener.socket(self.number));
            self.turn.counters.accept_pauses += 1;
            self.turn.trace.paused(index, true);
        }
        self.deadlines.set(KEY_ACCEPT, self.turn.now + Duration::from_millis(ACCEPT_PAUSE_MS));
    }

    /// Puts the listeners that rest back into the epoll set, which reports at once if somebody waits
    /// (`et-add-on-ready-fd-fires`).
    fn open_doors(&mut self) -> Result<(), epoll::Error> {
        for (index, door) in self.doors.iter_mut().enumerate().filter(|(_, door)| door.rests) {
            let socket = door.listener.socket(self.number);
            // One worker is enough for one client.
            let shared = door.listener.is_shared() && self.mailboxes.len() > 1;
            let mode = if shared { D::MODE.exclusive() } else { D::MODE };
            match self.epoll.add_nonblocking(socket, LISTENER | index as u64, Interest::READ, mode) {
                Ok(()) => {
                    door.rests = false;
                    self.turn.trace.paused(index, false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read_mail(&mut self) {
        let mail = self.mailbox().take(MAILBOX_BUDGET);
        self.turn.trace.mail(mail.messages.len());
        self.turn.counters.messages += mail.messages.len() as u64;
        for message in mail.messages {
            match message {
                Message::Adopt(socket, peer, listener) => self.admit(listener, socket, peer),
                Message::Send(token, bytes) => self.deliver(token, &bytes),
                Message::Broadcast(bytes) => {
                    let everyone: Vec<Token> = self.members.tokens().collect();
                    for token in everyone {
                        self.deliver(token, &bytes);
                    }
                }
                Message::Close(token) => self.close(token, End::Closed),
                Message::Timeouts(timeouts) => self.set_timeouts(timeouts),
                Message::Ping => self.mailbox().pong(),
                Message::Drain { until } => self.drain(until),
                Message::Stop => self.stop(),
            }
        }
        if mail.more {
            self.run_queue.push_back(WAKER);
        }
    }

    /// Other timeouts from now on, also for those who are connected.
    fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts;
        self.timed = timeouts.any();
        for token in self.members.tokens() {
            let due = self.members.get(token).and_then(|member| member.connection.due(&timeouts, self.turn.tick));
            if let Some((due, _)) = due {
                remind(&mut self.deadlines, token.slot() + KEYS, self.turn.origin, due);
            }
        }
    }

    fn deliver(&mut self, token: Token, bytes: &[u8]) {
        let mut delivered = Ok(false);
        if self.members.get(token).is_some() {
            self.with(token, |turn, member| {
                delivered = turn.deliver(member, bytes);
                delivered.map(drop)?;
                turn.drive::<D>(member)
            });
        }
        if delivered == Ok(false) {
            self.turn.counters.undelivered += 1;
            self.turn.service.undelivered(ConnectionId { worker: self.number, token }, bytes);
        }
    }

    /// Accepts nobody any more, and lets those that are there finish: each is ended when it has fallen silent with
    /// nothing due. Clients that the kernel had accepted for us already are served too.
    // RULE(listener-close-resets-queue)
    fn drain(&mut self, until: Instant) {
        if self.state != State::Serving {
            return;
        }
        // From here on nothing is handed on: the counters tell what comes out of the queues.
        let now = self.turn.now;
        self.state = State::Draining { firm: now + until.saturating_duration_since(now) / 2 };
        for index in self.side_doors..self.doors.len() {
            for _ in 0..=somaxconn() as usize / ACCEPT_BUDGET {
                let before = self.turn.counters.came();
                if self.accept(index).is_err() || self.turn.counters.came() == before {
                    break;
                }
            }
            if !self.doors[index].rests {
                let _ = self.epoll.delete(self.doors[index].listener.socket(self.number));
            }
        }
        self.doors.truncate(self.side_doors);
        let doors = LISTENER..LISTENER + self.doors.len() as u64;
        self.run_queue.retain(|data| *data == WAKER || data & LISTENER == 0 || doors.contains(data));
        if !self.doors.iter().any(|door| door.rests) {
            self.deadlines.clear(KEY_ACCEPT);
        }
        self.deadlines.set(KEY_STOP, until);
        self.sweep();
    }

    /// Ends the connections that have been silent since the last sweep.
    fn sweep(&mut self) {
        let State::Draining { firm } = self.state else { return };
        let firm = self.turn.now >= firm;
        let everyone: Vec<Token> = self.members.tokens().collect();
        // Clients of listeners that stay are served to the end, and not waited for.
        let mut staying = 0;
        for token in everyone {
            let Some(member) = self.members.get_mut(token) else { continue };
            if usize::from(member.connection.listener) < self.side_doors {
                staying += 1;
                continue;
            }
            let connection = &mut member.connection;
            let was_active = std::mem::take(&mut connection.active);
            if connection.phase == Phase::Open && nothing_is_due(connection, was_active && !firm) {
                self.with(token, |turn, member| {
                    turn.finish(member);
                    turn.drive::<D>(member)
                });
            }
        }
        // A connection that another worker has handed on may still be in the mailbox.
        self.mailbox().set_drained(self.members.len() == staying);
        // Whoever watches the server is answered by every worker as long as any of them has clients.
        let done = if self.doors.is_empty() { self.mailbox().is_drained() } else { self.all_drained() };
        if done && self.mailbox().end_if_empty() {
            self.stop();
        } else {
            let soon = self.turn.now + Duration::from_millis(DRAIN_QUIET_MS);
            self.deadlines.set(KEY_SWEEP, soon);
        }
    }

    fn all_drained(&self) -> bool {
        self.mailboxes.iter().all(|mailbox| mailbox.is_drained())
    }

    /// Ends everything now.
    fn stop(&mut self) {
        let everyone: Vec<Token> = self.members.tokens().collect();
        for token in everyone {
            self.close(token, End::Stopped);
        }
        self.state = State::Stopped;
    }
}

/// Sets the reminder of a connection, unless an earlier one is set: then it will be looked at again anyway. So a
/// timeout that is put off by every byte moves nothing in the wheel.
fn remind(deadlines: &mut Deadlines, key: u32, origin: Instant, due: Tick) {
    // The most that a clock of 64 bits of nanoseconds can add: centuries.
    let at = origin + Duration::from_millis(due.min(u64::MAX / 4_000_000));
    if deadlines.get(key).is_none_or(|set| at < set) {
        deadlines.set(key, at);
    }
}

fn count_end(counters: &mut ListenerCounters, end: End) {
    counters.open -= 1;
    *match end {
        End::Finished => &mut counters.finished,
        End::Lingered => &mut counters.lingered,
        End::Broken(_) => &mut counters.broken,
        End::Aborted => &mut counters.aborted,
        End::Stuck => &mut counters.stuck,
        End::TooSlow => &mut counters.too_slow,
        End::TimedOut(_) => &mut counters.timed_out,
        End::OverBuffered => &mut counters.over_buffered,
        End::Closed => &mut counters.closed,
        End::Stopped => &mut counters.stopped,
    } += 1;
}

/// Whether a call was wrong, and will be wrong again; all else is the state that the system is in.
fn is_ours(error: epoll::Error) -> bool {
    let errno = error.errno();
    [libc::EBADF, libc::EFAULT, libc::EINVAL, libc::EEXIST, libc::ENOENT, libc::EPERM, libc::ELOOP].contains(&errno)
}

/// Whether everything that the client may expect has been sent.
fn nothing_is_due(connection: &Connection, may_send_more: bool) -> bool {
    if connection.producing {
        // Endless by nature: what it has written goes out, more is not due.
        return true;
    }
    !may_send_more && connection.alarm.is_none() && connection.output.is_none() && connection.unread_in_kernel() == 0
}
