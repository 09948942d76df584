//! What systemd passes by the environment: as many descriptors as it says, with the names in their order; a watchdog's
//! time that is not zero; an address; or one line that names the variable.
#![no_main]

#[path = "../../../src/bin/eagain/serve/environment.rs"]
mod environment;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;

/// The process that reads it.
const SELF: u32 = 42;

fuzz_target!(|data: &[u8]| {
    // As in /proc/PID/environ, with lines for people.
    let lines = data.split(|&byte| byte == b'\n' || byte == 0);
    let pairs = lines.filter_map(|line| Some(line.split_at(line.iter().position(|&byte| byte == b'=')?)));
    let variables: BTreeMap<&[u8], &OsStr> =
        pairs.map(|(name, value)| (name, OsStr::from_bytes(&value[1..]))).collect();
    let get = |name: &str| variables.get(name.as_bytes()).map(|value| OsString::from(value));
    let number = |name: &str| get(name).map(|text| text.to_str().and_then(|text| text.parse::<u64>().ok()));

    match environment::passed(get, SELF) {
        Ok(passed) => check_passed(passed, &get, number("LISTEN_PID"), number("LISTEN_FDS")),
        Err(why) => check_refusal(&why, &["LISTEN_PID", "LISTEN_FDS"]),
    }
    match environment::watchdog(get, SELF) {
        Ok(limit) => {
            let mine = number("WATCHDOG_PID").is_none_or(|pid| pid == Some(SELF.into()));
            let expected = number("WATCHDOG_USEC").flatten().filter(|_| mine);
            assert_eq!(limit, expected.map(Duration::from_micros));
            assert_ne!(limit, Some(Duration::ZERO));
        }
        Err(why) => check_refusal(&why, &["WATCHDOG_PID", "WATCHDOG_USEC"]),
    }
    if let Some(text) = get("NOTIFY_SOCKET") {
        check_address(&text);
    }
});

fn check_passed(
    passed: impl Iterator<Item = (i32, String)>,
    get: impl Fn(&str) -> Option<OsString>,
    pid: Option<Option<u64>>,
    count: Option<Option<u64>>,
) {
    let mine = pid == Some(Some(SELF.into()));
    let count = if mine { count.map_or(0, |count| count.expect("it is a number")) } else { 0 };
    let names = get("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.as_bytes().split(|&byte| byte == b':');
    // The first ones are enough: there may be as many as the variable says.
    let some = count.min(1000) as usize;
    let mut passed = passed.peekable();
    for number in 0..some {
        let (fd, name) = passed.next().expect("as many as it says");
        assert_eq!(fd, 3 + number as i32);
        assert_eq!(name, String::from_utf8_lossy(names.next().unwrap_or_default()));
    }
    assert_eq!(passed.peek().is_some(), count > some as u64, "as many as it says");
}

fn check_refusal(why: &str, names: &[&str]) {
    assert!(names.iter().any(|name| why.starts_with(&format!("{name} is "))), "{why}");
    assert!(!why.contains(char::is_control), "{why:?}");
}

/// A path or a name has 107 bytes at the most (sun_path, unix(7)); no path has a NUL, and this input none at all.
fn check_address(text: &OsStr) {
    let Ok(address) = environment::notify_address(text) else { return assert!(text.len() > 107) };
    match text.as_bytes().strip_prefix(b"@") {
        Some(name) => assert_eq!(address.as_abstract_name(), Some(name)),
        None if text.is_empty() => assert!(address.is_unnamed()),
        None => assert_eq!(address.as_pathname(), Some(text.as_ref())),
    }
}
