//! Who came and who went: a line each, at level debug. At any other level a connection costs a look at the level.

use std::collections::HashMap;
use std::time::Instant;

use eagain::{Client, ConnectionId, End, Expired, TurnedAway};

use super::quota::Kind;
use super::scribe::Scribe;
use crate::cli::ServiceName;
use crate::say::{self, Event, Level};

/// The connections of one worker that were told.
pub(crate) struct Visits {
    scribe: Scribe,
    /// Here and not in the sessions, which are smaller without it.
    begun: HashMap<ConnectionId, Instant>,
}

impl Visits {
    pub(crate) fn new(scribe: Scribe) -> Self {
        Self { scribe, begun: HashMap::new() }
    }

    #[inline]
    pub(crate) fn open(&mut self, client: &Client, service: ServiceName) {
        if say::is_told(Level::Debug) {
            self.tell_open(*client, service);
        }
    }

    #[inline]
    pub(crate) fn close(&mut self, client: &Client, service: ServiceName, end: End) {
        // Whoever is in the table is taken out, also if the level has changed meanwhile.
        if say::is_told(Level::Debug) || !self.begun.is_empty() {
            self.tell_close(*client, service, end);
        }
    }

    fn tell_open(&mut self, Client { id, peer, .. }: Client, service: ServiceName) {
        self.begun.insert(id, Instant::now());
        self.scribe.tell_some(Kind::Open, || {
            let event = Event::Open { service: service.name(), peer, connection: id };
            (format!("{service}: {peer} connected as {id}"), event)
        });
    }

    fn tell_close(&mut self, Client { id, peer, .. }: Client, service: ServiceName, end: End) {
        // Microseconds are enough.
        let seconds = self.begun.remove(&id).map(|begun| begun.elapsed().as_micros() as f64 / 1e6);
        self.scribe.tell_some(Kind::Close, || {
            let (end, detail) = words(end);
            let after = seconds.map(|seconds| format!(" after {seconds} s")).unwrap_or_default();
            let because = detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
            let message = format!("{service}: {peer} as {id} closed{after}: {end}{because}");
            let event = Event::Close { service: service.name(), peer, connection: id, end, detail, seconds };
            (message, event)
        });
    }
}

/// As the metrics name it; and which error or timeout it was.
fn words(end: End) -> (&'static str, Option<String>) {
    match end {
        End::Finished => ("finished", None),
        End::Lingered => ("lingered", None),
        End::Broken(errno) => ("broken", Some(format!("{:?}", nix::errno::Errno::from_raw(errno)))),
        End::Aborted => ("aborted", None),
        End::Stuck => ("stuck", None),
        End::TooSlow => ("too_slow", None),
        End::TimedOut(expired) => ("timed_out", Some(option(expired).to_owned())),
        End::OverBuffered => ("over_buffered", None),
        End::Closed => ("closed", None),
        End::Stopped => ("stopped", None),
        End::Moved => ("moved", None),
    }
}

/// Which option has set it.
const fn option(expired: Expired) -> &'static str {
    match expired {
        Expired::Idle => "idle-timeout",
        Expired::FirstByte => "first-byte-timeout",
        Expired::WriteStall => "write-timeout",
        Expired::Message => "frame-timeout",
    }
}

/// The option that is against it, and what to say to people.
pub(crate) const fn reason(why: TurnedAway) -> (&'static str, &'static str) {
    match why {
        TurnedAway::Denied => ("denied", "its address may not connect"),
        TurnedAway::Connections => ("max-connections", "--max-connections is reached"),
        TurnedAway::PerIp => ("max-connections-per-ip", "--max-connections-per-ip is reached"),
        TurnedAway::Rate => ("accept-rate", "--accept-rate is exceeded"),
        TurnedAway::Buffered => ("max-buffered", "--max-buffered is reached"),
    }
}
