//! Timeouts, and signals that come while one waits.

use std::time::{Duration, Instant};

use eagain::sys::raw;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, raise};

use super::prelude::*;

pub(crate) static GROUP: Group = Group { name: "timing", title: "timeouts and signals", experiments: EXPERIMENTS };

/// A wait that blocks no signal while it lasts.
fn pwait(stage: &Stage, ep: &Ep, timeout_ms: i32) -> Seen {
    let told = raw::epoll_pwait(ep.number(), timeout_ms, true, 8).map(|events| events.len());
    match told {
        Ok(count) => stage.saw("epoll_pwait", count),
        Err(errno) => stage.saw("epoll_pwait", Errno::from_raw(errno)),
    }
}

/// SIGUSR1 is counted by a handler, blocked, and pending.
fn pending_signal(stage: &Stage) -> Outcome {
    raw::count_signals(libc::SIGUSR1, true).map_err(Errno::from_raw)?;
    let mut usr1 = SigSet::empty();
    usr1.add(Signal::SIGUSR1);
    usr1.thread_block()?;
    raise(Signal::SIGUSR1)?;
    stage.note("SIGUSR1 is blocked and pending");
    Ok(())
}

fn handled(stage: &Stage) -> Seen {
    stage.saw("signals handled", raw::signals_counted())
}

const EXPERIMENTS: &[Experiment] = &[
    Experiment {
        id: "timeout-values",
        core: true,
        claim: "A timeout of 0 looks and returns, any negative one waits for ever, a positive one never ends early.",
        source: "epoll_wait(2) names only -1; ep_timeout_to_timespec()",
        why: "A timeout that was computed and has become negative hangs the loop. Cut it to 0.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.add(&reader, IN)?;
            ep.bare_wait(0).is(Answer::NOTHING)?;
            let (name, number, theirs) = (ep.name.clone(), ep.number(), stage.clone());
            let waiter = stage.thread("A", move || bare_wait(&theirs, &name, number, -7))?;
            waiter.asleep()?;
            stage.saw("does it still wait after 60 ms?", waiter.still_runs_after(60)).is(true)?;
            writer.send(1)?;
            waiter.join()?.is(IN)?;
            reader.recv(1).is(1)?;
            let one_wait = || {
                let since = Instant::now();
                let _ = raw::epoll_wait(ep.number(), 1, 5);
                since.elapsed().as_micros() as u64
            };
            let shortest = (0..20).map(|_| one_wait()).min().unwrap_or(0);
            stage.saw("the shortest of 20 waits of 5 ms, in µs", shortest).at_least(5_000)?;
            Ok(())
        },
        mutation: fake("epoll_wait", 2, Lie::Fails(EINVAL)),
    },
    Experiment {
        id: "ms-truncation-spins",
        core: false,
        claim: "A timer of less than a millisecond that is cut to milliseconds is 0, and the loop spins until it is \
                due. Rounded up it is one wait.",
        source: "arithmetic; libev and tokio round up",
        why: "Who writes a timer wheel must round up.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let ep = stage.epoll()?;
            let waits_until_due = |timeout_ms| {
                let due = Instant::now() + Duration::from_micros(900);
                // At least one: it may be due by the time that the first begins.
                let mut waits = 0;
                loop {
                    let _ = raw::epoll_wait(ep.number(), 1, timeout_ms);
                    waits += 1;
                    if Instant::now() >= due {
                        return waits;
                    }
                }
            };
            let most = (0..10).map(|_| waits_until_due(0)).max().unwrap_or(0);
            stage.saw("waits in 0.9 ms, cut to 0 ms", most).at_least(10)?;
            stage.saw("waits in 0.9 ms, rounded up to 1 ms", waits_until_due(1)).is(1)?;
            Ok(())
        },
        mutation: fake("waits in 0.9 ms, cut to 0 ms", 1, Lie::Count(1)),
    },
    Experiment {
        id: "pwait2-nanoseconds",
        core: true,
        claim: "epoll_pwait2 waits for nanoseconds: 200 µs last 200 µs and the slack of timers, not a millisecond.",
        source: "epoll_wait(2)",
        why: "Pacing finer than a millisecond without a timerfd.",
        since: (5, 11),
        changed: "5.11: epoll_pwait2 (58169a52ebc9)",
        run: |stage| {
            let ep = stage.epoll()?;
            let one_wait = || {
                let since = Instant::now();
                let answer = raw::epoll_pwait2(ep.number(), Some((0, 200_000)));
                answer.map(|_| since.elapsed().as_micros() as u64)
            };
            let mut shortest = one_wait().map_err(Errno::from_raw)?;
            // On a busy machine others run when the time is over; then again, for a while.
            stage.until(|| {
                for _ in 0..50 {
                    shortest = shortest.min(one_wait().unwrap_or(u64::MAX));
                }
                shortest < 1_000
            });
            stage.saw("the shortest of many waits of 200 µs, in µs", shortest).within(200..=999)?;
            Ok(())
        },
        mutation: fake("the shortest of many waits of 200 µs, in µs", 1, Lie::Count(1_060)),
    },
    Experiment {
        id: "pwait2-arguments",
        core: false,
        claim: "For epoll_pwait2 NULL waits for ever, {0, 0} looks and returns, and a negative field or 1,000,000,000 \
                nanoseconds are EINVAL: negative does not mean for ever here.",
        source: "poll_select_set_timeout(); the manual is silent about errors",
        why: "A wrapper that offers 'negative is for ever' must see to it itself.",
        since: (5, 11),
        changed: "5.11: epoll_pwait2 (58169a52ebc9)",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.add(&reader, IN)?;
            stage.answered("pwait2 {0, 0}", raw::epoll_pwait2(ep.number(), Some((0, 0)))).is(())?;
            stage.answered("pwait2 {0, 10^9}", raw::epoll_pwait2(ep.number(), Some((0, 1_000_000_000)))).is(EINVAL)?;
            stage.answered("pwait2 {-1, 0}", raw::epoll_pwait2(ep.number(), Some((-1, 0)))).is(EINVAL)?;
            let number = ep.number();
            let waiter = stage.thread("A", move || raw::epoll_pwait2(number, None).map(|events| events.len()))?;
            waiter.asleep()?;
            stage.saw("does NULL still wait after 60 ms?", waiter.still_runs_after(60)).is(true)?;
            writer.send(1)?;
            stage.saw("events after a write", waiter.join()?.unwrap_or(0)).is(1)?;
            Ok(())
        },
        mutation: fake("pwait2 {-1, 0}", 1, Lie::Done),
    },
    Experiment {
        id: "sigsetsize-must-be-8",
        core: false,
        claim: "The system call epoll_pwait takes the size of the mask, and refuses all but 8 with EINVAL if there is \
                a mask; the C library's own type has 128 bytes.",
        source: "epoll_wait(2), C library/kernel differences",
        why: "The trap of every binding that does without the C library.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let ep = stage.epoll()?;
            let pwait = |mask, size| raw::epoll_pwait(ep.number(), 0, mask, size);
            stage.answered("a mask of 128 bytes", pwait(true, 128)).is(EINVAL)?;
            stage.answered("a mask of 8 bytes", pwait(true, 8)).is(())?;
            stage.answered("no mask, said to have 128 bytes", pwait(false, 128)).is(())?;
            Ok(())
        },
        mutation: fake("a mask of 128 bytes", 1, Lie::Done),
    },
    Experiment {
        id: "signal-interrupts",
        core: true,
        claim: "A signal that has a handler interrupts a wait with EINTR, with SA_RESTART too.",
        source: "signal(7), which lists epoll_wait among those that are never restarted",
        why: "Every loop needs a branch for EINTR.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            raw::count_signals(libc::SIGUSR1, true).map_err(Errno::from_raw)?;
            let ep = stage.epoll()?;
            let waiter = ep.waiter_by_number("A", 2_000)?;
            waiter.signal(Signal::SIGUSR1)?;
            waiter.join()?.is(EINTR)?;
            handled(stage).is(1)?;
            Ok(())
        },
        mutation: fake_wait(1, &[]),
    },
    Experiment {
        id: "events-beat-signals",
        core: true,
        claim: "If events are ready, a wait reports them although a signal is pending. EINTR comes only to who finds \
                nothing.",
        source: "ep_poll() looks for events first; epoll_wait(2), EINTR: 'before any of the requested events occurred'",
        why: "A busy loop can put off signals for long. Look at a flag, or use a signalfd.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.add(&reader, IN)?;
            writer.send(1)?;
            pending_signal(stage)?;
            pwait(stage, &ep, 2_000).is(1)?;
            handled(stage).is(0)?;
            reader.recv(1).is(1)?;
            pwait(stage, &ep, 2_000).is(EINTR)?;
            handled(stage).is(1)?;
            Ok(())
        },
        mutation: fake("epoll_pwait", 1, Lie::Fails(EINTR)),
    },
    Experiment {
        id: "pwait-signal-stays-pending-with-events",
        core: false,
        claim: "A signal that epoll_pwait unblocks is not delivered by a wait that reports events: the old mask is \
                back first, and the signal stays pending.",
        source: "restore_saved_sigmask_unless(EINTR); the three lines that epoll_wait(2) calls equivalent would \
                 deliver it",
        why: "A loop that always has something to do never takes its signals.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.add(&reader, IN)?;
            writer.send(1)?;
            pending_signal(stage)?;
            stage.rounds(50, |_| {
                pwait(stage, &ep, 2_000).is(1)?;
                Ok(())
            })?;
            handled(stage).is(0)?;
            Ok(())
        },
        mutation: fake("signals handled", 1, Lie::Count(1)),
    },
    Experiment {
        id: "zero-timeout-never-eintr",
        core: false,
        claim: "With a timeout of 0 a pending signal is no EINTR: the wait returns 0.",
        source: "ep_poll() looks at the time before it looks for signals; the manual is silent",
        why: "A loop that only looks and never waits must not wait for EINTR either.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let ep = stage.epoll()?;
            pending_signal(stage)?;
            pwait(stage, &ep, 0).is(0)?;
            pwait(stage, &ep, 2_000).is(EINTR)?;
            Ok(())
        },
        mutation: fake("epoll_pwait", 1, Lie::Fails(EINTR)),
    },
    Experiment {
        id: "pwait-closes-the-race",
        core: true,
        claim: "epoll_pwait changes the mask and waits in one step: a signal that came while it was blocked interrupts \
                the wait. To unblock it first and then to wait loses it.",
        source: "epoll_wait(2)",
        why: "A flag that a handler sets needs epoll_pwait, a signalfd, or a pipe to itself.",
        since: (2, 6),
        changed: "2.6.19: epoll_pwait",
        run: |stage| {
            let ep = stage.epoll()?;
            pending_signal(stage)?;
            pwait(stage, &ep, 2_000).is(EINTR)?;
            pending_signal(stage)?;
            SigSet::all().thread_unblock()?;
            stage.note("SIGUSR1 is unblocked, and handled before the wait begins");
            handled(stage).is(2)?;
            ep.bare_wait(100).is(Answer::NOTHING)?;
            Ok(())
        },
        mutation: fake("epoll_pwait", 1, Lie::Count(0)),
    },
    Experiment {
        id: "timeout-is-relative-per-call",
        core: false,
        claim: "After EINTR the timeout begins anew: a loop that waits again with the same number may never see its \
                timeout.",
        source: "epoll_wait(2)",
        why: "Keep the deadline and compute the timeout from it.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            const WAIT_MS: i32 = 1_000;
            raw::count_signals(libc::SIGUSR1, true).map_err(Errno::from_raw)?;
            let ep = stage.epoll()?;
            let number = ep.number();
            let waiter = stage.thread("A", move || {
                let mut since = Instant::now();
                let mut interruptions = 0;
                while raw::epoll_wait(number, 1, WAIT_MS) == Err(libc::EINTR) {
                    (since, interruptions) = (Instant::now(), interruptions + 1);
                }
                (interruptions, since.elapsed().as_millis() as u64)
            })?;
            for _ in 0..3 {
                // On a busy machine its time may be over before.
                if waiter.asleep().is_ok() && waiter.still_runs_after(100) {
                    waiter.signal(Signal::SIGUSR1)?;
                }
            }
            let (interruptions, last_ms) = waiter.join()?;
            stage.saw("interruptions of a wait of 1000 ms, every 100 ms", interruptions).at_least(1)?;
            stage.saw("ms from the last interruption to its end", last_ms).at_least(WAIT_MS.into())?;
            Ok(())
        },
        mutation: fake("ms from the last interruption to its end", 1, Lie::Count(100)),
    },
    Experiment {
        id: "efault-keeps-the-event",
        core: false,
        claim: "A buffer that cannot be written is EFAULT only when there is an event to write, and the event is not \
                lost, edge-triggered neither.",
        source: "epoll_wait(2); ep_send_events() puts it back",
        why: "A wrong pointer can go unnoticed until the first event.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.add(&reader, IN | ET)?;
            stage.answered("a wait into NULL, nothing ready", raw::epoll_wait_nowhere(ep.number())).is(())?;
            writer.send(1)?;
            stage.answered("a wait into NULL, something ready", raw::epoll_wait_nowhere(ep.number())).is(EFAULT)?;
            ep.reports(IN)
        },
        mutation: fake_wait(1, &[]),
    },
];
