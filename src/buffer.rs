//! Byte queues, and what a service sees of them: [`Input`] and [`Output`].
//!
//! Bytes travel from the receive buffer of the worker straight to the socket if they can. A connection owns memory only
//! while bytes of its own wait: a part of a frame, or an answer that the client does not take.

use std::cell::OnceCell;
use std::ops::Range;
use std::time::Instant;

use crate::client::Client;
use crate::limits::OUTPUT_HIGH_WATER_BYTES;

/// A first-in-first-out queue of bytes in one piece of memory.
#[derive(Debug, Default)]
pub struct ByteQueue {
    bytes: Vec<u8>,
    /// Bytes at the front of `bytes` that are gone already.
    head: usize,
}

impl ByteQueue {
    /// An empty queue, which owns no memory.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), head: 0 }
    }

    /// An empty queue with room for so many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), head: 0 }
    }

    /// Bytes that wait.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// Whether no byte waits.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All bytes that wait, the oldest first.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.head..]
    }

    /// Puts bytes at the end.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        self.make_room(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the oldest `count` bytes away; all of them if there are fewer.
    #[inline]
    pub fn consume(&mut self, count: usize) {
        self.head += count.min(self.len());
        if self.is_empty() {
            self.bytes.clear();
            self.head = 0;
        }
    }

    /// The memory for whoever appends to it by himself, with what is gone moved out of the way where that pays.
    pub(crate) fn tail(&mut self, room: usize) -> &mut Vec<u8> {
        self.make_room(room);
        &mut self.bytes
    }

    /// Drops all bytes, and the memory too if it is more than `keep` bytes.
    #[inline]
    pub(crate) fn clear(&mut self, keep: usize) {
        self.consume(self.len());
        if self.bytes.capacity() > keep {
            *self = Self::new();
        }
    }

    /// Moves the bytes to the front before the memory would grow, if at least half of it is gone: each byte is moved
    /// once at the most for every byte that was consumed.
    fn make_room(&mut self, room: usize) {
        if self.bytes.capacity() - self.bytes.len() < room && self.head >= self.bytes.len() / 2 {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
    }
}

impl From<Vec<u8>> for ByteQueue {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, head: 0 }
    }
}

impl From<ByteQueue> for Vec<u8> {
    /// The bytes that wait, in the memory that they are in.
    fn from(mut queue: ByteQueue) -> Self {
        queue.bytes.drain(..queue.head);
        queue.bytes
    }
}

/// What a client has sent and the service has not yet taken.
///
/// It dereferences to the bytes. What a callback leaves is there again at the next one, with more behind it.
#[derive(Debug)]
pub struct Input<'a> {
    bytes: &'a [u8],
    taken: usize,
}

impl<'a> Input<'a> {
    /// A view of these bytes, of which none is taken. For tests of a service: the loop makes its own.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, taken: 0 }
    }

    /// Takes the first `count` bytes away (all, if there are fewer): they will not be seen again.
    #[inline]
    pub fn consume(&mut self, count: usize) {
        self.taken += count.min(self.len());
    }

    /// How many bytes have been taken through this view.
    #[inline]
    #[must_use]
    pub const fn taken(&self) -> usize {
        self.taken
    }
}

impl std::ops::Deref for Input<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }
}

/// The way out to the client.
///
/// Nothing is refused: whatever is written will be sent, in order. A service that produces by itself, rather than in
/// proportion to its input, asks [`room`](Self::room) first and goes on in [`Service::room`](crate::Service::room).
#[derive(Debug)]
pub struct Output<'a> {
    queue: &'a mut ByteQueue,
    /// A part of the input that goes out before `queue`, without having been copied.
    direct: Range<usize>,
    client: &'a Client,
    /// Empty until somebody asks: most services never do.
    now: OnceCell<Instant>,
    asks_for_room: bool,
}

impl<'a> Output<'a> {
    /// A way out that ends in `queue`. For tests of a service: the loop makes its own.
    #[must_use]
    pub fn new(queue: &'a mut ByteQueue, client: &'a Client, now: Instant) -> Self {
        Self { now: OnceCell::from(now), ..Self::in_real_time(queue, client) }
    }

    /// A way out of a callback that happens now.
    #[inline]
    pub(crate) const fn in_real_time(queue: &'a mut ByteQueue, client: &'a Client) -> Self {
        Self { queue, direct: 0..0, client, now: OnceCell::new(), asks_for_room: false }
    }

    /// To whom this goes.
    #[inline]
    #[must_use]
    pub const fn client(&self) -> &Client {
        self.client
    }

    /// The time of this callback: when it is asked first, and the same from then on. So it is never before the input
    /// came, and a time that is counted from it never comes early. Under a [`Driver`](crate::driver::Driver) and in the
    /// [harness](crate::harness) it is the time that was given last.
    #[inline]
    #[must_use]
    pub fn now(&self) -> Instant {
        *self.now.get_or_init(Instant::now)
    }

    /// Bytes that wait to be sent.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.direct.len() + self.queue.len()
    }

    /// Whether nothing waits to be sent.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that may be written until the client is held to be too slow
    /// ([`OUTPUT_HIGH_WATER_BYTES`]); zero from there on.
    #[inline]
    #[must_use]
    pub fn room(&self) -> usize {
        OUTPUT_HIGH_WATER_BYTES.saturating_sub(self.len())
    }

    /// Asks for a call of [`Service::room`](crate::Service::room), as if all room had been used up. For a service that
    /// has become able to produce in another callback.
    #[inline]
    pub const fn ask_for_room(&mut self) {
        self.asks_for_room = true;
    }

    /// Whether `room` is to be called.
    #[inline]
    pub(crate) fn wants_room(&self) -> bool {
        self.asks_for_room || self.room() == 0
    }

    /// Lets `write` write to this way out as if it led to `client`: for a service within another.
    #[inline]
    pub fn for_client<R>(&mut self, client: &Client, write: impl FnOnce(&mut Output<'_>) -> R) -> R {
        let mut inner = Output {
            queue: &mut *self.queue,
            direct: self.direct.clone(),
            client,
            now: self.now.clone(),
            asks_for_room: self.asks_for_room,
        };
        let result = write(&mut inner);
        (self.direct, self.now, self.asks_for_room) = (inner.direct, inner.now, inner.asks_for_room);
        result
    }

    /// Sends these bytes.
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) {
        self.queue.push(bytes);
    }

    /// Sends the first `count` bytes of the input (all, if there are fewer) and takes them away from it.
    ///
    /// They go to the socket from where they are: an echo copies nothing, unless the client does not take it.
    #[inline]
    pub fn forward(&mut self, input: &mut Input<'_>, count: usize) {
        let count = count.min(input.len());
        let start = input.taken;
        let follows = self.direct.is_empty() || self.direct.end == start;
        if self.queue.is_empty() && follows {
            if self.direct.is_empty() {
                self.direct.start = start;
            }
            self.direct.end = start + count;
        } else {
            self.queue.push(&input[..count]);
        }
        input.consume(count);
    }

    /// The part of the input that was forwarded without a copy; it goes out first.
    #[inline]
    #[must_use]
    pub fn forwarded(&self) -> Range<usize> {
        self.direct.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_gives_back_what_was_put_in_whatever_the_steps() {
        let mut queue = ByteQueue::new();
        let (mut written, mut read) = (0_u32, 0_u32);
        let steps = if cfg!(miri) { 60 } else { 2000_usize };
        for step in 1..steps {
            let bytes: Vec<u8> = (0..step % 97).map(|i| (written + i as u32) as u8).collect();
            written += bytes.len() as u32;
            queue.push(&bytes);
            let take = (step * 31) % 89;
            let seen: Vec<u8> = queue.as_slice().iter().take(take).copied().collect();
            for (i, byte) in seen.iter().enumerate() {
                assert_eq!(*byte, (read + i as u32) as u8);
            }
            read += seen.len() as u32;
            queue.consume(take);
            assert_eq!(queue.len() as u32, written - read);
        }
    }

    #[test]
    fn a_queue_that_is_used_for_ever_does_not_grow_for_ever() {
        let mut queue = ByteQueue::new();
        let rounds = if cfg!(miri) { 300 } else { 100_000 };
        for _ in 0..rounds {
            queue.push(&[7; 100]);
            queue.consume(if queue.len() > 1000 { 100 } else { 90 });
        }
        assert!(queue.bytes.capacity() < 8192, "{} bytes", queue.bytes.capacity());
    }

    #[test]
    fn what_is_forwarded_and_written_keeps_its_order() {
        let mut queue = ByteQueue::new();
        let bytes = b"0123456789";
        let mut input = Input::new(bytes);
        let mut output = Output::new(&mut queue, &Client::NOBODY, Instant::now());
        input.consume(1);
        output.forward(&mut input, 2);
        output.forward(&mut input, 2);
        output.write(b"-");
        output.forward(&mut input, 100);
        assert_eq!(output.len(), 10);
        let direct = output.forwarded();
        assert_eq!((&bytes[direct], queue.as_slice()), (&b"1234"[..], &b"-56789"[..]));
    }

    #[test]
    fn a_gap_in_what_is_forwarded_is_not_sent() {
        let mut queue = ByteQueue::new();
        let bytes = b"abcdef";
        let mut input = Input::new(bytes);
        let mut output = Output::new(&mut queue, &Client::NOBODY, Instant::now());
        output.forward(&mut input, 2);
        input.consume(2);
        output.forward(&mut input, 2);
        let direct = output.forwarded();
        assert_eq!((&bytes[direct], queue.as_slice()), (&b"ab"[..], &b"ef"[..]));
    }

    #[test]
    fn nothing_is_forwarded_past_what_already_waits() {
        let mut queue = ByteQueue::new();
        queue.push(b"old ");
        let mut input = Input::new(b"new");
        let mut output = Output::new(&mut queue, &Client::NOBODY, Instant::now());
        output.forward(&mut input, 3);
        assert!(output.forwarded().is_empty());
        assert_eq!(queue.as_slice(), b"old new");
    }
}
