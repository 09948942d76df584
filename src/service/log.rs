//! Log: tells who came, what was received and who went. Nothing is answered.

use std::fmt;
use std::time::{Duration, Instant};

use super::{End, Next, Service};
use crate::buffer::{Input, Output};
use crate::client::{Client, Peer};

/// Bytes of input that one line tells of, so that a line is never longer than four times that.
const BYTES_PER_LINE: usize = 1024;

/// One line of the log. Its display form is one line of printable ASCII, whatever the client sends.
#[derive(Debug, Clone, Copy)]
pub enum LogLine<'a> {
    /// A client has connected.
    Connected(Peer),
    /// Bytes came from it.
    Received(Peer, &'a [u8]),
    /// It has gone, and why.
    Offline(Peer, End),
}

impl fmt::Display for LogLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected(peer) => write!(f, "{peer} connected"),
            Self::Received(peer, bytes) => {
                write!(f, "{peer} received {} bytes \"{}\"", bytes.len(), bytes.escape_ascii())
            }
            Self::Offline(peer, End::Broken(errno)) => {
                write!(f, "{peer} offline: {}", std::io::Error::from_raw_os_error(*errno))
            }
            Self::Offline(peer, _) => write!(f, "{peer} offline"),
        }
    }
}

/// How long a client waits whose line was not taken.
const RETRY: Duration = Duration::from_millis(10);

/// The log service. It hands each line to `tell`, which must not block; if that is too busy to take a line of input it
/// returns `false`, and the client is held back by TCP until it takes it. Lines of coming and going are told once.
#[derive(Debug, Clone, Copy)]
pub struct Log<F> {
    tell: F,
}

impl<F: FnMut(LogLine<'_>) -> bool> Log<F> {
    /// A log that goes to `tell`.
    pub const fn new(tell: F) -> Self {
        Self { tell }
    }
}

impl<F: FnMut(LogLine<'_>) -> bool> Service for Log<F> {
    type Session = ();

    fn open(&mut self, client: &Client) {
        (self.tell)(LogLine::Connected(client.peer));
    }

    fn data(&mut self, (): &mut (), input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        while !input.is_empty() {
            let piece = &input[..input.len().min(BYTES_PER_LINE)];
            if !(self.tell)(LogLine::Received(output.client().peer, piece)) {
                return Next::At(output.now() + RETRY);
            }
            input.consume(piece.len());
        }
        Next::More
    }

    fn timer(&mut self, session: &mut (), input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        self.data(session, input, output)
    }

    fn eof(&mut self, (): &mut (), input: &mut Input<'_>, _: &mut Output<'_>) -> Next {
        if input.is_empty() { Next::Finish } else { Next::More }
    }

    fn close(&mut self, (): (), client: &Client, end: End) {
        (self.tell)(LogLine::Offline(client.peer, end));
    }

    fn pack(&self, (): &(), _: Instant) -> Option<Vec<u8>> {
        Some(Vec::new())
    }

    fn unpack(&mut self, _: &Client, packed: &[u8], _: Instant) -> Option<()> {
        packed.is_empty().then_some(())
    }
}
