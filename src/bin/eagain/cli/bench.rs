//! `eagain bench`: its options.

use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};

use super::Stop as Refused;
use super::values::{GIB, address, bytes, seconds, timeout, whole};
use crate::address::Address;
use crate::bench::{Pace, Plan, Service, Stop};

/// One connection is one descriptor, and nobody has more.
const CONNECTIONS_MAX: u64 = 1_000_000;
const RATE_MAX: f64 = 1e7;
/// Messages on their way, over all connections: each is a number in memory.
const IN_FLIGHT_MAX: usize = 100_000_000;

/// The options of `eagain bench`, in range.
#[derive(Debug)]
pub(crate) struct Bench {
    /// `None`: servers of its own.
    pub(crate) target: Option<Address>,
    /// What to measure; for servers of its own, target and processes are still to come.
    pub(crate) plan: Plan,
    /// 1 to 1000.
    pub(crate) repeat: usize,
    /// Files to write; `-` is stdout.
    pub(crate) json: Option<PathBuf>,
    pub(crate) hdr: Option<PathBuf>,
    pub(crate) svg: Option<PathBuf>,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "bench",
    description = "Load a server, check every answer, measure.",
    example = "eagain bench
eagain bench 127.0.0.1:7007 --connections 1000 --duration 30
eagain bench 7004 --service frames --rate 50000 --json r.json --svg r.svg
eagain bench unix:/run/echo.sock --messages 1000
eagain bench 7007 --churn --pid $(pidof eagain)",
    note = "ADDRESS is HOST:PORT, [V6]:PORT, PORT (on 127.0.0.1), unix:PATH or unix:@NAME.
Without it, servers of its own: level-triggered and edge-triggered.
NAME is echo, frames, discard (upload), chargen (download) or redis-ping.
Without --rate the next message waits for the answer to the one before: what
is measured is service time. With --rate latency counts from when a message
was due, so a server that stops shows in it.
Exit code 0: every answer was right; 1: something failed.",
    help_triggers("-h", "--help", "help")
)]
pub(super) struct BenchArgs {
    /// where the server is
    #[argh(positional, arg_name = "ADDRESS")]
    address: Option<String>,
    /// what the server does [echo]
    #[argh(option, arg_name = "NAME", from_str_fn(service))]
    service: Option<Service>,
    /// connections that are kept busy [64]
    #[argh(option, arg_name = "N", from_str_fn(connections))]
    connections: Option<usize>,
    /// connections besides that do nothing [0]
    #[argh(option, arg_name = "N", from_str_fn(idle))]
    idle: Option<usize>,
    /// a new connection for each message
    #[argh(switch)]
    churn: bool,
    /// messages on their way on each connection [1]
    #[argh(option, arg_name = "N", from_str_fn(depth))]
    depth: Option<usize>,
    /// of each message; K, M, G allowed [64]
    #[argh(option, arg_name = "BYTES", from_str_fn(size))]
    size: Option<usize>,
    /// messages a second over all connections
    #[argh(option, arg_name = "N", from_str_fn(rate))]
    rate: Option<f64>,
    /// how long to measure [10]
    #[argh(option, arg_name = "SECONDS", from_str_fn(timeout))]
    duration: Option<Duration>,
    /// until each connection has had N answers
    #[argh(option, arg_name = "N", from_str_fn(messages))]
    messages: Option<u64>,
    /// load before that, not counted [1]
    #[argh(option, arg_name = "SECONDS", from_str_fn(warm_up))]
    warm_up: Option<Duration>,
    /// measure N times [1]
    #[argh(option, arg_name = "N", from_str_fn(repeat))]
    repeat: Option<usize>,
    /// threads of the load [1]
    #[argh(option, arg_name = "N", from_str_fn(threads))]
    threads: Option<usize>,
    /// a silence of this length is a failure [10]
    #[argh(option, arg_name = "SECONDS", from_str_fn(timeout))]
    timeout: Option<Duration>,
    /// a process of the server, for its CPU time
    #[argh(option, arg_name = "PID", from_str_fn(pid))]
    pid: Vec<u32>,
    /// write all figures; - is stdout
    #[argh(option, arg_name = "FILE")]
    json: Option<PathBuf>,
    /// write an HdrHistogram log; - is stdout
    #[argh(option, arg_name = "FILE")]
    hdr: Option<PathBuf>,
    /// draw the result; - is stdout
    #[argh(option, arg_name = "FILE")]
    svg: Option<PathBuf>,
}

impl BenchArgs {
    pub(super) fn check(self) -> Result<Bench, Refused> {
        self.check_together().map_err(|why| Refused::Usage(why.to_owned()))?;
        let target = self.address.as_ref().map(|text| target(text)).transpose()?;
        let usual = Plan::new(target.clone().unwrap_or(Address::Tcp(Vec::new())), self.address.unwrap_or_default());
        let connections = self.connections.unwrap_or(usual.connections);
        let plan = Plan {
            service: self.service.unwrap_or(usual.service),
            churn: self.churn,
            connections,
            idle: self.idle.unwrap_or(usual.idle),
            depth: self.depth.unwrap_or(usual.depth),
            size: self.size.unwrap_or(usual.size),
            threads: self.threads.unwrap_or(usual.threads).min(connections),
            pace: self.rate.map_or(usual.pace, |per_second| Pace::Open { per_second }),
            stop: match (self.messages, self.duration) {
                (Some(messages), _) => Stop::Messages(messages),
                (None, Some(duration)) => Stop::After(duration),
                (None, None) => usual.stop,
            },
            warm_up: match self.messages {
                Some(_) => Duration::ZERO,
                None => self.warm_up.unwrap_or(usual.warm_up),
            },
            patience: self.timeout.unwrap_or(usual.patience),
            server: self.pid,
            ..usual
        };
        if plan.connections.saturating_mul(plan.depth) > IN_FLIGHT_MAX {
            let why = format!("--connections times --depth is more than {IN_FLIGHT_MAX} messages on their way");
            return Err(Refused::Usage(why));
        }
        let repeat = self.repeat.unwrap_or(1);
        Ok(Bench { target, plan, repeat, json: self.json, hdr: self.hdr, svg: self.svg })
    }

    /// Options that contradict one another.
    fn check_together(&self) -> Result<(), &'static str> {
        let service = self.service.unwrap_or(Service::Echo);
        let stream = !service.answers();
        let stdouts = [&self.json, &self.hdr, &self.svg].into_iter().flatten().filter(|file| file.as_os_str() == "-");
        let contradictions = [
            (self.messages.is_some() && self.duration.is_some(), "--messages and --duration: give one of them"),
            (
                self.messages.is_some() && self.warm_up.is_some(),
                "--messages and --warm-up: the messages are counted from the first",
            ),
            (stream && self.rate.is_some(), "--rate needs a service that answers"),
            (stream && self.messages.is_some(), "--messages needs a service that answers"),
            (stream && self.churn, "--churn needs a service that answers"),
            (stream && self.depth.is_some(), "--depth needs a service that answers"),
            (self.churn && self.rate.is_some(), "--churn and --rate: give one of them"),
            (self.churn && self.depth.is_some(), "--churn and --depth: a connection has one message"),
            (service == Service::RedisPing && self.address.is_none(), "--service redis-ping needs ADDRESS"),
            (self.address.is_none() && !self.pid.is_empty(), "--pid needs ADDRESS: whose processes are they?"),
            (stdouts.count() > 1, "only one of --json, --hdr and --svg can be -"),
        ];
        contradictions.iter().find(|(wrong, _)| *wrong).map_or(Ok(()), |(_, why)| Err(*why))
    }
}

fn target(text: &str) -> Result<Address, Refused> {
    let target = address(&format!("ADDRESS '{text}'"), text)?;
    if matches!(&target, Address::Tcp(all) if all[0].port() == 0) {
        return Err(Refused::Usage(format!("ADDRESS '{text}': nobody can listen on port 0")));
    }
    Ok(target)
}

fn service(text: &str) -> Result<Service, String> {
    let found = Service::ALL.into_iter().find(|service| service.name() == text);
    found.ok_or_else(|| "expected echo, frames, discard, chargen or redis-ping".to_owned())
}

fn connections(text: &str) -> Result<usize, String> {
    whole(text, "connections", 1, CONNECTIONS_MAX).map(|n| n as usize)
}

fn idle(text: &str) -> Result<usize, String> {
    whole(text, "connections", 0, CONNECTIONS_MAX).map(|n| n as usize)
}

fn depth(text: &str) -> Result<usize, String> {
    whole(text, "messages", 1, 100_000).map(|n| n as usize)
}

fn size(text: &str) -> Result<usize, String> {
    bytes(text, "1G", GIB).map(|n| n as usize)
}

fn rate(text: &str) -> Result<f64, String> {
    // NaN is in no range.
    let rate = text.parse::<f64>().ok().filter(|rate| (0.001..=RATE_MAX).contains(rate));
    rate.ok_or_else(|| format!("expected messages a second from 0.001 to {RATE_MAX}"))
}

fn messages(text: &str) -> Result<u64, String> {
    whole(text, "messages", 1, 1_000_000_000_000)
}

fn warm_up(text: &str) -> Result<Duration, String> {
    seconds(text, 0.0)
}

fn repeat(text: &str) -> Result<usize, String> {
    whole(text, "measurements", 1, 1000).map(|n| n as usize)
}

fn threads(text: &str) -> Result<usize, String> {
    whole(text, "threads", 1, 1024).map(|n| n as usize)
}

fn pid(text: &str) -> Result<u32, String> {
    whole(text, "a process", 1, i32::MAX as u64).map(|n| n as u32)
}
