//! An echo on select(2), with a queue for each client and an answer that comes late.
//!
//! `cargo run --example select_echo [ADDRESS [DELAY_MS]]`, then `nc 127.0.0.1 8008`. Each chunk is answered after the
//! delay (5 seconds), and nobody waits for the answers of others.
//!
//! Servers of this kind often
//! - have no branch for the end of a client: an ended socket is readable for ever, and the loop spins;
//! - sleep before they answer: all clients wait for each of them. Here it is a deadline, and select's timeout;
//! - go over the lists of a pass in which they have closed sockets already: a number may mean somebody else by then;
//! - break at descriptor 1,024 (FD_SETSIZE; a constant of libc, not of the kernel): here that client is refused;
//! - throw away what `send` did not take, and keep any number of bytes for a client that does not read.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind::WouldBlock, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::sys::select::{FdSet, select};
use nix::sys::time::{TimeVal, TimeValLike};

/// Bytes that wait for one client until nothing more is read from it.
const QUEUE_MAX: usize = 64 * 1024;

struct Client {
    stream: TcpStream,
    /// What is to be said, and from when on.
    queue: VecDeque<(Instant, Vec<u8>)>,
    ended: bool,
}

impl Client {
    fn reads(&self) -> bool {
        !self.ended && self.queue.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() < QUEUE_MAX
    }

    /// Only while something is due: a socket is writable nearly always.
    fn writes(&self, now: Instant) -> bool {
        self.queue.front().is_some_and(|&(due, _)| due <= now)
    }

    fn read(&mut self, answer_at: Instant) -> io::Result<()> {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk)? {
            0 => self.ended = true, // No more questions; the answers are still due.
            count => self.queue.push_back((answer_at, chunk[..count].to_vec())),
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        let Some((_, bytes)) = self.queue.front_mut() else { return Ok(()) };
        let sent = self.stream.write(bytes)?;
        bytes.drain(..sent);
        if bytes.is_empty() {
            self.queue.pop_front();
        }
        Ok(())
    }

    fn turn(&mut self, readable: bool, writable: bool, answer_at: Instant) -> io::Result<()> {
        let read = if readable { self.read(answer_at) } else { Ok(()) };
        let written = if writable { self.write() } else { Ok(()) };
        let serious = |error: &io::Error| error.kind() != WouldBlock;
        [read, written].into_iter().filter_map(Result::err).find(serious).map_or(Ok(()), Err)
    }
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let listener = TcpListener::bind(arguments.next().unwrap_or("127.0.0.1:8008".into()))?;
    let delay = Duration::from_millis(arguments.next().and_then(|text| text.parse().ok()).unwrap_or(5000));
    listener.set_nonblocking(true)?;
    println!("listening select_echo {}", listener.local_addr()?);
    let mut clients: BTreeMap<i32, Client> = BTreeMap::new();
    loop {
        let now = Instant::now();
        let (mut readers, mut writers) = (FdSet::new(), FdSet::new());
        readers.insert(listener.as_fd());
        for client in clients.values() {
            client.reads().then(|| readers.insert(client.stream.as_fd()));
            client.writes(now).then(|| writers.insert(client.stream.as_fd()));
        }
        let due =
            clients.values().filter_map(|client| client.queue.front()).map(|&(due, _)| due).filter(|&due| due > now);
        // Rounded up: a microsecond too early would be a turn for nothing.
        let mut timeout = due.min().map(|due| TimeVal::microseconds((due - now).as_micros() as i64 + 1));
        match select(None, &mut readers, &mut writers, None, &mut timeout) {
            Err(nix::Error::EINTR) => continue,
            outcome => outcome?,
        };
        let now = Instant::now();
        let knock = readers.contains(listener.as_fd());
        let ready: Vec<_> = clients
            .iter()
            .map(|(&number, client)| {
                (number, readers.contains(client.stream.as_fd()), writers.contains(client.stream.as_fd()))
            })
            .filter(|&(_, readable, writable)| readable || writable)
            .collect();
        for (number, readable, writable) in ready {
            let Some(client) = clients.get_mut(&number) else { continue };
            let outcome = client.turn(readable, writable, now + delay);
            if outcome.is_err() || client.ended && client.queue.is_empty() {
                clients.remove(&number);
            }
        }
        // Last, so that a number that has become free in this turn is nobody's in it.
        if let (true, Ok((stream, _))) = (knock, listener.accept()) {
            let watchable = (stream.as_raw_fd() as usize) < libc::FD_SETSIZE;
            if watchable && stream.set_nonblocking(true).is_ok() {
                clients.insert(stream.as_raw_fd(), Client { stream, queue: VecDeque::new(), ended: false });
            }
        }
    }
}
