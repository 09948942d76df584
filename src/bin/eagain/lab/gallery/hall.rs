//! The loop that all servers of the gallery share. What they do at an event is theirs.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use eagain::sys::epoll::{Epoll, Event, Events, Interest, Mode, Timeout};
use eagain::sys::raw;
use nix::sys::eventfd::EventFd;
use socket2::{Domain, Socket, Type};

/// What a server is made of; the exhibits replace one or two of these.
#[derive(Clone, Copy)]
pub(super) struct Server {
    /// How the listener is registered.
    pub(super) door: Mode,
    /// How the connections are.
    pub(super) mode: Mode,
    /// Whether connections are left blocking.
    pub(super) blocking: bool,
    pub(super) accept: fn(&mut Hall),
    pub(super) serve: fn(&mut Guest, Event) -> Fate,
    /// What stands in the data of a connection's registration.
    pub(super) identity: fn(&mut Hall, &Socket) -> u64,
    /// Milliseconds to wait for what is due in so many microseconds.
    pub(super) patience: fn(u64) -> i32,
}

/// One connection.
pub(super) struct Guest {
    pub(super) socket: Socket,
    /// What waits to be sent.
    pub(super) queue: Vec<u8>,
}

/// What becomes of a connection after an event.
pub(super) enum Fate {
    Stay,
    Close,
    /// It asked for the eviction of the one that came after it.
    CloseTheNext,
}

/// The server while it runs.
pub(super) struct Hall {
    pub(super) epoll: Epoll,
    pub(super) listener: Socket,
    pub(super) guests: BTreeMap<u64, Guest>,
    pub(super) next: u64,
    pub(super) server: Server,
    seen: Arc<Seen>,
}

/// What can be seen of it from outside.
#[derive(Default)]
pub(super) struct Seen {
    /// How often the loop went round.
    pub(super) turns: AtomicU64,
    pub(super) open: AtomicU64,
    /// The longest queue of one connection, in bytes.
    pub(super) queued: AtomicU64,
    quit: AtomicBool,
    /// Who holds it keeps the server from its next harvest.
    gate: Mutex<()>,
}

pub(super) const LISTENER: u64 = u64::MAX;
const QUIT: u64 = u64::MAX - 1;

/// A server in a thread of its own, until this is dropped.
pub(super) struct Live {
    pub(super) address: SocketAddr,
    pub(super) seen: Arc<Seen>,
    pub(super) server: Server,
    /// The server's, to look at.
    pub(super) listener: Socket,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Live {
    pub(super) fn start(server: &Server) -> io::Result<Self> {
        let listener = Socket::new(Domain::IPV4, Type::STREAM.cloexec().nonblocking(), None)?;
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        listener.listen(64)?;
        let address = listener.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let (epoll, wake) = (Epoll::new()?, Arc::new(EventFd::new()?));
        epoll.add(&listener, LISTENER, Interest::READ, server.door)?;
        epoll.add(&*wake, QUIT, Interest::READ, Mode::LEVEL)?;
        let seen = Arc::new(Seen::default());
        let look = listener.try_clone()?;
        let hall = Hall { epoll, listener, guests: BTreeMap::new(), next: 0, server: *server, seen: Arc::clone(&seen) };
        let thread = std::thread::Builder::new().name("server".to_owned()).spawn(|| hall.run())?;
        Ok(Self { address, seen, server: *server, listener: look, wake, thread: Some(thread) })
    }

    /// Whatever happens until this is dropped happens between two waits of the server.
    pub(super) fn pause(&self) -> MutexGuard<'_, ()> {
        self.seen.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.seen.quit.store(true, Ordering::Relaxed);
        let _ = self.wake.write(1);
        // Its numbers must be free again before the next exhibit counts on them. A server that was frozen in a call is
        // not any more, since its clients have gone.
        let frozen = || self.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        for _ in 0..1_000 {
            if !frozen() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        if let Some(thread) = self.thread.take().filter(JoinHandle::is_finished) {
            let _ = thread.join();
        }
    }
}

impl Hall {
    fn run(mut self) {
        let mut events = Events::with_capacity(64);
        while !self.seen.quit.load(Ordering::Relaxed) {
            // poll(2) on the epoll harvests nothing (`nested-poll-does-not-consume`), so the gate stands before it.
            let _ = raw::poll(&[(self.epoll.as_fd().as_raw_fd(), libc::POLLIN)], 1_000);
            let seen = Arc::clone(&self.seen);
            let _gate = seen.gate.lock().unwrap_or_else(PoisonError::into_inner);
            if self.epoll.wait(&mut events, Timeout::Now).is_err() {
                return;
            }
            self.seen.turns.fetch_add(1, Ordering::Relaxed);
            for event in &events {
                self.handle(event);
                self.show();
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event.data() {
            LISTENER => (self.server.accept)(self),
            QUIT => {}
            id => {
                let Some(guest) = self.guests.get_mut(&id) else { return };
                match (self.server.serve)(guest, event) {
                    Fate::Stay => self.ask_for_out(id),
                    Fate::Close => self.close(id),
                    Fate::CloseTheNext => {
                        let next = self.guests.range(id + 1..).next().map(|(id, _)| *id);
                        next.into_iter().for_each(|id| self.close(id));
                    }
                }
            }
        }
    }

    /// Takes one connection if one waits, and says whether there may be more.
    pub(super) fn accept_one(&mut self) -> io::Result<bool> {
        let socket = match self.listener.accept() {
            Ok((socket, _)) => socket,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        socket.set_nonblocking(!self.server.blocking)?;
        let id = (self.server.identity)(self, &socket);
        let interest = Interest::READ | Interest::READ_CLOSED;
        // By number: the wrapper refuses a blocking socket, which is what one exhibit is about.
        let bits = interest.bits() | self.server.mode.bits();
        let number = socket.as_raw_fd();
        raw::epoll_ctl(self.epoll.as_fd().as_raw_fd(), libc::EPOLL_CTL_ADD, number, Some((bits, id)))
            .map_err(io::Error::from_raw_os_error)?;
        self.guests.insert(id, Guest { socket, queue: Vec::new() });
        Ok(true)
    }

    /// OUT while something waits, and only then; the edge-triggered have it from the start of the wait.
    fn ask_for_out(&mut self, id: u64) {
        let Some(guest) = self.guests.get(&id) else { return };
        let mut interest = Interest::READ | Interest::READ_CLOSED;
        if !guest.queue.is_empty() {
            // A client that does not read is not read either, unless the server reads on in spite of it.
            interest = Interest::WRITE;
        }
        if !self.server.mode.is_edge() {
            let _ = self.epoll.modify(&guest.socket, id, interest, self.server.mode);
        }
    }

    fn close(&mut self, id: u64) {
        if let Some(guest) = self.guests.remove(&id) {
            let _ = self.epoll.delete(&guest.socket);
        }
    }

    fn show(&self) {
        self.seen.open.store(self.guests.len() as u64, Ordering::Relaxed);
        let longest = self.guests.values().map(|guest| guest.queue.len()).max().unwrap_or(0);
        self.seen.queued.fetch_max(longest as u64, Ordering::Relaxed);
    }
}
