//! select(2), 1983: three bit sets.
//!
//! What it costs, and what it gets wrong:
//! - a. A set has 1,024 bits (FD_SETSIZE), one for each descriptor *number*. A number above writes past the end of the
//!   set in C; here such a client is refused, and nobody else is harmed.
//! - b. The kernel overwrites the sets with its answer, so they are made anew for every call; and the answer names
//!   nobody, so all connections are searched for those whose bit is set. Both are O(connections), for one byte of one
//!   client. So is the work of the kernel, which asks every socket.
//! - c. There is no bit for "it is dead": a hang-up and an error show as readable and writable. A connection that wants
//!   neither is in no set, and its death is seen when it wants something again.
//! - d. A timeout is given in microseconds and what is left of it is written over it; so it, too, is made anew.

use std::os::fd::{AsRawFd, RawFd};

use eagain::driver::Ready;
use eagain::sys::epoll::Interest;
use nix::errno::Errno;
use nix::sys::select::{FD_SETSIZE, FdSet, select};
use nix::sys::time::{TimeVal, TimeValLike};

use super::crowd::{Crowd, Source};
use crate::serve::Failure;

/// The last descriptor that has a bit.
pub(super) const HIGHEST: Option<RawFd> = Some(FD_SETSIZE as RawFd - 1);

pub(super) fn serve(mut crowd: Crowd<'_>) -> Result<(), Failure> {
    if let Some((_, fd, _)) = crowd.watched().find(|(_, fd, _)| Some(fd.as_raw_fd()) > HIGHEST) {
        return Err(format!("descriptor {} is beyond select: close what this process inherits", fd.as_raw_fd()).into());
    }
    let mut ready = Vec::new();
    while !crowd.is_over() {
        wait(&crowd, &mut ready)?;
        crowd.turn(&mut ready)?;
    }
    Ok(())
}

/// One `select`: who is ready.
fn wait(crowd: &Crowd<'_>, ready: &mut Vec<(Source, Ready)>) -> Result<(), Failure> {
    let (mut readable, mut writable) = (FdSet::new(), FdSet::new());
    let mut count = 0;
    for (_, fd, interest) in crowd.watched() {
        if interest.contains(Interest::READ) {
            readable.insert(fd);
        }
        if interest.contains(Interest::WRITE) {
            writable.insert(fd);
        }
        count = count.max(fd.as_raw_fd() + 1);
    }
    // Rounded up: a deadline may be met late, never early.
    let timeout = crowd.timeout().map(|timeout| timeout.as_nanos().div_ceil(1000));
    let mut timeout = timeout.map(|micros| TimeVal::microseconds(i64::try_from(micros).unwrap_or(i64::MAX)));
    match select(count, &mut readable, &mut writable, None, &mut timeout) {
        Ok(_) => {}
        // The sets are as they were given, and say nothing.
        Err(Errno::EINTR) => return Ok(()),
        Err(errno) => return Err(format!("select: {errno}").into()),
    }
    ready.extend(crowd.watched().filter_map(|(source, fd, _)| {
        let ready =
            Ready { readable: readable.contains(fd), writable: writable.contains(fd), hung_up: false, error: false };
        (ready != Ready::default()).then_some((source, ready))
    }));
    Ok(())
}
