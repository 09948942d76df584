//! What select and poll do otherwise.

use std::fs::File as Disk;

use eagain::sys::raw::{self, Selected};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::prelude::*;

pub(crate) static GROUP: Group =
    Group { name: "select_poll", title: "select and poll, for contrast", experiments: EXPERIMENTS };

const READ: [bool; 3] = [true, false, false];
const READ_WRITE: [bool; 3] = [true, true, false];
const ALL_SETS: [bool; 3] = [true, true, true];

const EXPERIMENTS: &[Experiment] = &[
    Experiment {
        id: "select-1024-is-libc-not-kernel",
        core: true,
        claim: "The limit of 1024 is the size of the C library's fd_set. The system call select takes longer sets, and \
                numbers up to RLIMIT_NOFILE.",
        source: "select(2), 'The Linux kernel allows fd_set of arbitrary size'",
        why: "No kernel has to be rebuilt, as is often said. But FD_SET of a number above 1023 writes behind the set.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            stage.saw("bits in fd_set", size_of::<libc::fd_set>() * 8).is(1024)?;
            let (reader, writer) = stage.pipe()?;
            allow_numbers(stage, 2_000)?;
            let high = reader.dup_from(1_500)?;
            stage.saw("its number", high.number()).is(1_500)?;
            writer.send(1)?;
            stage.saw("select", select(&[&high], READ, 0)?.count).is(1)?;
            Ok(())
        },
        mutation: fake("select", 1, Lie::Fails(EINVAL)),
    },
    Experiment {
        id: "fd-above-1023-under-epoll",
        core: false,
        claim: "epoll does not mind how high a descriptor's number is.",
        source: "epoll(7) knows no such limit",
        why: "What limits a server is RLIMIT_NOFILE, whose soft value is often 1024: raise it at the start.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            allow_numbers(stage, 2_000)?;
            let high = reader.dup_from(1_500)?;
            let ep = stage.epoll()?;
            ep.add(&high, IN)?;
            writer.send(1)?;
            ep.reports(IN)
        },
        mutation: without(IN),
    },
    Experiment {
        id: "poll-has-no-1024",
        core: true,
        claim: "poll takes as many entries as RLIMIT_NOFILE allows files, far more than 1024; one more is EINVAL.",
        source: "poll(2), ERRORS",
        why: "'epoll, because of the 1024' is a wrong reason. What a call costs is the right one.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            writer.send(1)?;
            allow_numbers(stage, 3_000)?;
            let ready = |entries| raw::poll(&vec![(reader.number(), libc::POLLIN); entries], 0);
            let ready = |entries| ready(entries).map(|told| told.iter().filter(|bits| **bits == libc::POLLIN).count());
            stage.saw("ready of 3000 entries", ready(3_000).map_err(Errno::from_raw)?).is(3_000)?;
            stage.answered("poll of 3001 entries", ready(3_001)).is(EINVAL)?;
            Ok(())
        },
        mutation: fake("ready of 3000 entries", 1, Lie::Count(1_024)),
    },
    Experiment {
        id: "poll-cost-grows-with-n",
        core: true,
        claim: "poll costs as much as there is watched, epoll_wait as much as there is ready.",
        source: "epoll(7); do_poll() asks every file in every call",
        why: "The real reason for epoll: of 10,000 connections few are ready at a time.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            allow_numbers(stage, 3_000)?;
            let (idle, (reader, writer)) = (stage.eventfd()?, stage.pipe()?);
            writer.send(1)?;
            let (few, many) = (watch(stage, &idle, &reader, 10)?, watch(stage, &idle, &reader, 2_000)?);
            let poll = |crowd: &Crowd| cost_ns(|| raw::poll(&crowd.entries, 0).map(drop));
            let wait = |crowd: &Crowd| cost_ns(|| raw::epoll_wait(crowd.ep.number(), 1, 0).map(drop));
            let times_as_much = |cost: &dyn Fn(&Crowd) -> u64| cost(&many) / cost(&few).max(1);
            stage.saw("poll: 2000 files cost times 10 files", times_as_much(&poll)).at_least(10)?;
            stage.saw("epoll_wait: 2000 files cost times 10 files", times_as_much(&wait)).within(0..=3)?;
            Ok(())
        },
        mutation: fake("epoll_wait: 2000 files cost times 10 files", 1, Lie::Count(55)),
    },
    Experiment {
        id: "poll-is-level-only",
        core: false,
        claim: "select and poll have no edges: what is unread is reported by every call.",
        source: "poll(2); select(2)",
        why: "The edge is what epoll adds, besides the lower cost.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            peer.send(1)?;
            for _ in 0..2 {
                ours.poll(IN).is(IN)?;
                stage.saw("select", select(&[&ours], READ, 0)?.count).is(1)?;
            }
            Ok(())
        },
        mutation: fake("select", 2, Lie::Count(0)),
    },
    Experiment {
        id: "poll-reports-closed-epoll-forgets",
        core: true,
        claim: "A number that has been closed is NVAL for poll and EBADF for select; epoll is silent about it.",
        source: "poll(2); select(2); epoll(7), questions and answers",
        why: "A mistake that poll shows at once is under epoll a connection that nothing is ever heard of again.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN)?;
            peer.send(1)?;
            let number = ours.number();
            ours.close()?;
            let told = raw::poll(&[(number, libc::POLLIN)], 0).map_err(Errno::from_raw)?;
            stage.saw("does poll say NVAL?", told == [libc::POLLNVAL]).is(true)?;
            stage.answered("select", raw::select(&[number], READ, 0)).is(EBADF)?;
            ep.quiet()
        },
        mutation: fake_wait(1, &[IN]),
    },
    Experiment {
        id: "poll-negative-fd-ignored",
        core: false,
        claim: "poll passes over an entry whose number is negative; epoll_ctl refuses it with EBADF.",
        source: "poll(2), 'the corresponding events field is ignored'; epoll_ctl(2)",
        why: "poll has a way to take an entry out for a while: negate it. With epoll it is DEL, or MOD to nothing, \
              which still reports HUP and ERR.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let told = raw::poll(&[(-1, libc::POLLIN)], 0).map_err(Errno::from_raw)?;
            stage.saw("poll of -1", u32::from(told[0] as u16)).is(0)?;
            let ep = stage.epoll()?;
            ep.try_ctl(libc::EPOLL_CTL_ADD, -1, Some((IN, 0))).is(EBADF)?;
            Ok(())
        },
        mutation: fake("epoll_ctl", 1, Lie::Done),
    },
    Experiment {
        id: "regular-file-always-ready",
        core: false,
        claim: "A file on disk is always readable and writable for select and poll; epoll refuses it with EPERM.",
        source: "POSIX, select(); epoll_ctl(2), EPERM",
        why: "None of the three makes reading a disk asynchronous. Do it in threads, or by io_uring.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let disk = stage.file("file", Disk::open("/proc/self/exe")?);
            disk.poll(IN | OUT).is(IN | OUT)?;
            stage.saw("select for reading and writing", select(&[&disk], READ_WRITE, 0)?.count).is(2)?;
            stage.epoll()?.try_add(&disk, IN).is(EPERM)?;
            Ok(())
        },
        mutation: fake("epoll_ctl", 1, Lie::Done),
    },
    Experiment {
        id: "exceptfds-is-not-errors",
        core: true,
        claim: "select's third set is PRI, urgent data. A connection that was reset is readable and writable, never \
                exceptional.",
        source: "select(2), POLLEX_SET; the name 'exceptfds' misleads",
        why: "Who closes what is in the third set throws out healthy peers that send an urgent byte, and hears of no \
              error.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            peer.reset()?;
            let told = select(&[&ours], ALL_SETS, 0)?;
            stage.saw("sets of the connection that was reset", sets(&told)).is("read write")?;

            let (ours, peer) = stage.tcp_pair()?;
            peer.send_urgent()?;
            let told = select(&[&ours], ALL_SETS, 0)?;
            stage.saw("sets of the connection with an urgent byte", sets(&told)).is("write except")?;
            Ok(())
        },
        mutation: fake("sets of the connection that was reset", 1, Lie::Text("except")),
    },
    Experiment {
        id: "select-overwrites-its-sets",
        core: false,
        claim: "select leaves in its sets what is ready, and in its timeout what was left of it (on Linux): both must \
                be made anew for each call.",
        source: "select(2)",
        why: "The caller keeps the state and hands it over each time. epoll has turned that round.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let ((ready, writer), (idle, _other)) = (stage.pipe()?, stage.pipe()?);
            writer.send(1)?;
            let told = select(&[&ready, &idle], READ, 10_000_000)?;
            stage.saw("members left of 2", told.read.len()).is(1)?;
            stage.saw("is it the one that is ready?", told.read == [ready.number()]).is(true)?;
            stage.saw("µs left of 10 s", told.left_us).within(1..=9_999_999)?;
            Ok(())
        },
        mutation: fake("µs left of 10 s", 1, Lie::Count(10_000_000)),
    },
    Experiment {
        id: "select-counts-bits-epoll-counts-fds",
        core: false,
        claim: "select returns how many bits are set in its sets together, poll and epoll_wait how many files there \
                are.",
        source: "select(2), RETURN VALUE; poll(2)",
        why: "A loop that stops after so many descriptors looks at too few, or runs too long.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (ours, peer) = stage.tcp_pair()?;
            peer.send(1)?;
            stage.saw("select", select(&[&ours], READ_WRITE, 0)?.count).is(2)?;
            ours.poll(IN | OUT).is(IN | OUT)?;
            let ep = stage.epoll()?;
            ep.add(&ours, IN | OUT)?;
            ep.reports([IN | OUT])
        },
        mutation: fake("select", 1, Lie::Count(1)),
    },
];

fn select(files: &[&File], sets: [bool; 3], timeout_us: i64) -> Outcome<Selected> {
    let numbers: Vec<i32> = files.iter().map(|file| file.number()).collect();
    Ok(raw::select(&numbers, sets, timeout_us).map_err(Errno::from_raw)?)
}

/// Which sets have a member left.
fn sets(told: &Selected) -> String {
    let named = [("read", &told.read), ("write", &told.write), ("except", &told.except)];
    let left: Vec<&str> = named.iter().filter(|(_, set)| !set.is_empty()).map(|(name, _)| *name).collect();
    left.join(" ")
}

/// Sets the limit of open files, in both directions.
fn allow_numbers(stage: &Stage, count: u64) -> Outcome {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < count {
        return stage.not_tested(format_args!("the hard RLIMIT_NOFILE is {hard}; to raise it needs CAP_SYS_RESOURCE"));
    }
    setrlimit(Resource::RLIMIT_NOFILE, count, hard)?;
    stage.note(format_args!("RLIMIT_NOFILE is {count}"));
    Ok(())
}

/// Many idle files and one that is ready, as poll and as epoll watch them.
struct Crowd {
    entries: Vec<(i32, i16)>,
    ep: Ep,
    _files: Vec<File>,
}

fn watch(stage: &Stage, idle: &File, ready: &File, count: usize) -> Outcome<Crowd> {
    let (ep, mut files) = (stage.epoll()?, vec![ready.dup()?]);
    stage.silently(|| {
        for _ in 1..count {
            files.push(idle.dup()?);
        }
        files.iter().try_for_each(|file| ep.add(file, IN))
    })?;
    stage.note(format_args!("watches {count} files, of which one is ready"));
    Ok(Crowd { entries: files.iter().map(|file| (file.number(), libc::POLLIN)).collect(), ep, _files: files })
}
