//! The command line: what each command takes, its help, and every way it can be wrong.
//!
//! argh parses values and fills the structs. What it lacks is done here, from the same definitions
//! (`ArgsInfo`), so that no option is listed twice: `--name=value`, suggestions, and a help with the names
//! of the values.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::Duration;

use eagain::{Limits, Timeouts};

use argh::{ArgsInfo, CommandInfoWithArgs, FlagInfo, FlagInfoKind, FromArgs, Optionality, PositionalInfo};
use eagain::{AccessList, Cidr};

use crate::address::{Address, AddressError};
use crate::config;

/// A thread per processor is the point; more than this is a typing error.
const WORKERS_MAX: u64 = 1024;
/// Where `status` looks if it is not told; the docs give `--metrics` the same.
const METRICS_ADDRESS: &str = "127.0.0.1:7009";
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const DAY_S: f64 = 86_400.0;
const DAY_MS: u64 = 86_400_000;

/// A command line that was understood.
#[derive(Debug)]
pub(crate) enum Command {
    Serve(Serve),
    Connect(Connect),
    Status(Status),
}

/// Why there is nothing (more) to run.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The user asked for this text.
    Answered(String),
    /// The command line is wrong; one line that says what to write instead.
    Usage(String),
    /// The command line is right and the world is not (an unknown host).
    Failed(String),
}

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
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ServiceName::Echo => "echo",
            ServiceName::Discard => "discard",
            ServiceName::Chargen => "chargen",
            ServiceName::Frames => "frames",
            ServiceName::Log => "log",
            ServiceName::Delay => "delay",
            ServiceName::Metrics => "metrics",
        })
    }
}

/// How new connections come to the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accept {
    Handoff,
    Exclusive,
    Reuseport,
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

/// The options of `eagain connect`, in range.
#[derive(Debug)]
pub(crate) struct Connect {
    pub(crate) address: Address,
    /// The address as the user wrote it, for messages.
    pub(crate) address_text: String,
    pub(crate) frames: bool,
    pub(crate) hex: bool,
    pub(crate) no_echo: bool,
    /// Payload bytes: 1 to 1 GiB.
    pub(crate) max_frame: usize,
    /// For each address that is tried: 1 ms to a day.
    pub(crate) connect_timeout: Duration,
}

const CONFIG: &str = "--config";
const CHECK: &str = "--check";

/// The options of `eagain status`, in range.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) address: Address,
    /// The address as the user wrote it, for messages.
    pub(crate) address_text: String,
    pub(crate) watch: bool,
    pub(crate) json: bool,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(
    description = "Serve, measure, prove: a server on raw Linux epoll.",
    example = "eagain serve\neagain connect 127.0.0.1:7007",
    help_triggers("-h", "--help", "help")
)]
struct Top {
    /// print the version
    #[argh(switch, short = 'V')]
    version: bool,

    #[argh(subcommand)]
    command: Option<SubCommand>,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, once")]
enum SubCommand {
    Serve(ServeArgs),
    Connect(ConnectArgs),
    Status(StatusArgs),
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
struct ServeArgs {
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

#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "connect",
    description = "Send what is typed or piped in, show what comes back.",
    example = "eagain connect 127.0.0.1:7007
printf 'one\\ntwo\\n' | eagain connect --frames localhost:7004
eagain connect --hex unix:/run/echo.sock < message.bin
eagain connect --no-echo '[::1]:9' < /var/log/syslog",
    note = "ADDRESS is HOST:PORT, [V6]:PORT, PORT (on 127.0.0.1), unix:PATH or unix:@NAME.
^D, or the end of a pipe or file, ends the input, and then the connection.
Exit code 0: all came back; 1: the server refused, reset or went before that.",
    help_triggers("-h", "--help", "help")
)]
struct ConnectArgs {
    /// where the server is
    #[argh(positional, arg_name = "ADDRESS")]
    address: String,
    /// send lines as frames, show frames as lines
    #[argh(switch)]
    frames: bool,
    /// show what arrives as a hex dump
    #[argh(switch)]
    hex: bool,
    /// do not expect the input back (discard, log)
    #[argh(switch)]
    no_echo: bool,
    /// longest payload of a frame; K, M, G allowed [16M]
    #[argh(option, arg_name = "BYTES", from_str_fn(max_frame))]
    max_frame: Option<u64>,
    /// give an address up after this long [10]
    #[argh(option, arg_name = "SECONDS", from_str_fn(connect_timeout))]
    connect_timeout: Option<Duration>,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "status",
    description = "Show what a server that runs with --metrics is doing.",
    example = "eagain status
eagain status --watch unix:/run/eagain/metrics.sock
eagain status --json 127.0.0.1:7009",
    note = "ADDRESS is where 'eagain serve --metrics ADDRESS' listens [127.0.0.1:7009].
A turn of the loop is as long as its other clients may have to wait.
With --watch, bytes are those of the last second, and ^C ends it.",
    help_triggers("-h", "--help", "help")
)]
struct StatusArgs {
    /// the --metrics address of the server
    #[argh(positional, arg_name = "ADDRESS")]
    address: Option<String>,
    /// again each second
    #[argh(switch)]
    watch: bool,
    /// one JSON object a line
    #[argh(switch)]
    json: bool,
}

/// Understands the arguments (without the program's name).
pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Result<Command, Stop> {
    let words = args.map(utf8).collect::<Result<Vec<_>, _>>()?;
    let top = Top::get_args_info();
    if words.is_empty() {
        return Err(Stop::Answered(help(&top, None)));
    }
    let mut plan = normalise(&top, &words)?;
    add_config(&mut plan)?;
    let plain: Vec<&str> = plan.words.iter().map(String::as_str).collect();
    let parsed = Top::from_args(&["eagain"], &plain).map_err(|exit| usage(plan.command, fold(&exit.output, &plain)))?;
    if parsed.version {
        return Err(Stop::Answered(format!("eagain {}\n", env!("CARGO_PKG_VERSION"))));
    }
    match parsed.command {
        Some(SubCommand::Serve(args)) => args.check().map(Command::Serve),
        Some(SubCommand::Connect(args)) => args.check().map(Command::Connect),
        Some(SubCommand::Status(args)) => args.check().map(Command::Status),
        None => Err(usage(None, "no command".to_owned())),
    }
}

fn utf8(arg: OsString) -> Result<String, Stop> {
    arg.into_string().map_err(|arg| usage(None, format!("the argument '{}' is not UTF-8", arg.to_string_lossy())))
}

/// A line for a wrong command line, with the way to the right one.
fn usage(command: Option<&CommandInfoWithArgs>, why: String) -> Stop {
    let (space, name) = command.map_or(("", ""), |c| (" ", c.name));
    let mark = if why.ends_with('?') { "" } else { ";" };
    Stop::Usage(format!("{why}{mark} see 'eagain{space}{name} --help'"))
}

impl ServeArgs {
    fn check(self) -> Result<Serve, Stop> {
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
            workers: self.workers.map_or_else(processors, |n| n as usize),
            backlog: self.backlog,
            max_frame: self.max_frame.unwrap_or(MIB) as usize,
            proxy_protocol: self.proxy_protocol,
            access: AccessList::new(self.allow, self.deny),
            trace: self.trace,
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

impl ConnectArgs {
    fn check(self) -> Result<Connect, Stop> {
        let address = address(&format!("ADDRESS '{}'", self.address), &self.address)?;
        if matches!(&address, Address::Tcp(all) if all[0].port() == 0) {
            let why = format!("ADDRESS '{}': nobody can listen on port 0", self.address);
            return Err(Stop::Usage(why));
        }
        if self.max_frame.is_some() && !self.frames {
            return Err(Stop::Usage("--max-frame needs --frames".to_owned()));
        }
        Ok(Connect {
            address,
            address_text: self.address,
            frames: self.frames,
            hex: self.hex,
            no_echo: self.no_echo,
            max_frame: self.max_frame.unwrap_or(16 * MIB) as usize,
            connect_timeout: self.connect_timeout.unwrap_or(Duration::from_secs(10)),
        })
    }
}

/// What is served when neither the command line nor a service manager says what.
pub(crate) fn default_listeners() -> Vec<(ServiceName, Address)> {
    let local = |port| Address::Tcp(vec![(std::net::Ipv4Addr::LOCALHOST, port).into()]);
    vec![(ServiceName::Echo, local(7007)), (ServiceName::Frames, local(7004))]
}

impl StatusArgs {
    fn check(self) -> Result<Status, Stop> {
        let text = self.address.unwrap_or_else(|| METRICS_ADDRESS.to_owned());
        let address = address(&format!("ADDRESS '{text}'"), &text)?;
        Ok(Status { address, address_text: text, watch: self.watch, json: self.json })
    }
}

fn processors() -> usize {
    available_parallelism().map_or(1, |n| n.get().min(WORKERS_MAX as usize))
}

fn address(place: &str, text: &str) -> Result<Address, Stop> {
    Address::parse(text).map_err(|why| match why {
        AddressError::Unresolved(..) => Stop::Failed(format!("{place}: {why}")),
        _ => Stop::Usage(format!("{place}: {why}")),
    })
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

fn whole(text: &str, unit: &str, low: u64, high: u64) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|n| (low..=high).contains(n))
        .ok_or_else(|| format!("expected a whole number of {unit} from {low} to {high}"))
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

fn max_frame(text: &str) -> Result<u64, String> {
    bytes(text, "1G", GIB)
}

fn bytes(text: &str, high: &str, most: u64) -> Result<u64, String> {
    let (digits, unit) = match text.bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], KIB),
        Some(b'M' | b'm') => (&text[..text.len() - 1], MIB),
        Some(b'G' | b'g') => (&text[..text.len() - 1], GIB),
        _ => (text, 1),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    bytes
        .filter(|n| (1..=most).contains(n))
        .ok_or_else(|| format!("expected bytes from 1 to {high}, as in 200000, 64K or 1M (powers of 1024)"))
}

fn cidr(text: &str) -> Result<Cidr, String> {
    text.parse().map_err(|why: eagain::CidrError| why.to_string())
}

fn drain_timeout(text: &str) -> Result<Duration, String> {
    seconds(text, 0.0)
}

fn accept(text: &str) -> Result<Accept, String> {
    match text {
        "handoff" => Ok(Accept::Handoff),
        "exclusive" => Ok(Accept::Exclusive),
        "reuseport" => Ok(Accept::Reuseport),
        _ => Err("expected handoff, exclusive or reuseport".to_owned()),
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    seconds(text, 0.001)
}

fn connect_timeout(text: &str) -> Result<Duration, String> {
    timeout(text)
}

fn seconds(text: &str, low: f64) -> Result<Duration, String> {
    // NaN is in no range; "inf" and "1e9" are above this one.
    match text.parse::<f64>() {
        Ok(s) if (low..=DAY_S).contains(&s) => Ok(Duration::from_secs_f64(s)),
        _ => Err(format!("expected seconds from {low} to {DAY_S}, as in 5 or 0.5")),
    }
}

/// The arguments in the one form that argh reads: every option's value is a word of its own.
struct Plan<'a> {
    command: Option<&'a CommandInfoWithArgs>,
    words: Vec<String>,
}

/// Splits `--name=value`, and answers or refuses what argh would answer in several lines or not at all.
/// Words after `--` and words that are an option's value are left as they are.
fn normalise<'a>(top: &'a CommandInfoWithArgs, words: &[String]) -> Result<Plan<'a>, Stop> {
    let mut plan = Plan { command: None, words: Vec::with_capacity(words.len() + 1) };
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "-h" | "--help" | "help" => {
                let topic = match (plan.command, words.next()) {
                    (None, Some(name)) if !name.starts_with('-') => Some(find_command(top, name)?),
                    (command, _) => command,
                };
                return Err(Stop::Answered(help(top, topic)));
            }
            "--" => {
                plan.words.push(word.to_owned());
                plan.words.extend(words.by_ref().map(str::to_owned));
            }
            _ if word.starts_with('-') => option(&mut plan, top, word, &mut words)?,
            _ => {
                if plan.command.is_none() {
                    plan.command = Some(find_command(top, word)?);
                }
                plan.words.push(word.to_owned());
            }
        }
    }
    Ok(plan)
}

/// One option and, if it takes one, its value.
fn option<'w>(
    plan: &mut Plan<'_>,
    top: &CommandInfoWithArgs,
    word: &'w str,
    rest: &mut impl Iterator<Item = &'w str>,
) -> Result<(), Stop> {
    let command = plan.command.unwrap_or(top);
    let (name, inline) = match word.split_once('=') {
        Some((name, value)) if name.starts_with("--") => (name, Some(value)),
        _ => (word, None),
    };
    let wrong = |why: String| Err(usage(plan.command, why));
    let Some(flag) = command.flags.iter().find(|f| is_named(f, name)) else {
        let names = command.flags.iter().map(|f| f.long);
        return wrong(format!("unknown option {name}{}", did_you_mean(name, names)));
    };
    match (&flag.kind, inline.or_else(|| value_after(flag, command, rest))) {
        (FlagInfoKind::Switch, None) => plan.words.push(name.to_owned()),
        (FlagInfoKind::Switch, Some(_)) => return wrong(format!("{name} takes no value")),
        (FlagInfoKind::Option { .. }, Some(value)) => {
            plan.words.extend([name.to_owned(), value.to_owned()]);
        }
        (FlagInfoKind::Option { arg_name }, None) => {
            return wrong(format!("{name} needs a value: {name} {arg_name}"));
        }
    }
    Ok(())
}

/// Puts the keys of `--config FILE` before the words of the command line, which replace them.
fn add_config(plan: &mut Plan<'_>) -> Result<(), Stop> {
    let Some(command) = plan.command.filter(|command| command.flags.iter().any(|f| f.long == CONFIG)) else {
        return Ok(());
    };
    let Some(at) = plan.words.iter().position(|word| word == CONFIG) else { return Ok(()) };
    let path = plan.words[at + 1].clone();
    let mut words = Vec::new();
    for setting in config::read(Path::new(&path)).map_err(Stop::Failed)? {
        let place = format!("{path}:{}", setting.line);
        if [CONFIG, CHECK].contains(&setting.option.as_str()) || !command.flags.iter().any(|f| f.long == setting.option)
        {
            let keys = command.flags.iter().map(|f| f.long);
            let hint = did_you_mean(&setting.option, keys).replace("--", "");
            let key = setting.option.trim_start_matches("--");
            return Err(Stop::Failed(format!("{place}: unknown key '{key}'{hint}")));
        }
        check_alone(&setting.words).map_err(|why| Stop::Failed(format!("{place}: {why}")))?;
        if !plan.words.contains(&setting.option) {
            words.extend(setting.words);
        }
    }
    // The first word is the command.
    plan.words.splice(1..1, words);
    Ok(())
}

/// Whether a key means something by itself: an error is told with its line.
fn check_alone(words: &[String]) -> Result<(), String> {
    let plain: Vec<&str> = words.iter().map(String::as_str).collect();
    let args = ServeArgs::from_args(&["eagain", "serve"], &plain).map_err(|exit| fold(&exit.output, &plain))?;
    match args.check() {
        Ok(_) => Ok(()),
        Err(Stop::Usage(why) | Stop::Failed(why) | Stop::Answered(why)) => Err(why),
    }
}

/// The next word, unless the option takes none or the word is itself an option: `--echo --trace` has forgotten
/// the address. (A value that looks so can still be given as `--name=value`.)
fn value_after<'w>(
    flag: &FlagInfo<'_>,
    command: &CommandInfoWithArgs,
    rest: &mut impl Iterator<Item = &'w str>,
) -> Option<&'w str> {
    match flag.kind {
        FlagInfoKind::Switch => None,
        FlagInfoKind::Option { .. } => rest.next().filter(|word| {
            let name = word.split_once('=').map_or(*word, |(name, _)| name);
            !command.flags.iter().any(|f| is_named(f, name))
        }),
    }
}

fn is_named(flag: &FlagInfo<'_>, word: &str) -> bool {
    flag.long == word || flag.short.is_some_and(|c| word.strip_prefix('-').is_some_and(|w| w.chars().eq([c])))
}

fn find_command<'a>(top: &'a CommandInfoWithArgs, name: &str) -> Result<&'a CommandInfoWithArgs, Stop> {
    let names = || top.commands.iter().map(|c| c.name);
    match top.commands.iter().find(|c| c.name == name) {
        Some(found) => Ok(&found.command),
        None => {
            let hint = did_you_mean(name, names());
            Err(usage(None, format!("unknown command '{name}'{hint}")))
        }
    }
}

/// `; did you mean X?` for the nearest name, if one is near: the word is its beginning, or at most two letters differ.
fn did_you_mean<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> String {
    let distance = |name: &str| match word.len() > 2 && name.starts_with(word) {
        true => 0,
        false => letters_apart(word, name),
    };
    names
        .map(|name| (distance(name), name))
        .min()
        .filter(|(distance, _)| *distance <= 2)
        .map_or(String::new(), |(_, name)| format!("; did you mean {name}?"))
}

/// Levenshtein's distance: letters to insert, delete or replace.
fn letters_apart(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// argh's message as one line in our words: `--workers '0': expected …`.
fn fold(message: &str, words: &[&str]) -> String {
    let message = message.trim_end();
    for pair in words.windows(2) {
        let [name, value] = [pair[0], pair[1]];
        let prefix = format!("Error parsing option '{name}' with value '{value}': ");
        if let Some(why) = message.strip_prefix(&prefix) {
            return match why {
                "duplicate values provided" => format!("{name} is given twice"),
                _ => format!("{name} '{value}': {why}"),
            };
        }
    }
    match message.strip_prefix("Unrecognized argument: ") {
        Some(word) => format!("unexpected argument '{word}'"),
        None => message
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .replace("Required positional arguments not provided:", "nothing given for"),
    }
}

/// The help of one command, or of the program.
fn help(top: &CommandInfoWithArgs, command: Option<&CommandInfoWithArgs>) -> String {
    let (name, info) = command.map_or((String::new(), top), |c| (format!(" {}", c.name), c));
    let argument = |p: &PositionalInfo<'_>| match p.optionality {
        Optionality::Optional => format!(" [{}]", p.name),
        _ => format!(" {}", p.name),
    };
    let arguments: String = info.positionals.iter().map(argument).collect();
    let command_word = if info.commands.is_empty() { "" } else { " COMMAND" };
    let mut text = format!("{}\n\nUsage: eagain{name}{command_word} [OPTIONS]{arguments}\n", info.description);
    let commands: Vec<_> = info.commands.iter().map(|c| (c.name.to_owned(), c.command.description)).collect();
    section(&mut text, "Commands", &commands);
    // argh lists --help first; readers look for it last.
    let (help, own): (Vec<_>, Vec<_>) = info.flags.iter().partition(|f| f.long == "--help");
    let flags: Vec<_> = own.iter().map(|f| (flag_names(f), f.description)).collect();
    let help = help.iter().map(|f| ("-h, --help".to_owned(), f.description));
    section(&mut text, "Options", &flags.into_iter().chain(help).collect::<Vec<_>>());
    for (title, blocks) in [("Notes", info.notes), ("Examples", info.examples)] {
        if !blocks.is_empty() {
            text += &format!("\n{title}:\n");
        }
        for line in blocks.iter().flat_map(|block| block.lines()) {
            text += &format!("  {line}\n");
        }
    }
    text
}

fn section(text: &mut String, title: &str, rows: &[(String, &str)]) {
    let width = rows.iter().map(|(left, _)| left.len()).max().unwrap_or(0);
    if width > 0 {
        *text += &format!("\n{title}:\n");
    }
    for (left, right) in rows {
        *text += &format!("  {left:width$}  {right}\n");
    }
}

fn flag_names(flag: &FlagInfo<'_>) -> String {
    let short = flag.short.map_or(String::new(), |c| format!("-{c}, "));
    match flag.kind {
        FlagInfoKind::Switch => format!("{short}{}", flag.long),
        FlagInfoKind::Option { arg_name } => format!("{short}{} {arg_name}", flag.long),
    }
}
