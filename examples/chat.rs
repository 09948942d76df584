//! A chat: what one client writes, all clients read, whichever worker they are with.
//!
//! `cargo run --example chat [ADDRESS]`, then `nc 127.0.0.1 7070` from several terminals. A client whose line gets
//! longer than 4 KiB, or who reads nothing while a megabyte is waiting, is shown out by the library.
//!
//! Chats often
//! - send to all sockets in turn, and end with the first one that has gone, or stop at one that does not read: here
//!   each client has a queue of its own, with a bound;
//! - keep sockets in a list that all threads share, so that one is closed while another sends on it: here threads send
//!   messages to each other, by names that are never given out twice;
//! - take one `recv` for one line: here a line is whole when its end is there;
//! - pass on whatever has come, to the terminals of others: here what is not ASCII text is escaped.

use std::net::SocketAddr;

use eagain::{Client, Config, End, Handle, Input, Listener, Next, Output, Server, Service, somaxconn};

const LINE_BYTES_MAX: usize = 4096;

struct Chat {
    handle: Handle,
}

impl Chat {
    fn tell_everyone(&self, line: String) {
        // Full means that 65,536 lines wait already: this one is lost, the chat goes on.
        let _ = self.handle.broadcast(line.into_bytes());
    }
}

impl Service for Chat {
    /// Whether the client has been greeted.
    type Session = bool;

    fn open(&mut self, client: &Client) -> bool {
        self.tell_everyone(format!("* {} has come\n", client.peer));
        false
    }

    fn room(&mut self, greeted: &mut bool, _: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        if !std::mem::replace(greeted, true) {
            output.write(b"* Welcome. What you write, everybody reads.\n");
        }
        Next::More
    }

    fn data(&mut self, _: &mut bool, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        // Messages have no borders in TCP: a line is whole when its end is there.
        while let Some(length) = input.iter().position(|&byte| byte == b'\n') {
            let line = input[..length].escape_ascii().to_string();
            self.tell_everyone(format!("{}: {line}\n", output.client().peer));
            input.consume(length + 1);
        }
        Next::More
    }

    fn close(&mut self, _: bool, client: &Client, _: End) {
        self.tell_everyone(format!("* {} has gone\n", client.peer));
    }

    fn input_limit(&self, _: &bool) -> usize {
        LINE_BYTES_MAX
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7070".into());
    let address: SocketAddr = address.parse().map_err(|_| "ADDRESS is an IP address and a port: 127.0.0.1:7070")?;
    let listener = Listener::tcp(address, somaxconn())?;
    println!("listening chat {}", listener.address());
    let server = Server::start(Config::default(), vec![listener], |handle| Chat { handle: handle.clone() })?;
    server.join()?;
    Ok(())
}
