//! Threads: who is woken, how often, and in which order.

use std::time::Instant;

use super::prelude::*;

pub(crate) static GROUP: Group =
    Group { name: "wakeups", title: "threads: who is woken, and how often", experiments: EXPERIMENTS };

const NAMES: [&str; 8] = ["A", "B", "C", "D", "E", "F", "G", "H"];
/// How long a thread waits at the most; who is not woken is interrupted before.
const LONG_MS: i32 = 5_000;

/// Lets one thread after the other come to sleep in its epoll.
fn waiters<'a>(epolls: impl IntoIterator<Item = &'a Ep>) -> Outcome<Vec<Thread<Seen>>> {
    epolls.into_iter().zip(NAMES).map(|(ep, name)| ep.waiter(name, LONG_MS)).collect()
}

/// How many of them were told of something.
fn woken(stage: &Stage, threads: Vec<Thread<Seen>>) -> Outcome<usize> {
    Ok(stage.gather(threads)?.iter().filter(|seen| !seen.events().is_empty()).count())
}

/// An epoll for each mask, all of which watch one file.
fn watchers(stage: &Stage, file: &File, masks: &[Mask]) -> Outcome<Vec<Ep>> {
    let mut epolls = Vec::new();
    for mask in masks {
        let ep = stage.epoll()?;
        ep.add(file, *mask)?;
        epolls.push(ep);
    }
    Ok(epolls)
}

/// Waits until one more of these threads has ended, and says which.
fn next_to_end<T>(stage: &Stage, threads: &[Thread<T>], ended: &mut Vec<usize>) -> Outcome {
    let find = |ended: &[usize]| (0..threads.len()).find(|at| !ended.contains(at) && threads[*at].is_finished());
    stage.until(|| find(ended).is_some());
    ended.extend(find(ended));
    Ok(())
}

const EXPERIMENTS: &[Experiment] = &[
    Experiment {
        id: "et-wakes-one-thread",
        core: true,
        claim: "Several threads wait on one epoll: one edge-triggered event wakes exactly one of them.",
        source: "epoll(7); the kernel's selftest epoll10",
        why: "An epoll that is shared by threads does not wake the whole herd, if it is edge-triggered.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.add(&reader, IN | ET)?;
            let threads = waiters([&ep; 8])?;
            writer.send(1)?;
            stage.saw("threads woken", woken(stage, threads)?).is(1)?;
            Ok(())
        },
        mutation: without(ET),
    },
    Experiment {
        id: "lt-wakes-more-than-one",
        core: true,
        claim: "Level-triggered, the same event can wake several threads: each harvest puts it back and wakes the \
                next, until somebody has consumed it.",
        source: "the kernel's selftest epoll9 expects both of two; the manual is silent",
        why: "It is not edge-triggered alone that is dangerous with threads: here handlers must expect EAGAIN.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.add(&reader, IN)?;
            let threads = waiters([&ep; 8])?;
            writer.send(1)?;
            stage.saw("threads woken", woken(stage, threads)?).at_least(2)?;
            Ok(())
        },
        mutation: with(ET),
    },
    Experiment {
        id: "two-epolls-herd",
        core: true,
        claim: "Several epolls watch one file without EPOLLEXCLUSIVE: one event wakes all of them.",
        source: "epoll_ctl(2), EPOLLEXCLUSIVE; LTP epoll_wait15",
        why: "The thundering herd of a server with an epoll for each worker and one listener.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let epolls = watchers(stage, &reader, &[IN; 8])?;
            let threads = waiters(&epolls)?;
            writer.send(1)?;
            stage.saw("threads woken", woken(stage, threads)?).is(8)?;
            Ok(())
        },
        mutation: with(EXCLUSIVE),
    },
    Experiment {
        id: "exclusive-wakes-at-least-one",
        core: false,
        claim: "With EPOLLEXCLUSIVE on all of them one event wakes at least one epoll, and usually no more.",
        source: "epoll_ctl(2), 'one or more'; LTP epoll_wait16",
        why: "No herd at the accept of a server with several workers.",
        since: (4, 5),
        changed: "",
        run: |stage| {
            let mut fewest = 8;
            for _ in 0..3 {
                let (reader, writer) = stage.pipe()?;
                let epolls = watchers(stage, &reader, &[IN | EXCLUSIVE; 8])?;
                let threads = waiters(&epolls)?;
                writer.send(1)?;
                let count = woken(stage, threads)?;
                stage.saw("threads woken", count).at_least(1)?;
                fewest = fewest.min(count);
            }
            stage.saw("the fewest", fewest).is(1)?;
            Ok(())
        },
        mutation: without(EXCLUSIVE),
    },
    Experiment {
        id: "exclusive-is-not-fair",
        core: true,
        claim: "Exclusive wake-ups are not spread: as long as all workers are idle, the same one gets every event.",
        source: "ep_ptable_queue_proc() adds to the end of the queue, and nothing turns it; the manual is silent",
        why: "EPOLLEXCLUSIVE is often taken for a load balancer. On a quiet server one worker takes every connection. \
              For balance hand connections on, or use SO_REUSEPORT.",
        since: (4, 5),
        changed: "",
        run: |stage| {
            const CLIENTS: usize = 20;
            let listener = stage.listener(64)?;
            let epolls = watchers(stage, &listener, &[IN | EXCLUSIVE; 4])?;
            let quit = stage.eventfd()?;
            let mut workers = Vec::new();
            for (ep, name) in epolls.iter().zip(NAMES) {
                ep.add(&quit, IN)?;
                let (ep, listener, quit) = (ep.clone(), listener.clone(), quit.name.clone());
                workers.push(stage.thread(name, move || accept_until_told_to_quit(&ep, &listener, &quit))?);
            }
            let mut clients = Vec::new();
            for _ in 0..CLIENTS {
                workers.iter().try_for_each(Thread::asleep)?;
                clients.push(stage.connect_now(&listener)?);
                stage.until(|| listener.queue().count() == 0);
            }
            quit.add(1)?;
            let taken: Vec<usize> = workers.into_iter().map(Thread::join).collect::<Outcome<_>>()?;
            stage.note(format_args!("accepted by each worker: {taken:?}"));
            stage
                .saw("accepted by the busiest", taken.into_iter().max().unwrap_or(0))
                .at_least(CLIENTS as i64 * 3 / 4)?;
            Ok(())
        },
        mutation: fake("accepted by the busiest", 1, Lie::Count(5)),
    },
    Experiment {
        id: "shared-epoll-is-lifo",
        core: true,
        claim: "Threads that wait on one epoll are woken last in, first out: who fell asleep last gets the next event.",
        source: "ep_poll() adds itself at the head of the queue; the manual is silent",
        why: "Warm caches; but some threads never get work. That is no sign of a fault.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let eventfd = stage.eventfd()?;
            let ep = stage.epoll()?;
            ep.add(&eventfd, IN | ET)?;
            let mut threads = Vec::new();
            for name in &NAMES[..4] {
                threads.push(ep.waiter(name, LONG_MS)?);
            }
            let mut order = Vec::new();
            for _ in 0..4 {
                eventfd.add(1)?;
                next_to_end(stage, &threads, &mut order)?;
            }
            stage.saw("woken in the order", in_letters(&order)).is("D C B A")?;
            Ok(())
        },
        mutation: fake("woken in the order", 1, Lie::Text("A B C D")),
    },
    Experiment {
        id: "blocking-accept-is-fifo",
        core: false,
        claim: "Threads that wait in accept are served first in, first out.",
        source: "inet_csk_wait_for_connect() adds itself at the end of the queue",
        why: "It is why servers with one blocking accept for each thread look balanced.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let listener = stage.listener(16)?;
            listener.blocking(true)?;
            let mut threads = Vec::new();
            for name in &NAMES[..4] {
                let theirs = listener.clone();
                let thread = stage.thread(name, move || theirs.try_accept())?;
                thread.asleep()?;
                threads.push(thread);
            }
            let (mut order, mut clients) = (Vec::new(), Vec::new());
            for _ in 0..4 {
                clients.push(stage.connect_now(&listener)?);
                next_to_end(stage, &threads, &mut order)?;
            }
            stage.saw("served in the order", in_letters(&order)).is("A B C D")?;
            Ok(())
        },
        mutation: fake("served in the order", 1, Lie::Text("D C B A")),
    },
    Experiment {
        id: "exclusive-mixed",
        core: false,
        claim: "Of plain and exclusive registrations of one file every plain one is woken, and at least one exclusive \
                one.",
        source: "epoll_ctl(2), EPOLLEXCLUSIVE",
        why: "One epoll without the flag, for debugging, brings a part of the herd back.",
        since: (4, 5),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let plain = watchers(stage, &reader, &[IN; 3])?;
            let exclusive = watchers(stage, &reader, &[IN | EXCLUSIVE; 3])?;
            let mut threads = waiters(plain.iter().chain(&exclusive))?;
            writer.send(1)?;
            let exclusive = threads.split_off(3);
            stage.saw("plain ones woken", woken(stage, threads)?).is(3)?;
            stage.saw("exclusive ones woken", woken(stage, exclusive)?).within(1..=2)?;
            Ok(())
        },
        mutation: without(EXCLUSIVE),
    },
    Experiment {
        id: "et-same-fd-two-threads",
        core: true,
        claim: "Edge-triggered on a shared epoll, new data for a file that one thread is still handling is given to \
                another: two threads on one connection. With ONESHOT it is not.",
        source: "epoll_ctl(2), EPOLLONESHOT; epoll(7)",
        why: "It takes EPOLLONESHOT, or an epoll for each thread.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            for (mask, threads_with_the_file) in [(IN | ET, 2), (IN | ET | ONESHOT, 1)] {
                let (ours, peer) = stage.tcp_pair()?;
                let ep = stage.epoll()?;
                ep.add(&ours, mask)?;
                let threads = waiters([&ep; 2])?;
                peer.send(1)?;
                next_to_end(stage, &threads, &mut Vec::new())?;
                peer.send(1)?;
                stage.saw("threads with this file", woken(stage, threads)?).is(threads_with_the_file)?;
            }
            Ok(())
        },
        mutation: without(ONESHOT),
    },
    Experiment {
        id: "et-accept-race-needs-oneshot",
        core: true,
        claim: "Edge-triggered accept in two threads: the second is woken for a connection that the first takes in its \
                loop, and finds EAGAIN.",
        source: "epoll(7), EPOLLONESHOT; discussed as 'epoll is fundamentally broken' in 2017",
        why: "Harmless if the listener is non-blocking; else a thread is frozen.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let listener = stage.listener(8)?;
            let ep = stage.epoll()?;
            ep.add(&listener, IN | ET)?;
            let threads = waiters([&ep; 2])?;
            let _first = stage.connect(&listener)?;
            next_to_end(stage, &threads, &mut Vec::new())?;
            let _second = stage.connect(&listener)?;
            stage.saw("threads woken", woken(stage, threads)?).is(2)?;
            stage.note("the first thread woken accepts until EAGAIN, then the second");
            listener.accept()?;
            listener.accept()?;
            listener.try_accept().1.is(EAGAIN)?;
            listener.try_accept().1.is(EAGAIN)?;
            Ok(())
        },
        mutation: with(ONESHOT),
    },
    Experiment {
        id: "ready-order-is-fifo",
        core: false,
        claim: "Events come in the order in which their files became ready, not in that of numbers or registrations.",
        source: "the list rdllist of fs/eventpoll.c; the manual is silent",
        why: "It is fair by nature. But do not rely on the order of descriptors.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let ep = stage.epoll()?;
            let mut pipes = Vec::new();
            for _ in 0..5 {
                pipes.push(stage.pipe()?);
            }
            for (reader, _) in &pipes {
                ep.add(reader, IN)?;
            }
            for at in [3, 0, 4, 1, 2] {
                pipes[at].1.send(1)?;
            }
            ep.reports([("reader4", IN), ("reader", IN), ("reader5", IN), ("reader2", IN), ("reader3", IN)])
        },
        mutation: fake_wait(1, &[IN, IN, IN, IN]),
    },
    Experiment {
        id: "maxevents-round-robin",
        core: true,
        claim: "If more is ready than there is room for, one wait after the other goes round: nobody starves.",
        source: "epoll_wait(2), NOTES; LTP epoll_wait13 and 14",
        why: "A small array of events is a means of fairness, and loses nothing.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let ep = stage.epoll()?;
            let mut pipes = Vec::new();
            for _ in 0..5 {
                let (reader, writer) = stage.pipe()?;
                ep.add(&reader, IN)?;
                writer.send(1)?;
                pipes.push((reader, writer));
            }
            for pair in [["reader", "reader2"], ["reader3", "reader4"], ["reader5", "reader"], ["reader2", "reader3"]] {
                ep.wait_for(2, 2_000).is(pair.map(|name| (name, IN)))?;
            }
            Ok(())
        },
        mutation: with(ET),
    },
    Experiment {
        id: "stolen-event-no-early-return",
        core: false,
        claim: "Who waits, and whose event somebody else consumes first, goes back to sleep: epoll_wait does not \
                return 0 before its timeout.",
        source: "ep_poll(), which tries again 'in search of more luck'",
        why: "0 means that time is over. An event may be out of date all the same when it is acted on.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (mut early, mut rounds, mut wait_ms) = (0, 0, 60);
            while rounds < 8 {
                let (reader, writer) = stage.pipe()?;
                let (quick, slow) = (stage.epoll()?, stage.epoll()?);
                quick.add(&reader, IN)?;
                slow.add(&reader, IN)?;
                let thief = stage.thread("thief", move || (quick.wait(LONG_MS), reader.recv(1)))?;
                thief.asleep()?;
                let waiter = stage.thread("A", move || {
                    let since = Instant::now();
                    let seen = slow.wait(wait_ms);
                    seen.events().is_empty() && since.elapsed().as_millis() < wait_ms as u128
                })?;
                // On a busy machine its time can be over before it was seen asleep; then again, with more of it.
                let both_wait = waiter.asleep();
                writer.send(1)?;
                let _ = thief.join()?;
                early += usize::from(waiter.join()?);
                match both_wait {
                    Ok(()) => rounds += 1,
                    Err(why) if wait_ms > 1_000 => return Err(why),
                    Err(_) => wait_ms *= 2,
                }
            }
            stage.saw("waits that ended early with nothing", early).is(0)?;
            Ok(())
        },
        mutation: fake("waits that ended early with nothing", 1, Lie::Count(1)),
    },
    Experiment {
        id: "eventfd-waker-et-needs-no-read",
        core: true,
        claim: "An eventfd registered for IN, edge-triggered, reports every write, and need never be read.",
        source: "eventfd_write() wakes each time; mio's waker relies on it; the manual is silent",
        why: "Waking another thread costs one system call less. At 2^64-2 writes it is full.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let eventfd = stage.eventfd()?;
            let ep = stage.epoll()?;
            ep.add(&eventfd, IN | ET)?;
            stage.rounds(1000, |_| {
                eventfd.add(1)?;
                ep.reports(IN)
            })?;
            ep.quiet()
        },
        mutation: without(ET),
    },
    Experiment {
        id: "eventfd-wakes-coalesce",
        core: false,
        claim: "Wake-ups that are sent while the loop is busy arrive as one event; the counter has their sum.",
        source: "eventfd(2)",
        why: "A waker says that there is something. What it is stands in a list.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let eventfd = stage.eventfd()?;
            let ep = stage.epoll()?;
            ep.add(&eventfd, IN | ET)?;
            for _ in 0..7 {
                eventfd.add(1)?;
            }
            ep.reports(IN)?;
            ep.quiet()?;
            eventfd.take().is(7)?;
            Ok(())
        },
        mutation: without(ET),
    },
    Experiment {
        id: "waiting-holds-no-lock",
        core: false,
        claim: "ADD and DEL by other threads go on while a thread waits.",
        source: "epoll_wait(2), NOTES",
        why: "One thread can own the wait while others register.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, _writer) = stage.pipe()?;
            let quit = stage.eventfd()?;
            let ep = stage.epoll()?;
            ep.add(&quit, IN)?;
            let waiter = ep.waiter("A", 5_000)?;
            stage.rounds(500, |_| {
                ep.add(&reader, IN)?;
                ep.delete(&reader)
            })?;
            stage.saw("does it still wait?", !waiter.is_finished()).is(true)?;
            quit.add(1)?;
            waiter.join()?.is(IN)?;
            Ok(())
        },
        mutation: fake("does it still wait?", 1, Lie::Text("no")),
    },
];

/// The life of a worker: how many connections it has taken.
fn accept_until_told_to_quit(ep: &Ep, listener: &File, quit: &str) -> usize {
    let (mut taken, mut connections) = (0, Vec::new());
    loop {
        let told = ep.wait(5_000);
        if told.events().is_empty() || told.events().iter().any(|event| event.name == quit) {
            return taken;
        }
        while let (Some(connection), _) = listener.try_accept() {
            connections.push(connection);
            taken += 1;
        }
    }
}

fn in_letters(order: &[usize]) -> String {
    order.iter().map(|&at| NAMES[at]).collect::<Vec<_>>().join(" ")
}
