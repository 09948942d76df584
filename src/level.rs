//! The level-triggered discipline: the kernel remembers.
//!
//! A registration is reported by every wait for as long as its condition holds (lab: `lt-repeats-until-drained`). So
//! one `recv` per event is enough, what is left over needs no list of ours, and the interest must be right at all
//! times: an IN that we do not want to serve, or an OUT with nothing to send, is a busy loop. It is told to the kernel
//! when it changes, and for a client that takes its answers it never does.
//!
//! Its mirror image is `edge.rs`: the same names, in the same order.

use crate::connection::{Connection, Stream};
use crate::exchange::Discipline;
use crate::sys::epoll::{Interest, Mode};

/// Level-triggered.
#[derive(Debug)]
pub(crate) struct Level;

impl Discipline for Level {
    const MODE: Mode = Mode::LEVEL;

    const FIRST_INTEREST: Interest = Interest::READ;

    /// The next wait reports a listener again whose queue is not empty (`lt-single-accept-is-fine`).
    const LISTENER_MUST_RETURN: bool = false;

    /// One is enough: if there is more, the next wait says so, after everybody else has had a turn.
    // RULE(lt-repeats-until-drained)
    #[inline]
    fn after_read(connection: &mut Connection<impl Stream>, _asked: usize, _received: usize) {
        connection.may_read = false;
    }

    /// Only a change costs an `epoll_ctl`.
    #[inline]
    fn reinterest(connection: &mut Connection<impl Stream>) -> Option<Interest> {
        let interest = connection.interest();
        if interest == connection.registered {
            return None;
        }
        connection.registered = interest;
        Some(interest)
    }

    /// Never: the kernel brings it back.
    #[inline]
    fn must_return(connection: &Connection<impl Stream>) -> bool {
        debug_assert!(connection.registered == connection.interest());
        false
    }
}
