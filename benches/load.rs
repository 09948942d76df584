//! A closed-loop load for echo servers on the loopback: one thread, one epoll, every byte that comes back is checked.
//! `scripts/bench` starts it; `--help` tells what it can do.
//!
//! Closed loop: each connection has `--depth` messages on their way, and sends the next one when one has come back. The
//! figure to compare is the server's CPU time for each message: the rate is that of the slower of the two, and a
//! message costs this program about as much as it costs the server.

use std::env;
use std::error::Error;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use eagain::sys::epoll::{Epoll, Events, Interest, Mode, Timeout};
use eagain::sys::net::{self, NonBlocking};
use socket2::{Domain, Socket, Type};

const HELP: &str = "\
Usage: load [OPTIONS] 127.0.0.1:PORT

Loads an echo server, checks every byte that comes back, and prints one line of JSON.

  --connections C  connections that are kept busy (default 64)
  --depth D        messages that each has on its way (default 1)
  --size S         bytes of a message's payload (default 64)
  --framing F      raw, or len4: a 4-byte big-endian length before each payload (default raw)
  --warm W         seconds before the measurement (default 0.3)
  --seconds T      seconds of the measurement (default 1)
  --pid P          the server's process, for its CPU time and memory
  --churn          a new connection for each message, C of them at a time
  --idle N         N idle connections instead: the server's memory before, with them, and when each has echoed once

The line has: messages and seconds (of the measurement), rate (messages a second), total (messages of the whole run),
server_ns and client_ns (CPU nanoseconds a message), server_wait (the part of the time that the server was ready to run
but had no processor: other programs' load); or, with --idle, resident bytes of the server.
";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Bytes that one `recv` or `send` may move.
const CHUNK: usize = 256 * 1024;
/// A server that says nothing for so long is taken for stuck.
const SILENCE: Duration = Duration::from_secs(10);
/// Each source address has ports of its own. Finding a free one gets slow long before they run out.
const CONNECTIONS_PER_SOURCE: usize = 5_000;
/// Churn leaves the port of each connection in TIME_WAIT for a minute; 200 source addresses have some 5,000,000 of
/// them.
const CHURN_SOURCES: usize = 200;

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help" || word == "-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    if words == ["--bench"] {
        println!("this is only the load: scripts/bench measures with it");
        return ExitCode::SUCCESS;
    }
    match Options::parse(words).and_then(|options| options.run()) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("load: {why}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    address: SocketAddrV4,
    connections: usize,
    depth: usize,
    size: usize,
    header: bool,
    warm: Duration,
    seconds: Duration,
    server: Process,
    churn: bool,
    idle: usize,
}

impl Options {
    fn parse(words: Vec<String>) -> Result<Options> {
        let mut options = Options {
            address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0),
            connections: 64,
            depth: 1,
            size: 64,
            header: false,
            warm: Duration::from_millis(300),
            seconds: Duration::from_secs(1),
            server: Process(None),
            churn: false,
            idle: 0,
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match &*word {
                "--connections" => options.connections = value()?.parse::<usize>()?.max(1),
                "--depth" => options.depth = value()?.parse::<usize>()?.max(1),
                "--size" => options.size = value()?.parse::<usize>()?.max(1),
                "--framing" => options.header = framing(&value()?)?,
                "--warm" => options.warm = Duration::try_from_secs_f64(value()?.parse()?)?,
                "--seconds" => options.seconds = Duration::try_from_secs_f64(value()?.parse()?)?,
                "--pid" => options.server = Process(Some(value()?.parse()?)),
                "--churn" => options.churn = true,
                "--idle" => options.idle = value()?.parse()?,
                address => options.address = address.parse().map_err(|_| format!("{address}: see load --help"))?,
            }
        }
        if options.address.port() == 0 || !options.address.ip().is_loopback() {
            return Err("needs the address of a server on the loopback: 127.0.0.1:PORT".into());
        }
        Ok(options)
    }

    fn run(&self) -> Result<String> {
        let tape = Tape::new(self.header, self.size, self.depth);
        if self.idle > 0 {
            idle(self, &tape)
        } else if self.churn {
            churn(self, &tape)
        } else {
            Load::connect(self, &tape)?.run()
        }
    }
}

fn framing(name: &str) -> Result<bool> {
    match name {
        "raw" => Ok(false),
        "len4" => Ok(true),
        _ => Err(format!("--framing {name}: raw or len4").into()),
    }
}

// ---- what is sent -------------------------------------------------------------------------------------------------

/// What every connection sends, round and round: messages with different payloads, more of them than a connection can
/// have on its way. So an echo that was lost, doubled, shifted or meant for a neighbour differs from what is expected.
struct Tape {
    /// One round, and as much of the next one that a chunk may begin anywhere in the first.
    bytes: Vec<u8>,
    /// Bytes of a message with its header.
    message: usize,
    /// Messages of one round.
    messages: usize,
}

impl Tape {
    fn new(header: bool, size: usize, depth: usize) -> Tape {
        let message = size + if header { 4 } else { 0 };
        let messages = (65_536 / message).max(depth + 6) | 1;
        let mut bytes = Vec::with_capacity(messages * message + CHUNK);
        let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
        for _ in 0..messages {
            if header {
                bytes.extend_from_slice(&(size as u32).to_be_bytes());
            }
            bytes.extend((0..size).map(|_| {
                // Xorshift (Marsaglia 2003).
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                (random >> 32) as u8
            }));
        }
        while bytes.len() < messages * message + CHUNK {
            bytes.extend_from_within(..CHUNK.min(messages * message));
        }
        Tape { bytes, message, messages }
    }

    /// `length` bytes, at most [`CHUNK`], from `position` on.
    fn at(&self, position: u64, length: usize) -> &[u8] {
        let start = (position % (self.messages * self.message) as u64) as usize;
        &self.bytes[start..start + length]
    }

    /// Where connection or message `number` begins: neighbours begin at different messages.
    fn start(&self, number: usize) -> u64 {
        (number % self.messages * self.message) as u64
    }
}

/// A blocking connection from one of 254 source addresses.
///
/// They are 127.A.B.1 to 127.A.B.254, with A and B by the number of this process: the ports that the runs before have
/// left in TIME_WAIT are at other addresses. From one address a minute of short runs would use up all of them.
fn dial(address: SocketAddrV4, source: usize) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let [_, _, a, b] = (0x100 + std::process::id() % 0xfe00).to_be_bytes();
    let source = Ipv4Addr::new(127, a, b, 1 + (source % 254) as u8);
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect(&SocketAddr::V4(address).into()).map_err(|why| format!("connect to {address}: {why}"))?;
    Ok(socket)
}

// ---- what the server takes ----------------------------------------------------------------------------------------

/// A process as /proc tells it; `None` is one that nobody has named, which costs nothing.
struct Process(Option<u32>);

/// Nanoseconds, summed over the threads of a process.
#[derive(Clone, Copy, Default)]
struct Cpu {
    running: u64,
    /// Ready to run, while another had the processor.
    waiting: u64,
}

impl Process {
    /// From `schedstat`, which counts nanoseconds; the ticks of `stat` are hundredths of a second.
    fn cpu(&self) -> Result<Cpu> {
        let mut cpu = Cpu::default();
        let Some(pid) = self.0 else { return Ok(cpu) };
        let gone = |why| format!("process {pid}: {why}");
        for task in fs::read_dir(format!("/proc/{pid}/task")).map_err(gone)? {
            let text = fs::read_to_string(task?.path().join("schedstat")).map_err(gone)?;
            let mut numbers = text.split_whitespace().map(|number| number.parse().unwrap_or(0));
            cpu.running += numbers.next().unwrap_or(0);
            cpu.waiting += numbers.next().unwrap_or(0);
        }
        Ok(cpu)
    }

    /// Resident bytes, from `smaps_rollup`, which walks the page tables: `VmRSS` lags behind by some 100 KiB.
    fn resident_bytes(&self) -> Result<u64> {
        let Some(pid) = self.0 else { return Err("--idle needs --pid".into()) };
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).ok_or("no Rss in smaps_rollup")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }
}

/// What had been done at one moment.
struct Sample {
    at: Instant,
    messages: u64,
    server: Cpu,
    client: Cpu,
}

impl Sample {
    fn take(messages: u64, server: &Process) -> Result<Sample> {
        let myself = Process(Some(std::process::id()));
        Ok(Sample { at: Instant::now(), messages, server: server.cpu()?, client: myself.cpu()? })
    }

    /// What was done since, in JSON.
    fn report(&self, since: &Sample) -> Result<String> {
        let messages = self.messages - since.messages;
        if messages == 0 {
            return Err("not one message in the measured time".into());
        }
        let seconds = (self.at - since.at).as_secs_f64();
        let each = |cpu: u64, before: u64| (cpu - before) as f64 / messages as f64;
        Ok(format!(
            "{{\"messages\":{messages},\"seconds\":{seconds:.3},\"rate\":{:.0},\"total\":{},\
             \"server_ns\":{:.1},\"client_ns\":{:.1},\"server_wait\":{:.4}}}",
            messages as f64 / seconds,
            self.messages,
            each(self.server.running, since.server.running),
            each(self.client.running, since.client.running),
            (self.server.waiting - since.server.waiting) as f64 / 1e9 / seconds,
        ))
    }
}

/// Tells when the measurement begins and ends.
struct Clock {
    begin: Instant,
    end: Instant,
    first: Option<Sample>,
}

impl Clock {
    fn start(options: &Options) -> Clock {
        let begin = Instant::now() + options.warm;
        Clock { begin, end: begin + options.seconds, first: None }
    }

    /// To be asked now and then; the report, once the time is over.
    fn look(&mut self, messages: impl Fn() -> u64, server: &Process) -> Result<Option<String>> {
        let now = Instant::now();
        match &self.first {
            None if now >= self.begin => self.first = Some(Sample::take(messages(), server)?),
            Some(first) if now >= self.end => return Sample::take(messages(), server)?.report(first).map(Some),
            _ => {}
        }
        Ok(None)
    }
}

// ---- busy connections ---------------------------------------------------------------------------------------------

struct Connection {
    socket: NonBlocking<Socket>,
    /// Positions on the tape: where it began, how far it has sent, how far the echo has come.
    first: u64,
    sent: u64,
    received: u64,
}

impl Connection {
    fn echoed(&self, tape: &Tape) -> u64 {
        (self.received - self.first) / tape.message as u64
    }

    /// Sends until `depth` messages are on their way, or the socket is full: then an edge will tell.
    fn push(&mut self, tape: &Tape, depth: usize) -> Result<()> {
        let due = self.first + (self.echoed(tape) + depth as u64) * tape.message as u64;
        while self.sent < due {
            let length = (due - self.sent).min(CHUNK as u64) as usize;
            match net::send(&self.socket, tape.at(self.sent, length)) {
                Ok(sent) => self.sent += sent as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Receives and checks all that is there.
    fn pull(&mut self, tape: &Tape, buffer: &mut [u8]) -> Result<()> {
        loop {
            let length = match net::recv_slice(&self.socket, buffer) {
                Ok(0) => return Err("the server has closed a connection".into()),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            if self.received + length as u64 > self.sent {
                return Err("more came back than was sent".into());
            }
            if buffer[..length] != *tape.at(self.received, length) {
                return Err(format!("wrong echo within {length} bytes from {} on", self.received - self.first).into());
            }
            self.received += length as u64;
            if length < buffer.len() {
                return Ok(()); // that was all; what comes later is a new edge
            }
        }
    }
}

struct Load<'a> {
    options: &'a Options,
    tape: &'a Tape,
    epoll: Epoll,
    events: Events,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
}

impl<'a> Load<'a> {
    fn connect(options: &'a Options, tape: &'a Tape) -> Result<Load<'a>> {
        let epoll = Epoll::new()?;
        let mut connections = Vec::with_capacity(options.connections);
        for number in 0..options.connections {
            let socket = dial(options.address, number / CONNECTIONS_PER_SOURCE)?;
            socket.set_tcp_nodelay(true)?;
            let socket = NonBlocking::new(socket)?;
            epoll.add_nonblocking(&socket, number as u64, Interest::READ | Interest::WRITE, Mode::EDGE)?;
            let first = tape.start(number);
            connections.push(Connection { socket, first, sent: first, received: first });
        }
        let (events, buffer) = (Events::with_capacity(1024), vec![0; CHUNK]);
        Ok(Load { options, tape, epoll, events, connections, buffer })
    }

    fn run(mut self) -> Result<String> {
        let mut clock = Clock::start(self.options);
        let report = loop {
            self.turn(self.options.depth)?;
            let echoed = || self.connections.iter().map(|connection| connection.echoed(self.tape)).sum();
            if let Some(report) = clock.look(echoed, &self.options.server)? {
                break report;
            }
        };
        // Nothing new is sent, and all that was must still come back.
        while self.connections.iter().any(|connection| connection.received < connection.sent) {
            self.turn(0)?;
        }
        Ok(report)
    }

    /// One wait; every socket that is ready is read, and keeps `depth` messages on their way.
    fn turn(&mut self, depth: usize) -> Result<()> {
        if self.epoll.wait(&mut self.events, Timeout::After(SILENCE))? == 0 {
            return Err(format!("nothing came back for {} s", SILENCE.as_secs()).into());
        }
        for event in &self.events {
            let connection = &mut self.connections[event.data() as usize];
            if event.should_read() {
                connection.pull(self.tape, &mut self.buffer)?;
            }
            if depth > 0 {
                connection.push(self.tape, depth)?;
            }
        }
        Ok(())
    }
}

// ---- connections that come and go, and that do nothing ------------------------------------------------------------

/// Waits for the echo of message `number` and checks it.
fn expect(mut stream: &TcpStream, tape: &Tape, number: usize, buffer: &mut [u8]) -> Result<()> {
    stream.read_exact(buffer).map_err(|why| format!("the echo of message {number}: {why}"))?;
    if *buffer != *tape.at(tape.start(number), buffer.len()) {
        return Err(format!("wrong echo of message {number}").into());
    }
    Ok(())
}

/// Connects and sends message `number`, which must be no longer than the socket takes at once.
fn dial_and_send(options: &Options, tape: &Tape, number: usize) -> Result<TcpStream> {
    let mut stream = TcpStream::from(dial(options.address, number % CHURN_SOURCES)?);
    stream.set_read_timeout(Some(SILENCE))?;
    stream.write_all(tape.at(tape.start(number), tape.message))?;
    Ok(stream)
}

/// Connect, one message, its echo, close; the oldest of `connections` is always the next to be ended.
fn churn(options: &Options, tape: &Tape) -> Result<String> {
    let mut buffer = vec![0; tape.message];
    let first: Result<Vec<TcpStream>> = (0..options.connections).map(|n| dial_and_send(options, tape, n)).collect();
    let mut streams = first?;
    let mut clock = Clock::start(options);
    for echoed in 0.. {
        let oldest = &mut streams[echoed % options.connections];
        expect(oldest, tape, echoed, &mut buffer)?;
        *oldest = dial_and_send(options, tape, echoed + options.connections)?;
        if let Some(report) = clock.look(|| echoed as u64 + 1, &options.server)? {
            return Ok(report);
        }
    }
    unreachable!("the range has no end")
}

/// The server's memory before there are connections, when it has accepted `idle` of them, and when each has echoed.
fn idle(options: &Options, tape: &Tape) -> Result<String> {
    let count = options.idle;
    let before = options.server.resident_bytes()?;
    let mut streams = Vec::with_capacity(count);
    for number in 0..count {
        let stream = TcpStream::from(dial(options.address, number / CONNECTIONS_PER_SOURCE)?);
        stream.set_read_timeout(Some(SILENCE))?;
        streams.push(stream);
    }
    let mut buffer = vec![0; tape.message];
    let mut echo = |number: usize| -> Result<()> {
        (&streams[number]).write_all(tape.at(tape.start(number), tape.message))?;
        expect(&streams[number], tape, number, &mut buffer)
    };
    echo(count - 1)?; // the last in the accept queue: all others have been accepted before it
    let fresh = options.server.resident_bytes()?;
    (0..count).try_for_each(&mut echo)?;
    let echoed = options.server.resident_bytes()?;
    let each = |bytes: u64| (bytes as f64 - before as f64) / count as f64;
    Ok(format!(
        "{{\"idle\":{count},\"rss_before\":{before},\"rss_fresh\":{fresh},\"rss_echoed\":{echoed},\
         \"fresh_each\":{:.1},\"echoed_each\":{:.1}}}",
        each(fresh),
        each(echoed),
    ))
}
