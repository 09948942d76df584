//! `eagain serve`: its options.

use std::fmt;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use eagain::{AccessList, Cidr, Limits, Timeouts};

use super::Stop;
use super::values::{MIB, address, bytes, max_frame, seconds, timeout, whole};
use crate::address::Address;
use crate::say::{Format, Level};

/// A thread per processor is the point; more than this is a typing error.
const WORKERS_MAX: u64 = 1024;
const DAY_MS: u64 = 86_400_000;

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServiceName {
    Echo,
    Discard,
    Chargen,
    Frames,
    Log,
    Delay,
    /// Not a service for users: the counters, over HTTP.
    Metrics,
}

impl ServiceName {
    pub(crate) const ALL: [Self; 6] = [Self::Echo, Self::Discard, Self::Chargen, Self::Frames, Self::Log, Self::Delay];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            ServiceName::Echo => "echo",
            ServiceName::Discard => "discard",
            ServiceName::Chargen => "chargen",
            ServiceName::Frames => "frames",
            ServiceName::Log => "log",
            ServiceName::Delay => "delay",
            ServiceName::Metrics => "metrics",
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How new connections come to the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accept {
    Handoff,
    Exclusive,
    Reuseport,
}

/// How the server waits for many clients at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Model {
    Threads,
    Select,
    Poll,
    Completion,
    Epoll,
}

impl Model {
    const ALL: [Self; 5] = [Self::Threads, Self::Select, Self::Poll, Self::Completion, Self::Epoll];
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Model::Threads => "threads",
            Model::Select => "select",
            Model::Poll => "poll",
            Model::Completion => "completion",
            Model::Epoll => "epoll",
        })
    }
}

/// The options of `eagain serve`, in range.
#[derive(Debug)]
pub(crate) struct Serve {
    /// By service, each service's addresses in the order given. Empty if none is given: see [`default_listeners`].
    /// Without that of metrics.
    pub(crate) listen: Vec<(ServiceName, Address)>,
    pub(crate) metrics: Option<Address>,
    /// How long the delay service holds its answers: 0 to a day.
    pub(crate) delay: Duration,
    pub(crate) edge_triggered: bool,
    pub(crate) model: Model,
    /// 1 to 1024.
    pub(crate) workers: usize,
    /// At least 1; `None`: as long as the kernel allows.
    pub(crate) backlog: Option<i32>,
    /// Payload bytes: 1 to 1 GiB.
    pub(crate) max_frame: usize,
    /// Every listener is behind a proxy that speaks the PROXY protocol.
    pub(crate) proxy_protocol: bool,
    pub(crate) access: AccessList,
    pub(crate) trace: bool,
    pub(crate) log_level: Level,
    pub(crate) log_format: Format,
    /// 0 to a day.
    pub(crate) drain_timeout: Duration,
    /// Where SIGHUP finds what may be changed while it serves.
    pub(crate) config: Option<PathBuf>,
    /// Only say whether the options are right.
    pub(crate) check: bool,
    pub(crate) accept: Accept,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "serve",
    description = "Run the server until SIGTERM or SIGINT.",
    example = "eagain serve
eagain serve --edge-triggered --echo '[::1]:7' --frames 0.0.0.0:7004
eagain serve --echo 7007 --echo unix:/run/echo.sock --max-frame 64K
eagain serve --delay 127.0.0.1:0 --delay-ms 250 --trace",
    note = "ADDRESS is HOST:PORT, [V6]:PORT, PORT (on 127.0.0.1), unix:PATH or unix:@NAME.
Port 0 lets the kernel choose. A service may be given several times.
CIDR is a network (192.0.2.0/24) or one address. The longest prefix decides.
Sockets that systemd passes are served by their FileDescriptorName=.
Without any service: echo on 127.0.0.1:7007 and frames on 127.0.0.1:7004.
Each listener is one line on stdout: listening SERVICE ADDRESS.",
    help_triggers("-h", "--help", "help")
)]
pub(super) struct ServeArgs {
    /// send back what arrives (RFC 862)
    #[argh(option, arg_name = "ADDRESS")]
    echo: Vec<String>,
    /// read and forget (RFC 863)
    #[argh(option, arg_name = "ADDRESS")]
    discard: Vec<String>,
    /// send text as fast as it is read (RFC 864)
    #[argh(option, arg_name = "ADDRESS")]
    chargen: Vec<String>,
    /// send back messages: 4-byte length, payload
    #[argh(option, arg_name = "ADDRESS")]
    frames: Vec<String>,
    /// print what arrives
    #[argh(option, arg_name = "ADDRESS")]
    log: Vec<String>,
    /// send back what arrives, later
    #[argh(option, arg_name = "ADDRESS")]
    delay: Vec<String>,
    /// how much later, in milliseconds [1000]
    #[argh(option, arg_name = "N", from_str_fn(delay_ms))]
    delay_ms: Option<u64>,
    /// edge-triggered epoll [level-triggered]
    #[argh(switch)]
    edge_triggered: bool,
    /// threads, select, poll, completion, epoll [epoll]
    #[argh(option, arg_name = "NAME", from_str_fn(model))]
    model: Option<Model>,
    /// threads, an epoll each [one per processor]
    #[argh(option, arg_name = "N", from_str_fn(workers))]
    workers: Option<u64>,
    /// handoff, exclusive or reuseport [handoff]
    #[argh(option, arg_name = "HOW", from_str_fn(accept))]
    accept: Option<Accept>,
    /// clients waiting to be accepted [kernel's limit]
    #[argh(option, arg_name = "N", from_str_fn(backlog))]
    backlog: Option<i32>,
    /// longest payload of a frame; K, M, G allowed [1M]
    #[argh(option, arg_name = "BYTES", from_str_fn(max_frame))]
    max_frame: Option<u64>,
    /// read options from TOML; SIGHUP reads again
    #[argh(option, arg_name = "FILE")]
    config: Option<String>,
    /// check the options, serve nothing
    #[argh(switch)]
    check: bool,
    /// expect a PROXY header (v1, v2) from each client
    #[argh(switch)]
    proxy_protocol: bool,
    /// let this network connect, and no other
    #[argh(option, arg_name = "CIDR", from_str_fn(cidr))]
    allow: Vec<Cidr>,
    /// close what connects from this network
    #[argh(option, arg_name = "CIDR", from_str_fn(cidr))]
    deny: Vec<Cidr>,
    /// counters over HTTP: /metrics, /healthz, /readyz
    #[argh(option, arg_name = "ADDRESS")]
    metrics: Option<String>,
    /// narrate the loop on stderr
    #[argh(switch)]
    trace: bool,
    /// error, warning, notice, info or debug [info]
    #[argh(option, arg_name = "LEVEL", from_str_fn(log_level))]
    log_level: Option<Level>,
    /// text or json, a line each on stderr [text]
    #[argh(option, arg_name = "FORMAT", from_str_fn(log_format))]
    log_format: Option<Format>,
    /// time to finish answers after SIGTERM [5]
    #[argh(option, arg_name = "SECONDS", from_str_fn(drain_timeout))]
    drain_timeout: Option<Duration>,
    /// close what comes when N are connected
    #[argh(option, arg_name = "N", from_str_fn(connections))]
    max_connections: Option<usize>,
    /// the same for each IP address
    #[argh(option, arg_name = "N", from_str_fn(connections))]
    max_connections_per_ip: Option<usize>,
    /// close what comes above N a second
    #[argh(option, arg_name = "N", from_str_fn(accept_rate))]
    accept_rate: Option<u32>,
    /// what all may have waiting; K, M, G allowed
    #[argh(option, arg_name = "BYTES", from_str_fn(max_buffered))]
    max_buffered: Option<usize>,
    /// close who is silent so long
    #[argh(option, arg_name = "SECONDS", from_str_fn(timeout))]
    idle_timeout: Option<Duration>,
    /// close who never said a byte
    #[argh(option, arg_name = "SECONDS", from_str_fn(timeout))]
    first_byte_timeout: Option<Duration>,
    /// close who takes nothing of an answer
    #[argh(option, arg_name = "SECONDS", from_str_fn(timeout))]
    write_timeout: Option<Duration>,
    /// close who does not finish a frame
    #[argh(option, arg_name = "SECONDS", from_str_fn(timeout))]
    frame_timeout: Option<Duration>,
}

impl ServeArgs {
    pub(super) fn check(self) -> Result<Serve, Stop> {
        let model = self.model.unwrap_or(Model::Epoll);
        if let Some(option) = self.only_of_epoll().filter(|_| model != Model::Epoll) {
            return Err(Stop::Usage(format!("{option} is of --model epoll, not of --model {model}")));
        }
        let given = [
            (ServiceName::Echo, self.echo),
            (ServiceName::Discard, self.discard),
            (ServiceName::Chargen, self.chargen),
            (ServiceName::Frames, self.frames),
            (ServiceName::Log, self.log),
            (ServiceName::Delay, self.delay),
        ];
        let mut listen = Vec::new();
        for (service, texts) in given {
            for text in texts {
                listen.push((service, address(&format!("--{service} '{text}'"), &text)?));
            }
        }
        let place = |text: &String| address(&format!("--metrics '{text}'"), text);
        let metrics = self.metrics.as_ref().map(place).transpose()?;
        Ok(Serve {
            listen,
            metrics,
            delay: Duration::from_millis(self.delay_ms.unwrap_or(1000)),
            edge_triggered: self.edge_triggered,
            model,
            workers: self.workers.map_or_else(processors, |n| n as usize),
            backlog: self.backlog,
            max_frame: self.max_frame.unwrap_or(MIB) as usize,
            proxy_protocol: self.proxy_protocol,
            access: AccessList::new(self.allow, self.deny),
            trace: self.trace,
            log_level: self.log_level.unwrap_or(Level::Info),
            log_format: self.log_format.unwrap_or(Format::Text),
            drain_timeout: self.drain_timeout.unwrap_or(Duration::from_secs(5)),
            config: self.config.map(PathBuf::from),
            check: self.check,
            accept: self.accept.unwrap_or(Accept::Handoff),
            limits: Limits {
                connections: self.max_connections,
                connections_per_ip: self.max_connections_per_ip,
                accepts_per_second: self.accept_rate,
                buffered_bytes: self.max_buffered,
            },
            timeouts: Timeouts {
                idle: self.idle_timeout,
                first_byte: self.first_byte_timeout,
                write_stall: self.write_timeout,
                message: self.frame_timeout,
            },
        })
    }
}

impl ServeArgs {
    /// The first option that is given and that the other models do not have.
    fn only_of_epoll(&self) -> Option<&'static str> {
        let options = [
            ("--edge-triggered", self.edge_triggered),
            ("--workers", self.workers.is_some()),
            ("--accept", self.accept.is_some()),
            ("--proxy-protocol", self.proxy_protocol),
            ("--allow", !self.allow.is_empty()),
            ("--deny", !self.deny.is_empty()),
            ("--metrics", self.metrics.is_some()),
            ("--trace", self.trace),
            ("--max-connections-per-ip", self.max_connections_per_ip.is_some()),
            ("--accept-rate", self.accept_rate.is_some()),
            ("--max-buffered", self.max_buffered.is_some()),
            ("--idle-timeout", self.idle_timeout.is_some()),
            ("--first-byte-timeout", self.first_byte_timeout.is_some()),
            ("--write-timeout", self.write_timeout.is_some()),
            ("--frame-timeout", self.frame_timeout.is_some()),
        ];
        options.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }
}

/// What is served when neither the command line nor a service manager says what.
pub(crate) fn default_listeners() -> Vec<(ServiceName, Address)> {
    let local = |port| Address::Tcp(vec![(std::net::Ipv4Addr::LOCALHOST, port).into()]);
    vec![(ServiceName::Echo, local(7007)), (ServiceName::Frames, local(7004))]
}

fn processors() -> usize {
    available_parallelism().map_or(1, |n| n.get().min(WORKERS_MAX as usize))
}

fn delay_ms(text: &str) -> Result<u64, String> {
    whole(text, "milliseconds", 0, DAY_MS)
}

fn workers(text: &str) -> Result<u64, String> {
    whole(text, "threads", 1, WORKERS_MAX)
}

fn backlog(text: &str) -> Result<i32, String> {
    whole(text, "connections", 1, i32::MAX as u64).map(|n| n as i32)
}

fn connections(text: &str) -> Result<usize, String> {
    whole(text, "connections", 1, i32::MAX as u64).map(|n| n as usize)
}

fn accept_rate(text: &str) -> Result<u32, String> {
    whole(text, "connections a second", 1, 1_000_000).map(|n| n as u32)
}

fn max_buffered(text: &str) -> Result<usize, String> {
    bytes(text, "1T", 1 << 40).map(|n| n as usize)
}

fn cidr(text: &str) -> Result<Cidr, String> {
    text.parse().map_err(|why: eagain::CidrError| why.to_string())
}

fn drain_timeout(text: &str) -> Result<Duration, String> {
    seconds(text, 0.0)
}

fn model(text: &str) -> Result<Model, String> {
    let model = Model::ALL.into_iter().find(|model| model.to_string() == text);
    model.ok_or_else(|| "expected threads, select, poll, completion or epoll".to_owned())
}

fn accept(text: &str) -> Result<Accept, String> {
    match text {
        "handoff" => Ok(Accept::Handoff),
        "exclusive" => Ok(Accept::Exclusive),
        "reuseport" => Ok(Accept::Reuseport),
        _ => Err("expected handoff, exclusive or reuseport".to_owned()),
    }
}

fn log_level(text: &str) -> Result<Level, String> {
    let level = Level::ALL.into_iter().find(|level| level.to_string() == text);
    level.ok_or_else(|| "expected error, warning, notice, info or debug".to_owned())
}

fn log_format(text: &str) -> Result<Format, String> {
    match text {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err("expected text or json".to_owned()),
    }
}
