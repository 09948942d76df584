//! A connection on its way to another process: its socket, and all that is known of it.
//!
//! What has not been read or acknowledged stays with the socket, in the kernel. What goes along in bytes is what this
//! program holds: a message that is not whole, an answer that the client has not taken, the session of the service, and
//! how long ago things happened. The format is this crate's own: a version, then fields of fixed order, little-endian.

use std::num::NonZero;
use std::os::fd::OwnedFd;

use socket2::Socket;

use crate::buffer::ByteQueue;
use crate::client::Peer;
use crate::connection::{Connection, Phase};
use crate::sys::epoll::Interest;
use crate::sys::net::NonBlocking;
use crate::timeouts::{Notes, Tick};

/// The first byte. Another order or another meaning of the fields is another version.
const VERSION: u8 = 1;

/// Why bytes are no [`Parcel`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParcelError {
    /// Written by another version of this crate.
    #[error("the state of a connection is of format {0}, not {VERSION}: it was written by another version")]
    Version(u8),
    /// Cut off, or of somebody else.
    #[error("the state of a connection is malformed")]
    Malformed,
    /// Not a stream socket that can be made non-blocking.
    #[error("what should be a connection is none: {0}")]
    Socket(#[source] std::io::Error),
}

/// A connection that [`Handle::hand_over`](crate::Handle::hand_over) took out of a server, for
/// [`Handle::resume`](crate::Handle::resume) of another one, in this process or the next. Dropping it closes the
/// connection.
#[derive(Debug)]
pub struct Parcel {
    /// The index of the listener that it came by; to be set to the one of the same service in the other server.
    pub listener: usize,
    pub(crate) socket: NonBlocking<Socket>,
    pub(crate) state: State,
}

/// What is known of a connection. Times are milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) peer: Peer,
    /// What the service has packed.
    pub(crate) session: Vec<u8>,
    phase: Phase,
    read_closed: bool,
    owes_room: bool,
    producing: bool,
    input_full: bool,
    heard: bool,
    /// How long ago.
    notes: Notes,
    alarm_in: Option<u64>,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Parcel {
    /// Packs a connection that is in no epoll set any more.
    pub(crate) fn new(connection: Connection, peer: Peer, session: Vec<u8>, now: Tick) -> Self {
        let ago = |then: u32| (now as u32).wrapping_sub(then);
        let bytes = |queue: &Option<Box<ByteQueue>>| queue.as_ref().map_or(Vec::new(), |q| q.as_slice().to_vec());
        let Notes { active, begun, moved } = connection.notes;
        let state = State {
            peer,
            session,
            phase: connection.phase,
            read_closed: connection.read_closed,
            owes_room: connection.owes_room,
            producing: connection.producing,
            input_full: connection.input_full,
            heard: connection.heard,
            notes: Notes { active: ago(active), begun: ago(begun), moved: ago(moved) },
            alarm_in: connection.alarm.map(|at| at.get().saturating_sub(now)),
            input: bytes(&connection.input),
            output: bytes(&connection.output),
        };
        Self { listener: connection.listener.into(), socket: connection.into_socket(), state }
    }

    /// The connection as it was, as far as this program knows; what the kernel knows, the first event tells.
    pub(crate) fn open(self, short_is_all: bool, registered: Interest, now: Tick) -> Connection {
        let State { phase, read_closed, owes_room, producing, input_full, heard, notes, alarm_in, .. } = self.state;
        let then = |ago: u32| (now as u32).wrapping_sub(ago);
        let mut connection = Connection::new(self.socket, short_is_all, registered, self.listener as u16, now);
        connection.phase = phase;
        connection.read_closed = read_closed;
        connection.owes_room = owes_room;
        connection.producing = producing;
        connection.input_full = input_full;
        connection.heard = heard;
        connection.notes = Notes { active: then(notes.active), begun: then(notes.begun), moved: then(notes.moved) };
        connection.alarm = alarm_in.and_then(|ms| NonZero::new(now.saturating_add(ms).max(1)));
        connection.input = queue(self.state.input);
        connection.output = queue(self.state.output);
        connection.weigh();
        connection
    }

    /// The socket, and the state as bytes.
    #[must_use]
    pub fn into_parts(self) -> (OwnedFd, Vec<u8>) {
        (self.socket.into_inner().into(), self.state.encode())
    }

    /// A parcel from what [`into_parts`](Self::into_parts) gave, here or in another process.
    ///
    /// # Errors
    /// [`ParcelError`].
    pub fn from_parts(listener: usize, socket: OwnedFd, state: &[u8]) -> Result<Self, ParcelError> {
        let state = State::decode(state)?;
        let socket = NonBlocking::new(Socket::from(socket)).map_err(ParcelError::Socket)?;
        Ok(Self { listener, socket, state })
    }
}

fn queue(bytes: Vec<u8>) -> Option<Box<ByteQueue>> {
    (!bytes.is_empty()).then(|| Box::new(ByteQueue::from(bytes)))
}

impl State {
    fn encode(&self) -> Vec<u8> {
        let mut to = Vec::with_capacity(64 + self.session.len() + self.input.len() + self.output.len());
        let phase = match self.phase {
            Phase::Open => 0,
            Phase::Finishing => 1,
            Phase::Lingering => 2,
        };
        let flags = [self.read_closed, self.owes_room, self.producing, self.input_full, self.heard];
        to.extend([VERSION, phase]);
        to.extend(flags.map(u8::from));
        for ago in [self.notes.active, self.notes.begun, self.notes.moved] {
            to.extend(ago.to_le_bytes());
        }
        to.extend(self.alarm_in.unwrap_or(u64::MAX).to_le_bytes());
        let peer = self.peer.to_string();
        for bytes in [peer.as_bytes(), &self.session, &self.input, &self.output] {
            to.extend((bytes.len() as u64).to_le_bytes());
            to.extend(bytes);
        }
        to
    }

    fn decode(from: &[u8]) -> Result<Self, ParcelError> {
        match from.first() {
            Some(&VERSION) => decode(&mut &from[1..]).ok_or(ParcelError::Malformed),
            Some(&version) => Err(ParcelError::Version(version)),
            None => Err(ParcelError::Malformed),
        }
    }
}

/// `None`: cut off, too long, or a value that there is not.
fn decode(from: &mut &[u8]) -> Option<State> {
    let phase = match number::<1>(from)?[0] {
        0 => Phase::Open,
        1 => Phase::Finishing,
        2 => Phase::Lingering,
        _ => return None,
    };
    let [read_closed, owes_room, producing, input_full, heard] = number::<5>(from)?.map(|flag| flag != 0);
    let [active, begun, moved] = [number(from)?, number(from)?, number(from)?].map(u32::from_le_bytes);
    let alarm_in = Some(u64::from_le_bytes(number(from)?)).filter(|&ms| ms != u64::MAX);
    let peer = Peer::parse(std::str::from_utf8(bytes(from)?).ok()?)?;
    let [session, input, output] = [bytes(from)?, bytes(from)?, bytes(from)?].map(<[u8]>::to_vec);
    let notes = Notes { active, begun, moved };
    let state = State {
        peer,
        session,
        phase,
        read_closed,
        owes_room,
        producing,
        input_full,
        heard,
        notes,
        alarm_in,
        input,
        output,
    };
    from.is_empty().then_some(state)
}

fn number<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (number, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*number)
}

fn bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(u64::from_le_bytes(number(from)?)).ok()?;
    let (bytes, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            peer: Peer::parse("[fe80::1%3]:7").unwrap(),
            session: vec![7],
            phase: Phase::Finishing,
            read_closed: true,
            owes_room: false,
            producing: true,
            input_full: false,
            heard: true,
            notes: Notes { active: 1, begun: u32::MAX, moved: 3 },
            alarm_in: Some(5),
            input: b"half a fra".to_vec(),
            output: vec![9; 70_000],
        }
    }

    #[test]
    fn a_state_that_was_written_is_read_again() {
        for state in [state(), State { peer: Peer::UNIX, alarm_in: None, ..state() }] {
            assert_eq!(State::decode(&state.encode()).unwrap(), state);
        }
    }

    #[test]
    fn no_part_of_a_state_and_nothing_longer_is_taken_for_one() {
        let whole = State { output: Vec::new(), ..state() }.encode();
        for cut in 0..whole.len() {
            assert!(State::decode(&whole[..cut]).is_err(), "cut at {cut}");
        }
        assert!(State::decode(&[&whole[..], &[0]].concat()).is_err());
        assert!(matches!(State::decode(&[2, 0]), Err(ParcelError::Version(2))));
    }
}
