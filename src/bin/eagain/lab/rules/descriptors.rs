//! Pipes, timers, eventfds and other files.

use std::fs::{File as Opened, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use eagain::sys::raw;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sched::{CloneFlags, unshare};
use nix::sys::eventfd::EfdFlags;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::{getpid, mkfifo};

use super::prelude::*;

pub(crate) static GROUP: Group =
    Group { name: "descriptors", title: "pipes, timers, eventfds and other files", experiments: EXPERIMENTS };

const EXPERIMENTS: &[Experiment] = &[
    Experiment {
        id: "eventfd-levels",
        core: false,
        claim: "An eventfd is IN while its counter is above 0, and OUT while 1 can be added. At its maximum OUT goes, \
                and a write says EAGAIN.",
        source: "eventfd(2)",
        why: "The usual way to wake a loop from another thread.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let counter = stage.eventfd()?;
            let ep = stage.epoll()?;
            ep.add(&counter, IN | OUT)?;
            ep.reports(OUT)?;
            counter.add(1)?;
            ep.reports(IN | OUT)?;
            counter.take().is(1)?;
            counter.add(u64::MAX - 1)?;
            ep.reports(IN)?;
            counter.try_add(1).is(EAGAIN)?;
            Ok(())
        },
        mutation: without(OUT),
    },
    Experiment {
        id: "eventfd-semaphore-lt",
        core: false,
        claim: "With EFD_SEMAPHORE each read takes 1. Level-triggered it is ready until all are taken; edge-triggered, \
                three that were added at once are one event.",
        source: "eventfd(2), EFD_SEMAPHORE",
        why: "Tokens for a pool of workers want a level-triggered registration: an edge wakes one of them for all \
              three.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let tokens = stage.eventfd_with(EfdFlags::EFD_SEMAPHORE, "0, SEMAPHORE")?;
            let (level, edge) = (stage.epoll()?, stage.epoll()?);
            level.add(&tokens, IN)?;
            edge.add(&tokens, IN | ET)?;
            tokens.add(3)?;
            edge.reports(IN)?;
            for _ in 0..3 {
                level.reports(IN)?;
                tokens.take().is(1)?;
            }
            level.quiet()?;
            edge.quiet()
        },
        mutation: with(ET),
    },
    Experiment {
        id: "timerfd-level-until-read",
        core: true,
        claim: "A timerfd is IN from its expiry until it is read. The read says how often it has expired since the \
                last.",
        source: "timerfd_create(2)",
        why: "Level-triggered, who does not read it spins. Expiries that were missed are one event: use the number.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let ep = stage.epoll()?;
            let once = timer(stage, Expiration::OneShot(milliseconds(5)))?;
            ep.add(&once, IN)?;
            ep.reports(IN)?;
            ep.reports(IN)?;
            once.take().is(1)?;
            once.take().is(EAGAIN)?;
            ep.quiet()?;

            let periodic = timer(stage, Expiration::Interval(milliseconds(5)))?;
            stage.note("30 ms pass");
            std::thread::sleep(Duration::from_millis(30));
            ep.add(&periodic, IN)?;
            ep.reports(IN)?;
            periodic.take().at_least(5)?;
            Ok(())
        },
        mutation: with(ET),
    },
    Experiment {
        id: "timerfd-unread-stops-ticking",
        core: true,
        claim: "A periodic timerfd that nobody reads is one edge, and then silent. A read says how many ticks were \
                missed, and the edges come again.",
        source: "timerfd_read(): only it starts the next interval; the manual is silent",
        why: "An eventfd need not be read under edge-triggering, a timer must: at every tick.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let ticks = timer(stage, Expiration::Interval(milliseconds(10)))?;
            let ep = stage.epoll()?;
            ep.add(&ticks, IN | ET)?;
            ep.reports(IN)?;
            for _ in 0..4 {
                ep.quiet()?;
            }
            ticks.take().at_least(20)?;
            ep.reports(IN)
        },
        mutation: fake_wait(2, &[IN]),
    },
    Experiment {
        id: "signalfd-belongs-to-the-adder",
        core: true,
        claim: "A signalfd in an epoll tells of signals to the process that did the ADD. In a child, its own signals \
                are no event, though poll sees them.",
        source: "signalfd(2), 'epoll(7) semantics'",
        why: "A server with several processes makes its signalfd and its epoll after the fork.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let signals = signals(stage, Signal::SIGUSR1)?;
            let ep = stage.epoll()?;
            ep.add(&signals, IN)?;
            let child = stage.fork(|stage| {
                to_itself(stage, Signal::SIGUSR1)?;
                ep.quiet()?;
                signals.poll(IN).is(IN)?;
                Ok(())
            })?;
            child.join()?;
            ep.quiet()?;
            to_itself(stage, Signal::SIGUSR1)?;
            ep.reports(IN)
        },
        mutation: fake_wait(1, &[IN]),
    },
    Experiment {
        id: "pidfd-exit-is-in",
        core: true,
        claim: "A pidfd is IN when its process has ended, and stays so. Once that was waited for, HUP comes to it.",
        source: "pidfd_open(2) for IN; pidfd_poll() for HUP",
        why: "Children can be watched without SIGCHLD. Level-triggered it spins until it is deleted.",
        since: (5, 3),
        changed: "6.9: HUP when it has been waited for, beside IN (43f0df54c96f); before, only IN",
        run: |stage| {
            let (until_told, tell) = stage.pipe()?;
            let child = stage.fork(|_| until_told.read_until(|sum| sum > 0).map(drop))?;
            let pidfd = stage.file("pidfd", raw::pidfd_open(child.pid.as_raw()).map_err(Errno::from_raw)?);
            let ep = stage.epoll()?;
            ep.add(&pidfd, IN)?;
            ep.quiet()?;
            tell.send(1)?;
            ep.reports(IN)?;
            ep.reports(IN)?;
            child.join()?;
            ep.reports(if stage.since((6, 9)) { IN | HUP } else { IN })
        },
        mutation: with(ET),
    },
    Experiment {
        id: "inotify-readable",
        core: false,
        claim: "An inotify descriptor is IN while it has events: the way to watch a file that epoll itself refuses.",
        source: "inotify(7)",
        why: "This is how a log file is followed.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let log = stage.file("log", scratch()?);
            let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
            inotify.add_watch(path_to(&log).as_str(), AddWatchFlags::IN_MODIFY)?;
            let inotify = stage.file("inotify", inotify);
            let ep = stage.epoll()?;
            ep.try_add(&log, IN).is(EPERM)?;
            ep.add(&inotify, IN)?;
            ep.quiet()?;
            log.send(10)?;
            ep.reports(IN)?;
            inotify.recv(4096).at_least(16)?;
            ep.quiet()
        },
        mutation: fake_wait(2, &[]),
    },
    Experiment {
        id: "pipe-hup-and-err",
        core: true,
        claim: "When the last writer of a pipe has closed, its reader is HUP, with IN while there is data. When the \
                last reader has closed, its writer is OUT|ERR, and a write says EPIPE.",
        source: "epoll_ctl(2), EPOLLHUP and EPOLLERR; pipe(7)",
        why: "HUP together with IN means: read first. A handler that closes on HUP loses the end of the data.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let ep = stage.epoll()?;
            let (reader, writer) = stage.pipe()?;
            ep.add(&reader, IN)?;
            writer.send(10)?;
            writer.close()?;
            ep.reports(IN | HUP)?;
            reader.recv(100).is(10)?;
            ep.reports(HUP)?;
            reader.close()?;

            let (reader, writer) = stage.pipe()?;
            ep.add(&writer, OUT)?;
            reader.close()?;
            ep.reports(OUT | ERR)?;
            writer.try_send(1).is(EPIPE)?;
            Ok(())
        },
        mutation: fake_wait(1, &[HUP]),
    },
    Experiment {
        id: "pipe-et-read-edge-every-write",
        core: true,
        claim: "Every write into a pipe is an edge for its reader, though what was written before is still unread.",
        source: "pipe_write(), poll_usage; commit 3a34b13a88ca",
        why: "A pipe that wakes a loop and is never read works here, and hung on the kernels between.",
        since: (2, 6),
        changed: "5.5 to 5.13 (5.10: up to 5.10.55) told of a write only if the pipe had been empty",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.add(&reader, IN | ET)?;
            writer.send(1)?;
            ep.reports(IN)?;
            writer.send(1)?;
            ep.reports(IN)
        },
        mutation: with(ONESHOT),
    },
    Experiment {
        id: "pipe-et-write-edge-needs-full",
        core: false,
        claim: "A read from a pipe is an edge for its writer only if the pipe was full.",
        source: "pipe_read(), wake_writer; the manual is silent",
        why: "Edge-triggered pipes are not alike at both ends: write to EAGAIN before waiting for OUT.",
        since: (5, 5),
        changed: "before 5.5 every read that emptied a page of the pipe was an edge",
        run: |stage| {
            let (reader, writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.add(&writer, OUT | ET)?;
            ep.reports(OUT)?;
            writer.send(30_000)?;
            reader.recv(30_000).is(30_000)?;
            ep.quiet()?;
            let capacity = writer.fill()?;
            ep.quiet()?;
            reader.recv(capacity).is(capacity)?;
            ep.reports(OUT)
        },
        mutation: without(ET),
    },
    Experiment {
        id: "fifo-before-and-after-writer",
        core: false,
        claim: "The reader of a FIFO has no HUP before the first writer has come, HUP after the last one has gone, and \
                none again when another one comes.",
        source: "pipe_poll(), w_counter; fifo(7) is silent",
        why: "A daemon that reads commands from a FIFO spins when its first client has gone. Opened for reading and \
              writing it has a writer for ever.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (reader, path) = fifo(stage)?;
            let ep = stage.epoll()?;
            ep.add(&reader, IN)?;
            ep.quiet()?;
            let open = |name| -> Outcome<File> {
                stage.note(format_args!("open(fifo, WRONLY) = {name}"));
                Ok(stage.file(name, OpenOptions::new().write(true).open(&path)?))
            };
            open("writer")?.close()?;
            ep.reports(HUP)?;
            let _another = open("another")?;
            ep.quiet()
        },
        mutation: fake_wait(2, &[]),
    },
    Experiment {
        id: "pty-hup",
        core: false,
        claim: "The master of a pseudo-terminal is HUP, in every wait, once its last slave was closed. A read says \
                EIO, not 0.",
        source: "n_tty_poll() and n_tty_read(), TTY_OTHER_CLOSED; pty(7) is silent",
        why: "For who serves terminals EIO is the end of the stream.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let (master, path) = terminal(stage)?;
            let ep = stage.epoll()?;
            ep.add(&master, IN)?;
            let open = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path)?;
            let slave = stage.file("slave", open);
            ep.quiet()?;
            slave.close()?;
            ep.reports(HUP)?;
            ep.reports(HUP)?;
            master.recv(1).is(EIO)?;
            Ok(())
        },
        mutation: fake_wait(3, &[]),
    },
    Experiment {
        id: "proc-mounts-pri",
        core: false,
        claim: "/proc/self/mounts is always IN. A change of the mount table is PRI|ERR, once: here ERR is the ordinary \
                notice.",
        source: "proc_pid_mounts(5); mounts_poll()",
        why: "Another file for which ERR is no error.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            own_mounts(stage)?;
            let mounts = stage.file("mounts", Opened::open("/proc/self/mounts")?);
            let ep = stage.epoll()?;
            ep.add(&mounts, IN | PRI)?;
            ep.reports(IN)?;
            ep.modify(&mounts, PRI)?;
            ep.quiet()?;
            stage.note("mount(tmpfs)");
            mount(Some("none"), "/proc", Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
            ep.reports(PRI | ERR)?;
            ep.quiet()
        },
        mutation: fake_wait(3, &[PRI]),
    },
    Experiment {
        id: "stdin-file-eperm",
        core: true,
        claim: "ADD says EPERM for a regular file and for /dev/null, and takes a pipe. To poll, the file is ready for \
                reading and writing.",
        source: "epoll_ctl(2), EPERM; poll(2)",
        why: "A program that watches its stdin works on a terminal and in a pipeline, and dies when stdin is a file. \
              For EPERM, take it for always ready.",
        since: (2, 6),
        changed: "",
        run: |stage| {
            let file = stage.file("file", Opened::open("/proc/self/exe")?);
            let null = stage.file("/dev/null", Opened::open("/dev/null")?);
            let (pipe, _writer) = stage.pipe()?;
            let ep = stage.epoll()?;
            ep.try_add(&file, IN).is(EPERM)?;
            ep.try_add(&null, IN).is(EPERM)?;
            ep.try_add(&pipe, IN).is(())?;
            file.poll(IN | OUT).is(IN | OUT)?;
            Ok(())
        },
        mutation: fake("epoll_ctl", 1, Lie::Done),
    },
];

fn milliseconds(count: u64) -> TimeSpec {
    Duration::from_millis(count).into()
}

/// A timer that runs, non-blocking.
fn timer(stage: &Stage, expiry: Expiration) -> Outcome<File> {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
    timer.set(expiry, TimerSetTimeFlags::empty())?;
    let file = stage.file("timer", timer);
    let when = match expiry {
        Expiration::Interval(every) => format!("every {} ms", every.tv_nsec() / 1_000_000),
        Expiration::OneShot(after) | Expiration::IntervalDelayed(after, _) => {
            format!("in {} ms", after.tv_nsec() / 1_000_000)
        }
    };
    stage.note(format_args!("{} = timerfd, {when}", file.name));
    Ok(file)
}

/// A signalfd for this signal, which is blocked from now on.
fn signals(stage: &Stage, signal: Signal) -> Outcome<File> {
    let set = SigSet::from(signal);
    set.thread_block()?;
    stage.note(format_args!("signalfd({signal}), and the signal is blocked"));
    Ok(stage.file("signalfd", SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
}

/// The process sends the signal to itself.
fn to_itself(stage: &Stage, signal: Signal) -> Outcome {
    stage.note(format_args!("kill(itself, {signal})"));
    Ok(kill(getpid(), signal)?)
}

/// A path by which what is open can be opened once more, and watched.
fn path_to(file: &File) -> String {
    format!("/proc/self/fd/{}", file.number())
}

/// A regular file whose name is gone already.
fn scratch() -> Outcome<Opened> {
    let name = scratch_name("log");
    let file = Opened::create_new(&name)?;
    std::fs::remove_file(&name)?;
    Ok(file)
}

/// The reading end of a FIFO whose name is gone already, and a path to open other ends by.
fn fifo(stage: &Stage) -> Outcome<(File, String)> {
    let name = scratch_name("fifo");
    mkfifo(&name, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&name);
    std::fs::remove_file(&name)?;
    stage.note("open(fifo, RDONLY) = reader");
    let reader = stage.file("reader", opened?);
    let path = path_to(&reader);
    Ok((reader, path))
}

fn scratch_name(kind: &str) -> PathBuf {
    std::env::temp_dir().join(format!("eagain-lab-{}.{kind}", getpid()))
}

/// The master of a new pseudo-terminal, and the path of its slave.
fn terminal(stage: &Stage) -> Outcome<(File, String)> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let path = ptsname_r(&master)?;
    stage.note(format_args!("master = the master of {path}"));
    Ok((stage.file("master", master), path))
}

/// From now on this process has a mount table of its own, which nobody else sees.
fn own_mounts(stage: &Stage) -> Outcome {
    let own =
        unshare(CloneFlags::CLONE_NEWNS).or_else(|_| unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS));
    if let Err(errno) = own {
        return stage.not_tested(format_args!("a mount namespace of one's own is needed, and unshare says {errno:?}"));
    }
    stage.note("unshare(NEWNS): a mount table of its own");
    Ok(mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?)
}
