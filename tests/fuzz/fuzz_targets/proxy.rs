//! The header of the PROXY protocol: any split comes to the same, an answer stays when more bytes come, what is kept
//! is bounded, and what is accepted says what its bytes say.
#![no_main]

mod pieces;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use eagain::limits::PROXY_HEADER_MAX_BYTES;
use eagain::service::{Proxied, ProxyError, ProxyHeader};
use eagain::{Client, Input, Next, Output, Peer, Service};
use libfuzzer_sys::fuzz_target;
use pieces::Outcome;

fuzz_target!(|data: &[u8]| {
    let pieces = pieces::cut(data);
    let stream = pieces.concat();
    let whole = serve(&[&stream]);
    assert_eq!(serve(&pieces), whole);
    assert_eq!(serve(&stream.chunks(1).collect::<Vec<_>>()), whole);

    let last = ProxyHeader::parse(&stream);
    for end in 0..stream.len() {
        let early = ProxyHeader::parse(&stream[..end]);
        assert!(early == Ok(None) || early == last, "{early:?} after {end} bytes, then {last:?}");
    }
    let Ok(Some(header)) = last else {
        return if last == Ok(None) {
            check_incomplete(&stream)
        };
    };
    assert!(header.length <= PROXY_HEADER_MAX_BYTES);
    assert_eq!(ProxyHeader::parse(&stream[..header.length - 1]), Ok(None), "accepted before it is whole");
    let head = &stream[..header.length];
    if head[0] == b'P' {
        check_line(head, header.peer)
    } else {
        check_binary(head, header.peer)
    }
    let greeting = header.peer.unwrap_or(Client::NOBODY.peer).to_string();
    assert_eq!(whole.0.sent, [greeting.as_bytes(), &stream[header.length..]].concat());
});

/// Writes the client's address as soon as there is room, and sends back what comes.
struct Greeter;

impl Service for Greeter {
    type Session = bool;

    fn open(&mut self, _: &Client) -> bool {
        false
    }

    fn data(&mut self, _: &mut bool, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        output.forward(input, input.len());
        Next::More
    }

    fn room(&mut self, greeted: &mut bool, _: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        if !std::mem::replace(greeted, true) {
            output.write(output.client().peer.to_string().as_bytes());
        }
        Next::More
    }
}

/// What is sent and how it ends, and why it is refused.
fn serve(pieces: &[&[u8]]) -> (Outcome<()>, Option<ProxyError>) {
    let mut refused = None;
    let mut service = Proxied::new(Greeter, |_, why| assert_eq!(refused.replace(why), None, "refused twice"));
    let Outcome { sent, end, .. } = pieces::serve(&mut service, pieces, true, |_, _| {});
    drop(service);
    assert_eq!(refused.is_some(), end == Some(Next::Abort));
    assert!(refused.is_none() || sent.is_empty(), "an answer to a connection that is refused");
    (Outcome { sent, end, session: () }, refused)
}

/// More is waited for only within the bound.
fn check_incomplete(bytes: &[u8]) {
    match bytes {
        [b'P', ..] => assert!(bytes.len() < 107),
        _ if bytes.len() >= 16 => assert!(announced(bytes) <= PROXY_HEADER_MAX_BYTES),
        _ => {}
    }
}

/// How long a header of version 2 says it is.
fn announced(bytes: &[u8]) -> usize {
    16 + usize::from(bytes[14]) * 256 + usize::from(bytes[15])
}

/// Version 1: one line of at most 107 bytes, which the address it names can be found in.
fn check_line(line: &[u8], peer: Option<Peer>) {
    assert!(line.len() <= 107);
    let text = line.strip_suffix(b"\r\n").expect("it ends with CR LF");
    assert!(!text.contains(&b'\r') && !text.contains(&b'\n'));
    let Some(peer) = peer else { return assert!(text.starts_with(b"PROXY UNKNOWN")) };
    let fields: Vec<&str> = std::str::from_utf8(text).expect("ASCII").split(' ').collect();
    let [_, family, source, _, port, _] = fields[..] else { panic!("{fields:?}") };
    let address: SocketAddr = match family {
        "TCP4" => (source.parse::<Ipv4Addr>().expect("IPv4"), port.parse().expect("a port")).into(),
        "TCP6" => (source.parse::<Ipv6Addr>().expect("IPv6"), port.parse().expect("a port")).into(),
        _ => panic!("{fields:?}"),
    };
    assert_eq!(peer, address.into());
}

/// Version 2: as long as it says, and with the address that stands at its place.
fn check_binary(head: &[u8], peer: Option<Peer>) {
    assert_eq!(head[..12], *b"\r\n\r\n\0\r\nQUIT\n");
    assert_eq!(head.len(), announced(head));
    let port = |at: usize| u16::from(head[at]) * 256 + u16::from(head[at + 1]);
    let expected = match (head[12], head[13]) {
        (0x21, 0x11) => {
            let address: [u8; 4] = head[16..20].try_into().expect("4 bytes");
            Some(SocketAddr::from((address, port(24))).into())
        }
        (0x21, 0x21) => {
            let address: [u8; 16] = head[16..32].try_into().expect("16 bytes");
            Some(SocketAddr::from((address, port(48))).into())
        }
        (0x21, 0x31) => Some(Peer::UNIX),
        (0x20 | 0x21, _) => None,
        other => panic!("accepted: {other:02x?}"),
    };
    assert_eq!(peer, expected);
}
