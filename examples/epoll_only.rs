//! An echo server on the bare wrapper, edge-triggered; the comments are the rules of that mode.
//! Try: `cargo run --no-default-features --example epoll_only -- 127.0.0.1:7007`
use eagain::sys::epoll::{Epoll, Events, Interest, Mode, Timeout};
use eagain::sys::net::{self, NonBlocking};
use std::collections::{BTreeSet, HashMap};
use std::io::{self, ErrorKind::WouldBlock};
use std::{env, mem, net::TcpListener, time::Duration};

const LISTENER: u64 = 0; // Tokens count upwards and never come again: a stale event finds nobody.
const CHUNK: usize = 16 * 1024; // Bytes; the most that is read before all of it is sent on.
const BUDGET: usize = 32; // Steps per turn: one busy client must not hold up the others.
const RETRY: Timeout = Timeout::After(Duration::from_millis(100)); // No edge tells of free descriptors.

struct Client {
    socket: NonBlocking<socket2::Socket>,
    unsent: Vec<u8>,
    eof: bool,
}

/// Works until EAGAIN (an error here; the next edge calls again), until all is answered (`false`),
/// or until the budget is spent (`true`: no edge will come for what is left, so call again).
fn echo(client: &mut Client) -> io::Result<bool> {
    for _ in 0..BUDGET {
        if !client.unsent.is_empty() {
            let sent = net::send(&client.socket, &client.unsent)?;
            client.unsent.drain(..sent); // Maybe not all. Who does not read is not read from.
        } else if client.eof {
            return Ok(false); // Only now: what came before the FIN was owed an answer.
        } else {
            // A short read is not yet EAGAIN: for a FIN that came with the data no edge comes again.
            client.eof = net::recv_append(&client.socket, &mut client.unsent, CHUNK)? == 0;
        }
    }
    Ok(true)
}

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:7007".into());
    let listener = NonBlocking::new(TcpListener::bind(address)?)?;
    socket2::SockRef::from(&listener).listen(4096)?; // std's 128 drops the SYNs of a burst: seconds.
    println!("listening on {}", listener.get_ref().local_addr()?);
    let (epoll, mut events) = (Epoll::new()?, Events::with_capacity(256));
    epoll.add_nonblocking(&listener, LISTENER, Interest::READ, Mode::EDGE)?;
    let (mut clients, mut newest, mut starved) = (HashMap::new(), LISTENER, false);
    let mut ready = BTreeSet::new(); // Who can go on without a new edge, each of them once.
    loop {
        let idle = if starved { RETRY } else { Timeout::Never };
        let timeout = if ready.is_empty() { idle } else { Timeout::Now };
        epoll.wait(&mut events, timeout)?;
        ready.extend(events.iter().map(|event| event.data()));
        let mut turn = mem::take(&mut ready);
        if turn.remove(&LISTENER) || starved {
            let accepted = NonBlocking::accept(&listener);
            starved = matches!(&accepted, Err(error) if error.kind() != WouldBlock);
            if let Ok((socket, _)) = accepted {
                ready.insert(LISTENER); // One edge may stand for many: accept until EAGAIN.
                newest += 1;
                let client = Client { socket, unsent: Vec::new(), eof: false };
                let both = Interest::READ | Interest::WRITE; // Once and for all, never modified.
                let added = epoll.add_nonblocking(&client.socket, newest, both, Mode::EDGE);
                drop(added.map(|()| clients.insert(newest, client))); // If refused: closed.
            }
        }
        for token in turn {
            match clients.get_mut(&token).map(echo) {
                Some(Ok(true)) => drop(ready.insert(token)),
                Some(Err(error)) if error.kind() == WouldBlock => {}
                _ => {
                    let gone = clients.remove(&token); // Delete before the close, by its name.
                    gone.map_or(Ok(()), |client| epoll.delete(&client.socket))?;
                }
            }
        }
    }
}
