//! Sockets and their ends: what a connection's start, its end and its errors look like. What options and buffers change
//! is in [`options`].

mod options;

use std::net::Ipv4Addr;

use nix::errno::Errno;
use socket2::{Domain, Socket, Type};

use super::prelude::*;
use crate::lab::experiment::join;
use crate::lab::stage::closed_port;

pub(crate) static GROUP: Group = Group { name: "sockets", title: "sockets and their ends", experiments: EXPERIMENTS };

const EXPERIMENTS: &[Experiment] = &join::<20, 12, 32>(ENDS, options::EXPERIMENTS);

/// What a socket can have at once that is readable, has its end and an error.
const EVERYTHING: Mask = IN.and(OUT).and(ERR).and(HUP).and(RDHUP);

/// A socket that is neither bound nor connected, non-blocking.
fn socket(stage: &Stage, label: &str, domain: Domain, kind: Type) -> Outcome<File> {
    stage.note(format_args!("{label} = a new socket"));
    Ok(stage.file(label, Socket::new(domain, kind.cloexec().nonblocking(), None)?))
}

const ENDS: [Experiment; 20] = [
    Experiment {
        id: "fresh-tcp-socket-hup",
        core: true,
        claim: "A TCP or unix stream socket that is neither connected nor listening reports OUT|HUP as soon as it is \
                registered. A UDP socket reports OUT, a listener nothing.",
        source: "tcp_poll(): the state TCP_CLOSE is HUP; the manual is silent",
        why: "Who registers before connect() gets a hang-up for a first event. Start to connect, then register.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let listener = stage.listener(1)?;
            for (file, expected) in [
                (socket(stage, "tcp", Domain::IPV4, Type::STREAM)?, (OUT | HUP).into()),
                (socket(stage, "unix", Domain::UNIX, Type::STREAM)?, (OUT | HUP).into()),
                (socket(stage, "udp", Domain::IPV4, Type::DGRAM)?, OUT.into()),
                (listener, Answer::NOTHING),
            ] {
                let ep = stage.epoll()?;
                ep.add(&file, IN | OUT)?;
                ep.reports_now(expected)?;
            }
            Ok(())
        },
        mutation: without(OUT),
    },
    Experiment {
        id: "connect-success-is-out",
        core: false,
        claim: "A non-blocking connect that succeeds is reported as OUT, and SO_ERROR is 0.",
        source: "connect(2), EINPROGRESS",
        why: "OUT alone is no success, as a refusal has it too. SO_ERROR tells them apart.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let listener = stage.listener(1)?;
            let ep = stage.epoll()?;
            let (client, connecting) = stage.try_connect(&listener.address()?)?;
            connecting.is(EINPROGRESS)?;
            ep.add(&client, IN | OUT | RDHUP)?;
            ep.reports(OUT)?;
            client.so_error().is("0")?;
            Ok(())
        },
        mutation: without(OUT),
    },
    Experiment {
        id: "connect-refused-mask",
        core: true,
        claim: "A connect that is refused reports IN|OUT|ERR|HUP|RDHUP, though there is nothing to read and nowhere to \
                write. SO_ERROR says ECONNREFUSED, once, and takes ERR with it.",
        source: "tcp_reset(), tcp_poll(); the manual is silent",
        why: "Code that tests IN or OUT first takes a refusal for a success.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (client, connecting) = stage.try_connect(&closed_port()?)?;
            connecting.is(EINPROGRESS)?;
            let ep = stage.epoll()?;
            ep.add(&client, IN | OUT | RDHUP)?;
            ep.reports(EVERYTHING)?;
            client.so_error().is("ECONNREFUSED")?;
            ep.reports(IN | OUT | HUP | RDHUP)
        },
        mutation: fake_wait(1, &[OUT.and(ERR).and(HUP)]),
    },
    Experiment {
        id: "half-close-is-rdhup-not-hup",
        core: true,
        claim: "A peer that ends its sending direction is IN|RDHUP, not HUP. OUT stays, and the answer still arrives.",
        source: "epoll_ctl(2), EPOLLRDHUP; RFC 9293, 3.6: a half-closed connection",
        why: "A server that closes at the end of the input cuts off the answer to clients that half-close: nc -N, \
              HTTP/1.0.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | OUT | RDHUP)?;
            peer.shut_write()?;
            ep.reports(IN | OUT | RDHUP)?;
            ours.recv(100).is(0)?;
            ours.say(b"answer")?;
            peer.hear(100).is("answer")?;
            Ok(())
        },
        mutation: fake_wait(1, &[IN.and(OUT).and(HUP).and(RDHUP)]),
    },
    Experiment {
        id: "peer-close-is-not-hup",
        core: true,
        claim: "A peer that simply closes is IN, and RDHUP if asked for, but not HUP. HUP needs both directions shut, \
                or a reset.",
        source: "tcp_poll(): HUP if both directions are shut; epoll_ctl(2) says 'peer closed its end of the channel'",
        why: "'else if HUP: the client has gone' is a branch that no ordinary client ever enters.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | OUT | RDHUP)?;
            peer.close()?;
            ep.reports(IN | OUT | RDHUP)?;
            ours.recv(100).is(0)?;
            ours.shut_write()?;
            let told = ep.wait(1000);
            stage.saw("HUP is told", told.events().iter().any(|event| event.mask.has(HUP))).is(true)?;
            Ok(())
        },
        mutation: fake_wait(1, &[IN.and(OUT).and(HUP).and(RDHUP)]),
    },
    Experiment {
        id: "rdhup-only-if-asked",
        core: false,
        claim: "RDHUP is reported only if it was asked for; HUP and ERR come unasked.",
        source: "epoll_ctl(2), EPOLLRDHUP",
        why: "Without it the end of the stream is an IN like any other, after which recv says 0.",
        since: (2, 6),
        changed: "since 2.6.17; before, there was no such bit",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN)?;
            peer.shut_write()?;
            ep.reports(IN)?;
            ep.modify(&ours, IN | RDHUP)?;
            ep.reports(IN | RDHUP)?;

            let (ours, peer) = stage.tcp_pair()?;
            let nothing_asked = stage.epoll()?;
            nothing_asked.add(&ours, NONE)?;
            peer.reset()?;
            nothing_asked.reports(ERR | HUP)
        },
        mutation: with(RDHUP),
    },
    Experiment {
        id: "rdhup-with-unread-data",
        core: false,
        claim: "RDHUP comes while received data is still unread: it does not mean that there is nothing more to read.",
        source: "epoll_ctl(2), EPOLLRDHUP: the peer has shut its writing half, and that is all",
        why: "A server that closes when it sees RDHUP loses the last request. Read to the end, then close.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | RDHUP)?;
            peer.send(10_000)?;
            peer.close()?;
            ep.reports(IN | RDHUP)?;
            ours.recv(6000).is(6000)?;
            ours.recv(6000).is(4000)?;
            ours.recv(6000).is(0)?;
            Ok(())
        },
        mutation: without(RDHUP),
    },
    Experiment {
        id: "eof-is-level-ready-forever",
        core: false,
        claim: "After the end of the stream a level-triggered IN is ready in every wait, and recv says 0 each time.",
        source: "poll(2): a read that would return 0 does not block",
        why: "A handler that does not act on a recv of 0 keeps a processor busy.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN)?;
            peer.close()?;
            stage.rounds(1000, |_| {
                ep.reports(IN)?;
                ours.recv(100).is(0)?;
                Ok(())
            })
        },
        mutation: with(ET),
    },
    Experiment {
        id: "rst-mask",
        core: true,
        claim: "A reset reports IN|OUT|ERR|HUP|RDHUP. The first recv says ECONNRESET, the next one 0, a send EPIPE; \
                then ERR is gone and HUP stays.",
        source: "tcp_reset(); the manual is silent",
        why: "The reason is told once. Who sees IN, reads, and drops the error takes the reset for an ordinary end.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | OUT | RDHUP)?;
            peer.reset()?;
            ep.reports(EVERYTHING)?;
            ours.recv(100).is(ECONNRESET)?;
            ours.recv(100).is(0)?;
            ours.try_send(1).is(EPIPE)?;
            ep.reports(IN | OUT | HUP | RDHUP)
        },
        mutation: fake("recv", 2, Lie::Fails(ECONNRESET)),
    },
    Experiment {
        id: "rst-keeps-received-data",
        core: false,
        claim: "What was received before a reset can still be read: recv gives the data, then ECONNRESET once, then 0.",
        source: "tcp_reset() leaves the receive queue; POSIX leaves it open, and other systems throw the data away",
        why: "An event with ERR and HUP may have a whole request behind it. Read first, but do not rely on it \
              elsewhere.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            peer.say(b"0123456789")?;
            peer.reset()?;
            ours.hear(100).is("0123456789")?;
            ours.recv(100).is(ECONNRESET)?;
            ours.recv(100).is(0)?;
            Ok(())
        },
        mutation: fake("recv", 1, Lie::Fails(ECONNRESET)),
    },
    Experiment {
        id: "so-error-clears-err",
        core: false,
        claim: "Reading SO_ERROR takes the error away, and ERR with it. HUP stays.",
        source: "socket(7), SO_ERROR: 'Get and clear the pending socket error'",
        why: "Whoever reads it first is the only one to learn the reason: read it once, log it, close.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN)?;
            peer.reset()?;
            ep.reports(IN | ERR | HUP)?;
            ours.so_error().is("ECONNRESET")?;
            ours.so_error().is("0")?;
            ep.reports(IN | HUP)
        },
        mutation: fake("getsockopt", 2, Lie::Text("ECONNRESET")),
    },
    Experiment {
        id: "close-with-unread-input-sends-rst",
        core: true,
        claim: "Closing a socket that has unread input sends a reset instead of a FIN: the peer sees ERR and HUP, and \
                ECONNRESET after what it had received already.",
        source: "RFC 2525, 2.17; tcp_close()",
        why: "'Answer and close' can cost the client its answer. End the sending direction, read to the end, then \
              close.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let client = stage.epoll()?;
            client.add(&peer, IN | OUT | RDHUP)?;
            peer.say(b"first second")?;
            ours.hear(6).is("first ")?;
            ours.say(b"bye")?;
            ours.close()?;
            client.reports(EVERYTHING)?;
            peer.hear(100).is("bye")?;
            peer.recv(100).is(ECONNRESET)?;
            Ok(())
        },
        mutation: fake_wait(1, &[IN.and(OUT).and(RDHUP)]),
    },
    Experiment {
        id: "first-write-after-peer-close-succeeds",
        core: false,
        claim: "After the peer's close the first send succeeds. It draws a reset, and only the next one fails, by \
                EPIPE.",
        source: "RFC 9293, 3.10.7.1: a segment to a closed connection is answered by a reset; send(2), EPIPE",
        why: "A send that succeeds proves nothing about delivery. And EPIPE comes with SIGPIPE, unless one asks for \
              none.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, NONE)?;
            peer.close()?;
            ours.try_send(1).is(1)?;
            ep.reports(ERR | HUP)?;
            ours.try_send(1).is(EPIPE)?;
            Ok(())
        },
        mutation: fake("send", 1, Lie::Fails(EPIPE)),
    },
    Experiment {
        id: "oob-is-pri",
        core: true,
        claim: "Urgent data of TCP is PRI, if asked for, and not IN; recv with MSG_OOB takes its one byte. With \
                SO_OOBINLINE it comes in the stream, and is IN as well.",
        source: "tcp(7); poll(2), POLLPRI",
        why: "To a loop without an interest in PRI an urgent byte is invisible, and the stream does not have it \
              either.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | PRI)?;
            peer.send_urgent()?;
            ep.reports(PRI)?;
            ep.modify(&ours, IN)?;
            ep.quiet()?;
            ours.recv_flags(1, libc::MSG_OOB, "OOB").is(1)?;

            let (inline, peer) = stage.tcp_pair()?;
            inline.set_option(libc::SOL_SOCKET, libc::SO_OOBINLINE, "SO_OOBINLINE", 1)?;
            ep.add(&inline, IN | PRI)?;
            peer.send_urgent()?;
            ep.reports(IN | PRI)
        },
        mutation: without(PRI),
    },
    Experiment {
        id: "shutdown-rd-reports-eof-yet-accepts-data",
        core: false,
        claim: "Our own shutdown(RD) is IN|RDHUP at once and recv says 0. But what the peer sends later can still be \
                received.",
        source: "tcp_poll() and tcp_recvmsg(); tcp(7) and shutdown(2) are silent",
        why: "It is no protection against a talkative peer: nothing is refused, and the buffer fills.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | RDHUP)?;
            ours.shut_read()?;
            ep.reports(IN | RDHUP)?;
            ours.recv(100).is(0)?;
            peer.say(b"late")?;
            ours.hear(100).is("late")?;
            Ok(())
        },
        mutation: fake("recv", 2, Lie::Count(0)),
    },
    Experiment {
        id: "listener-shutdown-wakes",
        core: true,
        claim: "shutdown(RD) on a listener wakes who waits for it, by HUP alone. accept then says EINVAL, and who \
                connects is refused.",
        source: "inet_shutdown(): a listener is disconnected; the manual is silent",
        why: "A way to stop acceptors in other threads without one more descriptor. On Linux only.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let listener = stage.listener(8)?;
            let address = listener.address()?;
            let ep = stage.epoll()?;
            ep.add(&listener, IN)?;
            let waiter = ep.waiter("A", 2_000)?;
            listener.shut_read()?;
            waiter.join()?.is(HUP)?;
            listener.try_accept().1.is(EINVAL)?;
            let (late, _) = stage.try_connect(&address)?;
            let ep = stage.epoll()?;
            ep.add(&late, NONE)?;
            ep.reports(ERR | HUP)?;
            late.so_error().is("ECONNREFUSED")?;
            Ok(())
        },
        mutation: fake_wait(1, &[IN]),
    },
    Experiment {
        id: "accept-after-client-rst",
        core: true,
        claim: "A client that resets before it was accepted is accepted all the same. It is the first recv that says \
                ECONNRESET.",
        source: "inet_csk_accept(); accept(2) lists ECONNABORTED, which Linux does not return here",
        why: "The accept loop need not fear clients that have gone. The reading path must be ready for them.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let listener = stage.listener(8)?;
            let ep = stage.epoll()?;
            ep.add(&listener, IN)?;
            let client = stage.connect(&listener)?;
            let ports = (port_of(&listener)?, port_of(&client)?);
            client.reset()?;
            await_no_connection(stage, ports)?;
            ep.reports(IN)?;
            let accepted = listener.accept()?;
            accepted.recv(100).is(ECONNRESET)?;
            Ok(())
        },
        mutation: fake("accept4", 1, Lie::Fails(ECONNABORTED)),
    },
    Experiment {
        id: "socketpair-close-is-hup",
        core: true,
        claim: "On a unix socketpair the peer's close is IN|RDHUP|HUP at once. If it only ends its sending direction, \
                it is IN|RDHUP.",
        source: "unix_release_sock() shuts both directions of the peer; the manual is silent",
        why: "A test over a socketpair sees a HUP that the server's TCP clients never cause.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.unix_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | OUT | RDHUP)?;
            peer.shut_write()?;
            ep.reports(IN | OUT | RDHUP)?;
            peer.close()?;
            ep.reports(IN | OUT | HUP | RDHUP)
        },
        mutation: fake_wait(2, &[IN.and(OUT).and(RDHUP)]),
    },
    Experiment {
        id: "socketpair-close-with-unread-is-reset",
        core: false,
        claim: "A unix stream socket that is closed with unread input gives its peer ERR and ECONNRESET, as TCP does.",
        source: "unix_release_sock(); the manual is silent",
        why: "Reading to the end before close is the rule on unix sockets too.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.unix_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | OUT | RDHUP)?;
            ours.send(1)?;
            peer.close()?;
            ep.reports(EVERYTHING)?;
            ours.recv(100).is(ECONNRESET)?;
            Ok(())
        },
        mutation: fake_wait(1, &[IN.and(OUT).and(HUP).and(RDHUP)]),
    },
    Experiment {
        id: "tcp-socketpair-emulation-hole",
        core: false,
        claim: "A pair that is made by listen, connect and accept can be hijacked: accept returns whoever came first.",
        source: "accept(2), 'the first connection request on the queue'; CVE-2024-3219 in CPython's emulation",
        why: "Use socketpair or an eventfd. If it must be TCP, compare the addresses of both ends.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let listener = stage.listener(8)?;
            let stranger = stage.connect(&listener)?;
            let ours = stage.connect(&listener)?;
            let accepted = listener.accept()?;
            let peer = accepted.socket().peer_addr()?.as_socket();
            stage.saw("the other end is ours", peer == ours.address()?.as_socket()).is(false)?;
            stage.saw("the other end is the stranger", peer == stranger.address()?.as_socket()).is(true)?;
            Ok(())
        },
        mutation: fake("the other end is ours", 1, Lie::Text("yes")),
    },
];

fn port_of(socket: &File) -> Outcome<u16> {
    Ok(socket.address()?.as_socket().ok_or(Errno::EAFNOSUPPORT)?.port())
}

/// Waits until the kernel has no connection any more between these two ports: a reset has arrived at a socket that
/// nobody has accepted yet, and so nobody can look at.
fn await_no_connection(stage: &Stage, (ours, peer): (u16, u16)) -> Outcome {
    let here = u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets());
    let line = format!(" {here:08X}:{ours:04X} {here:08X}:{peer:04X} ");
    let gone = || std::fs::read_to_string("/proc/net/tcp").is_ok_and(|table| !table.contains(&line));
    if stage.until(gone) { Ok(()) } else { stage.not_tested("the reset did not arrive") }
}
