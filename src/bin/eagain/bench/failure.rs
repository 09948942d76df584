//! What went wrong, counted by cause. Nothing that fails is left out of the sum.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;

/// Why a connection has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cause {
    /// ECONNREFUSED, or no socket there: nobody listens.
    Refused,
    /// The connection was not established in time.
    ConnectTimedOut,
    /// No way to the target, or it is forbidden.
    Unreachable,
    /// EADDRNOTAVAIL: every port of this source address is in use or in TIME_WAIT.
    PortsExhausted,
    /// EMFILE or ENFILE.
    DescriptorsExhausted,
    /// ECONNRESET or EPIPE.
    Reset,
    /// The server ended the connection while an answer was due.
    ClosedEarly,
    /// Bytes that are not what was sent.
    Corrupted,
    /// A later message came: those between were lost, or overtaken.
    OutOfOrder,
    /// A message came again.
    Duplicated,
    /// Something came that nobody had asked for.
    Unasked,
    /// No byte of a due answer in time.
    NoAnswer,
    /// Any other errno.
    Other,
}

impl Cause {
    pub(super) fn of(error: &io::Error) -> Cause {
        match error.raw_os_error() {
            Some(libc::ECONNREFUSED | libc::ENOENT) => Cause::Refused,
            Some(libc::ETIMEDOUT) => Cause::ConnectTimedOut,
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EPERM) => Cause::Unreachable,
            Some(libc::EADDRNOTAVAIL | libc::EADDRINUSE) => Cause::PortsExhausted,
            Some(libc::EMFILE | libc::ENFILE) => Cause::DescriptorsExhausted,
            Some(libc::ECONNRESET | libc::EPIPE) => Cause::Reset,
            _ => Cause::Other,
        }
    }

    /// Of one connection, as in "3 connections: …".
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Cause::Refused => "refused: nobody listens there",
            Cause::ConnectTimedOut => "not established in time",
            Cause::Unreachable => "no way to the target",
            Cause::PortsExhausted => "no free port: all are in use or in TIME_WAIT",
            Cause::DescriptorsExhausted => "no free descriptor",
            Cause::Reset => "reset by the server",
            Cause::ClosedEarly => "closed by the server before its answer was complete",
            Cause::Corrupted => "answered with other bytes",
            Cause::OutOfOrder => "an answer lost or out of order",
            Cause::Duplicated => "an answer came twice",
            Cause::Unasked => "answered without being asked",
            Cause::NoAnswer => "not answered in time",
            Cause::Other => "failed",
        }
    }

    /// Whether another attempt would only fail in the same way.
    pub(super) const fn is_lasting(self) -> bool {
        matches!(self, Cause::Refused | Cause::Unreachable | Cause::PortsExhausted | Cause::DescriptorsExhausted)
    }
}

/// All failures of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Failures {
    /// Connections that failed.
    pub(crate) total: u64,
    /// Messages that were due and never answered.
    pub(crate) messages_lost: u64,
    pub(crate) by_cause: BTreeMap<Cause, u64>,
    /// What the first of each cause was, in words.
    pub(crate) first: BTreeMap<Cause, String>,
}

impl Failures {
    pub(super) fn add(&mut self, cause: Cause, detail: String) {
        self.total += 1;
        *self.by_cause.entry(cause).or_default() += 1;
        self.first.entry(cause).or_insert(detail);
    }

    pub(super) fn merge(&mut self, other: &Failures) {
        self.total += other.total;
        self.messages_lost += other.messages_lost;
        for (cause, count) in &other.by_cause {
            *self.by_cause.entry(*cause).or_default() += count;
        }
        for (cause, detail) in &other.first {
            self.first.entry(*cause).or_insert_with(|| detail.clone());
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.total == 0 && self.messages_lost == 0
    }
}
