//! Wakers: how one thread wakes another that sleeps in `epoll_wait`.
//!
//! Two threads wake each other in turn. Each has an epoll of its own, with one descriptor in it. What differs is the
//! descriptor, and whether it has to be read: an eventfd that is registered edge-triggered need not be, since each
//! write is an event (RULE `eventfd-waker-et-needs-no-read` of the library); all others are level-triggered here and
//! would be reported for ever.

use std::fmt::Write as _;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use eagain::sys::epoll::{Epoll, Events, Interest, Mode, Timeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::{Failure, shown};
use crate::bench::Spread;
use crate::cli::Compare;

/// A wake-up that takes longer has been lost.
const LOST: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    EventfdUnread,
    EventfdRead,
    Pipe,
    Socketpair,
    TcpPair,
}

impl Kind {
    const ALL: [Self; 5] = [Self::EventfdUnread, Self::EventfdRead, Self::Pipe, Self::Socketpair, Self::TcpPair];

    fn name(self) -> &'static str {
        match self {
            Kind::EventfdUnread => "eventfd, unread",
            Kind::EventfdRead => "eventfd, read",
            Kind::Pipe => "pipe",
            Kind::Socketpair => "socketpair",
            Kind::TcpPair => "tcp pair",
        }
    }

    /// To write, to wait and, if it must be, to read.
    fn system_calls(self) -> u32 {
        if self == Kind::EventfdUnread { 2 } else { 3 }
    }

    fn descriptors(self) -> u32 {
        if matches!(self, Kind::EventfdUnread | Kind::EventfdRead) { 1 } else { 2 }
    }

    fn make(self) -> io::Result<(Sleeper, Waker)> {
        let eventfd = || -> io::Result<Arc<EventFd>> {
            Ok(Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
        };
        Ok(match self {
            Kind::EventfdUnread => {
                let event = eventfd()?;
                (Sleeper::EventFd(Arc::clone(&event), false), Waker::EventFd(event))
            }
            Kind::EventfdRead => {
                let event = eventfd()?;
                (Sleeper::EventFd(Arc::clone(&event), true), Waker::EventFd(event))
            }
            Kind::Pipe => {
                let (reader, writer) = io::pipe()?;
                (Sleeper::Pipe(reader), Waker::Pipe(writer))
            }
            Kind::Socketpair => {
                let (reader, writer) = UnixStream::pair()?;
                (Sleeper::Unix(reader), Waker::Unix(writer))
            }
            Kind::TcpPair => {
                let (reader, writer) = tcp_pair()?;
                (Sleeper::Tcp(reader), Waker::Tcp(writer))
            }
        })
    }
}

/// Two ends of a connection over the loopback. A stranger may connect first; his address is not that of our end.
fn tcp_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let ours = TcpStream::connect(listener.local_addr()?)?;
    let here = ours.local_addr()?;
    loop {
        let (theirs, peer) = listener.accept()?;
        if peer == here {
            ours.set_nodelay(true)?;
            return Ok((theirs, ours));
        }
    }
}

/// What a thread sleeps on.
enum Sleeper {
    /// And whether it is read.
    EventFd(Arc<EventFd>, bool),
    Pipe(PipeReader),
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Sleeper {
    fn register(&self, epoll: &Epoll) -> Result<(), Failure> {
        let mode = if matches!(self, Sleeper::EventFd(_, false)) { Mode::EDGE } else { Mode::LEVEL };
        let fd: BorrowedFd<'_> = match self {
            Sleeper::EventFd(event, _) => event.as_fd(),
            Sleeper::Pipe(pipe) => pipe.as_fd(),
            Sleeper::Unix(socket) => socket.as_fd(),
            Sleeper::Tcp(socket) => socket.as_fd(),
        };
        Ok(epoll.add(fd, 0, Interest::READ, mode)?)
    }

    /// Takes the wake-up out, where it has to be.
    fn take(&mut self) -> io::Result<()> {
        let mut byte = [0];
        match self {
            Sleeper::EventFd(_, false) => Ok(()),
            Sleeper::EventFd(event, true) => Ok(event.read().map(drop)?),
            Sleeper::Pipe(pipe) => pipe.read_exact(&mut byte),
            Sleeper::Unix(socket) => socket.read_exact(&mut byte),
            Sleeper::Tcp(socket) => socket.read_exact(&mut byte),
        }
    }
}

/// What wakes it.
enum Waker {
    EventFd(Arc<EventFd>),
    Pipe(PipeWriter),
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Waker {
    fn wake(&mut self) -> io::Result<()> {
        match self {
            Waker::EventFd(event) => Ok(event.write(1).map(drop)?),
            Waker::Pipe(pipe) => pipe.write_all(&[1]),
            Waker::Unix(socket) => socket.write_all(&[1]),
            Waker::Tcp(socket) => socket.write_all(&[1]),
        }
    }
}

/// One of the two threads: sleeps until it is woken.
struct Side {
    epoll: Epoll,
    events: Events,
    sleeper: Sleeper,
    other: Waker,
}

impl Side {
    fn new(sleeper: Sleeper, other: Waker) -> Result<Self, Failure> {
        let epoll = Epoll::new()?;
        sleeper.register(&epoll)?;
        Ok(Self { epoll, events: Events::with_capacity(1), sleeper, other })
    }

    fn sleep(&mut self) -> Result<(), Failure> {
        let start = Instant::now();
        while self.epoll.wait(&mut self.events, Timeout::After(LOST))? == 0 {
            // A signal, or the time.
            if start.elapsed() >= LOST {
                return Err("a wake-up was lost".into());
            }
        }
        Ok(self.sleeper.take()?)
    }
}

/// Times of one wake-up, in microseconds.
#[derive(Debug, Serialize)]
struct Row {
    waker: &'static str,
    descriptors: u32,
    system_calls: u32,
    wake_up_us: Spread,
    /// Of both threads, in user and system.
    cpu_us: Spread,
    /// Nothing can be said of a difference in CPU between this and the cheapest.
    as_cheap_as_the_cheapest: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Wakers {
    schema: u32,
    compared: &'static str,
    repetitions: usize,
    wake_ups: usize,
    rows: Vec<Row>,
}

pub(super) fn compare(options: &Compare) -> Result<Wakers, Failure> {
    let (repetitions, rounds) = if options.quick { (5, 2000) } else { (9, 20_000) };
    let repetitions = options.repeat.unwrap_or(repetitions);
    let mut samples: [(Vec<f64>, Vec<f64>); 5] = Default::default();
    // All kinds in turn, so that what else the machine does meets all of them.
    for _ in 0..repetitions {
        for (kind, (times, cpu)) in Kind::ALL.into_iter().zip(&mut samples) {
            let (time, used) = wake_each_other(kind, rounds)?;
            times.push(time);
            cpu.push(used);
        }
    }
    // By CPU: a wake-up takes longer when another program has the processor, but not more work.
    let ranges = samples.each_ref().map(|(_, cpu)| range(cpu));
    let cheapest = ranges.into_iter().min_by(|a, b| a[0].total_cmp(&b[0])).ok_or("no waker")?;
    let rows = Kind::ALL.into_iter().zip(samples).zip(ranges).map(|((kind, (times, cpu)), range)| {
        Some(Row {
            waker: kind.name(),
            descriptors: kind.descriptors(),
            system_calls: kind.system_calls(),
            wake_up_us: Spread::of(&times)?,
            cpu_us: Spread::of(&cpu)?,
            as_cheap_as_the_cheapest: range[0] <= cheapest[1],
        })
    });
    let rows = rows.collect::<Option<_>>().ok_or("no repetition")?;
    Ok(Wakers { schema: 1, compared: "wakers", repetitions, wake_ups: 2 * rounds, rows })
}

/// Of nine measurements the second to the eighth: their median lies there with 96 %, whatever happened to one of them.
fn range(samples: &[f64]) -> [f64; 2] {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let cut = sorted.len() / 8;
    [cut, sorted.len() - 1 - cut].map(|at| sorted.get(at).copied().unwrap_or(f64::NAN))
}

/// Microseconds of time and of CPU for one wake-up.
fn wake_each_other(kind: Kind, rounds: usize) -> Result<(f64, f64), Failure> {
    let (here, wake_here) = kind.make()?;
    let (there, wake_there) = kind.make()?;
    let mut one = Side::new(here, wake_there)?;
    let mut two = Side::new(there, wake_here)?;
    let (start, cpu) = (Instant::now(), cpu_seconds()?);
    thread::scope(|scope| -> Result<(), Failure> {
        let second = scope.spawn(move || -> Result<(), String> {
            for _ in 0..rounds {
                two.sleep().map_err(|error| error.to_string())?;
                two.other.wake().map_err(|error| error.to_string())?;
            }
            Ok(())
        });
        for _ in 0..rounds {
            one.other.wake()?;
            one.sleep()?;
        }
        second.join().map_err(|_| "a thread panicked")??;
        Ok(())
    })?;
    let wake_ups = 2.0 * rounds as f64;
    let micros = |seconds: f64| seconds * 1e6 / wake_ups;
    Ok((micros(start.elapsed().as_secs_f64()), micros(cpu_seconds()? - cpu)))
}

/// CPU time of this process.
fn cpu_seconds() -> Result<f64, Failure> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    Ok(Duration::from(time).as_secs_f64())
}

impl Wakers {
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "Microseconds for one wake-up of a thread in epoll_wait, median (least-most) of {} times {}.\n\n\
             {:<16}  {:>11}  {:>12}  {:<20}  {}\n",
            self.repetitions, self.wake_ups, "waker", "descriptors", "system calls", "time", "CPU of both"
        );
        for row in &self.rows {
            let remark = if row.as_cheap_as_the_cheapest { "no difference to the cheapest" } else { "" };
            let line = format!(
                "{:<16}  {:>11}  {:>12}  {:<20}  {:<20}  {remark}",
                row.waker,
                row.descriptors,
                row.system_calls,
                shown(&row.wake_up_us),
                shown(&row.cpu_us)
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }
}
