//! The connection table: values by [`Token`], a slot and the generation of its owner.
//!
//! An event that was fetched before its connection was closed carries the old generation. The table does not know that
//! token any more, whoever has the slot now (lab: `stale-event-in-batch`, `fd-number-reuse`). No hash, no search: a
//! look-up is an index and one comparison.

use crate::limits::{SLOTS_MAX, SLOTS_PER_CHUNK};

/// Names one value of one [`Slab`], for ever: a token is never given out twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token {
    generation: u32,
    slot: u32,
}

impl Token {
    /// The token as the 64 bits that `epoll_ctl(2)` keeps and `epoll_wait(2)` returns.
    #[inline]
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.slot as u64
    }

    /// The token that [`to_bits`](Self::to_bits) was made of. Any number is harmless: one that was never given out is
    /// unknown to the table.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self { generation: (bits >> 32) as u32, slot: bits as u32 }
    }

    /// The index in the table; two connections may have it one after the other.
    #[inline]
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.slot
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

#[derive(Debug)]
struct Slot<T> {
    /// Of the value that is here, or of the next one. Raised by `remove` alone.
    generation: u32,
    value: Option<T>,
}

/// A table whose values are found by [`Token`].
///
/// It grows by chunks that never move: no copy of all connections when one more comes, and no memory that only a
/// smaller table had needed.
#[derive(Debug)]
pub struct Slab<T> {
    chunks: Vec<Vec<Slot<T>>>,
    /// Slots that there are, in all chunks; all but the last chunk are full.
    slots: usize,
    free: Vec<u32>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Slab<T> {
    /// An empty table; it allocates with the first value.
    #[must_use]
    pub const fn new() -> Self {
        Self { chunks: Vec::new(), slots: 0, free: Vec::new(), len: 0 }
    }

    /// How many values there are.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no value.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The token that the next [`insert`](Self::insert) will give; `None` if the table is full
    /// ([`SLOTS_MAX`] values).
    #[must_use]
    pub fn next_token(&self) -> Option<Token> {
        match self.free.last() {
            Some(&slot) => self.slot(slot).map(|entry| Token { generation: entry.generation, slot }),
            None if self.slots < SLOTS_MAX as usize => Some(Token { generation: 0, slot: self.slots as u32 }),
            None => None,
        }
    }

    /// Puts a value in and names it. Gives the value back if the table is full.
    ///
    /// # Errors
    /// The value itself, if there are [`SLOTS_MAX`] already.
    pub fn insert(&mut self, value: T) -> Result<Token, T> {
        let Some(token) = self.next_token() else { return Err(value) };
        match self.free.pop().and_then(|slot| self.slot_mut(slot)) {
            Some(slot) => slot.value = Some(value),
            None => self.push(value),
        }
        self.len += 1;
        Ok(token)
    }

    /// The value that the token names, if it is still there.
    #[inline]
    #[must_use]
    pub fn get(&self, token: Token) -> Option<&T> {
        let slot = self.slot(token.slot)?;
        if slot.generation == token.generation { slot.value.as_ref() } else { None }
    }

    /// The value that the token names, if it is still there.
    #[inline]
    #[must_use]
    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        let slot = self.slot_mut(token.slot)?;
        if slot.generation == token.generation { slot.value.as_mut() } else { None }
    }

    /// Takes the value out; its token is dead from now on.
    pub fn remove(&mut self, token: Token) -> Option<T> {
        let slot = self.slot_mut(token.slot).filter(|slot| slot.generation == token.generation)?;
        let value = slot.value.take()?;
        // A slot whose generations are used up is never used again: a slot lost, no token given out twice.
        if let Some(generation) = slot.generation.checked_add(1) {
            slot.generation = generation;
            self.free.push(token.slot);
        }
        self.len -= 1;
        Some(value)
    }

    #[inline]
    fn slot(&self, slot: u32) -> Option<&Slot<T>> {
        self.chunks.get(slot as usize / SLOTS_PER_CHUNK)?.get(slot as usize % SLOTS_PER_CHUNK)
    }

    #[inline]
    fn slot_mut(&mut self, slot: u32) -> Option<&mut Slot<T>> {
        self.chunks.get_mut(slot as usize / SLOTS_PER_CHUNK)?.get_mut(slot as usize % SLOTS_PER_CHUNK)
    }

    /// Puts a value into a slot that has never been used.
    fn push(&mut self, value: T) {
        if self.slots.is_multiple_of(SLOTS_PER_CHUNK) {
            self.chunks.push(Vec::with_capacity(SLOTS_PER_CHUNK));
        }
        self.slots += 1;
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.push(Slot { generation: 0, value: Some(value) });
        }
    }

    /// The token of what is in this slot now, if anything is.
    #[inline]
    #[must_use]
    pub fn token_at(&self, slot: u32) -> Option<Token> {
        let entry = self.slot(slot)?;
        entry.value.as_ref().map(|_| Token { generation: entry.generation, slot })
    }

    /// All tokens, in the order of the slots.
    pub fn tokens(&self) -> impl Iterator<Item = Token> + '_ {
        (0..self.slots as u32).filter_map(|slot| self.token_at(slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_dead_after_remove_even_when_the_slot_has_a_new_owner() {
        let mut slab = Slab::new();
        let old = slab.insert("old").unwrap();
        assert_eq!(slab.remove(old), Some("old"));
        let new = slab.insert("new").unwrap();
        assert_eq!(new.slot(), old.slot());
        assert_eq!(slab.get(old), None);
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.get(new), Some(&"new"));
    }

    #[test]
    fn a_million_close_and_reuse_rounds_never_bring_a_stale_token_to_a_new_owner() {
        // A plain xorshift: the rounds must be many, not unpredictable.
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        let mut draw = |below: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % below as u64) as usize
        };
        let mut slab = Slab::new();
        let mut live: Vec<(Token, u64)> = Vec::new();
        let mut dead: Vec<Token> = Vec::new();
        // Miri is a thousand times slower.
        let rounds = if cfg!(miri) { 1_000 } else { 1_000_000_u64 };
        for round in 0..rounds {
            if live.len() < 32 && draw(2) == 0 {
                let token = slab.insert(round).unwrap();
                live.push((token, round));
            } else if !live.is_empty() {
                let (token, value) = live.swap_remove(draw(live.len()));
                assert_eq!(slab.remove(token), Some(value));
                if dead.len() < 256 {
                    dead.push(token);
                } else {
                    let at = draw(256);
                    dead[at] = token;
                }
            }
            if let Some(&stale) = dead.get(draw(dead.len().max(1))) {
                assert_eq!(slab.get(stale), None, "round {round}: {stale} reached a new owner");
                assert_eq!(Token::from_bits(stale.to_bits()), stale);
            }
            assert_eq!(slab.len(), live.len());
        }
        for (token, value) in live {
            assert_eq!(slab.get(token), Some(&value));
        }
    }

    #[test]
    fn a_slot_whose_generations_are_used_up_is_retired() {
        let mut slab = Slab::new();
        let first = slab.insert(1).unwrap();
        slab.remove(first);
        slab.chunks[0][0].generation = u32::MAX;
        let last = slab.insert(2).unwrap();
        assert_eq!(last.slot(), first.slot());
        slab.remove(last);
        assert_eq!(slab.get(last), None);
        let next = slab.insert(3).unwrap();
        assert_ne!(next.slot(), last.slot());
    }

    #[test]
    fn a_table_of_many_chunks_finds_everything() {
        let mut slab = Slab::new();
        let many = if cfg!(miri) { SLOTS_PER_CHUNK + 2 } else { 3 * SLOTS_PER_CHUNK + 2 };
        let tokens: Vec<Token> = (0..many).map(|value| slab.insert(value).unwrap()).collect();
        assert!(tokens.iter().enumerate().all(|(value, &token)| slab.get(token) == Some(&value)));
        assert!(slab.tokens().eq(tokens.iter().copied()));
        assert_eq!(slab.get(Token::from_bits(many as u64)), None);
    }

    #[test]
    fn any_bits_make_a_harmless_token() {
        let mut slab = Slab::new();
        slab.insert(()).unwrap();
        for bits in [1, u64::MAX, 1 << 32, u64::from(SLOTS_MAX)] {
            assert_eq!(slab.get(Token::from_bits(bits)), None);
        }
    }
}
