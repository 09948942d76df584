//! How long a client may take, and the notes of a connection by which that is judged.
//!
//! Nothing here is an event: a byte that comes writes a number down, and moves no timer. A connection has one deadline
//! in the wheel; when it comes, the notes say whether something is really over, or when to look again. So a timeout
//! costs one wake-up per connection and period at the most, and a silent connection is woken once.

use std::time::Duration;

/// Milliseconds since the worker began.
pub(crate) type Tick = u64;

/// How long a client may take; `None` is for ever. Whole milliseconds, at most 24 days.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Without a byte in either direction, once the client has sent its first.
    pub idle: Option<Duration>,
    /// From the connection to the first byte.
    pub first_byte: Option<Duration>,
    /// While output waits, without the client taking any of it.
    pub write_stall: Option<Duration>,
    /// From the first byte of a message that the service cannot take yet to its last: a client that sends a byte now
    /// and then is never idle, but it must get done ("slowloris").
    pub message: Option<Duration>,
}

/// Which timeout is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expired {
    /// [`Timeouts::idle`].
    Idle,
    /// [`Timeouts::first_byte`].
    FirstByte,
    /// [`Timeouts::write_stall`].
    WriteStall,
    /// [`Timeouts::message`].
    Message,
}

impl Timeouts {
    /// Whether there is any.
    pub(crate) fn any(&self) -> bool {
        *self != Self::default()
    }
}

/// When things happened on a connection. 32 bits of milliseconds each: only differences count, and those are short.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Notes {
    /// A byte came or went; or the connection was made.
    pub(crate) active: u32,
    /// The message that is incomplete was begun.
    pub(crate) begun: u32,
    /// Output began to wait, or some of it went out.
    pub(crate) moved: u32,
}

/// What of a connection is waiting for its client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    /// Output that it does not take.
    pub(crate) output: bool,
    /// The rest of a message.
    pub(crate) message: bool,
    /// Anything at all.
    pub(crate) input: bool,
    /// Its first byte.
    pub(crate) first_byte: bool,
}

impl Notes {
    /// What will be over first, and when, if nothing happens.
    pub(crate) fn first(&self, timeouts: &Timeouts, waiting: Waiting, now: Tick) -> Option<(Tick, Expired)> {
        let first_byte = timeouts.first_byte.filter(|_| waiting.input && waiting.first_byte);
        let idle = timeouts.idle.filter(|_| waiting.input && first_byte.is_none());
        [
            (first_byte, self.active, Expired::FirstByte),
            (idle, self.active, Expired::Idle),
            (timeouts.write_stall.filter(|_| waiting.output), self.moved, Expired::WriteStall),
            (timeouts.message.filter(|_| waiting.message), self.begun, Expired::Message),
        ]
        .into_iter()
        .filter_map(|(timeout, since, what)| Some((after(since, timeout?, now), what)))
        .min_by_key(|&(at, _)| at)
    }
}

/// The time `timeout` after `since`; a tick more, since `since` was rounded down.
fn after(since: u32, timeout: Duration, now: Tick) -> Tick {
    let passed = (now as u32).wrapping_sub(since);
    let timeout = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    (now - Tick::from(passed).min(now)).saturating_add(timeout).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Waiting = Waiting { output: true, message: true, input: true, first_byte: false };
    const INPUT: Waiting = Waiting { output: false, message: false, input: true, first_byte: false };
    const FIRST: Waiting = Waiting { first_byte: true, ..INPUT };

    fn timeouts() -> Timeouts {
        let seconds = |count| Some(Duration::from_secs(count));
        Timeouts { idle: seconds(10), first_byte: seconds(3), write_stall: seconds(5), message: seconds(4) }
    }

    #[test]
    fn the_first_byte_comes_before_idleness() {
        let notes = Notes { active: 100, ..Notes::default() };
        assert_eq!(notes.first(&timeouts(), FIRST, 500), Some((3101, Expired::FirstByte)));
        assert_eq!(notes.first(&timeouts(), INPUT, 500), Some((10_101, Expired::Idle)));
    }

    #[test]
    fn a_silent_client_is_idle_where_there_is_no_timeout_for_the_first_byte() {
        let timeouts = Timeouts { first_byte: None, ..timeouts() };
        assert_eq!(Notes::default().first(&timeouts, FIRST, 1), Some((10_001, Expired::Idle)));
    }

    #[test]
    fn the_earliest_counts() {
        let notes = Notes { active: 9000, begun: 8000, moved: 6500 };
        assert_eq!(notes.first(&timeouts(), ALL, 9000), Some((11_501, Expired::WriteStall)));
        let notes = Notes { moved: 8000, ..notes };
        assert_eq!(notes.first(&timeouts(), ALL, 9000), Some((12_001, Expired::Message)));
    }

    #[test]
    fn nothing_expires_that_nobody_waits_for() {
        let nothing = Waiting { output: false, message: false, input: false, first_byte: true };
        assert_eq!(Notes::default().first(&timeouts(), nothing, 0), None);
        assert_eq!(Notes::default().first(&Timeouts::default(), ALL, 0), None);
    }

    #[test]
    fn notes_outlive_the_32_bits_of_their_clock() {
        let now = (1 << 32) + 5;
        let notes = Notes { active: u32::MAX - 4, ..Notes::default() };
        assert_eq!(notes.first(&timeouts(), INPUT, now), Some((now - 10 + 10_001, Expired::Idle)));
    }
}
