//! The experiments, a file for each group, in the order in which they are to be read.
//!
//! Each is an entry of a list: what is claimed, who says so, why it matters, and a function that performs it. The
//! vocabulary of these functions is in [`super::stage`].

mod accept;
mod descriptors;
mod lifetime;
mod matrix;
mod nesting;
mod registration;
mod select_poll;
mod server_bugs;
mod sockets;
mod timing;
mod trigger;
mod wakeups;

use super::experiment::Group;

pub(crate) static ALL: &[&Group] = &[
    &trigger::GROUP,
    &registration::GROUP,
    &lifetime::GROUP,
    &wakeups::GROUP,
    &nesting::GROUP,
    &sockets::GROUP,
    &descriptors::GROUP,
    &timing::GROUP,
    &accept::GROUP,
    &select_poll::GROUP,
    &server_bugs::GROUP,
];

/// What every file of experiments uses.
mod prelude {
    pub(super) use nix::errno::Errno::*;

    pub(super) use crate::lab::experiment::{Experiment, Group, fake, fake_wait, with, without};
    pub(super) use crate::lab::stage::masks::*;
    pub(super) use crate::lab::stage::{
        Answer, Ep, File, Lie, Mask, Seen, Stage, Thread, bare_wait, cost_ns, ctl_by_number, poll_now,
    };
    pub(super) use crate::lab::verdict::Outcome;
}
