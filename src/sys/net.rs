//! Sockets: what nix and socket2 lack.
//!
//! What the calls get wrong, or leave to the caller, and what this file does about it; the names in
//! code type are experiments of the lab.
//!
//! - a. `send` to a peer that has gone kills the process by SIGPIPE (`sigpipe-kills-by-default`).
//!   Every send here says MSG_NOSIGNAL, so it is EPIPE.
//! - b. `send` takes what fits and says how much (`short-send-loses-bytes`): the count is returned,
//!   the rest is the caller's to keep.
//! - c. An accepted socket inherits neither O_NONBLOCK nor close-on-exec from the listener
//!   (`accept-inherits-nothing`). [`NonBlocking::accept`] sets both in the same call.
//! - d. A receive of at most 0 bytes returns 0, exactly like the end of the stream. Do not ask for 0.
//! - e. The C library makes `recv` and `send` cancellation points: in a program with threads each call pays for two
//!   atomic exchanges. [`recv_slice`], [`recv_append`] and [`send`], which a server calls for every message, are direct
//!   system calls.
//!
//! Errors are plain [`io::Error`]s with their `raw_os_error`; making one allocates nothing.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

use socket2::{SockAddr, SockRef, Socket};

use super::check;

/// A descriptor that is known to have O_NONBLOCK set, so that
/// [`Epoll::add_nonblocking`](super::epoll::Epoll::add_nonblocking) need not ask the kernel.
///
/// The knowledge is as good as its owner: O_NONBLOCK belongs to the open file description, and whoever
/// holds a duplicate can clear it. A wrong proof is no matter of memory safety; it can freeze the
/// thread that reads.
#[derive(Debug)]
pub struct NonBlocking<T>(T);

impl<T: AsFd> NonBlocking<T> {
    /// Sets O_NONBLOCK on `inner`: one `fcntl` to ask, and one to set if it was not.
    ///
    /// # Errors
    /// Those of `fcntl(2)`; none is to be expected of an open descriptor.
    #[doc(alias = "O_NONBLOCK")]
    pub fn new(inner: T) -> io::Result<Self> {
        SockRef::from(&inner).set_nonblocking(true)?;
        Ok(Self(inner))
    }
}

impl NonBlocking<Socket> {
    /// Takes one connection from `listener`, non-blocking and close-on-exec, with the peer's address,
    /// all in one system call.
    ///
    /// # Errors
    /// Those of `accept(2)`, unclassified: EAGAIN if nobody waits and the listener is non-blocking.
    ///
    /// # References
    /// `accept4(2)`.
    #[doc(alias = "accept4")]
    pub fn accept(listener: impl AsFd) -> io::Result<(Self, SockAddr)> {
        let (socket, peer) = SockRef::from(&listener).accept4(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)?;
        Ok((Self(socket), peer))
    }
}

impl<T> NonBlocking<T> {
    /// Takes the caller's word that `inner` was made with SOCK_NONBLOCK or the like. No system call.
    pub const fn trust(inner: T) -> Self {
        Self(inner)
    }

    /// What is inside.
    pub const fn get_ref(&self) -> &T {
        &self.0
    }

    /// Gives back what is inside; it stays non-blocking.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T: AsFd> AsFd for NonBlocking<T> {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Receives at most `most` bytes behind what is in `buffer`, straight into its spare capacity: no
/// zeroing, no copy. Returns how many came; 0 is the end of the stream (if `most` is not 0).
///
/// If there is less room than `most`, the buffer first grows as by [`Vec::try_reserve`]: amortised,
/// so to at most twice its size or to what is needed, whichever is more. What was in the buffer stays,
/// whatever happens.
///
/// # Errors
/// Those of `recv(2)`: EAGAIN, ECONNRESET, …; ENOMEM if the buffer cannot grow.
///
/// # Example
/// ```
/// use eagain::sys::net;
/// use std::os::unix::net::UnixStream;
///
/// let (ours, theirs) = UnixStream::pair()?;
/// net::send(&theirs, b"pong")?;
/// let mut buffer = b"ping ".to_vec();
/// net::recv_append(&ours, &mut buffer, 4096)?;
/// assert_eq!(buffer, b"ping pong");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # References
/// `recv(2)`.
#[doc(alias = "recv")]
#[inline]
pub fn recv_append(socket: impl AsFd, buffer: &mut Vec<u8>, most: usize) -> io::Result<usize> {
    buffer.try_reserve(most).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
    let spare = buffer.spare_capacity_mut();
    let room = most.min(spare.len());
    let received = recv(socket.as_fd(), &mut spare[..room])?;
    // SAFETY: the kernel has written the first `received` bytes of the spare capacity, which begins
    // at `len` and which was at least as long.
    unsafe { buffer.set_len(buffer.len() + received) };
    Ok(received)
}

/// Receives into `buffer`. Returns how many bytes came; 0 is the end of the stream (if `buffer` is not
/// empty).
///
/// # Errors
/// Those of `recv(2)`: EAGAIN, ECONNRESET, …
///
/// # References
/// `recv(2)`.
#[doc(alias = "recv")]
#[inline]
pub fn recv_slice(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let (start, length) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: the same memory, to which the kernel writes bytes that are initialized, and nothing else is written.
    recv(socket.as_fd(), unsafe { std::slice::from_raw_parts_mut(start, length) })
}

#[inline]
fn recv(socket: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes to memory that `&mut` keeps for us alone. No address is
    // asked for: the last two arguments are NULL.
    let received = unsafe {
        libc::syscall(
            libc::SYS_recvfrom,
            socket.as_raw_fd() as libc::c_long,
            buffer.as_mut_ptr(),
            buffer.len(),
            0 as libc::c_long,
            ptr::null_mut::<libc::c_void>(),
            ptr::null_mut::<libc::c_void>(),
        )
    };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}

/// Sends what the socket takes of `bytes`, without SIGPIPE. Returns how many bytes it took, which may
/// be fewer than were given; under edge-triggered epoll a short send arms the next OUT
/// (`et-short-send-arms-edge`).
///
/// # Errors
/// Those of `send(2)`: EAGAIN if nothing fits, EPIPE, ECONNRESET, …
///
/// # References
/// `send(2)`, MSG_NOSIGNAL.
#[inline]
pub fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    // RULE(sigpipe-kills-by-default)
    // SAFETY: the kernel reads at most `bytes.len()` bytes of memory that we borrow. There is no address: the last two
    // arguments are NULL and 0.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_sendto,
            socket.as_fd().as_raw_fd() as libc::c_long,
            bytes.as_ptr(),
            bytes.len(),
            libc::MSG_NOSIGNAL as libc::c_long,
            ptr::null::<libc::c_void>(),
            0 as libc::c_long,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// The most pieces that the kernel takes in one call: UIO_MAXIOV.
const MOST_SLICES: usize = 1024;

/// As [`send`], from several pieces in one call; pieces beyond the 1,024th are left for the next.
///
/// # Errors
/// As [`send`].
///
/// # References
/// `sendmsg(2)`, MSG_NOSIGNAL; `readv(2)`, IOV_MAX.
#[doc(alias = "sendmsg")]
#[inline]
pub fn send_vectored(socket: impl AsFd, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    let pieces = &pieces[..pieces.len().min(MOST_SLICES)];
    SockRef::from(&socket).send_vectored_with_flags(pieces, libc::MSG_NOSIGNAL)
}

/// How many received bytes wait in the socket to be read.
///
/// # Errors
/// EINVAL for a listening socket, ENOTTY for a file that has no such count.
///
/// # References
/// `tcp(7)`, SIOCINQ; `unix(7)`.
#[doc(alias = "SIOCINQ")]
#[doc(alias = "FIONREAD")]
pub fn unread_bytes(socket: impl AsFd) -> io::Result<usize> {
    ioctl_count(socket.as_fd(), libc::FIONREAD)
}

/// How many bytes were given to `send` and are not yet with the peer: for TCP those not yet
/// acknowledged, sent or not; for Unix sockets the memory that the unread ones take.
///
/// # Errors
/// EINVAL for a listening socket, ENOTTY for a file that has no such count.
///
/// # References
/// `tcp(7)`, SIOCOUTQ; `unix(7)`.
#[doc(alias = "SIOCOUTQ")]
#[doc(alias = "TIOCOUTQ")]
pub fn unsent_bytes(socket: impl AsFd) -> io::Result<usize> {
    ioctl_count(socket.as_fd(), libc::TIOCOUTQ)
}

fn ioctl_count(fd: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: both requests that come here write one int, and nothing else, where the pointer says.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut count) }).map_err(io::Error::from_raw_os_error)?;
    Ok(usize::try_from(count).unwrap_or(0))
}
