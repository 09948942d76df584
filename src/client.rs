//! Who is at the other end: the [`Client`] that a service is told of, its [`Peer`] address and its [`ConnectionId`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use socket2::SockAddr;

use crate::slab::Token;

/// A new connection, as a service sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its name for a [`Handle`](crate::Handle).
    pub id: ConnectionId,
    /// Where it comes from.
    pub peer: Peer,
    /// The index of the listener that accepted it, in the list that the server was started with.
    pub listener: usize,
}

impl Client {
    /// A client for tests of a service; no connection has its name.
    pub const NOBODY: Self = Self {
        id: ConnectionId { worker: u16::MAX, token: Token::from_bits(u64::MAX) },
        peer: Peer::UNIX,
        listener: 0,
    };
}

/// Names one connection of one server, for ever: it is not given out again when the connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    pub(crate) worker: u16,
    pub(crate) token: Token,
}

impl ConnectionId {
    /// The number of the worker that has it, from 0.
    #[must_use]
    pub const fn worker(&self) -> usize {
        self.worker as usize
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.worker, self.token)
    }
}

/// The other end of a connection, in 24 bytes. Displays as `127.0.0.1:50312`, `[::1]:50312` or `unix`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    address: [u8; 16],
    scope: u32,
    port: u16,
    family: Family,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
    Unix,
}

impl Peer {
    /// A client on this machine, by a Unix socket.
    pub const UNIX: Self = Self { address: [0; 16], scope: 0, port: 0, family: Family::Unix };

    /// What [`Display`](fmt::Display) wrote.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text == "unix" { Some(Self::UNIX) } else { text.parse::<SocketAddr>().ok().map(Self::from) }
    }

    /// Its address; `None` for a Unix socket, whose clients have none.
    #[must_use]
    pub fn ip(&self) -> Option<SocketAddr> {
        let v6 = Ipv6Addr::from(self.address);
        match self.family {
            Family::V4 => {
                let [.., a, b, c, d] = self.address;
                Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), self.port))
            }
            Family::V6 => Some(SocketAddr::V6(SocketAddrV6::new(v6, self.port, 0, self.scope))),
            Family::Unix => None,
        }
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(v4) => {
                Self { address: v4.ip().to_ipv6_mapped().octets(), scope: 0, port: v4.port(), family: Family::V4 }
            }
            SocketAddr::V6(v6) => {
                Self { address: v6.ip().octets(), scope: v6.scope_id(), port: v6.port(), family: Family::V6 }
            }
        }
    }
}

impl From<&SockAddr> for Peer {
    fn from(address: &SockAddr) -> Self {
        address.as_socket().map_or(Self::UNIX, Self::from)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip() {
            Some(address) => address.fmt(f),
            None => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_gives_back_the_address_it_was_made_of() {
        for text in ["127.0.0.1:7", "0.0.0.0:0", "[::1]:65535", "[::ffff:1.2.3.4]:5", "[fe80::1%3]:7"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(Peer::from(address).ip(), Some(address));
            assert_eq!(Peer::from(address).to_string(), text);
            assert_eq!(Peer::parse(text), Some(address.into()));
        }
        assert_eq!(Peer::parse(&Peer::UNIX.to_string()), Some(Peer::UNIX));
        assert_eq!(Peer::parse("nobody"), None);
        assert_eq!(size_of::<Peer>(), 24);
    }
}
