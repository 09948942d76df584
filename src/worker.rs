//! The loop: one thread, one epoll, its connections.
//!
//! The worker owns them: only [`admit`](Worker::admit) registers a connection and only [`close`](Worker::close) takes
//! it away, in the order DEL, new generation, close. So there are no ghosts in the epoll set (lab:
//! `close-with-dup-ghost`), and an event that was fetched before its connection went finds nobody
//! (`stale-event-in-batch`).

mod doors;
mod leaving;

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use self::doors::Door;
use crate::client::ConnectionId;
use crate::deadline::Deadlines;
use crate::exchange::{Discipline, Member, Turn};
use crate::gate::Gate;
use crate::limits::{ACCEPT_PAUSE_MS, EVENTS_PER_WAIT, LOAD_SLACK, MAILBOX_BUDGET, SLOTS_MAX, WAIT_FAILURES_MAX};
use crate::listener::Listener;
use crate::mailbox::{Mailbox, Message};
use crate::metrics::{Counters, ListenerCounters};
use crate::parcel::Parcel;
use crate::service::{End, Service};
use crate::slab::{Slab, Token};
use crate::sys::epoll::{self, Epoll, Event, Events, Interest, Mode, Timeout};
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
    /// By the index of the listener; `None` where there is none any more.
    doors: Vec<Option<Door>>,
    deadlines: Deadlines,
    /// What can go on without another event: connections (each at most once, those that say `queued`), listeners, the
    /// mailbox. By the same 64 bits as events.
    run_queue: VecDeque<u64>,
    timeouts: Timeouts,
    /// So many connections more than another worker this one may have.
    slack: usize,
    gate: Arc<Gate>,
    /// Of all workers; ours is at `number`.
    mailboxes: Arc<[Arc<Mailbox>]>,
    turn: Turn<S, T>,
    state: State,
    /// Where connections go that another process takes over, while draining.
    parcels: Option<Sender<Vec<Parcel>>>,
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
        let door = |listener: &Arc<Listener>| Some(Door::new(Arc::clone(listener)));
        let nobody = ConnectionId { worker: number, token: Token::from_bits(WAKER) };
        let mut worker = Self {
            epoll,
            members: Slab::new(),
            doors: listeners.iter().map(door).collect(),
            deadlines: Deadlines::new(now),
            run_queue: VecDeque::new(),
            timeouts,
            slack: if handoff { LOAD_SLACK } else { usize::MAX },
            gate,
            mailboxes,
            turn: Turn::new(service, trace, now, nobody),
            state: State::Serving,
            parcels: None,
            failed_waits: 0,
            number,
            discipline: PhantomData,
        };
        (worker.turn.real_time, worker.turn.timed) = (true, timeouts.any());
        worker.open_doors()?;
        Ok(worker)
    }

    /// The loop.
    pub(crate) fn run(mut self) -> Result<(), Error> {
        let mut events = Events::with_capacity(EVENTS_PER_WAIT);
        while self.state != State::Stopped {
            self.wait(&mut events)?;
            let began = self.turn.now;
            for event in events.iter() {
                self.dispatch(event)?;
            }
            self.run_queued()?;
            self.expire()?;
            self.end_turn(began);
        }
        Ok(())
    }

    /// Measures the turn, and shows its numbers to the other threads.
    fn end_turn(&mut self, began: Instant) {
        let turn = &mut self.turn;
        turn.now = Instant::now();
        turn.tally.turn(turn.now - began);
        turn.tally.often().run_queue = self.run_queue.len() as u64;
        self.mailboxes[self.number as usize].publish(&mut turn.tally);
    }

    fn is_serving(&self) -> bool {
        self.state == State::Serving
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
        let counters = self.turn.tally.often();
        counters.waits += 1;
        counters.events += count as u64;
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
            self.turn.tally.all().stale_events += 1;
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
        let &Counters { received_bytes: received, sent_bytes: sent, .. } = self.turn.tally.counters();
        let outcome = act(&mut self.turn, member);
        let after = self.turn.tally.counters();
        let (received, sent) = (after.received_bytes - received, after.sent_bytes - sent);
        self.turn.tally.bytes(member.connection.listener.into(), received, sent);
        if let Err(end) = outcome {
            return self.close(token, end);
        }
        let connection = &mut member.connection;
        if (connection.alarm.is_some() || self.turn.timed)
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
                    if let Some(Some(door)) = self.doors.get_mut(index) {
                        door.queued = false;
                    }
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
            Some((due, Some(_))) if due <= self.turn.tick => self.look_again(token),
            Some((due, None)) if due <= self.turn.tick => self.with(token, |turn, member| {
                turn.expire(member)?;
                turn.drive::<D>(member)
            }),
            Some((due, _)) => remind(&mut self.deadlines, token.slot() + KEYS, self.turn.origin, due),
            None => {}
        }
    }

    /// A timeout seems to be over. What the client has sent or taken meanwhile counts, though no wait has told of it
    /// yet: when it is the server that is late, nobody pays for it.
    fn look_again(&mut self, token: Token) {
        let judged = self.turn.tick;
        self.with(token, |turn, member| {
            (member.connection.may_read, member.connection.may_write) = (true, true);
            turn.drive::<D>(member)
        });
        let due = self.members.get(token).and_then(|member| member.connection.due(&self.timeouts, self.turn.tick));
        if let Some((_, Some(what))) = due.filter(|&(due, _)| due <= judged) {
            self.turn.tally.all().timed_out += 1;
            self.close(token, End::TimedOut(what));
        }
    }

    /// Takes a connection away.
    // RULE(close-with-dup-ghost): DEL before close, always.
    fn close(&mut self, token: Token, end: End) {
        let Some(member) = self.remove(token, end) else { return };
        let client = member.client(ConnectionId { worker: self.number, token });
        self.turn.service.close(member.session, &client, end);
        drop(member.connection);
        // A descriptor is free: whoever could not be accepted can be now.
        if self.any_door_rests() {
            self.deadlines.set(KEY_ACCEPT, self.turn.now);
        }
    }

    /// Takes it out of everything that knows it; only the service is not told.
    fn remove(&mut self, token: Token, end: End) -> Option<Member<S::Session>> {
        let member = self.members.remove(token)?;
        let _ = self.epoll.delete(member.connection.socket());
        self.deadlines.clear(token.slot() + KEYS);
        self.mailbox().lower_load();
        if !member.connection.watches {
            self.gate.leave(&member.peer);
        }
        self.gate.keep(member.connection.counted as usize, 0);
        let counters = self.turn.tally.all();
        counters.closed += 1;
        counters.open -= 1;
        count_end(self.turn.tally.listener(member.connection.listener.into()), end);
        self.turn.trace.closed(ConnectionId { worker: self.number, token }, end);
        Some(member)
    }

    fn read_mail(&mut self) {
        let mail = self.mailbox().take(MAILBOX_BUDGET);
        self.turn.trace.mail(mail.messages.len());
        self.turn.tally.all().messages += mail.messages.len() as u64;
        let mut drain = None;
        for message in mail.messages {
            match message {
                Message::Adopt(newcomer) => self.admit(newcomer),
                Message::Resume(parcel) => self.resume(*parcel),
                Message::Open(index, listener) => self.open_door(index, listener),
                Message::Shut(index) => self.shut_door(index),
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
                Message::Drain { until, parcels } => drain = Some((until, parcels)),
                Message::Stop => self.stop(),
            }
        }
        // Behind the connections that came in the same batch: a worker that found nobody and an empty mailbox ended
        // with them in its hands.
        if let Some((until, parcels)) = drain {
            self.drain(until, parcels);
        }
        if mail.more {
            self.run_queue.push_back(WAKER);
        }
    }

    /// Other timeouts from now on, also for those who are connected.
    fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts;
        self.turn.timed = timeouts.any();
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
            self.turn.tally.all().undelivered += 1;
            self.turn.service.undelivered(ConnectionId { worker: self.number, token }, bytes);
        }
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
        End::Moved => &mut counters.moved,
    } += 1;
}

/// Whether a call was wrong, and will be wrong again; all else is the state that the system is in.
fn is_ours(error: epoll::Error) -> bool {
    let errno = error.errno();
    [libc::EBADF, libc::EFAULT, libc::EINVAL, libc::EEXIST, libc::ENOENT, libc::EPERM, libc::ELOOP].contains(&errno)
}
