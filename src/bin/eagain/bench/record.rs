//! What a thread has measured: histograms by interval, and the clock that says which interval it is.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::plan::{Pace, Plan, Stop};

/// The longest time that is told apart from longer ones.
const LONGEST_NS: u64 = 3_600_000_000_000;
/// Of the values that a histogram keeps: 0.1 % is finer than any two runs agree.
const DIGITS: u8 = 3;
/// Each interval holds a histogram of a quarter of a megabyte, so there are no more than this.
const MOST_INTERVALS: u32 = 60;

pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_NS, DIGITS).expect("these bounds are right")
}

/// When a run begins and ends, in nanoseconds since `origin`; all threads have the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeline {
    pub(super) origin: Instant,
    /// Where the warm-up ends.
    pub(super) begin: u64,
    /// `u64::MAX`: when all messages have been answered.
    pub(super) end: u64,
    pub(super) interval: u64,
}

impl Timeline {
    pub(super) fn new(plan: &Plan, origin: Instant) -> Timeline {
        let (begin, end, interval) = match plan.stop {
            Stop::After(time) => {
                let begin = plan.warm_up.as_nanos() as u64;
                let interval = (time / MOST_INTERVALS).max(Duration::from_secs(1)).as_nanos() as u64;
                (begin, begin + time.as_nanos() as u64, interval)
            }
            Stop::Messages(_) => (0, u64::MAX, 1_000_000_000),
        };
        Timeline { origin, begin, end, interval }
    }

    #[inline]
    pub(super) fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }
}

/// What was answered in one stretch of time.
#[derive(Clone, Debug)]
pub(crate) struct Interval {
    /// Since the measurement began.
    pub(crate) start: Duration,
    pub(crate) length: Duration,
    /// Answered within it; the histograms of the last interval have in addition what was answered after the end.
    pub(crate) messages: u64,
    /// Payload that was answered, sent (discard) or received (chargen) within it.
    pub(crate) bytes: u64,
    /// Nanoseconds: from the intended time of sending in an open loop, else service time.
    pub(crate) latency: Histogram<u64>,
    /// Nanoseconds from the sending; only in an open loop, where it is not the same.
    pub(crate) service_time: Option<Histogram<u64>>,
}

impl Interval {
    fn new(open: bool, start: u64, length: u64) -> Interval {
        Interval {
            start: Duration::from_nanos(start),
            length: Duration::from_nanos(length),
            messages: 0,
            bytes: 0,
            latency: histogram(),
            service_time: open.then(histogram),
        }
    }

    /// Adds what another thread has measured in the same time.
    pub(super) fn merge(&mut self, other: &Interval) {
        self.length = self.length.max(other.length);
        self.messages += other.messages;
        self.bytes += other.bytes;
        // Cannot fail: all have the same bounds.
        let _ = self.latency.add(&other.latency);
        if let (Some(mine), Some(theirs)) = (&mut self.service_time, &other.service_time) {
            let _ = mine.add(theirs);
        }
    }
}

/// One thread's notes.
pub(super) struct Recorder {
    timeline: Timeline,
    open: bool,
    pub(super) intervals: Vec<Interval>,
    /// Where the current interval ends, since the origin.
    turn: u64,
    /// The latest answer that counted, since the origin.
    pub(super) last: u64,
}

impl Recorder {
    pub(super) fn new(plan: &Plan, timeline: Timeline) -> Recorder {
        let open = matches!(plan.pace, Pace::Open { .. });
        let mut recorder =
            Recorder { timeline, open, intervals: Vec::new(), turn: timeline.begin, last: timeline.begin };
        recorder.next_interval();
        recorder
    }

    fn next_interval(&mut self) {
        let start = self.turn - self.timeline.begin;
        let rest = self.timeline.end - self.turn;
        // The last that there may be has no end: how long a number of messages takes is not known.
        let last = self.intervals.len() + 1 >= MOST_INTERVALS as usize;
        let length = if last { rest } else { self.timeline.interval.min(rest) };
        self.intervals.push(Interval::new(self.open, start, length));
        self.turn += length;
    }

    /// The interval of `now`, which is in the measurement or after it.
    #[inline]
    fn interval(&mut self, now: u64) -> &mut Interval {
        while now >= self.turn && self.turn < self.timeline.end {
            self.next_interval();
        }
        let last = self.intervals.len() - 1;
        &mut self.intervals[last]
    }

    /// An answer of `bytes` is complete at `now`; it was meant to be sent at `intended`, and was at `sent`.
    #[inline]
    pub(super) fn answered(&mut self, now: u64, intended: u64, sent: u64, bytes: usize) {
        let Timeline { begin, end, .. } = self.timeline;
        let in_time = now >= begin && now < end;
        // A closed loop counts what is answered in the measurement, an open one what was due in it: what comes late is
        // what it is there to see.
        let counts = if self.open { intended >= begin && intended < end } else { in_time };
        if !in_time && !counts {
            return;
        }
        let interval = self.interval(now);
        if in_time {
            interval.messages += 1;
            interval.bytes += bytes as u64;
        }
        if counts {
            interval.latency.saturating_record(now.saturating_sub(intended));
            if let Some(service_time) = &mut interval.service_time {
                service_time.saturating_record(now.saturating_sub(sent));
            }
        }
        self.last = now;
    }

    /// A message that was meant to be sent at `intended` has not been answered by `now`: it took at least so long.
    pub(super) fn never_answered(&mut self, now: u64, intended: u64) {
        if self.open && intended >= self.timeline.begin && intended < self.timeline.end {
            self.interval(now).latency.saturating_record(now.saturating_sub(intended));
        }
    }

    /// `bytes` were moved at `now`, in a stream that has no answers.
    #[inline]
    pub(super) fn moved(&mut self, now: u64, bytes: usize) {
        if now >= self.timeline.begin && now < self.timeline.end {
            self.interval(now).bytes += bytes as u64;
            self.last = now;
        }
    }
}

/// The mean of a connection's answers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mean {
    pub(crate) messages: u64,
    pub(crate) nanoseconds: u64,
}

impl Mean {
    pub(crate) fn microseconds(self) -> f64 {
        self.nanoseconds as f64 / 1e3 / self.messages.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;

    const SECOND: u64 = 1_000_000_000;

    fn recorder(stop: Stop, pace: Pace) -> Recorder {
        let plan = Plan { stop, pace, ..Plan::new(Address::Tcp(Vec::new()), String::new()) };
        Recorder::new(&plan, Timeline::new(&plan, Instant::now()))
    }

    #[test]
    fn a_closed_loop_counts_what_is_answered_in_the_measurement() {
        // The warm-up is one second.
        let mut recorder = recorder(Stop::After(Duration::from_secs(2)), Pace::Closed);
        for now in [SECOND - 1, SECOND, 2 * SECOND, 3 * SECOND - 1, 3 * SECOND] {
            recorder.answered(now, now - 500, now - 500, 10);
        }
        assert_eq!(recorder.intervals.iter().map(|one| one.messages).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(recorder.intervals.iter().map(|one| one.latency.len()).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(recorder.intervals[1].bytes, 20);
    }

    #[test]
    fn an_open_loop_has_the_latency_of_what_was_due_in_the_measurement_however_late_it_came() {
        let mut recorder = recorder(Stop::After(Duration::from_secs(2)), Pace::Open { per_second: 1.0 });
        // Due before, and answered within; due within, and answered after.
        recorder.answered(SECOND + 5, SECOND - 5, SECOND, 10);
        recorder.answered(9 * SECOND, 2 * SECOND, 8 * SECOND, 10);
        recorder.never_answered(9 * SECOND, 2 * SECOND);
        recorder.never_answered(9 * SECOND, 3 * SECOND);
        let total = |figure: fn(&Interval) -> u64| recorder.intervals.iter().map(figure).sum::<u64>();
        assert_eq!(total(|one| one.messages), 1);
        assert_eq!(total(|one| one.latency.len()), 2);
        let service_time = recorder.intervals[1].service_time.as_ref().expect("an open loop");
        assert!(service_time.max() < SECOND + SECOND / 100 && recorder.intervals[1].latency.min() > 6 * SECOND);
    }

    #[test]
    fn a_run_of_hours_has_no_more_intervals_than_a_minute() {
        for stop in [Stop::Messages(1), Stop::After(Duration::from_secs(10_000))] {
            let mut recorder = recorder(stop, Pace::Closed);
            for second in 1..10_000 {
                recorder.answered(second * SECOND + 1, second * SECOND, second * SECOND, 1);
            }
            assert_eq!(recorder.intervals.len(), MOST_INTERVALS as usize, "{stop:?}");
            assert_eq!(recorder.intervals.iter().map(|one| one.messages).sum::<u64>(), 9_999, "{stop:?}");
        }
    }
}
