//! A thread that sleeps in `epoll_wait` is woken by others: by an eventfd, a Unix pair, or a TCP pair.
//!
//! `cargo run --example waker [eventfd|unix|tcp]`. Four threads hand in a hundred jobs each; the sleeper adds them up.
//!
//! Wakers often
//! - are a TCP pair that takes whoever connects first for its other end: a stranger can then wake the sleeper, or keep
//!   it asleep. `pair::tcp_loopback` asks both ends for both addresses;
//! - are read byte for byte, one for each job: a full socket then blocks whoever wakes. Here a job is in the queue
//!   before the wake-up, one wake-up stands for all of them, and a waker that is full has already done its duty;
//! - are a pair of sockets at all: an eventfd is one descriptor, and edge-triggered it need never be read.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::{env, mem, thread};

use eagain::pair::{self, Family};
use eagain::sys::epoll::{Epoll, Events, Interest, Mode, Timeout};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{read, write};

const THREADS: u64 = 4;
const JOBS: u64 = 100;

/// Two ends, both non-blocking. Those of an eventfd are the same.
struct Waker {
    theirs: OwnedFd,
    ours: OwnedFd,
}

impl Waker {
    fn new(kind: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let (theirs, ours) = match kind {
            "eventfd" => {
                let ours = OwnedFd::from(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
                (ours.try_clone()?, ours)
            }
            "unix" => {
                let (theirs, ours) = pair::unix()?;
                theirs.set_nonblocking(true)?;
                ours.set_nonblocking(true)?;
                (theirs.into(), ours.into())
            }
            "tcp" => {
                let (theirs, ours) = pair::tcp_loopback(Family::V4)?;
                theirs.set_nonblocking(true)?;
                ours.set_nonblocking(true)?;
                (theirs.into(), ours.into())
            }
            other => return Err(format!("{other} is no waker: eventfd, unix or tcp").into()),
        };
        Ok(Self { theirs, ours })
    }

    /// Eight bytes, as an eventfd wants them.
    fn wake(&self) -> nix::Result<()> {
        match write(&self.theirs, &1_u64.to_ne_bytes()) {
            // Full: the sleeper has not come round yet, and will.
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Empties it: a socket would fill up. (An eventfd need not be read: each write is an edge.)
    fn rest(&self) -> nix::Result<()> {
        let mut wakes = [0; 512];
        loop {
            match read(&self.ours, &mut wakes) {
                Ok(0) => return Err(Errno::EPIPE),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let waker = Waker::new(env::args().nth(1).as_deref().unwrap_or("eventfd"))?;
    let (epoll, mut events) = (Epoll::new()?, Events::with_capacity(1));
    epoll.add(&waker.ours, 0, Interest::READ, Mode::EDGE)?;
    let jobs = Mutex::new(Vec::new());
    let (mut done, mut sum, mut turns) = (0, 0, 0);
    thread::scope(|scope| -> Result<(), Box<dyn std::error::Error>> {
        for thread in 0..THREADS {
            let (jobs, waker) = (&jobs, &waker);
            scope.spawn(move || {
                for job in 0..JOBS {
                    jobs.lock().unwrap_or_else(PoisonError::into_inner).push(thread * JOBS + job);
                    waker.wake().expect("the other end is open");
                }
            });
        }
        while done < THREADS * JOBS {
            epoll.wait(&mut events, Timeout::Never)?;
            // First the waker, then the queue: a job that comes in between is a new edge.
            waker.rest()?;
            let batch = mem::take(&mut *jobs.lock().unwrap_or_else(PoisonError::into_inner));
            done += batch.len() as u64;
            sum += batch.iter().sum::<u64>();
            turns += u64::from(!batch.is_empty());
        }
        Ok(())
    })?;
    println!("{done} jobs, sum {sum}, in {turns} turns");
    Ok(())
}
