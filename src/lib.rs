//! A TCP server on raw Linux epoll, level- and edge-triggered: the library below the program `eagain`.
//!
//! Write a protocol as a [`Service`]: bytes in, bytes out, decisions returned. Give it to a [`Server`], with
//! [`Listener`]s; reach its connections from other threads by a [`Handle`]. Or use [`sys::epoll`] alone: the three
//! system calls, safe, with nothing in between.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::TcpStream;
//! use std::time::Duration;
//!
//! use eagain::{Address, Client, Config, Input, Listener, Next, Output, Server, Service};
//!
//! struct Shout;
//!
//! impl Service for Shout {
//!     type Session = ();
//!
//!     fn open(&mut self, _: &Client) {}
//!
//!     fn data(&mut self, (): &mut (), input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
//!         output.write(&input.to_ascii_uppercase());
//!         input.consume(input.len());
//!         Next::More
//!     }
//! }
//!
//! let listener = Listener::tcp("127.0.0.1:0".parse()?, 128)?;
//! let Address::Tcp(address) = listener.address().clone() else { unreachable!() };
//! let server = Server::start(Config::default(), vec![listener], |_| Shout)?;
//!
//! let mut client = TcpStream::connect(address)?;
//! client.write_all(b"hello")?;
//! client.shutdown(std::net::Shutdown::Write)?;
//! let mut answer = String::new();
//! client.read_to_string(&mut answer)?;
//! assert_eq!(answer, "HELLO");
//!
//! server.handle().drain(Duration::from_secs(5));
//! server.join()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The map
//!
//! ```text
//!  epoll_wait ─ worker ─ level | edge ─ exchange ─ connection ─ recv, send
//!                 │                        │
//!        slab, deadline, mailbox        service  (buffer: Input, Output)
//! ```
//!
//! In reading order:
//!
//! | file | what it is |
//! |---|---|
//! | `limits.rs` | every bound and budget |
//! | `sys/epoll.rs`, `sys/net.rs`, `sys/inherited.rs`, `sys/passing.rs` | the kernel boundary, the only `unsafe` |
//! | `slab.rs`, `buffer.rs`, `deadline.rs`, `client.rs` | connections by token, byte queues, deadlines, peers |
//! | `timeouts.rs`, `gate.rs` | how long a client may take; how much all of them together |
//! | `access.rs` | which addresses may connect |
//! | `listener.rs` | bind or adopt, accept, and what each accept error means |
//! | `connection.rs` | a socket, its two queues, how far it is, and what it wants of the kernel |
//! | `service/` | the trait, and echo, discard, chargen, frames, log, delay, and what stands behind a proxy |
//! | `exchange.rs` | one connection's turn: flush, ask, receive, answer |
//! | `level.rs`, `edge.rs` | what the two disciplines do differently; read them side by side |
//! | `worker.rs`, `worker/doors.rs`, `worker/leaving.rs` | the loop, the way in, the way out |
//! | `parcel.rs` | a connection on its way to another process |
//! | `driver.rs` | the same connections under a loop of your own |
//! | `wire.rs`, `driver/bytes.rs` | the same without sockets: bytes in, bytes out |
//! | `harness.rs` | the same for tests: no socket, no clock |
//! | `mailbox.rs`, `server.rs` | how other threads reach it; starting, draining, stopping |
//! | `pair.rs` | two sockets that are connected with each other, and with no stranger |
//! | `trace.rs`, `metrics.rs` | the loop told, and counted |
//! | `completion/` | another way to write a server: operations that complete, for any number of threads |
//!
//! # What it is not
//!
//! Not portable, not a runtime, no TLS: Linux 5.4 or later, threads, and sockets. A callback that blocks holds up all
//! connections of its worker.
#![deny(unsafe_code)]

mod access;
pub mod buffer;
mod client;
pub mod completion;
mod connection;
pub mod deadline;
pub mod driver;
mod edge;
mod exchange;
mod gate;
pub mod harness;
mod level;
pub mod limits;
mod listener;
mod mailbox;
mod metrics;
pub mod pair;
mod parcel;
mod server;
pub mod service;
pub mod slab;
#[allow(unsafe_code)]
pub mod sys;
mod timeouts;
mod trace;
mod wire;
mod worker;

pub use access::{AccessList, Cidr, CidrError};
pub use buffer::{Input, Output};
pub use client::{Client, ConnectionId, Peer};
pub use gate::{Limits, TurnedAway};
pub use listener::{Address, Error as ListenError, Listener, somaxconn};
pub use mailbox::SendError;
pub use metrics::{Counters, ListenerCounters, TURN_BOUNDS, TurnTimes, WorkerCounters};
pub use parcel::{Parcel, ParcelError};
pub use server::{Accept, Config, Error as ServerError, Handle, Server, Trigger};
pub use service::{End, Next, Service};
pub use timeouts::{Expired, Timeouts};
pub use trace::{Silent, Trace};
pub use worker::Error as WorkerError;
