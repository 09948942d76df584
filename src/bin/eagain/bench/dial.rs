//! From a target to non-blocking sockets, many at a time, from as many source addresses as that takes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use eagain::sys::net::NonBlocking;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::address::Address;
use crate::say::reason;

/// Each source address has some 28,000 ports; to find a free one gets slow long before they run out.
const CONNECTIONS_PER_SOURCE: usize = 5_000;
/// Churn leaves the port of each connection in TIME_WAIT for a minute; this many addresses have five million.
const CHURN_SOURCES: usize = 200;

/// Measurements that this process has begun.
static MEASUREMENTS: AtomicU32 = AtomicU32::new(0);
/// Prime, so that all networks have had their turn before one has another; and far from the number of the next process.
const NEXT_SOURCE: u32 = 7919;

/// Where connections go to, and come from.
#[derive(Debug)]
pub(super) struct Route {
    target: SockAddr,
    /// What to compare a new socket's own address with.
    tcp: Option<SocketAddr>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// The kernel chooses address and port.
    Any,
    /// 127.A.B.1 to 127.A.B.254: connection N has address N / per % most.
    Loopback { a: u8, b: u8, per: usize, most: usize },
}

/// A connection that is being made, or is made.
pub(super) struct Dialled {
    pub(super) socket: NonBlocking<Socket>,
    pub(super) connected: bool,
}

impl Route {
    /// Of several addresses the first that can be connected to; whether a single one can is for the run to find out,
    /// which has a cause to count for it.
    pub(super) fn find(
        address: &Address,
        connections: usize,
        churn: bool,
        patience: Duration,
    ) -> Result<Route, String> {
        let (target, tcp) = match address {
            Address::Tcp(all) => {
                let chosen = choose(all, patience)?;
                (SockAddr::from(chosen), Some(chosen))
            }
            Address::Unix(path) => (SockAddr::unix(path).map_err(|e| reason(&e))?, None),
            Address::Abstract(name) => {
                // socket2 takes a path with a leading NUL as an abstract name.
                let path = [b"\0", &name[..]].concat();
                (SockAddr::unix(std::ffi::OsStr::from_bytes(&path)).map_err(|e| reason(&e))?, None)
            }
        };
        let loopback = tcp.is_some_and(|tcp| matches!(tcp.ip(), IpAddr::V4(ip) if ip.is_loopback()));
        let source = match loopback && (churn || connections > CONNECTIONS_PER_SOURCE) {
            true => {
                // By the numbers of this process and of this measurement: the ports that the one before has left in
                // TIME_WAIT are elsewhere. With them the search for a free one took half a minute.
                let number = MEASUREMENTS.fetch_add(1, Ordering::Relaxed).wrapping_mul(NEXT_SOURCE);
                let [_, _, a, b] = (0x100 + std::process::id().wrapping_add(number) % 0xfe00).to_be_bytes();
                let (per, most) = if churn { (1, CHURN_SOURCES) } else { (CONNECTIONS_PER_SOURCE, 254) };
                Source::Loopback { a, b, per, most }
            }
            false => Source::Any,
        };
        Ok(Route { target, tcp, source })
    }

    pub(super) fn is_local(&self) -> bool {
        self.tcp.is_none_or(|tcp| tcp.ip().is_loopback())
    }

    /// Begins connection `number`. EAGAIN: the queue of a unix listener is full, and nothing tells when it is not.
    pub(super) fn dial(&self, number: u64) -> io::Result<Dialled> {
        let socket = Socket::new(self.target_domain(), Type::STREAM.nonblocking(), None)?;
        if let Source::Loopback { a, b, per, most } = self.source {
            let host = 1 + (number as usize / per % most) as u8;
            socket.bind(&SocketAddr::from((Ipv4Addr::new(127, a, b, host), 0)).into())?;
        }
        if self.tcp.is_some() {
            // A message is sent when it is due, not when the one before has been acknowledged.
            socket.set_tcp_nodelay(true)?;
        }
        let connected = match socket.connect(&self.target) {
            Ok(()) => true,
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => false,
            Err(error) => return Err(error),
        };
        Ok(Dialled { socket: NonBlocking::trust(socket), connected })
    }

    /// What has become of a connection that was in progress.
    pub(super) fn outcome(&self, socket: &Socket) -> io::Result<()> {
        // RULE(connect-refused-mask): a refusal sets every bit, OUT among them; only SO_ERROR tells.
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        // Nobody listens, but the kernel chose the very port as ours: TCP's simultaneous open with itself.
        if self.tcp.is_some() && socket.local_addr()?.as_socket() == self.tcp {
            return Err(io::Error::from_raw_os_error(libc::ECONNREFUSED));
        }
        Ok(())
    }

    fn target_domain(&self) -> Domain {
        self.tcp.map_or(Domain::UNIX, Domain::for_address)
    }
}

fn choose(all: &[SocketAddr], patience: Duration) -> Result<SocketAddr, String> {
    if let [only] = all {
        return Ok(*only);
    }
    let mut failures = Vec::new();
    for address in all {
        match TcpStream::connect_timeout(address, patience) {
            Ok(_) => return Ok(*address),
            Err(error) => failures.push(format!("{address}: {}", reason(&error))),
        }
    }
    Err(format!("cannot connect: {}", failures.join("; ")))
}
