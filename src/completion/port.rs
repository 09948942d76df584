//! The port: what threads call.

use std::time::Instant;

use nix::errno::Errno;
use socket2::{Protocol, SockAddr};

use super::kernel::epoll::{self, Epoll, Event, Events, Interest, Mode, Timeout};
use super::kernel::net::NonBlocking;
use super::kernel::{Socket, now};
use super::limits::{ACCEPT_BUDGET, COMPLETION_EVENTS_PER_WAIT, TURN_BUDGET_BYTES};
use super::operation::{Completion, Failure, Kind, OperationId, Outcome, Reason, Refused, SocketId, Task};
use super::queue::{Next, Queue, own_lane};
use super::seat::{Cancel, Direction, Seat, Step, Taken};
use super::sync::atomic::{AtomicBool, Ordering};
use super::sync::{Arc, Mutex, MutexGuard, PoisonError};
use super::table::Table;
use super::timers::Timers;
use crate::slab::Token;

/// Tokens of the port's own descriptors; those of sockets are below 2³¹ in their lower half.
const WAKER: u64 = u64::MAX;
const TIMERS: u64 = u64::MAX - 1;

/// Why there is no port, or no way to wait in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// [`Port::end`] was called, and all completions have been handed out.
    #[error("the port has ended")]
    Ended,
    /// `epoll_create1(2)`, `epoll_ctl(2)` or `epoll_wait(2)` has failed.
    #[error("epoll: {0}")]
    Epoll(#[from] epoll::Error),
    /// `eventfd(2)` or `timerfd_create(2)` has failed.
    #[error("eventfd or timerfd: {0}; close files or raise `ulimit -n`")]
    Descriptor(std::io::Error),
}

/// A socket that was not taken into the port.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct NotAssociated {
    /// Why.
    pub reason: AssociateError,
    /// As it was given.
    pub socket: NonBlocking<Socket>,
}

/// Why a socket was not taken into the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AssociateError {
    /// The kernel does not watch it.
    #[error(transparent)]
    Epoll(#[from] epoll::Error),
    /// [`Reason::Full`] or [`Reason::Ended`].
    #[error(transparent)]
    Refused(Reason),
}

/// One socket.
#[derive(Debug)]
struct Entry {
    id: SocketId,
    key: u64,
    /// A short read of TCP has emptied the socket. Unix sockets stop behind bytes that came with descriptors, too.
    short_is_all: bool,
    seat: Mutex<EntrySeat>,
}

type EntrySeat = Seat<NonBlocking<Socket>, Task>;

impl Entry {
    fn seat(&self) -> MutexGuard<'_, EntrySeat> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn completion(&self, sequence: u64, direction: Direction, outcome: Outcome) -> Completion {
        let operation = OperationId(Kind::Socket(self.id, direction, sequence));
        Completion { key: self.key, operation, outcome }
    }
}

/// What waits in the queue.
#[derive(Debug)]
enum Item {
    /// A completion, and the side of the socket that is free when it has been handed out.
    Complete(Completion, Option<(Arc<Entry>, Direction)>),
    /// Somebody is to go on with this socket.
    Drive(Arc<Entry>),
    /// The kernel has told this of a socket, and nobody has looked yet.
    Event(SocketId, Event),
}

/// What a thread in `next` is to return; the side is to be freed by then.
type Mine = Option<(Completion, Option<(Arc<Entry>, Direction)>)>;

/// Where completions go that a thread makes.
#[derive(Debug)]
enum Leave<'a> {
    /// The first here, the others into the queue.
    ForMe(&'a mut Mine),
    ForAnybody,
}

/// A completion port. See the [module](super).
///
/// All calls take `&self` and may be made by any number of threads at once; only [`next`](Self::next) waits. Dropping
/// the port closes its sockets and drops the buffers of what is outstanding; [`end`](Self::end) gives them back first.
#[derive(Debug)]
#[doc(alias = "CreateIoCompletionPort")]
pub struct Port {
    epoll: Epoll,
    table: Table<Entry>,
    queue: Queue<Item>,
    timers: Timers,
    /// No socket is taken any more.
    ended: AtomicBool,
}

impl Port {
    /// A port without sockets. It has three descriptors: an epoll, an eventfd, a timerfd.
    ///
    /// # Errors
    /// [`Error::Epoll`] and [`Error::Descriptor`], if descriptors or memory have run out.
    pub fn new() -> Result<Self, Error> {
        let refused = |errno: Errno| Error::Descriptor(errno.into());
        let epoll = Epoll::new()?;
        let queue = Queue::new().map_err(refused)?;
        let timers = Timers::new().map_err(refused)?;
        epoll.add(queue.waker(), WAKER, Interest::READ, Mode::EDGE)?;
        epoll.add(timers.descriptor(), TIMERS, Interest::READ, Mode::EDGE)?;
        Ok(Self { epoll, table: Table::new(), queue, timers, ended: AtomicBool::new(false) })
    }

    /// Takes a socket in, of any kind, connected or not. `key` comes with each of its completions.
    ///
    /// The port closes it. Who keeps a duplicate keeps the connection open, and steals its events.
    ///
    /// # Errors
    /// [`NotAssociated`], with the socket.
    #[doc(alias = "CreateIoCompletionPort")]
    pub fn associate<S: Into<Socket>>(&self, socket: NonBlocking<S>, key: u64) -> Result<SocketId, NotAssociated> {
        let socket = NonBlocking::trust(socket.into_inner().into());
        let short_is_all = matches!(socket.get_ref().protocol(), Ok(Some(Protocol::TCP)));
        let admit = || !self.ended.load(Ordering::Relaxed);
        let make = |id| Entry { id, key, short_is_all, seat: Mutex::new(Seat::new()) };
        let Some(entry) = self.table.insert(admit, make) else {
            let reason = if admit() { Reason::Full } else { Reason::Ended };
            return Err(NotAssociated { reason: AssociateError::Refused(reason), socket });
        };
        // Once, for everything, and never changed: the seat remembers what an edge has told, and lets one thread at a
        // time act on it. ONESHOT would do the latter only, for one more system call with each operation that waits.
        let all = Interest::READ | Interest::WRITE | Interest::READ_CLOSED | Interest::PRIORITY;
        match self.epoll.add_nonblocking(&socket, entry.id.0.to_bits(), all, Mode::EDGE) {
            Ok(()) => {
                // The seat has been empty until now: events have left notes.
                let step = entry.seat().step(socket);
                self.drive_with(&entry, step, Leave::ForAnybody);
                Ok(entry.id)
            }
            Err(error) => {
                self.table.remove(entry.id);
                Err(NotAssociated { reason: error.into(), socket })
            }
        }
    }

    /// Waits for a connection on a listening socket: [`Outcome::Accepted`].
    ///
    /// # Errors
    /// [`Reason::Busy`] beside another `accept`, [`Reason::Closed`].
    #[doc(alias = "AcceptEx")]
    pub fn accept(&self, listener: SocketId) -> Result<OperationId, Refused<()>> {
        self.submit(listener, Task::Accept).map_err(without_buffer)
    }

    /// Connects: [`Outcome::Connected`]. If it is cancelled, the kernel goes on connecting: close the socket.
    ///
    /// # Errors
    /// [`Reason::Busy`] beside a `send`, `shutdown` or another `connect`, [`Reason::Closed`].
    #[doc(alias = "ConnectEx")]
    pub fn connect(&self, socket: SocketId, address: impl Into<SockAddr>) -> Result<OperationId, Refused<()>> {
        let task = Task::Connect { address: Box::new(address.into()), begun: false };
        self.submit(socket, task).map_err(without_buffer)
    }

    /// Receives into the spare capacity of `buffer`, behind what it holds, as soon as there is anything:
    /// [`Outcome::Received`]. The buffer does not grow, and comes back with the completion. Of a datagram socket it is
    /// one datagram: what does not fit is lost, and 0 bytes are an empty one, not the end.
    ///
    /// # Errors
    /// With the buffer: [`Reason::Busy`] beside another `recv`, [`Reason::NoRoom`], [`Reason::Closed`].
    #[doc(alias = "WSARecv")]
    pub fn recv(&self, socket: SocketId, buffer: Vec<u8>) -> Result<OperationId, Refused<Vec<u8>>> {
        if buffer.len() == buffer.capacity() {
            return Err(Refused { reason: Reason::NoRoom, buffer });
        }
        self.submit(socket, Task::Recv(buffer)).map_err(with_buffer)
    }

    /// Sends all of `buffer`: [`Outcome::Sent`], when the kernel has taken the last byte. The buffer comes back with
    /// the completion. For a datagram socket it is one datagram, of 256 KiB at the most; an empty one is not sent.
    ///
    /// # Errors
    /// With the buffer: [`Reason::Busy`] beside a `connect`, `shutdown` or another `send`, [`Reason::Closed`].
    #[doc(alias = "WSASend")]
    pub fn send(&self, socket: SocketId, buffer: Vec<u8>) -> Result<OperationId, Refused<Vec<u8>>> {
        self.submit(socket, Task::Send { buffer, sent: 0 }).map_err(with_buffer)
    }

    /// Says that nothing more will be sent (FIN); receiving goes on. [`Outcome::ShutDown`].
    ///
    /// # Errors
    /// [`Reason::Busy`] beside a `send`, `connect` or another `shutdown`, [`Reason::Closed`].
    #[doc(alias = "DisconnectEx")]
    pub fn shutdown(&self, socket: SocketId) -> Result<OperationId, Refused<()>> {
        self.submit(socket, Task::Shutdown).map_err(without_buffer)
    }

    /// Completes at `at`, or up to a millisecond later, but not earlier: [`Outcome::Timer`].
    ///
    /// # Errors
    /// [`Reason::Full`] beside [`COMPLETION_TIMERS_MAX`](crate::limits::COMPLETION_TIMERS_MAX) others,
    /// [`Reason::Ended`].
    pub fn timer(&self, at: Instant, key: u64) -> Result<OperationId, Refused<()>> {
        let token = self.timers.add(at, key, || self.queue.accepted());
        token.map(|token| OperationId(Kind::Timer(token))).map_err(|reason| Refused { reason, buffer: () })
    }

    /// Completes at once: [`Outcome::Posted`]. To tell something to whichever thread is free.
    ///
    /// # Errors
    /// [`Reason::Full`] beside [`COMPLETION_POSTS_MAX`](crate::limits::COMPLETION_POSTS_MAX) others,
    /// [`Reason::Ended`].
    #[doc(alias = "PostQueuedCompletionStatus")]
    pub fn post(&self, key: u64) -> Result<OperationId, Refused<()>> {
        let operation = OperationId(Kind::Post);
        let completion = Completion { key, operation, outcome: Outcome::Posted };
        let posted = self.queue.post(Item::Complete(completion, None));
        posted.map(|()| operation).map_err(|reason| Refused { reason, buffer: () })
    }

    /// Ends one operation. Its completion comes, as that of every operation: with [`Failure::Cancelled`], or with its
    /// result if it was being made just then. `false`: it is over already, and nothing has been done; its completion
    /// was handed out, or will be.
    #[doc(alias = "CancelIoEx")]
    pub fn cancel(&self, operation: OperationId) -> bool {
        match operation.0 {
            Kind::Post => false,
            Kind::Timer(token) => match self.timers.remove(token) {
                Some(key) => {
                    self.queue.push(timer_item(token, key, Err(Failure::Cancelled)));
                    true
                }
                None => false,
            },
            Kind::Socket(socket, direction, sequence) => {
                let Some(entry) = self.table.get(socket) else { return false };
                let mut seat = entry.seat();
                match seat.cancel(direction, sequence) {
                    Cancel::Now(task) => {
                        self.leave(&entry, &mut seat, direction, task.fail(Failure::Cancelled));
                        drop(seat);
                        self.queue.wake();
                        true
                    }
                    Cancel::Later => true,
                    Cancel::Unknown => false,
                }
            }
        }
    }

    /// Closes a socket. Its name is dead from now on; its descriptor is closed now, or by the thread that is in a
    /// system call on it, as soon as that returns (none of them waits). What is outstanding completes after that, with
    /// [`Failure::Cancelled`]; when the last of it has been handed out, nothing is left of the socket.
    ///
    /// `false`: it was closed already.
    #[doc(alias = "closesocket")]
    pub fn close(&self, socket: SocketId) -> bool {
        match self.table.remove(socket) {
            Some(entry) => self.close_entry(&entry),
            None => false,
        }
    }

    fn close_entry(&self, entry: &Arc<Entry>) -> bool {
        let first = entry.seat().close();
        self.drive(entry, Leave::ForAnybody);
        first
    }

    /// Ends the port: closes all sockets, cancels all timers, refuses what comes later. [`next`](Self::next) hands out
    /// what is left, so that every buffer comes back, and then says [`Error::Ended`] to each thread. A second call does
    /// nothing.
    pub fn end(&self) {
        // Two threads in here: one would find the table empty and tell the queue, while the other has yet to close what
        // it took out of the table. Threads would go, and miss what was asked of those sockets until then.
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        for entry in self.table.drain() {
            self.close_entry(&entry);
        }
        for (token, key) in self.timers.end() {
            self.queue.push(timer_item(token, key, Err(Failure::Cancelled)));
        }
        // Not earlier: a thread that had seen nothing outstanding would have gone.
        self.queue.end();
    }

    /// How many operations were accepted and have not been handed out.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.queue.outstanding()
    }

    /// The next completion. Waits for it no longer than `timeout`; then, `None`.
    ///
    /// The completions of one socket are handed out in the order in which they were made. No second operation of one
    /// direction begins before the completion of the first is handed out, so those never overtake one another,
    /// whichever threads take them. Between sockets there is no such order: a thread prefers what it has made itself,
    /// and what it has in the order of its making.
    ///
    /// # Errors
    /// [`Error::Ended`]; [`Error::Epoll`] if the kernel refuses to wait, which it has no reason for.
    #[doc(alias = "GetQueuedCompletionStatus")]
    pub fn next(&self, timeout: impl Into<Timeout>) -> Result<Option<Completion>, Error> {
        let timeout = timeout.into();
        let mut over = timeout == Timeout::Now;
        let until = match timeout {
            Timeout::After(duration) => now().checked_add(duration),
            Timeout::Now | Timeout::Never => None,
        };
        let mut asked = false;
        loop {
            match self.queue.take() {
                Next::Item(item) => {
                    if let Some(completion) = self.work(item) {
                        return Ok(Some(completion));
                    }
                }
                Next::Poll => self.ask(Timeout::Now, false)?,
                Next::Ended => return Err(Error::Ended),
                Next::Sleep if over && asked => {
                    self.queue.asked(true, false, std::iter::empty());
                    return Ok(None);
                }
                Next::Sleep => {
                    let left = until.map(|until| until.saturating_duration_since(now()));
                    over |= left.is_some_and(|left| left.is_zero());
                    let wait = if over { Timeout::Now } else { left.into() };
                    self.ask(wait, true)?;
                    asked = true;
                }
            }
        }
    }

    /// Does what an item asks for. A completion that comes of it is for this thread: it was not in the queue.
    fn work(&self, item: Item) -> Option<Completion> {
        let mut mine = None;
        match item {
            Item::Complete(completion, side) => mine = Some((completion, side)),
            Item::Drive(entry) => self.drive(&entry, Leave::ForMe(&mut mine)),
            Item::Event(socket, event) => self.notice(socket, event, &mut mine),
        }
        let (completion, side) = mine?;
        if let Some((entry, direction)) = side {
            entry.seat().handed_out(direction);
        }
        self.queue.handed_out();
        Some(completion)
    }

    /// Asks the kernel for events, and leaves them. `slept`: the queue takes us for a sleeper.
    fn ask(&self, timeout: Timeout, slept: bool) -> Result<(), Error> {
        let mut events = Events::with_capacity(COMPLETION_EVENTS_PER_WAIT);
        let result = self.epoll.wait(&mut events, timeout);
        let (mut woken, mut timers) = (false, false);
        for event in &events {
            woken |= event.data() == WAKER;
            timers |= event.data() == TIMERS;
        }
        let of_sockets = events.iter().filter(|event| event.data() < TIMERS);
        let items = of_sockets.map(|event| Item::Event(SocketId(Token::from_bits(event.data())), event));
        self.queue.asked(slept, woken, items);
        if timers {
            for (token, key) in self.timers.expire() {
                self.queue.leave(own_lane(), timer_item(token, key, Ok(())));
            }
        }
        result?;
        Ok(())
    }

    /// An event says what may be tried now. An old one does no harm: its socket is unknown, or a call says EAGAIN.
    fn notice(&self, socket: SocketId, event: Event, mine: &mut Mine) {
        let Some(entry) = self.table.get(socket) else { return };
        // HUP alone is a TCP socket that was never connected (tcp_poll); a connection that has ended says RDHUP, too.
        let insists = event.read_closed() || event.error() || event.priority();
        let mut seat = entry.seat();
        seat.ready(event.should_read(), event.should_write(), insists);
        let step = seat.enter();
        drop(seat);
        self.drive_with(&entry, step, Leave::ForMe(mine));
    }

    fn submit(&self, socket: SocketId, task: Task) -> Result<OperationId, (Reason, Task)> {
        let Some(entry) = self.table.get(socket) else { return Err((Reason::Closed, task)) };
        let (direction, at_once) = (task.direction(), task.begins_at_once());
        let mut seat = entry.seat();
        match seat.submit(direction, task, at_once) {
            Ok(sequence) => {
                // Under the lock: nobody can complete it before it is counted.
                self.queue.accepted();
                let step = seat.enter();
                drop(seat);
                self.drive_with(&entry, step, Leave::ForAnybody);
                Ok(OperationId(Kind::Socket(socket, direction, sequence)))
            }
            Err((Taken::Busy, task)) => Err((Reason::Busy, task)),
            Err((Taken::Closed, task)) => Err((Reason::Closed, task)),
        }
    }

    /// Does what can be done on a socket now, unless somebody else is at it.
    fn drive(&self, entry: &Arc<Entry>, leave: Leave<'_>) {
        // The lock ends with this statement.
        let step = entry.seat().enter();
        self.drive_with(entry, step, leave);
    }

    fn drive_with(&self, entry: &Arc<Entry>, mut step: Step<NonBlocking<Socket>, Task>, mut leave: Leave<'_>) {
        let (mut calls, mut bytes) = (0, 0);
        loop {
            let (socket, task, insists) = match step {
                Step::Rest => return,
                Step::Again => return self.queue.push(Item::Drive(Arc::clone(entry))),
                Step::Close(socket, cancelled) => return self.shut(entry, socket, cancelled),
                Step::Try(socket, task, insists) => (socket, task, insists),
            };
            let direction = task.direction();
            let attempt = task.attempt(&socket, entry.short_is_all && !insists);
            calls += 1;
            bytes += attempt.moved;
            let mut seat = entry.seat();
            let cancelled = seat.settle(direction, attempt.verdict);
            // One socket that always has more must not hold up the others of this thread.
            step = match calls >= ACCEPT_BUDGET || bytes >= TURN_BUDGET_BYTES {
                true => seat.pause(socket),
                false => seat.step(socket),
            };
            let Some(outcome) = attempt.outcome.or_else(|| cancelled.map(|task| task.fail(Failure::Cancelled))) else {
                continue;
            };
            match &mut leave {
                Leave::ForMe(mine @ None) if !seat.is_behind(direction) => {
                    let completion = entry.completion(seat.sequence(direction), direction, outcome);
                    // Nothing is between this and the return of `next`.
                    let free = matches!(step, Step::Rest);
                    if free {
                        seat.handed_out(direction);
                    }
                    **mine = Some((completion, (!free).then_some((Arc::clone(entry), direction))));
                }
                _ => {
                    self.leave(entry, &mut seat, direction, outcome);
                    drop(seat);
                    self.queue.wake();
                }
            }
        }
    }

    /// Closes the descriptor, then completes what was outstanding: who hears of that can rely on the former.
    fn shut(&self, entry: &Arc<Entry>, socket: NonBlocking<Socket>, cancelled: [Option<Task>; 2]) {
        // By its name, while it has one: a duplicate elsewhere would keep the registration alive. It can only fail if
        // there is none.
        let _ = self.epoll.delete(&socket);
        drop(socket);
        for task in cancelled.into_iter().flatten() {
            self.leave(entry, &mut entry.seat(), task.direction(), task.fail(Failure::Cancelled));
        }
        self.queue.wake();
    }

    /// Leaves the completion of what the seat has just called complete, under one lock with that: the other direction's
    /// could overtake it. Who calls then calls `wake`, without the lock.
    fn leave(&self, entry: &Arc<Entry>, seat: &mut EntrySeat, direction: Direction, outcome: Outcome) {
        let completion = entry.completion(seat.sequence(direction), direction, outcome);
        let lane = seat.lane(direction, own_lane());
        self.queue.leave(lane, Item::Complete(completion, Some((Arc::clone(entry), direction))));
    }
}

fn timer_item(token: Token, key: u64, result: Result<(), Failure>) -> Item {
    let completion = Completion { key, operation: OperationId(Kind::Timer(token)), outcome: Outcome::Timer(result) };
    Item::Complete(completion, None)
}

fn with_buffer((reason, task): (Reason, Task)) -> Refused<Vec<u8>> {
    Refused { reason, buffer: task.into_buffer() }
}

fn without_buffer((reason, _): (Reason, Task)) -> Refused<()> {
    Refused { reason, buffer: () }
}
