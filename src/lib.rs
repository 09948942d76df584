//! eagain: serve, measure, prove — on raw Linux epoll.
#![deny(unsafe_code)]

pub mod buffer;
mod client;
mod connection;
pub mod deadline;
mod edge;
mod exchange;
mod level;
pub mod limits;
mod listener;
mod mailbox;
mod metrics;
mod server;
pub mod service;
pub mod slab;
#[allow(unsafe_code)]
pub mod sys;
mod trace;
mod worker;

pub use buffer::{Input, Output};
pub use client::{Client, ConnectionId, Peer};
pub use listener::{Address, Error as ListenError, Listener, somaxconn};
pub use mailbox::SendError;
pub use metrics::Counters;
pub use server::{Config, Error as ServerError, Handle, Server, Trigger};
pub use service::{End, Next, Service};
pub use trace::{Silent, Trace};
pub use worker::Error as WorkerError;
