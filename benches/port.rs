//! How a completion port scales: threads in `next`, and nobody beside them.
//!
//! Pairs of connected sockets, both ends in one port: what one end receives it sends back. So the threads do all the
//! work there is, and which of them gets a completion is left to the port. What a program does with a message is a time
//! to spin here, none at first. Each round tries one thread, then two, and so on; what counts is the ratio within a
//! round.
//!
//! `cargo bench --bench port`; see docs/measurements.md.
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use eagain::completion::{Completion, Outcome, Port};
use eagain::pair::{Family, tcp_loopback};
use eagain::sys::epoll::Timeout;
use eagain::sys::net::NonBlocking;

const PAIRS: usize = 64;
const MESSAGE_BYTES: usize = 64;
const ROUNDS: usize = 9;
const RUN: Duration = Duration::from_millis(500);
const WORKS: [Duration; 4] =
    [Duration::ZERO, Duration::from_micros(2), Duration::from_micros(10), Duration::from_micros(50)];

fn main() {
    let most = thread::available_parallelism().map_or(1, usize::from);
    println!("{PAIRS} pairs, {MESSAGE_BYTES} bytes; median (least-most) of {ROUNDS} rounds of {RUN:?}");
    println!("work     threads  messages a second         ÷ one thread");
    for work in WORKS {
        let round = |_| (1..=most).map(|threads| messages_per_second(threads, work)).collect();
        let rounds: Vec<Vec<f64>> = (0..ROUNDS).map(round).collect();
        for at in 0..most {
            let [least, median, greatest] = spread(rounds.iter().map(|round| round[at]));
            let ratio = spread(rounds.iter().map(|round| round[at] / round[0]));
            let work = format!("{work:?}");
            print!("{work:7}  {:7}  {median:.0} ({least:.0}-{greatest:.0})   ", at + 1);
            println!("{:.2} ({:.2}-{:.2})", ratio[1], ratio[0], ratio[2]);
        }
    }
}

/// Least, median, most.
fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

fn messages_per_second(threads: usize, work: Duration) -> f64 {
    let port = Port::new().expect("a port");
    for key in 0..PAIRS as u64 {
        let (one, other) = tcp_loopback(Family::V4).expect("a pair");
        let [one, other] = [one, other].map(|end| {
            end.set_nodelay(true).expect("TCP_NODELAY");
            let end = NonBlocking::new(end).expect("non-blocking");
            port.associate(end, key).expect("room for a socket")
        });
        port.recv(other, Vec::with_capacity(MESSAGE_BYTES)).expect("the first receive");
        port.send(one, vec![1; MESSAGE_BYTES]).expect("the first message");
    }
    let (messages, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut seconds = 0.0;
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut own = 0;
                while let Ok(Some(completion)) = port.next(Timeout::Never) {
                    own += u64::from(matches!(completion.outcome, Outcome::Received { .. }));
                    if !over.load(Ordering::Relaxed) {
                        answer(&port, completion, work);
                    }
                }
                messages.fetch_add(own, Ordering::Relaxed);
            });
        }
        let start = Instant::now();
        thread::sleep(RUN);
        over.store(true, Ordering::Relaxed);
        seconds = start.elapsed().as_secs_f64();
        port.end();
    });
    messages.load(Ordering::Relaxed) as f64 / seconds
}

/// What was received goes back; what was sent makes room for what comes.
fn answer(port: &Port, completion: Completion, work: Duration) {
    let socket = completion.operation.socket().expect("only sockets have operations here");
    match completion.outcome {
        Outcome::Received { buffer, result: Ok(1..) } => {
            let start = Instant::now();
            while start.elapsed() < work {
                std::hint::spin_loop();
            }
            drop(port.send(socket, buffer));
        }
        Outcome::Sent { mut buffer, result: Ok(()), .. } => {
            buffer.clear();
            drop(port.recv(socket, buffer));
        }
        other => panic!("{other:?}"),
    }
}
