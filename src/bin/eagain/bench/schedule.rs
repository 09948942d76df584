//! When messages are due in an open loop: a fixed beat, dealt round to the connections.

/// Message M of connection I is due at `first + (M × connections + I) × beat`, whatever the server does. So there is no
/// queue of what is due: two numbers say it, and a message that is sent late still knows when it should have been.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// Nanoseconds since the origin of the run.
    first: f64,
    /// Nanoseconds.
    beat: f64,
    connections: u64,
    /// The next beat.
    next: u64,
    /// Beats from here on never come.
    last: u64,
}

impl Schedule {
    /// `per_second` messages over all `connections`; `messages` for each of them, `u64::MAX` if there is no such bound.
    pub(super) fn new(first: u64, per_second: f64, connections: usize, messages: u64) -> Schedule {
        let connections = connections as u64;
        let last = connections.saturating_mul(messages);
        Schedule { first: first as f64, beat: 1e9 / per_second, connections, next: 0, last }
    }

    pub(super) fn intended(&self, connection: usize, message: u64) -> u64 {
        self.time_of(message * self.connections + connection as u64)
    }

    /// The next connection that has a message due by `now` and before `end`.
    pub(super) fn pop(&mut self, now: u64, end: u64) -> Option<usize> {
        let at = self.next_at();
        if at > now || at >= end {
            return None;
        }
        self.next += 1;
        Some(((self.next - 1) % self.connections) as usize)
    }

    /// When the next message is due; `u64::MAX`: never.
    pub(super) fn next_at(&self) -> u64 {
        if self.next < self.last { self.time_of(self.next) } else { u64::MAX }
    }

    fn time_of(&self, beat: u64) -> u64 {
        (self.first + beat as f64 * self.beat) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beat_goes_round_and_is_never_late() {
        let mut schedule = Schedule::new(500, 1e6, 3, u64::MAX);
        let due: Vec<_> = std::iter::from_fn(|| schedule.pop(4500, u64::MAX)).collect();
        assert_eq!(due, [0, 1, 2, 0, 1]);
        assert_eq!(schedule.next_at(), 5500);
        assert_eq!((schedule.intended(1, 1), schedule.intended(0, 0)), (4500, 500));
        assert_eq!(schedule.pop(9000, 5500), None);
    }

    #[test]
    fn a_bounded_schedule_ends() {
        let mut schedule = Schedule::new(0, 1e9, 2, 3);
        let due = std::iter::from_fn(|| schedule.pop(u64::MAX - 1, u64::MAX)).count();
        assert_eq!((due, schedule.next_at()), (6, u64::MAX));
    }

    #[test]
    fn an_hour_of_an_uneven_rate_does_not_drift() {
        let schedule = Schedule::new(0, 30_000.0, 7, u64::MAX);
        let beats = 30_000 * 3600;
        let hour = schedule.time_of(beats);
        assert!(hour.abs_diff(3_600_000_000_000) <= 1, "{hour}");
    }
}
