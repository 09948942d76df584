//! Listening sockets: bind one or adopt one, accept from it, and know what each failure to accept means.
//!
//! What accepting gets wrong, or leaves to the caller (the names are experiments of the lab):
//! - a. A readable listener promises nothing: another worker may have been faster (`eagain-after-in-is-legal`), so it
//!   is always non-blocking.
//! - b. An accepted socket inherits neither O_NONBLOCK nor close-on-exec (`accept-inherits-nothing`): `accept4` sets
//!   both. It does inherit TCP_NODELAY and SO_KEEPALIVE, so they are set here, once, and cost nothing per connection.
//! - c. When descriptors have run out, the connection stays in the queue: a level-triggered listener spins
//!   (`emfile-lt-spins`), an edge-triggered one sleeps for ever (`emfile-et-stalls`). The worker takes it out of its
//!   epoll and puts it back after a rest, or when a connection closes.
//! - d. A backlog above `net.core.somaxconn` is cut without a word (`somaxconn-clamps-silently`): see [`somaxconn`].

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::client::Peer;
use crate::sys::net::NonBlocking;

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// EADDRINUSE, or a Unix socket at that path that somebody listens on.
    #[error("{address} is in use: stop whoever listens there, or choose another address")]
    InUse {
        /// What was asked for.
        address: String,
    },
    /// EACCES: a port below `net.ipv4.ip_unprivileged_port_start`, or a directory that may not be written.
    #[error("no permission for {address}: ports below 1024 need CAP_NET_BIND_SERVICE (or take a higher port)")]
    PortPermission {
        /// What was asked for.
        address: String,
    },
    /// EACCES for a Unix socket.
    #[error("no permission for {address}: its directory must be writable")]
    PathPermission {
        /// What was asked for.
        address: String,
    },
    /// EADDRNOTAVAIL: no interface of this machine has that address.
    #[error(
        "{address} is not an address of this machine: use 127.0.0.1, [::1], 0.0.0.0, [::] or one that `ip addr` shows"
    )]
    NotLocal {
        /// What was asked for.
        address: String,
    },
    /// Something that is not a socket is where the Unix socket should be.
    #[error("{address} exists and is not a socket: remove it or choose another path")]
    NotASocket {
        /// What was asked for.
        address: String,
    },
    /// An inherited descriptor that does not listen.
    #[error("the inherited descriptor is no listening stream socket")]
    NotListening,
    /// Anything else that the kernel says.
    #[error("cannot listen on {address}: {source}")]
    Other {
        /// What was asked for.
        address: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Where a listener listens. Displays as `127.0.0.1:7007`, `[::1]:7`, `unix:/run/echo` or `unix:@name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix stream socket with a name in the file system.
    Unix(PathBuf),
    /// A Unix stream socket with an abstract name, without the leading zero byte.
    Abstract(Vec<u8>),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{}", name.escape_ascii()),
        }
    }
}

/// What a failed `accept4(2)` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// EAGAIN: the queue is empty, or another worker was faster.
    Empty,
    /// This one connection came to nothing; the next may be well. A signal counts as such: the call is made again.
    Next,
    /// Descriptors or memory have run out, or something that accept(2) does not know: rest, then try again.
    Resources(i32),
    /// The listener is of no use any more.
    Broken(i32),
}

impl Refusal {
    pub(crate) fn from_errno(errno: i32) -> Self {
        match errno {
            libc::EAGAIN => Self::Empty,
            libc::EINTR | libc::ECONNABORTED => Self::Next,
            // Errors that are pending on the new connection; accept(2) says to treat them like EAGAIN, "by retrying".
            libc::ENETDOWN | libc::EPROTO | libc::ENOPROTOOPT | libc::EHOSTDOWN | libc::ENONET => Self::Next,
            libc::EHOSTUNREACH | libc::EOPNOTSUPP | libc::ENETUNREACH | libc::ETIMEDOUT => Self::Next,
            // Firewall rules forbid this connection (accept(2)).
            libc::EPERM => Self::Next,
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => Self::Resources(errno),
            // A bug of ours, or a socket that no longer listens (EINVAL).
            libc::EBADF | libc::EFAULT | libc::EINVAL | libc::ENOTSOCK => Self::Broken(errno),
            // EACCES of a security module, and whatever else may come: no reason to end those who are connected.
            _ => Self::Resources(errno),
        }
    }
}

/// A listening socket, non-blocking, shared by all workers. Dropping the last one closes it and removes the name of a
/// Unix socket from the file system.
#[derive(Debug)]
pub struct Listener {
    /// One for all workers, or one for each.
    sockets: Vec<NonBlocking<Socket>>,
    address: Address,
    name: Option<Name>,
    stays: bool,
}

/// A name in the file system that is ours to remove.
#[derive(Debug)]
struct Name {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// It is not to be removed: somebody else goes on listening there.
    stays: AtomicBool,
}

impl Name {
    fn of(path: &Path) -> io::Result<Self> {
        let file = std::fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: file.dev(), inode: file.ino(), stays: AtomicBool::new(false) })
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        // Only if it is still ours: a successor may have put its own socket there.
        let is_ours = |file: std::fs::Metadata| (file.dev(), file.ino()) == (self.device, self.inode);
        if !self.stays.load(Ordering::Relaxed) && std::fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    /// Listens on a TCP address; port 0 takes a free one, see [`address`](Self::address). `backlog` is the accept queue
    /// that is asked for, 1 to 2³¹ − 1; the kernel cuts it to [`somaxconn`].
    ///
    /// SO_REUSEADDR is set, so that a restart does not wait for TIME_WAIT; IPV6_V6ONLY too: `[::]` and `0.0.0.0` are
    /// two addresses.
    ///
    /// # Errors
    /// [`Error`], by what `bind(2)` and `listen(2)` say.
    #[doc(alias = "bind")]
    #[doc(alias = "listen")]
    pub fn tcp(address: SocketAddr, backlog: u32) -> Result<Self, Error> {
        let refused = |source| Error::of_tcp(address, source);
        let socket = bind(address, false).map_err(refused)?;
        Self::listen(socket, backlog, None).map_err(refused)
    }

    /// As [`tcp`](Self::tcp), with an accept queue for each of so many workers (1 at least): the kernel gives each new
    /// connection to one of them by a hash of its addresses (SO_REUSEPORT, `reuseport-splits-by-hash`).
    ///
    /// Any server of the same user that says SO_REUSEPORT too may listen there beside this one; and a connection waits
    /// for its worker, though another may be idle.
    ///
    /// # Errors
    /// As [`tcp`](Self::tcp).
    #[doc(alias = "SO_REUSEPORT")]
    pub fn tcp_reuseport(address: SocketAddr, backlog: u32, workers: usize) -> Result<Self, Error> {
        let refused = |source| Error::of_tcp(address, source);
        let first = bind(address, true).map_err(refused)?;
        let mut listener = Self::listen(first, backlog, None).map_err(refused)?;
        // Port 0 is a port by now, and it must be the same for all.
        let Address::Tcp(bound) = listener.address else { return Ok(listener) };
        for _ in 1..workers {
            let socket = bind(bound, true).map_err(refused)?;
            listener.sockets.extend(Self::listen(socket, backlog, None).map_err(refused)?.sockets);
        }
        Ok(listener)
    }

    /// Listens on a Unix stream socket at `path`. A socket that is left there, and that nobody listens on, is replaced.
    ///
    /// # Errors
    /// [`Error`], by what `bind(2)` and `listen(2)` say.
    pub fn unix(path: &Path, backlog: u32) -> Result<Self, Error> {
        let refused = |source| Error::of_unix(path, source);
        let name = SockAddr::unix(path).map_err(refused)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).map_err(refused)?;
        remove_stale(path, &name)?;
        socket.bind(&name).map_err(refused)?;
        let name = Name::of(path).map_err(refused)?;
        Self::listen(socket, backlog, Some(name)).map_err(refused)
    }

    /// Listens on a Unix stream socket with an abstract name (without the leading zero byte), which is in no file
    /// system and goes with the socket.
    ///
    /// # Errors
    /// [`Error`], by what `bind(2)` and `listen(2)` say.
    pub fn unix_abstract(name: &[u8], backlog: u32) -> Result<Self, Error> {
        let refused = |source| Error::of_address(Address::Abstract(name.to_vec()).to_string(), source);
        let path = std::ffi::OsStr::from_bytes(&[b"\0", name].concat()).to_owned();
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).map_err(refused)?;
        socket.bind(&SockAddr::unix(path).map_err(refused)?).map_err(refused)?;
        Self::listen(socket, backlog, None).map_err(refused)
    }

    /// Takes over a socket that listens already, as a service manager hands it on, or `std::net` makes it. Its name in
    /// the file system is not ours to remove.
    ///
    /// # Errors
    /// [`Error::NotListening`]; [`Error::Other`] if its options cannot be set.
    pub fn adopt(fd: OwnedFd) -> Result<Self, Error> {
        let socket = Socket::from(fd);
        if !socket.is_listener().unwrap_or(false) || !socket.r#type().is_ok_and(|kind| kind == Type::STREAM) {
            return Err(Error::NotListening);
        }
        Self::finish(socket, None)
            .map_err(|source| Error::Other { address: "an inherited descriptor".to_owned(), source })
    }

    /// As [`adopt`](Self::adopt), for a socket that an earlier process of this server made and kept: its name in the
    /// file system, if it has one, is removed with it.
    ///
    /// # Errors
    /// As [`adopt`](Self::adopt).
    pub fn adopt_own(fd: OwnedFd) -> Result<Self, Error> {
        let mut listener = Self::adopt(fd)?;
        if let Address::Unix(path) = &listener.address {
            listener.name = Name::of(path).ok();
        }
        Ok(listener)
    }

    fn listen(socket: Socket, backlog: u32, name: Option<Name>) -> io::Result<Self> {
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        Self::finish(socket, name)
    }

    /// The options that accepted sockets inherit.
    fn finish(socket: Socket, name: Option<Name>) -> io::Result<Self> {
        let bound = socket.local_addr()?;
        if bound.is_ipv4() || bound.is_ipv6() {
            socket.set_tcp_nodelay(true)?;
            // A peer that vanished while nothing is on its way to it (power cut, lost route) would stay for ever.
            socket.set_keepalive(true)?;
        }
        Ok(Self { sockets: vec![NonBlocking::new(socket)?], address: Address::of(&bound), name, stays: false })
    }

    /// Where it listens, with the real port.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Whether this is a TCP listener.
    #[must_use]
    pub const fn is_tcp(&self) -> bool {
        matches!(self.address, Address::Tcp(_))
    }

    /// Goes on accepting while the server drains, until its other clients are gone; those of this listener are not
    /// waited for, and count for no [`Limits`](crate::Limits). For what watches the server: it is to be told when the
    /// server is full, too.
    #[must_use]
    pub const fn stay_while_draining(mut self) -> Self {
        self.stays = true;
        self
    }

    pub(crate) const fn stays_while_draining(&self) -> bool {
        self.stays
    }

    /// Takes the next connection from the accept queue.
    #[inline]
    pub(crate) fn accept(&self, worker: u16) -> Result<(NonBlocking<Socket>, Peer), Refusal> {
        // RULE(blocking-send-freezes): nothing that a client does blocks the thread of the others.
        match NonBlocking::accept(self.socket(worker)) {
            Ok((socket, peer)) => Ok((socket, Peer::from(&peer))),
            Err(error) => Err(Refusal::from_errno(error.raw_os_error().unwrap_or(0))),
        }
    }

    /// Whether several workers accept from one queue.
    pub(crate) fn is_shared(&self) -> bool {
        self.sockets.len() == 1
    }

    /// The socket of this worker, or of all.
    pub(crate) fn socket(&self, worker: u16) -> &NonBlocking<Socket> {
        &self.sockets[usize::from(worker) % self.sockets.len()]
    }

    /// Leaves the name of a Unix socket in the file system: somebody else goes on listening there.
    pub fn keep_name(&self) {
        if let Some(name) = &self.name {
            name.stays.store(true, Ordering::Relaxed);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sockets[0].as_fd()
    }
}

impl TryFrom<TcpListener> for Listener {
    type Error = Error;

    fn try_from(listener: TcpListener) -> Result<Self, Error> {
        Self::adopt(listener.into())
    }
}

impl Address {
    fn of(address: &SockAddr) -> Self {
        if let Some(tcp) = address.as_socket() {
            return Self::Tcp(tcp);
        }
        match address.as_abstract_namespace() {
            Some(name) => Self::Abstract(name.to_vec()),
            None => Self::Unix(address.as_pathname().map(Path::to_owned).unwrap_or_default()),
        }
    }
}

impl Error {
    fn of_tcp(address: SocketAddr, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => Self::PortPermission { address: address.to_string() },
            _ => Self::of_address(address.to_string(), source),
        }
    }

    fn of_unix(path: &Path, source: io::Error) -> Self {
        let address = Address::Unix(path.to_owned()).to_string();
        match source.raw_os_error() {
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => Self::PathPermission { address },
            _ => Self::of_address(address, source),
        }
    }

    fn of_address(address: String, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EADDRINUSE) => Self::InUse { address },
            Some(libc::EADDRNOTAVAIL) => Self::NotLocal { address },
            _ => Self::Other { address, source },
        }
    }
}

fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    // RULE(restart-needs-reuseaddr)
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Removes a Unix socket that a server before us left behind. A crashed one cannot remove it, and `bind` refuses to
/// replace it; whether somebody listens there, only a `connect` tells.
fn remove_stale(path: &Path, name: &SockAddr) -> Result<(), Error> {
    let refused = |source| Error::of_unix(path, source);
    let Ok(file) = std::fs::symlink_metadata(path) else { return Ok(()) };
    let address = || Address::Unix(path.to_owned()).to_string();
    if !file.file_type().is_socket() {
        return Err(Error::NotASocket { address: address() });
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).map_err(refused)?;
    match probe.connect(name) {
        Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => std::fs::remove_file(path).map_err(refused),
        // It answered, or its queue is full (EAGAIN), or it is none of our business.
        _ => Err(Error::InUse { address: address() }),
    }
}

/// What the kernel cuts a backlog to: `net.core.somaxconn` of this network namespace, as connections. 4096 since
/// Linux 5.4, 128 before, if it cannot be read: 4096.
///
/// # References
/// `listen(2)`.
#[must_use]
pub fn somaxconn() -> u32 {
    std::fs::read_to_string("/proc/sys/net/core/somaxconn")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(4096)
}
