//! Counters: plain numbers that a worker counts in, and the copy that other threads read.
//!
//! The worker adds; once per turn it stores what has changed into its [`Published`], by relaxed stores. A sequence
//! number around them (a seqlock) makes the numbers of one worker those of one moment, so that they add up whenever
//! they are read; the worker never waits for a reader.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use crate::limits::LISTENERS_COUNTED;

/// Numbers, and their published copy. Those behind `often` may change in every turn, those behind `rarely` when
/// connections come and go: most turns store the former alone.
macro_rules! counters {
    (
        $(#[$about:meta])* $counters:ident, $published:ident:
        rarely { $($(#[$rare_doc:meta])* $rare:ident,)* }
        often { $($(#[$doc:meta])* $name:ident,)* }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $counters {
            $($(#[$rare_doc])* pub $rare: u64,)*
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        struct $published {
            $($rare: AtomicU64,)*
            $($name: AtomicU64,)*
        }

        impl $published {
            #[inline]
            fn store_often(&self, counters: &$counters) {
                $(self.$name.store(counters.$name, Ordering::Relaxed);)*
            }

            fn store_all(&self, counters: &$counters) {
                $(self.$rare.store(counters.$rare, Ordering::Relaxed);)*
                self.store_often(counters);
            }

            fn load(&self) -> $counters {
                $counters {
                    $($rare: self.$rare.load(Ordering::Relaxed),)*
                    $($name: self.$name.load(Ordering::Relaxed),)*
                }
            }
        }

        impl std::ops::AddAssign for $counters {
            fn add_assign(&mut self, other: Self) {
                $(self.$rare += other.$rare;)*
                $(self.$name += other.$name;)*
            }
        }
    };
}

impl Counters {
    /// Connections that came, whether they were let in or not.
    pub(crate) const fn came(&self) -> u64 {
        self.accepted + self.denied + self.over_connections + self.over_per_ip + self.over_rate + self.over_buffered
    }
}

counters! {
    /// What has happened since the start: always `accepted` = `open` + `closed`.
    Counters, PublishedCounters:
    rarely {
    /// Connections accepted. One that is handed on counts with the worker that gets it, when it gets it.
    accepted,
    /// Of those, connections that are there now.
    open,
    /// Of those, connections that are over, with those that were refused.
    closed,
    /// Connections that came and were closed at once, for want of memory or of room.
    refused,
    /// Connections that the [`AccessList`](crate::AccessList) is against, and that were closed at once. They are not
    /// counted as accepted; nor are the following.
    denied,
    /// As many connections as there may be.
    over_connections,
    /// As many from their address as there may be.
    over_per_ip,
    /// More in a second than there may be.
    over_rate,
    /// While all connections together kept as much as they may.
    over_buffered,
    /// Connections closed because the client took too long.
    timed_out,
    /// Times that a listener had to rest for want of descriptors or memory.
    accept_pauses,
    /// Events for connections that were closed already.
    stale_events,
    /// Messages of other threads.
    messages,
    /// Of those, messages for connections that were gone.
    undelivered,
    }
    often {
    /// Bytes received.
    received_bytes,
    /// Bytes sent.
    sent_bytes,
    /// Calls of `recv`.
    receives,
    /// Of those, calls that heard EAGAIN.
    receives_eagain,
    /// Calls of `epoll_wait`.
    waits,
    /// Events that they returned.
    events,
    /// What was left in the run queue for the next turn, at the end of the last one.
    run_queue,
    }
}

counters! {
    /// What has happened since the start on the connections of one listener: always `accepted` = `open` + `refused` +
    /// all the others but the bytes.
    ListenerCounters, PublishedListener:
    rarely {
    /// Connections accepted.
    accepted,
    /// Of those, connections that are there now.
    open,
    /// Of those, connections that were closed at once, for want of memory or of room.
    refused,
    /// Connections that ended as [`End::Finished`](crate::End::Finished).
    finished,
    /// … as [`End::Lingered`](crate::End::Lingered).
    lingered,
    /// … as [`End::Broken`](crate::End::Broken).
    broken,
    /// … as [`End::Aborted`](crate::End::Aborted).
    aborted,
    /// … as [`End::Stuck`](crate::End::Stuck).
    stuck,
    /// … as [`End::TooSlow`](crate::End::TooSlow).
    too_slow,
    /// … as [`End::TimedOut`](crate::End::TimedOut).
    timed_out,
    /// … as [`End::OverBuffered`](crate::End::OverBuffered).
    over_buffered,
    /// … as [`End::Closed`](crate::End::Closed).
    closed,
    /// … as [`End::Stopped`](crate::End::Stopped).
    stopped,
    /// … as [`End::Moved`](crate::End::Moved).
    moved,
    }
    often {
    /// Bytes received.
    received_bytes,
    /// Bytes sent.
    sent_bytes,
    }
}

/// Upper bounds of the buckets of [`TurnTimes`]; a last bucket has what took longer.
pub const TURN_BOUNDS: [Duration; 5] = [
    Duration::from_micros(100),
    Duration::from_millis(1),
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_secs(1),
];

/// How long the turns of a loop took, from the end of one `epoll_wait` to the beginning of the next: nobody else of
/// that worker is served meanwhile. Its resolution is that of the clock, the nanosecond.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TurnTimes {
    /// Turns that took so long: up to the bound with the same index in [`TURN_BOUNDS`], and more than the one before
    /// it.
    pub buckets: [u64; TURN_BOUNDS.len() + 1],
    /// All turns together, in nanoseconds.
    pub total_ns: u64,
    /// The longest turn, in nanoseconds.
    pub longest_ns: u64,
}

impl TurnTimes {
    /// Returns the bucket.
    #[inline]
    fn add(&mut self, time: Duration) -> usize {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = TURN_BOUNDS.iter().take_while(|&&bound| time > bound).count();
        self.buckets[bucket] += 1;
        self.total_ns = self.total_ns.saturating_add(ns);
        self.longest_ns = self.longest_ns.max(ns);
        bucket
    }

    /// How many turns there were.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// The numbers of one worker, all of the same moment: the end of its last turn.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerCounters {
    /// All its connections together.
    pub all: Counters,
    /// By the index of the listener that they came by. The last of [`LISTENERS_COUNTED`] stands for all from there on.
    pub listeners: [ListenerCounters; LISTENERS_COUNTED],
    /// How long its turns took.
    pub turns: TurnTimes,
}

/// What a worker counts, and what of it has changed since it was published.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    all: Counters,
    all_changed: bool,
    listeners: [ListenerCounters; LISTENERS_COUNTED],
    /// A bit for each listener of which any number has changed.
    changed: u32,
    /// A bit for each listener of which the bytes have.
    moved: u32,
    turns: TurnTimes,
    /// Where the last turn was counted.
    bucket: usize,
}

const _: () = assert!(LISTENERS_COUNTED == u32::BITS as usize);

impl Tally {
    /// All numbers, to be changed. In every turn: [`often`](Self::often).
    pub(crate) const fn all(&mut self) -> &mut Counters {
        self.all_changed = true;
        &mut self.all
    }

    /// All numbers, to be changed behind `often`.
    #[inline]
    pub(crate) const fn often(&mut self) -> &mut Counters {
        &mut self.all
    }

    /// All numbers.
    #[inline]
    pub(crate) const fn counters(&self) -> &Counters {
        &self.all
    }

    /// The numbers of a listener, to be changed.
    pub(crate) fn listener(&mut self, index: usize) -> &mut ListenerCounters {
        let slot = index.min(LISTENERS_COUNTED - 1);
        self.changed |= 1 << slot;
        &mut self.listeners[slot]
    }

    /// Bytes have come and gone by a listener.
    #[inline]
    pub(crate) fn bytes(&mut self, index: usize, received: u64, sent: u64) {
        let slot = index.min(LISTENERS_COUNTED - 1);
        self.moved |= 1 << slot;
        self.listeners[slot].received_bytes += received;
        self.listeners[slot].sent_bytes += sent;
    }

    /// A turn has ended.
    #[inline]
    pub(crate) fn turn(&mut self, took: Duration) {
        self.bucket = self.turns.add(took);
    }
}

/// The numbers of one worker as other threads see them. Written by that worker alone.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// Odd while they are written.
    sequence: AtomicU64,
    all: PublishedCounters,
    listeners: [PublishedListener; LISTENERS_COUNTED],
    buckets: [AtomicU64; TURN_BOUNDS.len() + 1],
    total_ns: AtomicU64,
    longest_ns: AtomicU64,
}

/// Times that a reader tries to catch the numbers between two turns. Writing takes tens of nanoseconds, so a second
/// try is rare, and this many are only needed if the writer has lost its processor in the middle.
const TRIES: u32 = 10_000;

impl Published {
    /// To be called after each turn.
    #[inline]
    pub(crate) fn store(&self, tally: &mut Tally) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        if std::mem::take(&mut tally.all_changed) {
            self.all.store_all(&tally.all);
        } else {
            self.all.store_often(&tally.all);
        }
        each_bit(std::mem::take(&mut tally.moved), |slot| self.listeners[slot].store_often(&tally.listeners[slot]));
        each_bit(std::mem::take(&mut tally.changed), |slot| self.listeners[slot].store_all(&tally.listeners[slot]));
        let turns = &tally.turns;
        self.buckets[tally.bucket].store(turns.buckets[tally.bucket], Ordering::Relaxed);
        self.total_ns.store(turns.total_ns, Ordering::Relaxed);
        self.longest_ns.store(turns.longest_ns, Ordering::Relaxed);
        self.sequence.store(sequence + 2, Ordering::Release);
    }

    pub(crate) fn load(&self) -> WorkerCounters {
        for _ in 0..TRIES {
            let before = self.sequence.load(Ordering::Acquire);
            let numbers = self.read();
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before {
                return numbers;
            }
            std::thread::yield_now();
        }
        // Each number is right by itself.
        self.read()
    }

    fn read(&self) -> WorkerCounters {
        WorkerCounters {
            all: self.all.load(),
            listeners: std::array::from_fn(|slot| self.listeners[slot].load()),
            turns: TurnTimes {
                buckets: std::array::from_fn(|bucket| self.buckets[bucket].load(Ordering::Relaxed)),
                total_ns: self.total_ns.load(Ordering::Relaxed),
                longest_ns: self.longest_ns.load(Ordering::Relaxed),
            },
        }
    }
}

#[inline]
fn each_bit(mut bits: u32, mut act: impl FnMut(usize)) {
    while bits != 0 {
        act(bits.trailing_zeros() as usize);
        bits &= bits - 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_counted_under_the_first_bound_that_it_does_not_pass() {
        let mut turns = TurnTimes::default();
        for micros in [0, 100, 101, 1_000, 10_000, 10_001, 1_000_000, 1_000_001] {
            turns.add(Duration::from_micros(micros));
        }
        assert_eq!(turns.buckets, [2, 2, 1, 1, 1, 1]);
        assert_eq!((turns.turns(), turns.longest_ns), (8, 1_000_001_000));
    }

    #[test]
    fn numbers_that_are_read_while_they_are_written_are_of_one_moment() {
        let published = Published::default();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut tally = Tally::default();
                for count in 1..=if cfg!(miri) { 100 } else { 200_000 } {
                    tally.all().accepted = count;
                    tally.often().events = count;
                    tally.bytes(7, 0, 1);
                    tally.turn(Duration::ZERO);
                    published.store(&mut tally);
                }
            });
            while !writer.is_finished() {
                let seen = published.load();
                let count = seen.all.accepted;
                let same = [seen.all.events, seen.listeners[7].sent_bytes, seen.turns.turns()];
                assert_eq!(same, [count; 3]);
            }
        });
    }
}
