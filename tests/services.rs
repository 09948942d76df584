//! Every service of `eagain serve`, met by clients through sockets, under both disciplines, with
//! one worker and two.
#![cfg(feature = "cli")]

mod common;

#[path = "services/chargen.rs"]
mod chargen;
#[path = "services/crowd.rs"]
mod crowd;
#[path = "services/delay.rs"]
mod delay;
#[path = "services/discard.rs"]
mod discard;
#[path = "services/echo.rs"]
mod echo;
#[path = "services/listeners.rs"]
mod listeners;
#[path = "services/log.rs"]
mod log;
