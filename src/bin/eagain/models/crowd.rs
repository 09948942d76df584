//! What select and poll have in common: one thread, all connections, and a turn of them.
//!
//! A model asks whom to watch ([`Crowd::watched`]) and for how long ([`Crowd::timeout`]), waits as it does, and says
//! who is ready ([`Crowd::turn`]).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use eagain::deadline::Deadlines;
use eagain::driver::{AcceptError, Driven, Driver, Newcomer, Ready};
use eagain::limits::{ACCEPT_BUDGET, ACCEPT_PAUSE_MS, DRAIN_QUIET_MS};
use eagain::slab::{Slab, Token};
use eagain::sys::epoll::Interest;
use eagain::{End, Listener, Service, somaxconn};

use super::{Order, Orders, Refusals};
use crate::serve::Failure;
use crate::serve::services::Any;

/// Whom an event is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    Signals,
    Door(usize),
    Guest(Token),
}

/// Keys of the deadlines; the slots of the connections come behind.
pub(super) const KEY_ACCEPT: u32 = 0;
pub(super) const KEY_SWEEP: u32 = 1;
pub(super) const KEY_STOP: u32 = 2;
pub(super) const KEYS: u32 = 3;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Serving,
    /// Nobody is accepted any more. From `firm` on also those are ended who never fall silent.
    Draining {
        firm: Instant,
    },
    Over,
}

pub(super) struct Crowd<'a> {
    driver: Driver<Any>,
    guests: Slab<Driven<Any>>,
    deadlines: Deadlines,
    doors: Vec<Listener>,
    /// Descriptors or memory have run out: the listeners, which stay readable, are not watched for a while.
    doors_rest: bool,
    orders: Orders<'a>,
    refusals: Refusals,
    /// Connections at a time.
    most: usize,
    /// Descriptors up to this one can be watched.
    highest: Option<RawFd>,
    now: Instant,
    state: State,
}

impl<'a> Crowd<'a> {
    pub(super) fn new(
        service: Any,
        doors: Vec<Listener>,
        orders: Orders<'a>,
        refusals: Refusals,
        most: usize,
        highest: Option<RawFd>,
    ) -> Self {
        let now = Instant::now();
        Self {
            driver: Driver::new(service, now).in_real_time(),
            guests: Slab::new(),
            deadlines: Deadlines::new(now),
            doors,
            doors_rest: false,
            orders,
            refusals,
            most,
            highest,
            now,
            state: State::Serving,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Everybody, and what to watch for; for READ alone where it is no connection.
    pub(super) fn watched(&self) -> impl Iterator<Item = (Source, BorrowedFd<'_>, Interest)> {
        let signals = std::iter::once((Source::Signals, self.orders.signals.as_fd(), Interest::READ));
        let doors = self.doors.iter().filter(|_| !self.doors_rest).enumerate();
        let doors = doors.map(|(index, door)| (Source::Door(index), door.as_fd(), Interest::READ));
        let guests = self.guests.tokens().filter_map(|token| {
            let guest = self.guests.get(token)?;
            Some((Source::Guest(token), guest.as_fd(), guest.interest()))
        });
        signals.chain(doors).chain(guests)
    }

    /// How long to wait at the most.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.deadlines.next(Instant::now())
    }

    /// Serves those who are ready, then sees what is due.
    pub(super) fn turn(&mut self, ready: &mut Vec<(Source, Ready)>) -> Result<(), Failure> {
        self.now = Instant::now();
        self.driver.begin(self.now);
        for (source, ready) in ready.drain(..) {
            match source {
                Source::Signals => self.obey()?,
                Source::Door(index) => drop(self.accept(index)?),
                Source::Guest(token) => self.with(token, |driver, guest| driver.turn(guest, ready)),
            }
        }
        self.expire();
        Ok(())
    }

    fn expire(&mut self) {
        let mut due = Vec::new();
        self.deadlines.expire(self.now, &mut due);
        for key in due {
            match key {
                KEY_ACCEPT => self.doors_rest = false,
                KEY_SWEEP => self.sweep(),
                KEY_STOP => self.stop(),
                slot => {
                    if let Some(token) = self.guests.token_at(slot - KEYS) {
                        self.with(token, Driver::expire);
                    }
                }
            }
        }
    }

    /// Lets `act` work on a connection; then sees to its deadline, or its end.
    fn with(&mut self, token: Token, act: impl FnOnce(&mut Driver<Any>, &mut Driven<Any>) -> Result<(), End>) {
        let Some(guest) = self.guests.get_mut(token) else { return };
        match act(&mut self.driver, guest) {
            Ok(()) => match self.driver.deadline(guest) {
                Some(at) => self.deadlines.set(token.slot() + KEYS, at),
                None => self.deadlines.clear(token.slot() + KEYS),
            },
            Err(end) => self.close(token, end),
        }
    }

    fn close(&mut self, token: Token, end: End) {
        let Some(guest) = self.guests.remove(token) else { return };
        self.deadlines.clear(token.slot() + KEYS);
        self.driver.close(guest, end);
        // A descriptor is free: whoever could not be accepted can be now.
        if self.doors_rest {
            self.deadlines.set(KEY_ACCEPT, self.now);
        }
    }

    /// Accepts until the queue is empty or the budget is spent; returns how many came.
    fn accept(&mut self, index: usize) -> Result<usize, Failure> {
        for came in 0..ACCEPT_BUDGET {
            // A signal in the same turn has closed them.
            let Some(door) = self.doors.get(index) else { return Ok(came) };
            match Newcomer::accept(door) {
                Ok(Some(newcomer)) => self.admit(newcomer, index),
                Ok(None) => return Ok(came),
                Err(AcceptError::Exhausted(errno)) => {
                    self.driver.service().exhausted(index, errno);
                    self.doors_rest = true;
                    self.deadlines.set(KEY_ACCEPT, self.now + Duration::from_millis(ACCEPT_PAUSE_MS));
                    return Ok(came);
                }
                Err(error) => return Err(format!("{}: {error}", door.address()).into()),
            }
        }
        Ok(ACCEPT_BUDGET)
    }

    /// Opens a connection, or refuses it by closing it at once.
    fn admit(&mut self, newcomer: Newcomer, listener: usize) {
        let number = newcomer.as_fd().as_raw_fd();
        if let Some(highest) = self.highest.filter(|&highest| number > highest) {
            let why = format_args!(
                "descriptor {number} is above {highest}, the last one that select can watch (FD_SETSIZE); \
                 --model poll and epoll have no such limit"
            );
            return self.refusals.tell(self.now, why);
        }
        if self.guests.len() >= self.most {
            let why = format_args!("{} are connected already (--max-connections)", self.most);
            return self.refusals.tell(self.now, why);
        }
        let guest = self.driver.open(newcomer, listener);
        match self.guests.insert(guest) {
            Ok(token) => self.with(token, |driver, guest| driver.turn(guest, Ready::default())),
            Err(guest) => self.driver.close(guest, End::Stopped),
        }
    }

    fn obey(&mut self) -> Result<(), Failure> {
        while let Some(order) = self.orders.next(self.state != State::Serving)? {
            match order {
                Order::Drain(until) => self.drain(until)?,
                Order::Stop => self.stop(),
            }
        }
        Ok(())
    }

    /// Serves whom the kernel has accepted for us already, and closes the listeners.
    fn drain(&mut self, until: Instant) -> Result<(), Failure> {
        self.state = State::Draining { firm: self.now + until.saturating_duration_since(self.now) / 2 };
        for index in 0..self.doors.len() {
            for _ in 0..=somaxconn() as usize / ACCEPT_BUDGET {
                if self.accept(index)? == 0 {
                    break;
                }
            }
        }
        self.doors.clear();
        self.deadlines.set(KEY_STOP, until);
        self.sweep();
        Ok(())
    }

    /// Ends the connections that have been silent since the last sweep, with nothing due to them.
    fn sweep(&mut self) {
        let State::Draining { firm } = self.state else { return };
        let firm = self.now >= firm;
        let everyone: Vec<Token> = self.guests.tokens().collect();
        for token in everyone {
            if self.guests.get_mut(token).is_some_and(|guest| guest.may_end(firm)) {
                self.with(token, Driver::finish);
            }
        }
        if self.guests.is_empty() {
            self.state = State::Over;
        } else {
            self.deadlines.set(KEY_SWEEP, self.now + Duration::from_millis(DRAIN_QUIET_MS));
        }
    }

    /// Ends everything now.
    fn stop(&mut self) {
        let everyone: Vec<Token> = self.guests.tokens().collect();
        for token in everyone {
            self.close(token, End::Stopped);
        }
        self.state = State::Over;
    }
}
