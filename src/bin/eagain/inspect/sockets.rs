//! Sockets by their inode, from the tables of /proc/PID/net, which are those of the process's network namespace.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(super) struct Sockets {
    by_inode: HashMap<String, String>,
}

/// The states of a TCP socket, as include/net/tcp_states.h numbers them from 1.
const STATES: [&str; 12] = [
    "established",
    "syn-sent",
    "syn-received",
    "fin-wait-1",
    "fin-wait-2",
    "time-wait",
    "closed",
    "close-wait",
    "last-ack",
    "listening",
    "closing",
    "new",
];

impl Sockets {
    /// Those whose inode is wanted: the tables have the sockets of all processes, and thousands that have none.
    pub(super) fn seen_by(pid: u32, wanted: &HashSet<&str>) -> Self {
        let is_wanted = |line: &&str, column| line.split_whitespace().nth(column).is_some_and(|i| wanted.contains(i));
        let mut by_inode = HashMap::new();
        for protocol in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6", "icmp", "icmp6"] {
            let table = table(pid, protocol);
            by_inode
                .extend(table.lines().filter(|line| is_wanted(line, 9)).filter_map(|line| internet(protocol, line)));
        }
        by_inode.extend(table(pid, "unix").lines().filter(|line| is_wanted(line, 6)).filter_map(unix));
        by_inode.extend(table(pid, "netlink").lines().filter(|line| is_wanted(line, 9)).filter_map(netlink));
        by_inode.extend(table(pid, "packet").lines().filter(|line| is_wanted(line, 8)).filter_map(packet));
        Self { by_inode }
    }

    pub(super) fn what(&self, inode: &str) -> String {
        self.by_inode.get(inode).cloned().unwrap_or_else(|| "socket".to_owned())
    }
}

fn table(pid: u32, name: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default()
}

/// `0: 0100007F:1B5F 00000000:0000 0A …inode…`: number, own address, peer's address, state.
fn internet(protocol: &str, line: &str) -> Option<(String, String)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (own, peer) = (address(words.get(1)?)?, address(words.get(2)?)?);
    let state = usize::from_str_radix(words.get(3)?, 16).ok()?;
    let inode = (*words.get(9)?).to_owned();
    let name = protocol.trim_end_matches('6');
    let text = match (name, peer.port()) {
        ("tcp", 0) => format!("tcp {own} {}", state_name(state)),
        ("tcp", _) => format!("tcp {own} - {peer} {}", state_name(state)),
        (_, 0) => format!("{name} {own}"),
        _ => format!("{name} {own} - {peer}"),
    };
    Some((inode, text))
}

fn state_name(state: usize) -> &'static str {
    state.checked_sub(1).and_then(|at| STATES.get(at)).copied().unwrap_or("?")
}

/// The kernel writes each 32-bit word of an address as a number of this machine.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let words = ip.as_bytes().chunks(8).map(|word| u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok());
    let bytes: Vec<u8> = words.collect::<Option<Vec<u32>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let ip: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[..]).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[..]).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// `address: references protocol flags type state inode path`.
fn unix(line: &str) -> Option<(String, String)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let kind = match *words.get(4)? {
        "0001" => "stream",
        "0002" => "datagram",
        "0005" => "seqpacket",
        _ => "?",
    };
    // __SO_ACCEPTCON: it listens.
    let listening = if *words.get(3)? == "00010000" { " listening" } else { "" };
    let path = words.get(7).map_or(String::new(), |path| format!(" {path}"));
    Some(((*words.get(6)?).to_owned(), format!("unix {kind}{path}{listening}")))
}

/// `address protocol port groups … inode`.
fn netlink(line: &str) -> Option<(String, String)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    // include/uapi/linux/netlink.h
    let name = match *words.get(1)? {
        "0" => "route",
        "4" => "sock_diag",
        "9" => "audit",
        "12" => "netfilter",
        "15" => "uevent",
        "16" => "generic",
        other => other,
    };
    Some(((*words.get(9)?).to_owned(), format!("netlink {name}")))
}

/// `address references type protocol interface … inode`.
fn packet(line: &str) -> Option<(String, String)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    Some(((*words.get(8)?).to_owned(), format!("packet, protocol {}", words.get(3)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        assert_eq!(address("0100007F:1B5F"), "127.0.0.1:7007".parse().ok());
        assert_eq!(address("00000000000000000000000001000000:0050"), "[::1]:80".parse().ok());
        assert_eq!(address("0100007F"), None);
    }

    #[test]
    fn a_listener_has_no_peer() {
        let line = "   0: 0100007F:1B5F 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1";
        assert_eq!(internet("tcp", line), Some(("4711".into(), "tcp 127.0.0.1:7007 listening".into())));
    }
}
