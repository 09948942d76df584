//! What the buffers of a socket, its kind and its options change in what epoll tells.

use eagain::sys::children::end_with;
use eagain::sys::{net, raw};
use nix::errno::Errno;
use nix::unistd::{Uid, geteuid, getppid, setuid};
use socket2::{Domain, SockAddr, Socket, Type};

use super::super::prelude::*;
use super::super::server_bugs::clog;
use crate::lab::stage::{loopback, sysctl};

const SOCKET: i32 = libc::SOL_SOCKET;
const TCP: i32 = libc::IPPROTO_TCP;

pub(super) const EXPERIMENTS: [Experiment; 12] = [
    Experiment {
        id: "rcvlowat-holds-in",
        core: true,
        claim: "With SO_RCVLOWAT, IN is not reported before that many bytes are there, or the end of the stream.",
        source: "socket(7), SO_RCVLOWAT; tcp_poll()",
        why: "The kernel can wait for a whole header by itself, and the server is woken once.",
        since: (2, 6),
        changed: "before 2.6.28 poll and epoll did not look at it",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            ours.set_option(SOCKET, libc::SO_RCVLOWAT, "SO_RCVLOWAT", 100)?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN)?;
            peer.send(99)?;
            ep.quiet()?;
            peer.send(1)?;
            ep.reports(IN)?;
            ours.recv(100).is(100)?;
            peer.send(5)?;
            ep.quiet()?;
            peer.shut_write()?;
            ep.reports(IN)
        },
        mutation: fake_wait(1, &[IN]),
    },
    Experiment {
        id: "out-returns-at-a-third-free",
        core: false,
        claim: "After the send buffer of TCP was full, OUT does not come back before about a third of it is free.",
        source: "sk_stream_is_writeable(): at least half as much free as used; the manual is silent",
        why: "A byte that the peer has read is no event. A server that counts on one for each read of the peer waits.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            ours.set_option(SOCKET, libc::SO_SNDBUF, "SO_SNDBUF", 212_992)?;
            // Else the window grows by hundreds of kilobytes at once when the peer begins to read.
            peer.set_option(SOCKET, libc::SO_RCVBUF, "SO_RCVBUF", 16_384)?;
            let ep = stage.epoll()?;
            ep.add(&ours, OUT)?;
            fill_to_the_brim(&ours, &ep)?;
            let full = net::unsent_bytes(&ours)?;
            stage.note("the peer reads 4 kB at a time, until OUT is reported");
            let reads_and_is_out = || {
                let _ = peer.recv(4096);
                !ep.wait(2).events().is_empty()
            };
            // What the small buffer has dropped is sent again later and later: on a busy machine, after seconds.
            stage.silently(|| Ok((0..5).any(|_| stage.until(reads_and_is_out))))?;
            // How much less it is depends on how soon this is seen; none is left if OUT never came.
            stage.saw("percent still queued at OUT", net::unsent_bytes(&ours)? * 100 / full).within(1..=72)?;
            Ok(())
        },
        mutation: fake("percent still queued at OUT", 1, Lie::Count(99)),
    },
    Experiment {
        id: "unix-out-needs-quarter",
        core: false,
        claim: "A unix stream socket that was full is not writable before the peer has read about three quarters of \
                it.",
        source: "unix_writable(): at most a quarter of SO_SNDBUF in use; the manual is silent",
        why: "What was measured about write readiness over a socketpair is not true of TCP, and the other way round.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.unix_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, OUT)?;
            let (mut sent, mut read) = (0, 0);
            stage.note("ours sends 1 kB at a time until EAGAIN; the peer reads 1 kB at a time, until OUT is reported");
            stage.silently(|| {
                while ours.try_send(1024).count() == 1024 {
                    sent += 1024;
                }
                ep.reports_now(Answer::NOTHING)?;
                while ep.wait(0).events().is_empty() && read < sent {
                    read += peer.recv(1024).count();
                }
                Ok(())
            })?;
            stage.saw("percent read at OUT", read * 100 / sent).within(70..=80)?;
            Ok(())
        },
        mutation: fake("percent read at OUT", 1, Lie::Count(1)),
    },
    Experiment {
        id: "notsent-lowat-gates-out",
        core: false,
        claim: "With TCP_NOTSENT_LOWAT a socket is not writable, and takes nothing, while more than that is unsent, \
                however much room its buffer has.",
        source: "tcp(7), TCP_NOTSENT_LOWAT",
        why: "It keeps what is queued in the kernel short and fresh. It also explains sockets that 'are never \
              writable'.",
        since: (3, 12),
        changed: "",
        run: |stage| {
            let (ours, _peer) = stage.tcp_pair()?;
            let lowat = |bytes| ours.set_option(TCP, libc::TCP_NOTSENT_LOWAT, "TCP_NOTSENT_LOWAT", bytes);
            lowat(4096)?;
            let ep = stage.epoll()?;
            ep.add(&ours, OUT)?;
            clog(stage, &ours)?;
            ours.try_send(1000).is(EAGAIN)?;
            ep.quiet()?;
            lowat(-1)?;
            ep.reports(OUT)?;
            ours.try_send(1000).is(1000)?;
            Ok(())
        },
        mutation: fake("send", 1, Lie::Count(1000)),
    },
    Experiment {
        id: "udp-edge-per-datagram",
        core: false,
        claim: "Edge-triggered UDP: every datagram is an edge. One recv takes exactly one, and what is left is not \
                told again.",
        source: "epoll(7), questions and answers: 'packet/token-oriented files', only EAGAIN is the end",
        why: "With one recv for each event a server falls behind and stays there. A short read means nothing here.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = udp_pair(stage)?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | ET)?;
            for _ in 0..3 {
                peer.try_send(5).is(5)?;
                ep.reports(IN)?;
            }
            ours.recv(100).is(5)?;
            ep.quiet()?;
            ours.recv(100).is(5)?;
            ours.recv(100).is(5)?;
            ours.recv(100).is(EAGAIN)?;
            Ok(())
        },
        mutation: without(ET),
    },
    Experiment {
        id: "udp-icmp-error-is-err",
        core: false,
        claim: "A connected UDP socket whose peer's port is closed reports ERR, and its next recv says ECONNREFUSED.",
        source: "udp(7), ECONNREFUSED; ip(7)",
        why: "UDP has error events too, and a loop that does not read them off spins.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = udp_pair(stage)?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN)?;
            peer.close()?;
            ours.try_send(1).is(1)?;
            ep.reports(ERR)?;
            ours.recv(100).is(ECONNREFUSED)?;
            ep.quiet()
        },
        mutation: fake_wait(1, &[]),
    },
    Experiment {
        id: "err-is-not-always-an-error",
        core: true,
        claim: "ERR also means that the error queue has something. After a send with MSG_ZEROCOPY it is the notice of \
                completion: SO_ERROR is 0, and the connection works.",
        source: "tcp_poll(), sk_error_queue; the kernel's documentation of MSG_ZEROCOPY",
        why: "Who closes on ERR without a look at SO_ERROR kills healthy connections.",
        since: (4, 14),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, NONE)?;
            ours.set_option(SOCKET, libc::SO_ZEROCOPY, "SO_ZEROCOPY", 1)?;
            let sent = ours.socket().send_with_flags(&[b'.'; 20_000], libc::MSG_ZEROCOPY)?;
            stage.saw("send(ours, 20 kB, ZEROCOPY)", sent).is(20_000)?;
            ep.reports(ERR)?;
            ours.so_error().is("0")?;
            ours.recv_flags(1, libc::MSG_ERRQUEUE, "ERRQUEUE").is(0)?;
            ep.quiet()?;
            ours.send(1)?;
            peer.read_until(|sum| sum == 20_001)?;
            Ok(())
        },
        mutation: fake("getsockopt", 1, Lie::Text("ECONNRESET")),
    },
    Experiment {
        id: "reuseport-splits-by-hash",
        core: false,
        claim: "Listeners with SO_REUSEPORT share the connections about evenly, by a hash of the addresses, whether or \
                not anybody accepts.",
        source: "socket(7), SO_REUSEPORT; reuseport_select_sock()",
        why: "Balance without a herd. But who connects to a stuck worker's share waits for that worker.",
        since: (3, 9),
        changed: "",
        run: |stage| {
            let listeners = listeners_of_one_port(stage, 4)?;
            let _clients = connect_many(stage, &listeners, 200)?;
            for listener in &listeners {
                listener.queue().within(15..=100)?;
            }
            Ok(())
        },
        mutation: fake("queue", 1, Lie::Count(0)),
    },
    Experiment {
        id: "reuseport-close-drops-queue",
        core: false,
        claim: "Closing one of several SO_REUSEPORT listeners resets the connections that wait in its queue.",
        source: "inet_csk_listen_stop(); the kernel's ip-sysctl, tcp_migrate_req",
        why: "A worker that leaves must accept what has queued up before it closes its listener.",
        since: (3, 9),
        changed: "since 5.14 net.ipv4.tcp_migrate_req = 1 hands them to the other listeners",
        run: |stage| {
            if sysctl("/proc/sys/net/ipv4/tcp_migrate_req").is_ok_and(|migrates| migrates != 0) {
                return stage.not_tested("net.ipv4.tcp_migrate_req is set in this network namespace");
            }
            let mut listeners = listeners_of_one_port(stage, 2)?;
            let clients = connect_many(stage, &listeners, 40)?;
            let Some(leaving) = listeners.pop() else { return Ok(()) };
            let waiting = leaving.queue().within(1..=40)?.count();
            leaving.close()?;
            stage.until(|| resets(&clients) >= waiting);
            stage.saw("clients that were reset", resets(&clients)).is(waiting)?;
            Ok(())
        },
        mutation: fake("clients that were reset", 1, Lie::Count(0)),
    },
    Experiment {
        id: "defer-accept-hides-silent-clients",
        core: false,
        claim: "With TCP_DEFER_ACCEPT a listener is not readable before a client has sent something, though the client \
                is connected as far as it knows.",
        source: "tcp(7), TCP_DEFER_ACCEPT",
        why: "No wake-up for clients that are silent. Not for protocols in which the server speaks first: it would \
              not.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let listener = stage.listener(8)?;
            listener.set_option(TCP, libc::TCP_DEFER_ACCEPT, "TCP_DEFER_ACCEPT", 3)?;
            let ep = stage.epoll()?;
            ep.add(&listener, IN)?;
            let client = stage.connect_now(&listener)?;
            ep.quiet()?;
            client.send(1)?;
            ep.reports(IN)?;
            listener.accept()?.recv(100).is(1)?;
            Ok(())
        },
        mutation: fake_wait(1, &[IN]),
    },
    Experiment {
        id: "busy-poll-params",
        core: false,
        claim: "EPIOCSPARAMS and EPIOCGPARAMS set and get busy polling for one epoll: EINVAL if the padding is not 0 \
                or prefer is above 1, EPERM for a budget above 64 without CAP_NET_ADMIN, ENOTTY if it is no epoll.",
        source: "ioctl_eventpoll(2)",
        why: "Latency for processor time, with real network cards. On the loopback it changes nothing.",
        since: (6, 9),
        changed: "6.9: EPIOCSPARAMS (18e2bf0edf4d)",
        run: |stage| {
            let ep = stage.file("ep", raw::epoll_create1(libc::EPOLL_CLOEXEC).map_err(Errno::from_raw)?);
            let (pipe, _writer) = stage.pipe()?;
            stage.saw("EPIOCGPARAMS", busy_poll(&ep)?).is("0 us, 0 packets, prefer 0")?;
            let wanted = raw::BusyPoll { usecs: 40, budget: 8, prefer: 1, pad: 0 };
            stage.answered("EPIOCSPARAMS", raw::set_busy_poll(&ep, wanted)).is(())?;
            stage.saw("EPIOCGPARAMS", busy_poll(&ep)?).is("40 us, 8 packets, prefer 1")?;
            for (what, params, error) in [
                ("EPIOCSPARAMS with pad 1", raw::BusyPoll { pad: 1, ..wanted }, EINVAL),
                ("EPIOCSPARAMS with prefer 2", raw::BusyPoll { prefer: 2, ..wanted }, EINVAL),
            ] {
                stage.answered(what, raw::set_busy_poll(&ep, params)).is(error)?;
            }
            stage.answered("EPIOCSPARAMS of a pipe", raw::set_busy_poll(&pipe, wanted)).is(ENOTTY)?;
            become_nobody(stage)?;
            let much = raw::BusyPoll { budget: 65, ..wanted };
            stage.answered("EPIOCSPARAMS with budget 65", raw::set_busy_poll(&ep, much)).is(EPERM)?;
            Ok(())
        },
        mutation: fake("EPIOCSPARAMS with pad 1", 1, Lie::Done),
    },
    Experiment {
        id: "so-busy-poll-is-per-socket",
        core: false,
        claim: "SO_BUSY_POLL changes nothing in what epoll tells of a socket. It acts on sockets that a network card's \
                queue feeds; one of the loopback has no such queue.",
        source: "socket(7), SO_BUSY_POLL and SO_INCOMING_NAPI_ID",
        why: "It is a knob for latency. No semantics hang on it.",
        since: (4, 12),
        changed: "older kernels let only CAP_NET_ADMIN raise it, as socket(7) says; 6.18 does not ask",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            if ours.try_set_option(SOCKET, libc::SO_BUSY_POLL, "SO_BUSY_POLL", 50).failed() {
                return stage.not_tested("this kernel wants CAP_NET_ADMIN for SO_BUSY_POLL, or has none");
            }
            let ep = stage.epoll()?;
            ep.add(&ours, IN | ET)?;
            ep.quiet()?;
            peer.send(1)?;
            ep.reports(IN)?;
            ep.quiet()?;
            ours.recv(100).is(1)?;
            stage.saw("SO_INCOMING_NAPI_ID", ours.get_option(SOCKET, libc::SO_INCOMING_NAPI_ID)?).is(0)?;
            Ok(())
        },
        mutation: without(ET),
    },
];

/// Sends until the socket takes no more and stays so, where a receive buffer is so small that what does not fit is
/// dropped, and sent again later and later: that it is acknowledged is not to be waited for.
fn fill_to_the_brim(file: &File, ep: &Ep) -> Outcome {
    let mut quiet = false;
    // Also after the rest: on a busy machine an acknowledgement came later than that, and made room.
    while file.fill()? > 0 || !quiet {
        quiet = ep.wait(50).events().is_empty();
    }
    Ok(())
}

/// Two UDP sockets that are connected to each other.
fn udp_pair(stage: &Stage) -> Outcome<(File, File)> {
    let socket = || -> Outcome<(Socket, SockAddr)> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM.cloexec().nonblocking(), None)?;
        socket.bind(&loopback().into())?;
        let address = socket.local_addr()?;
        Ok((socket, address))
    };
    let ((ours, our_address), (peer, peer_address)) = (socket()?, socket()?);
    ours.connect(&peer_address)?;
    peer.connect(&our_address)?;
    stage.note("two UDP sockets, connected to each other: ours, peer");
    Ok((stage.file("ours", ours), stage.file("peer", peer)))
}

/// Listeners with SO_REUSEPORT on one port of the loopback.
fn listeners_of_one_port(stage: &Stage, count: usize) -> Outcome<Vec<File>> {
    let mut address: SockAddr = loopback().into();
    let mut listeners = Vec::new();
    for _ in 0..count {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec().nonblocking(), None)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address)?;
        socket.listen(128)?;
        address = socket.local_addr()?;
        listeners.push(stage.file("listener", socket));
    }
    stage.note(format_args!("{count} listeners of one port, with SO_REUSEPORT"));
    Ok(listeners)
}

/// Connects so many clients, which are all in a queue when this returns.
fn connect_many(stage: &Stage, listeners: &[File], count: u32) -> Outcome<Vec<File>> {
    let Some(one) = listeners.first() else { return Ok(Vec::new()) };
    stage.note(format_args!("{count} clients connect"));
    let clients = stage.silently(|| (0..count).map(|_| stage.connect_now(one)).collect())?;
    let queue = |one| raw::tcp_info(one).map_or(0, |info| info.tcpi_unacked);
    if stage.until(|| listeners.iter().map(queue).sum::<u32>() == count) {
        Ok(clients)
    } else {
        stage.not_tested("not all clients came to a queue")
    }
}

/// How many of them have seen the end of their connection.
fn resets(clients: &[File]) -> i64 {
    let numbers: Vec<_> = clients.iter().map(|client| (client.number(), 0)).collect();
    let told = raw::poll(&numbers, 0).unwrap_or_default();
    told.into_iter().filter(|bits| bits & libc::POLLERR != 0).count() as i64
}

fn busy_poll(ep: &File) -> Outcome<String> {
    let params = raw::busy_poll(ep).map_err(Errno::from_raw)?;
    Ok(format!("{} us, {} packets, prefer {}", params.usecs, params.budget, params.prefer))
}

/// Gives up root's privileges, if there are any.
fn become_nobody(stage: &Stage) -> Outcome {
    if geteuid().is_root() {
        let parent = getppid();
        let refused = |errno| stage.not_tested(format_args!("root may not become another user here: {errno}"));
        setuid(Uid::from_raw(65_534)).or_else(refused)?;
        // The kernel has forgotten it.
        end_with(parent)?;
        stage.note("from here on without root's privileges");
    }
    Ok(())
}
