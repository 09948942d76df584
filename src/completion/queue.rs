//! The completions that wait for a thread, and the threads that wait for a completion.
//!
//! A thread that is about to sleep says so under the lock under which others leave completions: either it sees theirs,
//! or they see it. One wake-up is on its way at a time; whoever comes awake takes one completion, and wakes the next
//! sleeper if there are more. So a burst wakes as many threads as it has work for, and no wake-up is made for threads
//! that are awake.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::operation::Reason;
use crate::limits::{COMPLETION_POSTS_MAX, COMPLETIONS_BETWEEN_POLLS};

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
        let inner = Inner { items: VecDeque::new(), posts: 0, sleepers: 0, waking: false, ended: false, streak: 0 };
        Ok(Self { inner: Mutex::new(inner), waker, outstanding: AtomicUsize::new(0) })
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
        let reason = !inner.items.is_empty() || inner.ended && self.outstanding() == 0;
        let wake = reason && inner.sleepers > 0 && !inner.waking;
        inner.waking |= wake;
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
        self.with(|inner| {
            if inner.streak >= COMPLETIONS_BETWEEN_POLLS && !inner.items.is_empty() {
                inner.streak = 0;
                return Next::Poll;
            }
            if let Some((item, post)) = inner.items.pop_front() {
                inner.streak += 1;
                inner.posts -= usize::from(post);
                return Next::Item(item);
            }
            if inner.ended && self.outstanding() == 0 {
                return Next::Ended;
            }
            inner.streak = 0;
            inner.sleepers += 1;
            Next::Sleep
        })
    }

    /// The kernel was asked. `slept`: after [`Next::Sleep`]; `woken`: the waker's event was among those that came.
    pub(super) fn asked(&self, slept: bool, woken: bool) {
        if slept || woken {
            let mut inner = self.lock();
            inner.sleepers -= usize::from(slept);
            inner.waking &= !woken;
        }
    }

    /// From now on no post is taken, and threads leave when nothing is outstanding.
    pub(super) fn end(&self) {
        self.with(|inner| inner.ended = true);
    }
}
