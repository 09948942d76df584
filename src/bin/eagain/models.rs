//! `serve --model`: other ways to wait for many clients, each a page beside the two of epoll.
//!
//! - `threads.rs`: a thread for each connection, which sleeps in `recv` and in `send`;
//! - `select.rs`: one thread, three bit sets of 1,024 descriptors, made and searched at every turn;
//! - `poll.rs`: one thread, a list of all descriptors, handed to the kernel at every turn;
//! - `completion.rs`: one thread, a completion port: operations are asked for, and tell when they are done.
//!
//! The services and the code of a connection are those of the library ([`eagain::driver`]): what `eagain compare`
//! finds to differ is how the models wait. `crowd.rs` is what select and poll have in common.

mod completion;
mod crowd;
mod poll;
mod select;
mod threads;

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eagain::Listener;
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use self::crowd::Crowd;
pub(crate) use self::threads::most_threads;
use crate::cli::{self, Model};
use crate::say::{self, Level};
use crate::serve::scribe::Scribe;
use crate::serve::services::{Any, Setting};
use crate::serve::systemd::Manager;
use crate::serve::{Failure, Names, read_again};

/// Serves by one of the models until a signal ends it.
pub(crate) fn serve(
    options: &cli::Serve,
    listeners: Vec<Listener>,
    names: Names,
    signals: &SignalFd,
    manager: &Manager,
) -> Result<(), Failure> {
    let (scribe, writer) = Scribe::start()?;
    let max_frame = u32::try_from(options.max_frame).unwrap_or(u32::MAX);
    let setting = Arc::new(Setting { names, max_frame, delay: options.delay, started: None });
    scribe.line(format_args!("serving by {}; SIGTERM drains", options.model));
    manager.ready_uncounted()?;
    let orders = Orders { signals, manager, options, scribe: scribe.clone(), patience: options.drain_timeout };
    let most = options.limits.connections.unwrap_or(usize::MAX);
    let crowd = |listeners, orders, highest| {
        let service = Any::new(&setting, scribe.clone(), None);
        Crowd::new(service, listeners, orders, Refusals::new(scribe.clone()), most, highest)
    };
    let result = match options.model {
        Model::Threads => {
            let makings = threads::Makings { setting: Arc::clone(&setting), scribe: scribe.clone() };
            threads::serve(listeners, orders, makings, most)
        }
        Model::Completion => {
            let service = Any::new(&setting, scribe.clone(), None);
            completion::serve(service, listeners, orders, Refusals::new(scribe.clone()), most)
        }
        Model::Select => select::serve(crowd(listeners, orders, select::HIGHEST)),
        Model::Poll | Model::Epoll => poll::serve(crowd(listeners, orders, None)),
    };
    drop((setting, scribe));
    writer.finish();
    result
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Finish what is due, until then.
    Drain(Instant),
    /// End now: the second signal.
    Stop,
}

/// Signals as the models see them: one more descriptor to wait for.
struct Orders<'a> {
    signals: &'a SignalFd,
    manager: &'a Manager,
    options: &'a cli::Serve,
    scribe: Scribe,
    /// How long a drain may take.
    patience: Duration,
}

impl Orders<'_> {
    /// The next one; `draining` says whether there was one before.
    fn next(&mut self, draining: bool) -> Result<Option<Order>, Failure> {
        while let Some(signal) = self.signals.read_signal()? {
            match Signal::try_from(signal.ssi_signo as i32)? {
                Signal::SIGHUP => self.reload(),
                // No process follows: it never does here.
                Signal::SIGUSR1 => {}
                signal if draining => {
                    self.scribe.tell(Level::Notice, format_args!("{signal} again: stopping now"));
                    return Ok(Some(Order::Stop));
                }
                signal => {
                    let patience = self.patience;
                    self.scribe.tell(Level::Notice, format_args!("{signal}: draining, for {patience:?} at the most"));
                    self.manager.stopping("Draining: accepting no more, answering what is due");
                    return Ok(Some(Order::Drain(Instant::now() + patience)));
                }
            }
        }
        Ok(None)
    }

    fn reload(&mut self) {
        self.manager.reloading();
        match self.changed() {
            Ok(new) => {
                self.patience = new.drain_timeout;
                say::set_level(new.log_level);
                self.scribe
                    .tell(Level::Notice, "reloaded: the time of a drain and the log level are those of the file now");
            }
            Err(why) => self.scribe.tell(Level::Error, format_args!("not reloaded, nothing is changed: {why}")),
        }
        self.manager.reloaded();
    }

    /// The options, if nothing else has changed than what can be.
    fn changed(&self) -> Result<cli::Serve, String> {
        let (old, new) = (self.options, read_again(self.options)?);
        let fixed = [("the listeners", new.listen != old.listen), ("max-connections", new.limits != old.limits)];
        match fixed.into_iter().find(|&(_, changed)| changed) {
            Some((name, _)) => Err(format!("a restart is needed to change {name} with --model {}", old.model)),
            None => Ok(new),
        }
    }
}

/// Clients that were refused for the same reason are told of one by one at first, then by their number.
struct Refusals {
    scribe: Scribe,
    told: Option<Instant>,
    untold: u64,
}

/// Between two lines about refused clients.
const QUIET: Duration = Duration::from_secs(10);

impl Refusals {
    fn new(scribe: Scribe) -> Self {
        Self { scribe, told: None, untold: 0 }
    }

    fn tell(&mut self, now: Instant, why: impl Display) {
        self.untold += 1;
        if self.told.is_some_and(|told| now - told < QUIET) {
            return;
        }
        let count = std::mem::take(&mut self.untold);
        let clients = if count == 1 { "client" } else { "clients" };
        self.scribe.tell(Level::Warning, format_args!("{count} {clients} refused: {why}"));
        self.told = Some(now);
    }
}
