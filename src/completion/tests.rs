//! The port as it is, in threads whose order a scheduler decides (shuttle), on a kernel that is a value.
//!
//! The files of the port are compiled a second time, as modules of this one: what they call `super::sync`,
//! `super::kernel` and `super::limits` are those below. The scheduler may change threads at each lock, each atomic and
//! each system call, and a test runs under a thousand schedules or more. A thread that sleeps for ever is found, since
//! in the end all do. `seat.rs` has no lock and comes as it is; its own test tries all orders of its steps.

#![allow(
    clippy::duplicate_mod,
    dead_code,
    unreachable_pub,
    reason = "what is for users elsewhere is in a module of tests here"
)]

mod kernel;
#[path = "operation.rs"]
mod operation;
#[path = "port.rs"]
mod port;
#[path = "queue.rs"]
mod queue;
#[path = "table.rs"]
mod table;
#[path = "timers.rs"]
mod timers;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::Barrier;
use shuttle::thread::{self, JoinHandle};
use shuttle::thread_local;
use shuttle::{Config, Runner};

use self::kernel::epoll::Timeout;
use self::kernel::net::{NonBlocking, Socket, pair};
use self::operation::{Completion, Failure, OperationId, Outcome, Reason, SocketId};
use self::port::{AssociateError, Error, Port};
use self::table::Table;
use super::seat;

/// So small that a few steps reach each of them.
mod limits {
    pub(super) use crate::limits::SLOTS_MAX;

    pub(super) const ACCEPT_BUDGET: usize = 2;
    pub(super) const COMPLETION_EVENTS_PER_WAIT: usize = 3;
    pub(super) const COMPLETION_LANES: usize = 2;
    pub(super) const COMPLETION_POSTS_MAX: usize = 3;
    pub(super) const COMPLETION_SHARDS: usize = 2;
    pub(super) const COMPLETION_TIMERS_MAX: usize = 3;
    pub(super) const COMPLETIONS_BETWEEN_LOOKS: usize = 3;
    pub(super) const COMPLETIONS_BETWEEN_POLLS: u32 = 3;
    pub(super) const TURN_BUDGET_BYTES: usize = 2;
}

/// The scheduler's locks, counted, so that the kernel knows who holds one.
mod sync {
    use std::cell::Cell;
    use std::ops::{Deref, DerefMut};
    pub(super) use std::sync::{Arc, PoisonError};

    pub(super) use shuttle::sync::atomic;

    shuttle::thread_local! {
        static HELD: Cell<usize> = Cell::new(0);
    }

    /// Locks that this thread holds.
    pub(super) fn held() -> usize {
        HELD.with(Cell::get)
    }

    #[derive(Debug)]
    pub(super) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(super) const fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(super) fn lock(&self) -> Result<MutexGuard<'_, T>, PoisonError<MutexGuard<'_, T>>> {
            let guard =
                self.0.lock().map(MutexGuard).map_err(|poison| PoisonError::new(MutexGuard(poison.into_inner())));
            HELD.with(|held| held.set(held.get() + 1));
            guard
        }
    }

    pub(super) struct MutexGuard<'a, T>(shuttle::sync::MutexGuard<'a, T>);

    impl<T> Drop for MutexGuard<'_, T> {
        fn drop(&mut self) {
            HELD.with(|held| held.set(held.get() - 1));
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.0
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.0
        }
    }
}

/// The same numbers under each schedule: the tests run in one thread each, and so do the threads of a schedule.
fn next_thread_number() -> usize {
    NEXT_THREAD.with(|next| next.fetch_add(1, SeqCst))
}

std::thread_local! {
    static NEXT_THREAD: AtomicUsize = const { AtomicUsize::new(0) };
}

/// Runs `test` under many schedules: some at random, some that change threads seldom, which finds what needs one thread
/// to be held up for long ("A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", ASPLOS 2010). Each
/// of the two ends after three seconds.
fn explore(schedules: usize, test: fn()) {
    let test = move || {
        NEXT_THREAD.with(|next| next.store(0, SeqCst));
        test();
    };
    let config = || {
        let mut config = Config::new();
        config.stack_size = 1 << 17;
        config.max_time = Some(Duration::from_secs(3));
        config
    };
    Runner::new(RandomScheduler::new(schedules / 2), config()).run(test);
    Runner::new(PctScheduler::new(3, schedules / 2), config()).run(test);
}

/// Takes completions until the port has ended.
fn take_all(port: &Arc<Port>, mut each: impl FnMut(Completion) + Send + 'static) -> JoinHandle<()> {
    let port = Arc::clone(port);
    thread::spawn(move || {
        loop {
            match port.next(Timeout::Never) {
                Ok(Some(completion)) => {
                    each(completion);
                }
                Ok(None) => panic!("nothing, and no timeout"),
                Err(Error::Ended) => return,
                Err(error) => panic!("{error}"),
            }
        }
    })
}

fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn associate(port: &Port, socket: Socket) -> SocketId {
    let mut socket = NonBlocking::trust(socket);
    loop {
        match port.associate(socket, 0) {
            Ok(id) => return id,
            // This kernel says ENOSPC at times.
            Err(refused) => {
                assert!(matches!(refused.reason, AssociateError::Epoll(_)));
                socket = refused.socket;
            }
        }
    }
}

fn post(port: &Port, posts: u64) {
    for key in 0..posts {
        port.post(key).unwrap();
    }
}

fn add(counter: &AtomicUsize) {
    counter.fetch_add(1, SeqCst);
}

fn room() -> Vec<u8> {
    Vec::with_capacity(2)
}

/// Each operation that was accepted, less each that completed.
#[derive(Debug, Default)]
struct Ledger(std::sync::Mutex<(BTreeSet<OperationId>, BTreeSet<OperationId>)>);

impl Ledger {
    fn accepted(&self, operation: OperationId) {
        let (accepted, _) = &mut *self.0.lock().unwrap();
        assert!(accepted.insert(operation), "{operation:?} has been before");
    }

    /// It may come before the thread that has asked writes it down.
    fn completed(&self, completion: &Completion) {
        let (_, completed) = &mut *self.0.lock().unwrap();
        assert!(completed.insert(completion.operation), "{completion:?} completes twice");
    }

    fn check(&self, port: &Port) {
        let (accepted, completed) = &*self.0.lock().unwrap();
        assert_eq!(accepted, completed);
        assert_eq!(port.outstanding(), 0);
    }
}

fn buffer_of(completion: &Completion) -> Option<&Vec<u8>> {
    match &completion.outcome {
        Outcome::Received { buffer, .. } | Outcome::Sent { buffer, .. } => Some(buffer),
        _ => None,
    }
}

/// One that asks for anything, in any order.
fn stir(port: &Port, sockets: &[SocketId], ledger: &Ledger, buffers: &AtomicUsize) {
    let mut newest = None;
    for _ in 0..4 {
        let socket = sockets[thread_rng().gen_range(0..sockets.len())];
        let submitted = match thread_rng().gen_range(0..8) {
            0 | 1 => port.recv(socket, room()).inspect(|_| add(buffers)).ok(),
            2 | 3 => port.send(socket, vec![7; 5]).inspect(|_| add(buffers)).ok(),
            4 => port.shutdown(socket).ok(),
            5 => port.timer(kernel::now() + Duration::from_millis(thread_rng().gen_range(0..3)), 0).ok(),
            6 => newest.filter(|&operation| port.cancel(operation)).and(None),
            _ => {
                port.close(socket);
                None
            }
        };
        newest = submitted.or(newest);
        submitted.inspect(|&operation| ledger.accepted(operation));
    }
}

#[test]
fn each_operation_completes_once_and_each_buffer_comes_back_in_any_order_of_threads() {
    explore(1_500, || {
        let port = Arc::new(Port::new().unwrap());
        let ledger = Arc::new(Ledger::default());
        let buffers = Arc::new(AtomicUsize::new(0));
        let ((one, first), (two, second)) = (pair(), pair());
        let sockets = [associate(&port, one), associate(&port, two)];
        let takers: Vec<_> = (0..2)
            .map(|_| {
                let (ledger, buffers) = (Arc::clone(&ledger), Arc::clone(&buffers));
                take_all(&port, move |completion| {
                    ledger.completed(&completion);
                    if let Some(buffer) = buffer_of(&completion) {
                        assert!(buffer.capacity() >= 2);
                        buffers.fetch_sub(1, SeqCst);
                    }
                })
            })
            .collect();
        let stirrers: Vec<_> = (0..2)
            .map(|_| {
                let (port, ledger, buffers) = (Arc::clone(&port), Arc::clone(&ledger), Arc::clone(&buffers));
                thread::spawn(move || stir(&port, &sockets, &ledger, &buffers))
            })
            .collect();
        let peers = thread::spawn(move || {
            first.write(b"abc");
            second.write(b"de");
            drop(first);
        });
        join(stirrers);
        port.end();
        join(takers.into_iter().chain([peers]));
        ledger.check(&port);
        assert_eq!(buffers.load(SeqCst), 0, "a buffer is lost");
        assert_eq!(kernel::open_sockets(), 0, "a socket is left");
    });
}

#[test]
fn one_connections_bytes_stay_in_order_and_none_is_left_whoever_serves_it() {
    explore(1_000, || {
        let port = Arc::new(Port::new().unwrap());
        let (ours, theirs) = pair();
        let theirs = Arc::new(theirs);
        let socket = associate(&port, ours);
        port.recv(socket, room()).unwrap();
        let takers: Vec<_> = (0..2)
            .map(|_| {
                let echo = Arc::clone(&port);
                take_all(&port, move |completion| match completion.outcome {
                    Outcome::Received { buffer, result: Ok(1..) } => drop(echo.send(socket, buffer).unwrap()),
                    Outcome::Received { result: Ok(0), .. } => echo.end(),
                    Outcome::Sent { mut buffer, result: Ok(()), .. } => {
                        buffer.clear();
                        echo.recv(socket, buffer).unwrap();
                    }
                    other => panic!("{other:?}"),
                })
            })
            .collect();
        let reader = {
            let theirs = Arc::clone(&theirs);
            thread::spawn(move || {
                let mut all = Vec::new();
                while all.len() < 9 {
                    all.extend(theirs.read(4));
                }
                assert_eq!(all, b"abcdefghi");
                theirs.shutdown(std::net::Shutdown::Write).unwrap();
            })
        };
        theirs.write(b"abcdefghi");
        join(takers.into_iter().chain([reader]));
        assert_eq!(port.outstanding(), 0);
    });
}

/// Who calls is none of those that take, and does not come again.
#[test]
fn what_a_call_completes_wakes_a_thread() {
    explore(1_000, || {
        let port = Arc::new(Port::new().unwrap());
        let (ours, _theirs) = pair();
        let socket = associate(&port, ours);
        let taker = {
            let port = Arc::clone(&port);
            thread::spawn(move || assert!(matches!(port.next(Timeout::Never), Ok(Some(_)))))
        };
        match thread_rng().gen_range(0..4) {
            0 => assert!(port.send(socket, vec![1]).is_ok()),
            1 => assert!(port.cancel(port.recv(socket, room()).unwrap())),
            2 => assert!(port.cancel(port.timer(kernel::now() + Duration::from_secs(1), 0).unwrap())),
            _ => assert!(port.recv(socket, room()).is_ok() && port.close(socket)),
        }
        join([taker]);
    });
}

/// The answer to what is being sent may be received by another thread before `send` returns.
#[test]
fn the_completions_of_one_socket_come_in_the_order_in_which_they_were_made() {
    explore(2_000, || {
        let port = Arc::new(Port::new().unwrap());
        let (ours, theirs) = pair();
        let socket = associate(&port, ours);
        port.recv(socket, room()).unwrap();
        let taker = {
            let port = Arc::clone(&port);
            thread::spawn(move || {
                let first = port.next(Timeout::Never).unwrap().unwrap();
                assert!(matches!(first.outcome, Outcome::Sent { .. }), "{first:?}");
                let second = port.next(Timeout::Never).unwrap().unwrap();
                assert!(matches!(second.outcome, Outcome::Received { .. }), "{second:?}");
            })
        };
        let peer = thread::spawn(move || {
            while theirs.read(1).is_empty() {}
            theirs.write(b"b");
            theirs
        });
        port.send(socket, vec![1]).unwrap();
        taker.join().unwrap();
        drop(peer.join().unwrap());
    });
}

/// One leaves something and goes; the other finds its own lane never empty.
#[test]
fn what_a_thread_has_left_is_taken_by_others_that_are_busy() {
    explore(1_000, || {
        let port = Arc::new(Port::new().unwrap());
        let left = Arc::new(AtomicUsize::new(0));
        let leaver = {
            let (port, left) = (Arc::clone(&port), Arc::clone(&left));
            thread::spawn(move || {
                port.post(0).unwrap();
                add(&left);
            })
        };
        let busy = thread::spawn(move || {
            while left.load(SeqCst) == 0 {
                thread::yield_now();
            }
            let mut turns = 0;
            while turns == 0 || port.next(Timeout::Never).unwrap().unwrap().key > 0 {
                turns += 1;
                assert!(turns < 20, "what another thread has left waits for ever");
                port.post(turns).unwrap();
            }
        });
        join([leaver, busy]);
    });
}

/// Each thread keeps what it has until all have one.
#[test]
fn a_burst_wakes_as_many_threads_as_it_has_work_for() {
    explore(2_000, || {
        let port = Arc::new(Port::new().unwrap());
        let together = Arc::new(Barrier::new(4));
        let takers: Vec<_> = (0..3)
            .map(|_| {
                let (port, together) = (Arc::clone(&port), Arc::clone(&together));
                thread::spawn(move || {
                    for _ in 0..2 {
                        assert!(matches!(port.next(Timeout::Never), Ok(Some(_))));
                        together.wait();
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            post(&port, 3);
            together.wait();
        }
        join(takers);
    });
}

/// One batch has events of both, and the thread that has fetched it keeps the first completion for itself.
#[test]
fn what_one_batch_of_events_completes_is_handed_to_all_threads() {
    explore(1_500, || {
        let port = Arc::new(Port::new().unwrap());
        let together = Arc::new(Barrier::new(2));
        let ((one, first), (two, second)) = (pair(), pair());
        for socket in [one, two] {
            port.recv(associate(&port, socket), room()).unwrap();
        }
        let takers: Vec<_> = (0..2)
            .map(|_| {
                let (port, together) = (Arc::clone(&port), Arc::clone(&together));
                thread::spawn(move || {
                    assert!(matches!(port.next(Timeout::Never), Ok(Some(_))));
                    together.wait();
                })
            })
            .collect();
        first.write(b"a");
        second.write(b"b");
        join(takers);
    });
}

#[test]
fn posts_are_bounded_and_each_that_was_taken_comes_out() {
    explore(1_500, || {
        let port = Arc::new(Port::new().unwrap());
        let posted = Arc::new(AtomicUsize::new(0));
        let poster = |port: &Arc<Port>| {
            let (port, posted) = (Arc::clone(port), Arc::clone(&posted));
            thread::spawn(move || {
                for key in 0..2 {
                    match port.post(key) {
                        Ok(_) => add(&posted),
                        Err(refused) => assert_eq!(refused.reason, Reason::Full),
                    }
                }
            })
        };
        join([poster(&port), poster(&port), poster(&port)]);
        assert_eq!((posted.load(SeqCst), port.outstanding()), (3, 3));
        let late = poster(&port);
        let taken = Arc::new(AtomicUsize::new(0));
        let taker = {
            let taken = Arc::clone(&taken);
            take_all(&port, move |_| add(&taken))
        };
        join([late]);
        port.end();
        assert_eq!(port.post(0).unwrap_err().reason, Reason::Ended);
        join([taker]);
        assert_eq!(taken.load(SeqCst), posted.load(SeqCst));
    });
}

/// Timers are set and taken back while the timerfd fires, is set anew, and is late.
#[test]
fn each_timer_comes_once_not_early_and_wakes_somebody() {
    explore(2_000, || {
        let port = Arc::new(Port::new().unwrap());
        let over = Arc::new(AtomicUsize::new(0));
        let left = Arc::new(AtomicUsize::new(0));
        let clock = {
            let over = Arc::clone(&over);
            thread::spawn(move || kernel::let_time_pass(|| over.load(SeqCst) > 0))
        };
        let start = kernel::now();
        let askers: Vec<_> = (0..2_u64)
            .map(|who| {
                let (port, left) = (Arc::clone(&port), Arc::clone(&left));
                thread::spawn(move || {
                    for millis in [3 - 2 * who, 2] {
                        // More than there may be at a time: some are refused.
                        let Ok(timer) = port.timer(start + Duration::from_millis(millis), millis) else { continue };
                        left.fetch_add(1, SeqCst);
                        if thread_rng().gen_range(0..3) == 0 {
                            port.cancel(timer);
                        }
                    }
                })
            })
            .collect();
        let seen = Arc::new(Ledger::default());
        let takers: Vec<_> = (0..2)
            .map(|_| {
                let (port, seen, left) = (Arc::clone(&port), Arc::clone(&seen), Arc::clone(&left));
                take_all(&Arc::clone(&port), move |completion| {
                    seen.completed(&completion);
                    match completion.outcome {
                        Outcome::Timer(Ok(())) => {
                            assert!(kernel::now() >= start + Duration::from_millis(completion.key), "early");
                        }
                        Outcome::Timer(Err(Failure::Cancelled)) => {}
                        other => panic!("{other:?}"),
                    }
                    left.fetch_sub(1, SeqCst);
                })
            })
            .collect();
        join(askers);
        // Not by the end: the timerfd must do it.
        while left.load(SeqCst) > 0 {
            thread::yield_now();
        }
        assert_eq!(port.outstanding(), 0);
        port.end();
        over.store(1, SeqCst);
        kernel::stir();
        join(takers.into_iter().chain([clock]));
    });
}

#[test]
fn of_timers_that_threads_set_at_once_the_kernel_is_told_the_first() {
    explore(1_000, || {
        let port = Arc::new(Port::new().unwrap());
        let start = kernel::now();
        let askers = [1_000, 500, 2].map(|millis| {
            let port = Arc::clone(&port);
            thread::spawn(move || assert!(port.timer(start + Duration::from_millis(millis), millis).is_ok()))
        });
        join(askers);
        let set_to = kernel::timerfd_is_set_to().expect("three timers");
        assert!(set_to <= start + Duration::from_millis(4), "late by {:?}", set_to - start);
    });
}

#[test]
fn what_begins_while_the_port_ends_is_refused_or_completes() {
    explore(2_000, || {
        let port = Arc::new(Port::new().unwrap());
        let ledger = Arc::new(Ledger::default());
        let (ours, theirs) = pair();
        let socket = associate(&port, ours);
        let takers: Vec<_> = (0..2)
            .map(|_| {
                let ledger = Arc::clone(&ledger);
                // All posts have one name.
                take_all(&port, move |completion| match completion.outcome {
                    Outcome::Posted => {}
                    _ => ledger.completed(&completion),
                })
            })
            .collect();
        let asker = {
            let (port, ledger) = (Arc::clone(&port), Arc::clone(&ledger));
            thread::spawn(move || {
                let note = |operation| ledger.accepted(operation);
                port.recv(socket, room()).map(note).ok();
                let (late, _peer) = pair();
                if let Ok(late) = port.associate(NonBlocking::trust(late), 1) {
                    port.recv(late, room()).map(note).ok();
                }
                port.timer(kernel::now() + Duration::from_secs(1), 2).map(note).ok();
                port.post(3).ok();
            })
        };
        port.end();
        join(takers.into_iter().chain([asker]));
        ledger.check(&port);
        assert!(matches!(port.next(Timeout::Now), Err(Error::Ended)));
        drop(theirs);
        assert_eq!(kernel::open_sockets(), 0);
    });
}

#[test]
fn what_is_posted_while_the_port_ends_is_refused_or_comes_out() {
    explore(2_000, || {
        let port = Arc::new(Port::new().unwrap());
        let taken = Arc::new(AtomicUsize::new(0));
        let taker = {
            let taken = Arc::clone(&taken);
            take_all(&port, move |_| add(&taken))
        };
        let poster = {
            let port = Arc::clone(&port);
            thread::spawn(move || usize::from(port.post(0).is_ok()))
        };
        port.end();
        join([taker]);
        let posted = poster.join().unwrap();
        assert_eq!((taken.load(SeqCst), port.outstanding()), (posted, 0));
    });
}

/// They call once: nobody comes back who could tell the others.
#[test]
fn who_takes_the_last_completion_lets_those_go_who_sleep() {
    explore(1_000, || {
        let port = Arc::new(Port::new().unwrap());
        let taken = Arc::new(AtomicUsize::new(0));
        let takers: Vec<_> = (0..3)
            .map(|_| {
                let (port, taken) = (Arc::clone(&port), Arc::clone(&taken));
                thread::spawn(move || match port.next(Timeout::Never) {
                    Ok(Some(_)) => add(&taken),
                    Err(Error::Ended) => {}
                    other => panic!("{other:?}"),
                })
            })
            .collect();
        post(&port, 1);
        port.end();
        join(takers);
        assert_eq!(taken.load(SeqCst), 1);
    });
}

/// The taker goes when it is told; what comes then, is lost.
#[test]
fn two_threads_that_end_a_port_leave_no_completion_behind() {
    explore(2_000, || {
        let port = Arc::new(Port::new().unwrap());
        let (ours, _theirs) = pair();
        let socket = associate(&port, ours);
        let taker = take_all(&port, |_| ());
        let asker = {
            let port = Arc::clone(&port);
            thread::spawn(move || drop(port.recv(socket, room())))
        };
        let ender = {
            let port = Arc::clone(&port);
            thread::spawn(move || port.end())
        };
        port.end();
        join([taker, asker, ender]);
        assert_eq!(port.outstanding(), 0);
    });
}

#[test]
fn a_thread_that_gives_up_takes_no_wake_up_with_it() {
    explore(2_000, || {
        let port = Arc::new(Port::new().unwrap());
        let taken = Arc::new(AtomicUsize::new(0));
        let patient = {
            let (port, taken) = (Arc::clone(&port), Arc::clone(&taken));
            thread::spawn(move || {
                while taken.load(SeqCst) < 2 {
                    match port.next(Timeout::Never) {
                        Ok(Some(_)) => add(&taken),
                        Err(Error::Ended) => return,
                        other => panic!("{other:?}"),
                    }
                }
            })
        };
        let impatient = {
            let (port, taken) = (Arc::clone(&port), Arc::clone(&taken));
            thread::spawn(move || {
                for timeout in [Timeout::After(Duration::from_millis(1)), Timeout::Now] {
                    match port.next(timeout) {
                        Ok(Some(_)) => add(&taken),
                        Ok(None) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        };
        post(&port, 2);
        join([impatient]);
        while taken.load(SeqCst) < 2 {
            thread::yield_now();
        }
        port.end();
        join([patient]);
    });
}

#[test]
fn names_are_found_until_they_are_removed_and_never_again() {
    explore(1_000, || {
        let table = Arc::new(Table::new());
        let add = |table: &Table<u64>| {
            let mut id = None;
            table.insert(|| true, |name| id.insert(name).0.to_bits());
            id.unwrap()
        };
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let table = Arc::clone(&table);
                thread::spawn(move || {
                    let (kept, gone) = (add(&table), add(&table));
                    assert!(table.remove(gone).is_some() && table.remove(gone).is_none());
                    let next = add(&table);
                    assert!(table.get(gone).is_none() && table.get(kept).is_some_and(|bits| *bits == kept.0.to_bits()));
                    assert!(next != gone && table.remove(next).is_some_and(|bits| *bits == next.0.to_bits()));
                })
            })
            .collect();
        join(threads);
        assert_eq!(table.drain().len(), 3);
        assert!(table.insert(|| false, |name| name.0.to_bits()).is_none() && table.drain().is_empty());
    });
}
