//! A wire between two namespaces that the test holds in its hands: a TUN device at each end, and in between a thread
//! that loses, doubles and delays packets, so that others overtake them. The kernel's netem would do that, too, but is
//! not on every machine; and here the same seed gives the same fates.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use eagain::sys::epoll::{Epoll, Events, Interest, Mode, Timeout};

use crate::common::pattern;
use crate::namespaces::{LINK, Namespace};

/// A packet that is held back is overtaken by those of this time.
const DELAY: Duration = Duration::from_millis(2);

/// What becomes of a packet, by a byte of chance.
enum Fate {
    Lost,
    Doubled,
    Delayed,
    Delivered,
}

impl Fate {
    /// Of 256 packets 5 are lost, 5 come twice, and 26 are overtaken.
    fn of(chance: u8) -> Fate {
        match chance {
            0..5 => Fate::Lost,
            5..10 => Fate::Doubled,
            10..36 => Fate::Delayed,
            _ => Fate::Delivered,
        }
    }
}

/// How many packets had each fate.
#[derive(Default, Debug)]
pub(crate) struct Counts {
    pub(crate) lost: AtomicU64,
    pub(crate) doubled: AtomicU64,
    pub(crate) delayed: AtomicU64,
}

/// A bad wire. Dropping it unplugs both ends.
pub(crate) struct Wire {
    stop: Arc<AtomicBool>,
    pub(crate) counts: Arc<Counts>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Wire {
    /// Between two namespaces that have no link yet.
    pub(crate) fn between(one: &Namespace, other: &Namespace, seed: u64) -> io::Result<Wire> {
        let ends = [one.run(tun)?, other.run(tun)?];
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&counts));
        let thread = thread::spawn(move || carry(&ends, seed, &stopped, &counted));
        Ok(Wire { stop, counts, thread: Some(thread) })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let outcome = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            outcome.expect("there is a thread").expect("it does not panic").expect("the wire holds");
        }
    }
}

/// A TUN device in the namespace of this thread, which is there as long as the file (Documentation/networking/tuntap).
/// The kernel cuts what it writes there into packets and fills in their checksums, as for a card that can do neither.
fn tun() -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: a C structure of numbers, of which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(LINK.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which is there for the length of the call.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(file),
    }
}

/// A packet that is on its way to the end `to`.
struct Held {
    due: Instant,
    to: usize,
    packet: Vec<u8>,
}

/// Carries packets from each end to the other until it is told to stop.
fn carry(ends: &[File; 2], seed: u64, stop: &AtomicBool, counts: &Counts) -> io::Result<()> {
    let epoll = Epoll::new()?;
    for (number, end) in ends.iter().enumerate() {
        epoll.add(end.as_fd(), number as u64, Interest::READ, Mode::LEVEL)?;
    }
    let chances = pattern(1 << 16, seed);
    let mut chances = chances.iter().copied().cycle();
    let mut events = Events::with_capacity(2);
    let mut held: Vec<Held> = Vec::new();
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        epoll.wait(&mut events, Timeout::After(if held.is_empty() { 5 * DELAY } else { DELAY / 4 }))?;
        for from in events.iter().map(|event| event.data() as usize) {
            let to = 1 - from;
            while let Ok(length) = (&ends[from]).read(&mut buffer) {
                let packet = &buffer[..length];
                match Fate::of(chances.next().expect("it begins again")) {
                    Fate::Lost => _ = counts.lost.fetch_add(1, Ordering::Relaxed),
                    Fate::Doubled => {
                        counts.doubled.fetch_add(1, Ordering::Relaxed);
                        deliver(&ends[to], packet);
                        deliver(&ends[to], packet);
                    }
                    Fate::Delayed => {
                        counts.delayed.fetch_add(1, Ordering::Relaxed);
                        held.push(Held { due: Instant::now() + DELAY, to, packet: packet.to_vec() });
                    }
                    Fate::Delivered => deliver(&ends[to], packet),
                }
            }
        }
        let now = Instant::now();
        held.iter().filter(|held| held.due <= now).for_each(|held| deliver(&ends[held.to], &held.packet));
        held.retain(|held| held.due > now);
    }
    Ok(())
}

/// What an end does not take (it is not up yet) is lost, as on any wire.
fn deliver(mut end: &File, packet: &[u8]) {
    let _ = end.write(packet);
}
