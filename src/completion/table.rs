//! The sockets of a port, by name: found by an index and a comparison, without a hash, by any thread.

use super::limits::{COMPLETION_SHARDS, SLOTS_MAX};
use super::operation::SocketId;
use super::sync::atomic::{AtomicUsize, Ordering};
use super::sync::{Arc, Mutex, MutexGuard, PoisonError};
use crate::slab::{Slab, Token};

/// Slots that one shard can have, so that all names of all shards differ and stay below the port's own tokens.
const SLOTS_PER_SHARD: u32 = SLOTS_MAX / COMPLETION_SHARDS as u32;

/// Aligned, so that locks of two shards are not in one line of a processor's cache.
#[derive(Debug)]
#[repr(align(128))]
struct Shard<T>(Mutex<Slab<Arc<T>>>);

/// Each shard has a lock of its own, held for a look-up. What is in the table is shared: an event that is being worked
/// on keeps its socket's entry, and finds it closed.
#[derive(Debug)]
pub(super) struct Table<T> {
    shards: [Shard<T>; COMPLETION_SHARDS],
    /// Where the next one goes.
    next: AtomicUsize,
}

impl<T> Table<T> {
    pub(super) fn new() -> Self {
        Self { shards: std::array::from_fn(|_| Shard(Mutex::new(Slab::new()))), next: AtomicUsize::new(0) }
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Slab<Arc<T>>> {
        self.shards[shard % COMPLETION_SHARDS].0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts in what `make` makes of its name, if `admit` says so under the lock. `None`: it did not, or there is no
    /// room.
    pub(super) fn insert(&self, admit: impl FnOnce() -> bool, make: impl FnOnce(SocketId) -> T) -> Option<Arc<T>> {
        let shard = self.next.fetch_add(1, Ordering::Relaxed) % COMPLETION_SHARDS;
        let mut slab = self.lock(shard);
        let token = slab.next_token().filter(|token| token.slot() < SLOTS_PER_SHARD && admit())?;
        let entry = Arc::new(make(name(token, shard)));
        slab.insert(Arc::clone(&entry)).ok()?;
        Some(entry)
    }

    pub(super) fn get(&self, id: SocketId) -> Option<Arc<T>> {
        let (token, shard) = place(id);
        self.lock(shard).get(token).cloned()
    }

    pub(super) fn remove(&self, id: SocketId) -> Option<Arc<T>> {
        let (token, shard) = place(id);
        self.lock(shard).remove(token)
    }

    /// Takes out all that are there now.
    pub(super) fn drain(&self) -> Vec<Arc<T>> {
        let mut all = Vec::new();
        for shard in 0..COMPLETION_SHARDS {
            let mut slab = self.lock(shard);
            let tokens: Vec<Token> = slab.tokens().collect();
            all.extend(tokens.into_iter().filter_map(|token| slab.remove(token)));
        }
        all
    }
}

/// The name of what a shard knows by `token`: the shard is in the lowest bits of the slot.
fn name(token: Token, shard: usize) -> SocketId {
    let bits = token.to_bits();
    let generation = bits & !u64::from(u32::MAX);
    let slot = u64::from(token.slot()) * COMPLETION_SHARDS as u64 + shard as u64;
    SocketId(Token::from_bits(generation | slot))
}

fn place(SocketId(token): SocketId) -> (Token, usize) {
    let generation = token.to_bits() & !u64::from(u32::MAX);
    let slot = token.slot() / COMPLETION_SHARDS as u32;
    (Token::from_bits(generation | u64::from(slot)), token.slot() as usize % COMPLETION_SHARDS)
}
