//! Delay: an echo that comes late, by a timer, and holds nobody up.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Next, Service};
use crate::buffer::{Input, Output};
use crate::client::Client;

/// Arrivals of one connection that are told apart. Those that come closer together share the later time, so that a
/// client that sends single bytes costs no more memory than one that sends blocks.
const ARRIVALS: u32 = 256;

/// The echo service, late: each byte comes back after a fixed time.
///
/// What is held back stays in the input of the connection, so it is bounded by
/// [`Service::input_limit`]: a client that sends more than that within the delay is held back by TCP.
#[derive(Debug, Clone, Copy)]
pub struct Delay {
    delay: Duration,
    grain: Duration,
    /// From where grains are counted: the first arrival.
    origin: Option<Instant>,
}

/// What a delayed echo remembers of a connection.
#[derive(Debug, Default)]
pub struct Delayed {
    /// When so many bytes at the front of the input are due; in the order of time.
    due: VecDeque<(Instant, usize)>,
    /// Bytes in `due`.
    marked: usize,
}

impl Delay {
    /// An echo that comes `delay` later; up to a 256th of it more, never earlier.
    #[must_use]
    pub fn new(delay: Duration) -> Self {
        Self { delay, grain: delay / ARRIVALS, origin: None }
    }

    /// When what arrives now is due: rounded up to a grain, so that at most [`ARRIVALS`] times lie ahead.
    fn due(&mut self, now: Instant) -> Instant {
        let origin = *self.origin.get_or_insert(now);
        let exact = (now - origin) + self.delay;
        match exact.as_nanos().checked_next_multiple_of(self.grain.as_nanos()) {
            Some(nanos) => origin + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)),
            None => origin + exact,
        }
    }

    fn release(delayed: &mut Delayed, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        while let Some(&(at, count)) = delayed.due.front() {
            if at > output.now() {
                return Next::At(at);
            }
            output.forward(input, count);
            delayed.due.pop_front();
            delayed.marked -= count;
        }
        Next::More
    }
}

impl Service for Delay {
    /// Boxed: other services need not carry it with each connection.
    type Session = Box<Delayed>;

    fn open(&mut self, _: &Client) -> Self::Session {
        Box::default()
    }

    fn data(&mut self, delayed: &mut Self::Session, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        let fresh = input.len().saturating_sub(delayed.marked);
        if fresh > 0 {
            let at = self.due(output.now());
            match delayed.due.back_mut() {
                Some((due, count)) if *due == at => *count += fresh,
                _ => delayed.due.push_back((at, fresh)),
            }
            delayed.marked += fresh;
        }
        Self::release(delayed, input, output)
    }

    fn timer(&mut self, delayed: &mut Self::Session, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        Self::release(delayed, input, output)
    }

    fn eof(&mut self, delayed: &mut Self::Session, _: &mut Input<'_>, _: &mut Output<'_>) -> Next {
        if delayed.due.is_empty() { Next::Finish } else { Next::More }
    }

    /// Pairs of nanoseconds from now on and bytes, each of 8 bytes, little-endian.
    fn pack(&self, delayed: &Self::Session, now: Instant) -> Option<Vec<u8>> {
        let pair = |&(at, count): &(Instant, usize)| {
            let nanos = u64::try_from(at.saturating_duration_since(now).as_nanos()).unwrap_or(u64::MAX);
            [nanos, count as u64].map(u64::to_le_bytes).concat()
        };
        Some(delayed.due.iter().flat_map(pair).collect())
    }

    fn unpack(&mut self, _: &Client, packed: &[u8], now: Instant) -> Option<Self::Session> {
        let (numbers, []) = packed.as_chunks::<8>() else { return None };
        let mut delayed = Box::new(Delayed::default());
        for pair in numbers.chunks(2) {
            let [nanos, count] = pair else { return None };
            let count = usize::try_from(u64::from_le_bytes(*count)).ok()?;
            delayed.marked = delayed.marked.checked_add(count)?;
            delayed.due.push_back((now.checked_add(Duration::from_nanos(u64::from_le_bytes(*nanos)))?, count));
        }
        Some(delayed)
    }
}
