//! The completions that wait for a thread, and the threads that wait for a completion.
//!
//! Each thread has a lane: what it leaves it takes itself, in that order, as long as it comes back for it; so what one
//! processor has written seldom goes to another. A thread whose lane is empty takes what is first in another one. And
//! now and then it does so although it has something in its own, or what a thread has left that is long at something
//! else would wait for as long as the others have enough to do.
//!
//! A thread that is about to sleep counts itself among the sleepers, and then looks into each lane once more. Others
//! leave an item first, and then look whether anybody sleeps. So either it sees theirs, or they see it. One wake-up is
//! on its way at a time; whoever comes awake takes one completion, and wakes the next sleeper if there are more. So a
//! burst wakes as many threads as it has work for, and no wake-up is made for threads that are awake.

use std::cell::Cell;
use std::collections::VecDeque;

use nix::errno::Errno;

use super::kernel::eventfd::{EfdFlags, EventFd};
use super::limits::{COMPLETION_LANES, COMPLETION_POSTS_MAX, COMPLETIONS_BETWEEN_LOOKS, COMPLETIONS_BETWEEN_POLLS};
use super::operation::Reason;
use super::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use super::sync::{Mutex, MutexGuard, PoisonError};
use super::{next_thread_number, thread_local};

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

/// A thread that uses ports.
#[derive(Debug)]
struct Thread {
    number: usize,
    /// How often it has come to take.
    takes: Cell<usize>,
}

thread_local! {
    static THREAD: Thread = Thread { number: next_thread_number(), takes: Cell::new(0) };
}

/// The lane of the calling thread.
pub(super) fn own_lane() -> usize {
    THREAD.with(|thread| thread.number % COMPLETION_LANES)
}

/// Where the calling thread is to look first.
fn first_lane() -> usize {
    THREAD.with(|thread| {
        let takes = thread.takes.get().wrapping_add(1);
        thread.takes.set(takes);
        // Not at the same one each time: it may never be empty.
        let look = if takes.is_multiple_of(COMPLETIONS_BETWEEN_LOOKS) { takes / COMPLETIONS_BETWEEN_LOOKS } else { 0 };
        (thread.number + look) % COMPLETION_LANES
    })
}

#[derive(Debug)]
struct Waiting<I> {
    /// With `true` what came by `post`.
    items: VecDeque<(I, bool)>,
    /// Items taken since somebody last asked the kernel.
    streak: u32,
}

/// Aligned, so that what one thread writes is not beside what another one reads; processors fetch lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Lane<I> {
    waiting: Mutex<Waiting<I>>,
    /// As many as there are items, for who looks without the lock; written with it.
    length: AtomicUsize,
    /// Operations that threads of this lane have accepted, less the completions that they have handed out: the sum of
    /// all lanes is what is outstanding.
    outstanding: AtomicIsize,
}

impl<I> Lane<I> {
    const fn new() -> Self {
        let waiting = Mutex::new(Waiting { items: VecDeque::new(), streak: 0 });
        Self { waiting, length: AtomicUsize::new(0), outstanding: AtomicIsize::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<I>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn extend(&self, items: impl Iterator<Item = (I, bool)>) {
        let mut waiting = self.lock();
        waiting.items.extend(items);
        self.length.store(waiting.items.len(), Ordering::Relaxed);
    }

    fn take(&self) -> Option<(Next<I>, bool)> {
        let mut waiting = self.lock();
        if waiting.streak >= COMPLETIONS_BETWEEN_POLLS && !waiting.items.is_empty() {
            waiting.streak = 0;
            return Some((Next::Poll, false));
        }
        let Some((item, post)) = waiting.items.pop_front() else {
            waiting.streak = 0;
            return None;
        };
        waiting.streak += 1;
        self.length.store(waiting.items.len(), Ordering::Relaxed);
        Some((Next::Item(item), post))
    }
}

/// See the head of this file. The order of what is not under a lock is that of the program ([`Ordering::SeqCst`]),
/// wherever one thread writes one value and reads another, and a second one does so the other way round.
#[derive(Debug)]
pub(super) struct Queue<I> {
    lanes: [Lane<I>; COMPLETION_LANES],
    waker: EventFd,
    sleepers: AtomicUsize,
    /// A wake-up has been written, and no thread has taken its event.
    waking: AtomicBool,
    ended: AtomicBool,
    /// How many of the items came by `post`: what users could pile up without bound.
    posts: AtomicUsize,
}

impl<I> Queue<I> {
    pub(super) fn new() -> Result<Self, Errno> {
        let waker = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self {
            lanes: std::array::from_fn(|_| Lane::new()),
            waker,
            sleepers: AtomicUsize::new(0),
            waking: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            posts: AtomicUsize::new(0),
        })
    }

    /// To be registered edge-triggered: each write wakes one sleeper, and nobody need read.
    pub(super) const fn waker(&self) -> &EventFd {
        &self.waker
    }

    /// While operations begin and end it is about so many. When none begins any more, 0 means that all have ended: each
    /// lane's number only falls then, and is looked at once.
    pub(super) fn outstanding(&self) -> usize {
        let sum: isize = self.lanes.iter().map(|lane| lane.outstanding.load(Ordering::SeqCst)).sum();
        sum.max(0) as usize
    }

    /// An operation is accepted. To be called before its completion can be left here.
    pub(super) fn accepted(&self) {
        self.lane(own_lane()).outstanding.fetch_add(1, Ordering::SeqCst);
    }

    /// A completion goes to the user. When the last one has gone after the end, sleepers are to leave.
    pub(super) fn handed_out(&self) {
        self.lane(own_lane()).outstanding.fetch_sub(1, Ordering::SeqCst);
        if self.ended.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    fn over(&self) -> bool {
        self.ended.load(Ordering::SeqCst) && self.outstanding() == 0
    }

    fn lane(&self, at: usize) -> &Lane<I> {
        &self.lanes[at % COMPLETION_LANES]
    }

    /// Wakes a sleeper if there is one and reason to. A system call: not to be called with a lock.
    pub(super) fn wake(&self) {
        if self.sleepers.load(Ordering::SeqCst) == 0 {
            return;
        }
        let reason = self.lanes.iter().any(|lane| lane.length.load(Ordering::Relaxed) > 0) || self.over();
        if reason && !self.waking.swap(true, Ordering::SeqCst) {
            // The counter cannot overflow: 2⁶⁴ − 2 wake-ups take longer than machines last.
            while self.waker.write(1) == Err(Errno::EINTR) {}
        }
    }

    /// Leaves an item, from a thread that then calls [`wake`](Self::wake), or [`take`](Self::take).
    pub(super) fn leave(&self, lane: usize, item: I) {
        self.lane(lane).extend(std::iter::once((item, false)));
    }

    /// Leaves an item, from a thread that may not come to take it.
    pub(super) fn push(&self, item: I) {
        self.leave(own_lane(), item);
        self.wake();
    }

    /// Leaves what is its own completion.
    pub(super) fn post(&self, item: I) -> Result<(), Reason> {
        let more = |posts| (posts < COMPLETION_POSTS_MAX).then_some(posts + 1);
        // Counted before the look whether the end has come: threads leave when it has, and nothing is outstanding.
        self.accepted();
        let refused = if self.ended.load(Ordering::SeqCst) {
            Reason::Ended
        } else if self.posts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_err() {
            Reason::Full
        } else {
            self.lane(own_lane()).extend(std::iter::once((item, true)));
            self.wake();
            return Ok(());
        };
        self.handed_out();
        Err(refused)
    }

    /// What this thread is to do next.
    pub(super) fn take(&self) -> Next<I> {
        if let Some(next) = self.take_from(first_lane()) {
            return next;
        }
        let own = own_lane();
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        if let Some(next) = (0..COMPLETION_LANES).find_map(|at| self.take_from(own + at)) {
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
            return next;
        }
        if self.over() {
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
            self.wake();
            return Next::Ended;
        }
        Next::Sleep
    }

    fn take_from(&self, lane: usize) -> Option<Next<I>> {
        let (next, post) = self.lane(lane).take()?;
        if post {
            self.posts.fetch_sub(1, Ordering::SeqCst);
        }
        self.wake();
        Some(next)
    }

    /// The kernel was asked, and this is what it had; the thread calls [`take`](Self::take) next. `slept`: after
    /// [`Next::Sleep`]; `woken`: the waker's event was among those that came.
    pub(super) fn asked(&self, slept: bool, woken: bool, items: impl Iterator<Item = I>) {
        self.lane(own_lane()).extend(items.map(|item| (item, false)));
        if slept {
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
        // Also if it was a thread that had not slept: the sleeper that was meant sleeps on, and may be woken again.
        if woken {
            self.waking.swap(false, Ordering::SeqCst);
        }
    }

    /// From now on no post is taken, and threads leave when nothing is outstanding.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.wake();
    }
}
