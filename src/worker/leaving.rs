//! The way out: draining, handing over to another process, stopping.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use super::{KEY_STOP, KEY_SWEEP, State, Worker};
use crate::exchange::Discipline;
use crate::limits::DRAIN_QUIET_MS;
use crate::parcel::Parcel;
use crate::service::{End, Service};
use crate::slab::Token;
use crate::trace::Trace;

impl<S: Service, D: Discipline, T: Trace> Worker<S, D, T> {
    /// Accepts nobody any more, and lets those that are there finish: each is ended when it has fallen silent with
    /// nothing due. Clients that the kernel had accepted for us already are served too. If there are parcels to send,
    /// whoever can be packed goes that way instead.
    pub(super) fn drain(&mut self, until: Instant, parcels: Option<Sender<Vec<Parcel>>>) {
        if self.state != State::Serving {
            return;
        }
        // From here on nothing is handed on: the counters tell what comes out of the queues.
        let now = self.turn.now;
        self.state = State::Draining { firm: now + until.saturating_duration_since(now) / 2 };
        for index in 0..self.doors.len() {
            let Some(door) = &self.doors[index] else { continue };
            if parcels.is_some() {
                // The next process listens there.
                door.keep_name();
            } else if door.stays_while_draining() {
                continue;
            }
            self.shut_door(index);
        }
        self.parcels = parcels;
        self.deadlines.set(KEY_STOP, until);
        self.sweep();
    }

    /// Ends the connections that have been silent since the last sweep.
    pub(super) fn sweep(&mut self) {
        let State::Draining { firm } = self.state else { return };
        let firm = self.turn.now >= firm;
        self.pack_all();
        let everyone: Vec<Token> = self.members.tokens().collect();
        // Clients of listeners that stay are served to the end, and not waited for.
        let mut staying = 0;
        for token in everyone {
            let Some(member) = self.members.get_mut(token) else { continue };
            if matches!(self.doors.get(usize::from(member.connection.listener)), Some(Some(_))) {
                staying += 1;
                continue;
            }
            if member.connection.may_end(firm) {
                self.with(token, |turn, member| {
                    turn.finish(member);
                    turn.drive::<D>(member)
                });
            }
        }
        // A connection that another worker has handed on may still be in the mailbox.
        self.mailbox().set_drained(self.members.len() == staying);
        // Whoever watches the server is answered by every worker as long as any of them has clients.
        let closed = self.doors.iter().all(Option::is_none);
        let done = if closed { self.mailbox().is_drained() } else { self.all_drained() };
        if done && self.mailbox().end_if_empty() {
            self.stop();
        } else {
            let soon = self.turn.now + Duration::from_millis(DRAIN_QUIET_MS);
            self.deadlines.set(KEY_SWEEP, soon);
        }
    }

    fn all_drained(&self) -> bool {
        self.mailboxes.iter().all(|mailbox| mailbox.is_drained())
    }

    /// Sends away whoever can go, if there is a way.
    fn pack_all(&mut self) {
        let Some(way) = self.parcels.clone() else { return };
        let everyone: Vec<Token> = self.members.tokens().collect();
        let parcels: Vec<Parcel> = everyone.iter().filter_map(|&token| self.pack(token)).collect();
        // All those wait until this process has ended: not for a watcher that keeps its connection open.
        for token in everyone {
            if self.members.get(token).is_some_and(|m| m.connection.watches && m.connection.output.is_none()) {
                self.close(token, End::Stopped);
            }
        }
        if !parcels.is_empty() {
            // Nobody takes them only if the other side has gone; then they are closed, as all else.
            let _ = way.send(parcels);
        }
    }

    fn pack(&mut self, token: Token) -> Option<Parcel> {
        let session = self.turn.service.pack(&self.members.get(token)?.session, self.turn.now)?;
        let member = self.remove(token, End::Moved)?;
        Some(Parcel::new(member.connection, member.peer, session, self.turn.tick))
    }

    /// Ends everything now.
    pub(super) fn stop(&mut self) {
        let everyone: Vec<Token> = self.members.tokens().collect();
        for token in everyone {
            self.close(token, End::Stopped);
        }
        self.state = State::Stopped;
    }
}
