//! The edge-triggered discipline: we remember.
//!
//! A registration is reported when something happens, not while something is so (lab: `et-reports-once`). So it is made
//! once, for everything, and never changed; a `recv` is followed by another until the kernel has no more; and a
//! connection that is left before that, because its budget is spent or its client is held back, is ours to come back
//! to: no event will remind us (`et-partial-read-stalls`). That is what the run queue is for.
//!
//! Its mirror image is `level.rs`: the same names, in the same order.

use crate::connection::{Connection, Stream};
use crate::exchange::Discipline;
use crate::sys::epoll::{Interest, Mode};

/// Edge-triggered.
#[derive(Debug)]
pub(crate) struct Edge;

impl Discipline for Edge {
    const MODE: Mode = Mode::EDGE;

    /// Everything, once. RDHUP and PRI are no reasons to act, but to read on after a short read.
    const FIRST_INTEREST: Interest =
        Interest::READ.union(Interest::WRITE).union(Interest::READ_CLOSED).union(Interest::PRIORITY);

    /// No event comes for connections that are in the queue already.
    // RULE(et-single-accept-strands)
    const LISTENER_MUST_RETURN: bool = true;

    /// A short read of a stream is EAGAIN said earlier: the next byte is a new edge (`et-drain-then-edge`). Not so if
    /// the event promised more than data: then the end of the stream, or what lies behind an urgent byte, is there
    /// already, and only a `recv` tells. Nor with Unix sockets, where a `recv` also stops behind bytes that came with
    /// descriptors.
    // RULE(et-partial-read-stalls)
    // RULE(et-short-read-hides-eof)
    #[inline]
    fn after_read(connection: &mut Connection<impl Stream>, asked: usize, received: usize) {
        if received < asked && connection.short_is_all && !connection.insist {
            connection.may_read = false;
        }
    }

    /// Never: what the connection wants is our business, not the kernel's.
    #[inline]
    fn reinterest(_connection: &mut Connection<impl Stream>) -> Option<Interest> {
        None
    }

    /// If it can go on without the kernel's help: there will be no event.
    // RULE(et-event-cache-needs-no-read)
    #[inline]
    fn must_return(connection: &Connection<impl Stream>) -> bool {
        connection.can_progress()
    }
}
