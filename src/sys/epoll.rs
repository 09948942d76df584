//! epoll: three system calls, their flags, and what they refuse.
//!
//! What the calls get wrong, or leave to the caller, and what this file does about it. The names in
//! code type are experiments of the lab, which run on the reader's own kernel.
//!
//! - a. A typing error in the mask passes in silence: the kernel accepts unknown bits
//!   (`ctl-unknown-bits-accepted`). [`Interest`] and [`Mode`] hold only bits that exist.
//! - b. The one check there is, that of EPOLLEXCLUSIVE, answers EINVAL like five other mistakes
//!   (`exclusive-einval-set`, `ctl-einval-set`). [`Error::ExclusiveCombination`] says which one it was.
//! - c. A registration belongs to the open file description, not to the number. While a duplicate
//!   lives, `close` removes nothing, and the number can no longer be used for a delete
//!   (`close-with-dup-ghost`, `ctl-ebadf-after-close`). Hence: [`Epoll::delete`] first, then close.
//! - d. An event in a batch may speak of a file that the batch's earlier events have closed
//!   (`stale-event-in-batch`, `fd-number-reuse`). The kernel hands back `data` bit for bit
//!   (`data-is-opaque`): put a token with a generation there, never a descriptor's number.
//! - e. A mask of nothing is not silence: ERR and HUP are reported whatever was asked
//!   (`mask-zero-still-reports-hup-err`), except by a ONESHOT registration that has fired, which hides
//!   even these (`oneshot-silences-hup-and-err`).
//! - f. Bits are states at harvest, several at once (`mask-is-state-at-harvest`): never compare with
//!   `==`. [`Event::should_read`] and [`Event::should_write`] fold ERR and HUP in one place.
//! - g. An edge is told once (`et-reports-once`). Whoever does not read to EAGAIN waits for ever
//!   (`et-partial-read-stalls`), and on a blocking socket reading to EAGAIN freezes the thread
//!   (`blocking-drain-loop-freezes`). [`Error::BlockingEdge`] refuses the pair.
//! - h. `epoll_wait` counts in milliseconds: 0.9 ms cut down to 0 is a busy loop
//!   (`ms-truncation-spins`), and any negative number means for ever (`timeout-values`).
//!   [`Timeout`] cannot be negative and is rounded up, or waits in nanoseconds by `epoll_pwait2`
//!   (`pwait2-nanoseconds`), whose arguments are checked by other rules (`pwait2-arguments`,
//!   `sigsetsize-must-be-8`).
//! - i. Every handled signal ends a wait with EINTR, SA_RESTART or not (`signal-interrupts`).
//!   [`Epoll::wait`] answers with an empty batch. The timeout starts anew with the next call
//!   (`timeout-is-relative-per-call`): keep deadlines, compute timeouts from them.
//! - j. `struct epoll_event` is packed on x86-64, so `data` is misaligned (`event-struct-is-packed`):
//!   [`Event`] gives copies, never references.
//! - k. After fork, parent and child share one interest list (`fork-shares-the-set`): create the
//!   [`Epoll`] in the process that uses it.
//! - l. Closing the epoll wakes nobody who waits in it (`closing-epfd-does-not-wake`), nor does closing
//!   a watched file (`close-does-not-wake-waiters`): wake a loop through an eventfd.

use std::fmt;
use std::io;
use std::mem::{self, MaybeUninit};
use std::ops::{BitOr, BitOrAssign};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::SockRef;

use super::check;
use super::net::NonBlocking;

/// What the kernel refused, or what was refused before it could be asked.
///
/// Small and `Copy`; [`errno`](Self::errno) keeps the kernel's number, and `io::Error::from(error)`
/// keeps kind and message.
///
/// # References
/// `epoll_create(2)`, `epoll_ctl(2)` and `epoll_wait(2)`, ERRORS; Linux `fs/eventpoll.c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// EEXIST: this descriptor is in this epoll already. The old registration is untouched.
    #[error("already registered in this epoll: use modify to change it (EEXIST)")]
    AlreadyRegistered,
    /// ENOENT: this descriptor is not in this epoll.
    #[error("not registered in this epoll: use add first, and delete only once (ENOENT)")]
    NotRegistered,
    /// EPERM: a regular file, a directory, `/dev/null` or a memfd. Such files never block.
    #[error(
        "this file cannot be polled (regular file, directory, /dev/null): it is always ready, read or write it directly (EPERM)"
    )]
    NotPollable,
    /// EINVAL: the epoll itself was to be watched in itself, an exclusive registration was to be
    /// modified, an epoll was to be watched exclusively, or too many epolls watch one another.
    #[error(
        "refused by the kernel: do not add an epoll to itself, delete and add an exclusive registration instead of modifying it, watch another epoll without exclusive, nest fewer epolls (EINVAL)"
    )]
    Invalid,
    /// ELOOP: an epoll would watch itself through others, or the chain of epolls is too deep.
    #[error("epolls would watch one another in a circle or too deep: nest at most 5, without a circle (ELOOP)")]
    Loop,
    /// ENOSPC: this user has as many registrations, over all epolls, as the system allows.
    #[error("too many registrations of this user: delete some or raise /proc/sys/fs/epoll/max_user_watches (ENOSPC)")]
    WatchLimit,
    /// EBADF: the descriptor is not open, or was opened with O_PATH.
    #[error(
        "not an open file that can be read or written: open it without O_PATH, delete it before closing it (EBADF)"
    )]
    BadDescriptor,
    /// ENOMEM: the kernel has no memory left for this.
    #[error("the kernel has no memory left for this: free some and try again (ENOMEM)")]
    OutOfMemory,
    /// EMFILE: the process has as many descriptors open as RLIMIT_NOFILE allows.
    #[error("this process has too many open files: close some or raise `ulimit -n` (EMFILE)")]
    TooManyFiles,
    /// ENFILE: the whole system has as many files open as it allows.
    #[error("the system has too many open files: close some or raise /proc/sys/fs/file-max (ENFILE)")]
    TooManyFilesInSystem,
    /// Refused here, before the kernel was asked: a blocking socket in edge-triggered mode. Reading
    /// to EAGAIN, as the mode demands, would freeze the thread.
    #[error("a blocking socket cannot be registered edge-triggered, it would stall: set O_NONBLOCK first")]
    BlockingEdge,
    /// Refused here, before the kernel was asked: exclusive with `READ_CLOSED`, `PRIORITY` or
    /// `oneshot`, or exclusive in a modify.
    #[error(
        "exclusive goes with READ, WRITE, LEVEL, EDGE and wakeup only, and only in add: drop READ_CLOSED, PRIORITY and oneshot, or delete and add"
    )]
    ExclusiveCombination,
    /// An errno that the manual does not name for this call.
    #[error(
        "unexpected answer of the kernel, see whether a seccomp filter is in the way: {}",
        io::Error::from_raw_os_error(*.0)
    )]
    Other(i32),
}

impl Error {
    /// The kernel's error number; for what was refused here, EINVAL.
    pub const fn errno(self) -> i32 {
        match self {
            Self::AlreadyRegistered => libc::EEXIST,
            Self::NotRegistered => libc::ENOENT,
            Self::NotPollable => libc::EPERM,
            Self::Invalid | Self::BlockingEdge | Self::ExclusiveCombination => libc::EINVAL,
            Self::Loop => libc::ELOOP,
            Self::WatchLimit => libc::ENOSPC,
            Self::BadDescriptor => libc::EBADF,
            Self::OutOfMemory => libc::ENOMEM,
            Self::TooManyFiles => libc::EMFILE,
            Self::TooManyFilesInSystem => libc::ENFILE,
            Self::Other(errno) => errno,
        }
    }

    #[cold]
    fn from_errno(errno: i32) -> Self {
        match errno {
            libc::EEXIST => Self::AlreadyRegistered,
            libc::ENOENT => Self::NotRegistered,
            libc::EPERM => Self::NotPollable,
            libc::EINVAL => Self::Invalid,
            libc::ELOOP => Self::Loop,
            libc::ENOSPC => Self::WatchLimit,
            libc::EBADF => Self::BadDescriptor,
            libc::ENOMEM => Self::OutOfMemory,
            libc::EMFILE => Self::TooManyFiles,
            libc::ENFILE => Self::TooManyFilesInSystem,
            other => Self::Other(other),
        }
    }
}

impl From<Error> for io::Error {
    /// Keeps the kind of the errno and the message; `get_ref` leads back to the [`Error`].
    fn from(error: Error) -> Self {
        let kind = io::Error::from_raw_os_error(error.errno()).kind();
        io::Error::new(kind, error)
    }
}

/// What a registration wants to hear of. Combine with `|`.
///
/// ERR and HUP are always reported and cannot be asked for.
///
/// # References
/// `epoll_ctl(2)`, "the events member".
#[doc(alias = "epoll_event")]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Interest(u32);

impl Interest {
    /// Nothing but ERR and HUP, which come unasked. Legal; but a level-triggered registration of
    /// `NONE` reports a reset on every wait, so delete what is to be silent.
    pub const NONE: Self = Self(0);
    /// A read would not block: data, the end of the stream, or a connection to accept.
    #[doc(alias = "EPOLLIN")]
    pub const READ: Self = Self(libc::EPOLLIN as u32);
    /// A write would not block. For a stream socket that is true nearly always: ask for it
    /// level-triggered only while a write is pending.
    #[doc(alias = "EPOLLOUT")]
    pub const WRITE: Self = Self(libc::EPOLLOUT as u32);
    /// The peer has shut down its writing half (FIN), also while data before it is still unread.
    #[doc(alias = "EPOLLRDHUP")]
    pub const READ_CLOSED: Self = Self(libc::EPOLLRDHUP as u32);
    /// Something exceptional: TCP urgent data, a change in a cgroup or mount file.
    ///
    /// Code that takes a short read for EAGAIN needs this bit too: a TCP read stops at the urgent mark
    /// with data behind it, and in [`Mode::EDGE`] nothing tells of these again.
    #[doc(alias = "EPOLLPRI")]
    pub const PRIORITY: Self = Self(libc::EPOLLPRI as u32);

    /// True if all of `other` is in `self`. Everything contains [`NONE`](Self::NONE).
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// `self` and `other`, as `|` does, in constants.
    #[inline]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// `self` less what is in `other`.
    #[inline]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The kernel's bits.
    #[inline]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl BitOr for Interest {
    type Output = Self;
    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Interest {
    #[inline]
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Interest({self})")
    }
}

/// The names of the flags, as `IN|OUT`.
impl fmt::Display for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Names(self.0).fmt(f)
    }
}

/// How a registration reports: [`LEVEL`](Self::LEVEL) or [`EDGE`](Self::EDGE), with modifiers.
///
/// There is no default: the choice is visible wherever something is registered.
///
/// # References
/// `epoll(7)`, "Level-triggered and edge-triggered"; `epoll_ctl(2)`, "input flags".
#[doc(alias = "epoll_event")]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mode(u32);

impl Mode {
    /// Reported by every wait for as long as the condition holds.
    pub const LEVEL: Self = Self(0);
    /// Reported when something happens, once. Read and write to EAGAIN, or remember what is left.
    #[doc(alias = "EPOLLET")]
    pub const EDGE: Self = Self(libc::EPOLLET as u32);

    /// Silent after one report, ERR and HUP included, until [`Epoll::modify`] arms it again.
    #[doc(alias = "EPOLLONESHOT")]
    #[must_use]
    pub const fn oneshot(self) -> Self {
        Self(self.0 | libc::EPOLLONESHOT as u32)
    }

    /// When several epolls watch one file, wake at least one of them and not all (Linux 4.5).
    ///
    /// Only in [`Epoll::add`], only with `READ` and `WRITE`, without [`oneshot`](Self::oneshot);
    /// never to be modified: delete and add again.
    #[doc(alias = "EPOLLEXCLUSIVE")]
    #[must_use]
    pub const fn exclusive(self) -> Self {
        Self(self.0 | libc::EPOLLEXCLUSIVE as u32)
    }

    /// Keep the system from suspending while such an event is being handled (Linux 3.5).
    ///
    /// The kernel drops this in silence without CAP_BLOCK_SUSPEND or without support for suspending.
    #[doc(alias = "EPOLLWAKEUP")]
    #[must_use]
    pub const fn wakeup(self) -> Self {
        Self(self.0 | libc::EPOLLWAKEUP as u32)
    }

    /// True for [`EDGE`](Self::EDGE), whatever the modifiers.
    #[inline]
    pub const fn is_edge(self) -> bool {
        self.0 & Self::EDGE.0 != 0
    }

    /// The kernel's bits.
    #[inline]
    pub const fn bits(self) -> u32 {
        self.0
    }

    const fn is_exclusive(self) -> bool {
        self.0 & libc::EPOLLEXCLUSIVE as u32 != 0
    }
}

impl fmt::Debug for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mode({self})")
    }
}

/// The names of the flags, as `ET|ONESHOT`; `LEVEL`, for which the kernel has none, where it is not ET.
impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = if self.is_edge() { "" } else { "LEVEL|" };
        let names = Names(self.0).to_string();
        f.write_str(format!("{level}{names}").trim_end_matches("|0"))
    }
}

/// How long [`Epoll::wait`] may block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// Until something happens.
    Never,
    /// Not at all: take what is ready.
    Now,
    /// At most about this long, and never less: rounded up to what the kernel can count.
    ///
    /// The longest single wait is `i32::MAX` milliseconds (24.8 days); a longer one ends then, empty.
    After(Duration),
}

impl From<Duration> for Timeout {
    fn from(duration: Duration) -> Self {
        Self::After(duration)
    }
}

impl From<Option<Duration>> for Timeout {
    /// `None` is [`Timeout::Never`].
    fn from(duration: Option<Duration>) -> Self {
        duration.map_or(Self::Never, Self::After)
    }
}

/// The longest wait that `epoll_wait` can express, in milliseconds.
const LONGEST_WAIT_MS: i32 = i32::MAX;

impl Timeout {
    /// The argument of `epoll_wait`, in milliseconds, rounded up: a wait of 0.9 ms cut to 0 spins.
    #[inline]
    fn as_millis(self) -> libc::c_int {
        match self {
            Self::Never => -1,
            Self::Now => 0,
            Self::After(duration) => {
                let millis = duration.as_nanos().div_ceil(1_000_000);
                i32::try_from(millis).unwrap_or(LONGEST_WAIT_MS)
            }
        }
    }

    /// The argument of `epoll_pwait2`, if milliseconds are too coarse.
    #[inline]
    fn as_finer_than_millis(self) -> Option<KernelTimespec> {
        match self {
            Self::After(duration)
                if duration.subsec_nanos() % 1_000_000 != 0 && duration.as_millis() < LONGEST_WAIT_MS as u128 =>
            {
                Some(KernelTimespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) })
            }
            _ => None,
        }
    }
}

/// The kernel's `struct __kernel_timespec`: 64 bits each on every architecture, unlike libc's.
#[repr(C)]
struct KernelTimespec {
    tv_sec: i64,
    tv_nsec: i64,
}

/// One entry of a batch: what is true of one registration, and the data it was registered with.
///
/// # References
/// `epoll_event(3type)`; `EPOLL_PACKED` in Linux `include/uapi/linux/eventpoll.h`.
#[doc(alias = "epoll_event")]
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Event(libc::epoll_event);

/// What the kernel writes: 32 bits of events and 64 of data, without a hole on x86 and x86-64.
const EVENT_BYTES: usize = if cfg!(any(target_arch = "x86", target_arch = "x86_64")) { 12 } else { 16 };
const _: () = assert!(size_of::<Event>() == EVENT_BYTES);
const _: () = assert!(mem::offset_of!(libc::epoll_event, events) == 0);
const _: () = assert!(mem::offset_of!(libc::epoll_event, u64) == EVENT_BYTES - 8);

impl Event {
    /// The value given at registration, bit for bit.
    #[inline]
    pub const fn data(&self) -> u64 {
        self.0.u64
    }

    /// All bits as the kernel gave them.
    #[inline]
    pub const fn bits(&self) -> u32 {
        self.0.events
    }

    #[inline]
    const fn any(&self, mask: libc::c_int) -> bool {
        self.bits() & mask as u32 != 0
    }

    /// EPOLLIN: a read or an accept would not block.
    #[doc(alias = "EPOLLIN")]
    #[inline]
    pub const fn readable(&self) -> bool {
        self.any(libc::EPOLLIN)
    }

    /// EPOLLOUT: a write would not block.
    #[doc(alias = "EPOLLOUT")]
    #[inline]
    pub const fn writable(&self) -> bool {
        self.any(libc::EPOLLOUT)
    }

    /// EPOLLPRI: urgent data, or the exceptional condition of a special file.
    #[doc(alias = "EPOLLPRI")]
    #[inline]
    pub const fn priority(&self) -> bool {
        self.any(libc::EPOLLPRI)
    }

    /// EPOLLERR: an error is pending, or a message waits in the socket's error queue, or the reader
    /// of a pipe has gone. Not always a failure: the next read or write tells.
    #[doc(alias = "EPOLLERR")]
    #[inline]
    pub const fn error(&self) -> bool {
        self.any(libc::EPOLLERR)
    }

    /// EPOLLHUP: both directions are finished. Data may still be unread.
    #[doc(alias = "EPOLLHUP")]
    #[inline]
    pub const fn hung_up(&self) -> bool {
        self.any(libc::EPOLLHUP)
    }

    /// EPOLLRDHUP: the peer sends no more. Data may still be unread. Only if
    /// [`Interest::READ_CLOSED`] was asked for.
    #[doc(alias = "EPOLLRDHUP")]
    #[inline]
    pub const fn read_closed(&self) -> bool {
        self.any(libc::EPOLLRDHUP)
    }

    /// A read now is worth while: it gives data, the end of the stream, or the error.
    ///
    /// True for IN, RDHUP, HUP and ERR. Not for PRI: an urgent byte alone is outside the stream, and
    /// an ordinary read may say EAGAIN; whoever asks for [`Interest::PRIORITY`] tests
    /// [`priority`](Self::priority). Be ready for EAGAIN all the same: ERR may mean only a message in
    /// the error queue, and another thread may have been faster.
    #[inline]
    pub const fn should_read(&self) -> bool {
        self.any(libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR)
    }

    /// A write now is worth while: it takes bytes, or tells why no more can be written.
    ///
    /// True for OUT, HUP and ERR.
    #[inline]
    pub const fn should_write(&self) -> bool {
        self.any(libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR)
    }

    /// The bits by name, as `IN|OUT|RDHUP`; `0` if there is none, hexadecimal for what has no name.
    pub fn names(&self) -> impl fmt::Display + use<> {
        Names(self.bits())
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({}, data: {:#x})", self.names(), self.data())
    }
}

/// The kernel's names, less their `EPOLL`, in the order in which they are shown.
const NAMES: [(libc::c_int, &str); 14] = [
    (libc::EPOLLIN, "IN"),
    (libc::EPOLLPRI, "PRI"),
    (libc::EPOLLOUT, "OUT"),
    (libc::EPOLLERR, "ERR"),
    (libc::EPOLLHUP, "HUP"),
    (libc::EPOLLRDHUP, "RDHUP"),
    (libc::EPOLLRDNORM, "RDNORM"),
    (libc::EPOLLRDBAND, "RDBAND"),
    (libc::EPOLLWRNORM, "WRNORM"),
    (libc::EPOLLWRBAND, "WRBAND"),
    (libc::EPOLLEXCLUSIVE, "EXCLUSIVE"),
    (libc::EPOLLWAKEUP, "WAKEUP"),
    (libc::EPOLLONESHOT, "ONESHOT"),
    (libc::EPOLLET, "ET"),
];

pub(super) struct Names(pub(super) u32);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut bar = "";
        for (bit, name) in NAMES {
            if rest & bit as u32 != 0 {
                write!(f, "{bar}{name}")?;
                bar = "|";
                rest &= !(bit as u32);
            }
        }
        if rest != 0 || self.0 == 0 {
            write!(f, "{bar}{}{rest:x}", if rest == 0 { "" } else { "0x" })?;
        }
        Ok(())
    }
}

/// The buffer that a wait fills: fixed in size, allocated once, never zeroed.
///
/// # Example
/// ```
/// use eagain::sys::epoll::{Epoll, Events, Timeout};
///
/// let epoll = Epoll::new()?;
/// let mut events = Events::with_capacity(64);
/// epoll.wait(&mut events, Timeout::Now)?;
/// for event in &events {
///     println!("{} for {}", event.names(), event.data());
/// }
/// # Ok::<(), eagain::sys::epoll::Error>(())
/// ```
pub struct Events {
    /// Filled from the front by the kernel. Never longer than `Events::MOST`.
    buffer: Box<[MaybeUninit<Event>]>,
    /// How many entries of `buffer` the last wait has written. Never above `buffer.len()`.
    len: usize,
}

impl Events {
    /// The largest batch that the kernel takes: `EP_MAX_EVENTS` of `fs/eventpoll.c`
    /// (`wait-einval-and-ebadf`).
    pub const MOST: usize = i32::MAX as usize / size_of::<Event>();

    /// Room for `capacity` events, at least 1 and at most [`MOST`](Self::MOST); other values are
    /// brought within these bounds. Each takes 12 bytes on x86-64 and 16 elsewhere.
    pub fn with_capacity(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, Self::MOST);
        Self { buffer: Box::new_uninit_slice(capacity), len: 0 }
    }

    /// How many events the buffer can hold.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.buffer.len()
    }

    /// How many events the last wait gave.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if the last wait gave nothing: the time was over, or a signal came.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// True if the last wait filled the buffer. More may be ready; the next wait starts with those.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.len == self.buffer.len()
    }

    /// The event at `index` in the last batch, or `None` past its end.
    #[inline]
    pub fn get(&self, index: usize) -> Option<Event> {
        self.as_slice().get(index).copied()
    }

    /// The last batch, in the order in which the kernel gave it.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Event> + '_ {
        self.as_slice().iter().copied()
    }

    #[inline]
    fn as_slice(&self) -> &[Event] {
        // SAFETY: the kernel has written the first `len` entries (`Epoll::wait` sets `len` to what the
        // call returned and to 0 before it), and `len` is never above the length of the buffer.
        unsafe { std::slice::from_raw_parts(self.buffer.as_ptr().cast::<Event>(), self.len) }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'events> IntoIterator for &'events Events {
    type Item = Event;
    type IntoIter = std::iter::Copied<std::slice::Iter<'events, Event>>;
    #[inline]
    fn into_iter(self) -> Self::IntoIter {
        self.as_slice().iter().copied()
    }
}

/// An epoll instance: a set of registrations, and the queue of those that may be ready.
///
/// The kernel refers weakly to what is registered: nothing here keeps a file open, and nothing here
/// is ever dereferenced from `data`. So the worst that a forgotten [`delete`](Self::delete) can do is
/// an event with a token that means nothing any more.
///
/// # Example
/// ```
/// use eagain::sys::epoll::{Epoll, Events, Interest, Mode, Timeout};
/// use std::io::Write;
/// use std::os::unix::net::UnixStream;
///
/// let (ours, mut theirs) = UnixStream::pair()?;
/// ours.set_nonblocking(true)?;
///
/// let epoll = Epoll::new()?;
/// epoll.add(&ours, 7, Interest::READ | Interest::READ_CLOSED, Mode::EDGE)?;
///
/// theirs.write_all(b"ping")?;
/// let mut events = Events::with_capacity(16);
/// epoll.wait(&mut events, Timeout::Never)?;
/// let event = events.get(0).unwrap();
/// assert_eq!((event.data(), event.names().to_string()), (7, "IN".into()));
///
/// epoll.delete(&ours)?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # References
/// `epoll(7)`; Linux `fs/eventpoll.c`.
#[doc(alias = "epoll_create1")]
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
}

impl Epoll {
    /// A new, empty instance, close-on-exec.
    ///
    /// # Errors
    /// [`Error::TooManyFiles`], [`Error::TooManyFilesInSystem`], [`Error::OutOfMemory`].
    ///
    /// # References
    /// `epoll_create(2)`.
    #[doc(alias = "epoll_create1")]
    pub fn new() -> Result<Self, Error> {
        // SAFETY: the call touches no memory of ours.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map_err(Error::from_errno)?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// Registers `fd`; its events will carry `data`. If it is ready now, the next wait says so, in
    /// [`Mode::EDGE`] too (`et-add-on-ready-fd-fires`).
    ///
    /// In [`Mode::EDGE`] this first asks for O_NONBLOCK by `fcntl(F_GETFL)` and refuses a blocking
    /// *socket*, connected or listening. Other files may stay blocking: an eventfd that only wakes
    /// needs no read, and a terminal or pipe that was inherited is shared with other processes,
    /// whose reads O_NONBLOCK would change too (`nonblock-is-shared-by-dup`).
    /// [`add_nonblocking`](Self::add_nonblocking) saves the question.
    ///
    /// # Errors
    /// [`Error::AlreadyRegistered`], [`Error::NotPollable`], [`Error::Invalid`], [`Error::Loop`],
    /// [`Error::WatchLimit`], [`Error::OutOfMemory`], [`Error::BadDescriptor`],
    /// [`Error::BlockingEdge`], [`Error::ExclusiveCombination`].
    ///
    /// # References
    /// `epoll_ctl(2)`, EPOLL_CTL_ADD.
    #[doc(alias = "epoll_ctl")]
    #[doc(alias = "EPOLL_CTL_ADD")]
    pub fn add(&self, fd: impl AsFd, data: u64, interest: Interest, mode: Mode) -> Result<(), Error> {
        refuse_blocking_edge(fd.as_fd(), mode)?;
        self.add_unasked(fd.as_fd(), data, interest, mode)
    }

    /// As [`add`](Self::add), but what `add` has to ask of the kernel in [`Mode::EDGE`], the type of
    /// `fd` proves. One system call in every mode.
    ///
    /// # Errors
    /// As [`add`](Self::add), less [`Error::BlockingEdge`].
    ///
    /// # References
    /// `epoll_ctl(2)`, EPOLL_CTL_ADD.
    #[doc(alias = "epoll_ctl")]
    pub fn add_nonblocking<T: AsFd>(
        &self,
        fd: &NonBlocking<T>,
        data: u64,
        interest: Interest,
        mode: Mode,
    ) -> Result<(), Error> {
        self.add_unasked(fd.as_fd(), data, interest, mode)
    }

    /// Replaces data, interest and mode of a registered `fd`, and looks at its state again: what is
    /// ready is reported anew, in [`Mode::EDGE`] too (`et-mod-rearms`).
    ///
    /// Asks for O_NONBLOCK as [`add`](Self::add) does.
    ///
    /// # Errors
    /// [`Error::NotRegistered`], [`Error::NotPollable`], [`Error::BadDescriptor`],
    /// [`Error::BlockingEdge`]; [`Error::ExclusiveCombination`] if `mode` is exclusive and
    /// [`Error::Invalid`] if the registration is.
    ///
    /// # References
    /// `epoll_ctl(2)`, EPOLL_CTL_MOD.
    #[doc(alias = "epoll_ctl")]
    #[doc(alias = "EPOLL_CTL_MOD")]
    pub fn modify(&self, fd: impl AsFd, data: u64, interest: Interest, mode: Mode) -> Result<(), Error> {
        refuse_blocking_edge(fd.as_fd(), mode)?;
        self.modify_unasked(fd.as_fd(), data, interest, mode)
    }

    /// As [`modify`](Self::modify), with the proof of [`add_nonblocking`](Self::add_nonblocking).
    ///
    /// # Errors
    /// As [`modify`](Self::modify), less [`Error::BlockingEdge`].
    ///
    /// # References
    /// `epoll_ctl(2)`, EPOLL_CTL_MOD.
    #[doc(alias = "epoll_ctl")]
    pub fn modify_nonblocking<T: AsFd>(
        &self,
        fd: &NonBlocking<T>,
        data: u64,
        interest: Interest,
        mode: Mode,
    ) -> Result<(), Error> {
        self.modify_unasked(fd.as_fd(), data, interest, mode)
    }

    /// Removes `fd` and whatever of it is queued. Do this before closing it: afterwards it cannot be
    /// named any more, though a duplicate may keep it registered (`close-with-dup-ghost`). A batch
    /// already fetched keeps its events (`stale-event-in-batch`).
    ///
    /// # Errors
    /// [`Error::NotRegistered`], [`Error::NotPollable`], [`Error::BadDescriptor`].
    ///
    /// # References
    /// `epoll_ctl(2)`, EPOLL_CTL_DEL.
    #[doc(alias = "epoll_ctl")]
    #[doc(alias = "EPOLL_CTL_DEL")]
    pub fn delete(&self, fd: impl AsFd) -> Result<(), Error> {
        self.ctl(libc::EPOLL_CTL_DEL, fd.as_fd(), None)
    }

    /// Waits until something registered is ready or the time is over, and replaces the batch in
    /// `events`. Returns how many events there are; 0 after a timeout or a signal.
    ///
    /// A signal that interrupts the wait is no error: the batch is empty, and the caller, who may
    /// have a flag to look at or a deadline to count, goes on. Events that are ready come before
    /// signals (`events-beat-signals`), so a busy loop must look at its flag itself.
    ///
    /// Durations of whole milliseconds go to `epoll_wait`. Finer ones go to `epoll_pwait2`
    /// (Linux 5.11) to the nanosecond; where that is missing (ENOSYS) or forbidden by a seccomp
    /// filter (EPERM), this is remembered and they are rounded up to milliseconds.
    ///
    /// # Errors
    /// None that the manual knows can arise here; [`Error`] all the same, since a filter may answer
    /// anything.
    ///
    /// # References
    /// `epoll_wait(2)`.
    #[doc(alias = "epoll_wait")]
    #[doc(alias = "epoll_pwait2")]
    #[inline]
    pub fn wait(&self, events: &mut Events, timeout: Timeout) -> Result<usize, Error> {
        events.len = 0;
        let answer = match timeout.as_finer_than_millis() {
            Some(timespec) => self.wait_nanos(events, &timespec, timeout),
            None => self.wait_millis(events, timeout),
        };
        match answer {
            Ok(count) => {
                events.len = count as usize;
                Ok(events.len)
            }
            Err(libc::EINTR) => Ok(0),
            Err(errno) => Err(Error::from_errno(errno)),
        }
    }

    #[inline]
    fn wait_millis(&self, events: &mut Events, timeout: Timeout) -> Result<libc::c_int, i32> {
        // SAFETY: the kernel writes at most as many entries as it is told, which is the length of
        // the buffer (it fits a c_int: `Events::MOST`). `&mut` keeps every reader out meanwhile.
        check(unsafe {
            libc::epoll_wait(
                self.fd.as_raw_fd(),
                events.buffer.as_mut_ptr().cast::<libc::epoll_event>(),
                events.buffer.len() as libc::c_int,
                timeout.as_millis(),
            )
        })
    }

    fn wait_nanos(&self, events: &mut Events, timespec: &KernelTimespec, timeout: Timeout) -> Result<libc::c_int, i32> {
        /// Set once `epoll_pwait2` has been refused; a fact about the system, and only a hint, so
        /// relaxed will do.
        static NO_PWAIT2: AtomicBool = AtomicBool::new(false);

        if !NO_PWAIT2.load(Ordering::Relaxed) {
            match self.pwait2(events, timespec) {
                Err(libc::ENOSYS | libc::EPERM) => NO_PWAIT2.store(true, Ordering::Relaxed),
                answer => return answer,
            }
        }
        self.wait_millis(events, timeout)
    }

    /// The system call itself: libc has no `epoll_pwait2` for every C library. `syscall` is variadic,
    /// so each argument is widened to a register here.
    fn pwait2(&self, events: &mut Events, timespec: &KernelTimespec) -> Result<libc::c_int, i32> {
        const KERNEL_SIGSET_BYTES: libc::c_long = 8;
        // SAFETY: the kernel writes at most `buffer.len()` entries of the buffer, which `&mut` keeps
        // for us alone, and reads one `KernelTimespec`. The signal mask is NULL: not read.
        check(unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.as_raw_fd() as libc::c_long,
                events.buffer.as_mut_ptr(),
                events.buffer.len() as libc::c_long,
                ptr::from_ref(timespec),
                ptr::null::<libc::c_void>(),
                KERNEL_SIGSET_BYTES,
            )
        } as libc::c_int)
    }

    fn add_unasked(&self, fd: BorrowedFd<'_>, data: u64, interest: Interest, mode: Mode) -> Result<(), Error> {
        // The kernel's EPOLLEXCLUSIVE_OK_BITS, said before its EINVAL, which would not say why.
        let beside_exclusive = Interest::READ | Interest::WRITE;
        let oneshot = mode.0 & libc::EPOLLONESHOT as u32 != 0;
        if mode.is_exclusive() && (oneshot || !beside_exclusive.contains(interest)) {
            return Err(Error::ExclusiveCombination);
        }
        let event = kernel_event(data, interest, mode);
        self.ctl(libc::EPOLL_CTL_ADD, fd, Some(event))
    }

    fn modify_unasked(&self, fd: BorrowedFd<'_>, data: u64, interest: Interest, mode: Mode) -> Result<(), Error> {
        if mode.is_exclusive() {
            return Err(Error::ExclusiveCombination);
        }
        let event = kernel_event(data, interest, mode);
        self.ctl(libc::EPOLL_CTL_MOD, fd, Some(event))
    }

    fn ctl(
        &self,
        operation: libc::c_int,
        fd: BorrowedFd<'_>,
        mut event: Option<libc::epoll_event>,
    ) -> Result<(), Error> {
        let event = event.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
        // SAFETY: the kernel reads one `epoll_event` from our stack during the call and keeps no
        // pointer to it. NULL is legal for a delete (since 2.6.9), and `None` comes from there alone.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd.as_raw_fd(), event) })
            .map(drop)
            .map_err(Error::from_errno)
    }
}

impl AsFd for Epoll {
    /// To watch this epoll in another one, or by `poll(2)`: it is readable while an event is queued.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn kernel_event(data: u64, interest: Interest, mode: Mode) -> libc::epoll_event {
    libc::epoll_event { events: interest.0 | mode.0, u64: data }
}

/// An edge on a blocking socket would have to be read to EAGAIN, which never comes. What is no socket
/// (eventfd, timerfd, pipe, terminal) passes, and so does what cannot be asked: `epoll_ctl`, the next
/// call, knows better what is wrong with it.
// RULE(blocking-drain-loop-freezes)
fn refuse_blocking_edge(fd: BorrowedFd<'_>, mode: Mode) -> Result<(), Error> {
    let blocking_socket =
        mode.is_edge() && SockRef::from(&fd).nonblocking().is_ok_and(|yes| !yes) && SockRef::from(&fd).r#type().is_ok();
    if blocking_socket {
        return Err(Error::BlockingEdge);
    }
    Ok(())
}
