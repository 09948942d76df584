//! A stream without a socket: bytes that somebody else has received, and bytes that somebody else is to send.
//!
//! `driver.rs` lends it to users with io_uring, TLS or a completion port, `harness.rs` to tests.

use std::io;

use crate::buffer::ByteQueue;
use crate::connection::Stream;

/// In place of a socket: what a [`Driven`](crate::driver::Driven) connection talks to whose bytes somebody else moves
/// ([`Driver::open_wire`](crate::driver::Driver::open_wire)).
#[derive(Debug)]
pub struct Wire {
    /// What the peer has sent and nobody has received.
    pub(crate) arriving: ByteQueue,
    /// The peer has sent its FIN, behind `arriving`.
    pub(crate) fin: bool,
    /// The peer has reset the connection.
    pub(crate) reset: bool,
    /// What was sent to the peer and nobody has taken.
    departing: ByteQueue,
    /// Bytes that were taken out of `departing`, and of which nobody has said that they are sent.
    under_way: usize,
    /// How many bytes may depart and be under way together.
    pub(crate) capacity: usize,
    /// What departs is still on this side of the kernel: a FIN, or the end, has to wait for it.
    on_this_side: bool,
    /// Our FIN is out, behind all that has departed.
    pub(crate) finished: bool,
}

impl Wire {
    pub(crate) const fn new(capacity: usize, on_this_side: bool) -> Self {
        Self {
            arriving: ByteQueue::new(),
            fin: false,
            reset: false,
            departing: ByteQueue::new(),
            under_way: 0,
            capacity,
            on_this_side,
            finished: false,
        }
    }

    pub(crate) const fn is_readable(&self) -> bool {
        !self.arriving.is_empty() || self.fin || self.reset
    }

    pub(crate) const fn is_writable(&self) -> bool {
        self.unsent() < self.capacity || self.reset
    }

    /// Bytes that were written and are not said to be sent.
    pub(crate) const fn unsent(&self) -> usize {
        self.departing.len() + self.under_way
    }

    pub(crate) fn output(&self) -> &[u8] {
        self.departing.as_slice()
    }

    /// Takes what departs; it is under way until [`sent`](Self::sent).
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        self.under_way += self.departing.len();
        std::mem::take(&mut self.departing).into()
    }

    /// The oldest so many bytes are sent: of those that were taken first, then of the others.
    pub(crate) fn sent(&mut self, count: usize) {
        let of_taken = count.min(self.under_way);
        self.under_way -= of_taken;
        self.departing.consume(count - of_taken);
        if self.departing.is_empty() {
            // Whoever is idle owns no memory.
            self.departing = ByteQueue::new();
        }
    }

    /// The first bytes that have arrived, or what `recv` says instead.
    fn next(&self, most: usize) -> io::Result<&[u8]> {
        match self.arriving.as_slice() {
            _ if self.reset => Err(io::Error::from_raw_os_error(libc::ECONNRESET)),
            [] if !self.fin => Err(io::Error::from_raw_os_error(libc::EAGAIN)),
            bytes => Ok(&bytes[..bytes.len().min(most)]),
        }
    }
}

impl Stream for Wire {
    fn recv_slice(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.next(buffer.len())?;
        let count = bytes.len();
        buffer[..count].copy_from_slice(bytes);
        self.arriving.consume(count);
        Ok(count)
    }

    fn recv_append(&mut self, buffer: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        let bytes = self.next(most)?;
        let count = bytes.len();
        buffer.extend_from_slice(bytes);
        self.arriving.consume(count);
        Ok(count)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.capacity.saturating_sub(self.unsent());
        match bytes.len().min(room) {
            _ if self.reset => Err(io::Error::from_raw_os_error(libc::EPIPE)),
            0 if !bytes.is_empty() => Err(io::Error::from_raw_os_error(libc::EAGAIN)),
            count => {
                self.departing.push(&bytes[..count]);
                Ok(count)
            }
        }
    }

    fn unread_bytes(&self) -> io::Result<usize> {
        Ok(self.arriving.len())
    }

    fn is_sending(&self) -> bool {
        self.on_this_side && self.unsent() > 0
    }

    fn shut_down_write(&mut self) -> io::Result<()> {
        self.finished = true;
        Ok(())
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(self.reset.then(|| io::Error::from_raw_os_error(libc::ECONNRESET)))
    }
}
