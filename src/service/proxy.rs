//! The PROXY protocol, versions 1 and 2: a proxy says in front of the stream for whom it connects.
//!
//! # References
//! HAProxy, `doc/proxy-protocol.txt`, of 2020-03-05; its sections are named below.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use super::{End, Next, Service};
use crate::buffer::{Input, Output};
use crate::client::{Client, ConnectionId, Peer};
use crate::gate::TurnedAway;
use crate::limits::PROXY_HEADER_MAX_BYTES;

/// What version 1 begins with. No byte of it is also the first byte of [`SIGNATURE`].
const WORD: &[u8] = b"PROXY ";
/// The longest line of version 1, with its CR LF (section 2.1).
const LINE_MAX_BYTES: usize = 107;
/// What version 2 begins with (section 2.2).
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length.
const FIXED_BYTES: usize = 16;

/// Why a connection has no valid header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// It begins with something else: most likely it does not come by a proxy, or that does not send the header.
    #[error("no PROXY protocol header: the proxy must be told to send one, as by HAProxy's send-proxy-v2")]
    Missing,
    /// The client has closed in the middle of it.
    #[error("the PROXY protocol header is cut off")]
    Truncated,
    /// Version 1: no CR LF within 107 bytes; version 2: longer than
    /// [`PROXY_HEADER_MAX_BYTES`].
    #[error("the PROXY protocol header is too long")]
    TooLong,
    /// Version 1: a CR or LF that is not a CR LF.
    #[error("the line of the PROXY protocol header does not end with CR LF")]
    LineEnd,
    /// Version 1: neither TCP4, TCP6 nor UNKNOWN, or not two addresses and two ports, with one space between them.
    #[error("the line of the PROXY protocol header is malformed")]
    Line,
    /// Version 1: an address that is none, or is of the other family.
    #[error("the PROXY protocol header has an address that is none of its family")]
    Address,
    /// Version 1: not a number from 0 to 65535, without leading zeros.
    #[error("the PROXY protocol header has a port that is none")]
    Port,
    /// Version 2: the version is not 2.
    #[error("the PROXY protocol header is of version {0}, not 1 or 2")]
    Version(u8),
    /// Version 2: neither LOCAL (0) nor PROXY (1).
    #[error("the PROXY protocol header has the unknown command {0}")]
    Command(u8),
    /// Version 2: an address family or a protocol that is not defined.
    #[error("the PROXY protocol header has the unknown family and protocol {0:#04x}")]
    Family(u8),
    /// Version 2: the length has no room for the addresses of the family.
    #[error("the PROXY protocol header is shorter than the addresses of its family")]
    TooShort,
}

/// A whole and valid header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// For whom the proxy connects. `None`: for itself (a health check), or it does not know; then the address that it
    /// connects from counts.
    pub peer: Option<Peer>,
    /// How many bytes the header has; the client's own follow.
    pub length: usize,
}

impl ProxyHeader {
    /// Reads the header at the front of `bytes`; `None` if more of it is to come. What it answers to some bytes it also
    /// answers to the same bytes with more behind them, unless it was `None`.
    ///
    /// The addresses that the client connected *to*, and TLVs, are skipped. A stream socket cannot have come by a
    /// datagram protocol, so for one (and for an unspecified one) the proxy's own address counts (section 2.2: "falls
    /// back to the UNSPEC mode").
    ///
    /// # Errors
    /// [`ProxyError`], except [`ProxyError::Truncated`].
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, ProxyError> {
        match bytes.first() {
            None => Ok(None),
            Some(first) if *first == WORD[0] => parse_line(bytes),
            Some(_) => parse_binary(bytes),
        }
    }
}

/// Whether `bytes` begin as `expected`, as far as they go.
fn begins(bytes: &[u8], expected: &[u8]) -> Result<(), ProxyError> {
    let same = bytes.iter().zip(expected).all(|(left, right)| left == right);
    if same { Ok(()) } else { Err(ProxyError::Missing) }
}

/// Version 1 (section 2.1).
fn parse_line(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    begins(bytes, WORD)?;
    let head = &bytes[..bytes.len().min(LINE_MAX_BYTES)];
    let end = head.iter().position(|&byte| byte == b'\r' || byte == b'\n');
    let line = match end.map(|end| (&head[..end], &head[end..])) {
        Some((line, [b'\r', b'\n', ..])) => line,
        Some((_, [_, _, ..] | b"\n")) => return Err(ProxyError::LineEnd),
        _ if head.len() == LINE_MAX_BYTES => return Err(ProxyError::TooLong),
        _ => return Ok(None),
    };
    let length = line.len() + b"\r\n".len();
    Ok(Some(ProxyHeader { peer: parse_fields(line)?, length }))
}

/// The line without its end.
fn parse_fields(line: &[u8]) -> Result<Option<Peer>, ProxyError> {
    let fields = line.get(WORD.len()..).unwrap_or_default();
    // "The receiver must ignore anything presented before the CRLF."
    if fields == b"UNKNOWN" || fields.starts_with(b"UNKNOWN ") {
        return Ok(None);
    }
    let fields = std::str::from_utf8(fields).map_err(|_| ProxyError::Line)?;
    let mut fields = fields.split(' ');
    let mut next = || fields.next().ok_or(ProxyError::Line);
    let read: fn(&str) -> Option<IpAddr> = match next()? {
        // The standard library refuses leading zeros, and takes "::ffff:192.0.2.1", which inet_ntop(3) writes.
        "TCP4" => |text| text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => |text| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => return Err(ProxyError::Line),
    };
    let [source, target, source_port, target_port] = [next()?, next()?, next()?, next()?];
    if next().is_ok() {
        return Err(ProxyError::Line);
    }
    let source = read(source).ok_or(ProxyError::Address)?;
    read(target).ok_or(ProxyError::Address)?;
    let port = parse_port(source_port)?;
    parse_port(target_port)?;
    Ok(Some(SocketAddr::new(source, port).into()))
}

fn parse_port(text: &str) -> Result<u16, ProxyError> {
    // `parse` alone would take "+7" and "07".
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(ProxyError::Port)
}

/// Version 2 (section 2.2). Each byte is judged as soon as it is there.
fn parse_binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    begins(bytes, SIGNATURE)?;
    let Some(&version_and_command) = bytes.get(12) else { return Ok(None) };
    let (version, command) = (version_and_command >> 4, version_and_command & 0xf);
    if version != 2 {
        return Err(ProxyError::Version(version));
    }
    let is_local = match command {
        0 => true,
        1 => false,
        _ => return Err(ProxyError::Command(command)),
    };
    let Some(&family) = bytes.get(13) else { return Ok(None) };
    // LOCAL: the family "is ignored".
    if !is_local && (family >> 4 > 3 || family & 0xf > 2) {
        return Err(ProxyError::Family(family));
    }
    let (Some(&high), Some(&low)) = (bytes.get(14), bytes.get(15)) else { return Ok(None) };
    let length = FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if length > PROXY_HEADER_MAX_BYTES {
        return Err(ProxyError::TooLong);
    }
    let kind = if is_local { Addresses::Ignored } else { Addresses::of(family) };
    if length - FIXED_BYTES < kind.bytes() {
        return Err(ProxyError::TooShort);
    }
    Ok(bytes.get(FIXED_BYTES..length).map(|block| ProxyHeader { peer: kind.source(block), length }))
}

/// The addresses of version 2 that mean something here.
enum Addresses {
    V4,
    V6,
    Unix,
    Ignored,
}

impl Addresses {
    const fn of(family_and_protocol: u8) -> Self {
        match family_and_protocol {
            0x11 => Self::V4,
            0x21 => Self::V6,
            0x31 => Self::Unix,
            _ => Self::Ignored,
        }
    }

    /// Two addresses, and two ports of 2 bytes; a name of a Unix socket has 108.
    const fn bytes(&self) -> usize {
        match self {
            Self::V4 => 2 * 4 + 2 * 2,
            Self::V6 => 2 * 16 + 2 * 2,
            Self::Unix => 2 * 108,
            Self::Ignored => 0,
        }
    }

    fn source(&self, block: &[u8]) -> Option<Peer> {
        let address = match self {
            Self::V4 => IpAddr::from(*block.first_chunk::<4>()?),
            Self::V6 => IpAddr::from(*block.first_chunk::<16>()?),
            Self::Unix => return Some(Peer::UNIX),
            Self::Ignored => return None,
        };
        // Behind both addresses.
        let port = block.get(self.bytes() - 4..)?.first_chunk::<2>()?;
        Some(SocketAddr::new(address, u16::from_be_bytes(*port)).into())
    }
}

/// A service behind a proxy that speaks the PROXY protocol, version 1 or 2.
///
/// The inner service hears of a connection when its header is whole, and is told the client's address, not the
/// proxy's. A connection without a valid header is closed without a byte of an answer, and handed to `tell`, which must
/// not block, with the address that it came from. (One that is closed before its first byte is a health check, and no
/// error.)
///
/// Let nobody but the proxy reach the listener: whoever does can claim any address.
/// [`Handle::broadcast`](crate::Handle::broadcast) reaches connections that have not sent their header, too.
///
/// ```
/// use eagain::service::{Echo, Proxied};
///
/// let service = Proxied::new(Echo, |from, why| eprintln!("{from}: {why}"));
/// ```
#[derive(Debug, Clone)]
pub struct Proxied<S, F> {
    inner: S,
    tell: F,
    direct: Vec<usize>,
}

/// What [`Proxied`] remembers of a connection.
#[derive(Debug)]
pub enum ProxiedSession<T> {
    /// The header is not whole.
    Waiting,
    /// The inner service serves this client.
    Open(Peer, T),
}

impl<S: Service, F: FnMut(Peer, ProxyError)> Proxied<S, F> {
    /// Puts `inner` behind a proxy.
    #[must_use]
    pub const fn new(inner: S, tell: F) -> Self {
        Self { inner, tell, direct: Vec::new() }
    }

    /// No proxy is in front of this listener (its index, as in [`Client::listener`]): its clients come directly.
    #[must_use]
    pub fn except(mut self, listener: usize) -> Self {
        self.direct.push(listener);
        self
    }

    /// Lets the inner service work on an open connection, as if the client had come directly.
    #[inline]
    fn pass(
        &mut self,
        session: &mut ProxiedSession<S::Session>,
        output: &mut Output<'_>,
        callback: impl FnOnce(&mut S, &mut S::Session, &mut Output<'_>) -> Next,
    ) -> Next {
        let ProxiedSession::Open(peer, inner) = session else { return Next::More };
        let client = Client { peer: *peer, ..*output.client() };
        output.for_client(&client, |output| callback(&mut self.inner, inner, output))
    }

    /// The header is whole: what follows is as after an accept, `open`, `room`, and `data` if there is any.
    fn begin(
        &mut self,
        peer: Peer,
        session: &mut ProxiedSession<S::Session>,
        input: &mut Input<'_>,
        output: &mut Output<'_>,
    ) -> Next {
        let client = Client { peer, ..*output.client() };
        *session = ProxiedSession::Open(peer, self.inner.open(&client));
        let before = output.len();
        let first = self.pass(session, output, |service, session, output| service.room(session, input, output));
        if output.len() > before {
            output.ask_for_room();
        }
        if input.is_empty() || matches!(first, Next::Finish | Next::Abort) {
            return first;
        }
        match self.pass(session, output, |service, session, output| service.data(session, input, output)) {
            Next::More => first,
            next => next,
        }
    }

    fn refuse(&mut self, why: ProxyError, output: &Output<'_>) -> Next {
        (self.tell)(output.client().peer, why);
        Next::Abort
    }
}

impl<S: Service, F: FnMut(Peer, ProxyError)> Service for Proxied<S, F> {
    type Session = ProxiedSession<S::Session>;

    fn open(&mut self, client: &Client) -> Self::Session {
        if self.direct.contains(&client.listener) {
            ProxiedSession::Open(client.peer, self.inner.open(client))
        } else {
            ProxiedSession::Waiting
        }
    }

    #[inline]
    fn data(&mut self, session: &mut Self::Session, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        if let ProxiedSession::Open(..) = session {
            return self.pass(session, output, |service, session, output| service.data(session, input, output));
        }
        match ProxyHeader::parse(input) {
            Ok(None) => Next::More,
            Ok(Some(header)) => {
                input.consume(header.length);
                self.begin(header.peer.unwrap_or(output.client().peer), session, input, output)
            }
            Err(why) => self.refuse(why, output),
        }
    }

    #[inline]
    fn room(&mut self, session: &mut Self::Session, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        self.pass(session, output, |service, session, output| service.room(session, input, output))
    }

    fn timer(&mut self, session: &mut Self::Session, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        self.pass(session, output, |service, session, output| service.timer(session, input, output))
    }

    fn eof(&mut self, session: &mut Self::Session, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        match session {
            ProxiedSession::Waiting if input.is_empty() => Next::Finish,
            ProxiedSession::Waiting => self.refuse(ProxyError::Truncated, output),
            ProxiedSession::Open(..) => {
                self.pass(session, output, |service, session, output| service.eof(session, input, output))
            }
        }
    }

    fn close(&mut self, session: Self::Session, client: &Client, end: End) {
        if let ProxiedSession::Open(peer, inner) = session {
            self.inner.close(inner, &Client { peer, ..*client }, end);
        }
    }

    fn input_limit(&self, session: &Self::Session) -> usize {
        match session {
            ProxiedSession::Waiting => PROXY_HEADER_MAX_BYTES,
            ProxiedSession::Open(_, inner) => self.inner.input_limit(inner),
        }
    }

    /// The client's address and a line feed, before what the inner service packs; nothing but the line feed while the
    /// header is not whole (what there is of it is input).
    fn pack(&self, session: &Self::Session, now: Instant) -> Option<Vec<u8>> {
        Some(match session {
            ProxiedSession::Waiting => b"\n".to_vec(),
            ProxiedSession::Open(peer, inner) => {
                [format!("{peer}\n").into_bytes(), self.inner.pack(inner, now)?].concat()
            }
        })
    }

    fn unpack(&mut self, client: &Client, packed: &[u8], now: Instant) -> Option<Self::Session> {
        let end = packed.iter().position(|&byte| byte == b'\n')?;
        let peer = match std::str::from_utf8(&packed[..end]).ok()? {
            "" => return (end + 1 == packed.len()).then_some(ProxiedSession::Waiting),
            address => Peer::parse(address)?,
        };
        let inner = self.inner.unpack(&Client { peer, ..*client }, &packed[end + 1..], now)?;
        Some(ProxiedSession::Open(peer, inner))
    }

    fn exhausted(&mut self, listener: usize, errno: i32) {
        self.inner.exhausted(listener, errno);
    }

    fn turned_away(&mut self, listener: usize, peer: &Peer, why: TurnedAway) {
        self.inner.turned_away(listener, peer, why);
    }

    fn undelivered(&mut self, to: ConnectionId, bytes: &[u8]) {
        self.inner.undelivered(to, bytes);
    }
}
