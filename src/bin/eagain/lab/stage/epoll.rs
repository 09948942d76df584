//! An epoll on the stage: the project's own wrapper, and the raw door for what the wrapper refuses on purpose.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use eagain::sys::epoll::{Epoll, Error, Events, Interest, Mode, Timeout};
use eagain::sys::raw;
use nix::errno::Errno;

use super::answer::{Answer, Mask, Seen, Told, masks};
use super::file::closing;
use super::process::Thread;
use super::{File, QUIET_MS, Stage};
use crate::lab::experiment::Mutation;
use crate::lab::verdict::{Outcome, Stop};

/// The data of registrations that do not choose their own, so that an event can be shown with the name of its file.
const NAMED: u64 = 0xea6a_0000_0000;
/// As many as any experiment has at once.
const BATCH: usize = 64;

/// Cheap to clone, so that threads can wait on it.
#[derive(Clone)]
pub(crate) struct Ep {
    pub(super) stage: Stage,
    pub(crate) name: String,
    epoll: Arc<Epoll>,
}

impl Stage {
    pub(crate) fn epoll(&self) -> Outcome<Ep> {
        let name = self.name("ep");
        let (epoll, seen) = self.call(
            "epoll_create",
            "epoll_create1(CLOEXEC)".to_owned(),
            || Epoll::new().map_err(errno),
            |_| name.as_str().into(),
        );
        seen.ok()?;
        let epoll = epoll.ok_or_else(|| Stop::Untested("no epoll".to_owned()))?;
        Ok(Ep { stage: self.clone(), name, epoll: Arc::new(epoll) })
    }

    /// Remembers what the file is called, and returns the data that stands for it.
    fn data_for(&self, name: &str) -> u64 {
        let mut registered = self.shared.registered.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = registered.iter().position(|known| known == name) {
            return NAMED + at as u64;
        }
        registered.push(name.to_owned());
        NAMED + registered.len() as u64 - 1
    }

    fn told(&self, bits: u32, data: u64) -> Told {
        let registered = self.shared.registered.lock().unwrap_or_else(PoisonError::into_inner);
        let name = usize::try_from(data.wrapping_sub(NAMED)).ok().and_then(|at| registered.get(at));
        let name = name.cloned().unwrap_or_else(|| format!("data {data}"));
        Told { mask: Mask(bits), name, data }
    }

    /// A mask as the mutation lets it come to the kernel.
    fn spoil(&self, mask: Mask) -> Mask {
        match self.shared.mutation {
            Some(Mutation::Without(bits)) => mask.without(bits),
            Some(Mutation::With(bits)) => mask | bits,
            _ => mask,
        }
    }
}

impl Ep {
    // ---- registering ----------------------------------------------------------------------------------------------

    /// ADD, which must succeed.
    pub(crate) fn add(&self, file: &impl Named, mask: Mask) -> Outcome {
        self.try_add(file, mask).must_be(())
    }

    pub(crate) fn try_add(&self, file: &impl Named, mask: Mask) -> Seen {
        self.try_add_data(file, mask, self.stage.data_for(file.label()))
    }

    /// ADD with data of its own.
    pub(crate) fn try_add_data(&self, file: &impl Named, mask: Mask, data: u64) -> Seen {
        self.register("ADD", libc::EPOLL_CTL_ADD, file, mask, data)
    }

    /// MOD, which must succeed.
    pub(crate) fn modify(&self, file: &impl Named, mask: Mask) -> Outcome {
        self.try_modify(file, mask).must_be(())
    }

    pub(crate) fn try_modify(&self, file: &impl Named, mask: Mask) -> Seen {
        self.try_modify_data(file, mask, self.stage.data_for(file.label()))
    }

    pub(crate) fn try_modify_data(&self, file: &impl Named, mask: Mask, data: u64) -> Seen {
        self.register("MOD", libc::EPOLL_CTL_MOD, file, mask, data)
    }

    /// DEL, which must succeed.
    pub(crate) fn delete(&self, file: &impl Named) -> Outcome {
        self.try_delete(file).must_be(())
    }

    pub(crate) fn try_delete(&self, file: &impl Named) -> Seen {
        let text = format!("epoll_ctl({}, DEL, {})", self.name, file.label());
        self.stage.call("epoll_ctl", text, || self.epoll.delete(file.fd()).map_err(errno), |()| Answer::Done).1
    }

    fn register(&self, verb: &str, operation: i32, file: &impl Named, mask: Mask, data: u64) -> Seen {
        let mask = self.stage.spoil(mask);
        let text = format!("epoll_ctl({}, {verb}, {}, {mask})", self.name, file.label());
        let work = || match self.wrapped(operation, file.fd(), mask, data) {
            // The wrapper refuses what would stall, and what the kernel would refuse without saying why. Here the
            // kernel is to say it.
            None | Some(Err(Error::BlockingEdge | Error::ExclusiveCombination)) => {
                let number = file.fd().as_raw_fd();
                raw::epoll_ctl(self.number(), operation, number, Some((mask.0, data))).map_err(Errno::from_raw)
            }
            Some(answer) => answer.map_err(errno),
        };
        self.stage.call("epoll_ctl", text, work, |()| Answer::Done).1
    }

    /// By the project's wrapper; `None` if the mask has bits that it cannot say.
    fn wrapped(&self, operation: i32, fd: BorrowedFd<'_>, mask: Mask, data: u64) -> Option<Result<(), Error>> {
        let (interest, mode) = typed(mask)?;
        Some(match operation {
            libc::EPOLL_CTL_ADD => self.epoll.add(fd, data, interest, mode),
            _ => self.epoll.modify(fd, data, interest, mode),
        })
    }

    /// Any operation on any number, through the raw door.
    pub(crate) fn try_ctl(&self, operation: i32, number: RawFd, event: Option<(Mask, u64)>) -> Seen {
        ctl_by_number(&self.stage, self.number(), operation, number, event)
    }

    // ---- waiting --------------------------------------------------------------------------------------------------

    /// Waits; it must report exactly this, soon.
    #[track_caller]
    pub(crate) fn reports(&self, expected: impl Into<Answer>) -> Outcome {
        self.wait(self.stage.soon_ms()).is(expected)?;
        Ok(())
    }

    /// Looks without waiting; it must report exactly this.
    pub(crate) fn reports_now(&self, expected: impl Into<Answer>) -> Outcome {
        self.wait(0).is(expected)?;
        Ok(())
    }

    /// Waits a while; nothing must come.
    pub(crate) fn quiet(&self) -> Outcome {
        self.wait(QUIET_MS).is(Answer::NOTHING)?;
        Ok(())
    }

    /// At most so many milliseconds; 0 does not wait.
    pub(crate) fn wait(&self, timeout_ms: i32) -> Seen {
        self.wait_for(BATCH, timeout_ms)
    }

    /// The same, for at most so many events at once.
    pub(crate) fn wait_for(&self, most: usize, timeout_ms: i32) -> Seen {
        let room = if most == BATCH { String::new() } else { format!(", room for {most}") };
        let text = format!("epoll_wait({}, {timeout_ms} ms{room})", self.name);
        let timeout = match timeout_ms {
            0 => Timeout::Now,
            _ => Timeout::After(Duration::from_millis(timeout_ms.unsigned_abs().into())),
        };
        let work = || {
            let mut events = Events::with_capacity(most);
            self.epoll.wait(&mut events, timeout).map_err(errno)?;
            Ok(events.iter().map(|event| self.stage.told(event.bits(), event.data())).collect())
        };
        self.stage.call("epoll_wait", text, work, |told: &Vec<Told>| Answer::Events(told.clone())).1
    }

    /// The wrapper turns EINTR into an empty batch and has no negative timeout; this is the bare call, by number.
    pub(crate) fn bare_wait(&self, timeout_ms: i32) -> Seen {
        bare_wait(&self.stage, &self.name, self.number(), timeout_ms)
    }

    /// A thread that waits once on this epoll, already asleep in its wait.
    pub(crate) fn waiter(&self, name: &str, timeout_ms: i32) -> Outcome<Thread<Seen>> {
        let (ep, timeout_ms) = (self.clone(), self.stage.patient(timeout_ms));
        let thread = self.stage.thread(name, move || ep.wait_for(1, timeout_ms))?;
        thread.asleep()?;
        Ok(thread)
    }

    /// As [`waiter`](Self::waiter), which knows only the number: this epoll can be closed meanwhile.
    pub(crate) fn waiter_by_number(&self, name: &str, timeout_ms: i32) -> Outcome<Thread<Seen>> {
        let (stage, label, number) = (self.stage.clone(), self.name.clone(), self.number());
        let timeout_ms = stage.patient(timeout_ms);
        let thread = self.stage.thread(name, move || bare_wait(&stage, &label, number, timeout_ms))?;
        thread.asleep()?;
        Ok(thread)
    }

    // ---- itself ---------------------------------------------------------------------------------------------------

    pub(crate) fn number(&self) -> RawFd {
        self.epoll.as_fd().as_raw_fd()
    }

    /// The lines of /proc/self/fdinfo that tell of registrations.
    pub(crate) fn fdinfo(&self) -> Outcome<Vec<String>> {
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.number()))?;
        let lines: Vec<String> = text.lines().filter(|line| line.starts_with("tfd:")).map(str::to_owned).collect();
        let count = lines.len();
        self.stage
            .call("fdinfo", format!("fdinfo({})", self.name), || Ok(()), |()| format!("{count} lines").into())
            .1
            .ok()?;
        Ok(lines)
    }

    /// Closes it, for which it must not be shared.
    pub(crate) fn close(self) -> Outcome {
        let text = format!("close({})", self.name);
        let Some(epoll) = Arc::into_inner(self.epoll) else {
            return Err(Stop::Untested("the epoll is still in use by a thread".to_owned()));
        };
        self.stage.call("close", text, closing(epoll), |()| Answer::Done).1.ok()?;
        Ok(())
    }
}

/// `epoll_ctl` by numbers, right or wrong.
pub(crate) fn ctl_by_number(
    stage: &Stage,
    epfd: RawFd,
    operation: i32,
    number: RawFd,
    event: Option<(Mask, u64)>,
) -> Seen {
    let verb = match operation {
        libc::EPOLL_CTL_ADD => "ADD".to_owned(),
        libc::EPOLL_CTL_MOD => "MOD".to_owned(),
        libc::EPOLL_CTL_DEL => "DEL".to_owned(),
        other => other.to_string(),
    };
    let mask = event.map_or("NULL".to_owned(), |(mask, _)| mask.to_string());
    let text = format!("epoll_ctl(fd {epfd}, {verb}, fd {number}, {mask})");
    let event = event.map(|(mask, data)| (stage.spoil(mask).0, data));
    let work = || raw::epoll_ctl(epfd, operation, number, event).map_err(Errno::from_raw);
    stage.call("epoll_ctl", text, work, |()| Answer::Done).1
}

pub(crate) fn bare_wait(stage: &Stage, name: &str, number: RawFd, timeout_ms: i32) -> Seen {
    let text = format!("epoll_wait({name}, {timeout_ms} ms)");
    let work = || {
        let events = raw::epoll_wait(number, BATCH, timeout_ms).map_err(Errno::from_raw)?;
        Ok(events.into_iter().map(|(bits, data)| stage.told(bits, data)).collect())
    };
    stage.call("epoll_wait", text, work, |told: &Vec<Told>| Answer::Events(told.clone())).1
}

/// What can be registered: it has a descriptor and a name.
pub(crate) trait Named {
    fn fd(&self) -> BorrowedFd<'_>;
    fn label(&self) -> &str;
}

impl Named for File {
    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
    fn label(&self) -> &str {
        &self.name
    }
}

impl Named for Ep {
    fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
    fn label(&self) -> &str {
        &self.name
    }
}

fn errno(error: Error) -> Errno {
    Errno::from_raw(error.errno())
}

/// Bits as the wrapper's types say them; `None` for bits that these cannot say.
fn typed(mask: Mask) -> Option<(Interest, Mode)> {
    let mut rest = mask;
    let mut interest = Interest::NONE;
    for (bit, typed) in [
        (masks::IN, Interest::READ),
        (masks::OUT, Interest::WRITE),
        (masks::RDHUP, Interest::READ_CLOSED),
        (masks::PRI, Interest::PRIORITY),
    ] {
        if rest.has(bit) {
            interest |= typed;
            rest = rest.without(bit);
        }
    }
    let mut mode = if rest.has(masks::ET) { Mode::EDGE } else { Mode::LEVEL };
    rest = rest.without(masks::ET);
    for (bit, modify) in [
        (masks::ONESHOT, Mode::oneshot as fn(Mode) -> Mode),
        (masks::EXCLUSIVE, Mode::exclusive),
        (masks::WAKEUP, Mode::wakeup),
    ] {
        if rest.has(bit) {
            mode = modify(mode);
            rest = rest.without(bit);
        }
    }
    (rest == masks::NONE).then_some((interest, mode))
}
