//! Two sockets that are connected with each other: [`unix`], and [`tcp_loopback`] where it must be TCP.
//!
//! [`unix`] is `socketpair(2)`: atomic, and nobody can come between. To wake a thread, an eventfd is cheaper still. TCP
//! has no such call, so a pair is made of a listener, a `connect` and an `accept`; and for that moment the listener is
//! open to every process of the machine. What the well-known recipe gets wrong:
//! - a. It takes whom `accept` brings. That is whoever was faster (CVE-2024-3219, found in CPython; lab:
//!   `tcp-socketpair-emulation-hole`). Here both addresses of both sockets must agree. Two connections cannot have the
//!   same four numbers, so that is proof.
//! - b. It believes the address that `accept` returns. A stranger who was reset before `accept` came is still in the
//!   queue with his old address, while his port is free for the next, which may be our own. `getpeername` refuses the
//!   dead (ENOTCONN: `inet_getname` in net/ipv4/af_inet.c), so it is what is asked.
//! - c. It waits in `accept` without a bound. While strangers fill the accept queue, our own SYN is dropped and comes
//!   again a second later. Here there is a deadline, and a new listener, whose port strangers have to find first, four
//!   times a second until then.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::limits::{PAIR_ATTEMPT_MS, PAIR_BACKLOG, PAIR_TIMEOUT_MS};
use crate::sys::epoll::{self, Epoll, Events, Interest, Mode, Timeout};

/// Why there is no pair.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// EADDRNOTAVAIL, EAFNOSUPPORT or ENETUNREACH: the loopback interface is down or has no such address.
    #[error("no loopback address {} here: bring the interface `lo` up, or take the other family", .0.ip())]
    NoLoopback(SocketAddr),
    /// The deadline has passed. Without a stranger: the listener cannot be reached, or somebody else was.
    #[error("no pair within {after:?}{}", why_late(*.strangers))]
    TimedOut {
        /// How long it was tried.
        after: Duration,
        /// How many others connected meanwhile. All of them were reset.
        strangers: u64,
    },
    /// What `socket(2)`, `bind(2)`, `listen(2)`, `accept(2)` or `connect(2)` said, as EMFILE.
    #[error("no pair of sockets: {}{}", .0, what_to_do(.0))]
    System(#[from] io::Error),
    /// What epoll said, which is waited with.
    #[error("no pair of sockets: {0}")]
    Epoll(#[from] epoll::Error),
}

fn why_late(strangers: u64) -> String {
    match strangers {
        0 => ", and nobody came: is the interface `lo` up, and does a firewall let it through?".to_owned(),
        _ => format!(", but strangers: {strangers}; somebody may be flooding the loopback interface"),
    }
}

fn what_to_do(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => "; close files or raise `ulimit -n`",
        _ => "",
    }
}

/// Which loopback address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// 127.0.0.1
    V4,
    /// ::1
    V6,
}

impl Family {
    fn any_port(self) -> SocketAddr {
        match self {
            Self::V4 => (Ipv4Addr::LOCALHOST, 0).into(),
            Self::V6 => (Ipv6Addr::LOCALHOST, 0).into(),
        }
    }
}

/// Two connected Unix stream sockets, both blocking and close-on-exec.
///
/// # Errors
/// Those of `socketpair(2)`: EMFILE, ENFILE, ENOMEM.
///
/// # References
/// [`socketpair(2)`](https://man7.org/linux/man-pages/man2/socketpair.2.html)
#[doc(alias = "socketpair")]
pub fn unix() -> Result<(UnixStream, UnixStream), Error> {
    Ok(UnixStream::pair()?)
}

/// Two TCP sockets on the loopback address, connected with each other and with nobody else: the one that connected, and
/// the one that was accepted. Both are blocking, close-on-exec and without Nagle's delay.
///
/// Strangers who connect meanwhile are reset. It takes [`PAIR_TIMEOUT_MS`] at the most.
///
/// ```
/// use std::io::{Read, Write};
///
/// use eagain::pair::{self, Family};
///
/// let (mut left, mut right) = pair::tcp_loopback(Family::V4)?;
/// left.write_all(b"wake up")?;
/// let mut received = [0; 7];
/// right.read_exact(&mut received)?;
/// assert_eq!(&received, b"wake up");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::NoLoopback`], [`Error::TimedOut`], or what the kernel says ([`Error::System`]).
///
/// # References
/// [CVE-2024-3219](https://www.cve.org/CVERecord?id=CVE-2024-3219),
/// [`getpeername(2)`](https://man7.org/linux/man-pages/man2/getpeername.2.html),
/// [`tcp(7)`](https://man7.org/linux/man-pages/man7/tcp.7.html)
#[doc(alias = "socketpair")]
pub fn tcp_loopback(family: Family) -> Result<(TcpStream, TcpStream), Error> {
    let after = Duration::from_millis(PAIR_TIMEOUT_MS);
    let start = Instant::now();
    let mut strangers = 0;
    while let Some(left) = left(start, after) {
        let listener = listen(family)?;
        let attempt = left.min(Duration::from_millis(PAIR_ATTEMPT_MS));
        if let Some(pair) = meet(&listener, attempt, &mut strangers)? {
            return Ok(pair);
        }
    }
    Err(Error::TimedOut { after, strangers })
}

/// As [`tcp_loopback`], through a listener that is there already, at an address that this machine can connect to. It is
/// closed afterwards. `timeout` may be as long as you like.
///
/// # Errors
/// [`Error::TimedOut`] after `timeout`, or earlier if the queue is full and the kernel refuses whoever comes then
/// (`tcp_abort_on_overflow`); [`Error::NoLoopback`] and [`Error::System`], by what the kernel says.
pub fn tcp_through(listener: TcpListener, timeout: Duration) -> Result<(TcpStream, TcpStream), Error> {
    let mut strangers = 0;
    listener.set_nonblocking(true)?;
    let pair = meet(&listener, timeout, &mut strangers)?;
    pair.ok_or(Error::TimedOut { after: timeout, strangers })
}

/// What is left of `patience`; `None` when it is over. A deadline could be beyond what [`Instant`] can be.
fn left(start: Instant, patience: Duration) -> Option<Duration> {
    patience.checked_sub(start.elapsed()).filter(|left| !left.is_zero())
}

fn listen(family: Family) -> Result<TcpListener, Error> {
    let address = family.any_port();
    let no_loopback = |error: io::Error| match error.raw_os_error() {
        Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT) => Error::NoLoopback(address),
        _ => Error::System(error),
    };
    let listener = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None).map_err(no_loopback)?;
    listener.bind(&SockAddr::from(address)).map_err(no_loopback)?;
    listener.listen(PAIR_BACKLOG)?;
    Ok(listener.into())
}

/// Connects to the listener and accepts until the two have met. `None`: it took too long, or the connection was
/// refused, as `tcp_abort_on_overflow` does when the queue is full.
fn meet(
    listener: &TcpListener,
    patience: Duration,
    strangers: &mut u64,
) -> Result<Option<(TcpStream, TcpStream)>, Error> {
    const OURS: u64 = 0;
    const DOOR: u64 = 1;
    let start = Instant::now();
    let address = listener.local_addr()?;
    let ours = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    match ours.connect(&SockAddr::from(address)) {
        Ok(()) => {}
        Err(error) => match error.raw_os_error() {
            Some(libc::EINPROGRESS | libc::EINTR) => {}
            // Binding to the address of an interface that is down may have succeeded.
            Some(libc::ENETUNREACH) if address.ip().is_loopback() => return Err(Error::NoLoopback(address)),
            _ => return Err(error.into()),
        },
    }
    let ours = TcpStream::from(ours);
    let (epoll, mut events) = (Epoll::new()?, Events::with_capacity(2));
    epoll.add(&ours, OURS, Interest::WRITE, Mode::LEVEL.oneshot())?;
    epoll.add(listener, DOOR, Interest::READ, Mode::LEVEL)?;
    // A flood would keep accept busy for ever, so the clock is read before each.
    while let Some(left) = left(start, patience) {
        match listener.accept() {
            Ok((theirs, _)) if are_a_pair(&ours, &theirs) => return finish(ours, theirs).map(Some),
            Ok((stranger, _)) => {
                *strangers += 1;
                reset(stranger);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                epoll.wait(&mut events, Timeout::After(left))?;
                if let Some(error) = ours.take_error()? {
                    return if error.kind() == ErrorKind::ConnectionReset { Ok(None) } else { Err(error.into()) };
                }
            }
            // A stranger who has gone already.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Whether each is the other's peer. Both are asked for both addresses: of a socket that is not connected (any more)
/// `getpeername` says nothing.
fn are_a_pair(ours: &TcpStream, theirs: &TcpStream) -> bool {
    let ends = |socket: &TcpStream| Some((socket.local_addr().ok()?, socket.peer_addr().ok()?));
    let same = |left: SocketAddr, right: SocketAddr| (left.ip(), left.port()) == (right.ip(), right.port());
    match (ends(ours), ends(theirs)) {
        (Some((our_end, our_peer)), Some((their_end, their_peer))) => {
            same(our_end, their_peer) && same(our_peer, their_end)
        }
        _ => false,
    }
}

fn finish(ours: TcpStream, theirs: TcpStream) -> Result<(TcpStream, TcpStream), Error> {
    for socket in [&ours, &theirs] {
        socket.set_nonblocking(false)?;
        socket.set_nodelay(true)?;
    }
    Ok((ours, theirs))
}

/// Closes with an RST: thousands of strangers leave no TIME_WAIT behind.
fn reset(stranger: TcpStream) {
    // What cannot be set costs a FIN in place of the RST, and nothing else.
    let _ = socket2::SockRef::from(&stranger).set_linger(Some(Duration::ZERO));
}
