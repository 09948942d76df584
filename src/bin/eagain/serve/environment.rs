//! What systemd writes into the environment of a service, as values: nothing is opened here. Each function is given the
//! environment, and the process that it may or may not be meant for.

use std::ffi::{OsStr, OsString};
use std::io;
use std::iter;
use std::os::fd::RawFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::SocketAddr;
use std::time::Duration;

/// The number of the first descriptor that is passed (SD_LISTEN_FDS_START).
const FIRST: RawFd = 3;

/// The descriptors that are passed, each with its name: empty for one that has none (sd_listen_fds(3)).
pub(crate) fn passed(
    get: impl Fn(&str) -> Option<OsString>,
    process: u32,
) -> Result<impl Iterator<Item = (RawFd, String)>, String> {
    let mine = number(&get, "LISTEN_PID")? == Some(u64::from(process));
    let count = if mine { number(&get, "LISTEN_FDS")?.unwrap_or(0) } else { 0 };
    if count > (RawFd::MAX - FIRST) as u64 {
        return Err(format!("LISTEN_FDS is {count}, more than there can be"));
    }
    let names = get("LISTEN_FDNAMES").unwrap_or_default().to_string_lossy().into_owned();
    let names: Vec<String> = names.split(':').map(str::to_owned).collect();
    Ok((FIRST..).zip(names.into_iter().chain(iter::repeat(String::new()))).take(count as usize))
}

/// The time without a sign of life after which the manager kills (sd_watchdog_enabled(3)); it is not zero.
pub(crate) fn watchdog(get: impl Fn(&str) -> Option<OsString>, process: u32) -> Result<Option<Duration>, String> {
    let mine = number(&get, "WATCHDOG_PID")?.is_none_or(|pid| pid == u64::from(process));
    match number(&get, "WATCHDOG_USEC")? {
        Some(0) => Err("WATCHDOG_USEC is 0: nobody can be that quick".to_owned()),
        limit => Ok(limit.filter(|_| mine).map(Duration::from_micros)),
    }
}

/// Where the manager listens: `/path`, or `@name` for an abstract socket (sd_notify(3)).
pub(crate) fn notify_address(text: &OsStr) -> io::Result<SocketAddr> {
    match text.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(text),
    }
}

/// A whole number.
fn number(get: impl Fn(&str) -> Option<OsString>, name: &str) -> Result<Option<u64>, String> {
    let Some(text) = get(name) else { return Ok(None) };
    let number = text.to_str().and_then(|text| text.parse().ok());
    Ok(Some(number.ok_or_else(|| format!("{name} is {text:?}, not a number"))?))
}
