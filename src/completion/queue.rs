//! The completions that wait for a thread, and the threads that wait for a completion.
//!
//! A thread that is about to sleep says so under the lock under which others leave completions: either it sees theirs,
//! or they see it. One wake-up is on its way at a time; whoever comes awake takes one completion, and wakes the next
//! sleeper if there are more. So a burst wakes as many threads as it has work for, and no wake-up is made for threads
//! that are awake.

use std::collections::VecDeque;

use nix::errno::Errno;

use super::kernel::eventfd::{EfdFlags, EventFd};
use super::limits::{COMPLETION_POSTS_MAX, COMPLETIONS_BETWEEN_POLLS};
use super::operation::Reason;
use super::sync::atomic::{AtomicUsize, Ordering};
use super::sync::{Mutex, MutexGuard, PoisonError};

/// What [`Queue::take`] tells a thread to do.
#[derive(Debug)]
pub(super) enum Next<I> {
    /// Here it is.
    Item(I),
    /// Ask the kernel, without sleeping: the queue has been busy for so long that events may be waiting.
    Poll,
    /// Ask the kernel, and sleep if it has nothing; then [`Queue::asked`].
    Sleep,
    /// Nothing will come any more.
    Ended,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
struct Inner<I> {
    /// With `true` what came by `post`.
    items: VecDeque<(I, bool)>,
    /// How many of the items came by `post`: what users could pile up without bound.
    posts: usize,
    sleepers: usize,
    /// A wake-up has been written, and no thread has taken its event.
    waking: bool,
    ended: bool,
    /// Items taken since somebody last asked the kernel.
    streak: u32,
}

impl<I> Inner<I> {
    const fn new() -> Self {
        Self { items: VecDeque::new(), posts: 0, sleepers: 0, waking: false, ended: false, streak: 0 }
    }

    /// Whether a sleeper is to be woken; who asks writes to the waker, without the lock.
    fn must_wake(&mut self, outstanding: usize) -> bool {
        let reason = !self.items.is_empty() || self.ended && outstanding == 0;
        let wake = reason && self.sleepers > 0 && !self.waking;
        self.waking |= wake;
        wake
    }

    fn take(&mut self, outstanding: usize) -> Next<I> {
        if self.streak >= COMPLETIONS_BETWEEN_POLLS && !self.items.is_empty() {
            self.streak = 0;
            return Next::Poll;
        }
        if let Some((item, post)) = self.items.pop_front() {
            self.streak += 1;
            self.posts -= usize::from(post);
            return Next::Item(item);
        }
        if self.ended && outstanding == 0 {
            return Next::Ended;
        }
        self.streak = 0;
        self.sleepers += 1;
        Next::Sleep
    }

    fn asked(&mut self, slept: bool, woken: bool) {
        self.sleepers -= usize::from(slept);
        // Also if it was a thread that had not slept: the sleeper that was meant sleeps on, and may be woken again.
        self.waking &= !woken;
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Queue<I> {
    inner: Mutex<Inner<I>>,
    waker: EventFd,
    /// Operations that were accepted and whose completion has not been handed out.
    outstanding: AtomicUsize,
}

impl<I> Queue<I> {
    pub(super) fn new() -> Result<Self, Errno> {
        let waker = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { inner: Mutex::new(Inner::new()), waker, outstanding: AtomicUsize::new(0) })
    }

    /// To be registered edge-triggered: each write wakes one sleeper, and nobody need read.
    pub(super) const fn waker(&self) -> &EventFd {
        &self.waker
    }

    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// An operation is accepted. To be called before its completion can be left here.
    pub(super) fn accepted(&self) {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
    }

    /// A completion goes to the user. When the last one has gone after the end, sleepers are to leave.
    pub(super) fn handed_out(&self) {
        if self.outstanding.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.with(|_| ());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<I>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something under the lock, then wakes a sleeper, without it, if there is reason.
    fn with<R>(&self, action: impl FnOnce(&mut Inner<I>) -> R) -> R {
        let mut inner = self.lock();
        let result = action(&mut inner);
        let wake = inner.must_wake(self.outstanding());
        drop(inner);
        if wake {
            // The counter cannot overflow: 2⁶⁴ − 2 wake-ups take longer than machines last.
            while self.waker.write(1) == Err(Errno::EINTR) {}
        }
        result
    }

    /// Leaves an item, from a thread that may not come to take it.
    pub(super) fn push(&self, item: I) {
        self.with(|inner| inner.items.push_back((item, false)));
    }

    /// Leaves an item, from a thread that calls [`take`](Self::take) next: nobody else is woken for it.
    pub(super) fn push_for_me(&self, item: I) {
        self.lock().items.push_back((item, false));
    }

    /// Leaves what is its own completion.
    pub(super) fn post(&self, item: I) -> Result<(), Reason> {
        self.with(|inner| match inner.ended {
            true => Err(Reason::Ended),
            false if inner.posts >= COMPLETION_POSTS_MAX => Err(Reason::Full),
            false => {
                self.accepted();
                inner.posts += 1;
                inner.items.push_back((item, true));
                Ok(())
            }
        })
    }

    /// What this thread is to do next.
    pub(super) fn take(&self) -> Next<I> {
        self.with(|inner| inner.take(self.outstanding()))
    }

    /// The kernel was asked. `slept`: after [`Next::Sleep`]; `woken`: the waker's event was among those that came.
    pub(super) fn asked(&self, slept: bool, woken: bool) {
        if slept || woken {
            self.lock().asked(slept, woken);
        }
    }

    /// From now on no post is taken, and threads leave when nothing is outstanding.
    pub(super) fn end(&self) {
        self.with(|inner| inner.ended = true);
    }
}

#[cfg(test)]
mod tests {
    //! Every order of steps of three threads that take, of others that leave items, and of the writes to the waker.

    use std::collections::HashSet;

    use super::*;

    #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    enum Thread {
        /// About to take.
        Awake,
        /// In the kernel; `slept`: until an event comes.
        Asking {
            slept: bool,
        },
        /// Back from the kernel.
        Asked {
            slept: bool,
            woken: bool,
        },
        /// With an item, for how long nobody knows.
        Busy,
        Gone,
    }

    #[derive(Clone, PartialEq, Eq, Hash)]
    struct World {
        inner: Inner<()>,
        threads: [Thread; 3],
        /// Left until now.
        items: usize,
        /// Writes to the waker that are about to be made; and whether one was, and no thread has its event.
        writes: u8,
        edge: bool,
        timeouts: u8,
        outstanding: usize,
    }

    const ITEMS: usize = 4;
    const TIMEOUTS: u8 = 1;

    impl World {
        fn new() -> Self {
            // The next item but one is due for a poll.
            let inner = Inner { streak: COMPLETIONS_BETWEEN_POLLS - 1, ..Inner::new() };
            let threads = [Thread::Awake; 3];
            Self { inner, threads, items: 0, writes: 0, edge: false, timeouts: 0, outstanding: 0 }
        }

        /// What each step under the lock ends with.
        fn unlock(&mut self) {
            self.writes += u8::from(self.inner.must_wake(self.outstanding));
        }

        fn next(&self) -> Vec<Self> {
            let mut worlds = Vec::new();
            let mut also = |change: &mut dyn FnMut(&mut Self)| {
                let mut world = self.clone();
                change(&mut world);
                world.threads.sort_unstable(); // They are alike.
                worlds.push(world);
            };
            if self.items < ITEMS && !self.inner.ended {
                also(&mut |world| {
                    world.items += 1;
                    world.outstanding += 1;
                    world.inner.items.push_back(((), false));
                    world.unlock();
                });
            }
            if !self.inner.ended {
                also(&mut |world| {
                    world.inner.ended = true;
                    world.unlock();
                });
            }
            if self.writes > 0 {
                also(&mut |world| {
                    world.writes -= 1;
                    world.edge = true;
                });
            }
            for at in 0..self.threads.len() {
                let mut goes = |change: &mut dyn FnMut(&mut Self) -> Thread| {
                    also(&mut |world| world.threads[at] = change(world));
                };
                match self.threads[at] {
                    Thread::Awake => goes(&mut Self::take),
                    Thread::Asking { slept } => {
                        if self.edge {
                            goes(&mut |world| {
                                world.edge = false;
                                Thread::Asked { slept, woken: true }
                            });
                        }
                        if !slept || self.timeouts < TIMEOUTS {
                            goes(&mut |world| {
                                world.timeouts += u8::from(slept);
                                Thread::Asked { slept, woken: false }
                            });
                        }
                    }
                    Thread::Asked { slept, woken } => goes(&mut |world| {
                        world.inner.asked(slept, woken);
                        Thread::Awake
                    }),
                    Thread::Busy => goes(&mut |_| Thread::Awake),
                    Thread::Gone => {}
                }
            }
            worlds
        }

        fn take(&mut self) -> Thread {
            let next = self.inner.take(self.outstanding);
            self.unlock();
            match next {
                Next::Item(()) => {
                    self.outstanding -= 1;
                    self.unlock();
                    Thread::Busy
                }
                Next::Poll => Thread::Asking { slept: false },
                Next::Sleep => Thread::Asking { slept: true },
                Next::Ended => Thread::Gone,
            }
        }

        fn check(&self) {
            let asleep = self.threads.iter().filter(|&&thread| thread == Thread::Asking { slept: true }).count();
            let still = self
                .threads
                .iter()
                .all(|thread| matches!(thread, Thread::Asking { slept: true } | Thread::Busy | Thread::Gone));
            if asleep > 0 && still && self.writes == 0 && !self.edge {
                assert!(self.inner.items.is_empty(), "an item waits, and a thread sleeps");
                assert!(!(self.inner.ended && self.outstanding == 0), "a thread sleeps for ever after the end");
            }
            assert!(self.writes <= 1, "one wake-up at a time");
        }
    }

    #[test]
    fn in_every_order_of_steps_no_thread_sleeps_while_an_item_waits() {
        let first = World::new();
        let mut seen = HashSet::from([first.clone()]);
        let mut rest = vec![first];
        while let Some(world) = rest.pop() {
            world.check();
            for next in world.next() {
                if seen.insert(next.clone()) {
                    rest.push(next);
                }
            }
        }
        assert!(seen.len() > 1_000, "{} states", seen.len());
    }
}
