//! Descriptors that the parent process has opened for this one, known by their numbers.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use super::check;

/// Takes ownership of descriptor `number`, which is known to be inherited, for instance by `sd_listen_fds(3)`; sets
/// close-on-exec, so that the next `exec` does not hand it on again.
///
/// Only a descriptor *without* close-on-exec is taken: one that has it cannot have come through the `exec` that started
/// this process. So nothing is taken twice, nor away from whoever in this process opened it, as the standard library
/// and this one set close-on-exec on all that they open. 0 to 2 are the standard library's own.
///
/// # Errors
/// EBADF if it is not open; [`io::ErrorKind::AlreadyExists`] if it belongs to somebody in this process.
#[doc(alias = "sd_listen_fds")]
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    /// Two threads must not both find close-on-exec unset.
    static TAKING: Mutex<()> = Mutex::new(());
    let _taking = TAKING.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: F_GETFD takes no memory; a number that is not open is EBADF.
    let flags = check(unsafe { libc::fcntl(number, libc::F_GETFD) }).map_err(io::Error::from_raw_os_error)?;
    if number <= libc::STDERR_FILENO || flags & libc::FD_CLOEXEC != 0 {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is not inherited"));
    }
    // SAFETY: F_SETFD takes no memory.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, flags | libc::FD_CLOEXEC) })
        .map_err(io::Error::from_raw_os_error)?;
    // SAFETY: it is open, as fcntl has just said, and it was opened before this process began: nobody here owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn what_this_process_has_opened_is_not_taken() {
        let own = std::fs::File::open("/dev/null").expect("it is there on every Linux");
        for number in [own.as_raw_fd(), libc::STDIN_FILENO] {
            assert_eq!(take(number).expect_err("it is not inherited").kind(), io::ErrorKind::AlreadyExists);
        }
        assert_eq!(take(RawFd::MAX).expect_err("it is not open").raw_os_error(), Some(libc::EBADF));
    }
}
