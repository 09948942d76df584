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
//! - spin when `accept` fails for want of descriptors: the listener stays readable. Here it rests for a moment;
//! - throw away what `send` did not take, and keep any number of bytes for a client that does not read.

use std::collections::VecDeque;
use std::io::{self, ErrorKind::WouldBlock, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::sys::select::{FdSet, select};
use nix::sys::time::{TimeVal, TimeValLike};

/// Bytes that wait for one client until nothing more is read from it.
const QUEUE_MAX: usize = 64 * 1024;
/// Answers, likewise: those of one byte cost more than that byte.
const ANSWERS_MAX: usize = 256;
/// No set tells that descriptors are free again.
const RETRY: Duration = Duration::from_millis(100);

struct Client {
    stream: TcpStream,
    /// What is to be said, and from when on.
    queue: VecDeque<(Instant, Vec<u8>)>,
    ended: bool,
}

impl Client {
    fn reads(&self) -> bool {
        let waiting = self.queue.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        !self.ended && self.queue.len() < ANSWERS_MAX && waiting < QUEUE_MAX
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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let listener = TcpListener::bind(arguments.next().unwrap_or("127.0.0.1:8008".into()))?;
    let delay = arguments.next().map_or(Ok(5000), |text| text.parse::<u32>().map_err(|_| "DELAY_MS is a number"))?;
    let delay = Duration::from_millis(delay.into());
    listener.set_nonblocking(true)?;
    socket2::SockRef::from(&listener).listen(4096)?; // std's 128 drops the SYNs of a burst: seconds.
    println!("listening select_echo {}", listener.local_addr()?);
    let (mut clients, mut rests) = (Vec::<Client>::new(), false);
    loop {
        let now = Instant::now();
        let (mut readers, mut writers) = (FdSet::new(), FdSet::new());
        (!rests).then(|| readers.insert(listener.as_fd()));
        for client in &clients {
            client.reads().then(|| readers.insert(client.stream.as_fd()));
            client.writes(now).then(|| writers.insert(client.stream.as_fd()));
        }
        let due = clients.iter().filter_map(|client| Some(client.queue.front()?.0)).filter(|&due| due > now);
        let next = due.chain(rests.then(|| now + RETRY)).min();
        // Rounded up: a microsecond too early would be a turn for nothing.
        let mut timeout = next.map(|next| TimeVal::microseconds((next - now).as_micros() as i64 + 1));
        match select(None, &mut readers, &mut writers, None, &mut timeout) {
            Err(nix::Error::EINTR) => continue,
            outcome => outcome?,
        };
        let now = Instant::now();
        let knock = std::mem::take(&mut rests) || readers.contains(listener.as_fd());
        let told = |socket| (readers.contains(socket), writers.contains(socket));
        let mut ready = clients.iter().map(|client| told(client.stream.as_fd())).collect::<Vec<_>>().into_iter();
        clients.retain_mut(|client| {
            let (readable, writable) = ready.next().unwrap_or_default();
            client.turn(readable, writable, now + delay).is_ok() && !(client.ended && client.queue.is_empty())
        });
        // Last, so that a number that has become free in this turn is nobody's in it.
        if knock {
            let accepted = listener.accept();
            rests = matches!(&accepted, Err(error) if error.kind() != WouldBlock);
            let watchable = |stream: &TcpStream| (stream.as_raw_fd() as usize) < libc::FD_SETSIZE;
            let stream = accepted.ok().map(|(stream, _)| stream).filter(watchable);
            if let Some(stream) = stream.filter(|stream| stream.set_nonblocking(true).is_ok()) {
                clients.push(Client { stream, queue: VecDeque::new(), ended: false });
            }
        }
    }
}
