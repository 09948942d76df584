//! Deadlines, one for each connection, O(1) to set, move and clear.
//!
//! A hierarchical timing wheel of milliseconds (Varghese and Lauck, 1987): six levels of 64 slots reach 2.2 years. What
//! is further away waits in the last slot and is put where it belongs when its turn comes. Each slot remembers its
//! earliest deadline, so the loop sleeps exactly until something is due: an idle server is not woken to turn a wheel.
//!
//! Time is passed in and never read here. A deadline is rounded up to the next millisecond: it may come late, never
//! early.

use std::time::{Duration, Instant};

const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 6;
/// Milliseconds that the wheel spans.
const SPAN: u64 = 1 << (SLOT_BITS as usize * LEVELS);
/// No neighbour in a list; not in a list.
const NONE: u32 = u32::MAX;
const NOWHERE: u16 = (1 << PLACE_BITS) - 1;
const PLACE_BITS: u32 = 10;
/// The latest that a deadline can be, in milliseconds: half a million years.
const DUE_MAX: u64 = u64::MAX >> PLACE_BITS;

#[derive(Debug, Clone, Copy)]
struct Node {
    /// Milliseconds since the origin at which this key is due, above the slot of the wheel that it is in, or `NOWHERE`:
    /// together, for 16 bytes a node.
    due_and_place: u64,
    previous: u32,
    next: u32,
}

const _: () = assert!(size_of::<Node>() == 16 && SLOTS * LEVELS < NOWHERE as usize);

const IDLE: Node = Node::new(0, NOWHERE, NONE);

impl Node {
    const fn new(due: u64, place: u16, next: u32) -> Self {
        Self { due_and_place: due << PLACE_BITS | place as u64, previous: NONE, next }
    }

    const fn due(self) -> u64 {
        self.due_and_place >> PLACE_BITS
    }

    const fn place(self) -> u16 {
        self.due_and_place as u16 & NOWHERE
    }
}

/// A deadline for each of many small numbers (slots of the connection table).
#[derive(Debug)]
pub struct Deadlines {
    origin: Instant,
    /// Milliseconds since the origin at the last `expire`.
    elapsed: u64,
    nodes: Vec<Node>,
    heads: Box<[u32; SLOTS * LEVELS]>,
    /// No later than the earliest deadline of the slot; earlier only after that one was cleared.
    earliest: Box<[u64; SLOTS * LEVELS]>,
    occupied: [u64; LEVELS],
    armed: usize,
}

impl Deadlines {
    /// No deadlines, as of `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            origin: now,
            elapsed: 0,
            nodes: Vec::new(),
            heads: Box::new([NONE; SLOTS * LEVELS]),
            earliest: Box::new([u64::MAX; SLOTS * LEVELS]),
            occupied: [0; LEVELS],
            armed: 0,
        }
    }

    /// How many deadlines are set.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.armed
    }

    /// Whether no deadline is set.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.armed == 0
    }

    /// Whether this key has a deadline.
    #[must_use]
    pub fn is_set(&self, key: u32) -> bool {
        self.nodes.get(key as usize).is_some_and(|node| node.place() != NOWHERE)
    }

    /// When this key is due, if it has a deadline.
    #[must_use]
    pub fn get(&self, key: u32) -> Option<Instant> {
        let node = self.nodes.get(key as usize).filter(|node| node.place() != NOWHERE)?;
        self.origin.checked_add(Duration::from_millis(node.due()))
    }

    /// Sets or moves the deadline of `key`. One that has passed already is due at the next [`expire`](Self::expire).
    pub fn set(&mut self, key: u32, at: Instant) {
        let due = self.round_up(at);
        if key as usize >= self.nodes.len() {
            self.nodes.resize(key as usize + 1, IDLE);
        }
        if self.nodes[key as usize].place() == NOWHERE {
            self.armed += 1;
        } else {
            self.unlink(key);
        }
        self.link(key, due);
    }

    /// Clears the deadline of `key`, if it has one.
    pub fn clear(&mut self, key: u32) {
        if self.is_set(key) {
            self.unlink(key);
            self.armed -= 1;
        }
    }

    /// How long to sleep from `now` until the first deadline; `None` if there is none.
    #[must_use]
    pub fn next(&self, now: Instant) -> Option<Duration> {
        let (_, due) = self.first()?;
        Some((self.origin + Duration::from_millis(due)).saturating_duration_since(now))
    }

    /// Takes out every key whose deadline has come, and appends it to `due`.
    pub fn expire(&mut self, now: Instant, due: &mut Vec<u32>) {
        if self.armed == 0 {
            return;
        }
        let millis = u64::try_from(now.saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX);
        let present = self.elapsed.max(millis);
        while let Some((place, earliest)) = self.first() {
            if earliest > present {
                break;
            }
            // Slot by slot, not in one leap: what is put back must not come before an older slot of the same level.
            self.elapsed = self.elapsed.max(earliest);
            self.empty(place, present, due);
        }
        self.elapsed = present;
    }

    /// Empties one slot: what is due goes out, the rest goes where it belongs by now.
    fn empty(&mut self, place: usize, present: u64, due: &mut Vec<u32>) {
        let mut key = std::mem::replace(&mut self.heads[place], NONE);
        self.earliest[place] = u64::MAX;
        self.occupied[place / SLOTS] &= !(1 << (place % SLOTS));
        while key != NONE {
            let node = std::mem::replace(&mut self.nodes[key as usize], IDLE);
            if node.due() <= present {
                self.armed -= 1;
                due.push(key);
            } else {
                self.link(key, node.due());
            }
            key = node.next;
        }
    }

    /// The slot with the earliest deadline. On each level that is the first one that is occupied: what is on a level
    /// shares all higher digits with the present, so its slots are in the order of time.
    fn first(&self) -> Option<(usize, u64)> {
        (0..LEVELS)
            .filter(|&level| self.occupied[level] != 0)
            .map(|level| level * SLOTS + self.occupied[level].trailing_zeros() as usize)
            .map(|place| (place, self.earliest[place]))
            .min_by_key(|&(_, earliest)| earliest)
    }

    fn round_up(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.origin).as_nanos();
        u64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(DUE_MAX).min(DUE_MAX)
    }

    fn link(&mut self, key: u32, due: u64) {
        // What is past goes into the slot of the present; what is too far away into the last one of the wheel, to be
        // looked at again when the wheel has come round.
        let end = self.elapsed | (SPAN - 1);
        let position = due.clamp(self.elapsed, end);
        let wake = due.min(end + 1);
        let differing = (position ^ self.elapsed) | (SLOTS as u64 - 1);
        let level = ((63 - differing.leading_zeros()) / SLOT_BITS) as usize;
        let slot = (position >> (SLOT_BITS as usize * level)) as usize % SLOTS;
        let place = level * SLOTS + slot;
        let head = std::mem::replace(&mut self.heads[place], key);
        if head != NONE {
            self.nodes[head as usize].previous = key;
        }
        self.nodes[key as usize] = Node::new(due, place as u16, head);
        self.earliest[place] = self.earliest[place].min(wake);
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, key: u32) {
        let node = std::mem::replace(&mut self.nodes[key as usize], IDLE);
        let place = node.place() as usize;
        match node.previous {
            NONE => self.heads[place] = node.next,
            previous => self.nodes[previous as usize].next = node.next,
        }
        if node.next != NONE {
            self.nodes[node.next as usize].previous = node.previous;
        }
        if self.heads[place] == NONE {
            self.earliest[place] = u64::MAX;
            self.occupied[place / SLOTS] &= !(1 << (place % SLOTS));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_loop_sleeps_exactly_until_the_first_deadline() {
        let start = Instant::now();
        let mut deadlines = Deadlines::new(start);
        assert_eq!(deadlines.next(start), None);
        // One on each level: a wheel that had to be turned would wake at 64, 4096, …
        for (key, at) in [(0, 63), (1, 4000), (2, 250_000), (3, 16_000_000), (4, 1_000_000_000)] {
            deadlines.set(key, start + ms(at));
        }
        let mut wakes = Vec::new();
        let mut now = start;
        while let Some(sleep) = deadlines.next(now) {
            now += sleep;
            let mut due = Vec::new();
            deadlines.expire(now, &mut due);
            wakes.push(((now - start).as_millis() as u64, due));
        }
        assert_eq!(
            wakes,
            [(63, vec![0]), (4000, vec![1]), (250_000, vec![2]), (16_000_000, vec![3]), (1_000_000_000, vec![4])]
        );
    }

    #[test]
    fn a_deadline_never_comes_early() {
        let start = Instant::now();
        let mut deadlines = Deadlines::new(start);
        deadlines.set(7, start + Duration::from_nanos(1_000_001));
        let mut due = Vec::new();
        deadlines.expire(start + Duration::from_nanos(1_999_999), &mut due);
        assert!(due.is_empty());
        deadlines.expire(start + ms(2), &mut due);
        assert_eq!(due, [7]);
    }

    #[test]
    fn a_deadline_beyond_the_wheel_comes_in_its_time() {
        let start = Instant::now();
        let mut deadlines = Deadlines::new(start);
        let far = ms(3 * SPAN + 5);
        deadlines.set(1, start + far);
        let (mut now, mut due) = (start, Vec::new());
        while let Some(sleep) = deadlines.next(now) {
            now += sleep;
            deadlines.expire(now, &mut due);
            assert!(due.is_empty() || now >= start + far);
        }
        assert_eq!((due, now), (vec![1], start + far));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Set(u32, u64),
        Clear(u32),
        Pass(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let span = prop_oneof![0..100_u64, 0..10_000_u64, 0..100_000_000_u64];
        let step = prop_oneof![
            3 => (0..40_u32, span.clone()).prop_map(|(key, at)| Step::Set(key, at)),
            1 => (0..40_u32).prop_map(Step::Clear),
            2 => span.prop_map(Step::Pass),
        ];
        // Miri is some 1,000 times slower: a minute for 200.
        proptest::collection::vec(step, 1..if cfg!(miri) { 50 } else { 200 })
    }

    proptest! {
        #[test]
        fn it_does_what_a_sorted_list_does(steps in steps()) {
            let start = Instant::now();
            let mut now = start;
            let mut deadlines = Deadlines::new(start);
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Set(key, after) => {
                        deadlines.set(key, now + ms(after));
                        model.insert(key, now + ms(after));
                    }
                    Step::Clear(key) => {
                        deadlines.clear(key);
                        model.remove(&key);
                    }
                    Step::Pass(time) => {
                        now += ms(time);
                        let mut due = Vec::new();
                        deadlines.expire(now, &mut due);
                        due.sort_unstable();
                        let expected: Vec<u32> =
                            model.iter().filter(|(_, at)| **at <= now).map(|(key, _)| *key).collect();
                        prop_assert_eq!(&due, &expected);
                        model.retain(|_, at| *at > now);
                    }
                }
                prop_assert_eq!(deadlines.len(), model.len());
                if let Some(first) = model.values().min() {
                    prop_assert!(now + deadlines.next(now).expect("one is set") <= (*first).max(now));
                }
            }
        }
    }
}
