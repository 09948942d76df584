//! poll(2), 1986: a list.
//!
//! What it does better than select, and what it does not:
//! - a. The list names descriptors instead of having a place for each number: there is no limit but the process's own.
//! - b. What is asked for and what is answered are two fields, and a hang-up and an error have bits of their own, which
//!   need not be asked for. They come for a connection that wants nothing, too; whoever ignores them there spins.
//! - c. The list is still handed over whole, and the kernel still asks every socket on it, at every call:
//!   O(connections), for one byte of one client. That is what epoll was made against: there the list stays in the
//!   kernel, and sockets report by themselves.

use eagain::driver::Ready;
use eagain::sys::epoll::Interest;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::crowd::{Crowd, Source};
use crate::serve::Failure;

pub(super) fn serve(mut crowd: Crowd<'_>) -> Result<(), Failure> {
    let mut ready = Vec::new();
    while !crowd.is_over() {
        wait(&crowd, &mut ready)?;
        crowd.turn(&mut ready)?;
    }
    Ok(())
}

/// One `poll`: who is ready.
fn wait(crowd: &Crowd<'_>, ready: &mut Vec<(Source, Ready)>) -> Result<(), Failure> {
    let mut list: Vec<PollFd<'_>> = crowd.watched().map(|(_, fd, interest)| PollFd::new(fd, asked(interest))).collect();
    match poll(&mut list, in_millis(crowd.timeout())) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(()),
        Err(errno) => return Err(format!("poll: {errno}").into()),
    }
    let answers = crowd.watched().zip(&list);
    ready.extend(answers.filter_map(|((source, ..), polled)| answered(polled).map(|ready| (source, ready))));
    Ok(())
}

pub(super) fn asked(interest: Interest) -> PollFlags {
    let mut flags = PollFlags::empty();
    flags.set(PollFlags::POLLIN, interest.contains(Interest::READ));
    flags.set(PollFlags::POLLOUT, interest.contains(Interest::WRITE));
    flags
}

/// What the kernel says of one of the list, if anything.
pub(super) fn answered(polled: &PollFd<'_>) -> Option<Ready> {
    let flags = polled.revents().filter(|flags| !flags.is_empty())?;
    let over = flags.intersects(PollFlags::POLLHUP | PollFlags::POLLERR);
    Some(Ready {
        readable: over || flags.contains(PollFlags::POLLIN),
        writable: over || flags.contains(PollFlags::POLLOUT),
        hung_up: flags.contains(PollFlags::POLLHUP),
        error: flags.contains(PollFlags::POLLERR),
    })
}

/// Rounded up: a deadline may be met late, never early. The longest is 24 days, and then it is asked again.
pub(super) fn in_millis(timeout: Option<std::time::Duration>) -> PollTimeout {
    timeout.map_or(PollTimeout::NONE, |timeout| {
        let millis = timeout.as_nanos().div_ceil(1_000_000);
        i32::try_from(millis).ok().and_then(|millis| millis.try_into().ok()).unwrap_or(PollTimeout::MAX)
    })
}
