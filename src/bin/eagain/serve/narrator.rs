//! `--trace`: the loop tells what it does, a line at a time, on stderr.
//!
//! It writes at once and waits for the reader: a trace with holes would be no trace. A server that is traced is as slow
//! as whoever reads it.

use std::fmt::Display;
use std::time::Duration;

use eagain::sys::epoll::{Event, Interest, Mode};
use eagain::{Client, ConnectionId, End, Peer, Trace};

use crate::say::{Event as About, Level, Line};

/// Tells it.
#[derive(Default)]
pub(crate) struct Narrator;

/// Whatever `--log-level` says: it was asked for by name.
fn tell(line: impl Display) {
    Line::new(Level::Debug, format_args!("trace: {line}")).with(About::Trace).write();
}

/// `17`, or `EAGAIN` as the kernel calls it.
fn outcome(result: Result<usize, i32>) -> String {
    match result {
        Ok(count) => count.to_string(),
        Err(errno) => name(errno),
    }
}

fn name(errno: i32) -> String {
    format!("{:?}", nix::errno::Errno::from_raw(errno))
}

impl Trace for Narrator {
    fn waiting(&mut self, timeout: Option<Duration>, connections: usize, queued: usize) {
        let timeout = timeout.map_or_else(|| "for ever".to_owned(), |time| format!("{time:?}"));
        tell(format_args!("epoll_wait {timeout}; connections: {connections}, run queue: {queued}"));
    }

    fn woken(&mut self, events: usize) {
        tell(format_args!("epoll_wait = {events}"));
    }

    fn event(&mut self, connection: Option<ConnectionId>, event: Event) {
        match connection {
            Some(id) => tell(format_args!("{id} is ready: {}", event.names())),
            None => tell(format_args!("an event of a connection that is closed: {}", event.names())),
        }
    }

    fn knock(&mut self, listener: usize, event: Event) {
        tell(format_args!("listener {listener} is ready: {}", event.names()));
    }

    fn mail(&mut self, messages: usize) {
        tell(format_args!("messages from other threads: {messages}"));
    }

    fn accepted(&mut self, client: &Client) {
        tell(format_args!("accept4 on listener {} = {} from {}", client.listener, client.id, client.peer));
    }

    fn turned_away(&mut self, listener: usize, peer: &Peer) {
        tell(format_args!("accept4 on listener {listener}: closed, {peer} is not let in"));
    }

    fn not_accepted(&mut self, listener: usize, errno: i32) {
        tell(format_args!("accept4 on listener {listener} = {}", name(errno)));
    }

    fn paused(&mut self, listener: usize, rests: bool) {
        let what = if rests { "rests: no descriptors or no memory" } else { "is registered" };
        tell(format_args!("listener {listener} {what}"));
    }

    fn received(&mut self, connection: ConnectionId, result: Result<usize, i32>) {
        tell(format_args!("recv on {connection} = {}", outcome(result)));
    }

    fn sent(&mut self, connection: ConnectionId, asked: usize, result: Result<usize, i32>) {
        tell(format_args!("send on {connection} of {asked} = {}", outcome(result)));
    }

    fn queues(&mut self, connection: ConnectionId, input: usize, output: usize) {
        if input + output > 0 {
            tell(format_args!("{connection} keeps {input} bytes of input, {output} of output"));
        }
    }

    fn registered(&mut self, connection: ConnectionId, interest: Interest, mode: Mode, added: bool) {
        let call = if added { "ADD" } else { "MOD" };
        tell(format_args!("epoll_ctl {call} {connection}: {interest} {mode}"));
    }

    fn expired(&mut self, connection: ConnectionId) {
        tell(format_args!("the deadline of {connection} has come"));
    }

    fn closed(&mut self, connection: ConnectionId, end: End) {
        match end {
            End::Broken(errno) => tell(format_args!("closed {connection}: {}", name(errno))),
            end => tell(format_args!("closed {connection}: {end:?}")),
        }
    }
}
