//! `eagain serve`: listeners, workers, signals.
//!
//! The main thread prepares everything, starts the workers and then sleeps in an epoll of its own until a signal comes
//! or a worker ends.

mod exposition;
mod metrics;
mod narrator;
mod scribe;
mod services;
mod systemd;

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;

use eagain::service::Proxied;
use eagain::sys::epoll::{Epoll, Events, Interest, Mode};
use eagain::{Accept, Config, Handle, Listener, Server, Service, Trigger, somaxconn};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use self::narrator::Narrator;
use self::scribe::Scribe;
use self::services::{Any, Setting};
use self::systemd::Manager;
use crate::address::Address;
use crate::cli::{self, Command, ServiceName, Stop};
use crate::say::{self, Level};

pub(crate) fn run(options: cli::Serve) -> ExitCode {
    match serve(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say::error(why);
            ExitCode::FAILURE
        }
    }
}

type Failure = Box<dyn std::error::Error>;

fn serve(options: &cli::Serve) -> Result<(), Failure> {
    if options.check {
        say::out("the options are right\n");
        return Ok(());
    }
    // Before any thread is made, so that all of them leave the signals to this one.
    let signals = block_signals(options.config.is_some())?;
    raise_descriptor_limit();
    let mut manager = Manager::connect()?;
    let (listeners, names) = listen(options)?;
    announce(&listeners, &names);
    // Before the server starts: it may take every descriptor there is for its clients.
    let epoll = Epoll::new()?;
    epoll.add(&signals, SIGNAL, Interest::READ, Mode::LEVEL)?;
    let (scribe, writer) = Scribe::start()?;
    let server = start(options, listeners, names, scribe.clone())?;
    epoll.add(&server, ENDED, Interest::READ, Mode::LEVEL)?;
    manager.ready(server.handle());
    supervise(&server, &signals, &epoll, &scribe, &mut manager, options)?;
    drop(scribe);
    let result = server.join();
    writer.finish();
    Ok(result?)
}

/// SIGHUP is a reload where there is a file to read, and else what it always is: the terminal has gone.
fn block_signals(reload: bool) -> Result<SignalFd, Failure> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGINT);
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

/// Takes the listeners that are passed, and binds the others, before anything is announced: a server that cannot have
/// them all does not start.
fn listen(options: &cli::Serve) -> Result<(Vec<Listener>, Vec<ServiceName>), Failure> {
    let limit = somaxconn();
    let backlog = options.backlog.map_or(limit, |asked| asked.unsigned_abs());
    if backlog > limit {
        say::warning(format_args!(
            "the kernel cuts --backlog {backlog} to {limit}: raise net.core.somaxconn \
             (sysctl -w net.core.somaxconn={backlog})"
        ));
    }
    // First, as those that stay while the server drains do: whoever watches it watches that too.
    let mut listeners = Vec::new();
    for listener in options.metrics.iter().map(|address| listen_on(address, backlog, options)) {
        listeners.extend(listener?.into_iter().map(|one| (ServiceName::Metrics, one.stay_while_draining())));
    }
    let inherited = systemd::sockets()?;
    let default = if inherited.is_empty() { cli::default_listeners() } else { Vec::new() };
    listeners.extend(inherited);
    for (service, address) in if options.listen.is_empty() { &default } else { &options.listen } {
        listeners.extend(listen_on(address, backlog, options)?.into_iter().map(|listener| (*service, listener)));
    }
    Ok(listeners.into_iter().map(|(service, listener)| (listener, service)).unzip())
}

fn listen_on(address: &Address, backlog: u32, options: &cli::Serve) -> Result<Vec<Listener>, Failure> {
    let tcp = |&address: &SocketAddr| match options.accept {
        cli::Accept::Reuseport => Listener::tcp_reuseport(address, backlog, options.workers),
        cli::Accept::Handoff | cli::Accept::Exclusive => Listener::tcp(address, backlog),
    };
    Ok(match address {
        Address::Tcp(addresses) => addresses.iter().map(tcp).collect::<Result<_, _>>()?,
        Address::Unix(path) => vec![Listener::unix(path, backlog)?],
        Address::Abstract(name) => vec![Listener::unix_abstract(name, backlog)?],
    })
}

/// One line on stdout for each listener: scripts wait for it, and read the port from it.
fn announce(listeners: &[Listener], names: &[ServiceName]) {
    let mut stdout = std::io::stdout().lock();
    for (listener, name) in listeners.iter().zip(names) {
        let written = writeln!(stdout, "listening {name} {}", listener.address()).and_then(|()| stdout.flush());
        if let Err(error) = written {
            return say::warning(format_args!("cannot write to stdout: {}", say::reason(&error)));
        }
    }
}

fn start(
    options: &cli::Serve,
    listeners: Vec<Listener>,
    names: Vec<ServiceName>,
    scribe: Scribe,
) -> Result<Server, Failure> {
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
    let is_direct = |&index: &usize| setting.names[index] == ServiceName::Metrics;
    let direct: Vec<usize> = (0..setting.names.len()).filter(is_direct).collect();
    let service = move |handle: &Handle| Any::new(&setting, scribe.clone(), handle);
    if !options.proxy_protocol {
        return launch(config, listeners, service, options.trace);
    }
    let proxied = move |handle: &Handle| {
        let scribe = refused.clone();
        let proxied =
            Proxied::new(service(handle), move |from, why| scribe.line(format_args!("closing {from}: {why}")));
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

const SIGNAL: u64 = 0;
const ENDED: u64 = 1;

/// Returns when the workers have ended, or are about to. The first signal drains, the second one stops.
fn supervise(
    server: &Server,
    signals: &SignalFd,
    epoll: &Epoll,
    scribe: &Scribe,
    manager: &mut Manager,
    options: &cli::Serve,
) -> Result<(), Failure> {
    let mut events = Events::with_capacity(2);
    let mut drain_timeout = options.drain_timeout;
    let mut draining = false;
    loop {
        epoll.wait(&mut events, manager.timeout())?;
        manager.tick(server.handle(), scribe);
        if events.iter().any(|event| event.data() == ENDED) {
            return Ok(());
        }
        while let Some(signal) = signals.read_signal()? {
            let name = Signal::try_from(signal.ssi_signo as i32).map_or("signal", Signal::as_str);
            if name == Signal::SIGHUP.as_str() {
                match reload(options) {
                    Ok(new) => {
                        drain_timeout = new.drain_timeout;
                        server.handle().reconfigure(new.limits, new.timeouts, new.access);
                        scribe
                            .tell(Level::Notice, "reloaded: limits, timeouts and addresses are those of the file now");
                    }
                    Err(why) => scribe.tell(Level::Error, format_args!("not reloaded, nothing is changed: {why}")),
                }
                continue;
            }
            if draining {
                scribe.tell(Level::Notice, format_args!("{name} again: stopping now"));
                server.handle().shutdown();
                return Ok(());
            }
            draining = true;
            scribe.tell(Level::Notice, format_args!("{name}: draining, for {drain_timeout:?} at the most"));
            manager.stopping();
            server.handle().drain(drain_timeout);
        }
    }
}

/// Reads the options again, as at the start: the command line, and the file that it names.
fn reload(old: &cli::Serve) -> Result<cli::Serve, String> {
    let new = match cli::parse(std::env::args_os().skip(1)) {
        Ok(Command::Serve(new)) => new,
        Ok(_) => return Err("the command line is not that of serve".to_owned()),
        Err(Stop::Usage(why) | Stop::Failed(why) | Stop::Answered(why)) => return Err(why),
    };
    let fixed = [
        ("the listeners", new.listen != old.listen),
        ("edge-triggered", new.edge_triggered != old.edge_triggered),
        ("workers", new.workers != old.workers),
        ("accept", new.accept != old.accept),
        ("backlog", new.backlog != old.backlog),
        ("max-frame", new.max_frame != old.max_frame),
        ("delay-ms", new.delay != old.delay),
        ("trace", new.trace != old.trace),
        ("proxy-protocol", new.proxy_protocol != old.proxy_protocol),
    ];
    let changed: Vec<&str> = fixed.into_iter().filter(|&(_, changed)| changed).map(|(name, _)| name).collect();
    if changed.is_empty() { Ok(new) } else { Err(format!("a restart is needed to change {}", changed.join(", "))) }
}
