//! Who may use a socket, and what is to be done with it: the protocol between threads, without a system call.
//!
//! Threads meet at one [`Seat`] for each socket, under a lock that is held for one of the steps below and never longer.
//! Whoever takes the socket out of the seat drives it: it alone makes system calls on it, without the lock, and puts
//! it back when nothing is left to try. Who finds the seat empty leaves a note (an operation, an event, a request to
//! close) and goes; the driver reads it before it puts the socket back, under the same lock. So there are never two
//! system calls on one socket at a time, and no note is overlooked.

/// Which of its two operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Direction {
    /// Receive, accept.
    In,
    /// Send, connect, shut down.
    Out,
}

pub(super) const DIRECTIONS: [Direction; 2] = [Direction::In, Direction::Out];

/// Why an operation was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// This direction has one already, or its completion has not been handed out.
    Busy,
    /// The socket is closed.
    Closed,
}

/// What `cancel` has found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cancel<T> {
    /// It waited; whoever asked completes it.
    Now(T),
    /// A system call is being made for it; it completes with what comes of that.
    Later,
    /// There is no such operation any more.
    Unknown,
}

/// What the driver is to do next.
#[derive(Debug)]
pub(super) enum Step<S, T> {
    /// Make the system call of this operation, then [`Seat::settle`]. With `true` if events have promised more than
    /// data, so that a short read proves nothing.
    Try(S, T, bool),
    /// Close the socket, then complete these as cancelled.
    Close(S, [Option<T>; 2]),
    /// Nothing: the socket is in the seat, or with another driver.
    Rest,
    /// Somebody is to [`enter`](Seat::enter) again: the socket is in the seat, and there is more to do.
    Again,
}

/// What has come of a system call.
#[derive(Debug)]
pub(super) enum Verdict<T> {
    /// The operation is over. `ready`: the next one of this direction need not wait for an event.
    Over { ready: bool },
    /// The kernel has nothing for it now: EAGAIN. An event will come.
    Blocked(T),
    /// A part is done, and the next call will do more.
    Partly(T),
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
enum Phase<T> {
    /// No operation.
    Free,
    /// For an event, or for the driver.
    Waiting(T),
    /// With the driver. `cancelled`: not to be tried again.
    Running { cancelled: bool },
    /// Its completion is made, and not yet handed out.
    Complete,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
struct Side<T> {
    phase: Phase<T>,
    /// Of the newest operation. Numbers are not used twice: 2⁶⁴ operations take longer than machines last.
    sequence: u64,
    /// A system call may succeed. Set by events and by calls that succeeded; taken back before each call, so that an
    /// event that comes while EAGAIN is on its way is not lost.
    ready: bool,
}

#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
enum Place<S> {
    Here(S),
    /// With the driver.
    Away,
    Closed,
}

/// See the head of this file.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone, PartialEq, Eq, Hash))]
pub(super) struct Seat<S, T> {
    place: Place<S>,
    closing: bool,
    /// On its way to be driven again by whoever comes next, because its budget was spent.
    queued: bool,
    sides: [Side<T>; 2],
    /// An event said ERR, RDHUP or PRI.
    insists: bool,
    /// Which direction is looked at first; they take turns.
    first: Direction,
    /// Of the queue: where the newest completion was left.
    lane: usize,
}

impl<S, T> Seat<S, T> {
    /// A seat whose socket is with the caller, who drives it.
    pub(super) fn new() -> Self {
        let side = |ready| Side { phase: Phase::Free, sequence: 0, ready };
        // A new socket has room for output nearly always; about input its first event tells.
        Self {
            place: Place::Away,
            closing: false,
            queued: false,
            insists: false,
            sides: [side(false), side(true)],
            first: Direction::In,
            lane: 0,
        }
    }

    fn side(&mut self, direction: Direction) -> &mut Side<T> {
        &mut self.sides[direction as usize]
    }

    /// Of the newest operation of this direction.
    pub(super) fn sequence(&self, direction: Direction) -> u64 {
        self.sides[direction as usize].sequence
    }

    /// Leaves an operation. `at_once`: its first system call needs no readiness.
    pub(super) fn submit(&mut self, direction: Direction, task: T, at_once: bool) -> Result<u64, (Taken, T)> {
        if self.closing {
            return Err((Taken::Closed, task));
        }
        let side = self.side(direction);
        if !matches!(side.phase, Phase::Free) {
            return Err((Taken::Busy, task));
        }
        side.phase = Phase::Waiting(task);
        side.sequence += 1;
        side.ready |= at_once;
        Ok(side.sequence)
    }

    /// Notes what an event said.
    pub(super) fn ready(&mut self, input: bool, output: bool, insists: bool) {
        self.insists |= insists;
        self.side(Direction::In).ready |= input;
        self.side(Direction::Out).ready |= output;
    }

    /// Asks for the end of one operation.
    pub(super) fn cancel(&mut self, direction: Direction, sequence: u64) -> Cancel<T> {
        let side = self.side(direction);
        if side.sequence != sequence {
            return Cancel::Unknown;
        }
        match std::mem::replace(&mut side.phase, Phase::Complete) {
            Phase::Waiting(task) => Cancel::Now(task),
            Phase::Running { .. } => {
                side.phase = Phase::Running { cancelled: true };
                Cancel::Later
            }
            other => {
                side.phase = other;
                Cancel::Unknown
            }
        }
    }

    /// Asks for the end of all; whoever drives next closes the socket. `false`: somebody has asked already.
    pub(super) fn close(&mut self) -> bool {
        !std::mem::replace(&mut self.closing, true)
    }

    /// The completion of this direction's operation goes to the user: there may be another.
    pub(super) fn handed_out(&mut self, direction: Direction) {
        let side = self.side(direction);
        debug_assert!(matches!(side.phase, Phase::Complete));
        side.phase = Phase::Free;
    }

    /// Whether the other direction's completion is made, and not yet handed out: then that of this one comes after it.
    pub(super) fn is_behind(&self, direction: Direction) -> bool {
        matches!(self.sides[1 - direction as usize].phase, Phase::Complete)
    }

    /// Where the completion of this direction is to be left, before the lock ends: behind the other one's, if that is
    /// not handed out yet; else in `own`.
    pub(super) fn lane(&mut self, direction: Direction, own: usize) -> usize {
        if !self.is_behind(direction) {
            self.lane = own;
        }
        self.lane
    }

    /// Takes the socket, if it is here and there is something to do with it: that.
    pub(super) fn enter(&mut self) -> Step<S, T> {
        self.queued = false;
        if !matches!(self.place, Place::Here(_)) || !self.has_work() {
            return Step::Rest;
        }
        match std::mem::replace(&mut self.place, Place::Away) {
            Place::Here(socket) => self.step(socket),
            elsewhere => {
                self.place = elsewhere;
                Step::Rest
            }
        }
    }

    fn has_work(&self) -> bool {
        self.closing || DIRECTIONS.iter().any(|&direction| self.can_try(direction))
    }

    fn can_try(&self, direction: Direction) -> bool {
        let side = &self.sides[direction as usize];
        side.ready && matches!(side.phase, Phase::Waiting(_))
    }

    /// What the driver does next. When it is nothing, the driver is none any more.
    pub(super) fn step(&mut self, socket: S) -> Step<S, T> {
        if self.closing {
            self.place = Place::Closed;
            return Step::Close(socket, DIRECTIONS.map(|direction| self.take_waiting(direction)));
        }
        let order = match self.first {
            Direction::In => DIRECTIONS,
            Direction::Out => [Direction::Out, Direction::In],
        };
        for (at, &direction) in order.iter().enumerate() {
            if self.can_try(direction)
                && let Some(task) = self.take_waiting(direction)
            {
                let side = self.side(direction);
                side.phase = Phase::Running { cancelled: false };
                side.ready = false;
                self.first = order[1 - at];
                return Step::Try(socket, task, self.insists);
            }
        }
        self.place = Place::Here(socket);
        Step::Rest
    }

    /// Makes what waits complete.
    fn take_waiting(&mut self, direction: Direction) -> Option<T> {
        let side = self.side(direction);
        match std::mem::replace(&mut side.phase, Phase::Complete) {
            Phase::Waiting(task) => Some(task),
            other => {
                side.phase = other;
                None
            }
        }
    }

    /// The driver reports. What comes back was cancelled meanwhile and is to be completed as such.
    pub(super) fn settle(&mut self, direction: Direction, verdict: Verdict<T>) -> Option<T> {
        let side = self.side(direction);
        let cancelled = matches!(side.phase, Phase::Running { cancelled: true });
        let (task, ready) = match verdict {
            Verdict::Over { ready } => (None, ready),
            Verdict::Blocked(task) => (Some(task), false),
            Verdict::Partly(task) => (Some(task), true),
        };
        side.ready |= ready;
        match task {
            Some(task) if !cancelled => {
                side.phase = Phase::Waiting(task);
                None
            }
            task => {
                side.phase = Phase::Complete;
                task
            }
        }
    }

    /// The driver has done enough for one turn and puts the socket back.
    pub(super) fn pause(&mut self, socket: S) -> Step<S, T> {
        self.place = Place::Here(socket);
        match self.has_work() && !std::mem::replace(&mut self.queued, true) {
            true => Step::Again,
            false => Step::Rest,
        }
    }
}

#[cfg(test)]
mod tests {
    //! Every order of steps that threads can take around one socket, tried one by one.
    //!
    //! Threads share nothing but the seat, and each step is under its lock; so what threads can do is exactly the
    //! orders of steps. The kernel is three flags for each direction: there is something, an edge of it is not yet
    //! fetched, a thread has fetched it and not yet noted it.

    use std::collections::HashSet;

    use super::*;

    /// Each thread is counted where it stands between two steps.
    #[derive(Clone, PartialEq, Eq, Hash)]
    struct World {
        seat: Seat<(), u64>,
        /// Have left a note, and are about to look whether the socket is there.
        arriving: u8,
        driver: Driver,
        kernel: [Kernel; 2],
        submitted: [u8; 2],
        /// Completions made, and those of them that were handed out.
        completed: [u8; 2],
        handed_out: [u8; 2],
        cancels: u8,
        closed: bool,
        /// Of the operation that is with the driver: an event was noted, it was cancelled.
        noted: bool,
        cancelled: bool,
    }

    #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
    struct Kernel {
        something: bool,
        edge: bool,
        fetched: u8,
        arrivals: u8,
    }

    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    enum Driver {
        Nobody,
        Driving,
        BeforeCall(usize),
        AfterCall(usize, Result),
    }

    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    enum Result {
        Over { ready: bool },
        Blocked,
        Partly,
    }

    /// Of operations and of arrivals, for each direction: so that each meets its predecessor in one direction, and
    /// something of the other beside it.
    const MOST: [u8; 2] = [2, 1];
    const CANCELS_MOST: u8 = 1;

    impl World {
        fn new() -> Self {
            let mut seat = Seat::new();
            assert!(matches!(seat.step(()), Step::Rest));
            Self {
                seat,
                arriving: 0,
                driver: Driver::Nobody,
                // The registration has told of nothing yet.
                kernel: [Kernel::default(); 2],
                submitted: [0; 2],
                completed: [0; 2],
                handed_out: [0; 2],
                cancels: 0,
                closed: false,
                noted: false,
                cancelled: false,
            }
        }

        fn next(&self) -> Vec<Self> {
            let mut worlds = Vec::new();
            let mut also = |change: &mut dyn FnMut(&mut Self)| {
                let mut world = self.clone();
                change(&mut world);
                worlds.push(world);
            };
            for (at, &direction) in DIRECTIONS.iter().enumerate() {
                if self.submitted[at] < MOST[at] {
                    also(&mut |world| world.submit(at));
                }
                if self.kernel[at].arrivals < MOST[at] {
                    also(&mut |world| {
                        let kernel = &mut world.kernel[at];
                        (kernel.something, kernel.edge) = (true, true);
                        kernel.arrivals += 1;
                    });
                }
                if self.kernel[at].edge && !self.closed {
                    also(&mut |world| {
                        world.kernel[at].edge = false;
                        world.kernel[at].fetched += 1;
                    });
                }
                if self.kernel[at].fetched > 0 {
                    also(&mut |world| {
                        world.kernel[at].fetched -= 1;
                        world.seat.ready(at == 0, at == 1, false);
                        world.noted |=
                            matches!(world.driver, Driver::BeforeCall(busy) | Driver::AfterCall(busy, _) if busy == at);
                        world.arriving += 1;
                    });
                }
                if self.completed[at] > self.handed_out[at] {
                    also(&mut |world| {
                        world.seat.handed_out(direction);
                        world.handed_out[at] += 1;
                    });
                }
                if self.cancels < CANCELS_MOST && self.submitted[at] > 0 {
                    also(&mut |world| world.cancel(at));
                }
            }
            if !self.closed {
                also(&mut |world| {
                    world.closed = true;
                    assert!(world.seat.close());
                    world.arriving += 1;
                });
            }
            if self.arriving > 0 {
                also(&mut |world| {
                    world.arriving -= 1;
                    let step = world.seat.enter();
                    if !matches!(step, Step::Rest) {
                        assert!(world.driver == Driver::Nobody, "two threads have the socket");
                        world.go_on(step);
                    }
                });
            }
            match self.driver {
                Driver::Nobody => {}
                Driver::Driving => {
                    also(&mut |world| {
                        let step = world.seat.step(());
                        world.go_on(step);
                    });
                    also(&mut |world| {
                        let step = world.seat.pause(());
                        world.go_on(step);
                    });
                }
                Driver::BeforeCall(at) => {
                    let results: &[Result] = match self.kernel[at].something {
                        true => &[Result::Over { ready: true }, Result::Over { ready: false }, Result::Partly],
                        false => &[Result::Blocked],
                    };
                    for &result in results {
                        also(&mut |world| {
                            // Partly: there is more, so that the next call does better.
                            world.kernel[at].something = result == Result::Partly;
                            world.driver = Driver::AfterCall(at, result);
                        });
                    }
                }
                Driver::AfterCall(at, result) => also(&mut |world| world.settle(at, result)),
            }
            worlds
        }

        fn submit(&mut self, at: usize) {
            let sequence = u64::from(self.submitted[at]) + 1;
            match self.seat.submit(DIRECTIONS[at], sequence, false) {
                Ok(given) => {
                    assert_eq!(given, sequence);
                    assert!(!self.closed, "a closed socket takes nothing");
                    assert_eq!(self.submitted[at], self.handed_out[at], "one at a time");
                    self.submitted[at] += 1;
                    self.arriving += 1;
                }
                Err((Taken::Closed, _)) => assert!(self.closed),
                Err((Taken::Busy, _)) => assert!(self.submitted[at] > self.handed_out[at]),
            }
        }

        fn cancel(&mut self, at: usize) {
            self.cancels += 1;
            let newest = u64::from(self.submitted[at]);
            assert_eq!(self.seat.cancel(DIRECTIONS[at], newest + 1), Cancel::Unknown);
            assert_eq!(self.seat.cancel(DIRECTIONS[at], newest - 1), Cancel::Unknown);
            match self.seat.cancel(DIRECTIONS[at], newest) {
                Cancel::Now(task) => {
                    assert_eq!(task, newest);
                    self.completed[at] += 1;
                }
                Cancel::Later => {
                    assert!(matches!(self.driver, Driver::BeforeCall(_) | Driver::AfterCall(..)));
                    self.cancelled = true;
                }
                Cancel::Unknown => assert_eq!(self.completed[at], self.submitted[at]),
            }
        }

        fn go_on(&mut self, step: Step<(), u64>) {
            match step {
                Step::Rest => self.driver = Driver::Nobody,
                Step::Again => {
                    self.driver = Driver::Nobody;
                    self.arriving += 1;
                }
                Step::Try((), task, _) => {
                    let at = (0..2).find(|&at| matches!(self.seat.sides[at].phase, Phase::Running { .. })).unwrap();
                    assert_eq!(task, u64::from(self.submitted[at]));
                    self.driver = Driver::BeforeCall(at);
                    (self.noted, self.cancelled) = (false, false);
                }
                Step::Close((), cancelled) => {
                    for (at, task) in cancelled.into_iter().enumerate() {
                        self.completed[at] += u8::from(task.is_some());
                    }
                    self.driver = Driver::Nobody;
                }
            }
        }

        fn settle(&mut self, at: usize, result: Result) {
            let task = u64::from(self.submitted[at]);
            let (verdict, over) = match result {
                Result::Over { ready } => (Verdict::Over { ready }, true),
                Result::Blocked => (Verdict::Blocked(task), false),
                Result::Partly => (Verdict::Partly(task), false),
            };
            let cancelled = self.seat.settle(DIRECTIONS[at], verdict).is_some();
            assert_eq!(cancelled, self.cancelled && !over, "what was cancelled is not tried again, nor a result lost");
            let spins = result == Result::Blocked && !self.noted && self.seat.can_try(DIRECTIONS[at]);
            assert!(!spins, "after EAGAIN it is tried again without an event");
            (self.noted, self.cancelled) = (false, false);
            self.completed[at] += u8::from(over || cancelled);
            self.driver = Driver::Driving;
        }

        fn check(&self) {
            for at in 0..2 {
                assert!(self.handed_out[at] <= self.completed[at] && self.completed[at] <= self.submitted[at]);
                assert!(self.submitted[at] <= self.handed_out[at] + 1);
                let in_motion = self.kernel[at].edge || self.kernel[at].fetched > 0;
                if self.driver != Driver::Nobody || self.arriving > 0 || in_motion && !self.closed {
                    continue;
                }
                // Everybody sleeps, and will until something new happens.
                if self.closed {
                    assert!(matches!(self.seat.place, Place::Closed), "the descriptor stays open");
                    assert_eq!(
                        self.completed[at], self.submitted[at],
                        "an operation of a closed socket never completes"
                    );
                }
                let waits = self.completed[at] < self.submitted[at];
                assert!(!(waits && self.kernel[at].something), "an operation waits for what is there");
            }
        }
    }

    #[test]
    fn in_every_order_of_steps_operations_complete_once_and_none_is_forgotten() {
        let first = World::new();
        let mut seen = HashSet::from([first.clone()]);
        let mut rest = vec![first];
        while let Some(world) = rest.pop() {
            world.check();
            for next in world.next() {
                if seen.insert(next.clone()) {
                    rest.push(next);
                }
            }
        }

        assert!(seen.len() > 100_000, "{} states", seen.len());
    }
}
