//! What can be registered, what is refused, and with which error.

use std::fs::File as StdFile;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use eagain::sys::children::outlive_parent;
use eagain::sys::raw;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Uid, geteuid, seteuid, setresuid};

use super::prelude::*;

pub(crate) static GROUP: Group =
    Group { name: "registration", title: "what can be registered, and what is refused", experiments: EXPERIMENTS };

const ADD: i32 = libc::EPOLL_CTL_ADD;
const MOD: i32 = libc::EPOLL_CTL_MOD;
const DEL: i32 = libc::EPOLL_CTL_DEL;
/// A number that is never open: experiments lower or keep the limit, and nobody dups up to here.
const NOT_OPEN: i32 = 1_000_000_000;
/// The user `nobody`.
const NOBODY: Uid = Uid::from_raw(65_534);

/// Opens a file and says what ADD answers to it.
fn add_path(stage: &Stage, path: &str) -> Outcome<Seen> {
    let ep = stage.epoll()?;
    let file = stage.file(path, StdFile::open(path)?);
    Ok(ep.try_add(&file, IN))
}

const EXPERIMENTS: &[Experiment] = &[
    Experiment {
        id: "create-size-is-ignored",
        core: false,
        claim: "epoll_create(size) ignores the size but refuses one that is not positive. epoll_create1 refuses flags \
                that it does not know.",
        source: "epoll_create(2)",
        why: "The size is a hint that has meant nothing since 2.6.8; it must only be positive.",
        since: (2, 6),
        changed: "2.6.8: the size is ignored",
        run: |stage| {
            stage.answered("epoll_create(0)", raw::epoll_create(0)).is(EINVAL)?;
            stage.answered("epoll_create(-1)", raw::epoll_create(-1)).is(EINVAL)?;
            stage.answered("epoll_create1(1)", raw::epoll_create1(1)).is(EINVAL)?;
            let small = raw::epoll_create(1).map_err(Errno::from_raw)?;
            let (reader, _writer) = stage.pipe()?;
            for _ in 0..50 {
                let another = reader.dup()?;
                ctl_by_number(stage, small.as_raw_fd(), ADD, another.number(), Some((IN, 0))).is(())?;
                std::mem::forget(another);
            }
            Ok(())
        },
        mutation: fake("epoll_create(0)", 1, Lie::Done),
    },
    Experiment {
        id: "create1-cloexec",
        core: false,
        claim: "EPOLL_CLOEXEC makes the epoll close-on-exec; without it, it is inherited by every program that is \
                started.",
        source: "epoll_create(2)",
        why: "An epoll that has leaked keeps every registration alive in the child.",
        since: (2, 6),
        changed: "2.6.27: epoll_create1",
        run: |stage| {
            let flag_of = |flags| -> Outcome<i32> {
                let epoll = raw::epoll_create1(flags).map_err(Errno::from_raw)?;
                Ok(raw::fcntl(&epoll, libc::F_GETFD).map_err(Errno::from_raw)?)
            };
            stage.saw("F_GETFD of epoll_create1(0)", flag_of(0)?).is(0)?;
            stage.saw("F_GETFD of epoll_create1(CLOEXEC)", flag_of(libc::EPOLL_CLOEXEC)?).is(libc::FD_CLOEXEC)?;
            Ok(())
        },
        mutation: fake("F_GETFD of epoll_create1(CLOEXEC)", 1, Lie::Count(0)),
    },
    Experiment {
        id: "create-emfile",
        core: false,
        claim: "epoll_create1 fails with EMFILE at RLIMIT_NOFILE; a limit of instances for each user, which the manual \
                names, does not exist.",
        source: "epoll_create(2), ERRORS, which is out of date",
        why: "An epoll costs one descriptor and is counted like any other.",
        since: (2, 6),
        changed: "2.6.28 only: max_user_instances",
        run: |stage| {
            let next = raw::epoll_create1(0).map_err(Errno::from_raw)?.as_raw_fd();
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
            setrlimit(Resource::RLIMIT_NOFILE, next as u64, hard)?;
            stage.answered("epoll_create1 at the limit", raw::epoll_create1(0)).is(EMFILE)?;
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
            let there = std::path::Path::new("/proc/sys/fs/epoll/max_user_instances").exists();
            stage.saw("is there max_user_instances?", there).is(false)?;
            Ok(())
        },
        mutation: fake("epoll_create1 at the limit", 1, Lie::Done),
    },
    Experiment {
        id: "ctl-add-twice-eexist",
        core: true,
        claim: "Adding the same file twice is EEXIST, and the first registration keeps its mask and its data.",
        source: "epoll_ctl(2); LTP epoll_ctl02",
        why: "Who does not know whether it is registered tries ADD and, on EEXIST, MOD.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.try_add_data(&reader, IN, 1).is(())?;
            ep.try_add_data(&reader, IN | OUT, 2).is(EEXIST)?;
            writer.send(1)?;
            ep.reports([("data 1", IN)])
        },
        mutation: fake("epoll_ctl", 2, Lie::Done),
    },
    Experiment {
        id: "ctl-mod-del-unknown-enoent",
        core: false,
        claim: "MOD and DEL of a file that is not registered are ENOENT.",
        source: "epoll_ctl(2)",
        why: "A file that is deregistered twice is an error, not a success.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, _writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.try_modify(&reader, IN).is(ENOENT)?;
            ep.try_delete(&reader).is(ENOENT)?;
            ep.add(&reader, IN)?;
            ep.delete(&reader)?;
            ep.try_delete(&reader).is(ENOENT)?;
            Ok(())
        },
        mutation: fake("epoll_ctl", 1, Lie::Done),
    },
    Experiment {
        id: "ctl-ebadf-after-close",
        core: true,
        claim: "After close(fd) its number is no good for DEL: EBADF. So is an epoll that is not open.",
        source: "epoll_ctl(2)",
        why: "The order is DEL, then close. The other way round nothing can be cleaned up by number.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.add(&reader, IN)?;
            let number = reader.number();
            reader.close()?;
            ep.try_ctl(DEL, number, None).is(EBADF)?;
            ctl_by_number(stage, NOT_OPEN, ADD, writer.number(), Some((OUT, 0))).is(EBADF)?;
            Ok(())
        },
        mutation: fake("epoll_ctl", 2, Lie::Done),
    },
    Experiment {
        id: "ctl-einval-set",
        core: true,
        claim: "EINVAL is three different mistakes: the epoll is no epoll, it is to watch itself, the operation is \
                unknown.",
        source: "epoll_ctl(2)",
        why: "One error for three bugs: a wrapper should make them impossible.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ctl_by_number(stage, reader.number(), ADD, writer.number(), Some((OUT, 0))).is(EINVAL)?;
            ep.try_ctl(ADD, ep.number(), Some((IN, 0))).is(EINVAL)?;
            ep.try_ctl(99, reader.number(), Some((IN, 0))).is(EINVAL)?;
            Ok(())
        },
        mutation: fake("epoll_ctl", 2, Lie::Done),
    },
    Experiment {
        id: "ctl-del-null-event",
        core: false,
        claim: "DEL takes a NULL event; ADD and MOD with NULL are EFAULT.",
        source: "epoll_ctl(2), BUGS",
        why: "A thin wrapper passes NULL for DEL and for nothing else.",
        since: (2, 6),
        changed: "2.6.9: DEL takes NULL",
        run: |stage| {
            let (reader, _writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.try_ctl(ADD, reader.number(), None).is(EFAULT)?;
            ep.add(&reader, IN)?;
            ep.try_ctl(MOD, reader.number(), None).is(EFAULT)?;
            ep.try_ctl(DEL, reader.number(), None).is(())?;
            Ok(())
        },
        mutation: fake("epoll_ctl", 4, Lie::Fails(EFAULT)),
    },
    Experiment {
        id: "ctl-error-precedence",
        core: false,
        claim: "The checks come in this order: EFAULT, EBADF, EPERM, EINVAL, and only then EEXIST or ENOENT.",
        source: "do_epoll_ctl(); the manual is silent",
        why: "It explains confusing errors: EPERM, for instance, where the epoll itself is wrong.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let regular = stage.file("a regular file", StdFile::open("/proc/self/exe")?);
            ctl_by_number(stage, NOT_OPEN, ADD, NOT_OPEN, None).is(EFAULT)?;
            ctl_by_number(stage, reader.number(), ADD, NOT_OPEN, Some((IN, 0))).is(EBADF)?;
            ctl_by_number(stage, reader.number(), ADD, regular.number(), Some((IN, 0))).is(EPERM)?;
            ctl_by_number(stage, reader.number(), ADD, writer.number(), Some((IN, 0))).is(EINVAL)?;
            let ep = stage.epoll()?;
            stage.note("an epoll that is to delete itself, which it does not have");
            ep.try_ctl(DEL, ep.number(), None).is(EINVAL)?;
            Ok(())
        },
        mutation: fake("epoll_ctl", 3, Lie::Fails(EINVAL)),
    },
    Experiment {
        id: "ctl-eperm-not-pollable",
        core: true,
        claim: "Regular files, directories, /dev/null, /dev/zero and memfds are EPERM; a file opened with O_PATH is \
                EBADF. Pipes, sockets and eventfds are taken.",
        source: "epoll_ctl(2), EPERM; LTP epoll_ctl06",
        why: "Not everything that is a descriptor can be watched: not a log, not an upload, not stdin from a file. \
              poll(2) calls such files always ready.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            for path in ["/proc/self/exe", "/", "/dev/null", "/dev/zero"] {
                add_path(stage, path)?.is(EPERM)?;
            }
            let ep = stage.epoll()?;
            let memfd = stage.file("memfd", raw::memfd().map_err(Errno::from_raw)?);
            ep.try_add(&memfd, IN).is(EPERM)?;
            let path_only = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open("/")?;
            ep.try_add(&stage.file("an O_PATH file", path_only), IN).is(EBADF)?;
            let ((reader, _writer), (ours, _peer)) = (stage.pipe()?, stage.unix_pair()?);
            for pollable in [reader, ours, stage.eventfd()?] {
                ep.try_add(&pollable, IN).is(())?;
            }
            Ok(())
        },
        mutation: fake("epoll_ctl", 1, Lie::Done),
    },
    Experiment {
        id: "ctl-unknown-bits-accepted",
        core: false,
        claim: "Bits that mean nothing are taken without an error, as long as EPOLLEXCLUSIVE is not among them.",
        source: "do_epoll_ctl() does not check the mask; epoll_ctl(2), BUGS, hints at it",
        why: "A typing error in a mask passes in silence. A typed wrapper is worth having.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, _writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.try_add(&reader, IN | Mask(1 << 20 | 1 << 25)).is(())?;
            let lines = ep.fdinfo()?;
            let kept = lines.iter().any(|line| line.contains("2100019"));
            stage.saw("are the bits in fdinfo?", kept).is(true)?;
            if stage.since((4, 5)) {
                ep.delete(&reader)?;
                ep.try_add(&reader, IN | EXCLUSIVE | Mask(1 << 20)).is(EINVAL)?;
            }
            Ok(())
        },
        mutation: fake("epoll_ctl", 1, Lie::Fails(EINVAL)),
    },
    Experiment {
        id: "exclusive-einval-set",
        core: true,
        claim: "EPOLLEXCLUSIVE is for ADD only, and not with RDHUP, PRI or ONESHOT, and not for an epoll: EINVAL. Such \
                a registration cannot be modified, only deleted.",
        source: "epoll_ctl(2), EPOLLEXCLUSIVE",
        why: "An exclusive listener cannot be paused by MOD: DEL it, and ADD it again.",
        since: (4, 5),
        changed: "",
        run: |stage| {
            let (reader, _writer) = stage.pipe()?;
            let (ep, inner) = (stage.epoll()?, stage.epoll()?);
            ep.try_add(&reader, IN | EXCLUSIVE).is(())?;
            ep.try_modify(&reader, IN).is(EINVAL)?;
            ep.try_modify(&reader, IN | EXCLUSIVE).is(EINVAL)?;
            ep.try_delete(&reader).is(())?;
            for more in [RDHUP, PRI, ONESHOT] {
                ep.try_add(&reader, IN | EXCLUSIVE | more).is(EINVAL)?;
            }
            ep.try_add(&inner, IN | EXCLUSIVE).is(EINVAL)?;
            ep.try_add(&reader, IN | OUT | EXCLUSIVE | ET).is(())?;
            Ok(())
        },
        mutation: without(EXCLUSIVE),
    },
    Experiment {
        id: "wakeup-flag-silently-dropped",
        core: false,
        claim: "EPOLLWAKEUP is dropped without an error where the privilege CAP_BLOCK_SUSPEND or the kernel's support \
                is missing; fdinfo shows what is left.",
        source: "epoll_ctl(2), BUGS, which names the privilege alone",
        why: "That ADD has succeeded does not prove that the flag is in effect.",
        since: (3, 5),
        changed: "",
        run: |stage| {
            let (reader, _writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            // Root has the privilege, unless root is somebody else for the moment.
            let is_root = geteuid().is_root();
            if is_root {
                let refused = |errno| stage.not_tested(format_args!("root may not become another user here: {errno}"));
                seteuid(NOBODY).or_else(refused)?;
            }
            let added = ep.try_add(&reader, IN | WAKEUP);
            if is_root {
                seteuid(Uid::from_raw(0))?;
            }
            added.is(())?;
            let kept = ep.fdinfo()?.iter().any(|line| line.contains("20000019"));
            if kept {
                return stage.not_tested("this process has CAP_BLOCK_SUSPEND on a kernel that can suspend");
            }
            stage.saw("is WAKEUP in fdinfo?", kept).is(false)?;
            Ok(())
        },
        mutation: fake("epoll_ctl", 1, Lie::Fails(EPERM)),
    },
    Experiment {
        id: "wait-einval-and-ebadf",
        core: true,
        claim: "epoll_wait refuses maxevents of 0, below 0 and above INT_MAX/sizeof(struct epoll_event) with EINVAL, a \
                file that is no epoll with EINVAL, and a closed one with EBADF.",
        source: "epoll_wait(2); the upper bound is EP_MAX_EVENTS of fs/eventpoll.c alone",
        why: "A wrapper that passes on the length of a buffer must bound it.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let most = i32::MAX / size_of::<libc::epoll_event>() as i32;
            stage.answered("maxevents 0", raw::epoll_wait_limit(0)).is(EINVAL)?;
            stage.answered("maxevents -1", raw::epoll_wait_limit(-1)).is(EINVAL)?;
            stage.answered("maxevents INT_MAX/sizeof", raw::epoll_wait_limit(most)).is(())?;
            stage.answered("maxevents INT_MAX/sizeof + 1", raw::epoll_wait_limit(most + 1)).is(EINVAL)?;
            let (reader, _writer) = stage.pipe()?;
            bare_wait(stage, "a pipe", reader.number(), 0).is(EINVAL)?;
            bare_wait(stage, "a number that is not open", NOT_OPEN, 0).is(EBADF)?;
            Ok(())
        },
        mutation: fake("maxevents -1", 1, Lie::Done),
    },
    Experiment {
        id: "data-is-opaque",
        core: true,
        claim: "The 64 bits of data come back bit for bit; MOD replaces them. The kernel never looks at them, and \
                gives nothing else by which to know the file.",
        source: "epoll_wait(2)",
        why: "Put a slot and a generation there, not a bare descriptor: that disarms events of a connection that is \
              gone.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.try_add_data(&reader, IN, 0xdead_beef_1234_5678).is(())?;
            writer.send(1)?;
            ep.reports([("data 16045690981402826360", IN)])?;
            ep.try_modify_data(&reader, IN, 7).is(())?;
            ep.reports([("data 7", IN)])
        },
        mutation: fake_wait(2, &[]),
    },
    Experiment {
        id: "event-struct-is-packed",
        core: true,
        claim: "On x86-64 struct epoll_event is 12 bytes without a hole, so the second event of a batch begins at byte \
                12 and its data is misaligned. Elsewhere it is 16.",
        source: "epoll_event(3type); EPOLL_PACKED in linux/eventpoll.h",
        why: "A binding written by hand with 16 bytes reads rubbish from the second event on; a reference to the field \
              is undefined behaviour.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let ((one, to_one), (two, to_two)) = (stage.pipe()?, stage.pipe()?);
            let ep = stage.epoll()?;
            ep.try_add_data(&one, IN, 0x1111).is(())?;
            ep.try_add_data(&two, IN, 0x2222).is(())?;
            to_one.send(1)?;
            to_two.send(1)?;
            let (count, bytes) = raw::epoll_wait_bytes(ep.number(), 2).map_err(Errno::from_raw)?;
            stage.saw("events", count).is(2)?;
            let packed = cfg!(any(target_arch = "x86", target_arch = "x86_64"));
            let at = bytes.windows(8).position(|eight| eight == 0x2222u64.to_ne_bytes()).unwrap_or(0);
            stage.saw("the second event's data begins at byte", at).is(if packed { 16 } else { 24 })?;
            Ok(())
        },
        mutation: fake("the second event's data begins at byte", 1, Lie::Count(20)),
    },
    Experiment {
        id: "one-entry-per-registration",
        core: false,
        claim: "One wait returns at most one entry for each registration, with all its bits.",
        source: "epoll(7), questions and answers",
        why: "Entries are not conditions.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | OUT | RDHUP)?;
            peer.send(1)?;
            peer.shut_write()?;
            ep.reports([IN | OUT | RDHUP])
        },
        mutation: without(OUT),
    },
    Experiment {
        id: "two-epolls-same-fd",
        core: false,
        claim: "A file in two epolls is reported by both.",
        source: "epoll(7), questions and answers",
        why: "Two parts of a program may watch the same socket; only one of them may read it.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let (level, edge) = (stage.epoll()?, stage.epoll()?);
            level.add(&ours, IN)?;
            edge.add(&ours, IN | ET)?;
            peer.send(1)?;
            level.reports(IN)?;
            edge.reports(IN)
        },
        mutation: fake_wait(2, &[]),
    },
    Experiment {
        id: "dup-registers-twice",
        core: false,
        claim: "A duplicate can be added beside the original, with another mask: one arrival gives two entries.",
        source: "epoll(7), questions and answers: the key is the number and the open file description",
        why: "An old trick: reading and writing of one socket as two registrations.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            let second = ours.dup()?;
            ep.try_add(&ours, IN).is(())?;
            ep.try_add(&second, IN | OUT).is(())?;
            peer.send(1)?;
            let (one, other) = ((ours.name.as_str(), IN), (second.name.as_str(), IN | OUT));
            ep.wait(stage.soon_ms()).one_of([[one, other].into(), [other, one].into()])?;
            Ok(())
        },
        mutation: fake("epoll_ctl", 2, Lie::Fails(EEXIST)),
    },
    Experiment {
        id: "fdinfo-lists-interest",
        core: true,
        claim: "/proc/self/fdinfo of an epoll lists every registration: number, mask with all its private bits and the \
                ERR and HUP that are always there, data.",
        source: "epoll(7), NOTES; proc_pid_fdinfo(5)",
        why: "The list of interest can be looked at from outside; 'eagain inspect' does it. The queue of what is ready \
              cannot.",
        since: (2, 6),
        changed: "3.8: fdinfo of an epoll",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.try_add_data(&reader, IN | ET, 0xab).is(())?;
            ep.try_add_data(&writer, OUT, 0xcd).is(())?;
            let lines = ep.fdinfo()?;
            stage.saw("registrations in fdinfo", lines.len()).is(2)?;
            for (file, mask, events, data) in [
                (&reader, "events are IN|ERR|HUP|ET", "80000019", "ab"),
                (&writer, "events are OUT|ERR|HUP", "1c", "cd"),
            ] {
                let number = file.number().to_string();
                let words = lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>());
                let words = words.into_iter().find(|words| words.get(1) == Some(&number.as_str())).unwrap_or_default();
                let word = |at: usize| words.get(at).copied().unwrap_or("missing");
                stage.saw("tfd is", word(1)).is(number.as_str())?;
                stage.saw(mask, word(3)).is(events)?;
                stage.saw("data is", word(5)).is(data)?;
            }
            Ok(())
        },
        mutation: without(ET),
    },
    Experiment {
        id: "kcmp-epoll-tfd",
        core: false,
        claim: "kcmp(KCMP_EPOLL_TFD) tells whether an open file is registered under a number: 0 if it is, ENOENT if \
                not.",
        source: "epoll(7), NOTES; kcmp(2)",
        why: "Beside fdinfo the only question that can be asked about the list of interest.",
        since: (4, 13),
        changed: "",
        run: |stage| {
            let ((reader, writer), ep) = (stage.pipe()?, stage.epoll()?);
            ep.add(&reader, IN)?;
            let kcmp = |file: &File| raw::kcmp_epoll(ep.number(), file.number(), file.number());
            if let Err(errno @ (libc::ENOSYS | libc::EPERM)) = kcmp(&reader) {
                return stage.not_tested(format_args!("kcmp: {:?}", Errno::from_raw(errno)));
            }
            stage.answered("kcmp of what is registered", kcmp(&reader)).is(())?;
            stage.answered("kcmp of what is not", kcmp(&writer)).is(ENOENT)?;
            Ok(())
        },
        mutation: fake("kcmp of what is not", 1, Lie::Done),
    },
    Experiment {
        id: "fd-sets-are-cheap-to-build",
        core: false,
        claim: "A registration that is idle costs nothing in a wait: 5,000 of them do not slow down the one that is \
                busy.",
        source: "epoll(7), 'scales well'",
        why: "A server pays for what happens, not for who is connected.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (busy, writer) = stage.pipe()?;
            let (small, large) = (stage.epoll()?, stage.epoll()?);
            small.add(&busy, IN)?;
            large.add(&busy, IN)?;
            let (idle, _idle_writer) = stage.pipe()?;
            let _idle = many_idle(&idle, &large, 5_000)?;
            writer.send(1)?;
            let cost_of_waits = |ep: &Ep| cost_ns(|| raw::epoll_wait(ep.number(), 1, 0).map(drop));
            let few = cost_of_waits(&small);
            let many = cost_of_waits(&large);
            stage.note(format_args!("a wait: {few} ns beside none, {many} ns beside 5,000"));
            stage.saw("is it less than 3 times as much?", many < 3 * few).is(true)?;
            Ok(())
        },
        mutation: fake("is it less than 3 times as much?", 1, Lie::Text("no")),
    },
    Experiment {
        id: "wait-empty-set",
        core: false,
        claim: "A wait on an empty set is legal: it lasts until its timeout, and an ADD by another thread ends it.",
        source: "epoll_wait(2), NOTES",
        why: "A loop may start before there is anything to watch.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let ep = stage.epoll()?;
            ep.quiet()?;
            let (reader, writer) = stage.pipe()?;
            writer.send(1)?;
            let waiter = ep.waiter("A", 2_000)?;
            ep.add(&reader, IN)?;
            waiter.join()?.is(IN)?;
            Ok(())
        },
        mutation: fake_wait(2, &[]),
    },
    Experiment {
        id: "mod-wakes-a-waiter",
        core: true,
        claim: "A MOD by another thread, after which a registration matches, wakes who waits.",
        source: "ep_modify()",
        why: "An interest in writing can be set from outside, without a descriptor to wake the loop.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, _peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN)?;
            let waiter = ep.waiter("A", 2_000)?;
            ep.modify(&ours, IN | OUT)?;
            waiter.join()?.is(OUT)?;
            Ok(())
        },
        mutation: without(OUT),
    },
    Experiment {
        id: "rdnorm-is-a-separate-bit",
        core: false,
        claim: "RDNORM and WRNORM are bits of their own: only what was asked for comes back. IN never shows RDNORM.",
        source: "the kernel masks with what was registered; epoll_ctl(2) does not list them",
        why: "Code that asks for RDNORM and tests IN never sees its event.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let (normal, plain) = (stage.epoll()?, stage.epoll()?);
            normal.add(&ours, RDNORM | WRNORM)?;
            plain.add(&ours, IN)?;
            peer.send(1)?;
            normal.reports(RDNORM | WRNORM)?;
            plain.reports(IN)
        },
        mutation: with(OUT),
    },
    Experiment {
        id: "max-user-watches-enospc",
        core: false,
        claim: "fs.epoll.max_user_watches limits the registrations of a user in all epolls together: one more is \
                ENOSPC. An epoll that is closed gives its share back.",
        source: "epoll(7), /proc interfaces; epoll_ctl(2), ENOSPC",
        why: "One daemon that leaks registrations starves all others of its user. The default is 4 % of low memory.",
        since: (2, 6),
        changed: "2.6.28: max_user_watches",
        run: |stage| {
            const EPOLLS: usize = 100;
            const FILES: usize = 1_000;
            let _until_the_end = LoweredLimit::to(stage, EPOLLS * FILES)?;
            allow_open_files(stage, EPOLLS + FILES + 50)?;
            let child = stage.fork(|stage| {
                setresuid(NOBODY_ELSE, NOBODY_ELSE, NOBODY_ELSE)?;
                stage.note(format_args!("it is user {NOBODY_ELSE} now, who has no other process"));
                let idle = stage.eventfd()?;
                let files: Vec<OwnedFd> =
                    (0..FILES).map(|_| raw::dup_from(&idle, 0)).collect::<Result<_, _>>().map_err(Errno::from_raw)?;
                let one_more = || raw::epoll_create1(0).map_err(Errno::from_raw);
                let add_all = |ep: &OwnedFd| {
                    let add = |file: &OwnedFd| raw::epoll_ctl(ep.as_raw_fd(), ADD, file.as_raw_fd(), Some((IN.0, 0)));
                    files.iter().try_for_each(add)
                };
                let mut epolls = Vec::new();
                let mut full = Ok(());
                while full.is_ok() && epolls.len() < EPOLLS {
                    epolls.push(one_more()?);
                    full = epolls.last().map_or(Ok(()), &add_all);
                }
                stage.answered("1000 ADDs to each of 100 epolls", full).is(())?;
                let last = one_more()?;
                stage.answered("1000 ADDs to one epoll more", add_all(&last)).is(ENOSPC)?;
                epolls.pop();
                stage.answered("the same after another was closed", add_all(&last)).is(())?;
                Ok(())
            })?;
            child.join()
        },
        mutation: fake("1000 ADDs to one epoll more", 1, Lie::Done),
    },
];

/// A user that no machine has.
const NOBODY_ELSE: Uid = Uid::from_raw(3_999_999_999);

/// The limit of registrations is that of the whole machine; it is as before when this is dropped.
struct LoweredLimit {
    before: String,
}

impl LoweredLimit {
    const FILE: &str = "/proc/sys/fs/epoll/max_user_watches";
    /// Who sets this to 1 agrees.
    const CONSENT: &str = "EAGAIN_LAB_SYSCTL";

    fn to(stage: &Stage, limit: usize) -> Outcome<Self> {
        let before = std::fs::read_to_string(Self::FILE)?;
        if std::env::var_os(Self::CONSENT).is_none_or(|value| value != "1") {
            return stage.not_tested(format_args!(
                "it sets {} for the whole machine to {limit} for a moment: as root, and where nobody has so many \
                 registrations, {}=1 allows that",
                Self::FILE,
                Self::CONSENT
            ));
        }
        if before.trim().parse().is_ok_and(|now: usize| now < limit) {
            return stage.not_tested(format_args!("{} is below {limit}, as root has set it", Self::FILE));
        }
        // Who is killed with the lab does not put the limit back.
        outlive_parent()?;
        if let Err(error) = std::fs::write(Self::FILE, limit.to_string()) {
            return stage.not_tested(format_args!("{} can be set by root alone: {error}", Self::FILE));
        }
        stage.note(format_args!("{} is {limit}", Self::FILE));
        Ok(Self { before })
    }
}

impl Drop for LoweredLimit {
    fn drop(&mut self) {
        let _ = std::fs::write(Self::FILE, &self.before);
    }
}

fn allow_open_files(stage: &Stage, count: usize) -> Outcome {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < count as u64 {
        return stage.not_tested(format_args!("the hard RLIMIT_NOFILE is {hard}"));
    }
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// Registers so many duplicates of a file that never has anything to tell.
fn many_idle(idle: &File, ep: &Ep, count: usize) -> Outcome<Vec<OwnedFd>> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let another = raw::dup_from(idle, 0).map_err(Errno::from_raw)?;
        raw::epoll_ctl(ep.number(), ADD, another.as_raw_fd(), Some((IN.0, 0))).map_err(Errno::from_raw)?;
        all.push(another);
    }
    Ok(all)
}
