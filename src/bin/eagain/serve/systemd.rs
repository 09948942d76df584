//! What a service and systemd have to say to each other: sockets are passed by inheritance (sd_listen_fds(3)),
//! readiness and signs of life are datagrams (sd_notify(3)).
//!
//! Nothing is taken out of the environment: the server starts no other program, and LISTEN_PID and WATCHDOG_PID say
//! themselves whom they mean.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io;
use std::os::fd::RawFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::time::{Duration, Instant};

use eagain::sys::epoll::Timeout;
use eagain::sys::inherited;
use eagain::{Handle, Listener};

use super::Failure;
use super::scribe::Scribe;
use crate::cli::ServiceName;
use crate::say::{self, Level};

/// The number of the first descriptor that is passed (SD_LISTEN_FDS_START).
const FIRST: RawFd = 3;

/// How long a datagram may wait for the manager to read those before it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The listening sockets that were passed to this process, by the names that they have.
pub(crate) fn sockets() -> Result<Vec<(ServiceName, Listener)>, Failure> {
    if number("LISTEN_PID")? != Some(process::id().into()) {
        return Ok(Vec::new());
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').chain(std::iter::repeat("")).take(number("LISTEN_FDS")?.unwrap_or(0) as usize);
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for (fd, name) in (FIRST..).zip(names) {
        let refused = |why: &dyn Display| format!("descriptor {fd}, which was passed as '{name}': {why}");
        let socket = inherited::take(fd).map_err(|error| refused(&say::reason(&error)))?;
        let listener = Listener::adopt(socket).map_err(|error| refused(&error))?;
        match ServiceName::ALL.into_iter().find(|service| service.to_string() == name) {
            Some(service) => known.push((service, listener)),
            None => unknown.push(format!("{} as '{name}'", listener.address())),
        }
    }
    if unknown.is_empty() {
        return Ok(known);
    }
    let services = ServiceName::ALL.map(|service| service.to_string()).join(", ");
    Err(format!("passed {}: FileDescriptorName= must be one of {services}", unknown.join(" and ")).into())
}

/// A whole number in the environment.
fn number(name: &str) -> Result<Option<u64>, Failure> {
    let Some(text) = std::env::var_os(name) else { return Ok(None) };
    let number = text.to_str().and_then(|text| text.parse().ok());
    Ok(Some(number.ok_or_else(|| format!("{name} is {text:?}, not a number"))?))
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
        let mine = number("WATCHDOG_PID")?.is_none_or(|pid| pid == process::id().into());
        let limit = number("WATCHDOG_USEC")?.filter(|_| mine && socket.is_some());
        let watchdog = limit.map(|limit| Watchdog {
            every: Duration::from_micros(limit) / 2,
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

    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=Draining: accepting no more, answering what is due");
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

/// `/path`, or `@name` for an abstract one.
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(name)?,
    }
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}
