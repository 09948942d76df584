//! A thread for each connection: the oldest model, and the shortest loop.
//!
//! What it does well, and what it costs:
//! - a. Nobody has to be told who is ready: the thread sleeps in `recv` until its client has sent something, and in
//!   `send` until it has taken the answer. Two system calls for a message; epoll makes three.
//! - b. A thread sleeps in one call. Where two things may come first (bytes or a timer; bytes or room for more output)
//!   it has to ask `poll` before it dares to call `recv`.
//! - c. Nothing is shared, so each thread has a stack and a receive buffer of its own: memory by the number of clients.
//! - d. Threads run out: the maps of the address space, `pid_max`, a limit of the service manager. The client for whom
//!   there is none is refused.
//! - e. Somebody has to wake the sleepers at the end. `shutdown(SHUT_RD)` does: `recv` returns the end of the stream.
//!   But after it the kernel answers a late byte with a reset, so it is for those alone who sleep in `recv`; who sleeps
//!   in `send` comes back by itself. And it is done to a descriptor from another thread: each thread takes its own out
//!   of the table ([`Hall`]) before it closes it, or the wrong connection would be shut down.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use eagain::driver::{AcceptError, Driven, Driver, Newcomer, Ready};
use eagain::limits::{ACCEPT_BUDGET, ACCEPT_PAUSE_MS, DRAIN_QUIET_MS};
use eagain::sys::epoll::Interest;
use eagain::{ConnectionId, End, Listener, Service, Trace};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{Shutdown, shutdown};

use super::poll::{answered, asked, in_millis};
use super::{Order, Orders, Refusals};
use crate::say;
use crate::serve::Failure;
use crate::serve::scribe::Scribe;
use crate::serve::services::{Any, Setting};

/// Of each thread. The buffers are on the heap, and a page is in memory only when it has been touched.
const STACK_BYTES: usize = 256 * 1024;

/// Maps of memory that a thread needs: a stack and its guard, the same for signals, a receive buffer. A thread that
/// cannot have its signal stack would take the process with it, so we stop before.
const MAPS_PER_THREAD: usize = 6;

/// How often the main thread looks whether the last client has gone, while it drains.
const LOOK: Duration = Duration::from_millis(10);
/// How long threads that were woken to end may take.
const LAST_MOMENT: Duration = Duration::from_millis(500);

/// What each thread makes its service of.
#[derive(Clone)]
pub(super) struct Makings {
    pub(super) setting: Arc<Setting>,
    pub(super) scribe: Scribe,
}

/// How far the server is; threads look between two turns.
const SERVING: u8 = 0;
const DRAINING: u8 = 1;
/// Half of the drain is over: also clients that are never silent are ended.
const FIRM: u8 = 2;

/// Between two looks of a draining server at those who are silent.
const QUIET: Duration = Duration::from_millis(DRAIN_QUIET_MS);

/// The connections, for the main thread.
#[derive(Default)]
struct Hall {
    table: Mutex<HashMap<u64, Entry>>,
    state: AtomicU8,
}

struct Entry {
    /// Open for as long as the entry is in the table.
    descriptor: RawFd,
    progress: Arc<Progress>,
    /// How many turns it had had when the draining server looked last.
    seen: Option<u64>,
}

/// What a thread lets the main thread know.
#[derive(Default)]
struct Progress {
    turns: AtomicU64,
    /// Sleeps in `recv`, or is about to.
    asleep: AtomicBool,
}

/// Hears of the end of `recv`, before anything is sent.
struct Alarm(Arc<Progress>);

impl Trace for Alarm {
    fn received(&mut self, _: ConnectionId, _: Result<usize, i32>) {
        self.0.asleep.store(false, Ordering::Relaxed);
    }
}

impl Hall {
    fn table(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those who have slept in `recv` since the last call.
    fn wake_sleepers(&self) {
        for entry in self.table().values_mut() {
            let turns = Some(entry.progress.turns.load(Ordering::Relaxed));
            let same = std::mem::replace(&mut entry.seen, turns) == turns;
            if same && entry.progress.asleep.load(Ordering::Relaxed) {
                // A client that has gone meanwhile is its thread's business.
                let _ = shutdown(entry.descriptor, Shutdown::Read);
            }
        }
    }

    /// Ends every call that any thread sleeps in, and waits for them.
    fn empty(&self) {
        for entry in self.table().values() {
            let _ = shutdown(entry.descriptor, Shutdown::Both);
        }
        let start = Instant::now();
        while !self.table().is_empty() && start.elapsed() < LAST_MOMENT {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The main thread: accepts, and starts a thread for each client.
pub(super) fn serve(
    listeners: Vec<Listener>,
    orders: Orders<'_>,
    makings: Makings,
    most: usize,
) -> Result<(), Failure> {
    let refusals = Refusals::new(makings.scribe.clone());
    let doorman = Any::new(&makings.setting, makings.scribe.clone(), None);
    let hall = Arc::new(Hall::default());
    let mut porch = Porch { listeners, makings, doorman, refusals, hall, most: bound(most), opened: 0, rest: None };
    porch.run(orders)
}

/// How many threads there can be, by the maps of memory that this kernel allows a process; `None`: it does not say.
pub(crate) fn most_threads() -> Option<usize> {
    let maps: usize = fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok()?;
    Some(maps / MAPS_PER_THREAD)
}

/// How many threads there may be, and what bounds them.
fn bound(most: usize) -> (usize, &'static str) {
    match most_threads() {
        Some(threads) if threads < most => (threads, "vm.max_map_count has no maps for more"),
        _ => (most, "--max-connections"),
    }
}

struct Porch {
    listeners: Vec<Listener>,
    makings: Makings,
    /// Says that descriptors have run out.
    doorman: Any,
    refusals: Refusals,
    hall: Arc<Hall>,
    most: (usize, &'static str),
    opened: u64,
    /// Nobody can be accepted until then.
    rest: Option<Instant>,
}

impl Porch {
    fn run(&mut self, mut orders: Orders<'_>) -> Result<(), Failure> {
        loop {
            let (asked, waiting) = self.wait(&orders)?;
            for index in waiting {
                self.accept(index)?;
            }
            if asked && let Some(order) = orders.next(false)? {
                let Order::Drain(until) = order else { break };
                self.drain(until, &mut orders)?;
                break;
            }
        }
        self.hall.empty();
        Ok(())
    }

    /// Whether a signal has come, and the listeners where somebody waits.
    fn wait(&self, orders: &Orders<'_>) -> Result<(bool, Vec<usize>), Failure> {
        let resting =
            self.rest.map(|until| until.saturating_duration_since(Instant::now())).filter(|rest| !rest.is_zero());
        let mut list = vec![PollFd::new(orders.signals.as_fd(), PollFlags::POLLIN)];
        if resting.is_none() {
            list.extend(self.listeners.iter().map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
        }
        match poll(&mut list, in_millis(resting)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(format!("poll: {errno}").into()),
        }
        let is_ready = |polled: &PollFd<'_>| answered(polled).is_some();
        let waiting = (0..list.len() - 1).filter(|&index| is_ready(&list[index + 1])).collect();
        Ok((is_ready(&list[0]), waiting))
    }

    /// Accepts until the queue is empty or the budget is spent; returns how many came.
    fn accept(&mut self, index: usize) -> Result<usize, Failure> {
        for came in 0..ACCEPT_BUDGET {
            match Newcomer::accept(&self.listeners[index]) {
                Ok(Some(newcomer)) => self.host(newcomer, index),
                Ok(None) => return Ok(came),
                Err(AcceptError::Exhausted(errno)) => {
                    self.doorman.exhausted(index, errno);
                    self.rest = Some(Instant::now() + Duration::from_millis(ACCEPT_PAUSE_MS));
                    return Ok(came);
                }
                Err(error) => return Err(format!("{}: {error}", self.listeners[index].address()).into()),
            }
        }
        Ok(ACCEPT_BUDGET)
    }

    /// Starts a thread for the client, or refuses it by closing the connection at once.
    fn host(&mut self, newcomer: Newcomer, listener: usize) {
        let (most, limit) = self.most;
        if self.hall.table().len() >= most {
            return self.refusals.tell(Instant::now(), format_args!("{most} threads are running already ({limit})"));
        }
        // That it cannot be set is not to be expected.
        let Ok(newcomer) = newcomer.into_blocking() else { return };
        let id = self.opened;
        self.opened += 1;
        let progress = Arc::new(Progress::default());
        let descriptor = newcomer.as_fd().as_raw_fd();
        self.hall.table().insert(id, Entry { descriptor, progress: Arc::clone(&progress), seen: None });
        let (hall, makings) = (Arc::clone(&self.hall), self.makings.clone());
        let body = move || attend(newcomer, listener, &makings, &hall, id, &progress);
        let started = thread::Builder::new().name("client".to_owned()).stack_size(STACK_BYTES).spawn(body);
        if let Err(error) = started {
            // Its socket is closed by now, and nobody else was accepted meanwhile.
            self.hall.table().remove(&id);
            self.refusals.tell(Instant::now(), format_args!("no thread can be started: {}", say::reason(&error)));
        }
    }

    /// Serves whom the kernel has accepted for us already, closes the listeners, and waits until the last thread has
    /// ended, or it is time to stop.
    fn drain(&mut self, until: Instant, orders: &mut Orders<'_>) -> Result<(), Failure> {
        let start = Instant::now();
        let firm = start + until.saturating_duration_since(start) / 2;
        self.hall.state.store(DRAINING, Ordering::Relaxed);
        for index in 0..self.listeners.len() {
            while self.accept(index)? > 0 {}
        }
        self.listeners.clear();
        let mut next_sweep = start;
        loop {
            let now = Instant::now();
            if self.hall.table().is_empty() || now >= until || orders.next(true)?.is_some() {
                return Ok(());
            }
            if now >= next_sweep {
                if now >= firm {
                    self.hall.state.store(FIRM, Ordering::Relaxed);
                }
                self.hall.wake_sleepers();
                next_sweep = now + QUIET;
            }
            let mut list = [PollFd::new(orders.signals.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut list, in_millis(Some(LOOK)));
        }
    }
}

/// The thread of one client.
fn attend(newcomer: Newcomer, listener: usize, makings: &Makings, hall: &Hall, id: u64, progress: &Arc<Progress>) {
    let service = Any::new(&makings.setting, makings.scribe.clone(), None);
    let mut driver = Driver::traced(service, Alarm(Arc::clone(progress)), Instant::now()).numbered_from(id);
    let mut guest = driver.open(newcomer, listener);
    let Err(end) = converse(&mut driver, &mut guest, hall, progress);
    hall.table().remove(&id);
    driver.close(guest, end);
}

/// The loop.
fn converse(
    driver: &mut Driver<Any, Alarm>,
    guest: &mut Driven<Any>,
    hall: &Hall,
    progress: &Progress,
) -> Result<Infallible, End> {
    // A service may speak first.
    driver.turn_that_blocks(guest, Ready::default())?;
    loop {
        let deadline = driver.deadline(guest);
        let serving = hall.state.load(Ordering::Relaxed) == SERVING;
        let ready = if serving && deadline.is_none() && guest.interest() == Interest::READ {
            progress.asleep.store(true, Ordering::Relaxed);
            Ready { readable: true, writable: true, ..Ready::default() }
        } else {
            wait(guest, deadline, serving)
        };
        let now = Instant::now();
        driver.begin(now);
        if deadline.is_some_and(|deadline| deadline <= now) {
            driver.expire(guest)?;
        }
        driver.turn_that_blocks(guest, ready)?;
        progress.turns.fetch_add(1, Ordering::Relaxed);
        let state = hall.state.load(Ordering::Relaxed);
        if state != SERVING && guest.may_end(state == FIRM) {
            driver.finish(guest)?;
        }
    }
}

/// Waits where `recv` would sleep over something: for bytes or the deadline, whichever is first; for bytes, if there
/// are any, before more output is made; for the end of the server.
fn wait(guest: &Driven<Any>, deadline: Option<Instant>, serving: bool) -> Ready {
    let interest = guest.interest();
    let mut timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    if interest.contains(Interest::WRITE) {
        timeout = Some(Duration::ZERO);
    } else if !serving {
        timeout = Some(timeout.map_or(QUIET, |timeout| timeout.min(QUIET)));
    }
    let mut list = [PollFd::new(guest.as_fd(), asked(interest.without(Interest::WRITE)))];
    // What goes wrong here, the next call on the socket will tell.
    let _ = poll(&mut list, in_millis(timeout));
    Ready { writable: true, ..answered(&list[0]).unwrap_or_default() }
}
