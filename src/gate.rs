//! The gate: which new connections are let in, and how much all of them together may keep.
//!
//! One gate for all workers. A connection passes it twice, when it comes and when it goes; the locks are held for as
//! long as a look into a table takes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Instant;

use crate::access::AccessList;
use crate::client::Peer;

/// How much a server takes on; `None` is without a limit. What comes over a limit is closed at once and counted, and
/// nobody else is touched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time.
    pub connections: Option<usize>,
    /// Connections at a time from one IP address. Unix sockets have none.
    pub connections_per_ip: Option<usize>,
    /// New connections in a second; after a quiet second, as many at once.
    pub accepts_per_second: Option<u32>,
    /// Bytes of all connections together that are kept in memory: input that no service has taken, output that no
    /// client has taken. A connection that would keep more is closed; those that keep nothing do not notice.
    pub buffered_bytes: Option<usize>,
}

/// Why a connection was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnedAway {
    /// The [`AccessList`] is against its address.
    Denied,
    /// There were [`Limits::connections`].
    Connections,
    /// There were [`Limits::connections_per_ip`] from its address.
    PerIp,
    /// More came than [`Limits::accepts_per_second`].
    Rate,
    /// [`Limits::buffered_bytes`] were kept.
    Buffered,
}

#[derive(Debug)]
struct Bucket {
    /// Connections that may come now.
    tokens: f64,
    filled: Instant,
}

#[derive(Debug)]
pub(crate) struct Gate {
    rules: RwLock<(Limits, AccessList)>,
    /// [`Limits::buffered_bytes`], or `usize::MAX`: asked at every change, so not under the lock.
    most_buffered: AtomicUsize,
    open: AtomicUsize,
    buffered: AtomicUsize,
    per_ip: Mutex<HashMap<IpAddr, usize>>,
    bucket: Mutex<Bucket>,
}

impl Gate {
    pub(crate) fn new(limits: Limits, access: AccessList, now: Instant) -> Self {
        let tokens = limits.accepts_per_second.unwrap_or(0).into();
        Self {
            rules: RwLock::new((limits, access)),
            most_buffered: AtomicUsize::new(limits.buffered_bytes.unwrap_or(usize::MAX)),
            open: AtomicUsize::new(0),
            buffered: AtomicUsize::new(0),
            per_ip: Mutex::default(),
            bucket: Mutex::new(Bucket { tokens, filled: now }),
        }
    }

    /// Other limits from now on. Nobody who is in is put out.
    pub(crate) fn set(&self, limits: Limits, access: AccessList) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = (limits, access);
        self.most_buffered.store(limits.buffered_bytes.unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// Lets a client in, who is to [`leave`](Self::leave) when it goes, or says what is full.
    pub(crate) fn enter(&self, peer: &Peer, now: Instant) -> Result<(), TurnedAway> {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        let (limits, access) = &*rules;
        if !access.admits_peer(peer) {
            return Err(TurnedAway::Denied);
        }
        if limits.buffered_bytes.is_some_and(|most| self.buffered.load(Ordering::Relaxed) >= most) {
            return Err(TurnedAway::Buffered);
        }
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let verdict = if limits.connections.is_some_and(|most| before >= most) {
            Err(TurnedAway::Connections)
        } else if !self.has_token(limits.accepts_per_second, now) {
            Err(TurnedAway::Rate)
        } else {
            self.enter_address(limits.connections_per_ip, peer)
        };
        if verdict.is_err() {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
        verdict
    }

    /// Lets a client in who only watches, and is in nobody's way: it needs no place, and has none to leave.
    pub(crate) fn let_watch(&self, peer: &Peer) -> Result<(), TurnedAway> {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        if rules.1.admits_peer(peer) { Ok(()) } else { Err(TurnedAway::Denied) }
    }

    /// Lets a client in who was in already, with another process.
    pub(crate) fn enter_again(&self, peer: &Peer) {
        self.open.fetch_add(1, Ordering::Relaxed);
        let _ = self.enter_address(None, peer);
    }

    pub(crate) fn leave(&self, peer: &Peer) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(address) = peer.ip() {
            let mut per_ip = self.per_ip.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = per_ip.get_mut(&address.ip()) {
                *count -= 1;
                if *count == 0 {
                    per_ip.remove(&address.ip());
                }
            }
        }
    }

    /// A connection keeps more or less than before. `false`: more than there is room for.
    #[inline]
    pub(crate) fn keep(&self, before: usize, after: usize) -> bool {
        if after <= before {
            if after < before {
                self.buffered.fetch_sub(before - after, Ordering::Relaxed);
            }
            return true;
        }
        let sum = self.buffered.fetch_add(after - before, Ordering::Relaxed) + (after - before);
        sum <= self.most_buffered.load(Ordering::Relaxed)
    }

    /// Addresses are counted without a limit too: it may be set later.
    fn enter_address(&self, most: Option<usize>, peer: &Peer) -> Result<(), TurnedAway> {
        let Some(address) = peer.ip() else { return Ok(()) };
        let mut per_ip = self.per_ip.lock().unwrap_or_else(PoisonError::into_inner);
        let count = per_ip.entry(address.ip()).or_default();
        if most.is_some_and(|most| *count >= most) {
            return Err(TurnedAway::PerIp);
        }
        *count += 1;
        Ok(())
    }

    fn has_token(&self, rate: Option<u32>, now: Instant) -> bool {
        let Some(rate) = rate else { return true };
        let rate = f64::from(rate);
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(bucket.filled).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * rate).min(rate);
        bucket.filled = bucket.filled.max(now);
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn peer(last: u8) -> Peer {
        Peer::from(std::net::SocketAddr::from(([127, 0, 0, last], 1)))
    }

    #[test]
    fn a_place_is_free_again_when_a_client_leaves() {
        let now = Instant::now();
        let gate = Gate::new(Limits { connections: Some(2), ..Limits::default() }, AccessList::default(), now);
        assert_eq!([1, 2, 3].map(|_| gate.enter(&peer(1), now)), [Ok(()), Ok(()), Err(TurnedAway::Connections)]);
        gate.leave(&peer(1));
        assert_eq!(gate.enter(&peer(1), now), Ok(()));
    }

    #[test]
    fn each_address_has_places_of_its_own_and_leaves_nothing_behind() {
        let now = Instant::now();
        let gate = Gate::new(Limits { connections_per_ip: Some(1), ..Limits::default() }, AccessList::default(), now);
        assert_eq!(gate.enter(&peer(1), now), Ok(()));
        assert_eq!(gate.enter(&peer(1), now), Err(TurnedAway::PerIp));
        assert_eq!(gate.enter(&peer(2), now), Ok(()));
        assert_eq!([1, 2].map(|_| gate.enter(&Peer::UNIX, now)), [Ok(()), Ok(())]);
        gate.leave(&peer(1));
        gate.leave(&peer(2));
        assert!(gate.per_ip.lock().unwrap().is_empty());
        assert_eq!(gate.open.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_rate_lets_in_a_burst_of_a_second_and_then_one_by_one() {
        let start = Instant::now();
        let gate =
            Gate::new(Limits { accepts_per_second: Some(10), ..Limits::default() }, AccessList::default(), start);
        let let_in = |now| (0..30).filter(|_| gate.enter(&peer(1), now).is_ok()).count();
        assert_eq!(let_in(start), 10);
        assert_eq!(let_in(start + Duration::from_millis(250)), 2);
        assert_eq!(let_in(start + Duration::from_secs(100)), 10);
    }

    #[test]
    fn what_is_kept_is_bounded_for_all_together() {
        let now = Instant::now();
        let gate = Gate::new(Limits { buffered_bytes: Some(100), ..Limits::default() }, AccessList::default(), now);
        assert!(gate.keep(0, 60));
        assert!(gate.keep(0, 40));
        assert_eq!(gate.enter(&peer(1), now), Err(TurnedAway::Buffered));
        assert!(!gate.keep(40, 41));
        assert!(gate.keep(41, 0));
        assert_eq!(gate.enter(&peer(1), now), Ok(()));
    }
}
