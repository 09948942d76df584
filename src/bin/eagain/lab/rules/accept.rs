//! The accept queue.

use std::time::{Duration, Instant};

use eagain::sys::{net, raw};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, SockAddr, Socket, Type};

use super::prelude::*;
use crate::lab::stage::sysctl;

pub(crate) static GROUP: Group = Group { name: "accept", title: "the accept queue", experiments: EXPERIMENTS };

const EXPERIMENTS: &[Experiment] = &[
    Experiment {
        id: "handshake-needs-no-accept",
        core: true,
        claim: "The kernel completes handshakes by itself: a client connects, sends and is acknowledged before accept \
                is ever called.",
        source: "listen(2); tcp(7)",
        why: "Connected does not mean served. A client that wants to know needs an answer, and a timeout.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let listener = stage.listener(8)?;
            let client = stage.connect(&listener)?;
            client.send(1000)?;
            stage.until(|| net::unsent_bytes(&client).is_ok_and(|bytes| bytes == 0));
            stage.saw("bytes not acknowledged", net::unsent_bytes(&client)?).is(0)?;
            listener.queue().is(1)?;
            let conn = listener.accept()?;
            conn.recv(4096).is(1000)?;
            Ok(())
        },
        mutation: fake("bytes not acknowledged", 1, Lie::Count(1000)),
    },
    Experiment {
        id: "somaxconn-clamps-silently",
        core: true,
        claim: "listen with a backlog above net.core.somaxconn succeeds, and the queue is no longer than somaxconn.",
        source: "listen(2)",
        why: "A bigger number in the program alone does nothing. Look at the queue's limit, not at your argument: ss \
              -lt shows it as Send-Q.",
        since: (2, 6),
        changed: "5.4: the default of somaxconn is 4096; it was 128",
        run: |stage| {
            let somaxconn = sysctl("/proc/sys/net/core/somaxconn")?;
            stage.note(format_args!("net.core.somaxconn is {somaxconn}"));
            let listener = stage.listener(i32::try_from(somaxconn + 1).unwrap_or(i32::MAX))?;
            let limit = raw::tcp_info(&listener).map_err(Errno::from_raw)?.tcpi_sacked;
            stage.saw("limit of the accept queue", limit).is(somaxconn)?;
            Ok(())
        },
        mutation: fake("limit of the accept queue", 1, Lie::Count(100_000)),
    },
    Experiment {
        id: "backlog-plus-one",
        core: true,
        claim: "A backlog of n lets n + 1 connections wait to be accepted; of 0, one.",
        source: "sk_acceptq_is_full() compares with >; listen(2) is silent",
        why: "Tests that count refused clients are wrong by one, and listen(0) is no way to close a door.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            for backlog in [0, 1, 4] {
                let listener = stage.listener(backlog)?;
                for _ in 0..=backlog {
                    stage.connect(&listener)?;
                }
                listener.queue().is(backlog + 1)?;
                let (one_more, seen) = stage.try_connect(&listener.address()?)?;
                seen.is(EINPROGRESS)?;
                let ep = stage.epoll()?;
                ep.add(&one_more, OUT)?;
                ep.quiet()?;
                listener.queue().is(backlog + 1)?;
            }
            Ok(())
        },
        mutation: fake("queue", 5, Lie::Count(4)),
    },
    Experiment {
        id: "overflow-drops-silently",
        core: true,
        claim: "With the accept queue full a client's SYN is dropped, not refused: connect hangs, and goes on with the \
                next SYN, a second later, if there is room by then. ListenOverflows counts it.",
        source: "tcp_conn_request(); tcp(7) says so of tcp_abort_on_overflow only",
        why: "Overload looks like steps of a second in the latency, not like errors. It is often believed that a full \
              backlog refuses connections.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let listener = stage.listener(1)?;
            let _first = stage.connect(&listener)?;
            let _second = stage.connect(&listener)?;
            let (dropped, since) = (tcp_counter("ListenOverflows")?, Instant::now());
            let (late, seen) = stage.try_connect(&listener.address()?)?;
            seen.is(EINPROGRESS)?;
            let ep = stage.epoll()?;
            ep.add(&late, OUT)?;
            ep.wait(300).is(Answer::NOTHING)?;
            stage.saw("more overflows counted", tcp_counter("ListenOverflows")? - dropped).at_least(1)?;
            listener.accept()?;
            ep.reports(OUT)?;
            stage.saw("milliseconds until it was connected", since.elapsed().as_millis() as u64).at_least(900)?;
            Ok(())
        },
        mutation: fake("connect", 3, Lie::Fails(ECONNREFUSED)),
    },
    Experiment {
        id: "burst-beyond-backlog-costs-seconds",
        core: true,
        claim: "Of 100 clients that come at once to a backlog of 10 none is refused; 11 are served, and the others \
                wait for their next SYN a second later. With a backlog of 128 all are there at once.",
        source: "listen(2); tcp_conn_request(); tcp_retransmit_timer()",
        why: "The backlog is room for a burst, not a limit of connections. A small one turns a burst into seconds of \
              latency, however fast the server accepts.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (narrow, wide) = (stage.listener(10)?, stage.listener(128)?);
            let ep = stage.epoll()?;
            ep.add(&narrow, IN)?;
            let since = Instant::now();
            let clients = burst(stage, &narrow, 100)?;
            stage.until(|| queued(&narrow) > 10);
            let served = accept_until_quiet(stage, &ep, &narrow, 300)?;
            if served.len() > 60 && since.elapsed().as_millis() > 900 {
                return stage.not_tested("100 clients need longer to connect than they wait for an answer, a second");
            }
            stage.saw("served before the next SYN", served.len()).within(11..=60)?;
            ep.reports(IN)?;
            stage.saw("milliseconds until more came", since.elapsed().as_millis() as u64).at_least(900)?;
            stage.saw("clients that were refused", clients.iter().filter(|client| failed(client)).count()).is(0)?;

            let _clients = burst(stage, &wide, 100)?;
            stage.until(|| queued(&wide) >= 100);
            wide.queue().is(100)?;
            Ok(())
        },
        mutation: fake("served before the next SYN", 1, Lie::Count(100)),
    },
    Experiment {
        id: "phantom-connections",
        core: true,
        claim: "With SYN cookies a burst over a small backlog leaves phantoms: clients whose connect succeeded and of \
                whom the server knows nothing, until they send.",
        source: "cookie_v4_check() and sk_acceptq_is_full(); the manual is silent",
        why: "The SYN queue was full, so a cookie answered; the accept queue is full when the last packet of the \
              handshake comes, so it is dropped. If the server speaks first, both wait for ever: a big backlog, and \
              timeouts in the client.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            if sysctl("/proc/sys/net/ipv4/tcp_syncookies")? != 1 {
                return stage.not_tested("net.ipv4.tcp_syncookies is not 1");
            }
            let listener = stage.listener(1)?;
            let ep = stage.epoll()?;
            ep.add(&listener, IN)?;
            let clients = hesitant_clients(stage, &listener, 20)?;
            // Nobody accepts before the last packets have come: a quick server would make room for one after the other.
            stage.note("300 ms pass");
            std::thread::sleep(Duration::from_millis(300));
            let known = accept_until_quiet(stage, &ep, &listener, 1_200)?;
            let connected: Vec<_> = clients.into_iter().filter(is_connected).collect();
            let count = stage.saw("clients whose connect succeeded", connected.len()).at_least(3)?.count();
            stage.saw("of which the server knows", known.len()).within(1..=count - 1)?;
            stage.rounds(connected.len(), |at| connected[at].try_send(1).is(1).map(drop))?;
            let woken = accept_until_quiet(stage, &ep, &listener, 800)?;
            stage.saw("phantoms that came to life when they sent", woken.len()).at_least(1)?;
            Ok(())
        },
        mutation: fake("of which the server knows", 1, Lie::Count(20)),
    },
    Experiment {
        id: "overflow-at-the-final-ack",
        core: false,
        claim: "If the accept queue is full when the last packet of a handshake comes, the client is connected, as it \
                knows. The packet is dropped, and it waits; with net.ipv4.tcp_abort_on_overflow it is reset.",
        source: "tcp(7), tcp_abort_on_overflow; tcp_v4_syn_recv_sock(), tcp_check_req()",
        why: "Overload makes connections that nobody answers, or that end with ECONNRESET though connect succeeded.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            own_network(stage)?;
            for (abort, resets) in [("0", 0), ("1", 6)] {
                std::fs::write("/proc/sys/net/ipv4/tcp_abort_on_overflow", abort)?;
                stage.note(format_args!("tcp_abort_on_overflow is {abort}"));
                let listener = stage.listener(8)?;
                // The last packet counts only when it brings data.
                listener.set_option(libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, "TCP_DEFER_ACCEPT", 10)?;
                let clients = burst(stage, &listener, 8)?;
                stage.until(|| clients.iter().all(is_connected));
                listener.socket().listen(1)?;
                stage.note("listen(listener, 1): two places are left");
                let before = tcp_counter("ListenOverflows")?;
                stage.rounds(8, |at| clients[at].try_send(1).is(1).map(drop))?;
                stage.until(|| tcp_counter("ListenOverflows").is_ok_and(|now| now >= before + 6));
                listener.queue().is(2)?;
                let count = |what: fn(&File) -> bool| clients.iter().filter(|client| what(client)).count();
                stage.until(|| count(failed) >= resets);
                stage.saw("clients that were reset", count(failed)).is(resets)?;
                stage.saw("clients that are connected", count(is_connected)).is(8 - resets)?;
            }
            Ok(())
        },
        mutation: fake("clients that were reset", 2, Lie::Count(0)),
    },
    Experiment {
        id: "et-single-accept-strands",
        core: true,
        claim: "Three connections between two waits are one edge: who accepts once leaves two behind. The next client \
                is an edge again, and one accept for it frees one: the lag never heals.",
        source: "follows from edge-triggered; epoll(7), questions and answers: 'They will be combined'",
        why: "The first thing to test in an edge-triggered server. Accept until EAGAIN.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let listener = stage.listener(8)?;
            let ep = stage.epoll()?;
            ep.add(&listener, IN | ET)?;
            let _three = [stage.connect(&listener)?, stage.connect(&listener)?, stage.connect(&listener)?];
            ep.reports(IN)?;
            listener.accept()?;
            ep.quiet()?;
            let _fourth = stage.connect(&listener)?;
            ep.reports(IN)?;
            listener.accept()?;
            ep.quiet()?;
            listener.queue().is(2)?;
            Ok(())
        },
        mutation: without(ET),
    },
    Experiment {
        id: "lt-single-accept-is-fine",
        core: false,
        claim: "Level-triggered, one accept for each event empties the queue.",
        source: "epoll(7), level-triggered is 'simply a faster poll(2)'",
        why: "Simple, and fair to the connections that are there already. It costs one wait more for each client.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let listener = stage.listener(8)?;
            let ep = stage.epoll()?;
            ep.add(&listener, IN)?;
            let clients = [stage.connect(&listener)?, stage.connect(&listener)?, stage.connect(&listener)?];
            for _ in &clients {
                ep.reports(IN)?;
                listener.accept()?;
            }
            ep.quiet()
        },
        mutation: with(ET),
    },
    Experiment {
        id: "emfile-lt-spins",
        core: true,
        claim: "An accept that fails with EMFILE leaves the connection in the queue: a level-triggered listener is \
                ready again in every wait.",
        source: "accept(2); the manual of libev, 'accept()ing when you can't'",
        why: "All of a processor, and the client cannot be got rid of. Take the listener out for a while, or keep one \
              descriptor in reserve.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let listener = stage.listener(8)?;
            let ep = stage.epoll()?;
            ep.add(&listener, IN)?;
            let _client = stage.connect(&listener)?;
            no_number_free(stage)?;
            stage.rounds(300, |_| {
                ep.reports_now(IN)?;
                listener.try_accept().1.is(EMFILE)?;
                Ok(())
            })?;
            numbers_free(stage)?;
            listener.accept()?;
            Ok(())
        },
        mutation: with(ET),
    },
    Experiment {
        id: "emfile-et-stalls",
        core: true,
        claim: "Edge-triggered, an accept that fails with EMFILE has used up the edge: when descriptors are free \
                again, nothing tells of the client that waits.",
        source: "follows from edge-triggered; accept(2)",
        why: "After EMFILE an edge-triggered server must accept again of its own accord: by a timer, or when it closes \
              something.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let listener = stage.listener(8)?;
            let ep = stage.epoll()?;
            ep.add(&listener, IN | ET)?;
            let _client = stage.connect(&listener)?;
            no_number_free(stage)?;
            ep.reports(IN)?;
            listener.try_accept().1.is(EMFILE)?;
            numbers_free(stage)?;
            ep.quiet()?;
            listener.queue().is(1)?;
            Ok(())
        },
        mutation: without(ET),
    },
    Experiment {
        id: "reserve-fd-trick",
        core: false,
        claim: "At EMFILE a descriptor in reserve gets rid of clients: close it, accept, close the connection, open \
                the reserve again.",
        source: "the manual of libev, 'accept()ing when you can't'",
        why: "The client learns at once that it is not served, and the listener is quiet.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let null = || std::fs::File::open("/dev/null");
            let listener = stage.listener(8)?;
            let ep = stage.epoll()?;
            ep.add(&listener, IN)?;
            let reserve = stage.file("reserve", null()?);
            let client = stage.connect(&listener)?;
            no_number_free(stage)?;
            listener.try_accept().1.is(EMFILE)?;
            reserve.close()?;
            listener.accept()?.close()?;
            let _reserve = stage.file("reserve", null()?);
            client.recv(1).is(0)?;
            ep.quiet()
        },
        mutation: fake("recv", 1, Lie::Fails(EAGAIN)),
    },
    Experiment {
        id: "listener-close-resets-queue",
        core: false,
        claim: "Closing a listener resets the connections that nobody has accepted.",
        source: "inet_csk_listen_stop(); the manual is silent",
        why: "They were connected and have perhaps sent a request. A graceful stop accepts until EAGAIN before it \
              closes.",
        since: (2, 6),
        changed: "5.14: with net.ipv4.tcp_migrate_req another listener of the same SO_REUSEPORT group gets them",
        run: |stage| {
            let listener = stage.listener(8)?;
            let clients = [stage.connect(&listener)?, stage.connect(&listener)?, stage.connect(&listener)?];
            listener.close()?;
            for client in &clients {
                let ep = stage.epoll()?;
                ep.add(client, IN)?;
                ep.reports(IN | ERR | HUP)?;
                client.recv(1).is(ECONNRESET)?;
            }
            Ok(())
        },
        mutation: fake("recv", 3, Lie::Count(0)),
    },
    Experiment {
        id: "eagain-after-in-is-legal",
        core: false,
        claim: "An event of a listener promises nothing: two epolls report the same client, and the second accept says \
                EAGAIN.",
        source: "accept(2), NOTES: the connection may have been removed 'by an asynchronous network error or another \
                 thread'",
        why: "A listener must be non-blocking, always: a blocking accept would hang the loop.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let listener = stage.listener(8)?;
            let (ours, others) = (stage.epoll()?, stage.epoll()?);
            ours.add(&listener, IN)?;
            others.add(&listener, IN)?;
            let _client = stage.connect(&listener)?;
            ours.reports(IN)?;
            others.reports(IN)?;
            listener.accept()?;
            listener.try_accept().1.is(EAGAIN)?;
            Ok(())
        },
        mutation: fake("accept4", 2, Lie::Text("conn2")),
    },
    Experiment {
        id: "accept-queue-is-fifo",
        core: false,
        claim: "accept returns connections in the order in which their handshakes were complete.",
        source: "accept(2), 'the first connection request on the queue'; reqsk_queue_remove()",
        why: "A server that is too slow serves the oldest first, whose client may have given up already.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let listener = stage.listener(8)?;
            let mut clients = Vec::new();
            for _ in 0..5 {
                clients.push(stage.connect(&listener)?);
            }
            for client in &clients {
                let (theirs, conn) = (client.address()?, listener.accept()?);
                let port = |address: SockAddr| address.as_socket().map_or(0, |address| address.port());
                stage.saw("port of the client", port(conn.socket().peer_addr()?)).is(port(theirs))?;
            }
            Ok(())
        },
        mutation: fake("port of the client", 2, Lie::Count(0)),
    },
    Experiment {
        id: "unix-backlog-gives-eagain",
        core: false,
        claim: "A unix listener whose queue is full fails a non-blocking connect with EAGAIN, at once. The kernel \
                tries nothing again.",
        source: "unix_stream_connect(); connect(2) names EAGAIN for unix sockets",
        why: "A client that takes EAGAIN for EINPROGRESS waits for a connection that nobody makes. It must try again.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec().nonblocking(), None)?;
            let address = SockAddr::unix(format!("\0eagain-lab-backlog-{}", std::process::id()))?;
            socket.bind(&address)?;
            socket.listen(1)?;
            let _listener = stage.file("listener", socket);
            let (_first, seen) = stage.try_connect(&address)?;
            seen.is(())?;
            let (_second, seen) = stage.try_connect(&address)?;
            seen.is(())?;
            let (third, seen) = stage.try_connect(&address)?;
            seen.is(EAGAIN)?;
            third.try_send(1).is(ENOTCONN)?;
            Ok(())
        },
        mutation: fake("connect", 3, Lie::Fails(EINPROGRESS)),
    },
];

/// Lowers the limit of open files to what is open, so that the next one does not fit.
fn no_number_free(stage: &Stage) -> Outcome {
    use std::os::fd::AsRawFd as _;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // The kernel gives the lowest free number: all below are in use.
    let lowest = raw::epoll_create1(0).map_err(Errno::from_raw)?.as_raw_fd();
    setrlimit(Resource::RLIMIT_NOFILE, lowest as u64, hard)?;
    stage.note(format_args!("RLIMIT_NOFILE is {lowest}: no number is free"));
    Ok(())
}

fn numbers_free(stage: &Stage) -> Outcome {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    stage.note("RLIMIT_NOFILE is high again");
    Ok(())
}

/// So many clients that come at once.
fn burst(stage: &Stage, listener: &File, count: usize) -> Outcome<Vec<File>> {
    let (address, mut clients) = (listener.address()?, Vec::new());
    stage.rounds(count, |_| {
        let (client, seen) = stage.try_connect(&address)?;
        seen.is(EINPROGRESS)?;
        clients.push(client);
        Ok(())
    })?;
    Ok(clients)
}

/// So many clients that come at once and whose last packet of the handshake is late: without TCP_QUICKACK it waits for
/// data to go with, but not longer than 200 ms.
fn hesitant_clients(stage: &Stage, listener: &File, count: usize) -> Outcome<Vec<File>> {
    let (address, mut clients) = (listener.address()?, Vec::new());
    for _ in 0..count {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec().nonblocking(), None)?;
        raw::set_option(&socket, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 0).map_err(Errno::from_raw)?;
        if let Err(error) = socket.connect(&address)
            && error.raw_os_error() != Some(libc::EINPROGRESS)
        {
            return Err(error.into());
        }
        clients.push(stage.file("client", socket));
    }
    stage.note(format_args!("{count} clients connect at once, each with TCP_QUICKACK off"));
    Ok(clients)
}

/// A network for this process alone, in which settings of the kernel can be changed.
fn own_network(stage: &Stage) -> Outcome {
    if let Err(errno) = raw::own_network() {
        let errno = Errno::from_raw(errno);
        return stage.not_tested(format_args!("a network namespace of its own cannot be had here: {errno}"));
    }
    stage.note("unshare(NEWNET): a network of its own");
    Ok(())
}

/// Whether the client takes itself to be connected.
fn is_connected(client: &File) -> bool {
    const ESTABLISHED: u8 = 1;
    raw::tcp_info(client).is_ok_and(|info| info.tcpi_state == ESTABLISHED)
}

/// Whether the client has learned that nothing will come of it.
fn failed(client: &File) -> bool {
    raw::poll(&[(client.number(), 0)], 0).is_ok_and(|told| told[0] != 0)
}

/// Accepts until nobody has come for so long.
fn accept_until_quiet(stage: &Stage, ep: &Ep, listener: &File, quiet_ms: i32) -> Outcome<Vec<File>> {
    let accepted = stage.silently(|| {
        let mut accepted = Vec::new();
        while !ep.wait(quiet_ms).events().is_empty() {
            accepted.extend(std::iter::from_fn(|| listener.try_accept().0));
        }
        Ok(accepted)
    })?;
    stage.note(format_args!("accepts until nobody has come for {quiet_ms} ms"));
    Ok(accepted)
}

fn queued(listener: &File) -> u32 {
    raw::tcp_info(listener).map_or(0, |info| info.tcpi_unacked)
}

/// A counter of the group TcpExt, of this network namespace.
fn tcp_counter(name: &str) -> Outcome<i64> {
    let text = std::fs::read_to_string("/proc/net/netstat")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let found = names.split(' ').zip(values.split(' ')).find(|(known, _)| *known == name);
    Ok(found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0))
}
