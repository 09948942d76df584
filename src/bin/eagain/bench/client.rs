//! One thread of the load: its connections, one epoll, and what each of them has sent and is due.
//!
//! Edge-triggered, one registration for a connection's life: a round trip is a wait, a `recv`, a reading of the clock
//! and a `send`. Streams, where one side always has more to say, are level-triggered: one call each time, so that all
//! get their turn.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use eagain::sys::epoll::{Epoll, Event, Events, Interest, Mode, Timeout};
use eagain::sys::net::{self, NonBlocking};
use socket2::Socket;

use super::dial::Route;
use super::failure::{Cause, Failures};
use super::plan::{Plan, Service, Stop};
use super::record::{Mean, Recorder, Timeline};
use super::schedule::Schedule;
use super::wire::{Cursor, Mismatch, Wire};
use crate::say::reason;

/// Bytes that one `recv` may bring.
const RECEIVE_BYTES: usize = 128 * 1024;
/// Bytes that one `send` is offered.
const SEND_BYTES: usize = 64 * 1024;
const EVENTS: usize = 512;
/// Times that a connection may receive before the others have had their turn: answers that come as fast as they are
/// read would have one connection alone, and the others' times would be those of waiting for it.
const RECEIVES_AT_ONCE: usize = 8;
/// Attempts to connect that a thread has on their way: below the smallest usual backlog, so that SYNs are not dropped.
const DIALS_AT_ONCE: usize = 64;
/// How often somebody looks for connections that have waited too long, in nanoseconds.
const ROUND: u64 = 100_000_000;
/// How soon a unix listener whose queue was full is tried again, in nanoseconds.
const RETRY: u64 = 1_000_000;

const INTEREST: Interest = Interest::READ.union(Interest::WRITE).union(Interest::READ_CLOSED);

/// What all threads of a run share.
pub(super) struct Shared<'a> {
    pub(super) plan: &'a Plan,
    pub(super) wire: &'a Wire,
    pub(super) route: &'a Route,
    /// Answers so far, warm-up included, for those who watch.
    pub(super) answered: AtomicU64,
    /// Whoever watches has seen enough.
    pub(super) stop: AtomicBool,
}

/// The part of one thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    /// How many connections the threads before this one have; the numbers of its own begin there.
    pub(super) first: usize,
    pub(super) connections: usize,
    pub(super) first_idle: usize,
    pub(super) idle: usize,
    /// Messages a second, if that is what sets the pace.
    pub(super) rate: Option<f64>,
    /// When its first message is due then: nanoseconds after the first of all.
    pub(super) stagger: u64,
}

/// What a thread has to tell when it is done.
pub(super) struct Tally {
    pub(super) recorder: Recorder,
    pub(super) failures: Failures,
    pub(super) means: Vec<Mean>,
    /// Busy connections that were established before the load began.
    pub(super) connected: usize,
    /// By how much the client itself was late to send what was due.
    pub(super) late: Mean,
    pub(super) latest: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// To be dialled.
    Waiting,
    Connecting,
    Open,
    /// Failed, or done.
    Closed,
}

struct Connection {
    socket: Option<NonBlocking<Socket>>,
    phase: Phase,
    /// Messages that may be sent by now: all of them in a closed loop (`u64::MAX`: no bound), those whose time has come
    /// in an open one.
    due: u64,
    sent: Cursor,
    received: Cursor,
    /// The socket took less than it was offered; an edge will tell when it takes more.
    blocked: bool,
    /// When something last happened that gives hope; while dialling, when that began.
    alive: u64,
    mean: Mean,
    /// Connections that have been in this place before: churn.
    generation: u64,
}

type Fault = (Cause, String);
type Failure = Box<dyn std::error::Error + Send + Sync>;

pub(super) struct Client<'a> {
    shared: &'a Shared<'a>,
    share: Share,
    epoll: Epoll,
    events: Events,
    /// Busy ones first, then those that are idle.
    connections: Vec<Connection>,
    /// Connections whose turn to dial has not come.
    to_dial: VecDeque<usize>,
    dialling: usize,
    /// Connections that stopped receiving to let others have a turn, and whether they insist. No edge tells of them.
    again: Vec<(usize, bool)>,
    /// When each message on its way was sent, `depth` for each busy connection.
    sent_at: Vec<u64>,
    receive: Vec<u8>,
    send: Vec<u8>,
    /// In an open loop.
    schedule: Option<Schedule>,
    timeline: Timeline,
    /// Set when the load begins: until then nothing is sent or read.
    running: bool,
    next_round: u64,
    tally: Tally,
    /// Not yet told to those who watch.
    answers: u64,
}

impl<'a> Client<'a> {
    /// `timeline` is used for the time of the dialling only.
    pub(super) fn new(shared: &'a Shared<'a>, share: Share, timeline: Timeline) -> Result<Client<'a>, Failure> {
        let plan = shared.plan;
        // What sleeps until the next message is due should wake then, not up to 50 µs later.
        let _ = nix::sys::prctl::set_timerslack(1);
        let all = share.connections + share.idle;
        let fresh = |_| Connection {
            socket: None,
            phase: Phase::Waiting,
            due: 0,
            sent: Cursor::default(),
            received: Cursor::default(),
            blocked: false,
            alive: 0,
            mean: Mean::default(),
            generation: 0,
        };
        // With churn the busy ones begin with the load.
        let busy = if plan.churn { 0 } else { share.connections };
        Ok(Client {
            shared,
            share,
            epoll: Epoll::new()?,
            events: Events::with_capacity(EVENTS),
            connections: (0..all).map(fresh).collect(),
            to_dial: (share.connections..all).chain(0..busy).collect(),
            dialling: 0,
            again: Vec::new(),
            sent_at: vec![0; share.connections * plan.depth],
            receive: vec![0; RECEIVE_BYTES],
            send: Vec::with_capacity(SEND_BYTES),
            schedule: None,
            timeline,
            running: false,
            next_round: 0,
            tally: Tally {
                recorder: Recorder::new(plan, timeline),
                failures: Failures::default(),
                means: Vec::new(),
                connected: 0,
                late: Mean::default(),
                latest: 0,
            },
            answers: 0,
        })
    }

    fn is_idle(&self, at: usize) -> bool {
        at >= self.share.connections
    }

    /// The number of a connection over all threads and generations: its bytes and its source address follow from it.
    fn number(&self, at: usize) -> u64 {
        let busy = self.shared.plan.connections;
        match self.is_idle(at) {
            true => (busy + self.share.first_idle + at - self.share.connections) as u64,
            false => (self.share.first + at) as u64 + self.connections[at].generation * busy as u64,
        }
    }

    // ---- connections ------------------------------------------------------------------------------------------------

    /// Makes all connections, idle ones first; those that fail are counted.
    pub(super) fn connect(&mut self) -> Result<(), Failure> {
        self.dial_some();
        while (!self.to_dial.is_empty() || self.dialling > 0) && !self.shared.stop.load(Ordering::Relaxed) {
            self.turn(ROUND)?;
        }
        Ok(())
    }

    fn dial_some(&mut self) {
        while self.dialling < DIALS_AT_ONCE
            && let Some(at) = self.to_dial.pop_front()
        {
            if !self.dial(at) {
                return self.to_dial.push_front(at);
            }
        }
    }

    /// Begins a connection. False: try again a little later.
    fn dial(&mut self, at: usize) -> bool {
        let now = self.timeline.now();
        if self.connections[at].alive == 0 {
            self.connections[at].alive = now.max(1);
        }
        let dialled = match self.shared.route.dial(self.number(at)) {
            // The queue of a unix listener is full, and nothing tells when it is not.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let patient = now - self.connections[at].alive < self.shared.plan.patience.as_nanos() as u64;
                if !patient {
                    self.fail(at, (Cause::ConnectTimedOut, "the listener's queue is full".to_owned()));
                }
                return !patient;
            }
            Err(error) => {
                self.fail(at, fault(&error));
                return true;
            }
            Ok(dialled) => dialled,
        };
        if let Err(error) = self.epoll.add_nonblocking(&dialled.socket, at as u64, INTEREST, Mode::EDGE) {
            self.fail(at, (Cause::Other, error.to_string()));
            return true;
        }
        let connection = &mut self.connections[at];
        connection.socket = Some(dialled.socket);
        connection.phase = Phase::Connecting;
        self.dialling += 1;
        if dialled.connected {
            self.established(at);
        }
        true
    }

    fn established(&mut self, at: usize) {
        self.dialling -= 1;
        self.connections[at].phase = Phase::Open;
        self.tally.connected += usize::from(!self.is_idle(at) && !self.running);
        if self.running {
            let now = self.timeline.now();
            self.push(at, now);
        }
    }

    /// Ends a connection that is no longer of use.
    fn close(&mut self, at: usize) {
        if self.connections[at].phase == Phase::Connecting {
            self.dialling -= 1;
        }
        let connection = &mut self.connections[at];
        if let Some(socket) = connection.socket.take() {
            // Fails only if it was never added.
            let _ = self.epoll.delete(&socket);
        }
        connection.phase = Phase::Closed;
    }

    fn fail(&mut self, at: usize, (cause, detail): Fault) {
        self.close(at);
        let which = if self.is_idle(at) { "idle connection" } else { "connection" };
        self.tally.failures.add(cause, format!("{which} {}: {detail}", self.number(at)));
        if self.shared.plan.churn && !self.is_idle(at) {
            self.tally.failures.messages_lost += 1;
            if !cause.is_lasting() {
                self.next_generation(at);
            }
        }
    }

    /// Churn: another connection in the place of one that is over, unless there were enough.
    fn next_generation(&mut self, at: usize) {
        let connection = &mut self.connections[at];
        connection.generation += 1;
        if connection.generation < connection.due {
            (connection.sent, connection.received) = (Cursor::default(), Cursor::default());
            connection.alive = 0;
            connection.phase = Phase::Waiting;
            self.to_dial.push_back(at);
        }
    }

    // ---- the load ---------------------------------------------------------------------------------------------------

    /// Loads the server from the origin of `timeline` to its end, and until what is on its way has come.
    pub(super) fn run(mut self, timeline: Timeline) -> Result<Tally, Failure> {
        let plan = self.shared.plan;
        self.timeline = timeline;
        self.tally.recorder = Recorder::new(plan, timeline);
        let messages = match plan.stop {
            Stop::Messages(messages) => messages,
            Stop::After(_) => u64::MAX,
        };
        let schedule = |rate| Schedule::new(self.share.stagger, rate, self.share.connections, messages);
        self.schedule = self.share.rate.map(schedule);
        self.start(messages)?;
        let give_up = timeline.end.saturating_add(plan.patience.as_nanos() as u64);
        loop {
            let now = self.timeline.now();
            self.begin_due(now);
            let stopped = self.shared.stop.load(Ordering::Relaxed);
            if stopped || now >= give_up || self.is_over(now) {
                break;
            }
            let next = self.schedule.as_ref().map_or(u64::MAX, Schedule::next_at);
            let next = if now < timeline.end { next.min(timeline.end) } else { u64::MAX };
            self.turn(next.saturating_sub(now).min(ROUND))?;
        }
        Ok(self.finish())
    }

    /// The first messages of a closed loop. From now on a connection's silence counts.
    fn start(&mut self, messages: u64) -> Result<(), Failure> {
        self.running = true;
        let now = self.timeline.now();
        self.next_round = now + ROUND;
        for at in 0..self.connections.len() {
            let scheduled = self.schedule.is_some() || self.is_idle(at);
            let connection = &mut self.connections[at];
            connection.due = if scheduled { 0 } else { messages };
            if self.shared.plan.churn && !self.is_idle(at) {
                self.to_dial.push_back(at);
            } else if self.connections[at].phase == Phase::Open {
                self.connections[at].alive = now;
                self.let_go(at, now)?;
            }
        }
        self.dial_some();
        Ok(())
    }

    /// What happened to a connection before the load began was not looked at, and an edge is told once.
    fn let_go(&mut self, at: usize, now: u64) -> Result<(), Failure> {
        let interest = match self.shared.plan.service {
            Service::Chargen if self.is_idle(at) => Interest::NONE,
            Service::Chargen => Interest::READ,
            Service::Discard if !self.is_idle(at) => INTEREST,
            _ => {
                self.pull(at, true);
                self.push(at, now);
                return Ok(());
            }
        };
        if let Some(socket) = &self.connections[at].socket {
            self.epoll.modify(socket, at as u64, interest, Mode::LEVEL)?;
        }
        Ok(())
    }

    /// What is due by now in an open loop.
    fn begin_due(&mut self, now: u64) {
        let Some(schedule) = &mut self.schedule else { return };
        let due_at = schedule.next_at();
        let Some(first) = schedule.pop(now, self.timeline.end) else { return };
        if due_at >= self.timeline.begin {
            let late = now - due_at;
            self.tally.late.messages += 1;
            self.tally.late.nanoseconds += late;
            self.tally.latest = self.tally.latest.max(late);
        }
        let mut next = Some(first);
        while let Some(at) = next {
            self.connections[at].due += 1;
            if self.connections[at].phase == Phase::Open {
                self.push(at, now);
            }
            next = self.schedule.as_mut().and_then(|schedule| schedule.pop(now, self.timeline.end));
        }
    }

    /// One wait, and all that it brought.
    fn turn(&mut self, nanoseconds: u64) -> Result<(), Failure> {
        let nanoseconds = match (self.again.is_empty(), self.to_dial.is_empty()) {
            (false, _) => 0,
            (true, false) => nanoseconds.min(RETRY),
            (true, true) => nanoseconds,
        };
        self.epoll.wait(&mut self.events, Timeout::After(Duration::from_nanos(nanoseconds)))?;
        let again = std::mem::take(&mut self.again);
        for index in 0..self.events.len() {
            if let Some(event) = self.events.get(index) {
                self.ready(event);
            }
        }
        for (at, insist) in again {
            self.pull(at, insist);
        }
        if self.answers > 0 {
            self.shared.answered.fetch_add(self.answers, Ordering::Relaxed);
            self.answers = 0;
        }
        // Before the run the timeline is a provisional one: connecting may take longer than it.
        if !self.to_dial.is_empty() && (!self.running || self.timeline.now() < self.timeline.end) {
            self.dial_some();
        }
        let now = self.timeline.now();
        if now >= self.next_round {
            self.next_round = now + ROUND;
            self.end_the_silent(now);
        }
        Ok(())
    }

    fn ready(&mut self, event: Event) {
        let at = event.data() as usize;
        if self.connections[at].phase == Phase::Connecting {
            let Some(socket) = &self.connections[at].socket else { return };
            return match self.shared.route.outcome(socket.get_ref()) {
                Ok(()) => self.established(at),
                Err(error) => self.fail(at, fault(&error)),
            };
        }
        if !self.running {
            return;
        }
        if event.should_read() {
            self.pull(at, event.read_closed() || event.hung_up() || event.error());
        }
        if !event.should_write() || self.connections[at].phase != Phase::Open {
            return;
        }
        if self.shared.plan.service == Service::Discard && !self.is_idle(at) {
            self.upload(at);
        } else if self.connections[at].blocked {
            let now = self.timeline.now();
            self.push(at, now);
        }
    }

    /// Sends what is due, as far as depth and socket allow; if the socket is full, an edge will tell.
    fn push(&mut self, at: usize, now: u64) {
        let plan = self.shared.plan;
        if !plan.service.answers() || self.is_idle(at) {
            return;
        }
        let stream = self.number(at);
        loop {
            let connection = &mut self.connections[at];
            let Some(socket) = &connection.socket else { return };
            let due = if plan.churn { 1 } else { connection.owed(now >= self.timeline.end) };
            let until = due.min(connection.received.message + plan.depth as u64);
            if connection.sent.message >= until {
                return;
            }
            self.shared.wire.fill(stream, connection.sent, until, SEND_BYTES, &mut self.send);
            let first = connection.sent.begun();
            let last = self.shared.wire.sent(connection.sent, self.send.len()).begun();
            for message in first..last {
                self.sent_at[at * plan.depth + (message % plan.depth as u64) as usize] = now;
            }
            if first == connection.received.message && !plan.churn {
                connection.alive = now;
            }
            match net::send(socket, &self.send) {
                Ok(sent) => {
                    connection.sent = self.shared.wire.sent(connection.sent, sent);
                    connection.blocked = sent < self.send.len();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => connection.blocked = true,
                Err(error) => return self.fail(at, fault(&error)),
            }
            if self.connections[at].blocked {
                return;
            }
        }
    }

    /// Receives what is there, checks it, and sends what that makes room for. `insist`: the event promised more than
    /// data, so a short read is not the end.
    fn pull(&mut self, at: usize, insist: bool) {
        for _ in 0..RECEIVES_AT_ONCE {
            let Some(socket) = &self.connections[at].socket else { return };
            let count = match net::recv_slice(socket, &mut self.receive) {
                Ok(0) => return self.fail(at, (Cause::ClosedEarly, "the server has closed it".to_owned())),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return self.fail(at, fault(&error)),
            };
            let now = self.timeline.now();
            if let Err(wrong) = self.take(at, count, now) {
                return self.fail(at, (wrong.cause, wrong.detail));
            }
            if self.shared.plan.service == Service::Chargen {
                return;
            }
            if self.shared.plan.churn && self.connections[at].received.message > 0 {
                self.close(at);
                return self.next_generation(at);
            }
            self.push(at, now);
            if count < self.receive.len() && !insist {
                return;
            }
        }
        self.again.push((at, insist));
    }

    /// What has come, checked and counted.
    fn take(&mut self, at: usize, count: usize, now: u64) -> Result<(), Box<Mismatch>> {
        let plan = self.shared.plan;
        let came = &self.receive[..count];
        if self.is_idle(at) || plan.service == Service::Discard {
            let detail = format!("{count} bytes, and the first is {:#04x}", came[0]);
            return Err(Box::new(Mismatch { cause: Cause::Unasked, detail }));
        }
        let stream = self.number(at);
        let connection = &mut self.connections[at];
        connection.alive = if plan.churn { connection.alive } else { now };
        if plan.service == Service::Chargen {
            self.shared.wire.check_chargen(&mut connection.received.offset, came)?;
            self.tally.recorder.moved(now, count);
            return Ok(());
        }
        let first = connection.received.message;
        self.shared.wire.check(stream, &mut connection.received, came)?;
        if connection.received.message > connection.sent.message {
            let detail = "an answer came before its message was sent".to_owned();
            return Err(Box::new(Mismatch { cause: Cause::Unasked, detail }));
        }
        for message in first..connection.received.message {
            let sent = match plan.churn {
                true => connection.alive,
                false => self.sent_at[at * plan.depth + (message % plan.depth as u64) as usize],
            };
            let intended = self.schedule.as_ref().map_or(sent, |schedule| schedule.intended(at, message));
            self.tally.recorder.answered(now, intended, sent, plan.size);
            connection.mean.messages += 1;
            connection.mean.nanoseconds += now.saturating_sub(intended);
        }
        self.answers += connection.received.message - first;
        Ok(())
    }

    /// Sends as much as the socket takes, of bytes that mean nothing.
    fn upload(&mut self, at: usize) {
        let now = self.timeline.now();
        let connection = &mut self.connections[at];
        let Some(socket) = &connection.socket else { return };
        if now >= self.timeline.end {
            return self.close(at);
        }
        match net::send(socket, self.shared.wire.upload()) {
            Ok(sent) => {
                connection.alive = now;
                self.tally.recorder.moved(now, sent);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.fail(at, fault(&error)),
        }
    }

    /// Gives up who has waited longer than is asked for.
    fn end_the_silent(&mut self, now: u64) {
        let patience = self.shared.plan.patience.as_nanos() as u64;
        for at in 0..self.connections.len() {
            let connection = &self.connections[at];
            if now.saturating_sub(connection.alive) < patience {
                continue;
            }
            let owes = match self.shared.plan.service {
                Service::Chargen | Service::Discard => self.running && !self.is_idle(at),
                _ => connection.received.message < connection.sent.begun(),
            };
            match connection.phase {
                Phase::Connecting => {
                    self.fail(at, (Cause::ConnectTimedOut, format!("no answer in {}", seconds(patience))))
                }
                Phase::Open if owes => {
                    let message = connection.received.message;
                    let what = match self.shared.plan.service {
                        Service::Discard => format!("nothing was read in {}", seconds(patience)),
                        Service::Chargen => format!("nothing came in {}", seconds(patience)),
                        _ => format!("nothing came for message {message} in {}", seconds(patience)),
                    };
                    self.fail(at, (Cause::NoAnswer, what));
                }
                _ => {}
            }
        }
    }

    /// Whether nothing more is to come.
    fn is_over(&self, now: u64) -> bool {
        let plan = self.shared.plan;
        let ended = now >= self.timeline.end;
        // An open loop that is to send a number of messages has those that its schedule still holds.
        let busy = &self.connections[..self.share.connections];
        let scheduled = !ended && self.schedule.as_ref().is_some_and(|schedule| schedule.next_at() != u64::MAX);
        if scheduled && busy.iter().any(|connection| connection.phase != Phase::Closed) {
            return false;
        }
        !busy.iter().any(|connection| match connection.phase {
            Phase::Closed => false,
            _ if plan.churn => !ended || connection.socket.is_some(),
            _ if !plan.service.answers() => !ended,
            _ => connection.received.message < connection.owed(ended),
        })
    }

    /// Counts what never came.
    fn finish(mut self) -> Tally {
        let now = self.timeline.now();
        for at in 0..self.share.connections {
            let connection = &self.connections[at];
            self.tally.means.push(connection.mean);
            if self.shared.plan.churn || !self.shared.plan.service.answers() {
                continue;
            }
            let owed = connection.owed(now >= self.timeline.end || connection.due == u64::MAX);
            let lost = connection.received.message..owed;
            self.tally.failures.messages_lost += lost.end.saturating_sub(lost.start);
            if let Some(schedule) = &self.schedule {
                lost.for_each(|message| self.tally.recorder.never_answered(now, schedule.intended(at, message)));
            }
        }
        self.tally
    }
}

impl Connection {
    /// Messages that the server has to answer in all; in a closed loop that has ended, those that were begun.
    fn owed(&self, ended: bool) -> u64 {
        if ended && self.due == u64::MAX { self.sent.begun() } else { self.due }
    }
}

fn fault(error: &std::io::Error) -> Fault {
    (Cause::of(error), reason(error))
}

fn seconds(nanoseconds: u64) -> String {
    format!("{} s", Duration::from_nanos(nanoseconds).as_secs_f64())
}
