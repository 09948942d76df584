//! How other threads reach a worker: a bounded queue of messages, and an eventfd that wakes it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use socket2::Socket;

use crate::client::Peer;
use crate::limits::MAILBOX_MESSAGES;
use crate::listener::Listener;
use crate::metrics::{Published, Tally, WorkerCounters};
use crate::parcel::Parcel;
use crate::slab::Token;
use crate::sys::net::NonBlocking;
use crate::timeouts::Timeouts;

/// Messages for which an empty mailbox keeps room.
const MAILBOX_KEEP: usize = 64;

/// A connection that was accepted and let in, and is in no epoll set yet.
#[derive(Debug)]
pub(crate) struct Newcomer {
    pub(crate) socket: NonBlocking<Socket>,
    pub(crate) peer: Peer,
    /// The index of its listener.
    pub(crate) listener: usize,
    /// It watches the server: no limit counts it.
    pub(crate) watches: bool,
}

/// What a worker can be told.
#[derive(Debug)]
pub(crate) enum Message {
    /// A connection that another worker accepted.
    Adopt(Newcomer),
    /// A connection that another process had.
    Resume(Box<Parcel>),
    /// One more listener, with this index.
    Open(usize, Arc<Listener>),
    /// One listener less.
    Shut(usize),
    Send(Token, Arc<[u8]>),
    Broadcast(Arc<[u8]>),
    Close(Token),
    Timeouts(Timeouts),
    /// To be answered from the loop, by [`Mailbox::pong`].
    Ping,
    /// Ends by this time at the latest; connections that can go another way take it.
    Drain {
        until: Instant,
        parcels: Option<Sender<Vec<Parcel>>>,
    },
    Stop,
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// [`MAILBOX_MESSAGES`](crate::limits::MAILBOX_MESSAGES) wait already.
    #[error("the mailbox of the worker is full: send less, or later")]
    Full,
    /// The worker, or the whole server, has ended.
    #[error("the server has ended")]
    Ended,
}

/// The messages that a worker took.
#[derive(Debug)]
pub(crate) struct Mail {
    pub(crate) messages: Vec<Message>,
    /// More wait: no event will tell of them.
    pub(crate) more: bool,
}

#[derive(Debug, Default)]
struct Inner {
    messages: VecDeque<Message>,
    ended: bool,
}

/// Makes `eventfd` readable, once more. The counter cannot overflow: 2⁶⁴ − 2 wake-ups take longer than machines last.
pub(crate) fn wake(eventfd: &EventFd) {
    while eventfd.write(1) == Err(Errno::EINTR) {}
}

/// Written by any thread, read by one worker.
#[derive(Debug)]
pub(crate) struct Mailbox {
    inner: Mutex<Inner>,
    waker: EventFd,
    published: Published,
    /// Connections of this worker, with those that are on their way to it. Raised by whoever accepts for it, lowered by
    /// the worker itself.
    load: AtomicUsize,
    /// Pings that the worker has answered; `u64::MAX` when it has ended. Written by the worker alone.
    pongs: AtomicU64,
    /// The worker drains, and waits for no client any more. Written by it alone.
    drained: AtomicBool,
}

impl Mailbox {
    pub(crate) fn new() -> std::io::Result<Self> {
        let waker = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let (load, pongs) = (AtomicUsize::new(0), AtomicU64::new(0));
        let drained = AtomicBool::new(false);
        Ok(Self { inner: Mutex::default(), waker, published: Published::default(), load, pongs, drained })
    }

    pub(crate) const fn waker(&self) -> &EventFd {
        &self.waker
    }

    /// Leaves a message. Those that carry no data of the user's are taken even when the box is full: commands are few,
    /// and connections are as many as descriptors at the most.
    pub(crate) fn leave(&self, message: Message) -> Result<(), SendError> {
        self.try_leave(message).map_err(|(error, _)| error)
    }

    /// As `leave`, but a message that is not taken comes back.
    pub(crate) fn try_leave(&self, message: Message) -> Result<(), (SendError, Message)> {
        let mut inner = self.lock();
        if inner.ended {
            return Err((SendError::Ended, message));
        }
        let data = matches!(message, Message::Send(..) | Message::Broadcast(_));
        if data && inner.messages.len() >= MAILBOX_MESSAGES {
            return Err((SendError::Full, message));
        }
        let first = inner.messages.is_empty();
        inner.messages.push_back(message);
        drop(inner);
        // A command wakes the worker in any case: if only the first message did and its wake-up were lost, that message
        // and all that came behind it, the command to stop too, would wait for ever.
        if first || !data {
            wake(&self.waker);
        }
        Ok(())
    }

    /// Takes the oldest messages, at most so many.
    pub(crate) fn take(&self, most: usize) -> Mail {
        let mut inner = self.lock();
        let count = inner.messages.len().min(most);
        let messages = inner.messages.drain(..count).collect();
        if inner.messages.is_empty() {
            // What a burst needed is not kept for ever.
            inner.messages.shrink_to(MAILBOX_KEEP);
        }
        Mail { messages, more: !inner.messages.is_empty() }
    }

    /// Takes no more messages, unless there are some. `false`: there are.
    pub(crate) fn end_if_empty(&self) -> bool {
        let mut inner = self.lock();
        inner.ended |= inner.messages.is_empty();
        inner.ended
    }

    /// Takes no more messages.
    pub(crate) fn end(&self) {
        self.set_drained(true);
        let mut inner = self.lock();
        inner.ended = true;
        inner.messages.clear();
        // Whoever waits for all workers does not wait for this one.
        self.pongs.store(u64::MAX, Ordering::Relaxed);
    }

    /// Answers a ping.
    pub(crate) fn pong(&self) {
        self.pongs.store(self.pongs() + 1, Ordering::Relaxed);
    }

    pub(crate) fn pongs(&self) -> u64 {
        self.pongs.load(Ordering::Relaxed)
    }

    pub(crate) fn set_drained(&self, drained: bool) {
        self.drained.store(drained, Ordering::Relaxed);
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    pub(crate) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    pub(crate) fn raise_load(&self) {
        self.load.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn lower_load(&self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn publish(&self, tally: &mut Tally) {
        self.published.store(tally);
    }

    pub(crate) fn counters(&self) -> WorkerCounters {
        self.published.load()
    }

    /// A thread that panicked while it held the lock left a queue that is whole all the same.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
