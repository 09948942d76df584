//! A log sink on the bare wrapper, edge-triggered: it prints who comes, what they send, and who goes.
//!
//! `cargo run --example edge_logger [ADDRESS]`, then `nc 127.0.0.1 7788` from several terminals.
//!
//! Edge-triggered loggers often
//! - accept once for each edge: of six clients that come together, two are seen;
//! - call `recv` once for each edge: what is behind the first 1,024 bytes stays until the client sends again;
//! - compare the event with `==`: IN with RDHUP, or with HUP and ERR, is no case, and that client is kept for ever;
//! - leave the sockets blocking, so that draining one of them stops the others.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, ErrorKind, ErrorKind::WouldBlock, Write};
use std::net::TcpListener;
use std::{env, fmt, mem, process, time::Duration};

use eagain::sys::epoll::{Epoll, Events, Interest, Mode, Timeout};
use eagain::sys::net::{self, NonBlocking};
use socket2::Socket;

/// Tokens count upwards and never come again: an event that is late finds nobody.
const LISTENER: u64 = 0;
/// Calls for one client in a turn. Whoever sends without end must not hold up the others.
const BUDGET: usize = 16;
/// No edge tells that descriptors are free again.
const RETRY: Timeout = Timeout::After(Duration::from_millis(100));

struct Sender {
    socket: NonBlocking<Socket>,
    address: String,
}

/// Where nobody reads the log any more, it ends.
fn say(line: fmt::Arguments<'_>) {
    if writeln!(io::stdout(), "{line}").is_err() {
        process::exit(1);
    }
}

/// Reads until EAGAIN or the end, which both are errors here, or until the budget is spent: then no edge will come, and
/// it is to be called again.
fn log(sender: &Sender) -> io::Result<()> {
    let mut chunk = [0; 4096];
    for _ in 0..BUDGET {
        match net::recv_slice(&sender.socket, &mut chunk)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => say(format_args!("received {} {}", sender.address, chunk[..count].escape_ascii())),
        }
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:7788".into());
    let listener = NonBlocking::new(TcpListener::bind(address)?)?;
    socket2::SockRef::from(&listener).listen(eagain::somaxconn().try_into().unwrap_or(i32::MAX))?;
    println!("listening edge_logger {}", listener.get_ref().local_addr()?);
    let (epoll, mut events) = (Epoll::new()?, Events::with_capacity(256));
    epoll.add_nonblocking(&listener, LISTENER, Interest::READ, Mode::EDGE)?;
    let (mut senders, mut newest, mut starved) = (HashMap::new(), LISTENER, false);
    let mut ready = BTreeSet::new(); // Who can go on without a new edge, each of them once.
    loop {
        let idle = if starved { RETRY } else { Timeout::Never };
        epoll.wait(&mut events, if ready.is_empty() { idle } else { Timeout::Now })?;
        // Whatever the bits are, `recv` tells the rest: bytes, the end, or the error.
        ready.extend(events.iter().map(|event| event.data()));
        let mut turn = mem::take(&mut ready);
        if turn.remove(&LISTENER) || starved {
            let accepted = NonBlocking::accept(&listener);
            starved = matches!(&accepted, Err(error) if error.kind() != WouldBlock);
            if let Ok((socket, from)) = accepted {
                ready.insert(LISTENER); // One edge may stand for many: accept until EAGAIN.
                newest += 1;
                let address = from.as_socket().map_or("unix".into(), |address| address.to_string());
                say(format_args!("connected {address}"));
                let added = epoll.add_nonblocking(&socket, newest, Interest::READ, Mode::EDGE);
                drop(added.map(|()| senders.insert(newest, Sender { socket, address }))); // If refused: closed.
            }
        }
        for token in turn {
            match senders.get(&token).map(log) {
                Some(Ok(())) => drop(ready.insert(token)),
                Some(Err(error)) if error.kind() == WouldBlock => {}
                Some(Err(error)) => {
                    let sender = &senders[&token];
                    let why = if error.kind() == ErrorKind::UnexpectedEof { "end".into() } else { error.to_string() };
                    say(format_args!("offline {} {why}", sender.address));
                    epoll.delete(&sender.socket)?; // Before the close, by its name.
                    senders.remove(&token);
                }
                None => {}
            }
        }
    }
}
