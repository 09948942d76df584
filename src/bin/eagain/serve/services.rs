//! All services as one: a worker serves every listener, and each connection has the service of the one it came by.

use std::io;
use std::time::{Duration, Instant};

use eagain::service::{Chargen, Delay, Delayed, Discard, Echo, FrameError, Frames, Log, LogLine};
use eagain::{Client, End, Handle, Input, Next, Output, Peer, Service, TurnedAway};

use super::exposition::Exposition;
use super::listening::Names;
use super::metrics::{Conversation, Endpoint};
use super::quota::Kind;
use super::scribe::Scribe;
use super::visits::{self, Visits};
use crate::cli::ServiceName;
use crate::say::{self, Event};

/// What the workers make their services of.
pub(crate) struct Setting {
    /// The service of each listener.
    pub(crate) names: Names,
    pub(crate) max_frame: u32,
    pub(crate) delay: Duration,
    /// Start of the process, in seconds since 1970.
    pub(crate) started: Option<f64>,
}

/// A shortage is over when nothing was missing for so long; until then it is told once.
const QUIET: Duration = Duration::from_secs(10);

type Tell = Box<dyn FnMut(LogLine<'_>) -> bool>;

/// Every service there is.
pub(crate) struct Any {
    /// As they were when a client of a listener came that was new.
    known: Vec<ServiceName>,
    names: Names,
    scribe: Scribe,
    visits: Visits,
    frames: Frames,
    delay: Delay,
    log: Log<Tell>,
    /// When there was nothing left to accept with, last.
    exhausted: Option<Instant>,
    /// Where a server with counters serves them.
    metrics: Option<Endpoint>,
}

/// What one of them remembers of a connection.
pub(crate) enum Session {
    Echo,
    Discard,
    Chargen(u8),
    Frames(Result<(), FrameError>),
    Log,
    Delay(Box<Delayed>),
    Metrics(Conversation),
}

impl Any {
    pub(crate) fn new(setting: &Setting, scribe: Scribe, handle: Option<&Handle>) -> Self {
        let log = scribe.clone();
        let tell: Tell = Box::new(move |line| show(&log, line));
        Self {
            known: setting.names.all(),
            names: setting.names.clone(),
            visits: Visits::new(scribe.clone()),
            scribe,
            frames: Frames::new(setting.max_frame),
            delay: Delay::new(setting.delay),
            log: Log::new(tell),
            exhausted: None,
            metrics: handle
                .map(|handle| Endpoint::new(Exposition::new(handle.clone(), setting.names.clone(), setting.started))),
        }
    }
}

impl Any {
    fn name(&mut self, listener: usize) -> ServiceName {
        if listener >= self.known.len() {
            self.known = self.names.all();
        }
        self.known[listener]
    }

    /// The service, and what it packs.
    fn pack_inner(&self, session: &Session, now: Instant) -> Option<(ServiceName, Vec<u8>)> {
        Some(match session {
            Session::Echo => (ServiceName::Echo, Echo.pack(&(), now)?),
            Session::Discard => (ServiceName::Discard, Discard.pack(&(), now)?),
            Session::Chargen(line) => (ServiceName::Chargen, Chargen.pack(line, now)?),
            Session::Frames(verdict) => (ServiceName::Frames, self.frames.pack(verdict, now)?),
            Session::Log => (ServiceName::Log, self.log.pack(&(), now)?),
            Session::Delay(delayed) => (ServiceName::Delay, self.delay.pack(delayed, now)?),
            // A page is short, and whoever reads it asks again.
            Session::Metrics(_) => return None,
        })
    }
}

/// What the log service is for.
fn show(scribe: &Scribe, line: LogLine<'_>) -> bool {
    let event = |peer, what, bytes| Event::Log { peer, what, bytes };
    let text = format_args!("log: {line}");
    match line {
        LogLine::Received(peer, bytes) => scribe.show_input(text, event(peer, "received", Some(bytes.len()))),
        LogLine::Connected(peer) => {
            scribe.show(text, event(peer, "connected", None));
            true
        }
        LogLine::Offline(peer, _) => {
            scribe.show(text, event(peer, "offline", None));
            true
        }
    }
}

/// Calls the service of the session with these arguments.
macro_rules! each {
    ($any:expr, $session:expr, $method:ident, $($argument:expr),*) => {
        match $session {
            Session::Echo => Echo.$method(&mut (), $($argument),*),
            Session::Discard => Discard.$method(&mut (), $($argument),*),
            Session::Chargen(line) => Chargen.$method(line, $($argument),*),
            Session::Frames(verdict) => $any.frames.$method(verdict, $($argument),*),
            Session::Log => $any.log.$method(&mut (), $($argument),*),
            Session::Delay(delayed) => $any.delay.$method(delayed, $($argument),*),
            Session::Metrics(conversation) => match &mut $any.metrics {
                Some(metrics) => metrics.$method(conversation, $($argument),*),
                None => Next::Abort,
            },
        }
    };
}

impl Service for Any {
    type Session = Session;

    fn open(&mut self, client: &Client) -> Session {
        let name = self.name(client.listener);
        self.visits.open(client, name);
        match name {
            ServiceName::Echo => Session::Echo,
            ServiceName::Discard => Session::Discard,
            ServiceName::Chargen => Session::Chargen(Chargen.open(client)),
            ServiceName::Frames => Session::Frames(self.frames.open(client)),
            ServiceName::Log => {
                self.log.open(client);
                Session::Log
            }
            ServiceName::Delay => Session::Delay(self.delay.open(client)),
            ServiceName::Metrics => Session::Metrics(Conversation::default()),
        }
    }

    #[inline]
    fn data(&mut self, session: &mut Session, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        let next = each!(self, session, data, input, output);
        if let (Next::Finish, Session::Frames(Err(why))) = (next, &*session) {
            let peer = output.client().peer;
            self.scribe.tell_some(Kind::Frame, || {
                (format!("frames: closing {peer}: {why}"), Event::Frame { peer, reason: why.to_string() })
            });
        }
        next
    }

    #[inline]
    fn room(&mut self, session: &mut Session, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        each!(self, session, room, input, output)
    }

    fn timer(&mut self, session: &mut Session, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        each!(self, session, timer, input, output)
    }

    fn eof(&mut self, session: &mut Session, input: &mut Input<'_>, output: &mut Output<'_>) -> Next {
        each!(self, session, eof, input, output)
    }

    fn close(&mut self, session: Session, client: &Client, end: End) {
        if let Session::Log = session {
            self.log.close((), client, end);
        }
        let name = self.name(client.listener);
        self.visits.close(client, name, end);
    }

    fn turned_away(&mut self, listener: usize, peer: &Peer, why: TurnedAway) {
        let (service, peer) = (self.name(listener), *peer);
        self.scribe.tell_some(Kind::TurnedAway, || {
            let (reason, text) = visits::reason(why);
            let event = Event::TurnedAway { service: service.name(), peer, reason };
            (format!("{service}: not letting {peer} in: {text}"), event)
        });
    }

    /// The name of the service and a line feed, before what it packs.
    fn pack(&self, session: &Session, now: Instant) -> Option<Vec<u8>> {
        let (name, packed) = self.pack_inner(session, now)?;
        Some([format!("{name}\n").into_bytes(), packed].concat())
    }

    fn unpack(&mut self, client: &Client, packed: &[u8], now: Instant) -> Option<Session> {
        let name = self.name(client.listener);
        let packed = packed.strip_prefix(format!("{name}\n").as_bytes())?;
        let session = match name {
            ServiceName::Echo => Echo.unpack(client, packed, now).map(|()| Session::Echo)?,
            ServiceName::Discard => Discard.unpack(client, packed, now).map(|()| Session::Discard)?,
            ServiceName::Chargen => Session::Chargen(Chargen.unpack(client, packed, now)?),
            ServiceName::Frames => Session::Frames(self.frames.unpack(client, packed, now)?),
            ServiceName::Log => self.log.unpack(client, packed, now).map(|()| Session::Log)?,
            ServiceName::Delay => Session::Delay(self.delay.unpack(client, packed, now)?),
            ServiceName::Metrics => return None,
        };
        self.visits.open(client, name);
        Some(session)
    }

    fn exhausted(&mut self, _: usize, errno: i32) {
        let now = Instant::now();
        if self.exhausted.is_none_or(|told| now - told >= QUIET) {
            self.scribe.tell_some(Kind::Shortage, || {
                let reason = say::reason(&io::Error::from_raw_os_error(errno));
                (format!("clients have to wait: {reason}; trying again"), Event::Shortage { reason })
            });
        }
        self.exhausted = Some(now);
    }

    fn input_limit(&self, session: &Session) -> usize {
        match session {
            Session::Frames(verdict) => self.frames.input_limit(verdict),
            Session::Delay(delayed) => self.delay.input_limit(delayed),
            Session::Metrics(conversation) => {
                self.metrics.as_ref().map_or(1, |metrics| metrics.input_limit(conversation))
            }
            _ => eagain::limits::INPUT_LIMIT_BYTES,
        }
    }
}
