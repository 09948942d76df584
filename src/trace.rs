//! The narrated loop: what a [`Trace`] is told of every wait, event and system call.
//!
//! The worker is compiled for each kind of trace. With [`Silent`] nothing is left of it in the machine code.

use std::time::Duration;

use crate::client::{Client, ConnectionId, Peer};
use crate::service::End;
use crate::sys::epoll::{Event, Interest, Mode};

/// Is told what a worker does, in order. A count, or the errno of the call that failed.
#[allow(unused_variables)]
pub trait Trace {
    /// `epoll_wait` is about to be called, by a worker with so many connections; so many are in its run queue.
    fn waiting(&mut self, timeout: Option<Duration>, connections: usize, queued: usize) {}
    /// `epoll_wait` has returned so many events.
    fn woken(&mut self, events: usize) {}
    /// An event of a connection. `None`: of one that is closed already; it is dropped.
    fn event(&mut self, connection: Option<ConnectionId>, event: Event) {}
    /// An event of a listener.
    fn knock(&mut self, listener: usize, event: Event) {}
    /// Another thread has sent messages.
    fn mail(&mut self, messages: usize) {}
    /// `accept4` gave a connection.
    fn accepted(&mut self, client: &Client) {}
    /// `accept4` gave a connection that is over a limit, or whose address may not connect; it is closed.
    fn turned_away(&mut self, listener: usize, peer: &Peer) {}
    /// `accept4` gave none.
    fn not_accepted(&mut self, listener: usize, errno: i32) {}
    /// The listener rests: there are no descriptors, or no memory; or it goes on.
    fn paused(&mut self, listener: usize, rests: bool) {}
    /// `recv` on a connection; 0 bytes are the end of the stream.
    fn received(&mut self, connection: ConnectionId, result: Result<usize, i32>) {}
    /// `send` on a connection, of so many bytes.
    fn sent(&mut self, connection: ConnectionId, asked: usize, result: Result<usize, i32>) {}
    /// What waits after a connection has had its turn: input not consumed, output not sent, in bytes.
    fn queues(&mut self, connection: ConnectionId, input: usize, output: usize) {}
    /// `epoll_ctl` added (or, if not `added`, modified) the registration of a connection.
    fn registered(&mut self, connection: ConnectionId, interest: Interest, mode: Mode, added: bool) {}
    /// The deadline of a connection has come.
    fn expired(&mut self, connection: ConnectionId) {}
    /// A connection is over.
    fn closed(&mut self, connection: ConnectionId, end: End) {}
}

/// Tells nothing and costs nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Trace for Silent {}
