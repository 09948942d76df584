//! How a completion port scales: threads in `next`, and nobody beside them.
//!
//! Pairs of connected sockets, both ends in one port: what one end receives it sends back. So the threads do all the
//! work there is, and which of them gets a completion is left to the port. What a program does with a message is a time
//! to spin here, none at first.
//!
//! Beside it the same traffic without a port, in the fewest system calls, which is what there is to gain: *one set*,
//! all threads wait in one epoll, edge-triggered, as those of a port do; *own sets*, each thread has an epoll and pairs
//! of its own. Each round runs all of them in turn; what counts is the ratio within a round.
//!
//! `cargo bench --bench port`; see docs/measurements.md.
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use eagain::completion::{Completion, Outcome, Port};
use eagain::pair::{Family, tcp_loopback};
use eagain::sys::epoll::{Epoll, Events, Interest, Mode, Timeout};
use eagain::sys::net::{self, NonBlocking};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

const PAIRS: usize = 64;
const MESSAGE_BYTES: usize = 64;
/// More than a message: a receive that fills its buffer is followed by one that finds nothing.
const BUFFER_BYTES: usize = 2 * MESSAGE_BYTES;
const EVENTS: usize = 16;
const ROUNDS: usize = 15;
const RUN: Duration = Duration::from_millis(60);
/// With real-time priority the threads have the processors to themselves; so the rest of the machine gets its turn.
const PAUSE: Duration = Duration::from_millis(60);
const WORKS: [Duration; 4] =
    [Duration::ZERO, Duration::from_micros(2), Duration::from_micros(10), Duration::from_micros(50)];

#[derive(Debug, Clone, Copy)]
enum Way {
    OwnSets,
    OneSet,
    Port,
}

const WAYS: [(Way, &str); 3] = [(Way::OwnSets, "own sets"), (Way::OneSet, "one set"), (Way::Port, "port")];

/// What one run has shown.
#[derive(Debug, Clone, Copy)]
struct Run {
    messages_per_second: f64,
    cpu_nanoseconds: f64,
}

fn main() {
    let most = thread::available_parallelism().map_or(1, usize::from);
    println!("{PAIRS} pairs, {MESSAGE_BYTES} bytes; median (least-most) of {ROUNDS} rounds of {RUN:?}");
    println!("work   way       threads  messages a second       ÷ one thread      CPU, ns a message");
    for work in WORKS {
        let all: Vec<_> = WAYS.iter().flat_map(|&way| (1..=most).map(move |threads| (way, threads))).collect();
        let round = |_| all.iter().map(|&((way, _), threads)| run(way, threads, work)).collect();
        let rounds: Vec<Vec<Run>> = (0..ROUNDS).map(round).collect();
        for (at, ((_, name), threads)) in all.iter().enumerate() {
            let one = at + 1 - threads;
            let [least, rate, greatest] = spread(rounds.iter().map(|round| round[at].messages_per_second));
            let gain = |round: &Vec<Run>| round[at].messages_per_second / round[one].messages_per_second;
            let gain = spread(rounds.iter().map(gain));
            let cpu = spread(rounds.iter().map(|round| round[at].cpu_nanoseconds));
            let work = format!("{work:?}");
            print!("{work:5}  {name:8}  {threads:7}  {rate:.0} ({least:.0}-{greatest:.0})  ");
            print!("{:.2} ({:.2}-{:.2})  ", gain[1], gain[0], gain[2]);
            println!("{:.0} ({:.0}-{:.0})", cpu[1], cpu[0], cpu[2]);
        }
    }
}

/// Least, median, most.
fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

fn run(way: Way, threads: usize, work: Duration) -> Run {
    thread::sleep(PAUSE);
    match way {
        Way::OwnSets => without_port(threads, threads, work),
        Way::OneSet => without_port(threads, 1, work),
        Way::Port => with_port(threads, work),
    }
}

struct Clock {
    start: Instant,
    over: AtomicBool,
}

impl Clock {
    /// Whether the time is up. The threads look for themselves: a thread that slept until then would get no processor.
    fn is_over(&self, messages: u64) -> bool {
        if messages.is_multiple_of(16) && self.start.elapsed() >= RUN {
            self.over.store(true, Ordering::Relaxed);
        }
        self.over.load(Ordering::Relaxed)
    }
}

/// Runs threads that count messages until the time is up.
fn measure(threads: usize, body: impl Fn(usize, &Clock) -> u64 + Sync) -> Run {
    let before = cpu_nanoseconds();
    let clock = Clock { start: Instant::now(), over: AtomicBool::new(false) };
    let messages = AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in 0..threads {
            let (messages, clock, body) = (&messages, &clock, &body);
            scope.spawn(move || messages.fetch_add(body(thread, clock), Ordering::Relaxed));
        }
    });
    let messages = messages.into_inner() as f64;
    Run {
        messages_per_second: messages / clock.start.elapsed().as_secs_f64(),
        cpu_nanoseconds: (cpu_nanoseconds() - before) as f64 / messages,
    }
}

fn cpu_nanoseconds() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("usage");
    (usage.user_time() + usage.system_time()).num_nanoseconds()
}

fn pair() -> [NonBlocking<TcpStream>; 2] {
    let (one, other) = tcp_loopback(Family::V4).expect("a pair");
    [one, other].map(|end| {
        end.set_nodelay(true).expect("TCP_NODELAY");
        NonBlocking::new(end).expect("non-blocking")
    })
}

fn spin(work: Duration) {
    let start = Instant::now();
    while start.elapsed() < work {
        std::hint::spin_loop();
    }
}

fn without_port(threads: usize, sets: usize, work: Duration) -> Run {
    let sets: Vec<Epoll> = (0..sets).map(|_| Epoll::new().expect("an epoll")).collect();
    let mut ends = Vec::new();
    for at in 0..PAIRS {
        for end in pair() {
            let set = &sets[at % sets.len()];
            set.add_nonblocking(&end, ends.len() as u64, Interest::READ, Mode::EDGE).expect("a registration");
            ends.push(end);
        }
    }
    for end in ends.iter().step_by(2) {
        net::send(end, &[1; MESSAGE_BYTES]).expect("the first message");
    }
    measure(threads, |thread, clock| {
        let mut events = Events::with_capacity(EVENTS);
        let mut messages = 0;
        while !clock.is_over(0) {
            sets[thread % sets.len()].wait(&mut events, Timeout::After(RUN)).expect("events");
            for event in &events {
                let end = &ends[event.data() as usize];
                let mut buffer = [0; BUFFER_BYTES];
                // Its first event may say only that there is room.
                let Ok(received) = net::recv_slice(end, &mut buffer) else { continue };
                messages += 1;
                spin(work);
                net::send(end, &buffer[..received]).expect("room for a message");
            }
        }
        messages
    })
}

fn with_port(threads: usize, work: Duration) -> Run {
    let port = Port::new().expect("a port");
    for key in 0..PAIRS as u64 {
        let [one, other] = pair().map(|end| port.associate(end, key).expect("room for a socket"));
        port.recv(other, Vec::with_capacity(BUFFER_BYTES)).expect("the first receive");
        let mut first = Vec::with_capacity(BUFFER_BYTES);
        first.resize(MESSAGE_BYTES, 1);
        port.send(one, first).expect("the first message");
    }
    measure(threads, |_, clock| {
        let mut messages = 0;
        while let Ok(Some(completion)) = port.next(Timeout::Never) {
            if clock.is_over(messages) {
                port.end();
            } else {
                messages += u64::from(matches!(completion.outcome, Outcome::Received { .. }));
                answer(&port, completion, work);
            }
        }
        messages
    })
}

/// What was received goes back; what was sent makes room for what comes.
fn answer(port: &Port, completion: Completion, work: Duration) {
    let socket = completion.operation.socket().expect("only sockets have operations here");
    match completion.outcome {
        Outcome::Received { buffer, result: Ok(1..) } => {
            spin(work);
            drop(port.send(socket, buffer));
        }
        Outcome::Sent { mut buffer, result: Ok(()), .. } => {
            buffer.clear();
            drop(port.recv(socket, buffer));
        }
        // The port has ended, and another thread has seen it first.
        Outcome::Received { .. } | Outcome::Sent { .. } => {}
        other => panic!("{other:?}"),
    }
}
