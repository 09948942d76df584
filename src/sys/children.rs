//! For the program alone: processes that end with the one that has started them, however that one ends. An experiment
//! that hangs, and a server that was started to be measured, would otherwise stay when who waits for them is killed.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, getppid};

/// The process that this command starts is killed when the **thread** that has started it ends, which must therefore
/// wait for it: `PR_SET_PDEATHSIG` of `prctl(2)` goes by threads. It holds through `execve`, and not for the process's
/// own children: each asks for itself ([`end_with`]). The kernel forgets it when a process changes its user.
pub fn end_with_parent(command: &mut Command) -> &mut Command {
    let parent = getpid();
    // SAFETY: between fork and exec the closure only makes two system calls, prctl and getppid. It touches no memory
    // but its own copy of a number, takes no lock and allocates nothing, not even for its error.
    unsafe { command.pre_exec(move || end_with(parent)) }
}

/// The calling process, a child of `parent`, is killed when the thread that has made it ends.
///
/// # Errors
/// ESRCH if `parent` is no longer its parent: it had ended before this was asked, and no signal will come.
pub fn end_with(parent: Pid) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    if getppid() == parent { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
}

/// The calling process lives on when its parent ends: it has something to put in order first.
///
/// # Errors
/// None is known.
pub fn outlive_parent() -> io::Result<()> {
    Ok(set_pdeathsig(None)?)
}
