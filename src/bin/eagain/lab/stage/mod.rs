//! The stage: what an experiment may do. Whatever it does stands on the timeline, and whatever it looks at can be
//! answered by a lie, to prove that the experiment would notice.
//!
//! The vocabulary:
//!
//! - [`Stage`] makes files and sockets, epolls, threads and processes. Each has a name on the timeline.
//! - A plain verb must succeed: `peer.send(10)?`. If it does not, the experiment ends there.
//! - A verb with `try_` has an answer that is looked at: `ep.try_add(&a, IN).is(EEXIST)?`.
//! - `ep.reports(IN)?`: a wait that reports exactly this. `ep.quiet()?`: a wait that reports nothing in 50 ms.
//!
//! What one end of a connection sends, or its end, has arrived at the other when the verb returns, so that an
//! experiment never races with the network.

mod answer;
mod epoll;
mod file;
mod pair;
mod process;

use std::collections::HashMap;
use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use eagain::sys::raw;
use nix::errno::Errno;

pub(crate) use self::answer::{Answer, Lie, Mask, Seen, masks};
pub(crate) use self::epoll::{Ep, bare_wait, ctl_by_number};
pub(crate) use self::file::{File, poll_now};
pub(crate) use self::pair::{closed_port, loopback};
pub(crate) use self::process::Thread;
use super::experiment::Mutation;
use super::timeline::{Line, Timeline, tell};
use super::verdict::{Outcome, Stop};

/// How long nothing must happen before we say that nothing happens.
pub(crate) const QUIET_MS: i32 = 50;
/// How long something may take that is to happen; on a machine that is busy with other things.
const SOON_MS: i32 = 2_000;
const SOON: Duration = Duration::from_millis(SOON_MS as u64);

/// Where an experiment takes place. Cheap to clone, so that threads can have it.
#[derive(Clone)]
pub(crate) struct Stage {
    shared: Arc<Shared>,
}

struct Shared {
    timeline: Timeline,
    mutation: Option<Mutation>,
    /// How many things of a name there are: the second `ep` is `ep2`.
    names: Mutex<HashMap<String, u32>>,
    /// What the data of an event means: the name of the file at its registration.
    registered: Mutex<Vec<String>>,
    /// Connections that were started here and wait to be accepted, by the client's port.
    lines: Mutex<HashMap<u16, Arc<pair::Line>>>,
    kernel: (u16, u16),
    /// How many times longer than usual something may take.
    slack: u32,
}

impl Stage {
    pub(crate) fn new(mutation: Option<Mutation>, slack: u32) -> Self {
        Self {
            shared: Arc::new(Shared {
                timeline: Timeline::new(),
                mutation,
                names: Mutex::default(),
                registered: Mutex::default(),
                lines: Mutex::default(),
                kernel: super::kernel::version(),
                slack,
            }),
        }
    }

    /// The kernel that runs here, as (6, 18).
    pub(crate) fn kernel(&self) -> (u16, u16) {
        self.shared.kernel
    }

    /// Whether this kernel is that new. If not, the experiment expects what was so before, and the report says it.
    pub(crate) fn since(&self, version: (u16, u16)) -> bool {
        let new_enough = self.kernel() >= version;
        if !new_enough {
            tell(&Line::Before(format!("{}.{}", version.0, version.1)));
        }
        new_enough
    }

    /// How long something may take that is to happen.
    pub(crate) fn soon(&self) -> Duration {
        SOON * self.shared.slack
    }

    /// The same for a wait that ends when it happens.
    pub(crate) fn soon_ms(&self) -> i32 {
        self.patient(SOON_MS)
    }

    /// A limit, in milliseconds, with the slack that was asked for.
    fn patient(&self, milliseconds: i32) -> i32 {
        milliseconds.saturating_mul(i32::try_from(self.shared.slack).unwrap_or(i32::MAX))
    }

    /// A name that nothing on the timeline has yet: `pipe`, `pipe2`, …
    fn name(&self, base: &str) -> String {
        let mut names = self.shared.names.lock().unwrap_or_else(PoisonError::into_inner);
        let count = names.entry(base.to_owned()).or_insert(0);
        *count += 1;
        if *count == 1 { base.to_owned() } else { format!("{base}{count}") }
    }

    /// Does something and writes it down. The kernel's answer may be replaced by the mutation's lie.
    fn call<T>(
        &self,
        verb: &'static str,
        text: String,
        work: impl FnOnce() -> Result<T, Errno>,
        answer: impl FnOnce(&T) -> Answer,
    ) -> (Option<T>, Seen) {
        let (step, nth) = self.shared.timeline.begin(verb, text.clone());
        let since = Instant::now();
        let (value, mut answer) = match work() {
            Ok(value) => {
                let answer = answer(&value);
                (Some(value), answer)
            }
            Err(errno) => (None, Answer::Fails(errno)),
        };
        if let Some(Mutation::Fake(call, number, lie)) = self.shared.mutation
            && (call, number) == (verb, nth)
        {
            answer = lie.into();
        }
        self.shared.timeline.end(step, since, answer.to_string());
        (value, Seen { stage: self.clone(), step, call: text, answer })
    }

    /// Something that was counted or measured, to be looked at.
    pub(crate) fn saw(&self, what: &'static str, answer: impl Into<Answer>) -> Seen {
        let answer = answer.into();
        self.call(what, what.to_owned(), || Ok(()), |()| answer).1
    }

    /// What a raw call answered.
    pub(crate) fn answered<T>(&self, what: &'static str, answer: Result<T, i32>) -> Seen {
        self.call(what, what.to_owned(), || answer.map(drop).map_err(Errno::from_raw), |()| Answer::Done).1
    }

    /// A remark on the timeline.
    pub(crate) fn note(&self, text: impl Display) {
        let _ = self.call("note", format!("-- {text}"), || Ok(()), |()| Answer::Text(String::new()));
    }

    /// Many equal rounds, of which the timeline shows the first two, and those that go wrong.
    pub(crate) fn rounds(&self, count: usize, mut round: impl FnMut(usize) -> Outcome) -> Outcome {
        for i in 0..count {
            self.shared.timeline.mute(i >= 2);
            let outcome = round(i);
            self.shared.timeline.mute(false);
            outcome?;
        }
        self.note(format_args!("… {count} times in all"));
        Ok(())
    }

    /// Does something of which only what goes wrong is on the timeline.
    pub(crate) fn silently<T>(&self, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        self.shared.timeline.mute(true);
        let result = work();
        self.shared.timeline.mute(false);
        result
    }

    /// Does it all again and again until it says yes; `false` if that takes too long.
    pub(crate) fn until(&self, mut done: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + self.soon();
        while !done() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        true
    }

    /// The experiment cannot be made here.
    pub(crate) fn not_tested<T>(&self, why: impl Display) -> Outcome<T> {
        Err(Stop::Untested(why.to_string()))
    }

    /// A descriptor of any kind, with a name on the timeline.
    pub(crate) fn file(&self, name: &str, fd: impl Into<OwnedFd>) -> File {
        File::new(self, self.name(name), fd.into(), None)
    }
}

/// What the kernel says in a number under /proc/sys or /sys.
pub(crate) fn sysctl(path: &str) -> Outcome<i64> {
    let text = std::fs::read_to_string(path)?;
    text.trim().parse().map_err(|_| Stop::Untested(format!("{path} says {}", text.trim())))
}

/// Processor time of a call in nanoseconds, the best of several tries. Each try goes on for a while: on some machines
/// this time moves on in steps of 4 ms.
pub(crate) fn cost_ns(call: impl Fn() -> Result<(), i32>) -> u64 {
    const CALLS: u64 = 100;
    let one_try = || {
        let (before, mut calls) = (raw::thread_time_ns(), 0);
        loop {
            for _ in 0..CALLS {
                let _ = call();
            }
            calls += CALLS;
            let spent = raw::thread_time_ns() - before;
            if spent > 10_000_000 {
                return spent / calls;
            }
        }
    };
    (0..5).map(|_| one_try()).min().unwrap_or(u64::MAX)
}
