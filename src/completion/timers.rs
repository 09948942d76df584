//! The timers of a port: a wheel under a lock, and a timerfd that is set to the first of them.
//!
//! The kernel wakes one sleeper when the timerfd fires. Were each sleeping thread to count down for itself, all of them
//! would wake for each timer, and one that is set after they have fallen asleep would find nobody who knows of it.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::time::TimeSpec;

use super::kernel::now;
use super::kernel::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use super::limits::COMPLETION_TIMERS_MAX;
use super::operation::Reason;
use super::sync::{Mutex, MutexGuard, PoisonError};
use crate::deadline::Deadlines;
use crate::slab::{Slab, Token};

#[derive(Debug)]
struct Inner {
    keys: Slab<u64>,
    /// By the slots of the tokens.
    wheel: Deadlines,
    /// When the timerfd fires, or will when the thread that is setting it is done.
    set_to: Option<Instant>,
    /// A thread is setting it, and looks again when it has.
    setting: bool,
    ended: bool,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Timers {
    inner: Mutex<Inner>,
    descriptor: TimerFd,
}

impl Timers {
    pub(super) fn new() -> Result<Self, Errno> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let descriptor = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let wheel = Deadlines::new(now());
        let inner = Inner { keys: Slab::new(), wheel, set_to: None, setting: false, ended: false };
        Ok(Self { inner: Mutex::new(inner), descriptor })
    }

    /// To be registered edge-triggered: setting it anew clears what was not read.
    pub(super) const fn descriptor(&self) -> &TimerFd {
        &self.descriptor
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more timer; `accepted` runs before it can come due.
    pub(super) fn add(&self, at: Instant, key: u64, accepted: impl FnOnce()) -> Result<Token, Reason> {
        let mut inner = self.lock();
        if inner.ended {
            return Err(Reason::Ended);
        }
        if inner.keys.len() >= COMPLETION_TIMERS_MAX {
            return Err(Reason::Full);
        }
        let token = inner.keys.insert(key).map_err(|_| Reason::Full)?;
        accepted();
        inner.wheel.set(token.slot(), at);
        drop(inner);
        self.set();
        Ok(token)
    }

    /// Takes one out before its time.
    pub(super) fn remove(&self, token: Token) -> Option<u64> {
        let mut inner = self.lock();
        let key = inner.keys.remove(token)?;
        inner.wheel.clear(token.slot());
        Some(key)
    }

    /// Takes out all, for good.
    pub(super) fn end(&self) -> Vec<(Token, u64)> {
        let mut inner = self.lock();
        inner.ended = true;
        let tokens: Vec<Token> = inner.keys.tokens().collect();
        tokens
            .into_iter()
            .filter_map(|token| {
                inner.wheel.clear(token.slot());
                Some((token, inner.keys.remove(token)?))
            })
            .collect()
    }

    /// Takes out those whose time has come; the timerfd has fired.
    pub(super) fn expire(&self) -> Vec<(Token, u64)> {
        let mut inner = self.lock();
        inner.set_to = None;
        let mut slots = Vec::new();
        inner.wheel.expire(now(), &mut slots);
        let due = slots
            .into_iter()
            .filter_map(|slot| {
                let token = inner.keys.token_at(slot)?;
                Some((token, inner.keys.remove(token)?))
            })
            .collect();
        drop(inner);
        self.set();
        due
    }

    /// Sets the timerfd to the first deadline. One thread does at a time, or the later of two calls could carry the
    /// older knowledge.
    fn set(&self) {
        let mut inner = self.lock();
        while let Some((first, wait)) = inner.to_set() {
            inner.setting = true;
            inner.set_to = Some(first);
            drop(inner);
            // 0 would disarm it. The call can fail by a wrong argument only.
            let wait = TimeSpec::from_duration(wait.max(Duration::from_nanos(1)));
            let _ = self.descriptor.set(Expiration::OneShot(wait), TimerSetTimeFlags::empty());
            inner = self.lock();
            inner.setting = false;
        }
    }
}

impl Inner {
    /// The first deadline and how far it is, if the timerfd does not fire by then and nobody is at it.
    fn to_set(&self) -> Option<(Instant, Duration)> {
        let now = now();
        let wait = self.wheel.next(now)?;
        let first = now + wait;
        let in_time = self.set_to.is_some_and(|set_to| set_to <= first);
        (!self.setting && !in_time).then_some((first, wait))
    }
}
