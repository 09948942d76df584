//! From an address to a connected, non-blocking socket, or to one line that says why not.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use eagain::sys::epoll::{Epoll, Events, Interest, Mode, Timeout};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::address::Address;
use crate::say::reason;

/// A connection that was established.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) socket: Socket,
    /// Set if it was reset before we could look; bytes that came before that are still in the socket.
    pub(super) lost: Option<io::Error>,
}

/// Tries the addresses in order; `timeout` is for each. `name` is how the user wrote them.
pub(super) fn dial(epoll: &Epoll, address: &Address, name: &str, timeout: Duration) -> Result<Dialled, String> {
    let mut failures = Vec::new();
    match address {
        Address::Tcp(addresses) => {
            for address in addresses {
                match dial_tcp(epoll, *address, timeout) {
                    Ok(dialled) => return Ok(dialled),
                    Err(e) => failures.push((address.to_string(), why_not(&e, timeout))),
                }
            }
        }
        Address::Unix(path) => match SockAddr::unix(path).and_then(|a| dial_unix(&a, timeout)) {
            Ok(dialled) => return Ok(dialled),
            Err(e) => failures.push((name.to_owned(), why_not(&e, timeout))),
        },
        Address::Abstract(bytes) => match dial_abstract(bytes, timeout) {
            Ok(dialled) => return Ok(dialled),
            Err(e) => failures.push((name.to_owned(), why_not(&e, timeout))),
        },
    }
    Err(one_line(name, &failures))
}

fn one_line(name: &str, failures: &[(String, String)]) -> String {
    match failures {
        [(address, why)] if address == name => format!("cannot connect to {name}: {why}"),
        [(address, why)] => format!("cannot connect to {name} ({address}): {why}"),
        _ => {
            let all: Vec<_> = failures.iter().map(|(a, why)| format!("{a}: {why}")).collect();
            format!("cannot connect to {name}: {}", all.join("; "))
        }
    }
}

fn dial_tcp(epoll: &Epoll, address: SocketAddr, timeout: Duration) -> io::Result<Dialled> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let lost = match socket.connect(&address.into()) {
        Ok(()) => None,
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => await_connected(epoll, &socket, timeout)?,
        Err(e) => return Err(e),
    };
    // Nobody listens, but the kernel chose the very port as ours: TCP's simultaneous open with itself,
    // and everything typed would come back.
    if socket.local_addr()?.as_socket() == Some(address) {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    // A typed line is small and waits for nothing.
    socket.set_tcp_nodelay(true)?;
    Ok(Dialled { socket, lost })
}

/// Waits until the connection is established or fails; the result is an error that came after it was established.
fn await_connected(epoll: &Epoll, socket: &Socket, timeout: Duration) -> io::Result<Option<io::Error>> {
    let deadline = Instant::now() + timeout;
    let mut events = Events::with_capacity(1);
    epoll.add(socket, 0, Interest::WRITE, Mode::LEVEL)?;
    let happened = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if epoll.wait(&mut events, Timeout::After(left))? > 0 {
            break true;
        }
        if left.is_zero() {
            break false;
        }
    };
    epoll.delete(socket)?;
    if !happened {
        return Err(io::ErrorKind::TimedOut.into());
    }
    // RULE(connect-refused-mask): a refusal sets every bit, OUT among them; only SO_ERROR tells.
    match socket.take_error()? {
        // An RST that answers our SYN is ECONNREFUSED. These two come later: the server has accepted, perhaps said
        // something, and cut the connection before we were scheduled (kernel: tcp_reset).
        Some(e) if matches!(e.raw_os_error(), Some(libc::ECONNRESET | libc::EPIPE)) => Ok(Some(e)),
        Some(e) => Err(e),
        None => Ok(None),
    }
}

/// A unix socket is never "in progress": with a full queue the kernel says EAGAIN to a non-blocking
/// connect and announces nothing later. A blocking one waits, as long as the send timeout allows.
fn dial_unix(address: &SockAddr, timeout: Duration) -> io::Result<Dialled> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(timeout))?;
    loop {
        match socket.connect(address) {
            Ok(()) => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(e) => return Err(e),
        }
    }
    socket.set_nonblocking(true)?;
    Ok(Dialled { socket, lost: None })
}

fn dial_abstract(name: &[u8], timeout: Duration) -> io::Result<Dialled> {
    use std::os::unix::ffi::OsStrExt;
    // socket2 takes a path with a leading NUL as an abstract name.
    let path = [b"\0", name].concat();
    dial_unix(&SockAddr::unix(std::ffi::OsStr::from_bytes(&path))?, timeout)
}

fn why_not(e: &io::Error, timeout: Duration) -> String {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused, nobody listens there".to_owned(),
        // The kernel's own patience is over; ours has no errno.
        io::ErrorKind::TimedOut if e.raw_os_error().is_some() => "no answer".to_owned(),
        io::ErrorKind::TimedOut => format!("no answer within {timeout:?}"),
        _ => reason(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Bound, so that no other test gets the port as long as the socket lives, and not listening.
    fn closed_port() -> (Socket, SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
        let address = socket.local_addr().expect("address").as_socket().expect("TCP");
        (socket, address)
    }

    fn attempt(addresses: Vec<SocketAddr>) -> Result<Dialled, String> {
        let epoll = Epoll::new().expect("epoll");
        dial(&epoll, &Address::Tcp(addresses), "some.host:7", Duration::from_secs(10))
    }

    #[test]
    fn a_refusal_leads_to_the_next_address() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let open = listener.local_addr().expect("address");
        let (_closed, nobody) = closed_port();
        let dialled = attempt(vec![nobody, open]).expect("connected");
        assert_eq!(dialled.socket.peer_addr().expect("peer").as_socket(), Some(open));
    }

    #[test]
    fn when_every_address_fails_each_is_named_with_its_reason() {
        let ((_one, first), (_other, second)) = (closed_port(), closed_port());
        let why = attempt(vec![first, second]).expect_err("connected");
        assert_eq!(
            why,
            format!(
                "cannot connect to some.host:7: {first}: connection refused, nobody listens there; \
                 {second}: connection refused, nobody listens there"
            )
        );
    }
}
