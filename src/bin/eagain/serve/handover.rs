//! A restart that no client notices: connections go to the next process through the manager's store of descriptors.
//!
//! The manager keeps one pair of connected SOCK_SEQPACKET sockets. This process writes all its connections into the
//! pair when it ends, and the next one, which is given the pair at its start, reads them out. Storing each connection
//! by itself would be simpler, and quadratic in the manager: it compares every new descriptor with all that it has.
//!
//! A message carries up to 252 connections, and a memory file with what is known of each: its label (the service and
//! the address that it came by) and its state, each behind its length in 8 bytes, little-endian.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use eagain::Parcel;
use eagain::sys::passing;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use socket2::{Domain, SockRef, Socket, Type};

use super::systemd::{Manager, WAY};

/// Connections of one message; its memory file is one descriptor more.
const CONNECTIONS: usize = passing::MOST - 1;
/// The bytes of each message. Another format has others.
const FORMAT: &[u8] = b"eagain connections 1";
/// Bytes of messages that may wait in the pair. The kernel cuts it to `net.core.wmem_max`; with 212,992 there is room
/// for some 139,000 connections, as a message takes 768 bytes.
const WAITING_BYTES: usize = 4 << 20;

/// A connection of the process before this one.
pub(crate) struct Arrival {
    pub(crate) label: String,
    pub(crate) socket: OwnedFd,
    pub(crate) state: Vec<u8>,
}

/// The pair of sockets, of which this process holds the end that it writes to.
pub(crate) struct Way {
    end: OwnedFd,
}

impl Way {
    /// Empties the way that was passed, or stores a new one. `None`: nobody keeps it.
    pub(crate) fn open(passed: Vec<OwnedFd>, manager: &Manager) -> io::Result<(Option<Self>, Vec<Arrival>)> {
        let mut arrivals = Vec::new();
        let mut ends = passed.into_iter();
        let (Some(end), Some(other)) = (ends.next(), ends.next()) else {
            return Ok((Self::make(manager)?, arrivals));
        };
        // What was written to one end is read from the other; which is which, nobody has noted.
        for end in [&end, &other] {
            receive(end.as_fd(), &mut arrivals)?;
        }
        Ok((Some(Self { end }), arrivals))
    }

    fn make(manager: &Manager) -> io::Result<Option<Self>> {
        if !manager.is_there() {
            return Ok(None);
        }
        let (end, other) = Socket::pair(Domain::UNIX, Type::SEQPACKET.nonblocking(), None)?;
        for end in [&end, &other] {
            SockRef::from(end).set_send_buffer_size(WAITING_BYTES)?;
        }
        manager.store(WAY, &[other.as_fd(), end.as_fd()]);
        Ok(Some(Self { end: end.into() }))
    }

    /// Whether the manager keeps the other end: if its store had no room for it, nobody holds it, and what was written
    /// would be lost.
    pub(crate) fn is_kept(&self) -> bool {
        let mut end = [PollFd::new(self.end.as_fd(), PollFlags::empty())];
        let polled = poll(&mut end, PollTimeout::ZERO);
        polled.is_ok() && !end[0].revents().is_some_and(|seen| seen.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
    }

    /// Sends connections to the next process, by their labels, and closes them here. Says how many went, and why those
    /// that did not could not.
    pub(crate) fn send(&self, parcels: Vec<Parcel>, label: impl Fn(usize) -> String) -> (usize, Option<io::Error>) {
        let mut sent = 0;
        let mut parcels = parcels.into_iter().peekable();
        while parcels.peek().is_some() {
            let batch: Vec<Parcel> = parcels.by_ref().take(CONNECTIONS).collect();
            let count = batch.len();
            if let Err(error) = self.send_batch(batch, &label) {
                return (sent, Some(error));
            }
            sent += count;
        }
        (sent, None)
    }

    fn send_batch(&self, batch: Vec<Parcel>, label: impl Fn(usize) -> String) -> io::Result<()> {
        let mut sockets = Vec::with_capacity(batch.len());
        let mut bytes = Vec::new();
        for parcel in batch {
            let label = label(parcel.listener);
            let (socket, state) = parcel.into_parts();
            for field in [label.as_bytes(), &state] {
                bytes.extend((field.len() as u64).to_le_bytes());
                bytes.extend(field);
            }
            sockets.push(socket);
        }
        let mut memory = File::from(memfd_create(c"connections", MFdFlags::MFD_CLOEXEC)?);
        memory.write_all(&bytes)?;
        let descriptors: Vec<BorrowedFd<'_>> =
            std::iter::once(memory.as_fd()).chain(sockets.iter().map(AsFd::as_fd)).collect();
        passing::send(&self.end, FORMAT, &descriptors).map(drop)
    }
}

/// Takes all messages that wait.
fn receive(end: BorrowedFd<'_>, arrivals: &mut Vec<Arrival>) -> io::Result<()> {
    let mut format = [0; FORMAT.len() + 1];
    loop {
        let message = match passing::receive(end, &mut format) {
            Ok(message) if message.bytes > 0 => message,
            // Nobody holds the other end any more, or it has nothing more for us.
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut descriptors = message.descriptors.into_iter();
        if &format[..message.bytes] == FORMAT
            && let Some(memory) = descriptors.next()
        {
            unpack(File::from(memory), descriptors, arrivals)?;
        }
    }
}

/// A memory file that ends early has nothing to say of the last connections: they are closed.
fn unpack(mut memory: File, sockets: impl Iterator<Item = OwnedFd>, arrivals: &mut Vec<Arrival>) -> io::Result<()> {
    let mut bytes = Vec::new();
    memory.rewind()?;
    memory.read_to_end(&mut bytes)?;
    let mut rest = &bytes[..];
    for socket in sockets {
        let (Some(label), Some(state)) = (field(&mut rest), field(&mut rest)) else { break };
        let label = String::from_utf8_lossy(label).into_owned();
        arrivals.push(Arrival { label, socket, state: state.to_vec() });
    }
    Ok(())
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, behind) = rest.split_first_chunk()?;
    let (field, behind) = behind.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    *rest = behind;
    Some(field)
}
