//! What the port needs of the kernel, by the names that its files use. `tests.rs` compiles the same files with a
//! kernel of its own under these names, and with the locks of a scheduler in place of [`super::sync`].

use std::time::Instant;

pub(super) use nix::sys::{eventfd, timerfd};
pub(super) use socket2::Socket;

pub(super) use crate::sys::{epoll, net};

pub(super) fn now() -> Instant {
    Instant::now()
}
