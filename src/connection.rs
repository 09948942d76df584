//! One connection: a socket, what waits on both sides of it, and how far it is with its life.
//!
//! It knows no epoll and no service. [`fill`](Connection::fill) and [`send`](Connection::send) make one system call
//! each and remember what it told; [`interest`](Connection::interest) says what the kernel should watch for, from
//! nothing but what is in here.
//!
//! What `recv` and `send` get wrong, or leave to the caller (the names are experiments of the lab):
//! - a. `send` takes what it likes (`short-send-loses-bytes`): the rest is kept. A short one says that the socket is
//!   full, without another call (`et-short-send-arms-edge`).
//! - b. The client's FIN is no reason to close (`half-close-is-rdhup-not-hup`, `closing-on-eof-truncates-answers`):
//!   what is due goes out first.
//! - c. Closing with unread input resets the connection, and can cost the client the answers that are still on their
//!   way (`close-with-unread-input-sends-rst`): a connection that we end is read for a while after our FIN.

use std::io;
use std::num::NonZero;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::Socket;

use crate::buffer::ByteQueue;
use crate::limits::{OUTPUT_HIGH_WATER_BYTES, OUTPUT_LOW_WATER_BYTES};
use crate::sys::epoll::{Event, Interest};
use crate::sys::net::{self, NonBlocking};
use crate::timeouts::{Expired, Notes, Tick, Timeouts, Waiting};

/// What a connection asks of its socket, or of a [`Wire`](crate::driver::Wire). Nobody else can name it, or be one.
pub trait Stream {
    fn recv_slice(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    /// At most `most` bytes, behind what `buffer` has.
    fn recv_append(&mut self, buffer: &mut Vec<u8>, most: usize) -> io::Result<usize>;
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize>;
    fn unread_bytes(&self) -> io::Result<usize>;
    /// Whether bytes that `send` has taken are still with us. A socket's are with the kernel, which sends them whatever
    /// we do.
    fn is_sending(&self) -> bool {
        false
    }
    fn shut_down_write(&mut self) -> io::Result<()>;
    /// The error in store, which reading clears.
    fn take_error(&self) -> io::Result<Option<io::Error>>;
}

impl Stream for NonBlocking<Socket> {
    #[inline]
    fn recv_slice(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        net::recv_slice(self, buffer)
    }

    #[inline]
    fn recv_append(&mut self, buffer: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        net::recv_append(self, buffer, most)
    }

    #[inline]
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        net::send(self, bytes)
    }

    fn unread_bytes(&self) -> io::Result<usize> {
        net::unread_bytes(self)
    }

    fn shut_down_write(&mut self) -> io::Result<()> {
        self.get_ref().shutdown(std::net::Shutdown::Write)
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.get_ref().take_error()
    }
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The service talks with the client.
    Open,
    /// The service is done: what waits goes out, then our FIN.
    Finishing,
    /// Our FIN is out: what the client still sends is thrown away, until it closes too or the time is over.
    Lingering,
}

/// What one `recv(2)` brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filled {
    /// So many bytes, at least one.
    Bytes(usize),
    /// The client has sent its last byte.
    End,
    /// EAGAIN: nothing is there.
    Nothing,
    /// The connection is dead; the errno.
    Gone(i32),
}

/// What one `send(2)` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The socket took so many bytes, perhaps none.
    Bytes(usize),
    /// The connection is dead; the errno.
    Gone(i32),
}

/// A socket with its two queues.
#[derive(Debug)]
pub(crate) struct Connection<Io = NonBlocking<Socket>> {
    socket: Io,
    /// Input that the service has not taken yet. Owned only while there is some.
    pub(crate) input: Option<Box<ByteQueue>>,
    /// Output that the socket has not taken yet. Owned only while there is some.
    pub(crate) output: Option<Box<ByteQueue>>,
    pub(crate) phase: Phase,
    /// Edge: the kernel may have input that we have not taken. Level: it has just said so.
    pub(crate) may_read: bool,
    /// The socket took all that it was given. Set by the kernel's word, cleared by a short `send`.
    pub(crate) may_write: bool,
    /// The last event promised more than data (RDHUP, HUP, ERR, PRI): only EAGAIN or the end is the end.
    pub(crate) insist: bool,
    /// A short `recv` says that there is no more. So it is with TCP; a Unix socket also stops where descriptors were
    /// sent along with the bytes.
    pub(crate) short_is_all: bool,
    /// The client has sent its FIN, and we have read it.
    pub(crate) read_closed: bool,
    /// Held back by the high-water mark, until the low-water mark.
    held_back: bool,
    /// The service is to be asked for more output, as soon as there is room: it is producing, or it wrote until there
    /// was none.
    pub(crate) owes_room: bool,
    /// When it was asked last it wrote something: it has more, whenever there is room.
    pub(crate) producing: bool,
    /// The queue of input is as long as the service wants it to be.
    pub(crate) input_full: bool,
    /// When the timer is due that the service has set, or we have, for the client's FIN.
    pub(crate) alarm: Option<NonZero<Tick>>,
    /// When things happened.
    pub(crate) notes: Notes,
    /// Bytes that the gate has counted for this connection.
    pub(crate) counted: u32,
    /// The index of the listener that it came by.
    pub(crate) listener: u16,
    /// The first byte has come.
    pub(crate) heard: bool,
    /// It watches the server: no limit counts it.
    pub(crate) watches: bool,
    /// In the run queue of the worker (edge).
    pub(crate) queued: bool,
    /// Bytes have come since the draining server looked last.
    pub(crate) active: bool,
    /// What is registered with epoll (level), so that only a change costs a system call.
    pub(crate) registered: Interest,
}

/// With the session and the peer, in a slot, it is to stay under 128 bytes.
const _: () = assert!(size_of::<Connection>() <= 64);

impl Connection {
    /// The proof that it may be registered edge-triggered.
    #[inline]
    pub(crate) const fn socket(&self) -> &NonBlocking<Socket> {
        &self.socket
    }
}

impl<Io: Stream> Connection<Io> {
    pub(crate) fn new(socket: Io, short_is_all: bool, registered: Interest, listener: u16, now: Tick) -> Self {
        Self {
            socket,
            input: None,
            output: None,
            phase: Phase::Open,
            may_read: false,
            // A fresh socket is writable; nobody waits for an event to learn that.
            may_write: true,
            insist: false,
            short_is_all,
            read_closed: false,
            held_back: false,
            owes_room: true,
            producing: false,
            input_full: false,
            alarm: None,
            notes: Notes { active: now as u32, ..Notes::default() },
            counted: 0,
            listener,
            heard: false,
            watches: false,
            queued: false,
            active: false,
            registered,
        }
    }

    /// The socket alone. What waits on either side of it is to be taken out before.
    pub(crate) fn into_socket(self) -> Io {
        self.socket
    }

    /// The socket, for who knows what it is.
    pub(crate) const fn io(&mut self) -> &mut Io {
        &mut self.socket
    }

    /// The same, to look at.
    pub(crate) const fn get_io(&self) -> &Io {
        &self.socket
    }

    /// Takes down what an event says. Bits are tested one by one: they come in any mix
    /// (`equality-test-misses-combined-bits`, `hup-branch-after-in-never-runs`).
    #[inline]
    pub(crate) fn note(&mut self, event: Event) {
        // RULE(equality-test-misses-combined-bits): never `==`, never `else if`.
        self.may_read |= event.should_read();
        self.may_write |= event.should_write();
        // RULE(et-short-read-hides-eof): the FIN came with the data and will not be announced again. Urgent data cuts a
        // read short at its mark in the same way.
        self.insist |= event.read_closed() || event.hung_up() || event.error() || event.priority();
    }

    /// One `recv(2)` into `scratch`.
    #[inline]
    pub(crate) fn fill(&mut self, scratch: &mut [u8]) -> Filled {
        loop {
            let answer = self.socket.recv_slice(scratch);
            if let Some(filled) = self.filled(answer) {
                return filled;
            }
        }
    }

    /// One `recv(2)` of at most `most` bytes behind the input that waits already, without a copy.
    pub(crate) fn fill_behind(&mut self, most: usize) -> Filled {
        let mut queue = self.input.take().unwrap_or_default();
        let filled = loop {
            let answer = self.socket.recv_append(queue.tail(most), most);
            if let Some(filled) = self.filled(answer) {
                break filled;
            }
        };
        self.input = Some(queue);
        filled
    }

    /// `None`: a signal came, make the call again.
    #[inline]
    fn filled(&mut self, answer: io::Result<usize>) -> Option<Filled> {
        Some(match answer {
            Ok(0) => {
                self.read_closed = true;
                self.may_read = false;
                Filled::End
            }
            Ok(count) => {
                self.active = true;
                Filled::Bytes(count)
            }
            Err(error) => match error.raw_os_error().unwrap_or(0) {
                libc::EAGAIN => {
                    self.may_read = false;
                    self.insist = false;
                    Filled::Nothing
                }
                libc::EINTR => return None,
                // ECONNRESET and its kin, but also ENOMEM and ENOBUFS: what the kernel could not give us once is a hole
                // in the stream, so this connection cannot go on. The others can.
                errno => Filled::Gone(errno),
            },
        })
    }

    /// One `send(2)`, and another only after a signal.
    #[inline]
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Sent {
        loop {
            match self.socket.send(bytes) {
                // RULE(short-send-loses-bytes): the caller keeps the rest.
                Ok(count) => {
                    // RULE(et-short-send-arms-edge)
                    self.may_write = count == bytes.len();
                    return Sent::Bytes(count);
                }
                Err(error) => match error.raw_os_error().unwrap_or(0) {
                    // RULE(second-send-raises-eagain): the socket is full, which is no failure.
                    libc::EAGAIN => {
                        self.may_write = false;
                        return Sent::Bytes(0);
                    }
                    libc::EINTR => {}
                    // EPIPE, ECONNRESET, ETIMEDOUT, …; no memory: see `filled`.
                    errno => return Sent::Gone(errno),
                },
            }
        }
    }

    /// Sends what waits, by one `send(2)`.
    pub(crate) fn flush(&mut self) -> Sent {
        let Some(mut queue) = self.output.take() else { return Sent::Bytes(0) };
        let sent = self.send(queue.as_slice());
        if let Sent::Bytes(count) = sent {
            queue.consume(count);
        }
        if !queue.is_empty() {
            self.output = Some(queue);
        }
        sent
    }

    /// Bytes that wait to be sent.
    #[inline]
    pub(crate) fn unsent(&self) -> usize {
        self.output.as_ref().map_or(0, |queue| queue.len())
    }

    /// Whether anything that was sent to the client is not yet with the kernel.
    #[inline]
    pub(crate) fn is_sending(&self) -> bool {
        self.output.is_some() || self.socket.is_sending()
    }

    /// Bytes that the service has not taken.
    #[inline]
    pub(crate) fn unread(&self) -> usize {
        self.input.as_ref().map_or(0, |queue| queue.len())
    }

    /// Bytes that the kernel has for us and that we have not taken; 0 if it does not say.
    pub(crate) fn unread_in_kernel(&self) -> usize {
        self.socket.unread_bytes().unwrap_or(0)
    }

    /// Whether input is wanted now.
    #[inline]
    pub(crate) fn wants_read(&self) -> bool {
        match self.phase {
            Phase::Open => !self.read_closed && !self.held_back && !self.input_full,
            Phase::Finishing => false,
            Phase::Lingering => !self.read_closed,
        }
    }

    /// Whether there is something for the socket to take.
    #[inline]
    pub(crate) fn wants_write(&self) -> bool {
        self.output.is_some() || (self.owes_room && self.phase == Phase::Open)
    }

    /// What the kernel should watch for: a function of what is in here, and of nothing else.
    ///
    /// RDHUP is not asked for: a level-triggered FIN is an IN whose `recv` gives 0, and while input is not wanted RDHUP
    /// would be reported by every wait.
    // RULE(lt-out-spins-when-idle): OUT only while something waits.
    // RULE(lt-in-kept-on-while-backlogged): no IN for a client that does not take its answers.
    #[inline]
    pub(crate) fn interest(&self) -> Interest {
        let mut interest = Interest::NONE;
        if self.wants_read() {
            interest |= Interest::READ;
        }
        if self.wants_write() {
            interest |= Interest::WRITE;
        }
        interest
    }

    /// Whether something can be done without another word from the kernel. Such a connection is in the run queue.
    #[inline]
    pub(crate) fn can_progress(&self) -> bool {
        (self.may_read && self.wants_read()) || (self.may_write && self.wants_write())
    }

    /// Whether an event says that this connection is over while nothing is to be read or written, so that no call would
    /// tell: the errno, or EPIPE for a plain hang-up. A level-triggered loop would spin on it
    /// (`mask-zero-still-reports-hup-err`), an edge-triggered one forget it.
    pub(crate) fn doomed_by(&self, event: Event) -> Option<i32> {
        self.doomed(event.hung_up(), event.error())
    }

    /// As [`doomed_by`](Self::doomed_by), whoever says it.
    #[inline]
    pub(crate) fn doomed(&self, hung_up: bool, error: bool) -> Option<i32> {
        if !(hung_up || error) || self.wants_read() || self.wants_write() {
            return None;
        }
        match self.take_error() {
            0 if hung_up => Some(libc::EPIPE),
            // Not every ERR is an error (`err-is-not-always-an-error`).
            0 => None,
            errno => Some(errno),
        }
    }

    /// Whether a draining server may end it without the loss of an answer: nothing is due, and no byte has come since
    /// this was asked last, or (`firm`) whether or not one has.
    pub(crate) fn may_end(&mut self, firm: bool) -> bool {
        let may_send_more = std::mem::take(&mut self.active) && !firm;
        self.phase == Phase::Open && self.nothing_is_due(may_send_more)
    }

    /// Whether everything that the client may expect has been sent.
    fn nothing_is_due(&self, may_send_more: bool) -> bool {
        if self.producing {
            // Endless by nature: what it has written goes out, more is not due.
            return true;
        }
        !may_send_more && self.alarm.is_none() && !self.is_sending() && self.unread_in_kernel() == 0
    }

    /// What is due first: the timer (`None`), or a timeout.
    pub(crate) fn due(&self, timeouts: &Timeouts, now: Tick) -> Option<(Tick, Option<Expired>)> {
        let alarm = self.alarm.map(|at| (at.get(), None));
        if !timeouts.any() || self.phase == Phase::Lingering {
            return alarm;
        }
        // While a timer is set it is the service that makes the client wait.
        let waiting = Waiting {
            output: self.output.is_some(),
            message: self.input.is_some() && self.alarm.is_none() && !self.read_closed,
            input: self.alarm.is_none() && self.phase == Phase::Open,
            first_byte: !self.heard,
        };
        let timeout = self.notes.first(timeouts, waiting, now).map(|(at, what)| (at, Some(what)));
        [alarm, timeout].into_iter().flatten().min_by_key(|&(at, _)| at)
    }

    /// Holds the client back above the high-water mark, and lets it go on below the low-water mark.
    #[inline]
    pub(crate) fn weigh(&mut self) {
        let waiting = self.unsent();
        if waiting >= OUTPUT_HIGH_WATER_BYTES {
            self.held_back = true;
        } else if waiting <= OUTPUT_LOW_WATER_BYTES {
            self.held_back = false;
        }
    }

    /// Whether the service is to be asked to write, now.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.owes_room && self.may_write && self.unsent() <= OUTPUT_LOW_WATER_BYTES
    }

    /// Sends our FIN. What goes wrong here, the next `recv` will tell.
    pub(crate) fn shut_down_write(&mut self) {
        let _ = self.socket.shut_down_write();
        self.phase = Phase::Lingering;
    }

    /// The error that the socket has in store, 0 if none. Reading it clears it.
    fn take_error(&self) -> i32 {
        match self.socket.take_error() {
            Ok(Some(error)) => error.raw_os_error().unwrap_or(0),
            _ => 0,
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
