//! The lines of /proc/PID/fdinfo that tell of registrations: `tfd: 7 events: 80000019 data: ab pos:0 ino:2f sdev:9`.

use eagain::slab::Token;
use eagain::sys::raw;

/// One registration, as the kernel tells it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Registration {
    pub(super) fd: i32,
    /// With the ERR and HUP that are in every mask.
    bits: u32,
    pub(super) data: u64,
    /// Of the file that is registered, whatever its number means now.
    pub(super) inode: u64,
}

const ALWAYS: u32 = (libc::EPOLLERR | libc::EPOLLHUP) as u32;
const EDGE: u32 = libc::EPOLLET as u32;
/// What is left in the mask of a ONESHOT registration that has fired.
const PRIVATE: u32 = (libc::EPOLLWAKEUP | libc::EPOLLONESHOT | libc::EPOLLET | libc::EPOLLEXCLUSIVE) as u32;

impl Registration {
    pub(super) const fn mode(&self) -> &'static str {
        if self.bits & EDGE == 0 { "LT" } else { "ET" }
    }

    /// What was asked for, by name.
    pub(super) fn events(&self) -> String {
        let names = raw::names(self.bits & !ALWAYS & !EDGE);
        // ERR and HUP are taken away only when a ONESHOT registration fires.
        let fired = self.bits & !PRIVATE == 0 && self.bits & libc::EPOLLONESHOT as u32 != 0;
        if fired { format!("{names} (fired)") } else { names }
    }
}

pub(super) fn registrations(info: &str) -> Vec<Registration> {
    info.lines().filter_map(parse).collect()
}

/// The same lines as they are: the identity of an epoll that holds something.
pub(super) fn lines(info: &str) -> String {
    info.lines().filter(|line| line.starts_with("tfd:")).collect()
}

fn parse(line: &str) -> Option<Registration> {
    let spaced = line.strip_prefix("tfd:")?.replace(':', ": ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let value = |key: &str| words.iter().position(|word| *word == key).and_then(|at| words.get(at + 1).copied());
    let hex = |key| u64::from_str_radix(value(key)?, 16).ok();
    Some(Registration {
        fd: words.first()?.parse().ok()?,
        bits: u32::try_from(hex("events:")?).ok()?,
        data: hex("data:")?,
        inode: hex("ino:").unwrap_or(0),
    })
}

/// What the data of a worker of eagain mean.
pub(super) fn token(data: u64) -> String {
    match data {
        u64::MAX => "the worker's mailbox".to_owned(),
        _ if data >= eagain::limits::SLOTS_MAX as u64 && data >> 32 == 0 => {
            format!("listener {}", data - eagain::limits::SLOTS_MAX as u64)
        }
        _ => format!("slot {}, generation {}", Token::from_bits(data).slot(), data >> 32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_is_read() {
        let line = "tfd:      198 events: 80000019 data:               ab  pos:0 ino:989d77 sdev:f";
        let read = parse(line).expect("a registration");
        assert_eq!(read, Registration { fd: 198, bits: 0x8000_0019, data: 0xab, inode: 0x98_9d77 });
        assert_eq!((read.mode(), read.events().as_str()), ("ET", "IN"));
        assert_eq!(parse("pos:\t0"), None);
    }

    #[test]
    fn a_oneshot_registration_that_has_fired_says_so() {
        let line = |bits| format!("tfd: 5 events: {bits:x} data: 0 pos:0 ino:1 sdev:1");
        let oneshot = libc::EPOLLONESHOT as u32;
        assert_eq!(parse(&line(oneshot)).expect("one").events(), "ONESHOT (fired)");
        assert_eq!(parse(&line(oneshot | 0x19)).expect("one").events(), "IN|ONESHOT");
        assert_eq!(parse(&line(0x18)).expect("one").events(), "0");
    }
}
