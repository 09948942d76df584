//! What can be asked of a port, what comes of it, and the system calls in between.

use std::io;

use socket2::SockAddr;

use super::kernel::Socket;
use super::kernel::net::{self, NonBlocking};
use super::limits::TURN_BUDGET_BYTES;
use super::seat::{Direction, Verdict};
use crate::client::Peer;
use crate::listener::Refusal;
use crate::slab::Token;

/// Names one socket of one port, for ever: it is not given out again when the socket is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub(super) Token);

/// Names one operation of one port, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationId(pub(super) Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Socket(SocketId, Direction, u64),
    Timer(Token),
    Post,
}

impl OperationId {
    /// The socket that it was made on; `None` for timers and posts.
    #[must_use]
    pub const fn socket(&self) -> Option<SocketId> {
        match self.0 {
            Kind::Socket(socket, ..) => Some(socket),
            Kind::Timer(_) | Kind::Post => None,
        }
    }
}

/// The end of one operation, handed out once.
#[derive(Debug)]
pub struct Completion {
    /// What was given to `associate`, `timer` or `post`.
    pub key: u64,
    /// Which operation it was. All posts have the same name.
    pub operation: OperationId,
    /// What has come of it.
    pub outcome: Outcome,
}

/// What has come of an operation.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// Of `accept`: the new socket, in no port yet, and where it comes from.
    Accepted(Result<(NonBlocking<Socket>, Peer), Failure>),
    /// Of `connect`.
    Connected(Result<(), Failure>),
    /// Of `recv`.
    Received {
        /// The buffer that was given, whatever has happened, with what was received behind what it held.
        buffer: Vec<u8>,
        /// How many bytes were received; 0 is the end of a stream.
        result: Result<usize, Failure>,
    },
    /// Of `send`.
    Sent {
        /// The buffer that was given, whatever has happened.
        buffer: Vec<u8>,
        /// How many bytes of it the kernel has taken: all, if `result` is `Ok`. What it has taken may have reached the
        /// peer, and not all of it need have.
        sent: usize,
        /// Whether it has taken all.
        result: Result<(), Failure>,
    },
    /// Of `shutdown`: the FIN is behind all that was sent.
    ShutDown(Result<(), Failure>),
    /// Of `timer`: its time has come.
    Timer(Result<(), Failure>),
    /// Of `post`.
    Posted,
}

/// Why an accepted operation did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It was cancelled, its socket was closed, or the port has ended. A `recv` has then received nothing.
    #[error("the operation was cancelled, or its socket closed")]
    Cancelled,
    /// What `accept4(2)`, `connect(2)`, `recv(2)`, `send(2)` or `shutdown(2)` says, but never EAGAIN for want of bytes
    /// or of room: for these the operation waits.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why an operation was refused: it has not begun, and no completion will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The socket is closed, or there never was one of that name.
    #[error("this socket is closed: forget its name")]
    Closed,
    /// There is one already: a `recv` or `accept`; or a `send`, `connect` or `shutdown`. It may be over, and its
    /// completion not handed out.
    #[error("the socket has such an operation already: wait for its completion")]
    Busy,
    /// The buffer of a `recv` has no spare capacity. Receiving 0 bytes could not be told from the end of the stream.
    #[error("the buffer has no room: give it spare capacity")]
    NoRoom,
    /// The port has as many posts, timers or sockets as it can have, see [`limits`](crate::limits).
    #[error("the port is full: wait for completions")]
    Full,
    /// The port has ended.
    #[error("the port has ended")]
    Ended,
}

/// An operation that was not taken, with the buffer that was given to it.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Refused<B> {
    /// Why.
    pub reason: Reason,
    /// As it was given.
    pub buffer: B,
}

/// An operation that has begun.
#[derive(Debug)]
pub(super) enum Task {
    Accept,
    /// `begun`: the kernel has been asked once, and is at it.
    Connect {
        address: Box<SockAddr>,
        begun: bool,
    },
    Recv(Vec<u8>),
    Send {
        buffer: Vec<u8>,
        sent: usize,
    },
    Shutdown,
}

/// What one system call has made of a task.
pub(super) struct Attempt {
    pub(super) verdict: Verdict<Task>,
    /// If it is over.
    pub(super) outcome: Option<Outcome>,
    /// Bytes.
    pub(super) moved: usize,
}

impl Attempt {
    fn over(outcome: Outcome, ready: bool, moved: usize) -> Self {
        Self { verdict: Verdict::Over { ready }, outcome: Some(outcome), moved }
    }

    fn on(verdict: Verdict<Task>, moved: usize) -> Self {
        Self { verdict, outcome: None, moved }
    }
}

impl Task {
    pub(super) const fn direction(&self) -> Direction {
        match self {
            Self::Accept | Self::Recv(_) => Direction::In,
            Self::Connect { .. } | Self::Send { .. } | Self::Shutdown => Direction::Out,
        }
    }

    /// Whether its first system call needs no readiness.
    pub(super) const fn begins_at_once(&self) -> bool {
        matches!(self, Self::Accept | Self::Connect { .. } | Self::Shutdown)
    }

    /// Gives the buffer back, for an operation that never began.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        match self {
            Self::Recv(buffer) | Self::Send { buffer, .. } => buffer,
            Self::Accept | Self::Connect { .. } | Self::Shutdown => Vec::new(),
        }
    }

    /// Its outcome, if it ends without success.
    pub(super) fn fail(self, failure: Failure) -> Outcome {
        match self {
            Self::Accept => Outcome::Accepted(Err(failure)),
            Self::Connect { .. } => Outcome::Connected(Err(failure)),
            Self::Recv(buffer) => Outcome::Received { buffer, result: Err(failure) },
            Self::Send { buffer, sent } => Outcome::Sent { buffer, sent, result: Err(failure) },
            Self::Shutdown => Outcome::ShutDown(Err(failure)),
        }
    }

    /// Makes one system call. `short_is_all`: a read that leaves room has emptied the socket.
    pub(super) fn attempt(self, socket: &NonBlocking<Socket>, short_is_all: bool) -> Attempt {
        match self {
            Self::Accept => accept(socket),
            Self::Connect { address, begun } => connect(socket, address, begun),
            Self::Recv(buffer) => recv(socket, buffer, short_is_all),
            Self::Send { buffer, sent } => send(socket, buffer, sent),
            Self::Shutdown => {
                let result = socket.get_ref().shutdown(std::net::Shutdown::Write).map_err(Failure::from);
                Attempt::over(Outcome::ShutDown(result), true, 0)
            }
        }
    }

    /// The call has failed: for want of something that an event will tell of, by a signal, or for good.
    fn failed(self, error: io::Error) -> Attempt {
        match error.raw_os_error() {
            Some(libc::EAGAIN) => Attempt::on(Verdict::Blocked(self), 0),
            Some(libc::EINTR) => Attempt::on(Verdict::Partly(self), 0),
            _ => Attempt::over(self.fail(error.into()), true, 0),
        }
    }
}

fn accept(socket: &NonBlocking<Socket>) -> Attempt {
    match NonBlocking::accept(socket) {
        Ok((accepted, peer)) => Attempt::over(Outcome::Accepted(Ok((accepted, Peer::from(&peer)))), true, 0),
        // A connection that came to nothing before it was accepted is nobody's operation.
        Err(error) => match error.raw_os_error().map(Refusal::from_errno) {
            // A socket that cannot listen says EOPNOTSUPP for ever.
            Some(Refusal::Next) if error.raw_os_error() != Some(libc::EOPNOTSUPP) => {
                Attempt::on(Verdict::Partly(Task::Accept), 0)
            }
            _ => Task::Accept.failed(error),
        },
    }
}

/// `connect(2)` is made again on each event: it tells EALREADY while the kernel is at it, then success once (a vsock:
/// EISCONN), or the error. SO_ERROR could not tell the first two apart, and the event may be an old one.
fn connect(socket: &NonBlocking<Socket>, address: Box<SockAddr>, begun: bool) -> Attempt {
    let result = socket.get_ref().connect(&address);
    let error = match result {
        Ok(()) => return Attempt::over(Outcome::Connected(Ok(())), true, 0),
        Err(error) => error,
    };
    match error.raw_os_error() {
        Some(libc::EISCONN) if begun => Attempt::over(Outcome::Connected(Ok(())), true, 0),
        // A signal leaves the kernel at it, too.
        Some(libc::EINPROGRESS | libc::EALREADY | libc::EINTR) => {
            Attempt::on(Verdict::Blocked(Task::Connect { address, begun: true }), 0)
        }
        // EAGAIN among them: the queue of a Unix listener is full, and no event tells when it is not.
        _ => Attempt::over(Outcome::Connected(Err(error.into())), true, 0),
    }
}

fn recv(socket: &NonBlocking<Socket>, mut buffer: Vec<u8>, short_is_all: bool) -> Attempt {
    let room = buffer.capacity() - buffer.len();
    match net::recv_append(socket, &mut buffer, room) {
        // RULE(et-partial-read-stalls)
        Ok(received) => {
            let ready = received == room || !short_is_all;
            Attempt::over(Outcome::Received { buffer, result: Ok(received) }, ready, received)
        }
        Err(error) => Task::Recv(buffer).failed(error),
    }
}

fn send(socket: &NonBlocking<Socket>, buffer: Vec<u8>, already: usize) -> Attempt {
    let rest = &buffer[already..];
    let piece = &rest[..rest.len().min(TURN_BUDGET_BYTES)];
    let result = if piece.is_empty() { Ok(0) } else { net::send(socket, piece) };
    match result {
        Ok(now) if now == rest.len() => {
            let outcome = Outcome::Sent { sent: already + now, buffer, result: Ok(()) };
            Attempt::over(outcome, true, now)
        }
        Ok(now) => Attempt::on(Verdict::Partly(Task::Send { buffer, sent: already + now }), now),
        Err(error) => Task::Send { buffer, sent: already }.failed(error),
    }
}
