//! Where a service listens and where `connect` goes: TCP, a unix socket's path, or an abstract unix name.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// Bytes of a unix socket's path or abstract name: `sun_path` has 108, one of them is the NUL that ends
/// a path or starts an abstract name (unix(7)).
const UNIX_NAME_MAX_BYTES: usize = 107;

/// One address as the user wrote it, resolved. `Display` gives a form that [`Address::parse`] takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// All addresses that the name stands for, in the resolver's order, each once; never empty.
    Tcp(Vec<SocketAddr>),
    /// A socket in the file system.
    Unix(PathBuf),
    /// A name in the abstract namespace, without the leading NUL.
    Abstract(Vec<u8>),
}

/// Why an address cannot be used. Only `Unresolved` is about the world; the others are about the text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    #[error("empty; write HOST:PORT, PORT, unix:PATH or unix:@NAME")]
    Empty,
    #[error("no port; write {0}:PORT, PORT alone, unix:PATH or unix:@NAME")]
    NoPort(String),
    #[error("an IPv6 address needs brackets; write {0}")]
    NoBrackets(String),
    #[error("brackets are for IPv6 addresses, as in [::1]:7")]
    NotV6,
    #[error("no host before the port; write 127.0.0.1:{0} or, for every interface, 0.0.0.0:{0}")]
    NoHost(String),
    #[error("the port must be a number from 0 to 65535, not '{0}'")]
    Port(String),
    #[error("no path after unix:; write unix:/run/name.sock, or unix:@NAME for an abstract name")]
    NoPath,
    #[error("a unix socket's path or name has at most {UNIX_NAME_MAX_BYTES} bytes, this one {0}")]
    TooLong(usize),
    #[error("a unix socket's path cannot hold a NUL byte")]
    Nul,
    #[error("cannot find the host '{0}': {1}")]
    Unresolved(String, String),
}

impl Address {
    /// Reads `HOST:PORT`, `[V6]:PORT`, `PORT` (on 127.0.0.1), `unix:PATH` or `unix:@NAME`. A host's name is looked
    /// up here, by getaddrinfo(3), which may take seconds.
    pub(crate) fn parse(text: &str) -> Result<Address, AddressError> {
        match text.strip_prefix("unix:") {
            Some(name) => parse_unix(name),
            None if text.is_empty() => Err(AddressError::Empty),
            None => parse_tcp(text),
        }
    }
}

fn parse_unix(name: &str) -> Result<Address, AddressError> {
    let (is_abstract, bytes) = match name.strip_prefix('@') {
        Some(rest) => (true, rest),
        None => (false, name),
    };
    match bytes.len() {
        0 => Err(AddressError::NoPath),
        n if n > UNIX_NAME_MAX_BYTES => Err(AddressError::TooLong(n)),
        _ if is_abstract => Ok(Address::Abstract(bytes.as_bytes().to_vec())),
        _ if bytes.contains('\0') => Err(AddressError::Nul),
        _ => Ok(Address::Unix(PathBuf::from(bytes))),
    }
}

fn parse_tcp(text: &str) -> Result<Address, AddressError> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return resolve("127.0.0.1", port(text)?);
    }
    if let Some(rest) = text.strip_prefix('[') {
        return parse_bracketed(text, rest);
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(AddressError::NoBrackets(in_brackets(text)));
    }
    match text.rsplit_once(':') {
        None => Err(AddressError::NoPort(text.to_owned())),
        Some((host, port)) if host.contains(':') => Err(AddressError::NoBrackets(format!("[{host}]:{port}"))),
        Some(("", port)) => Err(AddressError::NoHost(port.to_owned())),
        Some((host, digits)) => resolve(host, port(digits)?),
    }
}

/// `[V6]:PORT`; `rest` is `text` after the bracket. A scope (`fe80::1%eth0`) is left to getaddrinfo, which knows
/// the interfaces' names.
fn parse_bracketed(text: &str, rest: &str) -> Result<Address, AddressError> {
    let Some((host, after)) = rest.split_once(']') else {
        return Err(AddressError::NotV6);
    };
    if !host.contains(':') {
        return Err(AddressError::NotV6);
    }
    match after.strip_prefix(':') {
        Some(digits) => resolve(host, port(digits)?),
        None => Err(AddressError::NoPort(text.to_owned())),
    }
}

/// What the user most likely meant by an IPv6 address without brackets: `::1:7` is the address 0:…:1:7 to a parser,
/// but port 7 on `::1` to the one who wrote it.
fn in_brackets(text: &str) -> String {
    match text.rsplit_once(':') {
        Some((host, digits)) if port(digits).is_ok() && host.parse::<Ipv6Addr>().is_ok() => {
            format!("[{host}]:{digits}")
        }
        _ => format!("[{text}]:PORT"),
    }
}

fn port(digits: &str) -> Result<u16, AddressError> {
    let wrong = || AddressError::Port(digits.to_owned());
    // `parse` alone would take "+7".
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    digits.parse().map_err(|_| wrong())
}

fn resolve(host: &str, port: u16) -> Result<Address, AddressError> {
    let unresolved = |why: String| AddressError::Unresolved(host.to_owned(), why);
    let found = (host, port).to_socket_addrs().map_err(|e| unresolved(e.to_string()))?;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(unresolved("the name has no address".to_owned()));
    }
    Ok(Address::Tcp(addresses))
}

impl fmt::Display for Address {
    /// `HOST:PORT`, `unix:PATH` or `unix:@NAME`; several addresses of one name are joined by ", ".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(addresses) => {
                for (i, address) in addresses.iter().enumerate() {
                    write!(f, "{}{address}", if i == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Abstract(name) => write!(f, "unix:@{}", name.escape_ascii()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn shown(text: &str) -> String {
        Address::parse(text).expect(text).to_string()
    }

    #[track_caller]
    fn refused(text: &str) -> String {
        Address::parse(text).expect_err(text).to_string()
    }

    #[test]
    fn every_form_is_shown_as_it_is_written() {
        for text in ["127.0.0.1:7", "[::1]:7", "0.0.0.0:0", "[::]:65535", "unix:/run/e.sock", "unix:@e"] {
            assert_eq!(shown(text), text);
        }
        assert_eq!(shown("7"), "127.0.0.1:7");
        assert_eq!(shown("[fe80::1%lo]:7"), "[fe80::1%1]:7");
        assert_eq!(shown("[fe80::1%1]:7"), "[fe80::1%1]:7");
    }

    #[test]
    fn a_name_keeps_each_address_once() {
        let Ok(Address::Tcp(addresses)) = Address::parse("localhost:7") else {
            panic!("localhost has no address");
        };
        assert!(addresses.iter().all(|a| a.ip().is_loopback() && a.port() == 7));
        assert!((1..=2).contains(&addresses.len()), "{addresses:?}");
    }

    #[test]
    fn an_error_says_what_to_write() {
        assert!(refused("::1:7").contains("write [::1]:7"));
        assert!(refused("::1").contains("write [::1]:PORT"));
        assert!(refused("fe80::1%lo:7").contains("write [fe80::1%lo]:7"));
        assert!(refused("localhost").contains("write localhost:PORT"));
        assert!(refused("[::1]").contains("write [::1]:PORT"));
        assert!(refused(":7").contains("write 127.0.0.1:7"));
        assert!(refused("").contains("write HOST:PORT"));
        assert!(refused("[localhost]:7").contains("[::1]:7"));
        assert!(refused("[::1:7").contains("[::1]:7"));
        for port in ["65536", "+7", "7x", "", "-1"] {
            assert!(refused(&format!("127.0.0.1:{port}")).contains("0 to 65535"));
        }
        assert!(refused("99999").contains("0 to 65535"));
    }

    #[test]
    fn a_unix_name_has_1_to_107_bytes() {
        assert!(refused("unix:").contains("no path"));
        assert!(refused("unix:@").contains("no path"));
        for at in ["", "@"] {
            let longest = format!("unix:{at}{}", "x".repeat(UNIX_NAME_MAX_BYTES));
            assert_eq!(shown(&longest), longest);
            assert!(refused(&format!("{longest}x")).contains("this one 108"));
        }
    }

    #[test]
    fn an_unknown_host_is_about_the_world_not_the_text() {
        // A label has at most 63 letters, so that the resolver knows the answer without asking anyone.
        let why = Address::parse(&format!("{}:7", "x".repeat(64))).expect_err("resolved");
        assert!(matches!(why, AddressError::Unresolved(..)), "{why}");
    }
}
