//! A kernel of one epoll, one timerfd, one eventfd, streams of a few bytes, and a clock, as the port sees them. Each
//! call is one step. What Linux does not promise, this one does not keep: signals come, edges without reason, batches
//! of one, ENOSPC, and timers are late.
//!
//! Every call panics if its thread holds a lock of the port.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::{Condvar, Mutex, MutexGuard};

pub(super) use self::net::Socket;
use super::sync;

/// Of a stream: a writer soon finds it full.
const ROOM: usize = 3;

#[derive(Debug)]
struct State {
    start: Instant,
    passed: Duration,
    files: BTreeMap<usize, File>,
    /// Files with an edge that nobody has fetched; in the order of the edges.
    ready: VecDeque<usize>,
}

#[derive(Debug)]
struct File {
    kind: Kind,
    /// Under what it is registered in the epoll.
    data: Option<u64>,
}

#[derive(Debug)]
enum Kind {
    /// An eventfd that nobody reads.
    Counter,
    Timer {
        set_to: Option<Duration>,
        fired: bool,
    },
    Stream {
        /// `None`: it is closed.
        peer: Option<usize>,
        unread: VecDeque<u8>,
        /// A FIN is behind them.
        end: bool,
        shut: bool,
    },
}

struct Kernel {
    state: Mutex<State>,
    /// In `epoll_wait`.
    sleepers: Condvar,
    /// Whoever else waits for something to change.
    others: Condvar,
}

shuttle::lazy_static! {
    /// Made anew for each execution.
    static ref KERNEL: Kernel = Kernel {
        state: Mutex::new(State {
            start: Instant::now(),
            passed: Duration::ZERO,
            files: BTreeMap::new(),
            ready: VecDeque::new(),
        }),
        sleepers: Condvar::new(),
        others: Condvar::new(),
    };
}

/// What each call begins with.
fn enter() -> MutexGuard<'static, State> {
    assert_eq!(sync::held(), 0, "a system call under a lock");
    KERNEL.state.lock().unwrap()
}

fn one_in(n: u32) -> bool {
    thread_rng().gen_range(0..n) == 0
}

/// No system call: the clock is read in the vDSO. It moves by itself, so that no two looks at it are the same.
pub(super) fn now() -> Instant {
    let mut state = KERNEL.state.lock().unwrap();
    state.passed += Duration::from_micros(1);
    state.start + state.passed
}

/// How many sockets are open.
pub(super) fn open_sockets() -> usize {
    enter().files.values().filter(|file| matches!(file.kind, Kind::Stream { .. })).count()
}

/// When the timerfd will fire.
pub(super) fn timerfd_is_set_to() -> Option<Instant> {
    let state = enter();
    state.files.values().find_map(|file| match file.kind {
        Kind::Timer { set_to, .. } => set_to.map(|set_to| state.start + set_to),
        _ => None,
    })
}

/// Lets the timerfd fire, whenever it is set, as late as the scheduler likes; until `over`.
pub(super) fn let_time_pass(over: impl Fn() -> bool) {
    let mut state = enter();
    while !over() {
        let next = state.files.iter().find_map(|(&at, file)| match file.kind {
            Kind::Timer { set_to: Some(set_to), .. } => Some((at, set_to)),
            _ => None,
        });
        let Some((at, set_to)) = next else {
            state = KERNEL.others.wait(state).unwrap();
            continue;
        };
        state.passed = state.passed.max(set_to);
        state.files.get_mut(&at).unwrap().kind = Kind::Timer { set_to: None, fired: true };
        state.edge(at);
        drop(state);
        shuttle::thread::yield_now();
        state = enter();
    }
}

/// Those who wait look again.
pub(super) fn stir() {
    drop(enter());
    KERNEL.others.notify_all();
}

impl State {
    /// The lowest number that is free, as POSIX has it: numbers come back.
    fn open(&mut self, kind: Kind) -> usize {
        let fd = (0..).find(|fd| !self.files.contains_key(fd)).unwrap();
        self.files.insert(fd, File { kind, data: None });
        fd
    }

    fn bits(&self, fd: usize) -> u32 {
        let bit = |on: bool, bit: i32| if on { bit as u32 } else { 0 };
        match &self.files[&fd].kind {
            Kind::Counter => bit(true, libc::EPOLLIN | libc::EPOLLOUT),
            Kind::Timer { fired, .. } => bit(*fired, libc::EPOLLIN),
            Kind::Stream { peer, unread, end, .. } => {
                bit(*end || !unread.is_empty(), libc::EPOLLIN)
                    | bit(*end, libc::EPOLLRDHUP)
                    | bit(self.room(*peer) > 0, libc::EPOLLOUT)
                    | bit(peer.is_none(), libc::EPOLLHUP | libc::EPOLLOUT)
            }
        }
    }

    fn room(&self, peer: Option<usize>) -> usize {
        match peer.map(|peer| &self.files[&peer].kind) {
            Some(Kind::Stream { unread, .. }) => ROOM - unread.len(),
            _ => 0,
        }
    }

    /// Something has happened to a file: `ep_poll_callback`, which wakes one sleeper.
    fn edge(&mut self, fd: usize) {
        if self.files[&fd].data.is_some() {
            if !self.ready.contains(&fd) {
                self.ready.push_back(fd);
            }
            KERNEL.sleepers.notify_one();
        }
        KERNEL.others.notify_all();
    }

    fn stream(&mut self, fd: usize) -> (&mut Option<usize>, &mut VecDeque<u8>, &mut bool, &mut bool) {
        match &mut self.files.get_mut(&fd).expect("an open descriptor").kind {
            Kind::Stream { peer, unread, end, shut } => (peer, unread, end, shut),
            other => panic!("{fd} is no stream but {other:?}"),
        }
    }
}

pub(super) mod epoll {
    use super::net::{NonBlocking, Socket};
    use super::{Descriptor, KERNEL, enter, one_in};
    pub(in super::super) use crate::sys::epoll::{Error, Interest, Mode, Timeout};

    #[derive(Debug)]
    pub(in super::super) struct Epoll;

    impl Epoll {
        pub(in super::super) fn new() -> Result<Self, Error> {
            Ok(Self)
        }

        pub(in super::super) fn add(
            &self,
            file: &impl Descriptor,
            data: u64,
            _: Interest,
            mode: Mode,
        ) -> Result<(), Error> {
            assert_eq!(mode, Mode::EDGE);
            let mut state = enter();
            let before = state.files.get_mut(&file.fd()).unwrap().data.replace(data);
            assert_eq!(before, None, "registered twice");
            if state.bits(file.fd()) != 0 {
                state.edge(file.fd());
            }
            Ok(())
        }

        pub(in super::super) fn add_nonblocking(
            &self,
            socket: &NonBlocking<Socket>,
            data: u64,
            interest: Interest,
            mode: Mode,
        ) -> Result<(), Error> {
            if one_in(16) {
                return Err(Error::WatchLimit);
            }
            self.add(socket.get_ref(), data, interest, mode)
        }

        pub(in super::super) fn delete(&self, socket: &NonBlocking<Socket>) -> Result<(), Error> {
            let mut state = enter();
            let fd = socket.get_ref().fd();
            let before = state.files.get_mut(&fd).unwrap().data.take();
            assert!(before.is_some(), "not registered");
            state.ready.retain(|&ready| ready != fd);
            Ok(())
        }

        /// As `ep_poll`: what is no longer so when it is fetched, is not told; who leaves something wakes the next.
        pub(in super::super) fn wait(&self, events: &mut Events, timeout: Timeout) -> Result<usize, Error> {
            let mut looks = match timeout {
                Timeout::Now => 1,
                Timeout::After(_) => 4,
                Timeout::Never => usize::MAX,
            };
            let most = if one_in(2) { 1 } else { events.most };
            let mut state = enter();
            loop {
                while events.list.len() < most
                    && let Some(fd) = state.ready.pop_front()
                {
                    let bits = state.bits(fd);
                    if bits != 0 {
                        events.list.push(Event { data: state.files[&fd].data.unwrap(), bits });
                    }
                    // Nobody promises that an edge comes once.
                    if bits != 0 && one_in(32) {
                        state.edge(fd);
                    }
                }
                looks = looks.saturating_sub(1);
                if !events.list.is_empty() || looks == 0 {
                    break;
                }
                if timeout == Timeout::Never {
                    state = KERNEL.sleepers.wait(state).unwrap();
                } else {
                    drop(state);
                    shuttle::thread::yield_now();
                    state = enter();
                }
            }
            if !state.ready.is_empty() {
                KERNEL.sleepers.notify_one();
            }
            if let Timeout::After(duration) = timeout
                && events.list.is_empty()
            {
                state.passed += duration;
            }
            Ok(events.list.len())
        }
    }

    #[derive(Debug)]
    pub(in super::super) struct Events {
        list: Vec<Event>,
        most: usize,
    }

    impl Events {
        pub(in super::super) fn with_capacity(most: usize) -> Self {
            Self { list: Vec::new(), most }
        }

        pub(in super::super) fn iter(&self) -> std::iter::Copied<std::slice::Iter<'_, Event>> {
            self.list.iter().copied()
        }
    }

    impl<'a> IntoIterator for &'a Events {
        type Item = Event;
        type IntoIter = std::iter::Copied<std::slice::Iter<'a, Event>>;

        fn into_iter(self) -> Self::IntoIter {
            self.iter()
        }
    }

    /// Its questions are those of `sys/epoll.rs`.
    #[derive(Debug, Clone, Copy)]
    pub(in super::super) struct Event {
        data: u64,
        bits: u32,
    }

    impl Event {
        const fn has(self, bits: i32) -> bool {
            self.bits & bits as u32 != 0
        }

        pub(in super::super) const fn data(self) -> u64 {
            self.data
        }

        pub(in super::super) const fn should_read(self) -> bool {
            self.has(libc::EPOLLIN | libc::EPOLLPRI | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR)
        }

        pub(in super::super) const fn should_write(self) -> bool {
            self.has(libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR)
        }

        pub(in super::super) const fn read_closed(self) -> bool {
            self.has(libc::EPOLLRDHUP)
        }

        pub(in super::super) const fn error(self) -> bool {
            self.has(libc::EPOLLERR)
        }

        pub(in super::super) const fn priority(self) -> bool {
            self.has(libc::EPOLLPRI)
        }
    }
}

/// What can be registered.
pub(super) trait Descriptor {
    fn fd(&self) -> usize;
}

pub(super) mod eventfd {
    pub(in super::super) use nix::sys::eventfd::EfdFlags;

    use super::{Descriptor, Errno, Kind, enter, one_in};

    #[derive(Debug)]
    pub(in super::super) struct EventFd(usize);

    impl EventFd {
        pub(in super::super) fn from_flags(_: EfdFlags) -> Result<Self, Errno> {
            Ok(Self(enter().open(Kind::Counter)))
        }

        pub(in super::super) fn write(&self, _: u64) -> Result<usize, Errno> {
            let mut state = enter();
            if one_in(8) {
                return Err(Errno::EINTR);
            }
            state.edge(self.0);
            Ok(8)
        }
    }

    impl Descriptor for EventFd {
        fn fd(&self) -> usize {
            self.0
        }
    }
}

pub(super) mod timerfd {
    pub(in super::super) use nix::sys::timerfd::{ClockId, Expiration, TimerFlags, TimerSetTimeFlags};

    use super::{Descriptor, Errno, KERNEL, Kind, enter};

    #[derive(Debug)]
    pub(in super::super) struct TimerFd(usize);

    impl TimerFd {
        pub(in super::super) fn new(_: ClockId, _: TimerFlags) -> Result<Self, Errno> {
            Ok(Self(enter().open(Kind::Timer { set_to: None, fired: false })))
        }

        /// What has fired and was not fetched is forgotten (`timerfd_setup`: `ctx->ticks = 0`).
        pub(in super::super) fn set(&self, to: Expiration, _: TimerSetTimeFlags) -> Result<(), Errno> {
            let Expiration::OneShot(wait) = to else { panic!("{to:?}") };
            let mut state = enter();
            let set_to = Some(state.passed + std::time::Duration::from(wait));
            state.files.get_mut(&self.0).unwrap().kind = Kind::Timer { set_to, fired: false };
            KERNEL.others.notify_all();
            Ok(())
        }
    }

    impl Descriptor for TimerFd {
        fn fd(&self) -> usize {
            self.0
        }
    }
}

pub(super) mod net {
    use std::io::{Error, Result};

    use socket2::{Protocol, SockAddr};

    use super::{Descriptor, KERNEL, Kind, State, VecDeque, enter, one_in};

    /// One end of a stream.
    #[derive(Debug)]
    pub(in super::super) struct Socket(usize);

    pub(in super::super) fn pair() -> (Socket, Socket) {
        let mut state = enter();
        let stream = || Kind::Stream { peer: None, unread: VecDeque::new(), end: false, shut: false };
        let (one, two) = (state.open(stream()), state.open(stream()));
        *state.stream(one).0 = Some(two);
        *state.stream(two).0 = Some(one);
        (Socket(one), Socket(two))
    }

    impl Socket {
        pub(in super::super) fn protocol(&self) -> Result<Option<Protocol>> {
            drop(enter());
            Ok(Some(Protocol::TCP))
        }

        /// No test of this kind connects.
        pub(in super::super) fn connect(&self, _: &SockAddr) -> Result<()> {
            Err(Error::from_raw_os_error(libc::EISCONN))
        }

        pub(in super::super) fn shutdown(&self, _: std::net::Shutdown) -> Result<()> {
            let mut state = enter();
            *state.stream(self.0).3 = true;
            if let Some(peer) = *state.stream(self.0).0 {
                *state.stream(peer).2 = true;
                state.edge(peer);
            }
            Ok(())
        }

        fn recv(&self, state: &mut State, most: usize) -> Result<Vec<u8>> {
            let (&mut peer, unread, end, _) = state.stream(self.0);
            if unread.is_empty() && !*end {
                return Err(Error::from_raw_os_error(libc::EAGAIN));
            }
            let bytes: Vec<u8> = unread.drain(..most.min(unread.len())).collect();
            // Room for the writer.
            if let Some(peer) = peer {
                state.edge(peer);
            }
            Ok(bytes)
        }

        fn send(&self, state: &mut State, bytes: &[u8]) -> Result<usize> {
            let (&mut peer, .., shut) = state.stream(self.0);
            let Some(peer) = peer.filter(|_| !*shut) else { return Err(Error::from_raw_os_error(libc::EPIPE)) };
            let sent = bytes.len().min(state.room(Some(peer)));
            if sent == 0 && !bytes.is_empty() {
                return Err(Error::from_raw_os_error(libc::EAGAIN));
            }
            state.stream(peer).1.extend(&bytes[..sent]);
            state.edge(peer);
            Ok(sent)
        }

        /// Waits until there is something; empty at the end.
        pub(in super::super) fn read(&self, most: usize) -> Vec<u8> {
            let mut state = enter();
            loop {
                if let Ok(bytes) = self.recv(&mut state, most) {
                    return bytes;
                }
                state = KERNEL.others.wait(state).unwrap();
            }
        }

        /// Waits until all of it is written, or nobody reads any more.
        pub(in super::super) fn write(&self, mut bytes: &[u8]) {
            let mut state = enter();
            while !bytes.is_empty() {
                match self.send(&mut state, bytes) {
                    Ok(sent) => bytes = &bytes[sent..],
                    Err(error) if error.raw_os_error() == Some(libc::EPIPE) => return,
                    Err(_) => state = KERNEL.others.wait(state).unwrap(),
                }
            }
        }
    }

    impl Descriptor for Socket {
        fn fd(&self) -> usize {
            self.0
        }
    }

    impl Drop for Socket {
        fn drop(&mut self) {
            if std::thread::panicking() {
                return;
            }
            let mut state = enter();
            let peer = *state.stream(self.0).0;
            state.files.remove(&self.0);
            state.ready.retain(|&ready| ready != self.0);
            if let Some(peer) = peer {
                let (other, _, end, _) = state.stream(peer);
                (*other, *end) = (None, true);
                state.edge(peer);
            }
        }
    }

    #[derive(Debug)]
    pub(in super::super) struct NonBlocking<T>(T);

    impl<T> NonBlocking<T> {
        pub(in super::super) const fn trust(inner: T) -> Self {
            Self(inner)
        }

        pub(in super::super) const fn get_ref(&self) -> &T {
            &self.0
        }

        pub(in super::super) fn into_inner(self) -> T {
            self.0
        }
    }

    impl NonBlocking<Socket> {
        /// No test of this kind listens.
        pub(in super::super) fn accept(_: &Self) -> Result<(Self, SockAddr)> {
            Err(Error::from_raw_os_error(libc::EINVAL))
        }
    }

    fn interrupted() -> Result<()> {
        if one_in(16) { Err(Error::from_raw_os_error(libc::EINTR)) } else { Ok(()) }
    }

    pub(in super::super) fn recv_append(
        socket: &NonBlocking<Socket>,
        buffer: &mut Vec<u8>,
        most: usize,
    ) -> Result<usize> {
        let mut state = enter();
        interrupted()?;
        let bytes = socket.0.recv(&mut state, most)?;
        buffer.extend(&bytes);
        Ok(bytes.len())
    }

    pub(in super::super) fn send(socket: &NonBlocking<Socket>, bytes: &[u8]) -> Result<usize> {
        let mut state = enter();
        interrupted()?;
        socket.0.send(&mut state, bytes)
    }
}
