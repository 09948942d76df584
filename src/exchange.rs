//! One connection's turn: send what waits, let the service speak, receive, send again.
//!
//! This is all that happens between a client and a service, and it is the same under both disciplines; they decide when
//! it happens, and when a `recv` was the last one ([`Discipline`]).

use std::num::NonZero;
use std::ops::Range;
use std::time::Instant;

use socket2::Socket;

use crate::buffer::{ByteQueue, Input, Output};
use crate::client::{Client, ConnectionId, Peer};
use crate::connection::{Connection, Filled, Phase, Sent, Stream};
use crate::limits::{
    LINGER_MS, LONG_INPUT_BYTES, OUTPUT_LIMIT_BYTES, READ_BUFFER_BYTES, STAGE_KEEP_BYTES, TURN_BUDGET_BYTES,
};
use crate::metrics::Tally;
use crate::service::{End, Next, Service};
use crate::sys::epoll::{Interest, Mode};
use crate::sys::net::NonBlocking;
use crate::timeouts::Tick;
use crate::trace::Trace;

/// What level and edge do differently.
pub(crate) trait Discipline {
    /// How connections and listeners are registered.
    const MODE: Mode;
    /// What a connection is registered for at first.
    const FIRST_INTEREST: Interest;

    /// A `recv` was asked for so many bytes and brought so many: may there be more that the kernel will not tell of?
    fn after_read(connection: &mut Connection<impl Stream>, asked: usize, received: usize);

    /// After a turn: the new interest to tell the kernel, if there is one.
    fn reinterest(connection: &mut Connection<impl Stream>) -> Option<Interest>;

    /// After a turn: whether the worker must come back to this connection by itself.
    fn must_return(connection: &Connection<impl Stream>) -> bool;

    /// Whether a listener that has used up its budget must be visited again by the worker itself.
    const LISTENER_MUST_RETURN: bool;

    /// Whether a `recv` may sleep (a blocking socket), so that it is later when it returns.
    const RECV_SLEEPS: bool = false;
}

/// A connection and what the service remembers of it.
#[derive(Debug)]
pub(crate) struct Member<Session, Io = NonBlocking<Socket>> {
    pub(crate) connection: Connection<Io>,
    pub(crate) session: Session,
    pub(crate) peer: Peer,
}

impl<Session, Io> Member<Session, Io> {
    /// As a service sees it.
    #[inline]
    pub(crate) fn client(&self, id: ConnectionId) -> Client {
        Client { id, peer: self.peer, listener: self.connection.listener.into() }
    }
}

/// What the connections of a worker share, one after the other.
#[derive(Debug)]
pub(crate) struct Turn<S, T> {
    pub(crate) service: S,
    pub(crate) trace: T,
    pub(crate) tally: Tally,
    /// The time of this turn of the loop: of its beginning, or later.
    pub(crate) now: Instant,
    /// Whether a service that asks for the time is told that of the clock, and not `now`.
    pub(crate) real_time: bool,
    /// Whether timeouts count from the notes of the connections. Then time is real.
    pub(crate) timed: bool,
    /// Whose turn it is.
    pub(crate) who: ConnectionId,
    /// The same time in ticks.
    pub(crate) tick: Tick,
    /// When tick 0 was.
    pub(crate) origin: Instant,
    /// Where input arrives.
    scratch: Box<[u8]>,
    /// Where a service writes while nothing else waits to be sent.
    stage: ByteQueue,
}

impl<S: Service, T: Trace> Turn<S, T> {
    pub(crate) fn new(service: S, trace: T, now: Instant, nobody: ConnectionId) -> Self {
        Self {
            service,
            trace,
            tally: Tally::default(),
            now,
            real_time: false,
            timed: false,
            who: nobody,
            tick: 0,
            origin: now,
            scratch: vec![0; READ_BUFFER_BYTES].into_boxed_slice(),
            stage: ByteQueue::new(),
        }
    }

    /// Moves bytes until nothing more can be done, or the budget is spent. `Err` says that the connection is over.
    pub(crate) fn drive<D: Discipline>(&mut self, member: &mut Member<S::Session, impl Stream>) -> Result<(), End> {
        let mut budget = TURN_BUDGET_BYTES;
        loop {
            budget = budget.saturating_sub(self.flush(&mut member.connection)?);
            if member.connection.phase != Phase::Open {
                self.part(&mut member.connection)?;
            } else if member.connection.has_room() {
                budget = budget.saturating_sub(self.ask_for_more(member)?);
            }
            member.connection.weigh();
            // RULE(flood-starves-neighbours): what the budget leaves over waits for the next turn.
            if budget == 0 {
                break;
            }
            if member.connection.may_read && member.connection.wants_read() {
                budget = budget.saturating_sub(self.receive::<D>(member)?);
            } else if !(member.connection.owes_room && member.connection.producing && member.connection.can_progress())
            {
                break;
            }
        }
        self.trace.queues(self.who, member.connection.unread(), member.connection.unsent());
        Ok(())
    }

    /// The time of this turn is now.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.now = now;
        self.tick = u64::try_from((now - self.origin).as_millis()).unwrap_or(u64::MAX);
    }

    /// To be called before something is noted. With many clients a turn is long, and the last of them were timed out by
    /// as much too early when their notes said that it had just begun.
    #[inline]
    pub(crate) fn catch_up(&mut self) {
        if self.timed {
            self.begin(Instant::now());
        }
    }

    /// The tick at which this time has come: rounded up, never early.
    fn tick_at(&self, time: Instant) -> NonZero<Tick> {
        let nanos = time.saturating_duration_since(self.origin).as_nanos();
        let tick = u64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(u64::MAX);
        NonZero::new(tick).unwrap_or(NonZero::<Tick>::MIN)
    }

    /// The deadline of the connection has come.
    pub(crate) fn expire(&mut self, member: &mut Member<S::Session, impl Stream>) -> Result<(), End> {
        self.trace.expired(self.who);
        member.connection.alarm = None;
        match member.connection.phase {
            Phase::Open => {
                self.offer(member, 0, |service, session, input, output| service.timer(session, input, output))?;
                // Until now it was the client that waited.
                self.catch_up();
                member.connection.notes.active = self.tick as u32;
                Ok(())
            }
            Phase::Finishing => Ok(()),
            Phase::Lingering => Err(End::Lingered),
        }
    }

    /// Bytes from another thread. `false`: it has finished, and they came too late.
    pub(crate) fn deliver(&mut self, member: &mut Member<S::Session, impl Stream>, bytes: &[u8]) -> Result<bool, End> {
        if member.connection.phase != Phase::Open {
            return Ok(false);
        }
        if member.connection.unsent() + bytes.len() > OUTPUT_LIMIT_BYTES {
            return Err(End::TooSlow);
        }
        self.offer(member, 0, |_, _, _, output| {
            output.write(bytes);
            Next::More
        })?;
        Ok(true)
    }

    /// Ends the connection as if the service had said so.
    pub(crate) fn finish(&mut self, member: &mut Member<S::Session, impl Stream>) {
        if member.connection.phase == Phase::Open {
            member.connection.phase = Phase::Finishing;
            member.connection.input = None;
            member.connection.producing = false;
            member.connection.alarm = None;
        }
    }

    #[inline]
    fn flush(&mut self, connection: &mut Connection<impl Stream>) -> Result<usize, End> {
        if connection.output.is_none() || !connection.may_write {
            return Ok(0);
        }
        let asked = connection.unsent();
        let sent = connection.flush();
        let count = count_sent(&mut self.trace, &mut self.tally, self.who, asked, sent)?;
        if count > 0 {
            self.catch_up();
            connection.notes.moved = self.tick as u32;
            connection.notes.active = self.tick as u32;
        }
        Ok(count)
    }

    /// A connection that is ending: when everything has gone out our FIN goes too, and we wait for the client's.
    fn part(&mut self, connection: &mut Connection<impl Stream>) -> Result<(), End> {
        if connection.is_sending() {
            return Ok(());
        }
        if connection.read_closed {
            // Both sides are done, nothing is unread: closing is a FIN.
            return Err(End::Finished);
        }
        if connection.phase == Phase::Finishing {
            // RULE(close-with-unread-input-sends-rst)
            connection.shut_down_write();
            if self.real_time {
                self.begin(Instant::now());
            }
            connection.alarm = NonZero::new(self.tick + LINGER_MS + 1);
        }
        Ok(())
    }

    /// One `recv`, and the service's answer to it. Returns the bytes that it took of the budget.
    #[inline]
    fn receive<D: Discipline>(&mut self, member: &mut Member<S::Session, impl Stream>) -> Result<usize, End> {
        let connection = &mut member.connection;
        // Behind a long remainder (a big frame on its way) without a copy; behind a short one with a copy, so that a
        // client that sends little has only that little memory taken.
        let behind = connection.unread() >= LONG_INPUT_BYTES;
        let filled =
            if behind { connection.fill_behind(READ_BUFFER_BYTES) } else { connection.fill(&mut self.scratch) };
        self.tally.often().receives += 1;
        if D::RECV_SLEEPS {
            self.begin(Instant::now());
        }
        match filled {
            Filled::Bytes(count) => {
                self.catch_up();
                self.trace.received(self.who, Ok(count));
                self.tally.often().received_bytes += count as u64;
                connection.notes.active = self.tick as u32;
                connection.heard = true;
                D::after_read(connection, READ_BUFFER_BYTES, count);
                if connection.phase == Phase::Lingering {
                    return Ok(count);
                }
                if let (Some(queue), false) = (connection.input.as_mut(), behind) {
                    queue.push(&self.scratch[..count]);
                }
                self.offer(member, count, |service, session, input, output| service.data(session, input, output))?;
                self.check_stuck(member)?;
                Ok(count)
            }
            Filled::End => {
                self.trace.received(self.who, Ok(0));
                if member.connection.phase == Phase::Lingering {
                    return Err(End::Finished);
                }
                // RULE(closing-on-eof-truncates-answers): the service may have more to say.
                self.offer_eof(member)?;
                Ok(0)
            }
            Filled::Nothing => {
                self.tally.often().receives_eagain += 1;
                self.trace.received(self.who, Err(libc::EAGAIN));
                Ok(0)
            }
            Filled::Gone(errno) => {
                self.trace.received(self.who, Err(errno));
                Err(End::Broken(errno))
            }
        }
    }

    /// Asks the service for more output. Returns the bytes that it wrote.
    fn ask_for_more(&mut self, member: &mut Member<S::Session, impl Stream>) -> Result<usize, End> {
        member.connection.owes_room = false;
        let mut wrote = 0;
        self.offer(member, 0, |service, session, input, output| {
            let before = output.len();
            let next = service.room(session, input, output);
            wrote = output.len() - before;
            next
        })?;
        member.connection.producing = wrote > 0;
        member.connection.owes_room |= wrote > 0;
        Ok(wrote)
    }

    fn offer_eof(&mut self, member: &mut Member<S::Session, impl Stream>) -> Result<(), End> {
        self.call(member, 0, |service, session, input, output| service.eof(session, input, output))
    }

    /// Calls the service; then, if the client has sent its FIN, asks whether that was all.
    #[inline]
    fn offer(
        &mut self,
        member: &mut Member<S::Session, impl Stream>,
        fresh: usize,
        callback: impl FnOnce(&mut S, &mut S::Session, &mut Input<'_>, &mut Output<'_>) -> Next,
    ) -> Result<(), End> {
        self.call(member, fresh, callback)?;
        if member.connection.read_closed && member.connection.phase == Phase::Open {
            self.offer_eof(member)?;
        }
        Ok(())
    }

    /// Calls the service with the input that waits (or, if none does, the first `fresh` bytes of the scratch buffer),
    /// and does what it says.
    #[inline]
    fn call(
        &mut self,
        member: &mut Member<S::Session, impl Stream>,
        fresh: usize,
        callback: impl FnOnce(&mut S, &mut S::Session, &mut Input<'_>, &mut Output<'_>) -> Next,
    ) -> Result<(), End> {
        if fresh == 0 {
            // Behind a recv it has been done.
            self.catch_up();
        }
        let client = member.client(self.who);
        let connection = &mut member.connection;
        let mut waiting = connection.input.take();
        let bytes = waiting.as_ref().map_or(&self.scratch[..fresh], |queue| queue.as_slice());
        let mut input = Input::new(bytes);
        let queue = connection.output.as_deref_mut().unwrap_or(&mut self.stage);
        let mut output = match self.real_time {
            true => Output::in_real_time(queue, &client),
            false => Output::new(queue, &client, self.now),
        };

        let next = callback(&mut self.service, &mut member.session, &mut input, &mut output);

        let (taken, direct) = (input.taken(), output.forwarded());
        connection.owes_room |= output.wants_room();
        if waiting.is_none() || taken > 0 {
            connection.notes.begun = self.tick as u32;
        }
        let sent = self.dispatch(connection, &mut waiting, fresh, direct);
        // Whatever became of this connection: what it staged must never reach the next one.
        self.stage.clear(STAGE_KEEP_BYTES);
        sent?;
        self.keep(member, waiting, taken, fresh);
        self.obey(next, member)
    }

    /// Sends what the service has forwarded and written, if nothing older waits; what the socket does not take becomes
    /// the connection's own.
    #[inline]
    fn dispatch(
        &mut self,
        connection: &mut Connection<impl Stream>,
        waiting: &mut Option<Box<ByteQueue>>,
        fresh: usize,
        direct: Range<usize>,
    ) -> Result<(), End> {
        if connection.output.is_some() {
            return Ok(());
        }
        let bytes = waiting.as_ref().map_or(&self.scratch[..fresh], |queue| queue.as_slice());
        let reaches_end = direct.end == bytes.len();
        let (trace, tally) = (&mut self.trace, &mut self.tally);
        let before = tally.counters().sent_bytes;
        let mut left = &bytes[direct];
        if !left.is_empty() {
            left = &left[send(connection, left, trace, tally, self.who)?..];
        }
        let mut staged = self.stage.as_slice();
        if left.is_empty() && !staged.is_empty() {
            staged = &staged[send(connection, staged, trace, tally, self.who)?..];
        }
        if tally.counters().sent_bytes != before {
            connection.notes.active = self.tick as u32;
        }
        if left.is_empty() && staged.is_empty() {
            return Ok(());
        }
        let count = left.len();
        if staged.is_empty() && reaches_end && waiting.is_some() {
            // All that is left of the input is output now: the memory changes sides.
            connection.output = waiting.take();
            if let Some(queue) = &mut connection.output {
                queue.consume(queue.len() - count);
            }
        } else {
            let mut queue = Box::new(ByteQueue::new());
            queue.push(left);
            queue.push(staged);
            connection.output = Some(queue);
        }
        self.catch_up();
        connection.notes.moved = self.tick as u32;
        Ok(())
    }

    /// Keeps what the service has left of the input.
    #[inline]
    fn keep(
        &mut self,
        member: &mut Member<S::Session, impl Stream>,
        waiting: Option<Box<ByteQueue>>,
        taken: usize,
        fresh: usize,
    ) {
        if waiting.is_none() && taken >= fresh {
            member.connection.input_full = false;
            return;
        }
        let queue = match waiting {
            Some(mut queue) => {
                queue.consume(taken);
                (!queue.is_empty()).then_some(queue)
            }
            None if taken < fresh => {
                let left = &self.scratch[taken..fresh];
                // More of a long frame is on its way: room for it now saves moving what is here.
                let room = if left.len() >= LONG_INPUT_BYTES { READ_BUFFER_BYTES } else { 0 };
                let mut queue = Box::new(ByteQueue::with_capacity(left.len() + room));
                queue.push(left);
                Some(queue)
            }
            None => None,
        };
        member.connection.input_full =
            queue.as_ref().is_some_and(|queue| queue.len() >= self.service.input_limit(&member.session));
        member.connection.input = queue;
    }

    #[inline]
    fn obey(&mut self, next: Next, member: &mut Member<S::Session, impl Stream>) -> Result<(), End> {
        match next {
            Next::More => {}
            Next::At(time) => {
                member.connection.alarm = Some(self.tick_at(time));
            }
            Next::Finish => self.finish(member),
            Next::Abort => return Err(End::Aborted),
        }
        Ok(())
    }

    /// A service that leaves a full input alone, and waits for nothing, would never be called again.
    #[inline]
    fn check_stuck(&self, member: &Member<S::Session, impl Stream>) -> Result<(), End> {
        let connection = &member.connection;
        let waits = connection.alarm.is_some() || connection.output.is_some() || connection.phase != Phase::Open;
        if connection.input_full && !waits && !connection.producing { Err(End::Stuck) } else { Ok(()) }
    }
}

/// One `send(2)`, told and counted. Returns how many bytes the socket took.
#[inline]
fn send<T: Trace>(
    connection: &mut Connection<impl Stream>,
    bytes: &[u8],
    trace: &mut T,
    tally: &mut Tally,
    who: ConnectionId,
) -> Result<usize, End> {
    let sent = connection.send(bytes);
    count_sent(trace, tally, who, bytes.len(), sent)
}

#[inline]
fn count_sent<T: Trace>(
    trace: &mut T,
    tally: &mut Tally,
    who: ConnectionId,
    asked: usize,
    sent: Sent,
) -> Result<usize, End> {
    match sent {
        Sent::Bytes(count) => {
            trace.sent(who, asked, if count == 0 { Err(libc::EAGAIN) } else { Ok(count) });
            tally.often().sent_bytes += count as u64;
            Ok(count)
        }
        Sent::Gone(errno) => {
            trace.sent(who, asked, Err(errno));
            Err(End::Broken(errno))
        }
    }
}
