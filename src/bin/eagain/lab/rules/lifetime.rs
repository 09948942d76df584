//! How long a registration lives: close, duplicates, fork.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::RawFd;

use eagain::sys::net::NonBlocking;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use super::prelude::*;

pub(crate) static GROUP: Group =
    Group { name: "lifetime", title: "close, duplicates and fork", experiments: EXPERIMENTS };

const DEL: i32 = libc::EPOLL_CTL_DEL;

/// Waits for a byte from the other process.
fn await_byte(reader: &File) -> Outcome {
    reader.read_until(|sum| sum > 0)?;
    Ok(())
}

const EXPERIMENTS: &[Experiment] = &[
    Experiment {
        id: "close-last-fd-removes",
        core: false,
        claim: "Closing the last descriptor of an open file removes its registrations everywhere, and an event that \
                was pending with them.",
        source: "epoll(7), questions and answers",
        why: "A plain close is enough only for who is sure that no duplicate exists.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.add(&reader, IN)?;
            writer.send(1)?;
            reader.close()?;
            ep.quiet()?;
            stage.saw("registrations in fdinfo", ep.fdinfo()?.len()).is(0)?;
            Ok(())
        },
        mutation: fake_wait(1, &[IN]),
    },
    Experiment {
        id: "close-with-dup-ghost",
        core: true,
        claim: "While a duplicate lives, close removes nothing: events keep coming for a number that is closed, and \
                DEL by that number is EBADF.",
        source: "epoll(7), questions and answers",
        why: "The ghost: a level-triggered loop spins on it and nobody can delete it. DEL before close, always.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            let duplicate = reader.dup()?;
            ep.try_add_data(&reader, IN, 77).is(())?;
            let number = reader.number();
            reader.close()?;
            writer.send(1)?;
            ep.reports([("data 77", IN)])?;
            ep.try_ctl(DEL, number, None).is(EBADF)?;
            ep.try_delete(&duplicate).is(ENOENT)?;
            Ok(())
        },
        mutation: fake_wait(1, &[]),
    },
    Experiment {
        id: "fork-keeps-registration",
        core: true,
        claim: "A child that has inherited a descriptor keeps its registration alive after the parent has closed it.",
        source: "epoll(7), questions and answers",
        why: "Programs that were started without close-on-exec make dead connections haunt the parent's loop.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let (until_told, tell) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.add(&reader, IN)?;
            let child = stage.fork(|_| await_byte(&until_told))?;
            reader.close()?;
            writer.send(1)?;
            ep.reports(IN)?;
            tell.send(1)?;
            child.join()?;
            ep.quiet()
        },
        mutation: fake_wait(1, &[]),
    },
    Experiment {
        id: "fork-shares-the-set",
        core: true,
        claim: "After fork parent and child have one set between them: what the child adds of its own is reported to \
                the parent, by a number that means nothing there.",
        source: "libev's manual; epoll(7) only hints at it",
        why: "Create the epoll after the fork: a server with several processes makes it in each worker.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (until_told, tell) = stage.pipe()?;
            let ep = stage.epoll()?;
            let child = stage.fork(|stage| {
                let (reader, writer) = stage.pipe()?;
                ep.try_add_data(&reader, IN, 4242).is(())?;
                writer.send(1)?;
                await_byte(&until_told)
            })?;
            ep.reports([("data 4242", IN)])?;
            tell.send(1)?;
            child.join()
        },
        mutation: fake_wait(1, &[]),
    },
    Experiment {
        id: "fd-number-reuse",
        core: true,
        claim: "If a number is used again while the ghost of its former file lives, both registrations are there under \
                the same number: ADD succeeds, and two entries with the same data come.",
        source: "epoll(7): the key is the number and the open file description",
        why: "A descriptor's number as data is ambiguous. A generation in it is not.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let ((first, to_first), (second, to_second)) = (stage.pipe()?, stage.pipe()?);
            let ep = stage.epoll()?;
            let _ghost = first.dup()?;
            let number = first.number();
            ep.try_add_data(&first, IN, number as u64).is(())?;
            first.close()?;
            let again = second.dup_from(number)?;
            stage.saw("does it have the same number?", again.number() == number).is(true)?;
            ep.try_add_data(&again, IN, number as u64).is(())?;
            to_first.send(1)?;
            to_second.send(1)?;
            let told = ep.wait(2_000);
            let same = told.events().iter().filter(|event| event.data == number as u64).count();
            stage.saw("entries with this number", same).is(2)?;
            Ok(())
        },
        mutation: fake("entries with this number", 1, Lie::Count(1)),
    },
    Experiment {
        id: "stale-event-in-batch",
        core: true,
        claim: "Events that were fetched stay: if the handler of one closes the file of another in the same batch, the \
                other's event is still in the array, and its number may belong to a new file by then.",
        source: "epoll(7), Possible pitfalls: If using an event cache",
        why: "Look at a generation before acting on an event, or close only after the batch.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let ((one, to_one), (two, to_two)) = (stage.pipe()?, stage.pipe()?);
            let ep = stage.epoll()?;
            ep.try_add_data(&one, IN, one.number() as u64).is(())?;
            ep.try_add_data(&two, IN, two.number() as u64).is(())?;
            to_one.send(1)?;
            to_two.send(1)?;
            let batch = ep.wait(2_000).is([IN, IN])?;
            let number = two.number();
            ep.delete(&two)?;
            two.close()?;
            let stranger = to_one.dup_from(number)?;
            stage.saw("the second event still says the old number", batch.events()[1].data).is(number)?;
            stage.saw("which is now that of another file", stranger.number()).is(number)?;
            Ok(())
        },
        mutation: fake("the second event still says the old number", 1, Lie::Count(0)),
    },
    Experiment {
        id: "del-discards-pending",
        core: false,
        claim: "DEL drops an event that was queued; ADD reports it again, if it is still so.",
        source: "epoll_ctl(2)",
        why: "DEL and ADD is another way to arm again, and a slow one.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.add(&reader, IN | ET)?;
            writer.send(1)?;
            ep.delete(&reader)?;
            ep.quiet()?;
            ep.add(&reader, IN | ET)?;
            ep.reports(IN)
        },
        mutation: fake_wait(1, &[IN]),
    },
    Experiment {
        id: "close-does-not-wake-waiters",
        core: true,
        claim: "Closing a watched file in another thread wakes nobody and reports nothing.",
        source: "epoll(7), questions and answers; it says nothing of who waits",
        why: "Closing is no way to stop a loop. An eventfd is, or shutdown(2) of a socket.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, _writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.add(&reader, IN)?;
            let waiter = ep.waiter("A", 5_000)?;
            reader.close()?;
            for seen in stage.gather(vec![waiter])? {
                seen.is(Answer::NOTHING)?;
            }
            Ok(())
        },
        mutation: fake_wait(1, &[IN]),
    },
    Experiment {
        id: "shutdown-wakes-waiters",
        core: true,
        claim: "shutdown(SHUT_RDWR) of a watched socket wakes who waits, with IN, HUP, and RDHUP if it was asked for.",
        source: "tcp_poll()",
        why: "The right kick from another thread. The owner then deletes and closes.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, _peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | RDHUP)?;
            let waiter = ep.waiter("A", 2_000)?;
            ours.shut_both()?;
            waiter.join()?.is(IN | HUP | RDHUP)?;
            Ok(())
        },
        mutation: without(RDHUP),
    },
    Experiment {
        id: "closing-epfd-does-not-wake",
        core: true,
        claim: "Closing the epoll in which a thread waits wakes nobody. The call goes on with the old file, and even \
                reports what happens later.",
        source: "the kernel holds the file for the time of the call; the manual is silent",
        why: "Never close an epoll to stop a loop.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.add(&reader, IN)?;
            let waiter = ep.waiter_by_number("A", 2_000)?;
            ep.close()?;
            stage.saw("does it still wait after 100 ms?", waiter.still_runs_after(100)).is(true)?;
            writer.send(1)?;
            waiter.join()?.is(IN)?;
            Ok(())
        },
        mutation: fake("epoll_wait", 1, Lie::Fails(EBADF)),
    },
    Experiment {
        id: "closing-epfd-frees-all",
        core: false,
        claim: "Closing the last descriptor of an epoll drops its registrations. The files stay open and can be added \
                elsewhere.",
        source: "epoll_create(2)",
        why: "A cheap way to deregister everything.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.add(&reader, IN)?;
            ep.close()?;
            writer.send(1)?;
            reader.recv(1).is(1)?;
            writer.send(1)?;
            let other = stage.epoll()?;
            other.try_add(&reader, IN).is(())?;
            other.reports(IN)
        },
        mutation: fake("epoll_ctl", 2, Lie::Fails(EEXIST)),
    },
    Experiment {
        id: "epfd-over-scm-rights",
        core: false,
        claim: "An epoll can be passed over a unix socket and works for who receives it: it reports files that the \
                receiver does not have.",
        source: "unix(7), SCM_RIGHTS; epoll(7) says that it 'does not make sense'",
        why: "It can make sense, for a supervisor. Its data must then not be the number of a descriptor.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let (ours, theirs) = stage.unix_pair()?;
            let child = stage.fork(|stage| {
                theirs.blocking(true)?;
                let number = receive_descriptor(&theirs)?;
                bare_wait(stage, "the epoll received", number, 2_000).is([("data 909", IN)])?;
                Ok(())
            })?;
            // Made after the fork: the child can have it only by the message.
            let ep = stage.epoll()?;
            ep.try_add_data(&reader, IN, 909).is(())?;
            let numbers = [ep.number()];
            let message = [ControlMessage::ScmRights(&numbers)];
            sendmsg::<()>(ours.number(), &[IoSlice::new(b"!")], &message, MsgFlags::empty(), None)?;
            stage.note("sendmsg(ours, SCM_RIGHTS: ep)");
            writer.send(1)?;
            child.join()?;
            ep.reports([("data 909", IN)])
        },
        mutation: fake_wait(1, &[]),
    },
    Experiment {
        id: "accept-inherits-nothing",
        core: true,
        claim: "An accepted socket is blocking, not close-on-exec and in no epoll, whatever its listener is. accept4 \
                sets both flags in one call.",
        source: "accept(2): Linux does not inherit file status flags",
        why: "An edge-triggered loop on a blocking socket freezes the whole server in recv.",
        since: (2, 6),
        changed: "2.6.28: accept4",
        run: |stage| {
            let listener = stage.listener(8)?;
            let ep = stage.epoll()?;
            ep.add(&listener, IN)?;
            let _clients = [stage.connect(&listener)?, stage.connect(&listener)?];
            let (plain, _) = listener.socket().accept_raw()?;
            let plain = stage.file("accepted by accept", plain);
            stage.saw("non-blocking by accept?", plain.is_nonblocking()?).is(false)?;
            stage.saw("close-on-exec by accept?", plain.is_cloexec()?).is(false)?;
            let (socket, _) = NonBlocking::accept(&listener)?;
            let socket = stage.file("accepted by accept4", socket.into_inner());
            stage.saw("non-blocking by accept4?", socket.is_nonblocking()?).is(true)?;
            stage.saw("close-on-exec by accept4?", socket.is_cloexec()?).is(true)?;
            stage.saw("registrations, of which the listener is one", ep.fdinfo()?.len()).is(1)?;
            Ok(())
        },
        mutation: fake("non-blocking by accept?", 1, Lie::Text("yes")),
    },
    Experiment {
        id: "nonblock-is-shared-by-dup",
        core: false,
        claim: "O_NONBLOCK belongs to the open file: set through a duplicate, or in a child, it is set for all.",
        source: "fcntl(2), F_SETFL; open(2)",
        why: "A loop that makes its stdin non-blocking breaks the shell that started it.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, _writer) = stage.pipe()?;
            reader.blocking(true)?;
            let duplicate = reader.dup()?;
            duplicate.blocking(false)?;
            stage.saw("is the original non-blocking?", reader.is_nonblocking()?).is(true)?;
            stage.fork(|_| reader.blocking(true))?.join()?;
            stage.saw("and after a child has made it blocking?", reader.is_nonblocking()?).is(false)?;
            Ok(())
        },
        mutation: fake("is the original non-blocking?", 1, Lie::Text("no")),
    },
];

/// The number under which it has come; it is closed when this process ends.
fn receive_descriptor(socket: &File) -> Outcome<RawFd> {
    let (mut byte, mut space) = ([0; 1], nix::cmsg_space!([i32; 1]));
    let mut pieces = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(socket.number(), &mut pieces, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            return Ok(numbers.into_iter().next().ok_or(EBADF)?);
        }
    }
    Err(EBADF.into())
}
