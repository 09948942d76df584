//! Connections driven by hand: a [`Service`] under a loop that is not the worker's.
//!
//! A [`Driver`] has what the connections of one thread share: the service and a receive buffer. A [`Driven`] is one
//! connection. How the loop learns what is ready is its own business: `select`, `poll`, a blocking thread, a test. It
//! says so by [`Driver::turn`], which is one turn of the connection as the worker would give it (the same code), and
//! asks for what to wait for next ([`Driven::interest`], [`Driver::deadline`]).
//!
//! A connection need not have a socket. One on a [`Wire`] is given the bytes that have been received, and gives those
//! that are to be sent: see [`Driver::open_wire`].
//!
//! Limits, timeouts, handles and counters are the worker's, and are not here.

mod bytes;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::client::{Client, ConnectionId, Peer};
use crate::connection::{Connection, Stream};
use crate::exchange::{Discipline, Member, Turn};
use crate::level::Level;
use crate::listener::{Listener, Refusal};
use crate::service::{End, Service};
use crate::slab::Token;
use crate::sys::epoll::{Event, Interest, Mode};
use crate::sys::net::NonBlocking;
use crate::trace::{Silent, Trace};
pub use crate::wire::Wire;

/// Why nobody could be accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// Descriptors or memory have run out (the errno, such as EMFILE). Whoever waits goes on waiting: try again when a
    /// connection has been closed, or a little later; not at once, since the listener stays readable.
    #[error("nobody can be accepted for now: {}", io::Error::from_raw_os_error(*.0))]
    Exhausted(i32),
    /// The listener is of no use any more; the errno.
    #[error("the listener is broken: {}", io::Error::from_raw_os_error(*.0))]
    Broken(i32),
}

impl From<io::Error> for AcceptError {
    /// What `accept(2)` said to somebody else, a completion port for instance. One that is to be made again, such as
    /// after EAGAIN, counts as [`Exhausted`](Self::Exhausted): it is to be made again a little later.
    fn from(error: io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(0);
        match Refusal::from_errno(errno) {
            Refusal::Broken(errno) => Self::Broken(errno),
            Refusal::Resources(_) | Refusal::Empty | Refusal::Next => Self::Exhausted(errno),
        }
    }
}

/// A connection that has been accepted and is nobody's yet. It may go to another thread. Dropping it closes it.
#[derive(Debug)]
pub struct Newcomer {
    socket: NonBlocking<Socket>,
    peer: Peer,
}

impl Newcomer {
    /// Takes the next connection from the accept queue; `None` if nobody waits. A client that has gone meanwhile is
    /// passed over.
    ///
    /// # Errors
    /// [`AcceptError`], by what `accept(2)` says.
    #[doc(alias = "accept4")]
    pub fn accept(listener: &Listener) -> Result<Option<Self>, AcceptError> {
        loop {
            match listener.accept(0) {
                Ok((socket, peer)) => return Ok(Some(Self { socket, peer })),
                Err(Refusal::Empty) => return Ok(None),
                Err(Refusal::Next) => {}
                Err(Refusal::Resources(errno)) => return Err(AcceptError::Exhausted(errno)),
                Err(Refusal::Broken(errno)) => return Err(AcceptError::Broken(errno)),
            }
        }
    }

    /// A connection from elsewhere: one end of a pair, a socket that was passed. It becomes non-blocking.
    ///
    /// # Errors
    /// Those of `getpeername(2)` (ENOTCONN, ENOTSOCK) and `fcntl(2)`.
    pub fn new(socket: impl Into<OwnedFd>) -> io::Result<Self> {
        let socket = Socket::from(socket.into());
        let peer = Peer::from(&socket.peer_addr()?);
        Ok(Self { socket: NonBlocking::new(socket)?, peer })
    }

    /// Who it is.
    #[must_use]
    pub const fn peer(&self) -> Peer {
        self.peer
    }

    /// The socket, for who receives and sends by himself, and the peer.
    #[must_use]
    pub fn into_parts(self) -> (NonBlocking<Socket>, Peer) {
        (self.socket, self.peer)
    }

    /// Makes the socket a blocking one, for a thread that has nothing else to do: see
    /// [`Driver::turn_that_blocks`].
    ///
    /// # Errors
    /// Those of `fcntl(2)`; none is to be expected.
    pub fn into_blocking(self) -> io::Result<Self> {
        let socket = self.socket.into_inner();
        socket.set_nonblocking(false)?;
        Ok(Self { socket: NonBlocking::trust(socket), peer: self.peer })
    }
}

impl AsFd for Newcomer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What is said to be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ready {
    /// A `recv` would not block: there are bytes, the end, or an error.
    pub readable: bool,
    /// A `send` would not block: there is room, or an error.
    pub writable: bool,
    /// Both directions are finished (POLLHUP).
    pub hung_up: bool,
    /// An error is pending (POLLERR).
    pub error: bool,
}

impl From<Event> for Ready {
    fn from(event: Event) -> Self {
        Self {
            readable: event.should_read(),
            writable: event.should_write(),
            hung_up: event.hung_up(),
            error: event.error(),
        }
    }
}

/// What the connections of one thread share.
///
/// ```
/// use std::io::{Read, Write};
/// use std::os::unix::net::UnixStream;
/// use std::time::Instant;
///
/// use eagain::driver::{Driver, Newcomer, Ready};
/// use eagain::service::Echo;
///
/// let (mut client, theirs) = UnixStream::pair()?;
/// let mut driver = Driver::new(Echo, Instant::now());
/// let mut connection = driver.open(Newcomer::new(theirs)?, 0);
/// driver.turn(&mut connection, Ready::default()).expect("the service goes on");
///
/// client.write_all(b"hello")?;
/// let ready = Ready { readable: true, ..Ready::default() };
/// driver.turn(&mut connection, ready).expect("the client is there");
/// let mut answer = [0; 5];
/// client.read_exact(&mut answer)?;
/// assert_eq!(&answer, b"hello");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Driver<S: Service, T: Trace = Silent> {
    turn: Turn<S, T>,
    opened: u64,
}

/// One connection, and what the service remembers of it; `Io` is its socket, or a [`Wire`]. [`Driver::close`] ends it;
/// if it is merely dropped, the socket is closed and the service is not told.
#[derive(Debug)]
pub struct Driven<S: Service, Io = NonBlocking<Socket>> {
    member: Member<S::Session, Io>,
    id: ConnectionId,
}

impl<S: Service> Driver<S> {
    /// A driver of connections to this service.
    #[must_use]
    pub fn new(service: S, now: Instant) -> Self {
        Self::traced(service, Silent, now)
    }
}

impl<S: Service, T: Trace> Driver<S, T> {
    /// As [`new`](Driver::new), with a [`Trace`], which is told of what happens on the connections; waiting and
    /// accepting are not the driver's.
    #[must_use]
    pub fn traced(service: S, trace: T, now: Instant) -> Self {
        let nobody = ConnectionId { worker: u16::MAX, token: Token::from_bits(u64::MAX) };
        Self { turn: Turn::new(service, trace, now, nobody), opened: 0 }
    }

    /// The ids of the connections begin at this number: those of several drivers can be told apart then.
    #[must_use]
    pub const fn numbered_from(mut self, first: u64) -> Self {
        self.opened = first;
        self
    }

    /// A service that asks for the time ([`Output::now`](crate::Output::now)) is told that of the clock. Where a turn
    /// of the loop is long, that of [`begin`](Self::begin) is before much of what happens in it, and what is timed by
    /// it comes early.
    #[must_use]
    pub const fn in_real_time(mut self) -> Self {
        self.turn.real_time = true;
        self
    }

    /// The service.
    pub const fn service(&mut self) -> &mut S {
        &mut self.turn.service
    }

    /// What follows happens at this time; to be called whenever the loop has waited.
    pub fn begin(&mut self, now: Instant) {
        self.turn.begin(now);
    }

    /// Opens a connection that came by the listener of this index (at most 65,535; above, it counts as that one). Its
    /// first turn is due at once, with nothing ready: a service may speak first.
    pub fn open(&mut self, newcomer: Newcomer, listener: usize) -> Driven<S> {
        let Newcomer { socket, peer } = newcomer;
        self.open_on(socket, peer, listener, peer != Peer::UNIX)
    }

    fn open_on<Io: Stream>(&mut self, io: Io, peer: Peer, listener: usize, short_is_all: bool) -> Driven<S, Io> {
        let id = ConnectionId { worker: u16::MAX, token: Token::from_bits(self.opened) };
        self.opened += 1;
        let listener = u16::try_from(listener).unwrap_or(u16::MAX);
        let session = self.turn.service.open(&Client { id, peer, listener: listener.into() });
        let connection = Connection::new(io, short_is_all, Interest::NONE, listener, self.turn.tick);
        Driven { member: Member { connection, session, peer }, id }
    }

    /// One turn: what waits is sent, input is received and answered, up to the budget of a turn
    /// ([`TURN_BUDGET_BYTES`](crate::limits::TURN_BUDGET_BYTES)), by one `recv` at the most: as under level-triggered
    /// epoll it is for the next wait to say that there is more.
    ///
    /// # Errors
    /// The connection is over: hand it to [`close`](Self::close).
    pub fn turn(&mut self, driven: &mut Driven<S>, ready: Ready) -> Result<(), End> {
        self.turn_as::<Level>(driven, ready)
    }

    /// As [`turn`](Self::turn), for a connection that is [blocking](Newcomer::into_blocking): with `readable` it lasts
    /// until the client has sent something, and in any case until the client has taken what it is sent. The time of the
    /// turn is read again behind `recv`.
    ///
    /// # Errors
    /// The connection is over: hand it to [`close`](Self::close).
    pub fn turn_that_blocks(&mut self, driven: &mut Driven<S>, ready: Ready) -> Result<(), End> {
        self.turn_as::<Blocking>(driven, ready)
    }

    fn turn_as<D: Discipline>(&mut self, driven: &mut Driven<S>, ready: Ready) -> Result<(), End> {
        let connection = &mut driven.member.connection;
        connection.may_read |= ready.readable;
        connection.may_write |= ready.writable;
        if let Some(errno) = connection.doomed(ready.hung_up, ready.error) {
            return Err(End::Broken(errno));
        }
        self.turn.who = driven.id;
        self.turn.drive::<D>(&mut driven.member)
    }

    /// When [`expire`](Self::expire) is to be called, if at all; a millisecond is the grain, rounded up.
    #[must_use]
    pub fn deadline<Io: Stream>(&self, driven: &Driven<S, Io>) -> Option<Instant> {
        let alarm = driven.member.connection.alarm?;
        self.turn.origin.checked_add(Duration::from_millis(alarm.get()))
    }

    /// The deadline has come.
    ///
    /// # Errors
    /// The connection is over: hand it to [`close`](Self::close).
    pub fn expire<Io: Stream>(&mut self, driven: &mut Driven<S, Io>) -> Result<(), End> {
        self.turn.who = driven.id;
        self.turn.expire(&mut driven.member)?;
        self.turn.drive::<Level>(&mut driven.member)
    }

    /// Ends the connection as if the service had said [`Next::Finish`](crate::Next::Finish).
    ///
    /// # Errors
    /// The connection is over: hand it to [`close`](Self::close).
    pub fn finish<Io: Stream>(&mut self, driven: &mut Driven<S, Io>) -> Result<(), End> {
        self.turn.who = driven.id;
        self.turn.finish(&mut driven.member);
        self.turn.drive::<Level>(&mut driven.member)
    }

    /// Closes the socket, if there is one, and tells the service.
    pub fn close<Io: Stream>(&mut self, driven: Driven<S, Io>, end: End) {
        let client = driven.member.client(driven.id);
        self.turn.service.close(driven.member.session, &client, end);
    }
}

impl<S: Service> Driven<S> {
    /// What to wait for: READ, WRITE, both or nothing. It changes with every turn. A connection that wants nothing has
    /// a deadline, or can only be hung up.
    #[must_use]
    pub fn interest(&self) -> Interest {
        self.member.connection.interest()
    }
}

impl<S: Service, Io: Stream> Driven<S, Io> {
    /// For a server that drains: whether nothing is unread, unsent or timed, and no byte has come since this was asked
    /// last, or (`firm`) whether or not one has. Then [`Driver::finish`] costs the client no answer.
    pub fn may_end(&mut self, firm: bool) -> bool {
        self.member.connection.may_end(firm)
    }
}

impl<S: Service> AsFd for Driven<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.member.connection.as_fd()
    }
}

/// As [`Level`], with a socket that sleeps: one `recv` a turn, so that the thread is asked between two whether it wants
/// the next.
struct Blocking;

impl Discipline for Blocking {
    const MODE: Mode = Mode::LEVEL;
    const FIRST_INTEREST: Interest = Interest::NONE;
    const LISTENER_MUST_RETURN: bool = false;
    const RECV_SLEEPS: bool = true;

    #[inline]
    fn after_read(connection: &mut Connection<impl Stream>, asked: usize, received: usize) {
        Level::after_read(connection, asked, received);
    }

    fn reinterest(_connection: &mut Connection<impl Stream>) -> Option<Interest> {
        None
    }

    fn must_return(_connection: &Connection<impl Stream>) -> bool {
        false
    }
}
