//! `eagain serve`: listeners, workers, signals.
//!
//! The main thread prepares everything, starts the workers and then sleeps in an epoll of its own until a signal comes
//! or a worker ends.

mod environment;
mod exposition;
mod handover;
mod listening;
mod metrics;
mod narrator;
mod quota;
pub(crate) mod scribe;
pub(crate) mod services;
mod supervisor;
pub(crate) mod systemd;
mod visits;

use std::process::ExitCode;

use eagain::service::Proxied;
use eagain::sys::epoll::Epoll;
use eagain::{Accept, Config, Handle, Listener, Parcel, Server, Service, Trigger};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use self::handover::{Arrival, Way};
use self::listening::Listening;
pub(crate) use self::listening::Names;
use self::narrator::Narrator;
use self::quota::Kind;
use self::scribe::Scribe;
use self::services::{Any, Setting};
use self::supervisor::Supervisor;
pub(crate) use self::supervisor::read_again;
use self::systemd::Manager;
use crate::cli::{self, Model, ServiceName};
use crate::models;
use crate::say::{self, Event, Level};

pub(crate) fn run(options: cli::Serve) -> ExitCode {
    say::set_format(options.log_format);
    say::set_level(options.log_level);
    match serve(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say::error(why);
            ExitCode::FAILURE
        }
    }
}

pub(crate) type Failure = Box<dyn std::error::Error>;

fn serve(options: &cli::Serve) -> Result<(), Failure> {
    if options.check {
        say::out("the options are right\n");
        return Ok(());
    }
    let manager = Manager::connect()?;
    // Before any thread is made, so that all of them leave the signals to this one.
    let signals = block_signals(options.config.is_some() || manager.is_there())?;
    raise_descriptor_limit();
    let (listening, listeners, way) = Listening::start(options, systemd::passed()?, &manager)?;
    listening.announce();
    if options.model != Model::Epoll {
        return models::serve(options, listeners, listening.names(), &signals, &manager);
    }
    let (way, arrivals) = Way::open(way, &manager)?;
    // Before the server starts: it may take every descriptor there is for its clients.
    let epoll = Epoll::new()?;
    let (scribe, writer) = Scribe::start()?;
    let server = start(options, listeners, listening.names(), scribe.clone())?;
    welcome(arrivals, &server, &listening, &scribe);
    let supervisor = Supervisor::new(options, server, listening, way, manager, scribe);
    let result = supervisor.run(&epoll, &signals);
    writer.finish();
    result
}

/// Goes on with the connections of the process before this one.
fn welcome(arrivals: Vec<Arrival>, server: &Server, listening: &Listening, scribe: &Scribe) {
    let (mut taken, mut lost) = (0_usize, 0_usize);
    for Arrival { label, socket, state } in arrivals {
        let parcel = listening.find(&label).and_then(|index| Parcel::from_parts(index, socket, &state).ok());
        match parcel.map(|parcel| server.handle().resume(parcel)) {
            Some(Ok(())) => taken += 1,
            _ => lost += 1,
        }
    }
    if taken > 0 {
        scribe.tell(Level::Notice, format_args!("{taken} connections go on that the process before this one had"));
    }
    if lost > 0 {
        let why = "their service is not offered any more, or another version had them";
        scribe
            .tell(Level::Warning, format_args!("{lost} connections of the process before this one are closed: {why}"));
    }
}

/// SIGHUP is a reload where there is a file to read or a manager to answer, and else what it always is: the terminal
/// has gone.
fn block_signals(reload: bool) -> Result<SignalFd, Failure> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
    set.add(Signal::SIGUSR1);
    if reload {
        set.add(Signal::SIGHUP);
    }
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// One connection is one descriptor: take all that the hard limit allows.
fn raise_descriptor_limit() {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => say::note(format_args!("up to {hard} descriptors (RLIMIT_NOFILE, raised from {soft})")),
            Err(error) => say::warning(format_args!("up to {soft} descriptors (RLIMIT_NOFILE: {error})")),
        },
        Ok((soft, _)) => say::note(format_args!("up to {soft} descriptors (RLIMIT_NOFILE)")),
        Err(error) => say::warning(format_args!("cannot read RLIMIT_NOFILE: {error}")),
    }
}

fn start(options: &cli::Serve, listeners: Vec<Listener>, names: Names, scribe: Scribe) -> Result<Server, Failure> {
    let trigger = if options.edge_triggered { Trigger::Edge } else { Trigger::Level };
    let config = Config {
        trigger,
        workers: options.workers,
        limits: options.limits,
        timeouts: options.timeouts,
        access: options.access.clone(),
        accept: if options.accept == cli::Accept::Handoff { Accept::Handoff } else { Accept::Keep },
    };
    let max_frame = u32::try_from(options.max_frame).unwrap_or(u32::MAX);
    let setting = Setting { names, max_frame, delay: options.delay, started: exposition::start_of_process() };
    scribe.line(format_args!(
        "serving {} with {} worker{}; SIGTERM drains",
        if options.edge_triggered { "edge-triggered" } else { "level-triggered" },
        options.workers,
        if options.workers == 1 { "" } else { "s" },
    ));
    let refused = scribe.clone();
    let all = setting.names.all();
    let direct: Vec<usize> = (0..all.len()).filter(|&index| all[index] == ServiceName::Metrics).collect();
    let service = move |handle: &Handle| Any::new(&setting, scribe.clone(), Some(handle));
    if !options.proxy_protocol {
        return launch(config, listeners, service, options.trace);
    }
    let proxied = move |handle: &Handle| {
        let scribe = refused.clone();
        let proxied = Proxied::new(service(handle), move |peer, why| {
            scribe.tell_some(Kind::ProxyHeader, || {
                (format!("closing {peer}: {why}"), Event::ProxyHeader { peer, reason: why.to_string() })
            });
        });
        // Whoever reads the metrics comes by himself.
        direct.iter().fold(proxied, |proxied, &listener| proxied.except(listener))
    };
    launch(config, listeners, proxied, options.trace)
}

fn launch<S: Service + 'static>(
    config: Config,
    listeners: Vec<Listener>,
    service: impl Fn(&Handle) -> S + Send + Sync + 'static,
    trace: bool,
) -> Result<Server, Failure> {
    Ok(if trace {
        Server::start_traced(config, listeners, service, Narrator::default)?
    } else {
        Server::start(config, listeners, service)?
    })
}
