//! Every bound and budget of the library, in one place.
//!
//! A name carries its unit. A bound is hard: what would pass it is refused, closed or made to wait. A budget is fair:
//! what would pass it is taken up again in the next turn, after everybody else.

/// Bytes that one `recv(2)` may take, and the size of the one receive buffer that a worker has for all connections.
///
/// More than 64 KiB, so that a message of 64 KiB is a short read, which ends an edge-triggered drain without a `recv`
/// that only hears EAGAIN, and so that a frame of that size comes with its header in one piece and is answered without
/// a copy: server CPU for such frames fell by a tenth against a buffer of 64 KiB (docs, "Measurements").
pub const READ_BUFFER_BYTES: usize = 128 * 1024;

/// Unconsumed input, in bytes, from which on more is received right behind it, without a copy. Below, it goes through
/// the shared buffer first, so that a client that sends little has only that little memory taken.
pub const LONG_INPUT_BYTES: usize = 16 * 1024;

/// Bytes that one connection may move, in or out, before the others have their turn.
///
/// Two receive buffers: a message of exactly [`READ_BUFFER_BYTES`] is drained (one full read, one that hears EAGAIN)
/// without a detour through the run queue, and a flooding client holds a neighbour up for some tens of microseconds.
pub const TURN_BUDGET_BYTES: usize = 2 * READ_BUFFER_BYTES;

/// Connections that a listener may accept in one turn before the connections that are there have theirs.
pub const ACCEPT_BUDGET: usize = 64;

/// Connections that a worker may have more than the one with the fewest before it hands a new one on. With a shared
/// listener the first worker that sleeps gets nearly all of them (lab: `exclusive-is-not-fair`); handing on costs a
/// wake-up of the other, so a small difference is left alone.
pub const LOAD_SLACK: usize = 2;

/// Events that one `epoll_wait(2)` may return (12 bytes each on x86-64). More wait in the kernel's ready list, which
/// rotates: nobody starves (lab: `maxevents-round-robin`).
pub const EVENTS_PER_WAIT: usize = 1024;

/// Waits that may fail in a row, for a reason that `epoll_wait(2)` does not know, before the server gives up.
pub const WAIT_FAILURES_MAX: u32 = 16;

/// Unsent bytes of a connection at which its input is no longer read: TCP then holds the client back.
pub const OUTPUT_HIGH_WATER_BYTES: usize = 64 * 1024;

/// Unsent bytes at which a connection that was held back is read again. Half of the high-water mark, so that a client
/// that reads in small steps does not switch the interest at every step.
pub const OUTPUT_LOW_WATER_BYTES: usize = OUTPUT_HIGH_WATER_BYTES / 2;

/// Unsent bytes that other threads may pile up on one connection ([`Handle::send`](crate::Handle::send),
/// [`Handle::broadcast`](crate::Handle::broadcast)); a client that falls further behind is closed.
pub const OUTPUT_LIMIT_BYTES: usize = 1024 * 1024;

/// Unconsumed input bytes that the loop keeps for a service that does not say otherwise
/// ([`Service::input_limit`](crate::Service::input_limit)).
pub const INPUT_LIMIT_BYTES: usize = 128 * 1024;

/// Largest payload of a frame, in bytes, if the user does not say otherwise.
pub const MAX_FRAME_BYTES: usize = 1024 * 1024;

/// Longest header of the PROXY protocol, in bytes, with what is in it besides addresses. The addresses take 232 bytes
/// at the most; names and certificates of a TLS client some hundred more.
pub const PROXY_HEADER_MAX_BYTES: usize = 4096;

/// Messages that may wait in the mailbox of one worker; a sender beyond that is told that it is full.
pub const MAILBOX_MESSAGES: usize = 65_536;

/// Messages that a worker takes out of its mailbox in one turn.
pub const MAILBOX_BUDGET: usize = 1024;

/// Bytes of capacity that the shared output buffer of a worker may keep between turns.
pub const STAGE_KEEP_BYTES: usize = 256 * 1024;

/// Milliseconds for which a connection that we have ended goes on being read, so that the client gets our last bytes
/// and a FIN, not a reset (RFC 2525, 2.17; lab: `close-with-unread-input-sends-rst`).
pub const LINGER_MS: u64 = 1000;

/// Milliseconds for which a listener rests when descriptors or memory have run out. It is also woken when a connection
/// of the same worker closes. Ten tries a second cost no CPU worth the name.
pub const ACCEPT_PAUSE_MS: u64 = 100;

/// Milliseconds without a byte after which a draining server takes it that a client has got everything that was due.
pub const DRAIN_QUIET_MS: u64 = 100;

/// Seconds that a draining server waits for its clients, if the user does not say otherwise.
pub const DRAIN_TIMEOUT_SECONDS: u64 = 5;

/// Worker threads at the most. A worker more than the machine has processors is of no use.
pub const WORKERS_MAX: usize = 1024;

/// Slots that a connection table grows by. A power of two; 1,024 connections take some 112 KiB, of which only what is
/// used is in memory.
pub const SLOTS_PER_CHUNK: usize = 1024;

/// Listeners whose connections are counted apart from those of the others; the last one of them stands for all that
/// come behind it. A few KiB for each worker.
pub const LISTENERS_COUNTED: usize = 32;

/// Listeners of a server at the most, in all its life: a connection notes the index of its own in 16 bits.
pub const LISTENERS_MAX: usize = 1 << 16;

/// Slots of a connection table at the most; above are the tokens of listeners and the waker.
pub const SLOTS_MAX: u32 = 1 << 31;

/// Milliseconds for a TCP pair on the loopback: it takes microseconds, unless somebody floods.
pub const PAIR_TIMEOUT_MS: u64 = 5000;

/// Milliseconds for one listener of such a pair. Shorter than the second after which a SYN that was dropped is sent
/// again: a new listener, which no stranger knows yet, is faster.
pub const PAIR_ATTEMPT_MS: u64 = 250;

/// The accept queue of such a listener: so many strangers can be faster and nothing is dropped yet.
pub const PAIR_BACKLOG: i32 = 128;

/// Events that one thread of a [`Port`](crate::completion::Port) takes at once. Few: what it has taken waits for
/// it first of all.
pub const COMPLETION_EVENTS_PER_WAIT: usize = 16;

/// Completions that threads take from a full queue before one of them asks the kernel: whoever keeps the queue full,
/// by posts or by a socket that always has more, must not keep the events of the others waiting.
pub const COMPLETIONS_BETWEEN_POLLS: u32 = 64;

/// Lanes of a completion port, in which threads leave completions: as many threads do not meet at one lock.
pub const COMPLETION_LANES: usize = 8;

/// Of so many completions that a thread takes, one is from another lane than its own, if there is any: what a thread
/// has left that does not come back must not wait for as long as others are busy.
pub const COMPLETIONS_BETWEEN_LOOKS: usize = 64;

/// Posts that may wait in a completion port; beyond that, `post` refuses.
pub const COMPLETION_POSTS_MAX: usize = 65_536;

/// Timers that a completion port may have.
pub const COMPLETION_TIMERS_MAX: usize = 1 << 20;

/// Parts of a completion port's connection table, each with a lock of its own, so that threads seldom meet at one.
pub const COMPLETION_SHARDS: usize = 16;

const _: () = assert!(OUTPUT_LOW_WATER_BYTES < OUTPUT_HIGH_WATER_BYTES);
const _: () = assert!(OUTPUT_HIGH_WATER_BYTES < OUTPUT_LIMIT_BYTES);
const _: () = assert!(TURN_BUDGET_BYTES > READ_BUFFER_BYTES);
const _: () = assert!(INPUT_LIMIT_BYTES >= READ_BUFFER_BYTES);
const _: () = assert!(PROXY_HEADER_MAX_BYTES <= READ_BUFFER_BYTES);
const _: () = assert!(SLOTS_PER_CHUNK.is_power_of_two());
const _: () = assert!(MAILBOX_BUDGET <= MAILBOX_MESSAGES);
const _: () = assert!(DRAIN_QUIET_MS < DRAIN_TIMEOUT_SECONDS * 1000);
const _: () = assert!(PAIR_ATTEMPT_MS < PAIR_TIMEOUT_MS);
const _: () = assert!(COMPLETION_SHARDS.is_power_of_two());
