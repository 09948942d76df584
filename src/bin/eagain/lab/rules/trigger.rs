//! Level- and edge-triggered: what is told, and how often.

use super::prelude::*;
use super::server_bugs::clog;

pub(crate) static GROUP: Group =
    Group { name: "trigger", title: "level- and edge-triggered", experiments: EXPERIMENTS };

const EXPERIMENTS: &[Experiment] = &[
    Experiment {
        id: "lt-repeats-until-drained",
        core: true,
        claim: "A level-triggered registration is reported by every wait, until its condition is gone.",
        source: "epoll(7); the kernel's selftest epoll1",
        why: "It forgives a handler that reads only a part. A handler that never reads makes the loop spin.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.add(&reader, IN)?;
            writer.send(1)?;
            ep.reports(IN)?;
            ep.reports(IN)?;
            reader.recv(1).is(1)?;
            ep.quiet()
        },
        mutation: with(ET),
    },
    Experiment {
        id: "et-reports-once",
        core: true,
        claim: "An edge-triggered registration is reported once for each edge. The next wait is silent, though the \
                data is still there.",
        source: "epoll(7); the kernel's selftest epoll2",
        why: "This is what edge-triggered means. Every other rule about it follows.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.add(&reader, IN | ET)?;
            writer.send(1)?;
            ep.reports(IN)?;
            ep.quiet()?;
            reader.unread().is(1)?;
            Ok(())
        },
        mutation: without(ET),
    },
    Experiment {
        id: "et-partial-read-stalls",
        core: true,
        claim: "2 kB arrive, 1 kB is read: edge-triggered, the next wait is silent although 1 kB is there. \
                Level-triggered, it reports at once.",
        source: "epoll(7), the five steps under Level-triggered and edge-triggered",
        why: "The classic lost request: a server that calls recv once for each event waits for a client that waits for \
              its answer.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            for (ours, peer) in [stage.pipe()?, stage.unix_pair()?, stage.tcp_pair()?] {
                let ep = stage.epoll()?;
                ep.add(&ours, IN | ET)?;
                peer.send(2048)?;
                ep.reports(IN)?;
                ours.recv(1024).is(1024)?;
                ep.quiet()?;

                let level = stage.epoll()?;
                level.add(&ours, IN)?;
                level.reports(IN)?;
            }
            Ok(())
        },
        mutation: without(ET),
    },
    Experiment {
        id: "et-new-data-renotifies",
        core: true,
        claim: "Edge-triggered, every arrival of data is an edge, even if what came before was never read.",
        source: "epoll(7), 'multiple events can be generated upon receipt of multiple chunks'; ep_poll_callback()",
        why: "An edge is a wake-up, not the step from empty to non-empty, as is often said. Duplicates are normal, and \
              a talkative peer hides a stall from the tests.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            for (ours, peer) in [stage.unix_pair()?, stage.tcp_pair()?] {
                let ep = stage.epoll()?;
                ep.add(&ours, IN | ET)?;
                peer.send(1)?;
                ep.reports(IN)?;
                peer.send(1)?;
                ep.reports(IN)?;
            }
            Ok(())
        },
        mutation: with(ONESHOT),
    },
    Experiment {
        id: "et-arrivals-coalesce",
        core: true,
        claim: "What arrives between two waits is one edge-triggered event.",
        source: "epoll(7), questions and answers: 'They will be combined'",
        why: "Who counts events to count messages loses messages.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | ET)?;
            for _ in 0..5 {
                peer.send(1)?;
            }
            ep.reports(IN)?;
            ep.quiet()
        },
        mutation: without(ET),
    },
    Experiment {
        id: "et-add-on-ready-fd-fires",
        core: true,
        claim: "Registering what is ready already gives an edge-triggered event at once.",
        source: "ep_insert(), 'If the file is already ready we drop it inside the ready list'; the manual is silent",
        why: "Nothing is lost between accept and ADD, although it is often believed: no read is needed after ADD for a \
              request that came with the handshake.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            peer.send(1)?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | ET)?;
            ep.reports_now(IN)
        },
        mutation: fake_wait(1, &[]),
    },
    Experiment {
        id: "et-mod-rearms",
        core: true,
        claim: "MOD looks at the file again: with the very same mask it makes a file that is still ready report anew.",
        source: "epoll(7), questions and answers: 'modify will reread available I/O'; ep_modify()",
        why: "The way to come back to a connection that was left half read on purpose, without a list of one's own.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | ET)?;
            peer.send(1)?;
            ep.reports(IN)?;
            ep.quiet()?;
            ep.modify(&ours, IN | ET)?;
            ep.reports(IN)
        },
        mutation: fake_wait(3, &[]),
    },
    Experiment {
        id: "et-drain-then-edge",
        core: false,
        claim: "After a read that said EAGAIN the next byte is an edge: none falls between EAGAIN and the next wait.",
        source: "epoll(7), 'by waiting for an event only after read(2) or write(2) return EAGAIN'",
        why: "The contract that makes edge-triggered loops safe.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | ET)?;
            stage.rounds(200, |_| {
                peer.send(1)?;
                ep.reports(IN)?;
                ours.recv(16).is(1)?;
                ours.recv(16).is(EAGAIN)?;
                Ok(())
            })
        },
        mutation: with(ONESHOT),
    },
    Experiment {
        id: "et-short-read-hides-eof",
        core: true,
        claim: "A short read on a stream means that the buffer is empty; but a FIN that came with the data was told in \
                the same event. Who does not read again never hears of it.",
        source: "epoll(7), questions and answers, takes a short read for the end of the data and says nothing of the \
                 FIN",
        why: "Stopping at a short read is safe only if the event had no RDHUP, HUP or ERR. Else connections are left \
              in CLOSE_WAIT for ever.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | RDHUP | ET)?;
            peer.send(10)?;
            peer.close()?;
            ep.reports(IN | RDHUP)?;
            ours.recv(4096).is(10)?;
            ep.quiet()?;
            ours.recv(4096).is(0)?;
            Ok(())
        },
        mutation: without(ET),
    },
    Experiment {
        id: "et-out-fires-once-when-idle",
        core: true,
        claim: "OUT on a writable socket is one edge after ADD; then silence, however often is written without filling \
                the buffer.",
        source: "sk_stream_write_space() wakes only who has found the buffer full; the manual is silent",
        why: "There is no 'write finished' edge. Send when there is something to send, and wait for OUT after EAGAIN \
              only.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, OUT | ET)?;
            ep.reports(OUT)?;
            for _ in 0..10 {
                ours.send(1000)?;
                peer.recv(1000).is(1000)?;
            }
            ep.quiet()
        },
        mutation: without(ET),
    },
    Experiment {
        id: "et-out-edge-after-eagain",
        core: true,
        claim: "After a send that said EAGAIN, OUT is an edge as soon as the peer has read enough.",
        source: "epoll(7), 'edge-triggered … EAGAIN'",
        why: "The only write edge that can be relied on; all back-pressure is built on it.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, OUT | ET)?;
            ep.reports(OUT)?;
            let sent = clog(stage, &ours)?;
            ep.quiet()?;
            peer.read_until(|sum| sum == sent)?;
            ep.reports(OUT)
        },
        mutation: fake_wait(3, &[]),
    },
    Experiment {
        id: "et-short-send-arms-edge",
        core: false,
        claim: "A send that took only a part arms the write edge too; it need not be called again to see EAGAIN.",
        source: "epoll(7), questions and answers, claims it for writing in half a sentence; the kernel does it",
        why: "It saves the system call that fails, for each write that is held up.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            const MUCH: usize = 16 << 20;
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, OUT | ET)?;
            ep.reports(OUT)?;
            let sent = ours.try_send(MUCH).within(1..=MUCH as i64 - 1)?.count() as usize;
            ep.quiet()?;
            peer.read_until(|sum| sum == sent)?;
            ep.reports(OUT)
        },
        mutation: fake_wait(3, &[]),
    },
    Experiment {
        id: "et-in-edge-carries-out",
        core: true,
        claim: "Registered for IN and OUT, every arrival of data reports IN|OUT: the mask is the state at the harvest, \
                not the reason of the wake-up.",
        source: "ep_send_events() asks the file again; CPython's test_control_and_wait",
        why: "OUT in an edge-triggered event does not mean that it has just become writable.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | OUT | ET)?;
            ep.reports(OUT)?;
            peer.send(1)?;
            ep.reports(IN | OUT)
        },
        mutation: without(OUT),
    },
    Experiment {
        id: "harvest-repolls",
        core: true,
        claim: "epoll_wait asks each queued file again: an event whose condition has gone before the wait is dropped \
                in silence, in both modes.",
        source: "ep_send_events(): ep_item_poll(), and if it says nothing, continue",
        why: "The kernel's queue is a list of hints. No event is false at the harvest; but it can become false before \
              the handler acts, so recv and accept may still say EAGAIN.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let (level, edge) = (stage.epoll()?, stage.epoll()?);
            level.add(&reader, IN)?;
            edge.add(&reader, IN | ET)?;
            writer.send(1)?;
            reader.recv(1).is(1)?;
            level.quiet()?;
            edge.quiet()
        },
        mutation: fake_wait(2, &[IN]),
    },
    Experiment {
        id: "mask-is-state-at-harvest",
        core: true,
        claim: "Data and FIN that arrive between two waits come back as one mask in one entry.",
        source: "epoll(7), questions and answers: 'They will be combined'",
        why: "A chain of if and else-if over the bits handles one of them and loses the others.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | RDHUP | ET)?;
            peer.send(1)?;
            peer.shut_write()?;
            ep.reports([IN | RDHUP])
        },
        mutation: without(RDHUP),
    },
    Experiment {
        id: "oneshot-disables",
        core: true,
        claim: "After one report a ONESHOT registration is silent, for new data too; but it is still in the set.",
        source: "epoll_ctl(2), EPOLLONESHOT",
        why: "A worker that forgets to arm it again sees what looks like a dead peer.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | ONESHOT)?;
            peer.send(1)?;
            ep.reports(IN)?;
            peer.send(1)?;
            ep.quiet()?;
            ep.try_add(&ours, IN | ONESHOT).is(EEXIST)?;
            Ok(())
        },
        mutation: without(ONESHOT),
    },
    Experiment {
        id: "oneshot-rearm-reports-pending",
        core: true,
        claim: "Arming it again by MOD reports at once what has arrived meanwhile.",
        source: "epoll_ctl(2), EPOLLONESHOT; ep_modify()",
        why: "Arm last, after reading: nothing is lost in the gap.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | ONESHOT)?;
            peer.send(1)?;
            ep.reports(IN)?;
            ours.recv(1).is(1)?;
            peer.send(1)?;
            ep.quiet()?;
            ep.modify(&ours, IN | ONESHOT)?;
            ep.reports(IN)
        },
        mutation: without(ONESHOT),
    },
    Experiment {
        id: "oneshot-silences-hup-and-err",
        core: true,
        claim: "A ONESHOT registration that has fired hides HUP and ERR too, although they are 'always reported'.",
        source: "ep_send_events() leaves only the private bits of the mask; epoll_ctl(2) says the opposite",
        why: "A worker that forgets to arm it again never learns of a reset. The connection is there for ever.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | ONESHOT)?;
            peer.send(1)?;
            ep.reports(IN)?;
            peer.reset()?;
            ep.quiet()?;
            ep.modify(&ours, IN | ONESHOT)?;
            ep.reports(IN | ERR | HUP)
        },
        mutation: without(ONESHOT),
    },
    Experiment {
        id: "mask-zero-still-reports-hup-err",
        core: true,
        claim: "MOD to a mask of nothing does not silence a file: HUP and ERR are reported, level-triggered by every \
                wait.",
        source: "epoll_ctl(2), 'epoll_wait(2) will always report'; the kernel adds both bits to each mask",
        why: "A connection that is parked with a mask of 0 burns a processor once its peer resets. Delete it, or use \
              ONESHOT.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN)?;
            ep.modify(&ours, NONE)?;
            peer.send(1)?;
            ep.quiet()?;
            peer.reset()?;
            ep.reports(ERR | HUP)?;
            ep.reports(ERR | HUP)
        },
        mutation: with(ET),
    },
    Experiment {
        id: "lt-out-spins-when-idle",
        core: true,
        claim: "Level-triggered OUT on an idle connection is ready in every wait.",
        source: "epoll(7), level-triggered is 'simply a faster poll(2)'",
        why: "A permanent interest in OUT is a busy loop. Ask for it only while something waits to be written.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, _peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | OUT)?;
            stage.rounds(1000, |_| ep.reports(OUT))
        },
        mutation: with(ET),
    },
    Experiment {
        id: "et-event-cache-needs-no-read",
        core: false,
        claim: "Edge-triggered, data may be left unread by who remembers it: the kernel does not remind, and it can be \
                read later without a wait.",
        source: "epoll(7), Possible pitfalls: Starvation",
        why: "A list of one's own and a budget for each turn: this is how a server is fair to its clients.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | ET)?;
            peer.send(4096)?;
            ep.reports(IN)?;
            ours.recv(1024).is(1024)?;
            ep.quiet()?;
            ours.recv(4096).is(3072)?;
            Ok(())
        },
        mutation: without(ET),
    },
    Experiment {
        id: "msg-peek-does-not-consume",
        core: false,
        claim: "MSG_PEEK changes nothing: level-triggered reports again, edge-triggered has nothing new.",
        source: "recv(2), MSG_PEEK",
        why: "A server that peeks to find out the protocol spins, level-triggered, until the rest has come. \
              SO_RCVLOWAT or edge-triggered helps.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let (level, edge) = (stage.epoll()?, stage.epoll()?);
            level.add(&ours, IN)?;
            edge.add(&ours, IN | ET)?;
            peer.send(10)?;
            level.reports(IN)?;
            edge.reports(IN)?;
            ours.recv_flags(10, libc::MSG_PEEK, "PEEK").is(10)?;
            level.reports(IN)?;
            edge.quiet()
        },
        mutation: without(ET),
    },
    Experiment {
        id: "et-eof-reported-once",
        core: false,
        claim: "The end of the stream is one edge. Who does not read up to it then never hears of it again.",
        source: "epoll(7)",
        why: "Level-triggered nags, edge-triggered leaks: a connection that is open for ever.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | RDHUP | ET)?;
            peer.close()?;
            ep.reports(IN | RDHUP)?;
            ep.quiet()
        },
        mutation: without(ET),
    },
];
