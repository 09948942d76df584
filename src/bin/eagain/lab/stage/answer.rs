//! What the kernel answers, what was expected instead, and lies.

use std::fmt;
use std::ops::{BitAnd, BitOr, Deref, RangeInclusive};

use eagain::sys::raw;
use nix::errno::Errno;

use super::Stage;
use crate::lab::verdict::{Outcome, Stop};

/// Bits of epoll: what is asked for, or what is reported.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mask(pub(crate) u32);

/// The bits by their names in the manual, less `EPOLL`.
pub(crate) mod masks {
    use super::Mask;

    /// No bit at all; ERR and HUP come all the same.
    pub(crate) const NONE: Mask = Mask(0);
    pub(crate) const IN: Mask = Mask(libc::EPOLLIN as u32);
    pub(crate) const PRI: Mask = Mask(libc::EPOLLPRI as u32);
    pub(crate) const OUT: Mask = Mask(libc::EPOLLOUT as u32);
    pub(crate) const ERR: Mask = Mask(libc::EPOLLERR as u32);
    pub(crate) const HUP: Mask = Mask(libc::EPOLLHUP as u32);
    pub(crate) const RDHUP: Mask = Mask(libc::EPOLLRDHUP as u32);
    pub(crate) const RDNORM: Mask = Mask(libc::EPOLLRDNORM as u32);
    pub(crate) const WRNORM: Mask = Mask(libc::EPOLLWRNORM as u32);
    pub(crate) const EXCLUSIVE: Mask = Mask(libc::EPOLLEXCLUSIVE as u32);
    pub(crate) const WAKEUP: Mask = Mask(libc::EPOLLWAKEUP as u32);
    pub(crate) const ONESHOT: Mask = Mask(libc::EPOLLONESHOT as u32);
    pub(crate) const ET: Mask = Mask(libc::EPOLLET as u32);
}

impl Mask {
    pub(crate) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// `|` in constants.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOr for Mask {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Mask {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&raw::names(self.0))
    }
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One entry that a wait reported.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) mask: Mask,
    /// Which file it was registered for. In an expectation: empty if it does not matter.
    pub(crate) name: String,
    pub(crate) data: u64,
}

/// What a call returned, or what was seen.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Done,
    Count(i64),
    Events(Vec<Told>),
    Fails(Errno),
    Text(String),
}

impl Answer {
    /// A wait that reports no event.
    pub(crate) const NOTHING: Self = Self::Events(Vec::new());
}

impl PartialEq for Answer {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Done, Self::Done) => true,
            (Self::Count(a), Self::Count(b)) => a == b,
            (Self::Fails(a), Self::Fails(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Events(a), Self::Events(b)) => {
                let same_name = |a: &str, b: &str| a.is_empty() || b.is_empty() || a == b;
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.mask == b.mask && same_name(&a.name, &b.name))
            }
            _ => false,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("ok"),
            Self::Count(number) => write!(f, "{number}"),
            Self::Fails(errno) => write!(f, "{errno:?}"),
            Self::Text(text) => f.write_str(text),
            Self::Events(events) if events.is_empty() => f.write_str("nothing"),
            Self::Events(events) => {
                for (at, event) in events.iter().enumerate() {
                    let comma = if at == 0 { "" } else { ", " };
                    let name = if event.name.is_empty() { String::new() } else { format!(" {}", event.name) };
                    write!(f, "{comma}{}{name}", event.mask)?;
                }
                Ok(())
            }
        }
    }
}

impl From<()> for Answer {
    fn from((): ()) -> Self {
        Self::Done
    }
}

macro_rules! count {
    ($($number:ty)*) => {$(
        impl From<$number> for Answer {
            fn from(count: $number) -> Self {
                Self::Count(count as i64)
            }
        }
    )*};
}
count!(i32 i64 u16 u32 u64 usize);

impl From<bool> for Answer {
    fn from(yes: bool) -> Self {
        Self::Text(if yes { "yes" } else { "no" }.to_owned())
    }
}

impl From<Errno> for Answer {
    fn from(errno: Errno) -> Self {
        Self::Fails(errno)
    }
}

impl From<&str> for Answer {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Mask> for Answer {
    fn from(mask: Mask) -> Self {
        [mask].into()
    }
}

impl<const N: usize> From<[Mask; N]> for Answer {
    fn from(masks: [Mask; N]) -> Self {
        Self::from(&masks[..])
    }
}

impl From<&[Mask]> for Answer {
    fn from(masks: &[Mask]) -> Self {
        Self::Events(masks.iter().map(|&mask| Told { mask, name: String::new(), data: 0 }).collect())
    }
}

/// Masks with the names of the files that they are about.
impl<const N: usize> From<[(&str, Mask); N]> for Answer {
    fn from(events: [(&str, Mask); N]) -> Self {
        Self::Events(events.into_iter().map(|(name, mask)| Told { mask, name: name.to_owned(), data: 0 }).collect())
    }
}

/// An answer that the kernel did not give.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lie {
    Done,
    Count(i64),
    Events(&'static [Mask]),
    Fails(Errno),
    Text(&'static str),
}

impl From<Lie> for Answer {
    fn from(lie: Lie) -> Self {
        match lie {
            Lie::Done => Self::Done,
            Lie::Count(count) => Self::Count(count),
            Lie::Events(masks) => masks.into(),
            Lie::Fails(errno) => Self::Fails(errno),
            Lie::Text(text) => text.into(),
        }
    }
}

/// An answer that is to be looked at.
#[must_use = "look at the answer: .is(…)?"]
pub(crate) struct Seen {
    pub(super) stage: Stage,
    pub(super) step: u64,
    pub(super) call: String,
    pub(crate) answer: Answer,
}

/// An answer that was looked at, and was as it should be.
pub(crate) struct Checked(Seen);

impl Deref for Checked {
    type Target = Seen;
    fn deref(&self) -> &Seen {
        &self.0
    }
}

impl Seen {
    fn judge(self, expected: String, met: bool) -> Outcome<Checked> {
        self.stage.shared.timeline.expect(self.step, expected.clone(), met);
        if met {
            return Ok(Checked(self));
        }
        Err(Stop::Broken(format!("{}: expected {expected}, but it was {}", self.call, self.answer)))
    }

    /// It must be exactly this.
    pub(crate) fn is(self, expected: impl Into<Answer>) -> Outcome<Checked> {
        let expected = expected.into();
        let met = self.answer == expected;
        self.judge(expected.to_string(), met)
    }

    /// It must not have failed. Nothing is said if it has not.
    pub(crate) fn ok(self) -> Outcome<Checked> {
        match self.answer {
            Answer::Fails(_) => self.judge("ok".to_owned(), false),
            _ => Ok(Checked(self)),
        }
    }

    /// As [`is`](Self::is), for what is so plain that nothing is said if it is so.
    pub(super) fn must_be(self, expected: impl Into<Answer>) -> Outcome {
        let expected = expected.into();
        if self.answer != expected {
            self.judge(expected.to_string(), false)?;
        }
        Ok(())
    }

    /// It must be a number in this range.
    pub(crate) fn within(self, range: RangeInclusive<i64>) -> Outcome<Checked> {
        let met = matches!(self.answer, Answer::Count(count) if range.contains(&count));
        let expected = match (range.start(), range.end()) {
            (low, &i64::MAX) => format!("at least {low}"),
            (0, high) => format!("at most {high}"),
            (low, high) => format!("{low} to {high}"),
        };
        self.judge(expected, met)
    }

    pub(crate) fn at_least(self, low: i64) -> Outcome<Checked> {
        self.within(low..=i64::MAX)
    }

    /// It must be one of these.
    pub(crate) fn one_of<const N: usize>(self, expected: [Answer; N]) -> Outcome<Checked> {
        let met = expected.contains(&self.answer);
        let names = expected.each_ref().map(ToString::to_string).join(" or ");
        self.judge(names, met)
    }

    /// The number, or 0 if it is none.
    pub(crate) fn count(&self) -> i64 {
        if let Answer::Count(count) = self.answer { count } else { 0 }
    }

    /// The entries that a wait reported.
    pub(crate) fn events(&self) -> &[Told] {
        if let Answer::Events(events) = &self.answer { events } else { &[] }
    }

    pub(crate) fn failed(&self) -> bool {
        matches!(self.answer, Answer::Fails(_))
    }
}
