//! Mistakes of servers that follow from all this.

use std::time::{Duration, Instant};

use eagain::sys::raw;
use nix::errno::Errno;
use nix::sys::wait::WaitStatus;
use socket2::{SockAddr, Socket};

use super::prelude::*;
use crate::lab::stage::sysctl;

pub(crate) static GROUP: Group = Group { name: "server_bugs", title: "mistakes of servers", experiments: EXPERIMENTS };

const EXPERIMENTS: &[Experiment] = &[
    Experiment {
        id: "equality-test-misses-combined-bits",
        core: true,
        claim: "`events == EPOLLIN` is false for each event with a second bit: a reset comes as IN|ERR|HUP, falls \
                through, and edge-triggered it is never reported again.",
        source: "epoll_ctl(2), 'a bit mask'; follows from the masks of TCP",
        why: "The connection is left open for ever. Test bits one by one, with &.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | ET)?;
            peer.reset()?;
            let seen = ep.wait(stage.soon_ms()).is(IN | ERR | HUP)?;
            stage.saw("events == EPOLLIN?", seen.events()[0].mask == IN).is(false)?;
            ep.quiet()
        },
        mutation: without(ET),
    },
    Experiment {
        id: "short-send-loses-bytes",
        core: true,
        claim: "One send of a big answer on a non-blocking socket takes a part of it, and says how much. That much is \
                what the client gets.",
        source: "send(2), RETURN VALUE",
        why: "Who ignores the count cuts big answers short, in silence, and only for slow clients. Keep the rest, and \
              ask for OUT.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            const ANSWER: usize = 16 << 20;
            let (ours, peer) = stage.tcp_pair()?;
            let sent = ours.try_send(ANSWER).within(1..=ANSWER as i64 - 1)?.count() as usize;
            peer.read_until(|sum| sum == sent)?;
            ours.close()?;
            peer.recv(1).is(0)?;
            Ok(())
        },
        mutation: fake("send", 1, Lie::Count(16 << 20)),
    },
    Experiment {
        id: "second-send-raises-eagain",
        core: false,
        claim: "When the client does not read, the next send takes nothing: EAGAIN.",
        source: "send(2), ERRORS",
        why: "In Python an exception that nobody expects and that ends the server; in C an answer that is never sent.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, _peer) = stage.tcp_pair()?;
            clog(stage, &ours)?;
            ours.try_send(1).is(EAGAIN)?;
            Ok(())
        },
        mutation: fake("send", 1, Lie::Count(1)),
    },
    Experiment {
        id: "blocking-drain-loop-freezes",
        core: true,
        claim: "Reading until EAGAIN never ends on a blocking socket: behind the last byte recv blocks, and the whole \
                loop with it.",
        source: "epoll(7), 'nonblocking file descriptors'",
        why: "An accepted socket is blocking, whatever the listener is. Say SOCK_NONBLOCK to accept4.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            ours.blocking(true)?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | ET)?;
            peer.send(10)?;
            ep.reports(IN)?;
            let server = stage.thread("server", move || [ours.recv(4096), ours.recv(4096)])?;
            server.asleep()?;
            stage.saw("does it hang after 100 ms?", server.still_runs_after(100)).is(true)?;
            peer.try_send(1).is(1)?;
            let [first, second] = server.join()?;
            first.is(10)?;
            second.is(1)?;
            Ok(())
        },
        mutation: fake("recv", 2, Lie::Fails(EAGAIN)),
    },
    Experiment {
        id: "blocking-send-freezes",
        core: false,
        claim: "A send on a blocking socket waits until the client reads; so do all other clients of the loop.",
        source: "send(2), 'send() normally blocks'",
        why: "One client that stops reading stops the server.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            const ANSWER: usize = 16 << 20;
            let (ours, peer) = stage.tcp_pair()?;
            ours.blocking(true)?;
            let server = stage.thread("server", move || ours.try_send(ANSWER))?;
            server.asleep()?;
            stage.saw("does it hang after 100 ms?", server.still_runs_after(100)).is(true)?;
            peer.read_until(|sum| sum == ANSWER)?;
            server.join()?.is(ANSWER)?;
            Ok(())
        },
        mutation: fake("send", 1, Lie::Fails(EAGAIN)),
    },
    Experiment {
        id: "slow-handler-delays-everyone",
        core: true,
        claim: "What blocks in a handler is added to the latency of everybody behind: with 50 ms for each request the \
                fifth of five clients waits 250 ms.",
        source: "follows from one thread that serves one after the other",
        why: "A sleep, a name looked up, a program started, a slow disk. Give it to a thread, and come back through an \
              eventfd.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let ep = stage.epoll()?;
            let pairs = [stage.tcp_pair()?, stage.tcp_pair()?, stage.tcp_pair()?, stage.tcp_pair()?, stage.tcp_pair()?];
            for (ours, peer) in &pairs {
                ep.add(ours, IN)?;
                peer.send(1)?;
            }
            let since = Instant::now();
            for _ in &pairs {
                let name = ep.wait_for(1, stage.soon_ms()).is(IN)?.events()[0].name.clone();
                let (ours, peer) = pairs.iter().find(|(ours, _)| ours.name == name).unwrap_or(&pairs[0]);
                ours.recv(10).is(1)?;
                stage.note("the handler takes 50 ms");
                std::thread::sleep(Duration::from_millis(50));
                ours.send(1)?;
                peer.recv(10).is(1)?;
            }
            stage.saw("ms until the fifth had its answer", since.elapsed().as_millis() as u64).at_least(250)?;
            Ok(())
        },
        mutation: fake("ms until the fifth had its answer", 1, Lie::Count(50)),
    },
    Experiment {
        id: "one-recv-is-not-one-message",
        core: true,
        claim: "TCP knows no messages: two sends come in one recv, one send in many.",
        source: "tcp(7), 'TCP does not preserve record boundaries'",
        why: "It works in every test on the loopback and fails in the world. Mark where messages end, and keep for \
              each connection what is not whole.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            peer.say(b"one")?;
            peer.say(b"two")?;
            ours.hear(1024).is("onetwo")?;
            peer.send(5000)?;
            ours.recv(1024).is(1024)?;
            Ok(())
        },
        mutation: fake("recv", 1, Lie::Text("one")),
    },
    Experiment {
        id: "closing-on-eof-truncates-answers",
        core: true,
        claim: "A server that closes when recv returns 0 throws away what it still has to send to a client that only \
                half-closed. One that sends it first does not.",
        source: "RFC 9293, 3.6: closing is one direction only; shutdown(2)",
        why: "The end of the input is not the end of the output: close when the queue is empty.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let closing = answered_after_eof(stage, false)?;
            stage.saw("bytes that came, closed at once", closing).within(1..=ANSWER as i64 - 1)?;
            let flushing = answered_after_eof(stage, true)?;
            stage.saw("bytes that came, sent first", flushing).is(ANSWER)?;
            Ok(())
        },
        mutation: fake("bytes that came, closed at once", 1, Lie::Count(ANSWER as i64)),
    },
    Experiment {
        id: "out-only-interest-misses-fin",
        core: true,
        claim: "A connection that is registered for OUT alone does not hear of the end of the input, if the peer does \
                not read either. With RDHUP it does.",
        source: "epoll_ctl(2): IN and RDHUP are reported only if they are asked for",
        why: "A client that is gone while its answer is stuck: without RDHUP, or a timeout, the connection is there \
              for ever.",
        since: (2, 6),
        changed: "2.6.17: RDHUP",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN)?;
            clog(stage, &ours)?;
            ep.modify(&ours, OUT)?;
            peer.shut_write()?;
            ep.quiet()?;
            ep.modify(&ours, OUT | RDHUP)?;
            ep.reports(RDHUP)
        },
        mutation: with(IN),
    },
    Experiment {
        id: "lt-in-kept-on-while-backlogged",
        core: true,
        claim: "An echo server that goes on reading while its client does not take the answers keeps all that the \
                client sends. One that drops IN stops the client: TCP pushes back.",
        source: "RFC 9293, 3.8.6, managing the window",
        why: "A queue without a limit is memory that any client can take. Back-pressure is not to read.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (pushed, queued) = echo_to_one_who_does_not_read(stage, usize::MAX)?;
            stage.saw("bytes that the client got rid of, no limit", pushed).at_least(FLOOD as i64)?;
            stage.saw("bytes in the server's queue, no limit", queued).at_least(FLOOD as i64 / 2)?;
            let (pushed, queued) = echo_to_one_who_does_not_read(stage, 64 << 10)?;
            stage.saw("bytes that the client got rid of, with a limit", pushed).within(1..=FLOOD as i64 - 1)?;
            stage.saw("bytes in the server's queue, with a limit", queued).within(0..=128 << 10)?;
            Ok(())
        },
        mutation: with(ET),
    },
    Experiment {
        id: "flood-starves-neighbours",
        core: true,
        claim: "Reading until EAGAIN without a budget does not end while a client sends as fast as it is read. With a \
                budget the neighbour has its turn after that many bytes.",
        source: "epoll(7), Possible pitfalls and use: Starvation",
        why: "One fast sender holds the loop. A budget for each turn; then a list of one's own (edge-triggered), or \
              just the next wait (level-triggered).",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let greedy = bytes_before_the_neighbour(stage, usize::MAX)?;
            stage.saw("bytes before the neighbour's turn, no budget", greedy).is(PATIENCE)?;
            let fair = bytes_before_the_neighbour(stage, 64 << 10)?;
            stage.saw("bytes before the neighbour's turn, budget of 64 KiB", fair).is(64 << 10)?;
            Ok(())
        },
        mutation: fake("recv", 100, Lie::Fails(EAGAIN)),
    },
    Experiment {
        id: "sigpipe-kills-by-default",
        core: false,
        claim: "Writing to a connection that was reset ends the process by SIGPIPE, unless that is ignored or \
                MSG_NOSIGNAL is said.",
        source: "send(2), EPIPE; signal(7)",
        why: "A client that goes away ends the server. Rust's runtime ignores the signal before main; a C program does \
              not.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let was_reset = |stage: &Stage| -> Outcome<File> {
                let (ours, peer) = stage.tcp_pair()?;
                peer.reset()?;
                stage.answered("the first write", raw::write(ours.number(), 1)).is(ECONNRESET)?;
                Ok(ours)
            };
            stage.note("SIGPIPE is ignored, as Rust's runtime has asked for");
            let ours = was_reset(stage)?;
            stage.answered("the second write", raw::write(ours.number(), 1)).is(EPIPE)?;
            let child = stage.fork(|stage| {
                raw::default_signal(libc::SIGPIPE).map_err(Errno::from_raw)?;
                stage.note("SIGPIPE does what it does by default");
                let ours = was_reset(stage)?;
                stage.note("the send of this project says MSG_NOSIGNAL");
                ours.try_send(1).is(EPIPE)?;
                stage.note("a write that says nothing of signals");
                stage.answered("another write", raw::write(ours.number(), 1)).ok()?;
                Ok(())
            })?;
            let ended = match child.status()? {
                WaitStatus::Signaled(_, signal, _) => signal.as_str(),
                _ => "no signal",
            };
            stage.saw("what ended the child", ended).is("SIGPIPE")?;
            Ok(())
        },
        mutation: fake("what ended the child", 1, Lie::Text("no signal")),
    },
    Experiment {
        id: "restart-needs-reuseaddr",
        core: true,
        claim: "A server that closed first leaves its port in TIME_WAIT: bind is EADDRINUSE, unless SO_REUSEADDR was \
                set by both the old server and the new. A listener that is still there keeps its port in any case.",
        source: "socket(7) is vague; inet_csk_bind_conflict() looks at both sockets",
        why: "Set it in every server, always before bind: it is the one that runs today that lets tomorrow's start. To \
              share a port is another option, SO_REUSEPORT.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let room = sysctl("/proc/sys/net/ipv4/tcp_max_tw_buckets")?;
            if in_time_wait()? >= room {
                return stage.not_tested(format_args!("there is no room for another TIME_WAIT: {room} are there"));
            }
            restart(stage, false, false)?.is(EADDRINUSE)?;
            restart(stage, false, true)?.is(EADDRINUSE)?;
            restart(stage, true, true)?.is(())?;
            let alive = stage.listener_with(8, |socket| socket.set_reuse_address(true))?;
            bind(stage, &alive.address()?, true)?.is(EADDRINUSE)?;
            Ok(())
        },
        mutation: fake("bind", 2, Lie::Done),
    },
    Experiment {
        id: "hup-branch-after-in-never-runs",
        core: true,
        claim: "In a chain of if IN, else if OUT, else if HUP the last branch is dead for TCP: a client that leaves is \
                IN alone, one that resets IN|ERR|HUP or OUT|ERR|HUP.",
        source: "tcp_poll(): HUP needs both directions shut, and that is readable as well",
        why: "Clean-up that stands in the HUP branch never runs. Look at each bit for itself.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            for (interest, leaves, resets) in [(IN, IN, IN | ERR | HUP), (OUT, OUT, OUT | ERR | HUP)] {
                let ((ours, peer), (other, other_peer)) = (stage.tcp_pair()?, stage.tcp_pair()?);
                let (leaving, resetting) = (stage.epoll()?, stage.epoll()?);
                leaving.add(&ours, interest)?;
                resetting.add(&other, interest)?;
                peer.close()?;
                leaving.reports(leaves)?;
                other_peer.reset()?;
                resetting.reports(resets)?;
            }
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN)?;
            ours.shut_write()?;
            peer.close()?;
            ep.reports(IN | HUP)
        },
        mutation: without(IN),
    },
    Experiment {
        id: "close-inside-a-refcount",
        core: false,
        claim: "After MOD to nothing and shutdown of both directions HUP is reported, if the socket is still open. If \
                its last reference was dropped meanwhile, nothing is.",
        source: "tcp_poll(); eventpoll_release(); follows from who owns the socket",
        why: "A clean-up that waits for this HUP works by accident, or never, as the language collects its objects. \
              Make it plain: DEL, close, drop.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let ((kept, _one), (dropped, _other)) = (stage.tcp_pair()?, stage.tcp_pair()?);
            let (ep, ep2) = (stage.epoll()?, stage.epoll()?);
            ep.add(&kept, IN)?;
            ep.modify(&kept, NONE)?;
            kept.shut_both()?;
            ep.reports(HUP)?;

            ep2.add(&dropped, IN)?;
            ep2.modify(&dropped, NONE)?;
            dropped.shut_both()?;
            dropped.close()?;
            ep2.quiet()
        },
        mutation: fake_wait(2, &[HUP]),
    },
];

/// Sends until the other end, which does not read, has taken what it takes, and nothing is under way any more. Returns
/// how much that was.
pub(super) fn clog(stage: &Stage, ours: &File) -> Outcome<usize> {
    let mut sum = 0;
    loop {
        let taken = ours.fill()?;
        if taken == 0 {
            return Ok(sum);
        }
        sum += taken;
        // What arrives makes room: wait until what was sent is acknowledged, and only the closed window holds the rest.
        // On a busy machine that has taken a third of a second.
        stage.until(|| raw::tcp_info(ours).is_ok_and(|info| info.tcpi_unacked == 0));
    }
}

/// More than the buffers of a connection take.
const ANSWER: usize = 16 << 20;

/// How much of a big answer comes to a client that half-closes behind its request, and reads only then.
fn answered_after_eof(stage: &Stage, flush_first: bool) -> Outcome<usize> {
    let (ours, peer) = stage.tcp_pair()?;
    let ep = stage.epoll()?;
    ep.add(&ours, OUT)?;
    peer.send(10)?;
    peer.shut_write()?;
    ours.recv(4096).is(10)?;
    let mut left = ANSWER - ours.try_send(ANSWER).within(1..=ANSWER as i64 - 1)?.count() as usize;
    ours.recv(4096).is(0)?;
    let reads = peer.clone();
    let client = stage.thread("client", move || reads.read_until(|_| false))?;
    while flush_first && left > 0 {
        ep.reports(OUT)?;
        left -= ours.try_send(left).count() as usize;
    }
    ours.close()?;
    client.join()?
}

/// More than the buffers of a connection take, and than a server should keep for a client.
const FLOOD: usize = 48 << 20;

/// A client that sends and never reads, and a server that echoes, and drops IN while more than `limit` bytes wait in
/// its queue. How much the client got rid of, until it could not go on or had sent a flood, and how long the queue was.
fn echo_to_one_who_does_not_read(stage: &Stage, limit: usize) -> Outcome<(usize, usize)> {
    let (ours, peer) = stage.tcp_pair()?;
    let ep = stage.epoll()?;
    ep.add(&ours, IN)?;
    ep.add(&peer, OUT)?;
    let (mut pushed, mut queued, mut stuck) = (0, 0, false);
    stage.silently(|| {
        while pushed < FLOOD && !stuck {
            let seen = ep.wait(500);
            stuck = seen.events().is_empty();
            for event in seen.events() {
                if event.name == peer.name {
                    pushed += peer.try_send(1 << 20).count() as usize;
                    continue;
                }
                queued += ours.recv(64 << 10).count() as usize;
                queued -= ours.try_send(queued.min(64 << 10)).count() as usize;
                if queued > limit {
                    ep.modify(&ours, NONE)?;
                }
            }
        }
        Ok(())
    })?;
    Ok((pushed, queued))
}

/// After so much of a flood the experiment, not the loop, loses patience.
const PATIENCE: usize = 8 << 20;

/// A loop, a client that sends as fast as it is read, and a neighbour that has sent a byte: how many bytes of the first
/// the loop reads before it comes to the second.
fn bytes_before_the_neighbour(stage: &Stage, budget: usize) -> Outcome<usize> {
    const CHUNK: usize = 32 << 10;
    let ((fast, flood), (slow, neighbour)) = (stage.tcp_pair()?, stage.tcp_pair()?);
    let ep = stage.epoll()?;
    ep.add(&fast, IN)?;
    ep.add(&slow, IN)?;
    flood.send(CHUNK)?;
    neighbour.send(1)?;
    stage.silently(|| {
        let mut read = 0;
        while read < PATIENCE {
            for event in ep.wait(stage.soon_ms()).is([IN, IN])?.events() {
                if event.name == slow.name {
                    return Ok(read);
                }
                let until = PATIENCE.min(read.saturating_add(budget));
                while read < until && !fast.recv(CHUNK).one_of([CHUNK.into(), EAGAIN.into()])?.failed() {
                    read += CHUNK;
                    flood.send(CHUNK)?;
                }
            }
        }
        Ok(read)
    })
}

/// The connections of this network namespace that are in TIME_WAIT.
fn in_time_wait() -> Outcome<i64> {
    let text = std::fs::read_to_string("/proc/net/sockstat")?;
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap_or("");
    let mut words = line.split(' ').skip_while(|word| *word != "tw");
    Ok(words.nth(1).and_then(|count| count.parse().ok()).unwrap_or(0))
}

/// A server serves a client, closes first, and ends; another one binds its port. Each with or without SO_REUSEADDR.
fn restart(stage: &Stage, old_reuses: bool, new_reuses: bool) -> Outcome<Seen> {
    let listener = stage.listener_with(8, |socket| socket.set_reuse_address(old_reuses))?;
    let address = listener.address()?;
    let client = stage.connect(&listener)?;
    listener.accept()?.close()?;
    client.close()?;
    listener.close()?;
    let options = format!("SO_REUSEADDR: the old server {}, the new one {}", yes(old_reuses), yes(new_reuses));
    stage.note(options);
    bind(stage, &address, new_reuses)
}

fn bind(stage: &Stage, address: &SockAddr, reuses: bool) -> Outcome<Seen> {
    let socket = Socket::new(address.domain(), socket2::Type::STREAM.cloexec(), None)?;
    socket.set_reuse_address(reuses)?;
    let error = |error: std::io::Error| error.raw_os_error().unwrap_or(libc::EIO);
    Ok(stage.answered("bind", socket.bind(address).map_err(error)))
}

const fn yes(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}
