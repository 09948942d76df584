//! What comes in pairs or is connected, and when what one end did has arrived at the other.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, PoisonError};

use eagain::sys::net::NonBlocking;
use eagain::sys::raw;
use nix::fcntl::OFlag;
use nix::sys::eventfd::{EfdFlags, EventFd};
use socket2::{Domain, SockAddr, Socket, Type};

use super::answer::{Answer, Seen};
use super::file::os;
use super::{File, Stage};
use crate::lab::verdict::{Outcome, Stop};

/// A TCP connection: the numbers of both ends, -1 for one that is not known here or no more.
pub(super) struct Line {
    numbers: [AtomicI32; 2],
}

/// One end of it.
#[derive(Clone)]
pub(super) struct End {
    line: Arc<Line>,
    side: usize,
}

/// How much the other end will have to read when all has arrived.
#[derive(Clone, Copy)]
pub(super) struct Arrival(Option<(RawFd, usize)>);

impl End {
    fn other(&self) -> Option<RawFd> {
        let number = self.line.numbers[1 - self.side].load(Ordering::Relaxed);
        (number >= 0).then_some(number)
    }

    pub(super) fn closed(&self) {
        self.line.numbers[self.side].store(-1, Ordering::Relaxed);
    }

    /// Whether no other file of this end is there: a duplicate keeps the connection.
    pub(super) fn is_alone(&self) -> bool {
        Arc::strong_count(&self.line) <= 2
    }

    pub(super) fn before_sending(&self, count: usize) -> Arrival {
        Arrival(self.other().and_then(|other| Some((other, raw::unread(other).ok()? + count))))
    }

    pub(super) fn arrived(&self, stage: &Stage, arrival: Arrival) {
        if let Arrival(Some((other, enough))) = arrival {
            stage.until(|| raw::unread(other).is_ok_and(|unread| unread >= enough));
        }
    }

    pub(super) fn arrived_eof(&self, stage: &Stage) {
        self.until(stage, libc::POLLRDHUP, libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR);
    }

    pub(super) fn arrived_reset(&self, stage: &Stage) {
        self.until(stage, 0, libc::POLLHUP | libc::POLLERR);
    }

    pub(super) fn arrived_urgent(&self, stage: &Stage) {
        self.until(stage, libc::POLLPRI, libc::POLLPRI);
    }

    /// Waits until poll(2), which consumes no edge, shows one of the bits. The state can be seen an instant before
    /// those who wait are told; FIONREAD takes the socket's lock, under which both happen.
    fn until(&self, stage: &Stage, wanted: i16, enough: i16) {
        let Some(other) = self.other() else { return };
        stage.until(|| raw::poll(&[(other, wanted)], 0).is_ok_and(|told| told[0] & enough != 0));
        let _ = raw::unread(other);
    }
}

impl Stage {
    /// A pipe, both ends non-blocking: (reading end, writing end).
    pub(crate) fn pipe(&self) -> Outcome<(File, File)> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        let (ours, theirs) = (self.name("reader"), self.name("writer"));
        self.scene(format!("pipe2(NONBLOCK) = {ours}, {theirs}"))?;
        Ok((File::new(self, ours, read, None), File::new(self, theirs, write, None)))
    }

    /// Two unix stream sockets, non-blocking.
    pub(crate) fn unix_pair(&self) -> Outcome<(File, File)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let (our, their) = (self.name("ours"), self.name("peer"));
        self.scene(format!("socketpair(UNIX, STREAM) = {our}, {their}"))?;
        // No line: what one end of a unix pair does is done at the other at once.
        Ok((File::new(self, our, ours.into(), None), File::new(self, their, theirs.into(), None)))
    }

    /// A TCP connection over the loopback, both ends non-blocking: (the accepted end, the end that connected).
    pub(crate) fn tcp_pair(&self) -> Outcome<(File, File)> {
        let listener = tcp_listener(1, |_| Ok(()))?;
        let address = listener.local_addr()?;
        let client = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None)?;
        client.connect_timeout(&address, self.soon())?;
        let (server, _) = NonBlocking::accept(&listener)?;
        let server = server.into_inner();
        client.set_nonblocking(true)?;
        // Nagle would let a test wait for an acknowledgement.
        client.set_tcp_nodelay(true)?;
        server.set_tcp_nodelay(true)?;
        let line = line(client.as_raw_fd(), server.as_raw_fd());
        let (ours, peer) = (self.name("ours"), self.name("peer"));
        self.scene(format!("a TCP connection = {ours}, {peer}"))?;
        let end = |side| Some(End { line: Arc::clone(&line), side });
        Ok((File::new(self, ours, server.into(), end(1)), File::new(self, peer, client.into(), end(0))))
    }

    /// A TCP listener on a free port of the loopback, non-blocking.
    pub(crate) fn listener(&self, backlog: i32) -> Outcome<File> {
        self.listener_with(backlog, |_| Ok(()))
    }

    /// The same, with options set before it is bound.
    pub(crate) fn listener_with(
        &self,
        backlog: i32,
        options: impl FnOnce(&Socket) -> std::io::Result<()>,
    ) -> Outcome<File> {
        let socket = tcp_listener(backlog, options)?;
        let name = self.name("listener");
        self.scene(format!("listen({name}, {backlog})"))?;
        Ok(File::new(self, name, socket.into(), None))
    }

    /// A counter that can be waited for, non-blocking.
    pub(crate) fn eventfd(&self) -> Outcome<File> {
        self.eventfd_with(EfdFlags::empty(), "0")
    }

    pub(crate) fn eventfd_with(&self, flags: EfdFlags, label: &str) -> Outcome<File> {
        let flags = flags | EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let fd: OwnedFd = EventFd::from_value_and_flags(0, flags)?.into();
        let name = self.name("eventfd");
        self.scene(format!("eventfd({label}) = {name}"))?;
        Ok(File::new(self, name, fd, None))
    }

    /// A client that is connected when this returns; and the listener knows of it.
    pub(crate) fn connect(&self, listener: &File) -> Outcome<File> {
        let before = queued(listener);
        let client = self.connect_now(listener)?;
        let at_once = queued(listener) > before;
        if !at_once {
            // It was somebody else's turn to finish the handshake: let that one also tell those who wait.
            self.until(|| queued(listener) > before);
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        Ok(client)
    }

    /// A client that is connected, as far as it knows.
    pub(crate) fn connect_now(&self, listener: &File) -> Outcome<File> {
        let address = listener.socket().local_addr()?;
        let name = self.name("client");
        let client = Socket::new(Domain::for_address(loopback()), Type::STREAM.cloexec(), None)?;
        let text = format!("connect({name}, {})", listener.name);
        let work = || client.connect_timeout(&address, self.soon()).map_err(|error| os(&error));
        self.call("connect", text, work, |()| Answer::Done).1.must_be(())?;
        client.set_nonblocking(true)?;
        client.set_tcp_nodelay(true)?;
        Ok(self.client(name, client))
    }

    /// A client that is about to connect: the answer of a non-blocking `connect`.
    pub(crate) fn try_connect(&self, address: &SockAddr) -> Outcome<(File, Seen)> {
        let client = Socket::new(address.domain(), Type::STREAM.cloexec().nonblocking(), None)?;
        let name = self.name("client");
        let text = format!("connect({name})");
        let work = || client.connect(address).map_err(|error| os(&error));
        let seen = self.call("connect", text, work, |()| Answer::Done).1;
        Ok((self.client(name, client), seen))
    }

    fn client(&self, name: String, client: Socket) -> File {
        let line = line(client.as_raw_fd(), -1);
        if let Some(port) = client.local_addr().ok().and_then(|address| address.as_socket()).map(|a| a.port()) {
            let mut lines = self.shared.lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.insert(port, Arc::clone(&line));
        }
        File::new(self, name, client.into(), Some(End { line, side: 0 }))
    }

    fn scene(&self, text: String) -> Outcome {
        self.call("scene", text, || Ok(()), |()| Answer::Text(String::new())).1.ok()?;
        Ok(())
    }
}

impl File {
    /// Takes a connection, which must be there; non-blocking.
    pub(crate) fn accept(&self) -> Outcome<Self> {
        let (file, seen) = self.try_accept();
        seen.ok()?;
        file.ok_or_else(|| Stop::Broken(format!("accept4({}): nobody was there", self.name)))
    }

    /// Takes a connection if there is one.
    pub(crate) fn try_accept(&self) -> (Option<Self>, Seen) {
        let name = self.stage.name("conn");
        let text = format!("accept4({}, NONBLOCK)", self.name);
        let work = || NonBlocking::accept(self).map_err(|error| os(&error));
        let (accepted, seen) = self.stage.call("accept4", text, work, |_| name.as_str().into());
        let file = accepted.map(|(socket, peer)| {
            let socket = socket.into_inner();
            let end = peer.as_socket().and_then(|peer| self.stage.line_of(peer, socket.as_raw_fd()));
            Self::new(&self.stage, name, socket.into(), end)
        });
        (file, seen)
    }

    /// How many connections wait in the accept queue of this listener.
    pub(crate) fn queue(&self) -> Seen {
        let text = format!("accept queue of {}", self.name);
        self.stage.call("queue", text, || Ok(queued(self)), |&count| count.into()).1
    }

    pub(crate) fn address(&self) -> Outcome<SockAddr> {
        Ok(self.socket().local_addr()?)
    }
}

impl Stage {
    fn line_of(&self, peer: SocketAddr, number: RawFd) -> Option<End> {
        let mut lines = self.shared.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line = lines.remove(&peer.port())?;
        line.numbers[1].store(number, Ordering::Relaxed);
        Some(End { line, side: 1 })
    }
}

fn line(client: RawFd, server: RawFd) -> Arc<Line> {
    Arc::new(Line { numbers: [AtomicI32::new(client), AtomicI32::new(server)] })
}

/// The length of a TCP listener's accept queue; 0 of what has none.
fn queued(listener: &File) -> u32 {
    raw::tcp_info(listener).map_or(0, |info| info.tcpi_unacked)
}

pub(crate) fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn tcp_listener(backlog: i32, options: impl FnOnce(&Socket) -> std::io::Result<()>) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec().nonblocking(), None)?;
    options(&socket)?;
    socket.bind(&loopback().into())?;
    socket.listen(backlog)?;
    Ok(socket)
}

/// A port of the loopback on which nobody listens.
pub(crate) fn closed_port() -> Outcome<SockAddr> {
    // It stays bound, and so nobody else can come to listen on it.
    let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), None)?;
    socket.bind(&loopback().into())?;
    let address = socket.local_addr()?;
    std::mem::forget(socket);
    Ok(address)
}
