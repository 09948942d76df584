//! What a value may be. Each function reads one kind, and says in one line what it expected.

use std::time::Duration;

use super::Stop;
use crate::address::{Address, AddressError};

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
pub(super) const DAY_S: f64 = 86_400.0;

pub(super) fn address(place: &str, text: &str) -> Result<Address, Stop> {
    Address::parse(text).map_err(|why| match why {
        AddressError::Unresolved(..) => Stop::Failed(format!("{place}: {why}")),
        _ => Stop::Usage(format!("{place}: {why}")),
    })
}

pub(super) fn whole(text: &str, unit: &str, low: u64, high: u64) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|n| (low..=high).contains(n))
        .ok_or_else(|| format!("expected a whole number of {unit} from {low} to {high}"))
}

pub(super) fn max_frame(text: &str) -> Result<u64, String> {
    bytes(text, "1G", GIB)
}

pub(super) fn bytes(text: &str, high: &str, most: u64) -> Result<u64, String> {
    let (digits, unit) = match text.bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], KIB),
        Some(b'M' | b'm') => (&text[..text.len() - 1], MIB),
        Some(b'G' | b'g') => (&text[..text.len() - 1], GIB),
        _ => (text, 1),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    bytes
        .filter(|n| (1..=most).contains(n))
        .ok_or_else(|| format!("expected bytes from 1 to {high}, as in 200000, 64K or 1M (powers of 1024)"))
}

pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    seconds(text, 0.001)
}

pub(super) fn seconds(text: &str, low: f64) -> Result<Duration, String> {
    // NaN is in no range; "inf" and "1e9" are above this one.
    match text.parse::<f64>() {
        Ok(s) if (low..=DAY_S).contains(&s) => Ok(Duration::from_secs_f64(s)),
        _ => Err(format!("expected seconds from {low} to {DAY_S}, as in 5 or 0.5")),
    }
}
