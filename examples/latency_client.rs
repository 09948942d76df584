//! How long echoes take: many clients at a time, each sends a message, waits for its echo, and sends the next.
//!
//! `cargo run --example latency_client [ADDRESS [CLIENTS [MESSAGES]]]`, with `framed_echo` or `eagain serve --frames`
//! at the other end. It prints the mean of each client, and of all round trips together the mean and some quantiles.
//!
//! Clients of this kind often
//! - read the wall clock, which is set now and then; and once for the seconds and once for the rest: here it is
//!   [`Instant`], which only goes forward;
//! - send themselves an object that whoever answers can forge (unpickling runs code): here it is a number, compared;
//! - take one `recv` for one message, and ignore what `send` returns: here both go on until all is there;
//! - print the mean alone: one slow answer of a hundred is not in it, though a user meets it every day.
//!
//! A client that waits for its answer before it sends again does not send while the server stalls, so a stall is one
//! slow sample and not many. `eagain bench` with a rate has no such blind spot.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// After that the server counts as hung.
const PATIENCE: Duration = Duration::from_secs(30);

/// One client: the round trips of its messages.
fn measure(address: SocketAddr, messages: usize, start: Instant) -> io::Result<Vec<Duration>> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?; // Or Nagle's algorithm is what is measured.
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut trips = Vec::with_capacity(messages);
    for _ in 0..messages {
        let sent = Instant::now();
        let stamp = u64::try_from((sent - start).as_nanos()).unwrap_or(u64::MAX).to_be_bytes();
        let mut message = [0; 12];
        message[..4].copy_from_slice(&(stamp.len() as u32).to_be_bytes());
        message[4..].copy_from_slice(&stamp);
        stream.write_all(&message)?;
        let mut echo = [0; 12];
        stream.read_exact(&mut echo)?;
        trips.push(sent.elapsed());
        if echo != message {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the echo is not what was sent"));
        }
    }
    Ok(trips)
}

fn mean(trips: &[Duration]) -> Duration {
    trips.iter().sum::<Duration>() / u32::try_from(trips.len()).unwrap_or(u32::MAX).max(1)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |index: usize, default: &str| arguments.get(index).map_or(default.to_owned(), String::clone);
    let usage = "arguments are: an address as 127.0.0.1:7004, a number of clients, a number of messages of each";
    let address: SocketAddr = argument(0, "127.0.0.1:7004").parse().map_err(|_| usage)?;
    let number = |index: usize| argument(index, "100").parse::<usize>().map_err(|_| usage);
    let (clients, messages) = (number(1)?, number(2)?);
    let start = Instant::now();
    let threads: Vec<_> = (0..clients).map(|_| thread::spawn(move || measure(address, messages, start))).collect();
    let (mut all, mut out) = (Vec::new(), io::stdout().lock());
    for (number, thread) in threads.into_iter().enumerate() {
        let trips = thread.join().map_err(|_| "a client has panicked")??;
        writeln!(out, "client {number}: mean {:?}", mean(&trips))?;
        all.extend(trips);
    }
    all.sort_unstable();
    let quantile = |percent: usize| all.get((all.len() * percent / 100).min(all.len().saturating_sub(1)));
    writeln!(out, "{} round trips: mean {:?}", all.len(), mean(&all))?;
    for percent in [50, 90, 99, 100] {
        if let Some(trip) = quantile(percent) {
            writeln!(out, "{percent} % within {trip:?}")?;
        }
    }
    Ok(())
}
