//! What a service and systemd have to say to each other: sockets are passed by inheritance (sd_listen_fds(3)),
//! readiness and signs of life are datagrams (sd_notify(3)).
//!
//! Nothing is taken out of the environment: the server starts no other program, and LISTEN_PID and WATCHDOG_PID say
//! themselves whom they mean.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process;
use std::time::{Duration, Instant};

use eagain::sys::epoll::Timeout;
use eagain::sys::{inherited, passing};
use eagain::{Address, Handle, Listener};
use nix::time::{ClockId, clock_gettime};

use super::scribe::Scribe;
use super::{Failure, environment};
use crate::cli::ServiceName;
use crate::say::{self, Level};

/// The name of both ends of the way over a restart, in the manager's store.
pub(crate) const WAY: &str = "handover";
/// What the names of listeners in the store begin with.
const KEPT: &str = "kept-";

/// How long a datagram may wait for the manager to read those before it.
const PATIENCE: Duration = Duration::from_secs(1);

/// What was passed to this process, by the names that it has.
#[derive(Default)]
pub(crate) struct Passed {
    /// Listening sockets that the manager made.
    pub(crate) given: Vec<(ServiceName, Listener)>,
    /// Listening sockets that the process before this one made, and the manager has kept.
    pub(crate) kept: Vec<(ServiceName, Listener)>,
    /// The ends of the way that connections take over a restart: see [`Way`](super::handover::Way).
    pub(crate) way: Vec<OwnedFd>,
}

/// Takes what was passed. One that means nothing here is an error: who has named it expects it to be served.
pub(crate) fn passed() -> Result<Passed, Failure> {
    let mut passed = Passed::default();
    let mut unknown = Vec::new();
    for (fd, name) in environment::passed(|name| std::env::var_os(name), process::id())? {
        let refused = |why: &dyn Display| format!("descriptor {fd}, which was passed as '{name}': {why}");
        let socket = inherited::take(fd).map_err(|error| refused(&say::reason(&error)))?;
        if name == WAY {
            passed.way.push(socket);
        } else if let Some(service) = name.strip_prefix(KEPT).and_then(|rest| service(rest.split('-').next()?)) {
            let listener = Listener::adopt_own(socket).map_err(|error| refused(&error))?;
            passed.kept.push((service, dress(service, listener)));
        } else {
            let listener = Listener::adopt(socket).map_err(|error| refused(&error))?;
            match service(&name) {
                Some(service) => passed.given.push((service, dress(service, listener))),
                None => unknown.push(format!("{} as '{name}'", listener.address())),
            }
        }
    }
    if unknown.is_empty() {
        return Ok(passed);
    }
    let services = ServiceName::ALL.map(|service| service.to_string()).join(", ");
    Err(format!("passed {}: FileDescriptorName= must be one of {services}", unknown.join(" and ")).into())
}

/// Whoever watches the server watches it drain, too.
pub(crate) fn dress(service: ServiceName, listener: Listener) -> Listener {
    if service == ServiceName::Metrics { listener.stay_while_draining() } else { listener }
}

fn service(name: &str) -> Option<ServiceName> {
    ServiceName::ALL.into_iter().chain([ServiceName::Metrics]).find(|service| service.to_string() == name)
}

/// The name by which the manager keeps a listener of ours. A colon would end it (LISTEN_FDNAMES), and it may have 255
/// characters: `None` for an address that is longer.
pub(crate) fn kept_name(service: ServiceName, address: &Address) -> Option<String> {
    let name = format!("{KEPT}{service}-{}", address.to_string().replace(':', "_"));
    (name.len() <= 255 && name.chars().all(|c| c.is_ascii_graphic())).then_some(name)
}

/// The way to the manager that started this process; without one, nothing is said.
pub(crate) struct Manager {
    /// Opened at the start: later there may be no descriptor left for it.
    socket: Option<UnixDatagram>,
    watchdog: Option<Watchdog>,
    status: String,
}

/// Fed as long as every worker turns its loop.
struct Watchdog {
    /// Half of the time after which the manager kills.
    every: Duration,
    next: Instant,
    /// Pings that the workers have to answer before it is fed again.
    asked: u64,
    hungry: bool,
}

impl Manager {
    pub(crate) fn connect() -> Result<Self, Failure> {
        let socket = std::env::var_os("NOTIFY_SOCKET").map(|name| connect(&name)).transpose();
        let socket = socket.map_err(|error| format!("NOTIFY_SOCKET: {}", say::reason(&error)))?;
        let limit = environment::watchdog(|name| std::env::var_os(name), process::id())?;
        let watchdog = limit.filter(|_| socket.is_some()).map(|limit| Watchdog {
            every: limit / 2,
            next: Instant::now(),
            asked: 0,
            hungry: false,
        });
        Ok(Self { socket, watchdog, status: String::new() })
    }

    /// To be called when every listener accepts.
    pub(crate) fn ready(&mut self, server: &Handle) {
        let status = self.new_status(server);
        self.send(&format!("READY=1\n{status}"));
    }

    /// As [`ready`](Self::ready), for a server that keeps no counters and cannot be asked whether it is alive.
    pub(crate) fn ready_uncounted(&self) -> Result<(), Failure> {
        if self.watchdog.is_some() {
            return Err("WatchdogSec= is set, and only --model epoll feeds a watchdog: remove it from the unit".into());
        }
        self.send("READY=1\n");
        Ok(())
    }

    pub(crate) fn stopping(&self, what: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={what}"));
    }

    /// To be followed by [`reloaded`](Self::reloaded). The time tells the manager which reload is meant (sd_notify(3)).
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.as_micros()));
    }

    pub(crate) fn reloaded(&self) {
        self.send("READY=1");
    }

    /// Whether there is a manager to tell anything.
    pub(crate) const fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// Has the manager keep descriptors for the next process, under this name; it drops them if its store has no room
    /// (FileDescriptorStoreMax=, 0 by default), and does not say so.
    pub(crate) fn store(&self, name: &str, descriptors: &[BorrowedFd<'_>]) {
        if let Some(socket) = &self.socket {
            let _ = passing::send(socket, format!("FDSTORE=1\nFDNAME={name}").as_bytes(), descriptors);
        }
    }

    /// Has the manager close what it keeps under this name.
    pub(crate) fn forget(&self, name: &str) {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"));
    }

    /// When [`tick`](Self::tick) has something to do. Without a watchdog never: nobody is woken to tell a status.
    pub(crate) fn timeout(&self) -> Timeout {
        self.watchdog
            .as_ref()
            .map_or(Timeout::Never, |dog| Timeout::After(dog.next.saturating_duration_since(Instant::now())))
    }

    /// Feeds the watchdog, if it is time and every worker has answered since the last time.
    pub(crate) fn tick(&mut self, server: &Handle, scribe: &Scribe) {
        let now = Instant::now();
        let Some(dog) = self.watchdog.as_mut().filter(|dog| dog.next <= now) else { return };
        if server.pongs() < dog.asked {
            if !dog.hungry {
                scribe.tell(Level::Warning, "a worker does not turn its loop: the watchdog is not fed");
            }
            dog.hungry = true;
            // Not a whole period: it may answer in a moment, and the next period ends with the kill.
            dog.next = now + dog.every / 8;
            return;
        }
        dog.hungry = false;
        dog.next = now + dog.every;
        dog.asked += 1;
        server.ping();
        let status = self.new_status(server);
        self.send(&format!("WATCHDOG=1\n{status}"));
    }

    /// The counts as a line for the manager, if they have changed.
    fn new_status(&mut self, server: &Handle) -> String {
        let now = server.counters();
        let status = format!(
            "STATUS={} connections, {} accepted, {} bytes received, {} sent\n",
            now.accepted.saturating_sub(now.closed),
            now.accepted,
            now.received_bytes,
            now.sent_bytes
        );
        if self.status == status {
            return String::new();
        }
        self.status.clone_from(&status);
        status
    }

    /// A manager that does not listen any more cannot be told so.
    fn send(&self, message: &str) {
        if let Some(socket) = &self.socket {
            let _ = socket.send(message.as_bytes());
        }
    }
}

fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&environment::notify_address(name)?)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}
