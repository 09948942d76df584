//! The embedder's door: [`Service`], and the services that come with the crate.
//!
//! A service is sans-IO. Bytes come in, bytes go out, and each callback returns what is to become of the connection;
//! the loop does the rest. It never sees a descriptor, a token or EAGAIN, so any split of the input gives the same
//! output, and level and edge do too. There is one value per worker thread: no `Sync`, no lock.

mod chargen;
mod delay;
mod discard;
mod echo;
mod frames;
mod log;
mod proxy;

use std::time::Instant;

pub use chargen::Chargen;
pub use delay::{Delay, Delayed};
pub use discard::Discard;
pub use echo::Echo;
pub use frames::{FrameError, Frames};
pub use log::{Log, LogLine};
pub use proxy::{Proxied, ProxiedSession, ProxyError, ProxyHeader};

use crate::buffer::{Input, Output};
use crate::client::{Client, ConnectionId, Peer};
use crate::gate::TurnedAway;
use crate::limits::INPUT_LIMIT_BYTES;
use crate::timeouts::Expired;

/// What is to become of a connection after a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Go on. A timer that is set stays set.
    More,
    /// Go on, and call [`Service::timer`] at this time (or as soon as possible, if it has passed). It replaces the
    /// timer that was set before; there is one per connection.
    At(Instant),
    /// Send what waits, then a FIN, and close when the client has closed, or a second later. No callback comes any more
    /// but [`Service::close`].
    Finish,
    /// Close now. What waits is lost.
    Abort,
}

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The service had finished, and everything has been sent.
    Finished,
    /// The service had finished, but the client did not close in time, and was closed.
    Lingered,
    /// The connection broke: the errno, such as ECONNRESET or EPIPE.
    Broken(i32),
    /// The service said [`Next::Abort`].
    Aborted,
    /// The service took nothing of an input that was full, had nothing to send and no timer: it would have hung for
    /// ever.
    Stuck,
    /// The client did not take what other threads sent it
    /// ([`OUTPUT_LIMIT_BYTES`](crate::limits::OUTPUT_LIMIT_BYTES)).
    TooSlow,
    /// The client took longer than it may.
    TimedOut(Expired),
    /// All connections together kept more than [`Limits::buffered_bytes`](crate::Limits::buffered_bytes), and this one
    /// wanted to keep more.
    OverBuffered,
    /// A [`Handle`](crate::Handle) closed it.
    Closed,
    /// The server stopped before the connection was done.
    Stopped,
    /// It is not over: another process goes on with it ([`Handle::hand_over`](crate::Handle::hand_over)).
    /// [`Service::close`] is not called.
    Moved,
}

/// A protocol.
///
/// All callbacks of one connection are called by the thread of its worker, one after the other. None of them may block:
/// everybody else of this worker waits meanwhile.
///
/// ```
/// use eagain::{Client, Input, Next, Output, Service};
///
/// /// Answers each line with its length.
/// struct Lengths;
///
/// impl Service for Lengths {
///     type Session = ();
///
///     fn open(&mut self, _: &Client) {}
///
///     fn data(&mut self, (): &mut (), input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
///         while let Some(length) = input.iter().position(|&byte| byte == b'\n') {
///             output.write(format!("{length}\n").as_bytes());
///             input.consume(length + 1);
///         }
///         Next::More
///     }
/// }
/// ```
pub trait Service {
    /// What the service remembers of one connection.
    type Session;

    /// A client has connected. [`room`](Self::room) follows at once, for services that speak first.
    fn open(&mut self, client: &Client) -> Self::Session;

    /// Input has come. What is not consumed is there again at the next callback, with more behind it.
    fn data(&mut self, session: &mut Self::Session, input: &mut Input<'_>, output: &mut Output<'_>) -> Next;

    /// There is room for output. Called after `open`; after a callback that wrote until [`Output::room`] was 0; and
    /// again after a call of `room` that wrote anything: each time when what waited has gone out down to the low-water
    /// mark.
    fn room(&mut self, session: &mut Self::Session, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        let _ = (session, input, output);
        Next::More
    }

    /// The time of [`Next::At`] has come.
    fn timer(&mut self, session: &mut Self::Session, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        let _ = (session, input, output);
        Next::More
    }

    /// The client has sent its last byte, which may be in `input`; it may still be reading. Called again after each
    /// later callback, until it returns [`Next::Finish`], which is what it does if it is not implemented.
    fn eof(&mut self, session: &mut Self::Session, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        let _ = (session, input, output);
        Next::Finish
    }

    /// The connection is over.
    fn close(&mut self, session: Self::Session, client: &Client, end: End) {
        let _ = (session, client, end);
    }

    /// What another process needs to know to go on with this session, as bytes. `None`, which is what it says if it is
    /// not implemented: nobody else can, so the connection is drained instead.
    fn pack(&self, session: &Self::Session, now: Instant) -> Option<Vec<u8>> {
        let _ = (session, now);
        None
    }

    /// The session that another process packed, perhaps of an older version of the program. In place of
    /// [`open`](Self::open): input that was not consumed, output that was not sent and the timer are there as they
    /// were. `None`: these bytes make no sense here; the connection is closed, and counts as refused.
    fn unpack(&mut self, client: &Client, packed: &[u8], now: Instant) -> Option<Self::Session> {
        let _ = (client, packed, now);
        None
    }

    /// How many bytes of input the loop keeps for this connection while the service does not consume them; at that the
    /// client is held back. At least 1.
    fn input_limit(&self, session: &Self::Session) -> usize {
        let _ = session;
        INPUT_LIMIT_BYTES
    }

    /// No client can be accepted for the moment: descriptors or memory have run out (the errno, as EMFILE). Clients
    /// wait in the accept queue, and the listener tries again. Called at every try that fails, up to ten times a
    /// second.
    fn exhausted(&mut self, listener: usize, errno: i32) {
        let _ = (listener, errno);
    }

    /// A client was closed at once, because of the [`AccessList`](crate::AccessList) or of one of the
    /// [`Limits`](crate::Limits). It had no session. Under attack this is called for each connection: it must be
    /// cheap.
    fn turned_away(&mut self, listener: usize, peer: &Peer, why: TurnedAway) {
        let _ = (listener, peer, why);
    }

    /// A message of a [`Handle`](crate::Handle) came too late: that connection is gone, or has finished.
    fn undelivered(&mut self, to: ConnectionId, bytes: &[u8]) {
        let _ = (to, bytes);
    }
}
