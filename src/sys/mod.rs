//! The kernel boundary: the only module that may say `unsafe`.
//!
//! [`epoll`] is a safe, thin door to the three epoll system calls; [`net`] holds what nix and socket2
//! lack for sockets. Both take [`AsFd`](std::os::fd::AsFd), never a bare number, so a descriptor that
//! was already closed cannot be named by mistake. [`inherited`] is for those that have only a number:
//! what the parent process left open; [`passing`] for those that come over a socket.
//! `raw` is for the lab: calls that are wrong on purpose; `children` for the processes that the program starts.

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod children;
pub mod epoll;
pub mod inherited;
pub mod net;
pub mod passing;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod raw;

use std::io;

/// Turns the C convention "-1 and `errno`" into a `Result` with the errno. Allocates nothing.
#[inline]
fn check(result: libc::c_int) -> Result<libc::c_int, i32> {
    if result == -1 { Err(errno()) } else { Ok(result) }
}

/// The calling thread's `errno`, read right after a failed call.
#[cold]
fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}
