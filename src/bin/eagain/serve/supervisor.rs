//! The main thread while the workers serve: signals, the manager's questions, and the end.

use std::sync::mpsc::Receiver;
use std::time::Duration;

use eagain::limits::WAIT_FAILURES_MAX;
use eagain::sys::epoll::{Epoll, Events, Interest, Mode};
use eagain::{Parcel, Server};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use super::Failure;
use super::handover::Way;
use super::listening::Listening;
use super::scribe::Scribe;
use super::systemd::Manager;
use crate::cli::{self, Command, Stop};
use crate::say::{self, Level};

const SIGNAL: u64 = 0;
const ENDED: u64 = 1;

/// Who ends the server, and how.
pub(super) struct Supervisor<'a> {
    options: &'a cli::Serve,
    server: Server,
    listening: Listening,
    /// To the next process.
    way: Option<Way>,
    manager: Manager,
    scribe: Scribe,
    drain_timeout: Duration,
    /// SIGUSR1 has come: no process follows.
    last: bool,
    /// A signal to end has come.
    ending: bool,
    /// Connections for the next process.
    parcels: Option<Receiver<Vec<Parcel>>>,
}

impl<'a> Supervisor<'a> {
    pub(super) fn new(
        options: &'a cli::Serve,
        server: Server,
        listening: Listening,
        way: Option<Way>,
        manager: Manager,
        scribe: Scribe,
    ) -> Self {
        let drain_timeout = options.drain_timeout;
        let (last, ending, parcels) = (false, false, None);
        Self { options, server, listening, way, manager, scribe, drain_timeout, last, ending, parcels }
    }

    /// Returns when the workers have ended, and all that they leave to the next process is on its way.
    pub(super) fn run(mut self, epoll: &Epoll, signals: &SignalFd) -> Result<(), Failure> {
        epoll.add(signals, SIGNAL, Interest::READ, Mode::LEVEL)?;
        epoll.add(&self.server, ENDED, Interest::READ, Mode::LEVEL)?;
        self.manager.ready(self.server.handle());
        let mut events = Events::with_capacity(2);
        let mut failed_waits = 0;
        loop {
            match epoll.wait(&mut events, self.manager.timeout()) {
                Ok(_) => failed_waits = 0,
                // As in a worker: all clients are at stake. What stays ends it: there would be no way to drain.
                Err(_) if failed_waits < WAIT_FAILURES_MAX => failed_waits += 1,
                Err(error) => return Err(error.into()),
            }
            self.manager.tick(self.server.handle(), &self.scribe);
            if events.iter().any(|event| event.data() == ENDED) {
                break;
            }
            while let Some(signal) = signals.read_signal()? {
                self.obey(Signal::try_from(signal.ssi_signo as i32)?);
            }
        }
        let result = self.server.join();
        if let (Some(parcels), Some(way)) = (self.parcels, self.way) {
            send_on(parcels, &way, &self.listening, &self.scribe);
        }
        Ok(result?)
    }

    fn obey(&mut self, signal: Signal) {
        match signal {
            Signal::SIGHUP => self.reload(),
            Signal::SIGUSR1 => self.last = true,
            signal if self.ending => {
                self.scribe.tell(Level::Notice, format_args!("{signal} again: stopping now"));
                self.server.handle().shutdown();
            }
            signal => self.end(signal),
        }
    }

    /// The first signal hands over, if there is a way to the next process and one is to be expected; else it drains.
    fn end(&mut self, signal: Signal) {
        self.ending = true;
        let may_follow = signal == Signal::SIGTERM && !self.last;
        if may_follow && self.way.as_ref().is_some_and(Way::is_kept) {
            self.scribe.tell(Level::Notice, format_args!("{signal}: handing the connections to the next process"));
            self.manager.stopping("Handing the connections to the next process");
            self.parcels = Some(self.server.handle().hand_over(self.drain_timeout));
        } else {
            let most = self.drain_timeout;
            self.scribe.tell(Level::Notice, format_args!("{signal}: draining, for {most:?} at the most"));
            self.manager.stopping("Draining: accepting no more, answering what is due");
            self.server.handle().drain(most);
        }
    }

    /// Applies what the file says now, or nothing of it. The manager is told before and after; `systemctl reload` waits
    /// for the second.
    fn reload(&mut self) {
        self.manager.reloading();
        match self.apply() {
            Ok(what) => self.scribe.tell(Level::Notice, what),
            Err(why) => self.scribe.tell(Level::Error, format_args!("not reloaded, nothing is changed: {why}")),
        }
        self.manager.reloaded();
    }

    fn apply(&mut self) -> Result<&'static str, String> {
        if self.options.config.is_none() {
            return Ok("nothing to reload: there is no --config");
        }
        let new = read_again(self.options)?;
        let changes = self.listening.changes(&new)?;
        let server = self.server.handle();
        self.listening.apply(changes, server, &self.manager).map_err(|why| why.to_string())?;
        self.drain_timeout = new.drain_timeout;
        server.reconfigure(new.limits, new.timeouts, new.access);
        say::set_level(new.log_level);
        Ok("reloaded: listeners, limits, timeouts, addresses and log level are those of the file now")
    }
}

/// Writes what the workers have packed into the way; they have ended, so nothing more comes.
fn send_on(parcels: Receiver<Vec<Parcel>>, way: &Way, listening: &Listening, scribe: &Scribe) {
    let parcels: Vec<Parcel> = parcels.into_iter().flatten().collect();
    let all = parcels.len();
    let (sent, error) = way.send(parcels, |index| listening.label(index));
    scribe.tell(Level::Notice, format_args!("{sent} connections are handed to the next process"));
    if let Some(error) = error {
        let why = say::reason(&error);
        scribe.tell(Level::Error, format_args!("{} connections are closed, they cannot be sent: {why}", all - sent));
    }
}

/// Reads the options again, as at the start: the command line, and the file that it names.
pub(crate) fn read_again(old: &cli::Serve) -> Result<cli::Serve, String> {
    let new = match cli::parse(std::env::args_os().skip(1)) {
        Ok(Command::Serve(new)) => new,
        Ok(_) => return Err("the command line is not that of serve".to_owned()),
        Err(Stop::Usage(why) | Stop::Failed(why) | Stop::Answered(why)) => return Err(why),
    };
    let fixed = [
        ("metrics", new.metrics != old.metrics),
        ("model", new.model != old.model),
        ("edge-triggered", new.edge_triggered != old.edge_triggered),
        ("workers", new.workers != old.workers),
        ("accept", new.accept != old.accept),
        ("backlog", new.backlog != old.backlog),
        ("max-frame", new.max_frame != old.max_frame),
        ("delay-ms", new.delay != old.delay),
        ("trace", new.trace != old.trace),
        ("log-format", new.log_format != old.log_format),
        ("proxy-protocol", new.proxy_protocol != old.proxy_protocol),
    ];
    let changed: Vec<&str> = fixed.into_iter().filter(|&(_, changed)| changed).map(|(name, _)| name).collect();
    if changed.is_empty() { Ok(new) } else { Err(format!("a restart is needed to change {}", changed.join(", "))) }
}
