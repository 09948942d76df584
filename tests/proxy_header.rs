//! The PROXY protocol's header by its bytes: `ProxyHeader::parse`, and `Proxied` in front of a service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use eagain::harness::Harness;
use eagain::limits::PROXY_HEADER_MAX_BYTES;
use eagain::service::{Proxied, ProxyError, ProxyHeader};
use eagain::{Client, End, Input, Next, Output, Peer, Service, Trigger};
use proptest::collection::vec;
use proptest::prelude::*;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2, with the length that `block` has.
fn binary(version_and_command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[version_and_command, family], &length, block].concat()
}

fn peer(text: &str) -> Option<Peer> {
    Some(text.parse::<SocketAddr>().unwrap().into())
}

#[track_caller]
fn assert_header(bytes: &[u8], peer: Option<Peer>) {
    let header = ProxyHeader { peer, length: bytes.len() };
    assert_eq!(ProxyHeader::parse(bytes), Ok(Some(header)), "{}", bytes.escape_ascii());
    assert_eq!(ProxyHeader::parse(&[bytes, b"more"].concat()), Ok(Some(header)), "{}", bytes.escape_ascii());
    for cut in 0..bytes.len() {
        assert_eq!(ProxyHeader::parse(&bytes[..cut]), Ok(None), "{}", bytes[..cut].escape_ascii());
    }
}

#[track_caller]
fn assert_refused(bytes: &[u8], why: ProxyError) {
    assert_eq!(ProxyHeader::parse(bytes), Err(why), "{}", bytes.escape_ascii());
}

#[test]
fn a_line_names_the_client() {
    assert_header(b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", peer("192.168.0.1:56324"));
    assert_header(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", peer("255.255.255.255:65535"));
    assert_header(b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", peer("0.0.0.0:0"));
    assert_header(b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n", peer("[2001:db8::1]:1"));
    assert_header(b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 1 2\r\n", peer("[::ffff:192.0.2.1]:1"));
    let full = "ffff:ffff:ffff:ffff:FFFF:FFFF:FFFF:FFFF";
    assert_header(format!("PROXY TCP6 {full} {full} 65535 65535\r\n").as_bytes(), peer(&format!("[{full}]:65535")));
}

#[test]
fn a_line_that_knows_nobody_is_read_to_its_end() {
    assert_header(b"PROXY UNKNOWN\r\n", None);
    assert_header(b"PROXY UNKNOWN what ever\0\xff it says\r\n", None);
    let full = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = format!("PROXY UNKNOWN {full} {full} 65535 65535\r\n");
    assert_eq!(longest.len(), 107);
    assert_header(longest.as_bytes(), None);
}

#[test]
fn a_line_has_107_bytes_at_the_most() {
    let line = |length: usize| [b"PROXY UNKNOWN ", &vec![b'x'; length - 16][..], b"\r\n"].concat();
    assert_header(&line(107), None);
    assert_refused(&line(108), ProxyError::TooLong);
    assert_refused(&line(108)[..107], ProxyError::TooLong);
    assert_eq!(ProxyHeader::parse(&line(108)[..106]), Ok(None));
}

#[test]
fn a_line_that_is_not_exact_is_refused() {
    let cases: &[(&[u8], ProxyError)] = &[
        (b"GET / HTTP/1.1\r\n", ProxyError::Missing),
        (b"PROXY\r\n", ProxyError::Missing),
        (b"PROXY\tTCP4", ProxyError::Missing),
        (b"proxy TCP4", ProxyError::Missing),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", ProxyError::LineEnd),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r \n", ProxyError::LineEnd),
        (b"PROXY UNKNOWN a\nb\r\n", ProxyError::LineEnd),
        (b"PROXY UNKNOWN a\rb\r\n", ProxyError::LineEnd),
        (b"PROXY \r\n", ProxyError::Line),
        (b"PROXY UNKNOWNX\r\n", ProxyError::Line),
        (b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n", ProxyError::Line),
        (b"PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n", ProxyError::Line),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", ProxyError::Line),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", ProxyError::Line),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", ProxyError::Line),
        (b"PROXY TCP4 1.2.3.4\xff 1.2.3.4 1 2\r\n", ProxyError::Line),
        (b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n", ProxyError::Line),
        (b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", ProxyError::Line),
        (b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n", ProxyError::Address),
        (b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n", ProxyError::Address),
        (b"PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n", ProxyError::Address),
        (b"PROXY TCP4 1.2.3.4 ::1 1 2\r\n", ProxyError::Address),
        (b"PROXY TCP4 ::1 ::1 1 2\r\n", ProxyError::Address),
        (b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n", ProxyError::Address),
        (b"PROXY TCP6 ::1 ::12345 1 2\r\n", ProxyError::Address),
        (b"PROXY TCP6 fe80::1%lo ::1 1 2\r\n", ProxyError::Address),
        (b"PROXY TCP6 [::1] ::1 1 2\r\n", ProxyError::Address),
        (b"PROXY TCP6 1::2::3 ::1 1 2\r\n", ProxyError::Address),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", ProxyError::Port),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 00\r\n", ProxyError::Port),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n", ProxyError::Port),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n", ProxyError::Port),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n", ProxyError::Port),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 \t2\r\n", ProxyError::Port),
    ];
    for (bytes, why) in cases {
        assert_refused(bytes, *why);
    }
}

#[test]
fn a_binary_header_names_the_client() {
    let v4 = [192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x34, 0, 7];
    assert_header(&binary(0x21, 0x11, &v4), peer("192.0.2.1:4660"));
    let v6 = [&Ipv6Addr::LOCALHOST.octets()[..], &[0; 16], &[0xff, 0xff, 0, 7]].concat();
    assert_header(&binary(0x21, 0x21, &v6), peer("[::1]:65535"));
    assert_header(&binary(0x21, 0x31, &[b'x'; 216]), Some(Peer::UNIX));
}

#[test]
fn what_follows_the_addresses_is_skipped() {
    let v4 = [192, 0, 2, 1, 192, 0, 2, 2, 0, 9, 0, 7];
    for extra in [1, 3, 500, PROXY_HEADER_MAX_BYTES - 28] {
        let block = [&v4[..], &vec![0xee; extra]].concat();
        assert_header(&binary(0x21, 0x11, &block), peer("192.0.2.1:9"));
    }
}

#[test]
fn the_proxy_itself_is_meant_by_local_and_by_what_is_no_stream() {
    for (command, family) in
        [(0x20, 0x00), (0x20, 0x11), (0x20, 0xff), (0x21, 0x00), (0x21, 0x12), (0x21, 0x22), (0x21, 0x10), (0x21, 0x01)]
    {
        for block in [&[][..], &[1; 12], &[1; 300]] {
            assert_header(&binary(command, family, block), None);
        }
    }
}

#[test]
fn a_binary_header_that_is_not_exact_is_refused_at_the_first_wrong_byte() {
    let v4 = [1; 12];
    assert_refused(b"\r\n\r\n\0\r\nQUIZ", ProxyError::Missing);
    assert_refused(b"\r\n\r\nX", ProxyError::Missing);
    assert_refused(b"\n", ProxyError::Missing);
    assert_refused(&binary(0x11, 0x11, &v4)[..13], ProxyError::Version(1));
    assert_refused(&binary(0x31, 0x11, &v4)[..13], ProxyError::Version(3));
    assert_refused(&binary(0x22, 0x11, &v4)[..13], ProxyError::Command(2));
    assert_refused(&binary(0x2f, 0x11, &v4)[..13], ProxyError::Command(15));
    assert_refused(&binary(0x21, 0x41, &v4)[..14], ProxyError::Family(0x41));
    assert_refused(&binary(0x21, 0x13, &v4)[..14], ProxyError::Family(0x13));
    assert_refused(&binary(0x21, 0x11, &v4[..11])[..16], ProxyError::TooShort);
    assert_refused(&binary(0x21, 0x21, &[1; 35])[..16], ProxyError::TooShort);
    assert_refused(&binary(0x21, 0x31, &[1; 215])[..16], ProxyError::TooShort);
    assert_refused(&binary(0x21, 0x11, &vec![1; PROXY_HEADER_MAX_BYTES - 15])[..16], ProxyError::TooLong);
    assert_refused(&binary(0x20, 0x00, &[1; 65535])[..16], ProxyError::TooLong);
}

// ---- a service behind it -------------------------------------------------------------------------------------------

/// Writes `hello ADDRESS` as soon as there is room, and sends back what comes.
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
            output.write(format!("hello {}\n", output.client().peer).as_bytes());
        }
        Next::More
    }
}

/// What `Proxied` has done with a stream.
#[derive(Debug, PartialEq)]
struct Outcome {
    sent: Vec<u8>,
    refused: Option<ProxyError>,
    end: Option<End>,
}

/// Gives `Proxied` the pieces one after the other, and then the end.
fn serve(trigger: Trigger, pieces: &[&[u8]]) -> Outcome {
    let mut refused = None;
    let mut harness = Harness::new(Proxied::new(Greeter, |_, why| refused = Some(why)), trigger);
    let client = harness.connect();
    for piece in pieces {
        harness.send(client, piece);
    }
    harness.shut_down(client);
    let (sent, end) = (harness.take(client), harness.end(client));
    drop(harness);
    Outcome { sent, refused, end }
}

#[test]
fn the_service_is_opened_by_the_header_and_speaks_first() {
    let stream = b"PROXY TCP4 192.0.2.1 192.0.2.2 7 8\r\nPROXY TCP4 is data now\r\n";
    let all = Outcome {
        sent: b"hello 192.0.2.1:7\nPROXY TCP4 is data now\r\n".to_vec(),
        refused: None,
        end: Some(End::Finished),
    };
    for trigger in [Trigger::Level, Trigger::Edge] {
        for cut in 0..=stream.len() {
            assert_eq!(serve(trigger, &[&stream[..cut], &stream[cut..]]), all, "{trigger:?}, cut at {cut}");
        }
        assert_eq!(serve(trigger, &stream.chunks(1).collect::<Vec<_>>()), all);
    }
}

#[test]
fn the_end_without_a_byte_is_no_error_and_inside_a_header_it_is() {
    let silent = Outcome { sent: Vec::new(), refused: None, end: Some(End::Finished) };
    assert_eq!(serve(Trigger::Level, &[]), silent);
    let header = binary(0x21, 0x11, &[1; 12]);
    for cut in 1..header.len() {
        let cut_off = Outcome { sent: Vec::new(), refused: Some(ProxyError::Truncated), end: Some(End::Aborted) };
        assert_eq!(serve(Trigger::Level, &[&header[..cut]]), cut_off, "cut at {cut}");
    }
}

#[test]
fn an_excepted_listener_needs_no_header() {
    let proxied = Proxied::new(Greeter, |_, why| panic!("{why}")).except(1);
    let mut harness = Harness::new(proxied, Trigger::Level);
    let (direct, by_proxy) = (harness.connect_as(Peer::UNIX, 1), harness.connect_as(Peer::UNIX, 0));
    assert_eq!(harness.take(by_proxy), b"");
    harness.send(direct, b"data");
    assert_eq!(harness.take(direct), b"hello unix\ndata");
}

// ---- any bytes -----------------------------------------------------------------------------------------------------

/// A header with the peer that it names, of either version.
fn header() -> impl Strategy<Value = (Vec<u8>, Option<Peer>)> {
    let address = any::<(IpAddr, u16)>().prop_map(|(ip, port)| SocketAddr::new(ip, port));
    let line = address.clone().prop_map(|client| {
        let (family, target) = match client.ip() {
            IpAddr::V4(_) => ("TCP4", IpAddr::V4(Ipv4Addr::LOCALHOST)),
            IpAddr::V6(_) => ("TCP6", IpAddr::V6(Ipv6Addr::LOCALHOST)),
        };
        let line = format!("PROXY {family} {} {target} {} 7007\r\n", client.ip(), client.port());
        (line.into_bytes(), Some(client.into()))
    });
    let block = (address, vec(any::<u8>(), 0..300)).prop_map(|(client, tlvs)| {
        let (family, octets) = match client.ip() {
            IpAddr::V4(v4) => (0x11, v4.octets().to_vec()),
            IpAddr::V6(v6) => (0x21, v6.octets().to_vec()),
        };
        let ports = [client.port().to_be_bytes(), [0x1b, 0x5f]].concat();
        let block = [&octets[..], &octets, &ports, &tlvs].concat();
        (binary(0x21, family, &block), Some(client.into()))
    });
    let local = vec(any::<u8>(), 0..300).prop_map(|block| (binary(0x20, 0, &block), None));
    prop_oneof![line, block, local]
}

/// Bytes that are nearly a header: some of one are replaced, and some follow.
fn nearly_a_header() -> impl Strategy<Value = Vec<u8>> {
    let swaps = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (header(), swaps, vec(any::<u8>(), 0..40)).prop_map(|((mut bytes, _), swaps, more)| {
        for (at, byte) in swaps {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.extend(more);
        bytes
    })
}

fn cases() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_header_gives_back_the_client_that_it_was_made_of((bytes, peer) in header()) {
        let expected = ProxyHeader { peer, length: bytes.len() };
        prop_assert_eq!(ProxyHeader::parse(&bytes), Ok(Some(expected)));
    }

    #[test]
    fn an_answer_stays_when_more_comes(bytes in prop_oneof![nearly_a_header(), vec(any::<u8>(), 0..200)]) {
        let last = ProxyHeader::parse(&bytes);
        for cut in 0..bytes.len() {
            let early = ProxyHeader::parse(&bytes[..cut]);
            prop_assert!(early == Ok(None) || early == last, "{early:?} at {cut}, then {last:?}");
        }
    }

    #[test]
    fn any_split_comes_to_the_same(bytes in nearly_a_header(), cuts in vec(any::<prop::sample::Index>(), 0..6)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        prop_assert_eq!(serve(Trigger::Edge, &pieces), serve(Trigger::Level, &[&bytes]));
    }

    #[test]
    fn an_incomplete_header_is_shorter_than_its_bound(fixed in any::<[u8; 4]>()) {
        let bytes = [SIGNATURE, &fixed, &vec![0; PROXY_HEADER_MAX_BYTES]].concat();
        prop_assert_ne!(ProxyHeader::parse(&bytes[..PROXY_HEADER_MAX_BYTES]), Ok(None));
    }
}
