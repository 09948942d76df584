//! What is to be measured: everything that a run needs to know, and nothing that it finds out.

use std::fmt;
use std::time::Duration;

use crate::address::Address;

/// What the target is expected to do with what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// Sends back what it gets (RFC 862).
    Echo,
    /// Sends back messages of a 4-byte big-endian length and a payload.
    Frames,
    /// Reads and says nothing (RFC 863): an upload.
    Discard,
    /// Says RFC 864's lines as fast as they are read: a download.
    Chargen,
    /// Redis, or what speaks its protocol: `PING payload` is answered by the payload.
    RedisPing,
}

impl Service {
    pub(crate) const ALL: [Self; 5] = [Self::Echo, Self::Frames, Self::Discard, Self::Chargen, Self::RedisPing];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Service::Echo => "echo",
            Service::Frames => "frames",
            Service::Discard => "discard",
            Service::Chargen => "chargen",
            Service::RedisPing => "redis-ping",
        }
    }

    /// Whether a message is answered, so that there is a latency.
    pub(crate) const fn answers(self) -> bool {
        !matches!(self, Service::Discard | Service::Chargen)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// When the next message is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// When an answer has come: a slow server is asked less often, so what is measured is *service time*.
    Closed,
    /// At fixed times, so many messages a second over all connections, whatever the server does. Latency counts from
    /// the time that a message was meant to be sent.
    Open { per_second: f64 },
}

/// When a run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    After(Duration),
    /// When each connection has had so many answers.
    Messages(u64),
}

/// One measurement.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) target: Address,
    /// The target as the user wrote it, or what it is called in a comparison.
    pub(crate) name: String,
    pub(crate) service: Service,
    /// A new connection for each message.
    pub(crate) churn: bool,
    /// 1 to 1,000,000; with churn so many at a time.
    pub(crate) connections: usize,
    /// Connections besides that do nothing.
    pub(crate) idle: usize,
    /// Messages that each connection may have on their way: at least 1.
    pub(crate) depth: usize,
    /// Bytes of a message's payload: at least 1.
    pub(crate) size: usize,
    /// At least 1; never more than there are connections.
    pub(crate) threads: usize,
    pub(crate) pace: Pace,
    pub(crate) stop: Stop,
    /// Time before the measurement in which the load runs and nothing counts. Not with [`Stop::Messages`].
    pub(crate) warm_up: Duration,
    /// How long a server may be silent, to a connection attempt or to a message, before it counts as a failure.
    pub(crate) patience: Duration,
    /// The server's processes, for their CPU time and memory.
    pub(crate) server: Vec<u32>,
}

impl Plan {
    /// A closed loop of 64 connections with 64-byte messages for ten seconds.
    pub(crate) fn new(target: Address, name: String) -> Plan {
        Plan {
            target,
            name,
            service: Service::Echo,
            churn: false,
            connections: 64,
            idle: 0,
            depth: 1,
            size: 64,
            threads: 1,
            pace: Pace::Closed,
            stop: Stop::After(Duration::from_secs(10)),
            warm_up: Duration::from_secs(1),
            patience: Duration::from_secs(10),
            server: Vec::new(),
        }
    }

    /// `closed`, `open` or, where nothing is answered, `stream`.
    pub(crate) fn mode(&self) -> &'static str {
        match self.pace {
            _ if self.churn => "churn",
            _ if !self.service.answers() => "stream",
            Pace::Closed => "closed",
            Pace::Open { .. } => "open",
        }
    }
}
