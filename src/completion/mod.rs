//! Operations that complete, on top of epoll: a proactor with the contract of an I/O completion port.
//!
//! epoll says that a call may succeed now; a completion port says that it has. Ask a [`Port`] for an operation
//! ([`recv`](Port::recv), [`send`](Port::send), [`accept`](Port::accept), …), let any number of threads call
//! [`next`](Port::next), and one of them is given the result.
//!
//! # The contract
//!
//! - a. An operation that was accepted completes exactly once. One that was refused never completes; its buffer comes
//!   back with the refusal.
//! - b. A buffer belongs to its operation, and comes back with the completion, whatever has happened.
//! - c. A socket has at most one operation that receives ([`recv`](Port::recv), [`accept`](Port::accept)) and one that
//!   sends ([`send`](Port::send), [`connect`](Port::connect), [`shutdown`](Port::shutdown)), from the call until the
//!   completion is handed out. A second one is refused. So bytes cannot be reordered, whichever threads are at work.
//! - d. Closing completes all that is outstanding with [`Failure::Cancelled`], after the descriptor is closed. There is
//!   one completion for each operation; what is left of the socket goes with the last.
//! - e. Names ([`SocketId`], [`OperationId`]) are never used twice. An old one is refused, or finds nothing; it never
//!   reaches a socket that has the same descriptor number now.
//! - f. No lock is held during a system call, and none is held for long. [`next`](Port::next) is the only call that
//!   waits.
//!
//! # How
//!
//! All threads share one epoll, in which each socket is registered once, edge-triggered. An event is a note to the
//! socket's seat (`seat.rs`), under a lock that is held for a few instructions. One thread at a time takes the socket
//! out of the seat and makes system calls on it; what others want of it meanwhile, it finds when it comes back. That is
//! what other layers of this kind use ONESHOT for, at the price of one `epoll_ctl` for each wait; and it makes an event
//! that is stale, or told twice, harmless: it can complete nothing that is not there.
//!
//! A call that can succeed at once is made at once, by the thread that asks; its completion goes through the queue all
//! the same.
//!
//! # Example
//! ```
//! use std::io::{Read, Write};
//! use std::os::unix::net::UnixStream;
//!
//! use eagain::completion::{Outcome, Port};
//! use eagain::sys::epoll::Timeout;
//! use eagain::sys::net::NonBlocking;
//!
//! let (ours, mut theirs) = UnixStream::pair()?;
//! let port = Port::new()?;
//! let socket = port.associate(NonBlocking::new(ours)?, 7)?;
//! port.recv(socket, Vec::with_capacity(4096))?;
//!
//! theirs.write_all(b"ping")?;
//! let completion = port.next(Timeout::Never)?.expect("no timeout");
//! let Outcome::Received { buffer, result } = completion.outcome else { panic!("{completion:?}") };
//! assert_eq!((completion.key, result?, &buffer[..]), (7, 4, &b"ping"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # References
//! "I/O Completion Ports", Microsoft's documentation of Windows; `epoll(7)`.

mod kernel;
mod operation;
mod port;
mod queue;
mod seat;
mod table;
#[cfg(test)]
mod tests;
mod timers;

use std::sync;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread_local;

use crate::limits;

pub use operation::{Completion, Failure, OperationId, Outcome, Reason, Refused, SocketId};
pub use port::{AssociateError, Error, NotAssociated, Port};

/// Threads that use ports, counted from 0.
fn next_thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
