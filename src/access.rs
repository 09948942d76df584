//! Who may connect: networks that are allowed or denied, asked once for each accepted connection.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use crate::client::Peer;

/// A network, such as `192.0.2.0/24`, `2001:db8::/32`, or one address. IPv4-mapped IPv6 (`::ffff:192.0.2.0/120`) is the
/// IPv4 network that it stands for.
///
/// ```
/// use eagain::Cidr;
///
/// let network: Cidr = "192.0.2.0/24".parse()?;
/// assert!(network.contains("192.0.2.7".parse()?));
/// assert!(network.contains("::ffff:192.0.2.7".parse()?));
/// assert!("192.0.2.1/24".parse::<Cidr>().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CidrError {
    /// What stands before the slash is no address.
    #[error("expected an address or a network, as in 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32")]
    Address,
    /// What stands behind the slash is no length of a prefix.
    #[error("the prefix of a network has 0 to {max} bits, as in {address}/{max}")]
    Prefix {
        /// 32 or 128.
        max: u8,
        /// The address.
        address: IpAddr,
    },
    /// The address has bits behind the prefix: what is meant, the host or its network?
    #[error("not a network; write {0}, or the address alone")]
    HostBits(Cidr),
}

const fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The first `prefix` bits of an address, which has at least as many.
fn network_of(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

impl Cidr {
    /// Whether the address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        bits(address) == bits(self.network) && network_of(address, self.prefix) == self.network
    }

    /// IPv4 within IPv6 becomes IPv4. Shorter prefixes are about more than IPv4; they stay what they are.
    fn canonical(self) -> Self {
        match self.network.to_canonical() {
            network @ IpAddr::V4(_) if self.network.is_ipv6() && self.prefix >= 96 => {
                Self { network, prefix: self.prefix - 96 }
            }
            _ => self,
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| CidrError::Address)?;
        let max = bits(address);
        let prefix = match prefix {
            None => max,
            Some(digits) => {
                // `parse` alone would take "+8" and "08".
                let plain =
                    digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
                let prefix = digits.parse().ok().filter(|prefix| plain && *prefix <= max);
                prefix.ok_or(CidrError::Prefix { max, address })?
            }
        };
        let cidr = Self { network: network_of(address, prefix), prefix };
        if cidr.network == address { Ok(cidr.canonical()) } else { Err(CidrError::HostBits(cidr)) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// Which addresses may connect. Cheap to clone.
///
/// **The longest prefix that contains the address decides**; of two that are equal, the denied one. An address that no
/// network contains may connect if no network is allowed: whoever allows some means these only. The order does not
/// matter. Clients of Unix sockets have no address and are always let in.
///
/// ```
/// use eagain::AccessList;
///
/// let office = AccessList::new(["192.0.2.0/24".parse()?], ["192.0.2.128/25".parse()?]);
/// assert!(office.admits("192.0.2.1".parse()?));
/// assert!(!office.admits("192.0.2.200".parse()?));
/// assert!(!office.admits("198.51.100.1".parse()?));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessList {
    /// The longest prefix first, the denied one of two: the first that contains an address decides.
    rules: Arc<[(Cidr, Verdict)]>,
    /// Some network is allowed, so what is in none is not.
    closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Deny,
    Allow,
}

impl AccessList {
    /// A list of these networks.
    #[must_use]
    pub fn new(allow: impl IntoIterator<Item = Cidr>, deny: impl IntoIterator<Item = Cidr>) -> Self {
        let allow = allow.into_iter().map(|cidr| (cidr, Verdict::Allow));
        let deny = deny.into_iter().map(|cidr| (cidr, Verdict::Deny));
        let mut rules: Vec<_> = allow.chain(deny).collect();
        rules.sort_by_key(|&(cidr, verdict)| (std::cmp::Reverse(cidr.prefix), verdict));
        let closed = rules.iter().any(|&(_, verdict)| verdict == Verdict::Allow);
        Self { rules: rules.into(), closed }
    }

    /// Whether this address may connect. Time: one comparison for each network of the list.
    #[must_use]
    pub fn admits(&self, address: IpAddr) -> bool {
        match self.rules.iter().find(|(cidr, _)| cidr.contains(address)) {
            Some((_, verdict)) => *verdict == Verdict::Allow,
            None => !self.closed,
        }
    }

    /// Whether this peer may connect.
    #[inline]
    pub(crate) fn admits_peer(&self, peer: &Peer) -> bool {
        self.rules.is_empty() || peer.ip().is_none_or(|address| self.admits(address.ip()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    #[track_caller]
    fn refused(text: &str) -> String {
        text.parse::<Cidr>().expect_err(text).to_string()
    }

    fn list(allow: &[&str], deny: &[&str]) -> AccessList {
        AccessList::new(allow.iter().map(|text| cidr(text)), deny.iter().map(|text| cidr(text)))
    }

    #[track_caller]
    fn assert_admits(list: &AccessList, yes: &[&str], no: &[&str]) {
        for address in yes {
            assert!(list.admits(address.parse().unwrap()), "{address} is denied");
        }
        for address in no {
            assert!(!list.admits(address.parse().unwrap()), "{address} is let in");
        }
    }

    #[test]
    fn a_network_is_shown_with_its_prefix() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.7/32", "::/0", "2001:db8::/32", "::1/128"] {
            assert_eq!(cidr(text).to_string(), text);
        }
        assert_eq!(cidr("192.0.2.7").to_string(), "192.0.2.7/32");
        assert_eq!(cidr("::1").to_string(), "::1/128");
    }

    #[test]
    fn what_is_no_network_is_refused_with_what_to_write() {
        for text in ["", "/8", "10.0.0/8", "010.0.0.0/8", "localhost", "10.0.0.0/8/8", "[::1]", "10.0.0.1:7", "10.* "] {
            if text == "10.0.0.0/8/8" {
                assert!(refused(text).contains("0 to 32 bits"));
            } else {
                assert!(refused(text).contains("as in 192.0.2.7"), "{text}");
            }
        }
        for text in ["10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/08", "10.0.0.0/-1", "10.0.0.0/255.0.0.0"] {
            assert!(refused(text).contains("0 to 32 bits"), "{text}");
        }
        assert!(refused("::/129").contains("0 to 128 bits"));
        assert!(refused("10.1.2.3/8").contains("write 10.0.0.0/8"));
        assert!(refused("2001:db8::1/32").contains("write 2001:db8::/32"));
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        assert_eq!(cidr("::ffff:192.0.2.0/120"), cidr("192.0.2.0/24"));
        assert_eq!(cidr("::ffff:0.0.0.0/96"), cidr("0.0.0.0/0"));
        assert_admits(&list(&["192.0.2.0/24"], &[]), &["::ffff:192.0.2.9"], &["::ffff:192.0.3.9", "::192.0.2.9"]);
        assert_admits(&list(&[], &["::/0"]), &["192.0.2.9", "::ffff:192.0.2.9"], &["2001:db8::1", "::1"]);
        assert_admits(&list(&[], &["0.0.0.0/0"]), &["::1"], &["192.0.2.9", "::ffff:192.0.2.9"]);
    }

    #[test]
    fn the_longest_prefix_decides_in_any_order() {
        let networks = list(&["10.0.0.0/8", "10.1.2.3"], &["10.1.0.0/16"]);
        assert_admits(&networks, &["10.0.0.1", "10.2.0.1", "10.1.2.3"], &["10.1.2.4", "10.1.0.0", "11.0.0.1", "::1"]);
        assert_admits(&list(&["10.0.0.0/8"], &["10.0.0.0/8"]), &[], &["10.0.0.1"]);
    }

    #[test]
    fn whoever_is_in_no_network_is_let_in_unless_some_are_allowed() {
        assert_admits(&AccessList::default(), &["192.0.2.1", "::1"], &[]);
        assert_admits(&list(&[], &["10.0.0.0/8"]), &["192.0.2.1", "::1"], &["10.0.0.1"]);
        assert_admits(&list(&["10.0.0.0/8"], &[]), &["10.0.0.1"], &["192.0.2.1", "::1"]);
    }

    #[test]
    fn unix_clients_are_always_let_in() {
        let nobody = list(&[], &["0.0.0.0/0", "::/0"]);
        assert!(nobody.admits_peer(&Peer::UNIX));
        assert!(!nobody.admits_peer(&Peer::from(std::net::SocketAddr::from(([127, 0, 0, 1], 7)))));
    }

    proptest! {
        #[test]
        fn a_network_contains_what_shares_its_first_bits(bits: u32, other: u32, prefix in 0_u8..=32) {
            let same = prefix == 0 || (bits ^ other) >> (32 - u32::from(prefix)) == 0;
            let network = network_of(Ipv4Addr::from_bits(bits).into(), prefix);
            let network: Cidr = format!("{network}/{prefix}").parse().unwrap();
            prop_assert_eq!(network.contains(Ipv4Addr::from_bits(other).into()), same);
            prop_assert_eq!(network.contains(Ipv4Addr::from_bits(other).to_ipv6_mapped().into()), same);
        }

        #[test]
        fn no_text_panics(text in "[0-9a-f:./+]{0,24}") {
            let _ = text.parse::<Cidr>();
        }
    }
}
