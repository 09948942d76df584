//! Threads and processes on the stage.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use eagain::sys::children::end_with;
use eagain::sys::raw;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, gettid};

use super::answer::Answer;
use super::{QUIET_MS, Stage};
use crate::lab::verdict::{Outcome, Stop};

/// A thread, by the name that it has on the timeline.
pub(crate) struct Thread<T> {
    name: String,
    tid: Pid,
    stage: Stage,
    result: Receiver<T>,
    handle: JoinHandle<()>,
}

impl Stage {
    /// A thread of its own for `work`.
    pub(crate) fn thread<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Outcome<Thread<T>> {
        let (tell_tid, tid) = sync_channel(1);
        let (tell, result) = sync_channel(1);
        let thread = move || {
            let _ = tell_tid.send(gettid());
            let _ = tell.send(work());
        };
        let handle = std::thread::Builder::new().name(name.to_owned()).spawn(thread)?;
        let tid = tid.recv().map_err(|_| Stop::Untested("a thread has died".to_owned()))?;
        Ok(Thread { name: name.to_owned(), tid, stage: self.clone(), result, handle })
    }

    /// What threads that wait return: those that are woken, and then, when no other has come back for a while, the
    /// rest, by a signal that interrupts their waits. A timeout would have to be long on a busy machine, and would be
    /// waited for.
    pub(crate) fn gather<T>(&self, threads: Vec<Thread<T>>) -> Outcome<Vec<T>> {
        raw::count_signals(libc::SIGUSR1, true).map_err(Errno::from_raw)?;
        let finished = || threads.iter().filter(|thread| thread.is_finished()).count();
        let (mut before, mut since) = (finished(), Instant::now());
        while before < threads.len() && since.elapsed().as_millis() < QUIET_MS as u128 {
            std::thread::sleep(Duration::from_millis(1));
            let now = finished();
            if now != before {
                (before, since) = (now, Instant::now());
            }
        }
        for thread in threads.iter().filter(|thread| !thread.is_finished()) {
            thread.signal(Signal::SIGUSR1)?;
        }
        threads.into_iter().map(Thread::join).collect()
    }

    /// A second process, made by `fork`, for `work`; what that does is on the timeline as well.
    pub(crate) fn fork(&self, work: impl FnOnce(&Self) -> Outcome + Send) -> Outcome<Process> {
        let parent = getpid();
        let child = || {
            // The group is killed with the experiment; this is for a lab that is killed itself.
            if end_with(parent).is_err() {
                return 1;
            }
            self.shared.timeline.is_a_child_now();
            // Its name on the timeline is that of its thread, which is the only one.
            let stage = self.clone();
            let outcome = std::thread::scope(|scope| {
                let named = std::thread::Builder::new().name("child".to_owned());
                named.spawn_scoped(scope, || work(&stage)).map(std::thread::ScopedJoinHandle::join)
            });
            match outcome {
                Ok(Ok(Ok(()))) => 0,
                Ok(Ok(Err(Stop::Untested(why)))) => {
                    stage.note(format_args!("the child cannot go on: {why}"));
                    UNTESTED
                }
                _ => 1,
            }
        };
        let (pid, seen) =
            self.call("fork", "fork()".to_owned(), || raw::fork(child).map_err(Errno::from_raw), |_| "child".into());
        seen.ok()?;
        let pid = pid.ok_or_else(|| Stop::Untested("no child".to_owned()))?;
        Ok(Process { stage: self.clone(), pid: Pid::from_raw(pid) })
    }
}

impl<T> Thread<T> {
    /// Waits until the thread sleeps in the call that it is to wait in: neither on its way to it, nor in the timeline.
    pub(crate) fn asleep(&self) -> Outcome {
        if self.stage.until(|| sleeps(self.tid) || self.is_finished()) && !self.is_finished() {
            return Ok(());
        }
        let end = if self.is_finished() { "had its answer before it slept" } else { "did not come to sleep" };
        Err(Stop::Untested(format!("thread {} {end}", self.name)))
    }

    /// What it returned, for which it may take a few seconds.
    pub(crate) fn join(self) -> Outcome<T> {
        match self.result.recv_timeout(self.stage.soon() * 3) {
            Ok(value) => {
                let _ = self.handle.join();
                Ok(value)
            }
            Err(_) => Err(Stop::Broken(format!("thread {} does not end", self.name))),
        }
    }

    /// Whether it has not returned after so many milliseconds.
    pub(crate) fn still_runs_after(&self, milliseconds: u64) -> bool {
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        !self.handle.is_finished()
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Sends the signal to this thread.
    pub(crate) fn signal(&self, signal: Signal) -> Outcome {
        use std::os::unix::thread::JoinHandleExt as _;
        let text = format!("pthread_kill({}, {signal})", self.name);
        let work = || nix::sys::pthread::pthread_kill(self.handle.as_pthread_t() as _, signal);
        self.stage.call("kill", text, work, |()| Answer::Done).1.ok()?;
        Ok(())
    }
}

/// Whether the thread sleeps in a system call until something happens. On a busy machine it also sleeps on its way
/// there: in a lock of the kernel's, which is no interruptible sleep, and in what [`is_a_wait`] excludes.
fn sleeps(tid: Pid) -> bool {
    let file = |name| std::fs::read_to_string(format!("/proc/self/task/{tid}/{name}"));
    let is_interruptible =
        || file("stat").is_ok_and(|text| text.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S')));
    let Ok(call) = file("syscall") else {
        // A kernel without this file: the state is less exact, so it must be seen twice.
        let first = is_interruptible();
        std::thread::sleep(Duration::from_millis(20));
        return first && is_interruptible();
    };
    // The same call before and after: the state is that of this call.
    is_a_wait(&call) && is_interruptible() && file("syscall").is_ok_and(|again| again == call)
}

/// Whether a line of /proc/TID/syscall, `number 0xfirst-argument …`, is of a call that can be waited in. Not of a lock,
/// and not of the `write` by which the thread tells its parent, who may be slow to read, that it is about to wait.
fn is_a_wait(call: &str) -> bool {
    let mut words = call.split(' ');
    let number = words.next().and_then(|word| word.parse::<i64>().ok());
    let tells = number == Some(libc::SYS_write) && words.next() == Some("0x1");
    number.is_some_and(|number| number >= 0 && number != libc::SYS_futex) && !tells
}

/// The exit code of a child that could not try what it was to try.
const UNTESTED: u8 = 2;

/// A child.
pub(crate) struct Process {
    stage: Stage,
    pub(crate) pid: Pid,
}

impl Process {
    /// Waits for its end; it must have come to it as it should.
    pub(crate) fn join(&self) -> Outcome {
        match self.status()? {
            WaitStatus::Exited(_, 0) => Ok(()),
            other => Err(Stop::Broken(format!("the child did not do its part: {other:?}"))),
        }
    }

    /// Waits for its end.
    pub(crate) fn status(&self) -> Outcome<WaitStatus> {
        let name = |status: &WaitStatus| match status {
            WaitStatus::Exited(_, code) => format!("exit code {code}").into(),
            WaitStatus::Signaled(_, signal, _) => signal.as_str().into(),
            other => Answer::Text(format!("{other:?}")),
        };
        let (status, seen) = self.stage.call("waitpid", "waitpid(child)".to_owned(), || waitpid(self.pid, None), name);
        seen.ok()?;
        match status {
            Some(WaitStatus::Exited(_, code)) if code == i32::from(UNTESTED) => {
                self.stage.not_tested("the child could not set its scene")
            }
            Some(status) => Ok(status),
            None => self.stage.not_tested("no child"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_tells_what_it_is_about_to_do_does_not_wait_yet() {
        assert!(is_a_wait(&format!("{} 0x5 0x7f00 0x40", libc::SYS_epoll_wait)));
        assert!(is_a_wait(&format!("{} 0x7 0x7f00 0x40", libc::SYS_write)));
        assert!(!is_a_wait(&format!("{} 0x1 0x7f00 0x40", libc::SYS_write)));
        assert!(!is_a_wait(&format!("{} 0x7f00 0x80 0x2", libc::SYS_futex)));
        assert!(!is_a_wait("running") && !is_a_wait("-1 0x7f00 0x7f00"));
    }
}
