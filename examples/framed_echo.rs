//! Messages with a length in front, answered one by one: 4 bytes, big-endian, then so many bytes of payload.
//!
//! `cargo run --example framed_echo [ADDRESS]`, then `cargo run --example latency_client` from another terminal.
//!
//! Servers of this kind often
//! - take one `recv` for one message, though TCP has no borders: here a message waits until it is whole;
//! - ignore what `send` returns, and lose the rest of a long answer: here the library keeps it and goes on;
//! - believe any length, or keep any number of answers: here the cap is checked before memory is taken, and a client
//!   that does not read is not read from;
//! - test the bits of an event by `else if`, so that a hang-up is never seen, or end with the first client that resets
//!   its connection: here one client's end is its own.

use std::net::SocketAddr;

use eagain::{Client, Config, Input, Listener, Next, Output, Server, Service, Trigger, somaxconn};

/// Bytes in front of a payload.
const HEADER: usize = 4;
/// Bytes of payload at the most.
const PAYLOAD_MAX: usize = 1 << 20;

struct FramedEcho;

impl Service for FramedEcho {
    type Session = ();

    fn open(&mut self, _: &Client) {}

    fn data(&mut self, (): &mut (), input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        while let Some((header, rest)) = input.split_first_chunk::<HEADER>() {
            let length = u32::from_be_bytes(*header) as usize;
            if length > PAYLOAD_MAX {
                // What was answered already still goes out.
                return Next::Finish;
            }
            if rest.len() < length {
                break;
            }
            output.forward(input, HEADER + length);
        }
        Next::More
    }

    fn input_limit(&self, (): &()) -> usize {
        HEADER + PAYLOAD_MAX
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7004".into());
    let address: SocketAddr = address.parse().map_err(|_| "ADDRESS is an IP address and a port: 127.0.0.1:7004")?;
    // The queue as long as the kernel allows: with a short one, clients that come all at once wait for seconds.
    let listener = Listener::tcp(address, somaxconn())?;
    println!("listening framed_echo {}", listener.address());
    let config = Config { trigger: Trigger::Edge, workers: 2, ..Config::default() };
    Server::start(config, vec![listener], |_| FramedEcho)?.join()?;
    Ok(())
}
