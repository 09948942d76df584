//! For the lab alone: system calls as the kernel takes them, with arguments that are wrong on purpose.
//!
//! The wrapper beside this file exists to make such calls impossible; an experiment that shows what the kernel answers
//! to them needs another door. Descriptors are numbers here, open or not: the kernel checks them itself. Every function
//! is safe to call, because none hands the kernel memory that is not its own for the time of the call. What a wrong
//! number can still do is to hit another file of the same process; the lab runs each experiment in a process of its
//! own.
//!
//! Errors are the kernel's numbers.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use super::epoll::Names;
use super::{check, errno};

/// One entry of a batch, taken out of its packed struct: the bits, and the data.
pub type RawEvent = (u32, u64);

/// The result of a system call, or its `errno`.
pub type Answer<T> = Result<T, i32>;

/// The most events that a wait of this file takes.
const MOST_EVENTS: usize = 1024;

/// The names of the bits of a mask, as `IN|OUT|ET`; `0` if there is none.
pub fn names(bits: u32) -> String {
    Names(bits).to_string()
}

/// `epoll_create(size)`.
///
/// # Errors
/// Those of `epoll_create(2)`.
pub fn epoll_create(size: i32) -> Answer<OwnedFd> {
    // SAFETY: the call touches no memory of ours.
    own(unsafe { libc::epoll_create(size) })
}

/// `epoll_create1(flags)`, any flags.
///
/// # Errors
/// Those of `epoll_create(2)`.
pub fn epoll_create1(flags: i32) -> Answer<OwnedFd> {
    // SAFETY: the call touches no memory of ours.
    own(unsafe { libc::epoll_create1(flags) })
}

/// `epoll_ctl`, any operation, any numbers; `None` is a NULL event.
///
/// # Errors
/// Those of `epoll_ctl(2)`.
pub fn epoll_ctl(epfd: RawFd, operation: i32, fd: RawFd, event: Option<RawEvent>) -> Answer<()> {
    let mut event = event.map(|(events, data)| libc::epoll_event { events, u64: data });
    let event = event.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
    // SAFETY: the kernel reads one event from our stack, or finds NULL, which it answers with EFAULT where it looks.
    check(unsafe { libc::epoll_ctl(epfd, operation, fd, event) }).map(drop)
}

/// `epoll_wait` by number, for at most `most` events (1 to 1,024), with any timeout, in milliseconds.
///
/// # Errors
/// Those of `epoll_wait(2)`.
pub fn epoll_wait(epfd: RawFd, most: usize, timeout_ms: i32) -> Answer<Vec<RawEvent>> {
    let mut room = Room::new(most);
    // SAFETY: the kernel writes at most as many events as it is told, and there is room for those.
    let count = check(unsafe { libc::epoll_wait(epfd, room.as_mut_ptr(), room.len(), timeout_ms) })?;
    Ok(room.first(count))
}

/// The bytes that `epoll_wait` writes for at most `most` events: 12 each on x86-64, 16 elsewhere.
///
/// # Errors
/// Those of `epoll_wait(2)`.
pub fn epoll_wait_bytes(epfd: RawFd, most: usize) -> Answer<(usize, Vec<u8>)> {
    // Longer than the kernel's struct on any architecture, so that one that is not packed fits as well.
    let mut bytes = vec![0u8; most.clamp(1, MOST_EVENTS) * 16];
    let most = (bytes.len() / 16) as libc::c_int;
    // SAFETY: the kernel writes at most 16 bytes for each of `most` events; it copies bytes, alignment is no matter.
    let count = check(unsafe { libc::epoll_wait(epfd, bytes.as_mut_ptr().cast(), most, 0) })?;
    Ok((count as usize, bytes))
}

/// What `epoll_wait` says to `maxevents` events, any number, on an empty epoll made for this question.
///
/// # Errors
/// EINVAL outside of what the kernel takes.
pub fn epoll_wait_limit(maxevents: i32) -> Answer<i32> {
    let empty = epoll_create1(libc::EPOLL_CLOEXEC)?;
    let mut room = Room::new(1);
    // SAFETY: nothing is registered in this epoll and nobody else knows it: no event can be written.
    check(unsafe { libc::epoll_wait(empty.as_raw_fd(), room.as_mut_ptr(), maxevents, 0) })
}

/// `epoll_wait` with NULL for a buffer and a timeout of 0.
///
/// # Errors
/// EFAULT if there is something to report.
pub fn epoll_wait_nowhere(epfd: RawFd) -> Answer<i32> {
    // SAFETY: the kernel cannot write to NULL; its copy fails, and it says so.
    check(unsafe { libc::epoll_wait(epfd, ptr::null_mut(), 1, 0) })
}

/// `epoll_pwait` with the mask that blocks nothing, given as `sigset_bytes` long; `None` is a NULL mask.
///
/// # Errors
/// Those of `epoll_wait(2)`; EINVAL if a mask is not 8 bytes long.
pub fn epoll_pwait(epfd: RawFd, timeout_ms: i32, unblocked: bool, sigset_bytes: i64) -> Answer<Vec<RawEvent>> {
    let mask = [0u64; 16];
    let mask = if unblocked { mask.as_ptr() } else { ptr::null() };
    let mut room = Room::new(16);
    // SAFETY: the kernel writes at most 16 events, for which there is room, and reads 8 bytes of a mask of 128, or
    // none. `syscall` is variadic: each argument is as wide as a register.
    let count = check(unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait,
            libc::c_long::from(epfd),
            room.as_mut_ptr(),
            libc::c_long::from(room.len()),
            libc::c_long::from(timeout_ms),
            mask,
            sigset_bytes as libc::c_long,
        )
    } as libc::c_int)?;
    Ok(room.first(count))
}

/// `epoll_pwait2` with a timeout of (seconds, nanoseconds), any numbers; `None` is NULL, which waits for ever.
///
/// # Errors
/// Those of `epoll_wait(2)`; ENOSYS before Linux 5.11.
pub fn epoll_pwait2(epfd: RawFd, timeout: Option<(i64, i64)>) -> Answer<Vec<RawEvent>> {
    let timespec = timeout.map(|(seconds, nanos)| [seconds, nanos]);
    let timespec = timespec.as_ref().map_or(ptr::null(), |pair| pair.as_ptr());
    let mut room = Room::new(16);
    // SAFETY: the kernel writes at most 16 events, for which there is room, and reads two 64-bit numbers, or none. The
    // signal mask is NULL.
    let count = check(unsafe {
        libc::syscall(
            libc::SYS_epoll_pwait2,
            libc::c_long::from(epfd),
            room.as_mut_ptr(),
            libc::c_long::from(room.len()),
            timespec,
            ptr::null::<libc::c_void>(),
            8 as libc::c_long,
        )
    } as libc::c_int)?;
    Ok(room.first(count))
}

/// `poll` over numbers, open or not: the events of each, in order.
///
/// # Errors
/// Those of `poll(2)`; EINTR too.
pub fn poll(wanted: &[(RawFd, i16)], timeout_ms: i32) -> Answer<Vec<i16>> {
    let entry = |&(fd, events): &(RawFd, i16)| libc::pollfd { fd, events, revents: 0 };
    let mut entries: Vec<libc::pollfd> = wanted.iter().map(entry).collect();
    // SAFETY: the kernel reads and writes `len` entries, which are ours.
    check(unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, timeout_ms) })?;
    Ok(entries.iter().map(|entry| entry.revents).collect())
}

/// What `select` has left in its sets, the number that it returned, and how much of the timeout it says is left.
#[derive(Debug)]
pub struct Selected {
    /// How many bits are set in all three sets together.
    pub count: i32,
    /// Numbers that are still in the first set: readable.
    pub read: Vec<RawFd>,
    /// Numbers that are still in the second set: writable.
    pub write: Vec<RawFd>,
    /// Numbers that are still in the third set: exceptional.
    pub except: Vec<RawFd>,
    /// Microseconds.
    pub left_us: i64,
}

/// `select` as the kernel takes it: each of `numbers` in all of the sets that are asked for, which are as long as they
/// must be, not as `fd_set` is.
///
/// # Errors
/// Those of `select(2)`.
pub fn select(numbers: &[RawFd], sets: [bool; 3], timeout_us: i64) -> Answer<Selected> {
    let most = numbers.iter().copied().max().unwrap_or(0).max(0);
    let words = most as usize / 64 + 1;
    let mut bits = [vec![0u64; words], vec![0u64; words], vec![0u64; words]];
    for set in bits.iter_mut().zip(sets).filter_map(|(set, asked)| asked.then_some(set)) {
        for number in numbers.iter().filter(|number| **number >= 0) {
            set[*number as usize / 64] |= 1 << (number % 64);
        }
    }
    let mut timeout = libc::timeval { tv_sec: timeout_us / 1_000_000, tv_usec: timeout_us % 1_000_000 };
    let [read, write, except] = bits.each_mut().map(|set| set.as_mut_ptr());
    // SAFETY: the kernel reads and writes `most + 1` bits of each set, rounded up to a word, and there are as many. The
    // direct call, since the C library may look at the length of its own `fd_set`. Linux keeps bit n in byte n / 8 of
    // words of the machine; on little-endian machines the width of the word makes no difference.
    let count = check(unsafe {
        #[cfg(target_arch = "x86_64")]
        let number = libc::SYS_select;
        #[cfg(target_arch = "x86_64")]
        let last = &raw mut timeout;
        #[cfg(target_arch = "x86_64")]
        let result = libc::syscall(number, libc::c_long::from(most + 1), read, write, except, last);
        #[cfg(not(target_arch = "x86_64"))]
        let result = libc::select(most + 1, read.cast(), write.cast(), except.cast(), &raw mut timeout);
        result
    } as libc::c_int)?;
    let members = |set: &[u64]| {
        let is_member = |number: &RawFd| set[*number as usize / 64] >> (number % 64) & 1 == 1;
        (0..=most).filter(is_member).collect()
    };
    Ok(Selected {
        count,
        read: members(&bits[0]),
        write: members(&bits[1]),
        except: members(&bits[2]),
        left_us: timeout.tv_sec * 1_000_000 + timeout.tv_usec,
    })
}

/// A second process, made by `fork`, that performs `work` and exits with the number it returns.
///
/// # Errors
/// EDEADLK if the process has more than one thread: what the others hold locked would stay locked in the child. Else
/// those of `fork(2)`.
pub fn fork(work: impl FnOnce() -> u8) -> Answer<i32> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(usize::MAX, Iterator::count);
    if threads != 1 {
        return Err(libc::EDEADLK);
    }
    // SAFETY: this thread is the only one, as has just been counted, and only it could start another; so the child is a
    // whole copy, in which everything may be called.
    match check(unsafe { libc::fork() })? {
        0 => {
            let code = work();
            // SAFETY: no destructor of the parent's state runs in the child, which is wanted.
            unsafe { libc::_exit(i32::from(code)) }
        }
        child => Ok(child),
    }
}

/// `getsockopt(TCP_INFO)`. Of a listener, `tcpi_unacked` is the length of its accept queue and `tcpi_sacked` its limit.
///
/// # Errors
/// Those of `getsockopt(2)`.
pub fn tcp_info(socket: impl AsFd) -> Answer<libc::tcp_info> {
    // SAFETY: a struct of integers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `length` bytes, which is the size of the struct.
    check(unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length) })?;
    Ok(info)
}

/// `getsockopt` for an option that is an int.
///
/// # Errors
/// Those of `getsockopt(2)`.
pub fn get_option(socket: impl AsFd, level: i32, name: i32) -> Answer<i32> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `length` bytes, the size of the int.
    check(unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut length) })?;
    Ok(value)
}

/// `setsockopt` for an option that is an int.
///
/// # Errors
/// Those of `setsockopt(2)`.
pub fn set_option(socket: impl AsFd, level: i32, name: i32, value: i32) -> Answer<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel reads `length` bytes, the size of the int.
    check(unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), length) }).map(drop)
}

/// `shutdown(how)` by number: a listener too, which has no other way.
///
/// # Errors
/// Those of `shutdown(2)`.
pub fn shutdown(socket: impl AsFd, how: i32) -> Answer<()> {
    // SAFETY: the call touches no memory of ours.
    check(unsafe { libc::shutdown(socket.as_fd().as_raw_fd(), how) }).map(drop)
}

/// `fcntl(command)` without an argument: F_GETFL, F_GETFD.
///
/// # Errors
/// Those of `fcntl(2)`.
pub fn fcntl(fd: impl AsFd, command: i32) -> Answer<i32> {
    // SAFETY: the commands that take a pointer find 0 in its place, which is NULL, and answer EFAULT.
    check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), command, 0) })
}

/// A duplicate of `fd` with the lowest free number that is not below `from`.
///
/// # Errors
/// Those of `fcntl(2)`, F_DUPFD.
pub fn dup_from(fd: impl AsFd, from: RawFd) -> Answer<OwnedFd> {
    // SAFETY: the call touches no memory of ours.
    own(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_DUPFD_CLOEXEC, from) })
}

/// `kcmp(KCMP_EPOLL_TFD)` on this process: `Ok` if the file open as `fd` is in `epfd` under the number `registered`.
///
/// # Errors
/// ENOENT if it is not; ENOSYS if the kernel has no `kcmp`; else those of `kcmp(2)`.
pub fn kcmp_epoll(epfd: RawFd, fd: RawFd, registered: RawFd) -> Answer<i32> {
    const KCMP_EPOLL_TFD: libc::c_long = 7;
    let slot = [epfd as u32, registered as u32, 0];
    let own = libc::c_long::from(std::process::id() as i32);
    // SAFETY: the kernel reads one `kcmp_epoll_slot`, three 32-bit numbers.
    check(unsafe { libc::syscall(libc::SYS_kcmp, own, own, KCMP_EPOLL_TFD, libc::c_long::from(fd), slot.as_ptr()) }
        as libc::c_int)
}

/// `pidfd_open`.
///
/// # Errors
/// Those of `pidfd_open(2)`; ENOSYS before Linux 5.3.
pub fn pidfd_open(process: i32) -> Answer<OwnedFd> {
    // SAFETY: the call touches no memory of ours.
    own(unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(process), 0 as libc::c_long) } as libc::c_int)
}

/// `memfd_create`.
///
/// # Errors
/// Those of `memfd_create(2)`.
pub fn memfd() -> Answer<OwnedFd> {
    // SAFETY: the kernel reads a name that ends in NUL.
    own(unsafe { libc::memfd_create(c"lab".as_ptr(), libc::MFD_CLOEXEC) })
}

/// The parameters of busy polling of one epoll: `struct epoll_params`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BusyPoll {
    /// Microseconds.
    pub usecs: u32,
    /// Packets.
    pub budget: u16,
    /// 0 or 1.
    pub prefer: u8,
    /// Must be 0.
    pub pad: u8,
}

/// EPIOCGPARAMS.
///
/// # Errors
/// ENOTTY if it is no epoll or the kernel is older than 6.9.
pub fn busy_poll(epfd: impl AsFd) -> Answer<BusyPoll> {
    const EPIOCGPARAMS: libc::Ioctl = 0x8008_8a02u32 as libc::Ioctl;
    let mut params = BusyPoll::default();
    // SAFETY: the kernel writes 8 bytes, the size of the struct, which the number of the request contains.
    check(unsafe { libc::ioctl(epfd.as_fd().as_raw_fd(), EPIOCGPARAMS, &raw mut params) })?;
    Ok(params)
}

/// EPIOCSPARAMS.
///
/// # Errors
/// EINVAL, EPERM, ENOTTY as in `ioctl_eventpoll(2)`.
pub fn set_busy_poll(epfd: impl AsFd, params: BusyPoll) -> Answer<()> {
    const EPIOCSPARAMS: libc::Ioctl = 0x4008_8a01u32 as libc::Ioctl;
    // SAFETY: the kernel reads 8 bytes, the size of the struct.
    check(unsafe { libc::ioctl(epfd.as_fd().as_raw_fd(), EPIOCSPARAMS, &raw const params) }).map(drop)
}

/// How often a handler of [`count_signals`] has run.
static SIGNALS: AtomicU32 = AtomicU32::new(0);

/// From now on `signal` is counted by a handler; `restart` is SA_RESTART.
///
/// # Errors
/// Those of `sigaction(2)`.
pub fn count_signals(signal: i32, restart: bool) -> Answer<()> {
    extern "C" fn count(_: libc::c_int) {
        SIGNALS.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: a struct of integers and a pointer, for which zero is a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = count as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action.sa_flags = if restart { libc::SA_RESTART } else { 0 };
    // SAFETY: the handler only adds to an atomic, which is allowed in a handler, and lives as long as the program.
    check(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) }).map(drop)
}

/// How many signals the handler has counted.
pub fn signals_counted() -> u32 {
    SIGNALS.load(Ordering::Relaxed)
}

/// `signal` does again what it does by default; Rust's runtime ignores SIGPIPE before `main`.
///
/// # Errors
/// Those of `sigaction(2)`.
pub fn default_signal(signal: i32) -> Answer<()> {
    // SAFETY: no handler of ours runs any more for this signal; the default action touches no memory.
    if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR { Err(errno()) } else { Ok(()) }
}

/// `write` of `length` zeros, by number.
///
/// # Errors
/// Those of `write(2)`.
pub fn write(fd: RawFd, length: usize) -> Answer<usize> {
    let zeros = vec![0u8; length];
    // SAFETY: the kernel reads `length` bytes of a buffer that is as long.
    let written = unsafe { libc::write(fd, zeros.as_ptr().cast(), length) };
    usize::try_from(written).map_err(|_| errno())
}

/// FIONREAD by number: the bytes that wait to be read. It takes the lock of a TCP socket: what the network has begun to
/// do to the socket is done when this returns.
///
/// # Errors
/// Those of `ioctl(2)`.
pub fn unread(fd: RawFd) -> Answer<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the request writes one int.
    check(unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// How many characters a line of this terminal has.
///
/// # Errors
/// ENOTTY if it is none.
///
/// # References
/// `ioctl_tty(2)`, TIOCGWINSZ.
pub fn terminal_columns(terminal: impl AsFd) -> Answer<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request writes one `winsize`.
    check(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
    Ok(usize::from(size.ws_col))
}

/// Brings the loopback interface up, as a new network namespace needs.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN over the namespace.
pub fn loopback_up() -> Answer<()> {
    let socket = own(
        // SAFETY: the call touches no memory of ours.
        unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) },
    )?;
    // SAFETY: a struct of bytes and integers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel reads one `ifreq`.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) }).map(drop)
}

/// From now on the process has a network of its own, with a loopback that is up, and with its own settings under
/// /proc/sys/net. Without privilege it becomes the owner of a user namespace for that.
///
/// # Errors
/// Those of `unshare(2)`: EPERM, ENOSPC, EINVAL (a process with threads) where that is not allowed.
pub fn own_network() -> Answer<()> {
    // SAFETY: the calls touch no memory of ours.
    let unshare = |flags| check(unsafe { libc::unshare(flags) });
    unshare(libc::CLONE_NEWNET).or_else(|_| unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET))?;
    loopback_up()
}

/// Processor time of the calling thread, in nanoseconds: what a call costs, whoever else is running.
pub fn thread_time_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Room for events that the kernel writes.
struct Room(Vec<libc::epoll_event>);

impl Room {
    fn new(most: usize) -> Self {
        Self(vec![libc::epoll_event { events: 0, u64: 0 }; most.clamp(1, MOST_EVENTS)])
    }

    fn as_mut_ptr(&mut self) -> *mut libc::epoll_event {
        self.0.as_mut_ptr()
    }

    fn len(&self) -> libc::c_int {
        self.0.len() as libc::c_int
    }

    fn first(&self, count: libc::c_int) -> Vec<RawEvent> {
        self.0.iter().take(count as usize).map(|event| (event.events, event.u64)).collect()
    }
}

fn own(result: libc::c_int) -> Answer<OwnedFd> {
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}
