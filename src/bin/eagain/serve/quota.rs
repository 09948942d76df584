//! How often lines of one kind are written: so many in a while, and then one line with the number of the others.
//!
//! The kinds are a fixed list, so that no client can make it longer.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::say::{Event, Level, Line};

/// Lines of which there may be a flood: how many come is up to the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Open,
    Close,
    TurnedAway,
    Frame,
    ProxyHeader,
    Shortage,
}

/// Begins with the first line, and lasts so long.
const WINDOW: Duration = Duration::from_secs(5);

impl Kind {
    const ALL: [Self; 6] = [Self::Open, Self::Close, Self::TurnedAway, Self::Frame, Self::ProxyHeader, Self::Shortage];

    pub(crate) const fn level(self) -> Level {
        match self {
            Self::Open | Self::Close => Level::Debug,
            Self::Frame | Self::ProxyHeader => Level::Info,
            Self::TurnedAway => Level::Notice,
            Self::Shortage => Level::Warning,
        }
    }

    /// Lines in a window. Who has asked for a line for each connection gets more of them.
    const fn most(self) -> u64 {
        match self {
            Self::Open | Self::Close => 200,
            _ => 50,
        }
    }

    /// As [`Event`] names the lines, and as people do.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Open => ("open", "connections opened"),
            Self::Close => ("close", "connections closed"),
            Self::TurnedAway => ("turned_away", "clients not let in"),
            Self::Frame => ("frame", "frames refused"),
            Self::ProxyHeader => ("proxy_header", "PROXY headers refused"),
            Self::Shortage => ("shortage", "clients have to wait"),
        }
    }
}

/// What is to become of a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Write,
    /// It is counted. If it is the first one, somebody has to call [`Quotas::due`] when the window is over.
    Count {
        first: bool,
    },
}

/// The lines of one kind.
#[derive(Debug, Default)]
struct Quota {
    begun: Option<Instant>,
    written: u64,
    counted: u64,
}

impl Quota {
    fn take(&mut self, most: u64, now: Instant) -> Verdict {
        // As long as there is something to tell, the window stays open for who tells it.
        if self.counted == 0 && self.begun.is_none_or(|begun| now >= begun + WINDOW) {
            *self = Self { begun: Some(now), ..Self::default() };
        }
        if self.written < most {
            self.written += 1;
            return Verdict::Write;
        }
        self.counted += 1;
        Verdict::Count { first: self.counted == 1 }
    }

    /// When there is something to tell.
    fn end(&self) -> Option<Instant> {
        self.begun.filter(|_| self.counted > 0).map(|begun| begun + WINDOW)
    }

    /// Ends the window: how many were not written, and in how long.
    fn close(&mut self, now: Instant) -> (u64, Duration) {
        let closed = std::mem::take(self);
        (closed.counted, closed.begun.map_or(WINDOW, |begun| now.saturating_duration_since(begun)))
    }
}

/// Those of all kinds, shared by all workers.
#[derive(Debug, Default)]
pub(crate) struct Quotas([Mutex<Quota>; Kind::ALL.len()]);

impl Quotas {
    pub(crate) fn take(&self, kind: Kind, now: Instant) -> Verdict {
        self.of(kind).take(kind.most(), now)
    }

    /// When [`due`](Self::due) has something to tell next.
    pub(crate) fn next(&self) -> Option<Instant> {
        Kind::ALL.into_iter().filter_map(|kind| self.of(kind).end()).min()
    }

    /// The lines for those that were not written, of the windows that are over.
    pub(crate) fn due(&self, now: Instant) -> Vec<Line> {
        self.close(now, |end| end <= now)
    }

    /// … of all windows: nothing comes any more.
    pub(crate) fn rest(&self, now: Instant) -> Vec<Line> {
        self.close(now, |_| true)
    }

    fn close(&self, now: Instant, is_over: impl Fn(Instant) -> bool) -> Vec<Line> {
        let over = Kind::ALL.into_iter().filter_map(|kind| {
            let mut quota = self.of(kind);
            quota.end().is_some_and(&is_over).then(|| more(kind, quota.close(now)))
        });
        over.collect()
    }

    fn of(&self, kind: Kind) -> MutexGuard<'_, Quota> {
        self.0[kind as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn more(kind: Kind, (count, time): (u64, Duration)) -> Line {
    let (of, name) = kind.names();
    // Milliseconds are enough, and look like a number that somebody has written.
    let seconds = time.as_millis() as f64 / 1000.0;
    let message = format_args!("{name}: {count} more like this in the last {seconds:.1} s");
    Line::new(kind.level(), message).with(Event::More { of, count, seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_and_what_is_counted_add_up() {
        let (mut quota, start) = (Quota::default(), Instant::now());
        let (mut written, mut counted) = (0, 0);
        for step in 0..1000 {
            let now = start + Duration::from_millis(20) * step;
            if quota.end().is_some_and(|end| end <= now) {
                counted += quota.close(now).0;
            }
            written += u64::from(quota.take(50, now) == Verdict::Write);
        }
        counted += quota.close(start).0;
        // 20 s, so four windows.
        assert_eq!((written, counted), (4 * 50, 1000 - 4 * 50));
    }

    #[test]
    fn a_slow_stream_is_written_whole() {
        let (mut quota, start) = (Quota::default(), Instant::now());
        for step in 0..1000 {
            assert_eq!(quota.take(50, start + Duration::from_millis(101) * step), Verdict::Write);
        }
        assert_eq!(quota.end(), None);
    }

    #[test]
    fn only_the_first_that_is_counted_asks_for_somebody_to_come() {
        let (mut quota, start) = (Quota::default(), Instant::now());
        let verdicts: Vec<_> = (0..4).map(|_| quota.take(2, start)).collect();
        let count = |first| Verdict::Count { first };
        assert_eq!(verdicts, [Verdict::Write, Verdict::Write, count(true), count(false)]);
        assert_eq!(quota.end(), Some(start + WINDOW));
        // Nobody has come: nothing is lost meanwhile.
        assert_eq!(quota.take(2, start + WINDOW * 3), count(false));
        assert_eq!(quota.close(start + WINDOW * 3), (3, WINDOW * 3));
        assert_eq!(quota.take(2, start + WINDOW * 3), Verdict::Write);
    }

    #[test]
    fn kinds_do_not_disturb_each_other() {
        let (quotas, now) = (Quotas::default(), Instant::now());
        while quotas.take(Kind::Frame, now) == Verdict::Write {}
        for kind in Kind::ALL.into_iter().filter(|&kind| kind != Kind::Frame) {
            assert_eq!(quotas.take(kind, now), Verdict::Write);
        }
        assert_eq!(quotas.next(), Some(now + WINDOW));
        assert!(quotas.due(now).is_empty());
        assert_eq!(quotas.due(now + WINDOW).len(), 1);
        assert_eq!((quotas.next(), quotas.rest(now).len()), (None, 0));
    }
}
