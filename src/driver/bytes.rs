//! Connections without a socket: what has been received is given to them, what they send is taken from them.

use crate::buffer::ByteQueue;
use crate::client::Peer;
use crate::connection::Phase;
use crate::driver::{Driven, Driver};
use crate::edge::Edge;
use crate::exchange::Discipline as _;
use crate::service::{End, Service};
use crate::trace::Trace;
use crate::wire::Wire;

/// Connections on a [`Wire`], for who moves the bytes himself: by io_uring, through TLS, by a completion port, by hand.
///
/// A connection goes through what every connection of a server goes through: the same queues, marks and decisions.
/// Bytes of it wait in three places, and each is bounded:
/// - received and not taken: in the queue that the caller gives to [`turn_with`](Self::turn_with), and that remains
///   his. While answers wait nothing is taken from it, and [`Driven::wants_input`] says so: then do not receive.
/// - taken and not consumed by the service: [`Service::input_limit`].
/// - written and not sent: the capacity that is given to [`open_wire`](Self::open_wire), and behind it
///   [`OUTPUT_HIGH_WATER_BYTES`](crate::limits::OUTPUT_HIGH_WATER_BYTES) and the answer that passes that mark.
impl<S: Service, T: Trace> Driver<S, T> {
    /// Opens a connection that has no socket; `peer` and `listener` (at most 65,535) are what the service is told. So
    /// many bytes at the most (1 at least) may be written and not yet [sent](Driven::sent). Its first
    /// [turn](Self::turn_with) is due at once, without input: a service may speak first.
    ///
    /// ```
    /// use std::time::Instant;
    ///
    /// use eagain::Peer;
    /// use eagain::buffer::ByteQueue;
    /// use eagain::driver::Driver;
    /// use eagain::service::Echo;
    ///
    /// let mut driver = Driver::new(Echo, Instant::now());
    /// let mut connection = driver.open_wire(Peer::UNIX, 0, 64 * 1024);
    /// let mut input = ByteQueue::new();
    /// driver.turn_with(&mut connection, &mut input).expect("the service goes on");
    ///
    /// // Received from somewhere, say, decrypted:
    /// input.push(b"hello");
    /// driver.turn_with(&mut connection, &mut input).expect("the peer is there");
    /// assert!(input.is_empty() && connection.wants_input());
    ///
    /// // To be sent somewhere: as much as goes now.
    /// assert_eq!(connection.output(), b"hello");
    /// connection.sent(3);
    /// driver.turn_with(&mut connection, &mut input).expect("it goes on");
    /// assert_eq!(connection.take_output(), b"lo");
    /// connection.sent(2);
    ///
    /// // The peer has sent its last byte: the service has nothing more to say, and neither have we.
    /// connection.end_input();
    /// let end = driver.turn_with(&mut connection, &mut input).expect_err("both sides are done");
    /// driver.close(connection, end);
    /// ```
    pub fn open_wire(&mut self, peer: Peer, listener: usize, capacity: usize) -> Driven<S, Wire> {
        self.open_on(Wire::new(capacity.max(1), true), peer, listener, true)
    }

    /// One turn of a connection without a socket. It is due when `input` has become longer, after
    /// [`sent`](Driven::sent), and after [`end_input`](Driven::end_input). It goes on until all of `input` is taken, or
    /// the connection is held back by answers that are not yet sent: what is left then is to be given again.
    ///
    /// A turn has no budget: it is bounded by the length of `input` and by the capacity.
    ///
    /// # Errors
    /// The connection is over: send what [`output`](Driven::output) still has if you like (after
    /// [`End::Finished`] there is nothing), and hand it to [`close`](Self::close). What goes wrong on the caller's side
    /// is told there, too: [`End::Broken`], with the errno.
    pub fn turn_with(&mut self, driven: &mut Driven<S, Wire>, input: &mut ByteQueue) -> Result<(), End> {
        self.turn.who = driven.id;
        let connection = &mut driven.member.connection;
        std::mem::swap(&mut connection.io().arriving, input);
        let (readable, writable, fin) = {
            let wire = connection.get_io();
            (wire.is_readable(), wire.is_writable(), wire.fin)
        };
        (connection.may_read, connection.may_write, connection.insist) = (readable, writable, fin);
        // After most that is sent there is nothing to be done. A connection that is ending may have waited for it.
        let mut result = Ok(());
        let mut go_on = Edge::must_return(connection) || connection.phase != Phase::Open;
        while go_on {
            result = self.turn.drive::<Edge>(&mut driven.member);
            go_on = result.is_ok() && Edge::must_return(&driven.member.connection);
        }
        let connection = &mut driven.member.connection;
        std::mem::swap(&mut connection.io().arriving, input);
        // It is read in a turn, where the input is, and nowhere else: a deadline must not find the end before the rest.
        connection.may_read = false;
        result
    }
}

impl<S: Service> Driven<S, Wire> {
    /// Whether to receive. If not, there are answers to be sent first, or the service is done.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.member.connection.wants_read()
    }

    /// The peer has sent its last byte. To be told behind its last input.
    pub const fn end_input(&mut self) {
        self.member.connection.io().fin = true;
    }

    /// What is to be sent now and was not [taken](Self::take_output), the oldest byte first.
    #[must_use]
    pub fn output(&self) -> &[u8] {
        self.member.connection.get_io().output()
    }

    /// Takes what is to be sent, for an operation that owns its buffer. Until it is said to be [sent](Self::sent) it
    /// counts against the capacity, as what was not taken does.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.member.connection.io().take_output()
    }

    /// So many bytes of the output have been sent: those that were taken first, then those that were not. A
    /// [turn](Driver::turn_with) is due, in which the service may write more.
    pub fn sent(&mut self, bytes: usize) {
        self.member.connection.io().sent(bytes);
    }

    /// Whether the peer is to be sent a FIN (for TLS: `close_notify`): the service is done, and all output is sent.
    /// Input is still wanted, and thrown away, until the peer ends too or the [deadline](Driver::deadline) comes.
    #[must_use]
    pub const fn has_finished(&self) -> bool {
        self.member.connection.get_io().finished
    }
}
